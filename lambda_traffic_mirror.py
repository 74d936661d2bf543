"""Mirror the traffic of every EC2 instance to the right network sensor, by itself.

An AWS Lambda function. EventBridge reports that an instance is running; for each of its network
interfaces that has no traffic mirror session yet, the function takes the sensors (traffic mirror
targets) in the same Availability Zone, drops those that VXLAN packets (UDP 4789) from the interface
cannot reach because of security groups, network ACLs or routes, takes the one with the fewest
sessions and creates the session.

The sections stand in the order in which data flows:

    1  Configuration   what the environment variables say
    2  Events          what an event asks for
    3  Errors          every way in which AWS may not answer
    4  Nouns           interface, instance, target, session, security group, network ACL, route
    5  AWS             every call, each in one place: a Describe call is a row of a table
    6  Region          targets, sensors and sources, joined with what AWS says about them
    7  Judging         the stages, pure: can packets of this source reach that sensor, and why
    8  Mirroring       one flow from task to entry: the guide's four steps
    9  Reporting       result, log records, metrics
    10 Handler         the summary of all of the above

A tour in five minutes: Source and Face (section 6) hold everything that judging looks
at; the table of Reads (5) shows where it comes from; PIPELINE (7) is the guide's order of stages;
Mirroring.mirror (8) is the way of an interface from event to session; lambda_handler (10) ties
everything together.

A new filter is a function in section 7 and a line in PIPELINE, and in REACHABILITY where it holds
for sessions that exist; what it looks at is a field of Source or Face, filled where
Region joins them. A new Describe call is a row among the Reads. A new outcome is a line in
OUTCOMES, a new refusal by AWS a line in REFUSALS (8). A new kind of event is a case in section 2.
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
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from enum import Enum, IntEnum
from functools import cache, lru_cache, partial
from itertools import chain
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from netaddr import AddrFormatError, IPAddress, IPNetwork

VERSION = "3.0.0"

# Defaults of the environment variables `targets` and `LOCAL_ZONE_ONLY`, for operators who prefer
# to edit the file.
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
    filter_tag: str
    targets_tag: str
    mirror_databases: bool
    session_number: int
    virtual_network_id: int | None
    packet_length: int | None
    session_tags: tuple[Tag, ...]
    mirror_alongside: bool
    allow_unverified: bool
    cache_seconds: int
    dry_run: bool

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
            filter_tag=setting.text("FILTER_TAG"),
            targets_tag=setting.text("TARGETS_TAG"),
            mirror_databases=setting.boolean("MIRROR_DATABASES", False),
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
        ids = split_ids(self.text(name))
        if len(ids) != 1:
            raise self._error(name, self.text(name), what)
        return ids[0]

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

TEST_EVENT = '{"detail": {"instance-id": "i-0123456789abcdef0"}}'
# An ID never has the wildcards of filters: they would name instances that the event does not ask
# for.
INSTANCE_ID = re.compile(r"[\w.:/-]+", re.ASCII)
LONGEST_TEXT = 500  # characters of a text from outside that the function shows


class MirroringError(RuntimeError):
    """Some interfaces are without an answer; Lambda is to deliver the event again."""


class InvalidEvent(ValueError):
    """The function does not know this kind of event; the message shows one that works."""

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
        origin: the account and Region that the event names, in words; empty without them.
    """

    event_id: str
    dry_run: bool
    instance_ids: tuple[str, ...] = ()
    sweep: bool = False
    ignored: str | None = None
    origin: str = ""


class Message(NamedTuple):
    """What Lambda hands over: one event, or one SQS message of a batch.

    Attributes:
        message_id: by which SQS is told to deliver it again; None for what is not from SQS.
        requests: what its events ask for, of those that can be understood.
        errors: why the others cannot.
    """

    message_id: str | None
    requests: list[Request]
    errors: list[InvalidEvent]


def open_delivery(event: object, default_id: str) -> list[Message]:
    """Take apart what Lambda hands over.

    Args:
        event: an event, or a batch of records of SQS or SNS.
        default_id: takes the place of the ID of events that have none.

    Raises:
        MirroringError: a record of an SQS batch cannot be named for another delivery. Lambda takes
            every answer except an error for success, so the whole batch has to come again.
    """
    match event:
        case {"Records": [*records]} if any(is_from(record, "aws:sqs") for record in records):
            for record in records:
                if not is_from(record, "aws:sqs") or not text_of(record, "messageId"):
                    raise MirroringError(
                        f"A batch of {len(records)} records has one that is no SQS message with a "
                        f"messageId ({shown(record)}), so the function cannot name the records to "
                        "deliver again."
                    )
            return [parsed(r["messageId"], [r.get("body")], event, default_id) for r in records]
        case {"Records": [*records]} if any(is_from(record, "aws:sns") for record in records):
            return [parsed(None, records, event, default_id)]
        case _:
            return [parsed(None, [event], {}, default_id)]


def is_from(record: object, source: str) -> bool:
    """Whether a record is from this source: SQS spells the member otherwise than SNS."""
    names = ("eventSource", "EventSource")
    return isinstance(record, dict) and source in (record.get(name) for name in names)


def parsed(
    message_id: str | None, contents: Iterable[object], batch: Any, default_id: str
) -> Message:
    """A message with what its contents ask for, each understood by itself. Whatever is at the top
    of an envelope holds for all that is in it."""
    message = Message(message_id, [], [])
    for content in contents:
        try:
            dry_run = boolean_member(batch, "dry_run")
            event = content if message_id is None else from_json(content)
            match event:
                case {"EventSource": "aws:sns", "Sns": {"Message": text}}:
                    event = from_json(text)
                case {"Type": "Notification", "Message": text, **more} if message_id is not None:
                    dry_run |= boolean_member(more, "dry_run")
                    event = from_json(text)
            message.requests.append(parse_event(event, default_id, dry_run))
        except InvalidEvent as error:
            message.errors.append(error)
    return message


def parse_event(event: object, default_id: str, dry_run: bool) -> Request:
    """What an event without an envelope asks for.

    Args:
        event: the event.
        default_id: takes the place of the event's ID where it has none.
        dry_run: the envelope's switch; either of the two switches the dry run on.

    Raises:
        InvalidEvent: not an event that the function knows.
    """
    if not isinstance(event, dict):
        raise InvalidEvent(f"The event is {shown(event)}, not an object.")
    kind, sweep = event.get("detail-type"), boolean_member(event, "sweep")
    # A bus may gather events of other accounts, and the console's sample is of one that does not
    # exist.
    origin = [(word, event.get(word.lower())) for word in ("account", "Region")]
    request = Request(
        event_id=text_of(event, "id") or default_id,
        dry_run=boolean_member(event, "dry_run") or dry_run,
        origin=", ".join(f"{word} {shown(value)}" for word, value in origin if value),
    )
    # A scheduled event has an empty detail.
    if sweep + ("instance-ids" in event) + ("detail" in event and kind != "Scheduled Event") > 1:
        raise InvalidEvent("The event asks for several of detail, instance-ids and sweep.")
    match event:
        case {"detail-type": "Scheduled Event"}:
            return request._replace(sweep=True)
        case {"detail-type": "AWS API Call via CloudTrail"}:
            return parse_api_call(event.get("detail"), request)
        case _ if kind not in (None, "EC2 Instance State-change Notification"):
            raise InvalidEvent(f"Events of detail-type {shown(kind)} are not known.")
        case {"instance-ids": [*ids]} if ids:
            return request._replace(instance_ids=tuple(map(instance_id, ids)))
        case {"instance-ids": ids}:
            raise InvalidEvent(f"instance-ids is {shown(ids)}, not a list of instance IDs.")
        case {"detail": detail}:
            return parse_detail(detail, request)
        case _ if sweep:
            return request._replace(sweep=True)
        case _:
            raise InvalidEvent("The event names no instance.")


def parse_detail(detail: object, request: Request) -> Request:
    """The request with the instance that the `detail` of a state change names."""
    if not isinstance(detail, dict):
        raise InvalidEvent(f"detail is {shown(detail)}, not an object with an instance-id.")
    identifier, state = instance_id(detail.get("instance-id")), detail.get("state", "running")
    if not isinstance(state, str):
        raise InvalidEvent(f"state is {shown(state)}, not the name of an instance state.")
    if state == "running":
        return request._replace(instance_ids=(identifier,))
    ignored = f"{identifier} is {shown(state)}; only running instances are mirrored."
    return request._replace(ignored=ignored)


def parse_api_call(detail: object, request: Request) -> Request:
    """The request with the instances that a call to EC2 names, as CloudTrail records it."""
    if not isinstance(detail, dict) or detail.get("eventSource") != "ec2.amazonaws.com":
        source = detail.get("eventSource") if isinstance(detail, dict) else detail
        raise InvalidEvent(f"eventSource is {shown(source)}, not 'ec2.amazonaws.com'.")
    call = f"The recorded call {shown(detail.get('eventName'))}"
    if detail.get("errorCode"):
        return request._replace(ignored=f"{call} failed, so it changed nothing.")
    if detail.get("readOnly") in (True, "true"):
        return request._replace(ignored=f"{call} only reads, so it changed nothing.")
    named: dict[str, None] = {}
    # Taken from the end, so that what the call asked comes before what AWS answered.
    rest = [detail.get("responseElements"), detail.get("requestParameters")]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            rest.extend(reversed(value.values()))
            named.update(
                (text[:LONGEST_TEXT], None) for key, text in value.items() if names(key, text)
            )
        elif isinstance(value, list):
            rest.extend(reversed(value))
    if not named:
        return request._replace(ignored=f"{call} names no instance.")
    return request._replace(instance_ids=tuple(named))


def names(key: str, value: object) -> bool:
    """Whether a member of a recorded call names an instance. CreateTags and DeleteTags name
    resources of all kinds."""
    if not isinstance(value, str) or not INSTANCE_ID.fullmatch(value):
        return False
    return key.lower() == "instanceid" or (key.lower() == "resourceid" and value.startswith("i-"))


def instance_id(value: object) -> str:
    """An instance ID as events spell it; one that is too long to exist is cut."""
    if isinstance(value, str) and INSTANCE_ID.fullmatch(value.strip()):
        return value.strip()[:LONGEST_TEXT]
    raise InvalidEvent(f"instance-id is {shown(value)}, not an instance ID.")


def boolean_member(event: Mapping[Any, Any], name: str) -> bool:
    """The JSON boolean of that name in the event; False where it is missing."""
    value = event.get(name, False)
    if not isinstance(value, bool):
        raise InvalidEvent(f"{name} is {shown(value)}, not true or false.")
    return value


def text_of(event: Mapping[str, Any], name: str) -> str | None:
    """The text of that name in an event; None where it is missing, empty or no text."""
    value = event.get(name)
    return value if isinstance(value, str) and value else None


def from_json(text: object) -> object:
    """The JSON in the body of a message."""
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError) as error:
        raise InvalidEvent(f"The message is not JSON ({ascii(str(error))[:80]}).") from None


def shown(value: object) -> str:
    """A value from outside, short and safe to print."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list" if value else "an empty list"
    return "missing" if value is None else ascii(value)[:80]


def one_line(text: str, most: int = LONGEST_TEXT) -> str:
    """A text from outside on one line: control characters escaped, and cut where it is too long."""
    escaped = re.sub(
        r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]",
        lambda char: ascii(char[0])[1:-1],
        text[: most + 1],
    )
    return shortened(escaped, most)


def shortened(text: str, most: int) -> str:
    """A text, cut to so many characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def own_account_of(context: object) -> str | None:
    """The account that the function belongs to, from its ARN in Lambda's context object; None
    without a context."""
    parts = str(getattr(context, "invoked_function_arn", "")).split(":")
    return parts[4] if len(parts) > 5 else None


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
        """The work of these requests. Where one event wants an instance mirrored and another wants
        a dry run, the instance is mirrored."""
        instances: dict[str, Request] = {}
        sweep: Request | None = None
        for request in requests:
            for identifier in request.instance_ids:
                if instances.setdefault(identifier, request).dry_run:
                    instances[identifier] = request
            if request.sweep and (sweep is None or sweep.dry_run):
                sweep = request
        if sweep and not sweep.dry_run:
            instances = {key: request for key, request in instances.items() if not request.dry_run}
        return cls(instances, sweep)


# ======================================================================================
# 3  Errors
# ======================================================================================


class Failure(Enum):
    """How a call to AWS came to nothing."""

    DENIED = "a permission is missing"
    REFUSED = "AWS understood the call and will refuse it again"
    THROTTLED = "AWS did nothing, and later it may"
    CREDENTIALS = "AWS does not accept the credentials"
    LOST = "no answer, or none to rely on: AWS may have carried the call out all the same"


# AWS's codes and what they mean. Any other code is a refusal, unless botocore retries its status.
FAILURE_CODES = {
    Failure.DENIED: "UnauthorizedOperation AccessDenied AccessDeniedException",
    Failure.THROTTLED: """
        RequestLimitExceeded Throttling ThrottlingException ThrottledException RequestThrottled
        RequestThrottledException EC2ThrottledException TooManyRequestsException SlowDown""",
    Failure.CREDENTIALS: """
        AuthFailure ExpiredToken ExpiredTokenException IncompleteSignature InvalidClientTokenId
        MissingAuthenticationToken RequestExpired SignatureDoesNotMatch
        UnrecognizedClientException""",
    # What botocore retries besides status 5xx and throttling, and what says nothing about the call
    # itself: the account is not subscribed, is under verification, or is blocked.
    Failure.LOST: """
        BandwidthLimitExceeded InternalError InternalFailure LimitExceededException
        PriorRequestNotComplete ProvisionedThroughputExceededException RequestTimeout
        RequestTimeoutException ServiceUnavailable TransactionInProgressException Unavailable
        Blocked OptInRequired PendingVerification""",
}
FAILURES = {code: failure for failure, codes in FAILURE_CODES.items() for code in codes.split()}
CREATE = "CreateTrafficMirrorSession"


class Unanswered(Exception):
    """AWS gave no useful answer, so what depends on it cannot be decided.

    Attributes:
        outcome: what that means for an interface.
        final: whether the next attempt would come to the same.
    """

    outcome = "failed"
    final = False


class OutOfTime(Unanswered):
    """Too little of the invocation's time is left to begin anything."""

    outcome = "deferred"

    def __str__(self) -> str:
        return "The invocation's time ran out"


class Unreadable(Unanswered):
    """A row of an answer is not what AWS documents."""

    final = True
    operation = "AWS"

    def in_answer_of(self, operation: str) -> Unreadable:
        """The same, with the operation that AWS answered so."""
        self.operation = operation
        return self

    def __str__(self) -> str:
        return f"The answer of {self.operation} cannot be understood: {super().__str__()}"


