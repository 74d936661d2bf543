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
from conftest import Scene, Sleeps, answer_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lambda_traffic_mirror import ConfigurationError, MirroringError, lambda_handler

Event = dict[str, Any]

UNKNOWN = "i-00000000000000000"


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
            "eventVersion": "1.09",
            "userIdentity": {"type": "IAMUser", "accountId": ACCOUNT_ID, "userName": "operator"},
            "eventTime": "2026-01-01T00:00:00Z",
            "eventSource": "ec2.amazonaws.com",
            "eventName": name,
            "awsRegion": REGION,
            "sourceIPAddress": "192.0.2.1",
            "userAgent": "console.ec2.amazonaws.com",
            "requestParameters": None,
            "responseElements": None,
            "requestID": str(uuid.uuid4()),
            "eventID": str(uuid.uuid4()),
            "readOnly": False,
            "eventType": "AwsApiCall",
            "managementEvent": True,
            "recipientAccountId": ACCOUNT_ID,
            "eventCategory": "Management",
            **detail,
        },
    }


def items(*members: Mapping[str, Any]) -> dict[str, Any]:
    """A list as CloudTrail spells EC2's."""
    return {"items": list(members)}


def run_instances(*instance_ids: str) -> Event:
    return call_event(
        "RunInstances",
        requestParameters={"instancesSet": items({"imageId": "ami-1", "minCount": 1})},
        responseElements={
            "reservationId": "r-1",
            "ownerId": ACCOUNT_ID,
            "instancesSet": items(
                *({"instanceId": key, "imageId": "ami-1"} for key in instance_ids)
            ),
        },
    )


class Pair(Scene):
    """Two instances without sessions, and a sensor."""

    one: str
    two: str

    def __enter__(self) -> Pair:
        super().__enter__()
        self.one, self.two = self.instances(2)
        self.configure(self.sensor())
        return self

    def batch(self, *bodies: Mapping[str, Any] | str, **more: Any) -> int | list[int]:
        """The positions of the messages that are to be delivered again."""
        return answer_to(sqs_event(*bodies) | more)

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

ONE, TWO, BOTH = ["one"], ["two"], ["one", "two"]
NOTIFICATION = "EC2 Instance State-change Notification"

# From the IDs of the two instances to the event, and which of them are mirrored then.
EVENTS: dict[str, tuple[Callable[[str, str], Event], list[str]]] = {
    "EventBridge: running": (lambda one, two: running_event(one), ONE),
    "EventBridge, without a state": (
        lambda one, two: {"detail-type": NOTIFICATION, "detail": {"instance-id": two}},
        TWO,
    ),
    "a test event": (lambda one, two: {"detail": {"instance-id": one}}, ONE),
    "a test event with white space around the ID": (
        lambda one, two: {"detail": {"instance-id": f" {one}\n"}},
        ONE,
    ),
    "a test event with a state": (
        lambda one, two: {"detail": {"instance-id": one, "state": "running"}},
        ONE,
    ),
    "a list of one instance": (lambda one, two: {"instance-ids": [two]}, TWO),
    "a list of two instances": (lambda one, two: {"instance-ids": [two, one]}, BOTH),
    "a list with duplicates": (lambda one, two: {"instance-ids": [one, one, two, one]}, BOTH),
    "a list, and no sweep": (lambda one, two: {"instance-ids": [one], "sweep": False}, ONE),
    "a schedule": (lambda one, two: scheduled_event(), BOTH),
    "a schedule, its type only": (lambda one, two: {"detail-type": "Scheduled Event"}, BOTH),
    "a sweep by hand": (lambda one, two: {"sweep": True}, BOTH),
    "a sweep, its id not UTF-8": (lambda one, two: {"sweep": True, "id": "\ud800"}, BOTH),
    "further members": (lambda one, two: {"sweep": True, "why": {"not": None}}, BOTH),
}


@pytest.mark.parametrize(("event", "mirrored"), EVENTS.values(), ids=EVENTS.keys())
def test_an_event_is_understood(
    scene: Pair, event: Callable[[str, str], Event], mirrored: list[str]
) -> None:
    scene.run(event(scene.one, scene.two))
    assert scene.with_session() == [getattr(scene, name) for name in mirrored]


