"""What each form of event asks for, and that nonsense gets an answer too."""

from __future__ import annotations

import copy
import json
import logging
import os
import unicodedata
import uuid
from collections.abc import Callable, Iterator, Mapping
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
from calls import CREATE
from conftest import Scene, Sleeps, answer_of, deliver, missing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lambda_traffic_mirror import ConfigurationError, MirroringError, lambda_handler

Event = dict[str, Any]

UNKNOWN = "i-00000000000000000"
OTHER = "i-00000000000000001"

pytestmark = pytest.mark.usefixtures("shared_client")


# --------------------------------------------------------------------------------------
# What AWS sends
# --------------------------------------------------------------------------------------


def text_of(message: object) -> str:
    return message if isinstance(message, str) else json.dumps(message)


def notification(message: object) -> Event:
    """An SNS notification as it arrives in a queue, or at an HTTPS endpoint."""
    return {
        "Type": "Notification",
        "MessageId": str(uuid.uuid4()),
        "TopicArn": f"arn:aws:sns:{REGION}:{ACCOUNT_ID}:instances",
        "Message": text_of(message),
        "Timestamp": "2026-01-01T00:00:00.000Z",
        "SignatureVersion": "1",
        "Signature": "c2lnbmF0dXJl",
        "SigningCertURL": "https://sns.example/certificate.pem",
        "UnsubscribeURL": "https://sns.example/?Action=Unsubscribe",
    }


def sns_event(*messages: object) -> Event:
    """What SNS sends to a function that is subscribed itself: one record in practice."""
    return {
        "Records": [
            {
                "EventSource": "aws:sns",
                "EventVersion": "1.0",
                "EventSubscriptionArn": f"arn:aws:sns:{REGION}:{ACCOUNT_ID}:instances:{number}",
                "Sns": notification(message) | {"Subject": None, "MessageAttributes": {}},
            }
            for number, message in enumerate(messages)
        ]
    }


def sqs_records(*bodies: object) -> list[Event]:
    """What a pipe from a queue sends: the records, bare."""
    return list(sqs_event(*map(text_of, bodies))["Records"])


def call_event(name: str, **detail: Any) -> Event:
    """EventBridge's AWS API Call via CloudTrail."""
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "AWS API Call via CloudTrail",
        "source": "aws.ec2",
        "account": ACCOUNT_ID,
        "time": "2026-01-01T00:00:00Z",
        "region": REGION,
        "resources": [],
        "detail": {
            "userIdentity": {"type": "IAMUser", "accountId": ACCOUNT_ID, "userName": "operator"},
            "eventSource": "ec2.amazonaws.com",
            "eventName": name,
            "awsRegion": REGION,
            "requestParameters": None,
            "responseElements": None,
            "requestID": str(uuid.uuid4()),
            "eventID": str(uuid.uuid4()),
            "eventType": "AwsApiCall",
            "recipientAccountId": ACCOUNT_ID,
            **detail,
        },
    }


def items(*members: Mapping[str, Any]) -> dict[str, Any]:
    """A list as CloudTrail spells EC2's."""
    return {"items": list(members)}


def run_instances(*instance_ids: str) -> Event:
    started = items(*({"instanceId": key, "imageId": "ami-1"} for key in instance_ids))
    return call_event(
        "RunInstances",
        requestParameters={"instancesSet": items({"imageId": "ami-1", "minCount": 1})},
        responseElements={"reservationId": "r-1", "instancesSet": started},
    )


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
def scene(clean_slate: None, no_sleep: Sleeps) -> Iterator[Pair]:
    with Pair() as scene:
        yield scene


# --------------------------------------------------------------------------------------
# What works
# --------------------------------------------------------------------------------------

NOTIFICATION = "EC2 Instance State-change Notification"
Cases = dict[str, tuple[Event, list[str]]]


def events(one: str, two: str) -> Cases:
    """Events about these instances, and which of them are mirrored then."""
    both = [one, two]
    by_hand = {"instance-id": one}
    return {
        "EventBridge: running": (running_event(one), [one]),
        "EventBridge, without a state": (
            {"detail-type": NOTIFICATION, "detail": {"instance-id": two}},
            [two],
        ),
        "a test event": ({"detail": by_hand}, [one]),
        "a test event with white space around the ID": (
            {"detail": {"instance-id": f" {one}\n"}},
            [one],
        ),
        "a test event with a state": ({"detail": by_hand | {"state": "running"}}, [one]),
        "a list of one instance": ({"instance-ids": [two]}, [two]),
        "a list of two instances": ({"instance-ids": [two, one]}, both),
        "a list with duplicates": ({"instance-ids": [one, one, two, one]}, both),
        "a list, and no sweep": ({"instance-ids": [one], "sweep": False}, [one]),
        "a schedule": (scheduled_event(), both),
        "a schedule of another account": (scheduled_event() | {"account": OTHER_ACCOUNT_ID}, both),
        "a schedule, its type only": ({"detail-type": "Scheduled Event"}, both),
        "a sweep by hand": ({"sweep": True}, both),
        "a sweep, its id not UTF-8": ({"sweep": True, "id": "\ud800"}, both),
        "further members": ({"sweep": True, "why": {"not": None}}, both),
    }


@pytest.mark.parametrize("name", events("", ""))
def test_an_event_is_understood(scene: Pair, name: str) -> None:
    event, mirrored = events(scene.one, scene.two)[name]
    scene.run(event)
    assert scene.with_session() == mirrored


@pytest.mark.parametrize("name", events("", ""))
def test_with_dry_run_in_it_an_event_is_only_tried_out(scene: Pair, name: str) -> None:
    event, mirrored = events(scene.one, scene.two)[name]
    answer = scene.run(tried(event))
    planned = answer.summary["planned"]
    assert (answer.body["dry_run"], planned, scene.with_session()) == (True, len(mirrored), [])


DRY_RUNS = [
    ("true", None, True),
    ("true", False, True),
    ("false", True, True),
    ("false", False, False),
    ("false", None, False),
]


