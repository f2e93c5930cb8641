"""``beamline demo``: the main job, on a freshly simulated beamline."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import click

from beamline.cli import options

_MARK = ".beamline-demo"
# What a demo writes; anything else in its folder is somebody else's and stays.
_OURS = (
    *("journal", "nexus", "cxi", "frames", "catalog", "figures", "logs", "simulation", "replayed"),
    *("metadata.json", "metadata.new", "session.lock", "summary.json"),
)


@click.command(name="demo")
@options.config
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo-output"),
    show_default=True,
    help="Where files, figures and summary.json go.",
)
@click.option("--keep", is_flag=True, help="Keep what an earlier demo left there and add to it.")
@options.sample_options
@options.simulation_options
@options.callbacks
def command(
    config_path: Path | None,
    output_dir: Path,
    keep: bool,
    sample: tuple[str, ...],
    **given: Any,
) -> None:
    """Simulate a beamline, scan it, write NeXus and CXI, and hold the files against the truth.

    Starts a device server and an IOC on free loopback ports, aligns the stage, maps the foil,
    measures its XAFS, takes crystal stills, replays a run, and stops everything. Exit status 0
    means that everything found in the files agrees with what was simulated.
    """
    from beamline.core.config import Settings, load_settings
    from beamline.interrupts import Interrupts

    with Interrupts() as interrupts:
        # It checks all that can be written.
        every = Settings.model_fields["writers"].default
        settings = load_settings(config_path, sample=sample or None, writers=every, **given)

        from bluesky.utils import RunEngineInterrupted
        from rich.console import Console

        from beamline.demo.run import check, run_demo
        from beamline.simulation import check_samples

        interrupts.check()
        check_samples(settings)
        _prepare(output_dir, keep)
        _log_to(output_dir / "logs" / "demo.log")
        console = Console()
        try:
            report = run_demo(settings, output_dir.resolve(), console.print, interrupts.check)
        except RunEngineInterrupted:
            raise KeyboardInterrupt from None
        _show(console, report, output_dir)
        check(report)


def _prepare(directory: Path, keep: bool) -> None:
    """Make the output directory; what an earlier demo left there goes, unless it is kept."""
    from beamline.core.errors import ConfigurationError

    try:
        if directory.exists() and not keep and any(directory.iterdir()):
            if not (directory / _MARK).exists():
                raise ConfigurationError(
                    f"{directory} is not empty and was not made by 'beamline demo': choose another "
                    "--output-dir, or add to it with --keep."
                )
            for entry in (directory / name for name in _OURS):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink(missing_ok=True)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / _MARK).touch()
    except OSError as error:
        raise ConfigurationError(
            f"cannot write to the output directory {directory}: {error.strerror}; choose another "
            "with --output-dir."
        ) from None


def _log_to(path: Path) -> None:
    """Send log messages to a file: bluesky logs a traceback for every run that is aborted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)


def _show(console: Any, report: Any, output_dir: Path) -> None:
    from rich.table import Table

    runs = Table(title="Runs in the catalogue", title_justify="left")
    for heading in ("scan", "plan", "status", "points", "uid"):
        runs.add_column(heading)
    for run in report.runs:
        points = str(run["num_events"].get("primary", 0))
        runs.add_row(
            str(run["scan_id"]), run["plan_name"], run["exit_status"], points, run["uid"][:8]
        )
    console.print(runs)
    table = Table(title="Found in the files, beside the truth", title_justify="left")
    for heading in ("quantity", "true", "found", "tolerance", ""):
        table.add_column(heading, justify="right" if heading in ("true", "found") else "left")
    for item in report.findings:
        table.add_row(
            item.name,
            _quantity(item.true, item.unit),
            _quantity(item.found, item.unit),
            f"± {item.tolerance:.3g}",
            "[green]✓[/]" if item.passed else "[red]✗[/]",
        )
    console.print(table)
    console.print(
        f"{len(report.files)} files and summary.json in {output_dir} "
        f"({report.seconds:.0f} s). Look at {output_dir}/figures."
    )


def _quantity(value: float, unit: str) -> str:
    text = f"{value:.2f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{text} {unit}".rstrip()
