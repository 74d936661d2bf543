"""Which network ACLs let mirrored packets through: udp/4789 into the sensor's subnet.

One line per rule of what the function promises. The source is 10.0.5.11 in one subnet, the sensors
are in others; their security groups admit everything.
"""

from __future__ import annotations

from typing import Any

import pytest
from aws import acl_entry, route
from conftest import Answer, Scene, missing
from hypothesis import given, settings
from hypothesis import strategies as st
from model import acl_allows, acl_entries, addresses

from lambda_traffic_mirror import Address, NetworkAcl, deciding_entry

ADDRESS = "10.0.5.11"


pytestmark = pytest.mark.usefixtures("shared_client")


Entries = list[dict[str, Any]]


class Source:
    """A source in its subnet, and as many sensors in other subnets as a test adds."""

    def __init__(self, scene: Scene) -> None:
        self.account = account = scene
        self.subnet = account.subnet(cidr="10.0.5.0/24")
        self.instance = account.instance(self.subnet, address=ADDRESS)
        self.targets: list[str] = []

    def sensor(self, block: str, acl: Entries | None = None, sessions: int = 0) -> str:
        """A sensor in a subnet of its own, which has this ACL or the VPC's default one."""
        subnet = self.account.subnet(cidr=block, acl=acl)
        self.targets.append(self.account.sensor(subnet, sessions=sessions))
        return self.targets[-1]

    def answer(self) -> Answer:
        self.account.configure(self.targets)
        return self.account.run(self.instance)


@pytest.fixture
def source(scene: Scene) -> Source:
    return Source(scene)


# --------------------------------------------------------------------------------------
# Into the sensor's subnet
# --------------------------------------------------------------------------------------

ALLOWS, DENIES = None, "network_acl"  # the stage at which the sensor falls


def deny(*block: str, **more: Any) -> dict[str, Any]:
    return acl_entry(90, "deny", *block, **more)


ALLOW_ALL = acl_entry(100, "allow", protocol="-1")
DENY_ALL = acl_entry(100, "deny", protocol="-1")

INBOUND: dict[str, tuple[Entries, str | None]] = {
    # one entry: protocol and ports
    "allows udp/4789": ([acl_entry(100, "allow")], ALLOWS),
    "4789 is the last port of the range": ([acl_entry(100, "allow", ports=(4788, 4789))], ALLOWS),
    "4789 is the first port of the range": ([acl_entry(100, "allow", ports=(4789, 4790))], ALLOWS),
    "4789 is within the range": ([acl_entry(100, "allow", ports=(1024, 65535))], ALLOWS),
    "allows udp without ports": ([acl_entry(100, "allow", ports=None)], ALLOWS),
    "one port below": ([acl_entry(100, "allow", ports=(4788, 4788))], DENIES),
    "one port above": ([acl_entry(100, "allow", ports=(4790, 4790))], DENIES),
    "the range ends before": ([acl_entry(100, "allow", ports=(0, 4788))], DENIES),
    "the range begins after": ([acl_entry(100, "allow", ports=(4790, 65535))], DENIES),
    "allows all protocols: -1": ([ALLOW_ALL], ALLOWS),
    "allows tcp only": ([acl_entry(100, "allow", protocol="6", ports=(0, 65535))], DENIES),
    "allows icmp only": ([acl_entry(100, "allow", protocol="1")], DENIES),
    "ACLs know numbers, not names": ([acl_entry(100, "allow", protocol="udp")], DENIES),
    # one entry: block
    "allows the source only": ([acl_entry(100, "allow", "10.0.5.11/32")], ALLOWS),
    "allows a block that ends with it": ([acl_entry(100, "allow", "10.0.5.8/30")], ALLOWS),
    "allows the block just above": ([acl_entry(100, "allow", "10.0.5.12/30")], DENIES),
    "allows the block just below": ([acl_entry(100, "allow", "10.0.5.10/32")], DENIES),
    "allows another network": ([acl_entry(100, "allow", "192.168.0.0/16", "-1")], DENIES),
    "allows IPv6 only": ([acl_entry(100, "allow", "::/0", "-1")], DENIES),
    "no entry but the last, which denies": ([], DENIES),
    # the lowest number that matches decides
    "deny before allow": ([deny(), ALLOW_ALL], DENIES),
    "allow before deny": ([acl_entry(90, "allow"), DENY_ALL], ALLOWS),
    "deny before allow, shown the other way round": ([ALLOW_ALL, deny()], DENIES),
    "allow before deny, shown the other way round": ([DENY_ALL, acl_entry(90, "allow")], ALLOWS),
    "numbers, not texts, are in order": ([ALLOW_ALL, acl_entry(9, "deny")], DENIES),
    "the highest number there can be": ([acl_entry(32766, "allow")], ALLOWS),
    "a denial of another port does not decide": ([deny(ports=(53, 53)), ALLOW_ALL], ALLOWS),
    "a denial of tcp does not decide": (
        [deny(protocol="6", ports=(4789, 4789)), ALLOW_ALL],
        ALLOWS,
    ),
    "a denial of another block does not decide": ([deny("10.0.5.12/30", "-1"), ALLOW_ALL], ALLOWS),
    "a denial of IPv6 does not decide": ([deny("::/0", "-1"), ALLOW_ALL], ALLOWS),
    "a denial of the source within an allowed network": (
        [deny("10.0.5.11/32", "-1"), ALLOW_ALL],
        DENIES,
    ),
    "allow, deny, allow": (
        [acl_entry(80, "allow", "10.0.6.0/24"), deny("10.0.5.0/24"), ALLOW_ALL],
        DENIES,
    ),
    # outbound entries are of the other direction
    "an outbound denial": ([acl_entry(100, "allow"), deny(protocol="-1", egress=True)], ALLOWS),
    "allowed outbound only": ([acl_entry(100, "allow", protocol="-1", egress=True)], DENIES),
    "the same number in both directions": (
        [acl_entry(100, "deny", egress=True), acl_entry(100, "allow")],
        ALLOWS,
    ),
}


