"""What an event costs: which AWS calls it takes, and which of them go out together.

Counts and round trips are exact, so nothing here looks at seconds.
"""

from __future__ import annotations

import json
import os
import random
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
from conftest import Clock, Delivery, Scene, Sleeps, deliver, error_of
from model import expect
from moto.moto_api._internal import mock_random
from worlds import Builder, apply_limits, differences, handle, outcomes_of, read_world

import lambda_traffic_mirror

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
    options.setdefault("quota", 10_000)
    return [scene.sensor(zone="abc"[index % 3], **options) for index in range(count)]


def new_instance(scene: Scene, zone: str = "a", **options: Any) -> str:
    """An instance in a subnet of its own, so that network ACLs have a say."""
    return scene.instance(scene.subnet(zone), **options)


# --------------------------------------------------------------------------------------
# One event, nothing cached
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 10, 50, 200])
def test_one_event_takes_eight_calls_in_four_round_trips(scene: Scene, count: int) -> None:
    scene.configure(sensors(scene, count))
    instance = new_instance(scene)
    assert run_in(scene, COLD, instance).answer.outcomes == ["created"]
    assert scene.count() == 8


def test_calls_overlap_where_they_take_time(scene: Scene) -> None:
    scene.configure(sensors(scene, 3))
    scene.latency = 0.3
    scene.run(new_instance(scene))
    assert scene.round_trips() == 4
    for together in ([0, 1, 2], [4, 5, 6]):
        group = [scene.calls[index] for index in together]
        assert max(call.started for call in group) < min(call.ended or 0 for call in group)
    assert len({call.thread_id for call in scene.calls[:3]}) == 3


def test_what_the_sensors_are_does_not_matter(scene: Scene) -> None:
    """Many groups, rules, ACLs and VPCs; missing, stopped, foreign, closed and unattached. One in
    another VPC costs the route tables besides."""
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
    assert run_in(scene, [*COLD[:3], [ROUTES], COLD[3]], new_instance(scene)).answer.outcomes == [
        "created"
    ]


@pytest.mark.parametrize(("sessions", "pages"), [(0, 1), (1_000, 1), (1_001, 2), (2_001, 3)])
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
        (200, 1, {}),
        (201, 0, {INTERFACES: 1, INSTANCES: 1}),
        (300, 5, {INTERFACES: 1, INSTANCES: 1, GROUPS: 7}),
        (401, 1, {INTERFACES: 2, INSTANCES: 2, GROUPS: 2}),
    ],
)
def test_lists_of_200_add_calls_but_no_round_trips(
    scene: Scene, count: int, groups_each: int, more: dict[str, int]
) -> None:
    def groups() -> list[str] | None:
        return [scene.group(rule()) for _ in range(groups_each)] or None

    scene.configure([scene.sensor(zone="abc"[n % 3], groups=groups()) for n in range(count)])
    instance = new_instance(scene)
    expected = [
        COLD[0],
        COLD[1] + [INTERFACES] * more.get(INTERFACES, 0),
        COLD[2] + [GROUPS] * more.get(GROUPS, 0) + [INSTANCES] * more.get(INSTANCES, 0),
        COLD[3],
    ]
    assert run_in(scene, expected, instance).answer.outcomes == ["created"]


def test_load_balancers_add_one_call_in_the_same_round(scene: Scene) -> None:
    subnets = [scene.subnet(zone) for zone in "abc"]
    targets = [scene.nlb_sensor(subnets) for _ in range(3)]
    targets += [scene.gwlb_sensor(subnets), scene.sensor()]
    scene.configure(targets, EXCLUDE_TAGS="sensor")
    assert run_in(
        scene, [COLD[0], [INTERFACES, INTERFACES], *COLD[2:]], new_instance(scene)
    ).answer.outcomes == ["created"]


def test_prefix_lists_are_read_together_and_only_where_nothing_else_admits(scene: Scene) -> None:
    blocks = [f"192.0.{number}.0/24" for number in range(101)]  # two pages
    lists = [scene.prefix_list(*blocks), scene.prefix_list("10.0.0.0/8")]
    groups = [scene.group(rule(prefix_list=key)) for key in lists]
    scene.configure(scene.sensor(groups=groups))
    assert run_in(
        scene, [*COLD[:3], [PREFIX_LIST, PREFIX_LIST], [PREFIX_LIST], [CREATE]], new_instance(scene)
    ).answer.outcomes == ["created"]

    scene.configure(scene.sensor(groups=[*groups, scene.group(rule())]))
    assert run_in(scene, COLD, new_instance(scene)).answer.outcomes == ["created"]


