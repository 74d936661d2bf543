"""What an event costs: AWS calls, round trips, seconds and CPU, and what a cold start costs.

    .venv/bin/python tests/simulations/bench.py                  # a few minutes
    .venv/bin/python tests/simulations/bench.py --quick          # small numbers only
    .venv/bin/python tests/simulations/bench.py --latency 50     # milliseconds a call (20)
    .venv/bin/python tests/simulations/bench.py --create-latency 600  # of creates (100)

Every number comes from the run that prints it, but for those of the published script, which are
marked. The handler is the real one, with a real botocore client.

calls       AWS calls of one event
trips       round trips on the critical path: the longest chain of calls that follow each other
            (counted with 100 ms a call at least, so that calls that go out together overlap)
wall        seconds from the event to the result, the client being there; in the first table the
            time that the simulated account takes to find its answers is part of it
CPU         milliseconds for the same event where the answers are played back from a recording, so
            that the simulated account costs nothing (nor do sockets and TLS). Five parts:
              parse    botocore makes dictionaries from AWS's XML
              send     the rest of botocore: building requests, signing, retries
              read     from dictionaries to what the stages look at, CIDR blocks among it
              judge    verdicts on the sensors, and their ranking
              other    the event, threads, the result, log records, metrics
memory      by how many MB a process of its own grows at its largest, over one that sweeps the same
            sensors with no other instance
"""

from __future__ import annotations

import argparse
import compileall
import concurrent.futures.thread
import gc
import io
import logging
import os
import pickle
import py_compile
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

PROJECT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests"), str(PROJECT / "tests/deploy")]

import botocore.client  # noqa: E402
import botocore.parsers  # noqa: E402
from aws import (  # noqa: E402
    LambdaContext,
    SimulatedAccount,
    rule,
    running_event,
    scheduled_event,
    sqs_event,
)
from moto.core.models import botocore_stubber  # noqa: E402
from replay import CREATE, Tape, as_aws_shows  # noqa: E402

import lambda_traffic_mirror  # noqa: E402

# Calls and seconds of the script that the guide points to, measured on another day with the same
# topology: sensors spread over three zones, 30 sessions, 20 ms a call.
PUBLISHED = {1: ("11", "0.35"), 3: ("15", "0.45"), 10: ("41", "1.17"), 50: ("173", "4.87")}
ZONES = "abc"
OVERLAP = 0.1  # seconds that a call takes at least where round trips are counted
ROOM = 1_000_000  # a quota that is never reached
OPEN = rule(cidr="10.0.0.0/8")  # where all sources are
SHUT = rule(cidr="192.0.2.0/24")  # where none is

Event = Mapping[str, Any]


# --------------------------------------------------------------------------------------
# The account
# --------------------------------------------------------------------------------------


@dataclass
class Bench:
    """A simulated account with sensors, and the function configured for it."""

    account: SimulatedAccount
    targets: list[str]
    subnet: str  # of the sources

    def instance(self) -> str:
        return self.account.instance(self.subnet)

    def batch(self, count: int) -> Event:
        return sqs_event(*map(running_event, self.account.instances(count, self.subnet)))

    def load(self, sessions: int) -> None:
        """That many sessions, spread over the sensors, from interfaces that do not exist here."""
        for number in range(sessions):
            self.account.session(f"eni-{number:017x}", self.targets[number % len(self.targets)])


@contextmanager
def world(
    sensors: int,
    sessions: int,
    groups_each: int = 0,
    rules_each: int = 0,
    last_rule: Mapping[str, Any] = OPEN,
) -> Iterator[Bench]:
    """An account with sensors spread over three zones.

    Without `groups_each` the sensors of a VPC share a group with one rule. With it, each sensor has
    that many groups of its own with that many rules for VXLAN, no two alike, of which only the last
    one of the last group may admit the sources.
    """
    with SimulatedAccount() as account, patch.dict(os.environ):
        account.account_quota = ROOM
        numbers = iter(range(sensors * groups_each * rules_each))

        def groups() -> list[str] | None:
            lists = [
                [rule(cidr=block(next(numbers))) for _ in range(rules_each)]
                for _ in range(groups_each)
            ]
            if lists:
                lists[-1][-1] = last_rule
            return [account.group(*rules) for rules in lists] or None

        targets = [
            account.sensor(zone=ZONES[number % 3], groups=groups(), quota=ROOM)
            for number in range(sensors)
        ]
        os.environ.update(filter_id=account.filter_id, targets=",".join(targets))
        made = Bench(account, targets, account.subnet("a", prefix=20))
        made.load(sessions)
        # What botocore does at the first call of a process is no part of an event's cost.
        first = made.instance()
        invoke({**running_event(first), "dry_run": True})
        account.terminate(first)
        yield made


