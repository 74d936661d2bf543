"""What an event costs: which AWS calls it takes, and which of them go out together.

Counts and round trips are exact, so nothing here looks at seconds.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate
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
from calls import (
    ACLS,
    ASSUME,
    COLD,
    CREATE,
    GROUPS,
    INSTANCES,
    INTERFACES,
    PREFIX_LIST,
    ROUTES,
    SESSIONS,
    TARGETS,
    WARM,
)
from conftest import KINDS, Clock, Delivery, Scene, deliver

pytestmark = pytest.mark.usefixtures("shared_client")


class Rounds:
    """Lets calls through only together: each is held until as many have begun as its round has.

    Calls of one round that do not go out together would wait for each other in vain, so a run that
    comes to its end has shown that they do.
    """

    def __init__(self, account: Scene, expected: Sequence[Sequence[str]]) -> None:
        self.account = account
        self.expected = [sorted(operations) for operations in expected]
        self.ends = list(accumulate(map(len, expected)))
        self.begun: list[str] = []
        self.changed = threading.Condition()

    def __call__(self, operation: str, parameters: dict[str, Any]) -> None:
        with self.changed:
            self.begun.append(operation)
            self.changed.notify_all()
            end = next((end for end in self.ends if end >= len(self.begun)), 0)
            together = self.changed.wait_for(lambda: len(self.begun) >= end, timeout=10)
            assert together, f"{operation} waits for calls that should go out with it: {self.begun}"

    def check(self) -> None:
        """These calls went out, in these rounds, and no other."""
        starts = [0, *self.ends]
        found = [sorted(self.begun[a:b]) for a, b in zip(starts, self.ends, strict=False)]
        assert (found, self.begun[self.ends[-1] :]) == (self.expected, [])
        assert self.account.round_trips() == len(self.expected)


def run_in(
    scene: Scene,
    expected: Sequence[Sequence[str]],
    event: object,
    others: Sequence[SimulatedAccount] = (),
) -> Delivery:
    """What comes of an event, or of an instance's, whose calls go out in exactly these rounds."""
    rounds = Rounds(scene, expected)
    scene.forget_calls()
    for account in (scene, *others):
        account.gates.append(rounds)
    delivery = deliver(running_event(event) if isinstance(event, str) else event)
    for account in (scene, *others):
        account.gates.remove(rounds)
    rounds.check()
    return delivery


def calls(scene: Scene) -> dict[str, int]:
    """How often each operation was called since this was asked last."""
    counts = Counter(call.operation for call in scene.calls)
    scene.forget_calls()
    return dict(counts)


def sensors(scene: Scene, count: int, **options: Any) -> list[str]:
    """Sensors spread over three zones, with room for everything."""
    return [scene.sensor(zone="abc"[n % 3], quota=10_000, **options) for n in range(count)]


def new_instance(scene: Scene, zone: str = "a", **options: Any) -> str:
    """An instance in a subnet of its own, so that network ACLs have a say."""
    return scene.instance(scene.subnet(zone), **options)


# --- One event, nothing cached


def one_sensor(scene: Scene) -> str:
    scene.configure(scene.sensor())
    return new_instance(scene)


def sensors_of_all_kinds(scene: Scene) -> str:
    """Many groups, rules, ACLs and VPCs; missing, stopped, foreign, closed and unattached."""
    other = scene.vpc("10.1.0.0/16")
    scene.route_table(routes=[route("10.1.0.0/16", pcx=True)], main=True)
    closed = [scene.group(rule("tcp"), rule(cidr="192.0.2.0/24")) for _ in range(5)]
    denying = scene.subnet("a", acl=[acl_entry(1, "deny")])
    targets = [scene.sensor(groups=closed), scene.sensor(denying), scene.missing_sensor()]
    targets += [scene.sensor(scene.subnet("a", vpc=other)), scene.sensor(attached=False)]
    targets += [scene.sensor(state="stopped"), scene.foreign_sensor()]
    scene.configure(targets, LOCAL_ZONE_ONLY="false", ALLOW_UNVERIFIED="true")
    return new_instance(scene)


def sensors_with_groups(scene: Scene, count: int) -> str:
    """As many, each with a security group of its own."""
    groups = [scene.group(rule()) for _ in range(count)]
    scene.configure([scene.sensor(zone="abc"[n % 3], groups=[g]) for n, g in enumerate(groups)])
    return new_instance(scene)


def sessions(scene: Scene, count: int) -> str:
    scene.account_quota = 20_000
    scene.configure([scene.sensor(quota=20_000, sessions=count), scene.sensor()])
    return new_instance(scene)


