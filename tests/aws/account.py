"""A simulated AWS account, in memory, that also refuses what AWS refuses.

moto keeps the resources (VPCs, subnets, interfaces, instances, groups, ACLs, prefix lists, targets)
and answers most operations. What the traffic mirroring function depends on is answered here
instead, as the EC2 API reference and the Traffic Mirroring guide describe it: filters, pages and
unknown IDs of the Describe* operations, and the checks, quotas and idempotency of
CreateTrafficMirrorSession. On top come a log of every HTTP attempt, faults, denials and latency.

Nothing here needs pytest. Typical use:

    with SimulatedAccount() as account:
        target = account.sensor(zone="a", sessions=3)
        instance = account.instance(zone="a")
        client = account.client()                  # or any boto3 client made meanwhile
        client.create_traffic_mirror_session(...)
        assert account.sessions(target_id=target)
        assert account.count("CreateTrafficMirrorSession") == 1

Where AWS documents no behaviour, the choice made is marked 'not documented'.
"""

from __future__ import annotations

import fnmatch
import hashlib
import ipaddress
import itertools
import json
import os
import random
import re
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cache
from time import monotonic, perf_counter, sleep  # bound here: a patched time.sleep changes nothing
from typing import Any, final
from unittest.mock import patch
from urllib.parse import parse_qsl, urlsplit
from xml.sax.saxutils import escape

import boto3
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ConnectTimeoutError, ReadTimeoutError
from moto import mock_aws
from moto.core.botocore_stubber import BotocoreStubber, MockRawResponse
from moto.ec2.models import ec2_backends
from moto.ec2.models.security_groups import SecurityGroupRule
from moto.ec2.responses import EC2Response

ACCOUNT_ID = "123456789012"
OTHER_ACCOUNT_ID = "210987654321"
REGION = "us-east-1"
VXLAN_PORT = 4789

_LOOKING = "simulated-account-looking"
_CREDENTIALS = {
    "aws_access_key_id": "AKIAIOSFODNN7EXAMPLE",
    "aws_secret_access_key": "simulated",
    "aws_session_token": "simulated",
}
_STATE_CODES = {
    "pending": 0,
    "running": 16,
    "shutting-down": 32,
    "terminated": 48,
    "stopping": 64,
    "stopped": 80,
}
_CREATE_SESSION = "CreateTrafficMirrorSession"


