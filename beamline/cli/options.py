"""Options that several subcommands share; their values are settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["config", "data_dir", "sample_options", "simulation_options"]

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
