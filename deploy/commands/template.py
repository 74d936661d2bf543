"""What template.yaml says of its parameters, and the forms of IDs."""

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from .aws import Exit, Stop

DEPLOY = Path(__file__).resolve().parent.parent
TEMPLATE = DEPLOY / "template.yaml"


class Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML, with nothing in place of CloudFormation's short forms, such as !Ref."""


Loader.add_multi_constructor("!", lambda *_: None)


@lru_cache
def template() -> dict[str, dict[str, dict[str, Any]]]:
    """The template, parsed: Parameters, Resources and the rest."""
    loaded: dict[str, Any] = yaml.load(TEMPLATE.read_text("utf-8"), Loader)  # noqa: S506  it is safe
    return loaded


def parameters() -> dict[str, dict[str, Any]]:
    """Name and declaration of each parameter."""
    return template()["Parameters"]


def check(name: str, value: str) -> None:
    """Hold a value to the parameter's declaration, as CloudFormation would."""
    if name not in parameters():
        known = ", ".join(parameters())
        raise Stop(Exit.WRONG, f"template.yaml has no parameter {name}. It has {known}")
    declared = parameters()[name]
    is_number = declared["Type"] == "Number"
    pattern = r"-?\d+" if is_number else declared.get("AllowedPattern", "(?s:.*)")
    has_to = declared.get("ConstraintDescription", f"has to match {pattern}")
    fits = bool(re.fullmatch(pattern, value))
    if fits and "MinValue" in declared:
        fits = declared["MinValue"] <= int(value) <= declared["MaxValue"]
    if allowed := [str(one) for one in declared.get("AllowedValues", ())]:
        fits, has_to = value in allowed, f"has to be one of {', '.join(allowed)}"
    if len(value) > declared.get("MaxLength", 4096):  # CloudFormation's own limit
        fits, has_to = False, f"has {len(value)} characters, more than it may"
    if not fits:
        raise Stop(Exit.WRONG, f"{name}={value}: {name} {has_to}")


def sorted_targets(text: str) -> tuple[list[str], list[str]]:
    """IDs of targets and numbers of accounts in a text, as the function's variable takes them:
    separated by commas or white space, without duplicates.

    IDs are not held to the form that AWS uses today, since simulators use others."""
    found = list(dict.fromkeys(re.findall(r"[^,\s]+", text, re.ASCII)))
    for one in found or [text]:
        if not re.fullmatch("[0-9]{12}|(?!tmf-|tms-|eni-|i-|vpce-|-|[0-9]+$)[0-9A-Za-z-]+", one):
            what = "traffic mirror target (tmt-...) and no account (12 digits)"
            raise Stop(Exit.WRONG, f"{one!r} is no {what}")
    accounts = [one for one in found if one.isdigit()]
    return [one for one in found if one not in accounts], accounts


def sweep_rate(before: str) -> str | None:
    """Minutes for a rate such as rate(5 minutes), which version 1 of the template took: the next
    longer that is offered now. None for anything else."""
    if not (rate := re.fullmatch(r"rate\((\d+) (minute|hour|day)s?\)", before)):
        return None
    minutes = int(rate[1]) * {"minute": 1, "hour": 60, "day": 1440}[rate[2]]
    offered = [str(value) for value in parameters()["SweepRate"]["AllowedValues"]]
    return next((value for value in offered if int(value) >= minutes), offered[-1])
