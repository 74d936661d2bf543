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
from conftest import KINDS, Clock, Delivery, Scene, deliver, error_of, missing

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
            together = self.changed.wait_for(lambda: len(self.begun) >= end, timeout=30)
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
    options.setdefault("quota", 10_000)
    return [scene.sensor(zone="abc"[index % 3], **options) for index in range(count)]


def new_instance(scene: Scene, zone: str = "a", **options: Any) -> str:
    """An instance in a subnet of its own, so that network ACLs have a say."""
    return scene.instance(scene.subnet(zone), **options)


# --------------------------------------------------------------------------------------
# One event, nothing cached
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 200])
def test_one_event_takes_eight_calls_in_four_round_trips(scene: Scene, count: int) -> None:
    scene.configure(sensors(scene, count))
    instance = new_instance(scene)
    assert run_in(scene, COLD, instance).answer.outcomes == ["created"]
    assert scene.count() == 8


def test_what_the_sensors_are_does_not_matter(scene: Scene) -> None:
    """Many groups, rules, ACLs and VPCs; missing, stopped, foreign, closed and unattached. One in
    another VPC costs the route tables besides, and no round trip."""
    other = scene.vpc("10.1.0.0/16")
    scene.route_table(routes=[route("10.1.0.0/16", pcx=True)], main=True)
    closed = [scene.group(rule("tcp"), rule(cidr="192.0.2.0/24")) for _ in range(5)]
    targets = [
        scene.sensor(groups=closed),
        scene.sensor(scene.subnet("a", acl=[acl_entry(1, "deny")])),
        scene.sensor(scene.subnet("a", vpc=other)),
        scene.sensor(attached=False),
        scene.sensor(state="stopped"),
        scene.missing_sensor(),
        scene.foreign_sensor(),
    ]
    scene.configure(targets, LOCAL_ZONE_ONLY="false", ALLOW_UNVERIFIED="true")
    expected = [*COLD[:2], [*COLD[2], ROUTES], COLD[3]]
    assert run_in(scene, expected, new_instance(scene)).answer.outcomes == ["created"]


@pytest.mark.parametrize(("sessions", "pages"), [(1_000, 1), (1_001, 2), (2_001, 3)])
def test_each_further_page_of_sessions_adds_one_call(
    scene: Scene, sessions: int, pages: int
) -> None:
    scene.account_quota = 20_000
    light, heavy = scene.sensor(), scene.sensor(quota=20_000)
    scene.configure([heavy, light])
    instance = new_instance(scene)
    for number in range(sessions):
        scene.session(f"eni-{number:017x}", heavy)
    answer = run_in(scene, [COLD[0], *[[SESSIONS]] * (pages - 1), *COLD[1:]], instance).answer
    assert [row["sessions"] for row in answer.sensors.values()] == [sessions, 0]


@pytest.mark.parametrize(
    ("count", "groups_each", "more"),
    [
        (200, 1, []),
        (201, 0, [INTERFACES, INSTANCES]),
        (401, 1, [INTERFACES, INSTANCES, GROUPS] * 2),
    ],
)
def test_lists_of_200_add_calls_but_no_round_trips(
    scene: Scene, count: int, groups_each: int, more: list[str]
) -> None:
    def groups() -> list[str] | None:
        return [scene.group(rule()) for _ in range(groups_each)] or None

    scene.configure([scene.sensor(zone="abc"[n % 3], groups=groups()) for n in range(count)])
    second = [call for call in more if call == INTERFACES]
    third = [call for call in more if call != INTERFACES]
    expected = [COLD[0], COLD[1] + second, COLD[2] + third, COLD[3]]
    assert run_in(scene, expected, new_instance(scene)).answer.outcomes == ["created"]


def test_load_balancers_add_one_call_in_the_same_round(scene: Scene) -> None:
    subnets = [scene.subnet(zone) for zone in "abc"]
    targets = [scene.nlb_sensor(subnets) for _ in range(3)]
    targets += [scene.gwlb_sensor(subnets), scene.sensor()]
    scene.configure(targets, EXCLUDE_TAGS="sensor")
    expected = [COLD[0], [INTERFACES, INTERFACES], *COLD[2:]]
    assert run_in(scene, expected, new_instance(scene)).answer.outcomes == ["created"]


def test_prefix_lists_are_read_together_if_a_rule_about_vxlan_names_them(scene: Scene) -> None:
    blocks = [f"192.0.{number}.0/24" for number in range(101)]  # two pages
    lists = [scene.prefix_list(*blocks), scene.prefix_list("10.0.0.0/8")]
    web = scene.group(rule("tcp", ports=(80, 80), prefix_list=scene.prefix_list("10.0.0.0/8")))
    groups = [web, *(scene.group(rule(prefix_list=key)) for key in lists)]
    scene.configure(scene.sensor(groups=groups))
    expected = [*COLD[:3], [PREFIX_LIST, PREFIX_LIST], [PREFIX_LIST], [CREATE]]
    assert run_in(scene, expected, new_instance(scene)).answer.outcomes == ["created"]


