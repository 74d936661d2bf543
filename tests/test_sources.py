"""Which interfaces are mirrored at all, and which words say why the others are not."""

from __future__ import annotations

from typing import Any

import pytest
from calls import CREATE, INSTANCES
from conftest import Build, Scene, missing

from lambda_traffic_mirror import Configuration, Interface, Source, Unreadable, why_excluded

warm = pytest.mark.usefixtures("shared_client", "clock")

UNKNOWN = "i-00000000000000000"


# --- The order of the work


@warm
def test_instances_come_in_the_order_of_the_event_those_that_are_skipped_too(scene: Scene) -> None:
    scene.configure(scene.sensor())
    instances = [scene.instance(), UNKNOWN, scene.instance(state="stopped"), scene.instance()]
    wanted = [instances[position] for position in (3, 1, 0, 2)]
    answer = scene.run({"instance-ids": wanted})
    assert [entry["instance_id"] for entry in answer.interfaces] == wanted


@warm
def test_interfaces_come_in_the_order_of_device_indexes_whatever_the_order_of_aws(
    scene: Scene,
) -> None:
    places = [(2, 0), (0, 0), (1, 1), (1, 0)]  # device index, network card

    def change(answer: dict[str, Any]) -> None:
        (instance,) = answer["Reservations"][0]["Instances"]
        for shown, (device, card) in zip(instance["NetworkInterfaces"], places, strict=True):
            shown["Attachment"] |= {"DeviceIndex": device, "NetworkCardIndex": card}

    instance = scene.instance(interfaces=4)
    scene.configure(scene.sensor(attached=False))
    scene.show(INSTANCES, change)
    order = [entry["interface_id"] for entry in scene.run(instance).interfaces]
    assert order == [scene.interfaces_of(instance)[position] for position in (1, 3, 2, 0)]


# --- The address that packets come from

PRIMARY, SECONDARY = "10.0.5.11", "10.0.5.99"
ROW = {"NetworkInterfaceId": "eni-1", "VpcId": "vpc-1", "SubnetId": "subnet-1", "Groups": []}
BOTH = [
    {"Primary": False, "PrivateIpAddress": SECONDARY},
    {"Primary": True, "PrivateIpAddress": PRIMARY},
]


@pytest.mark.parametrize(
    ("shown", "address"),
    [
        ({"PrivateIpAddresses": BOTH}, PRIMARY),
        ({"PrivateIpAddress": PRIMARY}, PRIMARY),
        ({"PrivateIpAddresses": []}, None),
    ],
    ids=["though it is not the first", "without a list of addresses", "unless there is none"],
)
def test_the_primary_address_is_found(shown: dict[str, Any], address: str | None) -> None:
    interface = Interface.of(ROW | shown, {"AvailabilityZone": "us-east-1a"})
    assert interface.address == address


@pytest.mark.parametrize("address", ["10.0.5.300", "fd00::1"])
def test_what_is_no_ipv4_address_cannot_be_read(address: str) -> None:
    with pytest.raises(Unreadable):
        Interface.of(ROW | {"PrivateIpAddress": address})


# --- Tags

TAGS: dict[str, tuple[dict[str, str], str, str, bool]] = {
    # tags of the instance, INCLUDE_TAGS, EXCLUDE_TAGS, whether it is meant
    "included by key and value": ({"mirror": "yes"}, "mirror=yes", "", True),
    "included by key": ({"mirror": "whatever"}, "mirror", "", True),
    "included by key with an empty value": ({"mirror": ""}, "mirror", "", True),
    "an empty value wanted, another one there": ({"mirror": "yes"}, "mirror=", "", False),
    "included by one of two values": ({"team": "red"}, "team=blue,team=red", "", True),
    "value with an equals sign": ({"team": "red=blue"}, "team=red=blue", "", True),
    "another value": ({"mirror": "no"}, "mirror=yes", "", False),
    "case counts in keys": ({"Mirror": "yes"}, "mirror=yes", "", False),
    "excluded by key and value": ({"mirror": "no"}, "", "mirror=no", False),
    "excluded by key": ({"mirror": "whatever"}, "", "mirror", False),
    "excluded by one of several": ({"role": "sensor"}, "", "mirror=no,role=sensor", False),
    "exclusion beats inclusion": ({"mirror": "yes", "x": ""}, "mirror=yes", "x", False),
    "included and not excluded": ({"mirror": "yes"}, "mirror=yes", "x", True),
}


@pytest.mark.parametrize(("tags", "include", "exclude", "meant"), TAGS.values(), ids=TAGS.keys())
def test_tags_say_which_instances_are_meant(
    tags: dict[str, str], include: str, exclude: str, meant: bool
) -> None:
    variables = {"filter_id": "tmf-1", "targets": "tmt-1"}
    variables |= {"INCLUDE_TAGS": include, "EXCLUDE_TAGS": exclude}
    source = Source(Interface("eni-1"), "i-1", tags)
    assert (why_excluded(source, Configuration.from_environment(variables)) is None) is meant


# --- What is set aside, in the order in which it counts


def without_interfaces(scene: Scene) -> str:
    instance = scene.instance()
    scene.delete_interface(scene.first_interface(instance))
    return instance


