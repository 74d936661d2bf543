"""Starts against EC2's request limits, on a simulated clock: bursts of them, and day one.

    .venv/bin/python tests/simulations/burst.py               # 10, 100, 300 and 1,000 instances
    .venv/bin/python tests/simulations/burst.py 50 --create-seconds 0.06 0.6 1.0
    .venv/bin/python tests/simulations/burst.py --backlog 2000

A burst: so many instances start at once, spread over 3 zones with 4 sensors each. Their events
reach the function through the queue of deploy/template.yaml, with its batches, its concurrency, its
visibility timeout, its dead-letter queue and its variables. Where that leaves instances unmirrored,
the sweep that the template schedules comes to them.

Day one (`--backlog`): so many instances run, and none is mirrored, when the schedule begins. No
event tells of them; one sweep after the other goes on where the one before has stopped.

The handler that runs is the real one, with real botocore clients that retry as they do in Lambda,
one client per execution environment. Simulated are the account behind them, EC2's token buckets in
front of that account, Lambda, SQS and the time. What sleeps, or waits for an answer or for another
thread, waits on the simulated clock, and only one thread runs at a time, so that a minute costs
nothing and the same seed gives the same run. A lock that the function held over a call would stop
the clock, which is told.

What is assumed about AWS stands in the constants of the second section. What Python itself takes
is not simulated, but for the parsing of answers.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import io
import itertools
import logging
import math
import multiprocessing
import os
import random
import re
import sys
import threading
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
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
from cloudformation import resolve  # noqa: E402
from moto.moto_api._internal import mock_random  # noqa: E402

# ---------------------------------------------------------------------------------------------
# The simulated clock. Threads that run on it run one at a time; each waits on a lock of its own
# until the one before has come to a point where it sleeps. Then the one whose time comes first
# goes on, and the clock jumps there.


class Task:
    """A thread on the simulated clock."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self.turn.acquire()
        self.pauses = 0  # tells a wake-up that is meant from one that came too late


class Clock:
    """Simulated time, and whose turn it is."""

    EPOCH = 1_750_000_000.0  # Unix time at the start
    SHORTEST_SLEEP = 0.0001  # nothing sleeps for no time, or rounding would let time stand still
    STANDSTILL_SECONDS = 300.0  # of real time in which no turn ends: a thread waits for real

    def __init__(self) -> None:
        self.now = 0.0
        self.current = self._main = Task()
        self._problem: BaseException | None = None
        self._order = itertools.count()
        # When, the order among equals, and what to do then: gives the task to go on with, if any.
        self._agenda: list[tuple[float, int, Callable[[], Task | None]]] = []

    def time(self) -> float:
        """In place of time.time."""
        return self.EPOCH + self.now

    def sleep(self, seconds: float) -> None:
        """In place of time.sleep."""
        self.pause(max(seconds, self.SHORTEST_SLEEP))

    def at(self, when: float, what: Callable[[], object]) -> None:
        """Call this at that time. What is called must not sleep; it may start what does."""

        def act() -> None:
            what()

        self._plan(when, act)

    def start(self, what: Callable[[], object]) -> None:
        """A thread that does this from now on."""
        task = Task()

        def live() -> None:
            task.turn.acquire()
            self.current = task
            try:
                what()
            except BaseException as error:  # noqa: BLE001 - `run` raises it
                self._problem = self._problem or error
            self._next().turn.release()

        threading.Thread(target=live, daemon=True).start()
        self.wake(task)

    def pause(self, seconds: float | None = None) -> None:
        """Let others go on, until so much later or (None) until something wakes this task."""
        task = self.current
        task.pauses += 1
        if seconds is not None:
            self.wake(task, seconds)
        following = self._next()
        if following is not task:
            following.turn.release()
            seconds_left = self.STANDSTILL_SECONDS if task is self._main else -1
            if not task.turn.acquire(timeout=seconds_left):
                raise RuntimeError("A thread waits for something that is not simulated.")
        self.current = task

    def wake(self, task: Task, seconds: float = 0.0) -> None:
        """Let the task go on so much later, unless something else has woken it until then."""
        pauses = task.pauses
        self._plan(self.now + seconds, lambda: task if task.pauses == pauses else None)

    def run(self) -> None:
        """Go on until nothing is left to do."""
        self.pause()
        if self._problem:
            raise self._problem

    def _plan(self, when: float, act: Callable[[], Task | None]) -> None:
        heapq.heappush(self._agenda, (max(when, self.now), next(self._order), act))

    def _next(self) -> Task:
        while self._agenda and not self._problem:
            when, _, act = heapq.heappop(self._agenda)
            self.now = max(self.now, when)
            task = act()
            if task is not None:
                task.pauses += 1  # other wake-ups for this pause come too late
                return task
        return self._main


