"""What an operator finds in the log, and what CloudWatch makes of it."""

from __future__ import annotations

import json
import logging
import numbers
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from aws import (
    LambdaContext,
    SimulatedAccount,
    running_event,
    scheduled_event,
    sqs_event,
)
from conftest import Run, Sleeps

from lambda_traffic_mirror import MirroringError, lambda_handler

Configure = Callable[..., None]
Metrics = Callable[[], list[dict[str, Any]]]

LOGGER = "lambda_traffic_mirror"
OUTCOMES = (
    "created",
    "planned",
    "exists",
    "skipped",
    "unmirrored",
    "blocked",
    "failed",
    "deferred",
)


pytestmark = pytest.mark.usefixtures("shared_client")


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)


class Scene:
    """An account with a sensor in zone a, and a source for each outcome."""

    def __init__(self, account: SimulatedAccount, configure: Configure) -> None:
        self.account, self.configure = account, configure
        # Tags keep a sweep from the sensors themselves.
        self.tags = {"mirror": ""}
        self.sensor = account.sensor(sessions=2)
        self.closed = account.sensor(groups=[account.group()])
        configure([self.sensor, self.closed], INCLUDE_TAGS="mirror")

    def instance(self, **kwargs: Any) -> str:
        return self.account.instance(tags=self.tags, **kwargs)

    def created(self) -> str:
        return self.instance()

    def planned(self) -> str:
        self.configure([self.sensor], INCLUDE_TAGS="mirror", DRY_RUN="true")
        return self.instance()

    def exists(self) -> str:
        instance = self.instance()
        self.account.session(self.account.interfaces_of(instance)[0], self.sensor)
        return instance

    def elsewhere(self) -> str:
        instance = self.instance()
        others = self.account.sensor(sessions=0)
        self.account.session(self.account.interfaces_of(instance)[0], others)
        return instance

    def alongside(self) -> str:
        variables = {"MIRROR_ALONGSIDE": "true", "SESSION_NUMBER": "2"}
        self.configure([self.sensor, self.closed], INCLUDE_TAGS="mirror", **variables)
        return self.elsewhere()

    def skipped(self) -> str:
        return self.instance(interface_type="trunk")

    def unmirrored(self) -> str:
        return self.instance(zone="b")

    def blocked(self) -> str:
        instance = self.instance()
        self.account.session(self.account.interfaces_of(instance)[0], self.closed)
        return instance

    def failed(self) -> str:
        self.account.fail("CreateTrafficMirrorSession", "InternalError", status=500)
        return self.instance()


@pytest.fixture
def scene(account: SimulatedAccount, configure: Configure, run: Run, no_sleep: Sleeps) -> Scene:
    return Scene(account, configure)


def records(caplog: pytest.LogCaptureFixture, instance: str) -> list[logging.LogRecord]:
    """The records about this instance."""
    return [
        record
        for record in caplog.records
        if record.name == LOGGER and getattr(record, "instance_id", None) == instance
    ]


def invoke(event: object) -> None:
    """Invoke the handler; what it returns or raises is for other tests."""
    with suppress(MirroringError):
        lambda_handler(event, LambdaContext())


# --------------------------------------------------------------------------------------
# One record per interface
# --------------------------------------------------------------------------------------

LEVELS = {
    # outcome: level after an event, level after a sweep
    "created": (logging.INFO, logging.INFO),
    "planned": (logging.INFO, logging.INFO),
    "exists": (logging.INFO, logging.DEBUG),
    "skipped": (logging.INFO, logging.DEBUG),
    "unmirrored": (logging.ERROR, logging.ERROR),
    "blocked": (None, logging.ERROR),
    "failed": (logging.ERROR, logging.ERROR),
}
by_event = pytest.mark.parametrize("outcome", [o for o, (event, _) in LEVELS.items() if event])


@by_event
def test_the_level_after_an_event(
    scene: Scene, caplog: pytest.LogCaptureFixture, outcome: str
) -> None:
    instance = getattr(scene, outcome)()
    invoke(running_event(instance))
    found = [(record.levelno, record.outcome) for record in records(caplog, instance)]
    assert found == [(LEVELS[outcome][0], outcome)]


