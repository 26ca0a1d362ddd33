"""One run over 1, 2 and 4 processes, replicated and sharded: the same losses, weights and parametrization, whoever wrote what.

Sums run in another order, so numbers are equal to the rounding of float32: losses to 1e-6 of their size, weights (of size about 1)
to 3e-6 after six steps. Adam divides by the root of the gradient's own square, so a gradient that is zero but for rounding would
make steps of full size; the runs here have an eps of 1e-4 against that. With as many processes as before, all is equal bit for bit.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from parallel_runs import Case, launch

LOSS, WEIGHT = 1e-6, 3e-6
TAKEN = (1, 3)

WHOLE = [
    Case("dit", "dit", snapshots=TAKEN),
    Case("dit-sharded", "dit", "sharded", snapshots=TAKEN),
    Case("mmdit", "mmdit", micro_batch=1, checkpoint_activations=True),
    Case("mmdit-sharded", "mmdit", "sharded", micro_batch=2, checkpoint_activations=True),
    Case("pixart-sharded", "pixart", "sharded", micro_batch=1, file_bytes=20_000),
    Case("uvit-sharded", "uvit", "sharded", checkpoint_activations=True),
    Case("external", "external"),
    Case("external-sharded", "external", "sharded"),
]
COMPILED = [
    Case("dit-compiled", "dit", compile=True, snapshots=TAKEN),
    Case("mmdit-compiled", "mmdit", "sharded", micro_batch=2, checkpoint_activations=True, compile=True, snapshots=TAKEN),
]
DIVERGING = Case("diverging", log2_lr=40.0)
ALONE = [Case(family, family, snapshots=TAKEN) for family in ("dit", "mmdit", "pixart", "uvit", "external")]


def _finish(cases: list[Case], out: Path, processes: int) -> None:
    code = launch(cases, out, processes).wait()
    assert code == 0, (out / "log").read_text()[-4000:]


def _copy(state: str, name: str) -> str:
    """Checkpoints for one more run to go on from, as if the one of five steps had been killed before its last."""
    return shutil.copytree(state, f"{state}-{name}", ignore=shutil.ignore_patterns("step-00000005"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Folders by number of processes. First 2 and 4 processes write checkpoints, then others go on from them."""
    out = tmp_path_factory.mktemp("runs")
    by_2, by_4 = str(out / "state-2"), str(out / "state-4")
    part = {"steps": 5, "checkpoint_every": 2, "keep": 3, "snapshots": TAKEN}  # leaves the checkpoints of steps 2, 4 and 5
    _finish(
        [*WHOLE, *COMPILED, Case("part", state=by_2, **part), Case("full", "dit", limited_rank=1, checkpoint_every=2), DIVERGING],
        out / "2",
        2,
    )
    _finish(
        [
            *WHOLE,
            Case("part", "dit", "sharded", state=by_4, **part),
            Case("resumed-by-4", "dit", "sharded", state=_copy(by_2, "resumed-by-4"), snapshots=TAKEN),
            Case("full-sharded", "dit", "sharded", limited_rank=1, checkpoint_every=2),
        ],
        out / "4",
        4,
    )
    damaged = _copy(by_4, "damaged")
    file = Path(damaged) / "checkpoints" / "step-00000004" / "tensors-00003.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    _finish([*ALONE, DIVERGING, Case("resumed-by-1", state=_copy(by_4, "resumed-by-1"), snapshots=TAKEN)], out / "1", 1)
    _finish(
        [
            Case("resumed-by-2", "dit", state=_copy(by_4, "resumed-by-2"), snapshots=TAKEN),
            Case("resumed-sharded-by-2", "dit", "sharded", state=_copy(by_4, "resumed-sharded-by-2"), snapshots=TAKEN),
            Case("resumed-damaged", "dit", "sharded", state=damaged, snapshots=TAKEN),
            Case("resumed-same", "dit", state=_copy(by_2, "resumed-same"), snapshots=TAKEN),
        ],
        out / "2-again",
        2,
    )
    return out


def _facts(folder: Path) -> dict:
    return json.loads((folder / "facts.json").read_text())


def _weights(folder: Path, stem: str) -> dict[str, torch.Tensor]:
    index = folder / f"{stem}.safetensors.index.json"
    if not index.exists():
        return load_file(folder / f"{stem}.safetensors")
    files = json.loads(index.read_text())["weight_map"]
    return {name: load_file(folder / file)[name] for name, file in files.items()}


def _assert_same(found: Path, expected: Path, last: int = 6) -> None:
    """Losses of the last steps, validation losses, weights and averages, to the tolerances above."""
    a, b = _facts(found), _facts(expected)
    torch.testing.assert_close(a["losses"][-last:], b["losses"][-last:], rtol=LOSS, atol=0)
    for one, other in zip(a["records"], b["records"], strict=True):
        torch.testing.assert_close(one, other, rtol=LOSS, atol=1e-9)
    stems = ["weights", "ema", *(f"snapshots/step-{step:010d}/ema" for step in TAKEN if (found / "snapshots").exists())]
    for stem in stems:
        one, other = _weights(found, stem), _weights(expected, stem)
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            torch.testing.assert_close(tensor, other[name], rtol=0, atol=WEIGHT, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["2", "4"])
@pytest.mark.parametrize("case", WHOLE, ids=lambda case: case.name)
def test_the_run_is_the_same_for_any_number_of_processes(runs, case, processes):
    _assert_same(runs / processes / case.name, runs / "1" / case.family)


