"""What template.yaml makes of its parameters, and the files beside it that go into the console.

What the template creates is held to the files in `snapshots`: the whole of it with the least that
it takes, and what becomes different in other settings. After a change that is meant, write them
anew and read what git shows:

    UPDATE_SNAPSHOTS=1 .venv/bin/python -m pytest tests/deploy/test_template.py -k snapshot
"""

from __future__ import annotations

import difflib
import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from aws import running_event
from cfnlint import ManualArgs, lint_file
from cloudformation import (
    DEPLOY,
    TEMPLATE,
    ParameterError,
    as_list,
    load,
    resolve,
    role_statements,
)
from conftest import VARIABLES
from moto import mock_aws

Resolved = dict[str, Any]

SNAPSHOTS = Path(__file__).parent / "snapshots"
SENSORS = DEPLOY / "sensors.yaml"
REQUIRED = {"CodeBucket": "my-bucket", "CodeKey": "lambda_traffic_mirror/abc.zip"}
TARGETS = "tmt-0bce8038d06d6c745, tmt-0fedcba9876543210"
FILTER = "tmf-0a1b2c3d4e5f60718"
ROLES = "arn:aws:iam::111122223333:role/traffic-mirror/a, arn:aws:iam::222233334444:role/b"


def stack(**parameters: str) -> Resolved:
    """The template with the least that it takes, and these parameters."""
    return resolve(parameters={**REQUIRED, "Targets": TARGETS, **parameters})


def properties(resolved: Resolved, logical: str) -> dict[str, Any]:
    found: dict[str, Any] = resolved["Resources"][logical]["Properties"]
    return found


def read(name: str) -> Any:
    return json.loads((DEPLOY / name).read_text(encoding="utf-8"))


# The template as a document


@pytest.mark.parametrize("path", [TEMPLATE, SENSORS], ids=lambda path: path.name)
def test_cfn_lint_finds_nothing(path: Path) -> None:
    # Informational checks included: they ask for policies of deletion and retention.
    assert lint_file(path, config=ManualArgs(include_checks=["I"])) == []


def test_template_is_plain_and_well_below_the_size_that_cloudformation_takes() -> None:
    text = TEMPLATE.read_text(encoding="utf-8")
    # What emulators do not know, or CloudFormation itself only with a macro or a bucket.
    for word in ("Transform", "!Contains", "!ValueOf", "!ForEach", "AWS::CloudFormation::Stack"):
        assert word not in text
    assert len(text.encode()) < 0.9 * 51_200


def test_two_stacks_can_stand_side_by_side() -> None:
    """No resource has a name that the template fixes, but for policies within the role."""
    for logical, resource in load()["Resources"].items():
        kind = resource["Type"].split("::")[-1]
        names = {"Name", f"{kind}Name"} - {"PolicyName"}
        assert not names & set(resource["Properties"]), logical


def test_every_parameter_is_explained_grouped_and_used() -> None:
    template = load()
    interface = template["Metadata"]["AWS::CloudFormation::Interface"]
    grouped = [name for group in interface["ParameterGroups"] for name in group["Parameters"]]
    assert sorted(grouped) == sorted(template["Parameters"])
    rest = json.dumps([template["Conditions"], template["Resources"], template["Outputs"]])
    for name, parameter in template["Parameters"].items():
        assert parameter["Description"].strip(), name
        # What values are allowed CloudFormation says by itself, what a pattern means it does not.
        assert "AllowedValues" in parameter or parameter["ConstraintDescription"], name
        assert ("Default" in parameter) == (name not in REQUIRED), name
        assert f'"Ref": "{name}"' in rest or f"${{{name}}}" in rest, name


@pytest.mark.parametrize("name", ["FilterTag", "TargetsTag"])
def test_who_may_tag_an_instance_decides_with_it(name: str) -> None:
    description = load()["Parameters"][name]["Description"]
    assert "Anyone who may tag an instance then decides" in description


