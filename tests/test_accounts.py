"""Sensors of other accounts, through roles and without, and accounts as targets."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from aws import (
    ACCOUNT_ID,
    OTHER_ACCOUNT_ID,
    LambdaContext,
    SimulatedAccount,
    route,
    rule,
    scheduled_event,
)
from botocore.credentials import DeferredRefreshableCredentials
from calls import ACLS, FAULTS, GROUPS, INSTANCES, INTERFACES, PREFIX_LIST, SESSIONS, TARGETS, named
from conftest import Build, Clock, Scene, deliver, missing, running_event

pytestmark = pytest.mark.usefixtures("shared_client")

ASSUME = "sts:AssumeRole"
FAR = "10.9.0.0/16"  # the VPC of sensors in other accounts


class Abroad:
    """Another account, a role that reads there, and the sensors that it shares."""

    def __init__(self, scene: Scene, number: str = OTHER_ACCOUNT_ID, **options: Any) -> None:
        self.scene = scene
        self.account: SimulatedAccount = scene.other(number, **options)
        self.role = self.account.role("sensors")
        self.vpc = self.account.vpc(FAR)
        self.ours = scene.group()  # which groups there refer to

    def sensor(self, *, zone: str = "a", shown: bool = True, **options: Any) -> str:
        """A shared target; `shown`: with the ID of its interface."""
        options.setdefault("subnet", self.account.zone_subnet(zone, self.vpc))
        target = self.account.sensor(**options)
        self.account.share(target, interface=shown)
        return target

    def group(self, *rules: dict[str, Any]) -> str:
        return self.account.group(*rules, vpc=self.vpc)


@pytest.fixture
def abroad(scene: Scene) -> Abroad:
    scene.route_table(routes=[route(FAR, tgw=True)], main=True)
    return Abroad(scene)


EXCLUDE = {"EXCLUDE_TAGS": "role=sensor"}


def hidden_group(scene: Scene, *more: str, **kwargs: Any) -> str:
    group = scene.group()
    scene.hide(group)
    return scene.sensor(groups=[group, *more], **kwargs)


def hidden_acl(scene: Scene, **kwargs: Any) -> str:
    subnet = scene.subnet()
    acl = scene.acl(subnet, [])
    scene.hide(acl)
    return scene.sensor(subnet, **kwargs)


def foreign_load_balancer(scene: Scene) -> str:
    """A load balancer of another account; neither it nor its interfaces can be seen."""
    target = scene.nlb_sensor([scene.subnet()])
    scene.hide(scene.sensor_interface(target))
    scene._backend.traffic_mirror_targets[target].simulated_owner = OTHER_ACCOUNT_ID
    return target


def foreign(scene: Scene, **kwargs: Any) -> str:
    return scene.foreign_sensor(**kwargs)


# Sensors, the first of which cannot be seen whole; how they fare by default, and with
# ALLOW_UNVERIFIED where that makes a difference.
UNSEEN: dict[str, tuple[list[Build], str]] = {
    "a target of another account": ([foreign], "unavailable / (selected)"),
    "a load balancer of another account": ([foreign_load_balancer], "unavailable / (selected)"),
    "a security group that decides": ([hidden_group], "unavailable / (selected)"),
    "a network ACL that decides": ([hidden_acl], "unavailable / (selected)"),
    "another group admits": ([lambda a: hidden_group(a, a.group(rule()))], "(selected)"),
    "a group unseen, the ACL denies": (
        [lambda a: hidden_group(a, subnet=a.subnet(acl=[]))],
        "network_acl",
    ),
    "an ACL unseen, the group denies": (
        [lambda a: hidden_acl(a, groups=[a.group()])],
        "security_group",
    ),
    "a group unseen, in another zone": ([lambda a: hidden_group(a, zone="b")], "zone"),
    "a busy sensor that can be seen comes first": (
        [foreign, lambda a: a.sensor(sessions=9)],
        "unavailable (selected) / (eligible) (selected)",
    ),
    "several, the idle one, whatever its zone": (
        [lambda a: hidden_group(a, sessions=2), hidden_acl, lambda a: foreign(a, zone="c")],
        "unavailable unavailable unavailable / (eligible) (eligible) (selected)",
    ),
    "one is full": (
        [lambda a: foreign(a, quota=0), lambda a: hidden_group(a, sessions=5)],
        "unavailable unavailable / create (selected)",
    ),
}


@pytest.mark.parametrize("allowed", [False, True], ids=["by default", "ALLOW_UNVERIFIED"])
@pytest.mark.parametrize(("build", "stages"), UNSEEN.values(), ids=UNSEEN.keys())
def test_what_cannot_be_seen(scene: Scene, build: list[Build], stages: str, allowed: bool) -> None:
    targets = [make(scene) for make in build]
    if len(targets) == 3:
        scene.session("eni-00000000000000000", targets[1])
    scene.configure(targets, ALLOW_UNVERIFIED=str(allowed), **EXCLUDE)
    wanted = stages.split(" / ")[-1 if allowed else 0]
    assert scene.run(scene.instance()).stages == wanted.split()


def test_without_a_context_no_sensor_counts_as_foreign(scene: Scene) -> None:
    """The function's own account is the one in its ARN, so another one's cannot be told from it."""
    shared = scene.foreign_sensor()
    scene.configure([shared, scene.sensor()], ALLOW_UNVERIFIED="true")
    row = scene.run(scene.instance(), object()).entry["sensors"][0]
    assert (row["stage"], missing(row["reason"], "does not exist")) == ("unavailable", [])


def group_of(scene: Scene, target: str) -> str:
    return str(scene.interface_view(scene.sensor_interface(target))["Groups"][0]["GroupId"])


def subnet_of(scene: Scene, target: str) -> str:
    return str(scene.interface_view(scene.sensor_interface(target))["SubnetId"])


# What the reason names, and what it says besides of one that is chosen all the same.
NAMED: dict[str, tuple[Build, Callable[[Scene, str], str], str]] = {
    "the other account": (
        foreign,
        lambda a, target: "another account",
        "of its sessions only those of this account are counted",
    ),
    "the load balancer": (
        foreign_load_balancer,
        lambda a, target: "another account",
        "behind the load balancer are not checked",
    ),
    "the security group": (hidden_group, group_of, "not verified"),
    "the subnet whose network ACL it is": (hidden_acl, subnet_of, "not verified"),
}


@pytest.mark.parametrize("allowed", ["false", "true"], ids=["by default", "ALLOW_UNVERIFIED"])
@pytest.mark.parametrize(("build", "word", "caveat"), NAMED.values(), ids=NAMED.keys())
def test_the_reason_names(
    scene: Scene, build: Build, word: Callable[[Scene, str], str], caveat: str, allowed: str
) -> None:
    target = build(scene)
    scene.configure(target, ALLOW_UNVERIFIED=allowed, **EXCLUDE)
    reason = scene.run(scene.instance()).sensors[target]["reason"]
    wanted = ["not verified", caveat] if allowed == "true" else []
    assert missing(reason, word(scene, target), *wanted) == []


# --------------------------------------------------------------------------------------
# Accounts as targets
# --------------------------------------------------------------------------------------

NOBODY = "9" * 12  # shows no target here
# `targets`, and what it stands for; h: sensors of ours, x: of another account, both sorted.
STANDS_FOR: dict[str, Callable[[list[str], list[str]], tuple[list[str], list[str]]]] = {
    "an account, in its place": lambda h, x: ([h[1], OTHER_ACCOUNT_ID, h[0]], [h[1], *x, h[0]]),
    "one of its targets named before": lambda h, x: ([x[2], OTHER_ACCOUNT_ID], [x[2], *x[:2]]),
    "one of its targets named behind": lambda h, x: ([OTHER_ACCOUNT_ID, x[0]], x),
    "twice": lambda h, x: ([OTHER_ACCOUNT_ID, h[0], OTHER_ACCOUNT_ID], [*x, h[0]]),
    "several, our own among them": lambda h, x: ([OTHER_ACCOUNT_ID, NOBODY, ACCOUNT_ID], [*x, *h]),
    "eleven digits are an ID": lambda h, x: ([h[0], "1" * 11], [h[0], "1" * 11]),
}


@pytest.mark.parametrize("meant", STANDS_FOR.values(), ids=STANDS_FOR.keys())
def test_an_account_stands_for_its_targets(scene: Scene, abroad: Abroad, meant: Any) -> None:
    ours = sorted(scene.sensor() for _ in range(2))
    theirs = sorted(abroad.sensor() for _ in range(3))
    abroad.account.sensor()  # not shared
    targets, expected = meant(ours, theirs)
    scene.configure(targets, SENSOR_ROLE_ARNS=abroad.role)
    answer = scene.run(scene.instance())
    assert answer.outcomes == ["created"]
    assert [row["target_id"] for row in answer.entry["sensors"]] == expected


@pytest.mark.parametrize("alone", [True, False])
def test_an_account_without_targets_is_said_and_logged(
    scene: Scene, caplog: pytest.LogCaptureFixture, alone: bool
) -> None:
    scene.configure([NOBODY] if alone else [NOBODY, scene.sensor()])
    answer = scene.run(scene.instance())
    assert answer.outcomes == ["unmirrored" if alone else "created"]
    assert (len(answer.entry["sensors"]), NOBODY in answer.entry["reason"]) == (not alone, alone)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert NOBODY in answer.body["message"]
    assert NOBODY in warning


def test_a_new_target_of_an_account_is_used_once_the_memory_is_over_or_leaves_no_sensor(
    scene: Scene, clock: Clock
) -> None:
    first = scene.sensor(sessions=3)
    scene.configure([ACCOUNT_ID], CACHE_SECONDS="60")
    assert scene.run(scene.instance()).entry["target_id"] == first
    second = scene.sensor()
    clock.advance(59)
    assert scene.run(scene.instance()).entry["target_id"] == first
    clock.advance(1)
    assert scene.run(scene.instance()).entry["target_id"] == second
    third = scene.sensor(zone="b")
    assert scene.run(scene.instance(zone="b")).entry["target_id"] == third


def test_what_an_account_stands_for_is_a_target_of_ours(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its hosts are no sources, its sessions are checked, counted and enough."""
    loaded, idle = (scene.sensor() for _ in range(2))
    stopped = scene.sensor(state="stopped")
    scene.configure([ACCOUNT_ID], MIRROR_ALONGSIDE="true")
    host = scene.sensor_instance(loaded)
    extra = scene.interface()
    scene.ec2.attach_network_interface(NetworkInterfaceId=extra, InstanceId=host, DeviceIndex=1)
    assert "hosts a sensor" in scene.run(host).interfaces[1]["reason"]
    (covered,), (dark,) = scene.mirrored(loaded), scene.mirrored(stopped)
    assert scene.run(covered).outcomes == ["exists"]
    new = scene.instance()
    capsys.readouterr()

    answer = scene.run(scheduled_event())
    assert answer.of(dark)["outcome"] == "blocked"
    assert answer.of(new)["target_id"] == idle
    lines = map(json.loads, capsys.readouterr().out.splitlines())
    counts = {line["TargetId"]: line["Sessions"] for line in lines if "TargetId" in line}
    assert counts == {loaded: 1, stopped: 1, idle: 1}


