"""DHCP for stacks of this process: a client without sockets and clocks of its own.

`Client` is RFC 2131's state machine: it is given the time and what has arrived, and says
what to send and which lease is in force.
"""

from .client import Action, Bound, Client, Lost, Probe, Send, State
from .lease import Lease
from .messages import CLIENT_PORT, SERVER_PORT, require

__all__ = [
    "CLIENT_PORT",
    "SERVER_PORT",
    "Action",
    "Bound",
    "Client",
    "Lease",
    "Lost",
    "Probe",
    "Send",
    "State",
    "require",
]
