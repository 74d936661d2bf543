"""Which interfaces are mirrored at all, and which words say why the others are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aws import rule
from calls import CREATE, INSTANCES
from conftest import Build, Scene, Sleeps, missing

pytestmark = pytest.mark.usefixtures("shared_client")

UNKNOWN = "i-00000000000000000"


def show_of(scene: Scene, instance_id: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Let AWS show something else of an instance."""

    def of_all(answer: dict[str, Any]) -> None:
        for reservation in answer["Reservations"]:
            for instance in reservation["Instances"]:
                if instance["InstanceId"] == instance_id:
                    change(instance)

    scene.show(INSTANCES, of_all)


def test_every_interface_is_mirrored_in_the_order_of_device_indexes(scene: Scene) -> None:
    scene.configure(scene.sensor())
    instance = scene.instance(interfaces=3)
    mirrored = [entry["interface_id"] for entry in scene.run(instance).interfaces]
    assert mirrored == scene.interfaces_of(instance)


def test_the_order_of_device_indexes_does_not_depend_on_the_order_of_aws(scene: Scene) -> None:
    places = [(2, 0), (0, 0), (1, 1), (1, 0)]  # device index, network card

    def change(instance: dict[str, Any]) -> None:
        for shown, (device, card) in zip(instance["NetworkInterfaces"], places, strict=True):
            shown["Attachment"] |= {"DeviceIndex": device, "NetworkCardIndex": card}

    instance = scene.instance(interfaces=4)
    show_of(scene, instance, change)
    scene.configure(scene.sensor())
    order = [entry["interface_id"] for entry in scene.run(instance).interfaces]
    assert order == [scene.interfaces_of(instance)[position] for position in (1, 3, 2, 0)]


def test_instances_come_in_the_order_of_the_event(scene: Scene) -> None:
    scene.configure(scene.sensor())
    instances = [scene.instance() for _ in range(4)]
    wanted = [instances[position] for position in (2, 0, 3, 1)]
    answer = scene.run({"instance-ids": wanted})
    assert [entry["instance_id"] for entry in answer.interfaces] == wanted


def test_instances_that_are_set_aside_keep_their_place_in_the_order(
    scene: Scene, no_sleep: Sleeps
) -> None:
    scene.configure(scene.sensor())
    wanted = [scene.instance(), scene.instance(state="stopped"), scene.instance(), UNKNOWN]
    answer = scene.run({"instance-ids": wanted})
    assert [entry["instance_id"] for entry in answer.interfaces] == wanted


def test_an_interface_without_a_public_address_is_mirrored(scene: Scene) -> None:
    scene.configure(scene.sensor())
    instance = scene.instance()
    assert "Association" not in scene.interface_view(scene.first_interface(instance))
    assert scene.run(instance).outcomes == ["created"]


PRIMARY, SECONDARY = "10.0.5.11", "10.0.5.99"


@pytest.mark.parametrize(("admitted", "verdict"), [(PRIMARY, "selected"), (SECONDARY, "rejected")])
def test_packets_come_from_the_primary_address(scene: Scene, admitted: str, verdict: str) -> None:
    subnet = scene.subnet(cidr="10.0.5.0/24")
    instance = scene.instance(subnet, address=PRIMARY)
    (interface,) = scene.interfaces_of(instance)
    scene.ec2.assign_private_ip_addresses(
        NetworkInterfaceId=interface, PrivateIpAddresses=[SECONDARY]
    )
    sensor = scene.sensor(subnet, [scene.group(rule(cidr=f"{admitted}/32"))])
    scene.configure(sensor)
    assert scene.run(instance).sensors[sensor]["verdict"] == verdict


OF_AWS = {"PrivateIpAddress", "PrivateIpAddresses"}
ADDRESSES: dict[str, tuple[dict[str, Any], str]] = {
    "primary first": (
        {"PrivateIpAddresses": [{"Primary": True, "PrivateIpAddress": PRIMARY}]},
        "created",
    ),
    "primary last": (
        {
            "PrivateIpAddress": PRIMARY,
            "PrivateIpAddresses": [
                {"Primary": False, "PrivateIpAddress": SECONDARY},
                {"Primary": True, "PrivateIpAddress": PRIMARY},
            ],
        },
        "created",
    ),
    "no list of addresses": ({"PrivateIpAddress": PRIMARY}, "created"),
    "no address": ({"PrivateIpAddresses": []}, "skipped"),
}


@pytest.mark.parametrize(("shown", "outcome"), ADDRESSES.values(), ids=ADDRESSES.keys())
def test_the_primary_address_is_found(scene: Scene, shown: dict[str, Any], outcome: str) -> None:
    def change(instance: dict[str, Any]) -> None:
        (interface,) = instance["NetworkInterfaces"]
        instance["NetworkInterfaces"] = [
            {key: value for key, value in interface.items() if key not in OF_AWS} | shown
        ]

    instance = scene.instance()
    show_of(scene, instance, change)
    scene.configure(scene.sensor(groups=[scene.group(rule(cidr=f"{PRIMARY}/32"))]))
    assert scene.run(instance).outcomes == [outcome]


