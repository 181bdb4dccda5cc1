"""Options of recipes: recorded with a run, and rebuilt from what was recorded, which may come from anyone."""

import contextlib
import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union

from . import files

DataclassT = TypeVar("DataclassT")

_LARGEST = 2**63 - 1  # of JAX's whole numbers


def recorded(options: Any) -> dict[str, Any]:
    """What identifies a run: every option, but `training.mesh`, which says where it runs."""
    values = json.loads(json.dumps(dataclasses.asdict(options)))
    values["training"].pop("mesh")
    return values


def hash_of(values: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that identify recorded options, whatever their order."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def restored(value: DataclassT, options: Mapping[str, Any]) -> DataclassT:
    """A dataclass with the values of a run's `config.json`.

    Options that are newer than the run have the defaults of their class, which mean what was done before there was a
    choice.

    Raises:
      ValueError: if the run had options that the dataclass has not, or lacks some that have no default; or a value is
        not of the option's type.
    """
    return _rebuilt(value, options, "")


def _rebuilt(value: DataclassT, options: Any, prefix: str) -> DataclassT:
    assert dataclasses.is_dataclass(value)
    assert not isinstance(value, type)
    if not isinstance(options, Mapping):
        raise _unfit(prefix.rstrip(".") or "the options", options, "named options")
    hints = typing.get_type_hints(type(value))
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    newer = {field.name: field.default for field in dataclasses.fields(value) if field.name not in options}
    if set(options) - set(fields) or dataclasses.MISSING in newer.values():
        differing = ", ".join(files.short(name) for name in sorted(set(fields) ^ set(options))[:9])
        raise ValueError(
            f"the recorded options and {type(value).__name__} differ in {differing}; use the version of the code that "
            "made the run"
        )

    def converted(name: str) -> Any:
        if name in newer:
            return newer[name]
        if dataclasses.is_dataclass(fields[name]):
            return _rebuilt(fields[name], options[name], f"{prefix}{name}.")
        try:
            return _as_declared(options[name], hints[name])
        except TypeError:
            raise _unfit(f"{prefix}{name}", options[name], _in_words(hints[name])) from None

    return dataclasses.replace(value, **{name: converted(name) for name in fields})


def _as_declared(value: Any, hint: Any) -> Any:
    """A value of a JSON file, as a field of this type has it.

    Raises:
      TypeError: if it is none.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        for each in inner:
            with contextlib.suppress(TypeError):
                return _as_declared(value, each)
    elif origin is Literal:
        if any(type(value) is type(each) and value == each for each in inner):
            return value
    elif origin is tuple:
        hints = inner[:1] * len(value) if isinstance(value, list) and inner[-1] is Ellipsis else inner
        if isinstance(value, list) and len(hints) == len(value):
            return tuple(_as_declared(each, of) for each, of in zip(value, hints, strict=True))
    elif type(value) is int:  # and not True, which is one in Python
        if hint in (int, float) and abs(value) <= _LARGEST:
            return value
    elif type(value) is hint and (hint is not str or value.isprintable()):
        return value
    raise TypeError


def _unfit(name: str, value: Any, expected: str) -> ValueError:
    return ValueError(f"the recorded {name} is {files.short(value)}; expected {expected}")


def _in_words(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_in_words, inner))
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin is tuple:
        return "a list of " + ", ".join("..." if each is Ellipsis else _in_words(each) for each in inner)
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    return words.get(hint, str(hint))
