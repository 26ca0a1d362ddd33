"""What a command line does beyond making an artefact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mudit.commands.making import make_artefact
from mudit.config.schema import Experiment
from mudit.errors import GateError
from mudit.provenance import execute
from mudit.stages import parse

SLOPE = {"low": 0.9, "high": 1.1, "step": 1, "flat": False, "slope": 1.0}


def test_a_failed_coordinate_check_leaves_a_picture(desk: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    gate = parse("dit-digits", "coordcheck/dit")
    slopes = [{**SLOPE, "probe": probe, "name": "output"} for probe in ("size", "update")]
    measurements = [{"probe": "update", "name": "output", "step": 1, "width": width, "seed": 0, "rms": width} for width in (16, 32)]
    result = {"failed": 2, "worst": slopes[0], "slopes": slopes, "measurements": measurements}
    numbers = {"family": "dit", "tolerance": 0.25, "confidence": 0.95, "widths": [16, 32], "schemes": {"mup": result, "sp": result}}

    def fails(*_: object, force: bool) -> None:
        gate.state.mkdir(parents=True)
        (gate.state / "coordcheck.json").write_text(json.dumps(numbers))
        raise GateError("slopes under muP are not flat")

    monkeypatch.setattr(execute, "make", fails)
    with pytest.raises(GateError, match="not flat"):
        make_artefact(gate, desk, force=False)
    assert (gate.state / "coordcheck.png").read_bytes().startswith(b"\x89PNG")