# --------------------------------------------------------------------------------------
# Roles
# --------------------------------------------------------------------------------------


def gone(abroad: Abroad) -> str:
    target = abroad.sensor()
    abroad.account.delete_sensor_interface(target)
    return target


# What is known there decides: the sensor that the owner shows so, and its verdict.
THERE: dict[str, tuple[Callable[[Abroad], str], str]] = {
    "that lets us in": (lambda a: a.sensor(), "(selected)"),
    "that is not running": (lambda a: a.sensor(state="stopped"), "unavailable"),
    "in a group that admits nobody": (lambda a: a.sensor(groups=[a.group()]), "security_group"),
    "with our group as a reference": (
        lambda a: a.sensor(groups=[a.group(rule(group=a.ours, peering="active"))]),
        "(selected)",
    ),
    "behind an ACL": (
        lambda a: a.sensor(subnet=a.account.subnet("a", vpc=a.vpc, acl=[])),
        "network_acl",
    ),
    "behind a prefix list": (
        lambda a: a.sensor(groups=[a.group(rule(prefix_list=a.account.prefix_list("10.0.0.0/8")))]),
        "(selected)",
    ),
    "in another zone": (lambda a: a.sensor(zone="b"), "zone"),
    "where no route leads": (
        lambda a: a.sensor(subnet=a.account.zone_subnet("a", a.account.vpc("10.8.0.0/16"))),
        "route",
    ),
    "whose interface is gone": (gone, "unavailable"),
}


