"""What pydantic says of a wrong value, in the words of this project: the key's dotted path, its value, what is allowed."""

from __future__ import annotations

import json

from pydantic import ValidationError
from pydantic_core import ErrorDetails

_PHRASES = {
    "Input should be ": "",
    "List should have": "a list of",
    "Dictionary should have": "a mapping of",
    "String should have": "text of",
    "String should match": "text that matches",
    " after validation": "",
}
_LONGEST = 60  # characters of a value that are shown


def first_problem(error: ValidationError, *, tagged: bool = False) -> str:
    """`key: reason` of the first wrong key, on one line.

    tagged: locations begin with the tag of a union's branch, which is no key.
    """
    by_key: dict[tuple[str | int, ...], list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        by_key.setdefault(detail["loc"][1 if tagged else 0 :], []).append(detail)
    key, details = worst_first(by_key)[0]
    dotted = ".".join(map(str, key))
    return f"{dotted + ': ' if dotted else ''}{reason(details)}"


def worst_first(by_key: dict[tuple[str | int, ...], list[ErrorDetails]]) -> list[tuple[tuple[str | int, ...], list[ErrorDetails]]]:
    """A mistyped key is reported twice, as missing and as unknown: the unknown one says more."""
    return sorted(by_key.items(), key=lambda item: item[1][0]["type"] != "extra_forbidden")


def reason(details: list[ErrorDetails]) -> str:
    """What is wrong with one key. Several details are those of the branches that it may take."""
    first = details[0]
    if first["type"] == "extra_forbidden":
        return "unknown key"
    if first["type"] == "missing":
        return "missing"
    if first["type"] in ("value_error", "assertion_error"):
        return str(first["ctx"]["error"])  # pydantic's own message puts the kind of error before it
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        context = first["ctx"]
        name = str(context["discriminator"]).strip("'")
        given = f"is {context['tag']!r}" if "tag" in context else "is missing"
        allowed = str(context.get("expected_tags", "")).replace(", ", " or ")
        return f"{name} {given}; it must be {allowed}" if allowed else f"{name} {given}"
    shown = json.dumps(first["input"], default=str)
    shown = shown if len(shown) <= _LONGEST else shown[: _LONGEST - 3] + "..."
    return f"{shown} must be {' or '.join(dict.fromkeys(_allowed(detail['msg']) for detail in details))}"


def _allowed(message: str) -> str:
    for theirs, ours in _PHRASES.items():
        message = message.replace(theirs, ours)
    return message
