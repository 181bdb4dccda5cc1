"""Recipes as the engine finds them: ours by name, a user's by path; what the files must hold."""

import ast

import pytest

from jmeta.runs import recipes

from .commands import MINE


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_says_what_it_reproduces(name):
    recipe = recipes.load(name)
    assert (recipe.name, recipe.path, recipe.as_argument()) == (name, None, name)
    for word in ("Paper:", f"Command:  jmeta train {name}", "Time:", "Expected:"):
        assert word in recipe.options.__doc__
    assert recipe.summary == recipes.summaries()[name]
    assert recipe.summary.endswith((".", ":"))


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_stands_by_itself(name):
    """It is copied and edited: it imports the library and what that is made of, and no other recipe."""
    tree = ast.parse((recipes.folder() / f"{name}.py").read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {module.partition(".")[0] for module in modules} <= {"dataclasses", "typing", "jax", "optax", "jmeta"}
    assert ast.unparse(tree.body[-1]) == "if __name__ == '__main__':\n    runs.main(build, Options)"


def test_ours_are_found_by_name_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE.read_text())
    for name in (
        "mine",
        "mine.py",
        "./mine.py",
        str(tmp_path / "mine.py"),
        "../configs/blobs_protonet",
        "__init__",
        "",
    ):
        with pytest.raises(ValueError, match="there is no recipe"):
            recipes.ours(name)


def test_a_file_is_run_once_and_a_file_of_the_same_name_is_another(tmp_path):
    for i in (1, 2):
        (tmp_path / f"{i}").mkdir()
        (tmp_path / f"{i}" / "mine.py").write_text(MINE.read_text().replace("= 0.01", f"= {i}.0"))
    first, again, other = (recipes.load(str(tmp_path / i / "mine.py")) for i in ("1", "1", "2"))
    assert first == again
    assert (first.options().inner_lr, other.options().inner_lr) == (1.0, 2.0)
    assert (first.name, first.path, first.as_argument()) == (
        "mine",
        tmp_path / "1" / "mine.py",
        str(tmp_path / "1" / "mine.py"),
    )


def test_a_name_that_is_nearly_one_is_suggested():
    with pytest.raises(ValueError, match="there is no recipe 'glyph_maml'; did you mean glyphs_maml"):
        recipes.load("glyph_maml")
    with pytest.raises(ValueError, match="there is no recipe 'zzz'; `jmeta recipes` lists those there are"):
        recipes.load("zzz")
    with pytest.raises(ValueError, match="expected the path of a Python file"):
        recipes.in_file("glyphs_maml")
