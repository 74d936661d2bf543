"""Random AWS accounts: does the function decide as the model does?

Each seed makes one account with networks, sensors of every kind, sessions, instances, databases,
other accounts, and answers that are missing; the handler runs, and every outcome, choice, verdict,
create and metric is compared. WORLDS=2000 runs that many seeds, WORLDS=500-700 those from 500 to
699.
"""

from __future__ import annotations

import os

import pytest
from worlds import play


def seeds() -> range:
    """Which worlds to run."""
    first, _, end = os.environ.get("WORLDS", "104").rpartition("-")
    return range(int(first or 0), int(end))


@pytest.mark.parametrize("seed", seeds())
def test_the_handler_decides_as_the_model_does(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    if found := play(seed):
        pytest.fail("\n\n".join(found[:3]))