@pytest.mark.parametrize(("entries", "stage"), INBOUND.values(), ids=INBOUND.keys())
def test_the_acl_of_the_sensors_subnet(source: Source, entries: Entries, stage: str | None) -> None:
    target = source.sensor("10.0.6.0/24", entries)
    assert source.answer().sensors[target]["stage"] == stage


def test_the_default_acl_of_a_vpc_lets_everything_in(source: Source) -> None:
    target = source.sensor("10.0.6.0/24")
    assert source.answer().sensors[target]["verdict"] == "selected"


def test_within_a_subnet_no_acl_applies(source: Source) -> None:
    denials = [acl_entry(1, "deny", protocol="-1", egress=egress) for egress in (False, True)]
    source.account.acl(source.subnet, denials)
    source.targets = [source.account.sensor(source.subnet)]
    assert source.answer().outcomes == ["created"]


def test_inbound_entries_of_the_sources_subnet_do_not_matter(source: Source) -> None:
    source.account.acl(
        source.subnet, [DENY_ALL, acl_entry(100, "allow", protocol="-1", egress=True)]
    )
    target = source.sensor("10.0.6.0/24")
    assert "denies" not in source.answer().sensors[target]["reason"]


def test_of_several_acls_in_the_vpc_the_one_of_the_subnet_counts(source: Source) -> None:
    denied = source.sensor("10.0.6.0/24", [DENY_ALL])
    allowed = source.sensor("10.0.7.0/24", [ALLOW_ALL], sessions=5)
    sensors = source.answer().sensors
    assert (sensors[denied]["stage"], sensors[allowed]["verdict"]) == ("network_acl", "selected")


NUMBERS: dict[str, tuple[Entries, str]] = {
    "the entry that allows": ([deny(ports=(1, 2)), ALLOW_ALL], "inbound rule 100"),
    "the entry that denies": ([deny(), ALLOW_ALL], "inbound rule 90"),
    "the last entry, which AWS numbers 32767": ([], "inbound rule 32767"),
}


@pytest.mark.parametrize(("entries", "number"), NUMBERS.values(), ids=NUMBERS.keys())
def test_the_reason_names_acl_number_and_address(
    source: Source, entries: Entries, number: str
) -> None:
    subnet = source.account.subnet(cidr="10.0.6.0/24")
    acl = source.account.acl(subnet, entries)
    source.targets = [source.account.sensor(subnet)]
    (sensor,) = source.answer().entry["sensors"]
    assert missing(sensor["reason"], acl, number, "udp/4789", ADDRESS) == []


# --------------------------------------------------------------------------------------
# Out of the source's subnet: a denial only ranks
# --------------------------------------------------------------------------------------

# The sensor in 10.0.6.0/24 is idle, the one in 10.0.7.0/24 has five sessions.
IDLE, BUSY = "10.0.6.0/24", "10.0.7.0/24"
ALLOW_OUT = acl_entry(100, "allow", protocol="-1", egress=True)


def deny_out(cidr: str, **more: Any) -> dict[str, Any]:
    return deny(cidr, egress=True, **more)


OUTBOUND: dict[str, tuple[Entries, str]] = {
    "everything is allowed": ([ALLOW_OUT], IDLE),
    "everything is denied": ([], IDLE),
    "the idle one is denied": ([deny_out(IDLE), ALLOW_OUT], BUSY),
    "the busy one is denied": ([deny_out(BUSY), ALLOW_OUT], IDLE),
    "only the busy one is allowed": ([acl_entry(100, "allow", BUSY, egress=True)], BUSY),
    "only the idle one is allowed": ([acl_entry(100, "allow", IDLE, egress=True)], IDLE),
    "only tcp to the idle one is denied": ([deny_out(IDLE, protocol="6"), ALLOW_OUT], IDLE),
    "all protocols to the idle one are denied": ([deny_out(IDLE, protocol="-1"), ALLOW_OUT], BUSY),
    "another port of the idle one is denied": ([deny_out(IDLE, ports=(53, 53)), ALLOW_OUT], IDLE),
    "a range that ends with 4789 is denied": ([deny_out(IDLE, ports=(1, 4789)), ALLOW_OUT], BUSY),
    "the denial comes too late": ([acl_entry(200, "deny", IDLE, egress=True), ALLOW_OUT], IDLE),
    "the denial is shown last and comes first": ([ALLOW_OUT, deny_out(IDLE)], BUSY),
    "the denial is inbound": ([ALLOW_OUT, deny(IDLE, "-1")], IDLE),
    "the source itself is denied, which is not where packets go": (
        [deny_out("10.0.5.0/24"), ALLOW_OUT],
        IDLE,
    ),
    "IPv6 is denied": ([deny_out("::/0", protocol="-1"), ALLOW_OUT], IDLE),
}


