"""Which security group rules admit mirrored packets: udp/4789 from the source's primary address.

One line per rule of what the function promises. The source is 10.0.5.11, a member of two
groups; the sensor is in the same subnet, so that no network ACL has a say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from aws import route, rule
from conftest import Answer, Scene
from hypothesis import given, settings
from hypothesis import strategies as st
from model import addresses, group_id_lists, group_rules_admit, ip_permissions, prefix_list_entries

from lambda_traffic_mirror import (
    Address,
    Answers,
    AwsCallFailed,
    Configuration,
    Facts,
    Failure,
    Interface,
    Known,
    MirroringError,
    SecurityGroup,
    Sensor,
    security_groups_admit,
)

ADDRESS = "10.0.5.11"
SOURCE_GROUP = "the source's group"
OTHER_SOURCE_GROUP = "the source's second group"
STRANGER = "a group that the source is not in"

READ_PREFIX_LIST = "GetManagedPrefixListEntries"


pytestmark = pytest.mark.usefixtures("shared_client")


class Source:
    """A subnet with a source in two groups, and as many sensors as a test adds."""

    def __init__(self, scene: Scene) -> None:
        self.account = account = scene
        self.subnet = account.subnet(cidr="10.0.5.0/24")
        self.groups = {
            name: account.group() for name in (SOURCE_GROUP, OTHER_SOURCE_GROUP, STRANGER)
        }
        self.instance = account.instance(
            self.subnet,
            [self.groups[SOURCE_GROUP], self.groups[OTHER_SOURCE_GROUP]],
            address=ADDRESS,
        )
        self.targets: list[str] = []

    def group(self, *rules: Mapping[str, Any]) -> str:
        """A group with these rules; references name the groups here."""
        named = [{**item, "group": self.groups.get(item["group"])} for item in rules]
        return self.account.group(*named)

    def sensor(self, *groups: str, sessions: int = 0) -> str:
        self.targets.append(self.account.sensor(self.subnet, groups, sessions=sessions))
        return self.targets[-1]

    def answer(self) -> Answer:
        self.account.configure(self.targets)
        return self.account.run(self.instance)

    def only_sensor(self, *groups: str) -> dict[str, Any]:
        """What the result says of a sensor with these groups."""
        target = self.sensor(*groups)
        return self.answer().sensors[target]


def fallen(sensor: Mapping[str, Any], *evidence: str) -> tuple[str | None, list[str]]:
    """The stage at which the sensor falls, and what of the evidence its reason leaves out."""
    return sensor["stage"], [word for word in evidence if word not in sensor["reason"]]


@pytest.fixture
def source(scene: Scene) -> Source:
    return Source(scene)


# --------------------------------------------------------------------------------------
# One rule
# --------------------------------------------------------------------------------------

ADMITS, REJECTS = None, "security_group"  # the stage at which the sensor falls

RULES: dict[str, tuple[dict[str, Any], str | None]] = {
    # protocol and ports
    "udp/4789": (rule("udp", (4789, 4789)), ADMITS),
    "4789 is the last port of the range": (rule("udp", (4788, 4789)), ADMITS),
    "4789 is the first port of the range": (rule("udp", (4789, 4790)), ADMITS),
    "4789 is within the range": (rule("udp", (4000, 5000)), ADMITS),
    "all udp ports": (rule("udp", (0, 65535)), ADMITS),
    "udp without ports": (rule("udp", None), ADMITS),
    "one port below": (rule("udp", (4788, 4788)), REJECTS),
    "one port above": (rule("udp", (4790, 4790)), REJECTS),
    "the range ends before": (rule("udp", (0, 4788)), REJECTS),
    "the range begins after": (rule("udp", (4790, 65535)), REJECTS),
    "all protocols, as AWS spells it: -1": (rule("-1", None), ADMITS),
    "tcp/4789": (rule("tcp", (4789, 4789)), REJECTS),
    "tcp by its number": (rule("6", (4789, 4789)), REJECTS),
    "all tcp ports": (rule("tcp", (0, 65535)), REJECTS),
    "icmp": (rule("icmp", (-1, -1)), REJECTS),
    "another protocol": (rule("50", None), REJECTS),
    # CIDR blocks
    "from anywhere": (rule(cidr="0.0.0.0/0"), ADMITS),
    "from the source's address only": (rule(cidr="10.0.5.11/32"), ADMITS),
    "from a block that ends with the source": (rule(cidr="10.0.5.8/30"), ADMITS),
    "from the eight addresses around the source": (rule(cidr="10.0.5.8/29"), ADMITS),
    "from the block that ends just below": (rule(cidr="10.0.5.10/32"), REJECTS),
    "from the block that begins just above": (rule(cidr="10.0.5.12/30"), REJECTS),
    "from the VPC": (rule(cidr="10.0.0.0/16"), ADMITS),
    "from another network": (rule(cidr="192.168.0.0/16"), REJECTS),
    "from all of IPv6": (rule(cidr="::/0"), REJECTS),
    "all protocols, but from another network": (rule("-1", None, "192.168.0.0/16"), REJECTS),
    # references to security groups
    "from the source's group": (rule(group=SOURCE_GROUP), ADMITS),
    "from the source's second group": (rule(group=OTHER_SOURCE_GROUP), ADMITS),
    "all protocols from the source's group": (rule("-1", None, group=SOURCE_GROUP), ADMITS),
    "from a group that the source is not in": (rule(group=STRANGER), REJECTS),
    "tcp from the source's group": (rule("tcp", group=SOURCE_GROUP), REJECTS),
    "other ports from the source's group": (rule("udp", (53, 53), group=SOURCE_GROUP), REJECTS),
    # references across a peering connection
    "peering active": (rule(group=SOURCE_GROUP, peering="active"), ADMITS),
    "peering deleted": (rule(group=SOURCE_GROUP, peering="deleted"), REJECTS),
    "peering being deleted": (rule(group=SOURCE_GROUP, peering="deleting"), REJECTS),
    "peering expired": (rule(group=SOURCE_GROUP, peering="expired"), REJECTS),
    "peering failed": (rule(group=SOURCE_GROUP, peering="failed"), REJECTS),
    "peering requested": (rule(group=SOURCE_GROUP, peering="initiating-request"), REJECTS),
    "peering not accepted yet": (rule(group=SOURCE_GROUP, peering="pending-acceptance"), REJECTS),
    "peering being set up": (rule(group=SOURCE_GROUP, peering="provisioning"), REJECTS),
    "peering rejected": (rule(group=SOURCE_GROUP, peering="rejected"), REJECTS),
}


@pytest.mark.parametrize(("only_rule", "stage"), RULES.values(), ids=RULES.keys())
def test_a_rule_admits_or_not(source: Source, only_rule: dict[str, Any], stage: str | None) -> None:
    assert source.only_sensor(source.group(only_rule))["stage"] == stage


def permission(protocol: str, *ports: int | None, **origins: Any) -> dict[str, Any]:
    """A rule as DescribeSecurityGroups may show it, from anywhere unless told otherwise."""
    ends = zip(("FromPort", "ToPort"), ports, strict=False)
    shown = {"IpProtocol": protocol, **{name: port for name, port in ends if port is not None}}
    return shown | (origins or {"IpRanges": [{"CidrIp": "0.0.0.0/0"}]})


SPELLINGS: dict[str, tuple[dict[str, Any], bool]] = {
    "udp by its number": (permission("17", 4789, 4789), True),
    "udp by its number, another port": (permission("17", 4790, 4790), False),
    "udp by its number, no ports": (permission("17"), True),
    "all protocols, with ports, which are ignored": (permission("-1", 53, 53), True),
    "tcp by its number": (permission("6", 4789, 4789), False),
    "a range without ends": (permission("udp", None, None), True),
    "a range without its end, open upwards": (permission("udp", 5000, None), False),
    "a range without its end, from below": (permission("udp", 4789, None), True),
    "a range without its beginning, open downwards": (permission("udp", None, 80), False),
    "a range without its beginning, to the port": (permission("udp", None, 4789), True),
    "no origin at all": (permission("udp", 4789, 4789, IpRanges=[]), False),
    "an empty peering status": (
        permission("-1", UserIdGroupPairs=[{"GroupId": "sg-1", "PeeringStatus": ""}]),
        True,
    ),
    "a group of another account, peering active": (
        permission(
            "-1",
            UserIdGroupPairs=[
                {"GroupId": "sg-1", "UserId": "210987654321", "PeeringStatus": "active"}
            ],
        ),
        True,
    ),
    "one reference inactive, the same one active": (
        permission(
            "-1",
            UserIdGroupPairs=[
                {"GroupId": "sg-1", "PeeringStatus": "deleted"},
                {"GroupId": "sg-1", "PeeringStatus": "active"},
            ],
        ),
        True,
    ),
}


def source_at(address: str, group_ids: Sequence[str], vpc_id: str = "vpc-1") -> Interface:
    return Interface(
        "eni-source",
        vpc_id=vpc_id,
        subnet_id="subnet-1",
        address=Address.of(address),
        group_ids=tuple(group_ids),
    )


def groups_admit(
    source: Interface,
    groups: Mapping[str, Sequence[Mapping[str, Any]]],
    prefix_lists: Mapping[str, Sequence[str]],
) -> bool:
    """What the function makes of a sensor with these groups (ID to `IpPermissions`)."""
    known_groups: Answers[SecurityGroup] = Answers()
    for group_id, permissions in groups.items():
        shown = [{k: v for k, v in rule.items() if v is not None} for rule in permissions]
        group = SecurityGroup.of({"GroupId": group_id, "IpPermissions": shown})
        known_groups.add(group_id, group)
    known_lists: Answers[tuple[str, ...]] = Answers()
    refused = AwsCallFailed(READ_PREFIX_LIST, "UnauthorizedOperation", "", Failure.DENIED)
    known_lists.fail(("pl-one", "pl-two", "pl-three"), refused)
    lists: Answers[tuple[str, ...]] = Answers()
    for key, blocks in prefix_lists.items():
        lists.add(key, tuple(blocks))
    known_lists.update(lists)
    none: list[Answers[Any]] = [Answers() for _ in range(4)]
    facts = Facts("", 0, {}, known_groups, none[0], none[1], {}, none[2], known_lists, none[3])
    configuration = Configuration.from_environment({"filter_id": "tmf-1", "targets": "tmt-1"})
    face = Interface("eni-sensor", vpc_id="vpc-1", group_ids=tuple(groups))
    known = Known(configuration, Sensor("tmt-1"), facts, facts, {}, {})
    return security_groups_admit(source, face, known).passes


@pytest.mark.parametrize(("shown", "admitted"), SPELLINGS.values(), ids=SPELLINGS.keys())
def test_rules_are_understood_however_aws_spells_them(
    shown: dict[str, Any], admitted: bool
) -> None:
    assert groups_admit(source_at(ADDRESS, ["sg-1"]), {"sg-sensor": [shown]}, {}) is admitted


# Rules beside a reference without a peering status to the source's group in another VPC, and
# whether the sensor then comes behind a busy one.
UNSTATED: dict[str, tuple[list[dict[str, Any]], bool]] = {
    "nothing else": ([], True),
    "a rule that does not admit": ([rule("tcp")], True),
    "a rule that admits": ([rule(cidr="10.0.5.0/24")], False),
    "an active peering": ([rule(group=SOURCE_GROUP, peering="active")], False),
    "an inactive peering": ([rule(group=SOURCE_GROUP, peering="deleted")], True),
}


@pytest.mark.parametrize(("besides", "last"), UNSTATED.values(), ids=UNSTATED.keys())
def test_a_reference_from_another_vpc_without_a_peering_status_ranks_last(
    source: Source, besides: list[dict[str, Any]], last: bool
) -> None:
    account = source.account
    account.route_table(routes=[route("10.9.0.0/16", tgw=True)], main=True)
    far = account.vpc("10.9.0.0/16")
    rules = [rule(group=SOURCE_GROUP, vpc=account.default_vpc), *besides]
    named = [{**item, "group": source.groups.get(item["group"])} for item in rules]
    sensor = account.sensor(account.subnet(vpc=far), [account.group(*named, vpc=far)])
    source.targets.append(sensor)
    row = source.answer().sensors[sensor]
    assert (row["verdict"], "peering status" in row["reason"]) == ("selected", last)
    account.delete_session(account.sessions()[0]["TrafficMirrorSessionId"])
    busy = source.sensor(source.group(rule()), sessions=5)
    assert source.answer().entry["target_id"] == (busy if last else sensor)


# --------------------------------------------------------------------------------------
# Several rules, several groups
# --------------------------------------------------------------------------------------


def test_one_rule_that_admits_is_enough(source: Source) -> None:
    rules = [rule("tcp"), rule(cidr="192.168.0.0/16"), rule(cidr="10.0.5.11/32"), rule("icmp")]
    assert source.only_sensor(source.group(*rules))["verdict"] == "selected"


def test_one_group_that_admits_is_enough(source: Source) -> None:
    groups = [source.group(*rules) for rules in ([], [rule("tcp")], [rule()])]
    assert source.only_sensor(*groups)["verdict"] == "selected"


# What cannot be read of a group or a prefix list.
UNREADABLE: dict[str, tuple[str, str]] = {
    "a group's rules": ("DescribeSecurityGroups", '"IpPermissions": [{'),
    "a group's block": ("DescribeSecurityGroups", "10.77.0.0/16"),
    "a prefix list's block": (READ_PREFIX_LIST, "10.77.0.0/16"),
}


@pytest.mark.parametrize(("call", "text"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_admits_is_enough_where_another_cannot_be_read(
    source: Source, call: str, text: str
) -> None:
    bad, good = (
        source.group(rule(cidr=block))
        if call != READ_PREFIX_LIST
        else source.group(rule(prefix_list=source.account.prefix_list(block)))
        for block in ("10.77.0.0/16", "0.0.0.0/0")
    )

    def change(found: dict[str, Any]) -> None:
        for row in found.get("SecurityGroups", found.get("Entries", ())):
            if "GroupId" not in row or row["GroupId"] == bad:
                readable = json.dumps(row)
                wrong = readable.replace(text, text.replace("[{", "[0, {").replace("/16", "/99"))
                row.update(json.loads(wrong))

    source.account.show(call, change)
    assert source.only_sensor(bad, good)["verdict"] == "selected"


def test_protocol_and_origin_have_to_match_in_the_same_rule(source: Source) -> None:
    rules = [rule("tcp", (4789, 4789), "10.0.5.0/24"), rule("udp", (4789, 4789), "10.0.6.0/24")]
    groups = source.group(*rules), source.group(rule("-1", None, "10.0.7.0/24"))
    assert source.only_sensor(*groups)["stage"] == "security_group"


def test_a_group_without_rules_or_shared_with_the_source_is_not_enough(source: Source) -> None:
    groups = source.group(), source.groups[SOURCE_GROUP]
    assert source.only_sensor(*groups)["stage"] == "security_group"


def test_outbound_rules_of_the_source_do_not_matter(source: Source) -> None:
    for group in (SOURCE_GROUP, OTHER_SOURCE_GROUP):
        source.account.ec2.revoke_security_group_egress(
            GroupId=source.groups[group],
            IpPermissions=[{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}],
        )
    assert source.only_sensor(source.group(rule()))["verdict"] == "selected"


# --------------------------------------------------------------------------------------
# Managed prefix lists
# --------------------------------------------------------------------------------------


def others(count: int) -> list[str]:
    return [f"192.168.{number}.0/24" for number in range(count)]


LISTS: dict[str, tuple[list[str], str | None]] = {
    "an entry contains the source": (["10.0.5.0/24"], ADMITS),
    "an entry is the source": (["10.0.5.11/32"], ADMITS),
    "the second entry does": (["192.168.0.0/16", "10.0.5.8/29"], ADMITS),
    "an entry ends just below": (["10.0.5.10/32"], REJECTS),
    "an entry begins just above": (["10.0.5.12/30"], REJECTS),
    "no entry": ([], REJECTS),
    "IPv6 entries only": (["::/0", "2001:db8::/32"], REJECTS),
    "an IPv6 entry before one that does": (["::/0", "10.0.0.0/8"], ADMITS),
    "an entry on the first page": ([*others(99), "10.0.5.0/24"], ADMITS),
    "an entry on the second page": ([*others(100), "10.0.5.0/24"], ADMITS),
    "an entry on the third page": ([*others(200), "10.0.5.0/24"], ADMITS),
    "three pages without one": (others(201), REJECTS),
}


@pytest.mark.parametrize(("cidrs", "stage"), LISTS.values(), ids=LISTS.keys())
def test_a_prefix_list_admits_what_its_entries_contain(
    source: Source, cidrs: list[str], stage: str | None
) -> None:
    group = source.group(rule(prefix_list=source.account.prefix_list(*cidrs)))
    assert source.only_sensor(group)["stage"] == stage


def test_one_of_several_prefix_lists_is_enough(source: Source) -> None:
    no, yes = source.account.prefix_list("192.168.0.0/16"), source.account.prefix_list("10.0.0.0/8")
    target = source.sensor(
        source.group(rule(prefix_list=no)),
        source.group(rule(prefix_list=no), rule(prefix_list=yes)),
    )
    assert source.answer().sensors[target]["verdict"] == "selected"


# Rules besides the list, whether they are in a group of their own, and the calls for it.
WHO_LOOKS: dict[str, tuple[list[dict[str, Any]], bool, int]] = {
    "nothing else admits": ([], False, 1),
    "a CIDR block admits": ([rule()], False, 0),
    "a CIDR block of another group admits": ([rule()], True, 0),
    "a reference to a group admits": ([rule(group=SOURCE_GROUP)], False, 0),
}


@pytest.mark.parametrize(("besides", "apart", "calls"), WHO_LOOKS.values(), ids=WHO_LOOKS.keys())
def test_prefix_lists_are_looked_up_only_when_nothing_else_admits(
    source: Source, besides: list[dict[str, Any]], apart: bool, calls: int
) -> None:
    listed = rule(prefix_list=source.account.prefix_list("10.0.0.0/8"))
    for _ in range(2):  # two sensors, one list
        if apart:
            source.sensor(source.group(listed), source.group(*besides))
        else:
            source.sensor(source.group(listed, *besides))
    source.answer()
    assert source.account.count(READ_PREFIX_LIST) == calls


@pytest.mark.parametrize(("protocol", "ports"), [("tcp", (4789, 4789)), ("udp", (53, 53))])
def test_a_prefix_list_of_a_rule_for_other_packets_is_not_looked_up(
    source: Source, protocol: str, ports: tuple[int, int]
) -> None:
    prefix_list = source.account.prefix_list("10.0.0.0/8")
    source.only_sensor(source.group(rule(protocol, ports, prefix_list=prefix_list)))
    assert source.account.count(READ_PREFIX_LIST) == 0


def test_a_sensor_behind_a_prefix_list_competes_with_those_that_need_none(source: Source) -> None:
    source.sensor(source.group(rule()), sessions=5)
    idle = source.sensor(source.group(rule(prefix_list=source.account.prefix_list("10.0.0.0/8"))))
    assert source.answer().entry["target_id"] == idle


def test_without_the_permission_the_rule_does_not_match_and_the_reason_names_it(
    source: Source,
) -> None:
    source.account.deny(f"ec2:{READ_PREFIX_LIST}")
    prefix_list = source.account.prefix_list("10.0.0.0/8")
    sensor = source.only_sensor(source.group(rule(prefix_list=prefix_list)))
    assert fallen(sensor, f"ec2:{READ_PREFIX_LIST}", prefix_list) == ("security_group", [])


def test_without_the_permission_other_sensors_are_used(source: Source) -> None:
    source.account.deny(f"ec2:{READ_PREFIX_LIST}")
    source.sensor(source.group(rule(prefix_list=source.account.prefix_list("10.0.0.0/8"))))
    other = source.sensor(source.group(rule()), sessions=5)
    assert source.answer().entry["target_id"] == other


def test_a_prefix_list_that_aws_does_not_know_admits_nothing(source: Source) -> None:
    sensor = source.only_sensor(source.group(rule(prefix_list="pl-00000000000000000")))
    assert fallen(sensor, "InvalidPrefixListID.NotFound") == ("security_group", [])


def test_while_reading_a_prefix_list_is_throttled_the_interface_fails(source: Source) -> None:
    source.account.fail(READ_PREFIX_LIST, "RequestLimitExceeded")
    source.sensor(source.group(rule(prefix_list=source.account.prefix_list("10.0.0.0/8"))))
    with pytest.raises(MirroringError, match=f"{READ_PREFIX_LIST}.*RequestLimitExceeded"):
        source.answer()


# --------------------------------------------------------------------------------------
# The reason names the evidence
# --------------------------------------------------------------------------------------

EVIDENCE: dict[str, tuple[dict[str, Any], str | None, list[str]]] = {
    "the block that admits": (rule(cidr="10.0.5.8/29"), ADMITS, ["udp/4789", "10.0.5.8/29"]),
    "whose members are admitted": (rule(group=SOURCE_GROUP), ADMITS, ["udp/4789", SOURCE_GROUP]),
    "that no rule admits the address": (rule("tcp"), REJECTS, ["No rule", "udp/4789", ADDRESS]),
    "the reference across an inactive peering": (
        rule(group=SOURCE_GROUP, peering="deleted"),
        REJECTS,
        ["inactive peering", SOURCE_GROUP],
    ),
}


@pytest.mark.parametrize(("only_rule", "stage", "words"), EVIDENCE.values(), ids=EVIDENCE.keys())
def test_the_reason_names(
    source: Source, only_rule: dict[str, Any], stage: str | None, words: list[str]
) -> None:
    group = source.group(only_rule)
    named = [source.groups.get(word, word) for word in words]
    assert fallen(source.only_sensor(group), group, *named) == (stage, [])


def test_the_reason_names_prefix_list_and_entry(source: Source) -> None:
    prefix_list = source.account.prefix_list("192.168.0.0/16", "10.0.5.0/24")
    group = source.group(rule(prefix_list=prefix_list))
    assert fallen(source.only_sensor(group), group, prefix_list, "10.0.5.0/24") == (ADMITS, [])


# --------------------------------------------------------------------------------------
# Any rules
# --------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    groups=st.lists(ip_permissions(), min_size=1, max_size=3),
    address=addresses(),
    group_ids=group_id_lists(),
    entries=prefix_list_entries(),
)
def test_any_rules_are_judged_as_the_brute_force_model_judges_them(
    groups: list[list[dict[str, Any]]],
    address: str,
    group_ids: list[str],
    entries: dict[str, list[dict[str, Any]]],
) -> None:
    lists = {
        key: [e["Cidr"] for e in items if ":" not in e["Cidr"]] for key, items in entries.items()
    }
    admitted = groups_admit(
        source_at(address, group_ids),
        {f"sg-sensor-{n}": permissions for n, permissions in enumerate(groups)},
        lists,
    )
    everything = [item for permissions in groups for item in permissions]
    assert admitted is group_rules_admit(everything, address, group_ids, entries)
