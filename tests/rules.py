"""Random rules of security groups and network ACLs, as AWS shows them, for property-based tests.

Addresses are few and blocks lie close to them, so that rules often match, or only just miss.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from hypothesis import strategies as st

PORTS = (0, 1, 4788, 4789, 4790, 65535)


def addresses() -> st.SearchStrategy[str]:
    """Few private addresses, so that rules and addresses meet often."""
    return st.builds(
        "10.{}.{}.{}".format,
        st.sampled_from((0, 1)),
        st.sampled_from((0, 1, 255)),
        st.sampled_from((1, 10, 127, 128, 255)),
    )


def blocks() -> st.SearchStrategy[str]:
    """IPv4 blocks that often contain, or only just miss, one of the addresses."""

    def block(address: str, length: int) -> str:
        return str(ipaddress.ip_network(f"{address}/{length}", strict=False))

    near = st.builds(block, addresses(), st.sampled_from((8, 15, 16, 23, 24, 25, 30, 31, 32)))
    return st.one_of(near, near, st.sampled_from(("0.0.0.0/0", "192.168.0.0/16", "10.0.0.0/9")))


def port_ranges() -> st.SearchStrategy[tuple[int, int] | None]:
    """Port ranges whose ends lie at and beside 4789, or none."""
    ordered = st.tuples(st.sampled_from(PORTS), st.sampled_from(PORTS)).map(
        lambda pair: (min(pair), max(pair))
    )
    return st.one_of(st.none(), ordered)


GROUP_IDS = ("sg-one", "sg-two", "sg-three")
PREFIX_LIST_IDS = ("pl-one", "pl-two", "pl-three")


def group_id_lists() -> st.SearchStrategy[list[str]]:
    """The groups that a source has."""
    return st.lists(st.sampled_from(GROUP_IDS), max_size=2, unique=True)


@st.composite
def ip_permissions(draw: st.DrawFn) -> list[dict[str, Any]]:
    """`IpPermissions` of a security group as DescribeSecurityGroups returns them."""
    rules: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(0, 4))):
        protocol = draw(st.sampled_from(("-1", "udp", "udp", "17", "tcp", "icmp", "6")))
        rule: dict[str, Any] = {
            "IpProtocol": protocol,
            "IpRanges": [],
            "Ipv6Ranges": [],
            "PrefixListIds": [],
            "UserIdGroupPairs": [],
        }
        ports = draw(port_ranges())
        if ports is not None:
            rule["FromPort"], rule["ToPort"] = ports
        for _ in range(draw(st.integers(0, 2))):
            origin = draw(st.sampled_from(("block", "block", "group", "list", "ipv6")))
            if origin == "block":
                rule["IpRanges"].append({"CidrIp": draw(blocks())})
            elif origin == "ipv6":
                rule["Ipv6Ranges"].append({"CidrIpv6": "::/0"})
            elif origin == "list":
                listed = draw(st.sampled_from(PREFIX_LIST_IDS))
                rule["PrefixListIds"].append({"PrefixListId": listed})
            else:
                pair = {
                    "GroupId": draw(st.sampled_from(GROUP_IDS)),
                    "UserId": "123456789012",
                }
                status = draw(st.sampled_from((None, "active", "deleted", "pending-acceptance")))
                if status:
                    pair["PeeringStatus"] = status
                rule["UserIdGroupPairs"].append(pair)
        rules.append(rule)
    return rules


@st.composite
def prefix_list_entries(draw: st.DrawFn) -> dict[str, list[dict[str, Any]]]:
    """The entries of some of the prefix lists, as GetManagedPrefixListEntries returns them."""
    readable = draw(st.lists(st.sampled_from(PREFIX_LIST_IDS), unique=True))
    return {
        listed: [
            {"Cidr": block}
            for block in draw(st.lists(st.one_of(blocks(), st.just("2001:db8::/32")), max_size=3))
        ]
        for listed in readable
    }


@st.composite
def acl_entries(draw: st.DrawFn) -> list[dict[str, Any]]:
    """`Entries` of a network ACL, in any order, mostly with the final denial."""
    entries: list[dict[str, Any]] = []
    for egress in (False, True):
        numbers = draw(st.lists(st.integers(1, 400), max_size=5, unique=True))
        for number in numbers:
            entry: dict[str, Any] = {
                "Egress": egress,
                "Protocol": draw(st.sampled_from(("-1", "17", "17", "6", "1"))),
                "RuleAction": draw(st.sampled_from(("allow", "deny"))),
                "RuleNumber": number,
            }
            ports = draw(port_ranges())
            if ports is not None:
                entry["PortRange"] = {"From": ports[0], "To": ports[1]}
            if draw(st.integers(0, 4)) == 0:
                entry["Ipv6CidrBlock"] = "::/0"
            else:
                entry["CidrBlock"] = draw(blocks())
            entries.append(entry)
        if draw(st.integers(0, 4)) > 0:
            entries.append(
                {
                    "CidrBlock": "0.0.0.0/0",
                    "Egress": egress,
                    "Protocol": "-1",
                    "RuleAction": "deny",
                    "RuleNumber": 32767,
                }
            )
    return list(draw(st.permutations(entries)))
