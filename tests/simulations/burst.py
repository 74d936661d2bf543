"""A burst of starts against EC2's request limits, on a simulated clock.

    .venv/bin/python tests/simulations/burst.py             # 10, 100 and 1,000 instances
    .venv/bin/python tests/simulations/burst.py 50 300      # other numbers

So many instances start at once, spread over 3 zones with 4 sensors each. Their events reach the
function in two ways:

    one event each   EventBridge invokes the function once per event, as the plain rule does; what
                     fails Lambda tries again after 1 and after 2 minutes, and then no more
    batches (SQS)    through the queue of deploy/template.yaml, with its batches, its concurrency,
                     its visibility timeout, its dead-letter queue and its variables

Where one of them leaves instances unmirrored, the sweep that the template schedules comes to them.

The handler that runs is the real one, with real botocore clients that retry and slow down as they
do in Lambda, one client per execution environment. Simulated are the account behind them, EC2's
token buckets in front of that account, Lambda, SQS and the time. Whoever sleeps, or waits for an
answer, waits on the simulated clock, and only one thread runs at a time, so that a minute costs
nothing and the same seed gives the same run.

What is assumed about AWS stands in the constants of the second section. The table is printed at
the end; the exit code is 1 where the delivery through the queue misses one of its goals (see
`misses`) or an instance is lost or mirrored twice.
"""

from __future__ import annotations

import argparse
import ast
import gc
import hashlib
import heapq
import importlib.util
import io
import itertools
import math
import multiprocessing
import os
import pkgutil
import random
import re
import sys
import threading
import uuid
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import boto3
from aws import (
    LambdaContext,
    Refusal,
    SimulatedAccount,
    running_event,
    scheduled_event,
    sqs_event,
)
from botocore.parsers import ResponseParser
from botocore.retries import adaptive
from cloudformation import resolve
from moto.moto_api._internal import mock_random

# ---------------------------------------------------------------------------------------------
# The simulated clock. Threads that run on it run one at a time; each waits on a lock of its own
# until the one before has come to a point where it sleeps. Then the one whose time comes first
# goes on, and the clock jumps there.


class Killed(BaseException):
    """The thread's execution environment is gone. No `except Exception` stops this."""