class Answer(Future[Any]):
    """A future that is waited for on the simulated clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def wait(self) -> None:
        """Waits for the end of the call."""
        if not self.done():
            me = self._clock.current
            self.add_done_callback(lambda _: self._clock.wake(me))
            self._clock.pause()

    def result(self, timeout: float | None = None) -> Any:
        """Waits for the end of the call, and gives what came of it."""
        self.wait()
        return super().result()


class Pool(Executor):
    """In place of ThreadPoolExecutor, whose workers would be unknown to the clock."""

    def __init__(self, clock: Clock, max_workers: int) -> None:
        self._clock, self._idle = clock, max_workers
        self._waiting: deque[tuple[Answer, Callable[[], Any]]] = deque()
        self._given: list[Answer] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Answer:
        """Have this done by a worker, a new one where there is room for one more."""
        answer = Answer(self._clock)
        self._given.append(answer)
        self._waiting.append((answer, partial(fn, *args, **kwargs)))
        if self._idle:
            self._idle -= 1
            self._clock.start(self._work)
        return answer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for what is under way."""
        for answer in self._given:
            answer.wait()

    def _work(self) -> None:
        while self._waiting:
            answer, what = self._waiting.popleft()
            if answer.set_running_or_notify_cancel():
                try:
                    answer.set_result(what())
                except BaseException as error:  # noqa: BLE001 - the future raises it
                    answer.set_exception(error)
        self._idle += 1


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
MORE_BYTES = 4_050  # that AWS shows of an instance besides what the simulated account does
RECEIVE_SECONDS_PER_BYTE = 0.02e-6
PARSE_SECONDS_PER_BYTE = 0.2e-6  # of a whole CPU, of which Lambda gives a share by memory

EVENT_SECONDS = (0.5, 1.5)  # from the start of an instance to its event's arrival
TWICE = 0.01  # the share of events that EventBridge delivers twice (it promises once or more)

COLD_START_SECONDS = (1.2, 2.0)  # environment, import of boto3, client
WHOLE_CPU = 1_769  # MB that come with one
INVOCATION_SECONDS = 0.02  # from Lambda's decision to the handler

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

# What is told of the end of an invocation: its result, or None after an error or a timeout.
After = Callable[[dict[str, Any] | None], None]


class Lambda:
    """Runs the function in execution environments, which it keeps and uses again.

    To start one does not count as part of the timeout. What ends after the timeout counts as an
    error; Lambda would have ended it before.
    """

    PATH = PROJECT / "lambda_traffic_mirror.py"
    NAME = "burst_function"

    def __init__(self, clock: Clock, timeout: float) -> None:
        self.clock, self.timeout = clock, timeout
        self.invocations = 0
        self.errors: Counter[str] = Counter()
        self._code = compile(self.PATH.read_text(encoding="utf-8"), str(self.PATH), "exec")
        self._idle: list[Any] = []  # modules of environments

    def invoke(self, event: dict[str, Any], after: After) -> None:
        """Run the handler, in the environment that was used last; `after` is told of the end."""
        module = self._idle.pop() if self._idle else None
        self.clock.start(partial(self._live, module, event, after))

    def _load(self) -> Any:
        """The module, fresh; it takes its threads from where it is loaded."""
        module = sys.modules[self.NAME] = ModuleType(self.NAME)  # dataclasses look there
        module.__file__ = str(self.PATH)
        exec(self._code, module.__dict__)
        return module

    def _live(self, module: Any, event: dict[str, Any], after: After) -> None:
        self.invocations += 1
        if not module:
            self.clock.sleep(random.uniform(*COLD_START_SECONDS))
            module = self._load()
        self.clock.sleep(INVOCATION_SECONDS)
        began, result = self.clock.now, None
        context = LambdaContext(seconds=self.timeout, clock=self.clock.time)
        try:
            result = module.lambda_handler(event, context)
        except Exception as error:  # noqa: BLE001 - Lambda reports it and goes on
            self.errors[type(error).__name__] += 1
        if self.clock.now - began > self.timeout:
            self.errors["timeout"] += 1
            result = None
        self._idle.append(module)
        after(result)


