"""Starts against EC2's request limits, on a simulated clock: bursts of them, and day one.

    .venv/bin/python tests/simulations/burst.py               # 10, 100 and 1,000 instances
    .venv/bin/python tests/simulations/burst.py 50 300        # other numbers
    .venv/bin/python tests/simulations/burst.py --backlog 2000
    .venv/bin/python tests/simulations/burst.py --create-seconds 0.06 0.6 1.0 --seeds 1 2 3
    .venv/bin/python tests/simulations/burst.py --backlog 2000 --set timeout=60 memory=512

A burst: so many instances start at once, spread over 3 zones with 4 sensors each. Their events
reach the function in two ways:

    batches (SQS)    through the queue of deploy/template.yaml, with its batches, its concurrency,
                     its visibility timeout, its dead-letter queue and its variables
    one event each   EventBridge invokes the function once per event, as the plain rule does; what
                     fails Lambda tries again after 1 and after 2 minutes, and then no more

Where one of them leaves instances unmirrored, the sweep that the template schedules comes to them.

Day one (`--backlog`): so many instances run and nobody mirrors them when the schedule begins. No
event tells of them; one sweep after the other goes on where the one before has stopped.

The handler that runs is the real one, with real botocore clients that retry and slow down as they
do in Lambda, one client per execution environment. Simulated are the account behind them, EC2's
token buckets in front of that account, Lambda, SQS and the time. Whoever sleeps, waits for an
answer, for a lock or for another thread, waits on the simulated clock, and only one thread runs at
a time, so that a minute costs nothing and the same seed gives the same run.

What is assumed about AWS stands in the constants of the second section. What Python itself takes
is not simulated, but for the parsing of answers. The table is printed at the end; the exit code is
1 where a goal is missed (see `misses`), or an instance is lost or mirrored twice.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import concurrent.futures.thread
import gc
import hashlib
import heapq
import io
import itertools
import logging
import math
import multiprocessing
import os
import pkgutil
import random
import re
import statistics
import sys
import threading
import uuid
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

PROJECT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests"), str(PROJECT / "tests/deploy")]

import boto3  # noqa: E402
from aws import (  # noqa: E402
    LambdaContext,
    Refusal,
    SimulatedAccount,
    running_event,
    scheduled_event,
    sqs_event,
)
from botocore.parsers import ResponseParser  # noqa: E402
from cloudformation import resolve  # noqa: E402
from moto.core.models import botocore_stubber  # noqa: E402
from moto.moto_api._internal import mock_random  # noqa: E402

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
        self.turn = threading.Lock()
        self.turn.acquire()
        self.pauses = 0  # tells a wake-up that is meant from one that came too late
        self.killed = False
        self.done = False
        self.watchers: list[Task] = []


class Clock:
    """Simulated time, and whose turn it is."""

    EPOCH = 1_750_000_000.0  # Unix time at the start
    SHORTEST_SLEEP = 0.0001  # nobody sleeps for nothing, or rounding would let time stand still
    STANDSTILL_SECONDS = 300.0  # of real time in which no turn ends: somebody waits for real

    def __init__(self) -> None:
        self.now = 0.0
        self.problem: BaseException | None = None
        self._order = itertools.count()
        # When, the order among equals, and what to do then: gives the task to go on with, if any.
        self._agenda: list[tuple[float, int, Callable[[], Task | None]]] = []
        self._main = Task(None)
        self._current = self._main
        self._tasks: dict[Task, None] = {}  # in the order of their start

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
        self._tasks[task] = None

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
            del self._tasks[task]
            for watcher in task.watchers:
                self.wake(watcher)
            self._next().turn.release()

        threading.Thread(target=live, daemon=True).start()
        self.wake(task)
        return task

    def pause(self, seconds: float | None = None) -> None:
        """Let others go on, until so much later or (None) until somebody wakes this task."""
        task = self._current
        if task.killed:  # while it unwinds it waits for nobody
            raise Killed
        task.pauses += 1
        if seconds is not None:
            self._plan(task, self.now + seconds)
        following = self._next()
        if following is not task:
            following.turn.release()
            if task is self._main:
                self._wait_for_the_others()
            else:
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

    def others(self) -> list[Task]:
        """Tasks besides the present one that have its owner."""
        mine = self._current
        return [task for task in self._tasks if task.owner is mine.owner and task is not mine]

    def kill(self, owner: Any) -> None:
        """End the owner's tasks where they stand."""
        for task in self._tasks:
            if task.owner is owner:
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
        if task.killed:
            raise Killed

    def _wait_for_the_others(self) -> None:
        turns = -1
        while not self._main.turn.acquire(timeout=self.STANDSTILL_SECONDS):
            taken = next(self._order)
            if taken == turns + 1:
                raise RuntimeError("A thread waits for something that is not simulated.")
            turns = taken


