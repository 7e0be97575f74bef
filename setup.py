"""Lists the packages; everything else is in pyproject.toml.

`applications/` is shipped as `keras_dblocks.applications`. pyproject.toml can
map the folder but not find the packages inside a mapped one.
"""

from setuptools import find_packages, setup

method = find_packages(include=["keras_dblocks", "keras_dblocks.*"])
applications = find_packages(include=["applications", "applications.*"])

setup(packages=method + [f"keras_dblocks.{name}" for name in applications])
