"""Creates go out together: at most ten at a time, in rounds of at most a hundred.

Whatever becomes of some of them, the others come to their usual outcome. Which interface gets the
last place of a target may vary from run to run, how many get one may not.
"""

from __future__ import annotations

import itertools
import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from math import ceil
from typing import Any

import pytest
from aws import LambdaContext, Refusal, running_event, scheduled_event, sqs_event
from botocore.exceptions import ReadTimeoutError
from calls import CREATE
from conftest import Clock, Scene, Sleeps, deliver

AT_ONCE = 10
ROUND = 100
# What one event reads, nothing cached; calls of one group go out together.
READS = [3, 1, 3]

a_round_and_more = pytest.mark.parametrize("count", [25, 120])


@pytest.fixture(autouse=True)
def warm_and_quick(shared_client: None, no_sleep: Sleeps) -> None:
    """The client is there and sends each call once; nobody sleeps."""


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Whatever a test does, the threads that the function has begun are over when it returns."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


class Batch:
    """As many instances, and one delivery of them as SQS messages."""

    def __init__(
        self, account: Scene, caplog: pytest.LogCaptureFixture, instances: Sequence[str]
    ) -> None:
        self.account, self.caplog = account, caplog
        self.instances = list(instances)
        self.interfaces = [account.first_interface(instance) for instance in instances]
        self.event = sqs_event(*map(running_event, instances))
        self.again: list[int] = []

    def deliver(self, context: object = None) -> dict[str, str]:
        """What becomes of each interface, as the log says."""
        self.caplog.clear()
        self.caplog.set_level(logging.DEBUG, "lambda_traffic_mirror")
        before = set(threading.enumerate())
        self.again = deliver(self.event, context).again
        assert set(threading.enumerate()) <= before
        logged = [
            (record.interface_id or record.instance_id, record.outcome)
            for record in self.caplog.records
            if hasattr(record, "outcome")
        ]
        outcomes = dict(logged)
        assert len(outcomes) == len(logged)  # each is logged once
        failed = {key for key, outcome in outcomes.items() if outcome in ("failed", "deferred")}
        named = {self.interfaces[index] for index in self.again}
        assert named | {self.instances[index] for index in self.again} >= failed
        assert len(named) == len(failed)
        return outcomes

    def counts(self, context: object = None) -> dict[str, int]:
        """How many come to each outcome; the sessions that there are have been reported."""
        outcomes = self.deliver(context)
        counts = Counter(outcomes.values())
        assert sum(counts.values()) == len(self.instances)
        for interface, outcome in outcomes.items():
            if outcome in ("created", "unmirrored", "skipped"):
                found = len(self.account.sessions(interface_id=interface))
                assert (interface, found) == (interface, int(outcome == "created"))
        return dict(counts)

    def at(self, positions: Iterable[int]) -> set[str]:
        return {self.interfaces[index] for index in positions if index < len(self.interfaces)}


@pytest.fixture
def batch(scene: Scene, caplog: pytest.LogCaptureFixture) -> Batches:
    return lambda count: Batch(scene, caplog, scene.instances(count))


Batches = Callable[[int], Batch]


class Gate:
    """Does something to creates: `act` is called with the parameters and how often this
    interface's create has been sent before."""

    def __init__(self, account: Scene, act: Callable[[dict[str, Any], int], object]) -> None:
        self.act = act
        self.sent: Counter[str] = Counter()
        self.parameters: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        account.gates.append(self)

    def __call__(self, operation: str, parameters: dict[str, Any]) -> None:
        if operation != CREATE:
            return
        with self.lock:
            before = self.sent[parameters["NetworkInterfaceId"]]
            self.sent[parameters["NetworkInterfaceId"]] += 1
            self.parameters.append(parameters)
        self.act(parameters, before)


def lost(*_: object) -> None:
    """No answer arrives, and nothing was carried out."""
    raise ReadTimeoutError(endpoint_url="https://ec2.us-east-1.amazonaws.com/", error="simulated")


def refusing(code: str, status: int = 400) -> Callable[..., None]:
    def refuse(*_: object) -> None:
        raise Refusal(code, status=status)

    return refuse


