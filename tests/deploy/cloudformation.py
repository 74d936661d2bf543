"""Reads a CloudFormation template and works out its functions for given parameters.

`load` gives a template with the short forms (`!Ref`) in their long form.
`resolve` gives its resources and outputs as CloudFormation would create them, so
that tests can look at finished policies, variables and conditions. It knows the
functions that the templates of this project use and refuses every other.
`allows` says what IAM would make of the finished policies.
"""

from __future__ import annotations

import copy
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).resolve().parent.parent.parent / "deploy"
TEMPLATE = DEPLOY / "template.yaml"

# Stands for AWS::NoValue: the property or list item disappears.
_NO_VALUE = object()


class ParameterError(ValueError):
    """CloudFormation would refuse this value of a parameter."""


class _Loader(yaml.SafeLoader):
    """YAML in which the short forms of functions become their long forms."""


def _short_form(loader: _Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    name = suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}"
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
        if name == "Fn::GetAtt":
            value = value.split(".", 1)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    return {name: value}


_Loader.add_multi_constructor("!", _short_form)


@lru_cache
def _parse(text: str) -> dict[str, Any]:
    template: dict[str, Any] = yaml.load(text, Loader=_Loader)
    return template


def load(path: Path = TEMPLATE) -> dict[str, Any]:
    """Returns the template, functions in their long form."""
    return copy.deepcopy(_parse(path.read_text(encoding="utf-8")))


def check_parameter(name: str, declaration: dict[str, Any], value: str) -> Any:
    """Returns what `Ref` gives for the text that the operator enters, or raises a refusal of it."""

    def refuse(why: str) -> ParameterError:
        return ParameterError(f"{name}: {value!r} {why}")

    kind = declaration["Type"]
    is_list = kind == "CommaDelimitedList"
    values = [part.strip() for part in value.split(",")] if is_list else [value]
    for each in values:
        pattern = declaration.get("AllowedPattern")
        if pattern and not re.fullmatch(pattern, each):
            raise refuse(declaration.get("ConstraintDescription", f"does not match {pattern}"))
        allowed = declaration.get("AllowedValues")
        if allowed and each not in [str(one) for one in allowed]:
            raise refuse(f"is none of {allowed}")
        if len(each) > int(declaration.get("MaxLength", 4096)):
            raise refuse("is too long")
        if kind == "Number":
            try:
                number = float(each)
            except ValueError:
                raise refuse("is not a number") from None
            low, high = (declaration.get(bound, number) for bound in ("MinValue", "MaxValue"))
            if not low <= number <= high:
                raise refuse("is out of range")
    return values if is_list else value


