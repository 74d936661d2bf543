"""Random AWS accounts: does the function decide as the model does? And the model: does it decide
as the contract says, by examples worked out by hand?

Each seed makes one account with networks, sensors of every kind, sessions, instances, databases,
other accounts, and answers that are missing; the handler runs, and every outcome, choice, verdict,
create and metric is compared. WORLDS=2000 runs that many seeds, WORLDS=500-700 those from 500 to
699.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
from model import Creates, ExpectedInterface, Settings, World, expect, sweep_metrics
from worlds import play, smallest


def seeds() -> range:
    """Which worlds to run."""
    first, _, end = os.environ.get("WORLDS", "104").rpartition("-")
    return range(int(first or 0), int(end))


@pytest.mark.parametrize("seed", seeds())
def test_the_handler_decides_as_the_model_does(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    if play(seed):
        without, found = smallest(seed)
        pytest.fail(f"seed {seed} without {sorted(without)}\n\n" + "\n\n".join(found[:3]))


# --------------------------------------------------------------------------------------
# The model itself
# --------------------------------------------------------------------------------------

OPEN = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
ENTRY = {"Protocol": "-1", "CidrBlock": "0.0.0.0/0", "RuleNumber": 1, "RuleAction": "allow"}


def face(name: str, zone: str = "z", subnet: str = "s2", **more: Any) -> dict[str, Any]:
    """An interface in the VPC `v`, with the open group `g` unless told otherwise."""
    return {
        "NetworkInterfaceId": name,
        "AvailabilityZone": zone,
        "AvailabilityZoneId": f"id-{zone}",
        "SubnetId": subnet,
        "VpcId": "v",
        "PrivateIpAddress": "10.1.0.2",
        "Groups": [{"GroupId": "g"}],
        "InterfaceType": "interface",
        **more,
    }


def session(target: str, interface: str = "y", **more: Any) -> dict[str, Any]:
    return {
        "TrafficMirrorSessionId": f"{target}-{interface}",
        "TrafficMirrorTargetId": target,
        "NetworkInterfaceId": interface,
        "SessionNumber": 1,
        **more,
    }


def world(*sensors: dict[str, Any], tags: dict[str, str] | None = None, **more: Any) -> World:
    """One source `e` of instance `i` in zone `z`; sensors t1, t2, ... on these interfaces."""
    source = face("e", subnet="s", PrivateIpAddress="10.0.0.1", Attachment={"DeviceIndex": 0})
    instance = {
        "InstanceId": "i",
        "InstanceType": "m5.large",
        "State": {"Name": "running"},
        "Placement": {"AvailabilityZone": "z", "AvailabilityZoneId": "id-z"},
        "NetworkInterfaces": [source],
        "Tags": [{"Key": key, "Value": value} for key, value in (tags or {}).items()],
    }
    targets = [
        {"TrafficMirrorTargetId": f"t{n}", "NetworkInterfaceId": one["NetworkInterfaceId"]}
        for n, one in enumerate(sensors, 1)
    ]
    open_acl = [{**ENTRY, "Egress": False}, {**ENTRY, "Egress": True}]
    shown: dict[str, Any] = {
        "account": "1",
        "reservations": [{"Instances": [instance]}],
        "interfaces": sensors,
        "targets": [{**target, "OwnerId": "1"} for target in targets],
        "groups": [
            {"GroupId": "g", "IpPermissions": OPEN},
            {"GroupId": "closed", "IpPermissions": []},
        ],
        "acls": [
            {"Associations": [{"SubnetId": "s"}, {"SubnetId": "s2"}], "Entries": open_acl},
            {"Associations": [{"SubnetId": "denied"}], "Entries": []},
        ],
    }
    return World(**{**shown, **more})


CLOSED = {"Groups": [{"GroupId": "closed"}]}
UNSEEN = {"Groups": [{"GroupId": "hidden"}]}
UNREADABLE = {"AvailabilityZone": ""}
HOST = {"Attachment": {"InstanceId": "h"}}
AFAR = {"VpcId": "w"}


def told(
    shown: World, creates: Creates | None = None, sweep: bool = False, **settings: Any
) -> tuple[str, ...]:
    """The outcome, and the verdict on each sensor in one word."""
    names = [target["TrafficMirrorTargetId"] for target in shown.targets]
    chosen = Settings(**{"targets": names, "dry_run": creates is None, **settings})
    [result] = expect(shown, chosen, None if sweep else ["i"], creates)
    return (result.outcome, *(each.stage or each.verdict for each in result.sensors or []))


def routes(*rows: dict[str, Any]) -> dict[str, Any]:
    """The routes of the source's VPC, active and static unless told otherwise."""
    usual = {"State": "active", "Origin": "CreateRoute", "DestinationCidrBlock": "10.1.0.0/16"}
    table = {"VpcId": "v", "Associations": [{"Main": True}]}
    return {"route_tables": [{**table, "Routes": [{**usual, **row} for row in rows]}]}


