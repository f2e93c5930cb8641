"""The IOC as a program: ``python -m ioc --server HOST:PORT --port N``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from beamline.core.errors import BeamlineError
from beamline.core.processes import host_and_port
from ioc.access import LOCAL, AccessControl
from ioc.autosave import Autosave, locked, saved_fields
from ioc.database import Database
from ioc.pv_table import FORMATS, render
from ioc.repeater import memory_file, start_repeater
from ioc.server import Context

__all__ = ["main", "run"]

_log = logging.getLogger("ioc")

#: How long to wait for the device server and the frame writer before serving alarms (s).
_FIRST_LINK_TIMEOUT = 5.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ioc", description="Serve the device server's PVs over Channel Access."
    )
    parser.add_argument("--server", default="127.0.0.1:6064", metavar="HOST:PORT")
    parser.add_argument("--prefix", default="BL02:", help="prefix of all PVs")
    parser.add_argument("--port", type=int, default=5064, help="TCP and UDP port; 0: any free one")
    parser.add_argument("--interface", default="127.0.0.1", help="address to listen on")
    parser.add_argument(
        "--repeater-port", type=int, help="port of the CA repeater (default: PORT + 1)"
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        metavar="HOST",
        help="address, network or name of a machine whose clients may write; may be repeated "
        "(default: localhost)",
    )
    parser.add_argument("--engineer", default="", help="whom to call: IOC:ENGINEER")
    parser.add_argument("--location", default="", help="where the IOC runs: IOC:LOCATION")
    parser.add_argument(
        "--autosave", type=Path, metavar="FILE", help="keep settings over restarts in this file"
    )
    parser.add_argument("--list-pvs", action="store_true", help="print all PVs and end")
    parser.add_argument("--format", choices=FORMATS, default="names", help="how to print them")
    parser.add_argument(
        "--exit-with-parent", action="store_true", help="end when standard input closes"
    )
    parser.add_argument(
        "--log-level", default="WARNING", choices=("DEBUG", "INFO", "WARNING", "ERROR")
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the IOC; return its exit status: 2 with one sentence if it can't run.

    Parameters
    ----------
    argv
        Arguments; those of the process by default.
    """
    try:
        return run(argv)
    except BeamlineError as error:
        sys.stderr.write(f"{error}\n")
        return 2


def run(argv: Sequence[str] | None = None) -> int:
    """Run the IOC until it is asked to stop; return 0.

    Parameters
    ----------
    argv
        Arguments; those of the process by default.

    Raises
    ------
    BeamlineError
        If a setting is wrong, or its port is taken.
    """
    arguments = _parser().parse_args(argv)
    logging.basicConfig(
        level=arguments.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # Its level is WARNING for things that are normal here, such as clients that go away.
    logging.getLogger("caproto").setLevel(max(logging.ERROR, logging.root.level))
    host, port = host_and_port(arguments.server)
    if arguments.list_pvs:
        records = Database(arguments.prefix, host, port).records
        sys.stdout.write(render(records, arguments.prefix, arguments.format))
        return 0
    with (
        contextlib.nullcontext() if arguments.autosave is None else locked(arguments.autosave),
        contextlib.suppress(KeyboardInterrupt),
    ):
        asyncio.run(_serve(arguments, host, port))
    return 0


async def _serve(arguments: argparse.Namespace, host: str, port: int) -> None:
    database = Database(
        arguments.prefix, host, port, engineer=arguments.engineer, location=arguments.location
    )
    context = Context(
        database.channels(),
        interface=arguments.interface,
        port=arguments.port,
        access=AccessControl(arguments.allow_host or (LOCAL,)),
    )
    database.health.serve(context)
    repeater_port = arguments.repeater_port or context.port % 65535 + 1
    repeater = await start_repeater(repeater_port, memory_file(repeater_port))
    stop = _stop_event(arguments.exit_with_parent)
    following = asyncio.create_task(database.run())
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_FIRST_LINK_TIMEOUT):
            await database.wait_until_ready()
    if not database.link.connected:
        _log.warning("no device server at %s:%d yet: all records are in alarm", host, port)

    saving = await _start_autosave(arguments.autosave, database)

    def announce() -> None:
        sys.stdout.write(
            f"READY prefix={arguments.prefix} port={context.port} pvs={len(database.records)} "
            f"repeater={repeater_port} pid={os.getpid()}\n"
        )
        sys.stdout.flush()

    serving = asyncio.create_task(
        context.serve(beacon_address=("127.0.0.1", repeater_port), ready=announce)
    )
    stopping = asyncio.create_task(stop.wait())
    tasks = {serving, following, stopping, *saving}
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if repeater is not None:
        repeater.close()
    for finished in done - {stopping}:
        finished.result()


async def _start_autosave(path: Path | None, database: Database) -> list[asyncio.Task[None]]:
    """Put saved settings back, and keep on saving until cancelled."""
    if path is None:
        return []
    autosave = Autosave(
        path,
        database.prefix,
        saved_fields(database.prefix, database.records),
        connected=lambda: database.link.connected,
        settled=lambda: database.settled,
        on_state=database.health.show_autosave,
    )
    autosave.load()
    database.health.field("START_CNT").post(float(autosave.starts))
    await autosave.restore()

    async def follow() -> None:
        try:
            await autosave.run()
        finally:
            autosave.save()

    return [asyncio.create_task(follow())]


def _stop_event(exit_with_parent: bool) -> asyncio.Event:
    """Return an event that SIGINT, SIGTERM and, if wanted, the end of standard input set."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if exit_with_parent:

        def read() -> None:
            if not os.read(0, 4096):
                loop.remove_reader(0)
                stop.set()

        try:
            loop.add_reader(0, read)
        except (OSError, ValueError):  # standard input is a file or closed: nobody to outlive
            stop.set() if _stdin_closed() else None
    return stop


def _stdin_closed() -> bool:
    try:
        os.fstat(0)
    except OSError:
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
