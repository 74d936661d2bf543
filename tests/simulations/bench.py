"""What an event costs: AWS calls, round trips, seconds and CPU; and the memory of sweeps.

    .venv/bin/python tests/simulations/bench.py                  # a few minutes
    .venv/bin/python tests/simulations/bench.py --quick          # small numbers only
    .venv/bin/python tests/simulations/bench.py --latency 50     # milliseconds a call (20)
    .venv/bin/python tests/simulations/bench.py --create-latency 600  # of creates (100)

The handler is the real one, with a real botocore client, against the simulated account.

calls       AWS calls of one event
trips       round trips on the critical path: the longest chain of calls that follow each other
            (counted with 100 ms a call at least, so that calls that go out together overlap)
wall        seconds from the event to the result, the client being there; the time that the
            simulated account takes to find its answers is part of it
parse       CPU milliseconds in which botocore makes dictionaries from AWS's XML
own         CPU milliseconds of the function itself: all but botocore and the account behind it
memory      MB of Python's that a sweep has in use at most (tracemalloc), in a process of its own
"""

from __future__ import annotations

import argparse
import gc
import logging
import multiprocessing
import os
import statistics
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
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
from moto.server import ThreadedMotoServer  # noqa: E402

import lambda_traffic_mirror  # noqa: E402

ZONES = "abc"
OVERLAP = 0.1  # seconds that a call takes at least where round trips are counted
ROOM = 1_000_000  # a quota that is never reached
CREATE = "CreateTrafficMirrorSession"
# The simulated account shows 2 kB of an instance, AWS about 6 kB in twice as many elements.
MORE = b"<tagSet>%s</tagSet>" % b"".join(
    b"<item><key>tag-%04d</key><value>%090d</value></item>" % (n, n) for n in range(27)
)

Event = Mapping[str, Any]


# The account


@dataclass
class Bench:
    """A simulated account with sensors, and the function configured for it."""

    account: SimulatedAccount
    targets: list[str]
    subnet: str  # of the sources

    def start(self) -> Event:
        return running_event(self.account.instance(self.subnet))

    def batch(self, count: int) -> Event:
        return sqs_event(*map(running_event, self.account.instances(count, self.subnet)))

    def swept(self, count: int, mirrored: int) -> Event:
        """A sweep that comes to that many instances besides the sensors, some of them mirrored."""
        near = self.targets[::3]  # in the zone of the instances
        for number, instance in enumerate(self.account.instances(count)[:mirrored]):
            interface = self.account.first_interface(instance)
            self.account.session(interface, near[number % len(near)])
        return scheduled_event()


def block(number: int) -> str:
    """One of many blocks with 64 addresses, none of them a source's."""
    first = (11 << 24) + 64 * number
    return f"{first >> 24}.{first >> 16 & 255}.{first >> 8 & 255}.{first & 255}/26"


@contextmanager
def world(sensors: int, sessions: int, groups: int = 0, rules: int = 0) -> Iterator[Bench]:
    """An account with sensors spread over three zones.

    Without `groups` the sensors share a group with one rule. With it, each sensor has that many
    groups of its own with that many rules for VXLAN, no two alike, of which only the last one of
    the last group admits the sources.
    """
    with SimulatedAccount() as account, patch.dict(os.environ):
        account.account_quota = ROOM
        numbers = iter(range(sensors * groups * rules))

        def own_groups() -> list[str] | None:
            lists = [[rule(cidr=block(next(numbers))) for _ in range(rules)] for _ in range(groups)]
            if lists:
                lists[-1][-1] = rule(cidr="10.0.0.0/8")
            return [account.group(*each) for each in lists] or None

        targets = [
            account.sensor(zone=ZONES[number % 3], groups=own_groups(), quota=ROOM)
            for number in range(sensors)
        ]
        os.environ.update(filter_id=account.filter_id, targets=",".join(targets))
        made = Bench(account, targets, account.subnet("a", prefix=20))
        for number in range(sessions):  # from interfaces that do not exist here
            account.session(f"eni-{number:017x}", targets[number % sensors])
        # What botocore does at the first call of a process is no part of an event's cost.
        first = made.start()
        invoke({**first, "dry_run": True})
        account.terminate(first["detail"]["instance-id"])
        yield made


