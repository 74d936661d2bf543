"""deploy/sensors.yaml: whom the role in a sensors' account trusts, and what would trust too many.

What the role may read, tests/deploy/test_policy.py proves.
"""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
from cloudformation import CODE, DEPLOY, ParameterError, allows, load, resolve

SSO = "aws-reserved/sso.amazonaws.com"
ACCOUNTS = {"TrustedAccounts": "123456789012, 111122223333"}
ORGANIZATION = {"OrganizationId": "o-exampleorg1"}
PEOPLE = {
    "PreviewRoleArns": f"arn:aws:iam::*:role/{SSO}/eu-west-1/AWSReservedSSO_Audit_*, "
    "arn:aws:iam::111122223333:role/security/analyst"
}
FUNCTION = "traffic-mirror/stack-Role-1"
AUDIT = f"{SSO}/eu-west-1/AWSReservedSSO_Audit_0123456789abcdef"


def stack(**parameters: str) -> dict[str, Any]:
    return resolve(load("sensors"), parameters, account="210987654321")


def lets_in(made: dict[str, Any], account: str, name: str, organization: str = "") -> bool:
    """Whether the role trusts a role of an account, named with its path."""
    trust = made["Resources"]["Role"]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    keys = {"aws:PrincipalOrgID": organization}
    keys["aws:PrincipalArn"] = f"arn:aws:iam::{account}:role/{name}"
    return allows(trust, "sts:AssumeRole", "", keys, account)


HERE, THERE, NOT_TRUSTED = "123456789012", "111122223333", "999988887777"
OURS = "o-exampleorg1"
# Who asks: the account, the role, the organization. In the last two columns, whether it is let in
# where accounts are trusted, and where the organization is.
WHO = {
    "a function": (HERE, FUNCTION, OURS, True, True),
    "a function of another trusted account": (THERE, FUNCTION, "", True, False),
    "a function of an account that is not trusted": (NOT_TRUSTED, FUNCTION, OURS, False, True),
    "an administrator": (HERE, "admin", OURS, False, False),
    "people by a permission set, with its path": (HERE, AUDIT, OURS, True, True),
    "people of an account that is not trusted": (NOT_TRUSTED, AUDIT, "", False, False),
    "another permission set": (HERE, AUDIT.replace("Audit", "Admin"), OURS, False, False),
    "a role that is only called like it": (HERE, AUDIT.rpartition("/")[2], OURS, False, False),
    "people by a role of one account": (THERE, "security/analyst", OURS, True, True),
    "a role of that name in another account": (HERE, "security/analyst", OURS, False, False),
}


@pytest.mark.parametrize("who", WHO)
def test_the_role_trusts(who: str) -> None:
    *asks, by_account, by_organization = WHO[who]
    assert lets_in(stack(**ACCOUNTS, **PEOPLE), *asks) is by_account
    assert lets_in(stack(**ORGANIZATION, **PEOPLE), *asks) is by_organization


# What would trust too many, nobody, or somebody else than is meant.
ARN = "arn:aws:ec2:us-east-1:210987654321:traffic-mirror-target/tmt-1"
ROLES = [
    *(f"{HERE}:role/*", "*:role/a*", "*:role/*/analyst", "12*:role/analyst", f"{HERE}:root"),
    *(f"{HERE}:role/a,", f"*:role/{SSO}/*", f"*:role/{SSO}/AWSReservedSSO_*"),
]
REFUSED = {
    "TrustedAccounts": ["*", f"{HERE},", ",1"],
    "OrganizationId": ["*", "o-*"],
    "RoleName": ["*"],
    "RolePath": ["/", "/*/", "/traffic-mirror"],  # "/": any role could read then
    "PreviewRoleArns": ["*", *(f"arn:aws:iam::{one}" for one in ROLES)],
    "TargetArns": [f",{ARN}", "tmt-1"],
    "SharePrincipals": [f",{HERE}", "*"],
}
RULES = [
    ("TrustedAccounts or OrganizationId", {}),
    ("exclude each other", ACCOUNTS | ORGANIZATION),
    ("go together", ACCOUNTS | {"TargetArns": ARN}),
    ("go together", ACCOUNTS | {"SharePrincipals": HERE}),
]
VALUES = [(name, ACCOUNTS | {name: one}) for name, values in REFUSED.items() for one in values]


@pytest.mark.parametrize(("why", "given"), RULES + VALUES, ids=str)
def test_what_would_trust_too_many_or_nobody_is_refused(why: str, given: dict[str, str]) -> None:
    with pytest.raises(ParameterError, match=why):
        stack(**given)


def parameters_in(command: str) -> dict[str, str]:
    """The parameters of a command: as NAME=VALUE, or as a stack set takes them."""
    plain = re.sub("ParameterKey=(.*?),ParameterValue", r"\1", command)
    pairs = [re.match("(?!Enabled)([A-Z][A-Za-z]+)=(.*)", word) for word in shlex.split(plain)]
    return {pair[1]: pair[2] for pair in pairs if pair}


def test_the_templates_take_what_the_page_gives_them() -> None:
    """docs/many-accounts.md: what the watched accounts give is what the sensors' account made."""
    text = (DEPLOY.parent / "docs" / "many-accounts.md").read_text(encoding="utf-8")
    shell = "".join(re.findall(r"(?s)```sh\n(.*?)```", text)).replace("\\\n", " ")
    sensors, people, script, stack_set, _ = filter(str.strip, shell.splitlines())
    made = stack(**parameters_in(sensors) | parameters_in(people))
    assert set(made["Resources"]) == {"Role", "Share"}
    assert lets_in(made, HERE, AUDIT, OURS)
    role = f"arn:aws:iam::210987654321:role/{made['Resources']['Role']['Properties']['RoleName']}"
    by_script = parameters_in(script) | CODE
    by_script["TargetAccounts"] = script.partition("--targets ")[2].split()[0]
    for given in (by_script, parameters_in(stack_set)):
        assert (given["SensorRoleArns"], given["TargetAccounts"]) == (role, "210987654321")
        function = resolve(parameters=given)["Outputs"]["RoleArn"]["Value"]
        assert lets_in(made, HERE, function.partition(":role/")[2], OURS)
