"""A session and a file by asyncssh: ``ssh_client.py HOST PORT KEY KNOWN_HOSTS``."""

from __future__ import annotations

import asyncio
import sys

import asyncssh

BODY = bytes(range(256)) * 4096


async def main(host: str, port: str, key: str, known_hosts: str) -> None:
    async with asyncssh.connect(
        host, int(port), username="guest", client_keys=[key], known_hosts=known_hosts, config=None
    ) as connection:
        result = await connection.run("shout", input="one\ntwo\n", check=False)
        assert isinstance(result.stdout, str)
        print(f"{' '.join(result.stdout.split())}, exit status {result.exit_status}")
        async with connection.start_sftp_client() as sftp:
            async with sftp.open("upload", "wb") as file:
                await file.write(BODY)
            async with sftp.open("upload", "rb") as file:
                body: str | bytes = await file.read()
        assert body == BODY
        print(f"{len(BODY)} bytes went by SFTP and came back")


asyncio.run(main(*sys.argv[1:]))
