"""How long `dvc status` takes on a store with as many files as ImageNet's latents, when nothing has changed.

python benchmarks/dvc_status.py [--megabytes 2]   files are small here: of unchanged files DVC reads sizes and times only
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

from mudit.config.load import load
from mudit.data.size import store_files

IMAGES = 1_281_167
CONFIG = Path(__file__).parents[1] / "config.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=2, help="size of a shard")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    files = store_files(load(CONFIG).experiments["dit-imagenet"].data, IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        store = project / "store"
        store.mkdir()
        for number in range(files):
            (store / f"train-{number:05d}.safetensors").write_bytes(os.urandom(options.megabytes << 20))
        for command in (["git", "init", "--quiet"], ["dvc", "init", "--quiet"], ["dvc", "add", "--quiet", "store"]):
            subprocess.run(command, cwd=project, check=True)
        seconds = []
        for _ in range(options.repeats):
            start = time.perf_counter()
            done = subprocess.run(["dvc", "status"], cwd=project, check=True, capture_output=True, text=True)
            seconds.append(time.perf_counter() - start)
            assert "up to date" in done.stdout
    print(f"{files} files of {options.megabytes} MiB: dvc status {min(seconds):.2f} s at best, {max(seconds):.2f} s at worst")


if __name__ == "__main__":
    main()