ASSUME = "sts:AssumeRole"
# Of another account whose target is shown with its interface, or without.
READ_THERE = [[ASSUME], [SESSIONS, INTERFACES], [INSTANCES, GROUPS, ACLS], [], [], []]
PLACED_THERE = [[ASSUME], [SESSIONS, TARGETS], [INTERFACES], [INSTANCES, GROUPS, ACLS], [], []]


@pytest.mark.parametrize(("count", "shown"), [(1, True), (1, False), (3, True), (10, True)])
def test_other_accounts_add_their_reads_but_no_round_trip(
    scene: Scene, count: int, shown: bool
) -> None:
    """But for the routes, as a sensor there is in another VPC, and for a target that is shown
    without its interface. Warm, they cost nothing."""
    others = [scene.other(f"{number:012}") for number in range(1, count + 1)]
    scene.route_table(routes=[route("10.9.0.0/16", tgw=True)], main=True)
    targets = [other.sensor(other.subnet(vpc=other.vpc("10.9.0.0/16"))) for other in others]
    for other, target in zip(others, targets, strict=True):
        other.share(target, interface=shown)
    roles = ",".join(other.role("sensors") for other in others)
    scene.configure([scene.sensor(), *targets], SENSOR_ROLE_ARNS=roles, CACHE_SECONDS="60")
    subnet = scene.subnet("a")
    here = [*COLD[:3], [ROUTES], COLD[3], []]
    there = READ_THERE
    if not shown:
        here, there = [*COLD[:3], [], [ROUTES], COLD[3]], PLACED_THERE
    cold = [a + b * count for a, b in zip(here, there, strict=True) if a + b]
    warm = [cold[0][:3], *cold[1:]]  # but for the sensors
    for seconds, expected in (("60", cold), ("60", WARM), ("0", warm)):
        os.environ["CACHE_SECONDS"] = seconds
        assert run_in(scene, expected, scene.instance(subnet), others).answer.outcomes == [
            "created"
        ]


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


@pytest.mark.parametrize(
    ("event", "status"), [(running_event("i-1", state="stopped"), 200), ({"key1": "value1"}, 400)]
)
def test_what_asks_for_nothing_costs_nothing(
    scene: Scene, event: dict[str, Any], status: int
) -> None:
    scene.configure(scene.sensor())
    assert scene.run(event).status == status
    assert calls(scene) == {}


def test_without_a_sensor_or_in_a_dry_run_only_the_create_falls_away(scene: Scene) -> None:
    scene.configure(scene.sensor(zone="b"))
    assert run_in(scene, COLD[:3], new_instance(scene)).answer.outcomes == ["unmirrored"]

    event = {**running_event(new_instance(scene, "b")), "dry_run": True}
    assert run_in(scene, COLD[:3], event).answer.outcomes == ["planned"]


def test_each_refusal_and_each_interface_adds_one_create(scene: Scene) -> None:
    full = [scene.sensor(quota=0) for _ in range(3)]
    scene.configure([*full, *sensors(scene, 3, sessions=2)])
    # The four choose together: all take full ones, are refused, and choose again.
    assert (
        run_in(
            scene, [*COLD[:3], [CREATE] * 4, [CREATE] * 4], new_instance(scene, interfaces=4)
        ).answer.outcomes
        == ["created"] * 4
    )


def test_looking_in_other_zones_costs_nothing(scene: Scene) -> None:
    targets = [scene.sensor(groups=[scene.group()]), scene.sensor(zone="b")]
    scene.configure(targets, LOCAL_ZONE_ONLY="false")
    assert run_in(scene, COLD, new_instance(scene)).answer.outcomes == ["created"]


