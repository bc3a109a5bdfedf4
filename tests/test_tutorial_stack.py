"""The stack that docs/tutorials/write-a-stack.md writes is the one beside it, and it runs."""

from __future__ import annotations

import ast
import asyncio

import pytest
from hypothesis import given, settings
from serial_stack import Line, SerialSocket, SerialStack

import vpoll_asyncio as va
from doc_blocks import blocks_of
from processes import ROOT
from vpoll_asyncio.stacks.streams import StreamSocket
from vpoll_asyncio.testing import Hosts, SocketStep, compare, socket_programs

TUTORIALS = ROOT / "docs" / "tutorials"


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("name", ["serial_stack.py", "test_serial_stack.py"])
def test_the_page_s_blocks_are_the_file(name: str) -> None:
    parts = [
        block.code
        for block in blocks_of(TUTORIALS / "write-a-stack.md")
        if block.directives.get("file") == name
    ]
    assert lines("".join(parts)) == lines((TUTORIALS / name).read_text())


def of_docstrings(text: str) -> set[int]:
    """The numbers of the lines that docstrings take."""
    numbers: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            numbers |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return numbers


def test_the_page_says_how_long_it_is() -> None:
    text = (TUTORIALS / "serial_stack.py").read_text()
    numbered = enumerate(text.splitlines(), 1)
    count = sum(
        bool(line.strip()) for number, line in numbered if number not in of_docstrings(text)
    )
    assert f"The stack has {count} lines" in (TUTORIALS / "write-a-stack.md").read_text()


@settings(max_examples=100, deadline=None)
@given(socket_programs())
def test_its_mask_is_the_one_that_the_library_has(program: list[SocketStep]) -> None:
    def mask(sock: SerialSocket) -> int:
        assert own(sock) == StreamSocket.mask(sock)
        return own(sock)

    own = SerialSocket.mask
    line = Line()
    with (
        pytest.MonkeyPatch.context() as patch,
        SerialStack(line, 0) as near,
        SerialStack(line, 1) as far,
    ):
        patch.setattr(SerialSocket, "mask", mask)
        compare(Hosts(near, far, "10.0.0.1", "10.0.0.2"), program, bound=0.1)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.needs("uvloop")
def test_an_asyncio_program_runs_on_it(loop: str) -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        writer.close()

    line = Line()
    with SerialStack(line, 0) as near, SerialStack(line, 1) as far:

        async def main() -> bytes:
            async with await va.start_server(shout, "10.0.0.2", 7, stack=far):
                reader, writer = await asyncio.open_connection("10.0.0.2", 7)
                writer.write(b"hello\n")
                answer = await reader.read()
                writer.close()
                return answer

        assert va.run(main(), loop=loop, stack=near) == b"HELLO\n"


def test_a_stack_that_is_closed_resets_its_connections() -> None:
    line = Line()
    with SerialStack(line, 0) as near, SerialStack(line, 1) as far:
        with far.socket() as listener, near.socket() as client:
            listener.listen()
            client.connect(("10.0.0.2", listener.getsockname()[1]))
            server, _ = listener.accept()
            far.close()
            with server, pytest.raises(ConnectionResetError):
                client.recv(1)
