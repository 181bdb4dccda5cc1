"""Seeded random attacks on what users hand to jmeta, and kills of its runs: `python -m experiments.attack`."""
