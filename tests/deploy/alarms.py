"""What CloudWatch makes of the template's alarms: states over time, and what the topic hears.

Time is counted in periods of five minutes, the only period that the template uses. An alarm is
evaluated as the CloudWatch guide describes it under 'Configuring how CloudWatch alarms treat
missing data': it looks back a little further than its evaluation periods, real data points go
before missing ones, and missing ones count as `TreatMissingData` says, as few of them as possible.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, NamedTuple

PERIOD = 300
# How much further than the evaluation periods an alarm looks: the guide's examples have two.
FURTHER = 2

ALARM, OK, INSUFFICIENT = "ALARM", "OK", "INSUFFICIENT_DATA"

Metric = tuple[str, str, tuple[tuple[str, str], ...]]  # namespace, name, dimensions

_STATISTICS: dict[str, Callable[[Iterable[float]], float]] = {
    "Maximum": max,
    "Minimum": min,
    "Sum": sum,
}
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "GreaterThanThreshold": lambda value, threshold: value > threshold,
    "GreaterThanOrEqualToThreshold": lambda value, threshold: value >= threshold,
    "LessThanThreshold": lambda value, threshold: value < threshold,
    "LessThanOrEqualToThreshold": lambda value, threshold: value <= threshold,
}


def metric(namespace: str, name: str, **dimensions: str) -> Metric:
    return namespace, name, tuple(sorted(dimensions.items()))


class Data:
    """Values of metrics by period."""

    def __init__(self) -> None:
        self.values: dict[Metric, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))

    def put(self, of: Metric, period: int, value: float) -> None:
        self.values[of][period].append(value)

    def put_lines(self, printed: str, period: int) -> None:
        """Takes what a function printed in the embedded metric format, as CloudWatch does."""
        for line in printed.splitlines():
            document = json.loads(line)
            for directive in document["_aws"]["CloudWatchMetrics"]:
                for names in directive["Dimensions"]:
                    dimensions = {name: document[name] for name in names}
                    for one in directive["Metrics"]:
                        of = metric(directive["Namespace"], one["Name"], **dimensions)
                        self.put(of, period, document[one["Name"]])

    def statistic(self, of: Metric, name: str, period: int) -> float | None:
        values = self.values[of].get(period) if of in self.values else None
        return _STATISTICS[name](values) if values else None


def _metric_of(properties: dict[str, Any]) -> Metric:
    dimensions = {one["Name"]: one["Value"] for one in properties["Dimensions"]}
    return metric(properties["Namespace"], properties["MetricName"], **dimensions)


def metric_of(alarm: dict[str, Any]) -> Metric:
    """The metric that an alarm is about, itself or by an expression."""
    if "Metrics" in alarm:
        (stat,) = [one["MetricStat"] for one in alarm["Metrics"] if "MetricStat" in one]
        return _metric_of(stat["Metric"])
    return _metric_of(alarm)


def _points(alarm: dict[str, Any], data: Data, first: int, last: int) -> list[float | None]:
    """The alarm's data points of these periods."""
    periods = range(first, last + 1)
    if "Metrics" not in alarm:
        assert alarm["Period"] == PERIOD
        return [data.statistic(_metric_of(alarm), alarm["Statistic"], one) for one in periods]
    (returned,) = [one for one in alarm["Metrics"] if one.get("ReturnData", True)]
    (source,) = [one for one in alarm["Metrics"] if not one.get("ReturnData", True)]
    assert returned["Expression"] == f"DIFF(FILL({source['Id']}, 0))", "the only one known here"
    stat = source["MetricStat"]
    assert stat["Period"] == PERIOD
    filled = [data.statistic(_metric_of(stat["Metric"]), stat["Stat"], one) or 0 for one in periods]
    return [None, *(after - before for before, after in pairwise(filled))]


def state(alarm: dict[str, Any], data: Data, now: int) -> str:
    """The state of an alarm at the end of a period."""
    wanted = int(alarm["EvaluationPeriods"])
    needed = int(alarm.get("DatapointsToAlarm", wanted))
    treat = alarm.get("TreatMissingData", "missing")
    assert treat in ("breaching", "notBreaching", "missing"), treat
    threshold, exceeds = float(alarm["Threshold"]), _OPERATORS[alarm["ComparisonOperator"]]
    points = _points(alarm, data, now - wanted - FURTHER + 1, now)
    breaches = [exceeds(point, threshold) for point in points if point is not None]
    if not breaches and treat == "missing":
        return INSUFFICIENT
    missing = wanted - len(breaches)
    breaches = breaches[-wanted:]
    if missing > 0 and treat != "missing":
        breaches += [treat == "breaching"] * missing
    return ALARM if sum(breaches) >= needed else OK


class Notice(NamedTuple):
    """What the topic hears."""

    period: int
    alarm: str
    state: str


def notices(resolved: dict[str, Any], data: Data, first: int, last: int) -> list[Notice]:
    """What the topic hears from the first period to the last. States before are not told."""
    alarms = {
        logical: resource
        for logical, resource in resolved["Resources"].items()
        if resource["Type"].startswith("AWS::CloudWatch::") and "Alarm" in resource["Type"]
    }
    heard: list[Notice] = []
    before: dict[str, str] = {}
    for now in range(first - 1, last + 1):
        states = {
            f"{resolved['StackName']}-{logical}": state(one["Properties"], data, now)
            for logical, one in alarms.items()
            if one["Type"] == "AWS::CloudWatch::Alarm"
        }
        for logical, one in alarms.items():
            name = f"{resolved['StackName']}-{logical}"
            if one["Type"] == "AWS::CloudWatch::CompositeAlarm":
                states[name] = _composite(one["Properties"]["AlarmRule"], states)
            properties = one["Properties"]
            changed = now >= first and states[name] != before.get(name)
            kind = "AlarmActions" if states[name] == ALARM else "OKActions"
            told = properties.get("ActionsEnabled", True) and properties.get(kind)
            if changed and told:
                heard.append(Notice(now, logical, states[name]))
        before = states
    return heard


def _composite(rule: str, states: dict[str, str]) -> str:
    terms = re.split(r"\s+OR\s+", rule.strip())
    names = [re.fullmatch(r'ALARM\("([^"]+)"\)', term) for term in terms]
    assert all(names), rule
    return ALARM if any(states[one[1]] == ALARM for one in names if one) else OK