@pytest.mark.parametrize(("variable", "member", "dry_run"), DRY_RUNS)
def test_either_of_the_two_switches_the_dry_run_on(
    scene: Pair, monkeypatch: pytest.MonkeyPatch, variable: str, member: bool | None, dry_run: bool
) -> None:
    monkeypatch.setenv("DRY_RUN", variable)
    event = running_event(scene.one) | ({} if member is None else {"dry_run": member})
    assert scene.run(event).body["dry_run"] is dry_run


STATES = ["pending", "stopping", "stopped", "shutting-down", "terminated", "Running", ""]


@pytest.mark.parametrize("state", STATES)
def test_another_state_than_running_is_ignored(scene: Pair, state: str) -> None:
    answer = scene.run(tried(running_event(scene.one, state=state)))
    assert (answer.status, answer.interfaces, scene.calls) == (200, [], [])
    assert (missing(answer.body["message"], scene.one, state), answer.body["dry_run"]) == ([], True)


def test_pending_counts_as_running(scene: Pair) -> None:
    scene.set_state(scene.one, "pending")
    assert scene.run(scene.one).outcomes == ["created"]


LATE = {0: ("created", 0), 1: ("created", 1), 2: ("created", 2), 3: ("skipped", 2)}


@pytest.mark.parametrize(("looks", "end"), LATE.items(), ids=[f"{n} looks late" for n in LATE])
def test_an_instance_that_aws_does_not_know_yet_is_asked_for_twice_more_a_second_apart(
    scene: Pair, no_sleep: Sleeps, looks: int, end: tuple[str, int]
) -> None:
    scene.unknown_instances[scene.one] = looks
    outcome = scene.run(scene.one).entry["outcome"]
    assert (outcome, no_sleep.seconds) == (end[0], [1.0] * end[1])


def looks_at(account: Scene, instance: str) -> list[str]:
    """How each call that asks for the instance names it."""
    return [
        "ID" if instance in (call.parameters.get("InstanceIds") or ()) else "filter"
        for call in account.calls
        if call.operation == "DescribeInstances" and instance in str(call.parameters)
    ]


def test_the_first_look_is_by_filter_and_the_others_are_by_id(scene: Pair) -> None:
    """By its ID an instance that a service manages is shown, too. What is known is not asked for
    again."""
    scene.run({"instance-ids": [UNKNOWN, scene.one]})
    assert looks_at(scene, UNKNOWN) == ["filter", "ID", "ID"]
    assert looks_at(scene, scene.one) == ["filter"]


def test_one_that_stays_unknown_does_not_keep_another_from_being_seen(scene: Pair) -> None:
    """Asked for by ID, one that does not exist is an error that names it."""
    scene.unknown_instances[scene.two] = 1
    answer = scene.run({"instance-ids": [UNKNOWN, OTHER, "i-nonsense", scene.two, scene.one]})
    assert answer.outcomes == ["skipped"] * 3 + ["created"] * 2


# --------------------------------------------------------------------------------------
# API calls that CloudTrail saw
# --------------------------------------------------------------------------------------


def nested(value: object, depth: int) -> object:
    for level in range(depth):
        value = [value] if level % 2 else {"x": value}
    return value


def calls(one: str, two: str) -> Cases:
    """Calls, and which instances are mirrored then."""

    def request(**parameters: Any) -> Event:
        return call_event("Something", requestParameters=parameters)

    attached = {"networkInterfaceId": "eni-1", "instanceId": two, "deviceIndex": 1}
    started = {"instanceId": one, "currentState": {"name": "pending"}}
    volume_and_one = items({"resourceId": "vol-1"}, {"resourceId": one})
    both = [one, two]
    return {
        "RunInstances": (run_instances(one), [one]),
        "RunInstances, two": (run_instances(two, one), both),
        "AttachNetworkInterface": (
            call_event(
                "AttachNetworkInterface",
                requestParameters=attached,
                responseElements={"requestId": "1", "attachmentId": "eni-attach-1"},
            ),
            [two],
        ),
        "CreateTags": (
            call_event(
                "CreateTags",
                requestParameters={
                    "resourcesSet": volume_and_one,
                    "tagSet": items({"key": "mirror", "value": "yes"}),
                },
                responseElements={"requestId": "1", "_return": True},
            ),
            [one],
        ),
        "DeleteTags": (request(resourcesSet=items({"resourceId": two}, {"resourceId": one})), both),
        "StartInstances": (
            call_event(
                "StartInstances",
                requestParameters={"instancesSet": items({"instanceId": one})},
                responseElements={"instancesSet": items(started)},
            ),
            [one],
        ),
        "one in the request, the other in the answer": (
            call_event(
                "X", requestParameters={"instanceId": one}, responseElements={"resourceId": two}
            ),
            both,
        ),
        "one instance twice": (
            call_event(
                "X",
                requestParameters=items({"instanceId": one}, {"instanceId": one}),
                responseElements={"resourceId": one},
            ),
            [one],
        ),
        "in upper case": (request(ModifyInstanceMetadataOptionsRequest={"InstanceId": one}), [one]),
        "in any case": (request(INSTANCEID=one, x={"instanceid": two}), both),
        "a resource in upper case": (request(ResourceId=two), [two]),
        "deep down": (
            call_event(
                "X", requestParameters=nested({"instanceId": one}, 500), responseElements=[[two]]
            ),
            [one],
        ),
        "in lists within lists": (
            call_event("X", responseElements=[[[{"instanceId": two}]], 7]),
            [two],
        ),
        "a state besides": (request(instanceId=one, state="stopped"), [one]),
        "an event whose source is missing": (
            {name: value for name, value in run_instances(one).items() if name != "source"},
            [one],
        ),
    }


@pytest.mark.parametrize("name", calls("", ""))
def test_the_instances_that_a_call_names_are_mirrored(scene: Pair, name: str) -> None:
    event, mirrored = calls(scene.one, scene.two)[name]
    assert scene.run(tried(event)).outcomes == ["planned"] * len(mirrored)
    assert scene.run(event).outcomes == ["created"] * len(mirrored)
    assert scene.with_session() == mirrored