class Lock:
    """In place of threading.Lock, or (`reentrant`) threading.RLock. A real lock held over a
    simulated sleep would stop the clock."""

    def __init__(self, clock: Clock, reentrant: bool = False) -> None:
        self._clock, self._reentrant = clock, reentrant
        self._holder: Task | None = None
        self._depth = 0
        self._waiting: deque[Task] = deque()

    def acquire(self) -> bool:
        """Wait until nobody else has it."""
        me = self._clock.current
        while self._holder is not None and not (self._reentrant and self._holder is me):
            self._waiting.append(me)
            self._clock.pause()
        self._holder = me
        self._depth += 1
        return True

    def release(self) -> None:
        """Let the one have it that has waited longest."""
        me = self._clock.current
        if me.killed and self._holder is not me:  # it was ended while it waited for it
            return
        if self._holder is None:
            raise RuntimeError("release unlocked lock")
        self._depth -= 1
        if not self._depth:
            self._holder = None
            if self._waiting:
                self._clock.wake(self._waiting.popleft())

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


class Condition:
    """In place of threading.Condition."""

    def __init__(self, clock: Clock, lock: Lock | None = None) -> None:
        self._clock = clock
        self._lock = lock or Lock(clock, reentrant=True)
        self._waiting: deque[Task] = deque()

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for a notification, so many seconds at most; whether there was one."""
        task = self._clock.current
        self._waiting.append(task)
        self._lock.release()
        try:
            self._clock.pause(None if timeout is None else max(timeout, Clock.SHORTEST_SLEEP))
        finally:
            notified = task not in self._waiting
            if not notified:
                self._waiting.remove(task)
            if not task.killed:
                self._lock.acquire()
        return notified

    def notify(self, n: int = 1) -> None:
        """Wake those that have waited longest."""
        for _ in range(min(n, len(self._waiting))):
            self._clock.wake(self._waiting.popleft())

    def notify_all(self) -> None:
        """Wake all."""
        self.notify(len(self._waiting))


class Threading(ModuleType):
    """In place of the module threading. What is not here would wait for real, or not at all, and
    is refused."""

    def __init__(self, clock: Clock) -> None:
        super().__init__("threading")
        self.Lock = partial(Lock, clock)
        self.RLock = partial(Lock, clock, reentrant=True)
        self.Condition = partial(Condition, clock)
        self.local = threading.local
        self.get_ident = threading.get_ident
        self.current_thread = threading.current_thread


class Pool(concurrent.futures.Executor):
    """In place of ThreadPoolExecutor, whose workers would be unknown to the clock. What is
    submitted begins at once where a worker is free, and workers are started as they are needed."""

    def __init__(self, clock: Clock, max_workers: int) -> None:
        self._clock, self._max_workers = clock, max_workers
        self._workers: list[Task] = []
        self._idle: deque[Task] = deque()
        self._shut = False
        self._waiting: deque[tuple[concurrent.futures.Future[Any], Callable[[], Any]]] = deque()

    def submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future[Any]:
        """Have this done by a worker."""
        if self._shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._waiting.append((future, partial(fn, *args, **kwargs)))
        if self._idle:
            self._clock.wake(self._idle.popleft())
        elif len(self._workers) < self._max_workers:
            self._workers.append(self._clock.start(self._work))
        return future

    def shutdown(self, wait: bool = True) -> None:  # type: ignore[override]
        """Take nothing more; wait for what is under way."""
        self._shut = True
        while self._idle:
            self._clock.wake(self._idle.popleft())
        if wait:
            self._clock.join(self._workers)

    def _work(self) -> None:
        while True:
            while self._waiting:
                future, what = self._waiting.popleft()
                if not future.set_running_or_notify_cancel():
                    continue
                try:
                    result = what()
                except Killed:
                    raise
                except BaseException as error:  # noqa: BLE001 - the future raises it
                    future.set_exception(error)
                else:
                    future.set_result(result)
            if self._shut:
                return
            self._idle.append(self._clock.current)
            self._clock.pause()


# ---------------------------------------------------------------------------------------------
# What is assumed about AWS.

ZONES = ("a", "b", "c")
SENSORS_PER_ZONE = 4

# EC2's token buckets, one per operation: tokens at the most, and tokens a second. Documented in
# the EC2 developer guide, 'Request throttling'.
READS = (100.0, 20.0)
UNLIMITED_READS = (50.0, 10.0)  # neither filter nor page size
WRITES = (50.0, 5.0)

CALL_SECONDS = 0.06  # to EC2 and back; of a create only where it is throttled
CREATE_SECONDS = 0.6  # a create that is not throttled; AWS's mutating calls take 0.5 to 1 s
MORE_BYTES = 3_700  # that AWS shows of an instance besides what the simulated account does
RECEIVE_SECONDS_PER_BYTE = 0.02e-6
PARSE_SECONDS_PER_BYTE = 0.2e-6  # of a whole CPU, of which Lambda gives a share by memory

EVENT_SECONDS = (0.5, 1.5)  # from the start of an instance to its event's arrival
TWICE = 0.01  # the share of events that EventBridge delivers twice (it promises once or more)

COLD_START_SECONDS = (1.2, 2.0)  # environment, import of boto3, client
WHOLE_CPU = 1_769  # MB that come with one
INVOCATION_SECONDS = 0.02  # from Lambda's decision to the handler
ENVIRONMENTS = 1_000  # an account's concurrency, all of which one function may start at once
RETRY_SECONDS = (60.0, 120.0)  # until a failed asynchronous invocation is tried again
BUSY_SECONDS = (1.0, 300.0)  # the same where no environment is free: from, doubled each time, to

SWEEPS = 6  # after a burst, at most; none comes when all instances are mirrored
PATIENCE = 30  # times the bound: after so long day one is over, whatever is left

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
    """EC2's side of the line: how long calls take, which are throttled, what was created when.

    `seconds_per_byte` is what it takes to receive and to parse an answer.
    """

    def __init__(self, clock: Clock, create_seconds: float, seconds_per_byte: float) -> None:
        self.clock, self.seconds_per_byte = clock, seconds_per_byte
        self.working_seconds = create_seconds - CALL_SECONDS  # until there is a session
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
            if self.working_seconds > 0:
                self.clock.sleep(self.working_seconds)
            self.created.setdefault(parameters["NetworkInterfaceId"], self.clock.now)

    def answer(self, response_dict: dict[str, Any] | None = None, **_: Any) -> None:
        """An answer is on its way; for botocore's event response-received."""
        body = response_dict["body"] if response_dict else b""
        size = len(body)
        if b"<DescribeInstancesResponse" in body:
            size += MORE_BYTES * body.count(b"<instanceId>")
        self.clock.sleep(CALL_SECONDS / 2 + size * self.seconds_per_byte)


