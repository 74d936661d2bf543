"""Policies: what is allowed and what is refused.

That the function makes no call beyond these actions, every test of it proves (`permitted`).
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from aws import ACCOUNT_ID, REGION
from cloudformation import DEPLOY, allows, as_list, resolve, role_statements

Statements = list[dict[str, Any]]

DESCRIBES = (
    "ec2:DescribeInstances",
    "ec2:DescribeNetworkAcls",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeTrafficMirrorSessions",
    "ec2:DescribeTrafficMirrorTargets",
)
CREATE, TAG, ASSUME = "ec2:CreateTrafficMirrorSession", "ec2:CreateTags", "sts:AssumeRole"
EIGHT = {*DESCRIBES, CREATE, TAG}
PREFIX_LISTS, ROUTES = "ec2:GetManagedPrefixListEntries", "ec2:DescribeRouteTables"

HERE = f"{REGION}:{ACCOUNT_ID}"
EC2, SQS = f"arn:aws:ec2:{HERE}:", f"arn:aws:sqs:{HERE}:traffic-mirror-"
LOG = f"arn:aws:logs:{HERE}:log-group:traffic-mirror-LogGroup"
ROLE = "arn:aws:iam::111122223333:role/sensors"
SESSION = EC2 + "traffic-mirror-session/tms-1"
THEIRS = f"arn:aws:ec2:{REGION}:111122223333:traffic-mirror-target/tmt-any"
ELSEWHERE = (f"arn:aws:ec2:eu-west-1:{ACCOUNT_ID}:", f"arn:aws:ec2:{REGION}:999999999999:")
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


FILTERS = [EC2 + f"traffic-mirror-filter/tmf-{one}" for one in (1, 2, 10)]
THEIR_FILTERS = [one + "traffic-mirror-filter/tmf-1" for one in ELSEWHERE]


# The parameters, an action, the resources on which it is allowed, and those on which it is refused
# (`*`: it takes none). Condition keys of the request stand behind the action.
ROLE_MAY: list[tuple[dict[str, str], str, list[str], list[str]]] = [
    *(({}, action, ["*"], []) for action in DESCRIBES),
    ({}, "ec2:DescribeVpcs", [], ["*"]),
    ({}, ROUTES, ["*"], []),
    ({"AllowRoutes": "false"}, ROUTES, [], ["*"]),
    ({}, PREFIX_LISTS, [], [EC2 + "prefix-list/pl-1"]),
    (
        {"AllowPrefixLists": "true"},
        PREFIX_LISTS,
        [EC2 + "prefix-list/pl-1", f"arn:aws:ec2:{REGION}:aws:prefix-list/pl-1"],
        [ELSEWHERE[0] + "prefix-list/pl-1", EC2 + "vpc/vpc-1"],
    ),
    # Sources and sessions only here.
    ({}, CREATE, [EC2 + "network-interface/eni-1", SESSION], [EC2 + "instance/i-1"]),
    ({}, CREATE, [], [one + "network-interface/eni-1" for one in ELSEWHERE]),
    ({}, CREATE, [], [one + "traffic-mirror-session/tms-1" for one in ELSEWHERE]),
    # Only the given filter, unless tags name others; never one of another account.
    ({}, CREATE, FILTERS[:1], FILTERS[1:] + THEIR_FILTERS),
    ({"FilterId": ""}, CREATE, [EC2 + "traffic-mirror-filter/traffic-mirror-Filter"], FILTERS),
    ({"FilterTag": "f"}, CREATE, FILTERS, THEIR_FILTERS),
    # Only the given targets, shared ones included, and those of the given accounts.
    (
        {},
        CREATE,
        [f"{of}traffic-mirror-target/tmt-{one}" for of in (EC2, ELSEWHERE[1]) for one in "12"],
        [f"{EC2}traffic-mirror-target/{one}" for one in ("", "tmt-10", "tmt-3")],
    ),
    ({"Targets": ""}, CREATE, [THEIRS], [EC2 + "traffic-mirror-target/tmt-1"]),
    ({"TargetAccounts": ""}, CREATE, [EC2 + "traffic-mirror-target/tmt-1"], [THEIRS]),
    # Tags only on a session, only while it is created.
    ({}, TAG, [], [SESSION]),
    ({}, f"{TAG} ec2:CreateAction=RunInstances", [], [SESSION]),
    (
        {},
        f"{TAG} ec2:CreateAction=CreateTrafficMirrorSession",
        [SESSION],
        [EC2 + "instance/i-1", *(one + "traffic-mirror-session/tms-1" for one in ELSEWHERE)],
    ),
    # Never a change or a deletion.
    *(
        ({}, f"ec2:{verb} ec2:CreateAction=CreateTrafficMirrorSession", [], [SESSION])
        for verb in ("DeleteTrafficMirrorSession", "ModifyTrafficMirrorSession", "DeleteTags")
    ),
    ({}, ASSUME, [ROLE], [ROLE + "x", "arn:aws:iam::111122223333:role/admin"]),
    ({"SensorRoleArns": ""}, ASSUME, [], [ROLE, ""]),
    ({}, "iam:PassRole", [], [f"arn:aws:iam::{ACCOUNT_ID}:role/traffic-mirror-Role"]),
    # Only its own log and queues.
    ({}, "logs:CreateLogStream", [f"{LOG}:log-stream:x"], [f"{LOG}2:log-stream:x"]),
    ({}, "logs:PutLogEvents", [f"{LOG}:log-stream:x"], [f"{LOG}2:log-stream:x"]),
    ({}, "logs:DeleteLogStream", [], [f"{LOG}:log-stream:x"]),
    *(
        ({}, f"sqs:{verb}", [SQS + "Queue"], [SQS + "DeadLetterQueue", SQS + "FailedSweepQueue"])
        for verb in ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes")
    ),
    ({}, "sqs:SendMessage", [SQS + "FailedSweepQueue"], [SQS + "Queue", SQS + "DeadLetterQueue"]),
    ({}, "sqs:PurgeQueue", [], [SQS + "Queue"]),
]


def allowed(statements: Statements, action: str, resource: str) -> bool:
    name, *keys = action.split(" ")
    return allows(statements, name, resource, dict(key.split("=") for key in keys))


def test_the_role_may_do_this_and_nothing_next_to_it() -> None:
    for parameters, action, on, not_on in ROLE_MAY:
        statements = role_statements(made(**parameters))
        assert [one for one in on if not allowed(statements, action, one)] == [], action
        assert [one for one in not_on if allowed(statements, action, one)] == [], action


def test_permissions_to_paste_are_the_guides_eight() -> None:
    """They name no account or Region; otherwise they are the template's."""
    text = (DEPLOY / "permissions.json").read_text(encoding="utf-8").replace("FILTER_ID", "tmf-1")
    statements = json.loads(text)["Statement"]
    assert {action for one in statements for action in as_list(one["Action"])} == EIGHT
    for parameters, action, on, not_on in ROLE_MAY:
        if action.split(" ")[0] in EIGHT and not parameters:
            assert [one for one in on if not allowed(statements, action, one)] == [], action
            here = [one for one in not_on if one.startswith(EC2) and "target" not in one]
            assert [one for one in here if allowed(statements, action, one)] == [], action