broken, throttled = refusing("InternalError", 500), refusing("RequestLimitExceeded", 503)
denied, refused = refusing("UnauthorizedOperation", 403), refusing("SomethingNew")


# --------------------------------------------------------------------------------------
# How many go out together
# --------------------------------------------------------------------------------------


def most_at_a_time(account: Scene) -> int:
    """How many creates were under way at a time."""
    spans = [(c.started, c.ended or c.started) for c in account.calls if c.operation == CREATE]
    changes = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    return max(accumulate(change for _, change in changes))


@pytest.mark.parametrize("count", [3, 25])
def test_ten_creates_are_under_way_at_a_time_and_no_more(
    scene: Scene, batch: Batches, count: int
) -> None:
    scene.configure(scene.sensor(quota=1_000))
    Gate(scene, lambda *_: threading.Event().wait(0.1))
    assert batch(count).counts() == {"created": count}
    assert most_at_a_time(scene) == min(count, AT_ONCE)


def test_a_sweep_creates_in_rounds_too(scene: Scene) -> None:
    scene.configure(scene.sensor(quota=1_000))
    scene.instances(35)
    Gate(scene, lambda *_: threading.Event().wait(0.1))
    assert scene.run(scheduled_event()).body["summary"] == {"created": 35, "skipped": 1}
    assert most_at_a_time(scene) == AT_ONCE


class Together:
    """Lets calls through in these groups only: each is held until all of its group have begun.

    Calls that do not go out together wait for each other in vain, so a run that comes to its end
    has shown that they do.
    """

    def __init__(self, account: Scene, sizes: Sequence[int]) -> None:
        self.ends = list(accumulate(sizes))
        self.begun = 0
        self.changed = threading.Condition()
        account.forget_calls()
        account.gates.append(self)

    def __call__(self, operation: str, parameters: dict[str, Any]) -> None:
        with self.changed:
            self.begun += 1
            self.changed.notify_all()
            end = next((end for end in self.ends if end >= self.begun), 0)
            if not self.changed.wait_for(lambda: self.begun >= end, timeout=3):
                raise AssertionError(f"Call {self.begun}, {operation}, goes out alone.")


