"""Sensors behind a Network Load Balancer or a Gateway Load Balancer endpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from aws import SimulatedAccount, acl_entry, rule
from conftest import Configure, Run, missing, stages

pytestmark = pytest.mark.usefixtures("shared_client")


LOAD_BALANCERS: dict[str, Callable[[SimulatedAccount, Sequence[str]], str]] = {
    "a Network Load Balancer": lambda a, subnets: a.nlb_sensor(subnets),
    "a Gateway Load Balancer endpoint": lambda a, subnets: a.gwlb_sensor(subnets),
    "a Gateway Load Balancer endpoint, with a colon": (
        lambda a, subnets: a.gwlb_sensor(subnets, colon=True)
    ),
}

EXCLUDE = {"EXCLUDE_TAGS": "role=sensor"}
every_kind = pytest.mark.parametrize("make", LOAD_BALANCERS.values(), ids=LOAD_BALANCERS.keys())
MakeLoadBalancer = Callable[[SimulatedAccount, Sequence[str]], str]


@every_kind
@pytest.mark.parametrize(
    ("variables", "verdict"),
    [
        ({}, "unavailable"),
        ({"EXCLUDE_TAGS": "role=sensor"}, "(selected)"),
        ({"INCLUDE_TAGS": "mirror"}, "(selected)"),
    ],
    ids=["without tags", "with EXCLUDE_TAGS", "with INCLUDE_TAGS"],
)
def test_a_load_balancer_is_a_sensor_once_tags_say_which_instances_are_meant(
    account: SimulatedAccount,
    configure: Configure,
    run: Run,
    make: MakeLoadBalancer,
    variables: dict[str, str],
    verdict: str,
) -> None:
    configure(make(account, [account.subnet()]), **variables)
    assert stages(run(account.instance(tags={"mirror": ""}))) == [verdict]


@every_kind
def test_the_reason_says_which_variables_to_set(
    account: SimulatedAccount, configure: Configure, run: Run, make: MakeLoadBalancer
) -> None:
    target = make(account, [account.subnet()])
    configure(target)
    reason = run(account.instance()).sensors[target]["reason"]
    assert missing(reason, "INCLUDE_TAGS", "EXCLUDE_TAGS", "load balancer") == []


@every_kind
def test_the_reason_says_what_of_a_load_balancer_is_not_checked(
    account: SimulatedAccount, configure: Configure, run: Run, make: MakeLoadBalancer
) -> None:
    target = make(account, [account.subnet()])
    configure(target, **EXCLUDE)
    reason = run(account.instance()).sensors[target]["reason"]
    assert missing(reason, "listeners", "registered", "not checked") == []


@every_kind
def test_a_load_balancer_has_the_zones_of_all_its_interfaces(
    account: SimulatedAccount, configure: Configure, run: Run, make: MakeLoadBalancer
) -> None:
    target = make(account, [account.subnet("a"), account.subnet("b"), account.subnet("c")])
    configure(target, **EXCLUDE)
    instances = [account.instance(zone=zone) for zone in "abcd"]
    outcomes = run({"instance-ids": instances}).outcomes
    assert outcomes == ["created", "created", "created", "unmirrored"]


@every_kind
def test_a_load_balancer_in_another_zone_is_for_when_the_zone_has_none(
    account: SimulatedAccount, configure: Configure, run: Run, make: MakeLoadBalancer
) -> None:
    target = make(account, [account.subnet("b"), account.subnet("c")])
    configure([target, account.sensor(state="stopped")], LOCAL_ZONE_ONLY="false", **EXCLUDE)
    assert stages(run(account.instance())) == ["(selected)", "unavailable"]


@every_kind
def test_one_interface_in_the_zone_that_passes_every_stage_is_enough(
    account: SimulatedAccount, configure: Configure, run: Run, make: MakeLoadBalancer
) -> None:
    subnets = [account.subnet(acl=[]), account.subnet(), account.subnet(acl=[])]
    configure(make(account, subnets), **EXCLUDE)
    assert stages(run(account.instance())) == ["(selected)"]


@every_kind
def test_an_interface_in_another_zone_that_passes_is_not_enough(
    account: SimulatedAccount, configure: Configure, run: Run, make: MakeLoadBalancer
) -> None:
    configure(make(account, [account.subnet(acl=[]), account.subnet("b")]), **EXCLUDE)
    assert stages(run(account.instance())) == ["network_acl"]


@every_kind
def test_a_load_balancer_that_is_gone_is_unavailable(
    account: SimulatedAccount, configure: Configure, run: Run, make: MakeLoadBalancer
) -> None:
    target = make(account, [account.subnet()])
    account.delete_sensor_interface(target)
    configure(target, **EXCLUDE)
    assert stages(run(account.instance())) == ["unavailable"]


@every_kind
def test_a_load_balancer_without_a_security_group_has_nothing_to_filter(
    account: SimulatedAccount, configure: Configure, run: Run, make: MakeLoadBalancer
) -> None:
    target = make(account, [account.subnet()])
    configure(target, **EXCLUDE)
    assert missing(run(account.instance()).sensors[target]["reason"], "no security group") == []


@pytest.mark.parametrize(
    ("rules", "verdict"), [([rule()], "(selected)"), ([], "security_group")], ids=["open", "closed"]
)
def test_the_security_groups_of_a_load_balancer_count(
    account: SimulatedAccount,
    configure: Configure,
    run: Run,
    rules: list[dict[str, Any]],
    verdict: str,
) -> None:
    target = account.nlb_sensor([account.subnet()], [account.group(*rules)])
    configure(target, **EXCLUDE)
    assert stages(run(account.instance())) == [verdict]


def test_an_interface_of_a_load_balancer_that_the_outbound_acl_allows_is_enough(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    acl = [
        acl_entry(90, "deny", "10.0.6.0/24", egress=True),
        acl_entry(100, "allow", protocol="-1", egress=True),
    ]
    source = account.subnet(acl=acl, cidr="10.0.5.0/24")
    denied, allowed = account.subnet(cidr="10.0.6.0/24"), account.subnet(cidr="10.0.7.0/24")
    balancer = account.nlb_sensor([denied, allowed])
    configure([account.sensor(allowed, sessions=1), balancer], **EXCLUDE)
    assert run(account.instance(source)).entry["target_id"] == balancer


def test_load_balancers_and_interfaces_compete_by_sessions(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    balancer, sensor = account.nlb_sensor([account.subnet()]), account.sensor(sessions=1)
    configure([balancer, sensor], **EXCLUDE)
    answer = run({"instance-ids": account.instances(3)})
    counts = Counter(entry["target_id"] for entry in answer.interfaces)
    assert (counts[balancer], counts[sensor]) == (2, 1)


def test_two_load_balancers_are_told_apart(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    targets = [account.nlb_sensor([account.subnet("b")]), account.gwlb_sensor([account.subnet()])]
    configure(targets, **EXCLUDE)
    assert stages(run(account.instance())) == ["zone", "(selected)"]


def test_an_interface_that_cannot_be_verified_goes_before_one_that_is_denied_for_certain(
    account: SimulatedAccount, configure: Callable[..., None], run: Run
) -> None:
    """Even where the outbound ACL of the source's subnet would rank the sensor last."""
    denied = account.subnet("a", acl=[acl_entry(100, "deny")])
    hidden = account.subnet("a")
    account.hide(account.acl(hidden, [acl_entry(100, "allow")]))
    sensor = account.nlb_sensor([denied, hidden])
    configure([sensor], EXCLUDE_TAGS="traffic-mirror=sensor")
    source = account.subnet("a", acl=[acl_entry(100, "deny", egress=True)])
    assert stages(run(account.instance(source))) == ["unavailable"]
