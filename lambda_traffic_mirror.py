"""Mirror the traffic of every EC2 instance to the right network sensor, by itself.

An AWS Lambda function. EventBridge reports that an instance is running; for each of its network
interfaces that has no traffic mirror session yet, the function takes the sensors (traffic mirror
targets) in the same Availability Zone, drops those whose security groups, network ACLs or routes
keep VXLAN (UDP 4789) from the interface away, takes the one with the fewest sessions and creates
the session.

The sections stand in the order in which data flows:

    1  Configuration   what the environment variables say
    2  Events          what an event asks for
    3  Answers         what AWS says, and every way in which it may say nothing
    4  Nouns           interface, instance, target, session, security group, network ACL, route
    5  AWS             every call, each in one place: a Describe call is a row of a table
    6  Region          what is known of targets, sensors and sessions, and what is kept while warm
    7  Judging         the stages, pure: may this source be mirrored to that sensor, and why
    8  Mirroring       one flow from task to entry: the guide's four steps
    9  Reporting       result, log records, metrics
    10 Handler         the summary of all of the above

A new filter is a function in section 7 and a line in PIPELINE, and in REACHABILITY where it holds
for sessions that exist; what it looks at is a field of Facts, read in Region._read_account. A new
Describe call is a row among the Reads in section 5. A new outcome is a line in OUTCOMES in section
8. A new kind of event is a branch of parse_event in section 2.
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
from collections import Counter
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from enum import Enum
from functools import cached_property, lru_cache
from types import SimpleNamespace
from typing import Any, Generic, NamedTuple, TypeGuard, TypeVar

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
from botocore.exceptions import (
    BotoCoreError,
    CapacityNotAvailableError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
)
from botocore.exceptions import ConnectionError as BotocoreConnectionError
from botocore.retries import adaptive, standard
from botocore.retries.bucket import Clock, TokenBucket
from netaddr import AddrFormatError, IPAddress, IPNetwork

VERSION = "2.0.0"

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
    """A tag: to look for on instances (value None: `key` with any value), or to give a session."""

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

    Attributes:
        targets: IDs of targets, and accounts (12 digits) that stand for all their targets.
        sensor_roles: account and ARN of the roles through which other accounts are read.
        The others are named like their variables.
    """

    filter_id: str
    targets: tuple[str, ...]
    sensor_roles: tuple[tuple[str, str], ...]
    local_zone_only: bool
    local_vpc_only: bool
    include_tags: tuple[Tag, ...]
    exclude_tags: tuple[Tag, ...]
    session_number: int
    virtual_network_id: int | None
    packet_length: int | None
    session_tags: tuple[Tag, ...]
    mirror_alongside: bool
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
        return cls(
            filter_id=setting.one_id("filter_id", "the ID of the traffic mirror filter"),
            targets=setting.ids("targets", TARGETS, "the IDs of the traffic mirror targets"),
            sensor_roles=setting.roles("SENSOR_ROLE_ARNS"),
            local_zone_only=setting.boolean("LOCAL_ZONE_ONLY", LOCAL_ZONE_ONLY),
            local_vpc_only=setting.boolean("LOCAL_VPC_ONLY", False),
            include_tags=setting.tags("INCLUDE_TAGS"),
            exclude_tags=setting.tags("EXCLUDE_TAGS"),
            session_number=setting.integer("SESSION_NUMBER", 1, 32_766) or 1,
            # A VXLAN network identifier has 24 bits. Without one AWS picks one at random.
            virtual_network_id=setting.integer("VIRTUAL_NETWORK_ID", 0, 16_777_215),
            packet_length=setting.integer("PACKET_LENGTH", 1, 8_500),
            session_tags=setting.session_tags("SESSION_TAGS"),
            mirror_alongside=setting.boolean("MIRROR_ALONGSIDE", False),
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

    def roles(self, name: str) -> tuple[tuple[str, str], ...]:
        """Role ARNs, one for each account, as pairs of account and ARN."""
        roles: dict[str, str] = {}
        for arn in dict.fromkeys(split_ids(self.text(name))):
            match = re.fullmatch(r"arn:[\w-]+:iam::([0-9]{12}):role/\S+", arn, re.ASCII)
            if not match:
                raise self._error(name, arn, "ARNs of roles, arn:aws:iam::123456789012:role/NAME")
            if match[1] in roles:
                raise self._error(name, arn, f"one role for account {match[1]}, not a second one")
            roles[match[1]] = arn
        return tuple(roles.items())

    def tags(self, name: str) -> tuple[Tag, ...]:
        """`key=value` or `key`, separated by commas."""
        tags = []
        for item in filter(None, map(str.strip, self.text(name).split(","))):
            key, equals, value = map(str.strip, item.partition("="))
            if not key:
                raise self._error(name, item, "key=value or key, separated by commas")
            tags.append(Tag(key, value if equals else None))
        return tuple(tags)

    def session_tags(self, name: str) -> tuple[Tag, ...]:
        """`key=value`, separated by commas: tags to give. AWS takes 50, `Name` included."""
        tags = self.tags(name)
        for tag in tags:
            if tag.value is None:
                raise self._error(name, tag.key, "key=value, separated by commas")
            if tag.key == "Name" or tag.key.lower().startswith("aws:"):
                accepted = "other keys: Name is set by the function, aws: is reserved"
                raise self._error(name, str(tag), accepted)
        twice = [key for key, count in Counter(tag.key for tag in tags).items() if count > 1]
        if twice:
            raise self._error(name, self.text(name), f"each key once, {twice[0]} too")
        if len(tags) > 49:
            raise self._error(name, self.text(name), f"at most 49 tags, not {len(tags)}")
        return tags

    @staticmethod
    def _error(name: str, value: str, accepted: str) -> ConfigurationError:
        state = f"is {value!r}" if value else "is not set"
        return ConfigurationError(f"Environment variable {name} {state}; accepted: {accepted}.")


def split_ids(text: str) -> list[str]:
    """The IDs in a text, separated by commas and/or white space."""
    return text.replace(",", " ").split()


def is_account(target: str) -> bool:
    """Whether an entry of `targets` is an account, which stands for all the targets it owns."""
    return re.fullmatch("[0-9]{12}", target) is not None


# ======================================================================================
# 2  Events
# ======================================================================================

STATE_CHANGE = "EC2 Instance State-change Notification"
SCHEDULE = "Scheduled Event"
API_CALL = "AWS API Call via CloudTrail"
TEST_EVENT = '{"detail": {"instance-id": "i-0123456789abcdef0"}}'
INSTANCE_ID = re.compile(r"[\w.:/-]+", re.ASCII)
LONGEST_ID = 255


class MirroringError(RuntimeError):
    """Something was left without an answer; Lambda is to deliver the event again."""


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
        account: where an event of EC2 says that it is from.
        region: likewise.
    """

    event_id: str
    dry_run: bool
    instance_ids: tuple[str, ...] = ()
    sweep: bool = False
    ignored: str | None = None
    account: str | None = None
    region: str | None = None


class Message(NamedTuple):
    """A part of what Lambda hands over: an event, or the SQS message or envelope around some.

    Attributes:
        message_id: by which SQS is told to deliver it again; None for what is not from SQS.
        requests: what those of its events ask for that can be understood.
        errors: why the others cannot.
    """

    message_id: str | None
    requests: list[Request]
    errors: list[InvalidEvent]

    @classmethod
    def of(cls, message_id: str | None, parsed: Iterable[Request | InvalidEvent]) -> Message:
        """From what `parse` makes of it."""
        message = cls(message_id, [], [])
        for item in parsed:
            if isinstance(item, Request):
                message.requests.append(item)
            else:
                message.errors.append(item)
        return message


def open_delivery(event: object, default_id: str) -> list[Message]:
    """What Lambda hands over, taken apart.

    Args:
        event: an event, an array of events, or a batch of records.
        default_id: takes the place of the ID of events that have none.

    Raises:
        MirroringError: a batch that is only in part from SQS. Lambda takes every answer but an
            error for success, and it could not be said which records to deliver again.
    """
    records = event.get("Records") if isinstance(event, dict) else event
    if not isinstance(records, list) or not any(map(is_sqs_record, records)):
        return [Message.of(None, parse(event, default_id))]
    for record in records:
        message_id = record.get("messageId") if is_sqs_record(record) else None
        if not isinstance(message_id, str) or not message_id:
            raise MirroringError(
                "The batch has records that are not SQS messages with a messageId, so it cannot be "
                f"said which to deliver again: {len(records)} records, one of them "
                f"{shown(record)}."
            )
    # Whatever is at the top holds for all of the batch.
    top = event if isinstance(event, dict) else {}
    return [
        Message.of(record["messageId"], parse_body(record.get("body"), top, default_id))
        for record in records
    ]


def parse_body(
    body: object, top: Mapping[str, Any], default_id: str
) -> Iterable[Request | InvalidEvent]:
    """What the body of an SQS message asks for; `top` is what holds for all of its batch."""
    try:
        return parse(parse_json(body), default_id, boolean_member(top, "dry_run"))
    except InvalidEvent as error:
        return [error]


def is_sqs_record(record: object) -> bool:
    """Whether this is an SQS message, as Lambda's event source mapping and Pipes send it."""
    return isinstance(record, dict) and record.get("eventSource") == "aws:sqs"


ENVELOPES = 8  # an array of records with SNS notifications has three


def parse(
    event: object, default_id: str, dry_run: bool = False, envelopes: int = 0
) -> Iterator[Request | InvalidEvent]:
    """What an event asks for, its envelopes opened: arrays and SNS notifications.

    Args:
        event: as Lambda, or the body of a message, hands it over.
        default_id: takes the place of the event's ID where it has none.
        dry_run: a switch outside of the event; either of the two switches the dry run on.
        envelopes: how many have been opened to come to this event.

    Yields:
        A request for each event, or the error that says why it is none.
    """
    try:
        if isinstance(event, dict):
            dry_run = boolean_member(event, "dry_run") or dry_run
        contents = contents_of(event) if envelopes < ENVELOPES else None
        if contents is None:
            yield parse_event(event, default_id, dry_run)
            return
    except InvalidEvent as error:
        yield error
        return
    for content in contents:
        yield from parse(content, default_id, dry_run, envelopes + 1)


def contents_of(event: object) -> Sequence[object] | None:
    """What is in an envelope; None where the event is none."""
    if isinstance(event, dict):
        if event.get("EventSource") == "aws:sns" and isinstance(event.get("Sns"), dict):
            return [parse_json(event["Sns"].get("Message"))]
        if event.get("Type") == "Notification" and "Message" in event:
            return [parse_json(event["Message"])]
        event = event.get("Records")
    if isinstance(event, list) and not event:
        raise InvalidEvent("The event is an empty list.")
    return event if isinstance(event, list) else None


def parse_event(event: object, default_id: str, dry_run: bool) -> Request:
    """What an event without an envelope asks for.

    Raises:
        InvalidEvent: not an event that the function knows.
    """
    if not isinstance(event, dict):
        raise InvalidEvent(f"The event is {shown(event)}, not an object.")
    event_id = event.get("id")
    if not isinstance(event_id, str) or not event_id:
        event_id = default_id
    request = Request(event_id, dry_run)

    found: list[Request] = []
    detail_type = event.get("detail-type")
    if detail_type not in (None, STATE_CHANGE, SCHEDULE, API_CALL):
        raise InvalidEvent(f"Events of detail-type {shown(detail_type)} are not known.")
    if boolean_member(event, "sweep") or detail_type == SCHEDULE:
        found.append(request._replace(sweep=True))
    if detail_type in (STATE_CHANGE, API_CALL):
        parse_of_type = parse_detail if detail_type == STATE_CHANGE else parse_api_call
        request = request._replace(
            account=text_member(event, "account"), region=text_member(event, "region")
        )
        found.append(parse_of_type(event.get("detail"), request))
    elif detail_type is None and "detail" in event:
        found.append(parse_detail(event["detail"], request))
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
        ignored = f"{shortened(identifier)} is {shown(state)}; only running instances are mirrored."
        return request._replace(ignored=ignored)
    return request._replace(instance_ids=(identifier,))


def parse_api_call(detail: object, request: Request) -> Request:
    """The request with the instances that a call to EC2 names, as CloudTrail records it."""
    if not isinstance(detail, dict) or detail.get("eventSource") != "ec2.amazonaws.com":
        source = detail.get("eventSource") if isinstance(detail, dict) else detail
        raise InvalidEvent(f"eventSource is {shown(source)}, not 'ec2.amazonaws.com'.")
    name = shown(detail.get("eventName"))
    if detail.get("errorCode"):
        return request._replace(ignored=f"The recorded call {name} failed, so it changed nothing.")
    named: dict[str, None] = {}
    # Taken from the end, so that what the call asked comes before what it was answered.
    rest = [detail.get("responseElements"), detail.get("requestParameters")]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            for key, text in value.items():
                is_id = isinstance(text, str) and INSTANCE_ID.fullmatch(text)
                # CreateTags and DeleteTags name resources of all kinds.
                if is_id and (
                    key.lower() == "instanceid"
                    or (key.lower() == "resourceid" and text.startswith("i-"))
                ):
                    named[text] = None
            rest.extend(reversed(value.values()))
        elif isinstance(value, list):
            rest.extend(reversed(value))
    if not named:
        return request._replace(ignored=f"The recorded call {name} names no instance.")
    return request._replace(instance_ids=tuple(named))


def parse_instance_ids(ids: object) -> tuple[str, ...]:
    """The instances that `instance-ids` names."""
    if not isinstance(ids, list) or not ids:
        raise InvalidEvent(f"instance-ids is {shown(ids)}, not a list of instance IDs.")
    return tuple(map(instance_id, ids))


def instance_id(value: object) -> str:
    """An instance ID as events spell it. Opaque, but never with the wildcards of filters: they
    would name instances that nobody asked for."""
    if isinstance(value, str) and INSTANCE_ID.fullmatch(value.strip()):
        return value.strip()
    raise InvalidEvent(f"instance-id is {shown(value)}, not an instance ID.")


def boolean_member(event: Mapping[str, Any], name: str) -> bool:
    """The JSON boolean of that name in the event; False where it is missing."""
    value = event.get(name, False)
    if not isinstance(value, bool):
        raise InvalidEvent(f"{name} is {shown(value)}, not true or false.")
    return value


def text_member(event: Mapping[str, Any], name: str) -> str | None:
    """The text of that name in the event; None where it is missing or no text."""
    value = event.get(name)
    return value if isinstance(value, str) and value else None


def parse_json(text: object) -> object:
    """The JSON in a message's body."""
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError) as error:
        raise InvalidEvent(f"The message is not JSON ({ascii(str(error))[:80]}).") from None


def shown(value: object) -> str:
    """A value from outside, short and safe to print."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list" if value else "an empty list"
    return "missing" if value is None else ascii(value)[:80]


def one_line(text: str, most: int) -> str:
    """A text from outside on one line: control characters escaped, and cut where it is too long."""
    escaped = re.sub(
        r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", lambda char: ascii(char[0])[1:-1], text
    )
    return shortened(escaped, most)


def shortened(text: str, most: int = 200) -> str:
    """A text that may be as long as whoever wrote it wanted, cut to so many characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


class Own(NamedTuple):
    """The account and Region that the function belongs to, as far as they are known."""

    account: str | None = None
    region: str | None = None

    @classmethod
    def of(cls, context: object) -> Own:
        """From the function's ARN in Lambda's context object."""
        parts = str(getattr(context, "invoked_function_arn", "")).split(":")
        return cls(parts[4], parts[3]) if len(parts) > 5 else cls()

    def elsewhere(self, request: Request) -> str | None:
        """Where an event is from, if that is not here; None where it is, or nobody can tell."""
        pairs = (
            ("account", request.account, self.account),
            ("Region", request.region, self.region),
        )
        other = [
            (what, theirs, own) for what, theirs, own in pairs if theirs and own and theirs != own
        ]
        if not other:
            return None
        there = ", ".join(f"{what} {shown(theirs)}" for what, theirs, _ in other)
        here = ", ".join(f"{what} {own}" for what, _, own in other)
        return f"the event is from {there}; the function belongs to {here}"


class Work(NamedTuple):
    """What events ask for, taken together.

    Attributes:
        instances: by ID, each once and in order, with the request to mirror it.
        sweep: the request to look at all running instances, where there is one.
    """

    instances: Mapping[str, Request]
    sweep: Request | None

    @classmethod
    def of(cls, requests: Iterable[Request], own: Own) -> Work:
        """The work of these requests. What one wants mirrored and another only tried out is
        mirrored, and what an event of the own account names is looked for as such."""

        def rank(request: Request) -> tuple[bool, bool]:
            return request.dry_run, bool(own.elsewhere(request))

        instances: dict[str, Request] = {}
        sweeps: list[Request] = []
        for request in requests:
            for identifier in request.instance_ids:
                earlier = instances.setdefault(identifier, request)
                if rank(request) < rank(earlier):
                    instances[identifier] = request
            if request.sweep:
                sweeps.append(request)
        sweep = min(sweeps, key=lambda request: request.dry_run, default=None)
        if sweep and not sweep.dry_run:
            instances = {key: request for key, request in instances.items() if not request.dry_run}
        return cls(instances, sweep)


# ======================================================================================
# 3  Answers
# ======================================================================================


class Failure(Enum):
    """How a call to AWS came to nothing."""

    DENIED = "a permission is missing"
    LOST = "no answer or none to rely on: AWS may have carried the call out all the same"
    REFUSED = "AWS understood the call and will say the same again"
    THROTTLED = "nothing was done, and later it may be"
    NOT_LET_IN = "nothing was sent, or AWS does not know who asks"


# AWS's codes and what they mean. Any other code is a refusal, unless botocore tries its status
# again.
FAILURE_CODES = {
    Failure.DENIED: "UnauthorizedOperation AccessDenied AccessDeniedException",
    # What botocore would try again, besides status 5xx and throttling.
    Failure.LOST: """
        BandwidthLimitExceeded InternalError InternalFailure LimitExceededException
        PriorRequestNotComplete ProvisionedThroughputExceededException RequestTimeout
        RequestTimeoutException ServiceUnavailable TransactionInProgressException Unavailable""",
    Failure.THROTTLED: """
        RequestLimitExceeded Throttling ThrottlingException ThrottledException RequestThrottled
        RequestThrottledException EC2ThrottledException TooManyRequestsException SlowDown""",
    Failure.NOT_LET_IN: """
        AuthFailure Blocked ExpiredToken ExpiredTokenException IncompleteSignature
        InvalidClientTokenId MissingAuthenticationToken OptInRequired PendingVerification
        RequestExpired SignatureDoesNotMatch UnrecognizedClientException""",
}
FAILURES = {code: failure for failure, codes in FAILURE_CODES.items() for code in codes.split()}
CREATE = "CreateTrafficMirrorSession"


class Unanswered(Exception):
    """There is no answer, and what depends on it is left undone.

    Attributes:
        outcome: what that means for an interface.
        final: whether AWS will say the same again: a permission is missing, or it refuses.
    """

    outcome = "failed"
    final = False