@pytest.mark.parametrize("count", [1, 10, 11, 101])
def test_a_batch_takes_three_round_trips_and_one_for_ten_creates(
    scene: Scene, batch: Batches, count: int
) -> None:
    scene.configure(scene.sensor(scene.subnet(), quota=1_000))
    instances = batch(count)
    rounds = [AT_ONCE] * (count // AT_ONCE) + [count % AT_ONCE] * (count % AT_ONCE > 0)
    together = Together(scene, [*READS, *rounds])
    assert instances.counts() == {"created": count}
    assert together.begun == scene.count() == sum(READS) + count
    assert scene.round_trips() == len(READS) + ceil(count / AT_ONCE)


def test_a_round_is_the_first_hundred_that_wait(scene: Scene, batch: Batches) -> None:
    """All of the first are throttled. With one that is created they would be sent once more."""
    scene.configure(scene.sensor(quota=1_000))
    instances = batch(120)
    first = instances.at(range(ROUND))
    gate = Gate(scene, lambda sent, _: sent["NetworkInterfaceId"] in first and throttled())
    assert instances.counts() == {"failed": ROUND, "created": 20}
    assert {gate.sent[key] for key in first} == {1}


def test_the_result_keeps_the_order_of_the_event_whoever_waits(scene: Scene) -> None:
    scene.configure([scene.sensor(quota=3), scene.sensor(sessions=2, quota=100)])
    instances = scene.instances(30)
    random.Random(1).shuffle(instances)
    entries = scene.run({"instance-ids": instances}).interfaces
    assert [entry["instance_id"] for entry in entries] == instances


# --------------------------------------------------------------------------------------
# Each choice counts at once
# --------------------------------------------------------------------------------------


@a_round_and_more
def test_equal_sensors_get_equally_many(scene: Scene, batch: Batches, count: int) -> None:
    targets = [scene.sensor(quota=1_000) for _ in range(3)]
    scene.configure(targets)
    batch(count).deliver()
    counts = sorted(len(scene.sessions(target_id=target)) for target in targets)
    assert (sum(counts), counts[-1] - counts[0] <= 1) == (count, True)


def test_those_with_fewer_sessions_are_filled_up_first(scene: Scene, batch: Batches) -> None:
    targets = [scene.sensor(quota=1_000, sessions=number) for number in (0, 7, 30)]
    scene.configure(targets)
    batch(33).deliver()
    assert [len(scene.sessions(target_id=target)) for target in targets] == [20, 20, 30]


@a_round_and_more
def test_what_is_created_is_what_a_dry_run_has_planned(scene: Scene, count: int) -> None:
    scene.configure([scene.sensor(quota=1_000, sessions=number) for number in (0, 1, 1, 5)])
    event = {"instance-ids": scene.instances(count)}
    planned, created = (
        [(entry["interface_id"], entry["target_id"], entry["session_name"]) for entry in entries]
        for entries in (
            scene.run(event | {"dry_run": True}).interfaces,
            scene.run(event).interfaces,
        )
    )
    assert planned == created


def test_what_failed_goes_on_counting(scene: Scene, batch: Batches) -> None:
    """Otherwise those of the second round would all go where those of the first have failed."""
    bad, good = scene.sensor(quota=1_000), scene.sensor(quota=1_000)
    scene.configure([bad, good])
    Gate(scene, lambda sent, _: sent["TrafficMirrorTargetId"] == bad and denied())
    assert batch(150).counts() == {"created": 75, "failed": 75}


def test_what_a_target_was_refused_for_counts_no_more(scene: Scene, batch: Batches) -> None:
    """Of three, the full one is chosen for a third; the two others share them in the end."""
    full, *others = [scene.sensor(quota=quota) for quota in (0, 1_000, 1_000)]
    scene.configure([full, *others])
    assert batch(90).counts() == {"created": 90}
    assert [len(scene.sessions(target_id=target)) for target in others] == [45, 45]


# Code and status at the first create of a page of five, and the sessions that the next page counts.
FIRST_CREATES: dict[str, tuple[str, int, int]] = {
    "throttled, so that it waits": ("RequestLimitExceeded", 503, 5),
    "lost, so that it is sent again": ("InternalError", 500, 5),
    "of an interface that EC2 does not know yet": ("InvalidNetworkInterfaceID.NotFound", 400, 5),
    "refused": ("SomethingNew", 400, 4),
}


@pytest.mark.parametrize(
    ("code", "status", "counted"), FIRST_CREATES.values(), ids=FIRST_CREATES.keys()
)
def test_the_next_page_of_a_sweep_counts_what_came_of_a_create_that_was(
    scene: Scene, code: str, status: int, counted: int
) -> None:
    scene.configure(scene.sensor(quota=1_000, attached=False))
    scene.instances(6)
    scene.show_pages_of(5)
    scene.fail(CREATE, code, status=status, times=1)
    rows = [row for entry in scene.run(scheduled_event()).interfaces for row in entry["sensors"]]
    assert max(row["sessions"] for row in rows) == counted


def test_a_session_of_somebody_faster_counts_for_the_target_that_it_goes_to(scene: Scene) -> None:
    idle, busy = scene.sensor(quota=100), scene.sensor(quota=100, sessions=10)
    scene.configure([idle, busy])
    instances = scene.instances(ROUND + 1)
    first = scene.first_interface(instances[0])

    def act(sent: dict[str, Any], _: int) -> None:
        if sent["NetworkInterfaceId"] == first:
            scene.session(first, busy, number=9)
            lost()

    Gate(scene, act)
    sensors = scene.run({"instance-ids": instances}).interfaces[-1]["sensors"]
    assert [row["sessions"] for row in sensors] == [54, 56]


def test_who_has_no_sensor_is_told_so_after_a_total_refusal(scene: Scene) -> None:
    scene.configure(scene.sensor())
    scene.fail(CREATE, "TrafficMirrorSessionLimitExceeded", status=400)
    instances = [*scene.instances(ROUND), scene.instance(zone="b")]
    last = scene.run({"instance-ids": instances}).interfaces[-1]
    assert (last["outcome"], last["sensors"][0]["stage"]) == ("unmirrored", "zone")


# --------------------------------------------------------------------------------------
# Targets that are refused
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "room"), [(3, 1), (25, 0), (25, 4), (25, 30), (120, 30)])
def test_a_target_takes_as_many_as_it_has_room_for_and_the_next_one_the_rest(
    scene: Scene, batch: Batches, count: int, room: int
) -> None:
    """With room for one the second create is refused, with room for four the fifth."""
    small, large = scene.sensor(quota=room), scene.sensor(quota=2_000, sessions=1_000)
    scene.configure([small, large])
    assert batch(count).counts() == {"created": count}
    assert len(scene.sessions(target_id=small)) == min(room, count)


