"""The zip in AWS's own runtime client, in a process of its own, against the simulated account.

The process has the unpacked zip, what Lambda provides, and the variables, the log format and the
timeout of deploy/template.yaml. Its calls to EC2 go over HTTP to a server of moto in this process.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aws import SimulatedAccount, running_event, scheduled_event, sqs_event
from cloudformation import DEPLOY, resolve
from moto.server import ThreadedMotoServer
from runtime_api import FUNCTION_NAME, HANDLER, SECRET_KEY, SESSION_TOKEN, Invocation, Runtime
from zip_file import BOTO3, RUNTIME_CLIENT, provide, unpack

from lambda_traffic_mirror import OUTCOMES

LOGGER = "lambda_traffic_mirror"
# An event's record has what the result's entry has.
ENTRY = {"interface_id", "instance_id", "outcome", "reason", "target_id", "session_id"}
CONSOLE_EVENT = {"key1": "value1", "key2": "value2", "key3": "value3"}


@dataclass
class Surroundings:
    """An account, and what a process needs to work on it."""

    account: SimulatedAccount
    targets: list[str]
    endpoint: str
    task: Path
    provided: Path

    def runtime(self, provided: Path | None = None, **parameters: str) -> Runtime:
        """A process with what the template says for these parameters."""
        resolved = resolve(
            parameters={
                "CodeBucket": "my-bucket",
                "CodeKey": "lambda_traffic_mirror.zip",
                "FilterId": self.account.filter_id,
                "Targets": ",".join(self.targets),
                **parameters,
            }
        )
        function = resolved["Resources"]["Function"]["Properties"]
        assert function["Handler"] == HANDLER
        return Runtime(
            self.task,
            provided or self.provided,
            {**function["Environment"]["Variables"], "AWS_ENDPOINT_URL_EC2": self.endpoint},
            log_format=function["LoggingConfig"]["LogFormat"],
            log_level=function["LoggingConfig"]["ApplicationLogLevel"],
            timeout=float(function["Timeout"]),
            execution_env=function["Runtime"],
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    folder = tmp_path_factory.mktemp("lambda")
    task = unpack(folder / "task")
    provided = provide(folder / "provided", (*BOTO3, *RUNTIME_CLIENT))
    with SimulatedAccount() as account:
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        try:
            host, port = server.get_host_and_port()
            targets = [account.sensor(zone="a", sessions=1), account.sensor(zone="a")]
            targets.append(account.sensor(zone="b"))
            yield Surroundings(account, targets, f"http://{host}:{port}", task, provided)
        finally:
            server.stop()


@pytest.fixture(scope="module")
def runtime(world: Surroundings) -> Iterator[Runtime]:
    """One warm environment for most of the tests."""
    with world.runtime() as runtime:
        runtime.wait_until_ready()
        yield runtime
        assert runtime.stderr() == ""


def instances(account: SimulatedAccount) -> set[str]:
    reservations = account.ec2.describe_instances()["Reservations"]
    return {one["InstanceId"] for reservation in reservations for one in reservation["Instances"]}


@pytest.fixture
def account(world: Surroundings) -> Iterator[SimulatedAccount]:
    """The account with its sensors and nothing else; afterwards it is so again."""
    sensors = instances(world.account)
    world.account.forget_calls()
    yield world.account
    world.account.heal()
    world.account.latency = 0.0
    for instance in instances(world.account) - sensors:
        world.account.terminate(instance)


def event_file(name: str, instance_id: str) -> Any:
    """An event of deploy/ with this instance in it."""
    text = (DEPLOY / name).read_text(encoding="utf-8")
    return json.loads(re.sub(r"\bi-[0-9a-f]{17}\b", instance_id, text))


def body_of(invocation: Invocation, status: int) -> dict[str, Any]:
    """The result's body, of an invocation that has one."""
    assert invocation.error is None, invocation.error
    assert set(invocation.result) == {"statusCode", "body"}
    assert invocation.result["statusCode"] == status
    body: dict[str, Any] = json.loads(invocation.result["body"])
    return body


def records(invocation: Invocation) -> list[dict[str, Any]]:
    """The records that the function has logged; in the JSON format each is an object."""
    assert all(isinstance(record, dict) for record in invocation.log), invocation.log
    found = [record for record in invocation.log if record.get("logger") == LOGGER]
    for record in found:
        assert set(record) >= {"timestamp", "level", "message", "requestId"}
    return found


