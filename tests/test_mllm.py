"""Models that see: every family's logits of answers and of nothing else, beside a reference that starts the same."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tiny_families import FAMILIES, idefics3, paligemma
from tiny_vlm import llava, qwen2_5_vl
from torch import Tensor, nn

from visalign.batches import Dialogues, stacked
from visalign.contract import LanguageModel, Reference
from visalign.models import seeing_cost
from visalign.models.attention import AttentionError
from visalign.models.folder import FolderError
from visalign.models.mllm import SeeingModel
from visalign.models.reading import Reader
from visalign.models.seeing import SeeingFolder, open_model, part_of
from visalign.models.states import WeightsError
from visalign.models.weights import Lora
from visalign.text import answer_places, log_probs, policy_log_probs

SHAPES = ((32, 32), (20, 70), (70, 20))
ANSWERS = ("a cat", "no, two long dogs", "I cannot tell")


def picture(seed: int, tall: int = 32, wide: int = 32) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (tall, wide, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@dataclass(frozen=True)
class Opened:
    """A tiny folder, its reader, a model under LoRA that is not its base any more, and a batch."""

    folder: SeeingFolder

    @cached_property
    def reader(self) -> Reader:
        return self.folder.reader()

    @cached_property
    def model(self) -> SeeingModel:
        return self.folder.model(rank=2)

    @cached_property
    def moved(self) -> SeeingModel:
        return nudged(self.folder.model(rank=2))

    def batch(self, *rows: int, left: bool = False) -> Dialogues:
        reads = [
            self.reader.read("What is it?", [picture(n, *SHAPES[n])], ANSWERS[n]) for n in (rows or range(len(SHAPES)))
        ]
        return self.reader.collated(reads, left=left)


def nudged(model: SeeingModel, size: float = 0.05) -> SeeingModel:
    """Everything that is trained moved a little."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return model


def whole(model: Any, batch: Dialogues, **more: Any) -> Any:
    """The network's own answer at every place, given what its processor gives it."""
    attention = batch.attention.long()
    return model.network(input_ids=batch.ids, attention_mask=attention, **batch.media, **batch.kinds, **more)


def at_answers(table: Tensor, batch: Dialogues) -> Tensor:
    """Rows of a table (n, L, …) at the places that predict the counted tokens."""
    places, _ = answer_places(batch.answer)
    return table[torch.arange(len(batch))[:, None], (places - 1).clamp(min=0)]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return Opened(SeeingFolder.open(FAMILIES[request.param](tmp_path_factory.mktemp("model") / request.param)))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return Opened(SeeingFolder.open(llava(tmp_path_factory.mktemp("model") / "llava")))


@torch.no_grad()
def test_gathered_logits_are_the_networks_own(family: Opened) -> None:
    """PaliGemma's under its soft cap. No more rows of the vocabulary are made than answers have tokens."""
    batch, model = family.batch(), family.moved
    spoken = model.policy(batch)
    _, mask = answer_places(batch.answer)
    assert spoken.logits.shape[1] == int(batch.answer.sum(1).max())
    torch.testing.assert_close(spoken.logits[mask], at_answers(whole(model, batch).logits, batch)[mask])
    assert spoken.ids[mask].tolist() == batch.ids[batch.answer].tolist()
    assert isinstance(model, LanguageModel)


@torch.no_grad()
def test_a_batch_says_what_its_dialogues_say_one_by_one_and_padding_has_no_side(family: Opened) -> None:
    """To 1e-4 in float32, and to 5e-7 in float64, since all of these families norm in float32 whatever comes in."""
    for model, tolerance in ((family.moved, 1e-4), (nudged(family.folder.model(rank=2)).double(), 5e-7)):
        together = policy_log_probs(model, family.batch()).policy
        left = policy_log_probs(model, family.batch(left=True)).policy
        torch.testing.assert_close(left, together, rtol=0.0, atol=tolerance)
        for row in range(len(SHAPES)):
            one = policy_log_probs(model, family.batch(row)).policy[0]
            torch.testing.assert_close(one, together[row, : len(one)], rtol=0.0, atol=tolerance)


def test_before_the_first_step_no_answer_is_likelier_than_the_reference_says(family: Opened) -> None:
    log = log_probs(family.model, family.batch())
    assert (log.ratio == 0).all()
    assert log.policy.requires_grad
    assert log.reference is not None and not log.reference.requires_grad


@torch.no_grad()
def test_the_reference_is_the_base_however_far_the_policy_goes(family: Opened) -> None:
    batch = family.batch()
    base = family.model.policy(batch).logits
    assert family.moved.reference(batch).logits.equal(base)
    assert (family.moved.policy(batch).logits - base).abs().max() > 1e-4


