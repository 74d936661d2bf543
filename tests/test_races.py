"""Exactly one session per interface, whoever else is at work: the same event delivered in turn and
at once, events that race with each other and with a sweep, sessions that become visible late.

The losers of a race report `exists`. Two deliveries of one event that come to the same choice share
a ClientToken, so that both may report the one session as `created`.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from aws import running_event, scheduled_event
from calls import CREATE, FAULTS, SESSIONS
from conftest import KINDS, Answer, Clock, Scene, deliver, missing

Event = dict[str, Any]

pytestmark = pytest.mark.usefixtures("shared_client", "clock")


@pytest.fixture
def sensors(scene: Scene) -> list[str]:
    """Four sensors that can take everything there is."""
    targets = [scene.sensor(quota=10_000) for _ in range(4)]
    scene.configure(targets)
    return targets


def check_reports(
    scene: Scene, answers: Sequence[Answer], interface_ids: Sequence[str]
) -> dict[str, Counter[str]]:
    """Every invocation reports the one session of each interface. The outcomes, by interface."""
    outcomes: dict[str, Counter[str]] = {key: Counter() for key in interface_ids}
    sessions = {key: scene.sessions(interface_id=key) for key in interface_ids}
    for entry in [entry for answer in answers for entry in answer.interfaces]:
        if entry["interface_id"] in interface_ids:
            (session,) = sessions[entry["interface_id"]]
            assert entry["session_id"] == session["TrafficMirrorSessionId"]
            assert entry["target_id"] == session["TrafficMirrorTargetId"]
            outcomes[entry["interface_id"]][entry["outcome"]] += 1
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


def test_the_same_token_brings_the_same_session_however_late_it_shows(
    scene: Scene, sensors: list[str]
) -> None:
    instance = scene.instance()
    scene.session_lag = 5
    answers = [scene.run(running_event(instance, "same")) for _ in range(2)]
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


# --- At once


def decide_before_anyone_creates(scene: Scene, invocations: Counter[str]) -> None:
    """So many invocations come to their create for each interface before any session is there."""
    together = {key: threading.Barrier(count) for key, count in invocations.items()}
    lock = threading.Lock()

    def gate(call: str, parameters: dict[str, Any]) -> None:
        if call == CREATE:
            interface = parameters["NetworkInterfaceId"]
            with lock:
                invocations[interface] -= 1
                first = invocations[interface] >= 0  # of this invocation; others are tried again
            if first:
                together[interface].wait(30)

    scene.gates.append(gate)


def count_differently(scene: Scene, sensors: Sequence[str]) -> None:
    """Each reader of the sessions finds another sensor with the fewest: the one that was the best
    is made the worst before the next reader comes."""
    lock = threading.Lock()

    def gate(call: str, parameters: dict[str, Any]) -> None:
        if call == SESSIONS:
            with lock:
                counts = {key: len(scene.sessions(target_id=key)) for key in sensors}
                best = min(sensors, key=counts.__getitem__)
                scene._load(best, max(counts.values()) - counts[best] + 1)

    scene.gates.append(gate)


# Events that are delivered at once, of an instance, and how many of them are sweeps.
RACES: dict[str, tuple[Callable[[str], list[Event]], int]] = {
    "twenty deliveries of one event": (lambda i: [running_event(i, "same")] * 20, 0),
    "twenty events of one instance": (lambda i: [running_event(i) for _ in range(20)], 0),
    "one event twice and a sweep": (
        lambda i: [*[running_event(i, "same")] * 2, scheduled_event()],
        1,
    ),
    "two events and a sweep": (
        lambda i: [running_event(i), running_event(i), scheduled_event()],
        1,
    ),
    "two sweeps": (lambda i: [scheduled_event(), scheduled_event()], 2),
}


@pytest.mark.parametrize(("events", "sweeps"), RACES.values(), ids=RACES.keys())
def test_invocations_at_once_make_one_session_for_each_interface(
    scene: Scene,
    sensors: list[str],
    events: Callable[[str], list[Event]],
    sweeps: int,
) -> None:
    instance, *others = scene.instances(3, interfaces=2)
    at_once = events(instance)
    racing = Counter(dict.fromkeys(scene.interfaces_of(instance), len(at_once)))
    if sweeps:
        racing.update(dict.fromkeys(all_interfaces(scene, others), sweeps))
    decide_before_anyone_creates(scene, racing.copy())
    count_differently(scene, sensors)
    with ThreadPoolExecutor(len(at_once)) as invocations:
        answers = [delivery.answer for delivery in invocations.map(deliver, at_once)]

    same = len({event["id"] for event in at_once}) < len(at_once)
    for interface, outcomes in check_reports(scene, answers, list(racing)).items():
        assert outcomes["created"] == 1 or (same and outcomes["created"])
        assert outcomes["created"] + outcomes["exists"] == racing[interface]
    creates = [call.parameters for call in scene.calls if call.operation == CREATE]
    choices = {call["TrafficMirrorTargetId"] for call in creates}
    assert len(choices) >= min(len(sensors), len(at_once))
    if same and not sweeps:
        # The same token goes with the same choice, and another choice has another token.
        tokens = {(c["NetworkInterfaceId"], c["TrafficMirrorTargetId"]) for c in creates}
        assert len({call["ClientToken"] for call in creates}) == len(tokens)
    assert all(answer.status == 200 for answer in answers)


# --- Another invocation was faster


@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_refused_interfaces_are_looked_up_together(
    scene: Scene, sensors: list[str], clock: Clock, kind: str
) -> None:
    instances = scene.instances(100)
    another_is_faster(scene, all_interfaces(scene, instances), sensors, lag=2)
    event = KINDS[kind](instances)
    scene.forget_calls()
    delivery = deliver(event)
    if kind == "SQS batch":
        assert delivery.again == []
    else:
        assert delivery.answer.summary["exists"] == 100
        assert "unmirrored" not in delivery.answer.summary
    # One reading at the start; one look, and a pause and a look for each look in vain.
    assert scene.count(SESSIONS) == 1 + 1 + 2
    assert clock.seconds == [1.0] * 2
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


def test_some_refused_interfaces_show_before_others(scene: Scene, sensors: list[str]) -> None:
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
def test_a_failed_look_for_the_session_of_a_faster_invocation_is_no_answer(
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
