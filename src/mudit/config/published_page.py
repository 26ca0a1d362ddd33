"""docs/published.md, generated from the lists in `mudit.config.published`."""

from __future__ import annotations

from mudit.config.published import ALWAYS_REPAIRED, BEHAVIOURS

PUBLISHED_FILE = "docs/published.md"

CODE = {"dit": "DiT", "pixart": "PixArt-α"}

_INTRODUCTION = """# As published, or repaired

The authors' code, and the code that it stands on, do things that change numbers and that the paper does not speak of. Here they are
repaired unless an experiment asks for them, so that a difference to the paper can be told from a repair. The report of every
experiment has this table with its own settings. This page is generated from `src/mudit/config/published.py` by `mudit config fix`.

```yaml
published:
  switches: [shared-draws, scaled-warmup, frozen-null-caption, raw-weights]    # PixArt-α as it was trained and scored
  images_per_process: 176                                                      # on each GPU; null without the first two
```

Without the section, everything is repaired. A switch makes stale what it changes and nothing else. One that would change nothing (a
scaled warm-up where there is no warm-up) is an error.

What a switch cannot do is give the published numbers back: streams of random numbers are our own. The processes of the published
run follow from `images_per_process`: a batch of 1,408 is 8 of them, one of 5,632 is 32, however many processes train it here.

## Switches

| switch | code | as published | seen in | repaired |
|---|---|---|---|---|
"""

_ALWAYS = """
`three-channel-guidance` is a field of its own, `sample.guide_channels: first-three`, and no name in `published.switches`.

## Always repaired

| published code | here |
|---|---|
"""


def published_page() -> str:
    """The page, Markdown."""
    rows = [
        f"| `{name}` | {CODE[each.family]} | {each.published} | {each.source} | {each.repaired} |\n"
        for name, each in BEHAVIOURS.items()
    ]
    always = [f"| {each.published} | {each.why} |\n" for each in ALWAYS_REPAIRED]
    return "".join([_INTRODUCTION, *rows, _ALWAYS, *always])