class Queue:
    """The SQS queue, and the event source mapping that empties it into the function.

    The mapping takes what there is, as much as a batch may have, as soon as one of the concurrent
    invocations is free. `queue` and `mapping` are their properties in the template.
    """

    def __init__(
        self, clock: Clock, function: Lambda, queue: dict[str, Any], mapping: dict[str, Any]
    ) -> None:
        assert not mapping.get("MaximumBatchingWindowInSeconds"), "a window is not simulated"
        self.clock, self.function = clock, function
        self.given_up = 0  # messages in the dead-letter queue
        self._batch_size = int(mapping["BatchSize"])
        self._visibility = float(queue["VisibilityTimeout"])
        self._most_receives = int(queue["RedrivePolicy"]["maxReceiveCount"])
        self._receives: Counter[str] = Counter()  # by message
        self._visible: deque[dict[str, Any]] = deque()
        self._free = int(mapping["ScalingConfig"]["MaximumConcurrency"])

    def show(self, message: dict[str, Any]) -> None:
        """A message, a record of an event's, can be received from now on."""
        self._visible.append(message)
        self._poll()

    def _poll(self) -> None:
        while self._free and self._visible:
            batch: list[dict[str, Any]] = []
            while self._visible and len(batch) < self._batch_size:
                message = self._visible.popleft()
                self._receives[message["messageId"]] += 1
                if self._receives[message["messageId"]] > self._most_receives:
                    self.given_up += 1
                else:
                    batch.append(message)
            if batch:
                self._free -= 1
                received = RECEIVE_SECONDS * math.ceil(len(batch) / RECEIVE)
                self.clock.at(self.clock.now + received, partial(self._invoke, batch))

    def _invoke(self, batch: list[dict[str, Any]]) -> None:
        again_at = self.clock.now + self._visibility

        def after(result: dict[str, Any] | None) -> None:
            failed = [message["messageId"] for message in batch]
            if result is not None:
                failed = [failure["itemIdentifier"] for failure in result["batchItemFailures"]]
            for message in batch:
                if message["messageId"] in failed:
                    self.clock.at(again_at, partial(self.show, message))
            self._free += 1
            self._poll()

        self.function.invoke({"Records": batch}, after)


# ---------------------------------------------------------------------------------------------
# A burst, and day one.

BURST, DAY_ONE = "burst", "day one"


@dataclass
class Row:
    """What came of a run: a line of the table, and what explains it."""

    count: int
    kind: str
    create_seconds: float
    seconds: float  # from the start of the instances until the last one is mirrored
    calls: Counter[str]
    throttled: Counter[str]
    invocations: int
    errors: Counter[str]
    given_up: int
    fullest: int
    emptiest: int
    lost: int
    doubled: int


