"""Scores in one line: `visalign.score(images, prompts)`, with scorers kept between calls."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from threading import RLock
from typing import Any

from torch import Tensor

from . import registry
from .images import Picture
from .scoring import Scorer, Scores, paired

KEPT = 2  # scorers that stay loaded; each may be gigabytes
_loaded: OrderedDict[Hashable, Scorer] = OrderedDict()
_turn = RLock()


def score(
    images: Iterable[Picture] | Tensor, prompts: str | Iterable[str], scorer: str | Scorer = "hpsv2.1", **settings: Any
) -> Scores:
    """Score each image with its prompt, or all with one.

    Args:
        images: paths, bytes, pictures, arrays or tensors in a list, or a batch of tensors.
        prompts: one text for all images, or one an image; to score every image with every prompt, see
            `visalign.scoring.score_matrix`.
        scorer: a scorer, or the name of a registered one, which stays loaded for the next call with equal settings.
        settings: of the named scorer, such as `weights` or `device`.

    Raises ValueError for lists of different length, `visalign.images.Misuse` for a path where nothing is. A picture
    that cannot be decoded is no error: it is invalid in the result, with its reason.
    """
    if not isinstance(scorer, str | Scorer) or isinstance(scorer, type):
        raise TypeError(f"a scorer is a name, or an object with a name and score(samples); got {scorer!r}")
    if not isinstance(scorer, str):
        if settings:
            raise TypeError(f"{', '.join(settings)} set a scorer that is given by name; {scorer.name} is made already")
        return scorer.score(paired(images, prompts))
    return kept(scorer, settings).score(paired(images, prompts))


def kept(name: str, settings: Mapping[str, Any]) -> Scorer:
    """The scorer of that name with these settings, made at the first call; the last KEPT ones stay. Threads wait."""
    key = (name, _still(settings))
    with _turn:
        if key not in _loaded:
            _loaded[key] = registry.build("scorer", {**settings, "name": name})
        _loaded.move_to_end(key)
        while len(_loaded) > KEPT:
            _loaded.popitem(last=False)
        return _loaded[key]


def _still(setting: object) -> Hashable:
    """A setting as a key: by what plain ones say; other objects, such as a tokenizer, are equal to themselves alone."""
    if isinstance(setting, Mapping):
        return tuple(sorted((str(name), _still(each)) for name, each in setting.items()))
    if isinstance(setting, list | tuple):
        return tuple(_still(each) for each in setting)
    if isinstance(setting, os.PathLike):
        return str(os.fspath(setting))
    return setting if isinstance(setting, Hashable) else repr(setting)
