"""That the simulated account is honest: it refuses and hides what AWS refuses and hides.

That it also works every other test shows. It is seen through a plain boto3 client here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    ParamValidationError,
    ReadTimeoutError,
)
from moto.server import ThreadedMotoServer

from aws import OTHER_ACCOUNT_ID, SimulatedAccount

ONCE = Config(retries={"total_max_attempts": 1})


@pytest.fixture
def account() -> Iterator[SimulatedAccount]:
    with SimulatedAccount() as started:
        yield started


@pytest.fixture
def client(account: SimulatedAccount) -> Any:
    return account.client(retries={"total_max_attempts": 1})


@pytest.fixture
def create(client: Any) -> Any:
    return client.create_traffic_mirror_session


def error(call: Callable[..., Any], **parameters: Any) -> dict[str, Any]:
    """The answer that refuses the call."""
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    answer: dict[str, Any] = caught.value.response
    assert answer["Error"]["Message"]
    return answer


def refused(call: Callable[..., Any], **parameters: Any) -> str:
    """The error code that the call meets, with its status in front: '400 InvalidParameterValue'."""
    answer = error(call, **parameters)
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


def test_a_session_is_created_as_asked(account: SimulatedAccount, client: Any, create: Any) -> None:
    tag = {"Key": "Name", "Value": "x < y & z"}
    tags = [{"ResourceType": "traffic-mirror-session", "Tags": [tag]}]
    most = {"SessionNumber": 32766, "VirtualNetworkId": 2**24 - 1, "PacketLength": 8500}
    asked = request(account, account.sensor(), **most)
    session = create(**asked, TagSpecifications=tags)["TrafficMirrorSession"]
    assert session == {**session, **asked, "Tags": [tag], "OwnerId": account.account_id}
    assert client.describe_traffic_mirror_sessions()["TrafficMirrorSessions"] == [session]
    create(**request(account, account.sensor(), VirtualNetworkId=0, PacketLength=1))


def limited(account: SimulatedAccount, **limits: Any) -> str:
    """A sensor with two sessions, in an account with these limits."""
    vars(account).update(limits)
    return account.sensor(sessions=2)


def without_interfaces(account: SimulatedAccount, target: str) -> str:
    account.delete_sensor_interface(target)
    return target


# By code and case what is asked.
REFUSALS: dict[str, dict[str, Callable[[SimulatedAccount], dict[str, Any]]]] = {
    "InvalidNetworkInterfaceID.NotFound": {
        "no interface": lambda a: request(a, a.sensor(), NetworkInterfaceId=f"eni-{0:017x}")
    },
    "InvalidTrafficMirrorTargetId.NotFound": {
        "no target": lambda a: request(a, a.missing_sensor()),
        "target not shared": lambda a: request(a, a.other().sensor()),
    },
    "InvalidTrafficMirrorFilterId.NotFound": {
        "no filter": lambda a: request(a, a.sensor(), TrafficMirrorFilterId=f"tmf-{0:017x}")
    },
    "InvalidTrafficMirrorTarget": {
        "sensor stopped": lambda a: request(a, a.sensor(state="stopped")),
        "sensor pending": lambda a: request(a, a.sensor(state="pending")),
        "sensor terminated": lambda a: request(a, a.sensor(state="terminated")),
        "load balancer gone": lambda a: request(
            a, without_interfaces(a, a.nlb_sensor([a.subnet()]))
        ),
        "endpoint gone": lambda a: request(a, without_interfaces(a, a.gwlb_sensor([a.subnet()]))),
    },
    "InterfaceInUseByTrafficMirrorTarget": {
        "source is a target": lambda a: request(
            a, a.sensor(), NetworkInterfaceId=a.sensor_interface(a.sensor())
        )
    },
    "NetworkInterfaceNotSupported": {
        "source not attached": lambda a: request(a, a.sensor(), NetworkInterfaceId=a.interface()),
        "instance type": lambda a: request(a, limited(a, unsupported_types={"m5.large"})),
    },
    "TrafficMirrorSourcesPerTargetLimitExceeded": {
        "target full": lambda a: request(a, a.sensor(quota=4, sessions=4))
    },
    "TrafficMirrorSessionLimitExceeded": {
        "account full": lambda a: request(a, limited(a, account_quota=2))
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
        "tags for something else": lambda a: request(
            a, a.sensor(), TagSpecifications=[{"ResourceType": "instance", "Tags": []}]
        ),
    },
}


@pytest.mark.parametrize(
    ("code", "case"), [(code, case) for code, cases in REFUSALS.items() for case in cases]
)
def test_create_is_refused(account: SimulatedAccount, create: Any, code: str, case: str) -> None:
    parameters = REFUSALS[code][case](account)
    before = account.sessions()
    assert refused(create, **parameters) == f"400 {code}"
    assert account.sessions() == before


def test_sessions_of_one_interface(account: SimulatedAccount, create: Any) -> None:
    asked = request(account, account.sensor(quota=1))
    for number in (1, 2, 3):  # one source, so the target's quota of one source is kept
        create(**{**asked, "SessionNumber": number})
    assert refused(create, **asked) == "400 InvalidParameterValue"
    code = refused(create, **{**asked, "SessionNumber": 4})
    assert code == "400 TrafficMirrorSessionsPerInterfaceLimitExceeded"


def test_load_balancers_have_no_quota(account: SimulatedAccount, create: Any) -> None:
    for target in (account.nlb_sensor([account.subnet()]), account.gwlb_sensor([account.subnet()])):
        account._load(target, 50)
        create(**request(account, target))


def test_client_token(account: SimulatedAccount, create: Any) -> None:
    target = account.sensor(state="stopped")
    asked = request(account, target, ClientToken="token")
    refused(create, **asked)  # which leaves the token free
    account.set_state(account.sensor_instance(target), "running")
    first, again = create(**asked), create(**asked)
    assert again["TrafficMirrorSession"] == first["TrafficMirrorSession"]
    assert len(account.sessions()) == 1
    asked["SessionNumber"] = 2
    assert refused(create, **asked) == "400 IdempotentParameterMismatch"
    del asked["ClientToken"]
    create(**asked)


def test_creates_are_atomic(account: SimulatedAccount, create: Any) -> None:
    target = account.sensor(quota=10)

    def is_created(instance: str) -> bool:
        (interface,) = account.interfaces_of(instance)
        try:
            create(**request(account, target, NetworkInterfaceId=interface))
        except ClientError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(is_created, account.instances(40))) == 10
    assert len(account.sessions(target_id=target)) == 10
    assert account.count("CreateTrafficMirrorSession") == 40


def test_sessions_go_with_their_interface(account: SimulatedAccount) -> None:
    """And not with their target's."""
    target = account.sensor()
    one, other, rest = (account.instance(interfaces=2) for _ in range(3))
    for instance in (one, other, rest):
        for interface in account.interfaces_of(instance):
            account.session(interface, target)
    account.terminate(one)
    assert len(account.sessions()) == 4
    account.ec2.terminate_instances(InstanceIds=[other])
    assert len(account.sessions()) == 2
    account.delete_interface(account.interfaces_of(rest)[1])
    account.delete_sensor_interface(target)
    assert len(account.sessions()) == 1


