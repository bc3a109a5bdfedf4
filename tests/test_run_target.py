"""`vpoll-asyncio run PROGRAM` does what `python PROGRAM` does: each program runs under both."""

from __future__ import annotations

import re
import textwrap
import zipapp
from pathlib import Path

import pytest

from run_helpers import Ended, python, run


def both(*arguments: str, cwd: Path, stdin: str = "") -> tuple[Ended, Ended]:
    return run(*arguments, cwd=cwd, stdin=stdin), python(*arguments, cwd=cwd, stdin=stdin)


def write(path: Path, code: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(code))


TELL = """
    import __main__, sys
    print(sys.argv, sys.path[0], __name__, __package__, getattr(__spec__, "name", None))
    print(__main__.__dict__ is globals(), sorted(name for name in globals() if name[:2] == "__"))
    print(globals().get("__file__"), type(__loader__).__name__, __doc__)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "lib" / "beside.py", "print('beside')")
    write(tmp_path / "lib" / "script.py", f"{TELL}\n    import beside")
    write(tmp_path / "pack" / "__init__.py", "print('package')")
    write(tmp_path / "pack" / "module.py", f"{TELL}\n    from . import other")
    write(tmp_path / "pack" / "other.py", "print('other')")
    write(tmp_path / "pack" / "__main__.py", TELL)
    write(tmp_path / "broken.py", "def f(:\n")
    (tmp_path / "link.py").symlink_to("lib/script.py")
    zipapp.create_archive(tmp_path / "pack", tmp_path / "archive.pyz")
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ("lib/script.py", "one", "--two", "-m", "--", "x"),
        ("link.py",),
        ("-m", "pack.module", "--stack", "x"),
        ("-m", "pack", "-h"),
        ("pack", "x"),
        ("archive.pyz", "x"),
        ("-c", textwrap.dedent(TELL).strip(), "x", "-c"),
        ("-",),
    ],
    ids=lambda arguments: arguments[0] + arguments[1][:6] if arguments[1:] else arguments[0],
)
def test_a_program_finds_itself_where_python_would_put_it(
    folder: Path, arguments: tuple[str, ...]
) -> None:
    ours, theirs = both(*arguments, cwd=folder, stdin=textwrap.dedent(TELL))
    assert theirs.status == 0
    assert ours == theirs


@pytest.mark.parametrize(
    "arguments",
    [
        ("absent.py",),
        ("-m", "absent"),
        ("-m", "absent.module"),
        ("-m", "lib"),
        ("-m", "pack.absent"),
        ("lib",),
    ],
    ids=" ".join,
)
def test_a_program_that_is_not_there_has_pythons_status(
    folder: Path, arguments: tuple[str, ...]
) -> None:
    ours, theirs = both(*arguments, cwd=folder)
    assert theirs.status != 0
    assert ours.status == theirs.status
    assert ours.out == theirs.out
    assert re.fullmatch(r"vpoll-asyncio: .+\n", ours.err)


ENDS = {
    "returns": "print('done')",
    "exits": "import sys; sys.exit()",
    "exits with a status": "import sys; sys.exit(7)",
    "exits with a text": "import sys; sys.exit('no')",
    "raises": "def f():\n    raise ValueError('bad')\nf()",
    "raises from": "try:\n    1/0\nexcept ZeroDivisionError as e:\n    raise KeyError(1) from e",
    "raises in a hook": "import sys\nsys.excepthook = lambda *told: print(told[:2])\n1/0",
    "is interrupted": "print('before', flush=True)\nraise KeyboardInterrupt",
    "closes its output": "import sys; print('x'); sys.stdout.close(); sys.exit(3)",
    "imports what raises": "import other",
    "ends threads, then atexit": """
        import atexit, threading, time
        go = threading.Event()
        def work():
            go.wait()
            print("thread")
        atexit.register(print, "first")
        atexit.register(print, "second")
        threading.Thread(target=work).start()
        threading.main_thread
        threading.Thread(target=lambda: (threading.main_thread().join(), go.set())).start()
        raise RuntimeError("last words")
    """,
}


@pytest.mark.parametrize("name", ENDS)
def test_a_program_ends_as_python_ends_it(tmp_path: Path, name: str) -> None:
    write(tmp_path / "other.py", "raise OSError(5, 'inside')")
    write(tmp_path / "program.py", ENDS[name])
    ours, theirs = both("program.py", cwd=tmp_path)
    assert ours == theirs


def test_a_syntax_error_is_told_as_python_tells_it(folder: Path) -> None:
    ours, theirs = both("broken.py", cwd=folder)
    assert ours == theirs


def test_a_traceback_of_a_module_begins_with_the_module(folder: Path) -> None:
    write(folder / "pack" / "fails.py", "1/0")
    ended = run("-m", "pack.fails", cwd=folder)
    assert ended.status == 1
    files = re.findall(r'File "(.*)"', ended.err)
    assert files == [str(folder / "pack" / "fails.py")]
