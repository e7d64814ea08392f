"""Pictures as a processor packed them, one by one and back: for whatever is done to a picture after its processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

MERGE, FRAMES = 2, 2
"""Qwen-VL's patches come in squares of 2 x 2, which the network merges, and each holds a picture twice, as two frames:
so in every Qwen2-, Qwen2.5- and Qwen3-VL that was released."""


def pictures_of(media: Mapping[str, Tensor]) -> list[Tensor]:
    """Every picture of a batch, (3, height, width), or (tiles, 3, height, width) where the processor cut it in tiles.

    Read are pixel_values of (N, 3, H, W), as LLaVA has them; (N, tiles, 3, H, W), as LLaVA-NeXT, LLaVA-OneVision and
    Idefics; and Qwen's patches (sum of all, 3 * 2 * P * P) with image_grid_thw. ValueError for any other layout.
    """
    values = media.get("pixel_values")
    if values is None:
        raise ValueError(f"these dialogues show no picture: they come with {', '.join(media) or 'no media'}")
    if "image_grid_thw" in media:
        counts = _patches(media["image_grid_thw"], values)
        grids = media["image_grid_thw"].tolist()
        return [_unpatched(part, grid) for part, grid in zip(values.split(counts), grids, strict=True)]
    if values.ndim not in (4, 5) or values.shape[-3] != 3:
        known = "(N, 3, H, W), (N, tiles, 3, H, W), or patches with image_grid_thw"
        raise ValueError(f"pixel_values of shape {tuple(values.shape)} are not laid out as {known}")
    return list(values)


def repacked(media: Mapping[str, Tensor], pictures: Sequence[Tensor]) -> dict[str, Tensor]:
    """The media with these pictures, of the same sizes, in the place of its own; padding stays what it was."""
    if "image_grid_thw" in media:
        grids = media["image_grid_thw"].tolist()
        return {**media, "pixel_values": torch.cat([_patched(*each) for each in zip(pictures, grids, strict=True)])}
    return {**media, "pixel_values": torch.stack(list(pictures)).where(_real(media), media["pixel_values"])}


def _real(media: Mapping[str, Tensor]) -> Tensor:
    """Which pixels belong to a picture: not a tile of zeros, nor what pixel_attention_mask leaves out."""
    values = media["pixel_values"]
    if values.ndim == 4:
        return torch.ones((), dtype=torch.bool, device=values.device)
    tiles = (values != 0).flatten(2).any(2)[:, :, None, None, None]
    mask = media.get("pixel_attention_mask")
    return tiles if mask is None else tiles & mask.bool()[:, :, None]


def _patches(grids: Tensor, values: Tensor) -> list[int]:
    """How many patches each picture has; ValueError for what are no pictures of Qwen's."""
    side = (values.shape[-1] // (3 * FRAMES)) ** 0.5
    counts: list[int] = grids.prod(1).tolist()
    if side % 1 or values.shape[-1] % (3 * FRAMES) or sum(counts) != len(values):
        raise ValueError(
            f"patches of shape {tuple(values.shape)} with grids {grids.tolist()} are not Qwen's: there must be one of "
            "3 x 2 x P x P numbers for each place of a grid"
        )
    if not bool((grids[:, 0] == 1).all()):
        raise ValueError("a grid of more than one moment is a video, which cannot be unpacked as a picture")
    return counts


def _unpatched(patches: Tensor, grid: Sequence[int]) -> Tensor:
    """(3, h P, w P) of patches (h w, 3 * 2 * P * P), merged squares first."""
    _, high, wide = grid
    side = round((patches.shape[-1] // (3 * FRAMES)) ** 0.5)
    blocks = patches.reshape(high // MERGE, wide // MERGE, MERGE, MERGE, 3, FRAMES, side, side)[:, :, :, :, :, 0]
    return blocks.permute(4, 0, 2, 5, 1, 3, 6).reshape(3, high * side, wide * side)


def _patched(picture: Tensor, grid: Sequence[int]) -> Tensor:
    """The way back."""
    _, high, wide = grid
    side = picture.shape[-1] // wide
    blocks = picture.reshape(3, high // MERGE, MERGE, side, wide // MERGE, MERGE, side).permute(1, 4, 2, 5, 0, 3, 6)
    frames = blocks.unsqueeze(5).expand(-1, -1, -1, -1, -1, FRAMES, -1, -1)
    return frames.reshape(high * wide, 3 * FRAMES * side * side)
