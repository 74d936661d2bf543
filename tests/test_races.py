"""Exactly one session per interface, whoever else is at work: the same event delivered in turn and
at once, events that race with each other and with a sweep, sessions that become visible late.

The losers of a race report `exists`. Two deliveries of one event that come to the same choice share
a ClientToken, so that both may report the one session as `created`.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from aws import running_event, scheduled_event, sqs_event
from calls import CREATE, FAULTS, SESSIONS
from conftest import KINDS, Answer, Clock, Scene, deliver, missing

TWENTY = 20

pytestmark = pytest.mark.usefixtures("shared_client", "clock")


@pytest.fixture
def sensors(scene: Scene) -> list[str]:
    """Four sensors that can take everything there is."""
    targets = [scene.sensor(quota=10_000) for _ in range(4)]
    scene.configure(targets)
    return targets


def at_once(events: Sequence[dict[str, Any]]) -> list[Answer]:
    """Deliver each event to an invocation of its own, all at the same time."""
    start = threading.Barrier(len(events))

    def invoke(event: dict[str, Any]) -> Answer:
        start.wait(30)
        return deliver(event).answer

    with ThreadPoolExecutor(len(events)) as invocations:
        return list(invocations.map(invoke, events))


def decide_before_anyone_creates(
    scene: Scene, invocations: int, raced: Sequence[str] | None = None
) -> None:
    """Every invocation comes to its creates before any session is there: those for all interfaces,
    or for these."""
    together: dict[str, threading.Barrier] = {}
    arrived: Counter[str] = Counter()
    lock = threading.Lock()

    def gate(call: str, parameters: dict[str, Any]) -> None:
        if call != CREATE or (raced and parameters["NetworkInterfaceId"] not in raced):
            return
        # Creates of one invocation go out in several threads, each interface's once.
        interface = parameters["NetworkInterfaceId"]
        with lock:
            arrived[interface] += 1
            barrier = together.setdefault(interface, threading.Barrier(invocations))
            first = arrived[interface] <= invocations
        if first:
            barrier.wait(30)

    scene.gates.append(gate)


def count_differently(scene: Scene, sensors: Sequence[str]) -> None:
    """Each reader of the sessions finds another sensor with the fewest: the one that was the best
    is made the worst before the next reader comes."""
    lock = threading.Lock()

    def gate(call: str, parameters: dict[str, Any]) -> None:
        if call != SESSIONS:
            return
        with lock:
            counts = {key: len(scene.sessions(target_id=key)) for key in sensors}
            best = min(sensors, key=counts.__getitem__)
            scene._load(best, max(counts.values()) - counts[best] + 1)

    scene.gates.append(gate)


def check_reports(
    scene: Scene, answers: Sequence[Answer], interface_ids: Sequence[str]
) -> dict[str, Counter[str]]:
    """Every invocation reports the one session of each interface. The outcomes, by interface."""
    outcomes: dict[str, Counter[str]] = {}
    for interface_id in interface_ids:
        (session,) = scene.sessions(interface_id=interface_id)
        entries = [
            entry
            for answer in answers
            for entry in answer.interfaces
            if entry["interface_id"] == interface_id
        ]
        for entry in entries:
            assert entry["session_id"] == session["TrafficMirrorSessionId"]
            assert entry["target_id"] == session["TrafficMirrorTargetId"]
        outcomes[interface_id] = Counter(entry["outcome"] for entry in entries)
    return outcomes


def all_interfaces(scene: Scene, instance_ids: Sequence[str]) -> list[str]:
    return [key for instance in instance_ids for key in scene.interfaces_of(instance)]


# --- In turn


@pytest.mark.parametrize("event_ids", [("same", "same"), ("one", "other")])
def test_a_second_delivery_finds_the_session_of_each_interface(
    scene: Scene, sensors: list[str], event_ids: tuple[str, str]
) -> None:
    instance = scene.instance(interfaces=3)
    answers = [scene.run(running_event(instance, event_id)) for event_id in event_ids]
    assert [answer.outcomes for answer in answers] == [["created"] * 3, ["exists"] * 3]
    check_reports(scene, answers, scene.interfaces_of(instance))
    assert scene.count(CREATE) == 3


@pytest.mark.parametrize("lag", [1, 5])
def test_the_same_token_brings_the_same_session_however_late_it_shows(
    scene: Scene, lag: int
) -> None:
    scene.configure(scene.sensor())
    instance = scene.instance()
    scene.session_lag = lag
    event = running_event(instance)
    answers = [scene.run(event), scene.run(event)]
    assert [answer.outcomes for answer in answers] == [["created"], ["created"]]
    check_reports(scene, answers, scene.interfaces_of(instance))


def test_a_session_that_was_deleted_is_made_anew_for_a_new_event(
    scene: Scene, sensors: list[str]
) -> None:
    instance = scene.instance()
    first = scene.run(instance)
    scene.delete_session(first.entry["session_id"])
    second = scene.run(instance)
    assert second.outcomes == ["created"]
    assert second.entry["session_id"] != first.entry["session_id"]
    check_reports(scene, [second], scene.interfaces_of(instance))


# --- Twenty at once


@pytest.mark.parametrize("counts", ["same", "differing"])
@pytest.mark.parametrize("ids", ["same ID", "different IDs"])
def test_twenty_deliveries_at_once_make_one_session_for_each_interface(
    scene: Scene, sensors: list[str], ids: str, counts: str
) -> None:
    instance = scene.instance(interfaces=2)
    decide_before_anyone_creates(scene, TWENTY)
    if counts == "differing":
        count_differently(scene, sensors)
    event_id = "same" if ids == "same ID" else None
    answers = at_once([running_event(instance, event_id) for _ in range(TWENTY)])

    outcomes = check_reports(scene, answers, scene.interfaces_of(instance))
    for counted in outcomes.values():
        if ids == "same ID":
            assert counted["created"] >= 1
            assert counted["created"] + counted["exists"] == TWENTY
        else:
            assert counted == {"created": 1, "exists": TWENTY - 1}
    creates = [call.parameters for call in scene.calls if call.operation == CREATE]
    choices = {call["TrafficMirrorTargetId"] for call in creates}
    if counts == "differing":
        assert len(choices) == len(sensors)
    if ids == "same ID":
        # The same token goes with the same choice, and another choice has another token.
        tokens = {(c["NetworkInterfaceId"], c["TrafficMirrorTargetId"]) for c in creates}
        assert len({call["ClientToken"] for call in creates}) == len(tokens)
    assert all(answer.status == 200 for answer in answers)


def test_batches_at_once_that_overlap(scene: Scene, sensors: list[str]) -> None:
    """Each instance is in three of six batches, in another order in each."""
    instances = scene.instances(10)
    orders = [instances[start:] + instances[:start] for start in (0, 3, 7)]
    events = [running_event(instance) for instance in instances]
    by_instance = dict(zip(instances, events, strict=True))
    batches = [
        sqs_event(*(by_instance[instance] for instance in half))
        for order in orders
        for half in (order[:5], order[5:])
    ]
    scene.latency = 0.001
    with ThreadPoolExecutor(len(batches)) as invocations:
        deliveries = list(invocations.map(deliver, batches))
    assert [delivery.again for delivery in deliveries] == [[]] * len(batches)
    assert scene.sessions_of(*instances) == [1] * 10


# --- Events and a sweep


@pytest.mark.parametrize("ids", ["same ID", "different IDs"])
def test_two_events_race_with_a_sweep(scene: Scene, sensors: list[str], ids: str) -> None:
    instances = scene.instances(3, interfaces=2)
    decide_before_anyone_creates(scene, 3, scene.interfaces_of(instances[1]))
    count_differently(scene, sensors)
    event_id = "same" if ids == "same ID" else None
    events = [running_event(instances[1], event_id) for _ in range(2)]
    answers = at_once([*events, scheduled_event()])
    outcomes = check_reports(scene, answers, all_interfaces(scene, instances))
    for interface, counted in outcomes.items():
        raced = interface in scene.interfaces_of(instances[1])
        assert counted["created"] >= 1
        assert counted["created"] + counted["exists"] == (3 if raced else 1)
        assert counted["created"] == 1 or ids == "same ID"


def test_two_sweeps_race_with_each_other(scene: Scene, sensors: list[str]) -> None:
    instances = scene.instances(20)
    decide_before_anyone_creates(scene, 2)
    answers = at_once([scheduled_event(), scheduled_event()])
    outcomes = check_reports(scene, answers, all_interfaces(scene, instances))
    assert list(outcomes.values()) == [{"created": 1, "exists": 1}] * len(instances)


# --- Another invocation was faster


@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_refused_interfaces_are_looked_up_together(
    scene: Scene, sensors: list[str], clock: Clock, kind: str, lag: int
) -> None:
    instances = scene.instances(100)
    another_is_faster(scene, all_interfaces(scene, instances), sensors, lag)
    event = KINDS[kind](instances)
    scene.forget_calls()
    delivery = deliver(event)
    if kind == "SQS batch":
        assert delivery.again == []
    else:
        assert delivery.answer.summary["exists"] == 100
        assert "unmirrored" not in delivery.answer.summary
    # One reading at the start; one look, and a pause and a look for each look in vain.
    assert scene.count(SESSIONS) == 1 + 1 + lag
    assert clock.seconds == [1.0] * lag
    assert scene.sessions_of(*instances) == [1] * 100


def another_is_faster(
    scene: Scene, interfaces: Sequence[str], sensors: Sequence[str], lag: int
) -> None:
    """Sessions of these interfaces appear as soon as one is to be created."""
    first = itertools.count()

    def gate(call: str, parameters: dict[str, Any]) -> None:
        if call == CREATE and next(first) == 0:
            for interface in interfaces:
                scene.session(interface, sensors[0], lag=lag)

    scene.gates.append(gate)


def test_some_refused_interfaces_show_before_others(
    scene: Scene, sensors: list[str], clock: Clock
) -> None:
    instances = scene.instances(4)
    interfaces = all_interfaces(scene, instances)

    def gate(call: str, parameters: dict[str, Any]) -> None:
        if call == CREATE and parameters["NetworkInterfaceId"] != interfaces[0]:
            interface = parameters["NetworkInterfaceId"]
            scene.session(interface, sensors[0], lag=interfaces.index(interface))

    scene.gates.append(gate)
    answer = scene.run({"instance-ids": instances})
    assert answer.outcomes == ["created", "exists", "exists", "unmirrored"]
    looked_for = [
        set(call.parameters["Filters"][0]["Values"])
        for call in scene.calls
        if call.operation == SESSIONS and "Filters" in call.parameters
    ]
    assert looked_for == [set(interfaces[1:]), set(interfaces[1:]), set(interfaces[2:])]


@pytest.mark.parametrize("looks_that_fail", [1, 3])
def test_a_look_that_fails_is_no_answer(
    scene: Scene, sensors: list[str], looks_that_fail: int
) -> None:
    instance = scene.instance()
    (interface,) = scene.interfaces_of(instance)
    another_is_faster(scene, [interface], sensors, lag=0)
    FAULTS["denied"](scene, SESSIONS, after=1, times=looks_that_fail)
    delivery = deliver(running_event(instance))
    if looks_that_fail == 1:
        assert delivery.answer.outcomes == ["exists"]
    else:
        assert missing(delivery.error, "1 failed", interface, SESSIONS) == []
    scene.heal()
    assert scene.run(instance).outcomes == ["exists"]
    assert scene.sessions_of(instance) == [1]
