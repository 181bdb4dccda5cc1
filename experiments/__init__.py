"""Scripts of this repository over `jmeta.runs`: a quick start, the rows of RESULTS.md, benchmarks, and a long soak.

Run them from the repository's root as modules, such as `python -m experiments.benchmarks.report`. They are not
installed: use the command `jmeta` to train and evaluate.
"""
