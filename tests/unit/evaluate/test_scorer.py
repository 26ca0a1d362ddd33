"""The scorer learns what it is shown, reads captions of subjects that it has not seen, and is a pure function of its inputs."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from mudit.data.reader import LatentStore
from mudit.data.tensors import save_tensors
from mudit.errors import ConfigError, DataError
from mudit.evaluate import scorer_stage
from mudit.evaluate.extractor_stage import real_images
from mudit.evaluate.scorer import HELD_OUT_FILE, RESULT_FILE, WEIGHTS_FILE, Heads, HeldOut, load_result, open_scorer, pooled_text
from mudit.evaluate.scorer_training import fit_heads

from .text_world import HELD_OUT, SCORER

TINY = SCORER.model_copy(update={"dim": 8, "steps": 60, "batch_size": 16, "lr": 1e-2})


def pairs(count: int, num_classes: int = 3, seed: int = 0):
    """Image and text features that are two linear images of the same hidden facts, and classes that the images show."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.Generator().manual_seed(99)
    facts = torch.randn(count, 4, generator=generator)
    labels = torch.arange(count) % num_classes
    images = facts @ torch.randn(4, 20, generator=maps) + 3 * torch.randn(num_classes, 20, generator=maps)[labels]
    return 5 + 2 * images, facts @ torch.randn(4, 7, generator=maps), labels


@pytest.mark.parametrize("num_classes", [1, 2, 3])
def test_heads_match_pairs_that_they_have_not_seen(num_classes):
    heads, loss = fit_heads(*pairs(96, num_classes), num_classes, TINY)
    images, texts, labels = pairs(40, num_classes, seed=1)
    seen = heads.see(images)
    torch.testing.assert_close(seen.embeddings_NS.norm(dim=1), torch.ones(40))
    assert ((seen.embeddings_NS @ heads.text(texts).T).argmax(dim=1) == torch.arange(40)).float().mean() > 0.6
    assert loss < 1
    if num_classes == 1:
        assert seen.classes_N is None
    else:
        assert seen.classes_N is not None
        assert torch.equal(seen.classes_N, labels)


def test_probe_is_scikit_learns():
    from sklearn.linear_model import LogisticRegression

    images, texts, labels = pairs(60, 2)
    labels[:12] = 1 - labels[:12]  # so that it cannot be right everywhere
    heads, _ = fit_heads(images, texts, labels, 2, TINY)
    standardised = ((images - images.mean(0)) / images.std(0)).double().numpy()
    theirs = LogisticRegression(C=0.01, max_iter=2000).fit(standardised, labels.numpy()).predict(standardised)
    assert heads.see(images).classes_N.tolist() == theirs.tolist()
    assert (torch.from_numpy(theirs) != labels).sum() > 0


def test_class_without_training_images_is_never_chosen():
    images, texts, labels = pairs(60, 2)
    for known in (labels * 2, torch.full_like(labels, 1)):
        heads, _ = fit_heads(images, texts, known, 4, TINY)
        assert set(heads.see(images).classes_N.tolist()) == set(known.tolist())


def test_features_that_hardly_change_do_no_harm():
    images, texts, labels = pairs(60)
    images[:, 3] = 7.0
    images[:, 4] = torch.where(torch.arange(60) == 5, 1e-4, 0.0)
    heads, _ = fit_heads(images, texts, labels, 3, TINY)
    assert heads.see(images).embeddings_NS.isfinite().all()
    assert heads.image.standardised(torch.ones(1, 20))[0, 4] < 100  # and not 1 / 1e-5
    constant, _ = fit_heads(torch.ones(60, 20), texts, labels, 3, TINY)
    assert constant.see(images).embeddings_NS.isfinite().all()


def test_training_is_a_pure_function():
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    first = fit_heads(*pairs(64), 3, TINY)[0].state_dict()
    assert torch.equal(torch.random.get_rng_state(), state) and torch.get_num_threads() == threads
    torch.manual_seed(99)
    again = fit_heads(*pairs(64), 3, TINY)[0].state_dict()
    other = fit_heads(*pairs(64), 3, TINY.model_copy(update={"seed": 1}))[0].state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["image.linear.weight"], other["image.linear.weight"])
    torch.random.set_rng_state(state)


def test_contrastive_loss_of_perfect_and_useless_embeddings():
    heads = Heads(4, 4, 4, 1)
    with torch.no_grad():
        heads.image.linear.weight.copy_(torch.eye(4))
        heads.text.linear.weight.copy_(torch.eye(4))
        heads.log_scale.fill_(50.0)  # clamped to a scale of 100
        assert heads.contrast(torch.eye(4), torch.eye(4)) < 1e-6
        assert heads.contrast(torch.ones(4, 4), torch.eye(4)) == pytest.approx(torch.tensor(4.0).log().item(), rel=1e-5)