class CallFailed(Unanswered):
    """A call to AWS failed, botocore's retries included.

    Attributes:
        operation: the API operation, such as DescribeNetworkAcls.
        code: AWS's error code, or the name of botocore's error.
        message: AWS's or botocore's message.
        failure: what that means.
        role: the role in another account through which the function called, if any.
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
    def of(cls, operation: str, error: Exception, role: str | None) -> CallFailed:
        """From an error that botocore raised."""
        if not isinstance(error, ClientError):
            return cls(operation, type(error).__name__, str(error), Failure.LOST, role)
        # The call itself, or the AssumeRole that it took.
        operation = getattr(error, "operation_name", None) or operation
        details = error.response.get("Error") or {}
        code, message = (str(details.get(name) or "").strip() for name in ("Code", "Message"))
        # A proxy's page has no code; botocore then shows the status in its place.
        if code.isdigit() or not code:
            return cls(operation, code or "an error without a code", message, Failure.LOST, role)
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400)
        retried = status >= 500 or status == 429  # by botocore, whatever the code
        failure = FAILURES.get(code, Failure.LOST if retried else Failure.REFUSED)
        if operation == CREATE and code == "AuthFailure" and "credential" not in message.lower():
            failure = Failure.REFUSED  # the reads were let in, so it is about the interface
        return cls(operation, code, message, failure, role)

    @property
    def detail(self) -> str:
        """The message without the encoded part, which only AWS can read."""
        readable = re.split(r"\.?\s*Encoded authorization failure", self.message)[0]
        return one_line(readable.rstrip("."))

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
        """Which permission is missing, and where."""
        if self.operation == "AssumeRole":
            permissions = f"sts:AssumeRole on {self.role}, which has to trust it"
        elif named := re.search(r"perform:? ([\w-]+:\w+)", self.detail):
            permissions = named[1]
        else:
            # Creating a session with a tag takes two permissions.
            also = " and ec2:CreateTags" if self.operation == CREATE else ""
            permissions = f"ec2:{self.operation}{also}"
        who = self.role if self.role and self.operation != "AssumeRole" else "the function's role"
        if re.search("explicit deny|control policy|boundary|session policy", self.detail):
            needs = f"{permissions} is denied to {who} by more than its own policy"
        else:
            needs = f"{who} needs {permissions}"
        return f"{self.code}: {needs}" + (f". AWS says: {self.detail}" if self.detail else "")


def asked(call: Callable[..., T], *arguments: Any) -> T | Unanswered:
    """What a call returns, or the error that `told` raises where the answer is needed."""
    try:
        return call(*arguments)
    except Unanswered as error:
        return error


def told(answer: T | Unanswered) -> T:
    """The answer; an error in its place is raised. Its traceback is dropped each time: it would
    keep all that the frames on the way hold."""
    if isinstance(answer, Unanswered):
        raise answer.with_traceback(None)
    return answer


class Deadline:
    """How long the invocation may still begin something.

    A fifth of the time that is left at the start, 12 s at most, is kept in reserve: it outlasts a
    call that stays silent, and leaves time to report.

    Args:
        context: Lambda's context object; without one, or with one without a clock, there is no
            deadline.
    """

    def __init__(self, context: object) -> None:
        self._remaining_milliseconds: Callable[[], float] = getattr(
            context, "get_remaining_time_in_millis", lambda: float("inf")
        )
        self.reserve = min(12_000.0, self._remaining_milliseconds() / 5)  # milliseconds

    def allows(self, seconds: float = 0.0) -> bool:
        """Whether something may begin in so many seconds."""
        return self._remaining_milliseconds() - 1_000 * seconds >= self.reserve

    def check(self, seconds: float = 0.0) -> None:
        """Raise OutOfTime unless something may begin in so many seconds."""
        if not self.allows(seconds):
            raise OutOfTime

    def sleep(self, seconds: float) -> None:
        """Wait, unless nothing could begin afterwards: then raise OutOfTime at once."""
        self.check(seconds)
        time.sleep(seconds)


# ======================================================================================
# 4  Nouns
# ======================================================================================
# Named tuples, because every cold start pays for making the classes, and a dataclass takes five
# times as long to make. Each is made from a row of an answer by its `of`, which reads the row
# plainly: where a member is missing that AWS always sends, `noun` turns Python's error into
# Unreadable.

VXLAN_PORT = 4789
VXLAN = f"udp/{VXLAN_PORT}"
UDP_NUMBER = "17"  # the IANA number, which is how EC2 spells protocols without a name
ANY_PROTOCOL = "-1"

Row = Mapping[str, Any]


def noun(of: Callable[..., T], row: Any, *more: Any) -> T | Unreadable:
    """What `of` makes of a row, or the error that stands in its place: the one guard between the
    rows of AWS's answers and the rest of the module."""
    try:
        return of(row, *more)
    except Unreadable as error:
        return error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        missing = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        return Unreadable(missing)


def required(row: Row, name: str) -> str:
    """The text that AWS always sends under this name, and never empty."""
    if not row[name]:
        raise ValueError(f"{name} is empty")
    return str(row[name])


@lru_cache(maxsize=65_536)
def block_bounds(cidr: str) -> tuple[int, int]:
    """First and last address of an IPv4 CIDR block, as numbers. Parsing costs far more than
    comparing, and accounts repeat the same blocks, so each is parsed once, and only where it is
    compared."""
    try:
        network = IPNetwork(cidr)
    except (AddrFormatError, TypeError, ValueError):
        network = None
    if network is None or network.version != 4:
        raise Unreadable(f"{shown(cidr)} is not an IPv4 CIDR block")
    return network.first, network.last


@lru_cache(maxsize=65_536)
def address_number(address: str) -> int:
    """An IPv4 address such as 10.0.0.5 as a number."""
    try:
        return int(IPAddress(address, 4))
    except (AddrFormatError, TypeError, ValueError):
        raise Unreadable(f"{shown(address)} is not an IPv4 address") from None


def contains(cidr: str, address: str) -> bool:
    """Whether an IPv4 CIDR block contains an address."""
    first_number, last_number = block_bounds(cidr)
    return first_number <= address_number(address) <= last_number


class Interface(NamedTuple):
    """A network interface: a source of mirrored traffic, or one on which a sensor receives.

    Attributes:
        interface_id: empty for an interface of another account that cannot be seen.
        host_id: the instance that it is attached to.
        zone: name of its Availability Zone, in the mapping of the account that asked.
        zone_id: the ID of that zone, alike in all accounts; None where an old boto3 drops it.
        address: the primary private IPv4 address, from which VXLAN packets leave and at which they
            arrive; None where there is none (IPv6-only subnets).
        is_first: whether its instance was launched with it (device index 0, network card 0).
    """

    interface_id: str
    interface_type: str = "interface"
    description: str = ""
    host_id: str | None = None
    zone: str | None = None
    zone_id: str | None = None
    vpc_id: str | None = None
    subnet_id: str | None = None
    address: str | None = None
    group_ids: tuple[str, ...] = ()
    is_first: bool = True

    @classmethod
    def of(cls, row: Row, placement: Row | None = None) -> Interface:
        """From a row of DescribeNetworkInterfaces, or from one within a row of DescribeInstances,
        where the placement is the instance's."""
        primary = [a for a in row.get("PrivateIpAddresses") or () if a.get("Primary")]
        address = row.get("PrivateIpAddress") or None
        if primary:
            address = required(primary[0], "PrivateIpAddress")
        if address:
            address_number(address)  # one that cannot be read is no address
        placed = row if placement is None else placement
        return cls(
            interface_id=required(row, "NetworkInterfaceId"),
            interface_type=row.get("InterfaceType") or "interface",
            description=row.get("Description") or "",
            host_id=(row.get("Attachment") or {}).get("InstanceId"),
            zone=required(placed, "AvailabilityZone"),
            zone_id=placed.get("AvailabilityZoneId") or None,
            vpc_id=required(row, "VpcId"),
            subnet_id=required(row, "SubnetId"),
            address=address,
            group_ids=tuple(required(group, "GroupId") for group in row["Groups"]),
            is_first=device_position(row) == (0, 0),
        )


# The interface of a sensor that another account owns and does not show.
HIDDEN = Interface("")


def device_position(row: Row) -> tuple[int, int]:
    """Where an interface is attached: device index and network card."""
    attachment = row.get("Attachment") or {}
    return attachment.get("DeviceIndex") or 0, attachment.get("NetworkCardIndex") or 0


class Instance(NamedTuple):
    """An EC2 instance with its network interfaces.

    Attributes:
        managed: whether a service manages it (EKS Auto Mode and others).
        interfaces: by ID, in the order of their device index; an error in place of one that cannot
            be read.
    """

    instance_id: str
    state: str
    instance_type: str
    managed: bool
    tags: Mapping[str, str]
    interfaces: Mapping[str, Interface | Unreadable]

    @classmethod
    def of(cls, row: Row) -> Instance:
        """From a row of DescribeInstances."""
        placement = row["Placement"]
        return cls(
            instance_id=required(row, "InstanceId"),
            state=state_of(row),
            instance_type=row.get("InstanceType") or "",
            managed=bool((row.get("Operator") or {}).get("Managed")),
            tags=tags_of(row),
            interfaces={
                required(interface, "NetworkInterfaceId"): noun(Interface.of, interface, placement)
                for interface in sorted(row.get("NetworkInterfaces") or (), key=device_position)
            },
        )

    @property
    def is_up(self) -> bool:
        """Whether it runs. EC2 may still say pending when its event says running."""
        return self.state in ("running", "pending")


def state_of(row: Row) -> str:
    """The state of an instance, from a row of DescribeInstances."""
    return required(row["State"], "Name")


def tags_of(row: Row) -> dict[str, str]:
    """The tags of a row, key to value."""
    return {tag["Key"]: tag.get("Value") or "" for tag in row.get("Tags") or ()}


class Session(NamedTuple):
    """A traffic mirror session. The owner of a sensor may not see the interface and the number."""

    session_id: str
    target_id: str
    interface_id: str | None = None
    number: int | None = None

    @classmethod
    def of(cls, row: Row) -> Session:
        """From a row of DescribeTrafficMirrorSessions, or from the answer to a create."""
        return cls(
            session_id=required(row, "TrafficMirrorSessionId"),
            target_id=required(row, "TrafficMirrorTargetId"),
            interface_id=row.get("NetworkInterfaceId"),
            number=row.get("SessionNumber"),
        )


class Target(NamedTuple):
    """A traffic mirror target: an interface, or a load balancer or endpoint whose interfaces are
    known by their descriptions. A shared one may be shown without either.

    Attributes:
        descriptions: of the interfaces of its load balancer or endpoint.
    """

    target_id: str
    owner_id: str | None
    interface_id: str | None
    descriptions: tuple[str, ...]

    @classmethod
    def of(cls, row: Row) -> Target:
        """From a row of DescribeTrafficMirrorTargets."""
        descriptions: tuple[str, ...] = ()
        if arn := row.get("NetworkLoadBalancerArn"):
            descriptions = (f"ELB {arn.partition(':loadbalancer/')[2]}",)
        elif endpoint := row.get("GatewayLoadBalancerEndpointId"):
            # EC2 writes these with and without a colon.
            descriptions = tuple(f"VPC Endpoint Interface{colon} {endpoint}" for colon in ("", ":"))
        return cls(
            target_id=required(row, "TrafficMirrorTargetId"),
            owner_id=row.get("OwnerId"),
            interface_id=row.get("NetworkInterfaceId") or None,
            descriptions=descriptions,
        )

    @property
    def shows_where(self) -> bool:
        """Whether it shows on which interfaces it receives."""
        return bool(self.interface_id or self.descriptions)


class Origin(NamedTuple):
    """What an inbound rule about VXLAN of a security group admits packets from: an IPv4 block, the
    members of a security group, or a managed prefix list.

    Attributes:
        group_id: the security group that has the rule.
        status: of the peering connection that a reference to a group crosses; None where AWS shows
            none: the referenced group is in the VPC, or somewhere else.
        error: why the rules of the group, or the blocks of the prefix list, are not known.
    """

    group_id: str
    cidr: str | None = None
    members_of: str | None = None
    list_id: str | None = None
    status: str | None = "active"
    error: Unanswered | None = None

    def contains(self, source: Source) -> bool:
        """Whether packets of the source come from there."""
        if self.error:
            told(self.error)
        if self.cidr:
            return contains(self.cidr, source.address)
        return self.members_of in source.interface.group_ids

    def __str__(self) -> str:
        if self.members_of:
            return f"members of {self.members_of}"
        return f"{self.cidr} in prefix list {self.list_id}" if self.list_id else f"{self.cidr}"


def origins_of(group: Row) -> tuple[Origin, ...]:
    """The origins of a security group's rules about VXLAN, from a row of DescribeSecurityGroups. A
    rule that cannot be read is an origin with an error."""
    group_id = required(group, "GroupId")
    origins: list[Origin] = []
    for rule in group["IpPermissions"]:
        found = noun(origins_of_rule, rule, group_id)
        origins += [Origin(group_id, error=found)] if isinstance(found, Unreadable) else found
    return tuple(origins)


def origins_of_rule(rule: Row, group_id: str) -> list[Origin]:
    """The origins of one rule; none where it is not about VXLAN."""
    protocol, ports = required(rule, "IpProtocol"), (rule.get("FromPort"), rule.get("ToPort"))
    if not covers_vxlan(protocol, "udp", *ports):
        return []
    blocks = [required(block, "CidrIp") for block in rule.get("IpRanges") or ()]
    lists = [required(row, "PrefixListId") for row in rule.get("PrefixListIds") or ()]
    groups = [
        (required(pair, "GroupId"), pair.get("PeeringStatus") or None)
        for pair in rule.get("UserIdGroupPairs") or ()
    ]
    return [
        *(Origin(group_id, cidr=cidr) for cidr in blocks),
        *(Origin(group_id, members_of=key, status=status) for key, status in groups),
        *(Origin(group_id, list_id=key) for key in lists),
    ]


def covers_vxlan(protocol: str, udp: str, low: int | None, high: int | None) -> bool:
    """Whether a rule of a security group or a network ACL is about UDP port 4789. Rules for all
    protocols are about all ports, whatever ports they carry; a range includes both its ends, and
    one of which an end is missing is open on that side.

    Args:
        protocol: of the rule.
        udp: how UDP is spelt there, besides by its number.
        low: the first port of the range.
        high: the last.
    """
    if protocol == ANY_PROTOCOL:
        return True
    in_range = (low is None or low <= VXLAN_PORT) and (high is None or high >= VXLAN_PORT)
    return protocol in (udp, UDP_NUMBER) and in_range


class AclEntry(NamedTuple):
    """A network ACL entry about VXLAN over IPv4."""

    number: int
    egress: bool
    allows: bool
    cidr: str

    @classmethod
    def of(cls, row: Row) -> AclEntry:
        """From an entry of a network ACL."""
        if row["RuleAction"] not in ("allow", "deny"):
            raise ValueError(f"RuleAction is {shown(row['RuleAction'])}, not allow or deny")
        required(row, "Protocol")
        allows = row["RuleAction"] == "allow"
        return cls(int(row["RuleNumber"]), bool(row["Egress"]), allows, required(row, "CidrBlock"))

    @staticmethod
    def is_about_vxlan(row: Row) -> bool:
        """Whether an entry is about VXLAN over IPv4, or does not say. ACLs spell protocols as
        numbers."""
        ports = row.get("PortRange") or {}
        protocol = row.get("Protocol") or ANY_PROTOCOL
        over_ipv6 = bool(row.get("Ipv6CidrBlock")) and not row.get("CidrBlock")
        return not over_ipv6 and covers_vxlan(
            protocol, UDP_NUMBER, ports.get("From"), ports.get("To")
        )


class NetworkAcl(NamedTuple):
    """A network ACL: its entries about VXLAN over IPv4, in ascending rule number.

    Attributes:
        subnet_ids: the subnets that it is associated with.
        inbound: an error stands in the place of an entry that cannot be read.
        outbound: likewise.
    """

    acl_id: str
    subnet_ids: frozenset[str]
    inbound: tuple[AclEntry | Unreadable, ...]
    outbound: tuple[AclEntry | Unreadable, ...]

    @classmethod
    def of(cls, row: Row) -> NetworkAcl:
        """From a row of DescribeNetworkAcls, whose entries come in no particular order."""
        entries = [
            (entry.get("Egress"), noun(AclEntry.of, entry))
            # An entry without a number may come first.
            for entry in sorted(row["Entries"], key=lambda entry: entry.get("RuleNumber") or 0)
            if AclEntry.is_about_vxlan(entry)
        ]
        return cls(
            acl_id=required(row, "NetworkAclId"),
            subnet_ids=frozenset(required(item, "SubnetId") for item in row["Associations"]),
            inbound=tuple(entry for egress, entry in entries if egress is not True),
            outbound=tuple(entry for egress, entry in entries if egress is not False),
        )


def deciding_entry(entries: Iterable[AclEntry | Unreadable], address: str) -> AclEntry | None:
    """The entry that decides: the lowest rule number that matches. None: no match, which denies.

    Raises:
        Unreadable: an entry that comes before cannot be read, and may be the one that decides.
    """
    return next((entry for entry in map(told, entries) if contains(entry.cidr, address)), None)


class Says(Enum):
    """What a stage says about packets, or a route about those that take it."""

    PASSES = "packets pass, as far as can be seen"
    BEHIND = "packets may pass, but something speaks against it"
    REJECTS = "packets do not pass"
    UNSETTLED = "rejected, but something that may not be read could say otherwise"
    UNSEEN = "what would decide exists, but cannot be seen from this account"


