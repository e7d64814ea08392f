"""Every name a user can say, and the object behind it: "visalign.trainers.diffusion_dpo:DiffusionDPO".

The only place that imports by name. An installed distribution adds names under the entry-point groups of GROUPS, in
the form `name = "package.module:object"`; a name of ours cannot be taken over.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any


class UnknownName(ValueError):
    """A name that nobody registered; says which there are and which may have been meant."""


class BadSetting(ValueError):
    """A named thing refused its settings."""


@dataclass(frozen=True)
class Entry:
    """One name: where its object is, and one line on what it is."""

    target: str  # "module:object"
    about: str
    origin: str = "visalign"  # the distribution that brought it

    def load(self) -> Any:
        """Import the object."""
        module, _, name = self.target.partition(":")
        return getattr(import_module(module), name)


TABLE: Mapping[str, Mapping[str, Entry]] = {
    "method": {
        "diffusion_dpo": Entry("visalign.trainers.diffusion_dpo:DiffusionDPO", "Diffusion-DPO (arXiv 2311.12908)"),
        "sft": Entry("visalign.trainers.sft:SFT", "fine-tuning on the preferred pictures, the baseline"),
    },
    "scorer": {
        "rules": Entry("visalign.scorers.rules:Rules", "the playground's checker: objects, colors, relations, clean"),
    },
}
GROUPS = {kind: f"visalign.{kind}s" for kind in TABLE}


def kinds() -> list[str]:
    """What kinds of things have names."""
    return list(TABLE)


def names(kind: str) -> dict[str, Entry]:
    """Every name of a kind with its entry, ours first, then those that other distributions brought."""
    if kind not in TABLE:
        raise UnknownName(unknown("kind", kind, TABLE))
    return {**TABLE[kind], **_brought(kind)}


@cache
def _brought(kind: str) -> dict[str, Entry]:
    """What installed distributions announce; a name that is taken is an error, whoever took it."""
    found: dict[str, Entry] = {}
    for point in entry_points(group=GROUPS[kind]):
        if point.name in TABLE[kind] or point.name in found:
            taken = found.get(point.name, TABLE[kind].get(point.name))
            raise BadSetting(f"two {kind}s are named {point.name!r}: {point.value} and {taken.target if taken else ''}")
        origin = point.dist.name if point.dist else "another distribution"
        found[point.name] = Entry(point.value, f"from {origin}", origin)
    return found


def load(kind: str, name: str) -> Any:
    """The object behind a name; `UnknownName` says what it may have meant."""
    known = names(kind)
    if name not in known:
        raise UnknownName(unknown(kind, name, known))
    return known[name].load()


def build(kind: str, settings: Mapping[str, Any] | str) -> Any:
    """Make a named thing from `{name: …, **fields}` or a bare name; its fields are its settings, strictly."""
    fields = {"name": settings} if isinstance(settings, str) else dict(settings)
    if "name" not in fields:
        raise BadSetting(f"a {kind} needs a name, one of {', '.join(names(kind))}; got {dict(fields)}")
    name = str(fields.pop("name"))
    made = load(kind, name)
    return fill(made, fields, f"{kind} {name}")


def fill(made: Any, settings: Mapping[str, Any], title: str) -> Any:
    """Call `made` with settings, checked against its signature: unknown, missing and mistyped ones are `BadSetting`."""
    known = parameters(made)
    for name in settings.keys() - known.keys():
        raise BadSetting(f"{title}: {unknown('setting', name, known) if known else f'takes no settings, got {name!r}'}")
    if missing := [name for name, each in known.items() if each.default is each.empty and name not in settings]:
        raise BadSetting(f"{title} must be given {', '.join(missing)}")
    values = {name: coerced(value, known[name].annotation, f"{title}.{name}") for name, value in settings.items()}
    try:
        return made(**values)
    except ValueError as error:
        raise BadSetting(f"{title}: {error}") from error


def parameters(made: Any) -> dict[str, inspect.Parameter]:
    """The settings of a class or function, with their annotations as types where they can be read."""
    signature = inspect.signature(made, eval_str=True)
    return {
        name: each
        for name, each in signature.parameters.items()
        if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
    }


def coerced(value: Any, kind: Any, title: str) -> Any:
    """A plain setting as its annotated type. YAML reads 1e-6 as a string, so numbers may come as text."""
    if kind not in (int, float, bool, str) or type(value) is kind:
        return value
    if kind in (int, float) and not isinstance(value, bool):
        try:
            number = kind(value)
            if kind is float or number == float(value):
                return number
        except (TypeError, ValueError):
            pass
    raise BadSetting(f"{title} must be {kind.__name__}, got {value!r}")


def unknown(kind: str, name: str, known: Mapping[str, Any]) -> str:
    """The one line that an unknown name earns."""
    near = get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"no {kind} is named {name!r}; {hint}there are {', '.join(known)}"
