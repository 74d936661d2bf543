"""Of the sensors that are left, the one with the fewest sessions is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import pytest
from conftest import KINDS, Scene, deliver

pytestmark = pytest.mark.usefixtures("shared_client")


COUNTS: dict[str, tuple[Sequence[int], int]] = {
    # sessions of each sensor, the position of the one that is chosen
    "idle": ((3, 0, 5), 1),
    "one less": ((7, 6, 7), 1),
    "the last": ((2, 2, 1), 2),
}


@pytest.mark.parametrize(("counts", "best"), COUNTS.values(), ids=COUNTS.keys())
def test_the_sensor_with_the_fewest_sessions_is_chosen(
    scene: Scene, counts: Sequence[int], best: int
) -> None:
    targets = [scene.sensor(sessions=count) for count in counts]
    scene.configure(targets)
    assert scene.run(scene.instance()).entry["target_id"] == targets[best]


def test_sessions_on_all_pages_count(scene: Scene) -> None:
    # The first page of 1,000 shows 501 of the one and 499 of the other.
    few = scene.sensor(sessions=501, quota=10_000)
    many = scene.sensor(sessions=1_700, quota=10_000)
    scene.configure([few, many])
    sensors = scene.run(scene.instance()).sensors
    assert [sensors[target]["sessions"] for target in (few, many)] == [501, 1_700]


def test_a_tie_goes_to_the_lowest_sha_256_of_interface_and_target(scene: Scene) -> None:
    targets = [scene.sensor(sessions=2) for _ in range(8)]
    instances = scene.instances(5)
    scene.configure(targets, DRY_RUN="true")
    chosen, best = [], []
    for instance in instances:
        (interface,) = scene.interfaces_of(instance)
        chosen.append(scene.run(instance).entry["target_id"])
        best.append(min(targets, key=lambda t: sha256(f"{interface}{t}".encode()).hexdigest()))
    assert chosen == best


@pytest.mark.parametrize("kind", KINDS)
def test_each_session_counts_at_once(scene: Scene, kind: str) -> None:
    targets = [scene.sensor(sessions=count) for count in (0, 1, 3)]
    scene.configure(targets)
    deliver(KINDS[kind](scene.instances(4, interfaces=2)))
    assert [len(scene.sessions(target_id=target)) for target in targets] == [4, 4, 4]


def test_the_result_shows_the_counts_that_were_used(scene: Scene) -> None:
    targets = [scene.sensor(sessions=2), scene.sensor(sessions=4), scene.sensor(zone="b")]
    scene.configure(targets)
    shown = scene.run(scene.instance()).entry["sensors"]
    assert [(s["target_id"], s["verdict"], s["sessions"]) for s in shown] == [
        (targets[0], "selected", 2),
        (targets[1], "eligible", 4),
        (targets[2], "rejected", None),
    ]


def test_sessions_to_other_targets_do_not_count(scene: Scene) -> None:
    scene.sensor(sessions=5)
    target = scene.sensor(sessions=1)
    scene.configure(target)
    assert scene.run(scene.instance()).sensors[target]["sessions"] == 1
