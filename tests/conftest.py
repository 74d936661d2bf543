"""What the tests share: a scene with the function in it, a clock and a client for everybody."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any
from unittest.mock import patch

import botocore.endpoint
import botocore.hooks
import moto.core.models
import pytest
from aws import LambdaContext, SimulatedAccount, rule, running_event, scheduled_event, sqs_event
from botocore.client import BaseClient, ClientCreator
from calls import PERMISSIONS
from measured import measure

import lambda_traffic_mirror

measure(lambda_traffic_mirror)

VARIABLES = (
    *("filter_id", "targets", "SENSOR_ROLE_ARNS", "LOCAL_ZONE_ONLY", "LOCAL_VPC_ONLY"),
    *("INCLUDE_TAGS", "EXCLUDE_TAGS", "FILTER_TAG", "TARGETS_TAG", "MIRROR_DATABASES"),
    *("SESSION_NUMBER", "VIRTUAL_NETWORK_ID", "PACKET_LENGTH", "SESSION_TAGS"),
    *("MIRROR_ALONGSIDE", "ALLOW_UNVERIFIED", "CACHE_SECONDS", "DRY_RUN"),
)

# Nobody here uses the requests library, and moto prepares thousands of answers to it for each test.
moto.core.models.RESPONSES_METHODS.clear()
# Whose session it is does not matter to what botocore makes and looks at again for each client.
botocore.hooks.accepts_kwargs = lru_cache(1000)(botocore.hooks.accepts_kwargs)
make_class, classes = ClientCreator._create_client_class, {}


def kept_class(creator: ClientCreator, service: str, *model: Any) -> type:
    classes[service] = classes.get(service) or make_class(creator, service, *model)
    return classes[service]


ClientCreator._create_client_class = kept_class


def pytest_configure() -> None:
    # botocore and urllib3 log every request; a failing test's output should show ours.
    for name in ("botocore", "boto3", "urllib3", "moto", "werkzeug"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")


# --- What comes out


@dataclass
class Answer:
    """A result of the handler, taken apart."""

    status: int
    body: dict[str, Any]

    @property
    def interfaces(self) -> list[dict[str, Any]]:
        return self.body["interfaces"]

    @property
    def summary(self) -> dict[str, int]:
        return self.body["summary"]

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

    @property
    def stages(self) -> list[str | None]:
        """Where each of its sensors fell, in order; in brackets the verdict where it did not."""
        return [sensor["stage"] or f"({sensor['verdict']})" for sensor in self.entry["sensors"]]

    def of(self, instance_id: str) -> dict[str, Any]:
        """The entry of an instance with one interface."""
        (entry,) = (entry for entry in self.interfaces if entry["instance_id"] == instance_id)
        return entry


def answer_of(result: dict[str, Any]) -> Answer:
    assert set(result) == {"statusCode", "body"}
    return Answer(result["statusCode"], json.loads(result["body"]))


@dataclass
class Delivery:
    """One event, delivered as Lambda does, and what came of it: a result or an error."""

    event: Any
    context: object = field(default_factory=LambdaContext)
    result: dict[str, Any] | None = None
    error: str = ""

    @property
    def answer(self) -> Answer:
        assert self.result, self.error
        return answer_of(self.result)

    @property
    def again(self) -> list[int]:
        """The positions of the SQS messages that are to be delivered again."""
        assert self.result, self.error
        assert json.loads(json.dumps(self.result)) == self.result
        assert set(self.result) == {"batchItemFailures"}
        failures = self.result["batchItemFailures"]
        assert all(set(failure) == {"itemIdentifier"} for failure in failures)
        named = [failure["itemIdentifier"] for failure in failures]
        assert len(set(named)) == len(named)
        ids = [record["messageId"] for record in self.event["Records"]]
        return sorted(map(ids.index, named))

    @property
    def complete(self) -> bool:
        """Whether Lambda has nothing to deliver again."""
        return not (self.error or ("Records" in self.event and self.again))

    def deliver(self) -> Delivery:
        try:
            self.result = lambda_traffic_mirror.lambda_handler(self.event, self.context)
        except lambda_traffic_mirror.MirroringError as error:
            self.error = str(error)
        return self


def deliver(event: object, context: object = None) -> Delivery:
    """Deliver an event as Lambda does."""
    return Delivery(event, context or LambdaContext()).deliver()


def error_of(event: object) -> str:
    """What the handler raises: for an instance ID with EventBridge's event, else with that."""
    error = deliver(running_event(event) if isinstance(event, str) else event).error
    assert error
    return error


