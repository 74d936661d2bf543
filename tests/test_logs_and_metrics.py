"""What an operator finds in the log, and what CloudWatch makes of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest
from aws import LambdaContext, running_event, scheduled_event, sqs_event
from calls import CREATE, GROUPS, INSTANCES, SESSIONS, TARGETS
from conftest import Clock, Scene, deliver, missing

from lambda_traffic_mirror import lambda_handler

Metrics = Callable[[], list[dict[str, Any]]]

LOGGER = "lambda_traffic_mirror"
OUTCOMES = (
    *("created", "planned", "exists", "skipped"),
    *("unmirrored", "blocked", "failed", "deferred"),
)

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)


class Sources(Scene):
    """An account with a sensor in zone a, and a source for each outcome."""

    def __enter__(self) -> Sources:
        super().__enter__()
        self.open, self.closed = self.sensor(sessions=2), self.sensor(groups=[self.group()])
        # Tags keep a sweep from the sensors themselves.
        self.configure([self.open, self.closed], INCLUDE_TAGS="mirror")
        return self

    def source(self, **kwargs: Any) -> str:
        return self.instance(tags={"mirror": ""}, **kwargs)

    def created(self) -> str:
        return self.source()

    def planned(self) -> str:
        self.configure([self.open], INCLUDE_TAGS="mirror", DRY_RUN="true")
        return self.source()

    def with_session(self, target: str) -> str:
        instance = self.source()
        self.session(self.first_interface(instance), target)
        return instance

    def exists(self) -> str:
        return self.with_session(self.open)

    def elsewhere(self) -> str:
        return self.with_session(self.sensor())

    def alongside(self) -> str:
        variables = {"MIRROR_ALONGSIDE": "true", "SESSION_NUMBER": "2"}
        self.configure([self.open, self.closed], INCLUDE_TAGS="mirror", **variables)
        return self.elsewhere()

    def skipped(self) -> str:
        return self.source(interface_type="trunk")

    def unmirrored(self) -> str:
        return self.source(zone="b")

    def blocked(self) -> str:
        return self.with_session(self.closed)

    def hide_rules(self) -> None:
        """Let AWS show groups without their rules."""
        self.show(GROUPS, lambda found: [g.pop("IpPermissions") for g in found["SecurityGroups"]])

    def failed(self) -> str:
        self.fail(CREATE, "InternalError", status=500)
        return self.source()


@pytest.fixture
def scene(clean_slate: None, clock: Clock) -> Iterator[Sources]:
    with Sources() as scene:
        yield scene


def records(caplog: pytest.LogCaptureFixture, instance: str) -> list[logging.LogRecord]:
    """The records about this instance."""
    return [
        record
        for record in caplog.records
        if record.name == LOGGER and getattr(record, "instance_id", None) == instance
    ]


class TimeIsUp(LambdaContext):
    """No time is left once the security groups are read."""

    def __init__(self, scene: Scene) -> None:
        super().__init__()
        scene.gates.append(self)

    def __call__(self, operation: str, parameters: dict[str, Any]) -> None:
        if operation == GROUPS:
            self._end = 0.0


# --------------------------------------------------------------------------------------
# One record per interface
# --------------------------------------------------------------------------------------

# The level after an event, and after a sweep.
LEVELS = {
    "created": ("INFO", "INFO"),
    "planned": ("INFO", "INFO"),
    "exists": ("INFO", "DEBUG"),
    "skipped": ("INFO", "DEBUG"),
    "unmirrored": ("ERROR", "ERROR"),
    "blocked": (None, "ERROR"),
    "failed": ("ERROR", "ERROR"),
}


@pytest.mark.parametrize("outcome", [o for o, (event, _) in LEVELS.items() if event])
def test_after_an_event_the_record_is_a_sentence_with_the_entry_as_fields(
    scene: Sources, caplog: pytest.LogCaptureFixture, outcome: str
) -> None:
    instance = getattr(scene, outcome)()
    delivery = deliver(running_event(instance))
    (record,) = records(caplog, instance)
    assert (record.levelname, record.outcome) == (LEVELS[outcome][0], outcome)
    if delivery.result:
        entry = delivery.answer.entry
        assert {key: getattr(record, key) for key in entry} == entry
        assert json.loads(json.dumps(record.sensors)) == entry["sensors"]
    message = record.getMessage()
    wanted = [instance, *scene.interfaces_of(instance), outcome, record.reason]
    assert (missing(message, *wanted), message[-1]) == ([], ".")


@pytest.mark.parametrize("outcome", LEVELS)
def test_the_level_after_a_sweep(
    scene: Sources, caplog: pytest.LogCaptureFixture, outcome: str
) -> None:
    instance = getattr(scene, outcome)()
    deliver(scheduled_event())
    (record,) = records(caplog, instance)
    found = (record.levelname, record.outcome, hasattr(record, "sensors"))
    assert found == (LEVELS[outcome][1], outcome, False)  # they would repeat megabytes


def test_what_was_deferred_is_a_warning(scene: Sources, caplog: pytest.LogCaptureFixture) -> None:
    instance = scene.created()
    assert deliver(running_event(instance), TimeIsUp(scene)).error
    found = [(record.levelname, record.outcome) for record in records(caplog, instance)]
    assert found == [("WARNING", "deferred")]


def test_records_reach_the_handlers_of_the_root_logger(
    scene: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a batch, too; and the function hangs none on its own logger."""
    seen: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = seen.append  # type: ignore[method-assign]
    root, logger = logging.getLogger(), logging.getLogger(LOGGER)
    monkeypatch.setattr(root, "handlers", [*root.handlers, handler])
    instance = scene.created()
    deliver(sqs_event(running_event(instance)))
    assert instance in [getattr(record, "instance_id", None) for record in seen]
    assert (logger.propagate, logger.handlers) == (True, [])


