"""Pixels to posterior moments and latents back to pixels.

Shapes: B batch, C H W channels, height and width of pixels or latents. Pixels are float32 in [-1, 1] on the way in and uint8 in
0..255 on the way out. *Raw* latents are the encoder's own; *latents* are (raw - `latent_shift`) * `latent_scale`: what the
transformer sees.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from mudit.config.data import DataSection
from mudit.data.format import ENCODER_FOLDER, StoreInfo, making
from mudit.data.hub import snapshot
from mudit.errors import ConfigError, DataError
from mudit.files import sha256_file

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_KL_FILES = ("config.json", _WEIGHTS)
# Images of one pass on a CPU: with eight, activations leave its cache, and an image takes twice as long (benchmarks/encode.py).
_CPU_BATCH = 1


class Encoder(Protocol):
    """Both directions of one autoencoder, with its identity for the store."""

    identity: dict[str, str | int]
    latent_scale: float
    latent_shift: float
    has_std: bool
    device: str

    def encode(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and standard deviation of the raw posterior, [B, C, H, W] float32 on the CPU; no std if it is zero."""
        ...

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Pixels, uint8 [B, C, H, W] on the CPU, of scaled latents."""
        ...

    def save(self, folder: Path) -> None:
        """Puts the files that `load_encoder` needs into `folder`, which it makes if there are any."""
        ...


class Identity:
    """Pixel space: the latent is the image."""

    has_std = False
    device = "cpu"

    def __init__(self, latent_scale: float, latent_shift: float = 0.0) -> None:
        self.latent_scale, self.latent_shift = latent_scale, latent_shift
        self.identity: dict[str, str | int] = {"name": "identity"}

    def encode(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor | None]:
        return pixels_BCHW, None

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        return to_uint8(latents_BCHW / self.latent_scale + self.latent_shift)

    def save(self, folder: Path) -> None:
        pass


class AutoencoderKL:
    """A diffusers `AutoencoderKL` from a local folder (`config.json` and safetensors weights), such as SD-VAE."""

    has_std = True

    def __init__(self, folder: Path, latent_scale: float, latent_shift: float = 0.0, weights_sha256: str | None = None) -> None:
        """weights_sha256: what the weights' file must have, None for any.

        Raises DataError if it is no AutoencoderKL, or one whose own configuration has another shift: without it the latents'
        mean is off, and nothing fails.
        """
        for name in _KL_FILES:
            if not (folder / name).is_file():
                raise DataError(
                    f"{folder}: no {name}; data.encoder_path is the folder that diffusers' AutoencoderKL.save_pretrained writes"
                )
        digests = {name: sha256_file(folder / name) for name in _KL_FILES}
        if weights_sha256 is not None and digests[_WEIGHTS] != weights_sha256:
            raise DataError(
                f"{folder / _WEIGHTS}: its SHA-256 is {digests[_WEIGHTS]}, data.encoder_sha256 says {weights_sha256}; "
                "fetch it again, or correct the setting"
            )
        from diffusers import AutoencoderKL as Network  # slow import

        try:
            # Without `low_cpu_mem_usage` it warns at length that a package is absent which would load larger models faster.
            network, report = Network.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(f"{folder}: not an AutoencoderKL ({str(error).splitlines()[0]})") from error
        if missing := sorted(report["missing_keys"]):  # diffusers draws them at random, with a warning
            raise DataError(f"{folder}: {len(missing)} weights are missing, such as {missing[0]}; fetch it again")
        for name, parameter in network.named_parameters():
            if not bool(parameter.isfinite().all()):
                raise DataError(f"{folder}: {name} holds values that are not finite; fetch it again")
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._network = network.to(self.device).eval().requires_grad_(False)
        self._folder, self.latent_scale, self.latent_shift = folder, latent_scale, latent_shift
        own = network.config.get("shift_factor")
        if own is not None and own != latent_shift:
            raise DataError(
                f"{folder}: its config.json has shift_factor {own:g}, data.latent_shift says {latent_shift:g}; set that"
            )
        both = "".join(digests[name] for name in _KL_FILES)
        self.identity: dict[str, str | int] = {"name": "autoencoder-kl", "sha256": hashlib.sha256(both.encode()).hexdigest()}

    @torch.no_grad()
    def encode(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor | None]:
        posteriors = [self._network.encode(part.to(self.device)).latent_dist for part in self._passes(pixels_BCHW)]
        mean_BCHW, std_BCHW = (torch.cat([getattr(each, name) for each in posteriors]) for name in ("mean", "std"))
        return mean_BCHW.float().cpu(), std_BCHW.float().cpu()

    @torch.no_grad()
    def decode(self, latents_BCHW: Tensor) -> Tensor:
        raw_BCHW = latents_BCHW / self.latent_scale + self.latent_shift
        parts = [self._network.decode(part.to(self.device)).sample.cpu() for part in self._passes(raw_BCHW)]
        return to_uint8(torch.cat(parts)).contiguous()

    def _passes(self, images_BCHW: Tensor) -> tuple[Tensor, ...]:
        return images_BCHW.split(_CPU_BATCH if self.device == "cpu" else max(1, len(images_BCHW)))

    def save(self, folder: Path) -> None:
        folder.mkdir()
        for name in _KL_FILES:
            shutil.copyfile(self._folder / name, folder / name)


def open_encoder(data: DataSection) -> Encoder:
    """The encoder that the data section names. Raises ConfigError or DataError."""
    if data.encoder == "identity":
        return Identity(data.latent_scale, data.latent_shift)
    if data.encoder_path is None:
        raise ConfigError(
            "data.encoder_path is null; `autoencoder-kl` needs the folder of a diffusers AutoencoderKL, or its name on the hub"
        )
    folder = snapshot(data.encoder_path, _KL_FILES) if "@" in data.encoder_path else Path(data.encoder_path)
    return AutoencoderKL(folder, data.latent_scale, data.latent_shift, data.encoder_sha256)


def load_encoder(store: Path, info: StoreInfo) -> Encoder:
    """The encoder that made a store, from the store's own files. Raises DataError if they are not the ones it was made with."""
    if info.encoder["name"] == "identity":
        return Identity(info.latent_scale, info.latent_shift)
    encoder = AutoencoderKL(store / ENCODER_FOLDER, info.latent_scale, info.latent_shift)
    if encoder.identity != info.encoder:
        raise DataError(f"{store / ENCODER_FOLDER}: not the autoencoder that made this store; run: {making(store)}")
    return encoder


def to_uint8(pixels_BCHW: Tensor) -> Tensor:
    """[-1, 1] to 0..255, clamped and rounded."""
    return ((pixels_BCHW + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
