"""What has to hold for the template, whatever its parameters are.

Each check takes a resolved template and raises AssertionError where a promise is broken. They run
over a matrix of parameters and partitions, and on copies of the template in which something was
taken away, switched off or widened: there one of them has to fail.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from alarms import ALARM, FURTHER, OK, Data, Metric, metric, metric_of, notices
from cloudformation import allows, as_list, role_statements

Resolved = dict[str, Any]
Call = tuple[str, str, dict[str, str]]  # action, resource, condition keys

CHECKS: list[Callable[[Resolved], None]] = []


def check(function: Callable[[Resolved], None]) -> Callable[[Resolved], None]:
    CHECKS.append(function)
    return function


def properties(resolved: Resolved, logical: str) -> dict[str, Any]:
    found: dict[str, Any] = resolved["Resources"][logical]["Properties"]
    return found


def of_type(resolved: Resolved, kind: str) -> dict[str, dict[str, Any]]:
    return {
        logical: resource["Properties"]
        for logical, resource in resolved["Resources"].items()
        if resource["Type"] == kind
    }


def arn(resolved: Resolved, service: str, name: str) -> str:
    """The ARN of something of this stack's account and Region."""
    where = f"{resolved['Region']}:{resolved['AccountId']}"
    return f"arn:{resolved['Partition']}:{service}:{where}:{name}"


def named(resolved: Resolved, logical: str) -> str:
    return f"{resolved['StackName']}-{logical}"


def queue_arn(resolved: Resolved, logical: str) -> str:
    return arn(resolved, "sqs", named(resolved, logical))


def rule_arn(resolved: Resolved, logical: str) -> str:
    return arn(resolved, "events", "rule/" + named(resolved, logical))


def parts(text: str) -> list[str]:
    """A list as an operator enters it."""
    return [one for one in re.split(r"[\s,]+", text) if one]


# What every resource may have, and no other has to be thought of: a property that is new here
# needs a check.
KNOWN = {
    "AWS::CloudWatch::Alarm": """
        AlarmActions AlarmDescription ComparisonOperator DatapointsToAlarm Dimensions
        EvaluationPeriods MetricName Metrics Namespace OKActions Period Statistic Threshold
        TreatMissingData""",
    "AWS::CloudWatch::CompositeAlarm": "AlarmActions AlarmDescription AlarmRule OKActions",
    "AWS::CloudWatch::Dashboard": "DashboardBody",
    "AWS::EC2::TrafficMirrorFilter": "Description NetworkServices Tags",
    "AWS::EC2::TrafficMirrorFilterRule": """
        DestinationCidrBlock RuleAction RuleNumber SourceCidrBlock TrafficDirection
        TrafficMirrorFilterId""",
    "AWS::Events::Rule": "Description EventPattern ScheduleExpression State Targets",
    "AWS::IAM::Policy": "PolicyDocument PolicyName Roles",
    "AWS::IAM::Role": """
        AssumeRolePolicyDocument Description Path PermissionsBoundary Policies""",
    "AWS::Lambda::EventInvokeConfig": """
        DestinationConfig FunctionName MaximumEventAgeInSeconds MaximumRetryAttempts Qualifier""",
    "AWS::Lambda::EventSourceMapping": """
        BatchSize Enabled EventSourceArn FunctionName FunctionResponseTypes
        MaximumBatchingWindowInSeconds ScalingConfig""",
    # No ReservedConcurrentExecutions: it cannot be deployed in an account with the initial limit.
    "AWS::Lambda::Function": """
        Architectures Code Description Environment Handler LoggingConfig MemorySize Role Runtime
        Timeout""",
    "AWS::Lambda::Permission": "Action FunctionName Principal SourceArn",
    "AWS::Logs::LogGroup": "KmsKeyId RetentionInDays",
    "AWS::SQS::Queue": """
        MessageRetentionPeriod RedrivePolicy SqsManagedSseEnabled VisibilityTimeout""",
    "AWS::SQS::QueuePolicy": "PolicyDocument Queues",
}


@check
def nothing_is_set_that_no_check_knows(resolved: Resolved) -> None:
    for logical, resource in resolved["Resources"].items():
        assert set(resource["Properties"]) <= set(KNOWN[resource["Type"]].split()), logical
        assert set(resource) <= {
            "Type", "Properties", "Condition", "Metadata", "DeletionPolicy", "UpdateReplacePolicy",
        }, logical  # fmt: skip


# The function


@check
def function_is_the_module_with_its_variables(resolved: Resolved) -> None:
    function, given = properties(resolved, "Function"), resolved["Parameters"]
    assert function["Handler"] == "lambda_traffic_mirror.lambda_handler"
    assert re.fullmatch(r"python3\.1[0-9]", function["Runtime"])
    assert function["Architectures"] == ["arm64"]
    assert function["Code"] == {"S3Bucket": given["CodeBucket"], "S3Key": given["CodeKey"]}
    assert function["Role"] == resolved["Outputs"]["RoleArn"]["Value"]
    assert (function["MemorySize"], function["Timeout"]) == (given["MemorySize"], given["Timeout"])
    assert function["LoggingConfig"] == {
        "LogGroup": named(resolved, "LogGroup"),
        "LogFormat": "JSON",
        "ApplicationLogLevel": given["LogLevel"],
    }
    variables = dict(function["Environment"]["Variables"])
    # A comma more would be harmless, but nobody should have to think about it.
    assert not re.search(r",\s*(,|$)|^\s*,", variables["targets"])
    assert parts(variables.pop("targets")) == [
        *parts(given["Targets"]),
        *parts(given["TargetAccounts"]),
    ]
    assert variables == {
        "filter_id": given["FilterId"] or named(resolved, "Filter"),
        **{
            re.sub(r"(?<=.)([A-Z])", r"_\1", name).upper(): given[name]
            for name in (
                "SensorRoleArns", "LocalZoneOnly", "LocalVpcOnly", "IncludeTags", "ExcludeTags",
                "MirrorAlongside", "SessionNumber", "VirtualNetworkId", "PacketLength",
                "SessionTags", "AllowUnverified", "CacheSeconds", "DryRun",
            )
        },
    }  # fmt: skip