def metrics(invocation: Invocation) -> list[dict[str, Any]]:
    """What was printed: documents in CloudWatch's embedded metric format, and nothing else."""
    documents: list[dict[str, Any]] = [json.loads(line) for line in invocation.printed]
    for document in documents:
        (directive,) = document["_aws"]["CloudWatchMetrics"]
        assert directive["Namespace"] == "TrafficMirror"
        assert document["FunctionName"] == FUNCTION_NAME
        assert {metric["Name"] for metric in directive["Metrics"]} <= document.keys()
    return documents


def counts(invocation: Invocation) -> dict[str, int]:
    """The outcomes that the metrics count, zeros left out."""
    document, *_ = metrics(invocation)
    assert set(document) >= set(OUTCOMES)
    return {name: document[name] for name in OUTCOMES if document[name]}


# Events and what comes of them


def test_the_event_of_the_guide(runtime: Runtime, account: SimulatedAccount) -> None:
    instance = account.instance(zone="b")
    (interface,) = account.interfaces_of(instance)
    invocation = runtime.invoke(event_file("running-event.json", instance))
    body = body_of(invocation, 200)
    (entry,) = body["interfaces"]
    (session,) = account.sessions(interface)
    target = session["TrafficMirrorTargetId"]
    assert entry["outcome"] == "created"
    assert entry["session_id"] == session["TrafficMirrorSessionId"]
    assert session["TrafficMirrorFilterId"] == account.filter_id
    assert session["SessionNumber"] == 1
    name = f"eh-mirror-{interface[4:8]}{target[4:8]}"
    assert session["Tags"] == [{"Key": "Name", "Value": name}]
    assert [sensor["verdict"] for sensor in entry["sensors"]] == ["rejected"] * 2 + ["selected"]

    (record,) = records(invocation)
    assert record["level"] == "INFO"
    assert record["message"].startswith(f"{interface} of {instance}: created. ")
    # What the entry has can be queried in the log.
    assert {key: record[key] for key in ENTRY} == {key: entry[key] for key in ENTRY}
    assert record["session_name"] == name
    assert record["sensors"] == entry["sensors"]
    assert counts(invocation) == {"created": 1}
    assert len(invocation.printed) == 1


def mirrored(account: SimulatedAccount) -> Any:
    instance = account.instance()
    account.session(account.first_interface(instance), "tmt-1")
    return running_event(instance)


def dry_sweep(account: SimulatedAccount) -> Any:
    account.instance(zone="b")
    return json.loads((DEPLOY / "dry-run-sweep.json").read_text(encoding="utf-8"))


# The event; status, outcomes, and the levels of the records.
EVENTS: dict[str, tuple[Callable[[SimulatedAccount], Any], int, dict[str, int], list[str]]] = {
    "the README's test event": (
        lambda account: event_file("test-event.json", account.instance(interfaces=2)),
        *(200, {"created": 2}, ["INFO", "INFO"]),
    ),
    "an instance that is mirrored": (mirrored, 200, {"exists": 1}, ["INFO"]),
    "an instance that no sensor can take": (
        lambda account: running_event(account.instance(zone="c")),
        *(400, {"unmirrored": 1}, ["ERROR"]),
    ),
    "the console's default test event": (lambda _: CONSOLE_EVENT, 400, {}, ["WARNING"]),
    "the dry run of a sweep": (dry_sweep, 200, {"planned": 1, "skipped": 3}, ["INFO"]),
}


@pytest.mark.parametrize("case", EVENTS)
def test_what_comes_of_events(runtime: Runtime, account: SimulatedAccount, case: str) -> None:
    make, status, outcomes, levels = EVENTS[case]
    invocation = runtime.invoke(make(account))
    body = body_of(invocation, status)
    assert body["summary"] == counts(invocation) == outcomes
    assert account.count("CreateTrafficMirrorSession") == outcomes.get("created", 0)
    found = records(invocation)
    assert [record["level"] for record in found] == levels
    if not outcomes:
        assert '"instance-id"' in body["message"]
        assert body["message"] in found[0]["message"]
        assert account.count() == 0
    entries = {entry["interface_id"]: entry for entry in body["interfaces"]}
    for record in found if outcomes else ():
        entry = entries[record["interface_id"]]
        # The JSON format leaves out what is null.
        assert {key: record[key] for key in ENTRY if key in record} == {
            key: entry[key] for key in ENTRY if entry[key] is not None
        }


