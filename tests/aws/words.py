"""Small words for what the account is built from: rules, entries, routes."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    vpc: str | None = None,
    owner: str | None = None,
) -> dict[str, Any]:
    """One inbound security group rule, from 0.0.0.0/0 unless an origin is named.

    `peering` is the PeeringStatus that the reference to `group` shows (the group then belongs to a
    peer VPC and need not exist here). `vpc` is the group's VPC as the reference shows it, `owner`
    its account; with `vpc` and no `peering` it is a reference as a transit gateway or a shared
    group may show it.
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
        "vpc": vpc,
        "owner": owner,
    }


# Next hops: the word for each, the field that shows it, how its ID begins.
_NEXT_HOPS = {
    "local": ("GatewayId", "local"),
    "igw": ("GatewayId", "igw"),
    "vgw": ("GatewayId", "vgw"),
    "vpce": ("GatewayId", "vpce"),
    "nat": ("NatGatewayId", "nat"),
    "tgw": ("TransitGatewayId", "tgw"),
    "pcx": ("VpcPeeringConnectionId", "pcx"),
    "eni": ("NetworkInterfaceId", "eni"),
    "instance": ("InstanceId", "i"),
    "cagw": ("CarrierGatewayId", "cagw"),
    "lgw": ("LocalGatewayId", "lgw"),
    "eigw": ("EgressOnlyInternetGatewayId", "eigw"),
    "core_network": ("CoreNetworkArn", "core-network"),
}


def route(
    destination: str, *, state: str = "active", propagated: bool = False, **next_hop: str | bool
) -> dict[str, Any]:
    """One route: to a block of IPv4 or IPv6 or a prefix list (`pl-…`), by one next hop.

    route("10.1.0.0/16", tgw="tgw-…"), or tgw=True for one whose ID does not matter. The words are
    local, igw, vgw, vpce, nat, tgw, pcx, eni, instance, cagw (carrier), lgw (local gateway), eigw
    (egress-only) and core_network (an ARN). `state`: active, blackhole, filtered.
    """
    ((word, value),) = next_hop.items()
    name, prefix = _NEXT_HOPS[word]
    if value is True:
        value = prefix if word == "local" else f"{prefix}-0123456789abcdef0"
        if word == "core_network":
            value = f"arn:aws:networkmanager::123456789012:core-network/{value}"
    kind = "DestinationCidrBlock"
    if destination.startswith("pl-"):
        kind = "DestinationPrefixListId"
    elif ":" in destination:
        kind = "DestinationIpv6CidrBlock"
    origin = "CreateRouteTable" if word == "local" else "CreateRoute"
    return {
        kind: destination,
        name: value,
        "State": state,
        "Origin": "EnableVgwRoutePropagation" if propagated else origin,
    }


@dataclass
class RouteTable:
    """What decides which way packets leave its subnets; the main one, those that have no other."""

    id: str
    vpc_id: str
    routes: list[dict[str, Any]]
    subnets: list[str] = field(default_factory=list)
    main: bool = False

    def associations(self) -> list[dict[str, Any]]:
        """As AWS shows them: the main table does not name the subnets that have no other."""
        own = [{"Main": False, "SubnetId": subnet} for subnet in self.subnets]
        return [{"Main": True}, *own] if self.main else own
