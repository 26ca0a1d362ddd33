"""What the sections of one experiment ask of each other. Each function raises ValueError with one line that names the place."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mudit.config.benchmarks import INTERVAL_NEEDS, check_benchmarks
from mudit.config.models import MMDiTSection, PixArtSection, UViTSection
from mudit.config.published import check_published
from mudit.sizes import JACKKNIFE_GROUPS, KEPT_IMAGES, SCORE_SPLITS

if TYPE_CHECKING:
    from mudit.config.schema import Experiment

# section -> sections without which its stages cannot run
_NEEDS: dict[str, tuple[str, ...]] = {
    "sweep": ("select",),
    "select": ("sweep",),
    "transfer": ("select",),
    "train": (),
    "sample": (),
    "scorer": ("evaluate",),
    "evaluate": ("sample",),
}
_PROTOCOLS = {"fid-50k": 50_000, "fid-30k": 30_000}  # images
_NEIGHBOURS = 3  # of precision and recall, as published
_INCEPTION = "inception-v3-compat"


def check_fits(experiment: Experiment) -> None:
    """Every check, in the order of the file."""
    _check_sections(experiment)
    _check_objective(experiment)
    _check_captions(experiment)
    _check_widths(experiment)
    _check_features(experiment)
    _check_arms(experiment)
    _check_protocol(experiment)
    _check_counts(experiment)
    check_benchmarks(experiment)
    check_published(experiment)


def _check_sections(experiment: Experiment) -> None:
    for section, needed in _NEEDS.items():
        for other in needed if experiment.has(section) else ():
            if not experiment.has(other):
                raise ValueError(f"{section}: needs a section {other}")
    if experiment.has("sample"):
        _check_sampled(experiment)
    if experiment.has("sweep", "search"):
        raise ValueError("search: an experiment has a sweep or a search, not both")
    if experiment.has("scorer") and experiment.model.conditioning != "text":
        raise ValueError("scorer: scores captions, and this model is conditioned on labels; leave the section out")


def _check_sampled(experiment: Experiment) -> None:
    """There is something to sample: target runs, or checkpoints from elsewhere."""
    seeds = experiment.sample.train_seeds
    if not experiment.has("train") and not experiment.has("imported"):
        raise ValueError("sample: needs a section train, or imported")
    if seeds and not experiment.has("train"):
        raise ValueError(f"sample.train_seeds: {seeds}, but there is no section train; give []")
    if not seeds and not experiment.has("imported"):
        raise ValueError("sample.train_seeds: empty, and there is no section imported; nothing would be sampled")
    if experiment.has("train") and experiment.train.snapshots and experiment.as_published("raw-weights"):
        raise ValueError("train.snapshots: are averages, and the switch raw-weights samples raw weights; leave one of them out")


def _check_protocol(experiment: Experiment) -> None:
    """Figures that are called FID-50K are that."""
    if not experiment.has("sample", "evaluate"):
        return
    section, inception = experiment.evaluate, experiment.evaluate.extractor == _INCEPTION
    if section.weights is not None and not inception:
        raise ValueError(f"evaluate.weights: only {_INCEPTION} reads a file; set it to null")
    if section.reference.kind == "file" and not inception:
        raise ValueError(f"evaluate.reference: a file has statistics of {_INCEPTION}, not of {section.extractor}; set kind to data")
    wanted = _PROTOCOLS.get(section.protocol)
    if wanted is None:
        return
    if experiment.sample.images != wanted:
        raise ValueError(
            f"sample.images: {experiment.sample.images}, but evaluate.protocol {section.protocol} is of {wanted}; make them equal, "
            "or set the protocol to any"
        )
    if not inception:
        raise ValueError(
            f"evaluate.extractor: {section.extractor}, but evaluate.protocol {section.protocol} is of {_INCEPTION}; take that, or "
            "set the protocol to any"
        )
    if section.neighbours != _NEIGHBOURS:
        raise ValueError(
            f"evaluate.neighbours: {section.neighbours}, but published precision and recall are of {_NEIGHBOURS}; take that, or "
            "set evaluate.protocol to any"
        )
    reference = section.reference
    fewest = math.inf if section.protocol == "fid-50k" else wanted  # FID-50K compares with a whole training set
    if reference.kind == "data" and section.protocol == "fid-50k" and experiment.data.share < 1:
        raise ValueError(
            f"data.share: {experiment.data.share:g}, but evaluate.protocol fid-50k compares with all training images; set "
            "evaluate.reference to a published file, or the protocol to any"
        )
    if reference.kind == "data" and reference.images is not None and reference.images < fewest:
        least = "all training images, null, or a published file" if fewest == math.inf else f"{fewest} or more"
        raise ValueError(
            f"evaluate.reference.images: {reference.images}, but evaluate.protocol {section.protocol} compares with {least}; set "
            "that, or the protocol to any"
        )


def _check_counts(experiment: Experiment) -> None:
    """Every figure has the images that it needs. What only the data tell is checked when they are there."""
    if not experiment.has("sample", "evaluate"):
        return
    section, held_out = experiment.evaluate, experiment.data.validation_images
    if experiment.sample.images < JACKKNIFE_GROUPS:
        raise ValueError(f"sample.images: {experiment.sample.images}, but {INTERVAL_NEEDS}; make it {JACKKNIFE_GROUPS} or more")
    counts = {"sample.images": experiment.sample.images, "data.validation_images": min(held_out, KEPT_IMAGES)}
    for where, count in counts.items():
        if count < SCORE_SPLITS:
            raise ValueError(f"{where}: {count}, but the inception score needs {SCORE_SPLITS} or more; raise it")
    if section.reference.kind == "data":
        images = section.reference.images
        counts["the kept reference images"] = KEPT_IMAGES if images is None else min(images, KEPT_IMAGES)
    where = min(counts, key=counts.__getitem__)
    if section.kid_subset_size > counts[where]:
        raise ValueError(f"evaluate.kid_subset_size: {section.kid_subset_size}, but {where}: {counts[where]}; lower it")
    if section.neighbours >= counts[where]:
        raise ValueError(f"evaluate.neighbours: {section.neighbours}, but {where}: {counts[where]}; lower it")


def _check_objective(experiment: Experiment) -> None:
    diffusion, model = experiment.diffusion, experiment.model
    learned = diffusion.kind == "gaussian" and diffusion.variance == "learned-range"
    if model.learns_variance and not learned:
        raise ValueError(f"diffusion: a {model.family} model learns the variance; set kind gaussian and variance learned-range")
    if learned and not model.learns_variance:
        raise ValueError(f"diffusion.variance: a {model.family} model has no output for the variance; set it to fixed")
    if experiment.has("sample") and (experiment.sample.sampler == "euler") != (diffusion.kind == "rectified-flow"):
        raise ValueError(f"sample.sampler: {experiment.sample.sampler} does not fit diffusion.kind {diffusion.kind}")
    if model.conditioning == "text" and experiment.data.captions is None and model.family != "external":
        raise ValueError(f"data.captions: a {model.family} model reads captions; say how they are encoded")


def _check_captions(experiment: Experiment) -> None:
    model, captions = experiment.model, experiment.data.captions
    if (
        captions is not None
        and isinstance(model, PixArtSection | UViTSection | MMDiTSection)
        and model.max_tokens not in (None, captions.max_tokens)
    ):
        raise ValueError(
            f"model.max_tokens: {model.max_tokens}, but data.captions.max_tokens is {captions.max_tokens}; make them equal"
        )


def _check_widths(experiment: Experiment) -> None:
    widths: dict[str, list[int]] = {"coordcheck.widths": experiment.coordcheck.widths}
    if experiment.has("sweep"):
        sweep = experiment.sweep
        widths["sweep.widths.width"] = sweep.widths.width
        widths |= {
            f"sweep.{name}.width": [axis.width]
            for name, axis in (("batch_sizes", sweep.batch_sizes), ("steps", sweep.steps), ("tuned", sweep.tuned))
            if axis is not None
        }
        if sweep.output_mults is not None:
            widths["sweep.output_mults.width"] = sweep.output_mults.width
    if experiment.has("search"):
        widths["search.width"] = [experiment.search.width]
    if experiment.has("train"):
        widths["train.width"] = [experiment.train.width]
    for where, values in widths.items():
        for width in values:
            if width % experiment.model.head_dim:
                raise ValueError(f"{where}: width {width} is not a multiple of model.head_dim {experiment.model.head_dim}")


def _check_features(experiment: Experiment) -> None:
    model = experiment.model
    alignment = model.alignment if isinstance(model, MMDiTSection) else None
    wanted = experiment.has("search") or experiment.diffusion.alignment_weight > 0
    if wanted and alignment is None:
        raise ValueError(
            "diffusion.alignment_weight: the model has no projector for REPA; give model.alignment or set the weight to 0"
        )
    if alignment is None or not isinstance(model, MMDiTSection):
        return
    features = experiment.data.features
    if features is None:
        raise ValueError("model.alignment: needs image features in the store; give data.features")
    grid = model.image_size // model.patch_size
    if features.grid != grid:
        raise ValueError(f"data.features.grid: {features.grid}, but the model has {grid}x{grid} patches")


def _check_arms(experiment: Experiment) -> None:
    if experiment.has("transfer"):
        _check_proxy(experiment)
    if not experiment.has("train"):
        return
    if experiment.has("sample"):
        for seed in experiment.sample.train_seeds:
            if seed not in experiment.train.seeds:
                raise ValueError(f"sample.train_seeds: {seed} is not in train.seeds {experiment.train.seeds}")
    for name, arm in experiment.train.arms.items():
        _check_arm(experiment, f"train.arms.{name}", arm.scheme, arm.log2_lr)


def _check_proxy(experiment: Experiment) -> None:
    """Some sweep is that of the proxy: hours before the stage `transfer` looks for it."""
    proxy, widths = experiment.transfer, experiment.sweep.widths
    if proxy.proxy_width not in widths.width:
        raise ValueError(f"transfer.proxy_width {proxy.proxy_width} is not one of sweep.widths {widths.width}")
    for name, ours, swept in (
        ("batch_size", proxy.proxy_batch_size, widths.batch_size),
        ("steps", proxy.proxy_steps, widths.steps),
    ):
        if ours != swept:
            raise ValueError(f"transfer.proxy_{name} {ours}: sweep.widths.{name} is {swept}; make them equal")


def _check_arm(experiment: Experiment, where: str, scheme: str, log2_lr: object) -> None:
    if log2_lr == "tuned":
        tuned = experiment.sweep.tuned if experiment.has("sweep") else None
        if tuned is None or scheme not in tuned.schemes:
            raise ValueError(f"{where}: no sweep tunes it; add {scheme} to sweep.tuned.schemes")
    if log2_lr == "transferred":
        if experiment.has("search"):
            if scheme != experiment.search.scheme:
                raise ValueError(f"{where}: nothing to transfer; search.scheme is {experiment.search.scheme}, not {scheme}")
        elif not experiment.has("sweep", "transfer") or scheme not in experiment.sweep.schemes:
            raise ValueError(f"{where}: nothing to transfer; add {scheme} to sweep.schemes, with a section transfer")
