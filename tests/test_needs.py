"""A method that goes by scores refuses records without them before anything is encoded, and says how to get them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from visalign import cli, needs, registry
from visalign.data import store
from visalign.records import DataError, Preference
from visalign.trainers import RPO, DiffusionDPO, SmPO

SCORED = Preference("a cat", ("a.png", "b.png"), np.array([0.9, 0.2]), key="scored")
VOTED = replace(SCORED, scores=np.array([3.0, 1.0]), scale="votes", key="voted")
SAID = replace(SCORED, scores=np.empty(0), verdict="first", key="said")
BARE = replace(SCORED, scores=np.empty(0), key="bare")


@pytest.mark.parametrize("method", [SmPO(), RPO()])
def test_records_judged_without_scores_are_named_with_what_they_hold(method: SmPO | RPO) -> None:
    with pytest.raises(
        DataError, match=r"smpo needs a scorer's values .*'voted' has none, .* 'votes'; .*visalign label"
    ):
        needs.check("smpo", method, [SCORED, VOTED, SAID])
    with pytest.raises(DataError, match="'said' has none, only the verdict 'first'"):
        needs.check("smpo", method, [SCORED, SAID])
    with pytest.raises(DataError, match=r"nobody judged record 'bare' or any other; .*visalign label"):
        needs.check("smpo", method, [BARE])


def test_records_that_take_no_part_need_nothing() -> None:
    """Those that nobody judged or liked are left out and counted by the view, as for any other method."""
    needs.check("smpo", SmPO(), [SCORED, BARE, replace(SAID, verdict="both_bad")])


def test_other_methods_need_no_scores() -> None:
    needs.check("diffusion_dpo", DiffusionDPO(), [VOTED, SAID, BARE])


def test_every_need_that_a_registered_method_names_is_known() -> None:
    said = [getattr(registry.load("method", name), "needs", ()) for name in registry.TABLE["method"]]
    fixed = [each for each in said if isinstance(each, tuple)]  # of some it hangs on their settings
    assert {need for each in fixed for need in each} == set(needs.NEEDS)


@pytest.mark.parametrize("recipe", ["playground_smpo", "playground_rpo"])
def test_training_on_votes_says_so_in_one_line_before_it_encodes(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in SAID.items:
        Image.new("RGB", (16, 16)).save(tmp_path / name)
    store.write([SAID], tmp_path / "records.jsonl")
    code = cli.main([
        "train", recipe, f"model.folder={tiny.folder(tmp_path / 'model')}", f"data.path={tmp_path / 'records.jsonl'}",
        f"data.cache={tmp_path / 'cache'}", f"out={tmp_path / 'run'}",
    ])  # fmt: skip
    printed = capsys.readouterr()
    text = " ".join((printed.out + printed.err).split())
    assert code == 2
    assert "record 'said' has none, only the verdict 'first'; score the records with `visalign label`" in text
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "run").exists()
