"""What the simulated account promises, seen through a plain boto3 client."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import botocore.session
import pytest
from botocore.config import Config
from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    ParamValidationError,
    ReadTimeoutError,
)

from aws import (
    OTHER_ACCOUNT_ID,
    Refusal,
    SimulatedAccount,
    acl_entry,
    route,
    rule,
    running_event,
    scheduled_event,
    sqs_event,
)


@pytest.fixture
def account() -> Iterator[SimulatedAccount]:
    with SimulatedAccount() as started:
        yield started


@pytest.fixture
def client(account: SimulatedAccount) -> Any:
    return account.client(retries={"total_max_attempts": 1})


def refused(call: Callable[..., Any], **parameters: Any) -> str:
    """The error code that the call meets, with its status in front: '400 InvalidParameterValue'."""
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    answer = caught.value.response
    assert answer["Error"]["Message"]
    return f"{answer['ResponseMetadata']['HTTPStatusCode']} {answer['Error']['Code']}"


def source(account: SimulatedAccount, **kwargs: Any) -> str:
    return account.interfaces_of(account.instance(**kwargs))[0]


def request(account: SimulatedAccount, target: str, **changes: Any) -> dict[str, Any]:
    parameters = {
        "NetworkInterfaceId": changes.pop("NetworkInterfaceId", None) or source(account),
        "TrafficMirrorTargetId": target,
        "TrafficMirrorFilterId": account.filter_id,
        "SessionNumber": 1,
    }
    return {**parameters, **changes}


# --- CreateTrafficMirrorSession


def test_a_session_is_created_as_asked(account: SimulatedAccount, client: Any) -> None:
    tag = {"Key": "Name", "Value": "x < y & z"}
    specification = {"ResourceType": "traffic-mirror-session", "Tags": [tag]}
    asked = request(account, account.sensor(), PacketLength=100, VirtualNetworkId=7)
    made = client.create_traffic_mirror_session(**asked, TagSpecifications=[specification])
    session = made["TrafficMirrorSession"]
    assert {**session, **asked} == session
    assert session["Tags"] == [tag]
    assert session["OwnerId"] == account.account_id
    assert client.describe_traffic_mirror_sessions()["TrafficMirrorSessions"] == [session]
    assert account.sessions(interface_id=asked["NetworkInterfaceId"]) == [session]
    assert account.sessions(target_id="tmt-other") == []


def test_aws_picks_what_is_left_open(account: SimulatedAccount, client: Any) -> None:
    plain = client.create_traffic_mirror_session(**request(account, account.sensor()))
    assert 0 <= plain["TrafficMirrorSession"]["VirtualNetworkId"] < 2**24
    assert "PacketLength" not in plain["TrafficMirrorSession"]
    balanced = request(account, account.nlb_sensor([account.subnet()]))
    made = client.create_traffic_mirror_session(**balanced)["TrafficMirrorSession"]
    assert made["PacketLength"] == 8500


# By code and case what is asked.
REFUSALS: dict[str, dict[str, Callable[[SimulatedAccount], dict[str, Any]]]] = {
    "InvalidNetworkInterfaceID.NotFound": {
        "no interface": lambda a: request(a, a.sensor(), NetworkInterfaceId=f"eni-{0:017x}")
    },
    "InvalidTrafficMirrorTargetId.NotFound": {
        "no target": lambda a: request(a, a.missing_sensor())
    },
    "InvalidTrafficMirrorFilterId.NotFound": {
        "no filter": lambda a: request(a, a.sensor(), TrafficMirrorFilterId=f"tmf-{0:017x}")
    },
    "InvalidTrafficMirrorTarget": {
        "sensor stopped": lambda a: request(a, a.sensor(state="stopped")),
        "sensor pending": lambda a: request(a, a.sensor(state="pending")),
        "sensor terminated": lambda a: request(a, a.sensor(state="terminated")),
    },
    "InterfaceInUseByTrafficMirrorTarget": {
        "source is a target": lambda a: request(
            a, a.sensor(), NetworkInterfaceId=a.sensor_interface(a.sensor())
        )
    },
    "NetworkInterfaceNotSupported": {
        "source not attached": lambda a: request(a, a.sensor(), NetworkInterfaceId=a.interface())
    },
    "TrafficMirrorSourcesPerTargetLimitExceeded": {
        "target full": lambda a: request(a, a.sensor(quota=4, sessions=4))
    },
    "TrafficMirrorSessionsPerTargetLimitExceeded": {
        "target with too many sessions": lambda a: (
            target := a.sensor(sessions=2),
            a.session_quota.update({target: 2}),
            request(a, target),
        )[-1]
    },
    "TrafficMirrorSessionLimitExceeded": {
        "account full": lambda a: (
            setattr(a, "account_quota", 3),
            request(a, a.sensor(sessions=3)),
        )[-1]
    },
    "InvalidParameterValue": {
        "source of another type": lambda a: request(
            a, a.sensor(), NetworkInterfaceId=source(a, interface_type="efa")
        ),
        "source without IPv4": lambda a: request(
            a, a.sensor(), NetworkInterfaceId=source(a, ipv6_only=True)
        ),
        "session number 0": lambda a: request(a, a.sensor(), SessionNumber=0),
        "session number 32767": lambda a: request(a, a.sensor(), SessionNumber=32767),
        "network identifier -1": lambda a: request(a, a.sensor(), VirtualNetworkId=-1),
        "network identifier 2^24": lambda a: request(a, a.sensor(), VirtualNetworkId=2**24),
        "packet length 0": lambda a: request(a, a.sensor(), PacketLength=0),
        "packet length 8501": lambda a: request(a, a.sensor(), PacketLength=8501),
    },
}


@pytest.mark.parametrize(
    ("code", "case"), [(code, case) for code, cases in REFUSALS.items() for case in cases]
)
def test_create_is_refused(account: SimulatedAccount, client: Any, code: str, case: str) -> None:
    parameters = REFUSALS[code][case](account)
    before = account.sessions()
    assert refused(client.create_traffic_mirror_session, **parameters) == f"400 {code}"
    assert account.sessions() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"SessionNumber": 32766},
        {"VirtualNetworkId": 0},
        {"VirtualNetworkId": 2**24 - 1},
        {"PacketLength": 1},
        {"PacketLength": 8500},
    ],
)
def test_limits_are_inclusive(
    account: SimulatedAccount, client: Any, changes: dict[str, Any]
) -> None:
    client.create_traffic_mirror_session(**request(account, account.sensor(), **changes))


def test_unsupported_sources(account: SimulatedAccount, client: Any) -> None:
    target = account.sensor()
    account.unsupported_types = {"t2.micro"}
    first, second = account.interfaces_of(account.instance(interfaces=2))
    account.unsupported_interfaces = {second}
    create = client.create_traffic_mirror_session
    for interface in (source(account, instance_type="t2.micro"), second):
        asked = request(account, target, NetworkInterfaceId=interface)
        assert refused(create, **asked) == "400 NetworkInterfaceNotSupported"
    create(**request(account, target, NetworkInterfaceId=first))


def test_interfaces_become_known_late(account: SimulatedAccount, client: Any) -> None:
    asked = request(account, account.sensor())
    account.unknown_interfaces[asked["NetworkInterfaceId"]] = 2
    for _ in range(2):
        code = refused(client.create_traffic_mirror_session, **asked)
        assert code == "400 InvalidNetworkInterfaceID.NotFound"
    client.create_traffic_mirror_session(**asked)


def test_any_refusal(account: SimulatedAccount, client: Any) -> None:
    target = account.sensor()
    asked = request(account, target)
    account.refuse(asked["NetworkInterfaceId"], "AuthFailure", "Not yours.", status=403)
    client.create_traffic_mirror_session(**request(account, target))
    assert refused(client.create_traffic_mirror_session, **asked) == "403 AuthFailure"
    client.create_traffic_mirror_session(**asked)


def test_sessions_of_one_interface(account: SimulatedAccount, client: Any) -> None:
    asked = request(account, account.sensor(quota=1))
    for number in (1, 2, 3):  # one source, so the target's quota of one source is kept
        client.create_traffic_mirror_session(**{**asked, "SessionNumber": number})
    assert refused(client.create_traffic_mirror_session, **asked) == "400 InvalidParameterValue"
    code = refused(client.create_traffic_mirror_session, **{**asked, "SessionNumber": 4})
    assert code == "400 TrafficMirrorSessionsPerInterfaceLimitExceeded"


@pytest.mark.parametrize("kind", ["nlb", "gwlb"])
def test_load_balancers_have_no_quota(account: SimulatedAccount, client: Any, kind: str) -> None:
    subnets = [account.subnet("a"), account.subnet("b")]
    target = account.nlb_sensor(subnets) if kind == "nlb" else account.gwlb_sensor(subnets)
    account._load(target, 500)
    client.create_traffic_mirror_session(**request(account, target))
    account.delete_sensor_interface(target)
    code = refused(client.create_traffic_mirror_session, **request(account, target))
    assert code == "400 InvalidTrafficMirrorTarget"


def test_unattached_and_foreign_sensors_are_usable(account: SimulatedAccount, client: Any) -> None:
    for target in (account.sensor(attached=False), account.foreign_sensor()):
        client.create_traffic_mirror_session(**request(account, target))


def test_client_token(account: SimulatedAccount, client: Any) -> None:
    asked = request(account, account.sensor(), ClientToken="token")
    first = client.create_traffic_mirror_session(**asked)
    again = client.create_traffic_mirror_session(**asked)
    assert again["TrafficMirrorSession"] == first["TrafficMirrorSession"]
    assert len(account.sessions()) == 1
    asked["SessionNumber"] = 2
    code = refused(client.create_traffic_mirror_session, **asked)
    assert code == "400 IdempotentParameterMismatch"
    del asked["ClientToken"]
    client.create_traffic_mirror_session(**asked)


def test_a_refused_token_may_be_used_again(account: SimulatedAccount, client: Any) -> None:
    target = account.sensor(state="stopped")
    asked = request(account, target, ClientToken="token")
    refused(client.create_traffic_mirror_session, **asked)
    account.set_state(account.sensor_instance(target), "running")
    client.create_traffic_mirror_session(**asked)


def test_creates_are_atomic(account: SimulatedAccount, client: Any) -> None:
    target = account.sensor(quota=10)
    interfaces = [account.interfaces_of(i)[0] for i in account.instances(40)]

    def create(interface: str) -> bool:
        try:
            client.create_traffic_mirror_session(
                **request(account, target, NetworkInterfaceId=interface)
            )
        except ClientError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(create, interfaces)) == 10
    assert len(account.sessions(target_id=target)) == 10
    assert account.count("CreateTrafficMirrorSession") == 40


def test_sessions_go_with_their_interface(account: SimulatedAccount, client: Any) -> None:
    target = account.sensor(sessions=1)
    instances = [account.instance(interfaces=2) for _ in range(3)]
    for instance in instances:
        for interface in account.interfaces_of(instance):
            account.session(interface, target)
    assert len(account.sessions()) == 7
    account.terminate(instances[0])
    assert len(account.sessions()) == 5
    account.ec2.terminate_instances(InstanceIds=[instances[1]])
    assert len(account.sessions()) == 3
    account.delete_interface(account.interfaces_of(instances[2])[1])
    assert len(account.sessions()) == 2
    account.delete_session(account.sessions()[-1]["TrafficMirrorSessionId"])
    assert len(account.sessions()) == 1
    account.delete_sensor_interface(target)  # the target's side leaves them alone
    assert len(account.sessions()) == 1
    gone = client.describe_instances(InstanceIds=instances[:1])["Reservations"][0]["Instances"][0]
    assert gone["State"]["Name"] == "terminated"
    assert gone["NetworkInterfaces"] == []
    assert "SubnetId" not in gone


# --- Describe*


def shape(kind: str) -> tuple[str, str, str]:
    return {
        "i": ("describe_instances", "InstanceIds", "InvalidInstanceID.NotFound"),
        "eni": (
            "describe_network_interfaces",
            "NetworkInterfaceIds",
            "InvalidNetworkInterfaceID.NotFound",
        ),
        "sg": ("describe_security_groups", "GroupIds", "InvalidGroup.NotFound"),
        "acl": ("describe_network_acls", "NetworkAclIds", "InvalidNetworkAclID.NotFound"),
        "tmt": (
            "describe_traffic_mirror_targets",
            "TrafficMirrorTargetIds",
            "InvalidTrafficMirrorTargetId.NotFound",
        ),
        "tms": (
            "describe_traffic_mirror_sessions",
            "TrafficMirrorSessionIds",
            "InvalidTrafficMirrorSessionId.NotFound",
        ),
        "rtb": ("describe_route_tables", "RouteTableIds", "InvalidRouteTableID.NotFound"),
    }[kind]


KINDS = ["i", "eni", "sg", "acl", "tmt", "tms", "rtb"]
FILTERS = {
    "i": "instance-id",
    "eni": "network-interface-id",
    "sg": "group-id",
    "acl": "vpc-id",
    "tmt": "traffic-mirror-target-id",
    "tms": "network-interface-id",
    "rtb": "vpc-id",
}


def listed(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The resources of one answer of Describe*; instances without their reservations."""
    found = next(value for value in answer.values() if isinstance(value, list))
    if "Reservations" in answer:
        return [instance for reservation in found for instance in reservation["Instances"]]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_ids(account: SimulatedAccount, client: Any, kind: str) -> None:
    target = account.sensor(sessions=1)
    known = {
        "i": account.sensor_instance(target),
        "eni": account.sensor_interface(target),
        "sg": account.group(),
        "acl": account.acl(account.subnet(), []),
        "tmt": target,
        "tms": account.sessions()[0]["TrafficMirrorSessionId"],
        "rtb": account.route_table(),
    }[kind]
    operation, parameter, code = shape(kind)
    call, unknown = getattr(client, operation), f"{kind}-{0:017x}"
    assert len(listed(call(**{parameter: [known]}))) == 1
    assert refused(call, **{parameter: [known, unknown]}) == f"400 {code}"
    assert refused(call, **{parameter: ["nonsense"]}).endswith(".Malformed")
    value = {
        "acl": account.default_vpc,
        "rtb": account.default_vpc,
        "tms": account.sessions()[0]["NetworkInterfaceId"],
    }.get(kind, known)
    by_filter = [{"Name": FILTERS[kind], "Values": [unknown, value]}]
    assert known in str(call(Filters=by_filter))
    assert refused(call, Filters=[{"Name": "no-such", "Values": ["x"]}]) == (
        "400 InvalidParameterValue"
    )
    many = [{"Name": FILTERS[kind], "Values": [f"{kind}-{n:017x}" for n in range(201)]}]
    assert refused(call, Filters=many) == "400 FilterLimitExceeded"
    many[0]["Values"] = many[0]["Values"][:200]
    assert listed(call(Filters=many)) == []
    unchecked = account.client(parameter_validation=False)  # botocore knows the lower bound
    assert refused(getattr(unchecked, operation), MaxResults=4) == "400 InvalidParameterValue"
    most = 100 if kind == "rtb" else 1000
    assert refused(call, MaxResults=most + 1) == "400 InvalidParameterValue"
    assert refused(call, NextToken="made-up") == "400 InvalidPaginationToken"
    if kind in ("i", "eni"):
        code = refused(call, MaxResults=5, **{parameter: [known]})
        assert code == "400 InvalidParameterCombination"
    account.hide(known)
    assert known not in str(call(Filters=by_filter))
    assert known in str(getattr(account.ec2, operation)(Filters=by_filter))
    assert ".NotFound" in refused(call, **{parameter: [known]})


