"""What the published code does that changes numbers: which of it an experiment repeats, and the list of all. Imports no torch.

An experiment without the section `published` has everything repaired. A switch enters the parameters of the stages that it changes
and of no others (`mudit.depend.published`), and only when it is on. The report and docs/published.md print the lists below.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from mudit.config.base import PositiveInt, Section
from mudit.config.models import AnyModel, PixArtSection

if TYPE_CHECKING:
    from mudit.config.schema import Experiment

Switch = Literal["shared-draws", "scaled-warmup", "frozen-null-caption", "random-labels", "raw-weights"]

_PER_PROCESS: tuple[Switch, ...] = ("shared-draws", "scaled-warmup")


class PublishedSection(Section):
    """Behaviours of the published code to repeat. Left out, or with no switches: all are repaired (docs/published.md)."""

    switches: list[Switch] = Field(description="what to repeat; [] for nothing")
    images_per_process: PositiveInt | None = Field(
        description="images of one process of the published run (PixArt-α: 176 on each GPU, for proxy and target alike); "
        "for `shared-draws` and `scaled-warmup`, null without them"
    )


class Behaviour(NamedTuple):
    """One thing that published code does and that changes a result."""

    family: str  # whose code
    published: str
    source: str  # where it is seen, and how well it is known
    repaired: str
    key: str  # what repeats it in config.yaml


BEHAVIOURS: dict[str, Behaviour] = {
    "shared-draws": Behaviour(
        "pixart",
        "every process starts from the same seed, so all draw the same times, noise, posterior noise and dropped captions: the "
        "draws of a batch repeat from process to process",
        "PixArt-α, train_scripts/train.py and diffusion/utils/misc.py: read, not run",
        "every place in the global batch has draws of its own",
        "published.switches",
    ),
    "scaled-warmup": Behaviour(
        "pixart",
        "the scheduler steps once per process and optimizer step: 1,000 steps of warm-up are 125 "
        "on 8 GPUs (proxy) and 31 on 32 (target)",
        "accelerate's scheduler, as train_scripts/train.py prepares it: read, not run",
        "steps of warm-up are optimizer steps",
        "published.switches",
    ),
    "frozen-null-caption": Behaviour(
        "pixart",
        "the null caption of guidance is a random constant outside the optimizer, behind the mask of the caption that it replaces",
        "PixArt-α, diffusion/model/nets: a buffer; seen by running the authors' class",
        "a trained parameter, seen whole",
        "published.switches",
    ),
    "random-labels": Behaviour(
        "dit",
        "the classes of sampled images are drawn at random",
        "DiT, sample_ddp.py: read",
        "classes take turns, so a set is balanced",
        "published.switches",
    ),
    "raw-weights": Behaviour(
        "pixart",
        "images are drawn, and scored, from the raw weights; the average is stored and not used",
        "PixArt-α, scripts/inference.py: read",
        "from the average (EMA), as DiT does",
        "published.switches",
    ),
    "three-channel-guidance": Behaviour(
        "dit",
        "guidance steers the first three of four latent channels",
        "DiT, models.py: read",
        "all channels",
        "sample.guide_channels: first-three",
    ),
}


class Repaired(NamedTuple):
    """One thing that published code does and that is never repeated here."""

    published: str
    why: str


ALWAYS_REPAIRED = (
    Repaired(
        "resuming repeats the epoch from its start (DiT) or skips the rest of it (PixArt-α), with other random numbers",
        "a defect of the restart, not of the method: it depends on when a run was killed. Here a resumed run "
        "is the uninterrupted one",
    ),
    Repaired(
        "a missing or unreadable training image is replaced by a random other one, uncounted (PixArt-α)",
        "depends on which files a download lost; here bad samples are listed, and too many stop the run",
    ),
    Repaired(
        "images are scored from JPEG files (PixArt-α)",
        "the loss depends on an encoder's version; samples are kept without loss, and no JPEG is written here",
    ),
    Repaired(
        "a caption is recovered from its image's file name, cut and without punctuation; equal names overwrite each other "
        "(PixArt-α)",
        "an accident of storage: images and captions are kept together by number",
    ),
    Repaired(
        "an image that cannot be read is scored as a black one (PixArt-α)",
        "hides a failure in the mean; images that are not finite make a score unusable, and are counted",
    ),
    Repaired(
        "the noise of samples depends on the number of GPUs (DiT)",
        "the streams of the published GPUs cannot be drawn elsewhere: image i has noise (seed, i) for any number of processes",
    ),
    Repaired(
        "one autoencoder encodes (sd-vae-ft-ema), another decodes (sd-vae-ft-mse) (DiT)",
        "the store's own autoencoder decodes, so scores differ from the published ones by what the other does; not measured",
    ),
)


def per_process(switches: Iterable[str]) -> list[str]:
    """Those that depend on how many images each process of the published run had."""
    return [switch for switch in switches if switch in _PER_PROCESS]


def repeats(experiment: Experiment, name: str) -> bool:
    """Whether the experiment has a behaviour of BEHAVIOURS as published."""
    if name == "three-channel-guidance":
        return experiment.has("sample") and experiment.sample.guide_channels == "first-three"
    return experiment.as_published(name)


def sampled_weights(experiment: Experiment) -> Literal["ema", "raw"]:
    """Which weights of a run images are drawn from, and scores are stated of."""
    return "raw" if experiment.as_published("raw-weights") else "ema"


def images_sharing_draws(experiment: Experiment) -> int | None:
    """Places of the batch after which its random numbers repeat; None: they do not."""
    return experiment.published.images_per_process if experiment.as_published("shared-draws") else None


def warmup_steps(experiment: Experiment, batch_size: int) -> int:
    """Optimizer steps over which the rate rises, for a run with batches of this many images."""
    stated = experiment.optimizer.warmup_steps
    if not experiment.as_published("scaled-warmup"):
        return stated
    per_process = experiment.published.images_per_process
    assert per_process is not None, "check_published asks for it"
    return max(1, round(stated * per_process / batch_size))


def model_as_published(experiment: Experiment) -> AnyModel:
    """The model's section with `frozen-null-caption`, which changes the architecture: whoever builds the model must see it."""
    if not isinstance(experiment.model, PixArtSection) or not experiment.as_published("frozen-null-caption"):
        return experiment.model
    return experiment.model.model_copy(update={"frozen_null_caption": True})


