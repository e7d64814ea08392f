"""A reward model that criticises first: its numbers, what it reads, where its head stands, and that it is read back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import language
import numpy as np
import pytest
import torch
from torch import Tensor

from visalign import config, jobs
from visalign.batches import Critiques, Dialogues
from visalign.cli.screen import Screen
from visalign.contract import Critic, Criticised, Loss, Spoken
from visalign.data import store
from visalign.data.dialogues import VIEWS, CritiquesView, Settings
from visalign.draws import Draws
from visalign.jobs import dialogues
from visalign.models.critic import ABOUT, HEAD, CriticModel, RewardHead, criticism, last_states, with_head
from visalign.models.seeing import SeeingFolder
from visalign.records import DataError, Preference
from visalign.scorers.critique import Critique
from visalign.scoring import Sample
from visalign.trainers.critique_reward import CritiqueReward
from visalign.training.healthy import HEALTHY

WIN, LOSE = (1.2, 0.3), (0.2, 0.9)
NLL = (0.9, 1.1)  # of the preferred answers' critiques, and of the others'
BT = 0.675374819002


class Said:
    """A critic with these scores, to whom every token of a critique is exp(-nll) likely."""

    def criticise(self, dialogues: Dialogues) -> Criticised:
        chance = (-torch.tensor(NLL, dtype=torch.float64).repeat_interleave(2)).exp()
        logits = torch.stack([chance, 1 - chance], -1).log()[:, None].expand(4, 3, 2)
        ids, mask = torch.zeros(4, 3, dtype=torch.long), torch.ones(4, 3, dtype=torch.bool)
        return Criticised(Spoken(logits, ids, mask), torch.tensor(WIN + LOSE, dtype=torch.float64))


def pairs(confidence: Sequence[float] = (1.0, 1.0), scores: Tensor | None = None) -> Critiques:
    nothing = torch.zeros(4, 1, dtype=torch.long)
    draw = Draws(0, ("a", "b"), (0, 0))
    return Critiques(
        Dialogues(nothing, nothing.bool(), nothing.bool()), draw, torch.tensor(confidence), torch.ones(2), scores
    )


def mean(batch: Critiques | None = None, **settings: Any) -> float:
    return float(CritiqueReward(**settings).loss(pairs() if batch is None else batch, Said()).each.mean())


def test_the_loss_is_the_vote_s_and_the_critiques() -> None:
    """Bradley-Terry 0.675374819002, centring 0.01 of 1.7, cross-entropies 0.9 + 1.1."""
    assert mean(critique=0.0) == pytest.approx(BT, abs=1e-12)
    assert mean(critique=0.0, variant="release") == pytest.approx(0.692374819002, abs=1e-12)
    assert mean(variant="release") == pytest.approx(2.692374819002, abs=1e-12)
    assert mean() == pytest.approx(BT + 2.0, abs=1e-12)
    assert mean(centering=0.01) == mean(variant="release")


def test_weights_weigh_their_own_term() -> None:
    assert mean(score=2.0, critique=0.5) == pytest.approx(2 * BT + 1.0, abs=1e-12)
    assert mean(score=0.0, variant="release", centering=0.0) == pytest.approx(2.0, abs=1e-12)
    with pytest.raises(ValueError, match="must not be negative"):
        CritiqueReward(critique=-1.0)
    with pytest.raises(ValueError, match="paper, release"):
        CritiqueReward(variant="mine")


def test_a_tie_draws_the_scores_together() -> None:
    found = CritiqueReward(critique=0.0, ties=3.0).loss(pairs((0.5, 1.0)), Said())
    assert found.each.tolist() == pytest.approx([3.0 * 1.0, 1.0374879504858856])
    assert found.metrics["accuracy"].tolist() == [0.5, 0.0]


def test_a_vote_that_is_not_sure_counts_both_ways() -> None:
    one = CritiqueReward(critique=0.0).loss(pairs((0.8, 1.0)), Said()).each[0]
    gap = torch.tensor(1.0, dtype=torch.float64)
    both = -0.8 * torch.nn.functional.logsigmoid(gap) - 0.2 * torch.nn.functional.logsigmoid(-gap)
    torch.testing.assert_close(one, both, atol=1e-7, rtol=0)  # 0.8 as a float32


def test_a_margin_is_the_lead_of_the_records_own_scores() -> None:
    scores = torch.tensor([[0.9, 0.4], [0.3, 0.2]], dtype=torch.float64)
    found = CritiqueReward(critique=0.0, margin=True).loss(pairs(scores=scores), Said()).each
    wanted = -torch.nn.functional.logsigmoid(torch.tensor([1.0 - 0.5, -0.6 - 0.1], dtype=torch.float64))
    torch.testing.assert_close(found, wanted)
    with pytest.raises(ValueError, match="margin"):
        mean(margin=True)
    assert (CritiqueReward(margin=True).needs, CritiqueReward().needs) == (("scores",), ())


def test_all_that_is_measured_is_explained() -> None:
    assert set(CritiqueReward().loss(pairs(), Said()).metrics) <= set(HEALTHY)


def test_a_question_is_asked_with_its_answer_whatever_they_hold() -> None:
    assert criticism("{question} / {answer}?", "a {answer}", "b {question}") == "a {answer} / b {question}?"
    with pytest.raises(DataError, match=r"\{answer\}"):
        Settings(critique="{question}")


def records(folder: Path, count: int = 8) -> list[Preference]:
    """Language's pairs with a critique of each answer."""
    return [
        dataclasses.replace(each, captions=(f"right, {row}", "wrong: no such thing"))
        for row, each in enumerate(language.records(folder, count))
    ]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("critics")


