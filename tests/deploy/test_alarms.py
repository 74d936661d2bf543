"""The template's alarms on series of metrics: which of them rings, from when to when.

`aws`, the simulated account, comes in once: what the alarms and the dashboard name is what the
function prints.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from alarms import FURTHER, Data, Metric, metric_of, rings
from aws import LambdaContext, scheduled_event
from cloudformation import DEPLOY, resolve
from conftest import Scene

RATES = ("5", "10", "15", "30", "60")
OUTCOMES = (
    "created", "planned", "exists", "skipped", "unmirrored", "blocked", "failed", "deferred"
)  # fmt: skip
BAD = 60  # the period in which something goes wrong


def alarms(rate: str = "5", **parameters: str) -> dict[str, dict[str, Any]]:
    """The properties of the template's alarms."""
    given = {"CodeBucket": "my-bucket", "CodeKey": "key.zip", "Targets": "tmt-1", "SweepRate": rate}
    resources = resolve(parameters=given | parameters)["Resources"].items()
    kind = "AWS::CloudWatch::Alarm"
    return {name: one["Properties"] for name, one in resources if one["Type"] == kind}


class Series:
    """Metrics of a function that sweeps, and of its queues."""

    def __init__(self, rate: str) -> None:
        self.step = int(rate) // 5
        self.last = BAD + 80
        self.values: dict[Metric, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        # Somebody left two messages in the dead-letter queue long ago.
        for now in range(self.last):
            self.put("ApproximateNumberOfMessagesVisible", now, 2, "AWS/SQS")
        for now in range(BAD % self.step, self.last, self.step):
            self.invocation(now, exists=40, Sweeps=1, Excluded=3)

    def put(self, name: str, period: int, value: float, namespace: str = "TrafficMirror") -> None:
        self.values[namespace, name][period].append(value)

    def invocation(self, period: int, **values: float) -> None:
        """What the function prints at once: each outcome, and what else a sweep has."""
        for name, value in (dict.fromkeys((*OUTCOMES, "invalid"), 0) | values).items():
            self.put(name, period, value)
        for name in ("Errors", "AsyncEventsDropped"):
            self.put(name, period, 0, "AWS/Lambda")

    def sweeps(self, count: int, **values: float) -> None:
        """In place of so many sweeps from BAD on, sweeps that print this; no value, no sweep."""
        for now in range(BAD, BAD + count * self.step, self.step):
            for (namespace, _), of in self.values.items():
                if namespace != "AWS/SQS":
                    of.pop(now, None)
            if values:
                self.invocation(now, **values)

    def given_up(self, count: float) -> None:
        for now in range(BAD, self.last):
            self.put("ApproximateNumberOfMessagesVisible", now, count, "AWS/SQS")


Change = Callable[[Series], object]


class Row(NamedTuple):
    """What happens, and the one alarm that rings, if any."""

    happens: str
    change: Change
    alarm: str = ""


def hour(series: Series) -> int:
    """The sweeps of an hour, the first and the last included."""
    return 12 // series.step + 1


def some(series: Series) -> int:
    """Sweeps enough to be missed, however far back an alarm looks."""
    return 3 + FURTHER // series.step


def event(**values: float) -> Change:
    return lambda series: series.invocation(BAD, **values)


def number(name: str, value: float, namespace: str) -> Change:
    return lambda series: series.put(name, BAD, value, namespace)


def swept(**values: float) -> Change:
    return lambda series: series.sweeps(1, **{"exists": 40, "Sweeps": 1, "Excluded": 3} | values)


WAITS = "ApproximateAgeOfOldestMessage"
NOTHING = {"exists": 0, "skipped": 43, "Excluded": 43}

ROWS = [
    Row("all is well", lambda series: None),
    Row("an instance starts", event(created=2)),
    Row("an excluded instance starts", event(skipped=2)),
    # Are interfaces dark?
    Row("an instance starts and no sensor takes it", event(unmirrored=1), "DarkAlarm"),
    Row("a sweep finds an interface that no sensor takes", swept(unmirrored=1), "DarkAlarm"),
    Row("a sweep finds a session that leads nowhere", swept(blocked=1), "DarkAlarm"),
    Row("DRY_RUN is on when an instance starts", event(planned=1), "DarkAlarm"),
    Row("DRY_RUN is on when a sweep finds one to mirror", swept(planned=1), "DarkAlarm"),
    Row("tag rules leave out everything", swept(**NOTHING), "DarkAlarm"),
    Row("tag rules leave out nothing", swept(Excluded=0)),
    Row("nothing runs", swept(exists=0, Excluded=0)),
    Row("everything else fails", swept(**NOTHING, failed=1), "FailingAlarm"),
    Row("time runs out before the rest", swept(**NOTHING, deferred=1)),
    Row("the first session beside excluded ones", swept(**NOTHING, created=1)),
    # Deferred for an hour, or for less.
    Row("a sweep runs out of time", swept(deferred=1)),
    Row("sweeps run out of time for less than an hour",
        lambda series: series.sweeps(hour(series) - 1, exists=9, deferred=9, Sweeps=1)),
    Row("sweeps run out of time for an hour",
        lambda series: series.sweeps(hour(series), exists=9, deferred=9, Sweeps=1),
        "DeferredAlarm"),
    # Does it fail?
    Row("AWS does not answer", event(failed=1), "FailingAlarm"),
    Row("the function raises", number("Errors", 1, "AWS/Lambda"), "FailingAlarm"),
    Row("two errors in one period", lambda series: [event(), event()] and series.put(
        "Errors", BAD, 2, "AWS/Lambda"), "FailingAlarm"),
    Row("a sweep is given up", number("AsyncEventsDropped", 1, "AWS/Lambda"), "FailingAlarm"),
    Row("an event is given up", lambda series: series.given_up(3), "FailingAlarm"),
    Row("somebody empties the dead-letter queue", lambda series: [
        series.values["AWS/SQS", "ApproximateNumberOfMessagesVisible"].pop(now)
        for now in range(BAD, series.last)]),
    Row("it fails while somebody empties that queue", lambda series: [
        event(failed=1)(series),
        *(series.values["AWS/SQS", "ApproximateNumberOfMessagesVisible"].pop(now)
          for now in range(BAD, series.last))], "FailingAlarm"),
    # Is it silent?
    Row("one sweep is missing", lambda series: series.sweeps(1)),
    Row("one sweep cannot read", lambda series: series.sweeps(1, Sweeps=0)),
    Row("sweeps are missing", lambda series: series.sweeps(some(series)), "SilentAlarm"),
    Row("sweeps cannot read", lambda series: series.sweeps(some(series), Sweeps=0), "SilentAlarm"),
    Row("somebody sweeps besides", swept()),
    # Does work wait?
    Row("an event is tried again", number(WAITS, 2 * 330, "AWS/SQS")),
    Row("an event waits", number(WAITS, 1201, "AWS/SQS"), "WaitingAlarm"),
    # Are events wrong?
    Row("an event cannot be understood", event(invalid=1), "InvalidAlarm"),
]  # fmt: skip


def ringing(rate: str, change: Change) -> tuple[Series, dict[str, list[int]]]:
    """The periods in which each alarm rings."""
    series = Series(rate)
    change(series)
    data: Data = series.values
    # Periods before that have no history, and the last ones no future.
    periods = range(BAD - 5, series.last - 26)
    return series, {
        name: [now for now in periods if rings(alarm, data, now)]
        for name, alarm in alarms(rate).items()
    }


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.happens.replace(" ", "-"))
def test_the_alarm_about_it_rings_and_no_other(row: Row, rate: str) -> None:
    series, heard = ringing(rate, row.change)
    assert {name for name, periods in heard.items() if periods} == {row.alarm} - {""}
    if not row.alarm:
        return
    on, off = heard[row.alarm][0], heard[row.alarm][-1] + 1
    # Without a break, at once but for what takes an hour or is seen by its absence, and no longer
    # than it takes to see that it is over.
    assert len(heard[row.alarm]) == off - on
    if row.alarm == "DeferredAlarm":
        assert on == BAD + 12
        return
    assert on - BAD <= (2 * series.step + FURTHER if row.alarm == "SilentAlarm" else 0)
    if row.alarm != "SilentAlarm":
        assert off - BAD <= series.step + 2 + FURTHER


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("name", ["unmirrored", "blocked", "planned", "failed"])
def test_it_rings_without_a_break_as_long_as_sweeps_find_it(name: str, rate: str) -> None:
    _, heard = ringing(rate, lambda series: series.sweeps(4, exists=9, Sweeps=1, **{name: 1}))
    periods = heard["FailingAlarm" if name == "failed" else "DarkAlarm"]
    assert periods[: 4 * int(rate) // 5] == list(range(BAD, BAD + 4 * int(rate) // 5))


@pytest.mark.parametrize("timeout", [60, 120, 300, 600, 900])
def test_work_may_wait_for_two_retries_and_a_quarter_of_an_hour(timeout: int) -> None:
    waits = max(900, -(-3 * (timeout + 30) // 300) * 300)  # in whole periods
    alarm = alarms("15", Timeout=str(timeout))["WaitingAlarm"]
    assert [rings(alarm, {("AWS/SQS", WAITS): {0: [age, 0]}}, 0) for age in (waits, waits + 1)] == [
        False,
        True,
    ]


def test_old_code_without_newer_metrics_rings_all_the_same() -> None:
    """The code of an earlier version under this template prints no Excluded and no planned."""
    series = Series("5")
    series.invocation(BAD, unmirrored=1)
    del series.values["TrafficMirror", "Excluded"], series.values["TrafficMirror", "planned"]
    assert rings(alarms()["DarkAlarm"], series.values, BAD)


def named() -> set[Metric]:
    """The metrics of the function's own that alarms and dashboard name."""
    parameters = {"CodeBucket": "my-bucket", "CodeKey": "key.zip", "Targets": "tmt-1"}
    resources = resolve(parameters=parameters)["Resources"]
    found = set()
    for alarm in alarms().values():
        stats = [one["MetricStat"] for one in alarm.get("Metrics", ()) if "MetricStat" in one]
        found |= {metric_of(one["Metric"]) for one in stats} or {metric_of(alarm)}
    body = json.loads(resources["StatusDashboard"]["Properties"]["DashboardBody"])
    for widget in body["widgets"]:
        before = [""] * 4
        for row in widget["properties"].get("metrics", ()):
            if isinstance(row[0], str):
                before = [old if new == "." else new for old, new in zip(before, row, strict=False)]
                found.add((before[0], before[1]))
    return {one for one in found if one[0] == "TrafficMirror"}


def test_what_is_watched_is_what_the_function_prints(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.configure(scene.sensor())
    scene.instance()
    scene.run(scheduled_event(), LambdaContext(300))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    printed = {
        (directive["Namespace"], one["Name"])
        for line in lines
        for directive in line["_aws"]["CloudWatchMetrics"]
        for one in directive["Metrics"]
    }
    assert named() <= printed
    assert printed - named() == {("TrafficMirror", "Sessions")}, "not on the dashboard"


def test_every_alarm_has_a_paragraph_for_the_operator() -> None:
    text = (DEPLOY.parent / "docs" / "operations.md").read_text(encoding="utf-8")
    for name in alarms():
        paragraph = text.partition(f"\n### {name}")[2].partition("\n### ")[0]
        for word in ("**It means**", "**Look at**", "**Do**"):
            assert word in paragraph, name
