"""Personal taste: tastes from a few votes, PAL's and GPM's heads, profiles, and the electorate they are tried on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_vlm
import torch
from PIL import Image
from scipy.optimize import minimize
from torch import Tensor

from visalign import registry
from visalign.cli import main
from visalign.cli.users import placed, write
from visalign.data import sources, store
from visalign.diffusion import personal
from visalign.diffusion.personal import Vote
from visalign.evaluation import personal as measured
from visalign.playground import electorate, users
from visalign.playground import shipped_votes as shipped
from visalign.records import DataError, Preference
from visalign.scorers.ideals import (
    GeneralPreference,
    IdealPoint,
    Prototypes,
    UserVotes,
    cosine_logit,
    expected,
    fit,
    newcomers,
    skew,
)
from visalign.scorers.personal import Checked, Embedded, Personal, TasteReader
from visalign.scorers.profiles import ProfileReader
from visalign.scorers.tastes import Gaps, Tastes, most_likely, pooled, population
from visalign.scoring import Sample


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture(scope="module")
def candidates() -> electorate.Candidates:
    """The shipped candidates of the first 100 prompts."""
    path = shipped()
    return electorate.Candidates.of(sources.open_source(path)[:100], sources.root(path))


# PAL and GPM: the published numbers


def ideal_point(variant: Any) -> IdealPoint:
    head = IdealPoint(2, 1, hidden=None, variant=variant).double()
    with torch.no_grad():
        head.prototypes.copy_(double([[1, 0], [0, 2]]))
        head.mixture.copy_(double([[0.5, -0.5]]))
    return head


LEFT, RIGHT = double([[1, 1]]), double([[0, 1]])


def test_pal_a_the_released_numbers() -> None:
    head = ideal_point("release")
    assert torch.allclose(head.ideal(head.mixture), double([[0.7310585786, 0.5378828427]]), atol=1e-9)
    lead = head.lead(RIGHT, LEFT, RIGHT, head.mixture)
    assert float(lead) == pytest.approx(-0.3301901895, abs=1e-9)
    assert float(head.objective(lead)) == pytest.approx(1.3301901895, abs=1e-9)
    assert float(head.objective(-lead)) == pytest.approx(0.6698098105, abs=1e-9)


def test_pal_a_as_the_paper_has_it_squares_the_distances() -> None:
    head = ideal_point("paper")
    a = np.array([0.7310585786300049, 0.5378828427399902])
    expected_lead = float(np.square([1, 1] - a).sum() - np.square([0, 1] - a).sum())
    lead = head.lead(RIGHT, LEFT, RIGHT, head.mixture)
    assert float(lead) == pytest.approx(expected_lead, abs=1e-12)
    assert float(head.objective(lead)) == pytest.approx(float(np.log1p(np.exp(-expected_lead))), abs=1e-12)


def test_pal_b_the_published_numbers() -> None:
    wanted, scale = double([[0.7310585786, 0.5378828427]]), torch.log(double(1 / 0.07))
    left, right = (float(cosine_logit(wanted, each, scale)) for each in (LEFT, RIGHT))
    assert (left, right) == pytest.approx((14.1230004943, 8.4661915361), abs=1e-8)
    head = Prototypes(2, 2, 1).double()
    assert float(head.objective(double([right - left]))) == pytest.approx(5.6602965171, abs=1e-8)
    assert float(head.objective(double([left - right]))) == pytest.approx(0.0034875589, abs=1e-9)


def test_pal_b_never_multiplies_a_cosine_by_more_than_100() -> None:
    assert float(cosine_logit(LEFT, LEFT, double(9.0))) == pytest.approx(100.0)


def test_gpm_the_published_numbers() -> None:
    one = torch.ones(1, 1).double()
    assert float(skew(double([[0.6, 0.8]]), double([[0.8, -0.6]]), one)) == pytest.approx(-1.0, abs=1e-12)
    first, second = double([[0.6, 0.8, 1, 0]]), double([[0.8, -0.6, 0.5, 2]])
    found = skew(first, second, double([[1.5, 0.5]]))
    assert float(found) == pytest.approx(-0.5, abs=1e-12)
    assert float(torch.nn.functional.softplus(-found / 0.1)) == pytest.approx(5.0067153485, abs=1e-9)


def test_gpm_goes_in_circles_which_no_score_can() -> None:
    angles = double([0, 2 * np.pi / 3, 4 * np.pi / 3])
    points = torch.stack([angles.cos(), angles.sin()], 1)
    beats = skew(points, points.roll(-1, 0), torch.ones(3, 1).double())
    assert beats.tolist() == pytest.approx([0.8660254038] * 3, abs=1e-9)


# Heads: what must hold whatever their weights


def random_votes(users_: int = 2, m: int = 12) -> UserVotes:
    rng = np.random.default_rng(3)
    better, worse, prompt = (torch.from_numpy(rng.standard_normal((m, 4))) for _ in range(3))
    return UserVotes(better, worse, torch.arange(m) % users_, prompt, torch.ones(m).double())


def heads(users_: int = 2) -> list[Any]:
    made = (IdealPoint(4, users_), IdealPoint(4, users_, variant="release"), Prototypes(4, 4, users_))
    return [each.double() for each in made]


def test_swapping_the_two_items_negates_the_lead() -> None:
    votes = random_votes()
    for head in heads():
        mixture = head.mixture[votes.user]
        one = head.lead(votes.better, votes.worse, votes.prompt, mixture)
        other = head.lead(votes.worse, votes.better, votes.prompt, mixture)
        assert torch.allclose(one, -other) and float(one.abs().min()) > 0
    gpm = GeneralPreference(4, prompt=4).double()
    one, other = (gpm.lead(*pair, votes.prompt) for pair in ((votes.better, votes.worse), (votes.worse, votes.better)))
    assert torch.allclose(one, -other) and float(one.abs().min()) > 0


def test_gpms_planes_weigh_one_each_on_average() -> None:
    scale = GeneralPreference(4, prompt=4, planes=3).double().scale(random_votes().prompt)
    assert torch.allclose(scale.sum(-1), torch.full((12,), 3.0).double())
    assert torch.equal(GeneralPreference(4).scale(torch.zeros(2, 4)), torch.ones(2, 4))


def test_a_vote_of_confidence_one_half_says_as_much_for_as_against() -> None:
    votes = replace(random_votes(), confidence=torch.full((12,), 0.5).double())
    swapped = replace(votes, better=votes.worse, worse=votes.better)
    for head in heads():
        mixture = head.mixture[votes.user]
        assert torch.allclose(expected(head, votes, mixture), expected(head, swapped, mixture))


def two_minds(users_: int, m: int, seed: int) -> UserVotes:
    """Users of even number like what points one way, the others the opposite."""
    rng = np.random.default_rng(seed)
    first, second = rng.standard_normal((2, users_ * m, 4))
    user = np.repeat(np.arange(users_), m)
    liked = (first - second)[:, 0] * np.where(user % 2, -1, 1) > 0
    better, worse = np.where(liked[:, None], first, second), np.where(liked[:, None], second, first)
    parts = [torch.from_numpy(each) for each in (better, worse, user, np.ones((len(user), 4)), np.ones(len(user)))]
    return UserVotes(*parts)


@pytest.mark.parametrize("kind", ["PAL-A", "PAL-A release", "PAL-B"])
def test_pal_learns_two_minds_and_places_newcomers_by_four_votes(kind: str) -> None:
    votes, unseen, test = two_minds(20, 60, 0), two_minds(8, 4, 1), two_minds(8, 40, 2)
    made = {
        "PAL-A": lambda: IdealPoint(4, 20, hidden=8), "PAL-B": lambda: Prototypes(4, 4, 20, hidden=8),
        "PAL-A release": lambda: IdealPoint(4, 20, hidden=8, variant="release"),
    }  # fmt: skip
    head: Any = made[kind]().double()
    fit(head, votes, steps=150, lr=0.02)
    mixture = newcomers(head, unseen, 8, steps=60)[test.user]
    assert float((head.lead(test.better, test.worse, test.prompt, mixture) > 0).double().mean()) > 0.8


def test_without_votes_a_newcomer_is_the_populations_mean() -> None:
    head = IdealPoint(4, 5).double()
    nothing = random_votes().of(99)
    assert torch.allclose(newcomers(head, nothing, 1)[0], head.mixture.mean(0))


@pytest.mark.parametrize("number", range(3))
def test_newcomers_are_placed_apart(number: int) -> None:
    head, votes = heads(5)[number], random_votes(3)
    together = newcomers(head, votes, 3, steps=20)
    own = votes.of(1)
    alone = newcomers(head, replace(own, user=torch.zeros_like(own.user)), 1, steps=20)
    assert torch.allclose(alone[0], together[1], atol=1e-9)


# Tastes


def drawn_tastes(count: int, m: int, seed: int = 0, noise: bool = True) -> tuple[Gaps, Tensor]:
    """Users' votes on normal items, their weights normal around (2, 0, 0) with deviations 0.3, 1.5, 0.5."""
    rng = np.random.default_rng(seed)
    theta = torch.from_numpy(np.array([2.0, 0, 0]) + rng.standard_normal((count, 3)) * [0.3, 1.5, 0.5])
    gap = torch.from_numpy(rng.standard_normal((count, m, 3)))
    chance = torch.sigmoid((gap @ theta[..., None])[..., 0])
    won = torch.from_numpy(rng.random((count, m))) < chance if noise else chance > 0.5
    return Gaps(torch.where(won[..., None], gap, -gap), torch.ones(count, m).double()), theta