# ---------------------------------------------------------------------------------------------
# Lambda and SQS.


class Function:
    """The function's source, loaded anew for each execution environment."""

    PATH = PROJECT / "lambda_traffic_mirror.py"
    NAME = "burst_function"

    def __init__(self) -> None:
        self._code = compile(self.PATH.read_text(encoding="utf-8"), str(self.PATH), "exec")

    def load(self) -> Any:
        """The module, fresh; it takes its threads, locks and time from where it is loaded."""
        module = ModuleType(self.NAME)
        module.__file__ = str(self.PATH)
        sys.modules[self.NAME] = module  # dataclasses look themselves up there
        exec(self._code, module.__dict__)
        return module


@dataclass(eq=False)
class Environment:
    """An execution environment: the module, once a cold start has loaded it."""

    module: Any = None


# What is told of the end of an invocation: its result, or None after an error or a timeout.
After = Callable[[dict[str, Any] | None], None]


class Lambda:
    """Runs the function in execution environments, which it keeps and uses again.

    To start one does not count as part of the timeout.
    """

    def __init__(self, clock: Clock, function: Function, timeout: float) -> None:
        self.clock, self.function, self.timeout = clock, function, timeout
        self.invocations = 0
        self.errors: Counter[str] = Counter()
        self._environments = 0
        self._idle: list[Environment] = []

    def invoke(self, event: dict[str, Any], after: After) -> bool:
        """Run the handler in an environment; whether there is one. `after` is told of the end."""
        if self._idle:
            environment = self._idle.pop()  # the one that was used last
        elif self._environments == ENVIRONMENTS:
            return False
        else:
            environment = Environment()
            self._environments += 1
        self.clock.start(partial(self._live, environment, event, after), environment)
        return True

    def _live(self, environment: Environment, event: dict[str, Any], after: After) -> None:
        """One invocation, from the thread of the environment."""
        self.invocations += 1
        if not environment.module:
            self.clock.sleep(random.uniform(*COLD_START_SECONDS))
            environment.module = self.function.load()
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
            result = environment.module.lambda_handler(event, context)
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
                if self.clock.others():
                    self.errors["threads left behind"] += 1
                self._idle.append(environment)
            after(result)


