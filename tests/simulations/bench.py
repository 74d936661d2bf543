"""What an event costs: AWS calls, round trips, seconds and CPU.

    .venv/bin/python tests/simulations/bench.py                  # a few minutes
    .venv/bin/python tests/simulations/bench.py --quick          # small numbers only
    .venv/bin/python tests/simulations/bench.py --latency 50     # milliseconds a call (20)

The handler is the real one, with a real botocore client, against the simulated account; a create
takes five times as long as other calls.

calls       AWS calls of one event
trips       round trips on the critical path: the longest chain of calls that follow each other
            (counted with 100 ms a call at least, so that calls that go out together overlap)
wall        seconds from the event to the result, the client being there; the time that the
            simulated account takes to find its answers is part of it
parse       CPU milliseconds in which botocore makes dictionaries from AWS's XML
own         CPU milliseconds of the function itself: all but botocore and the account behind it
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial, wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

PROJECT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]

from aws import (  # noqa: E402
    LambdaContext,
    SimulatedAccount,
    rule,
    running_event,
    scheduled_event,
    sqs_event,
)
from botocore.client import BaseClient  # noqa: E402
from botocore.parsers import ResponseParser  # noqa: E402

import lambda_traffic_mirror  # noqa: E402

OVERLAP = 0.1  # seconds that a call takes at least where round trips are counted
ROOM = 1_000_000  # a quota that is never reached
# The simulated account shows 2 kB of an instance, AWS about 6 kB in twice as many elements.
MORE = b"<tagSet>%s</tagSet>" % b"".join(
    b"<item><key>tag-%04d</key><value>%090d</value></item>" % (n, n) for n in range(27)
)

Event = dict[str, Any]


def block(number: int) -> str:
    """One of many blocks with 64 addresses, none of them a source's."""
    first = (11 << 24) + 64 * number
    return f"{first >> 24}.{first >> 16 & 255}.{first >> 8 & 255}.{first & 255}/26"


class Bench:
    """A simulated account with sensors, and the function configured for it.

    `sensors` are spread over three zones. Without `groups` they share a group with one rule. With
    it, each sensor has that many groups of its own with that many rules for VXLAN, no two alike, of
    which only the last one of the last group admits the sources.
    """

    def __init__(
        self, account: SimulatedAccount, sensors: int, sessions: int, groups: int, rules: int
    ) -> None:
        self.account = account
        account.account_quota = ROOM
        numbers = iter(range(sensors * groups * rules))
        self.targets = []
        for number in range(sensors):
            lists = [[rule(cidr=block(next(numbers))) for _ in range(rules)] for _ in range(groups)]
            if lists:
                lists[-1][-1] = rule(cidr="10.0.0.0/8")
            made = [account.group(*each) for each in lists] or None
            self.targets.append(account.sensor(zone="abc"[number % 3], groups=made, quota=ROOM))
        os.environ.update(filter_id=account.filter_id, targets=",".join(self.targets))
        self.subnet = account.subnet("a", prefix=20)  # of the sources
        for number in range(sessions):  # from interfaces that do not exist here
            account.session(f"eni-{number:017x}", self.targets[number % sensors])

    def start(self) -> Event:
        return running_event(self.account.instance(self.subnet))

    def batch(self, count: int) -> Event:
        return sqs_event(*map(running_event, self.account.instances(count, self.subnet)))

    def sweep(self, count: int, mirrored: int) -> Event:
        """A sweep that comes to that many instances besides the sensors, some of them mirrored."""
        near = self.targets[::3]  # in the zone of the instances
        for number, instance in enumerate(self.account.instances(count)[:mirrored]):
            interface = self.account.first_interface(instance)
            self.account.session(interface, near[number % len(near)])
        return {**scheduled_event(), "dry_run": True}


@contextmanager
def world(sensors: int, sessions: int, groups: int = 0, rules: int = 0) -> Iterator[Bench]:
    with SimulatedAccount() as account, patch.dict(os.environ):
        made = Bench(account, sensors, sessions, groups, rules)
        # What botocore does at the first call of a process is no part of an event's cost.
        first = made.start()
        invoke({**first, "dry_run": True})
        account.terminate(first["detail"]["instance-id"])
        yield made


# Measuring


def invoke(event: Event, warm: bool = False) -> float:
    """Run the handler; the seconds that it took. What it prints and logs is written, to nowhere."""
    if not warm:  # a fresh execution environment, but for the client
        lambda_traffic_mirror._memory.clear()
        lambda_traffic_mirror._unsupported.clear()
    start = time.perf_counter()
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        lambda_traffic_mirror.lambda_handler(event, LambdaContext(900))
    return time.perf_counter() - start


