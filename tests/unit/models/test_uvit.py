"""U-ViT: shapes, packing, and a straightforward forward pass as a second opinion (no library has this class)."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from families import CHANNELS, FAMILIES, TEXT, TOKENS, assert_packed_equals_solo, inputs, moved
from mudit.models.condition import TextCondition


def _model(name, width=32):
    torch.manual_seed(0)
    model = FAMILIES[name](width)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.15)
    return model


def _generator():
    return torch.Generator().manual_seed(0)


def _sinusoid(t, width):
    """Loops over the formula."""
    half = width // 2
    row = [t * math.exp(-math.log(10_000) * index / half) for index in range(half)]
    return torch.tensor([math.cos(angle) for angle in row] + [math.sin(angle) for angle in row])


def _block(weights, prefix, x, heads, skip=None):
    def linear(name, value):
        return value @ weights[f"{prefix}.{name}.weight"].T + weights.get(f"{prefix}.{name}.bias", 0.0)

    def norm(name, value):
        centred = value - value.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{prefix}.{name}.weight"] + weights[f"{prefix}.{name}.bias"]

    if skip is not None:
        x = linear("skip_linear", torch.cat([x, skip], dim=1))
    qkv = linear("attn.qkv", norm("norm1", x))
    width = x.shape[1]
    mixed = []
    for head in range(heads):
        columns = slice(head * width // heads, (head + 1) * width // heads)
        q, k, v = (qkv[:, part * width : (part + 1) * width][:, columns] for part in range(3))
        mixed.append(torch.softmax(q @ k.T / math.sqrt(width // heads), dim=-1) @ v)
    x = x + linear("attn.proj", torch.cat(mixed, dim=1))
    return x + linear("mlp.fc2", F.gelu(linear("mlp.fc1", norm("norm2", x))))


def _reference(model, x, t, condition):
    """One image: x (C, 8, 8), an integer t, a label or caption tokens (L, E)."""
    weights = dict(model.named_parameters())
    patches = F.conv2d(x[None], weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=2)[0].flatten(1).T
    time = _sinusoid(t, model.width)[None]
    if condition.ndim:
        caption = condition @ weights["context_embed.weight"].T + weights["context_embed.bias"]
        tokens = torch.cat([time, caption, patches])
    else:
        tokens = torch.cat([weights["label_emb.weight"][condition][None], time, patches])
    tokens = tokens + weights["pos_embed"][0]
    heads, skips = model.width // 8, []
    for index in range(len(model.in_blocks)):
        tokens = _block(weights, f"in_blocks.{index}", tokens, heads)
        skips.append(tokens)
    tokens = _block(weights, "mid_block", tokens, heads)
    for index in range(len(model.out_blocks)):
        tokens = _block(weights, f"out_blocks.{index}", tokens, heads, skips.pop())
    normed = F.layer_norm(tokens, (model.width,), weights["norm.weight"], weights["norm.bias"])
    pixels = normed[-16:] @ weights["decoder_pred.weight"].T + weights["decoder_pred.bias"]
    image = torch.zeros(CHANNELS, 8, 8)
    for place in range(16):
        row, column = 2 * (place // 4), 2 * (place % 4)
        image[:, row : row + 2, column : column + 2] = pixels[place].view(2, 2, CHANNELS).permute(2, 0, 1)
    if "final_layer.weight" in weights:
        image = F.conv2d(image[None], weights["final_layer.weight"], weights["final_layer.bias"], padding=1)[0]
    return image


@torch.no_grad()
@pytest.mark.parametrize("name", ["uvit", "uvit-text"])
def test_it_computes_what_a_straightforward_pass_computes(name):
    model = _model(name)
    x, t, condition = inputs(name, _generator())
    if isinstance(condition, TextCondition):
        condition = condition._replace(mask=torch.ones(8, TOKENS).bool(), dropped=torch.zeros(8).bool())
    output = model(x, t, condition)
    assert output.shape == (8, CHANNELS, 8, 8)
    for index in range(8):
        one = condition.tokens[index] if isinstance(condition, TextCondition) else condition[index]
        torch.testing.assert_close(output[index], _reference(model, x[index], t[index].item(), one), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["uvit", "uvit-text"])
def test_leading_dimensions_are_batches(name):
    model = _model(name)
    x, t, condition = inputs(name, _generator())
    folded = model(x.unflatten(0, (2, 4)), t.unflatten(0, (2, 4)), moved(condition, lambda part: part.unflatten(0, (2, 4))))
    torch.testing.assert_close(folded.flatten(0, 1), model(x, t, condition), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_masked_caption_tokens_are_not_seen():
    model = _model("uvit-text")
    x, t, condition = inputs("uvit-text", _generator())
    rubbish = torch.where(condition.mask[..., None], condition.tokens, torch.randn(8, TOKENS, TEXT))
    torch.testing.assert_close(model(x, t, condition._replace(tokens=rubbish)), model(x, t, condition), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["uvit", "uvit-text"])
@pytest.mark.parametrize("scheme", ["mup", "sp"])
def test_packed_equals_solo_bit_for_bit(name, scheme):
    assert_packed_equals_solo(name, scheme)
