"""DCPO: Diffusion-DPO to the letter, each half under its own caption, on v-prediction models too."""

from __future__ import annotations

from dataclasses import replace

import methods
import numpy as np
import pytest
import torch

from visalign.batches import Condition
from visalign.trainers import DCPO, DiffusionDPO


def test_the_loss_is_diffusion_dpos() -> None:
    given = methods.pairs()
    ours, theirs = (made.loss(given, methods.denoiser()) for made in (DCPO(beta=300), DiffusionDPO(beta=300)))
    assert torch.equal(ours.each, theirs.each)
    assert DCPO().beta == 500


def test_each_half_reads_its_own_caption() -> None:
    """Changing the loser's caption moves the loser's error alone."""
    given = methods.pairs()
    text = given.condition.text.clone()
    text[4:] += 1.0
    plain, dual = (DCPO().loss(each, methods.denoiser()) for each in (given, replace(given, condition=Condition(text))))
    assert torch.allclose(plain.metrics["win_error"], dual.metrics["win_error"], rtol=1e-12)
    assert torch.allclose(plain.metrics["win_reference_error"], dual.metrics["win_reference_error"], rtol=1e-12)
    assert float((plain.metrics["lose_error"] - dual.metrics["lose_error"]).abs().min()) > 1e-6
    assert float((plain.metrics["lose_reference_error"] - dual.metrics["lose_reference_error"]).abs().min()) > 1e-6


def test_whether_captions_differ_is_told() -> None:
    given = methods.pairs()
    text = given.condition.text.clone()
    text[5] += 1.0
    found = DCPO().loss(replace(given, condition=Condition(text)), methods.denoiser()).metrics["captions_differ"]
    assert found.tolist() == [0, 1, 0, 0]


def test_the_target_of_a_v_model_is_v() -> None:
    """The released code scores v answers against the noise; here a model that answers v has no error."""
    given, model = methods.pairs(), methods.denoiser("v_prediction")
    t, noise = given.draw.integers("t", 0, 1000), given.draw.normal("noise", methods.SHAPE, given.win)
    a, s = model.process.coefficients(t, given.win)
    answers = {"policy": a * noise - s * given.win, "lose": a * noise - s * given.lose}

    class Right:
        process = model.process

        def policy(self, x_t: torch.Tensor, t: torch.Tensor, condition: Condition) -> torch.Tensor:
            return torch.cat([answers["policy"], answers["lose"]])

        reference = policy

    found = DCPO().loss(given, Right()).metrics
    assert np.allclose(found["win_error"], 0.0, atol=1e-24)
    assert np.allclose(found["lose_error"], 0.0, atol=1e-24)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="beta must be positive"):
        DCPO(beta=-1)
