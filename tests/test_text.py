"""Log-probabilities of answers: where they are read, what they sum to, and what padding cannot change."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from visalign import losses
from visalign.batches import Dialogues, halves, moved, stacked
from visalign.contract import Spoken
from visalign.draws import Draws
from visalign.text import Log, answer_places, token_log_probs, token_pairs

IDS = torch.tensor([[1, 4, 4, 2, 3, 0, 2], [1, 4, 4, 2, 1, 2, 0]])  # 4 is a picture's token; row 1 ends with padding
ANSWER = torch.tensor([[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1, 0]], dtype=torch.bool)


def logits(shift: float) -> Tensor:
    """2 sin(0.7 b + 0.3 t + 1.1 v + shift), (2, 7, 5) float64."""
    b, t, v = torch.meshgrid(torch.arange(2.0), torch.arange(7.0), torch.arange(5.0), indexing="ij")
    return 2 * torch.sin(0.7 * b.double() + 0.3 * t.double() + 1.1 * v.double() + shift)


def spoken(shift: float) -> Spoken:
    """What a model with those logits says of the answers."""
    places, mask = answer_places(ANSWER)
    rows = torch.arange(2)[:, None]
    return Spoken(logits(shift)[rows, places - 1], IDS.gather(1, places), mask)


def test_the_golden_log_probabilities() -> None:
    """Sums over the answer's tokens with the end mark, and DPO's loss at beta 0.1."""
    policy, reference = token_log_probs(spoken(0.0)), token_log_probs(spoken(0.2))
    assert policy.sum(1).tolist() == pytest.approx([-8.342908130406, -5.392448770946], abs=1e-11)
    assert reference.sum(1).tolist() == pytest.approx([-8.571296151783, -5.772067742179], abs=1e-11)
    log = Log(policy, spoken(0.0).mask, reference)
    pairs = token_pairs(log)
    each = losses.resolve("dpo").on(pairs, beta=0.1)
    assert float(each) == pytest.approx(0.700737316281, abs=1e-11)
    means = pairs.fields()
    assert float(means["mean_logp_win"]) == pytest.approx(-2.780969376802, abs=1e-11)
    assert float(means["mean_logp_lose"]) == pytest.approx(-2.696224385473, abs=1e-11)


def test_places_come_in_order_and_the_mask_first() -> None:
    gaps = torch.tensor([[0, 1, 0, 1, 1], [0, 0, 0, 0, 1]], dtype=torch.bool)
    places, mask = answer_places(gaps)
    assert places[0].tolist() == [1, 3, 4]
    assert mask.tolist() == [[True, True, True], [True, False, False]]
    assert places[1, 0] == 4


def test_infinite_logits_outside_the_mask_make_no_nan() -> None:
    given = spoken(0.0)
    wild = given.logits.clone()
    wild[1, 2] = -math.inf
    wild.requires_grad_(True)
    found = token_log_probs(Spoken(wild, given.ids, given.mask))
    assert torch.isfinite(found).all()
    assert float(found[1, 2].detach()) == 0.0


def test_the_gradient_is_that_of_a_log_softmax() -> None:
    """Written out, for the sake of memory: against plain operations, and with places where nothing can be said."""
    given = spoken(0.0)
    places, table = given.mask[..., None], given.logits.clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda each: token_log_probs(Spoken(each, given.ids, given.mask)), table)
    slopes = torch.arange(6.0, dtype=torch.float64).view(2, 3)
    (ours,) = torch.autograd.grad(token_log_probs(Spoken(table, given.ids, given.mask)), table, slopes)
    plain = table.log_softmax(-1).gather(-1, given.ids[..., None]).squeeze(-1)
    (theirs,) = torch.autograd.grad(plain.where(given.mask, 0.0), table, slopes)
    torch.testing.assert_close(ours, theirs)
    wild = given.logits.where(places, -math.inf).requires_grad_(True)
    (ours,) = torch.autograd.grad(token_log_probs(Spoken(wild, given.ids, given.mask)), wild, slopes)
    torch.testing.assert_close(ours, theirs)


def test_half_precision_is_summed_in_float32() -> None:
    given = spoken(0.0)
    assert token_log_probs(Spoken(given.logits.bfloat16(), given.ids, given.mask)).dtype == torch.float32


def test_stacking_pads_to_a_common_length() -> None:
    first = Dialogues(IDS, IDS >= 0, ANSWER, {"pixel_values": torch.zeros(2, 3, 4, 4)}, importance=torch.ones(2, 7))
    short = Dialogues(
        IDS[:1, :5],
        IDS[:1, :5] >= 0,
        ANSWER[:1, :5],
        {"pixel_values": torch.ones(1, 3, 4, 4)},
        importance=torch.ones(1, 5),
    )
    whole = stacked(first, short)
    assert whole.ids.shape == whole.attention.shape == (3, 7)
    assert whole.attention[2].tolist() == [True] * 5 + [False] * 2
    assert whole.media["pixel_values"].shape == (3, 3, 4, 4)
    with pytest.raises(ValueError, match="pixel_values"):
        stacked(first, Dialogues(IDS, IDS >= 0, ANSWER, importance=torch.ones(2, 7)))
    assert moved(whole, "cpu").media["pixel_values"].shape == (3, 3, 4, 4)


def test_halves_are_what_was_stacked() -> None:
    first = Dialogues(IDS, IDS >= 0, ANSWER, {"pixel_values": torch.zeros(2, 3, 4, 4)}, {"kind": IDS})
    second = Dialogues(IDS.flip(0), IDS >= 0, ANSWER.flip(0), {"pixel_values": torch.zeros(2, 3, 4, 4)}, {"kind": IDS})
    win, lose = halves(stacked(first, second))
    assert torch.equal(win.ids, first.ids)
    assert torch.equal(lose.answer, second.answer)
    assert win.media["pixel_values"].shape == (2, 3, 4, 4)
    with pytest.raises(ValueError, match="no pairs"):
        halves(Dialogues(IDS[:1], IDS[:1] >= 0, ANSWER[:1]))


def test_more_uniform_numbers_begin_with_the_same_ones() -> None:
    """So that what is drawn for a token does not depend on how far the batch is padded."""
    draw = Draws(0, ("a", "b"), (0, 3))
    assert torch.equal(draw.uniforms("words", 9)[:, :4], draw.uniforms("words", 4))
