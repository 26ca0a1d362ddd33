"""GenEval's rules (Ghosh et al. 2023) as pure functions of detections. Imports no torch.

An image is right if every included group is found and no excluded one is:
- objects of a class count above a confidence, the most confident ones, at most so many;
- a group takes as many of them as it asks for, the most confident first; too few is wrong, more is right unless excluded;
- a colour must be that of each of these; a place must hold for each of them and each of the other group's;
- an excluded group is there if at least as many objects as it names are.

Boxes are (left, top, right, bottom) in pixels, top being small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mudit.benchmark.questions import Group, Position, Question, Relation
from mudit.config.benchmarks import GenEvalRules

Box = tuple[float, float, float, float]
_STILL = 1e-3  # pixels of offset that are none
_MOSTLY = 0.5  # share of an offset's length that its component along an axis must exceed


class Detection(NamedTuple):
    """One object."""

    name: str
    score: float
    box: Box
    mask_HW: NDArray[np.bool_] | None = None  # of the whole image; None: the box


class Verdict(NamedTuple):
    """Whether an image does what a prompt asks, and if not, why."""

    right: bool
    reason: str = ""


# The colour of each of some objects of a class.
NameColours = Callable[[Sequence[Detection], str], list[str]]


def kept_objects(detections: Sequence[Detection], question: Question, rules: GenEvalRules) -> dict[str, list[Detection]]:
    """Class -> objects that count, most confident first. Of equal confidences the one that the detector named first."""
    least = rules.counting_threshold if question.task == "counting" else rules.threshold
    kept: dict[str, list[Detection]] = {}
    for name in question.classes:
        found = sorted((each for each in detections if each.name == name and each.score > least), key=lambda each: -each.score)
        kept[name] = _distinct(found[: rules.max_objects], rules.max_overlap)
    return kept


def judge(detections: Sequence[Detection], question: Question, rules: GenEvalRules, name_colours: NameColours) -> Verdict:
    """The verdict on one image. `name_colours` is asked only where the question names a colour and the objects are there."""
    objects = kept_objects(detections, question, rules)
    reasons: list[str] = []
    matched: list[list[Detection] | None] = []
    for group in question.include:
        found = objects[group.name][: group.number]
        reason = _missing(group, found, matched, rules, name_colours)
        matched.append(found if reason is None else None)
        reasons += [] if reason is None else [reason]
    for group in question.exclude:
        if len(objects[group.name]) >= group.number:
            reasons.append(f"{len(objects[group.name])} x {group.name}, fewer than {group.number} wanted")
    return Verdict(not reasons, "; ".join(reasons))


def _missing(
    group: Group,
    found: list[Detection],
    matched: list[list[Detection] | None],
    rules: GenEvalRules,
    name_colours: NameColours,
) -> str | None:
    """What a group lacks, if anything."""
    if len(found) < group.number:
        return f"{len(found)} x {group.name}, {group.number} wanted"
    if group.colour is not None:
        colours = name_colours(found, group.name)
        if colours.count(group.colour) < group.number:
            return f"{group.name} is {', '.join(colours)}, {group.colour} wanted"
    if group.position is not None:
        return _misplaced(group, group.position, found, matched[group.position.target], rules.position_slack)
    return None


def _misplaced(
    group: Group, position: Position, found: list[Detection], targets: list[Detection] | None, slack: float
) -> str | None:
    if targets is None:
        return f"{group.name} has nothing to be {position.relation}"
    for each in found:
        for target in targets:
            seen = relations(each.box, target.box, slack)
            if position.relation not in seen:
                return f"{group.name} is {' and '.join(sorted(seen)) or 'neither side'} of its target, {position.relation} wanted"
    return None


def relations(box: Box, target: Box, slack: float) -> set[Relation]:
    """Where a box is, seen from a target: none, one or two relations.

    The offset of the centres, per axis, loses `slack` times both boxes' sizes; what is left, over the whole offset's length, must
    exceed a half along an axis. So boxes that mostly overlap have no relation, and two on a diagonal have two.
    """
    offset, left = [], []
    for low, high in ((0, 2), (1, 3)):
        apart = (box[low] + box[high] - target[low] - target[high]) / 2
        sizes = abs(box[high] - box[low]) + abs(target[high] - target[low])
        offset.append(apart)
        left.append(math.copysign(max(abs(apart) - slack * sizes, 0.0), apart))
    if max(map(abs, left)) < _STILL:
        return set()
    right, down = (each / math.hypot(*offset) for each in left)
    seen: set[Relation] = set()
    if abs(right) > _MOSTLY:
        seen.add("right of" if right > 0 else "left of")
    if abs(down) > _MOSTLY:
        seen.add("below" if down > 0 else "above")
    return seen


def overlap(box: Box, other: Box) -> float:
    """Intersection over union of two boxes; a box of one pixel has width 1, as GenEval counts."""
    shared = _area((max(box[0], other[0]), max(box[1], other[1]), min(box[2], other[2]), min(box[3], other[3])))
    union = _area(box) + _area(other) - shared
    return shared / union if union else 0.0


def _area(box: Box) -> float:
    return max(box[2] - box[0] + 1, 0.0) * max(box[3] - box[1] + 1, 0.0)


def _distinct(found: list[Detection], most: float) -> list[Detection]:
    """Without those that overlap a better one; all of them where the rule is off."""
    if most == 1:
        return found
    kept: list[Detection] = []
    for each in found:
        if all(overlap(each.box, better.box) < most for better in kept):
            kept.append(each)
    return kept
