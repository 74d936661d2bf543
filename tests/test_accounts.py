"""Sensors of other accounts, through roles and without, and accounts as targets."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import partial
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
from calls import ACLS, ASSUME, FAULTS, GROUPS, INSTANCES, INTERFACES, SESSIONS, TARGETS, named
from conftest import Build, Clock, Scene, deliver, error_of, missing, running_event

import lambda_traffic_mirror

pytestmark = pytest.mark.usefixtures("shared_client")

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

    def closed(self) -> str:
        return self.sensor(groups=[self.group()])


@pytest.fixture
def abroad(scene: Scene) -> Abroad:
    scene.route_table(routes=[route(FAR, tgw=True)], main=True)
    return Abroad(scene)


EXCLUDE = {"EXCLUDE_TAGS": "role=sensor"}
LAST_RESORT = "unavailable / (selected)"


def hidden_group(scene: Scene, *more: str, **kwargs: Any) -> str:
    group = scene.group()
    scene.hide(group)
    return scene.sensor(groups=[group, *more], **kwargs)


def hidden_acl(scene: Scene, **kwargs: Any) -> str:
    subnet = scene.subnet()
    scene.hide(scene.acl(subnet, []))
    return scene.sensor(subnet, **kwargs)


def foreign_load_balancer(scene: Scene) -> str:
    """A load balancer of another account; neither it nor its interfaces can be seen."""
    target = scene.nlb_sensor([scene.subnet()])
    scene.hide(scene.sensor_interface(target))
    scene._backend.traffic_mirror_targets[target].simulated_owner = OTHER_ACCOUNT_ID
    return target


# Sensors, the first of which cannot be seen whole; how they fare by default, and with
# ALLOW_UNVERIFIED where that makes a difference; what the first one's reason names then.
UNSEEN: dict[str, tuple[list[Build], str, str]] = {
    "a target of another account": ([Scene.foreign_sensor], LAST_RESORT, "another account"),
    "another account's load balancer": ([foreign_load_balancer], LAST_RESORT, "another account"),
    "a security group that decides": ([hidden_group], LAST_RESORT, "Security group sg-"),
    "a network ACL that decides": ([hidden_acl], LAST_RESORT, "network ACL of subnet-"),
    "another group admits": ([lambda a: hidden_group(a, a.group(rule()))], "(selected)", ""),
    "unseen, but the ACL denies": (
        [lambda a: hidden_group(a, subnet=a.subnet(acl=[]))],
        "network_acl",
        "",
    ),
    "unseen, but the group denies": (
        [lambda a: hidden_acl(a, groups=[a.group()])],
        "security_group",
        "",
    ),
    "unseen, but in another zone": ([partial(hidden_group, zone="b")], "zone", ""),
    "a busy sensor that can be seen comes first": (
        [Scene.foreign_sensor, lambda a: a.sensor(sessions=9)],
        "unavailable (selected) / (eligible) (selected)",
        "another account",
    ),
}
CAVEATS: dict[str, str] = {
    "a target of another account": "of its sessions only those of this account are counted",
    "another account's load balancer": "behind the load balancer are not checked",
}


@pytest.mark.parametrize("name", UNSEEN)
def test_what_cannot_be_seen_and_decides_is_the_last_resort_where_that_is_allowed(
    scene: Scene, name: str
) -> None:
    build, stages, words = UNSEEN[name]
    targets = [make(scene) for make in build]
    by_default, _, allowed = stages.partition(" / ")
    for variable, wanted in (("false", by_default), ("true", allowed or by_default)):
        more = {"LOCAL_VPC_ONLY": "true", "DRY_RUN": "true"}  # no VPC that is unseen is another
        scene.configure(targets, ALLOW_UNVERIFIED=variable, **more, **EXCLUDE)
        answer = scene.run(scene.instance())
        assert (variable, answer.stages) == (variable, wanted.split())
        reason = answer.sensors[targets[0]]["reason"]
        assert missing(reason, words) == []
        assert ("not verified" in reason) == (variable == "true" and words != "")
    assert missing(reason, CAVEATS.get(name, "")) == []


def test_without_a_context_no_sensor_counts_as_foreign(scene: Scene) -> None:
    """The function's own account is the one in its ARN, so another one's cannot be told from it."""
    shared = scene.foreign_sensor()
    scene.configure([shared, scene.sensor()], ALLOW_UNVERIFIED="true")
    row = scene.run(scene.instance(), object()).entry["sensors"][0]
    assert (row["stage"], missing(row["reason"], "does not exist")) == ("unavailable", [])


# --- Accounts as targets

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


def test_an_account_stands_for_its_targets(scene: Scene, abroad: Abroad) -> None:
    ours = sorted(scene.sensor() for _ in range(2))
    theirs = sorted(abroad.sensor() for _ in range(3))
    abroad.account.sensor()  # not shared
    for name, meant in STANDS_FOR.items():
        targets, expected = meant(ours, theirs)
        scene.configure(targets, SENSOR_ROLE_ARNS=abroad.role, DRY_RUN="true")
        entry = scene.run(scene.instance()).entry
        shown = [row["target_id"] for row in entry["sensors"]]
        assert (name, entry["outcome"], shown) == (name, "planned", expected)


def test_an_account_without_targets_is_said_and_logged(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    for targets, outcome in (([NOBODY], "unmirrored"), ([NOBODY, scene.sensor()], "created")):
        caplog.clear()
        scene.configure(targets)
        answer = scene.run(scene.instance())
        assert (answer.outcomes, len(answer.entry["sensors"])) == ([outcome], len(targets) - 1)
        assert (NOBODY in answer.entry["reason"]) == (outcome == "unmirrored")
        (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert (NOBODY in warning, NOBODY in answer.body["message"]) == (True, True)


# --- Roles


def gone(abroad: Abroad) -> str:
    target = abroad.sensor()
    abroad.account.delete_sensor_interface(target)
    return target


# What is known there decides: the sensor that the owner shows so, and its verdict.
THERE: dict[str, tuple[Callable[[Abroad], str], str]] = {
    "that lets us in": (Abroad.sensor, "(selected)"),
    "that is not running": (lambda a: a.sensor(state="stopped"), "unavailable"),
    "in a group that admits nobody": (Abroad.closed, "security_group"),
    "with our group as a reference": (
        lambda a: a.sensor(groups=[a.group(rule(group=a.ours, peering="active"))]),
        "(selected)",
    ),
    "behind an ACL": (
        lambda a: a.sensor(subnet=a.account.subnet(vpc=a.vpc, acl=[])),
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


def test_through_a_role_a_sensor_is_judged_as_one_of_ours(scene: Scene, abroad: Abroad) -> None:
    """Shown here with its interface or without, ALLOW_UNVERIFIED or not: nothing is unseen for
    being foreign, and what does not exist there does not exist."""
    for name, (make, verdict) in THERE.items():
        target = make(abroad)
        for shown in (True, False):
            abroad.account.share(target, interface=shown)
            variables = {"ALLOW_UNVERIFIED": str(shown), "DRY_RUN": "true"}
            scene.configure(target, SENSOR_ROLE_ARNS=abroad.role, **variables)
            stages = scene.run(scene.instance(groups=[abroad.ours])).stages
            assert (name, shown, stages) == (name, shown, [verdict])


FAILING = (INTERFACES, INSTANCES, GROUPS, ACLS, SESSIONS, TARGETS)


@pytest.mark.parametrize("fault", ["denied", "throttled"])
def test_one_account_of_three_that_cannot_be_read_costs_nobody_else(
    scene: Scene, quick: Clock, fault: str
) -> None:
    scene.route_table(routes=[route(FAR, tgw=True)], main=True)
    accounts = [Abroad(scene, str(number) * 12) for number in (5, 6, 7)]
    targets = [one.sensor(shown=False) for one in accounts]
    accounts[1].account._load(targets[1], 2)
    variables = {"SENSOR_ROLE_ARNS": " ".join(one.role for one in accounts), "DRY_RUN": "true"}
    for call in FAILING:
        accounts[0].account.heal()
        FAULTS[fault](accounts[0].account, call)
        words = [accounts[0].role, *named(call, fault).replace("failed", "").split()]
        scene.configure(targets, ALLOW_UNVERIFIED="true", **variables)
        answer = scene.run(scene.instance())
        assert (call, answer.stages) == (call, ["unavailable", "(eligible)", "(selected)"])
        assert missing(answer.sensors[targets[0]]["reason"], *words) == []
        scene.configure(targets[:1], **variables)
        assert missing(error_of(scene.instance()), "1 failed", *words) == []


# What STS comes to, and how often it is asked: one that stays silent has to leave time for others.
SILENCE = {"throttled": 2, "no answer": 2, "denied": 1, "no trust": 1, "no credentials": 0}


@pytest.mark.parametrize(("fault", "attempts"), SILENCE.items())
def test_where_sts_does_not_answer_in_two_attempts_the_role_is_named_and_other_sensors_go_on(
    scene: Scene,
    quick: Clock,
    abroad: Abroad,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    attempts: int,
) -> None:
    theirs, ours = abroad.sensor(), scene.sensor(sessions=5)
    scene.configure([theirs, ours], SENSOR_ROLE_ARNS=abroad.role)
    words = ["AssumeRole"]
    if fault in FAULTS:
        FAULTS[fault](scene, ASSUME)
        words += [FAULTS[fault].code]
    elif fault == "no trust":
        abroad.account.roles.clear()
        words += [f"needs {ASSUME} on"]
    else:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            monkeypatch.delenv(name)
        words = ["NoCredentialsError"]
    answer = scene.run(scene.instance())
    assert answer.stages == ["unavailable", "(selected)"]
    assert missing(answer.sensors[theirs]["reason"], abroad.role, *words) == []
    assert scene.count(ASSUME) == attempts


def test_sts_that_stays_silent_keeps_to_the_deadline(
    scene: Scene, quick: Clock, abroad: Abroad
) -> None:
    scene.configure([abroad.sensor(), scene.sensor(sessions=5)], SENSOR_ROLE_ARNS=abroad.role)
    context = LambdaContext(30, clock=quick)
    begun: list[float] = []

    def silent(call: str, _: Any) -> None:
        if call == ASSUME:
            begun.append(context.get_remaining_time_in_millis() / 1000)
            quick.advance(8)

    scene.gates.append(silent)
    scene.time_out(ASSUME)
    answer = scene.run(scene.instance(), context)
    assert (len(begun), min(begun) >= 6) == (2, True)
    assert answer.stages == ["unavailable", "(selected)"]


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


# --- Zones


def test_zones_are_compared_by_their_ids(scene: Scene) -> None:
    scene.route_table(routes=[route(FAR, tgw=True)], main=True)
    other = Abroad(scene, zones={"a": scene.zone_id("b"), "b": scene.zone_id("a")})
    targets = [other.sensor(zone="a"), other.sensor(zone="b")]
    scene.configure(targets, SENSOR_ROLE_ARNS=other.role)
    answer = scene.run(scene.instance(zone="a"))
    assert answer.stages == ["zone", "(selected)"]
    for zone, target in zip("ab", targets, strict=True):
        reason = answer.sensors[target]["reason"]
        assert missing(reason, other.account.zone_id(zone)) == []
        assert "us-east-1" not in reason


def test_without_ids_the_zone_is_unknown(scene: Scene, abroad: Abroad) -> None:
    target = abroad.sensor()
    for allowed, verdict in (("false", "unavailable"), ("true", "(selected)")):
        scene.configure(target, SENSOR_ROLE_ARNS=abroad.role, ALLOW_UNVERIFIED=allowed)
        with scene.old_botocore("AvailabilityZoneId"):
            answer = scene.run(scene.instance())
        assert answer.stages == [verdict]
        assert "Availability Zone" in answer.sensors[target]["reason"]


# --- Sessions


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


def far_away(abroad: Abroad) -> str:
    """In a VPC to which the route is a blackhole."""
    return abroad.sensor(subnet=abroad.account.zone_subnet("a", abroad.account.vpc("10.8.0.0/16")))


# A sensor of another account, what becomes of it once there is a session to it, what a sweep makes
# of that session, and words of its reason.
CHECKED: dict[str, tuple[Callable[[Abroad], str], Callable[[Abroad, str], Any], str, str]] = {
    "that packets reach": (Abroad.sensor, lambda a, t: None, "exists", ""),
    "in another zone": (lambda a: a.sensor(zone="b"), lambda a, t: None, "exists", ""),
    "that is full": (Abroad.sensor, lambda a, t: a.account.quota.update({t: 1}), "exists", ""),
    "that has stopped": (
        Abroad.sensor,
        lambda a, t: a.account.stop(a.account.sensor_instance(t)),
        "blocked",
        "stopped",
    ),
    "whose group admits nobody": (Abroad.closed, lambda a, t: None, "blocked", "No rule"),
    "whose interface is gone": (gone, lambda a, t: None, "blocked", "does not exist"),
    "whose route is a blackhole": (far_away, lambda a, t: None, "blocked", "blackhole"),
    "that is shared no more, though there is a role": (
        Abroad.sensor,
        lambda a, t: a.account.unshare(t),
        "blocked",
        "no traffic mirror target",
    ),
}


def test_sweeps_check_sessions_to_other_accounts(scene: Scene, abroad: Abroad) -> None:
    """Whether the targets are configured by their IDs or by their account."""
    dead = route("10.8.0.0/16", tgw=True, state="blackhole")
    scene.route_table(routes=[route(FAR, tgw=True), dead], main=True)
    targets = [make(abroad) for make, *_ in CHECKED.values()]
    instances = [scene.mirrored(target)[0] for target in targets]
    for target, (_, change, *_) in zip(targets, CHECKED.values(), strict=True):
        change(abroad, target)
    for meant in (targets, [OTHER_ACCOUNT_ID]):
        scene.configure([scene.sensor(), *meant], SENSOR_ROLE_ARNS=abroad.role)
        answer = scene.run(scheduled_event())
        entries = [answer.of(instance) for instance in instances]
        for name, target, entry in zip(CHECKED, targets, entries, strict=True):
            _, _, outcome, words = CHECKED[name]
            found = name, entry["outcome"], entry["target_id"], missing(entry["reason"], words)
            assert found == (name, outcome, target, [])


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


# --- What is kept, and what is not asked


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


SESSION_NAMES = {
    "other characters": ("stack traffic/mirror", "stack-traffic-mirror"),
    "2 at least": ("f", "f-"),
    "64 at most": ("x" * 70, "x" * 64),
}


def test_the_sessions_name_tells_the_roles_owner_which_function_reads(
    scene: Scene, abroad: Abroad, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.configure(abroad.sensor(), SENSOR_ROLE_ARNS=abroad.role)
    for name, _ in SESSION_NAMES.values():
        lambda_traffic_mirror._clients.pop(abroad.role, None)
        monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", name)
        assert scene.run(scene.instance()).outcomes == ["created"]
    names = [c.parameters["RoleSessionName"] for c in scene.calls if c.operation == ASSUME]
    assert names == [name for _, name in SESSION_NAMES.values()]


@pytest.mark.parametrize(("code", "assumed"), [("ExpiredToken", 2), ("InternalError", 1)])
def test_credentials_that_aws_does_not_accept_are_forgotten(
    scene: Scene, quick: Clock, abroad: Abroad, code: str, assumed: int
) -> None:
    scene.configure(abroad.sensor(), SENSOR_ROLE_ARNS=abroad.role)
    abroad.account.fail(ACLS, code, status=400)
    assert missing(deliver(running_event(scene.instance())).error, "1 failed", code) == []
    abroad.account.heal()
    assert scene.run(scene.instance()).outcomes == ["created"]
    assert scene.count(ASSUME) == assumed


def test_a_session_that_its_owner_saw_first_is_not_counted_twice_while_cached(
    scene: Scene, abroad: Abroad, clock: Clock
) -> None:
    target = abroad.sensor(quota=1_000)
    scene.configure(target, SENSOR_ROLE_ARNS=abroad.role, CACHE_SECONDS="60")
    faster = iter([lambda: scene.mirrored(target)])  # after our reading, before the owner's
    abroad.account.gates.append(lambda call, _: call == SESSIONS and next(faster, str)())
    counts = [scene.run(scene.instance()).sensors[target]["sessions"] for _ in range(3)]
    assert counts == [1, 2, 3]