def missing(text: str, *words: str) -> list[str]:
    """The words that the text leaves out."""
    return [word for word in words if word not in text]


# --- The scene


class Scene(SimulatedAccount):
    """A simulated account with the function in it."""

    def __init__(self) -> None:
        super().__init__()
        self.gates.append(permitted)
        self.targets: Sequence[str] = ()

    def configure(self, targets: str | Sequence[str] = (), **variables: str) -> None:
        """Set environment variables: `configure(targets, LOCAL_ZONE_ONLY="false")`."""
        self.targets = [targets] if isinstance(targets, str) else targets
        required = {"filter_id": self.filter_id, "targets": ", ".join(self.targets)}
        os.environ.update(required | variables)

    def run(self, event: object, context: object = None) -> Answer:
        """Run the handler: for an instance ID with EventBridge's event, else with that event."""
        if isinstance(event, str):
            event = running_event(event)
        return answer_of(lambda_traffic_mirror.lambda_handler(event, context or LambdaContext()))

    def sessions_of(self, *instance_ids: str) -> list[int]:
        """How many sessions each interface of these instances has."""
        counts = Counter(session["NetworkInterfaceId"] for session in self.sessions())
        return [counts[key] for instance in instance_ids for key in self.interfaces_of(instance)]

    def mirrored(self, target_id: str, count: int = 1) -> list[str]:
        """Instances whose interface has a session to the target."""
        instances = self.instances(count)
        for instance in instances:
            self.session(self.first_interface(instance), target_id)
        return instances

    def take_time(self, clock: Clock, seconds: float, *calls: str) -> None:
        """Let each of these calls, or every call, take so long on this clock."""
        self.gates.append(lambda call, _: clock.advance(seconds * (not calls or call in calls)))

    def interface_view(self, interface_id: str) -> dict[str, Any]:
        """What EC2 shows of an interface."""
        asked = {"NetworkInterfaceIds": [interface_id]}
        return self.ec2.describe_network_interfaces(**asked)["NetworkInterfaces"][0]

    def show(self, operation: str, change: Callable[[dict[str, Any]], Any]) -> None:
        """Let AWS show the function something else: `change` is handed each answer."""
        ask = BaseClient._make_api_call

        def called(client: Any, name: str, parameters: Any) -> Any:
            found = ask(client, name, parameters)
            if name == operation and client is not self.ec2:
                change(found)
            return found

        self._stack.enter_context(patch.object(BaseClient, "_make_api_call", called))

    def page_instead(self, operation: str, status: int, page: bytes) -> None:
        """Whatever AWS answers to the function, this page arrives instead."""
        read = botocore.endpoint.convert_to_response_dict

        def replaced(response: Any, operation_model: Any) -> Any:
            if operation_model.name != operation:
                return read(response, operation_model)
            response.status_code = status
            return {"status_code": status, "headers": {}, "body": page, "context": {}}

        self._stack.enter_context(patch("botocore.endpoint.convert_to_response_dict", replaced))


def permitted(operation: str, parameters: Any) -> None:
    """Whatever a test does, the function calls nothing that its role would not allow."""
    permission = operation if ":" in operation else f"ec2:{operation}"
    if permission not in PERMISSIONS:
        pytest.fail(f"{permission} is not in the role's policy")  # which no handler of errors stops


