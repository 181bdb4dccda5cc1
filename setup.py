"""The packages of the wheel: `jmeta`, and as `jmeta.recipes` the files of `configs/`; the rest is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["jmeta", "jmeta.*"]), "jmeta.recipes"], package_dir={"jmeta.recipes": "configs"}
)