class Unreadable(Unanswered):
    """An answer, or a row of one, is not what AWS documents, so nobody can say what it means."""

    method = ""

    def in_answer_of(self, method: str) -> Unreadable:
        """The same, with boto3's name of the call that was answered so."""
        self.method = self.method or method
        return self

    def __str__(self) -> str:
        whose = operation_of(self.method) or "AWS"
        return f"The answer of {whose} cannot be understood: {super().__str__()}"


@contextmanager
def reading(method: str) -> Iterator[None]:
    """What cannot be read in here is in an answer of this call."""
    try:
        yield
    except Unreadable as error:
        raise error.in_answer_of(method) from None


class NotAskedYet(Unanswered):
    """What would decide is asked for only where it does.

    Attributes:
        wanted: what to ask for: account, kind as Ec2 and Facts call it (`prefix_lists`,
            `route_tables`), and ID.
    """

    def __init__(self, wanted: Iterable[tuple[str, str, str]]) -> None:
        super().__init__()
        self.wanted = frozenset(wanted)


class OutOfTime(Unanswered):
    """Too little of the invocation's time is left to begin anything."""

    outcome = "deferred"

    def __str__(self) -> str:
        return "The invocation's time ran out"


class AwsCallFailed(Unanswered):
    """A call to AWS came to nothing, botocore's retries included.

    Attributes:
        operation: the API operation, such as DescribeNetworkAcls.
        code: AWS's error code, or the name of botocore's error.
        message: AWS's or botocore's message, whole.
        failure: what that means.
        role: the role in another account through which it was called, if through one.
    """

    def __init__(
        self, operation: str, code: str, message: str, failure: Failure, role: str | None = None
    ) -> None:
        super().__init__(operation, code, message)
        self.operation = operation
        self.code = one_line(code, 100)
        self.message = message
        self.failure = failure
        self.final = failure in (Failure.DENIED, Failure.REFUSED)
        self.role = role

    @classmethod
    def answered(cls, operation: str, error: ClientError, role: str | None) -> AwsCallFailed:
        """From an error that AWS, or something in front of it, answered with."""
        details = error.response.get("Error")
        details = details if isinstance(details, dict) else {}
        code, message = (str(details.get(name) or "").strip() for name in ("Code", "Message"))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400)
        # A proxy's page has no code; botocore then shows the status in its place.
        if code.isdigit() or not code:
            return cls(operation, code or "an error without a code", message, Failure.LOST, role)
        tried_again = status >= 500 or status == 429  # by botocore, whatever the code
        failure = FAILURES.get(code, Failure.LOST if tried_again else Failure.REFUSED)
        if operation == CREATE and code == "AuthFailure":
            failure = Failure.REFUSED  # the reads were let in, so it is about the interface
        return cls(operation, code, message, failure, role)

    @classmethod
    def unanswered(cls, operation: str, error: Exception, role: str | None) -> AwsCallFailed:
        """From an error of botocore's own. Those of its configuration (no credentials, no Region)
        mean that nothing was sent; all others leave open what AWS did."""
        unsent = isinstance(error, BotoCoreError) and not isinstance(
            error, (HTTPClientError, BotocoreConnectionError)
        )
        failure = Failure.NOT_LET_IN if unsent else Failure.LOST
        return cls(operation, type(error).__name__, str(error), failure, role)

    @property
    def detail(self) -> str:
        """The message, short, without the hundreds of encoded characters that nobody can read."""
        readable = re.split(r"\.?\s*Encoded authorization failure", self.message)[0]
        return one_line(readable.rstrip("."), 600)

    @property
    def brief(self) -> str:
        """Code and message."""
        return f"{self.code} ({self.detail})"

    def __str__(self) -> str:
        if self.failure is Failure.DENIED:
            return self._denial()
        through = f" through {self.role}" if self.role else ""
        return f"{self.operation}{through} failed with {self.code}: {self.detail}"

    def _denial(self) -> str:
        if self.operation == "AssumeRole":
            permissions = f"sts:AssumeRole on {self.role}, which has to trust it"
        elif named := re.search(r"perform:? ([\w-]+:\w+)", self.detail):
            permissions = named[1]
        else:
            # To create a session with a tag takes two permissions.
            also = " and ec2:CreateTags" if self.operation == CREATE else ""
            permissions = f"ec2:{self.operation}{also}"
        who = self.role if self.role and self.operation != "AssumeRole" else "the function's role"
        if re.search("explicit deny|control policy|boundary|session policy", self.detail):
            needs = f"{permissions} is denied to {who} by more than its own policy"
        else:
            needs = f"{who} needs {permissions}"
        return f"{self.code}: {needs}" + (f". AWS says: {self.detail}" if self.detail else "")


class Deadline:
    """How long the invocation may still begin something.

    A fifth of the time that is left at the start, 12 s at most, is kept in reserve: it outlasts a
    call that stays silent, and leaves time to report.

    Attributes:
        reserve: milliseconds.
        call_seconds: how long one attempt of a call may take, from connecting to its answer.

    Args:
        context: Lambda's context object; None or one without a clock knows no deadline.
    """

    def __init__(self, context: object) -> None:
        self._remaining_milliseconds: Callable[[], float] = getattr(
            context, "get_remaining_time_in_millis", lambda: float("inf")
        )
        self.reserve = min(12_000.0, self._remaining_milliseconds() / 5)
        # Halved until it fits, so that few different clients are made.
        self.call_seconds = CALL_SECONDS
        while self.call_seconds > max(self.reserve / 1_000, 0.1):
            self.call_seconds /= 2

    def allows(self, seconds: float = 0.0) -> bool:
        """Whether something may begin in so many seconds."""
        return self._remaining_milliseconds() - 1_000 * seconds >= self.reserve

    def check(self, seconds: float = 0.0) -> None:
        """Raise OutOfTime unless something may begin in so many seconds."""
        if not self.allows(seconds):
            raise OutOfTime

    def sleep(self, seconds: float) -> None:
        """Wait, unless nothing could be begun afterwards: then raise OutOfTime at once."""
        self.check(seconds)
        time.sleep(seconds)

    def close(self) -> None:
        """Let nothing be begun any more."""
        self._remaining_milliseconds = lambda: float("-inf")


def asked(call: Callable[..., T], *arguments: Any) -> T | Unanswered:
    """What a call answers, or the error that `told` raises where the answer is needed."""
    try:
        return call(*arguments)
    except Unanswered as error:
        return error


def told(answer: T | Unanswered) -> T:
    """The answer; where there is none, its error is raised."""
    if isinstance(answer, Unanswered):
        raise answer
    return answer


class Answers(Generic[T]):
    """What AWS says, by ID. Of an ID that it does not know it says nothing; for one whose call
    failed, or whose row cannot be read, the error is raised whenever the answer is asked for, so
    that it harms those who need it and nobody else."""

    def __init__(self) -> None:
        self._found: dict[str, list[T]] = {}
        self._errors: dict[str, Unanswered] = {}

    def all(self, key: str, asked_by: str | None = None) -> Sequence[T]:
        """All answers for an ID; none where AWS knows none.

        Args:
            key: the ID.
            asked_by: the ID that the call was made with, where that is another.

        Raises:
            Unanswered: the call for it failed, or a row cannot be read.
        """
        if key in self._errors:
            raise self._errors[key]
        if key in self._found:
            return self._found[key]
        if asked_by in self._errors:
            raise self._errors[asked_by]
        return ()

    def one(self, key: str, asked_by: str | None = None) -> T | None:
        """The one answer for an ID, or None; see `all`."""
        return next(iter(self.all(key, asked_by)), None)

    def every(self) -> Iterator[T]:
        """All answers there are."""
        for answers in self._found.values():
            yield from answers

    def items(self) -> Iterator[tuple[str, T | Unanswered]]:
        """Each ID, with its answer or the error in place of one."""
        yield from self._errors.items()
        for key, answers in self._found.items():
            yield from ((key, answer) for answer in answers)

    def __contains__(self, key: str) -> bool:
        return key in self._found or key in self._errors

    def add(self, key: str, answer: T) -> None:
        """Take an answer into account."""
        self._found.setdefault(key, []).append(answer)

    def fail(self, keys: Iterable[str], error: Unanswered) -> None:
        """Take note that there is no answer for these."""
        self._errors.update(dict.fromkeys(keys, error))

    def know_of_none(self, keys: Iterable[str]) -> None:
        """Take note that AWS was asked for these, so that those it does not show are not asked for
        again."""
        for key in keys:
            if key not in self:
                self._found[key] = []

    def update(self, newer: Answers[T]) -> None:
        """Take over newer answers and errors."""
        for key in newer._errors:
            self._found.pop(key, None)
        for key in newer._found:
            self._errors.pop(key, None)
        self._found.update(newer._found)
        self._errors.update(newer._errors)

    def copy(self) -> Answers[T]:
        """The same answers, to add to without changing these."""
        duplicate: Answers[T] = Answers()
        duplicate.update(self)
        return duplicate

    @property
    def error(self) -> Unanswered | None:
        """One of the errors, None where there is none."""
        return next(iter(self._errors.values()), None)

    @property
    def settled(self) -> bool:
        """Whether AWS would say the same of everything, errors included, if it were asked again."""
        return all(error.final for error in self._errors.values())


# The reading edge: every member of an answer is read through these, by name and type. AWS
# leaves some members out to say 'none', or sends an empty text; all others that are missing, empty,
# null or of another type make the row unreadable, instead of being taken for none.


def member(row: Any, name: str, kind: type[T]) -> T:
    """The member of a row that AWS always sends.

    Raises:
        Unreadable: it is missing or an empty text, or not of that type.
    """
    value = row.get(name) if isinstance(row, dict) else None
    if type(value) is kind and value != "":
        return value
    raise Unreadable(f"{name} is {shown(value)}, not of type {kind.__name__}")


def optional_member(row: Any, name: str, kind: type[T]) -> T | None:
    """The member of a row that AWS leaves out to say 'none'."""
    none = isinstance(row, dict) and row.get(name, "") == ""
    return None if none else member(row, name, kind)


def rows_in(row: Any, name: str, *, optional: bool = False) -> list[dict[str, Any]]:
    """The rows of a list in a row."""
    rows = (optional_member if optional else member)(row, name, list) or []
    for item in rows:
        if type(item) is not dict:
            raise Unreadable(f"a row of {name} is {shown(item)}")
    return rows


def tags_of(row: Any) -> dict[str, str]:
    """The tags of a row, key to value."""
    rows = rows_in(row, "Tags", optional=True)
    return {member(tag, "Key", str): optional_member(tag, "Value", str) or "" for tag in rows}


# ======================================================================================
# 4  Nouns
# ======================================================================================
# Named tuples, because every cold start pays for making the classes, and a dataclass takes five
# times as long to make. Each is made from a row of an answer by its `of`.

VXLAN_PORT = 4789
VXLAN = f"udp/{VXLAN_PORT}"
UDP_NUMBER = "17"  # the IANA number, which is how EC2 spells protocols without a name
ANY_PROTOCOL = "-1"


@lru_cache(maxsize=65_536)
def block_bounds(cidr: str) -> tuple[int, int]:
    """First and last address of an IPv4 CIDR block, as numbers. Parsing costs far more than
    comparing, and accounts repeat the same blocks, so each is parsed once, and only if it is
    compared: groups of sensors in other zones are not."""
    try:
        network = IPNetwork(cidr)
    except (AddrFormatError, ValueError):
        network = None
    if network is None or network.version != 4:
        raise Unreadable(f"{shown(cidr)} is not an IPv4 CIDR block")
    return network.first, network.last


class Address(NamedTuple):
    """An IPv4 address."""

    text: str
    number: int

    @classmethod
    @lru_cache(maxsize=65_536)
    def of(cls, text: str) -> Address:
        """The address that a text such as 10.0.0.5 names."""
        try:
            address = IPAddress(text, 4)
        except (AddrFormatError, ValueError):
            raise Unreadable(f"{shown(text)} is not an IPv4 address") from None
        return cls(text, int(address))

    @classmethod
    def primary(cls, interface: Any) -> Address | None:
        """The primary private IPv4 address of an interface: the one that VXLAN packets leave from
        and arrive at. None where there is none (IPv6-only subnets)."""
        for private in rows_in(interface, "PrivateIpAddresses", optional=True):
            if optional_member(private, "Primary", bool) and private.get("PrivateIpAddress"):
                return cls.of(member(private, "PrivateIpAddress", str))
        text = optional_member(interface, "PrivateIpAddress", str)
        return cls.of(text) if text else None

    def is_in(self, cidr: str) -> bool:
        """Whether an IPv4 CIDR block contains the address."""
        first, last = block_bounds(cidr)
        return first <= self.number <= last

    def __str__(self) -> str:
        return self.text


class Interface(NamedTuple):
    """A network interface: a source of mirrored traffic, or one on which a sensor receives.

    Attributes:
        interface_id: empty where it is another account's and cannot be seen.
        host_id: the instance that it is attached to.
        zone: name of its Availability Zone, in the mapping of the account that asked.
        zone_id: the ID of that zone, alike in all accounts; None where an old boto3 drops it.
        is_first: whether it is the one that its instance was launched with (device index 0,
            network card 0).
    """

    interface_id: str
    interface_type: str = "interface"
    host_id: str | None = None
    zone: str | None = None
    zone_id: str | None = None
    vpc_id: str | None = None
    subnet_id: str | None = None
    address: Address | None = None
    group_ids: tuple[str, ...] = ()
    is_first: bool = True

    @classmethod
    def of(cls, row: Any, host_id: str | None = None, placement: Any = None) -> Interface:
        """From a row of DescribeNetworkInterfaces, or from one within a row of DescribeInstances,
        which knows the host, and the placement of all its interfaces."""
        attachment = optional_member(row, "Attachment", dict) or {}
        placed = placement if host_id else row
        return cls(
            interface_id=member(row, "NetworkInterfaceId", str),
            interface_type=optional_member(row, "InterfaceType", str) or "interface",
            host_id=host_id or optional_member(attachment, "InstanceId", str),
            zone=member(placed, "AvailabilityZone", str),
            zone_id=optional_member(placed, "AvailabilityZoneId", str),
            vpc_id=member(row, "VpcId", str),
            subnet_id=member(row, "SubnetId", str),
            address=Address.primary(row),
            group_ids=tuple(member(group, "GroupId", str) for group in rows_in(row, "Groups")),
            is_first=device_position(row) == (0, 0),
        )

    @property
    def sender(self) -> Address:
        """The address that VXLAN packets leave from. Sources without one are never judged."""
        assert self.address
        return self.address

    def zone_as(self, sensor: Sensor) -> str | None:
        """Its Availability Zone as it is compared for a sensor: AWS names zones in the mapping of
        the account that asks, so for one that another account was asked for, by the zone's ID."""
        return self.zone_id if sensor.through_role else self.zone


# The interface of a sensor that another account owns and does not show: the first stage says so.
HIDDEN = Interface("")


def device_position(row: Any) -> tuple[int, int]:
    """Where an interface is attached: device index and network card."""
    attachment = optional_member(row, "Attachment", dict) or {}
    index = optional_member(attachment, "DeviceIndex", int) or 0
    return index, optional_member(attachment, "NetworkCardIndex", int) or 0


class Instance(NamedTuple):
    """An EC2 instance with its network interfaces, in the order of their device index.

    Attributes:
        owner_id: the account that it belongs to.
        managed: whether a service manages it (EKS Auto Mode and others).
        interfaces: those that can be read.
        unreadable: why the others cannot, by interface ID.
    """

    instance_id: str
    owner_id: str | None
    state: str
    instance_type: str
    managed: bool
    tags: Mapping[str, str]
    interfaces: tuple[Interface, ...]
    unreadable: Mapping[str, Unreadable]

    @classmethod
    def of(cls, row: Any) -> Instance:
        """From an instance as `instances_in` finds it in an answer."""
        instance_id = member(row, "InstanceId", str)
        interfaces, unreadable, seen = [], {}, set()
        for interface in sorted(
            rows_in(row, "NetworkInterfaces", optional=True), key=device_position
        ):
            interface_id = member(interface, "NetworkInterfaceId", str)
            if interface_id in seen:
                continue
            seen.add(interface_id)
            try:
                interfaces.append(Interface.of(interface, instance_id, row.get("Placement")))
            except Unreadable as error:
                unreadable[interface_id] = error
        operator = optional_member(row, "Operator", dict) or {}
        return cls(
            instance_id=instance_id,
            owner_id=optional_member(row, "OwnerId", str),
            state=member(member(row, "State", dict), "Name", str),
            instance_type=optional_member(row, "InstanceType", str) or "",
            managed=optional_member(operator, "Managed", bool) or False,
            tags=tags_of(row),
            interfaces=tuple(interfaces),
            unreadable=unreadable,
        )

    @property
    def is_up(self) -> bool:
        """Whether it runs. EC2 may still say pending when its event says running."""
        return self.state in ("running", "pending")

    @property
    def interface_ids(self) -> list[str]:
        """All its interfaces, those that cannot be read included."""
        return [*(interface.interface_id for interface in self.interfaces), *self.unreadable]


class Session(NamedTuple):
    """A traffic mirror session."""

    session_id: str
    interface_id: str
    target_id: str
    number: int
    name: str | None

    @classmethod
    def of(cls, row: Any) -> Session:
        """From a session as EC2 shows it."""
        return cls(
            session_id=member(row, "TrafficMirrorSessionId", str),
            interface_id=member(row, "NetworkInterfaceId", str),
            target_id=member(row, "TrafficMirrorTargetId", str),
            number=optional_member(row, "SessionNumber", int) or 0,
            name=tags_of(row).get("Name"),
        )


class Target(NamedTuple):
    """A traffic mirror target: an interface, or a load balancer whose interfaces are known by
    their descriptions. A shared one may be shown without either."""

    target_id: str
    owner_id: str | None
    interface_id: str | None
    descriptions: tuple[str, ...]

    @classmethod
    def of(cls, row: Any) -> Target:
        """From a target as DescribeTrafficMirrorTargets shows it."""
        descriptions: tuple[str, ...] = ()
        if arn := optional_member(row, "NetworkLoadBalancerArn", str):
            descriptions = (f"ELB {arn.partition(':loadbalancer/')[2]}",)
        elif endpoint := optional_member(row, "GatewayLoadBalancerEndpointId", str):
            # EC2 writes these with and without a colon.
            descriptions = tuple(f"VPC Endpoint Interface{colon} {endpoint}" for colon in ("", ":"))
        return cls(
            target_id=member(row, "TrafficMirrorTargetId", str),
            owner_id=optional_member(row, "OwnerId", str),
            interface_id=optional_member(row, "NetworkInterfaceId", str),
            descriptions=descriptions,
        )

    @property
    def shows_where(self) -> bool:
        """Whether it says on which interfaces it receives."""
        return bool(self.interface_id or self.descriptions)