# --------------------------------------------------------------------------------------
# CACHE_SECONDS
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 10, 50, 199])
def test_a_second_event_takes_three_calls_in_two_round_trips(scene: Scene, count: int) -> None:
    scene.configure(sensors(scene, count), CACHE_SECONDS="60")
    subnet = scene.subnet("a")
    first, second, third = (scene.instance(subnet) for _ in range(3))
    for instance, expected in ((first, COLD), (second, WARM), (third, WARM), (third, WARM[:1])):
        run_in(scene, expected, instance)
    assert all(scene.sessions(scene.first_interface(i)) for i in (first, second, third))


def test_without_cache_seconds_every_event_costs_the_same(scene: Scene) -> None:
    scene.configure(scene.sensor())
    for _ in range(2):
        run_in(scene, COLD, new_instance(scene))


def test_the_cache_expires(scene: Scene, clock_of_day: Clock) -> None:
    scene.configure(scene.sensor(), CACHE_SECONDS="60")
    subnet = scene.subnet("a")
    moments = ((0, COLD), (59.9, WARM), (60, COLD), (119.9, WARM), (120, COLD), (100, COLD))
    for seconds, expected in moments:
        clock_of_day.now = seconds
        assert run_in(scene, expected, scene.instance(subnet)).answer.outcomes == ["created"]


def test_reading_the_cache_does_not_prolong_it(scene: Scene, clock_of_day: Clock) -> None:
    scene.configure(scene.sensor(), CACHE_SECONDS="60")
    for seconds in (0, 40, 80):  # each in a new subnet, so that each adds to what is known
        clock_of_day.now = seconds
        scene.run(new_instance(scene))
        assert (TARGETS in calls(scene)) is (seconds != 40)


CHANGED = {
    "targets": "TWO",
    "LOCAL_ZONE_ONLY": "false",
    "LOCAL_VPC_ONLY": "true",
    "INCLUDE_TAGS": "Name",
    "EXCLUDE_TAGS": "quiet",
    "SESSION_NUMBER": "2",
    "VIRTUAL_NETWORK_ID": "7",
    "PACKET_LENGTH": "100",
    "ALLOW_UNVERIFIED": "true",
    "CACHE_SECONDS": "61",
    "DRY_RUN": "true",
    "filter_id": "OTHER",
}


