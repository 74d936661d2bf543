"""The function returns before its time ends, whatever AWS does.

Shown on loopback with the real client: its attempts, its backoff, its rate limiter and its
timeouts; and on a clock of our own for what begins in the reserve. A few cases run always, all of
them, 15 and 60 seconds long, with RESERVE=all in the environment.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import pytest
from aws import ACCOUNT_ID, REGION, LambdaContext, rule, running_event, scheduled_event, sqs_event
from conftest import Clock, Scene, answer_of, deliver

from lambda_traffic_mirror import lambda_handler

CREATE = "CreateTrafficMirrorSession"
TARGET, SENSOR_INTERFACE, SENSOR = "tmt-00000001", "eni-fffffff1", "i-fffffff1"
SUBNET, VPC, GROUP, ZONE = "subnet-00000001", "vpc-00000001", "sg-00000001", f"{REGION}a"
MIRRORED = "i-eeeeeee1"  # has a session already


# --------------------------------------------------------------------------------------
# EC2 on loopback
# --------------------------------------------------------------------------------------


def xml(value: object) -> str:
    if isinstance(value, Mapping):
        return "".join(f"<{name}>{xml(member)}</{name}>" for name, member in value.items())
    if isinstance(value, list):
        return "".join(f"<item>{xml(member)}</item>" for member in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def interface_of(instance: str) -> str:
    return instance.replace("i-", "eni-")


def interface_view(instance: str, number: int) -> dict[str, Any]:
    address = f"10.0.{number // 250}.{number % 250 + 4}"
    return {
        "networkInterfaceId": interface_of(instance),
        "interfaceType": "interface",
        "ownerId": ACCOUNT_ID,
        "subnetId": SUBNET,
        "vpcId": VPC,
        "status": "in-use",
        "privateIpAddress": address,
        "privateIpAddressesSet": [{"privateIpAddress": address, "primary": True}],
        "groupSet": [{"groupId": GROUP, "groupName": "all"}],
        "attachment": {
            "attachmentId": f"eni-attach-{number}",
            "deviceIndex": 0,
            "networkCardIndex": 0,
            "status": "attached",
        },
    }


def instance_view(instance: str, number: int) -> dict[str, Any]:
    return {
        "instanceId": instance,
        "instanceType": "m5.large",
        "instanceState": {"code": 16, "name": "running"},
        "placement": {"availabilityZone": ZONE},
        "subnetId": SUBNET,
        "vpcId": VPC,
        "networkInterfaceSet": [interface_view(instance, number)],
    }


Misbehave = Callable[[str], object]  # from the operation to what becomes of the attempt


class Attempt(NamedTuple):
    operation: str
    arrived: float


class LoopbackEc2:
    """Answers on 127.0.0.1 what mirroring asks; sensor and instances share a subnet.

    `misbehave` says what becomes of an attempt: None is an answer, a number an answer after so many
    seconds, and "throttle", "silent" (nothing until the end of the test) or "reset".
    """

    def __init__(self) -> None:
        self.instances = [SENSOR, MIRRORED]
        self.sessions: dict[str, str] = {interface_of(MIRRORED): "tms-00000001"}
        self.attempts: list[Attempt] = []
        self.misbehave: Misbehave = lambda operation: None
        self.over = threading.Event()
        self.lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 120

            def do_POST(handler) -> None:  # noqa: N805
                self.answer(handler)

            def log_message(handler, *_: object) -> None:  # noqa: N805
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(server, *_: object) -> None:  # noqa: N805
                """The client has gone."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, name="loopback"
        )
        self.thread.start()

    def close(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        parameters = dict(parse_qsl(body.decode(), keep_blank_values=True))
        operation = parameters["Action"]
        with self.lock:
            self.attempts.append(Attempt(operation, time.monotonic()))
            fate = self.misbehave(operation)
        if fate == "silent":
            self.over.wait()
        if fate in ("silent", "reset"):
            handler.close_connection = True
            return
        if isinstance(fate, (int, float)):
            self.over.wait(fate)
        if fate == "throttle":
            code = "<Code>RequestLimitExceeded</Code><Message>Slow down.</Message>"
            status, text = 503, f"<Response><Errors><Error>{code}</Error></Errors></Response>"
        else:
            members = getattr(self, operation)(parameters)
            status, text = 200, f"<{operation}Response>{xml(members)}</{operation}Response>"
        data = text.encode()
        with suppress(OSError):
            handler.send_response(status)
            handler.send_header("Content-Type", "text/xml")
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)

    def values(self, parameters: Mapping[str, str], name: str) -> set[str] | None:
        """The values of a filter; None where there is no such filter."""
        for number in itertools.count(1):
            if f"Filter.{number}.Name" not in parameters:
                return None
            if parameters[f"Filter.{number}.Name"] == name:
                start = f"Filter.{number}.Value."
                return {value for key, value in parameters.items() if key.startswith(start)}
        return None

    def DescribeInstances(self, parameters: Mapping[str, str]) -> object:  # noqa: N802
        wanted = self.values(parameters, "instance-id") or {
            value for key, value in parameters.items() if key.startswith("InstanceId.")
        }
        shown = [
            instance_view(instance, number)
            for number, instance in enumerate(self.instances)
            if not wanted or instance in wanted
        ]
        reservation = {"reservationId": "r-1", "ownerId": ACCOUNT_ID, "instancesSet": shown}
        return {"reservationSet": [reservation]}

    def DescribeTrafficMirrorTargets(self, parameters: Mapping[str, str]) -> object:  # noqa: N802
        target = {
            "trafficMirrorTargetId": TARGET,
            "networkInterfaceId": SENSOR_INTERFACE,
            "type": "network-interface",
            "ownerId": ACCOUNT_ID,
        }
        return {"trafficMirrorTargetSet": [target]}

    def DescribeTrafficMirrorSessions(self, parameters: Mapping[str, str]) -> object:  # noqa: N802
        wanted = self.values(parameters, "network-interface-id")
        with self.lock:
            sessions = dict(self.sessions)
        return {
            "trafficMirrorSessionSet": [
                self.session_view(interface, session)
                for interface, session in sessions.items()
                if wanted is None or interface in wanted
            ]
        }

    @staticmethod
    def session_view(interface: str, session: str) -> dict[str, Any]:
        return {
            "trafficMirrorSessionId": session,
            "trafficMirrorTargetId": TARGET,
            "trafficMirrorFilterId": "tmf-00000001",
            "networkInterfaceId": interface,
            "ownerId": ACCOUNT_ID,
            "sessionNumber": 1,
        }

    def DescribeNetworkInterfaces(self, parameters: Mapping[str, str]) -> object:  # noqa: N802
        view = interface_view(SENSOR, 0) | {"availabilityZone": ZONE}
        view["attachment"]["instanceId"] = SENSOR
        return {"networkInterfaceSet": [view]}

    def DescribeSecurityGroups(self, parameters: Mapping[str, str]) -> object:  # noqa: N802
        permission = {
            "ipProtocol": "udp",
            "fromPort": 4789,
            "toPort": 4789,
            "ipRanges": [{"cidrIp": "10.0.0.0/8"}],
        }
        group = {"groupId": GROUP, "ownerId": ACCOUNT_ID, "vpcId": VPC}
        return {"securityGroupInfo": [group | {"ipPermissions": [permission]}]}

    def DescribeNetworkAcls(self, parameters: Mapping[str, str]) -> object:  # noqa: N802
        return {"networkAclSet": []}

    def CreateTrafficMirrorSession(self, parameters: Mapping[str, str]) -> object:  # noqa: N802
        interface = parameters["NetworkInterfaceId"]
        with self.lock:
            session = self.sessions.setdefault(interface, f"tms-{len(self.sessions):08x}")
        return {"trafficMirrorSession": self.session_view(interface, session)}


