"""The size of a network. This module does not import torch, so that the command line can show the defaults quickly."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


class UNetShape(BaseModel):
    """The size of a UNet2DModel: one entry of `channels` per resolution. Each resolution is half of the one before."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    channels: tuple[PositiveInt, ...] = (32, 64, 96)
    layers: int = Field(default=2, gt=0)
    attention: tuple[bool, ...] = (False, False, True)
    head_dim: int = Field(default=32, gt=0)
    groups: int = Field(default=16, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _fits(self) -> UNetShape:
        if len(self.attention) != len(self.channels):
            raise ValueError(
                f"attention has {len(self.attention)} entries and channels {len(self.channels)}; give one for each"
            )
        for width in self.channels:
            if width % self.groups:
                raise ValueError(f"the width {width} is not a multiple of groups {self.groups}; change one of them")
        # The middle of the network, at the last resolution, always attends.
        for width, attends in zip(self.channels, (*self.attention[:-1], True), strict=True):
            if attends and width % self.head_dim:
                raise ValueError(f"the width {width} is not a multiple of head_dim {self.head_dim}; change one of them")
        return self

    def unet_config(self, shape: tuple[int, int, int], classes: int) -> dict[str, Any]:
        """Return UNet2DModel's configuration for images of `shape` (C, H, W). `classes` > 0 adds them and the null label.

        Raises ValueError when the image cannot be halved often enough.
        """
        bands, height, width = shape
        factor = 2 ** (len(self.channels) - 1)
        if height % factor or width % factor:
            raise ValueError(
                f"image size {height}x{width} is not a multiple of {factor}, which {len(self.channels)} levels need"
            )
        return {
            "sample_size": height,
            "in_channels": bands,
            "out_channels": bands,
            "block_out_channels": list(self.channels),
            "layers_per_block": self.layers,
            "down_block_types": ["AttnDownBlock2D" if on else "DownBlock2D" for on in self.attention],
            "up_block_types": ["AttnUpBlock2D" if on else "UpBlock2D" for on in reversed(self.attention)],
            "attention_head_dim": self.head_dim,
            "norm_num_groups": self.groups,
            "dropout": self.dropout,
            "num_class_embeds": classes + 1 if classes else None,
        }
