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
    rule,
    running_event,
    scheduled_event,
)
from conftest import Answer, Clock, Run

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


def mirrored(account: SimulatedAccount, target_id: str, count: int) -> list[str]:
    """Instances whose interface has a session to the target."""
    instances = account.instances(count)
    for instance in instances:
        account.session(account.interfaces_of(instance)[0], target_id)
    return instances


def sessions_by_interface(account: SimulatedAccount, instance_ids: Sequence[str]) -> list[int]:
    """How many sessions each interface of these instances has."""
    interfaces = [key for instance in instance_ids for key in account.interfaces_of(instance)]
    counts = Counter(session["NetworkInterfaceId"] for session in account.sessions())
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
    account: SimulatedAccount, sensor: str, run: Run, sweep: dict[str, Any]
) -> None:
    running = account.instances(2, interfaces=2)
    others = [
        account.instance(state=state)
        for state in ("pending", "stopping", "stopped", "shutting-down")
    ]
    terminated = account.instance(state="terminated")
    answer = run(sweep)
    assert answer.status == 200
    assert answer.body["dry_run"] is False
    assert answer.body["summary"] == {"created": 4, "skipped": 1}
    assert sessions_by_interface(account, running) == [1] * 4
    assert sessions_by_interface(account, others) == [0] * 4
    looked_at = {entry["instance_id"] for entry in answer.interfaces}
    assert looked_at == {*running, account.sensor_instance(sensor)}
    assert terminated not in looked_at


def test_what_events_have_missed_is_mirrored(
    account: SimulatedAccount, sensor: str, run: Run
) -> None:
    older, attached_to, deleted_from = account.instances(3)
    deleted = run({"instance-ids": [attached_to, deleted_from]}).interfaces[1]["session_id"]
    account.delete_session(deleted)
    account.ec2.attach_network_interface(
        InstanceId=attached_to, NetworkInterfaceId=account.interface(), DeviceIndex=1
    )
    assert run(scheduled_event()).body["summary"] == {"created": 3, "exists": 1, "skipped": 1}
    assert sessions_by_interface(account, [older, attached_to, deleted_from]) == [1] * 4
    assert run(scheduled_event()).body["summary"] == {"exists": 4, "skipped": 1}


