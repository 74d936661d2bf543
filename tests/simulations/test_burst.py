"""The burst simulation, with few instances: is it honest, does it tell when a goal is missed, and
does the function meet the goals where numbers are small?

All seconds here are simulated ones.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import burst
import pytest


@pytest.fixture(scope="module")
def rows() -> dict[str, burst.Row]:
    return {way: burst.burst(10, way) for way in burst.WAYS}


@pytest.fixture(scope="module")
def day_one() -> burst.Row:
    return burst.day_one(80)


# ---------------------------------------------------------------------------------------------
# What becomes of the instances.


@pytest.mark.parametrize("way", burst.WAYS)
def test_ten_instances_are_mirrored_within_seconds(rows: dict[str, burst.Row], way: str) -> None:
    row = rows[way]
    assert (row.lost, row.doubled, row.given_up) == (0, 0, 0)
    assert row.errors == Counter()
    assert row.operations["CreateTrafficMirrorSession"] == len(row.times) == 10
    # An event's way, a cold start and a create; no pause that a retry makes.
    assert 1.7 + burst.CREATE_SECONDS < row.seconds < 5


@pytest.mark.parametrize(
    ("count", "create_seconds"),
    [(10, 0.06), (10, burst.CREATE_SECONDS), (10, 1.0), (60, burst.CREATE_SECONDS)],
)
def test_bursts_through_the_queue_meet_their_goals(count: int, create_seconds: float) -> None:
    row = burst.Row.mean(
        [burst.burst(count, burst.BATCHES, seed, create_seconds) for seed in (1, 2, 3)]
    )
    assert burst.misses(row) == []
    assert row.errors == Counter()


def test_batches_share_their_reads(rows: dict[str, burst.Row]) -> None:
    each, batches = rows[burst.EACH], rows[burst.BATCHES]
    assert (each.invocations, each.calls_each) == (10, 8)
    assert batches.invocations < 5
    assert batches.calls_each < 4


def test_day_one_needs_sweeps_only(day_one: burst.Row) -> None:
    assert (day_one.lost, day_one.doubled, len(day_one.times)) == (0, 0, 80)
    assert day_one.errors == Counter()
    assert day_one.invocations == 1
    assert day_one.calls_each < 2
    # The first sweep is cold and waits for its create; the bucket sets the pace of the rest.
    assert burst.COLD_START_SECONDS[0] + burst.CREATE_SECONDS < day_one.times[0] < 4
    assert burst.bound(80) == 6 < day_one.seconds < 6 + 6


def test_the_next_sweep_goes_on_where_one_has_run_out_of_time() -> None:
    row = burst.day_one(80, timeout=6.0, sweep_seconds=30.0)
    assert (row.lost, row.doubled) == (0, 0)
    assert row.invocations > 1
    assert row.seconds > 30
    assert row.errors["timeout"] == 0


def test_the_same_seed_gives_the_same_run(rows: dict[str, burst.Row], day_one: burst.Row) -> None:
    assert burst.burst(10, burst.BATCHES) == rows[burst.BATCHES]
    assert burst.burst(10, burst.BATCHES, seed=2) != rows[burst.BATCHES]
    assert burst.day_one(80) == day_one


def test_creates_take_as_long_as_they_are_said_to(rows: dict[str, burst.Row]) -> None:
    quick = burst.burst(10, burst.EACH, create_seconds=burst.CALL_SECONDS)
    longer = burst.CREATE_SECONDS - burst.CALL_SECONDS
    assert quick.times[0] + longer == pytest.approx(rows[burst.EACH].times[0])


def test_creates_are_throttled_and_wait_for_their_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(burst, "WRITES", (3.0, 1.0))
    row = burst.burst(10, burst.BATCHES)
    assert row.throttled["CreateTrafficMirrorSession"] > 0
    assert burst.bound(10) == 7 <= row.seconds
    assert row.lost == 0


def test_what_lambda_gives_up_the_sweep_mirrors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(burst, "WRITES", (1.0, 1 / 290))  # one at once, the second for the sweep
    row = burst.burst(2, burst.EACH)
    assert (row.given_up, row.lost, row.doubled) == (1, 0, 0)
    assert row.errors == {"MirroringError": len(burst.RETRY_SECONDS) + 1}
    assert 300 < row.seconds < 320


def test_what_nobody_mirrors_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(burst, "WRITES", (1.0, 1e-9))
    monkeypatch.setattr(burst, "SWEEPS", 1)
    row = burst.burst(2, burst.EACH)
    assert (row.given_up, row.lost) == (1, 1)
    assert [text.partition(": ")[2] for text in burst.misses(row)] == [
        "1 lost and 0 mirrored twice, not 0"
    ]


LATE = """
import time
from concurrent.futures import ThreadPoolExecutor

invocations = []

