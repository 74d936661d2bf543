"""CloudWatch's embedded metric format, as its specification describes a document.

The schema says what holds for each member. That dimensions and metrics are members of the document
itself no schema can say: `schema_for` puts them in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator

SIZES = [f"{of}{size}" for of in ("", "Kilo", "Mega", "Giga", "Tera") for size in ("bytes", "bits")]
AMOUNTS = [size.capitalize() for size in SIZES]
UNITS = ["Seconds", "Microseconds", "Milliseconds", "Percent", "Count", "None", "Count/Second"]
UNITS += [*AMOUNTS, *(f"{amount}/Second" for amount in AMOUNTS)]

NAME = {"type": "string", "minLength": 1, "maxLength": 1024}
NUMBER = {"type": "number"}
METRIC_VALUE = {
    "anyOf": [NUMBER, {"type": "array", "items": NUMBER, "minItems": 1, "maxItems": 100}]
}


def closed(**members: Any) -> dict[str, Any]:
    """An object with these members and no others."""
    return {"type": "object", "properties": members, "additionalProperties": False}


METRIC = closed(Name=NAME, Unit={"enum": UNITS}, StorageResolution={"enum": [1, 60]})
DIMENSIONS = {"type": "array", "items": NAME | {"maxLength": 250}, "minItems": 1, "maxItems": 30}
DIRECTIVE = closed(
    Namespace=NAME | {"not": {"pattern": "^AWS/"}},
    Dimensions={"type": "array", "items": DIMENSIONS | {"uniqueItems": True}},
    Metrics={
        "type": "array",
        "items": METRIC | {"required": ["Name"]},
        "minItems": 1,
        "maxItems": 100,
    },
)
METADATA = {
    "type": "object",
    "properties": {
        # Milliseconds since 1970.
        "Timestamp": {"type": "integer", "exclusiveMinimum": 10**12, "exclusiveMaximum": 10**13},
        "CloudWatchMetrics": {
            "type": "array",
            "items": DIRECTIVE | {"required": ["Namespace", "Dimensions", "Metrics"]},
        },
    },
    "required": ["Timestamp", "CloudWatchMetrics"],
}


def schema_for(document: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a document with these directives: what they name has to be there."""
    members: dict[str, Any] = {}
    for directive in document.get("_aws", {}).get("CloudWatchMetrics", ()):
        members |= {name: NAME for each in directive.get("Dimensions", ()) for name in each}
        members |= {metric.get("Name"): METRIC_VALUE for metric in directive.get("Metrics", ())}
    properties = {**members, "_aws": METADATA}
    return {"type": "object", "properties": properties, "required": list(properties)}


def violations(document: Mapping[str, Any]) -> list[str]:
    """What in a document is against the specification, one sentence each."""
    found = Draft202012Validator(schema_for(document)).iter_errors(document)
    return [f"{error.json_path}: {error.message}" for error in found]
