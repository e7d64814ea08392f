"""Factorised preferences: evidence as a product over frames, soft as in the release, and the loss of both parts."""

from __future__ import annotations

import pytest
import torch

from visalign import losses
from visalign.losses.evidence import log_evidence, matches, soft_stretch

MATCH = torch.tensor([2.0, 0.0, -1.0, 1.0], dtype=torch.float64)
SOFT = torch.tensor([1.0, 1.0, 0.5, 0.25], dtype=torch.float64)


def test_the_golden_evidence() -> None:
    assert float(log_evidence(MATCH, SOFT)) == pytest.approx(-2.469110039399, abs=1e-11)
    hard = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    assert float(log_evidence(MATCH, hard)) == pytest.approx(-2.446598566639, abs=1e-11)


def test_the_golden_loss() -> None:
    columns = {
        "evidence_win": log_evidence(MATCH, SOFT)[None],
        "evidence_lose": torch.tensor([-2.5], dtype=torch.float64),
    }
    text = torch.tensor([-3.0, -4.0], dtype=torch.float64)
    found = losses.fpo(text[:1], text[1:], columns["evidence_win"], columns["evidence_lose"], beta=0.1)
    assert float(found) == pytest.approx(0.642930512354, abs=1e-11)


def test_a_stretch_falls_off_with_distance() -> None:
    found = soft_stretch(torch.tensor([0, 2]), torch.tensor([1, 2]), 4)
    assert found.tolist() == [[1.0, 1.0, 0.5, 0.25], [0.25, 0.5, 1.0, 0.5]]


def test_frames_that_are_not_there_say_nothing() -> None:
    mask = torch.tensor([True, True, True, True, False])
    longer = torch.cat([MATCH, torch.tensor([9.0], dtype=torch.float64)])
    target = torch.cat([SOFT, torch.tensor([0.1], dtype=torch.float64)])
    assert float(log_evidence(longer, target, mask)) == pytest.approx(float(log_evidence(MATCH, SOFT)), abs=1e-12)


def test_matches_are_scaled_products() -> None:
    evidence, frames = torch.eye(4)[:2], 3 * torch.eye(4)
    assert matches(evidence, frames).tolist() == [[1.5, 0.0, 0.0, 0.0], [0.0, 1.5, 0.0, 0.0]]