class Task:
    """A thread on the simulated clock."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self.turn = threading.Semaphore(0)
        self.pauses = 0  # tells a wake-up that is meant from one that came too late
        self.killed = False
        self.done = False
        self.watchers: list[Task] = []


class Clock:
    """Simulated time, and whose turn it is.

    Args:
        on_turn: called with the owner of the task that goes on, whenever another one does.
    """

    EPOCH = 1_750_000_000.0  # Unix time at the start
    SHORTEST_SLEEP = 0.0001  # nobody sleeps for nothing, or rounding would let time stand still

    def __init__(self, on_turn: Callable[[Any], None] = lambda owner: None) -> None:
        self.now = 0.0
        self.problem: BaseException | None = None
        self._on_turn = on_turn
        self._order = itertools.count()
        # When, the order among equals, and what to do then: gives the task to go on with, if any.
        self._agenda: list[tuple[float, int, Callable[[], Task | None]]] = []
        self._main = Task(None)
        self._current = self._main
        self._tasks: set[Task] = set()

    def time(self) -> float:
        """In place of time.time and time.monotonic."""
        return self.EPOCH + self.now

    def sleep(self, seconds: float) -> None:
        """In place of time.sleep."""
        self.pause(max(seconds, self.SHORTEST_SLEEP))

    def at(self, when: float, what: Callable[[], object]) -> None:
        """Call this at that time. What is called must not sleep; it may start what does."""

        def call() -> None:
            what()

        heapq.heappush(self._agenda, (max(when, self.now), next(self._order), call))

    def start(self, what: Callable[[], object], owner: Any = None) -> Task:
        """A task that does this from now on, its owner that of the present one unless named."""
        task = Task(self._current.owner if owner is None else owner)
        self._tasks.add(task)

        def live() -> None:
            task.turn.acquire()
            try:
                self._take_turn(task)
                what()
            except Killed:
                pass
            except BaseException as error:  # noqa: BLE001 - for whoever waits in `run`
                self.problem = self.problem or error
            task.done = True
            self._tasks.discard(task)
            for watcher in task.watchers:
                self.wake(watcher)
            self._next().turn.release()

        threading.Thread(target=live, daemon=True).start()
        self.wake(task)
        return task

    def pause(self, seconds: float | None = None) -> None:
        """Let others go on, until so much later or (None) until somebody wakes this task."""
        task = self._current
        task.pauses += 1
        if seconds is not None:
            self._plan(task, self.now + seconds)
        following = self._next()
        if following is not task:
            following.turn.release()
            task.turn.acquire()
        self._take_turn(task)

    def wake(self, task: Task) -> None:
        """Let the task go on now."""
        self._plan(task, self.now)

    def join(self, tasks: Sequence[Task]) -> None:
        """Wait until all of these are done."""
        for task in tasks:
            while not task.done:
                task.watchers.append(self._current)
                self.pause()

    def kill(self, owner: Any) -> None:
        """End the owner's tasks where they stand."""
        for task in [task for task in self._tasks if task.owner is owner]:
            task.killed = True
            self.wake(task)

    def run(self) -> None:
        """Go on until nothing is left to do. What still waits then, waits in vain and is ended."""
        self.pause()
        for task in list(self._tasks):
            task.killed = True
            self.wake(task)
        self.pause()
        if self.problem:
            raise self.problem

    @property
    def current(self) -> Task:
        """The task that runs."""
        return self._current

    def _plan(self, task: Task, when: float) -> None:
        pauses = task.pauses

        def resume() -> Task | None:
            return task if task.pauses == pauses and not task.done else None

        heapq.heappush(self._agenda, (when, next(self._order), resume))

    def _next(self) -> Task:
        while self._agenda and not self.problem:
            when, _, act = heapq.heappop(self._agenda)
            self.now = max(self.now, when)
            task = act()
            if task is not None:
                task.pauses += 1  # other wake-ups for this pause come too late
                return task
        return self._main

    def _take_turn(self, task: Task) -> None:
        self._current = task
        self._on_turn(task.owner)
        if task.killed:
            raise Killed


class Condition:
    """In place of threading.Condition, as far as botocore's rate limiter uses it."""

    def __init__(self, clock: Clock, lock: Any) -> None:
        self._clock = clock
        self._lock = lock
        self._waiting: deque[Task] = deque()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def wait(self, timeout: float) -> None:
        """Wait for a notification, so many seconds at most."""
        task = self._clock.current
        self._waiting.append(task)
        self._lock.release()
        try:
            self._clock.sleep(timeout)
        finally:
            if task in self._waiting:
                self._waiting.remove(task)
            self._lock.acquire()

    def notify(self) -> None:
        """Wake the one that has waited longest."""
        if self._waiting:
            self._clock.wake(self._waiting.popleft())


class EarlyFuture(Future[Any]):
    """A future that refuses to be waited for, because waiting would stop the simulation."""

    def result(self, timeout: float | None = None) -> Any:
        """The result, which has to be there."""
        if not self.done():
            raise RuntimeError("The simulated executor gives results after its block only.")
        return super().result(timeout)


class Executor:
    """In place of ThreadPoolExecutor, whose workers would be unknown to the clock.

    What was submitted begins when the block ends, at the same simulated time. The thread that made
    the executor is one of its workers, which saves starting one.
    """

    def __init__(self, clock: Clock, max_workers: int) -> None:
        self._clock = clock
        self._max_workers = max_workers
        self._waiting: deque[tuple[EarlyFuture, Callable[[], Any]]] = deque()

    def submit(self, what: Callable[..., Any], *args: Any, **kwargs: Any) -> EarlyFuture:
        """Have this done, in a thread of its own."""
        future = EarlyFuture()
        self._waiting.append((future, partial(what, *args, **kwargs)))
        return future

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is Killed:
            return
        helpers = min(self._max_workers, len(self._waiting)) - 1
        tasks = [self._clock.start(self._work) for _ in range(helpers)]
        self._work()
        self._clock.join(tasks)

    def _work(self) -> None:
        while self._waiting:
            future, what = self._waiting.popleft()
            try:
                future.set_result(what())
            except Exception as error:  # noqa: BLE001 - the future raises it
                future.set_exception(error)


