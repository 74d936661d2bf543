"""Which way mirrored packets take to a sensor in another VPC: the source subnet's route table.

One row for each rule of the contract. The source is in 10.0.0.0/16, the sensor at 10.9.0.12 in
10.9.0.0/16 of another VPC.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
from aws import route
from calls import ROUTES
from conftest import Scene, error_of, missing

from lambda_traffic_mirror import (
    Configuration,
    Face,
    Finding,
    Interface,
    RouteTable,
    Says,
    Sensor,
    Source,
    Unreadable,
    route_leads,
)

Routes = list[dict[str, Any]]

FAR = "10.9.0.0/16"
CONFIGURATION = Configuration.from_environment({"filter_id": "tmf-1", "targets": "tmt-1"})
YES, BEHIND, NO = Says.PASSES, Says.BEHIND, Says.REJECTS


def finding_on(routes: Routes, vpc: str = "vpc-2") -> Finding:
    """What the stage says of a sensor where the source's subnet has these routes."""
    table = RouteTable.of({"RouteTableId": "rtb-1", "Associations": [], "Routes": routes})
    source = Interface("eni-1", vpc_id="vpc-1", address="10.0.5.11")
    sensor = Interface("eni-2", vpc_id=vpc, address="10.9.0.12")
    face = Face(Sensor("tmt-1", None, False, False, 0), sensor)
    return route_leads(Source(source, "i-1", {}, route_table=table), face, CONFIGURATION)


LOCAL = route("10.0.0.0/16", local=True)
ORIGINS = {"propagated": "EnableVgwRoutePropagation", "advertised": "Advertisement"}


def routes_of(text: str) -> Routes:
    """Routes as DescribeRouteTables shows them: `10.9.0.0/16 pcx, any tgw blackhole`.

    Each has a block (`far`: the sensor's VPC; `any`: 0.0.0.0/0) or a prefix list, the word of its
    next hop, with `=` its ID, and after that a state, or where it comes from.
    """
    found = []
    for one in filter(None, text.split(", ")):
        block, next_hop, *more = one.split()
        (word, given, to), shown = next_hop.partition("="), {"far": FAR, "any": "0.0.0.0/0"}
        made = route(shown.get(block, block), **{word: to if given else True})
        for name in more:
            made |= {"Origin": ORIGINS[name]} if name in ORIGINS else {"State": name}
        found.append(made)
    return found


# Routes besides the VPC's own, what becomes of the sensor, and what its reason names. Whatever
# the order in which AWS shows the routes.
TABLES: dict[str, tuple[str, Says, str]] = {
    "no route": ("", NO, "No route"),
    "to another block": ("10.8.0.0/16 pcx", NO, "No route"),
    "IPv6 does not count": ("::/0 pcx", NO, "No route"),
    # where the next hop leads
    "a peering connection": ("far pcx", YES, "peering connection pcx-"),
    "a transit gateway": ("far tgw", YES, "transit gateway tgw-"),
    "a VPC endpoint": ("far vpce", YES, "VPC endpoint vpce-"),
    "an interface": ("far eni", YES, "interface eni-"),
    "an instance": ("far instance", YES, "instance i-"),
    "what lies beyond is not checked": ("far tgw", YES, "not checked"),
    "a virtual private gateway": ("far vgw", BEHIND, "virtual private gateway vgw-"),
    "a local gateway": ("far lgw", BEHIND, "local gateway lgw-"),
    "Cloud WAN": ("far core_network", BEHIND, "Cloud WAN core network"),
    "a gateway of another kind": ("far vgw=odd-1", BEHIND, "gateway odd-1"),
    "an unknown next hop": ("far vgw=", BEHIND, "unknown next hop"),
    "an internet gateway": ("any igw", NO, "internet gateway igw-"),
    "a NAT gateway": ("any nat", NO, "NAT gateway nat-"),
    "a carrier gateway": ("far cagw", NO, "carrier gateway"),
    "an egress-only gateway": ("far eigw", NO, "egress-only internet gateway"),
    "the VPC itself": ("10.9.0.0/24 local", NO, "the VPC itself"),
    "a blackhole": ("far pcx blackhole", NO, "state blackhole"),
    "a filtered route does not count": ("far pcx filtered", NO, "No route"),
    # which route wins
    "the longest prefix wins: it leads": ("any igw, far tgw", YES, f"to {FAR}"),
    "the longest prefix wins: it is dead": ("10.0.0.0/8 tgw, far pcx blackhole", NO, "blackhole"),
    "the longest prefix wins, though it is propagated": (
        "10.9.0.0/17 vgw propagated, far pcx",
        BEHIND,
        "virtual private gateway",
    ),
    "of equal ones the static route wins: it leads": (
        "far vgw propagated, far pcx",
        YES,
        "peering",
    ),
    "of equal ones the static route wins: it is dead": (
        "far eni advertised, far pcx blackhole",
        NO,
        "blackhole",
    ),
    "of equal ones the VPC's own wins": ("far local, far tgw propagated", NO, "the VPC itself"),
    "of equal ones, none static, they disagree": (
        "far vgw propagated blackhole, far tgw advertised",
        BEHIND,
        "disagree",
    ),
    "of equal ones, none static, they agree": (
        "far pcx advertised, far tgw propagated",
        YES,
        "transit gateway",
    ),
    # prefix lists, which are not looked into
    "a prefix list of a service does not count": ("pl-1 vpce", NO, "No route"),
    "a prefix list of VPC Lattice and an internet gateway": (
        "pl-1 vgw=VpcLattice, any igw",
        NO,
        "internet gateway",
    ),
    "a prefix list by a NAT gateway and an internet gateway": (
        "pl-1 nat, any igw",
        NO,
        "internet gateway",
    ),
    "a prefix list by a NAT gateway, and no other route": ("pl-1 nat", NO, "No route"),
    "a prefix list that may lead there, and no other route": ("pl-1 tgw", BEHIND, "pl-1"),
    "a prefix list that may lead astray, beside a way": ("pl-1 nat, far pcx", BEHIND, "pl-1"),
    "a prefix list and a route that both lead": ("pl-1 tgw, far pcx", YES, "pcx-"),
    "a prefix list by an unlisted way, beside a way": ("pl-1 vgw, far pcx", BEHIND, "pl-1"),
    "a prefix list of a service, beside a way": ("pl-1 vpce, far tgw", YES, f"to {FAR}"),
}


