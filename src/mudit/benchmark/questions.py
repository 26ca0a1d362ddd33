"""GenEval's questions: what an image of a prompt must show, and must not (the format of its `evaluation_metadata.jsonl`).

A question includes groups of objects, all of which must be found, and excludes groups, none of which may be. A group is a class and
a count, perhaps with a colour, perhaps with a place relative to an earlier group.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

from mudit.errors import DataError

Task = Literal["single_object", "two_object", "counting", "colors", "position", "color_attr"]
TASKS: tuple[Task, ...] = get_args(Task)
Relation = Literal["left of", "right of", "above", "below"]
RELATIONS: tuple[Relation, ...] = get_args(Relation)
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")

_KEYS = {"class", "count", "color", "position"}


class Position(NamedTuple):
    """Where a group is, seen from another one."""

    relation: Relation
    target: int  # place of the other group among those included before


class Group(NamedTuple):
    """So many objects of a class."""

    name: str
    number: int
    colour: str | None = None
    position: Position | None = None


class Question(NamedTuple):
    """What to look for in an image of one prompt."""

    task: Task
    prompt: str
    include: tuple[Group, ...]
    exclude: tuple[Group, ...] = ()

    @property
    def classes(self) -> set[str]:
        """Every class that it names."""
        return {group.name for group in (*self.include, *self.exclude)}

    def to_json(self) -> dict[str, Any]:
        """In the published format."""
        raw: dict[str, Any] = {"tag": self.task, "prompt": self.prompt, "include": [_to_json(group) for group in self.include]}
        return raw | ({"exclude": [_to_json(group) for group in self.exclude]} if self.exclude else {})


def read_question(raw: Any, where: str) -> Question:
    """A line of the file. Raises DataError, which names `where`, on anything that the rules could not judge."""
    try:
        task, prompt, include = raw["tag"], raw["prompt"], raw["include"]
        if task not in TASKS:
            raise ValueError(f"no task {task!r}")
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError("no prompt")
        encodable(prompt, "its prompt")
        if not include:
            raise ValueError("nothing to look for")
        return Question(
            task,
            prompt,
            tuple(_group(each, earlier) for earlier, each in enumerate(include)),
            tuple(_group(each, 0) for each in raw.get("exclude", ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{where}: not a question of GenEval ({error}); fetch the file again") from error


def encodable(text: str, what: str) -> str:
    """`text`, if a file can hold it. Raises ValueError for half of a character, which JSON can spell and UTF-8 cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{what}: {text[:40]!r} is no text") from error
    return text


def _group(raw: dict[str, Any], earlier: int) -> Group:
    """`earlier`: groups before it, which its position may name."""
    unknown = sorted(raw.keys() - _KEYS)
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}")
    name, count, colour, position = raw["class"], raw["count"], raw.get("color"), raw.get("position")
    if not isinstance(name, str) or type(count) is not int or count < 1:
        raise ValueError(f"class {name!r}, count {count!r}")
    if colour is not None and colour not in COLOURS:
        raise ValueError(f"no colour {colour!r}")
    if position is not None:
        relation, target = position
        if relation not in RELATIONS or target not in range(earlier):
            raise ValueError(f"position {position!r}")
        position = Position(relation, target)
    return Group(name, count, colour, position)


def _to_json(group: Group) -> dict[str, Any]:
    raw: dict[str, Any] = {"class": group.name, "count": group.number}
    if group.colour is not None:
        raw["color"] = group.colour
    return raw if group.position is None else raw | {"position": list(group.position)}
