"""Which security group rules admit mirrored packets: udp/4789 from the source's primary address.

One row for each rule of the contract. The source is 10.0.5.11, a member of sg-source and sg-second.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aws import rule, running_event, scheduled_event
from calls import FAULTS, PREFIX_LIST, Fault
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

ADDRESS = "10.0.5.11"
YES, NO = Says.PASSES, Says.REJECTS
CONFIGURATION = Configuration.from_environment({"filter_id": "tmf-1", "targets": "tmt-1"})
# The entries of each prefix list.
LISTS: dict[str, list[str | Unanswered]] = {
    "pl-near": ["192.168.0.0/16", "10.0.5.8/29"],
    "pl-far": ["10.0.5.12/30"],
    "pl-ipv6": ["::/0"],
    "pl-mixed": ["::/0", "10.0.0.0/8"],
    "pl-empty": [],
    "pl-malformed": ["10.0/99"],
    "pl-unreadable": [Unreadable("a block")],
    "pl-denied": [CallFailed(PREFIX_LIST, "UnauthorizedOperation", "", Failure.DENIED)],
    "pl-throttled": [CallFailed(PREFIX_LIST, "RequestLimitExceeded", "", Failure.THROTTLED)],
}


def rule_of(text: str) -> dict[str, Any]:
    """A rule as DescribeSecurityGroups shows it: `udp 4788:4790 10.0.0.0/8 sg-1=active pl-1`.

    Protocol, port range and origins: blocks, groups with their PeeringStatus, prefix lists. Without
    a range udp has 4789 alone; without an origin it is anywhere.
    """
    protocol, *words = text.split()
    shown: dict[str, Any] = {"IpProtocol": protocol}
    ports = re.fullmatch("([0-9]*):([0-9]*)", words[0]) if words else None
    ends = ports.groups() if ports else ("4789", "4789") if protocol == "udp" else ("", "")
    shown |= {key: int(end) for key, end in zip(("FromPort", "ToPort"), ends, strict=True) if end}
    for word in words[bool(ports) :] or ["0.0.0.0/0"]:
        if word.startswith("sg-"):
            group, peered, status = word.partition("=")
            pair = {"GroupId": group} | ({"PeeringStatus": status} if peered else {})
            shown.setdefault("UserIdGroupPairs", []).append(pair)
        elif word.startswith("pl-"):
            shown.setdefault("PrefixListIds", []).append({"PrefixListId": word})
        elif ":" in word:
            shown.setdefault("Ipv6Ranges", []).append({"CidrIpv6": word})
        elif word != "nowhere":
            shown.setdefault("IpRanges", []).append({"CidrIp": word})
    return shown


def finding_on(*groups: str, vpc: str = "vpc-1", unseen: Sequence[str] = ()) -> Finding:
    """What the stage says of a sensor in this VPC, whose groups have these rules, separated by
    commas."""
    source = Interface(
        "eni-1", vpc_id="vpc-1", address=ADDRESS, group_ids=("sg-source", "sg-second")
    )
    account: Any = SimpleNamespace(known=lambda _, key: LISTS.get(key, ()))
    rules = {
        f"sg-sensor-{number}": [rule_of(text) for text in group.split(", ") if text]
        for number, group in enumerate(groups)
    }
    shown = [{"GroupId": key, "IpPermissions": found} for key, found in rules.items()]
    face = Face(
        Sensor("tmt-1", None, False, False, 0),
        Interface("eni-2", vpc_id=vpc, group_ids=(*rules, *unseen)),
        origins=[
            one for row in shown for one in resolved(account, row["GroupId"], origins_of(row))
        ],
        unseen_groups=tuple(unseen),
    )
    return groups_admit(Source(source, "i-1", {}), face, CONFIGURATION)


ADMITS = {
    "udp/4789": "udp",
    "4789 is the last port of the range": "udp 4788:4789",
    "4789 is the first port of the range": "udp 4789:4790",
    "udp without ports": "udp :",
    "a range without its end is open upwards": "udp 4789:",
    "a range without its beginning is open downwards": "udp :4789",
    "udp by its number 17": "17 4789:4789",
    "all protocols, which AWS spells -1": "-1",
    "all protocols with ports, which are ignored": "-1 53:53",
    "from the source's address only": "udp 10.0.5.11/32",
    "from a block that ends with the source": "udp 10.0.5.8/30",
    "from the second of two blocks of a rule": "udp 192.168.0.0/16 10.0.0.0/8",
    "from the source's group": "udp sg-source",
    "from the second of two groups of a rule": "udp sg-other sg-source",
    "from the source's second group": "udp sg-second",
    "an empty PeeringStatus is none": "udp sg-source=",
    "PeeringStatus active": "udp sg-source=active",
}
ADMITS_NOT = {
    "the range ends just below 4789": "udp 0:4788",
    "the range begins just above 4789": "udp 4790:65535",
    "a range without its end begins above": "udp 4790:",
    "a range without its beginning ends below": "udp :4788",
    "udp by its number 17, another port": "17 4790:4790",
    "tcp/4789": "tcp 4789:4789",
    "tcp by its number 6": "6 4789:4789",
    "from the block just below": "udp 10.0.5.10/32",
    "from the block just above": "udp 10.0.5.12/30",
    "from IPv6 only": "udp ::/0",
    "from nowhere": "udp nowhere",
    "all protocols, but from another network": "-1 192.168.0.0/16",
    "from a group that the source is not in": "udp sg-other",
    "tcp from the source's group": "tcp 4789:4789 sg-source",
    **{
        f"PeeringStatus {status}": f"udp sg-source={status}"
        for status in ("deleted", "expired", "pending-acceptance", "provisioning", "rejected")
    },
}


@pytest.mark.parametrize("name", [*ADMITS, *ADMITS_NOT])
def test_a_rule_admits_or_not(name: str) -> None:
    says = finding_on((ADMITS | ADMITS_NOT)[name]).says
    assert says is (YES if name in ADMITS else NO)


NEITHER = "tcp 4789:4789, udp 192.168.0.0/16"
# The rules of each group, and what the stage says, or what it raises.
SEVERAL: dict[str, tuple[list[str], Says | type[Unanswered]]] = {
    "one rule that admits is enough": ([f"{NEITHER}, udp, {NEITHER}"], YES),
    "one group that admits is enough": (["", NEITHER, "udp"], YES),
    "protocol and origin have to match in the same rule": ([NEITHER], NO),
    "groups without a rule admit nothing": (["", ""], NO),
    "a sensor without a group has nothing to filter": ([], YES),
    "an inactive reference, and the same one active": (
        ["udp sg-source=deleted, udp sg-source=active"],
        YES,
    ),
    "a prefix list with an entry that contains the source": (["udp pl-near"], YES),
    "a prefix list without one": (["udp pl-far"], NO),
    "a prefix list of IPv6": (["udp pl-ipv6"], NO),
    "an empty prefix list": (["udp pl-empty"], NO),
    "an IPv6 entry before one that admits": (["udp pl-mixed"], YES),
    "the second of two prefix lists": (["udp pl-far", "udp pl-near"], YES),
    "the second of two prefix lists of a rule": (["udp pl-far pl-near"], YES),
    # What is not known does not outvote a rule that admits.
    "a denied prefix list beside a rule that admits": (["udp pl-denied, udp"], YES),
    "a throttled prefix list beside one that admits": (["udp pl-throttled, udp pl-near"], YES),
    "a block that cannot be read before one that admits": (["udp 10.0.0.0/99, udp"], YES),
    "a denied prefix list could settle it": (["udp pl-denied"], Says.UNSETTLED),
    # Where no rule admits, what cannot be read is a missing answer.
    "a throttled prefix list": ([f"{NEITHER}, udp pl-throttled"], CallFailed),
    "an entry of a prefix list that is no block": (["udp pl-malformed"], Unreadable),
    "an entry that cannot be read": (["udp pl-unreadable"], Unreadable),
    "a block that is none": ([f"udp 10.0.0.0/99, {NEITHER}"], Unreadable),
}


@pytest.mark.parametrize(("groups", "says"), SEVERAL.values(), ids=SEVERAL.keys())
def test_the_groups_are_a_union_of_their_rules(
    groups: list[str], says: Says | type[Unanswered]
) -> None:
    if isinstance(says, Says):
        assert finding_on(*groups).says is says
    else:
        with pytest.raises(says):
            finding_on(*groups)


@pytest.mark.parametrize(
    ("rules", "says"), [("udp", YES), (NEITHER, Says.UNSEEN)], ids=["admits", "not"]
)
def test_a_group_that_cannot_be_seen_decides_where_no_other_group_admits(
    rules: str, says: Says
) -> None:
    assert finding_on(rules, unseen=["sg-hidden"]).says is says


# The sensor's VPC, a rule beside a reference without PeeringStatus to the source's group, and
# whether the sensor is then ranked behind.
UNSTATED = {
    "within one VPC": ("vpc-1", "tcp", False),
    "from another VPC": ("vpc-2", "", True),
    "from another VPC, beside a rule that does not admit": ("vpc-2", NEITHER, True),
    "from another VPC, beside an inactive peering": ("vpc-2", "udp sg-source=deleted", True),
    "from another VPC, beside an active peering": ("vpc-2", "udp sg-source=active", False),
    "from another VPC, beside a block that admits": ("vpc-2", "udp 10.0.5.0/24", False),
}


@pytest.mark.parametrize(("vpc", "beside", "behind"), UNSTATED.values(), ids=UNSTATED.keys())
def test_a_reference_without_a_peering_status_from_another_vpc_ranks_behind(
    vpc: str, beside: str, behind: bool
) -> None:
    for rules in (f"udp sg-source, {beside}", f"{beside}, udp sg-source"):
        finding = finding_on(rules, vpc=vpc)
        said = "peering status" in str(finding)
        assert (finding.says, said) == (Says.BEHIND if behind else YES, behind)


EVIDENCE = {
    "the group and the block": ("udp 10.0.5.8/29", ["sg-sensor-0", "udp/4789", "10.0.5.8/29"]),
    "whose members are admitted": ("udp sg-source", ["sg-sensor-0", "members of sg-source"]),
    "the prefix list and its entry": ("udp pl-near", ["sg-sensor-0", "pl-near", "10.0.5.8/29"]),
    "that no rule admits the address": ("tcp", ["No rule", "sg-sensor-0", "udp/4789", ADDRESS]),
    "the inactive peering": ("udp sg-source=deleted", ["inactive peering", "sg-source"]),
    "the permission that would settle it": ("udp pl-denied", [f"ec2:{PREFIX_LIST}", "pl-denied"]),
}


@pytest.mark.parametrize(("only_rule", "words"), EVIDENCE.values(), ids=EVIDENCE.keys())
def test_the_reason_of_the_security_group_stage_names_its_evidence(
    only_rule: str, words: list[str]
) -> None:
    assert missing(str(finding_on(only_rule)), *words) == []


# --- What EC2 shows, from end to end

warm = pytest.mark.usefixtures("shared_client")


@warm
def test_outbound_rules_of_the_source_do_not_matter(scene: Scene, sensor: str) -> None:
    group = scene.group()
    everything = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    scene.ec2.revoke_security_group_egress(GroupId=group, IpPermissions=everything)
    assert scene.run(scene.instance(groups=[group])).stages == ["(selected)"]


@warm
def test_a_prefix_list_of_a_rule_for_other_packets_is_not_read(scene: Scene) -> None:
    key = scene.prefix_list("10.0.0.0/8")
    others = [("tcp", (4789, 4789)), ("udp", (53, 53))]
    group = scene.group(*(rule(*other, prefix_list=key) for other in others))
    scene.configure(scene.sensor(groups=[group]))
    assert scene.run(scene.instance()).stages == ["security_group"]
    assert scene.count(PREFIX_LIST) == 0


@warm
@pytest.mark.parametrize("fault", ["denied", "unknown", "throttled"])
def test_an_unreadable_prefix_list_that_decides_fails_throttled_and_rejects_denied_or_unknown(
    scene: Scene, fault: str
) -> None:
    """Throttled, it may be read later; denied or unknown, it admits nobody."""
    target = scene.sensor(groups=[scene.group(rule(prefix_list=scene.prefix_list("10.0.0.0/8")))])
    scene.configure(target)
    (mirrored,) = scene.mirrored(target)
    unknown = Fault("InvalidPrefixListID.NotFound", 400)
    (unknown if fault == "unknown" else FAULTS[fault])(scene, PREFIX_LIST)
    event, sweep = deliver(running_event(scene.instance())), deliver(scheduled_event())
    if fault == "throttled":
        words = [f"{PREFIX_LIST} failed with RequestLimitExceeded", "1 failed"]
        assert missing(event.error, *words) == []
        assert missing(sweep.error, *words[:1], scene.first_interface(mirrored)) == []
    else:
        word = f"ec2:{PREFIX_LIST}" if fault == "denied" else unknown.code
        assert event.answer.outcomes == ["unmirrored"]
        assert word in event.answer.sensors[target]["reason"]
        assert sweep.answer.of(mirrored)["outcome"] == "exists"
