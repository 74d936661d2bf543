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
import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

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
from calls import ASSUME, CREATE, FAULTS, LOSSES, READS, ROUTES
from conftest import Answer, Delivery, Scene
from moto.moto_api._internal import mock_random
from worlds import seeds

# What may fail; creates more often than the others.
FALLIBLE = (*READS, ROUTES, ASSUME, CREATE, CREATE, CREATE, "*")
SMALL_QUOTA = 2
LONGEST_LAG = 3  # a session that shows later than after three looks is not found
UNREADABLE = ("", "?", "{}", '{"instance-ids": []}', '{"sweep": 1}')

Entry = dict[str, Any]

pytestmark = pytest.mark.usefixtures("quick")


class Truth(NamedTuple):
    """What has to become of an instance's interfaces: `session`, `skipped`, `unmirrored`, `exists`
    (somebody else's session), or `crowd` (as many sessions as a sensor takes). The reason has the
    evidence in it."""

    outcome: str
    evidence: str = ""


class ShortOfTime(LambdaContext):
    """Lets a number of calls begin."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.answers = itertools.chain([60_000] * (1 + calls), itertools.repeat(0))
        self.lock = threading.Lock()

    def get_remaining_time_in_millis(self) -> int:
        with self.lock:
            return next(self.answers)


def parsed(body: Any) -> dict[str, Any]:
    """The event, or the body of a message; nothing where it is unreadable."""
    if body in UNREADABLE:
        return {}
    return dict(json.loads(body) if isinstance(body, str) else body)


def instances_of(body: Any) -> set[str]:
    event = parsed(body)
    return {*event.get("instance-ids", ()), (event.get("detail") or {}).get("instance-id")} - {None}


def is_sweep(body: Any) -> bool:
    event = parsed(body)
    return "sweep" in event or event.get("detail-type") == "Scheduled Event"


class Chaos:
    """An account, what is true of each of its instances, and rounds of deliveries, each with
    misfortunes of its own."""

    def __init__(
        self, account: Scene, rng: random.Random, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.account, self.random, self.caplog = account, rng, caplog
        self.truths: dict[str, Truth] = {}
        self.local_zone_only = self.often(0.7)
        self.other = account.other()
        self.role = self.other.role("sensors")
        self.foreign = account.sensor(attached=False)
        self.sensors()
        self.sources()
        self.events = {key: running_event(key) for key in self.truths}
        self.ever: set[str] = set()  # the IDs of all sessions there have been
        self.queue: list[Any] = []

    def often(self, probability: float) -> bool:
        return self.random.random() < probability

    # --- The account

    def sensors(self) -> None:
        account = self.account

        def distant(account: SimulatedAccount, cidr: str, zone: str = "a") -> str:
            return account.sensor(account.subnet(zone, vpc=account.vpc(cidr)), quota=1_000)

        routes = [route("10.1.0.0/16", pcx=True), route("10.2.0.0/16", tgw=True)]
        routes += [route("10.3.0.0/16", tgw=True, state="blackhole")]
        account.route_table(routes=routes, main=True)
        # Zone a: sensors that take everything.
        listed = account.group(rule(prefix_list=account.prefix_list("10.0.0.0/8")))
        some = [account.sensor(groups=[listed], quota=1_000), distant(account, "10.1.0.0/16")]
        some.append(distant(self.other, "10.2.0.0/16"))
        self.other.share(some[-1], interface=self.often(0.5))
        self.open = [account.sensor(account.subnet(), quota=1_000) for _ in range(2)]
        self.open += [one for one in some if self.often(0.6)]
        # The other zones: sensors that take nothing, or little.
        self.blackhole = [distant(account, "10.3.0.0/16", zone="b")] if self.often(0.3) else []
        self.closed_group = account.group(rule("tcp"), rule(cidr="192.0.2.0/24"))
        self.crowded = account.sensor(zone="f", quota=SMALL_QUOTA)
        self.targets = [
            *self.open,
            *self.blackhole,
            account.sensor(groups=[self.closed_group], zone="c"),
            account.sensor(account.subnet("d", acl=[acl_entry(66, "deny")]), zone="d"),
            account.sensor(zone="e", state="stopped"),
            self.crowded,
            account.missing_sensor(),
        ]
        self.random.shuffle(self.targets)

    def sources(self) -> None:
        account = self.account
        for _ in range(3):
            self.some(Truth("session"))
        self.some(Truth("skipped", "EXCLUDE_TAGS"), tags={"mirror": "no"})
        self.some(Truth("skipped", "AWS does not mirror"), instance_type="t2.micro")
        self.some(Truth("skipped", "no IPv4 address"), ipv6_only=True)
        self.some(Truth("skipped", "efa-only"), interface_type="efa-only")
        self.some(Truth("skipped", "stopped"), state="stopped")
        account.unsupported_types.add("t2.micro")
        (mirrored,) = account.mirrored(self.foreign)
        self.truths[mirrored] = Truth("exists", "not one of our targets")
        hopeless = {
            "b": ("route", "blackhole") if self.blackhole else ("zone", "The sensor is in"),
            "c": ("security_group", self.closed_group),
            "d": ("network_acl", "rule 66"),
            "e": ("zone", "The sensor is in"),
        }
        here = {zone: Truth("unmirrored", "|".join(why)) for zone, why in hopeless.items()}
        here["f"] = Truth("crowd", "TrafficMirrorSourcesPerTargetLimitExceeded")
        for zone, truth in here.items():
            self.some(truth if self.local_zone_only else Truth("session"), zone=zone)
        for target in account._backend.traffic_mirror_targets:
            if target != self.foreign:
                self.truths[account.sensor_instance(target)] = Truth("skipped", "sensor")

    def some(self, truth: Truth, **kwargs: Any) -> None:
        """Instances of one kind."""
        for _ in range(self.random.randint(0, 2)):
            interfaces = self.random.choice((1, 1, 1, 2, 3))
            self.truths[self.account.instance(interfaces=interfaces, **kwargs)] = truth

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

    # --- What happens

    def round(self) -> None:
        self.misfortunes()
        with ThreadPoolExecutor(self.random.choice((1, 2, 4, 8))) as invocations:
            done = list(invocations.map(self.deliver, list(self.deliveries())))
        self.ever |= {session["TrafficMirrorSessionId"] for session in self.account.sessions()}
        self.check_sessions()
        for delivery, entries in done:
            self.check_result(delivery, entries)
            for entry in entries:
                self.check_report(entry)
            if delivery.error:
                self.queue.append(delivery.event)
            elif "Records" in delivery.event:
                self.queue += [delivery.event["Records"][n]["body"] for n in delivery.again]
        # Sessions are deleted, and instances end.
        for session in self.account.sessions():
            if session["TrafficMirrorTargetId"] != self.foreign and self.often(0.2):
                self.account.delete_session(session["TrafficMirrorSessionId"])
        for instance, truth in self.truths.items():
            gone = self.state(instance) == "terminated"
            if truth.evidence != "sensor" and not gone and self.often(0.04):
                self.account.terminate(instance)

    def misfortunes(self) -> None:
        account, rng = self.account, self.random
        account.heal()
        self.other.heal()
        account.session_lag = rng.choice((0, 0, 0, 1, 2, LONGEST_LAG))
        account.unknown_instances = {i: rng.randint(1, 3) for i in self.truths if self.often(0.05)}
        for _ in range(rng.choice((0, 1, 2, 3))):
            call, probability = rng.choice(FALLIBLE), rng.choice((0.1, 0.3, 0.7, 1.0))
            fault = rng.choice(list(FAULTS))
            if fault == "denied" and call in ("*", ROUTES) and self.blackhole:
                fault = "unavailable"  # without the permission nobody can tell
            FAULTS[fault](
                rng.choice((account, account, self.other)),
                call,
                where=lambda _, p=probability: self.often(p),
                times=rng.choice((None, None, 1, 5, 20)),
                after=rng.choice((0, 0, 1, 3, 10)),
                lose_answer=fault in LOSSES and self.often(0.5),
            )

    def calm(self) -> None:
        """All works again, and what was late shows."""
        self.account.heal()
        self.other.heal()
        self.account.session_lag, self.account.unknown_instances = 0, {}
        client = self.account.client()
        for _ in range(LONGEST_LAG):
            client.describe_traffic_mirror_sessions()

    def deliveries(self) -> Iterator[Delivery]:
        """What has to come again, and the events of some instances, some twice, in any order."""
        rng = self.random
        bodies: list[Any] = [*self.queue, *[rng.choice(UNREADABLE)] * rng.choice((0, 0, 1))]
        self.queue = []
        for event in self.events.values():
            bodies += [event] * rng.choice((0, 0, 1, 1, 2))
        bodies += [{"sweep": True}, scheduled_event()][: rng.choice((0, 0, 1, 2))]
        rng.shuffle(bodies)
        while bodies:
            size = rng.choice((1, 1, 3, 10))
            part, bodies = bodies[:size], bodies[size:]
            names = [name for body in part for name in instances_of(body)]
            event: Any = sqs_event(*part)
            if size == 1 and part[0] not in UNREADABLE:
                event = parsed(part[0])
            elif size == 3 and names and not any(map(is_sweep, part)):
                event = {"instance-ids": names}
            late = self.often(0.15)
            yield Delivery(event, ShortOfTime(rng.randint(0, 12)) if late else LambdaContext())

    def deliver(self, delivery: Delivery) -> tuple[Delivery, list[Entry]]:
        """Deliver an event, and what the function logs of interfaces in this thread."""
        start = len(self.caplog.records)
        delivery.deliver()
        logged = [vars(record) for record in self.caplog.records[start:]]
        mine = [entry for entry in logged if entry["thread"] == threading.get_ident()]
        return delivery, [entry for entry in mine if "outcome" in entry]

    # --- What has to hold after every round

    def check_sessions(self) -> None:
        """One session per interface, always, and none where none belongs."""
        counts = Counter(session["NetworkInterfaceId"] for session in self.account.sessions())
        for interface, (_, truth) in self.interfaces().items():
            most = 1 if truth.outcome in ("session", "exists", "crowd") else 0
            assert counts[interface] <= most, (interface, truth)
        assert len(self.account.sessions(target_id=self.crowded)) <= SMALL_QUOTA

    @staticmethod
    def check_result(delivery: Delivery, entries: list[Entry]) -> None:
        """What is without an answer is named, and nothing else."""
        event = delivery.event
        unfinished = [entry for entry in entries if entry["outcome"] in ("failed", "deferred")]
        if "Records" in event:
            failed = {entry["instance_id"] for entry in unfinished}
            bodies = [record["body"] for record in event["Records"]]
            by_name = {name for body in bodies for name in instances_of(body)}
            for position, body in enumerate(bodies):
                again = position in delivery.again
                if is_sweep(body):
                    assert failed or not again
                    assert failed <= by_name or again
                else:
                    assert again == (body in UNREADABLE or bool(instances_of(body) & failed))
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
            assert answer.summary == Counter(entry["outcome"] for entry in entries)
            assert answer.status == (400 if {"unmirrored", "blocked"} & {*answer.summary} else 200)

    def check_report(self, entry: Entry) -> None:
        """No report says what is not so."""
        outcome, reason = entry["outcome"], entry["reason"]
        if outcome in ("created", "exists"):
            assert entry["session_id"] in self.ever
        elif outcome == "failed":
            assert any(call.removeprefix("sts:") in reason for call in FALLIBLE), entry
        elif outcome == "deferred":
            assert "time" in reason
        elif outcome == "skipped":
            gone = self.state(entry["instance_id"]) == "terminated" or "does not know" in reason
            assert gone or self.truths[entry["instance_id"]].outcome == "skipped", entry
        else:
            late = "already being used" in reason or "ec2:GetManagedPrefixListEntries" in reason
            truth = self.truths[entry["instance_id"]].outcome
            assert outcome == "unmirrored"
            assert late or truth in ("unmirrored", "crowd"), entry

    # --- The end

    def close_a_sensor(self) -> str:
        """One of the sensors that take everything stops; the others still do."""
        target = self.random.choice(self.open)
        owner = self.account._account_of_target(target)
        owner.stop(owner.sensor_instance(target))
        if owner is self.account:
            self.truths[owner.sensor_instance(target)] = Truth("skipped", "stopped")
        return target

    def check_everything(self, answer: Answer, closed: str | None) -> None:
        """Every interface of a running instance has what is due to it, or a true reason."""
        account, interfaces = self.account, self.interfaces()
        entries = {entry["interface_id"]: entry for entry in answer.interfaces}
        assert len(entries) == len(answer.interfaces) < 100
        assert set(entries) == set(interfaces)
        for interface, (instance, truth) in interfaces.items():
            entry, sessions = entries[interface], account.sessions(interface_id=interface)
            outcome = entry["outcome"]
            assert entry["instance_id"] == instance
            if truth.outcome in ("session", "exists") or (truth.outcome == "crowd" and sessions):
                (session,) = sessions
                assert entry["session_id"] == session["TrafficMirrorSessionId"]
                assert entry["target_id"] == session["TrafficMirrorTargetId"]
            if truth.outcome == "exists":
                assert (outcome, entry["target_id"]) == ("exists", self.foreign)
            elif sessions and entry["target_id"] == closed:
                assert outcome == "blocked"
                assert "stopped" in entry["reason"]
            elif sessions:
                assert truth.outcome in ("session", "crowd")
                assert outcome in ("created", "exists")
            else:
                assert outcome == ("unmirrored" if truth.outcome == "crowd" else truth.outcome)
                assert [e for e in truth.evidence.split("|") if e not in entry["reason"]] == []
        crowd = [key for key, (_, truth) in interfaces.items() if truth.outcome == "crowd"]
        if self.local_zone_only:
            taken = len(account.sessions(target_id=self.crowded))
            assert taken == min(SMALL_QUOTA, len(crowd))
        assert answer.summary == Counter(entry["outcome"] for entry in entries.values())


@pytest.mark.parametrize("seed", seeds(os.environ.get("CHAOS", "20")))
def test_one_sweep_puts_right_what_went_wrong(
    scene: Scene, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    caplog.set_level("DEBUG", "lambda_traffic_mirror")
    rng = random.Random(seed)
    random.seed(seed)
    mock_random.seed(seed)
    chaos = Chaos(scene, rng, caplog)
    scene.configure(
        chaos.targets,
        SENSOR_ROLE_ARNS=chaos.role,
        EXCLUDE_TAGS="mirror=no",
        LOCAL_ZONE_ONLY=str(chaos.local_zone_only),
        CACHE_SECONDS=rng.choice(("", "300")),
    )
    scene.latency = rng.choice((0, 0, 0.001))
    for _ in range(rng.randint(2, 4)):
        chaos.round()
    chaos.calm()
    closed = chaos.close_a_sensor() if chaos.often(0.3) else None
    chaos.check_everything(scene.run(scheduled_event()), closed)

    # And then there is nothing left to do.
    before = scene.sessions()
    again = scene.run(scheduled_event())
    assert scene.sessions() == before
    assert not again.summary.keys() & {"created", "failed", "deferred"}
