"""A sweep looks at every running instance of the Region: it mirrors what events have missed, page
by page and within its time, and says of the sessions that exist which of them packets cannot reach.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
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
)
from conftest import Answer, Clock, Scene
from moto.moto_api._internal import mock_random

import lambda_traffic_mirror as function

CREATE = "CreateTrafficMirrorSession"
SENSOR_READS = (
    "DescribeTrafficMirrorTargets",
    "DescribeNetworkInterfaces",
    "DescribeSecurityGroups",
    "DescribeNetworkAcls",
)
PAGE = 1_000


pytestmark = pytest.mark.usefixtures("quick")


def mirrored(scene: Scene, target_id: str, count: int) -> list[str]:
    """Instances whose interface has a session to the target."""
    instances = scene.instances(count)
    for instance in instances:
        scene.session(scene.interfaces_of(instance)[0], target_id)
    return instances


def sessions_by_interface(scene: Scene, instance_ids: Sequence[str]) -> list[int]:
    """How many sessions each interface of these instances has."""
    interfaces = [key for instance in instance_ids for key in scene.interfaces_of(instance)]
    counts = Counter(session["NetworkInterfaceId"] for session in scene.sessions())
    return [counts[key] for key in interfaces]


def entry_of(answer: Answer, instance_id: str) -> dict[str, Any]:
    (entry,) = (e for e in answer.interfaces if e["instance_id"] == instance_id)
    return entry


SWEEPS = {
    "by schedule": scheduled_event(),
    "by hand": {"sweep": True},
    "by hand, with a dry_run that is off": {"sweep": True, "dry_run": False},
}


# --- What is looked at


@pytest.mark.parametrize("sweep", SWEEPS.values(), ids=SWEEPS)
def test_every_running_instance_is_mirrored_and_no_other(
    scene: Scene, sensor: str, sweep: dict[str, Any]
) -> None:
    running = scene.instances(2, interfaces=2)
    others = [
        scene.instance(state=state) for state in ("pending", "stopping", "stopped", "shutting-down")
    ]
    terminated = scene.instance(state="terminated")
    answer = scene.run(sweep)
    assert answer.status == 200
    assert answer.body["dry_run"] is False
    assert answer.summary == {"created": 4, "skipped": 1}
    assert scene.sessions_of(*running) == [1] * 4
    assert scene.sessions_of(*others) == [0] * 4
    looked_at = {entry["instance_id"] for entry in answer.interfaces}
    assert looked_at == {*running, scene.sensor_instance(sensor)}
    assert terminated not in looked_at


def test_what_events_have_missed_is_mirrored(scene: Scene, sensor: str) -> None:
    older, attached_to, deleted_from = scene.instances(3)
    deleted = scene.run({"instance-ids": [attached_to, deleted_from]}).interfaces[1]["session_id"]
    scene.delete_session(deleted)
    scene.ec2.attach_network_interface(
        InstanceId=attached_to, NetworkInterfaceId=scene.interface(), DeviceIndex=1
    )
    assert scene.run(scheduled_event()).summary == {"created": 3, "exists": 1, "skipped": 1}
    assert scene.sessions_of(older, attached_to, deleted_from) == [1] * 4
    assert scene.run(scheduled_event()).summary == {"exists": 4, "skipped": 1}


def test_interfaces_are_judged_as_for_an_event(
    scene: Scene, sensor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXCLUDE_TAGS", "mirror=no")
    excluded = scene.instance(tags={"mirror": "no"})
    (interface,) = scene.interfaces_of(excluded)
    scene.session(interface, sensor)
    instances = [
        excluded,
        scene.instance(interface_type="efa-only"),
        scene.instance(ipv6_only=True),
        scene.instance(zone="b"),
        scene.instance(),
        scene.sensor_instance(sensor),
    ]
    planned = scene.run({"instance-ids": instances, "dry_run": True})
    swept = scene.run({"sweep": True, "dry_run": True})
    by_interface = {entry["interface_id"]: entry for entry in planned.interfaces}
    assert {entry["interface_id"]: entry for entry in swept.interfaces} == by_interface
    assert swept.summary == {"unmirrored": 1, "planned": 1, "skipped": 4}


def test_each_session_that_is_created_counts_for_the_next_choice(scene: Scene) -> None:
    targets = [scene.sensor(sessions=sessions) for sessions in (0, 2, 5)]
    scene.configure(targets)
    scene.instances(8)
    scene.run(scheduled_event())
    assert [len(scene.sessions(target_id=target)) for target in targets] == [5, 5, 5]


# --- Calls


def expected_calls(running: int, sessions: int, created: int) -> dict[str, int]:
    """Instances and sessions once each, page by page; the sensors once; a create each."""
    return {
        "DescribeInstances": -(-running // PAGE) + 1,  # and the sensor's own, for its state
        "DescribeTrafficMirrorSessions": max(1, -(-sessions // PAGE)),
        **dict.fromkeys(SENSOR_READS, 1),
        **({CREATE: created} if created else {}),
    }


@pytest.mark.parametrize(("with_session", "without"), [(0, 1), (1, 0), (1_200, 30)])
def test_interfaces_that_are_mirrored_and_reachable_cost_no_call_of_their_own(
    scene: Scene, sensor: str, with_session: int, without: int
) -> None:
    mirrored(scene, sensor, with_session)
    unmirrored = scene.instances(without) if without else []
    answer = scene.run(scheduled_event())
    summary = {"created": without, "exists": with_session, "skipped": 1}
    assert answer.summary == {key: count for key, count in summary.items() if count}
    assert scene.sessions_of(*unmirrored) == [1] * without
    running = with_session + without + 1
    calls = Counter(call.operation for call in scene.calls)
    assert calls == expected_calls(running, with_session, without)
    assert all(
        call.parameters.get("MaxResults") == PAGE
        for call in scene.calls
        if (call.operation.startswith("Describe"))
    )


def test_a_vpc_on_a_later_page_costs_one_more_call_for_its_acls(
    scene: Scene, sensor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(function, "PAGE", 5)
    scene.instances(9)
    vpcs = [scene.vpc("10.9.0.0/16") for _ in range(2)]
    for vpc in vpcs:
        scene.route_table(vpc, [route("10.0.0.0/16", pcx=True)], main=True)
    others = [scene.instance(scene.subnet(vpc=vpc)) for vpc in vpcs]
    answer = scene.run(scheduled_event())
    assert answer.summary == {"created": 11, "skipped": 1}
    assert scene.sessions_of(*others) == [1, 1]
    assert scene.count("DescribeInstances") == 3 + 1
    assert scene.count("DescribeNetworkAcls") == 2


def test_a_body_lists_a_hundred_interfaces_and_counts_all(scene: Scene, sensor: str) -> None:
    mirrored(scene, sensor, 120)
    scene.instances(3, zone="b")
    answer = scene.run(scheduled_event())
    assert answer.summary == {"unmirrored": 3, "exists": 120, "skipped": 1}
    assert len(answer.interfaces) == 100
    assert answer.outcomes[:4] == ["unmirrored"] * 3 + ["exists"]
    assert answer.status == 400


# --- Sessions to sensors that packets cannot reach

TEN = "10.0.0.0/8"
ELSEWHERE = "192.0.2.0/24"


def sensor_instance_stopped(scene: Scene) -> tuple[str, str, str]:
    target = scene.sensor()
    scene.stop(scene.sensor_instance(target))
    return target, "unavailable", "stopped"


def sensor_instance_terminated(scene: Scene) -> tuple[str, str, str]:
    target = scene.sensor()
    interface = scene.sensor_interface(target)
    scene.terminate(scene.sensor_instance(target))
    return target, "unavailable", interface


def sensor_interface_deleted(scene: Scene) -> tuple[str, str, str]:
    target = scene.sensor(attached=False)
    interface = scene.sensor_interface(target)
    scene.delete_sensor_interface(target)
    return target, "unavailable", interface


def load_balancer_deleted(scene: Scene) -> tuple[str, str, str]:
    target = scene.nlb_sensor([scene.subnet()])
    scene.delete_sensor_interface(target)
    return target, "unavailable", "load balancer"


def group_without_rule(scene: Scene) -> tuple[str, str, str]:
    group = scene.group()
    return scene.sensor(groups=[group]), "security_group", group


def group_for_another_port(scene: Scene) -> tuple[str, str, str]:
    group = scene.group(rule(ports=(4_790, 65_535)), rule("tcp"))
    return scene.sensor(groups=[group]), "security_group", group


def group_for_other_addresses(scene: Scene) -> tuple[str, str, str]:
    group = scene.group(rule(cidr=ELSEWHERE))
    return scene.sensor(groups=[group]), "security_group", group


def group_that_references_another(scene: Scene) -> tuple[str, str, str]:
    group = scene.group(rule(group=scene.group()))
    return scene.sensor(groups=[group]), "security_group", group


def prefix_list_of_other_addresses(scene: Scene) -> tuple[str, str, str]:
    group = scene.group(rule(prefix_list=scene.prefix_list(ELSEWHERE)))
    return scene.sensor(groups=[group]), "security_group", group


def load_balancer_with_a_closed_group(scene: Scene) -> tuple[str, str, str]:
    group = scene.group(rule(cidr=ELSEWHERE))
    return scene.nlb_sensor([scene.subnet()], [group]), "security_group", group


def load_balancer_that_is_open_in_another_zone(scene: Scene) -> tuple[str, str, str]:
    return scene.nlb_sensor([scene.subnet(acl=[]), scene.subnet("b")]), "network_acl", "acl-"


def acl_that_denies(scene: Scene) -> tuple[str, str, str]:
    entries = [acl_entry(90, "deny", TEN), acl_entry(100, "allow", egress=True)]
    return scene.sensor(scene.subnet(acl=entries)), "network_acl", "90"


def acl_without_a_match(scene: Scene) -> tuple[str, str, str]:
    entries = [acl_entry(100, "allow", ELSEWHERE), acl_entry(100, "allow", egress=True)]
    return scene.sensor(scene.subnet(acl=entries)), "network_acl", "acl-"


def far_sensor_with_a_closed_group(scene: Scene) -> tuple[str, str, str]:
    group = scene.group()
    return scene.sensor(groups=[group], zone="b"), "security_group", group


BLOCKED = [
    sensor_instance_stopped,
    sensor_instance_terminated,
    sensor_interface_deleted,
    load_balancer_deleted,
    group_without_rule,
    group_for_another_port,
    group_for_other_addresses,
    group_that_references_another,
    prefix_list_of_other_addresses,
    load_balancer_with_a_closed_group,
    load_balancer_that_is_open_in_another_zone,
    acl_that_denies,
    acl_without_a_match,
    far_sensor_with_a_closed_group,
]


@pytest.mark.parametrize("make", BLOCKED)
def test_a_session_that_packets_cannot_reach_is_blocked(
    scene: Scene,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[SimulatedAccount], tuple[str, str, str]],
) -> None:
    target, stage, evidence = make(scene)
    another = scene.sensor(sessions=3)
    scene.configure([another, target])
    instance = scene.instance()
    (interface,) = scene.interfaces_of(instance)
    session = scene.session(interface, target)
    before = scene.sessions()

    answer = scene.run(scheduled_event())
    entry = entry_of(answer, instance)
    reason, sensors = entry.pop("reason"), entry.pop("sensors")
    assert entry == {
        "interface_id": interface,
        "instance_id": instance,
        "outcome": "blocked",
        "target_id": target,
        "session_id": session,
        "session_name": None,
    }
    (row,) = sensors
    assert {key: row[key] for key in ("target_id", "verdict", "stage")} == {
        "target_id": target,
        "verdict": "rejected",
        "stage": stage,
    }
    for text in (reason, row["reason"]):
        assert evidence in text
    assert answer.status == 400
    (record,) = (r for r in caplog.records if getattr(r, "outcome", None) == "blocked")
    assert (record.levelname, record.interface_id) == ("ERROR", interface)
    # Reported, never changed.
    assert scene.sessions() == before
    assert {call.operation[:3] for call in scene.calls} <= {"Des", "Get"}

    # An event for the instance only asks whether there is a session.
    assert scene.run(instance).outcomes == ["exists"]


def reachable(scene: Scene) -> str:
    return scene.sensor(scene.subnet())


def outbound_acl_denies(scene: Scene) -> str:
    scene.acl(scene.zone_subnet("a"), [acl_entry(100, "allow")])
    return scene.sensor(scene.subnet())


def in_another_zone(scene: Scene) -> str:
    return scene.sensor(zone="b")


def in_another_vpc(scene: Scene) -> str:
    scene.route_table(routes=[route("10.8.0.0/16", tgw=True)], main=True)
    return scene.sensor(scene.subnet(vpc=scene.vpc("10.8.0.0/16")))


def full(scene: Scene) -> str:
    return scene.sensor(quota=1)


def not_attached(scene: Scene) -> str:
    return scene.sensor(attached=False)


def of_another_account(scene: Scene) -> str:
    return scene.foreign_sensor()


def group_unseen(scene: Scene) -> str:
    group = scene.group()
    scene.hide(group)
    return scene.sensor(groups=[group])


def acl_unseen(scene: Scene) -> str:
    subnet = scene.subnet()
    scene.hide(scene.acl(subnet, []))
    return scene.sensor(subnet)


def prefix_list_may_not_be_read(scene: Scene) -> str:
    scene.deny("ec2:GetManagedPrefixListEntries")
    return scene.sensor(groups=[scene.group(rule(prefix_list=scene.prefix_list(ELSEWHERE)))])


def load_balancer_without_tags_set(scene: Scene) -> str:
    return scene.nlb_sensor([scene.subnet()])


def load_balancer_endpoint(scene: Scene) -> str:
    return scene.gwlb_sensor([scene.subnet()])


def load_balancer_in_another_zone(scene: Scene) -> str:
    return scene.nlb_sensor([scene.subnet("b")])


NOT_BLOCKED = [
    reachable,
    outbound_acl_denies,
    in_another_zone,
    in_another_vpc,
    full,
    not_attached,
    of_another_account,
    group_unseen,
    acl_unseen,
    prefix_list_may_not_be_read,
    load_balancer_without_tags_set,
    load_balancer_endpoint,
    load_balancer_in_another_zone,
]


@pytest.mark.parametrize("make", NOT_BLOCKED)
def test_a_session_that_is_not_shown_to_be_unreachable_exists(
    scene: Scene, make: Callable[[SimulatedAccount], str]
) -> None:
    target = make(scene)
    scene.configure(target, LOCAL_VPC_ONLY="true")
    (instance,) = mirrored(scene, target, 1)
    answer = scene.run(scheduled_event())
    entry = entry_of(answer, instance)
    assert (entry["outcome"], entry["target_id"], entry["sensors"]) == ("exists", target, [])
    assert answer.status == 200


def test_where_packets_leave_from_no_address_there_is_nothing_to_check(scene: Scene) -> None:
    closed = scene.sensor(groups=[scene.group()])
    scene.configure(closed)
    instance = scene.instance(ipv6_only=True)
    scene.session(scene.interfaces_of(instance)[0], closed)
    assert entry_of(scene.run(scheduled_event()), instance)["outcome"] == "exists"


def test_a_session_to_a_target_that_is_not_ours_is_not_checked(scene: Scene, sensor: str) -> None:
    foreign = scene.sensor(groups=[scene.group()])
    (instance,) = mirrored(scene, foreign, 1)
    entry = entry_of(scene.run(scheduled_event()), instance)
    assert entry["outcome"] == "exists"
    assert "not one of our targets" in entry["reason"]


@pytest.mark.parametrize("reachable_first", [True, False])
def test_a_session_that_packets_cannot_reach_is_reported_beside_one_that_they_can(
    scene: Scene, reachable_first: bool
) -> None:
    """The first session whose filter matches gets a packet, so the other is no replacement."""
    good, closed = scene.sensor(), scene.sensor(groups=[scene.group()])
    scene.configure([good, closed])
    instance = scene.instance()
    (interface,) = scene.interfaces_of(instance)
    scene.session(interface, good, 1 if reachable_first else 2)
    scene.session(interface, closed, 2 if reachable_first else 1)
    entry = entry_of(scene.run(scheduled_event()), instance)
    assert (entry["outcome"], entry["target_id"]) == ("blocked", closed)


def test_a_blocked_session_is_not_replaced(scene: Scene) -> None:
    closed = scene.sensor(groups=[scene.group()])
    scene.configure([scene.sensor(), closed])
    blocked = mirrored(scene, closed, 2)
    fine = scene.instance()
    answer = scene.run(scheduled_event())
    assert answer.summary == {"blocked": 2, "created": 1, "skipped": 2}
    assert scene.sessions_of(*blocked, fine) == [1, 1, 1]


def test_blocked_sessions_are_found_on_every_page(scene: Scene, monkeypatch: Any) -> None:
    monkeypatch.setattr(function, "PAGE", 5)
    closed = scene.sensor(groups=[scene.group()], quota=100)
    scene.configure(closed)
    mirrored(scene, closed, 17)
    assert scene.run(scheduled_event()).summary == {"blocked": 17, "skipped": 1}
    assert scene.count("DescribeInstances") == 4 + 1
    assert all(scene.count(call) == 1 for call in SENSOR_READS)


# --- What is not mirrored, and why?


def test_a_dry_run_by_hand_says_what_is_not_mirrored_and_why(scene: Scene) -> None:
    good = scene.sensor(scene.subnet())
    closed_group = scene.group(rule(cidr=ELSEWHERE))
    closed = scene.sensor(groups=[closed_group], zone="b")
    denying = scene.sensor(scene.subnet("c", acl=[acl_entry(70, "deny")]), zone="c")
    scene.configure([good, closed, denying])
    instances = {
        "planned": scene.instance(),
        "zone": scene.instance(zone="d"),
        "security_group": scene.instance(zone="b"),
        "network_acl": scene.instance(zone="c"),
        "exists": mirrored(scene, good, 1)[0],
        "blocked": scene.instance(),
    }
    scene.session(scene.interfaces_of(instances["blocked"])[0], closed)
    before = scene.sessions()

    answer = scene.run({"sweep": True, "dry_run": True})
    assert answer.body["dry_run"] is True
    assert answer.status == 400
    assert answer.summary == {
        "unmirrored": 3,
        "blocked": 1,
        "planned": 1,
        "exists": 1,
        "skipped": 3,
    }
    assert scene.sessions() == before
    assert scene.count(CREATE) == 0
    planned = entry_of(answer, instances["planned"])
    assert planned["target_id"] == good
    assert planned["session_id"] is None
    assert planned["session_name"].startswith("eh-mirror-")
    evidence = {"zone": "us-east-1d", "security_group": closed_group, "network_acl": "70"}
    for stage, text in evidence.items():
        entry = entry_of(answer, instances[stage])
        assert entry["outcome"] == "unmirrored"
        assert stage in entry["reason"]
        assert text in entry["reason"]
        assert {row["stage"] for row in entry["sensors"]} == {"zone", stage}
    assert closed_group in entry_of(answer, instances["blocked"])["reason"]


def test_the_variable_makes_a_scheduled_sweep_a_dry_run(
    scene: Scene, sensor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRY_RUN", "true")
    scene.instances(3)
    answer = scene.run(scheduled_event())
    assert answer.body["dry_run"] is True
    assert answer.summary == {"planned": 3, "skipped": 1}
    assert scene.sessions() == []


def test_a_dry_run_comes_to_the_choices_of_the_real_run(scene: Scene) -> None:
    scene.configure([scene.sensor(sessions=sessions) for sessions in (1, 3, 3, 6)])
    instances = scene.instances(15)
    planned = scene.run({"id": "the order", "sweep": True, "dry_run": True})
    real = scene.run({"id": "the order", "sweep": True})
    for instance in instances:
        one, other = entry_of(planned, instance), entry_of(real, instance)
        assert (one["outcome"], other["outcome"]) == ("planned", "created")
        assert one["target_id"] == other["target_id"]
        assert one["session_name"] == other["session_name"]


# --- Time


@pytest.fixture
def clock(scene: Scene, clock: Clock) -> Clock:
    """A clock on which each call takes 0.2 s."""
    scene.gates.append(lambda call, parameters: clock.advance(0.2))
    return clock


def test_sweeps_with_20_seconds_each_come_to_an_end(
    scene: Scene, sensor: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(function, "PAGE", 100)
    mirrored(scene, sensor, 399)
    waiting = scene.instances(100)
    left = len(waiting)
    for sweeps in range(1, 10):  # noqa: B007
        began = clock.now
        answer = scene.run(scheduled_event(), LambdaContext(20, clock=clock))
        # No call begins in the last fifth. Those under way then take 0.2 s each, on this clock one
        # after the other.
        assert clock.now - began <= 20 - 4 + 0.2 * function.PARALLEL_CREATES + 0.01
        summary = answer.summary
        assert answer.status == 200
        created, deferred = summary.get("created", 0), summary.get("deferred", 0)
        assert created + deferred == left
        assert created > 0
        assert summary["exists"] == 499 - left
        left = deferred
        assert sum(scene.sessions_of(*waiting)) == 100 - left
        if not left:
            break
    # 80 calls fit into 16 s; a dozen pages and 5 calls for the sensors are among them.
    assert sweeps == 2
    assert scene.sessions_of(*waiting) == [1] * 100
    assert len(scene.sessions()) == 499
    assert scene.count(CREATE) == 100


@pytest.mark.parametrize("seconds", [1, 2, 3, 4, 5])
def test_sweeps_with_little_time_get_on_or_say_that_they_do_not(
    scene: Scene, sensor: str, clock: Clock, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    """Pages of five, 23 instances: six pages for the first sweep. A sweep needs its reads."""
    monkeypatch.setattr(function, "PAGE", 5)
    instances = scene.instances(22)
    calls_in_time = int(seconds * 0.8 / 0.2 + 1e-9) + 1
    answer = scene.run(scheduled_event(), LambdaContext(seconds, clock=clock))
    assert answer.status == 200
    assert scene.count() <= calls_in_time + function.PARALLEL_CREATES
    assert answer.summary["deferred"] > 0
    for entry in answer.interfaces:
        if entry["outcome"] == "deferred":
            assert "time" in entry["reason"]
            assert entry["sensors"] == []
    created = answer.summary.get("created", 0)
    assert sum(scene.sessions_of(*instances)) == created
    while "deferred" in scene.run(scheduled_event(), LambdaContext(20, clock=clock)).summary:
        pass
    assert scene.sessions_of(*instances) == [1] * 22


def test_sources_that_aws_always_refuses_keep_no_others_from_their_turn(
    scene: Scene, sensor: str, clock: Clock
) -> None:
    """A sweep has time for 17 creates and what is on its way then, never for the 30 in front."""
    mock_random.seed(1)  # the order comes from the IDs
    refused, good = scene.instances(30), scene.instances(5)
    interfaces = {key for instance in refused for key in scene.interfaces_of(instance)}
    scene.fail(
        CREATE,
        "SomethingNew",
        status=400,
        where=lambda parameters: parameters["NetworkInterfaceId"] in interfaces,
    )
    for number in range(12):
        event = {"id": f"sweep {number}", "sweep": True}
        scene.run(event, LambdaContext(6, clock=clock))
    assert scene.sessions_of(*good) == [1] * 5
    assert scene.count(CREATE) <= 12 * 26


def test_pages_that_were_not_reached_are_deferred(
    scene: Scene,
    sensor: str,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(function, "PAGE", 5)
    scene.instances(14)
    scene.gates.append(lambda call, _: clock.advance(20 if call == CREATE else 0))
    answer = scene.run(scheduled_event(), LambdaContext(20, clock=clock))
    # A page of five, of which some are created before time has passed, perhaps the sensor among
    # them, and one entry for all that was not read.
    created = scene.count(CREATE)
    assert 0 < created <= 5
    assert answer.summary["created"] == created
    assert answer.summary["deferred"] == 5 - created - answer.summary.get("skipped", 0) + 1
    (rest,) = (entry for entry in answer.interfaces if entry["interface_id"] is None)
    assert (rest["outcome"], rest["instance_id"]) == ("deferred", None)
    assert "not read" in rest["reason"]
    levels = {r.levelname for r in caplog.records if getattr(r, "outcome", "") == "deferred"}
    assert levels == {"WARNING"}
    scene.gates.pop()
    assert scene.run(scheduled_event(), LambdaContext(20, clock=clock)).summary == {
        "created": 14 - created,
        "exists": created,
        "skipped": 1,
    }


# --- Failures in the middle


@pytest.mark.parametrize("code", ["RequestLimitExceeded", "UnauthorizedOperation"])
def test_pages_before_the_one_that_fails_are_mirrored(
    scene: Scene, sensor: str, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr(function, "PAGE", 5)
    instances = scene.instances(14)
    scene.fail(
        "DescribeInstances",
        code,
        status=403 if code == "UnauthorizedOperation" else 503,
        after=2,
        where=lambda parameters: parameters["Filters"][0]["Name"] == "instance-state-name",
    )
    with pytest.raises(function.MirroringError) as caught:
        scene.run(scheduled_event())
    message = str(caught.value)
    assert message.startswith("1 failed")
    assert "The instances after these were not read" in message
    assert ("ec2:DescribeInstances" if "Unauth" in code else code) in message
    assert sum(scene.sessions_of(*instances)) == 9  # and the sensor's own
    scene.heal()
    assert scene.run(scheduled_event()).summary == {"created": 5, "exists": 9, "skipped": 1}


def test_a_page_of_sessions_that_fails_fails_all_that_could_be_mirrored_already(
    scene: Scene, sensor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the last page nobody knows which interfaces have a session, nor how many each
    sensor has."""
    monkeypatch.setattr(function, "PAGE", 5)
    instances = [*mirrored(scene, sensor, 11), scene.instance()]
    scene.fail("DescribeTrafficMirrorSessions", after=2)
    with pytest.raises(function.MirroringError, match="12 failed"):
        scene.run(scheduled_event())
    assert scene.count(CREATE) == 0
    scene.heal()
    assert scene.run(scheduled_event()).summary == {"created": 1, "exists": 11, "skipped": 1}
    assert scene.sessions_of(*instances) == [1] * 12