Build = Callable[[Scene], Any]


@pytest.fixture(scope="session", autouse=True)
def children_are_not_covered() -> None:
    """A process that a test starts may run anywhere, and would leave its measurements there."""
    os.environ.pop("COVERAGE_PROCESS_START", None)


@pytest.fixture(autouse=True)
def clean_slate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh execution environment: nothing configured, no client, nothing remembered."""
    # The workers of pytest-xdist tell what they start how wide a terminal is.
    for variable in (*VARIABLES, "AWS_LAMBDA_FUNCTION_NAME", "COLUMNS"):
        monkeypatch.delenv(variable, raising=False)
    lambda_traffic_mirror.warn_of_old_boto3.cache_clear()
    for kept in ("_clients", "_memory", "_unsupported"):
        monkeypatch.setattr(lambda_traffic_mirror, kept, {})


def warm(client: Any) -> None:
    """Let the execution environment have this client for its own account."""
    lambda_traffic_mirror._clients[None] = client, None


@pytest.fixture
def scene(clean_slate: None) -> Iterator[Scene]:
    """A simulated AWS account, in memory, with the function in it."""
    with Scene() as scene:
        yield scene


@pytest.fixture
def sensor(scene: Scene) -> str:
    """The only sensor, in a subnet of its own. It can take everything there is."""
    target = scene.sensor(scene.subnet(), quota=100_000)
    scene.configure(target)
    return target


@pytest.fixture
def every_call(scene: Scene) -> str:
    """A sensor that only an ACL and a prefix list let in: mirroring takes all of `CALLS`."""
    group = scene.group(rule(prefix_list=scene.prefix_list("10.0.0.0/8")))
    target = scene.sensor(scene.subnet(), [group], quota=1_000)
    scene.configure(target)
    return target


# Events for several instances.
KINDS: dict[str, Callable[[Sequence[str]], dict[str, Any]]] = {
    "instance-ids": lambda instances: {"id": "an-event", "instance-ids": list(instances)},
    "SQS batch": lambda instances: sqs_event(*map(running_event, instances)),
    "sweep": lambda instances: scheduled_event(),
}


# --- Time and retries


class Clock:
    """Seconds that pass only when something sleeps, or a test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.seconds: list[float] = []  # that were slept, one by one
        self.lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        with self.lock:
            self.now += seconds

    def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)
        self.advance(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of day, which sleeping moves on: neither the function nor botocore waits for real.
    `LambdaContext(60, clock=clock)` goes by it."""
    clock = Clock()
    monkeypatch.setattr("time.sleep", clock.sleep)
    monkeypatch.setattr("time.time", lambda: 1_750_000_000.0 + clock())
    return clock


@cache
def kept_client(attempts: int) -> Any:
    """The function's own client, for all tests that need no fresh one."""
    return lambda_traffic_mirror.make_client("ec2", attempts)


@pytest.fixture
def shared_client(scene: Scene) -> None:
    """The execution environment is warm: its client is there, and does not try again."""
    warm(kept_client(1))


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The function runs without coverage, which would take ten times as long beside tracemalloc."""
    handler = lambda_traffic_mirror.lambda_handler
    handler = getattr(handler, "__wrapped__", handler)
    monkeypatch.setattr(lambda_traffic_mirror, "lambda_handler", handler)
    trace = threading.gettrace()
    threading.settrace(None)
    yield
    if trace:
        threading.settrace(trace)


@pytest.fixture
def quick(scene: Scene, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """No test waits, not even for a client. And what one test has used up of botocore's allowance
    of retries is not missing in the next."""
    warm(kept_client(lambda_traffic_mirror.ATTEMPTS))
    monkeypatch.setattr("botocore.retries.quota.RetryQuota.acquire", lambda *_, **__: True)
    return clock
