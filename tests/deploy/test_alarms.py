"""The template's alarms on series of metrics: what happens, which alarm rings, and for how long.

Time is counted in periods of five minutes, the only period that the template uses. An alarm is
evaluated as the CloudWatch guide says under 'Configuring how CloudWatch alarms treat missing data':
it looks back a little further than its evaluation periods, real data points go before missing ones,
and missing ones count as `TreatMissingData` says, as few of them as possible.
"""

from __future__ import annotations

import json
import operator
import re
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from aws import LambdaContext, scheduled_event
from cloudformation import resolve
from conftest import Scene

from lambda_traffic_mirror import OUTCOMES

RATES = (5, 10, 15, 30, 60)
BAD, LAST = 60, 120  # the period in which something goes wrong, and the last that is looked at
# How much further than the evaluation periods an alarm looks: the guide's examples have two.
FURTHER = 2

AGE, GIVEN_UP = "ApproximateAgeOfOldestMessage", "ApproximateNumberOfMessagesVisible"
WELL = {"exists": 40, "Sweeps": 1, "Excluded": 3}  # what a sweep prints, the zeros aside
ALL_EXCLUDED = {"Sweeps": 1, "skipped": 43, "Excluded": 43}
DARK, FAILS = WELL | {"unmirrored": 1}, WELL | {"failed": 1}
LATE = {"exists": 9, "deferred": 9, "Sweeps": 1}

# The alarm that rings, and how it shows what happens. `event`: what the function prints for one at
# BAD. `sweep`: what it prints for sweeps from BAD on, in place of the usual; nothing if None.
# `count`: how many sweeps, "hour" for those of an hour, "some" for enough to be missed. The rest:
# what AWS counts at BAD, and in the dead-letter queue from then on.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "all is well": ("", {}),
    "an instance starts": ("", {"event": {"created": 2}}),
    "an excluded instance starts": ("", {"event": {"skipped": 2}}),
    # Are interfaces dark?
    "no sensor takes an instance": ("DarkAlarm", {"event": {"unmirrored": 1}}),
    "sweeps find one unmirrored": ("DarkAlarm", {"sweep": DARK, "count": "some"}),
    "a session leads nowhere": ("DarkAlarm", {"sweep": WELL | {"blocked": 1}}),
    "an instance starts with DRY_RUN on": ("DarkAlarm", {"event": {"planned": 1}}),
    "a sweep finds one with DRY_RUN on": ("DarkAlarm", {"sweep": WELL | {"planned": 1}}),
    "tag rules exclude everything": ("DarkAlarm", {"sweep": ALL_EXCLUDED}),
    "tag rules exclude all but databases": ("", {"sweep": ALL_EXCLUDED | {"exists": 1}}),
    "the first session beside excluded ones": ("", {"sweep": ALL_EXCLUDED | {"created": 1}}),
    "what is not excluded is deferred": ("", {"sweep": ALL_EXCLUDED | {"deferred": 1}}),
    "what is not excluded fails": ("FailingAlarm", {"sweep": ALL_EXCLUDED | {"failed": 1}}),
    "tag rules exclude nothing": ("", {"sweep": WELL | {"Excluded": 0}}),
    "nothing runs": ("", {"sweep": {"Sweeps": 1}}),
    # Do interfaces stay dark because time runs out?
    "a sweep runs out of time": ("", {"sweep": LATE}),
    "sweeps run out of time, not for an hour": ("", {"sweep": LATE, "count": "less"}),
    "sweeps run out of time for an hour": ("DeferredAlarm", {"sweep": LATE, "count": "hour"}),
    # Does it fail?
    "AWS does not answer": ("FailingAlarm", {"event": {"failed": 1}}),
    "AWS does not answer sweeps": ("FailingAlarm", {"sweep": FAILS, "count": "some"}),
    "the function raises": ("FailingAlarm", {"Errors": 1}),
    "a sweep is given up": ("FailingAlarm", {"AsyncEventsDropped": 1}),
    "an event is given up": ("FailingAlarm", {GIVEN_UP: 3}),
    "the dead-letter queue is emptied": ("", {GIVEN_UP: 0}),
    "a failure while it is": ("FailingAlarm", {GIVEN_UP: 0, "event": {"failed": 1}}),
    # Is it silent?
    "one sweep is missing": ("", {"sweep": None}),
    "one sweep cannot read": ("", {"sweep": {"Sweeps": 0}}),
    "sweeps are missing": ("SilentAlarm", {"sweep": None, "count": "some"}),
    "sweeps cannot read": ("SilentAlarm", {"sweep": {"Sweeps": 0}, "count": "some"}),
    "a sweep by hand besides": ("", {"event": WELL}),
    # Does work wait?
    "an event is tried again": ("", {AGE: 2 * 330}),
    "an event waits": ("WaitingAlarm", {AGE: 1201}),
    # Are events wrong?
    "an event cannot be understood": ("InvalidAlarm", {"event": {"invalid": 1}}),
}


@cache
def resources(rate: int) -> dict[str, dict[str, Any]]:
    given = {"CodeBucket": "my-bucket", "CodeKey": "key.zip", "Targets": "tmt-1"}
    made = resolve(parameters=given | {"SweepRate": str(rate)})
    return {name: one["Properties"] for name, one in made["Resources"].items()}


