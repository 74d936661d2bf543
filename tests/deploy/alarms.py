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

ALARM, OK = "ALARM", "OK"

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


def _metric_of(properties: dict[str, Any]) -> Metric:
    dimensions = {one["Name"]: one["Value"] for one in properties["Dimensions"]}
    return metric(properties["Namespace"], properties["MetricName"], **dimensions)


def metric_of(alarm: dict[str, Any]) -> Metric:
    """The metric that an alarm is about, itself or by an expression."""
    if "Metrics" in alarm:
        (stat,) = [one["MetricStat"] for one in alarm["Metrics"] if "MetricStat" in one]
        return _metric_of(stat["Metric"])
    return _metric_of(alarm)


class Watch:
    """An alarm at work, by the properties of an AWS::CloudWatch::Alarm."""

    def __init__(self, alarm: dict[str, Any]) -> None:
        self.metric = metric_of(alarm)
        self.wanted = int(alarm["EvaluationPeriods"])
        self.needed = int(alarm.get("DatapointsToAlarm", self.wanted))
        self.treat = alarm["TreatMissingData"]
        assert self.treat in ("breaching", "notBreaching"), self.treat
        self.threshold = float(alarm["Threshold"])
        self.exceeds = _OPERATORS[alarm["ComparisonOperator"]]
        self.grows = "Metrics" in alarm
        statistic, period = alarm.get("Statistic"), alarm.get("Period")
        if self.grows:
            (returned,) = [one for one in alarm["Metrics"] if one.get("ReturnData", True)]
            (source,) = [one for one in alarm["Metrics"] if not one.get("ReturnData", True)]
            expression = f"DIFF(FILL({source['Id']}, 0))"
            assert returned["Expression"] == expression, "the only one known here"
            statistic, period = (source["MetricStat"][key] for key in ("Stat", "Period"))
        assert period == PERIOD
        self.statistic = _STATISTICS[str(statistic)]

    def _points(self, data: Data, first: int, last: int) -> list[float | None]:
        """The data points of these periods."""
        values = data.values.get(self.metric, {})
        points = [
            self.statistic(values[period]) if period in values else None
            for period in range(first, last + 1)
        ]
        if not self.grows:
            return points
        filled = [point or 0 for point in points]
        return [None, *(after - before for before, after in pairwise(filled))]

    def state(self, data: Data, now: int) -> str:
        """The state at the end of a period."""
        points = self._points(data, now - self.wanted - FURTHER + 1, now)
        breaches = [self.exceeds(point, self.threshold) for point in points if point is not None]
        missing = self.wanted - len(breaches)
        breaches = breaches[-self.wanted :]
        if missing > 0:
            breaches += [self.treat == "breaching"] * missing
        return ALARM if sum(breaches) >= self.needed else OK


class Notice(NamedTuple):
    """What the topic hears."""

    period: int
    alarm: str
    state: str


def notices(resolved: dict[str, Any], data: Data, first: int, last: int) -> list[Notice]:
    """What the topic hears from the first period to the last. States before are not told."""
    prefix = resolved["StackName"] + "-"
    watches, composites = {}, {}
    for logical, resource in resolved["Resources"].items():
        if resource["Type"] == "AWS::CloudWatch::Alarm":
            watches[prefix + logical] = Watch(resource["Properties"])
        elif resource["Type"] == "AWS::CloudWatch::CompositeAlarm":
            composites[prefix + logical] = resource["Properties"]["AlarmRule"]
    heard: list[Notice] = []
    before: dict[str, str] = {}
    for now in range(first - 1, last + 1):
        states = {name: watch.state(data, now) for name, watch in watches.items()}
        states |= {name: _composite(rule, states) for name, rule in composites.items()}
        for name in states if now >= first else ():
            properties = resolved["Resources"][name.removeprefix(prefix)]["Properties"]
            kind = "AlarmActions" if states[name] == ALARM else "OKActions"
            if states[name] != before[name] and properties.get(kind):
                heard.append(Notice(now, name.removeprefix(prefix), states[name]))
        before = states
    return heard


def _composite(rule: str, states: dict[str, str]) -> str:
    terms = re.split(r"\s+OR\s+", rule.strip())
    names = [re.fullmatch(r'ALARM\("([^"]+)"\)', term) for term in terms]
    assert all(names), rule
    return ALARM if any(states[one[1]] == ALARM for one in names if one) else OK