def test_what_a_call_has_ended_is_skipped(scene: Pair) -> None:
    scene.terminate(scene.one)
    event = call_event("TerminateInstances", requestParameters={"instanceId": scene.one})
    answer = scene.run(event)
    assert (answer.status, answer.outcomes) == (200, ["skipped"])


def ignored(one: str) -> dict[str, Event]:
    """Nothing of this names an instance that is to be looked at."""
    texts = {"name": one, "clientToken": one, "instanceIdSet": [one]}
    resources = [{"resourceId": f"x{one}"}, {"resourceId": f"arn:aws:ec2:::{one}"}]
    return {
        "a call that failed": call_event(
            "AttachNetworkInterface",
            requestParameters={"instanceId": one},
            errorCode="Client.InvalidParameterValue",
            errorMessage="no",
        ),
        "a call that names none": call_event(
            "CreateTags", requestParameters={"resourcesSet": items({"resourceId": "vol-1"})}
        ),
        "a call without parameters": call_event("RunInstances"),
        "a call whose parameters are missing": {
            "detail-type": "AWS API Call via CloudTrail",
            "detail": {"eventSource": "ec2.amazonaws.com", "eventName": "X"},
        },
        "the caller is an instance": call_event(
            "CreateVolume", userIdentity={"type": "AssumedRole", "instanceId": one}
        ),
        "an instance elsewhere in the event": call_event(
            "CreateVolume", additionalEventData={"instanceId": one}, resources=[{"resourceId": one}]
        ),
        "an instance only in texts": call_event("X", requestParameters=texts),
        "a resource that does not begin with i-": call_event("X", requestParameters=resources),
    }


@pytest.mark.parametrize("name", ignored(""))
def test_it_is_ignored_and_aws_is_not_asked(scene: Pair, name: str) -> None:
    answer = scene.run(ignored(scene.one)[name])
    assert (answer.status, answer.interfaces, scene.calls) == (200, [], [])


# IDs that are none: at most they make the event invalid, never do they match an instance.
ODD_IDS = [
    *("i-*", "*", "i-?????????????????", "", " ", "i-é", "\ud800"),
    *(7, None, True, [], {}, ["i-*"]),
]


@pytest.mark.parametrize("odd", ODD_IDS, ids=ascii)
@pytest.mark.parametrize("name", ["instanceId", "resourceId"])
def test_an_odd_id_in_a_call_matches_nothing(scene: Pair, name: str, odd: object) -> None:
    answer = scene.run(call_event("X", requestParameters={name: odd}))
    sent = [call.parameters for call in scene.calls if call.operation == CREATE]
    assert (answer.status in (200, 400), sent) == (True, [])


def test_a_call_nested_too_deep_to_read_gets_an_answer(scene: Pair) -> None:
    event = call_event("X", requestParameters=nested({"instanceId": scene.one}, 20_000))
    assert is_result(lambda_handler(event, LambdaContext()))


# --------------------------------------------------------------------------------------
# Events of another account or Region
# --------------------------------------------------------------------------------------

ELSEWHERE: dict[str, tuple[dict[str, str], list[str]]] = {
    "another account": ({"account": OTHER_ACCOUNT_ID}, [OTHER_ACCOUNT_ID, ACCOUNT_ID]),
    "another Region": ({"region": "eu-west-1"}, ["eu-west-1", REGION]),
    "the console's sample": (
        {"account": "111122223333", "region": "ap-south-1"},
        ["111122223333", ACCOUNT_ID, "ap-south-1", REGION],
    ),
}
from_elsewhere = pytest.mark.parametrize(
    ("origin", "names"), ELSEWHERE.values(), ids=ELSEWHERE.keys()
)
KINDS: dict[str, Callable[[str], Event]] = {"state change": running_event, "call": run_instances}


@from_elsewhere
@pytest.mark.parametrize("kind", KINDS)
def test_an_instance_from_elsewhere_is_asked_for_once(
    scene: Pair, no_sleep: Sleeps, kind: str, origin: dict[str, str], names: list[str]
) -> None:
    answer = scene.run(KINDS[kind](UNKNOWN) | origin)
    reason = answer.entry["reason"]
    found = (answer.status, answer.outcomes, [name for name in names if name not in reason])
    assert found == (200, ["skipped"], [])
    assert (looks_at(scene, UNKNOWN), no_sleep.seconds) == (["filter"], [])


@from_elsewhere
@pytest.mark.parametrize("kind", KINDS)
def test_an_instance_that_is_known_is_mirrored_wherever_the_event_is_from(
    scene: Pair, kind: str, origin: dict[str, str], names: list[str]
) -> None:
    assert scene.run(KINDS[kind](scene.one) | origin).outcomes == ["created"]


HOME: dict[str, tuple[dict[str, Any], Callable[[], object]]] = {
    "the function's own": ({}, LambdaContext),
    "no account and no Region": ({"account": None, "region": None}, LambdaContext),
    "no context": ({"account": OTHER_ACCOUNT_ID}, lambda: None),
    "a context without an ARN": ({"account": OTHER_ACCOUNT_ID}, object),
}


@pytest.mark.parametrize(("origin", "context"), HOME.values(), ids=HOME.keys())
def test_it_is_asked_for_three_times_where_it_may_be_our_own(
    scene: Pair, no_sleep: Sleeps, origin: dict[str, Any], context: Callable[[], object]
) -> None:
    event = running_event(UNKNOWN) | origin
    event = {name: value for name, value in event.items() if value is not None}
    answer = answer_of(lambda_handler(event, context()))
    assert (answer.outcomes, len(looks_at(scene, UNKNOWN)), no_sleep.seconds) == (
        ["skipped"],
        3,
        [1.0, 1.0],
    )
    assert OTHER_ACCOUNT_ID not in answer.entry["reason"]


