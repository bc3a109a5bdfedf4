"""What a test may need of the machine: one check a name, for ``@pytest.mark.needs(...)``.

A check returns None where the thing is there, else the reason why not, with the
Debian package that would bring it.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

Check = Callable[[], str | None]

STOCK_KERNELS_LACK = frozenset({"dev_vpoll", "efd_vpoll"}) - frozenset(
    os.environ.get("VPOLL_TEST_PRESENT", "").split(",")
)
"""Names that are legitimately missing everywhere but on a kernel made for them.

Such a kernel's tests say in ``VPOLL_TEST_PRESENT`` what must be there (tests/kernel).
"""

_TAP_PROBE = """
import fcntl, os, struct
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", b"probe0", 0x1002))  # TUNSETIFF, TAP|NO_PI
"""


def _runs(*command: str) -> str | None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]}: {error}"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return f"{' '.join(command[:2])}: {lines[-1]}"


def _cpython_tests() -> str | None:
    if importlib.util.find_spec("test") and importlib.util.find_spec("test.test_selectors"):
        return None
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return f"no test.test_selectors (Debian package libpython{version}-testsuite)"


def _command(name: str, package: str) -> Check:
    def check() -> str | None:
        return None if shutil.which(name) else f"no command {name} (Debian package {package})"

    return check


def _module(name: str) -> Check:
    def check() -> str | None:
        return None if importlib.util.find_spec(name) else f"no Python package {name}"

    return check


def _root() -> str | None:
    return None if os.geteuid() == 0 else "needs root"


def _netns() -> str | None:
    return _runs("unshare", "-n", "true") and _runs("unshare", "-U", "-r", "-n", "true")


def _userns() -> str | None:
    return _runs("unshare", "-U", "-r", "true")


def _sandbox() -> str | None:
    return _runs("unshare", "-U", "-r", "-n", "-p", "-f", "--mount-proc", "true")


def _tap() -> str | None:
    return _root() or _runs("unshare", "-n", sys.executable, "-c", _TAP_PROBE)


def _vde() -> str | None:
    try:
        ctypes.CDLL("libvdeplug.so.2")
    except OSError as error:
        return f"{error} (Debian package libvdeplug2)"
    return None


def _libvpoll() -> str | None:
    try:
        ctypes.CDLL("libvpoll.so.0")
    except OSError as error:
        return f"{error} (Debian package libvpoll0)"
    return None


def _plugin(scheme: str) -> Check:
    def check() -> str | None:
        if reason := _vde():
            return reason
        maps = Path("/proc/self/maps").read_text().splitlines()
        homes = {Path(line.split()[-1]).parent for line in maps if "/libvdeplug.so" in line}
        folders = [home / "vdeplug" for home in homes]
        folders += [Path(part) for part in os.environ.get("VDEPLUGIN_PATH", "").split(":") if part]
        if any((folder / f"libvdeplug_{scheme}.so").exists() for folder in folders):
            return None
        return f"no libvdeplug_{scheme}.so (Debian package libvdeplug-{scheme})"

    return check


def _lwip() -> str | None:
    try:
        stacks = importlib.import_module("vpoll_asyncio.stacks")
        for stack in stacks.available():
            if stack.name == "lwip":
                return None if stack.available else str(stack.why)
    except Exception as error:
        return f"the lwip stack does not load: {error!r}"
    return "vpoll_asyncio.stacks.available() does not name lwip"


def _vdestack() -> str | None:
    stacks = importlib.import_module("vpoll_asyncio.stacks")
    return next((s.why for s in stacks.available() if s.name == "vdestack" and s.why), None)


def _ordinary_user() -> str | None:
    import ordinary_user

    return ordinary_user.missing()


def postgresql_programs() -> Path | None:
    """The folder of initdb and postgres, of the newest version that is there."""
    found = [Path(path).parent for path in [shutil.which("initdb")] if path]
    debian = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    found += sorted((path.parent for path in debian), key=lambda path: int(path.parent.name))
    return found[-1] if found else None


def _postgresql() -> str | None:
    if postgresql_programs() is None:
        return "no command initdb (Debian package postgresql)"
    return None


def _fuse() -> str | None:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse: {error.strerror}"
    return _runs("unshare", "-m", "true") and _runs("unshare", "-U", "-r", "-m", "true")


def _dev_vpoll() -> str | None:
    try:
        os.close(os.open("/dev/vpoll", os.O_RDWR))
    except OSError as error:
        return f"/dev/vpoll: {error.strerror} (Debian package vpoll-dkms)"
    return None


def _efd_vpoll() -> str | None:
    try:
        os.close(os.eventfd(0, 2))
    except OSError as error:
        return f"eventfd2(EFD_VPOLL): {error.strerror}: this kernel has no EFD_VPOLL"
    return None


CHECKS: dict[str, Check] = {
    "aiohttp": _module("aiohttp"),
    "aiosmtpd": _module("aiosmtpd"),
    "async_timeout": _module("async_timeout"),
    "asyncpg": _module("asyncpg"),
    "asyncssh": _module("asyncssh"),
    "cc": _command("cc", "gcc"),
    "cpython_tests": _cpython_tests,
    "curl": _command("curl", "curl"),
    "dev_vpoll": _dev_vpoll,
    "dnsmasq": _command("dnsmasq", "dnsmasq-base"),
    "dnspython": _module("dns"),
    "dpkt": _module("dpkt"),
    "efd_vpoll": _efd_vpoll,
    "fuse": _fuse,
    "httpx": _module("httpx"),
    "icmplib": _module("icmplib"),
    "ip": _command("ip", "iproute2"),
    "libvpoll": _libvpoll,
    "lwip": _lwip,
    "netns": _netns,
    "openssl": _command("openssl", "openssl"),
    "ordinary_user": _ordinary_user,
    "ping": _command("ping", "iputils-ping"),
    "postgresql": _postgresql,
    "pytest_asyncio": _module("pytest_asyncio"),
    "pytest_mock": _module("pytest_mock"),
    "requests": _module("requests"),
    "root": _root,
    "sandbox": _sandbox,
    "siosocks": _module("siosocks"),
    "slirp": _plugin("slirp"),
    "tap": _tap,
    "trustme": _module("trustme"),
    "tshark": _command("tshark", "tshark"),
    "userns": _userns,
    "uvicorn": _module("uvicorn"),
    "uvloop": _module("uvloop"),
    "vde": _vde,
    "vde_agno": _plugin("agno"),
    "vde_pcap": _plugin("pcap"),
    "vde_plug": _command("vde_plug", "vdeplug"),
    "vde_vdesl": _plugin("vdesl"),
    "vde_vlan": _plugin("vlan"),
    "vdestack": _vdestack,
    "vde_switch": _command("vde_switch", "vde2"),
    "websockets": _module("websockets"),
}


@functools.cache
def missing(name: str) -> str | None:
    """Return why this machine lacks `name`, or None where it is there.

    Raises KeyError for a name that has no check.
    """
    return CHECKS[name]()
