"""What each form of event asks for, and that nonsense gets an answer too."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import pytest
from aws import (
    LambdaContext,
    SimulatedAccount,
    running_event,
    scheduled_event,
    sqs_event,
)
from conftest import Run, Sleeps, answer_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lambda_traffic_mirror import ConfigurationError, MirroringError, lambda_handler

Configure = Callable[..., None]
Event = dict[str, Any]

CREATE = "CreateTrafficMirrorSession"


pytestmark = pytest.mark.usefixtures("shared_client")


class Scene:
    """Two instances without sessions, and a sensor."""

    def __init__(self, account: SimulatedAccount, configure: Configure, run: Run) -> None:
        self.account, self.run = account, run
        self.one, self.two = account.instance(), account.instance()
        configure(account.sensor())

    def batch(self, *bodies: Mapping[str, Any] | str, **more: Any) -> list[int]:
        """The positions of the messages that are to be delivered again."""
        event = sqs_event(*bodies) | more
        result = lambda_handler(event, LambdaContext())
        assert set(result) == {"batchItemFailures"}
        again = [item["itemIdentifier"] for item in result["batchItemFailures"]]
        positions = [record["messageId"] for record in event["Records"]]
        return [positions.index(message_id) for message_id in again]

    def mirrored(self) -> list[str]:
        """Which of the two instances have a session."""
        return [
            instance
            for instance in (self.one, self.two)
            for interface in self.account.interfaces_of(instance)
            if self.account.sessions(interface_id=interface)
        ]


@pytest.fixture
def scene(account: SimulatedAccount, configure: Configure, run: Run, no_sleep: Sleeps) -> Scene:
    return Scene(account, configure, run)


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
    "further members": (lambda one, two: {"sweep": True, "why": {"not": None}}, BOTH),
}


@pytest.mark.parametrize(("event", "mirrored"), EVENTS.values(), ids=EVENTS.keys())
def test_an_event_is_understood(
    scene: Scene, event: Callable[[str, str], Event], mirrored: list[str]
) -> None:
    scene.run(event(scene.one, scene.two))
    assert scene.mirrored() == [getattr(scene, name) for name in mirrored]


@pytest.mark.parametrize(("event", "mirrored"), EVENTS.values(), ids=EVENTS.keys())
def test_with_dry_run_in_it_an_event_is_only_tried_out(
    scene: Scene, event: Callable[[str, str], Event], mirrored: list[str]
) -> None:
    answer = scene.run(event(scene.one, scene.two) | {"dry_run": True})
    planned = answer.body["summary"]["planned"]
    assert (answer.body["dry_run"], planned, scene.mirrored()) == (True, len(mirrored), [])


DRY_RUNS = [
    ("true", None, True),
    ("true", False, True),
    ("false", True, True),
    ("false", False, False),
    ("false", None, False),
]


@pytest.mark.parametrize(("variable", "member", "dry_run"), DRY_RUNS)
def test_either_of_the_two_switches_the_dry_run_on(
    scene: Scene,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    member: bool | None,
    dry_run: bool,
) -> None:
    monkeypatch.setenv("DRY_RUN", variable)
    event = running_event(scene.one) | ({} if member is None else {"dry_run": member})
    assert scene.run(event).body["dry_run"] is dry_run


@pytest.mark.parametrize(
    "state", ["pending", "stopping", "stopped", "shutting-down", "terminated", "Running", ""]
)
def test_another_state_than_running_is_ignored(scene: Scene, state: str) -> None:
    answer = scene.run(running_event(scene.one, state=state))
    assert (answer.status, answer.interfaces, scene.account.calls) == (200, [], [])


def test_what_is_ignored_is_named(scene: Scene) -> None:
    message = scene.run(running_event(scene.one, state="stopped")).body["message"]
    assert [word for word in (scene.one, "stopped") if word not in message] == []


def test_dry_run_shows_even_where_the_event_is_ignored(scene: Scene) -> None:
    event = running_event(scene.one, state="stopped") | {"dry_run": True}
    assert scene.run(event).body["dry_run"] is True


def test_pending_counts_as_running(scene: Scene) -> None:
    scene.account.set_state(scene.one, "pending")
    assert scene.run(scene.one).outcomes == ["created"]


LATE = {0: ("created", 0), 1: ("created", 1), 2: ("created", 2), 3: ("skipped", 2)}


@pytest.mark.parametrize(("looks", "end"), LATE.items(), ids=[f"{n} looks late" for n in LATE])
def test_an_instance_that_aws_does_not_know_yet_is_asked_for_twice_more_a_second_apart(
    scene: Scene, no_sleep: Sleeps, looks: int, end: tuple[str, int]
) -> None:
    scene.account.unknown_instances[scene.one] = looks
    outcome = scene.run(scene.one).entry["outcome"]
    assert (outcome, no_sleep.seconds) == (end[0], [1.0] * end[1])


def test_only_the_unknown_ones_are_asked_for_again(scene: Scene) -> None:
    scene.account.unknown_instances[scene.two] = 1
    scene.run({"instance-ids": [scene.one, scene.two]})
    asked = [
        call.parameters["Filters"][0]["Values"]
        for call in scene.account.calls
        if call.operation == "DescribeInstances" and scene.two in str(call.parameters)
    ]
    assert asked == [sorted([scene.one, scene.two]), [scene.two]]


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
    scene: Scene,
    bodies: Callable[[str, str], list[Event | str]],
    again: list[int],
    mirrored: list[str],
) -> None:
    failures = scene.batch(*bodies(scene.one, scene.two))
    assert (failures, scene.mirrored()) == (again, [getattr(scene, name) for name in mirrored])


def test_a_batch_is_read_in_the_calls_of_one_event(scene: Scene) -> None:
    scene.batch(running_event(scene.one), running_event(scene.two))
    assert scene.account.count("DescribeTrafficMirrorSessions") == 1


def test_dry_run_at_the_top_of_a_batch_holds_for_all_of_it(scene: Scene) -> None:
    again = scene.batch(running_event(scene.one), {"instance-ids": [scene.two]}, dry_run=True)
    assert (again, scene.mirrored()) == ([], [])


def test_a_batch_whose_dry_run_is_not_a_boolean_is_delivered_again(scene: Scene) -> None:
    again = scene.batch(running_event(scene.one), running_event(scene.two), dry_run="no")
    assert (again, scene.mirrored()) == ([0, 1], [])


def test_what_aws_gives_no_answer_for_is_delivered_again(scene: Scene) -> None:
    (interface,) = scene.account.interfaces_of(scene.one)
    scene.account.fail(CREATE, where=lambda p: p["NetworkInterfaceId"] == interface)
    again = scene.batch(
        running_event(scene.one), running_event(scene.two), {"instance-ids": [scene.one]}
    )
    assert (again, scene.mirrored()) == ([0, 2], [scene.two])


def test_unmirrored_is_an_answer_and_no_failure(scene: Scene, configure: Configure) -> None:
    configure(scene.account.missing_sensor())
    assert scene.batch(running_event(scene.one)) == []


def test_an_instance_that_does_not_exist_is_an_answer_and_no_failure(scene: Scene) -> None:
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
def test_a_record(scene: Scene, change: Callable[[Event], Any], again: list[int]) -> None:
    event = sqs_event(running_event(scene.one), running_event(scene.two))
    change(event["Records"][0])
    result = lambda_handler(event, LambdaContext())
    wanted = [{"itemIdentifier": event["Records"][position]["messageId"]} for position in again]
    assert result == {"batchItemFailures": wanted}


# --------------------------------------------------------------------------------------
# Nonsense
# --------------------------------------------------------------------------------------

RUNNING = {"instance-id": "i-1", "state": "running"}
# What the console offers as a test event of the kind hello-world.
CONSOLE = {"key1": "value1", "key2": "value2", "key3": "value3"}
S3 = {"eventSource": "aws:s3", "s3": {"object": {"key": "x"}}}

NONSENSE: dict[str, object] = {
    "the console's default test event": CONSOLE,
    "nothing": None,
    "an empty object": {},
    "an empty list": [],
    "a list of events": [running_event("i-1")],
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
    "Records of SQS and S3": {"Records": [*sqs_event(running_event("i-1"))["Records"], S3]},
    "Records of nothing": {"Records": [None]},
    "an API Gateway request": {"httpMethod": "POST", "body": json.dumps(running_event("i-1"))},
}


@pytest.mark.parametrize("event", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_gets_a_message_that_shows_an_event_that_works(
    scene: Scene, event: object
) -> None:
    answer = answer_of(lambda_handler(event, LambdaContext()))
    shows = "instance-id" in answer.body["message"].rpartition("{")[2]
    assert (answer.status, shows, answer.interfaces, scene.account.calls) == (400, True, [], [])


def test_the_event_that_the_message_shows_works(scene: Scene) -> None:
    message = scene.run(CONSOLE).body["message"]
    shown = json.loads(message[message.index("{") :])
    assert scene.run(shown).outcomes == ["skipped"]


def test_a_large_event_does_not_come_back_in_the_message(scene: Scene) -> None:
    message = scene.run({"detail": {"instance-id": "x y" * 100_000}}).body["message"]
    assert len(message) < 500


@pytest.mark.parametrize("event", [CONSOLE, {"detail": {}}, "x"], ids=ascii)
def test_nonsense_needs_no_configuration(event: object) -> None:
    assert answer_of(lambda_handler(event, None)).status == 400


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
    "messageId",
    "body",
]
VALUES = [NOTIFICATION, "Scheduled Event", "running", "aws:sqs", "i-00000000000000000", "{}"]

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
def mutations(draw: st.DrawFn, events: list[Event]) -> object:
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
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@any_number_of_examples_in_one_account
@given(event=json_values)
def test_whatever_json_comes_in_gets_an_answer(scene: Scene, event: object) -> None:
    assert gets_an_answer(event)


@any_number_of_examples_in_one_account
@given(body=json_values | st.text(), data=st.data())
def test_whatever_an_sqs_message_holds_gets_an_answer(
    scene: Scene, body: object, data: st.DataObject
) -> None:
    text = body if isinstance(body, str) and data.draw(st.booleans()) else json.dumps(body)
    assert gets_an_answer(sqs_event(text, running_event(scene.one)))


@any_number_of_examples_in_one_account
@given(data=st.data())
def test_whatever_is_done_to_a_valid_event_it_gets_an_answer(
    scene: Scene, data: st.DataObject
) -> None:
    valid = [
        running_event(scene.one),
        {"detail": {"instance-id": scene.one}},
        {"instance-ids": [scene.one, scene.two], "dry_run": True},
        scheduled_event(),
        {"sweep": True, "dry_run": True},
        sqs_event(running_event(scene.one), {"sweep": True}),
    ]
    assert gets_an_answer(data.draw(mutations(valid)))


@settings(deadline=None, max_examples=80)
@given(event=json_values)
def test_without_a_configuration_an_event_is_refused_or_a_configuration_error(
    event: object,
) -> None:
    with suppress(ConfigurationError):
        assert lambda_handler(event, None)["statusCode"] == 400
