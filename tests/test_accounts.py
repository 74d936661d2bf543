"""Sensors of other accounts, and what of them cannot be seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aws import OTHER_ACCOUNT_ID, SimulatedAccount, acl_entry, rule
from conftest import Build, Configure, Run, interface_view, missing, stages

pytestmark = pytest.mark.usefixtures("shared_client")


EXCLUDE = {"EXCLUDE_TAGS": "role=sensor"}


def without_interface(account: SimulatedAccount) -> str:
    target = account.sensor()
    account.delete_sensor_interface(target)
    return target


def hidden_group(account: SimulatedAccount, *more: str, **kwargs: Any) -> str:
    group = account.group()
    account.hide(group)
    return account.sensor(groups=[group, *more], **kwargs)


def hidden_acl(account: SimulatedAccount, **kwargs: Any) -> str:
    subnet = account.subnet()
    acl = account.acl(subnet, [])
    account.hide(acl)
    return account.sensor(subnet, **kwargs)


def foreign_load_balancer(account: SimulatedAccount) -> str:
    """A load balancer of another account; neither it nor its interfaces can be seen."""
    target = account.nlb_sensor([account.subnet()])
    account.hide(account.sensor_interface(target))
    account._backend.traffic_mirror_targets[target].simulated_owner = OTHER_ACCOUNT_ID
    return target


# Sensors; how they fare by default and with ALLOW_UNVERIFIED.
UNSEEN: dict[str, tuple[list[Build], list[str], list[str]]] = {
    "a target of another account": (
        [lambda a: a.foreign_sensor()],
        ["unavailable"],
        ["(selected)"],
    ),
    "a load balancer of another account": (
        [foreign_load_balancer],
        ["unavailable"],
        ["(selected)"],
    ),
    "a security group that decides": ([hidden_group], ["unavailable"], ["(selected)"]),
    "a network ACL that decides": ([hidden_acl], ["unavailable"], ["(selected)"]),
    "another group admits": (
        [lambda a: hidden_group(a, a.group(rule()))],
        ["(selected)"],
        ["(selected)"],
    ),
    "another group does not": (
        [lambda a: hidden_group(a, a.group(rule("tcp")))],
        ["unavailable"],
        ["(selected)"],
    ),
    "a group unseen, the ACL denies": (
        [lambda a: hidden_group(a, subnet=a.subnet(acl=[]))],
        ["network_acl"],
        ["network_acl"],
    ),
    "an ACL unseen, the group denies": (
        [lambda a: hidden_acl(a, groups=[a.group()])],
        ["security_group"],
        ["security_group"],
    ),
    "a group unseen, in another zone": (
        [lambda a: hidden_group(a, zone="b")],
        ["zone"],
        ["zone"],
    ),
    "a sensor that is busy and can be seen": (
        [lambda a: a.foreign_sensor(), hidden_group, lambda a: a.sensor(sessions=9)],
        ["unavailable", "unavailable", "(selected)"],
        ["unavailable", "unavailable", "(selected)"],
    ),
    "a sensor that is closed and can be seen": (
        [lambda a: a.foreign_sensor(), lambda a: a.sensor(groups=[a.group()])],
        ["unavailable", "security_group"],
        ["(selected)", "security_group"],
    ),
    "several, the idle one": (
        [lambda a: hidden_group(a, sessions=2), lambda a: a.foreign_sensor(sessions=1), hidden_acl],
        ["unavailable"] * 3,
        ["(eligible)", "(eligible)", "(selected)"],
    ),
    "several, of which the foreign one is idle": (
        [lambda a: hidden_group(a, sessions=2), lambda a: a.foreign_sensor(zone="c")],
        ["unavailable"] * 2,
        ["(eligible)", "(selected)"],
    ),
    "one is full": (
        [lambda a: a.foreign_sensor(quota=0), lambda a: hidden_group(a, sessions=5)],
        ["unavailable"] * 2,
        ["create", "(selected)"],
    ),
    "what is closed or gone is not used for want of better": (
        [
            lambda a: a.sensor(groups=[a.group()]),
            without_interface,
            lambda a: a.sensor(a.subnet(acl=[])),
        ],
        ["security_group", "unavailable", "network_acl"],
        ["security_group", "unavailable", "network_acl"],
    ),
}


@pytest.mark.parametrize("allowed", ["false", "true"], ids=["by default", "ALLOW_UNVERIFIED"])
@pytest.mark.parametrize(("build", "default", "unverified"), UNSEEN.values(), ids=UNSEEN.keys())
def test_what_cannot_be_seen(
    account: SimulatedAccount,
    configure: Configure,
    run: Run,
    build: list[Build],
    default: list[str],
    unverified: list[str],
    allowed: str,
) -> None:
    configure([make(account) for make in build], ALLOW_UNVERIFIED=allowed, **EXCLUDE)
    answer = run(account.instance())
    assert stages(answer) == (unverified if allowed == "true" else default)


def test_an_unseen_acl_is_no_obstacle_within_its_subnet(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    subnet = account.subnet()
    account.hide(account.acl(subnet, []))
    configure(account.sensor(subnet))
    assert run(account.instance(subnet)).outcomes == ["created"]


def test_an_unseen_acl_of_the_sources_subnet_denies_nobody(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    subnet = account.subnet()
    account.hide(account.acl(subnet, []))
    configure([account.sensor(sessions=1), account.sensor(subnet, sessions=2)])
    assert stages(run(account.instance(subnet))) == ["(selected)", "(eligible)"]


def test_sensors_of_the_zone_that_cannot_be_verified_come_before_those_of_other_zones(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    near, far = hidden_group(account, sessions=5), hidden_group(account, zone="b")
    configure([near, far], ALLOW_UNVERIFIED="true", LOCAL_ZONE_ONLY="false")
    assert run(account.instance()).entry["target_id"] == near


def test_verified_sensors_of_other_zones_come_before_those_that_cannot_be_verified(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    near, far = hidden_group(account), account.sensor(zone="b", sessions=5)
    configure([near, far], ALLOW_UNVERIFIED="true", LOCAL_ZONE_ONLY="false")
    assert stages(run(account.instance())) == ["unavailable", "(selected)"]


def test_sensors_of_other_zones_that_cannot_be_verified_come_last(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    targets = [account.sensor(groups=[account.group()]), hidden_group(account, zone="b")]
    configure(targets, ALLOW_UNVERIFIED="true", LOCAL_ZONE_ONLY="false")
    assert stages(run(account.instance())) == ["security_group", "(selected)"]


def test_of_those_that_cannot_be_verified_the_outbound_acl_ranks_as_well(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    denied, allowed = account.subnet(cidr="10.0.6.0/24"), account.subnet(cidr="10.0.7.0/24")
    acl = [
        acl_entry(90, "deny", "10.0.6.0/24", egress=True),
        acl_entry(100, "allow", protocol="-1", egress=True),
    ]
    targets = [
        hidden_group(account, subnet=denied),
        hidden_group(account, subnet=allowed, sessions=5),
    ]
    configure(targets, ALLOW_UNVERIFIED="true")
    assert stages(run(account.instance(account.subnet(acl=acl)))) == ["(eligible)", "(selected)"]


NAMED: dict[str, tuple[Build, Callable[[SimulatedAccount, str], str]]] = {
    "the other account": (lambda a: a.foreign_sensor(), lambda a, target: "another account"),
    "the security group": (
        hidden_group,
        lambda a, target: interface_view(a, a.sensor_interface(target))["Groups"][0]["GroupId"],
    ),
    "the subnet whose network ACL it is": (
        hidden_acl,
        lambda a, target: interface_view(a, a.sensor_interface(target))["SubnetId"],
    ),
}


@pytest.mark.parametrize("allowed", ["false", "true"], ids=["by default", "ALLOW_UNVERIFIED"])
@pytest.mark.parametrize(("build", "word"), NAMED.values(), ids=NAMED.keys())
def test_the_reason_names(
    account: SimulatedAccount,
    configure: Configure,
    run: Run,
    build: Build,
    word: Callable[[SimulatedAccount, str], str],
    allowed: str,
) -> None:
    target = build(account)
    configure(target, ALLOW_UNVERIFIED=allowed)
    reason = run(account.instance()).sensors[target]["reason"]
    wanted = [word(account, target)] + (["not verified"] if allowed == "true" else [])
    assert missing(reason, *wanted) == []