@pytest.fixture
def ec2(clean_slate: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackEc2]:
    """EC2 on loopback, and a warm execution environment: the client is there."""
    ec2 = LoopbackEc2()
    for name, value in {
        "AWS_ENDPOINT_URL_EC2": ec2.url,
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
        "filter_id": "tmf-00000001",
        "targets": TARGET,
    }.items():
        monkeypatch.setenv(name, value)
    try:
        assert answer_of(lambda_handler(running_event(MIRRORED), None)).outcomes == ["exists"]
        ec2.attempts.clear()
        yield ec2
    finally:
        ec2.close()


# --------------------------------------------------------------------------------------
# Whatever EC2 does
# --------------------------------------------------------------------------------------


def always(fate: object) -> Callable[[], Misbehave]:
    return lambda: lambda operation: fate


def at_creates(fate: object) -> Callable[[], Misbehave]:
    return lambda: lambda operation: fate if operation == CREATE else None


def at_reads(fate: object) -> Callable[[], Misbehave]:
    return lambda: lambda operation: None if operation == CREATE else fate


def of_each(*fates: object, only: str = "") -> Callable[[], Misbehave]:
    """One after the other, and again from the start."""

    def behaviour() -> Misbehave:
        turn = itertools.cycle(fates)
        return lambda operation: next(turn) if only in operation else None

    return behaviour


