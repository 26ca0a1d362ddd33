"""Both judges through one interface, on pictures whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from mudit.benchmark.geneval import Detection, Verdict
from mudit.benchmark.judge import CompositionJudge, GenEvalJudge, Judge
from mudit.benchmark.questions import COLOURS, read_question
from mudit.benchmark.scores import mean_score, task_scores
from mudit.config.benchmarks import PUBLISHED_RULES
from mudit.errors import DataError
from mudit.evaluate.composition import Composition
from mudit.evaluate.retrieval import caption_ids, draw_candidates
from mudit.evaluate.scorer import Seen

SIDE = 64
_SIDES = {"box": 12, "tile": 20}  # a class is told by its size
RGB = {name: ImageColor.getrgb(name) for name in COLOURS}


def drawn(*objects: tuple[str, str, int, int]) -> torch.Tensor:
    """uint8 [3, SIDE, SIDE]: objects (class, colour, left, top) on grey."""
    image = Image.new("RGB", (SIDE, SIDE), "#777777")
    for name, colour, left, top in objects:
        image.paste(RGB[colour], (left, top, left + _SIDES[name], top + _SIDES[name]))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


class TrueDetector:
    """Finds one-coloured squares, and knows their class by their size."""

    identity = {"name": "truth"}  # noqa: RUF012
    classes = frozenset(_SIDES)

    def detect(self, images_BCHW: torch.Tensor) -> list[list[Detection]]:
        return [self._squares(image.permute(1, 2, 0).numpy()) for image in images_BCHW]

    def _squares(self, pixels: np.ndarray) -> list[Detection]:
        from scipy.ndimage import find_objects, label

        found = []
        for colour in RGB.values():
            numbered, _ = label((pixels == colour).all(axis=-1))
            for number, (rows, columns) in enumerate(find_objects(numbered), 1):
                name = next(name for name, side in _SIDES.items() if side == rows.stop - rows.start)
                box = (float(columns.start), float(rows.start), float(columns.stop), float(rows.stop))
                found.append(Detection(name, 0.99, box, numbered == number))
        return found


class TrueColours:
    """The colour in the middle of an object."""

    def of(self, image: Image.Image, objects: Sequence[Detection], name: str) -> list[str]:
        pixels = [image.getpixel((int(each.box[0] + 2), int(each.box[1] + 2))) for each in objects]
        return [next(colour for colour, rgb in RGB.items() if rgb == pixel) for pixel in pixels]


def ask(task: str, *include: dict, exclude: Sequence[dict] = ()):
    return read_question({"tag": task, "prompt": "x", "include": list(include), "exclude": list(exclude)}, "x")


BOX, TILE = {"class": "box", "count": 1}, {"class": "tile", "count": 1}
# Each question with a picture that answers it and one that does not.
STUDY = [
    (ask("single_object", BOX), drawn(("box", "red", 5, 5)), drawn(("tile", "red", 5, 5))),
    (ask("two_object", BOX, TILE), drawn(("box", "red", 5, 5), ("tile", "blue", 30, 30)), drawn(("box", "red", 5, 5))),
    (
        ask("counting", {"class": "box", "count": 2}, exclude=[{"class": "box", "count": 3}]),
        drawn(("box", "red", 2, 2), ("box", "red", 30, 2)),
        drawn(("box", "red", 2, 2), ("box", "red", 30, 2), ("box", "blue", 30, 40)),
    ),
    (
        ask("colors", {**BOX, "color": "green"}),
        drawn(("box", "green", 5, 5)),
        drawn(("box", "pink", 5, 5), ("tile", "green", 40, 40)),
    ),
    (
        ask("position", BOX, {**TILE, "position": ["below", 0]}),
        drawn(("box", "red", 20, 2), ("tile", "red", 20, 40)),
        drawn(("box", "red", 20, 45), ("tile", "red", 20, 5)),
    ),
    (
        ask("color_attr", {**BOX, "color": "black"}, {**TILE, "color": "white"}),
        drawn(("box", "black", 2, 2), ("tile", "white", 30, 30)),
        drawn(("box", "white", 2, 2), ("tile", "black", 30, 30)),
    ),
]


def geneval_judge(questions) -> Judge:
    return GenEvalJudge(questions, PUBLISHED_RULES, TrueDetector(), TrueColours(), {"name": "truth"})


def test_with_perfect_eyes_every_task_tells_right_from_wrong():
    """The ground truth of GenEval's rules: pictures as asked score 1 in every task, their counterparts 0."""
    judge = geneval_judge([question for question, _, _ in STUDY])
    prompts = list(range(len(STUDY)))
    for which, expected in ((1, 1.0), (2, 0.0)):
        verdicts = judge.judge(torch.stack([each[which] for each in STUDY]), torch.tensor(prompts))
        rights = [{task: verdict.right for task, verdict in each.items()} for each in verdicts]
        assert {task: record["value"] for task, record in task_scores(rights, prompts, 0).items()} == dict.fromkeys(
            judge.tasks, expected
        )
        assert mean_score(rights, prompts, 0)["value"] == expected
    assert verdicts[5]["color_attr"].reason == "box is white, black wanted; tile is black, white wanted"