def test_stage_beats_chance_on_subjects_that_it_has_not_seen(scorer):
    result = load_result(scorer)
    assert (result["held_out_by"], result["images"]) == ("subject", {"train": 80, "validation": HELD_OUT})
    held_out = result["held_out"]
    for name, chance in (("style_accuracy", 1 / 2), ("subject_accuracy", 1 / 5), ("composition_accuracy", 1 / 10)):
        assert held_out[name]["chance"] == pytest.approx(chance)
        assert held_out[name]["interval"][0] > chance, name
        assert held_out[name]["n"] == HELD_OUT
    assert held_out["composition_accuracy"]["value"] <= held_out["subject_accuracy"]["value"]
    assert set(held_out["retrieval"]["classes"]) == {"noto", "fluent-3d"}
    recall = held_out["retrieval"]["classes"]["noto"]["text_to_image"]["R@5"]
    assert (recall["n"], recall["chance"]) == (HELD_OUT // 2, 0.25)
    assert recall["interval"][0] > recall["chance"]
    assert result["identity"]["text_encoder"] == {"name": "figures"}


def test_scorer_from_the_artefact_sees_and_reads_the_same(scorer, text_store):
    opened, reference, store = open_scorer(scorer), HeldOut.load(scorer), LatentStore.open(text_store)
    seen = opened.see(real_images(store, "validation"))
    torch.testing.assert_close(seen.embeddings_NS, reference.seen.embeddings_NS)
    assert torch.equal(seen.classes_N, reference.seen.classes_N)
    torch.testing.assert_close(opened.read(store.split("validation"), torch.arange(HELD_OUT)), reference.captions_NS)
    assert opened.identity == load_result(scorer)["identity"]


def test_pooled_text_comes_in_order_whatever_the_batches(text_store, monkeypatch):
    split, order = LatentStore.open(text_store).split("train"), torch.arange(79, -1, -1)
    whole = pooled_text(split, order)
    monkeypatch.setattr("mudit.evaluate.scorer._BATCH", 7)
    assert torch.equal(pooled_text(split, order), whole)
    assert torch.equal(whole.flip(0), pooled_text(split, torch.arange(80)))


def test_artefact_is_deterministic(captioned, make_job, text_store, scorer, tmp_path):
    torch.manual_seed(5)
    job = make_job(captioned["mmdit"], "scorer", tmp_path, {"data": text_store})
    scorer_stage.run(job)
    assert {file.name: file.read_bytes() for file in job.out.iterdir()} == {
        file.name: file.read_bytes() for file in scorer.iterdir()
    }
    assert str(text_store) not in (scorer / RESULT_FILE).read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 81}, r"scorer\.batch_size 81: the training split has 80 images; lower it"),
        ({"candidates": 21}, r"scorer\.candidates 21: class noto has 20 held-out captions; lower it"),
    ],
)
def test_settings_that_ask_for_too_much(captioned, make_job, text_store, tmp_path, changes, message):
    experiment = captioned["mmdit"].model_copy(update={"scorer": SCORER.model_copy(update=changes)})
    with pytest.raises(ConfigError, match=message):
        scorer_stage.run(make_job(experiment, "scorer", tmp_path, {"data": text_store}))


def test_store_without_captions_is_refused(captioned, make_job, store, tmp_path):
    with pytest.raises(DataError, match=r"scorer: the store holds no captions; give data\.captions"):
        scorer_stage.run(make_job(captioned["mmdit"], "scorer", tmp_path, {"data": store}))


def test_damaged_or_foreign_weights_are_named(scorer, tmp_path):
    def copy(name):
        return shutil.copytree(scorer, tmp_path / name)

    (copy("junk") / WEIGHTS_FILE).write_bytes(b"junk")
    with pytest.raises(DataError, match=r"scorer\.safetensors: cannot read the scorer's weights"):
        open_scorer(tmp_path / "junk")
    save_tensors({"a": torch.zeros(1)}, copy("other") / WEIGHTS_FILE)
    with pytest.raises(DataError, match="not the weights that"):
        open_scorer(tmp_path / "other")
    result = load_result(copy("encoder"))
    result["identity"]["image_encoder"]["sha256"] = "0" * 64
    (tmp_path / "encoder" / RESULT_FILE).write_text(json.dumps(result))
    with pytest.raises(DataError, match="weights of efficientnet-lite0 changed"):
        open_scorer(tmp_path / "encoder")
    assert (scorer / HELD_OUT_FILE).is_file()
