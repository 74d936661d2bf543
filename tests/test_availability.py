"""Which targets are there to be chosen from."""

from __future__ import annotations

import pytest
from aws import rule
from conftest import Build, Scene, missing

pytestmark = pytest.mark.usefixtures("shared_client")


def stopped_later(scene: Scene, state: str) -> str:
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


UNAVAILABLE: dict[str, tuple[Build, str]] = {
    "a target that does not exist": (lambda a: a.missing_sensor(), "There is no"),
    "a target without its interface": (without_interface, "does not exist"),
    **{
        f"a sensor that is {state}": (lambda a, s=state: stopped_later(a, s), f"is {state}")
        for state in ("stopped", "stopping", "pending", "shutting-down")
    },
    "a sensor that is terminated": (lambda a: stopped_later(a, "terminated"), "does not exist"),
    "a sensor without an IPv4 address": (without_address, "no IPv4 address"),
}


@pytest.mark.parametrize(("build", "words"), UNAVAILABLE.values(), ids=UNAVAILABLE.keys())
def test_unavailable_is(scene: Scene, build: Build, words: str) -> None:
    target = build(scene)
    scene.configure(target)
    sensor = scene.run(scene.instance()).sensors[target]
    assert (sensor["stage"], missing(sensor["reason"], words)) == ("unavailable", [])


def test_a_sensor_interface_that_is_attached_to_nothing_is_available(scene: Scene) -> None:
    scene.configure(scene.sensor(attached=False))
    assert scene.run(scene.instance()).outcomes == ["created"]


def test_a_sensor_whose_instance_cannot_be_seen_is_available(scene: Scene) -> None:
    sensor = scene.sensor()
    scene.hide(scene.sensor_instance(sensor))
    scene.configure(sensor)
    assert scene.run(scene.instance()).outcomes == ["created"]
