"""What template.yaml makes of its parameters, and the files beside it that go into the console.

What the template takes and creates is held to the files in `snapshots`: the whole of it with the
least that it takes, and what becomes different in other settings. After a change that is meant,
write them anew and read what git shows:

    UPDATE_SNAPSHOTS=1 .venv/bin/python -m pytest tests/deploy/test_template.py -k snapshot
"""

from __future__ import annotations

import difflib
import json
import os
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from cloudformation import DEPLOY, TEMPLATE, ParameterError, load, resolve, role_statements
from conftest import VARIABLES
from moto.events.models import EventPattern

Resolved = dict[str, Any]

SNAPSHOTS = Path(__file__).parent / "snapshots"
SENSORS = DEPLOY / "sensors.yaml"
REQUIRED = {"CodeBucket": "my-bucket", "CodeKey": "lambda_traffic_mirror/abc.zip"}
TARGETS = "tmt-0bce8038d06d6c745, tmt-0fedcba9876543210"
FILTER = "tmf-0a1b2c3d4e5f60718"
ROLES = "arn:aws:iam::111122223333:role/traffic-mirror/a, arn:aws:iam::222233334444:role/b"
TOPIC = "arn:aws:sns:us-east-1:123456789012:alarms"


def stack(**parameters: str) -> Resolved:
    """The template with the least that it takes, and these parameters."""
    return resolve(parameters={**REQUIRED, "Targets": TARGETS, **parameters})


def properties(resolved: Resolved, logical: str) -> dict[str, Any]:
    found: dict[str, Any] = resolved["Resources"][logical]["Properties"]
    return found


def read(name: str) -> Any:
    return json.loads((DEPLOY / name).read_text(encoding="utf-8"))


# The template as a document


def test_template_is_plain_and_well_below_the_size_that_cloudformation_takes() -> None:
    text = TEMPLATE.read_text(encoding="utf-8")
    # What emulators do not know, or CloudFormation itself only with a macro or a bucket.
    for word in ("Transform", "!Contains", "!Condition", "!ForEach", "AWS::CloudFormation::Stack"):
        assert word not in text
    assert len(text.encode()) < 0.9 * 51_200


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
        assert f'"Ref": "{name}"' in rest or f"${{{name}}}" in rest, name
    for name in ("FilterTag", "TargetsTag"):
        why = "Anyone who may tag an instance then decides"
        assert why in template["Parameters"][name]["Description"]