def timed(seconds: Counter[str], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with the CPU time that all threads together spend in it added up."""
    lock = threading.Lock()

    @wraps(function)
    def wrapper(*arguments: Any, **more: Any) -> Any:
        start = time.thread_time()
        try:
            return function(*arguments, **more)
        finally:
            with lock:
                seconds[name] += time.thread_time() - start

    return wrapper


def cpu(event: Event) -> tuple[float, float]:
    """The CPU milliseconds of the function itself and of parsing, with answers as long as AWS's."""
    gc.collect()
    seconds: Counter[str] = Counter()
    parse = timed(seconds, "parse", ResponseParser.parse)
    called = timed(seconds, "call", BaseClient._make_api_call)

    def longer(parser: Any, response: dict[str, Any], shape: Any) -> Any:
        body = response["body"]
        if b"<DescribeInstancesResponse" in body:
            body = body.replace(b"<instanceId>", MORE + b"<instanceId>")
        return parse(parser, {**response, "body": body}, shape)

    with (
        patch.object(ResponseParser, "parse", longer),
        patch.object(BaseClient, "_make_api_call", called),
    ):
        start = time.process_time()
        invoke(event)
        total = time.process_time() - start
    return 1e3 * (total - seconds["call"]), 1e3 * seconds["parse"]


def cost(made: Bench, event: Event, call: float, warm: bool) -> tuple[int, int, float]:
    """Calls, round trips and seconds of an event where each call takes so many seconds."""
    creates = "CreateTrafficMirrorSession"
    made.account.forget_calls()
    made.account.gates[:] = [lambda name, _: time.sleep(5 * call if name == creates else call)]
    seconds = invoke(event, warm)
    made.account.gates.clear()
    return made.account.count(), made.account.round_trips(), seconds


def line(label: str, made: Bench, event: Callable[[], Event], call: float, times: int) -> None:
    """A line for any event: `event` makes one that has not been worked on yet."""
    warm = label.endswith(", cached")
    calls, trips, _ = cost(made, event(), max(call, OVERLAP), warm)
    wall = sorted(cost(made, event(), call, warm)[2] for _ in range(times))[times // 2]
    text = f"{label:44}{calls:10}{trips:10}{wall:10.2f}"
    if not warm:
        own, parse = sorted(cpu(event()) for _ in range(times))[times // 2]
        text += f"{parse:10.1f}{own:10.1f}"
    print(text)


def measure(call: float, quick: bool) -> None:
    columns = ("calls", "trips", "wall", "parse", "own")
    head = "".join(f"{column:>10}" for column in columns)
    times = 1 if quick else 5
    print(f"One event, one interface, 30 sessions. {1e3 * call:.0f} ms a call.\n\n{'':44}{head}")
    for sensors in (1, 10, 50, 200)[: 2 if quick else None]:
        with world(sensors, sessions=30) as made:
            os.environ["CACHE_SECONDS"] = "3600"
            line(f"{sensors} sensors, nothing cached", made, made.start, call, times)
            line(f"{sensors} sensors, cached", made, made.start, call, times)
    print(f"\nGrowth, nothing cached. A create takes {5e3 * call:.0f} ms.\n\n{'':44}{head}")
    times = 1 if quick else 3
    for count in (10, 100)[: 1 if quick else None]:
        with world(50, 30) as made:
            line(f"SQS batch of {count}, 50 sensors", made, partial(made.batch, count), call, times)
    for count in (1_000, 10_000)[: 1 if quick else None]:
        with world(50, count) as made:
            line(f"{count:,} sessions, 50 sensors", made, made.start, call, times)
    sensors, size, count = (30, 10, 200) if quick else (300, 100, 2_000)
    with world(sensors, 30, groups=5, rules=60) as made:
        line(f"{sensors} sensors with 5 groups of 60 rules", made, made.start, call, times)
        line(f"  the same, SQS batch of {size}", made, partial(made.batch, size), call, times)
        mirrored = count * 19 // 20
        event = made.sweep(count, mirrored)
        line(f"  the same, sweep of {count:,}, {mirrored:,} mirrored", made, lambda: event, call, 1)
    count = 1_000 if quick else 10_000
    with world(sensors=12, sessions=0) as made:
        event = made.sweep(count, count)
        line(f"sweep of {count:,}, all mirrored, 12 sensors", made, lambda: event, call, 1)


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--latency", type=float, default=20, metavar="MS", help="(20)")
    parser.add_argument("--quick", action="store_true", help="small numbers only")
    asked = parser.parse_args()
    # Log records are made and written, to nowhere.
    logging.getLogger().addHandler(logging.FileHandler(os.devnull))
    lambda_traffic_mirror.logger.setLevel(logging.INFO)
    measure(asked.latency / 1e3, asked.quick)


if __name__ == "__main__":
    main()
