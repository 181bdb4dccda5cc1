"""Standard output, standard error and Ctrl-C of a command, wherever the streams lead.

A run of days must not end because a viewer of its lines did (`| head -1`), or because the terminal's encoding has no
`±` (`PYTHONIOENCODING=ascii`); and Ctrl-C, even a second one, ends in one line and not in a traceback. So does a
checkpoint that cannot be written: Orbax raises the first of its writes' errors, which we show, and leaves the others to
asyncio and to an event loop that is closed, which would show each of them again.
"""

import codecs
import io
import logging
import os
import signal
import sys
import threading
from typing import Any

__all__ = ["EXIT_INTERRUPTED", "prepare", "raise_if_interrupted", "lasting"]

_PLAIN = {"±": "+-", "−": "-", "…": "...", "²": "^2", "→": "->"}
EXIT_INTERRUPTED = 130
_interrupts: list[int] = []  # signals of Ctrl-C so far


def prepare() -> None:
    """Make the streams and Ctrl-C of this process behave so; for commands, not for users of the library."""
    codecs.register_error("jmeta.plain", _plain)
    sys.stdout, sys.stderr = lasting(sys.stdout), lasting(sys.stderr)
    is_ours = threading.current_thread() is threading.main_thread()
    if is_ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = _tell_unraisable
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


def raise_if_interrupted() -> None:
    """Raise `KeyboardInterrupt` if Ctrl-C was pressed: what a library calls back may have swallowed the first one."""
    if _interrupts:
        raise KeyboardInterrupt


def lasting(stream: Any) -> Any:
    """Wrap a stream: it discards output that nobody reads, and spells out characters that its encoding lacks."""
    try:
        descriptor = stream.fileno()
    except (AttributeError, OSError):  # closed, or in memory
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Lasting(descriptor, "w", closefd=False)),
        encoding=stream.encoding,
        errors="jmeta.plain" if stream.errors == "strict" else stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Lasting(io.FileIO):
    def write(self, data: Any, /) -> int | None:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # also for processes that this one starts
            os.close(nowhere)
            return len(data)


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letter = error.object[error.start]
    return _PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode(), error.start + 1


def _tell_unraisable(unraisable: Any) -> None:
    """Print an error that cannot be raised, unless it is a write that ends after its checkpoint was given up."""
    error = unraisable.exc_value
    if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
        sys.__unraisablehook__(unraisable)


def _interrupt(number: int, _: object) -> None:
    _interrupts.append(number)
    signal.signal(signal.SIGINT, _leave)
    raise KeyboardInterrupt


def _leave(*_: object) -> None:
    """Exit at once at the second Ctrl-C: a half-written file has no name yet."""
    os.write(2, b"interrupted again; what was being saved is given up\n")
    os._exit(EXIT_INTERRUPTED)
