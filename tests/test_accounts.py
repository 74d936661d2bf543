"""Sensors of other accounts, and what of them cannot be seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aws import OTHER_ACCOUNT_ID, acl_entry, rule
from conftest import Build, Scene, missing

pytestmark = pytest.mark.usefixtures("shared_client")


EXCLUDE = {"EXCLUDE_TAGS": "role=sensor"}


def without_interface(scene: Scene) -> str:
    target = scene.sensor()
    scene.delete_sensor_interface(target)
    return target


def hidden_group(scene: Scene, *more: str, **kwargs: Any) -> str:
    group = scene.group()
    scene.hide(group)
    return scene.sensor(groups=[group, *more], **kwargs)


def hidden_acl(scene: Scene, **kwargs: Any) -> str:
    subnet = scene.subnet()
    acl = scene.acl(subnet, [])
    scene.hide(acl)
    return scene.sensor(subnet, **kwargs)


def foreign_load_balancer(scene: Scene) -> str:
    """A load balancer of another account; neither it nor its interfaces can be seen."""
    target = scene.nlb_sensor([scene.subnet()])
    scene.hide(scene.sensor_interface(target))
    scene._backend.traffic_mirror_targets[target].simulated_owner = OTHER_ACCOUNT_ID
    return target


# Sensors; how they fare by default and with ALLOW_UNVERIFIED.
UNSEEN: dict[str, tuple[list[Build], list[str], list[str]]] = {
    "a target of another account": (
        [lambda a: a.foreign_sensor()],
        ["unavailable"],
        ["(selected)"],
    ),
    "a load balancer of another account": (
        [foreign_load_balancer],
        ["unavailable"],
        ["(selected)"],
    ),
    "a security group that decides": ([hidden_group], ["unavailable"], ["(selected)"]),
    "a network ACL that decides": ([hidden_acl], ["unavailable"], ["(selected)"]),
    "another group admits": (
        [lambda a: hidden_group(a, a.group(rule()))],
        ["(selected)"],
        ["(selected)"],
    ),
    "another group does not": (
        [lambda a: hidden_group(a, a.group(rule("tcp")))],
        ["unavailable"],
        ["(selected)"],
    ),
    "a group unseen, the ACL denies": (
        [lambda a: hidden_group(a, subnet=a.subnet(acl=[]))],
        ["network_acl"],
        ["network_acl"],
    ),
    "an ACL unseen, the group denies": (
        [lambda a: hidden_acl(a, groups=[a.group()])],
        ["security_group"],
        ["security_group"],
    ),
    "a group unseen, in another zone": (
        [lambda a: hidden_group(a, zone="b")],
        ["zone"],
        ["zone"],
    ),
    "a sensor that is busy and can be seen": (
        [lambda a: a.foreign_sensor(), hidden_group, lambda a: a.sensor(sessions=9)],
        ["unavailable", "unavailable", "(selected)"],
        ["unavailable", "unavailable", "(selected)"],
    ),
    "a sensor that is closed and can be seen": (
        [lambda a: a.foreign_sensor(), lambda a: a.sensor(groups=[a.group()])],
        ["unavailable", "security_group"],
        ["(selected)", "security_group"],
    ),
    "several, the idle one": (
        [lambda a: hidden_group(a, sessions=2), lambda a: a.foreign_sensor(sessions=1), hidden_acl],
        ["unavailable"] * 3,
        ["(eligible)", "(eligible)", "(selected)"],
    ),
    "several, of which the foreign one is idle": (
        [lambda a: hidden_group(a, sessions=2), lambda a: a.foreign_sensor(zone="c")],
        ["unavailable"] * 2,
        ["(eligible)", "(selected)"],
    ),
    "one is full": (
        [lambda a: a.foreign_sensor(quota=0), lambda a: hidden_group(a, sessions=5)],
        ["unavailable"] * 2,
        ["create", "(selected)"],
    ),
    "what is closed or gone is not used for want of better": (
        [
            lambda a: a.sensor(groups=[a.group()]),
            without_interface,
            lambda a: a.sensor(a.subnet(acl=[])),
        ],
        ["security_group", "unavailable", "network_acl"],
        ["security_group", "unavailable", "network_acl"],
    ),
}


@pytest.mark.parametrize("allowed", ["false", "true"], ids=["by default", "ALLOW_UNVERIFIED"])
@pytest.mark.parametrize(("build", "default", "unverified"), UNSEEN.values(), ids=UNSEEN.keys())
def test_what_cannot_be_seen(
    scene: Scene, build: list[Build], default: list[str], unverified: list[str], allowed: str
) -> None:
    scene.configure([make(scene) for make in build], ALLOW_UNVERIFIED=allowed, **EXCLUDE)
    answer = scene.run(scene.instance())
    assert answer.stages == (unverified if allowed == "true" else default)


def test_an_unseen_acl_is_no_obstacle_within_its_subnet(scene: Scene) -> None:
    subnet = scene.subnet()
    scene.hide(scene.acl(subnet, []))
    scene.configure(scene.sensor(subnet))
    assert scene.run(scene.instance(subnet)).outcomes == ["created"]


def test_an_unseen_acl_of_the_sources_subnet_denies_nobody(scene: Scene) -> None:
    subnet = scene.subnet()
    scene.hide(scene.acl(subnet, []))
    scene.configure([scene.sensor(sessions=1), scene.sensor(subnet, sessions=2)])
    assert scene.run(scene.instance(subnet)).stages == ["(selected)", "(eligible)"]


# Sensors with ALLOW_UNVERIFIED where LOCAL_ZONE_ONLY is false.
FALLBACKS: dict[str, tuple[list[Build], list[str]]] = {
    "verified ones of other zones come before them": (
        [hidden_group, lambda a: a.sensor(zone="b", sessions=5)],
        ["unavailable", "(selected)"],
    ),
    "of other zones those that cannot be verified come last": (
        [lambda a: a.sensor(groups=[a.group()]), lambda a: hidden_group(a, zone="b")],
        ["security_group", "(selected)"],
    ),
}


@pytest.mark.parametrize(("build", "stages"), FALLBACKS.values(), ids=FALLBACKS.keys())
def test_where_other_zones_are_allowed(scene: Scene, build: list[Build], stages: list[str]) -> None:
    targets = [make(scene) for make in build]
    scene.configure(targets, ALLOW_UNVERIFIED="true", LOCAL_ZONE_ONLY="false")
    assert scene.run(scene.instance()).stages == stages


def test_of_those_that_cannot_be_verified_the_zones_come_first(scene: Scene) -> None:
    near, far = hidden_group(scene, sessions=5), hidden_group(scene, zone="b")
    scene.configure([near, far], ALLOW_UNVERIFIED="true", LOCAL_ZONE_ONLY="false")
    assert scene.run(scene.instance()).entry["target_id"] == near


def test_of_those_that_cannot_be_verified_the_outbound_acl_ranks_as_well(scene: Scene) -> None:
    denied, allowed = scene.subnet(cidr="10.0.6.0/24"), scene.subnet(cidr="10.0.7.0/24")
    acl = [
        acl_entry(90, "deny", "10.0.6.0/24", egress=True),
        acl_entry(100, "allow", protocol="-1", egress=True),
    ]
    targets = [
        hidden_group(scene, subnet=denied),
        hidden_group(scene, subnet=allowed, sessions=5),
    ]
    scene.configure(targets, ALLOW_UNVERIFIED="true")
    assert scene.run(scene.instance(scene.subnet(acl=acl))).stages == ["(eligible)", "(selected)"]


@pytest.mark.parametrize("order", [1, -1], ids=["first", "last"])
def test_whose_account_this_is_the_owner_of_an_interface_does_not_say(
    scene: Scene, order: int
) -> None:
    """Without a context it is the account of the instances; an interface may be another's."""
    shared = scene.foreign_sensor()
    scene.configure([shared, scene.sensor()])
    instances = scene.instances(2)
    scene.interface_owners[scene.interfaces_of(instances[0])[0]] = OTHER_ACCOUNT_ID
    answer = scene.run({"instance-ids": instances[::order]}, object())
    assert answer.outcomes == ["created", "created"]
    for entry in answer.interfaces:
        row = entry["sensors"][0]
        assert (row["stage"], missing(row["reason"], "another account")) == ("unavailable", [])


