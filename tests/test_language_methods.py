"""What must hold for every registered method that trains a language model: a new one is tested by being registered."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import language
import pytest
import torch
from rehearsal import Nursery
from safetensors.torch import load_file
from torch import Tensor

from visalign.batches import AnswerPairs, halves, stacked
from visalign.contract import Recalling, Reference
from visalign.data.recalled import Recalled, Remembered, recall
from visalign.training.healthy import HEALTHY
from visalign.training.learner import Step

STARTS = {"mllm_dpo": 1.0, "mm_dpo": 1.0, "mdpo": 3.0, "opa_dpo": 2.2}  # the loss at the start, over log 2
PAIRS = [name for name in language.EVERY if language.method(name).batch_type is AnswerPairs]
COMPARED = [name for name in PAIRS if language.method(name).reference is not Reference.NONE]
ONE_SIDED = {"mm_dpo"}  # beta grows with how much better a scorer finds the first, and stays where it is worse


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("laws")


def given(root: Path, name: str, rows: Any = range(4), visit: int = 0) -> Any:
    """A batch as the method of that name is fed it."""
    return language.batch(language.view(root, language.method(name).batch_type), rows, visit)


def lost(root: Path, name: str, batch: Any, **model: Any) -> tuple[Any, Any]:
    """The loss of a fresh method and the model that it was asked of."""
    asked = language.model(root, name, **model)
    return Step(language.method(name), asked)(batch), asked


def gradient(loss: Any, model: Any) -> Tensor:
    """The gradient of the mean loss, flat."""
    weights = list(model.trainable().values())
    found = torch.autograd.grad(loss.each.mean(), weights, allow_unused=True, materialize_grads=True)
    return torch.cat([each.flatten() for each in found])


@pytest.mark.parametrize("name", language.EVERY)
def test_the_first_step_has_a_gradient_and_starts_where_the_paper_does(root: Path, name: str) -> None:
    """Where policy and reference are still the same, bit for bit."""
    loss, model = lost(root, name, given(root, name), start=True)
    assert loss.each.shape == (4,)
    assert torch.isfinite(loss.each).all()
    assert float(gradient(loss, model).norm()) > 0
    assert set(loss.metrics) <= set(HEALTHY)
    if name in STARTS:
        assert torch.allclose(loss.each, torch.full_like(loss.each, STARTS[name] * math.log(2)), rtol=1e-12)
        assert float(loss.metrics["margin"].abs().max()) == 0.0


@pytest.mark.parametrize("name", [name for name in PAIRS if hasattr(language.method(name), "variant")])
def test_a_release_explains_what_it_measures_too(root: Path, name: str) -> None:
    found = Step(language.method(name, variant="release"), language.model(root, name))(given(root, name))
    assert torch.isfinite(found.each).all()
    assert set(found.metrics) <= set(HEALTHY)


@pytest.mark.parametrize("name", language.EVERY)
def test_a_batch_of_four_is_four_batches_of_one(root: Path, name: str) -> None:
    together, model = lost(root, name, given(root, name))
    apart = [lost(root, name, given(root, name, [row]))[0] for row in range(4)]
    assert torch.allclose(together.each, torch.cat([one.each for one in apart]), rtol=1e-9, atol=1e-9)
    for key, value in together.metrics.items():
        assert torch.allclose(value, torch.cat([one.metrics[key] for one in apart]), rtol=1e-9, atol=1e-9), key
    mean = torch.stack([gradient(*lost(root, name, given(root, name, rows))) for rows in ([0, 1], [2, 3])]).mean(0)
    whole = gradient(together, model)
    assert float(whole.norm()) > 0
    assert float((whole - mean).norm()) <= 1e-9 * float(whole.norm())


@pytest.mark.parametrize("name", language.EVERY)
def test_it_is_a_function_of_its_batch_and_costs_what_it_says(root: Path, name: str) -> None:
    """Twice the same numbers: no global generator, nothing carried over; and as many dialogues as it announces."""
    counted = language.Counted(language.model(root, name))
    once = Step(language.method(name), counted)(given(root, name)).each
    torch.manual_seed(5)
    assert torch.equal(once, lost(root, name, given(root, name))[0].each)
    told = language.method(name).passes
    assert (counted.with_gradient / 4, counted.free / 4) == (told.policy, told.free)


@pytest.mark.parametrize("name", sorted(set(PAIRS) - ONE_SIDED))
def test_swapping_the_two_of_a_pair_negates_the_margin(root: Path, name: str) -> None:
    batch = given(root, name)
    win, lose = halves(batch.answers)
    swapped = replace(batch, answers=stacked(lose, win), scores=batch.scores.flip(1))
    margin, other = (lost(root, name, each)[0].metrics["margin"] for each in (batch, swapped))
    assert torch.allclose(margin, -other, rtol=1e-9, atol=1e-12)


# The reference's answers kept ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in COMPARED if isinstance(language.method(name), Recalling)])
def test_a_cache_spares_the_reference_two_of_its_passes_and_changes_no_bit(
    root: Path, name: str, tmp_path: Path
) -> None:
    """Of DPO's eight passes, a backward counting as two, six are left."""
    method = language.method(name)
    view = language.view(root, AnswerPairs)
    rows = [[0, 1, 2, 3]]
    memory = Remembered(tmp_path)
    recall(view, rows, Wide(language.model(root, name)).reference, memory)
    cached = language.wider(Recalled(view, memory).batch(rows[0], [0] * 4, 3))
    plain, spared = (language.Counted(language.model(root, name)) for _ in range(2))
    fresh = Step(method, plain)(given(root, name))
    known = Step(method, spared)(cached)
    assert torch.equal(fresh.each, known.each)
    assert plain.free - spared.free == 2 * 4
    if name == "mllm_dpo":
        assert [3 * each.with_gradient / 4 + each.free / 4 for each in (plain, spared)] == [8, 6]


class Wide:
    """A float64 model asked about float32 pixels."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def reference(self, dialogues: Any) -> Any:
        media = {name: each.double() if each.is_floating_point() else each for name, each in dialogues.media.items()}
        with torch.no_grad():
            return self.inner.reference(replace(dialogues, media=media))


# On two processes -----------------------------------------------------------------------------------------------------

RUN = ("batch=4", "steps=2", "save_every=0", "optimizer.lr=1e-3", "optimizer.eps=1e-6")


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    made = Nursery(tmp_path_factory.mktemp("nursery") / "log")
    yield made
    made.close()


def moved(nursery: Nursery, root: Path, out: Path, name: str, ranks: int) -> list[Tensor]:
    """How far the weights went, on each rank."""
    out.mkdir()
    nursery.start(out, [*RUN, f"micro_batch={4 // ranks}"], ranks, method=name, language=str(root))
    assert nursery.wait() == 0, Path(nursery.log.name).read_text()
    return [load_file(out / f"rank-{rank}.safetensors")["moved"] for rank in range(ranks)]


@pytest.mark.parametrize("name", sorted(language.METHODS))
def test_two_processes_go_where_one_goes(nursery: Nursery, root: Path, tmp_path: Path, name: str) -> None:
    """To the bit between the two; against one, sums are made in another order: 1e-3 of the distance moved."""
    language.view(root, language.method(name).batch_type)  # so that its files are there before two processes want them
    (one,) = moved(nursery, root, tmp_path / "one", name, ranks=1)
    first, second = moved(nursery, root, tmp_path / "two", name, ranks=2)
    assert torch.equal(first, second)
    assert float(one.norm()) > 0
    assert float((first - one).norm()) <= 1e-3 * float(one.norm())
