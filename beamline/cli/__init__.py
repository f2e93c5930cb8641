"""The ``beamline`` command: one file per subcommand, each imported only when it is used."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import Any

import click

from beamline import __version__
from beamline.core.errors import BeamlineError
from beamline.core.shadowing import check_packages

__all__ = ["main"]

# name → (module with a click command called `command`, one-line help). The help stands here so
# that `beamline --help` imports no subcommand.
_COMMANDS = {
    "demo": ("beamline.cli.demo", "Simulate a beamline, scan it, write the files and check them."),
    "ipython": ("beamline.cli.ipython", "Open IPython with RE, devices, plans and magics."),
    "server": ("beamline.cli.server", "Run the simulated device server."),
    "ioc": ("beamline.cli.ioc", "Run the IOC that serves the device server over EPICS."),
    "fault": ("beamline.cli.fault", "Break and mend the simulated beamline."),
    "runs": ("beamline.cli.runs", "List the recorded runs."),
    "show": ("beamline.cli.show", "Show what is recorded of one run."),
    "recover": ("beamline.cli.recover", "Complete runs that were cut off by a crash."),
    "validate": ("beamline.cli.validate", "Check NeXus, CXI, frame and journal files."),
    "replay": ("beamline.cli.replay", "Write the files of a recorded run again."),
    "xpcs": ("beamline.cli.xpcs", "Correlate frames: g2, and the diffusion constant."),
    "callbacks": ("beamline.cli.callbacks", "Run writers and catalogue in a process of their own."),
    "catalog": ("beamline.cli.catalog", "Keep the catalogue in step with the journal."),
    "pipeline": ("beamline.cli.pipeline", "Segment frames on Ray, from Q1 or a source to Q2."),
    "simulate-q2": ("beamline.cli.simulate_q2", "Fill Q2 with simulated results, truth known."),
    "mask": ("beamline.cli.mask", "Make a mask of a detector without a GUI."),
    "qmap": ("beamline.cli.qmap", "Make q-maps and bins of a detector without a GUI."),
    "doctor": ("beamline.cli.doctor", "Check the installation and show the settings."),
}


class _LazyGroup(click.Group):
    """A group whose subcommands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        if cmd_name != "doctor":  # which says it in its own words
            check_packages()
        command: click.Command = importlib.import_module(_COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="beamline")
def _beamline() -> None:
    """Streaming dataflow for X-ray beamlines, with a simulated beamline whose truth is known."""


def main(argv: list[str] | None = None) -> Any:
    """Run the command line; errors of this project become one sentence and exit status 1."""
    try:
        status = _beamline.main(args=argv, prog_name="beamline", standalone_mode=False) or 0
        sys.stdout.flush()
        return status
    except click.exceptions.Abort:
        click.echo("beamline: interrupted.", err=True)
        sys.exit(130)
    except KeyboardInterrupt:
        click.echo("beamline: interrupted.", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BeamlineError as error:
        click.echo(f"beamline: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO):
            raise
        click.echo(f"beamline: cannot write: {error.strerror}.", err=True)
        _silence_stdout()
        sys.exit(1)


def _silence_stdout() -> None:
    # What could not be written would be tried again, with a traceback, when Python ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