# --- What is cached


def test_a_sweep_reads_the_sensors_afresh_and_later_events_profit(scene: Scene) -> None:
    group = scene.group()
    used, closed = scene.sensor(sessions=5), scene.sensor(groups=[group])
    scene.configure([used, closed], CACHE_SECONDS="300")
    assert scene.run(scene.instance()).entry["target_id"] == used
    scene.ec2.authorize_security_group_ingress(
        GroupId=group, IpProtocol="udp", FromPort=4789, ToPort=4789, CidrIp="0.0.0.0/0"
    )
    # The cache does not know yet.
    assert scene.run(scene.instance()).entry["target_id"] == used

    swept = scene.instance()
    scene.forget_calls()
    assert entry_of(scene.run(scheduled_event()), swept)["target_id"] == closed
    assert all(scene.count(call) == 1 for call in SENSOR_READS)

    scene.forget_calls()
    assert scene.run(scene.instance()).entry["target_id"] == closed
    assert not any(scene.count(call) for call in SENSOR_READS)
    assert scene.count() == 3


def test_a_sweep_does_not_judge_sessions_by_what_is_cached(scene: Scene) -> None:
    group = scene.group(rule())
    target = scene.sensor(groups=[group])
    scene.configure(target, CACHE_SECONDS="300")
    instance = scene.instance()
    assert scene.run(instance).outcomes == ["created"]
    scene.ec2.revoke_security_group_ingress(
        GroupId=group, IpProtocol="udp", FromPort=4789, ToPort=4789, CidrIp="0.0.0.0/0"
    )
    assert entry_of(scene.run(scheduled_event()), instance)["outcome"] == "blocked"