@pytest.mark.parametrize("shown", [True, False], ids=["shown", "shown without its interface"])
@pytest.mark.parametrize(("make", "verdict"), THERE.values(), ids=THERE.keys())
def test_through_a_role_a_sensor_is_judged_as_one_of_ours(
    scene: Scene, abroad: Abroad, make: Any, verdict: str, shown: bool
) -> None:
    """ALLOW_UNVERIFIED or not: nothing is unseen for being foreign, and what does not exist there
    does not exist."""
    target = make(abroad)
    abroad.account.share(target, interface=shown)
    for allowed in ("false", "true"):
        scene.configure(target, SENSOR_ROLE_ARNS=abroad.role, ALLOW_UNVERIFIED=allowed)
        assert scene.run(scene.instance(groups=[abroad.ours])).stages == [verdict]


# What goes wrong in an account, and what the reason says besides the role.
FAILING: dict[str, tuple[Callable[[SimulatedAccount], object], str]] = {
    "no trust": (lambda a: a.roles.clear(), f"needs {ASSUME} on"),
    **{
        f"{call} {fault}": (
            lambda a, call=call, fault=fault: FAULTS[fault](a, call),
            named(call, fault).replace("failed", ""),
        )
        for call in (INTERFACES, INSTANCES, GROUPS, ACLS, SESSIONS, TARGETS)
        for fault in ("denied", "throttled")
    },
}


