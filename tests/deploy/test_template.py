"""What template.yaml promises, and the files beside it that go into the console.

The promises themselves stand in checks.py. Here they run over a matrix of parameters and
partitions, and on copies of the template with a mistake in them.
"""

from __future__ import annotations

import ast
import copy
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache
from typing import Any

import boto3
import pytest
from aws import running_event
from cfnlint import ManualArgs, lint_file
from checks import (
    CHECKS,
    EIGHT,
    Resolved,
    event_matches,
    needed,
    of_type,
    properties,
    what_goes_wrong_is_told_once_and_is_over_when_it_is_over,
)
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

REQUIRED = {"CodeBucket": "my-bucket", "CodeKey": "lambda_traffic_mirror/abc.zip"}
TARGETS = "tmt-0bce8038d06d6c745, tmt-0fedcba9876543210"
FILTER = "tmf-0a1b2c3d4e5f60718"
HERE = "arn:aws:ec2:us-east-1:123456789012"


def stack(**parameters: str) -> Resolved:
    """The template with the least that it takes, and these parameters."""
    return resolve(parameters={**REQUIRED, "Targets": TARGETS, **parameters})


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
    assert "AWS::CloudFormation::Stack" not in TEMPLATE.read_text(encoding="utf-8")
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
    # What is left out: a filter of the stack's own, and nobody's targets.
    defaults = [template["Parameters"][name]["Default"] for name in ("FilterId", "Targets")]
    assert [*defaults, template["Parameters"]["TargetAccounts"]["Default"]] == [""] * 3
    interface = template["Metadata"]["AWS::CloudFormation::Interface"]
    grouped = [name for group in interface["ParameterGroups"] for name in group["Parameters"]]
    assert sorted(grouped) == sorted(template["Parameters"])
    rest = json.dumps([template["Conditions"], template["Resources"], template["Outputs"]])
    for name, parameter in template["Parameters"].items():
        assert parameter["Description"].strip(), name
        # What values are allowed CloudFormation says by itself, what a pattern means it does not.
        assert "AllowedValues" in parameter or parameter["ConstraintDescription"], name
        assert {"AllowedPattern", "AllowedValues", "MaxValue"} & set(parameter), name
        assert ("Default" in parameter) == (name not in REQUIRED), name
        assert f'"Ref": "{name}"' in rest or f"${{{name}}}" in rest, name


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
    "MirrorAlongside": ["true"],
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
    "MirrorAlongside": [""],
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


@pytest.mark.parametrize("rate", [5, 10, 15, 30, 60])
@pytest.mark.parametrize("timeout", [300, 600, 900])
def test_sweeps_cannot_overlap(timeout: int, rate: int) -> None:
    why = f"{timeout} seconds needs a SweepRate of {timeout // 60} minutes"
    with nullcontext() if timeout <= 60 * rate else pytest.raises(ParameterError, match=why):
        stack(Timeout=str(timeout), SweepRate=str(rate))


# What it makes of its parameters