# The member of a route that names its next hop, how the name begins, what it is, and whether
# mirrored packets reach another VPC by it (BEHIND: AWS does not list it for mirrored traffic). The
# first that fits counts: an instance as next hop is named along with its interface.
NEXT_HOPS = (
    ("GatewayId", "local", "the VPC itself", Says.REJECTS),
    ("GatewayId", "igw-", "internet gateway", Says.REJECTS),
    ("GatewayId", "vpce-", "VPC endpoint", Says.PASSES),
    ("GatewayId", "vgw-", "virtual private gateway", Says.BEHIND),
    ("GatewayId", "", "gateway", Says.BEHIND),
    ("NatGatewayId", "", "NAT gateway", Says.REJECTS),
    ("EgressOnlyInternetGatewayId", "", "egress-only internet gateway", Says.REJECTS),
    ("CarrierGatewayId", "", "carrier gateway", Says.REJECTS),
    ("VpcPeeringConnectionId", "", "peering connection", Says.PASSES),
    ("TransitGatewayId", "", "transit gateway", Says.PASSES),
    ("NetworkInterfaceId", "", "interface", Says.PASSES),
    ("InstanceId", "", "instance", Says.PASSES),
    ("LocalGatewayId", "", "local gateway", Says.BEHIND),
    ("CoreNetworkArn", "", "Cloud WAN core network", Says.BEHIND),
)


class Route(NamedTuple):
    """A route over IPv4 of a route table.

    Attributes:
        destination: an IPv4 CIDR block, or the ID of a prefix list.
        to_list: whether it is the latter.
        static: whether somebody made it, so that it wins over others to the same block.
        state: None where AWS does not say.
        next_hop: kind and ID of where it leads.
        leads: what that means.
    """

    destination: str
    to_list: bool
    static: bool
    state: str | None
    next_hop: str
    leads: Says

    @classmethod
    def of(cls, row: Row) -> Route:
        """From a route of a route table."""
        cidr = row.get("DestinationCidrBlock")
        next_hop, leads = next(
            (
                (f"{kind} {row[name]}", meaning)
                for name, prefix, kind, meaning in NEXT_HOPS
                if row.get(name) and row[name].startswith(prefix)
            ),
            ("an unknown next hop", Says.BEHIND),
        )
        return cls(
            destination=cidr or required(row, "DestinationPrefixListId"),
            to_list=not cidr,
            static=row.get("Origin") in ("CreateRoute", "CreateRouteTable"),
            state=row.get("State"),
            next_hop=next_hop,
            leads=leads,
        )

    @property
    def size(self) -> int:
        """How many addresses its block has."""
        first_address, last_address = block_bounds(self.destination)
        return last_address - first_address + 1

    @property
    def counts(self) -> bool:
        """Whether it may decide. A filtered route is not in effect, and the lists of gateway
        endpoints and of VPC Lattice hold public or link-local blocks of AWS's services."""
        to_service = self.next_hop.startswith("VPC endpoint") or self.next_hop.endswith(
            "VpcLattice"
        )
        return self.state != "filtered" and not (self.to_list and to_service)

    @property
    def meaning(self) -> Says:
        """Where packets go that take it; a blackhole route drops them."""
        if not self.state:
            raise Unreadable(f"the route to {self.destination} has no state")
        return Says.REJECTS if self.state == "blackhole" else self.leads

    def __str__(self) -> str:
        state = "" if self.state == "active" else f" in state {self.state}"
        return f"to {self.destination} by {self.next_hop}{state}"


class RouteTable(NamedTuple):
    """A route table and its routes over IPv4.

    Attributes:
        subnet_ids: the subnets that it is associated with.
        is_main: whether it is the one of all subnets of its VPC without a table of their own.
        routes: an error stands in the place of a route that cannot be read.
    """

    table_id: str
    subnet_ids: frozenset[str]
    is_main: bool
    routes: tuple[Route | Unreadable, ...]

    @classmethod
    def of(cls, row: Row) -> RouteTable:
        """From a row of DescribeRouteTables."""
        return cls(
            table_id=required(row, "RouteTableId"),
            subnet_ids=frozenset(a["SubnetId"] for a in row["Associations"] if a.get("SubnetId")),
            is_main=any(association.get("Main") for association in row["Associations"]),
            routes=tuple(
                noun(Route.of, route)
                for route in row.get("Routes", [{}])  # without any: one that cannot be read
                if not route.get("DestinationIpv6CidrBlock")
            ),
        )


# ======================================================================================
# 5  AWS
# ======================================================================================

FILTER_VALUES = 200  # EC2 takes no more values in a filter
LONGEST_VALUE = 255  # characters: EC2 refuses a call with a longer filter value
PARALLEL_CALLS = 32
EVERYTHING = ""  # in the place of a filter's value
ATTEMPTS = 5
ATTEMPTS_TO_ASSUME = 2  # a silent STS has to leave time for the other accounts


def operation_of(method: str) -> str:
    """The API operation behind a method of boto3: DescribeInstances for describe_instances."""
    return "".join(word.capitalize() for word in method.split("_"))


class Read(NamedTuple):
    """A Describe call as data.

    Attributes:
        method: boto3's name of the call.
        rows: the list of rows in a page of its answer.
        key: the member of a row by which it is looked up; empty where each call has one value.
        filter: the filter that takes such values, or the parameter that takes the one value.
        of: from a row to the noun that it is about.
        page: MaxResults.
        within: where the rows stand in lists within that list.
    """

    method: str
    rows: str
    key: str
    filter: str
    of: Callable[[Any], Any]
    page: int = 1_000
    within: str = ""


def block_of(row: Row) -> str:
    """The CIDR block of a prefix list's entry."""
    return required(row, "Cidr")


INSTANCES = Read(
    "describe_instances", "Reservations", "InstanceId", "instance-id", Instance.of,
    within="Instances",
)  # fmt: skip
RUNNING_INSTANCES = INSTANCES._replace(filter="instance-state-name")
HOSTS = INSTANCES._replace(of=state_of)
TARGETS_READ = Read(
    "describe_traffic_mirror_targets", "TrafficMirrorTargets", "TrafficMirrorTargetId",
    "traffic-mirror-target-id", Target.of,
)  # fmt: skip
SESSIONS = Read(
    "describe_traffic_mirror_sessions", "TrafficMirrorSessions", "NetworkInterfaceId",
    "network-interface-id", Session.of,
)  # fmt: skip
# The owner of a sensor sees sessions of interfaces that belong to other accounts.
SESSIONS_BY_ID = SESSIONS._replace(key="TrafficMirrorSessionId")
INTERFACES = Read(
    "describe_network_interfaces", "NetworkInterfaces", "NetworkInterfaceId",
    "network-interface-id", Interface.of,
)  # fmt: skip
# The interfaces of load balancers are found by their descriptions, which takes no permission more.
DESCRIBED_INTERFACES = INTERFACES._replace(key="Description", filter="description")
# Of all interfaces that services make, AWS mirrors those of RDS and of ElastiCache.
DATABASES = INTERFACES._replace(filter="requester-id")
SECURITY_GROUPS = Read(
    "describe_security_groups", "SecurityGroups", "GroupId", "group-id", origins_of
)
NETWORK_ACLS = Read("describe_network_acls", "NetworkAcls", "VpcId", "vpc-id", NetworkAcl.of)
ROUTE_TABLES = Read(
    "describe_route_tables", "RouteTables", "VpcId", "vpc-id", RouteTable.of, page=100
)
PREFIX_LISTS = Read(
    "get_managed_prefix_list_entries", "Entries", "", "PrefixListId", block_of, page=100,
)  # fmt: skip

# What AWS shows, by the value that the function looked up: a list, in which an error stands in the
# place of a row that cannot be read, and of all rows where the call failed.
Found = Mapping[str, Sequence[Any]]


def in_parallel(*calls: Callable[[], Any]) -> list[Any]:
    """What these calls return, which go out together because none needs another's answer."""
    if len(calls) < 2:
        return [call() for call in calls]
    with ThreadPoolExecutor(max_workers=min(len(calls), PARALLEL_CALLS)) as threads:
        futures = [threads.submit(call) for call in calls]
    return [future.result() for future in futures]


# Answers of calls about sensors and routes, by account, call, filter and value, each with the time
# at which AWS gave it, as far as CACHE_SECONDS lets them outlive an invocation. Unix time in
# seconds: Lambda freezes the environment between invocations, and with it other clocks.
_memory: dict[tuple[str, str, str, str], tuple[Any, float]] = {}


def drop_old(kept: dict[Any, tuple[Any, float]], seconds: float) -> None:
    """Drop what has been kept for so many seconds, each item with its Unix time. One whose time is
    yet to come is dropped, too: the clock was set back, and its age is not known."""
    now = time.time()
    for key, (_, since) in list(kept.items()):
        if not 0 <= now - since < seconds:
            kept.pop(key, None)


class Account:
    """The EC2 of one account: every call of the function, each in one place.

    Look-ups are by filter: one ID that does not exist makes a call by ID fail for all the others,
    and answers to calls by ID are not paged.

    Args:
        deadline: what calls keep to.
        account_id: empty for the function's own account.
        role: ARN of the role through which another account is read.
        remember_seconds: how long answers that `recall` gives may be old.
    """

    def __init__(
        self,
        deadline: Deadline,
        account_id: str = "",
        role: str | None = None,
        remember_seconds: int = 0,
    ) -> None:
        self.deadline = deadline
        self.account_id = account_id
        self.role = role
        self.remember_seconds = remember_seconds
        self.used_memory = False
        self._forgotten = not remember_seconds
        self._answers: dict[tuple[str, str, str, str], Any] = {}  # of this invocation
        self._assuming = threading.Lock()
        self._not_assumed: Unanswered | None = None

    # Looking up

    def look_up(self, read: Read, values: Iterable[str]) -> dict[str, Sequence[Any]]:
        """What a Describe call shows for these values of its filter, in lists of at most 200
        values, which go out together."""
        # A configured ID with a slip of the pen may contain a wildcard, and the filter would then
        # show what is not asked for.
        possible = re.compile(rf"[^*?\\]{{1,{LONGEST_VALUE}}}")
        values = dict.fromkeys(values)
        wanted = sorted(value for value in values if possible.fullmatch(value))
        size = FILTER_VALUES if read.key else 1
        chunks = [wanted[at : at + size] for at in range(0, len(wanted), size)]
        found: dict[str, Sequence[Any]] = dict.fromkeys(values, ())
        answers = in_parallel(*(partial(asked, self.read, read, chunk) for chunk in chunks))
        for chunk, answer in zip(chunks, answers, strict=True):
            failed = isinstance(answer, Unanswered)
            found.update({value: [answer] if failed else answer[value] for value in chunk})
        return found

    def recall(self, read: Read, values: Iterable[str]) -> dict[str, Sequence[Any]]:
        """As `look_up`, but each value is asked for once in an invocation, and not at all while an
        earlier answer may be used."""
        values = list(values)
        lacking = [value for value in values if self._kept(read, value) is None]
        for value, answer in (self.look_up(read, lacking) if lacking else {}).items():
            self._keep(read, value, answer, all(not isinstance(i, Unanswered) for i in answer))
        return {value: self.known(read, value) for value in values}

    def recall_all(self, read: Read) -> Found:
        """All that a Describe call shows, as `recall` does.

        Raises:
            Unanswered: the call failed.
        """
        if self._kept(read, EVERYTHING) is None:
            self._keep(read, EVERYTHING, self.read(read), True)
        found: Found = self._kept(read, EVERYTHING)
        return found

    def known(self, read: Read, value: str) -> Sequence[Any]:
        """What `recall` has given for a value; nothing where it was not asked."""
        return self._kept(read, value) or ()

    def _kept(self, read: Read, value: str) -> Any:
        """The answer for a value that may still be used; None where there is none."""
        key = self.account_id, read.method, read.filter, value
        if key in self._answers:
            return self._answers[key]
        if self._forgotten or key not in _memory:
            return None
        self.used_memory = True
        return _memory[key][0]

    def _keep(self, read: Read, value: str, answer: Any, complete: bool) -> None:
        key = self.account_id, read.method, read.filter, value
        self._answers[key] = answer
        if complete and self.remember_seconds:
            _memory[key] = answer, time.time()

    def forget(self) -> None:
        """Ask AWS again for what this invocation knows only from earlier ones."""
        self._forgotten = True

    # Calls

    def read(self, read: Read, values: Sequence[str] = ()) -> dict[str, list[Any]]:
        """What a Describe call shows, by key: all of it, or what has one of these values.

        Raises:
            Unanswered: the call failed.
        """
        found: dict[str, list[Any]] = defaultdict(list, {value: [] for value in values})
        for page in self.pages(read, values):
            for key, item in page:
                if not values or key in found:
                    found[key].append(item)
        return found

    def pages(self, read: Read, values: Sequence[str] = ()) -> Iterator[list[tuple[str, Any]]]:
        """The pages of a Describe call, each a list of keys and nouns.

        Raises:
            Unanswered: the call failed, or a row does not show the key by which it is looked up.
        """
        parameters: dict[str, Any] = {"PaginationConfig": {"PageSize": read.page}}
        if values and read.key:
            parameters["Filters"] = [{"Name": read.filter, "Values": list(values)}]
        elif values:
            parameters[read.filter] = values[0]
        with self._calling(operation_of(read.method)) as client:
            # EC2 hides what services such as EKS Auto Mode manage, unless it is asked to show it.
            if read.method in MAY_HIDE and sees_managed(client):
                parameters["IncludeManagedResources"] = True
            for page in client.get_paginator(read.method).paginate(**parameters):
                lists = page[read.rows]
                rows = (
                    [row for outer in lists for row in outer[read.within]] if read.within else lists
                )
                answer = [self._keyed(read, values, row) for row in rows]
                # The paginator keeps the page until it has the next one, and rows take far more
                # room than what was made of them.
                rows.clear()
                lists.clear()
                if not all(key for key, _ in answer):
                    raise Unreadable(f"{read.key} is missing")
                yield answer

    @staticmethod
    def _keyed(read: Read, values: Sequence[str], row: Row) -> tuple[str, Any]:
        """The key by which a row is looked up, and the noun or error that it makes."""
        item = noun(read.of, row)
        if isinstance(item, Unreadable):
            item.in_answer_of(operation_of(read.method))
        return str(row.get(read.key) or "") if read.key else values[0], item

    def create_session(self, parameters: Mapping[str, Any]) -> Session:
        """Create a traffic mirror session (CreateTrafficMirrorSession).

        Raises:
            Unanswered: there is no session, as far as AWS says.
        """
        with self._calling(CREATE) as client:
            answer = client.create_traffic_mirror_session(**parameters)
            return told(noun(Session.of, answer.get("TrafficMirrorSession")))

    @contextmanager
    def _calling(self, operation: str) -> Iterator[Any]:
        """A client for calls that keep to the deadline, with all errors told apart.

        Raises:
            Unanswered: there is no answer, whatever botocore or its credentials raise.
        """
        _current.deadline = self.deadline
        try:
            client = client_of(self.role)
            if self.role:
                self._assume_role(self.role)
            yield client
        except Unreadable as error:
            raise error.in_answer_of(operation) from None
        except KeyError as error:
            raise Unreadable(f"{error.args[0]} is missing").in_answer_of(operation) from None
        except Unanswered:
            raise
        except Exception as error:
            failed = CallFailed.of(operation, error, self.role)
            if failed.failure is Failure.CREDENTIALS:
                _clients.pop(self.role, None)  # with its credentials, which are then made anew
            raise failed from error

    def _assume_role(self, role: str) -> None:
        """Make sure that the role's credentials are good, before a call is begun (AssumeRole). A
        role that could not be assumed is not tried again in the invocation."""
        with self._assuming:
            told(self._not_assumed)
            try:
                connection_of(role)[1].get_frozen_credentials()
            except Exception as error:
                failed = CallFailed.of("AssumeRole", error, role)
                self._not_assumed = error if isinstance(error, Unanswered) else failed
                raise self._not_assumed from error


# Clients, and the credentials of roles, outlive an invocation.

_clients: dict[str | None, tuple[Any, Any]] = {}  # by role: client and credentials
_client_lock = threading.RLock()
_current = threading.local()  # the deadline that the thread's present call has to keep to

