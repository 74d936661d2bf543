"""Whatever happens, one sweep afterwards puts it right.

Each seed makes an account in which some instances can be mirrored and others cannot, each for a
reason of its own; some sensors are in another VPC, and some in another account. Then events come
once, twice and never, out of order and at once, by themselves and in SQS batches, while calls are
throttled, time out, break, are denied and lose their answers, sessions show late and are deleted,
instances end and time runs out. What fails is delivered again, as Lambda does. Every report is held
against the account. In the end all is well again, and one sweep has to leave exactly one session
for each interface that a sensor can take, and a true reason for every other.

CHAOS=2000 runs that many seeds (20 unless told), CHAOS=500-700 those from 500 to 699.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from aws import (
    LambdaContext,
    SimulatedAccount,
    acl_entry,
    route,
    rule,
    running_event,
    scheduled_event,
    sqs_event,
)
from calls import CREATE, READS, ROUTES
from conftest import Answer, Delivery, Scene
from moto.moto_api._internal import mock_random

import lambda_traffic_mirror as function

# What may fail; creates more often than the others.
FALLIBLE = (*READS, ROUTES, "sts:AssumeRole", CREATE, CREATE, CREATE, "*")
# Code and status of answers that are none; there may be no answer, too.
FAILURES = {
    "throttled": ("RequestLimitExceeded", 503),
    "broken": ("InternalError", 500),
    "denied": ("UnauthorizedOperation", 403),
}
SMALL_QUOTA = 2
LONGEST_LAG = 3  # a session that shows later than after three looks is not found
UNREADABLE = ("", "?", "{}", '{"instance-ids": []}', '{"sweep": 1}')


def seeds() -> range:
    """Which seeds to run."""
    first, _, end = os.environ.get("CHAOS", "20").rpartition("-")
    return range(int(first or 0), int(end))


pytestmark = pytest.mark.usefixtures("quick")


# --------------------------------------------------------------------------------------
# The account, and what is true of it
# --------------------------------------------------------------------------------------


@dataclass
class Truth:
    """What has to become of an instance's interfaces: `session`, `skipped`, `unmirrored`, `exists`
    (somebody else's session), or `crowd` (as many sessions as a sensor takes). The reason has the
    evidence in it."""

    outcome: str
    evidence: str = ""


class Truths:
    """An account, and what is true of each of its instances."""

    def __init__(self, account: SimulatedAccount, rng: random.Random) -> None:
        self.account = account
        self.random = rng
        self.truths: dict[str, Truth] = {}
        self.local_zone_only = rng.random() < 0.7
        self.open: list[str] = []
        self.targets: list[str] = []
        self.crowded = ""
        self.foreign = account.sensor(attached=False)
        self.other = account.other()
        self.role = self.other.role("sensors")
        self.blackhole = rng.random() < 0.3
        self.build()

    def some(self, truth: Truth, **kwargs: Any) -> None:
        """Instances of one kind."""
        for _ in range(self.random.randint(0, 2)):
            interfaces = self.random.choice((1, 1, 1, 2, 3))
            self.truths[self.account.instance(interfaces=interfaces, **kwargs)] = truth

    def hopeless(self, zone: str, stage: str, evidence: str) -> None:
        """Instances in a zone whose sensors cannot take them."""
        far = Truth("session")
        self.some(
            Truth("unmirrored", f"{stage}|{evidence}") if self.local_zone_only else far, zone=zone
        )

    def build(self) -> None:
        account, rng = self.account, self.random
        # Zone a: sensors that take everything.
        self.open = [account.sensor(account.subnet(), quota=1_000) for _ in range(2)]
        if rng.random() < 0.5:
            group = account.group(rule(prefix_list=account.prefix_list("10.0.0.0/8")))
            self.open.append(account.sensor(groups=[group], quota=1_000))
        # In another VPC, and in another account; and one to which no route leads.
        routes = [route("10.1.0.0/16", pcx=True), route("10.2.0.0/16", tgw=True)]
        routes += [route("10.3.0.0/16", tgw=True, state="blackhole")]
        account.route_table(routes=routes, main=True)
        if rng.random() < 0.5:
            self.open.append(self.distant(account, "10.1.0.0/16"))
        if rng.random() < 0.7:
            self.open.append(self.distant(self.other, "10.2.0.0/16"))
            self.other.share(self.open[-1], interface=rng.random() < 0.5)
        lost = [self.distant(account, "10.3.0.0/16", zone="b")] if self.blackhole else []
        for _ in range(3):
            self.some(Truth("session"))
        self.some(Truth("skipped", "EXCLUDE_TAGS"), tags={"mirror": "no"})
        self.some(Truth("skipped", "AWS does not mirror"), instance_type="t2.micro")
        self.some(Truth("skipped", "no IPv4 address"), ipv6_only=True)
        self.some(Truth("skipped", "efa-only"), interface_type="efa-only")
        self.some(Truth("skipped", "stopped"), state="stopped")
        account.unsupported_types.add("t2.micro")
        mirrored = account.instance()
        self.truths[mirrored] = Truth("exists", "not one of our targets")
        account.session(account.first_interface(mirrored), self.foreign)
        # The other zones: sensors that take nothing, or little.
        group = account.group(rule("tcp"), rule(cidr="192.0.2.0/24"))
        closed = account.sensor(groups=[group], zone="c")
        denying = account.sensor(account.subnet("d", acl=[acl_entry(66, "deny")]), zone="d")
        stopped = account.sensor(zone="e", state="stopped")
        self.crowded = account.sensor(zone="f", quota=SMALL_QUOTA)
        self.targets = [
            *self.open,
            *lost,
            closed,
            denying,
            stopped,
            self.crowded,
            account.missing_sensor(),
        ]
        rng.shuffle(self.targets)
        if self.blackhole:
            self.hopeless("b", "route", "blackhole")
        else:
            self.hopeless("b", "zone", "The sensor is in")
        self.hopeless("c", "security_group", group)
        self.hopeless("d", "network_acl", "rule 66")
        self.hopeless("e", "zone", "The sensor is in")
        crowd = Truth("crowd", "TrafficMirrorSourcesPerTargetLimitExceeded")
        self.some(crowd if self.local_zone_only else Truth("session"), zone="f")
        for target in self.targets:
            if target in account._backend.traffic_mirror_targets:
                self.truths[account.sensor_instance(target)] = Truth("skipped", "sensor")

    @staticmethod
    def distant(account: SimulatedAccount, cidr: str, zone: str = "a") -> str:
        """A sensor in a VPC of its own."""
        return account.sensor(account.subnet(zone, vpc=account.vpc(cidr)), quota=1_000)

    def state(self, instance_id: str) -> str:
        return str(self.account._instance(instance_id)._state.name)

    def interfaces(self) -> dict[str, tuple[str, Truth]]:
        """Each interface of a running instance, with its instance and what is true of it."""
        return {
            interface: (instance, truth)
            for instance, truth in self.truths.items()
            if self.state(instance) == "running"
            for interface in self.account.interfaces_of(instance)
        }


# --------------------------------------------------------------------------------------
# Deliveries
# --------------------------------------------------------------------------------------


class Reports(logging.Handler):
    """What the function logs of interfaces, by the thread in which an invocation runs."""

    def __init__(self) -> None:
        super().__init__()
        self.of_thread: dict[int, list[dict[str, Any]]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "outcome"):
            names = ("interface_id", "instance_id", "outcome", "reason", "target_id", "session_id")
            entry = {name: getattr(record, name) for name in names}
            self.of_thread.setdefault(threading.get_ident(), []).append(entry)

    def take(self) -> list[dict[str, Any]]:
        """What this thread's invocation has reported."""
        return self.of_thread.pop(threading.get_ident(), [])


@dataclass
class Invocation(Delivery):
    """One invocation, with what it has logged of interfaces."""

    entries: list[dict[str, Any]] = field(default_factory=list)

    @property
    def unfinished(self) -> list[dict[str, Any]]:
        return [entry for entry in self.entries if entry["outcome"] in ("failed", "deferred")]

    def bodies_again(self) -> list[Any]:
        """What Lambda delivers again."""
        if self.error:
            return [self.event]
        if "Records" not in self.event:
            return []
        return [self.event["Records"][position]["body"] for position in self.again]


class ShortOfTime(LambdaContext):
    """Lets a number of calls begin."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.answers = itertools.chain([60_000] * (1 + calls), itertools.repeat(0))
        self.lock = threading.Lock()

    def get_remaining_time_in_millis(self) -> int:
        with self.lock:
            return next(self.answers)


def instances_of(body: Any) -> set[str]:
    """The instances that a readable event names."""
    body = json.loads(body) if isinstance(body, str) else body
    if "instance-ids" in body:
        return set(body["instance-ids"])
    return {body["detail"]["instance-id"]} if body.get("detail") else set()


def is_sweep(body: Any) -> bool:
    body = json.loads(body) if isinstance(body, str) else body
    return body.get("sweep") is True or body.get("detail-type") == "Scheduled Event"


class Chaos:
    """Rounds of deliveries to a world, each with misfortunes of its own."""

    def __init__(self, world: Truths, reports: Reports) -> None:
        self.world = world
        self.account = world.account
        self.random = world.random
        self.reports = reports
        self.events = {key: running_event(key) for key in world.truths}
        self.ever: set[str] = set()  # the IDs of all sessions there have been
        self.queue: list[Any] = []

    def misfortunes(self) -> None:
        account, rng = self.account, self.random
        account.heal()
        self.world.other.heal()
        account.session_lag = rng.choice((0, 0, 0, 1, 2, LONGEST_LAG))
        account.unknown_instances = {
            instance: rng.randint(1, 3) for instance in self.world.truths if rng.random() < 0.05
        }
        for _ in range(rng.choice((0, 1, 2, 3))):
            call, probability = rng.choice(FALLIBLE), rng.choice((0.1, 0.3, 0.7, 1.0))
            when: dict[str, Any] = {
                "where": lambda _, p=probability: rng.random() < p,
                "times": rng.choice((None, None, 1, 5, 20)),
                "after": rng.choice((0, 0, 1, 3, 10)),
                "lose_answer": rng.random() < 0.5,
            }
            kind = rng.choice((*FAILURES, "silent", "unreachable"))
            if kind == "denied" and call in ("*", ROUTES) and self.world.blackhole:
                kind = "broken"  # without the permission nobody can tell
            where = rng.choice((account, account, self.world.other))
            if kind in ("throttled", "denied", "unreachable"):
                when["lose_answer"] = False
            if kind in FAILURES:
                code, status = FAILURES[kind]
                where.fail(call, code, status=status, **when)
            else:
                where.time_out(call, connect=kind == "unreachable", **when)

    def deliveries(self) -> Iterator[Invocation]:
        """What has to come again, and the events of some instances, some twice, in any order."""
        rng = self.random
        bodies: list[Any] = list(self.queue)
        self.queue = []
        for event in self.events.values():
            bodies += [event] * rng.choice((0, 0, 1, 1, 2))
        bodies += [rng.choice(UNREADABLE)] * rng.choice((0, 0, 1))
        bodies += [{"sweep": True}, scheduled_event()][: rng.choice((0, 0, 1, 2))]
        rng.shuffle(bodies)
        while bodies:
            size = rng.choice((1, 1, 3, 10))
            part, bodies = bodies[:size], bodies[size:]
            context = LambdaContext()
            if rng.random() < 0.15:
                context = ShortOfTime(rng.randint(0, 12))
            readable = [
                body for body in part if not isinstance(body, str) or body not in UNREADABLE
            ]
            names = [name for body in readable for name in instances_of(body)]
            if size == 1 and readable:
                (body,) = readable
                yield Invocation(json.loads(body) if isinstance(body, str) else body, context)
            elif size == 3 and names and not any(map(is_sweep, readable)):
                yield Invocation({"instance-ids": names}, context)
            else:
                yield Invocation(sqs_event(*part), context)

    def deliver(self, delivery: Invocation) -> None:
        self.reports.take()
        delivery.deliver()
        delivery.entries = self.reports.take()

    def round(self) -> None:
        self.misfortunes()
        deliveries = list(self.deliveries())
        with ThreadPoolExecutor(self.random.choice((1, 2, 4, 8))) as invocations:
            list(invocations.map(self.deliver, deliveries))
        self.ever |= {s["TrafficMirrorSessionId"] for s in self.account.sessions()}
        self.check_sessions()
        for delivery in deliveries:
            self.queue += delivery.bodies_again()
            self.check_result(delivery)
            for entry in delivery.entries:
                self.check_report(entry)
        self.losses()

    def losses(self) -> None:
        """Sessions are deleted, and instances end."""
        for session in self.account.sessions():
            if (
                session["TrafficMirrorTargetId"] != self.world.foreign
                and self.random.random() < 0.2
            ):
                self.account.delete_session(session["TrafficMirrorSessionId"])
        for instance in self.world.truths:
            ours = self.world.truths[instance].evidence == "sensor"
            gone = self.world.state(instance) == "terminated"
            if not ours and not gone and self.random.random() < 0.04:
                self.account.terminate(instance)

    # What has to hold after every round

    def check_sessions(self) -> None:
        """One session per interface, always, and none where none belongs."""
        counts = Counter(session["NetworkInterfaceId"] for session in self.account.sessions())
        for interface, (_, truth) in self.world.interfaces().items():
            most = 1 if truth.outcome in ("session", "exists", "crowd") else 0
            assert counts[interface] <= most, (interface, truth)
        crowd = self.account.sessions(target_id=self.world.crowded)
        assert len(crowd) <= SMALL_QUOTA

    def check_result(self, delivery: Invocation) -> None:
        """What is without an answer is named, and nothing else."""
        event, unfinished = delivery.event, delivery.unfinished
        if "Records" in event:
            assert not delivery.error
            failed = {entry["instance_id"] for entry in unfinished}
            bodies = [record["body"] for record in event["Records"]]
            by_name = {i for body in bodies if body not in UNREADABLE for i in instances_of(body)}
            for position, body in enumerate(bodies):
                named = position in delivery.again
                if body in UNREADABLE:
                    assert named
                elif is_sweep(body):
                    assert failed or not named
                    assert failed <= by_name or named
                else:
                    assert named == bool(instances_of(body) & failed)
            return
        if is_sweep(event):
            unfinished = [entry for entry in unfinished if entry["outcome"] == "failed"]
        assert bool(delivery.error) == bool(unfinished), delivery
        for entry in unfinished:
            name = entry["interface_id"] or entry["instance_id"] or "further interfaces"
            assert name in delivery.error
        for outcome, count in Counter(entry["outcome"] for entry in unfinished).items():
            assert f"{count} {outcome}" in delivery.error
        if not delivery.error:
            answer = delivery.answer
            assert answer.summary == Counter(e["outcome"] for e in delivery.entries)
            bad = {"unmirrored", "blocked"} & set(answer.summary)
            assert answer.status == (400 if bad else 200)

    def check_report(self, entry: Mapping[str, Any]) -> None:
        """No report says what is not so."""
        outcome, reason = entry["outcome"], entry["reason"]
        if outcome in ("created", "exists"):
            assert entry["session_id"] in self.ever
        elif outcome == "failed":
            assert any(call.removeprefix("sts:") in reason for call in FALLIBLE), entry
        elif outcome == "deferred":
            assert "time" in reason
        elif outcome == "skipped":
            truth = self.world.truths[entry["instance_id"]]
            gone = self.world.state(entry["instance_id"]) == "terminated"
            unknown = "does not know" in reason
            assert gone or unknown or truth.outcome == "skipped", entry
        else:
            assert outcome == "unmirrored"
            truth = self.world.truths[entry["instance_id"]]
            late = "already being used" in reason
            unread = "ec2:GetManagedPrefixListEntries" in reason
            assert late or unread or truth.outcome in ("unmirrored", "crowd"), entry

    # The end

    def calm(self) -> None:
        """All works again, and what was late shows."""
        self.account.heal()
        self.world.other.heal()
        self.account.session_lag = 0
        self.account.unknown_instances = {}
        client = self.account.client()
        for _ in range(LONGEST_LAG):
            client.describe_traffic_mirror_sessions()


def close_a_sensor(world: Truths) -> str:
    """One of the sensors that take everything stops; the others still do."""
    target = world.random.choice(world.open)
    owner = world.account._account_of_target(target)
    owner.stop(owner.sensor_instance(target))
    if owner is world.account:
        world.truths[owner.sensor_instance(target)] = Truth("skipped", "stopped")
    return target


def check_everything(world: Truths, answer: Answer, closed: str | None) -> None:
    """Every interface of a running instance has what is due to it, or a true reason."""
    account, interfaces = world.account, world.interfaces()
    entries = {entry["interface_id"]: entry for entry in answer.interfaces}
    assert len(entries) == len(answer.interfaces) < 100
    assert set(entries) == set(interfaces)
    crowd = []
    for interface, (instance, truth) in interfaces.items():
        entry, sessions = entries[interface], account.sessions(interface_id=interface)
        outcome = entry["outcome"]
        assert entry["instance_id"] == instance
        if truth.outcome == "crowd":
            crowd.append(interface)
        if truth.outcome == "session" or (truth.outcome == "crowd" and sessions):
            (session,) = sessions
            assert entry["session_id"] == session["TrafficMirrorSessionId"]
            assert entry["target_id"] == session["TrafficMirrorTargetId"]
            if session["TrafficMirrorTargetId"] == closed:
                assert outcome == "blocked"
                assert "stopped" in entry["reason"]
            else:
                assert outcome in ("created", "exists")
        elif truth.outcome == "exists":
            (session,) = sessions
            assert outcome == "exists"
            assert session["TrafficMirrorTargetId"] == world.foreign == entry["target_id"]
        else:
            assert not sessions
            assert outcome == ("unmirrored" if truth.outcome == "crowd" else truth.outcome)
            for evidence in truth.evidence.split("|"):
                assert evidence in entry["reason"], entry
    assert len(account.sessions(target_id=world.crowded)) == (
        min(SMALL_QUOTA, len(crowd))
        if world.local_zone_only
        else len(account.sessions(target_id=world.crowded))
    )
    assert answer.summary == Counter(entry["outcome"] for entry in entries.values())


@pytest.fixture
def reports() -> Iterator[Reports]:
    """What the function logs, from INFO up, and of sweeps from DEBUG up."""
    handler, level = Reports(), function.logger.level
    function.logger.addHandler(handler)
    function.logger.setLevel(logging.DEBUG)
    yield handler
    function.logger.removeHandler(handler)
    function.logger.setLevel(level)


@pytest.mark.parametrize("seed", seeds())
def test_one_sweep_puts_right_what_went_wrong(scene: Scene, reports: Reports, seed: int) -> None:
    rng = random.Random(seed)
    random.seed(seed)
    mock_random.seed(seed)
    world = Truths(scene, rng)
    scene.configure(
        world.targets,
        SENSOR_ROLE_ARNS=world.role,
        EXCLUDE_TAGS="mirror=no",
        LOCAL_ZONE_ONLY=str(world.local_zone_only),
        CACHE_SECONDS=rng.choice(("", "300")),
    )
    scene.latency = rng.choice((0, 0, 0.001))
    chaos = Chaos(world, reports)
    for _ in range(rng.randint(2, 4)):
        chaos.round()

    chaos.calm()
    closed = close_a_sensor(world) if rng.random() < 0.3 else None
    check_everything(world, scene.run(scheduled_event()), closed)

    # And then there is nothing left to do.
    before = scene.sessions()
    again = scene.run(scheduled_event())
    assert scene.sessions() == before
    assert not again.summary.keys() & {"created", "failed", "deferred"}
