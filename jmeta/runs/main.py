"""The command `jmeta`: `train`, `evaluate`, `replay`, `launch` and `recipes`; and `main`, which runs a recipe file."""

import importlib.util
import inspect
import pathlib
import sys
from collections.abc import Callable
from typing import Any

from .experiment import Experiment

__all__ = ["USAGE", "cli", "main", "run"]

USAGE = """usage: jmeta COMMAND ...

  jmeta recipes                            list the recipes that come with jmeta
  jmeta train RECIPE [--overrides]         meta-train one, or a file of your own: jmeta train ./mine.py
  jmeta evaluate RUN [--overrides]         judge a trained run on meta_test
  jmeta replay RUN --step N                look at one meta-step again, task by task
  jmeta launch --processes N COMMAND ...   start a command in several processes of one job

--help after a command tells more."""

_EXTRA = ("tyro", "rich", "tensorboardX", "matplotlib", "PIL")


def cli() -> int:
    """Run the console script `jmeta` and return the exit status."""
    return _exited(sys.argv[1:])


def main(build: Callable[[Any], Experiment], options: Any) -> None:
    """Run a recipe's own file: `python mine.py [train] [--overrides]`, `python mine.py evaluate RUN`, or `replay`.

    Exits with the command's status.

    Args:
      build: the recipe's `build` function.
      options: the recipe's `Options` dataclass.
    """
    path = pathlib.Path(inspect.getfile(build))
    words = sys.argv[1:]
    if words[:1] not in (["train"], ["evaluate"], ["replay"]):
        words = ["train", *words]
    sys.exit(_exited(words, (build, options, path)))


def run(arguments: list[str], own: tuple[Callable[[Any], Experiment], Any, pathlib.Path] | None = None) -> int:
    """Run a command line and return the exit status.

    Args:
      arguments: the words after `jmeta`.
      own: `(build, Options, path)` of a recipe file that is itself the command, in place of a recipe's name.
    """
    match arguments:
        case [] | ["-h" | "--help", *_]:
            print(USAGE)
            return 0 if arguments else 2
        case ["recipes", *_]:
            return _list_recipes()
        case ["train", *rest]:
            return _train(rest, own)
        case ["evaluate", *rest]:
            from . import evaluate

            return evaluate.command(rest + _recipe_argument(own))
        case ["replay", *rest]:
            from . import replay

            return replay.command(rest + _recipe_argument(own))
        case ["launch", *rest]:
            from . import launch

            return launch.main(rest)
    import difflib

    close = difflib.get_close_matches(arguments[0], ["train", "evaluate", "replay", "launch", "recipes"], n=1)
    hint = f"did you mean {close[0]}?" if close else "jmeta --help lists them"
    print(f"error: there is no command {arguments[0]!r}; {hint}", file=sys.stderr)
    return 2


def _exited(arguments: list[str], own: Any = None) -> int:
    """Run a command line as the last action of this process."""
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        are = "are" if len(missing) > 1 else "is"
        print(f'error: {", ".join(missing)} {are} not installed; run pip install "jmeta[runs]"', file=sys.stderr)
        return 1
    from . import terminal

    terminal.prepare()
    try:
        from . import processes

        return processes.run(lambda words: run(words, own), arguments)
    except KeyboardInterrupt:  # nothing was running yet
        print("interrupted", file=sys.stderr)
        return terminal.EXIT_INTERRUPTED


def _recipe_argument(own: Any) -> list[str]:
    from . import recipes

    return [] if own is None or _is_ours(own[2], recipes.folder()) else ["--recipe", str(own[2])]


def _is_ours(path: pathlib.Path, folder: pathlib.Path) -> bool:
    return path.resolve().parent == folder.resolve()


def _list_recipes() -> int:
    from . import recipes

    for name, summary in recipes.summaries().items():
        print(f"{name:32} {summary}")
    return 0


def _train(arguments: list[str], own: Any) -> int:
    from . import console, recipes, train

    if own is None and (not arguments or arguments[0] in ("-h", "--help")):
        print("usage: jmeta train RECIPE [--run-dir DIR] [--seeds N] [--mesh tasks=N] [--distributed] [--overrides]\n")
        print("recipes:")
        _list_recipes()
        print("\njmeta train RECIPE --help lists its options; RECIPE may be the path of a file of your own")
        return 0 if arguments else 2
    loaded: list[recipes.Recipe] = []

    def load() -> None:
        if own is not None:
            build, options, path = own
            users = None if _is_ours(path, recipes.folder()) else path
            loaded.append(recipes.recipe_of(options, build, path.stem, users))
        elif arguments[0].startswith("-"):
            raise ValueError(
                f"the recipe's name comes first, but the first word is {arguments[0]}; jmeta recipes lists them"
            )
        else:
            loaded.append(recipes.load(arguments[0]))

    if status := console.run_command(load, if_interrupted="nothing was begun"):
        return status
    if own is not None:
        return train.command(loaded[0], arguments, program=f"python {own[2].name}")
    return train.command(loaded[0], arguments[1:], program=f"jmeta train {arguments[0]}")