ACCEPTED: dict[str, list[str]] = {
    "CodeBucket": ["a.b-c1"],
    "CodeKey": ["lambda_traffic_mirror/0a1b.zip"],
    "CodeVersion": ["2.0.0", "unknown"],
    "FilterId": ["", "tmf-0a1b2c3d4e5f60718", "traf-mir-fil-0a1b2c3d"],
    "Targets": [
        *("tmt-1", "tmt-1,tmt-2", "tmt-1, tmt-2 ,tmt-3", "traf-mir-tar-0a1b2c3d"),
        *("12345678901", "tmt-123456789012"),  # an ID may look like anything but an account
    ],
    "TargetAccounts": ["", "123456789012", "012345678901 , 123456789012"],
    "SensorRoleArns": [
        "",
        "arn:aws:iam::123456789012:role/sensors",
        "arn:aws-eusc:iam::123456789012:role/a/b/s+=.@_-1, arn:aws:iam::1" + "0" * 11 + ":role/s",
    ],
    "IncludeTags": ["", "env=prod,team", "key=a=b, other key=x y,empty="],
    "ExcludeTags": ["", "traffic-mirror=sensor,aws:autoscaling:groupName=x"],
    "MirrorDatabases": ["true"],
    "MirrorAlongside": ["true"],
    "FilterTag": ["", "f", "mirror filter", "aws:cloudformation:stack-name"],
    "TargetsTag": ["", "t", "mirror-to"],
    "LocalZoneOnly": ["false"],
    "LocalVpcOnly": ["true"],
    "AllowUnverified": ["true"],
    "AllowRoutes": ["false"],
    "AllowPrefixLists": ["true"],
    "SessionNumber": ["1", "32766"],
    "VirtualNetworkId": ["", "0", "9999999", "10000000", "16777209", "16777215"],
    "PacketLength": ["", "1", "999", "8499", "8500"],
    "SessionTags": ["", "team=net,cost centre=a=b, empty=", "Names=x,name=y"],
    "CacheSeconds": ["0", "3600"],
    "DryRun": ["true"],
    "CloudTrailEvents": ["true"],
    "MemorySize": ["128", "10240"],
    "Timeout": ["60"],
    "SweepRate": ["10", "60"],
    "AlarmTopicArn": [
        "",
        "arn:aws:sns:us-east-1:123456789012:alarms",
        "arn:aws-us-gov:sns:us-gov-west-1:123456789012:On_call-1",
    ],
    "Dashboard": ["false"],
    "LogRetentionDays": ["1"],
    "LogLevel": ["DEBUG"],
    "LogKeyArn": ["", "arn:aws:kms:us-east-1:123456789012:key/0a1b-2c3d"],
    "RolePath": ["/", "/traffic-mirror/", "/a/b.c/"],
    "PermissionsBoundaryArn": [
        "",
        "arn:aws:iam::123456789012:policy/path/bound",
        "arn:aws-iso-b:iam::aws:policy/PowerUserAccess",
    ],
}

