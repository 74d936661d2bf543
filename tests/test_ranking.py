"""Of the sensors that are left, the one with the fewest sessions is chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import sha256

import pytest
from aws import SimulatedAccount
from conftest import Configure, Run

pytestmark = pytest.mark.usefixtures("shared_client")


COUNTS: dict[str, tuple[Sequence[int], int]] = {
    # sessions of each sensor, the position of the one that is chosen
    "idle": ((3, 0, 5), 1),
    "one less": ((7, 6, 7), 1),
    "the last": ((2, 2, 1), 2),
}


@pytest.mark.parametrize(("counts", "best"), COUNTS.values(), ids=COUNTS.keys())
def test_the_sensor_with_the_fewest_sessions_is_chosen(
    account: SimulatedAccount, configure: Configure, run: Run, counts: Sequence[int], best: int
) -> None:
    targets = [account.sensor(sessions=count) for count in counts]
    configure(targets)
    assert run(account.instance()).entry["target_id"] == targets[best]


def test_sessions_on_all_pages_count(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    # The first page of 1,000 shows 501 of the one and 499 of the other.
    few = account.sensor(sessions=501, quota=10_000)
    many = account.sensor(sessions=1_700, quota=10_000)
    configure([few, many])
    sensors = run(account.instance()).sensors
    assert [sensors[target]["sessions"] for target in (few, many)] == [501, 1_700]


def test_a_tie_goes_to_the_lowest_sha_256_of_interface_and_target(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    targets = [account.sensor(sessions=2) for _ in range(8)]
    instances = account.instances(5)
    configure(targets, DRY_RUN="true")
    chosen, best = [], []
    for instance in instances:
        (interface,) = account.interfaces_of(instance)
        chosen.append(run(instance).entry["target_id"])
        best.append(min(targets, key=lambda t: sha256(f"{interface}{t}".encode()).hexdigest()))
    assert chosen == best


@pytest.mark.parametrize("dry_run", ["true", "false"])
def test_each_session_counts_at_once(
    account: SimulatedAccount, configure: Configure, run: Run, dry_run: str
) -> None:
    targets = [account.sensor(sessions=count) for count in (0, 1, 3)]
    configure(targets, DRY_RUN=dry_run)
    answer = run({"instance-ids": account.instances(4, interfaces=2)})
    assert Counter(entry["target_id"] for entry in answer.interfaces) == dict(
        zip(targets, (4, 3, 1), strict=True)
    )


def test_the_result_shows_the_counts_that_were_used(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    targets = [account.sensor(sessions=2), account.sensor(sessions=4), account.sensor(zone="b")]
    configure(targets)
    shown = run(account.instance()).entry["sensors"]
    assert [(s["target_id"], s["verdict"], s["sessions"]) for s in shown] == [
        (targets[0], "selected", 2),
        (targets[1], "eligible", 4),
        (targets[2], "rejected", None),
    ]


def test_sessions_to_other_targets_do_not_count(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    account.sensor(sessions=5)
    target = account.sensor(sessions=1)
    configure(target)
    assert run(account.instance()).sensors[target]["sessions"] == 1