# ---------------------------------------------------------------------------------------------
# What is assumed about AWS.

ZONES = ("a", "b", "c")
SENSORS_PER_ZONE = 4

# EC2's token buckets, one per operation: tokens at the most, and tokens a second. Documented in
# the EC2 developer guide, 'Request throttling'.
READS = (100.0, 20.0)
UNLIMITED_READS = (50.0, 10.0)  # neither filter nor page size
WRITES = (50.0, 5.0)

CALL_SECONDS = 0.06  # to EC2 and back, throttled or not
ANSWER_SECONDS_PER_BYTE = 0.3e-6  # to receive and to parse, with the share of a CPU of 512 MB

EVENT_SECONDS = (0.5, 1.5)  # from the start of an instance to its event's arrival
TWICE = 0.01  # the share of events that EventBridge delivers twice (it promises once or more)

COLD_START_SECONDS = (1.2, 2.0)  # environment, import of boto3, client
INVOCATION_SECONDS = 0.02  # from Lambda's decision to the handler
ENVIRONMENTS = 1_000  # an account's concurrency, all of which one function may start at once
RETRY_SECONDS = (60.0, 120.0)  # until a failed asynchronous invocation is tried again
BUSY_SECONDS = (1.0, 300.0)  # the same where no environment is free: from, doubled each time, to

SWEEPS = 6  # at most; none comes when all instances are mirrored

RECEIVE = 10  # messages at most that SQS gives at a time
RECEIVE_SECONDS = 0.02


class TokenBucket:
    """A bucket that starts full."""

    def __init__(self, size: float, per_second: float) -> None:
        self.size, self.per_second = size, per_second
        self._tokens, self._at = size, 0.0

    def take(self, now: float) -> bool:
        """Take a token, if there is one."""
        self._tokens = min(self.size, self._tokens + (now - self._at) * self.per_second)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def bound(count: int) -> float:
    """Seconds that the bucket of the creates alone makes so many instances take."""
    size, per_second = WRITES
    return max(0.0, (count - size) / per_second)


class Ec2:
    """EC2's side of the line: how long calls take, which are throttled, what was created when."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.throttled: Counter[str] = Counter()
        self.created: dict[str, float] = {}  # by interface
        self._buckets: dict[tuple[str, bool], TokenBucket] = {}

    def receive(self, operation: str, parameters: dict[str, Any]) -> None:
        """A call has been sent; for the simulated account's gates."""
        self.clock.sleep(CALL_SECONDS / 2)
        reads = operation.startswith(("Describe", "Get"))
        unlimited = reads and not parameters
        size = UNLIMITED_READS if unlimited else READS if reads else WRITES
        bucket = self._buckets.setdefault((operation, unlimited), TokenBucket(*size))
        if not bucket.take(self.clock.now):
            self.throttled[operation] += 1
            raise Refusal("RequestLimitExceeded", "Request limit exceeded.", 503)
        if operation == "CreateTrafficMirrorSession":
            self.created.setdefault(parameters["NetworkInterfaceId"], self.clock.now)

    def answer(self, response_dict: dict[str, Any] | None = None, **_: Any) -> None:
        """An answer is on its way; for botocore's event response-received."""
        size = len(response_dict["body"]) if response_dict else 0
        self.clock.sleep(CALL_SECONDS / 2 + size * ANSWER_SECONDS_PER_BYTE)


# ---------------------------------------------------------------------------------------------
# Lambda and SQS.


