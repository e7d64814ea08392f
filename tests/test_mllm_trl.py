"""TRL's DPO trainer on a tiny LLaVA: our pair loss, read by our reader and asked by our model, is TRL's.

TRL appends no end mark to plain answers about pictures, and its default `max_length` would cut pictures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_mllm import picture
from tiny_vlm import llava, qwen2_vl
from torch import Tensor
from trl_tiny import Heard, settings

from visalign import losses
from visalign.models.mllm import SeeingModel
from visalign.models.seeing import SeeingFolder
from visalign.models.weights import Full
from visalign.text import log_probs, token_pairs

pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

BETA = 0.3  # of trl_tiny.settings
ROWS = [
    ("What is it?", "a cat", "two long dogs"),
    ("Who is there?", "nobody, I should say", "it"),
    ("And here?", "a dog", "a cat"),
]


def questions(folder: SeeingFolder) -> list[dict[str, Any]]:
    """The same pairs as TRL wants them: prompts in the template, end marks written out."""
    wording = folder.reader().wording
    return [
        {
            "images": [picture(n, 32, 32 + 8 * n)], "prompt": wording.question(asked, 1), "chosen": f"{win}<|end|>",
            "rejected": f"{lose}<|end|>",
        }
        for n, (asked, win, lose) in enumerate(ROWS)
    ]  # fmt: skip


@pytest.mark.parametrize("make", [llava, qwen2_vl])
def test_our_pair_loss_and_its_gradient_are_trls(make: Any, tmp_path: Path) -> None:
    from trl import DPOConfig, DPOTrainer

    folder = SeeingFolder.open(make(tmp_path / "base"))
    policy, reference = (
        folder.network().double(),
        SeeingFolder.open(make(tmp_path / "other", seed=1)).network().double(),
    )
    arguments = DPOConfig(**settings(tmp_path / "out") | {"max_length": None, "per_device_train_batch_size": len(ROWS)})
    trainer = DPOTrainer(
        model=policy, ref_model=reference, args=arguments, processing_class=folder.reader().processor,
        train_dataset=datasets.Dataset.from_list(questions(folder)),
    )  # fmt: skip
    batch = trainer.data_collator(questions(folder))
    Heard(trainer.model), Heard(trainer.ref_model)
    theirs = trainer._compute_loss(trainer.model, batch, False)
    theirs.backward()
    wanted = {name: each.grad.clone() for name, each in policy.named_parameters() if each.grad is not None}
    policy.zero_grad()

    ours = our_loss(folder, policy, reference)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-6)
    assert abs(float(ours.detach()) - 0.6931) > 1e-3  # the log-ratios are no zeros
    ours.backward()
    found = {name: each.grad for name, each in policy.named_parameters() if each.grad is not None}
    assert found.keys() == wanted.keys()
    for name, each in found.items():
        torch.testing.assert_close(each, wanted[name], rtol=1e-4, atol=1e-7)  # TRL's are of float32


def our_loss(folder: SeeingFolder, policy: Any, reference: Any) -> Tensor:
    """The mean DPO loss of the pairs, winners first."""
    weights = Full(policy, reference=False)
    weights.frozen = reference
    reader, model = folder.reader(), SeeingModel(weights)
    asked = [reader.ask(question, [picture(n, 32, 32 + 8 * n)]) for n, (question, _, _) in enumerate(ROWS)]
    sides = [[reader.answered(one, row[side]) for one, row in zip(asked, ROWS, strict=True)] for side in (1, 2)]
    log = log_probs(model, reader.collated([*sides[0], *sides[1]]))
    return losses.resolve("dpo").on(token_pairs(log), beta=BETA).mean()
