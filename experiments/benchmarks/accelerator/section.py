"""One section in its process: `python -m experiments.benchmarks.accelerator.section NAME {tiny,full} DIR ENDS_AT`."""

import importlib
import os
import pathlib
import sys
import threading
import time

from .period import Period


def main(arguments: list[str]) -> int:
    """Run a section: the module of that name."""
    name, size, out, ends_at = arguments
    threading.Thread(target=_die_with, args=(os.getppid(),), daemon=True).start()
    # frameworks share the card: here and in contenders' processes, JAX takes only the memory that it needs
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    module = importlib.import_module(f".{name}", __package__)
    module.run(Period(name, pathlib.Path(out), float(ends_at), is_tiny=size == "tiny"))
    return 0


def _die_with(parent: int) -> None:
    """End this process if its supervisor was killed: nobody else would stop it, and it holds the card."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
