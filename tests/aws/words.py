"""Small words for what the account is built from: rules and entries."""

from __future__ import annotations

from typing import Any

VXLAN_PORT = 4789


def acl_entry(
    number: int,
    action: str,
    cidr: str = "0.0.0.0/0",
    protocol: str = "17",
    ports: tuple[int, int] | None = (VXLAN_PORT, VXLAN_PORT),
    egress: bool = False,
) -> dict[str, Any]:
    """One network ACL entry. Protocols other than TCP and UDP have no ports, as in AWS."""
    entry = {"RuleNumber": number, "RuleAction": action, "Protocol": protocol, "Egress": egress}
    entry["Ipv6CidrBlock" if ":" in cidr else "CidrBlock"] = cidr
    if ports is not None and protocol in ("6", "17"):
        entry["PortRange"] = {"From": ports[0], "To": ports[1]}
    return entry


def rule(
    protocol: str = "udp",
    ports: tuple[int, int] | None = (VXLAN_PORT, VXLAN_PORT),
    cidr: str | None = None,
    group: str | None = None,
    peering: str | None = None,
    prefix_list: str | None = None,
) -> dict[str, Any]:
    """One inbound security group rule, from 0.0.0.0/0 unless an origin is named.

    `peering` is the PeeringStatus that the reference to `group` shows (the group then belongs to a
    peer VPC and need not exist here).
    """
    if cidr is None and group is None and prefix_list is None:
        cidr = "0.0.0.0/0"
    return {
        "protocol": protocol,
        "ports": ports,
        "cidr": cidr,
        "group": group,
        "peering": peering,
        "prefix_list": prefix_list,
    }