@pytest.mark.parametrize("seed", range(4))
def test_how_many_get_a_place_does_not_depend_on_who_comes_first(
    scene: Scene, batch: Batches, seed: int
) -> None:
    rng = random.Random(seed)
    rooms = [rng.choice([0, 1, 2, 5, 11, 40]) for _ in range(rng.randint(1, 6))]
    targets = [scene.sensor(quota=room) for room in rooms]
    scene.configure(targets)
    count = rng.choice([3, 17, 60, 120])
    pauses = {key: rng.random() / 200 for key in targets}
    Gate(scene, lambda sent, _: threading.Event().wait(pauses[sent["TrafficMirrorTargetId"]]))
    wanted = Counter({"created": min(count, sum(rooms))})
    wanted["unmirrored"] = count - wanted["created"]
    assert batch(count).counts() == dict(+wanted)
    found = [len(scene.sessions(target_id=target)) for target in targets]
    assert all(number <= room for number, room in zip(found, rooms, strict=True))


@a_round_and_more
def test_targets_are_tried_to_the_last(scene: Scene, batch: Batches, count: int) -> None:
    full = [scene.sensor(quota=0, sessions=number) for number in range(5)]
    last = scene.sensor(quota=1_000, sessions=200)
    scene.configure([*full, last])
    assert batch(count).counts() == {"created": count}
    assert len(scene.sessions(target_id=last)) == 200 + count


@pytest.mark.parametrize("count", [3, 120])
def test_when_all_are_full_each_interface_is_told_of_all(scene: Scene, count: int) -> None:
    targets = [scene.sensor(quota=0, sessions=number) for number in range(3)]
    scene.configure(targets)
    answer = scene.run({"instance-ids": scene.instances(count)})
    assert answer.outcomes == ["unmirrored"] * count
    stages = {(row["verdict"], row["stage"]) for e in answer.interfaces for row in e["sensors"]}
    assert stages == {("rejected", "create")}
    # Each of the three is known to be full once the first of those under way has come back.
    assert 3 <= scene.count(CREATE) <= 3 * AT_ONCE


def test_who_can_go_elsewhere_does_and_who_cannot_is_unmirrored(
    scene: Scene, batch: Batches
) -> None:
    """Only some of the interfaces are let in by the second sensor."""
    full = scene.sensor(quota=5)
    other = scene.sensor(zone="b", quota=100, sessions=50)
    scene.configure([full, other], LOCAL_ZONE_ONLY="true")
    here, there = scene.instances(20), scene.instances(20, zone="b")
    answer = scene.run(
        {"instance-ids": [i for pair in zip(here, there, strict=True) for i in pair]}
    )
    outcomes = {entry["instance_id"]: entry["outcome"] for entry in answer.interfaces}
    assert Counter(outcomes[instance] for instance in here) == {"created": 5, "unmirrored": 15}
    assert Counter(outcomes[instance] for instance in there) == {"created": 20}


# --------------------------------------------------------------------------------------
# Types, and everything
# --------------------------------------------------------------------------------------

# Which of a batch it happens to.
WHICH: dict[str, Callable[[int], list[int]]] = {
    "the first": lambda count: [0],
    "the last": lambda count: [count - 1],
    "every third": lambda count: list(range(0, count, 3)),
    "all": lambda count: list(range(count)),
}
CASES = [
    (3, "all"),
    *((25, which) for which in ("the first", "the last", "every third", "all")),
    (120, "every third"),
]
whichever = pytest.mark.parametrize(("count", "which"), CASES)
few_of_a_kind = pytest.mark.parametrize(
    ("count", "which"), [(3, "all"), (25, "every third"), (120, "every third")]
)