class Function:
    """The module, whose state belongs to one execution environment at a time.

    Loading it a thousand times would take longer than the rest, so there is one, and its state is
    exchanged whenever a thread of another environment goes on: the names that its functions
    declare as global.
    """

    PATH = Path(__file__).resolve().parent.parent.parent / "lambda_traffic_mirror.py"

    def __init__(self) -> None:
        spec = importlib.util.spec_from_file_location("burst_function", self.PATH)
        assert spec
        assert spec.loader
        self.module: Any = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = self.module  # dataclasses look themselves up there
        spec.loader.exec_module(self.module)
        self.module.logger.disabled = True
        tree = ast.parse(self.PATH.read_text(encoding="utf-8"))
        self.names = {
            name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names
        }
        self._fresh = self._state()
        self._inside: Environment | None = None

    def enter(self, environment: Environment | None) -> None:
        """From now on a thread of this environment runs."""
        if environment is None or environment is self._inside:
            return
        if self._inside:
            self._inside.state = self._state()
        for name, value in (environment.state or self._fresh).items():
            setattr(self.module, name, value)
        self._inside = environment

    def _state(self) -> dict[str, Any]:
        return {name: getattr(self.module, name) for name in self.names}


@dataclass(eq=False)
class Environment:
    """An execution environment; `state` is what the module keeps while others run."""

    state: dict[str, Any] | None = None
    warm: bool = False


@dataclass(frozen=True)
class Outcome:
    """How an invocation ended: its result, or None for an error or a timeout."""

    result: dict[str, Any] | None


After = Callable[[Outcome], None]


class Lambda:
    """Runs the function in execution environments, which it keeps and uses again.

    Args:
        clock: the simulated clock.
        function: the function.
        timeout: the function's timeout in seconds. Starting an environment does not count.
    """

    def __init__(self, clock: Clock, function: Function, timeout: float) -> None:
        self.clock, self.function, self.timeout = clock, function, timeout
        self.invocations = 0
        self.errors: Counter[str] = Counter()
        self._environments = 0
        self._idle: list[Environment] = []

    def invoke(self, event: dict[str, Any], after: After) -> bool:
        """Run the handler in an environment; whether there is one. `after` gets the outcome."""
        if not self._idle and self._environments == ENVIRONMENTS:
            return False
        if self._idle:
            environment = self._idle.pop()  # the one that was used last
        else:
            environment = Environment()
            self._environments += 1
        self.clock.start(partial(self._live, environment, event, after), environment)
        return True

    def _live(self, environment: Environment, event: dict[str, Any], after: After) -> None:
        """One invocation, from the thread of the environment."""
        self.invocations += 1
        module = self.function.module
        if not environment.warm:
            self.clock.sleep(random.uniform(*COLD_START_SECONDS))
            module.ec2_client()  # as the module does while Lambda imports it
            environment.warm = True
        self.clock.sleep(INVOCATION_SECONDS)
        running = True

        def end() -> None:
            if running:
                self.clock.kill(environment)

        self.clock.at(self.clock.now + self.timeout, end)
        context = LambdaContext(seconds=self.timeout, clock=self.clock.time)
        context.aws_request_id = f"request-{self.invocations}"
        result = None
        try:
            result = module.lambda_handler(event, context)
        except Killed:
            self.errors["timeout"] += 1
            raise
        except Exception as error:  # noqa: BLE001 - Lambda reports it and goes on
            self.errors[type(error).__name__] += 1
        finally:
            running = False
            if self.clock.current.killed:
                self._environments -= 1
            else:
                self._idle.append(environment)
            after(Outcome(result))


