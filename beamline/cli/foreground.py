"""Run a supervised child until it ends or somebody asks it to stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import click

from beamline.core.errors import ProcessError
from beamline.core.processes import Child


def announce(child: Child) -> None:
    """Print the child's READY line, so that whoever started us can wait for it."""
    click.echo("READY " + " ".join(f"{key}={value}" for key, value in child.info.items()))


def run_in_foreground(child: Child) -> None:
    """Wait for SIGINT or SIGTERM, then stop the child; a child that ends by itself is an error."""
    asked = threading.Event()

    def ask(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not asked.wait(0.2):
            if not child.running:
                raise ProcessError(
                    f"{child.name} ended by itself with status {child.status}: {child.last_words()}"
                )
        child.stop()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