def block(number: int) -> str:
    """One of many blocks with 64 addresses, none of them a source's."""
    first = (11 << 24) + 64 * number
    return f"{first >> 24}.{first >> 16 & 255}.{first >> 8 & 255}.{first & 255}/26"


# --------------------------------------------------------------------------------------
# Measuring
# --------------------------------------------------------------------------------------


def invoke(event: Event) -> float:
    """Run the handler; the seconds that it took. What it prints and logs is written, to nowhere."""
    start = time.perf_counter()
    with redirect_stdout(io.StringIO()):
        lambda_traffic_mirror.lambda_handler(event, LambdaContext(900))
    return time.perf_counter() - start


def forget() -> None:
    """A fresh execution environment, but for the client."""
    lambda_traffic_mirror._cache = None
    lambda_traffic_mirror._unsupported.clear()
    for value in vars(lambda_traffic_mirror).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()


@dataclass
class Cost:
    """What one event takes of AWS and of the clock."""

    calls: int
    trips: int
    seconds: float


class Latency(NamedTuple):
    """Seconds that calls take."""

    call: float
    create: float

    def of(self, operation: str) -> float:
        return self.create if operation == CREATE else self.call

    def overlapping(self) -> Latency:
        """Long enough to see which calls go out together."""
        return Latency(*(max(seconds, OVERLAP) for seconds in self))


def cost(world: Bench, event: Event, latency: Latency) -> Cost:
    """Run the handler against the account, each call delayed."""
    account = world.account
    account.forget_calls()
    account.gates[:] = [lambda operation, parameters: time.sleep(latency.of(operation))]
    try:
        seconds = invoke(event)
    finally:
        account.gates.clear()
    return Cost(account.count(), account.round_trips(), seconds)


TAPE = Tape()
TAPE.install()


@contextmanager
def played_back(latency: Latency) -> Iterator[None]:
    """The answers come from the recording, each after so many seconds."""
    TAPE.latency = latency.of
    # botocore asks every handler, also those after one that has an answer.
    with patch.object(botocore_stubber, "enabled", False), TAPE.playing():
        yield


PARTS = ("parse", "send", "read", "judge", "other")


class Stopwatch:
    """The CPU seconds that all threads together spend in parts of the program. A part that is
    begun within another one is not counted there."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.local = threading.local()
        self.lock = threading.Lock()

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which from now on is that part."""

        @wraps(function)
        def wrapper(*arguments: Any, **more: Any) -> Any:
            parts = self.local.__dict__.setdefault("parts", [])
            if parts and parts[-1] == part:
                return function(*arguments, **more)
            self._charge(parts)
            parts.append(part)
            try:
                return function(*arguments, **more)
            finally:
                self._charge(parts)
                parts.pop()

        return wrapper

    def _charge(self, parts: Sequence[str]) -> None:
        now = time.thread_time()
        if parts:
            with self.lock:
                self.seconds[parts[-1]] += now - self.local.since
        self.local.since = now

    @contextmanager
    def running(self) -> Iterator[None]:
        """Takes the time of what runs meanwhile."""
        module = lambda_traffic_mirror
        pages = module.Ec2.running_instances

        def running_instances(ec2: Any) -> Iterator[Any]:
            page = self.timed("read", partial(next, pages(ec2), None))
            return iter(page, None)

        with ExitStack() as stack:
            for owner, name, part in (
                (botocore.parsers.ResponseParser, "parse", "parse"),
                (botocore.client.BaseClient, "_make_api_call", "send"),
                (concurrent.futures.thread._WorkItem, "run", "read"),
                (module.Ec2, "by_filter", "read"),
                (module.Ec2, "by_id", "read"),
                (module.Ec2, "everything", "read"),
                (module, "judge", "judge"),
                (module, "judge_sensor", "judge"),
                (module, "ranking", "judge"),
            ):
                function = self.timed(part, getattr(owner, name))
                stack.enter_context(patch.object(owner, name, function))
            stack.enter_context(patch.object(module.Ec2, "running_instances", running_instances))
            start = time.process_time()
            yield
            total = time.process_time() - start
        self.seconds["other"] = total - sum(self.seconds.values())


