"""``cxi-writer``: from Q2, the output queue of an inference pipeline, to CXI files."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from beamline.cli.log_file import log_handlers

__all__ = ["main"]

_PATH = click.Path(path_type=Path)

#: Option, type, what it says; its name is that of the setting.
_OVERRIDES: tuple[tuple[str, Any, str], ...] = (
    ("--namespace", str, "Ray namespace."),
    ("--address", str, "Ray cluster: auto, local or host:port."),
    ("--name", str, "Name of the queue."),
    ("--num-shards", int, "Shards that the queue must have."),
    ("--wait-timeout", float, "Seconds to wait for the queue to be there."),
    ("--idle-timeout", float, "Seconds without an item after which the work is done."),
    ("--num-cpu-workers", int, "Tasks that find peaks at once."),
    ("--max-pending-tasks", int, "Tasks submitted and not finished."),
    ("--min-num-peak", int, "Fewer peaks are no hit."),
    ("--max-num-peak", int, "Of more peaks the strongest are stored."),
    ("--geom-file", _PATH, "CrystFEL geometry of the detector."),
    ("--distance-mm", float, "Camera length, if the geometry does not have it."),
    ("--output-dir", _PATH, "Where the CXI files go."),
    ("--file-prefix", str, "Begins their names."),
    ("--buffer-size", int, "Events per file."),
    ("--compression", click.Choice(["none", "gzip", "bitshuffle"]), "Of the frames."),
    ("--run-metadata-file", _PATH, "YAML or JSON of the run management."),
    ("--log-level", click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]), "What the log takes."),
    ("--log-file", _PATH, "The log goes there too."),
    ("--health-port", int, "Of the health endpoint; 0 takes a free one."),
)


def _overriding(function: Any) -> Any:
    for option, kind, text in reversed(_OVERRIDES):
        function = click.option(option, type=kind, help=f"{text}")(function)
    return function


@click.command(name="cxi-writer", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "config_path", type=_PATH, help="YAML file with the settings.")
@_overriding
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Any other setting; may be repeated.",
)
@click.option(
    "--validate-config",
    is_flag=True,
    help="Check that two configurations fit together, and end.",
)
@click.option("--pipeline-config", type=_PATH, help="The pipeline's, for --validate-config.")
@click.option("--writer-config", type=_PATH, help="The writer's, for --validate-config.")
@click.version_option(package_name="beamline-dataflow")
def _command(
    config_path: Path | None,
    assignments: tuple[str, ...],
    pipeline_config: Path | None,
    writer_config: Path | None,
    *,
    validate_config: bool,
    **overrides: Any,
) -> int:
    """Find peaks on what an inference pipeline puts into its output queue, and write CXI files.

    It connects to the Ray cluster of the pipeline (or starts one), waits for the queue, and ends
    when the producer has ended, after --idle-timeout, or at Ctrl-C; then everything taken from the
    queue is on disk.

    \b
    For example:
      cxi-writer --config cxi_writer.yaml --num-cpu-workers 32
      cxi-writer --validate-config --pipeline-config p.yaml --writer-config w.yaml

    Exit status: 0 if everything that was taken is written or refused for a reason that was told,
    1 if something was lost or could not be done.
    """  # noqa: D301  (click's mark)
    if validate_config:
        return _validate(pipeline_config, writer_config or config_path)
    if pipeline_config or writer_config:
        raise click.UsageError("--pipeline-config and --writer-config go with --validate-config.")

    from beamline.streaming.config import load_config, merge_config_with_overrides

    config = load_config(config_path) if config_path is not None else {}
    config = merge_config_with_overrides(config, {**overrides, **_assigned(assignments)})
    return _write(config)


def _validate(pipeline_path: Path | None, writer_path: Path | None) -> int:
    from beamline.core.errors import ConfigurationError
    from beamline.streaming.config import load_config, read_yaml
    from beamline.streaming.consistency import check_consistency

    if pipeline_path is None or writer_path is None:
        raise click.UsageError("--validate-config needs --pipeline-config and --writer-config.")
    configs: list[Mapping[str, Any]] = []
    passed = True
    for label, read, path in (
        ("Pipeline", read_yaml, pipeline_path),
        ("Writer", load_config, writer_path),
    ):
        try:
            configs.append(read(path))
        except ConfigurationError as error:
            click.echo(f"✗ {label} configuration: {error}")
            passed = False
    if passed:
        for check in check_consistency(*configs):
            click.echo(f"{'✓' if check.passed else '✗'} {check.text}")
            passed &= check.passed
    click.echo(
        f"{'✓' if passed else '✗'} Configuration validation {'passed' if passed else 'failed'}"
    )
    return 0 if passed else 1


def _assigned(assignments: tuple[str, ...]) -> dict[str, Any]:
    import yaml

    found = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or "." not in name:
            raise click.UsageError(f"--set takes SECTION.KEY=VALUE, found {text!r}.")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise click.UsageError(f"the value in --set {text!r} is no YAML.") from None
    return found


def _write(config: Mapping[str, Any]) -> int:
    import os
    import signal
    import threading

    stopping = threading.Event()

    def ask(signum: int, frame: object) -> None:  # noqa: ARG001
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()

    def listen() -> None:
        # The work of stopping is done in the main loop; a second signal ends at once.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, ask)

    listen()
    _start_log(config["system"]["log_level"], config["system"]["log_file"])

    from beamline.streaming.coordinator import run_cpu_postprocessing_pipeline

    def ready(url: str) -> None:
        listen()  # Ray has put its own handlers in place
        click.echo(f"READY health={url or 'none'} pid={os.getpid()}")

    done = run_cpu_postprocessing_pipeline(config, stopping=stopping.is_set, ready=ready)
    click.echo(
        f"{done['written']} events written in {done['files']} files; {done['filtered']} filtered, "
        f"{done['truncated']} truncated, {done['refused']} refused, {done['duplicates']} "
        f"duplicates, {done['lost']} lost.",
        err=True,
    )
    return 1 if done["lost"] else 0


def _start_log(level: str, file: str | None) -> None:
    logging.basicConfig(
        level=level,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        handlers=log_handlers(file),
        force=True,
    )


def main(argv: list[str] | None = None) -> None:
    """Run the command; errors of this project become one sentence and exit status 1."""
    from beamline.core.errors import BeamlineError

    try:
        status = _command.main(args=argv, prog_name="cxi-writer", standalone_mode=False)
        sys.exit(status or 0)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("cxi-writer: interrupted.", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BeamlineError as error:
        click.echo(f"cxi-writer: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
