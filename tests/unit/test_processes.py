"""Supervised children: the handshake, the error texts, and that none is left behind."""

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from beamline.core.errors import ProcessError
from beamline.core.processes import Child, free_port


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_ready_line_is_understood(tmp_path: Path):
    code = "import time; print('hello'); print('READY port=5 name=a', flush=True); time.sleep(60)"
    with Child("a test", python(code), log=tmp_path / "log") as child:
        assert child.info == {"port": "5", "name": "a"}
        assert child.running
    assert not child.running


def test_the_last_words_of_a_child_are_told(tmp_path: Path):
    code = "import sys; print('old', file=sys.stderr); sys.exit('port 5 is in use.')"
    with pytest.raises(ProcessError, match=r"a test ended with status 1 .*: port 5 is in use\."):
        Child("a test", python(code), log=tmp_path / "log")


def test_a_silent_child_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    started = []

    class Noted(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self.pid)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    with pytest.raises(ProcessError, match=r"was not ready after 1 s: it said nothing"):
        Child("a test", ["sleep", "60"], log=tmp_path / "log", timeout=1.0)
    (pid,) = started
    assert not alive(pid)


def test_a_missing_program_is_named(tmp_path: Path):
    with pytest.raises(ProcessError, match=r"cannot start a test \(/nowhere/x\)"):
        Child("a test", ["/nowhere/x"], log=tmp_path / "log")


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path):
    code = """
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print('READY', flush=True)
        time.sleep(60)
    """
    child = Child("a test", python(code), log=tmp_path / "log")
    assert child.stop(timeout=0.2) == -9


def test_a_child_ends_with_a_killed_parent(tmp_path: Path):
    watcher = "import sys; print('READY', flush=True); sys.stdin.read()"
    code = f"""
        import time
        from pathlib import Path
        from beamline.core.processes import Child
        child = Child("a test", {python(watcher)!r}, log=Path({str(tmp_path / "log")!r}))
        print(child.pid, flush=True)
        time.sleep(60)
    """
    parent = subprocess.Popen(python(code), stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 60
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(pid)


def test_free_ports_differ_and_are_free():
    assert free_port() > 1023
