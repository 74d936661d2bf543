"""The Describe operations: IDs, filters, pages, and what a row looks like."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aws.sessions import Session
from aws.transport import Refusal

# ---------------------------------------------------------------------------------------------
# Filters and kinds of resources.


def _matcher(values: Sequence[str]) -> Callable[[Iterable[str]], bool]:
    """Whether one of a resource's values is one of the filter's; `*` and `?` are wildcards."""
    exact = {value for value in values if not re.search(r"[*?\\]", value)}
    patterns = []
    for value in values:
        if value in exact:
            continue
        parts = re.findall(r"\\.|.", value, re.DOTALL)
        regex = "".join(
            ".*" if part == "*" else "." if part == "?" else re.escape(part[-1]) for part in parts
        )
        patterns.append(re.compile(regex, re.DOTALL))

    def matches(candidates: Iterable[str]) -> bool:
        return any(
            candidate in exact or any(pattern.fullmatch(candidate) for pattern in patterns)
            for candidate in candidates
        )

    return matches


_Values = Callable[[Any], Iterable[Any]]


@dataclass
class _Kind:
    """How the resources of one Describe* operation are named, filtered and paged."""

    ids: str
    prefix: str
    noun: str
    not_found: str
    malformed: str
    filters: dict[str, _Values]
    bounds: tuple[int, int] = (5, 1000)
    # Page size where MaxResults is not given; None: everything. For traffic mirroring it is not
    # documented; with 1,000 nobody can do without NextToken.
    page: int | None = None
    ids_exclude_max_results: str = ""  # the name that the refusal gives to the ID parameter


def nics_of(instance: Any) -> list[Any]:
    if instance._state.name == "terminated":
        return []
    return [instance.nics[index] for index in sorted(instance.nics)]


_INSTANCES = _Kind(
    *("InstanceIds", "i", "instance ID"),
    *("InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"),
    {"instance-id": lambda i: (i.id,), "instance-state-name": lambda i: (i._state.name,)},
    ids_exclude_max_results="instancesSet",
)

_INTERFACES = _Kind(
    *("NetworkInterfaceIds", "eni", "networkInterface ID"),
    *("InvalidNetworkInterfaceID.NotFound", "InvalidNetworkInterfaceId.Malformed"),
    {"network-interface-id": lambda n: (n.id,), "description": lambda n: (n.description,)},
    ids_exclude_max_results="networkInterfaceIds",
)

_GROUPS = _Kind(
    *("GroupIds", "sg", "security group"),
    *("InvalidGroup.NotFound", "InvalidGroupId.Malformed"),
    {"group-id": lambda g: (g.id,)},
)

_ACLS = _Kind(
    *("NetworkAclIds", "acl", "networkAcl ID"),
    *("InvalidNetworkAclID.NotFound", "InvalidNetworkAclId.Malformed"),
    {"vpc-id": lambda a: (a.vpc_id,)},
)

_ROUTE_TABLES = _Kind(
    *("RouteTableIds", "rtb", "routeTable ID"),
    *("InvalidRouteTableID.NotFound", "InvalidRouteTableId.Malformed"),
    {"vpc-id": lambda t: (t.vpc_id,)},
    bounds=(5, 100),
    page=100,
)

_TARGETS = _Kind(
    *("TrafficMirrorTargetIds", "tmt", "traffic mirror target ID"),
    *("InvalidTrafficMirrorTargetId.NotFound", "InvalidTrafficMirrorTargetId.Malformed"),
    {"traffic-mirror-target-id": lambda t: (t.id,)},
    page=1000,
)


_SESSIONS = _Kind(
    *("TrafficMirrorSessionIds", "tms", "traffic mirror session ID"),
    *("InvalidTrafficMirrorSessionId.NotFound", "InvalidTrafficMirrorSessionId.Malformed"),
    {
        "traffic-mirror-target-id": lambda s: (s.view["TrafficMirrorTargetId"],),
        "network-interface-id": lambda s: (s.view["NetworkInterfaceId"],),
    },
    page=1000,
)


def _check_max_results(parameters: Mapping[str, Any], bounds: tuple[int, int]) -> int | None:
    size = parameters.get("MaxResults")
    if size is None:
        return None
    low, high = bounds
    if not low <= size <= high:
        raise Refusal(
            "InvalidParameterValue",
            f"Value ( {size} ) for parameter maxResults is invalid. "
            f"Expecting a value between {low} and {high}.",
        )
    return int(size)


class Describe:
    """The Describe operations of an account."""

    # --- Describe*

    def _tags_view(self, resource_id: str) -> list[dict[str, str]]:
        tags = self._backend.tags.get(resource_id) or {}
        return [{"Key": key, "Value": value} for key, value in tags.items()]

    def _filter(self, kind: _Kind, filters: Iterable[Mapping[str, Any]]) -> Callable[[Any], bool]:
        tests: list[tuple[_Values, Callable[[Iterable[str]], bool]]] = []
        for item in filters:
            name, values = item.get("Name"), item.get("Values") or []
            if len(values) > 200:
                raise Refusal(
                    "FilterLimitExceeded",
                    "The maximum number of filter values specified on a single call is 200",
                )
            if name not in kind.filters:
                raise Refusal("InvalidParameterValue", f"The filter '{name}' is invalid")
            tests.append((kind.filters[name], _matcher(values)))

        def passes(resource: Any) -> bool:
            return all(
                matches(str(value) for value in values_of(resource) if value is not None)
                for values_of, matches in tests
            )

        return passes

    def _select(
        self,
        operation: str,
        kind: _Kind,
        parameters: Mapping[str, Any],
        looking: bool,
        resources: Mapping[str, Any],
        unseen: Callable[[Any], bool] = lambda resource: False,
    ) -> tuple[list[Any], str | None]:
        """The resources that one call shows, and the token of the next page.

        What the pages hold is settled by the first call; what has gone since is left out. A token
        stays good for the call that it was made for (with any MaxResults), not for others.
        """
        ids = parameters.get(kind.ids) or []
        size = _check_max_results(parameters, kind.bounds)
        if ids and size is not None and kind.ids_exclude_max_results:
            raise Refusal(
                "InvalidParameterCombination",
                f"The parameter {kind.ids_exclude_max_results} cannot be used with the parameter "
                "maxResults",
            )
        passes = self._filter(kind, parameters.get("Filters") or ())
        asked = {k: v for k, v in parameters.items() if k not in ("NextToken", "MaxResults")}
        signature = json.dumps([operation, asked])
        token = parameters.get("NextToken")
        if token:
            found, offset = self._page(token, signature)
        else:
            if len(ids) > 1000:
                raise Refusal("InvalidParameterValue", "No more than 1000 IDs can be specified.")
            for resource_id in ids:
                if not re.fullmatch(rf"{kind.prefix}-([0-9a-f]{{8}}|[0-9a-f]{{17}})", resource_id):
                    raise Refusal(
                        kind.malformed,
                        f'Invalid id: "{resource_id}" (expecting "{kind.prefix}-...")',
                    )
            candidates = (
                (resources[i] for i in dict.fromkeys(ids) if i in resources)
                if ids
                else resources.values()
            )
            hidden: Collection[str] = () if looking else self._hidden
            if not (ids or looking or parameters.get("IncludeManagedResources")):
                hidden = {*hidden, *self._managed}
            chosen = [r for r in candidates if r.id not in hidden and (ids or passes(r))]
            if not looking:
                chosen = [resource for resource in chosen if not unseen(resource)]
            if ids:
                shown = {resource.id for resource in chosen}
                if missing := [i for i in dict.fromkeys(ids) if i not in shown]:
                    plural, verb = ("s", "do") if len(missing) > 1 else ("", "does")
                    raise Refusal(
                        kind.not_found,
                        f"The {kind.noun}{plural} '{', '.join(missing)}' {verb} not exist",
                    )
                chosen = [resource for resource in chosen if passes(resource)]
            found, offset = [resource.id for resource in chosen], 0
        if not ids:
            size = size or kind.page
        end = len(found) if size is None else offset + size
        next_token = None
        if end < len(found):
            digest = hashlib.sha256(f"{signature}{token}{end}{uuid.uuid4()}".encode()).hexdigest()
            next_token = f"eyJ2IjoiMiIs{digest}"
            self._pages[next_token] = (signature, found, end)
        return [resources[i] for i in found[offset:end] if i in resources], next_token

    def _page(self, token: str, signature: str) -> tuple[list[str], int]:
        known, found, offset = self._pages.get(token, ("", [], 0))
        if known != signature:
            raise Refusal("InvalidPaginationToken", "The specified pagination token is invalid.")
        return found, offset

    def _all_instances(self) -> dict[str, Any]:
        return {
            instance.id: instance
            for reservation in self._backend.reservations.values()
            for instance in reservation.instances
        }

    def _describe_instances(self, parameters: dict[str, Any], looking: bool) -> dict[str, Any]:
        def unseen(instance: Any) -> bool:
            left = self.unknown_instances.get(instance.id, 0)
            if left > 0:
                self.unknown_instances[instance.id] = left - 1
            return left > 0

        shown, token = self._select(
            "DescribeInstances", _INSTANCES, parameters, looking, self._all_instances(), unseen
        )
        of_instance = {
            instance.id: reservation.id
            for reservation in self._backend.reservations.values()
            for instance in reservation.instances
        }
        views: dict[str, list[dict[str, Any]]] = {}
        for instance in shown:
            views.setdefault(of_instance[instance.id], []).append(self._instance_view(instance))
        reservations = [
            {"ReservationId": key, "OwnerId": self.account_id, "Groups": [], "Instances": rows}
            for key, rows in views.items()
        ]
        return {"Reservations": reservations, "NextToken": token}

    def _instance_view(self, instance: Any) -> dict[str, Any]:
        nics = nics_of(instance)
        view: dict[str, Any] = {
            "InstanceId": instance.id,
            "ImageId": instance.image_id,
            "State": {"Code": instance._state.code, "Name": instance._state.name},
            "PrivateDnsName": "",
            "PublicDnsName": "",
            "StateTransitionReason": instance._reason,
            "AmiLaunchIndex": instance.ami_launch_index,
            "InstanceType": instance.instance_type,
            "LaunchTime": instance.launch_time,
            "Placement": {
                "AvailabilityZone": instance._placement.zone,
                "AvailabilityZoneId": self.zone_id(instance._placement.zone),
                "GroupName": "",
                "Tenancy": "default",
            },
            "Monitoring": {"State": "disabled"},
            "Architecture": instance.architecture,
            "RootDeviceType": "ebs",
            "RootDeviceName": "/dev/xvda",
            "VirtualizationType": "hvm",
            "Hypervisor": "xen",
            "ClientToken": instance.client_token,
            "EbsOptimized": False,
            "EnaSupport": True,
            "Tags": self._tags_view(instance.id) or None,
            "NetworkInterfaces": [self._attached_view(nic) for nic in nics],
            "SecurityGroups": [],
            "BlockDeviceMappings": [],
            "Operator": self._operator_view(instance.id),
        }
        if nics:
            first = nics[0]
            view["SubnetId"] = first.subnet.id
            view["VpcId"] = first.subnet.vpc_id
            view["SourceDestCheck"] = first.source_dest_check
            view["SecurityGroups"] = self._group_views(first)
            if first.private_ip_address:
                view["PrivateIpAddress"] = first.private_ip_address
                view["PrivateDnsName"] = self._dns(first.private_ip_address)
        return view

    def _operator_view(self, resource_id: str) -> dict[str, Any]:
        principal = self._managed.get(resource_id)
        if principal is None:
            return {"Managed": False}
        return {"Managed": True, "Principal": principal, "HiddenByDefault": True}

    def _dns(self, address: str) -> str:
        zone = "ec2" if self.region == "us-east-1" else f"{self.region}.compute"
        return f"ip-{address.replace('.', '-')}.{zone}.internal"

    @staticmethod
    def _group_views(interface: Any) -> list[dict[str, str]]:
        return [{"GroupId": g.id, "GroupName": g.name} for g in interface._group_set]

    def _attached_view(self, interface: Any) -> dict[str, Any]:
        """An interface as DescribeInstances shows it."""
        view = self._interface_core(interface)
        view["Groups"] = self._group_views(interface)
        view["Attachment"] = self._attachment_view(interface)
        return view

    @staticmethod
    def _attachment_view(interface: Any) -> dict[str, Any]:
        return {
            "AttachTime": interface.attach_time,
            "AttachmentId": interface.attachment_id,
            "DeleteOnTermination": bool(interface.delete_on_termination),
            "DeviceIndex": interface.device_index,
            "NetworkCardIndex": 0,
            "Status": "attached",
        }

    def _interface_core(self, interface: Any) -> dict[str, Any]:
        addresses = [
            {
                "Primary": address["PrivateIpAddress"] == interface.private_ip_address,
                "PrivateIpAddress": address["PrivateIpAddress"],
                "PrivateDnsName": self._dns(address["PrivateIpAddress"]),
            }
            for address in interface.private_ip_addresses
        ]
        return {
            "NetworkInterfaceId": interface.id,
            "Description": interface.description,
            "InterfaceType": interface.interface_type,
            "MacAddress": interface.mac_address,
            "OwnerId": self.interface_owners.get(interface.id, self.account_id),
            "PrivateIpAddress": interface.private_ip_address,
            "PrivateIpAddresses": addresses,
            "Ipv6Addresses": [{"Ipv6Address": a} for a in interface.ipv6_addresses],
            "SourceDestCheck": interface.source_dest_check,
            "Status": interface.status,
            "SubnetId": interface.subnet.id,
            "VpcId": interface.subnet.vpc_id,
            "Operator": self._operator_view(interface.id),
        }

    def _describe_interfaces(self, parameters: dict[str, Any], looking: bool) -> dict[str, Any]:
        shown, token = self._select(
            "DescribeNetworkInterfaces", _INTERFACES, parameters, looking, self._backend.enis
        )
        return {
            "NetworkInterfaces": [self._interface_view(interface) for interface in shown],
            "NextToken": token,
        }

    def _interface_view(self, interface: Any) -> dict[str, Any]:
        view = self._interface_core(interface)
        view["Groups"] = self._group_views(interface)
        view["AvailabilityZone"] = interface.subnet.availability_zone
        view["AvailabilityZoneId"] = self.zone_id(interface.subnet.availability_zone)
        view["RequesterManaged"] = interface.requester_managed
        view["TagSet"] = self._tags_view(interface.id)
        if interface.instance is not None:
            view["Attachment"] = {
                **self._attachment_view(interface),
                "InstanceId": interface.instance.id,
                "InstanceOwnerId": self.account_id,
            }
        elif interface.requester_managed:
            view["Attachment"] = {
                "AttachmentId": "ela-attach-" + interface.id[len("eni-") :],
                "DeleteOnTermination": False,
                "DeviceIndex": 1,
                "InstanceOwnerId": "amazon-aws",
                "Status": "attached",
            }
        return view

    def _all_groups(self) -> dict[str, Any]:
        return {g.id: g for groups in self._backend.groups.values() for g in groups.values()}

    def _describe_groups(self, parameters: dict[str, Any], looking: bool) -> dict[str, Any]:
        shown, token = self._select(
            "DescribeSecurityGroups", _GROUPS, parameters, looking, self._all_groups()
        )
        views = [
            {
                "GroupId": group.id,
                "GroupName": group.name,
                "Description": group.description,
                "OwnerId": self.account_id,
                "VpcId": group.vpc_id,
                "IpPermissions": self._permissions_view(group.ingress_rules),
                "IpPermissionsEgress": self._permissions_view(group.egress_rules),
                "Tags": self._tags_view(group.id) or None,
                "SecurityGroupArn": group.arn,
            }
            for group in shown
        ]
        return {"SecurityGroups": views, "NextToken": token}

    @staticmethod
    def _permissions_view(rules: Iterable[Any]) -> list[dict[str, Any]]:
        """Rules with the same protocol and ports are shown as one permission."""
        permissions: dict[tuple[Any, Any, Any], dict[str, Any]] = {}
        for item in rules:
            view = permissions.setdefault(
                (item.ip_protocol, item.from_port, item.to_port),
                {
                    "IpProtocol": item.ip_protocol,
                    "FromPort": item.from_port,
                    "ToPort": item.to_port,
                    "IpRanges": [],
                    "Ipv6Ranges": [],
                    "UserIdGroupPairs": [],
                    "PrefixListIds": [],
                },
            )
            if item.cidr_ipv4:
                view["IpRanges"].append({"CidrIp": item.cidr_ipv4})
            if item.cidr_ipv6:
                view["Ipv6Ranges"].append({"CidrIpv6": item.cidr_ipv6})
            if item.source_group:
                view["UserIdGroupPairs"].append(item.source_group)
            if item.prefix_list_id:
                view["PrefixListIds"].append({"PrefixListId": item.prefix_list_id})
        return list(permissions.values())

    def _describe_acls(self, parameters: dict[str, Any], looking: bool) -> dict[str, Any]:
        shown, token = self._select(
            "DescribeNetworkAcls", _ACLS, parameters, looking, self._backend.network_acls
        )
        return {"NetworkAcls": [self._acl_view(acl) for acl in shown], "NextToken": token}

    def _acl_view(self, acl: Any) -> dict[str, Any]:
        entries = [
            {
                "RuleNumber": entry.rule_number,
                "Protocol": str(entry.protocol),
                "RuleAction": entry.rule_action,
                "Egress": entry.egress in (True, "true"),
                "CidrBlock": entry.cidr_block,
                "Ipv6CidrBlock": entry.ipv6_cidr_block,
                "PortRange": entry.port_range,
                "IcmpTypeCode": entry.icmp_type_code,
            }
            for entry in acl.network_acl_entries
        ]
        associations = [
            {
                "NetworkAclAssociationId": association.id,
                "NetworkAclId": acl.id,
                "SubnetId": association.subnet_id,
            }
            for association in acl._associations.values()
        ]
        return {
            "NetworkAclId": acl.id,
            "VpcId": acl.vpc_id,
            "OwnerId": self.account_id,
            "IsDefault": bool(acl.default),
            "Entries": entries,
            "Associations": associations,
            "Tags": self._tags_view(acl.id),
        }

    def _prefix_list_entries(self, parameters: dict[str, Any], looking: bool) -> dict[str, Any]:
        size = _check_max_results(parameters, (1, 100)) or 100
        list_id = parameters["PrefixListId"]
        if not re.fullmatch(r"pl-([0-9a-f]{8}|[0-9a-f]{17})", list_id):
            raise Refusal(
                "InvalidPrefixListId.Malformed", f'Invalid id: "{list_id}" (expecting "pl-...")'
            )
        found = self._backend.managed_prefix_lists.get(list_id)
        if found is None or (list_id in self._hidden and not looking):
            raise Refusal(
                "InvalidPrefixListID.NotFound", f"The prefix list ID '{list_id}' does not exist"
            )
        version = int(parameters.get("TargetVersion") or found.version or 1)
        entries = found.entries.get(version) or []
        signature, offset, token = f"entries {list_id} {version}", 0, parameters.get("NextToken")
        if token:
            _, offset = self._page(token, signature)
        next_token = None
        if offset + size < len(entries):
            next_token = f"eyJ2IjoiMiIs{uuid.uuid4().hex}"
            self._pages[next_token] = (signature, [], offset + size)
        return {"Entries": entries[offset : offset + size], "NextToken": next_token}

    def _describe_route_tables(self, parameters: dict[str, Any], looking: bool) -> dict[str, Any]:
        shown, token = self._select(
            "DescribeRouteTables", _ROUTE_TABLES, parameters, looking, self._route_tables()
        )
        views = [
            {
                "RouteTableId": table.id,
                "VpcId": table.vpc_id,
                "OwnerId": self.account_id,
                "Routes": table.routes,
                "Associations": [
                    {
                        "RouteTableAssociationId": f"rtbassoc-{table.id[-12:]}{number:05x}",
                        "RouteTableId": table.id,
                        "AssociationState": {"State": "associated"},
                        **association,
                    }
                    for number, association in enumerate(table.associations())
                ],
                "PropagatingVgws": [],
                "Tags": self._tags_view(table.id),
            }
            for table in shown
        ]
        return {"RouteTables": views, "NextToken": token}

    # --- traffic mirroring

    def _describe_targets(self, parameters: dict[str, Any], looking: bool) -> dict[str, Any]:
        shown, token = self._select(
            "DescribeTrafficMirrorTargets",
            _TARGETS,
            parameters,
            looking,
            self._visible_targets(),
        )
        views = [
            {
                "TrafficMirrorTargetId": target.id,
                "Type": target.type,
                "NetworkInterfaceId": (
                    target.network_interface_id if self._shows_interface(target.id) else None
                ),
                "NetworkLoadBalancerArn": target.network_load_balancer_arn,
                "GatewayLoadBalancerEndpointId": target.gateway_load_balancer_endpoint_id,
                "Description": target.description,
                "OwnerId": getattr(target, "simulated_owner", target.owner_id),
                "Tags": self._tags_view(target.id),
            }
            for target in shown
        ]
        return {"TrafficMirrorTargets": views, "NextToken": token}

    def _session_view(self, session: Session) -> dict[str, Any]:
        return {**session.view, "Tags": self._tags_view(session.id)}

    def _describe_sessions(self, parameters: dict[str, Any], looking: bool) -> dict[str, Any]:
        def unseen(session: Session) -> bool:
            if session.hidden_calls > 0:
                session.hidden_calls -= 1
                return True
            return False

        shown, token = self._select(
            "DescribeTrafficMirrorSessions",
            _SESSIONS,
            parameters,
            looking,
            self._visible_sessions(),
            unseen,
        )
        views = [self._session_view(session) for session in shown]
        return {"TrafficMirrorSessions": views, "NextToken": token}