@pytest.mark.parametrize("kind", ["i", "eni", "tmt"])
def test_an_unknown_id_is_named(account: SimulatedAccount, client: Any, kind: str) -> None:
    noun = {"i": "instance", "eni": "networkInterface", "tmt": "traffic mirror target"}[kind]
    operation, parameter, _ = shape(kind)
    call, (one, other) = getattr(client, operation), (f"{kind}-{n:017x}" for n in (1, 2))
    for ids, message in (
        ([one], f"The {noun} ID '{one}' does not exist"),
        ([one, other], f"The {noun} IDs '{one}, {other}' do not exist"),
        ([one, f"{kind}-no"], f'Invalid id: "{kind}-no" (expecting "{kind}-...")'),
    ):
        with pytest.raises(ClientError) as caught:
            call(**{parameter: ids})
        assert caught.value.response["Error"]["Message"] == message


@pytest.mark.parametrize("kind", KINDS)
def test_pages(account: SimulatedAccount, client: Any, kind: str) -> None:
    build: dict[str, Callable[[], object]] = {
        "i": lambda: account.instances(12),
        "eni": lambda: [account.interface() for _ in range(12)],
        "sg": lambda: [account.group() for _ in range(12)],
        "acl": lambda: [account.acl(account.subnet(), []) for _ in range(12)],
        "tmt": lambda: [account.sensor() for _ in range(12)],
        "tms": lambda: account.sensor(sessions=12),
        "rtb": lambda: [account.route_table() for _ in range(12)],
    }
    build[kind]()
    operation, _, _ = shape(kind)
    call = getattr(client, operation)
    first = call(MaxResults=5)
    assert len(listed(first)) == 5
    second = call(MaxResults=5, NextToken=first["NextToken"])
    assert listed(call(MaxResults=5, NextToken=first["NextToken"])) == listed(second)
    pages = client.get_paginator(operation).paginate(PaginationConfig={"PageSize": 5})
    found = [item for page in pages for item in listed(page)]
    assert found == listed(getattr(account.ec2, operation)())
    assert len(found) >= 12
    other = [{"Name": FILTERS[kind], "Values": ["*"]}]
    code = refused(call, MaxResults=5, NextToken=first["NextToken"], Filters=other)
    assert code == "400 InvalidPaginationToken"


