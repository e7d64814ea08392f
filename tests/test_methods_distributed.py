"""Every registered method goes the same way on one process and on two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import methods
import pytest
import torch
from rehearsal import Nursery
from safetensors.torch import load_file

RUN = ("batch=4", "steps=2", "save_every=0", "optimizer.lr=1e-3", "optimizer.eps=1e-6")


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    made = Nursery(tmp_path_factory.mktemp("nursery") / "log")
    yield made
    made.close()


def moved(nursery: Nursery, out: Path, name: str, ranks: int) -> list[torch.Tensor]:
    """How far the weights went, on each rank."""
    out.mkdir()
    share = f"micro_batch={4 // ranks}"  # one forward a step: what couples a batch sees the same four records
    nursery.start(out, [*RUN, share], ranks, method=name, train=methods.TRAIN.get(name, "lora"))
    assert nursery.wait() == 0, Path(nursery.log.name).read_text()
    return [load_file(out / f"rank-{rank}.safetensors")["moved"] for rank in range(ranks)]


@pytest.mark.parametrize("name", sorted(methods.DENOISING))
def test_two_processes_go_where_one_goes(nursery: Nursery, tmp_path: Path, name: str) -> None:
    """To the bit between the two; against one, sums are made in another order: 1e-3 of the distance moved."""
    (one,) = moved(nursery, tmp_path / "one", name, ranks=1)
    first, second = moved(nursery, tmp_path / "two", name, ranks=2)
    assert torch.equal(first, second)
    assert float(one.norm()) > 0
    assert float((first - one).norm()) <= 1e-3 * float(one.norm())