# --- Describe*

# By the beginning of an ID: the operation, its parameter for IDs, what it says of an unknown one,
# a filter, and how one more is built.
KINDS: dict[str, tuple[str, str, str, str, Callable[[SimulatedAccount], object]]] = {
    "i": (
        *("describe_instances", "InstanceIds"),
        *("InvalidInstanceID.NotFound", "instance-id", lambda a: a.instance()),
    ),
    "eni": (
        *("describe_network_interfaces", "NetworkInterfaceIds"),
        *("InvalidNetworkInterfaceID.NotFound", "network-interface-id", lambda a: a.interface()),
    ),
    "sg": (
        *("describe_security_groups", "GroupIds"),
        *("InvalidGroup.NotFound", "group-id", lambda a: a.group()),
    ),
    "acl": (
        *("describe_network_acls", "NetworkAclIds"),
        *("InvalidNetworkAclID.NotFound", "vpc-id", lambda a: a.acl(a.subnet(), [])),
    ),
    "tmt": (
        *("describe_traffic_mirror_targets", "TrafficMirrorTargetIds"),
        *("InvalidTrafficMirrorTargetId.NotFound", "traffic-mirror-target-id"),
        lambda a: a.sensor(),
    ),
    "tms": (
        *("describe_traffic_mirror_sessions", "TrafficMirrorSessionIds"),
        *("InvalidTrafficMirrorSessionId.NotFound", "network-interface-id"),
        lambda a: a.session(source(a), a.sensor()),
    ),
    "rtb": (
        *("describe_route_tables", "RouteTableIds"),
        *("InvalidRouteTableID.NotFound", "vpc-id", lambda a: a.route_table()),
    ),
}