def load_balancers(scene: Scene) -> str:
    subnets = [scene.subnet(zone) for zone in "abc"]
    targets = [scene.nlb_sensor(subnets) for _ in range(3)]
    scene.configure([*targets, scene.gwlb_sensor(subnets), scene.sensor()], EXCLUDE_TAGS="sensor")
    return new_instance(scene)


def prefix_lists(scene: Scene) -> str:
    """Two that rules about VXLAN name, one of them with two pages; and one that no such rule
    names."""
    blocks = [f"192.0.{number}.0/24" for number in range(101)]
    lists = [scene.prefix_list(*blocks), scene.prefix_list("10.0.0.0/8")]
    web = scene.group(rule("tcp", ports=(80, 80), prefix_list=scene.prefix_list("10.0.0.0/8")))
    groups = [web, *(scene.group(rule(prefix_list=key)) for key in lists)]
    scene.configure(scene.sensor(groups=groups))
    return new_instance(scene)


def full_sensors(scene: Scene) -> str:
    """Four interfaces choose together: all take full ones, are refused, and choose again."""
    full = [scene.sensor(quota=0) for _ in range(3)]
    scene.configure([*full, *sensors(scene, 3, sessions=2)])
    return new_instance(scene, interfaces=4)


# From the account to the event, or its instance; the calls that go out together.
EVENTS: dict[str, tuple[Callable[[Scene], object], list[list[str]]]] = {
    "one sensor: eight calls in four round trips": (one_sensor, COLD),
    "a sensor in another VPC adds the route tables, and no round trip": (
        sensors_of_all_kinds,
        [*COLD[:2], [*COLD[2], ROUTES], COLD[3]],
    ),
    "200 sensors are one list": (lambda s: sensors_with_groups(s, 200), COLD),
    "201 sensors are two lists, which go out together": (
        lambda s: sensors_with_groups(s, 201),
        [COLD[0], [*COLD[1], INTERFACES], [*COLD[2], INSTANCES, GROUPS], COLD[3]],
    ),
    "1,000 sessions are one page": (lambda s: sessions(s, 1_000), COLD),
    "1,001 are two pages": (lambda s: sessions(s, 1_001), [COLD[0], [SESSIONS], *COLD[1:]]),
    "load balancers add one call in the same round": (
        load_balancers,
        [COLD[0], [INTERFACES, INTERFACES], *COLD[2:]],
    ),
    "prefix lists are read together where a rule about VXLAN names them": (
        prefix_lists,
        [*COLD[:3], [PREFIX_LIST, PREFIX_LIST], [PREFIX_LIST], [CREATE]],
    ),
    "each refusal and each interface adds one create": (
        full_sensors,
        [*COLD[:3], [CREATE] * 4, [CREATE] * 4],
    ),
    "without a sensor no create": (lambda s: one_sensor(s) and new_instance(s, "b"), COLD[:3]),
    "in a dry run no create": (lambda s: running_event(one_sensor(s), dry_run=True), COLD[:3]),
    # What needs no sensor costs three calls in one round trip.
    "mirrored already": (lambda s: one_sensor(s) and s.mirrored(s.targets[0])[0], COLD[:1]),
    "of another type": (lambda s: one_sensor(s) and s.instance(interface_type="efa"), COLD[:1]),
}


@pytest.mark.parametrize(("build", "expected"), EVENTS.values(), ids=EVENTS)
def test_one_event_takes_these_calls_in_these_round_trips(
    scene: Scene, build: Callable[[Scene], object], expected: list[list[str]]
) -> None:
    outcomes = set(run_in(scene, expected, build(scene)).answer.outcomes)
    assert (outcomes == {"created"}) == (CREATE in expected[-1])


@pytest.mark.parametrize(("count", "shown"), [(1, False), (3, True)])
def test_other_accounts_add_their_reads_and_cold_one_round_trip_for_assume_role(
    scene: Scene, count: int, shown: bool
) -> None:
    """A target that is shown without its interface adds one more. Warm, they cost nothing."""
    others = [scene.other(f"{number:012}") for number in range(1, count + 1)]
    scene.route_table(routes=[route("10.9.0.0/16", tgw=True)], main=True)
    targets = [other.sensor(other.subnet(vpc=other.vpc("10.9.0.0/16"))) for other in others]
    for other, target in zip(others, targets, strict=True):
        other.share(target, interface=shown)
    roles = ",".join(other.role("sensors") for other in others)
    scene.configure([scene.sensor(), *targets], SENSOR_ROLE_ARNS=roles, CACHE_SECONDS="60")
    subnet = scene.subnet("a")
    there = [*[[TARGETS]] * (not shown), [SESSIONS, INTERFACES]]
    around = [*COLD[2], ROUTES, *[INSTANCES, GROUPS, ACLS] * count]

    def rounds(*there: list[str]) -> list[list[str]]:
        first, *rest = (calls * count for calls in there)
        return [COLD[0], COLD[1] + first, *rest, around, COLD[3]]

    warmer = ("60", rounds([ASSUME], *there)), ("60", WARM), ("0", rounds(*there))
    for seconds, expected in warmer:
        os.environ["CACHE_SECONDS"] = seconds
        answer = run_in(scene, expected, scene.instance(subnet), others).answer
        assert answer.outcomes == ["created"]


