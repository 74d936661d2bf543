"""Creates go out together: at most ten at a time, in rounds of at most a hundred.

Whatever becomes of some of them, the others come to their usual outcome. Which interface gets the
last place of a target may vary from run to run, how many get one may not.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import pytest
from aws import Refusal, running_event, scheduled_event, sqs_event
from botocore.exceptions import ReadTimeoutError
from calls import CREATE, SESSIONS, of_interface
from conftest import Clock, Scene, deliver

import lambda_traffic_mirror as function

AT_ONCE = 10
ROUND = 100


pytestmark = pytest.mark.usefixtures("shared_client", "clock")  # which sends each call once


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

    def deliver(self, context: object = None) -> dict[str, str]:
        """What becomes of each interface, as the log says; what failed comes again, and what was
        created has its session."""
        self.caplog.clear()
        self.caplog.set_level(logging.DEBUG, "lambda_traffic_mirror")
        again = deliver(self.event, context).again
        logged = [
            (record.interface_id or record.instance_id, record.outcome)
            for record in self.caplog.records
            if hasattr(record, "outcome")
        ]
        outcomes = dict(logged)
        assert len(outcomes) == len(logged) == len(self.instances)  # each is logged once
        failed = {key for key, outcome in outcomes.items() if outcome in ("failed", "deferred")}
        assert {self.interfaces[index] for index in again} == failed
        for interface, outcome in outcomes.items():
            if outcome in ("created", "unmirrored", "skipped"):
                found = len(self.account.sessions(interface_id=interface))
                assert (interface, found) == (interface, int(outcome == "created"))
        return outcomes

    def counts(self, context: object = None) -> dict[str, int]:
        """How many come to each outcome."""
        return dict(Counter(self.deliver(context).values()))


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
        self.lock = threading.Lock()
        account.gates.append(self)

    def __call__(self, operation: str, parameters: dict[str, Any]) -> None:
        if operation != CREATE:
            return
        with self.lock:
            before = self.sent[parameters["NetworkInterfaceId"]]
            self.sent[parameters["NetworkInterfaceId"]] += 1
        self.act(parameters, before)


def lost(*_: object) -> None:
    """No answer arrives, and nothing was carried out."""
    raise ReadTimeoutError(endpoint_url="https://ec2.us-east-1.amazonaws.com/", error="simulated")


def refusing(code: str, status: int = 400) -> Callable[..., None]:
    def refuse(*_: object) -> None:
        raise Refusal(code, status=status)

    return refuse


throttled = refusing("RequestLimitExceeded", 503)


# --- How many go out together


@pytest.mark.parametrize("sweep", [False, True])
def test_ten_creates_are_under_way_at_a_time_and_no_more(
    scene: Scene, batch: Batches, sweep: bool
) -> None:
    scene.configure(scene.sensor(quota=1_000), EXCLUDE_TAGS="sensor")
    instances = batch(25)
    Gate(scene, lambda *_: threading.Event().wait(0.1))
    assert (scene.run(scheduled_event()) if sweep else instances.deliver()) is not None
    spans = [(c.started, c.ended or c.started) for c in scene.calls if c.operation == CREATE]
    changes = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    assert max(accumulate(change for _, change in changes)) == AT_ONCE


def test_a_round_is_the_first_hundred_that_wait(scene: Scene, batch: Batches) -> None:
    """All of the first are throttled. With one that is created they would be sent once more."""
    scene.configure(scene.sensor(quota=1_000))
    instances = batch(120)
    first = set(instances.interfaces[:ROUND])
    gate = Gate(scene, lambda sent, _: sent["NetworkInterfaceId"] in first and throttled())
    assert instances.counts() == {"failed": ROUND, "created": 20}
    assert {gate.sent[key] for key in first} == {1}


def test_the_result_keeps_the_order_of_the_event_whoever_waits(scene: Scene) -> None:
    scene.configure([scene.sensor(quota=3), scene.sensor(sessions=2, quota=100)])
    instances = scene.instances(30)
    random.Random(1).shuffle(instances)
    entries = scene.run({"instance-ids": instances}).interfaces
    assert [entry["instance_id"] for entry in entries] == instances


# --- Each choice counts at once


def test_each_choice_counts_at_once_so_that_those_with_fewer_sessions_fill_up_first(
    scene: Scene, batch: Batches
) -> None:
    """In a round and in the next one."""
    targets = [scene.sensor(quota=1_000, sessions=number) for number in (0, 5, 5, 300)]
    scene.configure(targets)
    batch(104).deliver()
    assert [len(scene.sessions(target_id=target)) for target in targets] == [38, 38, 38, 300]


# Code and status at the first create of a page of five, and the sessions that the next page counts.
FIRST_CREATES: dict[str, tuple[str, int, int]] = {
    "throttled, so that it waits": ("RequestLimitExceeded", 503, 5),
    "lost, so that there may be a session": ("InternalError", 500, 5),
    "denied": ("UnauthorizedOperation", 403, 5),
    "of an interface that EC2 does not know yet": ("InvalidNetworkInterfaceID.NotFound", 400, 5),
    "refused": ("SomethingNew", 400, 4),
}


@pytest.mark.parametrize(("code", "status", "counted"), FIRST_CREATES.values(), ids=FIRST_CREATES)
def test_a_session_that_was_chosen_counts_on_the_next_page_unless_its_create_was_refused(
    scene: Scene, caplog: pytest.LogCaptureFixture, code: str, status: int, counted: int
) -> None:
    scene.configure([scene.sensor(quota=1_000, attached=False)], CACHE_SECONDS="0")
    scene.instances(6)
    scene.show_pages_of(5)
    scene.fail(CREATE, code, status=status, times=1)
    caplog.set_level("INFO", "lambda_traffic_mirror")
    deliver(scheduled_event())
    (last,) = [r.reason for r in caplog.records if getattr(r, "outcome", "") == "created"][-1:]
    assert f"with {counted} sessions" in last


def test_what_a_target_was_refused_for_counts_no_more(scene: Scene, batch: Batches) -> None:
    """Of three, the full one is chosen for a third; the two others share them in the end."""
    full, *others = [scene.sensor(quota=quota) for quota in (0, 1_000, 1_000)]
    scene.configure([full, *others])
    assert batch(30).counts() == {"created": 30}
    assert [len(scene.sessions(target_id=target)) for target in others] == [15, 15]


def test_what_was_not_sent_counts_no_more(scene: Scene) -> None:
    """A round of instances of a type that AWS does not mirror, and one more instance."""
    scene.unsupported_types.add("t2.micro")
    scene.configure(scene.sensor())
    instances = [*scene.instances(ROUND, instance_type="t2.micro"), scene.instance()]
    answer = scene.run({"instance-ids": instances})
    assert "with 0 sessions" in answer.of(instances[-1])["reason"]


# --- Refusals


@pytest.mark.parametrize("seed", range(4))
def test_targets_are_tried_to_the_last_and_each_takes_what_it_has_room_for(
    scene: Scene, batch: Batches, seed: int
) -> None:
    """How many get a place does not depend on which create comes first."""
    rng = random.Random(seed)
    rooms = [rng.choice([0, 1, 2, 5, 11, 40]) for _ in range(rng.randint(1, 6))]
    targets = [scene.sensor(quota=room) for room in rooms]
    scene.configure(targets)
    count = (3, 17, 60, 120)[seed]
    pauses = {key: rng.random() / 200 for key in targets}
    Gate(scene, lambda sent, _: threading.Event().wait(pauses[sent["TrafficMirrorTargetId"]]))
    created = min(count, sum(rooms))
    assert batch(count).counts() == +Counter(created=created, unmirrored=count - created)
    found = [len(scene.sessions(target_id=target)) for target in targets]
    assert all(number <= room for number, room in zip(found, rooms, strict=True))
    # A target is known to be full once the first refusal of those under way has come back.
    assert scene.count(CREATE) <= created + len(targets) * AT_ONCE


@pytest.mark.parametrize("room", [0, 4])
def test_a_full_account_takes_what_it_has_room_for(scene: Scene, batch: Batches, room: int) -> None:
    scene.account_quota = room
    scene.configure([scene.sensor(quota=1_000), scene.sensor(quota=1_000)])
    assert batch(25).counts() == +Counter(created=room, unmirrored=25 - room)
    # What was under way when the first refusal came back, and nothing more.
    assert scene.count(CREATE) < room + AT_ONCE + 1


def test_those_that_are_refused_are_looked_up_together_when_the_others_are_done(
    scene: Scene, batch: Batches
) -> None:
    """Of three, one is refused, and one finds that another invocation was faster."""
    target = scene.sensor(quota=1_000)
    scene.configure(target)
    instances = batch(105)
    refused, rivals = set(instances.interfaces[::3]), set(instances.interfaces[1::3])

    def act(sent: dict[str, Any], before: int) -> None:
        if sent["NetworkInterfaceId"] in rivals:
            scene.session(sent["NetworkInterfaceId"], target)
        elif sent["NetworkInterfaceId"] in refused:
            raise Refusal("SomethingNew")

    Gate(scene, act)
    outcomes = instances.deliver()
    fates = dict.fromkeys(refused, "unmirrored") | dict.fromkeys(rivals, "exists")
    assert outcomes == {key: fates.get(key, "created") for key in instances.interfaces}
    operations = [call.operation for call in scene.calls]
    assert operations[len(operations) - operations[::-1].index(CREATE) :] == [SESSIONS] * 3


# --- No answer


@pytest.mark.parametrize("unlucky", [slice(0, 1), slice(None, None, 3), slice(None)], ids=str)
def test_a_throttled_create_waits_as_long_as_others_are_created(
    scene: Scene, batch: Batches, clock: Clock, unlucky: slice
) -> None:
    """Throttled for good: it is sent again in the next rounds, until nothing else is created. Each
    holds up its place among the ten for three seconds."""
    scene.configure([scene.sensor(quota=1_000), scene.sensor(quota=1_000)])
    instances = batch(25)
    waiting = set(instances.interfaces[unlucky])
    gate = Gate(scene, lambda sent, _: sent["NetworkInterfaceId"] in waiting and throttled())
    counts = instances.counts()
    assert counts == +Counter(failed=len(waiting), created=25 - len(waiting))
    assert {gate.sent[key] for key in waiting} == {1 if len(waiting) == 25 else 2}
    assert clock.seconds == [3] * sum(gate.sent[key] for key in waiting)


# --- All of it at once

# What becomes of an interface, and what becomes of its creates, by its fate.
FATES: dict[str, tuple[str, Callable[..., None] | None]] = {
    "nothing": ("created", None),
    "carried out, and lost": ("failed", None),
    "lost": ("failed", lost),
    "broken": ("failed", refusing("InternalError", 500)),
    "throttled once": ("created", throttled),
    "throttled": ("failed", throttled),
    "denied": ("failed", refusing("UnauthorizedOperation", 403)),
    "refused": ("unmirrored", refusing("SomethingNew")),
    "another was faster": ("exists", None),
    "not supported": ("skipped", refusing("NetworkInterfaceNotSupported")),
    "a sensor of another tool": ("skipped", refusing("InterfaceInUseByTrafficMirrorTarget")),
    "unknown once": ("created", refusing("InvalidNetworkInterfaceID.NotFound")),
    "unknown": ("failed", refusing("InvalidNetworkInterfaceID.NotFound")),
}


@pytest.mark.parametrize("seed", range(4))
def test_each_comes_to_its_own_outcome_whatever_becomes_of_the_others(
    scene: Scene, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    rng = random.Random(seed)
    scene.configure([scene.sensor(quota=1_000) for _ in range(3)])
    # Each of a type of its own, so that none is set aside for another's sake.
    count = (3, 10, 40, 120)[seed]
    instances = [scene.instance(instance_type=f"m{n}.large") for n in range(count)]
    batch = Batch(scene, caplog, instances)
    weights = [len(FATES), *[1] * (len(FATES) - 1)]  # half of them have none
    fates = {key: rng.choices(list(FATES), weights)[0] for key in batch.interfaces}
    fates[batch.interfaces[0]] = "nothing"  # so that what is throttled waits

    def strike(sent: dict[str, Any], before: int) -> None:
        threading.Event().wait(rng.random() / 500)
        interface = sent["NetworkInterfaceId"]
        fate = fates[interface]
        act = FATES[fate][1]
        if act and not (before and fate.endswith(" once")):
            act()
        if fate == "another was faster":
            scene.session(interface, sent["TrafficMirrorTargetId"])

    for interface, fate in fates.items():
        if fate == "carried out, and lost":
            scene.time_out(CREATE, lose_answer=True, where=of_interface(interface))
    Gate(scene, strike)
    assert batch.deliver() == {key: FATES[fate][0] for key, fate in fates.items()}
    scene.gates.clear()
    scene.heal()
    function._unsupported.clear()
    batch.deliver()
    assert scene.sessions_of(*batch.instances) == [1] * count
