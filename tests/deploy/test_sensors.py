"""deploy/sensors.yaml: the role that reads in a sensors' account, and the share of its targets."""

from __future__ import annotations

import copy
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest
from checks import DESCRIBES, PREFIX_LISTS
from cloudformation import DEPLOY, ParameterError, allows, as_list, load, resolve
from fake_aws import check_call, parsed
from moto import mock_aws

TEMPLATE = DEPLOY / "sensors.yaml"
FUNCTION = "arn:aws:iam::123456789012:role/traffic-mirror/stack-Role-1"
ORGANIZATION = "o-exampleorg1"
# What CONTRACT and README list for a role in a sensors' account.
ALLOWED = {*DESCRIBES, PREFIX_LISTS}


def stack(**parameters: str) -> dict[str, Any]:
    return resolve(load(TEMPLATE), parameters, account="210987654321")


def role(**parameters: str) -> dict[str, Any]:
    made = stack(**parameters)
    assert made["Outputs"]["RoleArn"]["Value"].endswith("-Role")
    properties: dict[str, Any] = made["Resources"]["Role"]["Properties"]
    # Nothing else gives it rights, or lets somebody in.
    known = {"RoleName", "Description", "AssumeRolePolicyDocument", "Policies"}
    assert set(properties) == known
    trust = properties["AssumeRolePolicyDocument"]
    (statement,) = trust["Statement"]
    assert (statement["Effect"], statement["Action"]) == ("Allow", "sts:AssumeRole")
    for document in (trust, properties["Policies"][0]["PolicyDocument"]):
        assert document["Version"] == "2012-10-17"
    return properties


def may_assume(trust: dict[str, Any], arn: str, organization: str) -> bool:
    """Whether a trust policy lets a role of an account and organization in."""
    context = {"aws:PrincipalOrgID": organization, "aws:PrincipalArn": arn}
    account = {"AWS": arn.split(":")[4]}
    return allows(trust["Statement"], "sts:AssumeRole", "", context, account)


def test_cfn_lint_finds_nothing() -> None:
    command = [str(Path(sys.executable).with_name("cfn-lint")), str(TEMPLATE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("", 0)


def test_the_role_reads_and_nothing_else() -> None:
    (policy,) = role(TrustedAccounts="123456789012")["Policies"]
    statements = policy["PolicyDocument"]["Statement"]
    assert {action for one in statements for action in as_list(one["Action"])} == ALLOWED
    assert {one["Effect"] for one in statements} == {"Allow"}
    for action in ALLOWED:
        if action.startswith("ec2:Describe"):
            assert allows(statements, action, "*"), action
    # Lists of any Region, since the role is one for all, and of any owner.
    for owner in ("aws", "123456789012"):
        assert allows(statements, PREFIX_LISTS, f"arn:aws:ec2:eu-west-1:{owner}:prefix-list/pl-1")
    assert not allows(statements, PREFIX_LISTS, "arn:aws:ec2:eu-west-1:123456789012:vpc/vpc-1")


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
        ("accounts", FUNCTION.replace("123456789012", "111122223333"), "o-another", True),
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
    strangers = [(arn, "o-another") for arn in (FUNCTION, OTHER_ACCOUNT, OTHER_PATH)]
    strangers.append((OTHER_PATH, ORGANIZATION))

    def let_in(policy: dict[str, Any]) -> list[bool]:
        return [may_assume(policy, *stranger) for stranger in strangers]

    conditions = trust["Statement"][0]["Condition"]
    for operator in conditions:
        less = copy.deepcopy(trust)
        del less["Statement"][0]["Condition"][operator]
        assert let_in(less) != let_in(trust), operator


def test_one_region_makes_the_role_and_every_region_may_share() -> None:
    arn = "arn:aws:ec2:us-east-1:210987654321:traffic-mirror-target/tmt-1"
    made = stack(CreateRole="false", TargetArns=arn, SharePrincipals="123456789012", **TRUSTED)
    assert (list(made["Resources"]), made["Outputs"]) == (["Share"], {})
    properties = made["Resources"]["Share"]["Properties"]
    assert (properties["ResourceArns"], properties["Principals"]) == ([arn], ["123456789012"])
    assert list(stack(TrustedAccounts="123456789012")["Resources"]) == ["Role"]


ARN = "arn:aws:ec2:us-east-1:210987654321:traffic-mirror-target/tmt-1"
TRUSTED = {"TrustedAccounts": "123456789012"}


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({}, "TrustedAccounts or OrganizationId"),
        ({**TRUSTED, "OrganizationId": ORGANIZATION}, "exclude each other"),
        ({**TRUSTED, "TargetArns": ARN}, "go together"),
        ({**TRUSTED, "SharePrincipals": "123456789012"}, "go together"),
        ({"TrustedAccounts": "*"}, "TrustedAccounts"),
        ({"TrustedAccounts": "123456789012,"}, "TrustedAccounts"),
        ({"TrustedAccounts": ",123456789012"}, "TrustedAccounts"),
        ({**TRUSTED, "RoleName": "*"}, "RoleName"),
        ({**TRUSTED, "TargetArns": "," + ARN, "SharePrincipals": "123456789012"}, "TargetArns"),
        ({**TRUSTED, "TargetArns": ARN, "SharePrincipals": ",123456789012"}, "SharePrincipals"),
        ({"OrganizationId": "*"}, "OrganizationId"),
        # Any role could read then.
        ({**TRUSTED, "RolePath": "/"}, "RolePath"),
        ({**TRUSTED, "RolePath": "/*/"}, "RolePath"),
        ({**TRUSTED, "RolePath": "/traffic-mirror"}, "RolePath"),
        ({**TRUSTED, "TargetArns": "tmt-1", "SharePrincipals": "123456789012"}, "TargetArns"),
        ({**TRUSTED, "TargetArns": ARN, "SharePrincipals": "*"}, "SharePrincipals"),
    ],
)
def test_what_would_trust_too_many_or_nobody_is_refused(
    parameters: dict[str, str], why: str
) -> None:
    with pytest.raises(ParameterError, match=why):
        stack(**parameters)


