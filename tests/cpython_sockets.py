"""CPython's own suites of sockets and of what is built on them, and where they may fail.

``programs/cpython_sockets.py`` is what runs each module.
"""

from __future__ import annotations

from typing import Any, Final

from cpython_suite import Except, allowed, run_cases

__all__ = ["EXCEPTIONS", "MODULES", "exceptions_for", "run_suite"]

MODULES: Final = (
    "test_socket",
    "test_ssl",
    "test_epoll",
    "test_socketserver",
    "test_ftplib",
    "test_smtplib",
    "test_poplib",
    "test_imaplib",
    "test_httplib",
    "test_httpservers",
    "test_urllib2_localnet",
    "test_xmlrpc",
)


_DETACH: Final = "detaches a socket, which a user socket refuses"
_SIGNALS: Final = "looks at the descriptor, which only signals events"

EXCEPTIONS: Final = [
    Except(
        "test_socketserver",
        "SocketServerTest.test_ForkingTCPServer SocketServerTest.test_ForkingUDPServer",
        "a forked child has a memory network of its own, so that its answers do not come here: "
        "they wait for half a minute",
        runs=False,
    ),
    Except("test_httplib", "BasicTest.test_response_fileno", _DETACH),
    Except(
        "test_httplib",
        "HTTPSTest.test_networked*",
        "asks a host of the Internet",
        runs=False,
    ),
    Except(
        "test_ssl",
        "NetworkedTests.test_get_server_certificate_ipv6 NetworkedTests.test_timeout_connect_ex",
        "asks a host of the Internet",
        runs=False,
    ),
    Except(
        "test_ssl",
        "BasicSocketTests.test_cert_time_to_seconds_locale ThreadedTests.test_min_max_version_* "
        "ThreadedTests.test_protocol_*",
        "depends on the machine's locale, and on which old protocols its OpenSSL has",
        runs=False,
    ),
    Except(
        "test_ssl",
        "ThreadedTests.test_wrong_cert_tls13",
        "writes to a server that may have closed the connection with data unread by then: "
        "a reset, as over the kernel's",
        runs=False,
    ),
    Except(
        "test_socket",
        "BasicTCPTest*.testDetach GeneralModuleTests.test_socket_fileno "
        "GeneralModuleTests.test_unknown_socket_family_repr "
        "TestExceptions.test_setblocking_invalidfd",
        _DETACH,
    ),
    Except(
        "test_socket",
        "GeneralModuleTests.testCloseException GeneralModuleTests.test_socket_close "
        "GeneralModuleTests.test_repr GeneralModuleTests.test__sendfile_use_sendfile",
        _SIGNALS,
    ),
    Except(
        "test_socket",
        "InheritanceTest.test_get_inheritable_cloexec InheritanceTest.test_set_inheritable*",
        "a user socket does not survive exec(2)",
    ),
    Except(
        "test_socket",
        "GeneralModuleTests.testRefCountGetNameInfo",
        "looks at the inside of the socket module",
    ),
    Except(
        "test_socket",
        "PurePythonSocketPairTest.test_injected_authentication_failure",
        "looks at the inside of the socket module",
        since=(3, 13),
    ),
    Except(
        "test_socket",
        "SendfileUsingSendfileTest.testCount SendfileUsingSendfileTest.testCountSmall "
        "SendfileUsingSendfileTest.testCountWithOffset SendfileUsingSendfileTest.testOffset "
        "SendfileUsingSendfileTest.testRegularFile SendfileUsingSendfileTest.testWithTimeout "
        "SendfileUsingSendfileTest.testWithTimeoutTriggeredSend",
        "calls os.sendfile; socket.sendfile works",
    ),
    Except(
        "test_socket",
        "GeneralModuleTests.testHostnameRes GeneralModuleTests.test_host_resolution "
        "GeneralModuleTests.testSockName GeneralModuleTests.test_idna",
        "asks for the names of this machine and of others",
        runs=False,
    ),
    Except("test_socket", "*VSOCK*", "asks the machine that this one runs on", runs=False),
    Except(
        "test_socket",
        "*UDPLITE*",
        "the memory stack has no UDP-Lite",
        runs=False,
    ),
    Except(
        "test_socket",
        "*RFC3542Ancillary*",
        "user sockets carry no ancillary data",
        runs=False,
    ),
]


def exceptions_for(module: str) -> list[Except]:
    """Return the exceptions for `module` on this Python."""
    return allowed(EXCEPTIONS, module)


def run_suite(module: str) -> list[dict[str, Any]]:
    """Run `module` over a memory stack, where the kernel has no network; see `run_cases`."""
    return run_cases(
        "cpython_sockets.py", (module, "memory"), exceptions_for(module), isolated=True
    )
