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
front of that account, Lambda, SQS and the time. What Python itself takes is not simulated, but for
the parsing of answers.

create     seconds that a create takes; other calls take 0.06 s
last       seconds from the start of the instances, or from the first sweep, until the last of them
           is mirrored
bound      the least that EC2's limit on creates allows: 50 at once, then 5 a second
calls      AWS calls per instance, every attempt counted; throttled: those that EC2 turned away
given up   events in the dead-letter queue; their instances are left to the sweep
sensors    sessions on the fullest and the emptiest of a zone, in the zone where they differ most
lost       instances without a session
errors     invocations that raised or ran out of time
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
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager, redirect_stdout
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

Turn = threading.Semaphore


class SimulatedTime:
    """Simulated time. Its threads run one at a time: each waits for its turn until the one before
    sleeps or waits; then the one whose time comes first goes on, and the clock jumps there.

    So a minute costs nothing, and the same seed gives the same run. A lock that the function held
    over a call would stop the clock, which `run` tells.
    """

    EPOCH = 1_750_000_000.0  # Unix time at the start
    SHORTEST_SLEEP = 0.0001  # nothing sleeps for no time, or rounding would let time stand still
    STANDSTILL_SECONDS = 300.0  # of real time in which nothing ends: a thread waits for real

    def __init__(self) -> None:
        self.now = 0.0
        self.current = self._main = Turn(0)
        self._problem: BaseException | None = None
        self._agenda: list[tuple[float, int, Turn]] = []
        self._order = itertools.count()

    def time(self) -> float:
        """In place of time.time."""
        return self.EPOCH + self.now

    def sleep(self, seconds: float) -> None:
        """In place of time.sleep."""
        self.wake(self.current, max(seconds, self.SHORTEST_SLEEP))
        self.pause()

    def start(self, what: Callable[[], object], seconds: float = 0.0) -> None:
        """A thread that does this, so much later."""
        turn = Turn(0)

        def live() -> None:
            turn.acquire()
            self.current = turn
            try:
                what()
            except BaseException as error:  # noqa: BLE001 - `run` raises it
                self._problem = self._problem or error
            self._next().release()

        threading.Thread(target=live, daemon=True).start()
        self.wake(turn, seconds)

    def wake(self, turn: Turn, seconds: float = 0.0) -> None:
        """Let this thread go on so much later."""
        heapq.heappush(self._agenda, (self.now + seconds, next(self._order), turn))

    def pause(self, real_seconds: float | None = None) -> None:
        """Let others go on until something wakes this thread."""
        turn = self.current
        self._next().release()
        if not turn.acquire(timeout=real_seconds):
            raise RuntimeError("A thread waits for something that is not simulated.")
        self.current = turn

    def run(self) -> None:
        """Go on until nothing is left to do."""
        self.pause(self.STANDSTILL_SECONDS)
        if self._problem:
            raise self._problem

    def _next(self) -> Turn:
        if self._problem or not self._agenda:
            return self._main
        when, _, turn = heapq.heappop(self._agenda)
        self.now = max(self.now, when)
        return turn


class Pending(Future[Any]):
    """A future that is waited for on the simulated clock."""

    def __init__(self, clock: SimulatedTime) -> None:
        super().__init__()
        self._clock = clock

    def result(self, timeout: float | None = None) -> Any:
        """Waits for the end of the call, and gives what came of it."""
        if not self.done():
            me = self._clock.current
            self.add_done_callback(lambda _: self._clock.wake(me))
            self._clock.pause()
        return super().result()


class Pool(Executor):
    """In place of ThreadPoolExecutor, whose workers would be unknown to the clock."""

    def __init__(self, clock: SimulatedTime, max_workers: int) -> None:
        self._clock, self._idle = clock, max_workers
        self._waiting: deque[tuple[Pending, Callable[[], Any]]] = deque()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Pending:
        """Have this done by a worker, a new one where there is room for one more."""
        answer = Pending(self._clock)
        self._waiting.append((answer, partial(fn, *args, **kwargs)))
        if self._idle:
            self._idle -= 1
            self._clock.start(self._work)
        return answer

    def _work(self) -> None:
        while self._waiting:
            answer, what = self._waiting.popleft()
            if answer.set_running_or_notify_cancel():
                try:
                    answer.set_result(what())
                except BaseException as error:  # noqa: BLE001 - the future raises it
                    answer.set_exception(error)
        self._idle += 1


# What is assumed about AWS

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

