"""``beamline ipython``: the interactive session."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from beamline.cli import options


def profile_directory() -> Path:
    """Return the IPython profile: installed with the package, or in the source tree."""
    import beamline

    installed = Path(str(files("beamline") / "profiles" / "ipython"))
    source = Path(beamline.__file__).resolve().parents[1] / "profiles" / "ipython"
    return installed if installed.is_dir() else source


@click.command(name="ipython", context_settings={"ignore_unknown_options": True})
@options.config
@options.data_dir
@click.option(
    "--simulate/--connect",
    default=None,
    help="Start a simulated beamline, or use an IOC that runs.  [default: simulate]",
)
@click.option("--prefix", help="Prefix of all process variables.  [default: BL02:]")
@click.option("--ioc-port", type=int, help="Port of a running IOC on this machine.")
@options.sample_options
@options.simulation_options
@options.callbacks
@click.option(
    "--no-writers",
    is_flag=True,
    help="Write no files and no catalogue beside the journal: a callback server does.",
)
@click.argument("ipython_args", nargs=-1, type=click.UNPROCESSED)
def command(
    config_path: Path | None,
    sample: tuple[str, ...],
    ipython_args: tuple[str, ...],
    *,
    no_writers: bool,
    **given: Any,
) -> None:
    """Open IPython with RE, devices (bl, mono, sample, counters, …), plans and magics.

    Further arguments go to IPython, for example: beamline ipython -- --matplotlib
    """
    from IPython.terminal.ipapp import TerminalIPythonApp
    from traitlets.config import Config

    from beamline.core.config import load_settings

    writers = () if no_writers else None
    settings = load_settings(config_path, sample=sample or None, writers=writers, **given)
    # The profile is an ordinary startup file that reads the environment, so that `ipython
    # --profile-dir` and the queueserver use it as well.
    if config_path is not None:
        os.environ["BEAMLINE_CONFIG"] = str(config_path.resolve())
    for key in (key for key, value in given.items() if value is not None):
        os.environ[f"BEAMLINE_{key.upper()}"] = str(getattr(settings, key))
    if no_writers:
        os.environ["BEAMLINE_WRITERS"] = ""
    if sample:
        os.environ["BEAMLINE_SAMPLE"] = ",".join(settings.sample)

    # IPython writes history and state into its profile, which may be read-only when installed.
    state = settings.data_dir / "ipython"
    state.mkdir(parents=True, exist_ok=True)
    config = Config()
    config.ProfileDir.location = str(state)
    config.TerminalIPythonApp.display_banner = False
    config.InteractiveShellApp.exec_files = [
        str(path) for path in sorted((profile_directory() / "startup").glob("*.py"))
    ]
    app = TerminalIPythonApp.instance(config=config)
    app.initialize(list(ipython_args))
    app.start()
