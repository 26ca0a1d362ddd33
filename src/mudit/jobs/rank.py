"""One of several processes of a stage, as `mudit launch` starts them: `python -m mudit.jobs.rank STAGE EXPERIMENT [KEY]`.

Leaves behind how it ended, because torchrun only tells that something failed. An interrupted process ends with 0, like a finished
one: torchrun kills the rest as soon as one fails, and the rest may be writing a checkpoint.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path

from mudit.cli import app
from mudit.errors import BusyError, MuditError
from mudit.jobs import slurm
from mudit.jobs.distributed import World
from mudit.jobs.interrupt import EXIT_CODE
from mudit.jobs.launch import ASKED, OUTCOMES, record


def main() -> None:
    """Entry point."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)  # torchrun was told to ignore them
    os.dup2(1, 2)  # torchrun's own messages go where the launcher keeps them; this process's go on
    rank, folder = World.of_environment().rank, Path(os.environ[OUTCOMES])
    try:
        (folder / f"{rank}.pid").write_text(str(os.getpid()))
        # The launcher looks for ids after it has left the mark: a signal from before is in the one, or comes by the other.
        code, message = (EXIT_CODE, "") if (folder / ASKED).exists() else _call()
        record(rank, code, message)
    except OSError as error:
        sys.exit(f"mudit: process {rank} cannot leave word in {folder}: {error.strerror}")
    sys.exit(0 if code == EXIT_CODE else code)


def _call() -> tuple[int, str]:
    """Exit code and message of the command."""
    try:
        app()
    except BusyError as error:
        # Another job was faster by so little that the launcher did not see it: this one goes back into the queue.
        return (EXIT_CODE if slurm.job() else 2), f"mudit: {error}"
    except MuditError as error:
        return 2, f"mudit: {error}"
    except SystemExit as end:
        return (end.code if isinstance(end.code, int) else int(end.code is not None)), ""
    except Exception:
        # Handed on whole, to be printed once: it is what Python would have printed.
        return 1, traceback.format_exc()
    return 0, ""


if __name__ == "__main__":
    main()
