"""Recipes: a file each, with a dataclass `Options` and a function `build(options) -> jmeta.runs.Experiment`.

The docstring of `Options` gives paper, command, time and score. Each is run by `jmeta train NAME`, and read from top to
bottom: it imports the library and no other recipe. In the installed package they are `jmeta.recipes`.
"""
