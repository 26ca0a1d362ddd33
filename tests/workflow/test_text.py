"""The text families through the real engine, on a captioned folder of one's own: search, transfer, scorer, scores, claims."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .conftest import REPOSITORY, Workspace, working_copy

pytestmark = pytest.mark.slow
COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 220), "yellow": (230, 210, 40), "grey": (130, 130, 130)}
SIDES = (5, 7, 9, 11, 13)


def draw(folder: Path) -> None:
    """Squares in two styles, five colours and five sizes, in class folders, each with its caption beside it."""
    for style in ("filled", "outlined"):
        (folder / style).mkdir(parents=True)
        for name, colour in COLOURS.items():
            for side in SIDES:
                pixels = np.full((16, 16, 3), 255, np.uint8)
                low, high = 8 - side // 2, 9 + side // 2
                pixels[low:high, low:high] = colour
                if style == "outlined":
                    pixels[low + 1 : high - 1, low + 1 : high - 1] = 255
                Image.fromarray(pixels).save(folder / style / f"{name}-{side}.png")
                (folder / style / f"{name}-{side}.txt").write_text(f"{style} {name} square, {side} wide\n")


@pytest.fixture(scope="module")
def finished_text(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Both experiments after one `snakemake --cores 2`."""
    made = working_copy(tmp_path_factory.mktemp("text") / "project", REPOSITORY / "tests/smoke-text/config.yaml")
    draw(made.path / "captioned")
    made.snakemake()
    return made


def test_everything_is_made_once_and_fresh(finished_text: Workspace) -> None:
    finished_text.run("mudit", "verify")
    assert finished_text.planned() == Counter()


def test_the_target_trains_with_what_the_search_found(finished_text: Workspace) -> None:
    results = finished_text.path / "results/smoke-mmdit"
    search = json.loads((results / "search/search.json").read_text())
    confirmed = [trial for trial in search["trials"] if trial["number"] in search["confirmed"]]
    drawn = min(confirmed, key=lambda trial: trial["mean"])["draw"]
    ours, default = (json.loads((results / f"transfer/{arm}/hyperparameters.json").read_text()) for arm in ("mup", "sp-default"))
    assert (ours["log2_lr"], ours["warmup_steps"]) == (drawn["log2_lr"], drawn["warmup_steps"])
    assert ours["clip_norm"] == pytest.approx(2 ** drawn["log2_clip_norm"])
    assert ours["alignment_weight"] == pytest.approx(2 ** drawn["log2_alignment_weight"])
    assert (default["clip_norm"], default["warmup_steps"], default["alignment_weight"]) == (0.1, 0, 0.5)


def test_the_baselines_rate_follows_the_root_of_the_batch(finished_text: Workspace) -> None:
    path = finished_text.path / "results/smoke-pixart/transfer/sp-published/hyperparameters.json"
    assert 2 ** json.loads(path.read_text())["log2_lr"] == pytest.approx(2e-5 * (16 / 256) ** 0.5)


def test_images_are_scored_against_their_captions(finished_text: Workspace) -> None:
    metrics = json.loads((finished_text.path / "results/smoke-mmdit/evaluate/mup_s0/metrics.json").read_text())
    records = {record["metric"]: record for record in metrics["records"]}
    assert {"clip_like_score", "style_accuracy", "subject_accuracy", "composition_accuracy", "kernel_distance"} <= records.keys()
    assert all("sha256" in json.dumps(record) for record in records.values())


def test_claims_are_those_of_the_reports(finished_text: Workspace) -> None:
    claims = json.loads(finished_text.run("mudit", "claims", "--json").stdout)["claims"]
    assert {"H1", "H4", "H5"} <= {claim["hypothesis"] for claim in claims}
    assert {claim["experiment"] for claim in claims} == {"smoke-pixart", "smoke-mmdit"}
