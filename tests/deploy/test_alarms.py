"""The template's alarms: which one rings by what is counted in a period, and how far each looks.

Their metrics, statistics and numbers are in the template's snapshot.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from aws import LambdaContext, scheduled_event
from cloudformation import stack
from conftest import Scene

from lambda_traffic_mirror import OUTCOMES

AGE, GIVEN_UP = "ApproximateAgeOfOldestMessage", "ApproximateNumberOfMessagesVisible"
LAIN = 2  # messages that have lain in the dead-letter queue for long
SWEEP = dict.fromkeys((*OUTCOMES, "invalid"), 0) | {"exists": 40, "Sweeps": 1, "Excluded": 3}
ALL_EXCLUDED = SWEEP | {"exists": 0, "skipped": 43, "Excluded": 43}

# What is counted in a period, and the alarm that breaches by it.
ROWS: dict[str, tuple[str, dict[str, int]]] = {
    "all is well": ("", SWEEP),
    "instances start": ("", SWEEP | {"created": 2, "skipped": 2}),
    "no sensor takes an instance": ("DarkAlarm", SWEEP | {"unmirrored": 1}),
    "a session leads nowhere": ("DarkAlarm", SWEEP | {"blocked": 1}),
    "an instance starts with DRY_RUN on": ("DarkAlarm", SWEEP | {"planned": 1}),
    "tag rules exclude everything": ("DarkAlarm", ALL_EXCLUDED),
    "tag rules exclude all but databases": ("", ALL_EXCLUDED | {"exists": 1}),
    "the first session beside excluded ones": ("", ALL_EXCLUDED | {"created": 1}),
    "what is not excluded is deferred": ("DeferredAlarm", ALL_EXCLUDED | {"deferred": 1}),
    "what is not excluded fails": ("FailingAlarm", ALL_EXCLUDED | {"failed": 1}),
    "nothing runs": ("", SWEEP | {"exists": 0, "Excluded": 0}),
    "a sweep runs out of time": ("DeferredAlarm", SWEEP | {"deferred": 9}),
    "AWS does not answer": ("FailingAlarm", SWEEP | {"failed": 1}),
    "the function raises": ("FailingAlarm", SWEEP | {"Errors": 1}),
    "a sweep is given up": ("FailingAlarm", SWEEP | {"AsyncEventsDropped": 1}),
    "an event is given up": ("FailingAlarm", SWEEP | {GIVEN_UP: LAIN + 1}),
    "the dead-letter queue is emptied": ("", SWEEP | {GIVEN_UP: 0}),
    "a failure while it is": ("FailingAlarm", SWEEP | {GIVEN_UP: 0, "failed": 1}),
    "a sweep is missing": ("SilentAlarm", {}),
    "a sweep cannot read": ("SilentAlarm", {"Sweeps": 0}),
    "an event is tried again": ("", SWEEP | {AGE: 2 * 330}),
    "an event waits": ("WaitingAlarm", SWEEP | {AGE: 1201}),
    "an event cannot be understood": ("InvalidAlarm", SWEEP | {"invalid": 1}),
}


def alarms(rate: int = 5) -> dict[str, dict[str, Any]]:
    made = stack(SweepRate=str(rate))["Resources"].items()
    return {name: one["Properties"] for name, one in made if name.endswith("Alarm")}


# CloudWatch's metric math, of one period.
MATH: dict[str, Callable[..., Any]] = {
    "SUM": lambda several: sum(filter(None, several)),
    "MAX": max,
    "FILL": lambda point, value: value if point is None else point,
    "DIFF": lambda point: point - LAIN,
    "IF": lambda condition, true, false: true if condition else false,
}


def breaches(alarm: dict[str, Any], counted: dict[str, int]) -> bool:
    point = counted.get(alarm.get("MetricName", ""))
    if "Metrics" in alarm:
        result, *metrics = alarm["Metrics"]
        names = {one["Id"]: one["MetricStat"]["Metric"]["MetricName"] for one in metrics}
        points = {key: counted.get(name) for key, name in names.items()}
        point = eval(result["Expression"], {"__builtins__": {}}, MATH | points)
    if point is None:
        return bool(alarm["TreatMissingData"] == "breaching")
    above, threshold = alarm["ComparisonOperator"] == "GreaterThanThreshold", alarm["Threshold"]
    return bool(point > int(threshold) if above else point < int(threshold))


@pytest.mark.parametrize(("alarm", "counted"), ROWS.values(), ids=ROWS)
def test_the_alarm_about_it_rings_and_no_other(alarm: str, counted: dict[str, int]) -> None:
    counted = {GIVEN_UP: LAIN} | counted
    breaching = [name for name, one in alarms().items() if breaches(one, counted)]
    assert breaching == [alarm] * bool(alarm)


@pytest.mark.parametrize("rate", [5, 10, 15, 30, 60])
def test_an_alarm_rings_until_the_next_sweep_and_for_what_is_missing_in_time(rate: int) -> None:
    """In periods of five minutes; what is printed may be seen two of them later."""
    sweep, later = rate // 5, 2
    looks = {
        name: (int(one["DatapointsToAlarm"]), int(one["EvaluationPeriods"]))
        for name, one in alarms(rate).items()
    }
    assert looks["DarkAlarm"] == looks["FailingAlarm"] == (1, sweep + later)
    # Every sweep of an hour, the first and the last included; and neither of two sweeps.
    assert looks["DeferredAlarm"] == (60 // rate + 1, 12 + sweep + later)
    assert looks["SilentAlarm"] == (2 * sweep + 1, 2 * sweep + 1)


def test_what_is_watched_is_what_the_function_prints(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the alarms, which watch nothing else, and the dashboard."""
    scene.configure(scene.sensor())
    scene.instance()
    scene.run(scheduled_event(), LambdaContext(300))
    printed = set(re.findall(r'"Name": "(\w+)", "Unit"', capsys.readouterr().out))
    text = json.dumps(stack()).replace("\\", "")
    ours = r'"Namespace": "TrafficMirror", "MetricName": "(\w+)"'
    assert set(re.findall(ours, text)) <= printed == printed & set(re.findall(r'"(\w+)"', text))
