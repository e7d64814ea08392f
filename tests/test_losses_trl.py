"""TRL's own trainers, run on a tiny model: our losses give TRL's numbers on TRL's token log-probabilities."""

from __future__ import annotations

import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from visalign import losses
from visalign.losses import aggregate, inputs, metrics, tokens
from visalign.losses.arithmetic import log_odds

pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

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


def sentences() -> dict[str, list[str]]:
    draw = random.Random(0)

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


@pytest.mark.parametrize("kind", ["sigmoid", "hinge", "exo_pair", "robust", "discopop"])
@pytest.mark.parametrize(
    ("divergence", "name"),
    [("forward_kl", "forward_kl"), ("js_divergence", "js"), ("alpha_divergence", {"name": "alpha", "alpha": 0.3})],
)
def test_divergences_before_a_loss_of_the_gap_are_trls(dpo: Any, kind: str, divergence: str, name: Any) -> None:
    spec = KINDS[kind] if isinstance(KINDS[kind], dict) else {"name": KINDS[kind]}
    dtype = torch.float32 if divergence == "alpha_divergence" else torch.float64  # it knows no float64
    smoothing = SMOOTHED.get(kind, 0.0)
    wanted = theirs(dpo, kind, smoothing=smoothing, divergence=divergence, alpha=0.3, dtype=dtype)
    same(ours(dpo, {**spec, "divergence": name}).mean(), wanted)


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


@pytest.fixture(scope="module")
def cpo(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    trainer = CPOTrainer(
        model=model(1), args=CPOConfig(**settings(tmp_path_factory.mktemp("cpo")), cpo_alpha=0.0, max_length=64),
        processing_class=tokenizer(), train_dataset=datasets.Dataset.from_dict(sentences()),
    )  # fmt: skip
    trainer.model.eval()
    return SimpleNamespace(trainer=trainer, batch=next(iter(trainer.get_train_dataloader())))


CPO: dict[str, tuple[Any, dict[str, float]]] = {
    "sigmoid": ("trl.cpo:sigmoid", {}),
    "hinge": ("trl.cpo:hinge", {}),
    "ipo": ("trl.cpo:ipo", {}),
    "simpo": ({"name": "trl.cpo:simpo", "gamma": 0.5}, {"simpo_gamma": 0.5}),
    "alphapo": ({"name": "trl.cpo:alphapo", "gamma": 0.5, "alpha": 0.25}, {"simpo_gamma": 0.5, "alpha": 0.25}),
}


def sequence_logps(cpo: Any, kind: str) -> tuple[Tensor, Tensor]:
    cpo.trainer.loss_type = kind
    with torch.no_grad():
        win, lose, *_ = cpo.trainer.concatenated_forward(cpo.trainer.model, cpo.batch)
    return win, lose


@pytest.mark.parametrize("kind", CPO)
def test_reference_free_losses_are_those_of_trls_cpo_trainer(cpo: Any, kind: str) -> None:
    spec, attributes = CPO[kind]
    win, lose = sequence_logps(cpo, "simpo" if kind == "alphapo" else kind)
    cpo.trainer.alpha = 0.0
    for name, value in attributes.items():
        setattr(cpo.trainer, name, value)
    wanted, _, _ = cpo.trainer.cpo_loss(win, lose)
    bound = losses.resolve(spec, kinds=frozenset({"reference_free"}), nats=True)
    same(bound(win, lose, beta=BETA), wanted)


def test_whole_cpo_is_trls_loss(cpo: Any) -> None:
    trainer = cpo.trainer
    trainer.loss_type, trainer.alpha, trainer.cpo_alpha = "sigmoid", 0.0, 1.0
    with torch.no_grad():
        wanted, _ = trainer.get_batch_loss_metrics(trainer.model, cpo.batch)
    trainer.cpo_alpha = 0.0
    win, lose = sequence_logps(cpo, "sigmoid")
    length = (cpo.batch["chosen_labels"][:, 1:] != -100).sum(-1)
    pairs = inputs.LogProbPairs(win, lose, length, (cpo.batch["rejected_labels"][:, 1:] != -100).sum(-1))
    preference = losses.resolve("dpo_reference_free", kinds=frozenset({"reference_free"})).on(pairs, beta=BETA)
    supervised = losses.resolve("sft", kinds=frozenset({"reference_free"})).on(pairs, beta=BETA)
    same(preference.mean() + aggregate.mean(supervised, length), wanted)


def test_odds_ratio_is_that_of_trls_orpo_trainer_and_survives_certainty(cpo: Any) -> None:
    from trl.experimental.orpo import orpo_trainer

    win, lose = sequence_logps(cpo, "simpo")
    frame = SimpleNamespace(beta=1.0, accelerator=SimpleNamespace(device="cpu"))
    wanted, *_ = orpo_trainer.ORPOTrainer.odds_ratio_loss(frame, win, lose)
    same(losses.odds_ratio(win, lose), -wanted)
    sure = torch.zeros(1, requires_grad=True)
    orpo_trainer.log1mexp(sure).sum().backward()
    assert sure.grad is not None and sure.grad.isnan().all()  # what a certain answer does to TRL's gradient
    tame = torch.zeros(1, requires_grad=True)
    log_odds(tame).sum().backward()
    assert tame.grad is not None and tame.grad.isfinite().all()


@pytest.fixture(scope="module")
def kto(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from trl import KTOConfig, KTOTrainer

    rows = sentences()
    unpaired = {
        "prompt": rows["prompt"] * 2,
        "completion": rows["chosen"] + rows["rejected"],
        "label": [True] * PAIRS + [False] * PAIRS,
    }
    trainer = KTOTrainer(
        model=model(1), ref_model=model(2), args=KTOConfig(**settings(tmp_path_factory.mktemp("kto"))),
        processing_class=tokenizer(), train_dataset=datasets.Dataset.from_dict(unpaired),
    )  # fmt: skip
    trainer.model.eval()
    return SimpleNamespace(trainer=trainer, batch=next(iter(trainer.get_train_dataloader())))


@pytest.mark.parametrize("kind", ["kto", "apo_zero_unpaired"])
def test_unpaired_losses_are_those_of_trls_kto_trainer(kto: Any, kind: str) -> None:
    trainer, batch = kto.trainer, kto.batch
    trainer.loss_type, trainer.calculate_KL = kind, kind == "kto"
    trainer.desirable_weight, trainer.undesirable_weight = 1.3, 0.7
    policy, reference = Heard(trainer.model), Heard(trainer.ref_model)
    with torch.no_grad():
        wanted = trainer._compute_loss(trainer.model, batch, False)
    ratio = policy.answer.log_probs.sum(-1) - reference.answer.log_probs.sum(-1)
    desirable = torch.as_tensor(batch["label"])
    z0 = torch.tensor(trainer._metrics["eval"]["kl"][-1])
    bound = losses.resolve(
        {"name": f"trl.kto:{kind}", "desirable_weight": 1.3, "undesirable_weight": 0.7},
        kinds=frozenset({"unpaired"}), feeds=frozenset({"z0"}),
    )  # fmt: skip
    same(bound(ratio, desirable, beta=BETA, z0=z0).mean(), wanted)
