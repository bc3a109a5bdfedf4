"""A PostgreSQL server of the tests' own: a fresh cluster on a port of the loopback."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

from needs import postgresql_programs
from processes import SECONDS, Command, free_port

USER = "guest"


def _account() -> str | None:
    """Whose process the server is: root's it refuses to be.  None: the tests'."""
    if os.geteuid() != 0:
        return None
    accounts = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in accounts else "nobody"


@contextlib.contextmanager
def postgresql() -> Iterator[int]:
    """Run a server that trusts `USER`, its superuser; yield its port."""
    programs, account = postgresql_programs(), _account()
    assert programs is not None
    become = ["setpriv", "--pdeathsig", "INT"]
    if account is not None:
        become += ["--reuid", account, "--regid", str(pwd.getpwnam(account).pw_gid)]
        become += ["--clear-groups"]
    # Not below the tests' own folder, which other accounts cannot enter.
    folder = tempfile.mkdtemp(prefix="postgresql-")
    try:
        if account is not None:
            shutil.chown(folder, account)
        data = f"{folder}/data"
        make = [str(programs / "initdb"), "-D", data, "-U", USER, "-A", "trust", "--no-sync"]
        subprocess.run(
            [*become, *make, "--locale=C", "--encoding=UTF8"],
            check=True,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=SECONDS,
        )
        port = free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
            "fsync": "off",
            "log_line_prefix": "",
        }
        serve = [str(programs / "postgres"), "-D", data]
        for name, value in settings.items():
            serve += ["-c", f"{name}={value}"]
        with Command([*become, *serve], merge=True) as server:
            server.wait_for("LOG:  database system is ready to accept connections")
            yield port
            server.interrupt()
            assert server.wait() == (0, "")
    finally:
        shutil.rmtree(folder)
