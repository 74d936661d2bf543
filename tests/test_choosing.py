"""Which sensor an interface gets, from the interfaces that are sources to the fewest sessions.

Security groups and network ACLs have test files of their own; here they admit everything unless a
test says otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

import pytest
from aws import OTHER_ACCOUNT_ID, SimulatedAccount, acl_entry, rule
from conftest import Answer, Run, Sleeps

from lambda_traffic_mirror import Instance

Configure = Callable[..., None]
Build = Callable[[SimulatedAccount], Any]


pytestmark = pytest.mark.usefixtures("shared_client")


def stages(answer: Answer) -> list[str | None]:
    """Where each sensor fell, in configured order; the verdict in brackets where it did not."""
    return [sensor["stage"] or f"({sensor['verdict']})" for sensor in answer.entry["sensors"]]


def missing(text: str, *words: str) -> list[str]:
    """The words that the text leaves out."""
    return [word for word in words if word not in text]


def interface_view(account: SimulatedAccount, interface_id: str) -> dict[str, Any]:
    (view,) = account.ec2.describe_network_interfaces(NetworkInterfaceIds=[interface_id])[
        "NetworkInterfaces"
    ]
    return dict(view)


# --------------------------------------------------------------------------------------
# Sources: which interfaces are mirrored at all
# --------------------------------------------------------------------------------------


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


# --------------------------------------------------------------------------------------
# Availability
# --------------------------------------------------------------------------------------


def stopped_later(account: SimulatedAccount, state: str) -> str:
    target = account.sensor()
    account.set_state(account.sensor_instance(target), state)
    return target


def without_interface(account: SimulatedAccount) -> str:
    target = account.sensor()
    account.delete_sensor_interface(target)
    return target


def without_address(account: SimulatedAccount) -> str:
    interface = account.interface(ipv6_only=True, groups=[account.group(rule())])
    made = account.ec2.create_traffic_mirror_target(NetworkInterfaceId=interface)
    return str(made["TrafficMirrorTarget"]["TrafficMirrorTargetId"])


UNAVAILABLE: dict[str, tuple[Build, str]] = {
    "a target that does not exist": (lambda a: a.missing_sensor(), "There is no"),
    "a target without its interface": (without_interface, "does not exist"),
    "a sensor that is stopped": (lambda a: stopped_later(a, "stopped"), "is stopped"),
    "a sensor that is stopping": (lambda a: stopped_later(a, "stopping"), "is stopping"),
    "a sensor that is pending": (lambda a: stopped_later(a, "pending"), "is pending"),
    "a sensor that is shutting down": (
        lambda a: stopped_later(a, "shutting-down"),
        "is shutting-down",
    ),
    "a sensor that is terminated": (lambda a: stopped_later(a, "terminated"), "does not exist"),
    "a sensor without an IPv4 address": (without_address, "no IPv4 address"),
}


@pytest.mark.parametrize(("build", "words"), UNAVAILABLE.values(), ids=UNAVAILABLE.keys())
def test_unavailable_is(
    account: SimulatedAccount, configure: Configure, run: Run, build: Build, words: str
) -> None:
    target = build(account)
    configure(target)
    sensor = run(account.instance()).sensors[target]
    assert (sensor["stage"], missing(sensor["reason"], words)) == ("unavailable", [])


def test_a_sensor_interface_that_is_attached_to_nothing_is_available(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    configure(account.sensor(attached=False))
    assert run(account.instance()).outcomes == ["created"]


def test_a_sensor_whose_instance_cannot_be_seen_is_available(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    sensor = account.sensor()
    account.hide(account.sensor_instance(sensor))
    configure(sensor)
    assert run(account.instance()).outcomes == ["created"]


# --------------------------------------------------------------------------------------
# Availability Zone, VPC
# --------------------------------------------------------------------------------------

CLOSED: dict[str, Build] = {
    "security group": lambda a: a.sensor(groups=[a.group()]),
    "network ACL": lambda a: a.sensor(a.subnet(acl=[])),
    "quota": lambda a: a.sensor(quota=1, sessions=1),
    "VPC": lambda a: a.sensor(a.subnet(vpc=a.vpc("10.9.0.0/16"))),
}

# Sensors in the source's zone and in others; how they fare with LOCAL_ZONE_ONLY true and false.
ZONES: dict[str, tuple[list[Build], list[str], list[str]]] = {
    "a sensor in the zone": ([lambda a: a.sensor()], ["(selected)"], ["(selected)"]),
    "none in the zone": ([lambda a: a.sensor(zone="b")], ["zone"], ["(selected)"]),
    "one here, an idle one there": (
        [lambda a: a.sensor(sessions=9), lambda a: a.sensor(zone="b")],
        ["(selected)", "zone"],
        ["(selected)", "zone"],
    ),
    "two other zones": (
        [lambda a: a.sensor(zone="b", sessions=3), lambda a: a.sensor(zone="c")],
        ["zone", "zone"],
        ["(eligible)", "(selected)"],
    ),
    "closed in both zones": (
        [CLOSED["security group"], lambda a: a.sensor(zone="b", groups=[a.group()])],
        ["security_group", "zone"],
        ["security_group", "security_group"],
    ),
    "the one here is unavailable": (
        [lambda a: a.sensor(state="stopped"), lambda a: a.sensor(zone="b")],
        ["unavailable", "zone"],
        ["unavailable", "(selected)"],
    ),
    "the one here is closed by its group": (
        [CLOSED["security group"], lambda a: a.sensor(zone="b")],
        ["security_group", "zone"],
        ["security_group", "(selected)"],
    ),
    "the one here is closed by its ACL": (
        [CLOSED["network ACL"], lambda a: a.sensor(zone="b")],
        ["network_acl", "zone"],
        ["network_acl", "(selected)"],
    ),
    "the one here is full": (
        [CLOSED["quota"], lambda a: a.sensor(zone="b")],
        ["create", "zone"],
        ["create", "(selected)"],
    ),
    "one here is closed, one is not": (
        [CLOSED["security group"], lambda a: a.sensor(sessions=9), lambda a: a.sensor(zone="b")],
        ["security_group", "(selected)", "zone"],
        ["security_group", "(selected)", "zone"],
    ),
}


@pytest.mark.parametrize("local_only", ["true", "false"])
@pytest.mark.parametrize(("build", "local", "fallback"), ZONES.values(), ids=ZONES.keys())
def test_sensors_of_the_zone_come_first(
    account: SimulatedAccount,
    configure: Configure,
    run: Run,
    build: list[Build],
    local: list[str],
    fallback: list[str],
    local_only: str,
) -> None:
    configure([make(account) for make in build], LOCAL_ZONE_ONLY=local_only)
    answer = run(account.instance())
    assert stages(answer) == (local if local_only == "true" else fallback)


def test_with_local_vpc_only_the_fallback_comes_after_the_vpc_as_well(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    targets = [CLOSED["VPC"](account), account.sensor(zone="b")]
    configure(targets, LOCAL_ZONE_ONLY="false", LOCAL_VPC_ONLY="true")
    assert stages(run(account.instance())) == ["vpc", "(selected)"]


def test_the_reason_names_both_zones(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    sensor = account.sensor(zone="b")
    configure(sensor)
    reason = run(account.instance(zone="c")).sensors[sensor]["reason"]
    assert missing(reason, "us-east-1b", "us-east-1c") == []


def test_the_reason_says_that_a_sensor_of_another_zone_is_a_makeshift(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    sensor = account.sensor(zone="b")
    configure(sensor, LOCAL_ZONE_ONLY="false")
    reason = run(account.instance()).sensors[sensor]["reason"]
    assert missing(reason, "us-east-1b", "no sensor in us-east-1a can take it") == []


@pytest.mark.parametrize(
    ("local_vpc_only", "verdict", "words"),
    [("true", "vpc", "The sensor is in"), ("false", "(selected)", "peering are not checked")],
)
def test_a_sensor_in_another_vpc(
    account: SimulatedAccount,
    configure: Configure,
    run: Run,
    local_vpc_only: str,
    verdict: str,
    words: str,
) -> None:
    vpc = account.vpc("10.9.0.0/16")
    sensor = account.sensor(account.subnet(vpc=vpc))
    configure(sensor, LOCAL_VPC_ONLY=local_vpc_only)
    answer = run(account.instance())
    assert (stages(answer), missing(answer.sensors[sensor]["reason"], words, vpc)) == (
        [verdict],
        [],
    )


# --------------------------------------------------------------------------------------
# Fewest sessions
# --------------------------------------------------------------------------------------

COUNTS: dict[str, tuple[Sequence[int], int]] = {
    # sessions of each sensor, the position of the one that is chosen
    "idle": ((3, 0, 5), 1),
    "one less": ((7, 6, 7), 1),
    "the last": ((2, 2, 1), 2),
}


@pytest.mark.parametrize(("counts", "best"), COUNTS.values(), ids=COUNTS.keys())
def test_the_sensor_with_the_fewest_sessions_is_chosen(
    account: SimulatedAccount, configure: Configure, run: Run, counts: Sequence[int], best: int
) -> None:
    targets = [account.sensor(sessions=count) for count in counts]
    configure(targets)
    assert run(account.instance()).entry["target_id"] == targets[best]


def test_sessions_on_all_pages_count(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    # The first page of 1,000 shows 501 of the one and 499 of the other.
    few = account.sensor(sessions=501, quota=10_000)
    many = account.sensor(sessions=1_700, quota=10_000)
    configure([few, many])
    sensors = run(account.instance()).sensors
    assert [sensors[target]["sessions"] for target in (few, many)] == [501, 1_700]


def test_a_tie_goes_to_the_lowest_sha_256_of_interface_and_target(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    targets = [account.sensor(sessions=2) for _ in range(8)]
    instances = account.instances(5)
    configure(targets, DRY_RUN="true")
    chosen, best = [], []
    for instance in instances:
        (interface,) = account.interfaces_of(instance)
        chosen.append(run(instance).entry["target_id"])
        best.append(min(targets, key=lambda t: sha256(f"{interface}{t}".encode()).hexdigest()))
    assert chosen == best


@pytest.mark.parametrize("dry_run", ["true", "false"])
def test_each_session_counts_at_once(
    account: SimulatedAccount, configure: Configure, run: Run, dry_run: str
) -> None:
    targets = [account.sensor(sessions=count) for count in (0, 1, 3)]
    configure(targets, DRY_RUN=dry_run)
    answer = run({"instance-ids": account.instances(4, interfaces=2)})
    assert Counter(entry["target_id"] for entry in answer.interfaces) == dict(
        zip(targets, (4, 3, 1), strict=True)
    )


def test_the_result_shows_the_counts_that_were_used(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    targets = [account.sensor(sessions=2), account.sensor(sessions=4), account.sensor(zone="b")]
    configure(targets)
    shown = run(account.instance()).entry["sensors"]
    assert [(s["target_id"], s["verdict"], s["sessions"]) for s in shown] == [
        (targets[0], "selected", 2),
        (targets[1], "eligible", 4),
        (targets[2], "rejected", None),
    ]


def test_sessions_to_other_targets_do_not_count(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    account.sensor(sessions=5)
    target = account.sensor(sessions=1)
    configure(target)
    assert run(account.instance()).sensors[target]["sessions"] == 1


# --------------------------------------------------------------------------------------
# Sensors behind a load balancer
# --------------------------------------------------------------------------------------

LOAD_BALANCERS: dict[str, Callable[[SimulatedAccount, Sequence[str]], str]] = {
    "a Network Load Balancer": lambda a, subnets: a.nlb_sensor(subnets),
    "a Gateway Load Balancer endpoint": lambda a, subnets: a.gwlb_sensor(subnets),
    "a Gateway Load Balancer endpoint, with a colon": (
        lambda a, subnets: a.gwlb_sensor(subnets, colon=True)
    ),
}
EXCLUDE = {"EXCLUDE_TAGS": "role=sensor"}
every_kind = pytest.mark.parametrize("make", LOAD_BALANCERS.values(), ids=LOAD_BALANCERS.keys())
MakeLoadBalancer = Callable[[SimulatedAccount, Sequence[str]], str]


@every_kind
@pytest.mark.parametrize(
    ("variables", "verdict"),
    [
        ({}, "unavailable"),
        ({"EXCLUDE_TAGS": "role=sensor"}, "(selected)"),
        ({"INCLUDE_TAGS": "mirror"}, "(selected)"),
    ],
    ids=["without tags", "with EXCLUDE_TAGS", "with INCLUDE_TAGS"],
)
def test_a_load_balancer_is_a_sensor_once_tags_say_which_instances_are_meant(
    account: SimulatedAccount,
    configure: Configure,
    run: Run,
    make: MakeLoadBalancer,
    variables: dict[str, str],
    verdict: str,
) -> None:
    configure(make(account, [account.subnet()]), **variables)
    assert stages(run(account.instance(tags={"mirror": ""}))) == [verdict]


@every_kind
def test_the_reason_says_which_variables_to_set(
    account: SimulatedAccount, configure: Configure, run: Run, make: MakeLoadBalancer
) -> None:
    target = make(account, [account.subnet()])
    configure(target)
    reason = run(account.instance()).sensors[target]["reason"]
    assert missing(reason, "INCLUDE_TAGS", "EXCLUDE_TAGS", "load balancer") == []


@every_kind
def test_the_reason_says_what_of_a_load_balancer_is_not_checked(
    account: SimulatedAccount, configure: Configure, run: Run, make: MakeLoadBalancer
) -> None:
    target = make(account, [account.subnet()])
    configure(target, **EXCLUDE)
    reason = run(account.instance()).sensors[target]["reason"]
    assert missing(reason, "listeners", "registered", "not checked") == []


@every_kind
def test_a_load_balancer_has_the_zones_of_all_its_interfaces(
    account: SimulatedAccount, configure: Configure, run: Run, make: MakeLoadBalancer
) -> None:
    target = make(account, [account.subnet("a"), account.subnet("b"), account.subnet("c")])
    configure(target, **EXCLUDE)
    instances = [account.instance(zone=zone) for zone in "abcd"]
    outcomes = run({"instance-ids": instances}).outcomes
    assert outcomes == ["created", "created", "created", "unmirrored"]


@every_kind
def test_a_load_balancer_in_another_zone_is_for_when_the_zone_has_none(
    account: SimulatedAccount, configure: Configure, run: Run, make: MakeLoadBalancer
) -> None:
    target = make(account, [account.subnet("b"), account.subnet("c")])
    configure([target, account.sensor(state="stopped")], LOCAL_ZONE_ONLY="false", **EXCLUDE)
    assert stages(run(account.instance())) == ["(selected)", "unavailable"]


@every_kind
def test_one_interface_in_the_zone_that_passes_every_stage_is_enough(
    account: SimulatedAccount, configure: Configure, run: Run, make: MakeLoadBalancer
) -> None:
    subnets = [account.subnet(acl=[]), account.subnet(), account.subnet(acl=[])]
    configure(make(account, subnets), **EXCLUDE)
    assert stages(run(account.instance())) == ["(selected)"]


@every_kind
def test_an_interface_in_another_zone_that_passes_is_not_enough(
    account: SimulatedAccount, configure: Configure, run: Run, make: MakeLoadBalancer
) -> None:
    configure(make(account, [account.subnet(acl=[]), account.subnet("b")]), **EXCLUDE)
    assert stages(run(account.instance())) == ["network_acl"]


@every_kind
def test_a_load_balancer_that_is_gone_is_unavailable(
    account: SimulatedAccount, configure: Configure, run: Run, make: MakeLoadBalancer
) -> None:
    target = make(account, [account.subnet()])
    account.delete_sensor_interface(target)
    configure(target, **EXCLUDE)
    assert stages(run(account.instance())) == ["unavailable"]


@every_kind
def test_a_load_balancer_without_a_security_group_has_nothing_to_filter(
    account: SimulatedAccount, configure: Configure, run: Run, make: MakeLoadBalancer
) -> None:
    target = make(account, [account.subnet()])
    configure(target, **EXCLUDE)
    assert missing(run(account.instance()).sensors[target]["reason"], "no security group") == []


@pytest.mark.parametrize(
    ("rules", "verdict"), [([rule()], "(selected)"), ([], "security_group")], ids=["open", "closed"]
)
def test_the_security_groups_of_a_load_balancer_count(
    account: SimulatedAccount,
    configure: Configure,
    run: Run,
    rules: list[dict[str, Any]],
    verdict: str,
) -> None:
    target = account.nlb_sensor([account.subnet()], [account.group(*rules)])
    configure(target, **EXCLUDE)
    assert stages(run(account.instance())) == [verdict]


def test_an_interface_of_a_load_balancer_that_the_outbound_acl_allows_is_enough(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    acl = [
        acl_entry(90, "deny", "10.0.6.0/24", egress=True),
        acl_entry(100, "allow", protocol="-1", egress=True),
    ]
    source = account.subnet(acl=acl, cidr="10.0.5.0/24")
    denied, allowed = account.subnet(cidr="10.0.6.0/24"), account.subnet(cidr="10.0.7.0/24")
    balancer = account.nlb_sensor([denied, allowed])
    configure([account.sensor(allowed, sessions=1), balancer], **EXCLUDE)
    assert run(account.instance(source)).entry["target_id"] == balancer


def test_load_balancers_and_interfaces_compete_by_sessions(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    balancer, sensor = account.nlb_sensor([account.subnet()]), account.sensor(sessions=1)
    configure([balancer, sensor], **EXCLUDE)
    answer = run({"instance-ids": account.instances(3)})
    counts = Counter(entry["target_id"] for entry in answer.interfaces)
    assert (counts[balancer], counts[sensor]) == (2, 1)


def test_two_load_balancers_are_told_apart(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    targets = [account.nlb_sensor([account.subnet("b")]), account.gwlb_sensor([account.subnet()])]
    configure(targets, **EXCLUDE)
    assert stages(run(account.instance())) == ["zone", "(selected)"]


# --------------------------------------------------------------------------------------
# What cannot be seen
# --------------------------------------------------------------------------------------


def hidden_group(account: SimulatedAccount, *more: str, **kwargs: Any) -> str:
    group = account.group()
    account.hide(group)
    return account.sensor(groups=[group, *more], **kwargs)


def hidden_acl(account: SimulatedAccount, **kwargs: Any) -> str:
    subnet = account.subnet()
    acl = account.acl(subnet, [])
    account.hide(acl)
    return account.sensor(subnet, **kwargs)


def foreign_load_balancer(account: SimulatedAccount) -> str:
    """A load balancer of another account; neither it nor its interfaces can be seen."""
    target = account.nlb_sensor([account.subnet()])
    account.hide(account.sensor_interface(target))
    account._backend.traffic_mirror_targets[target].simulated_owner = OTHER_ACCOUNT_ID
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
        [lambda a: a.sensor(groups=[a.group()]), without_interface, CLOSED["network ACL"]],
        ["security_group", "unavailable", "network_acl"],
        ["security_group", "unavailable", "network_acl"],
    ),
}


@pytest.mark.parametrize("allowed", ["false", "true"], ids=["by default", "ALLOW_UNVERIFIED"])
@pytest.mark.parametrize(("build", "default", "unverified"), UNSEEN.values(), ids=UNSEEN.keys())
def test_what_cannot_be_seen(
    account: SimulatedAccount,
    configure: Configure,
    run: Run,
    build: list[Build],
    default: list[str],
    unverified: list[str],
    allowed: str,
) -> None:
    configure([make(account) for make in build], ALLOW_UNVERIFIED=allowed, **EXCLUDE)
    answer = run(account.instance())
    assert stages(answer) == (unverified if allowed == "true" else default)


def test_an_unseen_acl_is_no_obstacle_within_its_subnet(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    subnet = account.subnet()
    account.hide(account.acl(subnet, []))
    configure(account.sensor(subnet))
    assert run(account.instance(subnet)).outcomes == ["created"]


def test_an_unseen_acl_of_the_sources_subnet_denies_nobody(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    subnet = account.subnet()
    account.hide(account.acl(subnet, []))
    configure([account.sensor(sessions=1), account.sensor(subnet, sessions=2)])
    assert stages(run(account.instance(subnet))) == ["(selected)", "(eligible)"]


def test_sensors_of_the_zone_that_cannot_be_verified_come_before_those_of_other_zones(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    near, far = hidden_group(account, sessions=5), hidden_group(account, zone="b")
    configure([near, far], ALLOW_UNVERIFIED="true", LOCAL_ZONE_ONLY="false")
    assert run(account.instance()).entry["target_id"] == near


def test_verified_sensors_of_other_zones_come_before_those_that_cannot_be_verified(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    near, far = hidden_group(account), account.sensor(zone="b", sessions=5)
    configure([near, far], ALLOW_UNVERIFIED="true", LOCAL_ZONE_ONLY="false")
    assert stages(run(account.instance())) == ["unavailable", "(selected)"]


def test_sensors_of_other_zones_that_cannot_be_verified_come_last(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    targets = [account.sensor(groups=[account.group()]), hidden_group(account, zone="b")]
    configure(targets, ALLOW_UNVERIFIED="true", LOCAL_ZONE_ONLY="false")
    assert stages(run(account.instance())) == ["security_group", "(selected)"]


def test_of_those_that_cannot_be_verified_the_outbound_acl_ranks_as_well(
    account: SimulatedAccount, configure: Configure, run: Run
) -> None:
    denied, allowed = account.subnet(cidr="10.0.6.0/24"), account.subnet(cidr="10.0.7.0/24")
    acl = [
        acl_entry(90, "deny", "10.0.6.0/24", egress=True),
        acl_entry(100, "allow", protocol="-1", egress=True),
    ]
    targets = [
        hidden_group(account, subnet=denied),
        hidden_group(account, subnet=allowed, sessions=5),
    ]
    configure(targets, ALLOW_UNVERIFIED="true")
    assert stages(run(account.instance(account.subnet(acl=acl)))) == ["(eligible)", "(selected)"]


NAMED: dict[str, tuple[Build, Callable[[SimulatedAccount, str], str]]] = {
    "the other account": (lambda a: a.foreign_sensor(), lambda a, target: "another account"),
    "the security group": (
        hidden_group,
        lambda a, target: interface_view(a, a.sensor_interface(target))["Groups"][0]["GroupId"],
    ),
    "the subnet whose network ACL it is": (
        hidden_acl,
        lambda a, target: interface_view(a, a.sensor_interface(target))["SubnetId"],
    ),
}


@pytest.mark.parametrize("allowed", ["false", "true"], ids=["by default", "ALLOW_UNVERIFIED"])
@pytest.mark.parametrize(("build", "word"), NAMED.values(), ids=NAMED.keys())
def test_the_reason_names(
    account: SimulatedAccount,
    configure: Configure,
    run: Run,
    build: Build,
    word: Callable[[SimulatedAccount, str], str],
    allowed: str,
) -> None:
    target = build(account)
    configure(target, ALLOW_UNVERIFIED=allowed)
    reason = run(account.instance()).sensors[target]["reason"]
    wanted = [word(account, target)] + (["not verified"] if allowed == "true" else [])
    assert missing(reason, *wanted) == []


def test_an_interface_that_cannot_be_verified_goes_before_one_that_is_denied_for_certain(
    account: SimulatedAccount, configure: Callable[..., None], run: Run
) -> None:
    """Even where the outbound ACL of the source's subnet would rank the sensor last."""
    denied = account.subnet("a", acl=[acl_entry(100, "deny")])
    hidden = account.subnet("a")
    account.hide(account.acl(hidden, [acl_entry(100, "allow")]))
    sensor = account.nlb_sensor([denied, hidden])
    configure([sensor], EXCLUDE_TAGS="traffic-mirror=sensor")
    source = account.subnet("a", acl=[acl_entry(100, "deny", egress=True)])
    assert stages(run(account.instance(source))) == ["unavailable"]