# What the patterns of parameters accept and refuse. Their other limits are in the snapshot.
ACCOUNT = "123456789012"
IAM = f"arn:aws:iam::{ACCOUNT}:"
TAGS = ["", "env=prod,team", "key=a=b, other key=x y,empty="], ["=value", "a,,b", "a=b,", "x" * 513]
PATTERNS: dict[str, tuple[list[str], list[str]]] = {
    "FilterId": (["", FILTER, "traf-mir-fil-1"], ["*", "tmt-1", "tmf-1,tmf-2"]),
    "Targets": (
        ["tmt-1", "tmt-1, tmt-2 ,tmt-3", "traf-mir-tar-1", "12345678901", f"tmt-{ACCOUNT}"],
        [
            *("*", "tmt-*", "tmf-1", "eni-1", "tmt-1,", "tmt-1,,tmt-2", "tmt-1 tmt-2", ",tmt-1"),
            *(" ", ACCOUNT, f"tmt-1, {ACCOUNT}", f"{ACCOUNT} ,tmt-1"),
        ],
    ),
    "TargetAccounts": (
        ["", ACCOUNT, f"012345678901 , {ACCOUNT}"],
        ["12345678901", f"{ACCOUNT}3", "*", f"{ACCOUNT},", f",{ACCOUNT}", "tmt-1"],
    ),
    "IncludeTags": TAGS,
    "ExcludeTags": TAGS,
    "FilterTag": (["", "f", "mirror filter", "aws:x:y"], [" ", " f", "f ", "x" * 129]),
    "TargetsTag": (["", "t", "mirror-to"], [" ", " t", "t ", "x" * 129]),
    "SensorRoleArns": (
        ["", f"{IAM}role/sensors", f"arn:aws-eusc:iam::{ACCOUNT}:role/a/s+=.@_-1, {IAM}role/s"],
        [
            *("*", f"{IAM}role/*", "arn:aws:iam::*:role/s", f",{IAM}role/s", f"{IAM}user/s"),
            *(f"{IAM}role/s,", f"{IAM}role/s,,{IAM}role/t", f"{IAM}role/" + "s" * 1000),
        ],
    ),
    "VirtualNetworkId": (
        ["", "0", "9999999", "10000000", "16777209", "16777215"],
        ["-1", "16777216", "20000000", "100000000"],
    ),
    "PacketLength": (["", "1", "999", "8499", "8500"], ["0", "8501", "9000", "10000"]),
    "SessionTags": (
        ["", "team=net,cost centre=a=b, empty=", "Names=x,name=y"],
        ["team", "=x", "a=b,,c=d", ",a=b", "Name=x", "a=b, Name=x", "aws:x=y"],
    ),
    "RolePath": (["/", "/traffic-mirror/", "/a/b.c/"], ["", "/x", "x/", "//", "/*/"]),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_pattern_takes_what_it_should_and_nothing_else(name: str) -> None:
    accepted, refused = PATTERNS[name]
    for value in accepted:
        stack(**{name: value})
    for value in refused:
        with pytest.raises(ParameterError, match=name):
            stack(**{name: value})


def test_targets_or_accounts_have_to_be_given() -> None:
    stack(Targets="", TargetAccounts=ACCOUNT)
    with pytest.raises(ParameterError, match="Give Targets, TargetAccounts or both"):
        stack(Targets="")


# What follows from sweep rate and timeout

RATES, TIMEOUTS = ([5, 10, 15, 30, 60], [60, 120, 300, 600, 900])


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("timeout", TIMEOUTS)
def test_sweeps_cannot_overlap(timeout: int, rate: int) -> None:
    why = f"{timeout} seconds needs a SweepRate of {timeout // 60} minutes"
    with nullcontext() if timeout <= 60 * rate else pytest.raises(ParameterError, match=why):
        stack(Timeout=str(timeout), SweepRate=str(rate))


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
IN_FULL = {
    THE_LEAST: f"Targets={TARGETS}",
    "accounts-in-china": f"""
        FilterId={FILTER} | TargetAccounts=111122223333, 222233334444 | RolePath=/traffic-mirror/
        SensorRoleArns={ROLES.replace("arn:aws:", "arn:aws-cn:")} | AllowPrefixLists=true
        AlarmTopicArn={TOPIC.replace("aws:", "aws-cn:").replace("us-east-1", "cn-north-1")}
        PermissionsBoundaryArn=arn:aws-cn:iam::123456789012:policy/bound""",
    "tags-and-trail": f"""
        FilterId={FILTER} | FilterTag=mirror-filter | TargetsTag=mirror-to | Targets=tmt-1
        TargetAccounts=111122223333 | SensorRoleArns=arn:aws:iam::111122223333:role/sensors
        AllowRoutes=false | CloudTrailEvents=true | AlarmTopicArn={TOPIC}
        SweepRate=60 | Timeout=120""",
    "every-variable": f"""
        Targets=tmt-1 | FilterTag=mirror-filter | IncludeTags=env=prod,team | ExcludeTags=
        MirrorDatabases=true | MirrorAlongside=true | LocalZoneOnly=false | LocalVpcOnly=true
        AllowUnverified=true | AllowPrefixLists=true | SessionNumber=7 | VirtualNetworkId=4711
        PacketLength=128 | SessionTags=team=net | DryRun=true | CacheSeconds=0 | MemorySize=1024
        LogRetentionDays=30 | LogLevel=DEBUG | CodeVersion=3.0.0 | Dashboard=false
        LogKeyArn=arn:aws:kms:us-east-1:123456789012:key/0a1b | AlarmTopicArn={TOPIC}""",
}
SETTINGS = {
    name: dict(one.strip().split("=", 1) for one in re.split(r"\n| \| ", text) if one.strip())
    for name, text in IN_FULL.items()
}


def at(name: str, template: dict[str, Any] | None = None) -> Resolved:
    """The template in a setting."""
    place = {"partition": "aws-cn", "region": "cn-north-1"} if name.endswith("-china") else {}
    return resolve(template, REQUIRED | SETTINGS[name], **place)


class _Plain(yaml.SafeDumper):
    """YAML without anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def as_yaml(shown: Any) -> str:
    return yaml.dump(shown, sort_keys=False, width=100, Dumper=_Plain)


def rendered(name: str) -> list[str]:
    """Resources, outputs and what the template takes, in a setting, as lines of YAML."""
    resolved = at(name)
    if "StatusDashboard" in resolved["Resources"]:
        dashboard = properties(resolved, "StatusDashboard")
        dashboard["DashboardBody"] = json.loads(dashboard["DashboardBody"])
    template = load()
    for declared in template["Parameters"].values():
        for text in ("Description", "ConstraintDescription"):
            declared.pop(text, None)
    shown = resolved | {key: template[key] for key in ("Mappings", "Parameters")}
    # Everything is of the partition and Region: a test of its own.
    text = as_yaml(shown).replace("aws-cn", "aws").replace("cn-north-1", "us-east-1")
    return text.splitlines()


def hold(lines: list[str], name: str) -> None:
    """Holds lines to a snapshot, or writes it anew."""
    path = SNAPSHOTS / name
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert lines == path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_taken_and_created_is_what_the_snapshot_shows(name: str) -> None:
    lines, before = rendered(name), rendered(THE_LEAST)
    if name == THE_LEAST:
        hold(lines, f"{name}.yaml")
    else:
        changes = difflib.unified_diff(before, lines, THE_LEAST, name, n=2, lineterm="")
        hold(list(changes), f"{name}.diff")


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


def test_two_stacks_stand_side_by_side() -> None:
    """No resource is given a name, so that CloudFormation makes one for each stack."""
    # Names of what a resource is about. That of a policy is one only within its role.
    about = {"AWS::CloudWatch::Alarm": "MetricName", "AWS::IAM::Policy": "PolicyName"}
    for name, resource in load()["Resources"].items():
        kind = resource["Type"]
        given = {key for key in resource["Properties"] if key.endswith("Name")}
        allowed = "" if kind == "AWS::Lambda::Function" else about.get(kind, "FunctionName")
        assert given <= {allowed}, name


@pytest.mark.parametrize("partition", boto3.session.Session().get_available_partitions())
def test_everything_is_of_the_partition(partition: str) -> None:
    functions = REQUIRED | {"Targets": TARGETS, "AllowPrefixLists": "true"}
    sensors = {"TrustedAccounts": ACCOUNT}
    both = [
        resolve(load(path), parameters, partition=partition)
        for path, parameters in ((TEMPLATE, functions), (SENSORS, sensors))
    ]
    text = json.dumps([[one["Resources"], one["Outputs"]] for one in both])
    # IAM lets a policy leave the partition open. Only a list of targets needs it.
    text = re.sub(r"arn:\*:ec2:\*:\d*\*?:traffic-mirror-target/", "", text)
    assert set(re.findall(r"\barn:([^:]+):", text)) == {partition}


@pytest.mark.parametrize("many", ["targets", "accounts"])
def test_a_hundred_targets_or_ten_accounts_fit_into_the_limits(many: str) -> None:
    """Lambda takes 4 KB of variables, IAM 10,240 characters of policies in a role."""
    accounts = [f"1234567890{number:02}" for number in range(10)]
    parameters = {"Targets": ",".join(f"tmt-{number:017x}" for number in range(100))}
    if many == "accounts":
        roles = [f"arn:aws:iam::{one}:role/traffic-mirror/{'x' * 40}" for one in accounts]
        parameters = {"TargetAccounts": ",".join(accounts), "SensorRoleArns": ",".join(roles)}
    tags = {"IncludeTags": "x" * 512, "ExcludeTags": "x" * 512, "SessionTags": "x=" + "y" * 400}
    tags |= {"FilterTag": "x" * 32, "TargetsTag": "x" * 32, "AllowPrefixLists": "true"}
    resolved = resolve(parameters=REQUIRED | parameters | tags, stack="s" * 30)
    variables = properties(resolved, "Function")["Environment"]["Variables"]
    assert sum(len(key) + len(value) for key, value in variables.items()) < 4096
    statements = [re.sub(r"\s", "", json.dumps(one)) for one in role_statements(resolved)]
    assert sum(map(len, statements)) + 500 < 10_240


# The way of an event


def started(state: str = "running", **other: Any) -> dict[str, Any]:
    here = {"source": "aws.ec2", "account": ACCOUNT, "region": "us-east-1"}
    detail = {"instance-id": "i-1", "state": state}
    kind = "EC2 Instance State-change Notification"
    return {**here, "detail-type": kind, "detail": detail, **other}


def called(name: str, *resources: str, other: Any = None, **detail: Any) -> dict[str, Any]:
    """An event of CloudTrail: a call, and the resources whose tags it is about.

    EventBridge looks into each object of an array; moto's matcher takes them as one.
    """
    request = {"resourcesSet": {"items": {"resourceId": resources}}}
    call = {"eventSource": "ec2.amazonaws.com", "eventName": name, "requestParameters": request}
    kind = {"detail-type": "AWS API Call via CloudTrail"}
    return {**started(), **kind, "detail": call | detail, **(other or {})}


OTHERS = [{"source": "mine"}, {"account": "999999999999"}, {"region": "x-1"}, {"detail-type": "x"}]
EVENTS: list[tuple[str, list[dict[str, Any]]]] = [
    ("StartRule", [started()]),
    ("", [started(one) for one in ("pending", "stopping", "stopped", "terminated")]),
    ("", [started(**one) for one in OTHERS]),
    ("ChangeRule", [called("AttachNetworkInterface"), called("CreateTags", "vol-1", "i-1")]),
    ("ChangeRule", [called("DeleteTags", "i-1")]),
    ("", [called("CreateTags", "sg-1"), called("DeleteTags", "sg-1"), called("RunTags", "i-1")]),
    ("", [called("DetachNetworkInterface"), called("AttachNetworkInterface", errorCode="x")]),
    ("", [called("CreateTags", "i-1", errorCode="x")]),
    ("", [called("AttachNetworkInterface", eventSource="other.amazonaws.com")]),
    ("", [called("AttachNetworkInterface", other=one) for one in OTHERS]),
]


@pytest.mark.parametrize("trail", ["true", "false"])
def test_an_event_is_taken_by_one_rule_or_by_none(trail: str) -> None:
    resources = stack(CloudTrailEvents=trail)["Resources"].items()
    rules = {
        name: EventPattern.load(json.dumps(one["Properties"]["EventPattern"]))
        for name, one in resources
        if "EventPattern" in one["Properties"]
    }
    for rule, events in EVENTS:
        for event in events:
            taken = [name for name, pattern in rules.items() if pattern.matches_event(event)]
            assert taken == ([rule] if rule in rules else []), event


def test_what_goes_into_the_console() -> None:
    pattern, event = read("event-pattern.json"), read("running-event.json")
    deployed = properties(stack(), "StartRule")["EventPattern"]
    # The guide's; the template's is narrower.
    assert deployed == {**pattern, "account": [ACCOUNT], "region": ["us-east-1"]}
    assert EventPattern.load(json.dumps(pattern)).matches_event(event)
    assert read("test-event.json") == {"detail": {"instance-id": event["detail"]["instance-id"]}}
    assert read("dry-run-sweep.json") == {"sweep": True, "dry_run": True}