# Measuring


def invoke(event: Event) -> float:
    """Run the handler; the seconds that it took. What it prints and logs is written, to nowhere."""
    start = time.perf_counter()
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        lambda_traffic_mirror.lambda_handler(event, LambdaContext(900))
    return time.perf_counter() - start


def forget() -> None:
    """A fresh execution environment, but for the client."""
    lambda_traffic_mirror._memory.clear()
    lambda_traffic_mirror._unsupported.clear()


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


def longer(response: dict[str, Any]) -> dict[str, Any]:
    """An answer with as much about each instance as AWS shows."""
    if b"<DescribeInstancesResponse" not in response["body"]:
        return response
    body = response["body"].replace(b"<instanceId>", MORE + b"<instanceId>")
    return {**response, "body": body}


def cpu(event: Event) -> tuple[float, float]:
    """The CPU milliseconds of parsing and of the function itself, with answers as long as AWS's."""
    forget()
    gc.collect()
    seconds: Counter[str] = Counter()
    parse = timed(seconds, "parse", ResponseParser.parse)
    called = timed(seconds, "call", BaseClient._make_api_call)
    longest = lambda parser, response, shape: parse(parser, longer(response), shape)  # noqa: E731
    with (
        patch.object(ResponseParser, "parse", longest),
        patch.object(BaseClient, "_make_api_call", called),
    ):
        start = time.process_time()
        invoke(event)
        total = time.process_time() - start
    return 1e3 * seconds["parse"], 1e3 * (total - seconds["call"])