# --- Events that cannot be read


def test_what_cannot_be_read_is_a_warning_or_an_error_with_the_messages_id(
    scene: Sources, caplog: pytest.LogCaptureFixture
) -> None:
    event = sqs_event("{")
    deliver({"key1": "value1"})
    deliver(event)
    warning, error = caplog.records
    assert (warning.levelno, error.levelno) == (logging.WARNING, logging.ERROR)
    assert "instance-id" in warning.getMessage()
    assert event["Records"][0]["messageId"] in error.getMessage()


# --------------------------------------------------------------------------------------
# Metrics: CloudWatch's embedded metric format
# --------------------------------------------------------------------------------------


# As https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/
# CloudWatch_Embedded_Metric_Format_Specification.html says, as far as the function uses it.
def members(**properties: object) -> dict[str, object]:
    """An object that has all of these members and no others."""
    rest = {"required": list(properties), "additionalProperties": False}
    return {"type": "object", "properties": properties, **rest}


def some(items: object, most: int) -> dict[str, object]:
    """A list of one or more."""
    return {"type": "array", "items": items, "minItems": 1, "maxItems": most, "uniqueItems": True}


NAME = {"type": "string", "minLength": 1, "maxLength": 1024}
DIRECTIVE = members(
    Namespace={"const": "TrafficMirror"},
    Dimensions=some(some(NAME, 30), 1),
    Metrics=some(members(Name=NAME, Unit={"enum": ["Count", "Percent"]}), 100),
)
METADATA = members(
    Timestamp={"type": "integer", "minimum": 10**12, "maximum": 10**13},  # ms since 1970
    CloudWatchMetrics=some(DIRECTIVE, 1),
)
FORMAT = members(_aws=METADATA) | {"additionalProperties": {"type": ["number", "string"]}}


@pytest.fixture
def metrics(capsys: pytest.CaptureFixture[str]) -> Metrics:
    """The documents printed since the last time of asking: every line is one, and in CloudWatch's
    format."""

    def metrics() -> list[dict[str, Any]]:
        documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        for document in documents:
            jsonschema.validate(document, FORMAT)
            (directive,) = document["_aws"]["CloudWatchMetrics"]
            assert all(type(document[name]) is str for name in directive["Dimensions"][0])
            assert all(type(document[m["Name"]]) in (int, float) for m in directive["Metrics"])
        return documents

    return metrics


def values(document: dict[str, Any]) -> dict[str, float]:
    """The metrics of a document."""
    (directive,) = document["_aws"]["CloudWatchMetrics"]
    return {metric["Name"]: document[metric["Name"]] for metric in directive["Metrics"]}


def counts(**counts: float) -> dict[str, float]:
    return dict.fromkeys((*OUTCOMES, "invalid"), 0) | counts


def tried(event: dict[str, Any]) -> dict[str, Any]:
    return event | {"dry_run": True}


