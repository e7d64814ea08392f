"""Dataclasses from what a user wrote, strictly.

An unknown key, a value of the wrong type or one out of range is a `ConfigError` that names the dotted path, what was
given and what was expected. YAML 1.1 reads `1e-6` as a string (it wants `1.0e-6`), so float fields take such strings.
"""

from __future__ import annotations

import difflib
import math
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
EXPECTED = {float: "a number", int: "a whole number", bool: "true or false", str: "text", Path: "a path"}
NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"


class ConfigError(ValueError):
    """A setting that cannot be used; one line that says which, why and what would do."""


def between(default: T, low: float, high: float = math.inf, *, open_low: bool = False) -> T:
    """A number field with its range: low … high, `low` itself excluded if `open_low`."""
    made: T = field(default=default, metadata={"range": (low, high, open_low)})
    return made


def fill(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """A dataclass from a mapping: every key known, every value of the field's type. `where` is its dotted path."""
    hints = get_type_hints(kind)
    known = {each.name: each for each in fields(kind) if each.init}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown setting {joined(where, str(key))}{suggestion(str(key), known)}")
    given = {key: _coerced(value, hints[key], joined(where, key)) for key, value in values.items()}
    optional = {name for name, each in known.items() if (each.default, each.default_factory) != (MISSING, MISSING)}
    missing = sorted(known.keys() - optional - given.keys())
    if missing:
        raise ConfigError(f"{where or kind.__name__} needs {', '.join(missing)}")
    return kind(**given)


def suggestion(name: str, known: Iterable[str]) -> str:
    """'; did you mean x? Known: …' for a name that is not among the known ones."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return (f"; did you mean {close[0]}?" if close else ";") + f" Known: {', '.join(known)}"


def check_ranges(part: Any, where: str = "") -> None:
    """ConfigError for the first number out of its range, in this dataclass or one inside it."""
    for each in fields(part):
        value, path = getattr(part, each.name), joined(where, each.name)
        if is_dataclass(value):
            check_ranges(value, path)
        elif "range" in each.metadata and value is not None:
            low, high, open_low = each.metadata["range"]
            if not (low < value if open_low else low <= value) or not value <= high or math.isinf(value):
                bound = f"{'above' if open_low else 'at least'} {low}" + (f" and at most {high}" * (high < math.inf))
                raise ConfigError(f"{path} must be {bound}, got {value!r}")


def check_choices(part: Any) -> None:
    """ConfigError for the first field of a dataclass that is one of a few words (Literal) and holds another."""
    for name, kind in get_type_hints(type(part)).items():
        value, words = getattr(part, name), get_args(kind)
        if get_origin(kind) is Literal and value not in words:
            raise ConfigError(f"{name} {value!r} is not one of {', '.join(map(str, words))}")


def plain(value: Any, annotation: str, where: str) -> Any:
    """A text or number of YAML as a parameter's annotation wants it, if that is a plain type; anything else as it is.

    ConfigError for "abc" where a number is meant.
    """
    wanted = {kind.__name__: kind for kind in EXPECTED if kind is not Path}.get(annotation.removesuffix(" | None"))
    if wanted is None or value is None or not isinstance(value, str | int | float):
        return value
    return _coerced_scalar(value, wanted, where)


def _coerced(value: Any, kind: Any, where: str) -> Any:
    """`value` as the type `kind`, or a ConfigError that names where, what was given and what was expected."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _coerced_union(value, args, where)
    if origin is Literal:
        value = "no" if value is False and "no" in args else value  # YAML 1.1 reads a bare `no` as false
        return value if value in args else refuse(value, f"one of {', '.join(map(str, args))}", where)
    if origin is tuple:
        return _coerced_tuple(value, args, where)
    if is_dataclass(kind) and isinstance(kind, type) and not isinstance(value, kind):
        return fill(kind, value, where) if isinstance(value, Mapping) else refuse(value, "settings", where)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return dict(value) if isinstance(value, Mapping) else refuse(value, "settings (key: value)", where)
    return _coerced_scalar(value, kind, where)


def _coerced_scalar(value: Any, kind: Any, where: str) -> Any:
    if kind is float and _reads_as_number(value):
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind in EXPECTED and not (isinstance(value, kind) and isinstance(value, bool) == (kind is bool)):
        refuse(value, EXPECTED[kind], where)  # the second half: True is an int to Python, not to us
    return value  # also of a type of its own, such as a method's loss: whoever owns it reads it


def _reads_as_number(value: Any) -> bool:
    return re.fullmatch(NUMBER, str(value)) is not None and isinstance(value, str | int | float)


def _coerced_union(value: Any, kinds: Sequence[Any], where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    inner = [kind for kind in kinds if kind is not type(None)]
    if len(inner) == 1:
        return _coerced(value, inner[0], where)
    return value if any(isinstance(value, get_origin(kind) or kind) for kind in inner) else refuse(value, inner, where)


def _coerced_tuple(value: Any, args: Sequence[Any], where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        refuse(value, "a list, as in [a, b]", where)
    kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
    if len(kinds) != len(value):
        refuse(value, f"a list of {len(kinds)}", where)
    return tuple(_coerced(item, kind, f"{where}[{i}]") for i, (item, kind) in enumerate(zip(value, kinds, strict=True)))


def refuse(value: Any, expected: Any, where: str) -> NoReturn:
    """Raise ConfigError: at this path that was expected, this was given."""
    raise ConfigError(f"{where}: expected {expected}, got {value!r} ({type(value).__name__})")


def joined(where: str, name: str) -> str:
    """A dotted path."""
    return f"{where}.{name}" if where else name
