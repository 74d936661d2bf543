"""Random AWS accounts: does the function decide as the brute-force model does?

Each seed makes one account with networks, sensors of every kind, sessions and instances. The
account is read into plain dictionaries, the model says what should happen, the handler runs, and
every outcome, choice and verdict is compared.

WORLDS=2000 runs that many seeds (60 unless told), WORLDS=500-700 those from 500 to 699.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import Any

import pytest
from aws import SimulatedAccount
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model import (
    ExpectedInterface,
    Limits,
    World,
    acl_allows,
    acl_entries,
    addresses,
    expect,
    group_id_lists,
    group_rules_admit,
    ip_permissions,
    prefix_list_entries,
)
from moto.moto_api._internal import mock_random
from worlds import Builder, apply_limits, differences, handle, outcomes_of, read_world, reader

import lambda_traffic_mirror

# --------------------------------------------------------------------------------------
# The comparison
# --------------------------------------------------------------------------------------


def seeds() -> range:
    """Which worlds to run."""
    first, _, end = os.environ.get("WORLDS", "60").rpartition("-")
    return range(int(first or 0), int(end))


@pytest.mark.parametrize("seed", seeds())
def test_the_handler_decides_as_the_model_does(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    random.seed(seed)  # IDs decide ties: the same seed makes the same IDs
    mock_random.seed(seed)
    with SimulatedAccount() as account:
        monkeypatch.setattr(lambda_traffic_mirror, "_client", reader())
        scene = Builder(account, seed).build()
        world = read_world(scene)
        apply_limits(scene, world)
        body = handle(scene.event, scene.environment)
        expected = expect(
            world,
            scene.settings,
            scene.instance_ids,
            scene.limits,
            scene.dry_run,
            outcomes_of(body),
        )

        found = list(differences(expected, body, scene, world))
        story = f"seed {seed}, settings {scene.settings}, dry run {scene.dry_run}\n"
        assert not found, story + "\n\n".join(found[:5])

        outcomes = Counter(item.outcome for item in expected)
        assert {k: v for k, v in body["summary"].items() if v} == dict(outcomes)
        if outcomes["failed"]:
            assert f"{outcomes['failed']} failed" in body["error"]
        else:
            assert body["status"] == (400 if outcomes["unmirrored"] else 200)
            assert body["dry_run"] is scene.dry_run
        made = Counter(item.target_id for item in expected if item.outcome == "created")
        before = {session["TrafficMirrorSessionId"] for session in world.sessions}
        after = [s for s in account.sessions() if s["TrafficMirrorSessionId"] not in before]
        assert Counter(session["TrafficMirrorTargetId"] for session in after) == made


# --------------------------------------------------------------------------------------
# The model itself
# --------------------------------------------------------------------------------------


def defaults(**more: Any) -> dict[str, Any]:
    """Settings with the defaults of the function."""
    return {
        "targets": ["t1"],
        "local_zone_only": True,
        "local_vpc_only": False,
        "allow_unverified": False,
        "include_tags": [],
        "exclude_tags": [],
        **more,
    }


def small_interface(name: str, zone: str, subnet: str, address: str, **more: Any) -> dict[str, Any]:
    """An interface in the VPC `v`, with the open group `g` unless told otherwise."""
    return {
        "NetworkInterfaceId": name,
        "AvailabilityZone": zone,
        "SubnetId": subnet,
        "VpcId": "v",
        "PrivateIpAddress": address,
        "Groups": [{"GroupId": "g"}],
        "InterfaceType": "interface",
        **more,
    }


def small_world(*sensors: dict[str, Any], sessions: tuple[str, ...] = ()) -> World:
    """One source `e` in zone `z` and sensors t1, t2, ... on these interfaces."""
    source = small_interface("e", "z", "s", "10.0.0.1")
    attached = {**source, "Attachment": {"DeviceIndex": 0}}
    del attached["AvailabilityZone"]
    entry = {
        "Egress": False,
        "Protocol": "-1",
        "CidrBlock": "0.0.0.0/0",
        "RuleNumber": 1,
        "RuleAction": "allow",
    }
    return World(
        account="1",
        reservations=[
            {
                "OwnerId": "1",
                "Instances": [
                    {
                        "InstanceId": "i",
                        "InstanceType": "m5.large",
                        "State": {"Name": "running"},
                        "Placement": {"AvailabilityZone": "z"},
                        "NetworkInterfaces": [attached],
                    }
                ],
            }
        ],
        interfaces=[source, *sensors],
        targets=[
            {
                "TrafficMirrorTargetId": f"t{number}",
                "NetworkInterfaceId": sensor["NetworkInterfaceId"],
                "OwnerId": "1",
            }
            for number, sensor in enumerate(sensors, 1)
        ],
        sessions=[
            {
                "TrafficMirrorSessionId": "x",
                "TrafficMirrorTargetId": target,
                "NetworkInterfaceId": "y",
            }
            for target in sessions
        ],
        groups=[
            {
                "GroupId": "g",
                "IpPermissions": [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}],
            },
            {"GroupId": "closed", "IpPermissions": []},
        ],
        acls=[
            {
                "Associations": [{"SubnetId": "s"}, {"SubnetId": "s2"}],
                "Entries": [entry, {**entry, "Egress": True}],
            },
            {"Associations": [{"SubnetId": "denied"}], "Entries": []},
        ],
    )


# Machines are slow at times, and a test should not fail only sometimes.
steady = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def verdicts(result: ExpectedInterface) -> list[str]:
    """The verdicts in one word each."""
    return [sensor.stage or sensor.verdict for sensor in result.sensors or []]


def test_the_model_prefers_the_zone_and_the_fewest_sessions() -> None:
    world = small_world(
        small_interface("e1", "z", "s", "10.0.0.2"),
        small_interface("e2", "z", "s2", "10.0.1.2"),
        small_interface("e3", "y", "s2", "10.0.1.3"),
        sessions=("t1",),
    )
    names = ["t1", "t2", "t3"]
    for local in (True, False):
        [result] = expect(world, defaults(targets=names, local_zone_only=local), ["i"])
        assert (result.outcome, result.target_id) == ("created", "t2")
        assert verdicts(result) == ["eligible", "selected", "zone"]


def test_the_model_falls_back_to_other_zones_only_if_allowed() -> None:
    world = small_world(
        small_interface("e1", "z", "s2", "10.0.0.2", Groups=[{"GroupId": "closed"}]),
        small_interface("e2", "z", "denied", "10.0.1.2"),
        small_interface("e3", "z", "s", "10.0.1.3"),
        small_interface("e4", "y", "s2", "10.0.1.4"),
    )
    names = ["t1", "t2", "t3", "t4"]
    full = Limits(sources={"t3": 0})
    [result] = expect(world, defaults(targets=names), ["i"], full)
    assert (result.outcome, result.target_id) == ("unmirrored", None)
    assert verdicts(result) == ["security_group", "network_acl", "create", "zone"]
    [result] = expect(world, defaults(targets=names, local_zone_only=False), ["i"], full)
    assert (result.outcome, result.target_id) == ("created", "t4")
    assert verdicts(result) == ["security_group", "network_acl", "create", "selected"]


def test_the_model_uses_unverified_sensors_last() -> None:
    world = small_world(
        small_interface("e1", "z", "s2", "10.0.0.2", Groups=[{"GroupId": "unseen"}]),
        small_interface("e2", "z", "s2", "10.0.1.2"),
    )
    world.targets.append(
        {"TrafficMirrorTargetId": "t3", "NetworkInterfaceId": "e3", "OwnerId": "other"}
    )
    session = {"TrafficMirrorSessionId": "x", "NetworkInterfaceId": "y"}
    world.sessions.append({**session, "TrafficMirrorTargetId": "t3"})
    names = ["t1", "t2", "t3"]
    allowed = defaults(targets=names, allow_unverified=True)
    [result] = expect(world, allowed, ["i"])
    assert verdicts(result) == ["unavailable", "selected", "unavailable"]
    [result] = expect(world, allowed, ["i"], Limits(sources={"t1": 0, "t2": 0}))
    assert verdicts(result) == ["create", "create", "selected"]
    [result] = expect(world, defaults(targets=names), ["i"], Limits(sources={"t2": 0}))
    assert verdicts(result) == ["unavailable", "create", "unavailable"]


@steady
@given(rules=ip_permissions(), address=addresses(), groups=group_id_lists(), data=st.data())
def test_a_further_rule_never_closes_a_group(
    rules: list[dict[str, Any]], address: str, groups: list[str], data: st.DataObject
) -> None:
    lists = data.draw(prefix_list_entries())
    admitted = [group_rules_admit([item], address, groups, lists) for item in rules]
    assert group_rules_admit(rules, address, groups, lists) == any(admitted)


@steady
@given(entries=acl_entries(), address=addresses(), egress=st.booleans())
def test_the_first_matching_entry_decides(
    entries: list[dict[str, Any]], address: str, egress: bool
) -> None:
    first = {"RuleNumber": 0, "Egress": egress, "Protocol": "-1", "CidrBlock": f"{address}/32"}
    for action in ("allow", "deny"):
        decided = acl_allows([*entries, {**first, "RuleAction": action}], egress, address)
        assert decided is (action == "allow")
    for _ in range(2):
        entries.reverse()
        other = [entry for entry in entries if entry["Egress"] is egress]
        assert acl_allows(other, egress, address) == acl_allows(entries, egress, address)