@torch.no_grad()
def test_pairs_hold_their_pictures_twice(family: Opened) -> None:
    batch = family.batch()
    twice = policy_log_probs(family.moved, stacked(batch, batch)).policy
    torch.testing.assert_close(twice[len(batch) :], twice[: len(batch)], rtol=0.0, atol=1e-5)


@torch.no_grad()
def test_hidden_states_are_of_every_place(family: Opened) -> None:
    """Layer 0 is what the language model reads; the last one is what the head reads."""
    batch, model = family.batch(), family.moved
    first, last = (model.policy(batch, hidden=layer) for layer in (0, -1))
    assert first.hidden is not None and last.hidden is not None
    assert first.hidden.shape == (*batch.ids.shape, model.network.config.get_text_config().hidden_size)
    cap = getattr(model.network.config.get_text_config(), "final_logit_softcapping", None)
    read = model.network.lm_head(at_answers(last.hidden, batch))
    torch.testing.assert_close(cap * torch.tanh(read / cap) if cap else read, last.logits)


def test_the_first_layers_states_are_words_and_pictures(tiny: Opened) -> None:
    batch, model = tiny.batch(), tiny.model
    states = model.reference(batch, hidden=0).hidden
    words = batch.ids != model.network.config.image_token_id
    embedded = model.network.get_input_embeddings()(batch.ids)
    assert states is not None
    assert states[words].equal(embedded[words])
    assert (states[~words] != embedded[~words]).any(1).all()


def test_lora_spares_what_sees_and_holds_the_base_once(family: Opened) -> None:
    base = sum(each.numel() for each in family.folder.network().parameters())
    added = sum(each.numel() for each in family.model.trainable().values())
    assert sum(each.numel() for each in family.model.parameters()) == base + added
    parts = {part_of(name.removeprefix("weights.network.")) for name in family.model.trainable()}
    assert parts == {"language"}
    layers = int(family.model.network.config.get_text_config().num_hidden_layers)
    assert sum("lora_A" in name for name in family.model.trainable()) == layers * 7  # q, k, v, o, gate, up, down


@pytest.mark.parametrize("make", [llava, qwen2_5_vl, idefics3])
@pytest.mark.parametrize(("vision", "projector"), [(False, True), (False, False), (True, True)])
def test_full_training_spares_what_it_should(make: Any, vision: bool, projector: bool, tmp_path: Path) -> None:
    """What is not trained is held once; the parts have other names in these three families."""
    opened = Opened(SeeingFolder.open(make(tmp_path / "model")))
    model = opened.folder.model(train="full", vision=vision, projector=projector)
    log = log_probs(model, opened.batch())
    assert (log.ratio == 0).all()
    log.policy.sum().backward()
    asked = {"language": True, "vision": vision, "projector": projector}
    for part, wanted in asked.items():
        named = [each for name, each in model.network.named_parameters() if part_of(name) == part]
        assert named
        assert any(each.grad is not None and bool(each.grad.abs().max() > 0) for each in named) == wanted
    once = sum(each.numel() for each in model.network.parameters())
    trained = sum(each.numel() for each in model.trainable().values())
    assert sum(each.numel() for each in model.parameters()) == once + trained
    shape = seeing_cost.Shape(model.network, tokens=40.0, answer=4.0, train="full", vision=vision, projector=projector)
    assert seeing_cost.estimate(shape).trained == trained


def test_every_weight_that_is_trained_has_a_gradient(family: Opened) -> None:
    """With the vision tower too, of which some families read an inner layer, and none the pooled picture's head.

    DDP waits for every gradient: one that never comes ends a run of two processes at its second step.
    """
    model = family.folder.model(train="full", vision=True)
    policy_log_probs(model, family.batch()).policy.sum().backward()
    assert [name for name, each in model.trainable().items() if each.grad is None] == []
    assert {part_of(name) for name in model.trainable()} == {"language", "vision", "projector"}


def test_nothing_drops_out_in_training(tmp_path: Path) -> None:
    folder = llava(tmp_path / "llava")
    config = transformers.AutoConfig.from_pretrained(folder)
    config.text_config.attention_dropout = config.vision_config.attention_dropout = 0.5
    config.save_pretrained(folder)
    opened = Opened(SeeingFolder.open(folder))
    for checkpointing in (False, True):
        model = opened.folder.model(rank=2, checkpointing=checkpointing).train()
        assert (log_probs(model, opened.batch()).ratio == 0).all()


