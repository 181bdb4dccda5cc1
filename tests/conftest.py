"""What every test runs under: strict JAX, shapes checked at run time, and the persistent compilation cache."""

import os
import pathlib

import jax
import jaxtyping
import pytest

CACHE = pathlib.Path(__file__).parents[1] / ".cache"
os.environ.setdefault("JMETA_CACHE", str(CACHE / "jmeta"))  # rendered glyphs stay out of the user's own cache
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE / "jax"))  # for scripts, wherever a test runs them

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

# Before anything imports jmeta: every annotated function of jmeta has its arguments' shapes and dtypes checked.
jaxtyping.install_import_hook("jmeta", "beartype.beartype")


SLOW = pathlib.Path(__file__).with_name("slow.txt")
"""Tests that took more than six seconds of a slow machine, one a line, and have a quicker one like them."""


def pytest_collection_modifyitems(config, items):
    """Mark them, so that `make test` leaves them out; `make test-all` has all."""
    slow = set(SLOW.read_text().splitlines())
    for item in items:
        if item.nodeid in slow:
            item.add_marker(pytest.mark.slow)
    is_whole_files = not config.getoption("lf", False) and not any("::" in argument for argument in config.args)
    files = {item.nodeid.partition("::")[0] for item in items}
    there = {item.nodeid for item in items}
    if is_whole_files and (stale := {name for name in slow - there if name.partition("::")[0] in files}):
        raise pytest.UsageError(f"{SLOW} names tests that are not there: {', '.join(sorted(stale))}")


@pytest.fixture(autouse=True)
def optimization(request):
    """Compile quickly, for most of the suite's time is compiling, except in tests of what the optimizer makes of it."""
    jax.config.update("jax_disable_most_optimizations", request.node.get_closest_marker("optimized") is None)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def float64():
    """Run one test in double precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def data_dir():
    """The folder of real data sets that `JMETA_DATA` names; the test is skipped where there is none."""
    folder = os.environ.get("JMETA_DATA")
    if not folder:
        pytest.skip("JMETA_DATA is not set: this test reads real data")
    return pathlib.Path(folder)