@contextmanager
def on_clock(clock: Clock, ec2: Ec2) -> Iterator[None]:
    """All that sleeps, waits, starts threads or asks for the time does so on the simulated clock,
    the function's module included where it is loaded meanwhile."""
    session = boto3.Session()
    session.events.register("response-received.ec2", ec2.answer)
    ids = random.Random(0)
    with ExitStack() as stack:
        for name, replacement in (
            ("time.sleep", clock.sleep),
            ("time.time", clock.time),
            ("concurrent.futures.ThreadPoolExecutor", partial(Pool, clock)),
            ("boto3.session.Session", lambda *_, **__: session),
            ("uuid.uuid4", lambda: uuid.UUID(int=ids.getrandbits(128), version=4)),
        ):
            stack.enter_context(patch(name, replacement))
        # As in Lambda: the module makes its client when it is loaded.
        stack.enter_context(patch.dict(os.environ, AWS_LAMBDA_FUNCTION_NAME="simulated"))
        # The metrics, a line per invocation, and what Lambda would log.
        stack.enter_context(redirect_stdout(io.StringIO()))
        logger = logging.getLogger(Lambda.NAME)
        stack.enter_context(patch.object(logger, "disabled", True))
        yield


def run(
    count: int,
    kind: str = BURST,
    create_seconds: float = CREATE_SECONDS,
    seed: int = 1,
    **parameters: str,
) -> Row:
    """Start so many instances at once, or (day one) sweep them, and see what becomes of them.

    They are spread over all zones, in random order, and sensors never are full. `seed` is for all
    that is drawn, `parameters` are the template's, whose defaults hold otherwise (`Timeout="60"`).
    """
    random.seed(seed)
    mock_random.seed(seed)
    with SimulatedAccount() as account:
        account.account_quota = 10 * count
        zone_of = {
            account.sensor(zone=zone, quota=10 * count): zone
            for _ in range(SENSORS_PER_ZONE)
            for zone in ZONES
        }
        instances = [
            instance
            for index, zone in enumerate(ZONES)
            for instance in account.instances(len(range(index, count, len(ZONES))), zone=zone)
        ]
        interfaces = [account.first_interface(instance) for instance in instances]
        random.shuffle(instances)
        given = {"CodeBucket": "bucket", "CodeKey": "key", "FilterId": account.filter_id}
        resources = resolve(parameters=given | {"Targets": ",".join(zone_of)} | parameters)
        function, queued, mapping, rule, retry = (
            resources["Resources"][name]["Properties"]
            for name in ("Function", "Queue", "QueueMapping", "SweepRule", "SweepRetry")
        )
        assert int(retry["MaximumRetryAttempts"]) == 0, "retries of sweeps are not simulated"
        number, unit = re.findall(r"\w+", rule["ScheduleExpression"])[1:]
        every = int(number) * {"minute": 60.0, "hour": 3_600.0}[unit.rstrip("s")]
        cpus = min(float(function["MemorySize"]) / WHOLE_CPU, 1)
        clock = Clock()
        ec2 = Ec2(clock, create_seconds, RECEIVE_SECONDS_PER_BYTE + PARSE_SECONDS_PER_BYTE / cpus)
        account.gates.append(ec2.receive)
        runner = Lambda(clock, float(function["Timeout"]))
        queue = Queue(clock, runner, queued, mapping)

        def sweep(left: int) -> None:
            """By the template's schedule, until all instances have a session."""
            if len(ec2.created) < count and left:
                runner.invoke(scheduled_event(), lambda _: None)
                clock.at(clock.now + every, partial(sweep, left - 1))

        if kind == BURST:
            again = random.sample(range(count), round(TWICE * count))
            for place, number in enumerate([*range(count), *again]):
                event = running_event(instances[number], f"event-{number}")
                (message,) = sqs_event(event)["Records"]
                seconds = random.uniform(*EVENT_SECONDS) * (1 if place < count else 2)
                clock.at(seconds, partial(queue.show, message | {"messageId": f"message-{place}"}))
            clock.at(every, partial(sweep, SWEEPS))
        else:
            clock.at(0.0, partial(sweep, math.ceil(PATIENCE * bound(count) / every) + SWEEPS))
        with on_clock(clock, ec2), patch.dict(os.environ, function["Environment"]["Variables"]):
            clock.run()

        sessions = account.sessions()
        of_interface = Counter(session["NetworkInterfaceId"] for session in sessions)
        of_target = Counter(session["TrafficMirrorTargetId"] for session in sessions)
        of_zones = [[of_target[t] for t, at in zone_of.items() if at == zone] for zone in ZONES]
        loads = max(of_zones, key=lambda each: max(each) - min(each))
        return Row(
            count=count,
            kind=kind,
            create_seconds=create_seconds,
            seconds=max((ec2.created[one] for one in interfaces if of_interface[one]), default=0.0),
            calls=Counter(call.operation for call in account.calls),
            throttled=ec2.throttled,
            invocations=runner.invocations,
            errors=+runner.errors,
            given_up=queue.given_up,
            fullest=max(loads),
            emptiest=min(loads),
            lost=sum(not of_interface[one] for one in interfaces),
            doubled=sum(of_interface[one] > 1 for one in interfaces),
        )