def test_the_most_likely_taste_is_what_a_general_minimiser_finds() -> None:
    votes, _ = drawn_tastes(3, 5)
    mean, root = double([1.0, 0, 0]), double([[0.5, 0, 0], [0.2, 1, 0], [0, 0.3, 2]])
    z, covariance = most_likely(votes, mean, root)
    for user in range(3):

        def cost(at: Any, user: int = user) -> float:
            lead = votes.gap[user].numpy() @ (mean.numpy() + root.numpy() @ at)
            return float(np.logaddexp(0, -lead).sum() + at @ at / 2)

        assert z[user].tolist() == pytest.approx(minimize(cost, np.zeros(3), tol=1e-12).x.tolist(), abs=1e-5)
    assert torch.equal(covariance, covariance.mT) or torch.allclose(covariance, covariance.mT)
    assert bool((torch.linalg.eigvalsh(covariance) <= 1 + 1e-12).all())


def test_users_are_read_apart_and_a_start_changes_nothing() -> None:
    votes, _ = drawn_tastes(6, 4)
    mean, root = double([1.0, 0, 0]), torch.eye(3).double()
    together, _ = most_likely(votes, mean, root)
    for user in range(6):
        alone, _ = most_likely(Gaps(votes.gap[user : user + 1], votes.confidence[user : user + 1]), mean, root)
        assert torch.allclose(alone[0], together[user], atol=1e-9)
    again, _ = most_likely(votes, mean, root, torch.full((6, 3), 3.0).double())
    assert torch.allclose(again, together, atol=1e-7)


