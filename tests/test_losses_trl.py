"""TRL's DPO trainer, run on a tiny model: our losses give TRL's numbers on TRL's token log-probabilities."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from trl_tiny import BETA, PAIRS, Heard, model, same, sentences, settings, tokenizer

from visalign import losses
from visalign.losses import aggregate, inputs, metrics, tokens

pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def dpo(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A DPO trainer, one batch of its own collator, and the token log-probabilities that it computes."""
    from trl import DPOConfig, DPOTrainer

    arguments = DPOConfig(**settings(tmp_path_factory.mktemp("dpo")), use_weighting=True)
    trainer = DPOTrainer(
        model=model(1), ref_model=model(2), args=arguments, processing_class=tokenizer(),
        train_dataset=datasets.Dataset.from_dict(sentences()),
    )  # fmt: skip
    trainer.model.eval()
    batch = next(iter(trainer.get_train_dataloader()))
    found = SimpleNamespace(
        trainer=trainer, batch=batch, policy=Heard(trainer.model), reference=Heard(trainer.ref_model)
    )
    theirs(found, "sigmoid", weighting=True)
    return found


def pairs_of(dpo: Any) -> inputs.TokenPairs:
    """The token log-probabilities of TRL's last run, in our terms."""
    policy, reference, mask = dpo.policy.answer, dpo.reference.answer, dpo.mask
    collision = [None, None]
    if policy.log_sum_sq_probs is not None:
        collision = policy.log_sum_sq_probs[:, -mask.shape[1] :].chunk(2)
    halves = zip(policy.log_probs.chunk(2), reference.log_probs.chunk(2), mask.chunk(2), collision, strict=True)
    win, lose = (inputs.Tokens(logp=p, mask=m, reference=r, collision=c) for p, r, m, c in halves)
    return inputs.TokenPairs(win, lose)


def theirs(
    dpo: Any,
    *kinds: str,
    weights: tuple[float, ...] | None = None,
    smoothing: float = 0.0,
    divergence: str = "reverse_kl",
    alpha: float = 0.5,
    tail: float | None = None,
    weighting: bool = False,
    dtype: torch.dtype = torch.float64,
    only: int | None = None,
) -> Tensor:
    """TRL's loss: the mean over its batch, or that of one pair."""
    trainer = dpo.trainer
    trainer.loss_types, trainer.loss_weights = list(kinds), list(weights or (1.0,) * len(kinds))
    trainer.label_smoothing, trainer.ld_alpha, trainer.use_weighting = smoothing, tail, weighting
    trainer.f_divergence_type, trainer.f_alpha_divergence_coef = divergence, alpha
    batch = dpo.batch
    if only is not None:
        rows = torch.tensor([only, PAIRS + only])
        batch = {name: value[rows] for name, value in batch.items()}
    dpo.mask = batch["completion_mask"][:, 1:]
    dpo.policy.dtype = dpo.reference.dtype = dtype
    with torch.no_grad():
        value: Tensor = trainer._compute_loss(trainer.model, batch, False)
    return value


def ours(dpo: Any, spec: Any) -> Tensor:
    """Our (b,) losses of the tokens of TRL's last run."""
    pairs = pairs_of(dpo)
    columns = pairs.fields()
    everything = frozenset(losses.registry.KINDS)
    return losses.resolve(spec, kinds=everything, nats=True, feeds=frozenset(columns)).on(pairs, beta=BETA)


def subtracted_sums(dpo: Any) -> inputs.LogRatioPairs:
    """Log-ratios in TRL's order, sums first and then their difference, which matters in float32."""
    found = pairs_of(dpo)
    win, lose = (side.logp.sum(-1) - cast(Tensor, side.reference).sum(-1) for side in (found.win, found.lose))
    return inputs.LogRatioPairs(win, lose, length_win=found.win.length, length_lose=found.lose.length)