class Events:
    """Asynchronous invocations, one per event: tried three times, then given up."""

    def __init__(self, clock: Clock, function: Lambda) -> None:
        self.clock, self.function = clock, function
        self.given_up = 0

    def send(self, event: dict[str, Any]) -> None:
        """An event arrives."""
        self._try(event, 0, BUSY_SECONDS[0])

    def _try(self, event: dict[str, Any], failures: int, busy_seconds: float) -> None:
        def after(outcome: Outcome) -> None:
            if outcome.result is not None:
                return
            if failures == len(RETRY_SECONDS):
                self.given_up += 1
                return
            again = partial(self._try, event, failures + 1, BUSY_SECONDS[0])
            self.clock.at(self.clock.now + RETRY_SECONDS[failures], again)

        if not self.function.invoke(event, after):
            longer = min(2 * busy_seconds, BUSY_SECONDS[1])
            self.clock.at(
                self.clock.now + busy_seconds, partial(self._try, event, failures, longer)
            )


@dataclass(eq=False)
class Message:
    """A message in the queue; `since` is the time from which it has been visible."""

    message_id: str
    event: dict[str, Any]
    since: float
    receives: int = 0


@dataclass(frozen=True)
class Deployment:
    """What the template says about function, queue and batches."""

    variables: dict[str, str]
    timeout: float
    batch_size: int
    window: float
    concurrency: int
    visibility: float
    max_receives: int
    sweep_seconds: float

    @classmethod
    def of_template(cls, filter_id: str, targets: Sequence[str]) -> Deployment:
        """As `deploy.sh` deploys it, with every parameter that has a default at its default."""
        given = {
            "CodeBucket": "bucket",
            "CodeKey": "key",
            "FilterId": filter_id,
            "Targets": ",".join(targets),
        }
        resolved = resolve(parameters=given)
        resources = resolved["Resources"]
        number, unit = re.findall(r"\w+", resolved["Parameters"]["SweepRate"])[1:]
        function, queue, mapping = (
            resources[name]["Properties"] for name in ("Function", "Queue", "QueueMapping")
        )
        return cls(
            variables=function["Environment"]["Variables"],
            timeout=float(function["Timeout"]),
            batch_size=int(mapping["BatchSize"]),
            window=float(mapping["MaximumBatchingWindowInSeconds"]),
            concurrency=int(mapping["ScalingConfig"]["MaximumConcurrency"]),
            visibility=float(queue["VisibilityTimeout"]),
            max_receives=int(queue["RedrivePolicy"]["maxReceiveCount"]),
            sweep_seconds=int(number) * {"minute": 60.0, "hour": 3_600.0}[unit.rstrip("s")],
        )


class Queue:
    """The SQS queue, and the event source mapping that empties it into the function.

    The mapping takes what there is, as much as a batch may have, as soon as one of the concurrent
    invocations is free; with a batching window it waits so long for the batch to fill.
    """

    def __init__(self, clock: Clock, function: Lambda, deployment: Deployment) -> None:
        self.clock, self.function, self.deployment = clock, function, deployment
        self.given_up = 0  # messages in the dead-letter queue
        self._visible: deque[Message] = deque()
        self._free = deployment.concurrency
        self._numbers = itertools.count(1)

    def send(self, event: dict[str, Any]) -> None:
        """A message arrives."""
        self._show(Message(f"message-{next(self._numbers)}", event, self.clock.now))

    def _show(self, message: Message) -> None:
        message.since = self.clock.now
        self._visible.append(message)
        self._poll()

    def _poll(self) -> None:
        while self._free and self._visible:
            full = self._visible[0].since + self.deployment.window
            if len(self._visible) < self.deployment.batch_size and self.clock.now < full:
                self.clock.at(full, self._poll)
                return
            batch: list[Message] = []
            while self._visible and len(batch) < self.deployment.batch_size:
                message = self._visible.popleft()
                message.receives += 1
                if message.receives > self.deployment.max_receives:
                    self.given_up += 1
                else:
                    batch.append(message)
            if batch:
                self._free -= 1
                received = RECEIVE_SECONDS * math.ceil(len(batch) / RECEIVE)
                self.clock.at(self.clock.now + received, partial(self._invoke, batch))

    def _invoke(self, batch: list[Message]) -> None:
        again_at = self.clock.now + self.deployment.visibility
        event = sqs_event(*(message.event for message in batch))
        for record, message in zip(event["Records"], batch, strict=True):
            record["messageId"] = message.message_id
            record["attributes"]["ApproximateReceiveCount"] = str(message.receives)

        def after(outcome: Outcome) -> None:
            failed = {message.message_id for message in batch}
            if outcome.result is not None:
                failures = outcome.result["batchItemFailures"]
                failed = {failure["itemIdentifier"] for failure in failures}
            for message in batch:
                if message.message_id in failed:
                    self.clock.at(again_at, partial(self._show, message))
            self._free += 1
            self._poll()

        assert self.function.invoke(event, after), "the concurrency of a mapping is small"