class Refusal(Exception):
    """AWS answers with this error code, message and HTTP status."""

    def __init__(self, code: str, message: str = "", status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message or f"Simulated {code}."
        self.status = status


@dataclass
class Call:
    """One HTTP attempt. `ended` and `status` are None while it is under way.

    `status` stays None where no answer arrived (a timeout); `code` is then the botocore exception's
    name, otherwise the error code of the answer, None for success.
    """

    operation: str
    parameters: dict[str, Any]
    started: float
    thread_id: int
    ended: float | None = None
    status: int | None = None
    code: str | None = None


@dataclass
class _Fault:
    operation: str
    make: Callable[[], Exception]
    times: int | None
    after: int
    where: Callable[[dict[str, Any]], bool] | None
    lose_answer: bool
    seen: int = 0
    fired: int = 0


@dataclass
class _Session:
    view: dict[str, Any]
    real: bool  # its interface exists in the simulation; other sessions are mere load
    hidden_calls: int = 0

    @property
    def id(self) -> str:
        return str(self.view["TrafficMirrorSessionId"])


# ---------------------------------------------------------------------------------------------
# The EC2 query protocol: requests to parameters as boto3 spells them, answers to XML.


@cache
def _shared_session() -> boto3.Session:
    """One session for the process: loading EC2's service model takes a while."""
    return boto3.Session()


@cache
def _looking_client(region: str) -> Any:
    config = Config(
        user_agent_extra=_LOOKING,
        retries={"total_max_attempts": 1},
        ignore_configured_endpoint_urls=True,
    )
    return _shared_session().client("ec2", region_name=region, config=config, **_CREDENTIALS)


@cache
def _service_model() -> Any:
    return _looking_client(REGION).meta.service_model


def _query_name(name: str, shape: Any) -> str:
    serialization = shape.serialization
    if "queryName" in serialization:
        return str(serialization["queryName"])
    name = serialization.get("name", name)
    return name[0].upper() + name[1:]


def _read_shape(shape: Any, tree: Any) -> Any:
    if shape.type_name == "structure":
        return {
            name: _read_shape(member, tree[key])
            for name, member in shape.members.items()
            if (key := _query_name(name, member)) in tree
        }
    if shape.type_name == "list":
        return [_read_shape(shape.member, tree[key]) for key in sorted(tree, key=int)]
    text = tree.get("", "") if isinstance(tree, dict) else tree
    if shape.type_name == "boolean":
        return text.lower() == "true"
    if shape.type_name in ("integer", "long"):
        return int(text)
    return text


def _read_parameters(operation: str, pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The parameters of a query request, named and nested as boto3 takes them."""
    tree: dict[str, Any] = {}
    for key, value in pairs:
        *path, last = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    shape = _service_model().operation_model(operation).input_shape
    return _read_shape(shape, tree) if shape is not None else {}


_NAMES: dict[str, list[tuple[str, str, Any]]] = {}


def _write_shape(shape: Any, value: Any, out: list[str]) -> None:
    kind = shape.type_name
    if kind == "structure":
        names = _NAMES.get(shape.name)
        if names is None:
            names = _NAMES[shape.name] = [
                (key, member.serialization.get("name", key), member)
                for key, member in shape.members.items()
            ]
        for key, tag, member in names:
            child = value.get(key)
            if child is None:
                continue
            out.append(f"<{tag}>")
            _write_shape(member, child, out)
            out.append(f"</{tag}>")
    elif kind == "list":
        member = shape.member
        for child in value:
            out.append("<item>")
            _write_shape(member, child, out)
            out.append("</item>")
    elif kind == "boolean":
        out.append("true" if value else "false")
    elif kind == "timestamp":
        out.append(value.strftime("%Y-%m-%dT%H:%M:%S.000Z"))
    elif kind == "string":
        out.append(escape(value))
    else:
        out.append(str(value))


_Response = tuple[int, dict[str, str], str]


def _headers(request_id: str) -> dict[str, str]:
    return {"Content-Type": "text/xml;charset=UTF-8", "x-amzn-requestid": request_id}


def _success(operation: str, result: Mapping[str, Any]) -> _Response:
    request_id = str(uuid.uuid4())
    out = [
        '<?xml version="1.0" encoding="UTF-8"?>\n',
        f'<{operation}Response xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">',
        f"<requestId>{request_id}</requestId>",
    ]
    _write_shape(_service_model().operation_model(operation).output_shape, result, out)
    out.append(f"</{operation}Response>")
    return 200, _headers(request_id), "".join(out)


def _failure(refusal: Refusal) -> _Response:
    request_id = str(uuid.uuid4())
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error>'
        f"<Code>{escape(refusal.code)}</Code><Message>{escape(refusal.message)}</Message>"
        f"</Error></Errors><RequestID>{request_id}</RequestID></Response>"
    )
    return refusal.status, _headers(request_id), body


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
    not_found: str
    malformed: str
    noun: str
    filters: dict[str, _Values]
    bounds: tuple[int, int] = (5, 1000)
    # Page size where MaxResults is not given; None: everything. For traffic mirroring it is not
    # documented; with 1,000 nobody can do without NextToken.
    page: int | None = None
    ids_exclude_max_results: str = ""  # the name that the refusal gives to the ID parameter


def _groups_of(interface: Any) -> list[Any]:
    return list(interface._group_set)


def _addresses_of(interface: Any) -> list[str]:
    return [address["PrivateIpAddress"] for address in interface.private_ip_addresses]


def _nics(instance: Any) -> list[Any]:
    if instance._state.name == "terminated":
        return []
    return [instance.nics[index] for index in sorted(instance.nics)]


def _flag(value: Any) -> str:
    return "true" if value else "false"


_INSTANCES = _Kind(
    "InstanceIds",
    "i",
    "InvalidInstanceID.NotFound",
    "InvalidInstanceID.Malformed",
    "instance ID",
    {
        "instance-id": lambda i: (i.id,),
        "instance-state-name": lambda i: (i._state.name,),
        "instance-state-code": lambda i: (i._state.code,),
        "instance-type": lambda i: (i.instance_type,),
        "image-id": lambda i: (i.image_id,),
        "availability-zone": lambda i: (i._placement.zone,),
        "subnet-id": lambda i: (n.subnet.id for n in _nics(i)[:1]),
        "vpc-id": lambda i: (n.subnet.vpc_id for n in _nics(i)[:1]),
        "private-ip-address": lambda i: (n.private_ip_address for n in _nics(i)[:1]),
        "instance.group-id": lambda i: (g.id for n in _nics(i)[:1] for g in _groups_of(n)),
        "owner-id": lambda i: (i.owner_id,),
        "network-interface.network-interface-id": lambda i: (n.id for n in _nics(i)),
        "network-interface.subnet-id": lambda i: (n.subnet.id for n in _nics(i)),
        "network-interface.vpc-id": lambda i: (n.subnet.vpc_id for n in _nics(i)),
        "network-interface.description": lambda i: (n.description for n in _nics(i)),
        "network-interface.availability-zone": lambda i: (
            n.subnet.availability_zone for n in _nics(i)
        ),
        "network-interface.group-id": lambda i: (g.id for n in _nics(i) for g in _groups_of(n)),
        "network-interface.addresses.private-ip-address": lambda i: (
            a for n in _nics(i) for a in _addresses_of(n)
        ),
        "network-interface.attachment.device-index": lambda i: (n.device_index for n in _nics(i)),
    },
    ids_exclude_max_results="instancesSet",
)

_INTERFACES = _Kind(
    "NetworkInterfaceIds",
    "eni",
    "InvalidNetworkInterfaceID.NotFound",
    "InvalidNetworkInterfaceId.Malformed",
    "networkInterface ID",
    {
        "network-interface-id": lambda n: (n.id,),
        "description": lambda n: (n.description,),
        "interface-type": lambda n: (n.interface_type,),
        "status": lambda n: (n.status,),
        "subnet-id": lambda n: (n.subnet.id,),
        "vpc-id": lambda n: (n.subnet.vpc_id,),
        "availability-zone": lambda n: (n.subnet.availability_zone,),
        "group-id": lambda n: (g.id for g in _groups_of(n)),
        "group-name": lambda n: (g.name for g in _groups_of(n)),
        "private-ip-address": lambda n: (n.private_ip_address,),
        "addresses.private-ip-address": _addresses_of,
        "attachment.instance-id": lambda n: (n.instance.id,) if n.instance else (),
        "attachment.attachment-id": lambda n: (n.attachment_id,),
        "attachment.device-index": lambda n: (n.device_index,) if n.instance else (),
        "attachment.status": lambda n: ("attached",) if n.instance else (),
        "mac-address": lambda n: (n.mac_address,),
        "owner-id": lambda n: (n.owner_id,),
        "requester-managed": lambda n: (_flag(n.requester_managed),),
    },
    ids_exclude_max_results="networkInterfaceIds",
)


def _rule_values(name: str) -> _Values:
    return lambda group: (getattr(rule, name) for rule in group.ingress_rules)


_GROUPS = _Kind(
    "GroupIds",
    "sg",
    "InvalidGroup.NotFound",
    "InvalidGroupId.Malformed",
    "security group",
    {
        "group-id": lambda g: (g.id,),
        "group-name": lambda g: (g.name,),
        "vpc-id": lambda g: (g.vpc_id,),
        "owner-id": lambda g: (g.owner_id,),
        "description": lambda g: (g.description,),
        "ip-permission.protocol": _rule_values("ip_protocol"),
        "ip-permission.from-port": _rule_values("from_port"),
        "ip-permission.to-port": _rule_values("to_port"),
        "ip-permission.cidr": _rule_values("cidr_ipv4"),
        "ip-permission.group-id": lambda g: (
            r.source_group.get("GroupId") for r in g.ingress_rules
        ),
        "ip-permission.prefix-list-id": _rule_values("prefix_list_id"),
    },
)


def _entry_values(name: str) -> _Values:
    return lambda acl: (getattr(entry, name) for entry in acl.network_acl_entries)


_ACLS = _Kind(
    "NetworkAclIds",
    "acl",
    "InvalidNetworkAclID.NotFound",
    "InvalidNetworkAclId.Malformed",
    "networkAcl ID",
    {
        "network-acl-id": lambda a: (a.id,),
        "vpc-id": lambda a: (a.vpc_id,),
        "owner-id": lambda a: (a.owner_id,),
        "default": lambda a: (_flag(a.default),),
        "association.association-id": lambda a: (x.id for x in a._associations.values()),
        "association.network-acl-id": lambda a: (a.id,),
        "association.subnet-id": lambda a: (x.subnet_id for x in a._associations.values()),
        "entry.cidr": _entry_values("cidr_block"),
        "entry.ipv6-cidr": _entry_values("ipv6_cidr_block"),
        "entry.protocol": _entry_values("protocol"),
        "entry.rule-number": _entry_values("rule_number"),
        "entry.rule-action": _entry_values("rule_action"),
        "entry.egress": lambda a: (_flag(e.egress) for e in a.network_acl_entries),
    },
)

_SUBNETS = _Kind(
    "SubnetIds",
    "subnet",
    "InvalidSubnetID.NotFound",
    "InvalidSubnetId.Malformed",
    "subnet ID",
    {
        "subnet-id": lambda s: (s.id,),
        "vpc-id": lambda s: (s.vpc_id,),
        "availability-zone": lambda s: (s.availability_zone,),
        "availability-zone-id": lambda s: (s.availability_zone_id,),
        "cidr-block": lambda s: (s.cidr_block,),
        "owner-id": lambda s: (s.owner_id,),
        "state": lambda s: (s.state,),
        "default-for-az": lambda s: (_flag(s.default_for_az),),
    },
)

_TARGETS = _Kind(
    "TrafficMirrorTargetIds",
    "tmt",
    "InvalidTrafficMirrorTargetId.NotFound",
    "InvalidTrafficMirrorTargetId.Malformed",
    "traffic mirror target",
    {
        "traffic-mirror-target-id": lambda t: (t.id,),
        "description": lambda t: (t.description,),
        "network-interface-id": lambda t: (t.network_interface_id,),
        "network-load-balancer-arn": lambda t: (t.network_load_balancer_arn,),
        "owner-id": lambda t: (getattr(t, "simulated_owner", None) or t.owner_id,),
    },
    page=1000,
)

_FILTERS = _Kind(
    "TrafficMirrorFilterIds",
    "tmf",
    "InvalidTrafficMirrorFilterId.NotFound",
    "InvalidTrafficMirrorFilterId.Malformed",
    "traffic mirror filter",
    {
        "traffic-mirror-filter-id": lambda f: (f.id,),
        "description": lambda f: (f.description,),
    },
    page=1000,
)


def _session_values(name: str) -> _Values:
    return lambda session: (session.view.get(name),)


_SESSIONS = _Kind(
    "TrafficMirrorSessionIds",
    "tms",
    "InvalidTrafficMirrorSessionId.NotFound",
    "InvalidTrafficMirrorSessionId.Malformed",
    "traffic mirror session",
    {
        "traffic-mirror-session-id": _session_values("TrafficMirrorSessionId"),
        "traffic-mirror-target-id": _session_values("TrafficMirrorTargetId"),
        "traffic-mirror-filter-id": _session_values("TrafficMirrorFilterId"),
        "network-interface-id": _session_values("NetworkInterfaceId"),
        "owner-id": _session_values("OwnerId"),
        "session-number": _session_values("SessionNumber"),
        "virtual-network-id": _session_values("VirtualNetworkId"),
        "packet-length": _session_values("PacketLength"),
        "description": _session_values("Description"),
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


# ---------------------------------------------------------------------------------------------
# Small words for rules and entries.


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


def _new_id(prefix: str) -> str:
    return f"{prefix}-{random.getrandbits(68):017x}"


# ---------------------------------------------------------------------------------------------
# The account.


@final
class SimulatedAccount:
    """One AWS account in one Region, from `with` to the end of the block.

    `ec2` is a boto3 client for building and looking: its calls are not recorded, not faulted, not
    delayed, and see what is hidden or late. Every other client is the function's: its HTTP
    attempts are logged in `calls` and meet the misbehaviour asked for. A server of moto in the
    same process answers likewise (timeouts become status 503 there).

    Settable at any time:
    - `quota`: sources per target (`default_quota` for targets not named; none for load balancers)
    - `account_quota`: sessions per account; `interface_quota`: sessions per source interface
    - `unsupported_types`: instance types that AWS does not mirror
    - `session_lag`: how many DescribeTrafficMirrorSessions calls that would show a new session
      do not show it yet
    - `unknown_instances`: how many DescribeInstances calls that would show the instance do not
      know it yet
    - `latency`: seconds that each recorded attempt takes; attempts in several threads overlap
    - `gates`: called with (operation, parameters) before each recorded attempt, outside any lock;
      may raise `Refusal` or an exception of botocore
    """

    _active: SimulatedAccount | None = None

    def __init__(self, region: str = REGION) -> None:
        self.region = region
        self.account_id = ACCOUNT_ID
        self.quota: dict[str, int] = {}
        self.default_quota = 10
        self.account_quota = 10_000
        self.interface_quota = 3
        self.unsupported_types: set[str] = set()
        self.session_lag = 0
        self.unknown_instances: dict[str, int] = {}
        self.latency = 0.0
        self.gates: list[Callable[[str, dict[str, Any]], None]] = []
        self.calls: list[Call] = []
        self._lock = threading.RLock()  # moto is not thread-safe
        self._log_lock = threading.Lock()
        self._local = threading.local()
        self._faults: list[_Fault] = []
        self._denied: set[str] = set()
        self._hidden: set[str] = set()
        self._sessions: dict[str, _Session] = {}
        self._by_interface: dict[str, dict[str, _Session]] = {}
        self._by_target: dict[str, dict[str, _Session]] = {}
        self._idempotency: dict[str, tuple[str, dict[str, Any]]] = {}
        self._pages: dict[str, tuple[str, list[str], int]] = {}
        self._networks: dict[str, list[ipaddress.IPv4Network]] = {}
        self._free: dict[tuple[str, int], Iterator[ipaddress.IPv4Network]] = {}
        self._zone_subnets: dict[tuple[str, str], list[str]] = {}
        self._sensor_groups: dict[str, str] = {}
        self._default_vpc: str | None = None
        self._numbers = itertools.count(1)
        self._stack = ExitStack()
        self._operations: dict[str, Callable[[dict[str, Any], bool], dict[str, Any]]] = {
            "DescribeInstances": self._describe_instances,
            "DescribeNetworkInterfaces": self._describe_interfaces,
            "DescribeSecurityGroups": self._describe_groups,
            "DescribeNetworkAcls": self._describe_acls,
            "DescribeSubnets": self._describe_subnets,
            "DescribeTrafficMirrorTargets": self._describe_targets,
            "DescribeTrafficMirrorFilters": self._describe_filters,
            "DescribeTrafficMirrorSessions": self._describe_sessions,
            "GetManagedPrefixListEntries": self._prefix_list_entries,
            _CREATE_SESSION: self._create_session,
            "DeleteTrafficMirrorSession": self._delete_session,
            "ModifyTrafficMirrorSession": self._modify_session,
        }

    # --- start and end

    def __enter__(self) -> SimulatedAccount:
        if SimulatedAccount._active is not None:
            raise RuntimeError("Only one simulated account at a time.")
        with ExitStack() as stack:
            environment = {k: v for k, v in os.environ.items() if not k.startswith("MOTO_")}
            for name in list(environment):
                if name.startswith("AWS_ENDPOINT_URL") or name == "AWS_PROFILE":
                    del environment[name]
            environment.update(
                AWS_ACCESS_KEY_ID=_CREDENTIALS["aws_access_key_id"],
                AWS_SECRET_ACCESS_KEY=_CREDENTIALS["aws_secret_access_key"],
                AWS_SESSION_TOKEN=_CREDENTIALS["aws_session_token"],
                AWS_DEFAULT_REGION=self.region,
                AWS_REGION=self.region,
                AWS_CONFIG_FILE=os.devnull,
                AWS_SHARED_CREDENTIALS_FILE=os.devnull,
                AWS_EC2_METADATA_DISABLED="true",
                MOTO_EC2_LOAD_DEFAULT_AMIS="false",  # none is needed, and loading them is slow
            )
            stack.enter_context(patch.dict(os.environ, environment, clear=True))
            stack.enter_context(mock_aws())
            self.ec2 = _looking_client(self.region)
            stack.enter_context(
                patch.dict(
                    "moto.ec2.utils.EC2_RESOURCE_TO_PREFIX",
                    {"traffic-mirror-filter": "tmf", "traffic-mirror-target": "tmt"},
                )
            )
            self._backend: Any = ec2_backends[self.account_id][self.region]
            self._patch_moto(stack)
            made = self._backend.create_traffic_mirror_filter("everything", [], None)
            self.filter_id = str(made.id)
            self._stack = stack.pop_all()
        SimulatedAccount._active = self
        return self

    def __exit__(self, *error: object) -> None:
        SimulatedAccount._active = None
        self._stack.close()

    def _patch_moto(self, stack: ExitStack) -> None:
        account = self
        original_call = BotocoreStubber.__call__
        original_dispatch = EC2Response._dispatch

        def call(stubber: Any, event_name: str, request: Any, **kwargs: Any) -> Any:
            if not stubber.enabled:
                return None
            return account._from_client(
                request, lambda: original_call(stubber, event_name, request, **kwargs)
            )

        def dispatch(response: Any, request: Any, full_url: Any = None, headers: Any = None) -> Any:
            def moto() -> Any:
                return original_dispatch(response, request, full_url, headers)

            if getattr(account._local, "inside", False):
                return moto()
            return account._from_server(response, request, full_url, moto)

        stack.enter_context(patch.object(BotocoreStubber, "__call__", call))
        stack.enter_context(patch.object(EC2Response, "_dispatch", dispatch))

    def client(self, service: str = "ec2", **config: Any) -> Any:
        """A client as the function would have one; `config` goes to botocore's Config.

        Faster than boto3.client(), which reads the service model anew after each start of moto.
        """
        return _shared_session().client(
            service, region_name=self.region, config=Config(**config), **_CREDENTIALS
        )

    # --- every request comes through here

    def _from_client(self, request: Any, moto: Callable[[], Any]) -> Any:
        """One HTTP attempt of a botocore client in this process."""
        agent = request.headers.get("User-Agent", b"")
        agent = agent.decode() if isinstance(agent, bytes) else agent
        looking = _LOOKING in agent
        host = urlsplit(request.url).netloc
        if not re.search(r"\.amazonaws\.com(\.cn)?$", host):
            return moto()  # to a server, which logs it itself
        if not host.startswith("ec2."):
            if looking:
                return self._locked(moto)
            target = request.headers.get("X-Amz-Target", request.method)
            target = target.decode() if isinstance(target, bytes) else target
            operation = f"{host.split('.')[0]}:{target.split('.')[-1]}"
            result = self._attempt(operation, {}, lambda: self._locked(moto))
        else:
            body = request.body or ""
            body = body.decode() if isinstance(body, bytes) else body
            pairs = parse_qsl(body, keep_blank_values=True)
            operation, parameters = self._read(pairs)
            ours = host.split(".")[1] == self.region

            def answer() -> Any:
                return self._answer(operation, parameters, looking, ours, moto)

            result = answer() if looking else self._attempt(operation, parameters, answer)
        if isinstance(result, tuple):
            status, headers, text = result
            return AWSResponse(request.url, status, headers, MockRawResponse(text))
        return result

    def _from_server(self, response: Any, request: Any, url: Any, moto: Callable[[], Any]) -> Any:
        """One request that moto's server received."""
        looking = _LOOKING in request.headers.get("User-Agent", "")
        operation, parameters = self._read(list(request.form.items()))
        region = response.get_region_from_url(request, url or request.url)

        def answer() -> Any:
            return self._answer(operation, parameters, looking, region == self.region, moto)

        if looking:
            return answer()
        try:
            return self._attempt(operation, parameters, answer)
        except BotoCoreError as error:
            return _failure(Refusal("ServiceUnavailable", str(error), 503))

    @staticmethod
    def _read(pairs: list[tuple[str, str]]) -> tuple[str, dict[str, Any]]:
        operation = next((value for key, value in pairs if key == "Action"), "")
        fields = [pair for pair in pairs if pair[0] not in ("Action", "Version")]
        return operation, _read_parameters(operation, fields)

    def _locked(self, moto: Callable[[], Any]) -> Any:
        with self._lock:
            self._local.inside = True
            try:
                return moto()
            finally:
                self._local.inside = False

    def _answer(
        self,
        operation: str,
        parameters: dict[str, Any],
        looking: bool,
        ours: bool,
        moto: Callable[[], Any],
    ) -> Any:
        perform = self._operations.get(operation) if ours else None
        with self._lock:
            if perform is None:
                response = self._locked(moto)
                if not operation.startswith(("Describe", "Get")):
                    self._tidy()
                return response
            try:
                if parameters.get("DryRun"):
                    raise Refusal(
                        "DryRunOperation",
                        "Request would have succeeded, but DryRun flag is set.",
                        412,
                    )
                return _success(operation, perform(parameters, looking))
            except Refusal as refusal:
                return _failure(refusal)

    def _attempt(
        self, operation: str, parameters: dict[str, Any], answer: Callable[[], Any]
    ) -> Any:
        call = Call(operation, parameters, perf_counter(), threading.get_ident())
        with self._log_lock:
            self.calls.append(call)
        try:
            if self.latency:
                sleep(self.latency)
            for gate in list(self.gates):
                gate(operation, parameters)
            lost = self._misbehave(operation, parameters)
            self._check_permissions(operation, parameters)
            response = answer()
            if lost is not None:
                raise lost
        except Refusal as refusal:
            response = _failure(refusal)
        except Exception as error:
            call.code = type(error).__name__
            raise
        finally:
            call.ended = perf_counter()
        if isinstance(response, tuple):
            call.status, body = int(response[0]), response[2]
        elif response is not None:
            call.status, body = int(response.status_code), ""
            if call.status >= 400:
                body = response.raw.getvalue().decode(errors="replace")
        if call.status is not None and call.status >= 400:
            found = re.search(r"<Code>(.*?)</Code>", body)
            call.code = found.group(1) if found else str(call.status)
        return response

    def _misbehave(self, operation: str, parameters: dict[str, Any]) -> Exception | None:
        """Raise what a fault asks for; or return it, if AWS is to act before the answer is lost."""
        with self._log_lock:
            for fault in self._faults:
                if not fnmatch.fnmatchcase(operation, fault.operation):
                    continue
                if fault.where is not None and not fault.where(parameters):
                    continue
                fault.seen += 1
                if fault.seen <= fault.after:
                    continue
                if fault.times is not None and fault.fired >= fault.times:
                    continue
                fault.fired += 1
                error = fault.make()
                if fault.lose_answer:
                    return error
                raise error
        return None

    def _check_permissions(self, operation: str, parameters: dict[str, Any]) -> None:
        needed = [(f"ec2:{operation}", "")]
        if operation == _CREATE_SESSION and parameters.get("TagSpecifications"):
            arn = f"arn:aws:ec2:{self.region}:{self.account_id}:traffic-mirror-session/*"
            needed.append(("ec2:CreateTags", f" on resource: {arn}"))
        for action, resource in needed:
            if any(fnmatch.fnmatchcase(action, pattern) for pattern in self._denied):
                raise Refusal(
                    "UnauthorizedOperation",
                    "You are not authorized to perform this operation. User: "
                    f"arn:aws:sts::{self.account_id}:assumed-role/traffic-mirror/traffic-mirror "
                    f"is not authorized to perform: {action}{resource} because no identity-based "
                    f"policy allows the {action} action",
                    403,
                )

    # --- builder: networks

    @property
    def default_vpc(self) -> str:
        """The VPC that everything lands in unless told otherwise; made on first use."""
        if self._default_vpc is None:
            self._default_vpc = self.vpc()
        return self._default_vpc

    def vpc(self, cidr: str = "10.0.0.0/16") -> str:
        with self._lock:
            vpc_id = str(self._backend.create_vpc(cidr).id)
            self._networks[vpc_id] = []
            return vpc_id

    def _zone(self, zone: str) -> str:
        return zone if zone.startswith(self.region) else f"{self.region}{zone}"

    def _free_network(self, vpc_id: str, prefix: int) -> ipaddress.IPv4Network:
        whole = ipaddress.IPv4Network(self._backend.vpcs[vpc_id].cidr_block)
        taken = self._networks.setdefault(vpc_id, [])
        prefix = min(max(prefix, whole.prefixlen + 4), 28)
        key = (vpc_id, prefix)
        if key not in self._free:
            blocks = whole.subnets(new_prefix=prefix)
            # Large ones from the far end, so that small ones do not get in their way.
            self._free[key] = blocks if prefix >= 24 else reversed(list(blocks))
        for network in self._free[key]:
            if not any(network.overlaps(other) for other in taken):
                return network
        if prefix < 28:
            return self._free_network(vpc_id, prefix + 1)
        raise RuntimeError(f"{vpc_id} ({whole}) is full; make another VPC.")

    def subnet(
        self,
        zone: str = "a",
        *,
        vpc: str | None = None,
        acl: Iterable[Mapping[str, Any]] | None = None,
        cidr: str | None = None,
        prefix: int = 24,
    ) -> str:
        """A new subnet with a free block (of /`prefix`) of its VPC; `acl` as in `acl()`."""
        with self._lock:
            vpc_id = vpc or self.default_vpc
            network = ipaddress.IPv4Network(cidr) if cidr else self._free_network(vpc_id, prefix)
            made = self._backend.create_subnet(
                vpc_id, str(network), availability_zone=self._zone(zone)
            )
            self._networks.setdefault(vpc_id, []).append(network)
            if acl is not None:
                self.acl(str(made.id), acl)
            return str(made.id)

    def zone_subnet(self, zone: str = "a", vpc: str | None = None) -> str:
        """The large subnet of a zone where instances and sensors without a subnet go."""
        with self._lock:
            return self._zone_subnet_ids(self._zone(zone), vpc or self.default_vpc)[0]

    def _zone_subnet_ids(self, zone: str, vpc_id: str) -> list[str]:
        found = self._zone_subnets.setdefault((vpc_id, zone), [])
        if not found:
            found.append(self.subnet(zone, vpc=vpc_id, prefix=20))
        return found

    def acl(self, subnet: str, entries: Iterable[Mapping[str, Any]]) -> str:
        """A new ACL with these entries, in this order, and the final denials; it takes over."""
        with self._lock:
            vpc_id = self._backend.get_subnet(subnet).vpc_id
            acl_id = str(self._backend.create_network_acl(vpc_id).id)
            final = [acl_entry(32767, "deny", "0.0.0.0/0", "-1", egress=e) for e in (False, True)]
            for entry in [*entries, *final]:
                ports = entry.get("PortRange") or {}
                self._backend.create_network_acl_entry(
                    acl_id,
                    entry["RuleNumber"],
                    entry["Protocol"],
                    entry["RuleAction"],
                    entry["Egress"],
                    entry.get("CidrBlock"),
                    None,
                    None,
                    ports.get("From"),
                    ports.get("To"),
                    entry.get("Ipv6CidrBlock"),
                )
            old = next(
                association.id
                for acl in self._backend.network_acls.values()
                for association in acl._associations.values()
                if association.subnet_id == subnet
            )
            self._backend.replace_network_acl_association(old, acl_id)
            return acl_id

    def group(self, *rules: Mapping[str, Any], vpc: str | None = None) -> str:
        """A security group with these inbound rules (see `rule()`); all outbound is allowed."""
        with self._lock:
            vpc_id = vpc or self.default_vpc
            name = f"group-{next(self._numbers)}"
            made = self._backend.create_security_group(name, name, vpc_id)
            for item in rules:
                self._add_rule(made, item)
            return str(made.id)

    def _add_rule(self, group: Any, item: Mapping[str, Any]) -> None:
        protocol, ports, cidr = item["protocol"], item["ports"], item["cidr"]
        pair: dict[str, str] | None = None
        if item["group"] is not None:
            pair = {"GroupId": item["group"], "UserId": self.account_id}
            if item["peering"] is not None:
                pair["PeeringStatus"] = item["peering"]
                pair["VpcPeeringConnectionId"] = _new_id("pcx")
                pair["VpcId"] = _new_id("vpc")
        made = SecurityGroupRule(
            self._backend,
            "-1",
            group.id,
            None,
            None,
            {"CidrIpv6" if ":" in cidr else "CidrIp": cidr} if cidr else None,
            pair,
            {"PrefixListId": item["prefix_list"]} if item["prefix_list"] else None,
            is_egress=False,
        )
        protocol = {"17": "udp", "6": "tcp", "1": "icmp"}.get(protocol, protocol)  # as AWS shows it
        made.ip_protocol = protocol
        if ports is not None and protocol in ("udp", "tcp", "icmp"):
            made.from_port, made.to_port = ports
        group.ingress_rules.append(made)

    def prefix_list(self, *cidrs: str) -> str:
        with self._lock:
            made = self._backend.create_managed_prefix_list(
                "IPv6" if cidrs and ":" in cidrs[0] else "IPv4",
                [{"Cidr": cidr, "Description": ""} for cidr in cidrs],
                str(max(len(cidrs), 1)),
                f"list-{next(self._numbers)}",
            )
            return str(made.id)

    # --- builder: interfaces and instances

    def interface(
        self,
        subnet: str | None = None,
        groups: Iterable[str] = (),
        description: str = "",
        type: str = "interface",  # noqa: A002
        address: str | None = None,
        ipv6_only: bool = False,
    ) -> str:
        """An interface that is attached to nothing; without groups it has its VPC's default one."""
        with self._lock:
            made = self._new_interface(subnet or self.zone_subnet(), groups, address, ipv6_only)
            made.description = description
            made.interface_type = type
            return str(made.id)

    def _new_interface(
        self, subnet_id: str, groups: Iterable[str], address: str | None, ipv6_only: bool = False
    ) -> Any:
        subnet = self._backend.get_subnet(subnet_id)
        if address is None:
            address = subnet.get_available_subnet_ip(None)
        else:
            subnet.request_ip(address, None)
        made = self._backend.create_network_interface(subnet, address, group_ids=list(groups))
        if ipv6_only:
            self._make_ipv6_only(made)
        return made

    @staticmethod
    def _make_ipv6_only(interface: Any) -> None:
        interface.private_ip_address = None
        interface.private_ip_addresses = []
        interface.ipv6_addresses = [f"2600:1f18::{random.getrandbits(16):x}"]

    def instance(
        self,
        subnet: str | None = None,
        groups: Iterable[str] | None = None,
        *,
        zone: str = "a",
        interfaces: int = 1,
        tags: Mapping[str, str] | None = None,
        instance_type: str = "m5.large",
        state: str = "running",
        interface_type: str = "interface",
        ipv6_only: bool = False,
        address: str | None = None,
    ) -> str:
        """An instance, in its own reservation; all its interfaces are in the same subnet.

        `address` is the primary one of the first interface.
        """
        return self.instances(
            1,
            subnet,
            groups,
            zone=zone,
            interfaces=interfaces,
            tags=tags,
            instance_type=instance_type,
            state=state,
            interface_type=interface_type,
            ipv6_only=ipv6_only,
            address=address,
        )[0]

    def instances(
        self,
        count: int,
        subnet: str | None = None,
        groups: Iterable[str] | None = None,
        *,
        zone: str = "a",
        interfaces: int = 1,
        tags: Mapping[str, str] | None = None,
        instance_type: str = "m5.large",
        state: str = "running",
        interface_type: str = "interface",
        ipv6_only: bool = False,
        address: str | None = None,
    ) -> list[str]:
        """Many instances in one reservation; without `subnet`, further subnets as one fills up."""
        group_ids = list(groups or ())
        made: list[Any] = []
        with self._lock:
            while len(made) < count:
                subnet_id, room = (subnet, count) if subnet else self._room(zone, interfaces)
                number = min(count - len(made), room)
                reservation = self._backend.run_instances(
                    "ami-0abcdef1234567890",
                    number,
                    None,
                    [],
                    subnet_id=subnet_id,
                    private_ip=address,
                    instance_type=instance_type,
                    is_instance_type_default=True,  # no look into moto's list of types
                    security_group_ids=group_ids,
                    tags={"instance": dict(tags or {})},
                    block_device_mappings=[],
                    client_token=str(uuid.uuid4()),
                    region_name=self.region,
                )
                for instance in reservation.instances:
                    for index in range(1, interfaces):
                        nic = self._new_interface(str(subnet_id), group_ids, None)
                        instance.attach_eni(nic, index)
                    for nic in instance.nics.values():
                        nic.delete_on_termination = True
                        nic.description = ""
                        nic.interface_type = interface_type
                        if ipv6_only:
                            self._make_ipv6_only(nic)
                made += reservation.instances
            if state != "running":
                for instance in made:
                    self.set_state(instance.id, state)
        return [str(instance.id) for instance in made]

    def _room(self, zone: str, interfaces: int) -> tuple[str, int]:
        """A subnet of the zone with room, and for how many instances."""
        known = self._zone_subnet_ids(self._zone(zone), self.default_vpc)
        for subnet_id in known:
            subnet = self._backend.get_subnet(subnet_id)
            room = (subnet.cidr.num_addresses - 8 - len(subnet._subnet_ips)) // interfaces
            if room > 0:
                return subnet_id, room
        known.append(self.subnet(zone, prefix=20))
        return self._room(zone, interfaces)

    def _instance(self, instance_id: str) -> Any:
        """From the newest back: moto looks through all there are, each time."""
        for reservation in reversed(self._backend.reservations.values()):
            for instance in reservation.instances:
                if instance.id == instance_id:
                    return instance
        raise KeyError(instance_id)

    def interfaces_of(self, instance_id: str) -> list[str]:
        """In the order of their device index."""
        return [str(nic.id) for nic in _nics(self._instance(instance_id))]

    def set_state(self, instance_id: str, name: str) -> None:
        """Put the instance into this state: pending, running, shutting-down, stopping, ..."""
        with self._lock:
            instance = self._instance(instance_id)
            if name == "terminated":
                self._terminate(instance)
            else:
                instance._state.name = name
                instance._state.code = _STATE_CODES[name]

    def stop(self, instance_id: str) -> None:
        self.set_state(instance_id, "stopped")

    def terminate(self, instance_id: str) -> None:
        """The instance goes, and so do its interfaces and their sessions."""
        self.set_state(instance_id, "terminated")

    def _terminate(self, instance: Any) -> None:
        instance.terminate()
        self._tidy()

    def delete_interface(self, interface_id: str) -> None:
        """The interface goes, attached or not, and takes its sessions along."""
        with self._lock:
            nic = self._backend.enis.pop(interface_id)
            if nic.instance is not None:
                nic.instance.nics = {
                    index: other for index, other in nic.instance.nics.items() if other is not nic
                }
            self._tidy()

    def _tidy(self) -> None:
        """Follow up what went: interfaces of terminated instances, sessions of interfaces."""
        for interface in list(self._backend.enis.values()):
            instance = interface.instance
            if instance is not None and instance._state.name == "terminated":
                if interface.delete_on_termination or interface.device_index == 0:
                    del self._backend.enis[interface.id]
                else:
                    interface.instance = interface.attachment_id = None
                    interface.status = "available"
        for interface_id in list(self._by_interface):
            if interface_id in self._backend.enis:
                continue
            for session in list(self._by_interface[interface_id].values()):
                if session.real:
                    self._forget_session(session)

    def hide(self, resource_id: str) -> None:
        """It exists, but no Describe* shows it any more, as if it belonged to another account."""
        self._hidden.add(resource_id)

    # --- builder: sensors

    def _target(self, quota: int | None = None, **kwargs: str) -> Any:
        made = self._backend.create_traffic_mirror_target(
            kwargs.get("network_interface_id"),
            kwargs.get("network_load_balancer_arn"),
            f"sensor {next(self._numbers)}",
            [],
            None,
            kwargs.get("gateway_load_balancer_endpoint_id"),
        )
        if quota is not None:
            self.quota[made.id] = quota
        return made

    def _sensor_group(self, subnet_id: str) -> str:
        vpc_id = self._backend.get_subnet(subnet_id).vpc_id
        if vpc_id not in self._sensor_groups:
            self._sensor_groups[vpc_id] = self.group(rule(), vpc=vpc_id)
        return self._sensor_groups[vpc_id]

    def _load(self, target_id: str, sessions: int) -> None:
        for _ in range(sessions):
            self.session(_new_id("eni"), target_id)

    def sensor(
        self,
        subnet: str | None = None,
        groups: Iterable[str] | None = None,
        *,
        zone: str = "a",
        quota: int = 10,
        sessions: int = 0,
        state: str = "running",
        attached: bool = True,
    ) -> str:
        """A target with its sensor; its default group admits udp/4789 from anywhere.

        `sessions` exist already, from interfaces that are not otherwise part of the simulation.
        """
        with self._lock:
            subnet_id = subnet or self.zone_subnet(zone)
            group_ids = [self._sensor_group(subnet_id)] if groups is None else list(groups)
            if attached:
                instance_id = self.instance(subnet_id, group_ids, state=state)
                interface_id = str(self._instance(instance_id).nics[0].id)
            else:
                interface_id = self.interface(subnet_id, group_ids)
            target_id = str(self._target(quota, network_interface_id=interface_id).id)
            self._load(target_id, sessions)
            return target_id

    def nlb_sensor(self, subnets: Iterable[str], groups: Iterable[str] = ()) -> str:
        """A target that is a Network Load Balancer with an interface in each subnet."""
        with self._lock:
            name = f"net/sensors-{next(self._numbers)}/{random.getrandbits(64):016x}"
            arn = (
                f"arn:aws:elasticloadbalancing:{self.region}:{self.account_id}:loadbalancer/{name}"
            )
            for subnet_id in subnets:
                self._requester_managed(subnet_id, groups, f"ELB {name}", "network_load_balancer")
            return str(self._target(network_load_balancer_arn=arn).id)

    def gwlb_sensor(self, subnets: Iterable[str], colon: bool = False) -> str:
        """A target that is a Gateway Load Balancer endpoint; AWS gives it no security group."""
        with self._lock:
            endpoint = _new_id("vpce")
            text = f"VPC Endpoint Interface{':' if colon else ''} {endpoint}"
            for subnet_id in subnets:
                self._requester_managed(subnet_id, (), text, "gateway_load_balancer_endpoint")
            return str(self._target(gateway_load_balancer_endpoint_id=endpoint).id)

    def _requester_managed(
        self, subnet_id: str, groups: Iterable[str], description: str, kind: str
    ) -> None:
        group_ids = list(groups)
        made = self._backend.enis[self.interface(subnet_id, group_ids, description, kind)]
        made.requester_managed = True
        made.status = "in-use"
        if not group_ids:
            made._group_set = []

    def missing_sensor(self) -> str:
        """The ID of no target."""
        return _new_id("tmt")

    def foreign_sensor(
        self,
        subnet: str | None = None,
        groups: Iterable[str] | None = None,
        *,
        zone: str = "a",
        quota: int = 10,
        sessions: int = 0,
    ) -> str:
        """A target that another account shares; its interface cannot be seen from here."""
        with self._lock:
            target_id = self.sensor(
                subnet, groups, zone=zone, quota=quota, sessions=sessions, attached=False
            )
            self._backend.traffic_mirror_targets[target_id].simulated_owner = OTHER_ACCOUNT_ID
            self.hide(self.sensor_interface(target_id))
            return target_id

    def sensor_interface(self, target_id: str) -> str:
        return self._sensor_interfaces(target_id)[0]

    def _sensor_interfaces(self, target_id: str) -> list[str]:
        target = self._backend.traffic_mirror_targets[target_id]
        if target.network_interface_id:
            return [str(target.network_interface_id)]
        if target.network_load_balancer_arn:
            end = "ELB " + target.network_load_balancer_arn.split(":loadbalancer/")[1]
        else:
            end = " " + target.gateway_load_balancer_endpoint_id
        enis = self._backend.enis.values()
        return [str(interface.id) for interface in enis if interface.description.endswith(end)]

    def sensor_instance(self, target_id: str) -> str:
        return str(self._backend.enis[self.sensor_interface(target_id)].instance.id)

    def delete_sensor_interface(self, target_id: str) -> None:
        """The sensor's interface goes (all of a load balancer's); target and sessions stay."""
        for interface_id in self._sensor_interfaces(target_id):
            self.delete_interface(interface_id)

    # --- builder and looking: sessions

    def session(
        self, interface_id: str, target_id: str, number: int = 1, *, lag: int = 0, **more: Any
    ) -> str:
        """A session that exists, whatever AWS would say to its creation."""
        view = {
            "TrafficMirrorSessionId": _new_id("tms"),
            "TrafficMirrorTargetId": target_id,
            "TrafficMirrorFilterId": self.filter_id,
            "NetworkInterfaceId": interface_id,
            "OwnerId": self.account_id,
            "SessionNumber": number,
            "VirtualNetworkId": random.getrandbits(24),
            **more,
        }
        with self._lock:
            session = _Session(view, interface_id in self._backend.enis, lag)
            self._sessions[session.id] = session
            self._by_interface.setdefault(interface_id, {})[session.id] = session
            self._by_target.setdefault(target_id, {})[session.id] = session
        return session.id

    def delete_session(self, session_id: str) -> None:
        with self._lock:
            self._forget_session(self._sessions[session_id])

    def _forget_session(self, session: _Session) -> None:
        del self._sessions[session.id]
        for index, key in (
            (self._by_interface, session.view["NetworkInterfaceId"]),
            (self._by_target, session.view["TrafficMirrorTargetId"]),
        ):
            del index[key][session.id]
            if not index[key]:
                del index[key]

    def sessions(
        self, interface_id: str | None = None, target_id: str | None = None
    ) -> list[dict[str, Any]]:
        """The sessions there are, as DescribeTrafficMirrorSessions shows them, late ones too."""
        with self._lock:
            return [
                self._session_view(session)
                for session in self._sessions.values()
                if interface_id in (None, session.view["NetworkInterfaceId"])
                and target_id in (None, session.view["TrafficMirrorTargetId"])
            ]

    # --- misbehaviour

    def fail(
        self,
        operation: str,
        code: str = "RequestLimitExceeded",
        *,
        status: int = 503,
        times: int | None = None,
        after: int = 0,
        where: Callable[[dict[str, Any]], bool] | None = None,
        lose_answer: bool = False,
    ) -> None:
        """Every attempt at the operation ('*': any) fails, retries of botocore included.

        The first `after` attempts get through, then `times` fail (None: all). `where` picks the
        attempts by their parameters. `lose_answer`: AWS acts, and the failure hides its answer.
        """
        self._fault(
            operation, lambda: Refusal(code, status=status), times, after, where, lose_answer
        )

    def time_out(
        self,
        operation: str,
        *,
        times: int | None = None,
        after: int = 0,
        where: Callable[[dict[str, Any]], bool] | None = None,
        lose_answer: bool = False,
        connect: bool = False,
    ) -> None:
        """As `fail`, but no answer arrives in time; `connect`: no connection either."""
        url = f"https://ec2.{self.region}.amazonaws.com/"
        kind = ConnectTimeoutError if connect else ReadTimeoutError
        self._fault(
            operation,
            lambda: kind(endpoint_url=url, error="simulated"),
            times,
            after,
            where,
            lose_answer,
        )

    def _fault(self, *arguments: Any) -> None:
        with self._log_lock:
            self._faults.append(_Fault(*arguments))

    def deny(self, *permissions: str) -> None:
        """From now on these permissions ('ec2:DescribeNetworkAcls', wildcards too) are missing."""
        self._denied.update(permissions)

    def heal(self) -> None:
        """No fault and no denial from now on."""
        with self._log_lock:
            self._faults.clear()
        self._denied.clear()

    # --- call log

    def count(self, operation: str | None = None) -> int:
        with self._log_lock:
            return sum(operation in (None, call.operation) for call in self.calls)

    def round_trips(self) -> int:
        """The critical path: the longest chain of calls, each begun after the one before ended.

        Only with `latency` above 0 do calls that go out together overlap reliably.
        """
        with self._log_lock:
            spans = [(call.ended, call.started) for call in self.calls if call.ended is not None]
        length, end = 0, float("-inf")
        for ended, started in sorted(spans):  # the earliest end leaves most room for the others
            if started >= end:
                length, end = length + 1, ended
        return length

    def forget_calls(self) -> None:
        with self._log_lock:
            self.calls.clear()

    # --- Describe*

    def _tags_of(self, resource_id: str) -> dict[str, str]:
        return dict(self._backend.tags.get(resource_id) or {})

    def _tags_view(self, resource_id: str) -> list[dict[str, str]]:
        return [{"Key": key, "Value": value} for key, value in self._tags_of(resource_id).items()]

    def _filter(self, kind: _Kind, filters: Iterable[Mapping[str, Any]]) -> Callable[[Any], bool]:
        tests: list[tuple[_Values, Callable[[Iterable[str]], bool]]] = []
        filters = list(filters)
        if len(filters) > 50:
            raise Refusal("FilterLimitExceeded", "The maximum number of filters is 50.")
        for item in filters:
            name, values = item.get("Name"), item.get("Values") or []
            if len(values) > 200:
                raise Refusal(
                    "FilterLimitExceeded",
                    "The maximum number of filter values specified on a single call is 200",
                )
            if name in kind.filters:
                values_of = kind.filters[name]
            elif name is not None and name.startswith("tag:"):
                values_of = self._tag_value(name[len("tag:") :])
            elif name == "tag-key":
                values_of = self._tag_keys
            else:
                raise Refusal("InvalidParameterValue", f"The filter '{name}' is invalid")
            tests.append((values_of, _matcher(values)))

        def passes(resource: Any) -> bool:
            return all(
                matches(str(value) for value in values_of(resource) if value is not None)
                for values_of, matches in tests
            )

        return passes

    def _tag_keys(self, resource: Any) -> Iterable[str]:
        return self._tags_of(resource.id)

    def _tag_value(self, key: str) -> _Values:
        return lambda resource: (
            value for name, value in self._tags_of(resource.id).items() if name == key
        )

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
        signature = json.dumps(
            [
                operation,
                {k: v for k, v in parameters.items() if k not in ("NextToken", "MaxResults")},
            ]
        )
        token = parameters.get("NextToken")
        if token:
            known = self._pages.get(token)
            if known is None or known[0] != signature:
                raise Refusal(
                    "InvalidPaginationToken", "The specified pagination token is invalid."
                )
            _, found, offset = known
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
            hidden = () if looking else self._hidden
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
            instance.id: reservation
            for reservation in self._backend.reservations.values()
            for instance in reservation.instances
        }
        reservations: dict[str, dict[str, Any]] = {}
        for instance in shown:
            reservation = of_instance[instance.id]
            view = reservations.setdefault(
                reservation.id,
                {
                    "ReservationId": reservation.id,
                    "OwnerId": self.account_id,
                    "Groups": [],
                    "Instances": [],
                },
            )
            view["Instances"].append(self._instance_view(instance))
        return {"Reservations": list(reservations.values()), "NextToken": token}

    def _instance_view(self, instance: Any) -> dict[str, Any]:
        nics = _nics(instance)
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
            if first.public_ip:
                view["PublicIpAddress"] = first.public_ip
        return view

    def _dns(self, address: str) -> str:
        zone = "ec2" if self.region == "us-east-1" else f"{self.region}.compute"
        return f"ip-{address.replace('.', '-')}.{zone}.internal"

    @staticmethod
    def _group_views(interface: Any) -> list[dict[str, str]]:
        return [{"GroupId": g.id, "GroupName": g.name} for g in _groups_of(interface)]

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
        association = None
        if interface.public_ip:
            association = {"IpOwnerId": "amazon", "PublicIp": interface.public_ip}
        addresses = []
        for address in interface.private_ip_addresses:
            primary = address["PrivateIpAddress"] == interface.private_ip_address
            addresses.append(
                {
                    "Primary": primary,
                    "PrivateIpAddress": address["PrivateIpAddress"],
                    "PrivateDnsName": self._dns(address["PrivateIpAddress"]),
                    "Association": association if primary else None,
                }
            )
        return {
            "NetworkInterfaceId": interface.id,
            "Description": interface.description,
            "InterfaceType": interface.interface_type,
            "MacAddress": interface.mac_address,
            "OwnerId": self.account_id,
            "PrivateIpAddress": interface.private_ip_address,
            "PrivateIpAddresses": addresses,
            "Ipv6Addresses": [{"Ipv6Address": a} for a in interface.ipv6_addresses],
            "Association": association,
            "SourceDestCheck": interface.source_dest_check,
            "Status": interface.status,
            "SubnetId": interface.subnet.id,
            "VpcId": interface.subnet.vpc_id,
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
        for egress in (False, True):
            if not any(e["RuleNumber"] == 32767 and e["Egress"] is egress for e in entries):
                entries.append(acl_entry(32767, "deny", "0.0.0.0/0", "-1", egress=egress))
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

    def _describe_subnets(self, parameters: dict[str, Any], looking: bool) -> dict[str, Any]:
        resources = {s.id: s for zone in self._backend.subnets.values() for s in zone.values()}
        shown, token = self._select("DescribeSubnets", _SUBNETS, parameters, looking, resources)
        views = [
            {
                "SubnetId": subnet.id,
                "SubnetArn": subnet.arn,
                "VpcId": subnet.vpc_id,
                "OwnerId": self.account_id,
                "CidrBlock": subnet.cidr_block,
                "AvailabilityZone": subnet.availability_zone,
                "AvailabilityZoneId": subnet.availability_zone_id,
                "AvailableIpAddressCount": subnet.cidr.num_addresses - 5 - len(subnet._subnet_ips),
                "DefaultForAz": subnet.default_for_az in (True, "true"),
                "MapPublicIpOnLaunch": subnet.map_public_ip_on_launch in (True, "true"),
                "State": subnet.state,
                "Tags": self._tags_view(subnet.id) or None,
            }
            for subnet in shown
        ]
        return {"Subnets": views, "NextToken": token}

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
            known = self._pages.get(token)
            if known is None or known[0] != signature:
                raise Refusal(
                    "InvalidPaginationToken", "The specified pagination token is invalid."
                )
            offset = known[2]
        next_token = None
        if offset + size < len(entries):
            next_token = f"eyJ2IjoiMiIs{uuid.uuid4().hex}"
            self._pages[next_token] = (signature, [], offset + size)
        return {"Entries": entries[offset : offset + size], "NextToken": next_token}

    # --- traffic mirroring

    def _describe_targets(self, parameters: dict[str, Any], looking: bool) -> dict[str, Any]:
        shown, token = self._select(
            "DescribeTrafficMirrorTargets",
            _TARGETS,
            parameters,
            looking,
            self._backend.traffic_mirror_targets,
        )
        views = [
            {
                "TrafficMirrorTargetId": target.id,
                "Type": target.type,
                "NetworkInterfaceId": target.network_interface_id,
                "NetworkLoadBalancerArn": target.network_load_balancer_arn,
                "GatewayLoadBalancerEndpointId": target.gateway_load_balancer_endpoint_id,
                "Description": target.description,
                "OwnerId": getattr(target, "simulated_owner", self.account_id),
                "Tags": self._tags_view(target.id),
            }
            for target in shown
        ]
        return {"TrafficMirrorTargets": views, "NextToken": token}

    def _describe_filters(self, parameters: dict[str, Any], looking: bool) -> dict[str, Any]:
        shown, token = self._select(
            "DescribeTrafficMirrorFilters",
            _FILTERS,
            parameters,
            looking,
            self._backend.traffic_mirror_filters,
        )
        views = [
            {
                "TrafficMirrorFilterId": item.id,
                "Description": item.description,
                "IngressFilterRules": [],
                "EgressFilterRules": [],
                "NetworkServices": [],
                "Tags": self._tags_view(item.id),
            }
            for item in shown
        ]
        return {"TrafficMirrorFilters": views, "NextToken": token}

    def _session_view(self, session: _Session) -> dict[str, Any]:
        return {**session.view, "Tags": self._tags_view(session.id)}

    def _describe_sessions(self, parameters: dict[str, Any], looking: bool) -> dict[str, Any]:
        def unseen(session: _Session) -> bool:
            if session.hidden_calls > 0:
                session.hidden_calls -= 1
                return True
            return False

        shown, token = self._select(
            "DescribeTrafficMirrorSessions",
            _SESSIONS,
            parameters,
            looking,
            self._sessions,
            unseen,
        )
        views = [self._session_view(session) for session in shown]
        return {"TrafficMirrorSessions": views, "NextToken": token}

    def _create_session(self, parameters: dict[str, Any], looking: bool) -> dict[str, Any]:
        token = parameters.get("ClientToken") or str(uuid.uuid4())
        request = {k: v for k, v in parameters.items() if k != "ClientToken"}
        signature = json.dumps(request, sort_keys=True)
        if token in self._idempotency:
            known, answer = self._idempotency[token]
            if known != signature:
                raise Refusal(
                    "IdempotentParameterMismatch",
                    "Arguments on this idempotent request are inconsistent with arguments used in "
                    "previous request(s).",
                )
            return answer
        self._check_session(parameters)
        tags: dict[str, str] = {}
        for specification in parameters.get("TagSpecifications") or ():
            if specification.get("ResourceType") != "traffic-mirror-session":
                raise Refusal(
                    "InvalidParameterValue",
                    f"'{specification.get('ResourceType')}' is not a valid taggable resource type "
                    "for this operation.",
                )
            for tag in specification.get("Tags") or ():
                tags[tag["Key"]] = tag.get("Value", "")
        optional = {
            name: parameters[name]
            for name in ("PacketLength", "VirtualNetworkId", "Description")
            if name in parameters
        }
        target = self._backend.traffic_mirror_targets[parameters["TrafficMirrorTargetId"]]
        if target.network_load_balancer_arn:
            optional.setdefault("PacketLength", 8500)
        session_id = self.session(
            parameters["NetworkInterfaceId"],
            parameters["TrafficMirrorTargetId"],
            parameters["SessionNumber"],
            lag=0 if looking else self.session_lag,
            TrafficMirrorFilterId=parameters["TrafficMirrorFilterId"],
            **optional,
        )
        if tags:
            self._backend.create_tags([session_id], tags)
        view = self._session_view(self._sessions[session_id])
        answer = {"TrafficMirrorSession": view, "ClientToken": token}
        self._idempotency[token] = (signature, answer)
        return answer

    def _check_session(self, parameters: Mapping[str, Any]) -> None:
        """Everything that AWS checks; in which order is not documented."""
        for name, low, high in (
            ("SessionNumber", 1, 32766),
            ("VirtualNetworkId", 0, 16777215),
            ("PacketLength", 1, 8500),
        ):
            value = parameters.get(name)
            if value is not None and not low <= value <= high:
                raise Refusal(
                    "InvalidParameterValue",
                    f"Value ({value}) for parameter {name} is invalid. "
                    f"It must be between {low} and {high}.",
                )
        filter_id = parameters["TrafficMirrorFilterId"]
        if filter_id not in self._backend.traffic_mirror_filters:
            raise Refusal(
                "InvalidTrafficMirrorFilterId.NotFound",
                f"The traffic mirror filter '{filter_id}' does not exist",
            )
        interface_id = parameters["NetworkInterfaceId"]
        if interface_id not in self._backend.enis:
            raise Refusal(
                "InvalidNetworkInterfaceID.NotFound",
                f"The networkInterface ID '{interface_id}' does not exist",
            )
        target_id = parameters["TrafficMirrorTargetId"]
        if target_id not in self._backend.traffic_mirror_targets:
            raise Refusal(
                "InvalidTrafficMirrorTargetId.NotFound",
                f"The traffic mirror target '{target_id}' does not exist",
            )
        self._check_target(target_id)
        self._check_source(interface_id)
        self._check_quotas(interface_id, target_id, parameters["SessionNumber"])

    def _check_target(self, target_id: str) -> None:
        """Users report the code for an instance that is not running; for the rest it is a guess.

        A target whose interface is attached to nothing is accepted (not documented).
        """
        target = self._backend.traffic_mirror_targets[target_id]
        if not target.network_interface_id:
            if not self._sensor_interfaces(target_id):
                raise Refusal(
                    "InvalidTrafficMirrorTarget", f"The load balancer of {target_id} is gone"
                )
            return
        interface = self._backend.enis.get(target.network_interface_id)
        if interface is None:
            raise Refusal(
                "InvalidTrafficMirrorTarget",
                f"{target.network_interface_id}, the interface of {target_id}, does not exist",
            )
        if interface.instance is not None and interface.instance._state.name != "running":
            raise Refusal(
                "InvalidTrafficMirrorTarget",
                f"The instance of {target_id} must be in the running state",
            )

    def _check_source(self, interface_id: str) -> None:
        """The guide says what cannot be a source; only for instance types users report the code."""
        interface = self._backend.enis[interface_id]
        if any(
            target.network_interface_id == interface_id
            for target in self._backend.traffic_mirror_targets.values()
        ):
            raise Refusal(
                "InvalidParameterValue",
                f"{interface_id} is a traffic mirror target and cannot be a source as well",
            )
        if interface.interface_type != "interface":
            raise Refusal(
                "InvalidParameterValue",
                f"{interface_id} is of type {interface.interface_type}; a source must be of type "
                "interface",
            )
        if interface.private_ip_address is None:
            raise Refusal("InvalidParameterValue", f"{interface_id} is in an IPv6-only subnet")
        instance = interface.instance
        if instance is None or instance.instance_type in self.unsupported_types:
            raise Refusal(
                "NetworkInterfaceNotSupported",
                f"{interface_id} must be attached to a supported instance",
            )

    def _check_quotas(self, interface_id: str, target_id: str, number: int) -> None:
        """The codes are documented but for the session number's.

        The quota of a target counts its sources: further sessions of one that it has are free.
        """
        of_interface = self._by_interface.get(interface_id, {}).values()
        if any(session.view["SessionNumber"] == number for session in of_interface):
            raise Refusal(
                "InvalidParameterValue",
                f"Session number {number} already being used on network interface {interface_id}",
            )
        if len(of_interface) >= self.interface_quota:
            raise Refusal(
                "TrafficMirrorSessionsPerInterfaceLimitExceeded",
                f"Sessions per interface limit reached ({self.interface_quota})",
            )
        target = self._backend.traffic_mirror_targets[target_id]
        if target.network_interface_id:
            sources = {
                session.view["NetworkInterfaceId"]
                for session in self._by_target.get(target_id, {}).values()
            }
            quota = self.quota.get(target_id, self.default_quota)
            if interface_id not in sources and len(sources) >= quota:
                raise Refusal(
                    "TrafficMirrorSourcesPerTargetLimitExceeded",
                    f"Sources per interface-target limit reached ({quota})",
                )
        if len(self._sessions) >= self.account_quota:
            raise Refusal(
                "TrafficMirrorSessionLimitExceeded",
                f"Traffic mirror session limit reached ({self.account_quota})",
            )

    def _known_session(self, session_id: str) -> _Session:
        if session_id not in self._sessions:
            raise Refusal(
                "InvalidTrafficMirrorSessionId.NotFound",
                f"The traffic mirror session '{session_id}' does not exist",
            )
        return self._sessions[session_id]

    def _delete_session(self, parameters: dict[str, Any], looking: bool) -> dict[str, Any]:
        session = self._known_session(parameters["TrafficMirrorSessionId"])
        self._forget_session(session)
        return {"TrafficMirrorSessionId": session.id}

    def _modify_session(self, parameters: dict[str, Any], looking: bool) -> dict[str, Any]:
        session = self._known_session(parameters["TrafficMirrorSessionId"])
        changes: dict[str, Any] = {
            name: parameters[name]
            for name in (
                "TrafficMirrorTargetId",
                "TrafficMirrorFilterId",
                "PacketLength",
                "SessionNumber",
                "VirtualNetworkId",
                "Description",
            )
            if name in parameters
        }
        self._forget_session(session)
        session.view = {**session.view, **changes}
        self._sessions[session.id] = session
        for index, key in (
            (self._by_interface, session.view["NetworkInterfaceId"]),
            (self._by_target, session.view["TrafficMirrorTargetId"]),
        ):
            index.setdefault(key, {})[session.id] = session
        return {"TrafficMirrorSession": self._session_view(session)}


# ---------------------------------------------------------------------------------------------
# What Lambda hands over.


@dataclass
class LambdaContext:
    """Lambda's context object; the remaining time runs down from its creation."""

    seconds: float = 60.0
    aws_request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    function_name: str = "traffic-mirror"
    clock: Callable[[], float] = monotonic
    function_version: str = "$LATEST"
    memory_limit_in_mb: int = 256

    def __post_init__(self) -> None:
        self._end = self.clock() + self.seconds
        self.invoked_function_arn = (
            f"arn:aws:lambda:{REGION}:{ACCOUNT_ID}:function:{self.function_name}"
        )
        self.log_group_name = f"/aws/lambda/{self.function_name}"
        self.log_stream_name = "simulated"

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self._end - self.clock()) * 1000))


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def running_event(
    instance_id: str, event_id: str | None = None, state: str = "running"
) -> dict[str, Any]:
    """EventBridge's EC2 Instance State-change Notification."""
    return {
        "version": "0",
        "id": event_id or str(uuid.uuid4()),
        "detail-type": "EC2 Instance State-change Notification",
        "source": "aws.ec2",
        "account": ACCOUNT_ID,
        "time": _now(),
        "region": REGION,
        "resources": [f"arn:aws:ec2:{REGION}:{ACCOUNT_ID}:instance/{instance_id}"],
        "detail": {"instance-id": instance_id, "state": state},
    }


