"""Commands of a user without any privilege, on a machine as distributions set it up.

Root runs them as nobody, in a mount namespace that has /dev/net/tun with the mode of udev's
rules (0666) and a copy of the package and the interpreter where that user can read them,
wherever root keeps them.  Anybody else is such a user.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from processes import PROGRAMS, ROOT, SECONDS

NOBODY = 65534

# $0 is the user's folder, $1 the interpreter's, $2 its packages, then comes the command.
_ENTER = """
set -e
mount --bind "$1" "$0/python"
mount --bind "$2" "$0/packages"
mount -t tmpfs -o mode=755 tmpfs "$0/devices"
mknod -m 666 "$0/devices/tun" c 10 200
mount --bind "$0/devices/tun" /dev/net/tun
shift 2
exec setpriv --reuid NOBODY --regid NOBODY --clear-groups --inh-caps=-all --bounding-set=-all "$@"
""".replace("NOBODY", str(NOBODY))


def missing() -> str | None:
    """Return what keeps such a user from having network namespaces here, or None."""
    try:
        with ordinary_user() as run:
            done = run("-c", "import os; os.open('/dev/net/tun', os.O_RDWR)")
            if done.returncode == 0:
                done = run("-c", "import os; os.execlp('unshare', 'unshare', '-Urn', 'true')")
    except OSError as error:
        return str(error)
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


class Runner:
    """Runs Python as the user, with warnings as errors.

    `folder` is the user's to write, `programs` has those of tests/programs.
    """

    def __init__(self, folder: Path, prefix: list[str], python: str, path: list[Path]) -> None:
        self.folder = folder
        self.programs = path[0] / PROGRAMS.name
        self._command = [*prefix, python, "-X", "dev", "-W", "error"]
        self._environment = {
            "HOME": str(folder),
            "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
            "PYTHONPATH": os.pathsep.join(map(str, path)),
        }

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the interpreter with `arguments` to its end."""
        return subprocess.run(
            [*self._command, *arguments],
            cwd="/",
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )


@contextlib.contextmanager
def ordinary_user() -> Iterator[Runner]:
    """Give what runs Python as a user without privileges, in a folder of the user's own."""
    # Not pytest's, which only its owner may enter.
    with tempfile.TemporaryDirectory(prefix="vpoll-user-") as name:
        base = Path(name)
        base.chmod(0o755)
        source = base / "source"
        for folder in (ROOT / "vpoll_asyncio", PROGRAMS):
            shutil.copytree(
                folder,
                source / folder.name,
                copy_function=shutil.copyfile,
                ignore=shutil.ignore_patterns("__pycache__"),
            )
        for path in (source, *source.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        home = base / "home"
        home.mkdir()
        packages = Path(sysconfig.get_path("purelib"))
        if os.geteuid():
            yield Runner(home, [], sys.executable, [source])
            return
        for folder in (base / "python", base / "packages", base / "devices"):
            folder.mkdir()
        os.chown(home, NOBODY, NOBODY)
        script = ["unshare", "-m", "sh", "-c", _ENTER, str(base), sys.base_prefix, str(packages)]
        python = base / "python" / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
        yield Runner(home, script, str(python), [source, base / "packages"])