REFUSED: dict[str, list[str]] = {
    "CodeBucket": ["", "s3://bucket"],
    "CodeKey": [""],
    "CodeVersion": ["", "2 0"],
    "FilterId": ["*", "tmt-0a1b2c3d4e5f60718", "tmf-1,tmf-2"],
    "Targets": [
        *("*", "tmt-*", "tmf-0a1b2c3d4e5f60718", "eni-0a1b2c3d4e5f60718"),
        *("tmt-1,", "tmt-1,,tmt-2", "tmt-1 tmt-2", ",tmt-1", " "),
        *("123456789012", "tmt-1, 123456789012", "123456789012 ,tmt-1"),
    ],
    "TargetAccounts": [
        *("12345678901", "1234567890123", "*", "123456789012,", ",123456789012", "tmt-1"),
        ",".join(["123456789012"] * 20),
    ],
    "SensorRoleArns": [
        "*",
        "arn:aws:iam::123456789012:role/*",
        "arn:aws:iam::*:role/sensors",
        ",arn:aws:iam::123456789012:role/sensors",
        "arn:aws:iam::123456789012:role/" + "s" * 1000,
        "arn:aws:iam::123456789012:user/sensors",
        "arn:aws:iam::123456789012:role/s,",
        "arn:aws:iam::123456789012:role/s,,arn:aws:iam::123456789012:role/t",
    ],
    "IncludeTags": ["=value", "a,,b", "x" * 513],
    "ExcludeTags": ["a=b,", "x" * 513],
    "MirrorDatabases": [""],
    "MirrorAlongside": [""],
    "FilterTag": [" ", " f", "f ", "x" * 129],
    "TargetsTag": [" ", " t", "t ", "x" * 129],
    "LocalZoneOnly": [""],
    "AllowRoutes": ["no"],
    "LocalVpcOnly": ["True"],
    "AllowUnverified": ["yes"],
    "AllowPrefixLists": ["1"],
    "SessionNumber": ["0", "32767", "one"],
    "VirtualNetworkId": ["-1", "16777216", "20000000", "100000000"],
    "PacketLength": ["0", "8501", "9000", "10000"],
    "SessionTags": [
        *("team", "=x", "x=" + "y" * 511, "a=b,,c=d", ",a=b", "Name=x", "a=b, Name=x", "aws:x=y")
    ],
    "CacheSeconds": ["-1", "3601"],
    "DryRun": ["maybe"],
    "CloudTrailEvents": ["on"],
    "MemorySize": ["127", "10241"],
    "Timeout": ["30", "301"],
    "SweepRate": ["1", "rate(5 minutes)"],
    "AlarmTopicArn": ["alarms", "arn:aws:sqs:us-east-1:123456789012:alarms"],
    "Dashboard": ["no"],
    "LogRetentionDays": ["10"],
    "LogLevel": ["WARN"],
    "LogKeyArn": ["arn:aws:kms:us-east-1:123456789012:alias/log"],
    "RolePath": ["", "/x", "x/", "//", "/*/"],
    "PermissionsBoundaryArn": ["bound", "arn:aws:iam::123456789012:role/bound"],
}


@pytest.mark.parametrize("name", load()["Parameters"])
def test_parameter_takes_what_it_should_and_nothing_else(name: str) -> None:
    for value in ACCEPTED[name]:
        stack(**{name: value})
    for value in REFUSED[name]:
        with pytest.raises(ParameterError, match=name):
            stack(**{name: value})


@pytest.mark.parametrize(
    ("targets", "accounts"),
    [("", "123456789012"), ("tmt-1", "123456789012"), ("tmt-1", ""), ("", "")],
)
def test_targets_or_accounts_have_to_be_given(targets: str, accounts: str) -> None:
    why = "Give Targets, TargetAccounts or both"
    with nullcontext() if targets or accounts else pytest.raises(ParameterError, match=why):
        stack(Targets=targets, TargetAccounts=accounts)


# What follows from sweep rate and timeout

RATES = [int(one) for one in load()["Parameters"]["SweepRate"]["AllowedValues"]]
TIMEOUTS = [int(one) for one in load()["Parameters"]["Timeout"]["AllowedValues"]]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("timeout", TIMEOUTS)
def test_sweeps_cannot_overlap(timeout: int, rate: int) -> None:
    why = f"{timeout} seconds needs a SweepRate of {timeout // 60} minutes"
    with nullcontext() if timeout <= 60 * rate else pytest.raises(ParameterError, match=why):
        stack(Timeout=str(timeout), SweepRate=str(rate))