def test_a_batch_from_the_queue(runtime: Runtime, account: SimulatedAccount) -> None:
    """A batch never raises: only what failed is delivered again."""
    good, bad = account.instance(), account.instance()
    (bad_interface,) = account.interfaces_of(bad)
    account.refuse(bad_interface, "UnauthorizedOperation", status=403, times=9)
    event = sqs_event(running_event(good), "not JSON", running_event(bad))
    invocation = runtime.invoke(event)
    _, unreadable, failed = (record["messageId"] for record in event["Records"])
    assert invocation.error is None
    assert invocation.result == {
        "batchItemFailures": [{"itemIdentifier": unreadable}, {"itemIdentifier": failed}]
    }
    assert len(account.sessions(account.first_interface(good))) == 1
    first, *others = records(invocation)
    assert first["level"] == "ERROR"
    assert unreadable in first["message"]
    assert [(one["level"], one["outcome"]) for one in others] == [
        ("INFO", "created"),
        ("ERROR", "failed"),
    ]
    assert counts(invocation) == {"created": 1, "failed": 1}


def test_a_sweep(runtime: Runtime, world: Surroundings, account: SimulatedAccount) -> None:
    mirrored, forgotten = account.instance(), account.instance()
    out_of_reach = account.instance(zone="c")
    excluded = account.instance(tags={"traffic-mirror": "sensor"})
    runtime.invoke(running_event(mirrored))
    invocation = runtime.invoke(scheduled_event())

    body = body_of(invocation, 400)
    outcomes = {entry["instance_id"]: entry["outcome"] for entry in body["interfaces"]}
    assert outcomes.pop(mirrored) == "exists"
    assert outcomes.pop(forgotten) == "created"
    assert outcomes.pop(out_of_reach) == "unmirrored"
    assert outcomes.pop(excluded) == "skipped"
    assert set(outcomes.values()) == {"skipped"}  # the sensors themselves
    assert body["summary"] == {"unmirrored": 1, "created": 1, "exists": 1, "skipped": 4}
    (interface,) = account.interfaces_of(forgotten)
    assert len(account.sessions(interface)) == 1

    # What is in order is logged at DEBUG, which the level INFO leaves out.
    logged = [(one["level"], one["outcome"], one["instance_id"]) for one in records(invocation)]
    assert sorted(logged) == [
        ("ERROR", "unmirrored", out_of_reach),
        ("INFO", "created", forgotten),
    ]
    assert counts(invocation) == body["summary"]
    document, *per_target = metrics(invocation)
    assert document["Coverage"] == pytest.approx(100 * 2 / 3)
    sessions = {one["TargetId"]: one["Sessions"] for one in per_target}
    assert sessions == {target: len(account.sessions(target_id=target)) for target in world.targets}


# Failures


@pytest.mark.parametrize("denied", ["ec2:DescribeInstances", "ec2:CreateTrafficMirrorSession"])
def test_a_missing_permission(runtime: Runtime, account: SimulatedAccount, denied: str) -> None:
    instance = account.instance()
    account.deny(denied)
    invocation = runtime.invoke(running_event(instance))
    assert invocation.result is None
    assert invocation.error is not None
    assert invocation.error["errorType"] == "MirroringError"
    message = invocation.error["errorMessage"]
    assert message.startswith("1 failed. ")
    assert set(re.findall(r"ec2:[A-Z]\w+", message)) == {denied}
    (record,) = records(invocation)
    assert (record["level"], record["outcome"]) == ("ERROR", "failed")
    assert record["reason"] in message
    assert counts(invocation) == {"failed": 1}
    # The runtime client logs the error once more, which is what the console shows.
    (last,) = [record for record in invocation.log if "errorType" in record]
    assert (last["level"], last["errorType"]) == ("ERROR", "MirroringError")

    # Lambda delivers the event again, to the same environment.
    account.heal()
    assert body_of(runtime.invoke(running_event(instance)), 200)["summary"] == {"created": 1}


def test_time_that_runs_out(runtime: Runtime, account: SimulatedAccount) -> None:
    """The time that is left comes from the runtime client's context."""
    instance = account.instance()
    account.latency = 4.0
    before = time.monotonic()
    invocation = runtime.invoke(running_event(instance), timeout=3)
    assert time.monotonic() - before < 3
    assert invocation.error is not None
    assert invocation.error["errorType"] == "MirroringError"
    assert account.count("CreateTrafficMirrorSession") == 0
    (record,) = records(invocation)
    assert record["outcome"] in ("deferred", "failed")