@pytest.mark.slow
@pytest.mark.parametrize("case", COMPILED, ids=lambda case: case.name)
def test_compiled_blocks_change_nothing_in_several_processes(runs, case):
    _assert_same(runs / "2" / case.name, runs / "1" / case.family)


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["2", "4"])
@pytest.mark.parametrize("case", WHOLE, ids=lambda case: case.name)
def test_the_parametrization_is_the_same(runs, case, processes):
    """The table, and the learning rate that the optimizer has for each parameter."""
    found, expected = (_facts(folder) for folder in (runs / processes / case.name, runs / "1" / case.family))
    assert found["table"] == expected["table"] and found["rates"] == expected["rates"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "started"),
    [
        ("4/resumed-by-4", 4),  # replicated by 2, sharded over 4
        ("1/resumed-by-1", 4),  # sharded over 4, one process
        ("2-again/resumed-by-2", 4),  # sharded over 4, replicated by 2
        ("2-again/resumed-sharded-by-2", 4),
        ("2-again/resumed-damaged", 2),  # one rank's file of the newest is damaged: all go to the one before
    ],
)
def test_a_checkpoint_of_other_processes_is_gone_on_from(runs, folder, started):
    assert _facts(runs / folder)["started"] == started
    _assert_same(runs / folder, runs / "1" / "dit", last=6 - started)


@pytest.mark.slow
def test_with_the_same_processes_nothing_changes_by_a_bit(runs):
    whole, resumed = runs / "2" / "dit", runs / "2-again" / "resumed-same"
    assert _facts(resumed)["losses"] == _facts(whole)["losses"][4:] and _facts(resumed)["records"] == _facts(whole)["records"]
    assert len(list((resumed / "snapshots").iterdir())) == 2
    for stem in ("weights", "ema", *(f"snapshots/{folder.name}/ema" for folder in (whole / "snapshots").iterdir())):
        assert (resumed / f"{stem}.safetensors").read_bytes() == (whole / f"{stem}.safetensors").read_bytes()


@pytest.mark.slow
def test_a_run_diverges_everywhere_at_the_same_step(runs):
    alone, both = _facts(runs / "1" / "diverging"), _facts(runs / "2" / "diverging")
    assert alone["diverged_at"] == both["diverged_at"] == len(both["losses"]) < 6


@pytest.mark.slow
def test_sharded_checkpoints_hold_each_row_once(runs):
    folder = runs / "state-4" / "checkpoints" / "step-00000004"
    index = json.loads((folder / "state.json").read_text())
    assert [entry["file"] for entry in index["files"]] == [f"tensors-{rank:05d}.safetensors" for rank in range(4)]
    for name, entry in index["tensors"].items():
        pieces = sorted(entry["pieces"], key=lambda piece: piece[1])
        ends = [first for _, first, _ in pieces[1:]] + [entry["shape"][0] if entry["shape"] else 1]
        assert pieces[0][1] == 0 and [last for *_, last in pieces] == ends, name
    sizes = [(folder / entry["file"]).stat().st_size for entry in index["files"]]
    assert max(sizes) < 0.4 * sum(sizes), "no rank holds the whole"


@pytest.mark.slow
def test_a_rank_that_cannot_write_costs_the_checkpoint_and_not_the_run(runs):
    folder = runs / "4" / "full-sharded"
    _assert_same(folder, runs / "1" / "dit")
    assert list((folder / "state" / "checkpoints").iterdir()) == []
    assert (runs / "4" / "log").read_text().count("cannot write the checkpoint of step 2") == 1


@pytest.mark.slow
def test_ranks_that_write_nothing_need_no_disk(runs):
    """Replicated, rank 0 writes everything."""
    assert len(list((runs / "2" / "full" / "state" / "checkpoints").glob("step-*"))) == 2


def _start(case: Case, out: Path, step: int):
    """Start two processes and wait until rank 1 has done some steps."""
    torchrun = launch([case], out, 2)
    reached = out / case.name / "step-1"
    while torchrun.poll() is None:
        text = reached.read_text() if reached.exists() else ""
        if text and int(text) >= step:
            break
        time.sleep(0.01)
    assert torchrun.poll() is None, (out / "log").read_text()[-4000:]
    return torchrun


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    _finish([Case("run", parallel="sharded", steps=16, checkpoint_every=3)], out, 2)
    return out / "run"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "rank"), [(signal.SIGKILL, 1), (signal.SIGTERM, 1)])
def test_a_killed_or_interrupted_run_ends_with_the_same_bits(undisturbed, tmp_path, number, rank):
    """A signal to one rank only: killed, all fall; asked to stop, all write a checkpoint and exit with 75."""
    case = Case("run", parallel="sharded", steps=16, checkpoint_every=3, pause_s=0.2)
    torchrun = _start(case, tmp_path, 5)
    os.kill(int((tmp_path / "run" / f"pid-{rank}").read_text()), number)
    assert torchrun.wait() != 0
    newest = max((tmp_path / "run" / "state" / "checkpoints").glob("step-*")).name
    if number != signal.SIGKILL:
        assert int(newest.removeprefix("step-")) >= 5
        assert (tmp_path / "log").read_text().count("exitcode  : 75") >= 2
    _finish([case], tmp_path, 2)
    assert _facts(tmp_path / "run")["started"] == int(newest.removeprefix("step-"))
    for file in ("weights.safetensors", "ema.safetensors"):
        assert (tmp_path / "run" / file).read_bytes() == (undisturbed / file).read_bytes()
    assert _facts(tmp_path / "run")["records"] == _facts(undisturbed)["records"]
