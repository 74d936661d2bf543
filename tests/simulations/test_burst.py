"""Bursts and day one, with few instances: the function mirrors all of them, and in time.

All seconds here are simulated ones. `burst.py` prints the same for larger numbers.
"""

from __future__ import annotations

from typing import Any

import burst
import pytest


def run(*what: Any, **parameters: str) -> burst.Row:
    """A run in which every instance is mirrored once, and no invocation fails."""
    row = burst.run(*what, **parameters)
    assert (row["lost"], row["given up"], row["errors"]) == (0, 0, 0)
    return row


@pytest.mark.parametrize(("count", "create_seconds", "seconds"), [(10, 0.06, 4.3), (60, 0.6, 7.0)])
def test_a_burst_through_the_queue_is_mirrored_within_seconds(
    count: int, create_seconds: float, seconds: float
) -> None:
    row = run(count, burst.BURST, create_seconds)
    assert max(row["bound"], create_seconds + 1.7) < row["last"] < seconds
    assert row["invocations"] < count / 2  # a batch shares its reads


def test_creates_that_are_throttled_wait_for_their_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(burst, "WRITES", (3.0, 1.0))
    row = run(10)
    assert row["throttled"] > 0
    assert row["bound"] == 7 <= row["last"] < 30


def test_the_next_sweep_goes_on_where_one_ran_out_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(80, burst.DAY_ONE)["invocations"] == 1
    monkeypatch.setattr(burst, "WRITES", (30.0, 2.0))
    row = run(140, burst.DAY_ONE, Timeout="60")
    assert row["invocations"] == 2
    assert 300 < row["last"] < 310


def test_what_waits_for_real_is_told() -> None:
    clock = burst.SimulatedTime()
    clock.STANDSTILL_SECONDS = 0.05  # type: ignore[misc]
    clock.start(burst.threading.Event().wait)
    with pytest.raises(RuntimeError, match="not simulated"):
        clock.run()
