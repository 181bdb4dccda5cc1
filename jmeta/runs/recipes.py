"""Recipes: Python files with a dataclass `Options` and `build(options) -> Experiment`, ours by name, a user's by path.

Ours are the files of `configs/`, which are installed as `jmeta.recipes`.
"""

import ast
import dataclasses
import difflib
import importlib.util
import pathlib
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple, cast

from . import files
from .experiment import Experiment, Testing, Training

__all__ = ["Recipe", "folder", "names", "summaries", "load", "ours", "in_file", "from_module", "recipe_of"]


class Recipe(NamedTuple):
    """One recipe.

    Attributes:
      name: name of its file, without the suffix.
      options: the dataclass of its options; every field has a default, `training` is a `Training`, `testing` a
        `Testing`.
      build: `options -> Experiment`.
      path: path of a user's own file; `None` for ours.
    """

    name: str
    options: Any
    build: Callable[[Any], Experiment]
    path: pathlib.Path | None = None

    @property
    def summary(self) -> str:
        """A one-line description."""
        return (self.options.__doc__ or "").strip().splitlines()[0]

    def as_argument(self) -> str:
        """Return the recipe's name on a command line."""
        return self.name if self.path is None else str(self.path)


def folder() -> pathlib.Path:
    """Return the folder of our recipes: in the installed package, or next to the package in a clone."""
    installed = pathlib.Path(__file__).parents[1] / "recipes"
    return installed if installed.is_dir() else pathlib.Path(__file__).parents[2] / "configs"


def names() -> list[str]:
    """Return the names of our recipes."""
    return sorted(path.stem for path in folder().glob("*.py") if path.stem != "__init__")


def summaries() -> dict[str, str]:
    """Return one line about each of our recipes, read without running them."""
    found = {}
    for name in names():
        tree = ast.parse((folder() / f"{name}.py").read_text())
        classes = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Options")
        found[name] = (ast.get_docstring(next(classes)) or "").splitlines()[0]
    return found


def load(name: str) -> Recipe:
    """Load a recipe: ours of this name, or the one in a Python file, which is run.

    Args:
      name: a name such as `"glyphs_maml"`, or a path that ends in `.py`.

    Raises:
      ValueError: if there is none (the message suggests the closest names), or if the file holds no recipe.

    Example:
      >>> load("blobs_protonet").summary
      'Prototypical networks on Gaussian blobs: a run of seconds that needs no data.'
    """
    return in_file(name) if name.endswith(".py") else ours(name)


def ours(name: str) -> Recipe:
    """Load our recipe of this name, never a file from elsewhere, whatever the name.

    Raises:
      ValueError: if there is none; the closest names are suggested.
    """
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "`jmeta recipes` lists those there are"
        is_file = name.isidentifier() and pathlib.Path(f"{name}.py").is_file()
        own = f"; a file of your own is named by its path, ./{name}.py" if is_file else ""
        raise ValueError(f"there is no recipe {files.short(name)!r}; {hint}{own}")
    return from_module(_run(folder() / f"{name}.py"), None)


def in_file(name: str) -> Recipe:
    """Load the recipe in a user's file, which is run.

    Raises:
      ValueError: if there is no such file, running it raises an error, or it holds no recipe.
    """
    path = pathlib.Path(name).expanduser()
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"there is no recipe file {name}; expected the path of a Python file, such as ./mine.py")
    try:
        module = _run(path)
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        said = str(error).partition("\n")[0]
        raise ValueError(f"{path}{_line(error, path)} raises {type(error).__name__}: {said}") from error
    return from_module(module, path)


def _line(error: BaseException, path: pathlib.Path) -> str:
    """Return the line of a file where an exception was raised, as `:LINE`; for a syntax error, where the error is."""
    if isinstance(error, SyntaxError):
        return f":{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path.resolve())]
    return f":{lines[-1]}" if lines else ""


def from_module(module: ModuleType, path: pathlib.Path | None) -> Recipe:
    """Return the recipe that a module holds.

    Raises:
      ValueError: if it lacks `build` or `Options`, or an option lacks a default.
    """
    where = path or module.__name__
    options, build = getattr(module, "Options", None), module.__dict__.get("build")
    if options is None or not dataclasses.is_dataclass(options) or not callable(build):
        raise ValueError(
            f"{where} is no recipe: expected a dataclass `Options` and a function `build(options)` that returns a "
            "`jmeta.runs.Experiment`"
        )
    build = cast(Callable[[Any], Experiment], build)
    return recipe_of(options, build, pathlib.Path(module.__file__ or module.__name__).stem, path)


def recipe_of(options: Any, build: Callable[[Any], Experiment], name: str, path: pathlib.Path | None) -> Recipe:
    """Build a recipe from options and a function.

    Raises:
      ValueError: if an option lacks a default, or the options `training` and `testing` are missing.
    """
    without = [
        field.name
        for field in dataclasses.fields(options)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if without:
        raise ValueError(f"{path or name}: the options {', '.join(without)} need defaults")
    defaults = options()
    for field, kind in {"training": Training, "testing": Testing}.items():
        if not isinstance(getattr(defaults, field, None), kind):
            raise ValueError(f"{path or name}: its options need a field `{field}: runs.{kind.__name__}`")
    return Recipe(name, options, build, path)


def _run(path: pathlib.Path) -> ModuleType:
    """Return the module in a file, which is run once per process."""
    name = f"jmeta_recipe_{path.stem}"
    loaded = sys.modules.get(name)
    if loaded is not None and loaded.__file__ == str(path.resolve()):
        return loaded
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their types here
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
