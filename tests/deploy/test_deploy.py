"""What deploy/ promises: template, permissions, events and the one command."""

from __future__ import annotations

import copy
import io
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from cfnlint import ManualArgs, lint_file
from cloudformation import (
    DEPLOY,
    TEMPLATE,
    ParameterError,
    allows,
    as_list,
    load,
    resolve,
    role_statements,
)
from conftest import VARIABLES
from moto import mock_aws

REQUIRED = {
    "CodeBucket": "my-bucket",
    "CodeKey": "lambda_traffic_mirror/abc.zip",
    "FilterId": "tmf-0a1b2c3d4e5f60718",
    "Targets": "tmt-0bce8038d06d6c745, tmt-0fedcba9876543210",
}
HERE = "arn:aws:ec2:us-east-1:123456789012"

# The eight permissions of the guide.
DESCRIBES = {
    "ec2:DescribeInstances",
    "ec2:DescribeNetworkAcls",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeTrafficMirrorSessions",
    "ec2:DescribeTrafficMirrorTargets",
}
EIGHT = DESCRIBES | {"ec2:CreateTags", "ec2:CreateTrafficMirrorSession"}
NINTH = "ec2:GetManagedPrefixListEntries"


def stack(**parameters: str) -> dict[str, Any]:
    """The template with its required parameters and these."""
    return resolve(parameters={**REQUIRED, **parameters})


def properties(resolved: dict[str, Any], logical: str) -> dict[str, Any]:
    found: dict[str, Any] = resolved["Resources"][logical]["Properties"]
    return found


