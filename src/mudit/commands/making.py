"""Makes an artefact for a command line. Imports no torch until the stage runs."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from mudit.errors import GateError

if TYPE_CHECKING:
    from mudit.config.schema import Experiment
    from mudit.stages import Artefact

log = logging.getLogger(__name__)


def make_artefact(artefact: Artefact, experiment: Experiment, *, force: bool) -> None:
    """As `provenance.execute.make`, and a coordinate check that fails is drawn beside its numbers.

    The picture is made here because the gate must not depend on how pictures look.
    """
    from mudit.provenance.execute import make

    try:
        make(artefact, experiment, force=force)
    except GateError:
        from mudit.parametrization.gate import NUMBERS_FILE
        from mudit.report.coordcheck_figure import draw

        numbers = artefact.state / NUMBERS_FILE
        draw(json.loads(numbers.read_text(encoding="utf-8")), numbers.with_suffix(".png"))
        log.error("the slopes as a picture: %s", numbers.with_suffix(".png"))
        raise
