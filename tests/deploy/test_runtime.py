"""The zip in AWS's own runtime client, in a process of its own, against the simulated account.

The process has the unpacked zip, what Lambda provides, and the variables, the log format and the
timeout of deploy/template.yaml. Its calls to EC2 go over HTTP to a server of moto in this process.
The client, awslambdaric, asks Lambda's Runtime API for the next event and posts what comes of it;
here is that API as far as the client uses it.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aws import SimulatedAccount, running_event, scheduled_event
from cloudformation import DEPLOY, stack
from moto.server import ThreadedMotoServer
from zip_file import built_zip

from lambda_traffic_mirror import OUTCOMES

# What the Lambda runtime has: boto3 and what it depends on, and the client of the Runtime API.
PROVIDED = (
    *("boto3", "botocore", "dateutil", "jmespath", "s3transfer", "six", "urllib3"),
    *("awslambdaric", "runtime_client", "simplejson", "snapshot_restore_py"),
)
SECRETS = {"AWS_SECRET_ACCESS_KEY": "the-secret-key", "AWS_SESSION_TOKEN": "the-session-token"}
FUNCTION_ARN = "arn:aws:lambda:us-east-1:123456789012:function:traffic-mirror"


class RuntimeApi(BaseHTTPRequestHandler):
    """Hands out the server's `event`, and keeps what is said of it."""

    server: Any

    def log_message(self, *arguments: object) -> None:
        """Stay quiet."""

    def do_GET(self) -> None:
        headers, event = self.server.event
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(json.dumps(event).encode())

    def do_POST(self) -> None:
        said = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.said = self.path.split("/")[-1], json.loads(said)
        self.send_response(202)
        self.end_headers()