def test_no_votes_and_the_padding_say_nothing() -> None:
    votes, _ = drawn_tastes(2, 4)
    padded = Gaps.padded([votes.gap[0], votes.gap[1, :2]], [votes.confidence[0], votes.confidence[1, :2]])
    short = Gaps(votes.gap[1:, :2], votes.confidence[1:, :2])
    mean, root = double([1.0, 0, 0]), torch.eye(3).double()
    assert torch.allclose(most_likely(padded, mean, root)[0][1], most_likely(short, mean, root)[0][0], atol=1e-9)
    empty = Gaps(torch.zeros(1, 0, 3).double(), torch.zeros(1, 0).double())
    assert torch.equal(most_likely(empty, mean, root)[0], torch.zeros(1, 3).double())


def test_swapping_a_pair_and_its_confidence_is_the_same_vote_and_a_tie_pulls_to_indifference() -> None:
    votes, _ = drawn_tastes(4, 6)
    mean, root = double([1.0, 0, 0]), torch.eye(3).double()
    swapped = Gaps(-votes.gap, 1 - votes.confidence)
    assert torch.allclose(most_likely(votes, mean, root)[0], most_likely(swapped, mean, root)[0], atol=1e-9)
    tie = Gaps(double([[[1.0, 0, 0]]]), double([[0.5]]))
    assert float(most_likely(tie, mean, root)[0][0, 0]) < 0


