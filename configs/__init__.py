"""Recipes: one module each, with a frozen dataclass `RECIPE` whose docstring gives paper, command, time and score.

`parts` has the pieces that recipes are composed of. Only `experiments` imports this package; the library never sees a
configuration.
"""