# ---------------------------------------------------------------------------------------------
# A burst.

EACH = "one event each"
BATCHES = "batches (SQS)"
WAYS = (EACH, BATCHES)


@dataclass
class Row:
    """What came of a burst: a line of the table, and what explains it."""

    count: int
    way: str
    seconds: float
    calls: int
    throttled: Counter[str]
    invocations: int
    errors: Counter[str]
    given_up: int
    fullest: int
    emptiest: int
    lost: int
    doubled: int
    operations: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float | None:
        """Of the time to the bound; None where the bound is 0."""
        return self.seconds / bound(self.count) if bound(self.count) else None

    @property
    def calls_each(self) -> float:
        """AWS calls per instance, each attempt counted."""
        return self.calls / self.count


def made_once(make: Callable[..., Any]) -> Callable[..., Any]:
    """A function that gives what the other gave the first time, whatever the arguments."""
    made: list[Any] = []

    def give(*args: Any, **kwargs: Any) -> Any:
        if not made:
            made.append(make(*args, **kwargs))
        return made[0]

    return give


def parsed_once(parse: Callable[..., Any]) -> Callable[..., Any]:
    """botocore's parser, which for an answer that it has parsed lately gives the same again.

    A thousand environments are told of the same sensors. Nobody changes what is in an answer.
    """
    lately: OrderedDict[bytes, dict[str, Any]] = OrderedDict()

    def again(parser: Any, response: dict[str, Any], shape: Any) -> Any:
        operation, found, rest = response["body"].partition(b"</requestId>")
        if not found:  # an error
            return parse(parser, response, shape)
        # What comes before names the operation and the request.
        key = hashlib.sha256(operation.partition(b"<requestId>")[0] + rest).digest()
        if key not in lately:
            lately[key] = parse(parser, response, shape)
            if len(lately) > 100:
                lately.popitem(last=False)
        lately.move_to_end(key)
        # The parts that botocore adds to are the answer's own.
        return lately[key] | {"ResponseMetadata": dict(lately[key]["ResponseMetadata"])}

    return again


@contextmanager
def on_clock(clock: Clock, ec2: Ec2, function: Function) -> Iterator[None]:
    """All that sleeps, or asks for the time, does so on the simulated clock."""
    session = boto3.Session()
    session.events.register("response-received.ec2", ec2.answer)
    register = adaptive.register_retry_handler

    def register_retry_handler(client: Any) -> Any:
        # moto answers in place of the network, but among the handlers of before-send. The limiter
        # has to hold a request back before that, not afterwards.
        limiter = register(client)
        client.meta.events.unregister("before-send", limiter.on_sending_request)
        client.meta.events.register_first("before-send", limiter.on_sending_request)
        return limiter

    threads = SimpleNamespace(Lock=threading.Lock, Condition=partial(Condition, clock))
    ids = random.Random(0)
    with ExitStack() as stack:
        for name, replacement in (
            ("time.sleep", clock.sleep),
            ("time.time", clock.time),
            ("time.monotonic", clock.time),
            ("botocore.retries.bucket.threading", threads),
            ("botocore.retries.adaptive.register_retry_handler", register_retry_handler),
            ("boto3.session.Session", lambda: session),
            ("uuid.uuid4", lambda: uuid.UUID(int=ids.getrandbits(128), version=4)),
        ):
            stack.enter_context(patch(name, replacement))
        # What a client has in common with the others. Making it for each would take most of the
        # time. Its handlers, its rate limiter and its retries are its own.
        for name in (
            "botocore.client.ClientCreator._load_service_model",
            "botocore.client.ClientCreator._create_client_class",
            "botocore.httpsession.create_urllib3_context",
        ):
            stack.enter_context(patch(name, made_once(pkgutil.resolve_name(name))))
        parse = parsed_once(ResponseParser.parse)
        stack.enter_context(patch.object(ResponseParser, "parse", parse))
        pool = partial(Executor, clock)
        stack.enter_context(patch.object(function.module, "ThreadPoolExecutor", pool))
        # The metrics, a line per invocation.
        stack.enter_context(redirect_stdout(io.StringIO()))
        yield


