"""Output for a person while scripts work: progress with rate and time left, tables, and compile time shown separately.

On a terminal there is a bar. Elsewhere (a log file, CI) there are plain lines: one at each evaluation, and between them
at most one every ten seconds.
"""

import contextlib
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping

import jax
import rich.console
import rich.progress
import rich.table
import rich.text

from ..checkpoints import DamagedCheckpointError

__all__ = [
    "StoppedError",
    "USER_ERRORS",
    "run_command",
    "use_compilation_cache",
    "CompileClock",
    "compile_clock",
    "Progress",
    "progress",
    "print_table",
]


class StoppedError(Exception):
    """A run that cannot go on; the message gives the reason."""


USER_ERRORS = (StoppedError, ValueError, OSError, ImportError, DamagedCheckpointError)
"""Errors that command lines print as one line: the message says what to do."""


def run_command(command: Callable[[], None], *, if_interrupted: str) -> int:
    """Run a command line and return its exit status.

    An error that a user can fix is printed as one line; with `JMETA_TRACEBACK=1` in the environment, with a traceback.

    Args:
      command: prints and writes all that it does.
      if_interrupted: text to print after Ctrl-C.
    """
    try:
        command()
    except KeyboardInterrupt:
        print(f"interrupted; {if_interrupted}", file=sys.stderr)
        return 130
    except USER_ERRORS as error:
        if os.environ.get("JMETA_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_status", 1)
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if os.environ.get("JMETA_TRACEBACK") or not _is_of_memory(error):
            raise
        said = str(error).partition("\n")[0] or type(error).__name__
        print(f"error: the memory does not hold this; take fewer or smaller tasks at once ({said})", file=sys.stderr)
        return 1
    return 0


def _is_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def use_compilation_cache() -> None:
    """Keep compiled programs between processes, in `$JAX_COMPILATION_CACHE_DIR` or `.cache/jax`."""
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(pathlib.Path(".cache", "jax").absolute())
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


class CompileClock:
    """Clock of the seconds that JAX spends tracing, lowering and compiling while the clock is on."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []

    @property
    def seconds(self) -> float:
        """Seconds so far. Traces nest, so this is the length of the intervals' union, not the sum of their lengths."""
        total, until = 0.0, 0.0
        for start, end in sorted(self._spans):
            total += max(0.0, end - max(start, until))
            until = max(until, end)
        return total

    def record(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        del kwargs
        if event.startswith("/jax/core/compile/"):
            end = time.monotonic()
            self._spans.append((end - duration_secs, end))


@contextlib.contextmanager
def compile_clock() -> Iterator[CompileClock]:
    """Yield a clock that is on inside the block."""
    clock = CompileClock()
    jax.monitoring.register_event_duration_secs_listener(clock.record)
    try:
        yield clock
    finally:
        jax.monitoring.unregister_event_duration_listener(clock.record)


class Progress:
    """Reporter of a run's steps; made by `progress`."""

    def __init__(self, console: rich.console.Console, name: str, start: int, total: int) -> None:
        self.name, self.total = name, total
        self._console = console
        self._step, self._steps, self._seconds = start, 0, 0.0
        self._last_line = -1e9
        self._bar: rich.progress.Progress | None = None
        if console.is_terminal:
            columns = ("[bold]{task.description}", "{task.completed:.0f}/{task.total:.0f}", "{task.fields[rate]}")
            texts = [rich.progress.TextColumn(column) for column in columns]
            left = rich.progress.TextColumn("{task.fields[left]}  {task.fields[metrics]}")
            self._bar = rich.progress.Progress(texts[0], rich.progress.BarColumn(30), *texts[1:], left, console=console)
            self._task = self._bar.add_task(name, total=total, completed=start, rate="", left="compiling", metrics="")
            self._bar.start()

    def update(self, step: int, seconds: float, metrics: Mapping[str, float]) -> None:
        """Report that `step` is reached; the last dispatch took `seconds`, not counting compilation."""
        self._steps, self._seconds = self._steps + step - self._step, self._seconds + seconds
        self._step = step
        rate = self._steps / max(self._seconds, 1e-9)
        rate_text = f"{rate:.1f} steps/s" if rate < 100 else f"{rate:.0f} steps/s"
        left = f"{_duration((self.total - step) / max(rate, 1e-9))} left"
        shown = _shown(metrics)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, rate=rate_text, left=left, metrics=shown)
        elif time.monotonic() - self._last_line > 10 or step >= self.total:
            self._last_line = time.monotonic()
            self.say(f"step {step}/{self.total}  {shown}  {rate_text}  {left}")

    def say(self, text: str) -> None:
        """Print one line that stays, above the bar if there is one."""
        self._console.print(f"{self.name}: {text}", highlight=False, markup=False, soft_wrap=True)

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()


@contextlib.contextmanager
def progress(name: str, *, start: int, total: int, is_quiet: bool = False) -> Iterator[Progress]:
    """Show progress from step `start` to `total` on standard output, or nowhere if `is_quiet`."""
    reporter = Progress(rich.console.Console(quiet=is_quiet), name, start, total)
    try:
        yield reporter
    finally:
        reporter.stop()


def print_table(title: str, rows: list[dict[str, str]]) -> None:
    """Print rows of equal columns as one table: the first column text, the others numbers. Brackets are not markup."""
    console = rich.console.Console()
    table = rich.table.Table(
        title=rich.text.Text(title, "table.title"), title_justify="left", box=rich.table.box.SIMPLE_HEAD
    )
    for i, name in enumerate(rows[0]):
        table.add_column(rich.text.Text(name), justify="right" if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(rich.text.Text, row.values()))
    console.width = max(console.width, 160) if not console.is_terminal else console.width
    console.print(table)


def _shown(metrics: Mapping[str, float]) -> str:
    ordered = ("objective", "loss", "accuracy", "accuracy_of_all_classes", "reward", "return", "entropy")
    names = [name for name in ordered if name in metrics]
    text = "  ".join(f"{name.replace('_', ' ')} {metrics[name]:.4f}" for name in names)
    skipped = metrics.get("num_skipped", 0)
    return f"{text}  skipped {skipped:.0f}" if skipped else text


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
