"""Which way mirrored packets take to a sensor in another VPC: the source subnet's route table.

The source is in 10.0.0.0/16, the sensor in 10.9.0.0/16 of another VPC.
"""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from aws import route, running_event, scheduled_event
from calls import ROUTES
from conftest import Scene, deliver, missing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lambda_traffic_mirror import NextHop, Route, RouteTable

pytestmark = pytest.mark.usefixtures("shared_client")

FAR = "10.9.0.0/16"


def far_sensor(scene: Scene, **more: Any) -> str:
    return scene.sensor(scene.subnet("a", vpc=scene.vpc(FAR)), **more)


# The routes, whether the sensor is taken, and what its reason names.
TABLES: dict[str, tuple[list[dict[str, Any]], bool, str]] = {
    "none but the VPC's own": ([], False, "No route"),
    "to another block": ([route("10.8.0.0/16", pcx=True)], False, "No route"),
    "a peering connection": ([route(FAR, pcx=True)], True, "peering connection pcx-"),
    "a transit gateway": ([route(FAR, tgw=True)], True, "transit gateway tgw-"),
    "a VPC endpoint": ([route(FAR, vpce=True)], True, "VPC endpoint vpce-"),
    "an instance": ([route(FAR, instance=True)], True, "interface eni-"),
    "an interface": ([route(FAR, eni=True)], True, "interface eni-"),
    "a virtual private gateway": ([route(FAR, vgw=True)], True, "ranked last"),
    "a local gateway": ([route(FAR, lgw=True)], True, "ranked last"),
    "Cloud WAN": ([route(FAR, core_network=True)], True, "ranked last"),
    "an internet gateway": ([route("0.0.0.0/0", igw=True)], False, "internet gateway igw-"),
    "a NAT gateway": ([route("0.0.0.0/0", nat=True)], False, "NAT gateway nat-"),
    "a gateway of another kind": ([route(FAR, vgw="odd-1")], True, "gateway odd-1"),
    "the VPC's own, for the address": ([route("10.9.0.0/24", local=True)], False, "the VPC itself"),
    "the static one of two": (
        [route(FAR, vgw=True, propagated=True), route(FAR, pcx=True)],
        True,
        "by peering connection",
    ),
    "a longer one that is propagated": (
        [route("10.9.0.0/17", vgw=True, propagated=True), route(FAR, pcx=True)],
        True,
        "virtual private gateway",
    ),
    "a carrier gateway": ([route(FAR, cagw=True)], False, "carrier gateway"),
    "an egress-only gateway": ([route(FAR, eigw=True)], False, "egress-only internet gateway"),
    "a blackhole": ([route(FAR, pcx=True, state="blackhole")], False, "state blackhole"),
    "a filtered route, and no other": ([route(FAR, pcx=True, state="filtered")], False, "No route"),
    "the longest prefix leads": (
        [route("0.0.0.0/0", igw=True), route(FAR, tgw=True)],
        True,
        f"to {FAR}",
    ),
    "the longest prefix is a blackhole": (
        [route("10.0.0.0/8", tgw=True), route(FAR, pcx=True, state="blackhole")],
        False,
        "blackhole",
    ),
    "IPv6 does not count": ([route("::/0", pcx=True)], False, "No route"),
    "a prefix list of a service": ([route("pl-1", vpce=True)], False, "No route"),
    "a prefix list to somewhere": ([route("pl-1", tgw=True)], True, "pl-1"),
    "a prefix list beside a block": ([route("pl-1", tgw=True), route(FAR, pcx=True)], True, "pl-1"),
}


@pytest.mark.parametrize(("routes", "taken", "words"), TABLES.values(), ids=TABLES.keys())
@pytest.mark.parametrize("main", [True, False], ids=["main table", "the subnet's own"])
def test_the_route_decides(
    scene: Scene, routes: list[dict[str, Any]], taken: bool, words: str, main: bool
) -> None:
    sensor = far_sensor(scene)
    scene.configure(sensor)
    subnet = scene.subnet("a")
    for one in routes:  # an instance as next hop is shown along with its interface
        one.update({"InstanceId": scene.instance()} if "InstanceId" in one else {})
    scene.route_table(None, routes, main=main, subnets=[] if main else [subnet])
    answer = scene.run(scene.instance(subnet))
    assert answer.outcomes == ["created" if taken else "unmirrored"]
    assert answer.stages == ["(selected)" if taken else "route"]
    assert missing(answer.sensors[sensor]["reason"], words) == []


def test_a_table_of_the_subnet_goes_before_the_main_one(scene: Scene) -> None:
    scene.configure(far_sensor(scene))
    subnet = scene.subnet("a")
    scene.route_table(None, [route(FAR, pcx=True)], main=True)
    scene.route_table(None, [], subnets=[subnet])
    assert scene.run(scene.instance(subnet)).stages == ["route"]
    assert scene.run(scene.instance(scene.subnet("a"))).stages == ["(selected)"]


