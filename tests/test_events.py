"""What each kind of event asks for, how envelopes are opened, and that nonsense gets an answer too.

What a batch of SQS messages names for another delivery is in test_sqs.py.
"""

from __future__ import annotations

import copy
import json
import logging
import re
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from aws import (
    ACCOUNT_ID,
    OTHER_ACCOUNT_ID,
    REGION,
    LambdaContext,
    running_event,
    scheduled_event,
    sqs_event,
)
from calls import INSTANCES, SESSIONS
from conftest import Clock, Delivery, Scene, answer_of, deliver, missing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lambda_traffic_mirror import ConfigurationError, MirroringError, lambda_handler

Event = dict[str, Any]
Cases = dict[str, tuple[Event, list[str]]]

UNKNOWN = "i-00000000000000000"
NOTIFICATION = "EC2 Instance State-change Notification"
API_CALL = "AWS API Call via CloudTrail"
# What the console offers as a test event of the kind hello-world.
CONSOLE = {"key1": "value1", "key2": "value2", "key3": "value3"}

pytestmark = pytest.mark.usefixtures("shared_client")


# --------------------------------------------------------------------------------------
# What AWS sends
# --------------------------------------------------------------------------------------


def text_of(message: object) -> str:
    return message if isinstance(message, str) else json.dumps(message)


def notification(message: object) -> Event:
    """An SNS notification as it arrives in a queue."""
    return {
        "Type": "Notification",
        "MessageId": str(uuid.uuid4()),
        "TopicArn": f"arn:aws:sns:{REGION}:{ACCOUNT_ID}:instances",
        "Message": text_of(message),
        "Timestamp": "2026-01-01T00:00:00.000Z",
    }


def sns_event(*messages: object) -> Event:
    """What SNS sends to a function that is subscribed itself."""
    records = [
        {"EventSource": "aws:sns", "EventVersion": "1.0", "Sns": notification(message)}
        for message in messages
    ]
    return {"Records": records}


def in_sqs(*messages: object) -> Event:
    return sqs_event(*map(text_of, messages))


def sns_in_sqs(*messages: object) -> Event:
    return in_sqs(*map(notification, messages))


ENVELOPES = {"SNS": sns_event, "SQS": in_sqs, "SNS in SQS": sns_in_sqs}
every_envelope = pytest.mark.parametrize("envelope", ENVELOPES)


def call_event(name: str, **detail: Any) -> Event:
    """EventBridge's AWS API Call via CloudTrail."""
    return {
        "id": str(uuid.uuid4()),
        "detail-type": API_CALL,
        "source": "aws.ec2",
        "account": ACCOUNT_ID,
        "region": REGION,
        "detail": {
            "userIdentity": {"type": "IAMUser", "accountId": ACCOUNT_ID, "userName": "operator"},
            "eventSource": "ec2.amazonaws.com",
            "eventName": name,
            "requestParameters": None,
            "responseElements": None,
            "readOnly": False,
            "eventType": "AwsApiCall",
            **detail,
        },
    }


def items(*members: Event) -> Event:
    """A list as CloudTrail spells EC2's."""
    return {"items": list(members)}


def run_instances(*instance_ids: str) -> Event:
    started = items(*({"instanceId": key, "imageId": "ami-1"} for key in instance_ids))
    return call_event("RunInstances", responseElements={"instancesSet": started})


def tried(event: Event) -> Event:
    """The same event as a dry run."""
    return event | {"dry_run": True}


class Pair(Scene):
    """Two instances without sessions, and a sensor."""

    one: str
    two: str

    def __enter__(self) -> Pair:
        super().__enter__()
        self.one, self.two = self.instances(2)
        self.configure(self.sensor())
        return self

    def with_session(self) -> list[str]:
        """Which of the two instances are mirrored."""
        return [i for i in (self.one, self.two) if self.sessions_of(i) == [1]]


@pytest.fixture
def scene(clean_slate: None, clock: Clock) -> Iterator[Pair]:
    with Pair() as scene:
        yield scene


def came_of(event: Event) -> int | list[int]:
    """The status of the result, or which SQS messages are to be delivered again."""
    delivery = deliver(event)
    if "batchItemFailures" in (delivery.result or {}):
        return delivery.again
    return delivery.answer.status