def median_cpu(event: Callable[[], Event], times: int) -> tuple[float, float]:
    """Of so many events, the one with the median of the function's own CPU."""
    return sorted((cpu(event()) for _ in range(times)), key=lambda each: each[1])[times // 2]


def cost(made: Bench, event: Event, call: float, create: float) -> tuple[int, int, float]:
    """Calls, round trips and seconds of an event where each call takes so many seconds."""
    account = made.account
    account.forget_calls()
    account.gates[:] = [lambda operation, _: time.sleep(create if operation == CREATE else call)]
    try:
        seconds = invoke(event)
    finally:
        account.gates.clear()
    return account.count(), account.round_trips(), seconds


# Tables


def heading(text: str, *columns: str) -> None:
    print(f"\n{text}\n\n{'':44}" + "".join(f"{column:>10}" for column in columns))


def line(
    label: str,
    made: Bench,
    event: Callable[[], Event],
    latency: tuple[float, float],
    times: int,
    warm: bool = False,
) -> None:
    """A line for any event: `event` makes one that has not been worked on yet."""
    if not warm:
        forget()
    calls, trips, _ = cost(made, event(), *(max(each, OVERLAP) for each in latency))
    seconds = []
    for _ in range(times):
        if not warm:
            forget()
        seconds.append(cost(made, event(), *latency)[2])
    text = f"{label:44}{calls:10}{trips:10}{statistics.median(seconds):10.2f}"
    if not warm:
        text += "".join(f"{part:10.1f}" for part in median_cpu(event, times))
    print(text)


def measure_events(latency: tuple[float, float], quick: bool) -> None:
    """What events cost."""
    columns = ("calls", "trips", "wall", "parse", "own")
    times = 1 if quick else 5
    call, create = (1e3 * each for each in latency)
    heading(f"One event, one interface, 30 sessions. {call:.0f} ms a call.", *columns)
    for sensors in (1, 10, 50, 200)[: 2 if quick else None]:
        with world(sensors, sessions=30) as made:
            os.environ["CACHE_SECONDS"] = "3600"
            same = latency[0], latency[0]
            line(f"{sensors} sensors, nothing cached", made, made.start, same, times)
            line(f"{sensors} sensors, cached", made, made.start, same, times, warm=True)

    heading(f"Growth. {call:.0f} ms a call, {create:.0f} ms a create, nothing cached.", *columns)
    times = 1 if quick else 3
    for count in (10, 100)[: 1 if quick else None]:
        with world(50, 30) as made:
            batch = partial(made.batch, count)
            line(f"SQS batch of {count}, 50 sensors", made, batch, latency, times)
    for count in (1_000, 10_000)[: 1 if quick else None]:
        with world(50, count) as made:
            line(f"{count:,} sessions, 50 sensors", made, made.start, latency, times)
    sensors, size = (30, 10) if quick else (300, 100)
    with world(sensors, 30, groups=5, rules=60) as made:
        line(f"{sensors} sensors with 5 groups of 60 rules", made, made.start, latency, times)
        line(f"  the same, SQS batch of {size}", made, partial(made.batch, size), latency, times)
    count = 200 if quick else 2_000
    mirrored = count * 19 // 20
    with world(sensors, 30, groups=5, rules=60) as made:
        planned = {**made.swept(count, mirrored), "dry_run": True}
        label = f"  the same, sweep of {count:,}, {mirrored:,} mirrored"
        line(label, made, lambda: planned, latency, 1)


def measure_mirrored(quick: bool) -> None:
    """What it takes to find everything in order."""
    count = 1_000 if quick else 10_000
    heading(f"A sweep of {count:,} mirrored instances, 12 sensors.", "parse", "own", "own/parse")
    with world(sensors=12, sessions=0) as made:
        event = made.swept(count, mirrored=count)
        parse, own = median_cpu(lambda: event, 1 if quick else 3)
    print(f"{'CPU milliseconds':44}{parse:10.0f}{own:10.0f}{own / parse:10.3f}")


def peak_of_sweep(dry_run: bool) -> int:
    """The bytes that a sweep has in use at most, beyond what importing and the client take."""
    quiet()
    lambda_traffic_mirror.client_of()
    tracemalloc.start()
    invoke({**scheduled_event(), "dry_run": dry_run})
    return tracemalloc.get_traced_memory()[1]


def measure_memory(quick: bool) -> None:
    """The memory that sweeps take, in processes of their own that ask moto's server."""
    sensors = 30
    heading(f"Memory of a sweep, {sensors} sensors with 5 rules each.", "peak MB")
    # Each create goes through the server, which takes its time.
    sizes = {"planned": (0, 1_000, 2_000), "created": (0, 1_000)}
    for kind, large in sizes.items():
        with world(sensors, 0, groups=1, rules=5) as made:
            server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
            server.start()
            os.environ["AWS_ENDPOINT_URL"] = "http://{}:{}".format(*server.get_host_and_port())
            try:
                known = 0
                for total in (0, 500) if quick else large:
                    made.account.instances(total - known)
                    known = total
                    with multiprocessing.get_context("spawn").Pool(1) as alone:
                        peak = alone.apply(peak_of_sweep, (kind == "planned",))
                    print(f"{f'{total:,} instances, all {kind}':44}{peak / 1e6:10.1f}")
            finally:
                server.stop()


def quiet() -> None:
    """Log records are made and written, to nowhere."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # moto's server logs every request
    logging.getLogger().addHandler(logging.FileHandler(os.devnull))
    lambda_traffic_mirror.logger.setLevel(logging.INFO)


def main() -> None:
    assert __doc__
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, usual in (("--latency", 20), ("--create-latency", 100)):
        arguments.add_argument(name, type=float, default=usual, metavar="MS", help=f"({usual})")
    arguments.add_argument("--quick", action="store_true", help="small numbers only")
    asked = arguments.parse_args()
    latency = asked.latency / 1e3, asked.create_latency / 1e3
    if min(latency) <= 0:
        # Calls that take no time do not overlap, so there would be no round trips to count.
        arguments.error("latencies have to be above 0")
    quiet()
    print(__doc__[__doc__.index("calls  ") :].rstrip())
    measure_events(latency, asked.quick)
    measure_mirrored(asked.quick)
    measure_memory(asked.quick)


if __name__ == "__main__":
    main()