def lambda_handler(event, context):
    invocations.append(event)
    ThreadPoolExecutor(2).submit(time.sleep, 1)
    if len(invocations) > 1:
        time.sleep(10_000)
    return {"batchItemFailures": []}
"""


def test_what_ends_too_late_or_leaves_threads_behind_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "late.py").write_text(LATE)
    monkeypatch.setattr(burst.Function, "PATH", tmp_path / "late.py")
    monkeypatch.setattr(burst, "SWEEPS", 1)
    row = burst.burst(1, burst.BATCHES, sweep_retries=0)
    assert row.errors == {"threads left behind": 1, "timeout": 1}
    assert [text.partition(": ")[2] for text in burst.misses(row)] == [
        "1 lost and 0 mirrored twice, not 0",
        "1 invocations with timeout, not 0",
        "1 invocations with threads left behind, not 0",
        "the last mirrored after inf s, not 4.0 s",
    ]


# ---------------------------------------------------------------------------------------------
# Goals and table.


@pytest.mark.parametrize(
    ("count", "create_seconds", "goal"),
    [
        (10, 1.0, 5),
        (100, 1.0, 10 + 6),
        (300, 1.0, 50 + 6),
        (1_000, 1.0, 1.06 * 190),
        (10, 0.6, 4),
        (100, 0.6, 10 + 5),
        (300, 0.6, 50 + 6),
        (1_000, 0.6, 1.05 * 190),
        (10, 0.06, 3.3 + 1),
        (100, 0.06, 13.2 + 1),
        (300, 0.06, 52.7 + 1),
        (10, 1.5, math.inf),
    ],
)
def test_a_burst_has_a_goal(
    rows: dict[str, burst.Row], count: int, create_seconds: float, goal: float
) -> None:
    row = replace(
        rows[burst.BATCHES], count=count, create_seconds=create_seconds, calls=0, seconds=goal
    )
    assert burst.longest(row) == pytest.approx(goal)
    assert burst.misses(replace(row, seconds=goal - 0.01)) == []
    assert len(burst.misses(replace(row, seconds=goal + 0.01))) == (goal < math.inf)


def test_further_goals(rows: dict[str, burst.Row], day_one: burst.Row) -> None:
    row = replace(rows[burst.BATCHES], count=100, calls=200, seconds=10)
    assert [text.partition(": ")[2] for text in burst.misses(row)] == [
        "2.00 calls per instance, not fewer than 2"
    ]
    assert len(burst.misses(replace(row, calls=199, doubled=1))) == 1
    first = replace(day_one, count=2_000, seconds=1.05 * 390 - 0.01)
    assert burst.misses(first) == []
    assert len(burst.misses(replace(first, seconds=1.05 * 390 + 0.01))) == 1


def test_several_seeds_make_one_line(rows: dict[str, burst.Row]) -> None:
    row = rows[burst.BATCHES]
    mean = burst.Row.mean([row, replace(row, seconds=row.seconds + 2, lost=1, fullest=7)])
    assert (mean.seconds, mean.lost, mean.fullest) == (row.seconds + 1, 1, 7)
    assert mean.calls_each == row.calls_each


def test_the_table_is_no_wider_than_a_page(rows: dict[str, burst.Row], day_one: burst.Row) -> None:
    row = replace(
        day_one,
        count=10_000,
        calls=99_999,
        seconds=9_999.9,
        throttled=Counter(DescribeInstances=99_999),
        fullest=999,
        emptiest=999,
    )
    text = f"{burst.table([row, *rows.values()])}\n{burst.LEGEND}"
    assert max(map(len, text.splitlines())) <= 100


def test_the_command_prints_a_line_for_each_run(capsys: pytest.CaptureFixture[str]) -> None:
    class Here:
        """In place of a pool of processes."""

        def __init__(self, *_: Any, **__: Any) -> None: ...
        def __enter__(self) -> Here:
            return self

        def __exit__(self, *_: object) -> None: ...
        def starmap(self, what: Callable[..., Any], runs: Any, **_: Any) -> list[Any]:
            return list(itertools.starmap(what, runs))

    asked = ["2", "--backlog", "3", "--create-seconds", "0.06", "1.0", "--seeds", "1", "2"]
    asked += ["--delivery", "batches", "--set", "timeout=200", "visibility=230"]
    with patch.object(burst.multiprocessing, "get_context", lambda _: type("", (), {"Pool": Here})):
        assert burst.main(asked) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[3:7]]
    assert [(line[0], line[1], line[3]) for line in lines] == [
        ("2", "batches", "0.06"),
        ("2", "batches", "1.00"),
        ("3", "day", "0.06"),
        ("3", "day", "1.00"),
    ]


# ---------------------------------------------------------------------------------------------
# The clock.

Seen = list[tuple[float, Any]]


@pytest.fixture
def clock() -> burst.Clock:
    return burst.Clock()


@pytest.fixture
def seen() -> Seen:
    return []


def test_the_clock_runs_one_thread_at_a_time_in_the_order_of_time(
    clock: burst.Clock, seen: Seen
) -> None:
    def sleeper(name: str, *pauses: float) -> None:
        for seconds in pauses:
            clock.sleep(seconds)
            seen.append((clock.now, name))

    clock.start(partial(sleeper, "a", 100, 100))
    clock.start(partial(sleeper, "b", 150))
    clock.at(120, lambda: clock.start(partial(sleeper, "c", 10)))
    clock.run()
    assert seen == [(100, "a"), (130, "c"), (150, "b"), (200, "a")]


def test_the_clock_ends_what_is_killed_and_what_waits_in_vain(
    clock: burst.Clock, seen: Seen
) -> None:
    lock = burst.Lock(clock)
    condition = burst.Condition(clock)

    def waiter(name: str) -> None:
        try:
            if name == "in vain":
                clock.pause()
            elif name == "for a lock":
                with lock:
                    pass
            elif name == "for a notification":
                with condition:
                    condition.wait()
            else:
                with lock:
                    clock.sleep(100)
        finally:
            seen.append((clock.now, name))
            if name == "killed":
                clock.sleep(1_000)  # it is over; nobody waits for that

    clock.start(partial(waiter, "killed"), "owner")
    clock.start(partial(waiter, "for a lock"), "owner")
    clock.start(partial(waiter, "for a notification"), "owner")
    clock.start(partial(waiter, "in vain"), "another owner")
    clock.at(7, partial(clock.kill, "owner"))
    clock.at(200, lambda: None)
    clock.run()
    assert seen == [(7, "killed"), (7, "for a lock"), (7, "for a notification"), (200, "in vain")]


def test_the_clock_raises_what_a_thread_has_raised(clock: burst.Clock) -> None:
    clock.start(lambda: int("none"))
    with pytest.raises(ValueError, match="none"):
        clock.run()


def test_the_clock_tells_that_a_thread_waits_for_real(clock: burst.Clock) -> None:
    real = burst.threading.Event()
    clock.STANDSTILL_SECONDS = 0.05  # type: ignore[misc]
    clock.start(real.wait)
    with pytest.raises(RuntimeError, match="not simulated"):
        clock.run()
    real.set()


def test_locks_are_kept_over_a_sleep_and_conditions_wake_those_that_wait(
    clock: burst.Clock, seen: Seen
) -> None:
    lock, condition = burst.Lock(clock, reentrant=True), burst.Condition(clock)

    def hold(seconds: float) -> None:
        with lock:
            with lock:
                clock.sleep(seconds)
            seen.append((clock.now, seconds))

    def wait(seconds: float) -> None:
        with condition:
            notified = condition.wait(seconds)
        seen.append((clock.now, notified))

    def notify() -> None:
        with condition:
            condition.notify()

    for seconds in (10, 20):
        clock.start(partial(hold, seconds))
    for seconds in (6, 3, 8):
        clock.start(partial(wait, seconds))
    clock.at(5, partial(clock.start, notify))
    clock.run()
    assert seen == [(3, False), (5, True), (8, False), (10, 10), (30, 20)]


def work(clock: burst.Clock, seconds: float) -> float:
    clock.sleep(seconds)
    if seconds > 8:
        raise ValueError("too long")
    return seconds


def test_a_pool_has_so_many_workers_hands_over_errors_and_is_waited_for(
    clock: burst.Clock, seen: Seen
) -> None:
    def task() -> None:
        with burst.Pool(clock, 2) as pool:
            futures = [pool.submit(work, clock, seconds) for seconds in (5, 3, 4, 9)]
            clock.sleep(2)
            seen.append((clock.now, [future.done() for future in futures]))
            for future in futures[:3]:
                result = future.result()
                seen.append((clock.now, result))
            error = futures[3].exception()
            seen.append((clock.now, type(error)))
            pool.submit(work, clock, 5)
        seen.append((clock.now, "done"))

    with patch("concurrent.futures._base.threading", burst.Threading(clock)):
        clock.start(task)
        clock.run()
    # One worker does 5 and 9, the other one 3 and 4.
    assert seen[:3] == [(2, [False] * 4), (5, 5), (5, 3)]
    assert seen[3:] == [(7, 4), (14, ValueError), (19, "done")]


def test_what_is_not_simulated_is_refused(clock: burst.Clock) -> None:
    with pytest.raises(AttributeError, match="Event"):
        burst.Threading(clock).Event  # noqa: B018
    with pytest.raises(TypeError, match="timeout"):
        burst.Lock(clock).acquire(timeout=1)  # type: ignore[call-arg]
