"""Losses by name: what a specification may say, what is refused and why, and how others add their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from visalign import losses
from visalign.losses import inputs, resolution
from visalign.losses.registry import KINDS, Blend, Entry

WIN, LOSE = torch.tensor([0.5, -0.5]), torch.tensor([-0.2, 0.6])
ROOT = Path(__file__).resolve().parents[1]


def refusal(spec: Any, **caller: Any) -> str:
    with pytest.raises(ValueError) as refused:
        losses.resolve(spec, **caller)
    return str(refused.value)


def test_unknown_names_are_answered_with_near_ones() -> None:
    assert "did you mean ipo" in refusal("iop")
    assert "there are" in refusal("zzzzzz") and "plackett_luce" in refusal("zzzzzz")


def test_unknown_settings_are_answered_with_the_known_ones() -> None:
    said = refusal({"name": "robust", "epsilom": 0.1})
    assert "did you mean epsilon?" in said and "epsilon (0.1)" in said
    assert "it knows no settings" in refusal({"name": "hinge", "x": 1})
    assert "must be given weights" in refusal({"name": "modpo"}, feeds=frozenset({"reward_win", "reward_lose"}))


def test_what_the_data_cannot_feed_is_refused_with_the_reason() -> None:
    assert "K log-ratios and K scores" in refusal("plackett_luce")
    assert "nats" in refusal("cal_dpo") and "denoising" in refusal("cal_dpo")
    assert "nats" in refusal({"name": "dpo", "divergence": "js"})
    assert "score_win, score_lose" in refusal("odpo")
    assert "couples the pairs" in refusal("aot")
    assert "reference_free" in refusal("simpo") or "own log-probabilities" in refusal("simpo")
    assert "mean_win" in refusal("ln_dpo", nats=True)


def test_a_divergence_stands_before_losses_of_the_gap_only() -> None:
    assert "partition constant" in refusal({"name": "nca_pair", "divergence": "js"}, nats=True)
    assert "there are reverse_kl" in refusal({"name": "dpo", "divergence": "hellinger"}, nats=True)
    assert "alpha" in refusal({"name": "dpo", "divergence": {"name": "js", "alpha": 0.1}}, nats=True)


def test_only_losses_of_z_have_a_normalised_form() -> None:
    said = refusal({"name": "dpo", "normalize": True})
    assert all(name in said for name in ("ipo", "sppo", "inpo"))
    raw = losses.resolve("ipo")(WIN, LOSE, beta=0.1)
    torch.testing.assert_close(losses.resolve({"name": "ipo", "normalize": True})(WIN, LOSE, beta=0.1), 0.01 * raw)


def test_shapes_of_specifications_that_are_none() -> None:
    assert "needs a name" in refusal({"nam": "dpo"})
    for spec in (3, [], [("dpo",)], None):
        assert "a name, a mapping with a name, or a list" in refusal(spec)


def test_names_that_papers_share_ask_which() -> None:
    for name, one in {"rpo": "rpo_backward", "rdpo": "length_regularized", "f-dpo": "divergence"}.items():
        said = refusal(name)
        assert "say which" in said and one in said


def test_trl_names_say_whose_numbers() -> None:
    assert "trl>=0.29:sigmoid" in refusal("sigmoid") and "trl<=0.28:sigmoid" in refusal("sigmoid")
    assert "say which" in refusal("trl:bco_pair")
    assert "must be given shift" in refusal("trl<=0.28:bco_pair")
    assert losses.by_name("trl:hinge").name == "trl:hinge"
    new, old = (losses.resolve(f"{release}:sigmoid") for release in ("trl >= 0.29", "trl<=0.28"))
    assert (new(WIN, LOSE, beta=0.1) == old(WIN, LOSE, beta=0.1)).all()
    assert not any(":" in name for name in losses.names())


def test_a_recipe_has_no_code_of_its_own() -> None:
    shared = {"cdpo", "robust", "dpo_soft", "odpo", "ln_dpo", "simpo", "spin", "length_regularized", "ld_dpo"}
    for name in shared:
        assert losses.by_name(name).function is losses.dpo  # type: ignore[union-attr]
    assert isinstance(losses.by_name("cpo"), Blend)


def test_every_entry_says_what_a_reader_needs() -> None:
    for name in losses.names():
        entry = losses.by_name(name)
        assert entry.paper and entry.when.endswith(".")
        if isinstance(entry, Entry):
            assert entry.formula and entry.kinds and entry.scale in ("surrogate", "nats")
            assert entry.function.__doc__
    assert set(KINDS) == {kind for name in losses.names() for kind in losses.kinds_of(losses.by_name(name))}
    assert set(KINDS) == set(resolution.IMPLIED)
    assert losses.names("list") == sorted(losses.names("list")) and "dpo" not in losses.names("list")


def test_weighted_sums_nest_and_multiply() -> None:
    inner = [("dpo", 0.5), ({"name": "robust", "epsilon": 0.1}, 0.5)]
    nested = losses.resolve([(inner, 2.0), ("hinge", 1.0)])  # type: ignore[list-item]
    wanted = sum(losses.resolve(one)(WIN, LOSE, beta=0.1) for one in ("dpo", {"name": "robust"}, "hinge"))
    torch.testing.assert_close(nested(WIN, LOSE, beta=0.1), wanted)
    listed = losses.resolve([["dpo", 1]])  # type: ignore[list-item]
    torch.testing.assert_close(listed(WIN, LOSE, beta=0.1), losses.dpo(WIN, LOSE, beta=0.1))


def test_combine_sums_losses_that_read_different_columns() -> None:
    bound = losses.combine([("dpo", 0.8), ("bco_pair", 0.2), ("sft", 1.0)])
    logp = torch.tensor([-0.6, -0.5])
    found = bound(WIN, LOSE, beta=0.1, mean_logp_win=logp)
    wanted = 0.8 * losses.dpo(WIN, LOSE, beta=0.1) + 0.2 * losses.bco_pair(WIN, LOSE, beta=0.1) - logp
    torch.testing.assert_close(found, wanted)
    assert bound.kinds == {"h", "wl", "reference_free"}
    with pytest.raises(ValueError, match="'mean_logp_win', which it was not given"):
        bound(WIN, LOSE, beta=0.1)


def test_a_blend_takes_the_weights_of_its_parts_as_settings() -> None:
    free = frozenset({"reference_free"})
    columns = {"logp_win": WIN, "logp_lose": LOSE, "mean_logp_win": WIN / 4}
    bound = losses.resolve({"name": "cpo", "sft": 0.5}, kinds=free)
    found = bound(WIN, LOSE, beta=0.1, **columns)
    torch.testing.assert_close(found, losses.dpo(WIN, LOSE, beta=0.1) - 0.5 * WIN / 4)
    assert "sft (weight 1)" in refusal({"name": "cpo", "alpha": 1.0}, kinds=free)


def test_inputs_says_what_the_two_positions_are() -> None:
    free = frozenset({"reference_free"})
    assert losses.resolve("dpo").inputs == ("win", "lose")
    assert losses.resolve("simpo", kinds=free).inputs == ("mean_logp_win", "mean_logp_lose")
    assert losses.resolve("plackett_luce", kinds=frozenset({"list"})).inputs == ("ratio", "score")
    assert losses.combine([("dpo", 1.0), ("sft", 1.0)]).inputs == ("win", "lose")


def test_columns_that_would_broadcast_are_refused() -> None:
    bound = losses.resolve("dpo")
    for win, lose, confidence in ((WIN, LOSE[:, None], None), (WIN, LOSE[:1], None), (WIN, LOSE, torch.ones(2, 1))):
        with pytest.raises(ValueError, match="give two columns of one shape"):
            bound(win, lose, beta=0.1, confidence=confidence)


def test_one_confidence_only_for_losses_that_sort_their_batch() -> None:
    bound = losses.resolve("aot_unpaired", kinds=frozenset({"h", "batch"}))
    assert bound(WIN, LOSE, beta=0.1, confidence=0.9).shape == (2,)
    with pytest.raises(ValueError, match="sorts its batch"):
        bound(WIN, LOSE, beta=0.1, confidence=torch.tensor([0.9, 0.8]))


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("robust", "epsilon", 0.5),
        ("cdpo", "epsilon", 1.1),
        ("exo_pair", "epsilon", 0.0),
        ("discopop", "temperature", 1),
    ],
)
def test_settings_out_of_range_are_refused(name: str, setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} needs 0 <.*{value} was given"):
        losses.resolve({"name": name, setting: value})(WIN, LOSE, beta=0.1)


def test_numbers_that_yaml_reads_as_strings_are_numbers() -> None:
    read, given = (losses.resolve({"name": "exo_pair", "epsilon": value}) for value in ("1e-2", 0.01))
    assert (read(WIN, LOSE, beta=0.1) == given(WIN, LOSE, beta=0.1)).all()
    assert "epsilon must be a number, such as 0.001; 'small' is none" in refusal(
        {"name": "exo_pair", "epsilon": "small"}
    )


def test_a_beta_for_each_pair() -> None:
    beta = torch.tensor([0.1, 5000.0])
    for name in (*losses.names("h"), *losses.names("wl")):
        entry = losses.by_name(name)
        if not isinstance(entry, Entry) or entry.fields != ("win", "lose") or "batch" in entry.kinds:
            continue
        bound = losses.resolve(name, nats=True)
        each = torch.cat([bound(WIN[i : i + 1], LOSE[i : i + 1], beta=beta[i].item()) for i in range(2)])
        torch.testing.assert_close(bound(WIN, LOSE, beta=beta), each)


def test_denoising_errors_make_surrogate_log_ratios() -> None:
    errors = torch.tensor([[0.12, 0.15], [0.1202, 0.1499]])
    pairs = inputs.from_denoising(
        errors[0, :1], errors[0, 1:], errors[1, :1], errors[1, 1:], weight=torch.tensor([2.0])
    )
    torch.testing.assert_close(pairs.win, torch.tensor([0.0002]), rtol=1e-4, atol=0)
    both = losses.combine([("dpo", 1.0), ("sft", 1.0)]).on(pairs, beta=5000.0)
    torch.testing.assert_close(both, losses.dpo(pairs.win, pairs.lose, beta=5000.0) + 0.12)


def test_builders_refuse_what_they_cannot_make() -> None:
    tokens = inputs.Tokens(logp=-torch.ones(1, 3), mask=torch.ones(1, 3))
    pairs = inputs.TokenPairs(tokens, tokens)
    with pytest.raises(ValueError, match=r"need Tokens\.reference"):
        inputs.from_token_logps(pairs)
    whole = inputs.Tokens(logp=-torch.ones(1, 3), mask=torch.ones(1, 3), reference=torch.zeros(1, 3))
    with pytest.raises(ValueError, match="there are sum, mean, ld, weighted"):
        inputs.from_token_logps(inputs.TokenPairs(whole, whole), "max")
    with pytest.raises(ValueError, match=r"Tokens\.weight"):
        inputs.from_token_logps(inputs.TokenPairs(whole, whole), "weighted")


def test_padding_is_never_read_and_empty_answers_count_one_token() -> None:
    logp = torch.tensor([[-1.0, float("nan")], [float("nan"), float("nan")]])
    mask = torch.tensor([[1, 0], [0, 0]])
    tokens = inputs.Tokens(logp=logp, mask=mask, reference=torch.zeros(2, 2))
    pairs = inputs.from_token_logps(inputs.TokenPairs(tokens, tokens), "mean")
    assert pairs.win.tolist() == [-1.0, 0.0]
    assert pairs.length_win is not None and pairs.length_win.tolist() == [1, 1]


PLUGIN = '''
from torch import Tensor
from visalign import losses

@losses.loss("h", paper="nobody, 2026", formula="(1 - z)^4", when="To show how.")
def quartic(win: Tensor, lose: Tensor, *, beta: float, power: int = 4) -> Tensor:
    """A loss from outside."""
    return (1 - beta * (win - lose)) ** power
'''
USE = """
import torch
from visalign import losses
assert "quartic" in losses.names(), losses.names()
found = losses.resolve({"name": "quartic", "power": 2})(torch.ones(2), torch.zeros(2), beta=0.5, confidence=0.75)
assert found.tolist() == [0.75 * 0.25 + 0.25 * 2.25] * 2, found
try:
    losses.resolve({"name": "quartic", "pow": 2})