def burst(count: int, way: str, seed: int = 1, **changes: Any) -> Row:
    """Start so many instances at once and see what becomes of them.

    Args:
        count: how many.
        way: how their events are delivered, one of WAYS.
        seed: for everything that is drawn.
        changes: of the deployment, to try other settings.
    """
    random.seed(seed)
    mock_random.seed(seed)
    function = Function()
    clock = Clock(function.enter)
    ec2 = Ec2(clock)
    with SimulatedAccount() as account:
        zone_of = {
            account.sensor(zone=zone, quota=10 * count): zone
            for _ in range(SENSORS_PER_ZONE)
            for zone in ZONES
        }
        instance_ids = [
            instance_id
            for index, zone in enumerate(ZONES)
            for instance_id in account.instances(len(range(index, count, len(ZONES))), zone=zone)
        ]
        random.shuffle(instance_ids)
        deployment = Deployment.of_template(account.filter_id, list(zone_of))
        deployment = Deployment(**{**vars(deployment), **changes})
        account.gates.append(ec2.receive)

        runner = Lambda(clock, function, deployment.timeout)
        delivery: Events | Queue
        if way == EACH:
            delivery = Events(clock, runner)
            variables = {name: deployment.variables[name] for name in ("filter_id", "targets")}
        else:
            delivery = Queue(clock, runner, deployment)
            variables = deployment.variables
        again = random.sample(instance_ids, round(TWICE * count))
        for number, instance_id in enumerate([*instance_ids, *again]):
            event = running_event(instance_id, f"event-{instance_ids.index(instance_id)}")
            seconds = random.uniform(*EVENT_SECONDS) * (1 if number < count else 2)
            clock.at(seconds, partial(delivery.send, event))
        sweeps = Events(clock, runner)

        def sweep() -> None:
            if len(ec2.created) < count:
                sweeps.send(scheduled_event())

        for number in range(1, SWEEPS + 1):
            clock.at(number * deployment.sweep_seconds, sweep)
        with on_clock(clock, ec2, function), patch.dict(os.environ, variables):
            clock.run()

        of_interface = Counter(one["NetworkInterfaceId"] for one in account.sessions())
        of_target = Counter(one["TrafficMirrorTargetId"] for one in account.sessions())
        interfaces = [one for key in instance_ids for one in account.interfaces_of(key)]
        times = sorted(ec2.created[key] for key in interfaces if of_interface[key])
        calls = Counter(call.operation for call in account.calls)
    loads = [[of_target[key] for key, where in zone_of.items() if where == z] for z in ZONES]
    most_uneven = max(loads, key=lambda load: max(load) - min(load))
    return Row(
        count=count,
        way=way,
        seconds=times[-1] if times else math.inf,
        calls=calls.total(),
        throttled=ec2.throttled,
        invocations=runner.invocations,
        errors=runner.errors,
        given_up=delivery.given_up,
        fullest=max(most_uneven),
        emptiest=min(most_uneven),
        lost=sum(not of_interface[key] for key in interfaces),
        doubled=sum(of_interface[key] > 1 for key in interfaces),
        operations=calls,
        times=times,
    )


