"""One case of an attack: an input, the law that its outcome obeys, and a limit on its time.

An input is answered by a right result, or refused by one clear error: a `ValueError`, or an error of the system with
the path, in one line, which jmeta itself raises. An error of another library that comes through is none, whatever its
type: its message speaks of things that the user did not write. Only an input of a wrong Python type, such as text for a
number, may end in Python's own errors.
"""

import contextlib
import pathlib
import shutil
import signal
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np

import jmeta

__all__ = ["Attack", "Finding", "WrongError", "Outcome", "judge", "run"]

Outcome = Literal["right", "refused", "wrong type"]
Attack = Callable[[np.random.Generator, pathlib.Path], Outcome]
"""`(rng, folder) -> outcome` draws an input, hands it to jmeta and checks the outcome; `folder` is empty.

Raises `WrongError` where the outcome is none of those allowed.
"""

CPU_SECONDS, SECONDS = 60, 3600
"""Limits on the time of a case; the second is for one that waits, so long that a busy machine is not taken for it."""
_OURS = str(pathlib.Path(jmeta.__file__).parent)
_REFUSALS = (ValueError, OSError)


class WrongError(Exception):
    """A wrong result, an accepted input that must be refused, or an unclear error."""


class Finding(NamedTuple):
    """A case that broke the law; `--only SURFACE:INDEX` repeats it."""

    surface: str
    index: int
    what: str


def judge(
    call: Callable[[], Any],
    *,
    what: str,
    is_right: Callable[[Any], bool] = lambda _: True,
    must: Literal["accept", "refuse", "either"] = "either",
    is_wrong_type: bool = False,
) -> Outcome:
    """Make a call and check how it ends.

    Args:
      call: hands the input to jmeta.
      what: describes the input, in a finding.
      is_right: checks an accepted input's result by another route.
      must: whether an independent rule says that the input is right or wrong.
      is_wrong_type: whether the input is of a wrong Python type, which may end in any of Python's errors.

    Raises:
      WrongError: if the input was accepted and must not be, or the other way round; if the result is wrong, or the
        error not clear.
    """
    try:
        result = call()
    except Exception as error:
        if is_wrong_type:
            return "wrong type"
        if must == "accept":
            raise WrongError(f"{what}: is right, but refused: {type(error).__name__}: {error}") from error
        if unclear := _unclear(error):
            raise WrongError(f"{what}: {unclear}: {type(error).__name__}: {error}") from error
        return "refused"
    if must == "refuse":
        raise WrongError(f"{what}: is wrong, but accepted")
    if not is_right(result):
        raise WrongError(f"{what}: wrong result")
    return "right"


def _unclear(error: Exception) -> str:
    """Return what is wrong with an error, or an empty text."""
    if not isinstance(error, _REFUSALS):
        return "an error of another type"
    if not str(error).strip() or len(str(error).splitlines()) > 1:
        return "an error that is not one line"
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    is_ours = trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OURS)
    return "" if is_ours or (isinstance(error, OSError) and error.filename) else "an error from another library"


def run(attack: Attack, surface: str, seed: int, index: int, folder: pathlib.Path) -> Outcome | Finding:
    """Run one case, which depends on nothing but the seed, the surface and the index."""
    shutil.rmtree(folder, ignore_errors=True)  # left by a finding that is repeated
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, index, *surface.encode()])
    try:
        with _limited():
            return attack(rng, folder)
    except WrongError as error:
        return Finding(surface, index, str(error))
    except _HangError:
        return Finding(surface, index, f"has no end after {CPU_SECONDS} s of CPU time, or {SECONDS} s")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return Finding(surface, index, f"traceback: {type(error).__name__}: {str(error)[:300]}")


class _HangError(BaseException):
    """A case took too long; no handler of `Exception` may take it."""


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise _HangError

    timers = {signal.ITIMER_PROF: (signal.SIGPROF, CPU_SECONDS), signal.ITIMER_REAL: (signal.SIGALRM, SECONDS)}
    before = {number: signal.signal(number, stop) for number, _ in timers.values()}
    for timer, (_, seconds) in timers.items():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer, (number, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])
