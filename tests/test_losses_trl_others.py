"""TRL's CPO, ORPO, TPO, KTO and reward trainers, run on a tiny model: our losses give TRL's numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from trl_tiny import BETA, PAIRS, Heard, model, same, sentences, settings, tokenizer

from visalign import losses
from visalign.losses import aggregate, inputs
from visalign.losses.arithmetic import log_odds

pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
FREE = frozenset({"reference_free"})


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
    bound = losses.resolve(spec, kinds=FREE, nats=True)
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
    preference = losses.resolve("dpo_reference_free", kinds=FREE).on(pairs, beta=BETA)
    supervised = losses.resolve("sft", kinds=FREE).on(pairs, beta=BETA)
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


@pytest.fixture(scope="module")
def tpo(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from trl.experimental.tpo import TPOConfig, TPOTrainer

    rows = {**sentences(), "reference": sentences(seed=1)["chosen"]}
    trainer = TPOTrainer(
        model=model(1).double(), args=TPOConfig(**settings(tmp_path_factory.mktemp("tpo")), tpo_l_gamma=0.5),
        processing_class=tokenizer(), train_dataset=datasets.Dataset.from_dict(rows),
    )  # fmt: skip
    trainer.model.eval()
    batch = next(iter(trainer.get_train_dataloader()))
    return SimpleNamespace(trainer=trainer, batch=batch, heard=Heard(trainer.model))


def token_logps(answer: Any, batch: Any) -> Tensor:
    """TRL's own token log-probabilities of the answers of a batch."""
    from trl.trainer.utils import selective_log_softmax

    logps: Tensor = selective_log_softmax(answer.logits[:, :-1], batch["input_ids"][:, 1:])
    return logps


@pytest.mark.parametrize("kind", ["sigmoid", "hinge", "ipo", "tpo-l"])
def test_losses_with_a_gold_answer_are_those_of_trls_tpo_trainer(tpo: Any, kind: str) -> None:
    tpo.trainer.loss_type = kind
    with torch.no_grad():
        wanted = tpo.trainer._compute_loss(tpo.trainer.model, tpo.batch, False)
    mask = tpo.batch["completion_mask"][:, 1:]
    logps = token_logps(tpo.heard.answer, tpo.batch)
    win, lose, gold = (inputs.Tokens(logp=p, mask=m) for p, m in zip(logps.chunk(3), mask.chunk(3), strict=True))
    pairs = inputs.from_token_probs(inputs.TokenPairs(win, lose))
    spec = {"name": f"trl.tpo:{kind}", **({"gamma": 0.5} if kind == "tpo-l" else {})}
    preference = losses.resolve(spec, kinds=FREE).on(pairs, beta=BETA)
    supervised = losses.sft_gold(gold.kept(gold.logp).sum(-1) / gold.length)
    same(preference.mean() + tpo.trainer.tpo_alpha * aggregate.mean(supervised, gold.length), wanted)


@pytest.fixture(scope="module")
def rewarded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import LlamaForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    torch.manual_seed(0)
    network = LlamaForSequenceClassification(model(1).config).double()
    network.config.num_labels = 1
    network.score = torch.nn.Linear(network.config.hidden_size, 1, bias=False).double()
    own = {key: value for key, value in settings(tmp_path_factory.mktemp("reward")).items() if key != "beta"}
    rows = {key: value for key, value in sentences().items() if key != "prompt"}
    trainer = RewardTrainer(
        model=network, args=RewardConfig(**own), processing_class=tokenizer(),
        train_dataset=datasets.Dataset.from_dict({**rows, "margin": [0.1 * i for i in range(PAIRS)]}),
    )  # fmt: skip
    trainer.model.eval()
    batch = next(iter(trainer.get_train_dataloader()))
    return SimpleNamespace(trainer=trainer, batch=batch, heard=Heard(trainer.model))


@pytest.mark.parametrize("centering", [None, 0.01])
@pytest.mark.parametrize("margins", [True, False])
def test_reward_model_objectives_are_those_of_trls_reward_trainer(
    rewarded: Any, centering: float | None, margins: bool
) -> None:
    assert rewarded.batch["margin"].max() > 0
    rewarded.trainer.args.center_rewards_coefficient = centering
    batch = {name: value for name, value in rewarded.batch.items() if margins or name != "margin"}
    with torch.no_grad():
        wanted = rewarded.trainer.compute_loss(rewarded.trainer.model, dict(batch))
    win, lose = rewarded.heard.answer.logits.squeeze(-1).chunk(2)
    each = losses.bradley_terry(win, lose, margin=batch.get("margin", 0.0))
    same((each + (centering or 0.0) * losses.centering(win, lose)).mean(), wanted)
    if not margins and centering:
        blended = losses.resolve("bradley_terry_centered", kinds=frozenset({"reward"}))
        same(blended(win, lose, beta=1.0).mean(), wanted)
