"""deploy/sensors.yaml: the role that reads in a sensors' account, and the share of its targets."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cloudformation import DEPLOY, ParameterError, as_list, load, resolve

TEMPLATE = DEPLOY / "sensors.yaml"
FUNCTION = "arn:aws:iam::123456789012:role/traffic-mirror/stack-Role-1"
ORGANIZATION = "o-exampleorg1"
# What CONTRACT and README list for a role in a sensors' account.
ALLOWED = {
    "ec2:DescribeInstances",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeNetworkAcls",
    "ec2:DescribeTrafficMirrorTargets",
    "ec2:DescribeTrafficMirrorSessions",
    "ec2:GetManagedPrefixListEntries",
}


def stack(**parameters: str) -> dict[str, Any]:
    return resolve(load(TEMPLATE), parameters, account="210987654321")


def role(**parameters: str) -> dict[str, Any]:
    properties: dict[str, Any] = stack(**parameters)["Resources"]["Role"]["Properties"]
    return properties


def may_assume(trust: dict[str, Any], arn: str, organization: str) -> bool:
    """Whether a trust policy lets a role of an account and organization in."""
    (statement,) = trust["Statement"]
    principals = as_list(statement["Principal"]["AWS"])
    account = arn.split(":")[4]
    values = {"aws:PrincipalOrgID": organization, "aws:PrincipalArn": arn}
    held = all(
        re.fullmatch(re.escape(wanted).replace(r"\*", ".*"), values[key])
        for conditions in statement.get("Condition", {}).values()
        for key, wanted in conditions.items()
    )
    return held and ("*" in principals or account in principals)


def test_cfn_lint_finds_nothing() -> None:
    command = [str(Path(sys.executable).with_name("cfn-lint")), str(TEMPLATE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("", 0)


def test_the_role_reads_and_nothing_else() -> None:
    (policy,) = role(TrustedAccounts="123456789012")["Policies"]
    statements = policy["PolicyDocument"]["Statement"]
    assert {action for one in statements for action in as_list(one["Action"])} == ALLOWED
    assert {one["Effect"] for one in statements} == {"Allow"}


TRUSTS = {
    "accounts": {"TrustedAccounts": "123456789012, 111122223333"},
    "the organization": {"OrganizationId": ORGANIZATION},
}
OTHER_ACCOUNT = FUNCTION.replace("123456789012", "999988887777")
OTHER_PATH = "arn:aws:iam::123456789012:role/admin"


@pytest.mark.parametrize(
    ("trusted", "arn", "organization", "let_in"),
    [
        ("accounts", FUNCTION, "o-another", True),
        ("accounts", OTHER_ACCOUNT, ORGANIZATION, False),
        ("accounts", OTHER_PATH, ORGANIZATION, False),
        ("the organization", FUNCTION, ORGANIZATION, True),
        ("the organization", OTHER_ACCOUNT, ORGANIZATION, True),
        ("the organization", FUNCTION, "o-another", False),
        ("the organization", OTHER_PATH, ORGANIZATION, False),
    ],
)
def test_the_role_trusts(trusted: str, arn: str, organization: str, let_in: bool) -> None:
    trust = role(**TRUSTS[trusted])["AssumeRolePolicyDocument"]
    assert may_assume(trust, arn, organization) is let_in


@pytest.mark.parametrize("trusted", TRUSTS)
def test_each_condition_keeps_somebody_out(trusted: str) -> None:
    trust = role(**TRUSTS[trusted])["AssumeRolePolicyDocument"]
    strangers = [
        (FUNCTION, "o-another"),
        (OTHER_PATH, ORGANIZATION),
        (OTHER_ACCOUNT, "o-another"),
        (OTHER_PATH, "o-another"),
    ]

    def let_in(policy: dict[str, Any]) -> list[bool]:
        return [may_assume(policy, *stranger) for stranger in strangers]

    conditions = trust["Statement"][0]["Condition"]
    for operator in conditions:
        less = copy.deepcopy(trust)
        del less["Statement"][0]["Condition"][operator]
        assert let_in(less) != let_in(trust), operator


def test_one_region_makes_the_role_and_every_region_may_share() -> None:
    arn = "arn:aws:ec2:us-east-1:210987654321:traffic-mirror-target/tmt-1"
    made = stack(CreateRole="false", TargetArns=arn, SharePrincipals="123456789012")
    assert list(made["Resources"]) == ["Share"]
    properties = made["Resources"]["Share"]["Properties"]
    assert (properties["ResourceArns"], properties["Principals"]) == ([arn], ["123456789012"])
    assert list(stack(TrustedAccounts="123456789012")["Resources"]) == ["Role"]


def test_somebody_has_to_be_trusted() -> None:
    with pytest.raises(ParameterError, match="TrustedAccounts or OrganizationId"):
        stack()


def test_the_path_is_the_one_that_the_other_template_takes() -> None:
    arn = role(TrustedAccounts="123456789012", RolePath="/security/mirror/")
    condition = arn["AssumeRolePolicyDocument"]["Statement"][0]["Condition"]
    assert condition["ArnLike"]["aws:PrincipalArn"] == "arn:aws:iam::*:role/security/mirror/*"
    assert "RolePath" in load()["Parameters"]