def listed(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The resources of one answer of Describe*; instances without their reservations."""
    found = next(value for value in answer.values() if isinstance(value, list))
    if "Reservations" in answer:
        return [instance for reservation in found for instance in reservation["Instances"]]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_filters(account: SimulatedAccount, client: Any, kind: str) -> None:
    operation, parameter, code, name, build = KINDS[kind]
    known, unknown, call = str(build(account)), f"{kind}-{0:017x}", getattr(client, operation)
    assert len(listed(call(**{parameter: [known]}))) == 1
    assert refused(call, **{parameter: [known, unknown]}) == f"400 {code}"
    assert refused(call, **{parameter: ["nonsense"]}).endswith(".Malformed")
    value = {"vpc-id": account.default_vpc}.get(name, known)
    if kind == "tms":
        value = account.sessions()[0]["NetworkInterfaceId"]
    by_filter = [{"Name": name, "Values": [unknown, value]}]
    assert known in str(call(Filters=by_filter))
    no_such = [{"Name": "no-such", "Values": ["x"]}]
    assert refused(call, Filters=no_such) == "400 InvalidParameterValue"
    many = [{"Name": name, "Values": [f"{kind}-{n:017x}" for n in range(201)]}]
    assert refused(call, Filters=many) == "400 FilterLimitExceeded"
    many[0]["Values"] = many[0]["Values"][:200]
    assert listed(call(Filters=many)) == []
    account.hide(known)
    assert known not in str(call(Filters=by_filter))
    assert known in str(getattr(account.ec2, operation)(Filters=by_filter))
    assert refused(call, **{parameter: [known]}) == f"400 {code}"


@pytest.mark.parametrize("kind", ["i", "eni", "tmt"])
def test_an_unknown_id_is_named(client: Any, kind: str) -> None:
    noun = {"i": "instance", "eni": "networkInterface", "tmt": "traffic mirror target"}[kind]
    operation, parameter, *_ = KINDS[kind]
    one, other = (f"{kind}-{n:017x}" for n in (1, 2))
    for ids, message in (
        ([one], f"The {noun} ID '{one}' does not exist"),
        ([one, other], f"The {noun} IDs '{one}, {other}' do not exist"),
        ([one, f"{kind}-no"], f'Invalid id: "{kind}-no" (expecting "{kind}-...")'),
    ):
        answer = error(getattr(client, operation), **{parameter: ids})
        assert answer["Error"]["Message"] == message


@pytest.mark.parametrize("kind", KINDS)
def test_pages(account: SimulatedAccount, client: Any, kind: str) -> None:
    operation, parameter, _, name, build = KINDS[kind]
    known = [str(build(account)) for _ in range(12)]
    call = getattr(client, operation)
    first = call(MaxResults=5)
    assert len(listed(first)) == 5
    second = call(MaxResults=5, NextToken=first["NextToken"])
    assert listed(call(MaxResults=5, NextToken=first["NextToken"])) == listed(second)
    pages = client.get_paginator(operation).paginate(PaginationConfig={"PageSize": 5})
    found = [item for page in pages for item in listed(page)]
    assert found == listed(getattr(account.ec2, operation)())
    assert len(found) >= 12
    other = [{"Name": name, "Values": ["*"]}]
    for wrong in ({"NextToken": first["NextToken"], "Filters": other}, {"NextToken": "made-up"}):
        assert refused(call, MaxResults=5, **wrong) == "400 InvalidPaginationToken"
    unchecked = getattr(account.client(parameter_validation=False), operation)
    for size in (4, 101 if kind == "rtb" else 1001):  # botocore knows the lower bound
        assert refused(unchecked, MaxResults=size) == "400 InvalidParameterValue"
    if kind in ("i", "eni"):
        code = refused(call, MaxResults=5, **{parameter: known[:1]})
        assert code == "400 InvalidParameterCombination"


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
    unknown = f"pl-{0:017x}"
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


def test_managed_instances_are_hidden(account: SimulatedAccount, client: Any) -> None:
    target = account.sensor(managed="ecs.amazonaws.com")
    hidden = {account.instance(managed=True, interfaces=2), account.sensor_instance(target)}
    shown = {account.instance()}
    of_hidden = {nic for one in hidden for nic in account.interfaces_of(one)}
    of_shown = {nic for one in shown for nic in account.interfaces_of(one)}
    for call, ids, key, name, some, others in (
        (client.describe_instances, "InstanceIds", "InstanceId", "instance-id", shown, hidden),
        (
            *(client.describe_network_interfaces, "NetworkInterfaceIds", "NetworkInterfaceId"),
            *("network-interface-id", of_shown, of_hidden),
        ),
    ):

        def found(call: Any = call, key: str = key, **parameters: Any) -> set[str]:
            return {row[key] for row in listed(call(**parameters))}

        filters = [{"Name": name, "Values": ["*"]}]
        everything = some | others
        assert found() == found(Filters=filters) == some
        assert found(IncludeManagedResources=False) == some
        assert found(IncludeManagedResources=True) == everything
        assert found(IncludeManagedResources=True, Filters=filters) == everything
        assert found(**{ids: sorted(everything)}) == everything
        assert found(**{ids: sorted(everything)}, Filters=filters) == everything
        views = listed(call(IncludeManagedResources=True))
        assert {row[key] for row in views if row["Operator"]["Managed"]} == others


def test_an_old_botocore(account: SimulatedAccount, client: Any) -> None:
    account.sensor()
    for call in (client.describe_instances, client.describe_network_interfaces):
        with account.old_botocore("IncludeManagedResources"):
            with pytest.raises(ParamValidationError, match="IncludeManagedResources"):
                call(IncludeManagedResources=True)
            assert "AvailabilityZoneId" in str(call())
            model = boto3.client("ec2").meta.service_model.operation_model("DescribeInstances")
            assert "IncludeManagedResources" not in model.input_shape.members
        with account.old_botocore("AvailabilityZoneId", "IncludeManagedResources"):
            assert "AvailabilityZoneId" not in str(call())
            assert "'AvailabilityZone': 'us-east-1a'" in str(call())
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
    assert [] in [row["Groups"] for row in rows["interface"]]
    assert [] in [row["IpPermissions"] for row in rows["group"]]


# --- several accounts


@pytest.fixture
def other(account: SimulatedAccount) -> SimulatedAccount:
    return account.other(zones={"us-east-1a": "use1-az2", "us-east-1b": "use1-az6"})


def credentials(sts: Any, role: str, **more: Any) -> dict[str, Any]:
    """What STS gives out for the role, as boto3 takes it."""
    given = sts.assume_role(RoleArn=role, RoleSessionName="test", **more)["Credentials"]
    return {
        "aws_access_key_id": given["AccessKeyId"],
        "aws_secret_access_key": given["SecretAccessKey"],
        "aws_session_token": given["SessionToken"],
    }


@pytest.fixture
def sts(account: SimulatedAccount) -> Any:
    return account.client("sts", retries={"total_max_attempts": 1})


def assume(sts: Any, role: str, **more: Any) -> Any:
    return boto3.client("ec2", config=ONCE, **credentials(sts, role, **more))


def test_accounts_are_apart(
    account: SimulatedAccount, client: Any, sts: Any, other: SimulatedAccount
) -> None:
    built = {
        one.account_id: (one.sensor(sessions=1), one.route_table()) for one in (account, other)
    }
    reader = assume(sts, other.role("reader"))
    for one, clients in ((account, [client]), (other, [reader, other.client(), other.ec2])):
        target, table = built[one.account_id]
        for its in clients:
            assert str(listed(its.describe_instances())).count("'InstanceId'") == 1
            views = [
                *listed(its.describe_traffic_mirror_targets()),
                *its.describe_route_tables(RouteTableIds=[table])["RouteTables"],
                *listed(its.describe_traffic_mirror_sessions()),
            ]
            assert {view["OwnerId"] for view in views} == {one.account_id}
            assert {v.get("TrafficMirrorTargetId", target) for v in views} == {target}
    unknown = refused(client.describe_route_tables, RouteTableIds=[built[other.account_id][1]])
    assert unknown == "400 InvalidRouteTableID.NotFound"
    vpcs = [str(its.describe_vpcs()) for its in (client, reader)]  # as moto answers it
    assert [account.default_vpc in vpc for vpc in vpcs] == [True, False]


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
def test_trust(account: SimulatedAccount, sts: Any, other: Any, trusts: Any, trusted: bool) -> None:
    account.role_arn = "arn:aws:iam::123456789012:role/mirror/traffic-mirror"
    asked = {"RoleArn": other.role("reader", trusts, path="/mirror/"), "RoleSessionName": "test"}
    if trusted:
        sts.assume_role(**asked)
        other.roles[asked["RoleArn"]].clear()
    assert error(sts.assume_role, **asked)["Error"] == {
        "Type": "Sender",
        "Code": "AccessDenied",
        "Message": "User: arn:aws:sts::123456789012:assumed-role/traffic-mirror/traffic-mirror is "
        f"not authorized to perform: sts:AssumeRole on resource: {asked['RoleArn']}",
    }


def test_what_sts_refuses(account: SimulatedAccount, sts: Any, other: Any) -> None:
    asked = {"RoleArn": other.role("reader"), "RoleSessionName": "test"}
    for refusal, changes in (
        ("403 AccessDenied", {"RoleArn": asked["RoleArn"] + "s"}),
        ("403 AccessDenied", {"RoleArn": asked["RoleArn"].replace("2109", "9999")}),
        ("400 ValidationError", {"RoleSessionName": "a b"}),
        ("400 ValidationError", {"DurationSeconds": 3601}),  # a role that assumes a role
    ):
        assert refused(sts.assume_role, **{**asked, **changes}) == refusal
    account.deny("sts:AssumeRole")
    said = error(sts.assume_role, **asked)["Error"]["Message"]
    assert "no identity-based policy allows the sts:AssumeRole" in said
    account.heal()
    account.time_out("sts:AssumeRole", times=1, connect=True)
    with pytest.raises(ConnectTimeoutError, match=r"sts\."):
        sts.assume_role(**asked)
    sts.assume_role(**asked)
    assert account.calls[-1].account == account.account_id
    assert account.count("sts:AssumeRole") == len(account.calls) == 7


def test_credentials_expire(account: SimulatedAccount, sts: Any, other: SimulatedAccount) -> None:
    now = [account.clock()]
    account.clock = lambda: now[0]
    role = other.role("reader")
    reader = assume(sts, role, DurationSeconds=900)
    now[0] += 899
    reader.describe_instances()
    now[0] += 1
    assert refused(reader.describe_instances) == "400 RequestExpired"
    given = credentials(sts, role)
    now[0] += 3600
    reader, again = (boto3.client(service, **given) for service in ("ec2", "sts"))
    assert refused(reader.describe_instances) == "400 RequestExpired"
    asked = {"RoleArn": role, "RoleSessionName": "test"}
    assert refused(again.assume_role, **asked) == "403 ExpiredToken"
    stolen = boto3.client("ec2", **{**given, "aws_session_token": "another"})
    assert refused(stolen.describe_instances) == "401 AuthFailure"
    account.client().describe_instances()


def test_an_account_misbehaves_alone(
    account: SimulatedAccount, client: Any, sts: Any, other: SimulatedAccount
) -> None:
    reader = assume(sts, other.role("reader"))
    account.forget_calls()
    other.fail("DescribeInstances")
    other.deny("ec2:DescribeNetworkAcls")
    client.describe_instances()
    client.describe_network_acls()
    assert refused(reader.describe_instances) == "503 RequestLimitExceeded"
    said = error(reader.describe_network_acls)["Error"]["Message"]
    assert "sts::210987654321:assumed-role/reader/test is not" in said
    owners = [account.account_id] * 2 + [other.account_id] * 2
    assert [call.account for call in account.calls] == owners
    assert account.count("DescribeInstances") == account.count(account=other.account_id) == 2


@pytest.mark.parametrize("interface", [True, False])
def test_shared_targets(
    account: SimulatedAccount, client: Any, other: SimulatedAccount, interface: bool
) -> None:
    target, private = other.sensor(), other.sensor()
    third = account.other("3" * 12)
    other.share(target, account, interface=interface)
    ids = [{"Name": "traffic-mirror-target-id", "Values": [target, private]}]
    for parameters in ({}, {"Filters": ids}):
        (view,) = listed(client.describe_traffic_mirror_targets(**parameters))
        assert (view["TrafficMirrorTargetId"], view["OwnerId"]) == (target, OTHER_ACCOUNT_ID)
        assert ("NetworkInterfaceId" in view) is interface
    assert listed(third.client().describe_traffic_mirror_targets()) == []
    its = [other.sensor_interface(target)]
    unknown = refused(client.describe_network_interfaces, NetworkInterfaceIds=its)
    assert unknown == "400 InvalidNetworkInterfaceID.NotFound"
    there = listed(other.client().describe_traffic_mirror_targets())
    assert all("NetworkInterfaceId" in view for view in there)


def test_sessions_to_shared_targets(
    account: SimulatedAccount, client: Any, create: Any, other: SimulatedAccount
) -> None:
    target = other.sensor(quota=2)
    third = account.other("3" * 12)
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
    code = refused(create, **request(account, target))
    assert code == "400 TrafficMirrorSourcesPerTargetLimitExceeded"
    other.unshare(target)
    assert listed(client.describe_traffic_mirror_targets()) == []
    check({account.account_id, third.account_id})
    other.share(target)
    other.stop(other.sensor_instance(target))
    assert refused(create, **request(account, target)) == "400 InvalidTrafficMirrorTarget"
    other.delete_target(target)
    assert listed(client.describe_traffic_mirror_targets()) == []
    check(set())


# --- misbehaviour


@pytest.mark.parametrize("kind", ["timeout", "failure"])
def test_lost_answers(account: SimulatedAccount, create: Any, kind: str) -> None:
    """AWS acts, and nobody hears of it."""
    asked = request(account, account.sensor(), ClientToken="token")
    if kind == "timeout":
        account.time_out("CreateTrafficMirrorSession", times=1, lose_answer=True)
        with pytest.raises(ReadTimeoutError):
            create(**asked)
    else:
        account.fail("CreateTrafficMirrorSession", "InternalError", times=1, lose_answer=True)
        assert refused(create, **asked) == "503 InternalError"
    (session,) = account.sessions()
    assert create(**asked)["TrafficMirrorSession"] == session
    assert len(account.sessions()) == 1


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ("identity-based policy", "because no identity-based policy allows the {} action"),
        ("service control policy", "with an explicit deny in a service control policy"),
        (None, None),
    ],
)
def test_denials(
    account: SimulatedAccount, client: Any, create: Any, policy: str | None, reason: str | None
) -> None:
    asked = request(account, account.sensor())
    tags = [{"ResourceType": "traffic-mirror-session", "Tags": [{"Key": "Name", "Value": "x"}]}]
    arn = f"arn:aws:ec2:us-east-1:{account.account_id}:"
    interface = f"{arn}network-interface/{asked['NetworkInterfaceId']}"
    for action, resource, call in (
        ("DescribeNetworkAcls", "", client.describe_network_acls),
        ("CreateTags", f"{arn}traffic-mirror-session/*", create),
        ("CreateTrafficMirrorSession", interface, create),
    ):
        account.deny(f"ec2:{action}", policy=policy)
        answer = error(call, **({**asked, "TagSpecifications": tags} if resource else {}))
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


def test_sessions_become_visible_late(account: SimulatedAccount, client: Any, create: Any) -> None:
    account.session_lag = 2
    target = account.sensor(quota=1)
    asked = request(account, target)
    create(**asked)
    assert len(account.sessions()) == 1
    assert refused(create, **asked) == "400 InvalidParameterValue"
    code = refused(create, **request(account, target))
    assert code == "400 TrafficMirrorSourcesPerTargetLimitExceeded"
    elsewhere = [{"Name": "network-interface-id", "Values": ["eni-other"]}]
    client.describe_traffic_mirror_sessions(Filters=elsewhere)  # would not show it anyway
    here = [{"Name": "network-interface-id", "Values": [asked["NetworkInterfaceId"]]}]
    describe = client.describe_traffic_mirror_sessions
    assert [len(listed(describe(Filters=here))) for _ in range(3)] == [0, 0, 1]


# --- the log, a server, the account as a whole


def test_every_attempt_is_counted_and_nobody_elses(account: SimulatedAccount) -> None:
    account.ec2.describe_vpcs()
    assert account.calls == []
    account.fail("DescribeSubnets", times=1)
    account.latency = 0.1
    client = account.client(retries={"mode": "standard", "total_max_attempts": 3})
    client.describe_subnets()  # fails once, botocore tries again
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(client.describe_vpcs)
    boto3.client("ec2").describe_instances(MaxResults=100)
    expected = [("DescribeSubnets", 503, "RequestLimitExceeded"), ("DescribeSubnets", 200, None)]
    expected += [("DescribeVpcs", 200, None)] * 4 + [("DescribeInstances", 200, None)]
    assert [(call.operation, call.status, call.code) for call in account.calls] == expected
    assert account.calls[-1].parameters == {"MaxResults": 100}
    assert (account.count(), account.count("DescribeVpcs"), account.round_trips()) == (7, 4, 4)


def test_a_server_answers_likewise(account: SimulatedAccount) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        there = {"endpoint_url": f"http://{host}:{port}", "config": ONCE}
        client, sts = boto3.client("ec2", **there), boto3.client("sts", **there)
        target = account.sensor(quota=1)
        client.create_traffic_mirror_session(**request(account, target))
        code = refused(client.create_traffic_mirror_session, **request(account, target))
        assert code == "400 TrafficMirrorSourcesPerTargetLimitExceeded"
        account.fail("DescribeVpcs")
        assert refused(client.describe_vpcs) == "503 RequestLimitExceeded"
        account.time_out("DescribeSubnets")
        assert refused(client.describe_subnets) == "503 ServiceUnavailable"
        other = account.other()
        role = other.role("reader")
        reader = boto3.client("ec2", **there, **credentials(sts, role))
        assert listed(reader.describe_traffic_mirror_targets()) == []
        other.roles[role].clear()
        asked = {"RoleArn": role, "RoleSessionName": "test"}
        assert refused(sts.assume_role, **asked) == "403 AccessDenied"
        here = account.account_id
        assert [(call.status, call.account) for call in account.calls] == [
            *((200, here), (400, here), (503, here), (None, here)),
            *((200, here), (200, other.account_id), (403, here)),
        ]
    finally:
        server.stop()


def test_nothing_is_left_behind_and_regions_are_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_PROFILE", "real")
    before = dict(os.environ)
    for _ in range(2):
        with SimulatedAccount("eu-central-1") as account:
            assert "AWS_PROFILE" not in os.environ
            assert account.sessions() == listed(account.ec2.describe_instances()) == []
            account.client().create_traffic_mirror_session(**request(account, account.sensor()))
            here, elsewhere = boto3.client("ec2"), boto3.client("ec2", region_name="us-east-1")
            assert listed(here.describe_traffic_mirror_sessions()) == account.sessions()
            assert listed(elsewhere.describe_traffic_mirror_sessions()) == []
        assert dict(os.environ) == before