@pytest.mark.parametrize(("fail", "words"), FAILING.values(), ids=FAILING.keys())
def test_one_account_of_three_that_cannot_be_read_costs_nobody_else(
    scene: Scene, quick: Clock, fail: Any, words: str
) -> None:
    scene.route_table(routes=[route(FAR, tgw=True)], main=True)
    accounts = [Abroad(scene, str(number) * 12) for number in (5, 6, 7)]
    targets = [one.sensor(shown=False) for one in accounts]
    accounts[1].account._load(targets[1], 2)
    roles = " ".join(one.role for one in accounts)
    scene.configure(targets, SENSOR_ROLE_ARNS=roles, ALLOW_UNVERIFIED="true")
    fail(accounts[0].account)
    answer = scene.run(scene.instance())
    assert answer.stages == ["unavailable", "(eligible)", "(selected)"]
    reason = answer.sensors[targets[0]]["reason"]
    assert missing(reason, accounts[0].role, *words.split()) == []

    scene.configure(targets[:1], SENSOR_ROLE_ARNS=roles)
    error = deliver(running_event(scene.instance())).error
    assert missing(error, "1 failed", accounts[0].role, *words.split()) == []


@pytest.mark.parametrize("fault", [*FAULTS, "no credentials"])
def test_where_sts_does_not_answer_the_role_is_named_and_other_sensors_go_on(
    scene: Scene, quick: Clock, abroad: Abroad, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """One that stays silent is given up after two attempts, so that it leaves time for others."""
    theirs, ours = abroad.sensor(), scene.sensor(sessions=5)
    scene.configure([theirs, ours], SENSOR_ROLE_ARNS=abroad.role)
    if fault in FAULTS:
        FAULTS[fault](scene, ASSUME)
        words, attempts = ["AssumeRole", FAULTS[fault].code], 1 if fault == "denied" else 2
    else:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            monkeypatch.delenv(name)
        words, attempts = ["NoCredentialsError"], 0
    answer = scene.run(scene.instance())
    assert answer.stages == ["unavailable", "(selected)"]
    assert missing(answer.sensors[theirs]["reason"], abroad.role, *words) == []
    assert scene.count(ASSUME) == attempts


@pytest.mark.parametrize("ours", [True, False], ids=["an own sensor stands by", "nothing else"])
@pytest.mark.parametrize("seconds", [60, 30])
def test_sts_that_stays_silent_keeps_to_the_deadline(
    scene: Scene, quick: Clock, clock: Clock, abroad: Abroad, seconds: float, ours: bool
) -> None:
    targets = [abroad.sensor(), *([scene.sensor(sessions=5)] if ours else [])]
    scene.configure(targets, SENSOR_ROLE_ARNS=abroad.role)
    context = LambdaContext(seconds, clock=clock)
    begun: list[float] = []

    def silent(call: str, _: Any) -> None:
        if call == ASSUME:
            begun.append(context.get_remaining_time_in_millis() / 1000)
            clock.advance(8)

    scene.gates.append(silent)
    scene.time_out(ASSUME)
    delivery = deliver(running_event(scene.instance()), context)
    assert (len(begun), min(begun) >= min(12, seconds / 5)) == (2, True)
    if ours:
        assert delivery.answer.stages == ["unavailable", "(selected)"]
    else:
        assert "1 failed" in delivery.error


def test_a_prefix_list_that_may_not_be_read_there_is_named(scene: Scene, abroad: Abroad) -> None:
    group = abroad.group(rule(prefix_list=abroad.account.prefix_list("10.0.0.0/8")))
    target = abroad.sensor(groups=[group])
    scene.configure(target, SENSOR_ROLE_ARNS=abroad.role)
    abroad.account.deny(f"ec2:{PREFIX_LIST}")
    answer = scene.run(scene.instance())
    assert answer.stages == ["security_group"]
    reason = answer.sensors[target]["reason"]
    assert missing(reason, f"{abroad.role} needs ec2:{PREFIX_LIST}") == []


def test_roles_that_nobody_needs_do_no_harm(scene: Scene, abroad: Abroad) -> None:
    """That of the own account is not used; whether others can be assumed does not matter."""
    sensor = scene.sensor()
    own = scene.role("sensors", trusts=[])
    abroad.account.roles.clear()
    scene.configure(sensor, SENSOR_ROLE_ARNS=f"{own},{abroad.role}")
    assert scene.run(scene.instance()).entry["target_id"] == sensor
    scene.configure([sensor, abroad.sensor()], SENSOR_ROLE_ARNS=abroad.role)
    assert scene.run(scene.mirrored(sensor)[0]).outcomes == ["exists"]  # it needs no sensor
    assert scene.count(ASSUME) == scene.count(account=OTHER_ACCOUNT_ID) == 0


# --------------------------------------------------------------------------------------
# Zones
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("zone", "verdict"), [("a", "zone"), ("b", "(selected)")])
def test_zones_are_compared_by_their_ids(scene: Scene, zone: str, verdict: str) -> None:
    scene.route_table(routes=[route(FAR, tgw=True)], main=True)
    other = Abroad(scene, zones={"a": scene.zone_id("b"), "b": scene.zone_id("a")})
    target = other.sensor(zone=zone)
    scene.configure(target, SENSOR_ROLE_ARNS=other.role)
    answer = scene.run(scene.instance(zone="a"))
    assert answer.stages == [verdict]
    reason = answer.sensors[target]["reason"]
    assert missing(reason, other.account.zone_id(zone)) == []
    assert "us-east-1" not in reason


