"""The template's alarms on series of metrics: what happens, which alarm rings, and for how long."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest
from alarms import FURTHER, Metric, metric_of, rings
from aws import LambdaContext, scheduled_event
from cloudformation import DEPLOY, resolve
from conftest import Scene

from lambda_traffic_mirror import OUTCOMES

RATES = (5, 10, 15, 30, 60)
BAD, LAST = 60, 120  # the period in which something goes wrong, and the last that is looked at

AGE, GIVEN_UP = "ApproximateAgeOfOldestMessage", "ApproximateNumberOfMessagesVisible"
WELL = {"exists": 40, "Sweeps": 1, "Excluded": 3}  # what a sweep prints, the zeros aside
ALL_EXCLUDED = {"Sweeps": 1, "skipped": 43, "Excluded": 43}
LATE = {"exists": 9, "deferred": 9, "Sweeps": 1}

# What happens, the alarm that rings, and how it shows. `event`: what the function prints for one
# at BAD. `sweep`: what it prints for sweeps from BAD on, in place of the usual; none if None.
# `count`: how many sweeps, "hour" for those of an hour, "some" for enough to be missed. The rest:
# what AWS itself counts at BAD, and in the dead-letter queue from then on.
ROWS: list[tuple[str, str, dict[str, Any]]] = [
    ("all is well", "", {}),
    ("an instance starts", "", {"event": {"created": 2}}),
    ("an excluded instance starts", "", {"event": {"skipped": 2}}),
    # Are interfaces dark?
    ("no sensor takes an instance", "DarkAlarm", {"event": {"unmirrored": 1}}),
    ("a sweep finds one unmirrored", "DarkAlarm", {"sweep": WELL | {"unmirrored": 1}}),
    ("a session leads nowhere", "DarkAlarm", {"sweep": WELL | {"blocked": 1}}),
    ("an instance starts with DRY_RUN on", "DarkAlarm", {"event": {"planned": 1}}),
    ("a sweep finds one with DRY_RUN on", "DarkAlarm", {"sweep": WELL | {"planned": 1}}),
    ("tag rules exclude everything", "DarkAlarm", {"sweep": ALL_EXCLUDED}),
    ("tag rules exclude all but databases", "", {"sweep": ALL_EXCLUDED | {"exists": 1}}),
    ("the first session beside excluded ones", "", {"sweep": ALL_EXCLUDED | {"created": 1}}),
    ("what is not excluded is deferred", "", {"sweep": ALL_EXCLUDED | {"deferred": 1}}),
    ("what is not excluded fails", "FailingAlarm", {"sweep": ALL_EXCLUDED | {"failed": 1}}),
    ("tag rules exclude nothing", "", {"sweep": WELL | {"Excluded": 0}}),
    ("nothing runs", "", {"sweep": {"Sweeps": 1}}),
    # Do interfaces stay dark because time runs out?
    ("a sweep runs out of time", "", {"sweep": LATE}),
    ("sweeps run out of time, not for an hour", "", {"sweep": LATE, "count": "less"}),
    ("sweeps run out of time for an hour", "DeferredAlarm", {"sweep": LATE, "count": "hour"}),
    # Does it fail?
    ("AWS does not answer", "FailingAlarm", {"event": {"failed": 1}}),
    ("the function raises", "FailingAlarm", {"Errors": 1}),
    ("a sweep is given up", "FailingAlarm", {"AsyncEventsDropped": 1}),
    ("an event is given up", "FailingAlarm", {GIVEN_UP: 3}),
    ("the dead-letter queue is emptied", "", {GIVEN_UP: 0}),
    ("a failure while it is", "FailingAlarm", {GIVEN_UP: 0, "event": {"failed": 1}}),
    # Is it silent?
    ("one sweep is missing", "", {"sweep": None}),
    ("one sweep cannot read", "", {"sweep": {"Sweeps": 0}}),
    ("sweeps are missing", "SilentAlarm", {"sweep": None, "count": "some"}),
    ("sweeps cannot read", "SilentAlarm", {"sweep": {"Sweeps": 0}, "count": "some"}),
    ("a sweep by hand besides", "", {"event": WELL}),
    # Does work wait?
    ("an event is tried again", "", {AGE: 2 * 330}),
    ("an event waits", "WaitingAlarm", {AGE: 1201}),
    # Are events wrong?
    ("an event cannot be understood", "InvalidAlarm", {"event": {"invalid": 1}}),
]


def alarms(rate: int, **parameters: str) -> dict[str, dict[str, Any]]:
    """The properties of the template's alarms."""
    given = {"CodeBucket": "my-bucket", "CodeKey": "key.zip", "Targets": "tmt-1"}
    resources = resolve(parameters=given | {"SweepRate": str(rate)} | parameters)["Resources"]
    kind = "AWS::CloudWatch::Alarm"
    return {name: one["Properties"] for name, one in resources.items() if one["Type"] == kind}