def resolve(
    template: dict[str, Any] | None = None,
    parameters: dict[str, str] | None = None,
    *,
    region: str = "us-east-1",
    account: str = "123456789012",
    partition: str = "aws",
    stack: str = "traffic-mirror",
) -> dict[str, Any]:
    """Returns the template as CloudFormation would create it there.

    That is `Resources` without those whose condition is false, `Outputs`, `Parameters` with the
    values in use, and where the stack stands. `parameters` are as an operator enters them; where
    one is missing, unknown or refused, or breaks a rule, it raises ParameterError.
    """
    template = load() if template is None else template
    given = dict(parameters or {})
    declarations = template["Parameters"]
    if unknown := set(given) - set(declarations):
        raise ParameterError(f"no such parameter: {', '.join(sorted(unknown))}")

    references: dict[str, Any] = {
        "AWS::AccountId": account,
        "AWS::NoValue": _NO_VALUE,
        "AWS::Partition": partition,
        "AWS::Region": region,
        "AWS::StackName": stack,
    }
    used: dict[str, Any] = {}
    for name, declaration in declarations.items():
        if name not in given and "Default" not in declaration:
            raise ParameterError(f"{name}: is missing")
        used[name] = check_parameter(
            name, declaration, str(given.get(name, declaration.get("Default")))
        )
    references.update(used)

    def physical(logical: str) -> str:
        return f"{stack}-{logical}"

    for logical, resource in template["Resources"].items():
        references[logical] = (
            f"https://sqs.{region}.amazonaws.com/{account}/{physical(logical)}"
            if resource["Type"] == "AWS::SQS::Queue"
            else physical(logical)
        )

    def attribute(logical: str, name: str) -> str:
        existing(logical)
        kind = template["Resources"][logical]["Type"]
        if (kind, name) == ("AWS::SQS::Queue", "QueueName"):
            return physical(logical)
        if name != "Arn":
            raise NotImplementedError(f"attribute {name} of {kind}")
        where = f"{region}:{account}"
        path = {
            "AWS::Events::Rule": f"events:{where}:rule/",
            "AWS::IAM::Role": "",
            "AWS::Lambda::Function": f"lambda:{where}:function:",
            "AWS::RAM::ResourceShare": f"ram:{where}:resource-share/",
            "AWS::SQS::Queue": f"sqs:{where}:",
        }[kind]
        if kind == "AWS::IAM::Role":
            own_path = template["Resources"][logical]["Properties"].get("Path", "/")
            path = f"iam::{account}:role{work_out(own_path)}"
        return f"arn:{partition}:{path}{physical(logical)}"

    def substitute(value: Any) -> str:
        text, own = value if isinstance(value, list) else (value, {})
        names = {name: work_out(one) for name, one in own.items()}

        def replace(match: re.Match[str]) -> str:
            name = match[1]
            if name in names:
                return str(names[name])
            if name in references:
                return str(references[existing(name)])
            return attribute(*name.split(".", 1))

        return re.sub(r"\$\{([^!}][^}]*)\}", replace, text)

    def is_true(condition: Any) -> bool:
        ((name, value),) = condition.items()
        if name == "Condition":
            return is_true(template["Conditions"][value])
        if name == "Fn::Equals":
            return bool(work_out(value[0]) == work_out(value[1]))
        if name == "Fn::Not":
            return not is_true(value[0])
        if name == "Fn::And":
            return all(is_true(one) for one in value)
        if name == "Fn::Or":
            return any(is_true(one) for one in value)
        if name == "Fn::Contains":
            return work_out(value[1]) in work_out(value[0])
        raise NotImplementedError(name)

    def work_out(node: Any) -> Any:
        if isinstance(node, list):
            return [one for one in map(work_out, node) if one is not _NO_VALUE]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            ((name, value),) = node.items()
            if name == "Ref":
                return references[existing(value)]
            if name == "Fn::GetAtt":
                return attribute(*value)
            if name == "Fn::Sub":
                return substitute(value)
            if name == "Fn::Join":
                # CloudFormation accepts no function for the delimiter.
                assert isinstance(value[0], str)
                return value[0].join(str(one) for one in work_out(value[1]))
            if name == "Fn::Split":
                assert isinstance(value[0], str)
                return work_out(value[1]).split(value[0])
            if name == "Fn::Select":
                return work_out(value[1])[int(value[0])]
            if name == "Fn::If":
                return work_out(value[1 if is_true({"Condition": value[0]}) else 2])
            if name == "Fn::FindInMap":
                first, second, third = (work_out(one) for one in value)
                return template["Mappings"][first][second][third]
            if name.startswith("Fn::"):
                raise NotImplementedError(name)
        pairs = ((key, work_out(one)) for key, one in node.items())
        return {key: one for key, one in pairs if one is not _NO_VALUE}

    def exists(entry: dict[str, Any]) -> bool:
        return "Condition" not in entry or is_true({"Condition": entry["Condition"]})

    def existing(name: str) -> str:
        # CloudFormation refuses to refer to a resource that its condition has left out.
        if not exists(template["Resources"].get(name, {})):
            raise KeyError(name)
        return name

    for rule in template.get("Rules", {}).values():
        if is_true(rule.get("RuleCondition", {"Fn::Equals": ["", ""]})):
            for assertion in rule["Assertions"]:
                if not is_true(assertion["Assert"]):
                    raise ParameterError(assertion["AssertDescription"])

    return {
        "AccountId": account,
        "Partition": partition,
        "Region": region,
        "StackName": stack,
        "Parameters": used,
        "Resources": {
            logical: {
                key: value if key == "Condition" else work_out(value)
                for key, value in resource.items()
            }
            for logical, resource in template["Resources"].items()
            if exists(resource)
        },
        "Outputs": {
            name: work_out({key: value for key, value in output.items() if key != "Condition"})
            for name, output in template.get("Outputs", {}).items()
            if exists(output)
        },
    }


def as_list(value: Any) -> list[Any]:
    """Returns a policy's value as a list, which IAM lets a single one go without."""
    return value if isinstance(value, list) else [value]


def role_statements(resolved: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns every statement of the policies that the function's role has."""
    resources = resolved["Resources"]
    documents = [
        policy["PolicyDocument"]
        for resource in resources.values()
        if resource["Type"] == "AWS::IAM::Role"
        for policy in resource["Properties"].get("Policies", [])
    ]
    documents += [
        resource["Properties"]["PolicyDocument"]
        for resource in resources.values()
        if resource["Type"] == "AWS::IAM::Policy"
    ]
    return [statement for document in documents for statement in document["Statement"]]


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


def _met(conditions: dict[str, dict[str, Any]], context: dict[str, str]) -> bool:
    return all(
        key in context and _OPERATORS[operator](wanted, context[key])
        for operator, keys in conditions.items()
        for key, wanted in keys.items()
    )


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
    `{"Service": …}` or `{"AWS": account}`.
    """

    def meant(wanted: Any) -> bool:
        if wanted is None or isinstance(wanted, str):
            return wanted in (None, "*")
        ((kind, name),) = (principal or {"": ""}).items()
        return name in as_list(wanted.get(kind, [])) or "*" in as_list(wanted.get(kind, []))

    effects = {
        statement["Effect"]
        for statement in statements
        if meant(statement.get("Principal"))
        and _matches(statement["Action"], action)
        and _matches(statement.get("Resource", "*"), resource)
        and _met(statement.get("Condition", {}), context or {})
    }
    return effects == {"Allow"}