@pytest.mark.parametrize(("allowed", "verdict"), [("false", "unavailable"), ("true", "(selected)")])
def test_without_ids_the_zone_is_unknown(
    scene: Scene, abroad: Abroad, allowed: str, verdict: str
) -> None:
    target = abroad.sensor()
    ours = scene.sensor(groups=[scene.group()])
    scene.configure([target, ours], SENSOR_ROLE_ARNS=abroad.role, ALLOW_UNVERIFIED=allowed)
    with scene.old_botocore("AvailabilityZoneId"):
        answer = scene.run(scene.instance())
    assert answer.stages == [verdict, "security_group"]
    assert "Availability Zone" in answer.sensors[target]["reason"]


# --------------------------------------------------------------------------------------
# Sessions
# --------------------------------------------------------------------------------------


def test_sessions_are_counted_where_the_owner_sees_them(
    scene: Scene, abroad: Abroad, clock: Clock
) -> None:
    """Those of others as of the reading; our own at once, and none of them twice."""
    crowded, idle = abroad.sensor(quota=1_000), abroad.sensor(quota=1_000)
    abroad.account._load(crowded, 7)
    scene.mirrored(crowded, 2)
    scene.mirrored(idle, 5)
    scene.configure([crowded, idle], SENSOR_ROLE_ARNS=abroad.role, CACHE_SECONDS="60")

    def counts() -> list[int]:
        answer = scene.run(scene.instance())
        assert answer.entry["target_id"] == idle
        return [row["sessions"] for row in answer.entry["sensors"]]

    assert counts() == [9, 5]
    abroad.account._load(crowded, 90)
    assert counts() == [9, 6]
    clock.advance(60)
    assert counts() == [99, 7]
    scene.configure([crowded, idle], SENSOR_ROLE_ARNS="", ALLOW_UNVERIFIED="true")
    answer = scene.run(scene.instance())
    assert [row["sessions"] for row in answer.entry["sensors"]] == [2, 8]
    assert "only those of this account are counted" in answer.sensors[crowded]["reason"]