SMOOTHED = {"robust": 0.2, "exo_pair": 1e-3}
KINDS: dict[str, Any] = {
    "sigmoid": "trl>=0.29:sigmoid",
    "hinge": "trl:hinge",
    "ipo": "trl:ipo",
    "exo_pair": "trl>=0.29:exo_pair",
    "nca_pair": "trl:nca_pair",
    "robust": {"name": "trl:robust", "epsilon": 0.2},
    "bco_pair": "trl>=0.29:bco_pair",
    "sppo_hard": "trl:sppo_hard",
    "apo_zero": "trl:apo_zero",
    "apo_down": "trl:apo_down",
    "discopop": "trl:discopop",
    "sigmoid_norm": "trl>=0.29:sigmoid_norm",
    "aot": "trl:aot",
    "aot_unpaired": "trl>=0.29:aot_unpaired",
}


def test_the_pairs_are_not_trivial(dpo: Any) -> None:
    """Lengths differ and log-ratios lie on both sides of zero, or equality would show little."""
    theirs(dpo, "sigmoid")
    pairs = inputs.from_token_logps(pairs_of(dpo))
    assert pairs.length_win is not None and not pairs.length_win.equal(cast(Tensor, pairs.length_lose))
    assert (pairs.win - pairs.lose).abs().min() > 1e-2
    assert (pairs.win - pairs.lose > 0).any() and (pairs.win - pairs.lose < 0).any()


@pytest.mark.parametrize("kind", KINDS)
def test_every_pair_has_the_loss_trl_gives_it(dpo: Any, kind: str) -> None:
    smoothing = SMOOTHED.get(kind, 0.0)
    for only in (None, *range(PAIRS)):
        wanted = theirs(dpo, kind, smoothing=smoothing, only=only)
        same(ours(dpo, KINDS[kind]).mean(), wanted)


def test_sft_weighted_by_length_is_trls_mean_over_tokens(dpo: Any) -> None:
    wanted = theirs(dpo, "sft")
    mean = aggregate.mean(ours(dpo, "sft"), pairs_of(dpo).fields()["length_win"])
    same(mean, wanted)
    assert (ours(dpo, "sft").mean() - mean).abs() > 1e-3  # a mean of means is another number


def test_mixtures_have_trls_sum(dpo: Any) -> None:
    spec = [("dpo", 0.8), ("trl>=0.29:bco_pair", 0.2)]
    wanted = theirs(dpo, "sigmoid", "bco_pair", weights=(0.8, 0.2))
    same(ours(dpo, spec).mean(), wanted)


@pytest.mark.parametrize("kind", ["sigmoid", "hinge", "ipo", "sigmoid_norm", "exo_pair", "robust", "discopop"])
@pytest.mark.parametrize(
    ("divergence", "name"),
    [("forward_kl", "forward_kl"), ("js_divergence", "js"), ("alpha_divergence", {"name": "alpha", "alpha": 0.3})],
)
def test_divergences_before_a_loss_of_the_gap_are_trls(dpo: Any, kind: str, divergence: str, name: Any) -> None:
    spec = KINDS[kind] if isinstance(KINDS[kind], dict) else {"name": KINDS[kind]}
    dtype = torch.float32 if divergence == "alpha_divergence" else torch.float64  # it knows no float64
    smoothing = SMOOTHED.get(kind, 0.0)
    wanted = theirs(dpo, kind, smoothing=smoothing, divergence=divergence, alpha=0.3, dtype=dtype)
    bound = losses.resolve({**spec, "divergence": name}, nats=True, feeds=inputs.TEXT_PAIRS)
    same(bound.on(subtracted_sums(dpo), beta=BETA).mean(), wanted)


def test_tail_weights_of_ld_dpo_are_trls(dpo: Any) -> None:
    wanted = theirs(dpo, "sigmoid", tail=0.5)
    same(ours(dpo, "ld_dpo").mean(), wanted)