def check_published(experiment: Experiment) -> None:
    """Raises ValueError, with one line that names the place, for a switch that would change nothing or lacks what it needs."""
    frozen = isinstance(experiment.model, PixArtSection) and experiment.model.frozen_null_caption
    if frozen and not experiment.as_published("frozen-null-caption"):
        raise ValueError("model.frozen_null_caption: is no key of the file; name frozen-null-caption in published.switches")
    if not experiment.has("published"):
        return
    section = experiment.published
    for switch in section.switches:
        if section.switches.count(switch) > 1:
            raise ValueError(f"published.switches: {switch} stands there twice")
        if reason := _without_effect(experiment, switch):
            raise ValueError(f"published.switches: {switch} changes nothing here, because {reason}; leave it out")
    asking = per_process(section.switches)
    if asking and section.images_per_process is None:
        raise ValueError(f"published.images_per_process: {asking[0]} needs the images of one process of the published run")
    if section.images_per_process is None:
        return
    if not asking:
        raise ValueError(f"published.images_per_process: set it to null; only {' and '.join(_PER_PROCESS)} read it")
    for where, batch_size in _batch_sizes(experiment):
        if batch_size % section.images_per_process:
            raise ValueError(
                f"published.images_per_process: {section.images_per_process} does not divide {where} {batch_size}; "
                "change one of them, so that whole processes make a batch"
            )


def _without_effect(experiment: Experiment, switch: Switch) -> str | None:
    if switch == "shared-draws" and not any(experiment.has(name) for name in ("sweep", "search", "train")):
        return "nothing is trained"
    if switch == "scaled-warmup":
        if experiment.has("search"):
            return "the search draws warm-ups of its own"
        if not experiment.optimizer.warmup_steps:
            return "optimizer.warmup_steps is 0"
        if not any(experiment.has(name) for name in ("sweep", "train")):
            return "nothing is trained"
    if switch == "frozen-null-caption" and experiment.model.family != "pixart":
        return f"a {experiment.model.family} model has no null caption"
    if switch in ("random-labels", "raw-weights") and not experiment.has("sample"):
        return "no images are drawn"
    if switch == "random-labels" and experiment.model.conditioning == "text":
        return "the model is conditioned on captions"
    return None


def _batch_sizes(experiment: Experiment) -> Iterator[tuple[str, int]]:
    """Batches that are trained on, each with its place in the file."""
    if experiment.has("train"):
        yield "train.batch_size", experiment.train.batch_size
    if experiment.has("search"):
        yield "search.batch_size", experiment.search.batch_size
    if experiment.has("sweep"):
        from mudit.sweep.settings import settings

        for setting in settings(experiment.sweep):
            yield "the sweeps' batch_size", setting.batch_size
