"""What the handler returns: its shape, its status, and how large it may get."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from aws import LambdaContext, acl_entry, rule, scheduled_event
from conftest import Answer, Scene, Sleeps, answer_of, missing

from lambda_traffic_mirror import Entry, Report, Request, lambda_handler

pytestmark = pytest.mark.usefixtures("shared_client")


# --------------------------------------------------------------------------------------
# One outcome each
# --------------------------------------------------------------------------------------


class Outcomes(Scene):
    """An account in which one event of each kind has been dealt with."""

    def created(self) -> Answer:
        self.configure([self.sensor(), self.sensor(groups=[])])
        return self.run(self.instance())

    def planned(self) -> Answer:
        self.configure(self.sensor(), DRY_RUN="true")
        return self.run(self.instance())

    def exists(self) -> Answer:
        instance, target = self.instance(), self.sensor()
        self.session(self.first_interface(instance), target)
        self.configure(target)
        return self.run(instance)

    def skipped(self) -> Answer:
        self.configure(self.sensor())
        return self.run(self.instance(interface_type="trunk"))

    def skipped_for_its_state(self) -> Answer:
        self.configure(self.sensor())
        return self.run(self.instance(state="stopped"))

    def skipped_by_aws(self) -> Answer:
        self.unsupported_types.add("m5.large")
        self.configure(self.sensor())
        return self.run(self.instance())

    def unmirrored(self) -> Answer:
        self.configure([self.sensor(zone="b"), self.missing_sensor()])
        return self.run(self.instance())

    def unmirrored_at_create(self) -> Answer:
        self.account_quota = 0
        self.configure([self.sensor(), self.sensor(sessions=1)])
        return self.run(self.instance())

    def blocked(self) -> Answer:
        instance = self.instance(tags={"mirror": ""})
        target = self.sensor(groups=[self.group()])
        self.session(self.first_interface(instance), target)
        self.configure(target, INCLUDE_TAGS="mirror")
        answer = self.run(scheduled_event())
        # Without the sensor's own instance, which has no such tag.
        answer.body["interfaces"] = [
            entry for entry in answer.interfaces if entry["instance_id"] == instance
        ]
        return answer

    def deferred(self) -> Answer:
        self.configure(self.sensor())
        self.instance()
        context = LambdaContext(seconds=60, clock=iter_clock(until=2))
        answer = self.run(scheduled_event(), context)
        answer.body["interfaces"] = answer.interfaces[:1]
        return answer


def iter_clock(until: int) -> Callable[[], float]:
    """A clock that stands still for so many looks, and then says that time is up."""
    looks = iter([0.0] * (until + 1))
    return lambda: next(looks, 1_000_000.0)


@pytest.fixture
def scene(clean_slate: None, no_sleep: Sleeps) -> Iterator[Outcomes]:
    with Outcomes() as scene:
        yield scene


NULLABLE = {"interface_id", "instance_id", "target_id", "session_id", "session_name"}
ENTRY_KEYS = NULLABLE | {"outcome", "reason", "sensors"}
SENSOR_KEYS = {"target_id", "verdict", "stage", "reason", "sessions"}
STAGES = ("unavailable", "zone", "vpc", "security_group", "network_acl", "create")


# Status, outcome, what is not null besides outcome and reason, how many sensors.
INSTANCE = {"instance_id"}
INTERFACE = {"instance_id", "interface_id"}
TARGET = INTERFACE | {"target_id"}

OUTCOMES: dict[str, tuple[int, str, set[str], int]] = {
    "created": (200, "created", TARGET | {"session_id", "session_name"}, 2),
    "planned": (200, "planned", TARGET | {"session_name"}, 1),
    "exists": (200, "exists", TARGET | {"session_id"}, 0),
    "skipped": (200, "skipped", INTERFACE, 0),
    "skipped_for_its_state": (200, "skipped", INSTANCE, 0),
    "skipped_by_aws": (200, "skipped", INTERFACE, 0),
    "unmirrored": (400, "unmirrored", INTERFACE, 2),
    "unmirrored_at_create": (400, "unmirrored", INTERFACE, 2),
    "blocked": (400, "blocked", TARGET | {"session_id"}, 1),
    "deferred": (200, "deferred", set(), 0),
}
every_outcome = pytest.mark.parametrize("name", OUTCOMES)


@every_outcome
def test_the_status_and_what_is_filled_in_for(scene: Outcomes, name: str) -> None:
    answer = getattr(scene, name)()
    entry = answer.entry
    filled = {key for key in NULLABLE if entry[key]}
    found = (answer.status, entry["outcome"], filled, len(entry["sensors"]))
    assert found == OUTCOMES[name]
    assert set(answer.body) == {"message", "dry_run", "summary", "interfaces"}
    assert set(entry) == ENTRY_KEYS
    for row in entry["sensors"]:
        assert set(row) == SENSOR_KEYS
        # Verdicts and stages go together.
        assert row["stage"] in (STAGES if row["verdict"] == "rejected" else [None])
        assert row["verdict"] in ("rejected", "selected", "eligible")
    # Every reason and the message are sentences.
    texts = [answer.body["message"], entry["reason"], *(row["reason"] for row in entry["sensors"])]
    odd = [
        text
        for text in texts
        if not (text[:1].isalnum() and text.endswith(".") and len(text.split()) > 2)
    ]
    assert odd == []


def test_sensors_come_in_configured_order(scene: Outcomes) -> None:
    targets = [scene.missing_sensor(), scene.sensor(), scene.sensor(zone="b"), scene.sensor()]
    scene.configure([*targets, *reversed(targets)])
    shown = scene.run(scene.instance()).entry["sensors"]
    assert [sensor["target_id"] for sensor in shown] == targets


# --------------------------------------------------------------------------------------
# Several outcomes
# --------------------------------------------------------------------------------------


def test_of_several_outcomes_one_makes_the_result_400_and_each_is_counted(scene: Outcomes) -> None:
    scene.configure(scene.sensor())
    instances = [
        scene.instance(),
        scene.instance(state="stopped"),
        scene.instance(zone="b"),
        scene.instance(ipv6_only=True),
    ]
    answer = scene.run({"instance-ids": instances})
    assert (answer.status, answer.summary) == (400, {"created": 1, "skipped": 2, "unmirrored": 1})
    assert missing(answer.body["message"], "1 created", "2 skipped", "1 unmirrored") == []


def test_the_message_of_a_dry_run_says_so(scene: Outcomes) -> None:
    assert scene.planned().body["message"].startswith("Dry run")


# --------------------------------------------------------------------------------------
# The reason names the evidence
# --------------------------------------------------------------------------------------


def test_the_reason_of_the_selected_sensor_tells_zone_rule_acl_and_count(scene: Outcomes) -> None:
    subnet, group = scene.subnet(), scene.group(rule(cidr="10.0.0.0/8"))
    acl = scene.acl(subnet, [acl_entry(70, "allow")])
    target = scene.sensor(subnet, [group], sessions=3)
    scene.configure(target)
    reason = scene.run(scene.instance()).sensors[target]["reason"]
    wanted = ["us-east-1a", group, "10.0.0.0/8", acl, "rule 70", "3 sessions"]
    assert missing(reason, *wanted) == []


def test_the_reason_of_an_eligible_sensor_names_the_one_that_is_better(scene: Outcomes) -> None:
    better, other = scene.sensor(), scene.sensor(sessions=2)
    scene.configure([better, other])
    assert better in scene.run(scene.instance()).sensors[other]["reason"]


FALLS: dict[str, tuple[Callable[[Scene], list[str]], str]] = {
    "zone": (lambda a: [a.missing_sensor(), a.sensor(zone="b")], "zone"),
    "unavailable": (lambda a: [a.missing_sensor()], "unavailable"),
    "security group": (
        lambda a: [a.sensor(zone="b"), a.sensor(groups=[a.group()])],
        "security_group",
    ),
    "network ACL": (
        lambda a: [a.sensor(a.subnet(acl=[])), a.sensor(groups=[a.group()])],
        "network_acl",
    ),
    "create": (lambda a: [a.sensor(quota=0), a.sensor(a.subnet(acl=[]))], "create"),
}


@pytest.mark.parametrize(("build", "stage"), FALLS.values(), ids=FALLS.keys())
def test_the_reason_of_the_interface_says_at_which_stage_the_last_sensors_fell(
    scene: Outcomes, build: Callable[[Scene], list[str]], stage: str
) -> None:
    scene.configure(build(scene))
    assert stage in scene.run(scene.instance()).entry["reason"]


# --------------------------------------------------------------------------------------
# Size
# --------------------------------------------------------------------------------------

LIMIT = 1_000_000  # bytes


def entries(
    count: int, sensors: int = 0, outcomes: Sequence[str] = ("created",), sweep: bool = False
) -> list[Entry]:
    """Outcomes of so many interfaces, each with rows for so many sensors."""
    request = Request("event-1", dry_run=False, sweep=sweep)
    row = {
        "target_id": "tmt-0bce8038d06d6c745",
        "verdict": "eligible",
        "stage": None,
        "reason": "Behind another one é.",
        "sessions": 7,
    }
    return [
        Entry(
            request,
            outcomes[number % len(outcomes)],
            "A reason.",
            instance_id="i-0123456789abcdef0",
            interface_id=f"eni-{number:017x}",
            sensors=[row] * sensors,
            place=number,
        )
        for number in range(count)
    ]


def size(result: dict[str, Any]) -> int:
    return len(result["body"].encode())


def answer_with(listed: Sequence[Entry]) -> dict[str, Any]:
    report = Report(listed[0].request.sweep)
    for entry in listed:
        report.add(entry)
    return report.result(200, "A message.", False)


SIZES = [(1, 1), (1, 20_000), (100, 10), (100, 200), (1000, 0), (1000, 30), (10_000, 1)]


@pytest.mark.parametrize(("count", "sensors"), SIZES)
def test_a_body_stays_under_1_mb(count: int, sensors: int) -> None:
    assert size(answer_with(entries(count, sensors))) < LIMIT


def test_sensors_go_first_and_every_interface_stays() -> None:
    result = answer_with(entries(1000, 30))
    assert size(result) > 0.99 * LIMIT  # it is filled as far as it goes
    listed = answer_of(result).interfaces
    counts = Counter(len(entry["sensors"]) for entry in listed)
    assert (len(listed), set(counts), 0 < counts[30] < 1000) == (1000, {0, 30}, True)


def test_those_that_need_attention_keep_their_sensors_longest() -> None:
    mixed = entries(1000, 30, ("created",) * 5 + ("exists",) * 4 + ("unmirrored",))
    listed = answer_of(answer_with(mixed)).interfaces
    kept = {
        outcome: {bool(entry["sensors"]) for entry in listed if entry["outcome"] == outcome}
        for outcome in ("unmirrored", "exists")
    }
    assert kept == {"unmirrored": {True}, "exists": {False}}


def test_interfaces_go_when_there_is_nothing_else_to_leave_out() -> None:
    listed = answer_of(answer_with(entries(10_000, 0, ("created",) * 99 + ("unmirrored",))))
    counts = Counter(listed.outcomes)
    assert (counts["unmirrored"], counts["created"] < 9900) == (100, True)
    assert listed.summary == {"created": 9_900, "unmirrored": 100}  # what is left out, too


def test_the_order_of_the_event_stays_whatever_goes() -> None:
    mixed = entries(1000, 30, ("created", "unmirrored"))
    listed = answer_of(answer_with(mixed)).interfaces
    assert [e["interface_id"] for e in listed] == [e.interface_id for e in mixed]


def test_a_sweep_lists_a_hundred_interfaces_those_that_need_attention_first() -> None:
    outcomes = ("created", "exists", "skipped", "unmirrored", "blocked")
    listed = answer_of(answer_with(entries(300, 1, outcomes, sweep=True)))
    assert (listed.outcomes, sum(listed.body["summary"].values())) == (
        ["unmirrored"] * 60 + ["blocked"] * 40,
        300,
    )


def test_an_event_lists_all_its_interfaces() -> None:
    assert len(answer_of(answer_with(entries(300))).interfaces) == 300


def test_a_large_event_in_a_large_account_gets_a_result_of_less_than_1_mb(scene: Scene) -> None:
    scene.configure([scene.sensor() for _ in range(40)], DRY_RUN="true")
    event = {"instance-ids": scene.instances(100)}
    result = lambda_handler(event, LambdaContext())
    answer = answer_of(result)
    rows = {len(entry["sensors"]) for entry in answer.interfaces}
    found = (size(result) < LIMIT, json.loads(result["body"])["summary"], rows)
    assert found == (True, {"planned": 100}, {0, 40})
