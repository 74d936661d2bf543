"""Sensors of the source's Availability Zone and VPC come first, and when others may follow."""

from __future__ import annotations

import pytest
from aws import SimulatedAccount
from conftest import Build, Configure, Run, missing, stages

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
    account: SimulatedAccount,
    configure: Configure,
    run: Run,
    build: list[Build],
    local: list[str],
    fallback: list[str],
    local_only: str,
) -> None:
    configure([make(account) for make in build], LOCAL_ZONE_ONLY=local_only)
    answer = run(account.instance())
    assert stages(answer) == (local if local_only == "true" else fallback)


def test_with_local_vpc_only_the_fallback_comes_after_the_vpc_as_well(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    targets = [CLOSED["VPC"](account), account.sensor(zone="b")]
    configure(targets, LOCAL_ZONE_ONLY="false", LOCAL_VPC_ONLY="true")
    assert stages(run(account.instance())) == ["vpc", "(selected)"]


def test_the_reason_names_both_zones(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    sensor = account.sensor(zone="b")
    configure(sensor)
    reason = run(account.instance(zone="c")).sensors[sensor]["reason"]
    assert missing(reason, "us-east-1b", "us-east-1c") == []


def test_the_reason_says_that_a_sensor_of_another_zone_is_a_makeshift(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    sensor = account.sensor(zone="b")
    configure(sensor, LOCAL_ZONE_ONLY="false")
    reason = run(account.instance()).sensors[sensor]["reason"]
    assert missing(reason, "us-east-1b", "no sensor in us-east-1a can take it") == []


@pytest.mark.parametrize(
    ("local_vpc_only", "verdict", "words"),
    [("true", "vpc", "The sensor is in"), ("false", "(selected)", "peering are not checked")],
)
def test_a_sensor_in_another_vpc(
    account: SimulatedAccount,
    configure: Configure,
    run: Run,
    local_vpc_only: str,
    verdict: str,
    words: str,
) -> None:
    vpc = account.vpc("10.9.0.0/16")
    sensor = account.sensor(account.subnet(vpc=vpc))
    configure(sensor, LOCAL_VPC_ONLY=local_vpc_only)
    answer = run(account.instance())
    assert (stages(answer), missing(answer.sensors[sensor]["reason"], words, vpc)) == (
        [verdict],
        [],
    )
