"""One optimizer step of a target run by formula: what each rank computes, keeps and exchanges. Imports no torch.

The rehearsal (`mudit.plan.rehearse`) counts the same on processes that do not exist; tests hold the two together.
"""

from __future__ import annotations

from dataclasses import dataclass

from mudit.config.schema import Experiment
from mudit.plan import memory
from mudit.plan.counts import architecture


@dataclass(frozen=True)
class Step:
    """What one rank does in one optimizer step."""

    parameters: int  # of the whole model
    flops: int
    state: int  # bytes of weights, gradients, moments and average
    kept: int  # bytes of activations and casts at the end of a micro-batch's forward pass
    exchanged: int  # bytes that pass through in collectives


@dataclass(frozen=True)
class TargetPlan:
    """The target runs of one experiment: arms and seeds differ in nothing that is counted here."""

    width: int
    ranks: int
    step: Step
    memory: int  # bytes of one rank in all, with what one block needs while it computes


def target(experiment: Experiment) -> TargetPlan:
    """As `execution.train` lays it out. A batch that its ranks do not divide, which no run accepts, is rounded up."""
    workers, train = experiment.execution.train, experiment.train
    ranks = workers.processes if workers is not None else 1
    again = workers is not None and workers.checkpoint_activations
    built, needed = architecture(experiment.model, train.width), memory.training(experiment)
    step = Step(
        parameters=built.parameters,
        flops=built.step_flops(-(-train.batch_size // ranks), again),
        state=needed.weights + needed.gradients + needed.moments + needed.average,
        kept=needed.activations + needed.copies,
        exchanged=memory.exchanged(experiment, ranks),
    )
    return TargetPlan(train.width, ranks, step, needed.total)
