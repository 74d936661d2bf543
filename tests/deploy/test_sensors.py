"""deploy/sensors.yaml: the role that reads in a sensors' account, and the share of its targets."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
from cloudformation import DEPLOY, ParameterError, allows, as_list, load, resolve
from test_policy import DESCRIBES, PREFIX_LISTS
from test_template import as_yaml, hold

TEMPLATE = DEPLOY / "sensors.yaml"
ORGANIZATION = "o-exampleorg1"
ARN = "arn:aws:ec2:us-east-1:210987654321:traffic-mirror-target/tmt-1"
TRUSTED = {"TrustedAccounts": "123456789012, 111122223333"}


def stack(**parameters: str) -> dict[str, Any]:
    return resolve(load(TEMPLATE), parameters, account="210987654321")


def role(**parameters: str) -> dict[str, Any]:
    properties: dict[str, Any] = stack(**parameters)["Resources"]["Role"]["Properties"]
    return properties


def test_the_role_reads_and_nothing_else() -> None:
    made = role(**TRUSTED)
    # Nothing else gives it rights, or lets somebody in.
    assert set(made) == {"RoleName", "Description", "AssumeRolePolicyDocument", "Policies"}
    assert made["RoleName"] == "traffic-mirror-sensors"
    (policy,) = made["Policies"]
    statements = policy["PolicyDocument"]["Statement"]
    actions = {action for one in statements for action in as_list(one["Action"])}
    assert actions == {*DESCRIBES, PREFIX_LISTS}
    assert all(allows(statements, action, "*") for action in DESCRIBES)
    # Lists of any Region, since the role is one for all, and of any owner.
    for owner in ("aws", "123456789012"):
        assert allows(statements, PREFIX_LISTS, f"arn:aws:ec2:eu-west-1:{owner}:prefix-list/pl-1")
    assert not allows(statements, PREFIX_LISTS, "arn:aws:ec2:eu-west-1:123456789012:vpc/vpc-1")


def may_assume(trust: dict[str, Any], account: str, name: str, organization: str) -> bool:
    """Whether a trust policy lets in a role of an account, named with its path."""
    context = {
        "aws:PrincipalOrgID": organization,
        "aws:PrincipalArn": f"arn:aws:iam::{account}:role/{name}",
    }
    return allows(trust["Statement"], "sts:AssumeRole", "", context, {"AWS": account})


SSO = "aws-reserved/sso.amazonaws.com"
PEOPLE = {
    "PreviewRoleArns": f"arn:aws:iam::*:role/{SSO}/eu-west-1/AWSReservedSSO_Audit_*, "
    "arn:aws:iam::111122223333:role/security/analyst"
}
BY_ORGANIZATION = {"OrganizationId": ORGANIZATION}
FUNCTION = "traffic-mirror/stack-Role-1"
AUDIT = f"{SSO}/eu-west-1/AWSReservedSSO_Audit_0123456789abcdef"


@pytest.mark.parametrize(
    ("trusted", "account", "name", "organization", "let_in"),
    [
        (TRUSTED, "123456789012", FUNCTION, "o-another", True),
        (TRUSTED, "111122223333", FUNCTION, "o-another", True),
        (TRUSTED, "999988887777", FUNCTION, ORGANIZATION, False),
        (TRUSTED, "123456789012", "admin", ORGANIZATION, False),
        (TRUSTED, "123456789012", AUDIT, ORGANIZATION, False),
        (BY_ORGANIZATION, "123456789012", FUNCTION, ORGANIZATION, True),
        (BY_ORGANIZATION, "999988887777", FUNCTION, ORGANIZATION, True),
        (BY_ORGANIZATION, "123456789012", FUNCTION, "o-another", False),
        (BY_ORGANIZATION, "123456789012", "admin", ORGANIZATION, False),
        # People, by a permission set of SSO in every account, or by a role in one.
        (TRUSTED | PEOPLE, "123456789012", FUNCTION, "o-another", True),
        (TRUSTED | PEOPLE, "123456789012", AUDIT, "o-another", True),
        (TRUSTED | PEOPLE, "111122223333", "security/analyst", "o-another", True),
        (TRUSTED | PEOPLE, "123456789012", "security/analyst", "o-another", False),
        (TRUSTED | PEOPLE, "111122223333", "analyst", "o-another", False),
        (TRUSTED | PEOPLE, "123456789012", AUDIT.replace("Audit", "Admin"), "o-another", False),
        (TRUSTED | PEOPLE, "123456789012", AUDIT.rsplit("/", 1)[-1], "o-another", False),
        (TRUSTED | PEOPLE, "999988887777", AUDIT, ORGANIZATION, False),
        (BY_ORGANIZATION | PEOPLE, "999988887777", AUDIT, ORGANIZATION, True),
        (BY_ORGANIZATION | PEOPLE, "999988887777", AUDIT, "o-another", False),
        (BY_ORGANIZATION | PEOPLE, "999988887777", "admin", ORGANIZATION, False),
    ],
)
def test_the_role_trusts(
    trusted: dict[str, str], account: str, name: str, organization: str, let_in: bool
) -> None:
    trust = role(**trusted)["AssumeRolePolicyDocument"]
    assert may_assume(trust, account, name, organization) is let_in


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({}, "TrustedAccounts or OrganizationId"),
        (TRUSTED | BY_ORGANIZATION, "exclude each other"),
        (TRUSTED | {"TargetArns": ARN}, "go together"),
        (TRUSTED | {"SharePrincipals": "123456789012"}, "go together"),
        *(({"TrustedAccounts": one}, "TrustedAccounts") for one in ("*", "123456789012,", ",1")),
        ({"OrganizationId": "*"}, "OrganizationId"),
        (TRUSTED | {"RoleName": "*"}, "RoleName"),
        # Any role could read then.
        *((TRUSTED | {"RolePath": one}, "RolePath") for one in ("/", "/*/", "/traffic-mirror")),
        *(
            (TRUSTED | {"PreviewRoleArns": f"arn:aws:iam::{one}"}, "PreviewRoleArns")
            for one in (
                "123456789012:role/*", "*:role/a*", "*:role/*/analyst", "12*:role/analyst",
                "123456789012:root", "123456789012:role/a,",
                f"*:role/{SSO}/*", f"*:role/{SSO}/AWSReservedSSO_*", f"*:role/{SSO}/*Audit_*",
            )
        ),
        (TRUSTED | {"PreviewRoleArns": "*"}, "PreviewRoleArns"),
        *(
            (TRUSTED | {"TargetArns": one, "SharePrincipals": "123456789012"}, "TargetArns")
            for one in ("," + ARN, "tmt-1")
        ),
        *(
            (TRUSTED | {"TargetArns": ARN, "SharePrincipals": one}, "SharePrincipals")
            for one in (",123456789012", "*")
        ),
    ],
    ids=str,
)  # fmt: skip
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
    assert (list(made["Resources"]), made["Outputs"]) == (["Share"], {})
    share = made["Resources"]["Share"]["Properties"]
    assert (share["ResourceArns"], share["Principals"]) == (arns, principals)
    assert list(stack(**TRUSTED)["Resources"]) == ["Role"]


def test_what_is_created_is_what_the_snapshot_shows() -> None:
    share = {"TargetArns": ARN, "SharePrincipals": "123456789012"}
    made = [stack(**who, **share, **PEOPLE) for who in (TRUSTED, BY_ORGANIZATION)]
    shown = dict(zip(("accounts", "organization"), made, strict=True))
    hold(as_yaml(shown).splitlines(), "sensors.yaml")


def parameters_in(words: list[str]) -> dict[str, str]:
    """The parameters of a command: as NAME=VALUE, or as a stack set takes them."""
    texts = [re.sub(r"^ParameterKey=(\w+),ParameterValue=", r"\1=", word) for word in words]
    given = dict(one.split("=", 1) for one in texts if re.match(r"[A-Z]\w+=", one))
    return {key: value for key, value in given.items() if key != "Enabled"}


def test_the_templates_take_what_the_page_gives_them() -> None:
    """docs/many-accounts.md: what the watched accounts give is what the sensors' account made."""
    text = (DEPLOY.parent / "docs" / "many-accounts.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    sensors, people, script, stack_set, _ = [shlex.split(line) for line in lines if line.strip()]
    made = stack(**parameters_in(sensors) | parameters_in(people))
    assert set(made["Resources"]) == {"Role", "Share"}
    properties = made["Resources"]["Role"]["Properties"]
    trust = properties["AssumeRolePolicyDocument"]
    assert may_assume(trust, "123456789012", AUDIT, ORGANIZATION)
    by_script = parameters_in(script) | {"TargetAccounts": script[script.index("--targets") + 1]}
    code = {"CodeBucket": "my-bucket", "CodeKey": "lambda_traffic_mirror.zip"}
    for parameters in (by_script | code, parameters_in(stack_set)):
        function = resolve(parameters=parameters)["Outputs"]["RoleArn"]["Value"]
        assert may_assume(trust, "123456789012", function.split(":role/")[1], ORGANIZATION)
        arn = f"arn:aws:iam::210987654321:role/{properties['RoleName']}"
        assert (parameters["SensorRoleArns"], parameters["TargetAccounts"]) == (arn, "210987654321")