def test_a_population_is_found_again() -> None:
    votes, theta = drawn_tastes(300, 40)
    mean, root = population(votes)
    covariance = root @ root.T
    assert mean.tolist() == pytest.approx([2, 0, 0], abs=0.3)
    assert covariance.diagonal().sqrt().tolist() == pytest.approx([0.3, 1.5, 0.5], abs=0.25)
    z, _ = most_likely(votes, mean, root)
    read = mean + z @ root.T
    assert float(torch.corrcoef(torch.stack([read[:, 1], theta[:, 1]]))[0, 1]) > 0.9
    assert float(pooled(votes)[0]) < float(mean[0])  # what users differ in looks like noise to one voter for all


def test_more_votes_tell_more_and_four_beat_everybodys() -> None:
    known, _ = drawn_tastes(200, 30, seed=1)
    mean, root = population(known)
    everybody = pooled(known)
    asked, theta = drawn_tastes(200, 8, seed=2)
    items = torch.from_numpy(np.random.default_rng(3).standard_normal((400, 3)))
    right = []
    for shots in (0, 1, 4, 8):
        z, _ = most_likely(Gaps(asked.gap[:, :shots], asked.confidence[:, :shots]), mean, root)
        read = mean + z @ root.T
        right.append(float((torch.sign(read @ items.T) == torch.sign(theta @ items.T)).double().mean()))
    common = float((torch.sign(items @ everybody) == torch.sign(theta @ items.T)).double().mean())
    assert right == sorted(right)
    assert right[2] > common + 0.05


def test_tastes_are_saved_and_loaded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    better, worse = ([torch.from_numpy(rng.standard_normal((5, 4))) for _ in range(6)] for _ in range(2))
    made = Tastes.learned(better, worse, [torch.ones(5)] * 6, features="checker", width=3)
    again = Tastes.load(made.save(tmp_path / "tastes.safetensors"))
    assert again.width == 3 and again.features == "checker"
    z = made.read(better[0], worse[0], torch.ones(5))
    assert torch.equal(again.read(better[0], worse[0], torch.ones(5)), z)
    lead = made.utilities(better[0], z) - made.utilities(worse[0], z)
    assert float(lead.mean()) > 0
    with pytest.raises(ValueError, match="visalign users RECORDS"):
        Tastes.load(tmp_path / "none.safetensors")


# The electorate


def test_tastes_are_the_stated_share_of_what_users_see(candidates: electorate.Candidates) -> None:
    assert 0.2 < candidates.taste_share(users.users(100)) < 0.4


def test_ballots_are_pure_functions_of_their_seed_and_say_whose_they_are(candidates: electorate.Candidates) -> None:
    people = users.users(3)
    for cast in (electorate.pairwise, electorate.tallied):
        made, again = (list(cast(candidates, people, 5, seed=1)) for _ in range(2))
        assert made == again and made != list(cast(candidates, people, 5, seed=2))
        assert [each.user for each in made] == [f"user-{place // 5}" for place in range(15)]
        assert made[5:10] == list(cast(candidates, people[1:2], 5, seed=1))


def test_a_tally_is_of_every_two_candidates(candidates: electorate.Candidates) -> None:
    for record in electorate.tallied(candidates, users.users(2), 6):
        assert len(record.items) == 4
        assert float(record.utilities.sum()) == 6


def test_users_vote_for_what_they_like(candidates: electorate.Candidates) -> None:
    user = users.users(1)[0]
    utility = dict(zip(candidates.items, candidates.utility(user), strict=True))
    right = [
        (utility[each.items[0]] > utility[each.items[1]]) == (each.verdict == "first")
        for each in electorate.pairwise(candidates, [user], 200)
        if each.verdict != "tie"
    ]
    assert np.mean(right) > 0.85


# Records, groups, reader and scorer


def test_groups_are_disjoint_and_no_embedding_sees_the_vote_that_it_is_trained_on() -> None:
    vote = Vote(Sample("a"), Sample("a"))
    cast = [(Preference("a", (f"{place}", "x"), user="anna", verdict="first"), vote) for place in range(11)]
    few = [(Preference("b", (f"{place}", "x"), user="ben", verdict="first"), vote) for place in range(5)]
    made = personal.grouped({"anna": cast, "ben": few}, shots=4)
    assert {name: len(each) for name, each in made.groups.items()} == {"anna": 11, "anna#0": 4, "anna#1": 7, "ben": 5}
    assert [each.user for each in made.records] == ["anna#1"] * 4 + ["anna#0"] * 7 + ["ben"] * 5
    assert [each.key for each in made.records] == [record.key for record, _ in [*cast, *few]]
    with pytest.raises(DataError, match="at least 1 vote, got 0"):
        personal.grouped({"anna": cast}, shots=0)


