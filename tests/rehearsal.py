"""Small runs of the real engine on real UNets, in this process or in others that can be killed.

`python tests/rehearsal.py` is a nursery: it imports once, then forks a process group for every job that it reads from
stdin. A job is a JSON line; the answer is the group's id on one line and its exit status on another.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import methods
import tiny
import torch
from safetensors.torch import save_file
from torch import Tensor, distributed, nn

from visalign.batches import Condition, Pairs, Singles
from visalign.config import Run, load
from visalign.contract import Loss, Passes, Reference
from visalign.draws import Draws
from visalign.losses.state import RunningMean
from visalign.models.denoiser import NetworkDenoiser
from visalign.models.weights import Full, Lora
from visalign.process import Ddpm
from visalign.trainers import DiffusionDPO
from visalign.training import engine
from visalign.training.distributed import Ranks

WIDTH = 16  # of the text states
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Shapes:
    """Pairs of 4 x 8 x 8 latents drawn from their keys; `weights` gives some of them another weight than 1."""

    count: int = 13
    weights: tuple[float, ...] = ()
    broken: tuple[int, ...] = ()  # records whose winner holds a NaN
    dtype: torch.dtype = torch.float32

    def __len__(self) -> int:
        return self.count

    def key(self, index: int) -> str:
        return f"record-{index}"

    def weight(self, index: int) -> float:
        return self.weights[index] if self.weights else 1.0

    def batch(self, indices: Sequence[int], visits: Sequence[int], seed: int) -> Pairs:
        fixed = Draws(7, tuple(self.key(index) for index in indices), (0,) * len(indices))
        like = torch.zeros((), dtype=self.dtype)
        win, lose = (fixed.normal(side, (4, 8, 8), like) for side in ("win", "lose"))
        for row, index in enumerate(indices):
            if index in self.broken:
                win[row, 0, 0, 0] = torch.nan
        text = fixed.normal("text", (3, WIDTH), like).repeat(2, 1, 1)
        weight = torch.tensor([self.weight(index) for index in indices])
        draw = Draws(seed, fixed.keys, tuple(visits))
        return Pairs(win, lose, Condition(text), draw, torch.ones(len(indices)), weight)


def denoiser(train: str = "lora", dropout: float = 0.0) -> NetworkDenoiser:
    """A small random UNet of diffusers; the same weights whenever it is made."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = tiny.unet(WIDTH, block_out_channels=(8, 16))
    weights = Lora(network, rank=2, dropout=dropout) if train == "lora" else Full(network, reference=True)
    return NetworkDenoiser(weights, Ddpm.from_config(dict(tiny.scheduler("epsilon").config)))


def settings(out: Path, *changes: str) -> Run:
    """A short run: 12 steps of 4 records in micro-batches of 2, 13 records an epoch."""
    given = [f"out={out}", "steps=12", "batch=4", "micro_batch=2", "save_every=3", "optimizer.lr=1e-3"]
    return load(None, [*given, "method.name=diffusion_dpo", *changes])


def rehearse(run: Run, train: str = "lora", dropout: float = 0.0, **changed: Any) -> engine.Summary:
    """A run from a fresh model."""
    model = changed.pop("model", None) or denoiser(train, dropout)
    view, method = changed.pop("view", None) or Shapes(), changed.pop("method", None) or DiffusionDPO(beta=200.0)
    return engine.train(run, method, model, view, **changed)


def losses(out: Path) -> dict[int, str]:
    """Every logged step's loss, to the last bit."""
    rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["loss_hex"] for row in rows}


def digest(path: Path) -> dict[str, str]:
    """sha256 of every tensor file of a checkpoint."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(path.glob("*.safetensors"))}


# A method whose numbers can be done by hand ------------------------------------------------------------------------


class Scale(nn.Module):
    """One weight, 1 at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))


@dataclass
class Given:
    """The loss of record i is weight times i + 1, and so is its metric."""

    batch_type = Singles
    reference = Reference.NONE
    passes = Passes(policy=1)
    own_weight: bool = False  # whether the weights come with the loss instead of the batch
    state: Count = field(default_factory=lambda: Count())

    def loss(self, batch: Singles, model: Any) -> Loss:
        self.state.seen += len(batch)
        each = model.weight * batch.x.flatten()
        weight = batch.weight if self.own_weight else None
        return Loss(each, {"margin": batch.x.flatten() - 2.0}, weight)


class Count(nn.Module):
    """State of a method: how many records it saw."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))


@dataclass(frozen=True)
class Numbers:
    """Records 1, 2, 3 … with these weights; all of them in every batch's own order."""

    weights: tuple[float, ...] = (1.0, 0.0, 0.2, 1.0)
    poisoned: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.weights)

    def key(self, index: int) -> str:
        return f"number-{index + 1}"

    def weight(self, index: int) -> float:
        return self.weights[index]

    def batch(self, indices: Sequence[int], visits: Sequence[int], seed: int) -> Singles:
        x = torch.tensor([[math.inf if index in self.poisoned else index + 1.0] for index in indices])
        draw = Draws(seed, tuple(map(self.key, indices)), tuple(visits))
        weight = torch.tensor([self.weights[index] for index in indices])
        return Singles(x, Condition(torch.zeros(len(indices), 1, 1)), draw, weight)


