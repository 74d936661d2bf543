"""What AWS hides from lists or no longer has: managed instances, targets that are gone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from aws import scheduled_event
from aws.transport import old_botocore
from calls import TARGETS
from conftest import Scene, deliver, missing

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(params=[False, True], ids=["boto3 that can ask for it", "old boto3"])
def old(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether boto3 is too old to ask for what services manage."""
    with old_botocore("IncludeManagedResources") if request.param else nullcontext():
        yield request.param


def test_what_services_manage_is_mirrored_or_the_reason_and_a_warning_say_why_not(
    scene: Scene, sensor: str, old: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """EC2 hides it from look-ups by filter, unless it is asked to show it."""
    named, swept = (scene.instance(managed=True) for _ in range(2))
    scene.run(named)
    entry = scene.run(named).entry
    if old:
        assert (entry["outcome"], missing(entry["reason"], "services manage")) == ("skipped", [])
    said = [record for record in caplog.records if "services manage" in record.getMessage()]
    warnings = [record for record in said if record.levelno == logging.WARNING]
    assert len(warnings) == int(old)  # once for each environment
    scene.run(scheduled_event())
    assert scene.sessions_of(named, swept) == [int(not old)] * 2


def test_a_sweep_says_that_it_cannot_list_what_services_manage(
    scene: Scene, sensor: str, old: bool, caplog: pytest.LogCaptureFixture
) -> None:
    scene.run(scheduled_event())
    assert ("services manage" in caplog.text) is old


def test_a_sensor_on_an_instance_that_a_service_manages_is_used_while_it_runs(scene: Scene) -> None:
    target = scene.sensor(managed=True)
    scene.configure(target)
    assert scene.run(scene.instance()).stages == ["(selected)"]
    scene.stop(scene.sensor_instance(target))
    assert scene.run(scheduled_event()).summary["blocked"] == 1
    assert scene.run(scene.instance()).stages == ["unavailable"]


# --- Targets that are gone


def test_a_session_to_a_target_that_is_gone_is_blocked(scene: Scene) -> None:
    """Of this account or shared by another one, configured or not."""
    owner = scene.other()
    own, shared = [scene.sensor() for _ in range(2)], [owner.sensor() for _ in range(2)]
    for target in shared:
        owner.share(target)
    instances = [scene.mirrored(target)[0] for target in (*own, *shared)]
    scene.configure([scene.sensor(), own[0], shared[0]], ALLOW_UNVERIFIED="true")
    answer = scene.run(scheduled_event())
    assert [answer.of(one)["outcome"] for one in instances] == ["exists"] * 4
    for target in own:
        scene.delete_target(target)
    for target in shared:
        owner.unshare(target)
    answer = scene.run(scheduled_event())
    for target, instance in zip((*own, *shared), instances, strict=True):
        entry = answer.of(instance)
        assert (answer.status, entry["outcome"], entry["target_id"]) == (400, "blocked", target)
        assert missing(entry["reason"], "There is no traffic mirror target", target) == []


@pytest.mark.parametrize("ours", [True, False], ids=["configured", "not one of ours"])
def test_a_target_that_the_list_lacks_is_looked_for_before_a_session_to_it_is_blocked(
    scene: Scene, sensor: str, ours: bool
) -> None:
    other = scene.sensor(attached=False)
    scene.configure([sensor, *[other] * ours])
    (instance,) = scene.mirrored(other)
    looks: list[int] = []

    def change(answer: dict[str, Any]) -> None:
        looks.append(1)
        if len(looks) % 2:  # the first answer is the list
            rows = answer["TrafficMirrorTargets"]
            rows[:] = [row for row in rows if row["TrafficMirrorTargetId"] != other]

    scene.show(TARGETS, change)
    assert scene.run(scheduled_event()).of(instance)["outcome"] == "exists"
    assert len(looks) == 2
    scene.fail(TARGETS, after=1)
    error = deliver(scheduled_event()).error
    assert missing(error, "1 failed", scene.first_interface(instance), TARGETS) == []


SEVERAL = {
    # MIRROR_ALONGSIDE, where the sessions lead to, the outcome
    "all targets are gone": ("false", ["gone", "gone"], "blocked"),
    "one of the targets is there": ("false", ["gone", "there"], "exists"),
    "one of ours is there, another tool's is gone": ("false", ["gone", "ours"], "exists"),
    "one of ours is there, one of ours is closed": ("false", ["ours", "closed"], "blocked"),
    "another tool's are gone, and one of ours is wanted besides": ("true", ["gone"], "created"),
}


@pytest.mark.parametrize(("alongside", "leads", "outcome"), SEVERAL.values(), ids=SEVERAL.keys())
def test_of_several_sessions_those_to_our_targets_decide_whether_a_sweep_calls_it_blocked(
    scene: Scene, alongside: str, leads: list[str], outcome: str
) -> None:
    targets = {"ours": scene.sensor(), "closed": scene.sensor(groups=[scene.group()])}
    targets["there"] = scene.sensor()
    instance = scene.instance()
    for number, where in enumerate(leads, 5):
        target = targets.get(where) or scene.missing_sensor()
        scene.session(scene.first_interface(instance), target, number=number)
    scene.configure([targets["ours"], targets["closed"]], MIRROR_ALONGSIDE=alongside)
    assert scene.run(scheduled_event()).of(instance)["outcome"] == outcome