# --------------------------------------------------------------------------------------
# Each kind of event
# --------------------------------------------------------------------------------------


def events(one: str, two: str) -> Cases:
    """Events about these instances, and which of them are mirrored then."""
    both = [one, two]
    named = {"instance-id": one}
    return {
        "state change to running": (running_event(one), [one]),
        "state change without a state": ({"detail-type": NOTIFICATION, "detail": named}, [one]),
        "test event": ({"detail": named}, [one]),
        "white space around the ID": ({"detail": {"instance-id": f" {one}\n"}}, [one]),
        "test event with a state": ({"detail": named | {"state": "running"}}, [one]),
        "list with duplicates": ({"instance-ids": [two, one, two, one]}, both),
        "list, sweep false": ({"instance-ids": [one], "sweep": False}, [one]),
        "schedule of another account": (scheduled_event() | {"account": OTHER_ACCOUNT_ID}, both),
        "sweep by hand, its id not UTF-8": ({"sweep": True, "id": "\ud800"}, both),
        "unknown members besides": ({"sweep": True, "why": {"not": None}}, both),
        "RunInstances": (run_instances(two), [two]),
    }


@pytest.mark.parametrize("envelope", [None, *ENVELOPES])
@pytest.mark.parametrize("name", events("", ""))
def test_an_event_is_understood_bare_and_in_every_envelope(
    scene: Pair, name: str, envelope: str | None
) -> None:
    event, mirrored = events(scene.one, scene.two)[name]
    came = came_of(ENVELOPES[envelope](event) if envelope else event)
    assert (came, scene.with_session()) == ([] if "SQS" in (envelope or "") else 200, mirrored)


@pytest.mark.parametrize("name", events("", ""))
def test_with_dry_run_in_it_an_event_is_only_tried_out(scene: Pair, name: str) -> None:
    event, mirrored = events(scene.one, scene.two)[name]
    answer = scene.run(tried(event))
    assert (answer.body["dry_run"], answer.summary["planned"]) == (True, len(mirrored))
    assert scene.with_session() == []


@pytest.mark.parametrize("variable", ["true", "false"])
@pytest.mark.parametrize("member", [True, False, None])
def test_the_variable_or_the_event_switches_the_dry_run_on(
    scene: Pair, monkeypatch: pytest.MonkeyPatch, variable: str, member: bool | None
) -> None:
    monkeypatch.setenv("DRY_RUN", variable)
    event = running_event(scene.one) | ({} if member is None else {"dry_run": member})
    assert scene.run(event).body["dry_run"] is (variable == "true" or member is True)


def with_dry_run(where: str, value: object, *events: Event) -> Event:
    """These events, with dry_run at the top of their envelope, or of each notification in SQS."""
    if where in ENVELOPES:
        return ENVELOPES[where](*events) | {"dry_run": value}
    return in_sqs(*(notification(event) | {"dry_run": value} for event in events))


@pytest.mark.parametrize("value", [True, False, "true", None], ids=ascii)
@pytest.mark.parametrize("where", [*ENVELOPES, "the notifications in SQS"])
def test_dry_run_at_the_top_of_an_envelope_holds_for_all_of_it(
    scene: Pair, where: str, value: object
) -> None:
    """False changes nothing, and what is not a boolean makes all of it invalid."""
    event = with_dry_run(where, value, tried(running_event(scene.one)), running_event(scene.two))
    valid = isinstance(value, bool)
    wanted = (200 if valid else 400) if where == "SNS" else [] if valid else [0, 1]
    assert came_of(event) == wanted
    assert scene.with_session() == ([scene.two] if value is False else [])


@pytest.mark.parametrize("state", ["pending", "stopped", "Running", ""])
def test_another_state_than_running_is_ignored(scene: Pair, state: str) -> None:
    answer = scene.run(tried(running_event(scene.one, state=state)))
    assert (answer.status, answer.interfaces, scene.calls) == (200, [], [])
    assert (missing(answer.body["message"], scene.one, state), answer.body["dry_run"]) == ([], True)


def test_pending_counts_as_running_where_aws_still_shows_it(scene: Pair) -> None:
    scene.set_state(scene.one, "pending")
    assert scene.run(scene.one).outcomes == ["created"]


