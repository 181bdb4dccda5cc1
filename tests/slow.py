"""Further cases of tests that train for long, or stop whole runs: slow tests run them, and one quick case always."""

from typing import Any

import pytest

__all__ = ["slow"]


def slow(*values: Any) -> list[Any]:
    """Return the values as slow cases of one parameter: `parametrize("size", [2, *slow(1, 64)])`."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]
