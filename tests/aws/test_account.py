"""That the simulated account refuses and hides what AWS refuses and hides.

That it also works every other test shows. It is seen through a plain boto3 client here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from aws import SimulatedAccount

ONCE = {"retries": {"total_max_attempts": 1}}
NO = f"{0:017x}"
ENI = "NetworkInterfaceId"
Changes = dict[str, Any]


@pytest.fixture
def account() -> Iterator[SimulatedAccount]:
    with SimulatedAccount() as started:
        yield started


@pytest.fixture
def client(account: SimulatedAccount) -> Any:
    return account.client(**ONCE)


@pytest.fixture
def other(account: SimulatedAccount) -> SimulatedAccount:
    return account.other()


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


def session(account: SimulatedAccount, **changes: Any) -> dict[str, Any]:
    """The parameters of a create that AWS carries out, but for these changes."""
    return {
        ENI: changes.get(ENI) or of_instance(account),
        "TrafficMirrorTargetId": changes.get("TrafficMirrorTargetId") or account.sensor(),
        "TrafficMirrorFilterId": account.filter_id,
        "SessionNumber": 1,
        **changes,
    }


def of_instance(account: SimulatedAccount, **options: Any) -> str:
    return account.first_interface(account.instance(**options))


def source(interface: str) -> Changes:
    return {ENI: interface}


def to(target: str) -> Changes:
    return {"TrafficMirrorTargetId": target}


def gone(account: SimulatedAccount, target: str) -> Changes:
    account.delete_sensor_interface(target)
    return to(target)


def mirrored(account: SimulatedAccount, *numbers: int) -> Changes:
    """Only source of a target, to which it has sessions with these numbers."""
    asked = source(of_instance(account)) | to(account.sensor(quota=1))
    for number in numbers:
        account.session(*asked.values(), number)
    return asked


def made_by(account: SimulatedAccount, requester: str) -> Changes:
    made = account.requester_managed(requester=requester, description="RDSNetworkInterface")
    return source(made)


def tagged(account: SimulatedAccount, kind: str, **tags: str) -> Changes:
    account.tag_policy = {"team": {"blue", "red"}}
    rows = [{"Key": key, "Value": value} for key, value in tags.items()]
    return {"TagSpecifications": [{"ResourceType": kind, "Tags": rows}]}


SESSION = "traffic-mirror-session"
# By code and case: what is asked otherwise than in a create that AWS carries out.
REFUSALS: dict[str, dict[str, Callable[[SimulatedAccount], Changes]]] = {
    "InvalidNetworkInterfaceID.NotFound": {"no interface": lambda a: source(f"eni-{NO}")},
    "InvalidTrafficMirrorTargetId.NotFound": {
        "no target": lambda a: to(a.missing_sensor()),
        "target not shared": lambda a: to(a.other().sensor()),
    },
    "InvalidTrafficMirrorFilterId.NotFound": {
        "no filter": lambda a: {"TrafficMirrorFilterId": f"tmf-{NO}"},
        "filter of another account": lambda a: {"TrafficMirrorFilterId": a.other().filter_id},
    },
    "InvalidTrafficMirrorTarget": {
        "sensor stopped": lambda a: to(a.sensor(state="stopped")),
        "sensor pending": lambda a: to(a.sensor(state="pending")),
        "sensor's interface gone": lambda a: gone(a, a.sensor()),
        "load balancer gone": lambda a: gone(a, a.nlb_sensor([a.subnet()])),
        "endpoint gone": lambda a: gone(a, a.gwlb_sensor([a.subnet()])),
    },
    "InterfaceInUseByTrafficMirrorTarget": {
        "source is a target": lambda a: source(a.sensor_interface(a.sensor()))
    },
    "NetworkInterfaceNotSupported": {
        "source not attached": lambda a: source(a.interface(description="RDSNetworkInterface")),
        "load balancer's interface": lambda a: made_by(a, "amazon-elb"),
        "function's interface": lambda a: made_by(a, "AROAEXAMPLE:awslambda_1"),
        "instance type": lambda a: a.unsupported_types.add("m5.large") or {},
    },
    "TrafficMirrorSessionsPerInterfaceLimitExceeded": {
        "fourth session": lambda a: mirrored(a, 2, 3, 4)
    },
    "TagPolicyViolation": {"value of a tag": lambda a: tagged(a, SESSION, team="green")},
    "InvalidParameterValue": {
        "source of another type": lambda a: source(of_instance(a, interface_type="efa")),
        "source without IPv4": lambda a: source(of_instance(a, ipv6_only=True)),
        "tags for something else": lambda a: tagged(a, "instance"),
    },
}
ACCEPTED: dict[str, Callable[[SimulatedAccount], Changes]] = {
    "numbers": lambda a: {"VirtualNetworkId": 0, "PacketLength": 1},
    "tags": lambda a: tagged(a, SESSION, team="blue", Name="x < y & z"),
    "third session of a target's only source": lambda a: mirrored(a, 2, 3),
}


@pytest.mark.parametrize(
    ("code", "case"), [(code, case) for code, cases in REFUSALS.items() for case in cases]
)
def test_refused(account: SimulatedAccount, client: Any, code: str, case: str) -> None:
    asked = session(account, **REFUSALS[code][case](account))
    before = account.sessions()
    assert refused(client.create_traffic_mirror_session, **asked) == f"400 {code}"
    assert account.sessions() == before


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted(account: SimulatedAccount, client: Any, case: str) -> None:
    asked = session(account, **ACCEPTED[case](account))
    made = client.create_traffic_mirror_session(**asked)["TrafficMirrorSession"]
    (tags,) = [one["Tags"] for one in asked.pop("TagSpecifications", [{"Tags": []}])]
    assert made == {**made, **asked, "Tags": tags, "OwnerId": account.account_id}
    assert made in client.describe_traffic_mirror_sessions()["TrafficMirrorSessions"]


def test_a_token_stands_for_one_create_and_a_refusal_leaves_it_free(
    account: SimulatedAccount, client: Any
) -> None:
    create, target = client.create_traffic_mirror_session, account.sensor(state="stopped")
    asked = session(account, **to(target), ClientToken="token")
    refused(create, **asked)
    account.set_state(account.sensor_instance(target), "running")
    assert create(**asked)["ClientToken"] == "token"
    assert refused(create, **{**asked, "SessionNumber": 2}) == "400 IdempotentParameterMismatch"


# --- Describe*

# By the beginning of an ID: the operation, its parameter for IDs, what it says of an unknown one,
# a filter; and how one more is built.
KINDS = {
    "i": "instances InstanceIds InvalidInstanceID instance-id",
    "eni": "network_interfaces NetworkInterfaceIds InvalidNetworkInterfaceID network-interface-id",
    "sg": "security_groups GroupIds InvalidGroup group-id",
    "acl": "network_acls NetworkAclIds InvalidNetworkAclID vpc-id",
    "tmt": "traffic_mirror_targets TrafficMirrorTargetIds InvalidTrafficMirrorTargetId "
    "traffic-mirror-target-id",
    "tms": "traffic_mirror_sessions TrafficMirrorSessionIds InvalidTrafficMirrorSessionId "
    "network-interface-id",
    "rtb": "route_tables RouteTableIds InvalidRouteTableID vpc-id",
}
BUILD: dict[str, Callable[[SimulatedAccount], object]] = {
    "i": lambda a: a.instance(),
    "eni": lambda a: a.interface(),
    "sg": lambda a: a.group(),
    "acl": lambda a: a.acl(a.subnet(), []),
    "tmt": lambda a: a.sensor(),
    "tms": lambda a: a.session(of_instance(a), a.sensor()),
    "rtb": lambda a: a.route_table(),
}


def listed(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The resources of one answer of Describe*; instances without their reservations."""
    found = next(value for value in answer.values() if isinstance(value, list))
    if "Reservations" in answer:
        return [instance for reservation in found for instance in reservation["Instances"]]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_what_describe_refuses_and_hides(account: SimulatedAccount, client: Any, kind: str) -> None:
    operation, ids, code, name = KINDS[kind].split()
    known, unknown = [str(BUILD[kind](account)) for _ in range(6)], f"{kind}-{NO}"
    call, look = (getattr(one, f"describe_{operation}") for one in (client, account.ec2))
    assert len(listed(call(**{ids: known}))) == 6
    pages = client.get_paginator(f"describe_{operation}").paginate(PaginationConfig={"PageSize": 5})
    everything = listed(look())
    assert [item for page in pages for item in listed(page)] == everything
    token = {"NextToken": call(MaxResults=5)["NextToken"], "MaxResults": 5}
    assert listed(call(**token)) == listed(call(**token)) == everything[5:10]
    many = [f"{kind}-{n:017x}" for n in range(201)]
    refusals = [
        (f"{code}.NotFound", {ids: [known[0], unknown]}),
        ("InvalidParameterValue", {"Filters": [{"Name": "no-such", "Values": ["x"]}]}),
        ("FilterLimitExceeded", {"Filters": [{"Name": name, "Values": many}]}),
        ("InvalidPaginationToken", {**token, "Filters": [{"Name": name, "Values": ["*"]}]}),
        ("InvalidPaginationToken", {"NextToken": "made-up"}),
    ]
    if kind in ("i", "eni"):
        refusals.append(("InvalidParameterCombination", {"MaxResults": 5, ids: known[:1]}))
    for refusal, asked in refusals:
        assert refused(call, **asked) == f"400 {refusal}"
    assert unknown in str(error(call, **{ids: [known[0], unknown]}))
    assert refused(call, **{ids: ["nonsense"]}).endswith(".Malformed")
    assert listed(call(Filters=[{"Name": name, "Values": many[:200]}])) == []
    unchecked = getattr(account.client(parameter_validation=False), f"describe_{operation}")
    for size in (4, 101 if kind == "rtb" else 1001):  # botocore knows the lower bound
        assert refused(unchecked, MaxResults=size) == "400 InvalidParameterValue"

    value = {"vpc-id": account.default_vpc}.get(name, known[0])
    if kind == "tms":
        value = account.sessions()[0][ENI]
    by_filter = {"Filters": [{"Name": name, "Values": [unknown, value]}]}
    assert known[0] in str(call(**by_filter))
    account.hide(known[0])
    assert known[0] not in str(call(**by_filter))
    assert refused(call, **{ids: [known[0]]}) == f"400 {code}.NotFound"
    assert known[0] in str(look(**by_filter))