# --- Instances that AWS does not know yet


def unknown(scene: Pair, looks: int) -> None:
    scene.unknown_instances[scene.one] = looks


def without_interfaces(scene: Pair, looks: int) -> None:
    left = [None] * looks

    def change(found: Event) -> None:
        for row in found["Reservations"]:
            if left and row["Instances"][0]["InstanceId"] == scene.one:
                left.pop()
                row["Instances"][0]["NetworkInterfaces"] = []

    scene.show(INSTANCES, change)


@pytest.mark.parametrize("late", [unknown, without_interfaces])
@pytest.mark.parametrize(
    ("looks", "outcome"), [(0, "created"), (1, "created"), (2, "created"), (3, "skipped")]
)
def test_an_instance_that_aws_does_not_show_yet_is_asked_for_twice_more_a_second_apart(
    scene: Pair, clock: Clock, late: Callable[[Pair, int], None], looks: int, outcome: str
) -> None:
    late(scene, looks)
    assert scene.run({"instance-ids": [scene.two, scene.one]}).outcomes == ["created", outcome]
    assert clock.seconds == [1.0] * min(looks, 2)
    asked = [repr(call.parameters) for call in scene.calls if call.operation == INSTANCES]
    found = [sum(name in text for text in asked) for name in (scene.one, scene.two)]
    assert found == [1 + min(looks, 2), 1]  # what is known is not asked for again


@pytest.mark.parametrize("region", [None, "eu-west-1"])
@pytest.mark.parametrize("account", [None, OTHER_ACCOUNT_ID])
@pytest.mark.parametrize("kind", [running_event, run_instances])
def test_the_reason_of_an_unknown_instance_names_the_events_account_and_region(
    scene: Pair, kind: Callable[[str], Event], account: str | None, region: str | None
) -> None:
    answer = scene.run(kind(UNKNOWN) | {"account": account, "region": region})
    reason = answer.entry["reason"]
    assert (answer.status, answer.outcomes) == (200, ["skipped"])
    assert missing(reason, UNKNOWN, *filter(None, (account, region))) == []
    assert ("event" in reason) == bool(account or region)


def test_a_known_instance_is_mirrored_wherever_the_event_is_from(scene: Pair) -> None:
    event = running_event(scene.one) | {"account": OTHER_ACCOUNT_ID, "region": "eu-west-1"}
    assert scene.run(event).outcomes == ["created"]


# --------------------------------------------------------------------------------------
# Calls that CloudTrail recorded
# --------------------------------------------------------------------------------------


def nested(value: object, depth: int) -> object:
    for level in range(depth):
        value = [value] if level % 2 else {"x": value}
    return value


# What a call asked and what AWS answered, and the instances that are mirrored then.
RECORDED: dict[str, Callable[[str, str], tuple[object, object, list[str]]]] = {
    "AttachNetworkInterface": lambda one, two: (
        {"networkInterfaceId": "eni-1", "instanceId": two, "deviceIndex": 1},
        {"attachmentId": "eni-attach-1"},
        [two],
    ),
    "CreateTags": lambda one, two: (
        {"resourcesSet": items({"resourceId": "vol-1"}, {"resourceId": one})},
        {"_return": True},
        [one],
    ),
    "one in the request, the other in the answer": lambda one, two: (
        {"instanceId": one},
        {"resourceId": two},
        [one, two],
    ),
    "an ID in any case": lambda one, two: ({"INSTANCEID": one}, {"ResourceId": two}, [one, two]),
    "deep down": lambda one, two: (nested({"instanceId": one}, 500), None, [one]),
    "a list within lists": lambda one, two: (None, [[[{"instanceId": two}]], 7], [two]),
}


@pytest.mark.parametrize("name", RECORDED)
def test_the_instances_that_a_recorded_call_names_are_mirrored(scene: Pair, name: str) -> None:
    asked, answered, mirrored = RECORDED[name](scene.one, scene.two)
    event = call_event("Something", requestParameters=asked, responseElements=answered)
    assert scene.run(event).outcomes == ["created"] * len(mirrored)
    assert scene.with_session() == mirrored