# --- What is set aside, with words that its reason must have

SET_ASIDE: dict[str, tuple[Build, dict[str, str], list[str]]] = {
    "an instance that does not exist": (lambda a: UNKNOWN, {}, [UNKNOWN]),
    **{
        f"an instance that is {state}": (lambda a, s=state: a.instance(state=s), {}, [state])
        for state in ("stopped", "stopping", "shutting-down", "terminated")
    },
    "an excluded instance": (
        lambda a: a.instance(tags={"mirror": "no"}),
        {"EXCLUDE_TAGS": "mirror=no"},
        ["mirror=no", "EXCLUDE_TAGS"],
    ),
    "an instance that is not included": (
        lambda a: a.instance(tags={"mirror": "no"}),
        {"INCLUDE_TAGS": "mirror=yes,all"},
        ["mirror=yes", "all", "INCLUDE_TAGS"],
    ),
    **{
        f"an interface of type {kind}": (lambda a, k=kind: a.instance(interface_type=k), {}, [kind])
        for kind in ("efa", "efa-only", "trunk", "branch")
    },
    "an interface without an IPv4 address": (lambda a: a.instance(ipv6_only=True), {}, ["IPv4"]),
}


@pytest.mark.parametrize(("build", "variables", "words"), SET_ASIDE.values(), ids=SET_ASIDE.keys())
def test_skipped_is(
    scene: Scene, no_sleep: Sleeps, build: Build, variables: dict[str, str], words: list[str]
) -> None:
    scene.configure(scene.sensor(), **variables)
    entry = scene.run(build(scene)).entry
    assert (entry["outcome"], missing(entry["reason"], *words)) == ("skipped", [])


TAGS: dict[str, tuple[dict[str, str], str, str, str]] = {
    # tags of the instance, INCLUDE_TAGS, EXCLUDE_TAGS
    "no tags set, none wanted": ({}, "", "", "created"),
    "included by key and value": ({"mirror": "yes"}, "mirror=yes", "", "created"),
    "included by key": ({"mirror": "whatever"}, "mirror", "", "created"),
    "included by key with an empty value": ({"mirror": ""}, "mirror", "", "created"),
    "included by an empty value": ({"mirror": ""}, "mirror=", "", "created"),
    "an empty value wanted, another one there": ({"mirror": "yes"}, "mirror=", "", "skipped"),
    "included by one of several": ({"team": "red"}, "mirror=yes,team=red", "", "created"),
    "included by one of two values": ({"team": "red"}, "team=blue,team=red", "", "created"),
    "value with an equals sign": ({"team": "red=blue"}, "team=red=blue", "", "created"),
    "another value": ({"mirror": "no"}, "mirror=yes", "", "skipped"),
    "another key": ({"Mirror": "yes"}, "mirror=yes", "", "skipped"),
    "case counts in values": ({"mirror": "Yes"}, "mirror=yes", "", "skipped"),
    "part of a value": ({"mirror": "yes!"}, "mirror=yes", "", "skipped"),
    "no tag at all": ({}, "mirror", "", "skipped"),
    "excluded by key and value": ({"mirror": "no"}, "", "mirror=no", "skipped"),
    "excluded by key": ({"mirror": "whatever"}, "", "mirror", "skipped"),
    "excluded by one of several": ({"role": "sensor"}, "", "mirror=no,role=sensor", "skipped"),
    "not excluded by another value": ({"mirror": "yes"}, "", "mirror=no", "created"),
    "exclusion beats inclusion": ({"mirror": "yes", "x": ""}, "mirror=yes", "x", "skipped"),
    "included and not excluded": ({"mirror": "yes"}, "mirror=yes", "x", "created"),
}


@pytest.mark.parametrize(("tags", "include", "exclude", "outcome"), TAGS.values(), ids=TAGS.keys())
def test_tags_say_which_instances_are_meant(
    scene: Scene, tags: dict[str, str], include: str, exclude: str, outcome: str
) -> None:
    scene.configure(scene.sensor(), INCLUDE_TAGS=include, EXCLUDE_TAGS=exclude)
    assert scene.run(scene.instance(tags=tags)).outcomes == [outcome]


def test_a_sensor_is_not_mirrored(scene: Scene) -> None:
    sensor = scene.sensor()
    scene.configure([scene.sensor(), sensor])
    entry = scene.run(scene.sensor_instance(sensor)).entry
    assert (entry["outcome"], missing(entry["reason"], "sensor", "loop")) == ("skipped", [])


