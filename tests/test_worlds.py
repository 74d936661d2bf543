"""Random AWS accounts: does the function decide as the model does?

Each seed makes one account with networks, sensors of every kind, sessions, instances, databases,
other accounts, and answers that are missing; the handler runs, and every outcome, choice, verdict,
create and metric is compared. WORLDS=2000 runs that many seeds, WORLDS=500-700 those from 500 to
699.
"""

from __future__ import annotations

import os

import pytest
from conftest import Clock, Scene
from worlds import play, seeds


@pytest.mark.parametrize("seed", seeds(os.environ.get("WORLDS", "104")))
def test_the_handler_decides_as_the_model_does(
    scene: Scene, clock: Clock, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    caplog.set_level("DEBUG", "lambda_traffic_mirror")
    if found := play(scene, seed, caplog):
        pytest.fail("\n\n".join(found[:3]))