@pytest.mark.parametrize(
    "odd", [7, True, [], {}, "", "x" * 1_200_000, "a\nb"], ids=lambda value: ascii(value)[:20]
)
@pytest.mark.parametrize("member", ["account", "region"])
def test_an_odd_account_or_region_gets_an_answer(scene: Pair, member: str, odd: object) -> None:
    result = lambda_handler(running_event(UNKNOWN) | {member: odd}, LambdaContext())
    assert (is_result(result), len(result["body"]) < 1_000_000) == (True, True)


def test_in_a_batch_only_those_from_elsewhere_are_asked_for_once(
    scene: Pair, no_sleep: Sleeps
) -> None:
    from_elsewhere = running_event(UNKNOWN) | {"account": OTHER_ACCOUNT_ID}
    again = answer_to(sqs_event(from_elsewhere, running_event(OTHER)))
    looks = [len(looks_at(scene, key)) for key in (UNKNOWN, OTHER)]
    assert (again, looks, no_sleep.seconds) == ([], [1, 3], [1.0, 1.0])


@pytest.mark.parametrize("order", [1, -1], ids=["first", "last"])
def test_what_an_event_of_our_own_names_too_is_asked_for_three_times(
    scene: Pair, no_sleep: Sleeps, order: int
) -> None:
    events = [running_event(UNKNOWN) | {"account": OTHER_ACCOUNT_ID}, running_event(UNKNOWN)]
    answer_to(sqs_event(*events[::order]))
    assert (len(looks_at(scene, UNKNOWN)), no_sleep.seconds) == (3, [1.0, 1.0])


# --------------------------------------------------------------------------------------
# Records of SQS
# --------------------------------------------------------------------------------------


def without(name: str) -> Callable[[Event], None]:
    return lambda record: record.pop(name)


def with_value(name: str, value: object) -> Callable[[Event], None]:
    return lambda record: record.update({name: value})


RECORDS: dict[str, tuple[Callable[[Event], Any], list[int]]] = {
    "without a body": (without("body"), [0]),
    "with a body that is not text": (with_value("body", {"sweep": True}), [0]),
    "without attributes": (without("attributes"), []),
}


@pytest.mark.parametrize(("change", "again"), RECORDS.values(), ids=RECORDS.keys())
def test_a_record(scene: Pair, change: Callable[[Event], Any], again: list[int]) -> None:
    event = sqs_event(running_event(scene.one), running_event(scene.two))
    change(event["Records"][0])
    assert answer_to(event) == again


# --------------------------------------------------------------------------------------
# Envelopes
# --------------------------------------------------------------------------------------

# Those that answer one result over all events, and those that answer as an SQS batch does.
WITH_RESULT: dict[str, Callable[..., Any]] = {
    "SNS": sns_event,
    "an array": lambda *events: list(events),
}
WITH_FAILURES: dict[str, Callable[..., Any]] = {
    "SQS": lambda *events: {"Records": sqs_records(*events)},
    "SNS in SQS": lambda *events: {"Records": sqs_records(*map(notification, events))},
    "an array of SQS records": sqs_records,
    "SNS in an array of SQS records": lambda *events: sqs_records(*map(notification, events)),
}
ENVELOPES = WITH_RESULT | WITH_FAILURES


def answer_to(event: Any, context: object = None) -> int | list[int]:
    """The status of the result, or the positions of the messages to be delivered again."""
    result = lambda_handler(event, context or LambdaContext())
    assert is_result(result)
    if "batchItemFailures" not in result:
        return int(result["statusCode"])
    records = event if isinstance(event, list) else event["Records"]
    positions = [record["messageId"] for record in records]
    return [positions.index(item["itemIdentifier"]) for item in result["batchItemFailures"]]


@pytest.mark.parametrize("name", events("", ""))
@pytest.mark.parametrize("envelope", ["SNS", "an array", "SQS", "SNS in SQS"])
def test_an_envelope_is_unwrapped(scene: Pair, envelope: str, name: str) -> None:
    event, mirrored = events(scene.one, scene.two)[name]
    answer = answer_to(ENVELOPES[envelope](event))
    assert (answer, scene.with_session()) == ([] if envelope in WITH_FAILURES else 200, mirrored)


@pytest.mark.parametrize("envelope", WITH_RESULT)
def test_the_result_lists_the_interfaces_of_all_events(scene: Pair, envelope: str) -> None:
    event = WITH_RESULT[envelope](running_event(scene.two), running_event(scene.one))
    answer = answer_of(lambda_handler(event, LambdaContext()))
    assert [entry["instance_id"] for entry in answer.interfaces] == [scene.two, scene.one]
    assert answer.body["summary"] == {"created": 2}


UNREADABLE: dict[str, object] = {
    "nonsense": {"key1": "value1"},
    "an empty object": {},
    "null": None,
    "a number": 7,
    "text": "i-1",
    "an empty ID": {"detail": {"instance-id": ""}},
    "dry_run as text": {"detail": {"instance-id": "i-1"}, "dry_run": "true"},
    "a call of another service": call_event("X", eventSource="s3.amazonaws.com"),
    "a batch": sqs_event("{}"),
}


def together(one: str, two: str) -> dict[str, tuple[list[object], bool, list[str]]]:
    """What stands in an envelope; whether all can be understood; and which are mirrored."""
    both = [one, two]
    around = running_event(one), running_event(two)
    return {
        "an event and a call": ([running_event(one), run_instances(two)], True, both),
        "a dry run and another": ([tried(around[0]), around[1]], True, [two]),
    } | {
        f"{name} between two": ([around[0], unreadable, around[1]], False, both)
        for name, unreadable in UNREADABLE.items()
    }


