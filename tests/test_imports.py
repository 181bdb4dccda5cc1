"""What `import jmeta` brings with it; who may import whom is import-linter's law, in `pyproject.toml`."""

import ast
import pathlib
import subprocess
import sys

import pytest

LIBRARY = pathlib.Path(__file__).parents[1] / "jmeta"


def test_every_module_says_what_is_public():
    """Every function and class whose name does not begin with `_` is in the `__all__` of its module."""
    for file in sorted(LIBRARY.rglob("*.py")):
        body = ast.parse(file.read_text()).body
        named = [each for each in body if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "__all__"]
        defined = [each.name for each in body if isinstance(each, (ast.FunctionDef, ast.ClassDef))]
        public = {name for name in defined if not name.startswith("_")}
        if not named:
            assert not public, f"{file.relative_to(LIBRARY.parent)} has no __all__, but defines {sorted(public)}"
            continue
        names = ast.literal_eval(named[0].value)
        assert len(set(names)) == len(names), file
        assert public <= set(names), f"{file}: {sorted(public - set(names))} begin without _ but are not in __all__"


def test_the_core_needs_no_extra():
    """`import jmeta` pulls in none of the optional packages."""
    extras = ["matplotlib", "PIL", "tensorflow_datasets", "grain", "tyro", "rich", "tensorboardX", "equinox", "haiku"]
    extras += ["rlax", "gymnax", "navix", "xminigrid", "brax"]
    code = f"import sys, jmeta; print([name for name in {extras} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(result.stdout))
    # Flax itself imports rich; nothing of ours may add to that
    flax_loads = (
        f"import sys, flax.linen, optax, orbax.checkpoint; print([name for name in {extras} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", flax_loads], capture_output=True, text=True, check=True)
    assert loaded <= set(ast.literal_eval(result.stdout))


def test_the_core_brings_nothing_that_one_function_alone_needs():
    """SciPy's statistics took a second of every start and NNX a sixth of one."""
    late = ["scipy.stats", "flax.nnx", "orbax", "chex", "jmeta.domains", "jmeta.runs", "jmeta.checkpoints"]
    code = "import sys, jax, flax.linen, optax; before = set(sys.modules); import jmeta; "
    code += f"print([name for name in {late} if name in set(sys.modules) - before])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ast.literal_eval(result.stdout) == []


@pytest.mark.parametrize("words", [["train", "glyphs_maml"], ["train", "bandit_rl2"], ["evaluate"]], ids=" ".join)
def test_help_brings_nothing_that_a_run_alone_needs(words):
    """Neither Matplotlib nor Orbax, which took more than half of the time, nor data sets or devices."""
    late = [
        "matplotlib",
        "PIL",
        "tensorboardX",
        "orbax",
        "chex",
        "tensorflow_datasets",
        "grain",
        "flax.nnx",
        "scipy.stats",
    ]
    code = f"""
import sys, flax.linen, optax
before = set(sys.modules)
from jmeta.runs.main import run
try:
    run({[*words, "--help"]})
finally:
    from jax._src import xla_bridge
    loaded = [name for name in {late} if name in set(sys.modules) - before]
    print(loaded + ["devices"] * xla_bridge.backends_are_initialized())
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    *help_text, loaded = result.stdout.splitlines()
    assert any("usage:" in line for line in help_text), result.stderr
    assert ast.literal_eval(loaded) == []