MAY_HIDE = ("describe_instances", "describe_network_interfaces")


def client_of(role: str | None = None) -> Any:
    """The EC2 client of the own account, or of a role's; made at first use, shared by threads."""
    return connection_of(role)[0]


def connection_of(role: str | None) -> tuple[Any, Any]:
    """The client and, for a role, the credentials, which botocore gets by AssumeRole and renews
    before they expire."""
    with _client_lock:
        if role not in _clients:
            credentials = assumable(role) if role else None
            _clients[role] = make_client("ec2", ATTEMPTS, credentials), credentials
        return _clients[role]


@cache
def models() -> Any:
    """What reads botocore's models: with them in memory a client costs a tenth of the time."""
    return botocore.session.get_session().get_component("data_loader")


def make_client(service: str, attempts: int, credentials: Any = None, **keys: Any) -> Any:
    """A client of EC2 or STS that tries again as botocore does, but never in the reserve."""
    session = botocore.session.get_session()
    session.register_component("data_loader", models())
    if credentials:
        provider = SimpleNamespace(load_credentials=lambda: credentials)
        session.register_component("credential_provider", provider)
    config = Config(
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=2,
        read_timeout=8,
        max_pool_connections=2 * PARALLEL_CALLS,
    )
    # boto3's default session is not safe under threads while it makes a client.
    client = boto3.session.Session(botocore_session=session).client(service, config=config, **keys)
    client.meta.events.register(f"request-created.{service}", check_deadline)
    client.meta.events.register_first(f"needs-retry.{service}", keep_last_attempt)
    return client


def assumable(role: str) -> Any:
    """Credentials that come from assuming a role. The session's name tells the role's owner which
    function reads; STS wants 2 to 64 characters."""
    source = boto3.session.Session(botocore_session=botocore.session.get_session())
    if (own := source.get_credentials()) is None:
        raise NoCredentialsError
    name = os.environ.get("AWS_LAMBDA_FUNCTION_NAME", __name__)
    session_name = re.sub(r"[^\w+=,.@-]", "-", name, flags=re.ASCII)[:64].ljust(2, "-")
    fetcher = AssumeRoleCredentialFetcher(
        lambda service, **keys: make_client(service, ATTEMPTS_TO_ASSUME, **keys),
        own,
        role,
        extra_args={"RoleSessionName": session_name},
    )
    return DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")


def check_deadline(**_: object) -> None:
    """Begin no request in the reserve: neither another page nor another attempt."""
    _current.deadline.check()


def keep_last_attempt(
    response: Any, caught_exception: Exception | None, operation: Any, attempts: int, **_: object
) -> None:
    """Where the pause before another attempt could end in the reserve, what the last attempt came
    to stands. botocore pauses up to 2 ** (attempts - 1) seconds, and at most 20."""
    if _current.deadline.allows(min(2 ** (attempts - 1), 20)):
        return
    if caught_exception:
        raise caught_exception
    http, parsed_answer = response
    if http.status_code >= 300:
        raise ClientError(parsed_answer, operation.name)


@cache
def warn_of_old_boto3() -> None:
    """Warn once for each environment."""
    logger.warning(
        "This runtime's boto3 cannot ask for instances that services manage (EKS Auto Mode, ECS "
        "Managed Instances and others), and EC2 hides them; bring a newer boto3 in a layer."
    )


def sees_managed(client: Any) -> bool:
    """Whether this boto3 can ask for what services manage."""
    shape = client.meta.service_model.operation_model("DescribeInstances").input_shape
    knows = "IncludeManagedResources" in shape.members
    if not knows:
        warn_of_old_boto3()
    return knows


# ======================================================================================
# 6  Region
# ======================================================================================

INSTANCE_LOOKS = 3  # an ID may be unknown for seconds after it appears
PAUSE_SECONDS = 1.0  # between two looks at something that EC2 may not show yet


class Source(NamedTuple):
    """An interface whose traffic is to be mirrored, joined with what decides about its packets.

    Attributes:
        instance_id: the instance that it is attached to; None for a database's interface.
        tags: of that instance, key to value.
        instance_type: empty where AWS does not say.
        managed: whether a service manages the instance.
        neighbours: IDs of all interfaces of the instance.
        acl: the network ACL of its subnet; None where it cannot be seen.
        route_table: the route table of its subnet, read where a sensor is in another VPC.
    """

    interface: Interface
    instance_id: str | None
    tags: Mapping[str, str]
    instance_type: str = ""
    managed: bool = False
    neighbours: Sequence[str] = ()
    acl: NetworkAcl | Unanswered | None = None
    route_table: RouteTable | Unanswered | None = None

    def tag(self, key: str) -> str:
        """The value of its instance's tag; empty without one, and where it is blank."""
        return self.tags.get(key, "").strip()

    @property
    def address(self) -> str:
        """The address that VXLAN packets leave from. Sources without one are never judged."""
        assert self.interface.address
        return self.interface.address


class Sensor(NamedTuple):
    """A configured traffic mirror target.

    Attributes:
        target: None: there is none with this ID.
        through_role: whether the account that owns it was read through a role.
        foreign: whether another account owns it and there is no role for that account.
        hidden_sessions: how many sessions only its owner sees.
    """

    target_id: str
    target: Target | Unanswered | None
    through_role: bool
    foreign: bool
    hidden_sessions: int | Unanswered

    @property
    def behind_load_balancer(self) -> bool:
        """Whether packets reach it through a load balancer or an endpoint."""
        return isinstance(self.target, Target) and bool(self.target.descriptions)


class Face(NamedTuple):
    """An interface on which a sensor receives, joined with what decides whether packets arrive. An
    error stands in the place of whatever AWS did not answer.

    Attributes:
        interface: HIDDEN where the sensor has none that can be seen.
        error: why the interface itself is not known; it is HIDDEN then.
        host_state: of the instance that it is attached to; None without one, or if not shown.
        origins: what the rules of its security groups admit VXLAN from.
        unseen_groups: those of its security groups that cannot be seen.
        acl: the network ACL of its subnet; None where it cannot be seen.
    """

    sensor: Sensor
    interface: Interface
    error: Unanswered | None = None
    host_state: str | Unanswered | None = None
    origins: Sequence[Origin] = ()
    unseen_groups: Sequence[str] = ()
    acl: NetworkAcl | Unanswered | None = None


class Targets:
    """All traffic mirror targets that are visible here, those that other accounts share included.

    Args:
        found: by ID, as DescribeTrafficMirrorTargets shows them.
        configured: IDs of targets, and accounts that stand for their targets.
    """

    def __init__(self, found: Found, configured: Sequence[str]) -> None:
        self.by_id: dict[str, Target] = {key: told(rows[0]) for key, rows in found.items()}
        owned: dict[str | None, list[str]] = defaultdict(list)
        for target in self.by_id.values():
            owned[target.owner_id].append(target.target_id)
        # The configured targets, in configured order.
        self.ours: dict[str, None] = {}
        for entry in configured:
            ids = sorted(owned[entry]) if is_account(entry) else [entry]
            self.ours.update(dict.fromkeys(ids))
        without = [entry for entry in configured if is_account(entry) and not owned[entry]]
        # Why configured accounts stand for no target; empty where each has one.
        self.why_none = (
            f"no traffic mirror target of account {', '.join(without)} is visible here"
            if without
            else ""
        )
        by_id = self.by_id
        self.interface_ids = {target.interface_id for target in by_id.values()}
        self.our_interface_ids = {by_id[key].interface_id for key in self.ours if key in by_id}

    def why_no_source(self, source: Source) -> str | None:
        """Why mirroring the interface would mirror a sensor; None where it would not. AWS refuses
        the interface of any target as a source. The other interfaces of an instance that hosts a
        sensor it does not refuse, but what they send into the sensor would loop."""
        if source.interface.interface_id in self.interface_ids:
            return "The interface is a sensor's own, and mirroring it into a sensor would loop"
        for interface_id in source.neighbours:
            if interface_id in self.our_interface_ids:
                return f"The instance hosts a sensor (interface {interface_id}), and would loop"
        return None


class Sessions:
    """The traffic mirror sessions of the Region.

    Args:
        found: by source interface, as DescribeTrafficMirrorSessions shows them.
    """

    def __init__(self, found: Found) -> None:
        self._by_interface = found
        readable = [s for rows in found.values() for s in rows if isinstance(s, Session)]
        by_id = {session.session_id: session for session in readable}
        self.ids = by_id.keys()
        self.per_target = Counter(session.target_id for session in by_id.values())
        self.chosen: Counter[str] = Counter()  # in this invocation, of those not refused

    def of_interface(self, interface_id: str) -> list[Session]:
        """The interface's sessions, by session number.

        Raises:
            Unanswered: one of them cannot be read.
        """
        rows = self._by_interface.get(interface_id)
        if not rows:
            return []
        found = {session.session_id: session for session in map(told, rows)}
        return sorted(found.values(), key=lambda session: session.number or 0)

    def count(self, target_id: str) -> int:
        """How many sessions the target has, those that the function chose in this invocation
        included."""
        return self.per_target[target_id] + self.chosen[target_id]


# The sensors by target ID, in configured order, each with the interfaces on which it receives: one
# HIDDEN face where there is none to be seen.
Sensors = Mapping[str, Sequence[Face]]


class Region:
    """What the function knows of targets, sessions, sensors and sources, joined from what the own
    account and those of sensors' owners show.

    Args:
        configuration: which targets are ours, and which roles lead to other accounts.
        deadline: what calls keep to.
        own_account: the function's account; None where it is not known.
        sweep: whether all running instances are looked at; then nothing remembered is used.
    """

    def __init__(
        self, configuration: Configuration, deadline: Deadline, own_account: str | None, sweep: bool
    ) -> None:
        self.configuration = configuration
        self.deadline = deadline
        self.own_account = own_account
        seconds = 0 if sweep else configuration.cache_seconds
        drop_old(_memory, configuration.cache_seconds)
        self.home = Account(deadline, remember_seconds=seconds)
        self.accounts = {
            account: Account(deadline, account, role, seconds)
            for account, role in configuration.sensor_roles
            if account != own_account
        }
        self._sessions: Sessions | Unanswered = OutOfTime()  # until they are read
        self._targets: Targets | Unanswered = OutOfTime()
        self.sensors: Sensors = {}
        self._renewed: Sensors | Unanswered | None = None

    # What every outcome needs

    def read_first(self, instance_ids: Iterable[str]) -> Found:
        """Read the instances that events name, the sessions and the targets, in one round trip.
        Sweeps read their instances later, page by page."""
        instances: Found
        instances, self._sessions, self._targets = in_parallel(
            lambda: self._named_instances(list(instance_ids)),
            lambda: asked(lambda: Sessions(self.home.read(SESSIONS))),
            lambda: asked(self._read_targets),
        )
        return instances

    def _named_instances(self, instance_ids: Sequence[str]) -> Found:
        """The instances with these IDs. EC2 may not know an instance, or its interfaces, for
        seconds after it has appeared, so the function asks three times, a second apart."""
        found = self.home.look_up(INSTANCES, instance_ids)
        for _ in range(INSTANCE_LOOKS - 1):
            unknown = [
                key
                for key, rows in found.items()
                if not rows
                or (isinstance(rows[0], Instance) and rows[0].is_up and not rows[0].interfaces)
            ]
            if not unknown:
                break
            try:
                self.deadline.sleep(PAUSE_SECONDS)
            except OutOfTime as error:
                return {**found, **{key: [error] for key in unknown}}
            found.update(self.home.look_up(INSTANCES, unknown))
        return found

    def _read_targets(self) -> Targets:
        return Targets(self.home.recall_all(TARGETS_READ), self.configuration.targets)

    @property
    def sessions(self) -> Sessions:
        """The sessions of the Region."""
        return told(self._sessions)

    @property
    def targets(self) -> Targets:
        """The targets that are visible here."""
        return told(self._targets)

    @property
    def error(self) -> Unanswered | None:
        """Why sessions or targets are not known; None where they are."""
        return next((a for a in (self._sessions, self._targets) if isinstance(a, Unanswered)), None)

    @property
    def why_no_targets(self) -> str:
        """Which configured accounts stand for no target, as far as the targets are known."""
        return self._targets.why_none if isinstance(self._targets, Targets) else ""

    def count(self, target_id: str) -> int:
        """How many sessions a sensor has, as far as its owner or the own account sees them, and
        with those that the function chose in this invocation."""
        renewed = {} if isinstance(self._renewed, Unanswered) else self._renewed or {}
        views = [view[target_id] for view in (renewed, self.sensors) if target_id in view]
        hidden = [faces[0].sensor.hidden_sessions for faces in views]
        return self.sessions.count(target_id) + next((h for h in hidden if isinstance(h, int)), 0)

    def sessions_per_own_target(self) -> dict[str, int]:
        """How many sessions each configured target has that the own account owns; empty where AWS
        did not say."""
        if self.error:
            return {}
        counts = self.sessions.per_target
        return {
            target_id: counts[target_id]
            for target_id, target in self.targets.by_id.items()
            if target_id in self.targets.ours and self.own_account in (None, target.owner_id)
        }

    # Sensors and sources

    def join(self, sources: Sequence[Source]) -> list[Source]:
        """The sources with their network ACLs and route tables. The sensors are read together with
        what is around the first sources."""
        vpc_ids = {source.interface.vpc_id or "" for source in sources}
        self.sensors = self.sensors or self._read_sensors(self.targets, vpc_ids)
        return self._joined(sources, vpc_ids, self.sensors)

    def renewed(self, source: Source) -> tuple[Source, Sensors]:
        """The source and the sensors as AWS shows them now, without what was remembered. Other
        interfaces keep to the sensors that serve them.

        Raises:
            Unanswered: the targets could not be read.
        """
        vpc_ids = {source.interface.vpc_id or ""}
        if self._renewed is None:
            for account in (self.home, *self.accounts.values()):
                account.forget()
            self._renewed = asked(lambda: self._read_sensors(self._read_targets(), vpc_ids))
        sensors = told(self._renewed)
        return self._joined([source], vpc_ids, sensors)[0], sensors

    @property
    def may_be_renewed(self) -> bool:
        """Whether something that only earlier invocations have read played a part."""
        return any(account.used_memory for account in (self.home, *self.accounts.values()))

    def _read_sensors(self, targets: Targets, vpc_ids: set[str]) -> Sensors:
        """The configured sensors, in two round trips; in one more where rules name prefix lists.
        What is around sources in these VPCs is read besides."""
        ids_of: dict[Account, list[str]] = {self.home: []}
        for target_id in targets.ours:
            target = targets.by_id.get(target_id)
            reader = self.accounts.get(target.owner_id or "", self.home) if target else self.home
            ids_of.setdefault(reader, []).append(target_id)
        found = in_parallel(*(partial(self._faces, a, ids, targets) for a, ids in ids_of.items()))
        by_account = dict(zip(ids_of, found, strict=True))
        # The ACLs around sources and around the own account's sensors take one call.
        in_parallel(
            partial(self.home.recall, ROUTE_TABLES, vpcs_to_leave(vpc_ids, chain(*found))),
            *(
                partial(read_around, account, faces, () if account.role else vpc_ids)
                for account, faces in by_account.items()
            ),
        )
        sensors: dict[str, list[Face]] = {target_id: [] for target_id in targets.ours}
        for account, faces in by_account.items():
            for face in faces:
                sensors[face.sensor.target_id].append(joined_face(account, face))
        return sensors

    def _faces(self, account: Account, ids: Sequence[str], targets: Targets) -> list[Face]:
        """The interfaces on which these sensors of an account receive."""
        shown: dict[str, Target | Unanswered | None] = {key: targets.by_id.get(key) for key in ids}
        if account.role:
            # What the own account is shown of a shared target may leave out where it receives.
            bare = [k for k, t in shown.items() if isinstance(t, Target) and not t.shows_where]
            shown.update({k: first(rows) for k, rows in account.recall(TARGETS_READ, bare).items()})
        readable = [target for target in shown.values() if isinstance(target, Target)]
        interface_ids = [target.interface_id for target in readable if target.interface_id]
        descriptions = [text for target in readable for text in target.descriptions]
        sessions: Found | Unanswered
        sessions, by_id, described = in_parallel(
            lambda: asked(account.recall_all, SESSIONS_BY_ID) if account.role else {},
            lambda: account.recall(INTERFACES, interface_ids),
            lambda: account.recall(DESCRIBED_INTERFACES, descriptions),
        )
        faces = []
        for target_id, target in shown.items():
            hidden = asked(self._hidden_sessions, target_id, sessions)
            rows: Sequence[Any] = ()
            foreign = False
            if isinstance(target, Target):
                known = self.own_account and target.owner_id and not account.role
                foreign = bool(known) and target.owner_id != self.own_account
                rows = by_id.get(target.interface_id or "", ())
                rows = rows or [row for text in target.descriptions for row in described[text]]
            sensor = Sensor(target_id, target, bool(account.role), foreign, hidden)
            for row in rows or [target if isinstance(target, Unanswered) else HIDDEN]:
                failed = isinstance(row, Unanswered)
                faces.append(Face(sensor, HIDDEN, error=row) if failed else Face(sensor, row))
        return faces

    def _hidden_sessions(self, target_id: str, sessions: Found | Unanswered) -> int:
        """How many of the sessions that a sensor's owner sees are to the target and not shown to
        the own account."""
        seen_here = self.sessions.ids
        of_owner = [told(session) for rows in told(sessions).values() for session in rows]
        return sum(s.target_id == target_id and s.session_id not in seen_here for s in of_owner)

    def _joined(
        self, sources: Iterable[Source], vpc_ids: set[str], sensors: Sensors
    ) -> list[Source]:
        """The sources, in these VPCs, with what is around them."""
        in_parallel(
            lambda: self.home.recall(NETWORK_ACLS, vpc_ids),
            lambda: self.home.recall(
                ROUTE_TABLES, vpcs_to_leave(vpc_ids, chain(*sensors.values()))
            ),
        )
        joined = []
        for source in sources:
            vpc_id, subnet_id = source.interface.vpc_id or "", source.interface.subnet_id
            tables = self.home.known(ROUTE_TABLES, vpc_id)
            main = (table for table in tables if isinstance(table, RouteTable) and table.is_main)
            acl = of_subnet(subnet_id, self.home.known(NETWORK_ACLS, vpc_id))
            table = of_subnet(subnet_id, tables) or next(main, None)
            joined.append(source._replace(acl=acl, route_table=table))
        return joined