@pytest.mark.parametrize("name", together("", ""))
@pytest.mark.parametrize("envelope", ENVELOPES)
def test_the_events_of_an_envelope_are_worked_on_together(
    scene: Pair, envelope: str, name: str
) -> None:
    sent, understood, mirrored = together(scene.one, scene.two)[name]
    answer = answer_to(ENVELOPES[envelope](*sent))
    found = (answer, scene.with_session(), scene.count("DescribeTrafficMirrorSessions"))
    if envelope in WITH_FAILURES:
        assert found == ([] if understood else [1], mirrored, 1)
    else:
        assert found == (200 if understood else 400, mirrored, 1)


@pytest.mark.parametrize("envelope", WITH_RESULT)
def test_the_message_about_one_that_cannot_be_understood_shows_an_event_that_works(
    scene: Pair, envelope: str
) -> None:
    event = WITH_RESULT[envelope](running_event(scene.one), {"key1": "value1"})
    answer = answer_of(lambda_handler(event, LambdaContext()))
    assert ("instance-id" in answer.body["message"], answer.outcomes) == (True, ["created"])


@pytest.mark.parametrize("envelope", ENVELOPES)
def test_without_an_answer_from_aws_all_or_those_are_delivered_again(
    scene: Pair, envelope: str
) -> None:
    (interface,) = scene.interfaces_of(scene.one)
    scene.fail(CREATE, where=lambda p: p["NetworkInterfaceId"] == interface)
    event = ENVELOPES[envelope](
        running_event(scene.one), running_event(scene.two), {"instance-ids": [scene.one]}
    )
    if envelope in WITH_FAILURES:
        assert answer_to(event) == [0, 2]
    else:
        with pytest.raises(MirroringError, match=interface):
            lambda_handler(event, LambdaContext())
    assert scene.with_session() == [scene.two]


@pytest.mark.parametrize("envelope", ENVELOPES)
def test_unmirrored_counts_in_every_envelope_as_it_does_alone(scene: Pair, envelope: str) -> None:
    scene.configure(scene.missing_sensor())
    answer = answer_to(ENVELOPES[envelope](running_event(scene.one)))
    assert answer == ([] if envelope in WITH_FAILURES else 400)


@pytest.mark.parametrize("envelope", ENVELOPES)
def test_what_an_envelope_holds_may_be_ignored(scene: Pair, envelope: str) -> None:
    events = running_event(scene.one, state="stopped"), call_event("RunInstances")
    answer = answer_to(ENVELOPES[envelope](*events))
    assert (answer, scene.calls) == ([] if envelope in WITH_FAILURES else 200, [])


# Where dry_run stands at the top of an envelope: from its value and the events to the envelope.
TOPS: dict[str, Callable[..., Any]] = {
    "SNS": lambda value, *events: sns_event(*events) | {"dry_run": value},
    "SQS": lambda value, *events: WITH_FAILURES["SQS"](*events) | {"dry_run": value},
    "SNS in SQS": lambda value, *events: WITH_FAILURES["SNS in SQS"](*events) | {"dry_run": value},
    "the notifications in SQS": lambda value, *events: {
        "Records": sqs_records(*(notification(event) | {"dry_run": value} for event in events))
    },
    "the notifications in an array of SQS records": lambda value, *events: sqs_records(
        *(notification(event) | {"dry_run": value} for event in events)
    ),
}


@pytest.mark.parametrize("value", [True, False, "true", "no", 1, 0, None, []], ids=ascii)
@pytest.mark.parametrize("top", TOPS)
def test_dry_run_at_the_top_of_an_envelope_holds_for_all_of_it(
    scene: Pair, top: str, value: object
) -> None:
    """False changes nothing, and what is not a boolean makes all of it invalid."""
    event = TOPS[top](value, tried(running_event(scene.one)), running_event(scene.two))
    valid = isinstance(value, bool)
    wanted = (200 if valid else 400) if top == "SNS" else [] if valid else [0, 1]
    assert answer_to(event) == wanted
    assert scene.with_session() == ([scene.two] if value is False else [])
    assert (scene.count("DescribeInstances") > 0) == valid


SNS_RECORDS: dict[str, Callable[[Event], Any]] = {
    "without Sns": without("Sns"),
    "whose Sns is null": with_value("Sns", None),
    "whose Sns is text": with_value("Sns", "x"),
    "whose Sns has no Message": lambda record: record["Sns"].pop("Message"),
    "whose Message is an object": lambda record: record["Sns"].update(Message={"sweep": True}),
    "whose Message is not JSON": lambda record: record["Sns"].update(Message="{"),
    "whose Message is null in JSON": lambda record: record["Sns"].update(Message="null"),
    "whose Message is empty": lambda record: record["Sns"].update(Message=""),
    "whose Message is nested too deep": lambda record: record["Sns"].update(Message="[" * 100_000),
}


@pytest.mark.parametrize("change", SNS_RECORDS.values(), ids=SNS_RECORDS.keys())
def test_an_sns_record_is_invalid(scene: Pair, change: Callable[[Event], Any]) -> None:
    event = sns_event({"sweep": True})
    change(event["Records"][0])
    answer = answer_of(lambda_handler(event, LambdaContext()))
    assert (answer.status, "instance-id" in answer.body["message"]) == (400, True)
    assert scene.calls == []


NOTIFICATIONS: dict[str, Callable[[Event], Any]] = {
    "of another type": with_value("Type", "SubscriptionConfirmation"),
    "without a message": without("Message"),
    "whose message is an object": with_value("Message", {"sweep": True}),
    "whose message is not JSON": with_value("Message", "{"),
    "whose message is empty": with_value("Message", ""),
}


@pytest.mark.parametrize("change", NOTIFICATIONS.values(), ids=NOTIFICATIONS.keys())
def test_a_notification_in_a_queue_is_invalid(scene: Pair, change: Callable[[Event], Any]) -> None:
    body = notification({"sweep": True})
    change(body)
    answer = answer_to({"Records": sqs_records(body, running_event(scene.one))})
    assert (answer, scene.with_session()) == ([0], [scene.one])


# --- Mixes

S3 = {"eventSource": "aws:s3", "s3": {"object": {"key": "x"}}}


