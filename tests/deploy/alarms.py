"""What CloudWatch makes of an alarm: its state, period after period, for given metrics.

Time is counted in periods of five minutes, the only period that the template uses. An alarm is
evaluated as the CloudWatch guide says under 'Configuring how CloudWatch alarms treat missing data':
it looks back a little further than its evaluation periods, real data points go before missing ones,
and missing ones count as `TreatMissingData` says, as few of them as possible.

Of metric math, `Series` knows what the template uses. It takes the less favourable reading where
AWS's guide leaves one open: a comparison or an IF without a data point has none.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any

PERIOD = 300
# How much further than the evaluation periods an alarm looks: the guide's examples have two.
FURTHER = 2

Metric = tuple[str, str]  # namespace and name
Data = Mapping[Metric, Mapping[int, Iterable[float]]]  # the values of each metric by period

STATISTICS: dict[str, Callable[[Iterable[float]], float]] = {
    "Maximum": max,
    "Minimum": min,
    "Sum": sum,
}
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "GreaterThanThreshold": operator.gt,
    "GreaterThanOrEqualToThreshold": operator.ge,
    "LessThanThreshold": operator.lt,
    "LessThanOrEqualToThreshold": operator.le,
}


class Series(list[float | None]):
    """A data point, or None, for each period."""

    def __gt__(self, limit: Any) -> Series:  # type: ignore[override]
        return Series([None if point is None else float(point > limit) for point in self])


def aggregated(function: Callable[[Iterable[float]], float]) -> Callable[[list[Series]], Series]:
    """SUM, MAX of a list of series: of each period, the data points that exist."""

    def aggregate(several: list[Series]) -> Series:
        columns = [[one for one in column if one is not None] for column in zip(*several)]
        return Series([function(column) if column else None for column in columns])

    return aggregate


def chosen(condition: Series, true: float, false: Series) -> Series:
    """IF, in the form that the template uses."""
    return Series([
        None if decides is None else true if decides else point
        for decides, point in zip(condition, false)
    ])  # fmt: skip


FUNCTIONS: dict[str, Callable[..., Series]] = {
    "SUM": aggregated(sum),
    "MAX": aggregated(max),
    "IF": chosen,
    "FILL": lambda series, value: Series([value if one is None else one for one in series]),
    "DIFF": lambda series: Series(
        [None, *(None if None in pair else pair[1] - pair[0] for pair in pairwise(series))]
    ),
}


def metric_of(query: dict[str, Any]) -> Metric:
    """The metric of an alarm, or of a `Metric` in it. Dimensions are in the snapshots."""
    return query["Namespace"], query["MetricName"]


def points(alarm: dict[str, Any], data: Data, first: int, last: int) -> Series:
    """The data points of an alarm from the first period to the last."""

    def read(metric: dict[str, Any], statistic: str, period: int) -> Series:
        assert period == PERIOD
        values = data.get(metric_of(metric), {})
        return Series([
            STATISTICS[statistic](values[now]) if now in values else None
            for now in range(first, last + 1)
        ])  # fmt: skip

    if "Metrics" not in alarm:
        return read(alarm, alarm["Statistic"], alarm["Period"])
    known: dict[str, Any] = dict(FUNCTIONS)
    (returned,) = [one for one in alarm["Metrics"] if one.get("ReturnData", True)]
    for one in alarm["Metrics"]:
        if "MetricStat" in one:
            stat = one["MetricStat"]
            known[one["Id"]] = read(stat["Metric"], stat["Stat"], stat["Period"])
    result = eval(returned["Expression"], {"__builtins__": {}}, known)
    assert isinstance(result, Series)
    return result


def rings(alarm: dict[str, Any], data: Data, now: int) -> bool:
    """Whether an alarm, given by its properties, is in ALARM at the end of a period."""
    wanted, needed = int(alarm["EvaluationPeriods"]), int(alarm["DatapointsToAlarm"])
    assert alarm["TreatMissingData"] in ("breaching", "notBreaching")
    exceeds, threshold = COMPARISONS[alarm["ComparisonOperator"]], float(alarm["Threshold"])
    found = [
        exceeds(point, threshold)
        for point in points(alarm, data, now - wanted - FURTHER + 1, now)
        if point is not None
    ]
    missing = max(0, wanted - len(found))
    breaching = found[-wanted:] + [alarm["TreatMissingData"] == "breaching"] * missing
    return sum(breaching) >= needed
