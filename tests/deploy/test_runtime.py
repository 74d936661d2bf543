"""The zip in AWS's own runtime client, in a process of its own, against the simulated account.

The process has the unpacked zip, what Lambda provides, and the variables, the log format and the
timeout of deploy/template.yaml. Its calls to EC2 go over HTTP to a server of moto in this process.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
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
# What the console offers as a test event for a new function.
CONSOLE_EVENT = {"key1": "value1", "key2": "value2", "key3": "value3"}


@dataclass
class Surroundings:
    """An account, and what a process needs to work on it."""

    account: SimulatedAccount
    targets: list[str]
    endpoint: str
    task: Path
    provided: Path

    def deployed(self, **parameters: str) -> Runtime:
        """A process with what the template says for these parameters."""
        given = {"FilterId": self.account.filter_id, "Targets": ",".join(self.targets)}
        code = {"CodeBucket": "my-bucket", "CodeKey": "lambda_traffic_mirror.zip"}
        resources = resolve(parameters=code | given | parameters)["Resources"]
        function = resources["Function"]["Properties"]
        assert function["Handler"] == HANDLER
        return Runtime(
            self.task,
            self.provided,
            {**function["Environment"]["Variables"], "AWS_ENDPOINT_URL_EC2": self.endpoint},
            log_format=function["LoggingConfig"]["LogFormat"],
            log_level=function["LoggingConfig"]["ApplicationLogLevel"],
            timeout=float(function["Timeout"]),
        )

    def variables(self) -> dict[str, str]:
        """What an operator sets who works without the template."""
        given = {"filter_id": self.account.filter_id, "targets": " ".join(self.targets)}
        return given | {"AWS_ENDPOINT_URL_EC2": self.endpoint}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    folder = tmp_path_factory.mktemp("lambda")
    task = unpack(folder / "task")
    provided = provide(folder / "provided", (*BOTO3, *RUNTIME_CLIENT))
    with SimulatedAccount() as account:
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        try:
            targets = [account.sensor(zone="a", sessions=1), account.sensor(zone="a")]
            targets.append(account.sensor(zone="b"))
            endpoint = "http://{}:{}".format(*server.get_host_and_port())
            yield Surroundings(account, targets, endpoint, task, provided)
        finally:
            server.stop()


@pytest.fixture(scope="module")
def runtime(world: Surroundings) -> Iterator[Runtime]:
    """One warm environment for most of the tests."""
    with world.deployed() as runtime:
        yield runtime


@pytest.fixture
def account(world: Surroundings) -> Iterator[SimulatedAccount]:
    """The account with its sensors and nothing else; afterwards it is so again."""
    sensors = set(world.account._all_instances())
    world.account.forget_calls()
    yield world.account
    world.account.heal()
    world.account.latency = 0.0
    for instance in set(world.account._all_instances()) - sensors:
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
    assert all(record.keys() >= {"timestamp", "level", "message", "requestId"} for record in found)
    return found


def counts(invocation: Invocation) -> dict[str, int]:
    """The outcomes that the metrics count, zeros left out."""
    document, *_ = invocation.metrics
    assert document["FunctionName"] == FUNCTION_NAME
    return {name: document[name] for name in OUTCOMES if document[name]}


# Events and what comes of them


@pytest.mark.parametrize("file", ["running-event.json", "test-event.json"])
def test_an_event_of_the_guide_makes_a_session_a_record_and_a_metric(
    runtime: Runtime, account: SimulatedAccount, file: str
) -> None:
    instance = account.instance(zone="b")
    (interface,) = account.interfaces_of(instance)
    invocation = runtime.invoke(event_file(file, instance))
    (entry,) = body_of(invocation, 200)["interfaces"]
    (session,) = account.sessions(interface)
    assert entry["outcome"] == "created"
    assert entry["session_id"] == session["TrafficMirrorSessionId"]
    assert session["TrafficMirrorFilterId"] == account.filter_id
    name = f"eh-mirror-{interface[4:8]}{session['TrafficMirrorTargetId'][4:8]}"
    assert session["Tags"] == [{"Key": "Name", "Value": name}]
    (record,) = records(invocation)
    assert record["level"] == "INFO"
    assert record["message"].startswith(f"{interface} of {instance}: created. ")
    # What the entry has can be queried in the log.
    assert {key: record[key] for key in entry} == entry
    assert counts(invocation) == {"created": 1}


def test_the_consoles_default_test_event_is_told_what_it_lacks(
    runtime: Runtime, account: SimulatedAccount
) -> None:
    invocation = runtime.invoke(CONSOLE_EVENT)
    message = body_of(invocation, 400)["message"]
    assert '"instance-id"' in message
    (record,) = records(invocation)
    assert record["level"] == "WARNING"
    assert message in record["message"]
    assert account.count() == 0


def test_a_batch_from_the_queue_never_raises(runtime: Runtime, account: SimulatedAccount) -> None:
    good, bad = account.instance(), account.instance()
    account.refuse(account.first_interface(bad), "UnauthorizedOperation", status=403, times=9)
    event = sqs_event(running_event(good), "not JSON", running_event(bad))
    invocation = runtime.invoke(event)
    _, *again = (record["messageId"] for record in event["Records"])
    assert invocation.result == {"batchItemFailures": [{"itemIdentifier": one} for one in again]}
    assert len(account.sessions(account.first_interface(good))) == 1
    assert [one["level"] for one in records(invocation)] == ["ERROR", "INFO", "ERROR"]
    assert counts(invocation) == {"created": 1, "failed": 1}


# Failures


@pytest.mark.parametrize("denied", ["ec2:DescribeInstances", "ec2:CreateTrafficMirrorSession"])
def test_a_missing_permission_is_raised_and_the_same_environment_works_once_it_is_there(
    runtime: Runtime, account: SimulatedAccount, denied: str
) -> None:
    instance = account.instance()
    account.deny(denied)
    invocation = runtime.invoke(running_event(instance))
    assert invocation.error is not None
    assert invocation.error["errorType"] == "MirroringError"
    message = invocation.error["errorMessage"]
    assert message.startswith("1 failed. ")
    assert set(re.findall(r"ec2:[A-Z]\w+", message)) == {denied}
    (record,) = records(invocation)
    assert (record["level"], record["outcome"]) == ("ERROR", "failed")
    # The runtime client logs the error once more, which is what the console shows.
    (last,) = [one["errorType"] for one in invocation.log if "errorType" in one]
    assert last == "MirroringError"
    account.heal()
    assert body_of(runtime.invoke(running_event(instance)), 200)["summary"] == {"created": 1}


def test_the_time_that_is_left_comes_from_the_runtime_clients_context(
    runtime: Runtime, account: SimulatedAccount
) -> None:
    instance = account.instance()
    account.latency = 2.5
    invocation = runtime.invoke(running_event(instance), timeout=3)
    assert invocation.error is not None
    assert invocation.error["errorType"] == "MirroringError"
    assert [record["outcome"] for record in records(invocation)] == ["deferred"]
    assert account.count("CreateTrafficMirrorSession") == 0


def test_a_variable_that_is_missing_is_named(
    world: Surroundings, account: SimulatedAccount
) -> None:
    variables = world.variables()
    del variables["filter_id"]
    with Runtime(world.task, world.provided, variables) as runtime:
        error = runtime.invoke(running_event(account.instance())).error
        assert error is not None
        assert error["errorType"] == "ConfigurationError"
        assert "filter_id is not set" in error["errorMessage"]
        # What asks for nothing needs no configuration.
        assert body_of(runtime.invoke(CONSOLE_EVENT), 400)["interfaces"] == []


# The environment


def test_the_client_is_made_while_the_module_is_imported(
    world: Surroundings, account: SimulatedAccount, tmp_path: Path
) -> None:
    """Making a client reads botocore's data. Once the first event is asked for, it can go, but for
    a small file that says which calls have pages.

    The log is plain text, as it is for a function that is set up in the console.
    """
    provided = provide(tmp_path / "provided", (*BOTO3, *RUNTIME_CLIENT))
    instance = account.instance()
    with Runtime(world.task, provided, world.variables(), log_format="Text") as runtime:
        runtime.wait_until_ready()
        assert account.count() == 0  # an import asks AWS for nothing
        data = provided / "botocore" / "data"
        pages = Path("ec2/2016-11-15/paginators-1.json")
        kept = (data / pages).read_bytes()
        data.unlink()
        (data / pages).parent.mkdir(parents=True)
        (data / pages).write_bytes(kept)
        invocation = runtime.invoke(running_event(instance))
    (entry,) = body_of(invocation, 200)["interfaces"]
    (line,) = invocation.log
    level, _, _, message = line.rstrip("\n").split("\t")
    assert level == "[INFO]"
    assert message == f"{entry['interface_id']} of {instance}: created. {entry['reason']}"
    assert counts(invocation) == {"created": 1}


def test_what_keeps_the_client_from_being_made_is_told_by_the_first_event(
    world: Surroundings, account: SimulatedAccount
) -> None:
    variables = world.variables() | {"AWS_PROFILE": "missing"}
    with Runtime(world.task, world.provided, variables) as runtime:
        error = runtime.invoke(running_event(account.instance())).error
    assert error is not None
    assert error["errorType"] == "MirroringError"
    assert "ProfileNotFound" in error["errorMessage"]


def test_netaddr_comes_from_the_zip(world: Surroundings, tmp_path: Path) -> None:
    """Nothing else has it, so that without it the import fails, and Lambda is told why."""
    task = unpack(tmp_path / "task")
    shutil.rmtree(task / "netaddr")
    with Runtime(task, world.provided, {}) as runtime:
        error = runtime.init_error()
    assert error["errorType"] == "Runtime.ImportModuleError"
    assert "No module named 'netaddr'" in error["errorMessage"]


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_debug_shows_what_a_sweep_finds_in_order_and_no_secret(
    world: Surroundings, account: SimulatedAccount, level: str
) -> None:
    """botocore and urllib3 would log every request, with its security token."""
    first = account.instance()
    with world.deployed(LogLevel=level) as runtime:
        runtime.wait_until_ready()
        imported = json.dumps(runtime.output())
        log = runtime.invoke(running_event(first)).log
        account.instance()
        sweep = runtime.invoke(scheduled_event())
    logged = {(one["level"], one["outcome"]) for one in records(sweep)}
    in_order = {("DEBUG", "exists"), ("DEBUG", "skipped")}
    assert logged == {("INFO", "created")} | (in_order if level == "DEBUG" else set())
    assert counts(sweep) == {"created": 1, "exists": 1, "skipped": 3}
    assert {record["logger"] for record in (*log, *sweep.log)} == {LOGGER}
    assert not re.search(f"{SECRET_KEY}|{SESSION_TOKEN}", imported + json.dumps(log + sweep.log))