def test_prefix_lists(account: SimulatedAccount, client: Any) -> None:
    cidrs = [f"10.0.{n}.0/24" for n in range(150)]
    call, name = client.get_managed_prefix_list_entries, account.prefix_list(*cidrs)
    first = call(PrefixListId=name)
    assert len(first["Entries"]) == 100
    rest = call(PrefixListId=name, NextToken=first["NextToken"])
    assert [e["Cidr"] for e in first["Entries"] + rest["Entries"]] == cidrs
    assert refused(call, PrefixListId=name, MaxResults=101) == "400 InvalidParameterValue"
    assert refused(call, PrefixListId="pl-1") == "400 InvalidPrefixListId.Malformed"
    account.hide(name)
    for one in (name, f"pl-{NO}"):
        assert refused(call, PrefixListId=one) == "400 InvalidPrefixListID.NotFound"


def test_wildcards_of_filters(account: SimulatedAccount, client: Any) -> None:
    account.interface(description="ELB net/a.b/1")
    for value in ("ELB net/a.b/1", "ELB net/*", "*/a?b/*", "ELB net/a?/1", "elb net/*", "ELB net"):
        by = [{"Name": "description", "Values": ["another", value]}]
        found = listed(client.describe_network_interfaces(Filters=by))
        assert bool(found) is (value in ("ELB net/a.b/1", "ELB net/*", "*/a?b/*"))


