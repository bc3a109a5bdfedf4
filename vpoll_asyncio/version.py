"""The package's version: the one place that holds it."""

__all__ = ["__version__"]

__version__ = "0.1.0.dev0"
