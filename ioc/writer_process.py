"""The IOC's side of the frame writer: starts it, restarts it, speaks with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import Mapping
from typing import Any, Protocol

from ioc.live_image import ImageMemory

__all__ = ["WriterListener", "WriterProcess"]

_log = logging.getLogger("ioc.writer")

_BACK_OFF = (0.2, 5.0)
_STOP_TIMEOUT = 3.0


class WriterListener(Protocol):
    """Who is told what the frame writer reports."""

    def writer_event(self, event: str, details: Mapping[str, Any]) -> None:
        """Take an event; the writer's end is the event ``died``."""


class WriterProcess:
    """A frame writer under supervision.

    Parameters
    ----------
    host, port
        Address of the device server.
    listener
        Is told about events.

    Attributes
    ----------
    restarts : int
        How often it had to be started again.
    memory : ImageMemory
        Where it puts images.
    """

    def __init__(self, host: str, port: int, listener: WriterListener) -> None:
        self._server = f"{host}:{port}"
        self._listener = listener
        self._process: asyncio.subprocess.Process | None = None
        self.restarts = 0
        self.memory = ImageMemory()

    def command(self, **command: Any) -> bool:
        """Send a command; return False if there is no writer to take it.

        One that dies meanwhile leaves it undone, and the event ``died`` follows.
        """
        process = self._process
        if process is None or process.stdin is None:
            return False
        process.stdin.write(json.dumps(command).encode() + b"\n")
        return True

    async def run(self) -> None:
        """Keep a writer running until cancelled, then end it."""
        delay, longest = _BACK_OFF
        while True:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "ioc.frame_writer", "--server", self._server),
                *("--image-memory", str(self.memory.descriptor)),
                pass_fds=(self.memory.descriptor,),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            self._process = process
            try:
                started = asyncio.get_running_loop().time()
                await self._listen(process)
                status = await process.wait()
            finally:
                await self._end(process)
            if asyncio.get_running_loop().time() - started > 2 * longest:
                delay = _BACK_OFF[0]
            self.restarts += 1
            message = f"the frame writer ended with status {status} and is started again"
            _log.error("%s", message)
            self._process = None
            self._listener.writer_event("died", {"message": message})
            await asyncio.sleep(delay)
            delay = min(longest, 2 * delay)

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101  (PIPE above)
        while line := await process.stdout.readline():
            try:
                details = json.loads(line)
                event = details.pop("event")
            except (ValueError, KeyError, AttributeError):
                _log.error("the frame writer said something that can't be read: %r", line[:120])
                continue
            self._listener.writer_event(event, details)

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """Close its input, so that it finishes its file; kill it if it doesn't end."""
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(_STOP_TIMEOUT):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
