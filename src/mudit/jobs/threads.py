"""How many threads a process may use. Imports no torch."""

from __future__ import annotations

import os
import re


def allowed() -> int:
    """What OMP_NUM_THREADS says for the outermost level ("8,1": 8), as OpenMP reads it; else all cores this process may run on."""
    stated = re.match(r"\s*\+?0*([1-9]\d*)\s*(,|$)", os.environ.get("OMP_NUM_THREADS", ""))
    return int(stated[1]) if stated else len(os.sched_getaffinity(0))
