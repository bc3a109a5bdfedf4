"""The client of `scenarios.tap`: ``client.py HOST PORT``, requests by stdin, seconds by stdout.

A request is a line of JSON; the answer is the seconds that one operation took.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time


def receive(connection: socket.socket, size: int) -> None:
    while size:
        data = connection.recv(size)
        if not data:
            raise ConnectionError("the server closed the connection")
        size -= len(data)


def exchange(connection: socket.socket, message: bytes) -> None:
    connection.sendall(message)
    receive(connection, len(message))


def connect(address: tuple[str, int]) -> socket.socket:
    connection = socket.create_connection(address, timeout=60)
    # A time-out would cost a poll before every call.
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def use_once(address: tuple[str, int], count: int, message: bytes) -> float:
    start = time.perf_counter()
    for _ in range(count):
        with connect(address) as connection:
            exchange(connection, message)
    return (time.perf_counter() - start) / count


def echo(address: tuple[str, int], messages: int, message: bytes, pairs: int) -> float:
    connections = [connect(address) for _ in range(pairs)]
    try:
        for connection in connections:
            exchange(connection, message)
        # One that is alone need not be waited for by a selector.
        run = exchange_all if pairs > 1 else exchange_one
        start = time.perf_counter()
        done = run(connections, messages // pairs, message)
        return (time.perf_counter() - start) / done
    finally:
        for connection in connections:
            connection.close()


def exchange_one(connections: list[socket.socket], each: int, message: bytes) -> int:
    for _ in range(each):
        exchange(connections[0], message)
    return each


def exchange_all(connections: list[socket.socket], each: int, message: bytes) -> int:
    selector = selectors.DefaultSelector()
    left = dict.fromkeys(connections, each)
    for connection in connections:
        selector.register(connection, selectors.EVENT_READ)
        connection.sendall(message)
    while left:
        for key, _ in selector.select(60):
            ready = key.fileobj
            assert isinstance(ready, socket.socket)
            receive(ready, len(message))
            left[ready] -= 1
            if left[ready]:
                ready.sendall(message)
            else:
                del left[ready]
    selector.close()
    return each * len(connections)


def main(host: str, port: str) -> None:
    address = (host, int(port))
    for line in sys.stdin:
        request = json.loads(line)
        message = bytes(request["size"])
        if request["do"] == "connect":
            seconds = use_once(address, request["count"], message)
        else:
            seconds = echo(address, request["messages"], message, request["pairs"])
        print(seconds, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