def sensor_host(scene: Scene, **tags: str) -> str:
    """The instance of a configured sensor, which has a session to another one."""
    host = scene.sensor_instance(scene.targets[0])
    scene.ec2.create_tags(
        Resources=[host], Tags=[{"Key": key, "Value": value} for key, value in tags.items()]
    )
    scene.session(scene.first_interface(host), scene.targets[1], number=9)
    return host


def mirrored(scene: Scene, **options: Any) -> str:
    instance = scene.instance(tags=INCLUDED, **options)
    scene.session(scene.first_interface(instance), scene.targets[1], number=9)
    return instance


# What is tagged x is excluded, what is tagged y is included.
INCLUDED, EXCLUDED = {"y": ""}, {"x": "", "y": ""}
# Interfaces, some of them out for two reasons, of which the first counts; the outcome, and words
# of its reason.
SET_ASIDE: dict[str, tuple[Build, str]] = {
    "an instance that AWS does not know": (lambda a: UNKNOWN, f"skipped {UNKNOWN}"),
    "an instance without interfaces": (without_interfaces, "skipped no network interface"),
    **{
        f"an instance that is {state}, before its tag": (
            lambda a, s=state: a.instance(state=s, tags=EXCLUDED),
            f"skipped is {state}",
        )
        for state in ("stopped", "stopping", "shutting-down", "terminated")
    },
    "pending counts as running": (lambda a: a.instance(state="pending", tags=INCLUDED), "planned"),
    "an excluded instance, before its interface type": (
        lambda a: a.instance(tags=EXCLUDED, interface_type="trunk"),
        "skipped tag x EXCLUDE_TAGS",
    ),
    "an excluded instance, before being a sensor with a session": (
        lambda a: sensor_host(a, **EXCLUDED),
        "skipped EXCLUDE_TAGS",
    ),
    "an instance that is not included": (lambda a: a.instance(), "skipped y, z=1 INCLUDE_TAGS"),
    **{
        f"an interface of type {kind}, before its session": (
            lambda a, k=kind: mirrored(a, interface_type=k),
            f"skipped {kind}",
        )
        for kind in ("efa", "efa-only", "trunk", "branch")
    },
    "a sensor, before its session": (lambda a: sensor_host(a, **INCLUDED), "skipped sensor loop"),
    "a session, before no IPv4 address": (lambda a: mirrored(a, ipv6_only=True), "exists Session"),
    "no IPv4 address": (lambda a: a.instance(ipv6_only=True, tags=INCLUDED), "skipped IPv4"),
}


@warm
@pytest.mark.parametrize(("build", "wanted"), SET_ASIDE.values(), ids=SET_ASIDE.keys())
def test_of_two_reasons_to_skip_an_interface_the_first_in_order_counts(
    scene: Scene, build: Build, wanted: str
) -> None:
    outcome, *words = wanted.split()
    scene.configure(
        [scene.sensor(), scene.sensor()], EXCLUDE_TAGS="x", INCLUDE_TAGS="y,z=1", DRY_RUN="true"
    )
    entry = scene.run(build(scene)).entry
    assert (entry["outcome"], missing(entry["reason"], *words)) == (outcome, [])


# --- Sensors are no sources


@warm
def test_no_interface_of_an_instance_that_hosts_a_sensor_is_mirrored(scene: Scene) -> None:
    """A sensor that is not configured is no source, and no obstacle for its neighbours."""
    instance = scene.instance(interfaces=3)
    receiving = scene.interfaces_of(instance)[1]
    made = scene.ec2.create_traffic_mirror_target(NetworkInterfaceId=receiving)
    target, other = made["TrafficMirrorTarget"]["TrafficMirrorTargetId"], scene.sensor()
    scene.configure([other, target])
    answer = scene.run(instance)
    named = [receiving in entry["reason"] for entry in answer.interfaces]
    assert (answer.outcomes, named) == (["skipped"] * 3, [True, False, True])
    scene.configure(other)
    assert scene.run(instance).outcomes == ["created", "skipped", "created"]
    assert scene.count(CREATE) == 2


# --- Sessions that exist


@warm
def test_an_interface_with_a_session_gets_no_other_and_the_reason_says_if_its_target_is_not_ours(
    scene: Scene,
) -> None:
    ours, theirs, instance = scene.sensor(), scene.sensor(), scene.instance()
    session = scene.session(scene.first_interface(instance), theirs, number=7)
    for targets in ([ours, theirs], [ours]):
        scene.configure(targets)
        entry = scene.run(instance).entry
        shown = (entry["outcome"], entry["target_id"], entry["session_id"])
        says_whose = "not one of our targets" in entry["reason"]
        assert (shown, says_whose) == (("exists", theirs, session), len(targets) == 1)


@warm
def test_of_several_sessions_one_to_our_targets_is_named_and_of_those_the_lowest_number(
    scene: Scene,
) -> None:
    interface, ours = scene.first_interface(instance := scene.instance()), scene.sensor()
    scene.session(interface, scene.sensor(), number=1)
    scene.session(interface, ours, number=3)
    wanted = scene.session(interface, ours, number=2)
    scene.configure(ours)
    assert scene.run(instance).entry["session_id"] == wanted