BEHAVIOURS: dict[str, Callable[[], Misbehave]] = {
    "as it should": always(None),
    "throttling": always("throttle"),
    "throttling reads": at_reads("throttle"),
    "throttling creates": at_creates("throttle"),
    "throttling every other": of_each("throttle", None),
    "throttling four of five creates": of_each(*["throttle"] * 4, None, only=CREATE),
    "silent": always("silent"),
    "silent at creates": at_creates("silent"),
    "silent at sessions": lambda: lambda op: "silent" if op.endswith("Sessions") else None,
    "silent at security groups": lambda: lambda op: "silent" if op.endswith("Groups") else None,
    "silent every other": of_each("silent", None),
    "throttling, then silent": of_each("throttle", "silent"),
    "slow, 1 s": always(1),
    "slow, 3 s": always(3),
    "slow, 7 s": always(7),
    "slow at creates, 1 s": at_creates(1),
    "slow at creates, 3 s": at_creates(3),
    "slow at creates, 7 s": at_creates(7),
    "closing connections": always("reset"),
}

KINDS: dict[str, Callable[[list[str]], dict[str, Any]]] = {
    "event": lambda instances: {"id": "an-event", "instance-ids": instances},
    "SQS": lambda instances: sqs_event(*map(running_event, instances)),
    "sweep": lambda instances: scheduled_event(),
}

ALWAYS = [
    ("as it should", 3, 10, "event"),
    ("throttling", 3, 10, "event"),
    ("throttling creates", 3, 60, "SQS"),
    ("silent", 3, 1, "SQS"),
    ("silent at creates", 3, 10, "event"),
    ("slow, 1 s", 3, 60, "event"),
    ("slow, 7 s", 3, 10, "sweep"),
    ("silent", 6, 10, "sweep"),
]
# The kinds of events take turns.
ALL = [
    (behaviour, seconds, count, kind)
    for (seconds, count, behaviour), kind in zip(
        itertools.product((3, 15, 60), (1, 10, 900), BEHAVIOURS), itertools.cycle(KINDS)
    )
]
CASES = ALL if os.environ.get("RESERVE") == "all" else ALWAYS


def reserve_of(seconds: float) -> float:
    return min(12.0, seconds / 5)


def ours() -> set[threading.Thread]:
    """The threads but for those of the server."""
    return {thread for thread in threading.enumerate() if "process_request" not in thread.name}


