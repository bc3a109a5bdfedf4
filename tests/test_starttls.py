"""Mail under TLS that begins in the middle of a connection: smtplib and aiosmtpd as they are."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import smtplib
import ssl
import threading
from collections.abc import Iterator

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session

import vpoll_asyncio as va
from blocking_helpers import client_context, server_context
from link_helpers import PATIENCE
from vpoll_asyncio.stacks import Stack
from vpoll_asyncio.stacks.host import host_stack

MAIL = "Subject: hello\r\n\r\n" + "a line of the letter\r\n" * 20_000


class Box:
    """Takes letters that came under TLS."""

    def __init__(self) -> None:
        self.letters: queue.Queue[str] = queue.Queue()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if session.ssl is None or not isinstance(envelope.content, bytes):
            return "554 This is not under TLS"
        self.letters.put(envelope.content.decode())
        return "250 OK"


@contextlib.contextmanager
def opened(name: str) -> Iterator[Stack]:
    if name == "host":
        yield host_stack()
    elif name == "memory":
        with va.open_stack("memory", ip="10.0.0.1/24") as stack:
            yield stack
    else:
        with va.open_stack("lwip", vnl="wire://starttls", ip="10.0.0.1/24", thread=True) as stack:
            yield stack


@contextlib.contextmanager
def mail_server(stack: Stack, loop: str, box: Box) -> Iterator[int]:
    """Serve in a thread with a loop of its own; give the port."""
    ports: queue.Queue[int] = queue.Queue()
    over = threading.Event()

    async def serve() -> None:
        def session() -> SMTP:
            return SMTP(box, tls_context=server_context(), require_starttls=True)

        server = await asyncio.get_running_loop().create_server(session, "127.0.0.1", 0)
        async with server:
            ports.put(server.sockets[0].getsockname()[1])
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=lambda: va.run(serve(), loop=loop, stack=stack))
    thread.start()
    try:
        yield ports.get(timeout=PATIENCE)
    finally:
        over.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.mark.needs("aiosmtpd")
@pytest.mark.parametrize(
    "loop", ["asyncio", pytest.param("uvloop", marks=pytest.mark.needs("uvloop"))]
)
@pytest.mark.parametrize(
    "name", ["host", "memory", pytest.param("lwip", marks=pytest.mark.needs("lwip"))]
)
def test_a_letter_goes_under_tls_that_smtplib_starts(name: str, loop: str) -> None:
    box = Box()
    with opened(name) as stack, mail_server(stack, loop, box) as port:
        with (
            va.install(),
            stack.activate(),
            smtplib.SMTP("localhost", port, timeout=PATIENCE) as client,
        ):
            assert isinstance(client.sock, va.UserSocket) is (name != "host")
            with pytest.raises(smtplib.SMTPSenderRefused, match="STARTTLS"):
                client.sendmail("me@localhost", ["you@localhost"], MAIL)
            client.starttls(context=client_context())
            assert isinstance(client.sock, ssl.SSLSocket)
            client.sendmail("me@localhost", ["you@localhost"], MAIL)
        assert box.letters.get(timeout=PATIENCE) == MAIL