def test_a_reader_places_users_and_the_scorer_judges_by_them(candidates: electorate.Candidates, tmp_path: Path) -> None:
    path = shipped()
    known = list(electorate.tallied(candidates, users.users(24), 12))
    found = personal.votes(known, sources.root(path))
    reader = TasteReader()
    with pytest.raises(ValueError, match="knows no population"):
        reader.read([[]])
    reader.learn([[vote for _, vote in cast] for cast in found.values()])
    embeddings = reader.read([[vote for _, vote in cast] for cast in found.values()])
    assert {tuple(each.shape) for each in embeddings} == {(1, 10)}
    write(dict(zip(found, embeddings, strict=True)), tmp_path / "users.safetensors")
    scorer = Personal(reader.save(tmp_path / "tastes.safetensors"), tmp_path / "users.safetensors")
    shown = list(zip(candidates.prompts, map(Image.fromarray, candidates.pictures), strict=True))[-80:]
    first, second = np.array([pair for pair in candidates.pairs if min(pair) >= 320]).T - 320

    def agrees(values: Any, true: Any) -> float:
        """How often two utilities say the same of two candidates of a prompt."""
        return float((np.sign(values[first] - values[second]) == np.sign(true[first] - true[second])).mean())

    everybody = scorer.score([Sample(prompt, image=each) for prompt, each in shown]).values.numpy()
    better = []
    for user in users.users(8):
        asked = [Sample(prompt, image=each, user=user.name) for prompt, each in shown]
        scored, true = scorer.score(asked).values, candidates.utility(user)[-80:]
        better.append(agrees(scored.numpy(), true) - agrees(everybody, true))
    assert torch.allclose(scored[:3], torch.cat([scorer.score([each]).values for each in asked[:3]]))
    assert np.mean(better) > 0.03
    odd = scorer.score([Sample(shown[0][0], image=shown[0][1], user="carl"), Sample("a", image=shown[0][1])])
    assert not odd.judged.any()
    assert odd.reasons[0] == "no embedding of user 'carl'"


def test_features_of_a_scorer_with_two_towers() -> None:
    scorer = registry.build("scorer", "playground_hps")
    made = Embedded("playground_hps", scorer)
    pictures = [np.full((32, 32, 3), value, dtype=np.uint8) for value in (30, 200)]
    samples = [Sample(text, image=each) for text, each in zip(("a red circle", "a blue square"), pictures, strict=True)]
    rows, reasons = made.of(samples)
    d = (rows.shape[1] - 1) // 2
    texts = scorer.texts([each.prompt for each in samples]).double()
    assert not reasons and rows.shape[0] == 2
    assert torch.allclose(rows[:, :d].norm(dim=1), torch.ones(2).double(), atol=1e-5)
    assert torch.allclose((rows[:, d:-1] * texts).sum(1), torch.zeros(2).double(), atol=1e-5)
    assert torch.allclose(rows[:, -1], (rows[:, :d] * texts).sum(1), atol=1e-5)
    with pytest.raises(ValueError, match="rules offers no embeddings"):
        Embedded("rules", registry.build("scorer", "rules"))


def test_what_cannot_be_read_is_said(candidates: electorate.Candidates) -> None:
    picture = candidates.pictures[0]
    samples = [Sample("a red circle", image=picture), Sample("nonsense", image=picture), Sample("a red circle")]
    rows, reasons = Checked().of(samples)
    assert torch.isfinite(rows[0]).all() and rows[1:].isnan().all()
    assert sorted(reasons) == [1, 2]