def close(abroad: Abroad, target: str) -> None:
    group = abroad.account._sensor_groups[abroad.vpc]
    abroad.account._all_groups()[group].ingress_rules.clear()


def lose_route(abroad: Abroad, target: str) -> None:
    lost = route(FAR, tgw=True, state="blackhole")
    abroad.scene.route_table(routes=[lost], main=True)


# What a sweep makes of a session to a sensor of another account; words of its reason.
CHECKED: dict[str, tuple[Callable[[Abroad, str], object], str, str]] = {
    "that packets reach": (lambda a, t: None, "exists", ""),
    "that has stopped": (
        lambda a, t: a.account.stop(a.account.sensor_instance(t)),
        "blocked",
        "stopped",
    ),
    "whose group admits nobody now": (close, "blocked", "No rule"),
    "whose interface is gone": (
        lambda a, t: a.account.delete_sensor_interface(t),
        "blocked",
        "does not exist",
    ),
    "whose route is a blackhole": (lose_route, "blocked", "blackhole"),
    "that is shared no more": (
        lambda a, t: a.account.unshare(t),
        "blocked",
        "no traffic mirror target",
    ),
    "that is full": (lambda a, t: a.account.quota.update({t: 1}), "exists", ""),
}


@pytest.mark.parametrize("by_account", [False, True], ids=["configured", "by its account"])
@pytest.mark.parametrize(("change", "outcome", "words"), CHECKED.values(), ids=CHECKED.keys())
def test_sweeps_check_sessions_to_other_accounts(
    scene: Scene, abroad: Abroad, change: Any, outcome: str, words: str, by_account: bool
) -> None:
    target = abroad.sensor()
    (instance,) = scene.mirrored(target)
    meant = OTHER_ACCOUNT_ID if by_account else target
    scene.configure([scene.sensor(), meant], SENSOR_ROLE_ARNS=abroad.role)
    change(abroad, target)
    entry = scene.run(scheduled_event()).of(instance)
    assert (entry["outcome"], entry["target_id"]) == (outcome, target)
    assert words in entry["reason"]


def test_a_session_whose_sensor_cannot_be_asked_about_is_not_called_blocked(
    scene: Scene, abroad: Abroad
) -> None:
    target = abroad.sensor(state="stopped")
    (instance,) = scene.mirrored(target)
    scene.configure([target, scene.sensor()])
    assert scene.run(scheduled_event()).of(instance)["outcome"] == "exists"
    scene.configure([target, scene.sensor()], SENSOR_ROLE_ARNS=abroad.role)
    abroad.account.roles.clear()
    error = deliver(scheduled_event()).error
    assert missing(error, "1 failed", "could not be checked", abroad.role) == []


@pytest.mark.parametrize("closed", [True, False])
def test_a_session_that_leads_nowhere_is_found_behind_one_that_cannot_be_checked(
    scene: Scene, abroad: Abroad, closed: bool
) -> None:
    far, near = abroad.sensor(), scene.sensor(groups=[scene.group(*([] if closed else [rule()]))])
    (instance,) = scene.mirrored(far)
    scene.session(scene.first_interface(instance), near, 2)
    scene.configure([far, near], SENSOR_ROLE_ARNS=abroad.role)
    abroad.account.roles.clear()
    delivery = deliver(scheduled_event())
    if closed:
        entry = delivery.answer.of(instance)
        assert (entry["outcome"], entry["target_id"]) == ("blocked", near)
    else:
        assert "1 failed" in delivery.error


# --------------------------------------------------------------------------------------
# What is kept, and what is not asked
# --------------------------------------------------------------------------------------


def test_what_failed_is_not_kept_and_the_rest_is(
    scene: Scene, quick: Clock, abroad: Abroad
) -> None:
    here, theirs = scene.sensor(sessions=9), abroad.sensor()
    scene.configure([here, theirs], SENSOR_ROLE_ARNS=abroad.role, CACHE_SECONDS="60")
    abroad.account.fail(GROUPS)
    assert scene.run(scene.instance()).stages == ["(selected)", "unavailable"]
    abroad.account.heal()
    scene.forget_calls()
    assert scene.run(scene.instance()).stages == ["(eligible)", "(selected)"]
    assert {c.operation for c in scene.calls if c.account == OTHER_ACCOUNT_ID} == {GROUPS}
    assert scene.count(TARGETS) == scene.count(ASSUME) == 0