# ---------------------------------------------------------------------------------------------
# The table, and what has to hold.

COLUMNS = (
    ("", "n", lambda row: f"{row.count:,}"),
    ("", "delivery", lambda row: row.way),
    ("last", "after s", lambda row: f"{row.seconds:.1f}"),
    ("bound", "s", lambda row: f"{bound(row.count):.0f}"),
    ("", "ratio", lambda row: f"{row.ratio:.2f}" if row.ratio else "-"),
    ("calls", "each", lambda row: f"{row.calls_each:.1f}"),
    ("throt-", "tled", lambda row: f"{row.throttled.total():,}"),
    ("invoca-", "tions", lambda row: f"{row.invocations:,}"),
    ("given", "up", lambda row: f"{row.given_up:,}"),
    ("sen-", "sors", lambda row: f"{row.fullest}/{row.emptiest}"),
    ("", "lost", lambda row: f"{row.lost}"),
    ("", "doubled", lambda row: f"{row.doubled}"),
)


def table(rows: Sequence[Row]) -> str:
    """The rows as text, with what the columns mean."""
    lines = [[column[0] for column in COLUMNS], [column[1] for column in COLUMNS]]
    lines += [[column[2](row) for column in COLUMNS] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(2, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            text.ljust(width) if column[1] == "delivery" else text.rjust(width)
            for text, width, column in zip(line, widths, COLUMNS, strict=True)
        ).rstrip()
        for line in lines
    )


LEGEND = """\
n         instances that start at once, over 3 zones with 4 sensors each
last      seconds from the start of the instances until the last of them is mirrored
bound     the least that EC2's limit on creates allows: 50 at once, then 5 a second
calls     AWS calls per instance, every attempt counted; throttled: those that EC2 turned away
given up  events that failed as often as Lambda or the queue tries; their instances are left to the
          sweep, which comes 5 minutes after the start
sensors   sessions on the fullest and the emptiest of a zone, in the zone where they differ most"""


def misses(row: Row) -> list[str]:
    """The goals that a burst has missed."""
    missed = []
    if row.lost or row.doubled:
        missed.append(f"{row.lost} lost and {row.doubled} mirrored twice, not 0")
    if row.way == BATCHES:
        least = bound(row.count)
        most = 1.25 * least if row.count >= 1_000 else least + 10
        if row.seconds > most:
            missed.append(f"the last mirrored after {row.seconds:.1f} s, not {most:.1f} s")
        if row.count >= 100 and row.calls_each >= 2:
            missed.append(f"{row.calls_each:.2f} calls per instance, not fewer than 2")
    return [f"{row.count:,} instances, {row.way}: {text}" for text in missed]


def burst_alone(count: int, way: str, seed: int) -> Row:
    """A burst in a process of its own."""
    gc.set_threshold(50_000, 20, 20)  # garbage is collected rarely, which saves a fifth of the time
    return burst(count, way, seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate the bursts, print the table; the exit code."""
    parser = argparse.ArgumentParser(description="A burst of starts against EC2's request limits.")
    parser.add_argument("instances", nargs="*", type=int, default=[10, 100, 1_000])
    parser.add_argument("--seed", type=int, default=1, help="for all that is drawn (1)")
    options = parser.parse_args(arguments)
    if min(options.instances) < 1:
        parser.error("at least one instance has to start")
    runs = [(count, way, options.seed) for count in options.instances for way in WAYS]
    # The longest first, as they set how long all of them take.
    longest_first = sorted(runs, key=lambda run: (run[0], run[1] == EACH), reverse=True)
    processes = min(len(runs), os.cpu_count() or 1)
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        rows = pool.starmap(burst_alone, longest_first, chunksize=1)
    of_run = dict(zip(longest_first, rows, strict=True))
    rows = [of_run[run] for run in runs]
    print(table(rows), LEGEND, sep="\n\n")
    missed = [text for row in rows for text in misses(row)]
    for text in missed:
        print(f"Missed: {text}.", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