ASSUME = "sts:AssumeRole"


@pytest.mark.parametrize(("count", "shown"), [(1, True), (1, False), (10, True)])
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


# An instance for which nothing is created, in an account with this target; what comes of it.
SET_ASIDE: dict[str, tuple[Callable[[Scene, str], str], str]] = {
    "mirrored": (lambda s, target: s.mirrored(target)[0], "exists"),
    "tag": (lambda s, target: s.instance(tags={"quiet": ""}), "skipped"),
    "stopped": (lambda s, target: s.instance(state="stopped"), "skipped"),
    "sensor": (lambda s, target: s.sensor_instance(target), "skipped"),
    "type": (lambda s, target: s.instance(interface_type="efa"), "skipped"),
    "address": (lambda s, target: s.instance(ipv6_only=True), "skipped"),
}


@pytest.mark.parametrize(("build", "outcome"), SET_ASIDE.values(), ids=SET_ASIDE.keys())
def test_what_needs_no_sensor_costs_three_calls_in_one_round_trip(
    scene: Scene, build: Callable[[Scene, str], str], outcome: str
) -> None:
    targets = sensors(scene, 50)
    scene.configure(targets, EXCLUDE_TAGS="quiet")
    instance = build(scene, targets[7])
    assert run_in(scene, COLD[:1], instance).answer.outcomes == [outcome]


def test_without_a_sensor_or_in_a_dry_run_only_the_create_falls_away(scene: Scene) -> None:
    scene.configure(scene.sensor(zone="b"))
    assert run_in(scene, COLD[:3], new_instance(scene)).answer.outcomes == ["unmirrored"]

    event = {**running_event(new_instance(scene, "b")), "dry_run": True}
    assert run_in(scene, COLD[:3], event).answer.outcomes == ["planned"]


def test_each_refusal_and_each_interface_adds_one_create(scene: Scene) -> None:
    full = [scene.sensor(quota=0) for _ in range(3)]
    scene.configure([*full, *sensors(scene, 3, sessions=2)])
    # The four choose together: all take full ones, are refused, and choose again.
    expected = [*COLD[:3], [CREATE] * 4, [CREATE] * 4]
    answer = run_in(scene, expected, new_instance(scene, interfaces=4)).answer
    assert answer.outcomes == ["created"] * 4


# --------------------------------------------------------------------------------------
# CACHE_SECONDS
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 199])
def test_a_second_event_takes_three_calls_in_two_round_trips(scene: Scene, count: int) -> None:
    scene.configure(sensors(scene, count), CACHE_SECONDS="60")
    subnet = scene.subnet("a")
    first, second, third = (scene.instance(subnet) for _ in range(3))
    for instance, expected in ((first, COLD), (second, WARM), (third, WARM), (third, WARM[:1])):
        run_in(scene, expected, instance)
    assert all(scene.sessions(scene.first_interface(i)) for i in (first, second, third))


def test_the_cache_expires(scene: Scene, clock: Clock) -> None:
    scene.configure(scene.sensor(), CACHE_SECONDS="60")
    subnet = scene.subnet("a")
    moments = ((0, COLD), (59.9, WARM), (60, COLD), (119.9, WARM), (120, COLD), (100, COLD))
    for seconds, expected in moments:
        clock.now = seconds
        assert run_in(scene, expected, scene.instance(subnet)).answer.outcomes == ["created"]


def test_reading_the_cache_does_not_prolong_it(scene: Scene, clock: Clock) -> None:
    scene.configure(scene.sensor(), CACHE_SECONDS="60")
    for seconds in (0, 40, 80):  # each in a new subnet, so that each adds to what is known
        clock.now = seconds
        scene.run(new_instance(scene))
        assert (TARGETS in calls(scene)) is (seconds != 40)


def open_group(scene: Scene, group: str) -> None:
    scene.ec2.authorize_security_group_ingress(
        GroupId=group, IpProtocol="udp", FromPort=4789, ToPort=4789, CidrIp="10.0.0.0/8"
    )


def test_what_is_cached_does_not_say_that_there_is_no_sensor(scene: Scene) -> None:
    group = scene.group()
    closed = scene.sensor(groups=[group])
    scene.configure(closed, CACHE_SECONDS="60")
    subnet = scene.subnet("a")
    assert scene.run(scene.instance(subnet)).sensors[closed]["stage"] == "security_group"
    open_group(scene, group)  # what is cached says that it is closed
    answer = run_in(scene, [WARM[0], [TARGETS], *COLD[1:]], scene.instance(subnet)).answer
    assert answer.sensors[closed]["verdict"] == "selected"
    # What was read instead is what is cached now.
    assert run_in(scene, WARM, scene.instance(subnet)).answer.entry["target_id"] == closed


