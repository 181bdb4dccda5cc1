"""Domains: what one field needs beyond the core, such as its data, environments, protocols and baselines.

Domains never import each other. Each is imported by name: `from jmeta.domains import images, rl`.
"""
