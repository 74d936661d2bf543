"""What AWS hides from lists or no longer has: managed instances, targets that are gone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from aws import rule, running_event, scheduled_event
from aws.transport import old_botocore
from calls import PREFIX_LIST, TARGETS
from conftest import Scene, Sleeps, deliver, missing

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(params=[False, True], ids=["boto3 that can ask for it", "old boto3"])
def old(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether boto3 is too old to ask for what services manage."""
    with old_botocore("IncludeManagedResources") if request.param else nullcontext():
        yield request.param


def test_an_instance_that_a_service_manages_is_mirrored(
    scene: Scene, sensor: str, quick: Sleeps, old: bool
) -> None:
    instance = scene.instance(managed=True)
    assert scene.run(running_event(instance)).outcomes == ["created"]
    assert scene.sessions_of(instance) == [1]
    assert quick.seconds == [1.0] * old  # where only a look-up by ID shows it


def test_a_sweep_mirrors_what_services_manage_or_says_that_it_cannot_list_it(
    scene: Scene, sensor: str, old: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    instance = scene.instance(managed=True)
    scene.run(scheduled_event())
    assert scene.sessions_of(instance) == [int(not old)]
    said = [record for record in caplog.records if "services manage" in record.getMessage()]
    assert len(said) == int(old)


def test_a_sensor_on_an_instance_that_a_service_manages_is_used(scene: Scene, old: bool) -> None:
    scene.configure(scene.sensor(managed=True))
    instance = scene.instance()
    assert scene.run(running_event(instance)).outcomes == ["created"]


def test_a_sensor_on_an_instance_that_a_service_manages_has_to_run(scene: Scene, old: bool) -> None:
    target = scene.sensor(managed=True)
    scene.configure(target)
    scene.mirrored(target)
    scene.stop(scene.sensor_instance(target))
    assert scene.run(scheduled_event()).summary == {"blocked": 1}
    assert scene.run(scene.instance()).stages == ["unavailable"]


def own(scene: Scene) -> tuple[str, Callable[[], None]]:
    target = scene.sensor()
    return target, lambda: scene.delete_target(target)


def shared(scene: Scene) -> tuple[str, Callable[[], None]]:
    owner = scene.other()
    target = owner.sensor()
    owner.share(target)
    return target, lambda: owner.unshare(target)


@pytest.mark.parametrize("ours", [True, False], ids=["configured", "not one of ours"])
@pytest.mark.parametrize("target", [own, shared])
def test_a_session_to_a_target_that_is_gone_is_blocked(
    scene: Scene, target: Callable[[Scene], tuple[str, Callable[[], None]]], ours: bool
) -> None:
    gone, go = target(scene)
    instance = scene.instance()
    scene.session(scene.first_interface(instance), gone)
    scene.configure([scene.sensor(), *[gone] * ours], ALLOW_UNVERIFIED="true")
    assert scene.run(scheduled_event()).of(instance)["outcome"] == "exists"
    go()
    answer = scene.run(scheduled_event())
    entry = answer.of(instance)
    assert (answer.status, entry["outcome"], entry["target_id"]) == (400, "blocked", gone)
    assert missing(entry["reason"], "There is no traffic mirror target", gone) == []


# What a look-up by ID comes to, of a target that the list does not show.
LOOK_UPS: dict[str, tuple[Callable[[Scene], object], str]] = {
    "found": (lambda scene: None, "exists"),
    "throttled": (lambda scene: scene.fail(TARGETS, after=1), "failed"),
}


@pytest.mark.parametrize(("look_up", "outcome"), LOOK_UPS.values(), ids=LOOK_UPS.keys())
def test_a_target_that_the_list_does_not_show_is_asked_for_by_its_id(
    scene: Scene, sensor: str, look_up: Callable[[Scene], object], outcome: str
) -> None:
    other = scene.sensor(attached=False)
    interface = scene.interfaces_of(scene.mirrored(other)[0])[0]
    listed = [1]

    def change(answer: dict[str, Any]) -> None:
        if listed:  # the first answer is the list
            listed.clear()
            rows = answer["TrafficMirrorTargets"]
            rows[:] = [row for row in rows if row["TrafficMirrorTargetId"] != other]

    scene.show(TARGETS, change)
    look_up(scene)
    delivery = deliver(scheduled_event())
    if outcome == "failed":
        assert missing(delivery.error, "1 failed", interface, TARGETS) == []
    else:
        assert delivery.answer.summary == {"exists": 1, "skipped": 1}
        assert scene.count(TARGETS) == 2


@pytest.mark.parametrize("code", ["TargetId.NotFound", "TargetNoFound"])
def test_targets_are_gone_however_aws_spells_it_and_whether_or_not_it_names_them(
    scene: Scene, sensor: str, code: str
) -> None:
    gone = {scene.missing_sensor() for _ in range(3)}
    for instance, target in zip(scene.instances(3), gone, strict=True):
        scene.session(scene.first_interface(instance), target)
    scene.fail(
        TARGETS,
        f"InvalidTrafficMirror{code}",
        status=400,
        message="The specified target does not exist.",
        where=lambda p: not gone.isdisjoint(p.get("TrafficMirrorTargetIds", ())),
    )
    assert scene.run(scheduled_event()).summary == {"blocked": 3, "skipped": 1}


def test_one_prefix_list_that_admits_settles_it_whatever_became_of_another(scene: Scene) -> None:
    lists = [scene.prefix_list("192.0.2.0/24"), scene.prefix_list("10.0.0.0/8")]
    scene.configure(scene.sensor(groups=[scene.group(*(rule(prefix_list=one) for one in lists))]))
    scene.fail(PREFIX_LIST, where=lambda parameters: parameters["PrefixListId"] == lists[0])
    assert deliver(running_event(scene.instance())).answer.outcomes == ["created"]
