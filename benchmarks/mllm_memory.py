"""How much memory one step of DPO on pairs of answers about a picture asks for, beyond the weights: ours and others'.

    python benchmarks/mllm_memory.py               # writes benchmarks/results/mllm_memory.json; about two minutes

A tiny LLaVA with the vocabulary of LLaVA-1.5 or Qwen2-VL, long prompts, a frozen reference: forward of both, loss and
backward, by our pair loss; by TRL's own trainer; and by the same loss on the logits of every place, as a model gives
them when nobody asks for less. TRL's head goes through the vocabulary in pieces of a fixed size, on a GPU at the
answers' places alone and on a CPU at all of them: here `trl_compact` is the same trainer with that one switch set as on
a GPU, where Triton's pieces hold less. As vocabulary and answers grow, its pieces stay as they are and our logits grow.

On the CPU the bytes of all storages that operations made and that are alive are counted after each operation (what an
operation holds within itself is not seen); on CUDA the allocator's own peak. Losses must agree, or nothing is written.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers
import trl
import trl.trainer.utils
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from visalign import losses
from visalign.batches import Dialogues, moved
from visalign.models.mllm import SeeingModel
from visalign.models.weights import Full
from visalign.text import log_probs, token_pairs

WIDTH, PICTURE, PAIRS, BETA = 64, 16, 2, 0.1
SETTINGS = ((512, 32, 32_000), (512, 128, 32_000), (64, 128, 32_000), (128, 32, 152_000))  # prompt, answer, vocabulary
MIB = 2**20


class Alive(TorchDispatchMode):
    """Counts the bytes of storages that operations make, for as long as they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {each.untyped_storage()._cdata for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, Tensor) and each.untyped_storage()._cdata not in before | self.known:
                self._count(each.untyped_storage())
        self.peak = max(self.peak, self.now)
        return made

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        self.known.add(key)
        self.now += size
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def peak(step: Callable[[], Tensor], device: str) -> tuple[int, float]:
    """The most bytes that a step held beyond what stood before it, and its loss."""
    step().backward()  # gradients exist from here on, as from an optimizer's second step
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        stood = torch.cuda.memory_allocated()
        loss = step()
        loss.backward()
        return torch.cuda.max_memory_allocated() - stood, float(loss.detach())
    with Alive() as alive:
        loss = step()
        loss.backward()
    return alive.peak, float(loss.detach())


def network(seed: int, vocabulary: int) -> Any:
    """A LLaVA of two layers and a large vocabulary."""
    torch.manual_seed(seed)
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    text = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=WIDTH, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        initializer_range=0.1,
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=3, image_seq_length=PICTURE
    )
    return transformers.LlavaForConditionalGeneration(config).eval()


def dialogues(prompt: int, answer: int, vocabulary: int) -> Dialogues:
    """Winners, then losers: random words behind one picture."""
    generator = torch.Generator().manual_seed(0)
    length = prompt + answer
    asked = torch.randint(4, vocabulary, (PAIRS, prompt), generator=generator).repeat(2, 1)
    asked[:, :PICTURE] = 3
    said = torch.randint(4, vocabulary, (2 * PAIRS, answer), generator=generator)
    pictures = torch.randn(PAIRS, 3, 32, 32, generator=generator).repeat(2, 1, 1, 1)
    whole = torch.ones(2 * PAIRS, length, dtype=torch.bool)
    counted = (torch.arange(length) >= prompt).expand(2 * PAIRS, -1)
    return Dialogues(torch.cat([asked, said], 1), whole, counted, {"pixel_values": pictures})


def ours(model: SeeingModel, batch: Dialogues) -> Tensor:
    """The pair loss as trainers compute it."""
    return losses.resolve("dpo").on(token_pairs(log_probs(model, batch)), beta=BETA).mean()


