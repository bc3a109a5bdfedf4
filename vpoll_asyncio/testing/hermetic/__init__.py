"""Networks for tests that never leave the process.

`network` is the class `Network`, `isolation` what holds in the process meanwhile: which
stack is the default (`refusal`), what becomes of the kernel's sockets (`kernelguard`) and
of event loops that know nothing of stacks (`stockloops`).
"""

from __future__ import annotations

from .isolation import isolated
from .network import Network
from .refusal import RefusingStack

__all__ = ["Network", "RefusingStack", "isolated"]
