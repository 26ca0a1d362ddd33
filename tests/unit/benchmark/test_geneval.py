"""GenEval's rules on detections with known answers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mudit.benchmark.geneval import Box, Detection, Verdict, judge, kept_objects, overlap, relations
from mudit.benchmark.questions import Question, read_question
from mudit.config.benchmarks import PUBLISHED_RULES, GenEvalRules

RULES = PUBLISHED_RULES


def found(name: str, left: float = 0, top: float = 0, score: float = 0.95, side: float = 10) -> Detection:
    return Detection(name, score, (left, top, left + side, top + side))


def question(task: str, *include: dict, exclude: tuple[dict, ...] = ()) -> Question:
    return read_question({"tag": task, "prompt": "a photo", "include": list(include), "exclude": list(exclude)}, "here")


def verdict(
    asked: Question, *detections: Detection, colours: dict[Detection, str] | None = None, rules: GenEvalRules = RULES
) -> Verdict:
    def name_colours(objects, name):
        assert colours is not None, "nobody asked for colours"
        return [colours[each] for each in objects]

    return judge(detections, asked, rules, name_colours)


BENCH = {"class": "bench", "count": 1}
DOG = {"class": "dog", "count": 1}
THREE_CLOCKS = question("counting", {"class": "clock", "count": 3}, exclude=({"class": "clock", "count": 4},))


def test_a_single_object_is_there_above_the_threshold_and_not_at_it() -> None:
    asked = question("single_object", BENCH)
    assert verdict(asked, found("bench", score=0.301)).right
    assert verdict(asked, found("dog"), found("bench", score=0.31)).right, "other objects do not matter"
    assert verdict(asked, found("bench"), found("bench")).right, "nor do further ones of the class, unless excluded"
    assert verdict(asked, found("bench", score=0.3)) == Verdict(False, "0 x bench, 1 wanted")
    assert not verdict(asked).right


def test_two_objects_must_both_be_there() -> None:
    asked = question("two_object", BENCH, DOG)
    assert verdict(asked, found("dog"), found("bench")).right
    assert verdict(asked, found("dog"), found("dog")) == Verdict(False, "0 x bench, 1 wanted")
    assert verdict(asked).reason == "0 x bench, 1 wanted; 0 x dog, 1 wanted"


@pytest.mark.parametrize(("count", "right"), [(0, False), (2, False), (3, True), (4, False), (9, False)])
def test_a_count_is_exact(count: int, right: bool) -> None:
    assert verdict(THREE_CLOCKS, *(found("clock", left=20 * place) for place in range(count))).right is right


def test_counting_has_a_threshold_of_its_own() -> None:
    doubtful = [found("clock", left=20 * place, score=0.9) for place in range(3)]
    assert not verdict(THREE_CLOCKS, *doubtful).right
    sure = [found("clock", left=20 * place, score=0.91) for place in range(3)]
    assert verdict(THREE_CLOCKS, *sure, *doubtful).right, "what is doubtful neither helps nor spoils"


def test_duplicates_count_as_published_and_are_dropped_where_the_rule_is_on() -> None:
    three = [found("clock", left=20 * place) for place in range(3)]
    again = found("clock", left=40.5, score=0.93)
    assert not verdict(THREE_CLOCKS, *three, again).right, "published: boxes may overlap"
    strict = RULES.model_copy(update={"max_overlap": 0.5})
    assert verdict(THREE_CLOCKS, *three, again, rules=strict).right
    kept = kept_objects([again, *three], THREE_CLOCKS, strict)["clock"]
    assert kept == three, "the better box of two stays"


def test_no_more_objects_of_a_class_are_kept_than_the_rules_say() -> None:
    crowd = [found("clock", left=20 * place, score=0.91 + place / 1000) for place in range(20)]
    asked = question("counting", {"class": "clock", "count": 16}, exclude=({"class": "clock", "count": 17},))
    assert verdict(asked, *crowd).right, "the seventeenth is never seen"
    assert [each.score for each in kept_objects(crowd, asked, RULES)["clock"]] == sorted(
        (each.score for each in crowd), reverse=True
    )[:16]


def test_what_is_excluded_may_be_of_another_class() -> None:
    asked = question("single_object", BENCH, exclude=(DOG,))
    assert verdict(asked, found("bench")).right
    assert verdict(asked, found("bench"), found("dog")).reason == "1 x dog, fewer than 1 wanted"


def test_the_most_confident_objects_must_have_the_colour() -> None:
    asked = question("colors", {**BENCH, "color": "blue"})
    best, second = found("bench", score=0.9), found("bench", left=50, score=0.8)
    assert verdict(asked, second, best, colours={best: "blue", second: "red"}).right
    wrong = verdict(asked, second, best, colours={best: "red", second: "blue"})
    assert wrong == Verdict(False, "bench is red, blue wanted"), "a less confident one does not save it"


def test_attributes_belong_to_their_own_object() -> None:
    asked = question("color_attr", {**BENCH, "color": "purple"}, {**DOG, "color": "black"})
    bench, dog = found("bench"), found("dog", left=50)
    assert verdict(asked, bench, dog, colours={bench: "purple", dog: "black"}).right
    swapped = verdict(asked, bench, dog, colours={bench: "black", dog: "purple"})
    assert swapped == Verdict(False, "bench is black, purple wanted; dog is purple, black wanted")


def test_colours_are_not_asked_for_objects_that_are_missing() -> None:
    assert verdict(question("colors", {**BENCH, "color": "blue"})) == Verdict(False, "0 x bench, 1 wanted")


RIGHT_OF = question("position", BENCH, {**DOG, "position": ["right of", 0]})


@pytest.mark.parametrize(
    ("left", "top", "right"),
    [
        (40, 0, True),
        (-40, 0, False),
        (0, 40, False),  # below
        (40, 40, True),  # on a diagonal: right of, and below
        (2, 0, False),  # within the slack: neither side
        (0, 0, False),
        (4, 30, False),  # to the right, but mostly below
    ],
)
def test_a_position_is_judged_by_what_is_left_of_the_offset(left: float, top: float, right: bool) -> None:
    assert verdict(RIGHT_OF, found("bench"), found("dog", left, top)).right is right


def test_a_position_without_its_target_is_wrong_once_for_each() -> None:
    assert verdict(RIGHT_OF, found("dog", 40)).reason == "0 x bench, 1 wanted; dog has nothing to be right of"


def test_a_position_holds_for_every_pair_of_objects() -> None:
    asked = question("position", {"class": "bench", "count": 2}, {**DOG, "position": ["right of", 0]})
    benches = [found("bench", 0), found("bench", 60)]
    assert verdict(asked, *benches, found("dog", 100)).right
    assert not verdict(asked, *benches, found("dog", 30)).right, "right of one bench, left of the other"


def test_the_slack_is_a_tenth_of_both_boxes_sizes() -> None:
    box: Box = (0, 0, 10, 10)
    # 2 pixels of slack: of an offset of 4 half is left, of 4.1 more than half.
    assert relations((4.0, 0, 14.0, 10), box, 0.1) == set()
    assert relations((4.1, 0, 14.1, 10), box, 0.1) == {"right of"}
    assert relations((2.0, 0, 12.0, 10), box, 0.1) == set()


numbers = st.floats(-100, 100, allow_nan=False)
boxes = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), numbers, numbers, st.floats(1, 50), st.floats(1, 50))
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@given(boxes, boxes)
def test_relations_turn_round_with_the_boxes(one: Box, other: Box) -> None:
    seen, back = relations(one, other, 0.1), relations(other, one, 0.1)
    assert {OPPOSITE[relation] for relation in seen} == back
    assert len(seen) <= 2 and not {"left of", "right of"} <= seen and not {"above", "below"} <= seen


@given(boxes, boxes)
def test_overlap_is_symmetric_and_one_with_itself(one: Box, other: Box) -> None:
    assert math.isclose(overlap(one, other), overlap(other, one), abs_tol=1e-12)
    assert 0 <= overlap(one, other) <= 1 + 1e-12 and math.isclose(overlap(one, one), 1)
