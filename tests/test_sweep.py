"""A sweep looks at every running instance of the Region: it mirrors what events have missed, page
by page and within its time, and says of the sessions that exist which of them packets cannot reach.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aws import LambdaContext, acl_entry, route, scheduled_event
from calls import (
    ACLS,
    CREATE,
    FAULTS,
    GROUPS,
    INSTANCES,
    INTERFACES,
    SENSOR_READS,
    SESSIONS,
    TARGETS,
)
from conftest import Clock, Scene, deliver, missing
from moto.moto_api._internal import mock_random

import lambda_traffic_mirror as function

PAGE = 1_000

pytestmark = pytest.mark.usefixtures("quick")


# --- What is looked at


@pytest.mark.parametrize("sweep", [scheduled_event(), {"sweep": True}], ids=["schedule", "hand"])
def test_every_running_instance_is_mirrored_and_no_other(
    scene: Scene, sensor: str, sweep: dict[str, Any]
) -> None:
    running = scene.instances(2, interfaces=2)
    states = ("pending", "stopping", "stopped", "shutting-down", "terminated")
    others = [scene.instance(state=state) for state in states]
    answer = scene.run(sweep)
    assert (answer.status, answer.body["dry_run"]) == (200, False)
    assert answer.summary == {"created": 4, "skipped": 1}
    assert scene.sessions_of(*running) == [1] * 4
    assert scene.sessions_of(*others[:-1]) == [0] * 4
    looked_at = {entry["instance_id"] for entry in answer.interfaces}
    assert looked_at == {*running, scene.sensor_instance(sensor)}


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


# --- Sessions to sensors that packets cannot reach

ELSEWHERE = "192.0.2.0/24"


def without_interface(scene: Scene) -> str:
    target = scene.sensor(attached=False)
    scene.delete_sensor_interface(target)
    return target


def closed(scene: Scene, *rules: dict[str, Any], **options: Any) -> tuple[str, str]:
    """A security group with these rules, and a target in it."""
    group = scene.group(*rules)
    return group, scene.sensor(groups=[group], **options)


# The stage, and from the account to what the reason names and the target.
BLOCKED: dict[str, tuple[str, Callable[[Scene], tuple[str, str]]]] = {
    "instance stopped": ("unavailable", lambda s: ("stopped", s.sensor(state="stopped"))),
    "interface deleted": ("unavailable", lambda s: ("does not exist", without_interface(s))),
    "group without rule": ("security_group", closed),
    "ACL that denies": (
        "network_acl",
        lambda s: ("90", s.sensor(s.subnet(acl=[acl_entry(90, "deny"), acl_entry(100, "allow")]))),
    ),
}


def test_a_session_that_packets_cannot_reach_is_blocked(scene: Scene) -> None:
    made = {name: make(scene) for name, (_, make) in BLOCKED.items()}
    scene.configure([scene.sensor(sessions=3), *(target for _, target in made.values())])
    mirrored = {name: scene.mirrored(target)[0] for name, (_, target) in made.items()}
    before = scene.sessions()
    answer = scene.run(scheduled_event())
    assert (answer.status, answer.summary["blocked"]) == (400, len(BLOCKED))
    for name, instance in mirrored.items():
        entry, (evidence, target) = answer.of(instance), made[name]
        (session,) = scene.sessions(interface_id=scene.first_interface(instance))
        reason, (row,) = entry.pop("reason"), entry.pop("sensors")
        assert entry == {
            "interface_id": scene.first_interface(instance),
            "instance_id": instance,
            "outcome": "blocked",
            "target_id": target,
            "session_id": session["TrafficMirrorSessionId"],
            "session_name": None,
        }
        judged = (name, row["target_id"], row["verdict"], row["stage"])
        assert judged == (name, target, "rejected", BLOCKED[name][0])
        assert (name, evidence in reason, evidence in row["reason"]) == (name, True, True)
    # Reported, never changed.
    assert scene.sessions() == before
    assert {call.operation[:3] for call in scene.calls} <= {"Des", "Get"}
    # An event for an instance only asks whether there is a session.
    again = scene.run({"instance-ids": list(mirrored.values())})
    assert set(again.outcomes) == {"exists"}


def hidden_group(scene: Scene) -> str:
    group, target = closed(scene)
    scene.hide(group)
    return target


def in_another_vpc(scene: Scene) -> str:
    scene.route_table(routes=[route("10.8.0.0/16", tgw=True)], main=True)
    return scene.sensor(scene.subnet(vpc=scene.vpc("10.8.0.0/16")))


NOT_BLOCKED: dict[str, Callable[[Scene], str]] = {
    "reachable, though the source's outbound ACL denies": lambda s: s.sensor(s.subnet()),
    "in another zone": lambda s: s.sensor(zone="b"),
    "in another VPC": in_another_vpc,
    "full": lambda s: s.sensor(quota=1),
    "the source has no address that packets could leave from": lambda s: closed(s)[1],
    "not attached": lambda s: s.sensor(attached=False),
    "of another account": lambda s: s.foreign_sensor(),
    "group unseen": hidden_group,
    "load balancer endpoint": lambda s: s.gwlb_sensor([s.subnet()]),
    "load balancer of which one interface is open": lambda s: s.nlb_sensor(
        [s.subnet(acl=[]), s.subnet("b")]
    ),
}


def test_a_session_that_is_not_shown_to_be_unreachable_exists(scene: Scene) -> None:
    """The outbound ACL around all sources denies."""
    scene.acl(scene.zone_subnet("a"), [acl_entry(100, "allow")])
    targets = {name: make(scene) for name, make in NOT_BLOCKED.items()}
    scene.configure(list(targets.values()), LOCAL_VPC_ONLY="true")
    targets["not one of our targets, so it is not checked"] = closed(scene)[1]
    mirrored = {}
    for name, target in targets.items():
        mirrored[name] = scene.instance(ipv6_only="no address" in name)
        scene.session(scene.first_interface(mirrored[name]), target)
    answer = scene.run(scheduled_event())
    entries = {name: answer.of(instance) for name, instance in mirrored.items()}
    found = {n: (e["outcome"], e["target_id"], e["sensors"]) for n, e in entries.items()}
    assert found == {name: ("exists", target, []) for name, target in targets.items()}
    assert answer.status == 200


@pytest.mark.parametrize("fault", ["throttled", "denied"])
@pytest.mark.parametrize("call", [INTERFACES, GROUPS, ACLS, INSTANCES])
def test_where_an_answer_is_missing_a_session_is_failed_unless_another_stage_blocks_it(
    scene: Scene, caplog: pytest.LogCaptureFixture, call: str, fault: str
) -> None:
    bad = closed(scene)[1]
    good = scene.sensor(scene.subnet())
    scene.configure([good, bad])
    reachable, blocked = scene.mirrored(good)[0], scene.mirrored(bad)[0]

    def of_sensors(parameters: dict[str, Any]) -> bool:
        return parameters.get("Filters", [{}])[0].get("Name") != "instance-state-name"

    FAULTS[fault](scene, call, where=of_sensors)
    caplog.set_level("DEBUG", "lambda_traffic_mirror")
    assert deliver(scheduled_event()).error
    outcomes = {r.instance_id: r.outcome for r in caplog.records if hasattr(r, "outcome")}
    assert outcomes[reachable] == "failed"
    assert outcomes[blocked] == ("blocked" if call in (ACLS, INSTANCES) else "failed")


@pytest.mark.parametrize("there", [False, True])
def test_where_a_look_up_fails_another_tools_sessions_are_failed_unless_one_is_known_to_lead(
    scene: Scene, sensor: str, there: bool
) -> None:
    instance = scene.instance()
    targets = scene.missing_sensor(), scene.sensor() if there else scene.missing_sensor()
    for number, target in enumerate(targets, 1):
        scene.session(scene.first_interface(instance), target, number)
    scene.fail(TARGETS, after=1)  # the list comes first
    delivery = deliver(scheduled_event())
    if there:
        assert delivery.answer.of(instance)["outcome"] == "exists"
    else:
        wanted = ("1 failed", scene.first_interface(instance), "could not be checked", TARGETS)
        assert missing(delivery.error, *wanted) == []


def test_a_blocked_session_is_found_on_every_page_and_not_replaced(scene: Scene) -> None:
    scene.show_pages_of(5)
    bad = closed(scene, quota=100)[1]
    scene.configure([scene.sensor(), bad])
    blocked, fine = scene.mirrored(bad, 17), scene.instance()
    answer = scene.run(scheduled_event())
    assert answer.summary == {"blocked": 17, "created": 1, "skipped": 2}
    assert scene.sessions_of(*blocked, fine) == [1] * 18
    assert [scene.count(call) for call in SENSOR_READS] == [1] * 4


# --- Time


@pytest.fixture
def clock(scene: Scene, clock: Clock) -> Clock:
    """A clock on which each call takes 0.2 s."""
    scene.take_time(clock, 0.2)
    return clock


@pytest.mark.parametrize("seconds", [1, 3, 5])
def test_a_sweep_stops_in_time_and_the_next_ones_go_on_from_there(
    scene: Scene, sensor: str, clock: Clock, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    """Pages of five, 23 instances, of which ten are mirrored: the first sweep has too little time
    for them, and the others come to an end. One entry stands for all that was not read."""
    monkeypatch.setenv("MIRROR_DATABASES", "true")
    scene.show_pages_of(5)
    instances = [*scene.mirrored(sensor, 10), *scene.instances(12)]
    sessions = 10
    for sweep in range(3):
        began = clock.now
        time = 20 if sweep else seconds
        answer = scene.run(scheduled_event(), LambdaContext(time, clock=clock))
        # No call begins in the last fifth. Those under way then take 0.2 s each, on this clock one
        # after the other.
        assert clock.now - began <= 0.8 * time + 0.2 * function.PARALLEL_CREATES + 0.01
        assert (answer.status, "deferred" in answer.summary) == (200, sweep == 0)
        deferred = [entry for entry in answer.interfaces if entry["outcome"] == "deferred"]
        assert all("time" in e["reason"] and e["sensors"] == [] for e in deferred)
        rest = [entry for entry in deferred if entry["interface_id"] is None]
        assert len(rest) == (sweep == 0)
        assert all(e["instance_id"] is None and "not read" in e["reason"] for e in rest)
        sessions += answer.summary.get("created", 0)
        assert sum(scene.sessions_of(*instances)) == len(scene.sessions()) == sessions
    assert answer.summary == {"exists": 22, "skipped": 1}


def test_sources_that_aws_always_refuses_keep_no_others_from_their_turn(
    scene: Scene, sensor: str, clock: Clock
) -> None:
    """A sweep has time for 17 creates and what is on its way then, never for the 30 in front."""
    mock_random.seed(1)  # the order comes from the IDs
    refused, good = scene.instances(30), scene.instances(5)
    for instance in refused:
        scene.refuse(scene.first_interface(instance), "SomethingNew", times=100)
    for number in range(6):
        event = {"id": f"sweep {number}", "sweep": True}
        scene.run(event, LambdaContext(6, clock=clock))
    assert scene.sessions_of(*good) == [1] * 5
    assert scene.count(CREATE) <= 6 * 26


# --- Failures in the middle


def test_pages_before_the_one_that_fails_are_mirrored(scene: Scene, sensor: str) -> None:
    scene.show_pages_of(5)
    instances = scene.instances(14)
    scene.fail(INSTANCES, after=2, where=lambda p: p["Filters"][0]["Name"] == "instance-state-name")
    error = deliver(scheduled_event()).error
    wanted = ("1 failed", "The interfaces after these were not read", "RequestLimitExceeded")
    assert missing(error, *wanted) == []
    assert sum(scene.sessions_of(*instances)) == 9  # and the sensor's own
    scene.heal()
    assert scene.run(scheduled_event()).summary == {"created": 5, "exists": 9, "skipped": 1}


def test_a_page_of_sessions_that_fails_fails_all_that_could_be_mirrored_already(
    scene: Scene, sensor: str
) -> None:
    """Without the last page nobody knows which interfaces have a session, nor how many each
    sensor has."""
    scene.show_pages_of(5)
    instances = [*scene.mirrored(sensor, 11), scene.instance()]
    scene.fail(SESSIONS, after=2)
    assert deliver(scheduled_event()).error.startswith("12 failed")
    assert scene.count(CREATE) == 0
    scene.heal()
    assert scene.run(scheduled_event()).summary == {"created": 1, "exists": 11, "skipped": 1}
    assert scene.sessions_of(*instances) == [1] * 12


# --- Nothing to do


def test_a_sweep_that_finds_nothing_to_mirror_and_no_session_of_ours_reads_no_sensor(
    scene: Scene,
) -> None:
    scene.configure(scene.sensor(attached=False))
    for summary in ({}, {"exists": 1}):
        scene.forget_calls()
        answer = scene.run(scheduled_event())
        assert (answer.status, answer.summary) == (200, summary)
        assert sorted(call.operation for call in scene.calls) == [INSTANCES, SESSIONS, TARGETS]
        scene.mirrored(scene.sensor(attached=False))
