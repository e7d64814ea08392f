"""DPO and fine-tuning of models that see: the published numbers, what tokens weigh, and real networks."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from answered import FAMILIES, Speaker, double, moved_on, of, pairs, seeing, singles, swapped, written
from torch import Tensor

from visalign.batches import AnswerPairs, Dialogues
from visalign.draws import Draws
from visalign.text import Log, log_probs, token_pairs, token_weights
from visalign.trainers import MLLMDPO, MLLMSFT

SAID = [-12, -30.5, -8.25, -15, -29, -20]  # three winners, three losers
BEFORE = [-13, -30, -9, -14.5, -31, -18]
LENGTHS = [6, 10, 4, 8, 9, 10]


def spread(sums: list[float]) -> Tensor:
    """(6, 10) tokens of the answers' lengths that share a sum evenly."""
    rows = [[total / count] * count + [0.0] * (10 - count) for total, count in zip(sums, LENGTHS, strict=True)]
    return double(rows)


def of_lengths() -> tuple[Log, AnswerPairs]:
    """The three pairs with tokens, and dialogues that count as many."""
    mask = torch.arange(10) < torch.tensor(LENGTHS)[:, None]
    batch = of(written(spread(SAID), spread(BEFORE)), 3)
    answer = torch.cat([torch.zeros(6, 1, dtype=torch.bool), mask], 1)
    return Log(spread(SAID), mask, spread(BEFORE)), replace(batch, answers=replace(batch.answers, answer=answer))


def found(log: Log, batch: AnswerPairs | None = None, **settings: Any) -> Any:
    """The loss of a written log."""
    return MLLMDPO(**settings).loss(of(log, len(log.mask) // 2) if batch is None else batch, Speaker(log))


def test_the_golden_pairs_and_their_gradient() -> None:
    policy = double(SAID)[:, None].requires_grad_()
    log = replace(written(SAID, BEFORE), policy=policy)
    loss = found(log)
    assert loss.each.tolist() == pytest.approx([0.620957047790, 0.825939419879, 0.565070667690], abs=1e-11)
    (slope,) = torch.autograd.grad(loss.each.mean(), policy)
    assert slope[:3, 0].tolist() == pytest.approx([-0.015419005155, -0.018739216696, -0.014389333884], abs=1e-11)
    assert (0.1 * loss.metrics["win_ratio"]).tolist() == pytest.approx([0.1, -0.05, 0.075])
    assert (0.1 * loss.metrics["lose_ratio"]).tolist() == pytest.approx([-0.05, 0.2, -0.2])
    assert loss.metrics["margin"].tolist() == pytest.approx([0.15, -0.25, 0.275])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 0.670655711786),
        ({"preference": {"name": "cdpo", "epsilon": 0.1}}, 0.676489045119),
        ({"reduce": "mean", "beta": 2.0}, 0.623634657608),
        ({"preference": "ln_dpo", "beta": 2.0}, 0.623634657608),
        ({"reduce": "mean", "preference": "ipo"}, 23.944111368313),
        ({"preference": "ipo_mean"}, 23.944111368313),
    ],
)
def test_the_golden_means(settings: dict[str, Any], expected: float) -> None:
    log, batch = of_lengths()
    assert float(found(log, batch, **settings).each.mean()) == pytest.approx(expected, rel=1e-11)


def test_a_sure_label_is_the_default_and_an_unsure_one_smooths() -> None:
    log = written(SAID, BEFORE)
    batch = of(log, 3, confidence=torch.full((3,), 0.9, dtype=torch.float64))
    assert float(found(log, batch).each.mean()) == pytest.approx(0.676489045119, abs=1e-11)


