"""Options that several subcommands share; their values are settings."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = [
    "between",
    "callbacks",
    "config",
    "data_dir",
    "moment",
    "no_misspelt_options",
    "sample_options",
    "simulation_options",
]

F = TypeVar("F", bound=Callable[..., Any])

config = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="YAML file with settings (or BEAMLINE_CONFIG).",
)
data_dir = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Where journal, catalogue and files live.  [default: beamline-data]",
)
callbacks = click.option(
    "--callbacks",
    "callbacks_address",
    metavar="ADDRESS",
    help="Publish documents for `beamline callbacks` at this address, e.g. 127.0.0.1:5578.",
)


def sample_options(function: F) -> F:
    """Add ``--sample`` and ``--thickness-um``."""
    function = click.option(
        "--thickness-um",
        type=float,
        help="Thickness of a measured foil, µm.  [default: the one that gives its edge step]",
    )(function)
    return click.option(
        "--sample",
        multiple=True,
        metavar="NAME|FILE.xdi",
        help="Built-in sample, or a measured spectrum; may be repeated, the first is in the beam.",
    )(function)


def simulation_options(function: F) -> F:
    """Add ``--seed``, ``--time-scale`` and ``--lock-step``."""
    function = click.option(
        "--lock-step",
        is_flag=True,
        default=None,
        help="Let simulated time pass with the commands: a seed repeats a run exactly.",
    )(function)
    function = click.option("--seed", type=int, help="Seed of all simulated noise.  [default: 1]")(
        function
    )
    return click.option(
        "--time-scale",
        type=float,
        help="Simulated seconds per real second.",
    )(function)


def no_misspelt_options(ctx: click.Context, param: click.Parameter, value: Any) -> Any:  # noqa: ARG001
    """Refuse an argument that is a misspelt option; negative numbers are runs.

    For commands with ``ignore_unknown_options``, which take "-1" for an argument.
    """
    for item in value if isinstance(value, tuple) else (value,):
        text = str(item)
        if text.startswith("-") and not re.fullmatch(r"-\d+", text):
            raise click.NoSuchOption(text, ctx=ctx)
    return value


def between(function: F) -> F:
    """Add ``--since`` and ``--until``, which arrive as seconds since 1970 or None."""
    since = click.option(
        "--since",
        callback=moment,
        metavar="TIME",
        help="Only runs that began then or later (ISO 8601, today or yesterday).",
    )
    until = click.option(
        "--until",
        callback=moment,
        metavar="TIME",
        help="Only runs that began earlier; a day is included as a whole.",
    )
    return since(until(function))


def moment(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:  # noqa: ARG001
    """Read a time, as the callback of an option; a day ends an "until" as a whole."""
    from beamline import catalog
    from beamline.core.errors import ConfigurationError

    try:
        return None if value is None else catalog.moment(value, end=param.name == "until")
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from None
