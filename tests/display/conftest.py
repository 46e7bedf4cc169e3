"""Figures of a test end with it."""

import sys

import pytest


@pytest.fixture(autouse=True)
def _figures_are_closed():
    """Those of pyplot: they would stay in memory, and beyond twenty it warns."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
