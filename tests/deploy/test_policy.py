"""Policies: what is allowed and what is refused, and that the function needs neither more nor less.

The simulated account holds the role's policy against each call, with the actions, resources and
condition keys that the call has in the Service Authorization Reference, as AWS does.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import boto3
import pytest
from aws import (
    ACCOUNT_ID,
    REGION,
    Refusal,
    SimulatedAccount,
    acl_entry,
    route,
    rule,
    running_event,
    scheduled_event,
)
from cloudformation import DEPLOY, allows, as_list, resolve, role_statements
from conftest import Scene

import lambda_traffic_mirror
from lambda_traffic_mirror import MirroringError

Statements = list[dict[str, Any]]

DESCRIBES = (
    "ec2:DescribeInstances",
    "ec2:DescribeNetworkAcls",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeTrafficMirrorSessions",
    "ec2:DescribeTrafficMirrorTargets",
)
CREATE, TAG = "ec2:CreateTrafficMirrorSession", "ec2:CreateTags"
EIGHT = (*DESCRIBES, CREATE, TAG)
PREFIX_LISTS, ROUTES = "ec2:GetManagedPrefixListEntries", "ec2:DescribeRouteTables"

HERE = f"{REGION}:{ACCOUNT_ID}"
EC2, SQS = f"arn:aws:ec2:{HERE}:", f"arn:aws:sqs:{HERE}:traffic-mirror-"
LOG = f"arn:aws:logs:{HERE}:log-group:traffic-mirror-LogGroup"
ROLE = "arn:aws:iam::111122223333:role/sensors"
CREATING = {"ec2:CreateAction": "CreateTrafficMirrorSession"}
GIVEN = {
    "CodeBucket": "my-bucket",
    "CodeKey": "lambda_traffic_mirror.zip",
    "FilterId": "tmf-1",
    "Targets": "tmt-1, tmt-2",
    "TargetAccounts": "111122223333",
    "SensorRoleArns": ROLE,
}


def made(**parameters: str) -> dict[str, Any]:
    return resolve(parameters=GIVEN | parameters, region=REGION, account=ACCOUNT_ID)


def pasted(name: str) -> Statements:
    """The statements of a policy for the console, with the filter filled in."""
    text = (DEPLOY / name).read_text(encoding="utf-8").replace("FILTER_ID", "tmf-1")
    document = json.loads(text)
    assert document["Version"] == "2012-10-17"
    statements: Statements = document["Statement"]
    return statements


# The function's role


class Row(NamedTuple):
    """An action on a resource (`*` where it takes none), with condition keys and parameters."""

    action: str
    resource: str
    keys: Mapping[str, str] = {}
    parameters: Mapping[str, str] = {}


ALLOWED = [
    *(Row(action, "*") for action in DESCRIBES),
    Row(CREATE, EC2 + "network-interface/eni-1"),
    Row(CREATE, EC2 + "traffic-mirror-session/tms-1"),
    Row(CREATE, EC2 + "traffic-mirror-filter/tmf-1"),
    Row(CREATE, EC2 + "traffic-mirror-target/tmt-1"),
    Row(CREATE, EC2 + "traffic-mirror-target/tmt-2"),
    Row(CREATE, f"arn:aws:ec2:{REGION}:999999999999:traffic-mirror-target/tmt-1"),  # shared
    Row(CREATE, f"arn:aws:ec2:{REGION}:111122223333:traffic-mirror-target/tmt-any"),
    Row(CREATE, EC2 + "traffic-mirror-filter/tmf-2", parameters={"FilterTag": "filter"}),
    Row(TAG, EC2 + "traffic-mirror-session/tms-1", CREATING),
    Row(ROUTES, "*"),
    Row(PREFIX_LISTS, EC2 + "prefix-list/pl-1", parameters={"AllowPrefixLists": "true"}),
    Row(
        PREFIX_LISTS,
        f"arn:aws:ec2:{REGION}:aws:prefix-list/pl-1",
        parameters={"AllowPrefixLists": "true"},
    ),
    Row("sts:AssumeRole", ROLE),
    Row("logs:CreateLogStream", LOG + ":log-stream:x"),
    Row("logs:PutLogEvents", LOG + ":log-stream:2026/01/01/[$LATEST]0"),
    *(
        Row(f"sqs:{verb}", SQS + "Queue")
        for verb in ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes")
    ),
    Row("sqs:SendMessage", SQS + "FailedSweepQueue"),
]
ELSEWHERE = (f"eu-west-1:{ACCOUNT_ID}", f"{REGION}:999999999999")
REFUSED = [
    # Sources and filter only here, only the given filter, targets and accounts.
    *(
        Row(CREATE, f"arn:aws:ec2:{place}:{name}", parameters={"FilterTag": tag})
        for place in ELSEWHERE
        for name in ("network-interface/eni-1", "traffic-mirror-filter/tmf-1")
        for tag in ("", "filter")
    ),
    *(
        Row(CREATE, EC2 + name)
        for name in (
            "traffic-mirror-filter/tmf-2", "traffic-mirror-filter/tmf-10",
            "traffic-mirror-target/tmt-10", "traffic-mirror-target/tmt-3",
            "traffic-mirror-target/", "instance/i-1",
        )
    ),
    Row(CREATE, EC2 + "traffic-mirror-filter/tmf-1", parameters={"FilterId": ""}),
    Row(CREATE, EC2 + "traffic-mirror-target/tmt-1", parameters={"Targets": ""}),
    Row(
        CREATE,
        f"arn:aws:ec2:{REGION}:111122223333:traffic-mirror-target/tmt-any",
        parameters={"TargetAccounts": ""},
    ),
    # Tags only on a session, only while it is created.
    Row(TAG, EC2 + "traffic-mirror-session/tms-1"),
    Row(TAG, EC2 + "traffic-mirror-session/tms-1", {"ec2:CreateAction": "RunInstances"}),
    *(Row(TAG, EC2 + name, CREATING) for name in ("instance/i-1", "traffic-mirror-filter/tmf-1")),
    *(Row(TAG, f"arn:aws:ec2:{place}:traffic-mirror-session/tms-1", CREATING) for place in ELSEWHERE),
    # Never a change, never a deletion, never what is not asked for.
    *(
        Row(f"ec2:{verb}", EC2 + "traffic-mirror-session/tms-1", CREATING)
        for verb in ("DeleteTrafficMirrorSession", "ModifyTrafficMirrorSession", "DeleteTags")
    ),
    Row("ec2:DescribeVpcs", "*"),
    Row("iam:PassRole", f"arn:aws:iam::{ACCOUNT_ID}:role/traffic-mirror-Role"),
    Row(ROUTES, "*", parameters={"AllowRoutes": "false"}),
    Row(PREFIX_LISTS, EC2 + "prefix-list/pl-1"),
    *(
        Row(PREFIX_LISTS, f"arn:aws:ec2:{place}", parameters={"AllowPrefixLists": "true"})
        for place in (f"eu-west-1:{ACCOUNT_ID}:prefix-list/pl-1", f"{HERE}:vpc/vpc-1")
    ),
    Row("sts:AssumeRole", ROLE + "x"),
    Row("sts:AssumeRole", "arn:aws:iam::111122223333:role/admin"),
    Row("sts:AssumeRole", ROLE, parameters={"SensorRoleArns": ""}),
    # Only its own log and queues.
    Row("logs:CreateLogGroup", LOG),
    Row("logs:DeleteLogStream", LOG + ":log-stream:x"),
    Row("logs:PutLogEvents", LOG.replace("LogGroup", "LogGroup2") + ":log-stream:x"),
    *(Row("sqs:SendMessage", SQS + name) for name in ("Queue", "DeadLetterQueue", "Other")),
    *(Row("sqs:ReceiveMessage", SQS + name) for name in ("DeadLetterQueue", "FailedSweepQueue")),
    Row("sqs:PurgeQueue", SQS + "Queue"),
]  # fmt: skip


@pytest.mark.parametrize("allowed", [True, False], ids=["allowed", "refused"])
def test_the_role_may_do_this_and_nothing_next_to_it(allowed: bool) -> None:
    for row in ALLOWED if allowed else REFUSED:
        statements = role_statements(made(**row.parameters))
        assert allows(statements, row.action, row.resource, dict(row.keys)) == allowed, row


def test_only_lambda_assumes_the_role() -> None:
    role = made()["Resources"]["Role"]["Properties"]
    trust = role["AssumeRolePolicyDocument"]["Statement"]
    for action, principal, allowed in (
        ("sts:AssumeRole", {"Service": "lambda.amazonaws.com"}, True),
        ("sts:AssumeRole", {"Service": "ec2.amazonaws.com"}, False),
        ("sts:AssumeRole", {"AWS": ACCOUNT_ID}, False),
        ("sts:TagSession", {"Service": "lambda.amazonaws.com"}, False),
    ):
        assert allows(trust, action, "", {}, principal) == allowed, principal
    assert set(role) == {"Description", "Path", "AssumeRolePolicyDocument", "Policies"}


# The queues

RULES = {
    "Queue": ["StartRule", "ChangeRule"],
    "DeadLetterQueue": ["StartRule", "ChangeRule", "SweepRule"],
    "FailedSweepQueue": [],
}


@pytest.mark.parametrize("queue", RULES)
@pytest.mark.parametrize("trail", ["true", "false"])
def test_rules_reach_their_queues_and_only_encrypted(queue: str, trail: str) -> None:
    resources = made(CloudTrailEvents=trail)["Resources"]
    policy = resources[queue + "Policy"]["Properties"]
    assert [one.rsplit("/", 1)[-1] for one in policy["Queues"]] == [f"traffic-mirror-{queue}"]
    statements = policy["PolicyDocument"]["Statement"]
    events = {"Service": "events.amazonaws.com"}

    def lets_in(
        source: str,
        action: str = "sqs:SendMessage",
        principal: Mapping[str, str] = events,
        secure: str = "true",
        more: Statements = [],
    ) -> bool:
        arn = f"arn:aws:events:{HERE}:rule/traffic-mirror-{source}"
        keys = {"aws:SourceArn": arn, "aws:SecureTransport": secure}
        return allows([*statements, *more], action, SQS + queue, keys, dict(principal))

    for source in ("StartRule", "ChangeRule", "SweepRule", "OtherRule"):
        wanted = source in RULES[queue] and (source != "ChangeRule" or trail == "true")
        assert lets_in(source) == wanted, source
        assert not lets_in(source, secure="false")
    assert not lets_in("StartRule", principal={"Service": "sns.amazonaws.com"})
    assert not lets_in("StartRule", principal={"AWS": "999999999999"})
    assert not lets_in("StartRule", action="sqs:ReceiveMessage")
    # An identity with permissions of its own is held to encryption as well.
    own = [{"Effect": "Allow", "Action": "sqs:*", "Resource": "*"}]
    for action in ("sqs:SendMessage", "sqs:ReceiveMessage"):
        for secure in ("true", "false"):
            allowed = lets_in("x", action, {"AWS": ACCOUNT_ID}, secure, own)
            assert allowed == (secure == "true")


# The policies to paste


def test_permissions_to_paste_are_the_guides_eight() -> None:
    """They name no account or Region; otherwise they are the template's."""
    statements = pasted("permissions.json")
    actions = {action for one in statements for action in as_list(one["Action"])}
    assert actions == set(EIGHT)
    ec2 = [row for row in ALLOWED if row.action in EIGHT and not row.parameters]
    for row in ec2:
        assert allows(statements, row.action, row.resource, dict(row.keys)), row
    for row in REFUSED:
        if row.resource.startswith(EC2) and "target" not in row.resource and not row.parameters:
            assert not allows(statements, row.action, row.resource, dict(row.keys)), row


