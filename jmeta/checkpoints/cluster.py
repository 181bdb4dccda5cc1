"""Agreement between processes on the outcome of a joint operation, such as a save or a restore.

Messages go through the service that `jax.distributed` runs on the host, and not through collectives of the devices: a
background thread may use it while the main thread computes. In a single process all of this does nothing.
"""

import contextlib
import itertools
import json
from collections.abc import Iterator
from typing import Any

import jax

from ..jax_internals import coordination_service
from .files import DamagedCheckpointError

__all__ = ["SilentProcessError", "Operation", "is_first"]

_PATIENCE_S = 30 * 60  # for the slowest disk; JAX itself notices a dead process sooner
_numbers = itertools.count()


class SilentProcessError(TimeoutError):
    """Another process has not joined an operation of all processes; it is lost, or as good as lost."""


class Operation:
    """An operation that every process of the job takes part in, such as one `save` or `restore`.

    Args:
      described: the operation in words; must be the same in all processes.

    Raises:
      ValueError: in every process, if their descriptions differ.
    """

    def __init__(self, described: str):
        self._number, self._stages = next(_numbers), itertools.count()
        self._read_by_all: list[str] = []
        for index, other in enumerate(everywhere := self.gather(described)):
            if other != everywhere[0]:
                raise ValueError(
                    f"process 0 is at {everywhere[0]} but process {index} at {other}; let every process do the same, "
                    "in the same order and with the same arguments"
                )

    def gather(self, mine: Any) -> list[Any]:
        """Return the JSON values of all processes, in the order of the processes, once all have called."""
        num_processes, index = jax.process_count(), jax.process_index()
        if num_processes == 1:
            return [mine]
        service, prefix = _service(), f"jmeta/checkpoints/{self._number}/{next(self._stages)}"
        if index > 0:
            service.key_value_set(f"{prefix}/{index}", json.dumps(mine))
            return json.loads(_wait_for(service, f"{prefix}/all"))
        others = [_wait_for(service, f"{prefix}/{other}") for other in range(1, num_processes)]
        everything = [mine, *map(json.loads, others)]
        service.key_value_set(f"{prefix}/all", json.dumps(everything))
        # all have come here, so all have read the earlier messages, which would otherwise fill the service's memory
        for said in (*self._read_by_all, *(f"{prefix}/{other}" for other in range(1, num_processes))):
            service.key_value_delete(said)
        self._read_by_all = [f"{prefix}/all"]
        return everything

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Run a block, wait for all processes, and raise in all of them if it failed in any."""
        mine: BaseException | None = None
        try:
            yield
        except BaseException as error:
            mine = error
        told = None if mine is None else [type(mine).__name__, getattr(mine, "errno", None), str(mine)[:2000]]
        for index, other in enumerate(self.gather(told)):
            if other is not None:
                raise mine if mine is not None and other == told else _of_another(index, *other)


def is_first() -> bool:
    """Return whether this is the process that makes folders, writes manifests and deletes."""
    return jax.process_index() == 0


def _of_another(index: int, kind: str, number: int | None, text: str) -> Exception:
    text = f"in process {index}: {text or kind}"
    if number is not None:
        return OSError(number, text)
    kinds = {"ValueError": ValueError, "DamagedCheckpointError": DamagedCheckpointError}
    return kinds[kind](text) if kind in kinds else RuntimeError(f"{kind} {text}")


def _service() -> Any:
    service = coordination_service()
    if service is None:
        raise ValueError(
            f"{jax.process_count()} processes cannot agree without JAX's coordination service; call "
            "jax.distributed.initialize() at the start of each"
        )
    return service


def _wait_for(service: Any, key: str) -> str:
    try:
        return service.blocking_key_value_get(key, _PATIENCE_S * 1000)
    except jax.errors.JaxRuntimeError as error:
        raise SilentProcessError(f"no word from another process about what all do ({key}): {error}") from error