class Events:
    """Asynchronous invocations, one per event: tried again as often as Lambda does, or as it has
    been told to, then given up."""

    def __init__(self, clock: Clock, function: Lambda, retries: int = len(RETRY_SECONDS)) -> None:
        self.clock, self.function, self.retries = clock, function, retries
        self.given_up = 0

    def send(self, event: dict[str, Any]) -> None:
        """An event arrives."""
        self._try(event, 0, BUSY_SECONDS[0])

    def _try(self, event: dict[str, Any], failures: int, busy_seconds: float) -> None:
        def after(result: dict[str, Any] | None) -> None:
            if result is None and failures == self.retries:
                self.given_up += 1
            elif result is None:
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
    """What the template says about function, queue, batches and sweeps."""

    variables: dict[str, str]
    timeout: float
    memory: int
    batch_size: int
    window: float
    concurrency: int
    visibility: float
    max_receives: int
    sweep_seconds: float
    sweep_retries: int

    @classmethod
    def of_template(cls, filter_id: str, targets: Sequence[str]) -> Deployment:
        """As `deploy.sh` deploys it, with every parameter that has a default at its default."""
        given = {"FilterId": filter_id, "Targets": ",".join(targets)}
        resolved = resolve(parameters={"CodeBucket": "bucket", "CodeKey": "key", **given})
        function, queue, mapping, rule, retry = (
            resolved["Resources"][name]["Properties"]
            for name in ("Function", "Queue", "QueueMapping", "SweepRule", "SweepRetry")
        )
        number, unit = re.findall(r"\w+", rule["ScheduleExpression"])[1:]
        return cls(
            variables=function["Environment"]["Variables"],
            timeout=float(function["Timeout"]),
            memory=int(function["MemorySize"]),
            batch_size=int(mapping["BatchSize"]),
            window=float(mapping.get("MaximumBatchingWindowInSeconds", 0)),
            concurrency=int(mapping["ScalingConfig"]["MaximumConcurrency"]),
            visibility=float(queue["VisibilityTimeout"]),
            max_receives=int(queue["RedrivePolicy"]["maxReceiveCount"]),
            sweep_seconds=int(number) * {"minute": 60.0, "hour": 3_600.0}[unit.rstrip("s")],
            sweep_retries=int(retry["MaximumRetryAttempts"]),
        )

    @property
    def seconds_per_byte(self) -> float:
        """What an answer takes, with the share of a CPU that comes with the memory."""
        return RECEIVE_SECONDS_PER_BYTE + PARSE_SECONDS_PER_BYTE / min(self.memory / WHOLE_CPU, 1)


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

        def after(result: dict[str, Any] | None) -> None:
            failed = {message.message_id for message in batch}
            if result is not None:
                failed = {failure["itemIdentifier"] for failure in result["batchItemFailures"]}
            for message in batch:
                if message.message_id in failed:
                    self.clock.at(again_at, partial(self._show, message))
            self._free += 1
            self._poll()

        assert self.function.invoke(event, after), "the concurrency of a mapping is small"


