"""Sensors of the source's Availability Zone and VPC come first, and when others may follow."""

from __future__ import annotations

import pytest
from aws import route
from conftest import Build, Scene, missing

pytestmark = pytest.mark.usefixtures("shared_client")


CLOSED: dict[str, Build] = {
    "security group": lambda a: a.sensor(groups=[a.group()]),
    "network ACL": lambda a: a.sensor(a.subnet(acl=[])),
    "quota": lambda a: a.sensor(quota=1, sessions=1),
    "VPC": lambda a: a.sensor(a.subnet(vpc=a.vpc("10.9.0.0/16"))),
}

# Sensors in the source's zone and in others; how they fare with LOCAL_ZONE_ONLY true and false.
ZONES: dict[str, tuple[list[Build], list[str], list[str]]] = {
    "a sensor in the zone": ([lambda a: a.sensor()], ["(selected)"], ["(selected)"]),
    "none in the zone": ([lambda a: a.sensor(zone="b")], ["zone"], ["(selected)"]),
    "one here, an idle one there": (
        [lambda a: a.sensor(sessions=9), lambda a: a.sensor(zone="b")],
        ["(selected)", "zone"],
        ["(selected)", "zone"],
    ),
    "two other zones": (
        [lambda a: a.sensor(zone="b", sessions=3), lambda a: a.sensor(zone="c")],
        ["zone", "zone"],
        ["(eligible)", "(selected)"],
    ),
    "closed in both zones": (
        [CLOSED["security group"], lambda a: a.sensor(zone="b", groups=[a.group()])],
        ["security_group", "zone"],
        ["security_group", "security_group"],
    ),
    "the one here is unavailable": (
        [lambda a: a.sensor(state="stopped"), lambda a: a.sensor(zone="b")],
        ["unavailable", "zone"],
        ["unavailable", "(selected)"],
    ),
    "the one here is closed by its group": (
        [CLOSED["security group"], lambda a: a.sensor(zone="b")],
        ["security_group", "zone"],
        ["security_group", "(selected)"],
    ),
    "the one here is closed by its ACL": (
        [CLOSED["network ACL"], lambda a: a.sensor(zone="b")],
        ["network_acl", "zone"],
        ["network_acl", "(selected)"],
    ),
    "the one here is full": (
        [CLOSED["quota"], lambda a: a.sensor(zone="b")],
        ["create", "zone"],
        ["create", "(selected)"],
    ),
    "one here is closed, one is not": (
        [CLOSED["security group"], lambda a: a.sensor(sessions=9), lambda a: a.sensor(zone="b")],
        ["security_group", "(selected)", "zone"],
        ["security_group", "(selected)", "zone"],
    ),
}


@pytest.mark.parametrize("local_only", ["true", "false"])
@pytest.mark.parametrize(("build", "local", "fallback"), ZONES.values(), ids=ZONES.keys())
def test_sensors_of_the_zone_come_first(
    scene: Scene, build: list[Build], local: list[str], fallback: list[str], local_only: str
) -> None:
    scene.configure([make(scene) for make in build], LOCAL_ZONE_ONLY=local_only)
    answer = scene.run(scene.instance())
    assert answer.stages == (local if local_only == "true" else fallback)


def test_with_local_vpc_only_the_fallback_comes_after_the_vpc_as_well(scene: Scene) -> None:
    targets = [CLOSED["VPC"](scene), scene.sensor(zone="b")]
    scene.configure(targets, LOCAL_ZONE_ONLY="false", LOCAL_VPC_ONLY="true")
    assert scene.run(scene.instance()).stages == ["vpc", "(selected)"]


@pytest.mark.parametrize(
    ("local_only", "words"),
    [("true", "us-east-1c"), ("false", "no sensor in us-east-1c can take it")],
)
def test_the_reason_names_both_zones(scene: Scene, local_only: str, words: str) -> None:
    sensor = scene.sensor(zone="b")
    scene.configure(sensor, LOCAL_ZONE_ONLY=local_only)
    reason = scene.run(scene.instance(zone="c")).sensors[sensor]["reason"]
    assert missing(reason, "us-east-1b", words) == []


@pytest.mark.parametrize(
    ("local_vpc_only", "verdict", "words"),
    [("true", "vpc", "The sensor is in"), ("false", "(selected)", "pcx-")],
)
def test_a_sensor_in_another_vpc(
    scene: Scene, local_vpc_only: str, verdict: str, words: str
) -> None:
    vpc = scene.vpc("10.9.0.0/16")
    scene.route_table(routes=[route("10.9.0.0/16", pcx=True)], main=True)
    sensor = scene.sensor(scene.subnet(vpc=vpc))
    scene.configure(sensor, LOCAL_VPC_ONLY=local_vpc_only)
    answer = scene.run(scene.instance())
    assert (answer.stages, missing(answer.sensors[sensor]["reason"], words, vpc)) == ([verdict], [])
