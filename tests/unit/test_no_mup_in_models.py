"""Models are architecture only."""

from pathlib import Path

import mudit.models


def test_models_know_nothing_of_the_parametrization():
    for path in Path(mudit.models.__file__).parent.glob("*.py"):
        text = path.read_text()
        for word in ("import mup", "infshape", "mudit.parametrization", ".cuda(", "nn.init"):
            assert word not in text, f"{path.name} mentions {word}"