def test_instance_pages_count_instances(account: SimulatedAccount, client: Any) -> None:
    account.instances(7)
    account.instance()
    sizes = [
        [len(reservation["Instances"]) for reservation in page["Reservations"]]
        for page in client.get_paginator("describe_instances").paginate(
            PaginationConfig={"PageSize": 5}
        )
    ]
    assert sizes == [[5], [2, 1]]


def test_what_goes_between_two_pages_is_not_shown(account: SimulatedAccount, client: Any) -> None:
    account.sensor(sessions=10)
    first = client.describe_traffic_mirror_sessions(MaxResults=5)
    account.delete_session(account.sessions()[9]["TrafficMirrorSessionId"])
    rest = client.describe_traffic_mirror_sessions(MaxResults=5, NextToken=first["NextToken"])
    assert len(rest["TrafficMirrorSessions"]) == 4


def test_prefix_list_pages(account: SimulatedAccount, client: Any) -> None:
    cidrs = [f"10.0.{n}.0/24" for n in range(150)]
    call, name = client.get_managed_prefix_list_entries, account.prefix_list(*cidrs)
    first = call(PrefixListId=name)
    assert len(first["Entries"]) == 100
    rest = call(PrefixListId=name, NextToken=first["NextToken"])
    assert [e["Cidr"] for e in first["Entries"] + rest["Entries"]] == cidrs
    assert refused(call, PrefixListId=name, MaxResults=101) == "400 InvalidParameterValue"
    assert len(call(PrefixListId=name, MaxResults=1)["Entries"]) == 1
    unknown = "pl-00000000000000000"
    assert refused(call, PrefixListId=unknown) == "400 InvalidPrefixListID.NotFound"


@pytest.mark.parametrize(
    ("value", "matches"),
    [
        ("ELB net/a.b/1", True),
        ("ELB net/*", True),
        ("*/a?b/*", True),
        ("ELB net/a?/1", False),
        ("elb net/*", False),
        ("ELB net/a.b", False),
        (r"ELB net/a.b/\*", False),
    ],
)
def test_wildcards(account: SimulatedAccount, client: Any, value: str, matches: bool) -> None:
    account.interface(description="ELB net/a.b/1")
    found = client.describe_network_interfaces(Filters=[{"Name": "description", "Values": [value]}])
    assert bool(found["NetworkInterfaces"]) is matches


def test_instances_and_their_interfaces(account: SimulatedAccount, client: Any) -> None:
    subnet, group = account.subnet("b"), account.group()
    instance = account.instance(subnet, [group], interfaces=3, instance_type="c5.xlarge")
    (found,) = listed(client.describe_instances(InstanceIds=[instance]))
    assert found["InstanceType"] == "c5.xlarge"
    assert found["State"] == {"Code": 16, "Name": "running"}
    assert found["Placement"]["AvailabilityZone"] == "us-east-1b"
    interfaces = found["NetworkInterfaces"]
    assert [i["NetworkInterfaceId"] for i in interfaces] == account.interfaces_of(instance)
    assert [i["Attachment"]["DeviceIndex"] for i in interfaces] == [0, 1, 2]
    assert {i["SubnetId"] for i in interfaces} == {subnet}
    assert {g["GroupId"] for i in interfaces for g in i["Groups"]} == {group}
    assert len({i["PrivateIpAddress"] for i in interfaces}) == 3
    assert not any("Association" in i for i in interfaces)
    ids = account.interfaces_of(instance)
    described = client.describe_network_interfaces(NetworkInterfaceIds=ids)["NetworkInterfaces"]
    assert [i["NetworkInterfaceId"] for i in described] == account.interfaces_of(instance)
    assert {i["AvailabilityZone"] for i in described} == {"us-east-1b"}
    assert {i["Attachment"]["InstanceId"] for i in described} == {instance}


def test_addresses(account: SimulatedAccount, client: Any) -> None:
    subnet = account.subnet(cidr="10.0.7.0/24")
    chosen = account.interface(subnet, address="10.0.7.9")
    instance = account.instance(subnet, address="10.0.7.10")
    for interface, address in (
        (chosen, "10.0.7.9"),
        (account.interfaces_of(instance)[0], "10.0.7.10"),
    ):
        found = client.describe_network_interfaces(NetworkInterfaceIds=[interface])
        assert found["NetworkInterfaces"][0]["PrivateIpAddress"] == address
    account.instances(30, subnet)
    addresses = [
        interface["PrivateIpAddress"]
        for interface in client.describe_network_interfaces()["NetworkInterfaces"]
    ]
    assert len(set(addresses)) == len(addresses) == 32
    bare = client.describe_instances(InstanceIds=[account.instance(ipv6_only=True)])
    (interface,) = listed(bare)[0]["NetworkInterfaces"]
    assert "PrivateIpAddress" not in interface
    assert interface["PrivateIpAddresses"] == []
    assert interface["Ipv6Addresses"]


