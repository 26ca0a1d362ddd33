"""Exact resume, shown by killing: SIGKILL at random steps, SIGTERM, a damaged checkpoint. Weights must be equal bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import ROOT

SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from support import changed
from mudit.config.load import load
from mudit.data.reader import LatentStore
from mudit.parametrization.table import table_for
from mudit.train.knobs import Knobs
from mudit.train.trainer import RunSpec, Trainer
from mudit.train.weights import save_weights
config = load(Path({config!r})).experiments["dit-digits"]
config = changed(config, validation__images=16, validation__draws=1)
spec = RunSpec(table=table_for(config.model, 16, "mup"), knobs=Knobs.of(config, -7, 16), seed=0, batch_size=16, steps=60,
               ema_decay=0.9, eval_every=7, checkpoint_every=5, keep_checkpoints=2, identity="test", snapshots=(13, 32))
out = Path(sys.argv[1])
trainer = Trainer(config, LatentStore.open(Path({data!r})), spec, out / "state")
trainer.resume()
(out / "started").touch()
def advance(loss):
    (out / "step").write_text(str(trainer.step))
history = trainer.run(advance)
save_weights(out, trainer.model, trainer.ema.model, {{}})
trainer.snapshots.put(out, {{}})
import json
(out / "history.json").write_text(json.dumps(history.records))
"""


@pytest.fixture(scope="module")
def script(digits_folder, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("script") / "train.py"
    path.write_text(SCRIPT.format(tests=str(ROOT / "tests"), config=str(ROOT / "config.yaml"), data=str(digits_folder)))
    return path


def _run(script: Path, out: Path) -> subprocess.Popen[bytes]:
    out.mkdir(exist_ok=True)
    return subprocess.Popen([sys.executable, script, out], env={**os.environ, "OMP_NUM_THREADS": "1"})


def _finished(out: Path) -> tuple[list, ...]:
    names = ["weights", "ema", "snapshots/step-0000000013/ema", "snapshots/step-0000000032/ema"]
    weights = [(out / f"{name}.safetensors").read_bytes() for name in names]
    assert len(set(weights)) == len(weights), "weights move"
    return weights, json.loads((out / "history.json").read_text())


@pytest.fixture(scope="module")
def reference(script, tmp_path_factory):
    out = tmp_path_factory.mktemp("reference")
    assert _run(script, out).wait() == 0
    return _finished(out)


def _stop_at(script: Path, out: Path, step: int, number: signal.Signals) -> int:
    """Start, and send a signal once `step` steps are done. Returns the exit code."""
    (out / "step").unlink(missing_ok=True)
    process = _run(script, out)
    while process.poll() is None:
        text = (out / "step").read_text() if (out / "step").exists() else ""
        if text and int(text) >= step:
            process.send_signal(number)
            break
        time.sleep(0.002)
    return process.wait()


def test_sigkill_at_random_steps_changes_nothing(script, reference, tmp_path):
    out = tmp_path / "killed"
    for step in sorted(random.Random(0).sample(range(3, 55), 3)):
        assert _stop_at(script, out, step, signal.SIGKILL) == -signal.SIGKILL
    assert _run(script, out).wait() == 0
    assert _finished(out) == reference


def test_sigterm_writes_a_checkpoint_and_asks_to_be_started_again(script, reference, tmp_path):
    out = tmp_path / "terminated"
    assert _stop_at(script, out, 12, signal.SIGTERM) == 75
    newest = max((out / "state" / "checkpoints").glob("step-*"))
    assert int(newest.name.removeprefix("step-")) >= 12
    assert _run(script, out).wait() == 0
    assert _finished(out) == reference


def test_a_damaged_newest_checkpoint_costs_steps_but_no_bit(script, reference, tmp_path):
    out = tmp_path / "damaged"
    assert _stop_at(script, out, 34, signal.SIGKILL) == -signal.SIGKILL
    assert len(list((out / "state" / "snapshots").iterdir())) == 2  # the second one is newer than any checkpoint
    newest = max((out / "state" / "checkpoints").glob("step-*")) / "tensors.safetensors"
    newest.write_bytes(newest.read_bytes()[:1000])
    assert _run(script, out).wait() == 0
    assert _finished(out) == reference
