"""The command line of the package."""

import argparse
import pathlib
import signal
import sys
import time

from .period import FILE_NAME, read
from .supervisor import Section, supervise
from .tables import tables_of

SHARES = {"check": 10, "w1": 28, "peers": 18, "w2": 10, "w3w4": 12, "long_loops": 8, "full_rows": 34}
"""Each section's share of the time, the most valuable first. Sections that compile for long, or train, get more."""
END_SECONDS = 3.0
"""Kept for the table."""


def main(arguments: list[str]) -> int:
    """Run the command; return the exit status."""
    options = _parse(arguments)
    ends_at = time.time() + options.seconds - END_SECONDS
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the section ends with the command
    options.out.mkdir(parents=True, exist_ok=True)
    size = "tiny" if options.tiny else "full"
    program = (sys.executable, "-m", f"{__package__}.section")
    sections = [Section(name, SHARES[name], (*program, name, size)) for name in SHARES if name in options.sections]
    first = len(read(options.out / FILE_NAME))
    try:
        supervise(sections, options.out, ends_at)
    finally:
        print("\n" + tables_of(read(options.out / FILE_NAME)[first:]))
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}", description="Measure an accelerator; end in time, and lose nothing if killed."
    )
    parser.add_argument("--seconds", type=float, required=True, help="time limit of the whole command")
    parser.add_argument(
        "--out", type=pathlib.Path, required=True, help="folder of rows, log and trainings; trainings in it continue"
    )
    parser.add_argument("--tiny", action="store_true", help="test sizes: shows that all sections run")
    parser.add_argument("--sections", nargs="+", choices=list(SHARES), default=list(SHARES), help="default: all")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
