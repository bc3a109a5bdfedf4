"""An SSH server by asyncssh: ``ssh_server.py HOST PORT KEY AUTHORIZED_KEYS SFTP_ROOT``.

A session answers lines in capitals; the files of a folder are served, too.
"""

from __future__ import annotations

import asyncio
import functools
import signal
import sys

import asyncssh


async def shout(process: asyncssh.SSHServerProcess[str]) -> None:
    user = process.get_extra_info("username")
    peer = process.get_extra_info("peername")[0]
    process.stdout.write(f"hello {user} from {peer}\n")
    async for line in process.stdin:
        process.stdout.write(line.upper())
    process.exit(7)


async def main(host: str, port: str, key: str, authorized_keys: str, root: str) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stopped.set)
    server = await asyncssh.listen(
        host,
        int(port),
        server_host_keys=[key],
        authorized_client_keys=authorized_keys,
        process_factory=shout,
        sftp_factory=functools.partial(asyncssh.SFTPServer, chroot=root.encode()),
    )
    async with server:
        print(f"Serving on {host}:{port}", flush=True)
        await stopped.wait()


asyncio.run(main(*sys.argv[1:]))