def test_a_batch_reads_the_sensors_afresh_once(scene: Scene) -> None:
    scene.configure(scene.sensor(groups=[scene.group()]), CACHE_SECONDS="60")
    scene.run(scene.instance())
    calls(scene)
    assert scene.run({"instance-ids": scene.instances(20)}).outcomes == ["unmirrored"] * 20
    assert calls(scene) == Counter(operation for round_ in COLD[:3] for operation in round_)


def test_while_the_cache_leaves_a_sensor_what_it_says_of_another_may_be_old(scene: Scene) -> None:
    """States of hosts included."""
    group = scene.group()
    stopped, closed = scene.sensor(), scene.sensor(groups=[group])
    scene.configure([stopped, closed], CACHE_SECONDS="60")
    subnet = scene.subnet("a")
    scene.run(scene.instance(subnet))
    scene.stop(scene.sensor_instance(stopped))
    open_group(scene, group)
    event = running_event(scene.instance(subnet)) | {"dry_run": True}
    answer = run_in(scene, WARM[:1], event).answer
    assert answer.sensors[stopped]["verdict"] == "selected"
    assert answer.sensors[closed]["stage"] == "security_group"


def test_sessions_and_instances_are_never_cached(scene: Scene) -> None:
    one, other = scene.sensor(), scene.sensor(sessions=1)
    scene.configure([one, other], CACHE_SECONDS="60", EXCLUDE_TAGS="quiet")
    first, second, third, fourth = (new_instance(scene) for _ in range(4))
    assert scene.run(first).entry["target_id"] == one
    for number in range(5):
        scene.session(f"eni-{number:017x}", one)
    assert scene.run(second).entry["target_id"] == other
    scene.session(scene.first_interface(third), "tmt-of-somebody-else")
    assert scene.run(third).outcomes == ["exists"]
    scene.ec2.create_tags(Resources=[fourth], Tags=[{"Key": "quiet", "Value": ""}])
    assert scene.run(fourth).outcomes == ["skipped"]
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


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("call", [TARGETS, INTERFACES])
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


def test_a_batch_tries_once_to_read_the_sensors_afresh(scene: Scene) -> None:
    scene.configure(scene.sensor(groups=[scene.group()]), CACHE_SECONDS="60")
    scene.run(scene.instance())
    calls(scene)
    scene.fail(TARGETS, "InternalError", status=500)
    assert "5 failed" in error_of({"instance-ids": scene.instances(5)})
    assert calls(scene)[TARGETS] == 1


BLOCK = "10.0.0.0/8"


def far_sensor(scene: Scene) -> str:
    scene.route_table(routes=[route(BLOCK, tgw=True)], main=True)
    return scene.sensor(scene.subnet(vpc=scene.vpc("10.9.0.0/16")))


# A sensor that only this block lets in, and the call that shows the block.
BLOCKS: dict[str, tuple[Callable[[Scene], str], str]] = {
    "a rule": (lambda s: s.sensor(groups=[s.group(rule(cidr=BLOCK))]), GROUPS),
    "an ACL entry": (lambda s: s.sensor(s.subnet(acl=[acl_entry(1, "allow", BLOCK)])), ACLS),
    "an entry of a prefix list": (
        lambda s: s.sensor(groups=[s.group(rule(prefix_list=s.prefix_list(BLOCK)))]),
        PREFIX_LIST,
    ),
    "a route": (far_sensor, ROUTES),
}


@pytest.mark.parametrize("kind", ["event", "sweep"])
@pytest.mark.parametrize("zone", ["a", "b"], ids=["needed", "not needed at first"])
@pytest.mark.parametrize(("build", "call"), BLOCKS.values(), ids=BLOCKS.keys())
def test_a_block_that_cannot_be_read_is_not_cached(
    scene: Scene, build: Callable[[Scene], str], call: str, zone: str, kind: str
) -> None:
    sensor = build(scene)
    scene.configure([sensor, scene.sensor(zone="b")], CACHE_SECONDS="60")
    bad = ["10.0.0.0/99"]

    def change(answer: dict[str, Any]) -> None:
        text = json.dumps(answer, default=str)
        answer.update(json.loads(text.replace(BLOCK, bad[0] if bad else BLOCK)))

    scene.show(call, change)
    instance = scene.instance(zone=zone)
    first = deliver(running_event(instance) if kind == "event" else scheduled_event())
    assert bool(first.error) == (zone == "a")
    bad.clear()
    assert scene.run(scene.instance()).entry["target_id"] == sensor


