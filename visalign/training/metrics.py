"""What is measured at every optimizer step, when to stop, and where the rows are written."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..config import ConfigError, Run, Stop, plain

Row = dict[str, float]


def summarised(values: Mapping[str, NDArray[np.float64]], weights: NDArray[np.float64]) -> Row:
    """Weighted means of a step's values, each (n,), over the window and all ranks; and what follows from the margins.

    Sums are exact (math.fsum), so they do not depend on how the records were spread over ranks and micro-batches. A
    record of weight 0 says nothing, not even NaN (nobody could judge it). Where all weights are 0 nothing was learnt
    from: every metric is left out and the loss is 0.
    """
    counts = weights != 0
    if not counts.any():
        return {"loss": 0.0}
    values, weights = {name: each[counts] for name, each in values.items()}, weights[counts]
    row = {name: _mean(each, weights) for name, each in values.items()}
    if "margin" in values:
        row |= _of_margins(values["margin"], weights)
    return row


def _of_margins(margins: NDArray[np.float64], weights: NDArray[np.float64]) -> Row:
    """Percentiles, implicit accuracy with ties as 1/2, and sigmoid(-margin), the weight of a pair in DPO's gradient."""
    accuracy = np.where(margins > 0, 1.0, np.where(margins == 0, 0.5, 0.0))
    sigma = 0.5 * (1.0 - np.tanh(0.5 * margins))
    row = {"implicit_accuracy": _mean(accuracy, weights), "sigma_minus_margin": _mean(sigma, weights)}
    if np.isfinite(margins).all():
        levels = np.quantile(margins, [0.05, 0.5, 0.95], weights=weights, method="inverted_cdf")
        row |= dict(zip(("margin_p05", "margin_p50", "margin_p95"), map(float, levels), strict=True))
    return row


def _mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    products = values * weights
    return math.fsum(products) / math.fsum(weights) if np.isfinite(products).all() else math.nan


@dataclass(frozen=True)
class Sign:
    """A way to collapse: the metrics that show it, and what their sums over a window say."""

    reads: tuple[str, ...]
    says: Callable[[Stop, Sequence[float]], str | None]


class Collapse:
    """The alarm of a run that learns the gap between better and worse by unlearning both.

    DPO can raise its margin by making losers unlikely faster than winners (Pal et al., arXiv 2402.13228, and Razin et
    al., arXiv 2410.08847, show it for text; for diffusion it is how too high a learning rate ends). What is summed over
    the last `window` steps, and when it is too much, is the sign's own; the first sign that a row shows is heeded.
    """

    def __init__(self, rule: Stop, recent: Iterable[Sequence[float]] = ()) -> None:
        self.rule = rule
        self.recent: deque[tuple[float, ...]] = deque((tuple(row) for row in recent), maxlen=rule.window)

    def sees(self, row: Mapping[str, float]) -> str | None:
        """Take a step's row in; why training should stop, or None. Rows that show no sign are passed over."""
        shown = (sign for sign in SIGNS if all(math.isfinite(row.get(name, math.nan)) for name in sign.reads))
        sign = next(shown, None)
        if not self.rule.collapse or sign is None:
            return None
        self.recent.append(tuple(row[name] for name in sign.reads))
        if len(self.recent) < self.rule.window:
            return None
        return sign.says(self.rule, [math.fsum(each) for each in zip(*self.recent, strict=True)])


def _denoises_worse(rule: Stop, sums: Sequence[float]) -> str | None:
    """The winners' mean error lies more than `win_rise` above the reference's, and the losers' more than `lose_rise`.

    Both errors of a record are taken at the same noise, so their ratio is steady although each alone is not.
    """
    win, win_reference, lose, lose_reference = sums
    if win <= (1 + rule.win_rise) * win_reference or lose <= (1 + rule.lose_rise) * lose_reference:
        return None
    return (
        f"over the last {rule.window} steps the policy's error is {win / win_reference - 1:.0%} above the "
        f"reference's on winners (limit {rule.win_rise:.0%}) and {lose / lose_reference - 1:.0%} on losers "
        f"(limit {rule.lose_rise:.0%}): it unlearns both; lower optimizer.lr or raise the method's beta"
    )


