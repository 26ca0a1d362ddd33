"""CLIP through one interface, held against `transformers`' own preparation and features."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from mudit.benchmark.clip import ClipScorer, picture, prepared
from mudit.benchmark.colours import BACKGROUND, ColourNamer, alone
from mudit.benchmark.geneval import Detection
from mudit.benchmark.questions import COLOURS


@pytest.fixture(scope="module")
def clip(clip_folder):
    return ClipScorer(clip_folder, "benchmarks.coco.clip")


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(224, 224), (256, 256), (301, 117), (64, 200), (31, 33), (1, 1)])
def test_images_are_prepared_as_clips_own_processor_does(size):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    image = noise(*size)
    theirs = CLIPImageProcessorPil(size={"shortest_edge": 224}, crop_size=224)(image, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(prepared(image, 224), theirs, atol=1e-5, rtol=1e-5)


def test_embeddings_are_those_of_transformers(clip, clip_folder):
    from transformers import AutoTokenizer, CLIPModel

    model, tokenizer = CLIPModel.from_pretrained(clip_folder).eval(), AutoTokenizer.from_pretrained(clip_folder)
    images = torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    texts = ["a red apple", "a photo of a dog", "apple"]
    read = tokenizer(texts, padding=True, return_tensors="pt")
    pixels = torch.stack([prepared(picture(image), 32) for image in images])
    with torch.no_grad():
        output = model(pixel_values=pixels, input_ids=read["input_ids"], attention_mask=read["attention_mask"])
    seen = clip.see([images[:2], images[2:]])
    assert seen.classes_N is None
    torch.testing.assert_close(seen.embeddings_NS, output.image_embeds, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(clip.read_texts(texts), output.text_embeds, atol=1e-5, rtol=1e-4)
    split = SimpleNamespace(captions=lambda indices: [texts[place] for place in indices.tolist()])
    torch.testing.assert_close(clip.read(split, torch.tensor([2, 0])), output.text_embeds[[2, 0]], atol=1e-5, rtol=1e-4)
    scale = model.logit_scale.exp().item()
    ours = 100 * (seen.embeddings_NS @ clip.read_texts(texts).T)
    torch.testing.assert_close(ours, 100 / scale * output.logits_per_image, atol=1e-3, rtol=1e-4)


def test_long_texts_are_cut_and_grey_images_read(clip):
    assert clip.read_texts(["apple " * 50]).shape == (1, 6)
    grey = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    torch.testing.assert_close(clip.see([grey]).embeddings_NS, clip.see([grey.expand(-1, 3, -1, -1)]).embeddings_NS)


def test_an_object_alone_is_cut_to_its_box_on_grey():
    image, mask = noise(20, 10), np.zeros((10, 20), dtype=bool)
    mask[2:5, 3:7] = True
    mask[2, 3] = False
    crop = np.asarray(alone(image, Detection("dog", 0.9, (3, 2, 7, 5), mask)))
    assert crop.shape == (3, 4, 3)
    assert tuple(crop[0, 0]) == BACKGROUND, "what is in the box and not in the mask"
    np.testing.assert_array_equal(crop[1:, 1:], np.asarray(image)[3:5, 4:7])
    np.testing.assert_array_equal(np.asarray(alone(image, Detection("dog", 0.9, (3, 2, 7, 5)))), np.asarray(image)[2:5, 3:7])
    assert alone(image, Detection("dog", 0.9, (20.0, 10.0, 20.0, 10.0))).size == (1, 1), "never empty"


def test_a_colour_is_the_one_whose_sentences_lie_nearest():
    """With a CLIP that puts an image at its mean colour and a sentence at the colour that it names."""
    palette = F.normalize(torch.tensor(np.random.default_rng(0).normal(size=(len(COLOURS), 3))).float(), dim=-1)

    class Plain:
        def see_pictures(self, pictures):
            return torch.stack([palette[each.getpixel((0, 0))[0]] for each in pictures])

        def read_texts(self, texts):
            assert (
                texts[0] == "a photo of a red dog"
                and texts[1] == "a photo of a red-colored dog"
                and texts[2] == "a photo of a red object"
            )
            return torch.stack(
                [palette[next(place for place, colour in enumerate(COLOURS) if f" {colour}" in text)] for text in texts]
            )

    namer = ColourNamer(Plain())
    image = Image.new("RGB", (8, 4))
    image.paste((3, 0, 0), (0, 0, 4, 4))  # green, by number
    image.paste((9, 0, 0), (4, 0, 8, 4))  # white
    boxes = [Detection("dog", 0.9, (0, 0, 4, 4)), Detection("dog", 0.8, (4, 0, 8, 4))]
    assert namer.of(image, boxes, "dog") == ["green", "white"]