@pytest.mark.parametrize(("routes", "became", "words"), TABLES.values(), ids=TABLES.keys())
def test_the_route_decides(routes: str, became: Says, words: str) -> None:
    for order in permutations([LOCAL, *routes_of(routes)]):
        finding = finding_on(list(order))
        assert (finding.says, missing(str(finding), words, "rtb-1")) == (became, [])


def test_an_instance_as_next_hop_is_shown_along_with_its_interface() -> None:
    (hop,) = routes_of("far eni")
    assert "interface eni-" in str(finding_on([LOCAL, hop | {"InstanceId": "i-1"}]))


def test_routes_within_one_vpc_are_not_checked() -> None:
    assert finding_on([], vpc="vpc-1").says is YES


WRONG: dict[str, dict[str, Any]] = {
    "a block that is none": {"DestinationCidrBlock": "10.0.0.0/99"},
    "no destination": {"DestinationCidrBlock": None},
    "no state": {"State": None},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_route_that_cannot_be_read_is_a_missing_answer(wrong: dict[str, Any]) -> None:
    with pytest.raises(Unreadable):
        finding_on([LOCAL, route(FAR, pcx=True) | wrong])


# --- What EC2 shows, from end to end

warm = pytest.mark.usefixtures("shared_client")


def far_sensor(scene: Scene, **more: Any) -> str:
    return scene.sensor(scene.subnet("a", vpc=scene.vpc(FAR)), **more)


@warm
def test_a_table_of_the_subnet_goes_before_the_main_one(scene: Scene) -> None:
    scene.configure(far_sensor(scene))
    subnet = scene.subnet("a")
    scene.route_table(None, [], main=True)
    scene.route_table(None, [route(FAR, pcx=True)], subnets=[subnet])
    assert scene.run(scene.instance(subnet)).stages == ["(selected)"]
    assert scene.run(scene.instance(scene.subnet("a"))).stages == ["route"]


# What AWS shows instead of the routes, and what the sensor's reason then says.
NOT_KNOWN: dict[str, tuple[Callable[[Scene], object], str]] = {
    "no table": (lambda a: a.show(ROUTES, lambda found: found["RouteTables"].clear()), "vpc-"),
    "denied": (lambda a: a.deny(f"ec2:{ROUTES}"), f"ec2:{ROUTES}"),
}


@warm
@pytest.mark.parametrize(("change", "words"), NOT_KNOWN.values(), ids=NOT_KNOWN.keys())
def test_where_routes_cannot_be_seen_the_sensor_passes_and_is_not_ranked_behind(
    scene: Scene, change: Callable[[Scene], object], words: str
) -> None:
    sensor, loaded = far_sensor(scene), scene.sensor(sessions=5)
    scene.configure([sensor, loaded])
    change(scene)
    answer = scene.run(scene.instance())
    assert answer.stages == ["(selected)", "(eligible)"]
    assert missing(answer.sensors[sensor]["reason"], "not known", words) == []


@warm
def test_while_the_routes_are_throttled_the_interface_is_failed(scene: Scene) -> None:
    scene.configure(far_sensor(scene))
    scene.fail(ROUTES)
    assert missing(error_of(scene.instance()), "1 failed", ROUTES) == []


@warm
def test_routes_are_asked_for_once_and_only_where_a_sensor_is_in_another_vpc(scene: Scene) -> None:
    scene.configure(scene.sensor())
    scene.run(scene.instance())
    assert scene.count(ROUTES) == 0
    scene.route_table(None, [route(FAR, pcx=True)], main=True)
    scene.configure([far_sensor(scene) for _ in range(3)], CACHE_SECONDS="60")
    scene.forget_calls()
    scene.run({"instance-ids": scene.instances(5)})
    assert scene.count(ROUTES) == 1
    scene.forget_calls()
    scene.run(scene.instance())
    assert scene.count() == 3