def test_questions_are_looked_up_by_prompt_not_by_place():
    judge = geneval_judge([question for question, _, _ in STUDY])
    images = torch.stack([STUDY[3][1], STUDY[0][2]])
    assert judge.judge(images, torch.tensor([3, 0])) == [
        {"colors": Verdict(True)},
        {"single_object": Verdict(False, "0 x box, 1 wanted")},
    ]


def test_a_class_that_the_detector_does_not_know_is_refused_before_any_image():
    with pytest.raises(DataError, match="the detector does not know 'dog', which prompts ask for"):
        geneval_judge([ask("single_object", {"class": "dog", "count": 1})])


class Exact:
    """A scorer whose images are their captions' vectors, and whose classes are right but for the first image."""

    identity = {"name": "exact"}  # noqa: RUF012
    device = "cpu"

    def __init__(self, captions_VS: torch.Tensor, labels_V: torch.Tensor) -> None:
        self._captions_VS, self._labels_V = captions_VS, labels_V

    def see(self, batches) -> Seen:
        places_N = torch.cat([batch[:, 0, 0, 0] for batch in batches]).long()
        return Seen(self._captions_VS[places_N], torch.where(places_N == 0, 1 - self._labels_V[places_N], self._labels_V[places_N]))

    def read(self, split, indices_N):
        raise AssertionError("captions are read beforehand")


def test_the_study_of_style_and_subject_goes_through_the_same_interface():
    labels_V, captions_VS = torch.tensor([0, 1] * 10), torch.nn.functional.normalize(torch.randn(20, 8), dim=-1)
    ids_V = caption_ids([str(place) for place in range(20)])
    composition = Composition(ids_V, labels_V, draw_candidates(ids_V, labels_V, ["a", "b"], 5, seed=0), 2)
    judge: Judge = CompositionJudge(Exact(captions_VS, labels_V), composition, captions_VS)
    asked = torch.arange(20)
    images = asked.to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 3, 2, 2).clone()
    images[5] = 7  # shows another caption of the same class
    verdicts = judge.judge(images, asked)
    rights = [{task: verdict.right for task, verdict in each.items()} for each in verdicts]
    found = {task: record["value"] for task, record in task_scores(rights, asked.tolist(), 0).items()}
    assert found == pytest.approx({"style_accuracy": 0.95, "subject_accuracy": 0.95, "composition_accuracy": 0.9})
    seen = Exact(captions_VS, labels_V).see([images])
    assert found == {metric: share["value"] for metric, share in composition.shares(seen, asked, captions_VS).items()}
    assert verdicts[5]["subject_accuracy"].reason == "subject_accuracy fails" and set(judge.tasks) == set(found)
