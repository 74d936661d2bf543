"""Sensors behind a Network Load Balancer or a Gateway Load Balancer endpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from aws import acl_entry, rule
from conftest import Scene, missing

pytestmark = pytest.mark.usefixtures("shared_client")


MakeLoadBalancer = Callable[[Scene, Sequence[str]], str]
LOAD_BALANCERS: dict[str, MakeLoadBalancer] = {
    "a Network Load Balancer": lambda a, subnets: a.nlb_sensor(subnets),
    "a Gateway Load Balancer endpoint": lambda a, subnets: a.gwlb_sensor(subnets),
    "a Gateway Load Balancer endpoint, with a colon": (
        lambda a, subnets: a.gwlb_sensor(subnets, colon=True)
    ),
}
every_kind = pytest.mark.parametrize("make", LOAD_BALANCERS.values(), ids=LOAD_BALANCERS.keys())
EXCLUDE = {"EXCLUDE_TAGS": "role=sensor"}

NOT_CHECKED = ["listeners", "registered", "not checked", "no security group"]
# Variables, the verdict, words of the reason.
TAGS: dict[str, tuple[dict[str, str], str, list[str]]] = {
    "without tags": ({}, "unavailable", ["INCLUDE_TAGS", "EXCLUDE_TAGS", "load balancer"]),
    "with EXCLUDE_TAGS": (EXCLUDE, "(selected)", NOT_CHECKED),
    "with INCLUDE_TAGS": ({"INCLUDE_TAGS": "mirror"}, "(selected)", NOT_CHECKED),
}


@every_kind
@pytest.mark.parametrize(("variables", "verdict", "words"), TAGS.values(), ids=TAGS.keys())
def test_a_load_balancer_is_a_sensor_once_tags_say_which_instances_are_meant(
    scene: Scene, make: MakeLoadBalancer, variables: dict[str, str], verdict: str, words: list[str]
) -> None:
    target = make(scene, [scene.subnet()])
    scene.configure(target, **variables)
    answer = scene.run(scene.instance(tags={"mirror": ""}))
    assert (answer.stages, missing(answer.sensors[target]["reason"], *words)) == ([verdict], [])


@every_kind
def test_a_load_balancer_has_the_zones_of_all_its_interfaces(
    scene: Scene, make: MakeLoadBalancer
) -> None:
    target = make(scene, [scene.subnet("a"), scene.subnet("b"), scene.subnet("c")])
    scene.configure(target, **EXCLUDE)
    instances = [scene.instance(zone=zone) for zone in "abcd"]
    outcomes = scene.run({"instance-ids": instances}).outcomes
    assert outcomes == ["created", "created", "created", "unmirrored"]


@every_kind
def test_a_load_balancer_in_another_zone_is_for_when_the_zone_has_none(
    scene: Scene, make: MakeLoadBalancer
) -> None:
    target = make(scene, [scene.subnet("b"), scene.subnet("c")])
    scene.configure([target, scene.sensor(state="stopped")], LOCAL_ZONE_ONLY="false", **EXCLUDE)
    assert scene.run(scene.instance()).stages == ["(selected)", "unavailable"]


# The subnets that it is in, and its stage.
INTERFACES: dict[str, tuple[Callable[[Scene], list[str]], str]] = {
    "one in the zone that passes every stage is enough": (
        lambda a: [a.subnet(acl=[]), a.subnet(), a.subnet(acl=[])],
        "(selected)",
    ),
    "one that passes in another zone is not": (
        lambda a: [a.subnet(acl=[]), a.subnet("b")],
        "network_acl",
    ),
}


@every_kind
@pytest.mark.parametrize(("subnets", "stage"), INTERFACES.values(), ids=INTERFACES.keys())
def test_of_several_interfaces(
    scene: Scene, make: MakeLoadBalancer, subnets: Callable[[Scene], list[str]], stage: str
) -> None:
    scene.configure(make(scene, subnets(scene)), **EXCLUDE)
    assert scene.run(scene.instance()).stages == [stage]


@every_kind
def test_a_load_balancer_that_is_gone_is_unavailable(scene: Scene, make: MakeLoadBalancer) -> None:
    target = make(scene, [scene.subnet()])
    scene.delete_sensor_interface(target)
    scene.configure(target, **EXCLUDE)
    assert scene.run(scene.instance()).stages == ["unavailable"]


@pytest.mark.parametrize(
    ("rules", "verdict"), [([rule()], "(selected)"), ([], "security_group")], ids=["open", "closed"]
)
def test_the_security_groups_of_a_load_balancer_count(
    scene: Scene, rules: list[dict[str, Any]], verdict: str
) -> None:
    target = scene.nlb_sensor([scene.subnet()], [scene.group(*rules)])
    scene.configure(target, **EXCLUDE)
    assert scene.run(scene.instance()).stages == [verdict]


def test_an_interface_of_a_load_balancer_that_the_outbound_acl_allows_is_enough(
    scene: Scene,
) -> None:
    acl = [
        acl_entry(90, "deny", "10.0.6.0/24", egress=True),
        acl_entry(100, "allow", protocol="-1", egress=True),
    ]
    source = scene.subnet(acl=acl, cidr="10.0.5.0/24")
    denied, allowed = scene.subnet(cidr="10.0.6.0/24"), scene.subnet(cidr="10.0.7.0/24")
    balancer = scene.nlb_sensor([denied, allowed])
    scene.configure([scene.sensor(allowed, sessions=1), balancer], **EXCLUDE)
    assert scene.run(scene.instance(source)).entry["target_id"] == balancer


def test_load_balancers_and_interfaces_compete_by_sessions(scene: Scene) -> None:
    balancer, sensor = scene.nlb_sensor([scene.subnet()]), scene.sensor(sessions=1)
    scene.configure([balancer, sensor], **EXCLUDE)
    answer = scene.run({"instance-ids": scene.instances(3)})
    counts = Counter(entry["target_id"] for entry in answer.interfaces)
    assert (counts[balancer], counts[sensor]) == (2, 1)


def test_two_load_balancers_are_told_apart(scene: Scene) -> None:
    targets = [scene.nlb_sensor([scene.subnet("b")]), scene.gwlb_sensor([scene.subnet()])]
    scene.configure(targets, **EXCLUDE)
    assert scene.run(scene.instance()).stages == ["zone", "(selected)"]


def test_an_interface_that_cannot_be_verified_goes_before_one_that_is_denied_for_certain(
    scene: Scene,
) -> None:
    """Even where the outbound ACL of the source's subnet would rank the sensor last."""
    denied = scene.subnet("a", acl=[acl_entry(100, "deny")])
    hidden = scene.subnet("a")
    scene.hide(scene.acl(hidden, [acl_entry(100, "allow")]))
    sensor = scene.nlb_sensor([denied, hidden])
    scene.configure([sensor], EXCLUDE_TAGS="traffic-mirror=sensor")
    source = scene.subnet("a", acl=[acl_entry(100, "deny", egress=True)])
    assert scene.run(scene.instance(source)).stages == ["unavailable"]


def test_an_interface_that_cannot_be_judged_harms_no_other(scene: Scene) -> None:
    """From a zone without one, a load balancer is reached through any of its interfaces."""
    unreadable, readable = scene.subnet("a", acl=[acl_entry(100, "allow")]), scene.subnet("b")
    sensor = scene.nlb_sensor([unreadable, readable])
    scene.configure(sensor, EXCLUDE_TAGS="role=sensor", LOCAL_ZONE_ONLY="false")

    def change(found: dict[str, Any]) -> None:
        for acl in found["NetworkAcls"]:
            if unreadable in [item["SubnetId"] for item in acl["Associations"]]:
                acl["Entries"] = None

    scene.show("DescribeNetworkAcls", change)
    assert scene.run(scene.instance(zone="c")).entry["target_id"] == sensor
