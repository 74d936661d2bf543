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
from aws import LambdaContext, SimulatedAccount, running_event

import lambda_traffic_mirror

PROJECT = Path(__file__).resolve().parent.parent
# What deploy/permissions.json allows, and the one permission that is optional.
PERMISSIONS = {"ec2:GetManagedPrefixListEntries"} | set(
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


@pytest.fixture(autouse=True)
def clean_slate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh execution environment: nothing configured, no client, nothing cached."""
    for variable in (*VARIABLES, "AWS_LAMBDA_FUNCTION_NAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(lambda_traffic_mirror, "_client", None)
    monkeypatch.setattr(lambda_traffic_mirror, "_cache", None)


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


def pytest_configure() -> None:
    # botocore and urllib3 log every request; a failing test's output should show ours.
    for name in ("botocore", "boto3", "urllib3", "moto", "werkzeug"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
