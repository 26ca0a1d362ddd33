"""The project of small stages, for all tests of this folder."""

from project import project

__all__ = ["project"]