class Runtime:
    """An execution environment of a function, given by its properties in the template."""

    def __init__(
        self, folder: Path, function: dict[str, Any], endpoint: str, account: SimulatedAccount
    ) -> None:
        task, provided, self.written = (folder / name for name in ("task", "provided", "written"))
        shutil.unpack_archive(built_zip(), task)
        provided.mkdir()
        for module in PROVIDED:
            origin = Path(str(importlib.import_module(module).__file__))
            origin = origin.parent if origin.name == "__init__.py" else origin
            (provided / origin.name).symlink_to(origin)
        self.account, self.seconds, self.numbers = account, float(function["Timeout"]), count(1)
        self.api: Any = HTTPServer(("127.0.0.1", 0), RuntimeApi)
        self.api.timeout = 60
        logging = function["LoggingConfig"]
        environment = SECRETS | {
            "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
            # Lambda has no such files.
            **dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), os.devnull),
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_EC2": endpoint,
            "AWS_LAMBDA_FUNCTION_NAME": FUNCTION_ARN.rpartition(":")[2],
            "AWS_LAMBDA_LOG_FORMAT": logging["LogFormat"],
            "AWS_LAMBDA_LOG_LEVEL": logging["ApplicationLogLevel"],
            "AWS_LAMBDA_RUNTIME_API": "{}:{}".format(*self.api.server_address),
            "LAMBDA_TASK_ROOT": str(task),
            # The client adds the working folder, which is the function's, and Python its library.
            "PYTHONPATH": str(provided),
        }
        # A file, not a pipe: nothing has to empty it while the process runs.
        with self.written.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-S", "-m", "awslambdaric", function["Handler"]],
                cwd=task,
                env=environment | function["Environment"]["Variables"],
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def invoke(self, event: Any, seconds: float = 0) -> SimpleNamespace:
        """What comes of an event: `result` (`errorType` and `errorMessage` after an error) and its
        body; `log`: its records, those of the client included; `levels`: level and outcome of each
        of the function; `counts`: the outcomes that its metrics count, zeros left out.
        """
        name, before = f"request-{next(self.numbers)}", self.written.stat().st_size
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": name,
            "Lambda-Runtime-Deadline-Ms": f"{1000 * (time.time() + (seconds or self.seconds)):.0f}",
            "Lambda-Runtime-Invoked-Function-Arn": FUNCTION_ARN,
        }
        self.api.event, self.api.said = (headers, event), ("nothing", {})
        for _ in range(2):  # the client asks for an event, and says what came of it
            self.api.handle_request()
        kind, result = self.api.said
        # The answer is the last thing that the process sends, so its output is complete.
        text = self.written.read_bytes()[before:].decode()
        assert kind in {"response", "error"}, text
        # What is no record would stand out here.
        written = [json.loads(line) for line in text.splitlines() if line.strip()]
        metrics = next(one for one in written if "_aws" in one)
        counts = {key: metrics[key] for key in OUTCOMES if metrics[key]}
        log = [one for one in written if one.get("requestId") == name]
        ours = [one for one in log if one.get("logger") == "lambda_traffic_mirror"]
        levels = [(one["level"], one.get("outcome")) for one in ours]
        body = json.loads(result.get("body", "{}"))
        return SimpleNamespace(result=result, body=body, log=log, levels=levels, counts=counts)


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    """An account with three sensors, and one environment that works on it."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    with SimulatedAccount() as account:
        server.start()
        targets = [account.sensor(sessions=1), account.sensor(), account.sensor(zone="b")]
        made = stack(Targets=",".join(targets), FilterId=account.filter_id, LogLevel="DEBUG")
        function = made["Resources"]["Function"]["Properties"]
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        runtime = Runtime(tmp_path_factory.mktemp("lambda"), function, endpoint, account)
        yield runtime
        runtime.process.kill()
        runtime.process.wait()
        runtime.api.server_close()
        server.stop()


@pytest.fixture
def runtime(warm: Runtime) -> Iterator[Runtime]:
    """The account has its sensors and nothing else; afterwards it is so again."""
    account, sensors = warm.account, set(warm.account._all_instances())
    account.forget_calls()
    yield warm
    account.heal()
    account.latency = 0.0
    for instance in set(account._all_instances()) - sensors:
        account.terminate(instance)


@pytest.mark.parametrize("file", ["running-event.json", "test-event.json"])
def test_an_event_of_the_guide_makes_a_session_a_record_and_a_metric(
    runtime: Runtime, file: str
) -> None:
    account = runtime.account
    instance = account.instance(zone="b")
    (interface,) = account.interfaces_of(instance)
    text = (DEPLOY / file).read_text(encoding="utf-8")
    invocation = runtime.invoke(json.loads(re.sub(r"\bi-[0-9a-f]{17}\b", instance, text)))
    assert invocation.result.keys() == {"statusCode", "body"}
    (entry,) = invocation.body["interfaces"]
    (session,) = account.sessions(interface)
    assert entry["session_id"] == session["TrafficMirrorSessionId"]
    assert invocation.levels == [("INFO", "created")]
    (record,) = invocation.log
    # What the entry has can be queried in the log.
    assert {key: record[key] for key in entry} == entry
    assert invocation.counts == {"created": 1}


def test_a_missing_permission_is_raised_and_the_same_environment_works_once_it_is_there(
    runtime: Runtime,
) -> None:
    instance = runtime.account.instance()
    runtime.account.deny("ec2:CreateTrafficMirrorSession")
    invocation = runtime.invoke(running_event(instance))
    assert invocation.result["errorType"] == "MirroringError"
    assert invocation.result["errorMessage"].startswith("1 failed. ")
    assert "ec2:CreateTrafficMirrorSession" in invocation.result["errorMessage"]
    assert invocation.levels == [("ERROR", "failed")]
    # The client logs the error once more, which is what the console shows.
    assert [one["errorType"] for one in invocation.log if "errorType" in one] == ["MirroringError"]
    runtime.account.heal()
    assert runtime.invoke(running_event(instance)).body["summary"] == {"created": 1}


def test_the_time_that_is_left_comes_from_the_runtime_clients_context(runtime: Runtime) -> None:
    runtime.account.latency = 1.5
    invocation = runtime.invoke(running_event(runtime.account.instance()), seconds=1.8)
    assert invocation.result["errorType"] == "MirroringError"
    assert invocation.levels == [("WARNING", "deferred")]
    assert runtime.account.count("CreateTrafficMirrorSession") == 0


def test_debug_shows_what_a_sweep_finds_in_order_and_no_secret(runtime: Runtime) -> None:
    """botocore and urllib3 would log every request, with its security token."""
    runtime.invoke(running_event(runtime.account.instance()))
    runtime.account.instance()
    sweep = runtime.invoke(scheduled_event())
    in_order = {("DEBUG", "exists"), ("DEBUG", "skipped")}
    assert set(sweep.levels) == {("INFO", "created")} | in_order
    assert sweep.counts == {"created": 1, "exists": 1, "skipped": 3}
    assert {record["logger"] for record in sweep.log} == {"lambda_traffic_mirror"}
    everything = runtime.written.read_text(encoding="utf-8")
    assert not any(secret in everything for secret in SECRETS.values())