def test_interfaces_are_judged_as_for_an_event(
    account: SimulatedAccount, sensor: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXCLUDE_TAGS", "mirror=no")
    excluded = account.instance(tags={"mirror": "no"})
    (interface,) = account.interfaces_of(excluded)
    account.session(interface, sensor)
    instances = [
        excluded,
        account.instance(interface_type="efa-only"),
        account.instance(ipv6_only=True),
        account.instance(zone="b"),
        account.instance(),
        account.sensor_instance(sensor),
    ]
    planned = run({"instance-ids": instances, "dry_run": True})
    swept = run({"sweep": True, "dry_run": True})
    by_interface = {entry["interface_id"]: entry for entry in planned.interfaces}
    assert {entry["interface_id"]: entry for entry in swept.interfaces} == by_interface
    assert swept.body["summary"] == {"unmirrored": 1, "planned": 1, "skipped": 4}


def test_each_session_that_is_created_counts_for_the_next_choice(
    account: SimulatedAccount, configure: Callable[..., None], run: Run
) -> None:
    targets = [account.sensor(sessions=sessions) for sessions in (0, 2, 5)]
    configure(targets)
    account.instances(8)
    run(scheduled_event())
    assert [len(account.sessions(target_id=target)) for target in targets] == [5, 5, 5]


# --- Calls


def expected_calls(running: int, sessions: int, created: int) -> dict[str, int]:
    """Instances and sessions once each, page by page; the sensors once; a create each."""
    return {
        "DescribeInstances": -(-running // PAGE) + 1,  # and the sensor's own, for its state
        "DescribeTrafficMirrorSessions": max(1, -(-sessions // PAGE)),
        **dict.fromkeys(SENSOR_READS, 1),
        **({CREATE: created} if created else {}),
    }


@pytest.mark.parametrize(
    ("with_session", "without"), [(0, 1), (1, 0), (900, 3), (1_200, 3), (2_100, 30)]
)
def test_interfaces_that_are_mirrored_and_reachable_cost_no_call_of_their_own(
    account: SimulatedAccount, sensor: str, run: Run, with_session: int, without: int
) -> None:
    mirrored(account, sensor, with_session)
    unmirrored = account.instances(without) if without else []
    answer = run(scheduled_event())
    summary = {"created": without, "exists": with_session, "skipped": 1}
    assert answer.body["summary"] == {key: count for key, count in summary.items() if count}
    assert sessions_by_interface(account, unmirrored) == [1] * without
    running = with_session + without + 1
    calls = Counter(call.operation for call in account.calls)
    assert calls == expected_calls(running, with_session, without)
    assert all(
        call.parameters.get("MaxResults") == PAGE
        for call in account.calls
        if (call.operation.startswith("Describe"))
    )


def test_a_vpc_on_a_later_page_costs_one_more_call_for_its_acls(
    account: SimulatedAccount, sensor: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(function, "PAGE", 5)
    account.instances(9)
    others = [account.instance(account.subnet(vpc=account.vpc("10.9.0.0/16"))) for _ in range(2)]
    answer = run(scheduled_event())
    assert answer.body["summary"] == {"created": 11, "skipped": 1}
    assert sessions_by_interface(account, others) == [1, 1]
    assert account.count("DescribeInstances") == 3 + 1
    assert account.count("DescribeNetworkAcls") == 2


def test_a_body_lists_a_hundred_interfaces_and_counts_all(
    account: SimulatedAccount, sensor: str, run: Run
) -> None:
    mirrored(account, sensor, 120)
    account.instances(3, zone="b")
    answer = run(scheduled_event())
    assert answer.body["summary"] == {"unmirrored": 3, "exists": 120, "skipped": 1}
    assert len(answer.interfaces) == 100
    assert answer.outcomes[:4] == ["unmirrored"] * 3 + ["exists"]
    assert answer.status == 400


# --- Sessions to sensors that packets cannot reach

TEN = "10.0.0.0/8"
ELSEWHERE = "192.0.2.0/24"


def sensor_instance_stopped(account: SimulatedAccount) -> tuple[str, str, str]:
    target = account.sensor()
    account.stop(account.sensor_instance(target))
    return target, "unavailable", "stopped"


def sensor_instance_terminated(account: SimulatedAccount) -> tuple[str, str, str]:
    target = account.sensor()
    interface = account.sensor_interface(target)
    account.terminate(account.sensor_instance(target))
    return target, "unavailable", interface


def sensor_interface_deleted(account: SimulatedAccount) -> tuple[str, str, str]:
    target = account.sensor(attached=False)
    interface = account.sensor_interface(target)
    account.delete_sensor_interface(target)
    return target, "unavailable", interface


def load_balancer_deleted(account: SimulatedAccount) -> tuple[str, str, str]:
    target = account.nlb_sensor([account.subnet()])
    account.delete_sensor_interface(target)
    return target, "unavailable", "load balancer"


def group_without_rule(account: SimulatedAccount) -> tuple[str, str, str]:
    group = account.group()
    return account.sensor(groups=[group]), "security_group", group


def group_for_another_port(account: SimulatedAccount) -> tuple[str, str, str]:
    group = account.group(rule(ports=(4_790, 65_535)), rule("tcp"))
    return account.sensor(groups=[group]), "security_group", group


def group_for_other_addresses(account: SimulatedAccount) -> tuple[str, str, str]:
    group = account.group(rule(cidr=ELSEWHERE))
    return account.sensor(groups=[group]), "security_group", group


def group_that_references_another(account: SimulatedAccount) -> tuple[str, str, str]:
    group = account.group(rule(group=account.group()))
    return account.sensor(groups=[group]), "security_group", group


def prefix_list_of_other_addresses(account: SimulatedAccount) -> tuple[str, str, str]:
    group = account.group(rule(prefix_list=account.prefix_list(ELSEWHERE)))
    return account.sensor(groups=[group]), "security_group", group


def load_balancer_with_a_closed_group(account: SimulatedAccount) -> tuple[str, str, str]:
    group = account.group(rule(cidr=ELSEWHERE))
    return account.nlb_sensor([account.subnet()], [group]), "security_group", group


def acl_that_denies(account: SimulatedAccount) -> tuple[str, str, str]:
    entries = [acl_entry(90, "deny", TEN), acl_entry(100, "allow", egress=True)]
    return account.sensor(account.subnet(acl=entries)), "network_acl", "90"


def acl_without_a_match(account: SimulatedAccount) -> tuple[str, str, str]:
    entries = [acl_entry(100, "allow", ELSEWHERE), acl_entry(100, "allow", egress=True)]
    return account.sensor(account.subnet(acl=entries)), "network_acl", "acl-"


def far_sensor_with_a_closed_group(account: SimulatedAccount) -> tuple[str, str, str]:
    group = account.group()
    return account.sensor(groups=[group], zone="b"), "security_group", group


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
    acl_that_denies,
    acl_without_a_match,
    far_sensor_with_a_closed_group,
]


@pytest.mark.parametrize("make", BLOCKED)
def test_a_session_that_packets_cannot_reach_is_blocked(
    account: SimulatedAccount,
    configure: Callable[..., None],
    run: Run,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[SimulatedAccount], tuple[str, str, str]],
) -> None:
    target, stage, evidence = make(account)
    another = account.sensor(sessions=3)
    configure([another, target])
    instance = account.instance()
    (interface,) = account.interfaces_of(instance)
    session = account.session(interface, target)
    before = account.sessions()

    answer = run(scheduled_event())
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
    assert account.sessions() == before
    assert {call.operation[:3] for call in account.calls} <= {"Des", "Get"}

    # An event for the instance only asks whether there is a session.
    assert run(instance).outcomes == ["exists"]


def reachable(account: SimulatedAccount) -> str:
    return account.sensor(account.subnet())


def outbound_acl_denies(account: SimulatedAccount) -> str:
    account.acl(account.zone_subnet("a"), [acl_entry(100, "allow")])
    return account.sensor(account.subnet())


def in_another_zone(account: SimulatedAccount) -> str:
    return account.sensor(zone="b")


def in_another_vpc(account: SimulatedAccount) -> str:
    return account.sensor(account.subnet(vpc=account.vpc("10.8.0.0/16")))


def full(account: SimulatedAccount) -> str:
    return account.sensor(quota=1)


def not_attached(account: SimulatedAccount) -> str:
    return account.sensor(attached=False)


def of_another_account(account: SimulatedAccount) -> str:
    return account.foreign_sensor()


def group_unseen(account: SimulatedAccount) -> str:
    group = account.group()
    account.hide(group)
    return account.sensor(groups=[group])


def acl_unseen(account: SimulatedAccount) -> str:
    subnet = account.subnet()
    account.hide(account.acl(subnet, []))
    return account.sensor(subnet)


def prefix_list_may_not_be_read(account: SimulatedAccount) -> str:
    account.deny("ec2:GetManagedPrefixListEntries")
    return account.sensor(groups=[account.group(rule(prefix_list=account.prefix_list(ELSEWHERE)))])


def load_balancer_without_tags_set(account: SimulatedAccount) -> str:
    return account.nlb_sensor([account.subnet()])


def load_balancer_endpoint(account: SimulatedAccount) -> str:
    return account.gwlb_sensor([account.subnet()])


def load_balancer_in_another_zone(account: SimulatedAccount) -> str:
    return account.nlb_sensor([account.subnet("b")])


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
    account: SimulatedAccount,
    configure: Callable[..., None],
    run: Run,
    make: Callable[[SimulatedAccount], str],
) -> None:
    target = make(account)
    configure(target, LOCAL_VPC_ONLY="true")
    (instance,) = mirrored(account, target, 1)
    answer = run(scheduled_event())
    entry = entry_of(answer, instance)
    assert (entry["outcome"], entry["target_id"], entry["sensors"]) == ("exists", target, [])
    assert answer.status == 200


def test_a_session_to_a_target_that_is_not_ours_is_not_checked(
    account: SimulatedAccount, sensor: str, run: Run
) -> None:
    foreign = account.sensor(groups=[account.group()])
    (instance,) = mirrored(account, foreign, 1)
    entry = entry_of(run(scheduled_event()), instance)
    assert entry["outcome"] == "exists"
    assert "not one of our targets" in entry["reason"]


@pytest.mark.parametrize("reachable_first", [True, False])
def test_a_session_that_packets_cannot_reach_is_reported_beside_one_that_they_can(
    account: SimulatedAccount, configure: Callable[..., None], run: Run, reachable_first: bool
) -> None:
    """The first session whose filter matches gets a packet, so the other is no replacement."""
    good, closed = account.sensor(), account.sensor(groups=[account.group()])
    configure([good, closed])
    instance = account.instance()
    (interface,) = account.interfaces_of(instance)
    account.session(interface, good, 1 if reachable_first else 2)
    account.session(interface, closed, 2 if reachable_first else 1)
    entry = entry_of(run(scheduled_event()), instance)
    assert (entry["outcome"], entry["target_id"]) == ("blocked", closed)


def test_a_blocked_session_is_not_replaced(
    account: SimulatedAccount, configure: Callable[..., None], run: Run
) -> None:
    closed = account.sensor(groups=[account.group()])
    configure([account.sensor(), closed])
    blocked = mirrored(account, closed, 2)
    fine = account.instance()
    answer = run(scheduled_event())
    assert answer.body["summary"] == {"blocked": 2, "created": 1, "skipped": 2}
    assert sessions_by_interface(account, [*blocked, fine]) == [1, 1, 1]


def test_blocked_sessions_are_found_on_every_page(
    account: SimulatedAccount, configure: Callable[..., None], run: Run, monkeypatch: Any
) -> None:
    monkeypatch.setattr(function, "PAGE", 5)
    closed = account.sensor(groups=[account.group()], quota=100)
    configure(closed)
    mirrored(account, closed, 17)
    assert run(scheduled_event()).body["summary"] == {"blocked": 17, "skipped": 1}
    assert account.count("DescribeInstances") == 4 + 1
    assert all(account.count(call) == 1 for call in SENSOR_READS)


# --- What is not mirrored, and why?


def test_a_dry_run_by_hand_says_what_is_not_mirrored_and_why(
    account: SimulatedAccount, configure: Callable[..., None], run: Run
) -> None:
    good = account.sensor(account.subnet())
    closed_group = account.group(rule(cidr=ELSEWHERE))
    closed = account.sensor(groups=[closed_group], zone="b")
    denying = account.sensor(account.subnet("c", acl=[acl_entry(70, "deny")]), zone="c")
    configure([good, closed, denying])
    instances = {
        "planned": account.instance(),
        "zone": account.instance(zone="d"),
        "security_group": account.instance(zone="b"),
        "network_acl": account.instance(zone="c"),
        "exists": mirrored(account, good, 1)[0],
        "blocked": account.instance(),
    }
    account.session(account.interfaces_of(instances["blocked"])[0], closed)
    before = account.sessions()

    answer = run({"sweep": True, "dry_run": True})
    assert answer.body["dry_run"] is True
    assert answer.status == 400
    assert answer.body["summary"] == {
        "unmirrored": 3,
        "blocked": 1,
        "planned": 1,
        "exists": 1,
        "skipped": 3,
    }
    assert account.sessions() == before
    assert account.count(CREATE) == 0
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
    account: SimulatedAccount, sensor: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRY_RUN", "true")
    account.instances(3)
    answer = run(scheduled_event())
    assert answer.body["dry_run"] is True
    assert answer.body["summary"] == {"planned": 3, "skipped": 1}
    assert account.sessions() == []


def test_a_dry_run_comes_to_the_choices_of_the_real_run(
    account: SimulatedAccount, configure: Callable[..., None], run: Run
) -> None:
    configure([account.sensor(sessions=sessions) for sessions in (1, 3, 3, 6)])
    instances = account.instances(15)
    planned = run({"sweep": True, "dry_run": True})
    real = run({"sweep": True})
    for instance in instances:
        one, other = entry_of(planned, instance), entry_of(real, instance)
        assert (one["outcome"], other["outcome"]) == ("planned", "created")
        assert one["target_id"] == other["target_id"]
        assert one["session_name"] == other["session_name"]


# --- Time


@pytest.fixture
def clock(account: SimulatedAccount, clock: Clock) -> Clock:
    """A clock on which each call takes 0.2 s."""
    account.gates.append(lambda call, parameters: clock.advance(0.2))
    return clock


def test_sweeps_with_20_seconds_each_come_to_an_end(
    account: SimulatedAccount, sensor: str, run: Run, clock: Clock
) -> None:
    mirrored(account, sensor, 4_900)
    waiting = account.instances(100)
    left = len(waiting)
    for sweeps in range(1, 10):  # noqa: B007
        began = clock.now
        answer = run(scheduled_event(), LambdaContext(20, clock=clock))
        # No call begins in the last fifth, and each takes 0.2 s.
        assert clock.now - began <= 20 - 4 + 0.2 + 0.01
        summary = answer.body["summary"]
        assert answer.status == 200
        created, deferred = summary.get("created", 0), summary.get("deferred", 0)
        assert created + deferred == left
        assert created > 0
        assert summary["exists"] == 5_000 - left
        left = deferred
        assert sum(sessions_by_interface(account, waiting)) == 100 - left
        if not left:
            break
    # 80 calls fit into 16 s; 11 pages and 5 calls for the sensors are among them.
    assert sweeps == 2
    assert sessions_by_interface(account, waiting) == [1] * 100
    assert len(account.sessions()) == 5_000
    assert account.count(CREATE) == 100


@pytest.mark.parametrize("seconds", [1, 2, 3, 4, 5])
def test_sweeps_with_little_time_get_on_or_say_that_they_do_not(
    account: SimulatedAccount,
    sensor: str,
    run: Run,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    seconds: int,
) -> None:
    """Pages of five, 23 instances: six pages for the first sweep. A sweep needs its reads."""
    monkeypatch.setattr(function, "PAGE", 5)
    instances = account.instances(22)
    calls_in_time = int(seconds * 0.8 / 0.2 + 1e-9) + 1
    answer = run(scheduled_event(), LambdaContext(seconds, clock=clock))
    assert answer.status == 200
    assert account.count() <= calls_in_time
    assert answer.body["summary"]["deferred"] > 0
    for entry in answer.interfaces:
        if entry["outcome"] == "deferred":
            assert "time" in entry["reason"]
            assert entry["sensors"] == []
    created = answer.body["summary"].get("created", 0)
    assert sum(sessions_by_interface(account, instances)) == created
    while "deferred" in run(scheduled_event(), LambdaContext(20, clock=clock)).body["summary"]:
        pass
    assert sessions_by_interface(account, instances) == [1] * 22


def test_pages_that_were_not_reached_are_deferred(
    account: SimulatedAccount,
    sensor: str,
    run: Run,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(function, "PAGE", 5)
    account.instances(14)
    account.gates.append(lambda call, _: clock.advance(20 if account.count(CREATE) == 3 else 0))
    answer = run(scheduled_event(), LambdaContext(20, clock=clock))
    # A page with the sensor and four instances, and one entry for all that was not read.
    assert answer.body["summary"] == {"deferred": 2, "created": 3, "skipped": 1}
    (rest,) = (entry for entry in answer.interfaces if entry["interface_id"] is None)
    assert (rest["outcome"], rest["instance_id"]) == ("deferred", None)
    assert "not read" in rest["reason"]
    levels = {r.levelname for r in caplog.records if getattr(r, "outcome", "") == "deferred"}
    assert levels == {"WARNING"}
    account.gates.pop()
    assert run(scheduled_event(), LambdaContext(20, clock=clock)).body["summary"] == {
        "created": 11,
        "exists": 3,
        "skipped": 1,
    }


# --- Failures in the middle


@pytest.mark.parametrize("code", ["RequestLimitExceeded", "UnauthorizedOperation"])
def test_pages_before_the_one_that_fails_are_mirrored(
    account: SimulatedAccount, sensor: str, monkeypatch: pytest.MonkeyPatch, run: Run, code: str
) -> None:
    monkeypatch.setattr(function, "PAGE", 5)
    instances = account.instances(14)
    account.fail(
        "DescribeInstances",
        code,
        status=403 if code == "UnauthorizedOperation" else 503,
        after=2,
        where=lambda parameters: parameters["Filters"][0]["Name"] == "instance-state-name",
    )
    with pytest.raises(function.MirroringError) as caught:
        run(scheduled_event())
    message = str(caught.value)
    assert message.startswith("1 failed")
    assert "The instances after these were not read" in message
    assert ("ec2:DescribeInstances" if "Unauth" in code else code) in message
    assert sum(sessions_by_interface(account, instances)) == 9  # and the sensor's own
    account.heal()
    assert run(scheduled_event()).body["summary"] == {"created": 5, "exists": 9, "skipped": 1}


def test_a_page_of_sessions_that_fails_fails_all_that_could_be_mirrored_already(
    account: SimulatedAccount, sensor: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the last page nobody knows which interfaces have a session, nor how many each
    sensor has."""
    monkeypatch.setattr(function, "PAGE", 5)
    instances = [*mirrored(account, sensor, 11), account.instance()]
    account.fail("DescribeTrafficMirrorSessions", after=2)
    with pytest.raises(function.MirroringError, match="12 failed"):
        run(scheduled_event())
    assert account.count(CREATE) == 0
    account.heal()
    assert run(scheduled_event()).body["summary"] == {"created": 1, "exists": 11, "skipped": 1}
    assert sessions_by_interface(account, instances) == [1] * 12


# --- What is cached


def test_a_sweep_reads_the_sensors_afresh_and_later_events_profit(
    account: SimulatedAccount, configure: Callable[..., None], run: Run
) -> None:
    group = account.group()
    used, closed = account.sensor(sessions=5), account.sensor(groups=[group])
    configure([used, closed], CACHE_SECONDS="300")
    assert run(account.instance()).entry["target_id"] == used
    account.ec2.authorize_security_group_ingress(
        GroupId=group, IpProtocol="udp", FromPort=4789, ToPort=4789, CidrIp="0.0.0.0/0"
    )
    # The cache does not know yet.
    assert run(account.instance()).entry["target_id"] == used

    swept = account.instance()
    account.forget_calls()
    assert entry_of(run(scheduled_event()), swept)["target_id"] == closed
    assert all(account.count(call) == 1 for call in SENSOR_READS)

    account.forget_calls()
    assert run(account.instance()).entry["target_id"] == closed
    assert not any(account.count(call) for call in SENSOR_READS)
    assert account.count() == 3


def test_a_sweep_does_not_judge_sessions_by_what_is_cached(
    account: SimulatedAccount, configure: Callable[..., None], run: Run
) -> None:
    group = account.group(rule())
    target = account.sensor(groups=[group])
    configure(target, CACHE_SECONDS="300")
    instance = account.instance()
    assert run(instance).outcomes == ["created"]
    account.ec2.revoke_security_group_ingress(
        GroupId=group, IpProtocol="udp", FromPort=4789, ToPort=4789, CidrIp="0.0.0.0/0"
    )
    assert entry_of(run(scheduled_event()), instance)["outcome"] == "blocked"


# --- Logs


def test_what_is_in_order_is_logged_for_debugging_only(
    account: SimulatedAccount, sensor: str, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger=function.__name__)
    mirrored(account, sensor, 2)
    account.instance()
    account.instance(zone="b")
    run(scheduled_event())
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
    account: SimulatedAccount, sensor: str, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger=function.__name__)
    run({"instance-ids": [*mirrored(account, sensor, 1), account.sensor_instance(sensor)]})
    levels = {r.outcome: r.levelname for r in caplog.records if hasattr(r, "outcome")}
    assert levels == {"exists": "INFO", "skipped": "INFO"}


def test_a_sweep_of_nothing_is_fine(
    account: SimulatedAccount, configure: Callable[..., None], run: Run
) -> None:
    configure(account.sensor(attached=False))
    answer = run(scheduled_event())
    assert (answer.status, answer.body["summary"], answer.interfaces) == (200, {}, [])
    assert {call.operation for call in account.calls} == {
        "DescribeInstances",
        "DescribeTrafficMirrorSessions",
        "DescribeTrafficMirrorTargets",
    }


def test_an_event_by_name_leaves_the_sweep_alone(
    account: SimulatedAccount, sensor: str, run: Run
) -> None:
    first, second = account.instances(2)
    assert run(running_event(first)).outcomes == ["created"]
    assert sessions_by_interface(account, [first, second]) == [1, 0]
