"""A batch of SQS messages is worked on together, and its result names those messages that are to be
delivered again: the unreadable, and those with an instance that failed or was not reached.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from aws import LambdaContext, running_event, scheduled_event, sqs_event
from calls import CREATE, FAULTS, of_interface
from conftest import Clock, Scene, deliver

pytestmark = pytest.mark.usefixtures("quick")


def batch(*bodies: Mapping[str, Any] | str, context: object = None) -> list[int]:
    """Deliver a batch with these bodies; which of them are to be delivered again."""
    return deliver(sqs_event(*bodies), context).again


def outcomes(caplog: pytest.LogCaptureFixture) -> Counter[str]:
    """What the log says became of the interfaces: a batch's result does not say."""
    return Counter(record.outcome for record in caplog.records if hasattr(record, "outcome"))


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, logger="lambda_traffic_mirror")
    return caplog


def test_the_same_instance_twice_is_worked_on_once(
    scene: Scene, sensor: str, log: pytest.LogCaptureFixture
) -> None:
    first, second = scene.instances(2)
    event = running_event(first)
    bodies = [event, running_event(second), event, running_event(first)]
    bodies += [{"detail": {"instance-id": first}}, {"instance-ids": [second, first]}]
    assert batch(*bodies) == []
    assert scene.sessions_of(first, second) == [1, 1]
    assert scene.count(CREATE) == 2
    assert outcomes(log) == {"created": 2}


# --- What is named


# What else cannot be understood is in test_events.py.
UNREADABLE = ["", "null", "{}", '{"instance-ids": ["i-*"]}', "9" * 100_000, None, {"sweep": True}]


def test_an_unreadable_message_is_named_and_the_others_are_not(
    scene: Scene, sensor: str, log: pytest.LogCaptureFixture
) -> None:
    assert (batch("?", "[1]"), scene.count()) == ([0, 1], 0)  # they take no call
    before, after = scene.instances(2)
    event = sqs_event(running_event(before), *["{}"] * len(UNREADABLE), running_event(after))
    for record, body in zip(event["Records"][1:], UNREADABLE, strict=False):
        record["body"] = body
    assert deliver(event).again == [1, 2, 3, 4, 5, 6, 7]
    assert scene.sessions_of(before, after) == [1, 1]
    levels = [r.levelname for r in log.records if "unreadable" in r.getMessage()]
    assert levels == ["ERROR"] * (2 + len(UNREADABLE))


def test_only_the_messages_of_failed_instances_are_named(scene: Scene, sensor: str) -> None:
    """A message with several instances is named for one of them, an instance for one of its
    interfaces, and so is each message that asks for an instance that failed."""
    instances = [*scene.instances(2), scene.instance(interfaces=3), scene.instance()]
    bad = scene.interfaces_of(instances[2])[1]
    scene.fail(CREATE, where=of_interface(bad))
    bodies = [
        running_event(instances[0]),
        {"instance-ids": [instances[1], instances[2]]},
        running_event(instances[2]),
        running_event(instances[2], state="stopped"),
        running_event(instances[3]),
    ]
    assert batch(*bodies) == [1, 2]
    assert scene.sessions_of(*instances) == [1, 1, 1, 0, 1, 1]
    scene.heal()
    assert batch(bodies[1], bodies[2]) == []
    assert scene.sessions_of(*instances) == [1] * 6


def test_unmirrored_skipped_and_blocked_are_answers_and_no_failures(
    scene: Scene, log: pytest.LogCaptureFixture
) -> None:
    scene.unsupported_types.add("t2.micro")
    closed = scene.sensor(zone="c", groups=[scene.group()])
    scene.configure([scene.sensor(), closed])
    scene.mirrored(closed)
    instances = [
        scene.instance(zone="b"),
        "i-00000000000000000",
        scene.instance(instance_type="t2.micro"),
        scene.instance(),
    ]
    assert batch(*map(running_event, instances), scheduled_event()) == []
    assert outcomes(log) == {"unmirrored": 1, "skipped": 4, "created": 1, "blocked": 1}


def test_a_batch_never_raises_for_what_aws_does_not_answer(scene: Scene, sensor: str) -> None:
    FAULTS["throttled"](scene, "*")
    assert batch(*map(running_event, scene.instances(3)), scheduled_event()) == [0, 1, 2, 3]
    assert scene.sessions() == []


# --- Sweeps among the messages


def test_a_sweep_among_the_messages_looks_at_everything_once_and_is_named_for_what_failed(
    scene: Scene, sensor: str, log: pytest.LogCaptureFixture
) -> None:
    named, unnamed, bad = scene.instances(3)
    scene.fail(CREATE, where=of_interface(scene.first_interface(bad)))
    assert batch(running_event(named), scheduled_event(), {"sweep": True}) == [1, 2]
    assert scene.sessions_of(named, unnamed, bad) == [1, 1, 0]
    assert outcomes(log) == {"created": 2, "skipped": 1, "failed": 1}
    assert batch(running_event(bad), scheduled_event()) == [0]  # which is left to the event


# --- Dry runs among the messages


@pytest.mark.parametrize(
    ("dry", "real"),
    [("event", "event"), ("sweep", "sweep"), ("sweep", "event"), ("event", "sweep")],
)
@pytest.mark.parametrize("dry_first", [True, False])
def test_an_event_that_wants_an_instance_mirrored_beats_one_that_tries_it_out(
    scene: Scene, sensor: str, dry: str, real: str, dry_first: bool
) -> None:
    instance = scene.instance()
    events = {"event": running_event(instance), "sweep": scheduled_event()}
    bodies = [events[dry] | {"dry_run": True}, events[real]]
    assert batch(*(bodies if dry_first else reversed(bodies))) == []
    assert scene.sessions_of(instance) == [1]


@pytest.mark.parametrize("kind", ["event", "sweep"])
def test_a_dry_run_message_creates_nothing_and_the_others_do(
    scene: Scene, sensor: str, log: pytest.LogCaptureFixture, kind: str
) -> None:
    tried, wanted = scene.instances(2)
    dry = running_event(tried) if kind == "event" else scheduled_event()
    assert batch(dry | {"dry_run": True}, running_event(wanted)) == []
    assert scene.sessions_of(tried, wanted) == [0, 1]
    assert (outcomes(log)["planned"], outcomes(log)["created"]) == (1, 1)


# --- Time


def test_a_sweep_that_runs_out_of_time_is_named_too(
    scene: Scene, sensor: str, clock: Clock
) -> None:
    scene.take_time(clock, 10, CREATE)
    instances = scene.instances(15)
    bodies = [running_event(instances[0]), scheduled_event()]
    assert batch(*bodies, context=LambdaContext(60, clock=clock)) == [1]
    while batch(bodies[1], context=LambdaContext(60, clock=clock)):
        pass
    assert scene.sessions_of(*instances) == [1] * 15