@check
def log_has_its_days_and_key(resolved: Resolved) -> None:
    given, log = resolved["Parameters"], properties(resolved, "LogGroup")
    assert log["RetentionInDays"] == given["LogRetentionDays"]
    # An empty one would be refused.
    assert log.get("KmsKeyId") == (given["LogKeyArn"] or None)


@check
def what_would_hurt_to_lose_outlives_the_stack(resolved: Resolved) -> None:
    keeps = {"LogGroup", "DeadLetterQueue", "FailedSweepQueue"} | {
        # Sessions whose filter lost its rules carry nothing.
        logical
        for logical, resource in resolved["Resources"].items()
        if resource["Type"].startswith("AWS::EC2::")
    }
    for logical, resource in resolved["Resources"].items():
        kept = resource.get("DeletionPolicy"), resource.get("UpdateReplacePolicy")
        if logical in keeps:
            # A failed first deployment leaves nothing behind.
            assert kept == ("RetainExceptOnCreate", "Retain"), logical
        else:
            assert kept == (("Delete",) * 2 if logical == "Queue" else (None, None)), logical


@check
def a_filter_that_is_made_mirrors_everything(resolved: Resolved) -> None:
    filters = of_type(resolved, "AWS::EC2::TrafficMirrorFilter")
    rules = of_type(resolved, "AWS::EC2::TrafficMirrorFilterRule").values()
    if resolved["Parameters"]["FilterId"]:
        assert not filters
        assert not rules
        return
    (made,) = filters.values()
    assert made["NetworkServices"] == ["amazon-dns"]
    seen = set()
    for one in rules:
        assert one["TrafficMirrorFilterId"] == resolved["Outputs"]["FilterId"]["Value"]
        assert one["RuleAction"] == "accept"
        assert one["SourceCidrBlock"] == one["DestinationCidrBlock"]
        seen.add((one["TrafficDirection"], one["SourceCidrBlock"], one["RuleNumber"]))
    assert {(way, block) for way, block, _ in seen} == {
        (way, block) for way in ("ingress", "egress") for block in ("0.0.0.0/0", "::/0")
    }
    # A number is used once in each direction.
    assert len({(way, number) for way, _, number in seen}) == 4


# The way of an event


def event_matches(pattern: Any, event: Any) -> bool:
    """Whether EventBridge's pattern matches, for the few operators that the template uses."""
    for key, wanted in pattern.items():
        if key == "$or":
            if not any(event_matches(one, event) for one in wanted):
                return False
            continue
        found = event.get(key) if isinstance(event, dict) else None
        if isinstance(wanted, dict):
            # In an array any element may match.
            if not any(event_matches(wanted, one) for one in as_list(found)):
                return False
        elif not any(_value_matches(one, found) for one in wanted):
            return False
    return True


def _value_matches(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, dict):
        ((operator, value),) = wanted.items()
        if operator == "exists":
            return (found is not None) == value
        assert operator == "prefix", operator
        return isinstance(found, str) and found.startswith(value)
    return bool(wanted == found)


def texts(pattern: Any) -> Iterator[str]:
    """What a pattern compares with, beginnings included."""
    if isinstance(pattern, str):
        yield pattern
    elif isinstance(pattern, (dict, list)):
        for one in pattern.values() if isinstance(pattern, dict) else pattern:
            yield from texts(one)


def ec2_event(resolved: Resolved, kind: str, detail: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "source": "aws.ec2",
        "account": resolved["AccountId"],
        "region": resolved["Region"],
        "detail-type": kind,
        "detail": detail,
        **more,
    }


def started(resolved: Resolved, state: str = "running", **more: Any) -> dict[str, Any]:
    detail = {"instance-id": "i-1", "state": state}
    return ec2_event(resolved, "EC2 Instance State-change Notification", detail, **more)


def called(resolved: Resolved, name: str, resource: str = "", **more: Any) -> dict[str, Any]:
    """An event of CloudTrail: a call, and the resource whose tags it is about."""
    request: dict[str, Any] = {"instanceId": "i-1", "networkInterfaceId": "eni-1"}
    if resource:
        others = [{"resourceId": "vol-1"}, {"resourceId": resource}]
        request = {"resourcesSet": {"items": others}, "tagSet": {"items": [{"key": "env"}]}}
    detail = {
        "eventSource": "ec2.amazonaws.com",
        "eventName": name,
        "requestParameters": request,
        **more,
    }
    return ec2_event(resolved, "AWS API Call via CloudTrail", detail)


