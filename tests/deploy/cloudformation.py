"""The templates as CloudFormation would create them, and their policies as IAM would apply them.

moto works out the functions of a template. Here are the names that resources get, and what moto
leaves out: limits of parameters, rules, and conditions in policies.
"""

from __future__ import annotations

import copy
import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import yaml

# moto's CloudFormation imports what API Gateway needs to read OpenAPI, which no test does.
for _name in ("", ".validation", ".validation.exceptions"):
    sys.modules.setdefault(f"openapi_spec_validator{_name}", MagicMock())

from moto.cloudformation.parsing import ResourceMap, clean_json, parse_condition  # noqa: E402

DEPLOY = Path(__file__).resolve().parent.parent.parent / "deploy"
TEMPLATE = DEPLOY / "template.yaml"


class ParameterError(ValueError):
    """CloudFormation would refuse this value of a parameter."""


class _Loader(yaml.SafeLoader):
    """YAML in which the short forms of functions become their long forms."""


def _long_form(loader: _Loader, name: str, node: Any) -> dict[str, Any]:
    construct = {
        yaml.ScalarNode: loader.construct_scalar,
        yaml.SequenceNode: lambda one: loader.construct_sequence(one, deep=True),
        yaml.MappingNode: lambda one: loader.construct_mapping(one, deep=True),
    }
    value = construct[type(node)](node)
    if name == "GetAtt":
        value = value.split(".", 1)
    return {name if name in ("Ref", "Condition") else f"Fn::{name}": value}


_Loader.add_multi_constructor("!", _long_form)


@lru_cache
def _parse(text: str) -> dict[str, Any]:
    template: dict[str, Any] = yaml.load(text, Loader=_Loader)
    return template


def load(path: Path = TEMPLATE) -> dict[str, Any]:
    """Returns the template, functions in their long form."""
    return copy.deepcopy(_parse(path.read_text(encoding="utf-8")))


def _within(declaration: dict[str, Any], value: str) -> bool:
    """Whether a text, or a part of a list, keeps to what a parameter declares."""
    if declaration["Type"] == "Number":
        low, high = declaration.get("MinValue", 0), declaration.get("MaxValue", "inf")
        number = re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", value)
        if not number or not float(low) <= float(value) <= float(high):
            return False
    return (
        bool(re.fullmatch(declaration.get("AllowedPattern", "(?s:.*)"), value))
        and value in [str(one) for one in declaration.get("AllowedValues", [value])]
        and len(value) <= int(declaration.get("MaxLength", 4096))
    )


def _check(template: dict[str, Any], given: dict[str, str]) -> dict[str, Any]:
    """The values of all parameters, or a refusal of one."""
    declarations = template["Parameters"]
    if unknown := set(given) - set(declarations):
        raise ParameterError(f"no such parameter: {', '.join(sorted(unknown))}")
    used: dict[str, Any] = {}
    for name, declaration in declarations.items():
        if name not in given and "Default" not in declaration:
            raise ParameterError(f"{name}: is missing")
        value = str(given.get(name, declaration.get("Default")))
        is_list = declaration["Type"] == "CommaDelimitedList"
        values = [part.strip() for part in value.split(",")] if is_list else [value]
        if not all(_within(declaration, each) for each in values):
            raise ParameterError(f"{name}: {value!r} is not what the template takes")
        used[name] = values if is_list else value
    return used


class _Resource(NamedTuple):
    """What other resources see of a resource. moto asks for these two names."""

    physical_resource_id: str
    attributes: dict[str, str]

    def get_cfn_attribute(self, name: str) -> str:
        return self.attributes[name]


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
            "AWS::RAM::ResourceShare": f"ram:{region}:{account}:resource-share/",
            "AWS::SQS::Queue": f"sqs:{region}:{account}:",
        }.get(resource["Type"], "")
        if resource["Type"] == "AWS::IAM::Role":
            own = clean_json(resource["Properties"].get("Path", "/"), self)
            path = f"iam::{account}:role{own}"
        attributes = {"Arn": f"arn:{partition}:{path}{physical}"} if path else {}
        if resource["Type"] != "AWS::SQS::Queue":
            return _Resource(physical, attributes)
        address = f"https://sqs.{region}.amazonaws.com/{account}/{physical}"
        return _Resource(address, attributes | {"QueueName": physical})

    def finished(self, entry: Any) -> Any:
        """An entry of the template with its functions worked out."""
        return _without_none(clean_json(entry, self))


