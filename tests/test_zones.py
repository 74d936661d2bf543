"""Sensors of the source's Availability Zone and VPC, and when others may follow."""

from __future__ import annotations

import pytest
from aws import route
from conftest import Build, Scene, missing

pytestmark = pytest.mark.usefixtures("shared_client")


# Sensors in the source's zone and in others; how they fare with LOCAL_ZONE_ONLY true and false.
ZONES: dict[str, tuple[list[Build], list[str], list[str]]] = {
    "none in the zone": ([lambda a: a.sensor(zone="b")], ["zone"], ["(selected)"]),
    "a busy one in the zone before an idle one elsewhere": (
        [lambda a: a.sensor(zone="b"), lambda a: a.sensor(sessions=5)],
        ["zone", "(selected)"],
        ["(eligible)", "(selected)"],
    ),
    "of two other zones the idle one": (
        [lambda a: a.sensor(zone="b", sessions=3), lambda a: a.sensor(zone="c")],
        ["zone", "zone"],
        ["(eligible)", "(selected)"],
    ),
    "closed in both zones": (
        [lambda a: a.sensor(groups=[a.group()]), lambda a: a.sensor(zone="b", groups=[a.group()])],
        ["security_group", "zone"],
        ["security_group", "security_group"],
    ),
    "the one in the zone is full": (
        [lambda a: a.sensor(quota=0), lambda a: a.sensor(zone="b")],
        ["create", "zone"],
        ["create", "(selected)"],
    ),
}


@pytest.mark.parametrize(("build", "local", "fallback"), ZONES.values(), ids=ZONES.keys())
def test_other_zones_are_out_of_the_question_or_ranked_behind(
    scene: Scene, build: list[Build], local: list[str], fallback: list[str]
) -> None:
    targets = [make(scene) for make in build]
    for local_only, wanted in (("true", local), ("false", fallback)):
        scene.configure(targets, LOCAL_ZONE_ONLY=local_only)
        answer = scene.run(scene.instance())
        assert (local_only, answer.stages) == (local_only, wanted)


def test_the_reason_names_both_zones(scene: Scene) -> None:
    sensor = scene.sensor(zone="b")
    for local_only in ("true", "false"):
        scene.configure(sensor, LOCAL_ZONE_ONLY=local_only)
        reason = scene.run(scene.instance(zone="c")).sensors[sensor]["reason"]
        assert missing(reason, "us-east-1b", "us-east-1c") == []


# LOCAL_ZONE_ONLY, LOCAL_VPC_ONLY, the verdict on a sensor in another VPC and one in another zone,
# and what the reason of the first names.
VPCS = {
    "another VPC is out of the question": ("true", "true", ["vpc", "zone"], "The sensor is in"),
    "another VPC by a peering connection": ("true", "false", ["(selected)", "zone"], "pcx-"),
    "another zone instead": ("false", "true", ["vpc", "(selected)"], "The sensor is in"),
}


@pytest.mark.parametrize("name", VPCS)
def test_local_vpc_only_puts_a_sensor_in_another_vpc_out_of_the_question(
    scene: Scene, name: str
) -> None:
    zone_only, vpc_only, stages, words = VPCS[name]
    vpc = scene.vpc("10.9.0.0/16")
    scene.route_table(routes=[route("10.9.0.0/16", pcx=True)], main=True)
    sensor, other = scene.sensor(scene.subnet(vpc=vpc)), scene.sensor(zone="b")
    scene.configure([sensor, other], LOCAL_ZONE_ONLY=zone_only, LOCAL_VPC_ONLY=vpc_only)
    answer = scene.run(scene.instance())
    assert (answer.stages, missing(answer.sensors[sensor]["reason"], vpc, words)) == (stages, [])
