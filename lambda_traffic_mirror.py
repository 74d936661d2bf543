"""Mirror the traffic of every EC2 instance to the right network sensor, by itself.

An AWS Lambda function. EventBridge reports that an instance is running; for each of its network
interfaces that has no traffic mirror session yet, the function takes the sensors (traffic mirror
targets) in the same Availability Zone, drops those whose security groups or network ACLs block
VXLAN (UDP 4789) from the interface, takes the one with the fewest sessions and creates the session.

The sections stand in the order in which data flows:

    1  Configuration   what the environment variables say
    2  Events          what an event asks for
    3  Nouns           source, sensor, session, security group, network ACL, verdict
    4  AWS             every EC2 call, each in one place, and what is read of the sensors
    5  Judging         the stages, pure: may this source be mirrored to that sensor, and why
    6  Mirroring       from verdicts to one session per interface; batches and sweeps
    7  Reporting       result, log records, metrics
    8  Handler         the summary of all of the above

A new filter is a new stage: a function in section 5 and a line in PIPELINE.
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import os
import re
import sys
import threading
import time
import uuid
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property, lru_cache
from typing import Any, Generic, NamedTuple, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as BotocoreConnectionError
from botocore.parsers import ResponseParserError
from netaddr import IPAddress, IPNetwork

# Defaults of the environment variables `targets` and `LOCAL_ZONE_ONLY`, for those who would
# rather edit the file than set variables.
TARGETS: list[str] = []
LOCAL_ZONE_ONLY = True

logger = logging.getLogger(__name__)

T = TypeVar("T")

# ======================================================================================
# 1  Configuration
# ======================================================================================


class ConfigurationError(ValueError):
    """An environment variable is missing or malformed; the message names it, its value and
    what is accepted."""


class Tag(NamedTuple):
    """A tag to look for on instances: `key=value`, or `key` with any value (value None)."""

    key: str
    value: str | None

    def matches(self, tags: Mapping[str, str]) -> bool:
        """Whether an instance with these tags (key to value) has this one."""
        return self.key in tags and self.value in (None, tags[self.key])

    def __str__(self) -> str:
        return self.key if self.value is None else f"{self.key}={self.value}"


class Configuration(NamedTuple):
    """What the environment variables say; see the table in README.md.

    Equal configurations may share what is cached of the sensors, so every field counts.
    """

    filter_id: str
    targets: tuple[str, ...]
    local_zone_only: bool
    local_vpc_only: bool
    include_tags: tuple[Tag, ...]
    exclude_tags: tuple[Tag, ...]
    session_number: int
    virtual_network_id: int | None
    packet_length: int | None
    allow_unverified: bool
    cache_seconds: int
    dry_run: bool

    @property
    def selects_by_tag(self) -> bool:
        """Whether tags say which instances are meant."""
        return bool(self.include_tags or self.exclude_tags)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Configuration:
        """Read the configuration.

        Args:
            environment: variable name to text, `os.environ` as a rule. Blank counts as unset.

        Raises:
            ConfigurationError: a required variable is missing, or a value is not accepted.
        """
        setting = Settings(environment)
        session_number = setting.integer("SESSION_NUMBER", 1, 32_766)
        return cls(
            filter_id=setting.one_id("filter_id", "the ID of the traffic mirror filter"),
            targets=setting.ids("targets", TARGETS, "the IDs of the traffic mirror targets"),
            local_zone_only=setting.boolean("LOCAL_ZONE_ONLY", LOCAL_ZONE_ONLY),
            local_vpc_only=setting.boolean("LOCAL_VPC_ONLY", False),
            include_tags=setting.tags("INCLUDE_TAGS"),
            exclude_tags=setting.tags("EXCLUDE_TAGS"),
            session_number=1 if session_number is None else session_number,
            # A VXLAN network identifier has 24 bits. Without one AWS picks one at random.
            virtual_network_id=setting.integer("VIRTUAL_NETWORK_ID", 0, 16_777_215),
            packet_length=setting.integer("PACKET_LENGTH", 1, 8_500),
            allow_unverified=setting.boolean("ALLOW_UNVERIFIED", False),
            cache_seconds=setting.integer("CACHE_SECONDS", 0, None) or 0,
            dry_run=setting.boolean("DRY_RUN", False),
        )


class Settings:
    """Reads environment variables by type; every error names variable, value and what is right."""

    TRUE = frozenset({"true", "yes", "on", "1"})
    FALSE = frozenset({"false", "no", "off", "0"})

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment

    def text(self, name: str) -> str:
        """The variable's value without surrounding white space; empty when unset."""
        text = self.environment.get(name, "").strip()
        try:
            text.encode()
        except UnicodeEncodeError:
            raise self._error(name, text, "text in UTF-8") from None
        return text

    def boolean(self, name: str, default: object) -> bool:
        """true/false, yes/no, on/off, 1/0 in any case."""
        text = self.text(name) or str(default)
        if text.lower() in self.TRUE:
            return True
        if text.lower() in self.FALSE:
            return False
        raise self._error(name, text, "true/false, yes/no, on/off or 1/0")

    def integer(self, name: str, low: int, high: int | None) -> int | None:
        """A whole number from low to high (None: no upper end); None when unset."""
        text = self.text(name)
        if not text:
            return None
        # The length is looked at first: Python refuses to convert thousands of digits.
        if re.fullmatch("[0-9]{1,18}", text):
            number = int(text)
            if low <= number and (high is None or number <= high):
                return number
        accepted = f"a whole number from {low}" + (" up" if high is None else f" to {high}")
        raise self._error(name, text, accepted)

    def one_id(self, name: str, what: str) -> str:
        """Exactly one ID; its form is not checked."""
        text = self.text(name)
        if len(split_ids(text)) != 1:
            raise self._error(name, text, what)
        return split_ids(text)[0]

    def ids(self, name: str, default: str | Iterable[str], what: str) -> tuple[str, ...]:
        """One or more IDs, separated by commas or white space; duplicates fold, order is kept."""
        text = self.text(name)
        if not text and isinstance(default, (list, tuple, set)):
            text = ",".join(map(str, default))
        elif not text:
            text = str(default or "")
        ids = tuple(dict.fromkeys(split_ids(text)))
        if not ids:
            raise self._error(
                name, text, f"{what}, separated by commas or white space (or TARGETS in the file)"
            )
        return ids

    def tags(self, name: str) -> tuple[Tag, ...]:
        """`key=value` or `key`, separated by commas."""
        tags = []
        for item in filter(None, map(str.strip, self.text(name).split(","))):
            key, equals, value = map(str.strip, item.partition("="))
            if not key:
                raise self._error(name, item, "key=value or key, separated by commas")
            tags.append(Tag(key, value if equals else None))
        return tuple(tags)

    @staticmethod
    def _error(name: str, value: str, accepted: str) -> ConfigurationError:
        state = f"is {value!r}" if value else "is not set"
        return ConfigurationError(f"Environment variable {name} {state}; accepted: {accepted}.")


def split_ids(text: str) -> list[str]:
    """The IDs in a text, separated by commas and/or white space."""
    return text.replace(",", " ").split()


# ======================================================================================
# 2  Events
# ======================================================================================

STATE_CHANGE = "EC2 Instance State-change Notification"
SCHEDULE = "Scheduled Event"
TEST_EVENT = '{"detail": {"instance-id": "i-0123456789abcdef0"}}'


class InvalidEvent(ValueError):
    """The event is none of the kinds that the function knows; the message shows one that is."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem} An event that works: {TEST_EVENT}")


class Request(NamedTuple):
    """What one event asks for.

    Attributes:
        event_id: goes into the ClientToken, so that an event delivered twice is one request.
        dry_run: decide, but create nothing.
        instance_ids: the instances that it names.
        sweep: it is about all running instances instead.
        ignored: why it is about nothing, where it is.
    """

    event_id: str
    dry_run: bool
    instance_ids: tuple[str, ...] = ()
    sweep: bool = False
    ignored: str | None = None


class Work(NamedTuple):
    """What events ask for, taken together.

    Attributes:
        instances: by ID, each once and in order, with the request to mirror it.
        sweep: the request to look at all running instances, where there is one.
    """

    instances: Mapping[str, Request]
    sweep: Request | None

    @classmethod
    def of(cls, requests: Iterable[Request]) -> Work:
        """The work of these requests. What one wants mirrored and another only tried out is
        mirrored."""
        instances: dict[str, Request] = {}
        sweeps: list[Request] = []
        for request in requests:
            for instance_id in request.instance_ids:
                earlier = instances.setdefault(instance_id, request)
                if earlier.dry_run:
                    instances[instance_id] = request
            if request.sweep:
                sweeps.append(request)
        sweep = min(sweeps, key=lambda request: request.dry_run, default=None)
        if sweep and not sweep.dry_run:
            instances = {key: request for key, request in instances.items() if not request.dry_run}
        return cls(instances, sweep)


def parse_event(event: object, default_id: str, dry_run: bool = False) -> Request:
    """What an event asks for.

    Args:
        event: the event as Lambda or the body of an SQS message hands it over.
        default_id: takes the place of the event's ID where it has none.
        dry_run: a switch outside of the event; either of the two switches the dry run on.

    Raises:
        InvalidEvent: not an event that the function knows.
    """
    if not isinstance(event, dict):
        raise InvalidEvent(f"The event is {shown(event)}, not an object.")
    event_id = event.get("id")
    if not isinstance(event_id, str) or not event_id:
        event_id = default_id
    request = Request(event_id, boolean_member(event, "dry_run") or dry_run)

    found: list[Request] = []
    detail_type = event.get("detail-type")
    if detail_type not in (None, STATE_CHANGE, SCHEDULE):
        raise InvalidEvent(f"Events of detail-type {shown(detail_type)} are not known.")
    if boolean_member(event, "sweep") or detail_type == SCHEDULE:
        found.append(request._replace(sweep=True))
    if detail_type == STATE_CHANGE or (detail_type is None and "detail" in event):
        found.append(parse_detail(event.get("detail"), request))
    if "instance-ids" in event:
        found.append(request._replace(instance_ids=parse_instance_ids(event["instance-ids"])))
    if not found:
        raise InvalidEvent("The event names no instance.")
    if len(found) > 1:
        raise InvalidEvent("The event asks for several of detail, instance-ids and sweep.")
    return found[0]


def parse_detail(detail: object, request: Request) -> Request:
    """The request with what the `detail` of an EC2 Instance State-change Notification names."""
    if not isinstance(detail, dict):
        raise InvalidEvent(f"detail is {shown(detail)}, not an object with an instance-id.")
    identifier = instance_id(detail.get("instance-id"))
    state = detail.get("state", "running")
    if not isinstance(state, str):
        raise InvalidEvent(f"state is {shown(state)}, not the name of an instance state.")
    if state != "running":
        ignored = f"{identifier} is {shown(state)}; only running instances are mirrored."
        return request._replace(ignored=ignored)
    return request._replace(instance_ids=(identifier,))


def parse_instance_ids(ids: object) -> tuple[str, ...]:
    """The instances that `instance-ids` names."""
    if not isinstance(ids, list) or not ids:
        raise InvalidEvent(f"instance-ids is {shown(ids)}, not a list of instance IDs.")
    return tuple(map(instance_id, ids))


def instance_id(value: object) -> str:
    """An instance ID as events spell it. Opaque, but never with the wildcards of filters: they
    would name instances that nobody asked for."""
    if isinstance(value, str) and re.fullmatch(r"[\w.:/-]+", value.strip(), re.ASCII):
        return value.strip()
    raise InvalidEvent(f"instance-id is {shown(value)}, not an instance ID.")


def boolean_member(event: Mapping[str, Any], name: str) -> bool:
    """The JSON boolean of that name in the event; False where it is missing."""
    value = event.get(name, False)
    if not isinstance(value, bool):
        raise InvalidEvent(f"{name} is {shown(value)}, not true or false.")
    return value


def shown(value: object) -> str:
    """A value of an event, short and safe to print."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list" if value else "an empty list"
    return "missing" if value is None else ascii(value)[:80]


