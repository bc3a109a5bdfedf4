"""Native helpers: compiled once, found again, and never taken from a stranger."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from vpoll_asyncio import native
from vpoll_asyncio.native import NativeError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own."""
    base = tmp_path / "cache"
    base.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_CACHE_HOME", str(base))
    return base / "vpoll_asyncio"


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine where the helper's library is not installed."""
    helper = native.HELPERS["lwip"]._replace(library="not-there-at-all")
    monkeypatch.setitem(native.HELPERS, "lwip", helper)
    monkeypatch.setattr(native, "_loaded", {})


def python(code: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.strip()


def test_importing_the_package_imports_no_cffi() -> None:
    code = "import sys, vpoll_asyncio, vpoll_asyncio.native; print(*sys.modules)"
    modules = finish(python(code)).split()
    assert not {"cffi", "_cffi_backend"} & set(modules)


@pytest.mark.needs("lwip", "cc")
def test_a_helper_is_compiled_once_and_only_the_user_can_write_it(cache: Path) -> None:
    path = native.build("lwip")
    assert path.parent == cache
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert not path.stat().st_mode & 0o077
    made = path.stat()
    assert native.build("lwip") == path
    assert path.stat() == made
    assert [entry.name for entry in cache.iterdir() if entry.suffix == ".so"] == [path.name]
    assert not [entry for entry in cache.iterdir() if entry.name.startswith(".build")]


@pytest.mark.needs("lwip", "cc")
def test_many_processes_build_at_once(cache: Path) -> None:
    code = "from vpoll_asyncio import native; print(native.load('lwip').__file__)"
    processes = [python(code, XDG_CACHE_HOME=str(cache.parent)) for _ in range(5)]
    paths = {finish(process) for process in processes}
    assert len(paths) == 1
    assert Path(paths.pop()).parent == cache
    assert len(list(cache.glob("_vpoll_lwip-*.so"))) == 1


@pytest.mark.needs("lwip", "cc")
def test_nothing_is_printed_while_it_builds(cache: Path) -> None:
    code = "from vpoll_asyncio import native; native.build('lwip')"
    process = python(code, XDG_CACHE_HOME=str(cache.parent))
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.needs("lwip", "cc")
def test_a_changed_source_is_another_helper(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = native.build("lwip")
    changed = tmp_path / "lwip"
    changed.mkdir()
    for source in native.HELPERS["lwip"].folder.iterdir():
        if source.is_file():
            (changed / source.name).write_bytes(source.read_bytes())
    with (changed / "isn.c").open("a") as source_file:
        source_file.write("\nint vp_something_new;\n")
    monkeypatch.setattr(native.Helper, "folder", property(lambda _: changed))
    native._key.cache_clear()
    try:
        after = native.build("lwip")
    finally:
        native._key.cache_clear()
    assert after != before
    assert after.exists()
    assert before.exists()


@pytest.mark.needs("lwip", "cc")
def test_source_that_does_not_compile_shows_what_the_compiler_said(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "lwip"
    broken.mkdir()
    for source in native.HELPERS["lwip"].folder.iterdir():
        if source.is_file():
            (broken / source.name).write_bytes(source.read_bytes())
    (broken / "isn.c").write_text("#error one two three\n")
    monkeypatch.setattr(native.Helper, "folder", property(lambda _: broken))
    native._key.cache_clear()
    try:
        with pytest.raises(NativeError, match="one two three"):
            native.build("lwip")
    finally:
        native._key.cache_clear()
    assert not list(cache.glob("_vpoll_lwip-*.so"))


@pytest.mark.needs("lwip")
@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_cache_that_others_can_write_is_refused(cache: Path, mode: int) -> None:
    cache.mkdir()
    cache.chmod(mode)
    with pytest.raises(NativeError, match="chmod go-w") as caught:
        native.build("lwip")
    assert caught.value.errno == errno.EPERM


@pytest.mark.needs("lwip")
def test_a_cache_in_a_directory_that_everybody_can_write_is_refused(cache: Path) -> None:
    cache.parent.chmod(0o777)
    with pytest.raises(NativeError, match="everybody"):
        native.build("lwip")


@pytest.mark.needs("lwip", "cc")
def test_without_a_usable_cache_a_temporary_one_is_removed_at_the_end(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file where the cache should be")
    code = "from vpoll_asyncio import native; native.load('lwip'); print(native.build('lwip'))"
    path = Path(finish(python(code, XDG_CACHE_HOME=str(taken), TMPDIR=str(tmp_path))))
    assert path.parent.parent == tmp_path
    assert not path.parent.exists()


@pytest.mark.needs("lwip")
@pytest.mark.parametrize("what", ["writable", "symlink"])
def test_a_file_that_a_stranger_could_have_put_there_is_not_loaded(
    cache: Path, tmp_path: Path, what: str
) -> None:
    good = native.build("lwip")
    planted = b"not a shared library"
    if what == "writable":
        good.write_bytes(planted)
        good.chmod(0o666)
    else:
        elsewhere = tmp_path / "planted.so"
        elsewhere.write_bytes(planted)
        good.unlink()
        good.symlink_to(elsewhere)
    again = native.build("lwip")
    assert again == good
    assert again.read_bytes() != planted
    assert stat.S_ISREG(again.lstat().st_mode)


@pytest.mark.needs("lwip")
def test_no_compiler_names_the_package(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(NativeError, match="gcc"):
        native.build("lwip")


def test_no_library_names_the_package(no_library: None) -> None:
    if native._build.cffi_version():
        assert "liblwip-dev" in native.missing("lwip")
    with pytest.raises(NativeError):
        native.build("lwip")


def test_build_all_says_what_it_could_not_build(no_library: None) -> None:
    [built] = [helper for helper in native.build_all() if helper.name == "lwip"]
    assert (built.name, built.path, built.available) == ("lwip", None, False)
    assert built.why


@pytest.mark.needs("lwip")
def test_a_helper_that_can_be_built_is_not_missing(cache: Path) -> None:
    assert native.missing("lwip") == ""


@pytest.mark.parametrize("call", [native.build, native.load, native.missing])
def test_an_unknown_helper_is_a_value_error(call: object) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match="lwip"):
        call("no-such-helper")


@pytest.mark.needs("lwip")
def test_headers_and_library_agree() -> None:
    module = native.load("lwip")
    found = module.ffi.new("struct vp_abi *")
    module.lib.vp_abi(found)
    assert found.ok