def test_the_golden_tail_and_it_weighs_policy_and_reference_alike() -> None:
    tokens = double([[-1, -2, -0.5, -3, -0.25], [-1, -1, -1, 0, 0]])
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    log = Log(tokens, mask, torch.zeros_like(tokens))
    reduced = MLLMDPO(reduce="ld").reduced(token_pairs(log, tail=0.5), told=False)
    assert reduced.win.tolist() == [-5.125]
    twice = MLLMDPO(reduce="ld").reduced(token_pairs(replace(log, reference=2 * tokens), tail=0.5), told=False)
    assert twice.win.tolist() == [5.125]
    named = found(log, tail=0.5, preference="ld_dpo").each
    assert torch.equal(named, found(log, tail=0.5, reduce="ld").each)


@pytest.mark.parametrize(("reduce", "expected"), [("sum", -15), ("mean", -1.25)])
def test_the_golden_weights(reduce: Any, expected: float) -> None:
    log = written([[-1, -2, -0.5, -1.5], [-1e-9] * 4], [[-1e-12] * 4] * 2)
    weights = double([[0, 1, 5, 5, 1]] * 2)
    batch = of(log, 1)
    batch = replace(batch, answers=replace(batch.answers, importance=weights))
    loss = found(log, batch, reduce=reduce)
    assert float(loss.metrics["margin"]) == pytest.approx(0.1 * expected, abs=1e-7)
    assert float(loss.metrics["win_ratio"]) == pytest.approx(-5, abs=1e-7)  # what is told of the answer stays plain


def test_changed_tokens_weigh_more() -> None:
    ids = torch.tensor([[0, 1, 2, 3, 4, 5, 0], [0, 1, 2, 3, 7, 0, 0]])
    answer = torch.tensor([[0, 1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 0, 0]], dtype=torch.bool)
    given = Dialogues(ids, ids >= 0, answer)
    weights = token_weights(given, 5.0)
    assert weights is not None
    assert weights.tolist() == [[1, 1, 1, 5, 5], [1, 1, 1, 5, 0]]
    assert token_weights(given) is None
    own = token_weights(replace(given, importance=torch.full((2, 7), 2.0)), 5.0)
    assert own is not None
    assert own.tolist() == [[2] * 5, [2] * 4 + [0]]  # the records' own come first


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_networks_cannot_tell(family: str) -> None:
    loss = MLLMDPO().loss(pairs(family), seeing(family))
    assert loss.each.tolist() == pytest.approx([math.log(2)] * 4, abs=1e-6)
    assert float(loss.metrics["margin"].abs().max()) == 0.0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_four_is_four_batches_of_one(family: str) -> None:
    model = moved_on(family)
    method = MLLMDPO(emphasis=5.0, reduce="mean", sft=0.3)
    together = method.loss(pairs(family), model).each
    alone = [method.loss(pairs(family, (number,)), model).each.item() for number in range(4)]
    assert together.tolist() == pytest.approx(alone, abs=1e-5)
    assert together.std() > 1e-4


def test_swapping_a_pair_negates_its_margin() -> None:
    model = moved_on("llava")
    forward, backward = (
        MLLMDPO().loss(each, model).metrics["margin"] for each in (pairs("llava"), swapped(pairs("llava")))
    )
    assert torch.allclose(forward, -backward, atol=1e-6)
    assert float(forward.abs().min()) > 0


def test_fine_tuning_beside_is_a_mean_of_each_answer() -> None:
    log, batch = of_lengths()
    gap = found(log, batch, sft=0.25).each - found(log, batch).each
    assert gap.tolist() == pytest.approx([0.25 * 12 / 6, 0.25 * 30.5 / 10, 0.25 * 8.25 / 4])
    blended = found(log, batch, preference=[("dpo", 1.0), ("sft", 0.25)]).each
    assert torch.allclose(blended, found(log, batch, sft=0.25).each)


