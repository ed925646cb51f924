"""Configurations held against the JSON schema that the program prints."""

import tomllib
from pathlib import Path

import jsonschema

ROOT = Path(__file__).resolve().parent.parent.parent


def faults_in(text, schema, whole=True):
    """What is wrong with a configuration; a part of one need not have a route."""
    try:
        configuration = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return [f"not TOML: {error}"]
    found = []
    for error in jsonschema.Draft202012Validator(schema).iter_errors(configuration) if schema else []:
        path = [step for step in error.absolute_path if isinstance(step, str)]
        message = error.message
        if error.validator == "required" and not whole:
            continue
        if error.validator == "additionalProperties":
            extra = set(error.instance) - set(error.schema["properties"])
            message = f"unknown: {', '.join(sorted(extra))}"
        found.append(f"{'.'.join(path)}: {message}")
    return found
