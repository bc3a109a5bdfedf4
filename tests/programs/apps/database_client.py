"""Queries, a transaction, COPY and LISTEN by asyncpg: ``database_client.py HOST PORT USER``."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import asyncpg


async def main(host: str, port: str, user: str) -> None:
    async with asyncpg.create_pool(
        host=host,
        port=int(port),
        user=user,
        database="postgres",
        min_size=3,
        max_size=3,
        timeout=100,
    ) as pool:
        async with pool.acquire() as connection:
            print((await connection.fetchval("SELECT version()")).split()[0])
            await connection.execute("DROP TABLE IF EXISTS numbers")
            await connection.execute("CREATE TABLE numbers (n int PRIMARY KEY, text text)")
            rows = [(n, "x" * 100) for n in range(10_000)]
            print(await connection.copy_records_to_table("numbers", records=rows))
            try:
                async with connection.transaction():
                    await connection.execute("DELETE FROM numbers")
                    await connection.execute("INSERT INTO numbers VALUES (1), (1)")
            except asyncpg.UniqueViolationError as error:
                print(type(error).__name__)
            total = 0
            async with connection.transaction():
                async for row in connection.cursor("SELECT n, text FROM numbers", prefetch=500):
                    total += row["n"]
            print(f"sum {total}")

        async def square(number: int) -> int:
            return int(await pool.fetchval("SELECT $1::int * $1::int", number))

        print(sum(await asyncio.gather(*map(square, range(30)))))

        heard: asyncio.Queue[str] = asyncio.Queue()

        def hear(connection: Any, pid: int, channel: str, payload: str) -> None:
            heard.put_nowait(payload)

        async with pool.acquire() as listener, pool.acquire() as speaker:
            await listener.add_listener("news", hear)
            await speaker.execute("SELECT pg_notify('news', 'heard')")
            print(await heard.get())
            await listener.remove_listener("news", hear)
            # Asks the server by a second connection to cancel the statement.
            try:
                await listener.execute("SELECT pg_sleep(1000)", timeout=0.2)
            except TimeoutError:
                print("cancelled", await listener.fetchval("SELECT 1"))


asyncio.run(main(*sys.argv[1:]))