def test_managed_instances_are_hidden(account: SimulatedAccount, client: Any) -> None:
    target = account.sensor(managed="ecs.amazonaws.com")
    hidden = {account.instance(managed=True, interfaces=2), account.sensor_instance(target)}
    shown = {account.instance()}
    for call, ids, key, all_hidden, all_shown in (
        (client.describe_instances, "InstanceIds", "InstanceId", hidden, shown),
        (
            client.describe_network_interfaces,
            "NetworkInterfaceIds",
            "NetworkInterfaceId",
            {n for i in hidden for n in account.interfaces_of(i)},
            {n for i in shown for n in account.interfaces_of(i)},
        ),
    ):

        def found(call: Any = call, key: str = key, **parameters: Any) -> set[str]:
            return {row[key] for row in listed(call(**parameters))}

        filters = [{"Name": FILTERS["i" if key == "InstanceId" else "eni"], "Values": ["*"]}]
        everything = all_hidden | all_shown
        assert found() == found(Filters=filters) == all_shown
        assert found(IncludeManagedResources=False) == all_shown
        assert found(IncludeManagedResources=True) == everything
        assert found(IncludeManagedResources=True, Filters=filters) == everything
        assert found(**{ids: sorted(everything)}) == everything
        assert found(**{ids: sorted(everything)}, Filters=filters) == everything
        views = listed(call(IncludeManagedResources=True))
        assert {row[key] for row in views if row["Operator"]["Managed"]} == all_hidden
    assert {
        row["Operator"].get("Principal") for row in listed(account.ec2.describe_instances())
    } == {None, "eks.amazonaws.com", "ecs.amazonaws.com"}


def test_an_old_botocore(account: SimulatedAccount, client: Any) -> None:
    account.sensor()
    calls = (client.describe_instances, client.describe_network_interfaces)
    with account.old_botocore("IncludeManagedResources"):
        for call in calls:
            with pytest.raises(ParamValidationError, match="IncludeManagedResources"):
                call(IncludeManagedResources=True)
            assert "AvailabilityZoneId" in str(call())
        model = boto3.client("ec2").meta.service_model.operation_model("DescribeInstances")
        assert "IncludeManagedResources" not in model.input_shape.members
    with account.old_botocore("AvailabilityZoneId", "IncludeManagedResources"):
        for call in calls:
            assert "AvailabilityZoneId" not in str(call())
            assert "'AvailabilityZone': 'us-east-1a'" in str(call())
    for call in calls:
        assert "'AvailabilityZoneId': 'use1-az6'" in str(call(IncludeManagedResources=True))


def test_what_every_row_carries(account: SimulatedAccount, client: Any) -> None:
    """Nothing that AWS always sends is missing, and an empty list is a list."""
    account.sensor(groups=[account.group()], sessions=1)
    account.gwlb_sensor([account.subnet()])
    rows = {
        "reservation": client.describe_instances()["Reservations"],
        "instance": listed(client.describe_instances()),
        "interface": client.describe_network_interfaces()["NetworkInterfaces"],
        "group": client.describe_security_groups()["SecurityGroups"],
        "acl": client.describe_network_acls()["NetworkAcls"],
        "target": client.describe_traffic_mirror_targets()["TrafficMirrorTargets"],
        "session": client.describe_traffic_mirror_sessions()["TrafficMirrorSessions"],
    }
    for kind, fields in {
        "reservation": "OwnerId Groups Instances",
        "instance": "InstanceId InstanceType State VpcId SubnetId NetworkInterfaces Operator",
        "interface": "OwnerId InterfaceType VpcId SubnetId Groups PrivateIpAddresses Operator "
        "Ipv6Addresses TagSet AvailabilityZone AvailabilityZoneId Status",
        "group": "OwnerId VpcId IpPermissions IpPermissionsEgress",
        "acl": "OwnerId VpcId Entries Associations Tags IsDefault",
        "target": "OwnerId Type Tags",
        "session": "OwnerId SessionNumber Tags",
    }.items():
        assert rows[kind]
        for row in rows[kind]:
            assert set(fields.split()) <= set(row), kind
            assert row.get("OwnerId", account.account_id) == account.account_id
    (instance,) = rows["instance"]
    assert instance["Placement"]["AvailabilityZoneId"] == "use1-az6"
    assert instance["NetworkInterfaces"][0]["InterfaceType"] == "interface"
    account.interface_owners[rows["interface"][0]["NetworkInterfaceId"]] = OTHER_ACCOUNT_ID
    (instance,) = listed(client.describe_instances())
    assert instance["NetworkInterfaces"][0]["OwnerId"] == OTHER_ACCOUNT_ID
    assert [] in [row["Groups"] for row in rows["interface"]]
    assert [] in [row["IpPermissions"] for row in rows["group"]]


def permissions(client: Any, group: str) -> list[dict[str, Any]]:
    found = client.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    return [{key: value for key, value in item.items() if value != []} for item in found]


