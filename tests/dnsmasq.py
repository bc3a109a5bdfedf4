"""dnsmasq in the network namespace of a `VdeStack`, where nothing but the stack's link leads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from processes import Command
from vpoll_asyncio.stacks.vdestack import VdeStack

ADDRESSES = ("10.9.0.53", "fd00::53")
"""Of the host that dnsmasq runs on, which is ``ns.lab.example``, and has a web server."""

BIG = [f"10.1.0.{last}" for last in range(1, 61)]
"""The addresses of ``big.lab.example``: more than a datagram of 512 bytes holds."""

RECORDS = (
    f"--host-record=ns.lab.example,{','.join(ADDRESSES)}",
    "--host-record=four.lab.example,10.9.0.4",
    "--host-record=six.lab.example,fd00::6",
    "--cname=hop.lab.example,ns.lab.example",
    "--cname=alias.lab.example,hop.lab.example",
    "--txt-record=empty.lab.example,nothing",
    *(f"--host-record=big.lab.example,{address}" for address in BIG),
    # Whatever else is asked for is not there: nobody is asked in turn.
    "--local=/lab.example/",
    "--local=/lab/",
    "--local=//",
    "--bogus-priv",
)


@contextlib.contextmanager
def dnsmasq(stack: VdeStack | None, *records: str) -> Iterator[Command]:
    """Run dnsmasq on every address of `stack`; its output names each question that it got.

    Without a stack it is on the host, and `records` say where.
    """
    # It ends with the tests, whatever their end is.
    enter = ["setpriv", "--pdeathsig", "KILL"]
    if stack is not None:
        enter += ["nsenter", "-t", str(stack.helper), "-n"]
        if os.geteuid():
            enter += ["-U", "--preserve-credentials"]
    # With -d it would serve one connection at a time, and one whose FIN is lost for ever.  Those
    # that serve the others end with it, as processes of a namespace of its own.
    enter += ["unshare", "--pid", "--fork", "--kill-child=KILL"]
    options = [
        *("-k", "--user=root", "--group=root", "--pid-file", "-C/dev/null", "-R", "-h", "-q"),
        *("--log-facility=-", "--cache-size=0"),
    ]
    with Command([*enter, "dnsmasq", *options, *records], merge=True) as server:
        while ": started, " not in server.wait_for(""):
            pass
        yield server


def asked(server: Command, name: str) -> list[str]:
    """Return what a server was asked that begins with `name`, ending with the A of `name` itself.

    It waits for that last question, as the server tells with a delay.
    """
    found: list[str] = []
    while found[-1:] != [f"A {name}"]:
        _, question, rest = server.wait_for("").partition(": query[")
        kind, _, names = rest.partition("] ")
        if question and names.startswith(name):
            found.append(f"{kind} {names.split()[0]}")
    return found