# From the scene to the event, and the metrics.
INVOCATIONS: dict[str, tuple[Callable[[Sources], object], dict[str, float]]] = {
    "created": (lambda s: running_event(s.created()), counts(created=1)),
    "planned": (lambda s: running_event(s.planned()), counts(planned=1)),
    "failed": (lambda s: running_event(s.failed()), counts(failed=1)),
    "several": (
        lambda s: {"instance-ids": [s.created(), s.source(interfaces=2), s.unmirrored()]},
        counts(created=3, unmirrored=1),
    ),
    "a batch": (
        lambda s: sqs_event(running_event(s.created()), running_event(s.exists()), "{"),
        counts(created=1, exists=1, invalid=1),
    ),
    "another state": (lambda s: running_event(s.created(), state="stopped"), counts()),
    "an event that asks for a dry run": (lambda s: tried(running_event(s.created())), counts()),
    "dry runs in a batch": (
        lambda s: sqs_event(tried(running_event(s.created())), running_event(s.created())),
        counts(created=1),
    ),
    "a sweep that asks for a dry run": (lambda s: s.created() and tried({"sweep": True}), counts()),
    "an event that cannot be read": (lambda s: {"key1": "value1"}, counts(invalid=1)),
}


@pytest.mark.parametrize(("event", "wanted"), INVOCATIONS.values(), ids=INVOCATIONS.keys())
def test_an_invocation_prints_one_valid_line_with_every_outcome(
    scene: Sources, metrics: Metrics, event: Callable[[Sources], object], wanted: dict[str, float]
) -> None:
    """And no coverage and no sessions, which sweeps add."""
    deliver(event(scene))
    (document,) = metrics()
    assert values(document) == wanted


@pytest.mark.parametrize("swept", [False, True], ids=["event", "sweep"])
def test_namespace_dimensions_and_units(scene: Sources, metrics: Metrics, swept: bool) -> None:
    instance = scene.created()
    deliver(scheduled_event() if swept else running_event(instance))
    document = metrics()[0]
    (directive,) = document["_aws"]["CloudWatchMetrics"]
    units = {metric["Name"]: metric["Unit"] for metric in directive["Metrics"]}
    counted = (*OUTCOMES, "invalid", *(("Sweeps", "Elsewhere", "Excluded") if swept else ()))
    assert units == dict.fromkeys(counted, "Count") | ({"Coverage": "Percent"} if swept else {})
    assert (directive["Namespace"], directive["Dimensions"]) == (
        "TrafficMirror",
        [["FunctionName"]],
    )
    assert document["FunctionName"] == "traffic-mirror"


NAMES = [
    (LambdaContext(function_name="mirror-eu"), "mirror-us", "mirror-eu"),
    (None, "mirror-us", "mirror-us"),
    (None, "", "lambda_traffic_mirror"),
]


@pytest.mark.parametrize(
    ("context", "environment", "name"),
    NAMES,
    ids=[
        "the context's",
        "the environment's, without a context",
        "the module's, outside of Lambda",
    ],
)
def test_the_name_of_the_function_is(
    metrics: Metrics,
    monkeypatch: pytest.MonkeyPatch,
    context: object,
    environment: str,
    name: str,
) -> None:
    if environment:
        monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", environment)
    lambda_handler({}, context)
    assert metrics()[0]["FunctionName"] == name


# --- What sweeps add

COVERAGES: dict[str, tuple[Callable[[Sources], object], float | None]] = {
    "created and there already": (lambda s: [s.created(), s.exists()], 100.0),
    "one of three blocked": (lambda s: [s.created(), s.exists(), s.blocked()], 200 / 3),
    "all blocked": (lambda s: [s.blocked()], 0.0),
    "what is skipped does not count": (lambda s: [s.created(), s.skipped(), s.skipped()], 100.0),
    "every interface counts": (lambda s: [s.source(interfaces=3), s.unmirrored()], 75.0),
    "what failed is not covered": (lambda s: [s.exists(), s.failed()], 50.0),
    "what is only planned is not covered": (lambda s: [s.exists(), s.planned()], 50.0),
    "one of two to somebody else's target": (lambda s: [s.exists(), s.elsewhere()], 50.0),
    "what could not be checked is covered": (lambda s: [s.exists(), s.hide_rules()], 100.0),
    "nothing is meant to be mirrored": (lambda s: [s.skipped()], None),
}