def test_the_commands_write_what_training_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, read = tmp_path / "votes", tmp_path / "read"
    few, path = tmp_path / "few", shipped()
    few.mkdir()
    store.write(placed(sources.open_source(path)[:20], sources.root(path), few), few / "records.parquet")
    records = ["--records", str(few / "records.parquet")]
    assert main(["playground", "users", "--count", "6", "--votes", "8", "--out", str(out), *records]) == 0
    assert main(["users", str(out / "records.parquet"), "--shots", "4", "--out", str(read)]) == 0
    found = sources.users(read / "users.safetensors")
    said = sources.open_source(read / "records.parquet")
    assert {each.user for each in said} == {f"user-{user}#{group}" for user in range(6) for group in range(2)}
    assert found.keys() == {each.user for each in said} | {f"user-{user}" for user in range(6)}
    later = ["--tastes", str(read / "tastes.safetensors"), "--out", str(tmp_path / "later")]
    assert main(["users", str(out / "records.parquet"), *later]) == 0
    assert not (tmp_path / "later" / "tastes.safetensors").exists()
    again = sources.users(tmp_path / "later" / "users.safetensors")
    assert all(torch.equal(again[name], found[name]) for name in found)
    assert main(["users", str(path)]) == 2
    assert "records with a `user`" in capsys.readouterr().err


# Profiles


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vlm.qwen2_vl(tmp_path_factory.mktemp("vlm") / "qwen", layers=3)


def cast(colours: Sequence[str], confidence: float = 1.0) -> list[Vote]:
    white = Image.new("RGB", (32, 32), "white")
    liked = [Sample("a red circle", image=Image.new("RGB", (32, 32), each)) for each in colours]
    return [Vote(each, Sample("a red circle", image=white), confidence) for each in liked]


def test_a_profile_is_every_layers_state_at_the_last_step(qwen: Path, tmp_path: Path) -> None:
    reader = ProfileReader(qwen, tokens=4)
    (profile,) = reader.read([cast(["red", "blue"])])
    assert profile.shape == (3 + 1, tiny_vlm.WIDTH)
    assert torch.isfinite(profile).all()
    other = tiny_vlm.llava(tmp_path / "llava", layers=2)
    assert ProfileReader(other, tokens=2).read([cast(["red"])])[0].shape == (2 + 1, tiny_vlm.WIDTH)


def test_the_last_step_is_the_last_and_its_first_row_an_input_embedding(qwen: Path) -> None:
    reader = ProfileReader(qwen, tokens=3)
    profile = reader.profile(cast(["red"]))
    table = reader.network.get_input_embeddings().weight
    assert float((table - profile.embedding[0]).abs().amax(1).min()) < 1e-6
    longer = ProfileReader(qwen, tokens=2).profile(cast(["red"]))
    assert not torch.equal(profile.embedding, longer.embedding)
    assert profile.text.startswith(longer.text.rstrip("�"))


def test_profiles_depend_on_the_pictures_and_on_which_is_liked(qwen: Path) -> None:
    reader = ProfileReader(qwen, tokens=2)
    one, same, other = (reader.profile(cast(each)).embedding for each in (["red"], ["red"], ["black"]))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    swapped = [Vote(each.worse, each.better) for each in cast(["red"])]
    assert not torch.equal(one, reader.profile(swapped).embedding)


def test_ties_say_nothing_to_a_profile(qwen: Path, tmp_path: Path) -> None:
    reader = ProfileReader(qwen, tokens=2)
    with_tie = [*cast(["red"]), *cast(["blue"], confidence=0.5)]
    assert torch.equal(reader.profile(with_tie).embedding, reader.profile(cast(["red"])).embedding)
    with pytest.raises(ValueError, match="a vote that is no tie"):
        reader.profile(cast(["red"], confidence=0.5))
    with pytest.raises(ValueError, match="no vision-language model at"):
        ProfileReader(tmp_path)


# Evaluation


def test_agreement_counts_draws_as_half_and_its_interval_is_over_users() -> None:
    leads = np.array([1.0, -2, 0, 3])
    assert measured.agreement(leads, ["a", "a", "b", "b"]).value == 0.625
    assert measured.agreement(leads, ["a", "a", "b", "b"]).groups == 2
    assert measured.gain(leads, -leads, ["a", "a", "b", "b"]).value == pytest.approx(2 * 0.625 - 1)


def test_embeddings_that_tell_users_apart_do_and_noise_does_not() -> None:
    rng = np.random.default_rng(0)
    names = [name for name in range(40) for _ in range(6)]
    centres = rng.standard_normal((40, 8))[names]
    near = measured.identified(centres + 0.1 * rng.standard_normal(centres.shape), names, top=1)
    blind = measured.identified(rng.standard_normal(centres.shape), names, top=4)
    assert near.value > 0.95
    assert blind.value < 0.3
    with pytest.raises(ValueError, match="one embedding only"):
        measured.identified(centres[:7], [*names[:6], 99])