@pytest.mark.parametrize(("entries", "chosen"), OUTBOUND.values(), ids=OUTBOUND.keys())
def test_a_sensor_that_the_sources_acl_denies_comes_behind_those_that_it_allows(
    source: Source, entries: Entries, chosen: str
) -> None:
    source.account.acl(source.subnet, entries)
    targets = {IDLE: source.sensor(IDLE), BUSY: source.sensor(BUSY, sessions=5)}
    assert source.answer().entry["target_id"] == targets[chosen]


def test_a_sensor_that_the_sources_acl_denies_is_eligible_and_the_reason_says_so(
    source: Source,
) -> None:
    acl = source.account.acl(source.subnet, [deny_out(IDLE), ALLOW_OUT])
    denied = source.sensor(IDLE)
    source.sensor(BUSY)
    sensor = source.answer().sensors[denied]
    assert (sensor["verdict"], sensor["stage"]) == ("eligible", None)
    assert missing(sensor["reason"], acl, "outbound rule 90") == []


def test_a_sensor_in_the_sources_subnet_is_not_denied(source: Source) -> None:
    source.account.acl(source.subnet, [deny_out("0.0.0.0/0")])
    near = source.account.sensor(source.subnet, sessions=5)
    far = source.sensor(IDLE)
    source.targets = [far, near]
    assert source.answer().entry["target_id"] == near


def test_the_sources_acl_ranks_a_sensor_that_is_read_in_another_account(source: Source) -> None:
    other = source.account.other()
    far = other.sensor(other.subnet(vpc=other.vpc("10.9.0.0/16")))
    other.share(far)
    source.account.route_table(routes=[route("10.9.0.0/16", tgw=True)], main=True)
    source.account.acl(source.subnet, [deny_out("10.9.0.0/16"), ALLOW_OUT])
    targets = [far, source.sensor(BUSY, sessions=5)]
    source.account.configure(targets, SENSOR_ROLE_ARNS=other.role("sensors"))
    assert source.account.run(source.instance).stages == ["(eligible)", "(selected)"]


def test_what_no_entry_matches_is_denied(source: Source) -> None:
    """AWS shows an entry 32767 that denies the rest. Without it the rest is denied all the same."""

    def change(answer: dict[str, Any]) -> None:
        for acl in answer["NetworkAcls"]:
            acl["Entries"] = [one for one in acl["Entries"] if one["RuleNumber"] < 32767]

    source.account.show("DescribeNetworkAcls", change)
    source.account.acl(source.subnet, [acl_entry(100, "allow", BUSY, egress=True)])
    source.sensor(IDLE)
    source.sensor(BUSY, sessions=5)
    source.sensor("10.0.8.0/24", [])
    assert source.answer().stages == ["(eligible)", "(selected)", "network_acl"]


# --------------------------------------------------------------------------------------
# Any entries
# --------------------------------------------------------------------------------------


def allows(shown: dict[str, Any], egress: bool, address: str) -> bool:
    """What the function makes of an ACL as DescribeNetworkAcls shows it."""
    acl = NetworkAcl.of(shown)
    parsed = Address.primary({"PrivateIpAddress": address})
    assert parsed
    entry = deciding_entry(acl.outbound if egress else acl.inbound, parsed)
    return bool(entry and entry.allows)


@settings(deadline=None)
@given(entries=acl_entries(), egress=st.booleans(), address=addresses())
def test_any_entries_are_judged_as_the_brute_force_model_judges_them(
    entries: Entries, egress: bool, address: str
) -> None:
    shown = {"NetworkAclId": "acl-1", "Entries": entries}
    assert allows(shown, egress, address) is acl_allows(entries, egress, address)


SPELLINGS: dict[str, tuple[dict[str, Any], bool]] = {
    "all protocols, with ports, which are ignored": (
        {"Protocol": "-1", "PortRange": {"From": 53, "To": 53}},
        True,
    ),
    "an empty port range": ({"Protocol": "17", "PortRange": {}}, True),
    "no port range": ({"Protocol": "17"}, True),
}


@pytest.mark.parametrize(("more", "allowed"), SPELLINGS.values(), ids=SPELLINGS.keys())
def test_entries_are_understood_however_aws_spells_them(
    more: dict[str, Any], allowed: bool
) -> None:
    entry = {"RuleNumber": 1, "RuleAction": "allow", "Egress": False, "CidrBlock": "0.0.0.0/0"}
    shown = {"NetworkAclId": "acl-1", "Entries": [entry | more]}
    assert allows(shown, False, ADDRESS) is allowed
