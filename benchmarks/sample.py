"""Sampling against `diffusers`' own pipeline of the same weights: same noise, prompts, steps, guidance, batch, solver and decoder.

`DiTPipeline` and `PixArtAlphaPipeline` get the transformer that `mudit export` would write. Batches of the two, and of ours
compiled, alternate, so that a drift of the machine's speed hits all. Wall seconds and the process's own processor seconds are
stated: the second says what happens on a machine that others use as well. How far the images are apart is printed first.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mudit.config.load import load
from mudit.config.models import DiTSection, ModelSection, PixArtSection
from mudit.config.schema import AnyDiffusion, SampleSection
from mudit.data.encoders import AutoencoderKL
from mudit.diffusion.samplers import initial_noise, null_condition
from mudit.evaluate.drawer import NetworkDrawer
from mudit.evaluate.prompts import LabelPrompts, Prompt, Prompts
from mudit.interchange.diffusers_folder import dit_transformer, pixart_transformer
from mudit.models.condition import TextCondition
from mudit.models.families import build
from mudit.parametrization.apply import fold_multipliers, parametrize
from mudit.parametrization.table import table_for
from mudit.train.weights import own_tensors

CONFIG = Path(__file__).resolve().parent.parent / "config.yaml"
SIZES: dict[str, dict[str, Any]] = {
    "desk": {
        "depth": 2,
        "head_dim": 8,
        "channels": 4,
        "image_size": 16,
        "width": 128,
        "text_dim": 384,
        "max_tokens": 16,
        "halvings": 1,
    },
    "S/2": {
        "depth": 12,
        "head_dim": 64,
        "channels": 4,
        "image_size": 32,
        "width": 384,
        "text_dim": 4096,
        "max_tokens": 120,
        "halvings": 4,
    },
}

Batch = Callable[[], Tensor]


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    for family in arguments.families:
        for size in arguments.sizes:
            _compare(family, size, arguments)


def _compare(family: str, size: str, arguments: argparse.Namespace) -> None:
    sizes = dict(SIZES[size])
    width, halvings = sizes.pop("width"), sizes.pop("halvings")
    section, diffusion = _section(family, sizes, width)
    batch = arguments.batch or (64 if size == "desk" else 4)
    sample = SampleSection(
        train_seeds=[],
        images=batch,
        sampler="dpm-solver++",
        steps=arguments.steps,
        guidance=4.5,
        guide_channels="all",
        seed=0,
        batch_size=batch,
        precision="fp32",
    )
    model = _network(section, width)
    with tempfile.TemporaryDirectory() as folder:
        decoder = _decoder(Path(folder), section.channels, halvings)
    prompts: Prompts = LabelPrompts(section.num_classes, None) if isinstance(section, DiTSection) else _Captions(section)

    def ours(compiled: bool) -> Batch:
        drawer = NetworkDrawer(lambda: copy.deepcopy(model), prompts, decoder, sample, section, diffusion, compiled)
        return lambda: drawer.draw(torch.arange(batch)).images_BCHW

    ways = {"diffusers": _pipeline(section, width, model, decoder, prompts, sample), "ours": ours(False)}
    if not arguments.no_compile:
        ways["ours, compiled"] = ours(True)
    images = {name: draw() for name, draw in ways.items()}  # the first round compiles, and is not timed
    apart = max((images["diffusers"].int() - found.int()).abs().max().item() for found in images.values())
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, draw in ways.items():
            wall, own = time.perf_counter(), time.process_time()
            draw()
            seconds[name].append((time.perf_counter() - wall, time.process_time() - own))
    latents = f"{section.image_size}x{section.image_size}x{section.channels}"
    print(
        f"{family} {size}: width {width}, depth {section.depth}, latents {latents}, batch {batch}, {arguments.steps} steps, "
        f"guidance {sample.guidance}, {arguments.threads} thread(s); pixels at most {apart} of 255 apart"
    )
    walls, owns = ({name: statistics.median(pair[which] for pair in pairs) for name, pairs in seconds.items()} for which in (0, 1))
    for name in ways:
        print(
            f"  {name:15s} {walls[name]:7.3f} s, {owns[name]:7.3f} s of the processor; diffusers takes "
            f"{walls['diffusers'] / walls[name]:.2f}x, {owns['diffusers'] / owns[name]:.2f}x of the processor",
            flush=True,
        )


def _section(family: str, sizes: dict[str, Any], width: int) -> tuple[ModelSection, AnyDiffusion]:
    """The desk study's section with other sizes."""
    experiment = load(CONFIG).experiments["dit-digits" if family == "dit" else "pixart-emoji"]
    known = {name: value for name, value in sizes.items() if name in type(experiment.model).model_fields}
    base = {"base_width": width // 2, "delta_width": width // 2 + sizes["head_dim"]}
    return experiment.model.model_copy(update=known | base), experiment.diffusion


def _network(section: ModelSection, width: int) -> nn.Module:
    """Under muP, with no weight left at zero."""
    model = parametrize(build(section, width), table_for(section, width, "mup"), seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model.requires_grad_(False)


def _decoder(folder: Path, channels: int, halvings: int) -> AutoencoderKL:
    """A small autoencoder: both sides decode with it, and it should not hide the transformer."""
    from diffusers import AutoencoderKL as Network

    torch.manual_seed(0)
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * halvings, "up_block_types": ("UpDecoderBlock2D",) * halvings}
    sizes = {"block_out_channels": (16,) * halvings, "latent_channels": channels, "norm_num_groups": 4, "layers_per_block": 1}
    Network(**kinds, **sizes).save_pretrained(folder)
    return AutoencoderKL(folder, 1.0)


class _Captions:
    """Random captions of half the longest length, on average."""

    def __init__(self, section: PixArtSection) -> None:
        self.identity: dict[str, Any] = {"kind": "random"}
        self._section = section

    def of(self, numbers_B: Tensor) -> Prompt:
        section, count = self._section, len(numbers_B)
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randn(count, section.max_tokens, section.text_dim, generator=generator)
        lengths_B = torch.randint(1, section.max_tokens + 1, (count,), generator=generator)
        mask = torch.arange(section.max_tokens) < lengths_B[:, None]
        condition = TextCondition(tokens, mask, torch.zeros(count, 1), torch.zeros(count, dtype=torch.bool))
        return Prompt(condition, null_condition(condition, None), torch.zeros(count).long(), numbers_B, None)

    def texts(self, count: int) -> None:
        return None


def _pipeline(
    section: ModelSection, width: int, model: nn.Module, decoder: AutoencoderKL, prompts: Prompts, sample: SampleSection
) -> Batch:
    """One batch of diffusers' pipeline, as uint8 images."""
    from diffusers import DiTPipeline, DPMSolverMultistepScheduler, PixArtAlphaPipeline
    from diffusers.pipelines.dit import pipeline_dit

    from mudit.data.encoders import to_uint8

    folded = fold_multipliers(copy.deepcopy(model), table_for(section, width, "mup"))
    state = own_tensors(folded)
    linear = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    scheduler = DPMSolverMultistepScheduler(**linear)
    count = sample.batch_size
    noise_BCHW = initial_noise(sample.seed, torch.arange(count), (section.channels, section.image_size, section.image_size))
    prompt = prompts.of(torch.arange(count))
    settings = {"num_inference_steps": sample.steps, "guidance_scale": sample.guidance, "output_type": "pt"}
    vae = copy.deepcopy(decoder._network)
    vae.register_to_config(scaling_factor=decoder.latent_scale)
    if isinstance(section, DiTSection):
        transformer = dit_transformer(section, width, state, [])
        for block in transformer.transformer_blocks:
            block.norm1.emb.time_proj.downscale_freq_shift = 0
        pipe = DiTPipeline(transformer, vae, scheduler)
        pipeline_dit.randn_tensor = lambda **options: noise_BCHW
        settings["class_labels"] = prompt.labels_B.tolist()
    else:
        assert isinstance(section, PixArtSection) and isinstance(prompt.condition, TextCondition)
        transformer = pixart_transformer(section, width, state, [])
        pipe = PixArtAlphaPipeline(None, None, vae, transformer, scheduler)
        null = state["y_embedder.y_embedding"].expand(count, -1, -1)
        settings |= {
            "latents": noise_BCHW,
            "prompt_embeds": prompt.condition.tokens,
            "prompt_attention_mask": prompt.condition.mask.long(),
            "negative_prompt": None,
            "negative_prompt_embeds": null,
            "negative_prompt_attention_mask": torch.ones(count, section.max_tokens, dtype=torch.long),
            "use_resolution_binning": False,
        }
    pipe.set_progress_bar_config(disable=True)
    return lambda: to_uint8(pipe(**settings).images * 2 - 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="+", default=["dit", "pixart"], choices=["dit", "pixart"])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--rounds", type=int, default=5, help="timed batches of each way (default: 5)")
    parser.add_argument("--steps", type=int, default=20, help="of the solver (default: 20)")
    parser.add_argument("--batch", type=int, help="images (default: 64 at desk size, else 4)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled way out")
    return parser.parse_args()


if __name__ == "__main__":
    main()
