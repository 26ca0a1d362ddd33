"""A folder that diffusers' pipelines load: transformer, scheduler, autoencoder, `model_index.json`.

DiTPipeline takes class 1000 for the null class, whatever the model; so a table with fewer classes is filled up with null rows. The
null caption is no part of diffusers' PixArt; it lies beside the pipeline, to be passed as the negative prompt's features.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mudit.config.models import DiTSection, PixArtSection
from mudit.config.schema import AnyDiffusion, GaussianSection
from mudit.data.format import ENCODER_FOLDER, Identity, read_info
from mudit.data.tensors import save_tensors
from mudit.errors import ConfigError
from mudit.interchange.foreign import NULL_CAPTION_FILE
from mudit.interchange.plain import Weights, write_description
from mudit.models.layouts import diffusers as layouts

PIPELINES = {"dit": "DiTPipeline", "pixart": "PixArtAlphaPipeline"}
NULL_CLASS = 1000  # diffusers/pipelines/dit
_LABELS = "y_embedder.embedding_table.weight"
_NULL_CAPTION = "y_embedder.y_embedding"


@dataclass(frozen=True)
class Surroundings:
    """What a pipeline needs besides the transformer, from the latent store that the model was trained on."""

    autoencoder: Path | None
    """Folder of an AutoencoderKL; None for a model of pixels."""
    latent_scale: float
    latent_shift: float
    class_names: list[str]
    text_encoder: Identity | None

    @classmethod
    def of(cls, store: Path) -> Surroundings:
        """Raises DataError if the folder holds no store."""
        info = read_info(store)
        return cls(
            autoencoder=store / ENCODER_FOLDER if info.encoder["name"] == "autoencoder-kl" else None,
            latent_scale=info.latent_scale,
            latent_shift=info.latent_shift,
            class_names=info.class_names,
            text_encoder=None if info.text is None else info.text.encoders["tokens"],
        )


def write_diffusers(weights: Weights, diffusion: AnyDiffusion, around: Surroundings, out: Path) -> list[str]:
    """Fills `out`. Returns what its user must know, a sentence each. Raises ConfigError for what the pipeline cannot express."""
    model = weights.model
    assert isinstance(model, DiTSection | PixArtSection) and isinstance(diffusion, GaussianSection)
    notes: list[str] = []
    if around.autoencoder is not None and around.latent_shift:
        raise ConfigError(
            f"{PIPELINES[model.family]} only scales latents, and this model was trained on latents that data.latent_shift "
            f"{around.latent_shift:g} moves as well: its images would be off; use --format safetensors"
        )
    transformer = (
        dit_transformer(model, weights.width, weights.state, notes)
        if isinstance(model, DiTSection)
        else pixart_transformer(model, weights.width, weights.state, notes)
    )
    transformer.save_pretrained(out / "transformer")
    write_description(weights, "diffusers", out)
    if isinstance(model, PixArtSection):
        save_tensors({"tokens": weights.state[_NULL_CAPTION]}, out / NULL_CAPTION_FILE)
    scheduler = _scheduler(diffusion, model)
    scheduler.save_pretrained(out / "scheduler")
    if around.autoencoder is None:
        notes.append(
            f"the model draws pixels, and {PIPELINES[model.family]} always decodes through an autoencoder: "
            "transformer and scheduler are here alone, to be loaded one by one"
        )
        return notes
    _write_autoencoder(around.autoencoder, around.latent_scale, out / "vae")
    index: dict[str, Any] = {
        "_class_name": PIPELINES[model.family],
        "transformer": ["diffusers", type(transformer).__name__],
        "scheduler": ["diffusers", type(scheduler).__name__],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if isinstance(model, DiTSection):
        index["id2label"] = {str(number): name for number, name in enumerate(around.class_names)}
    else:
        assert around.text_encoder is not None, "a PixArt model's store has captions"
        index |= {"text_encoder": [None, None], "tokenizer": [None, None]}
        encoder = around.text_encoder
        notes.append(
            f"the text encoder ({encoder['name']}, sha256 {str(encoder.get('sha256', 'unknown'))[:12]}) is not copied: pass it as "
            "text_encoder and tokenizer, or pass prompt_embeds"
        )
    (out / "model_index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return notes


def dit_transformer(model: DiTSection, width: int, state: dict[str, Tensor], notes: list[str]) -> Any:
    """`DiTTransformer2DModel` with these weights. Appends to `notes` in what it differs from ours."""
    from diffusers import DiTTransformer2DModel

    if model.num_classes > NULL_CLASS:
        raise ConfigError(
            f"model.num_classes {model.num_classes}: DiTPipeline's null class is {NULL_CLASS}; use --format safetensors"
        )
    table_KD = state[_LABELS]
    missing = NULL_CLASS + 1 - len(table_KD)
    padded = torch.cat([table_KD, table_KD[-1:].expand(missing, -1)])
    if missing:
        notes.append(
            f"classes {model.num_classes} to {NULL_CLASS} are the null class, because DiTPipeline looks for it at {NULL_CLASS}"
        )
    notes.append(
        "diffusers' DiT spaces the frequencies of its time features by 1/127, published DiT and ours by 1/128; for our numbers "
        "set block.norm1.emb.time_proj.downscale_freq_shift = 0 in every block of the loaded transformer"
    )
    network = DiTTransformer2DModel(**_sizes(model, width), num_embeds_ada_norm=NULL_CLASS, norm_eps=1e-6)
    return _filled(network, layouts.dit(model.depth).to_theirs({**state, _LABELS: padded}))


def pixart_transformer(model: PixArtSection, width: int, state: dict[str, Tensor], notes: list[str]) -> Any:
    """`PixArtTransformer2DModel` with these weights. Appends to `notes` in what it differs from ours."""
    from diffusers import PixArtTransformer2DModel

    notes.append(
        f"the null caption of guidance is {NULL_CAPTION_FILE}: pass its tokens as negative_prompt_embeds with a mask of ones, "
        f"negative_prompt=None, and captions padded to {model.max_tokens} tokens"
    )
    network = PixArtTransformer2DModel(
        **_sizes(model, width),
        cross_attention_dim=width,
        caption_channels=model.text_dim,
        interpolation_scale=1,
        use_additional_conditions=False,
    )
    return _filled(network, layouts.pixart(model.depth).to_theirs(state))


def _sizes(model: DiTSection | PixArtSection, width: int) -> dict[str, int]:
    if model.mlp_ratio != 4:
        raise ConfigError(f"model.mlp_ratio {model.mlp_ratio}: diffusers' class has 4 alone; use --format safetensors")
    if width % 4:
        raise ConfigError(f"width {width}: diffusers' position table needs a multiple of 4; use --format safetensors")
    return {
        "num_attention_heads": width // model.head_dim,
        "attention_head_dim": model.head_dim,
        "in_channels": model.channels,
        "out_channels": 2 * model.channels,
        "num_layers": model.depth,
        "sample_size": model.image_size,
        "patch_size": model.patch_size,
    }


def _filled(network: Any, weights: dict[str, Tensor]) -> Any:
    network.load_state_dict({name: tensor.contiguous() for name, tensor in weights.items()}, strict=True)
    return network.eval()


def _scheduler(diffusion: GaussianSection, model: DiTSection | PixArtSection) -> Any:
    """The kind that the published pipeline has, on our noise schedule; it leaves the learned variance out."""
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    process: dict[str, Any] = {
        "num_train_timesteps": diffusion.timesteps,
        "beta_start": diffusion.beta_start,
        "beta_end": diffusion.beta_end,
        "beta_schedule": "linear",
        "prediction_type": "epsilon",
    }
    if isinstance(model, DiTSection):
        return DDIMScheduler(**process, clip_sample=False, timestep_spacing="trailing")
    return DPMSolverMultistepScheduler(**process, timestep_spacing="linspace")


def _write_autoencoder(source: Path, latent_scale: float, out: Path) -> None:
    """The store's own autoencoder, with the latent scale that the model was trained with."""
    out.mkdir()
    for file in source.iterdir():
        if file.name == "config.json":
            own = json.loads(file.read_text(encoding="utf-8"))
            config = {**own, "scaling_factor": latent_scale, "shift_factor": None}
            (out / file.name).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        else:
            shutil.copyfile(file, out / file.name)