@pytest.mark.parametrize("outcome", LEVELS)
def test_the_level_after_a_sweep(
    scene: Scene, caplog: pytest.LogCaptureFixture, outcome: str
) -> None:
    instance = getattr(scene, outcome)()
    invoke(scheduled_event())
    found = [(record.levelno, record.outcome) for record in records(caplog, instance)]
    assert found == [(LEVELS[outcome][1], outcome)]


def test_what_was_deferred_is_a_warning(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    instance, context = scene.created(), LambdaContext()

    def time_is_up(operation: str, parameters: dict[str, Any]) -> None:
        if operation == "DescribeSecurityGroups":
            context._end = 0.0

    scene.account.gates.append(time_is_up)
    with pytest.raises(MirroringError):
        lambda_handler(running_event(instance), context)
    found = [(record.levelno, record.outcome) for record in records(caplog, instance)]
    assert found == [(logging.WARNING, "deferred")]


def test_there_is_one_record_per_interface(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    instances = [scene.instance(interfaces=2), scene.instance(interfaces=3)]
    invoke({"instance-ids": instances})
    logged = [record.interface_id for i in instances for record in records(caplog, i)]
    assert logged == [face for i in instances for face in scene.account.interfaces_of(i)]


def test_a_batch_of_messages_is_logged_like_its_events(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    instance = scene.created()
    invoke(sqs_event(running_event(instance)))
    assert [record.outcome for record in records(caplog, instance)] == ["created"]


@by_event
def test_the_record_has_the_entry_of_the_result_as_fields(
    scene: Scene, run: Run, caplog: pytest.LogCaptureFixture, outcome: str
) -> None:
    instance = getattr(scene, outcome)()
    try:
        entry = run(instance).entry
    except MirroringError:
        entry = {"outcome": "failed", "instance_id": instance}
    (record,) = records(caplog, instance)
    assert {key: getattr(record, key) for key in entry} == entry


@by_event
def test_the_record_is_a_sentence_that_stands_alone(
    scene: Scene, caplog: pytest.LogCaptureFixture, outcome: str
) -> None:
    instance = getattr(scene, outcome)()
    invoke(running_event(instance))
    (record,) = records(caplog, instance)
    message = record.getMessage()
    wanted = [instance, *scene.account.interfaces_of(instance), outcome, record.reason]
    assert ([word for word in wanted if word not in message], message[-1]) == ([], ".")


def test_records_reach_the_handlers_of_the_root_logger(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = seen.append  # type: ignore[method-assign]
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [*root.handlers, handler])
    instance = scene.created()
    invoke(running_event(instance))
    assert instance in [getattr(record, "instance_id", None) for record in seen]


def test_nothing_is_hung_on_the_logger() -> None:
    logger = logging.getLogger(LOGGER)
    assert (logger.propagate, logger.handlers) == (True, [])


def test_fields_can_be_written_as_json(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    instance = scene.created()
    invoke(running_event(instance))
    (record,) = records(caplog, instance)
    written = json.loads(json.dumps(record.sensors))
    assert [row["target_id"] for row in written] == [scene.sensor, scene.closed]


# --- Events that cannot be read


def test_an_event_that_cannot_be_read_is_a_warning(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    invoke({"key1": "value1"})
    found = [(record.levelno, "instance-id" in record.getMessage()) for record in caplog.records]
    assert found == [(logging.WARNING, True)]


def test_a_message_that_cannot_be_read_is_an_error_with_its_id(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    event = sqs_event("{")
    invoke(event)
    message_id = event["Records"][0]["messageId"]
    found = [(record.levelno, message_id in record.getMessage()) for record in caplog.records]
    assert found == [(logging.ERROR, True)]


# --------------------------------------------------------------------------------------
# Metrics: CloudWatch's embedded metric format
# --------------------------------------------------------------------------------------

TIMES = ("Seconds", "Microseconds", "Milliseconds")
SIZES = tuple(
    f"{prefix}{size}"
    for size in ("bytes", "bits")
    for prefix in ("", "Kilo", "Mega", "Giga", "Tera")
)
AMOUNTS = tuple(size.capitalize() for size in SIZES)
UNITS = {
    *TIMES,
    *AMOUNTS,
    *(f"{amount}/Second" for amount in (*AMOUNTS, "Count")),
    "Percent",
    "Count",
    "None",
}


def text_of(value: object, most: int) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= most


def number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def metric_values(value: object) -> bool:
    """A metric is a number or a list of at most 100 numbers."""
    return number(value) or (
        isinstance(value, list) and 1 <= len(value) <= 100 and all(map(number, value))
    )


def violations(document: Any) -> list[str]:
    """What in a document is against the specification of the embedded metric format."""
    found: list[str] = []

    def check(holds: object, rule: str) -> None:
        if not holds:
            found.append(rule)

    metadata = document.get("_aws")
    check(isinstance(metadata, dict), "_aws is an object")
    check(
        isinstance(metadata.get("Timestamp"), int) and 1e12 < metadata["Timestamp"] < 1e13,
        "Timestamp is milliseconds since 1970, a whole number",
    )
    check(isinstance(metadata.get("CloudWatchMetrics"), list), "CloudWatchMetrics is a list")
    for directive in metadata.get("CloudWatchMetrics") or ():
        check(text_of(directive.get("Namespace"), 1024), "Namespace has 1 to 1024 characters")
        check(not str(directive["Namespace"]).startswith("AWS/"), "Namespace is not AWS's own")
        check(isinstance(directive.get("Dimensions"), list), "Dimensions is a list")
        for dimensions in directive.get("Dimensions") or ():
            check(isinstance(dimensions, list), "a set of dimensions is a list")
            check(1 <= len(dimensions) <= 30, "a set has at most 30 dimensions")
            check(len(set(dimensions)) == len(dimensions), "a set has no dimension twice")
            for name in dimensions:
                check(text_of(name, 250), "the name of a dimension has 1 to 250 characters")
                check(text_of(document.get(name), 1024), "a dimension is a text member")
        check(isinstance(directive.get("Metrics"), list), "Metrics is a list")
        check(
            1 <= len(directive.get("Metrics") or ()) <= 100, "a directive has at most 100 metrics"
        )
        for metric in directive.get("Metrics") or ():
            check(text_of(metric.get("Name"), 1024), "Name has 1 to 1024 characters")
            check(metric.get("Unit", "None") in UNITS, "Unit is one of CloudWatch's")
            check(metric.get("StorageResolution", 60) in (1, 60), "resolution is 1 or 60")
            check(set(metric) <= {"Name", "Unit", "StorageResolution"}, "a metric has no more")
            check(metric_values(document.get(metric["Name"])), "a metric is a numeric member")
        check(set(directive) == {"Namespace", "Dimensions", "Metrics"}, "a directive has no more")
    return found


@pytest.fixture
def metrics(capsys: pytest.CaptureFixture[str]) -> Metrics:
    """The documents printed since the last time of asking; every line is one."""

    def metrics() -> list[dict[str, Any]]:
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return metrics


def values(document: dict[str, Any]) -> dict[str, float]:
    """The metrics of a document."""
    (directive,) = document["_aws"]["CloudWatchMetrics"]
    return {metric["Name"]: document[metric["Name"]] for metric in directive["Metrics"]}


def counts(**counts: float) -> dict[str, float]:
    return dict.fromkeys((*OUTCOMES, "invalid"), 0) | counts


# From the scene to the event, and the metrics.
INVOCATIONS: dict[str, tuple[Callable[[Scene], object], dict[str, float]]] = {
    "created": (lambda s: running_event(s.created()), counts(created=1)),
    "planned": (lambda s: running_event(s.planned()), counts(planned=1)),
    "exists": (lambda s: running_event(s.exists()), counts(exists=1)),
    "skipped": (lambda s: running_event(s.skipped()), counts(skipped=1)),
    "unmirrored": (lambda s: running_event(s.unmirrored()), counts(unmirrored=1)),
    "failed": (lambda s: running_event(s.failed()), counts(failed=1)),
    "several": (
        lambda s: {"instance-ids": [s.created(), s.instance(interfaces=2), s.unmirrored()]},
        counts(created=3, unmirrored=1),
    ),
    "a batch": (
        lambda s: sqs_event(running_event(s.created()), running_event(s.exists()), "{"),
        counts(created=1, exists=1, invalid=1),
    ),
    "another state": (lambda s: running_event(s.created(), state="stopped"), counts()),
    "an event that cannot be read": (lambda s: {"key1": "value1"}, counts(invalid=1)),
}
every_invocation = pytest.mark.parametrize("name", INVOCATIONS)


@every_invocation
def test_an_invocation_prints_one_line_with_every_outcome(
    scene: Scene, metrics: Metrics, name: str
) -> None:
    event, wanted = INVOCATIONS[name]
    invoke(event(scene))
    assert [values(document) for document in metrics()] == [wanted]


@every_invocation
def test_the_line_is_valid(scene: Scene, metrics: Metrics, name: str) -> None:
    invoke(INVOCATIONS[name][0](scene))
    assert [violations(document) for document in metrics()] == [[]]


def test_the_validator_finds_what_is_wrong() -> None:
    directive = {"Namespace": "", "Dimensions": [["Gone"]], "Metrics": [{"Name": "x", "Unit": "y"}]}
    document = {"_aws": {"Timestamp": 1.5, "CloudWatchMetrics": [directive]}, "x": "1"}
    assert len(violations(document)) == 5


@pytest.mark.parametrize("swept", [False, True], ids=["event", "sweep"])
def test_namespace_dimensions_and_units(scene: Scene, metrics: Metrics, swept: bool) -> None:
    instance = scene.created()
    invoke(scheduled_event() if swept else running_event(instance))
    document = metrics()[0]
    (directive,) = document["_aws"]["CloudWatchMetrics"]
    units = {metric["Name"]: metric["Unit"] for metric in directive["Metrics"]}
    found = (directive["Namespace"], directive["Dimensions"], document["FunctionName"], units)
    of_sweeps = {"Sweeps": "Count", "Elsewhere": "Count", "Coverage": "Percent"} if swept else {}
    assert found == (
        "TrafficMirror",
        [["FunctionName"]],
        "traffic-mirror",
        dict.fromkeys((*OUTCOMES, "invalid"), "Count") | of_sweeps,
    )


NAMES: dict[str, tuple[object, dict[str, str], str]] = {
    "the context's": (LambdaContext(function_name="mirror-eu"), {}, "mirror-eu"),
    "the environment's, without a context": (
        None,
        {"AWS_LAMBDA_FUNCTION_NAME": "mirror-us"},
        "mirror-us",
    ),
    "the module's, outside of Lambda": (None, {}, "lambda_traffic_mirror"),
}


@pytest.mark.parametrize(("context", "environment", "name"), NAMES.values(), ids=NAMES.keys())
def test_the_name_of_the_function_is(
    metrics: Metrics,
    monkeypatch: pytest.MonkeyPatch,
    context: object,
    environment: dict[str, str],
    name: str,
) -> None:
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    lambda_handler({}, context)
    assert metrics()[0]["FunctionName"] == name


# --- What sweeps add

COVERAGES: dict[str, tuple[Callable[[Scene], object], float | None]] = {
    "all created": (lambda s: [s.created(), s.created()], 100.0),
    "created and there already": (lambda s: [s.created(), s.exists()], 100.0),
    "one of two unmirrored": (lambda s: [s.created(), s.unmirrored()], 50.0),
    "one of three blocked": (lambda s: [s.created(), s.exists(), s.blocked()], 200 / 3),
    "all blocked": (lambda s: [s.blocked()], 0.0),
    "what is skipped does not count": (lambda s: [s.created(), s.skipped(), s.skipped()], 100.0),
    "every interface counts": (lambda s: [s.instance(interfaces=3), s.unmirrored()], 75.0),
    "what failed is not covered": (lambda s: [s.exists(), s.failed()], 50.0),
    "what is only planned is not covered": (lambda s: [s.exists(), s.planned()], 50.0),
    "one of two to somebody else's target": (lambda s: [s.exists(), s.elsewhere()], 50.0),
    "nothing is meant to be mirrored": (lambda s: [s.skipped()], None),
    "no instance": (lambda s: [], None),
}


@pytest.mark.parametrize(("build", "coverage"), COVERAGES.values(), ids=COVERAGES.keys())
def test_a_sweep_adds_the_coverage(
    scene: Scene, metrics: Metrics, build: Callable[[Scene], object], coverage: float | None
) -> None:
    build(scene)
    invoke(scheduled_event())
    assert metrics()[0].get("Coverage") == (coverage and pytest.approx(coverage))


SWEEPS: dict[str, tuple[Callable[[Scene], object], tuple[int, int, bool]]] = {
    "everything is read": (lambda s: [s.created()], (1, 0, True)),
    "an interface is failed": (lambda s: [s.created(), s.failed()], (1, 0, True)),
    "some go to somebody else's target": (
        lambda s: [s.exists(), s.elsewhere(), s.elsewhere()],
        (1, 2, True),
    ),
    "one of ours is created besides another session": (
        lambda s: [s.alongside()],
        (1, 0, True),
    ),
    "sessions cannot be read": (
        lambda s: [s.created(), s.account.fail("DescribeTrafficMirrorSessions")],
        (0, 0, False),
    ),
    "targets cannot be read": (
        lambda s: [s.created(), s.account.fail("DescribeTrafficMirrorTargets")],
        (0, 0, False),
    ),
    "instances cannot be read": (
        lambda s: [s.created(), s.account.fail("DescribeInstances")],
        (0, 0, False),
    ),
}


@pytest.mark.parametrize(("build", "wanted"), SWEEPS.values(), ids=SWEEPS.keys())
def test_a_sweep_says_whether_it_read_everything_and_what_goes_elsewhere(
    scene: Scene,
    metrics: Metrics,
    build: Callable[[Scene], object],
    wanted: tuple[int, int, bool],
) -> None:
    build(scene)
    invoke(scheduled_event())
    document = metrics()[0]
    found = (document["Sweeps"], document["Elsewhere"], "Coverage" in document)
    assert found == wanted


def test_a_sweep_adds_one_line_per_own_target_with_its_sessions(
    scene: Scene, metrics: Metrics
) -> None:
    targets = [scene.account.foreign_sensor(), scene.sensor, scene.closed]
    scene.configure(targets, INCLUDE_TAGS="mirror")
    scene.created()
    invoke(scheduled_event())
    found = [
        (document["FunctionName"], document["TargetId"], values(document))
        for document in metrics()[1:]
    ]
    assert found == [
        ("traffic-mirror", scene.sensor, {"Sessions": 3}),
        ("traffic-mirror", scene.closed, {"Sessions": 0}),
    ]


def test_the_lines_per_target_have_their_dimensions_and_are_valid(
    scene: Scene, metrics: Metrics
) -> None:
    scene.created()
    invoke(scheduled_event())
    found = [
        (document["_aws"]["CloudWatchMetrics"][0]["Dimensions"], violations(document))
        for document in metrics()[1:]
    ]
    assert found == [([["FunctionName", "TargetId"]], [])] * 2


def test_a_sweep_that_is_tried_out_reports_the_sessions_that_there_are(
    scene: Scene, metrics: Metrics
) -> None:
    scene.planned()
    invoke(scheduled_event())
    assert [document["Sessions"] for document in metrics()[1:]] == [2]


def test_an_event_adds_neither(scene: Scene, metrics: Metrics) -> None:
    invoke(running_event(scene.created()))
    (document,) = metrics()
    assert ("Coverage" in document, "Sessions" in document) == (False, False)


def test_a_sweep_that_cannot_count_the_sessions_reports_none(
    scene: Scene, metrics: Metrics
) -> None:
    scene.created()
    scene.account.fail("DescribeTrafficMirrorSessions")
    invoke(scheduled_event())
    (document,) = metrics()
    assert "Sessions" not in document
