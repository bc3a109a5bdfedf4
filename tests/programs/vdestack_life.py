"""The life of two vdestacks of an ordinary user, told line by line.

vdestack_life.py LOCATOR [FOLDER]   FOLDER is where a vde_switch is to be started first
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import vpoll_asyncio as va
from vpoll_asyncio.stacks.vdestack import VdeStack
from vpoll_asyncio.testing.stack_suite import until

locator, *folder = sys.argv[1:]


@contextlib.contextmanager
def vde_switch(path: str) -> Iterator[None]:
    with subprocess.Popen(
        ["vde_switch", "-s", path],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as running:
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                while probe.connect_ex(f"{path}/ctl"):
                    assert running.poll() is None, "vde_switch ended"
            yield
        finally:
            running.kill()


async def talk(server: va.Stack, client: va.Stack) -> bytes:
    # How long a call takes on a busy machine is no matter of the test's.
    asyncio.get_running_loop().slow_callback_duration = 60

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        writer.close()
        await writer.wait_closed()

    async with await va.start_server(shout, "10.9.0.1", 80, stack=server):
        reader, writer = await va.open_connection("10.9.0.1", 80, stack=client)
        writer.write(b"hello\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer


def opened(number: int) -> VdeStack:
    stack = va.open_stack("vdestack", vnl=locator, ip=f"10.9.0.{number}/24")
    assert isinstance(stack, VdeStack)
    return stack


with contextlib.ExitStack() as held:
    for path in folder:
        held.enter_context(vde_switch(path))
    with opened(1) as server, opened(2) as client:
        print("answer", asyncio.run(talk(server, client)).decode().strip())
        helpers = [server.helper, client.helper]
        owners = {os.stat(f"/proc/{helper}").st_uid for helper in helpers}
        print("helpers of", *owners)
        print("myself", os.geteuid())
    until(lambda: not any(os.path.exists(f"/proc/{helper}") for helper in helpers))
    print("gone")
