"""What CloudWatch makes of an alarm: whether it rings, for given metrics.

Time is counted in periods of five minutes, the only period that the template uses. An alarm is
evaluated as the CloudWatch guide says under 'Configuring how CloudWatch alarms treat missing data':
it looks back a little further than its evaluation periods, real data points go before missing ones,
and missing ones count as `TreatMissingData` says, as few of them as possible.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any

# How much further than the evaluation periods an alarm looks: the guide's examples have two.
FURTHER = 2

Metric = tuple[str, str]  # namespace and name; dimensions are in the snapshots
Data = Mapping[Metric, Mapping[int, Iterable[float]]]  # the values of each metric by period

STATISTICS = {"Maximum": max, "Minimum": min, "Sum": sum}
COMPARISONS = {
    "GreaterThanThreshold": operator.gt,
    "GreaterThanOrEqualToThreshold": operator.ge,
    "LessThanThreshold": operator.lt,
    "LessThanOrEqualToThreshold": operator.le,
}


class Series(list[float | None]):
    """A data point, or None, for each period."""

    def __gt__(self, limit: Any) -> Series:  # type: ignore[override]
        return Series([None if point is None else float(point > limit) for point in self])


def of_a_list(function: Callable[[list[float]], float]) -> Callable[[list[Series]], Series]:
    """SUM, MAX: of each period, of the data points that exist."""

    def aggregated(several: list[Series]) -> Series:
        columns = ([point for point in row if point is not None] for row in zip(*several))  # noqa: B905
        return Series([function(column) if column else None for column in columns])

    return aggregated


# The metric math that the template uses. Where the guide leaves it open, a comparison or an IF
# without a data point has none, which is the reading that is less in favour of ringing.
FUNCTIONS: dict[str, Callable[..., Series]] = {
    "SUM": of_a_list(sum),
    "MAX": of_a_list(max),
    "FILL": lambda series, value: Series([value if one is None else one for one in series]),
    "DIFF": lambda series: Series(
        [None, *(None if None in pair else pair[1] - pair[0] for pair in pairwise(series))]
    ),
    "IF": lambda condition, true, false: Series(
        None if decides is None else true if decides else point
        for decides, point in zip(condition, false, strict=True)
    ),
}


def metric_of(query: dict[str, Any]) -> Metric:
    """The metric of an alarm, or of a `Metric` in it."""
    return query["Namespace"], query["MetricName"]


def data_points(alarm: dict[str, Any], data: Data, periods: range) -> Series:
    """The data points that an alarm compares with its threshold."""

    def read(metric: dict[str, Any], statistic: str, period: int) -> Series:
        assert period == 300
        values, function = data.get(metric_of(metric), {}), STATISTICS[statistic]
        return Series([function(values[now]) if now in values else None for now in periods])

    if "Metrics" not in alarm:
        return read(alarm, alarm["Statistic"], alarm["Period"])
    (result,) = [one["Expression"] for one in alarm["Metrics"] if one.get("ReturnData", True)]
    stats = {one["Id"]: one["MetricStat"] for one in alarm["Metrics"] if "MetricStat" in one}
    known = {key: read(one["Metric"], one["Stat"], one["Period"]) for key, one in stats.items()}
    found = eval(result, {"__builtins__": {}}, FUNCTIONS | known)
    assert isinstance(found, Series)
    return found


def rings(alarm: dict[str, Any], data: Data, now: int) -> bool:
    """Whether an alarm, given by its properties, is in ALARM at the end of a period."""
    wanted, needed = int(alarm["EvaluationPeriods"]), int(alarm["DatapointsToAlarm"])
    missing_breaches = {"breaching": True, "notBreaching": False}[alarm["TreatMissingData"]]
    exceeds, threshold = COMPARISONS[alarm["ComparisonOperator"]], float(alarm["Threshold"])
    points = data_points(alarm, data, range(now - wanted - FURTHER + 1, now + 1))
    found = [exceeds(point, threshold) for point in points if point is not None]
    missing = max(0, wanted - len(found))
    return sum(found[-wanted:] + [missing_breaches] * missing) >= needed