def cpu(event: Event) -> list[float]:
    """The CPU milliseconds that an event takes in each part."""
    forget()
    gc.collect()
    stopwatch = Stopwatch()
    with stopwatch.running():
        invoke(event)
    return [1e3 * seconds for seconds in stopwatch.seconds.values()]


def wall(event: Event) -> float:
    """The seconds that an event takes."""
    forget()
    gc.collect()
    return invoke(event)


@dataclass
class Profile:
    """What one event costs with nothing cached."""

    calls: int
    trips: int
    seconds: float  # with the answers played back, each after the latency
    milliseconds: list[float]  # of CPU, in each part


def profile(world: Bench, event: Event, latency: Latency, times: int) -> Profile:
    """Record what the account answers, and play it back often enough to measure; medians."""
    TAPE.answers.clear()
    forget()
    first = cost(world, event, latency.overlapping())
    with played_back(Latency(0, 0)):
        milliseconds = sorted((cpu(event) for _ in range(times)), key=sum)[times // 2]
    with played_back(latency):
        seconds = statistics.median(wall(event) for _ in range(times))
    return Profile(first.calls, first.trips, seconds, milliseconds)


# --------------------------------------------------------------------------------------
# Tables
# --------------------------------------------------------------------------------------


def heading(text: str, *lines: str) -> None:
    print(f"\n{text}\n")
    for line in lines:
        print(line)


def columns(milliseconds: Sequence[float]) -> str:
    return "".join(f"{part:7.1f}" for part in milliseconds)


def one_event(sensors: int, latency: Latency, times: int) -> None:
    """A line for one event of one interface."""
    with world(sensors, sessions=30) as made:
        os.environ["CACHE_SECONDS"] = "3600"

        def cold_and_warm(delay: Latency) -> list[Cost]:
            forget()
            return [cost(made, running_event(made.instance()), delay) for _ in range(2)]

        counted = cold_and_warm(latency.overlapping())
        taken = [cold_and_warm(latency) for _ in range(times)]
        used = profile(made, running_event(made.instance()), latency, times)
    calls, seconds = PUBLISHED.get(sensors, ("", ""))
    line = f"{sensors:7} {calls:>7} {seconds:>6} "
    for each, costs in zip(counted, zip(*taken, strict=True), strict=True):
        typical = statistics.median(each.seconds for each in costs)
        line += f" {each.calls:5} {each.trips:5} {typical:5.2f} "
    print(line + columns(used.milliseconds))


def row(
    label: str,
    latency: Latency,
    times: int,
    account: Callable[[], Any],
    event_of: Callable[[Bench], Event],
) -> None:
    """A line for any event."""
    with account() as made:
        used = profile(made, event_of(made), latency, times)
    print(
        f"{label:44} {used.calls:5} {used.trips:5} {used.seconds:6.2f}" + columns(used.milliseconds)
    )


def swept(made: Bench, count: int, mirrored: int) -> Event:
    """A sweep that comes to that many instances besides the sensors, some of them mirrored."""
    account = made.account
    instances = set(account.instances(count))
    interfaces = [
        interface["NetworkInterfaceId"]
        for group in account.ec2.describe_instances()["Reservations"]
        for instance in group["Instances"]
        if instance["InstanceId"] in instances
        for interface in instance["NetworkInterfaces"]
    ]
    near = made.targets[::3]  # in the zone of the instances
    for number, interface in enumerate(interfaces[:mirrored]):
        account.session(interface, near[number % len(near)])
    return scheduled_event()


def measure_events(latency: float, create_latency: float, quick: bool) -> None:
    """The tables of what events cost."""
    times = 1 if quick else 5
    heading(
        f"One event, one interface. Sensors in three zones, 30 sessions, {1e3 * latency:.0f} ms a "
        "call.",
        "           script*     nothing cached    sensors cached         CPU, nothing cached",
        "sensors   calls   wall  calls trips  wall  calls trips  wall "
        + "".join(f"{part:>7}" for part in PARTS),
    )
    for sensors in (1, 3, 10, 50, 200)[: 3 if quick else None]:
        one_event(sensors, Latency(latency, latency), times)
    print("\n* as published, measured on another day with 20 ms a call")

    heading(
        f"Growth. {1e3 * latency:.0f} ms a call, {1e3 * create_latency:.0f} ms a create, nothing "
        "cached.",
        f"{'':44} calls trips   wall" + "".join(f"{part:>7}" for part in PARTS),
    )
    times = 1 if quick else 3
    line = partial(row, latency=Latency(latency, create_latency), times=times)
    fifty = partial(world, 50, 30)
    for count in (1, 10, 100)[: 2 if quick else None]:
        line(
            f"SQS batch of {count}, 50 sensors",
            account=fifty,
            event_of=partial(Bench.batch, count=count),
        )
    for count in (1_000, 10_000)[: 1 if quick else None]:
        line(
            f"{count:,} sessions, 50 sensors",
            account=partial(world, 50, count),
            event_of=lambda made: running_event(made.instance()),
        )
    sensors, rules, instances, mirrored = (30, 60, 200, 190) if quick else (300, 60, 2_000, 1_900)
    many = partial(world, sensors, 30, 5, rules)
    groups = f"{sensors} sensors with 5 groups of {rules} rules"
    line(groups, account=many, event_of=lambda made: running_event(made.instance()))
    for count in (10,) if quick else (100,):
        line(
            f"  the same, SQS batch of {count}",
            account=many,
            event_of=partial(Bench.batch, count=count),
        )
    for size in (instances // 2, instances):
        part = size * mirrored // instances
        line(
            f"  the same, sweep of {size:,}, {part:,} mirrored",
            account=many,
            event_of=partial(swept, count=size, mirrored=part),
        )


# --------------------------------------------------------------------------------------
# Sweeps of many instances
# --------------------------------------------------------------------------------------


def measure_mirrored(quick: bool) -> None:
    """The table of what it takes to find everything in order."""
    count = 1_000 if quick else 10_000
    with world(sensors=12, sessions=0) as made:
        event = swept(made, count, mirrored=count)
        TAPE.answers.clear()
        invoke(event)
        pages = [body for _, _, body in TAPE.answers.values() if b"<DescribeInstancesR" in body]
        TAPE.answers = as_aws_shows(TAPE.answers)
        shown = [body for _, _, body in TAPE.answers.values() if b"<DescribeInstancesR" in body]
        with played_back(Latency(0, 0)):
            milliseconds = sorted((cpu(event) for _ in range(1 if quick else 3)), key=sum)
    used = milliseconds[len(milliseconds) // 2]
    of_part = dict(zip(PARTS, used, strict=True))
    own = of_part["read"] + of_part["judge"] + of_part["other"]
    each = sum(map(len, shown)) // sum(body.count(b"<instanceId>") for body in shown)
    before = sum(map(len, pages)) // sum(body.count(b"<instanceId>") for body in pages)
    heading(
        f"A sweep of {count:,} mirrored instances, {each:,} bytes each as AWS shows them (the "
        f"simulated account: {before:,}).",
        f"{'':44}" + "".join(f"{part:>8}" for part in PARTS) + "   own / parse",
    )
    line = "".join(f"{part:8.0f}" for part in used)
    print(f"{'CPU milliseconds':44}{line} {own / of_part['parse']:13.3f}")


SWEEPS = (
    # what becomes of all instances, how the last rule of a group is, what replay.py is told
    ("planned (dry run)", OPEN, "planned"),
    ("unmirrored", SHUT, "created"),
    ("created", OPEN, "created"),
    ("refused by AWS", OPEN, "refused"),
    ("created, each as long as AWS shows it", OPEN, "created as-aws-shows"),
)


def recording(folder: Path, sensors: int, count: int, last_rule: Mapping[str, Any]) -> Path:
    """What a sweep of so many instances asks for, in a file for replay.py."""
    path = folder / f"{sensors}-{count}-{last_rule['cidr'].partition('/')[0]}"
    if not path.exists():
        with world(sensors, 0, 1, 5, last_rule) as made:
            made.account.instances(count)
            TAPE.answers.clear()
            forget()
            invoke({**scheduled_event(), "dry_run": True})
            names = ("filter_id", "targets")
            variables = {name: os.environ[name] for name in names}
            path.write_bytes(pickle.dumps((variables, TAPE.answers)))
    return path


def grown(path: Path, what: str) -> tuple[float, str]:
    """By how many MB a process grows during the sweep, and what it says of it."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("replay.py")), str(path), *what.split()],
        env={"PATH": os.environ.get("PATH", "")},
        capture_output=True,
        text=True,
        check=True,
    )
    number, _, text = done.stdout.partition(" ")
    return int(number) / 1e6, text


def measure_memory(quick: bool) -> None:
    """The table of the memory that sweeps take."""
    sensors, count = (30, 500) if quick else (300, 5_000)
    heading(
        f"Memory of a sweep of {count:,} instances, {sensors} sensors with 5 rules each.",
        f"{'all of them are':44}  peak MB   over that of an empty sweep",
    )
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        empty, _ = grown(recording(work, sensors, 0, OPEN), "planned")
        for label, last_rule, what in SWEEPS:
            peak, _ = grown(recording(work, sensors, count, last_rule), what)
            print(f"{label:44} {peak:8.1f} {peak - empty:+15.1f}")


# --------------------------------------------------------------------------------------
# Cold start
# --------------------------------------------------------------------------------------

TIMED = """
import time
wall, cpu = time.perf_counter(), time.process_time()
{}
print(time.perf_counter() - wall, time.process_time() - cpu)
"""
BARE = TIMED.format("import boto3, netaddr; boto3.client('ec2')")
MODULE = TIMED.format("import lambda_traffic_mirror")


def import_seconds(code: str, folder: Path) -> tuple[float, float]:
    """Seconds on the clock and of CPU that an import takes in a new process inside Lambda."""
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": str(folder),
        "AWS_LAMBDA_FUNCTION_NAME": "benchmark",  # the client is made during the import
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "simulated",
        "AWS_SECRET_ACCESS_KEY": "simulated",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],  # -B: writes no bytecode, as nothing can in Lambda
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    wall, cpu_seconds = map(float, done.stdout.split())
    return wall, cpu_seconds


def compile_all(folder: Path) -> None:
    """Bytecode that does not depend on times: the same sources give the same bytes."""
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(folder, quiet=2, invalidation_mode=mode)


def build_zip() -> Path | None:
    """The zip, made anew; None where that is not possible (it needs a package index)."""
    script = PROJECT / "build_zip.sh"
    if not script.exists():
        return None
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        [str(script)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        print(f"\nNo zip: {done.stderr.strip()}")
        return None
    return PROJECT / "lambda_traffic_mirror.zip"


def measure_imports(quick: bool) -> None:
    """The table of what a cold start costs."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "empty").mkdir()
        (work / "module").mkdir()
        shutil.copy2(PROJECT / "lambda_traffic_mirror.py", work / "module")
        compile_all(work / "module")
        kinds = {
            "boto3, netaddr and an EC2 client": (BARE, work / "empty"),
            "the module (makes the client)": (MODULE, work / "module"),
        }
        packed = build_zip()
        if packed:
            for name in ("plain", "compiled"):
                with zipfile.ZipFile(packed) as archive:
                    archive.extractall(work / name)
            compile_all(work / "compiled")
            kinds["the zip as it is"] = (MODULE, work / "plain")
            kinds["the zip with bytecode"] = (MODULE, work / "compiled")
        times = 3 if quick else 10
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
        for number in range(-1, times):
            for name, (code, where) in kinds.items():
                measured = import_seconds(code, where)
                if number >= 0:  # the first one only brings the files into memory
                    taken[name].append(measured)
    heading(
        f"Import, in new processes that take turns, median of {times}.",
        f"{'':36}   wall ms    CPU ms   more CPU than boto3 and netaddr",
    )
    bare = 0.0
    for name, pairs in taken.items():
        wall, used = (1e3 * statistics.median(each) for each in zip(*pairs, strict=True))
        bare = bare or used
        print(f"{name:36} {wall:9.1f} {used:9.1f} {100 * (used / bare - 1):+8.1f} %")
    if packed:
        print(f"\nThe zip has {packed.stat().st_size:,} bytes.")


def main() -> None:
    assert __doc__
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument(
        "--latency", type=float, default=20, metavar="MS", help="of each call, above 0 (20)"
    )
    arguments.add_argument(
        "--create-latency", type=float, default=100, metavar="MS", help="of each create (100)"
    )
    arguments.add_argument("--quick", action="store_true", help="small numbers only")
    asked = arguments.parse_args()
    if min(asked.latency, asked.create_latency) <= 0:
        # Calls that take no time do not overlap, so there would be no round trips to count.
        arguments.error("latencies have to be above 0")

    logging.getLogger().addHandler(logging.StreamHandler(io.StringIO()))
    lambda_traffic_mirror.logger.setLevel(logging.INFO)
    print(__doc__[__doc__.index("calls  ") :].rstrip())
    measure_events(asked.latency / 1e3, asked.create_latency / 1e3, asked.quick)
    measure_mirrored(asked.quick)
    measure_memory(asked.quick)
    measure_imports(asked.quick)


if __name__ == "__main__":
    main()
