"""What is shown of a run while it goes on: the progress bar, TensorBoard's events and the account for `mudit status`."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from mudit.jobs.distributed import World
from mudit.jobs.heartbeat import Heartbeat
from mudit.jobs.interrupt import Interrupted
from mudit.logs import Progress, progress
from mudit.train.events import Events
from mudit.train.trainer import Trainer

_AVERAGED = 100  # steps behind the loss that is shown
_POINTS = 200  # validation losses in the account


class Watch:
    """Tells about one run. Rank 0 speaks for all processes."""

    def __init__(self, trainer: Trainer, bar: Progress, events: Events | None, beat: Heartbeat) -> None:
        self._trainer, self._bar, self._events, self._beat = trainer, bar, events, beat
        self._losses: deque[float] = deque(maxlen=_AVERAGED)

    def advance(self, loss: float) -> None:
        """After each step."""
        batch_size, per_second = self._trainer.spec.batch_size, self._bar.per_second
        self._losses.append(loss)
        self._bar.advance(1, loss=loss, images=f"{per_second * batch_size:.0f}/s", mfu=f"{self._trainer.utilisation.share:.0%}")
        if self._beat.due:
            self.tell("running")

    def record(self, values: dict[str, float]) -> None:
        """After each validation."""
        if self._events is not None:
            self._events.record(values)

    def tell(self, state: str) -> None:
        """Write the account: running, interrupted, finished or diverged."""
        trainer, per_second = self._trainer, self._bar.per_second
        self._beat.update(
            state=state,
            step=trainer.step,
            loss=sum(self._losses) / len(self._losses) if self._losses else None,
            per_second=per_second,
            images_per_second=per_second * trainer.spec.batch_size,
            mfu=trainer.utilisation.share,
            checkpoint_step=trainer.checkpoints.newest,
            history=[[record["step"], record["mse"] + record["vb"]] for record in trainer.history.records[-_POINTS:]],
        )


@contextlib.contextmanager
def watching(trainer: Trainer, state: Path, *, artefact: str, name: str) -> Iterator[Watch]:
    """Around a run. `artefact`: its full name, for the account; `name`: for the bar."""
    beat = Heartbeat(state, artefact=artefact, steps=trainer.spec.steps)
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(progress(trainer.spec.steps, name, unit="step", done=trainer.step))
        events = stack.enter_context(Events(state / "tensorboard", trainer.step)) if World.of_environment().main else None
        watch = Watch(trainer, bar, events, beat)
        watch.tell("running")
        try:
            yield watch
        except Interrupted:
            watch.tell("interrupted")
            raise
        watch.tell("finished" if trainer.history.diverged_at is None else "diverged")
