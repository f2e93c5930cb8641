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

_KINDS = ("STUCK", "LIMIT", "ENCODER", "FROZEN", "DEAD", "DUMP", "DELAY", "DROP")
#: Names that have no prefix.
_PLAIN = ("LINK", "ALL")


def _server_options(function: F) -> F:
    for option in (
        click.option("--prefix", help="Prefix of all process variables.  [default: BL02:]"),
        click.option("--port", "device_port", type=int, help="Port.  [default: 6064]"),
        click.option("--host", "device_host", help="Its address.  [default: 127.0.0.1]"),
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


@command.command()
@click.argument("what")
@click.argument("kind", type=click.Choice(_KINDS, case_sensitive=False))
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