def gradients(model: SeeingModel, batch: Dialogues) -> dict[str, Tensor]:
    policy_log_probs(model, batch).policy.sum().backward()
    return {name: each.grad for name, each in model.trainable().items() if each.grad is not None}


def recomputing(folder: SeeingFolder, batch: Dialogues, **settings: Any) -> tuple[dict[str, Tensor], int]:
    """Gradients of a nudged model, and how often its first layer ran for them."""
    model = nudged(folder.model(rank=2, **settings)).train()
    runs: list[int] = []
    layer = model.network.model.get_decoder().layers[0]
    layer.self_attn.o_proj.register_forward_hook(lambda *_: runs.append(1))
    return gradients(model, batch), len(runs)


def test_recomputed_activations_give_the_same_gradients(family: Opened) -> None:
    batch = family.batch()
    kept, once = recomputing(family.folder, batch)
    again, twice = recomputing(family.folder, batch, checkpointing=True)
    assert (once, twice) == (1, 2)
    assert kept.keys() == again.keys() == family.model.trainable().keys()
    assert all(kept[name].equal(again[name]) for name in kept)


def test_recomputed_activations_give_the_same_gradients_in_full(tiny: Opened) -> None:
    batch = tiny.batch()
    (kept, _), (again, _) = (recomputing(tiny.folder, batch, train="full", checkpointing=on) for on in (False, True))
    assert kept.keys() == again.keys()
    assert all(kept[name].equal(again[name]) for name in kept)


def test_a_reference_can_follow(tiny: Opened) -> None:
    for train in ("lora", "full"):
        model = tiny.folder.model(train=train, rank=2, reference=Reference.EMA)
        assert (log_probs(model, tiny.batch()).ratio == 0).all()
        nudged(model)
        before = {name: each.clone() for name, each in model.follower().items()}
        model.follow(0.75)
        for name, each in model.follower().items():
            torch.testing.assert_close(each, 0.75 * before[name] + 0.25 * model.trainable()[name])


@torch.no_grad()
def test_adapters_go_out_and_come_back(tiny: Opened, tmp_path: Path) -> None:
    """transformers, PEFT and we ourselves read them; what is trained on begins where it was, reference and all."""
    batch = tiny.batch()
    wanted = tiny.moved.policy(batch).logits
    out = tiny.folder.publish(tiny.moved, tmp_path / "adapters", {"name": "A test", "rank": 2})
    network = tiny.folder.network()
    network.load_adapter(out)
    theirs = at_answers(
        network(input_ids=batch.ids, attention_mask=batch.attention.long(), **batch.media).logits, batch
    )
    torch.testing.assert_close(theirs, wanted)
    again = open_model(out)
    assert again.policy(batch).logits.equal(wanted)
    assert (log_probs(again, batch).ratio == 0).all()
    assert isinstance(again.weights, Lora)
    assert again.weights.config.r == 2
    nudged(again)
    assert again.reference(batch).logits.equal(wanted)
    asked = open_model(out, train="none")
    torch.testing.assert_close(asked.policy(batch).logits, wanted)
    assert not asked.trainable()
    assert "lora" in (out / "README.md").read_text()
    assert SeeingFolder.open(out).reader().wording.tail == tiny.reader.wording.tail


