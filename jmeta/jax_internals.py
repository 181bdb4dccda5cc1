"""Every private part of JAX that jmeta relies on, in one place: look here first when a new release of JAX breaks it."""

from typing import Any

from jax._src import distributed

__all__ = ["coordination_service", "process_id"]


def coordination_service() -> Any:
    """Return the client of the key-value service that `jax.distributed` starts, or None in a job of one process.

    Private because JAX gives no public handle to the service. Processes exchange short messages through it without a
    collective of the devices, which a background thread must not start.
    """
    return distributed.global_state.client


def process_id() -> int:
    """Return which process of the job this is, without starting the devices.

    Private because `jax.process_index` starts them, which a process that is about to end must not do.

    Example:
      >>> process_id()
      0
    """
    return distributed.global_state.process_id