# What EventBridge would deliver twice or in vain is worth a rule's pattern.
def wanted_events(resolved: Resolved) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Events, each with the rule that takes it."""
    yield started(resolved), "StartRule"
    elsewhere = {"account": "999999999999", "region": "elsewhere-1"}
    others = {**elsewhere, "source": "mine.ec2", "detail-type": "EC2 Instance Something Else"}
    for key, other in others.items():
        yield started(resolved, **{key: other}), None
    for state in ("pending", "stopping", "stopped", "shutting-down", "terminated"):
        yield started(resolved, state), None
    changes = "ChangeRule" if resolved["Parameters"]["CloudTrailEvents"] == "true" else None
    yield called(resolved, "AttachNetworkInterface"), changes
    for name in ("CreateTags", "DeleteTags"):
        yield called(resolved, name, "i-1"), changes
        yield called(resolved, name, "sg-1"), None
    yield called(resolved, "AttachNetworkInterface", errorCode="Client.UnauthorizedOperation"), None
    yield called(resolved, "CreateTags", "i-1", errorCode="Client.InvalidID"), None
    yield called(resolved, "DetachNetworkInterface"), None
    yield called(resolved, "DescribeTags", "i-1"), None
    yield called(resolved, "CreateTrafficMirrorSession", "tms-1"), None
    yield called(resolved, "AttachNetworkInterface", eventSource="other.amazonaws.com"), None
    others = elsewhere | {"source": "aws.ecs", "detail-type": "AWS Console Action via CloudTrail"}
    for key, other in others.items():
        yield {**called(resolved, "AttachNetworkInterface"), key: other}, None


def queue_statements(resolved: Resolved, queue: str) -> list[dict[str, Any]]:
    """Those of the one policy that a queue has."""
    (document,) = (
        one["PolicyDocument"]
        for one in of_type(resolved, "AWS::SQS::QueuePolicy").values()
        if queue_url(resolved, queue) in one["Queues"]
    )
    assert document["Version"] == "2012-10-17"
    statements: list[dict[str, Any]] = document["Statement"]
    return statements


EVENTBRIDGE = {"Service": "events.amazonaws.com"}


def lets_in(
    resolved: Resolved,
    queue: str,
    rule: str,
    secure: str = "true",
    action: str = "sqs:SendMessage",
    principal: dict[str, str] = EVENTBRIDGE,
) -> bool:
    """Whether the queue's policy lets EventBridge deliver for a rule."""
    context = {"aws:SourceArn": rule, "aws:SecureTransport": secure}
    statements = queue_statements(resolved, queue)
    return allows(statements, action, queue_arn(resolved, queue), context, principal)


def queue_url(resolved: Resolved, logical: str) -> str:
    where = f"sqs.{resolved['Region']}.amazonaws.com/{resolved['AccountId']}"
    return f"https://{where}/{named(resolved, logical)}"


@check
def events_reach_the_queue(resolved: Resolved) -> None:
    rules = {
        logical: rule
        for logical, rule in of_type(resolved, "AWS::Events::Rule").items()
        if "EventPattern" in rule
    }
    for event, taker in wanted_events(resolved):
        taken = [name for name, rule in rules.items() if event_matches(rule["EventPattern"], event)]
        assert taken == ([taker] if taker else []), event
    assert set(rules) == {taker for _, taker in wanted_events(resolved) if taker}
    # A pattern names nothing that none of these events has.
    known = json.dumps([event for event, taker in wanted_events(resolved) if taker])
    for logical, rule in rules.items():
        assert [one for one in texts(rule["EventPattern"]) if f'"{one}' not in known] == [], logical
        assert rule["State"] == "ENABLED", logical
        assert "ScheduleExpression" not in rule, logical
        (target,) = rule["Targets"]
        # What the rule cannot deliver is not lost.
        assert target == {
            "Id": "Queue",
            "Arn": queue_arn(resolved, "Queue"),
            "DeadLetterConfig": {"Arn": queue_arn(resolved, "DeadLetterQueue")},
        }, logical
        for queue in ("Queue", "DeadLetterQueue"):
            assert lets_in(resolved, queue, rule_arn(resolved, logical)), (queue, logical)
    other = rule_arn(resolved, "OtherRule")
    for queue in ("Queue", "DeadLetterQueue"):
        assert not lets_in(resolved, queue, other), queue
    assert not lets_in(resolved, "Queue", rule_arn(resolved, "SweepRule"))


@check
def queues_take_nothing_that_is_not_encrypted(resolved: Resolved) -> None:
    queues = of_type(resolved, "AWS::SQS::Queue")
    assert set(queues) == {"Queue", "DeadLetterQueue", "FailedSweepQueue"}
    for logical, queue in queues.items():
        # Encrypted where it lies, too. EventBridge could not use the AWS managed key of KMS.
        assert queue["SqsManagedSseEnabled"] is True, logical
        rule = rule_arn(resolved, "StartRule")
        assert not lets_in(resolved, logical, rule, secure="false")
        statements = queue_statements(resolved, logical)
        for statement in statements:
            assert set(statement) - {"Sid"} == {
                "Effect", "Principal", "Action", "Resource", "Condition"
            }  # fmt: skip
            assert statement["Effect"] in ("Allow", "Deny")
            assert statement["Resource"] == queue_arn(resolved, logical)
        # Whoever has permissions of their own is held to it as well.
        own = {"Effect": "Allow", "Action": "sqs:*", "Resource": "*"}
        for action in ("sqs:SendMessage", "sqs:ReceiveMessage", "sqs:PurgeQueue"):
            for secure in ("true", "false"):
                assert allows(
                    [own, *statements],
                    action,
                    queue_arn(resolved, logical),
                    {"aws:SecureTransport": secure},
                    {"AWS": resolved["AccountId"]},
                ) == (secure == "true"), (logical, action)
        # A policy gives nothing to anybody but the rules.
        for principal in ({"AWS": "999999999999"}, {"Service": "sns.amazonaws.com"}):
            assert not lets_in(resolved, logical, rule, principal=principal), logical
        assert not lets_in(resolved, logical, rule, action="sqs:ReceiveMessage"), logical