@pytest.mark.parametrize(("event", "mirrored"), EVENTS.values(), ids=EVENTS.keys())
def test_with_dry_run_in_it_an_event_is_only_tried_out(
    scene: Pair, event: Callable[[str, str], Event], mirrored: list[str]
) -> None:
    answer = scene.run(event(scene.one, scene.two) | {"dry_run": True})
    planned = answer.body["summary"]["planned"]
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


@pytest.mark.parametrize(
    "state", ["pending", "stopping", "stopped", "shutting-down", "terminated", "Running", ""]
)
def test_another_state_than_running_is_ignored(scene: Pair, state: str) -> None:
    answer = scene.run(running_event(scene.one, state=state))
    assert (answer.status, answer.interfaces, scene.calls) == (200, [], [])


def test_what_is_ignored_is_named(scene: Pair) -> None:
    message = scene.run(running_event(scene.one, state="stopped")).body["message"]
    assert [word for word in (scene.one, "stopped") if word not in message] == []


def test_dry_run_shows_even_where_the_event_is_ignored(scene: Pair) -> None:
    event = running_event(scene.one, state="stopped") | {"dry_run": True}
    assert scene.run(event).body["dry_run"] is True


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


def test_only_the_unknown_ones_are_asked_for_again(scene: Pair) -> None:
    scene.unknown_instances[scene.two] = 1
    scene.run({"instance-ids": [scene.one, scene.two]})
    asked = [
        call.parameters.get("InstanceIds") or call.parameters["Filters"][0]["Values"]
        for call in scene.calls
        if call.operation == "DescribeInstances" and scene.two in str(call.parameters)
    ]
    assert asked == [sorted([scene.one, scene.two]), [scene.two]]


def looks_at(account: Scene, instance: str) -> list[str]:
    """How each call that asks for the instance names it."""
    return [
        "ID" if instance in (call.parameters.get("InstanceIds") or ()) else "filter"
        for call in account.calls
        if call.operation == "DescribeInstances" and instance in str(call.parameters)
    ]


def test_the_first_look_is_by_filter_and_the_others_are_by_id(scene: Pair) -> None:
    """By its ID an instance that a service manages is shown, too."""
    scene.run(UNKNOWN)
    assert looks_at(scene, UNKNOWN) == ["filter", "ID", "ID"]


def test_one_that_stays_unknown_does_not_keep_another_from_being_seen(scene: Pair) -> None:
    """Asked for by ID, one that does not exist is an error that names it."""
    scene.unknown_instances[scene.two] = 1
    unknown = [UNKNOWN, UNKNOWN.replace("0", "1"), "i-nonsense"]
    answer = scene.run({"instance-ids": [*unknown, scene.two, scene.one]})
    assert answer.outcomes == ["skipped"] * 3 + ["created"] * 2


# --------------------------------------------------------------------------------------
# API calls that CloudTrail saw
# --------------------------------------------------------------------------------------