@pytest.mark.parametrize(
    "principals",
    [
        ["123456789012", "111122223333"],
        ["arn:aws:organizations::210987654321:organization/o-exampleorg1"],
        ["arn:aws:organizations::210987654321:ou/o-exampleorg1/ou-ab12-exampleunit"],
    ],
)
def test_it_shares_with_accounts_organizations_and_units(principals: list[str]) -> None:
    arns = [ARN, ARN.replace("tmt-1", "tmt-2")]
    made = stack(
        CreateRole="false", TargetArns=", ".join(arns), SharePrincipals=" ,".join(principals)
    )
    share = made["Resources"]["Share"]["Properties"]
    assert (share["ResourceArns"], share["Principals"]) == (arns, principals)


def test_the_stack_is_created(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    # Without a share, which moto's CloudFormation does not know.
    parameters = {"TrustedAccounts": "123456789012, 111122223333"}
    with mock_aws():
        cloudformation = boto3.client("cloudformation")
        cloudformation.create_stack(
            StackName="sensors",
            TemplateBody=TEMPLATE.read_text(encoding="utf-8"),
            Capabilities=["CAPABILITY_NAMED_IAM"],
            Parameters=[
                {"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()
            ],
        )
        (created,) = cloudformation.describe_stacks(StackName="sensors")["Stacks"]
        assert created["StackStatus"] == "CREATE_COMPLETE"
        (output,) = created["Outputs"]
        name = output["OutputValue"].rsplit("/", maxsplit=1)[-1]
        made = boto3.client("iam").get_role(RoleName=name)["Role"]["AssumeRolePolicyDocument"]
    trust = role(**parameters)["AssumeRolePolicyDocument"]
    assert made == trust


@pytest.mark.parametrize("partition", boto3.session.Session().get_available_partitions())
def test_everything_is_of_the_partition(partition: str) -> None:
    made = resolve(load(TEMPLATE), TRUSTED, partition=partition)
    text = json.dumps([made["Resources"], made["Outputs"]])
    assert set(re.findall(r"\barn:([^:]+):", text)) == {partition}


def test_the_path_is_the_one_that_the_other_template_takes() -> None:
    arn = role(TrustedAccounts="123456789012", RolePath="/security/mirror/")
    condition = arn["AssumeRolePolicyDocument"]["Statement"][0]["Condition"]
    assert condition["ArnLike"]["aws:PrincipalArn"] == "arn:aws:iam::*:role/security/mirror/*"
    assert "RolePath" in load()["Parameters"]


# The page about it


def shown() -> list[list[str]]:
    """The commands of docs/many-accounts.md, each as its words."""
    text = (DEPLOY.parent / "docs" / "many-accounts.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.strip()]


def test_the_templates_take_what_the_page_gives_them() -> None:
    deployed, script, stack_set, instances = shown()
    given = deployed[deployed.index("--parameter-overrides") + 1 :]
    made = stack(**dict(one.split("=", 1) for one in given))
    assert set(made["Resources"]) == {"Role", "Share"}

    # What the accounts that are watched give is what this account made.
    values = dict(one.split("=", 1) for one in script if re.match(r"[A-Z]\w+=", one))
    values |= {"CodeBucket": "my-bucket", "CodeKey": "lambda_traffic_mirror.zip"}
    values["TargetAccounts"] = script[script.index("--targets") + 1]
    options = parsed(["", *stack_set[1:]]).options["parameters"]
    rolled_out = {
        one.split(",")[0].partition("=")[2]: one.split(",", 1)[1].partition("=")[2]
        for one in options
    }
    for parameters in (values, rolled_out):
        function = resolve(parameters=parameters)["Outputs"]["RoleArn"]["Value"]
        trust = made["Resources"]["Role"]["Properties"]["AssumeRolePolicyDocument"]
        assert may_assume(trust, function, ORGANIZATION)
        name = made["Resources"]["Role"]["Properties"]["RoleName"]
        assert parameters["SensorRoleArns"] == f"arn:aws:iam::210987654321:role/{name}"
        assert parameters["TargetAccounts"] == "210987654321"
    for words in (deployed, stack_set, instances):
        check_call(parsed(["", *words[1:]]))