def test_peft_itself_reads_the_adapters(tiny: Opened, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    out = tiny.folder.publish(tiny.moved, tmp_path / "adapters", {})
    network = peft.PeftModel.from_pretrained(tiny.folder.network(), out)
    batch = tiny.batch()
    found = network(input_ids=batch.ids, attention_mask=batch.attention.long(), **batch.media).logits
    torch.testing.assert_close(at_answers(found, batch), tiny.moved.policy(batch).logits)


def test_adapters_of_another_model_are_refused(tiny: Opened, tmp_path: Path) -> None:
    out = tiny.folder.publish(tiny.moved, tmp_path / "adapters", {})
    deeper = rewritten(out, base_model_name_or_path=str(llava(tmp_path / "deeper", layers=3)))
    with pytest.raises(WeightsError, match=r"they differ in model\.language_model\.layers\.2"):
        open_model(deeper)
    with pytest.raises(FolderError, match="do not say whose they are"):
        open_model(rewritten(out, base_model_name_or_path=None))


def test_adapters_of_another_kind_are_refused(tiny: Opened, tmp_path: Path) -> None:
    """A rank-stabilised LoRA has the same tensors and another scale."""
    out = tiny.folder.publish(tiny.moved, tmp_path / "adapters", {})
    with pytest.raises(FolderError, match=r"no plain LoRA \(use_rslora\)"):
        open_model(rewritten(out, use_rslora=True))


def rewritten(adapters: Path, **settings: Any) -> Path:
    """The same folder with other settings."""
    file = adapters / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return adapters


@torch.no_grad()
def test_a_full_model_goes_out_and_comes_back(tiny: Opened, tmp_path: Path) -> None:
    model = nudged(tiny.folder.model(train="full"), size=0.01)
    out = tiny.folder.publish(model, tmp_path / "full", {"name": "A test"})
    network = transformers.AutoModelForImageTextToText.from_pretrained(out)
    batch = tiny.batch()
    found = network(input_ids=batch.ids, attention_mask=batch.attention.long(), **batch.media).logits
    assert at_answers(found, batch).equal(model.policy(batch).logits)
    assert transformers.AutoProcessor.from_pretrained(out).chat_template == tiny.reader.processor.chat_template
    assert open_model(out).fingerprint != tiny.model.fingerprint


def test_what_answers_depend_on_is_in_the_fingerprint(tiny: Opened, tmp_path: Path) -> None:
    same = tiny.folder.model(train="full")
    assert same.fingerprint == tiny.model.fingerprint
    assert tiny.folder.model(dtype="bf16").fingerprint != tiny.model.fingerprint
    assert tiny.folder.model(attention="eager").fingerprint != tiny.model.fingerprint
    other = SeeingFolder.open(llava(tmp_path / "other", seed=1))
    assert other.model().fingerprint != tiny.model.fingerprint


def test_attention_is_resolved_and_said(tiny: Opened, tmp_path: Path) -> None:
    model = tiny.folder.model(rank=2, attention="eager")
    assert model.attention.resolved == "eager"
    batch = tiny.batch()
    torch.testing.assert_close(model.policy(batch).logits, tiny.model.policy(batch).logits, rtol=0.0, atol=1e-4)
    assert tiny.model.attention.resolved == "sdpa"
    with pytest.raises(AttentionError, match="xformers has no part in transformers' models"):
        tiny.folder.model(attention="xformers")
    with pytest.raises(AttentionError, match="runs on a GPU, not on cpu"):
        tiny.folder.model(attention="flash", strict_attention=True)
    assert tiny.folder.model(attention="flash").attention.resolved == "sdpa"
    with pytest.raises(AttentionError, match="is not one of auto, sdpa, flash, eager"):
        tiny.folder.model(attention="fast")


def test_a_family_without_sdpa_says_what_it_runs(tmp_path: Path) -> None:
    folder = SeeingFolder.open(paligemma(tmp_path / "paligemma"))
    found = folder.model().attention
    assert (found.requested, found.resolved) == ("auto", "eager")
    with pytest.raises(FolderError, match="does not open so"):
        folder.model(attention="sdpa")


def test_half_precision_keeps_adapters_in_float32_and_pixels_in_half(tiny: Opened) -> None:
    model = tiny.folder.model(rank=2, dtype="bf16")
    assert {each.dtype for each in model.trainable().values()} == {torch.float32}
    log = log_probs(model, tiny.batch())
    assert (log.ratio == 0).all()
    assert log.policy.dtype == torch.float32
    with pytest.raises(ValueError, match="full fine-tuning needs fp32"):
        tiny.folder.model(train="full", dtype="bf16")


def test_what_cannot_be_opened_is_said(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"no config\.json in"):
        SeeingFolder.open(tmp_path)
    with pytest.raises(FolderError, match="no model folder 'nobody/nothing' here"):
        SeeingFolder.open("nobody/nothing")
    with pytest.raises(ValueError, match="is not one of lora, full, none"):
        open_model(llava(tmp_path / "llava"), train="some")


def test_learning_raises_the_preferred_answers_likelihood(tiny: Opened) -> None:
    """A few steps on one pair, under LoRA: the margin grows, and the tower has no gradient."""
    model, reader = tiny.folder.model(rank=4), tiny.reader
    asked = reader.ask("What is it?", [picture(0)])
    batch = reader.collated([reader.answered(asked, each) for each in ("a cat", "two dogs")])
    optimizer = torch.optim.Adam(model.trainable().values(), lr=1e-2)
    for _ in range(8):
        ratio = log_probs(model, batch).ratio
        loss = -nn.functional.logsigmoid(0.1 * (ratio[0] - ratio[1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert ratio[0] - ratio[1] > 1.0
    assert all(each.grad is None for name, each in model.named_parameters() if part_of(name) != "language")