@check
def the_queue_reaches_the_function(resolved: Resolved) -> None:
    (mapping,) = of_type(resolved, "AWS::Lambda::EventSourceMapping").values()
    assert mapping == {
        "EventSourceArn": queue_arn(resolved, "Queue"),
        "FunctionName": named(resolved, "Function"),
        "Enabled": True,
        # Without it one failed event brings the whole batch back.
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
        # More than ten need a window, and with a window Lambda may wait 20 seconds for a lone one.
        "BatchSize": 10,
        "MaximumBatchingWindowInSeconds": 0,
        "ScalingConfig": {"MaximumConcurrency": 2},
    }


@check
def what_fails_is_kept(resolved: Resolved) -> None:
    queue = properties(resolved, "Queue")
    assert queue["RedrivePolicy"] == {
        "deadLetterTargetArn": queue_arn(resolved, "DeadLetterQueue"),
        "maxReceiveCount": 5,
    }
    timeout = int(resolved["Parameters"]["Timeout"])
    # Lambda refuses less than the timeout. Much more is how long a failed event waits.
    assert timeout < queue["VisibilityTimeout"] <= timeout + 30
    days = 24 * 3600
    for logical in ("DeadLetterQueue", "FailedSweepQueue"):
        kept = properties(resolved, logical)
        assert kept["MessageRetentionPeriod"] == 14 * days, logical
        assert "RedrivePolicy" not in kept
    # An event leaves the queue for the other one, never for good.
    assert 5 * queue["VisibilityTimeout"] < queue["MessageRetentionPeriod"] == 4 * days


@check
def sweeps_reach_the_function(resolved: Resolved) -> None:
    rate, timeout = (int(resolved["Parameters"][name]) for name in ("SweepRate", "Timeout"))
    assert rate * 60 >= timeout, "sweeps overlap"
    rules = of_type(resolved, "AWS::Events::Rule")
    assert [name for name, one in rules.items() if "EventPattern" not in one] == ["SweepRule"]
    rule = rules["SweepRule"]
    assert rule["State"] == "ENABLED"
    assert rule["ScheduleExpression"] == f"rate({rate} minutes)"
    (target,) = rule["Targets"]
    # No Input: the function knows a sweep by the 'Scheduled Event' of the rule.
    assert target == {
        "Id": "Function",
        "Arn": arn(resolved, "lambda", "function:" + named(resolved, "Function")),
        "RetryPolicy": {"MaximumEventAgeInSeconds": 300, "MaximumRetryAttempts": 10},
        "DeadLetterConfig": {"Arn": queue_arn(resolved, "DeadLetterQueue")},
    }
    assert lets_in(resolved, "DeadLetterQueue", rule_arn(resolved, "SweepRule"))
    (permission,) = of_type(resolved, "AWS::Lambda::Permission").values()
    assert permission == {
        "FunctionName": named(resolved, "Function"),
        "Action": "lambda:InvokeFunction",
        "Principal": "events.amazonaws.com",
        "SourceArn": rule_arn(resolved, "SweepRule"),
    }
    (retry,) = of_type(resolved, "AWS::Lambda::EventInvokeConfig").values()
    assert retry == {
        "FunctionName": named(resolved, "Function"),
        "Qualifier": "$LATEST",
        # The next sweep is the second attempt.
        "MaximumRetryAttempts": 0,
        "MaximumEventAgeInSeconds": 300,
        "DestinationConfig": {
            "OnFailure": {"Destination": queue_arn(resolved, "FailedSweepQueue")}
        },
    }


# What the function may do

DESCRIBES = (
    "ec2:DescribeInstances",
    "ec2:DescribeNetworkAcls",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeTrafficMirrorSessions",
    "ec2:DescribeTrafficMirrorTargets",
)
CREATE = "ec2:CreateTrafficMirrorSession"
EIGHT = {*DESCRIBES, CREATE, "ec2:CreateTags"}
PREFIX_LISTS = "ec2:GetManagedPrefixListEntries"
ROUTES = "ec2:DescribeRouteTables"


def optional_calls(resolved: Resolved) -> list[tuple[bool, Call]]:
    """Calls that a parameter allows, and whether it does."""
    given = resolved["Parameters"]
    lists = given["AllowPrefixLists"] == "true"
    partition, region = resolved["Partition"], resolved["Region"]
    return [
        (given["AllowRoutes"] == "true", (ROUTES, "*", {})),
        (lists, (PREFIX_LISTS, arn(resolved, "ec2", "prefix-list/pl-1"), {})),
        (lists, (PREFIX_LISTS, f"arn:{partition}:ec2:{region}:aws:prefix-list/pl-2", {})),
    ]


