"""V-DPO: Xie et al., "Mitigating Hallucination in LVLMs via Vision-Guided DPO", arXiv 2411.02712."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from visalign.batches import AnswerPairs, Dialogues
from visalign.contract import LanguageModel, Loss, Passes, Reference
from visalign.losses import LossSpec, resolve
from visalign.strict import check_choices
from visalign.text import Log, answer_places, of_pairs, text_metrics, token_log_probs
from visalign.text.corruption import blank


@dataclass
class VDPO:
    """DPO in which the policy's log-probabilities are guided by what is seen, and the reference's are not.

    log guided = guidance log policy(y | picture) - (guidance - 1) log policy(y | no picture), token by token: what the
    policy would say without the picture is held against the answer. No picture is one of zeros, the processor's mean
    colour; nothing flows back through it. Where `guidance` is not 1 the loss at the start is not log 2. 1 is plain DPO;
    0 is refused, although YuxiXie/V-DPO's vdpo.sh ships it: the guided policy is then the part without a gradient.
    Below 0 answers would be pulled the wrong way.

    `window` says which tokens count: all of the "answer", or those from the first "change" on, where the two of a pair
    part (the release at guidance 1). For DPO that is one and the same, as the two share what comes before; not for a
    `preference` that reads each for itself.
    """

    beta: float = 0.1
    guidance: float = 1.5
    window: Literal["answer", "change"] = "answer"
    preference: LossSpec = "dpo"
    batch_type = AnswerPairs
    reference = Reference.FROZEN
    recalls: ClassVar[Literal["all"]] = "all"
    passes = Passes(policy=2, free=4)

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.guidance > 0:
            raise ValueError(
                f"guidance {self.guidance} trains nothing, or the wrong way: the picture's part has that weight, and "
                "the rest has no gradient. Give more than 0; 1 is plain DPO"
            )
        if not self.beta > 0:
            raise ValueError(f"beta must be positive, got {self.beta}")
        self._loss = resolve(self.preference, nats=True)

    def loss(self, batch: AnswerPairs, model: LanguageModel) -> Loss:
        """(b,) losses of b pairs."""
        with torch.no_grad():
            unseen = token_log_probs(model.policy(blank(batch.answers)))
        log = of_pairs(model, batch)
        counted = self.guided(log, unseen)
        if self.window == "change":
            counted = counted.weighed(since_change(batch.answers).to(unseen))
        win, lose = counted.half(False).ratio, counted.half(True).ratio
        each = self._loss(win, lose, beta=self.beta, confidence=batch.confidence)
        return Loss(each, text_metrics(log, self.beta * (win - lose)) | self.seen(log, unseen))

    def guided(self, log: Log, unseen: Tensor) -> Log:
        """What is compared with the reference, from the policy's log-probabilities with and without (n, A) pictures."""
        mixed = self.guidance * log.policy - (self.guidance - 1) * unseen.detach()
        return Log(mixed, log.mask, log.reference)

    def seen(self, log: Log, unseen: Tensor) -> dict[str, Tensor]:
        """How much the picture helps the preferred answer, in nats: it should rise."""
        return {"win_seen": (log.policy.detach() - unseen).chunk(2)[0].sum(-1)}


def since_change(dialogues: Dialogues) -> Tensor:
    """(2b, A) bool, the tokens of b pairs from the first on in which the two differ."""
    places, mask = answer_places(dialogues.answer)
    ids = dialogues.ids.gather(1, places)
    (first, second), (there, other) = ids.chunk(2), mask.chunk(2)
    begun = ((first != second) | (there != other)).cumsum(-1) > 0
    return torch.cat([begun, begun]) & mask


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("v_dpo")
