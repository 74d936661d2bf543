"""What AWS hides from lists or no longer has: managed instances, targets that are gone."""

from __future__ import annotations

import logging
from contextlib import nullcontext

import pytest
from aws import rule, running_event, scheduled_event
from aws.transport import old_botocore
from calls import TARGETS
from conftest import Scene, Sleeps, deliver

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize("old", [False, True], ids=["boto3 that can ask for it", "old boto3"])
def test_an_instance_that_a_service_manages_is_mirrored(
    scene: Scene, sensor: str, quick: Sleeps, old: bool
) -> None:
    instance = scene.instance(managed=True)
    with old_botocore("IncludeManagedResources") if old else nullcontext():
        assert scene.run(running_event(instance)).outcomes == ["created"]
    assert scene.sessions_of(instance) == [1]


@pytest.mark.parametrize("old", [False, True], ids=["boto3 that can ask for it", "old boto3"])
def test_a_sweep_mirrors_what_services_manage_or_says_that_it_cannot_list_it(
    scene: Scene, sensor: str, old: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    instance = scene.instance(managed=True)
    with old_botocore("IncludeManagedResources") if old else nullcontext():
        scene.run(scheduled_event())
    assert scene.sessions_of(instance) == [int(not old)]
    said = [record for record in caplog.records if "services manage" in record.getMessage()]
    assert len(said) == int(old)


@pytest.mark.parametrize("old", [False, True], ids=["boto3 that can ask for it", "old boto3"])
def test_a_sensor_on_an_instance_that_a_service_manages_is_used(scene: Scene, old: bool) -> None:
    scene.configure(scene.sensor(managed=True))
    instance = scene.instance()
    with old_botocore("IncludeManagedResources") if old else nullcontext():
        assert scene.run(running_event(instance)).outcomes == ["created"]


@pytest.mark.parametrize("old", [False, True], ids=["boto3 that can ask for it", "old boto3"])
def test_a_sensor_on_an_instance_that_a_service_manages_has_to_run(scene: Scene, old: bool) -> None:
    target = scene.sensor(managed=True)
    scene.configure(target)
    scene.mirrored(target)
    scene.stop(scene.sensor_instance(target))
    with old_botocore("IncludeManagedResources") if old else nullcontext():
        assert scene.run(scheduled_event()).summary == {"blocked": 1}
        assert scene.run(scene.instance()).stages == ["unavailable"]


def test_a_session_to_a_target_that_is_gone_is_blocked(scene: Scene) -> None:
    old, new = scene.sensor(), scene.sensor()
    instance = scene.instance()
    scene.session(scene.interfaces_of(instance)[0], old)
    scene.configure(new)
    assert scene.run(scheduled_event()).summary == {"exists": 1, "skipped": 2}
    scene.delete_target(old)
    answer = scene.run(scheduled_event())
    assert answer.summary["blocked"] == 1
    assert "any more" in answer.interfaces[0]["reason"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("InvalidTrafficMirrorTargetId.NotFound", "The target does not exist."),
        ("InvalidTrafficMirrorTargetNoFound", "The specified target does not exist."),
    ],
)
def test_targets_are_gone_however_aws_spells_it_and_whether_or_not_it_names_them(
    scene: Scene, sensor: str, code: str, message: str
) -> None:
    gone = {scene.missing_sensor() for _ in range(3)}
    for instance, target in zip(scene.instances(3), gone, strict=True):
        scene.session(scene.interfaces_of(instance)[0], target)
    asked = "TrafficMirrorTargetIds"
    scene.fail(
        TARGETS,
        code,
        status=400,
        message=message,
        where=lambda p: not gone.isdisjoint(p.get(asked, ())),
    )
    assert scene.run(scheduled_event()).summary == {"blocked": 3, "skipped": 1}


def test_one_prefix_list_that_admits_settles_it_whatever_became_of_another(scene: Scene) -> None:
    lists = [scene.prefix_list("192.0.2.0/24"), scene.prefix_list("10.0.0.0/8")]
    scene.configure(scene.sensor(groups=[scene.group(*(rule(prefix_list=one) for one in lists))]))
    scene.fail(
        "GetManagedPrefixListEntries",
        "InternalError",
        status=500,
        where=lambda parameters: parameters["PrefixListId"] == lists[0],
    )
    assert deliver(running_event(scene.instance())).answer.outcomes == ["created"]
