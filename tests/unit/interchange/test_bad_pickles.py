"""PyTorch files that are damaged, are something else, lie or attack: nothing of them runs."""

from __future__ import annotations

import collections
import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mudit.errors import CheckpointError
from mudit.interchange.importer import Wish, import_checkpoint

from .bad import Attack, Cases, write_archive
from .conftest import STATED

CASES = Cases("bad.pt")


def _with(state, name, value):
    return {**state, name: value}


@CASES.case("its pickle names posix.system, which is no part of weights; nothing was loaded")
def runs_a_command(path, state, canary):
    torch.save({"model": Attack(os.system, f"touch {canary}")}, path)


@CASES.case("its pickle nests tuples, which torch.save does not; nothing was loaded")
def takes_days_to_hash_a_key(path, state, canary):
    key: tuple = ()
    for _ in range(45):
        key = (key, key)
    torch.save({"model": state, "args": key}, path)  # as the key of a dictionary it would be hashed, in 2^45 steps


@CASES.case("what lies under ema is no state dict; save the weights that you mean alone")
def averages_in_another_form(path, state, canary):
    torch.save({"model": state, "ema": {"shadow": state, "decay": 0.9999}}, path)


@CASES.case("its pickle names __builtin__.eval, which is no part of weights; nothing was loaded")
def evaluates_a_string(path, state, canary):
    torch.save({**state, "x": Attack(eval, f"open({str(canary)!r}, 'w')")}, path)


@CASES.case("its pickle names __builtin__.bytearray, which is no part of weights; nothing was loaded")
def asks_for_a_terabyte_through_a_function_that_torch_allows(path, state, canary):
    torch.save({**state, "x": Attack(bytearray, 1 << 40)}, path)


@CASES.case("its pickle names collections.Counter, which is no part of weights")
def calls_another_function_that_torch_allows(path, state, canary):
    torch.save({**state, "x": collections.Counter("ab")}, path)


@CASES.case("its pickle names torch._tensor._rebuild_from_type_v2, which is no part of weights")
def sets_attributes_on_a_tensor(path, state, canary):
    name = next(iter(state))
    tensor = state[name].clone()
    tensor.__dict__["note"] = 1
    torch.save(_with(state, name, tensor), path)


@CASES.case("its pickle uses STACK_GLOBAL, which torch.save does not; nothing was loaded")
def names_a_function_in_another_way(path, state, canary):
    write_archive(path, pickle.dumps({"model": Attack(os.system, f"touch {canary}")}, protocol=4))


@CASES.case("not a whole archive as torch.save has written since PyTorch 1.6; fetch or save it again")
def bare_pickle(path, state, canary):
    path.write_bytes(pickle.dumps(Attack(os.system, f"touch {canary}")))


@CASES.case("not a whole archive as torch.save has written since PyTorch 1.6")
def old_format(path, state, canary):
    torch.save(state, path, _use_new_zipfile_serialization=False)


@CASES.case("not a whole archive")
def cut_short(path, state, canary):
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-3000])


@CASES.case("a damaged archive .Bad CRC-32 for file 'bad/data/0'.; fetch it again")
def one_bit_of_a_weight(path, state, canary):
    torch.save(state, path)
    with zipfile.ZipFile(path) as archive:
        weights = archive.read("bad/data/0")
    content = bytearray(path.read_bytes())
    content[content.index(weights) + len(weights) // 2] ^= 1
    path.write_bytes(content)


@CASES.case("a damaged archive .zipfiles that span multiple disks are not supported.; fetch it again")
def one_of_several_disks(path, state, canary):
    torch.save(state, path)
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x06\x07") + 16] = 2  # number of disks, in the locator of the 64-bit directory
    path.write_bytes(content)


@CASES.case("not a whole archive")
def noise(path, state, canary):
    path.write_bytes(np.random.default_rng(0).bytes(5000))


@CASES.case("empty; fetch it again")
def empty(path, state, canary):
    path.touch()


@CASES.case("no such file or folder")
def missing(path, state, canary):
    pass


@CASES.case("neither a regular file nor a folder")
def pipe(path, state, canary):
    os.mkfifo(path)


@CASES.case("its members are compressed, which torch.save never does")
def zip_bomb(path, state, canary):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bad/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("bad/data/0", bytes(50 << 20))


@CASES.case("an archive without the pickle of a checkpoint")
def otherwrite_archive(path, state, canary):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


@CASES.case("the archive holds two members of one name")
def two_pickles_of_one_name(path, state, canary):
    attack = pickle.dumps(Attack(os.system, f"touch {canary}"), protocol=2)
    write_archive(path, pickle.dumps({}, protocol=2))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("bad/data.pkl", attack)


@CASES.case("a TorchScript program, not weights")
def program(path, state, canary):
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)


