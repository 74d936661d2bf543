"""Policies: they allow every call that the function makes, and nothing next to it.

That no test of the function sees another call, `permitted` in tests/conftest.py ensures.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from aws import ACCOUNT_ID, OTHER_ACCOUNT_ID, REGION, Call, route, rule
from botocore import xform_name
from cloudformation import CODE, DEPLOY, allows, as_list, load, resolve, statements_of
from conftest import Scene

Statements = list[dict[str, Any]]

EC2 = f"arn:aws:ec2:{REGION}:{ACCOUNT_ID}:"
ROLE = f"arn:aws:iam::{OTHER_ACCOUNT_ID}:role/traffic-mirror-sensors"
CREATE, TAG, ASSUME = "ec2:CreateTrafficMirrorSession", "ec2:CreateTags", "sts:AssumeRole"
ROUTES, LISTS = "ec2:DescribeRouteTables", "ec2:GetManagedPrefixListEntries"
PREFIX_LIST = EC2 + "prefix-list/pl-1"
MAKING = {"ec2:CreateAction": "CreateTrafficMirrorSession"}
GIVEN = CODE | {"FilterId": "tmf-1", "Targets": "tmt-1,tmt-2"}
GIVEN |= {"TargetAccounts": OTHER_ACCOUNT_ID, "SensorRoleArns": ROLE, "AllowPrefixLists": "true"}


def actions(statements: Statements) -> set[str]:
    """Those of EC2 and STS. Logs and queues are Lambda's own work."""
    found = {action for one in statements for action in as_list(one["Action"])}
    return {action for action in found if not action.startswith(("logs:", "sqs:"))}


def role(**parameters: str) -> dict[str, Any]:
    return resolve(parameters=GIVEN | parameters, region=REGION, account=ACCOUNT_ID)


def written(name: str, filter_id: str = "") -> Statements:
    """A policy of deploy/."""
    text = (DEPLOY / name).read_text(encoding="utf-8").replace("FILTER_ID", filter_id)
    found: Statements = json.loads(text)["Statement"]
    return found


def asked(call: Call) -> list[tuple[str, str]]:
    """The actions and resources that IAM is asked for at a call."""
    given, action = call.parameters, call.operation
    if action == ASSUME:
        return [(ASSUME, given["RoleArn"])]
    if f"ec2:{action}" != CREATE:
        return [(f"ec2:{action}", PREFIX_LIST if f"ec2:{action}" == LISTS else "*")]
    session = EC2 + "traffic-mirror-session/tms-new"
    kinds = ("NetworkInterface", "TrafficMirrorTarget", "TrafficMirrorFilter")
    others = [f"{EC2}{xform_name(kind, '-')}/{given[f'{kind}Id']}" for kind in kinds]
    return [(TAG, session), *((CREATE, one) for one in (session, *others))]