def vpcs_to_leave(vpc_ids: Iterable[str], faces: Iterable[Face]) -> list[str]:
    """Those of these VPCs that have a sensor in another VPC."""
    theirs = {face.interface.vpc_id for face in faces} - {None}
    return [vpc_id for vpc_id in vpc_ids if theirs - {vpc_id}]


def read_around(account: Account, faces: Iterable[Face], vpc_ids: Iterable[str]) -> None:
    """Read what decides whether packets arrive at these sensors' interfaces of an account, and
    besides them the network ACLs of these VPCs."""
    interfaces = [face.interface for face in faces if face.interface is not HIDDEN]
    vpc_ids = {interface.vpc_id or "" for interface in interfaces}.union(vpc_ids)

    def read_groups() -> None:
        groups = account.recall(SECURITY_GROUPS, [key for i in interfaces for key in i.group_ids])
        found = [row for rows in groups.values() for row in rows if isinstance(row, tuple)]
        account.recall(PREFIX_LISTS, [o.list_id for origins in found for o in origins if o.list_id])

    in_parallel(
        read_groups,
        lambda: account.recall(NETWORK_ACLS, vpc_ids),
        lambda: account.recall(HOSTS, [i.host_id for i in interfaces if i.host_id]),
    )


def joined_face(account: Account, face: Face) -> Face:
    """A sensor's interface with what has been read around it."""
    interface = face.interface
    groups = {key: first(account.known(SECURITY_GROUPS, key)) for key in interface.group_ids}
    return face._replace(
        host_state=first(account.known(HOSTS, interface.host_id or "")),
        origins=tuple(chain(*(resolved(account, *item) for item in groups.items()))),
        unseen_groups=tuple(key for key, group in groups.items() if group is None),
        acl=of_subnet(interface.subnet_id, account.known(NETWORK_ACLS, interface.vpc_id or "")),
    )


def resolved(
    account: Account, group_id: str, group: Sequence[Origin] | Unanswered | None
) -> Iterator[Origin]:
    """The origins of a security group, with the IPv4 blocks of prefix lists in place of these."""
    if isinstance(group, Unanswered):
        yield Origin(group_id, error=group)
        return
    for origin in group or ():
        if not origin.list_id:
            yield origin
            continue
        for block in account.known(PREFIX_LISTS, origin.list_id):
            if isinstance(block, Unanswered):
                yield origin._replace(error=block)
            elif ":" not in block:  # IPv6
                yield origin._replace(cidr=block)


def first(rows: Sequence[T]) -> T | None:
    """The first of the rows that a look-up found; None where AWS shows none."""
    return rows[0] if rows else None


def of_subnet(subnet_id: str | None, rows: Iterable[Any]) -> Any:
    """The network ACL or route table of a subnet. Where none of a VPC's names the subnet, an error
    among them stands for it; None where there is no error either."""
    error = None
    for row in rows:
        if isinstance(row, Unanswered):
            error = row
        elif subnet_id in row.subnet_ids:
            return row
    return error


# ======================================================================================
# 7  Judging
# ======================================================================================
# Nothing in this section calls AWS or looks anything up. A stage looks at a source and at an
# interface of a sensor and says whether packets pass, with the evidence. Only sources with an
# address are judged. A stage that meets an error in the place of an answer raises it.


class Finding(NamedTuple):
    """What a stage says, and why.

    Attributes:
        text: a sentence without its full stop, with the names of details in braces; empty where
            there is nothing to tell.
        about: the details by name: the rule, group, ACL, route, zone or instance that decides.
    """

    says: Says
    text: str = ""
    about: tuple[tuple[str, object], ...] = ()

    @property
    def details(self) -> dict[str, object]:
        """What it is about, by name."""
        return dict(self.about)

    def __str__(self) -> str:
        return self.text.format(**self.details)


# The same findings come up for thousands of pairs of sources and sensors, which share them.
@lru_cache(maxsize=2_048)
def finding(says: Says, text: str, **about: object) -> Finding:
    """What a stage says, with the details that its sentence names."""
    return Finding(says, text, tuple(about.items()))


PASSES = Finding(Says.PASSES)
passes = partial(finding, Says.PASSES)
ranks_behind = partial(finding, Says.BEHIND)
rejects = partial(finding, Says.REJECTS)
unsettled = partial(finding, Says.UNSETTLED)
unseen = partial(finding, Says.UNSEEN)


def steered(source: Source, face: Face, configuration: Configuration) -> Finding:
    """A tag of the instance may name the only targets that it may go to."""
    named = source.tag(configuration.targets_tag)
    if not named or face.sensor.target_id in named.split():
        return PASSES
    text = "The instance's tag {tag} (TARGETS_TAG) names {named}, not this target"
    return rejects(text, tag=one_line(configuration.targets_tag), named=one_line(named))


def exists(source: Source, face: Face, configuration: Configuration) -> Finding:
    """The target and an interface on which it receives have to exist."""
    target = told(face.sensor.target)
    if target is None:
        return rejects("There is no traffic mirror target {target}", target=face.sensor.target_id)
    told(face.error)
    if face.interface is not HIDDEN:
        return PASSES
    if face.sensor.foreign:
        return unseen("The interface of the target belongs to another account")
    if target.interface_id:
        return rejects(
            "Network interface {interface} of the target does not exist",
            interface=target.interface_id,
        )
    if target.descriptions:
        return rejects("The load balancer of the target does not exist")
    return rejects("The target shows no interface and no load balancer")


def recognised(source: Source, face: Face, configuration: Configuration) -> Finding:
    """Instances behind a load balancer cannot be recognised as sensors, and one that is mirrored
    feeds on itself. So the operator has to say by tags which instances are meant."""
    by_tags = configuration.include_tags or configuration.exclude_tags
    if face.sensor.behind_load_balancer and not by_tags:
        return rejects(
            "Instances behind a load balancer cannot be recognised as sensors and would be "
            "mirrored into themselves; set INCLUDE_TAGS or EXCLUDE_TAGS so that they are left out"
        )
    return PASSES


def counted(source: Source, face: Face, configuration: Configuration) -> Finding:
    """The owner of a sensor has to show its sessions, where there is a role to ask."""
    told(face.sensor.hidden_sessions)
    return PASSES


def runs(source: Source, face: Face, configuration: Configuration) -> Finding:
    """AWS refuses a target whose instance does not run. An unattached interface is not judged."""
    interface = face.interface
    if interface is HIDDEN:
        return PASSES
    if interface.address is None:
        text = "Sensor interface {interface} has no IPv4 address"
        return rejects(text, interface=interface.interface_id)
    state = told(face.host_state)
    if state in (None, "running"):
        return PASSES
    text = "The sensor's instance {instance} is {state}"
    return rejects(text, instance=interface.host_id, state=state)


def in_zone(source: Source, face: Face, configuration: Configuration) -> Finding:
    """Mirroring across Availability Zones costs extra per GB, so sensors of the zone come first."""
    mine, theirs = zones(source, face)
    if not mine or not theirs:
        return unseen("Which Availability Zone the sensor is in cannot be seen")
    if mine == theirs:
        return passes("in {zone} like the interface", zone=theirs)
    if configuration.local_zone_only:
        text = "The sensor is in {zone}, the interface in {own_zone}"
        return rejects(text, zone=theirs, own_zone=mine)
    return passes("in {zone}, while the interface is in {own_zone}", zone=theirs, own_zone=mine)


def zones(source: Source, face: Face) -> tuple[str | None, str | None]:
    """The Availability Zones of source and sensor. AWS names zones in the mapping of the account
    that asks, so for a sensor that another account was asked about, the IDs are compared."""
    if face.sensor.through_role:
        return source.interface.zone_id, face.interface.zone_id
    return source.interface.zone, face.interface.zone


def in_vpc(source: Source, face: Face, configuration: Configuration) -> Finding:
    """Another VPC is out of the question only with LOCAL_VPC_ONLY."""
    if not configuration.local_vpc_only or not in_other_vpc(source, face):
        return PASSES
    vpc_id, own_vpc_id = face.interface.vpc_id, source.interface.vpc_id
    return rejects(
        "The sensor is in {vpc}, the interface in {own_vpc}", vpc=vpc_id, own_vpc=own_vpc_id
    )


def in_other_vpc(source: Source, face: Face) -> bool:
    """Whether the sensor's interface is known to be in another VPC."""
    return face.interface.vpc_id not in (None, source.interface.vpc_id)


def groups_admit(source: Source, face: Face, configuration: Configuration) -> Finding:
    """The sensor's security groups are a union of allow rules: one that admits the packet is
    enough, whatever others come to. The source's own outbound rules do not apply to mirrored
    traffic."""
    if not face.interface.group_ids:
        return passes("it has no security group to filter")
    others: list[Finding] = []
    unknown: list[tuple[Origin, Unanswered]] = []
    for origin in face.origins:
        try:
            if not origin.contains(source):
                continue
        except Unanswered as error:
            unknown.append((origin, error))
            continue
        admits = origin_admits(origin, in_other_vpc(source, face))
        if admits.says is Says.PASSES:
            return admits
        others.append(admits)
    for weak in others:
        if weak.says is Says.BEHIND:
            return weak
    # Prefix lists take a permission of their own, without which a rejection is not certain.
    denied = [(o, e) for o, e in unknown if o.list_id and isinstance(e, CallFailed) and e.final]
    told(first([error for origin, error in unknown if (origin, error) not in denied]))
    hints = [f"; {inactive}" for inactive in others]
    hints += [f"; prefix list {o.list_id} could settle it ({error})" for o, error in denied]
    about = {"hints": "".join(hints), "packet": VXLAN, "address": source.address}
    if face.unseen_groups:
        groups = ", ".join(face.unseen_groups)
        return unseen("Security group {groups} cannot be seen{hints}", groups=groups, **about)
    says, groups = unsettled if denied else rejects, ", ".join(face.interface.group_ids)
    return says("No rule of {groups} admits {packet} from {address}{hints}", groups=groups, **about)


def origin_admits(origin: Origin, other_vpc: bool) -> Finding:
    """What it means that packets come from the origin of a rule. A reference to a group in another
    VPC works across an active peering connection, and across a transit gateway where that is
    switched on, of which AWS documents no status."""
    about = {"group": origin.group_id, "packet": VXLAN, "origin": str(origin)}
    if origin.status == "active" or (origin.status is None and not other_vpc):
        return passes("security group {group} admits {packet} from {origin}", **about)
    if origin.status is not None:
        return rejects("the reference to {origin} crosses an inactive peering", **about)
    return ranks_behind(
        "ranked last, as security group {group} admits {packet} only from {origin}, which is in "
        "another VPC without a peering status",
        **about,
    )


def inbound_acl_allows(source: Source, face: Face, configuration: Configuration) -> Finding:
    """The network ACL of the sensor's subnet must let the packet in. ACLs apply where traffic
    enters or leaves a subnet, not within it."""
    if face.interface.subnet_id == source.interface.subnet_id:
        return passes("in the same subnet, where no network ACL applies")
    acl = told(face.acl)
    if acl is None:
        return unseen("The network ACL of {subnet} cannot be seen", subnet=face.interface.subnet_id)
    entry = deciding_entry(acl.inbound, source.address)
    rule = entry.number if entry else "*"
    about = {"rule": rule, "acl": acl.acl_id, "packet": VXLAN, "address": source.address}
    if entry and entry.allows:
        text = "inbound rule {rule} of network ACL {acl} allows {packet} from {address}"
        return passes(text, **about)
    text = "{packet} from {address} is denied by inbound rule {rule} of network ACL {acl}"
    return rejects(text, **about)


def outbound_acl_ranks(source: Source, face: Face, configuration: Configuration) -> Finding:
    """Whether mirrored packets pass through the outbound ACL of the source's subnet, AWS does not
    say. So a denial does not reject the sensor, but ranks it behind those without one."""
    address = face.interface.address
    if address is None or face.interface.subnet_id == source.interface.subnet_id:
        return PASSES
    acl = told(source.acl)
    entry = deciding_entry(acl.outbound, address) if acl else None
    if acl is None or (entry and entry.allows):
        return PASSES
    rule = entry.number if entry else "*"
    text = "ranked last, as outbound rule {rule} of network ACL {acl} denies {packet} to {to}"
    return ranks_behind(text, rule=rule, acl=acl.acl_id, packet=VXLAN, to=address)


def route_leads(source: Source, face: Face, configuration: Configuration) -> Finding:
    """Mirrored packets to another VPC take the route that the route table of the source's subnet
    shows. Routes to prefix lists are not looked into, and each may be the one that decides."""
    address, table = face.interface.address, source.route_table
    if address is None or not in_other_vpc(source, face):
        return PASSES
    about: dict[str, object] = {"vpc": face.interface.vpc_id, "to": address}
    denied = isinstance(table, CallFailed) and table.failure is Failure.DENIED
    if table is None or denied:
        about["problem"] = table or f"no route table of {source.interface.vpc_id} can be seen"
        text = "in another VPC ({vpc}), and whether a route leads there is not known ({problem})"
        return passes(text, **about)
    table = told(table)
    routes = [route for route in map(told, table.routes) if route.counts]
    winners, lists = winning_routes(routes, address), [route for route in routes if route.to_list]
    meanings = {route.meaning for route in winners + lists}
    if not winners:
        meanings.add(Says.REJECTS)  # without a route packets are dropped
    about |= {"table": table.table_id, "route": " or ".join(map(str, winners))}
    if meanings == {Says.REJECTS}:
        text = "No route of route table {table} leads to {to} in {vpc}"
        if winners:
            text = "Packets to {to} in {vpc} take the route {route} of route table {table}"
        return rejects(text, **about)
    if meanings == {Says.PASSES}:
        return passes(f"{ON_THE_WAY}; {UNCHECKED}", **about)
    if Says.REJECTS not in meanings:
        about["route"] = " or ".join(map(str, winners + lists))
        unlisted = "ranked last, as AWS does not list this path for mirrored traffic"
        return ranks_behind(f"{ON_THE_WAY}; {UNCHECKED}; {unlisted}", **about)
    if lists:
        about["route"] = " or ".join(map(str, lists))
        return ranks_behind(f"{ON_THE_WAY}; ranked last, as that route is not looked into", **about)
    return ranks_behind(f"{ON_THE_WAY}; ranked last, as these routes disagree", **about)