CALLS: dict[str, tuple[Callable[[str, str], Event], list[str]]] = {
    "RunInstances": (lambda one, two: run_instances(one), ONE),
    "RunInstances, two": (lambda one, two: run_instances(two, one), BOTH),
    "AttachNetworkInterface": (
        lambda one, two: call_event(
            "AttachNetworkInterface",
            requestParameters={"networkInterfaceId": "eni-1", "instanceId": two, "deviceIndex": 1},
            responseElements={"requestId": "1", "attachmentId": "eni-attach-1"},
        ),
        TWO,
    ),
    "CreateTags": (
        lambda one, two: call_event(
            "CreateTags",
            requestParameters={
                "resourcesSet": items({"resourceId": "vol-1"}, {"resourceId": one}),
                "tagSet": items({"key": "mirror", "value": "yes"}),
            },
            responseElements={"requestId": "1", "_return": True},
        ),
        ONE,
    ),
    "DeleteTags": (
        lambda one, two: call_event(
            "DeleteTags",
            requestParameters={"resourcesSet": items({"resourceId": two}, {"resourceId": one})},
        ),
        BOTH,
    ),
    "StartInstances": (
        lambda one, two: call_event(
            "StartInstances",
            requestParameters={"instancesSet": items({"instanceId": one})},
            responseElements={
                "instancesSet": items({"instanceId": one, "currentState": {"name": "pending"}})
            },
        ),
        ONE,
    ),
    "one in the request, the other in the answer": (
        lambda one, two: call_event(
            "Something", requestParameters={"instanceId": one}, responseElements={"resourceId": two}
        ),
        BOTH,
    ),
    "in upper case": (
        lambda one, two: call_event(
            "ModifyInstanceMetadataOptions",
            requestParameters={"ModifyInstanceMetadataOptionsRequest": {"InstanceId": one}},
        ),
        ONE,
    ),
    "in any case": (
        lambda one, two: call_event(
            "Something", requestParameters={"INSTANCEID": one, "x": {"instanceid": two}}
        ),
        BOTH,
    ),
    "a resource in upper case": (
        lambda one, two: call_event("Something", requestParameters={"ResourceId": two}),
        TWO,
    ),
    "deep down": (
        lambda one, two: call_event(
            "Something",
            requestParameters=nested({"instanceId": one}, 500),
            responseElements=[[two]],
        ),
        ONE,
    ),
    "in lists within lists": (
        lambda one, two: call_event("Something", responseElements=[[[{"instanceId": two}]], 7]),
        TWO,
    ),
    "a state besides": (
        lambda one, two: call_event(
            "Something", requestParameters={"instanceId": one, "state": "stopped"}
        ),
        ONE,
    ),
    "an event whose source is missing": (
        lambda one, two: {k: v for k, v in run_instances(one).items() if k != "source"},
        ONE,
    ),
}


def nested(value: object, depth: int) -> object:
    for level in range(depth):
        value = [value] if level % 2 else {"x": value}
    return value


@pytest.mark.parametrize(("event", "mirrored"), CALLS.values(), ids=CALLS.keys())
def test_the_instances_that_a_call_names_are_mirrored(
    scene: Pair, event: Callable[[str, str], Event], mirrored: list[str]
) -> None:
    answer = scene.run(event(scene.one, scene.two))
    wanted = [getattr(scene, name) for name in mirrored]
    assert (answer.outcomes, scene.with_session()) == (["created"] * len(wanted), wanted)


def test_a_call_that_names_an_instance_twice_asks_for_it_once(scene: Pair) -> None:
    members = items({"instanceId": scene.one}, {"instanceId": scene.one})
    event = call_event("X", requestParameters=members, responseElements={"resourceId": scene.one})
    assert scene.run(event).outcomes == ["created"]


def test_a_call_may_be_tried_out(scene: Pair) -> None:
    assert scene.run(run_instances(scene.one) | {"dry_run": True}).outcomes == ["planned"]


def test_what_a_call_has_ended_is_skipped(scene: Pair) -> None:
    scene.terminate(scene.one)
    event = call_event("TerminateInstances", requestParameters={"instanceId": scene.one})
    answer = scene.run(event)
    assert (answer.status, answer.outcomes) == (200, ["skipped"])


# Nothing of this names an instance that is to be looked at.
IGNORED: dict[str, Callable[[str], Event]] = {
    "a call that failed": lambda one: call_event(
        "AttachNetworkInterface",
        requestParameters={"instanceId": one},
        errorCode="Client.InvalidParameterValue",
        errorMessage="no",
    ),
    "a call that names none": lambda one: call_event(
        "CreateTags", requestParameters={"resourcesSet": items({"resourceId": "vol-1"})}
    ),
    "a call without parameters": lambda one: call_event("RunInstances"),
    "a call whose parameters are missing": lambda one: {
        "detail-type": "AWS API Call via CloudTrail",
        "detail": {"eventSource": "ec2.amazonaws.com", "eventName": "X"},
    },
    "the caller is an instance": lambda one: call_event(
        "CreateVolume", userIdentity={"type": "AssumedRole", "instanceId": one}
    ),
    "an instance elsewhere in the event": lambda one: call_event(
        "CreateVolume", additionalEventData={"instanceId": one}, resources=[{"resourceId": one}]
    ),
    "an instance only in texts": lambda one: call_event(
        "X", requestParameters={"name": one, "clientToken": one, "instanceIdSet": [one]}
    ),
    "a resource that does not begin with i-": lambda one: call_event(
        "X", requestParameters=[{"resourceId": f"x{one}"}, {"resourceId": f"arn:aws:ec2:::{one}"}]
    ),
}