def needed(resolved: Resolved) -> Iterator[Call]:
    """Every action and resource that the function and Lambda need."""
    given, place = resolved["Parameters"], resolved["Partition"] + ":ec2:" + resolved["Region"]
    for action in DESCRIBES:
        yield action, "*", {}
    yield from (call for wanted, call in optional_calls(resolved) if wanted)
    for role in parts(given["SensorRoleArns"]):
        yield "sts:AssumeRole", role, {}
    filter_id = given["FilterId"] or named(resolved, "Filter")
    yield CREATE, arn(resolved, "ec2", "network-interface/eni-1"), {}
    yield CREATE, arn(resolved, "ec2", "traffic-mirror-session/tms-1"), {}
    yield CREATE, arn(resolved, "ec2", f"traffic-mirror-filter/{filter_id}"), {}
    for target in parts(given["Targets"]):
        yield CREATE, arn(resolved, "ec2", f"traffic-mirror-target/{target}"), {}
        # Shared by another account.
        yield CREATE, f"arn:{place}:999999999999:traffic-mirror-target/{target}", {}
    for account in parts(given["TargetAccounts"]):
        yield CREATE, f"arn:{place}:{account}:traffic-mirror-target/tmt-any", {}
    session = arn(resolved, "ec2", "traffic-mirror-session/tms-1")
    yield "ec2:CreateTags", session, {"ec2:CreateAction": "CreateTrafficMirrorSession"}
    log = arn(resolved, "logs", f"log-group:{named(resolved, 'LogGroup')}:log-stream:")
    yield "logs:CreateLogStream", log, {}
    yield "logs:PutLogEvents", log + "2026/01/01/[$LATEST]0", {}
    for action in ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes"):
        yield f"sqs:{action}", queue_arn(resolved, "Queue"), {}
    yield "sqs:SendMessage", queue_arn(resolved, "FailedSweepQueue"), {}


def unwanted(resolved: Resolved) -> Iterator[Call]:
    """Actions and resources next to those that are needed."""
    given, partition = resolved["Parameters"], resolved["Partition"]
    region, account = resolved["Region"], resolved["AccountId"]
    yield from (call for wanted, call in optional_calls(resolved) if not wanted)
    yield PREFIX_LISTS, f"arn:{partition}:ec2:elsewhere-1:{account}:prefix-list/pl-1", {}
    # Only the given roles, filter and targets, and sources only here.
    for role in (*parts(given["SensorRoleArns"]), f"arn:{partition}:iam::111122223333:role/"):
        yield "sts:AssumeRole", role + "x", {}
    yield "sts:AssumeRole", "", {}
    filter_id = given["FilterId"] or named(resolved, "Filter")
    names = ["traffic-mirror-filter/tmf-other", f"traffic-mirror-filter/{filter_id}0"]
    names += [f"traffic-mirror-target/{one}0" for one in parts(given["Targets"])]
    yield from ((CREATE, arn(resolved, "ec2", name), {}) for name in names)
    for owner in ("", "222233334444", account):
        if owner not in parts(given["TargetAccounts"]):
            place = f"arn:{partition}:ec2:{region}:{owner}"
            yield CREATE, f"{place}:traffic-mirror-target/tmt-other", {}
            yield CREATE, f"{place}:traffic-mirror-target/", {}
    for place in (f"elsewhere-1:{account}", f"{region}:999999999999"):
        for name in (f"filter/{filter_id}", "session/tms-1"):
            yield CREATE, f"arn:{partition}:ec2:{place}:traffic-mirror-{name}", {}
        yield CREATE, f"arn:{partition}:ec2:{place}:network-interface/eni-1", {}
    yield CREATE, arn(resolved, "ec2", "instance/i-1"), {}
    # Tags only on a session, only while it is created.
    session = arn(resolved, "ec2", "traffic-mirror-session/tms-1")
    during = {"ec2:CreateAction": "CreateTrafficMirrorSession"}
    yield "ec2:CreateTags", session, {}
    yield "ec2:CreateTags", session, {"ec2:CreateAction": "CreateTrafficMirrorTarget"}
    for name in ("instance/i-1", "traffic-mirror-filter/tmf-1", "network-interface/eni-1"):
        yield "ec2:CreateTags", arn(resolved, "ec2", name), during
    for place in (f"elsewhere-1:{account}", f"{region}:999999999999"):
        yield "ec2:CreateTags", f"arn:{partition}:ec2:{place}:traffic-mirror-session/tms-1", during
        group = f"log-group:{named(resolved, 'LogGroup')}:log-stream:x"
        yield "logs:PutLogEvents", f"arn:{partition}:logs:{place}:{group}", {}
    # Never anything that takes away or changes, or that nobody asks for.
    for verb in ("DeleteTrafficMirrorSession", "ModifyTrafficMirrorSession", "DeleteTags"):
        yield f"ec2:{verb}", session, during
    for resource in ("*", arn(resolved, "ec2", "vpc/vpc-1")):
        yield "ec2:DescribeVpcs", resource, {}
    yield "iam:PassRole", resolved["Outputs"]["RoleArn"]["Value"], {}
    # Only its own log and queues.
    other = arn(resolved, "logs", f"log-group:{named(resolved, 'LogGroup')}2:log-stream:x")
    yield "logs:CreateLogGroup", arn(resolved, "logs", "log-group:x"), {}
    yield "logs:PutLogEvents", other, {}
    yield "logs:CreateLogStream", other, {}
    own = arn(resolved, "logs", f"log-group:{named(resolved, 'LogGroup')}:log-stream:x")
    yield "logs:DeleteLogStream", own, {}
    for logical in ("Queue", "DeadLetterQueue", "OtherQueue"):
        yield "sqs:SendMessage", queue_arn(resolved, logical), {}
    for logical in ("DeadLetterQueue", "FailedSweepQueue", "OtherQueue"):
        for verb in ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes"):
            yield f"sqs:{verb}", queue_arn(resolved, logical), {}
    for logical in ("Queue", "DeadLetterQueue", "FailedSweepQueue"):
        yield "sqs:PurgeQueue", queue_arn(resolved, logical), {}


