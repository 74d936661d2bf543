"""The templates as CloudFormation would create them, and their policies as IAM would apply them.

moto works out a template's functions. It leaves out names, limits of parameters, rules, and
conditions in policies.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import yaml

# moto's CloudFormation imports what API Gateway needs to read OpenAPI, which no test does.
for _name in ("", ".validation", ".validation.exceptions"):
    sys.modules.setdefault(f"openapi_spec_validator{_name}", MagicMock())

from moto.cloudformation.parsing import ResourceMap, clean_json, parse_condition  # noqa: E402
from moto.cloudformation.utils import yaml_tag_constructor  # noqa: E402

DEPLOY = Path(__file__).resolve().parent.parent.parent / "deploy"
CODE = {"CodeBucket": "my-bucket", "CodeKey": "lambda_traffic_mirror/abc.zip"}


class ParameterError(ValueError):
    """CloudFormation would refuse this value of a parameter."""


class _Loader(yaml.CSafeLoader):
    """YAML in which the short forms of functions become their long forms."""


_Loader.add_multi_constructor("", yaml_tag_constructor)
_parse = lru_cache(partial(yaml.load, Loader=_Loader))


def load(name: str = "template") -> dict[str, Any]:
    """A template, functions in their long form."""
    text = (DEPLOY / f"{name}.yaml").read_text(encoding="utf-8")
    template: dict[str, Any] = copy.deepcopy(_parse(text))
    return template


def _checked(declarations: dict[str, Any], given: dict[str, str]) -> dict[str, str]:
    """The values of all parameters, or a refusal of one. Limits of numbers are in the snapshot."""
    used = {name: str(row["Default"]) for name, row in declarations.items() if "Default" in row}
    used |= given
    if wrong := set(used) ^ set(declarations):
        raise ParameterError(f"missing or unknown: {', '.join(sorted(wrong))}")
    for name, value in used.items():
        row = declarations[name]
        fits = re.fullmatch(row.get("AllowedPattern", "(?s:.*)"), value)
        fits = fits and value in map(str, row.get("AllowedValues", [value]))
        if not fits or len(value) > row.get("MaxLength", 4096):
            raise ParameterError(f"{name}: {value!r} is not what the template takes")
    return used


class _Stack(ResourceMap):  # type: ignore[misc]
    """moto's view of a stack, in which resources have a name and an ARN and are not created."""

    def exists(self, entry: dict[str, Any]) -> bool:
        return "Condition" not in entry or bool(self.lazy_condition_map[entry["Condition"]])

    def __getitem__(self, name: str) -> Any:
        if name in self._parsed_resources:
            return self._parsed_resources[name]
        resource = self._resource_json_map[name]
        if not self.exists(resource):  # CloudFormation refuses to refer to it
            raise KeyError(name)
        stack, partition, region, account = (
            self[f"AWS::{one}"] for one in ("StackName", "Partition", "Region", "AccountId")
        )
        physical = f"{stack}-{name}"
        path = {
            "AWS::Events::Rule": f"events:{region}:{account}:rule/",
            "AWS::Lambda::Function": f"lambda:{region}:{account}:function:",
            "AWS::SQS::Queue": f"sqs:{region}:{account}:",
            "AWS::IAM::Role": f"iam::{account}:role",
        }.get(resource["Type"], "")
        if path.endswith(":role"):
            path += clean_json(resource["Properties"].get("Path", "/"), self)
        arn = f"arn:{partition}:{path}{physical}"
        attributes = {"Arn": arn, "QueueName": physical} if path else {}
        if path.startswith("sqs"):
            physical = f"https://sqs.{region}.amazonaws.com/{account}/{physical}"
        # The two names that moto asks for.
        return SimpleNamespace(
            physical_resource_id=physical, get_cfn_attribute=attributes.__getitem__
        )


def resolve(
    template: dict[str, Any] | None = None,
    parameters: dict[str, str] | None = None,
    *,
    region: str = "us-east-1",
    account: str = "123456789012",
    partition: str = "aws",
    stack: str = "traffic-mirror",
) -> dict[str, Any]:
    """`Resources` and `Outputs` as CloudFormation would create them there, or a ParameterError."""
    template = load() if template is None else template
    used = _checked(template["Parameters"], parameters or {})
    made = _Stack("", stack, {}, {}, region, account, template, None)
    made._parsed_resources.update(used | {"AWS::Partition": partition})
    made.load_mapping()
    made.load_conditions()
    for rule in template.get("Rules", {}).values():
        if parse_condition(rule.get("RuleCondition", True), made, made.lazy_condition_map):
            for assertion in rule["Assertions"]:
                if not parse_condition(assertion["Assert"], made, made.lazy_condition_map):
                    raise ParameterError(assertion["AssertDescription"])
    found: dict[str, Any] = {"Resources": {}, "Outputs": {}}
    for section, entries in found.items():
        for name, entry in template[section].items():
            if made.exists(entry):
                entries[name] = clean_json({k: entry[k] for k in entry if k != "Condition"}, made)
    return found


def stack(**parameters: str) -> dict[str, Any]:
    """template.yaml with the least that it takes, and these parameters."""
    return resolve(parameters={**CODE, "Targets": "tmt-1", **parameters})


def as_list(value: Any) -> list[Any]:
    """A policy's value, which IAM lets a single one be without a list."""
    return value if isinstance(value, list) else [value]


def statements_of(resolved: dict[str, Any]) -> list[dict[str, Any]]:
    """Every statement of the policies that the role has."""
    resources = [one["Properties"] for one in resolved["Resources"].values()]
    policies = [policy for one in resources for policy in one.get("Policies", [one])]
    found = [one["PolicyDocument"]["Statement"] for one in policies if "PolicyName" in one]
    return [statement for each in found for statement in each]


def allows(
    statements: list[dict[str, Any]],
    action: str,
    resource: str = "*",
    keys: Mapping[str, str] = MappingProxyType({}),
    account: str = "",
) -> bool:
    """Whether statements allow a principal of an account an action on one resource.

    `keys` are the condition keys of the request. moto's own answer takes the unmet condition of an
    Allow for a Deny.
    """

    def met(operator: str, key: str, wanted: Any) -> bool:
        if operator == "ArnLike":  # a wildcard does not reach over one of the first colons
            arn = keys.get(key, ":::::").split(":", 5)
            patterns = [one.split(":", 5) for one in as_list(wanted)]
            return any(all(map(fnmatchcase, arn, pattern)) for pattern in patterns)
        assert operator == "StringEquals"
        return keys.get(key) in as_list(wanted)

    return any(
        {"*", account} & {*as_list(one.get("Principal", {"AWS": "*"})["AWS"])}
        and any(fnmatchcase(action, each) for each in as_list(one["Action"]))
        and any(fnmatchcase(resource, each) for each in as_list(one.get("Resource", "*")))
        and all(
            met(operator, key, wanted)
            for operator, tests in one.get("Condition", {}).items()
            for key, wanted in tests.items()
        )
        for one in statements
        if one["Effect"] == "Allow"
    )