ON_THE_WAY = "in another VPC ({vpc}) by the route {route} of route table {table}"
UNCHECKED = "what lies beyond it is not checked"


def winning_routes(routes: Iterable[Route], address: str) -> list[Route]:
    """The routes that decide about packets to an address: of those to the smallest block that
    contains it the static one, or all others."""
    matching = [r for r in routes if not r.to_list and contains(r.destination, address)]
    smallest = min((route.size for route in matching), default=0)
    longest = [route for route in matching if route.size == smallest]
    return [route for route in longest if route.static] or longest


StageFunction = Callable[[Source, Face, Configuration], Finding]


class Stage(NamedTuple):
    """A step of judging.

    Attributes:
        name: as the result shows it.
        for_all: whether what it says of a sensor holds for all sources.
    """

    name: str
    judge: StageFunction
    for_all: bool = False


# The guide's order. A sensor's verdict is the first stage that rejects it.
PIPELINE = (
    Stage("tag", steered),
    Stage("unavailable", exists, for_all=True),
    Stage("unavailable", recognised, for_all=True),
    Stage("unavailable", counted, for_all=True),
    Stage("unavailable", runs, for_all=True),
    Stage("zone", in_zone),
    Stage("vpc", in_vpc),
    Stage("security_group", groups_admit),
    Stage("network_acl", inbound_acl_allows),
    Stage("network_acl", outbound_acl_ranks),
    Stage("route", route_leads),
)
# What the packets of a session that exists have to pass: whether they arrive is the question, not
# whether there is a better way.
REACHABILITY = (
    Stage("unavailable", exists, for_all=True),
    Stage("unavailable", runs, for_all=True),
    Stage("security_group", groups_admit),
    Stage("network_acl", inbound_acl_allows),
    Stage("route", route_leads),
)
STAGES = (*dict.fromkeys(stage.name for stage in PIPELINE), "create")


class Rank(IntEnum):
    """The order in which sensors are chosen, whatever their sessions."""

    IN_ZONE = 0
    IN_ZONE_BEHIND = 1
    OTHER_ZONE = 2
    OTHER_ZONE_BEHIND = 3
    UNVERIFIED = 4


class Verdict(NamedTuple):
    """What all stages say of a sensor, or of one of its interfaces, for one source.

    Attributes:
        stage: the stage that rejects it; None where it passes.
        findings: the one that rejects, or what there is to tell of one that passes.
        rank: of one that passes.
        certain: whether a rejection is beyond doubt.
        for_all: whether it holds for all sources.
        error: the missing answer for which it is unavailable.
    """

    stage: str | None
    findings: tuple[Finding, ...] = ()
    rank: Rank = Rank.IN_ZONE
    certain: bool = True
    for_all: bool = False
    error: Unanswered | None = None

    @property
    def passes(self) -> bool:
        """Whether packets pass, as far as can be seen."""
        return self.stage is None

    @property
    def blocks(self) -> bool:
        """Whether packets do not pass, beyond doubt."""
        return self.stage is not None and self.certain

    def __str__(self) -> str:
        return "; ".join(map(str, self.findings)) if self.error is None else str(self.error)


PASSED = Verdict(None)


@lru_cache(maxsize=2_048)
def rejection(stage: Stage, finding: Finding) -> Verdict:
    """The verdict of a stage that rejects."""
    certain = finding.says is Says.REJECTS
    return Verdict(stage.name, (finding,), certain=certain, for_all=stage.for_all)


def judge_face(
    source: Source, face: Face, configuration: Configuration, pipeline: Sequence[Stage] = PIPELINE
) -> Verdict:
    """The verdict on one interface of a sensor. A stage that lacks an answer is passed over, as is
    one that cannot see what would decide, since a later stage may reject for certain."""
    notes: list[Finding] = []
    missing: Unanswered | None = None
    hidden: Finding | None = None
    behind = False
    for stage in pipeline:
        try:
            finding = stage.judge(source, face, configuration)
        except Unanswered as error:
            missing = missing or error
            continue
        if finding is PASSES:
            continue
        if finding.says is Says.UNSEEN:
            hidden = hidden or finding
        elif finding.says in (Says.PASSES, Says.BEHIND):
            notes.append(finding)
            behind |= finding.says is Says.BEHIND
        else:
            return rejection(stage, finding)
    # Without the interface it is the missing answer that hides the rest.
    if hidden and not face.error and not configuration.allow_unverified:
        return Verdict("unavailable", (hidden, LAST_RESORT), certain=False)
    if missing:
        return Verdict("unavailable", certain=False, error=missing)
    if hidden:
        unverified = passes("not verified: {problem}", problem=hidden)
        return Verdict(None, (unverified, *notes), Rank.UNVERIFIED)
    mine, theirs = zones(source, face)
    return Verdict(None, tuple(notes), Rank(behind + 2 * (mine != theirs)))


LAST_RESORT = unseen("it is the last resort where ALLOW_UNVERIFIED is true")
# What is not known of a sensor that may be chosen all the same.
BEHIND_LOAD_BALANCER = passes(
    "listeners and what is registered behind the load balancer are not checked"
)
COUNTED_HERE = passes("of its sessions only those of this account are counted")


def judge_sensor(
    source: Source,
    faces: Sequence[Face],
    configuration: Configuration,
    pipeline: Sequence[Stage] = PIPELINE,
) -> Verdict:
    """The verdict on a sensor: the best of those on its interfaces."""
    verdicts = [judge_face(source, face, configuration, pipeline) for face in faces]
    best = verdicts[0] if len(verdicts) == 1 else max(verdicts, key=goodness)
    if not best.passes:
        return best
    notes = (
        *best.findings,
        *((BEHIND_LOAD_BALANCER,) if faces[0].sensor.behind_load_balancer else ()),
    )
    return best._replace(findings=(*notes, *((COUNTED_HERE,) if faces[0].sensor.foreign else ())))


def goodness(verdict: Verdict) -> tuple[bool, int, bool, bool, int]:
    """Of two verdicts on interfaces of a sensor, the one with more of it stands for the sensor."""
    how_far = STAGES.index(verdict.stage) if verdict.stage else 0
    return verdict.passes, -verdict.rank, bool(verdict.error), not verdict.certain, how_far


def judge(source: Source, sensors: Sensors, configuration: Configuration) -> dict[str, Verdict]:
    """The verdicts on all sensors for a source, by target ID, in configured order."""
    return {
        target_id: judge_sensor(source, faces, configuration)
        for target_id, faces in sensors.items()
    }


def ranked(
    source: Source, verdicts: Mapping[str, Verdict], sessions: Mapping[str, int]
) -> list[str]:
    """The targets to choose from, best first: by rank, then by the fewest sessions. Equal sensors
    come in an order that differs from interface to interface, so that instances launched together
    spread over them instead of piling onto the first. While an answer is missing that may still
    come, sensors of other zones and unverified ones do not count: a better one may turn up."""
    open_questions = any(v.error and not v.error.final for v in verdicts.values())
    worst = Rank.IN_ZONE_BEHIND if open_questions else Rank.UNVERIFIED

    def order(target_id: str) -> tuple[int, int, str]:
        draw = hashlib.sha256(f"{source.interface.interface_id}{target_id}".encode()).hexdigest()
        return verdicts[target_id].rank, sessions[target_id], draw

    return sorted((key for key, v in verdicts.items() if v.passes and v.rank <= worst), key=order)


# ======================================================================================
# 8  Mirroring
# ======================================================================================


class Outcome(NamedTuple):
    """What an outcome means to those who look at it.

    Attributes:
        level: of its log record.
        bad: whether it counts as 400.
        unfinished: whether there is no answer yet, so that the event is to be delivered again.
        usual: whether a sweep finds it everywhere, and logs it at DEBUG.
    """

    level: int
    bad: bool = False
    unfinished: bool = False
    usual: bool = False


# Ordered by how urgently an operator must act.
OUTCOMES = {
    "unmirrored": Outcome(logging.ERROR, bad=True),
    "blocked": Outcome(logging.ERROR, bad=True),
    "failed": Outcome(logging.ERROR, unfinished=True),
    "deferred": Outcome(logging.WARNING, unfinished=True),
    "created": Outcome(logging.INFO),
    "planned": Outcome(logging.INFO),
    "exists": Outcome(logging.INFO, usual=True),
    "skipped": Outcome(logging.INFO, usual=True),
}

ROUND = 100  # interfaces for which sensors are chosen before their creates go out
PARALLEL_CREATES = 10
THROTTLED_SECONDS = 3  # that pass before another create takes the place of a throttled one
TRIES = 3  # at an interface that AWS refused, though it may be mirrored by now or soon
SESSIONS_PER_INTERFACE = 3  # a quota that AWS does not raise
LONGEST_REASON = 2_000  # characters
UNSUPPORTED_SECONDS = 3_600  # for which an interface that AWS does not mirror is remembered


class Choice(NamedTuple):
    """How the function chose among the sensors for one interface.

    Attributes:
        verdicts: by target ID, in configured order.
        ranked: the targets to choose from, best first; the first one is chosen.
        sessions: how many sessions those targets had that packets can reach.
    """

    verdicts: Mapping[str, Verdict]
    ranked: Sequence[str] = ()
    sessions: Mapping[str, int] = {}

    @property
    def why(self) -> str:
        """Why the first of the ranked sensors is chosen."""
        return f"Best of {len(self.ranked)} eligible, with {self.sessions[self.ranked[0]]} sessions"

    def refused(self, reason: str) -> Choice:
        """The same, after AWS refused the target that was chosen."""
        verdicts = {**self.verdicts, self.ranked[0]: refused_by_aws(reason)}
        return Choice(verdicts, sessions=self.sessions)

    def rows(self) -> list[dict[str, Any]]:
        """The sensors as the result shows them."""
        rows = []
        best = first(self.ranked)
        for target_id, verdict in self.verdicts.items():
            said, reason = "rejected" if verdict.stage else "eligible", f"{verdict}."
            if target_id == best:
                said, reason = "selected", f"{self.why}: {reason}"
            elif best and verdict.passes:
                reason = f"Behind {best} with {self.sessions[best]} sessions: {reason}"
            row = {"target_id": target_id, "verdict": said, "stage": verdict.stage}
            reason = shortened(reason, LONGEST_REASON)
            rows.append({**row, "reason": reason, "sessions": self.sessions.get(target_id)})
        return rows


def refused_by_aws(reason: str) -> Verdict:
    """The verdict on a target that AWS refused at create."""
    return Verdict("create", (rejects("{error}", error=reason),), for_all=True)


NO_CHOICE = Choice({})
# What the result shows of an entry, besides its sensors.
SHOWN = (
    "interface_id", "instance_id", "outcome", "reason", "target_id", "session_id", "session_name",
)  # fmt: skip


class Entry(NamedTuple):
    """What became of one interface, or of an instance or a page that could not be looked into.

    Attributes:
        request: the event that asked for it.
        source: the interface, where there is one.
        choice: the verdicts that led to it.
        metric: the further metric in which a sweep counts it: Excluded or Elsewhere.
        place: where it stands in the event.
        The others are as in the result.
    """

    request: Request
    outcome: str
    reason: str
    instance_id: str | None = None
    interface_id: str | None = None
    target_id: str | None = None
    session_id: str | None = None
    session_name: str | None = None
    source: Source | None = None
    choice: Choice = NO_CHOICE
    metric: str | None = None
    place: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The entry as the result and the log records show it."""
        return {**{name: getattr(self, name) for name in SHOWN}, "sensors": self.choice.rows()}


class Task(NamedTuple):
    """An interface to be brought to its outcome.

    Attributes:
        place: where it stands in the event.
        sessions: those that it has already, those to our targets first.
        ours: how many of them go to our targets.
        verdicts: those on all sensors, once it was judged.
        choice: the sensor that was chosen, while a session to it is to be created.
        last_word: what it comes to if nothing else shows, once AWS refused it.
        tries: how often the function looked at it since then.
    """

    request: Request
    source: Source
    place: int = 0
    sessions: Sequence[Session] = ()
    ours: int = 0
    verdicts: Mapping[str, Verdict] | None = None
    choice: Choice = NO_CHOICE
    last_word: Entry | None = None
    tries: int = 0

    @property
    def target_id(self) -> str:
        """The target that was chosen."""
        return self.choice.ranked[0]

    @property
    def may_show(self) -> bool:
        """Whether EC2 said that it does not know the interface, so that another create may help."""
        return self.last_word is not None and self.last_word.outcome == "failed"

    def entry(
        self, outcome: str, reason: str, session: Session | None = None, **more: Any
    ) -> Entry:
        """What became of it: the outcome, why, the session that exists, and more of the entry."""
        if session:
            more |= {"target_id": session.target_id, "session_id": session.session_id}
        if self.sessions and not self.ours and outcome not in ("created", "exists"):
            more["metric"] = "Elsewhere"
        interface_id, reason = self.source.interface.interface_id, f"{reason}."
        if self.source.instance_id is None:
            reason = f"{one_line(self.source.interface.description)}: {reason}"
        return Entry(
            self.request,
            outcome,
            shortened(reason, LONGEST_REASON),
            self.source.instance_id,
            interface_id,
            source=self.source,
            place=self.place,
            **more,
        )

    def unanswered(self, error: Unanswered, choice: Choice = NO_CHOICE) -> Entry:
        """What it comes to without an answer of AWS: failed or deferred."""
        choice = choice if error.outcome == "failed" else NO_CHOICE
        return self.entry(error.outcome, str(error), choice=choice)

    def refused(self, reason: str) -> Entry:
        """Unmirrored, because AWS has refused, or would refuse, the session to be created."""
        choice = self.choice.refused(reason)
        return self.entry("unmirrored", f"Refused at create. {reason}", choice=choice)

    def without_verdicts(self) -> Task:
        """The task without what only the sensors' rows in the result need."""
        last_word = self.last_word and self.last_word._replace(choice=NO_CHOICE)
        return self._replace(verdicts=None, choice=NO_CHOICE, last_word=last_word)


def session_name(source: Source, target_id: str) -> str:
    """A session's Name tag: from both IDs the first four characters that differ."""
    return f"eh-mirror-{source.interface.interface_id[4:8]}{target_id[4:8]}"


def filter_of(source: Source, configuration: Configuration) -> str:
    """The ID of the filter for the sessions of a source."""
    return source.tag(configuration.filter_tag) or configuration.filter_id


def create_parameters(task: Task, configuration: Configuration) -> dict[str, Any]:
    """The parameters of CreateTrafficMirrorSession.

    EC2 answers a repeated ClientToken with the session that it made the first time, so a second
    delivery of the same event that comes to the same choice creates nothing. EC2 refuses the same
    token with other parameters; hence all of them are part of it.
    """
    name = Tag("Name", session_name(task.source, task.target_id))
    tags = [{"Key": t.key, "Value": t.value} for t in (name, *configuration.session_tags)]
    parameters: dict[str, Any] = {
        "NetworkInterfaceId": task.source.interface.interface_id,
        "TrafficMirrorTargetId": task.target_id,
        "TrafficMirrorFilterId": filter_of(task.source, configuration),
        "SessionNumber": configuration.session_number,
        "TagSpecifications": [{"ResourceType": "traffic-mirror-session", "Tags": tags}],
    }
    if configuration.virtual_network_id is not None:
        parameters["VirtualNetworkId"] = configuration.virtual_network_id
    if configuration.packet_length is not None:
        parameters["PacketLength"] = configuration.packet_length
    material = json.dumps([task.request.event_id, parameters], sort_keys=True)
    return parameters | {"ClientToken": hashlib.sha256(material.encode()).hexdigest()}