@check
def role_allows_what_is_needed_and_nothing_next_to_it(resolved: Resolved) -> None:
    statements = role_statements(resolved)
    for call in needed(resolved):
        assert allows(statements, *call), call
    for call in unwanted(resolved):
        assert not allows(statements, *call), call


@check
def role_is_written_so_that_it_stays_narrow(resolved: Resolved) -> None:
    given = resolved["Parameters"]
    (role,) = of_type(resolved, "AWS::IAM::Role").values()
    documents = [policy["PolicyDocument"] for policy in role["Policies"]]
    documents.append(role["AssumeRolePolicyDocument"])
    further = of_type(resolved, "AWS::IAM::Policy").values()
    documents += [policy["PolicyDocument"] for policy in further]
    assert all(policy["Roles"] == [named(resolved, "Role")] for policy in further)
    # Two of one name would be one.
    names = [policy["PolicyName"] for policy in [*role["Policies"], *further]]
    assert len(names) == len(set(names)) == len([name for name in names if name])
    assert {document["Version"] for document in documents} == {"2012-10-17"}
    actions = set()
    for statement in role_statements(resolved):
        assert set(statement) <= {"Sid", "Effect", "Action", "Resource", "Condition"}
        assert statement["Effect"] == "Allow"
        assert as_list(statement["Resource"]), "IAM refuses an empty list"
        actions.update(as_list(statement["Action"]))
        for one in as_list(statement["Resource"]):
            # A broken ARN, as an empty list would leave, is refused or matches too much.
            assert one == "*" or re.fullmatch(r"arn:[^:]+:[a-z0-9]+:[^:]*:[^:]*:[^ ,]+[^ ,/:]", one)
    assert actions == {action for action, _, _ in needed(resolved)}
    extra = {ROUTES} if given["AllowRoutes"] == "true" else set()
    extra |= {PREFIX_LISTS} if given["AllowPrefixLists"] == "true" else set()
    assert {one for one in actions if one.startswith("ec2:")} == EIGHT | extra
    assert role["Path"] == given["RolePath"]
    assert role.get("PermissionsBoundary") == (given["PermissionsBoundaryArn"] or None)


@check
def only_lambda_assumes_the_role(resolved: Resolved) -> None:
    (role,) = of_type(resolved, "AWS::IAM::Role").values()
    trust = role["AssumeRolePolicyDocument"]["Statement"]
    assert [set(one) for one in trust] == [{"Effect", "Principal", "Action"}]
    assert allows(trust, "sts:AssumeRole", "", {}, {"Service": "lambda.amazonaws.com"})
    for other in (
        {"Service": "ec2.amazonaws.com"},
        {"AWS": resolved["AccountId"]},
        {"AWS": "999999999999"},
    ):
        assert not allows(trust, "sts:AssumeRole", "", {}, other)
    assert not allows(trust, "sts:TagSession", "", {}, {"Service": "lambda.amazonaws.com"})


@check
def everything_is_of_this_partition(resolved: Resolved) -> None:
    text = json.dumps([resolved["Resources"], resolved["Outputs"]])
    # IAM lets a policy leave the partition open. Only a list of targets needs it.
    assert set(re.findall(r"\barn:([^:]+):", text)) - {"*"} == {resolved["Partition"]}
    opened = re.findall(r'"(arn:\*:[^"]*)"', text)
    assert [one for one in opened if ":traffic-mirror-target/" not in one] == []


# What is seen of it


def own(resolved: Resolved, name: str) -> Metric:
    return metric("TrafficMirror", name, FunctionName=named(resolved, "Function"))


def of_lambda(resolved: Resolved, name: str) -> Metric:
    return metric("AWS/Lambda", name, FunctionName=named(resolved, "Function"))


def of_queue(resolved: Resolved, name: str, queue: str) -> Metric:
    return metric("AWS/SQS", name, QueueName=named(resolved, queue))


OUTCOMES = (
    "created", "planned", "exists", "skipped", "unmirrored", "blocked", "failed", "deferred"
)  # fmt: skip
BAD = 40  # the period in which something goes wrong
LATER = 4  # so many sweeps later it has to be over


def quiet(resolved: Resolved, last: int, without: range = range(0)) -> Data:
    """Nothing but sweeps that find everything mirrored."""
    data = Data()
    sweep = int(resolved["Parameters"]["SweepRate"]) // 5
    for period in range(BAD % sweep, last + 1, sweep):
        data.put(of_lambda(resolved, "Errors"), period, 0)
        data.put(of_lambda(resolved, "Throttles"), period, 0)
        data.put(of_lambda(resolved, "AsyncEventsDropped"), period, 0)
        if period not in without:
            for name in (*OUTCOMES, "invalid"):
                data.put(own(resolved, name), period, 40 if name == "exists" else 0)
            data.put(own(resolved, "Sweeps"), period, 1)
    # Somebody let a message lie in the dead-letter queue long ago. SQS measures now and then.
    depth = of_queue(resolved, "ApproximateNumberOfMessagesVisible", "DeadLetterQueue")
    for period in range(last + 1):
        for _ in range(1 + period % 2):
            data.put(depth, period, 2)
    return data