def _says_better_less(rule: Stop, sums: Sequence[float]) -> str | None:
    """The preferred answers lost more than `win_fall` nats a token against the reference, the others more still."""
    win, lose, tokens = sums
    fall = -win / max(tokens, 1.0)
    if fall <= rule.win_fall or lose >= win:
        return None
    return (
        f"over the last {rule.window} steps the preferred answers are {fall:.2f} nats a token less likely than under "
        f"the reference (limit {rule.win_fall:g}), although the margin is positive: it unlearns both; lower "
        "optimizer.lr, or take a method that anchors the preferred answer"
    )


SIGNS = (
    Sign(("win_error", "win_reference_error", "lose_error", "lose_reference_error"), _denoises_worse),
    Sign(("win_ratio", "lose_ratio", "win_tokens"), _says_better_less),
)


class Writer(Protocol):
    """Somewhere a row goes."""

    def write(self, step: int, row: Row) -> None:
        """One step's row."""

    def flush(self) -> None:
        """Make what was written survive the machine."""

    def close(self) -> None:
        """Flush and let go."""


class Jsonl:
    """metrics.jsonl: a row a line. `loss_hex` is the loss to the last bit (float.fromhex); null is non-finite."""

    def __init__(self, path: Path, after: int) -> None:
        """Open `path` as it was after step `after`: later rows, and a line cut off by a kill, are dropped."""
        kept = [line for line in _lines(path) if _step(line) <= after]
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        os.replace(part, path)
        self.file = path.open("a", encoding="utf-8")

    def write(self, step: int, row: Row) -> None:
        """Append a line and hand it to the operating system, so that a killed process loses none."""
        finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
        self.file.write(json.dumps({"step": step, "loss_hex": row["loss"].hex(), **finite}) + "\n")
        self.file.flush()

    def flush(self) -> None:
        """Put the lines on the disk."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Flush and close the file."""
        self.flush()
        self.file.close()


class TensorBoard:
    """Event files in <out>/tensorboard; rows after the resumed step are purged."""

    def __init__(self, run: Run, after: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigError("trackers: tensorboard is not installed; pip install 'visalign[tensorboard]'") from None
        self.writer = SummaryWriter(str(run.out / "tensorboard"), purge_step=after + 1)

    def write(self, step: int, row: Row) -> None:
        """Each value as a scalar of its own."""
        for name, value in row.items():
            self.writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write the events out."""
        self.writer.flush()

    def close(self) -> None:
        """Flush and close the event file."""
        self.writer.close()


class WandB:
    """Weights & Biases; a resumed run goes on under the id kept in <out>/wandb_id."""

    def __init__(self, run: Run, after: int) -> None:
        try:
            import wandb
        except ImportError:
            raise ConfigError("trackers: wandb is not installed; pip install 'visalign[wandb]'") from None
        kept = run.out / "wandb_id"
        name = kept.read_text().strip() if kept.is_file() else uuid.uuid4().hex
        kept.write_text(name)
        settings = plain(run)
        self.run: Any = wandb.init(project="visalign", name=run.name, id=name, resume="allow", config=settings)

    def write(self, step: int, row: Row) -> None:
        """Everything of a step at once."""
        self.run.log(dict(row), step=step)

    def flush(self) -> None:
        """W&B sends in the background; there is nothing to wait for."""

    def close(self) -> None:
        """Finish the run."""
        self.run.finish()


def writers(run: Run, after: int) -> list[Writer]:
    """JSONL always, and what `run.trackers` asks for, each as it was after step `after`."""
    kinds: dict[str, Callable[[Run, int], Writer]] = {"tensorboard": TensorBoard, "wandb": WandB}
    return [Jsonl(run.out / "metrics.jsonl", after), *(kinds[name](run, after) for name in run.trackers)]


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last line cut off by a kill is left out."""
    return [json.loads(line) for line in _lines(path)]


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    return text[: text.rfind("\n") + 1].splitlines()


def _step(line: str) -> int:
    return int(json.loads(line)["step"])