# --- Logs


def test_what_is_in_order_is_logged_for_debugging_only(
    scene: Scene, sensor: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger=function.__name__)
    mirrored(scene, sensor, 2)
    scene.instance()
    scene.instance(zone="b")
    scene.run(scheduled_event())
    levels = Counter(
        (record.outcome, record.levelname)
        for record in caplog.records
        if hasattr(record, "outcome")
    )
    assert levels == {
        ("exists", "DEBUG"): 2,
        ("skipped", "DEBUG"): 1,
        ("created", "INFO"): 1,
        ("unmirrored", "ERROR"): 1,
    }


def test_an_event_logs_the_same_for_information(
    scene: Scene, sensor: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger=function.__name__)
    scene.run({"instance-ids": [*mirrored(scene, sensor, 1), scene.sensor_instance(sensor)]})
    levels = {r.outcome: r.levelname for r in caplog.records if hasattr(r, "outcome")}
    assert levels == {"exists": "INFO", "skipped": "INFO"}


def test_a_sweep_of_nothing_is_fine(scene: Scene) -> None:
    scene.configure(scene.sensor(attached=False))
    answer = scene.run(scheduled_event())
    assert (answer.status, answer.summary, answer.interfaces) == (200, {}, [])
    assert {call.operation for call in scene.calls} == {
        "DescribeInstances",
        "DescribeTrafficMirrorSessions",
        "DescribeTrafficMirrorTargets",
    }


def test_an_event_by_name_leaves_the_sweep_alone(scene: Scene, sensor: str) -> None:
    first, second = scene.instances(2)
    assert scene.run(running_event(first)).outcomes == ["created"]
    assert scene.sessions_of(first, second) == [1, 0]
