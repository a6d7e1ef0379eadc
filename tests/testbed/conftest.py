"""The fixture `bed` for the tests of the bed itself."""

from tests.testbed.fixtures import bed

__all__ = ["bed"]
