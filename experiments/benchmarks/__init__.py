"""Measurements that choices rest on. Each script prints what it measured, on what, and how to read it."""