class SecurityGroup(NamedTuple):
    """What of a security group's inbound rules admits VXLAN: the origins of the rules whose
    protocol and ports match.

    Attributes:
        cidrs: IPv4 blocks.
        references: security groups within the VPC or across an active peering connection.
        unstated: those of which AWS shows no peering status: in the VPC, or somewhere else.
        inactive: those across a peering connection that is not active.
        prefix_list_ids: managed prefix lists.
    """

    group_id: str
    cidrs: tuple[str, ...]
    references: frozenset[str]
    unstated: frozenset[str]
    inactive: frozenset[str]
    prefix_list_ids: tuple[str, ...]

    @classmethod
    def of(cls, row: Any) -> SecurityGroup:
        """From a group as DescribeSecurityGroups shows it."""
        rules = [
            rule
            for rule in rows_in(row, "IpPermissions")
            if covers_vxlan(
                member(rule, "IpProtocol", str), ("udp", UDP_NUMBER), rule, "FromPort", "ToPort"
            )
        ]

        def origins(kind: str) -> list[dict[str, Any]]:
            return [item for rule in rules for item in rows_in(rule, kind, optional=True)]

        by_status: dict[str | None, set[str]] = {}
        for pair in origins("UserIdGroupPairs"):
            status = optional_member(pair, "PeeringStatus", str) or None
            by_status.setdefault(status, set()).add(member(pair, "GroupId", str))
        active, unstated = by_status.pop("active", set()), by_status.pop(None, set())
        return cls(
            group_id=member(row, "GroupId", str),
            cidrs=tuple(member(item, "CidrIp", str) for item in origins("IpRanges")),
            references=frozenset(active),
            unstated=frozenset(unstated),
            inactive=frozenset().union(*by_status.values()),
            prefix_list_ids=tuple(
                member(item, "PrefixListId", str) for item in origins("PrefixListIds")
            ),
        )


def covers_vxlan(protocol: str, spelt: tuple[str, ...], ports: Any, first: str, last: str) -> bool:
    """Whether a rule of a security group or a network ACL is about UDP port 4789. Rules for all
    protocols are about all ports, whatever ports they carry; a range includes both its ends, and
    one of which an end is missing is open on that side only.

    Args:
        protocol: of the rule.
        spelt: how UDP is spelt there.
        ports: where the range of ports stands, under the names `first` and `last`.
    """
    if protocol == ANY_PROTOCOL:
        return True
    low, high = (optional_member(ports, name, int) for name in (first, last))
    open_or_low, open_or_high = low is None or low <= VXLAN_PORT, high is None or high >= VXLAN_PORT
    return protocol in spelt and open_or_low and open_or_high


class AclEntry(NamedTuple):
    """A network ACL entry that is about VXLAN over IPv4."""

    number: int
    allows: bool
    cidr: str


class NetworkAcl(NamedTuple):
    """A network ACL: its entries about VXLAN over IPv4, in ascending rule number."""

    acl_id: str
    inbound: tuple[AclEntry, ...]
    outbound: tuple[AclEntry, ...]

    @classmethod
    def of(cls, row: Any) -> NetworkAcl:
        """From an ACL as DescribeNetworkAcls shows it (its entries come in no particular order)."""
        inbound: list[AclEntry] = []
        outbound: list[AclEntry] = []
        for entry in rows_in(row, "Entries"):
            egress = member(entry, "Egress", bool)
            number, allows = member(entry, "RuleNumber", int), acl_entry_allows(entry)
            if acl_entry_covers_vxlan(entry):
                cidr = member(entry, "CidrBlock", str)
                block_bounds(cidr)  # an entry that cannot be read might be the one that decides
                (outbound if egress else inbound).append(AclEntry(number, allows, cidr))
        acl_id = member(row, "NetworkAclId", str)
        return cls(acl_id, tuple(sorted(inbound)), tuple(sorted(outbound)))


def acl_entry_allows(entry: Any) -> bool:
    """Whether a network ACL entry allows what it matches; the other action is to deny."""
    action = member(entry, "RuleAction", str)
    if action not in ("allow", "deny"):
        raise Unreadable(f"RuleAction is {shown(action)}, not allow or deny")
    return action == "allow"


def acl_entry_covers_vxlan(entry: Any) -> bool:
    """Whether a network ACL entry is about VXLAN over IPv4. ACLs spell protocols as numbers."""
    protocol, ports = member(entry, "Protocol", str), optional_member(entry, "PortRange", dict)
    about_ipv6 = "Ipv6CidrBlock" in entry and not entry.get("CidrBlock")
    return not about_ipv6 and covers_vxlan(protocol, (UDP_NUMBER,), ports or {}, "From", "To")


def deciding_entry(entries: Iterable[AclEntry], address: Address) -> AclEntry | None:
    """The entry that decides: the lowest rule number that matches. None: no match, which denies."""
    return next((entry for entry in entries if address.is_in(entry.cidr)), None)


class NextHop(Enum):
    """What a kind of next hop means for mirrored packets on their way to another VPC."""

    LEADS = "AWS lists it as a way for mirrored traffic"
    UNLISTED = "AWS does not list it for mirrored traffic"
    ASTRAY = "it does not lead to another VPC"


# The member of a route that names its next hop, how the name begins, and what it is. The first
# that fits counts: an instance as next hop is named along with its interface.
NEXT_HOPS = (
    ("GatewayId", "local", "the VPC itself", NextHop.ASTRAY),
    ("GatewayId", "igw-", "internet gateway", NextHop.ASTRAY),
    ("GatewayId", "vpce-", "VPC endpoint", NextHop.LEADS),
    ("GatewayId", "vgw-", "virtual private gateway", NextHop.UNLISTED),
    ("GatewayId", "", "gateway", NextHop.UNLISTED),
    ("NatGatewayId", "", "NAT gateway", NextHop.ASTRAY),
    ("EgressOnlyInternetGatewayId", "", "egress-only internet gateway", NextHop.ASTRAY),
    ("CarrierGatewayId", "", "carrier gateway", NextHop.ASTRAY),
    ("VpcPeeringConnectionId", "", "peering connection", NextHop.LEADS),
    ("TransitGatewayId", "", "transit gateway", NextHop.LEADS),
    ("NetworkInterfaceId", "", "interface", NextHop.LEADS),
    ("InstanceId", "", "instance", NextHop.LEADS),
    ("LocalGatewayId", "", "local gateway", NextHop.UNLISTED),
    ("CoreNetworkArn", "", "Cloud WAN core network", NextHop.UNLISTED),
)


class Route(NamedTuple):
    """A route over IPv4 of a route table.

    Attributes:
        destination: an IPv4 CIDR block, or the ID of a prefix list.
        by_prefix_list: whether it is the latter.
        rank: routes to a smaller block first, and of two to the same one the static one.
        next_hop: kind and ID of where it leads.
        leads: what that means.
    """

    rank: tuple[int, bool]
    destination: str
    by_prefix_list: bool
    state: str
    next_hop: str
    leads: NextHop

    @classmethod
    def of(cls, row: Any) -> Route:
        """From a route as DescribeRouteTables shows it."""
        cidr = optional_member(row, "DestinationCidrBlock", str)
        destination = cidr or member(row, "DestinationPrefixListId", str)
        size = 0
        if cidr:
            first, last = block_bounds(cidr)
            size = last - first
        propagated = optional_member(row, "Origin", str) == "EnableVgwRoutePropagation"
        next_hop, leads = "an unknown next hop", NextHop.UNLISTED
        for name, prefix, kind, meaning in NEXT_HOPS:
            identifier = optional_member(row, name, str)
            if identifier and identifier.startswith(prefix):
                next_hop, leads = f"{kind} {identifier}", meaning
                break
        state = member(row, "State", str)
        return cls((size, propagated), destination, not cidr, state, next_hop, leads)

    @property
    def counts(self) -> bool:
        """Whether it may decide. Prefix lists to a VPC endpoint hold public blocks of AWS's
        services, and a filtered route is not in effect."""
        to_service = self.by_prefix_list and self.next_hop.startswith("VPC endpoint")
        return self.state != "filtered" and not to_service

    def __str__(self) -> str:
        state = "" if self.state == "active" else f" in state {self.state}"
        return f"to {self.destination} by {self.next_hop}{state}"


class RouteTable(NamedTuple):
    """A route table: its routes over IPv4 that may decide, those to smaller blocks first."""

    table_id: str
    routes: tuple[Route, ...]

    @classmethod
    def of(cls, row: Any) -> RouteTable:
        """From a route table as DescribeRouteTables shows it."""
        rows = rows_in(row, "Routes")
        routes = [Route.of(route) for route in rows if "DestinationIpv6CidrBlock" not in route]
        counting = sorted((route for route in routes if route.counts), key=lambda route: route.rank)
        return cls(member(row, "RouteTableId", str), tuple(counting))


# ======================================================================================
# 5  AWS
# ======================================================================================

PAGE = 1_000  # MaxResults of most Describe calls
SMALL_PAGE = 100  # MaxResults of GetManagedPrefixListEntries and DescribeRouteTables
FILTER_VALUES = 200  # EC2 takes no more values in a filter
PARALLEL_CALLS = 32
UNKNOWN_INSTANCE_LOOKS = 3  # an ID may be unknown for seconds after it appears
PAUSE_SECONDS = 1.0  # between two looks at something that EC2 may not show yet
ATTEMPTS = 5
CALL_SECONDS = 10.0  # of one attempt: a fifth to connect, the rest to wait for the answer


class Read(NamedTuple):
    """A Describe call as data.

    Attributes:
        method: boto3's name of the call.
        rows: the rows in a page of its answer.
        row_id: the member with a row's own ID; a row that comes twice counts once.
        filter: the filter by which rows are looked up.
        keys: the values of that filter that a row answers, or what it is looked up by instead.
        other_keys: whether it is looked up by something else than the values of the filter.
        of: from a row to the noun that it is about.
        ids: the parameter that takes IDs.
        page: MaxResults, where it is not the usual one.
    """

    method: str
    rows: Callable[[Any], list[dict[str, Any]]]
    row_id: str
    filter: str
    keys: Callable[[Any], list[str]]
    of: Callable[[Any], Any]
    ids: str = ""
    page: int | None = None
    other_keys: bool = False


def instances_in(page: Any) -> list[dict[str, Any]]:
    """The instances of an answer, each with the owner of its reservation."""
    return [
        {**instance, "OwnerId": reservation.get("OwnerId", "")}
        for reservation in rows_in(page, "Reservations")
        for instance in rows_in(reservation, "Instances")
    ]


def listed(name: str) -> Callable[[Any], list[dict[str, Any]]]:
    """The rows of the list of that name in an answer."""
    return lambda page: rows_in(page, name)


def key(name: str) -> Callable[[Any], list[str]]:
    """Rows are looked up by the member of that name."""
    return lambda row: [member(row, name, str)]


def subnets_of_acl(row: Any) -> list[str]:
    """Network ACLs are looked up by the subnets that they are associated with."""
    return [member(item, "SubnetId", str) for item in rows_in(row, "Associations")]


def subnets_of_route_table(row: Any) -> list[str]:
    """Route tables are looked up by subnet, the main one by its VPC: a subnet without a table of
    its own uses that, and is not named there."""
    return [
        member(row, "VpcId", str)
        if member(item, "Main", bool)
        else optional_member(item, "SubnetId", str) or ""
        for item in rows_in(row, "Associations")
    ]


INSTANCES = Read(
    "describe_instances", instances_in, "InstanceId", "instance-id", key("InstanceId"),
    Instance.of, ids="InstanceIds",
)  # fmt: skip
MIRROR_TARGETS = Read(
    "describe_traffic_mirror_targets", listed("TrafficMirrorTargets"), "TrafficMirrorTargetId",
    "traffic-mirror-target-id", key("TrafficMirrorTargetId"), Target.of,
    ids="TrafficMirrorTargetIds",
)  # fmt: skip
SESSIONS = Read(
    "describe_traffic_mirror_sessions", listed("TrafficMirrorSessions"), "TrafficMirrorSessionId",
    "network-interface-id", key("NetworkInterfaceId"), Session.of,
)  # fmt: skip
INTERFACES = Read(
    "describe_network_interfaces", listed("NetworkInterfaces"), "NetworkInterfaceId",
    "network-interface-id", key("NetworkInterfaceId"), Interface.of, ids="NetworkInterfaceIds",
)  # fmt: skip
# The interfaces of load balancers are found by their descriptions, which takes no permission more.
DESCRIBED_INTERFACES = INTERFACES._replace(filter="description", keys=key("Description"))
SECURITY_GROUPS = Read(
    "describe_security_groups", listed("SecurityGroups"), "GroupId", "group-id", key("GroupId"),
    SecurityGroup.of,
)  # fmt: skip
NETWORK_ACLS = Read(
    "describe_network_acls", listed("NetworkAcls"), "NetworkAclId", "vpc-id", subnets_of_acl,
    NetworkAcl.of, other_keys=True,
)  # fmt: skip
ROUTE_TABLES = Read(
    "describe_route_tables", listed("RouteTables"), "RouteTableId", "vpc-id",
    subnets_of_route_table, RouteTable.of, page=SMALL_PAGE,
    other_keys=True,
)  # fmt: skip


def parallel_calls() -> ThreadPoolExecutor:
    """Where calls that do not need each other's answers go out together.

    Leaving the `with` block waits for all of them and ends the threads. Each future holds its
    call's answer, or its error, which `result()` raises.
    """
    return ThreadPoolExecutor(max_workers=PARALLEL_CALLS)


class Ec2:
    """The EC2 of one account: every call of the function, each in one place.

    Look-ups are by filter where they can be: one ID that does not exist makes a call by ID fail for
    all the others, and answers to calls by ID are not paged.

    Args:
        deadline: what calls keep to.
        role: ARN of the role through which another account is read; None: the own account.
    """

    def __init__(self, deadline: Deadline, role: str | None = None) -> None:
        self.deadline = deadline
        self.role = role
        self._assumed: Future[None] | None = None

    def assume_role(self, threads: Executor) -> None:
        """Begin to get the role's credentials, or to make sure that they are still good
        (AssumeRole). Calls wait for it; where it fails, so do they."""
        role = self.role
        assert role
        self._assumed = threads.submit(
            self._guarded, "AssumeRole", lambda: assumed_credentials(role).get_frozen_credentials()
        )

    def by_filter(self, read: Read, values: Iterable[str]) -> Answers[Any]:
        """What a Describe call shows for these values of its filter, in lists of at most 200
        values, which go out together."""
        answers: Answers[Any] = Answers()
        chunks = chunks_of(values)
        if len(chunks) == 1:
            return self._look_up(read, chunks[0])
        with parallel_calls() as calls:
            for future in [calls.submit(self._look_up, read, chunk) for chunk in chunks]:
                answers.update(future.result())
        return answers

    def _look_up(self, read: Read, values: list[str]) -> Answers[Any]:
        parameters = {
            "Filters": [{"Name": read.filter, "Values": values}],
            "MaxResults": read.page or PAGE,
        }
        wanted = None if read.other_keys else frozenset(values)
        try:
            return self._rows(read, parameters, wanted)
        except Unanswered as error:
            answers: Answers[Any] = Answers()
            answers.fail(values, error)
            return answers

    def by_id(self, read: Read, ids: Iterable[str]) -> Answers[Any]:
        """What a Describe call shows for these IDs, which shows what services manage as well. An
        unknown or malformed ID is an error that names it; the others are then asked for without.
        Where it names none, each half is asked for by itself."""
        answers: Answers[Any] = Answers()
        rest = chunks_of(ids)
        while rest:
            wanted = rest.pop()
            try:
                answers.update(self._rows(read, {read.ids: wanted}, frozenset(wanted)))
            except Unanswered as error:
                if not says_unknown(error):
                    answers.fail(wanted, error)
                    continue
                words = {word.rstrip(".") for word in re.split(r"[\s,;'\"()\[\]]+", error.message)}
                unnamed = [identifier for identifier in wanted if identifier not in words]
                if unnamed != wanted:
                    rest += [unnamed] if unnamed else []
                elif half := len(wanted) // 2:
                    rest += [wanted[:half], wanted[half:]]
        return answers

    def everything(self, read: Read) -> Answers[Any]:
        """All that a Describe call shows."""
        return self._rows(read, {"MaxResults": read.page or PAGE})

    def running_instances(self) -> Iterator[Answers[Instance]]:
        """All running instances of the Region, page by page (DescribeInstances)."""
        running = [{"Name": "instance-state-name", "Values": ["running"]}]
        parameters = {"Filters": running, "MaxResults": PAGE}
        return self._pages(
            INSTANCES.method, parameters, lambda page: collected(INSTANCES, INSTANCES.rows(page))
        )

    def including_managed(self, read: Read, ids: Iterable[str]) -> Answers[Any]:
        """The network interfaces or instances with these IDs. A filter hides those that services
        manage where the runtime's boto3 cannot ask for them."""
        knows = self.knows_managed_resources(read.method)
        return (self.by_filter if knows else self.by_id)(read, ids)

    def prefix_lists(self, prefix_list_ids: Iterable[str]) -> Answers[tuple[str, ...]]:
        """The IPv4 blocks of prefix lists (GetManagedPrefixListEntries, each list by itself)."""
        lists: Answers[tuple[str, ...]] = Answers()
        with parallel_calls() as calls:
            futures = {key: calls.submit(asked, self._prefix_list, key) for key in prefix_list_ids}
        for prefix_list_id, future in futures.items():
            blocks = future.result()
            if isinstance(blocks, Unanswered):
                lists.fail([prefix_list_id], blocks)
            else:
                lists.add(prefix_list_id, blocks)
        return lists

    def _prefix_list(self, prefix_list_id: str) -> tuple[str, ...]:
        def cidrs_in(page: Any) -> list[str]:
            cidrs = [member(row, "Cidr", str) for row in rows_in(page, "Entries")]
            over_ipv4 = [cidr for cidr in cidrs if ":" not in cidr]
            for cidr in over_ipv4:
                block_bounds(cidr)  # one that cannot be read might be the one that admits
            return over_ipv4

        parameters = {"PrefixListId": prefix_list_id, "MaxResults": SMALL_PAGE}
        pages = self._pages("get_managed_prefix_list_entries", parameters, cidrs_in)
        return tuple(cidr for page in pages for cidr in page)

    def route_tables(self, vpc_ids: Sequence[str]) -> Answers[RouteTable]:
        """The route tables of these VPCs, by subnet, the main one by VPC (DescribeRouteTables)."""
        tables: Answers[RouteTable] = self.by_filter(ROUTE_TABLES, vpc_ids)
        tables.know_of_none(vpc_ids)
        return tables

    def create_session(self, parameters: Mapping[str, Any]) -> Session:
        """Create a traffic mirror session (CreateTrafficMirrorSession)."""
        method = "create_traffic_mirror_session"
        answer = self._call(method, parameters)
        with reading(method):
            return Session.of(member(answer, "TrafficMirrorSession", dict))

    def _rows(
        self, read: Read, parameters: dict[str, Any], wanted: frozenset[str] | None = None
    ) -> Answers[Any]:
        """All answers of a Describe call, those that were not asked for left out."""
        pages = self._pages(read.method, parameters, read.rows)
        with reading(read.method):
            return collected(read, (row for rows in pages for row in rows), wanted)

    def _pages(
        self, method: str, parameters: dict[str, Any], of: Callable[[Any], T]
    ) -> Iterator[T]:
        """All pages of an answer, made into what `of` makes of them."""
        tokens: set[str] = set()
        while True:
            page = self._call(method, parameters)
            with reading(method):
                answer, token = of(page), asked(optional_member, page, "NextToken", str)
            del page  # it takes far more room than what was made of it
            yield answer
            with reading(method):
                next_token = told(token)
                if not next_token:
                    return
                if next_token in tokens:
                    raise Unreadable("its NextToken repeats itself without end")
            tokens.add(next_token)
            parameters = {**parameters, "NextToken": next_token}

    def _call(self, method: str, parameters: Mapping[str, Any]) -> Any:
        """One call, its errors told apart."""
        if self._assumed:
            self._assumed.result()

        def call() -> Any:
            client = ec2_client(self.role, self.deadline.call_seconds)
            managed = {"IncludeManagedResources": True} if shows_managed(client, method) else {}
            return getattr(client, method)(**parameters, **managed)

        return self._guarded(operation_of(method), call)

    def _guarded(self, operation: str, call: Callable[[], T]) -> T:
        """What a call of botocore answers.

        Raises:
            Unanswered: there is no answer, whatever botocore or its credentials raise.
        """
        self.deadline.check()
        _calling.deadline, _calling.again = self.deadline, False  # no further attempt yet
        try:
            return call()
        except Unanswered:
            raise
        except ClientError as error:
            # The call itself, or the AssumeRole that it took.
            failed = getattr(error, "operation_name", None) or operation
            raise AwsCallFailed.answered(failed, error, self.role) from error
        except Exception as error:
            raise AwsCallFailed.unanswered(operation, error, self.role) from error

    def knows_managed_resources(self, method: str) -> bool:
        """Whether the runtime's boto3 can ask for what services manage. Where even the client
        cannot be made, the call will tell why."""
        try:
            return shows_managed(ec2_client(self.role, self.deadline.call_seconds), method)
        except Exception:  # noqa: BLE001
            return True