# ---------------------------------------------------------------------------------------------
# The table.

COLUMNS: dict[str, Callable[[Row], str]] = {
    "n": lambda row: f"{row.count:,}",
    "kind": lambda row: row.kind,
    "create": lambda row: f"{row.create_seconds:.2f}",
    "last": lambda row: f"{row.seconds:,.1f}",
    "bound": lambda row: f"{bound(row.count):,.0f}",
    "over": lambda row: f"{row.seconds - bound(row.count):,.1f}",
    "calls": lambda row: f"{row.calls.total() / row.count:.2f}",
    "throttled": lambda row: f"{row.throttled.total():,}",
    "given up": lambda row: f"{row.given_up:,}",
    "sensors": lambda row: f"{row.fullest}/{row.emptiest}",
    "lost": lambda row: f"{row.lost}",
    "doubled": lambda row: f"{row.doubled}",
    "errors": lambda row: f"{row.errors.total()}",
}
LEGEND = """\
n         instances, over 3 zones with 4 sensors each: they start at once, or (day one) run already
create    seconds that a create takes; other calls take 0.06 s
last      seconds from the start of the instances, or from the first sweep, until the last of them
          is mirrored
bound     the least that EC2's limit on creates allows: 50 at once, then 5 a second
calls     AWS calls per instance, every attempt counted; throttled: those that EC2 turned away
given up  events in the dead-letter queue; their instances are left to the sweep
sensors   sessions on the fullest and the emptiest of a zone, in the zone where they differ most
errors    invocations that raised or ran out of time"""


def table(rows: Sequence[Row]) -> str:
    """The rows as text."""
    lines = [list(COLUMNS), *([text(row) for text in COLUMNS.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True))
        for line in lines
    )


def run_alone(*what: Any) -> Row:
    """A run in a process of its own."""
    gc.set_threshold(50_000, 20, 20)  # garbage is collected rarely, which saves a fifth of the time
    return run(*what)


def main() -> None:
    parser = argparse.ArgumentParser(description="Starts against EC2's request limits.")
    parser.add_argument("instances", nargs="*", type=int, help="at once (10 100 300 1000)")
    parser.add_argument("--backlog", nargs="+", type=int, default=[], metavar="N", help="day one")
    parser.add_argument("--create-seconds", nargs="+", type=float, default=[CREATE_SECONDS])
    parser.add_argument("--seed", type=int, default=1, help="for all that is drawn (1)")
    asked = parser.parse_args()
    bursts = asked.instances or ([] if asked.backlog else [10, 100, 300, 1_000])
    if min(bursts + asked.backlog) < 1 or min(asked.create_seconds) < CALL_SECONDS:
        parser.error(f"at least one instance is needed, and {CALL_SECONDS} s for a create")
    kinds = [(count, BURST) for count in bursts] + [(count, DAY_ONE) for count in asked.backlog]
    runs = [(*kind, seconds, asked.seed) for kind in kinds for seconds in asked.create_seconds]
    os.environ["PYTHONHASHSEED"] = "0"  # the order in sets is drawn too
    processes = min(len(runs), os.cpu_count() or 1)
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        # The longest first, as they set how long all of them take.
        rows = pool.starmap(run_alone, runs[::-1], chunksize=1)
    print(table(rows[::-1]), LEGEND, sep="\n\n")


if __name__ == "__main__":
    main()
