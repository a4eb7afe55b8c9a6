from setuptools import setup  # what there is to say stands in pyproject.toml

setup()
