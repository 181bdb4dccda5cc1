"""What every test runs under: strict JAX, shapes checked at run time, quick compilation, bounded memory."""

import contextlib
import gc
import importlib.util
import os
import pathlib
import signal

import jax
import jaxtyping
import pytest

from . import workers

CACHE = pathlib.Path(__file__).parents[1] / ".cache"
os.environ.setdefault("JMETA_CACHE", str(CACHE / "jmeta"))  # rendered glyphs stay out of the user's own cache
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE / "jax"))  # for scripts, wherever a test runs them

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # workers compile the same small operations

gc.set_threshold(50_000, 20, 50)  # tracing makes many small objects: the collector took a tenth of the time

# Before anything imports jmeta: every annotated function of jmeta has its arguments' shapes and dtypes checked.
jaxtyping.install_import_hook("jmeta", "beartype.beartype")

PEAKS = pytest.StashKey[dict[str, float]]()
"""The bytes that each worker held at most."""


def pytest_configure(config):
    config.stash[PEAKS] = {}
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # a shell starts what it puts into the background so, and the commands that tests interrupt would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    return workers.num_workers(workers.num_cores(), workers.available_memory())


def pytest_collection_modifyitems(items):
    """Mark tests that ask for real data or for PyTorch, so that `-m` selects them and others run without either."""
    for item in items:
        for fixture, marker in (("data_dir", "data"), ("torch", "peers")):
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(marker)


def pytest_runtest_setup(item):
    if item.get_closest_marker("data") and not os.environ.get("JMETA_DATA"):
        pytest.skip("JMETA_DATA is not set: this test reads real data")
    if item.get_closest_marker("peers") and importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed: pip install 'jmeta[peers]'")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Compile quickly, except in tests of what the optimizer makes of a program; let go of programs in time.

    Not in a fixture: those of a module come before any of one test, and most of them train.
    """
    is_optimized = item.get_closest_marker("optimized")
    with contextlib.nullcontext() if is_optimized else workers.quick_compilation():
        result = yield
    if workers.memory() > workers.RELEASED_ABOVE:
        workers.release()
    return result


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
    """The folder of real data sets; a test that asks for it is skipped where there is none."""
    return pathlib.Path(os.environ["JMETA_DATA"])


@pytest.fixture
def torch():
    """PyTorch; a test that asks for it is skipped where it is not installed."""
    return importlib.import_module("torch")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    """A worker says what it took; the process that prints fails the run if that was too much."""
    config = session.config
    if hasattr(config, "workeroutput"):
        config.workeroutput["peak"] = workers.peak_memory()
        return
    if not config.stash[PEAKS]:
        config.stash[PEAKS]["this process"] = workers.peak_memory()
    if exitstatus == pytest.ExitCode.OK and max(config.stash[PEAKS].values()) > workers.LIMIT:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    if peak := getattr(node, "workeroutput", {}).get("peak"):
        node.config.stash[PEAKS][node.gateway.id] = peak


def pytest_terminal_summary(terminalreporter, config):
    terminalreporter.section("memory at the peak")
    for name, peak in sorted(config.stash[PEAKS].items()):
        verdict = f", more than the {workers.LIMIT / 1e9:.1f} GB that a worker may take" if peak > workers.LIMIT else ""
        terminalreporter.line(f"{name}: {peak / 1e9:.2f} GB{verdict}")
