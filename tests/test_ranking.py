"""In which order the stages reject sensors, and in which order those that pass are chosen: by what
speaks against them, then by the fewest sessions.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import pytest
from aws import acl_entry
from calls import CREATE
from conftest import Scene, missing

pytestmark = pytest.mark.usefixtures("shared_client")


def test_the_verdict_on_a_sensor_is_the_first_stage_that_rejects_it(scene: Scene) -> None:
    """Each sensor falls at its stage, and at all that follow."""
    vpc = scene.vpc("10.9.0.0/16")
    scene.route_table(routes=[], main=True)
    closed, there = [scene.group(vpc=vpc)], [scene.subnet(zone, vpc=vpc, acl=[]) for zone in "ab"]
    targets = [
        scene.missing_sensor(),
        scene.sensor(there[1], closed, state="stopped"),
        scene.sensor(there[1], closed),
        scene.sensor(there[0], closed),
        scene.sensor(there[0]),
        scene.sensor(scene.subnet(vpc=vpc)),
    ]
    instance = scene.instance(tags={"targets": " ".join(targets[1:])})
    scene.configure(targets, TARGETS_TAG="targets", LOCAL_VPC_ONLY="true")
    first = ["tag", "unavailable", "zone"]
    assert scene.run(instance).stages == [*first, "vpc", "vpc", "vpc"]
    scene.configure(targets, LOCAL_VPC_ONLY="false")
    answer = scene.run(instance)
    assert answer.stages == [*first, "security_group", "network_acl", "route"]
    last = "of 6, the last 1 fell at stage route"
    assert missing(answer.entry["reason"], last, targets[5]) == []


@pytest.mark.parametrize("order", [1, -1], ids=["configured best first", "configured best last"])
def test_zone_before_ranked_behind_before_other_zones_before_unverified_whatever_the_sessions(
    scene: Scene, order: int
) -> None:
    """Each one is busier than those behind it, and full, so that the function tries them all."""
    denials = [acl_entry(90, "deny", f"10.0.{net}.0/24", egress=True) for net in (7, 9)]
    denials = [one | {"RuleNumber": 90 + at} for at, one in enumerate(denials)]
    everything = acl_entry(100, "allow", protocol="-1", egress=True)
    source = scene.subnet(acl=[*denials, everything])
    hidden = scene.group()
    scene.hide(hidden)
    ranking = [
        scene.sensor(scene.subnet("a", cidr="10.0.6.0/24"), quota=0, sessions=9),
        scene.sensor(scene.subnet("a", cidr="10.0.7.0/24"), quota=0, sessions=8),
        scene.sensor(scene.subnet("b", cidr="10.0.8.0/24"), quota=0, sessions=7),
        scene.sensor(scene.subnet("b", cidr="10.0.9.0/24"), quota=0, sessions=6),
        # Whatever else speaks for or against those that cannot be verified does not count.
        scene.sensor(scene.subnet("b"), [hidden], quota=0, sessions=4),
        scene.sensor(scene.subnet("a"), [hidden], quota=0, sessions=5),
    ]
    scene.configure(ranking[::order], LOCAL_ZONE_ONLY="false", ALLOW_UNVERIFIED="true")
    assert scene.run(scene.instance(source)).stages == ["create"] * 6
    creates = [call for call in scene.calls if call.operation == CREATE]
    assert [call.parameters["TrafficMirrorTargetId"] for call in creates] == ranking


COUNTS: dict[str, tuple[Sequence[int], int]] = {
    # sessions of each sensor, the position of the one that is chosen
    "one less": ((7, 6, 7), 1),
    # The first page of 1,000 shows 501 of the one and 499 of the other.
    "sessions on all pages count": ((501, 1_200), 0),
}


@pytest.mark.parametrize(("counts", "best"), COUNTS.values(), ids=COUNTS.keys())
def test_the_sensor_with_the_fewest_sessions_is_chosen(
    scene: Scene, counts: Sequence[int], best: int
) -> None:
    scene.sensor(sessions=1)  # to others, which do not count
    targets = [scene.sensor(sessions=count, quota=10_000) for count in counts]
    for number in (1, 2):  # one interface may have several
        scene.session("eni-00000000000000000", targets[0], number)
    counts = (counts[0] + 2, *counts[1:])
    scene.configure([*targets, scene.sensor(zone="b")])
    shown = scene.run(scene.instance()).entry["sensors"]
    assert [(row["verdict"], row["sessions"]) for row in shown] == [
        *(("selected" if at == best else "eligible", count) for at, count in enumerate(counts)),
        ("rejected", None),
    ]


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