def is_sqs_batch(event: object) -> bool:
    """Whether the event is a batch of SQS messages, as Lambda's event source mapping sends it."""
    records = event.get("Records") if isinstance(event, dict) else None
    return (
        isinstance(records, list)
        and bool(records)
        and all(
            isinstance(record, dict)
            and record.get("eventSource") == "aws:sqs"
            and isinstance(record.get("messageId"), str)
            for record in records
        )
    )


def parse_sqs_batch(event: Mapping[str, Any], default_id: str) -> dict[str, Request | InvalidEvent]:
    """What each message of an SQS batch asks for, by message ID; an unreadable one is an error."""
    requests: dict[str, Request | InvalidEvent] = {}
    for record in event["Records"]:
        try:
            dry_run = boolean_member(event, "dry_run")
            body = parse_json(record.get("body"))
            requests[record["messageId"]] = parse_event(body, default_id, dry_run)
        except InvalidEvent as error:
            requests[record["messageId"]] = error
    return requests


def parse_json(text: object) -> object:
    """The JSON in a message's body."""
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError) as error:
        raise InvalidEvent(f"The message is not JSON ({ascii(str(error))[:80]}).") from None


# ======================================================================================
# 3  Nouns
# ======================================================================================
# Named tuples, because every cold start pays for making the classes, and a dataclass takes five
# times as long to make.

VXLAN_PORT = 4789
VXLAN = f"udp/{VXLAN_PORT}"
UDP_NUMBER = "17"  # the IANA number, which is how EC2 spells protocols without a name
ANY_PROTOCOL = "-1"


@lru_cache(maxsize=65_536)
def block_bounds(cidr: str) -> tuple[int, int]:
    """First and last address of an IPv4 CIDR block, as numbers. Parsing costs far more than
    comparing, and accounts repeat the same blocks, so each is parsed once."""
    network = IPNetwork(cidr)
    return network.first, network.last


class Block(NamedTuple):
    """An IPv4 CIDR block."""

    cidr: str
    first: int
    last: int

    @classmethod
    def of(cls, cidr: str) -> Block:
        """The block that a CIDR text such as 10.0.0.0/8 names."""
        return cls(cidr, *block_bounds(cidr))

    def contains(self, address: Address) -> bool:
        """Whether the address is in the block."""
        return self.first <= address.number <= self.last


class Blocks:
    """CIDR blocks, to find one that contains an address without a comparison with each.

    Args:
        cidrs: IPv4 CIDR blocks as text, in any order.
    """

    def __init__(self, cidrs: Iterable[str]) -> None:
        blocks = sorted(map(Block.of, cidrs), key=lambda block: block.first)
        self._firsts = [block.first for block in blocks]
        # Of the blocks up to each place, the one that reaches furthest.
        self._furthest: list[Block] = []
        for block in blocks:
            reached = self._furthest[-1] if self._furthest else block
            self._furthest.append(max(reached, block, key=lambda reach: reach.last))

    def containing(self, address: Address) -> Block | None:
        """A block that contains the address, None where none does."""
        place = bisect_right(self._firsts, address.number)
        block = self._furthest[place - 1] if place else None
        return block if block and block.contains(address) else None


class Address(NamedTuple):
    """An IPv4 address."""

    text: str
    number: int

    @classmethod
    def primary(cls, interface: Mapping[str, Any]) -> Address | None:
        """The primary private IPv4 address of an interface as EC2 describes it: the one that VXLAN
        packets leave from and arrive at. None where there is none (IPv6-only subnets)."""
        for private in interface.get("PrivateIpAddresses") or ():
            if private.get("Primary") and private.get("PrivateIpAddress"):
                text = private["PrivateIpAddress"]
                break
        else:
            text = interface.get("PrivateIpAddress")
        return cls(text, int(IPAddress(text))) if text else None

    def __str__(self) -> str:
        return self.text


class Source(NamedTuple):
    """A network interface of an instance, as a source of mirrored traffic."""

    interface_id: str
    interface_type: str
    instance_id: str
    instance_type: str
    owner_id: str | None
    zone: str | None
    vpc_id: str | None
    subnet_id: str | None
    address: Address | None
    group_ids: frozenset[str]

    @classmethod
    def of(cls, interface: Mapping[str, Any], instance: Mapping[str, Any]) -> Source:
        """From a network interface within an instance, as DescribeInstances shows them."""
        return cls(
            interface_id=interface["NetworkInterfaceId"],
            interface_type=interface.get("InterfaceType") or "interface",
            instance_id=instance["InstanceId"],
            instance_type=instance.get("InstanceType", ""),
            owner_id=interface.get("OwnerId"),
            zone=instance.get("Placement", {}).get("AvailabilityZone"),
            vpc_id=interface.get("VpcId"),
            subnet_id=interface.get("SubnetId"),
            address=Address.primary(interface),
            group_ids=frozenset(group["GroupId"] for group in interface.get("Groups") or ()),
        )

    @property
    def sender(self) -> Address:
        """The address that VXLAN packets leave from. Sources without one are never judged."""
        assert self.address
        return self.address


class Instance(NamedTuple):
    """An EC2 instance with its network interfaces, in the order of their device index."""

    instance_id: str
    state: str
    tags: Mapping[str, str]
    sources: tuple[Source, ...]

    @classmethod
    def of(cls, instance: Mapping[str, Any]) -> Instance:
        """From an instance as DescribeInstances shows it."""

        def position(interface: Mapping[str, Any]) -> tuple[int, int]:
            attachment = interface.get("Attachment") or {}
            return attachment.get("DeviceIndex", 0), attachment.get("NetworkCardIndex", 0)

        return cls(
            instance_id=instance["InstanceId"],
            state=instance.get("State", {}).get("Name", ""),
            tags={tag["Key"]: tag.get("Value", "") for tag in instance.get("Tags") or ()},
            sources=tuple(
                Source.of(interface, instance)
                for interface in sorted(instance.get("NetworkInterfaces") or (), key=position)
            ),
        )


class Session(NamedTuple):
    """A traffic mirror session."""

    session_id: str
    interface_id: str
    target_id: str
    number: int
    name: str | None

    @classmethod
    def of(cls, session: Mapping[str, Any]) -> Session:
        """From a session as EC2 shows it."""
        tags = {tag["Key"]: tag.get("Value") for tag in session.get("Tags") or ()}
        return cls(
            session_id=session["TrafficMirrorSessionId"],
            interface_id=session["NetworkInterfaceId"],
            target_id=session["TrafficMirrorTargetId"],
            number=session.get("SessionNumber", 0),
            name=tags.get("Name"),
        )


class Sessions:
    """The traffic mirror sessions of the Region: by source interface, and how many a target has."""

    def __init__(self, sessions: Iterable[Session]) -> None:
        self.by_interface: dict[str, list[Session]] = {}
        self.per_target: Counter[str] = Counter()
        self.planned: Counter[str] = Counter()
        for session in sessions:
            self.add(session)

    def add(self, session: Session) -> None:
        """Take a session into account, such as one created a moment ago."""
        self.by_interface.setdefault(session.interface_id, []).append(session)
        self.per_target[session.target_id] += 1

    def count(self, target_id: str) -> int:
        """How many sessions the target has, those that a dry run plans included."""
        return self.per_target[target_id] + self.planned[target_id]

    def of(self, interface_id: str, our_targets: Sequence[str]) -> list[Session]:
        """The interface's sessions, those to our targets first, then by session number."""
        return sorted(
            self.by_interface.get(interface_id, ()),
            key=lambda session: (session.target_id not in our_targets, session.number),
        )


class Target(NamedTuple):
    """A traffic mirror target: an interface, or a load balancer whose interfaces are known by
    their descriptions."""

    target_id: str
    owner_id: str | None
    interface_id: str | None
    descriptions: tuple[str, ...]

    @classmethod
    def of(cls, target: Mapping[str, Any]) -> Target:
        """From a target as DescribeTrafficMirrorTargets shows it."""
        descriptions: tuple[str, ...] = ()
        if arn := target.get("NetworkLoadBalancerArn"):
            descriptions = (f"ELB {arn.partition(':loadbalancer/')[2]}",)
        elif endpoint := target.get("GatewayLoadBalancerEndpointId"):
            # EC2 writes these with and without a colon.
            descriptions = tuple(f"VPC Endpoint Interface{colon} {endpoint}" for colon in ("", ":"))
        return cls(
            target_id=target["TrafficMirrorTargetId"],
            owner_id=target.get("OwnerId"),
            interface_id=target.get("NetworkInterfaceId"),
            descriptions=descriptions,
        )


class SensorInterface(NamedTuple):
    """A network interface on which a sensor receives, or (`interface_id` None) one that another
    account owns and that cannot be seen."""

    target_id: str
    behind_load_balancer: bool
    interface_id: str | None = None
    host_id: str | None = None  # the instance that the interface is attached to
    zone: str | None = None
    vpc_id: str | None = None
    subnet_id: str | None = None
    address: Address | None = None
    group_ids: tuple[str, ...] = ()

    @classmethod
    def of(cls, interface: Mapping[str, Any], target: Target) -> SensorInterface:
        """From an interface as DescribeNetworkInterfaces shows it."""
        return cls(
            target_id=target.target_id,
            behind_load_balancer=target.interface_id is None,
            interface_id=interface["NetworkInterfaceId"],
            host_id=(interface.get("Attachment") or {}).get("InstanceId"),
            zone=interface.get("AvailabilityZone"),
            vpc_id=interface.get("VpcId"),
            subnet_id=interface.get("SubnetId"),
            address=Address.primary(interface),
            group_ids=tuple(group["GroupId"] for group in interface.get("Groups") or ()),
        )


@dataclass
class SecurityGroup:
    """What of a security group's inbound rules admits VXLAN: the origins of the rules whose
    protocol and ports match."""

    group_id: str
    cidrs: tuple[str, ...]
    references: frozenset[str]
    inactive_references: frozenset[str]
    prefix_list_ids: tuple[str, ...]

    @classmethod
    def of(cls, group: Mapping[str, Any]) -> SecurityGroup:
        """From a group as DescribeSecurityGroups shows it."""
        rules = [rule for rule in group.get("IpPermissions") or () if rule_covers_vxlan(rule)]
        # A reference across a VPC peering connection counts only while the peering is active.
        active: set[str] = set()
        inactive: set[str] = set()
        for pair in (pair for rule in rules for pair in rule.get("UserIdGroupPairs") or ()):
            status = pair.get("PeeringStatus") or "active"
            (active if status == "active" else inactive).add(pair["GroupId"])
        lists = [entry for rule in rules for entry in rule.get("PrefixListIds") or ()]
        return cls(
            group_id=group["GroupId"],
            cidrs=tuple(item["CidrIp"] for rule in rules for item in rule.get("IpRanges") or ()),
            references=frozenset(active),
            inactive_references=frozenset(inactive),
            prefix_list_ids=tuple(entry["PrefixListId"] for entry in lists),
        )

    @cached_property
    def blocks(self) -> Blocks:
        """The CIDR blocks, parsed at the first comparison: groups of sensors in other zones are
        never compared."""
        return Blocks(self.cidrs)

    def admits(self, source: Source) -> str | None:
        """The origin by which a rule admits packets from the source, prefix lists left out; None
        where no rule does."""
        if block := self.blocks.containing(source.sender):
            return block.cidr
        shared = source.group_ids & self.references
        return f"members of {min(shared)}" if shared else None