def test_no_interface_of_an_instance_that_hosts_a_sensor_is_mirrored(scene: Scene) -> None:
    instance = scene.instance(interfaces=3)
    receiving = scene.interfaces_of(instance)[1]
    made = scene.ec2.create_traffic_mirror_target(NetworkInterfaceId=receiving)
    scene.configure([scene.sensor(), made["TrafficMirrorTarget"]["TrafficMirrorTargetId"]])
    answer = scene.run(instance)
    named = [receiving in entry["reason"] for entry in answer.interfaces]
    assert (answer.outcomes, named) == (["skipped"] * 3, [True, False, True])


def test_a_sensor_that_is_not_configured_is_no_obstacle_for_its_neighbours(scene: Scene) -> None:
    instance = scene.instance(interfaces=2)
    receiving = scene.interfaces_of(instance)[1]
    scene.ec2.create_traffic_mirror_target(NetworkInterfaceId=receiving)
    scene.configure(scene.sensor())
    assert (scene.run(instance).outcomes, scene.count(CREATE)) == (["created", "skipped"], 1)


def test_an_instance_without_interfaces_is_skipped(scene: Scene) -> None:
    instance = scene.instance()
    scene.delete_interface(scene.first_interface(instance))
    scene.configure(scene.sensor())
    entry = scene.run(instance).entry
    assert (entry["outcome"], entry["interface_id"]) == ("skipped", None)


def with_session(scene: Scene, instance: str) -> str:
    for interface in scene.interfaces_of(instance):
        scene.session(interface, scene.sensor(), number=9)
    return instance


def tagged(scene: Scene, instance: str) -> str:
    scene.ec2.create_tags(Resources=[instance], Tags=[{"Key": "x", "Value": ""}])
    return instance


# Each instance is out for two reasons; the first in this order counts: not running, tags,
# interface type, sensor itself, existing session, no IPv4 address.
ORDER: dict[str, tuple[Build, str, str]] = {
    "stopped, before excluded by its tag": (
        lambda a: a.instance(state="stopped", tags={"x": ""}),
        "skipped",
        "stopped",
    ),
    "excluded by its tag, before being a sensor": (
        lambda a: tagged(a, a.sensor_instance(a.targets[0])),
        "skipped",
        "EXCLUDE_TAGS",
    ),
    "excluded by its tag, before its interface type": (
        lambda a: a.instance(tags={"x": ""}, interface_type="trunk"),
        "skipped",
        "EXCLUDE_TAGS",
    ),
    "excluded by its tag, before its session": (
        lambda a: with_session(a, a.instance(tags={"x": ""})),
        "skipped",
        "EXCLUDE_TAGS",
    ),
    "interface type, before its session": (
        lambda a: with_session(a, a.instance(interface_type="trunk")),
        "skipped",
        "trunk",
    ),
    "its session, before no IPv4 address": (
        lambda a: with_session(a, a.instance(ipv6_only=True)),
        "exists",
        "Session",
    ),
}


@pytest.mark.parametrize(("build", "outcome", "word"), ORDER.values(), ids=ORDER.keys())
def test_what_counts_is(scene: Scene, build: Build, outcome: str, word: str) -> None:
    scene.configure(scene.sensor(), EXCLUDE_TAGS="x")
    entry = scene.run(build(scene)).entry
    assert (entry["outcome"], missing(entry["reason"], word)) == (outcome, [])


def test_a_sensor_with_a_session_is_a_sensor_first(scene: Scene) -> None:
    sensor, other = scene.sensor(), scene.sensor()
    scene.session(scene.sensor_interface(sensor), other)
    scene.configure([sensor, other])
    assert scene.run(scene.sensor_instance(sensor)).outcomes == ["skipped"]


# --- Sessions that exist


@pytest.mark.parametrize("ours", [True, False], ids=["one of our targets", "somebody else's"])
def test_an_interface_with_a_session_gets_no_other(scene: Scene, ours: bool) -> None:
    target, instance = scene.sensor(), scene.instance()
    (interface,) = scene.interfaces_of(instance)
    session = scene.session(interface, target, number=7)
    scene.configure([scene.sensor(), *([target] if ours else [])])
    entry = scene.run(instance).entry
    shown = (entry["outcome"], entry["target_id"], entry["session_id"])
    says_whose = "not one of our targets" in entry["reason"]
    assert (shown, says_whose) == (("exists", target, session), not ours)


def test_of_several_sessions_one_to_our_targets_is_named_and_of_those_the_lowest_number(
    scene: Scene,
) -> None:
    instance, ours = scene.instance(), scene.sensor()
    (interface,) = scene.interfaces_of(instance)
    scene.session(interface, scene.sensor(), number=1)
    scene.session(interface, ours, number=3)
    wanted = scene.session(interface, ours, number=2)
    scene.configure(ours)
    assert scene.run(instance).entry["session_id"] == wanted
