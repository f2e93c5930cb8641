"""``beamline pipeline``: frames in, two-class logits on Q2, with inference workers on Ray."""

from __future__ import annotations

import contextlib
import itertools
import logging
import signal
import sys
import time
import uuid
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from beamline.cli.log_file import log_handlers

if TYPE_CHECKING:
    from beamline.streaming.inference import PipelineInput
    from beamline.streaming.pipeline_config import PipelineConfig


@click.command(name="pipeline")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="YAML file (examples/configs/pipeline_default.yaml).  [default: the defaults in it]",
)
@click.option("--total-samples", type=click.IntRange(1), help="Frames.  [default: all]")
@click.option(
    "--source",
    type=click.Choice(["queue", "simulator", "file"]),
    help="Where frames come from.  [default: as configured]",
)
@click.option("--model", help="local-background, spot-network, an .onnx file or module:factory.")
def command(
    config_path: Path | None, total_samples: int | None, source: str | None, model: str | None
) -> None:
    """Say for every pixel of every frame whether it belongs to a peak: from Q1 or a source to Q2.

    Ends when the source is exhausted, with an end marker on Q2; the exit status is 1 if a frame was
    lost. Ctrl-C stops the source, and what is on Q1 is still processed; a second one ends at once.
    """
    from beamline.streaming.cluster import connected
    from beamline.streaming.models import check_model
    from beamline.streaming.pipeline import open_queue, run_pipeline
    from beamline.streaming.pipeline_config import load_pipeline_config

    config = load_pipeline_config(
        config_path,
        {"source.total_samples": total_samples, "source.kind": source, "model.name": model},
    )
    check_model(config.model.name, config.model.options)
    _set_up_log(config)
    asked: list[int] = []

    def ask(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        asked.append(signum)
        if len(asked) > 1:
            raise KeyboardInterrupt

    with contextlib.ExitStack() as undo:
        for number in (signal.SIGINT, signal.SIGTERM):
            undo.callback(signal.signal, number, signal.signal(number, ask))
        frames = undo.enter_context(contextlib.closing(_source(config)))
        # The first frame is there before anything is started: a wrong path shows at once.
        given = None if config.source.kind == "queue" else _begun(frames)
        ours = undo.enter_context(connected(config.ray))
        runtime = config.runtime
        click.echo(
            f"READY input={runtime.queue_names.input_queue} "
            f"output={runtime.queue_names.output_queue} shards={runtime.queue_num_shards} "
            f"namespace={config.ray.namespace}"
        )
        report = run_pipeline(config, given, stopping=lambda: bool(asked))
        click.echo(str(report))
        for error in report.errors:
            click.echo(f"lost: {error}", err=True)
        if ours and runtime.enable_output_queue:
            queue = open_queue(runtime, runtime.queue_names.output_queue, config.ray.namespace)
            if not queue.ended and len(asked) < 2:
                click.echo(
                    "Q2 lives in a Ray cluster that ends with this command: waiting until it is "
                    "consumed; Ctrl-C drops what is left. ('ray start --head' makes a cluster that "
                    "stays.)",
                    err=True,
                )
            done = len(asked)
            while not queue.ended and len(asked) == done:
                time.sleep(0.2)
    if report.refused:
        sys.exit(1)


def _begun(frames: Iterator[PipelineInput]) -> Iterable[PipelineInput]:
    first = next(frames, None)
    return itertools.chain([] if first is None else [first], frames)


def _source(config: PipelineConfig) -> Generator[PipelineInput, None, None]:
    """Frames as configured; a generator, whose `close` ends what it started."""
    from beamline.core.errors import ConfigurationError
    from beamline.streaming.sources import frames_of_files, frames_of_stills, paced

    wanted, batch, run = config.source, config.runtime.batch_size, str(uuid.uuid4())
    if wanted.kind == "file":
        if not wanted.paths:
            raise ConfigurationError("source.kind is file: source.paths must name the files.")
        yield from paced(
            frames_of_files(
                wanted.paths,
                batch,
                run,
                dataset=wanted.dataset,
                photon_energy=wanted.photon_energy_eV,
                total=wanted.total_samples,
            ),
            wanted.rate,
            batch,
        )
    elif wanted.kind == "simulator":
        from ioc.stills import SimulatedStills

        with SimulatedStills(
            seed=wanted.seed,
            energy=wanted.energy_eV,
            exposure=wanted.exposure_s,
            settings=wanted.physics,
        ) as simulated:
            if wanted.geom_file is not None:
                simulated.write_geometry(wanted.geom_file)
            stills = simulated.take(wanted.total_samples or sys.maxsize)
            yield from paced(frames_of_stills(stills, batch, run), wanted.rate, batch)


def _set_up_log(config: PipelineConfig) -> None:
    system = config.system
    logging.basicConfig(
        level=system.log_level,
        format="%(asctime)s %(levelname)s %(message)s",
        handlers=log_handlers(system.log_file),
    )