def test_rules(account: SimulatedAccount, client: Any) -> None:
    other, names = account.group(), account.prefix_list("10.0.0.0/8")
    ports = {"IpProtocol": "udp", "FromPort": 4789, "ToPort": 4789}
    assert permissions(client, account.group(rule(), rule(protocol="17", cidr="10.0.0.0/8"))) == [
        {**ports, "IpRanges": [{"CidrIp": "0.0.0.0/0"}, {"CidrIp": "10.0.0.0/8"}]}
    ]
    assert permissions(client, account.group(rule(protocol="-1", cidr="::/0"))) == [
        {"IpProtocol": "-1", "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}
    ]
    assert permissions(client, account.group(rule(group=other))) == [
        {**ports, "UserIdGroupPairs": [{"GroupId": other, "UserId": account.account_id}]}
    ]
    assert permissions(client, account.group(rule(prefix_list=names))) == [
        {**ports, "PrefixListIds": [{"PrefixListId": names}]}
    ]
    (item,) = permissions(
        client, account.group(rule("tcp", (1, 9), group=other, peering="deleted"))
    )
    assert (item["IpProtocol"], item["FromPort"], item["ToPort"]) == ("tcp", 1, 9)
    assert item["UserIdGroupPairs"][0]["PeeringStatus"] == "deleted"
    assert item["UserIdGroupPairs"][0]["VpcPeeringConnectionId"].startswith("pcx-")


def test_references_to_groups_elsewhere(account: SimulatedAccount, client: Any) -> None:
    group = {"GroupId": "sg-0123456789abcdef0"}
    for item, pair in (
        (
            rule(group="sg-0123456789abcdef0", peering="active", vpc="vpc-1", owner="2" * 12),
            {"PeeringStatus": "active", "VpcId": "vpc-1", "UserId": "2" * 12},
        ),
        (
            rule(group="sg-0123456789abcdef0", vpc="vpc-1"),
            {"VpcId": "vpc-1", "UserId": account.account_id},
        ),
    ):
        ((shown,),) = [p["UserIdGroupPairs"] for p in permissions(client, account.group(item))]
        shown.pop("VpcPeeringConnectionId", None)
        assert shown == {**group, **pair}


NEXT_HOPS = [
    (route("10.9.0.0/16", igw="igw-1"), {"GatewayId": "igw-1"}),
    (route("10.9.0.0/16", local=True), {"GatewayId": "local", "Origin": "CreateRouteTable"}),
    (
        route("10.9.0.0/16", vgw="vgw-1", propagated=True),
        {"GatewayId": "vgw-1", "Origin": "EnableVgwRoutePropagation"},
    ),
    (route("10.9.0.0/16", vpce="vpce-1"), {"GatewayId": "vpce-1"}),
    (route("10.9.0.0/16", nat="nat-1"), {"NatGatewayId": "nat-1"}),
    (
        route("10.9.0.0/16", tgw="tgw-1", state="blackhole"),
        {"TransitGatewayId": "tgw-1", "State": "blackhole"},
    ),
    (route("10.9.0.0/16", tgw=True), {"TransitGatewayId": "tgw-0123456789abcdef0"}),
    (route("10.9.0.0/16", pcx="pcx-1"), {"VpcPeeringConnectionId": "pcx-1"}),
    (route("10.9.0.0/16", eni="eni-1"), {"NetworkInterfaceId": "eni-1"}),
    (route("10.9.0.0/16", cagw="cagw-1"), {"CarrierGatewayId": "cagw-1"}),
    (route("10.9.0.0/16", lgw="lgw-1"), {"LocalGatewayId": "lgw-1"}),
    (route("::/0", eigw="eigw-1"), {"EgressOnlyInternetGatewayId": "eigw-1"}),
    (route("pl-1", core_network="arn:x"), {"CoreNetworkArn": "arn:x"}),
]


def test_routes_and_their_next_hops(account: SimulatedAccount, client: Any) -> None:
    router = account.instance()
    account.route_table(routes=[*(r for r, _ in NEXT_HOPS), route("0.0.0.0/0", instance=router)])
    tables = client.describe_route_tables()["RouteTables"]
    (routes,) = [t["Routes"] for t in tables if len(t["Routes"]) > 1]
    local, *rows, last = routes
    assert local == {
        "DestinationCidrBlock": "10.0.0.0/16",
        "GatewayId": "local",
        "State": "active",
        "Origin": "CreateRouteTable",
    }
    for row, (_, hop) in zip(rows, NEXT_HOPS, strict=True):
        (destination,) = [key for key in row if key.startswith("Destination")]
        assert {key: row[key] for key in row if key != destination} == {
            "State": "active",
            "Origin": "CreateRoute",
            **hop,
        }
    assert rows[-1]["DestinationPrefixListId"] == "pl-1"
    assert rows[-2]["DestinationIpv6CidrBlock"] == "::/0"
    assert (last["InstanceId"], [last["NetworkInterfaceId"]]) == (
        router,
        account.interfaces_of(router),
    )


def test_which_table_is_whose(account: SimulatedAccount, client: Any) -> None:
    subnets = [account.subnet() for _ in range(3)]
    elsewhere = account.vpc()
    first = account.route_table(subnets=subnets[:2])
    second = account.route_table(subnets=subnets[1:2], gateways=["igw-1"], main=True)

    def associations(vpc: str) -> dict[str, list[dict[str, Any]]]:
        by_vpc = [{"Name": "vpc-id", "Values": [vpc]}]
        return {
            table["RouteTableId"]: [
                {k: a[k] for k in ("Main", "SubnetId", "GatewayId") if k in a}
                for a in table["Associations"]
            ]
            for table in client.describe_route_tables(Filters=by_vpc)["RouteTables"]
        }

    here = associations(account.default_vpc)
    assert here.pop(first) == [{"Main": False, "SubnetId": subnets[0]}]
    assert here.pop(second) == [
        {"Main": True},
        {"Main": False, "SubnetId": subnets[1]},
        {"Main": False, "GatewayId": "igw-1"},
    ]
    assert list(here.values()) == [[]]  # the VPC's first one is the main one no more
    assert list(associations(elsewhere).values()) == [[{"Main": True}]]


def test_acls(account: SimulatedAccount, client: Any) -> None:
    entries = [
        acl_entry(200, "allow", "10.0.0.0/8"),
        acl_entry(100, "deny", "10.1.0.0/16", protocol="-1", egress=True),
        acl_entry(150, "allow", "::/0", ports=(1, 5000)),
    ]
    subnet = account.subnet(acl=entries)

    def acl_of(subnet: str) -> dict[str, Any]:
        acls = client.describe_network_acls()["NetworkAcls"]
        return next(acl for acl in acls if subnet in str(acl["Associations"]))

    found = acl_of(subnet)
    assert found["Entries"][:3] == entries  # in the order given: AWS promises none
    assert [(e["RuleNumber"], e["Egress"], e["RuleAction"]) for e in found["Entries"][3:]] == [
        (32767, False, "deny"),
        (32767, True, "deny"),
    ]
    assert "PortRange" not in found["Entries"][1]
    default = acl_of(account.subnet())
    assert default["IsDefault"]
    assert [(e["RuleNumber"], e["Protocol"]) for e in default["Entries"] if not e["Egress"]] == [
        (100, "-1"),
        (32767, "-1"),
    ]


def test_targets(account: SimulatedAccount, client: Any) -> None:
    subnets = [account.subnet("a"), account.subnet("b")]
    group = account.group(rule())
    plain, balancer = account.sensor(), account.nlb_sensor(subnets, [group])
    endpoint, foreign = account.gwlb_sensor(subnets, colon=True), account.foreign_sensor()
    ids = [plain, balancer, endpoint, foreign]
    found = client.describe_traffic_mirror_targets(TrafficMirrorTargetIds=ids)
    views = {view["TrafficMirrorTargetId"]: view for view in found["TrafficMirrorTargets"]}
    assert views[plain]["Type"] == "network-interface"
    assert views[plain]["NetworkInterfaceId"] == account.sensor_interface(plain)
    assert views[foreign]["OwnerId"] == OTHER_ACCOUNT_ID
    assert "InvalidNetworkInterfaceID.NotFound" in refused(
        client.describe_network_interfaces,
        NetworkInterfaceIds=[views[foreign]["NetworkInterfaceId"]],
    )
    name = views[balancer]["NetworkLoadBalancerArn"].split(":loadbalancer/")[1]
    vpce = views[endpoint]["GatewayLoadBalancerEndpointId"]
    for description, kind, groups in (
        (f"ELB {name}", "network_load_balancer", {group}),
        (f"VPC Endpoint Interface: {vpce}", "gateway_load_balancer_endpoint", set()),
    ):
        by_description = [{"Name": "description", "Values": [description]}]
        described = client.describe_network_interfaces(Filters=by_description)["NetworkInterfaces"]
        assert {i["SubnetId"] for i in described} == set(subnets)
        assert {i["InterfaceType"] for i in described} == {kind}
        assert {g["GroupId"] for i in described for g in i["Groups"]} == groups
        assert not any("InstanceId" in i["Attachment"] for i in described)
    missing = account.missing_sensor()
    code = refused(client.describe_traffic_mirror_targets, TrafficMirrorTargetIds=[missing])
    assert code == "400 InvalidTrafficMirrorTargetId.NotFound"


# --- several accounts


@pytest.fixture
def other(account: SimulatedAccount) -> SimulatedAccount:
    return account.other(zones={"us-east-1a": "use1-az2", "us-east-1b": "use1-az6"})


def assume(account: SimulatedAccount, role: str, **more: Any) -> Any:
    """A client with credentials that STS gives to the account for the role."""
    sts = account.client("sts", retries={"total_max_attempts": 1})
    answer = sts.assume_role(RoleArn=role, RoleSessionName="test", **more)["Credentials"]
    return boto3.client(
        "ec2",
        aws_access_key_id=answer["AccessKeyId"],
        aws_secret_access_key=answer["SecretAccessKey"],
        aws_session_token=answer["SessionToken"],
        config=Config(retries={"total_max_attempts": 1}),
    )


def test_accounts_are_apart(account: SimulatedAccount, client: Any, other: Any) -> None:
    built = {one: (one.sensor(sessions=1), one.route_table()) for one in (account, other)}
    reader = assume(account, other.role("reader"))
    for one, clients in ((account, [client]), (other, [reader, other.client(), other.ec2])):
        target, table = built[one]
        for its in clients:
            assert str(listed(its.describe_instances())).count("'InstanceId'") == 1
            views = [
                *listed(its.describe_traffic_mirror_targets()),
                *its.describe_route_tables(RouteTableIds=[table])["RouteTables"],
                *listed(its.describe_traffic_mirror_sessions()),
            ]
            assert {view["OwnerId"] for view in views} == {one.account_id}
            assert {v.get("TrafficMirrorTargetId", target) for v in views} == {target}
    unknown = "400 InvalidRouteTableID.NotFound"
    assert refused(client.describe_route_tables, RouteTableIds=[built[other][1]]) == unknown
    vpcs = [str(its.describe_vpcs()) for its in (client, reader)]  # as moto answers it
    assert [account.default_vpc in vpc for vpc in vpcs] == [True, False]
    with pytest.raises(ValueError, match="already"):
        account.other(other.account_id)


def test_zones_are_named_by_each_account(account: SimulatedAccount, other: Any) -> None:
    shown = {}
    for one in (account, other):
        one.instance(zone="a"), one.instance(zone="use1-az1"), one.instance(zone="us-east-1b")
        for row in listed(one.client().describe_instances()):
            place = row["Placement"]
            shown[one.account_id, place["AvailabilityZone"]] = place["AvailabilityZoneId"]
        for row in one.client().describe_network_interfaces()["NetworkInterfaces"]:
            zone = row["AvailabilityZone"]
            assert row["AvailabilityZoneId"] == shown[one.account_id, zone] == one.zone_id(zone)
    here, there = account.account_id, other.account_id
    assert shown == {
        (here, "us-east-1a"): "use1-az6",
        (here, "us-east-1b"): "use1-az1",
        (there, "us-east-1a"): "use1-az2",
        (there, "us-east-1b"): "use1-az6",
        (there, "us-east-1c"): "use1-az1",
    }
    for zones in ({"a": "use1-az1", "b": "use1-az1"}, {"a": "no-zone"}):
        with pytest.raises(ValueError, match="one name"):
            account.other("3" * 12, zones=zones)


@pytest.mark.parametrize(
    ("trusts", "trusted"),
    [
        (["123456789012"], True),
        (["arn:aws:iam::123456789012:root"], True),
        (["arn:aws:iam::123456789012:role/mirror/traffic-mirror"], True),
        (["arn:aws:iam::123456789012:role/mirror/*"], True),
        (None, True),
        ([], False),
        (["210987654321"], False),
        (["arn:aws:iam::123456789012:role/traffic-mirror"], False),
        (["arn:aws:iam::210987654321:role/mirror/*"], False),
    ],
)
def test_trust(account: SimulatedAccount, other: Any, trusts: Any, trusted: bool) -> None:
    account.role_arn = "arn:aws:iam::123456789012:role/mirror/traffic-mirror"
    role = other.role("reader", trusts, path="/mirror/")
    assert role == "arn:aws:iam::210987654321:role/mirror/reader"
    if trusted:
        assert listed(assume(account, role).describe_instances()) == []
        other.roles[role].clear()
    with pytest.raises(ClientError) as caught:
        assume(account, role)
    error = caught.value.response["Error"]
    assert error["Code"] == "AccessDenied"
    assert error["Message"] == (
        "User: arn:aws:sts::123456789012:assumed-role/traffic-mirror/traffic-mirror is not "
        f"authorized to perform: sts:AssumeRole on resource: {role}"
    )


def test_what_sts_refuses(account: SimulatedAccount, other: Any) -> None:
    role = other.role("reader")
    sts = account.client("sts", retries={"total_max_attempts": 1})
    for refusal, changes in (
        ("403 AccessDenied", {"RoleArn": role + "s"}),
        ("403 AccessDenied", {"RoleArn": role.replace("2109", "9999")}),
        ("400 ValidationError", {"RoleSessionName": "a b"}),
        ("400 ValidationError", {"DurationSeconds": 3601}),  # a role that assumes a role
    ):
        asked = {"RoleArn": role, "RoleSessionName": "test", **changes}
        assert refused(sts.assume_role, **asked) == refusal
    account.deny("sts:AssumeRole")
    asked = {"RoleArn": role, "RoleSessionName": "test"}
    with pytest.raises(ClientError, match="no identity-based policy allows the sts:AssumeRole"):
        sts.assume_role(**asked)
    account.heal()
    account.fail("sts:AssumeRole", "Throttling", status=400, times=1)
    assert refused(sts.assume_role, **asked) == "400 Throttling"
    account.time_out("sts:AssumeRole", times=1, connect=True)
    with pytest.raises(ConnectTimeoutError, match=r"sts\."):
        sts.assume_role(**asked)
    sts.assume_role(**asked)
    assert account.calls[-1].parameters["RoleArn"] == role
    assert account.calls[-1].account == account.account_id
    assert account.count("sts:AssumeRole") == len(account.calls)


def test_credentials_expire(account: SimulatedAccount, other: Any) -> None:
    now = [account.clock()]
    account.clock = lambda: now[0]
    reader = assume(account, other.role("reader"), DurationSeconds=900)
    now[0] += 899
    reader.describe_instances()
    now[0] += 1
    assert refused(reader.describe_instances) == "400 RequestExpired"
    reader = assume(account, other.role("reader"))
    other.expire_credentials()
    assert refused(reader.describe_instances) == "400 RequestExpired"
    again = boto3.client(
        "sts",
        aws_access_key_id=reader._request_signer._credentials.access_key,
        aws_secret_access_key="x",
        aws_session_token=reader._request_signer._credentials.token,
    )
    asked = {"RoleArn": other.role("reader"), "RoleSessionName": "test"}
    assert refused(again.assume_role, **asked) == "403 ExpiredToken"
    stolen = boto3.client(
        "ec2",
        aws_access_key_id=reader._request_signer._credentials.access_key,
        aws_secret_access_key="x",
        aws_session_token="another",
    )
    assert refused(stolen.describe_instances) == "401 AuthFailure"
    account.client().describe_instances()


def test_an_account_misbehaves_alone(account: SimulatedAccount, client: Any, other: Any) -> None:
    reader = assume(account, other.role("reader"))
    other.fail("DescribeInstances")
    other.deny("ec2:DescribeNetworkAcls")
    asked: list[str] = []
    other.gates.append(lambda operation, parameters: asked.append(operation))
    client.describe_instances()
    client.describe_network_acls()
    assert refused(reader.describe_instances) == "503 RequestLimitExceeded"
    with pytest.raises(ClientError, match="sts::210987654321:assumed-role/reader/test is not"):
        reader.describe_network_acls()
    assert asked == ["DescribeInstances", "DescribeNetworkAcls"]
    assert other.calls is account.calls
    assert account.count("DescribeInstances") == 2
    assert account.count(account=other.account_id) == 2
    assert [call.account for call in account.calls[-2:]] == [other.account_id] * 2
    other.heal()
    account.latency, other.latency = 0.0, 0.2
    account.forget_calls()
    with ThreadPoolExecutor(2) as pool:
        pool.submit(reader.describe_instances)
        pool.submit(client.describe_instances)
    slow, quick = sorted(account.calls, key=lambda call: call.account, reverse=True)
    assert (slow.ended or 0) - slow.started >= 0.2
    assert (quick.ended or 0) < (slow.ended or 0)
    other.latency = None  # as the first
    account.latency = 0.2
    account.forget_calls()
    with ThreadPoolExecutor(2) as pool:
        pool.submit(reader.describe_instances)
        pool.submit(client.describe_instances)
    assert account.round_trips() == 1


def test_botocore_assumes_a_role_by_itself(account: SimulatedAccount, other: Any) -> None:
    """It asks anew once what it has been given runs out."""
    role, session = other.role("reader"), botocore.session.get_session()
    fetcher = AssumeRoleCredentialFetcher(
        session.create_client, session.get_credentials(), role, {"RoleSessionName": "test"}
    )
    session._credentials = DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")
    reader = session.create_client("ec2")
    account.clock = lambda: time.time() - 3000  # ten minutes left are too few for botocore
    for _ in range(2):
        assert listed(reader.describe_instances()) == []
    account.clock = time.time
    for _ in range(2):
        reader.describe_instances()
    assert [call.operation.rpartition(":")[2] for call in account.calls] == [
        *("AssumeRole", "DescribeInstances", "AssumeRole", "DescribeInstances"),
        *("AssumeRole", "DescribeInstances", "DescribeInstances"),
    ]
    assert account.count(account=other.account_id) == 4


@pytest.mark.parametrize("interface", [True, False])
def test_shared_targets(
    account: SimulatedAccount, client: Any, other: Any, interface: bool
) -> None:
    target, private = other.sensor(), other.sensor()
    third = account.other("3" * 12)
    other.share(target, account, interface=interface)
    (view,) = client.describe_traffic_mirror_targets()["TrafficMirrorTargets"]
    assert (view["TrafficMirrorTargetId"], view["OwnerId"]) == (target, other.account_id)
    assert ("NetworkInterfaceId" in view) is interface
    ids = [{"Name": "traffic-mirror-target-id", "Values": [target, private]}]
    assert len(client.describe_traffic_mirror_targets(Filters=ids)["TrafficMirrorTargets"]) == 1
    assert third.client().describe_traffic_mirror_targets()["TrafficMirrorTargets"] == []
    unknown = refused(
        client.describe_network_interfaces, NetworkInterfaceIds=[other.sensor_interface(target)]
    )
    assert unknown == "400 InvalidNetworkInterfaceID.NotFound"
    there = other.client().describe_traffic_mirror_targets()["TrafficMirrorTargets"]
    assert all("NetworkInterfaceId" in view for view in there)


def test_sessions_to_shared_targets(account: SimulatedAccount, client: Any, other: Any) -> None:
    target = other.sensor(quota=2)
    third = account.other("3" * 12)
    code = refused(client.create_traffic_mirror_session, **request(account, target))
    assert code == "400 InvalidTrafficMirrorTargetId.NotFound"
    other.share(target)
    for one in (account, third):
        created = one.client().create_traffic_mirror_session(**request(one, target))
        assert created["TrafficMirrorSession"]["OwnerId"] == one.account_id

    def owners(one: SimulatedAccount) -> set[str]:
        found = listed(one.client().describe_traffic_mirror_sessions())
        assert found == one.sessions()
        return {view["OwnerId"] for view in found}

    def check(seen_by_owner: set[str]) -> None:
        assert owners(account) == {account.account_id}
        assert owners(third) == {third.account_id}
        assert owners(other) == seen_by_owner

    check({account.account_id, third.account_id})
    full = refused(client.create_traffic_mirror_session, **request(account, target))
    assert full == "400 TrafficMirrorSourcesPerTargetLimitExceeded"
    other.unshare(target)
    assert client.describe_traffic_mirror_targets()["TrafficMirrorTargets"] == []
    check({account.account_id, third.account_id})
    other.share(target)
    other.stop(other.sensor_instance(target))
    code = refused(client.create_traffic_mirror_session, **request(account, target))
    assert code == "400 InvalidTrafficMirrorTarget"
    other.delete_target(target)
    assert client.describe_traffic_mirror_targets()["TrafficMirrorTargets"] == []
    check(set())


# --- misbehaviour


def test_failures_are_per_attempt(account: SimulatedAccount) -> None:
    client = account.client(retries={"mode": "standard", "total_max_attempts": 3})
    account.fail("DescribeSubnets", times=1, after=1)
    client.describe_subnets()
    client.describe_subnets()  # fails once, botocore tries again
    assert [call.status for call in account.calls] == [200, 503, 200]
    assert [call.code for call in account.calls] == [None, "RequestLimitExceeded", None]


def test_failures_pick_their_victims(account: SimulatedAccount, client: Any) -> None:
    account.fail("Describe*", "InternalError", status=500, where=lambda p: "MaxResults" in p)
    assert refused(client.describe_subnets, MaxResults=5) == "500 InternalError"
    assert refused(client.describe_instances, MaxResults=5) == "500 InternalError"
    client.describe_subnets()
    account.ec2.describe_subnets(MaxResults=5)
    account.heal()
    client.describe_subnets(MaxResults=5)


@pytest.mark.parametrize("connect", [False, True])
def test_timeouts(account: SimulatedAccount, client: Any, connect: bool) -> None:
    account.time_out("DescribeSubnets", times=1, connect=connect)
    with pytest.raises(ConnectTimeoutError if connect else ReadTimeoutError):
        client.describe_subnets()
    client.describe_subnets()
    assert [call.status for call in account.calls] == [None, 200]


@pytest.mark.parametrize("kind", ["timeout", "failure"])
def test_lost_answers(account: SimulatedAccount, client: Any, kind: str) -> None:
    asked = request(account, account.sensor(), ClientToken="token")
    if kind == "timeout":
        account.time_out("CreateTrafficMirrorSession", times=1, lose_answer=True)
        with pytest.raises(ReadTimeoutError):
            client.create_traffic_mirror_session(**asked)
    else:
        account.fail(
            "CreateTrafficMirrorSession", "InternalError", status=500, times=1, lose_answer=True
        )
        assert refused(client.create_traffic_mirror_session, **asked) == "500 InternalError"
    (session,) = account.sessions()
    again = client.create_traffic_mirror_session(**asked)["TrafficMirrorSession"]
    assert again == session
    assert len(account.sessions()) == 1


IDENTITY = "because no identity-based policy allows the {} action"


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ("identity-based policy", IDENTITY),
        ("service control policy", "with an explicit deny in a service control policy"),
        (None, None),
    ],
)
def test_denials(
    account: SimulatedAccount, client: Any, policy: str | None, reason: str | None
) -> None:
    asked = request(account, account.sensor())
    tags = [{"ResourceType": "traffic-mirror-session", "Tags": [{"Key": "Name", "Value": "x"}]}]
    arn = f"arn:aws:ec2:us-east-1:{account.account_id}:"
    interface = f"{arn}network-interface/{asked['NetworkInterfaceId']}"
    create = client.create_traffic_mirror_session
    for action, resource, call in (
        ("DescribeNetworkAcls", "", client.describe_network_acls),
        ("CreateTags", f"{arn}traffic-mirror-session/*", create),
        ("CreateTrafficMirrorSession", interface, create),
    ):
        account.deny(f"ec2:{action}", policy=policy)
        parameters = {**asked, "TagSpecifications": tags} if resource else {}
        with pytest.raises(ClientError) as caught:
            call(**parameters)
        answer = caught.value.response
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 403
        assert answer["Error"]["Code"] == "UnauthorizedOperation"
        said, _, encoded = answer["Error"]["Message"].partition(
            " Encoded authorization failure message: "
        )
        assert bool(encoded) is bool(resource)
        words = "You are not authorized to perform this operation."
        if reason:
            on = f" on resource: {resource}" if resource else ""
            words += f" User: arn:aws:sts::{account.account_id}:assumed-role/traffic-mirror/"
            words += f"traffic-mirror is not authorized to perform: ec2:{action}{on} "
            words += reason.format(f"ec2:{action}") + ("." if resource else "")
        assert said == words
        assert account.sessions() == []
        account.heal()
    account.deny("ec2:CreateTags")
    create(**asked)  # without tags nobody needs it