@pytest.mark.parametrize(
    "preference",
    ["ipo", "hinge", "apo_zero", "nca_pair", "sppo_hard", "simpo", "orpo", "cpo", "alphapo", "dpop", "mpo_internvl",
     "length_regularized", {"name": "dpo", "divergence": "js"}],
)  # fmt: skip
def test_other_core_losses_serve_by_name(preference: Any) -> None:
    log, batch = of_lengths()
    policy = log.policy.clamp(max=-1e-9).requires_grad_()
    loss = found(replace(log, policy=policy), batch, preference=preference)
    (slope,) = torch.autograd.grad(loss.each.sum(), policy)
    assert loss.each.shape == (3,)
    assert bool(torch.isfinite(slope[log.mask]).all())
    assert float(slope[:3].abs().sum()) > 0


def test_losses_that_read_scores_need_them() -> None:
    log = written(SAID, BEFORE)
    method = MLLMDPO(preference="margin_dpo")
    assert method.needs == ("scores",)
    assert MLLMDPO().needs == ()
    with pytest.raises(ValueError, match="mllm_dpo needs a scorer's values of both items, and 3 of 3"):
        method.loss(of(log, 3), Speaker(log))
    scored = of(log, 3, scores=double([[1, 0]] * 3))
    lead = found(log, scored, preference={"name": "dpo", "margin": 1.0}).each
    assert torch.allclose(method.loss(scored, Speaker(log)).each, lead)


def test_a_cache_stands_for_the_reference() -> None:
    log, batch = of_lengths()
    speaker = Speaker(log)
    given = MLLMDPO().loss(replace(batch, cached=log.reference), speaker)
    assert speaker.asked == ["policy"]
    assert torch.allclose(given.each, found(log, batch).each)
    with pytest.raises(ValueError, match=r"shape \(6, 9\), the answers \(6, 10\)"):
        log_probs(speaker, batch.answers, torch.zeros(6, 9))


def test_further_rows_ride_in_the_same_pass_and_are_asked_of_the_reference_even_with_a_cache() -> None:
    model, batch = moved_on("llava"), pairs("llava")
    both = log_probs(model, batch.answers, also=pairs("llava", (2, 3)).answers)
    plain = log_probs(model, batch.answers)
    assert plain.reference is not None
    assert both.reference is not None
    kept = log_probs(model, batch.answers, plain.reference, also=pairs("llava", (2, 3)).answers)
    assert both.policy.shape[0] == 12
    assert kept.reference is not None
    assert torch.allclose(kept.reference, both.reference, atol=1e-5)
    assert torch.allclose(both[:8].ratio, plain.ratio, atol=1e-4)


def test_it_learns_to_prefer() -> None:
    model, batch = seeing("llava"), pairs("llava")
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=3e-3)
    for _ in range(6):
        loss = MLLMDPO().loss(batch, model)
        optimizer.zero_grad()
        loss.each.mean().backward()
        optimizer.step()
    after = MLLMDPO().loss(batch, model)
    assert float(after.each.mean()) < 0.5
    assert float(after.metrics["margin"].min()) > 0


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="reduce 'max' is not one of sum, mean, ld"):
        MLLMDPO(reduce="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="beta 0"):
        MLLMDPO(beta=0)
    with pytest.raises(ValueError, match="tdpo2"):
        MLLMDPO(preference="tdpo2")


@pytest.mark.parametrize("family", FAMILIES)
def test_fine_tuning_is_transformers_loss_of_each_answer_alone(family: str) -> None:
    model = seeing(family)
    together = MLLMSFT().loss(singles(family), model)
    for number in range(4):
        given = singles(family, (number,)).answers
        labels = given.ids.where(given.answer, -100)
        said = {"input_ids": given.ids, "attention_mask": given.attention.long(), **given.media, **given.kinds}
        assert float(model.network(**said, labels=labels).loss) == pytest.approx(float(together.each[number]), abs=1e-5)
    assert together.metrics["win_tokens"].tolist() == [10, 9, 5, 4]


def test_a_draw_is_of_every_record() -> None:
    assert pairs("llava").draw == Draws(3, ("record 0", "record 1", "record 2", "record 3"), (0, 0, 0, 0))
