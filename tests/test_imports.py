"""The import direction: every module may import only what stands before it in the data flow."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
DATA_FLOW = [
    "types",
    "losses",
    "tasks",
    "environments",
    "accelerators",
    "models",
    "policies",
    "rollouts",
    "baselines",
    "adjoints",
    "adaptation",
    "working_set",
    "episodes",
    "sharding",
    "estimators",
    "learners",
    "policy_gradients",
    "training",
    "collecting",
    "trust_region",
    "planning",
    "leaks",
    "measuring",
    "evaluation",
    "checkpoints",
    "testing",
]


def modules():
    return sorted(path for path in (ROOT / "jmeta").rglob("*.py") if path != ROOT / "jmeta" / "__init__.py")


def part_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT / "jmeta").parts[0].removesuffix(".py")


def imported_parts(path: pathlib.Path) -> set[str]:
    """The top-level parts of jmeta that a file imports, at its top or inside a function."""
    package = path.relative_to(ROOT).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            names = [module] if module.startswith("jmeta.") else [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("jmeta.")}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_imports_against_the_data_flow(path):
    place = DATA_FLOW.index(part_of(path))
    against = {part for part in imported_parts(path) if DATA_FLOW.index(part) > place}
    assert not against, f"{path.name} imports {against}, which come after it"


def test_the_check_sees_imports():
    assert imported_parts(ROOT / "jmeta" / "learners" / "maml.py") >= {"adjoints", "adaptation", "types"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_library_never_sees_scripts_or_recipes(path):
    text = path.read_text()
    assert "import configs" not in text
    assert "from configs" not in text
    assert "experiments" not in {name for node in ast.walk(ast.parse(text)) for name in _roots(node)}


def _roots(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module.split(".")[0]]
    return []


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