def test_dry_run(account: SimulatedAccount, client: Any) -> None:
    asked = request(account, account.sensor(), DryRun=True)
    assert refused(client.create_traffic_mirror_session, **asked) == "412 DryRunOperation"
    assert account.sessions() == []


def test_sessions_become_visible_late(account: SimulatedAccount, client: Any) -> None:
    account.session_lag = 2
    target = account.sensor(quota=1)
    asked = request(account, target)
    client.create_traffic_mirror_session(**asked)
    assert len(account.sessions()) == 1
    assert refused(client.create_traffic_mirror_session, **asked) == "400 InvalidParameterValue"
    full = refused(client.create_traffic_mirror_session, **request(account, target))
    assert full == "400 TrafficMirrorSourcesPerTargetLimitExceeded"
    elsewhere = [{"Name": "network-interface-id", "Values": ["eni-other"]}]
    client.describe_traffic_mirror_sessions(Filters=elsewhere)  # would not show it anyway
    here = [{"Name": "network-interface-id", "Values": [asked["NetworkInterfaceId"]]}]
    seen = [
        len(client.describe_traffic_mirror_sessions(Filters=here)["TrafficMirrorSessions"])
        for _ in range(3)
    ]
    assert seen == [0, 0, 1]


def test_instances_become_known_late(account: SimulatedAccount, client: Any) -> None:
    late, known = account.instances(2)
    account.unknown_instances[late] = 2
    ids = [late, known]
    assert refused(client.describe_instances, InstanceIds=ids) == "400 InvalidInstanceID.NotFound"
    client.describe_instances(InstanceIds=[known])
    assert len(listed(client.describe_instances())) == 1
    assert len(listed(client.describe_instances(InstanceIds=ids))) == 2