def test_a_preview_may_read_and_nothing_else() -> None:
    statements = pasted("preview-policy.json")
    actions = {action for one in statements for action in as_list(one["Action"])}
    stack = {"cloudformation:DescribeStacks", "cloudformation:ListStackResources"}
    assert actions == {*DESCRIBES, PREFIX_LISTS, ROUTES, "sts:AssumeRole", *stack}
    sensors = "arn:aws:iam::111122223333:role/traffic-mirror-sensors"
    assert allows(statements, "sts:AssumeRole", sensors)
    assert not allows(statements, "sts:AssumeRole", sensors.replace("-sensors", "-admin"))


# The policy in force in the simulated account


@dataclass
class Enforced:
    """A gate of the simulated account that lets through what the statements allow."""

    statements: Statements
    owners: Mapping[str, str]  # of the targets
    actions: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)

    def __call__(self, operation: str, parameters: dict[str, Any]) -> None:
        for action, resource, keys in self.requests_of(operation, parameters):
            self.actions.add(action)
            if not allows(self.statements, action, resource, keys):
                self.refused.add(action)
                raise Refusal(
                    "UnauthorizedOperation",
                    "You are not authorized to perform this operation. User: "
                    f"arn:aws:sts::{ACCOUNT_ID}:assumed-role/traffic-mirror/traffic-mirror is not "
                    f"authorized to perform: {action} on resource: {resource} because no "
                    f"identity-based policy allows the {action} action.",
                    403,
                )

    def requests_of(
        self, operation: str, parameters: Mapping[str, Any]
    ) -> Iterator[tuple[str, str, dict[str, str]]]:
        """Every action and resource that a call has."""
        action = f"ec2:{operation}"
        if operation == "CreateTrafficMirrorSession":
            target = parameters["TrafficMirrorTargetId"]
            owner = self.owners.get(target, ACCOUNT_ID)
            session = EC2 + "traffic-mirror-session/tms-0123456789abcdef0"
            yield action, EC2 + f"network-interface/{parameters['NetworkInterfaceId']}", {}
            yield action, f"arn:aws:ec2:{REGION}:{owner}:traffic-mirror-target/{target}", {}
            yield action, EC2 + f"traffic-mirror-filter/{parameters['TrafficMirrorFilterId']}", {}
            yield action, session, {}
            if parameters.get("TagSpecifications"):
                yield TAG, session, {"ec2:CreateAction": operation}
        elif operation == "GetManagedPrefixListEntries":
            yield action, EC2 + f"prefix-list/{parameters['PrefixListId']}", {}
        else:
            assert operation.startswith("Describe"), operation
            yield action, "*", {}


