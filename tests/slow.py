"""Cases of a parametrized test that run with the slow tests alone, where one quick case shows the same."""

from typing import Any

import pytest

__all__ = ["slow"]


def slow(*values: Any) -> list[Any]:
    """The values as slow cases of one parameter: `parametrize("size", [2, *slow(1, 64)])`."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]
