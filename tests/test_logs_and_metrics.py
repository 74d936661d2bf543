"""What an operator finds in the log, and what CloudWatch makes of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest
from aws import LambdaContext, running_event, scheduled_event, sqs_event
from calls import CREATE, GROUPS, INSTANCES, SESSIONS, TARGETS, of_interface
from conftest import Clock, Scene, deliver, missing

from lambda_traffic_mirror import lambda_handler

Metrics = Callable[[], list[dict[str, Any]]]

LOGGER = "lambda_traffic_mirror"
OUTCOMES = ["created", "planned", "exists", "skipped"]
OUTCOMES += ["unmirrored", "blocked", "failed", "deferred"]

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
        instance = self.source()
        about = of_interface(self.first_interface(instance))
        self.fail(CREATE, "InternalError", status=500, where=about)
        return instance


@pytest.fixture
def scene(clean_slate: None, clock: Clock) -> Iterator[Sources]:
    with Sources() as scene:
        yield scene


def records(caplog: pytest.LogCaptureFixture, instance: str) -> list[logging.LogRecord]:
    """The records about this instance."""
    return [r for r in caplog.records if getattr(r, "instance_id", None) == instance]


class TimeIsUp(LambdaContext):
    """No time is left once the security groups are read."""

    def __init__(self, scene: Scene) -> None:
        super().__init__()
        scene.gates.append(self)

    def __call__(self, operation: str, parameters: dict[str, Any]) -> None:
        if operation == GROUPS:
            self._end = 0.0


# --- One record per interface


def test_after_an_event_the_record_is_a_sentence_with_the_entry_as_fields(
    scene: Sources, caplog: pytest.LogCaptureFixture
) -> None:
    levels = {"created": "INFO", "exists": "INFO", "skipped": "INFO", "unmirrored": "ERROR"}
    instances = [getattr(scene, outcome)() for outcome in levels]
    entries = scene.run({"instance-ids": instances}).interfaces
    entries += scene.run(tried(running_event(scene.created()))).interfaces
    assert [entry["outcome"] for entry in entries] == [*levels, "planned"]
    for entry in entries:
        (record,) = records(caplog, entry["instance_id"])
        assert record.levelname == levels.get(entry["outcome"], "INFO")
        assert {key: getattr(record, key) for key in entry} == entry
        assert json.loads(json.dumps(record.sensors)) == entry["sensors"]
        message = record.getMessage()
        wanted = (entry[key] for key in ("interface_id", "instance_id", "outcome", "reason"))
        assert (missing(message, *wanted), message[-1]) == ([], ".")


def test_after_a_sweep_what_it_finds_everywhere_is_debug_and_no_record_has_sensors(
    scene: Sources, caplog: pytest.LogCaptureFixture
) -> None:
    """They would repeat megabytes."""
    levels = {"created": "INFO", "exists": "DEBUG", "skipped": "DEBUG"}
    levels |= dict.fromkeys(("unmirrored", "blocked", "failed"), "ERROR")
    instances = [getattr(scene, outcome)() for outcome in levels]
    deliver(scheduled_event())
    found = [record for instance in instances for record in records(caplog, instance)]
    assert [(record.outcome, record.levelname) for record in found] == list(levels.items())
    assert not any(hasattr(record, "sensors") for record in found)


def test_what_was_deferred_is_a_warning(scene: Sources, caplog: pytest.LogCaptureFixture) -> None:
    instance = scene.created()
    assert deliver(running_event(instance), TimeIsUp(scene)).error
    found = [(record.levelname, record.outcome) for record in records(caplog, instance)]
    assert found == [("WARNING", "deferred")]


def test_records_reach_the_handlers_of_the_root_logger_and_no_others() -> None:
    logger = logging.getLogger(LOGGER)
    assert (logger.propagate, logger.handlers) == (True, [])


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


# --- Metrics: CloudWatch's embedded metric format


# As https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/
# CloudWatch_Embedded_Metric_Format_Specification.html says, as far as the function uses it.
def members(**properties: object) -> dict[str, object]:
    """An object that has all of these members and no others."""
    rest = {"required": list(properties), "additionalProperties": False}
    return {"type": "object", "properties": properties, **rest}


def some(items: object, most: int) -> dict[str, object]:
    """A list of one or more."""
    return {"type": "array", "items": items, "minItems": 1, "maxItems": most, "uniqueItems": True}


# Each metric and its unit; the dimensions, of which those of a target have metrics of their own.
COUNTS = [*OUTCOMES, "invalid", "Sweeps", "Elsewhere", "Excluded", "Sessions"]
METRIC = [
    members(Name={"enum": COUNTS}, Unit={"const": "Count"}),
    members(Name={"const": "Coverage"}, Unit={"const": "Percent"}),
]
DIMENSIONS = [[["FunctionName"]], [["FunctionName", "TargetId"]]]
DIRECTIVE = members(
    Namespace={"const": "TrafficMirror"},
    Dimensions={"enum": DIMENSIONS},
    Metrics=some({"oneOf": METRIC}, 100),
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
    "a batch": (
        lambda s: sqs_event(running_event(s.created()), running_event(s.exists()), "{", "?"),
        counts(created=1, exists=1, invalid=2),
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


def test_the_functions_name_is_the_contexts_or_the_environments_or_outside_of_lambda_the_modules(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    lambda_handler({}, None)
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "mirror-us")
    lambda_handler({}, None)
    lambda_handler({}, LambdaContext(function_name="mirror-eu"))
    names = [document["FunctionName"] for document in metrics()]
    assert names == ["lambda_traffic_mirror", "mirror-us", "mirror-eu"]


# --- What sweeps add


def swept(
    coverage: float | None, sweeps: int = 1, elsewhere: int = 0, excluded: int = 2, targets: int = 2
) -> tuple[dict[str, float], int]:
    """What a sweep adds, and for how many targets there is a line. The sensors' two instances have
    no tag, so they are excluded."""
    found: dict[str, float] = {"Sweeps": sweeps, "Elsewhere": elsewhere, "Excluded": excluded}
    return found | ({} if coverage is None else {"Coverage": pytest.approx(coverage)}), targets


UNREAD = swept(None, sweeps=0, targets=0)
SWEEPS: dict[str, tuple[Callable[[Sources], object], tuple[dict[str, float], int]]] = {
    "one of three blocked": (lambda s: [s.created(), s.exists(), s.blocked()], swept(200 / 3)),
    "all blocked": (lambda s: [s.blocked()], swept(0)),
    "what is skipped does not count": (lambda s: [s.created(), s.skipped()], swept(100)),
    "every interface counts": (lambda s: [s.source(interfaces=3), s.unmirrored()], swept(75)),
    "what failed is not covered": (lambda s: [s.exists(), s.failed()], swept(50)),
    "what is only planned is not": (lambda s: [s.exists(), s.planned()], swept(50, targets=1)),
    "two of three to somebody else's target": (  # whose sensors are excluded, too
        lambda s: [s.exists(), s.elsewhere(), s.elsewhere()],
        swept(100 / 3, elsewhere=2, excluded=4),
    ),
    "one of ours besides another session": (lambda s: [s.alongside()], swept(100, excluded=3)),
    "what could not be checked is covered": (lambda s: [s.exists(), s.hide_rules()], swept(100)),
    "an instance without an interface counts for nothing": (
        lambda s: [s.exists(), s.delete_interface(s.first_interface(s.source()))],
        swept(100),
    ),
    "nothing is meant to be mirrored": (lambda s: [s.skipped()], swept(None)),
    "sessions cannot be read": (lambda s: [s.created(), s.fail(SESSIONS)], UNREAD),
    "targets cannot be read": (lambda s: [s.created(), s.fail(TARGETS)], UNREAD),
    "instances cannot be read": (
        lambda s: [s.created(), s.fail(INSTANCES)],
        swept(None, sweeps=0, excluded=0),
    ),
    "the second page cannot be read": (
        lambda s: [s.created(), s.show_pages_of(5), s.instances(9), s.fail(INSTANCES, after=2)],
        swept(None, sweeps=0, excluded=4),
    ),
}


@pytest.mark.parametrize(("build", "wanted"), SWEEPS.values(), ids=SWEEPS)
def test_a_sweep_adds_coverage_elsewhere_excluded_and_whether_it_read_everything(
    scene: Sources,
    metrics: Metrics,
    build: Callable[[Sources], object],
    wanted: tuple[dict[str, float], int],
) -> None:
    build(scene)
    deliver(scheduled_event())
    document, *lines = metrics()
    found = values(document)
    assert ({name: found.pop(name) for name in wanted[0]}, len(lines)) == wanted
    assert set(found) == {*OUTCOMES, "invalid"}


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
    """Not for those that other accounts own, of whose sessions AWS shows only ours. Rows that come
    twice count once."""
    rows = "TrafficMirrorSessions"
    scene.show(SESSIONS, lambda found: found[rows].extend(found[rows]))
    targets = [scene.open, scene.foreign_sensor(sessions=3), scene.closed]
    for dry_run in ("false", "true"):  # with the variable, what is only planned does not count
        scene.created()
        scene.configure(targets, INCLUDE_TAGS="mirror", DRY_RUN=dry_run)
        deliver(scheduled_event())
        found = [(line["FunctionName"], line["TargetId"], values(line)) for line in metrics()[1:]]
        assert found == [
            ("traffic-mirror", scene.open, {"Sessions": 3}),
            ("traffic-mirror", scene.closed, {"Sessions": 0}),
        ]
