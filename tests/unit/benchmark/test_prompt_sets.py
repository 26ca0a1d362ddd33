"""Prompts come from the metadata, drawn by seed and id."""

from __future__ import annotations

import json

import pytest

from mudit.benchmark.prompt_sets import Item, read_prompts
from mudit.benchmark.questions import Group, Position, read_question
from mudit.config.benchmarks import PUBLISHED_RULES, FidClipSection, GenEvalSection
from mudit.errors import DataError


def fid_clip(prompts: dict, images: int) -> FidClipSection:
    fields = {"kind": "fid-clip", "protocol": "any", "images": images, "max_corrupt_share": 0.0, "clip": "models/clip"}
    return FidClipSection.model_validate({**fields, "prompts": prompts})


def coco_section(captions, images: int, seed: int = 0) -> FidClipSection:
    return fid_clip({"kind": "coco", "captions": str(captions), "images": "val2014", "draw_seed": seed}, images)


def mjhq(path, images):
    return fid_clip({"kind": "mjhq", "metadata": str(path), "images": "imgs", "draw_seed": 0}, images)


def geneval(path, protocol: str = "any") -> GenEvalSection:
    return GenEvalSection.model_validate(
        {
            "kind": "geneval",
            "protocol": protocol,
            "prompts": str(path),
            "images_per_prompt": 4,
            "rules": PUBLISHED_RULES.model_dump(),
            "detector": {"path": "models/mask2former", "short_side": 800, "long_side": 1333, "detections": 100},
            "clip": "models/clip",
        }
    )


def test_coco_draws_images_and_one_caption_of_each(coco):
    captions, _ = coco
    items = read_prompts(coco_section(captions, 30), "benchmarks.coco").items
    numbers = [int(item.id.split("/")[0]) for item in items]
    assert sorted(numbers) == list(range(1, 31)), "an image without captions is not drawn"
    assert numbers != sorted(numbers), "in a random order"
    for number, item in zip(numbers, items, strict=True):
        annotation = int(item.id.split("/")[1])
        assert item.prompt == f"a {('red', 'green')[annotation % 10]} apple {number}", (
            "the annotation's own words, without the newline"
        )
        assert item.image == f"COCO_val2014_{number:012d}.jpg"
    assert {item.id[-1] for item in items} == {"0", "1"}, "either caption is drawn"


def test_a_smaller_draw_is_the_first_part_of_a_larger_one_and_another_seed_another_draw(coco):
    captions, _ = coco
    items = read_prompts(coco_section(captions, 30), "here").items
    assert read_prompts(coco_section(captions, 12), "here").items == items[:12]
    assert read_prompts(coco_section(captions, 12, seed=1), "here").items != items[:12]


def test_mjhq_prompts_are_whole_whatever_a_file_name_could_hold(tmp_path):
    long = "a cat/dog: " + "very " * 100 + "long?"
    raw = {
        "b2": {"category": "animals", "prompt": long},
        "a1": {"category": "food", "prompt": "soup"},
        "c3": {"category": "food", "prompt": "soup"},
    }
    (tmp_path / "meta_data.json").write_text(json.dumps(raw))
    items = {item.id: item for item in read_prompts(mjhq(tmp_path / "meta_data.json", 3), "here").items}
    assert items["b2"] == Item("b2", long, "animals", "animals/b2.jpg", None)
    assert items["a1"].prompt == items["c3"].prompt == "soup", "equal prompts stay two"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON, or cut short"),
        ("[]", "must hold a JSON object"),
        ('{"images": []}', "not captions of MS-COCO"),
        ('{"images": [{"id": 1}], "annotations": []}', "not captions of MS-COCO"),
        ('{"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": []}', "0 images with a prompt, 2 are wanted"),
    ],
)
def test_bad_captions_are_one_line(tmp_path, content, message):
    path = tmp_path / "captions.json"
    path.write_text(content)
    with pytest.raises(DataError, match=rf"benchmarks\.coco\.prompts\.captions .*captions\.json: {message}") as caught:
        read_prompts(coco_section(path, 2), "benchmarks.coco")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="cannot be read"):
        read_prompts(coco_section(tmp_path / "nowhere.json", 2), "benchmarks.coco")


LINE = {
    "tag": "position",
    "include": [{"class": "bench", "count": 1}, {"class": "dog", "count": 2, "position": ["left of", 0]}],
    "prompt": "x",
}


def test_an_image_whose_caption_is_null_or_blank_has_none(tmp_path):
    path = tmp_path / "captions.json"
    captions = {1: None, 2: " \n", 3: "soup", 4: "None"}
    annotations = [{"id": 9, "image_id": 3, "caption": None}]
    annotations += [{"id": number, "image_id": number, "caption": text} for number, text in captions.items()]
    path.write_text(
        json.dumps({"images": [{"id": number, "file_name": f"{number}.jpg"} for number in captions], "annotations": annotations})
    )
    found = read_prompts(coco_section(path, 2), "here")
    assert sorted(item[:2] for item in found.items) == [("3/3", "soup"), ("4/4", "None")] and found.identity["of"] == 2
    with pytest.raises(DataError, match="2 images with a prompt, 3 are wanted"):
        read_prompts(coco_section(path, 3), "here")


