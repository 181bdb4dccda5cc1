"""Options of recipes: recorded with a run, and rebuilt from a record that may come from anyone."""

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import json
import operator
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union

from . import files

__all__ = ["DataclassT", "recorded", "hash_of", "restored", "flat", "differences", "replaced"]

DataclassT = TypeVar("DataclassT")

_LARGEST = 2**63 - 1  # the largest whole number in JAX


def recorded(options: Any) -> dict[str, Any]:
    """Return the options that identify a run: all but `training.mesh`, which says where it runs, and no warm start.

    Raises:
      ValueError: if an option is of a type that JSON does not have, or a whole number of more than 64 bits.
    """
    values = _as_json(options)
    for path, value in flat(values).items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and abs(number) > _LARGEST:
                raise ValueError(f"{path}={number}; expected a whole number of at most {_LARGEST}")
    values["training"].pop("mesh")
    if values["training"].get("warm_start") is None:  # runs of earlier versions keep their hash
        values["training"].pop("warm_start", None)
    return values


def hash_of(values: Mapping[str, Any]) -> str:
    """Return twelve hexadecimal digits that identify recorded options, whatever their order."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def restored(value: DataclassT, options: Mapping[str, Any]) -> DataclassT:
    """Return a dataclass with the values of a run's `config.json`.

    Options newer than the run take the defaults of their class, which stand for the behaviour before there was a
    choice.

    Raises:
      ValueError: if the run had options that the dataclass lacks, or lacks options that have no default; or a value is
        not of the option's type.
    """
    return _rebuilt(value, options, "")


def flat(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return recorded options by their paths.

    Example:
      >>> flat({"num_ways": 5, "testing": {"num_tasks": None}})
      {'num_ways': 5, 'testing.num_tasks': None}
    """
    by_path = {}
    for name, value in options.items():
        inner = {f"{name}.{path}": each for path, each in flat(value).items()} if isinstance(value, Mapping) else None
        by_path |= {name: value} if inner is None else inner
    return by_path


def differences(options: Any, others: Any) -> dict[str, Any]:
    """Return the options that differ from another value of the same dataclass, by their paths, in their recorded form.

    Args:
      options: a recipe's options, whose values are returned.
      others: the options to compare with, such as the recipe's defaults.

    Example:
      >>> from jmeta.runs import recipes
      >>> default = recipes.load("glyphs_maml").options()
      >>> differences(dataclasses.replace(default, num_ways=20), default)
      {'num_ways': 20}
    """
    before = flat(_as_json(others))
    return {path: value for path, value in flat(_as_json(options)).items() if value != before[path]}


def replaced(options: DataclassT, changes: Mapping[str, Any]) -> DataclassT:
    """Return the options with changes, which are named by their paths: the inverse of `differences`.

    Args:
      options: a dataclass, with dataclasses in it.
      changes: new values in their recorded form, such as `{"num_ways": 20, "testing.num_tasks": 100}`.

    Raises:
      ValueError: if there is no such option (the message suggests the closest), or a value is not of the option's type.

    Example:
      >>> from jmeta.runs import recipes
      >>> replaced(recipes.load("glyphs_maml").options(), {"testing.num_tasks": 100}).testing.num_tasks
      100
    """
    values = _as_json(options)
    paths = flat(values)
    for path, value in changes.items():
        if path not in paths:
            close = difflib.get_close_matches(path, paths, n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(paths)}"
            raise ValueError(f"{type(options).__name__} has no option {files.short(path)}; {hint}")
        *groups, name = path.split(".")
        functools.reduce(operator.getitem, groups, values)[name] = value
    return restored(options, values)


def _as_json(options: Any) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(dataclasses.asdict(options)))
    except TypeError as error:
        raise ValueError(
            f"options are numbers, text, booleans, tuples of these or dataclasses, since JSON records them ({error})"
        ) from None


def _rebuilt(value: DataclassT, options: Any, prefix: str) -> DataclassT:
    assert dataclasses.is_dataclass(value)
    assert not isinstance(value, type)
    if not isinstance(options, Mapping):
        raise _unfit(prefix.rstrip(".") or "the options", options, "named options")
    hints = typing.get_type_hints(type(value))
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    newer = {field.name: _default(field) for field in dataclasses.fields(value) if field.name not in options}
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


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _as_declared(value: Any, hint: Any) -> Any:
    """Convert a value of a JSON file to the type of a field.

    Raises:
      TypeError: if it does not fit the type.
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
    elif type(value) is int:  # excludes True, which is an int in Python
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