# Calls that start nothing, or that name no instance to be looked at.
NAMED = {"requestParameters": {"instanceId": "i-1"}}
IGNORED: dict[str, Event] = {
    "a call that failed": NAMED | {"errorCode": "Client.Invalid"},
    "a call that only reads": NAMED | {"readOnly": True},
    "a call that only reads, as text": NAMED | {"readOnly": "true"},
    "a call without parameters": {},
    "a caller that is an instance": {"userIdentity": {"instanceId": "i-1"}},
    **{
        name: {"requestParameters": parameters}
        for name, parameters in {
            "a call that names none": {"resourcesSet": items({"resourceId": "vol-1"})},
            "an instance only in texts": {"clientToken": "i-1", "instanceIdSet": ["i-1"]},
            "a resource that does not begin with i-": {"resourceId": "arn:aws:ec2:::i-1"},
            "IDs with wildcards": {"instanceId": "i-*"},
            "IDs that are no text": {"instanceId": ["i-1", 7, None]},
        }.items()
    },
}


@pytest.mark.parametrize("detail", IGNORED.values(), ids=IGNORED.keys())
def test_a_recorded_call_is_ignored_without_a_call_to_aws(scene: Pair, detail: Event) -> None:
    answer = scene.run(call_event("Something", **detail))
    assert (answer.status, answer.interfaces, scene.calls) == (200, [], [])


def test_an_instance_that_the_call_has_ended_is_skipped(scene: Pair) -> None:
    scene.terminate(scene.one)
    event = call_event("TerminateInstances", requestParameters={"instanceId": scene.one})
    answer = scene.run(event)
    assert (answer.status, answer.outcomes) == (200, ["skipped"])


# --------------------------------------------------------------------------------------
# Several events in an envelope
# --------------------------------------------------------------------------------------


UNREADABLE: dict[str, object] = {
    "nonsense": CONSOLE,
    "null": None,
    "text that is not JSON": "{",
    "text nested too deep": "[" * 100_000,
    "dry_run as text": {"detail": {"instance-id": "i-1"}, "dry_run": "true"},
    "a batch": sqs_event("{}"),
    "a notification within a notification": notification(notification({"sweep": True})),
    "an array of events": [running_event("i-1")],
}


@pytest.mark.parametrize("name", UNREADABLE)
@every_envelope
def test_one_that_cannot_be_understood_does_not_stop_the_others(
    scene: Pair, envelope: str, name: str
) -> None:
    """And they are worked on together."""
    bodies = running_event(scene.one), UNREADABLE[name], run_instances(scene.two)
    came = came_of(ENVELOPES[envelope](*bodies))
    found = (came, scene.with_session(), scene.count(SESSIONS))
    assert found == ([1] if "SQS" in envelope else 400, [scene.one, scene.two], 1)


def test_a_notification_answers_one_result_over_all_its_events(scene: Pair) -> None:
    event = sns_event(running_event(scene.two), CONSOLE, running_event(scene.one))
    answer = answer_of(lambda_handler(event, LambdaContext()))
    assert [entry["instance_id"] for entry in answer.interfaces] == [scene.two, scene.one]
    assert (answer.summary, "instance-id" in answer.body["message"]) == ({"created": 2}, True)


def test_a_notification_whose_instance_failed_is_delivered_again(scene: Pair) -> None:
    scene.fail(SESSIONS)
    assert deliver(sns_event(running_event(scene.one))).error.startswith("1 failed")


@pytest.mark.parametrize("sns", [None, {}, {"Message": {"sweep": True}}, {"Message": ""}])
def test_an_sns_record_without_a_message_that_is_text_is_invalid(scene: Pair, sns: object) -> None:
    event = sns_event({"sweep": True})
    event["Records"][0]["Sns"] = sns
    assert (came_of(event), scene.calls) == (400, [])


# What stands beside a good SQS record so that it cannot be said which to deliver again.
RECORD = sqs_event("{}")["Records"][0]
BESIDES: dict[str, object] = {
    "a record of SNS": sns_event({"sweep": True})["Records"][0],
    "null": None,
    "an event": running_event(UNKNOWN),
    **{f"a messageId that is {value!a}": RECORD | {"messageId": value} for value in (None, "", 7)},
}


