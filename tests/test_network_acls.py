"""Which network ACLs let mirrored packets through: udp/4789 into the sensor's subnet.

One row for each rule of the contract. The source is 10.0.5.11 in subnet-1.
"""

from __future__ import annotations

from typing import Any

import pytest
from aws import acl_entry
from conftest import missing

from lambda_traffic_mirror import (
    Configuration,
    Face,
    Finding,
    Interface,
    NetworkAcl,
    Says,
    Sensor,
    Source,
    Unreadable,
    inbound_acl_allows,
    outbound_acl_ranks,
)

Entries = list[dict[str, Any]]

ANY, ADDRESS, SENSOR_ADDRESS = "0.0.0.0/0", "10.0.5.11", "10.0.6.12"
CONFIGURATION = Configuration.from_environment({"filter_id": "tmf-1", "targets": "tmt-1"})


def finding_on(entries: Entries | None, egress: bool = False, subnet: str = "subnet-2") -> Finding:
    """What the stage of this direction says where the ACL has these entries; None: it is hidden."""
    row = {"NetworkAclId": "acl-1", "Associations": [], "Entries": entries}
    acl = NetworkAcl.of(row) if entries is not None else None
    source = Interface("eni-1", subnet_id="subnet-1", address=ADDRESS)
    sensor = Interface("eni-2", subnet_id=subnet, address=SENSOR_ADDRESS)
    face = Face(Sensor("tmt-1", None, False, False, 0), sensor, acl=acl)
    stage = outbound_acl_ranks if egress else inbound_acl_allows
    return stage(Source(source, "i-1", {}, acl=acl), face, CONFIGURATION)


def allow(number: int = 100, cidr: str = ANY, protocol: str = "17", **more: Any) -> dict[str, Any]:
    return acl_entry(number, "allow", cidr, protocol, **more)


def deny(number: int = 90, cidr: str = ANY, protocol: str = "17", **more: Any) -> dict[str, Any]:
    return acl_entry(number, "deny", cidr, protocol, **more)


ALL, DENY_ALL = allow(protocol="-1"), deny(100, protocol="-1")

# Entries, and whether the packet is let in.
INBOUND: dict[str, tuple[Entries, bool]] = {
    # one entry: protocol and ports
    "allows udp/4789": ([allow()], True),
    "4789 is the last port of the range": ([allow(ports=(4788, 4789))], True),
    "4789 is the first port of the range": ([allow(ports=(4789, 4790))], True),
    "udp without ports is all ports": ([allow(ports=None)], True),
    "an empty port range is all ports": ([allow() | {"PortRange": {}}], True),
    "the range ends just below 4789": ([allow(ports=(0, 4788))], False),
    "the range begins just above 4789": ([allow(ports=(4790, 65535))], False),
    "all protocols: -1": ([ALL], True),
    "all protocols with ports, ignored": ([ALL | {"PortRange": {"From": 53, "To": 53}}], True),
    "allows tcp only": ([allow(protocol="6", ports=(0, 65535))], False),
    "ACLs know numbers, not names": ([allow(protocol="udp")], False),
    # one entry: block
    "allows the source only": ([allow(100, "10.0.5.11/32")], True),
    "allows a block that ends with the source": ([allow(100, "10.0.5.8/30")], True),
    "allows the block just above": ([allow(100, "10.0.5.12/30")], False),
    "allows the block just below": ([allow(100, "10.0.5.10/32")], False),
    "allows IPv6 only": ([allow(100, "::/0", "-1")], False),
    "no entry matches, which denies": ([], False),
    # several entries
    "the lowest rule number that matches wins: deny": ([deny(), ALL], False),
    "the lowest rule number that matches wins: allow": ([allow(90), DENY_ALL], True),
    "the lowest rule number wins in whatever order they come: deny": ([ALL, deny()], False),
    "the lowest rule number wins in whatever order they come: allow": ([DENY_ALL, allow(90)], True),
    "numbers, not texts, are in order": ([ALL, deny(9)], False),
    "a denial of another port does not decide": ([deny(ports=(53, 53)), ALL], True),
    "a denial of tcp does not decide": ([deny(protocol="6"), ALL], True),
    "a denial of another block does not decide": ([deny(90, "10.0.5.12/30", "-1"), ALL], True),
    "a denial of IPv6 does not decide": ([deny(90, "::/0", "-1"), ALL], True),
    "the lowest rule number that matches wins: the second of three": (
        [allow(80, "10.0.6.0/24"), deny(90, "10.0.5.0/24"), ALL],
        False,
    ),
    "an outbound denial does not decide": ([allow(), deny(protocol="-1", egress=True)], True),
    "allowed outbound only": ([allow(protocol="-1", egress=True)], False),
    "the same number in both directions": ([deny(100, egress=True), allow()], True),
}