@pytest.mark.parametrize(("count", "room"), [(3, 1), (25, 0), (25, 4), (25, 50), (120, 50)])
def test_a_full_account_takes_what_it_has_room_for(
    scene: Scene, batch: Batches, count: int, room: int
) -> None:
    scene.account_quota = room
    scene.configure([scene.sensor(quota=1_000), scene.sensor(quota=1_000)])
    wanted = Counter(created=min(room, count), unmirrored=count - min(room, count))
    assert batch(count).counts() == dict(+wanted)
    # What was under way when the first refusal came back, and nothing more.
    assert scene.count(CREATE) < room + AT_ONCE + 1


def test_after_a_total_refusal_what_is_on_its_way_comes_back(scene: Scene, batch: Batches) -> None:
    """The first create is refused at once; nine others are still under way, and are created."""
    scene.configure(scene.sensor(quota=1_000))
    instances = batch(25)
    under_way = threading.Barrier(AT_ONCE)
    is_refused = threading.Event()

    def act(parameters: dict[str, Any], before: int) -> None:
        under_way.wait(5)
        if parameters["NetworkInterfaceId"] == instances.interfaces[0]:
            is_refused.set()
            raise Refusal("TrafficMirrorSessionLimitExceeded")
        is_refused.wait(5)
        threading.Event().wait(0.05)

    Gate(scene, act)
    assert instances.counts() == {"created": 9, "unmirrored": 16}


# --------------------------------------------------------------------------------------
# No answer
# --------------------------------------------------------------------------------------

FAULTS: dict[str, Callable[..., None]] = {"timeout": lost, "5xx": broken, "denied": denied}


@pytest.mark.parametrize("fault", FAULTS)
@few_of_a_kind
def test_only_those_without_an_answer_are_failed(
    scene: Scene, batch: Batches, count: int, which: str, fault: str
) -> None:
    scene.configure([scene.sensor(quota=1_000), scene.sensor(quota=1_000)])
    instances = batch(count)
    unlucky = instances.at(WHICH[which](count))
    gate = Gate(scene, lambda sent, _: sent["NetworkInterfaceId"] in unlucky and FAULTS[fault]())
    outcomes = instances.deliver()
    assert {key for key, outcome in outcomes.items() if outcome == "failed"} == unlucky
    assert Counter(outcomes.values())["created"] == count - len(unlucky)
    # A lost one is sent once more; what is denied is denied.
    times = 1 if fault == "denied" else 2
    assert {gate.sent[key] for key in unlucky} <= {times}


@pytest.mark.parametrize("code", ["timeout", "InternalError"])
@few_of_a_kind
def test_a_lost_create_is_found_or_sent_once_more_with_the_same_token(
    scene: Scene, batch: Batches, count: int, which: str, code: str
) -> None:
    """Every other one of them was carried out."""
    scene.configure([scene.sensor(quota=1_000), scene.sensor(quota=1_000)])
    instances = batch(count)
    unlucky = instances.at(WHICH[which](count))
    carried_out = instances.at(WHICH[which](count)[::2])
    gate = Gate(
        scene,
        lambda sent, before: (
            sent["NetworkInterfaceId"] in unlucky - carried_out
            and not before
            and (lost() if code == "timeout" else broken())
        ),
    )

    def where(parameters: dict[str, Any]) -> bool:
        return parameters["NetworkInterfaceId"] in carried_out

    if code == "timeout":
        scene.time_out(CREATE, where=where, lose_answer=True)
    else:
        scene.fail(CREATE, code, status=500, where=where, lose_answer=True)
    assert instances.counts() == {"created": count}
    assert {gate.sent[key] for key in carried_out} <= {1}
    assert {gate.sent[key] for key in unlucky - carried_out} <= {2}
    tokens = {(p["NetworkInterfaceId"], p["ClientToken"]) for p in gate.parameters}
    assert len(tokens) == len(scene.sessions()) == count