@pytest.mark.parametrize("place", ["last", "first"])
@pytest.mark.parametrize("other", BESIDES.values(), ids=BESIDES.keys())
def test_a_batch_whose_records_cannot_all_be_named_is_raised(
    scene: Pair, other: object, place: str
) -> None:
    good = in_sqs(running_event(scene.one))["Records"]
    with pytest.raises(MirroringError):
        lambda_handler({"Records": [*good, other] if place == "last" else [other, *good]}, None)
    assert scene.calls == []


# --------------------------------------------------------------------------------------
# Nonsense
# --------------------------------------------------------------------------------------

RUNNING = {"instance-id": "i-1", "state": "running"}


def each(member: str, *values: object, **besides: object) -> dict[str, object]:
    """Events whose member has each of these values."""
    return {f"{member} is {value!a}": {member: value} | besides for value in values}


def each_detail(member: str, *values: object, kind: str = NOTIFICATION) -> dict[str, object]:
    """Events whose detail has such a member."""
    return {
        f"{member} of the detail is {value!a}": {
            "detail-type": kind,
            "detail": RUNNING | {member: value},
        }
        for value in values
    }


NONSENSE: dict[str, object] = {
    "the console's default test event": CONSOLE,
    "null": None,
    "an empty object": {},
    "an array of events": [running_event("i-1")],
    "JSON in text": json.dumps(running_event("i-1")),
    **each("detail", None, {}, "i-1", [RUNNING]),
    **each_detail("instance-id", None, "", " \n", 7, ["i-1"], "i-1 i-2", "*", "i-0?", "i-\\*"),
    **each_detail("instance-id", "i-é", "i-\ud800"),
    **each_detail("state", None, 16, {"name": "running"}),
    **each("detail-type", "AWS API Call", 7, "", detail=RUNNING),
    **each("instance-ids", [], None, "i-1", {"i-1": True}, ["i-1", 7], ["i-1", "i-*"]),
    **each("sweep", False, "true", 1, None),
    **each("dry_run", "true", 1, None, detail=RUNNING),
    "dry_run alone": {"dry_run": True},
    "detail and instance-ids": {"detail": RUNNING, "instance-ids": ["i-1"]},
    "detail and sweep": {"detail": RUNNING, "sweep": True},
    "instance-ids and sweep": {"instance-ids": ["i-1"], "sweep": True},
    **each("Records", [], {}, None, [None], [{"eventSource": "aws:s3"}]),
    "a bare notification of SNS": notification(running_event("i-1")),
    **each_detail("eventSource", "sts.amazonaws.com", None, ["ec2.amazonaws.com"], kind=API_CALL),
    **each("detail", [], {"requestParameters": {}}, **{"detail-type": API_CALL}),
}