def collected(
    read: Read, rows: Iterable[Any], wanted: frozenset[str] | None = None
) -> Answers[Any]:
    """The answers in the rows of a Describe call, less those to what was not asked (None: all are
    wanted). A row that cannot be read is an error for those who need it; one that does not say whom
    it is about is raised. A row that comes twice counts once."""
    answers: Answers[Any] = Answers()
    seen: set[str] = set()
    for row in rows:
        row_id = row.get(read.row_id)
        if isinstance(row_id, str):
            if row_id in seen:
                continue
            seen.add(row_id)
        keys = [key for key in read.keys(row) if wanted is None or key in wanted]
        try:
            answer = read.of(row)
        except Unreadable as error:
            answers.fail(keys, error.in_answer_of(read.method))
            continue
        for key_of_row in keys:
            answers.add(key_of_row, answer)
    return answers


def chunks_of(values: Iterable[str]) -> list[list[str]]:
    """IDs in lists of as many as a filter takes. No ID has a wildcard in it, but a configured one
    with a slip of the pen may, and the filter would then show what nobody asked for; nor is one of
    a length for which EC2 would refuse the whole call."""
    possible = re.compile(rf"[^*?\\]{{1,{LONGEST_ID}}}")
    wanted = sorted({value for value in values if possible.fullmatch(value)})
    return [wanted[at : at + FILTER_VALUES] for at in range(0, len(wanted), FILTER_VALUES)]


def operation_of(method: str) -> str:
    """The API operation behind a method of boto3: DescribeInstances for describe_instances."""
    return "".join(word.capitalize() for word in method.split("_"))


def says_unknown(error: Unanswered) -> TypeGuard[AwsCallFailed]:
    """Whether a call by ID says that IDs are unknown or malformed. Of traffic mirror targets users
    report InvalidTrafficMirrorTargetId.NotFound; EC2's list of error codes has
    InvalidTrafficMirrorTargetNoFound."""
    return (
        isinstance(error, AwsCallFailed)
        and error.failure is Failure.REFUSED
        and error.code.endswith(("NotFound", "NoFound", ".Malformed"))
    )


# Clients. They, and the credentials of roles, outlive an invocation.

_client: Any = None  # the own account's, with the usual timeouts
_clients: dict[tuple[str | None, float], Any] = {}  # all others, by role and timeouts
_credentials: dict[str, Any] = {}  # by role
_client_lock = threading.RLock()
_loader: Any = None  # reads botocore's models: a client costs 10 ms with them and 100 ms without
_calling = threading.local()  # what the thread's present call has to keep to


def ec2_client(role: str | None = None, call_seconds: float = CALL_SECONDS) -> Any:
    """An EC2 client, made at first use and shared by all threads.

    Args:
        role: ARN of the role through which another account is read; None: the own account.
        call_seconds: how long one attempt of a call may take.
    """
    global _client
    usual = role is None and call_seconds == CALL_SECONDS
    with _client_lock:
        client = _client if usual else _clients.get((role, call_seconds))
        if client is None:
            credentials = assumed_credentials(role) if role else None
            client = make_client("ec2", call_seconds, credentials)
            if usual:
                _client = client
            else:
                _clients[role, call_seconds] = client
    return client


def make_client(service: str, call_seconds: float, credentials: Any = None, **keys: Any) -> Any:
    """A client of EC2 or STS that tries again like botocore's, but never in the reserve."""
    global _loader
    session = botocore.session.get_session()
    if _loader is None:
        _loader = session.get_component("data_loader")
    session.register_component("data_loader", _loader)
    if credentials:
        session.register_component(
            "credential_provider", SimpleNamespace(load_credentials=lambda: credentials)
        )
    config = Config(
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        connect_timeout=call_seconds / 5,
        read_timeout=call_seconds * 4 / 5,
        max_pool_connections=2 * PARALLEL_CALLS,
    )
    # From a session of our own: boto3's default session is not safe under threads while it makes a
    # client.
    client = boto3.session.Session(botocore_session=session).client(service, config=config, **keys)
    keep_to_deadline(client, service)
    return client


def assumed_credentials(role: str) -> Any:
    """The credentials of a role in another account, which botocore gets by AssumeRole and renews
    before they expire. The session's name tells the owner which function it is that reads."""
    with _client_lock:
        if role not in _credentials:
            source = boto3.session.Session().get_credentials()
            if source is None:
                raise NoCredentialsError
            name = os.environ.get("AWS_LAMBDA_FUNCTION_NAME", __name__)
            session_name = re.sub(r"[^\w+=,.@-]", "-", name, flags=re.ASCII)[:64]
            fetcher = AssumeRoleCredentialFetcher(
                sts_client,
                source,
                role,
                extra_args={"RoleSessionName": session_name},
            )
            _credentials[role] = DeferredRefreshableCredentials(
                fetcher.fetch_credentials, "assume-role"
            )
        return _credentials[role]


def sts_client(service: str, **keys: Any) -> Any:
    """The client by which botocore assumes a role."""
    return make_client(service, _calling.deadline.call_seconds, **keys)


def shows_managed(client: Any, method: str) -> bool:
    """Whether a call takes `IncludeManagedResources` and this boto3 knows it. Without, EC2 hides
    from lists and filters what services such as EKS Auto Mode manage."""
    shape = client.meta.service_model.operation_model(operation_of(method)).input_shape
    return shape is not None and "IncludeManagedResources" in shape.members


class PunctualBucket(TokenBucket):  # type: ignore[misc]
    """The tokens of botocore's adaptive rate limiter, whose waits keep to the deadline."""

    def acquire(self, amount: int = 1, block: bool = True) -> Any:
        """Take a token, or wait for one unless that would end in the reserve."""
        while True:
            try:
                return super().acquire(amount, block=False)
            except CapacityNotAvailableError:
                missing = amount - self.available_capacity
                _calling.deadline.sleep(max(missing / self.max_rate, 0.01))


def keep_to_deadline(client: Any, service: str) -> None:
    """Begin no further attempt in the reserve, and no wait that would end there: not the backoff
    between two attempts, and not the pause by which botocore's adaptive mode slows down."""
    backoff = standard.register_retry_handler(client, max_attempts=ATTEMPTS)

    def check(**_: object) -> None:
        if _calling.again:
            _calling.deadline.check()
        _calling.again = True

    def needs_retry(**event: Any) -> float | None:
        seconds: float | None = backoff.needs_retry(**event)
        # Without time for another attempt, what the last one came to stands.
        return seconds if seconds is None or _calling.deadline.allows(seconds) else None

    events = client.meta.events
    handler = {"event_name": f"needs-retry.{service}", "unique_id": f"retry-config-{service}"}
    events.unregister(**handler)
    events.register(handler=needs_retry, **handler)
    events.register(f"request-created.{service}", check)
    limiter = adaptive.register_retry_handler(client)
    limiter._token_bucket = PunctualBucket(max_rate=1, clock=Clock())  # noqa: SLF001


class Sessions:
    """The traffic mirror sessions of the Region: by source interface, and how many a target has.

    Args:
        answers: the sessions that there are, by interface.
    """

    def __init__(self, answers: Answers[Session]) -> None:
        self._by_interface = answers
        self._ids: set[str] = {session.session_id for session in answers.every()}
        self.per_target = Counter(session.target_id for session in answers.every())
        self._chosen: Counter[str] = Counter()

    def of(self, interface_id: str, ours: Container[str]) -> tuple[Session, ...]:
        """The interface's sessions, those to our targets first, then by session number.

        Raises:
            Unanswered: one of them cannot be read.
        """
        sessions = self._by_interface.all(interface_id)
        if len(sessions) < 2:
            return tuple(sessions)
        return tuple(sorted(sessions, key=lambda s: (s.target_id not in ours, s.number)))

    def count(self, target_id: str) -> int:
        """How many sessions the target has, those that were chosen in this invocation included."""
        return self.per_target[target_id] + self._chosen[target_id]

    def choose(self, target_id: str) -> None:
        """A session to the target is going to be created."""
        self._chosen[target_id] += 1

    def give_up(self, target_id: str) -> None:
        """No, it is not."""
        self._chosen[target_id] -= 1

    def add_created(self, chosen_target_id: str, session: Session) -> None:
        """A session that was chosen is there, as a rule to the target that was chosen."""
        self.give_up(chosen_target_id)
        self._ids.add(session.session_id)
        self.per_target[session.target_id] += 1

    def hidden_among(self, sessions: Iterable[Session]) -> list[Session]:
        """Those of the sessions that a sensor's owner sees that cannot be seen here."""
        return [session for session in sessions if session.session_id not in self._ids]


# ======================================================================================
# 6  Region
# ======================================================================================

HOME = ""  # the own account, where accounts are told apart


class Sensor(NamedTuple):
    """A configured traffic mirror target and the interfaces on which it receives.

    Attributes:
        through_role: whether the account that owns it was asked, through a role.
        unseen: whether it belongs to an account that nobody may ask, and that shows less of it.
        missing: why it cannot be used at all, where it cannot.
        failure: the error of the call that should have shown it.
    """

    target_id: str
    behind_load_balancer: bool = False
    through_role: bool = False
    unseen: bool = False
    interfaces: tuple[Interface, ...] = ()
    missing: str | None = None
    failure: Unanswered | None = None


class Facts(NamedTuple):
    """What one account shows of the sensors, and of what stands around them.

    Attributes:
        account: HOME, or the ID of an account that is read through a role.
        read_at: Unix time in seconds at which the reading began.
        sensors: by target ID.
        groups: security groups of the sensors' interfaces, by ID.
        acls: network ACLs by subnet, of the VPCs of sensors and, at home, of sources.
        hosts: the instances that the sensors' interfaces are attached to, by ID.
        hidden_sessions: those that this account sees and the own one does not.
        targets: at home, all targets that are visible.
        prefix_lists: by ID, the IPv4 blocks of those that a rule named while nothing else admitted
            the packet.
        route_tables: at home, by subnet (the main one by VPC), where a sensor is in another VPC.
        from_cache: whether an earlier invocation has read them.
    """

    account: str
    read_at: float
    sensors: Mapping[str, Sensor]
    groups: Answers[SecurityGroup]
    acls: Answers[NetworkAcl]
    hosts: Answers[Instance]
    hidden_sessions: Sequence[Session]
    targets: Answers[Target]
    prefix_lists: Answers[tuple[str, ...]]
    route_tables: Answers[RouteTable]
    from_cache: bool = False

    @property
    def error(self) -> Unanswered | None:
        """Why they are incomplete; None where every call came to an answer. At home hosts are read
        with every event; what is asked for later counts in `remember_facts`."""
        errors = [sensor.failure for sensor in self.sensors.values()]
        errors += [self.groups.error, self.acls.error]
        errors += [self.hosts.error if self.account else None]
        return next(filter(None, errors), None)


def interfaces_of(sensors: Iterable[Sensor]) -> list[Interface]:
    """The interfaces on which these sensors receive."""
    return [interface for sensor in sensors for interface in sensor.interfaces]


def hosts_of(sensors: Iterable[Sensor]) -> set[str]:
    """The instances that these interfaces are attached to."""
    return {interface.host_id for interface in interfaces_of(sensors) if interface.host_id}


class Sensors:
    """The configured sensors, derived from what is known of targets and accounts. Whoever learns
    something new makes these anew, so that nothing derived can be older than what it is from.

    Args:
        configured: IDs of targets, and accounts.
        own_account: the function's account, as far as it is known.
        targets: all targets that are visible here, or why that is not known.
        facts: by account.
    """

    def __init__(
        self,
        configured: Sequence[str],
        own_account: str | None,
        targets: Answers[Target] | Unanswered,
        facts: Mapping[str, Facts],
    ) -> None:
        self._configured = configured
        self._own_account = own_account
        self._targets = targets
        self._facts = facts

    @property
    def targets(self) -> Answers[Target]:
        """All targets that are visible here, those that other accounts share included."""
        return told(self._targets)

    @cached_property
    def ids(self) -> Mapping[str, None]:
        """The IDs of the configured targets, in configured order; an account stands for all of its
        targets that are visible here."""
        if not any(map(is_account, self._configured)):
            return dict.fromkeys(self._configured)
        owned: dict[str | None, list[str]] = {}
        for target in self.targets.every():
            owned.setdefault(target.owner_id, []).append(target.target_id)
        ids: dict[str, None] = {}
        for entry in self._configured:
            known = sorted(owned.get(entry, ())) if is_account(entry) else [entry]
            ids.update(dict.fromkeys(known))
        return ids

    @cached_property
    def accounts_without_targets(self) -> list[str]:
        """Configured accounts that show no target here."""
        owners = {target.owner_id for target in self.targets.every()}
        return [entry for entry in self._configured if is_account(entry) and entry not in owners]

    @cached_property
    def _interface_ids(self) -> tuple[frozenset[str], frozenset[str]]:
        """The interfaces of all targets, and those of ours."""
        if error := self.targets.error:
            raise error
        by_target: dict[str, str] = {}
        for target in self.targets.every():
            if target.interface_id:
                by_target[target.target_id] = target.interface_id
            elif not target.descriptions and target.owner_id in (None, self._own_account):
                raise Unreadable(f"target {target.target_id} does not say where it receives")
        ours = frozenset(by_target[key] for key in self.ids if key in by_target)
        return frozenset(by_target.values()), ours

    def why_no_source(self, source: Interface, instance: Instance) -> str | None:
        """Why mirroring the interface would mirror a sensor; None where it would not. AWS refuses
        the interface of any target as a source. The other interfaces of an instance that hosts a
        sensor of ours it does not refuse, but what they send into the sensor would loop."""
        of_all, of_ours = self._interface_ids
        if source.interface_id in of_all:
            return "The interface is a sensor's own, and mirroring it into a sensor would loop"
        for interface_id in instance.interface_ids:
            if interface_id in of_ours:
                return f"The instance hosts a sensor (interface {interface_id}), and would loop"
        return None

    @cached_property
    def judged(self) -> Mapping[str, tuple[Sensor, Facts]]:
        """By ID, in configured order: each sensor, with what its account shows."""
        known = {
            key: (sensor, facts)
            for facts in self._facts.values()
            for key, sensor in facts.sensors.items()
        }
        return {key: known[key] for key in self.ids if key in known}

    @cached_property
    def hidden_sessions(self) -> Mapping[str, int]:
        """By target, how many sessions only its owner sees."""
        return Counter(s.target_id for facts in self._facts.values() for s in facts.hidden_sessions)


