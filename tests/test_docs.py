"""Documentation that runs: the examples of every docstring, and every Python block of the README and of docs/."""

import doctest
import importlib
import inspect
import pathlib
import pkgutil
import re

import pytest

import jmeta

ROOT = pathlib.Path(__file__).parents[1]
MODULES = ["jmeta", *sorted(module.name for module in pkgutil.walk_packages(jmeta.__path__, "jmeta."))]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{i}")
    for page in PAGES
    for i, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_of_the_documentation_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "documentation", "exec"), {})


@pytest.mark.parametrize("name", MODULES)
def test_every_module_and_every_public_function_says_what_it_is(name):
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    for public, member in vars(module).items():
        is_ours = getattr(member, "__module__", None) == name and (
            inspect.isfunction(member) or inspect.isclass(member)
        )
        if is_ours and not public.startswith("_"):
            assert inspect.getdoc(member), f"{name}.{public} has no docstring"


def test_there_are_examples_to_run():
    assert len(BLOCKS) >= 2
    finder = doctest.DocTestFinder()
    examples = sum(len(test.examples) for name in MODULES for test in finder.find(importlib.import_module(name)))
    assert examples > 100