def scheduled_event() -> dict[str, Any]:
    """What a schedule of EventBridge sends."""
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": ACCOUNT_ID,
        "time": _now(),
        "region": REGION,
        "resources": [f"arn:aws:events:{REGION}:{ACCOUNT_ID}:rule/traffic-mirror-sweep"],
        "detail": {},
    }


def sqs_event(*bodies: Mapping[str, Any] | str) -> dict[str, Any]:
    """A batch as Lambda reads it from an SQS queue; text is taken as the body as it is."""

    def records() -> Iterator[dict[str, Any]]:
        for body in bodies:
            text = body if isinstance(body, str) else json.dumps(body)
            sent = str(int(datetime.now(timezone.utc).timestamp() * 1000))
            yield {
                "messageId": str(uuid.uuid4()),
                "receiptHandle": uuid.uuid4().hex,
                "body": text,
                "attributes": {
                    "ApproximateReceiveCount": "1",
                    "SentTimestamp": sent,
                    "SenderId": "AIDAIT2UOQQY3AUEKVGXU",
                    "ApproximateFirstReceiveTimestamp": sent,
                },
                "messageAttributes": {},
                "md5OfBody": hashlib.md5(text.encode(), usedforsecurity=False).hexdigest(),
                "eventSource": "aws:sqs",
                "eventSourceARN": f"arn:aws:sqs:{REGION}:{ACCOUNT_ID}:traffic-mirror",
                "awsRegion": REGION,
            }

    return {"Records": list(records())}
