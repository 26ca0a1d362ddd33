"""Public prompt sets as lists of items: MS-COCO's captions, MJHQ-30K's metadata, GenEval's questions.

Prompts come from the metadata, never from file names: a prompt with a slash, a very long one, and two equal ones all stay what they
are. An image whose caption is null or blank has none, and is not drawn; what is no text is an error. Which images are drawn, and
which caption of each, depends on the seed and on their ids only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mudit import random
from mudit.benchmark.questions import Question, encodable, read_question
from mudit.config.benchmarks import GENEVAL_PROMPTS, CocoPrompts, FidClipSection, GenEvalSection, MJHQPrompts
from mudit.data.format import Identity
from mudit.errors import DataError
from mudit.files import sha256_file


class Item(NamedTuple):
    """One prompt."""

    id: str  # what the set calls it
    prompt: str
    group: str  # MJHQ: its category; GenEval: its task; COCO: empty
    image: str | None  # of the reference, relative to the folder of images
    question: Question | None  # GenEval's

    def to_json(self) -> dict[str, Any]:
        """For the artefact."""
        question = None if self.question is None else self.question.to_json()
        return {"id": self.id, "prompt": self.prompt, "group": self.group, "image": self.image, "question": question}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Item:
        """Inverse of `to_json`."""
        question = None if raw["question"] is None else read_question(raw["question"], raw["id"])
        return cls(raw["id"], raw["prompt"], raw["group"], raw["image"], question)


class PromptSet(NamedTuple):
    """All prompts of a benchmark, and the file that they are from."""

    items: list[Item]
    identity: Identity


def read_prompts(section: FidClipSection | GenEvalSection, where: str) -> PromptSet:
    """The prompts that a section asks for, in the order in which images are numbered.

    where: the section's name, for messages. Raises DataError on a file that is missing, damaged or too short.
    """
    if isinstance(section, GenEvalSection):
        return _geneval(section, f"{where}.prompts")
    if isinstance(section.prompts, CocoPrompts):
        return _coco(section.prompts, section.images, f"{where}.prompts.captions")
    return _mjhq(section.prompts, section.images, f"{where}.prompts.metadata")


def _coco(section: CocoPrompts, wanted: int, where: str) -> PromptSet:
    """`wanted` images in a random order, one of each image's captions; `file_name` names the reference."""
    path = Path(section.captions)
    raw = _json(path, where)
    try:
        files = {_number(image["id"]): _name(image["file_name"], f"file_name of image {image['id']}") for image in raw["images"]}
        captions: dict[int, list[tuple[int, str]]] = {}
        for entry in raw["annotations"]:
            number = _number(entry["image_id"])
            text = " ".join(_prompt(entry["caption"], f"caption of image {number}").split())  # some end in a newline
            if text:
                captions.setdefault(number, []).append((_number(entry["id"]), text))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where} {path}: not captions of MS-COCO ({_shown(error)}); take captions_val2014.json") from error
    ids = sorted(files.keys() & captions.keys())
    items = []
    for place in _drawn(len(ids), wanted, section.draw_seed, "coco-images", where, path):
        image = ids[place]
        texts = sorted(captions[image])
        pick = int(random.integers(section.draw_seed, "coco-caption", 0, torch.tensor([image]), len(texts)))
        annotation, text = texts[pick]
        items.append(Item(f"{image}/{annotation}", text, "", files[image], None))
    return PromptSet(items, {"name": "coco", "sha256": sha256_file(path), "of": len(ids), "draw_seed": section.draw_seed})


def _mjhq(section: MJHQPrompts, wanted: int, where: str) -> PromptSet:
    path = Path(section.metadata)
    raw = _json(path, where)
    try:
        entries = [
            (name, _name(raw[name]["category"], f"category of {name}"), _prompt(raw[name]["prompt"], f"prompt of {name}").strip())
            for name in sorted(raw)
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where} {path}: not the metadata of MJHQ-30K ({_shown(error)}); take its meta_data.json") from error
    entries = [entry for entry in entries if entry[2]]
    drawn = _drawn(len(entries), wanted, section.draw_seed, "mjhq-images", where, path)
    items = [Item(name, prompt, category, f"{category}/{name}.jpg", None) for name, category, prompt in (entries[k] for k in drawn)]
    return PromptSet(items, {"name": "mjhq", "sha256": sha256_file(path), "of": len(entries), "draw_seed": section.draw_seed})


def _geneval(section: GenEvalSection, where: str) -> PromptSet:
    path = Path(section.prompts)
    items = []
    for number, line in enumerate(_text(path, where).split("\n"), 1):
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"{where} {path}: line {number} is not JSON ({error}); fetch the file again") from error
        question = read_question(raw, f"{where} {path}: line {number}")
        items.append(Item(f"{number - 1:05d}", question.prompt, question.task, None, question))
    if not items or (section.protocol == "geneval" and len(items) != GENEVAL_PROMPTS):
        raise DataError(
            f"{where} {path}: {len(items)} prompts, the protocol geneval has {GENEVAL_PROMPTS}; take evaluation_metadata.jsonl as "
            "published, or set protocol to any"
        )
    return PromptSet(items, {"name": "geneval", "sha256": sha256_file(path), "of": len(items)})


def _number(value: Any) -> int:
    """An image's or annotation's id. Raises ValueError for what is no count: 1.5 and 1 would become one image."""
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"the id {value!r} is no count")
    return value


def _prompt(value: Any, what: str) -> str:
    """A caption; empty where it is null. Raises ValueError, which names `what`, for a number or a list."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{what}: {str(value)[:40]!r} is no text")
    return encodable(value, what)


def _name(value: Any, what: str) -> str:
    """Part of a reference image's name. Raises ValueError, which names `what`, unless it is text."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{what}: {value!r} is no name")
    return encodable(value, what)


def _shown(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)


def _drawn(there: int, wanted: int, seed: int, stream: str, where: str, path: Path) -> list[int]:
    """Places of the drawn entries in a random order, so that any first part of them is a fair sample."""
    if wanted > there:
        raise DataError(f"{where} {path}: {there} images with a prompt, {wanted} are wanted; lower images, or fetch it again")
    places: list[int] = random.permutation(seed, stream, 0, there)[:wanted].tolist()
    return places


def _json(path: Path, where: str) -> dict[str, Any]:
    try:
        raw = json.loads(_text(path, where))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where} {path}: not JSON, or cut short ({error}); fetch it again") from error
    if not isinstance(raw, dict):
        raise DataError(f"{where} {path}: must hold a JSON object; take another file")
    return raw


def _text(path: Path, where: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{where} {path}: cannot be read ({error}); put the file there or change the path") from error