# --- CACHE_SECONDS


def test_within_cache_seconds_an_event_takes_three_calls_in_two_round_trips(
    scene: Scene, clock: Clock
) -> None:
    """A sensor whose interface is gone is not asked for again, and reading prolongs nothing."""
    gone = scene.sensor(attached=False)
    scene.configure([scene.sensor(), gone], CACHE_SECONDS="60")
    scene.delete_sensor_interface(gone)
    subnet = scene.subnet("a")
    moments = ((0, COLD), (59.9, WARM), (60, COLD), (119.9, WARM), (120, COLD), (100, COLD))
    for seconds, expected in moments:
        clock.now = seconds
        assert run_in(scene, expected, scene.instance(subnet)).answer.outcomes == ["created"]


def test_what_is_cached_does_not_say_that_there_is_no_sensor(scene: Scene) -> None:
    group = scene.group()
    closed = scene.sensor(groups=[group])
    scene.configure(closed, CACHE_SECONDS="60")
    subnet = scene.subnet("a")
    assert scene.run(scene.instance(subnet)).sensors[closed]["stage"] == "security_group"
    scene.ec2.authorize_security_group_ingress(
        GroupId=group, IpProtocol="udp", FromPort=4789, ToPort=4789, CidrIp="10.0.0.0/8"
    )  # what is cached says that it is closed
    answer = run_in(scene, [WARM[0], [TARGETS], *COLD[1:]], scene.instance(subnet)).answer
    assert answer.sensors[closed]["verdict"] == "selected"
    # What was read instead is what is cached now.
    assert run_in(scene, WARM, scene.instance(subnet)).answer.entry["target_id"] == closed


@pytest.mark.parametrize("answered", [True, False])
def test_a_batch_reads_the_sensors_afresh_once(scene: Scene, answered: bool) -> None:
    scene.configure(scene.sensor(groups=[scene.group()]), CACHE_SECONDS="60")
    scene.run(scene.instance())
    calls(scene)
    if not answered:
        scene.fail(TARGETS, "InternalError", status=500)
    delivery = deliver({"instance-ids": scene.instances(20)})
    if answered:
        assert delivery.answer.outcomes == ["unmirrored"] * 20
        assert calls(scene) == Counter(operation for round_ in COLD[:3] for operation in round_)
    else:
        assert delivery.error.startswith("20 failed")
        assert calls(scene)[TARGETS] == 1


def test_sessions_and_instances_are_never_cached(scene: Scene) -> None:
    one, other = scene.sensor(), scene.sensor(sessions=1)
    scene.configure([one, other], CACHE_SECONDS="60", EXCLUDE_TAGS="quiet")
    first, second, third = (new_instance(scene) for _ in range(3))
    assert scene.run(first).entry["target_id"] == one
    for number in range(5):
        scene.session(f"eni-{number:017x}", one)
    assert scene.run(second).entry["target_id"] == other
    scene.session(scene.first_interface(third), "tmt-of-somebody-else")
    assert scene.run(third).outcomes == ["exists"]
    scene.ec2.create_tags(Resources=[third], Tags=[{"Key": "quiet", "Value": ""}])
    assert scene.run(third).outcomes == ["skipped"]
    assert calls(scene)[TARGETS] == 1


def test_targets_that_are_configured_meanwhile_are_used_at_once(scene: Scene) -> None:
    """Answers are kept by what was asked, so the new target's interface is all that is lacking."""
    first, second = scene.sensor(sessions=1), scene.sensor()
    scene.configure(first, CACHE_SECONDS="60")
    subnet = scene.subnet("a")
    scene.run(scene.instance(subnet))
    scene.configure([first, second], CACHE_SECONDS="60")
    expected = [WARM[0], [INTERFACES], [INSTANCES], WARM[1]]
    assert run_in(scene, expected, scene.instance(subnet)).answer.entry["target_id"] == second


@pytest.mark.parametrize("operation", [TARGETS, INTERFACES, GROUPS, ACLS, PREFIX_LIST])
def test_what_could_not_be_read_is_not_cached(scene: Scene, operation: str) -> None:
    listed = scene.group(rule(prefix_list=scene.prefix_list("10.0.0.0/8")))
    target = scene.sensor(groups=[listed])
    # With another one that is fine, so that there is something to cache.
    scene.configure([target, scene.sensor(sessions=7)], CACHE_SECONDS="60")
    instance = new_instance(scene)
    scene.fail(operation, "InternalError", status=500)
    deliver(running_event(instance) | {"dry_run": True})
    scene.heal()
    calls(scene)
    assert scene.run(instance).entry["target_id"] == target
    assert calls(scene)[operation] == 1