class Region:
    """What is known of sessions, targets and sensors, and how it is read. What nobody needs is not
    waited for, and a failed call raises its error where its answer is needed.

    Attributes:
        facts: by account.
        sensors: derived from the rest, anew whenever there is more to derive it from.
        renewal_error: why what is cached could not be read afresh.

    Args:
        configuration: which targets are ours, and which roles lead to other accounts.
        deadline: what calls keep to.
        own: the function's account and Region.
    """

    def __init__(self, configuration: Configuration, deadline: Deadline, own: Own) -> None:
        self.configuration = configuration
        self.deadline = deadline
        self.own = own
        self.home = Ec2(deadline)
        self.accounts = {HOME: self.home}
        for account, role in configuration.sensor_roles:
            if account != own.account:
                self.accounts[account] = Ec2(deadline, role)
        self.facts: dict[str, Facts] = {}
        self.renewal_error: Unanswered | None = None
        self._own_account = own.account
        self._sessions: Sessions | Unanswered = OutOfTime()  # until they are read
        self._targets: Answers[Target] | Unanswered = OutOfTime()
        self._looked_for: Answers[Target] = Answers()
        self._renewed = False
        self._source_vpc_ids: set[str] = set()
        self._derive()

    def _derive(self) -> None:
        configured = self.configuration.targets
        self.sensors = Sensors(configured, self._own_account, self._targets, self.facts)

    @property
    def sessions(self) -> Sessions:
        """The sessions of the Region."""
        return told(self._sessions)

    def count(self, target_id: str) -> int:
        """How many sessions the target has, as far as anybody who may be asked sees them, and with
        those that were chosen in this invocation."""
        return self.sessions.count(target_id) + self.sensors.hidden_sessions.get(target_id, 0)

    @property
    def error(self) -> Unanswered | None:
        """Why sessions or targets are not known; None where they are."""
        return next((a for a in (self._sessions, self._targets) if isinstance(a, Unanswered)), None)

    def sessions_per_own_target(self) -> dict[str, int]:
        """How many sessions each configured target has that this account owns; empty where AWS did
        not say."""
        if self.error:
            return {}
        owners = {target.target_id: target.owner_id for target in self.sensors.targets.every()}
        counts = self.sessions.per_target
        return {
            target_id: counts[target_id]
            for target_id in self.sensors.ids
            if target_id in owners and self._own_account in (None, owners[target_id])
        }

    # The first reads

    def read_first(self, work: Work) -> Answers[Instance]:
        """Read what every outcome needs, in one round trip: the instances that are named, the
        sessions, and the targets where they are not cached. Sweeps read their instances page by
        page, later, and take nothing from the cache."""
        self.facts = {} if work.sweep else cached_facts(self.configuration)
        home = self.facts.get(HOME)
        host_ids = hosts_of(home.sensors.values()) if home else ()
        with parallel_calls() as calls:
            named = calls.submit(self._read_instances, work.instances, host_ids)
            sessions = calls.submit(asked, self.home.everything, SESSIONS)
            self._assume_roles()
            self._targets = home.targets if home else asked(self.home.everything, MIRROR_TARGETS)
        instances, answer = named.result(), sessions.result()
        self._sessions = answer if isinstance(answer, Unanswered) else Sessions(answer)
        if isinstance(self._sessions, Sessions):
            # A session that was too new to be seen here when its owner was asked is seen by now.
            for account, facts in self.facts.items():
                hidden = self._sessions.hidden_among(facts.hidden_sessions)
                self.facts[account] = facts._replace(hidden_sessions=hidden)
        if home:
            self.facts[HOME] = home._replace(hosts=instances)
        self.learn_own_account(instances)
        self._derive()
        return instances

    def _read_instances(
        self, requests: Mapping[str, Request], host_ids: Iterable[str]
    ) -> Answers[Instance]:
        """The instances asked for, and those that host sensors in the same call. EC2 may not know
        an instance for seconds after it has appeared, and hides from filters what services manage,
        so unknown ones are asked for again by their IDs; not those of events from elsewhere."""
        instances = self.home.by_filter(INSTANCES, [*requests, *host_ids])
        ours = [key for key, request in requests.items() if not self.own.elsewhere(request)]
        for _ in range(UNKNOWN_INSTANCE_LOOKS - 1):
            unknown = [key for key in ours if key not in instances]
            if not unknown:
                break
            try:
                self.deadline.sleep(PAUSE_SECONDS)
            except OutOfTime as error:
                instances.fail(unknown, error)
                break
            instances.update(self.home.by_id(INSTANCES, unknown))
        return instances

    def _assume_roles(self) -> None:
        """Begin to assume the roles whose accounts are not cached. Nobody waits for one that he
        does not need, so the threads are not joined; they begin no attempt after the invocation."""
        lacking = [account for account in self.accounts if account not in {HOME, *self.facts}]
        if not lacking:
            return
        threads = ThreadPoolExecutor(max_workers=len(lacking))
        for account in lacking:
            self.accounts[account].assume_role(threads)
        threads.shutdown(wait=False)

    def learn_own_account(self, instances: Answers[Instance]) -> None:
        """The own account is the function's; without that, the owner of the instances. The owner of
        an interface may be another."""
        if self._own_account is None:
            owners = (instance.owner_id for instance in instances.every())
            self._own_account = next(filter(None, owners), None)
            self._derive()

    def running_instances(self) -> Iterator[Answers[Instance]]:
        """All running instances, page by page."""
        if not self.home.knows_managed_resources(INSTANCES.method):
            logger.warning(
                "This runtime's boto3 cannot list instances that services manage (EKS Auto Mode, "
                "ECS Managed Instances and others); only their events can have them mirrored."
            )
        for page in self.home.running_instances():
            self.learn_own_account(page)
            yield page

    # The sensors

    def learn_of_sensors(self, sources: Sequence[Interface]) -> None:
        """Make sure that what the stages need to know for these sources has been read."""
        vpc_of = {s.subnet_id: s.vpc_id for s in sources if s.subnet_id and s.vpc_id}
        new_vpc_ids = set(vpc_of.values()) - self._source_vpc_ids
        self._source_vpc_ids |= new_vpc_ids
        known = {key for facts in self.facts.values() for key in facts.sensors}
        # Accounts are cached apart, so a target that one of them has since got may be unknown.
        new = {self._reader_of(key) for key in self.sensors.ids if key not in known}
        lacking = sorted(new if HOME in self.facts else new | {HOME})
        if lacking:
            self.facts.update(self._read_accounts(lacking))
            self._derive()
        acls = self.facts[HOME].acls
        if HOME not in lacking:
            # A subnet may be newer than the cache; a sweep comes to VPCs that have no sensor.
            vpc_ids = {vpc_id for subnet, vpc_id in vpc_of.items() if subnet not in acls}
            acls.update(self.home.by_filter(NETWORK_ACLS, vpc_ids & new_vpc_ids))
        # Errors are known by VPC; a subnet without an ACL is not asked for again.
        acls.know_of_none(subnet for subnet, vpc_id in vpc_of.items() if vpc_id not in acls)

    def _accounts(self) -> list[str]:
        """The accounts to be read: the own one, and those that own a target of ours and have a
        role."""
        owners = {self._reader_of(key) for key in self.sensors.ids}
        return [HOME, *sorted(owners - {HOME})]

    def _reader_of(self, target_id: str) -> str:
        """The account in which a target's interfaces are looked up."""
        target = asked(self.sensors.targets.one, target_id)
        owner = target.owner_id if isinstance(target, Target) else None
        return owner if owner in self.accounts and owner != self._own_account else HOME

    def _read_accounts(self, accounts: Sequence[str]) -> dict[str, Facts]:
        """What these accounts show, read together."""
        if len(accounts) == 1:
            return {accounts[0]: self._read_account(accounts[0])}
        with parallel_calls() as calls:
            futures = {account: calls.submit(self._read_account, account) for account in accounts}
        return {account: future.result() for account, future in futures.items()}

    def _read_account(self, account: str) -> Facts:
        """Read what the stages need to know of an account's sensors, in two round trips; in one
        more where this account shows targets without their interfaces."""
        read_at = time.time()
        ids = [key for key in self.sensors.ids if self._reader_of(key) == account]
        ec2 = self.accounts[account]
        with parallel_calls() as calls:
            sessions = calls.submit(asked, ec2.everything, SESSIONS) if account != HOME else None
            targets = self._placed_targets(ec2, ids)
            wanted = frozenset(ids)
            ours = [target for target in targets.every() if target.target_id in wanted]
            interface_ids = [target.interface_id for target in ours if target.interface_id]
            descriptions = [text for target in ours for text in target.descriptions]
            by_id = calls.submit(ec2.including_managed, INTERFACES, interface_ids)
            described = calls.submit(ec2.by_filter, DESCRIBED_INTERFACES, descriptions)
            interfaces = by_id.result()
            interfaces.update(described.result())
            sensors = {key: self._sensor(key, targets, interfaces, account) for key in ids}
            received_on = interfaces_of(sensors.values())
            vpc_ids = {interface.vpc_id for interface in received_on if interface.vpc_id}
            if account == HOME:
                vpc_ids |= self._source_vpc_ids
            group_ids = [key for interface in received_on for key in interface.group_ids]
            groups = calls.submit(ec2.by_filter, SECURITY_GROUPS, group_ids)
            acls = calls.submit(ec2.by_filter, NETWORK_ACLS, vpc_ids)
            hosts = calls.submit(ec2.including_managed, INSTANCES, hosts_of(sensors.values()))
        hidden: list[Session] = []
        seen = sessions.result() if sessions else Answers()
        if isinstance(seen, Unanswered):
            sensors = {key: sensor._replace(failure=seen) for key, sensor in sensors.items()}
        elif not isinstance(self._sessions, Unanswered):
            hidden = self._sessions.hidden_among(seen.every())
        return Facts(
            account=account,
            read_at=read_at,
            sensors=sensors,
            groups=groups.result(),
            acls=acls.result(),
            hosts=hosts.result(),
            hidden_sessions=hidden,
            targets=targets if account == HOME else Answers(),
            prefix_lists=Answers(),
            route_tables=Answers(),
        )

    def _placed_targets(self, ec2: Ec2, ids: Iterable[str]) -> Answers[Target]:
        """The targets, from the account that owns them where they are shown here without their
        interfaces."""
        here = self.sensors.targets
        if ec2.role is None:
            return here
        shown = {key: here.one(key) for key in ids}
        placed = ec2.by_filter(
            MIRROR_TARGETS, [k for k, t in shown.items() if t and not t.shows_where]
        )
        for target_id, target in shown.items():
            if target and target.shows_where:
                placed.add(target_id, target)
        return placed

    def _sensor(
        self, target_id: str, targets: Answers[Target], interfaces: Answers[Interface], account: str
    ) -> Sensor:
        """A sensor, from its target and from interfaces by ID and by description."""
        sensor = Sensor(target_id, through_role=bool(account))
        try:
            target = targets.one(target_id)
            if target is None:
                missing = f"There is no traffic mirror target {target_id}"
                return sensor._replace(missing=missing)
            keys = (target.interface_id,) if target.interface_id else target.descriptions
            found = tuple(interface for key in keys for interface in interfaces.all(key))
        except Unanswered as error:
            return sensor._replace(failure=error)
        foreign = not account and bool(
            self._own_account and target.owner_id and target.owner_id != self._own_account
        )
        sensor = sensor._replace(
            behind_load_balancer=bool(target.descriptions),
            unseen=foreign,
            interfaces=found,
        )
        if found:
            return sensor
        if foreign:
            return sensor._replace(interfaces=(HIDDEN,))
        if not target.shows_where:
            return sensor._replace(missing="The target shows no interface and no load balancer")
        what = (
            f"Network interface {target.interface_id}"
            if target.interface_id
            else "The load balancer"
        )
        return sensor._replace(missing=f"{what} of the target does not exist")

    def look_up(self, wanted: Iterable[tuple[str, str, str]]) -> None:
        """Read what is asked for only where it decides; see NotAskedYet."""
        ids: dict[tuple[str, str], list[str]] = {}
        for account, kind, key in wanted:
            ids.setdefault((account, kind), []).append(key)
        for (account, kind), keys in ids.items():
            answers = getattr(self.accounts[account], kind)(keys)
            getattr(self.facts[account], kind).update(answers)

    @property
    def may_be_stale(self) -> bool:
        """Whether some of what is known is cached, and has not been read afresh yet."""
        return not self._renewed and any(facts.from_cache for facts in self.facts.values())

    def renew(self) -> None:
        """Read afresh what is cached. What cannot be read leaves what is cached to those whom it
        serves; for those whom it does not, there is `renewal_error`."""
        self._renewed = True
        targets = asked(self.home.everything, MIRROR_TARGETS)
        if isinstance(targets, Unanswered):
            self.renewal_error = targets
            return
        self._targets = targets
        self._derive()
        for account, facts in self._read_accounts(self._accounts()).items():
            failed = facts.error or facts.hosts.error
            if failed and account in self.facts and self.facts[account].from_cache:
                self.renewal_error = failed
            else:
                self.facts[account] = facts
        self._derive()

    # Sessions that exist

    def look_for_targets(self, sessions: Iterable[Session]) -> None:
        """Ask for the targets of sessions that are not among the visible ones."""
        ids = {session.target_id for session in sessions}
        unknown = [t for t in ids if t not in self.sensors.targets and t not in self._looked_for]
        self._looked_for.update(self.home.by_id(MIRROR_TARGETS, unknown))
        self._looked_for.know_of_none(unknown)

    def target_is_gone(self, target_id: str) -> bool:
        """Whether a session's target is neither visible nor found by its ID: it has been deleted,
        or is shared no more."""
        if target_id in self.sensors.targets:
            return False
        return self._looked_for.one(target_id) is None

    def close(self) -> None:
        """Keep for later invocations what there is to keep, and let nothing be begun any more."""
        remember_facts(self.configuration, self.facts.values())
        self.deadline.close()


_cache: Mapping[str, tuple[Configuration, Facts]] | None = None  # by account
_cache_lock = threading.Lock()


def cached_facts(configuration: Configuration) -> dict[str, Facts]:
    """What an earlier invocation in this environment knew of the sensors, by account, as far as it
    is fresh enough and was read for the same configuration."""
    with _cache_lock:
        kept = dict(_cache or {})
    # The wall clock, because Lambda freezes the environment between invocations, and with it
    # clocks that count from its start. Lookups that an invocation adds to are its own.
    now = time.time()
    return {
        account: facts._replace(
            acls=facts.acls.copy(),
            prefix_lists=facts.prefix_lists.copy(),
            route_tables=facts.route_tables.copy(),
            from_cache=True,
        )
        for account, (read_for, facts) in kept.items()
        if read_for == configuration and 0 <= now - facts.read_at < configuration.cache_seconds
    }


def remember_facts(configuration: Configuration, known: Iterable[Facts]) -> None:
    """Keep what is known of each account for later invocations, unless it is incomplete or newer
    facts are kept."""
    global _cache
    if not configuration.cache_seconds:
        return
    with _cache_lock:
        kept = {k: v for k, v in (_cache or {}).items() if v[0] == configuration}
        for facts in known:
            newest = kept[facts.account][1].read_at if facts.account in kept else 0.0
            complete = not facts.error and facts.prefix_lists.settled and facts.route_tables.settled
            if complete and newest <= facts.read_at:
                kept[facts.account] = configuration, facts
        _cache = kept


# ======================================================================================
# 7  Judging
# ======================================================================================
# Nothing in this section calls AWS. A stage looks at a source and at an interface of a sensor and
# says whether mirrored packets may pass, with the evidence. It is asked for sources with an address
# only. Where it lacks an answer it raises Unanswered.


class Says(Enum):
    """What a verdict comes to."""

    PASSES = "packets pass, as far as can be seen"
    REJECTS = "packets do not pass"
    UNSETTLED = "rejected, but what may not be read could say otherwise"
    UNSEEN = "what would decide exists, but cannot be seen from this account"


class Verdict(NamedTuple):
    """What a stage says, or all stages together.

    Attributes:
        says: whether packets pass.
        reason: the evidence: the rule, the zone, the ACL; without a full stop. Empty where there
            is nothing to tell.
        stage: the stage that rejects; None where it passed, or in the verdict of one stage.
        ranked_last: it passes, but something speaks against it.
    """

    says: Says
    reason: str = ""
    stage: str | None = None
    ranked_last: bool = False

    @property
    def passes(self) -> bool:
        """Whether packets pass."""
        return self.says is Says.PASSES


PASSES = Verdict(Says.PASSES)


def passes(reason: str, ranked_last: bool = False) -> Verdict:
    """Packets pass, and why."""
    return Verdict(Says.PASSES, reason, ranked_last=ranked_last)


def rejects(reason: str, says: Says = Says.REJECTS) -> Verdict:
    """Packets do not pass, or nobody can tell, and why."""
    return Verdict(says, reason)


class Known(NamedTuple):
    """Everything a stage may look at besides the two interfaces.

    Attributes:
        sensor: the sensor whose interface it is.
        there: what the sensor's account shows.
        here: what the own account shows.
        refused: targets that AWS has refused in this invocation, with the reason.
        other_zones: whether sensors outside of the source's zone are being tried.
        out_of_zone: by zone, the verdict on all sources of a zone that the sensor is not in.
    """

    configuration: Configuration
    sensor: Sensor
    there: Facts
    here: Facts
    refused: Mapping[str, str]
    out_of_zone: dict[tuple[str | None, str | None], Verdict]
    other_zones: bool = False


def recognised(source: Interface, sensor: Interface, known: Known) -> Verdict:
    """Instances behind a load balancer cannot be recognised as sensors, and one that is mirrored
    feeds on itself. So the operator has to say by tags which instances are meant."""
    if known.sensor.behind_load_balancer and not known.configuration.selects_by_tag:
        return rejects(
            "Instances behind a load balancer cannot be recognised as sensors and would be "
            "mirrored into themselves; set INCLUDE_TAGS or EXCLUDE_TAGS so that they are left out"
        )
    return PASSES


def runs(source: Interface, sensor: Interface, known: Known) -> Verdict:
    """AWS refuses a target whose instance does not run. An unattached interface is not judged."""
    if sensor is HIDDEN:
        return rejects("The interface of the target belongs to another account", Says.UNSEEN)
    if sensor.address is None:
        return rejects(f"Sensor interface {sensor.interface_id} has no IPv4 address")
    host = known.there.hosts.one(sensor.host_id) if sensor.host_id else None
    if host and host.state != "running":
        return rejects(f"The sensor's instance {host.instance_id} is {host.state}")
    return PASSES


def in_zone(source: Interface, sensor: Interface, known: Known) -> Verdict:
    """Mirroring across Availability Zones costs extra per GB, so sensors of the zone come first."""
    theirs, mine = sensor.zone_as(known.sensor), source.zone_as(known.sensor)
    if not theirs or not mine:
        return rejects("Which Availability Zone the sensor is in cannot be seen", Says.UNSEEN)
    if theirs == mine:
        return passes(f"in {theirs} like the interface")
    if known.other_zones:
        return passes(f"in {theirs}, because no sensor in {mine} can take it")
    return rejects(f"The sensor is in {theirs}, the interface in {mine}")


def in_vpc(source: Interface, sensor: Interface, known: Known) -> Verdict:
    """Another VPC is out of the question only with LOCAL_VPC_ONLY."""
    if known.configuration.local_vpc_only and in_other_vpc(source, sensor):
        return rejects(f"The sensor is in {sensor.vpc_id}, the interface in {source.vpc_id}")
    return PASSES


def in_other_vpc(source: Interface, sensor: Interface) -> bool:
    """Whether the sensor's interface is known to be in another VPC."""
    return sensor.vpc_id not in (None, source.vpc_id)


def security_groups_admit(source: Interface, sensor: Interface, known: Known) -> Verdict:
    """The sensor's security groups are a union of allow rules: one that admits the packet is
    enough. The source's own outbound rules do not apply to mirrored traffic."""
    if not sensor.group_ids:
        return passes("it has no security group to filter")
    answers = {key: asked(known.there.groups.one, key) for key in sensor.group_ids}
    groups = [group for group in answers.values() if isinstance(group, SecurityGroup)]
    other_vpc = in_other_vpc(source, sensor)
    for group in groups:
        origin = asked(admitted_origin, source, group, other_vpc)
        if isinstance(origin, Unanswered):
            answers[group.group_id] = origin
        elif origin:
            return passes(f"security group {group.group_id} admits {VXLAN} from {origin}")
    if other_vpc and (weak := admitted_by_unstated_reference(source, groups)):
        return weak

    by_lists = prefix_lists_admit(source, groups, known)
    if by_lists.passes:
        return by_lists
    for answer in answers.values():
        told(answer)
    hidden = ", ".join(group_id for group_id, group in answers.items() if group is None)
    if hidden:
        return rejects(f"Security group {hidden} cannot be seen{by_lists.reason}", Says.UNSEEN)
    evidence = f"No rule of {', '.join(sensor.group_ids)} admits {VXLAN} from {source.sender}"
    inactive = {key for group in groups for key in group.inactive.intersection(source.group_ids)}
    if inactive:
        evidence += f"; the reference to {', '.join(sorted(inactive))} crosses an inactive peering"
    return by_lists._replace(reason=f"{evidence}{by_lists.reason}")


def admitted_origin(source: Interface, group: SecurityGroup, other_vpc: bool) -> str | None:
    """The origin by which a rule of the group admits packets from the source, prefix lists and
    references of unknown standing left out; None where no rule does."""
    for cidr in group.cidrs:
        if source.sender.is_in(cidr):
            return cidr
    shared = group.references.intersection(source.group_ids)
    if not shared and not other_vpc:
        shared = group.unstated.intersection(source.group_ids)
    return f"members of {min(shared)}" if shared else None


def admitted_by_unstated_reference(
    source: Interface, groups: Iterable[SecurityGroup]
) -> Verdict | None:
    """A reference to a group in another VPC works across an active peering connection, and across
    a transit gateway where that is switched on, of which AWS documents no status."""
    for group in groups:
        if shared := group.unstated.intersection(source.group_ids):
            return passes(
                f"ranked last, as security group {group.group_id} admits {VXLAN} only from members "
                f"of {min(shared)}, which is in another VPC without a peering status",
                ranked_last=True,
            )
    return None


