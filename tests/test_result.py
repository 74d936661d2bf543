"""What the handler returns: its shape, its status, and how large it may get."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from aws import acl_entry, rule, running_event
from conftest import Answer, Scene, answer_of, missing

from lambda_traffic_mirror import Choice, Entry, Report, Request, Verdict

pytestmark = pytest.mark.usefixtures("quick")


# --- One outcome each


def configured(scene: Scene, *targets: str, **variables: str) -> Scene:
    scene.configure(targets, **variables)
    return scene


def no_room(scene: Scene) -> str:
    """Another tool's session has the number."""
    scene.configure(scene.sensor(), MIRROR_ALONGSIDE="true")
    return scene.mirrored(scene.sensor())[0]


def account_is_full(scene: Scene) -> str:
    scene.configure([scene.sensor(), scene.sensor(sessions=1)])
    scene.account_quota = 0
    return scene.instance()


NULLABLE = {"interface_id", "instance_id", "target_id", "session_id", "session_name"}
ENTRY_KEYS = NULLABLE | {"outcome", "reason", "sensors"}
SENSOR_KEYS = {"target_id", "verdict", "stage", "reason", "sessions"}
STAGES = (
    *("tag", "unavailable", "zone", "vpc", "security_group", "network_acl", "route", "create"),
)


# From the account to the event; status, outcome, what is not null besides outcome and reason, how
# many sensors.
INSTANCE = {"instance_id"}
INTERFACE = {"instance_id", "interface_id"}
TARGET = INTERFACE | {"target_id"}

ENTRIES: dict[str, tuple[Callable[[Scene], object], int, str, set[str], int]] = {
    "created": (
        lambda s: configured(s, s.sensor(), s.sensor(groups=[])).instance(),
        *(200, "created", TARGET | {"session_id", "session_name"}, 2),
    ),
    "planned": (
        lambda s: configured(s, s.sensor(), DRY_RUN="true").instance(),
        *(200, "planned", TARGET | {"session_name"}, 1),
    ),
    "mirrored already": (
        lambda s: configured(s, s.sensor()).mirrored(s.targets[0])[0],
        *(200, "exists", TARGET | {"session_id"}, 0),
    ),
    "of another type": (
        lambda s: configured(s, s.sensor()).instance(interface_type="trunk"),
        *(200, "skipped", INTERFACE, 0),
    ),
    "stopped": (
        lambda s: configured(s, s.sensor()).instance(state="stopped"),
        *(200, "skipped", INSTANCE, 0),
    ),
    "of a type that AWS does not mirror": (
        lambda s: configured(s, s.sensor()).instance(instance_type="t2.micro"),
        *(200, "skipped", INTERFACE, 0),
    ),
    "no sensor can take it": (
        lambda s: configured(s, s.sensor(zone="b"), s.missing_sensor()).instance(),
        *(400, "unmirrored", INTERFACE, 2),
    ),
    "refused at create": (account_is_full, 400, "unmirrored", INTERFACE, 2),
    "no room for one more session": (no_room, 400, "unmirrored", INTERFACE, 0),
}


@pytest.mark.parametrize(
    ("build", "status", "outcome", "filled", "sensors"), ENTRIES.values(), ids=ENTRIES
)
def test_the_status_and_the_filled_members_of_each_outcome(
    scene: Scene,
    build: Callable[[Scene], object],
    status: int,
    outcome: str,
    filled: set[str],
    sensors: int,
) -> None:
    scene.unsupported_types.add("t2.micro")
    answer = scene.run(build(scene))
    entry = answer.entry
    assert (answer.status, entry["outcome"]) == (status, outcome)
    assert ({key for key in NULLABLE if entry[key]}, len(entry["sensors"])) == (filled, sensors)
    assert answer.body["message"].startswith("Dry run") == (outcome == "planned")
    assert set(answer.body) == {"message", "dry_run", "summary", "interfaces"}
    assert set(entry) == ENTRY_KEYS
    for row in entry["sensors"]:
        assert set(row) == SENSOR_KEYS
        # Verdicts and stages go together.
        assert row["stage"] in (STAGES if row["verdict"] == "rejected" else [None])
        assert row["verdict"] in ("rejected", "selected", "eligible")
    # Every reason and the message are sentences.
    texts = [answer.body["message"], entry["reason"], *(row["reason"] for row in entry["sensors"])]
    assert [text for text in texts if not re.fullmatch(r"\w\S* \S+ .+\.", text)] == []


# --- Several outcomes


def test_of_several_outcomes_one_makes_the_result_400_and_each_is_counted(scene: Scene) -> None:
    scene.configure(scene.sensor())
    others = [scene.instance(state="stopped"), scene.instance(ipv6_only=True)]
    instances = [scene.instance(), *others, scene.instance(zone="b")]
    assert scene.run({"instance-ids": instances, "dry_run": True}).status == 400
    answer = scene.run({"instance-ids": instances})
    assert (answer.status, answer.summary) == (400, {"created": 1, "skipped": 2, "unmirrored": 1})
    assert missing(answer.body["message"], "1 created", "2 skipped", "1 unmirrored") == []


def test_only_where_all_that_events_ask_for_is_a_dry_run_the_result_is_one(scene: Scene) -> None:
    scene.configure(scene.sensor())
    for tried in (True, False):
        events = [running_event(scene.instance()) | {"dry_run": dry} for dry in (True, tried)]
        records = [{"EventSource": "aws:sns", "Sns": {"Message": json.dumps(e)}} for e in events]
        assert scene.run({"Records": records}).body["dry_run"] is tried


