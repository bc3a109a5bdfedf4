"""A soak of a client with faults, at each exchange: ``leaky_soak.py [FAULT ...]``."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

from soak import cell, services
from soak.services import Client, Ending, Service
from vpoll_asyncio import current_stack

kept: list[Any] = []
FAULTS: dict[str, Callable[[], object]] = {
    "object": lambda: kept.append(object()),
    "memory": lambda: kept.append(bytes(1 << 16)),
    "descriptor": lambda: kept.append(os.dup(0)),
    "socket": lambda: kept.append(current_stack().socket(socket.AF_INET, socket.SOCK_STREAM)),
    "task": lambda: kept.append(asyncio.create_task(asyncio.sleep(10))),
    "warning": lambda: logging.getLogger("server").warning("something is odd"),
}


def misbehaving(service: type[Service], faults: list[str]) -> type[Service]:
    class Leaky(service):  # type: ignore[misc, valid-type]
        def client(self, host: str) -> Client:
            client: Client = super().client(host)
            exchange = client.exchange

            async def leaking(body: bytes, ending: Ending) -> bytes | None:
                for fault in faults:
                    FAULTS[fault]()
                return await exchange(body, ending)

            client.exchange = leaking  # type: ignore[method-assign]
            return client

    return Leaky


if __name__ == "__main__":
    services.SERVICES["uvicorn"] = misbehaving(services.SERVICES["uvicorn"], sys.argv[1:])
    sys.exit(cell.main(["uvicorn", "asyncio", "memory", "--clients", "20", "--seconds", "0.3"]))