@pytest.mark.parametrize(("behaviour", "seconds", "count", "kind"), CASES, ids=str)
def test_the_handler_returns_before_the_time_ends(
    ec2: LoopbackEc2,
    capsys: pytest.CaptureFixture[str],
    behaviour: str,
    seconds: int,
    count: int,
    kind: str,
) -> None:
    instances = [f"i-{number:08x}" for number in range(count)]
    ec2.instances += instances
    event = KINDS[kind](instances)
    ec2.misbehave = BEHAVIOURS[behaviour]()
    capsys.readouterr()
    before = ours()

    context = LambdaContext(seconds)
    began = time.monotonic()
    delivery = deliver(event, context)
    took = time.monotonic() - began
    assert took < seconds
    assert ours() <= before

    # Nothing was begun in the reserve; what a busy machine delays on the way is forgiven.
    assert latest(ec2, began) <= seconds - reserve_of(seconds) + 0.3

    # It has reported: an interface without a session is not taken for done.
    (metrics,) = [
        json.loads(line) for line in capsys.readouterr().out.splitlines() if '"created"' in line
    ]
    with ec2.lock:
        mirrored = {name for name in instances if interface_of(name) in ec2.sessions}
    assert metrics["created"] <= len(mirrored)
    if kind == "SQS":
        assert set(instances) - mirrored <= {instances[at] for at in delivery.again}
    elif kind == "event" and len(mirrored) < count:
        assert delivery.error
    if behaviour == "as it should" and count <= 10:
        assert (len(mirrored), delivery.error) == (count, "")


# --------------------------------------------------------------------------------------
# On a clock of our own: what begins in the reserve
# --------------------------------------------------------------------------------------


class CostlyContext(LambdaContext):
    """Each look at the clock takes a while, which is how long judging an interface takes here."""

    def __init__(self, clock: Clock, seconds: float, cost: float) -> None:
        super().__init__(seconds, clock=clock)
        self.its_clock, self.cost = clock, cost

    def get_remaining_time_in_millis(self) -> int:
        left = super().get_remaining_time_in_millis()
        self.its_clock.advance(self.cost)
        return left


def plan(scene: Scene) -> dict[str, Any]:
    """Nothing to do but to judge."""
    scene.configure(scene.sensor(quota=1_000), DRY_RUN="true")
    return {"instance-ids": scene.instances(150)}


def find_no_sensor(scene: Scene) -> dict[str, Any]:
    scene.configure([scene.sensor(groups=[scene.group()]) for _ in range(3)])
    return {"instance-ids": scene.instances(150)}


def sweep(scene: Scene) -> dict[str, Any]:
    scene.configure(scene.sensor(groups=[scene.group()]), EXCLUDE_TAGS="none")
    scene.instances(150)
    return scheduled_event()


def check_sessions(scene: Scene) -> dict[str, Any]:
    """Interfaces with a session are judged by sweeps, too."""
    target = scene.sensor()
    scene.configure(target, EXCLUDE_TAGS="none")
    scene.mirrored(target, 150)
    return scheduled_event()


@pytest.mark.parametrize("work", [plan, find_no_sensor, sweep, check_sessions])
def test_no_further_interface_is_judged_in_the_reserve(
    shared_client: None,
    scene: Scene,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    work: Callable[..., dict[str, Any]],
) -> None:
    caplog.set_level("DEBUG", "lambda_traffic_mirror")
    event = work(scene)
    context = CostlyContext(clock, 60, 0.5)
    deliver(event, context)
    outcomes = Counter(
        record.outcome for record in caplog.records if getattr(record, "interface_id", None)
    )
    judged = sum(outcomes.values()) - outcomes["deferred"] - outcomes["skipped"]
    # There is time for 96 looks at the clock before the reserve begins.
    assert judged <= 96


