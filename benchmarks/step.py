"""What one Diffusion-DPO step costs: random UNets of SD1.5's and SDXL's shape on a GPU, a tiny one on a CPU.

    python benchmarks/step.py --shapes sd15 sdxl --out benchmarks/results/step.json      (a GPU)
    python benchmarks/step.py --shapes tiny                                              (anywhere)

The cells of one shape run interleaved, so that only ratios between them are read. Latents and text are given, as with a
warm cache. Time is the device's on a GPU (CUDA events) and the process's CPU time elsewhere.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from visalign.batches import Condition, Pairs
from visalign.draws import Draws
from visalign.models import attention
from visalign.models.architectures import SD15, SDXL
from visalign.models.denoiser import NetworkDenoiser
from visalign.models.weights import Full, Lora
from visalign.process import Ddpm
from visalign.trainers import DiffusionDPO

TINY = {
    "sample_size": 8, "block_out_channels": [32, 64], "layers_per_block": 1, "cross_attention_dim": 32,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "attention_head_dim": 4, "norm_num_groups": 8,
}  # fmt: skip
SHAPES: dict[str, Any] = {"tiny": TINY, "sd15": SD15, "sdxl": SDXL}
PROCESS = Ddpm.from_config({
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "set_alpha_to_one": False
})  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One way to run the step."""

    shape: str
    train: str
    kernel: str
    checkpointing: bool
    pairs: int


class Contender:
    """A cell made ready: network, optimizer and batch on the device."""

    def __init__(self, cell: Cell, device: torch.device, dtype: torch.dtype) -> None:
        from diffusers import UNet2DConditionModel

        torch.manual_seed(0)
        self.cell, self.device, self.dtype = cell, device, dtype
        with torch.device(device):
            network = UNet2DConditionModel(**SHAPES[cell.shape])
        if cell.train == "lora":
            network.to(dtype)
        setting = attention.Setting(device, dtype, attention.head_widths(network))
        self.resolution = attention.resolve(cell.kernel, setting, strict=True)
        attention.install(network, self.resolution)
        if cell.checkpointing:
            network.enable_gradient_checkpointing()
        weights: Lora | Full = Lora(network, rank=8) if cell.train == "lora" else Full(network, reference=True)
        self.model = NetworkDenoiser(weights, PROCESS).to(device).train()
        trained = list(self.model.trainable().values())
        self.optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
        self.batch, self.method = pairs(network.config, cell.pairs, device), DiffusionDPO()

    def step(self) -> None:
        """Forward, backward, update: what the engine does for one window of one micro-batch."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32):
            loss = self.method.loss(self.batch, self.model).each.mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def pairs(config: Any, count: int, device: torch.device) -> Pairs:
    """`count` pairs of random latents with random text states of the right shapes."""
    side, rows = config.sample_size, 2 * count
    latents = torch.randn(rows, 4, side, side, device=device)
    text = torch.randn(rows, 77, config.cross_attention_dim, device=device)
    pooled = time_ids = None
    if config.addition_embed_type == "text_time":
        pooled = torch.randn(rows, config.projection_class_embeddings_input_dim - 6 * 256, device=device)
        time_ids = torch.full((rows, 6), 1024, device=device)
    draw = Draws(0, tuple(f"pair {i}" for i in range(count)), (0,) * count)
    ones = torch.ones(count, device=device)
    return Pairs(latents[:count], latents[count:], Condition(text, pooled, time_ids), draw, ones, ones)


def cuda_seconds(run: Callable[[], None]) -> float:
    """Device seconds of one call."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def cpu_seconds(run: Callable[[], None]) -> float:
    """CPU seconds of this process for one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def measure(cells: list[Cell], device: torch.device, dtype: torch.dtype, rounds: int) -> list[dict[str, Any]]:
    """Time every cell `rounds` times, interleaved, after two to warm up; what cannot run is said with its reason."""
    seconds: dict[Cell, list[float]] = {}
    rows: list[dict[str, Any]] = []
    ready: list[Contender] = []
    for cell in cells:
        try:
            ready.append(Contender(cell, device, dtype))
        except attention.AttentionError as error:
            rows.append(asdict(cell) | {"refused": str(error)})
    clock = cuda_seconds if device.type == "cuda" else cpu_seconds
    peaks: dict[Cell, float] = {}
    for turn in range(rounds + 2):
        for each in ready:
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            spent = clock(each.step)
            if turn >= 2:
                seconds.setdefault(each.cell, []).append(spent)
            if device.type == "cuda":
                peaks[each.cell] = torch.cuda.max_memory_allocated() / 2**30
    for cell, spent_each in seconds.items():
        middle = statistics.median(spent_each)
        rows.append(asdict(cell) | {
            "seconds": middle, "range": [min(spent_each), max(spent_each)], "pairs_per_second": cell.pairs / middle,
            "peak_gib_with_the_others_resident": peaks.get(cell),
        })  # fmt: skip
    return rows


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["tiny"])
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    rows = []
    for shape in arguments.shapes:
        cells = [Cell(shape, "lora", kernel, False, arguments.pairs) for kernel in ("sdpa", "xformers", "flash")]
        cells += [
            Cell(shape, "lora", "sdpa", True, arguments.pairs),
            Cell(shape, "full", "sdpa", True, arguments.pairs),
        ]
        rows += measure(cells, device, dtype, arguments.rounds)
    import diffusers
    import peft

    versions = {each.__name__: each.__version__ for each in (torch, diffusers, peft)}
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU, times in CPU seconds"
    found = {"date": datetime.date.today().isoformat(), "device": where, "dtype": str(dtype), "versions": versions}
    text = json.dumps(found | {"cells": rows}, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
