"""One contender on one workload, in its own process: started and controlled by `interleaved`.

It prints one line of JSON when it is ready. For each input line, a number of calls, it prints the seconds that they
took, and at the end its peak memory.
"""

import json
import pathlib
import sys
import time
from collections.abc import Callable

from .contender import Contender
from .workloads import Arrays, Workload, arrays, pulls

WITH_TORCH = ("torch.func", "PyTorch loop", "PyTorch", "learn2learn", "higher", "TorchOpt")


def contender_of(name: str) -> Callable[[Workload, Arrays], Contender]:
    """Return the builder of a contender, by its name.

    Args:
      name: `"jmeta: ADJOINT, BATCHING"`, or that and `"; CONV"`; `"by hand: BATCHING"`; `"torch.func: BATCHING"`, or
        that and `", compiled"`; `"PyTorch loop"`, or that and `": CUDA graph"`; or the name of a library.

    Raises:
      ValueError: if there is no such contender.
    """
    library, _, way = name.partition(": ")
    if library in ("jmeta", "by hand", "jax-meta"):
        from . import with_jax

        if library == "jax-meta":
            return with_jax.jax_meta
        way, _, conv = way.partition("; ")
        adjoint, _, batching = way.rpartition(", ")
        if library == "jmeta":
            return with_jax.jmeta_way(with_jax.Way(adjoint, batching, conv or "auto"))
        return with_jax.by_hand(batching)
    if library not in WITH_TORCH:
        raise ValueError(f"there is no contender {name!r}")
    from . import with_torch

    with_torch.set_precision()
    if library == "torch.func":
        return with_torch.torch_func(batching=way.removesuffix(", compiled"), is_compiled=way.endswith("compiled"))
    if library == "PyTorch loop":
        return with_torch.autograd_loop(captures=way == "CUDA graph")
    others = {
        "learn2learn": with_torch.learn2learn,
        "higher": with_torch.higher,
        "TorchOpt": with_torch.torchopt,
        "PyTorch": with_torch.autograd,
    }
    return others[library]


def acting_contender(name: str, workload: Workload) -> Contender:
    """Build a contender on a workload of reinforcement learning, by its name: `"jmeta: WAY"`, or `"PyTorch"`.

    Raises:
      ValueError: if there is no such contender.
    """
    library, _, way = name.partition(": ")
    if library == "jmeta":
        from . import acting_with_jax

        return acting_with_jax.jmeta_way(way, workload, pulls(workload))
    if library == "PyTorch":
        from . import acting_with_torch, with_torch

        with_torch.set_precision()
        return acting_with_torch.pytorch(workload, pulls(workload))
    raise ValueError(f"there is no contender {name!r} that acts")


def main(arguments: list[str]) -> int:
    """Run the command `worker CONTENDER KIND TASKS STEPS [DISPATCHED]`."""
    name, kind, *numbers = arguments
    workload = Workload(kind, *map(int, numbers))
    contender = acting_contender(name, workload) if workload.acts else contender_of(name)(workload, arrays(workload))
    print(json.dumps({**contender._asdict(), "run": None}), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        contender.run(int(line))
        print(time.perf_counter() - start, flush=True)
    print(peak_bytes())
    return 0


def peak_bytes() -> int:
    """Return the largest resident memory of this process; `getrusage` would include that of its parent."""
    status = pathlib.Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in status if line.startswith("VmHWM")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
