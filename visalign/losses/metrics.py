"""What to watch while preferences are learned: one value an element, detached, in float32 at least.

`win` and `lose` are (b,) log-ratios, `logp_*` and `reference_*` (b,) log-probabilities. A mean over a batch, and over
ranks, is the caller's.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .arithmetic import difference, wide


def rewards(ratio: Tensor, *, beta: float | Tensor) -> Tensor:
    """Implicit rewards beta * log(policy / reference)."""
    return beta * wide(ratio.detach())


def margins(win: Tensor, lose: Tensor, *, beta: float | Tensor) -> Tensor:
    """z = beta (win - lose): how far the implicit rewards lie apart."""
    return beta * difference(win.detach(), lose.detach())


def accuracy(win: Tensor, lose: Tensor) -> Tensor:
    """1 where the winner is ahead, 0 where the loser is, 1/2 at a tie: before the first step it is 1/2, not 0."""
    return (difference(win.detach(), lose.detach()).sign() + 1) / 2


def ranking_accuracy(logp_win: Tensor, logp_lose: Tensor) -> Tensor:
    """Whether the policy itself would rather write the winner (arXiv 2405.19534): `accuracy` of log-probabilities."""
    return accuracy(logp_win, logp_lose)


def flip_threshold(reference_win: Tensor, reference_lose: Tensor) -> Tensor:
    """The gap h that training must reach before the policy ranks the pair right: log ref(y_l) - log ref(y_w)."""
    return difference(reference_lose.detach(), reference_win.detach())


def flip_needed(reference_win: Tensor, reference_lose: Tensor) -> Tensor:
    """1 where the reference ranks the pair wrongly, so that the policy has to turn it over."""
    return (flip_threshold(reference_win, reference_lose) > 0).float()


def loss_needed(reference_win: Tensor, reference_lose: Tensor, *, beta: float) -> Tensor:
    """The DPO loss below which the pair is ranked right (arXiv 2405.19534, thm. 4.1)."""
    return -logsigmoid(beta * flip_threshold(reference_win, reference_lose))


def idealized_ranking_accuracy(
    reference_win: Tensor, reference_lose: Tensor, *, beta: float, confidence: float
) -> Tensor:
    """Whether the optimum of DPO ranks the pair right, given P(win is better) (arXiv 2405.19534, thm. 3.1)."""
    lead = torch.logit(torch.tensor(confidence, dtype=torch.float64)).item() / beta
    return accuracy(lead - flip_threshold(reference_win, reference_lose), torch.zeros_like(reference_win))


def displaced(win: Tensor) -> Tensor:
    """1 where the winner has become less likely than it was under the reference (arXiv 2410.08847)."""
    return (win.detach() < 0).float()


def both_down(win: Tensor, lose: Tensor) -> Tensor:
    """1 where winner and loser have both become less likely."""
    return ((win.detach() < 0) & (lose.detach() < 0)).float()


def gradient_weight(z: Tensor) -> Tensor:
    """s(-z): the share of its pull that DPO still has on a pair; near 0 it is learned, near 1 it is badly wrong."""
    return torch.sigmoid(-wide(z.detach()))


def kl_k1(ratio: Tensor) -> Tensor:
    """x: unbiased, high variance, may be negative. x = log(policy / reference) on samples of the policy (all three)."""
    return wide(ratio.detach())


def kl_k2(ratio: Tensor) -> Tensor:
    """x^2 / 2: biased, low variance, not negative."""
    return wide(ratio.detach()).square() / 2


def kl_k3(ratio: Tensor) -> Tensor:
    """e^-x - 1 + x: unbiased, low variance, not negative (http://joschu.net/blog/kl-approx.html)."""
    x = wide(ratio.detach())
    return (-x).expm1() + x


def calibration_error(z: Tensor, preferred: Tensor, bins: int = 10) -> Tensor:
    """Expected calibration error, one number: how far s(z) lies from the share of pairs won, over `bins` equal bins.

    `preferred` is (b,) in [0, 1]: 1 where the first of the pair won.
    """
    probability = torch.sigmoid(wide(z.detach()))
    spot = (probability * bins).long().clamp(max=bins - 1)
    excess = probability.new_zeros(bins).index_add(0, spot, probability - wide(preferred))
    return excess.abs().sum() / len(z)


def ches(hidden_win: Tensor, hidden_lose: Tensor, mask_win: Tensor, mask_lose: Tensor) -> Tensor:
    """Centred hidden embedding similarity, (b,): the higher, the more a pair displaces its winner (arXiv 2410.08847).

    `hidden_*` are (b, T, width) states of the last layer, `mask_*` (b, T) are 1 from the last token of the prompt to
    the last but one of the answer: the states that predict the answer.
    """
    win, lose = _summed(hidden_win, mask_win), _summed(hidden_lose, mask_lose)
    return (win * lose).sum(-1) - win.square().sum(-1)


def mean_ches(hidden_win: Tensor, hidden_lose: Tensor, mask_win: Tensor, mask_lose: Tensor) -> Tensor:
    """The same by means over tokens, so that long answers do not stand out for their length."""
    win = _summed(hidden_win, mask_win) / mask_win.sum(-1, keepdim=True).clamp(min=1)
    lose = _summed(hidden_lose, mask_lose) / mask_lose.sum(-1, keepdim=True).clamp(min=1)
    return (win * lose).sum(-1) - win.square().sum(-1)


def _summed(hidden: Tensor, mask: Tensor) -> Tensor:
    return wide(hidden.detach()).where(mask.bool()[..., None], 0.0).sum(-2)


def of_pairs(win: Tensor, lose: Tensor, *, beta: float | Tensor) -> dict[str, Tensor]:
    """What every method on pairs reports, (b,) each."""
    z = margins(win, lose, beta=beta)
    return {
        "reward/win": rewards(win, beta=beta),
        "reward/lose": rewards(lose, beta=beta),
        "margin": z,
        "accuracy": accuracy(win, lose),
        "displaced": displaced(win),
        "both_down": both_down(win, lose),
        "gradient_weight": gradient_weight(z),
    }
