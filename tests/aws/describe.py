"""The Describe operations: IDs, filters, pages, and what a row looks like."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aws.sessions import Session
from aws.transport import Caller, refuse_if


def _matcher(values: Sequence[str]) -> Callable[[Any], bool]:
    """Whether a resource's value is one of the filter's, where `*` and `?` are wildcards."""
    wild = [re.escape(value) for value in values if re.search(r"[*?]", value)]
    patterns = [value.replace(r"\*", ".*").replace(r"\?", ".") for value in wild]
    exact = set(values)
    return lambda value: value in exact or any(re.fullmatch(p, value or "") for p in patterns)


@dataclass
class _Kind:
    """How the resources of one Describe* operation are found, named, filtered, paged and shown."""

    rows: str  # the answer's member
    ids: str  # the parameter
    prefix: str
    noun: str
    error: str  # how the codes begin that refuse an ID
    filters: dict[str, Callable[[Any], Any]]
    resources: Callable[[Any], Mapping[str, Any]]  # of an account, by ID
    view: Callable[[Any, Any], dict[str, Any]]  # of an account and a resource
    # Whether the resource is not shown yet, asked once for each call that would show it.
    unseen: Callable[[Any, Any], bool] = lambda account, resource: False
    malformed: str = ""  # where that code begins otherwise
    bounds: tuple[int, int] = (5, 1000)
    # Page size where MaxResults is not given; None: everything. For traffic mirroring it is not
    # documented; with 1,000 nobody can do without NextToken.
    page: int | None = None
    ids_exclude_max_results: str = ""  # the name that the refusal gives to the ID parameter


def nics_of(instance: Any) -> list[Any]:
    gone = instance._state.name == "terminated"
    return [] if gone else [instance.nics[index] for index in sorted(instance.nics)]


KINDS = {
    "DescribeInstances": _Kind(
        *("Instances", "InstanceIds", "i", "instance ID", "InvalidInstanceID"),
        {"instance-id": lambda i: i.id, "instance-state-name": lambda i: i._state.name},
        lambda a: a._all_instances(),
        lambda a, instance: a._instance_view(instance),
        lambda a, instance: a._is_unknown_yet(instance),
        ids_exclude_max_results="instancesSet",
    ),
    "DescribeNetworkInterfaces": _Kind(
        *("NetworkInterfaces", "NetworkInterfaceIds", "eni", "networkInterface ID"),
        "InvalidNetworkInterfaceID",
        {
            "network-interface-id": lambda n: n.id,
            "description": lambda n: n.description,
            "requester-id": lambda n: n.requester_id,
        },
        lambda a: a._backend.enis,
        lambda a, interface: a._interface_view(interface),
        malformed="InvalidNetworkInterfaceId",
        ids_exclude_max_results="networkInterfaceIds",
    ),
    "DescribeSecurityGroups": _Kind(
        *("SecurityGroups", "GroupIds", "sg", "security group", "InvalidGroup"),
        {"group-id": lambda g: g.id},
        lambda a: a._all_groups(),
        lambda a, group: a._group_view(group),
        malformed="InvalidGroupId",
    ),
    "DescribeNetworkAcls": _Kind(
        *("NetworkAcls", "NetworkAclIds", "acl", "networkAcl ID", "InvalidNetworkAclID"),
        {"vpc-id": lambda a: a.vpc_id},
        lambda a: a._backend.network_acls,
        lambda a, acl: a._acl_view(acl),
    ),
    "DescribeRouteTables": _Kind(
        *("RouteTables", "RouteTableIds", "rtb", "routeTable ID", "InvalidRouteTableID"),
        {"vpc-id": lambda t: t.vpc_id},
        lambda a: a._route_tables(),
        lambda a, table: a._table_view(table),
        bounds=(5, 100),
        page=100,
    ),
    "DescribeTrafficMirrorTargets": _Kind(
        *("TrafficMirrorTargets", "TrafficMirrorTargetIds", "tmt", "traffic mirror target ID"),
        "InvalidTrafficMirrorTargetId",
        {"traffic-mirror-target-id": lambda t: t.id},
        lambda a: a._visible_targets(),
        lambda a, target: a._target_view(target),
        page=1000,
    ),
    "DescribeTrafficMirrorSessions": _Kind(
        *("TrafficMirrorSessions", "TrafficMirrorSessionIds", "tms", "traffic mirror session ID"),
        "InvalidTrafficMirrorSessionId",
        {
            "traffic-mirror-target-id": lambda s: s.view["TrafficMirrorTargetId"],
            "network-interface-id": lambda s: s.view["NetworkInterfaceId"],
        },
        lambda a: a._visible_sessions(),
        lambda a, session: a._session_view(session),
        lambda a, session: session.is_late(),
        page=1000,
    ),
}


def _check_id(one: str, prefix: str, error: str) -> None:
    wrong = not re.fullmatch(rf"{prefix}-([0-9a-f]{{8}}|[0-9a-f]{{17}})", one)
    refuse_if(wrong, f"{error}.Malformed", f'Invalid id: "{one}" (expecting "{prefix}-...")')


def _page_size(parameters: Mapping[str, Any], bounds: tuple[int, int]) -> int | None:
    size: int | None = parameters.get("MaxResults")
    refuse_if(
        size is not None and not bounds[0] <= size <= bounds[1],
        "InvalidParameterValue",
        f"Value ( {size} ) for parameter maxResults is invalid. "
        f"Expecting a value between {bounds[0]} and {bounds[1]}.",
    )
    return size


def _passes(kind: _Kind, filters: Iterable[Mapping[str, Any]]) -> Callable[[Any], bool]:
    tests = []
    for item in filters:
        name, values = item.get("Name"), item.get("Values") or []
        text = "The maximum number of filter values specified on a single call is 200"
        refuse_if(len(values) > 200, "FilterLimitExceeded", text)
        longest = max((len(value) for value in values), default=0)
        text = "A filter value is longer than 255 characters"  # not documented: the words
        refuse_if(longest > 255, "InvalidParameterValue", text)
        text = f"The filter '{name}' is invalid"
        refuse_if(name not in kind.filters, "InvalidParameterValue", text)
        tests.append((kind.filters[name], _matcher(values)))
    return lambda resource: all(matches(value_of(resource)) for value_of, matches in tests)


# Where a rule's origin stands in a group's row, and its field there.
_ORIGINS = {
    "IpRanges": "CidrIp",
    "Ipv6Ranges": "CidrIpv6",
    "PrefixListIds": "PrefixListId",
    "UserIdGroupPairs": "",
}


class Describe:
    """The Describe operations of an account."""

    def _describe(
        self, operation: str, caller: Caller, parameters: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The resources that one call shows, and the token of the next page.

        What the pages hold is settled by the first call; what has gone since is left out. A token
        stays good for the call that it was made for (with any MaxResults), not for others.
        """
        kind = KINDS[operation]
        resources = kind.resources(self)
        ids, token = parameters.get(kind.ids) or [], parameters.get("NextToken")
        size = _page_size(parameters, kind.bounds)
        name = kind.ids_exclude_max_results
        text = f"The parameter {name} cannot be used with the parameter maxResults"
        refuse_if(name and ids and size is not None, "InvalidParameterCombination", text)
        passes = _passes(kind, parameters.get("Filters") or ())
        asked = {k: v for k, v in parameters.items() if k not in ("NextToken", "MaxResults")}
        text = "No more than 1000 IDs can be specified."
        refuse_if(len(ids) > 1000, "InvalidParameterValue", text)
        for one in ids:
            _check_id(one, kind.prefix, kind.malformed or kind.error)
        hidden = set() if caller.looking else self._hidden
        if not (ids or caller.looking or parameters.get("IncludeManagedResources")):
            hidden = hidden | self._managed

        def find() -> list[str]:
            among = [resources[i] for i in dict.fromkeys(ids or resources) if i in resources]
            chosen = [r for r in among if r.id not in hidden and (ids or passes(r))]
            if not caller.looking:
                chosen = [resource for resource in chosen if not kind.unseen(self, resource)]
            shown = {resource.id for resource in chosen}
            missing = [i for i in dict.fromkeys(ids) if i not in shown]
            plural, verb = ("s", "do") if len(missing) > 1 else ("", "does")
            text = f"The {kind.noun}{plural} '{', '.join(missing)}' {verb} not exist"
            refuse_if(missing, f"{kind.error}.NotFound", text)
            return [resource.id for resource in chosen if passes(resource)]

        signature = json.dumps([operation, asked])
        size = size or (None if ids else kind.page)
        found, next_token = self._page(signature, token, size, find)
        rows = [kind.view(self, resources[i]) for i in found if i in resources]
        if kind.rows == "Instances":
            return {"Reservations": self._reservations(rows), "NextToken": next_token}
        return {kind.rows: rows, "NextToken": next_token}

    def _page(
        self, signature: str, token: str | None, size: int | None, find: Callable[[], list[Any]]
    ) -> tuple[list[Any], str | None]:
        """One page of what a call finds, which further pages do not ask for again."""
        known, found, offset = self._pages.get(token, ("", [], 0)) if token else ("", [], 0)
        text = "The specified pagination token is invalid."
        refuse_if(token and known != signature, "InvalidPaginationToken", text)
        if not token:
            found = find()
        end = len(found) if size is None else offset + min(size, self._simulation.largest_page)
        next_token = None
        if end < len(found):
            next_token = f"eyJ2IjoiMiIs{uuid.uuid4().hex}"
            self._pages[next_token] = (signature, found, end)
        return found[offset:end], next_token

    def _tags_view(self, resource_id: str) -> list[dict[str, str]]:
        tags = self._backend.tags.get(resource_id) or {}
        return [{"Key": key, "Value": value} for key, value in tags.items()]

    # --- instances and interfaces

    def _all_instances(self) -> dict[str, Any]:
        return {
            instance.id: instance
            for reservation in self._backend.reservations.values()
            for instance in reservation.instances
        }

    def _is_unknown_yet(self, instance: Any) -> bool:
        left = self.unknown_instances.get(instance.id, 0)
        self.unknown_instances[instance.id] = max(left - 1, 0)
        return left > 0

    def _reservations(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found = {row["InstanceId"]: row for row in rows}
        return [
            {"ReservationId": made.id, "Instances": shown}
            for made in self._backend.reservations.values()
            if (shown := [found[one.id] for one in made.instances if one.id in found])
        ]

    def _instance_view(self, instance: Any) -> dict[str, Any]:
        zone, nics = instance._placement.zone, nics_of(instance)
        return {
            "InstanceId": instance.id,
            "State": {"Code": instance._state.code, "Name": instance._state.name},
            "InstanceType": instance.instance_type,
            "Placement": {"AvailabilityZone": zone, "AvailabilityZoneId": self.zone_id(zone)},
            "Tags": self._tags_view(instance.id) or None,
            "NetworkInterfaces": [
                self._interface_core(nic) | {"Attachment": self._attachment_view(nic)}
                for nic in nics
            ],
            "Operator": self._operator_view(instance.id),
        }

    def _operator_view(self, resource_id: str) -> dict[str, Any]:
        managed = resource_id in self._managed
        return {"Managed": managed} | ({"Principal": "eks.amazonaws.com"} if managed else {})

    @staticmethod
    def _attachment_view(interface: Any) -> dict[str, Any]:
        return {"DeviceIndex": interface.device_index, "NetworkCardIndex": 0, "Status": "attached"}

    def _interface_core(self, interface: Any) -> dict[str, Any]:
        """What DescribeInstances and DescribeNetworkInterfaces both show."""
        primary = interface.private_ip_address
        return {
            "NetworkInterfaceId": interface.id,
            "Description": interface.description,
            "InterfaceType": interface.interface_type,
            "OwnerId": self.account_id,
            "PrivateIpAddress": primary,
            "PrivateIpAddresses": [
                {**one, "Primary": one["PrivateIpAddress"] == primary}
                for one in interface.private_ip_addresses
            ],
            "Ipv6Addresses": [{"Ipv6Address": one} for one in interface.ipv6_addresses],
            "Groups": [{"GroupId": group.id} for group in interface._group_set],
            "Status": interface.status,
            "SubnetId": interface.subnet.id,
            "VpcId": interface.subnet.vpc_id,
            "Operator": self._operator_view(interface.id),
        }

    def _interface_view(self, interface: Any) -> dict[str, Any]:
        zone, attachment = interface.subnet.availability_zone, None
        if interface.instance is not None:
            host = {"InstanceId": interface.instance.id}
            attachment = self._attachment_view(interface) | host
        elif interface.requester_managed:  # to something that the service runs, and does not show
            attachment = {"DeviceIndex": 1, "Status": "attached"}
        return {
            **self._interface_core(interface),
            "AvailabilityZone": zone,
            "AvailabilityZoneId": self.zone_id(zone),
            "RequesterManaged": interface.requester_managed,
            "RequesterId": interface.requester_id,
            "Attachment": attachment,
        }

    # --- security groups, network ACLs, prefix lists, route tables

    def _all_groups(self) -> dict[str, Any]:
        return {g.id: g for groups in self._backend.groups.values() for g in groups.values()}

    def _group_view(self, group: Any) -> dict[str, Any]:
        return {
            "GroupId": group.id,
            "VpcId": group.vpc_id,
            "IpPermissions": self._permissions_view(group.ingress_rules),
        }

    @staticmethod
    def _permissions_view(rules: Iterable[Any]) -> list[dict[str, Any]]:
        """Rules with the same protocol and ports are shown as one permission."""
        permissions: dict[Any, dict[str, Any]] = {}
        for item in rules:
            ports = item.ip_protocol, item.from_port, item.to_port
            view = permissions.setdefault(ports, {name: [] for name in _ORIGINS})
            view |= dict(zip(("IpProtocol", "FromPort", "ToPort"), ports, strict=True))
            blocks = item.cidr_ipv4, item.cidr_ipv6, item.prefix_list_id
            for (name, field), value in zip(
                _ORIGINS.items(), (*blocks, item.source_group), strict=True
            ):
                if value:
                    view[name].append({field: value} if field else value)
        return list(permissions.values())

    def _acl_view(self, acl: Any) -> dict[str, Any]:
        return {
            "NetworkAclId": acl.id,
            "VpcId": acl.vpc_id,
            "Entries": [
                {
                    "RuleNumber": entry.rule_number,
                    "Protocol": str(entry.protocol),
                    "RuleAction": entry.rule_action,
                    "Egress": entry.egress in (True, "true"),
                    "CidrBlock": entry.cidr_block,
                    "Ipv6CidrBlock": entry.ipv6_cidr_block,
                    "PortRange": entry.port_range,
                }
                for entry in acl.network_acl_entries
            ],
            "Associations": [{"SubnetId": one.subnet_id} for one in acl._associations.values()],
        }

    def _get_managed_prefix_list_entries(
        self, caller: Caller, parameters: dict[str, Any]
    ) -> dict[str, Any]:
        size, list_id = _page_size(parameters, (1, 100)) or 100, parameters["PrefixListId"]
        _check_id(list_id, "pl", "InvalidPrefixListId")
        found = self._backend.managed_prefix_lists.get(list_id)
        text = f"The prefix list ID '{list_id}' does not exist"
        refuse_if(not found or list_id in self._hidden, "InvalidPrefixListID.NotFound", text)
        entries = found.entries.get(int(found.version or 1)) or []
        token = parameters.get("NextToken")
        shown, token = self._page(f"entries {list_id}", token, size, lambda: entries)
        return {"Entries": shown, "NextToken": token}

    def _table_view(self, table: Any) -> dict[str, Any]:
        return {
            "RouteTableId": table.id,
            "VpcId": table.vpc_id,
            "Routes": table.routes,
            "Associations": table.associations(),
        }

    # --- traffic mirroring

    def _target_view(self, target: Any) -> dict[str, Any]:
        owner = self._account_of_target(target.id)
        shown = owner is self or owner._shares[target.id][self.account_id]
        return {
            "TrafficMirrorTargetId": target.id,
            "Type": target.type,
            "NetworkInterfaceId": target.network_interface_id if shown else None,
            "NetworkLoadBalancerArn": target.network_load_balancer_arn,
            "GatewayLoadBalancerEndpointId": target.gateway_load_balancer_endpoint_id,
            "Description": target.description,
            "OwnerId": getattr(target, "simulated_owner", target.owner_id),
        }

    def _session_view(self, session: Session) -> dict[str, Any]:
        return {**session.view, "Tags": self._tags_view(session.id)}
