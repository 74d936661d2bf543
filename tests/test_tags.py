"""Tags of an instance that steer: TARGETS_TAG names its targets, FILTER_TAG its filter."""

from __future__ import annotations

from typing import Any

import pytest
from aws import ACCOUNT_ID, scheduled_event
from calls import CREATE
from conftest import Scene, missing

pytestmark = pytest.mark.usefixtures("shared_client", "clock")

# The value of the tag TARGETS_TAG of an instance, if any, and what becomes of two sensors, of which
# the second one has fewer sessions.
TARGETS: dict[str, tuple[str | None, list[str]]] = {
    "no tag": (None, ["(eligible)", "(selected)"]),
    "a blank tag": (" \t", ["(eligible)", "(selected)"]),
    "the tag names one": ("{first}", ["(selected)", "tag"]),
    "the tag names both, and another": (
        "{second} tmt-other\t{first}",
        ["(eligible)", "(selected)"],
    ),
    "the tag names none of ours": ("tmt-other", ["tag", "tag"]),
    "the tag names an account": (ACCOUNT_ID, ["tag", "tag"]),
    "a comma does not separate": ("{first},{second}", ["tag", "tag"]),
}


@pytest.mark.parametrize(("value", "stages"), TARGETS.values(), ids=TARGETS)
def test_the_tag_of_an_instance_names_the_only_targets_it_may_go_to(
    scene: Scene, value: str | None, stages: list[str]
) -> None:
    first, second = scene.sensor(sessions=2), scene.sensor(sessions=1)
    scene.configure([first, second], TARGETS_TAG="mirror-to")
    tags = {} if value is None else {"mirror-to": value.format(first=first, second=second)}
    answer = scene.run(scene.instance(tags=tags))
    assert answer.stages == stages
    assert answer.outcomes == ["created" if "(selected)" in stages else "unmirrored"]
    reasons = [row["reason"] for row in answer.entry["sensors"] if row["stage"] == "tag"]
    evidence = ["mirror-to", *tags.values()]
    assert [missing(reason, *evidence) for reason in reasons] == [[]] * stages.count("tag")


def test_a_session_that_exists_is_not_judged_by_the_tag(scene: Scene, sensor: str) -> None:
    scene.configure(sensor, TARGETS_TAG="mirror-to")
    instance = scene.instance(tags={"mirror-to": "tmt-other"})
    scene.session(scene.first_interface(instance), sensor)
    assert scene.run(scheduled_event()).of(instance)["outcome"] == "exists"


@pytest.mark.parametrize(("value", "tagged"), [("{other}", True), (" ", False), (None, False)])
def test_the_tag_of_an_instance_names_the_filter_of_its_sessions(
    scene: Scene, sensor: str, value: str | None, tagged: bool
) -> None:
    other = scene.filter()
    scene.configure(sensor, FILTER_TAG="mirror-filter")
    tags = {} if value is None else {"mirror-filter": value.format(other=other)}
    assert scene.run(scene.instance(tags=tags)).outcomes == ["created"]
    (session,) = scene.sessions()
    assert session["TrafficMirrorFilterId"] == (other if tagged else scene.filter_id)


def test_a_filter_that_does_not_exist_stops_only_the_creates_with_that_filter(
    scene: Scene, sensor: str
) -> None:
    scene.configure(sensor, FILTER_TAG="mirror-filter")
    wrong = scene.instances(30, tags={"mirror-filter": "tmf-wrong"})
    good = scene.instances(30)
    pairs = zip(wrong, good, strict=True)
    answer = scene.run({"instance-ids": [instance for pair in pairs for instance in pair]})
    assert answer.summary == {"unmirrored": 30, "created": 30}
    assert scene.sessions_of(*wrong, *good) == [0] * 30 + [1] * 30
    refused = [entry for entry in answer.interfaces if entry["outcome"] == "unmirrored"]
    wanted = ("InvalidTrafficMirrorFilterId.NotFound", "tmf-wrong")
    assert [missing(entry["reason"], *wanted) for entry in refused] == [[]] * 30

    def of_wrong(call: Any) -> bool:
        return call.operation == CREATE and call.parameters["TrafficMirrorFilterId"] == "tmf-wrong"

    assert 1 <= sum(map(of_wrong, scene.calls)) <= 10  # what was on its way already
