"""What the package needs to be imported at all, checked before anything that lacks would show.

pip checks the version of Python, a source tree on ``sys.path`` does not.
"""

import sys

OLDEST = (3, 11)

if sys.platform != "linux":
    raise ImportError(
        f"vpoll_asyncio needs Linux, whose epoll it is built on; this is {sys.platform}: "
        "use a virtual machine or a container with Linux"
    )
if sys.version_info[:2] < OLDEST:
    raise ImportError(
        "vpoll_asyncio needs Python 3.11, 3.12 or 3.13; this is "
        + ".".join(map(str, sys.version_info[:2]))
        + ": use one of these, as in python3.11 -m venv"
    )