def test_gates(account: SimulatedAccount, client: Any) -> None:
    target = account.sensor()
    asked = request(account, target)

    def another_is_faster(operation: str, parameters: dict[str, Any]) -> None:
        if operation == "CreateTrafficMirrorSession":
            account.session(parameters["NetworkInterfaceId"], target)

    account.gates.append(another_is_faster)
    assert refused(client.create_traffic_mirror_session, **asked) == "400 InvalidParameterValue"

    def refuse(operation: str, parameters: dict[str, Any]) -> None:
        raise Refusal("Blocked", "This account is blocked.", 403)

    account.gates[:] = [refuse]
    assert refused(client.describe_vpcs) == "403 Blocked"
    assert account.ec2.describe_vpcs()["Vpcs"]


# --- the log


def test_the_log(account: SimulatedAccount, client: Any) -> None:
    account.ec2.describe_vpcs()
    assert account.calls == []
    by_state = [{"Name": "instance-state-name", "Values": ["running", "pending"]}]
    client.describe_instances(Filters=by_state, MaxResults=100)
    boto3.client("ec2").describe_vpcs()
    instances, vpcs = account.calls
    assert instances.operation == "DescribeInstances"
    assert instances.parameters == {"Filters": by_state, "MaxResults": 100}
    assert (instances.status, instances.code) == (200, None)
    assert instances.thread_id == threading.get_ident()
    assert vpcs.operation == "DescribeVpcs"
    assert instances.started <= (instances.ended or 0) <= vpcs.started
    assert account.count() == 2
    assert account.count("DescribeVpcs") == 1
    account.forget_calls()
    assert account.count() == 0
    assert account.round_trips() == 0


