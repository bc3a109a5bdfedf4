"""What is not installed or not allowed is named, with the package or the switch that helps.

Each test runs a process that really lacks the thing: without site-packages, without a PATH, or
in a mount namespace in which files are hidden.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lessons import Lesson
from needs import missing
from vpoll_asyncio import native
from vpoll_asyncio.hot.accelerator import CHOICE
from vpoll_asyncio.native import HELPERS

ROOT = Path(__file__).parent.parent

_ASK = """
import json, sys
try:
    exec(sys.argv[1])
except BaseException as error:
    print(json.dumps([type(error).__name__, getattr(error, "errno", None), str(error)]))
"""


def elsewhere(
    code: str, *before: str, options: tuple[str, ...] = (), **environment: str
) -> list[Any]:
    """Run `code` in a Python of its own; return the class, errno and text of its error."""
    done = subprocess.run(
        [*before, sys.executable, *options, "-c", _ASK, f"import vpoll_asyncio as va; {code}"],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout, done.stderr or "there was no error"
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def lacks(found: list[Any], lesson: Lesson) -> None:
    name, number, text = found
    assert (name, number) == (lesson.raised.__name__, lesson.number), text
    for part in lesson[2:]:
        assert part in text


NO_EXTRAS = ("-S",)
"""Python without its site-packages: nothing is installed but the tree itself."""

OPEN_LWIP = "va.open_stack('lwip', vnl='wire://x', ip='10.0.0.1/24')"
ABSENT = {
    "cffi": (OPEN_LWIP, OSError, errno.ENOSYS, "'lwip' is not available", "cffi", "[lwip]"),
    "dnspython": (
        "va.open_stack('memory', ip='10.0.0.1/24', dns='10.0.0.2')",
        OSError,
        errno.ENOPKG,
        "names are looked up with dnspython",
        "No module named 'dns'",
        "pip install 'vpoll-asyncio[dns]'",
    ),
    "uvloop": (
        "va.new_event_loop(loop='uvloop')",
        ImportError,
        None,
        "UvloopEventLoop",
        "needs uvloop",
        "pip install 'vpoll-asyncio[uvloop]'",
    ),
    "uvloop, asked for by run": (
        "va.run(None, loop='uvloop')",
        ImportError,
        None,
        "UvloopEventLoop",
        "needs uvloop",
        "pip install 'vpoll-asyncio[uvloop]'",
    ),
}


@pytest.mark.parametrize("package", ABSENT)
def test_a_python_package_that_is_missing_is_named_with_its_extra(package: str) -> None:
    code, *lesson = ABSENT[package]
    lacks(elsewhere(code, options=NO_EXTRAS), Lesson(*lesson))  # type: ignore[arg-type]


@pytest.mark.needs("lwip")
def test_without_dpkt_a_stack_that_asks_for_a_lease_says_so() -> None:
    hidden = "import sys; sys.modules['dpkt'] = None; "
    lacks(
        elsewhere(hidden + "va.open_stack('lwip', vnl='wire://x', dhcp=True)"),
        Lesson(
            OSError, errno.ENOPKG, "DHCP", "read with dpkt", "pip install 'vpoll-asyncio[dhcp]'"
        ),
    )


@pytest.mark.needs("lwip")
def test_without_a_compiler_the_debian_package_is_named(tmp_path: Path) -> None:
    lacks(
        elsewhere(OPEN_LWIP, PATH="/nonexistent", XDG_CACHE_HOME=str(tmp_path)),
        Lesson(
            OSError,
            errno.ENOSYS,
            "stack 'lwip' is not available",
            "there is no C compiler ('cc' not found)",
            "install the Debian package gcc",
        ),
    )


def hiding(*paths: Path) -> list[str]:
    """The beginning of a command that does not see `paths`: a mount namespace of its own."""
    covers = [
        f"mount -t tmpfs none '{path}'" if path.is_dir() else f"mount --bind /dev/null '{path}'"
        for path in paths
    ]
    user = [] if missing("root") is None else ["-U", "-r"]
    return ["unshare", "-m", *user, "sh", "-c", " && ".join([*covers, 'exec "$0" "$@"'])]


@pytest.mark.needs("lwip", "userns")
@pytest.mark.parametrize("what", ["library", "headers"])
def test_without_liblwip_the_debian_package_is_named(tmp_path: Path, what: str) -> None:
    if what == "library":
        library = native._build.find_library("lwip")
        assert library is not None
        paths, why = sorted({library, *library.parent.glob("liblwip.so*")}), "liblwip is not"
    else:
        paths, why = [Path("/usr/include", HELPERS["lwip"].include)], "the headers of liblwip"
    lacks(
        elsewhere(OPEN_LWIP, *hiding(*paths), XDG_CACHE_HOME=str(tmp_path)),
        Lesson(
            OSError,
            errno.ENOSYS,
            "stack 'lwip' is not available",
            why,
            "install the Debian package liblwip-dev",
        ),
    )


def mapped(library: str) -> Path:
    """The file that the dynamic linker takes for `library`."""
    ctypes.CDLL(library)
    for line in Path("/proc/self/maps").read_text().splitlines():
        if f"/{library.partition('.')[0]}.so" in line:
            return Path(line.split()[-1])
    raise AssertionError(f"{library} is not mapped")


@pytest.mark.needs("vde", "userns")
def test_without_libvdeplug_the_debian_package_is_named() -> None:
    lacks(
        elsewhere("va.open_link('slirp://')", *hiding(mapped("libvdeplug.so.2"))),
        Lesson(
            OSError,
            errno.ELIBACC,
            "libvdeplug.so.2 cannot be loaded",
            "libvdeplug.so.2:",
            "install the Debian package libvdeplug2",
        ),
    )


@pytest.mark.needs("slirp", "userns")
def test_without_the_plugin_of_a_scheme_its_debian_package_is_named() -> None:
    lacks(
        elsewhere(
            "va.open_link('slirp://')", *hiding(mapped("libvdeplug.so.2").with_name("vdeplug"))
        ),
        Lesson(
            OSError,
            errno.EPROTONOSUPPORT,
            "libvdeplug has no plugin",
            "for slirp://",
            "install the Debian package libvdeplug-slirp",
        ),
    )


def without(capability: str) -> tuple[str, ...]:
    """The beginning of a command whose root lacks `capability`."""
    return ("setpriv", f"--inh-caps=-{capability}", f"--bounding-set=-{capability}")


@pytest.mark.needs("root", "fuse")
def test_without_the_right_to_open_dev_fuse_the_backend_says_so() -> None:
    lacks(
        elsewhere(
            "va.VPoll(backend='fuse').fileno()", *unopenable("/dev/fuse"), *without("dac_override")
        ),
        Lesson(
            OSError,
            errno.ENOSYS,
            "vpoll backend 'fuse' is not available",
            "/dev/fuse: Permission denied",
            "this user the right to open its device",
        ),
    )


def unopenable(device: str) -> list[str]:
    """The beginning of a command that sees `device` without the right to open it."""
    steps = (
        "mount -t tmpfs none /mnt",
        "install -m 0 /dev/null /mnt/shut",
        f"mount --bind /mnt/shut {device}",
        'exec "$0" "$@"',
    )
    return ["unshare", "-m", "sh", "-c", " && ".join(steps)]


@pytest.mark.needs("root", "tap")
def test_without_the_right_to_make_an_interface_the_error_says_who_has_it() -> None:
    lacks(
        elsewhere("va.open_link('tap://teach0')", "unshare", "-n", *without("net_admin")),
        Lesson(
            PermissionError,
            errno.EPERM,
            "cannot attach to the TAP interface 'teach0'",
            "making an interface needs CAP_NET_ADMIN",
            "`ip tuntap add` for this user",
        ),
    )


@pytest.mark.needs("root", "tap")
def test_without_the_right_to_open_the_tun_device_the_error_says_what_to_change() -> None:
    lacks(
        elsewhere(
            "va.open_link('tap://teach0')", *unopenable("/dev/net/tun"), *without("dac_override")
        ),
        Lesson(
            PermissionError,
            errno.EACCES,
            "cannot open /dev/net/tun",
            "no permission for /dev/net/tun",
            "its mode must let this user write (chmod 666)",
        ),
    )


@pytest.mark.needs("vdestack", "userns")
def test_where_namespaces_are_forbidden_the_switch_is_named() -> None:
    forbidding = "echo 0 >/proc/sys/user/max_net_namespaces"
    lacks(
        elsewhere(
            "va.open_stack('vdestack', vnl='wire://x', ip='10.0.0.1/24')",
            *("unshare", "-U", "-r", "sh", "-c", f'{forbidding} && exec "$0" "$@"'),
        ),
        Lesson(
            OSError,
            errno.ENOSPC,
            "no network namespace",
            "unshare a network namespace: No space left on device",
            "see sysctl user.max_net_namespaces",
        ),
    )


ADVICE = re.compile(r"install |modprobe|chmod|Debian package|the right to|vpoll-asyncio build")


@pytest.mark.needs("lwip", "vde", "userns")
def test_info_says_what_to_install_for_each_thing_that_is_missing(tmp_path: Path) -> None:
    library = native._build.find_library("lwip")
    assert library is not None
    hidden = [library, mapped("libvdeplug.so.2"), Path("/dev/net")]
    done = subprocess.run(
        [
            *hiding(*(path for path in hidden if path.exists())),
            *("/usr/bin/env", "-u", CHOICE, "PATH=/nonexistent", sys.executable, *NO_EXTRAS),
            *("-m", "vpoll_asyncio", "info"),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    missing_here = dict(re.findall(r"^  (\S+) +no +(.*)", done.stdout, re.MULTILINE))
    assert {"lwip", "vdestack", "slirp", "tap", "hot", "dnspython", "dpkt", "uvloop"} <= set(
        missing_here
    )
    # Nothing that could be installed brings EFD_VPOLL.
    missing_here.pop("eventfd", None)
    assert not {name: why for name, why in missing_here.items() if not ADVICE.search(why)}


@pytest.mark.needs("lwip")
def test_a_stack_in_a_forked_child_says_whose_it_is() -> None:
    code = f"""
import os
stack = {OPEN_LWIP}
parent = os.getpid()
if os.fork():
    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
try:
    stack.socket()
except OSError as error:
    assert f"is in process {{parent}} alone, which has forked this one" in str(error)
    raise"""
    lacks(
        elsewhere("exec('''" + code + "''')"),
        Lesson(
            OSError, errno.ENETDOWN, "the lwip stack", "which has forked", "open another stack here"
        ),
    )


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ("sys.platform = 'darwin'", ["vpoll_asyncio needs Linux", "this is darwin", "machine"]),
        (
            "sys.version_info = (3, 10, 2)",
            ["vpoll_asyncio needs Python 3.11", "this is 3.10", "python3.11 -m"],
        ),
    ],
)
def test_an_import_where_it_cannot_work_says_what_it_needs(lie: str, said: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {lie}; import vpoll_asyncio"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ")
    for part in said:
        assert part in last
