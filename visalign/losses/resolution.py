"""From what a configuration says to a loss that a method can call: `resolve("ipo")(win, lose, beta=0.1)`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from . import divergence
from .bound import BoundLoss, Part
from .registry import KINDS, Blend, Entry, by_name, names

LossSpec = str | Mapping[str, Any] | Sequence[tuple[str, float]]
"""A loss as a configuration writes it: "ipo", {name: robust, epsilon: 0.1}, or [("dpo", 0.8), ("sft", 1.0)]."""

LOG_RATIOS = frozenset({"h", "wl"})
IMPLIED: Mapping[str, frozenset[str]] = {
    "h": frozenset({"win", "lose"}),
    "wl": frozenset({"win", "lose"}),
    "reference_free": frozenset({"logp_win", "logp_lose", "mean_logp_win", "mean_logp_lose"}),
    "token": frozenset({"win", "lose"}),
    "list": frozenset({"ratio", "score"}),
    "unpaired": frozenset({"ratio", "desirable"}),
    "online": frozenset({"win", "lose"}),
    "reward": frozenset({"score_win", "score_lose"}),
    "batch": frozenset(),
}
"""The columns that a caller who feeds a kind always has."""


def resolve(
    spec: LossSpec,
    *,
    kinds: frozenset[str] = LOG_RATIOS,
    nats: bool = False,
    feeds: frozenset[str] = frozenset(),
) -> BoundLoss:
    """The loss that a spec names, checked against what the caller can feed; ValueError says why it is refused.

    `kinds` are the kinds (registry.KINDS) that the caller can feed, `nats` whether its log-ratios are true
    log-probabilities (denoising errors are not), `feeds` the columns that it has besides those of its kinds.
    """
    bound = BoundLoss(tuple(_parts(spec, 1.0)))
    for part in bound.parts:
        _check(part, frozenset(kinds), nats, frozenset(feeds))
    return bound


def combine(
    parts: Sequence[tuple[LossSpec, float]],
    *,
    kinds: frozenset[str] = LOG_RATIOS | {"reference_free"},
    nats: bool = False,
    feeds: frozenset[str] = frozenset(),
) -> BoundLoss:
    """The weighted sum of several losses: combine([("dpo", 0.8), ("bco_pair", 0.2), ("sft", 1.0)])."""
    return resolve(list(parts), kinds=kinds, nats=nats, feeds=feeds)  # type: ignore[arg-type]


def _parts(spec: Any, weight: float) -> list[Part]:
    """A spec as a flat list of parts, weights multiplied down."""
    if isinstance(spec, str):
        return _named(spec, {}, weight)
    if isinstance(spec, Mapping):
        if "name" not in spec:
            raise ValueError(f"a loss given as a mapping needs a name, such as {{name: ipo}}; this one is {dict(spec)}")
        return _named(spec["name"], {key: value for key, value in spec.items() if key != "name"}, weight)
    if isinstance(spec, Sequence) and spec and all(isinstance(item, Sequence) and len(item) == 2 for item in spec):
        return [part for item, share in spec for part in _parts(item, weight * float(share))]
    raise ValueError(f"a loss is a name, a mapping with a name, or a list of (loss, weight); this is {spec!r}")


def _named(name: str, settings: dict[str, Any], weight: float) -> list[Part]:
    entry = by_name(name)
    if isinstance(entry, Blend):
        return _blended(entry, settings, weight)
    transform = divergence.resolve(settings.pop("divergence")) if "divergence" in settings else None
    if transform and "h" not in entry.kinds:
        raise ValueError(f"{entry.name} takes no divergence: beyond the gap its partition constant does not cancel")
    power = 2 if settings.pop("normalize", False) else 0
    if power and not entry.homogeneous:
        raise ValueError(f"{entry.name} has no normalised form; beta^2 L is free of beta for {_homogeneous()} only")
    return [Part(entry, _known(entry, settings), weight, transform, power)]


def _blended(entry: Blend, settings: dict[str, Any], weight: float) -> list[Part]:
    """The parts of a blend; a setting named after a part is the weight of that part."""
    shares = dict(entry.parts)
    if unknown := settings.keys() - shares.keys():
        known = ", ".join(f"{name} (weight {share:g})" for name, share in shares.items())
        raise ValueError(f"{entry.name} is a blend and knows no {', '.join(sorted(unknown))}; it knows {known}")
    return [part for name, share in (shares | settings).items() for part in _parts(name, weight * float(share))]


def _known(entry: Entry, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, numbers read; refuses those that the entry does not have, and the lack of those without default."""
    known = entry.settings
    for name in settings.keys() - known.keys():
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        listed = ", ".join(f"{key} ({_default(value)})" for key, value in known.items()) or "no settings"
        raise ValueError(f"{entry.name} does not know {name!r}; {hint}it knows {listed}")
    if missing := [name for name, value in known.items() if value is inspect.Parameter.empty and name not in settings]:
        raise ValueError(f"{entry.name} must be given {', '.join(missing)}")
    return {name: _number(entry.name, name, value, known[name]) for name, value in settings.items()}


def _number(loss: str, name: str, value: Any, default: Any) -> Any:
    """YAML reads 1e-3 as a string: a string is a number where the default is one, or else an error."""
    if not isinstance(value, str) or not isinstance(default, (int, float)):
        return value
    try:
        return type(default)(value)
    except ValueError:
        raise ValueError(f"{loss}: {name} must be a number, such as {_default(default)}; {value!r} is none") from None


def _default(value: Any) -> str:
    return "must be given" if value is inspect.Parameter.empty else f"{value:g}" if type(value) is float else str(value)


def _check(part: Part, kinds: frozenset[str], nats: bool, feeds: frozenset[str]) -> None:
    """Refuse what the caller cannot feed, and say what it lacks."""
    entry = part.entry
    if beyond := sorted(entry.kinds - kinds):
        reasons = " and ".join(f"{kind!r} ({KINDS[kind]})" for kind in beyond)
        raise ValueError(f"{entry.name} is of kind {reasons}, which this method does not feed; it feeds {_list(kinds)}")
    if not nats and (entry.scale == "nats" or part.transform is not None):
        what = "its divergence" if entry.scale != "nats" else "it"
        raise ValueError(
            f"{entry.name} is refused: {what} needs log-ratios in nats, true log-probabilities; this method's are a "
            "surrogate on another scale (denoising errors). Losses of scale 'surrogate' are safe, such as dpo and ipo"
        )
    fed = feeds.union({"confidence"}, *(IMPLIED[kind] for kind in kinds))
    if lacking := [name for name in part.fields if name not in fed]:
        raise ValueError(
            f"{entry.name} reads {', '.join(lacking)}, which this method does not have; it has {_list(fed)}"
        )


def _list(words: frozenset[str]) -> str:
    return ", ".join(sorted(words))


def _homogeneous() -> str:
    entries = (by_name(name) for name in names())
    return ", ".join(entry.name for entry in entries if isinstance(entry, Entry) and entry.homogeneous)