class Scope(Enum):
    """What a refusal of AWS is about."""

    TARGET = "the target; another one may do"
    FILTER = "the filter: no session with it can be created"
    ACCOUNT = "the account: no session at all can be created"
    UNSUPPORTED = "the interface, or all instances of its type: AWS does not mirror them"
    SENSOR = "the interface, which is a sensor of somebody's"
    NOT_SHOWN = "nothing yet: EC2 does not know what it has just shown, or it is gone"
    INTERFACE = "the interface; another invocation may have been faster"


# How AWS's codes begin, and what they are about. Any other code is about the interface.
REFUSALS = (
    ("TrafficMirrorSourcesPerTargetLimitExceeded", Scope.TARGET),
    ("TrafficMirrorSessionsPerTargetLimitExceeded", Scope.TARGET),
    ("InvalidTrafficMirrorTarget", Scope.TARGET),
    ("InvalidTrafficMirrorFilter", Scope.FILTER),
    ("TrafficMirrorSessionLimitExceeded", Scope.ACCOUNT),
    ("TagPolicyViolation", Scope.ACCOUNT),
    ("NetworkInterfaceNotSupported", Scope.UNSUPPORTED),
    ("InterfaceInUseByTrafficMirrorTarget", Scope.SENSOR),
    ("InvalidNetworkInterfaceID.NotFound", Scope.NOT_SHOWN),
    ("InvalidNetworkInterfaceId.NotFound", Scope.NOT_SHOWN),
    ("", Scope.INTERFACE),
)


def scope_of(refusal: CallFailed) -> Scope:
    """What a refusal is about."""
    return next(scope for code, scope in REFUSALS if refusal.code.startswith(code))


# Interfaces that AWS does not mirror: why, and when AWS refused them (Unix time in seconds). They
# are remembered for an hour, so that sweeps do not use up EC2's allowance of creates for what is
# always refused.
_unsupported: dict[str, tuple[str, float]] = {}


class Refusals:
    """What AWS has refused in this invocation. The threads that send creates note refusals, so that
    creates which wait behind them are not sent."""

    def __init__(self) -> None:
        self._reasons: dict[tuple[Scope, str], str] = {}

    def of_target(self, target_id: str) -> str | None:
        """Why no session to the target can be created; None where it can, as far as is known."""
        return self._reasons.get((Scope.TARGET, target_id))

    def of_filter(self, filter_id: str) -> str | None:
        """Likewise for a session with the filter."""
        account = self._reasons.get((Scope.ACCOUNT, ""))
        return account or self._reasons.get((Scope.FILTER, filter_id))

    def of_source(self, source: Source) -> str | None:
        """Likewise for a session of the interface."""
        reason, since = _unsupported.get(source.interface.interface_id, ("", 0.0))
        if 0 <= time.time() - since < UNSUPPORTED_SECONDS:
            return reason
        return self._reasons.get((Scope.UNSUPPORTED, source.instance_type))

    def note(self, task: Task, filter_id: str, error: CallFailed) -> None:
        """Take note of what a refusal says about creates to come."""
        source, scope, said = task.source, scope_of(error), error.brief
        if scope is Scope.TARGET:
            self._reasons[scope, task.target_id] = f"AWS refused {task.target_id}: {said}"
        elif scope is Scope.FILTER:
            reason = f"AWS creates no session with filter {one_line(filter_id)}: {said}"
            self._reasons[scope, filter_id] = reason
        elif scope is Scope.ACCOUNT:
            self._reasons[scope, ""] = f"AWS creates no session at all: {said}"
        elif scope is Scope.UNSUPPORTED:
            interface_id, kind = source.interface.interface_id, source.instance_type
            drop_old(_unsupported, UNSUPPORTED_SECONDS)
            reason = f"AWS does not mirror the interface {interface_id} ({error.code})"
            _unsupported[interface_id] = reason, time.time()
            # The interface that an instance was launched with is refused for the instance's type,
            # others may be refused for what they are.
            if kind and source.interface.is_first and not source.managed:
                reason = f"AWS does not mirror instances of type {kind} ({error.code})"
                self._reasons[scope, kind] = reason


class Mirroring:
    """One invocation's work, from what events ask for to an entry for each interface.

    Args:
        configuration: what the environment variables say.
        deadline: until when something may be begun.
        own_account: the function's account; None where it is not known.
        sweep: whether all running instances are looked at.
    """

    def __init__(
        self,
        configuration: Configuration,
        deadline: Deadline,
        own_account: str | None,
        sweep: bool = False,
    ) -> None:
        self.configuration = configuration
        self.deadline = deadline
        self.region = Region(configuration, deadline, own_account, sweep)
        self.refusals = Refusals()
        self._warned: set[str] = set()

    def entries(self, work: Work) -> Iterator[Entry]:
        """Do what events ask for; an entry goes out as soon as it is settled."""
        if not work.instances and not work.sweep:
            return
        instances = self.region.read_first(work.instances)
        yield from self.mirror(named_tasks(work.instances, instances))
        if not work.sweep:
            return
        done = set(work.instances)
        for read, values, tasks_of in SWEPT:
            if read is DATABASES and not self.configuration.mirror_databases:
                break
            try:
                for page in self.region.home.pages(read, values):
                    yield from self.mirror(swept_tasks(work.sweep, page, done, tasks_of))
            except Unanswered as error:
                reason = f"The interfaces after these were not read. {error}."
                yield Entry(work.sweep, error.outcome, shortened(reason, LONGEST_REASON))
                if isinstance(error, OutOfTime):
                    return

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
        yield from self.check_all(mirrored)
        waiting = self.joined(waiting)
        refused: list[Task] = []
        while waiting or refused:
            if not waiting:
                waiting, refused = yield from self.look_again(refused)
                continue
            chosen = []
            for task in waiting[:ROUND]:  # 3: which sensor? Each choice counts at once
                answer = self.answered(self.choose, task)
                if isinstance(answer, Entry):
                    yield answer
                else:
                    chosen.append(answer)
            again, refused_now = yield from self.send_round(chosen)  # 4: the session
            waiting = again + waiting[ROUND:]
            # A sweep shows the verdicts of a hundred interfaces, and keeps no more of them.
            many = len(refused) >= ROUND
            refused += [
                t.without_verdicts() if many and t.request.sweep else t for t in refused_now
            ]

    @staticmethod
    def answered(step: Callable[[Task], T], task: Task) -> T | Entry:
        """What a step says; the one place where a missing answer becomes failed or deferred."""
        try:
            return step(task)
        except Unanswered as error:
            return task.unanswered(error)

    def joined(self, tasks: Sequence[Task]) -> list[Task]:
        """The tasks with all that judging needs to know about their sources."""
        sources = self.region.join([task.source for task in tasks]) if tasks else []
        return [task._replace(source=source) for task, source in zip(tasks, sources, strict=True)]

    def triage(self, task: Task) -> Task | Entry:
        """Whether the interface is meant to be mirrored and can be. A task goes on: to a sensor, or
        where a sweep finds a session, to a check of what that leads to."""
        source, interface = task.source, task.source.interface
        if problem := why_excluded(source, self.configuration):
            return task.entry("skipped", problem, metric="Excluded")
        if interface.interface_type != "interface":
            problem = f"Interfaces of type {interface.interface_type} cannot be mirrored"
            return task.entry("skipped", problem)
        targets = self.region.targets
        if problem := targets.why_no_source(source):
            return task.entry("skipped", problem)
        if sessions := self.region.sessions.of_interface(interface.interface_id):
            sessions.sort(key=lambda session: session.target_id not in targets.ours)
            ours = sum(session.target_id in targets.ours for session in sessions)
            task = task._replace(sessions=sessions, ours=ours)
        if session := self.sufficient(task.sessions):
            return task if task.request.sweep else self.exists(task, session)
        if interface.address is None:
            return task.entry("skipped", "The interface has no IPv4 address, which VXLAN needs")
        if problem := self.refusals.of_source(source):
            return task.entry("skipped", problem)
        if problem := self.why_no_room(task.sessions):
            return task.entry("unmirrored", problem)
        return task

    def sufficient(self, sessions: Sequence[Session]) -> Session | None:
        """The session for which an interface needs no other; with MIRROR_ALONGSIDE only one to a
        target of ours."""
        ours = self.region.targets.ours
        session = next((session for session in sessions if session.target_id in ours), None)
        return session or (None if self.configuration.mirror_alongside else first(sessions))

    def why_no_room(self, sessions: Sequence[Session]) -> str | None:
        """Why AWS would refuse one more session beside these."""
        number = self.configuration.session_number
        for session in sessions:
            if session.number == number:
                name = f"Session {session.session_id} to {session.target_id}"
                return f"{name} has number {number} already; set SESSION_NUMBER to another one"
        if len(sessions) < SESSIONS_PER_INTERFACE:
            return None
        ids = ", ".join(session.session_id for session in sessions)
        return f"The interface has {len(sessions)} sessions, and AWS allows no more: {ids}"

    def exists(self, task: Task, session: Session) -> Entry:
        """The interface has this session already."""
        reason = f"Session {session.session_id} mirrors it to {session.target_id}"
        if session.target_id in self.region.targets.ours:
            return task.entry("exists", reason, session)
        reason += ", not one of our targets"
        return task.entry("exists", reason, session, metric="Elsewhere")

    # Sessions that exist

    def check_all(self, tasks: Sequence[Task]) -> Iterator[Entry]:
        """Check where the sessions of these interfaces lead to."""
        if not tasks:
            return
        targets = self.region.targets.by_id
        used = {session.target_id for task in tasks for session in task.sessions}
        looked_for = self.region.home.recall(TARGETS_READ, [t for t in used if t not in targets])
        if any(task.ours for task in tasks):  # the others need no sensor
            tasks = self.joined(tasks)
        for task in tasks:
            yield self.answered(partial(self.check, looked_for=looked_for), task)

    def check(self, task: Task, looked_for: Found) -> Entry:
        """Whether packets can reach the sensors that the interface is mirrored to: a session to one
        that they cannot reach is a blind spot that looks covered. Nothing is changed.

        Args:
            task: an interface with sessions. Those to our targets are judged; where there are none,
                it is enough that one of the others leads to a target that exists.
            looked_for: what AWS shows of targets that it did not list.
        """
        sessions = task.sessions[: task.ours] or task.sessions
        judged = [(s, self.verdict_on(task.source, s, looked_for)) for s in sessions]
        blocked = [(session, verdict) for session, verdict in judged if verdict.blocks]
        unknown = [(session, verdict.error) for session, verdict in judged if verdict.error]
        if blocked and (task.ours or len(blocked) == len(judged)):
            session, verdict = blocked[0]
            reason = f"Session {session.session_id} mirrors it to {session.target_id}"
            reason += f", which packets cannot reach. {verdict}"
            choice = Choice({session.target_id: verdict})
            return task.entry("blocked", reason, session, choice=choice)
        if unknown and (task.ours or len(blocked) + len(unknown) == len(judged)):
            session, error = unknown[0]
            reason = f"Whether packets reach {session.target_id} could not be checked. {error}"
            return task.entry(error.outcome, reason, session)
        return self.exists(task, task.sessions[0])

    def verdict_on(self, source: Source, session: Session, looked_for: Found) -> Verdict:
        """The verdict on the target of a session that exists."""
        target_id = session.target_id
        if target_id in looked_for:
            found = first(looked_for[target_id])
            if isinstance(found, Unanswered):
                return Verdict("unavailable", certain=False, error=found)
            gone = rejects("There is no traffic mirror target {target} any more", target=target_id)
            return PASSED if found else Verdict("unavailable", (gone,), for_all=True)
        if target_id not in self.region.targets.ours or source.interface.address is None:
            return PASSED
        self.deadline.check()
        faces = self.region.sensors[target_id]
        return judge_sensor(source, faces, self.configuration, REACHABILITY)

    # From verdicts to a session

    def choose(self, task: Task) -> Task | Entry:
        """Step 3: the sensor with the fewest sessions among those that packets can reach."""
        self.deadline.check()
        if problem := self.refusals.of_source(task.source):
            return task.entry("skipped", problem)
        if task.verdicts is None:
            task = self.judged(task, self.region.sensors)
        choice = self.choice(task)
        if not choice.ranked and self.region.may_be_renewed:
            # What is remembered may be out of date; it does not get to say that there is no sensor.
            source, sensors = self.region.renewed(task.source)
            task = self.judged(task._replace(source=source), sensors)
            choice = self.choice(task)
        task = task._replace(choice=choice)
        if not choice.ranked:
            errors = [verdict.error for verdict in choice.verdicts.values() if verdict.error]
            if errors:  # one that may pass comes first: another delivery may settle it
                return task.unanswered(min(errors, key=lambda error: error.final), choice)
            return task.entry("unmirrored", self.why_unmirrored(choice), choice=choice)
        if problem := self.refusals.of_filter(filter_of(task.source, self.configuration)):
            return task.refused(problem)
        self.region.sessions.chosen[task.target_id] += 1
        if task.request.dry_run or self.configuration.dry_run:
            reason = f"A session to {task.target_id} would be created. {choice.why}"
            name = session_name(task.source, task.target_id)
            planned = task.entry("planned", reason, choice=choice)
            return planned._replace(target_id=task.target_id, session_name=name)
        return task

    def judged(self, task: Task, sensors: Sensors) -> Task:
        """The task with the verdicts on all sensors. An error that keeps a sensor from being used
        is logged once in an invocation."""
        verdicts = judge(task.source, sensors, self.configuration)
        for error in {str(v.error) for v in verdicts.values() if v.error} - self._warned:
            self._warned.add(error)
            logger.warning("A sensor is unavailable. %s", error)
        return task._replace(verdicts=verdicts)

    def choice(self, task: Task) -> Choice:
        """The verdicts on all sensors as things are now: what AWS has refused meanwhile is
        rejected, and what was chosen meanwhile counts."""
        verdicts, sessions = dict(task.verdicts or {}), {}
        for target_id, verdict in verdicts.items():
            if verdict.passes:
                sessions[target_id] = self.region.count(target_id)
            refusal = self.refusals.of_target(target_id)
            if refusal and (verdict.passes or verdict.error):
                verdicts[target_id] = refused_by_aws(refusal)
        return Choice(verdicts, ranked(task.source, verdicts, sessions), sessions)

    def why_unmirrored(self, choice: Choice) -> str:
        """At which stage the last sensors fell."""
        verdicts = choice.verdicts
        if not verdicts:
            return f"There is no sensor: {self.region.targets.why_none}"
        last = max((v.stage for v in verdicts.values() if v.stage), key=STAGES.index)
        fell = [target_id for target_id, verdict in verdicts.items() if verdict.stage == last]
        return (
            f"No sensor can take it: of {len(verdicts)}, the last {len(fell)} fell at stage {last} "
            f"({fell[0]}: {verdicts[fell[0]]})"
        )

    def send_round(
        self, tasks: Sequence[Task]
    ) -> Generator[Entry, None, tuple[list[Task], list[Task]]]:
        """Step 4 for the interfaces of a round: their creates are sent together. What they do not
        settle comes back in two lists: those that wait for the next round, which knows of all
        refusals of this one, and those that AWS refused, though they may be mirrored by now."""
        waiting: list[Task] = []
        refused: list[Task] = []
        throttled: list[tuple[Task, CallFailed]] = []
        progress = False
        with ThreadPoolExecutor(max_workers=PARALLEL_CREATES) as threads:
            for task, answer in zip(tasks, threads.map(self.send, tasks), strict=True):
                if isinstance(answer, CallFailed) and answer.failure is Failure.THROTTLED:
                    throttled.append((task, answer))
                    continue
                became = self.after_create(task, answer)
                if isinstance(became, Entry):
                    progress |= became.outcome == "created"
                    yield became
                else:
                    (refused if became.last_word else waiting).append(became)
        for task, error in throttled:
            if progress:
                self.region.sessions.chosen[task.target_id] -= 1
                waiting.append(task)
            else:
                yield task.unanswered(error, task.choice)
        return waiting, refused

    def send(self, task: Task) -> Session | Unanswered | None:
        """Create the session that was chosen.

        Returns:
            The session, or why there is none as far as AWS says; None: not sent, because by now it
            is known to be refused.
        """
        filter_id, refusals = filter_of(task.source, self.configuration), self.refusals
        if (
            refusals.of_filter(filter_id)
            or refusals.of_target(task.target_id)
            or refusals.of_source(task.source)
        ):
            return None
        parameters = create_parameters(task, self.configuration)
        answer = asked(self.region.home.create_session, parameters)
        if isinstance(answer, CallFailed) and answer.failure is Failure.REFUSED:
            refusals.note(task, filter_id, answer)
        if isinstance(answer, CallFailed) and answer.failure is Failure.THROTTLED:
            # Where much is throttled botocore retries no more, and EC2 allows 5 creates a second.
            with suppress(OutOfTime):
                self.deadline.sleep(THROTTLED_SECONDS)
        return answer

    def after_create(self, task: Task, answer: Session | Unanswered | None) -> Entry | Task:
        """What becomes of an interface after its create: an entry; the task, if another try may
        help; with a last word, if AWS refused it for good as far as it says."""
        target_id, choice, sessions = task.target_id, task.choice, self.region.sessions
        if isinstance(answer, Session):
            sessions.chosen[target_id] -= 1
            sessions.per_target[target_id] += 1
            reason = f"Session {answer.session_id} mirrors it to {target_id}. {choice.why}"
            created = task.entry("created", reason, answer, choice=choice)
            return created._replace(session_name=session_name(task.source, target_id))
        if answer is None:
            sessions.chosen[target_id] -= 1
            return task._replace(last_word=None)
        if not isinstance(answer, CallFailed) or answer.failure is not Failure.REFUSED:
            return task.unanswered(answer, choice)
        sessions.chosen[target_id] -= 1
        reason = f"AWS refused {target_id}: {answer.brief}"
        match scope_of(answer):
            case Scope.TARGET:
                return task._replace(last_word=None)
            case Scope.UNSUPPORTED:
                return task.entry("skipped", self.refusals.of_source(task.source) or reason)
            case Scope.SENSOR:
                reason = "The interface is somebody's sensor, which AWS does not mirror"
                return task.entry("skipped", f"{reason} ({answer.code})")
            case Scope.FILTER | Scope.ACCOUNT:
                filter_id = filter_of(task.source, self.configuration)
                return task.refused(self.refusals.of_filter(filter_id) or reason)
            case Scope.NOT_SHOWN:
                failed = task.entry("failed", reason, choice=choice)
                return failed if task.tries == TRIES - 1 else task._replace(last_word=failed)
            case Scope.INTERFACE:
                return task._replace(last_word=task.refused(reason))

    def look_again(
        self, refused: Sequence[Task]
    ) -> Generator[Entry, None, tuple[list[Task], list[Task]]]:
        """Look whether interfaces that AWS refused have a session by now: another invocation may
        have been faster, and its session can take seconds to show. All of them are looked up
        together, three times, a second apart. Where EC2 did not know the interface yet, the create
        is sent again.

        Returns:
            Those whose create is sent again, and those that are looked at once more.
        """
        again: list[Task] = []
        rest: list[Task] = []
        ids = [task.source.interface.interface_id for task in refused]
        found: Found
        try:
            if any(task.tries or task.may_show for task in refused):
                self.deadline.sleep(PAUSE_SECONDS)
            found = self.region.home.look_up(SESSIONS, ids)
        except OutOfTime as error:
            found = {interface_id: [error] for interface_id in ids}
        for task, interface_id in zip(refused, ids, strict=True):
            last_word, tries = task.last_word, task.tries + 1
            assert last_word
            session = asked(
                lambda key: self.sufficient([told(s) for s in found[key]]), interface_id
            )
            out_of_time = isinstance(session, OutOfTime)
            if isinstance(session, Session):
                yield self.exists(task, session)
            elif isinstance(session, Unanswered) and (out_of_time or tries == TRIES):
                reason = f"{last_word.reason} Whether it has a session is not known: {session}."
                reason = shortened(reason, LONGEST_REASON)
                yield last_word._replace(outcome=session.outcome, reason=reason, choice=NO_CHOICE)
            elif tries == TRIES:
                yield last_word
            else:
                (again if task.may_show else rest).append(task._replace(tries=tries))
        return again, rest


