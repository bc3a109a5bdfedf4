"""What IPv6 routers advertise, for stacks of this process: RFC 4861, 4862 and 8106.

`Routers` has no socket and no clock: it is given the time and what has arrived, and says
which routers, name servers and domains there are.
"""

from .advertisement import Advertisement, Prefix, Told, read_advertisement
from .routers import Router, Routers

__all__ = ["Advertisement", "Prefix", "Router", "Routers", "Told", "read_advertisement"]