def of_type(resolved: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    return {
        logical: resource["Properties"]
        for logical, resource in resolved["Resources"].items()
        if resource["Type"] == kind
    }


def read(name: str) -> Any:
    return json.loads((DEPLOY / name).read_text(encoding="utf-8"))


# The template as a document


def test_cfn_lint_finds_nothing() -> None:
    # Informational checks included: they ask for policies of deletion and retention.
    assert lint_file(TEMPLATE, config=ManualArgs(include_checks=["I"])) == []


def test_template_is_plain_and_small_enough_to_deploy_without_a_bucket() -> None:
    template = load()
    assert "Transform" not in template
    assert "Fn::Transform" not in TEMPLATE.read_text(encoding="utf-8")
    assert TEMPLATE.stat().st_size < 51_200


def test_two_stacks_can_stand_side_by_side() -> None:
    """No resource has a name that the template fixes."""
    for logical, resource in load()["Resources"].items():
        kind = resource["Type"].split("::")[-1]
        names = {"Name", f"{kind}Name", "DashboardName", "AlarmName", "QueueName", "LogGroupName"}
        if kind in ("Permission", "EventInvokeConfig", "EventSourceMapping"):
            names.discard("FunctionName")
        if kind == "Policy":  # a name within the role
            names.discard("PolicyName")
        assert not names & set(resource["Properties"]), logical


def test_every_parameter_is_explained_grouped_and_used() -> None:
    template = load()
    interface = template["Metadata"]["AWS::CloudFormation::Interface"]
    grouped = [name for group in interface["ParameterGroups"] for name in group["Parameters"]]
    assert sorted(grouped) == sorted(template["Parameters"])
    assert set(interface["ParameterLabels"]) == set(template["Parameters"])
    for name, parameter in template["Parameters"].items():
        assert parameter["Description"].strip(), name
        assert parameter["ConstraintDescription"], name
        assert {"AllowedPattern", "AllowedValues", "MaxValue"} & set(parameter), name
        assert ("Default" in parameter) == (name not in REQUIRED), name


ACCEPTED = [
    ("CodeBucket", "a.b-c1"),
    ("CodeKey", "lambda_traffic_mirror/0a1b.zip"),
    ("FilterId", "tmf-0a1b2c3d4e5f60718"),
    ("FilterId", "traf-mir-fil-0a1b2c3d"),
    ("Targets", "tmt-1"),
    ("Targets", "tmt-1,tmt-2"),
    ("Targets", "tmt-1, tmt-2 ,tmt-3"),
    ("Targets", "traf-mir-tar-0a1b2c3d"),
    ("IncludeTags", ""),
    ("IncludeTags", "env=prod,team"),
    ("IncludeTags", "key=a=b, other key=x y,empty="),
    ("ExcludeTags", ""),
    ("ExcludeTags", "traffic-mirror=sensor,aws:autoscaling:groupName=x"),
    ("LocalZoneOnly", "false"),
    ("SessionNumber", "1"),
    ("SessionNumber", "32766"),
    ("VirtualNetworkId", ""),
    ("VirtualNetworkId", "0"),
    ("VirtualNetworkId", "9999999"),
    ("VirtualNetworkId", "10000000"),
    ("VirtualNetworkId", "16777209"),
    ("VirtualNetworkId", "16777215"),
    ("PacketLength", ""),
    ("PacketLength", "1"),
    ("PacketLength", "999"),
    ("PacketLength", "8499"),
    ("PacketLength", "8500"),
    ("CacheSeconds", "0"),
    ("DryRun", "true"),
    ("SweepRate", "rate(1 minute)"),
    ("SweepRate", "rate(5 minutes)"),
    ("SweepRate", "rate(90 minutes)"),
    ("SweepRate", "rate(1 hour)"),
    ("SweepRate", "rate(2 days)"),
    ("AlarmTopicArn", ""),
    ("AlarmTopicArn", "arn:aws:sns:us-east-1:123456789012:alarms"),
    ("AlarmTopicArn", "arn:aws-us-gov:sns:us-gov-west-1:123456789012:On_call-1"),
    ("LogRetentionDays", "1"),
    ("LogLevel", "DEBUG"),
]

REFUSED = [
    ("CodeBucket", ""),
    ("CodeBucket", "s3://bucket"),
    ("CodeKey", ""),
    ("FilterId", ""),
    ("FilterId", "*"),
    ("FilterId", "tmt-0a1b2c3d4e5f60718"),
    ("FilterId", "tmf-1,tmf-2"),
    ("Targets", ""),
    ("Targets", "*"),
    ("Targets", "tmt-*"),
    ("Targets", "tmf-0a1b2c3d4e5f60718"),
    ("Targets", "eni-0a1b2c3d4e5f60718"),
    ("Targets", "tmt-1,"),
    ("Targets", "tmt-1,,tmt-2"),
    ("Targets", "tmt-1 tmt-2"),
    ("IncludeTags", "=value"),
    ("IncludeTags", "a,,b"),
    ("ExcludeTags", "a=b,"),
    ("ExcludeTags", "x" * 513),
    ("LocalZoneOnly", ""),
    ("LocalVpcOnly", "True"),
    ("AllowUnverified", "yes"),
    ("AllowPrefixLists", "1"),
    ("SessionNumber", "0"),
    ("SessionNumber", "32767"),
    ("SessionNumber", "one"),
    ("VirtualNetworkId", "-1"),
    ("VirtualNetworkId", "16777216"),
    ("VirtualNetworkId", "20000000"),
    ("VirtualNetworkId", "100000000"),
    ("PacketLength", "0"),
    ("PacketLength", "8501"),
    ("PacketLength", "9000"),
    ("PacketLength", "10000"),
    ("CacheSeconds", "-1"),
    ("CacheSeconds", "3601"),
    ("DryRun", "maybe"),
    ("SweepRate", "5 minutes"),
    ("SweepRate", "rate(0 minutes)"),
    ("SweepRate", "rate(1 minutes)"),
    ("SweepRate", "rate(5 minute)"),
    ("SweepRate", "rate(5 seconds)"),
    ("AlarmTopicArn", "alarms"),
    ("AlarmTopicArn", "arn:aws:sqs:us-east-1:123456789012:alarms"),
    ("LogRetentionDays", "10"),
    ("LogLevel", "WARN"),
]


@pytest.mark.parametrize(("name", "value"), ACCEPTED)
def test_parameter_is_accepted(name: str, value: str) -> None:
    stack(**{name: value})


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_parameter_is_refused(name: str, value: str) -> None:
    with pytest.raises(ParameterError, match=name):
        stack(**{name: value})


def test_every_parameter_has_accepted_and_refused_values() -> None:
    names = set(load()["Parameters"])
    assert {name for name, _ in ACCEPTED} | {
        "LocalVpcOnly",
        "AllowUnverified",
        "AllowPrefixLists",
    } == names
    assert {name for name, _ in REFUSED} == names


def test_what_would_hurt_to_lose_outlives_the_stack() -> None:
    keeps = {"LogGroup", "DeadLetterQueue", "FailedSweepQueue"}
    for logical, resource in load()["Resources"].items():
        kept = resource.get("DeletionPolicy"), resource.get("UpdateReplacePolicy")
        if logical in keeps:
            # A failed first deployment leaves nothing behind.
            assert kept == ("RetainExceptOnCreate", "Retain"), logical
        else:
            assert kept in ((None, None), ("Delete", "Delete")), logical


def test_outputs() -> None:
    outputs = {name: output["Value"] for name, output in stack()["Outputs"].items()}
    assert outputs == {
        "FunctionName": "traffic-mirror-Function",
        "RoleArn": "arn:aws:iam::123456789012:role/traffic-mirror-Role",
        "QueueUrl": "https://sqs.us-east-1.amazonaws.com/123456789012/traffic-mirror-Queue",
        "DeadLetterQueueUrl": "https://sqs.us-east-1.amazonaws.com/123456789012/traffic-mirror-DeadLetterQueue",
        "FailedSweepQueueUrl": "https://sqs.us-east-1.amazonaws.com/123456789012/traffic-mirror-FailedSweepQueue",
        "LogGroupName": "traffic-mirror-LogGroup",
        "DashboardUrl": "https://console.aws.amazon.com/cloudwatch/home?region=us-east-1"
        "#dashboards/dashboard/traffic-mirror-Dashboard",
    }


# The function


def test_function() -> None:
    function = properties(stack(LogLevel="DEBUG"), "Function")
    assert function["Handler"] == "lambda_traffic_mirror.lambda_handler"
    assert function["Runtime"].startswith("python3.")
    assert function["Architectures"] == ["arm64"]
    assert function["Code"] == {"S3Bucket": "my-bucket", "S3Key": "lambda_traffic_mirror/abc.zip"}
    assert function["LoggingConfig"] == {
        "LogGroup": "traffic-mirror-LogGroup",
        "LogFormat": "JSON",
        "ApplicationLogLevel": "DEBUG",
    }
    # Reserved concurrency cannot be deployed in an account with the initial limit.
    assert "ReservedConcurrentExecutions" not in function


def test_variables_are_those_that_the_function_knows() -> None:
    variables = properties(stack(), "Function")["Environment"]["Variables"]
    assert set(variables) == set(VARIABLES)
    assert variables == {
        "filter_id": "tmf-0a1b2c3d4e5f60718",
        "targets": "tmt-0bce8038d06d6c745,tmt-0fedcba9876543210",
        "LOCAL_ZONE_ONLY": "true",
        "LOCAL_VPC_ONLY": "false",
        "INCLUDE_TAGS": "",
        "EXCLUDE_TAGS": "traffic-mirror=sensor",
        "SESSION_NUMBER": "1",
        "VIRTUAL_NETWORK_ID": "",
        "PACKET_LENGTH": "",
        "ALLOW_UNVERIFIED": "false",
        "CACHE_SECONDS": "60",
        "DRY_RUN": "false",
    }


@pytest.mark.parametrize(
    ("parameter", "variable", "value"),
    [
        ("LocalZoneOnly", "LOCAL_ZONE_ONLY", "false"),
        ("LocalVpcOnly", "LOCAL_VPC_ONLY", "true"),
        ("IncludeTags", "INCLUDE_TAGS", "env=prod,team"),
        ("ExcludeTags", "EXCLUDE_TAGS", ""),
        ("SessionNumber", "SESSION_NUMBER", "7"),
        ("VirtualNetworkId", "VIRTUAL_NETWORK_ID", "4711"),
        ("PacketLength", "PACKET_LENGTH", "128"),
        ("AllowUnverified", "ALLOW_UNVERIFIED", "true"),
        ("CacheSeconds", "CACHE_SECONDS", "0"),
        ("DryRun", "DRY_RUN", "true"),
    ],
)
def test_parameter_reaches_the_function(parameter: str, variable: str, value: str) -> None:
    variables = properties(stack(**{parameter: value}), "Function")["Environment"]["Variables"]
    assert variables[variable] == value


def test_a_hundred_targets_fit() -> None:
    """Lambda takes 4 KB of variables, IAM 10,240 characters of policies in a role."""
    targets = ",".join(f"tmt-{number:017x}" for number in range(100))
    for region, partition in [("us-east-1", "aws"), ("us-gov-west-1", "aws-us-gov")]:
        resolved = resolve(
            parameters={
                **REQUIRED,
                "Targets": targets,
                "IncludeTags": "x" * 512,
                "ExcludeTags": "x" * 512,
            },
            region=region,
            partition=partition,
            stack="s" * 30,
        )
        variables = properties(resolved, "Function")["Environment"]["Variables"]
        assert sum(len(key) + len(value) for key, value in variables.items()) < 4096
        policies = properties(resolved, "Role")["Policies"]
        size = sum(
            len(re.sub(r"\s", "", json.dumps(policy["PolicyDocument"]))) for policy in policies
        )
        assert size < 10_240


# What the function may do


def needed() -> list[tuple[str, str, dict[str, str]]]:
    """Every action and resource that the function and Lambda need, once each."""
    calls: list[tuple[str, str, dict[str, str]]] = [
        (action, "*", {}) for action in sorted(DESCRIBES)
    ]
    calls += [
        ("ec2:CreateTrafficMirrorSession", arn, {})
        for arn in (
            f"{HERE}:network-interface/eni-1",
            f"{HERE}:traffic-mirror-session/tms-1",
            f"{HERE}:traffic-mirror-filter/tmf-0a1b2c3d4e5f60718",
            f"{HERE}:traffic-mirror-target/tmt-0bce8038d06d6c745",
            # Shared by another account.
            "arn:aws:ec2:us-east-1:999999999999:traffic-mirror-target/tmt-0fedcba9876543210",
        )
    ]
    calls.append(
        (
            "ec2:CreateTags",
            f"{HERE}:traffic-mirror-session/tms-1",
            {"ec2:CreateAction": "CreateTrafficMirrorSession"},
        )
    )
    log = "arn:aws:logs:us-east-1:123456789012:log-group:traffic-mirror-LogGroup:log-stream:"
    queue = "arn:aws:sqs:us-east-1:123456789012:traffic-mirror-"
    calls += [
        ("logs:CreateLogStream", log, {}),
        ("logs:PutLogEvents", log + "2026/01/01/[$LATEST]0", {}),
        ("sqs:ReceiveMessage", queue + "Queue", {}),
        ("sqs:DeleteMessage", queue + "Queue", {}),
        ("sqs:GetQueueAttributes", queue + "Queue", {}),
        ("sqs:SendMessage", queue + "FailedSweepQueue", {}),
    ]
    return calls


PREFIX_LISTS: list[tuple[str, str, dict[str, str]]] = [
    (NINTH, f"{HERE}:prefix-list/pl-1", {}),
    (NINTH, "arn:aws:ec2:us-east-1:aws:prefix-list/pl-2", {}),
]


def actions_of(statements: list[dict[str, Any]]) -> set[str]:
    return {action for statement in statements for action in as_list(statement["Action"])}


def test_ec2_permissions_are_the_eight_of_the_guide() -> None:
    actions = actions_of(role_statements(stack()))
    assert {action for action in actions if action.startswith("ec2:")} == EIGHT


def test_ninth_permission_only_on_request() -> None:
    assert NINTH not in actions_of(role_statements(stack()))
    statements = role_statements(stack(AllowPrefixLists="true"))
    assert {action for action in actions_of(statements) if action.startswith("ec2:")} == EIGHT | {
        NINTH
    }
    assert all(allows(statements, *call) for call in PREFIX_LISTS)


@pytest.mark.parametrize("call", needed(), ids=lambda call: f"{call[0]} {call[1]}")
def test_role_allows(call: tuple[str, str, dict[str, str]]) -> None:
    assert allows(role_statements(stack()), *call)


@pytest.mark.parametrize(
    ("action", "resource", "context"),
    [
        # Only the given filter and targets, only here.
        ("ec2:CreateTrafficMirrorSession", f"{HERE}:traffic-mirror-filter/tmf-other", {}),
        ("ec2:CreateTrafficMirrorSession", f"{HERE}:traffic-mirror-target/tmt-other", {}),
        (
            "ec2:CreateTrafficMirrorSession",
            f"{HERE}:traffic-mirror-target/tmt-0bce8038d06d6c7450",
            {},
        ),
        (
            "ec2:CreateTrafficMirrorSession",
            "arn:aws:ec2:eu-west-1:123456789012:network-interface/eni-1",
            {},
        ),
        (
            "ec2:CreateTrafficMirrorSession",
            "arn:aws:ec2:us-east-1:999999999999:network-interface/eni-1",
            {},
        ),
        # Tags only on a session, only while it is created.
        ("ec2:CreateTags", f"{HERE}:traffic-mirror-session/tms-1", {}),
        (
            "ec2:CreateTags",
            f"{HERE}:traffic-mirror-session/tms-1",
            {"ec2:CreateAction": "CreateTrafficMirrorTarget"},
        ),
        (
            "ec2:CreateTags",
            f"{HERE}:instance/i-1",
            {"ec2:CreateAction": "CreateTrafficMirrorSession"},
        ),
        # Never anything that takes away or changes.
        ("ec2:DeleteTrafficMirrorSession", f"{HERE}:traffic-mirror-session/tms-1", {}),
        ("ec2:ModifyTrafficMirrorSession", f"{HERE}:traffic-mirror-session/tms-1", {}),
        ("ec2:DeleteTags", f"{HERE}:traffic-mirror-session/tms-1", {}),
        # Only its own log and queues.
        ("logs:CreateLogGroup", "arn:aws:logs:us-east-1:123456789012:log-group:x", {}),
        (
            "logs:PutLogEvents",
            "arn:aws:logs:us-east-1:123456789012:log-group:traffic-mirror-LogGroup2:log-stream:x",
            {},
        ),
        ("sqs:SendMessage", "arn:aws:sqs:us-east-1:123456789012:traffic-mirror-Queue", {}),
        (
            "sqs:SendMessage",
            "arn:aws:sqs:us-east-1:123456789012:traffic-mirror-DeadLetterQueue",
            {},
        ),
        (
            "sqs:ReceiveMessage",
            "arn:aws:sqs:us-east-1:123456789012:traffic-mirror-DeadLetterQueue",
            {},
        ),
    ],
)
def test_role_does_not_allow(action: str, resource: str, context: dict[str, str]) -> None:
    assert not allows(role_statements(stack(AllowPrefixLists="true")), action, resource, context)


def test_nothing_in_the_role_is_wider_than_it_has_to_be() -> None:
    for statement in role_statements(stack(AllowPrefixLists="true")):
        assert not {"NotAction", "NotResource"} & set(statement)
        actions = as_list(statement["Action"])
        assert not any("*" in action for action in actions)
        # Taking a message off the queue is the only thing it deletes.
        verbs = [action.split(":")[1] for action in actions if action != "sqs:DeleteMessage"]
        assert all(
            verb.startswith(("Create", "Describe", "Get", "Put", "Receive", "Send"))
            for verb in verbs
        )
        if set(actions) <= DESCRIBES:
            assert statement["Resource"] == "*"
        else:
            assert all(arn.startswith("arn:aws:") for arn in as_list(statement["Resource"]))


def test_nothing_in_the_role_can_be_taken_away() -> None:
    """Each action and each resource is there for a call that needs it."""
    statements = role_statements(stack(AllowPrefixLists="true"))
    calls = needed() + PREFIX_LISTS
    tried = 0
    for number, statement in enumerate(statements):
        for key in ("Action", "Resource"):
            for part in as_list(statement[key]):
                less = copy.deepcopy(statements)
                less[number][key] = [one for one in as_list(statement[key]) if one != part]
                assert not all(allows(less, *call) for call in calls), (statement["Sid"], part)
                tried += 1
    assert tried > 20


@pytest.mark.parametrize(
    ("partition", "region"),
    [("aws", "eu-west-1"), ("aws-cn", "cn-north-1"), ("aws-us-gov", "us-gov-west-1")],
)
def test_role_in_every_partition(partition: str, region: str) -> None:
    resolved = resolve(
        parameters={**REQUIRED, "AllowPrefixLists": "true"}, partition=partition, region=region
    )
    statements = role_statements(resolved)
    arns = [arn for statement in statements for arn in as_list(statement["Resource"]) if arn != "*"]
    assert {arn.split(":")[1] for arn in arns} == {partition}
    for target in ("tmt-0bce8038d06d6c745", "tmt-0fedcba9876543210"):
        arn = f"arn:{partition}:ec2:{region}:123456789012:traffic-mirror-target/{target}"
        assert allows(statements, "ec2:CreateTrafficMirrorSession", arn)


def test_only_lambda_assumes_the_role() -> None:
    (statement,) = properties(stack(), "Role")["AssumeRolePolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": "lambda.amazonaws.com"}
    assert statement["Action"] == "sts:AssumeRole"


def test_permissions_to_paste_are_those_of_the_template() -> None:
    """The file names no account, Region or ID; otherwise it is the same."""
    pasted = read("permissions.json")
    assert pasted["Version"] == "2012-10-17"
    deployed = [one for one in role_statements(stack()) if "ec2:" in as_list(one["Action"])[0]]
    assert actions_of(pasted["Statement"]) == actions_of(deployed) == EIGHT

    def about(statements: list[dict[str, Any]], action: str, key: str) -> list[Any]:
        return [one.get(key) for one in statements if action in as_list(one["Action"])]

    for action in EIGHT:
        arns = [arn for arns in about(deployed, action, "Resource") for arn in as_list(arns)]
        patterns = [
            arn for arns in about(pasted["Statement"], action, "Resource") for arn in as_list(arns)
        ]

        def kind(arn: str) -> str:
            return arn.rsplit(":", maxsplit=1)[-1].split("/", maxsplit=1)[0]

        assert {kind(arn) for arn in arns} == {kind(arn) for arn in patterns}, action
        assert len(patterns) == len({kind(arn) for arn in patterns})
        (condition,) = {json.dumps(one) for one in about(pasted["Statement"], action, "Condition")}
        assert {json.dumps(one) for one in about(deployed, action, "Condition")} == {condition}
    for action, resource, context in needed():
        if action.startswith("ec2:"):
            assert allows(pasted["Statement"], action, resource, context)
    assert not allows(pasted["Statement"], "ec2:CreateTags", f"{HERE}:traffic-mirror-session/tms-1")


# The way of an event


def test_rule_has_the_pattern_of_the_guide() -> None:
    pattern = read("event-pattern.json")
    assert pattern == {
        "source": ["aws.ec2"],
        "detail-type": ["EC2 Instance State-change Notification"],
        "detail": {"state": ["running"]},
    }
    assert properties(stack(), "StartRule")["EventPattern"] == pattern


def test_events_to_paste() -> None:
    pattern, event = read("event-pattern.json"), read("running-event.json")
    assert event["source"] in pattern["source"]
    assert event["detail-type"] in pattern["detail-type"]
    assert event["detail"]["state"] in pattern["detail"]["state"]
    assert event["resources"] == [
        f"arn:aws:ec2:{event['region']}:{event['account']}:instance/{event['detail']['instance-id']}"
    ]
    assert read("test-event.json") == {"detail": {"instance-id": event["detail"]["instance-id"]}}
    assert read("dry-run-sweep.json") == {"sweep": True, "dry_run": True}


def test_instances_that_start_go_through_the_queue() -> None:
    resolved = stack()
    (target,) = properties(resolved, "StartRule")["Targets"]
    queue = "arn:aws:sqs:us-east-1:123456789012:traffic-mirror-Queue"
    dead = "arn:aws:sqs:us-east-1:123456789012:traffic-mirror-DeadLetterQueue"
    assert target["Arn"] == queue
    # What the rule cannot deliver is not lost either.
    assert target["DeadLetterConfig"] == {"Arn": dead}
    assert properties(resolved, "Queue")["RedrivePolicy"]["deadLetterTargetArn"] == dead
    mapping = properties(resolved, "QueueMapping")
    assert mapping["EventSourceArn"] == queue
    assert mapping["FunctionName"] == "traffic-mirror-Function"
    # Without it one failed event brings the whole batch back.
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert mapping["ScalingConfig"] == {"MaximumConcurrency": 2}


def test_times_and_numbers_fit_each_other() -> None:
    resolved = stack()
    timeout = properties(resolved, "Function")["Timeout"]
    queue, mapping = properties(resolved, "Queue"), properties(resolved, "QueueMapping")
    window = mapping["MaximumBatchingWindowInSeconds"]
    assert queue["VisibilityTimeout"] >= 6 * timeout + window
    assert mapping["BatchSize"] <= 10 or window >= 1
    # A window makes Lambda wait up to 20 seconds for a lone event.
    assert window == 0
    assert mapping["ScalingConfig"]["MaximumConcurrency"] >= 2
    # Fewer would count deliveries that Lambda throttled.
    receives = queue["RedrivePolicy"]["maxReceiveCount"]
    assert receives >= 5
    # An event leaves the queue for the other one, never for good.
    dead = properties(resolved, "DeadLetterQueue")
    assert receives * queue["VisibilityTimeout"] < queue["MessageRetentionPeriod"]
    assert queue["MessageRetentionPeriod"] < dead["MessageRetentionPeriod"] == 14 * 24 * 3600
    # Three attempts of a sweep, after one minute and after two more.
    retry = properties(resolved, "SweepRetry")
    assert retry["MaximumEventAgeInSeconds"] > 3 * timeout + 60 + 120
    # The shortest rate is a minute: a sweep is over when the next one starts.
    assert timeout <= 60


def test_every_queue_is_encrypted_by_sqs() -> None:
    queues = of_type(stack(), "AWS::SQS::Queue")
    assert len(queues) == 3
    for queue in queues.values():
        assert queue["SqsManagedSseEnabled"] is True
        assert "KmsMasterKeyId" not in queue


@pytest.mark.parametrize(
    ("policy", "queue", "rules"),
    [
        ("QueuePolicy", "Queue", ["StartRule"]),
        ("DeadLetterQueuePolicy", "DeadLetterQueue", ["StartRule", "SweepRule"]),
    ],
)
def test_queue_lets_in_only_its_rules(policy: str, queue: str, rules: list[str]) -> None:
    document = properties(stack(), policy)
    assert document["Queues"] == [
        f"https://sqs.us-east-1.amazonaws.com/123456789012/traffic-mirror-{queue}"
    ]
    (statement,) = document["PolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": "events.amazonaws.com"}
    assert statement["Action"] == "sqs:SendMessage"
    assert statement["Resource"] == f"arn:aws:sqs:us-east-1:123456789012:traffic-mirror-{queue}"
    sources = as_list(statement["Condition"]["ArnEquals"]["aws:SourceArn"])
    assert sources == [
        f"arn:aws:events:us-east-1:123456789012:rule/traffic-mirror-{rule}" for rule in rules
    ]


def test_queue_of_failed_sweeps_has_no_policy() -> None:
    """Lambda writes to it with the role of the function."""
    policies = of_type(stack(), "AWS::SQS::QueuePolicy")
    assert not any(
        "FailedSweepQueue" in url for policy in policies.values() for url in policy["Queues"]
    )


def test_sweeps() -> None:
    resolved = stack(SweepRate="rate(1 hour)")
    rule = properties(resolved, "SweepRule")
    assert rule["ScheduleExpression"] == "rate(1 hour)"
    (target,) = rule["Targets"]
    assert target["Arn"] == "arn:aws:lambda:us-east-1:123456789012:function:traffic-mirror-Function"
    # No Input: the function knows a sweep by the 'Scheduled Event' of the rule.
    assert not {"Input", "InputPath", "InputTransformer"} & set(target)
    assert target["DeadLetterConfig"]["Arn"].endswith("-DeadLetterQueue")
    permission = properties(resolved, "SweepPermission")
    assert permission == {
        "FunctionName": "traffic-mirror-Function",
        "Action": "lambda:InvokeFunction",
        "Principal": "events.amazonaws.com",
        "SourceArn": "arn:aws:events:us-east-1:123456789012:rule/traffic-mirror-SweepRule",
    }
    retry = properties(resolved, "SweepRetry")
    assert retry["MaximumRetryAttempts"] == 2
    assert retry["DestinationConfig"] == {
        "OnFailure": {
            "Destination": "arn:aws:sqs:us-east-1:123456789012:traffic-mirror-FailedSweepQueue"
        }
    }
    assert properties(stack(), "SweepRule")["ScheduleExpression"] == "rate(5 minutes)"


# What is seen of it

ALARMS = {
    ("TrafficMirror", "unmirrored", "FunctionName", "traffic-mirror-Function"),
    ("TrafficMirror", "blocked", "FunctionName", "traffic-mirror-Function"),
    ("TrafficMirror", "failed", "FunctionName", "traffic-mirror-Function"),
    ("TrafficMirror", "deferred", "FunctionName", "traffic-mirror-Function"),
    ("AWS/Lambda", "Errors", "FunctionName", "traffic-mirror-Function"),
    ("AWS/Lambda", "Throttles", "FunctionName", "traffic-mirror-Function"),
    (
        "AWS/SQS",
        "ApproximateNumberOfMessagesVisible",
        "QueueName",
        "traffic-mirror-DeadLetterQueue",
    ),
    (
        "AWS/SQS",
        "ApproximateNumberOfMessagesVisible",
        "QueueName",
        "traffic-mirror-FailedSweepQueue",
    ),
}


def test_alarms() -> None:
    alarms = of_type(stack(), "AWS::CloudWatch::Alarm").values()
    found = [
        (alarm["Namespace"], alarm["MetricName"], dimension["Name"], dimension["Value"])
        for alarm in alarms
        for dimension in alarm["Dimensions"]
    ]
    assert sorted(found) == sorted(ALARMS)
    for alarm in alarms:
        assert alarm["AlarmDescription"]
        assert (alarm["Threshold"], alarm["ComparisonOperator"]) == (0, "GreaterThanThreshold")
        assert alarm["TreatMissingData"] == "notBreaching"
        assert alarm["Statistic"] in ("Maximum", "Sum")
        # One bad period is enough.
        assert alarm.get("DatapointsToAlarm", alarm["EvaluationPeriods"]) == 1
        if alarm["Namespace"] != "AWS/SQS":
            # Sweeps come every five minutes; a period without one must not clear it.
            assert alarm["Period"] * alarm["EvaluationPeriods"] >= 3 * 300


def test_alarms_go_to_the_topic_if_there_is_one() -> None:
    topic = "arn:aws:sns:us-east-1:123456789012:alarms"
    for alarm in of_type(stack(AlarmTopicArn=topic), "AWS::CloudWatch::Alarm").values():
        assert alarm["AlarmActions"] == alarm["OKActions"] == [topic]
    for alarm in of_type(stack(), "AWS::CloudWatch::Alarm").values():
        assert not {"AlarmActions", "OKActions"} & set(alarm)


def test_dashboard() -> None:
    body = json.loads(properties(stack(), "Dashboard")["DashboardBody"])
    widgets = body["widgets"]
    # Every metric belongs to this stack, and every alarm has its graph.
    metrics = {
        tuple(metric[:4])
        for widget in widgets
        for metric in widget["properties"].get("metrics", [])
        if isinstance(metric[0], str)
    }
    assert metrics >= ALARMS
    assert all(metric[3].startswith("traffic-mirror-") for metric in metrics)
    shown = {metric[1] for metric in metrics}
    assert shown >= {"created", "planned", "exists", "skipped", "Coverage", "Duration"}
    assert "ApproximateAgeOfOldestMessage" in shown
    (sessions,) = [
        metric[0]["expression"]
        for widget in widgets
        for metric in widget["properties"].get("metrics", [])
        if isinstance(metric[0], dict)
    ]
    assert sessions == (
        'SEARCH(\'{TrafficMirror,FunctionName,TargetId} MetricName="Sessions" '
        "FunctionName=\"traffic-mirror-Function\"', 'Maximum', 300)"
    )
    (log,) = [widget["properties"]["query"] for widget in widgets if widget["type"] == "log"]
    assert log.startswith("SOURCE 'traffic-mirror-LogGroup' |")
    for field in (
        "outcome",
        "instance_id",
        "interface_id",
        "reason",
        "unmirrored",
        "blocked",
        "failed",
    ):
        assert field in log
    # The grid is 24 wide, and no widget lies on another.
    taken: set[tuple[int, int]] = set()
    for widget in widgets:
        cells = {
            (x, y)
            for x in range(widget["x"], widget["x"] + widget["width"])
            for y in range(widget["y"], widget["y"] + widget["height"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert widget["properties"]["region"] == "us-east-1"
    (timeout,) = [
        line["value"]
        for widget in widgets
        for line in widget["properties"].get("annotations", {}).get("horizontal", [])
    ]
    assert timeout == 1000 * properties(stack(), "Function")["Timeout"]


# In a simulated account

# moto's CloudFormation does not create these. The tests above look at them.
MOTO_LACKS = {"AWS::CloudWatch::Alarm", "AWS::Lambda::EventInvokeConfig", "AWS::SQS::QueuePolicy"}


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        yield


@pytest.mark.filterwarnings("ignore:Tried to parse:UserWarning")
def test_stack_is_created(account: None) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("lambda_traffic_mirror.py", "def lambda_handler(event, context): pass\n")
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket=REQUIRED["CodeBucket"])
    s3.put_object(Bucket=REQUIRED["CodeBucket"], Key=REQUIRED["CodeKey"], Body=content.getvalue())

    cloudformation = boto3.client("cloudformation")
    parameters = {**REQUIRED, "Targets": "tmt-1,tmt-2", "AllowPrefixLists": "true"}
    for name in ("one", "two"):
        cloudformation.create_stack(
            StackName=name,
            TemplateBody=TEMPLATE.read_text(encoding="utf-8"),
            Capabilities=["CAPABILITY_IAM"],
            Parameters=[
                {"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()
            ],
        )
        (created,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
        assert created["StackStatus"] == "CREATE_COMPLETE"
        outputs = {output["OutputKey"]: output["OutputValue"] for output in created["Outputs"]}
        assert set(outputs) == set(load()["Outputs"])
        resources = cloudformation.describe_stack_resources(StackName=name)["StackResources"]
        wanted = {
            logical
            for logical, resource in load()["Resources"].items()
            if resource["Type"] not in MOTO_LACKS
        }
        assert {one["LogicalResourceId"] for one in resources if one.get("ResourceType")} >= wanted

    function = boto3.client("lambda").get_function_configuration(
        FunctionName=outputs["FunctionName"]
    )
    assert function["Handler"] == "lambda_traffic_mirror.lambda_handler"
    assert function["Environment"]["Variables"]["targets"] == "tmt-1,tmt-2"
    (mapping,) = boto3.client("lambda").list_event_source_mappings(
        FunctionName=outputs["FunctionName"]
    )["EventSourceMappings"]
    assert mapping["ScalingConfig"] == {"MaximumConcurrency": 2}