def rule_covers_vxlan(rule: Mapping[str, Any]) -> bool:
    """Whether a security group rule is about UDP port 4789. Rules for all protocols are about all
    ports, whatever ports they carry; a range includes both its ends."""
    if rule.get("IpProtocol") == ANY_PROTOCOL:
        return True
    first, last = rule.get("FromPort"), rule.get("ToPort")
    return rule.get("IpProtocol") in ("udp", UDP_NUMBER) and (
        first is None or last is None or first <= VXLAN_PORT <= last
    )


class AclEntry(NamedTuple):
    """A network ACL entry that is about VXLAN over IPv4."""

    number: int
    allows: bool
    block: Block


class NetworkAcl(NamedTuple):
    """A network ACL: its entries about VXLAN over IPv4, in ascending rule number."""

    acl_id: str
    inbound: tuple[AclEntry, ...]
    outbound: tuple[AclEntry, ...]

    @classmethod
    def of(cls, acl: Mapping[str, Any]) -> NetworkAcl:
        """From an ACL as DescribeNetworkAcls shows it (its entries come in no particular order)."""
        entries = sorted(acl.get("Entries") or (), key=lambda entry: entry["RuleNumber"])

        def about_vxlan(egress: bool) -> tuple[AclEntry, ...]:
            return tuple(
                AclEntry(
                    number=entry["RuleNumber"],
                    allows=entry["RuleAction"] == "allow",
                    block=Block.of(entry["CidrBlock"]),
                )
                for entry in entries
                if entry.get("Egress", False) == egress and acl_entry_covers_vxlan(entry)
            )

        return cls(acl["NetworkAclId"], about_vxlan(False), about_vxlan(True))


def acl_entry_covers_vxlan(entry: Mapping[str, Any]) -> bool:
    """Whether a network ACL entry is about UDP port 4789 over IPv4. ACLs spell protocols as IANA
    numbers; entries for all protocols are about all ports."""
    if not entry.get("CidrBlock"):
        return False
    ports = entry.get("PortRange")
    return entry.get("Protocol") == ANY_PROTOCOL or (
        entry.get("Protocol") == UDP_NUMBER
        and (not ports or ports["From"] <= VXLAN_PORT <= ports["To"])
    )


def deciding_entry(entries: Iterable[AclEntry], address: Address) -> AclEntry | None:
    """The entry that decides: the lowest rule number that matches. None: no match, which denies."""
    return next((entry for entry in entries if entry.block.contains(address)), None)


class PrefixList(NamedTuple):
    """The IPv4 entries of a managed prefix list, or why they could not be read for good."""

    blocks: Blocks
    problem: str | None = None


# ======================================================================================
# 4  AWS
# ======================================================================================

PAGE = 1_000  # MaxResults of most Describe calls
PREFIX_LIST_PAGE = 100  # MaxResults of GetManagedPrefixListEntries
FILTER_VALUES = 200  # EC2 takes no more values in a filter
PARALLEL_CALLS = 8
UNKNOWN_INSTANCE_LOOKS = 3  # an ID may be unknown for seconds after it appears
PAUSE_SECONDS = 1.0  # between two looks at something that EC2 may not show yet

CLIENT_CONFIG = Config(
    retries={"mode": "adaptive", "total_max_attempts": 5},
    connect_timeout=2,
    read_timeout=10,
    max_pool_connections=4 * PARALLEL_CALLS,
)

THROTTLED = frozenset(
    {
        "RequestLimitExceeded",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottled",
        "RequestThrottledException",
        "EC2ThrottledException",
        "TooManyRequestsException",
        "SlowDown",
    }
)
DENIED = frozenset({"UnauthorizedOperation", "AccessDenied", "AccessDeniedException"})
NO_LOGIN = frozenset(
    {
        "AuthFailure",
        "Blocked",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "MissingAuthenticationToken",
        "OptInRequired",
        "PendingVerification",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)


CREATE = "CreateTrafficMirrorSession"


class Failure(Enum):
    """How a call to EC2 came to nothing."""

    DENIED = "a permission is missing"
    LOST = "no answer or a server error: AWS may have carried the call out all the same"
    REFUSED = "AWS understood the call and will say the same again"
    UNAVAILABLE = "throttled, or not let in at all: nothing was done, and later it may be"


class Unanswered(Exception):
    """AWS has given no answer, and what depends on it is left undone.

    Attributes:
        outcome: what that means for an interface.
    """

    outcome: str


class AwsCallFailed(Unanswered):
    """A call to EC2 came to nothing, botocore's retries included.

    Attributes:
        operation: the API operation, such as DescribeNetworkAcls.
        code: AWS's error code, or the name of botocore's error.
        detail: AWS's or botocore's message.
        failure: what that means.
    """

    outcome = "failed"

    def __init__(self, operation: str, code: str, message: str, failure: Failure) -> None:
        super().__init__(operation, code, message)
        self.operation = operation
        self.code = code
        # A denied call's message ends in hundreds of encoded characters that nobody can read.
        self.detail = message.partition(" Encoded authorization failure")[0].rstrip(".")[:300]
        self.failure = failure

    @classmethod
    def answered(cls, operation: str, error: ClientError) -> AwsCallFailed:
        """From an error that AWS answered with."""
        code = error.response.get("Error", {}).get("Code") or "an error without a code"
        message = error.response.get("Error", {}).get("Message") or ""
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400)
        if code in DENIED:
            failure = Failure.DENIED
        elif code in THROTTLED or code in NO_LOGIN:
            failure = Failure.UNAVAILABLE
        else:
            failure = Failure.LOST if status >= 500 else Failure.REFUSED
        return cls(operation, code, message, failure)

    @classmethod
    def unanswered(cls, operation: str, error: Exception) -> AwsCallFailed:
        """From an error of botocore's own. Those of the connection leave open what AWS did; the
        others (no credentials, no Region) mean that nothing was sent."""
        lost = isinstance(error, (HTTPClientError, BotocoreConnectionError, ResponseParserError))
        failure = Failure.LOST if lost else Failure.UNAVAILABLE
        return cls(operation, type(error).__name__, str(error), failure)

    @property
    def refuses_session(self) -> bool:
        """Whether AWS has refused to create a session for good."""
        return self.operation == CREATE and self.failure is Failure.REFUSED

    def __str__(self) -> str:
        if self.failure is not Failure.DENIED:
            return f"{self.operation} failed with {self.code}: {self.detail}"
        # To create a session with a tag takes two permissions; AWS does not say which is missing.
        also = " and ec2:CreateTags" if self.operation == CREATE else ""
        return f"{self.code}: the function's role needs ec2:{self.operation}{also}"


class OutOfTime(Unanswered):
    """Too little of the invocation's time is left to begin a call."""

    outcome = "deferred"

    def __str__(self) -> str:
        return "The invocation's time ran out"


class Deadline:
    """How long the invocation may still begin calls.

    A fifth of the time that is left at the start, 5 s at most, is kept in reserve to finish the
    last call and to report.

    Args:
        context: Lambda's context object; None or one without a clock knows no deadline.
    """

    def __init__(self, context: object) -> None:
        self._remaining_milliseconds: Callable[[], float] = getattr(
            context, "get_remaining_time_in_millis", lambda: float("inf")
        )
        self.reserve = min(5_000.0, self._remaining_milliseconds() / 5)

    def check(self, seconds: float = 0.0) -> None:
        """Raise OutOfTime unless a call may begin in so many seconds."""
        if self._remaining_milliseconds() - 1_000 * seconds < self.reserve:
            raise OutOfTime

    def sleep(self, seconds: float) -> None:
        """Wait, unless nothing could be begun afterwards: then raise OutOfTime at once."""
        self.check(seconds)
        time.sleep(seconds)


class Lookup(Generic[T]):
    """Answers by ID. An ID that AWS does not know has none; one whose call failed has the error,
    which is raised each time the answer is asked for."""

    def __init__(self) -> None:
        self.found: dict[str, list[T]] = {}
        self.failures: dict[str, Unanswered] = {}

    def all(self, key: str, asked_by: str | None = None) -> list[T]:
        """The answers for an ID; none where AWS knows none.

        Args:
            key: the ID.
            asked_by: the ID that the call was made with, where that is another.

        Raises:
            Unanswered: the call for it failed.
        """
        if key in self.found:
            return self.found[key]
        if failure := self.failures.get(asked_by or key):
            raise failure
        return []

    def get(self, key: str, asked_by: str | None = None) -> T | None:
        """The one answer for an ID, or None; see `all`."""
        return next(iter(self.all(key, asked_by)), None)

    def every(self) -> Iterator[T]:
        """All answers there are."""
        for answers in self.found.values():
            yield from answers

    def knows(self, key: str) -> bool:
        """Whether there is an answer or an error for the ID."""
        return key in self.found or key in self.failures

    def update(self, other: Lookup[T]) -> None:
        """Take over another lookup's answers and errors."""
        self.found.update(other.found)
        self.failures.update(other.failures)

    def copy(self) -> Lookup[T]:
        """A lookup of its own with the same answers."""
        duplicate: Lookup[T] = Lookup()
        duplicate.update(self)
        return duplicate


def parallel_calls() -> ThreadPoolExecutor:
    """Where calls that do not need each other's answers go out together.

    Leaving the `with` block waits for all of them and ends the threads. Each future holds its
    call's answer, or its error, which `result()` raises.
    """
    return ThreadPoolExecutor(max_workers=PARALLEL_CALLS)