def view(root: Path, given: Sequence[Preference] | None = None, **settings: Any) -> CritiquesView:
    found = VIEWS[Critiques](
        records(root / "data") if given is None else given, root / "data", language.folder(root).reader(),
        Settings(**settings), listed=root / "quarantine.jsonl",
    )  # fmt: skip
    assert isinstance(found, CritiquesView)
    return found


def model(root: Path, **settings: Any) -> CriticModel:
    folder = language.folder(root)
    return with_head(folder.model(train="full"), folder.path, "{question}\n{answer}", **settings)


def test_a_critic_reads_question_and_answer_and_learns_the_critique(root: Path) -> None:
    shown = view(root)
    made, decode = shown.batch([1], [0], 0), shown.reader.tokenizer.decode
    assert isinstance(made, Critiques)
    for row, (answer, critique) in enumerate(
        [("a red ring and a dot", "right, 1"), ("a cup no 1", "wrong: no such thing")]
    ):
        said = made.answers.ids[row][made.answers.answer[row]]
        read = made.answers.ids[row][~made.answers.answer[row] & made.answers.attention[row]]
        assert decode(said, skip_special_tokens=True) == critique
        assert f"what is there\n{answer}" in decode(read, skip_special_tokens=True)


def test_records_without_critiques_and_ties_are_left_out(root: Path) -> None:
    given = records(root / "data", 4)
    bare = dataclasses.replace(given[1], captions=(), key="bare")
    half = dataclasses.replace(given[2], captions=("right", " "), key="half")
    tie = dataclasses.replace(given[3], scores=np.array([0.5, 0.5]), key="tie")
    found = view(root, [given[0], bare, half, tie])
    assert found.left_out == {"no critiques": 2, "tie": 1}
    kept = view(root, [given[0], bare, half, tie], ties="half")
    assert kept.batch([0, 1], [0, 0], 0).confidence.tolist() == [1.0, 0.5]


def test_the_score_is_read_behind_the_last_token(root: Path) -> None:
    hidden = torch.arange(24.0).reshape(2, 4, 3)
    right = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]).bool()
    left = right.flip(1)
    assert last_states(hidden, right).tolist() == [hidden[0, 2].tolist(), hidden[1, 3].tolist()]
    assert last_states(hidden, left).tolist() == [hidden[0, 3].tolist(), hidden[1, 3].tolist()]


def test_the_head_s_shape_is_that_of_the_paper() -> None:
    head = RewardHead(4, dropout=0.5)
    states = torch.randn(3, 4)
    first, last = (head.layers[place] for place in (1, 4))
    head.eval()
    torch.testing.assert_close(head(states), last(first(states).tanh())[:, 0])
    head.train()
    torch.manual_seed(0)
    assert not torch.equal(head(states), head(states))
    with pytest.raises(ValueError, match="dropout"):
        RewardHead(4, dropout=1.0)


def each_alone(root: Path, critic: Critic, **settings: Any) -> tuple[Loss, list[Loss]]:
    shown, how = view(root), CritiqueReward(**settings)
    whole = how.loss(language.batch(shown), critic)
    return whole, [how.loss(language.batch(shown, [row]), critic) for row in range(4)]


def test_a_batch_of_four_is_four_batches_of_one(root: Path) -> None:
    whole, alone = each_alone(root, model(root).double())
    torch.testing.assert_close(whole.each, torch.cat([each.each for each in alone]))
    for name, values in whole.metrics.items():
        torch.testing.assert_close(values, torch.cat([each.metrics[name] for each in alone]), msg=name)


