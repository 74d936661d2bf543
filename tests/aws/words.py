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
    owner: str | None = None,
) -> dict[str, Any]:
    """One inbound security group rule, from 0.0.0.0/0 unless an origin is named.

    `peering` is the PeeringStatus that the reference to `group` shows (the group then belongs to a
    peer VPC and need not exist here), `owner` its account.
    """
    protocol = {"17": "udp", "6": "tcp", "1": "icmp"}.get(protocol, protocol)  # as AWS shows it
    if cidr is None and group is None and prefix_list is None:
        cidr = "0.0.0.0/0"
    shown = {"GroupId": group, "UserId": owner, "PeeringStatus": peering}
    if peering is not None:
        shown |= {"VpcPeeringConnectionId": f"pcx-{0:017x}", "VpcId": f"vpc-{0:017x}"}
    return {
        "protocol": protocol,
        "ports": ports if ports and protocol in ("udp", "tcp", "icmp") else (None, None),
        "block": cidr and {"CidrIpv6" if ":" in cidr else "CidrIp": cidr},
        "pair": group and {name: value for name, value in shown.items() if value is not None},
        "prefix_list": prefix_list and {"PrefixListId": prefix_list},
    }


# The field that shows a next hop, where it is not a GatewayId.
_NEXT_HOPS = {
    "nat": "NatGatewayId",
    "tgw": "TransitGatewayId",
    "pcx": "VpcPeeringConnectionId",
    "eni": "NetworkInterfaceId",
    "instance": "InstanceId",
    "cagw": "CarrierGatewayId",
    "lgw": "LocalGatewayId",
    "eigw": "EgressOnlyInternetGatewayId",
    "core_network": "CoreNetworkArn",
}
# Where it does not begin with the word for it.
_SOME = {
    "local": "local",
    "instance": f"i-{1:017x}",
    "core_network": "arn:aws:networkmanager::123456789012:core-network/core-network-1",
}


def route(destination: str, *, state: str = "active", **next_hop: str | bool) -> dict[str, Any]:
    """One route: to a block of IPv4 or IPv6 or a prefix list (`pl-…`), by one next hop.

    route("10.1.0.0/16", tgw="tgw-…"), or tgw=True for one whose ID does not matter. The words are
    those above and local, igw, vgw, vpce. `state`: active, blackhole, filtered.
    """
    ((word, value),) = next_hop.items()
    if value is True:
        value = _SOME.get(word, f"{word}-{1:017x}")
    kind = "DestinationIpv6CidrBlock" if ":" in destination else "DestinationCidrBlock"
    kind = "DestinationPrefixListId" if destination.startswith("pl-") else kind
    origin = "CreateRouteTable" if word == "local" else "CreateRoute"
    hop = {_NEXT_HOPS.get(word, "GatewayId"): value}
    return {kind: destination, **hop, "State": state, "Origin": origin}


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