def _without_none(node: Any) -> Any:
    """Without what AWS::NoValue takes out of lists; moto takes it out of mappings."""
    if isinstance(node, list):
        return [_without_none(one) for one in node if one is not None]
    if isinstance(node, dict):
        return {key: _without_none(one) for key, one in node.items()}
    return node


def resolve(
    template: dict[str, Any] | None = None,
    parameters: dict[str, str] | None = None,
    *,
    region: str = "us-east-1",
    account: str = "123456789012",
    partition: str = "aws",
    stack: str = "traffic-mirror",
) -> dict[str, Any]:
    """Returns `Resources` and `Outputs` as CloudFormation would create them there.

    What a false condition leaves out is not among them. `parameters` are as an operator enters
    them; if one is missing, unknown or refused, or breaks a rule, it raises ParameterError.
    """
    template = load() if template is None else template
    used = _check(template, parameters or {})
    made = _Stack("", stack, {}, {}, region, account, template, None)
    made._parsed_resources.update(used | {"AWS::Partition": partition})
    made.load_mapping()
    made.load_conditions()
    for rule in template.get("Rules", {}).values():
        if parse_condition(rule.get("RuleCondition", True), made, made.lazy_condition_map):
            for assertion in rule["Assertions"]:
                if not parse_condition(assertion["Assert"], made, made.lazy_condition_map):
                    raise ParameterError(assertion["AssertDescription"])
    return {
        section: {
            name: made.finished({key: one for key, one in entry.items() if key != "Condition"})
            for name, entry in template.get(section, {}).items()
            if made.exists(entry)
        }
        for section in ("Resources", "Outputs")
    }


def as_list(value: Any) -> list[Any]:
    """Returns a policy's value as a list, which IAM lets a single one go without."""
    return value if isinstance(value, list) else [value]


def role_statements(resolved: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns every statement of the policies that the function's role has."""
    policies: list[dict[str, Any]] = []
    for resource in resolved["Resources"].values():
        if resource["Type"] == "AWS::IAM::Role":
            policies += resource["Properties"].get("Policies", [])
        elif resource["Type"] == "AWS::IAM::Policy":
            policies.append(resource["Properties"])
    return [one for policy in policies for one in policy["PolicyDocument"]["Statement"]]


def _matches(patterns: Any, value: str) -> bool:
    """Whether a pattern of a policy covers a value."""
    return any(
        re.fullmatch(re.escape(one).replace(r"\*", ".*").replace(r"\?", "."), value)
        for one in as_list(patterns)
    )


def _matches_arn(patterns: Any, value: str) -> bool:
    """As `_matches`, but a wildcard does not reach over a colon of the first five."""
    parts = value.split(":", 5)
    return any(
        len(parts) == 6 and all(map(_matches, one.split(":", 5), parts))
        for one in as_list(patterns)
    )


_OPERATORS = {
    "ArnEquals": _matches_arn,
    "ArnLike": _matches_arn,
    "Bool": lambda wanted, value: value in as_list(wanted),
    "StringEquals": lambda wanted, value: value in as_list(wanted),
    "StringLike": _matches,
}


def allows(
    statements: list[dict[str, Any]],
    action: str,
    resource: str,
    context: dict[str, str] | None = None,
    principal: dict[str, str] | None = None,
) -> bool:
    """Says whether IAM would allow an action on one resource (`*` where it takes none).

    An action that takes several resources is allowed if it is on each of them. `context` has the
    condition keys of the request. For policies that name principals, `principal` is who asks:
    `{"Service": …}` or `{"AWS": account}`. moto's own answer to this knows no principals of
    services, and an unmet condition of an Allow counts as a Deny there.
    """
    keys = context or {}

    def meant(wanted: Any) -> bool:
        if wanted is None or isinstance(wanted, str):
            return wanted in (None, "*")
        ((kind, name),) = (principal or {"": ""}).items()
        return not {name, "*"}.isdisjoint(as_list(wanted.get(kind, [])))

    effects = {
        statement["Effect"]
        for statement in statements
        if meant(statement.get("Principal"))
        and _matches(statement["Action"], action)
        and _matches(statement.get("Resource", "*"), resource)
        and all(
            key in keys and _OPERATORS[operator](wanted, keys[key])
            for operator, tests in statement.get("Condition", {}).items()
            for key, wanted in tests.items()
        )
    }
    return effects == {"Allow"}