def test_the_message_has_the_first_ten_of_many_notes(scene: Scene) -> None:
    scene.configure(scene.sensor())
    stopped = json.dumps(running_event("i-1", state="stopped"))
    records = [{"EventSource": "aws:sns", "Sns": {"Message": stopped}}] * 12
    message = scene.run({"Records": records}).body["message"]
    assert (message.count("i-1 is 'stopped'"), message[-11:]) == (10, "And 2 more.")


# --- The reason names the evidence


def test_the_reason_of_a_sensor_tells_zone_rule_acl_and_count_and_which_one_is_better(
    scene: Scene,
) -> None:
    subnet, group = scene.subnet(), scene.group(rule(cidr="10.0.0.0/8"))
    acl = scene.acl(subnet, [acl_entry(70, "allow")])
    target, other = scene.sensor(subnet, [group], sessions=3), scene.sensor(sessions=4)
    targets = [scene.missing_sensor(), other, target, scene.sensor(zone="b")]
    scene.configure([*targets, other])
    rows = scene.run(scene.instance()).sensors
    assert list(rows) == targets  # in configured order
    wanted = ["us-east-1a", group, "10.0.0.0/8", acl, "rule 70", "3 sessions"]
    assert missing(rows[target]["reason"], *wanted) == []
    assert f"Behind {target} with 3 sessions" in rows[other]["reason"]


FALLS: dict[str, Callable[[Scene], list[str]]] = {
    "zone": lambda a: [a.missing_sensor(), a.sensor(zone="b")],
    "security_group": lambda a: [a.sensor(zone="b"), a.sensor(groups=[a.group()])],
    "network_acl": lambda a: [a.sensor(a.subnet(acl=[])), a.sensor(groups=[a.group()])],
    "create": lambda a: [a.sensor(quota=0), a.sensor(a.subnet(acl=[]))],
}


@pytest.mark.parametrize("stage", FALLS)
def test_the_reason_of_the_interface_says_at_which_stage_the_last_sensors_fell(
    scene: Scene, stage: str
) -> None:
    scene.configure(FALLS[stage](scene))
    assert stage in scene.run(scene.instance()).entry["reason"]


# --- Size


def test_no_reason_is_longer_than_2000_characters(scene: Scene) -> None:
    scene.configure(scene.sensor(groups=[scene.group() for _ in range(100)]))
    entry = scene.run(scene.instance()).entry
    assert [len(entry["reason"]), len(entry["sensors"][0]["reason"])] == [2_000, 2_000]


def test_no_error_is_longer_than_100_000_characters() -> None:
    report = Report(sweep=False)
    for entry in entries(100, outcomes=["failed"]):
        report.add(entry._replace(reason=f"{entry.place} ".ljust(2_000, "x")))
    assert len(report.unfinished() or "") == 100_000


LIMIT = 1_000_000  # bytes
MIXED = ("created", "exists", "deferred", "skipped", "failed", "blocked", "planned", "unmirrored")


def entries(
    count: int, sensors: int = 0, outcomes: Sequence[str] = MIXED, sweep: bool = False
) -> list[Entry]:
    """Outcomes of so many interfaces, taking turns, each with rows for so many sensors."""
    request = Request("event-1", dry_run=False, sweep=sweep)
    choice = Choice({f"tmt-{number:017x}": Verdict(None) for number in range(sensors)})
    return [
        Entry(
            request,
            outcomes[number % len(outcomes)],
            "A reason.",
            instance_id="i-0123456789abcdef0",
            interface_id=f"eni-{number:017x}",
            choice=choice,
            place=number,
        )
        for number in range(count)
    ]


def result_of(listed: Sequence[Entry]) -> tuple[int, Answer]:
    """The size of the body with these entries, in bytes, and what it says."""
    report = Report(listed[0].request.sweep)
    for entry in listed:
        report.add(entry)
    result = report.result(200, "A message.", False)
    return len(result["body"].encode()), answer_of(result)


def test_a_body_that_would_pass_1_mb_goes_without_sensors() -> None:
    """To the last byte: one of these numbers of sensors comes close to the limit."""
    shown = {}
    for sensors in (20, *range(50, 100, 5), 200):
        size, answer = result_of(entries(100, sensors))
        numbers = {len(entry["sensors"]) for entry in answer.interfaces}
        assert (len(answer.interfaces), size <= LIMIT) == (100, True)
        assert numbers in ({sensors}, {0})
        if numbers == {sensors}:
            shown[sensors] = size
    assert (20 in shown, 200 in shown, max(shown.values()) > 0.9 * LIMIT) == (True, False, True)


def test_up_to_a_hundred_interfaces_come_in_the_order_of_the_event() -> None:
    mixed = entries(100)
    _, answer = result_of(mixed)
    assert [e["interface_id"] for e in answer.interfaces] == [e.interface_id for e in mixed]


@pytest.mark.parametrize(("count", "sweep"), [(8, True), (101, False), (400, True)])
def test_of_more_and_in_a_sweep_the_hundred_come_that_need_attention_most(
    count: int, sweep: bool
) -> None:
    listed = entries(count, sweep=sweep)
    _, answer = result_of(listed)
    urgent = ("unmirrored", "blocked", "failed", "deferred")
    wanted = sorted((e.outcome for e in listed), key=[*urgent, *MIXED].index)[:100]
    assert [o for o in answer.outcomes if o in urgent] == [o for o in wanted if o in urgent]
    assert (len(answer.interfaces), Counter(answer.summary)) == (
        min(count, 100),
        Counter(e.outcome for e in listed),
    )
