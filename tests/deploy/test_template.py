"""What the templates make of their parameters, and the files beside them that go into the console.

What a template takes and makes is held to its file in `snapshots`: the whole of it in one setting,
and what differs in others. After a change that is meant, or after another setting was written
there, write the rest of it anew and read what git shows:

    UPDATE_SNAPSHOTS=1 .venv/bin/python -m pytest tests/deploy/test_template.py -k snapshot
"""

from __future__ import annotations

import json
import os
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from cloudformation import CODE, DEPLOY, ParameterError, load, resolve, stack, statements_of
from conftest import VARIABLES
from moto.events.models import EventPattern

Resolved = dict[str, Any]

ACCOUNT = "123456789012"
TEMPLATES = ["template", "sensors"]


def properties(resolved: Resolved, logical: str) -> dict[str, Any]:
    found: dict[str, Any] = resolved["Resources"][logical]["Properties"]
    return found


# Snapshots


def is_short(node: Any) -> bool:
    """Whether it is shown as a paragraph: what has no parts, and what is no table."""
    rows = [*node.values()] if isinstance(node, dict) else []
    table = len(rows) > 1 and all(isinstance(one, dict) for one in rows)
    simple = not any(isinstance(one, (dict, list)) for one in rows or node)
    return simple or (len(json.dumps(node)) < 1200 and not table)


