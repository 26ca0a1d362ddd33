"""Numbers that stages have in code and that the plan counts with, so that both read them here. Imports no torch."""

from __future__ import annotations

from mudit.config.base import SchemeName

GATE_SCHEMES: tuple[SchemeName, ...] = ("mup", "sp")  # the parametrization under test, and the negative control
SHARD_BYTES = 2048 * 3 * 256 * 256  # of images in one file
SHARD_PROMPTS = 1024  # in one file: a gigabyte of T5-XXL's features in half precision at most
KEPT_IMAGES = 10_000  # reference images whose features are kept, and held-out ones: as many as the ADM evaluator's file has
MOMENT_IMAGES = 16_384  # of one piece of the reference: its scatters have 67 MB, whatever the number
JACKKNIFE_GROUPS = 20  # of generated images, left out in turn for the interval of a Fréchet distance
SCORE_SPLITS = 10  # of the inception score, in the order of the images; 5,000 images each of 50,000, as published
