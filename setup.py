"""For tools that look for this file; what there is to say stands in pyproject.toml."""

from setuptools import setup

setup()