def signals(resolved: Resolved) -> Iterator[tuple[str, Data, str]]:
    """What may go wrong at BAD: a name, the data and the alarm that tells of it, or none."""
    sweep = int(resolved["Parameters"]["SweepRate"]) // 5
    last = BAD + LATER * sweep + 8
    dark = range(BAD, BAD + 3 * sweep + FURTHER + 1)
    depth = of_queue(resolved, "ApproximateNumberOfMessagesVisible", "DeadLetterQueue")
    age = of_queue(resolved, "ApproximateAgeOfOldestMessage", "Queue")
    failed = own(resolved, "failed")
    errors, dropped = of_lambda(resolved, "Errors"), of_lambda(resolved, "AsyncEventsDropped")
    retried = properties(resolved, "Queue")["VisibilityTimeout"]

    def with_values(*values: tuple[Metric, int, float]) -> Data:
        data = quiet(resolved, last)
        for of, period, value in values:
            data.put(of, period, value)
        return data

    def given_up() -> list[tuple[Metric, int, float]]:
        return [(depth, period, 3) for period in range(BAD, last + 1)]

    yield "all is well", with_values(), ""
    for outcome in ("created", "planned", "skipped"):
        yield outcome, with_values((own(resolved, outcome), BAD, 7)), ""
    for name in ("unmirrored", "blocked", "deferred", "invalid"):
        alarm = f"{name.capitalize()}Alarm"
        yield name, with_values((own(resolved, name), BAD, 1)), alarm
        if name != "invalid":  # as long as sweeps find it, the alarm stays on, whatever the rate
            bad = [(own(resolved, name), BAD + sweep * number, 1.0) for number in (0, 1, 2)]
            yield f"{name} in three sweeps", with_values(*bad), alarm
    yield "failed", with_values((failed, BAD, 1)), "FailureAlarm"
    yield "an error", with_values((errors, BAD, 1)), "FailureAlarm"
    yield "a sweep given up", with_values((dropped, BAD, 1)), "FailureAlarm"
    yield "an event given up", with_values(*given_up()), "FailureAlarm"
    everything = [(failed, BAD, 1.0), (errors, BAD, 1.0), (dropped, BAD, 1.0), *given_up()]
    yield "all kinds of failure, told once", with_values(*everything), "FailureAlarm"
    twice = [(own(resolved, "Sweeps"), period, 1.0) for period in range(BAD, last + 1)]
    yield "sweeps by hand besides", with_values(*twice, *twice), ""
    yield "throttled", with_values((of_lambda(resolved, "Throttles"), BAD, 1)), "ThrottleAlarm"
    yield "a sweep that failed once", quiet(resolved, last, range(BAD, BAD + 1)), ""
    yield "no sweeps", quiet(resolved, last, dark), "SweepAlarm"
    # A sweep that cannot read everything counts as none.
    failing = quiet(resolved, last, dark)
    beside = quiet(resolved, last)
    for period in range(dark.start, dark.stop, sweep):
        failing.put(own(resolved, "Sweeps"), period, 0)
        beside.put(own(resolved, "Sweeps"), period, 0)
    yield "sweeps that fail", failing, "SweepAlarm"
    yield "sweeps by hand that fail besides", beside, ""
    # An event that fails twice waits that long, and it fails loudly anyway.
    again = (age, BAD, 2 * retried + 60)
    yield "an event delivered again", with_values(again, again), ""
    waits = max(1_000, 4 * retried)
    yield "an event that waits", with_values((age, BAD, waits)), "WaitingAlarm"
    # Of a queue that several minutes are known of in a period, the worst counts.
    yield "one that waited", with_values((age, BAD, waits), (age, BAD, 0)), "WaitingAlarm"


@check
def alarms_look_back_as_far_as_the_sweep_rate_asks(resolved: Resolved) -> None:
    sweep = int(resolved["Parameters"]["SweepRate"]) // 5
    looks = {"unmirrored": sweep + 2, "blocked": sweep + 2, "deferred": sweep + 2}
    looks |= {"failed": sweep + 2, "Errors": sweep + 2, "AsyncEventsDropped": sweep + 2}
    looks |= {"Sweeps": 2 * sweep + 1, "ApproximateAgeOfOldestMessage": 1}
    looks |= {"invalid": 3, "Throttles": 3, "ApproximateNumberOfMessagesVisible": 3}
    alarms = of_type(resolved, "AWS::CloudWatch::Alarm").values()
    assert {metric_of(one)[1]: one["EvaluationPeriods"] for one in alarms} == looks
    for one in alarms:
        # One bad period is enough; that there was no sweep takes all of them.
        points = looks["Sweeps"] if metric_of(one)[1] == "Sweeps" else 1
        assert one["DatapointsToAlarm"] == points
        # No sweep leaves no data. Of everything else, no data is good news.
        bad = metric_of(one)[1] == "Sweeps"
        assert one["TreatMissingData"] == ("breaching" if bad else "notBreaching")
    # Two retries of an event pass before it waits for too long, and a quarter of an hour.
    waits = float(properties(resolved, "WaitingAlarm")["Threshold"])
    retried = properties(resolved, "Queue")["VisibilityTimeout"]
    assert max(900, 3 * retried) <= waits < max(901, 4 * retried)
    assert waits % 300 == 0


