"""Recipes, one file each: a dataclass `Options` and a function `build(options) -> jmeta.runs.Experiment`.

The docstring of `Options` gives paper, command, time and score. `jmeta train NAME` runs a recipe. A recipe is read from
top to bottom: it imports the library and no other recipe. In the installed package, recipes are in `jmeta.recipes`.
"""