@pytest.mark.parametrize("rate", RATES)
def test_alarms_look_back_as_far_as_the_sweep_rate_asks(rate: int) -> None:
    """In periods of five minutes; test_alarms.py shows what rings."""
    resolved = stack(SweepRate=str(rate))
    assert properties(resolved, "SweepRule")["ScheduleExpression"] == f"rate({rate} minutes)"
    sweep, points = rate // 5, {}
    for name, resource in resolved["Resources"].items():
        if resource["Type"] == "AWS::CloudWatch::Alarm":
            one = resource["Properties"]
            points[name] = (one["DatapointsToAlarm"], one["EvaluationPeriods"])
    assert points == {
        "DarkAlarm": (1, sweep + 2),
        "FailingAlarm": (1, sweep + 2),
        "DeferredAlarm": (60 // rate + 1, 12 + sweep + 2),
        "SilentAlarm": (2 * sweep + 1, 2 * sweep + 1),
        "WaitingAlarm": (1, 1),
        "InvalidAlarm": (1, 3),
    }


@pytest.mark.parametrize("timeout", TIMEOUTS)
def test_a_message_in_work_stays_hidden_and_a_failed_one_comes_soon(timeout: int) -> None:
    queue = properties(stack(Timeout=str(timeout), SweepRate="60"), "Queue")
    # Lambda refuses less than the timeout. Much more is how long a failed event waits.
    assert queue["VisibilityTimeout"] == timeout + 30
    # An event leaves the queue for the other one, never for good.
    deliveries = queue["RedrivePolicy"]["maxReceiveCount"]
    assert deliveries * queue["VisibilityTimeout"] < queue["MessageRetentionPeriod"]


# What the template creates

THE_LEAST = "default"
# Between them, these settle every condition both ways, and no two conditions alike.
SETTINGS: dict[str, dict[str, str]] = {
    THE_LEAST: {"Targets": TARGETS},
    "accounts-in-china": {
        "FilterId": FILTER,
        "TargetAccounts": "111122223333, 222233334444",
        "SensorRoleArns": ROLES.replace("arn:aws:", "arn:aws-cn:"),
        "RolePath": "/traffic-mirror/",
        "AllowPrefixLists": "true",
        "AlarmTopicArn": "arn:aws-cn:sns:cn-north-1:123456789012:alarms",
        "PermissionsBoundaryArn": "arn:aws-cn:iam::123456789012:policy/bound",
        "SweepRate": "10",
        "Timeout": "600",
    },
    "tags-and-trail": {
        "FilterId": FILTER,
        "FilterTag": "mirror-filter",
        "TargetsTag": "mirror-to",
        "Targets": "tmt-1",
        "TargetAccounts": "111122223333",
        "SensorRoleArns": "arn:aws:iam::111122223333:role/sensors",
        "AllowRoutes": "false",
        "CloudTrailEvents": "true",
        "AlarmTopicArn": "arn:aws:sns:us-east-1:123456789012:alarms",
        "SweepRate": "60",
        "Timeout": "120",
    },
    "every-variable": {
        "Targets": "tmt-1",
        "FilterTag": "mirror-filter",
        "IncludeTags": "env=prod,team",
        "ExcludeTags": "",
        "MirrorDatabases": "true",
        "MirrorAlongside": "true",
        "LocalZoneOnly": "false",
        "LocalVpcOnly": "true",
        "AllowUnverified": "true",
        "AllowPrefixLists": "true",
        "SessionNumber": "7",
        "VirtualNetworkId": "4711",
        "PacketLength": "128",
        "SessionTags": "team=net",
        "DryRun": "true",
        "CacheSeconds": "0",
        "MemorySize": "1024",
        "LogRetentionDays": "30",
        "LogLevel": "DEBUG",
        "LogKeyArn": "arn:aws:kms:us-east-1:123456789012:key/0a1b",
        "CodeVersion": "3.0.0",
        "AlarmTopicArn": "arn:aws:sns:us-east-1:123456789012:alarms",
        "Dashboard": "false",
        "SweepRate": "15",
        "Timeout": "900",
    },
}


def at(name: str, template: dict[str, Any] | None = None) -> Resolved:
    """The template in a setting."""
    place = {"partition": "aws-cn", "region": "cn-north-1"} if name.endswith("-china") else {}
    return resolve(template, REQUIRED | SETTINGS[name], **place)


def rendered(name: str) -> str:
    """Resources and outputs in a setting, as YAML."""
    resolved = at(name)
    if "StatusDashboard" in resolved["Resources"]:
        dashboard = properties(resolved, "StatusDashboard")
        dashboard["DashboardBody"] = json.loads(dashboard["DashboardBody"])
    for resource in resolved["Resources"].values():
        resource.pop("Condition", None)
    shown = {key: resolved[key] for key in ("Resources", "Outputs")}
    return yaml.dump(shown, sort_keys=False, width=100, Dumper=_Plain)


class _Plain(yaml.SafeDumper):
    """YAML without anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_created_is_what_the_snapshot_shows(name: str) -> None:
    text = rendered(name)
    path = SNAPSHOTS / f"{name}.yaml"
    if name != THE_LEAST:
        # That everything is of the partition and Region, a test below shows.
        text = text.replace("aws-cn", "aws").replace("cn-north-1", "us-east-1")
        lines = rendered(THE_LEAST).splitlines(), text.splitlines()
        # Wide enough to show the resource that a change belongs to.
        text = "\n".join(difflib.unified_diff(*lines, THE_LEAST, name, n=2, lineterm="")) + "\n"
        path = path.with_suffix(".diff")
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(text, encoding="utf-8")
    assert text.splitlines() == path.read_text(encoding="utf-8").splitlines()


def test_the_settings_tell_every_two_conditions_apart() -> None:
    """Otherwise one could stand where the other belongs."""
    template = load()
    for condition in template["Conditions"]:
        template["Outputs"][condition] = {"Condition": condition, "Value": ""}
    outputs = [at(name, template)["Outputs"] for name in SETTINGS]
    found = [tuple(one in output for output in outputs) for one in template["Conditions"]]
    assert len(set(found)) == len(found)
    assert all(len(set(values)) == 2 for values in found)


def test_variables_are_those_that_the_function_knows() -> None:
    variables = properties(stack(), "Function")["Environment"]["Variables"]
    assert set(variables) == {*VARIABLES, "FILTER_TAG", "TARGETS_TAG", "MIRROR_DATABASES"}


@pytest.mark.parametrize("partition", boto3.session.Session().get_available_partitions())
def test_everything_is_of_the_partition(partition: str) -> None:
    resolved = resolve(
        parameters=REQUIRED | {"Targets": TARGETS, "AllowPrefixLists": "true"}, partition=partition
    )
    text = json.dumps([resolved["Resources"], resolved["Outputs"]])
    # IAM lets a policy leave the partition open. Only a list of targets needs it.
    opened = [one for one in re.findall(r'"(arn:\*:[^"]*)"', text)]
    assert [one for one in opened if ":traffic-mirror-target/" not in one] == []
    assert set(re.findall(r"\barn:([^:]+):", text)) - {"*"} == {partition}


@pytest.mark.parametrize(
    "parameters",
    [
        {"Targets": ",".join(f"tmt-{number:017x}" for number in range(100))},
        {
            "Targets": "",
            "TargetAccounts": ",".join(f"1234567890{number:02}" for number in range(10)),
            "SensorRoleArns": ",".join(
                f"arn:aws-us-gov:iam::1234567890{number:02}:role/traffic-mirror/{'x' * 40}"
                for number in range(10)
            ),
        },
    ],
    ids=["a hundred targets", "ten accounts with roles"],
)
def test_it_fits_into_the_limits(parameters: dict[str, str]) -> None:
    """Lambda takes 4 KB of variables, IAM 10,240 characters of policies in a role."""
    tags = {"IncludeTags": "x" * 512, "ExcludeTags": "x" * 512, "SessionTags": "x=" + "y" * 400}
    tags |= {"FilterTag": "x" * 32, "TargetsTag": "x" * 32, "AllowPrefixLists": "true"}
    resolved = resolve(
        parameters=REQUIRED | parameters | tags,
        region="us-gov-west-1",
        partition="aws-us-gov",
        stack="s" * 30,
    )
    variables = properties(resolved, "Function")["Environment"]["Variables"]
    assert sum(len(key) + len(value) for key, value in variables.items()) < 4096
    statements = [re.sub(r"\s", "", json.dumps(one)) for one in role_statements(resolved)]
    assert sum(map(len, statements)) + 500 < 10_240


# The way of an event


def matches(pattern: Any, event: Any) -> bool:
    """Whether EventBridge's pattern matches, for the few operators that the template uses."""
    if isinstance(pattern, list):
        return any(_value_matches(wanted, event) for wanted in pattern)
    if isinstance(event, list):  # in an array any element may match
        return any(matches(pattern, one) for one in event)
    return all(
        any(matches(one, event) for one in wanted)
        if key == "$or"
        else matches(wanted, event.get(key) if isinstance(event, dict) else None)
        for key, wanted in pattern.items()
    )


def _value_matches(wanted: Any, found: Any) -> bool:
    if not isinstance(wanted, dict):
        return bool(wanted == found)
    ((operator, value),) = wanted.items()
    if operator == "exists":
        return (found is not None) == value
    assert operator == "prefix", operator
    return isinstance(found, str) and found.startswith(value)


HERE = {"source": "aws.ec2", "account": "123456789012", "region": "us-east-1"}


def started(state: str = "running", **other: Any) -> dict[str, Any]:
    kind = "EC2 Instance State-change Notification"
    detail = {"instance-id": "i-1", "state": state}
    return {**HERE, "detail-type": kind, "detail": detail, **other}


def called(name: str, *resources: str, **other: Any) -> dict[str, Any]:
    """An event of CloudTrail: a call, and the resources whose tags it is about."""
    request: dict[str, Any] = {"instanceId": "i-1", "networkInterfaceId": "eni-1"}
    if resources:
        request = {"resourcesSet": {"items": [{"resourceId": one} for one in resources]}}
    detail = {"eventSource": "ec2.amazonaws.com", "eventName": name, "requestParameters": request}
    return {**HERE, "detail-type": "AWS API Call via CloudTrail", "detail": detail | other}


EVENTS: list[tuple[dict[str, Any], str]] = [
    (started(), "StartRule"),
    (running_event("i-1"), "StartRule"),
    *((started(state), "") for state in ("pending", "stopping", "stopped", "terminated")),
    (started(account="999999999999"), ""),
    (started(region="eu-west-1"), ""),
    (started(source="mine.ec2"), ""),
    (started(**{"detail-type": "EC2 Spot Instance Interruption Warning"}), ""),
    (called("AttachNetworkInterface"), "ChangeRule"),
    (called("CreateTags", "vol-1", "i-1"), "ChangeRule"),
    (called("DeleteTags", "i-1"), "ChangeRule"),
    (called("CreateTags", "sg-1"), ""),
    (called("DeleteTags", "sg-1"), ""),
    (called("DescribeTags", "i-1"), ""),
    (called("DetachNetworkInterface"), ""),
    (called("CreateTrafficMirrorSession", "tms-1"), ""),
    (called("AttachNetworkInterface", errorCode="Client.UnauthorizedOperation"), ""),
    (called("CreateTags", "i-1", errorCode="Client.InvalidID"), ""),
    (called("AttachNetworkInterface", eventSource="other.amazonaws.com"), ""),
    *(
        ({**called("AttachNetworkInterface"), key: "other"}, "")
        for key in ("source", "account", "region", "detail-type")
    ),
]


@pytest.mark.parametrize(("event", "rule"), EVENTS, ids=lambda value: str(value)[-60:])
@pytest.mark.parametrize("trail", ["true", "false"])
def test_an_event_is_taken_by_one_rule_or_by_none(
    event: dict[str, Any], rule: str, trail: str
) -> None:
    resources = stack(CloudTrailEvents=trail)["Resources"].items()
    patterns = {
        name: one["Properties"]["EventPattern"]
        for name, one in resources
        if "EventPattern" in one["Properties"]
    }
    taken = [name for name, pattern in patterns.items() if matches(pattern, event)]
    assert taken == ([rule] if rule in patterns else [])


# What goes into the console


def test_pattern_to_paste_is_the_guides_and_the_rules_is_narrower() -> None:
    pattern = read("event-pattern.json")
    assert pattern == {
        "source": ["aws.ec2"],
        "detail-type": ["EC2 Instance State-change Notification"],
        "detail": {"state": ["running"]},
    }
    deployed = properties(stack(), "StartRule")["EventPattern"]
    assert deployed == {**pattern, "account": ["123456789012"], "region": ["us-east-1"]}


def test_events_to_paste() -> None:
    event = read("running-event.json")
    assert matches(read("event-pattern.json"), event)
    assert event["resources"] == [
        f"arn:aws:ec2:{event['region']}:{event['account']}:instance/{event['detail']['instance-id']}"
    ]
    assert read("test-event.json") == {"detail": {"instance-id": event["detail"]["instance-id"]}}
    assert read("dry-run-sweep.json") == {"sweep": True, "dry_run": True}


# On an emulator

# moto's CloudFormation does not create these. The snapshots show them.
MOTO_LACKS = {
    "AWS::CloudWatch::Alarm",
    "AWS::Lambda::EventInvokeConfig",
    "AWS::SQS::QueuePolicy",
}


@pytest.fixture
def create(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, str]]]:
    """Creates a stack in moto and returns its outputs."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            archive.writestr("lambda_traffic_mirror.py", "def lambda_handler(*_): pass\n")
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket=REQUIRED["CodeBucket"])
        s3.put_object(
            Bucket=REQUIRED["CodeBucket"], Key=REQUIRED["CodeKey"], Body=content.getvalue()
        )

        def create(name: str, path: Path, parameters: dict[str, str]) -> dict[str, str]:
            cloudformation = boto3.client("cloudformation")
            cloudformation.create_stack(
                StackName=name,
                TemplateBody=path.read_text(encoding="utf-8"),
                Capabilities=["CAPABILITY_NAMED_IAM"],
                Parameters=[
                    {"ParameterKey": key, "ParameterValue": value}
                    for key, value in parameters.items()
                ],
            )
            (made,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
            assert made["StackStatus"] == "CREATE_COMPLETE"
            resources = cloudformation.describe_stack_resources(StackName=name)["StackResources"]
            resolved = resolve(load(path), parameters)
            wanted = {
                logical
                for logical, resource in resolved["Resources"].items()
                if resource["Type"] not in MOTO_LACKS
            }
            assert wanted <= {one.get("LogicalResourceId") for one in resources}
            outputs = {one["OutputKey"]: one["OutputValue"] for one in made["Outputs"]}
            assert set(outputs) == set(resolved["Outputs"])
            return outputs

        yield create


@pytest.mark.filterwarnings("ignore:Tried to parse:UserWarning")
def test_stack_is_created(create: Callable[..., dict[str, str]]) -> None:
    parameters = REQUIRED | SETTINGS["tags-and-trail"] | {"AllowPrefixLists": "true"}
    # A filter of the stack's own moto does not know either.
    create("one", TEMPLATE, REQUIRED | SETTINGS["every-variable"] | {"FilterId": FILTER})
    outputs = create("two", TEMPLATE, parameters)
    aws = boto3.client("lambda")
    name = {"FunctionName": outputs["FunctionName"]}
    function = aws.get_function_configuration(**name)
    assert function["Handler"] == "lambda_traffic_mirror.lambda_handler"
    assert function["Environment"]["Variables"]["targets"].split() == ["tmt-1", "111122223333"]
    assert function["Environment"]["Variables"]["FILTER_TAG"] == "mirror-filter"
    (mapping,) = aws.list_event_source_mappings(**name)["EventSourceMappings"]
    assert mapping["ScalingConfig"] == {"MaximumConcurrency": 2}
    # moto, too, makes of the lists what cloudformation.py makes of them.
    role, iam = outputs["RoleArn"].rsplit("/", maxsplit=1)[-1], boto3.client("iam")
    made = [
        yaml.safe_load(str(iam.get_role_policy(RoleName=role, PolicyName=each)["PolicyDocument"]))
        for each in iam.list_role_policies(RoleName=role)["PolicyNames"]
        if each != "run"
    ]
    statements = {json.dumps(one) for document in made for one in document["Statement"]}
    assert statements == {
        json.dumps(one)
        for one in role_statements(resolve(parameters=parameters))
        if as_list(one["Action"])[0].startswith(("ec2:", "sts:"))
    }


@pytest.mark.filterwarnings("ignore:Tried to parse:UserWarning")
def test_sensors_stack_is_created(create: Callable[..., dict[str, str]]) -> None:
    # Without a share, which moto's CloudFormation does not know.
    parameters = {
        "TrustedAccounts": "123456789012, 111122223333",
        "PreviewRoleArns": "arn:aws:iam::*:role/security/analyst",
    }
    name = create("sensors", SENSORS, parameters)["RoleArn"].rsplit("/", maxsplit=1)[-1]
    made = boto3.client("iam").get_role(RoleName=name)["Role"]["AssumeRolePolicyDocument"]
    resolved = resolve(load(SENSORS), parameters)
    assert made == properties(resolved, "Role")["AssumeRolePolicyDocument"]
