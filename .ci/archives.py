"""archives DIST: whether the source archive and the wheel hold all that they must, and no more.

Run in the tree that they were built from, after ``python -m build``, which makes the wheel out
of the unpacked source archive.  Fails with one line for each thing that is wrong.
"""

from __future__ import annotations

import email
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any


def settings() -> dict[str, Any]:
    return tomllib.loads(Path("pyproject.toml").read_text())


def tracked(*paths: str) -> set[str]:
    """Return the files that belong to the tree."""
    done = subprocess.run(["git", "ls-files", *paths], stdout=subprocess.PIPE, text=True)
    if done.returncode == 0:
        return set(done.stdout.split())
    # The tree is itself an unpacked source archive.
    files = (file for path in paths or (".",) for file in Path(path).rglob("*") if file.is_file())
    return {str(file) for file in files if "__pycache__" not in file.parts}


def wrong_in_sdist(archive: Path) -> Iterator[str]:
    with tarfile.open(archive) as tar:
        inside = {name.partition("/")[2] for name in tar.getnames()}
    inside -= {"PKG-INFO"}
    for path in sorted(tracked() - inside):
        yield f"{archive.name} lacks {path}"
    for path in sorted(inside - tracked()):
        yield f"{archive.name} has {path}, which is not of the tree"


def wrong_in_wheel(wheel: Path) -> Iterator[str]:
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
        [metadata] = (name for name in inside if name.endswith(".dist-info/METADATA"))
        told = email.message_from_bytes(archive.read(metadata))
    folder = metadata.removesuffix("METADATA")
    how = settings()["tool"]["hatch"]["build"]["targets"]["wheel"]
    ours = tracked(*how["packages"]) | set(how["force-include"].values())
    for path in sorted(ours - inside):
        yield f"{wheel.name} lacks {path}"
    for path in sorted(inside - ours):
        if not path.startswith(folder):
            yield f"{wheel.name} has {path}, which is not of the package"
    if f"{folder}licenses/LICENSE" not in inside:
        yield f"{wheel.name} lacks the licence"
    yield from wrong_in_metadata(wheel, told)


def wrong_in_metadata(wheel: Path, told: Message) -> Iterator[str]:
    project = settings()["project"]
    if told["Requires-Python"] is None or set(told["Requires-Python"].split(",")) != set(
        project["requires-python"].split(",")
    ):
        yield f"{wheel.name}: Requires-Python is {told['Requires-Python']}"
    extras = project["optional-dependencies"]
    if set(told.get_all("Provides-Extra", [])) != extras.keys():
        yield f"{wheel.name}: the extras are {told.get_all('Provides-Extra')}"
    required = [one for one in told.get_all("Requires-Dist", []) if "extra ==" not in one]
    if required:
        yield f"{wheel.name} needs other packages: {required}"
    if told["Version"] != wheel.name.split("-")[1]:
        yield f"{wheel.name}: the version is {told['Version']}"


def main(dist: Path) -> int:
    [sdist], [wheel] = dist.glob("*.tar.gz"), dist.glob("*-py3-none-any.whl")
    wrong = [*wrong_in_sdist(sdist), *wrong_in_wheel(wheel)]
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


sys.exit(main(Path(sys.argv[1])))