# --------------------------------------------------------------------------------------
# Batches and sweeps
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "sqs"), [(10, True), (100, False), (200, True)])
def test_a_batch_takes_the_reads_once_and_a_create_each(
    scene: Scene, count: int, sqs: bool
) -> None:
    scene.configure(sensors(scene, 50))
    ids = scene.instances(count)
    expected = [*COLD[:3], *[[CREATE] * min(count, 10)] * -(-count // 10)]
    assert len(expected) == {10: 4, 100: 13, 200: 23}[count]
    assert run_in(scene, expected, KINDS["SQS batch" if sqs else "instance-ids"](ids)).complete
    assert len(scene.sessions()) == count
    assert count > 100 or scene.count() <= 120


def test_a_batch_of_more_than_200_reads_two_lists(scene: Scene) -> None:
    scene.configure(sensors(scene, 3))
    event = {"instance-ids": scene.instances(201), "dry_run": True}
    run_in(scene, [[*COLD[0], INSTANCES], *COLD[1:3]], event)


def test_a_batch_with_a_warm_cache(scene: Scene) -> None:
    scene.configure(sensors(scene, 50), CACHE_SECONDS="60")
    scene.run(scene.instance())
    run_in(scene, [WARM[0], *[[CREATE] * 10] * 10], KINDS["SQS batch"](scene.instances(100)))


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
    # Two pages of instances; the second one comes to a VPC of its own.
    expected = {TARGETS: 1, INTERFACES: 1, GROUPS: 1, ACLS: 2, INSTANCES: 3, SESSIONS: 1, ROUTES: 2}
    assert calls(scene) == expected


def test_interfaces_that_are_mirrored_and_reachable_cost_a_sweep_no_call(scene: Scene) -> None:
    target = scene.sensor(quota=1_000)
    scene.configure(target)
    scene.mirrored(target, 200)
    assert scene.run(scheduled_event()).summary == {"exists": 200, "skipped": 1}
    assert calls(scene) == Counter(operation for round_ in COLD[:3] for operation in round_)


def test_a_sweep_takes_nothing_from_the_cache(scene: Scene) -> None:
    scene.configure(scene.sensor(), CACHE_SECONDS="60")
    scene.run(scene.instance())
    scene.instance()
    calls(scene)
    assert scene.run(scheduled_event()).summary == {"created": 1, "exists": 1, "skipped": 1}
    expected = {TARGETS: 1, INTERFACES: 1, GROUPS: 1, ACLS: 1, INSTANCES: 2, SESSIONS: 1, CREATE: 1}
    assert calls(scene) == expected


# --------------------------------------------------------------------------------------
# Failures among calls that go out together
# --------------------------------------------------------------------------------------


def test_each_list_has_its_own_error(scene: Scene) -> None:
    """Of three lists one is denied, one is refused and one is answered."""
    scene.configure(sensors(scene, 3))
    ids = sorted(scene.instances(450))

    first = [lambda parameters, i=i: ids[i] in parameters["Filters"][0]["Values"] for i in (0, 200)]
    scene.fail(INSTANCES, "UnauthorizedOperation", status=403, where=first[0])
    scene.fail(INSTANCES, "OperationNotPermitted", status=400, where=first[1])
    # Those at the end of the first list and at the start of the second one are named first.
    event = {"instance-ids": ids[190:210] + ids[:190] + ids[210:]}
    message = error_of(event, LambdaContext(600))
    wanted = ("400 failed", f"ec2:{INSTANCES}", "OperationNotPermitted")
    assert (missing(message, *wanted), len(scene.sessions())) == ([], 50)


@pytest.mark.parametrize(("number", "operation"), [(0, TARGETS), (1, INTERFACES), (2, ACLS)])
def test_a_failed_call_lets_the_others_finish(scene: Scene, number: int, operation: str) -> None:
    """The failure comes first, the other answers after it; no thread is left to see to them."""
    scene.configure(sensors(scene, 3))
    instance = new_instance(scene)
    first = sum(map(len, COLD[:number]))  # the number of calls in earlier rounds
    failing = threading.Event()
    before = threading.enumerate()

    def gate(called: str, parameters: dict[str, Any]) -> None:
        if len(scene.calls) <= first:
            return
        if called == operation:
            failing.set()
        assert failing.wait(30)

    scene.gates.append(gate)
    earlier = sum(round_.count(operation) for round_ in COLD[:number])
    scene.fail(operation, "UnauthorizedOperation", status=403, after=earlier)
    assert f"ec2:{operation}" in error_of(instance)
    together = scene.calls[first : first + len(COLD[number])]
    assert sorted(call.operation for call in together if call.ended) == sorted(COLD[number])
    assert threading.enumerate() == before