def test_a_variable_that_is_missing(world: Surroundings, account: SimulatedAccount) -> None:
    variables = {"targets": ",".join(world.targets), "AWS_ENDPOINT_URL_EC2": world.endpoint}
    with Runtime(world.task, world.provided, variables) as runtime:
        for event in (running_event(account.instance()), scheduled_event()):
            invocation = runtime.invoke(event)
            assert invocation.error is not None
            assert invocation.error["errorType"] == "ConfigurationError"
            assert "filter_id is not set" in invocation.error["errorMessage"]
        # What asks for nothing needs no configuration.
        assert body_of(runtime.invoke(CONSOLE_EVENT), 400)["interfaces"] == []
        assert account.count() == 0
        assert runtime.stderr() == ""


# The environment


def test_the_client_is_made_while_the_module_is_imported(
    world: Surroundings, account: SimulatedAccount, tmp_path: Path
) -> None:
    """Making a client reads botocore's data. Once the first event is asked for, it can go.

    The log is plain text, as it is for a function that is set up in the console.
    """
    provided = provide(tmp_path / "provided", (*BOTO3, *RUNTIME_CLIENT))
    instance = account.instance()
    variables = {
        "filter_id": account.filter_id,
        "targets": " ".join(world.targets),
        "AWS_ENDPOINT_URL_EC2": world.endpoint,
    }
    with Runtime(world.task, provided, variables, log_format="Text", log_level=None) as runtime:
        runtime.wait_until_ready()
        assert account.count() == 0  # an import asks AWS for nothing
        (provided / "botocore" / "data").unlink()
        invocation = runtime.invoke(running_event(instance))
        (entry,) = body_of(invocation, 200)["interfaces"]
        assert entry["outcome"] == "created"
        (line,) = invocation.log
        level, _, _, message = line.rstrip("\n").split("\t")
        assert level == "[INFO]"
        assert message == f"{entry['interface_id']} of {instance}: created. {entry['reason']}"
        assert counts(invocation) == {"created": 1}
        assert runtime.stderr() == ""


def test_what_keeps_the_client_from_being_made_is_told_by_the_first_event(
    world: Surroundings, account: SimulatedAccount
) -> None:
    variables = {
        "filter_id": account.filter_id,
        "targets": " ".join(world.targets),
        "AWS_PROFILE": "missing",
    }
    with Runtime(world.task, world.provided, variables) as runtime:
        invocation = runtime.invoke(running_event(account.instance()))
        assert invocation.error is not None
        assert invocation.error["errorType"] == "MirroringError"
        assert "ProfileNotFound" in invocation.error["errorMessage"]


def test_netaddr_comes_from_the_zip(world: Surroundings, tmp_path: Path) -> None:
    """Nothing else has it, so that without it the import fails, and Lambda is told why."""
    task = unpack(tmp_path / "task")
    shutil.rmtree(task / "netaddr")
    with Runtime(task, world.provided, {}) as runtime:
        error = runtime.init_error()
    assert error["errorType"] == "Runtime.ImportModuleError"
    assert "No module named 'netaddr'" in error["errorMessage"]


# The level DEBUG


@pytest.fixture(scope="module")
def debug(world: Surroundings) -> tuple[str, Invocation, Invocation]:
    """With the template's LogLevel at DEBUG: the log of the import, a first event, a sweep."""
    instance = world.account.instance()
    with world.runtime(LogLevel="DEBUG") as runtime:
        runtime.wait_until_ready()
        imported = json.dumps(runtime.log())
        first, sweep = runtime.invoke(running_event(instance)), runtime.invoke(scheduled_event())
    world.account.terminate(instance)
    return imported, first, sweep


def test_debug_shows_what_a_sweep_finds_in_order(debug: tuple[str, Invocation, Invocation]) -> None:
    _, _, sweep = debug
    found = [record for record in records(sweep) if record["level"] == "DEBUG"]
    assert {record["outcome"] for record in found} == {"exists", "skipped"}


def test_debug_shows_no_secret(debug: tuple[str, Invocation, Invocation]) -> None:
    """botocore and urllib3 would log every request, with its security token."""
    imported, first, sweep = debug
    assert "lambda_traffic_mirror" in json.dumps(first.log)
    for text in (imported, json.dumps(first.log), json.dumps(sweep.log)):
        assert SECRET_KEY not in text
        assert SESSION_TOKEN not in text
    assert {record["logger"] for record in (*first.log, *sweep.log)} == {LOGGER}