def named_tasks(requests: Mapping[str, Request], instances: Found) -> Iterator[Task | Entry]:
    """The interfaces of the instances that events name, in order."""
    place = 0
    for instance_id, request in requests.items():
        for task in tasks_of(instance_id, first(instances[instance_id]), request):
            yield task._replace(place=place)
            place += 1


def swept_tasks(
    request: Request, page: Iterable[tuple[str, Any]], done: set[str], tasks_of: TasksOf
) -> Iterator[Task | Entry]:
    """The interfaces of a page of a sweep. Their order changes from sweep to sweep, so that
    interfaces which AWS keeps refusing do not keep others from their turn."""

    def draw(item: tuple[str, object]) -> bytes:
        drawn = f"{request.event_id}{item[0]}".encode(errors="backslashreplace")
        return hashlib.sha256(drawn).digest()

    for identifier, found in sorted(page, key=draw):
        if identifier not in done:
            done.add(identifier)
            yield from tasks_of(identifier, found, request)


TasksOf = Callable[[str, Any, Request], Iterator[Task | Entry]]


def tasks_of(
    instance_id: str, instance: Instance | Unanswered | None, request: Request
) -> Iterator[Task | Entry]:
    """The interfaces of an instance as AWS shows it, or the entry that says why there are none."""
    if isinstance(instance, Unanswered):
        yield Entry(request, instance.outcome, f"{instance}.", instance_id)
        return
    if instance is None or not instance.is_up or not instance.interfaces:
        problem = why_no_interface(instance_id, instance, request)
        yield Entry(request, "skipped", f"{problem}.", instance_id)
        return
    for interface_id, interface in instance.interfaces.items():
        if isinstance(interface, Unanswered):
            yield Entry(request, interface.outcome, f"{interface}.", instance_id, interface_id)
            continue
        source = Source(
            interface=interface,
            instance_id=instance_id,
            tags=instance.tags,
            instance_type=instance.instance_type,
            managed=instance.managed,
            neighbours=tuple(instance.interfaces),
        )
        yield Task(request, source)


def tasks_of_database(
    interface_id: str, interface: Interface | Unanswered, request: Request
) -> Iterator[Task | Entry]:
    """The interface of a database, unless it belongs to an instance (RDS Custom)."""
    if isinstance(interface, Unanswered):
        yield Entry(request, interface.outcome, f"{interface}.", interface_id=interface_id)
    elif interface.host_id is None:
        yield Task(request, Source(interface, None, {}))


# What a sweep reads: the call, the values of its filter, and whose interfaces it shows.
SWEPT: Sequence[tuple[Read, Sequence[str], TasksOf]] = (
    (RUNNING_INSTANCES, ["running"], tasks_of),
    (DATABASES, ["amazon-rds", "amazon-elasticache"], tasks_of_database),
)


def why_no_interface(instance_id: str, instance: Instance | None, request: Request) -> str:
    """Why there is no interface of an instance to mirror."""
    if instance and not instance.is_up:
        return f"Instance {instance_id} is {instance.state}, not running"
    problem = f"AWS does not know instance {instance_id}"
    if instance:
        problem = f"Instance {instance_id} has no network interface"
    elif not sees_managed(client_of()):
        problem += ", and this runtime's boto3 cannot ask for instances that services manage"
    return f"{problem}; the event is from {request.origin}" if request.origin else problem


def why_excluded(source: Source, configuration: Configuration) -> str | None:
    """Why tags say that the interface is not meant to be mirrored; None where they do not, as for
    databases."""
    if source.instance_id is None:
        return None
    for tag in configuration.exclude_tags:
        if tag.matches(source.tags):
            return f"The instance is excluded by its tag {tag} (EXCLUDE_TAGS)"
    wanted = configuration.include_tags
    if wanted and not any(tag.matches(source.tags) for tag in wanted):
        return f"The instance has none of the tags {', '.join(map(str, wanted))} (INCLUDE_TAGS)"
    return None


# ======================================================================================
# 9  Reporting
# ======================================================================================

BODY_LIMIT = 1_000_000  # bytes
LISTED = 100  # interfaces in the body, and in an error's message
NOTES_IN_MESSAGE = 10
LONGEST_ERROR = 100_000  # characters
BY_URGENCY = list(OUTCOMES)


class Report:
    """Logs and counts entries as they are settled, and keeps the hundred that need attention most,
    so that memory does not grow with the account.

    Attributes:
        counts: how many interfaces came to each outcome.
        unread: whether some of what a sweep is about could not be read.

    Args:
        sweep: whether all instances are looked at.
    """

    def __init__(self, sweep: bool) -> None:
        self.sweep = sweep
        self.counts: Counter[str] = Counter()
        self.unread = False
        self.metrics: Counter[str] = Counter()  # what dry runs that events ask for leave out
        self._meant = self._covered = 0  # interfaces
        self._stopped = False  # before all instances were read
        self._unfinished: list[Entry] = []  # what is to be delivered again, the first hundred
        self._unfinished_counts: Counter[str] = Counter()
        self._unfinished_instances: set[str | None] = set()
        self._sweep_is_unfinished = False
        self._kept: list[Entry] = []

    def add(self, entry: Entry) -> None:
        """Take into account what became of an interface."""
        log_entry(entry)
        outcome = OUTCOMES[entry.outcome]
        self.counts[entry.outcome] += 1
        insort(self._kept, entry, key=lambda kept: BY_URGENCY.index(kept.outcome))
        del self._kept[LISTED:]
        if outcome.unfinished:
            self._unfinished_instances.add(entry.instance_id)
            self._sweep_is_unfinished |= entry.request.sweep
            # What a sweep defers, the next one goes on with.
            if not (entry.request.sweep and entry.outcome == "deferred"):
                self._unfinished_counts[entry.outcome] += 1
                if len(self._unfinished) < LISTED:
                    self._unfinished.append(entry._replace(source=None, choice=NO_CHOICE))
        if not entry.request.dry_run:
            self._measure(entry)

    def _measure(self, entry: Entry) -> None:
        self.metrics[entry.outcome] += 1
        self.metrics[entry.metric or ""] += 1
        if entry.instance_id is None and entry.interface_id is None:
            self._stopped = True
            self.unread |= entry.outcome == "failed"
        elif entry.outcome != "skipped":
            self._meant += 1
            has_ours = entry.session_id is not None and entry.metric != "Elsewhere"
            self._covered += has_ours and entry.outcome != "blocked"

    @property
    def coverage(self) -> float | None:
        """The percentage of the interfaces meant to be mirrored that are, to a target of ours; None
        where there are none, or not all are known."""
        known = self._meant and not self.unread and not self._stopped
        return 100 * self._covered / self._meant if known else None

    @property
    def summary(self) -> dict[str, int]:
        """The count of each outcome that occurs, ordered by urgency."""
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
        if not self._unfinished:
            return None
        causes: dict[str, list[str]] = defaultdict(list)
        for entry in self._unfinished:
            name = entry.interface_id or entry.instance_id or "further interfaces"
            causes[entry.reason].append(name)
        counts = ", ".join(f"{n} {outcome}" for outcome, n in self._unfinished_counts.items())
        reasons = " ".join(f"{', '.join(names)}: {reason}" for reason, names in causes.items())
        more = sum(self._unfinished_counts.values()) - len(self._unfinished)
        text = f"{counts}. {reasons}" + (f" And {more} more." if more else "")
        return shortened(text, LONGEST_ERROR)

    def is_unfinished(self, message: Message) -> bool:
        """Whether SQS is to deliver a message again: something in it could not be understood, or
        there is no answer for an interface that it asks for."""
        return bool(message.errors) or any(
            (request.sweep and self._sweep_is_unfinished)
            or not self._unfinished_instances.isdisjoint(request.instance_ids)
            for request in message.requests
        )

    def result(self, status: int, message: str, dry_run: bool) -> dict[str, Any]:
        """The handler's result."""
        listed = self._kept
        if not self.sweep and sum(self.counts.values()) <= LISTED:
            listed = sorted(listed, key=lambda entry: entry.place)
        body: dict[str, Any] = {"message": message, "dry_run": dry_run, "summary": self.summary}
        body["interfaces"] = [entry.as_dict() for entry in listed]
        text = json.dumps(body)
        if len(text) > BODY_LIMIT:
            bare = [{**entry, "sensors": []} for entry in body["interfaces"]]
            text = json.dumps({**body, "interfaces": bare})
        return {"statusCode": status, "body": text}


def log_entry(entry: Entry) -> None:
    """One log record per interface: a sentence, and the entry as further fields, which Lambda's
    JSON log format keeps. What a sweep finds in order would drown the rest, so it is DEBUG, and its
    rows of sensors would repeat megabytes."""
    outcome = OUTCOMES[entry.outcome]
    level = logging.DEBUG if entry.request.sweep and outcome.usual else outcome.level
    if not logger.isEnabledFor(level):
        return
    fields = (entry._replace(choice=NO_CHOICE) if entry.request.sweep else entry).as_dict()
    if entry.request.sweep:
        del fields["sensors"]
    where = " of ".join(filter(None, (entry.interface_id, entry.instance_id))) or "Sweep"
    logger.log(level, "%s: %s. %s", where, entry.outcome, entry.reason, extra=fields)


def print_metrics(
    context: object, report: Report, swept: bool, invalid: int, sessions: Mapping[str, int]
) -> None:
    """Print the invocation's metrics in CloudWatch's embedded metric format, one line a document.

    Args:
        context: Lambda's context object, for the function's name.
        report: the outcomes.
        swept: whether to print the further metrics of a sweep.
        invalid: events that could not be understood.
        sessions: by target ID, as far as they are known.
    """
    default_name = os.environ.get("AWS_LAMBDA_FUNCTION_NAME", __name__)
    function_name = str(getattr(context, "function_name", None) or default_name)
    names = [*OUTCOMES, *(("Elsewhere", "Excluded") if swept else ())]
    values: dict[str, tuple[float, str]] = {name: (report.metrics[name], "Count") for name in names}
    values["invalid"] = invalid, "Count"
    if swept:
        values["Sweeps"] = int(not report.unread), "Count"
        if (coverage := report.coverage) is not None:
            values["Coverage"] = coverage, "Percent"
    documents = [metric_document({"FunctionName": function_name}, values)]
    for target_id, count in sessions.items() if swept else ():
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
            messages or a notification of SNS with one of these; see README.md.
        context: Lambda's context object, or None.

    Returns:
        `{"statusCode": 200 or 400, "body": JSON text}`; for a batch of SQS messages the IDs of
        those to be delivered again.

    Raises:
        ConfigurationError: an environment variable is missing or malformed.
        MirroringError: AWS gave no useful answer, or time ran out, for some interfaces. The others
            have been worked on. Never raised for what SQS messages ask, nor for time that ran out
            in sweeps.
    """
    messages = open_delivery(event, str(getattr(context, "aws_request_id", None) or uuid.uuid4()))
    requests = [request for message in messages for request in message.requests]
    errors = [error for message in messages for error in message.errors]
    log_errors(messages)
    work = Work.of(requests)
    report = Report(sweep=work.sweep is not None)
    dry_run = bool(requests) and all(request.dry_run for request in requests)
    notes = [*(request.ignored for request in requests if request.ignored), *map(str, errors)]
    sessions: Mapping[str, int] = {}
    if requests:
        configuration = Configuration.from_environment(os.environ)
        dry_run |= configuration.dry_run
        account = own_account_of(context)
        mirroring = Mirroring(configuration, Deadline(context), account, report.sweep)
        try:
            for entry in mirroring.entries(work):
                report.add(entry)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            # botocore's parser vouches for the types in answers; where it is wrong, all come again.
            raise MirroringError(
                f"An answer of AWS cannot be understood: {error!r}"[:500]
            ) from error
        region = mirroring.region
        report.unread |= region.error is not None and region.error.outcome == "failed"
        sessions = region.sessions_per_own_target()
        if report.counts and (missing := region.why_no_targets):
            notes.append(f"{missing.capitalize()}.")
            logger.warning("%s", notes[-1])
    swept = work.sweep is not None and not work.sweep.dry_run
    print_metrics(context, report, swept, len(errors), sessions)
    if messages[0].message_id is not None:
        again = [message for message in messages if report.is_unfinished(message)]
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
        client_of().can_paginate("describe_instances")  # botocore reads how to page, too
    gc.freeze()
    gc.enable()
