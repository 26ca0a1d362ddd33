"""The stage `train`: one target run, an arm and a seed, with the hyperparameters that the stage `transfer` wrote.

Under torchrun all processes call `run`. Rank 0 writes what describes the run, after all weights are on disk.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from mudit.config.published import images_sharing_draws
from mudit.data.reader import LatentStore
from mudit.models.flops import train_flops
from mudit.parametrization.table import table_for
from mudit.runs import Target
from mudit.select.hyperparameters import Hyperparameters
from mudit.train.parallel import Layout
from mudit.train.trainer import RunSpec, Trainer
from mudit.train.watch import watching
from mudit.train.weights import save_weights

if TYPE_CHECKING:
    from mudit.stages import Job


def run(job: Job) -> dict[str, object]:
    """Write weights, average, snapshots, `model.json`, `parametrization.json`, `history.jsonl` and `run.json` (status, rate)."""
    config, target = job.config, Target.parse(job.key)
    chosen = Hyperparameters.read(job.inputs[f"transfer/{target.arm}"])
    store = LatentStore.open(job.inputs["data"])
    store.check_fits(config.model)
    table = table_for(config.model, chosen.width, chosen.scheme)
    section = config.train
    layout = Layout.of(job.workers, chosen.batch_size)
    spec = RunSpec(
        table=table,
        knobs=chosen.knobs,
        seed=target.seed,
        batch_size=chosen.batch_size,
        steps=chosen.steps,
        ema_decay=section.ema_decay,
        eval_every=section.eval_every,
        checkpoint_every=section.checkpoint_every,
        keep_checkpoints=section.keep_checkpoints,
        keep_every=section.keep_every,
        snapshots=tuple(section.snapshots),
        identity=_identity(job, target, chosen, table.digest, store.info.model_dump(mode="json")),
    )
    trainer = Trainer(config, store, spec, job.state, layout)
    trainer.resume()
    with watching(trainer, job.state, artefact=f"{job.experiment}/train/{job.key}", name=target.name) as watch:
        history = trainer.run(watch.advance, watch.record)
    outcome: dict[str, object] = {
        "arm": target.arm,
        "seed": target.seed,
        "scheme": chosen.scheme,
        **chosen.knobs._asdict(),
        "width": chosen.width,
        "batch_size": chosen.batch_size,
        "steps": trainer.step,
        "parameters": table.total,
        "ema_decay": section.ema_decay,
        "status": "finished" if history.diverged_at is None else "diverged",
        "diverged_at": history.diverged_at,
    }
    description = {"family": config.model.family, "scheme": chosen.scheme, "width": chosen.width, "parametrization": table.digest}
    save_weights(job.out, trainer.model, trainer.ema.model, description)
    if layout.world.main:
        trainer.snapshots.put(job.out, description)
        (job.out / "parametrization.json").write_text(json.dumps(table.to_dict(), indent=1) + "\n")
        (job.out / "history.jsonl").write_text("".join(json.dumps(record) + "\n" for record in history.records))
        (job.out / "run.json").write_text(json.dumps(outcome, indent=1) + "\n")
    flops = train_flops(config.model, chosen.width, trainer.step * chosen.batch_size)
    return {**outcome, "mfu": trainer.utilisation.share, "flops": flops, "device": trainer.device.type}


def _identity(job: Job, target: Target, chosen: Hyperparameters, table: str, data: dict[str, Any]) -> str:
    """Everything that the run's numbers depend on: a checkpoint with another identity is another run's."""
    config = job.config
    sections = {name: getattr(config, name).model_dump(mode="json") for name in ("model", "diffusion", "optimizer", "validation")}
    train = config.train.model_dump(mode="json", include={"ema_decay", "eval_every"})
    draws = images_sharing_draws(config)
    facts = [job.experiment, target.name, draws, chosen.model_dump(mode="json"), table, data, sections, train]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
