"""Which security group rules admit mirrored packets: udp/4789 from the source's primary address.

One row for each rule of the contract. The source is 10.0.5.11, a member of sg-source and sg-second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aws import route, rule, running_event, scheduled_event
from calls import PREFIX_LIST
from conftest import Scene, deliver, missing

from lambda_traffic_mirror import (
    CallFailed,
    Configuration,
    Face,
    Failure,
    Finding,
    Interface,
    Says,
    Sensor,
    Source,
    Unanswered,
    Unreadable,
    groups_admit,
    origins_of,
    resolved,
)

Rules = list[dict[str, Any]]

ADDRESS = "10.0.5.11"
GROUPS = ("sg-source", "sg-second")
CONFIGURATION = Configuration.from_environment({"filter_id": "tmf-1", "targets": "tmt-1"})
ANYWHERE = {"IpRanges": [{"CidrIp": "0.0.0.0/0"}]}


def permission(protocol: str = "udp", *ports: int | None, **origins: Any) -> dict[str, Any]:
    """A rule as DescribeSecurityGroups shows it: udp/4789 from anywhere unless told otherwise."""
    if protocol == "udp" and not ports:
        ports = 4789, 4789
    ends = zip(("FromPort", "ToPort"), ports, strict=False)
    shown = {"IpProtocol": protocol, **{name: port for name, port in ends if port is not None}}
    return shown | (origins or ANYWHERE)


def block(cidr: str) -> dict[str, Any]:
    return permission(IpRanges=[{"CidrIp": cidr}])


def members(group: str = "sg-source", **more: str) -> dict[str, Any]:
    return permission(UserIdGroupPairs=[{"GroupId": group, **more}])


def listed(key: str = "pl-1") -> dict[str, Any]:
    return permission(PrefixListIds=[{"PrefixListId": key}])


def finding_on(
    *groups: Rules,
    lists: Mapping[str, Sequence[str | Unanswered]] | None = None,
    vpc: str = "vpc-1",
    unseen: Sequence[str] = (),
) -> Finding:
    """What the stage says of a sensor in this VPC, whose groups have these rules."""
    source = Interface("eni-1", vpc_id="vpc-1", address=ADDRESS, group_ids=GROUPS)
    account: Any = SimpleNamespace(known=lambda _, key: (lists or {}).get(key, ()))
    ids = [f"sg-sensor-{number}" for number in range(len(groups))]
    origins = [
        origin
        for key, rules in zip(ids, groups, strict=True)
        for origin in resolved(account, key, origins_of({"GroupId": key, "IpPermissions": rules}))
    ]
    face = Face(
        Sensor("tmt-1", None, False, False, 0),
        Interface("eni-2", vpc_id=vpc, group_ids=(*ids, *unseen)),
        origins=origins,
        unseen_groups=tuple(unseen),
    )
    return groups_admit(Source(source, "i-1", {}), face, CONFIGURATION)


RULES: dict[str, tuple[dict[str, Any], bool]] = {
    # about protocols and ports
    "udp/4789": (permission(), True),
    "4789 is the last port of the range": (permission("udp", 4788, 4789), True),
    "4789 is the first port of the range": (permission("udp", 4789, 4790), True),
    "4789 is within the range": (permission("udp", 0, 65535), True),
    "the range ends just below 4789": (permission("udp", 0, 4788), False),
    "the range begins just above 4789": (permission("udp", 4790, 65535), False),
    "udp without ports": (permission("udp", None), True),
    "a range without its end is open upwards": (permission("udp", 4789, None), True),
    "a range without its end begins above": (permission("udp", 5000, None), False),
    "a range without its beginning is open downwards": (permission("udp", None, 4789), True),
    "a range without its beginning ends below": (permission("udp", None, 80), False),
    "udp by its number 17": (permission("17", 4789, 4789), True),
    "udp by its number 17, another port": (permission("17", 4790, 4790), False),
    "all protocols, which AWS spells -1": (permission("-1"), True),
    "all protocols with ports, which are ignored": (permission("-1", 53, 53), True),
    "tcp/4789": (permission("tcp", 4789, 4789), False),
    "tcp by its number 6": (permission("6", 4789, 4789), False),
    "icmp": (permission("icmp", -1, -1), False),
    # from blocks
    "from the source's address only": (block("10.0.5.11/32"), True),
    "from a block that ends with the source": (block("10.0.5.8/30"), True),
    "from the block just below": (block("10.0.5.10/32"), False),
    "from the block just above": (block("10.0.5.12/30"), False),
    "from IPv6 only": (permission(Ipv6Ranges=[{"CidrIpv6": "::/0"}]), False),
    "from nowhere": (permission(IpRanges=[]), False),
    "all protocols, but from another network": (
        permission("-1", IpRanges=[{"CidrIp": "192.168.0.0/16"}]),
        False,
    ),
    # from members of security groups, within one VPC or across a peering connection
    "from the source's group": (members(), True),
    "from the source's second group": (members("sg-second"), True),
    "from a group that the source is not in": (members("sg-other"), False),
    "tcp from the source's group": (
        permission("tcp", 4789, 4789, UserIdGroupPairs=[{"GroupId": "sg-source"}]),
        False,
    ),
    "an empty PeeringStatus is none": (members(PeeringStatus=""), True),
    "PeeringStatus active, of another account": (
        members(PeeringStatus="active", UserId="210987654321"),
        True,
    ),
    **{
        f"PeeringStatus {status}": (members(PeeringStatus=status), False)
        for status in ("deleted", "expired", "pending-acceptance", "provisioning", "rejected")
    },
}


@pytest.mark.parametrize(("only_rule", "admits"), RULES.values(), ids=RULES.keys())
def test_a_rule_admits_or_not(only_rule: dict[str, Any], admits: bool) -> None:
    says = finding_on([only_rule]).says
    assert says is (Says.PASSES if admits else Says.REJECTS)


DENIED = CallFailed(PREFIX_LIST, "UnauthorizedOperation", "", Failure.DENIED)
THROTTLED = CallFailed(PREFIX_LIST, "RequestLimitExceeded", "", Failure.THROTTLED)
UNREADABLE = Unreadable("a block")
NO = [permission("tcp", 4789, 4789), block("192.168.0.0/16")]

# The groups' rules, the entries of prefix lists, and what the stage says.
SEVERAL: dict[str, tuple[list[Rules], dict[str, list[str | Unanswered]], Says]] = {
    "one rule that admits is enough": ([[*NO, permission(), *NO]], {}, Says.PASSES),
    "one group that admits is enough": ([[], NO, [permission()]], {}, Says.PASSES),
    "protocol and origin have to match in the same rule": ([NO], {}, Says.REJECTS),
    "groups without a rule admit nothing": ([[], []], {}, Says.REJECTS),
    "a sensor without a group has nothing to filter": ([], {}, Says.PASSES),
    "one reference inactive, the same one active": (
        [[members(PeeringStatus="deleted"), members(PeeringStatus="active")]],
        {},
        Says.PASSES,
    ),
    "a prefix list with an entry that contains the source": (
        [[listed()]],
        {"pl-1": ["192.168.0.0/16", "10.0.5.8/29"]},
        Says.PASSES,
    ),
    "a prefix list without one": ([[listed()]], {"pl-1": ["10.0.5.12/30"]}, Says.REJECTS),
    "a prefix list of IPv6": ([[listed()]], {"pl-1": ["::/0"]}, Says.REJECTS),
    "an empty prefix list": ([[listed()]], {"pl-1": []}, Says.REJECTS),
    "an IPv6 entry before one that admits": (
        [[listed()]],
        {"pl-1": ["::/0", "10.0.0.0/8"]},
        Says.PASSES,
    ),
    "the second of two prefix lists": (
        [[listed()], [listed("pl-2")]],
        {"pl-1": ["192.168.0.0/16"], "pl-2": ["10.0.0.0/8"]},
        Says.PASSES,
    ),
    # What is not known does not outvote a rule that admits.
    "a denied prefix list beside a rule that admits": (
        [[listed(), permission()]],
        {"pl-1": [DENIED]},
        Says.PASSES,
    ),
    "a throttled prefix list beside a list that admits": (
        [[listed(), listed("pl-2")]],
        {"pl-1": [THROTTLED], "pl-2": ["10.0.0.0/8"]},
        Says.PASSES,
    ),
    "a block that cannot be read before one that admits": (
        [[block("10.0.0.0/99"), permission()]],
        {},
        Says.PASSES,
    ),
    "a denied prefix list does not match, and could settle it": (
        [[listed()]],
        {"pl-1": [DENIED]},
        Says.UNSETTLED,
    ),
}


@pytest.mark.parametrize(("groups", "lists", "says"), SEVERAL.values(), ids=SEVERAL.keys())
def test_the_groups_are_a_union_of_their_rules(
    groups: list[Rules], lists: dict[str, list[str | Unanswered]], says: Says
) -> None:
    assert finding_on(*groups, lists=lists).says is says


LACKING: dict[str, tuple[Rules, dict[str, list[str | Unanswered]], type[Unanswered]]] = {
    "a throttled prefix list": ([*NO, listed()], {"pl-1": [THROTTLED]}, CallFailed),
    "an entry of a prefix list that is no block": ([listed()], {"pl-1": ["10.0/99"]}, Unreadable),
    "an entry that cannot be read": ([listed()], {"pl-1": [UNREADABLE]}, Unreadable),
    "a block that is none": ([block("10.0.0.0/99"), *NO], {}, Unreadable),
}


@pytest.mark.parametrize(("rules", "lists", "error"), LACKING.values(), ids=LACKING.keys())
def test_where_no_rule_admits_what_cannot_be_read_is_a_missing_answer(
    rules: Rules, lists: dict[str, list[str | Unanswered]], error: type[Unanswered]
) -> None:
    with pytest.raises(error):
        finding_on(rules, lists=lists)


@pytest.mark.parametrize(
    ("rules", "says"), [([permission()], Says.PASSES), (NO, Says.UNSEEN)], ids=["admits", "not"]
)
def test_a_group_that_cannot_be_seen_decides_where_no_other_group_admits(
    rules: Rules, says: Says
) -> None:
    assert finding_on(rules, unseen=["sg-hidden"]).says is says


# Rules beside a reference without PeeringStatus to the source's group, and whether the sensor is
# then ranked behind.
UNSTATED: dict[str, tuple[Rules, str, bool]] = {
    "within one VPC": ([], "vpc-1", False),
    "from another VPC": ([], "vpc-2", True),
    "from another VPC, beside a rule that does not admit": (NO, "vpc-2", True),
    "from another VPC, beside an inactive peering": (
        [members(PeeringStatus="deleted")],
        "vpc-2",
        True,
    ),
    "from another VPC, beside an active peering": (
        [members(PeeringStatus="active")],
        "vpc-2",
        False,
    ),
    "from another VPC, beside a block that admits": ([block("10.0.5.0/24")], "vpc-2", False),
}


@pytest.mark.parametrize(("besides", "vpc", "behind"), UNSTATED.values(), ids=UNSTATED.keys())
def test_a_reference_without_a_peering_status_from_another_vpc_ranks_behind(
    besides: Rules, vpc: str, behind: bool
) -> None:
    for rules in ([members(), *besides], [*besides, members()]):
        finding = finding_on(rules, vpc=vpc)
        said = "peering status" in str(finding)
        assert (finding.says, said) == (Says.BEHIND if behind else Says.PASSES, behind)


EVIDENCE: dict[str, tuple[dict[str, Any], list[str]]] = {
    "the group and the block that admit": (
        block("10.0.5.8/29"),
        ["sg-sensor-0", "udp/4789", "10.0.5.8/29"],
    ),
    "whose members are admitted": (members(), ["sg-sensor-0", "udp/4789", "members of sg-source"]),
    "the prefix list and its entry": (listed(), ["sg-sensor-0", "pl-1", "10.0.5.0/24"]),
    "that no rule admits the address": (
        permission("tcp", 4789, 4789),
        ["No rule", "sg-sensor-0", "udp/4789", ADDRESS],
    ),
    "the inactive peering": (members(PeeringStatus="deleted"), ["inactive peering", "sg-source"]),
    "the permission that would settle it": (listed("pl-2"), [f"ec2:{PREFIX_LIST}", "pl-2"]),
}


@pytest.mark.parametrize(("only_rule", "words"), EVIDENCE.values(), ids=EVIDENCE.keys())
def test_the_reason_names(only_rule: dict[str, Any], words: list[str]) -> None:
    lists: dict[str, list[str | Unanswered]] = {"pl-1": ["10.0.5.0/24"], "pl-2": [DENIED]}
    assert missing(str(finding_on([only_rule], lists=lists)), *words) == []


# --------------------------------------------------------------------------------------
# What EC2 shows, from end to end
# --------------------------------------------------------------------------------------

warm = pytest.mark.usefixtures("shared_client")


@warm
def test_outbound_rules_of_the_source_do_not_matter(scene: Scene, sensor: str) -> None:
    group = scene.group()
    everything = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    scene.ec2.revoke_security_group_egress(GroupId=group, IpPermissions=everything)
    assert scene.run(scene.instance(groups=[group])).stages == ["(selected)"]


@warm
def test_a_sensor_behind_a_reference_without_a_peering_status_comes_last(scene: Scene) -> None:
    scene.route_table(routes=[route("10.9.0.0/16", tgw=True)], main=True)
    ours, far = scene.group(), scene.vpc("10.9.0.0/16")
    group = scene.group(rule(group=ours, vpc=scene.default_vpc), vpc=far)
    scene.configure([scene.sensor(scene.subnet(vpc=far), [group]), scene.sensor(sessions=5)])
    assert scene.run(scene.instance(groups=[ours])).stages == ["(eligible)", "(selected)"]


@warm
@pytest.mark.parametrize("others", [99, 100, 200], ids=["first page", "second", "third"])
def test_a_prefix_list_is_read_to_its_last_page(scene: Scene, others: int) -> None:
    blocks = [f"192.168.{number}.0/24" for number in range(others)]
    key = scene.prefix_list(*blocks, "10.0.0.0/8")
    groups = [scene.group(rule(prefix_list=key))]
    scene.configure([scene.sensor(groups=groups), scene.sensor(groups=groups)])  # one list for both
    assert scene.run(scene.instance()).outcomes == ["created"]
    assert scene.count(PREFIX_LIST) == others // 100 + 1


@warm
@pytest.mark.parametrize(("protocol", "ports"), [("tcp", (4789, 4789)), ("udp", (53, 53))])
def test_a_prefix_list_of_a_rule_for_other_packets_is_not_read(
    scene: Scene, protocol: str, ports: tuple[int, int]
) -> None:
    key = scene.prefix_list("10.0.0.0/8")
    scene.configure(scene.sensor(groups=[scene.group(rule(protocol, ports, prefix_list=key))]))
    assert scene.run(scene.instance()).stages == ["security_group"]
    assert scene.count(PREFIX_LIST) == 0


# What becomes of an interface whose only sensor needs a prefix list, of its session in a sweep,
# and which words say why.
LISTS: dict[str, tuple[dict[str, Any], str, str, list[str]]] = {
    "denied": ({}, "unmirrored", "exists", [f"ec2:{PREFIX_LIST}"]),
    "unknown": (
        {"code": "InvalidPrefixListID.NotFound", "status": 400},
        "unmirrored",
        "exists",
        ["InvalidPrefixListID.NotFound"],
    ),
    "throttled": (
        {"code": "RequestLimitExceeded"},
        "failed",
        "failed",
        [PREFIX_LIST, "RequestLimitExceeded"],
    ),
}


@warm
@pytest.mark.parametrize(("fault", "outcome", "swept", "words"), LISTS.values(), ids=LISTS.keys())
def test_while_the_prefix_list_that_decides_is(
    scene: Scene, fault: dict[str, Any], outcome: str, swept: str, words: list[str]
) -> None:
    key = scene.prefix_list("10.0.0.0/8")
    target = scene.sensor(groups=[scene.group(rule(prefix_list=key))])
    scene.configure(target)
    (mirrored,) = scene.mirrored(target)
    if fault:
        scene.fail(PREFIX_LIST, **fault)
    else:
        scene.deny(f"ec2:{PREFIX_LIST}")
    delivery = deliver(running_event(scene.instance()))
    said = delivery.error or delivery.answer.sensors[target]["reason"]
    assert (bool(delivery.error), missing(said, *words)) == (outcome == "failed", [])
    sweep = deliver(scheduled_event())
    if swept == "failed":
        assert missing(sweep.error, scene.first_interface(mirrored), *words) == []
    else:
        assert sweep.answer.of(mirrored)["outcome"] == swept