@check
def what_goes_wrong_is_told_once_and_is_over_when_it_is_over(resolved: Resolved) -> None:
    resolved = {**resolved, "Resources": dict(resolved["Resources"])}
    for logical in [*of_type(resolved, "AWS::CloudWatch::Alarm"), "FailureAlarm"]:
        resource = resolved["Resources"][logical]
        told = properties(resolved, logical)
        assert told["AlarmDescription"], logical
        topic = resolved["Parameters"]["AlarmTopicArn"]
        for kind in ("AlarmActions", "OKActions"):
            assert told.get(kind, [topic]) == [topic], logical
        if not topic:
            assert not {"AlarmActions", "OKActions"} & set(told), logical
            # To see who would tell, everybody does but those that the composite speaks for.
            if logical not in told_together(resolved):
                actions = {"AlarmActions": ["topic"], "OKActions": ["topic"]}
                resolved["Resources"][logical] = {**resource, "Properties": {**told, **actions}}
    sweep = int(resolved["Parameters"]["SweepRate"]) // 5
    last = BAD + LATER * sweep + 8
    for name, data, alarm in signals(resolved):
        heard = notices(resolved, data, BAD, last)
        if not alarm:
            assert heard == [], (name, heard)
            continue
        assert [(one.alarm, one.state) for one in heard] == [(alarm, ALARM), (alarm, OK)], (
            name,
            heard,
        )
        on, off = (one.period for one in heard)
        # At once, but for what is only seen by its absence.
        assert on - BAD <= (2 * sweep + FURTHER if alarm == "SweepAlarm" else 0), (name, heard)
        if alarm != "SweepAlarm":
            assert off - BAD <= sweep * (3 if "three" in name else 1) + 2 + FURTHER, (name, heard)


def told_together(resolved: Resolved) -> set[str]:
    rule = properties(resolved, "FailureAlarm")["AlarmRule"]
    names = set(re.findall(r'ALARM\("([^"]+)"\)', rule))
    return {one for one in resolved["Resources"] if named(resolved, one) in names}


@check
def dashboard_shows_what_alarms_are_about(resolved: Resolved) -> None:
    body = json.loads(properties(resolved, "Dashboard")["DashboardBody"])
    widgets = body["widgets"]
    shown = {
        metric(one[0], one[1], **dict(zip(one[2::2], one[3::2], strict=False)))
        for widget in widgets
        for one in [
            [part for part in row if isinstance(part, str)]
            for row in widget["properties"].get("metrics", [])
        ]
        if one
    }
    assert shown >= {metric_of(one) for one in of_type(resolved, "AWS::CloudWatch::Alarm").values()}
    assert shown >= {own(resolved, name) for name in (*OUTCOMES, "invalid", "Coverage")}
    assert shown >= {own(resolved, name) for name in ("Sweeps", "Elsewhere")}
    for _, _, dimensions in shown:
        for _, value in dimensions:
            assert value.startswith(resolved["StackName"] + "-")
    (sessions,) = [
        row[0]["expression"]
        for widget in widgets
        for row in widget["properties"].get("metrics", [])
        if isinstance(row[0], dict)
    ]
    assert sessions == (
        'SEARCH(\'{TrafficMirror,FunctionName,TargetId} MetricName="Sessions" '
        f"FunctionName=\"{named(resolved, 'Function')}\"', 'Maximum', 300)"
    )
    (log,) = [widget["properties"]["query"] for widget in widgets if widget["type"] == "log"]
    assert log.startswith(f"SOURCE '{named(resolved, 'LogGroup')}' |")
    words = ("outcome", "instance_id", "interface_id", "reason", "unmirrored", "blocked", "failed")
    assert all(word in log for word in words)
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
        assert widget["properties"]["region"] == resolved["Region"]
    (timeout,) = [
        line["value"]
        for widget in widgets
        for line in widget["properties"].get("annotations", {}).get("horizontal", [])
    ]
    assert timeout == 1000 * int(resolved["Parameters"]["Timeout"])


@check
def outputs_say_what_an_operator_needs(resolved: Resolved) -> None:
    given = resolved["Parameters"]
    outputs = {name: output["Value"] for name, output in resolved["Outputs"].items()}
    assert all(output["Description"] for output in resolved["Outputs"].values())
    dashboard, region = named(resolved, "Dashboard"), resolved["Region"]
    if resolved["Partition"] == "aws":  # elsewhere the console has other addresses
        console = f"https://console.aws.amazon.com/cloudwatch/home?region={region}"
        assert outputs.pop("DashboardUrl") == f"{console}#dashboards/dashboard/{dashboard}"
    variables = properties(resolved, "Function")["Environment"]["Variables"]
    role = named(resolved, "Role")
    assert outputs == {
        "Version": given["CodeVersion"],
        "CodeBucket": given["CodeBucket"],
        "CodeKey": given["CodeKey"],
        "FunctionName": named(resolved, "Function"),
        "RoleArn": f"arn:{resolved['Partition']}:iam::{resolved['AccountId']}:role"
        f"{given['RolePath']}{role}",
        "FilterId": variables["filter_id"],
        "Targets": variables["targets"],
        "QueueUrl": queue_url(resolved, "Queue"),
        "DeadLetterQueueUrl": queue_url(resolved, "DeadLetterQueue"),
        "FailedSweepQueueUrl": queue_url(resolved, "FailedSweepQueue"),
        "LogGroupName": named(resolved, "LogGroup"),
        "DashboardName": dashboard,
    }
