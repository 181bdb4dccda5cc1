"""Measurements that choices rest on. Each script prints its numbers, the machine, and how to read them."""