PEERING, GONE = {"VpcPeeringConnectionId": "pcx-1"}, {"State": "blackhole"}
LEARNT = {"Origin": "Advertisement", "NetworkInterfaceId": "eni-1"}
LIST = {"DestinationCidrBlock": None, "DestinationPrefixListId": "pl-1"}
LATTICE = {**LIST, "GatewayId": "VpcLattice"}
TWO = face("e1"), face("e2", "y")
STEERED = {"tags": {"to": "t2"}}

# Worked out by hand from the contract: the world, the settings, and what has to be said of it.
EXAMPLES: dict[str, tuple[World, dict[str, Any], tuple[str, ...]]] = {
    "the fewest sessions in the zone": (
        world(face("e1"), face("e2"), face("e3", "y"), sessions=[session("t1")]),
        {},
        ("planned", "eligible", "selected", "zone"),
    ),
    "a sensor of the zone before an idle one of another": (
        world(*TWO, sessions=[session("t1")]),
        {"local_zone_only": False},
        ("planned", "selected", "eligible"),
    ),
    "another zone where the zone has none": (
        world(face("e1", **CLOSED), face("e2", subnet="denied"), face("e3", "y")),
        {"local_zone_only": False},
        ("planned", "security_group", "network_acl", "selected"),
    ),
    "an unverified sensor of the zone after another zone": (
        world(face("e1", **UNSEEN), face("e2", "y")),
        {"local_zone_only": False, "allow_unverified": True},
        ("planned", "eligible", "selected"),
    ),
    "an unreadable sensor beside a good one": (
        world(face("e1", **UNREADABLE), face("e2")),
        {},
        ("planned", "unavailable", "selected"),
    ),
    "an unreadable sensor alone": (world(face("e1", **UNREADABLE)), {}, ("failed", "unavailable")),
    "an answer about the host is missing, and a later stage rejects": (
        world(face("e1", **HOST, **CLOSED), missing={"hosts": False}),
        {},
        ("unmirrored", "security_group"),
    ),
    "a denied answer lets another zone take over": (
        world(face("e1", **HOST), face("e2", "y"), missing={"hosts": True}),
        {"local_zone_only": False},
        ("planned", "unavailable", "selected"),
    ),
    "a throttled answer does not": (
        world(face("e1", **HOST), face("e2", "y"), missing={"hosts": False}),
        {"local_zone_only": False},
        ("failed", "unavailable", "eligible"),
    ),
    "a throttled answer about another zone harms nobody": (
        world(face("e1"), face("e2", "y", **HOST), missing={"hosts": False}),
        {},
        ("planned", "selected", "zone"),
    ),
    "a static route before others, whatever their order": (
        world(face("e1", **AFAR), **routes(LEARNT, {**PEERING, **GONE})),
        {},
        ("unmirrored", "route"),
    ),
    "others that disagree are ranked behind": (
        world(
            face("e1", **AFAR),
            face("e2"),
            sessions=[session("t2")],
            **routes(LEARNT, {**LEARNT, **GONE}),
        ),
        {},
        ("planned", "eligible", "selected"),
    ),
    "lists of AWS's services do not count": (
        world(face("e1", **AFAR), **routes(LATTICE, {"GatewayId": "igw-1"})),
        {},
        ("unmirrored", "route"),
    ),
    "a list by a NAT gateway rejects like the winner": (
        world(face("e1", **AFAR), **routes({**LIST, "NatGatewayId": "nat-1"})),
        {},
        ("unmirrored", "route"),
    ),
    "a list that may lead there": (
        world(face("e1", **AFAR), **routes({**LIST, **PEERING})),
        {},
        ("planned", "selected"),
    ),
    "without the permission routes reject nothing": (
        world(face("e1", **AFAR), missing={"route_tables": True}),
        {},
        ("planned", "selected"),
    ),
    "a tag names the only target": (
        world(*TWO, **STEERED),
        {"targets_tag": "to", "local_zone_only": False},
        ("planned", "tag", "selected"),
    ),
    "a tag names a target that is in another zone": (
        world(*TWO, **STEERED),
        {"targets_tag": "to"},
        ("unmirrored", "tag", "zone"),
    ),
    "somebody else's session is enough": (
        world(face("e1"), sessions=[session("tx", "e")]),
        {},
        ("exists",),
    ),
    "no room beside it with the same number": (
        world(face("e1"), sessions=[session("tx", "e")]),
        {"mirror_alongside": True},
        ("unmirrored",),
    ),
    "room beside it with another number": (
        world(face("e1"), sessions=[session("tx", "e", SessionNumber=7)]),
        {"mirror_alongside": True},
        ("planned", "selected"),
    ),
}