@pytest.mark.parametrize(("build", "coverage"), COVERAGES.values(), ids=COVERAGES.keys())
def test_a_sweep_adds_the_coverage(
    scene: Sources, metrics: Metrics, build: Callable[[Sources], object], coverage: float | None
) -> None:
    build(scene)
    deliver(scheduled_event())
    assert metrics()[0].get("Coverage") == (coverage and pytest.approx(coverage))


# Sweeps, Elsewhere, Excluded; whether there is a Coverage.
SWEEPS: dict[str, tuple[Callable[[Sources], object], tuple[int, int, int, bool]]] = {
    "everything is read": (lambda s: [s.created()], (1, 0, 2, True)),
    "tags exclude one": (lambda s: [s.created(), s.instance()], (1, 0, 3, True)),
    "an interface is failed": (lambda s: [s.created(), s.failed()], (1, 0, 2, True)),
    "two go to somebody else's target": (
        lambda s: [s.exists(), s.elsewhere(), s.elsewhere()],
        (1, 2, 4, True),  # the others' sensors are excluded, too
    ),
    "one of ours is created besides another session": (lambda s: [s.alongside()], (1, 0, 3, True)),
    "sessions cannot be read": (lambda s: [s.created(), s.fail(SESSIONS)], (0, 0, 2, False)),
    "targets cannot be read": (lambda s: [s.created(), s.fail(TARGETS)], (0, 0, 2, False)),
    "instances cannot be read": (lambda s: [s.created(), s.fail(INSTANCES)], (0, 0, 0, False)),
    "the second page cannot be read": (
        lambda s: [s.created(), s.show_pages_of(5), s.instances(9), s.fail(INSTANCES, after=2)],
        (0, 0, 4, False),
    ),
}


@pytest.mark.parametrize(("build", "wanted"), SWEEPS.values(), ids=SWEEPS.keys())
def test_a_sweep_says_whether_it_read_everything_and_what_goes_elsewhere(
    scene: Sources,
    metrics: Metrics,
    build: Callable[[Sources], object],
    wanted: tuple[int, int, int, bool],
) -> None:
    """The sensors' two instances have no tag, so they are excluded."""
    build(scene)
    deliver(scheduled_event())
    document = metrics()[0]
    found = (document["Sweeps"], document["Elsewhere"], document["Excluded"])
    assert (*found, "Coverage" in document) == wanted


def test_a_sweep_that_stops_in_time_counts_and_gives_no_coverage(
    scene: Sources, metrics: Metrics
) -> None:
    scene.show_pages_of(5)  # two pages, of which one is read
    for _ in range(6):
        scene.exists()
    deliver(scheduled_event(), TimeIsUp(scene))
    document = metrics()[0]
    assert (document["Sweeps"], "Coverage" in document) == (1, False)
    assert document["deferred"] > 0


def test_a_sweep_adds_one_line_per_target_with_its_sessions(
    scene: Sources, metrics: Metrics
) -> None:
    """Not for those that other accounts own, of whose sessions AWS shows only ours."""
    scene.created()
    targets = [scene.open, scene.foreign_sensor(sessions=3), scene.closed]
    scene.configure(targets, INCLUDE_TAGS="mirror")
    deliver(scheduled_event())
    lines = metrics()[1:]
    found = [(line["FunctionName"], line["TargetId"], values(line)) for line in lines]
    assert found == [
        ("traffic-mirror", scene.open, {"Sessions": 3}),
        ("traffic-mirror", scene.closed, {"Sessions": 0}),
    ]
    for line in lines:
        (directive,) = line["_aws"]["CloudWatchMetrics"]
        assert directive["Dimensions"] == [["FunctionName", "TargetId"]]
        assert directive["Metrics"] == [{"Name": "Sessions", "Unit": "Count"}]


def test_with_the_variable_dry_run_a_sweep_counts_and_reports_the_sessions_that_there_are(
    scene: Sources, metrics: Metrics
) -> None:
    scene.planned()
    deliver(scheduled_event())
    first, *lines = metrics()
    assert (first["planned"], first["Sweeps"], [line["Sessions"] for line in lines]) == (1, 1, [2])


def test_a_sweep_that_cannot_count_the_sessions_reports_none(
    scene: Sources, metrics: Metrics
) -> None:
    scene.created()
    scene.fail(SESSIONS)
    deliver(scheduled_event())
    (document,) = metrics()
    assert "Sessions" not in document