def test_judging_keeps_to_the_time_that_it_really_takes(shared_client: None, scene: Scene) -> None:
    """12 sensors with 250 rules each, none of which admits, and 700 sources. The clock is that of
    the processor, so that what else the machine does counts for nothing."""
    groups = [
        scene.group(*(rule(cidr=f"192.0.{n % 250}.{m}/32") for n in range(250))) for m in range(12)
    ]
    scene.configure([scene.sensor(groups=[group]) for group in groups])
    event = sqs_event(*map(running_event, scene.instances(700)))
    context = LambdaContext(2.0, clock=time.process_time)
    lambda_handler(event, context)
    assert context.get_remaining_time_in_millis() > 0


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set how long botocore waits between two attempts."""

    def eager(seconds: float) -> None:
        monkeypatch.setattr(
            "botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_, **__: seconds
        )
        monkeypatch.setattr("botocore.retries.bucket.TokenBucket.acquire", lambda *_, **__: True)

    return eager


def lefts(ec2: LoopbackEc2, context: LambdaContext, fate: object) -> list[int]:
    """How much was left at each attempt, from now on. Each of one call comes to this: several
    that wait at a time would move the clock on by the sum of what they wait."""
    left: list[int] = []

    def misbehave(operation: str) -> object:
        left.append(context.get_remaining_time_in_millis())
        return fate if operation == "DescribeInstances" else None

    ec2.misbehave = misbehave
    return left


@pytest.mark.parametrize(
    ("seconds", "pause", "attempts"),
    [
        (20, 5.0, 4),  # at 20, 15, 10 and 5 s; another pause would take it to its end
        (60, 15.0, 4),  # at 60, 45, 30 and 15
        (60, 5.0, 5),
        (60, 100.0, 1),
        (3, 1.0, 3),
        (3, 2.5, 1),
    ],
)
@pytest.mark.parametrize("fate", ["throttle", "reset"])
def test_a_backoff_neither_ends_nor_begins_in_the_reserve(
    ec2: LoopbackEc2,
    clock: Clock,
    eager: Callable[[float], None],
    seconds: int,
    pause: float,
    attempts: int,
    fate: str,
) -> None:
    instance = "i-00000001"
    ec2.instances.append(instance)
    eager(pause)
    context = LambdaContext(seconds, clock=clock)
    left = lefts(ec2, context, fate)
    assert deliver(running_event(instance), context).error
    assert min(left) >= 1_000 * reserve_of(seconds)
    counts = Counter(attempt.operation for attempt in ec2.attempts)
    assert max(counts.values()) <= attempts
    assert context.get_remaining_time_in_millis() > 0


def latest(ec2: LoopbackEc2, began: float) -> float:
    """When the last attempt arrived, in seconds of the invocation."""
    return max((attempt.arrived - began for attempt in ec2.attempts), default=0.0)


def test_the_limiters_own_wait_keeps_to_the_deadline(ec2: LoopbackEc2) -> None:
    """Its bucket fills up by half a token a second; many that wait for it wait long."""
    instances = [f"i-{number:08x}" for number in range(60)]
    ec2.instances += instances
    turn = itertools.count()
    ec2.misbehave = lambda operation: "throttle" if next(turn) % 4 else None
    event = sqs_event(*map(running_event, instances))
    context = LambdaContext(3)
    began = time.monotonic()
    again = deliver(event, context).again
    assert context.get_remaining_time_in_millis() > 0
    assert latest(ec2, began) <= 3 - reserve_of(3) + 0.3
    assert len(again) == 60 - (len(ec2.sessions) - 1)


def test_timeouts_keep_to_what_is_left(ec2: LoopbackEc2) -> None:
    """Calls that begin just before the reserve, and stay silent, are over before the end."""
    instances = [f"i-{number:08x}" for number in range(300)]
    ec2.instances += instances
    event = sqs_event(*map(running_event, instances))
    context = LambdaContext(3)
    ec2.misbehave = lambda operation: (
        "silent" if context.get_remaining_time_in_millis() < 1_000 else 0.1
    )
    again = deliver(event, context).again
    assert context.get_remaining_time_in_millis() > 0
    assert len(again) >= 300 - (len(ec2.sessions) - 1)


def test_after_a_short_invocation_the_next_one_has_its_full_timeouts(ec2: LoopbackEc2) -> None:
    """What is set for one invocation does not outlast it in a warm environment."""
    first, second = "i-00000001", "i-00000002"
    ec2.instances += [first, second]
    ec2.misbehave = BEHAVIOURS["silent"]()
    deliver(running_event(first), LambdaContext(1.5))
    ec2.misbehave = lambda operation: 1.0 if operation == CREATE else None
    answer = answer_of(lambda_handler(running_event(second), LambdaContext(30)))
    assert answer.outcomes == ["created"]