# ---------------------------------------------------------------------------------------------
# A burst, and day one.

EACH = "one event each"
BATCHES = "batches (SQS)"
DAY_ONE = "day one"
WAYS = (BATCHES, EACH)  # of the events of a burst


@dataclass
class Row:
    """What came of a run, or of several with other seeds: a line of the table, and what explains
    it. Of several, `seconds` and `calls` are means, and the others sums or the worst."""

    count: int
    way: str
    create_seconds: float
    seconds: float
    calls: float
    throttled: Counter[str]
    invocations: int
    errors: Counter[str]
    given_up: int
    fullest: int
    emptiest: int
    lost: int
    doubled: int
    seeds: int = 1
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

    @staticmethod
    def mean(rows: Sequence[Row]) -> Row:
        """Runs that differ by their seed, as one."""
        worst = max(rows, key=lambda row: row.fullest - row.emptiest)
        sums = ("invocations", "given_up", "lost", "doubled")
        return replace(
            worst,
            seconds=statistics.fmean(row.seconds for row in rows),
            calls=statistics.fmean(row.calls for row in rows),
            throttled=sum((row.throttled for row in rows), Counter()),
            errors=sum((row.errors for row in rows), Counter()),
            **{name: sum(getattr(row, name) for row in rows) for name in sums},
            seeds=len(rows),
            operations=Counter(),
            times=[],
        )


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

    A thousand environments are told of the same sensors, and sweeps of the same instances. Nobody
    changes what is in an answer.
    """
    next_token = re.compile(rb"<nextToken>([^<]*)</nextToken>")
    lately: OrderedDict[bytes, dict[str, Any]] = OrderedDict()

    def again(parser: Any, response: dict[str, Any], shape: Any) -> Any:
        operation, found, rest = response["body"].partition(b"</requestId>")
        if not found:  # an error
            return parse(parser, response, shape)
        # What comes before names the operation and the request. A token is another one each time.
        token = next_token.search(rest)
        rest = next_token.sub(b"", rest)
        key = hashlib.sha256(operation.partition(b"<requestId>")[0] + rest).digest()
        if key not in lately:
            lately[key] = parse(parser, response, shape)
            if len(lately) > 100:
                lately.popitem(last=False)
        lately.move_to_end(key)
        # The parts that botocore adds to are the answer's own.
        answer = lately[key] | {"ResponseMetadata": dict(lately[key]["ResponseMetadata"])}
        answer.pop("NextToken", None)
        return answer | ({"NextToken": token[1].decode()} if token else {})

    return again


@contextmanager
def on_clock(clock: Clock, ec2: Ec2) -> Iterator[None]:
    """All that sleeps, waits, starts threads or asks for the time does so on the simulated clock,
    the function's module included where it is loaded meanwhile."""
    session = boto3.Session()
    session.events.register("response-received.ec2", ec2.answer)
    # moto answers in place of the network, but among the handlers of before-send. Whoever else
    # hangs there, to hold a request back, has to come before it.
    session.events.unregister("before-send", botocore_stubber)
    emitter = session._session.get_component("event_emitter")
    emitter.register_last("before-send", botocore_stubber)

    simulated = Threading(clock)
    pool = partial(Pool, clock)
    ids = random.Random(0)
    with ExitStack() as stack:
        for name, replacement in (
            ("time.sleep", clock.sleep),
            ("time.time", clock.time),
            ("time.monotonic", clock.time),
            ("botocore.retries.adaptive.threading", simulated),
            ("botocore.retries.bucket.threading", simulated),
            ("concurrent.futures._base.threading", simulated),
            ("concurrent.futures.thread.ThreadPoolExecutor", pool),
            ("concurrent.futures.ThreadPoolExecutor", pool),
            ("boto3.session.Session", lambda *_, **__: session),
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
        # For the function's `import threading`. All others have imported theirs.
        stack.enter_context(patch.dict(sys.modules, threading=simulated))
        # As in Lambda: the module makes its client when it is loaded.
        stack.enter_context(patch.dict(os.environ, AWS_LAMBDA_FUNCTION_NAME="simulated"))
        # The metrics, a line per invocation, and what Lambda would log.
        stack.enter_context(redirect_stdout(io.StringIO()))
        logger = logging.getLogger(Function.NAME)
        stack.enter_context(patch.object(logger, "disabled", True))
        yield


@dataclass
class Stage:
    """A simulated account with sensors and instances, the function deployed for it, the clock."""

    account: SimulatedAccount
    clock: Clock
    ec2: Ec2
    runner: Lambda
    deployment: Deployment
    zone_of: dict[str, str]  # of the targets
    instance_ids: list[str]

    @property
    def all_created(self) -> bool:
        """Whether every instance has a session."""
        return len(self.ec2.created) >= len(self.instance_ids)

    def send_sweeps(self, first: float, most: int) -> None:
        """Plan sweeps by the template's schedule, which end when all instances have a session."""
        sweeps = Events(self.clock, self.runner, self.deployment.sweep_retries)

        def sweep(left: int) -> None:
            if not self.all_created:
                sweeps.send(scheduled_event())
                if left:
                    again_at = self.clock.now + self.deployment.sweep_seconds
                    self.clock.at(again_at, partial(sweep, left - 1))

        self.clock.at(first, partial(sweep, most - 1))

    def run(self, variables: dict[str, str]) -> None:
        """Let happen what has been planned."""
        with on_clock(self.clock, self.ec2), patch.dict(os.environ, variables):
            self.clock.run()

    def row(self, way: str, create_seconds: float, given_up: int) -> Row:
        """What came of it."""
        of_interface = Counter(one["NetworkInterfaceId"] for one in self.account.sessions())
        of_target = Counter(one["TrafficMirrorTargetId"] for one in self.account.sessions())
        wanted = set(self.instance_ids)
        interfaces = [
            interface["NetworkInterfaceId"]
            for group in self.account.ec2.describe_instances()["Reservations"]
            for instance in group["Instances"]
            if instance["InstanceId"] in wanted
            for interface in instance["NetworkInterfaces"]
        ]
        created = self.ec2.created
        times = sorted(created[key] for key in interfaces if of_interface[key])
        calls = Counter(call.operation for call in self.account.calls)
        of_zone = [[of_target[k] for k, at in self.zone_of.items() if at == z] for z in ZONES]
        most_uneven = max(of_zone, key=lambda loads: max(loads) - min(loads))
        return Row(
            count=len(self.instance_ids),
            way=way,
            create_seconds=create_seconds,
            seconds=times[-1] if times else math.inf,
            calls=calls.total(),
            throttled=self.ec2.throttled,
            invocations=self.runner.invocations,
            errors=self.runner.errors,
            given_up=given_up,
            fullest=max(most_uneven),
            emptiest=min(most_uneven),
            lost=sum(not of_interface[key] for key in interfaces),
            doubled=sum(of_interface[key] > 1 for key in interfaces),
            operations=calls,
            times=times,
        )


@contextmanager
def scene(count: int, seed: int, create_seconds: float, changes: dict[str, Any]) -> Iterator[Stage]:
    """So many instances over all zones, in random order, and sensors that never are full."""
    random.seed(seed)
    mock_random.seed(seed)
    with SimulatedAccount() as account:
        account.account_quota = 10 * count
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
        deployment = replace(deployment, **changes)
        clock = Clock()
        ec2 = Ec2(clock, create_seconds, deployment.seconds_per_byte)
        account.gates.append(ec2.receive)
        runner = Lambda(clock, Function(), deployment.timeout)
        yield Stage(account, clock, ec2, runner, deployment, zone_of, instance_ids)


def burst(
    count: int, way: str, seed: int = 1, create_seconds: float = CREATE_SECONDS, **changes: Any
) -> Row:
    """Start so many instances at once and see what becomes of them.

    `way`, one of WAYS, is how their events are delivered, `seed` for everything that is drawn, and
    `changes` are of the deployment, to try other settings.
    """
    with scene(count, seed, create_seconds, changes) as made:
        clock, deployment = made.clock, made.deployment
        delivery: Events | Queue
        if way == EACH:
            delivery = Events(clock, made.runner)
            variables = {name: deployment.variables[name] for name in ("filter_id", "targets")}
        else:
            delivery = Queue(clock, made.runner, deployment)
            variables = deployment.variables
        number_of = {key: number for number, key in enumerate(made.instance_ids)}
        again = random.sample(made.instance_ids, round(TWICE * count))
        for number, instance_id in enumerate([*made.instance_ids, *again]):
            event = running_event(instance_id, f"event-{number_of[instance_id]}")
            seconds = random.uniform(*EVENT_SECONDS) * (1 if number < count else 2)
            clock.at(seconds, partial(delivery.send, event))
        made.send_sweeps(first=deployment.sweep_seconds, most=SWEEPS)
        made.run(variables)
        return made.row(way, create_seconds, delivery.given_up)


def day_one(
    count: int, seed: int = 1, create_seconds: float = CREATE_SECONDS, **changes: Any
) -> Row:
    """Sweep so many instances that nobody mirrors, until the last one has a session.

    The time is counted from the first sweep. The arguments are those of `burst`.
    """
    with scene(count, seed, create_seconds, changes) as made:
        most = math.ceil(PATIENCE * bound(count) / made.deployment.sweep_seconds) + SWEEPS
        made.send_sweeps(first=0.0, most=most)
        made.run(made.deployment.variables)
        return made.row(DAY_ONE, create_seconds, given_up=0)


# ---------------------------------------------------------------------------------------------
# The table, and what has to hold.

COLUMNS = (
    ("", "n", lambda row: f"{row.count:,}"),
    ("", "delivery", lambda row: row.way),
    ("create", "s", lambda row: f"{row.create_seconds:.2f}"),
    ("last", "after s", lambda row: f"{row.seconds:,.1f}"),
    ("bound", "s", lambda row: f"{bound(row.count):,.0f}"),
    ("", "ratio", lambda row: f"{row.ratio:.3f}" if row.ratio else "-"),
    ("calls", "each", lambda row: f"{row.calls_each:.2f}"),
    ("throt-", "tled", lambda row: f"{row.throttled.total() / row.seeds:,.0f}"),
    ("given", "up", lambda row: f"{row.given_up:,}"),
    ("sen-", "sors", lambda row: f"{row.fullest}/{row.emptiest}"),
    ("", "lost", lambda row: f"{row.lost}"),
    ("", "doubled", lambda row: f"{row.doubled}"),
)


def table(rows: Sequence[Row]) -> str:
    """The rows as text."""
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
n         instances, over 3 zones with 4 sensors each: they start at once, or (day one) run already
create    seconds that a create takes; other calls take 0.06 s
last      seconds from the start of the instances, or from the first sweep, until the last of them
          is mirrored
bound     the least that EC2's limit on creates allows: 50 at once, then 5 a second
calls     AWS calls per instance, every attempt counted; throttled: those that EC2 turned away
given up  events that failed as often as Lambda or the queue tries; their instances are left to the
          sweep, which comes 5 minutes after the start
sensors   sessions on the fullest and the emptiest of a zone, in the zone where they differ most
Of several seeds: means; given up, lost and doubled are sums, sensors the worst."""

# By seconds a create, each also for shorter ones: seconds until the last of a burst that the full
# bucket serves, seconds over the bound of up to 100 and of up to 999 instances, and from 1,000 up
# how many times the bound.
GOALS = {
    0.06: (4.3, 4.2, 3.7, 1.015),
    0.6: (4.0, 5.0, 6.0, 1.05),
    1.0: (5.0, 6.0, 6.0, 1.06),
}
DAY_ONE_RATIO = 1.05


def longest(row: Row) -> float:
    """The goal: the seconds after which the last instance has to be mirrored."""
    least = bound(row.count)
    if row.way == DAY_ONE:
        return DAY_ONE_RATIO * least if least else math.inf
    goals = next((of for upto, of in GOALS.items() if row.create_seconds <= upto), None)
    if row.way == EACH or not goals:
        return math.inf
    at_once, hundred, hundreds, times = goals
    if not least:
        return at_once
    return (
        least + (hundred if row.count <= 100 else hundreds) if row.count < 1_000 else times * least
    )


def misses(row: Row) -> list[str]:
    """The goals that a run has missed."""
    missed = []
    if row.lost or row.doubled:
        missed.append(f"{row.lost} lost and {row.doubled} mirrored twice, not 0")
    missed += [
        f"{row.errors[what]} invocations with {what}, not 0"
        for what in ("timeout", "threads left behind")
        if row.errors[what]
    ]
    most = longest(row)
    if row.seconds > most:
        missed.append(f"the last mirrored after {row.seconds:.1f} s, not {most:.1f} s")
    if row.way == BATCHES and row.count >= 100 and row.calls_each >= 2:
        missed.append(f"{row.calls_each:.2f} calls per instance, not fewer than 2")
    where = f"{row.count:,} instances, {row.way}, {row.create_seconds:.2f} s a create"
    return [f"{where}: {text}" for text in missed]


Changes = tuple[tuple[str, float], ...]
Run = tuple[int, str, float, int]
# What of the template can be tried otherwise.
SETTINGS = tuple(name for name in Deployment.__dataclass_fields__ if name != "variables")


def change(text: str) -> tuple[str, float]:
    """A setting and its value, as NAME=VALUE."""
    name, _, value = text.partition("=")
    if name not in SETTINGS:
        raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(SETTINGS)}")
    return name, float(value) if name.endswith(("timeout", "window", "seconds")) else int(value)


def run_alone(changes: Changes, count: int, way: str, create_seconds: float, seed: int) -> Row:
    """A run in a process of its own."""
    gc.set_threshold(50_000, 20, 20)  # garbage is collected rarely, which saves a fifth of the time
    if way == DAY_ONE:
        return day_one(count, seed, create_seconds, **dict(changes))
    return burst(count, way, seed, create_seconds, **dict(changes))


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate the runs, print the table; the exit code."""
    parser = argparse.ArgumentParser(description="Starts against EC2's request limits.")
    parser.add_argument("instances", nargs="*", type=int, help="that start at once (10 100 1000)")
    values: dict[str, tuple[Callable[[str], Any], list[Any], str, str]] = {
        "--backlog": (int, [], "N", "day one with so many instances, in place of bursts"),
        "--create-seconds": (float, [CREATE_SECONDS], "S", f"of a create ({CREATE_SECONDS})"),
        "--seeds": (int, [1], "SEED", "for all that is drawn: means (1)"),
        "--set": (change, [], "NAME=VALUE", f"of the template, to try it: {', '.join(SETTINGS)}"),
    }
    for name, (kind, usual, word, text) in values.items():
        parser.add_argument(name, nargs="+", type=kind, default=usual, metavar=word, help=text)
    deliveries = {"batches": (BATCHES,), "each": (EACH,), "both": WAYS}
    parser.add_argument(
        "--delivery", choices=deliveries, default="both", help="of a burst's events"
    )
    options = parser.parse_args(arguments)
    bursts = options.instances or ([] if options.backlog else [10, 100, 1_000])
    if min(bursts + options.backlog) < 1:
        parser.error("at least one instance is needed")
    if min(options.create_seconds) < CALL_SECONDS:
        parser.error(f"a create takes {CALL_SECONDS} s at least")
    kinds = [(count, way) for count in bursts for way in deliveries[options.delivery]]
    kinds += [(count, DAY_ONE) for count in options.backlog]
    lines = [(*kind, seconds) for kind in kinds for seconds in options.create_seconds]
    runs: list[Run] = [(*line, seed) for line in lines for seed in options.seeds]
    # The longest first, as they set how long all of them take.
    longest_first = sorted(runs, key=lambda run: (run[0], run[1] == EACH), reverse=True)
    processes = min(len(runs), os.cpu_count() or 1)
    os.environ["PYTHONHASHSEED"] = "0"  # the order in sets is drawn too
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        done = pool.starmap(partial(run_alone, tuple(options.set)), longest_first, chunksize=1)
    of_run = dict(zip(longest_first, done, strict=True))
    rows = [Row.mean([of_run[(*line, seed)] for seed in options.seeds]) for line in lines]
    print(table(rows), LEGEND, sep="\n\n")
    missed = [text for row in rows for text in misses(row)]
    for text in missed:
        print(f"Missed: {text}.", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
