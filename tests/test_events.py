"""What each kind of event asks for, how envelopes are opened, and that nonsense gets an answer too.

What a batch of SQS messages names for another delivery is in test_sqs.py.
"""

from __future__ import annotations

import json
import logging
import re
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
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

UNKNOWN = "i-00000000000000000"
NOTIFICATION = "EC2 Instance State-change Notification"
API_CALL = "AWS API Call via CloudTrail"
# What the console offers as a test event of the kind hello-world.
CONSOLE = {"key1": "value1", "key2": "value2", "key3": "value3"}

pytestmark = pytest.mark.usefixtures("shared_client")


# --- What AWS sends


def text_of(message: object) -> str:
    return message if isinstance(message, str) else json.dumps(message)


def notification(message: object) -> Event:
    """An SNS notification as it arrives in a queue."""
    return {"Type": "Notification", "MessageId": str(uuid.uuid4()), "Message": text_of(message)}


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


def enveloped(event: Any, envelope: str | None) -> Any:
    return ENVELOPES[envelope](event) if envelope else event


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

    def about_its(self, value: Any) -> Any:
        """The same with the IDs of its instances in the place of i-one and i-two."""
        text = json.dumps(value).replace("i-one", self.one).replace("i-two", self.two)
        return json.loads(text)

    def mirrored_now(self) -> list[str]:
        """Which of the two instances have a session, which then goes."""
        found = [i for i in (self.one, self.two) if self.sessions_of(i) == [1]]
        for session in self.sessions():
            self.delete_session(session["TrafficMirrorSessionId"])
        self._idempotency.clear()  # or the same event would bring it back
        return found


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


# --- Each kind of event


BOTH = ["i-one", "i-two"]
NAMED = {"instance-id": "i-one"}
ELSEWHERE = {"account": OTHER_ACCOUNT_ID, "region": "eu-west-1"}
# Events about the instances i-one and i-two, and which of them are mirrored then.
EVENTS: dict[str, tuple[Event, list[str]]] = {
    "state change to running": (running_event("i-one"), ["i-one"]),
    "state change of another account": (running_event("i-one", **ELSEWHERE), ["i-one"]),
    "state change without a state": ({"detail-type": NOTIFICATION, "detail": NAMED}, ["i-one"]),
    "test event": ({"detail": NAMED}, ["i-one"]),
    "white space around the ID": ({"detail": {"instance-id": " i-one\n"}}, ["i-one"]),
    "test event with a state": ({"detail": NAMED | {"state": "running"}}, ["i-one"]),
    "list with duplicates": ({"instance-ids": [*BOTH[::-1], *BOTH]}, BOTH),
    "list, sweep false": ({"instance-ids": ["i-one"], "sweep": False}, ["i-one"]),
    "schedule of another account": (scheduled_event() | ELSEWHERE, BOTH),
    "schedule that says sweep, too": (scheduled_event() | {"sweep": True}, BOTH),
    "sweep by hand, its id not UTF-8": ({"sweep": True, "id": "\ud800"}, BOTH),
    "unknown members besides": ({"sweep": True, "why": {"not": None}}, BOTH),
    "RunInstances": (run_instances("i-two"), ["i-two"]),
}


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_is_understood_bare_and_in_every_envelope_and_as_a_dry_run(
    scene: Pair, name: str
) -> None:
    event, mirrored = scene.about_its(EVENTS[name])
    answer = scene.run(tried(event))
    assert (answer.body["dry_run"], answer.summary["planned"]) == (True, len(mirrored))
    assert scene.mirrored_now() == []
    for envelope in (None, *ENVELOPES):
        came = came_of(enveloped(event, envelope))
        wanted = (envelope, [] if "SQS" in (envelope or "") else 200, mirrored)
        assert (envelope, came, scene.mirrored_now()) == wanted