def enforce(account: SimulatedAccount, statements: Statements) -> Enforced:
    """Puts the statements in force, in place of earlier ones."""
    targets = account.ec2.describe_traffic_mirror_targets()["TrafficMirrorTargets"]
    gate = Enforced(statements, {one["TrafficMirrorTargetId"]: one["OwnerId"] for one in targets})
    account.gates[:] = [gate]
    return gate


def role_for(scene: Scene, *targets: str, **parameters: str) -> Statements:
    parameters |= {"FilterId": scene.filter_id, "Targets": ",".join(targets)}
    return role_statements(made(**parameters))


@pytest.mark.parametrize("allowed", ["true", "false"])
def test_every_call_is_allowed_but_for_what_parameters_refuse(scene: Scene, allowed: str) -> None:
    """Sensors of every kind: in another subnet, behind load balancers, shared, in another VPC."""
    near = scene.sensor(scene.subnet("a", acl=[acl_entry(100, "allow")]))
    balanced = scene.nlb_sensor([scene.subnet("a")], [scene.group(rule())])
    foreign = scene.foreign_sensor(zone="b")
    listed = scene.sensor(
        zone="c", groups=[scene.group(rule(prefix_list=scene.prefix_list("10.0.0.0/8")))]
    )
    scene.route_table(routes=[route("10.9.0.0/16", pcx=True)], main=True)
    distant = scene.sensor(scene.subnet("a", vpc=scene.vpc("10.9.0.0/16")))
    targets = [near, balanced, foreign, listed, distant]
    parameters = {"AllowPrefixLists": allowed, "AllowRoutes": allowed}
    gate = enforce(scene, role_for(scene, *targets, **parameters))
    tags = {"EXCLUDE_TAGS": "traffic-mirror=sensor"}
    for target in (near, balanced, distant):
        scene.configure(target, **tags)
        event = running_event(scene.instance(scene.subnet("a")))
        assert [scene.run(event).outcomes for _ in (1, 2)] == [["created"], ["exists"]]
    scene.configure(foreign, ALLOW_UNVERIFIED="true")
    assert scene.run(scene.instance(scene.subnet("b"))).outcomes == ["created"]
    scene.configure(listed)
    expected = ["created"] if allowed == "true" else ["unmirrored"]
    assert scene.run(scene.instance(scene.subnet("c"))).outcomes == expected
    scene.configure([near, balanced], **tags)
    scene.instance(scene.subnet("a"))
    assert "created" in scene.run(scheduled_event()).outcomes
    assert gate.actions == {*EIGHT, PREFIX_LISTS, ROUTES}
    assert gate.refused == (set() if allowed == "true" else {PREFIX_LISTS, ROUTES})