def by_hand(out: Path, *changes: str, view: Numbers | None = None, **more: Any) -> tuple[Any, Scale]:
    model = Scale()
    run = settings(out, "steps=1", "micro_batch=1", "optimizer.weight_decay=0", "optimizer.clip=0", *changes)
    return engine.train(run, more.pop("method", None) or Given(), model, view or Numbers(), **more), model


@dataclass
class Counting(DiffusionDPO):
    """DPO that also keeps a mean over everything it saw, which must be one number on all ranks."""

    seen: RunningMean = field(default_factory=RunningMean)

    def loss(self, batch: Pairs, model: Any) -> Loss:
        self.seen.update(batch.win.flatten(1).mean(1))
        return super().loss(batch, model)


# A process group for every job -------------------------------------------------------------------------------------


class Nursery:
    """Starts jobs in process groups of their own, from a process that has imported everything once."""

    def __init__(self, log: Path) -> None:
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        self.log = log.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
            text=True, env=environment, cwd=ROOT,
        )  # fmt: skip
        assert self._answer() == "ready"

    def start(self, out: Path, changes: Sequence[str] = (), ranks: int = 1, **job: Any) -> int:
        """The process group of a new job."""
        assert self.process.stdin is not None
        print(
            json.dumps({"out": str(out), "changes": changes, "ranks": ranks, **job}),
            file=self.process.stdin,
            flush=True,
        )
        return int(self._answer())

    def wait(self) -> int:
        """The exit status of the job; negative: the signal that ended it."""
        return int(self._answer())

    def close(self) -> None:
        """End the nursery; its jobs have ended."""
        self.process.communicate()
        self.log.close()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line, f"the nursery died:\n{Path(self.log.name).read_text()}"
        return line


def serve() -> None:
    """Fork a group for every job on stdin."""
    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.setsid()
            os._exit(group(json.loads(line)))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def group(job: dict[str, Any]) -> int:
    """Every rank of a job, in this process group; 0 if all went well."""
    if job["ranks"] == 1:
        return perform(job)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(job["ranks"]):
        child = os.fork()
        if child == 0:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job["ranks"], "MASTER_PORT": port}
            os.environ |= {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"}
            os._exit(perform(job, rank))
        children.append(child)
    return max(abs(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])) for child in children)


def perform(job: dict[str, Any], rank: int = 0) -> int:
    """One rank of a job. `slow` stretches every fsync, so that a kill finds the saving under way."""
    try:
        return _perform(job, rank)
    except BaseException:
        traceback.print_exc()
        return 1


def _perform(job: dict[str, Any], rank: int) -> int:
    out = Path(job["out"])
    slow_down_saving(job.get("slow", 0.0))
    Ranks("bf16")  # as one run may follow another in a process, whatever its precision
    if "method" in job:
        return _perform_method(job, out, rank)
    model = denoiser(job.get("train", "lora"), job.get("dropout", 0.0))
    view = Shapes(broken=tuple(job.get("broken", ())))

    def told(moment: engine.Moment) -> None:
        if [rank, moment.step] == job.get("terminate"):
            for _ in range(1 + job.get("twice", False)):
                os.kill(os.getpid(), signal.SIGTERM)

    method = Counting(beta=200.0)
    summary = rehearse(settings(out, *job["changes"]), model=model, view=view, method=method, on_step=told)
    weights = b"".join(each.detach().numpy().tobytes() for each in model.trainable().values())
    ended = {"weights": hashlib.sha256(weights).hexdigest(), "stopped": summary.stopped, "steps": summary.steps}
    ended |= {"mean": float(method.seen.mean), "count": float(method.seen.count)}
    if distributed.is_initialized():
        group = distributed.distributed_c10d._get_default_group()
        ended["patience"] = group._get_backend(torch.device("cpu")).options._timeout.total_seconds()
    (out / f"rank-{rank}.json").write_text(json.dumps({**ended, "notes": summary.notes, "resumed": summary.resumed}))
    return 0


def _perform_method(job: dict[str, Any], out: Path, rank: int) -> int:
    """A few steps of a registered method on records of its own type."""
    method, model, view = _language(job) if "language" in job else _denoising(job)
    start = torch.cat([each.detach().flatten().clone() for each in model.trainable().values()])
    engine.train(settings(out, *job["changes"]), method, model, view, resume=False)
    moved = torch.cat([each.detach().flatten() for each in model.trainable().values()]) - start
    save_file({"moved": moved}, out / f"rank-{rank}.safetensors")
    return 0


def _denoising(job: dict[str, Any]) -> tuple[Any, Any, Any]:
    """A method for denoisers, a small one, and records."""
    method = methods.method(job["method"])
    follows = method.reference is Reference.EMA
    model = methods.model_of(job["method"], dtype=torch.float32, follows=follows)
    return method, model, methods.Records(method.batch_type, users=job["train"] == "user")


def _language(job: dict[str, Any]) -> tuple[Any, Any, Any]:
    """A method for language models, a tiny one, and records: of the folder that the job names."""
    import language

    method, root = language.method(job["method"]), Path(job["language"])
    model = language.model(root, job["method"], dtype=torch.float32)
    return method, model, language.view(root, method.batch_type)


def slow_down_saving(seconds: float) -> None:
    """Every fsync of this process takes that much longer."""
    fsync = os.fsync

    def slower(fd: Any) -> None:
        time.sleep(seconds)
        fsync(fd)

    os.fsync = slower


if __name__ == "__main__":
    serve()