ROLES = "arn:aws:iam::111122223333:role/traffic-mirror/a, arn:aws:iam::222233334444:role/b"
TOPIC = {"AlarmTopicArn": "arn:{partition}:sns:{region}:123456789012:alarms"}
KEY = {"LogKeyArn": "arn:{partition}:kms:{region}:123456789012:key/0a1b"}
MATRIX: dict[str, dict[str, str]] = {
    "the least": {},
    "an own filter": {"FilterId": FILTER, "CodeVersion": "2.0.0", "LogLevel": "DEBUG"},
    "an account": {"Targets": "", "TargetAccounts": "123456789012"},
    "accounts and targets": {
        "TargetAccounts": "111122223333, 222233334444",
        "SensorRoleArns": ROLES,
        "RolePath": "/traffic-mirror/",
    },
    "every permission": {"AllowPrefixLists": "true", "AllowRoutes": "true"},
    "no further permission": {"AllowPrefixLists": "false", "AllowRoutes": "false"},
    "everything else": {
        "FilterId": FILTER,
        "Targets": "tmt-1",
        "IncludeTags": "env=prod,team",
        "ExcludeTags": "",
        "MirrorAlongside": "true",
        "LocalZoneOnly": "false",
        "LocalVpcOnly": "true",
        "AllowUnverified": "true",
        "SessionNumber": "7",
        "VirtualNetworkId": "4711",
        "PacketLength": "128",
        "SessionTags": "team=net",
        "DryRun": "true",
        "CloudTrailEvents": "true",
        "CacheSeconds": "0",
        "MemorySize": "1024",
        "LogRetentionDays": "30",
        **TOPIC,
        **KEY,
        "PermissionsBoundaryArn": "arn:{partition}:iam::123456789012:policy/bound",
    },
    "a trail and a topic": {"CloudTrailEvents": "true", **TOPIC},
    "a trail, a key and roles": {"CloudTrailEvents": "true", "SensorRoleArns": ROLES, **KEY},
    "10 minutes": {"SweepRate": "10", "Timeout": "600"},
    "15 minutes": {"SweepRate": "15", "Timeout": "900"},
    "30 minutes": {"SweepRate": "30", "Timeout": "60"},
    "60 minutes": {"SweepRate": "60", "Timeout": "120"},
}

# Rows that stand for other partitions where a row is tried in one only.
IN_CHINA = {"an account", "a trail, a key and roles"}


@cache
def partitions() -> dict[str, str]:
    """Every partition that botocore knows, each with one of its Regions."""
    session = boto3.session.Session()
    return {
        partition: session.get_available_regions("ec2", partition_name=partition)[0]
        for partition in session.get_available_partitions()
    }


def at(name: str, partition: str = "aws", template: dict[str, Any] | None = None) -> Resolved:
    """The template for a row of the matrix."""
    region = partitions()[partition] if partition != "aws" else "us-east-1"
    parameters = {**REQUIRED, "Targets": TARGETS}
    for key, value in MATRIX[name].items():
        here = value.replace("{partition}", partition).replace("{region}", region)
        parameters[key] = here.replace("arn:aws:iam", f"arn:{partition}:iam")
    return resolve(template, parameters, partition=partition, region=region)


def test_the_matrix_tells_every_two_conditions_apart() -> None:
    """Otherwise one could stand where the other belongs."""
    found: dict[str, list[bool]] = {}
    template = load()
    for condition in template["Conditions"]:
        template["Outputs"][condition] = {"Condition": condition, "Value": "", "Description": ""}
    for name in MATRIX:
        outputs = at(name, "aws-cn" if name in IN_CHINA else "aws", template)["Outputs"]
        for condition in template["Conditions"]:
            found.setdefault(condition, []).append(condition in outputs)
    alike = [(one, two) for one in found for two in found if one < two and found[one] == found[two]]
    assert alike == []
    assert all(len(set(values)) == 2 for values in found.values())


@pytest.mark.parametrize("name", MATRIX)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_promise_is_kept(check: Callable[[Resolved], None], name: str) -> None:
    check(at(name))


@pytest.mark.parametrize("partition", partitions())
def test_promises_are_kept_in_every_partition(partition: str) -> None:
    assert len(partitions()) >= 8
    for name in ("the least", "accounts and targets", "everything else", "every permission"):
        resolved = at(name, partition)
        for check in CHECKS:
            check(resolved)


def test_variables_are_those_that_the_function_knows() -> None:
    variables = properties(stack(), "Function")["Environment"]["Variables"]
    assert set(variables) == set(VARIABLES)


@pytest.mark.parametrize("partition", ["aws", "aws-us-gov"])
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
def test_it_fits_into_the_limits(parameters: dict[str, str], partition: str) -> None:
    """Lambda takes 4 KB of variables, IAM 10,240 characters of policies in a role."""
    tags = {"IncludeTags": "x" * 512, "ExcludeTags": "x" * 512, "SessionTags": "x=" + "y" * 510}
    resolved = resolve(
        parameters={**REQUIRED, **parameters, **tags, "AllowPrefixLists": "true"},
        region=partitions()[partition],
        partition=partition,
        stack="s" * 30,
    )
    variables = properties(resolved, "Function")["Environment"]["Variables"]
    assert sum(len(key) + len(value) for key, value in variables.items()) < 4096
    policies = [
        *properties(resolved, "Role")["Policies"],
        *of_type(resolved, "AWS::IAM::Policy").values(),
    ]
    size = sum(len(re.sub(r"\s", "", json.dumps(policy["PolicyDocument"]))) for policy in policies)
    assert size < 10_240