# Routes, and whether a sensor behind them is ranked last.
RANKED: dict[str, tuple[list[dict[str, Any]], bool]] = {
    "a peering connection": ([route(FAR, pcx=True)], False),
    "a virtual private gateway": ([route(FAR, vgw=True)], True),
    "a local gateway": ([route(FAR, lgw=True)], True),
    "Cloud WAN": ([route(FAR, core_network=True)], True),
    "a prefix list to somewhere": ([route("pl-1", tgw=True)], True),
    "a prefix list besides": ([route(FAR, tgw=True), route("pl-1", tgw=True)], True),
    "a prefix list of a service besides": ([route(FAR, tgw=True), route("pl-1", vpce=True)], False),
}


@pytest.mark.parametrize(("routes", "last"), RANKED.values(), ids=RANKED.keys())
def test_what_speaks_against_a_way_ranks_the_sensor_last(
    scene: Scene, routes: list[dict[str, Any]], last: bool
) -> None:
    far, loaded = far_sensor(scene), scene.sensor(sessions=5)
    scene.route_table(None, routes, main=True)
    scene.configure([far, loaded])
    assert scene.run(scene.instance()).entry["target_id"] == (loaded if last else far)


def test_a_next_hop_that_nobody_knows_ranks_the_sensor_last(scene: Scene) -> None:
    def change(answer: dict[str, Any]) -> None:
        for table in answer["RouteTables"]:
            for shown in table["Routes"]:
                shown.pop("TransitGatewayId", None)

    far, loaded = far_sensor(scene), scene.sensor(sessions=5)
    scene.route_table(None, [route(FAR, tgw=True)], main=True)
    scene.configure([far, loaded])
    scene.show(ROUTES, change)
    answer = scene.run(scene.instance())
    assert answer.stages == ["(eligible)", "(selected)"]
    assert missing(answer.sensors[far]["reason"], "unknown next hop") == []


def test_a_way_to_what_cannot_be_seen_is_judged_all_the_same(scene: Scene) -> None:
    group = scene.group()
    scene.hide(group)
    scene.configure(far_sensor(scene, groups=[group]), ALLOW_UNVERIFIED="true")
    assert scene.run(scene.instance()).stages == ["route"]


def test_where_no_route_table_can_be_seen_nothing_is_rejected(scene: Scene) -> None:
    sensor = far_sensor(scene)
    scene.configure(sensor)
    scene.show(ROUTES, lambda answer: answer.update(RouteTables=[]))
    answer = scene.run(scene.instance())
    assert answer.outcomes == ["created"]
    assert missing(answer.sensors[sensor]["reason"], "no route table of vpc-", "not known") == []


def test_without_the_permission_nothing_is_rejected_and_the_reason_names_it(scene: Scene) -> None:
    sensor = far_sensor(scene)
    scene.configure(sensor)
    scene.deny(f"ec2:{ROUTES}")
    answer = scene.run(scene.instance())
    assert answer.outcomes == ["created"]
    assert missing(answer.sensors[sensor]["reason"], f"ec2:{ROUTES}") == []


def test_while_the_routes_are_throttled_the_interface_is_failed(scene: Scene) -> None:
    scene.configure(far_sensor(scene))
    scene.fail(ROUTES)
    instance = scene.instance()
    assert missing(deliver(running_event(instance)).error, "1 failed", ROUTES) == []


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


def test_a_sweep_judges_the_sessions_that_leave_the_vpc(scene: Scene) -> None:
    sensor = far_sensor(scene)
    scene.configure(sensor)
    instances = scene.instances(2)
    for instance in instances:
        scene.session(scene.first_interface(instance), sensor)
    answer = scene.run(scheduled_event())
    assert answer.summary == {"blocked": 2, "skipped": 1}
    assert scene.count(ROUTES) == 1


# --- Any table


def blocks() -> st.SearchStrategy[str]:
    return st.builds(
        lambda number, length: str(ipaddress.ip_network((number, length), strict=False)),
        st.integers(0x0A000000, 0x0A00FFFF),
        st.sampled_from((0, 8, 12, 16, 20, 22, 24, 28, 30, 32)),
    )


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(blocks(), st.sampled_from(("active", "blackhole", "filtered"))),
        max_size=50,
        unique_by=lambda item: item[0],
    ),
    st.integers(0x0A000000, 0x0A00FFFF),
)
def test_any_table_is_read_as_the_longest_prefix_says(
    rows: list[tuple[str, str]], number: int
) -> None:
    address = ipaddress.ip_address(number)
    table = RouteTable.of(
        {
            "RouteTableId": "rtb-1",
            "Routes": [
                {"DestinationCidrBlock": cidr, "State": state, "TransitGatewayId": "tgw-1"}
                for cidr, state in rows
            ],
        }
    )
    matching = [
        (ipaddress.ip_network(cidr).prefixlen, cidr, state)
        for cidr, state in rows
        if state != "filtered" and address in ipaddress.ip_network(cidr)
    ]
    expected = max(matching, default=(0, None, None))[1:]
    inside = [r for r in table.routes if address in ipaddress.ip_network(r.destination)]
    found: Route | None = inside[0] if inside else None
    assert (found and found.destination, found and found.state) == expected
    assert all(one.leads is NextHop.LEADS for one in table.routes)