def test_credentials_are_kept_while_they_are_good(
    scene: Scene, abroad: Abroad, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.configure(abroad.sensor(), SENSOR_ROLE_ARNS=abroad.role)
    now = datetime.now(timezone.utc)
    monkeypatch.setattr("botocore.credentials._local_now", lambda: now)
    monkeypatch.setattr(DeferredRefreshableCredentials.__init__, "__defaults__", (lambda: now,))
    scene.clock = lambda: now.timestamp()  # noqa: PLW0108, as it moves on
    assumed = []
    for _ in range(3):
        assert scene.run(scene.instance()).outcomes == ["created"]
        assumed.append(scene.count(ASSUME))
        now += timedelta(minutes=35)
    assert assumed == [1, 1, 2]


@pytest.mark.parametrize(
    ("function", "session"),
    [("stack traffic/mirror", "stack-traffic-mirror"), ("f", "f-"), ("x" * 70, "x" * 64)],
    ids=["other characters", "2 at least", "64 at most"],
)
def test_the_sessions_name_tells_the_roles_owner_which_function_reads(
    scene: Scene, abroad: Abroad, monkeypatch: pytest.MonkeyPatch, function: str, session: str
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", function)
    scene.configure(abroad.sensor(), SENSOR_ROLE_ARNS=abroad.role)
    assert scene.run(scene.instance()).outcomes == ["created"]
    names = [c.parameters["RoleSessionName"] for c in scene.calls if c.operation == ASSUME]
    assert names == [session]


@pytest.mark.parametrize(
    ("code", "assumed"), [("ExpiredToken", 2), ("AuthFailure", 2), ("InternalError", 1)]
)
def test_credentials_that_aws_does_not_accept_are_forgotten(
    scene: Scene, quick: Clock, abroad: Abroad, code: str, assumed: int
) -> None:
    scene.configure(abroad.sensor(), SENSOR_ROLE_ARNS=abroad.role)
    abroad.account.fail(ACLS, code, status=400)
    assert missing(deliver(running_event(scene.instance())).error, "1 failed", code) == []
    abroad.account.heal()
    assert scene.run(scene.instance()).outcomes == ["created"]
    assert scene.count(ASSUME) == assumed


def test_the_host_of_a_sensor_elsewhere_is_looked_up_there_alone(
    scene: Scene, abroad: Abroad
) -> None:
    target = abroad.sensor()
    host = abroad.account.sensor_instance(target)
    scene.configure([target, scene.sensor()], SENSOR_ROLE_ARNS=abroad.role, CACHE_SECONDS="60")
    for _ in range(2):
        scene.run(scene.instance())
    asked = [call for call in scene.calls if call.operation == INSTANCES and host in repr(call)]
    assert [call.account for call in asked] == [OTHER_ACCOUNT_ID]


def test_a_session_that_its_owner_saw_first_is_not_counted_twice_while_cached(
    scene: Scene, abroad: Abroad, clock: Clock
) -> None:
    target = abroad.sensor(quota=1_000)
    scene.configure(target, SENSOR_ROLE_ARNS=abroad.role, CACHE_SECONDS="60")
    faster = iter([lambda: scene.mirrored(target)])  # after our reading, before the owner's
    abroad.account.gates.append(lambda call, _: call == SESSIONS and next(faster, str)())
    counts = [scene.run(scene.instance()).sensors[target]["sessions"] for _ in range(3)]
    assert counts == [1, 2, 3]


def test_a_target_that_not_even_its_owner_is_shown_whole_is_unavailable(
    scene: Scene, abroad: Abroad
) -> None:
    target = abroad.sensor()
    scene.configure(target, SENSOR_ROLE_ARNS=abroad.role)
    scene.show(
        TARGETS, lambda found: [t.pop("NetworkInterfaceId") for t in found["TrafficMirrorTargets"]]
    )
    answer = scene.run(scene.instance())
    assert answer.stages == ["unavailable"]
    assert "shows no interface" in answer.sensors[target]["reason"]
