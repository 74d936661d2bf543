"""Which interfaces are mirrored at all, and which words say why the others are not."""

from __future__ import annotations

from typing import Any

import pytest
from aws import SimulatedAccount, rule
from conftest import Build, Configure, Run, Sleeps, interface_view, missing

from lambda_traffic_mirror import Instance

pytestmark = pytest.mark.usefixtures("shared_client")


def test_every_interface_is_mirrored_in_the_order_of_device_indexes(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    configure(account.sensor())
    instance = account.instance(interfaces=3)
    mirrored = [entry["interface_id"] for entry in run(instance).interfaces]
    assert mirrored == account.interfaces_of(instance)


def test_the_order_of_device_indexes_does_not_depend_on_the_order_of_aws() -> None:
    def shown(device: int, card: int) -> dict[str, Any]:
        attachment = {"DeviceIndex": device, "NetworkCardIndex": card}
        return {"NetworkInterfaceId": f"eni-{device}-{card}", "Attachment": attachment}

    interfaces = [shown(2, 0), shown(0, 0), shown(1, 1), shown(1, 0)]
    instance = Instance.of({"InstanceId": "i-1", "NetworkInterfaces": interfaces})
    in_order = [source.interface_id for source in instance.sources]
    assert in_order == ["eni-0-0", "eni-1-0", "eni-1-1", "eni-2-0"]


def test_instances_come_in_the_order_of_the_event(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    configure(account.sensor())
    instances = [account.instance() for _ in range(4)]
    wanted = [instances[position] for position in (2, 0, 3, 1)]
    answer = run({"instance-ids": wanted})
    assert [entry["instance_id"] for entry in answer.interfaces] == wanted


def test_instances_that_are_set_aside_keep_their_place_in_the_order(
    account: SimulatedAccount, configure: Configure, run: Run, no_sleep: Sleeps
) -> None:
    configure(account.sensor())
    wanted = [
        account.instance(),
        account.instance(state="stopped"),
        account.instance(),
        "i-00000000000000000",
    ]
    answer = run({"instance-ids": wanted})
    assert [entry["instance_id"] for entry in answer.interfaces] == wanted


def test_an_interface_without_a_public_address_is_mirrored(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    configure(account.sensor())
    instance = account.instance()
    (interface,) = account.interfaces_of(instance)
    assert "Association" not in interface_view(account, interface)
    assert run(instance).outcomes == ["created"]


PRIMARY, SECONDARY = "10.0.5.11", "10.0.5.99"


@pytest.mark.parametrize(("admitted", "verdict"), [(PRIMARY, "selected"), (SECONDARY, "rejected")])
def test_packets_come_from_the_primary_address(
    account: SimulatedAccount, configure: Configure, run: Run, admitted: str, verdict: str
) -> None:
    subnet = account.subnet(cidr="10.0.5.0/24")
    instance = account.instance(subnet, address=PRIMARY)
    (interface,) = account.interfaces_of(instance)
    account.ec2.assign_private_ip_addresses(
        NetworkInterfaceId=interface, PrivateIpAddresses=[SECONDARY]
    )
    sensor = account.sensor(subnet, [account.group(rule(cidr=f"{admitted}/32"))])
    configure(sensor)
    assert run(instance).sensors[sensor]["verdict"] == verdict


ADDRESSES: dict[str, tuple[dict[str, Any], str | None]] = {
    "primary first": (
        {"PrivateIpAddresses": [{"Primary": True, "PrivateIpAddress": PRIMARY}]},
        PRIMARY,
    ),
    "primary last": (
        {
            "PrivateIpAddress": PRIMARY,
            "PrivateIpAddresses": [
                {"Primary": False, "PrivateIpAddress": SECONDARY},
                {"Primary": True, "PrivateIpAddress": PRIMARY},
            ],
        },
        PRIMARY,
    ),
    "no list of addresses": ({"PrivateIpAddress": PRIMARY}, PRIMARY),
    "no address": ({"PrivateIpAddresses": []}, None),
}


@pytest.mark.parametrize(("shown", "address"), ADDRESSES.values(), ids=ADDRESSES.keys())
def test_the_primary_address_is_found(shown: dict[str, Any], address: str | None) -> None:
    interfaces = [{"NetworkInterfaceId": "eni-1", **shown}]
    (source,) = Instance.of({"InstanceId": "i-1", "NetworkInterfaces": interfaces}).sources
    assert (source.address and str(source.address)) == address


# --- What is set aside, with words that its reason must have

SET_ASIDE: dict[str, tuple[Build, dict[str, str], list[str]]] = {
    "an instance that does not exist": (
        lambda a: "i-00000000000000000",
        {},
        ["i-00000000000000000"],
    ),
    "an instance that is stopped": (lambda a: a.instance(state="stopped"), {}, ["stopped"]),
    "an instance that is stopping": (lambda a: a.instance(state="stopping"), {}, ["stopping"]),
    "an instance that is shutting down": (
        lambda a: a.instance(state="shutting-down"),
        {},
        ["shutting-down"],
    ),
    "an instance that is terminated": (
        lambda a: a.instance(state="terminated"),
        {},
        ["terminated"],
    ),
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
    "an interface of type efa": (lambda a: a.instance(interface_type="efa"), {}, ["efa"]),
    "an interface of type efa-only": (
        lambda a: a.instance(interface_type="efa-only"),
        {},
        ["efa-only"],
    ),
    "an interface of type trunk": (lambda a: a.instance(interface_type="trunk"), {}, ["trunk"]),
    "an interface of type branch": (lambda a: a.instance(interface_type="branch"), {}, ["branch"]),
    "an interface without an IPv4 address": (lambda a: a.instance(ipv6_only=True), {}, ["IPv4"]),
}


@pytest.mark.parametrize(("build", "variables", "words"), SET_ASIDE.values(), ids=SET_ASIDE.keys())
def test_skipped_is(
    account: SimulatedAccount,
    configure: Configure,
    run: Run,
    no_sleep: Sleeps,
    build: Build,
    variables: dict[str, str],
    words: list[str],
) -> None:
    configure(account.sensor(), **variables)
    entry = run(build(account)).entry
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
    account: SimulatedAccount,
    configure: Configure,
    run: Run,
    tags: dict[str, str],
    include: str,
    exclude: str,
    outcome: str,
) -> None:
    configure(account.sensor(), INCLUDE_TAGS=include, EXCLUDE_TAGS=exclude)
    assert run(account.instance(tags=tags)).outcomes == [outcome]


def test_a_sensor_is_not_mirrored(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    sensor = account.sensor()
    configure([account.sensor(), sensor])
    entry = run(account.sensor_instance(sensor)).entry
    assert (entry["outcome"], missing(entry["reason"], "sensor", "loop")) == ("skipped", [])


def test_no_interface_of_an_instance_that_hosts_a_sensor_is_mirrored(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    instance = account.instance(interfaces=3)
    receiving = account.interfaces_of(instance)[1]
    made = account.ec2.create_traffic_mirror_target(NetworkInterfaceId=receiving)
    configure([account.sensor(), made["TrafficMirrorTarget"]["TrafficMirrorTargetId"]])
    answer = run(instance)
    named = [receiving in entry["reason"] for entry in answer.interfaces]
    assert (answer.outcomes, named) == (["skipped"] * 3, [True, False, True])


def test_a_sensor_that_is_not_configured_is_no_obstacle_for_its_neighbours(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    instance = account.instance(interfaces=2)
    receiving = account.interfaces_of(instance)[1]
    account.ec2.create_traffic_mirror_target(NetworkInterfaceId=receiving)
    configure(account.sensor())
    assert run(instance).interfaces[0]["outcome"] == "created"


def test_an_instance_without_interfaces_is_skipped(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    instance = account.instance()
    account.delete_interface(account.interfaces_of(instance)[0])
    configure(account.sensor())
    entry = run(instance).entry
    assert (entry["outcome"], entry["interface_id"]) == ("skipped", None)


def with_session(account: SimulatedAccount, instance: str) -> str:
    for interface in account.interfaces_of(instance):
        account.session(interface, account.sensor(), number=9)
    return instance


# Each instance is out for two reasons; the first in this order counts: not running, tags,
# interface type, sensor itself, existing session, no IPv4 address.
ORDER: dict[str, tuple[Build, str, str]] = {
    "stopped, before excluded by its tag": (
        lambda a: a.instance(state="stopped", tags={"x": ""}),
        "skipped",
        "stopped",
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
def test_what_counts_is(
    account: SimulatedAccount,
    configure: Configure,
    run: Run,
    build: Build,
    outcome: str,
    word: str,
) -> None:
    configure(account.sensor(), EXCLUDE_TAGS="x")
    entry = run(build(account)).entry
    assert (entry["outcome"], missing(entry["reason"], word)) == (outcome, [])


def test_a_sensor_with_a_session_is_a_sensor_first(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    sensor, other = account.sensor(), account.sensor()
    account.session(account.sensor_interface(sensor), other)
    configure([sensor, other])
    assert run(account.sensor_instance(sensor)).outcomes == ["skipped"]


# --- Sessions that exist


@pytest.mark.parametrize("ours", [True, False], ids=["one of our targets", "somebody else's"])
def test_an_interface_with_a_session_gets_no_other(
    account: SimulatedAccount, configure: Configure, run: Run, ours: bool
) -> None:
    target, instance = account.sensor(), account.instance()
    (interface,) = account.interfaces_of(instance)
    session = account.session(interface, target, number=7)
    configure([account.sensor(), *([target] if ours else [])])
    entry = run(instance).entry
    shown = (entry["outcome"], entry["target_id"], entry["session_id"])
    says_whose = "not one of our targets" in entry["reason"]
    assert (shown, says_whose) == (("exists", target, session), not ours)


def test_of_several_sessions_one_to_our_targets_is_named_and_of_those_the_lowest_number(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    instance, ours = account.instance(), account.sensor()
    (interface,) = account.interfaces_of(instance)
    account.session(interface, account.sensor(), number=1)
    account.session(interface, ours, number=3)
    wanted = account.session(interface, ours, number=2)
    configure(ours)
    assert run(instance).entry["session_id"] == wanted
