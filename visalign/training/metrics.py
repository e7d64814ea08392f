"""What is measured at every optimizer step, what healthy looks like, when to stop, and where the rows are written."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..config import ConfigError, Run, Stop, plain

Row = dict[str, float]


class Healthy(NamedTuple):
    """What a metric says, in a sentence, and the range it keeps to in a run that goes well."""

    meaning: str
    range: str


HEALTHY: dict[str, Healthy] = {
    "loss": Healthy(
        "The weighted mean of the loss over the step's records.",
        "starts at log 2 = 0.693 for DPO and falls; 0 for GRPO",
    ),
    "win_error": Healthy(
        "The policy's denoising error on the preferred items.", "near win_reference_error; never 20 % above"
    ),
    "lose_error": Healthy(
        "The policy's denoising error on the other items.", "a little above lose_reference_error; never 50 % above"
    ),
    "win_reference_error": Healthy("The reference's error on the preferred items.", "no trend: its weights are fixed"),
    "lose_reference_error": Healthy("The reference's error on the other items.", "no trend: its weights are fixed"),
    "win_logp": Healthy("Log-probability of the preferred answers, nats each.", "no steep fall"),
    "lose_logp": Healthy("Log-probability of the other answers, nats each.", "falls, not far faster than win_logp"),
    "win_ratio": Healthy(
        "How much likelier the preferred answers are than under the reference, nats each.",
        "0 at step 0; above -1 for each of win_tokens",
    ),
    "lose_ratio": Healthy("Likewise the other answers.", "0 at step 0, then below win_ratio"),
    "win_tokens": Healthy("Tokens of a preferred answer, its end mark included.", "no trend: the data's own"),
    "win_seen": Healthy("How much the picture helps the preferred answers, nats each.", "above 0; rises"),
    "image_margin": Healthy("The margin of a preferred answer over itself about a worse picture.", "rises above 0"),
    "kl_win": Healthy("KL(reference || policy) of the preferred answers, nats each.", "0 at step 0; a slow rise"),
    "kl_lose": Healthy("Likewise of the other answers.", "0 at step 0; a slow rise"),
    "beta": Healthy("How strictly a pair is held to the reference.", "MM-DPO: beta … beta (1 + strength)"),
    "margin": Healthy("What the sigmoid sees: beta times win minus lose log-ratio.", "0 at step 0, then above 0"),
    "margin_p05": Healthy("The margin of the worst 5 % of the pairs.", "above -5; far below: few pairs rule"),
    "margin_p50": Healthy("The median margin.", "0 at step 0, then above 0"),
    "margin_p95": Healthy("The margin of the best 5 % of the pairs.", "below 10; far above: beta or lr too high"),
    "implicit_accuracy": Healthy("Share of positive margins, ties as 1/2.", "0.5 at step 0; then 0.55 … 0.95"),
    "sigma_minus_margin": Healthy("sigmoid(-margin): how much of a pair is still learnt.", "0.5 at step 0; above 0.1"),
    "log_ratio": Healthy("How much likelier the item is under the policy, up to a factor.", "near 0; no steep fall"),
    "accuracy": Healthy("Share of votes that a reward model agrees with, its ties as 1/2.", "rises to 0.65 … 0.85"),
    "certainty": Healthy("What a reward model says that share is.", "at accuracy; above it: too sure of itself"),
    "vote_nll": Healthy("A reward model's negative log-likelihood of the votes.", "below log 2 = 0.693; falls"),
    "critique_nll": Healthy("A critic's negative log-likelihood of its critiques, nats a token.", "falls"),
    "score_gap": Healthy("How much higher a reward model scores what was preferred.", "above 0; rises, then stays"),
    "z0": Healthy("KTO's reference point: the mean log-ratio, not below 0.", "0 at step 0; a slow rise"),
    "captions_differ": Healthy(
        "Share of pairs whose two captions differ.", "1, less data.prompt_dropout; 0: plain DPO"
    ),
    "multiplier": Healthy("SmPO's M: how hard a pair is trained.", "above 0; -1 … 1 at a good span, up to 5 at most"),
    "subject_preferred": Healthy("Share of visits whose label is the subject's picture.", "no trend; 0.5 … 1"),
    "score": Healthy("The judge's mean score of what was drawn.", "rises slowly"),
    "score_spread": Healthy("How far a prompt's drawings differ in score.", "well above 0; near 0: all are alike"),
    "kept": Healthy("Share of steps (spo) or prompts (grpo) that are no tie.", "0.3 … 1; near 0: lower the threshold"),
    "kl": Healthy("How far the steps of drawings are from the reference's, a number.", "0 at step 0; a slow rise"),
    "frame_accuracy": Healthy(
        "Share of labelled frames with a margin above 0, ties as 1/2.", "0.5 at step 0; then 0.55 … 0.8"
    ),
    "labelled": Healthy("Share of latent frames with a label.", "no trend: the data's own; above 0.2"),
    "error": Healthy("The policy's denoising error on what it is trained on.", "falls a little"),
    "reward_weight": Healthy("How hard an item is trained, by its reward.", "no trend; a mean of 1 … 2"),
    "grad_norm": Healthy("The gradient's norm before clipping.", "above 0 at step 1; spikes below 10 times its median"),
    "lr": Healthy("The learning rate of the step.", "as set; a pure function of the step"),
    "seconds": Healthy("Wall time of the step.", "steady after the first steps"),
    "records_per_second": Healthy("Records an optimizer step, over its wall time.", "steady after the first steps"),
}


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