def everywhere(model: SeeingModel, batch: Dialogues) -> Tensor:
    """The same loss from the logits of every place."""

    def likelihood(network: Any) -> Tensor:
        given = {"input_ids": batch.ids, "attention_mask": batch.attention.long(), **batch.media, "use_cache": False}
        logps = network(**given).logits[:, :-1].log_softmax(-1)
        each = logps.gather(-1, batch.ids[:, 1:, None]).squeeze(-1)
        found: Tensor = each.where(batch.answer[:, 1:], 0.0).sum(-1)
        return found

    with torch.no_grad():
        base = likelihood(model.weights.frozen)
    win, lose = (likelihood(model.network) - base).chunk(2)
    return -logsigmoid(BETA * (win - lose)).mean()


def trainer(policy: Any, reference: Any, folder: str, device: str) -> Any:
    """TRL's trainer of these two networks; the pairs that it is made with are not used."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers

    core = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "<unk>": 2}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    reader = transformers.PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")
    settings = trl.DPOConfig(
        output_dir=folder, beta=BETA, max_length=None, gradient_checkpointing=False, report_to="none", bf16=False,
        use_cpu=device == "cpu", disable_tqdm=True,
    )  # fmt: skip
    rows = Dataset.from_dict({"prompt": ["a "], "chosen": ["b"], "rejected": ["c"]})
    return trl.DPOTrainer(policy, reference, args=settings, processing_class=reader, train_dataset=rows)


def theirs(policy: Any, reference: Any, batch: Dialogues, folder: str, device: str) -> Callable[[], Tensor]:
    """A step of TRL's trainer."""
    made = trainer(policy, reference, folder, device)
    given = {"input_ids": batch.ids, "attention_mask": batch.attention.long(), **batch.media}
    given["completion_mask"] = batch.answer.long()
    return lambda: made._compute_loss(made.model, given, False)


def one(way: str, batch: Dialogues, vocabulary: int, device: str) -> tuple[int, float]:
    """The peak of one way, with networks of its own, and its loss."""
    policy, reference = network(0, vocabulary).to(device), network(1, vocabulary).to(device).requires_grad_(False)
    if way in ("ours", "everywhere"):
        weights = Full(policy, reference=False)
        weights.frozen = reference
        model, step = SeeingModel(weights), ours if way == "ours" else everywhere
        return peak(lambda: step(model, batch), device)
    compact = nullcontext() if way == "trl" else patch.object(trl.trainer.utils, "_use_triton", lambda device: True)
    with tempfile.TemporaryDirectory() as folder, compact:
        return peak(theirs(policy, reference, batch, folder, device), device)


def measured(prompt: int, answer: int, vocabulary: int, device: str) -> dict[str, Any]:
    """Peaks in MiB of one setting; the losses agree, or there is none."""
    batch = moved(dialogues(prompt, answer, vocabulary), device)
    ways = ("ours", "trl", "everywhere") + (("trl_compact",) if device == "cpu" else ())
    found = {way: one(way, batch, vocabulary, device) for way in ways}
    values = [value for _, value in found.values()]
    if max(values) - min(values) > 1e-4 * abs(values[0]):
        raise SystemExit(f"the losses differ, so the memory says nothing: {found}")
    return {
        "prompt": prompt, "answer": answer, "vocabulary": vocabulary,
        "logits_of_answers_mib": round(2 * PAIRS * answer * vocabulary * 4 / MIB, 1),
        "peak_mib": {name: round(size / MIB, 1) for name, (size, _) in found.items()},
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "mllm_memory.json")
    options = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    result = {
        "date": date.today().isoformat(),
        "what": f"one DPO step on {PAIRS} pairs about a picture, float32, beyond the weights",
        "counted": "allocator's peak" if device == "cuda" else "bytes of live storages after each operation",
        "machine": {"device": torch.cuda.get_device_name() if device == "cuda" else platform.machine()},
        "versions": {each.__name__: each.__version__ for each in (torch, transformers, trl)},
        "settings": [measured(*setting, device) for setting in SETTINGS],
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
