"""Supervised fine-tuning on answers to questions about pictures: the baseline of every preference method."""

from __future__ import annotations

from dataclasses import dataclass

from visalign.batches import Answers
from visalign.contract import LanguageModel, Loss, Passes, Reference
from visalign.text import policy_log_probs


@dataclass
class MLLMSFT:
    """The preferred answer's negative log-probability per token, its end mark included: a mean of each answer's own.

    So a batch of four is four batches of one. transformers' own loss is a mean over all tokens of a batch, in which a
    long answer outweighs a short one.
    """

    batch_type = Answers
    reference = Reference.NONE
    passes = Passes(policy=1)

    def loss(self, batch: Answers, model: LanguageModel) -> Loss:
        """(n,) losses of n answers."""
        log = policy_log_probs(model, batch.answers)
        found = {"win_logp": log.policy.detach().sum(-1), "win_tokens": log.mask.sum(-1).to(log.policy.dtype)}
        return Loss(-log.mean, found)


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("mllm_sft")
