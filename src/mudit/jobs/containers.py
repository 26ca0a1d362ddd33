"""The image of the stages: which one, and how a command runs inside of it. Imports no torch.

`snakemake --sdm apptainer` makes the rules say MUDIT_IMAGE, and `mudit launch` then starts the processes of a stage inside. The
launcher itself stays outside, because it needs the machine's own Slurm: srun starts one `apptainer exec` on every machine. So the
rules declare no container of their own, which Snakemake would put around the launcher.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import sys
from pathlib import Path

from mudit.errors import ConfigError
from mudit.provenance.source import PACKAGE, REPOSITORY

IMAGE = "MUDIT_IMAGE"
ARGUMENTS = "MUDIT_APPTAINER_ARGUMENTS"
FOLDER = Path("containers")
_RECIPE = ("train.def", "requirements.hashes")
# Apptainer undoes what its caller did to signals: inside, SIGTERM would end torchrun instead of being left to the ranks.
_DEAF = 'trap "" TERM USR1; exec "$@"'


def image(repository: Path = REPOSITORY) -> Path:
    """Path of the image that `containers/build` makes: its name holds the digest of recipe and hashes."""
    content = b"".join((repository / FOLDER / name).read_bytes() for name in _RECIPE)
    return repository / FOLDER / f"mudit-train-{hashlib.sha256(content).hexdigest()[:12]}.sif"


def use(arguments: str) -> None:
    """From now on, commands of this process's children run in the image; `arguments` are further ones of `apptainer exec`.

    MUDIT_IMAGE, where it is set already, names another image. Raises ConfigError if there is no image or no Apptainer.
    """
    path = Path(os.environ.get(IMAGE) or image())
    if not path.exists():
        raise ConfigError(f"{path}: there is no such image; build it with: containers/build")
    if shutil.which("apptainer") is None:
        raise ConfigError("--sdm apptainer: no apptainer on PATH; on most clusters: module load apptainer")
    os.environ |= {IMAGE: str(path), ARGUMENTS: arguments}


def used() -> bool:
    """Whether commands run in an image."""
    return bool(os.environ.get(IMAGE))


def python() -> str:
    """The interpreter for a command that `inside` wraps."""
    return "python3" if used() else sys.executable


def inside(command: list[str]) -> list[str]:
    """The command in the image, in the same working directory and with this source; unchanged if no image is used."""
    if not used():
        return command
    here, source = str(Path.cwd()), str(PACKAGE.parent)
    places = ["--bind", here, "--bind", source, "--pwd", here, "--env", f"PYTHONPATH={source}"]
    further = shlex.split(os.environ.get(ARGUMENTS, ""))
    return ["apptainer", "exec", *places, *further, os.environ[IMAGE], "sh", "-c", _DEAF, "sh", *command]