@pytest.mark.parametrize(("variable", "value"), CHANGED.items())
def test_a_changed_configuration_is_not_served_from_the_cache(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    first, second = scene.sensor(), scene.sensor()
    scene.configure([first], CACHE_SECONDS="60")
    scene.run(new_instance(scene))
    calls(scene)
    if value == "TWO":
        value = f"{first} {second}"
    if value == "OTHER":
        answer = scene.ec2.create_traffic_mirror_filter()
        value = answer["TrafficMirrorFilter"]["TrafficMirrorFilterId"]
    monkeypatch.setenv(variable, value)
    scene.run(new_instance(scene, tags={"Name": "web"}))
    assert calls(scene)[TARGETS] == 1


def test_sessions_are_never_cached(scene: Scene) -> None:
    one, other = scene.sensor(), scene.sensor(sessions=1)
    scene.configure([one, other], CACHE_SECONDS="60")
    first, second, third = (new_instance(scene) for _ in range(3))
    assert scene.run(first).entry["target_id"] == one
    for _ in range(5):
        scene.session(f"eni-{random.getrandbits(68):017x}", one)
    assert scene.run(second).entry["target_id"] == other
    scene.session(scene.first_interface(third), "tmt-of-somebody-else")
    assert scene.run(third).outcomes == ["exists"]
    assert calls(scene)[TARGETS] == 1


def test_instances_are_never_cached(scene: Scene) -> None:
    scene.configure(scene.sensor(), CACHE_SECONDS="60", EXCLUDE_TAGS="quiet")
    instance = scene.instance()
    event = {**running_event(instance), "dry_run": True}
    assert scene.run(event).outcomes == ["planned"]
    scene.ec2.create_tags(Resources=[instance], Tags=[{"Key": "quiet", "Value": ""}])
    assert scene.run(event).outcomes == ["skipped"]
    scene.ec2.delete_tags(Resources=[instance], Tags=[{"Key": "quiet"}])
    assert scene.run(event).outcomes == ["planned"]
    scene.stop(instance)
    assert scene.run(event).outcomes == ["skipped"]
    assert calls(scene)[TARGETS] == 1


def test_a_sensor_that_has_stopped_meanwhile_is_noticed(scene: Scene) -> None:
    one, other = scene.sensor(), scene.sensor(sessions=5)
    scene.configure([one, other], CACHE_SECONDS="60")
    subnet = scene.subnet("a")
    assert scene.run(scene.instance(subnet)).entry["target_id"] == one
    scene.stop(scene.sensor_instance(one))
    instance = scene.instance(subnet)
    answer = run_in(scene, WARM, instance).answer
    assert answer.sensors[one]["stage"] == "unavailable"
    assert answer.sensors[other]["verdict"] == "selected"


def test_what_is_cached_does_not_say_that_there_is_no_sensor(scene: Scene) -> None:
    group = scene.group()
    one, other = scene.sensor(), scene.sensor(groups=[group])
    scene.configure([one, other], CACHE_SECONDS="60")
    subnet = scene.subnet("a")
    assert scene.run(scene.instance(subnet)).sensors[other]["stage"] == "security_group"
    scene.stop(scene.sensor_instance(one))
    scene.ec2.authorize_security_group_ingress(
        GroupId=group, IpProtocol="udp", FromPort=4789, ToPort=4789, CidrIp="10.0.0.0/8"
    )
    # The group is open by now; what is cached says that it is not.
    answer = run_in(scene, [WARM[0], [TARGETS], *COLD[1:]], scene.instance(subnet)).answer
    assert answer.sensors[other]["verdict"] == "selected"
    # What was read instead is what is cached now.
    assert run_in(scene, WARM, scene.instance(subnet)).answer.entry["target_id"] == other


def test_a_batch_reads_the_sensors_afresh_once(scene: Scene) -> None:
    target = scene.sensor()
    scene.configure(target, CACHE_SECONDS="60")
    scene.run(scene.instance())
    scene.stop(scene.sensor_instance(target))
    calls(scene)
    assert scene.run({"instance-ids": scene.instances(20)}).outcomes == ["unmirrored"] * 20
    assert calls(scene) == Counter(operation for round_ in COLD[:3] for operation in round_)


def test_a_batch_tries_once_to_read_the_sensors_afresh(scene: Scene, no_sleep: Sleeps) -> None:
    scene.configure(scene.sensor(groups=[scene.group()]), CACHE_SECONDS="60")
    scene.run(scene.instance())
    calls(scene)
    scene.fail(TARGETS, "InternalError", status=500)
    assert "5 failed" in error_of({"instance-ids": scene.instances(5)})
    assert calls(scene)[TARGETS] == 1


def test_a_subnet_that_is_newer_than_the_cache(scene: Scene) -> None:
    near = scene.sensor(scene.subnet("a"))
    loaded = scene.sensor(scene.subnet("a"), sessions=5)
    scene.configure([near, loaded], CACHE_SECONDS="60")
    assert scene.run(new_instance(scene)).entry["target_id"] == near
    # Packets may leave the new subnet only for the sensor with more sessions.
    address = scene.interface_view(scene.sensor_interface(near))["PrivateIpAddress"]
    denied = acl_entry(1, "deny", f"{address}/32", egress=True)
    subnet = scene.subnet(
        "a", acl=[acl_entry(1, "allow"), denied, acl_entry(2, "allow", egress=True)]
    )
    answer = run_in(scene, [WARM[0], [ACLS], [CREATE]], scene.instance(subnet)).answer
    assert answer.entry["target_id"] == loaded
    # By now it is known.
    assert run_in(scene, WARM, scene.instance(subnet)).answer.entry["target_id"] == loaded


def test_while_the_acl_of_a_newer_subnet_cannot_be_read_only_those_in_it_fail(scene: Scene) -> None:
    scene.configure(scene.sensor(scene.subnet("a")), CACHE_SECONDS="60")
    subnet = scene.subnet("a")
    scene.run(scene.instance(subnet))
    scene.fail(ACLS)
    event = sqs_event(
        *(running_event(scene.instance(where)) for where in (subnet, scene.subnet("a"), subnet))
    )
    assert deliver(event).again == [1]
    scene.heal()
    assert deliver(event).again == []


def test_a_vpc_that_is_newer_than_the_cache(scene: Scene) -> None:
    scene.configure(scene.sensor(), CACHE_SECONDS="60")
    scene.run(new_instance(scene))
    vpc = scene.vpc("10.1.0.0/16")
    scene.route_table(vpc, [route("10.0.0.0/16", pcx=True)], main=True)
    subnet = scene.subnet("a", vpc=vpc, acl=[acl_entry(1, "allow")])
    answer = run_in(scene, [WARM[0], [ACLS], [ROUTES], [CREATE]], scene.instance(subnet)).answer
    # The ACL denies all that leaves, which ranks the sensor and is no reason not to take it.
    assert answer.outcomes == ["created"]
    assert "outbound rule" in str(answer.entry["sensors"])


@pytest.mark.parametrize("known", [False, True], ids=["nothing cached", "cached before"])
def test_an_acl_that_cannot_be_seen_is_asked_for_once(scene: Scene, known: bool) -> None:
    scene.configure(scene.sensor(), CACHE_SECONDS="60")
    if known:
        scene.run(new_instance(scene))
    subnet = scene.subnet("a")
    scene.hide(scene.acl(subnet, []))
    first = [WARM[0], [ACLS], [CREATE]] if known else COLD
    for expected in (first, WARM, WARM):
        assert run_in(scene, expected, scene.instance(subnet)).answer.outcomes == ["created"]


def unknown_sensor(scene: Scene, *others: str) -> str:
    """The instance of a sensor, configured besides others, whose target the cache does not know.
    AWS would not refuse its other interface."""
    host = scene.instance(groups=[scene.group(rule())], interfaces=2)
    interface = scene.first_interface(host)
    made = scene.ec2.create_traffic_mirror_target(NetworkInterfaceId=interface)
    scene.configure(
        [*others, made["TrafficMirrorTarget"]["TrafficMirrorTargetId"]], CACHE_SECONDS="60"
    )
    not_yet = [interface]

    def change(answer: dict[str, Any]) -> None:
        rows = answer["TrafficMirrorTargets"]
        rows[:] = [row for row in rows if row["NetworkInterfaceId"] not in not_yet]

    scene.show(TARGETS, change)
    assert scene.run(scene.instance()).outcomes == ["created" if others else "unmirrored"]
    not_yet.clear()
    return host


def test_a_sensor_that_the_cache_does_not_know_is_not_mirrored_into_itself(scene: Scene) -> None:
    host = unknown_sensor(scene)
    assert scene.run(host).outcomes == ["skipped", "skipped"]
    assert scene.count(CREATE) == 0


def test_a_sensor_is_no_source_once_aws_has_shown_it_whatever_else_cannot_be_renewed(
    scene: Scene,
) -> None:
    host = unknown_sensor(scene, scene.sensor())
    scene.fail(INTERFACES)
    needs_renewal = scene.instance(zone="b")
    assert deliver({"instance-ids": [needs_renewal, host]}).error.startswith("1 failed")
    assert scene.sessions_of(host) == [0, 0]


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("call", [TARGETS, INTERFACES, GROUPS, ACLS, INSTANCES])
def test_while_the_cache_cannot_be_renewed_only_those_that_need_it_fail(
    scene: Scene, call: str, place: int
) -> None:
    scene.configure(scene.sensor(), CACHE_SECONDS="60")
    scene.run(scene.instance())
    instances = scene.instances(2)
    instances.insert(place, scene.instance(zone="b"))
    scene.fail(call, after=int(call == INSTANCES))  # those of the event are read
    assert deliver(sqs_event(*map(running_event, instances))).again == [place]
    assert sum(scene.sessions_of(*instances)) == 2
    scene.heal()
    assert scene.run(instances[place]).outcomes == ["unmirrored"]


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


@pytest.mark.parametrize("operation", [TARGETS, INTERFACES, GROUPS, ACLS, PREFIX_LIST])
def test_what_could_not_be_read_is_not_cached(
    scene: Scene, no_sleep: Sleeps, operation: str
) -> None:
    listed = scene.group(rule(prefix_list=scene.prefix_list("10.0.0.0/8")))
    target = scene.sensor(groups=[listed])
    # With another one that is fine, so that there is something to cache.
    scene.configure([target, scene.sensor(sessions=7)], CACHE_SECONDS="60")
    instance = new_instance(scene)
    scene.fail(operation, "InternalError", status=500)
    assert operation in error_of(instance)
    scene.heal()
    calls(scene)
    answer = scene.run(instance)
    assert answer.entry["target_id"] == target
    assert calls(scene)[operation] == 1


def test_a_denied_prefix_list_is_no_reason_to_read_all_again(scene: Scene) -> None:
    listed = scene.group(rule(prefix_list=scene.prefix_list("10.0.0.0/8")))
    scene.configure([scene.sensor(groups=[listed]), scene.sensor()], CACHE_SECONDS="60")
    scene.deny("ec2:GetManagedPrefixListEntries")
    subnet = scene.subnet("a")
    scene.run(scene.instance(subnet))
    answer = run_in(scene, WARM, scene.instance(subnet)).answer
    assert answer.outcomes == ["created"]
    assert "ec2:GetManagedPrefixListEntries" in str(answer.entry["sensors"])


@pytest.mark.parametrize("seed", range(12))
def test_a_warm_cache_changes_no_verdict(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random accounts: a dry run fills the cache, and then the model says what has to happen."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    random.seed(seed)  # IDs decide ties: the same seed makes the same IDs
    mock_random.seed(seed)
    account = SimulatedAccount._active
    assert account
    scene = Builder(account, seed).build()
    world = read_world(scene)
    apply_limits(scene, world)
    dry = {**scene.event, "dry_run": True}

    def settled(event: dict[str, Any], cache_seconds: str) -> dict[str, Any]:
        return handle(event, {**scene.environment, "CACHE_SECONDS": cache_seconds})

    without = settled(dry, "0")["interfaces"]
    assert settled(dry, "60")["interfaces"] == without
    assert settled(dry, "60")["interfaces"] == without

    body = settled(scene.event, "60")
    got = outcomes_of(body)
    expected = expect(world, scene.settings, scene.instance_ids, scene.limits, scene.dry_run, got)
    assert not list(differences(expected, body, scene, world))


# --------------------------------------------------------------------------------------
# Batches and sweeps
# --------------------------------------------------------------------------------------


def as_sqs(instance_ids: Sequence[str]) -> dict[str, Any]:
    return sqs_event(*map(running_event, instance_ids))


@pytest.mark.parametrize(
    ("count", "sqs"), [(1, True), (10, False), (10, True), (100, False), (200, True)]
)
def test_a_batch_takes_the_reads_once_and_a_create_each(
    scene: Scene, count: int, sqs: bool
) -> None:
    scene.configure(sensors(scene, 50))
    ids = scene.instances(count)
    expected = [*COLD[:3], *[[CREATE] * min(count, 10)] * -(-count // 10)]
    assert run_in(scene, expected, as_sqs(ids) if sqs else {"instance-ids": ids}).complete
    assert len(scene.sessions()) == count
    assert count > 100 or scene.count() <= 120


def test_a_batch_of_more_than_200_reads_two_lists(scene: Scene) -> None:
    scene.configure(sensors(scene, 3))
    event = {"instance-ids": scene.instances(201), "dry_run": True}
    run_in(scene, [[*COLD[0], INSTANCES], *COLD[1:3]], event)


def test_a_batch_whose_instances_are_mirrored_costs_three_calls(scene: Scene) -> None:
    target = scene.sensor(quota=1_000)
    scene.configure(target)
    run_in(scene, COLD[:1], as_sqs(scene.mirrored(target, 100)))


def test_an_instance_that_is_in_a_batch_twice_costs_one_create(scene: Scene) -> None:
    scene.configure(scene.sensor())
    run_in(scene, COLD, as_sqs([scene.instance()] * 10))


def test_a_batch_with_a_warm_cache(scene: Scene) -> None:
    scene.configure(sensors(scene, 50), CACHE_SECONDS="60")
    scene.run(scene.instance())
    run_in(scene, [WARM[0], *[[CREATE] * 10] * 10], as_sqs(scene.instances(100)))


def test_a_sweep_reads_the_acls_of_each_vpc_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lambda_traffic_mirror, "PAGE", 10)
    scene.configure(scene.sensor(quota=10_000))
    for number in range(3):
        vpc = scene.vpc(f"10.{number + 1}.0.0/16")
        scene.route_table(vpc, [route("10.0.0.0/16", tgw=True)], main=True)
        subnet = scene.subnet("a", vpc=vpc, prefix=20)
        scene.instances(6, subnet)
    answer = scene.run({"sweep": True, "dry_run": True}, LambdaContext(600))
    assert answer.summary == {"planned": 18, "skipped": 1}
    # Two pages of instances; the second one comes to a VPC of its own.
    expected = {TARGETS: 1, INTERFACES: 1, GROUPS: 1, ACLS: 2, INSTANCES: 3, SESSIONS: 1, ROUTES: 3}
    assert calls(scene) == expected


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

    def asks_for(instance: str) -> Callable[[dict[str, Any]], bool]:
        return lambda parameters: instance in parameters["Filters"][0]["Values"]

    scene.fail(INSTANCES, "UnauthorizedOperation", status=403, where=asks_for(ids[0]))
    scene.fail(INSTANCES, "OperationNotPermitted", status=400, where=asks_for(ids[200]))
    # Those at the end of the first list and at the start of the second one are named first.
    event = {"instance-ids": ids[190:210] + ids[:190] + ids[210:]}
    message = error_of(event, LambdaContext(600))
    assert "400 failed" in message
    assert "ec2:DescribeInstances" in message
    assert "OperationNotPermitted" in message
    assert len(scene.sessions()) == 50


@pytest.mark.parametrize(
    ("number", "operation"),
    [(number, operation) for number, round_ in enumerate(COLD[:3]) for operation in round_],
)
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
        assert failing.wait(10)

    scene.gates.append(gate)
    earlier = sum(round_.count(operation) for round_ in COLD[:number])
    scene.fail(operation, "UnauthorizedOperation", status=403, after=earlier)
    assert f"ec2:{operation}" in error_of(instance)
    together = scene.calls[first : first + len(COLD[number])]
    assert sorted(call.operation for call in together if call.ended) == sorted(COLD[number])
    assert threading.enumerate() == before


@pytest.mark.parametrize(("number", "denied"), [(0, COLD[0]), (2, [ACLS, GROUPS])])
def test_calls_that_all_fail_are_all_made(scene: Scene, number: int, denied: list[str]) -> None:
    scene.configure(scene.sensor())
    instance = scene.instance()
    before = threading.enumerate()
    scene.deny(*(f"ec2:{operation}" for operation in denied))
    message = run_in(scene, COLD[: number + 1], instance).error
    assert any(f"ec2:{operation}" in message for operation in denied)
    assert threading.enumerate() == before


def test_an_error_of_botocore_that_nobody_expects_is_a_failed_call(scene: Scene) -> None:
    scene.configure(sensors(scene, 3))
    instance = new_instance(scene)
    before = threading.enumerate()

    def gate(called: str, parameters: dict[str, Any]) -> None:
        if called == ACLS:
            raise KeyError("a slip")

    scene.gates.append(gate)
    assert f"{ACLS} failed with KeyError: 'a slip'" in error_of(instance)
    assert threading.enumerate() == before


@pytest.mark.parametrize("event", ["one", "batch", "sweep"])
def test_no_thread_outlives_the_invocation(scene: Scene, event: str) -> None:
    scene.configure(sensors(scene, 201))
    before = threading.enumerate()
    instances = scene.instances(3)
    scene.run(
        {
            "one": running_event(instances[0]),
            "batch": {"instance-ids": instances},
            "sweep": scheduled_event(),
        }[event]
    )
    assert threading.enumerate() == before


def test_no_call_is_begun_and_no_thread_left_when_time_is_up(scene: Scene) -> None:
    scene.configure(sensors(scene, 3))
    instance = new_instance(scene)
    before = threading.enumerate()
    now = 0.0
    context = LambdaContext(60, clock=lambda: now)

    def gate(called: str, parameters: dict[str, Any]) -> None:
        nonlocal now
        now = 59.0

    scene.gates.append(gate)
    assert "time ran out" in error_of(instance, context)
    assert len(scene.calls) <= 3  # what had begun together before any call took its time
    assert threading.enumerate() == before