NAMED: dict[str, tuple[Build, Callable[[Scene, str], str]]] = {
    "the other account": (lambda a: a.foreign_sensor(), lambda a, target: "another account"),
    "the security group": (
        hidden_group,
        lambda a, target: a.interface_view(a.sensor_interface(target))["Groups"][0]["GroupId"],
    ),
    "the subnet whose network ACL it is": (
        hidden_acl,
        lambda a, target: a.interface_view(a.sensor_interface(target))["SubnetId"],
    ),
}


@pytest.mark.parametrize("allowed", ["false", "true"], ids=["by default", "ALLOW_UNVERIFIED"])
@pytest.mark.parametrize(("build", "word"), NAMED.values(), ids=NAMED.keys())
def test_the_reason_names(
    scene: Scene, build: Build, word: Callable[[Scene, str], str], allowed: str
) -> None:
    target = build(scene)
    scene.configure(target, ALLOW_UNVERIFIED=allowed)
    reason = scene.run(scene.instance()).sensors[target]["reason"]
    wanted = [word(scene, target)] + (["not verified"] if allowed == "true" else [])
    assert missing(reason, *wanted) == []


CAVEATS: dict[str, tuple[Build, str]] = {
    "a shared sensor": (
        lambda a: a.foreign_sensor(),
        "of its sessions only those of this account are counted",
    ),
    "a load balancer": (foreign_load_balancer, "behind the load balancer are not checked"),
}


@pytest.mark.parametrize(("build", "words"), CAVEATS.values(), ids=CAVEATS.keys())
def test_of_one_that_is_chosen_unverified_the_reason_says_what_else_is_not_known(
    scene: Scene, build: Build, words: str
) -> None:
    target = build(scene)
    scene.configure(target, ALLOW_UNVERIFIED="true", **EXCLUDE)
    assert words in scene.run(scene.instance()).sensors[target]["reason"]