# Mistakes in it

# A mistake that changes nothing but a text for people, or a name that nobody else uses.
HARMLESS = re.compile(
    r"/(Description|AlarmDescription|Sid|PolicyName|RuleNumber|Metadata|Tags|Label)(/|$)"
    r"|/Targets/0/Id$|/Metrics/\d/(Id|Label)$|^[^/]+(/Type|/Condition)?$"
)


def places(node: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every place in a document: its path, what holds it and its key there."""
    items: Any = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        here = f"{path}/{key}" if path else str(key)
        yield here, node, key
        if isinstance(value, (dict, list)):
            yield from places(value, here)


IN_TURN = list(CHECKS)


def caught(resolved: Resolved, *, thoroughly: bool = True) -> bool:
    for check in list(IN_TURN):
        if thoroughly or check is not what_goes_wrong_is_told_once_and_is_over_when_it_is_over:
            try:
                check(resolved)
            except (AssertionError, KeyError, ValueError):
                IN_TURN.remove(check)  # what has caught one mistake catches its neighbours, too
                IN_TURN.insert(0, check)
                return True
    return False


def spoilt(value: Any) -> list[Any]:
    """Values that are not this one: off where it was on, wider, narrower, more, less."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, *([value * 100] if value else [])]
    if isinstance(value, str):
        return [value + "x", *([value + "00"] if value.isdigit() else [])]
    return []


@pytest.mark.parametrize("name", ["everything else", "accounts and targets"])
def test_nothing_can_be_taken_away_or_changed(name: str) -> None:
    """Whatever disappears from the finished resources or is another, a check misses it."""
    resolved = at(name)
    missed = []
    for path, holder, key in list(places(resolved["Resources"])):
        if HARMLESS.search(path) or path.startswith("Dashboard/"):
            continue
        kept = holder[key]
        for other in spoilt(kept):
            holder[key] = other
            if not caught(resolved, thoroughly=path.split("/")[0].endswith("Alarm")):
                missed.append(f"{path}: {kept!r} -> {other!r}")
            holder[key] = kept
        whole = copy.copy(holder)
        del holder[key]
        if not caught(resolved, thoroughly=path.split("/")[0].endswith("Alarm")):
            missed.append(f"{path}: gone")
        holder.clear()
        holder.update(whole) if isinstance(holder, dict) else holder.extend(whole)
    for logical in list(resolved["Resources"]):
        less = {one: two for one, two in resolved["Resources"].items() if one != logical}
        if not caught({**resolved, "Resources": less}):
            missed.append(f"{logical}: gone")
    assert missed == [], "\n".join(missed)


def test_no_statement_can_be_wider() -> None:
    resolved = at("accounts and targets")
    tried = 0
    for path, holder, key in list(places(resolved["Resources"])):
        # A queue's policy is about that queue, whatever resource it names.
        if path.endswith("/Resource") and "QueuePolicy" in path:
            continue
        if key in ("Resource", "Action", "Principal") and holder.get("Effect") == "Allow":
            kept = holder[key]
            service = as_list(holder["Action"])[0].split(":")[0]
            for wider in ("*", f"{service}:*", {"AWS": "*"}):
                fits = key == "Principal" if isinstance(wider, dict) else key != "Principal"
                if fits and kept != wider and (key == "Action" or wider != f"{service}:*"):
                    holder[key] = wider
                    assert caught(resolved, thoroughly=False), (path, wider)
                    holder[key] = kept
                    tried += 1
    assert tried > 20


class REMOVE:
    """Stands for a member that is taken away."""


# In the template, as somebody would write them: path, and what stands there then. What is only
# another value, or gone from a finished resource, the test above tries everywhere.
MISTAKES: list[tuple[str, Any]] = [
    ("Resources/ChangeRule/Properties/State", "DISABLED"),
    ("Resources/QueueMapping/Properties/FilterCriteria", {"Filters": [{"Pattern": "{}"}]}),
    ("Resources/Function/Properties/ReservedConcurrentExecutions", 0),
    ("Resources/Function/Properties/Timeout", 3),
    ("Resources/Function/Properties/Environment/Variables/DRY_RUN", "true"),
    ("Resources/Queue/Properties/DelaySeconds", 900),
    ("Resources/Queue/Properties/KmsMasterKeyId", "alias/aws/sqs"),
    ("Resources/Queue/Properties/VisibilityTimeout", 30),
    ("Resources/SweepRule/Properties/Targets/0/Input", "{}"),
    ("Resources/SweepRule/Properties/ScheduleExpression", "rate(1 day)"),
    ("Resources/FailureAlarm/Properties/AlarmRule", "FALSE"),
    ("Resources/FailureAlarm/Properties/ActionsEnabled", False),
    ("Resources/FailureAlarm/Properties/ActionsSuppressor", "x"),
    ("Resources/FailedAlarm/Properties/AlarmActions", [{"Ref": "AlarmTopicArn"}]),
    ("Resources/SweepAlarm/Properties/TreatMissingData", "ignore"),
    ("Resources/SweepAlarm/Properties/Statistic", "SampleCount"),
    ("Resources/SweepAlarm/Properties/ComparisonOperator", "GreaterThanThreshold"),
    ("Resources/UnmirroredAlarm/Properties/ActionsEnabled", False),
    ("Resources/UnmirroredAlarm/Properties/Statistic", "Minimum"),
    # Every message that lies there keeps the alarm on.
    ("Resources/GivenUpAlarm/Properties/Metrics/0/Expression", "waiting"),
    ("Resources/RoutePolicy", REMOVE),
    ("Resources/SensorRolePolicy/Condition", REMOVE),
    ("Resources/Role/Properties/ManagedPolicyArns", ["arn:aws:iam::aws:policy/PowerUserAccess"]),
    ("Resources/FilterIn4/Properties/Protocol", 6),
    ("Resources/FilterIn4/Properties/RuleAction", "reject"),
    ("Resources/Filter/DeletionPolicy", "Delete"),
    ("Outputs/CodeKey", REMOVE),
]


@pytest.mark.parametrize(("path", "value"), MISTAKES, ids=lambda value: str(value)[-50:])
def test_mistake_is_noticed(path: str, value: Any) -> None:
    template = load()
    *way, last = path.split("/")
    node: Any = template
    for key in way:
        node = node[int(key) if isinstance(node, list) else key]
    if value is REMOVE:
        del node[int(last) if isinstance(node, list) else last]
    else:
        assert not isinstance(node, list)
        assert node.get(last) != value
        node[last] = value
    assert noticed(template)


def noticed(template: dict[str, Any]) -> bool:
    """Whether a check fails for a row of the matrix, or the row cannot be resolved at all."""
    # What is likely to notice goes first.
    for thoroughly in (False, True):
        for name in reversed(MATRIX):
            try:
                resolved = at(name, "aws-cn" if name in IN_CHINA else "aws", template)
            except (KeyError, ValueError):
                return True
            if caught(resolved, thoroughly=thoroughly):
                return True
    return False


def test_no_condition_can_be_wrong_and_no_number_of_a_mapping() -> None:
    template = load()
    missed = []
    for path, holder, key in list(places(template)):
        kept = holder[key]
        if path.startswith("Conditions/") and path.count("/") == 1:
            others: list[Any] = [{"Fn::Not": [kept]}]
        elif key == "Fn::If":
            others = [[kept[0], kept[2], kept[1]]]
        elif path.startswith("Mappings/") and not isinstance(kept, dict):
            others = spoilt(kept)
        else:
            continue
        for other in others:
            holder[key] = other
            if not noticed(template):
                missed.append(f"{path}: {kept!r} -> {other!r}")
        holder[key] = kept
    for section in ("Resources", "Outputs"):
        for logical, entry in template[section].items():
            if condition := entry.pop("Condition", None):
                if not noticed(template):
                    missed.append(f"{logical}: without condition")
                entry["Condition"] = condition
    assert missed == [], "\n".join(missed)


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
    # The simulated events are like those that the rule takes.
    assert event_matches(deployed, running_event("i-1"))


def test_permissions_to_paste_are_those_of_the_template() -> None:
    """The file names no account, Region or ID; otherwise it is the same."""
    resolved = stack(FilterId=FILTER, AllowRoutes="false")
    pasted = json.loads(
        (DEPLOY / "permissions.json").read_text(encoding="utf-8").replace("FILTER_ID", "*")
    )
    assert pasted["Version"] == "2012-10-17"
    deployed = [one for one in role_statements(resolved) if "ec2:" in as_list(one["Action"])[0]]

    def by_action(statements: list[dict[str, Any]]) -> dict[str, set[tuple[str, str]]]:
        """Kinds of resource and conditions of each action."""
        found: dict[str, set[tuple[str, str]]] = {}
        for statement in statements:
            for action in as_list(statement["Action"]):
                for one in as_list(statement["Resource"]):
                    kind = one.rsplit(":", maxsplit=1)[-1].split("/", maxsplit=1)[0]
                    condition = json.dumps(statement.get("Condition"))
                    found.setdefault(action, set()).add((kind, condition))
        return found

    assert by_action(pasted["Statement"]) == by_action(deployed)
    assert set(by_action(deployed)) == EIGHT
    for action, resource, context in needed(resolved):
        if action.startswith("ec2:"):
            assert allows(pasted["Statement"], action, resource, context)
    assert not allows(pasted["Statement"], "ec2:CreateTags", f"{HERE}:traffic-mirror-session/tms-1")


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


# In a simulated account

# moto's CloudFormation does not create these. The tests above look at them.
MOTO_LACKS = {
    "AWS::CloudWatch::Alarm",
    "AWS::CloudWatch::CompositeAlarm",
    "AWS::Lambda::EventInvokeConfig",
    "AWS::SQS::QueuePolicy",
}


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
    parameters = {
        **REQUIRED,
        "FilterId": FILTER,
        "Targets": "tmt-1,tmt-2",
        "TargetAccounts": "123456789012",
        "SensorRoleArns": ROLES,
        "AllowPrefixLists": "true",
    }
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
        resolved = resolve(parameters=parameters)
        assert set(outputs) == set(resolved["Outputs"])
        resources = cloudformation.describe_stack_resources(StackName=name)["StackResources"]
        wanted = {
            logical
            for logical, resource in resolved["Resources"].items()
            if resource["Type"] not in MOTO_LACKS
        }
        assert {one["LogicalResourceId"] for one in resources if one.get("ResourceType")} >= wanted

    function = boto3.client("lambda").get_function_configuration(
        FunctionName=outputs["FunctionName"]
    )
    assert function["Handler"] == "lambda_traffic_mirror.lambda_handler"
    assert function["Environment"]["Variables"]["targets"] == "tmt-1,tmt-2,123456789012"
    (mapping,) = boto3.client("lambda").list_event_source_mappings(
        FunctionName=outputs["FunctionName"]
    )["EventSourceMappings"]
    assert mapping["ScalingConfig"] == {"MaximumConcurrency": 2}
    # moto, too, makes of the lists what cloudformation.py makes of them.
    role = outputs["RoleArn"].rsplit("/", maxsplit=1)[-1]
    iam = boto3.client("iam")
    made = [
        ast.literal_eval(str(iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]))
        for name in iam.list_role_policies(RoleName=role)["PolicyNames"]
        if name != "run"
    ]
    statements = [one for document in made for one in document["Statement"]]
    assert {json.dumps(one) for one in statements} == {
        json.dumps(one)
        for one in role_statements(resolved)
        if as_list(one["Action"])[0].startswith(("ec2:", "sts:"))
    }
