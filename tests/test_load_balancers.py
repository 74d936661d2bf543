"""Sensors behind a Network Load Balancer or a Gateway Load Balancer endpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from aws import acl_entry, running_event, scheduled_event
from conftest import Scene, deliver, missing

pytestmark = pytest.mark.usefixtures("shared_client")


EXCLUDE = {"EXCLUDE_TAGS": "role=sensor"}
MakeLoadBalancer = Callable[[Scene, Sequence[str]], str]
LOAD_BALANCERS: dict[str, MakeLoadBalancer] = {
    "a Network Load Balancer": Scene.nlb_sensor,
    "a Gateway Load Balancer endpoint": Scene.gwlb_sensor,
    "an endpoint, described with a colon": partial(Scene.gwlb_sensor, colon=True),
}

NOT_CHECKED = ["listeners", "registered", "not checked", "no security group"]
# Variables, the verdict, words of the reason.
TAGS: dict[str, tuple[dict[str, str], str, list[str]]] = {
    "without tags": ({}, "unavailable", ["INCLUDE_TAGS", "EXCLUDE_TAGS", "load balancer"]),
    "with EXCLUDE_TAGS": (EXCLUDE, "(selected)", NOT_CHECKED),
    "with INCLUDE_TAGS": ({"INCLUDE_TAGS": "mirror"}, "(selected)", NOT_CHECKED),
}


@pytest.mark.parametrize(("variables", "verdict", "words"), TAGS.values(), ids=TAGS.keys())
def test_a_load_balancer_is_a_sensor_once_tags_say_which_instances_are_meant(
    scene: Scene, variables: dict[str, str], verdict: str, words: list[str]
) -> None:
    targets = [make(scene, [scene.subnet()]) for make in LOAD_BALANCERS.values()]
    for target in targets:
        scene.configure(target, **variables)
        answer = scene.run(scene.instance(tags={"mirror": ""}))
        assert (answer.stages, missing(answer.sensors[target]["reason"], *words)) == ([verdict], [])


@pytest.mark.parametrize("make", LOAD_BALANCERS.values(), ids=LOAD_BALANCERS.keys())
def test_a_load_balancer_has_the_zones_of_all_its_interfaces(
    scene: Scene, make: MakeLoadBalancer
) -> None:
    target = make(scene, [scene.subnet("a"), scene.subnet("b"), scene.subnet("c")])
    scene.configure(target, **EXCLUDE)
    instances = [scene.instance(zone=zone) for zone in "abcd"]
    outcomes = scene.run({"instance-ids": instances}).outcomes
    assert outcomes == ["created", "created", "created", "unmirrored"]
    scene.delete_sensor_interface(target)
    answer = scene.run(scene.instance())
    assert answer.stages == ["unavailable"]
    assert "does not exist" in answer.sensors[target]["reason"]


def hidden_acl(scene: Scene) -> str:
    subnet = scene.subnet()
    scene.hide(scene.acl(subnet, [acl_entry(100, "allow")]))
    return subnet


def unreadable_acl(scene: Scene) -> str:
    subnet = scene.subnet(acl=[acl_entry(100, "allow")])

    def change(found: dict[str, Any]) -> None:
        for acl in found["NetworkAcls"]:
            if subnet in [item["SubnetId"] for item in acl["Associations"]]:
                acl["Entries"] = None

    scene.show("DescribeNetworkAcls", change)
    return subnet


SUBNETS: dict[str, Callable[[Scene], str]] = {
    "open": lambda a: a.subnet(),
    "closed": lambda a: a.subnet(acl=[]),
    "allowed": lambda a: a.subnet(acl=[acl_entry(100, "allow")]),
    "hidden": hidden_acl,
    "unreadable": unreadable_acl,
    "b": lambda a: a.subnet("b"),
    "c": lambda a: a.subnet("c"),
}
# The subnets of its interfaces, variables, and the stage of the sensor, or why it is `failed`.
OTHER_ZONES, UNVERIFIED = {"LOCAL_ZONE_ONLY": "false"}, {"ALLOW_UNVERIFIED": "true"}
INTERFACES: dict[str, tuple[str, dict[str, str], str]] = {
    "one in the zone that passes every stage is enough": ("closed open closed", {}, "(selected)"),
    "one that passes in another zone is not": ("closed b", {}, "network_acl"),
    "one that passes in another zone, if allowed": ("closed b", OTHER_ZONES, "(selected)"),
    "the one that comes farthest stands for it": ("b closed c", {}, "network_acl"),
    "one that cannot be seen goes before one that is denied": ("closed hidden", {}, "unavailable"),
    "one that cannot be seen, if allowed": ("closed hidden", UNVERIFIED, "(selected)"),
    "one that cannot be read harms no other": ("unreadable allowed", {}, "(selected)"),
    "one that cannot be read harms no other zone": ("unreadable b", OTHER_ZONES, "(selected)"),
    "one that cannot be read, where the other is denied": ("closed unreadable", {}, "1 failed"),
}


@pytest.mark.parametrize(("subnets", "variables", "stage"), INTERFACES.values(), ids=INTERFACES)
def test_of_several_interfaces_the_best_stands_for_the_load_balancer(
    scene: Scene, subnets: str, variables: dict[str, str], stage: str
) -> None:
    target = scene.nlb_sensor([SUBNETS[name](scene) for name in subnets.split()])
    scene.configure(target, **EXCLUDE, **variables)
    delivery = deliver(running_event(scene.instance()))
    assert (delivery.error[:8] or delivery.answer.stages[0]) == stage


def test_of_two_interfaces_that_pass_the_better_ranked_one_stands_for_the_load_balancer(
    scene: Scene,
) -> None:
    """One is in the zone, so the load balancer comes before an idle sensor of another zone."""
    balancer = scene.nlb_sensor([scene.subnet("b"), scene.subnet()])
    scene.mirrored(balancer, 2)
    scene.configure([scene.sensor(zone="b"), balancer], **EXCLUDE, **OTHER_ZONES)
    assert scene.run(scene.instance()).stages == ["(eligible)", "(selected)"]


def test_a_sweep_judges_sessions_to_a_load_balancer_whether_or_not_tags_are_set(
    scene: Scene,
) -> None:
    """Whether packets arrive is the question, not whether another instance would be mirrored."""
    reached, closed = (scene.nlb_sensor([scene.subnet(acl=acl)]) for acl in (None, []))
    instances = [*scene.mirrored(reached), *scene.mirrored(closed)]
    scene.configure([reached, closed])
    answer = scene.run(scheduled_event())
    outcomes = [answer.of(instance)["outcome"] for instance in instances]
    assert outcomes == ["exists", "blocked"]