def test_the_same_holds_of_the_metadata_of_mjhq(tmp_path):
    path = tmp_path / "meta_data.json"
    prompts = {"a1": None, "b2": "", "c3": "soup"}
    path.write_text(json.dumps({name: {"category": "food", "prompt": text} for name, text in prompts.items()}))
    found = read_prompts(mjhq(path, 1), "here")
    assert [item.id for item in found.items] == ["c3"] and found.identity["of"] == 1


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"category": "food", "prompt": 7}, "prompt of b2: '7' is no text"),
        ({"category": "food", "prompt": ["soup"]}, r"prompt of b2: .* is no text"),
        ({"category": None, "prompt": "soup"}, "category of b2: None is no name"),
        ({"category": "food"}, "'prompt' is missing"),
        ({"category": "food", "prompt": "half \ud83d"}, r"prompt of b2: 'half .ud83d' is no text"),
        ("soup", "string indices must be integers"),
    ],
)
def test_metadata_that_is_no_text_names_its_image(tmp_path, entry, message):
    path = tmp_path / "meta_data.json"
    path.write_text(json.dumps({"a1": {"category": "food", "prompt": "bread"}, "b2": entry}))
    with pytest.raises(DataError, match=rf"metadata .*: not the metadata of MJHQ-30K \({message}") as caught:
        read_prompts(mjhq(path, 1), "here")
    assert "\n" not in str(caught.value)


IMAGE, ANNOTATION = {"id": 1, "file_name": "1.jpg"}, {"id": 10, "image_id": 1, "caption": "soup"}


@pytest.mark.parametrize(
    ("image", "annotation", "message"),
    [
        (IMAGE, ANNOTATION | {"caption": 7}, "caption of image 1: '7' is no text"),
        (IMAGE, ANNOTATION | {"image_id": 1.5}, "the id 1.5 is no count"),
        (IMAGE, ANNOTATION | {"id": None}, "the id None is no count"),
        (IMAGE, ANNOTATION | {"id": 1 << 63}, "the id 9223372036854775808 is no count"),
        (IMAGE | {"file_name": None}, ANNOTATION, "file_name of image 1: None is no name"),
        (IMAGE | {"id": "one"}, ANNOTATION, "the id 'one' is no count"),
    ],
)
def test_captions_that_are_no_text_name_their_image(tmp_path, image, annotation, message):
    path = tmp_path / "captions.json"
    path.write_text(json.dumps({"images": [image], "annotations": [annotation]}))
    with pytest.raises(DataError, match=rf"not captions of MS-COCO \({message}\)"):
        read_prompts(coco_section(path, 1), "here")


def test_questions_are_read_and_written_as_published():
    question = read_question(LINE, "line 1")
    assert question.include == (Group("bench", 1), Group("dog", 2, None, Position("left of", 0)))
    assert question.to_json() == LINE and question.classes == {"bench", "dog"}
    counting = {
        "tag": "counting",
        "include": [{"class": "dog", "count": 2}],
        "exclude": [{"class": "dog", "count": 3}],
        "prompt": "x",
    }
    assert read_question(counting, "line 1").to_json() == counting


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tag": "colour"}, "no task 'colour'"),
        ({"prompt": " "}, "no prompt"),
        ({"prompt": "half \ud83d"}, "its prompt: 'half .ud83d' is no text"),
        ({"include": []}, "nothing to look for"),
        ({"include": [{"class": "dog", "count": 0}]}, "count 0"),
        ({"include": [{"class": "dog", "count": True}]}, "count True"),
        ({"include": [{"class": "dog"}]}, "'count'"),
        ({"include": [{"class": "dog", "count": 1, "colour": "red"}]}, "unknown key 'colour'"),
        ({"include": [{"class": "dog", "count": 1, "color": "mauve"}]}, "no colour 'mauve'"),
        ({"include": [{"class": "dog", "count": 1, "position": ["left of", 0]}]}, "position"),
        ({"include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["behind", 0]}]}, "position"),
        ({"include": None}, "nothing to look for"),
    ],
)
def test_a_question_that_the_rules_cannot_judge_is_refused(change, message):
    with pytest.raises(DataError, match=f"line 7: not a question of GenEval .*{message}"):
        read_question({**LINE, **change}, "line 7")


def test_the_protocol_has_553_prompts(tmp_path):
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text(json.dumps(LINE) + "\n\n" + json.dumps(LINE) + "\n")
    assert [item.group for item in read_prompts(geneval(path), "here").items] == ["position", "position"]
    with pytest.raises(DataError, match="2 prompts, the protocol geneval has 553"):
        read_prompts(geneval(path, "geneval"), "here")
    path.write_text(json.dumps(LINE) + "\n{")
    with pytest.raises(DataError, match="line 2 is not JSON"):
        read_prompts(geneval(path), "here")


def test_items_survive_their_file():
    item = Item("00001", "a photo", "position", None, read_question(LINE, "x"))
    assert Item.from_json(json.loads(json.dumps(item.to_json()))) == item