def test_the_module_holds_no_call_that_the_policy_lacks() -> None:
    """Whatever the scenarios leave out: the names of all calls stand in the module as text."""
    operations = boto3.Session().client("ec2", region_name=REGION).meta.method_to_api_mapping
    tree = ast.parse(inspect.getsource(lambda_traffic_mirror))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    called = {f"ec2:{operations[text]}" for text in texts if text in operations}
    # A tag is given while the session is created, which takes a permission and no call.
    assert called | {TAG} == {*EIGHT, PREFIX_LISTS, ROUTES}


@pytest.mark.parametrize("permission", EIGHT)
def test_a_permission_taken_away_is_named(scene: Scene, permission: str) -> None:
    target = scene.sensor()
    scene.configure(target)
    less = [
        {**one, "Action": [each for each in as_list(one["Action"]) if each != permission]}
        for one in role_for(scene, target)
    ]
    gate = enforce(scene, less)
    instance = scene.instance(scene.subnet("a"))  # another subnet than the sensor's: ACLs count
    for event in (running_event(instance), {"sweep": True}):
        with pytest.raises(MirroringError) as caught:
            scene.run(event)
        assert set(re.findall(r"\bec2:[A-Z]\w+", str(caught.value))) == {permission}
    assert gate.refused == {permission}
    assert scene.sessions() == []


def test_a_variable_changed_in_the_console_and_not_in_the_stack_is_told(scene: Scene) -> None:
    target, other = scene.sensor(), scene.sensor()
    scene.configure(other)
    gate = enforce(scene, role_for(scene, target))
    with pytest.raises(MirroringError, match=CREATE):
        scene.run(scene.instance(scene.subnet("a")))
    assert gate.refused == {CREATE}