# --- several accounts, denials


@pytest.fixture
def sts(account: SimulatedAccount) -> Any:
    return account.client("sts", **ONCE)


def credentials(sts: Any, role: str, **more: Any) -> dict[str, Any]:
    """What STS gives out for the role, as boto3 takes it."""
    given = sts.assume_role(RoleArn=role, RoleSessionName="test", **more)["Credentials"]
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    keys = ("AccessKeyId", "SecretAccessKey", "SessionToken")
    return {name: given[key] for name, key in zip(names, keys, strict=True)}


def test_what_sts_refuses(account: SimulatedAccount, sts: Any, other: SimulatedAccount) -> None:
    role = other.role("reader", path="/sensors/")
    asked = {"RoleArn": role, "RoleSessionName": "test"}
    sts.assume_role(**asked)
    for refusal, changes in (
        ("403 AccessDenied", {"RoleArn": f"{role}s"}),
        ("403 AccessDenied", {"RoleArn": role.replace("2109", "9999")}),
        ("403 AccessDenied", {"RoleArn": other.role("own", [other.account_id])}),
        ("400 ValidationError", {"RoleSessionName": "a b"}),
        ("400 ValidationError", {"DurationSeconds": 3601}),  # a role that assumes a role
    ):
        assert refused(sts.assume_role, **{**asked, **changes}) == refusal
    said = "User: arn:aws:sts::123456789012:assumed-role/traffic-mirror/traffic-mirror is not "
    said += f"authorized to perform: sts:AssumeRole on resource: {role}"
    account.deny("sts:AssumeRole")
    reason = " because no identity-based policy allows the sts:AssumeRole action"
    assert error(sts.assume_role, **asked)["Error"]["Message"] == said + reason
    account.heal()
    other.roles[role].clear()
    assert error(sts.assume_role, **asked)["Error"]["Message"] == said


