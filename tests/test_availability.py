"""Which targets are there to be chosen from, and what a missing answer about one does to others."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import pytest
from aws import acl_entry, rule
from calls import INSTANCES, INTERFACES, PREFIX_LIST, TARGETS
from conftest import Build, Scene, deliver, error_of, missing

pytestmark = pytest.mark.usefixtures("quick")


def in_state(scene: Scene, state: str) -> str:
    target = scene.sensor()
    scene.set_state(scene.sensor_instance(target), state)
    return target


def without_interface(scene: Scene) -> str:
    target = scene.sensor()
    scene.delete_sensor_interface(target)
    return target


def without_address(scene: Scene) -> str:
    interface = scene.interface(ipv6_only=True, groups=[scene.group(rule())])
    made = scene.ec2.create_traffic_mirror_target(NetworkInterfaceId=interface)
    return str(made["TrafficMirrorTarget"]["TrafficMirrorTargetId"])


def of_a_new_type(scene: Scene) -> str:
    """A target that shows neither an interface nor a load balancer nor an endpoint."""
    target = scene.sensor()

    def change(found: dict[str, Any]) -> None:
        for row in found["TrafficMirrorTargets"]:
            if row["TrafficMirrorTargetId"] == target:
                del row["NetworkInterfaceId"]
                row["Type"] = "something-new"

    scene.show(TARGETS, change)
    return target


def host_unseen(scene: Scene) -> str:
    target = scene.sensor()
    scene.hide(scene.sensor_instance(target))
    return target


# A sensor, its stage (None: it is chosen), and words of its reason.
AVAILABLE: dict[str, tuple[Build, str | None, str]] = {
    "a target that does not exist": (lambda a: a.missing_sensor(), "unavailable", "There is no"),
    "a target whose interface is gone": (without_interface, "unavailable", "does not exist"),
    "a target that shows no interface": (of_a_new_type, "unavailable", "shows no interface"),
    **{
        f"a sensor that is {state}": (partial(in_state, state=state), "unavailable", f"is {state}")
        for state in ("stopped", "stopping", "pending", "shutting-down")
    },
    "a sensor without an IPv4 address": (without_address, "unavailable", "no IPv4 address"),
    "an interface that is attached to nothing": (lambda a: a.sensor(attached=False), None, "Best"),
    "a sensor whose instance cannot be seen": (host_unseen, None, "Best"),
}


@pytest.mark.parametrize(("build", "stage", "words"), AVAILABLE.values(), ids=AVAILABLE.keys())
def test_which_targets_are_available_and_why_the_others_are_not(
    scene: Scene, build: Build, stage: str | None, words: str
) -> None:
    target = build(scene)
    scene.configure([target, scene.sensor(sessions=5)])
    answer = scene.run(scene.instance())
    assert (answer.entry["target_id"] == target) is (stage is None)
    row = answer.sensors[target]
    assert (row["stage"], missing(row["reason"], words)) == (stage, [])


# --- A missing answer about one sensor harms only those who have nothing else


OTHER_ZONE = partial(Scene.sensor, zone="b")
# Sensors beside one whose host shows no state; LOCAL_ZONE_ONLY; what becomes of a source in its
# zone a, and of one in zone b.
BESIDE: dict[str, tuple[list[Build], str, str, str]] = {
    "nothing": ([], "true", "failed", "unmirrored"),
    "a sensor of its zone": ([lambda a: a.sensor(sessions=5)], "true", "created", "unmirrored"),
    "a sensor of another zone": ([OTHER_ZONE], "true", "failed", "created"),
    "one of another zone that may be used": ([OTHER_ZONE], "false", "created", "created"),
    "a sensor that cannot be verified": ([Scene.foreign_sensor], "true", "created", "created"),
    "a sensor that is closed": ([lambda a: a.sensor(groups=[a.group()])], "true", "failed", ""),
}


@pytest.mark.parametrize(("beside", "local_only", "near", "far"), BESIDE.values(), ids=BESIDE)
def test_what_cannot_be_read_of_a_sensor_harms_only_those_who_have_nothing_else(
    scene: Scene,
    caplog: pytest.LogCaptureFixture,
    beside: list[Build],
    local_only: str,
    near: str,
    far: str,
) -> None:
    target = scene.sensor()
    host = scene.sensor_instance(target)

    def change(found: dict[str, Any]) -> None:
        for row in (row for rows in found["Reservations"] for row in rows["Instances"]):
            row["State"] = {} if row["InstanceId"] == host else row["State"]

    scene.show(INSTANCES, change)
    targets = [target, *(build(scene) for build in beside)]
    scene.configure(targets, LOCAL_ZONE_ONLY=local_only, ALLOW_UNVERIFIED="true")
    delivery = deliver({"instance-ids": scene.instances(2)})
    if near == "failed":
        assert missing(delivery.error, "2 failed", "Name is missing") == []
    else:
        assert delivery.answer.outcomes == [near] * 2
        row = delivery.answer.interfaces[1]["sensors"][0]
        assert (row["stage"], missing(row["reason"], "Name is missing")) == ("unavailable", [])
    # The error is told once in an invocation, whoever needs the sensor.
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1
    if far:
        answer = scene.run(scene.instance(zone="b"))
        stage = "unavailable" if local_only == "false" else "zone"
        assert (answer.outcomes, answer.stages[0]) == ([far], stage)


def test_an_interface_that_cannot_be_read_is_a_missing_answer(scene: Scene) -> None:
    target, other = scene.sensor(), scene.sensor(sessions=5)
    interface = scene.sensor_interface(target)

    def change(found: dict[str, Any]) -> None:
        for row in found["NetworkInterfaces"]:
            if row["NetworkInterfaceId"] == interface:
                row["PrivateIpAddress"] = row["PrivateIpAddresses"][0]["PrivateIpAddress"] = "10.0"

    scene.show(INTERFACES, change)
    scene.configure([target, other])
    answer = scene.run(scene.instance())
    assert answer.stages == ["unavailable", "(selected)"]
    assert "'10.0' is not an IPv4 address" in answer.sensors[target]["reason"]


@pytest.mark.parametrize("beside", ["of another zone", "unverified"])
def test_sensors_that_come_last_wait_for_an_answer_that_may_still_come(
    scene: Scene, beside: str
) -> None:
    """A throttled call settles nothing for the worse: the next delivery may find a better one."""
    near = scene.sensor(groups=[scene.group(rule(prefix_list=scene.prefix_list("10.0.0.0/8")))])
    other = scene.sensor(zone="b") if beside == "of another zone" else scene.foreign_sensor()
    scene.configure([near, other], LOCAL_ZONE_ONLY="false", ALLOW_UNVERIFIED="true")
    scene.fail(PREFIX_LIST)
    assert missing(error_of(scene.instance()), "1 failed", "RequestLimitExceeded") == []


def test_a_sensor_of_the_zone_that_is_ranked_behind_does_not_wait(scene: Scene) -> None:
    near = scene.sensor(groups=[scene.group(rule(prefix_list=scene.prefix_list("10.0.0.0/8")))])
    scene.configure([near, scene.sensor(scene.subnet(cidr="10.0.7.0/24"))])
    scene.fail(PREFIX_LIST)
    acl = [acl_entry(90, "deny", egress=True)]  # which ranks behind
    assert scene.run(scene.instance(scene.subnet(acl=acl))).stages == ["unavailable", "(selected)"]
