"""``beamline fault``: break and mend the simulated beamline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from beamline.cli import options

if TYPE_CHECKING:
    from beamline.core.config import Settings

F = TypeVar("F", bound=Callable[..., Any])

_KINDS = {
    "STUCK": "a motor does not follow; it gives up after NUMBER seconds (0.2).",
    "LIMIT": "a limit switch of a motor closes at position NUMBER (half way of the next move).",
    "ENCODER": "a motor loses its encoder, brakes and refuses to move.",
    "FROZEN": "the encoder of a motor says the same all the time, and nobody notices.",
    "DEAD": "a counter (DET:I0 …) reads nothing, or AD1 takes no frames.",
    "DUMP": "the ring (RING:CURRENT) loses its beam.",
    "DELAY": "every answer of the device server (LINK) comes NUMBER seconds late.",
    "DROP": "all connections (LINK) are cut, now or with the NUMBERth line.",
}
#: Names that have no prefix.
_PLAIN = ("LINK", "ALL")


def _kinds_in_words() -> str:
    lines = "\n".join(f"{kind:<8} {meaning}" for kind, meaning in _KINDS.items())
    return f"\b\nKinds of faults:\n{lines}"


def _server_options(function: F) -> F:
    for option in (
        click.option("--prefix", help="Prefix of all process variables.  [default: BL02:]"),
        click.option("--server", help="HOST:PORT of the device server.  [default: 127.0.0.1:6064]"),
        options.config,
    ):
        function = option(function)
    return function


@click.group(name="fault")
def command() -> None:
    """Break and mend the simulated beamline of a running device server.

    WHAT is a motor, DET:I0 and the other counters, AD1, RING:CURRENT (with or without the prefix)
    or LINK. The kinds of faults are described in docs/protocol.md.
    """


@command.command(name="list")
@_server_options
def list_faults(config_path: Path | None, **given: Any) -> None:
    """Show what is broken."""
    for fault in filter(None, _ask(_settings(config_path, given), "FAULTS").split(",")):
        click.echo(fault)


@command.command(epilog=_kinds_in_words())
@click.argument("what")
@click.argument("kind", type=click.Choice(tuple(_KINDS), case_sensitive=False))
@click.argument("number", required=False, type=float)
@_server_options
def inject(
    what: str, kind: str, number: float | None, config_path: Path | None, **given: Any
) -> None:
    """Break WHAT in the way KIND; some kinds take a NUMBER.

    Examples: beamline fault inject SAMPLE:X LIMIT 500; beamline fault inject LINK DELAY 0.5
    """
    settings = _settings(config_path, given)
    value = "" if number is None else f"={number!r}"
    _ask(settings, f"FAULT:{_full_name(what, settings.prefix)}:{kind.upper()}{value}")


@command.command()
@click.argument("what", default="ALL")
@_server_options
def clear(what: str, config_path: Path | None, **given: Any) -> None:
    """Mend WHAT, or everything."""
    settings = _settings(config_path, given)
    _ask(settings, f"FAULT:{_full_name(what, settings.prefix)}:NONE")


def _settings(config_path: Path | None, given: dict[str, Any]) -> Settings:
    from beamline.core.config import load_settings
    from beamline.core.processes import host_and_port

    server = given.pop("server")
    if server is not None:
        given["device_host"], given["device_port"] = host_and_port(server)
    return load_settings(config_path, **given)


def _full_name(what: str, prefix: str) -> str:
    return what if what in _PLAIN or what.startswith(prefix) else prefix + what


def _ask(settings: Settings, line: str) -> str:
    from beamline.core.errors import DeviceServerError
    from beamline.daq import DeviceClient

    with DeviceClient(settings.device_host, settings.device_port) as client:
        try:
            return client.request(line)
        except DeviceServerError as error:
            raise DeviceServerError(
                f"{error} docs/protocol.md lists what can break, how, and with which numbers."
            ) from None