@pytest.mark.parametrize(("entries", "allowed"), INBOUND.values(), ids=INBOUND.keys())
def test_the_acl_of_the_sensors_subnet_decides(entries: Entries, allowed: bool) -> None:
    assert finding_on(entries).says is (Says.PASSES if allowed else Says.REJECTS)


# Entries outbound from the source's subnet, and whether the sensor is ranked behind. AWS does not
# say whether they apply to mirrored packets, so a denial rejects nothing.
EVERYTHING = allow(protocol="-1", egress=True)
OUTBOUND: dict[str, tuple[Entries, bool]] = {
    "everything is allowed": ([EVERYTHING], False),
    "everything is denied": ([], True),
    "the sensor is denied": ([deny(90, "10.0.6.0/24", egress=True), EVERYTHING], True),
    "another sensor is denied": ([deny(90, "10.0.7.0/24", egress=True), EVERYTHING], False),
    "another port is denied": ([deny(ports=(53, 53), egress=True), EVERYTHING], False),
    "the denial has the higher number": ([deny(200, egress=True), EVERYTHING], False),
    "the denial is inbound": ([EVERYTHING, deny()], False),
    "the source is denied": ([deny(90, "10.0.5.0/24", egress=True), EVERYTHING], False),
}


@pytest.mark.parametrize(("entries", "behind"), OUTBOUND.values(), ids=OUTBOUND.keys())
def test_the_outbound_acl_of_the_sources_subnet_only_ranks(entries: Entries, behind: bool) -> None:
    assert finding_on(entries, egress=True).says is (Says.BEHIND if behind else Says.PASSES)


# Entries, the sensor's subnet, and what is said inbound and outbound.
DENIED = [DENY_ALL, DENY_ALL | {"Egress": True}]
SUBNETS: dict[str, tuple[Entries | None, str, Says, Says]] = {
    "source and sensor in the same subnet": (DENIED, "subnet-1", Says.PASSES, Says.PASSES),
    "source and sensor in the same subnet, ACL hidden": (
        None,
        "subnet-1",
        Says.PASSES,
        Says.PASSES,
    ),
    "the sensor in another subnet": (DENIED, "subnet-2", Says.REJECTS, Says.BEHIND),
    "the sensor in another subnet, ACL hidden": (None, "subnet-2", Says.UNSEEN, Says.PASSES),
}


@pytest.mark.parametrize(
    ("entries", "subnet", "inbound", "outbound"), SUBNETS.values(), ids=SUBNETS
)
def test_within_a_subnet_no_acl_applies_and_a_hidden_one_denies_nothing(
    entries: Entries | None, subnet: str, inbound: Says, outbound: Says
) -> None:
    says = [finding_on(entries, egress, subnet).says for egress in (False, True)]
    assert says == [inbound, outbound]


NUMBERS: dict[str, tuple[Entries, bool, str]] = {
    "the entry that allows": ([deny(ports=(1, 2)), ALL], False, "inbound rule 100"),
    "the entry that denies": ([deny(), ALL], False, "inbound rule 90"),
    "the last entry, which has no number of its own": ([], False, "inbound rule *"),
    "the outbound entry that denies": ([deny(egress=True)], True, "outbound rule 90"),
}


@pytest.mark.parametrize(("entries", "egress", "number"), NUMBERS.values(), ids=NUMBERS.keys())
def test_the_reason_names_acl_rule_and_address(entries: Entries, egress: bool, number: str) -> None:
    reason = str(finding_on(entries, egress))
    address = SENSOR_ADDRESS if egress else ADDRESS
    assert missing(reason, number, "acl-1", "udp/4789", address) == []


# An entry that cannot be read stands for itself alone: what comes before it decides all the same.
WRONG: dict[str, dict[str, Any]] = {
    "no block": {"CidrBlock": "10.0.0.0/99"},
    "a block of IPv6 in the place of one of IPv4": {"CidrBlock": "::/0"},
    "no action": {"RuleAction": "count"},
    "without its number": {"RuleNumber": None},
    "without its protocol": {"Protocol": None},
    "without its direction": {"Egress": None},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_an_entry_that_cannot_be_read_matters_where_it_may_decide(wrong: dict[str, Any]) -> None:
    spoilt = {key: value for key, value in (deny() | wrong).items() if value is not None}
    with pytest.raises(Unreadable):
        finding_on([spoilt, ALL])
    if "RuleNumber" in spoilt:
        assert finding_on([allow(80), spoilt]).says is Says.PASSES
    assert finding_on([spoilt | {"Egress": True}, ALL]).says is Says.PASSES
    if "Egress" not in spoilt:
        with pytest.raises(Unreadable):
            finding_on([spoilt, EVERYTHING], egress=True)