@pytest.mark.parametrize("event", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_gets_a_message_that_shows_an_event_that_works(scene: Pair, event: object) -> None:
    answer = answer_of(lambda_handler(event, LambdaContext()))
    shows = "instance-id" in answer.body["message"].rpartition("{")[2]
    assert (answer.status, shows, answer.interfaces, scene.calls) == (400, True, [], [])


def test_the_event_that_the_message_shows_works(scene: Pair) -> None:
    message = scene.run(CONSOLE).body["message"]
    shown = json.loads(message[message.index("{") :])
    assert scene.run(shown).outcomes == ["skipped"]


@pytest.mark.parametrize("event", [CONSOLE, {"detail": {}}, "x"], ids=ascii)
def test_nonsense_needs_no_configuration(event: object) -> None:
    assert answer_of(lambda_handler(event, None)).status == 400


@every_envelope
def test_each_event_that_cannot_be_understood_is_counted_as_invalid(
    scene: Pair, capsys: pytest.CaptureFixture[str], envelope: str
) -> None:
    lambda_handler(ENVELOPES[envelope](CONSOLE, running_event(scene.one), {}), LambdaContext())
    (document,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert document["invalid"] == 2


# --------------------------------------------------------------------------------------
# Texts from outside
# --------------------------------------------------------------------------------------

LONG = 900_000
LONG_ID = "i-" + "0" * LONG
HUGE: dict[str, Callable[[], object]] = {
    "an ID, stopped": lambda: running_event(LONG_ID, state="stopped"),
    "an ID in a recorded call": lambda: run_instances(LONG_ID),
    "a thousand IDs": lambda: {"instance-ids": [f"i-{n:04}" + "0" * 900 for n in range(1_000)]},
    "a text that is no ID": lambda: {"detail": {"instance-id": "x " + "y" * LONG}},
    "a state that JSON has to escape": lambda: running_event(UNKNOWN, state="é" * LONG),
    "a detail-type": lambda: {"detail-type": "x" * LONG, "detail": {"instance-id": "i-1"}},
    "the name of a member": lambda: {"x" * LONG: 1},
    "the ID of an event": lambda: running_event(UNKNOWN, event_id="e" * LONG),
    "an account": lambda: running_event(UNKNOWN) | {"account": "1" * LONG},
    "the name of a recorded call": lambda: call_event("X" * LONG),
    "the source of a recorded call": lambda: call_event("X", eventSource="x" * LONG),
    "notifications": lambda: sns_event(*[CONSOLE] * 3_000),
    "notifications of other states": lambda: sns_event(*[running_event("i-1", state="x")] * 3_000),
    "the ID of an SQS message": lambda: {"Records": [RECORD | {"messageId": "m" * LONG}]},
}


def texts_of(delivery: Delivery, caplog: pytest.LogCaptureFixture) -> list[str]:
    """All that people read of an invocation: message, reasons, error and log records."""
    texts = [delivery.error]
    texts += [r.getMessage() for r in caplog.records if r.name == "lambda_traffic_mirror"]
    if "body" in (delivery.result or {}):
        body = delivery.answer.body
        texts += [body["message"], *(str(entry) for entry in body["interfaces"])]
        texts += [entry["reason"] for entry in body["interfaces"]]
    return texts


@pytest.mark.parametrize("seconds", [60, 0], ids=["with time", "as time runs out"])
@pytest.mark.parametrize("name", HUGE)
def test_no_text_is_longer_than_its_limit_whatever_an_event_holds(
    scene: Pair,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    name: str,
    seconds: int,
) -> None:
    """A text from outside has at most 500 characters, a record or a message at most 10,000, an
    error 100,000 and a body 1 MB."""
    caplog.set_level(logging.DEBUG, "lambda_traffic_mirror")
    looks = iter([60_000])  # milliseconds, at the first look
    context = LambdaContext()
    if not seconds:
        context.get_remaining_time_in_millis = lambda: next(looks, 0)  # type: ignore[method-assign]
    delivery = deliver(HUGE[name](), context)
    error, *texts = texts_of(delivery, caplog)
    assert len(error) <= 100_000
    assert max(map(len, texts), default=0) <= 10_000
    assert [text[:80] for text in (error, *texts) if re.search(r"(.)\1{500}", text)] == []
    if "SQS" not in name:
        assert len(json.dumps(delivery.result)) < 1_000_000
    assert len(capsys.readouterr().out) < 10_000


FORGED = "x\nERROR forged\r\x1b[31m\x00\x85\u2028y"


# Events with that text in them, wherever a text may stand.
FORGERIES: dict[str, Callable[[str], Event]] = {
    "a messageId": lambda one: {"Records": [RECORD | {"messageId": FORGED}]},
    "a body": lambda one: {"Records": [RECORD | {"body": FORGED}]},
    "an ID": lambda one: {"detail": {"instance-id": f"i-{FORGED}"}},
    "an ID of a list": lambda one: {"instance-ids": [one, FORGED]},
    "an ID in a call": lambda one: run_instances(one, f"i-{FORGED}"),
    "a state": lambda one: running_event(one, state=FORGED),
    "a detail-type": lambda one: {"detail-type": FORGED, "detail": {"instance-id": one}},
    "an event ID": lambda one: running_event(one, event_id=FORGED),
    "an account": lambda one: running_event(UNKNOWN) | {"account": FORGED},
    "a Region": lambda one: running_event(UNKNOWN) | {"region": FORGED},
    "the name of a call": lambda one: call_event(FORGED),
    "the error of a call": lambda one: call_event("X", errorCode=FORGED, errorMessage=FORGED),
    "the source of a call": lambda one: call_event("X", eventSource=FORGED),
    "a name": lambda one: {FORGED: FORGED},
}


@pytest.mark.parametrize("envelope", [None, "SNS", "SNS in SQS"])
@pytest.mark.parametrize("name", FORGERIES)
def test_every_log_record_and_message_is_one_line(
    scene: Pair,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    name: str,
    envelope: str | None,
) -> None:
    caplog.set_level(logging.DEBUG, "lambda_traffic_mirror")
    event: Any = FORGERIES[name](scene.one)
    delivery = deliver(ENVELOPES[envelope](event) if envelope else event)
    odd = [
        text
        for text in texts_of(delivery, caplog)
        if any(unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in text)
    ]
    assert odd == []
    assert all(json.loads(line) for line in capsys.readouterr().out.splitlines())


# --------------------------------------------------------------------------------------
# Whatever comes in
# --------------------------------------------------------------------------------------

WORDS = (
    *("detail", "detail-type", "instance-id", "instance-ids", "state", "id", "sweep", "dry_run"),
    *("account", "region", "eventName", "errorCode", "readOnly", "requestParameters"),
    *("responseElements", "instanceId", "resourceId", "Records", "eventSource", "EventSource"),
    *("messageId", "body", "Sns", "Type", "Message"),
)
VALUES = (
    *(NOTIFICATION, API_CALL, "Scheduled Event", "running", "aws:sqs", "aws:sns"),
    *("ec2.amazonaws.com", "Notification", UNKNOWN, "{}", '{"sweep": true}'),
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=20)
    | st.sampled_from(VALUES),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=5), children, max_size=4)
    ),
    max_leaves=12,
)


