"""Documents generated from the typed sections: the JSON schema that Snakemake validates, and the reference of every key.

`mudit config fix` writes them; `mudit config check` and a test fail when they drift.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.json_schema import SkipJsonSchema

from mudit.config.published_page import PUBLISHED_FILE, published_page
from mudit.config.schema import Config

SCHEMA_FILE = "workflow/schemas/config.schema.json"
REFERENCE_FILE = "docs/configuration.md"

_INTRODUCTION = """# Configuration

Every key of `config.yaml`. All of them must be there: nothing has a default in code, and unknown keys are errors; only whole parts
of an experiment (`sweep`, `search`, `train` ...) may be left out, and their stages with them. Learning rates are base-2 logarithms.
This page is generated from `src/mudit/config` by `mudit config fix`.
"""


def documents() -> dict[str, str]:
    """Path relative to the repository -> content."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Config.model_json_schema()
    for entry in schema["$defs"]["Experiment"]["properties"].values():
        entry.pop("default", None)  # a part that is left out is absent: validators must not fill it in
    return {
        SCHEMA_FILE: json.dumps(schema, indent=1, ensure_ascii=False) + "\n",
        REFERENCE_FILE: _reference(),
        PUBLISHED_FILE: published_page(),
    }


def drifted(repository: Path) -> list[str]:
    """The generated files whose content is not what the sections say."""
    return [
        name for name, text in documents().items() if not (repository / name).is_file() or (repository / name).read_text() != text
    ]


def write(repository: Path) -> list[str]:
    """Write the generated files that drifted, and return their names."""
    names = drifted(repository)
    for name in names:
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(documents()[name])
    return names


def _reference() -> str:
    parts = [_INTRODUCTION]
    for path, section in _sections("", Config):
        rows = [
            f"| `{name}` | {_kind(info.annotation, info.metadata)} | {_sentence(info.description)} |"
            for name, info in section.model_fields.items()
            if not any(type(each) is SkipJsonSchema for each in info.metadata)  # no keys of the file
        ]
        heading = path or "The file"
        parts.append(
            f"## {heading}\n\n{section.__doc__}\n\n| key | value | meaning |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"
        )
    return "\n".join(parts)


def _sections(
    path: str, section: type[BaseModel], tag: str = "", seen: set[type[BaseModel]] | None = None
) -> Iterator[tuple[str, type[BaseModel]]]:
    """Every section once, with its dotted path where it first appears, depth first; `NAME` stands for the keys of a mapping."""
    seen = set() if seen is None else seen
    if section in seen:
        return
    seen.add(section)
    yield f"`{path}`{tag}" if path else "", section
    for name, info in section.model_fields.items():
        below = f"{path}.{name}" if path else name
        branches = _branches(info.annotation)
        for mapped, inner in branches:
            choice = next((key for key in ("family", "kind") if key in inner.model_fields), None) if len(branches) > 1 else None
            tag = f" with {choice} {_kind(inner.model_fields[choice].annotation)}" if choice else ""
            yield from _sections(f"{below}.NAME" if mapped else below, inner, tag, seen)


def _branches(kind: Any) -> list[tuple[bool, type[BaseModel]]]:
    """The sections that a type may hold, each with whether it is a mapping's value."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [(False, kind)]
    if get_origin(kind) is dict:
        return [(True, inner) for _, inner in _branches(get_args(kind)[1])]
    if get_origin(kind) is Annotated:
        return _branches(get_args(kind)[0])
    return [branch for argument in get_args(kind) for branch in _branches(argument)]


def _kind(kind: Any, limits: Any = ()) -> str:
    """A type in words: `integer > 0`, `list of numbers`, `mup`, `sp` ..."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _kind(arguments[0], [limit for info in arguments[1:] for limit in getattr(info, "metadata", ())])
    if origin is Literal:
        return " or ".join(f"`{argument}`" for argument in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_kind(argument) for argument in arguments))
    if origin is list:
        return f"list of {_kind(arguments[0])}{_limits(limits)}"
    if origin is tuple:
        return f"{len(arguments)} x {_kind(arguments[0])}"
    if origin is dict:
        return f"mapping, NAME to {_kind(arguments[1])}"
    if kind is type(None):
        return "null"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "section"
    if kind is Any:
        return "anything"
    return {int: "integer", float: "number", str: "text", bool: "true or false"}[kind] + _limits(limits)


def _limits(limits: Any) -> str:
    """`> 0`, `from -40 to 10`, `of at least 2`: bounds as pydantic's metadata give them."""
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    bounds = [f"{sign} {getattr(limit, name):g}" for limit in limits for name, sign in signs.items() if hasattr(limit, name)]
    bounds += [f"(at least {limit.min_length})" for limit in limits if getattr(limit, "min_length", None)]
    return (" " + ", ".join(bounds)) if bounds else ""


def _sentence(text: str | None) -> str:
    assert text, "every field of the configuration has a description"
    return text.replace("|", "\\|")