def lacking(message_id: object = None) -> Event:
    """A record of SQS that cannot be named."""
    (record,) = sqs_records({"sweep": True})
    record["messageId"] = message_id
    if message_id is None:
        del record["messageId"]
    return record


# What stands beside a good SQS record so that it cannot be said which to deliver again.
BESIDES: dict[str, object] = {
    "a record of S3": S3,
    "a record of SNS": sns_event({"sweep": True})["Records"][0],
    "a record of nothing": None,
    "an empty record": {},
    "text": "x",
    "a state change": running_event(UNKNOWN),
    "a record without messageId": lacking(),
    "a record whose messageId is null": lacking() | {"messageId": None},
    "a record whose messageId is empty": lacking(""),
    "a record whose messageId is a number": lacking(7),
    "a record whose messageId is a list": lacking([]),
}


@pytest.mark.parametrize("place", ["last", "first", "alone"])
@pytest.mark.parametrize("bare", [False, True], ids=["Records", "array"])
@pytest.mark.parametrize("other", BESIDES.values(), ids=BESIDES.keys())
def test_a_batch_whose_records_cannot_all_be_named_is_raised(
    scene: Pair, other: object, bare: bool, place: str
) -> None:
    good = sqs_records(running_event(scene.one))
    records = {"last": [*good, other], "first": [other, *good], "alone": [lacking()]}[place]
    with pytest.raises(MirroringError):
        lambda_handler(records if bare else {"Records": records}, LambdaContext())


# --------------------------------------------------------------------------------------
# Nonsense
# --------------------------------------------------------------------------------------

RUNNING = {"instance-id": "i-1", "state": "running"}
# What the console offers as a test event of the kind hello-world.
CONSOLE = {"key1": "value1", "key2": "value2", "key3": "value3"}
API_CALL = "AWS API Call via CloudTrail"

