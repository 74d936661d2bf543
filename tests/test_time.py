"""No call is begun once time is short: what is not reached is deferred, and what was done stays.

The reserve, which is kept to report, and which further attempts and pauses of botocore still begin.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from aws import LambdaContext, running_event, scheduled_event, sqs_event
from calls import CREATE, FAULTS, INSTANCES, PREFIX_LIST, ROUND_TRIPS, SESSIONS
from conftest import KINDS, Clock, Scene, answer_of, deliver, missing

from lambda_traffic_mirror import lambda_handler

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


# What is left at first, and the least that is left when a call is begun; milliseconds.
RESERVES = [(900_000, 12_000), (60_000, 12_000), (3_000, 600)]


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize(("at_first", "least"), RESERVES)
def test_a_fifth_of_the_time_is_kept_in_reserve_but_twelve_seconds_at_most(
    scene: Scene, every_call: str, at_first: int, least: int, begun: bool
) -> None:
    instance = scene.instance()
    delivery = deliver(running_event(instance), ScriptedContext(at_first, least - (not begun)))
    assert scene.sessions_of(instance) == [int(begun)]
    assert (scene.count() > 0) == begun
    assert delivery.error.startswith("1 deferred") != begun


ENDS = [0, *itertools.accumulate(map(len, ROUND_TRIPS))]  # calls begun after each round trip


@pytest.mark.parametrize("calls", ENDS)
@pytest.mark.parametrize("kind", ["event", *KINDS])
def test_time_runs_out_before_each_round_trip_in_turn(
    scene: Scene, every_call: str, clock: Clock, kind: str, calls: int
) -> None:
    """An event is raised and an SQS message is named; a sweep is neither, since the next one goes
    on from there. Delivered again, all are completed."""
    instance = scene.instance()
    names = (instance, scene.first_interface(instance))  # an interface, once it is known
    event = running_event(instance) if kind == "event" else KINDS[kind]([instance])
    context = LambdaContext(60, clock=lambda: 0.0 if scene.count() < calls or not calls else 48.1)
    if not calls:
        context = ScriptedContext(60_000, 11_999)
    delivery = deliver(event, context)
    done = calls == ENDS[-1]
    assert (scene.count(), scene.sessions_of(instance)) == (calls, [int(done)])
    if kind == "SQS batch":
        assert delivery.again == ([] if done else [0])
    elif kind == "sweep":
        assert delivery.answer.status == 200
        assert ("deferred" in delivery.answer.summary) != done
    elif not done:
        named = [name for name in names if name in delivery.error]
        assert (missing(delivery.error, "1 deferred", "time"), bool(named)) == ([], True)
    assert deliver(event).complete
    assert scene.sessions_of(instance) == [1]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_created_before_time_ran_out_stays_and_the_rest_follows(
    scene: Scene, every_call: str, clock: Clock, kind: str
) -> None:
    instances = scene.instances(25)
    event = KINDS[kind](instances)
    scene.take_time(clock, 5, CREATE)
    left = len(instances)
    while left:
        delivery = deliver(event, LambdaContext(60, clock=clock))
        # Ten creates are under way when time begins to pass, so some are done and some are not.
        done = scene.sessions_of(*instances)
        assert done.count(0) < left
        left = done.count(0)
        if kind == "SQS batch":
            assert delivery.again == [at for at, sessions in enumerate(done) if not sessions]
        elif kind == "sweep":
            answer = delivery.answer
            deferred = [entry for entry in answer.interfaces if entry["outcome"] == "deferred"]
            assert (answer.status, [entry["sensors"] for entry in deferred]) == (200, [[]] * left)
            assert answer.summary.get("deferred", 0) == left
        elif left:
            assert delivery.error.startswith(f"{left} deferred")
            named = [scene.first_interface(instance) in delivery.error for instance in instances]
            assert named == [not sessions for sessions in done]
    assert done == [1] * len(instances)


@pytest.mark.parametrize("kind", ["instance-ids", "sweep"])
def test_failed_and_deferred_are_counted_and_named_but_a_sweep_raises_for_the_failed_alone(
    scene: Scene, every_call: str, clock: Clock, kind: str
) -> None:
    instances = scene.instances(12)
    scene.take_time(clock, 60, CREATE)
    scene.deny("ec2:CreateTags")
    error = deliver(KINDS[kind](instances), LambdaContext(60, clock=clock)).error
    named = sum(scene.first_interface(instance) in error for instance in instances)
    failed = scene.count(CREATE)
    assert 0 < failed < 12
    counts = f"{failed} failed" + ("" if kind == "sweep" else f", {12 - failed} deferred")
    assert (error.partition(".")[0], named) == (counts, failed if kind == "sweep" else 12)


# Seconds that are left at the first look, and how many looks they are enough for: each pause takes
# one, and the reserve of twelve is not touched.
WAITS = [(14.1, 3), (13.1, 2), (12.1, 1)]


@pytest.mark.parametrize("call", [INSTANCES, CREATE], ids=["unknown", "refused"])
@pytest.mark.parametrize(("seconds_left", "looks"), WAITS)
def test_what_may_show_in_a_second_is_not_waited_for_beyond_the_reserve(
    scene: Scene, every_call: str, clock: Clock, call: str, seconds_left: float, looks: int
) -> None:
    """An instance that EC2 does not know yet, and an interface for which another invocation was
    faster, whose session shows late."""
    instance = scene.instance()
    interface = scene.first_interface(instance)
    scene.unknown_instances = {instance: 2} if call == INSTANCES else {}

    def gate(called: str, parameters: dict[str, Any]) -> None:
        if called == call and scene.count(call) == 1:
            clock.advance(60 - seconds_left)
            if call == CREATE:
                scene.session(interface, every_call, lag=min(looks, 2))

    scene.gates.append(gate)
    context = LambdaContext(60, clock=clock)
    delivery = deliver(running_event(instance), context)
    assert context.get_remaining_time_in_millis() >= 12_000
    if looks == 3:
        assert delivery.answer.outcomes == ["created" if call == INSTANCES else "exists"]
    else:
        name = instance if call == INSTANCES else interface
        assert delivery.error.startswith(f"1 deferred. {name}: ")
    if call == CREATE:
        assert scene.count(SESSIONS) == 1 + looks  # one reading at the start
    elif looks < 3:
        assert scene.count(INSTANCES) == looks


@pytest.mark.parametrize("context", [None, SimpleNamespace(aws_request_id="a-request")])
def test_without_a_clock_there_is_no_deadline(
    scene: Scene, every_call: str, context: object
) -> None:
    instance = scene.instance()
    scene.unknown_instances[instance] = 1  # so that it is waited for
    result = lambda_handler(running_event(instance), context)
    assert answer_of(result).outcomes == ["created"]


# --- botocore's further attempts


@pytest.mark.parametrize(
    ("call", "fault"), [(PREFIX_LIST, "no answer"), (CREATE, "no answer"), (CREATE, "throttled")]
)
def test_no_attempt_is_begun_in_the_reserve(
    scene: Scene, every_call: str, clock: Clock, call: str, fault: str
) -> None:
    """Otherwise Lambda ends the invocation in the middle, and it reports nothing. What the last
    attempt came to stands: a create without an answer is failed, not deferred."""
    context = LambdaContext(60, clock=clock)
    left_at_attempts: list[int] = []
    scene.gates.append(lambda *_: left_at_attempts.append(context.get_remaining_time_in_millis()))
    scene.take_time(clock, 15, call)
    FAULTS[fault](scene, call)
    error = deliver(running_event(scene.instance()), context).error
    assert missing(error, "1 failed", FAULTS[fault].code) == []
    assert min(left_at_attempts) >= 12_000


# Seconds at the start, and for how many attempts they are enough where botocore pauses as long as
# it may: 1, 2, 4 and 8 s.
BACKOFFS = {60: 5, 20: 5, 10: 4, 1: 1}


@pytest.mark.parametrize("fault", ["throttled", "no answer"])
@pytest.mark.parametrize(("seconds", "attempts"), BACKOFFS.items())
def test_a_pause_that_could_end_in_the_reserve_is_not_begun(
    scene: Scene,
    every_call: str,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    seconds: int,
    attempts: int,
    fault: str,
) -> None:
    monkeypatch.setattr(
        "botocore.retries.standard.ExponentialBackoff.delay_amount",
        lambda _, context: min(2 ** (context.attempt_number - 1), 20),
    )
    FAULTS[fault](scene, INSTANCES)
    context = LambdaContext(seconds, clock=clock)
    error = deliver(running_event(scene.instance()), context).error
    assert missing(error, "1 failed", FAULTS[fault].code) == []
    assert scene.count(INSTANCES) == attempts
    assert context.get_remaining_time_in_millis() >= min(12_000, 200 * seconds)


def test_the_handler_really_returns_before_the_time_ends(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With botocore's own pauses, on the clock of the machine, and no thread is left."""
    monkeypatch.undo()  # the client and the sleep of the other tests
    scene.configure(scene.sensor())
    FAULTS["throttled"](scene, "*")
    before = threading.enumerate()
    context = LambdaContext(3)
    assert len(deliver(sqs_event(*map(running_event, scene.instances(3))), context).again) == 3
    assert context.get_remaining_time_in_millis() > 0
    assert threading.enumerate() == before


# --- Judging


@pytest.mark.parametrize("sessions", [False, True], ids=["new ones", "with a session"])
def test_no_further_interface_is_judged_in_the_reserve(
    scene: Scene, sensor: str, caplog: pytest.LogCaptureFixture, sessions: bool
) -> None:
    """In a sweep there is nothing to do but to judge. Each look at the clock takes a second here,
    so there is time for 48 before the reserve begins."""
    caplog.set_level("DEBUG", "lambda_traffic_mirror")
    (scene.mirrored(sensor, 75) if sessions else scene.instances(75))
    looks = itertools.count()
    event = scheduled_event() | {"dry_run": True}
    deliver(event, LambdaContext(60, clock=lambda: float(next(looks))))
    outcomes = Counter(r.outcome for r in caplog.records if getattr(r, "interface_id", None))
    assert 0 < outcomes["exists" if sessions else "planned"] <= 48
    assert outcomes["deferred"] > 0
