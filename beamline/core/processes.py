"""Supervised child processes: started with a handshake, stopped for certain, never orphaned.

A child of ours announces itself on standard output with one line ``READY key=value key=value``
and ends by itself when its standard input closes (flag ``--exit-with-parent``), so that no process
is left behind however its parent ends, SIGKILL included.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from beamline.core.errors import ConfigurationError, ProcessError

__all__ = ["Child", "free_port", "host_and_port"]

#: Below it are the known ports, and those that Ray gives to its workers.
_FIRST_PORT = 20_000


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that was free for both TCP and UDP on `host` a moment ago.

    It is none of those that the system gives to clients, so that a server that is restarted finds
    it free again.

    Raises
    ------
    ProcessError
        If none was found.
    """
    for _ in range(256):
        port = _FIRST_PORT + secrets.randbelow(_last_port() - _FIRST_PORT)
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
            contextlib.suppress(OSError),
        ):
            tcp.bind((host, port))
            udp.bind((host, port))
            return port
    raise ProcessError(f"no port on {host} is free for both TCP and UDP.")


def _last_port() -> int:
    """First of the ports that the system gives to clients (``ip(7)``)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        if first > _FIRST_PORT + 1000:
            return first
    return 32768


def host_and_port(server: str) -> tuple[str, int]:
    """Read the value of an option ``--server HOST:PORT``.

    Raises
    ------
    ConfigurationError
        If it is not of that form.
    """
    host, colon, port = server.rpartition(":")
    if not (colon and host and port.isdigit() and int(port) < 65536):
        raise ConfigurationError(
            f"--server must be HOST:PORT, found {server!r}; for example 127.0.0.1:6064."
        )
    return host, int(port)


class Child:
    """A running child process that has announced itself.

    Parameters
    ----------
    name
        What to call it in messages.
    argv
        Program and arguments.
    log
        File that takes its standard error (appended).
    env
        Variables added to this process's environment.
    timeout
        Seconds to wait for the READY line.

    Attributes
    ----------
    info : dict[str, str]
        The key=value pairs of the READY line.

    Raises
    ------
    ProcessError
        If the process can't be started, ends early or stays silent; the message carries the last
        line of its standard error.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log_start = log.stat().st_size if log.exists() else 0
        try:
            with log.open("ab") as stderr:
                # A session of its own: Ctrl-C in a terminal reaches the parent alone, which then
                # stops the children in the right order.
                self._process = subprocess.Popen(
                    list(argv),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env={**os.environ, **(env or {})},
                    start_new_session=True,
                )
        except OSError as error:
            raise ProcessError(f"cannot start {name} ({argv[0]}): {error.strerror}.") from None
        try:
            self.info = self._wait_until_ready(timeout)
        except BaseException:
            self.stop(timeout=1.0)
            raise

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process.poll() is None

    def _wait_until_ready(self, timeout: float) -> dict[str, str]:
        stdout = self._process.stdout
        assert stdout is not None  # noqa: S101  (for the type checker: PIPE above)
        os.set_blocking(stdout.fileno(), False)
        deadline = time.monotonic() + timeout
        pending = b""
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0:
                if not selector.select(left):
                    continue
                chunk = os.read(stdout.fileno(), 65536)
                if not chunk:
                    status = self._process.wait()
                    raise ProcessError(
                        f"{self.name} ended with status {status} before it was ready: "
                        f"{self.last_words()}"
                    )
                pending += chunk
                *lines, pending = pending.split(b"\n")
                for line in lines:
                    if line.startswith(b"READY"):
                        words = line.decode("utf-8", "replace").split()[1:]
                        return dict(word.split("=", 1) for word in words if "=" in word)
        raise ProcessError(f"{self.name} was not ready after {timeout:g} s: {self.last_words()}")

    def last_words(self) -> str:
        """Return the last line that the process wrote to its standard error, for a message."""
        with self.log.open("rb") as stream:
            stream.seek(self._log_start)
            lines = stream.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing."

    def stop(self, timeout: float = 5.0) -> int:
        """Stop the process: SIGTERM, then SIGKILL to its whole group; return its exit status."""
        process = self._process
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        return process.returncode

    def kill(self) -> None:
        """End the process at once with SIGKILL (fault injection)."""
        self._process.kill()
        self.stop()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