@pytest.mark.parametrize(("shown", "settings", "said"), EXAMPLES.values(), ids=EXAMPLES)
def test_the_model_decides_as_worked_out_by_hand(
    shown: World, settings: dict[str, Any], said: tuple[str, ...]
) -> None:
    assert told(shown, **settings) == said


def test_the_model_tries_the_next_best_after_a_refusal() -> None:
    full = "TrafficMirrorSourcesPerTargetLimitExceeded"
    shown = world(face("e1"), face("e2"), sessions=[session("t2")])
    assert told(shown, {("e", "t1", "f"): [full], ("e", "t2", "f"): [None]}) == (
        "created",
        "create",
        "selected",
    )
    refused: Creates = {("e", "t1", "f"): [full], ("e", "t2", "f"): [full]}
    assert told(shown, refused) == ("unmirrored", "create", "create")
    assert told(shown, {("e", "t1", "f"): ["NetworkInterfaceNotSupported"]}) == ("skipped",)
    assert told(shown, {("e", "t1", "f"): ["InvalidTrafficMirrorFilterId.NotFound"]}) == (
        "unmirrored",
    )


def test_the_model_calls_a_session_that_leads_nowhere_blocked() -> None:
    to_t1 = {"sessions": [session("t1", "e")]}
    for sensor, said in (
        (face("e1", "y", Groups=[]), ("exists",)),  # its zone is not looked at
        (face("e1", **UNSEEN), ("exists",)),
        (face("e1", **CLOSED), ("blocked", "security_group")),
        (face("e1", subnet="denied"), ("blocked", "network_acl")),
    ):
        assert told(world(sensor, **to_t1), sweep=True) == said
        assert told(world(sensor, **to_t1)) == ("exists",)
    throttled = world(face("e1"), missing={"groups": False}, **to_t1)
    assert told(throttled, sweep=True) == ("failed",)
    assert told(world(face("e1"), sessions=[session("gone", "e")]), sweep=True) == ("blocked",)


def test_the_model_knows_databases_of_sweeps_and_what_a_sweep_counts() -> None:
    database = face("db", RequesterId="amazon-rds", RequesterManaged=True)
    custom = face("db2", RequesterId="amazon-rds", Attachment={"InstanceId": "i"})
    other = face("db3", RequesterId="amazon-elb", Description="RDSNetworkInterface")
    shown = world(face("e1"), sessions=[session("tx", "e")])
    shown = replace(shown, interfaces=[*shown.interfaces, database, custom, other])
    settings = Settings(targets=["t1"], include_tags=["absent"], mirror_databases=True)
    creates: Creates = {("db", "t1", "f"): [None]}
    results = expect(shown, settings, None, creates)
    assert [(item.instance_id, item.interface_id, item.outcome) for item in results] == [
        ("i", "e", "skipped"),
        (None, "db", "created"),
    ]
    counted = {"t1": 1, "Sweeps": 1, "Elsewhere": 0, "Excluded": 1, "Coverage": 100}
    assert sweep_metrics(shown, settings, results) == counted


def test_the_model_uses_what_is_remembered_as_long_as_it_leaves_a_sensor() -> None:
    before = world(face("e1"))
    now = world(face("e1", **CLOSED))
    settings = Settings(dry_run=True)

    def outcome(shown: World, remembered: World) -> ExpectedInterface:
        return expect(shown, settings, ["i"], remembered=remembered)[0]

    assert outcome(now, before).outcome == "planned"
    assert outcome(before, now).outcome == "planned"
    assert outcome(now, now).outcome == "unmirrored"
