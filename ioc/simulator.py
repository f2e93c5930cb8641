"""Start the device server ``beamline-sim`` as a supervised child process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from beamline.core.errors import ProcessError
from beamline.core.processes import Child

__all__ = ["device_server_binary", "start_device_server"]


def device_server_binary() -> Path:
    """Return the path of the device server program that was built with this package.

    The environment variable ``DEVICE_SERVER_PROGRAM`` names another program, such as one built with
    sanitizers.

    Raises
    ------
    ProcessError
        If it is missing, or if this is a source tree whose C sources are newer than it.
    """
    if other := os.environ.get("DEVICE_SERVER_PROGRAM"):
        return Path(other)
    package = Path(str(files("ioc")))
    binary = package / "_bin" / "beamline-sim"
    if not binary.is_file():
        raise ProcessError(
            f"the device server {binary} is missing: install the package with a C compiler on PATH "
            "(pip install .)."
        )
    # Only in a source tree do file times mean anything: an installer unpacks in any order.
    if (package.parent / "pyproject.toml").is_file():
        built = binary.stat().st_mtime
        sources = sorted((package / "device_server" / "src").glob("*.[ch]"))
        newer = [source.name for source in sources if source.stat().st_mtime > built]
        if newer:
            raise ProcessError(
                f"the device server {binary} is older than its source {newer[0]}: build it again "
                "(make, or pip install -e .)."
            )
    return binary


def start_device_server(
    *,
    log: Path,
    host: str = "127.0.0.1",
    port: int = 0,
    prefix: str = "BL02:",
    seed: int = 1,
    time_scale: float = 1.0,
    lock_step: bool = False,
    samples: Sequence[Path] = (),
    config: Path | None = None,
    timeout: float = 30.0,
) -> Child:
    """Start a device server and wait until it listens.

    It ends with this process, whatever ends this process.

    Parameters
    ----------
    log
        File that takes its standard error.
    host, port
        Address to listen on; port 0 takes a free one (see ``info["port"]`` of the result).
    prefix
        Prefix of its process variables.
    seed
        Seed of all simulated noise.
    time_scale
        Simulated seconds per second.
    lock_step
        Instead of by the clock, let simulated time pass with the commands: the same seed and the
        same commands then give the same answers bit for bit.
    samples
        Table files of the samples, in the order of ``SAMPLE:SELECT``; none means an empty beam.
    config
        Settings of the simulated physics, ``key = value`` lines.
    timeout
        Seconds to wait for it to listen.

    Returns
    -------
    Child
        The running server; ``info`` holds ``host``, ``port`` and ``pid``.

    Raises
    ------
    ProcessError
        If it is missing or stale, or does not start: a port in use, an unreadable table, a wrong
        key. The message carries the server's own sentence.
    """
    argv = [
        str(device_server_binary()),
        f"--host={host}",
        f"--port={port}",
        f"--prefix={prefix}",
        f"--seed={seed}",
        f"--time-scale={time_scale!r}",
        *(f"--sample={table}" for table in samples),
        *(["--lock-step"] if lock_step else []),
        *([f"--config={config}"] if config is not None else []),
        "--exit-with-parent",
    ]
    return Child("device server", argv, log=log, timeout=timeout)