@pytest.mark.parametrize(("call", "place"), [(TARGETS, 0), (INTERFACES, 1)])
def test_while_the_cache_cannot_be_renewed_only_those_that_need_it_fail(
    scene: Scene, call: str, place: int
) -> None:
    scene.configure(scene.sensor(), CACHE_SECONDS="60")
    scene.run(scene.instance())
    instances = scene.instances(2)
    instances.insert(place, scene.instance(zone="b"))
    scene.fail(call)
    assert deliver(sqs_event(*map(running_event, instances))).again == [place]
    assert sum(scene.sessions_of(*instances)) == 2
    scene.heal()
    assert scene.run(instances[place]).outcomes == ["unmirrored"]


def test_a_block_that_cannot_be_read_is_not_cached(scene: Scene) -> None:
    group = scene.group(rule(cidr="10.0.0.0/8"))
    target = scene.sensor(groups=[group])
    scene.configure([target, scene.sensor(zone="b")], CACHE_SECONDS="60")
    blocks = iter(["10.0.0.0/99"])

    def change(answer: dict[str, Any]) -> None:
        text = json.dumps(answer, default=str)
        answer.update(json.loads(text.replace("10.0.0.0/8", next(blocks, "10.0.0.0/8"))))

    scene.show(GROUPS, change)
    assert scene.run(scene.instance(zone="b")).outcomes == ["created"]  # which does not need it
    assert scene.run(scene.instance()).entry["target_id"] == target


# --- Batches and sweeps


# How many instances, what CACHE_SECONDS is, and which reads go out together.
BATCHES = {
    "1": (1, "0", COLD[:3]),
    "10": (10, "0", COLD[:3]),
    "11": (11, "0", COLD[:3]),
    "100": (100, "0", COLD[:3]),
    "100 with a warm cache": (100, "60", WARM[:1]),
    "201, which are two lists": (201, "0", [[*COLD[0], INSTANCES], *COLD[1:3]]),
}


@pytest.mark.parametrize(("count", "seconds", "reads"), BATCHES.values(), ids=BATCHES)
def test_a_batch_takes_the_reads_once_and_a_round_trip_for_ten_creates(
    scene: Scene, count: int, seconds: str, reads: list[list[str]]
) -> None:
    scene.configure(sensors(scene, 5), CACHE_SECONDS=seconds)
    if seconds != "0":
        scene.run(scene.instance())
    instances = scene.instances(count)
    tens = [[CREATE] * min(10, count - done) for done in range(0, count, 10)]
    assert run_in(scene, [*reads, *tens], KINDS["SQS batch"](instances)).complete
    assert scene.sessions_of(*instances) == [1] * count


def test_a_sweep_reads_instances_page_by_page_and_acls_and_routes_of_each_vpc_once(
    scene: Scene,
) -> None:
    scene.show_pages_of(10)
    scene.configure(scene.sensor(quota=10_000))
    for number in range(3):
        vpc = scene.vpc(f"10.{number + 1}.0.0/16")
        scene.route_table(vpc, [route("10.0.0.0/16", tgw=True)], main=True)
        scene.instances(6, scene.subnet("a", vpc=vpc, prefix=20))
    answer = scene.run({"sweep": True, "dry_run": True}, LambdaContext(600))
    assert answer.summary == {"planned": 18, "skipped": 1}
    assert {c.parameters["MaxResults"] for c in scene.calls if c.operation != ROUTES} == {1_000}
    # Two pages of instances; the second one comes to a VPC of its own.
    expected = {TARGETS: 1, INTERFACES: 1, GROUPS: 1, ACLS: 2, INSTANCES: 3, SESSIONS: 1, ROUTES: 2}
    assert calls(scene) == expected


def test_a_sweep_takes_nothing_from_the_cache_and_what_is_mirrored_costs_no_call(
    scene: Scene,
) -> None:
    target = scene.sensor(quota=1_000)
    scene.configure(target, CACHE_SECONDS="60")
    scene.run(scene.instance())
    scene.mirrored(target, 30)
    scene.instance()
    calls(scene)
    assert scene.run(scheduled_event()).summary == {"created": 1, "exists": 31, "skipped": 1}
    expected = {TARGETS: 1, INTERFACES: 1, GROUPS: 1, ACLS: 1, INSTANCES: 2, SESSIONS: 1, CREATE: 1}
    assert calls(scene) == expected