def test_the_variable_or_the_event_switches_the_dry_run_on(
    scene: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("true", "false"):
        monkeypatch.setenv("DRY_RUN", variable)
        for members in ({"dry_run": True}, {"dry_run": False}, {}):
            dry = variable == "true" or members.get("dry_run", False)
            body = scene.run(running_event(scene.one) | members).body
            assert (variable, members, body["dry_run"]) == (variable, members, dry)
            assert scene.mirrored_now() == [scene.one] * (not dry)


def with_dry_run(where: str, value: object, *events: Event) -> Event:
    """These events, with dry_run at the top of their envelope, or of each notification in SQS."""
    if where in ENVELOPES:
        return ENVELOPES[where](*events) | {"dry_run": value}
    return in_sqs(*(notification(event) | {"dry_run": value} for event in events))


@pytest.mark.parametrize("where", [*ENVELOPES, "the notifications in SQS"])
def test_dry_run_at_the_top_of_an_envelope_holds_for_all_of_it(scene: Pair, where: str) -> None:
    """False changes nothing, and what is not a boolean makes all of it invalid."""
    for value in (True, False, "true", None):
        events = tried(running_event(scene.one)), running_event(scene.two)
        came = came_of(with_dry_run(where, value, *events))
        valid = isinstance(value, bool)
        wanted = (200 if valid else 400) if where == "SNS" else [] if valid else [0, 1]
        assert (value, came) == (value, wanted)
        assert scene.mirrored_now() == ([scene.two] if value is False else [])


def test_another_state_than_running_is_ignored(scene: Pair) -> None:
    for state in ("pending", "stopped", "Running", ""):
        answer = scene.run(tried(running_event(scene.one, state=state)))
        assert (answer.status, answer.interfaces, scene.calls) == (200, [], [])
        assert missing(answer.body["message"], scene.one, state) == []
        assert answer.body["dry_run"] is True


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
@pytest.mark.parametrize(("looks", "outcome"), [(1, "created"), (2, "created"), (3, "skipped")])
def test_an_instance_that_aws_does_not_show_yet_is_asked_for_twice_more_a_second_apart(
    scene: Pair, clock: Clock, late: Callable[[Pair, int], None], looks: int, outcome: str
) -> None:
    late(scene, looks)
    assert scene.run({"instance-ids": [scene.two, scene.one]}).outcomes == ["created", outcome]
    assert clock.seconds == [1.0] * min(looks, 2)
    asked = [repr(call.parameters) for call in scene.calls if call.operation == INSTANCES]
    found = [sum(name in text for text in asked) for name in (scene.one, scene.two)]
    assert found == [1 + min(looks, 2), 1]  # what is known is not asked for again


@pytest.mark.parametrize("kind", [running_event, run_instances])
def test_the_reason_of_an_unknown_instance_names_the_events_account_and_region(
    scene: Pair, kind: Callable[[str], Event]
) -> None:
    for account, region in ((OTHER_ACCOUNT_ID, "eu-west-1"), (None, "eu-west-1"), (None, None)):
        answer = scene.run(kind(UNKNOWN) | {"account": account, "region": region})
        reason = answer.entry["reason"]
        assert (answer.status, answer.outcomes) == (200, ["skipped"])
        assert missing(reason, UNKNOWN, *filter(None, (account, region))) == []
        assert ("event" in reason) == bool(account or region)


# --- Calls that CloudTrail recorded


def nested(value: object, depth: int) -> object:
    for level in range(depth):
        value = [value] if level % 2 else {"x": value}
    return value


# What a call asked and what AWS answered, and the instances that are mirrored then.
TAGGED = {"resourcesSet": items({"resourceId": "vol-1"}, {"resourceId": "i-one"})}
RECORDED: dict[str, tuple[object, object, list[str]]] = {
    "AttachNetworkInterface": (
        {"networkInterfaceId": "eni-1", "instanceId": "i-two"},
        {},
        BOTH[1:],
    ),
    "CreateTags": (TAGGED, {"_return": True}, BOTH[:1]),
    "one asked for, one answered": ({"instanceId": "i-one"}, {"resourceId": "i-two"}, BOTH),
    "an ID in any case": ({"INSTANCEID": "i-one"}, {"ResourceId": "i-two"}, BOTH),
    "deep down": (nested({"instanceId": "i-one"}, 300), None, BOTH[:1]),
    "a list within lists": (None, [[[{"instanceId": "i-two"}]], 7], BOTH[1:]),
}


def test_the_instances_that_a_recorded_call_names_are_mirrored(scene: Pair) -> None:
    for name, call in RECORDED.items():
        asked, answered, mirrored = scene.about_its(call)
        event = call_event("Something", requestParameters=asked, responseElements=answered)
        named = [entry["instance_id"] for entry in scene.run(event).interfaces]
        assert (name, named, scene.mirrored_now()) == (name, mirrored, mirrored)


# Calls that start nothing, or that name no instance to be looked at.
STARTS = {"requestParameters": {"instanceId": "i-1"}}
IGNORED: dict[str, Event] = {
    "a call that failed": STARTS | {"errorCode": "Client.Invalid"},
    "a call that only reads": STARTS | {"readOnly": True},
    "a call that only reads, as text": STARTS | {"readOnly": "true"},
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


def test_a_recorded_call_is_ignored_without_a_call_to_aws(scene: Pair) -> None:
    for name, detail in IGNORED.items():
        answer = scene.run(call_event("Something", **detail))
        assert (name, answer.status, answer.interfaces, scene.calls) == (name, 200, [], [])


# --- Several events in an envelope


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


@every_envelope
def test_one_that_cannot_be_understood_does_not_stop_the_others(scene: Pair, envelope: str) -> None:
    """And they are worked on together."""
    for name, body in UNREADABLE.items():
        bodies = running_event(scene.one), body, run_instances(scene.two)
        scene.forget_calls()
        came = came_of(ENVELOPES[envelope](*bodies))
        found = (name, came, scene.mirrored_now(), scene.count(SESSIONS))
        again = [1] if "SQS" in envelope else 400
        assert found == (name, again, [scene.one, scene.two], 1)


def test_a_notification_answers_one_result_over_all_its_events(scene: Pair) -> None:
    event = sns_event(running_event(scene.two), CONSOLE, running_event(scene.one))
    answer = answer_of(lambda_handler(event, LambdaContext()))
    assert [entry["instance_id"] for entry in answer.interfaces] == [scene.two, scene.one]
    assert (answer.summary, "instance-id" in answer.body["message"]) == ({"created": 2}, True)


def test_a_notification_whose_instance_failed_is_delivered_again(scene: Pair) -> None:
    scene.fail(SESSIONS)
    assert deliver(sns_event(running_event(scene.one))).error.startswith("1 failed")


# What stands beside a good SQS record so that it cannot be said which to deliver again.
RECORD = sqs_event("{}")["Records"][0]
BESIDES: dict[str, object] = {
    "a record of SNS": sns_event({"sweep": True})["Records"][0],
    "null": None,
    "an event": running_event(UNKNOWN),
    **{f"a messageId that is {value!a}": RECORD | {"messageId": value} for value in (None, "", 7)},
}


@pytest.mark.parametrize("other", BESIDES.values(), ids=BESIDES.keys())
def test_a_batch_whose_records_cannot_all_be_named_is_raised(scene: Pair, other: object) -> None:
    good = in_sqs(running_event(scene.one))["Records"]
    for records in ([*good, other], [other, *good]):
        with pytest.raises(MirroringError):
            lambda_handler({"Records": records}, None)
    assert scene.calls == []


# --- Nonsense

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
    **{
        f"a record of SNS with {value!a}": {"Records": [{"EventSource": "aws:sns", "Sns": value}]}
        for value in (None, {}, {"Message": {"sweep": True}}, {"Message": ""})
    },
    "a bare notification of SNS": notification(running_event("i-1")),
    **each_detail("eventSource", "sts.amazonaws.com", None, ["ec2.amazonaws.com"], kind=API_CALL),
    **each("detail", [], {"requestParameters": {}}, **{"detail-type": API_CALL}),
}


@pytest.mark.parametrize("event", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_gets_a_message_that_shows_an_event_that_works(event: object) -> None:
    """It needs neither a configuration nor a call."""
    answer = answer_of(lambda_handler(event, LambdaContext()))
    shows = "instance-id" in answer.body["message"].rpartition("{")[2]
    assert (answer.status, shows, answer.interfaces) == (400, True, [])


def test_the_event_that_the_message_shows_works(scene: Pair) -> None:
    message = scene.run(CONSOLE).body["message"]
    shown = json.loads(message[message.index("{") :])
    assert scene.run(shown).outcomes == ["skipped"]


@every_envelope
def test_each_event_that_cannot_be_understood_is_counted_as_invalid(
    scene: Pair, capsys: pytest.CaptureFixture[str], envelope: str
) -> None:
    lambda_handler(ENVELOPES[envelope](CONSOLE, running_event(scene.one), {}), LambdaContext())
    (document,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert document["invalid"] == 2


# --- Texts from outside

# Events with that text in them, wherever a text may stand.
PLACES: dict[str, Callable[[str], object]] = {
    "an ID": lambda text: running_event(f"i-{text}"),
    "the ID of an instance that has stopped": lambda text: running_event(f"i-{text}", state="x"),
    "an ID of a list": lambda text: {"instance-ids": [UNKNOWN, text]},
    "an ID in a recorded call": lambda text: run_instances(UNKNOWN, f"i-{text}"),
    "a state": lambda text: running_event(UNKNOWN, state=text),
    "a detail-type": lambda text: {"detail-type": text, "detail": {"instance-id": "i-1"}},
    "the name of a member": lambda text: {text: text},
    "the ID of an event": lambda text: running_event(UNKNOWN, event_id=text),
    "an account": lambda text: running_event(UNKNOWN) | {"account": text},
    "a Region": lambda text: running_event(UNKNOWN) | {"region": text},
    "the name of a recorded call": call_event,
    "the error of a recorded call": lambda text: call_event("X", errorCode=text, errorMessage=text),
    "the source of a recorded call": lambda text: call_event("X", eventSource=text),
    "the ID of an SQS message": lambda text: {"Records": [RECORD | {"messageId": text}]},
    "the body of an SQS message": lambda text: {"Records": [RECORD | {"body": text}]},
}
LONG = 300_000
MANY: dict[str, Callable[[], object]] = {
    "a thousand IDs": lambda: {"instance-ids": [f"i-{n:04}" + "0" * 900 for n in range(1_000)]},
    "notifications": lambda: sns_event(*[CONSOLE] * 3_000),
    "notifications of other states": lambda: sns_event(*[running_event("i-1", state="x")] * 3_000),
}
FORGED = "x\nERROR forged\r\x1b[31m\x00\x85\u2028y"


def texts_of(delivery: Delivery, caplog: pytest.LogCaptureFixture) -> list[str]:
    """All that people read of an invocation: message, reasons, error and log records."""
    texts = [delivery.error]
    texts += [r.getMessage() for r in caplog.records if r.name == "lambda_traffic_mirror"]
    if "body" in (delivery.result or {}):
        body = delivery.answer.body
        texts += [body["message"], *(str(entry) for entry in body["interfaces"])]
        texts += [entry["reason"] for entry in body["interfaces"]]
    caplog.clear()
    return texts


def test_an_id_that_is_too_long_for_a_filter_of_ec2_keeps_no_other_from_its_turn(
    scene: Pair,
) -> None:
    """A filter takes values of 255 characters at most."""
    ids = ["i-".ljust(length, "0") for length in (255, 256)]
    answer = scene.run({"instance-ids": [*ids, scene.one]})
    assert answer.outcomes == ["skipped", "skipped", "created"]
    assert any(ids[0] in str(call.parameters) for call in scene.calls)


@pytest.fixture
def debug(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "lambda_traffic_mirror")
    return caplog


@pytest.mark.parametrize("seconds", [60, 0], ids=["with time", "as time runs out"])
def test_no_text_is_longer_than_its_limit_whatever_an_event_holds(
    scene: Pair, debug: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], seconds: int
) -> None:
    """A text from outside has at most 500 characters, a record or a message at most 10,000, an
    error 100,000 and a body 1 MB."""
    # The longest text may be an ID, or JSON has to escape it.
    huge = [partial(make, char * LONG) for make in PLACES.values() for char in "0é"]
    for make in (*huge, *MANY.values()):
        context = LambdaContext()
        if not seconds:
            looks = iter([60_000])  # milliseconds, at the first look
            context.get_remaining_time_in_millis = partial(next, looks, 0)  # type: ignore[method-assign]
        delivery = deliver(make(), context)
        error, *texts = texts_of(delivery, debug)
        assert len(error) <= 100_000
        assert max(map(len, texts), default=0) <= 10_000
        assert [text[:80] for text in (error, *texts) if re.search(r"(.)\1{500}", text)] == []
        if "batchItemFailures" not in (delivery.result or {}):
            assert len(json.dumps(delivery.result)) < 1_000_000
        assert len(capsys.readouterr().out) < 10_000


@pytest.mark.parametrize("envelope", [None, "SNS", "SNS in SQS"])
def test_every_log_record_and_message_is_one_line(
    scene: Pair,
    debug: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    envelope: str | None,
) -> None:
    for name, make in PLACES.items():
        texts = texts_of(deliver(enveloped(make(FORGED), envelope)), debug)
        odd = [c for text in texts for c in text if unicodedata.category(c) in ("Cc", "Zl", "Zp")]
        assert (name, odd) == (name, [])
        assert all(json.loads(line) for line in capsys.readouterr().out.splitlines())


# --- Whatever comes in

scalars = st.none() | st.booleans() | st.floats() | st.text(st.characters(codec=None))
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def mutations(draw: st.DrawFn, events: list[Any]) -> object:
    """A valid event with texts replaced by any JSON and members under another name."""
    text = json.dumps(draw(st.sampled_from(events)))
    for _ in range(draw(st.integers(1, 3))):
        token = draw(st.sampled_from([*re.finditer(r'"(?:[^"\\]|\\.)*":?', text)]))
        other = '"x":' if token[0].endswith(":") else json.dumps(draw(json_values))
        text = text[: token.start()] + other + text[token.end() :]
    return json.loads(text)


def gets_an_answer(event: object) -> bool:
    """One of the two kinds of results, or one of the two errors that tell Lambda why not."""
    with suppress(ConfigurationError, MirroringError):
        result = lambda_handler(event, LambdaContext())
        if set(result) == {"batchItemFailures"}:
            return all(set(item) == {"itemIdentifier"} for item in result["batchItemFailures"])
        members = {"message", "dry_run", "summary", "interfaces"}
        return result["statusCode"] in (200, 400) and set(json.loads(result["body"])) == members
    return True


@settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), envelope=st.sampled_from([None, *ENVELOPES]))
def test_whatever_comes_in_and_whatever_is_done_to_a_valid_event_it_gets_an_answer(
    scene: Pair, data: st.DataObject, envelope: str | None
) -> None:
    valid = [
        running_event(scene.one),
        {"instance-ids": [scene.one, scene.two], "dry_run": True},
        scheduled_event(),
        run_instances(scene.one, scene.two),
    ]
    event = data.draw(json_values | mutations(valid))
    assert gets_an_answer(enveloped(event, envelope))


def test_a_call_nested_too_deep_to_read_gets_an_answer(scene: Pair) -> None:
    assert gets_an_answer(
        call_event("X", requestParameters=nested({"instanceId": scene.one}, 20_000))
    )