@whichever
def test_a_throttled_create_waits_as_long_as_others_are_created(
    scene: Scene, batch: Batches, count: int, which: str
) -> None:
    """Throttled for good: it is sent again in the next rounds, until nothing else is created."""
    scene.configure([scene.sensor(quota=1_000), scene.sensor(quota=1_000)])
    instances = batch(count)
    unlucky = instances.at(WHICH[which](count))
    gate = Gate(scene, lambda sent, _: sent["NetworkInterfaceId"] in unlucky and throttled())
    outcomes = instances.deliver()
    assert {key for key, outcome in outcomes.items() if outcome == "failed"} == unlucky
    assert Counter(outcomes.values())["created"] == count - len(unlucky)
    if unlucky and len(unlucky) < count:
        assert min(gate.sent[key] for key in unlucky) >= 2
    if len(unlucky) == count:
        assert set(gate.sent.values()) == {1}


@pytest.mark.parametrize("times", [1, 2])
@a_round_and_more
def test_what_is_throttled_for_a_while_is_created_in_a_later_round(
    scene: Scene, batch: Batches, count: int, times: int
) -> None:
    """At first only one of three gets through, then two of three."""
    scene.configure([scene.sensor(quota=1_000), scene.sensor(quota=1_000)])
    instances = batch(count)
    patience = {key: index % 3 for index, key in enumerate(instances.interfaces)}
    gate = Gate(
        scene,
        lambda sent, before: (
            before < min(times, patience[sent["NetworkInterfaceId"]]) and throttled()
        ),
    )
    assert instances.counts() == {"created": count}
    assert max(gate.sent.values()) == 1 + times


# --------------------------------------------------------------------------------------
# Final refusals
# --------------------------------------------------------------------------------------


@whichever
def test_those_that_are_refused_are_looked_up_together_when_the_others_are_done(
    scene: Scene, batch: Batches, count: int, which: str
) -> None:
    """Of two that are refused one has a session by then."""
    target = scene.sensor(quota=1_000)
    scene.configure(target)
    instances = batch(count)
    unlucky = sorted(instances.at(WHICH[which](count)))
    rivals = set(unlucky[::2])

    def act(sent: dict[str, Any], before: int) -> None:
        if sent["NetworkInterfaceId"] in rivals:
            scene.session(sent["NetworkInterfaceId"], target)
        elif sent["NetworkInterfaceId"] in unlucky:
            refused()

    Gate(scene, act)
    outcomes = instances.deliver()
    assert instances.again == []
    found = {
        name: {key for key, outcome in outcomes.items() if outcome == name}
        for name in ("exists", "unmirrored")
    }
    assert found == {"exists": rivals, "unmirrored": set(unlucky) - rivals}
    operations = [call.operation for call in scene.calls]
    looks = operations[len(operations) - operations[::-1].index(CREATE) :]
    wanted = (3 if set(unlucky) - rivals else 1) if unlucky else 0
    assert looks == ["DescribeTrafficMirrorSessions"] * wanted


# --------------------------------------------------------------------------------------
# Time runs out
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "number"), [(3, 2), (25, 1), (25, 11), (120, 5), (120, 11)])
def test_what_comes_back_in_the_reserve_counts_and_nothing_more_is_sent(
    scene: Scene, batch: Batches, clock: Clock, count: int, number: int
) -> None:
    scene.configure(scene.sensor(quota=1_000))
    instances = batch(count)
    context = LambdaContext(60, clock=clock)
    creates = itertools.count(1)

    def act(sent: dict[str, Any], before: int) -> None:
        if next(creates) == min(number, count):
            clock.advance(55)

    Gate(scene, act)
    counts = instances.counts(context)
    begun = scene.count(CREATE)
    assert counts == dict(+Counter(created=begun, deferred=count - begun))
    assert min(number, count) <= begun <= number - 1 + AT_ONCE
    assert len(scene.sessions()) == begun

    second = Counter(instances.deliver(LambdaContext(60, clock=clock)).values())
    assert second == +Counter(exists=begun, created=count - begun)
    assert len(scene.sessions()) == count


