"""CPython's own suite of asyncio as this machine runs it, and where it may fail.

``programs/cpython_asyncio.py`` is what runs each module.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from cpython_suite import Except, allowed, run_cases

__all__ = ["EXCEPTIONS", "SETTINGS", "Setting", "exceptions_for", "run_suite"]

_ASYNCIO_ON_KERNEL: Final = (
    "test_events",
    "test_sock_lowlevel",
    "test_streams",
    "test_server",
    "test_sendfile",
    "test_buffered_proto",
    "test_ssl",
    "test_sslproto",
    "test_subprocess",
    "test_unix_events",
)
# uvloop has no sendfile and a TLS and a Server of its own, which test_sslproto and
# test_server look into; test_unix_events replaces parts of asyncio's loop by mocks.
_UVLOOP_ON_KERNEL: Final = (
    "test_events",
    "test_sock_lowlevel",
    "test_streams",
    "test_buffered_proto",
    "test_ssl",
    "test_subprocess",
)
# test_subprocess and test_unix_events have no sockets of the Internet.
_ON_MEMORY: Final = _ASYNCIO_ON_KERNEL[:-2]


class Setting(NamedTuple):
    """A module of the suite, and what it runs on."""

    loop: str
    network: str
    module: str

    def __str__(self) -> str:
        return f"{self.loop}-{self.network}-{self.module}"


SETTINGS: Final = [
    *(Setting("asyncio", "kernel", module) for module in _ASYNCIO_ON_KERNEL),
    *(Setting("uvloop", "kernel", module) for module in _UVLOOP_ON_KERNEL),
    *(Setting("asyncio", "memory", module) for module in _ON_MEMORY),
    *(Setting("uvloop", "memory", module) for module in _ON_MEMORY),
]


EXCEPTIONS: Final = [
    # What says nothing about our loops.
    Except(
        "*-test_events",
        "SelectEventLoopTests.* PollEventLoopTests.*",
        "the same cases again, over another selector of which our loops have one",
        runs=False,
    ),
    Except(
        "*-test_sock_lowlevel",
        "SelectEventLoopTests.* PollEventLoopTests.*",
        "as in test_events",
        runs=False,
    ),
    Except(
        "*-test_sendfile",
        "SelectEventLoopTests.* PollEventLoopTests.*",
        "as in test_events",
        runs=False,
    ),
    Except(
        "asyncio-kernel-test_subprocess",
        "SubprocessFastWatcherTests.*",
        "the cases of SubprocessSafeWatcherTests again, whose watcher uses the loop alike",
        runs=False,
    ),
    Except(
        "uvloop-kernel-test_subprocess",
        "SubprocessFastWatcherTests.* SubprocessPidfdWatcherTests.* SubprocessSafeWatcherTests.* "
        "GenericWatcherTests.*",
        "libuv waits for children itself, whatever the watcher",
        runs=False,
    ),
    *(
        Except(
            where,
            "HandleTests.* TimerTests.* AbstractEventLoopTests.* TestAbstractServer.* "
            "PolicyTests.* TestCGetEventLoop.* TestPyGetEventLoop.*",
            "asyncio's own classes, with mocks or without a loop",
            runs=False,
        )
        for where in ("uvloop-*-test_events", "asyncio-memory-test_events")
    ),
    Except(
        "asyncio-kernel-test_events",
        "Test?*GetEventLoop.test_get_event_loop_new_process",
        "a process of its own, which has a stock loop",
        runs=False,
    ),
    # uvloop itself differs, on the kernel's sockets and without us.
    Except(
        "uvloop-*-test_events",
        "EPollEventLoopTests.test_add_signal_handler EPollEventLoopTests.test_bidirectional_pty",
        "uvloop hears signals and reads terminals otherwise: both wait for half a minute",
        runs=False,
    ),
    Except(
        "uvloop-*-test_events",
        "EPollEventLoopTests.test_subprocess_shell",
        "uvloop may report the end of a child before that of its pipes",
        runs=False,
    ),
    Except(
        "uvloop-*-test_events",
        "EPollEventLoopTests.test_prompt_cancellation EPollEventLoopTests.test_timeout_rounding "
        "EPollEventLoopTests.test_internal_fds",
        "looks into private fields of asyncio's loop",
    ),
    Except(
        "uvloop-*-test_events",
        "EPollEventLoopTests.test_create_unix_connection "
        "EPollEventLoopTests.test_create_ssl_unix_connection",
        "uvloop's transports are no asyncio.Transport",
    ),
    Except(
        "uvloop-*-test_events",
        "EPollEventLoopTests.test_run_until_complete_nesting "
        "EPollEventLoopTests.test_subprocess_shell_invalid_args "
        "EPollEventLoopTests.test_unclosed_pipe_transport "
        "EPollEventLoopTests.test_writer_callback",
        "uvloop's exceptions, warnings, messages and results of remove_writer",
    ),
    Except(
        "uvloop-kernel-test_events",
        "EPollEventLoopTests.test_create_connection EPollEventLoopTests.test_create_ssl_connection "
        "EPollEventLoopTests.test_create_datagram_endpoint*",
        "uvloop's transports are no asyncio.Transport",
    ),
    Except(
        "uvloop-memory-test_server",
        "SelectorStartServerTests.test_start_unix_server_1",
        "a closed server of uvloop has a list of sockets, not a tuple",
    ),
    Except(
        "uvloop-kernel-test_events",
        "EPollEventLoopTests.test_create_connection_local_addr_in_use",
        "uvloop's message does not name the address",
    ),
    Except(
        "uvloop-kernel-test_events",
        "EPollEventLoopTests.test_create_server_trsock",
        "uvloop has a stand-in for sockets of its own",
        since=(3, 12),
    ),
    Except(
        "uvloop-kernel-test_sock_lowlevel",
        "EPollEventLoopTests.test_create_connection_sock",
        "uvloop's transports are no asyncio.Transport",
    ),
    Except(
        "uvloop-kernel-test_sock_lowlevel",
        "EPollEventLoopTests.test_recvfrom EPollEventLoopTests.test_recvfrom_into "
        "EPollEventLoopTests.test_sendto_blocking",
        "uvloop does not implement sock_recvfrom and its like",
    ),
    Except(
        "uvloop-kernel-test_sock_lowlevel",
        "EPollEventLoopTests.test_sock_client_racing",
        "uvloop refuses to receive from a socket twice at a time, and the case waits for ever",
        runs=False,
    ),
    Except(
        "uvloop-kernel-test_ssl",
        "TestSSL.test_flush_before_shutdown TestSSL.test_remote_shutdown_receives_trailing_data "
        "TestSSL.test_shutdown_timeout_handler_not_set",
        "uvloop's TLS shuts down otherwise: they wait for half a minute",
        runs=False,
    ),
    Except(
        "uvloop-kernel-test_subprocess",
        "SubprocessThreadedWatcherTests.test_close_*ill_* "
        "SubprocessThreadedWatcherTests.test_pause_reading "
        "SubprocessThreadedWatcherTests.test_popen_error*",
        "puts mocks in the place of subprocess.Popen and of private methods",
    ),
    Except(
        "uvloop-kernel-test_subprocess",
        "SubprocessThreadedWatcherTests.test_devstdin_input",
        "libuv gives children a socket as standard input, which /dev/stdin cannot open",
    ),
    # Mocks.
    *(
        Except(
            where,
            "EPollEventLoopTests.test_create_server_multiple_hosts_ipv?",
            "puts a mock in the place of asyncio.base_events.socket",
        )
        for where in ("uvloop-kernel-test_events", "*-memory-test_events")
    ),
    Except(
        "*-memory-test_sock_lowlevel",
        "EPollEventLoopTests.test_sendto_blocking",
        "a mock of a socket is none of ours, though it passes for one",
    ),
    Except(
        "*-memory-test_sock_lowlevel",
        "EPollEventLoopTests.test_sock_client_connect_racing",
        "the refusal comes at once, before the case cancels the attempt; it skips itself then",
    ),
    Except(
        "*-memory-test_server",
        "SelectorStartServerTests.test_start_server_1",
        "looks into private fields of asyncio.Server in its last lines",
    ),
    Except(
        "*-memory-test_server",
        "TestServer2.test_wait_closed_basic TestServer2.test_wait_closed_race",
        "calls private methods of asyncio.Server",
        since=(3, 12),
        before=(3, 13),
    ),
    Except(
        "uvloop-memory-test_sendfile",
        "EPollEventLoopTests.test_sendfile_no_fallback_for_fallback_transport",
        "a mock of a transport is none of ours, and uvloop has no sendfile",
    ),
    Except(
        "uvloop-memory-test_events",
        "EPollEventLoopTests.test_create_ssl_connection",
        "asks a TLS transport for its address after the peer's thread may have closed it: "
        "run_until_complete of uvloop returns turns later than the task does",
        runs=False,
    ),
    # User sockets: docs/reference/asyncio-differences.md.
    Except(
        "*-memory-test_events",
        "EPollEventLoopTests.test_datagram_send_to_non_listening_address",
        "a datagram to the same loop comes before a task that starts later: it waits ten seconds",
        runs=False,
        since=(3, 13),
    ),
]


def exceptions_for(setting: Setting) -> list[Except]:
    """Return the exceptions for `setting` on this Python."""
    return allowed(EXCEPTIONS, str(setting))


def run_suite(setting: Setting, *, isolated: bool = False) -> list[dict[str, Any]]:
    """Run `setting`; see `run_cases`."""
    return run_cases("cpython_asyncio.py", setting, exceptions_for(setting), isolated=isolated)
