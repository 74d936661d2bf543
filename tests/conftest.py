"""What the tests share: a simulated account, the function with a clean slate, a way to run it."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from aws import LambdaContext, SimulatedAccount, rule, running_event, scheduled_event, sqs_event

import lambda_traffic_mirror

PROJECT = Path(__file__).resolve().parent.parent
# What deploy/permissions.json allows, and the one permission that is optional.
PERMISSIONS = {"ec2:GetManagedPrefixListEntries", "ec2:DescribeRouteTables"} | set(
    re.findall(r"ec2:\w+", (PROJECT / "deploy" / "permissions.json").read_text(encoding="utf-8"))
)
VARIABLES = (
    "filter_id",
    "targets",
    "LOCAL_ZONE_ONLY",
    "LOCAL_VPC_ONLY",
    "INCLUDE_TAGS",
    "EXCLUDE_TAGS",
    "SESSION_NUMBER",
    "VIRTUAL_NETWORK_ID",
    "PACKET_LENGTH",
    "ALLOW_UNVERIFIED",
    "CACHE_SECONDS",
    "DRY_RUN",
)


@pytest.fixture(scope="session", autouse=True)
def children_are_not_covered() -> None:
    """A process that a test starts may run anywhere, and would leave its measurements there."""
    os.environ.pop("COVERAGE_PROCESS_START", None)


@pytest.fixture(autouse=True)
def clean_slate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh execution environment: nothing configured, no client, nothing cached."""
    for variable in (*VARIABLES, "AWS_LAMBDA_FUNCTION_NAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(lambda_traffic_mirror, "_client", None)
    monkeypatch.setattr(lambda_traffic_mirror, "_cache", None)
    for kept in ("_clients", "_credentials", "_unsupported"):
        monkeypatch.setattr(lambda_traffic_mirror, kept, {})


@pytest.fixture
def account(clean_slate: None) -> Iterator[SimulatedAccount]:
    """A simulated AWS account, in memory."""
    with SimulatedAccount() as account:
        account.gates.append(permitted)
        yield account


def permitted(operation: str, parameters: Any) -> None:
    """Whatever a test does, the function calls nothing that its role would not allow."""
    assert f"ec2:{operation}" in PERMISSIONS, f"{operation} is not in the role's policy"


@cache
def one_client() -> Any:
    """A client for all tests that need no fresh one: making it takes longer than a test. It does
    not try again, since what one test throttles must not slow down the next."""
    return SimulatedAccount().client(retries={"total_max_attempts": 1})


@pytest.fixture
def shared_client(account: SimulatedAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    """The execution environment is warm: its client is there."""
    monkeypatch.setattr(lambda_traffic_mirror, "_client", one_client())


@dataclass
class Sleeps:
    """The seconds that the function and botocore would have slept."""

    seconds: list[float] = field(default_factory=list)

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def no_sleep(monkeypatch: pytest.MonkeyPatch) -> Sleeps:
    """Nobody sleeps: not the function between two looks, not botocore between two attempts."""
    sleeps = Sleeps()
    monkeypatch.setattr("time.sleep", sleeps)
    return sleeps


@cache
def retrying_client() -> Any:
    """The function's own client, for all tests of retries: making one takes longer than a test."""
    return lambda_traffic_mirror.ec2_client()


@pytest.fixture
def quick(account: SimulatedAccount, no_sleep: Sleeps, monkeypatch: pytest.MonkeyPatch) -> Sleeps:
    """Nobody waits: not for a client, not for a pace that throttling sets. And what one test has
    used up of botocore's allowance of retries is not missing in the next."""
    monkeypatch.setattr(lambda_traffic_mirror, "_client", retrying_client())
    for bucket in ("bucket.TokenBucket", "quota.RetryQuota"):
        monkeypatch.setattr(f"botocore.retries.{bucket}.acquire", lambda *_, **__: True)
    return no_sleep


class Clock:
    """Seconds that pass only when somebody says so."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        with self.lock:
            self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that sleeping moves on."""
    clock = Clock()
    monkeypatch.setattr("time.sleep", clock.advance)
    return clock


@pytest.fixture
def sensor(account: SimulatedAccount, configure: Callable[..., None]) -> str:
    """The only sensor, in a subnet of its own. It can take everything there is."""
    target = account.sensor(account.subnet(), quota=100_000)
    configure(target)
    return target


@dataclass
class Answer:
    """A result of the handler, taken apart."""

    status: int
    body: dict[str, Any]

    @property
    def interfaces(self) -> list[dict[str, Any]]:
        return self.body["interfaces"]

    @property
    def outcomes(self) -> list[str]:
        return [entry["outcome"] for entry in self.interfaces]

    @property
    def entry(self) -> dict[str, Any]:
        """The only interface's entry."""
        (entry,) = self.interfaces
        return entry

    @property
    def sensors(self) -> dict[str, dict[str, Any]]:
        """The only interface's sensors, by target ID."""
        return {sensor["target_id"]: sensor for sensor in self.entry["sensors"]}


def answer_of(result: dict[str, Any]) -> Answer:
    assert set(result) == {"statusCode", "body"}
    return Answer(result["statusCode"], json.loads(result["body"]))


Run = Callable[..., Answer]
Configure = Callable[..., None]
Build = Callable[[SimulatedAccount], Any]


def stages(answer: Answer) -> list[str | None]:
    """Where each sensor fell, in configured order; the verdict in brackets where it did not."""
    return [sensor["stage"] or f"({sensor['verdict']})" for sensor in answer.entry["sensors"]]


def missing(text: str, *words: str) -> list[str]:
    """The words that the text leaves out."""
    return [word for word in words if word not in text]


def interface_view(account: SimulatedAccount, interface_id: str) -> dict[str, Any]:
    (view,) = account.ec2.describe_network_interfaces(NetworkInterfaceIds=[interface_id])[
        "NetworkInterfaces"
    ]
    return dict(view)


@pytest.fixture
def configure(account: SimulatedAccount, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set environment variables: `configure(targets, LOCAL_ZONE_ONLY="false")`."""

    def configure(targets: str | Sequence[str] = (), **variables: str) -> None:
        targets = [targets] if isinstance(targets, str) else targets
        monkeypatch.setenv("filter_id", account.filter_id)
        monkeypatch.setenv("targets", ", ".join(targets))
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return configure


@pytest.fixture
def run(account: SimulatedAccount) -> Run:
    """Run the handler: for an instance ID with EventBridge's event, else with the event given."""

    def run(event: object, context: object = None) -> Answer:
        if isinstance(event, str):
            event = running_event(event)
        context = LambdaContext() if context is None else context
        return answer_of(lambda_traffic_mirror.lambda_handler(event, context))

    return run


@dataclass
class Delivery:
    """What became of one event: the entries that the result lists, the names in the error, or the
    SQS messages that are to be delivered again."""

    answer: Answer | None = None
    error: str = ""
    again: Sequence[int] | None = None


def deliver(event: dict[str, Any], context: object = None) -> Delivery:
    """Deliver an event as Lambda does."""
    try:
        result = lambda_traffic_mirror.lambda_handler(event, context or LambdaContext())
    except lambda_traffic_mirror.MirroringError as error:
        return Delivery(error=str(error))
    if "Records" not in event:
        return Delivery(answer_of(result))
    assert set(result) == {"batchItemFailures"}
    ids = [record["messageId"] for record in event["Records"]]
    failures = result["batchItemFailures"]
    assert all(set(failure) == {"itemIdentifier"} for failure in failures)
    return Delivery(again=[ids.index(failure["itemIdentifier"]) for failure in failures])


def sessions_by_interface(account: SimulatedAccount, instance_ids: Sequence[str]) -> list[int]:
    """How many sessions each interface of these instances has."""
    interfaces = [key for instance in instance_ids for key in account.interfaces_of(instance)]
    return [len(account.sessions(interface_id=key)) for key in interfaces]


KINDS: dict[str, Callable[[Sequence[str]], dict[str, Any]]] = {
    "instance-ids": lambda instances: {"id": "an-event", "instance-ids": list(instances)},
    "SQS batch": lambda instances: sqs_event(*map(running_event, instances)),
    "sweep": lambda instances: scheduled_event(),
}


@pytest.fixture
def every_call(account: SimulatedAccount, configure: Callable[..., None]) -> str:
    """A sensor that only an ACL and a prefix list let in: mirroring takes every call there is.

    The target's ID.
    """
    prefix_list = account.prefix_list("10.0.0.0/8")
    group = account.group(rule(prefix_list=prefix_list))
    sensor = account.sensor(account.subnet(), [group], quota=1_000)
    configure(sensor)
    return sensor


def pytest_configure() -> None:
    # botocore and urllib3 log every request; a failing test's output should show ours.
    for name in ("botocore", "boto3", "urllib3", "moto", "werkzeug"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
