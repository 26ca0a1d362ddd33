"""Read and validate `config.yaml`. Every error is one line: the key's dotted path, its value, what is allowed.

Validation is strict: a number in quotes is text, an unknown key is an error that names the nearest known one, a repeated key is an
error. `read` returns the plain mapping, as Snakemake and DVC see it; `load` the typed sections.
"""

from __future__ import annotations

import difflib
import json
import re
import types
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mudit.config.schema import Config
from mudit.config.wording import reason, worst_first
from mudit.errors import ConfigError

_NAME = re.compile(r"[a-z][a-z0-9-]*")
_FLOAT_LIKE = re.compile(r"[-+]?\d[\d_]*(?:\.\d*)?[eE][-+]?\d+")


def load(path: Path) -> Config:
    """The whole configuration, typed. Raises ConfigError."""
    raw = read(path)
    try:
        # JSON mode: strict about types, yet a YAML list may become a tuple.
        config = Config.model_validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(_message(path, raw, error)) from None
    _check_names(path, config)
    return config


def read(path: Path) -> dict[str, Any]:
    """The file as a mapping, unchecked but for YAML's own rules and repeated keys. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; run in the folder that holds it, or pass --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    try:
        raw = yaml.load(text, Loader=_UniqueKeys)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: {error.problem}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: must hold the keys {', '.join(Config.model_fields)}")
    return raw


class _UniqueKeys(yaml.SafeLoader):
    """YAML keeps the last of two equal keys in silence; here the second is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"key {key_node.value!r} appears twice", problem_mark=key_node.start_mark)
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _check_names(path: Path, config: Config) -> None:
    """Names become folders and wildcards, so they keep to a safe alphabet."""
    names = [("studies", name) for name in config.studies] + [("experiments", name) for name in config.experiments]
    for name, experiment in config.experiments.items():
        if experiment.has("train"):
            names += [(f"experiments.{name}.train.arms", arm) for arm in experiment.train.arms]
        if experiment.has("imported"):
            names += [(f"experiments.{name}.imported", each) for each in experiment.imported]
        if experiment.has("benchmarks"):
            names += [(f"experiments.{name}.benchmarks", each) for each in experiment.benchmarks]
    for where, name in names:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{path}: {where}: {name!r} is not a name: a small letter, then small letters, digits and hyphens")
    for name in config.studies.keys() & config.experiments.keys():
        raise ConfigError(f"{path}: {name!r} names both a study and an experiment; rename one")


def _message(path: Path, raw: dict[str, Any], error: ValidationError) -> str:
    """One line for the first offending key, and how many more there are."""
    by_key: dict[tuple[str | int, ...], list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        by_key.setdefault(_real_key(raw, detail), []).append(detail)
    key, details = worst_first(by_key)[0]
    more = f" (and {len(by_key) - 1} more)" if len(by_key) > 1 else ""
    dotted = ".".join(str(part) for part in key)
    return f"{path}: {dotted + ': ' if dotted else ''}{_reason(raw, key, details)}{more}"


def _real_key(raw: Any, detail: ErrorDetails) -> tuple[str | int, ...]:
    """The error's location without the tags that pydantic adds for the branches of a union."""
    key: list[str | int] = []
    for part in detail["loc"]:
        try:
            raw = raw[part]
        except (KeyError, IndexError, TypeError):
            if detail["type"] != "missing" or part != detail["loc"][-1]:
                continue
        key.append(part)
    return tuple(key)


def _reason(raw: dict[str, Any], key: tuple[str | int, ...], details: list[ErrorDetails]) -> str:
    first = details[0]
    if first["type"] == "extra_forbidden":
        known = _known_keys(raw, key[:-1])
        nearest = difflib.get_close_matches(str(key[-1]), known, n=1)
        return f"unknown key; did you mean {nearest[0]!r}?" if nearest else f"unknown key; known are {', '.join(known)}"
    if first["type"] == "missing":
        return "missing; every number is in the file, nothing has a default"
    hint = "" if first["type"] == "value_error" else _number_hint(first["input"])
    return f"{reason(details)}{hint}"


def _number_hint(value: Any) -> str:
    """YAML 1.1 wants a point and a sign in 1.0e-4, and reads 1e-4 as text."""
    if not isinstance(value, str) or not _FLOAT_LIKE.fullmatch(value):
        return ""
    mantissa, exponent = re.split("[eE]", value)
    mantissa = mantissa if "." in mantissa else f"{mantissa}.0"
    exponent = exponent if exponent[0] in "+-" else f"+{exponent}"
    return f" (YAML reads {value} as text: write {mantissa}e{exponent})"


def _known_keys(raw: Any, key: tuple[str | int, ...]) -> list[str]:
    """Keys of the section at `key`, found by walking the typed sections beside the file's content."""
    kind: Any = Config
    for part in key:
        raw = raw[part]
        section = isinstance(kind, type) and issubclass(kind, BaseModel)
        kind = _branch(kind.model_fields[str(part)].annotation if section else get_args(kind)[-1], raw)
    return list(kind.model_fields)


def _branch(kind: Any, raw: Any) -> Any:
    """The section of a union that the content means: by its `family` or `kind`, else the only one."""
    if get_origin(kind) is Annotated:
        return _branch(get_args(kind)[0], raw)
    if get_origin(kind) not in (Union, types.UnionType):
        return kind
    sections = [branch for branch in (_branch(each, raw) for each in get_args(kind)) if hasattr(branch, "model_fields")]
    for section in sections:
        for tag in ("family", "kind"):
            if tag in section.model_fields and raw.get(tag) in get_args(section.model_fields[tag].annotation):
                return section
    return sections[0]