def test_policies_allow_every_call_that_is_made_and_no_other_action(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sensor takes every call here. The other one is in another account and in another VPC."""
    group = scene.group(rule(prefix_list=scene.prefix_list("10.0.0.0/8")))
    here = scene.sensor(scene.subnet(), [group])
    scene.route_table(routes=[route("10.9.0.0/16", tgw=True)], main=True)
    other = scene.other()
    vpc = other.vpc("10.9.0.0/16")
    group = other.group(rule(prefix_list=other.prefix_list("10.0.0.0/8")), vpc=vpc)
    other.share(other.sensor(other.zone_subnet("a", vpc), [group], sessions=1), interface=False)
    other.role("traffic-mirror-sensors")
    made = role(FilterId=scene.filter_id, Targets=here)
    function = made["Resources"]["Function"]["Properties"]
    for name, value in function["Environment"]["Variables"].items():
        monkeypatch.setenv(name, value)
    scene.forget_calls()
    assert scene.run(scene.instance()).outcomes == ["created"]
    requests: dict[str, list[tuple[str, str]]] = {ACCOUNT_ID: [], OTHER_ACCOUNT_ID: []}
    for call in scene.calls:
        requests[call.account] += asked(call)
    optional = {LISTS, ROUTES, ASSUME}
    guides_eight = [one for one in requests[ACCOUNT_ID] if one[0] not in optional]
    sensors = resolve(load("sensors"), {"TrustedAccounts": ACCOUNT_ID})
    for statements, needed in (
        (statements_of(made), requests[ACCOUNT_ID]),
        (written("permissions.json", scene.filter_id), guides_eight),
        (statements_of(sensors), requests[OTHER_ACCOUNT_ID]),
    ):
        assert [one for one in needed if not allows(statements, *one, MAKING)] == []
        assert actions(statements) == {action for action, _ in needed}


FILTER, TARGET, SESSION = (f"traffic-mirror-{kind}/" for kind in ("filter", "target", "session"))
THEIRS, FAR = f"arn:aws:ec2:{REGION}:999999999999:", f"arn:aws:ec2:eu-west-1:{ACCOUNT_ID}:"
SHARED = f"arn:aws:ec2:{REGION}:{OTHER_ACCOUNT_ID}:{TARGET}tmt-3"
GIVEN_UP = f"arn:aws:sqs:{REGION}:{ACCOUNT_ID}:traffic-mirror-DeadLetterQueue"
BY_TAG, NO_IDS, NO_ACCOUNTS = {"FilterTag": "f"}, {"Targets": ""}, {"TargetAccounts": ""}
# An action, a resource, whether the role may do that, and the parameters of the stack.
LIMITS: dict[str, tuple[str, str, bool, dict[str, str]]] = {
    "an interface of another account": (CREATE, THEIRS + "network-interface/eni-1", False, {}),
    "an interface in another Region": (CREATE, FAR + "network-interface/eni-1", False, {}),
    "a filter that is not given": (CREATE, EC2 + FILTER + "tmf-10", False, {}),
    "a filter that a tag may name": (CREATE, EC2 + FILTER + "tmf-10", True, BY_TAG),
    "a filter of others in a tag": (CREATE, THEIRS + FILTER + "tmf-1", False, BY_TAG),
    "a target that is not given": (CREATE, EC2 + TARGET + "tmt-10", False, {}),
    "a target here, where only accounts are": (CREATE, EC2 + TARGET + "tmt-1", False, NO_IDS),
    "a given target, whoever shares it": (CREATE, THEIRS + TARGET + "tmt-2", True, {}),
    "any target of a given account": (CREATE, SHARED, True, NO_IDS),
    "any target of an account, where none is given": (CREATE, SHARED, False, NO_ACCOUNTS),
    "a tag on an instance": (TAG, EC2 + "instance/i-1", False, {}),
    "deleting a session": ("ec2:DeleteTrafficMirrorSession", EC2 + SESSION + "tms-1", False, {}),
    "a role that is not given": (ASSUME, ROLE + "-2", False, {}),
    "a role where none is given": (ASSUME, ROLE, False, {"SensorRoleArns": ""}),
    "routes where they are not allowed": (ROUTES, "*", False, {"AllowRoutes": "false"}),
    "prefix lists of AWS": (LISTS, f"arn:aws:ec2:{REGION}:aws:prefix-list/pl-1", True, {}),
    "prefix lists where they are not": (LISTS, PREFIX_LIST, False, {"AllowPrefixLists": "false"}),
    "messages that were given up": ("sqs:ReceiveMessage", GIVEN_UP, False, {}),
}


@pytest.mark.parametrize(("action", "resource", "may", "given"), LIMITS.values(), ids=LIMITS)
def test_the_role_is_limited_to_what_is_given(
    action: str, resource: str, may: bool, given: dict[str, str]
) -> None:
    assert allows(statements_of(role(**given)), action, resource, MAKING) is may


def test_the_role_tags_a_session_only_while_it_is_made() -> None:
    assert not allows(statements_of(role()), TAG, EC2 + SESSION + "tms-1")


def test_a_preview_may_read_and_nothing_else() -> None:
    statements = written("preview-policy.json")
    stack = {"cloudformation:DescribeStacks", "cloudformation:ListStackResources"}
    assert actions(statements) == actions(statements_of(role())) - {CREATE, TAG} | stack
    assert allows(statements, ASSUME, ROLE)
    assert not allows(statements, ASSUME, ROLE.replace("traffic-mirror-sensors", "admin"))