except ValueError as refused:
    print(refused)
"""
BROKEN = """
from visalign import losses
try:
    losses.names()
except ValueError as refused:
    print(refused)
"""


def install(folder: Path, entry_point: str, source: str) -> None:
    """A distribution as an installer leaves it: a module, and a dist-info folder beside it."""
    (folder / "outside_losses.py").write_text(source)
    info = folder / "outside_losses-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-losses\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[visalign.losses]\n{entry_point}\n")


def run(folder: Path, program: str) -> str:
    path = os.pathsep.join([str(ROOT), str(folder)])
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_another_distribution_adds_a_loss_by_one_function_and_one_entry_point(tmp_path: Path) -> None:
    install(tmp_path, "quartic = outside_losses:quartic", PLUGIN)
    assert "did you mean power? it knows power (4)" in run(tmp_path, USE)


def test_an_entry_point_that_registers_nothing_is_an_error(tmp_path: Path) -> None:
    install(tmp_path, "cubic = outside_losses:quartic", PLUGIN)
    assert "registered no loss of that name" in run(tmp_path, BROKEN)


def test_two_losses_cannot_share_a_name() -> None:
    with pytest.raises(ValueError, match="exists already"):
        losses.loss("h", paper="p", formula="f", when="w.")(losses.dpo)
    with pytest.raises(ValueError, match="unknown kind"):
        losses.loss("q", paper="p", formula="f", when="w.")(refusal)  # type: ignore[type-var]
