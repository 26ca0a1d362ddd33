"""What differs between the paper's experiment and this one, line by line: what, in the paper, here."""

from __future__ import annotations

from mudit.report import paper, text
from mudit.report.evidence import Evidence
from mudit.report.style import power

Line = tuple[str, str, str]

_DATA = {
    "dit": "ImageNet, latents of 256-pixel images, 1.28M",
    "pixart": "SA-1B with LLaVA captions, latents of 256-pixel images, 11M; T5-XXL",
    "uvit": "none: theory only",
    "mmdit": "internal text-to-image data",
}
_MODEL = {
    "dit": "DiT, depth 28, 72 channels per head, patch 2",
    "pixart": "PixArt-α, depth 28, 72 channels per head, patch 2",
    "uvit": "U-ViT, no experiment",
    "mmdit": "MMDiT with REPA; depth and heads not stated",
}
_SWEEP = {
    "dit": "widths 144, 288, 576; base 288; batch 256; 200K steps; one seed of 2⁻¹³ to 2⁻⁹",
    "pixart": "width 288, batch 1,408, 5 epochs (39K steps); one seed of 2⁻¹³ to 2⁻⁹",
    "uvit": "none",
}
_TARGET = {
    "dit": "width 1152, 675M parameters, batch 256, 2.4M steps",
    "pixart": "width 1152, 611M parameters, batch 5,632, 30 epochs (59K steps)",
    "mmdit": "18B parameters, 200K steps; width and batch not stated",
}
_BASELINES = {
    "dit": "DiT's own initialisation, lr 1e-4, not tuned",
    "pixart": "PixArt-α's own initialisation, lr 2e-5 scaled by the root of the batch to 9.4e-5",
    "mmdit": "tuned by human experts, at about 5 runs' cost",
}
_JUDGES = {
    "dit": "50,000 images, 250 DDPM steps, Inception features (FID)",
    "pixart": "30,000 images, 20 DPM-Solver steps, guidance 4.5: FID, CLIP, GenEval",
    "mmdit": "GenEval, text-image alignment",
}
_HARDWARE = {"dit": "32 A100-80GB", "pixart": "32 A100-80GB"}
_UNSTATED = "not stated"


def differences(evidence: Evidence) -> list[Line]:
    """Lines for the parts that the experiment has. A family that is not the paper's has nothing to compare with."""
    family = evidence.family
    if family not in paper.RULES:
        return []
    lines = [
        ("Data", _DATA[family], _data(evidence)),
        ("Model", _MODEL[family], _model(evidence)),
        *_tuning(evidence),
        *_target(evidence),
        *_images(evidence),
    ]
    devices = sorted({manifest["run"]["device"] for manifest in evidence.manifests.values()})
    return [*lines, ("Hardware", _HARDWARE.get(family, _UNSTATED), text.listed(devices))]


def _data(evidence: Evidence) -> str:
    data = evidence.config.data
    captions = "" if data.captions is None else f", captions by {data.captions.tokens.name}"
    return f"{data.source.kind}, {data.image_size} pixels, encoder {data.encoder}{captions}"


def _model(evidence: Evidence) -> str:
    model = evidence.config.model
    details = {"depth": "depth {}", "head_dim": "{} channels per head", "patch_size": "patch {}"}
    shown = [form.format(getattr(model, name)) for name, form in details.items() if hasattr(model, name)]
    return ", ".join([paper.FAMILIES[model.family], *shown])


def _tuning(evidence: Evidence) -> list[Line]:
    config, family = evidence.config, evidence.family
    if config.has("search"):
        search = config.search
        return [
            (
                "Search",
                "80 random trials over lr, clip, REPA weight, warm-up; 0.18B parameters, width 512, 30K steps",
                f"{search.trials} random trials; width {search.width}, batch {search.batch_size}, {search.steps} steps; the best "
                f"{search.confirm} with {len(search.seeds)} seeds",
            )
        ]
    if not config.has("sweep"):
        return []
    sweep = config.sweep
    widths = f"width{'s' if len(sweep.widths.width) > 1 else ''} {text.listed(sweep.widths.width)}"
    grid = f"first grid {power(sweep.log2_lr[0])} to {power(sweep.log2_lr[-1])}, grown until the minimum is inside"
    here = (
        f"{widths}; base {config.model.base_width}; batch {sweep.widths.batch_size}; {sweep.widths.steps} steps; {grid}; "
        f"{len(sweep.seeds)} seeds where it decides"
    )
    judged = "the lowest FID or GenEval, by eye" if family != "uvit" else "–"
    return [
        ("Sweeps", _SWEEP.get(family, _UNSTATED), here),
        ("Judged by", judged, "fitted optimum of the validation mse, with intervals and a stated tolerance"),
    ]


def _target(evidence: Evidence) -> list[Line]:
    if not evidence.config.has("train"):
        return []
    train, family = evidence.config.train, evidence.family
    parameters = evidence.runs[0].outcome["parameters"]
    lines = [
        (
            "Target",
            _TARGET.get(family, _UNSTATED),
            f"width {train.width}, {parameters / 1e6:.2f}M parameters, batch {train.batch_size}, {train.steps} steps, "
            f"{len(train.seeds)} seed{'s' if len(train.seeds) > 1 else ''}",
        ),
        (
            "Baselines",
            _BASELINES.get(family, _UNSTATED),
            text.listed([name for name in evidence.arms if name != evidence.subject] or ["none"]),
        ),
    ]
    if family == "dit":
        here = f"steps to equal validation mse of EMA weights (decay {train.ema_decay:g})"
        lines.append(("Speed-up", "iterations to equal FID", here))
    return lines


def _images(evidence: Evidence) -> list[Line]:
    config = evidence.config
    if not config.has("sample"):
        return []
    here = f"{config.sample.images}, {config.sample.steps} {config.sample.sampler} steps, guidance {config.sample.guidance:g}"
    if config.has("evaluate"):
        here += f", {config.evaluate.extractor} features"
    if config.has("scorer"):
        here += "; a scorer trained on the same data, and a check of style and subject"
    return [("Images", _JUDGES.get(evidence.family, _UNSTATED), here)]