def test_credentials_expire(account: SimulatedAccount, sts: Any, other: SimulatedAccount) -> None:
    now = [account.clock()]
    account.clock = lambda: now[0]
    given = credentials(sts, other.role("reader"), DurationSeconds=900)
    reader, its_sts = (boto3.client(service, **given) for service in ("ec2", "sts"))
    now[0] += 899
    reader.describe_instances()
    stolen = boto3.client("ec2", **{**given, "aws_session_token": "another"})
    assert refused(stolen.describe_instances) == "401 AuthFailure"
    now[0] += 1
    assert refused(reader.describe_instances) == "400 RequestExpired"
    asked = {"RoleArn": other.role("reader"), "RoleSessionName": "test"}
    assert refused(its_sts.assume_role, **asked) == "403 ExpiredToken"


def test_shared_targets(account: SimulatedAccount, client: Any, other: SimulatedAccount) -> None:
    target, third = other.sensor(quota=2), account.other("3" * 12)
    other.share(target, account)
    assert listed(third.client().describe_traffic_mirror_targets()) == []
    its = [other.sensor_interface(target)]
    unknown = refused(client.describe_network_interfaces, NetworkInterfaceIds=its)
    assert unknown == "400 InvalidNetworkInterfaceID.NotFound"
    other.share(target)
    for one in (account, third):
        one.client().create_traffic_mirror_session(**session(one, **to(target)))
    code = refused(client.create_traffic_mirror_session, **session(account, **to(target)))
    assert code == "400 TrafficMirrorSourcesPerTargetLimitExceeded"


def test_denials(account: SimulatedAccount, client: Any) -> None:
    create, asked = client.create_traffic_mirror_session, session(account)
    asked |= tagged(account, SESSION, team="blue")
    on = f" on resource: arn:aws:ec2:us-east-1:{account.account_id}:"
    for action, resource, call in (
        ("ec2:DescribeNetworkAcls", "", client.describe_network_acls),
        ("ec2:CreateTags", f"{on}{SESSION}/*", create),
        ("ec2:CreateTrafficMirrorSession", f"{on}network-interface/{asked[ENI]}", create),
    ):
        account.deny(action)
        given = asked if resource else {}
        assert refused(call, **given) == "403 UnauthorizedOperation"
        said = error(call, **given)["Error"]["Message"]
        reason = f" because no identity-based policy allows the {action} action"
        assert f"is not authorized to perform: {action}{resource}{reason}" in said
        assert ("Encoded authorization failure message: " in said) is bool(resource)
        assert account.sessions() == []
        account.heal()
    account.deny("ec2:CreateTags")
    create(**{key: value for key, value in asked.items() if key != "TagSpecifications"})


def test_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "real")
    before = dict(os.environ)
    for _ in range(2):
        with SimulatedAccount() as account:
            assert "AWS_PROFILE" not in os.environ
            assert account.sessions() == listed(account.ec2.describe_instances()) == []
            boto3.client("ec2").create_traffic_mirror_session(**session(account))
            assert len(account.sessions()) == 1
        assert dict(os.environ) == before
