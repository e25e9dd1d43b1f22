"""Networks of diffusers: timesteps beside images, dataclasses out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn

from zoo_models.subject import Inputs, Subject, images, named, noise


def _make(name: str, part: str | None = None, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import diffusers

        made: nn.Module = getattr(diffusers, name)(**options)
        return made if part is None else made.get_submodule(part)

    return make


def _timesteps(samples: int, generator: Generator) -> Tensor:
    return torch.randint(0, 1000, (samples,), generator=generator)


def _subject(name: str, make: Callable[[], nn.Module], inputs: Inputs) -> Subject:
    return Subject(name, "diffusers", make, inputs)


DIFFUSERS = (
    _subject(
        "Diffusion UNet",
        _make(
            "UNet2DModel",
            sample_size=16,
            block_out_channels=(32, 64),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=8,
        ),
        named(sample=images(16), timestep=_timesteps),
    ),
    _subject(
        "Conditional diffusion UNet",
        _make(
            "UNet2DConditionModel",
            sample_size=16,
            block_out_channels=(32, 64),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=8,
            cross_attention_dim=64,
            attention_head_dim=8,
        ),
        named(
            sample=images(16, channels=4),
            timestep=_timesteps,
            encoder_hidden_states=noise(12, 64),
        ),
    ),
    _subject(
        "Diffusion VAE",
        _make(
            "AutoencoderKL",
            "decoder",
            block_out_channels=(32, 64),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=8,
        ),
        images(16, channels=4),
    ),
    _subject(
        "Diffusion transformer (DiT)",
        _make(
            "DiTTransformer2DModel",
            num_attention_heads=4,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            sample_size=16,
            num_embeds_ada_norm=1000,
            norm_num_groups=8,
        ),
        named(
            hidden_states=images(16, channels=4),
            timestep=_timesteps,
            class_labels=lambda n, g: torch.randint(0, 1000, (n,), generator=g),
        ),
    ),
)
