"""Weights that are not those of the family, and safetensors files whose headers are damaged or lie."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from .bad import Cases, write_header

PICKLED, TENSORS = Cases("bad.pt"), Cases("bad.safetensors")


def _with(state, name, value):
    return {**state, name: value}


@PICKLED.case("blocks.1.mlp.fc2.weight is missing")
def missing_tensor(path, state, canary):
    torch.save({name: tensor for name, tensor in state.items() if name != "blocks.1.mlp.fc2.weight"}, path)


@PICKLED.case("extra.weight is unknown to the layout facebookresearch DiT")
def extra_tensor(path, state, canary):
    torch.save(_with(state, "extra.weight", torch.zeros(3)), path)


@PICKLED.case(r"blocks.1.attn.qkv.weight has the shape \(96, 31\), the model's is \(96, 32\)")
def wrong_shape(path, state, canary):
    torch.save(_with(state, "blocks.1.attn.qkv.weight", torch.zeros(96, 31)), path)


@PICKLED.case("is missing: the checkpoint is of another family, or not whole", family="pixart")
def wrong_family(path, state, canary):
    torch.save(state, path)


@PICKLED.case("no tensor is called joint_blocks.0...|is missing: the checkpoint is of another family", family="mmdit")
def another_wrong_family(path, state, canary):
    torch.save(state, path)


@PICKLED.case("blocks.0.mlp.fc1.weight is of the type int64; weights are read from float32, float16 or bfloat16")
def integers(path, state, canary):
    torch.save(_with(state, "blocks.0.mlp.fc1.weight", state["blocks.0.mlp.fc1.weight"].long()), path)


@PICKLED.case("final_layer.linear.bias is of the type float64")
def doubles(path, state, canary):
    torch.save(_with(state, "final_layer.linear.bias", state["final_layer.linear.bias"].double()), path)


@PICKLED.case("final_layer.linear.weight holds values that are not finite")
def not_finite(path, state, canary):
    weight = state["final_layer.linear.weight"].clone()
    weight[3, 4] = float("nan")
    torch.save(_with(state, "final_layer.linear.weight", weight), path)


@PICKLED.case("its position table is not the fixed sines and cosines of our model at this size")
def other_positions(path, state, canary):
    torch.save(_with(state, "pos_embed", torch.rand(1, 4, 32)), path)


@PICKLED.case("these sizes make no model|has the shape|not a positive multiple")
def no_dimensions(path, state, canary):
    torch.save(_with(state, "x_embedder.proj.weight", torch.zeros(0, 4, 2, 2)), path)


@PICKLED.case("blocks.1 is missing among 2 blocks")
def a_gap_in_the_blocks(path, state, canary):
    torch.save({name.replace("blocks.1.", "blocks.99999."): tensor for name, tensor in state.items()}, path)


@TENSORS.case("not a whole safetensors file: its header would have 4611686018427387904 bytes")
def hugewrite_header(path, state, canary):
    write_header(path, {}, length=1 << 62)


@TENSORS.case("not a whole safetensors file|at most|cut short")
def truncated_tensors(path, state, canary):
    save_file(state, path)
    path.write_bytes(path.read_bytes()[:-100])


@TENSORS.case("a overlaps the tensor before it|b overlaps the tensor before it")
def overlap(path, state, canary):
    entry = {"dtype": "F32", "shape": [2]}
    write_header(path, {"a": {**entry, "data_offsets": [0, 8]}, "b": {**entry, "data_offsets": [4, 12]}}, bytes(12))


@TENSORS.case("b leaves a gap before it")
def gap(path, state, canary):
    entry = {"dtype": "F32", "shape": [1]}
    write_header(path, {"a": {**entry, "data_offsets": [0, 4]}, "b": {**entry, "data_offsets": [8, 12]}}, bytes(12))


@TENSORS.case(r"a of shape \(1000000,\) does not take the 4 bytes that its header says")
def lying_shape(path, state, canary):
    write_header(path, {"a": {"dtype": "F32", "shape": [1000000], "data_offsets": [0, 4]}}, bytes(4))


@TENSORS.case("its tensors take 4 bytes, the file holds 4000; cut short, or more was added")
def hidden_bytes(path, state, canary):
    write_header(path, {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4000))


@TENSORS.case("has a size that is no count")
def negative_size(path, state, canary):
    write_header(path, {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}, bytes(4))


@TENSORS.case("a is of the type X9, which is not read")
def unknown_type(path, state, canary):
    write_header(path, {"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}, bytes(4))


@TENSORS.case("safetensors header names 'a' twice")
def name_twice(path, state, canary):
    entry = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    write_header(path, b"{" + entry + b"," + entry + b"}", bytes(4))


@TENSORS.case("damaged safetensors header")
def header_of_noise(path, state, canary):
    write_header(path, b"\xff\xfe{{{", bytes(4))


@TENSORS.case("damaged safetensors header")
def deepwrite_header(path, state, canary):
    write_header(path, b"[" * 200_000)


@TENSORS.case("the header's entry of a lacks its dtype, shape or place")
def entry_without_a_place(path, state, canary):
    write_header(path, {"a": {"dtype": "F32"}}, bytes(4))


@pytest.mark.parametrize("name", PICKLED.names)
def test_weights_of_another_kind_are_refused(name, models, tmp_path):
    PICKLED.check(name, models["dit"].state_dict(), tmp_path)


@pytest.mark.parametrize("name", TENSORS.names)
def test_headers_that_lie_are_refused(name, models, tmp_path):
    TENSORS.check(name, models["dit"].state_dict(), tmp_path)
