"""For tools that still call setup.py; everything is said in pyproject.toml."""

import setuptools

setuptools.setup()