def prefix_lists_admit(source: Interface, groups: Iterable[SecurityGroup], known: Known) -> Verdict:
    """Prefix lists take a permission of their own and a call each, so they are looked into only
    when no other rule admits the packet. One that admits it is enough, whatever others come to. The
    reason of a rejection is what there is to add to the evidence."""
    named = {key: group.group_id for group in groups for key in group.prefix_list_ids}
    lists = known.there.prefix_lists
    if unread := [key for key in named if key not in lists]:
        raise NotAskedYet((known.there.account, "prefix_lists", key) for key in unread)
    problems, error = "", None
    for key, group_id in named.items():
        blocks = asked(lists.one, key)
        if not isinstance(blocks, Unanswered):
            for cidr in filter(source.sender.is_in, blocks or ()):
                origin = f"{cidr} in prefix list {key}"
                return passes(f"security group {group_id} admits {VXLAN} from {origin}")
        elif blocks.final:
            problems += f"; prefix list {key} could settle it ({blocks})"
        else:
            error = error or blocks
    if error:
        raise error
    return rejects(problems, Says.UNSETTLED if problems else Says.REJECTS)


def inbound_acl_allows(source: Interface, sensor: Interface, known: Known) -> Verdict:
    """The network ACL of the sensor's subnet must let the packet in. ACLs apply where traffic
    enters or leaves a subnet, not within it."""
    if sensor.subnet_id == source.subnet_id:
        return passes("in the same subnet, where no network ACL applies")
    acl = known.there.acls.one(sensor.subnet_id or "", asked_by=sensor.vpc_id)
    if acl is None:
        return rejects(f"The network ACL of {sensor.subnet_id} cannot be seen", Says.UNSEEN)
    entry = deciding_entry(acl.inbound, source.sender)
    rule = f"inbound rule {entry.number if entry else '*'} of network ACL {acl.acl_id}"
    if entry and entry.allows:
        return passes(f"{rule} allows {VXLAN} from {source.sender}")
    return rejects(f"{VXLAN} from {source.sender} is denied by {rule}")


def outbound_acl_ranks(source: Interface, sensor: Interface, known: Known) -> Verdict:
    """Whether mirrored packets pass through the outbound ACL of the source's subnet, AWS does not
    say. So a denial does not reject the sensor, but ranks it behind those without one."""
    if sensor.subnet_id == source.subnet_id or sensor.address is None:
        return PASSES
    acl = known.here.acls.one(source.subnet_id or "", asked_by=source.vpc_id)
    entry = deciding_entry(acl.outbound, sensor.address) if acl else None
    if acl is None or (entry and entry.allows):
        return PASSES
    rule = f"outbound rule {entry.number if entry else '*'} of network ACL {acl.acl_id}"
    return passes(f"ranked last, as {rule} denies {VXLAN} to {sensor.address}", ranked_last=True)


def route_leads(source: Interface, sensor: Interface, known: Known) -> Verdict:
    """Mirrored packets to another VPC take the way that the route table of the source's subnet
    shows: the route to the smallest block that contains the sensor's address decides."""
    if sensor.address is None or not in_other_vpc(source, sensor):
        return PASSES
    vpc_id = source.vpc_id or ""
    tables = known.here.route_tables
    if vpc_id not in tables:
        raise NotAskedYet([(HOME, "route_tables", vpc_id)])
    table = asked(lambda: tables.one(source.subnet_id or "", asked_by=vpc_id) or tables.one(vpc_id))
    where = f"in another VPC ({sensor.vpc_id})"
    if isinstance(table, Unanswered) and not table.final:
        raise table
    if not isinstance(table, RouteTable):
        unknown = table or f"no route table of {vpc_id} can be seen"
        return passes(f"{where}, and whether a route leads there is not known ({unknown})")
    by_list = next((route for route in table.routes if route.by_prefix_list), None)
    route = next(
        (r for r in table.routes if not r.by_prefix_list and sensor.address.is_in(r.destination)),
        None,
    )
    of_table = f"of route table {table.table_id}"
    if by_list:
        reason = f"ranked last, as the route {by_list} {of_table} is not looked into"
        return passes(f"{where}; {reason}", ranked_last=True)
    if route is None:
        return rejects(f"No route {of_table} leads to {sensor.address} in {sensor.vpc_id}")
    if route.state == "blackhole" or route.leads is NextHop.ASTRAY:
        return rejects(
            f"Packets to {sensor.address} in {sensor.vpc_id} take the route {route} {of_table}"
        )
    unchecked = f"{where} by the route {route} {of_table}; what lies beyond it is not checked"
    if route.leads is NextHop.UNLISTED:
        unlisted = "ranked last, as AWS does not list this way for mirrored traffic"
        return passes(f"{unchecked}; {unlisted}", ranked_last=True)
    return passes(unchecked)


def not_refused(source: Interface, sensor: Interface, known: Known) -> Verdict:
    """A target that AWS has refused at create, for its quota above all, is not tried again."""
    refusal = known.refused.get(known.sensor.target_id)
    return rejects(refusal) if refusal else PASSES


Stage = Callable[[Interface, Interface, Known], Verdict]

# The guide's order. A sensor's verdict is the first stage that rejects it.
PIPELINE: tuple[tuple[str, Stage], ...] = (
    ("unavailable", recognised),
    ("unavailable", runs),
    ("zone", in_zone),
    ("vpc", in_vpc),
    ("security_group", security_groups_admit),
    ("network_acl", inbound_acl_allows),
    ("network_acl", outbound_acl_ranks),
    ("route", route_leads),
    ("create", not_refused),
)
# What the packets of a session that exists have to pass: whether they arrive is the question, not
# whether there is a better way.
REACHABILITY: tuple[tuple[str, Stage], ...] = (
    ("unavailable", runs),
    ("security_group", security_groups_admit),
    ("network_acl", inbound_acl_allows),
    ("route", route_leads),
)
STAGES = tuple(dict.fromkeys(stage for stage, _ in PIPELINE))


def judge_interface(
    source: Interface, sensor: Interface, known: Known, pipeline: Sequence[tuple[str, Stage]]
) -> Verdict:
    """The verdict on one interface of a sensor. Where something cannot be seen, the later stages
    are asked all the same, since they may reject for certain."""
    evidence: list[str] = []
    unseen: Verdict | None = None
    ranked_last = False
    for name, stage in pipeline:
        verdict = stage(source, sensor, known)
        if verdict is PASSES:
            continue
        ranked_last |= verdict.ranked_last
        if verdict.says is Says.UNSEEN:
            unseen = unseen or verdict
        elif not verdict.passes:
            return verdict._replace(stage=name)
        else:
            evidence.append(verdict.reason)
    if unseen:
        return unseen._replace(stage="unavailable", ranked_last=ranked_last)
    return passes("; ".join(evidence), ranked_last)


def judge_sensor(
    source: Interface, known: Known, pipeline: Sequence[tuple[str, Stage]] = PIPELINE
) -> Verdict:
    """The verdict on a sensor: the best of its interfaces'.

    Raises:
        Unanswered: a call that should have shown what decides has failed.
    """
    sensor, zone = known.sensor, (source.zone, source.zone_id)
    # The zone rejects before any stage that differs between the sources of a zone.
    if pipeline is PIPELINE and not known.other_zones and zone in known.out_of_zone:
        return known.out_of_zone[zone]
    if sensor.failure:
        raise sensor.failure
    if sensor.missing:
        return Verdict(Says.REJECTS, sensor.missing, "unavailable")
    # A load balancer receives on its interface in the source's zone, where it has one.
    zone_here = source.zone_as(sensor)
    faces = [face for face in sensor.interfaces if zone_here and face.zone_as(sensor) == zone_here]
    verdicts: list[Verdict] = []
    missing: list[Unanswered] = []
    for face in faces or sensor.interfaces:
        verdict = asked(judge_interface, source, face, known, pipeline)
        if isinstance(verdict, Unanswered):
            missing.append(verdict)
        else:
            verdicts.append(verdict)
    if missing and not any(verdict.passes for verdict in verdicts):
        unasked = [error.wanted for error in missing if isinstance(error, NotAskedYet)]
        raise NotAskedYet(frozenset().union(*unasked)) if unasked else missing[0]
    best = max(verdicts, key=goodness)
    if best.stage == "zone":
        known.out_of_zone[zone] = best
    return with_caveats(best, sensor) if best.passes else best


def with_caveats(verdict: Verdict, sensor: Sensor) -> Verdict:
    """The verdict on a sensor that may be chosen, with what is not known of it all the same."""
    notes = [verdict.reason]
    if sensor.behind_load_balancer:
        notes.append("listeners and what is registered behind the load balancer are not checked")
    if sensor.unseen:
        notes.append("of its sessions only those of this account are counted")
    return verdict._replace(reason="; ".join(filter(None, notes)))


def goodness(verdict: Verdict) -> tuple[bool, bool, bool, int]:
    """Of two verdicts on interfaces of a sensor, the one with more of it stands for the sensor."""
    how_far = STAGES.index(verdict.stage) if verdict.stage else 0
    return verdict.passes, verdict.says is Says.UNSEEN, not verdict.ranked_last, how_far


class Judgement(NamedTuple):
    """The verdicts on all sensors for one source.

    Attributes:
        verdicts: by target ID, in configured order, less those that an error left open.
        error: why a verdict is missing, where one is.
        foreign_error: why another account could not say whether packets reach its sensors, which
            are rejected for that.
    """

    verdicts: Mapping[str, Verdict]
    error: Unanswered | None = None
    foreign_error: Unanswered | None = None

    @property
    def candidates(self) -> list[str]:
        """The targets to choose from; none while a verdict is missing."""
        return [] if self.error else [key for key, v in self.verdicts.items() if v.passes]


def judge(source: Interface, sensors: Sequence[Known]) -> Judgement:
    """Judge all sensors for a source: those of its zone; if none of them can take it, and the
    configuration allows it, those of other zones; and last those that cannot be verified.

    Raises:
        NotAskedYet: verdicts depend on what is asked for only where it decides.
    """
    judgement = verdicts_on(source, sensors)
    if judgement.error or judgement.candidates or not sensors:
        return judgement
    configuration = sensors[0].configuration
    unverified = [key for key, v in judgement.verdicts.items() if v.says is Says.UNSEEN]
    if not configuration.local_zone_only:
        of_zone = judgement.verdicts
        others = [
            known._replace(other_zones=True)
            for known in sensors
            if of_zone[known.sensor.target_id].stage == "zone"
        ]
        judgement = verdicts_on(source, others, judgement)
        if judgement.error or judgement.candidates:
            return judgement
        unverified = unverified or [
            key for key, v in judgement.verdicts.items() if v.says is Says.UNSEEN
        ]
    if not configuration.allow_unverified:
        return judgement
    verdicts = dict(judgement.verdicts)
    by_target = {known.sensor.target_id: known.sensor for known in sensors}
    for key in unverified:
        reason = f"not verified: {verdicts[key].reason}"
        verdicts[key] = with_caveats(passes(reason, verdicts[key].ranked_last), by_target[key])
    return judgement._replace(verdicts=verdicts)


NO_VERDICTS = Judgement({})


def verdicts_on(
    source: Interface, sensors: Iterable[Known], judgement: Judgement = NO_VERDICTS
) -> Judgement:
    """The judgement with the verdicts on these sensors added. One that another account could not be
    asked about is rejected, so that it costs the others nothing."""
    verdicts = dict(judgement.verdicts)
    _, error, foreign_error = judgement
    wanted: set[tuple[str, str, str]] = set()
    for known in sensors:
        target_id = known.sensor.target_id
        try:
            verdicts[target_id] = judge_sensor(source, known)
        except NotAskedYet as missing:
            wanted |= missing.wanted
        except Unanswered as failure:
            if known.sensor.through_role:
                verdicts[target_id] = Verdict(Says.REJECTS, str(failure), "unavailable")
                foreign_error = foreign_error or failure
            else:
                verdicts.pop(target_id, None)
                error = error or failure
    if wanted and not error:
        raise NotAskedYet(wanted)
    return Judgement(verdicts, error, foreign_error)


def ranking(source: Interface, judgement: Judgement, sessions: Callable[[str], int]) -> list[str]:
    """The candidates, best first: those against which nothing speaks, then the fewest sessions.
    Equal sensors come in an order that differs from interface to interface, so that instances
    launched together spread over them instead of piling onto the first."""

    def rank(target_id: str) -> tuple[bool, int, str]:
        draw = hashlib.sha256(f"{source.interface_id}{target_id}".encode()).hexdigest()
        return judgement.verdicts[target_id].ranked_last, sessions(target_id), draw

    return sorted(judgement.candidates, key=rank)


def why_not_meant(
    source: Interface, instance: Instance, configuration: Configuration
) -> str | None:
    """Why the interface is not meant to be mirrored, or of a type that cannot be; None where
    neither."""
    for tag in configuration.exclude_tags:
        if tag.matches(instance.tags):
            return f"The instance is excluded by its tag {tag} (EXCLUDE_TAGS)"
    if configuration.include_tags and not any(
        tag.matches(instance.tags) for tag in configuration.include_tags
    ):
        wanted = ", ".join(map(str, configuration.include_tags))
        return f"The instance has none of the tags {wanted} (INCLUDE_TAGS)"
    if source.interface_type != "interface":
        return f"Interfaces of type {source.interface_type} cannot be mirrored"
    return None


# ======================================================================================
# 8  Mirroring
# ======================================================================================


class Outcome(NamedTuple):
    """What an outcome means to those who look at it.

    Attributes:
        level: of its log record.
        bad: whether it counts as 400.
        unfinished: whether there is no answer yet, so that the event is to be delivered again.
        next_sweep: whether a sweep leaves it to the next one.
        bare: whether no sensor has a say in it.
        usual: whether a sweep finds it everywhere, and logs it at DEBUG.
    """

    level: int
    bad: bool = False
    unfinished: bool = False
    next_sweep: bool = False
    bare: bool = False
    usual: bool = False


# Those that need attention first.
OUTCOMES = {
    "unmirrored": Outcome(logging.ERROR, bad=True),
    "blocked": Outcome(logging.ERROR, bad=True),
    "failed": Outcome(logging.ERROR, unfinished=True),
    "deferred": Outcome(logging.WARNING, unfinished=True, next_sweep=True, bare=True),
    "created": Outcome(logging.INFO),
    "planned": Outcome(logging.INFO),
    "exists": Outcome(logging.INFO, bare=True, usual=True),
    "skipped": Outcome(logging.INFO, bare=True, usual=True),
}

ROUND = 100  # interfaces for which sensors are chosen before their creates go out
PARALLEL_CREATES = 10
LOOKS = 3  # at a refused interface, for a session that another invocation was faster to create
UNSUPPORTED_SECONDS = 3_600  # for which an interface that AWS does not mirror is remembered


class About(Enum):
    """Whom a refusal of AWS is about."""

    TARGET = "another target may do"
    NOT_SUPPORTED = "the interface, which AWS does not mirror"
    SENSOR = "the interface, which is a sensor of somebody's"
    NOT_SHOWN = "nobody: EC2 does not know yet what it has just shown"
    EVERYBODY = "the account is full, or the filter does not exist"
    INTERFACE = "the interface; another invocation may have been faster"


# How AWS's codes begin, and whom they are about. Any other code is about the interface.
REFUSALS = (
    ("TrafficMirrorSourcesPerTargetLimitExceeded", About.TARGET),
    ("TrafficMirrorSessionsPerTargetLimitExceeded", About.TARGET),
    ("InvalidTrafficMirrorTarget", About.TARGET),
    ("NetworkInterfaceNotSupported", About.NOT_SUPPORTED),
    ("InterfaceInUseByTrafficMirrorTarget", About.SENSOR),
    ("InvalidNetworkInterfaceID.NotFound", About.NOT_SHOWN),
    ("InvalidNetworkInterfaceId.NotFound", About.NOT_SHOWN),
    ("TrafficMirrorSessionLimitExceeded", About.EVERYBODY),
    ("InvalidTrafficMirrorFilter", About.EVERYBODY),
    ("", About.INTERFACE),
)


class Entry(NamedTuple):
    """What became of one interface, or of an instance or a page that could not be looked into.

    Attributes:
        request: the event that asked for it.
        sensors: a row per sensor, as the result shows them.
        place: where it stands in the event.
        elsewhere: whether it has sessions, and all go to targets that are not ours.
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
    sensors: Sequence[Mapping[str, Any]] = ()
    place: int = 0
    elsewhere: bool = False

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
            "sensors": list(self.sensors),
        }


class Task(NamedTuple):
    """An interface to be brought to its outcome.

    Attributes:
        place: where it stands in the event.
        sessions: those that it has already, those to our targets first.
        ours: how many of them go to our targets.
    """

    request: Request
    instance: Instance
    source: Interface
    place: int
    sessions: tuple[Session, ...] = ()
    ours: int = 0

    def entry(
        self,
        outcome: str,
        reason: str,
        session: Session | None = None,
        sensors: Sequence[Mapping[str, Any]] = (),
    ) -> Entry:
        """What became of it: the outcome, why, and the session where there is one."""
        return Entry(
            self.request,
            outcome,
            f"{reason}.",
            self.instance.instance_id,
            self.source.interface_id,
            session.target_id if session else None,
            session.session_id if session else None,
            session.name if session else None,
            () if OUTCOMES[outcome].bare else sensors,
            self.place,
            elsewhere=bool(self.sessions) and not self.ours and outcome != "created",
        )


class Plan(NamedTuple):
    """A session to be created.

    Attributes:
        choice: why this target.
        sensors: the rows of the verdicts that led to it.
        parameters: those of CreateTrafficMirrorSession.
        looks: how often the interface was looked at after a create of it was refused.
    """

    task: Task
    target_id: str
    choice: str
    sensors: Sequence[Mapping[str, Any]]
    parameters: Mapping[str, Any]
    looks: int = 0


def session_name(source: Interface, target_id: str) -> str:
    """A session's Name tag: from both IDs the first four characters that differ."""
    return f"eh-mirror-{source.interface_id[4:8]}{target_id[4:8]}"


def create_parameters(task: Task, target_id: str, configuration: Configuration) -> dict[str, Any]:
    """The parameters of CreateTrafficMirrorSession.

    EC2 answers a repeated ClientToken with the session that it made the first time, so a second
    delivery of the same event that comes to the same choice creates nothing. EC2 refuses the same
    token with other parameters; hence all of them are part of it.
    """
    tags = [Tag("Name", session_name(task.source, target_id)), *configuration.session_tags]
    parameters: dict[str, Any] = {
        "NetworkInterfaceId": task.source.interface_id,
        "TrafficMirrorTargetId": target_id,
        "TrafficMirrorFilterId": configuration.filter_id,
        "SessionNumber": configuration.session_number,
        "TagSpecifications": [
            {
                "ResourceType": "traffic-mirror-session",
                "Tags": [{"Key": tag.key, "Value": tag.value} for tag in tags],
            }
        ],
    }
    if configuration.virtual_network_id is not None:
        parameters["VirtualNetworkId"] = configuration.virtual_network_id
    if configuration.packet_length is not None:
        parameters["PacketLength"] = configuration.packet_length
    material = json.dumps([task.request.event_id, parameters], sort_keys=True)
    return parameters | {"ClientToken": hashlib.sha256(material.encode()).hexdigest()}