def metrics(how: dict[str, Any], instead: range) -> dict[tuple[str, str], Any]:
    """Values by namespace, name and period: of a function that sweeps, and of its queues."""
    values = defaultdict[tuple[str, str], Any](lambda: defaultdict(list))
    sweeps = range(BAD % instead.step, LAST, instead.step)
    printed = [(now, how.get("sweep", WELL) if now in instead else WELL) for now in sweeps]
    for now, counts in [*printed, (BAD, how.get("event"))]:
        if counts is not None:
            for name, value in (dict.fromkeys((*OUTCOMES, "invalid"), 0) | counts).items():
                values["TrafficMirror", name][now].append(value)
            for name in ("Errors", "AsyncEventsDropped"):
                values["AWS/Lambda", name][now].append(how.get(name, 0) if now == BAD else 0)
    if AGE in how:
        # Of a queue that several minutes are known of in a period, the worst counts.
        values["AWS/SQS", AGE][BAD] = [how[AGE], 0]
    for now in range(LAST):  # somebody left two messages there long ago
        values["AWS/SQS", GIVEN_UP][now] = [2 if now < BAD else how.get(GIVEN_UP, 2), 0]
    return values


class Series(list[float | None]):
    """A data point, or None, for each period."""

    def __gt__(self, limit: Any) -> Series:  # type: ignore[override]
        return Series(None if point is None else float(point > limit) for point in self)


def of_a_list(function: Callable[[list[float]], float]) -> Callable[[list[Series]], Series]:
    """SUM, MAX: of each period, of the data points that exist."""

    def aggregated(several: list[Series]) -> Series:
        columns = [[one for one in row if one is not None] for row in zip(*several, strict=True)]
        return Series(function(column) if column else None for column in columns)

    return aggregated


# The metric math that the template uses. Where the guide leaves it open, a comparison or an IF
# without a data point has none, which is the reading that is less in favour of ringing.
FUNCTIONS: dict[str, Callable[..., Series]] = {
    "SUM": of_a_list(sum),
    "MAX": of_a_list(max),
    "FILL": lambda series, value: Series(value if one is None else one for one in series),
    "DIFF": lambda series: Series(
        [None, *(None if None in pair else pair[1] - pair[0] for pair in pairwise(series))]
    ),
    "IF": lambda condition, true, false: Series(
        None if decides is None else true if decides else point
        for decides, point in zip(condition, false, strict=True)
    ),
}
STATISTICS = {"Maximum": max, "Sum": sum}
EXCEEDS = {"GreaterThanThreshold": operator.gt, "LessThanThreshold": operator.lt}
BREACHES = {"breaching": True, "notBreaching": False}


def rings(alarm: dict[str, Any], data: dict[tuple[str, str], Any], now: int) -> bool:
    """Whether an alarm, given by its properties, is in ALARM at the end of a period."""
    wanted, needed = int(alarm["EvaluationPeriods"]), int(alarm["DatapointsToAlarm"])
    periods = range(now - wanted - FURTHER + 1, now + 1)

    def read(metric: dict[str, Any], statistic: str) -> Series:
        values = data.get((metric["Namespace"], metric["MetricName"]), {})
        points = [STATISTICS[statistic](values[now]) if now in values else None for now in periods]
        return Series(points)

    if "Metrics" in alarm:
        (result,) = [one["Expression"] for one in alarm["Metrics"] if one.get("ReturnData", True)]
        stats = {one["Id"]: one["MetricStat"] for one in alarm["Metrics"] if "MetricStat" in one}
        known = {key: read(one["Metric"], one["Stat"]) for key, one in stats.items()}
        points = eval(result, {"__builtins__": {}}, FUNCTIONS | known)
    else:
        points = read(alarm, alarm["Statistic"])
    exceeds, threshold = EXCEEDS[alarm["ComparisonOperator"]], float(alarm["Threshold"])
    found = [exceeds(point, threshold) for point in points if point is not None]
    missing = [BREACHES[alarm["TreatMissingData"]]] * max(0, wanted - len(found))
    return sum(found[-wanted:] + missing) >= needed


@pytest.mark.parametrize("happens", ROWS)
def test_the_alarm_about_it_rings_and_no_other(happens: str) -> None:
    expected, how = ROWS[happens]
    for rate in RATES:
        sweep, hour = rate // 5, 60 // rate + 1  # the first and the last sweep included
        counts = {"hour": hour, "less": hour - 1, "some": 3 + FURTHER // sweep}
        instead = range(BAD, BAD + sweep * counts.get(how.get("count", ""), 1), sweep)
        values = metrics(how, instead)
        heard = {
            name: [now for now in range(BAD - 5, LAST) if rings(alarm, values, now)]
            for name, alarm in resources(rate).items()
            if "AlarmDescription" in alarm
        }
        assert [name for name, periods in heard.items() if periods] == [expected] * bool(expected)
        if periods := heard.get(expected):
            assert periods == list(range(periods[0], periods[-1] + 1)), "with a break"
            # At once, but for what takes an hour or is seen by its absence.
            begins = {"DeferredAlarm": 12, "SilentAlarm": 2 * sweep + FURTHER}.get(expected, 0)
            assert periods[0] <= BAD + begins
            # Until a later sweep is seen to be in order.
            assert periods[-1] <= instead[-1] + sweep + 2 + FURTHER


def test_what_is_watched_is_what_the_function_prints(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the alarms, which watch nothing else, and the dashboard."""
    scene.configure(scene.sensor())
    scene.instance()
    scene.run(scheduled_event(), LambdaContext(300))
    printed = set(re.findall(r'"Name": "(\w+)", "Unit"', capsys.readouterr().out))
    text = json.dumps(resources(5)).replace("\\", "")
    ours = r'"Namespace": "TrafficMirror", "MetricName": "(\w+)"'
    assert set(re.findall(ours, text)) <= printed == printed & set(re.findall(r'"(\w+)"', text))
