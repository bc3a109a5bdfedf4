"""Names of a stack: a stub resolver over the stack's own sockets, and what it needs.

It is one piece of code for threads and for loops: `waits` has the two ways to wait,
`exchange` moves messages, `messages` makes and reads them with dnspython, `resolver`
decides whom to ask for what, `config` and `order` are resolv.conf(5) and RFC 6724.
"""

from __future__ import annotations

from .addresses import Addresses
from .config import ResolvConf
from .resolver import Resolver

__all__ = ["Addresses", "ResolvConf", "Resolver"]
