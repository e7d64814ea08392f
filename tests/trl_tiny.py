"""A tiny language model and a few random pairs for TRL's own trainers, and an ear at the model's answers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

BETA = 0.3
PAIRS = 6


def same(found: Tensor, wanted: Tensor) -> None:
    """Equal to 1e-6 relative, whichever of the two is in float64."""
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0.0, check_dtype=False)


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2, **{f"w{i}": i + 3 for i in range(40)}}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def model(seed: int) -> Any:
    """A real Llama of two layers whose distribution is far from flat."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=43, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, eos_token_id=1, initializer_range=0.2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def sentences(seed: int = 0) -> dict[str, list[str]]:
    draw = random.Random(seed)

    def words(low: int, high: int) -> str:
        return " ".join(f"w{draw.randrange(40)}" for _ in range(draw.randint(low, high)))

    return {
        "prompt": [words(2, 5) + " " for _ in range(PAIRS)],
        "chosen": [words(1, 7) for _ in range(PAIRS)],
        "rejected": [words(1, 7) for _ in range(PAIRS)],
    }


def settings(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder), "per_device_train_batch_size": PAIRS, "report_to": "none", "use_cpu": True,
        "beta": BETA, "bf16": False, "disable_dropout": True, "gradient_checkpointing": False,
    }  # fmt: skip


class Heard:
    """What a model answered last, as TRL heard it: its token log-probabilities, widened to float64 on the way.

    TRL computes them in float32 and sums policy and reference before it subtracts them, which costs seven digits of
    a sequence's log-probability, more than the equality asked for here leaves.
    """

    def __init__(self, network: Any) -> None:
        self.answer: Any = None
        self.dtype = torch.float64
        network.register_forward_hook(self.note)

    def note(self, network: Any, arguments: Any, answer: Any) -> None:
        if getattr(answer, "log_probs", None) is not None:
            answer.log_probs = answer.log_probs.to(self.dtype)
        self.answer = answer
