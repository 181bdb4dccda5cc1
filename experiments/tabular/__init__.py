"""A prior-fitted classifier beside scikit-learn's, on real tables: `python -m experiments.tabular`."""