def test_it_costs_two_forwards_a_pair_and_has_a_gradient_everywhere(root: Path) -> None:
    critic = model(root)
    counted: list[int] = []
    critic.network.register_forward_hook(lambda *_: counted.append(1))
    CritiqueReward().loss(view(root).batch([0, 1], [0, 0], 0), critic).each.mean().backward()
    assert len(counted) == 1
    assert CritiqueReward().passes.policy == 2
    missing = [name for name, each in critic.trainable().items() if each.grad is None or not bool(each.grad.any())]
    assert not [name for name in missing if "k_proj.bias" not in name]


def weight_of(critic: CriticModel) -> Tensor:
    found: Tensor = critic.head.state_dict()["layers.1.weight"]
    return found


def test_a_head_is_drawn_from_its_seed_saved_and_read_back(root: Path, tmp_path: Path) -> None:
    critic, other = model(root, seed=1, dropout=0.25), model(root, seed=2)
    assert torch.equal(weight_of(critic), weight_of(model(root, seed=1)))
    assert not torch.equal(weight_of(critic), weight_of(other))
    critic.save(tmp_path)
    back = with_head(language.folder(root).model(train="none"), tmp_path)
    assert (back.wording, back.head.dropout) == ("{question}\n{answer}", 0.25)
    batch = view(root).batch([0, 1], [0, 0], 0).answers
    torch.testing.assert_close(back.eval().criticise(batch).score, critic.eval().criticise(batch).score)
    with pytest.raises(ValueError, match="no published critic"):
        with_head(language.folder(root).model(train="none"), root)


@pytest.fixture(scope="module", params=["full", "lora"])
def trained(request: pytest.FixtureRequest, root: Path) -> tuple[jobs.Outcome, Path]:
    """A run of a few steps, from records on the disk."""
    data, out = root / "data", root / request.param
    language.folder(root)
    store.write(records(data), data / "records.jsonl")
    run = config.load(None, [
        "method.name=critique_reward", f"model.folder={root / 'llava'}", f"model.train={request.param}",
        f"data.path={data / 'records.jsonl'}", f"out={out}", "steps=12", "batch=8", "micro_batch=8",
        "optimizer.lr=5e-3", "save_every=0", "model.network={dropout: 0.1}", "model.rank=4",
    ])  # fmt: skip
    assert jobs.of(run) is dialogues
    assert any("8" in str(row) for row in dialogues.plan(run).rows)
    found = dialogues.train(run, Screen(silent=True))
    return found, out


def test_training_publishes_a_critic_that_agrees_with_the_votes(trained: tuple[jobs.Outcome, Path], root: Path) -> None:
    told, out = trained
    assert {HEAD, ABOUT} <= {each.name for each in told.weights.iterdir()}
    assert told.summary.last["accuracy"] == 1.0
    assert told.summary.last["critique_nll"] < 5.5  # log 258 = 5.553 for a model that knows nothing
    scorer = Critique(out, max_new_tokens=4)
    pictures = [root / "data" / f"{row}.png" for row in range(8)]
    judged = records(root / "data")
    good, bad = (
        [
            Sample(each.prompt, answer=each.items[side], source=picture)
            for each, picture in zip(judged, pictures, strict=True)
        ]
        for side in (0, 1)
    )
    found = scorer.score([*good, Sample("what"), *bad])
    assert found.reasons == {8: "the sample has no answer to judge"}
    assert isinstance(scorer.critiques(good[:1])[0], str)
    alone = torch.stack([scorer.score([each]).values[0] for each in good[:2]])
    torch.testing.assert_close(found.values[:2], alone, atol=1e-4, rtol=1e-4)


def test_what_the_scorer_reads_is_what_was_trained(trained: tuple[jobs.Outcome, Path], root: Path) -> None:
    """Behind the record's own critique the score is that of the trained model."""
    scorer = Critique(trained[1], max_new_tokens=4)
    record = records(root / "data")[0]
    batch = view(root).batch([0], [0], 0).answers
    wanted = scorer.model.criticise(batch).score[0]
    sample = Sample(record.prompt, answer=record.items[0], source=root / "data" / "0.png")
    found = scorer.after([sample], [record.captions[0]])
    torch.testing.assert_close(found[0], wanted.detach(), atol=1e-5, rtol=1e-5)
    own = scorer.after([sample], scorer.critiques([sample]))
    torch.testing.assert_close(own, scorer.score([sample]).values, atol=1e-5, rtol=1e-5)


def test_a_critic_is_trained_on_from_where_it_was(trained: tuple[jobs.Outcome, Path]) -> None:
    folder = SeeingFolder.open(trained[0].weights)
    again = with_head(folder.model(train="none"), folder.adapters or folder.path, "{question} {answer}", dropout=0.0)
    saved = with_head(folder.model(train="none"), trained[0].weights)
    assert torch.equal(weight_of(again), weight_of(saved))
    assert (again.wording, again.head.dropout) == ("{question} {answer}", 0.0)