NONSENSE: dict[str, object] = {
    "the console's default test event": CONSOLE,
    "nothing": None,
    "an empty object": {},
    "an empty list": [],
    "a list of nothing": [None],
    "a list of nonsense": [CONSOLE, 7, "x", []],
    "an empty list in a list": [[]],
    "more lists in each other than there are envelopes": [[[[[[[[[running_event("i-1")]]]]]]]]],
    "text": "i-1",
    "JSON in text": json.dumps(running_event("i-1")),
    "a number": 7,
    "a boolean": True,
    "detail is missing": {"detail-type": NOTIFICATION},
    "detail is null": {"detail": None},
    "detail is empty": {"detail": {}},
    "detail is text": {"detail": "i-1"},
    "detail is a list": {"detail": [RUNNING]},
    "the ID is missing": {"detail-type": NOTIFICATION, "detail": {"state": "running"}},
    "the ID is null": {"detail": {"instance-id": None}},
    "the ID is empty": {"detail": {"instance-id": ""}},
    "the ID is blank": {"detail": {"instance-id": " \n"}},
    "the ID is a number": {"detail": {"instance-id": 7}},
    "the ID is a list": {"detail": {"instance-id": ["i-1"]}},
    "the ID is two IDs": {"detail": {"instance-id": "i-1 i-2"}},
    "the ID is a wildcard": {"detail": {"instance-id": "*"}},
    "the ID has a wildcard in it": {"detail": {"instance-id": "i-0?"}},
    "the ID has a backslash in it": {"detail": {"instance-id": "i-\\*"}},
    "the ID is not ASCII": {"detail": {"instance-id": "i-é"}},
    "the ID is half a character": {"detail": {"instance-id": "i-\ud800"}},
    "the state is null": {"detail": {"instance-id": "i-1", "state": None}},
    "the state is a number": {"detail": {"instance-id": "i-1", "state": 16}},
    "the state is an object": {"detail": {"instance-id": "i-1", "state": {"name": "running"}}},
    "another kind of EventBridge event": {"detail-type": "AWS API Call", "detail": RUNNING},
    "the detail-type is a number": {"detail-type": 7, "detail": RUNNING},
    "the detail-type is empty": {"detail-type": "", "detail": RUNNING},
    "instance-ids is empty": {"instance-ids": []},
    "instance-ids is null": {"instance-ids": None},
    "instance-ids is text": {"instance-ids": "i-1"},
    "instance-ids is an object": {"instance-ids": {"i-1": True}},
    "one of instance-ids is a number": {"instance-ids": ["i-1", 7]},
    "one of instance-ids is a wildcard": {"instance-ids": ["i-1", "i-*"]},
    "no sweep": {"sweep": False},
    "sweep is text": {"sweep": "true"},
    "sweep is a number": {"sweep": 1},
    "sweep is null": {"sweep": None},
    "dry_run alone": {"dry_run": True},
    "dry_run is text": {"detail": RUNNING, "dry_run": "true"},
    "dry_run is a number": {"detail": RUNNING, "dry_run": 1},
    "dry_run is null": {"detail": RUNNING, "dry_run": None},
    "detail and instance-ids": {"detail": RUNNING, "instance-ids": ["i-1"]},
    "detail and sweep": {"detail": RUNNING, "sweep": True},
    "instance-ids and sweep": {"instance-ids": ["i-1"], "sweep": True},
    "Records is empty": {"Records": []},
    "Records is an object": {"Records": {}},
    "Records of S3": {"Records": [S3]},
    "Records is null": {"Records": None},
    "Records of DynamoDB": {"Records": [{"eventSource": "aws:dynamodb", "dynamodb": {}}]},
    "Records of Records": {"Records": [{"Records": [S3]}]},
    "an array of S3 records": [S3, S3],
    "a notification of SNS without a message": {"Type": "Notification"},
    "a call of another service": call_event(
        "X", eventSource="autoscaling.amazonaws.com", requestParameters={"instanceId": "i-1"}
    ),
    "a call of nobody": {"detail-type": API_CALL, "detail": {"requestParameters": {}}},
    "a call whose source is null": call_event("X", eventSource=None),
    "a call whose source is a list": call_event("X", eventSource=["ec2.amazonaws.com"]),
    "a call without detail": {"detail-type": API_CALL},
    "a call whose detail is null": {"detail-type": API_CALL, "detail": None},
    "a call whose detail is a list": {"detail-type": API_CALL, "detail": []},
    "a call whose dry_run is text": run_instances("i-1") | {"dry_run": "yes"},
    "Records of nothing": {"Records": [None]},
    "an API Gateway request": {"httpMethod": "POST", "body": json.dumps(running_event("i-1"))},
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


def test_a_large_event_does_not_come_back_in_the_message(scene: Pair) -> None:
    message = scene.run({"detail": {"instance-id": "x y" * 100_000}}).body["message"]
    assert len(message) < 500


@pytest.mark.parametrize("event", [CONSOLE, {"detail": {}}, "x"], ids=ascii)
def test_nonsense_needs_no_configuration(event: object) -> None:
    assert answer_of(lambda_handler(event, None)).status == 400


# --- Counted


def counted(one: str) -> dict[str, tuple[object, int]]:
    """Events, and how many of them cannot be understood."""
    good = running_event(one)
    notifications = map(notification, (CONSOLE, {}, {"sweep": True}))
    return {
        "nonsense": (CONSOLE, 1),
        "nothing": (None, 1),
        "a call of another service": (call_event("X", eventSource="s3.amazonaws.com"), 1),
        "an event": (good, 0),
        "another state": (running_event(one, state="stopped"), 0),
        "a call that names none": (call_event("X"), 0),
        "a schedule": (scheduled_event(), 0),
        "one of an array": ([good, CONSOLE], 1),
        "three of an array": ([CONSOLE, 7, good, None], 3),
        "all of an array": ([CONSOLE, {}], 2),
        "SNS": (sns_event(CONSOLE), 1),
        "one of SQS": ({"Records": sqs_records(good, "{")}, 1),
        "two of SQS": ({"Records": sqs_records("x", good, {})}, 2),
        "two of SNS in SQS": ({"Records": sqs_records(*notifications)}, 2),
        "one of an array of SQS records": (sqs_records(good, CONSOLE), 1),
        "a sweep beside nonsense": ([{"sweep": True}, CONSOLE], 1),
    }


@pytest.mark.parametrize("name", counted(""))
def test_what_cannot_be_understood_is_counted_as_invalid(
    scene: Pair, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    event, count = counted(scene.one)[name]
    lambda_handler(event, LambdaContext())
    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = [document["invalid"] for document in documents if "invalid" in document]
    (directive,) = documents[0]["_aws"]["CloudWatchMetrics"]
    units = {metric["Name"]: metric["Unit"] for metric in directive["Metrics"]}
    assert (found, units.get("invalid")) == ([count], "Count")


# --------------------------------------------------------------------------------------
# Texts from outside
# --------------------------------------------------------------------------------------

LONG = 1_200_000
HUGE: dict[str, Callable[[], object]] = {
    "an ID, stopped": lambda: running_event("i-" + "0" * LONG, state="stopped"),
    "an ID, running": lambda: running_event("i-" + "0" * LONG),
    "an ID by hand": lambda: {"detail": {"instance-id": "i-" + "x" * LONG}},
    "an ID that is none": lambda: {"detail": {"instance-id": "x y" * LONG}},
    "twenty IDs": lambda: {"instance-ids": [f"i-{n}" + "0" * (LONG // 20) for n in range(20)]},
    "an ID full of quotation marks": lambda: running_event('i-"' + '"' * LONG, state="stopped"),
    "an ID full of backslashes": lambda: running_event("i-" + "\\" * LONG, state="stopped"),
    "a state": lambda: running_event(UNKNOWN, state="x" * LONG),
    "a state that JSON has to escape": lambda: running_event(UNKNOWN, state="é" * 400_000),
    "a state of line breaks": lambda: running_event(UNKNOWN, state="\n" * 600_000),
    "a detail-type": lambda: {"detail-type": "x" * LONG, "detail": {"instance-id": "i-1"}},
    "a name": lambda: {"x" * LONG: 1},
    "an event ID": lambda: running_event(UNKNOWN, event_id="e" * LONG),
    "an account": lambda: running_event(UNKNOWN) | {"account": "1" * LONG},
    "the name of a call": lambda: call_event("X" * LONG),
    "the error of a call": lambda: call_event("X", errorCode="X" * LONG),
    "the source of a call": lambda: call_event("X", eventSource="x" * LONG),
    "an ID in a call": lambda: run_instances("i-" + "0" * LONG),
    "a thousand IDs in a call": lambda: run_instances(*(f"i-{n:02000x}" for n in range(1_000))),
    "an ID in an array": lambda: [running_event("i-" + "0" * LONG, state="stopped"), CONSOLE],
    "nonsense in an array": lambda: [{"detail-type": "x" * LONG}] * 3,
    "an array of nonsense": lambda: [CONSOLE] * 20_000,
    "an array of other states": lambda: [running_event("i-1", state="stopped")] * 5_000,
    "an ID in SNS": lambda: sns_event(running_event("i-" + "0" * LONG, state="stopped")),
}


@pytest.mark.parametrize("event", HUGE.values(), ids=HUGE.keys())
def test_the_body_stays_under_a_megabyte_with(scene: Pair, event: Callable[[], object]) -> None:
    with suppress(MirroringError):
        result = lambda_handler(event(), LambdaContext())
        assert is_result(result)
        assert len(result["body"].encode()) < 1_000_000


FORGED = "x\nERROR forged\r\x1b[31m\x00\x85\u2028y"


def forgeries(one: str) -> dict[str, object]:
    """Events with that text in them, wherever a text may stand."""

    def in_record(**members: object) -> Event:
        return {"Records": [sqs_records("{")[0] | members, *sqs_records({})]}

    named = sqs_records(running_event(one))[0] | {"messageId": FORGED}
    return {
        "a messageId": in_record(messageId=FORGED),
        "a messageId of a good record": {"Records": [named]},
        "a body": in_record(body=FORGED),
        "an ID": {"detail": {"instance-id": f"i-{FORGED}"}},
        "an ID of a list": {"instance-ids": [one, FORGED]},
        "an ID, stopped": running_event(f"i-{FORGED}", state="stopped"),
        "an ID in a call": run_instances(one, f"i-{FORGED}"),
        "a resource in a call": call_event("X", requestParameters={"resourceId": FORGED}),
        "a state": running_event(one, state=FORGED),
        "a detail-type": {"detail-type": FORGED, "detail": {"instance-id": one}},
        "an event ID": running_event(one, event_id=FORGED),
        "an account": running_event(UNKNOWN) | {"account": FORGED},
        "a Region": running_event(UNKNOWN) | {"region": FORGED},
        "the name of a call": call_event(FORGED, requestParameters={"instanceId": one}),
        "the name of a call that names none": call_event(FORGED),
        "the error of a call": call_event("X", errorCode=FORGED, errorMessage=FORGED),
        "the source of a call": call_event("X", eventSource=FORGED),
        "a name": {FORGED: FORGED},
        "text": FORGED,
        "an array": [FORGED, {FORGED: 1}, running_event(one, state=FORGED)],
        "SNS": sns_event(FORGED, {FORGED: FORGED}),
    }


def control_characters(text: str) -> list[str]:
    """What would begin a line of its own, or change what a terminal shows."""
    return [c for c in text if unicodedata.category(c) in ("Cc", "Zl", "Zp")]


@pytest.mark.parametrize("envelope", [None, "SNS", "an array", "SNS in SQS"])
@pytest.mark.parametrize("name", forgeries(""))
def test_every_log_record_and_message_is_one_line_with(
    scene: Pair,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    name: str,
    envelope: str | None,
) -> None:
    caplog.set_level(logging.DEBUG, "lambda_traffic_mirror")
    event: Any = forgeries(scene.one)[name]
    delivery = deliver(ENVELOPES[envelope](event) if envelope else event)
    texts = [delivery.error]
    texts += [r.getMessage() for r in caplog.records if r.name == "lambda_traffic_mirror"]
    if "body" in (delivery.result or {}):
        answer = delivery.answer
        texts += [answer.body["message"], *(entry["reason"] for entry in answer.interfaces)]
    assert [text for text in texts if control_characters(text)] == []
    assert all(json.loads(line) for line in capsys.readouterr().out.splitlines())


# --------------------------------------------------------------------------------------
# Whatever comes in
# --------------------------------------------------------------------------------------

WORDS = (
    *("detail", "detail-type", "instance-id", "instance-ids", "state", "id", "sweep", "dry_run"),
    *("account", "region", "eventName", "errorCode", "requestParameters", "responseElements"),
    *("instanceId", "resourceId", "Records", "eventSource", "EventSource", "messageId", "body"),
    *("Sns", "Type", "Message"),
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


def is_result(result: object) -> bool:
    """Whether it is one of the two kinds of results."""
    assert isinstance(result, dict)
    if set(result) == {"batchItemFailures"}:
        return all(set(item) == {"itemIdentifier"} for item in result["batchItemFailures"])
    body = json.loads(result["body"])
    return result["statusCode"] in (200, 400) and set(body) == {
        "message",
        "dry_run",
        "summary",
        "interfaces",
    }


def gets_an_answer(event: object) -> bool:
    with suppress(ConfigurationError, MirroringError):
        return is_result(lambda_handler(event, LambdaContext()))
    return True


any_number_of_examples_in_one_account = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@any_number_of_examples_in_one_account
@given(event=json_values)
def test_whatever_json_comes_in_gets_an_answer(scene: Pair, event: object) -> None:
    assert gets_an_answer(event)


@any_number_of_examples_in_one_account
@given(data=st.data())
def test_whatever_is_done_to_a_valid_event_it_gets_an_answer(
    scene: Pair, data: st.DataObject
) -> None:
    valid = [
        running_event(scene.one),
        {"detail": {"instance-id": scene.one}},
        {"instance-ids": [scene.one, scene.two], "dry_run": True},
        scheduled_event(),
        {"sweep": True, "dry_run": True},
        sqs_event(running_event(scene.one), {"sweep": True}),
        run_instances(scene.one, scene.two),
        call_event("X", requestParameters={"resourceId": scene.one}, errorCode="no"),
        *(
            envelope(running_event(scene.one), run_instances(UNKNOWN))
            for envelope in ENVELOPES.values()
        ),
    ]
    assert gets_an_answer(data.draw(mutations(valid)))


@any_number_of_examples_in_one_account
@given(event=json_values, data=st.data())
def test_whatever_an_envelope_holds_gets_an_answer(
    scene: Pair, event: object, data: st.DataObject
) -> None:
    envelope = data.draw(st.sampled_from(list(ENVELOPES.values())))
    valid = [running_event(scene.one), run_instances(scene.one), {"sweep": True}]
    changed = data.draw(st.just(event) | mutations(valid))
    assert gets_an_answer(envelope(changed, running_event(scene.one)))


@any_number_of_examples_in_one_account
@given(event=json_values, data=st.data())
def test_whatever_stands_beside_it_in_an_array_a_good_event_is_worked_on_or_the_array_raised(
    scene: Pair, event: object, data: st.DataObject
) -> None:
    array = [event, running_event(scene.one)]
    with suppress(MirroringError):
        result = lambda_handler(array[:: data.draw(st.sampled_from([1, -1]))], LambdaContext())
        entries = json.loads(result["body"])["interfaces"]
        assert scene.one in [entry["instance_id"] for entry in entries]


@any_number_of_examples_in_one_account
@given(event=json_values | st.just({"sweep": True}))
def test_without_a_configuration_an_event_is_refused_or_a_configuration_error(
    scene: Pair, event: object
) -> None:
    os.environ.pop("filter_id", None)  # until the account is left
    with suppress(ConfigurationError):
        assert lambda_handler(event, None)["statusCode"] == 400