SWEEPS = 50  # at most; none comes when all instances are mirrored

RECEIVE = 10  # messages at most that SQS gives at a time
RECEIVE_SECONDS = 0.02


def bound(count: int) -> float:
    """Seconds that the bucket of the creates alone makes so many instances take."""
    size, per_second = WRITES
    return max(0.0, (count - size) / per_second)


class Ec2:
    """EC2's side of the line: how long calls take, which are throttled, what was created when."""

    def __init__(
        self, clock: SimulatedTime, create_seconds: float, seconds_per_byte: float
    ) -> None:
        self.clock, self.seconds_per_byte = clock, seconds_per_byte
        self.working_seconds = create_seconds - CALL_SECONDS  # until there is a session
        self.throttled: Counter[str] = Counter()
        self.created: dict[str, float] = {}  # by interface
        self._buckets: dict[tuple[str, bool], tuple[float, float]] = {}  # tokens, when

    def receive(self, operation: str, parameters: dict[str, Any]) -> None:
        """A call has been sent; for the simulated account's gates."""
        self.clock.sleep(CALL_SECONDS / 2)
        reads = operation.startswith(("Describe", "Get"))
        unlimited = reads and not parameters
        size, per_second = UNLIMITED_READS if unlimited else READS if reads else WRITES
        tokens, since = self._buckets.get((operation, unlimited), (size, 0.0))
        tokens = min(size, tokens + (self.clock.now - since) * per_second)
        self._buckets[operation, unlimited] = (tokens - (tokens >= 1), self.clock.now)
        if tokens < 1:
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