class Doubt(NamedTuple):
    """An interface whose create was refused, but that may be mirrored all the same: by another
    invocation, or as soon as EC2 knows it.

    Attributes:
        entry: what it comes to if nothing else shows: `failed` if the create may be sent again.
    """

    plan: Plan
    entry: Entry

    @property
    def not_shown(self) -> bool:
        """Whether EC2 does not know the interface yet, so that to send again may help."""
        return self.entry.outcome == "failed"


class Refusals:
    """What AWS has refused in this invocation, and what that means for creates to come. Noted where
    a create comes back, by the threads that send them."""

    def __init__(self) -> None:
        self.targets: dict[str, str] = {}
        self.types: dict[str, str] = {}
        self.everybody: str | None = None

    def why_skipped(self, task: Task) -> str | None:
        """Why AWS would not mirror the interface, as far as it has said so; None where it may."""
        known = unsupported_interface(task.source.interface_id)
        return known or self.types.get(task.instance.instance_type)

    def bars(self, plan: Plan) -> bool:
        """Whether the create of a session is known to be refused before it is sent."""
        refused = self.everybody or plan.target_id in self.targets
        return bool(refused or self.why_skipped(plan.task))

    def note(self, plan: Plan, error: AwsCallFailed) -> None:
        """Take note of what a refusal says about creates to come."""
        reason = error.brief
        about = whom(error)
        if about is About.TARGET:
            self.targets[plan.target_id] = f"AWS refused {plan.target_id}: {reason}"
        elif about is About.EVERYBODY:
            self.everybody = f"AWS creates no session at all: {reason}"
        elif about is About.NOT_SUPPORTED:
            task = plan.task
            what = f"AWS does not mirror the interface {task.source.interface_id}"
            remember_unsupported(task.source.interface_id, f"{what} ({error.code})")
            # The interface that an instance was launched with is refused for the instance's type,
            # others may be refused for what they are.
            if task.source.is_first and not task.instance.managed:
                what = f"AWS does not mirror instances of type {task.instance.instance_type}"
                self.types[task.instance.instance_type] = f"{what} ({error.code})"


def whom(refusal: AwsCallFailed) -> About:
    """Whom a refusal is about."""
    return next(about for code, about in REFUSALS if refusal.code.startswith(code))


_unsupported: dict[str, tuple[float, str]] = {}  # by interface: when AWS refused it, and why
_unsupported_lock = threading.Lock()


def remember_unsupported(interface_id: str, reason: str) -> None:
    """Remember for an hour that AWS does not mirror an interface, so that sweeps do not use up
    EC2's allowance of creates for those that are always refused."""
    now = time.time()
    with _unsupported_lock:  # creates come back in several threads
        for known, (since, _) in list(_unsupported.items()):
            if now - since > UNSUPPORTED_SECONDS:
                del _unsupported[known]
        _unsupported[interface_id] = now, reason


def unsupported_interface(interface_id: str) -> str | None:
    """Why AWS does not mirror an interface, as far as it is remembered."""
    since, reason = _unsupported.get(interface_id, (0.0, ""))
    return reason if 0 <= time.time() - since < UNSUPPORTED_SECONDS else None


class Mirroring:
    """One invocation's work, from what events ask for to an entry for each interface.

    Args:
        configuration: what the environment variables say.
        deadline: until when something may be begun.
        own: the function's account and Region.
    """

    def __init__(self, configuration: Configuration, deadline: Deadline, own: Own) -> None:
        self.configuration = configuration
        self.deadline = deadline
        self.region = Region(configuration, deadline, own)
        self.refusals = Refusals()
        self._known: Mapping[str, Known] = {}
        self._known_of: Sensors | None = None

    def entries(self, work: Work) -> Iterator[Entry]:
        """Do what events ask for; entries go out as they are settled."""
        if not work.instances and not work.sweep:
            return
        try:
            instances = self.region.read_first(work)
            yield from self.mirror(self.named_tasks(work.instances, instances))
            if work.sweep:
                yield from self.sweep(work.sweep, set(work.instances))
        finally:
            self.region.close()

    def accounts_without_targets(self) -> list[str]:
        """Configured accounts that are known to show no target here."""
        accounts = asked(lambda: self.region.sensors.accounts_without_targets)
        return [] if isinstance(accounts, Unanswered) else accounts

    def sweep(self, request: Request, done: set[str]) -> Iterator[Entry]:
        """Mirror all running instances of the Region, page by page, and check their sessions."""
        try:
            for page in self.region.running_instances():
                yield from self.mirror(self.swept_tasks(request, page, done))
        except Unanswered as error:
            reason = f"The instances after these were not read. {error}."
            yield Entry(request, error.outcome, reason)

    # Tasks

    def named_tasks(
        self, requests: Mapping[str, Request], instances: Answers[Instance]
    ) -> Iterator[Task | Entry]:
        """The interfaces of the instances that events name, in order."""
        place = 0
        for instance_id, request in requests.items():
            instance = asked(instances.one, instance_id)
            shown_id = shortened(instance_id)
            if instance is None:
                problem = f"AWS does not know instance {shown_id}"
                if elsewhere := self.region.own.elsewhere(request):
                    problem += f"; {elsewhere}"
            elif isinstance(instance, Unanswered):
                yield Entry(request, instance.outcome, f"{instance}.", instance_id, place=place)
                continue
            elif not instance.is_up:
                problem = f"Instance {instance_id} is {instance.state}, not running"
            elif not instance.interface_ids:
                problem = f"Instance {instance_id} has no network interface"
            else:
                for task in self.tasks_of(instance, request, place):
                    yield task
                    place += 1
                continue
            yield Entry(request, "skipped", f"{problem}.", shown_id, place=place)
            place += 1

    def swept_tasks(
        self, request: Request, page: Answers[Instance], done: set[str]
    ) -> Iterator[Task | Entry]:
        """The interfaces of a page of instances. Their order changes from sweep to sweep, so that
        interfaces which AWS keeps refusing do not keep others from their turn."""

        def draw(item: tuple[str, object]) -> bytes:
            drawn = f"{request.event_id}{item[0]}".encode(errors="backslashreplace")
            return hashlib.sha256(drawn).digest()

        for instance_id, instance in sorted(page.items(), key=draw):
            if instance_id in done:
                continue
            done.add(instance_id)
            if isinstance(instance, Unanswered):
                yield Entry(request, instance.outcome, f"{instance}.", instance_id)
            else:
                yield from self.tasks_of(instance, request, 0)

    @staticmethod
    def tasks_of(instance: Instance, request: Request, place: int) -> Iterator[Task | Entry]:
        """The interfaces of an instance; an entry for each that cannot be read."""
        for number, source in enumerate(instance.interfaces):
            yield Task(request, instance, source, place + number)
        for interface_id, error in instance.unreadable.items():
            yield Entry(
                request, error.outcome, f"{error}.", instance.instance_id, interface_id, place=place
            )

    # The guide's steps

    def mirror(self, tasks: Iterable[Task | Entry]) -> Iterator[Entry]:
        """Bring every interface to its outcome: tasks come in, entries go out."""
        waiting: list[Task] = []
        mirrored: list[Task] = []
        for task in tasks:  # 1, 2: is it meant to be mirrored, and has it no session?
            answer = task if isinstance(task, Entry) else self.answered(self.triage, task)
            if isinstance(answer, Entry):
                yield answer
            else:
                (mirrored if self.sufficient(answer.sessions) else waiting).append(answer)
        if waiting or any(task.ours for task in mirrored):  # nobody else needs the sensors
            self.region.learn_of_sensors([task.source for task in waiting])
        self.region.look_for_targets(s for task in mirrored for s in task.sessions)
        for task in mirrored:
            yield self.answered(self.check, task)
        doubts: list[Doubt] = []
        while waiting or doubts:  # a round, or a look at what was refused
            if waiting:  # 3: which sensor?
                plans = yield from self.plan_round(waiting[:ROUND], doubts)
                waiting = waiting[ROUND:]
            else:
                plans, doubts = yield from self.look(doubts)
            again, refused = yield from self.send_round(plans)  # 4: the session
            waiting = again + waiting
            doubts += refused

    @staticmethod
    def answered(step: Callable[[Task], T], task: Task) -> T | Entry:
        """What a step says; the one place where no answer becomes failed or deferred."""
        try:
            return step(task)
        except Unanswered as error:
            return task.entry(error.outcome, str(error))

    def triage(self, task: Task) -> Task | Entry:
        """Whether the interface is meant to be mirrored and can be. A task goes on: to a sensor, or
        where a sweep finds a session, to a check of what that leads to."""
        source, instance, sensors = task.source, task.instance, self.region.sensors
        problem = why_not_meant(source, instance, self.configuration)
        if problem := problem or sensors.why_no_source(source, instance):
            return task.entry("skipped", problem)
        if sessions := self.region.sessions.of(source.interface_id, sensors.ids):
            ours = sum(session.target_id in sensors.ids for session in sessions)
            task = task._replace(sessions=sessions, ours=ours)
        if found := self.sufficient(task.sessions):
            return task if task.request.sweep else self.exists(task, found)
        if source.address is None:
            problem = "The interface has no IPv4 address, which VXLAN packets need"
        else:
            problem = self.refusals.why_skipped(task)
        return task.entry("skipped", problem) if problem else task

    def sufficient(self, sessions: Sequence[Session]) -> Session | None:
        """The session for which an interface needs no other; with MIRROR_ALONGSIDE only one to a
        target of ours."""
        ids = self.region.sensors.ids
        ours = next((session for session in sessions if session.target_id in ids), None)
        return ours or (None if self.configuration.mirror_alongside else next(iter(sessions), None))

    def exists(self, task: Task, session: Session) -> Entry:
        """The interface has this session already."""
        elsewhere = session.target_id not in self.region.sensors.ids
        whose = ", not one of our targets" if elsewhere else ""
        reason = f"Session {session.session_id} mirrors it to {session.target_id}{whose}"
        return task.entry("exists", reason, session)._replace(elsewhere=elsewhere)

    # Sessions that exist

    def check(self, task: Task) -> Entry:
        """Whether packets can reach the sensors that the interface is mirrored to: a session to one
        that they cannot reach is a blind spot that looks covered. Nothing is changed."""
        alongside = self.configuration.mirror_alongside
        unchecked: Entry | None = None
        for session in task.sessions[: task.ours] if alongside else task.sessions:
            try:
                verdict = self.verdict_on(task.source, session)
            except Unanswered as error:
                unknown = f"Whether packets reach {session.target_id} could not be checked"
                unchecked = task.entry(error.outcome, f"{unknown}. {error}", session)
                continue  # the next may be known to lead nowhere
            # What cannot be seen or read is no proof that packets are blocked.
            if verdict.says is Says.REJECTS:
                reason = f"Session {session.session_id} mirrors it to {session.target_id}"
                reason += f", which packets cannot reach. {verdict.reason}"
                rows = [sensor_row(session.target_id, verdict, None)]
                return task.entry("blocked", reason, session, rows)
        return unchecked or self.exists(task, task.sessions[0])

    def verdict_on(self, source: Interface, session: Session) -> Verdict:
        """The verdict on the target of a session that exists."""
        target_id = session.target_id
        if target_id not in self.region.sensors.ids:
            if self.region.target_is_gone(target_id):
                gone = f"There is no traffic mirror target {target_id} any more"
                return Verdict(Says.REJECTS, gone, "unavailable")
            return PASSES  # somebody else's
        if source.address is None:
            return PASSES
        self.deadline.check()
        return self.looked_up(lambda: judge_sensor(source, self.known()[target_id], REACHABILITY))

    # From verdicts to a session

    def known(self) -> Mapping[str, Known]:
        """What the stages may look at now, by target."""
        sensors = self.region.sensors
        if self._known_of is not sensors:  # kept otherwise, since verdicts gather in `out_of_zone`
            here, refused = self.region.facts[HOME], self.refusals.targets
            self._known = {
                target_id: Known(self.configuration, sensor, there, here, refused, {})
                for target_id, (sensor, there) in sensors.judged.items()
            }
            self._known_of = sensors
        return self._known

    def judgement(self, source: Interface) -> Judgement:
        """The verdicts on all sensors. What is cached may be out of date, so it does not get to say
        that there is no sensor; and a row of it that cannot be read is read again."""
        judgement = self.judged(source)
        unreadable = isinstance(judgement.error, Unreadable)
        if judgement.candidates or (judgement.error and not unreadable):
            return judgement
        if self.region.may_be_stale:
            self.region.renew()
            judgement = self.judged(source)
        missing = None if judgement.candidates else self.region.renewal_error
        return judgement._replace(error=judgement.error or missing)

    def judged(self, source: Interface) -> Judgement:
        """The verdicts as things are known."""
        return self.looked_up(lambda: judge(source, tuple(self.known().values())))

    def looked_up(self, judging: Callable[[], T]) -> T:
        """What some judging comes to, with what it turns out to need looked up."""
        while True:
            try:
                return judging()
            except NotAskedYet as missing:
                self.region.look_up(missing.wanted)

    def choose(self, task: Task) -> Plan | Entry:
        """Step 3: the sensor with the fewest sessions among those that packets can reach."""
        self.deadline.check()
        source = task.source
        if problem := self.refusals.why_skipped(task):
            return task.entry("skipped", problem)
        judgement = self.judgement(source)
        # What is known of the targets may have been renewed.
        if problem := self.region.sensors.why_no_source(source, task.instance):
            return task.entry("skipped", problem)
        ranked = ranking(source, judgement, self.region.count)
        rows = sensor_rows(judgement, ranked, self.region.count)
        if not ranked:
            if error := judgement.error or judgement.foreign_error:
                return task.entry(error.outcome, str(error), sensors=rows)
            reason = why_unmirrored(judgement, self.region.sensors.accounts_without_targets)
            return task.entry("unmirrored", reason, sensors=rows)
        target_id = ranked[0]
        if self.refusals.everybody:
            return refused_entry(task, target_id, self.refusals.everybody, rows)
        choice = why_chosen(ranked, self.region.count)
        self.region.sessions.choose(target_id)
        if task.request.dry_run or self.configuration.dry_run:
            reason = f"A session to {target_id} would be created. {choice}"
            name = session_name(source, target_id)
            entry = task.entry("planned", reason, sensors=rows)
            return entry._replace(target_id=target_id, session_name=name)
        parameters = create_parameters(task, target_id, self.configuration)
        return Plan(task, target_id, choice, rows, parameters)

    def plan_round(
        self, tasks: Sequence[Task], doubts: Iterable[Doubt]
    ) -> Generator[Entry, None, list[Plan]]:
        """Step 3 for those of a round, each choice counting at once. In an account with hundreds of
        sensors a sweep keeps no more rows of them, those of doubts included, than it can show."""
        plans = []
        room = ROWS_IN_BODY - sum(len(doubt.plan.sensors) for doubt in doubts)
        for task in tasks:
            plan = self.answered(self.choose, task)
            if isinstance(plan, Entry):
                yield plan
                continue
            room -= len(plan.sensors)
            too_many = task.request.sweep and room < 0
            plans.append(plan._replace(sensors=()) if too_many else plan)
        return plans

    def send_round(
        self, plans: Sequence[Plan]
    ) -> Generator[Entry, None, tuple[list[Task], list[Doubt]]]:
        """Step 4 for those of a round: their creates are sent together. What is not settled by them
        waits for the next round, which knows of all refusals of this one, or is in doubt."""
        waiting: list[Task] = []
        doubts: list[Doubt] = []
        throttled: list[tuple[Plan, AwsCallFailed]] = []
        progress = False
        for plan, answer in self.send_all(plans):
            if create_came_to(answer, Failure.THROTTLED):
                throttled.append((plan, answer))
                continue
            became = self.after_create(plan, answer)
            if isinstance(became, Entry):
                progress |= became.outcome == "created"
                yield became
            elif isinstance(became, Doubt):
                doubts.append(became)
            else:
                waiting.append(became)
        for plan, error in throttled:
            if progress:
                self.region.sessions.give_up(plan.target_id)
                waiting.append(plan.task)
            else:
                yield plan.task.entry(error.outcome, str(error), sensors=plan.sensors)
        return waiting, doubts

    def send_all(self, plans: Sequence[Plan]) -> Iterator[tuple[Plan, Session | Unanswered | None]]:
        """Send creates, some at a time, and say what came back; see `send`."""
        if not plans:
            return
        with ThreadPoolExecutor(max_workers=PARALLEL_CREATES) as threads:
            yield from zip(plans, threads.map(self.send, plans), strict=True)

    def send(self, plan: Plan) -> Session | Unanswered | None:
        """The session, or why there is none as far as AWS says; None: not sent, because by now it
        is known to be refused."""
        if self.refusals.bars(plan):
            return None
        answer = asked(self.create, plan)
        if create_came_to(answer, Failure.REFUSED):
            self.refusals.note(plan, answer)
        return answer

    def create(self, plan: Plan) -> Session:
        """Have EC2 create the session. Where the answer is lost the session may exist: it is looked
        for, and if it is not there the create is sent once more with the same token, which EC2
        answers with the first session if it has made one.

        Raises:
            Unanswered: there is no session, as far as AWS says.
        """
        home, interface_id = self.region.home, plan.task.source.interface_id
        answer = asked(home.create_session, plan.parameters)
        if not isinstance(answer, Unreadable) and not create_came_to(answer, Failure.LOST):
            return told(answer)
        sessions = home.by_filter(SESSIONS, [interface_id])
        again = asked(lambda: self.sufficient(sessions.all(interface_id)))
        if again is None:
            again = asked(home.create_session, plan.parameters)
        # Whoever could not be asked again has not said that nothing was done the first time.
        undone = isinstance(again, OutOfTime) or create_came_to(again, Failure.THROTTLED)
        return told(answer if undone else again)

    def after_create(self, plan: Plan, answer: Session | Unanswered | None) -> Entry | Doubt | Task:
        """What becomes of an interface after its create: an entry; the task, if another target may
        do; or a doubt."""
        task, target_id = plan.task, plan.target_id
        if isinstance(answer, Session):
            self.region.sessions.add_created(target_id, answer)
            if answer.target_id != target_id:
                return self.exists(task, answer)
            reason = f"Session {answer.session_id} mirrors it to {target_id}. {plan.choice}"
            session = answer._replace(name=session_name(task.source, target_id))
            return task.entry("created", reason, session, plan.sensors)
        if answer is None:
            self.region.sessions.give_up(target_id)
            return task
        if not create_came_to(answer, Failure.REFUSED):
            return task.entry(answer.outcome, str(answer), sensors=plan.sensors)
        self.region.sessions.give_up(target_id)
        about = whom(answer)
        reason = f"AWS refused {target_id}: {answer.brief}"
        if about is About.TARGET:
            return task
        if about is About.NOT_SUPPORTED:
            return task.entry("skipped", self.refusals.why_skipped(task) or reason)
        if about is About.SENSOR:
            sensor = "The interface is somebody's sensor, which AWS does not mirror"
            return task.entry("skipped", f"{sensor} ({answer.code})")
        if about is About.NOT_SHOWN:
            return Doubt(plan, task.entry("failed", reason, sensors=plan.sensors))
        if about is About.EVERYBODY:
            reason = self.refusals.everybody or reason
        entry = refused_entry(task, target_id, reason, plan.sensors)
        return Doubt(plan, entry) if about is About.INTERFACE else entry

    def look(
        self, doubts: Sequence[Doubt]
    ) -> Generator[Entry, None, tuple[list[Plan], list[Doubt]]]:
        """Whether interfaces that were refused have a session by now. It can take seconds to show,
        so all of them are looked up together, up to three times a second apart; and what EC2 did
        not know is sent again."""
        yield from self.last_word([doubt for doubt in doubts if doubt.plan.looks == LOOKS])
        doubts = [doubt for doubt in doubts if doubt.plan.looks < LOOKS]
        ids = [doubt.plan.task.source.interface_id for doubt in doubts]
        sessions: Answers[Session] = Answers()
        try:
            if any(doubt.plan.looks for doubt in doubts):
                self.deadline.sleep(PAUSE_SECONDS)
            sessions = self.region.home.by_filter(SESSIONS, ids)
        except OutOfTime as error:
            sessions.fail(ids, error)
        plans: list[Plan] = []
        kept: list[Doubt] = []
        for doubt, interface_id in zip(doubts, ids, strict=True):
            plan = doubt.plan._replace(looks=doubt.plan.looks + 1)
            found = asked(lambda key: self.sufficient(sessions.all(key)), interface_id)
            if isinstance(found, Session):
                yield self.exists(plan.task, found)
            elif isinstance(found, OutOfTime) or (
                isinstance(found, Unanswered) and plan.looks == LOOKS
            ):
                reason = f"{doubt.entry.reason} Nobody could be asked: {found}"
                yield plan.task.entry(found.outcome, reason, sensors=doubt.entry.sensors)
            elif doubt.not_shown:
                self.region.sessions.choose(plan.target_id)
                plans.append(plan)
            else:
                kept.append(doubt._replace(plan=plan))
        return plans, kept

    def last_word(self, doubts: Sequence[Doubt]) -> Iterator[Entry]:
        """What interfaces come to for which no session has shown. Those that EC2 says it does not
        know may be gone: with their instance, or detached."""
        unknown = {d.plan.task.instance.instance_id for d in doubts if d.not_shown}
        instances = self.region.home.by_id(INSTANCES, unknown)
        for doubt in doubts:
            task = doubt.plan.task
            if doubt.not_shown:
                instance = asked(instances.one, task.instance.instance_id)
                if not isinstance(instance, Unanswered) and not (
                    instance
                    and instance.is_up
                    and task.source.interface_id in instance.interface_ids
                ):
                    reason = "The instance does not run with this interface any more"
                    yield task.entry("skipped", reason)
                    continue
            yield doubt.entry


