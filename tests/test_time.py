"""No call is begun once time is short: what is not reached is deferred, and what was done stays."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest
from aws import LambdaContext, running_event, scheduled_event
from calls import CREATE, READS, ROUND_TRIPS
from conftest import KINDS, Clock, Scene, answer_of, deliver

import lambda_traffic_mirror as function

pytestmark = pytest.mark.usefixtures("quick")


class ScriptedContext(LambdaContext):
    """Answers with these milliseconds in turn, and then with the last of them for ever."""

    def __init__(self, *milliseconds: int) -> None:
        super().__init__()
        self.script = itertools.chain(milliseconds, itertools.repeat(milliseconds[-1]))
        self.lock = threading.Lock()

    def get_remaining_time_in_millis(self) -> int:
        with self.lock:
            return next(self.script)


@pytest.mark.parametrize(
    ("at_first", "left", "begun"),
    [
        (60_000, 5_000, True),
        (60_000, 4_999, False),
        (900_000, 5_000, True),
        (900_000, 4_999, False),
        (25_000, 5_000, True),
        (25_000, 4_999, False),
        (24_000, 4_800, True),
        (24_000, 4_799, False),
        (10_000, 2_000, True),
        (10_000, 1_999, False),
        (3_000, 600, True),
        (3_000, 599, False),
    ],
)
def test_a_fifth_of_the_time_is_kept_in_reserve_but_five_seconds_at_most(
    scene: Scene, every_call: str, at_first: int, left: int, begun: bool
) -> None:
    instance = scene.instance()
    delivery = deliver(running_event(instance), ScriptedContext(at_first, left))
    assert scene.sessions_of(instance) == [int(begun)]
    assert (scene.count() > 0) == begun
    assert delivery.error.startswith("1 deferred") != begun


@pytest.mark.parametrize("begun", range(10))
@pytest.mark.parametrize("kind", ["event", *KINDS])
def test_time_runs_out_before_each_call_in_turn(
    scene: Scene, every_call: str, kind: str, begun: int
) -> None:
    instance = scene.instance()
    event = running_event(instance) if kind == "event" else KINDS[kind]([instance])
    calls_needed = len(list(itertools.chain(*ROUND_TRIPS)))

    delivery = deliver(event, ScriptedContext(60_000, *[5_000] * begun, 4_999))
    assert scene.count() == min(begun, calls_needed)
    done = begun >= calls_needed
    assert scene.sessions_of(instance) == [int(done)]
    if kind == "SQS batch":
        assert delivery.again == ([] if done else [0])
    elif kind == "sweep":
        # No error: the next sweep goes on from there.
        assert delivery.answer
        assert delivery.answer.status == 200
        assert ("deferred" in delivery.answer.summary) != done
    elif not done:
        assert delivery.error.startswith("1 deferred")
        assert (scene.interfaces_of(instance)[0] in delivery.error) or (instance in delivery.error)
        assert "time" in delivery.error

    again = deliver(event)
    assert not again.error
    assert not again.again
    assert scene.sessions_of(instance) == [1]


@pytest.mark.parametrize("last", range(len(ROUND_TRIPS)))
def test_a_round_trip_that_takes_too_long_is_the_last(
    scene: Scene, every_call: str, clock: Clock, last: int
) -> None:
    slow = ROUND_TRIPS[last][-1]

    def gate(call: str, parameters: dict[str, Any]) -> None:
        if call == slow:
            clock.advance(55.001)

    scene.gates.append(gate)
    delivery = deliver(running_event(scene.instance()), LambdaContext(60, clock=clock))
    assert bool(delivery.error) == (slow != CREATE)
    begun = {call.operation for call in scene.calls}
    assert begun <= set(itertools.chain(*ROUND_TRIPS[: last + 1]))


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_created_before_time_ran_out_stays_and_the_rest_follows(
    scene: Scene, every_call: str, clock: Clock, kind: str
) -> None:
    instances = scene.instances(5)
    event = KINDS[kind](instances)

    def gate(call: str, parameters: dict[str, Any]) -> None:
        if call == CREATE:
            clock.advance(22)

    scene.gates.append(gate)
    delivery = deliver(event, LambdaContext(60, clock=clock))
    # 60 s, 38 s, 16 s: the third create begins with 16 s left and ends behind time.
    assert scene.sessions_of(*instances) == [1, 1, 1, 0, 0]
    if kind == "SQS batch":
        assert delivery.again == [3, 4]
    elif kind == "sweep":
        assert delivery.answer
        assert delivery.answer.status == 200
        assert delivery.answer.summary == {"deferred": 2, "created": 3, "skipped": 1}
        assert all(
            entry["sensors"] == []
            for entry in delivery.answer.interfaces
            if entry["outcome"] == "deferred"
        )
    else:
        assert delivery.error.startswith("2 deferred")
        for instance in instances:
            named_in_error = scene.interfaces_of(instance)[0] in delivery.error
            assert named_in_error == (instance in instances[3:])

    delivery = deliver(event, LambdaContext(60, clock=clock))
    assert not delivery.error
    assert not delivery.again
    assert scene.sessions_of(*instances) == [1] * 5


def deny_the_first_create_and_let_time_run_out(scene: Scene, clock: Clock) -> None:
    def gate(call: str, parameters: dict[str, Any]) -> None:
        if call == CREATE:
            clock.advance(60)

    scene.gates.append(gate)
    scene.deny("ec2:CreateTags")


def test_failed_and_deferred_are_both_counted_and_named(
    scene: Scene, every_call: str, clock: Clock
) -> None:
    instances = scene.instances(2)
    first, second = (scene.interfaces_of(instance)[0] for instance in instances)
    deny_the_first_create_and_let_time_run_out(scene, clock)
    error = deliver({"instance-ids": instances}, LambdaContext(60, clock=clock)).error
    assert "1 failed" in error
    assert "1 deferred" in error
    assert first in error
    assert second in error


def test_a_sweep_with_failed_and_deferred_raises_for_the_failed_alone(
    scene: Scene, every_call: str, clock: Clock
) -> None:
    instances = scene.instances(2)
    first, second = (scene.interfaces_of(instance)[0] for instance in instances)
    deny_the_first_create_and_let_time_run_out(scene, clock)
    error = deliver(scheduled_event(), LambdaContext(60, clock=clock)).error
    assert error.startswith("1 failed")
    assert "deferred" not in error
    assert first in error
    assert second not in error


@pytest.mark.parametrize(("seconds_left", "looks"), [(7.1, 3), (6.1, 2), (5.1, 1)])
def test_an_unknown_instance_is_not_waited_for_beyond_the_reserve(
    scene: Scene, every_call: str, clock: Clock, seconds_left: float, looks: int
) -> None:
    """Each pause takes a second, and the reserve of five is not touched."""
    instance = scene.instance()
    scene.unknown_instances[instance] = 2

    def gate(call: str, parameters: dict[str, Any]) -> None:
        if scene.count("DescribeInstances") == 1 and call == "DescribeInstances":
            clock.advance(60 - seconds_left)

    scene.gates.append(gate)
    context = LambdaContext(60, clock=clock)
    delivery = deliver(running_event(instance), context)
    assert context.get_remaining_time_in_millis() >= 5_000
    if looks == 3:
        assert delivery.answer
        assert delivery.answer.outcomes == ["created"]
    else:
        assert delivery.error.startswith(f"1 deferred. {instance}: ")
        assert scene.count("DescribeInstances") == looks


@pytest.mark.parametrize(
    ("kind", "seconds_left", "looks"),
    [
        ("event", 7.1, 3),
        ("event", 6.1, 2),
        ("event", 5.1, 1),
        ("SQS batch", 5.1, 1),
        ("sweep", 5.1, 1),
    ],
)
def test_refused_interfaces_are_not_waited_for_beyond_the_reserve(
    scene: Scene, every_call: str, clock: Clock, kind: str, seconds_left: float, looks: int
) -> None:
    instance = scene.instance()
    (interface,) = scene.interfaces_of(instance)

    def gate(call: str, parameters: dict[str, Any]) -> None:
        if call == CREATE:  # another invocation is faster, and its session shows late
            scene.session(interface, every_call, lag=looks if looks < 3 else 2)
            clock.advance(60 - seconds_left)

    scene.gates.append(gate)
    event = running_event(instance) if kind == "event" else KINDS[kind]([instance])
    context = LambdaContext(60, clock=clock)
    delivery = deliver(event, context)
    assert context.get_remaining_time_in_millis() >= 5_000
    # One reading at the start, and then the looks.
    assert scene.count("DescribeTrafficMirrorSessions") == 1 + looks
    if looks == 3:
        assert delivery.answer
        assert delivery.answer.outcomes == ["exists"]
    elif kind == "event":
        assert delivery.error.startswith(f"1 deferred. {interface}")
    elif kind == "SQS batch":
        assert delivery.again == [0]
    else:
        assert delivery.answer
        assert delivery.answer.summary == {"deferred": 1, "skipped": 1}
    assert scene.sessions_of(instance) == [1]


@pytest.mark.parametrize("call", [READS[-1], CREATE])
def test_no_attempt_is_begun_in_the_reserve(
    scene: Scene, every_call: str, clock: Clock, call: str
) -> None:
    """Otherwise Lambda ends the invocation in the middle, and nobody is told of anything."""
    context = LambdaContext(60, clock=clock)
    left_at_attempts: list[int] = []

    def gate(operation: str, parameters: dict[str, Any]) -> None:
        left_at_attempts.append(context.get_remaining_time_in_millis())
        clock.advance(15 * (operation == call))

    scene.gates.append(gate)
    scene.time_out(call)
    assert deliver(running_event(scene.instance()), context).error
    assert min(left_at_attempts) >= 5_000


class NoClock:
    """A context as hand-written tests have it."""

    aws_request_id = "a-request"


@pytest.mark.parametrize("context", [None, NoClock()])
def test_without_a_clock_there_is_no_deadline(
    scene: Scene, every_call: str, context: object
) -> None:
    result = function.lambda_handler(running_event(scene.instance()), context)
    assert answer_of(result).outcomes == ["created"]


def test_a_lost_create_is_failed_even_where_no_time_is_left_to_look(
    scene: Scene, every_call: str, clock: Clock
) -> None:
    def gate(operation: str, parameters: dict[str, Any]) -> None:
        clock.advance(12 * (operation == CREATE))

    scene.gates.append(gate)
    scene.time_out(CREATE)
    delivery = deliver(running_event(scene.instance()), LambdaContext(60, clock=clock))
    assert "1 failed" in delivery.error
    assert "ReadTimeoutError" in delivery.error
