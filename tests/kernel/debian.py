"""Debian's kernel, its headers, busybox and vpoll-dkms: fetched, unpacked, compiled.

Nothing of these is installed; they live in a folder of the tree and stay there, so that
only the first run fetches them.  `apt-get download` checks signatures and hashes.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["Kernel", "Missing", "prepare", "require"]

TOOLS = ("qemu-system-x86", "make", "gcc", "libc6-dev")
"""Packages that must be installed: the rest is unpacked where it is used."""

LOADED = ("virtio_pci", "9pnet_virtio", "9p", "overlay", "fuse", "tun")
"""Modules of Debian's kernel that the guest loads, after those that they depend on."""


class Missing(Exception):
    """Something is not there; the message says what to install or do."""


class Kernel(NamedTuple):
    """What a guest boots from."""

    release: str
    image: Path
    modules: tuple[Path, ...]
    """In the order in which they can be loaded."""
    busybox: Path


def run(*command: str, cwd: Path | None = None) -> str:
    """Return what `command` prints.  Raises Missing, with its errors, when it fails."""
    try:
        done = subprocess.run(
            command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
    except FileNotFoundError:
        raise Missing(f"no command {command[0]}: this needs a Debian system") from None
    if done.returncode:
        raise Missing(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr[-3000:]}")
    return done.stdout


def require(packages: Iterable[str]) -> None:
    """Install those of `packages` that are not there, as root; raise Missing else."""
    lacking = [package for package in packages if not installed(package)]
    if not lacking:
        return
    if os.geteuid():
        raise Missing(f"as root: apt-get install --no-install-recommends {' '.join(lacking)}")
    install = ("apt-get", "install", "-qq", "-y", "--no-install-recommends")
    run("apt-get", "update", "-qq")
    run("env", "DEBIAN_FRONTEND=noninteractive", *install, *lacking)


def installed(package: str) -> bool:
    try:
        return run("dpkg-query", "-W", "-f", "${db:Status-Status}", package) == "installed"
    except Missing:
        return False


def depends(package: str) -> list[str]:
    """Return what `package` depends on, the first of each set of alternatives."""
    shown = run("apt-cache", "show", "--no-all-versions", package)
    found = re.search(r"^Depends: (.*)$", shown, re.MULTILINE)
    clauses = found[1].split(",") if found else []
    return [re.split(r"[ (|:]", clause.strip())[0] for clause in clauses]


def fetch(folder: Path) -> None:
    """Put the packages' files into `folder`, which is new."""
    if not os.geteuid():
        run("apt-get", "update", "-qq")
    try:
        images = [name for name in depends("linux-image-amd64") if name.startswith("linux-image-")]
        headers = images[0].replace("linux-image-", "linux-headers-")
        wanted = [images[0], headers, "busybox-static", "vpoll-dkms"]
        wanted += [n for n in depends(headers) if n.startswith(("linux-headers-", "linux-kbuild-"))]
        # What the kernel's own build tools link with.
        require(n for kbuild in wanted if "-kbuild-" in kbuild for n in depends(kbuild))
        run("apt-get", "download", "-q", *wanted, cwd=folder)
    except (Missing, IndexError) as error:
        raise Missing(
            f"Debian's kernel cannot be fetched: {error}\n"
            "An index of Debian for amd64 is needed (as root: apt-get update)"
        ) from None


def unpack(archives: Iterable[Path], folder: Path) -> None:
    for archive in archives:
        run("dpkg-deb", "-x", str(archive), str(folder))


def plain(module: Path) -> tuple[str, bytes]:
    """Return the name and the bytes of a module, decompressed."""
    data = module.read_bytes()
    if module.suffix == ".xz":
        return module.name.removesuffix(".ko.xz"), lzma.decompress(data)
    return module.name.removesuffix(".ko"), data


def with_dependencies(found: dict[str, Path], names: Sequence[str]) -> dict[str, bytes]:
    """Return `names` and all that they depend on, each after what it depends on.

    Raises Missing for a module that this kernel does not have.
    """
    ordered: dict[str, bytes] = {}

    def visit(name: str) -> None:
        if name in ordered:
            return
        if name not in found:
            raise Missing(f"this kernel has no module {name}")
        _, data = plain(found[name])
        needs = re.search(rb"\0depends=([^\0]*)\0", data)
        for need in needs[1].decode().split(",") if needs and needs[1] else ():
            visit(need.replace("-", "_"))
        ordered[name] = data

    for name in names:
        visit(name)
    return ordered


def keep_what_boots(root: Path, folder: Path) -> None:
    """Move the kernel's image and the modules of `LOADED` from `root` to `folder`."""
    (image,) = (root / "boot").glob("vmlinuz-*")
    release = image.name.removeprefix("vmlinuz-")
    found = {
        path.name.split(".ko")[0].replace("-", "_"): path for path in root.rglob("kernel/**/*.ko*")
    }
    for number, (name, data) in enumerate(with_dependencies(found, LOADED).items()):
        (folder / f"{number:02}-{name}.ko").write_bytes(data)
    image.rename(folder / "image")
    (folder / "release").write_text(release)
    shutil.rmtree(root / "lib/modules")
    shutil.rmtree(root / "usr/lib/modules", ignore_errors=True)
    shutil.rmtree(root / "boot")


def compiler(headers: Path) -> str:
    """Return the name of the compiler that Debian built this kernel with."""
    variables = (headers / ".kernelvariables").read_text()
    found = re.search(r"\bgcc-\d+", variables)
    return found[0] if found else "gcc"


def compile_module(headers: Path, sources: Sequence[Path], folder: Path, into: Path) -> None:
    """Compile the module in `sources`, in `folder`, and put it `into` that folder.

    A module that was compiled from the same sources for the same kernel is kept.
    """
    digest = hashlib.sha256(str(headers).encode())
    for source in sources:
        digest.update(source.read_bytes())
    stamp = into / f"{folder.name}.built-from"
    if stamp.exists() and stamp.read_text() == digest.hexdigest():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for source in sources:
        shutil.copy(source, folder)
    name = compiler(headers)
    require([name])
    run("make", "-C", str(headers), f"M={folder}", "modules")
    (built,) = folder.glob("*.ko")
    shutil.copy(built, into / f"90-{built.name}")
    stamp.write_text(digest.hexdigest())


def headers_in(root: Path) -> Path:
    """Return the headers' folder under `root`, made to work where it is.

    Its Makefile names the place under /usr/src where the common part would be installed.
    """
    sources = root / "usr/src"
    (headers,) = (path for path in sources.glob("linux-headers-*") if (path / ".config").exists())
    makefile = headers / "Makefile"
    common = re.search(r"/(linux-headers-[^/]*/Makefile)$", makefile.read_text(), re.MULTILINE)
    if common is None:
        raise Missing(f"{makefile} names no common headers")
    makefile.write_text(f"include {sources}/{common[1]}\n")
    return headers


def prepare(cache: Path, module_source: Path) -> Kernel:
    """Return a kernel to boot, from `cache` as far as it is there.

    `module_source` is the folder of the EFD_VPOLL module.  Raises Missing.
    """
    require(TOOLS)
    unpacked = cache / "debian"
    if not unpacked.exists():
        fresh = cache / "debian.new"
        shutil.rmtree(fresh, ignore_errors=True)
        for name in ("packages", "boot", "root"):
            (fresh / name).mkdir(parents=True)
        fetch(fresh / "packages")
        unpack((fresh / "packages").glob("*.deb"), fresh / "root")
        keep_what_boots(fresh / "root", fresh / "boot")
        shutil.rmtree(fresh / "packages")
        fresh.rename(unpacked)
    root, boot = unpacked / "root", unpacked / "boot"
    headers = headers_in(root)
    (dkms,) = (root / "usr/src").glob("vpoll-*")
    device = [dkms / "vpoll.c", dkms / "Makefile"]
    eventfd = [module_source / "efd_vpoll.c", module_source / "Kbuild"]
    compile_module(headers, device, cache / "build/vpoll", boot)
    compile_module(headers, eventfd, cache / "build/efd_vpoll", boot)
    (busybox,) = (path for path in root.glob("**/bin/busybox") if not path.is_symlink())
    return Kernel(
        (boot / "release").read_text(), boot / "image", tuple(sorted(boot.glob("*.ko"))), busybox
    )