@pytest.mark.parametrize("fault", [lost, broken, throttled])
def test_what_is_lost_in_the_reserve_is_failed(
    scene: Scene, batch: Batches, clock: Clock, fault: Callable[[], None]
) -> None:
    scene.configure(scene.sensor(quota=1_000))
    instances = batch(25)

    def act(sent: dict[str, Any], before: int) -> None:
        clock.advance(55)
        fault()

    Gate(scene, act)
    counts = Counter(instances.deliver(LambdaContext(60, clock=clock)).values())
    assert set(counts) <= {"failed", "deferred"}
    assert (counts["failed"] >= 1, sum(counts.values()), len(instances.again)) == (True, 25, 25)
    assert scene.count(CREATE) <= AT_ONCE


# --------------------------------------------------------------------------------------
# All of it at once
# --------------------------------------------------------------------------------------


# What becomes of an interface, and what becomes of its creates, by its fate.
FATES: dict[str, tuple[str, Callable[..., None] | None]] = {
    "nothing": ("created", None),
    "carried out, and lost": ("created", None),
    "lost once": ("created", lost),
    "lost": ("failed", lost),
    "broken once": ("created", broken),
    "broken": ("failed", broken),
    "throttled once": ("created", throttled),
    "throttled": ("failed", throttled),
    "denied": ("failed", denied),
    "refused": ("unmirrored", refused),
    "another was faster": ("exists", None),
    "not supported": ("skipped", refusing("NetworkInterfaceNotSupported")),
    "a sensor of somebody's": ("skipped", refusing("InterfaceInUseByTrafficMirrorTarget")),
    "unknown once": ("created", refusing("InvalidNetworkInterfaceID.NotFound")),
    "unknown": ("failed", refusing("InvalidNetworkInterfaceID.NotFound")),
    "terminated": ("skipped", None),
}


class Fates:
    """Each interface of a batch has a fate of its own."""

    def __init__(self, account: Scene, batch: Batch, rng: random.Random) -> None:
        self.account, self.batch = account, batch
        kinds = list(FATES)
        weights = [len(kinds), *[1] * (len(kinds) - 1)]  # half of them have none
        self.of = {key: rng.choices(kinds, weights)[0] for key in batch.interfaces}
        self.instance_of = dict(zip(batch.interfaces, batch.instances, strict=True))
        self.pauses = itertools.cycle([rng.random() / 500 for _ in range(97)])
        self.lock = threading.Lock()
        account.time_out(
            CREATE,
            lose_answer=True,
            where=lambda sent: self.of[sent["NetworkInterfaceId"]] == "carried out, and lost",
        )
        Gate(account, self.strike)

    def strike(self, sent: dict[str, Any], before: int) -> None:
        interface = sent["NetworkInterfaceId"]
        with self.lock:
            pause = next(self.pauses)
        threading.Event().wait(pause)
        fate = self.of[interface]
        act = FATES[fate][1]
        if act and not (before and fate.endswith(" once")):
            act()
        if fate == "another was faster":
            self.account.session(interface, sent["TrafficMirrorTargetId"])
        if fate == "terminated" and not before:
            self.account.terminate(self.instance_of[interface])


@pytest.mark.parametrize("seed", range(6))
def test_each_comes_to_its_own_outcome_whatever_becomes_of_the_others(
    scene: Scene, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    rng = random.Random(seed)
    scene.configure([scene.sensor(quota=1_000) for _ in range(3)])
    # Each of a type of its own, so that none is set aside for another's sake.
    count = rng.choice([3, 10, 40, 120])
    instances = [scene.instance(instance_type=f"m{n}.large") for n in range(count)]
    batch = Batch(scene, caplog, instances)
    fates = Fates(scene, batch, rng)
    if set(fates.of.values()) & {"throttled once"}:
        fates.of[batch.interfaces[0]] = "nothing"
    outcomes = batch.deliver()
    wanted = {key: FATES[fate][0] for key, fate in fates.of.items()}
    # What is gone has no interface any more, perhaps.
    found = {
        key: outcomes.get(key, outcomes.get(fates.instance_of[key])) for key in batch.interfaces
    }
    assert found == wanted
    for interface, outcome in found.items():
        sessions = len(scene.sessions(interface_id=interface))
        assert (interface, sessions) == (interface, int(outcome in ("created", "exists")))
