"""Prints the class of the event loop that each way to one comes to."""

from __future__ import annotations

import asyncio
import io
import sys
import unittest
from collections.abc import Callable
from typing import Any

Loop = asyncio.AbstractEventLoop


async def running() -> Loop:
    return asyncio.get_running_loop()


def closed(loop: Any) -> Loop:
    loop.close()
    return loop  # type: ignore[no-any-return]


def by_runner(factory: Any = None) -> Loop:
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(running())


def by_own_policy() -> Loop:
    class Policy(asyncio.DefaultEventLoopPolicy):
        def new_event_loop(self) -> Any:
            return asyncio.SelectorEventLoop()

    asyncio.set_event_loop_policy(Policy())
    return asyncio.run(running())


def by_default_policy() -> Loop:
    asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())
    return asyncio.run(running())


def by_getting() -> Loop:
    asyncio.set_event_loop(asyncio.new_event_loop())
    loop = asyncio.get_event_loop()
    loop.run_until_complete(running())
    return closed(loop)


def by_unittest() -> Loop:
    found: list[Loop] = []

    class Case(unittest.IsolatedAsyncioTestCase):
        async def runTest(self) -> None:
            found.append(await running())

    assert unittest.TextTestRunner(stream=io.StringIO()).run(Case()).wasSuccessful()
    return found[0]


def by_derived() -> Loop:
    class Own(asyncio.SelectorEventLoop):
        pass

    return closed(Own())


def uvloop() -> Any:
    import uvloop

    return uvloop


def by_uvloop_install() -> Loop:
    uvloop().install()
    return asyncio.run(running())


def by_uvloop_policy() -> Loop:
    asyncio.set_event_loop_policy(uvloop().EventLoopPolicy())
    return asyncio.run(running())


def by_anyio(**options: Any) -> Loop:
    import anyio

    return anyio.run(running, backend="asyncio", backend_options=options)


def by_uvicorn(choice: str) -> Loop:
    import uvicorn

    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    found: list[Loop] = []

    class Server(uvicorn.Server):
        async def serve(self, sockets: Any = None) -> None:
            found.append(await running())

    Server(uvicorn.Config(app, loop=choice, log_level="error")).run()
    return found[0]


WAYS: dict[str, Callable[[], Loop]] = {
    "asyncio.run": lambda: asyncio.run(running()),
    "Runner": by_runner,
    "new_event_loop": lambda: closed(asyncio.new_event_loop()),
    "get_event_loop": by_getting,
    "the policy's new_event_loop": lambda: closed(asyncio.get_event_loop_policy().new_event_loop()),
    "SelectorEventLoop": lambda: closed(asyncio.SelectorEventLoop()),
    "loop_factory=SelectorEventLoop": lambda: by_runner(asyncio.SelectorEventLoop),
    "loop_factory=new_event_loop": lambda: by_runner(asyncio.new_event_loop),
    "DefaultEventLoopPolicy": by_default_policy,
    "a policy of the program's": by_own_policy,
    "IsolatedAsyncioTestCase": by_unittest,
    "anyio": by_anyio,
    "uvicorn --loop asyncio": lambda: by_uvicorn("asyncio"),
    "a class of the program's": by_derived,
    "uvloop.run": lambda: uvloop().run(running()),
    "uvloop.install": by_uvloop_install,
    "uvloop.new_event_loop": lambda: closed(uvloop().new_event_loop()),
    "uvloop.EventLoopPolicy": by_uvloop_policy,
    "uvloop.Loop": lambda: closed(uvloop().Loop()),
    "loop_factory=uvloop.new_event_loop": lambda: by_runner(uvloop().new_event_loop),
    "anyio with uvloop": lambda: by_anyio(use_uvloop=True),
    "uvicorn --loop uvloop": lambda: by_uvicorn("uvloop"),
    "uvicorn --loop auto": lambda: by_uvicorn("auto"),
}
if sys.version_info >= (3, 12):
    WAYS["asyncio.run(loop_factory=)"] = lambda: asyncio.run(
        running(), loop_factory=asyncio.SelectorEventLoop
    )
if sys.version_info >= (3, 13):
    WAYS["EventLoop"] = lambda: closed(asyncio.EventLoop())

if __name__ == "__main__":
    for name in sys.argv[1:]:
        loop = WAYS[name]()
        # What one way has set is none of the next one's.
        asyncio.set_event_loop_policy(None)
        print(f"{name}: {type(loop).__name__}")
