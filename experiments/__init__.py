"""Scripts of this repository over `jmeta.runs`: quick start, rows of RESULTS.md, benchmarks, a long soak, attacks.

Run them from the repository's root as modules, such as `python -m experiments.benchmarks.report`. They are not
installed: use the command `jmeta` to train and evaluate.
"""