def test_a_preview_may_read_and_nothing_else() -> None:
    text = (DEPLOY / "preview-policy.json").read_text(encoding="utf-8")
    statements = json.loads(text)["Statement"]
    stack = {"cloudformation:DescribeStacks", "cloudformation:ListStackResources"}
    actions = {action for one in statements for action in as_list(one["Action"])}
    assert actions == {*DESCRIBES, PREFIX_LISTS, ROUTES, ASSUME, *stack}
    assert allowed(statements, ASSUME, "arn:aws:iam::111122223333:role/traffic-mirror-sensors")
    assert not allowed(statements, ASSUME, "arn:aws:iam::111122223333:role/admin")


def test_only_lambda_assumes_the_role() -> None:
    trust = made()["Resources"]["Role"]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    others: list[dict[str, str]] = [{"Service": "ec2.amazonaws.com"}, {"AWS": ACCOUNT_ID}]
    for one in ({"Service": "lambda.amazonaws.com"}, *others):
        assert allows(trust, ASSUME, "", {}, one) == (one not in others)


# The queues

RULES = {
    "Queue": {"StartRule", "ChangeRule"},
    "DeadLetterQueue": {"StartRule", "ChangeRule", "SweepRule"},
    "FailedSweepQueue": set(),
}
EVENTS = {"Service": "events.amazonaws.com"}
OWN = {"Effect": "Allow", "Action": "sqs:*", "Resource": "*"}  # what an identity has of its own


@pytest.mark.parametrize("queue", RULES)
@pytest.mark.parametrize("trail", ["true", "false"])
def test_rules_reach_their_queues_and_only_encrypted(queue: str, trail: str) -> None:
    policy = made(CloudTrailEvents=trail)["Resources"][queue + "Policy"]["Properties"]
    assert [one.rsplit("/", 1)[-1] for one in policy["Queues"]] == [f"traffic-mirror-{queue}"]

    def lets_in(source: str, secure: str, who: dict[str, str], *more: dict[str, Any]) -> list[str]:
        arn = f"arn:aws:events:{HERE}:rule/traffic-mirror-{source}"
        keys = {"aws:SourceArn": arn, "aws:SecureTransport": secure}
        statements = [*policy["PolicyDocument"]["Statement"], *more]
        verbs = ("SendMessage", "ReceiveMessage")
        return [one for one in verbs if allows(statements, f"sqs:{one}", SQS + queue, keys, who)]

    expected = RULES[queue] - ({"ChangeRule"} if trail == "false" else set())
    for source in ("StartRule", "ChangeRule", "SweepRule", "OtherRule"):
        assert lets_in(source, "true", EVENTS) == ["SendMessage"] * (source in expected)
        for who in ({"Service": "sns.amazonaws.com"}, {"AWS": "999999999999"}):
            assert lets_in(source, "true", who) == []
        assert lets_in(source, "false", EVENTS) == lets_in(source, "false", EVENTS, OWN) == []
    assert lets_in("none", "true", {"AWS": ACCOUNT_ID}, OWN) == ["SendMessage", "ReceiveMessage"]
