"""The results table: rows that can be checked, since each keeps its weights.

`rows` reads and writes them, `record` makes one from a trained run, `table` writes RESULTS.md from all of them. A test
loads every row's weights and evaluates them again.
"""
