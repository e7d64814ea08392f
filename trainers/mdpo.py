"""mDPO: Wang et al., "mDPO: Conditional Preference Optimization for Multimodal Large Language Models", 2406.11839."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from visalign.batches import AnswerPairs, halves
from visalign.contract import LanguageModel, Loss, Passes, Reference
from visalign.losses import LossSpec, dpo, resolve
from visalign.strict import check_choices
from visalign.text import Log, log_probs, text_metrics
from visalign.text.corruption import corruption


@dataclass
class MDPO:
    """-log s(beta (r_win - r_lose)) - image log s(beta (r_win - r_worse)) - anchor log s(beta r_win - delta).

    r is log policy - log reference of a whole answer; r_worse that of the preferred answer about a worse picture, so
    that what is preferred must be preferred because of what is seen. The anchor keeps the preferred answer from losing
    likelihood. At the start the loss is 3 log 2. A label that is not sure mixes the first term only: the other two
    are about the first answer.

    The worse picture is a crop of 1 … 20 % of the area at full size (`picture`: see visalign.text.corruption), one for
    policy and reference. variant="release" (luka-group/mDPO modeling_bunny_phi.py:2326) draws a crop in every forward,
    so that the two see different ones: r_worse then measures the crops as well, and the start is not 3 log 2.
    """

    beta: float = 0.1
    image: float = 1.0
    anchor: float = 1.0
    delta: float = 0.0
    picture: str = "crop"
    preference: LossSpec = "dpo"
    variant: Literal["paper", "release"] = "paper"
    batch_type = AnswerPairs
    reference = Reference.FROZEN
    recalls: ClassVar[Literal["some"]] = "some"
    passes = Passes(policy=3, free=3)

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.beta > 0 or min(self.image, self.anchor) < 0:
            given = f"beta {self.beta}, image {self.image}, anchor {self.anchor}"
            raise ValueError(f"needs beta above 0, image and anchor from 0 on, got {given}")
        self._corrupt = corruption(self.picture)
        self._loss = resolve(self.preference, nats=True)

    def loss(self, batch: AnswerPairs, model: LanguageModel) -> Loss:
        """(b,) losses of b pairs."""
        win, _ = halves(batch.answers)
        worse = self._corrupt(win, batch.draw, stream="picture")
        other = self._corrupt(win, batch.draw, stream="reference") if self.variant == "release" else None
        return self.of(log_probs(model, batch.answers, batch.cached, also=worse, against=other), batch)

    def of(self, log: Log, batch: AnswerPairs) -> Loss:
        """The loss from what was said (3b, A): winners, losers, winners about worse pictures."""
        win, lose, worse = (each.ratio for each in log.chunk(3))
        each = self._loss(win, lose, beta=self.beta, confidence=batch.confidence)
        each = each + self.image * dpo(win, worse, beta=self.beta)
        each = each + self.anchor * dpo(win, win.new_zeros(()), beta=self.beta, margin=self.delta)
        found = {"image_margin": self.beta * (win - worse).detach()}
        return Loss(each, text_metrics(log[: 2 * len(batch)], self.beta * (win - lose)) | found)


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("mdpo")