def paths(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value within a JSON value."""
    yield path
    members = enumerate(value) if isinstance(value, list) else ()
    for key, member in value.items() if isinstance(value, dict) else members:
        yield from paths(member, (*path, key))


@st.composite
def mutations(draw: st.DrawFn, events: list[Any]) -> object:
    """A valid event with something in it replaced, removed or added, once or a few times."""
    event: Any = copy.deepcopy(draw(st.sampled_from(events)))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(paths(event))))
        if not path:
            if isinstance(event, dict):
                event[draw(st.sampled_from(WORDS))] = draw(json_values)
            continue
        parent = event
        for key in path[:-1]:
            parent = parent[key]
        if draw(st.booleans()):
            parent[path[-1]] = draw(json_values)
        else:
            del parent[path[-1]]
    return event


def gets_an_answer(event: object) -> bool:
    """One of the two kinds of results, or one of the two errors that tell Lambda why not."""
    with suppress(ConfigurationError, MirroringError):
        result = lambda_handler(event, LambdaContext())
        if set(result) == {"batchItemFailures"}:
            return all(set(item) == {"itemIdentifier"} for item in result["batchItemFailures"])
        members = {"message", "dry_run", "summary", "interfaces"}
        return result["statusCode"] in (200, 400) and set(json.loads(result["body"])) == members
    return True


any_number_of_examples_in_one_account = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@any_number_of_examples_in_one_account
@given(event=json_values, envelope=st.sampled_from([None, *ENVELOPES]))
def test_whatever_json_comes_in_gets_an_answer(
    scene: Pair, event: object, envelope: str | None
) -> None:
    assert gets_an_answer(ENVELOPES[envelope](event) if envelope else event)


@any_number_of_examples_in_one_account
@given(data=st.data())
def test_whatever_is_done_to_a_valid_event_it_gets_an_answer(
    scene: Pair, data: st.DataObject
) -> None:
    valid = [
        running_event(scene.one),
        {"instance-ids": [scene.one, scene.two], "dry_run": True},
        scheduled_event(),
        run_instances(scene.one, scene.two),
        *(wrap(running_event(scene.one), run_instances(UNKNOWN)) for wrap in ENVELOPES.values()),
    ]
    assert gets_an_answer(data.draw(mutations(valid)))


def test_a_call_nested_too_deep_to_read_gets_an_answer(scene: Pair) -> None:
    assert gets_an_answer(
        call_event("X", requestParameters=nested({"instanceId": scene.one}, 20_000))
    )
