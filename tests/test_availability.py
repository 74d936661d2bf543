"""Which targets are there to be chosen from."""

from __future__ import annotations

import pytest
from aws import SimulatedAccount, rule
from conftest import Build, Configure, Run, missing

pytestmark = pytest.mark.usefixtures("shared_client")


def stopped_later(account: SimulatedAccount, state: str) -> str:
    target = account.sensor()
    account.set_state(account.sensor_instance(target), state)
    return target


def without_interface(account: SimulatedAccount) -> str:
    target = account.sensor()
    account.delete_sensor_interface(target)
    return target


def without_address(account: SimulatedAccount) -> str:
    interface = account.interface(ipv6_only=True, groups=[account.group(rule())])
    made = account.ec2.create_traffic_mirror_target(NetworkInterfaceId=interface)
    return str(made["TrafficMirrorTarget"]["TrafficMirrorTargetId"])


UNAVAILABLE: dict[str, tuple[Build, str]] = {
    "a target that does not exist": (lambda a: a.missing_sensor(), "There is no"),
    "a target without its interface": (without_interface, "does not exist"),
    "a sensor that is stopped": (lambda a: stopped_later(a, "stopped"), "is stopped"),
    "a sensor that is stopping": (lambda a: stopped_later(a, "stopping"), "is stopping"),
    "a sensor that is pending": (lambda a: stopped_later(a, "pending"), "is pending"),
    "a sensor that is shutting down": (
        lambda a: stopped_later(a, "shutting-down"),
        "is shutting-down",
    ),
    "a sensor that is terminated": (lambda a: stopped_later(a, "terminated"), "does not exist"),
    "a sensor without an IPv4 address": (without_address, "no IPv4 address"),
}


@pytest.mark.parametrize(("build", "words"), UNAVAILABLE.values(), ids=UNAVAILABLE.keys())
def test_unavailable_is(
    account: SimulatedAccount, configure: Configure, run: Run, build: Build, words: str
) -> None:
    target = build(account)
    configure(target)
    sensor = run(account.instance()).sensors[target]
    assert (sensor["stage"], missing(sensor["reason"], words)) == ("unavailable", [])


def test_a_sensor_interface_that_is_attached_to_nothing_is_available(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    configure(account.sensor(attached=False))
    assert run(account.instance()).outcomes == ["created"]


def test_a_sensor_whose_instance_cannot_be_seen_is_available(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    sensor = account.sensor()
    account.hide(account.sensor_instance(sensor))
    configure(sensor)
    assert run(account.instance()).outcomes == ["created"]
