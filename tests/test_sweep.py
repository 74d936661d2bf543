"""A sweep looks at every running instance of the Region: it mirrors what events have missed, page
by page and within its time, and says of the sessions that exist which of them packets cannot reach.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from aws import LambdaContext, acl_entry, route, rule, scheduled_event
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


def as_logged(caplog: pytest.LogCaptureFixture) -> dict[str, str]:
    """At which level each outcome was logged."""
    return {r.outcome: r.levelname for r in caplog.records if hasattr(r, "outcome")}


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


# --- Sessions to sensors that packets cannot reach

ELSEWHERE = "192.0.2.0/24"


def gone(scene: Scene, target: str, end: Callable[[str], object]) -> tuple[str, str]:
    """The interface of a sensor that is gone, and the target."""
    interface = scene.sensor_interface(target)
    end(target)
    return interface, target


def closed(
    scene: Scene, *rules: dict[str, Any], balanced: bool = False, **options: Any
) -> tuple[str, str]:
    """A security group with these rules, and a target in it."""
    group = scene.group(*rules)
    if balanced:
        return group, scene.nlb_sensor([scene.subnet()], [group])
    return group, scene.sensor(groups=[group], **options)


def without_balancer(scene: Scene) -> str:
    target = scene.nlb_sensor([scene.subnet()])
    scene.delete_sensor_interface(target)
    return target


def behind_acl(scene: Scene, *inbound: dict[str, Any]) -> str:
    return scene.sensor(scene.subnet(acl=[*inbound, acl_entry(100, "allow", egress=True)]))


# The stage, and from the account to what the reason names and the target.
BLOCKED: dict[str, tuple[str, Callable[[Scene], tuple[str, str]]]] = {
    "instance stopped": ("unavailable", lambda s: ("stopped", s.sensor(state="stopped"))),
    "instance terminated": (
        "unavailable",
        lambda s: gone(s, s.sensor(), lambda target: s.terminate(s.sensor_instance(target))),
    ),
    "interface deleted": (
        "unavailable",
        lambda s: gone(s, s.sensor(attached=False), s.delete_sensor_interface),
    ),
    "load balancer deleted": ("unavailable", lambda s: ("load balancer", without_balancer(s))),
    "group without rule": ("security_group", closed),
    "prefix list of other addresses": (
        "security_group",
        lambda s: closed(s, rule(prefix_list=s.prefix_list(ELSEWHERE))),
    ),
    "load balancer with a closed group": (
        "security_group",
        lambda s: closed(s, rule(cidr=ELSEWHERE), balanced=True),
    ),
    "ACL that denies": (
        "network_acl",
        lambda s: ("90", behind_acl(s, acl_entry(90, "deny", "10.0.0.0/8"))),
    ),
    "ACL without a match": (
        "network_acl",
        lambda s: ("acl-", behind_acl(s, acl_entry(100, "allow", ELSEWHERE))),
    ),
}


@pytest.mark.parametrize(("stage", "make"), BLOCKED.values(), ids=BLOCKED)
def test_a_session_that_packets_cannot_reach_is_blocked(
    scene: Scene,
    caplog: pytest.LogCaptureFixture,
    stage: str,
    make: Callable[[Scene], tuple[str, str]],
) -> None:
    evidence, target = make(scene)
    scene.configure([scene.sensor(sessions=3), target])
    (instance,) = scene.mirrored(target)
    (interface,) = scene.interfaces_of(instance)
    (session,) = scene.sessions(interface_id=interface)
    before = scene.sessions()

    answer = scene.run(scheduled_event())
    entry = answer.of(instance)
    reason, (row,) = entry.pop("reason"), entry.pop("sensors")
    assert entry == {
        "interface_id": interface,
        "instance_id": instance,
        "outcome": "blocked",
        "target_id": target,
        "session_id": session["TrafficMirrorSessionId"],
        "session_name": None,
    }
    assert (row["target_id"], row["verdict"], row["stage"]) == (target, "rejected", stage)
    assert (evidence in reason, evidence in row["reason"], answer.status) == (True, True, 400)
    assert as_logged(caplog)["blocked"] == "ERROR"
    # Reported, never changed.
    assert scene.sessions() == before
    assert {call.operation[:3] for call in scene.calls} <= {"Des", "Get"}
    # An event for the instance only asks whether there is a session.
    assert scene.run(instance).outcomes == ["exists"]


def hidden_group(scene: Scene) -> str:
    group, target = closed(scene)
    scene.hide(group)
    return target


def hidden_acl(scene: Scene) -> str:
    subnet = scene.subnet()
    scene.hide(scene.acl(subnet, []))
    return scene.sensor(subnet)


def outbound_acl_denies(scene: Scene) -> str:
    scene.acl(scene.zone_subnet("a"), [acl_entry(100, "allow")])
    return scene.sensor(scene.subnet())


def in_another_vpc(scene: Scene) -> str:
    scene.route_table(routes=[route("10.8.0.0/16", tgw=True)], main=True)
    return scene.sensor(scene.subnet(vpc=scene.vpc("10.8.0.0/16")))


def prefix_list_may_not_be_read(scene: Scene) -> str:
    scene.deny("ec2:GetManagedPrefixListEntries")
    return closed(scene, rule(prefix_list=scene.prefix_list(ELSEWHERE)))[1]


NOT_BLOCKED: dict[str, Callable[[Scene], str]] = {
    "reachable": lambda s: s.sensor(s.subnet()),
    "outbound ACL denies": outbound_acl_denies,
    "in another zone": lambda s: s.sensor(zone="b"),
    "in another VPC": in_another_vpc,
    "full": lambda s: s.sensor(quota=1),
    "not attached": lambda s: s.sensor(attached=False),
    "of another account": lambda s: s.foreign_sensor(),
    "group unseen": hidden_group,
    "ACL unseen": hidden_acl,
    "prefix list may not be read": prefix_list_may_not_be_read,
    "load balancer without tags set": lambda s: s.nlb_sensor([s.subnet()]),
    "load balancer endpoint": lambda s: s.gwlb_sensor([s.subnet()]),
    "load balancer of which one interface is open": lambda s: s.nlb_sensor(
        [s.subnet(acl=[]), s.subnet("b")]
    ),
}


@pytest.mark.parametrize("make", NOT_BLOCKED.values(), ids=NOT_BLOCKED)
def test_a_session_that_is_not_shown_to_be_unreachable_exists(
    scene: Scene, make: Callable[[Scene], str]
) -> None:
    target = make(scene)
    scene.configure(target, LOCAL_VPC_ONLY="true")
    (instance,) = scene.mirrored(target)
    answer = scene.run(scheduled_event())
    entry = answer.of(instance)
    assert (entry["outcome"], entry["target_id"], entry["sensors"]) == ("exists", target, [])
    assert answer.status == 200


def test_where_packets_leave_from_no_address_there_is_nothing_to_check(scene: Scene) -> None:
    _, target = closed(scene)
    scene.configure(target)
    instance = scene.instance(ipv6_only=True)
    scene.session(scene.first_interface(instance), target)
    assert scene.run(scheduled_event()).of(instance)["outcome"] == "exists"


def test_a_session_to_a_target_that_is_not_ours_is_not_checked(scene: Scene, sensor: str) -> None:
    (instance,) = scene.mirrored(closed(scene)[1])
    entry = scene.run(scheduled_event()).of(instance)
    assert (entry["outcome"], missing(entry["reason"], "not one of our targets")) == ("exists", [])


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


def test_sweeps_with_20_seconds_each_come_to_an_end(
    scene: Scene, sensor: str, clock: Clock
) -> None:
    scene.show_pages_of(100)
    scene.mirrored(sensor, 399)
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


@pytest.mark.parametrize("seconds", [1, 3, 5])
def test_sweeps_with_little_time_get_on_or_say_that_they_do_not(
    scene: Scene, sensor: str, clock: Clock, seconds: int
) -> None:
    """Pages of five, 23 instances: six pages for the first sweep. A sweep needs its reads."""
    scene.show_pages_of(5)
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
    for instance in refused:
        scene.refuse(scene.first_interface(instance), "SomethingNew", times=100)
    for number in range(12):
        event = {"id": f"sweep {number}", "sweep": True}
        scene.run(event, LambdaContext(6, clock=clock))
    assert scene.sessions_of(*good) == [1] * 5
    assert scene.count(CREATE) <= 12 * 26


def test_pages_that_were_not_reached_are_deferred(
    scene: Scene,
    sensor: str,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene.show_pages_of(5)
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
def test_pages_before_the_one_that_fails_are_mirrored(scene: Scene, sensor: str, code: str) -> None:
    scene.show_pages_of(5)
    instances = scene.instances(14)
    scene.fail(
        INSTANCES,
        code,
        status=403 if code == "UnauthorizedOperation" else 503,
        after=2,
        where=lambda parameters: parameters["Filters"][0]["Name"] == "instance-state-name",
    )
    with pytest.raises(function.MirroringError) as caught:
        scene.run(scheduled_event())
    message = str(caught.value)
    assert message.startswith("1 failed")
    assert "The interfaces after these were not read" in message
    assert ("ec2:DescribeInstances" if "Unauth" in code else code) in message
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
    with pytest.raises(function.MirroringError, match="12 failed"):
        scene.run(scheduled_event())
    assert scene.count(CREATE) == 0
    scene.heal()
    assert scene.run(scheduled_event()).summary == {"created": 1, "exists": 11, "skipped": 1}
    assert scene.sessions_of(*instances) == [1] * 12


# --- Memory


# --- Nothing to do


@pytest.mark.parametrize("attached", [False, True])
def test_a_sweep_of_nothing_is_fine_and_reads_no_sensor(scene: Scene, attached: bool) -> None:
    scene.configure(scene.sensor(attached=attached))
    answer = scene.run(scheduled_event())
    assert (answer.status, answer.summary) == (200, {"skipped": 1} if attached else {})
    assert sorted(call.operation for call in scene.calls) == [INSTANCES, SESSIONS, TARGETS]


# --- Metrics


@pytest.mark.parametrize("how", ["sweep", "dry_run in the event", "DRY_RUN"])
def test_what_an_event_asks_for_as_a_dry_run_counts_in_no_metric_and_with_dry_run_it_does(
    scene: Scene, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    """Two interfaces are left out by tags, one goes elsewhere, two are mirrored, one is to be."""
    target, other = scene.sensor(attached=False), scene.sensor(attached=False)
    dry_run = str(how == "DRY_RUN")
    scene.configure(target, EXCLUDE_TAGS="mirror=no", DRY_RUN=dry_run)
    scene.instances(2, tags={"mirror": "no"})
    scene.mirrored(other)
    scene.mirrored(target, 2)
    scene.instance()
    scene.run({"sweep": True, "dry_run": how == "dry_run in the event"})
    names = ("created", "planned", "exists", "skipped", "Sweeps", "Excluded", "Elsewhere")
    document, *sessions = map(json.loads, capsys.readouterr().out.splitlines())
    found = {name: document[name] for name in (*names, "Coverage") if name in document}
    if how == "dry_run in the event":
        assert found == dict.fromkeys(names[:4], 0)
        assert sessions == []
        return
    counts = (1, 0) if how == "sweep" else (0, 1)
    wanted = dict(zip(names, (*counts, 3, 2, 1, 2, 1), strict=True))
    assert found == wanted | {"Coverage": 75 if how == "sweep" else 50}
    assert [line["Sessions"] for line in sessions] == [2 + counts[0]]
