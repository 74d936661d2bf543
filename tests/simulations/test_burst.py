"""Bursts and day one, with few instances: the function mirrors all of them, and in time.

All seconds here are simulated ones. `burst.py` prints the same for larger numbers.
"""

from __future__ import annotations

import burst
import pytest


def run(*what: object, **parameters: object) -> burst.Row:
    """A run in which every instance is mirrored once, and no invocation fails."""
    row = burst.run(*what, **parameters)  # type: ignore[arg-type]
    assert (row.lost, row.doubled, row.given_up, row.errors) == (0, 0, 0, {})
    return row


@pytest.mark.parametrize(
    ("count", "create_seconds", "seconds"), [(10, 0.06, 4.3), (10, 0.6, 5.0), (60, 0.6, 7.0)]
)
def test_a_burst_through_the_queue_is_mirrored_within_seconds(
    count: int, create_seconds: float, seconds: float
) -> None:
    row = run(count, burst.BURST, create_seconds)
    assert max(burst.bound(count), create_seconds + 1.7) < row.seconds < seconds
    assert row.calls["CreateTrafficMirrorSession"] >= count
    assert row.invocations < count / 2  # a batch shares its reads


def test_creates_that_are_throttled_wait_for_their_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(burst, "WRITES", (3.0, 1.0))
    row = run(10)
    assert row.throttled["CreateTrafficMirrorSession"] > 0
    assert burst.bound(10) == 7 <= row.seconds < 30


def test_one_sweep_mirrors_what_day_one_finds() -> None:
    row = run(80, burst.DAY_ONE)
    assert (row.invocations, burst.bound(80)) == (1, 6)
    assert 6 < row.seconds < 6 + 6
    assert row.calls.total() < 2 * 80


def test_the_next_sweep_goes_on_where_one_ran_out_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(burst, "WRITES", (30.0, 2.0))
    row = run(140, burst.DAY_ONE, Timeout="60")
    assert row.invocations == 2
    assert 300 < row.seconds < 310


def test_the_same_seed_gives_the_same_run() -> None:
    assert run(10) == run(10) != run(10, seed=2)


def test_what_waits_for_real_is_told() -> None:
    clock = burst.Clock()
    real = burst.threading.Event()
    clock.STANDSTILL_SECONDS = 0.05  # type: ignore[misc]
    clock.start(real.wait)
    with pytest.raises(RuntimeError, match="not simulated"):
        clock.run()
    real.set()