class Lambda:
    """Runs the function in execution environments, which it keeps and uses again.

    To start one does not count as part of the timeout. What ends after the timeout counts as an
    error; Lambda would have ended it before.
    """

    NAME = "burst_function"

    def __init__(self, clock: SimulatedTime, timeout: float) -> None:
        self.clock, self.timeout = clock, timeout
        self.invocations = 0
        self.errors: Counter[str] = Counter()
        path = PROJECT / "lambda_traffic_mirror.py"
        self._code = compile(path.read_text(encoding="utf-8"), str(path), "exec")
        self._idle: list[Any] = []  # modules of environments

    def invoke(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """The result, from the environment that was used last; None after an error or a timeout."""
        self.invocations += 1
        module = self._idle.pop() if self._idle else None
        if not module:
            self.clock.sleep(random.uniform(*COLD_START_SECONDS))
            module = sys.modules[self.NAME] = ModuleType(self.NAME)  # dataclasses look there
            exec(self._code, module.__dict__)  # it takes its threads from where it is loaded
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
        return result


class Queue:
    """The SQS queue, and the event source mapping that empties it into the function.

    The mapping takes what there is, as much as a batch may have, as soon as one of the concurrent
    invocations is free. `queue` and `mapping` are their properties in the template.
    """

    def __init__(
        self, clock: SimulatedTime, function: Lambda, queue: dict[str, Any], mapping: dict[str, Any]
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

    def show(self, *messages: dict[str, Any]) -> None:
        """Messages, records of an event's, can be received from now on."""
        self._visible.extend(messages)
        while self._free and self._visible:
            self._free -= 1
            batch = [self._visible.popleft() for _ in range(self._batch_size) if self._visible]
            self._receives.update(message["messageId"] for message in batch)
            late = [m for m in batch if self._receives[m["messageId"]] > self._most_receives]
            self.given_up += len(late)
            self.clock.start(partial(self._work, [one for one in batch if one not in late]))

    def _work(self, batch: list[dict[str, Any]]) -> None:
        if batch:
            self.clock.sleep(RECEIVE_SECONDS * math.ceil(len(batch) / RECEIVE))
            again_at = self.clock.now + self._visibility
            result = self.function.invoke({"Records": batch})
            failed = [message["messageId"] for message in batch]
            if result is not None:
                failed = [failure["itemIdentifier"] for failure in result["batchItemFailures"]]
            again = [message for message in batch if message["messageId"] in failed]
            self.clock.start(partial(self.show, *again), max(0.0, again_at - self.clock.now))
        self._free += 1
        self.show()


BURST, DAY_ONE = "burst", "day one"
Row = dict[str, Any]  # a line of the table, by the names of its columns


@contextmanager
def on_clock(clock: SimulatedTime, ec2: Ec2) -> Iterator[None]:
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
    count: int, kind: str = BURST, create_seconds: float = CREATE_SECONDS, **parameters: str
) -> Row:
    """Start so many instances at once, or (day one) sweep them, and see what becomes of them.

    They are spread over all zones, in random order, and sensors never are full. `parameters` are
    the template's, whose defaults hold otherwise (`Timeout="60"`).
    """
    random.seed(1)
    mock_random.seed(1)
    with SimulatedAccount() as account:
        account.account_quota = 10 * count
        zone_of = {
            account.sensor(zone=zone, quota=10 * count): zone
            for _ in range(SENSORS_PER_ZONE)
            for zone in ZONES
        }
        instances = []
        for index, zone in enumerate(ZONES):
            instances += account.instances(len(range(index, count, len(ZONES))), zone=zone)
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
        clock = SimulatedTime()
        ec2 = Ec2(clock, create_seconds, RECEIVE_SECONDS_PER_BYTE + PARSE_SECONDS_PER_BYTE / cpus)
        account.gates.append(ec2.receive)
        runner = Lambda(clock, float(function["Timeout"]))
        queue = Queue(clock, runner, queued, mapping)

        def sweep(left: int) -> None:
            """By the template's schedule, until all instances have a session."""
            if len(ec2.created) < count and left:
                clock.start(partial(sweep, left - 1), every)
                runner.invoke(scheduled_event())

        if kind == BURST:
            again = random.sample(range(count), round(TWICE * count))
            for place, number in enumerate([*range(count), *again]):
                event = running_event(instances[number], f"event-{number}")
                (message,) = sqs_event(event)["Records"]
                seconds = random.uniform(*EVENT_SECONDS) * (1 if place < count else 2)
                message |= {"messageId": f"message-{place}"}
                clock.start(partial(queue.show, message), seconds)
        clock.start(partial(sweep, SWEEPS), every if kind == BURST else 0.0)
        with on_clock(clock, ec2), patch.dict(os.environ, function["Environment"]["Variables"]):
            clock.run()

        of_target = Counter(session["TrafficMirrorTargetId"] for session in account.sessions())
        of_zones = [[of_target[t] for t, at in zone_of.items() if at == zone] for zone in ZONES]
        loads = max(of_zones, key=lambda each: max(each) - min(each))
        mirrored = [one for one in interfaces if len(account.sessions(one)) == 1]
        last = max((ec2.created[one] for one in mirrored), default=0.0)
        return {
            "n": count,
            "kind": kind,
            "create": create_seconds,
            "last": last,
            "bound": bound(count),
            "over": last - bound(count),
            "calls": account.count() / count,
            "throttled": ec2.throttled.total(),
            "invocations": runner.invocations,
            "given up": queue.given_up,
            "sensors": f"{max(loads)}/{min(loads)}",
            "lost": count - len(mirrored),
            "errors": runner.errors.total(),
        }


FORMATS = {"kind": "", "sensors": "", "create": ".2f", "calls": ".2f", "bound": ",.0f"}
FORMATS |= {"last": ",.1f", "over": ",.1f"}


def table(rows: list[Row]) -> str:
    """The rows as text."""
    texts = [[f"{row[name]:{FORMATS.get(name, ',')}}" for name in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(rows[0], *texts, strict=True)]
    line = "  ".join(f"{{:>{width}}}" for width in widths)
    return "\n".join(line.format(*text) for text in [list(rows[0]), *texts])


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("instances", nargs="*", type=int, help="at once (10 100 300 1000)")
    parser.add_argument("--backlog", nargs="+", type=int, default=[], metavar="N", help="day one")
    parser.add_argument("--create-seconds", nargs="+", type=float, default=[CREATE_SECONDS])
    asked = parser.parse_args()
    bursts = asked.instances or ([] if asked.backlog else [10, 100, 300, 1_000])
    kinds = [(count, BURST) for count in bursts] + [(count, DAY_ONE) for count in asked.backlog]
    runs = [(*kind, seconds) for kind in kinds for seconds in asked.create_seconds]
    os.environ["PYTHONHASHSEED"] = "0"  # the order in sets is drawn too
    processes = min(len(runs), os.cpu_count() or 1)
    rarely = (50_000, 20, 20)  # garbage is collected, which saves a fifth of the time
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(processes, gc.set_threshold, rarely, maxtasksperchild=1) as pool:
        # The longest first, as they set how long all of them take.
        print(table(pool.starmap(run, runs[::-1], chunksize=1)[::-1]))


if __name__ == "__main__":
    main()