def test_round_trips(account: SimulatedAccount, client: Any) -> None:
    account.latency = 0.1
    begun = time.perf_counter()
    client.describe_vpcs()
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(client.describe_subnets)
    client.describe_vpcs()
    assert account.count() == 6
    assert account.round_trips() == 3
    assert time.perf_counter() - begun >= 0.3


def test_a_server_answers_likewise(account: SimulatedAccount) -> None:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        client = boto3.client(
            "ec2",
            endpoint_url=f"http://{host}:{port}",
            config=Config(retries={"total_max_attempts": 1}),
        )
        target = account.sensor(quota=1)
        client.create_traffic_mirror_session(**request(account, target))
        code = refused(client.create_traffic_mirror_session, **request(account, target))
        assert code == "400 TrafficMirrorSourcesPerTargetLimitExceeded"
        account.fail("DescribeVpcs")
        assert refused(client.describe_vpcs) == "503 RequestLimitExceeded"
        account.time_out("DescribeSubnets")
        assert refused(client.describe_subnets) == "503 ServiceUnavailable"
        assert [call.status for call in account.calls] == [200, 400, 503, None]
        account.heal()
        other = account.other()
        role = other.role("reader")
        asked = {"RoleArn": role, "RoleSessionName": "test"}
        sts = boto3.client("sts", endpoint_url=f"http://{host}:{port}")
        given = sts.assume_role(**asked)["Credentials"]
        reader = boto3.client(
            "ec2",
            endpoint_url=f"http://{host}:{port}",
            aws_access_key_id=given["AccessKeyId"],
            aws_secret_access_key=given["SecretAccessKey"],
            aws_session_token=given["SessionToken"],
        )
        assert listed(reader.describe_traffic_mirror_targets()) == []
        other.roles[role].clear()
        assert refused(sts.assume_role, **asked) == "403 AccessDenied"
        assert [call.account for call in account.calls[-3:]] == [
            account.account_id,
            other.account_id,
            account.account_id,
        ]
    finally:
        server.stop()


# --- the account as a whole


def test_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_PROFILE", "real")
    before = dict(os.environ)
    with SimulatedAccount() as account:
        assert os.environ["AWS_DEFAULT_REGION"] == account.region
        assert "AWS_PROFILE" not in os.environ
        account.sensor()
        with pytest.raises(RuntimeError, match="one simulated account"), SimulatedAccount():
            pass
    assert dict(os.environ) == before
    with SimulatedAccount() as account:
        assert account.ec2.describe_traffic_mirror_targets()["TrafficMirrorTargets"] == []
        assert listed(account.ec2.describe_instances()) == []


def test_another_region() -> None:
    with SimulatedAccount("eu-central-1") as account:
        target = account.sensor(zone="b")
        account.client().create_traffic_mirror_session(**request(account, target))
        found = boto3.client("ec2").describe_traffic_mirror_sessions()["TrafficMirrorSessions"]
        assert found == account.sessions()
        elsewhere = boto3.client("ec2", region_name="us-east-1")
        assert elsewhere.describe_traffic_mirror_sessions()["TrafficMirrorSessions"] == []


# --- what Lambda hands over


def test_events() -> None:
    event = running_event("i-0123456789abcdef0", event_id="e-1")
    assert event["detail-type"] == "EC2 Instance State-change Notification"
    assert event["detail"] == {"instance-id": "i-0123456789abcdef0", "state": "running"}
    assert event["id"] == "e-1"
    assert event["resources"][0].endswith(":instance/i-0123456789abcdef0")
    foreign = running_event("i-1", account=OTHER_ACCOUNT_ID, region="eu-west-1")
    assert (foreign["account"], foreign["region"]) == (OTHER_ACCOUNT_ID, "eu-west-1")
    assert scheduled_event()["detail-type"] == "Scheduled Event"
    first, second = sqs_event(event, "not JSON")["Records"]
    assert json.loads(first["body"]) == event
    assert second["body"] == "not JSON"
    assert first["messageId"] != second["messageId"]
    assert first["eventSource"] == "aws:sqs"
