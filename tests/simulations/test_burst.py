"""The burst simulation, with few instances: does it run, and does it tell when a goal is missed?"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from functools import partial

import burst
import pytest


@pytest.fixture(scope="module")
def rows() -> dict[str, burst.Row]:
    return {way: burst.burst(10, way) for way in burst.WAYS}


@pytest.mark.parametrize("way", burst.WAYS)
def test_ten_instances_are_mirrored_within_seconds(rows: dict[str, burst.Row], way: str) -> None:
    row = rows[way]
    assert burst.misses(row) == []
    assert (row.lost, row.doubled, row.given_up) == (0, 0, 0)
    assert row.errors == Counter()
    assert row.operations["CreateTrafficMirrorSession"] == len(row.times) == 10
    # An event's way and a cold start; no pause that a retry makes.
    assert 1.7 < row.seconds < 5


def test_one_event_each_costs_eight_calls_each(rows: dict[str, burst.Row]) -> None:
    row = rows[burst.EACH]
    assert (row.invocations, row.calls_each) == (10, 8)


def test_batches_share_their_reads(rows: dict[str, burst.Row]) -> None:
    row = rows[burst.BATCHES]
    assert row.invocations < 5
    assert row.calls_each < 4


def test_the_same_seed_gives_the_same_run(rows: dict[str, burst.Row]) -> None:
    assert burst.burst(10, burst.BATCHES) == rows[burst.BATCHES]
    assert burst.burst(10, burst.BATCHES, seed=2) != rows[burst.BATCHES]


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
    assert burst.misses(row) == ["2 instances, one event each: 1 lost and 0 mirrored twice, not 0"]


def test_goals(rows: dict[str, burst.Row]) -> None:
    row = replace(rows[burst.BATCHES], count=100, calls=200, seconds=20.1)
    assert [text.partition(": ")[2] for text in burst.misses(row)] == [
        "the last mirrored after 20.1 s, not 20.0 s",
        "2.00 calls per instance, not fewer than 2",
    ]
    row = replace(row, count=1_000, calls=1_999, seconds=237.5)
    assert burst.misses(row) == []
    assert len(burst.misses(replace(row, seconds=237.6))) == 1
    assert len(burst.misses(replace(row, doubled=1))) == 1


def test_the_table_fits_into_the_readme(rows: dict[str, burst.Row]) -> None:
    row = replace(
        rows[burst.EACH],
        count=1_000,
        calls=99_999,
        seconds=999.9,
        invocations=9_999,
        throttled=Counter(DescribeInstances=99_999),
        fullest=999,
        emptiest=999,
    )
    text = f"{burst.table([row, *rows.values()])}\n{burst.LEGEND}"
    assert max(map(len, text.splitlines())) <= 100


def test_the_clock_runs_one_thread_at_a_time_in_the_order_of_time() -> None:
    clock = burst.Clock()
    seen: list[tuple[float, str]] = []

    def sleeper(name: str, *pauses: float) -> None:
        for seconds in pauses:
            clock.sleep(seconds)
            seen.append((clock.now, name))

    began = time.perf_counter()
    clock.start(partial(sleeper, "a", 100, 100))
    clock.start(partial(sleeper, "b", 150))
    clock.at(120, lambda: clock.start(partial(sleeper, "c", 10)))
    clock.run()
    assert seen == [(100, "a"), (130, "c"), (150, "b"), (200, "a")]
    assert time.perf_counter() - began < 10


def test_the_clock_ends_what_is_killed_and_what_waits_in_vain() -> None:
    clock = burst.Clock()
    seen: list[str] = []

    def waiter(name: str) -> None:
        try:
            clock.pause(None if name == "in vain" else 100)
        finally:
            seen.append(f"{name} at {clock.now:.0f}")

    clock.start(partial(waiter, "killed"), "owner")
    clock.start(partial(waiter, "in vain"), "another owner")
    clock.at(7, partial(clock.kill, "owner"))
    clock.at(20, lambda: None)
    clock.run()
    assert seen == ["killed at 7", "in vain at 100"]


def test_the_clock_raises_what_a_thread_has_raised() -> None:
    clock = burst.Clock()
    clock.start(lambda: int("none"))
    with pytest.raises(ValueError, match="none"):
        clock.run()