def test_wpo_without_a_ceiling_is_trls_and_with_the_papers_it_is_not(dpo: Any) -> None:
    wanted = theirs(dpo, "sigmoid", weighting=True)
    free = ours(dpo, {"name": "wpo", "ceiling": math.inf})
    same(free.mean(), wanted)
    weights = pairs_of(dpo).fields()
    product = weights["on_policy_win"] * weights["on_policy_lose"]
    capped = ours(dpo, "wpo")
    torch.testing.assert_close(capped[product < 1], free[product < 1])
    torch.testing.assert_close(capped[product > 1] * product[product > 1], free[product > 1])


def test_log_collision_is_what_trls_model_answers(dpo: Any) -> None:
    rows = {name: dpo.batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        logits = dpo.trainer.model(**rows).logits[:, :-1]
    theirs(dpo, "sigmoid", weighting=True)
    kept = dpo.mask.bool()
    heard = torch.cat([cast(Tensor, side.collision) for side in (pairs_of(dpo).win, pairs_of(dpo).lose)])
    torch.testing.assert_close(tokens.log_collision(logits)[kept], heard[kept], rtol=1e-5, atol=1e-6)


def test_logged_rewards_are_ours_but_trl_calls_a_tie_wrong(dpo: Any) -> None:
    trainer = dpo.trainer
    trainer._metrics["eval"].clear()
    theirs(dpo, "sigmoid")
    logged = {name: values[-1] for name, values in trainer._metrics["eval"].items() if name != "num_tokens"}
    pairs = inputs.from_token_logps(pairs_of(dpo))
    found = metrics.of_pairs(pairs.win, pairs.lose, beta=BETA)
    for own, other in {
        "reward/win": "rewards/chosen",
        "margin": "rewards/margins",
        "accuracy": "rewards/accuracies",
    }.items():
        assert found[own].mean().item() == pytest.approx(logged[other], rel=1e-5)
    trainer.ref_model, reference = trainer.model, trainer.ref_model
    theirs(dpo, "sigmoid")
    trainer.ref_model = reference
    tie = torch.zeros(3)
    assert trainer._metrics["eval"]["rewards/accuracies"][-1] == 0.0
    assert metrics.accuracy(tie, tie).mean() == 0.5


def test_documented_differences_from_trl_are_differences(dpo: Any) -> None:
    """ipo and cdpo in their papers' form, bco_pair about its shift, and alpha as its paper counts it."""
    averaged = theirs(dpo, "ipo")
    assert (ours(dpo, "ipo").mean() - averaged).abs() > 1.0  # sums, not means over tokens
    smoothed = theirs(dpo, "sigmoid", smoothing=0.1)
    torch.testing.assert_close(smoothed, theirs(dpo, "sigmoid"))  # TRL >= 0.29 takes no notice of smoothing here
    assert (ours(dpo, "cdpo").mean() - smoothed).abs() > 1e-3
    plain = theirs(dpo, "bco_pair")
    assert (ours(dpo, {"name": "trl<=0.28:bco_pair", "shift": 0.5}).mean() - plain).abs() > 1e-3
    paper = ours(dpo, {"name": "dpo", "divergence": {"name": "alpha_paper", "alpha": 0.3}}).mean()
    other = theirs(dpo, "sigmoid", divergence="alpha_divergence", alpha=0.3, dtype=torch.float32)
    assert (paper - other).abs() > 1e-3
    flipped = theirs(dpo, "sigmoid", divergence="alpha_divergence", alpha=0.7, dtype=torch.float32)
    same(paper, flipped)


def test_extremes_that_break_trl_do_not_break_us(dpo: Any) -> None:
    """TRL's discopop is 0 * inf below z = -88 and its forward KL inf - inf; its alpha has no float64."""
    z = torch.tensor([-200.0])
    assert (torch.exp(-z) * torch.sigmoid(z / 0.05)).isnan().all()  # the form that TRL evaluates
    assert losses.discopop(z, torch.zeros(1), beta=1.0).item() == pytest.approx(200.0)
    with pytest.raises(KeyError):
        theirs(dpo, "sigmoid", divergence="alpha_divergence")