def metrics(rate: int, how: dict[str, Any]) -> dict[Metric, dict[int, list[float]]]:
    """The metrics of a function that sweeps every five minutes or more, and of its queues."""
    step, values = rate // 5, defaultdict[Metric, Any](lambda: defaultdict(list))

    def invocation(now: int, printed: dict[str, float]) -> None:
        for name, value in (dict.fromkeys((*OUTCOMES, "invalid"), 0) | printed).items():
            values["TrafficMirror", name][now].append(value)
        for name in ("Errors", "AsyncEventsDropped"):
            values["AWS/Lambda", name][now].append(how.get(name, 0) if now == BAD else 0)

    hour = 60 // rate + 1  # the first and the last included
    counts = {"hour": hour, "less": hour - 1, "some": 3 + FURTHER // step}
    instead = range(BAD, BAD + step * counts.get(how.get("count", ""), 1), step)
    for now in range(BAD % step, LAST, step):
        printed = how.get("sweep", WELL) if now in instead else WELL
        if printed is not None:
            invocation(now, printed)
    if "event" in how:
        invocation(BAD, how["event"])
    if AGE in how:
        # Of a queue that several minutes are known of in a period, the worst counts.
        values["AWS/SQS", AGE][BAD] = [how[AGE], 0]
    for now in range(LAST):  # somebody left two messages there long ago
        values["AWS/SQS", GIVEN_UP][now] = [2 if now < BAD else how.get(GIVEN_UP, 2), 0]
    return values


def ringing(rate: int, how: dict[str, Any]) -> dict[str, list[int]]:
    """The alarms that ring, each with the periods in which it does."""
    values = metrics(rate, how)
    found = {
        name: [now for now in range(BAD - 5, LAST) if rings(alarm, values, now)]
        for name, alarm in alarms(rate).items()
    }
    return {name: periods for name, periods in found.items() if periods}


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("happens", "alarm", "how"), ROWS, ids=[row[0] for row in ROWS])
def test_the_alarm_about_it_rings_and_no_other(
    happens: str, alarm: str, how: dict[str, Any], rate: int
) -> None:
    heard = ringing(rate, how)
    assert list(heard) == [alarm] * bool(alarm)
    if not alarm:
        return
    periods, sweep = heard[alarm], rate // 5
    assert periods == list(range(periods[0], periods[-1] + 1)), "with a break"
    # At once, but for what takes an hour or is seen by its absence; until it is seen to be over.
    begins = {"DeferredAlarm": 12, "SilentAlarm": 2 * sweep + FURTHER}.get(alarm, 0)
    lasts = {"DeferredAlarm": sweep + 2, "SilentAlarm": 2 * sweep}.get(alarm, sweep + 1)
    assert periods[0] <= BAD + begins
    assert alarm == "SilentAlarm" or periods[0] == BAD + begins
    assert len(periods) <= lasts + 1 + FURTHER


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("name", ["unmirrored", "blocked", "planned", "failed"])
def test_it_rings_without_a_break_as_long_as_sweeps_find_it(name: str, rate: int) -> None:
    how = {"sweep": WELL | {name: 1}, "count": "some"}
    (periods,) = ringing(rate, how).values()
    step = rate // 5
    assert periods[: 3 * step] == list(range(BAD, BAD + 3 * step))


@pytest.mark.parametrize("timeout", [60, 120, 300, 600, 900])
def test_work_may_wait_for_two_retries_and_a_quarter_of_an_hour(timeout: int) -> None:
    waits = max(900, -(-3 * (timeout + 30) // 300) * 300)  # in whole periods
    alarm = alarms(15, Timeout=str(timeout))["WaitingAlarm"]
    for age in (waits, waits + 1):
        assert rings(alarm, {("AWS/SQS", AGE): {0: [age, 0]}}, 0) == (age > waits)


def test_it_rings_with_old_code_which_prints_no_newer_metrics() -> None:
    values = metrics(5, {"event": {"unmirrored": 1}})
    del values["TrafficMirror", "Excluded"]
    assert rings(alarms(5)["DarkAlarm"], values, BAD)


def test_what_is_watched_is_what_the_function_prints(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the alarms and the dashboard."""
    scene.configure(scene.sensor())
    scene.instance()
    scene.run(scheduled_event(), LambdaContext(300))
    printed = {
        (directive["Namespace"], one["Name"])
        for line in map(json.loads, capsys.readouterr().out.splitlines())
        for directive in line["_aws"]["CloudWatchMetrics"]
        for one in directive["Metrics"]
    }
    watched = set()
    for alarm in alarms(5).values():
        stats = [one["MetricStat"] for one in alarm.get("Metrics", ()) if "MetricStat" in one]
        watched |= {metric_of(one["Metric"]) for one in stats} or {metric_of(alarm)}
    parameters = {"CodeBucket": "my-bucket", "CodeKey": "key.zip", "Targets": "tmt-1"}
    dashboard = resolve(parameters=parameters)["Resources"]["StatusDashboard"]["Properties"]
    for widget in json.loads(dashboard["DashboardBody"])["widgets"]:
        before = ["", ""]
        for row in widget["properties"].get("metrics", ()):
            if isinstance(row[0], str):  # a dot repeats what stands above
                before = [old if new == "." else new for old, new in zip(before, row, strict=False)]
                watched.add((before[0], before[1]))
    watched = {one for one in watched if one[0] == "TrafficMirror"}
    # The sessions of each sensor are found by a search.
    assert watched == printed - {("TrafficMirror", "Sessions")}


def test_every_alarm_has_a_paragraph_for_the_operator() -> None:
    text = (DEPLOY.parent / "docs" / "operations.md").read_text(encoding="utf-8")
    for name in alarms(5):
        paragraph = text.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
        assert all(word in paragraph for word in ("**It means**", "**Look at**", "**Do**")), name