class Compact(yaml.SafeDumper):
    """YAML on few lines: in one piece what is short, few quotation marks, no anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_sequence(self, tag: str, sequence: Any, flow_style: Any = None) -> Any:
        return super().represent_sequence(tag, sequence, is_short(sequence))

    def represent_mapping(self, tag: str, mapping: Any, flow_style: Any = None) -> Any:
        return super().represent_mapping(tag, mapping, is_short(mapping))

    def analyze_scalar(self, scalar: str) -> Any:
        found = super().analyze_scalar(scalar)
        found.allow_flow_plain = found.allow_block_plain and not re.search(r"^:|[],[{}?]", scalar)
        return found


def snapshot(template: str) -> Path:
    return Path(__file__).parent / "snapshots" / f"{template}.yaml"


def settings(template: str) -> dict[str, dict[str, str]]:
    """The parameters of each setting in a snapshot; those of the first are the least there is."""
    text = snapshot(template).read_text(encoding="utf-8")
    return {name: each["given"] for name, each in yaml.safe_load(text)["settings"].items()}


def made(template: dict[str, Any], name: str, given: dict[str, str]) -> Resolved:
    """Resources and outputs in a setting: no texts for people, the dashboard in place of its text,
    and everywhere the usual partition."""
    partition = "aws-cn" if name.endswith("in-china") else "aws"
    place = {"partition": partition, "region": "REGION", "account": "ACCOUNT", "stack": "STACK"}
    found = resolve(template, given, **place)
    if "StatusDashboard" in found["Resources"]:
        dashboard = properties(found, "StatusDashboard")
        dashboard["DashboardBody"] = json.loads(dashboard["DashboardBody"])
    text = json.dumps(found)
    assert set(re.findall(r"\barn:([a-z-]+):", text)) == {partition}
    return brief(json.loads(text.replace("aws-cn", "aws")))


def brief(node: Any) -> Any:
    """Without texts for people and linters; a metric as the words that name it."""
    if isinstance(node, list):
        return [brief(one) for one in node]
    if not isinstance(node, dict):
        return node
    node |= node.pop("Properties", {})
    kept = {key: node[key] for key in node if not re.search("Description$|^Metadata$", key)}
    if "widgets" in kept:
        parts = [one | one.pop("properties") for one in kept["widgets"]]
        kept["widgets"] = {one.pop("title"): leaves(one) for one in parts}
    if "MetricStat" in kept:
        kept["MetricStat"] = "/".join(map(str, leaves(kept["MetricStat"]).values()))
    return {key: brief(one) for key, one in kept.items()}


def leaves(node: Any, path: str = "") -> dict[str, Any]:
    """What is in a resource, by its path. Policies, statements and metrics go by their names."""
    if isinstance(node, list) and node and isinstance(node[0], dict):
        names = ("PolicyName", "Sid", "Id")
        named = [[one[key] for key in names if key in one] for one in node]
        node = {name[0] if name else at: node[at] for at, name in enumerate(named)}
    if not isinstance(node, dict):
        return {path.removeprefix("."): node}
    return {
        key: leaf for name in node for key, leaf in leaves(node[name], f"{path}.{name}").items()
    }


def differences(before: Any, after: Any) -> dict[str, Any]:
    """What becomes different in a section, by resource: all of a new one, None for what is gone."""
    found: dict[str, Any] = {}
    for name in {**before, **after}:
        old, new = (leaves(section.get(name, {})) for section in (before, after))
        changed = {key: new.get(key) for key in {**old, **new} if old.get(key) != new.get(key)}
        if changed:
            found[name] = changed if name in before and name in after else after.get(name)
    return grouped(found)


def grouped(rows: dict[str, Any]) -> dict[str, Any]:
    """Those that are alike in one."""
    names: dict[str, list[str]] = {}
    for name, row in rows.items():
        names.setdefault(json.dumps(row), []).append(name)
    return {", ".join(alike): json.loads(row) for row, alike in names.items()}


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_taken_and_made_is_what_the_snapshot_shows(name: str) -> None:
    template = load(name)
    shown: dict[str, Any] = {"settings": {}}
    first: Resolved = {}
    for setting, given in settings(name).items():
        found = made(template, setting, given)
        differ = {part: differences(first.get(part, {}), found[part]) for part in found}
        shown["settings"][setting] = {"given": given, **differ}
        first = first or found
    shown["Mappings"] = template.get("Mappings", {})
    shown["Parameters"] = grouped(brief(template["Parameters"]))
    text = yaml.dump(shown, sort_keys=False, width=100, Dumper=Compact)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        snapshot(name).write_text(text, encoding="utf-8")
    assert text == snapshot(name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_settings_of_the_snapshot_tell_every_two_parameters_and_conditions_apart(
    name: str,
) -> None:
    """Otherwise one could stand where the other belongs."""
    template, given = load(name), settings(name)
    for condition in template["Conditions"]:
        template["Outputs"][condition] = {"Condition": condition, "Value": ""}
    outputs = [made(template, setting, given[setting])["Outputs"] for setting in given]
    conditions = [tuple(one in output for output in outputs) for one in template["Conditions"]]
    values = [
        tuple(each.get(key, str(row.get("Default"))) for each in given.values())
        for key, row in template["Parameters"].items()
        if key != "SharePrincipals"  # a rule ties it to TargetArns
    ]
    for rows in (conditions, values):
        assert len(set(rows)) == len(rows)
    assert all(len(set(row)) == 2 for row in conditions)


# What parameters accept and refuse. Their other limits are in the snapshot.
IAM = f"arn:aws:iam::{ACCOUNT}:"
TAGS = ["", "env=prod,team", "key=a=b, other key=x y,empty="], ["=value", "a,,b", "a=b,", "x" * 513]
TAG = ["", "f", "mirror filter", "aws:x:y"], [" ", " f", "f ", "x" * 129]
PATTERNS: dict[str, tuple[list[str], list[str]]] = {
    "FilterId": (["", "tmf-0a1b2c3d4e5f60718", "traf-mir-fil-1"], ["*", "tmt-1", "tmf-1,tmf-2"]),
    "Targets": (
        ["tmt-1", "tmt-1, tmt-2 ,tmt-3", "traf-mir-tar-1", "12345678901", f"tmt-{ACCOUNT}"],
        ["*", "tmf-1", "tmt-1,", "tmt-1,,tmt-2", "tmt-1 tmt-2", ",tmt-1", " ", f"tmt-1, {ACCOUNT}"],
    ),
    "TargetAccounts": (
        ["", ACCOUNT, f"012345678901 , {ACCOUNT}"],
        ["12345678901", f"{ACCOUNT}3", "*", f"{ACCOUNT},", f",{ACCOUNT}", "tmt-1"],
    ),
    "IncludeTags": TAGS,
    "ExcludeTags": TAGS,
    "FilterTag": TAG,
    "TargetsTag": TAG,
    "SensorRoleArns": (
        ["", f"{IAM}role/sensors", f"arn:aws-eusc:iam::{ACCOUNT}:role/a/s+=.@_-1, {IAM}role/s"],
        ["*", f"{IAM}role/*", "arn:aws:iam::*:role/s", f",{IAM}role/s", f"{IAM}user/s"],
    ),
    "VirtualNetworkId": (["", "0", "9999999", "16777209", "16777215"], ["-1", "16777216"]),
    "PacketLength": (["", "1", "999", "8499", "8500"], ["0", "8501", "9000", "10000"]),
    "SessionTags": (
        ["", "team=net,cost centre=a=b, empty=", "Names=x,name=y"],
        ["team", "=x", "a=b,,c=d", ",a=b", "Name=x", "a=b, Name=x", "aws:x=y"],
    ),
    "RolePath": (["/", "/traffic-mirror/", "/a/b.c/"], ["", "/x", "x/", "//", "/*/"]),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_a_parameter_takes_what_it_should_and_nothing_else(name: str) -> None:
    accepted, refused = PATTERNS[name]
    for value in accepted:
        stack(**{name: value})
    for value in refused:
        with pytest.raises(ParameterError, match=name):
            stack(**{name: value})


def test_targets_or_accounts_are_given_and_sweeps_cannot_overlap() -> None:
    stack(Targets="", TargetAccounts=ACCOUNT)
    with pytest.raises(ParameterError, match="Give Targets, TargetAccounts or both"):
        stack(Targets="")
    for timeout, rate in product([60, 120, 300, 600, 900], [5, 10, 15, 30, 60]):
        given = {"Timeout": str(timeout), "SweepRate": str(rate)}
        if timeout > 60 * rate:
            why = f"{timeout} seconds needs a SweepRate of {timeout // 60} minutes"
            with pytest.raises(ParameterError, match=why):
                stack(**given)
        else:
            # A message stays hidden while it is worked on.
            assert properties(stack(**given), "Queue")["VisibilityTimeout"] == timeout + 30


def test_variables_are_those_that_the_function_knows() -> None:
    assert set(properties(stack(), "Function")["Environment"]["Variables"]) == set(VARIABLES)


@pytest.mark.parametrize("many", ["targets", "accounts"])
def test_a_hundred_targets_or_ten_accounts_fit_into_the_limits(many: str) -> None:
    """Lambda takes 4 KB of variables, IAM 10,240 characters of policies in a role."""
    accounts = [f"1234567890{number:02}" for number in range(10)]
    given = {"Targets": ",".join(f"tmt-{number:017x}" for number in range(100))}
    if many == "accounts":
        roles = [f"arn:aws:iam::{one}:role/traffic-mirror/{'x' * 40}" for one in accounts]
        given = {"TargetAccounts": ",".join(accounts), "SensorRoleArns": ",".join(roles)}
    given |= {"IncludeTags": "x" * 512, "ExcludeTags": "x" * 512, "SessionTags": "x=" + "y" * 400}
    given |= {"FilterTag": "x" * 32, "TargetsTag": "x" * 32, "AllowPrefixLists": "true"}
    resolved = resolve(parameters=CODE | given, stack="s" * 30)
    variables = properties(resolved, "Function")["Environment"]["Variables"]
    assert sum(len(key) + len(value) for key, value in variables.items()) < 4096
    statements = [re.sub(r"\s", "", json.dumps(one)) for one in statements_of(resolved)]
    assert sum(map(len, statements)) + 500 < 10_240


# The way of an event


def started(state: str = "running") -> dict[str, Any]:
    kind = "EC2 Instance State-change Notification"
    return HERE | {"detail-type": kind, "detail": {"instance-id": "i-1", "state": state}}


def called(name: str, *resources: str, **detail: Any) -> dict[str, Any]:
    """A call that CloudTrail reports, and the resources whose tags it is about.

    EventBridge looks into each object of an array; moto's matcher takes them as one.
    """
    request = {"resourcesSet": {"items": {"resourceId": resources}}}
    call = {"eventSource": "ec2.amazonaws.com", "eventName": name, "requestParameters": request}
    return HERE | {"detail-type": "AWS API Call via CloudTrail", "detail": call | detail}


HERE = {"source": "aws.ec2", "account": ACCOUNT, "region": "us-east-1"}
OTHERS = [{"source": "mine"}, {"account": "999999999999"}, {"region": "x-1"}, {"detail-type": "x"}]
CALLS = [called(one, "i-1") for one in ("AttachNetworkInterface", "CreateTags", "DeleteTags")]
# Events, and the rule that takes them.
EVENTS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "an instance runs": ("StartRule", [started()]),
    "another state": ("", [*map(started, ("pending", "stopping", "stopped", "terminated"))]),
    "something elsewhere": ("", [each | one for each in (started(), *CALLS) for one in OTHERS]),
    "an interface is attached, or tags of an instance are changed": ("ChangeRule", CALLS),
    "tags of an instance besides": ("ChangeRule", [called("CreateTags", "vol-1", "i-1")]),
    "tags of something else": ("", [called("CreateTags", "sg-1"), called("DeleteTags", "sg-1")]),
    "another call": ("", [called("RunTags", "i-1"), called("DetachNetworkInterface")]),
    "a call that failed": ("", [called("CreateTags", "i-1", errorCode="x")]),
    "another service": ("", [called("CreateTags", "i-1", eventSource="other.amazonaws.com")]),
}


@pytest.mark.parametrize("what", EVENTS)
def test_an_event_is_taken_by_one_rule_or_by_none(what: str) -> None:
    rule, events = EVENTS[what]
    for trail in ("true", "false"):
        resources = stack(CloudTrailEvents=trail)["Resources"].items()
        rules = {
            name: EventPattern.load(json.dumps(one["Properties"]["EventPattern"]))
            for name, one in resources
            if "EventPattern" in one["Properties"]
        }
        for each in events:
            taken = [name for name, pattern in rules.items() if pattern.matches_event(each)]
            assert taken == ([rule] if rule in rules else [])


def test_what_goes_into_the_console() -> None:
    pattern, running, test, sweep = (
        json.loads((DEPLOY / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("event-pattern", "running-event", "test-event", "dry-run-sweep")
    )
    deployed = properties(stack(), "StartRule")["EventPattern"]
    # The guide's; the template's is narrower.
    assert deployed == {**pattern, "account": [ACCOUNT], "region": ["us-east-1"]}
    assert EventPattern.load(json.dumps(pattern)).matches_event(running)
    assert test == {"detail": {"instance-id": running["detail"]["instance-id"]}}
    assert sweep == {"sweep": True, "dry_run": True}
