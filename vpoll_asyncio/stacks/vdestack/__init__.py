"""The kernel's TCP/IP in a network namespace of its own, on a link."""

from .stack import VdeStack

__all__ = ["VdeStack"]