@pytest.mark.parametrize("event", IGNORED.values(), ids=IGNORED.keys())
def test_it_is_ignored_and_aws_is_not_asked(scene: Pair, event: Callable[[str], Event]) -> None:
    answer = scene.run(event(scene.one))
    assert (answer.status, answer.interfaces, scene.calls) == (200, [], [])


# IDs that are none: at most they make the event invalid, never do they match an instance.
ODD_IDS = [
    "i-*",
    "*",
    "i-?????????????????",
    "",
    " ",
    7,
    None,
    True,
    [],
    {},
    ["i-*"],
    "i-é",
    "\ud800",
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
    other = "i-00000000000000001"
    again = scene.batch(
        running_event(UNKNOWN) | {"account": OTHER_ACCOUNT_ID}, running_event(other)
    )
    looks = [len(looks_at(scene, key)) for key in (UNKNOWN, other)]
    assert (again, looks, no_sleep.seconds) == ([], [1, 3], [1.0, 1.0])


@pytest.mark.parametrize("order", [1, -1], ids=["first", "last"])
def test_what_an_event_of_our_own_names_too_is_asked_for_three_times(
    scene: Pair, no_sleep: Sleeps, order: int
) -> None:
    events = [running_event(UNKNOWN) | {"account": OTHER_ACCOUNT_ID}, running_event(UNKNOWN)]
    scene.batch(*events[::order])
    assert (len(looks_at(scene, UNKNOWN)), no_sleep.seconds) == (3, [1.0, 1.0])


def test_a_schedule_is_a_sweep_wherever_it_is_from(scene: Pair) -> None:
    scene.run(scheduled_event() | {"account": OTHER_ACCOUNT_ID})
    assert scene.with_session() == [scene.one, scene.two]


# --------------------------------------------------------------------------------------
# Batches of SQS messages
# --------------------------------------------------------------------------------------

# From the IDs of the two instances to the bodies; which are delivered again, which are mirrored.
BATCHES: dict[str, tuple[Callable[[str, str], list[Event | str]], list[int], list[str]]] = {
    "one event": (lambda one, two: [running_event(one)], [], ONE),
    "two events": (lambda one, two: [running_event(two), running_event(one)], [], BOTH),
    "the same instance twice": (lambda one, two: [running_event(one)] * 2, [], ONE),
    "a test event": (lambda one, two: [{"detail": {"instance-id": one}}], [], ONE),
    "a list": (lambda one, two: [{"instance-ids": [one, two]}], [], BOTH),
    "a schedule": (lambda one, two: [scheduled_event()], [], BOTH),
    "a sweep by hand": (lambda one, two: [{"sweep": True}], [], BOTH),
    "two sweeps": (lambda one, two: [{"sweep": True}, scheduled_event()], [], BOTH),
    "an event and a sweep": (lambda one, two: [running_event(one), {"sweep": True}], [], BOTH),
    "another state": (lambda one, two: [running_event(one, state="stopped")], [], []),
    "not JSON": (lambda one, two: ["{", running_event(one)], [0], ONE),
    "empty": (lambda one, two: [running_event(one), ""], [1], ONE),
    "JSON, but not an object": (lambda one, two: ["[]", "null", '"x"', "7"], [0, 1, 2, 3], []),
    "an unknown event": (lambda one, two: [{}, running_event(two)], [0], TWO),
    "nested too deep to read": (lambda one, two: ["[" * 100_000, running_event(one)], [0], ONE),
    "a number too long to read": (lambda one, two: ["9" * 100_000, running_event(one)], [0], ONE),
    "a batch within a batch": (
        lambda one, two: [sqs_event(running_event(one)), running_event(two)],
        [0],
        TWO,
    ),
    "a dry run": (lambda one, two: [running_event(one) | {"dry_run": True}], [], []),
    "a dry run and another": (
        lambda one, two: [running_event(one) | {"dry_run": True}, running_event(two)],
        [],
        TWO,
    ),
    "a dry run of what another wants mirrored": (
        lambda one, two: [running_event(one), running_event(one) | {"dry_run": True}],
        [],
        ONE,
    ),
    "the same the other way round": (
        lambda one, two: [running_event(one) | {"dry_run": True}, running_event(one)],
        [],
        ONE,
    ),
    "a sweep tried out and one meant": (
        lambda one, two: [{"sweep": True, "dry_run": True}, {"sweep": True}],
        [],
        BOTH,
    ),
    "a sweep tried out beside an event": (
        lambda one, two: [{"sweep": True, "dry_run": True}, running_event(two)],
        [],
        TWO,
    ),
    "an event tried out beside a sweep that covers it": (
        lambda one, two: [running_event(one) | {"dry_run": True}, {"sweep": True}],
        [],
        BOTH,
    ),
    "dry_run is not a boolean": (
        lambda one, two: [running_event(one) | {"dry_run": "yes"}, running_event(two)],
        [0],
        TWO,
    ),
}


@pytest.mark.parametrize(("bodies", "again", "mirrored"), BATCHES.values(), ids=BATCHES.keys())
def test_a_batch_is_worked_on_together(
    scene: Pair,
    bodies: Callable[[str, str], list[Event | str]],
    again: list[int],
    mirrored: list[str],
) -> None:
    failures = scene.batch(*bodies(scene.one, scene.two))
    assert (failures, scene.with_session()) == (again, [getattr(scene, name) for name in mirrored])


def test_a_batch_is_read_in_the_calls_of_one_event(scene: Pair) -> None:
    scene.batch(running_event(scene.one), running_event(scene.two))
    assert scene.count("DescribeTrafficMirrorSessions") == 1


def test_dry_run_at_the_top_of_a_batch_holds_for_all_of_it(scene: Pair) -> None:
    again = scene.batch(running_event(scene.one), {"instance-ids": [scene.two]}, dry_run=True)
    assert (again, scene.with_session()) == ([], [])


def test_a_batch_whose_dry_run_is_not_a_boolean_is_delivered_again(scene: Pair) -> None:
    again = scene.batch(running_event(scene.one), running_event(scene.two), dry_run="no")
    assert (again, scene.with_session()) == ([0, 1], [])


def test_what_aws_gives_no_answer_for_is_delivered_again(scene: Pair) -> None:
    (interface,) = scene.interfaces_of(scene.one)
    scene.fail(CREATE, where=lambda p: p["NetworkInterfaceId"] == interface)
    again = scene.batch(
        running_event(scene.one), running_event(scene.two), {"instance-ids": [scene.one]}
    )
    assert (again, scene.with_session()) == ([0, 2], [scene.two])


def test_unmirrored_is_an_answer_and_no_failure(scene: Pair) -> None:
    scene.configure(scene.missing_sensor())
    assert scene.batch(running_event(scene.one)) == []


def test_an_instance_that_does_not_exist_is_an_answer_and_no_failure(scene: Pair) -> None:
    assert scene.batch(running_event("i-00000000000000000")) == []


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
    result = lambda_handler(event, LambdaContext())
    wanted = [{"itemIdentifier": event["Records"][position]["messageId"]} for position in again]
    assert result == {"batchItemFailures": wanted}


# --------------------------------------------------------------------------------------
# Envelopes
# --------------------------------------------------------------------------------------

Envelope = Callable[..., Any]

# Those that answer one result over all events, and those that answer as an SQS batch does.
WITH_RESULT: dict[str, Envelope] = {"SNS": sns_event, "an array": lambda *events: list(events)}
WITH_FAILURES: dict[str, Envelope] = {
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


@pytest.mark.parametrize(("event", "mirrored"), EVENTS.values(), ids=EVENTS.keys())
@pytest.mark.parametrize("envelope", ["SNS", "an array", "SNS in SQS"])
def test_an_envelope_is_unwrapped(
    scene: Pair, envelope: str, event: Callable[[str, str], Event], mirrored: list[str]
) -> None:
    answer = answer_to(ENVELOPES[envelope](event(scene.one, scene.two)))
    wanted = [getattr(scene, name) for name in mirrored]
    assert (answer, scene.with_session()) == ([] if envelope in WITH_FAILURES else 200, wanted)


@pytest.mark.parametrize("envelope", ENVELOPES)
def test_the_events_of_an_envelope_are_worked_on_together(scene: Pair, envelope: str) -> None:
    answer = answer_to(ENVELOPES[envelope](running_event(scene.one), run_instances(scene.two)))
    found = (answer, scene.with_session(), scene.count("DescribeTrafficMirrorSessions"))
    assert found == ([] if envelope in WITH_FAILURES else 200, [scene.one, scene.two], 1)


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


@pytest.mark.parametrize("unreadable", UNREADABLE.values(), ids=UNREADABLE.keys())
@pytest.mark.parametrize("envelope", ENVELOPES)
def test_one_that_cannot_be_understood_does_not_stop_the_others(
    scene: Pair, envelope: str, unreadable: object
) -> None:
    events = running_event(scene.one), unreadable, running_event(scene.two)
    answer = answer_to(ENVELOPES[envelope](*events))
    wanted = [1] if envelope in WITH_FAILURES else 400
    assert (answer, scene.with_session()) == (wanted, [scene.one, scene.two])


@pytest.mark.parametrize("envelope", WITH_RESULT)
def test_the_message_about_such_a_one_shows_an_event_that_works(scene: Pair, envelope: str) -> None:
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


@pytest.mark.parametrize("envelope", ENVELOPES)
def test_a_dry_run_within_an_envelope_holds_for_its_event(scene: Pair, envelope: str) -> None:
    events = running_event(scene.one) | {"dry_run": True}, running_event(scene.two)
    answer = answer_to(ENVELOPES[envelope](*events))
    assert (answer, scene.with_session()) == ([] if envelope in WITH_FAILURES else 200, [scene.two])


# Where dry_run stands at the top of an envelope: from the two events and its value to the event.
TOPS: dict[str, Callable[[Event, Event, object], Any]] = {
    "SNS": lambda a, b, value: sns_event(a, b) | {"dry_run": value},
    "SQS": lambda a, b, value: {"Records": sqs_records(a, b), "dry_run": value},
    "SNS in SQS": lambda a, b, value: {
        "Records": sqs_records(notification(a), notification(b)),
        "dry_run": value,
    },
    "the notifications in SQS": lambda a, b, value: {
        "Records": sqs_records(*(notification(event) | {"dry_run": value} for event in (a, b)))
    },
    "the notifications in an array of SQS records": lambda a, b, value: sqs_records(
        *(notification(event) | {"dry_run": value} for event in (a, b))
    ),
}


@pytest.mark.parametrize("top", TOPS)
def test_a_dry_run_at_the_top_of_an_envelope_holds_for_all_of_it(scene: Pair, top: str) -> None:
    answer = answer_to(TOPS[top](running_event(scene.one), running_event(scene.two), True))
    assert (answer, scene.with_session()) == (200 if top == "SNS" else [], [])
    assert scene.count("DescribeInstances") > 0


@pytest.mark.parametrize("top", TOPS)
def test_dry_run_false_at_the_top_changes_nothing(scene: Pair, top: str) -> None:
    tried = running_event(scene.one) | {"dry_run": True}
    answer_to(TOPS[top](tried, running_event(scene.two), False))
    assert scene.with_session() == [scene.two]


@pytest.mark.parametrize("value", ["true", "no", 1, 0, None, []], ids=ascii)
@pytest.mark.parametrize("top", TOPS)
def test_a_dry_run_at_the_top_that_is_not_a_boolean_makes_all_of_it_invalid(
    scene: Pair, top: str, value: object
) -> None:
    answer = answer_to(TOPS[top](running_event(scene.one), running_event(scene.two), value))
    assert (answer, scene.with_session()) == (400 if top == "SNS" else [0, 1], [])


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
BESIDES: dict[str, Callable[[], object]] = {
    "a record of S3": lambda: S3,
    "a record of SNS": lambda: sns_event({"sweep": True})["Records"][0],
    "a record of nothing": lambda: None,
    "an empty record": dict,
    "text": lambda: "x",
    "a state change": lambda: running_event(UNKNOWN),
    "a record without messageId": lacking,
    "a record whose messageId is null": lambda: lacking() | {"messageId": None},
    "a record whose messageId is empty": lambda: lacking(""),
    "a record whose messageId is a number": lambda: lacking(7),
    "a record whose messageId is a list": lambda: lacking([]),
}


@pytest.mark.parametrize("order", [1, -1], ids=["last", "first"])
@pytest.mark.parametrize("bare", [False, True], ids=["Records", "array"])
@pytest.mark.parametrize("other", BESIDES.values(), ids=BESIDES.keys())
def test_a_batch_whose_records_cannot_all_be_named_is_raised(
    scene: Pair, other: Callable[[], object], bare: bool, order: int
) -> None:
    records = [*sqs_records(running_event(scene.one)), other()][::order]
    with pytest.raises(MirroringError):
        lambda_handler(records if bare else {"Records": records}, LambdaContext())


@pytest.mark.parametrize("bare", [False, True], ids=["Records", "array"])
def test_a_lonely_record_of_sqs_that_lacks_its_id_is_raised(scene: Pair, bare: bool) -> None:
    records = [lacking()]
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

COUNTED: dict[str, tuple[Callable[[str], object], int]] = {
    "nonsense": (lambda one: CONSOLE, 1),
    "nothing": (lambda one: None, 1),
    "a call of another service": (lambda one: call_event("X", eventSource="s3.amazonaws.com"), 1),
    "an event": (running_event, 0),
    "another state": (lambda one: running_event(one, state="stopped"), 0),
    "a call that names none": (lambda one: call_event("X"), 0),
    "a schedule": (lambda one: scheduled_event(), 0),
    "one of an array": (lambda one: [running_event(one), CONSOLE], 1),
    "three of an array": (lambda one: [CONSOLE, 7, running_event(one), None], 3),
    "all of an array": (lambda one: [CONSOLE, {}], 2),
    "SNS": (lambda one: sns_event(CONSOLE), 1),
    "one of SQS": (lambda one: {"Records": sqs_records(running_event(one), "{")}, 1),
    "two of SQS": (lambda one: {"Records": sqs_records("x", running_event(one), {})}, 2),
    "two of SNS in SQS": (
        lambda one: {"Records": sqs_records(*map(notification, (CONSOLE, {}, {"sweep": True})))},
        2,
    ),
    "one of an array of SQS records": (lambda one: sqs_records(running_event(one), CONSOLE), 1),
    "a sweep beside nonsense": (lambda one: [{"sweep": True}, CONSOLE], 1),
}


@pytest.mark.parametrize(("event", "count"), COUNTED.values(), ids=COUNTED.keys())
def test_what_cannot_be_understood_is_counted_as_invalid(
    scene: Pair, capsys: pytest.CaptureFixture[str], event: Callable[[str], object], count: int
) -> None:
    capsys.readouterr()
    lambda_handler(event(scene.one), LambdaContext())
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


def in_record(**members: object) -> Callable[[str], Event]:
    return lambda one: {"Records": [sqs_records("{")[0] | members, *sqs_records({})]}


FORGERIES: dict[str, Callable[[str], object]] = {
    "a messageId": in_record(messageId=FORGED),
    "a messageId of a good record": lambda one: {
        "Records": [sqs_records(running_event(one))[0] | {"messageId": FORGED}]
    },
    "a body": in_record(body=FORGED),
    "an ID": lambda one: {"detail": {"instance-id": f"i-{FORGED}"}},
    "an ID of a list": lambda one: {"instance-ids": [one, FORGED]},
    "an ID, stopped": lambda one: running_event(f"i-{FORGED}", state="stopped"),
    "an ID in a call": lambda one: run_instances(one, f"i-{FORGED}"),
    "a resource in a call": lambda one: call_event("X", requestParameters={"resourceId": FORGED}),
    "a state": lambda one: running_event(one, state=FORGED),
    "a detail-type": lambda one: {"detail-type": FORGED, "detail": {"instance-id": one}},
    "an event ID": lambda one: running_event(one, event_id=FORGED),
    "an account": lambda one: running_event(UNKNOWN) | {"account": FORGED},
    "a Region": lambda one: running_event(UNKNOWN) | {"region": FORGED},
    "the name of a call": lambda one: call_event(FORGED, requestParameters={"instanceId": one}),
    "the name of a call that names none": lambda one: call_event(FORGED),
    "the error of a call": lambda one: call_event("X", errorCode=FORGED, errorMessage=FORGED),
    "the source of a call": lambda one: call_event("X", eventSource=FORGED),
    "a name": lambda one: {FORGED: FORGED},
    "text": lambda one: FORGED,
    "an array": lambda one: [FORGED, {FORGED: 1}, running_event(one, state=FORGED)],
    "SNS": lambda one: sns_event(FORGED, {FORGED: FORGED}),
}


def control_characters(text: str) -> list[str]:
    """What would begin a line of its own, or change what a terminal shows."""
    return [c for c in text if unicodedata.category(c) in ("Cc", "Zl", "Zp")]


@pytest.mark.parametrize("envelope", [None, "SNS", "an array", "SNS in SQS"])
@pytest.mark.parametrize("event", FORGERIES.values(), ids=FORGERIES.keys())
def test_every_log_record_and_message_is_one_line_with(
    scene: Pair,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    event: Callable[[str], object],
    envelope: str | None,
) -> None:
    caplog.set_level(logging.DEBUG, "lambda_traffic_mirror")
    sent: Any = event(scene.one)
    result: dict[str, Any] = {}
    texts: list[str] = []
    try:
        result = lambda_handler(ENVELOPES[envelope](sent) if envelope else sent, LambdaContext())
    except MirroringError as error:
        texts.append(str(error))
    texts += [r.getMessage() for r in caplog.records if r.name == "lambda_traffic_mirror"]
    if "body" in result:
        body = json.loads(result["body"])
        texts += [body["message"], *(entry["reason"] for entry in body["interfaces"])]
    assert [text for text in texts if control_characters(text)] == []
    assert all(json.loads(line) for line in capsys.readouterr().out.splitlines())


# --------------------------------------------------------------------------------------
# Whatever comes in
# --------------------------------------------------------------------------------------

WORDS = [
    "detail",
    "detail-type",
    "instance-id",
    "instance-ids",
    "state",
    "id",
    "sweep",
    "dry_run",
    "Records",
    "eventSource",
    "EventSource",
    "messageId",
    "body",
    "Sns",
    "Type",
    "Message",
    "account",
    "region",
    "eventName",
    "errorCode",
    "requestParameters",
    "responseElements",
    "instanceId",
    "resourceId",
]
VALUES = [
    NOTIFICATION,
    API_CALL,
    "Scheduled Event",
    "running",
    "aws:sqs",
    "aws:sns",
    "ec2.amazonaws.com",
    "Notification",
    UNKNOWN,
    "{}",
    '{"sweep": true}',
]

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
@given(body=json_values | st.text(), data=st.data())
def test_whatever_an_sqs_message_holds_gets_an_answer(
    scene: Pair, body: object, data: st.DataObject
) -> None:
    text = body if isinstance(body, str) and data.draw(st.booleans()) else json.dumps(body)
    assert gets_an_answer(sqs_event(text, running_event(scene.one)))


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