class Ec2:
    """Every EC2 call of the function, each in one place.

    Look-ups are by filter, not by ID: one ID that does not exist makes a call by ID fail for all
    the others, and answers to calls by ID are not paged.
    """

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline

    def instances(self, instance_ids: Iterable[str]) -> Lookup[Instance]:
        """The instances with these IDs (DescribeInstances)."""

        def by_id(reservation: Any) -> Iterator[tuple[str, Instance]]:
            for instance in map(Instance.of, reservation["Instances"]):
                yield instance.instance_id, instance

        return self._by_filter(
            "describe_instances", "Reservations", "instance-id", instance_ids, by_id
        )

    def running_instances(self) -> Iterator[list[Instance]]:
        """All running instances of the Region, page by page (DescribeInstances)."""
        running = [{"Name": "instance-state-name", "Values": ["running"]}]
        for page in self._pages("describe_instances", Filters=running, MaxResults=PAGE):
            answers = [a for group in page["Reservations"] for a in group["Instances"]]
            yield [Instance.of(answer) for answer in answers]

    def targets(self, target_ids: Iterable[str]) -> Lookup[Target]:
        """The traffic mirror targets with these IDs (DescribeTrafficMirrorTargets)."""
        return self._by_filter(
            "describe_traffic_mirror_targets",
            "TrafficMirrorTargets",
            "traffic-mirror-target-id",
            target_ids,
            lambda answer: [(answer["TrafficMirrorTargetId"], Target.of(answer))],
        )

    def sessions(self) -> Sessions:
        """All traffic mirror sessions of the Region (DescribeTrafficMirrorSessions). One reading
        says both which interfaces have one and how many each target has."""
        pages = self._pages("describe_traffic_mirror_sessions", MaxResults=PAGE)
        return Sessions(
            Session.of(answer) for page in pages for answer in page["TrafficMirrorSessions"]
        )

    def sessions_of(self, interface_ids: Iterable[str]) -> Lookup[Session]:
        """The sessions of these source interfaces (DescribeTrafficMirrorSessions)."""
        return self._by_filter(
            "describe_traffic_mirror_sessions",
            "TrafficMirrorSessions",
            "network-interface-id",
            interface_ids,
            lambda answer: [(answer["NetworkInterfaceId"], Session.of(answer))],
        )

    def interfaces_by_id(self, interface_ids: Iterable[str]) -> Lookup[Any]:
        """The network interfaces with these IDs, as EC2 shows them (DescribeNetworkInterfaces)."""
        return self._by_filter(
            "describe_network_interfaces",
            "NetworkInterfaces",
            "network-interface-id",
            interface_ids,
            lambda answer: [(answer["NetworkInterfaceId"], answer)],
        )

    def interfaces_by_description(self, descriptions: Iterable[str]) -> Lookup[Any]:
        """The network interfaces with these descriptions, which is how those of load balancers are
        found without a permission more (DescribeNetworkInterfaces)."""
        return self._by_filter(
            "describe_network_interfaces",
            "NetworkInterfaces",
            "description",
            descriptions,
            lambda answer: [(answer["Description"], answer)],
        )

    def security_groups(self, group_ids: Iterable[str]) -> Lookup[SecurityGroup]:
        """The security groups with these IDs (DescribeSecurityGroups)."""
        return self._by_filter(
            "describe_security_groups",
            "SecurityGroups",
            "group-id",
            group_ids,
            lambda answer: [(answer["GroupId"], SecurityGroup.of(answer))],
        )

    def network_acls(self, vpc_ids: Iterable[str]) -> Lookup[NetworkAcl]:
        """The network ACLs of these VPCs, by the ID of each subnet that they are associated with;
        errors by VPC (DescribeNetworkAcls)."""

        def by_subnet(answer: Any) -> Iterator[tuple[str, NetworkAcl]]:
            acl = NetworkAcl.of(answer)
            for association in answer.get("Associations") or ():
                yield association["SubnetId"], acl

        return self._by_filter("describe_network_acls", "NetworkAcls", "vpc-id", vpc_ids, by_subnet)

    def prefix_lists(self, prefix_list_ids: Iterable[str]) -> Lookup[PrefixList]:
        """The entries of managed prefix lists (GetManagedPrefixListEntries, one call a list).

        What AWS will not show for good is an answer too: a list without entries and with a problem.
        """
        lookup: Lookup[PrefixList] = Lookup()
        with parallel_calls() as calls:
            futures = {key: calls.submit(self._prefix_list, key) for key in prefix_list_ids}
        for key, future in futures.items():
            try:
                lookup.found[key] = [future.result()]
            except Unanswered as error:
                final = (Failure.DENIED, Failure.REFUSED)
                if isinstance(error, AwsCallFailed) and error.failure in final:
                    lookup.found[key] = [PrefixList(Blocks(()), str(error))]
                else:
                    lookup.failures[key] = error
        return lookup

    def _prefix_list(self, prefix_list_id: str) -> PrefixList:
        pages = self._pages(
            "get_managed_prefix_list_entries",
            PrefixListId=prefix_list_id,
            MaxResults=PREFIX_LIST_PAGE,
        )
        cidrs = [entry["Cidr"] for page in pages for entry in page["Entries"]]
        return PrefixList(Blocks(cidr for cidr in cidrs if ":" not in cidr))

    def create_session(self, parameters: Mapping[str, Any]) -> Session:
        """Create a traffic mirror session (CreateTrafficMirrorSession)."""
        answer = self._call("create_traffic_mirror_session", parameters)
        return Session.of(answer["TrafficMirrorSession"])

    def _by_filter(
        self,
        method: str,
        member: str,
        name: str,
        values: Iterable[str],
        keyed: Callable[[Any], Iterable[tuple[str, T]]],
    ) -> Lookup[T]:
        """What a Describe call shows for these values of a filter, in lists of at most 200 values,
        which go out together.

        Args:
            method: boto3's name of the call.
            member: where in the answer the items are.
            name: the filter.
            values: its values.
            keyed: from an item to what it means, each with its ID.
        """
        # No ID has a wildcard in it, but a configured one with a slip of the pen may, and the
        # filter would then show what nobody asked for.
        wanted = sorted({value for value in values if not re.search(r"[*?\\]", value)})
        chunks = [wanted[at : at + FILTER_VALUES] for at in range(0, len(wanted), FILTER_VALUES)]

        def read(chunk: list[str]) -> list[tuple[str, T]]:
            filters = [{"Name": name, "Values": chunk}]
            pages = self._pages(method, Filters=filters, MaxResults=PAGE)
            return [pair for page in pages for item in page[member] for pair in keyed(item)]

        lookup: Lookup[T] = Lookup()
        with parallel_calls() as calls:
            futures = [calls.submit(read, chunk) for chunk in chunks]
        for chunk, future in zip(chunks, futures, strict=True):
            try:
                for key, value in future.result():
                    lookup.found.setdefault(key, []).append(value)
            except Unanswered as error:
                lookup.failures.update(dict.fromkeys(chunk, error))
        return lookup

    def _pages(self, method: str, **parameters: Any) -> Iterator[Mapping[str, Any]]:
        """All pages of an answer."""
        while True:
            page = self._call(method, parameters)
            yield page
            if not page.get("NextToken"):
                return
            parameters["NextToken"] = page["NextToken"]

    def _call(self, method: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """One call, its errors told apart."""
        self.deadline.check()
        _calling.deadline, _calling.again = self.deadline, False
        operation = "".join(word.capitalize() for word in method.split("_"))
        try:
            answer: Mapping[str, Any] = getattr(ec2_client(), method)(**parameters)
        except ClientError as error:
            raise AwsCallFailed.answered(operation, error) from error
        except (BotoCoreError, ResponseParserError) as error:
            raise AwsCallFailed.unanswered(operation, error) from error
        return answer


_client: Any = None
_client_lock = threading.Lock()
_calling = threading.local()  # what the thread's present call has to keep to


def check_deadline(**_: object) -> None:
    """Botocore's second and later attempts are calls too: none is begun in the reserve."""
    if _calling.again:
        _calling.deadline.check()
    _calling.again = True


def ec2_client() -> Any:
    """The EC2 client, made at first use and shared by all threads."""
    global _client
    with _client_lock:
        if _client is None:
            # From a session of our own: boto3's default session is not safe under threads while
            # it makes a client.
            client = boto3.session.Session().client("ec2", config=CLIENT_CONFIG)
            client.meta.events.register("request-created.ec2", check_deadline)
            _client = client
    return _client


class Sensor(NamedTuple):
    """A configured traffic mirror target and the interfaces on which it receives.

    Attributes:
        missing: why it cannot be used at all, where it cannot.
        failure: the error of the call that should have shown it.
    """

    target_id: str
    interfaces: tuple[SensorInterface, ...] = ()
    missing: str | None = None
    failure: Unanswered | None = None


class SensorFacts(NamedTuple):
    """What is known of the sensors, and of the network ACLs of the sources.

    Attributes:
        read_at: Unix time in seconds at which the reading began.
        targets: by target ID.
        sensors: by target ID, in configured order.
        groups: security groups of the sensors' interfaces, by ID.
        acls: network ACLs by subnet, of the VPCs of sensors and sources.
        prefix_lists: by ID, those that a rule named while nothing else admitted the packet.
        hosts: the instances that the sensors' interfaces are attached to, by ID; never cached.
        from_cache: whether an earlier invocation has read them.
    """

    read_at: float
    targets: Lookup[Target]
    sensors: Mapping[str, Sensor]
    groups: Lookup[SecurityGroup]
    acls: Lookup[NetworkAcl]
    prefix_lists: Lookup[PrefixList]
    hosts: Lookup[Instance]
    from_cache: bool = False

    def complete(self) -> bool:
        """Whether every call came to an answer."""
        failures = (self.groups.failures, self.acls.failures, self.prefix_lists.failures)
        return not any(failures) and not any(sensor.failure for sensor in self.sensors.values())


def host_ids(sensors: Iterable[Sensor]) -> set[str]:
    """The instances that the sensors' interfaces are attached to."""
    return {face.host_id for sensor in sensors for face in sensor.interfaces if face.host_id}


def read_sensor_facts(
    ec2: Ec2,
    target_ids: Sequence[str],
    targets: Lookup[Target],
    own_account: str | None,
    source_vpc_ids: Iterable[str],
) -> SensorFacts:
    """Read what the stages need to know, in two round trips.

    Args:
        ec2: the calls.
        target_ids: the configured targets, in order.
        targets: what DescribeTrafficMirrorTargets said of them.
        own_account: the account of the sources. What another account owns may be out of sight.
        source_vpc_ids: VPCs of the sources, whose network ACLs are wanted as well.
    """
    read_at = time.time()
    interface_ids = [target.interface_id for target in targets.every() if target.interface_id]
    descriptions = [text for target in targets.every() for text in target.descriptions]
    with parallel_calls() as calls:
        by_id = calls.submit(ec2.interfaces_by_id, interface_ids)
        by_description = calls.submit(ec2.interfaces_by_description, descriptions)
    interfaces = by_id.result()
    interfaces.update(by_description.result())
    sensors = {key: sensor_of(key, targets, interfaces, own_account) for key in target_ids}
    faces = [face for sensor in sensors.values() for face in sensor.interfaces]
    with parallel_calls() as calls:
        groups = calls.submit(
            ec2.security_groups, [key for face in faces for key in face.group_ids]
        )
        sensor_vpc_ids = [face.vpc_id for face in faces if face.vpc_id]
        acls = calls.submit(ec2.network_acls, [*sensor_vpc_ids, *source_vpc_ids])
        hosts = calls.submit(ec2.instances, host_ids(sensors.values()))
    return SensorFacts(
        read_at, targets, sensors, groups.result(), acls.result(), Lookup(), hosts.result()
    )


def sensor_of(
    target_id: str, targets: Lookup[Target], interfaces: Lookup[Any], own_account: str | None
) -> Sensor:
    """A sensor, from its target and from interfaces by ID and by description."""
    try:
        target = targets.get(target_id)
        if target is None:
            return Sensor(target_id, missing=f"There is no traffic mirror target {target_id}")
        keys = (target.interface_id,) if target.interface_id else target.descriptions
        answers = [answer for key in keys for answer in interfaces.all(key)]
    except Unanswered as error:
        return Sensor(target_id, failure=error)
    if answers:
        return Sensor(target_id, tuple(SensorInterface.of(answer, target) for answer in answers))
    if own_account and target.owner_id and target.owner_id != own_account:
        unseen_interface = SensorInterface(target_id, bool(target.descriptions))
        return Sensor(target_id, (unseen_interface,))
    what = (
        f"Network interface {target.interface_id}" if target.interface_id else "The load balancer"
    )
    return Sensor(target_id, missing=f"{what} of the target does not exist")


_cache: tuple[Configuration, SensorFacts] | None = None
_cache_lock = threading.Lock()


def cached_facts(configuration: Configuration) -> SensorFacts | None:
    """What an earlier invocation in this environment knew of the sensors, if it is fresh enough
    and was read for the same configuration."""
    with _cache_lock:
        if _cache is None or _cache[0] != configuration:
            return None
        facts = _cache[1]
    # The wall clock, because Lambda freezes the environment between invocations, and with it
    # clocks that count from its start.
    if not 0 <= time.time() - facts.read_at < configuration.cache_seconds:
        return None
    # Lookups that an invocation adds to are its own.
    acls, prefix_lists = facts.acls.copy(), facts.prefix_lists.copy()
    return facts._replace(acls=acls, prefix_lists=prefix_lists, hosts=Lookup(), from_cache=True)


def remember_facts(configuration: Configuration, facts: SensorFacts) -> None:
    """Keep what is known of the sensors for later invocations, unless newer facts are kept."""
    global _cache
    if not configuration.cache_seconds or not facts.complete():
        return
    with _cache_lock:
        if _cache is None or _cache[0] != configuration or _cache[1].read_at <= facts.read_at:
            _cache = configuration, facts


# ======================================================================================
# 5  Judging
# ======================================================================================
# Nothing in this section calls AWS. A stage looks at a source and at an interface of a sensor and
# finds whether mirrored packets may pass, with the evidence. It is asked for sources with an
# address only.


class Known(NamedTuple):
    """Everything a stage may look at besides the two interfaces.

    Attributes:
        refused: targets that AWS has refused in this invocation, with the reason.
        other_zones: whether sensors outside of the source's zone are being tried.
    """

    configuration: Configuration
    facts: SensorFacts
    refused: Mapping[str, str]
    other_zones: bool = False


class Finding(NamedTuple):
    """What a stage found.

    Attributes:
        passed: whether packets pass, as far as can be seen.
        evidence: why: the rule, the zone, the ACL. Empty where there is nothing to tell.
        unseen: what would decide exists, but cannot be seen from this account.
        unread: prefix lists that would decide and have not been read yet.
        unsettled: a prefix list that the function may not read would decide.
        outbound_denied: passed, but the outbound ACL of the source's subnet denies the packets.
    """

    passed: bool
    evidence: str = ""
    unseen: bool = False
    unread: frozenset[str] = frozenset()
    unsettled: bool = False
    outbound_denied: bool = False


def recognised(source: Source, sensor: SensorInterface, known: Known) -> Finding:
    """Instances behind a load balancer cannot be recognised as sensors, and one that is mirrored
    feeds on itself. So the operator has to say by tags which instances are meant."""
    if sensor.behind_load_balancer and not known.configuration.selects_by_tag:
        return Finding(
            False,
            "Instances behind a load balancer cannot be recognised as sensors and would be "
            "mirrored into themselves; set INCLUDE_TAGS or EXCLUDE_TAGS so that they are left out",
        )
    return Finding(True)


def runs(source: Source, sensor: SensorInterface, known: Known) -> Finding:
    """AWS refuses a target whose instance does not run. An unattached interface is not judged."""
    if sensor.interface_id is None:
        return Finding(False, "The interface of the target belongs to another account", unseen=True)
    if sensor.address is None:
        return Finding(False, f"Sensor interface {sensor.interface_id} has no IPv4 address")
    host = known.facts.hosts.get(sensor.host_id) if sensor.host_id else None
    if host and host.state != "running":
        return Finding(False, f"The sensor's instance {host.instance_id} is {host.state}")
    return Finding(True)


def in_zone(source: Source, sensor: SensorInterface, known: Known) -> Finding:
    """Mirroring across Availability Zones costs extra per GB, so sensors of the zone come first."""
    if sensor.zone is None:
        return Finding(True, "its Availability Zone is not known")
    if sensor.zone == source.zone:
        return Finding(True, f"in {sensor.zone} like the interface")
    if known.other_zones:
        return Finding(True, f"in {sensor.zone}, because no sensor in {source.zone} can take it")
    return Finding(False, f"The sensor is in {sensor.zone}, the interface in {source.zone}")


def in_vpc(source: Source, sensor: SensorInterface, known: Known) -> Finding:
    """Another VPC is out of the question only with LOCAL_VPC_ONLY."""
    if sensor.vpc_id in (None, source.vpc_id):
        return Finding(True)
    if known.configuration.local_vpc_only:
        return Finding(False, f"The sensor is in {sensor.vpc_id}, the interface in {source.vpc_id}")
    return Finding(True, f"in another VPC ({sensor.vpc_id}): routes and peering are not checked")


def security_groups_admit(source: Source, sensor: SensorInterface, known: Known) -> Finding:
    """The sensor's security groups are a union of allow rules: one that admits the packet is
    enough. The source's own outbound rules do not apply to mirrored traffic."""
    if sensor.interface_id is None:
        return Finding(False, "Its security groups belong to another account", unseen=True)
    if not sensor.group_ids:
        return Finding(True, "it has no security group to filter")
    answers = {group_id: known.facts.groups.get(group_id) for group_id in sensor.group_ids}
    groups = [group for group in answers.values() if group]
    for group in groups:
        if origin := group.admits(source):
            return Finding(True, f"security group {group.group_id} admits {VXLAN} from {origin}")

    finding = prefix_lists_admit(source, groups, known)
    if finding.passed or finding.unread:
        return finding
    hidden = ", ".join(group_id for group_id, group in answers.items() if group is None)
    if hidden:
        evidence = f"Security group {hidden} cannot be seen{finding.evidence}"
        return Finding(False, evidence, unseen=True)
    evidence = f"No rule of {', '.join(sensor.group_ids)} admits {VXLAN} from {source.sender}"
    inactive = {key for group in groups for key in group.inactive_references & source.group_ids}
    if inactive:
        evidence += f"; the reference to {', '.join(sorted(inactive))} crosses an inactive peering"
    return finding._replace(evidence=f"{evidence}{finding.evidence}")


def prefix_lists_admit(source: Source, groups: Iterable[SecurityGroup], known: Known) -> Finding:
    """Prefix lists take a permission of their own and a call each, so they are looked into only
    when no other rule admits the packet."""
    named = {key: group.group_id for group in groups for key in group.prefix_list_ids}
    unread = frozenset(key for key in named if not known.facts.prefix_lists.knows(key))
    if unread:
        return Finding(False, unread=unread)
    problems = ""
    for key, group_id in named.items():
        prefix_list = known.facts.prefix_lists.get(key) or PrefixList(Blocks(()))
        if block := prefix_list.blocks.containing(source.sender):
            origin = f"{block.cidr} in prefix list {key}"
            return Finding(True, f"security group {group_id} admits {VXLAN} from {origin}")
        if prefix_list.problem:
            problems += f"; prefix list {key} could settle it ({prefix_list.problem})"
    return Finding(False, problems, unsettled=bool(problems))


def inbound_acl_allows(source: Source, sensor: SensorInterface, known: Known) -> Finding:
    """The network ACL of the sensor's subnet must let the packet in. ACLs apply where traffic
    enters or leaves a subnet, not within it."""
    if sensor.interface_id is None:
        return Finding(False, "Its network ACL belongs to another account", unseen=True)
    if sensor.subnet_id == source.subnet_id:
        return Finding(True, "in the same subnet, where no network ACL applies")
    acl = known.facts.acls.get(sensor.subnet_id or "", asked_by=sensor.vpc_id)
    if acl is None:
        evidence = f"The network ACL of {sensor.subnet_id} cannot be seen"
        return Finding(False, evidence, unseen=True)
    entry = deciding_entry(acl.inbound, source.sender)
    rule = f"inbound rule {entry.number if entry else '*'} of network ACL {acl.acl_id}"
    if entry and entry.allows:
        return Finding(True, f"{rule} allows {VXLAN} from {source.sender}")
    return Finding(False, f"{VXLAN} from {source.sender} is denied by {rule}")


def outbound_acl_ranks(source: Source, sensor: SensorInterface, known: Known) -> Finding:
    """Whether mirrored packets pass through the outbound ACL of the source's subnet, AWS does not
    say. So a denial does not reject the sensor, but ranks it behind those without one."""
    if sensor.subnet_id == source.subnet_id or sensor.address is None:
        return Finding(True)
    acl = known.facts.acls.get(source.subnet_id or "", asked_by=source.vpc_id)
    entry = deciding_entry(acl.outbound, sensor.address) if acl else None
    if acl is None or (entry and entry.allows):
        return Finding(True)
    rule = f"outbound rule {entry.number if entry else '*'} of network ACL {acl.acl_id}"
    evidence = f"ranked last, as {rule} denies {VXLAN} to {sensor.address}"
    return Finding(True, evidence, outbound_denied=True)


def not_refused(source: Source, sensor: SensorInterface, known: Known) -> Finding:
    """A target that AWS has refused at create, for its quota above all, is not tried again."""
    refusal = known.refused.get(sensor.target_id)
    return Finding(False, refusal) if refusal else Finding(True)


Test = Callable[[Source, SensorInterface, Known], Finding]

# The guide's order. A sensor's verdict is the first stage that rejects it.
PIPELINE: tuple[tuple[str, Test], ...] = (
    ("unavailable", recognised),
    ("unavailable", runs),
    ("zone", in_zone),
    ("vpc", in_vpc),
    ("security_group", security_groups_admit),
    ("network_acl", inbound_acl_allows),
    ("network_acl", outbound_acl_ranks),
    ("create", not_refused),
)
# What the packets of a session that exists have to pass.
REACHABILITY: tuple[tuple[str, Test], ...] = (
    ("unavailable", runs),
    ("security_group", security_groups_admit),
    ("network_acl", inbound_acl_allows),
)
STAGES = tuple(dict.fromkeys(stage for stage, _ in PIPELINE))


class Verdict(NamedTuple):
    """What the stages together say of a sensor.

    Attributes:
        stage: the stage that rejects it; None where it passed all.
        reason: the evidence, without a full stop.
        unverified: rejected only because what would decide cannot be seen.
        outbound_denied: the outbound ACL of the source's subnet denies the packets.
        unread: prefix lists to read before the verdict holds.
        unsettled: rejected, but a prefix list that may not be read could say otherwise.
    """

    stage: str | None
    reason: str
    unverified: bool = False
    outbound_denied: bool = False
    unread: frozenset[str] = frozenset()
    unsettled: bool = False


def judge_interface(
    source: Source, sensor: SensorInterface, known: Known, pipeline: Sequence[tuple[str, Test]]
) -> Verdict:
    """The verdict on one interface of a sensor. Where something cannot be seen, the later stages
    are asked all the same, since they may reject for certain."""
    evidence: list[str] = []
    unseen: Finding | None = None
    outbound_denied = False
    for stage, test in pipeline:
        finding = test(source, sensor, known)
        outbound_denied |= finding.outbound_denied
        if finding.unseen:
            unseen = unseen or finding
        elif not finding.passed:
            return Verdict(
                stage, finding.evidence, unread=finding.unread, unsettled=finding.unsettled
            )
        elif finding.evidence:
            evidence.append(finding.evidence)
    if unseen:
        return Verdict(
            "unavailable", unseen.evidence, unverified=True, outbound_denied=outbound_denied
        )
    return Verdict(None, "; ".join(evidence), outbound_denied=outbound_denied)


def judge_sensor(
    source: Source,
    sensor: Sensor,
    known: Known,
    pipeline: Sequence[tuple[str, Test]] = PIPELINE,
) -> Verdict:
    """The verdict on a sensor: the best of its interfaces'.

    Raises:
        Unanswered: a call that should have shown what decides has failed.
    """
    if sensor.failure:
        raise sensor.failure
    if sensor.missing:
        return Verdict("unavailable", sensor.missing)
    # A load balancer receives on its interface in the source's zone, where it has one.
    near = [face for face in sensor.interfaces if face.zone == source.zone] or sensor.interfaces
    verdicts = [judge_interface(source, face, known, pipeline) for face in near]

    def goodness(verdict: Verdict) -> tuple[bool, bool, bool, int]:
        how_far = STAGES.index(verdict.stage) if verdict.stage else 0
        return verdict.stage is None, verdict.unverified, not verdict.outbound_denied, how_far

    best = max(verdicts, key=goodness)
    if best.stage is None and near[0].behind_load_balancer:
        note = "listeners and what is registered behind the load balancer are not checked"
        best = best._replace(reason=f"{best.reason}; {note}")
    if best.stage is not None and len(verdicts) > 1:
        best = best._replace(unread=frozenset().union(*(verdict.unread for verdict in verdicts)))
    return best


@dataclass
class Judgement:
    """The verdicts on all sensors for one source.

    Attributes:
        verdicts: by target ID, in configured order, less those that an error left open.
        candidates: the targets to choose from.
        unread: prefix lists to read, and then to judge again.
        error: why a verdict is missing.
    """

    verdicts: dict[str, Verdict] = field(default_factory=dict)
    candidates: list[str] = field(default_factory=list)
    unread: frozenset[str] = frozenset()
    error: Unanswered | None = None

    def judge(self, source: Source, sensors: Iterable[Sensor], known: Known) -> bool:
        """Judge these sensors; whether there is no reason to look at others."""
        for sensor in sensors:
            try:
                verdict = judge_sensor(source, sensor, known)
            except Unanswered as error:
                self.error = self.error or error
                continue
            self.verdicts[sensor.target_id] = verdict
            self.unread |= verdict.unread
            if verdict.stage is None:
                self.candidates.append(sensor.target_id)
        return bool(self.candidates or self.unread or self.error)

    def unverified(self) -> list[str]:
        """Targets that are rejected only because what would decide cannot be seen."""
        return [key for key, verdict in self.verdicts.items() if verdict.unverified]


def judge(source: Source, known: Known) -> Judgement:
    """Judge all sensors for a source: those of its zone; if none of them can take it, and the
    configuration allows it, those of other zones; and last those that cannot be verified."""
    judgement = Judgement()
    if judgement.judge(source, known.facts.sensors.values(), known):
        return judgement
    unverified = judgement.unverified()
    if not known.configuration.local_zone_only:
        sensors = known.facts.sensors
        others = [
            sensors[key] for key, verdict in judgement.verdicts.items() if verdict.stage == "zone"
        ]
        if judgement.judge(source, others, known._replace(other_zones=True)):
            return judgement
    if known.configuration.allow_unverified:
        judgement.candidates = unverified or judgement.unverified()
        for key in judgement.candidates:
            verdict = judgement.verdicts[key]
            reason = f"not verified: {verdict.reason}"
            judgement.verdicts[key] = verdict._replace(stage=None, reason=reason)
    return judgement


def ranking(source: Source, judgement: Judgement, sessions: Sessions) -> list[str]:
    """The candidates, best first: those that the source's outbound ACL allows, then the fewest
    sessions. Equal sensors come in an order that differs from interface to interface, so that
    instances launched together spread over them instead of piling onto the first."""

    def rank(target_id: str) -> tuple[bool, int, str]:
        draw = hashlib.sha256(f"{source.interface_id}{target_id}".encode()).hexdigest()
        verdict = judgement.verdicts[target_id]
        return verdict.outbound_denied, sessions.count(target_id), draw

    return sorted(judgement.candidates, key=rank)


def instance_set_aside(instance: Instance, configuration: Configuration) -> str | None:
    """Why none of the instance's interfaces is meant to be mirrored; None where they are."""
    for tag in configuration.exclude_tags:
        if tag.matches(instance.tags):
            return f"The instance is excluded by its tag {tag} (EXCLUDE_TAGS)"
    if configuration.include_tags and not any(
        tag.matches(instance.tags) for tag in configuration.include_tags
    ):
        wanted = ", ".join(map(str, configuration.include_tags))
        return f"The instance has none of the tags {wanted} (INCLUDE_TAGS)"
    return None


def type_set_aside(source: Source) -> str | None:
    """Why an interface of this type cannot be a source; None where it can."""
    if source.interface_type == "interface":
        return None
    return f"Interfaces of type {source.interface_type} cannot be mirrored"


def sensor_set_aside(
    source: Source, instance: Instance, sensor_interface_ids: frozenset[str]
) -> str | None:
    """Why mirroring the interface would mirror a sensor into itself; None where it would not."""
    if source.interface_id in sensor_interface_ids:
        return "The interface is a sensor's own, and mirroring it into a sensor would loop"
    for other in instance.sources:
        if other.interface_id in sensor_interface_ids:
            return f"The instance hosts a sensor (interface {other.interface_id}), and would loop"
    return None


# ======================================================================================
# 6  Mirroring
# ======================================================================================

# Outcomes, those that need attention first: the log level of their record.
OUTCOMES = {
    "unmirrored": logging.ERROR,
    "blocked": logging.ERROR,
    "failed": logging.ERROR,
    "deferred": logging.WARNING,
    "created": logging.INFO,
    "planned": logging.INFO,
    "exists": logging.INFO,
    "skipped": logging.INFO,
}
BAD_OUTCOMES = ("unmirrored", "blocked")  # count as 400
UNFINISHED_OUTCOMES = ("failed", "deferred")  # to be delivered again

# AWS refuses the target; another one may do.
TARGET_REFUSALS = (
    "TrafficMirrorSourcesPerTargetLimitExceeded",
    "TrafficMirrorSessionsPerTargetLimitExceeded",
    "InvalidTrafficMirrorTarget",
)
# AWS refuses every create there could be: the account is full, or the filter does not exist.
TOTAL_REFUSALS = ("TrafficMirrorSessionLimitExceeded", "InvalidTrafficMirrorFilter")
# AWS refuses the type of the source's instance. Which types those are changes, so none is listed.
TYPE_REFUSAL = "NetworkInterfaceNotSupported"
REFUSED_SOURCE_LOOKS = 3  # for a session that another invocation was faster to create


class MirroringError(RuntimeError):
    """Interfaces were left without an answer from AWS; Lambda is to deliver the event again."""


@dataclass
class Entry:
    """What became of one interface, or of an instance or a page that could not be looked into.

    Attributes:
        request: the event that asked for it.
        sensors: a row per sensor, as the result shows them.
        The others are as in the result, which has None where there is nothing to say.
    """

    request: Request
    outcome: str
    reason: str
    instance_id: str | None = None
    interface_id: str | None = None
    target_id: str | None = None
    session_id: str | None = None
    session_name: str | None = None
    sensors: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The entry as the result and the log records show it."""
        return {
            "interface_id": self.interface_id,
            "instance_id": self.instance_id,
            "outcome": self.outcome,
            "reason": self.reason,
            "target_id": self.target_id,
            "session_id": self.session_id,
            "session_name": self.session_name,
            "sensors": self.sensors,
        }

    def settle(self, outcome: str, reason: str, session: Session | None = None) -> Entry:
        """Set the outcome, and the session where there is one."""
        self.outcome, self.reason = outcome, f"{reason}."
        if outcome in ("exists", "skipped", "deferred"):
            self.sensors = []
        if session:
            self.target_id, self.session_id = session.target_id, session.session_id
            self.session_name = session.name
        return self

    def unanswered(self, error: Unanswered) -> Entry:
        """Set the outcome that follows where AWS gives no answer."""
        return self.settle(error.outcome, str(error))


class Plan(NamedTuple):
    """A session to be created."""

    source: Source
    target_id: str
    choice: str
    configuration: Configuration
    event_id: str

    @property
    def session_name(self) -> str:
        """The session's Name tag: from both IDs the first four characters that differ."""
        return f"eh-mirror-{self.source.interface_id[4:8]}{self.target_id[4:8]}"

    def parameters(self) -> dict[str, Any]:
        """The parameters of CreateTrafficMirrorSession.

        EC2 answers a repeated ClientToken with the session that it made the first time, so a second
        delivery of the same event that comes to the same choice creates nothing. EC2 refuses the
        same token with other parameters; hence all of them are part of it.
        """
        parameters: dict[str, Any] = {
            "NetworkInterfaceId": self.source.interface_id,
            "TrafficMirrorTargetId": self.target_id,
            "TrafficMirrorFilterId": self.configuration.filter_id,
            "SessionNumber": self.configuration.session_number,
            "TagSpecifications": [
                {
                    "ResourceType": "traffic-mirror-session",
                    "Tags": [{"Key": "Name", "Value": self.session_name}],
                }
            ],
        }
        if self.configuration.virtual_network_id is not None:
            parameters["VirtualNetworkId"] = self.configuration.virtual_network_id
        if self.configuration.packet_length is not None:
            parameters["PacketLength"] = self.configuration.packet_length
        material = json.dumps([self.event_id, parameters], sort_keys=True)
        return parameters | {"ClientToken": hashlib.sha256(material.encode()).hexdigest()}


class Candidate(NamedTuple):
    """A source that may be mirrored, or whose sessions a sweep is to check."""

    source: Source
    entry: Entry
    sessions: list[Session]


class Mirroring:
    """One invocation's work: what it has read, what AWS has refused it, and the outcomes."""

    def __init__(self, configuration: Configuration, deadline: Deadline) -> None:
        self.configuration = configuration
        self.deadline = deadline
        self.ec2 = Ec2(deadline)
        self.entries: list[Entry] = []
        self.sessions: Future[Sessions] = Future()
        self.targets: Lookup[Target] = Lookup()
        self.facts: SensorFacts | None = None
        self.own_account: str | None = None
        self.source_vpc_ids: set[str] = set()
        self.refused_targets: dict[str, str] = {}
        self.refused_types: dict[str, str] = {}
        self.refused_sources: list[Entry] = []
        self.total_refusal: str | None = None

    def do(self, work: Work) -> list[Entry]:
        """Do what the event asks for; one entry per interface, in order."""
        cached = None if work.sweep else cached_facts(self.configuration)
        with parallel_calls() as calls:
            # Read in one round trip. A sweep reads its instances page by page, later.
            hosts = host_ids(cached.sensors.values()) if cached else ()
            instances = calls.submit(self.read_instances, list(work.instances), hosts)
            self.sessions = calls.submit(self.ec2.sessions)
            targets = None if cached else calls.submit(self.ec2.targets, self.configuration.targets)
        self.targets = cached.targets if cached else targets.result() if targets else Lookup()
        self.facts = cached._replace(hosts=instances.result()) if cached else None
        self.mirror_named(work.instances, instances.result())
        if work.sweep:
            self.sweep(work.sweep, leave_out=work.instances)
        self.look_for_sessions_of_refused_sources()
        if self.facts:
            remember_facts(self.configuration, self.facts)
        return self.entries

    def read_instances(self, instance_ids: list[str], host_ids: Iterable[str]) -> Lookup[Instance]:
        """The instances asked for, and those that host sensors in the same call. EC2 may not know
        an instance for seconds after it has appeared, so unknown ones are asked for again."""
        instances = self.ec2.instances([*instance_ids, *host_ids])
        for _ in range(UNKNOWN_INSTANCE_LOOKS - 1):
            unknown = [key for key in instance_ids if not instances.knows(key)]
            if not unknown:
                break
            try:
                self.deadline.sleep(PAUSE_SECONDS)
            except OutOfTime as error:
                instances.failures.update(dict.fromkeys(unknown, error))
                break
            instances.update(self.ec2.instances(unknown))
        return instances

    def mirror_named(self, requests: Mapping[str, Request], instances: Lookup[Instance]) -> None:
        """Mirror the instances that events name."""
        found: list[tuple[Instance, Request]] = []
        for instance_id, request in requests.items():
            entry = Entry(request, "", "", instance_id)
            try:
                instance = instances.get(instance_id)
            except Unanswered as error:
                self.entries.append(entry.unanswered(error))
                continue
            # After the event, EC2 may still say pending.
            if instance is None:
                problem = f"AWS does not know instance {instance_id}"
            elif instance.state not in ("running", "pending"):
                problem = f"Instance {instance_id} is {instance.state}, not running"
            elif not instance.sources:
                problem = f"Instance {instance_id} has no network interface"
            else:
                found.append((instance, request))
                continue
            self.entries.append(entry.settle("skipped", problem))
        self.mirror(found)
        order = {instance_id: place for place, instance_id in enumerate(requests)}
        self.entries.sort(key=lambda entry: order[entry.instance_id or ""])

    def sweep(self, request: Request, leave_out: Mapping[str, Request]) -> None:
        """Mirror all running instances of the Region, page by page, and check their sessions."""
        try:
            for page in self.ec2.running_instances():
                self.mirror([(i, request) for i in page if i.instance_id not in leave_out])
        except Unanswered as error:
            rest = Entry(request, "", "").unanswered(error)
            rest.reason = f"The instances after these were not read. {rest.reason}"
            self.entries.append(rest)

    def mirror(self, instances: Iterable[tuple[Instance, Request]]) -> None:
        """Bring every interface of these instances to its outcome."""
        candidates = []
        for instance, request in instances:
            for source in instance.sources:
                entry = Entry(request, "", "", instance.instance_id, source.interface_id)
                self.entries.append(entry)
                candidate = self.candidate(instance, source, entry)
                if candidate:
                    candidates.append(candidate)
        if not candidates:
            return
        self.learn_of_sensors(candidates)
        for candidate in candidates:
            if candidate.sessions:
                self.check_sessions(candidate)
            else:
                self.mirror_source(candidate.source, candidate.entry)

    def candidate(self, instance: Instance, source: Source, entry: Entry) -> Candidate | None:
        """The interface as a candidate, or None and the entry settled: where it is not meant to be
        mirrored, cannot be, or has a session that nobody wants checked."""
        try:
            problem = (
                instance_set_aside(instance, self.configuration)
                or type_set_aside(source)
                or sensor_set_aside(source, instance, self.sensor_interface_ids)
            )
            if problem:
                entry.settle("skipped", problem)
                return None
            sessions = self.sessions.result().of(source.interface_id, self.configuration.targets)
        except Unanswered as error:
            entry.unanswered(error)
            return None
        if sessions:
            ours = [s for s in sessions if s.target_id in self.configuration.targets]
            if ours and source.address and entry.request.sweep:
                return Candidate(source, entry, ours)
            self.settle_existing(entry, sessions[0])
            return None
        if source.address is None:
            entry.settle("skipped", "The interface has no IPv4 address, which VXLAN packets need")
            return None
        return Candidate(source, entry, [])

    @cached_property
    def sensor_interface_ids(self) -> frozenset[str]:
        """The interfaces of the configured targets."""
        for failure in self.targets.failures.values():
            raise failure
        return frozenset(t.interface_id for t in self.targets.every() if t.interface_id)

    def settle_existing(self, entry: Entry, session: Session) -> None:
        """The interface has this session already."""
        whose = (
            "" if session.target_id in self.configuration.targets else ", not one of our targets"
        )
        reason = f"Session {session.session_id} mirrors it to {session.target_id}{whose}"
        entry.settle("exists", reason, session)

    def sessions_per_target(self) -> dict[str, int]:
        """How many sessions each configured target has; empty where AWS did not say."""
        if not self.sessions.done() or self.sessions.exception():
            return {}
        counts = self.sessions.result().per_target
        return {target_id: counts[target_id] for target_id in self.configuration.targets}

    # What is known of the sensors

    def learn_of_sensors(self, candidates: Sequence[Candidate]) -> None:
        """Make sure that what the stages need to know for these candidates has been read."""
        # Sessions that are only checked do not depend on the ACL of the source's subnet.
        sources = [candidate.source for candidate in candidates if not candidate.sessions]
        new_vpc_ids = {s.vpc_id for s in sources if s.vpc_id} - self.source_vpc_ids
        self.source_vpc_ids |= new_vpc_ids
        self.own_account = candidates[0].source.owner_id
        if self.facts is None:
            self.read_sensors()
            return
        # A subnet may be newer than the cache; a sweep comes to VPCs that have no sensor.
        acls = self.facts.acls
        lacking = {s.vpc_id for s in sources if s.subnet_id and not acls.knows(s.subnet_id)}
        acls.update(self.ec2.network_acls(key for key in lacking if key in new_vpc_ids))

    def read_sensors(self) -> None:
        """Read the sensors, in place of what the cache knew of them where it did."""
        target_ids = self.configuration.targets
        if self.facts:
            self.targets = self.ec2.targets(target_ids)
        self.facts = read_sensor_facts(
            self.ec2, target_ids, self.targets, self.own_account, self.source_vpc_ids
        )

    def known(self) -> Known:
        """What the stages may look at now."""
        assert self.facts, "candidates are judged after learn_of_sensors"
        return Known(self.configuration, self.facts, self.refused_targets)

    def read_prefix_lists(self, unread: frozenset[str]) -> bool:
        """Read prefix lists that a verdict depends on; whether there were any to read."""
        if unread:
            self.known().facts.prefix_lists.update(self.ec2.prefix_lists(unread))
        return bool(unread)

    # From verdicts to a session

    def mirror_source(self, source: Source, entry: Entry) -> None:
        """Create a session to the best sensor, or to the next best where AWS refuses one."""
        while not self.try_best_sensor(source, entry):
            pass

    def try_best_sensor(self, source: Source, entry: Entry) -> bool:
        """Judge, rank and create; whether the entry is settled. If not, AWS has refused the best
        sensor, and another one is the best now."""
        if problem := self.refused_types.get(source.instance_type):
            entry.settle("skipped", problem)
            return True
        judgement = self.judge(source)
        sessions = self.sessions.result()
        ranked = [] if judgement.error else ranking(source, judgement, sessions)
        entry.sensors = sensor_rows(judgement, ranked, sessions)
        if judgement.error:
            entry.unanswered(judgement.error)
        elif not ranked:
            entry.settle("unmirrored", why_unmirrored(judgement))
        elif self.total_refusal:
            self.settle_refusal(entry, self.total_refusal)
        elif entry.request.dry_run or self.configuration.dry_run:
            self.settle_planned(self.plan(source, ranked, entry), entry)
        else:
            return self.create_session(self.plan(source, ranked, entry), entry)
        return True

    def plan(self, source: Source, ranked: Sequence[str], entry: Entry) -> Plan:
        """The session to the first of the ranked sensors."""
        reason = choice(ranked, self.sessions.result())
        return Plan(source, ranked[0], reason, self.configuration, entry.request.event_id)

    def settle_planned(self, plan: Plan, entry: Entry) -> None:
        """Dry run: the session counts as if it had been created."""
        self.sessions.result().planned[plan.target_id] += 1
        entry.settle("planned", f"A session to {plan.target_id} would be created. {plan.choice}")
        entry.target_id, entry.session_name = plan.target_id, plan.session_name

    def create_session(self, plan: Plan, entry: Entry) -> bool:
        """Create the session; whether the entry is settled. If not, AWS has refused the target and
        another one may do."""
        try:
            session = self.created_session(plan)
        except Unanswered as error:
            if isinstance(error, AwsCallFailed) and error.refuses_session:
                return self.take_refusal(plan, entry, error)
            entry.unanswered(error)
            return True
        self.sessions.result().add(session)
        if session.target_id == plan.target_id:
            reason = (
                f"Session {session.session_id} mirrors it to {session.target_id}. {plan.choice}"
            )
            entry.settle("created", reason, session._replace(name=plan.session_name))
        else:
            self.settle_existing(entry, session)
        return True

    def judge(self, source: Source) -> Judgement:
        """Judge the sensors, reading what the verdicts turn out to need. What is cached may be out
        of date, so it does not get to say that there is no sensor."""
        while True:
            judgement = judge(source, self.known())
            if judgement.error:
                return judgement
            if self.read_prefix_lists(judgement.unread):
                continue
            if judgement.candidates or not self.known().facts.from_cache:
                return judgement
            self.read_sensors()

    def created_session(self, plan: Plan) -> Session:
        """Have EC2 create the session. Where the answer is lost the session may exist: it is looked
        for, and if it is not there the create is sent once more with the same token, which EC2
        answers with the first session if it has made one.

        Raises:
            Unanswered: there is no session, as far as AWS says.
        """
        try:
            return self.ec2.create_session(plan.parameters())
        except AwsCallFailed as error:
            if error.failure is not Failure.LOST:
                raise
            lost = error
        interface_id = plan.source.interface_id
        try:
            found = self.ec2.sessions_of([interface_id]).get(interface_id)
            return found or self.ec2.create_session(plan.parameters())
        except OutOfTime:
            raise lost from None

    def take_refusal(self, plan: Plan, entry: Entry, error: AwsCallFailed) -> bool:
        """AWS has refused a create for good. Take note of what that says about later ones; whether
        the entry is settled. If not, another target may do."""
        reason = f"AWS refused {plan.target_id}: {error.code} ({error.detail})"
        if error.code.startswith(TARGET_REFUSALS):
            self.refused_targets[plan.target_id] = reason
            return False
        if error.code == TYPE_REFUSAL:
            problem = f"AWS does not mirror instances of type {plan.source.instance_type}"
            self.refused_types[plan.source.instance_type] = f"{problem} ({error.code})"
            entry.settle("skipped", self.refused_types[plan.source.instance_type])
        elif error.code.startswith(TOTAL_REFUSALS):
            self.total_refusal = f"AWS creates no session at all: {error.code} ({error.detail})"
            self.settle_refusal(entry, self.total_refusal)
        else:
            # Another invocation may have been faster.
            self.settle_refusal(entry, reason)
            self.refused_sources.append(entry)
        return True

    def settle_refusal(self, entry: Entry, reason: str) -> None:
        """Unmirrored, because AWS has refused, or would refuse, the sensor that was chosen."""
        for row in entry.sensors:
            if row["verdict"] == "selected":
                row.update(verdict="rejected", stage="create", reason=f"{reason}.")
        entry.settle("unmirrored", f"Refused at create. {reason}")

    def look_for_sessions_of_refused_sources(self) -> None:
        """Refused sources may have a session by now that another invocation was faster to create.
        It can take seconds to show, so all of them are looked up together, up to three times."""
        waiting = {entry.interface_id or "": entry for entry in self.refused_sources}
        sessions: Lookup[Session] = Lookup()
        try:
            for look in range(REFUSED_SOURCE_LOOKS):
                if not waiting:
                    return
                if look:
                    self.deadline.sleep(PAUSE_SECONDS)
                sessions = self.ec2.sessions_of(waiting)
                for interface_id, found in sessions.found.items():
                    self.settle_existing(waiting.pop(interface_id), found[0])
        except OutOfTime as error:
            sessions.failures = dict.fromkeys(waiting, error)
        for interface_id, entry in waiting.items():
            if failure := sessions.failures.get(interface_id):
                entry.settle(failure.outcome, f"{entry.reason} Nobody could be asked: {failure}")

    # Sessions that exist

    def check_sessions(self, candidate: Candidate) -> None:
        """Whether packets can reach the sensor that the interface is mirrored to: a session to one
        that they cannot reach is a blind spot that looks covered. Nothing is changed."""
        for session in candidate.sessions:
            try:
                verdict = self.judge_session(candidate.source, session)
            except Unanswered as error:
                reason = f"Whether packets reach {session.target_id} could not be checked. {error}"
                candidate.entry.settle(error.outcome, reason, session)
                return
            # What cannot be seen or read is no proof that packets are blocked.
            if verdict.stage and not verdict.unverified and not verdict.unsettled:
                reason = f"Session {session.session_id} mirrors it to {session.target_id}"
                reason += f", which packets cannot reach. {verdict.reason}"
                candidate.entry.sensors = [sensor_row(session.target_id, verdict)]
                candidate.entry.settle("blocked", reason, session)
                return
        self.settle_existing(candidate.entry, candidate.sessions[0])

    def judge_session(self, source: Source, session: Session) -> Verdict:
        """The verdict on the sensor of a session that exists."""
        sensor = self.known().facts.sensors[session.target_id]
        while True:
            verdict = judge_sensor(source, sensor, self.known(), REACHABILITY)
            if not self.read_prefix_lists(verdict.unread):
                return verdict


def sensor_row(target_id: str, verdict: Verdict) -> dict[str, Any]:
    """A sensor as the result shows it."""
    last_resort = verdict.unverified and verdict.stage is not None
    hint = "; it is the last resort where ALLOW_UNVERIFIED is true" if last_resort else ""
    return {
        "target_id": target_id,
        "verdict": "rejected" if verdict.stage else "eligible",
        "stage": verdict.stage,
        "reason": f"{verdict.reason}{hint}.",
        "sessions": None,
    }


def sensor_rows(
    judgement: Judgement, ranked: Sequence[str], sessions: Sessions
) -> list[dict[str, Any]]:
    """The sensors as the result shows them, in configured order; the first of the ranked ones is
    the selected one."""
    rows = []
    eligible = frozenset(ranked)
    for target_id, verdict in judgement.verdicts.items():
        row = sensor_row(target_id, verdict)
        if target_id in eligible or verdict.stage == "create":
            row["sessions"] = sessions.count(target_id)
        if target_id in ranked[:1]:
            row["verdict"] = "selected"
            row["reason"] = f"{choice(ranked, sessions)}: {row['reason']}"
        elif target_id in eligible:
            count = sessions.count(ranked[0])
            row["reason"] = f"Behind {ranked[0]} with {count} sessions: {row['reason']}"
        rows.append(row)
    return rows


def choice(ranked: Sequence[str], sessions: Sessions) -> str:
    """Why the first of the ranked sensors is chosen."""
    return f"Best of {len(ranked)} eligible, with {sessions.count(ranked[0])} sessions"


def why_unmirrored(judgement: Judgement) -> str:
    """At which stage the last sensors fell."""
    stages = [verdict.stage for verdict in judgement.verdicts.values() if verdict.stage]
    last = max(stages, key=STAGES.index)
    fell = [key for key, verdict in judgement.verdicts.items() if verdict.stage == last]
    example = judgement.verdicts[fell[0]].reason
    return (
        f"No sensor can take it: of {len(stages)}, the last {len(fell)} fell at stage {last} "
        f"({fell[0]}: {example})"
    )


# ======================================================================================
# 7  Reporting
# ======================================================================================

BODY_LIMIT = 1_000_000  # bytes
LISTED_BY_SWEEP = 100  # interfaces
NAMED_IN_ERROR = 100  # interfaces


def summary(entries: Iterable[Entry]) -> dict[str, int]:
    """The count of each outcome that occurs."""
    counts = Counter(entry.outcome for entry in entries)
    return {outcome: counts[outcome] for outcome in OUTCOMES if counts[outcome]}


def by_attention(entries: Iterable[Entry]) -> list[Entry]:
    """The entries, those that need attention first."""
    order = list(OUTCOMES)
    return sorted(entries, key=lambda entry: order.index(entry.outcome))


def result(status: int, message: str, dry_run: bool, entries: Sequence[Entry]) -> dict[str, Any]:
    """The handler's result.

    A sweep lists those 100 interfaces that need attention most. To keep the body under 1 MB the
    sensors of the others go first, and then the others.
    """
    listed: Sequence[Entry] = entries
    if any(entry.request.sweep for entry in entries):
        listed = by_attention(entries)[:LISTED_BY_SWEEP]
    body = {"message": message, "dry_run": dry_run, "summary": summary(entries), "interfaces": []}
    room = BODY_LIMIT - len(json.dumps(body)) - 1
    bare: dict[int, dict[str, Any]] = {}
    for entry in by_attention(listed):
        shown_entry = entry.as_dict() | {"sensors": []}
        room -= len(json.dumps(shown_entry)) + 2
        if room < 0:
            break
        bare[id(entry)] = shown_entry
    for entry in by_attention(listed):
        size = len(json.dumps(entry.sensors)) - 2
        if id(entry) in bare and size <= room:
            bare[id(entry)]["sensors"] = entry.sensors
            room -= size
    body["interfaces"] = [bare[id(entry)] for entry in listed if id(entry) in bare]
    return {"statusCode": status, "body": json.dumps(body)}


def message_of(entries: Sequence[Entry], dry_run: bool) -> str:
    """One sentence on what became of the interfaces."""
    counts = ", ".join(f"{count} {outcome}" for outcome, count in summary(entries).items())
    prefix = "Dry run, nothing is created: " if dry_run else ""
    number = f"{len(entries)} interface{'' if len(entries) == 1 else 's'}"
    return f"{prefix}{number}: {counts}." if entries else f"{prefix}nothing to look at."


def unfinished_message(entries: Iterable[Entry]) -> str | None:
    """How many interfaces AWS gave no answer for, which and why; None where there are none."""
    unfinished = by_attention(entry for entry in entries if entry.outcome in UNFINISHED_OUTCOMES)
    if not unfinished:
        return None
    counts = ", ".join(f"{count} {outcome}" for outcome, count in summary(unfinished).items())
    names: dict[str, list[str]] = {}
    for entry in unfinished[:NAMED_IN_ERROR]:
        name = entry.interface_id or entry.instance_id or "further instances"
        names.setdefault(entry.reason, []).append(name)
    reasons = " ".join(f"{', '.join(ids)}: {reason}" for reason, ids in names.items())
    more = len(unfinished) - NAMED_IN_ERROR
    return f"{counts}. {reasons}" + (f" And {more} more." if more > 0 else "")


def log_entries(entries: Iterable[Entry]) -> None:
    """One log record per interface: a sentence, and the entry as further fields, which Lambda's
    JSON log format keeps. What a sweep finds in order would drown the rest, so it is DEBUG."""
    for entry in entries:
        level = OUTCOMES[entry.outcome]
        if entry.request.sweep and entry.outcome in ("exists", "skipped"):
            level = logging.DEBUG
        where = " of ".join(filter(None, (entry.interface_id, entry.instance_id))) or "Sweep"
        logger.log(level, "%s: %s. %s", where, entry.outcome, entry.reason, extra=entry.as_dict())


def print_metrics(
    context: object, entries: Sequence[Entry], swept: bool, per_target: Mapping[str, int]
) -> None:
    """Print the invocation's metrics in CloudWatch's embedded metric format, one line a document.

    Args:
        context: Lambda's context object, for the function's name.
        entries: the outcomes.
        swept: whether all instances were looked at.
        per_target: sessions by target ID, as far as they are known.
    """
    default_name = os.environ.get("AWS_LAMBDA_FUNCTION_NAME", __name__)
    function_name = str(getattr(context, "function_name", None) or default_name)
    counts = summary(entries)
    values: dict[str, float] = {outcome: counts.get(outcome, 0) for outcome in OUTCOMES}
    units = dict.fromkeys(OUTCOMES, "Count")
    meant = [entry for entry in entries if entry.interface_id and entry.outcome != "skipped"]
    if swept and meant:
        covered = sum(bool(entry.session_id) and entry.outcome != "blocked" for entry in meant)
        values["Coverage"], units["Coverage"] = 100 * covered / len(meant), "Percent"
    documents = [metric_document({"FunctionName": function_name}, values, units)]
    for target_id, sessions in per_target.items() if swept else ():
        dimensions = {"FunctionName": function_name, "TargetId": target_id}
        documents.append(metric_document(dimensions, {"Sessions": sessions}, {"Sessions": "Count"}))
    # One write, so that lines of several threads do not mix.
    sys.stdout.write("".join(f"{json.dumps(document)}\n" for document in documents))
    sys.stdout.flush()


def metric_document(
    dimensions: Mapping[str, str], values: Mapping[str, float], units: Mapping[str, str]
) -> dict[str, Any]:
    """A document in the embedded metric format."""
    metrics = [{"Name": name, "Unit": units[name]} for name in values]
    directive = {"Namespace": "TrafficMirror", "Dimensions": [list(dimensions)], "Metrics": metrics}
    aws = {"Timestamp": int(time.time() * 1_000), "CloudWatchMetrics": [directive]}
    return {"_aws": aws, **dimensions, **values}


# ======================================================================================
# 8  Handler
# ======================================================================================


def lambda_handler(event: object, context: object) -> dict[str, Any]:
    """Mirror the instances that an event names, or all that run.

    Args:
        event: an EC2 Instance State-change Notification, a hand-written test event, a Scheduled
            Event, or a batch of SQS messages with such bodies; see README.md.
        context: Lambda's context object, or None.

    Returns:
        `{"statusCode": 200 or 400, "body": JSON text}`; for a batch of SQS messages the IDs of
        those to be delivered again.

    Raises:
        ConfigurationError: an environment variable is missing or malformed.
        MirroringError: AWS gave no useful answer, or time ran out, for some interfaces. The others
            have been worked on. Never raised for SQS batches and for time that ran out in sweeps.
    """
    default_id = str(getattr(context, "aws_request_id", None) or uuid.uuid4())
    if isinstance(event, dict) and is_sqs_batch(event):
        return handle_sqs_batch(parse_sqs_batch(event, default_id), context)
    try:
        request = parse_event(event, default_id)
    except InvalidEvent as error:
        logger.warning("Invalid event. %s", error)
        print_metrics(context, [], False, {})
        return result(400, str(error), False, [])
    entries, configuration = mirror_and_report([request], context)
    # What a sweep defers, the next one goes on with.
    due = [entry for entry in entries if not (request.sweep and entry.outcome == "deferred")]
    if problem := unfinished_message(due):
        raise MirroringError(problem)
    bad = any(entry.outcome in BAD_OUTCOMES for entry in entries)
    dry_run = configuration.dry_run or request.dry_run
    message = request.ignored or message_of(entries, dry_run)
    return result(400 if bad else 200, message, dry_run, entries)


def handle_sqs_batch(
    messages: Mapping[str, Request | InvalidEvent], context: object
) -> dict[str, Any]:
    """Work on all messages together; name those that are unreadable or unfinished."""
    requests: dict[str, Request] = {}
    for message_id, message in messages.items():
        if isinstance(message, Request):
            requests[message_id] = message
        else:
            logger.error("Message %s is unreadable. %s", message_id, message)
    entries, _ = mirror_and_report(requests.values(), context)
    unfinished = [entry for entry in entries if entry.outcome in UNFINISHED_OUTCOMES]
    instance_ids = {entry.instance_id for entry in unfinished}
    swept = not any(entry.request.sweep for entry in unfinished)
    done = {
        message_id
        for message_id, request in requests.items()
        if instance_ids.isdisjoint(request.instance_ids) and (swept or not request.sweep)
    }
    again = [message_id for message_id in messages if message_id not in done]
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in again]}


def mirror_and_report(
    requests: Iterable[Request], context: object
) -> tuple[list[Entry], Configuration]:
    """Do what events ask for, log it and print its metrics."""
    configuration = Configuration.from_environment(os.environ)
    work = Work.of(requests)
    mirroring = Mirroring(configuration, Deadline(context))
    entries = mirroring.do(work) if work.instances or work.sweep else []
    log_entries(entries)
    print_metrics(context, entries, bool(work.sweep), mirroring.sessions_per_target())
    return entries, configuration


if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
    # In its plain text format Lambda leaves the level at WARNING; in JSON it sets the level itself.
    if "AWS_LAMBDA_LOG_LEVEL" not in os.environ:
        logger.setLevel(logging.INFO)
    # At DEBUG botocore and urllib3 would log every request, session token included.
    for library in ("botocore", "urllib3"):
        logging.getLogger(library).setLevel(logging.INFO)
    # Lambda gives the import phase its full CPU. What fails here fails again, and is reported, at
    # the first call. Nothing of what the client is made from is ever garbage, so the collector need
    # not look through it, neither while it is made nor later.
    gc.disable()
    with suppress(BotoCoreError, ValueError):
        ec2_client()
    gc.freeze()
    gc.enable()