def create_came_to(answer: object, failure: Failure) -> TypeGuard[AwsCallFailed]:
    """Whether a create, not a look-up after it, came to this failure."""
    return (
        isinstance(answer, AwsCallFailed)
        and answer.operation == CREATE
        and answer.failure is failure
    )


def refused_entry(
    task: Task, target_id: str, reason: str, rows: Sequence[Mapping[str, Any]]
) -> Entry:
    """Unmirrored, because AWS has refused, or would refuse, the sensor that was chosen."""
    refused = {"verdict": "rejected", "stage": "create", "reason": f"{reason}."}
    sensors = [{**row, **refused} if row["target_id"] == target_id else row for row in rows]
    return task.entry("unmirrored", f"Refused at create. {reason}", sensors=sensors)


# ======================================================================================
# 9  Reporting
# ======================================================================================

BODY_LIMIT = 1_000_000  # bytes
ROWS_IN_BODY = 10_000  # rows of sensors; more do not fit, since each takes more than 100 bytes
NOTES_IN_MESSAGE = 10
LISTED_BY_SWEEP = 100  # interfaces
NAMED_IN_ERROR = 100  # interfaces


@lru_cache(maxsize=4_096)
def sensor_row(target_id: str, verdict: Verdict, sessions: int | None) -> Mapping[str, Any]:
    """A sensor as the result shows it. Most rows of most interfaces are the same: they are about
    sensors of other zones; so they are shared, and nobody may change one."""
    last_resort = verdict.says is Says.UNSEEN
    hint = "; it is the last resort where ALLOW_UNVERIFIED is true" if last_resort else ""
    return {
        "target_id": target_id,
        "verdict": "eligible" if verdict.passes else "rejected",
        "stage": verdict.stage,
        "reason": f"{verdict.reason}{hint}.",
        "sessions": sessions,
    }


def sensor_rows(
    judgement: Judgement, ranked: Sequence[str], sessions: Callable[[str], int]
) -> list[Mapping[str, Any]]:
    """The sensors as the result shows them, in configured order; the first of the ranked ones is
    the selected one."""
    rows: list[Mapping[str, Any]] = []
    for target_id, verdict in judgement.verdicts.items():
        counted = (ranked and verdict.passes) or verdict.stage == "create"
        row = sensor_row(target_id, verdict, sessions(target_id) if counted else None)
        if target_id in ranked[:1]:
            reason = f"{why_chosen(ranked, sessions)}: {row['reason']}"
            row = {**row, "verdict": "selected", "reason": reason}
        elif ranked and verdict.passes:
            count = sessions(ranked[0])
            reason = f"Behind {ranked[0]} with {count} sessions: {row['reason']}"
            row = {**row, "reason": reason}
        rows.append(row)
    return rows


def why_chosen(ranked: Sequence[str], sessions: Callable[[str], int]) -> str:
    """Why the first of the ranked sensors is chosen."""
    return f"Best of {len(ranked)} eligible, with {sessions(ranked[0])} sessions"


def why_unmirrored(judgement: Judgement, accounts_without_targets: Sequence[str]) -> str:
    """At which stage the last sensors fell."""
    if not judgement.verdicts:
        return f"There is no sensor: {no_targets_of(accounts_without_targets)}"
    stages = [verdict.stage for verdict in judgement.verdicts.values() if verdict.stage]
    last = max(stages, key=STAGES.index)
    fell = [key for key, verdict in judgement.verdicts.items() if verdict.stage == last]
    example = judgement.verdicts[fell[0]].reason
    return (
        f"No sensor can take it: of {len(stages)}, the last {len(fell)} fell at stage {last} "
        f"({fell[0]}: {example})"
    )


def no_targets_of(accounts: Sequence[str]) -> str:
    """Configured accounts that show no target."""
    return f"no traffic mirror target of account {', '.join(accounts)} is visible here"


class Report:
    """Logs and counts entries as they are settled, and keeps what the answer needs of them: of a
    sweep the hundred that need attention most, so that memory does not grow with the account.

    Attributes:
        counts: of each outcome.
        pages_failed: whether some of what a sweep is about could not be read.
        unfinished_instances: those with an interface that there is no answer for.

    Args:
        sweep: whether all instances are looked at.
    """

    def __init__(self, sweep: bool) -> None:
        self.sweep = sweep
        self.counts: Counter[str] = Counter()
        self.elsewhere = 0
        self.pages_failed = False
        self.sweep_unfinished = False
        self.unfinished_instances: set[str | None] = set()
        self._meant = self._covered = 0  # interfaces
        self._stopped = False  # before all instances were read
        self._due: Counter[str] = Counter()  # by outcome, what is to be delivered again
        self._causes: dict[str, dict[str, list[str]]] = {outcome: {} for outcome in OUTCOMES}
        self._kept: dict[str, list[Entry]] = {outcome: [] for outcome in OUTCOMES}
        self._rows: Counter[str] = Counter()

    def add(self, entry: Entry) -> None:
        """Take into account what became of an interface."""
        log_entry(entry)
        self.counts[entry.outcome] += 1
        if OUTCOMES[entry.outcome].unfinished:
            self._add_unfinished(entry)
        if entry.interface_id and entry.outcome != "skipped":
            self._meant += 1
            has_ours = entry.session_id is not None and not entry.elsewhere
            self._covered += has_ours and entry.outcome != "blocked"
            self.elsewhere += entry.elsewhere
        self._keep(entry)

    def _add_unfinished(self, entry: Entry) -> None:
        self.unfinished_instances.add(entry.instance_id)
        self.sweep_unfinished |= entry.request.sweep
        if entry.instance_id is None:
            self._stopped = True
            self.pages_failed |= entry.outcome == "failed"
        if entry.request.sweep and OUTCOMES[entry.outcome].next_sweep:
            return
        self._due[entry.outcome] += 1
        if self._due[entry.outcome] <= NAMED_IN_ERROR:
            name = entry.interface_id or entry.instance_id or "further instances"
            self._causes[entry.outcome].setdefault(entry.reason, []).append(name)

    def _keep(self, entry: Entry) -> None:
        """Keep an entry for the body; in a sweep, what needs attention least gives way."""
        if self._rows[entry.outcome] + len(entry.sensors) > ROWS_IN_BODY:
            entry = entry._replace(sensors=())
        self._rows[entry.outcome] += len(entry.sensors)
        self._kept[entry.outcome].append(entry)
        if self.sweep and sum(map(len, self._kept.values())) > LISTED_BY_SWEEP:
            least = next(outcome for outcome in reversed(OUTCOMES) if self._kept[outcome])
            self._rows[least] -= len(self._kept[least].pop().sensors)

    @property
    def summary(self) -> dict[str, int]:
        """The count of each outcome that occurs, those that need attention first."""
        return {outcome: self.counts[outcome] for outcome in OUTCOMES if self.counts[outcome]}

    def message(self, dry_run: bool, notes: Sequence[str] = ()) -> str:
        """One sentence on what became of the interfaces, and what there is to add."""
        counts = ", ".join(f"{count} {outcome}" for outcome, count in self.summary.items())
        prefix = "Dry run, nothing is created: " if dry_run else ""
        total = sum(self.counts.values())
        number = f"{total} interface{'' if total == 1 else 's'}"
        sentence = f"{prefix}{number}: {counts}." if total else f"{prefix}nothing to look at."
        more = len(notes) - NOTES_IN_MESSAGE
        rest = [f"And {more} more."] if more > 0 else []
        return " ".join([sentence, *notes[:NOTES_IN_MESSAGE], *rest])

    def unfinished(self) -> str | None:
        """How many interfaces there is no answer for, which and why; None where there are none.
        What a sweep defers, the next one goes on with."""
        if not self._due:
            return None
        due = {outcome: self._due[outcome] for outcome in OUTCOMES if self._due[outcome]}
        counts = ", ".join(f"{count} {outcome}" for outcome, count in due.items())
        causes = [cause for outcome in due for cause in self._causes[outcome].items()]
        reasons = " ".join(f"{', '.join(names)}: {reason}" for reason, names in causes)
        more = sum(due.values()) - sum(len(names) for _, names in causes)
        return f"{counts}. {reasons}" + (f" And {more} more." if more > 0 else "")

    def result(self, status: int, message: str, dry_run: bool) -> dict[str, Any]:
        """The handler's result. To keep the body under 1 MB, the sensors of those that need
        attention least go first, and then the interfaces themselves."""
        body = {"message": message, "dry_run": dry_run, "summary": self.summary, "interfaces": []}
        room = BODY_LIMIT - len(json.dumps(body)) - 1
        by_attention = [entry for entries in self._kept.values() for entry in entries]
        listed: list[tuple[Entry, dict[str, Any]]] = []
        for entry in by_attention:
            bare = {**entry.as_dict(), "sensors": []}
            room -= len(json.dumps(bare)) + 2
            if room < 0:
                break
            listed.append((entry, bare))
        for entry, bare in listed:
            sensors = list(entry.sensors)
            size = len(json.dumps(sensors)) - 2
            if size <= room:
                bare["sensors"] = sensors
                room -= size
        if not self.sweep:
            listed.sort(key=lambda pair: pair[0].place)
        body["interfaces"] = [bare for _, bare in listed]
        return {"statusCode": status, "body": json.dumps(body)}

    @property
    def coverage(self) -> float | None:
        """The percentage of the interfaces meant to be mirrored that are, to a target of ours; None
        where there are none, or not all are known."""
        if not self.sweep or not self._meant or self.pages_failed or self._stopped:
            return None
        return 100 * self._covered / self._meant


def log_entry(entry: Entry) -> None:
    """One log record per interface: a sentence, and the entry as further fields, which Lambda's
    JSON log format keeps. What a sweep finds in order would drown the rest, so it is DEBUG, and its
    rows of sensors would repeat megabytes."""
    outcome = OUTCOMES[entry.outcome]
    level = logging.DEBUG if entry.request.sweep and outcome.usual else outcome.level
    if not logger.isEnabledFor(level):
        return
    fields = entry.as_dict()
    if entry.request.sweep:
        del fields["sensors"]
    where = " of ".join(filter(None, (entry.interface_id, entry.instance_id))) or "Sweep"
    logger.log(level, "%s: %s. %s", where, entry.outcome, entry.reason, extra=fields)


def print_metrics(
    context: object, report: Report, invalid: int, sessions: Mapping[str, int]
) -> None:
    """Print the invocation's metrics in CloudWatch's embedded metric format, one line a document.

    Args:
        context: Lambda's context object, for the function's name.
        report: the outcomes.
        invalid: events that could not be understood.
        sessions: by target ID, as far as they are known.
    """
    default_name = os.environ.get("AWS_LAMBDA_FUNCTION_NAME", __name__)
    function_name = str(getattr(context, "function_name", None) or default_name)
    counts = {**{outcome: report.counts[outcome] for outcome in OUTCOMES}, "invalid": invalid}
    values: dict[str, tuple[float, str]] = {k: (count, "Count") for k, count in counts.items()}
    if report.sweep:
        values["Sweeps"] = int(not report.pages_failed), "Count"
        values["Elsewhere"] = report.elsewhere, "Count"
    if report.coverage is not None:
        values["Coverage"] = report.coverage, "Percent"
    documents = [metric_document({"FunctionName": function_name}, values)]
    for target_id, count in sessions.items() if report.sweep else ():
        dimensions = {"FunctionName": function_name, "TargetId": target_id}
        documents.append(metric_document(dimensions, {"Sessions": (count, "Count")}))
    # One write, so that lines of several threads do not mix.
    sys.stdout.write("".join(f"{json.dumps(document)}\n" for document in documents))
    sys.stdout.flush()


def metric_document(
    dimensions: Mapping[str, str], values: Mapping[str, tuple[float, str]]
) -> dict[str, Any]:
    """A document in the embedded metric format, of values with their units."""
    metrics = [{"Name": name, "Unit": unit} for name, (_, unit) in values.items()]
    directive = {"Namespace": "TrafficMirror", "Dimensions": [list(dimensions)], "Metrics": metrics}
    aws = {"Timestamp": int(time.time() * 1_000), "CloudWatchMetrics": [directive]}
    return {"_aws": aws, **dimensions, **{name: value for name, (value, _) in values.items()}}


# ======================================================================================
# 10  Handler
# ======================================================================================


def lambda_handler(event: object, context: object) -> dict[str, Any]:
    """Mirror the instances that an event names, or all that run.

    Args:
        event: an event of EC2, CloudTrail or a schedule, a hand-written test event, a batch of SQS
            messages or an array or SNS notification of these; see README.md.
        context: Lambda's context object, or None.

    Returns:
        `{"statusCode": 200 or 400, "body": JSON text}`; for a batch of SQS messages the IDs of
        those to be delivered again.

    Raises:
        ConfigurationError: an environment variable is missing or malformed.
        MirroringError: AWS gave no useful answer, or time ran out, for some interfaces. The others
            have been worked on. Never raised for what SQS messages ask, and for time that ran out
            in sweeps.
    """
    messages = open_delivery(event, str(getattr(context, "aws_request_id", None) or uuid.uuid4()))
    requests = [request for message in messages for request in message.requests]
    errors = [error for message in messages for error in message.errors]
    log_errors(messages)
    report = Report(sweep=any(request.sweep for request in requests))
    dry_run = bool(requests) and all(request.dry_run for request in requests)
    notes = [*(request.ignored for request in requests if request.ignored), *map(str, errors)]
    sessions: Mapping[str, int] = {}
    if requests:
        configuration = Configuration.from_environment(os.environ)
        dry_run |= configuration.dry_run
        own = Own.of(context)
        mirroring = Mirroring(configuration, Deadline(context), own)
        for entry in mirroring.entries(Work.of(requests, own)):
            report.add(entry)
        if error := mirroring.region.error:
            report.pages_failed |= error.outcome == "failed"
        sessions = mirroring.region.sessions_per_own_target()
        if report.counts and (without := mirroring.accounts_without_targets()):
            notes.append(f"{no_targets_of(without).capitalize()}.")
            logger.warning("%s", notes[-1])
    print_metrics(context, report, len(errors), sessions)
    if messages[0].message_id is not None:
        again = [message for message in messages if is_unfinished(message, report)]
        return {"batchItemFailures": [{"itemIdentifier": m.message_id} for m in again]}
    if problem := report.unfinished():
        raise MirroringError(problem)
    bad = errors or any(OUTCOMES[outcome].bad for outcome in report.counts)
    if len(notes) == len(requests) + len(errors) == 1 and not report.counts:
        message = notes[0]  # the one event asks for nothing, or cannot be understood
    else:
        message = report.message(dry_run, notes)
    return report.result(400 if bad else 200, message, dry_run)


def log_errors(messages: Iterable[Message]) -> None:
    """Log what could not be understood. An SQS message is delivered again for it."""
    for message in messages:
        for error in message.errors:
            if message.message_id is None:
                logger.warning("Invalid event. %s", error)
            else:
                logger.error(
                    "Message %s is unreadable. %s", one_line(message.message_id, 100), error
                )


def is_unfinished(message: Message, report: Report) -> bool:
    """Whether SQS is to deliver a message again: something in it could not be understood, or there
    is no answer for an interface that it asks for."""
    return bool(message.errors) or any(
        (request.sweep and report.sweep_unfinished)
        or not report.unfinished_instances.isdisjoint(request.instance_ids)
        for request in message.requests
    )


if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
    # In its plain text format Lambda leaves the level at WARNING; in JSON it sets the level itself.
    if "AWS_LAMBDA_LOG_LEVEL" not in os.environ:
        logger.setLevel(logging.INFO)
    # At DEBUG botocore and urllib3 would log every request, session token included.
    for library in ("botocore", "urllib3"):
        logging.getLogger(library).setLevel(logging.INFO)
    logger.info("Version %s of %s", VERSION, __name__)
    # Lambda gives the import phase its full CPU. What fails here fails again, and is reported, at
    # the first call. Nothing of what the client is made from is ever garbage, so the collector need
    # not look through it, neither while it is made nor later.
    gc.disable()
    with suppress(BotoCoreError, ValueError):
        ec2_client()
    gc.freeze()
    gc.enable()
