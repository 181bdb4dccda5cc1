"""Recipes by name: listed, loaded, and rebuilt from a run's recorded options."""

import dataclasses
import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, TypeVar

import configs
from configs.parts import Recipe

DataclassT = TypeVar("DataclassT")


def names() -> list[str]:
    """Every recipe that there is."""
    return sorted(module.name for module in pkgutil.iter_modules(configs.__path__) if module.name != "parts")


def load(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
      ValueError: if there is none; the closest names are suggested.
    """
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(names())}"
        raise ValueError(f"there is no recipe {name!r}; {hint}")
    return importlib.import_module(f"configs.{name}").RECIPE


def with_options(value: DataclassT, options: Mapping[str, Any]) -> DataclassT:
    """A dataclass with the values of a run's `config.json`.

    Options that are newer than the run have the defaults of their class, which mean what was done before there was a
    choice.

    Raises:
      ValueError: if the run had options that the dataclass has not, or lacks some that have no default.
    """
    assert dataclasses.is_dataclass(value)
    assert not isinstance(value, type)
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    newer = {field.name: field.default for field in dataclasses.fields(value) if field.name not in options}
    if set(options) - set(fields) or dataclasses.MISSING in newer.values():
        differing = ", ".join(sorted(set(fields) ^ set(options)))
        raise ValueError(
            f"the recorded options and {type(value).__name__} differ in {differing}; use the version of the code that "
            "made the run"
        )

    def converted(name: str) -> Any:
        if name in newer:
            return newer[name]
        if dataclasses.is_dataclass(fields[name]):
            return with_options(fields[name], options[name])
        return tuple(options[name]) if isinstance(options[name], list) else options[name]

    return dataclasses.replace(value, **{name: converted(name) for name in fields})
