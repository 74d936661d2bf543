"""FILTER_TAG and TARGETS_TAG: a tag of an instance names the filter of its sessions, and the only
targets that it may go to.
"""

from __future__ import annotations

from itertools import chain

import pytest
from aws import ACCOUNT_ID, scheduled_event
from calls import CREATE
from conftest import Scene, missing

import lambda_traffic_mirror as function

FILTER, TARGETS = "mirror:filter", "mirror:targets"
ARN = f"arn:aws:ec2:us-east-1:{ACCOUNT_ID}:traffic-mirror-target/"

pytestmark = pytest.mark.usefixtures("shared_client", "clock")

# --- TARGETS_TAG

BEST = ["(eligible)", "(selected)", "zone"]
NONE = ["tag", "tag", "tag"]
# What the tag says, if the instance has it, and what becomes of three sensors: the second one has
# fewer sessions than the first, the third one is in another zone.
NAMED: dict[str, tuple[str | None, list[str]]] = {
    "no tag": (None, BEST),
    "a blank value": (" \t", BEST),
    "one": ("{a}", ["(selected)", "tag", "tag"]),
    "two, and one that is not ours": (" {c}\ttmt-other  {a} ", ["(selected)", "tag", "zone"]),
    "one of another zone": ("{c}", ["tag", "tag", "zone"]),
    "none of ours": ("tmt-other", NONE),
    "a target of another account": ("{foreign}", NONE),
    "an ARN": (ARN + "{a}", NONE),
    "an account": (ACCOUNT_ID, NONE),
    "commas separate nothing": ("{a},{b}", NONE),
    "256 characters": ("x" * 256, NONE),
}


@pytest.mark.parametrize(("value", "stages"), NAMED.values(), ids=NAMED)
def test_what_the_tag_does_not_name_is_rejected_before_any_other_stage(
    scene: Scene, value: str | None, stages: list[str]
) -> None:
    ids = {"a": scene.sensor(sessions=2), "b": scene.sensor(), "c": scene.sensor(zone="b")}
    scene.configure(list(ids.values()), TARGETS_TAG=TARGETS)
    named = (value or "").format(foreign=scene.foreign_sensor(), **ids)
    answer = scene.run(scene.instance(tags={} if value is None else {TARGETS: named}))
    assert answer.stages == stages
    assert answer.outcomes == ["created" if "(selected)" in stages else "unmirrored"]
    reasons = [row["reason"] for row in answer.sensors.values() if row["stage"] == "tag"]
    assert [missing(reason, TARGETS, *named.split()) for reason in reasons] == [[]] * len(reasons)
    if stages == NONE:
        assert missing(answer.entry["reason"], "stage tag", TARGETS, named) == []


def test_where_the_named_target_is_full_no_other_one_takes_its_place(scene: Scene) -> None:
    full, other = scene.sensor(quota=0), scene.sensor()
    scene.configure([full, other], TARGETS_TAG=TARGETS)
    answer = scene.run(scene.instance(tags={TARGETS: full}))
    assert (answer.outcomes, answer.stages) == (["unmirrored"], ["create", "tag"])


def test_naming_a_load_balancer_does_not_say_which_instances_are_meant(scene: Scene) -> None:
    balancer = scene.nlb_sensor([scene.subnet()])
    scene.configure([balancer, scene.sensor()], TARGETS_TAG=TARGETS)
    assert scene.run(scene.instance(tags={TARGETS: balancer})).stages == ["unavailable", "tag"]


def test_sessions_that_exist_are_judged_by_neither_tag(scene: Scene) -> None:
    """One goes to a target that the tag does not name, one to a sensor that it cannot reach."""
    open_, closed = scene.sensor(attached=False), scene.sensor(groups=[scene.group()])
    scene.configure([open_, closed], TARGETS_TAG=TARGETS, FILTER_TAG=FILTER)
    instances = scene.instances(2, tags={TARGETS: "tmt-other", FILTER: "tmf-other"})
    for instance, target in zip(instances, scene.targets, strict=True):
        scene.session(scene.first_interface(instance), target)
    assert scene.run(instances[0]).outcomes == ["exists"]
    answer = scene.run(scheduled_event())
    assert [answer.of(one)["outcome"] for one in instances] == ["exists", "blocked"]
    assert [row["stage"] for row in answer.of(instances[1])["sensors"]] == ["security_group"]
    assert scene.count(CREATE) == 0


# --- FILTER_TAG


def filters_of(scene: Scene, *instances: str) -> list[str]:
    """The filters of the sessions of each of these instances."""
    ids = [scene.first_interface(instance) for instance in instances]
    return [s["TrafficMirrorFilterId"] for key in ids for s in scene.sessions(interface_id=key)]


def test_a_value_that_is_not_blank_takes_the_place_of_filter_id(scene: Scene, sensor: str) -> None:
    """The key is taken as it is, but for white space around it."""
    scene.configure(sensor, FILTER_TAG=" a b, c=d ")
    own, other = scene.filter_id, scene.filter()
    used = {other: other, f" {other} ": other, "": own, " ": own}
    instances = [scene.instance(tags={"a b, c=d": value}) for value in used]
    scene.run({"instance-ids": [*instances, scene.instance()]})
    assert filters_of(scene, *instances) == [*used.values()]


@pytest.mark.parametrize(("wrong", "order"), [("the tag's", 1), ("filter_id", -1)])
def test_a_filter_that_does_not_exist_concerns_only_the_interfaces_that_use_it(
    scene: Scene, sensor: str, wrong: str, order: int
) -> None:
    """What is known to be refused is not sent, neither in this round nor in the next one."""
    half = function.ROUND // 2 + 5
    filters = [scene.filter_id, "tmf-wrong"][:: 1 if wrong == "filter_id" else -1]
    kinds = [scene.instances(half, tags={FILTER: filters[0]}), scene.instances(half)]
    scene.configure(sensor, filter_id=filters[1], FILTER_TAG=FILTER)
    answer = scene.run({"instance-ids": [*chain(*zip(*kinds[::order], strict=True))]})
    assert answer.summary == {"unmirrored": half, "created": half}
    counts = [sum(scene.sessions_of(*instances)) for instances in kinds]
    assert counts == [half * (filter_id == scene.filter_id) for filter_id in filters]
    evidence = "InvalidTrafficMirrorFilterId.NotFound", "tmf-wrong"
    reasons = [e["reason"] for e in answer.interfaces if e["outcome"] == "unmirrored"]
    assert [missing(reason, *evidence) for reason in reasons] == [[]] * half
    assert scene.count(CREATE) <= half + function.PARALLEL_CREATES