@CASES.case("a damaged pickle")
def broken_pickle(path, state, canary):
    write_archive(path, b"\x80\x02}q\x00(X\xff\xff")


@CASES.case("a damaged pickle")
def pickle_that_ends_early(path, state, canary):
    write_archive(path, b"\x80\x02}u.")


@CASES.case("its tensors claim more than the file holds; fetch it again")
def storage_that_is_larger_than_the_file(path, state, canary):
    torch.save(state, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    root = path.stem
    program = members[f"{root}/data.pkl"]
    assert b"M\x00\x02" in program  # 512 elements of x_embedder.proj.weight
    members[f"{root}/data.pkl"] = program.replace(b"M\x00\x02", b"M\x00\xff")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@CASES.case(r"final_layer.linear.bias of shape \(1000000000000,\) claims more than the file holds")
def one_number_that_says_it_is_a_trillion(path, state, canary):
    torch.save(_with(state, "final_layer.linear.bias", torch.zeros(1).expand(10**12)), path)


@CASES.case("no weights under model, state_dict, ema, state_dict_ema, nor is it a state dict; its keys: epoch, optimizer")
def no_weights(path, state, canary):
    torch.save({"epoch": 3, "optimizer": {"lr": 1.0}}, path)


@CASES.case("holds a list, not a dictionary of tensors")
def a_list(path, state, canary):
    torch.save([1, 2, 3], path)


@CASES.case("holds several sets of raw weights")
def two_sets(path, state, canary):
    torch.save({"model": state, "state_dict": state}, path)


@pytest.mark.parametrize("name", CASES.names)
def test_each_is_refused_with_one_line_and_leaves_nothing(name, models, tmp_path):
    CASES.check(name, models["dit"].state_dict(), tmp_path)


def test_the_canary_sings_when_the_attack_is_run(tmp_path):
    """The attacks above are real: an ordinary reader runs them."""
    canary = tmp_path / "canary"
    pickle.load(io.BytesIO(pickle.dumps(Attack(os.system, f"touch {canary}"))))
    assert canary.exists()


def test_what_is_there_is_not_replaced(models, tmp_path):
    torch.save(models["dit"].state_dict(), tmp_path / "good.pt")
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="out: exists already; name another folder with --to, or remove it"):
        import_checkpoint(Wish(tmp_path / "good.pt", "dit", "sp", STATED["dit"], None), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_leaves_nothing(models, tmp_path, monkeypatch):
    import mudit.interchange.importer as importer

    torch.save({"model": models["dit"].state_dict(), "ema": models["dit"].state_dict()}, tmp_path / "good.pt")
    calls = []

    def full_at_second(tensors, path: Path) -> None:
        calls.append(path)
        path.write_bytes(b"half")
        if len(calls) == 2:
            raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(importer, "save_tensors", full_at_second)
    with pytest.raises(OSError, match="No space left"):
        import_checkpoint(Wish(tmp_path / "good.pt", "dit", "sp", STATED["dit"], None), tmp_path / "new" / "out")
    assert len(calls) == 2 and sorted(path.name for path in tmp_path.iterdir()) == ["good.pt"]
