"""Validation of a Kubernetes object by the schema that its custom resource definition publishes, as kubectl does it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema


def schema_errors(definition: dict[str, Any], instance: dict[str, Any]) -> Iterator[str]:
    """What is wrong with an object, a line each; a field that the schema does not know is wrong too.

    Args:
        definition: a ``CustomResourceDefinition``.
        instance: the object, whose ``apiVersion`` names the version of the schema.
    """
    version = instance["apiVersion"].rpartition("/")[2]
    schema = next(
        served["schema"]["openAPIV3Schema"] for served in definition["spec"]["versions"] if served["name"] == version
    )
    for error in jsonschema.Draft202012Validator(strict(schema)).iter_errors(instance):
        yield f"{error.json_path}: {error.message}"


def strict(schema: Any) -> Any:
    """The schema in plain JSON Schema, where an object has no fields but those named (kubectl's strict validation)."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: strict(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string") is True:
        result.pop("anyOf", None)
        return {**result, "type": ["integer", "string"]}
    # Quantities such as "64Gi" may be numbers in YAML; the field named properties is itself a field of some objects.
    named = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") is True or "additionalProperties" in schema
    if named and not open_ended:
        result["additionalProperties"] = False
    return result
