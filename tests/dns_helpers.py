"""A small name server, on any stack or the kernel's sockets, and a zone for it."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from vpoll_asyncio.stacks import Stack, open_stack

SERVER = "10.0.0.53"
BACKUP = "10.0.0.54"
CLIENT = "10.0.0.1"

ZONE = """
www.lab.example A 10.0.0.80
www.lab.example AAAA fd00::80
four.lab.example A 10.0.0.4
six.lab.example AAAA fd00::6
alias.lab.example CNAME hop.lab.example
hop.lab.example CNAME www.lab.example
dangling.lab.example CNAME nowhere.lab.example
empty.lab.example TXT nothing
many.lab.example A 10.0.0.101 10.0.0.102 10.0.0.103
big.lab.example A {big}
other.example A 192.0.2.1
xn--bcher-kva.lab.example A 10.0.0.44
80.0.0.10.in-addr.arpa PTR www.lab.example
81.0.0.10.in-addr.arpa PTR one.lab.example two.lab.example
{six} PTR six.lab.example
9.0.0.10.in-addr.arpa PTR bad\\032name.lab.example
""".format(
    big=" ".join(f"10.1.0.{last}" for last in range(1, 101)),
    six="6" + ".0" * 29 + ".d.f.ip6.arpa",
)
"""Name, type and values of each record set."""

Records = dict[tuple[dns.name.Name, str], dns.rrset.RRset]
Hook = Callable[[dns.message.Message, bytes, bool], list[bytes] | None]


def read_zone(text: str) -> Records:
    """Return the record sets of a zone by name and type."""
    found: Records = {}
    for line in text.split("\n"):
        if line.strip():
            name, kind, *values = line.split()
            owner = dns.name.from_text(name)
            if kind in ("CNAME", "PTR"):
                values = [f"{value}." for value in values]
            found[owner, kind] = dns.rrset.from_text(owner, 60, "IN", kind, *values)
    return found


class NameServer:
    """Answers from a zone in threads of its own until closed.

    stack -- whose sockets it has
    address, port -- where it listens
    hook -- given (query, answer, over TCP), returns the datagrams to send instead, None
        for the answer itself

    `asked` has what it was asked: (name, type, "udp" or "tcp").
    """

    def __init__(
        self,
        stack: Stack,
        address: str,
        *,
        port: int = 53,
        zone: str = ZONE,
        hook: Hook | None = None,
    ) -> None:
        self.records = read_zone(zone)
        self.hook = hook
        self.asked: list[tuple[str, str, str]] = []
        self.ports: list[int] = []
        self.ids: list[int] = []
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._datagrams = stack.socket(family, socket.SOCK_DGRAM)
        self._listener = stack.socket(family, socket.SOCK_STREAM)
        self._datagrams.bind((address, port))
        self._listener.bind((address, port))
        self._listener.listen()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._guard, args=(loop,))
            for loop in (self._serve_datagrams, self._serve_streams)
        ]
        for thread in self._threads:
            thread.start()

    def _guard(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except OSError:
            if not self._closed:
                raise

    def _serve_datagrams(self) -> None:
        while True:
            wire, client = self._datagrams.recvfrom(65535)
            if self._closed:
                return
            self.ports.append(client[1])
            for answer in self._answers(wire, tcp=False):
                self._datagrams.sendto(answer, client)

    def _serve_streams(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                if self._closed:
                    return
                head = connection.recv(2, socket.MSG_WAITALL)
                wire = connection.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL)
                for answer in self._answers(wire, tcp=True):
                    connection.sendall(len(answer).to_bytes(2, "big") + answer)

    def _answers(self, wire: bytes, *, tcp: bool) -> list[bytes]:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append((str(question.name).rstrip("."), kind, "tcp" if tcp else "udp"))
        self.ids.append(query.id)
        answer = self._answer(query, question.name, kind)
        whole = answer.to_wire(max_size=65535)
        if not tcp and len(whole) > 512:
            answer.answer.clear()
            answer.flags |= dns.flags.TC
            whole = answer.to_wire()
        changed = self.hook(query, whole, tcp) if self.hook else None
        return [whole] if changed is None else changed

    def _answer(self, query: dns.message.Message, name: dns.name.Name, kind: str) -> Any:
        answer = dns.message.make_response(query, recursion_available=True)
        while (name, "CNAME") in self.records:
            alias = self.records[name, "CNAME"]
            answer.answer.append(alias)
            name = alias[0].target
        if (name, kind) in self.records:
            answer.answer.append(self.records[name, kind])
        elif not any(name == known for known, _ in self.records):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed = True
        for sock in (self._datagrams, self._listener):
            # The kernel's threads sleep on; those of user sockets are woken by `close`.
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join()


def with_rcode(code: str) -> Hook:
    """Return a hook that answers every question with `code`."""

    def hook(query: dns.message.Message, answer: bytes, tcp: bool) -> list[bytes]:
        response = dns.message.make_response(query)
        response.set_rcode(dns.rcode.from_text(code))
        return [response.to_wire()]

    return hook


def silent(query: dns.message.Message, answer: bytes, tcp: bool) -> list[bytes]:
    """A hook that never answers."""
    return []


_networks = itertools.count()


class Net:
    """A memory network with a name server, and a client that asks it."""

    def __init__(self) -> None:
        self.vnl = f"mem://names-{next(_networks)}"
        self._open = contextlib.ExitStack()
        self.infrastructure = self._open.enter_context(
            open_stack("memory", vnl=self.vnl, ip=[f"{SERVER}/24", f"{BACKUP}/24", "fd00::53/64"])
        )

    def serve(self, address: str = SERVER, hook: Hook | None = None, port: int = 53) -> NameServer:
        server = NameServer(self.infrastructure, address, port=port, hook=hook)
        return self._open.enter_context(server)

    def client(self, **options: Any) -> Stack:
        """Open a host; short time-outs, since what is lost here is lost on purpose."""
        settings = {
            "ip": [f"{CLIENT}/24", "fd00::1/64"],
            "dns": SERVER,
            "dns_options": "timeout:10",
            **options,
        }
        return self._open.enter_context(open_stack("memory", vnl=self.vnl, **settings))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.close()


@contextlib.contextmanager
def served(**options: Any) -> Iterator[tuple[NameServer, Stack]]:
    """Give a server of `ZONE` and a client of it."""
    with Net() as net:
        yield net.serve(), net.client(**options)
