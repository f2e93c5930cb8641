"""``beamline simulate-q2``: fill Q2 with simulated inference results whose truth is known."""

from __future__ import annotations

import signal
import time
import uuid
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from beamline.streaming.queue import ShardedQueueManager
    from beamline.streaming.simulate import Q2Simulator

_PROGRESS_SECONDS = 5.0


@click.command(name="simulate-q2")
@click.option("--events", type=click.IntRange(1), default=1000, show_default=True)
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    help="Events per second.  [default: no limit]",
)
@click.option(
    "--batch", type=click.IntRange(1), default=1, show_default=True, help="Events per item."
)
@click.option(
    "--distinct",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="Different stills; used in turn.",
)
@click.option("--queue", "name", default="peaknet_q2", show_default=True, help="Base name of Q2.")
@click.option("--shards", type=click.IntRange(1), default=8, show_default=True)
@click.option("--maxsize", type=click.IntRange(1), default=1600, show_default=True)
@click.option("--namespace", default="peaknet-pipeline", show_default=True)
@click.option("--address", default="auto", show_default=True, help="auto, local or host:port.")
@click.option("--truth", type=click.Path(path_type=Path), help="NPZ file for the truth.")
@click.option("--geometry", type=click.Path(path_type=Path), help="CrystFEL geometry to write.")
@click.option("--model", default="local-background", show_default=True, help="Makes the logits.")
@click.option("--pad", type=click.IntRange(1), default=1, show_default=True, help="To a multiple.")
@click.option("--energy", type=float, default=9500.0, show_default=True, help="eV.")
@click.option("--exposure", type=float, default=0.1, show_default=True, help="s.")
@click.option("--hit-probability", type=click.FloatRange(0, 1), default=1.0, show_default=True)
@click.option("--panels", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--pixels",
    type=click.IntRange(16),
    default=512,
    show_default=True,
    help="Rows and columns of a panel.",
)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--run", "run_uid", default=None, help="Uid of the run.  [default: a new one]")
@click.option(
    "--hostile",
    multiple=True,
    metavar="FAULT",
    help="nan, nan-image, wrong-shape, no-image, wrong-wavelength, duplicate, year-2200 or all; "
    "may be repeated.",
)
@click.option(
    "--hostile-every",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Every so many items one has a fault.",
)
@click.option("--no-end", is_flag=True, help="Put no end marker: more will come.")
def command(
    events: int,
    rate: float | None,
    name: str,
    shards: int,
    maxsize: int,
    namespace: str,
    address: str,
    truth: Path | None,
    no_end: bool,
    **options: Any,
) -> None:
    """Fill Q2 with simulated stills, their logits and metadata, as an inference pipeline does.

    The truth (spots, unit cell, orientation, photon energy of every event, and which ones are
    hostile) goes to the file of --truth. A full queue is waited for; nothing is dropped. Ctrl-C
    ends the stream early, with its end marker and its truth.
    """
    from beamline.streaming.cluster import connected
    from beamline.streaming.config import RaySettings
    from beamline.streaming.queue import ShardedQueueManager

    producer = _simulator(**options)
    settings = RaySettings.model_validate({"namespace": namespace, "address": address})
    asked: list[int] = []

    def ask(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        asked.append(signum)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with connected(settings) as ours:
            queue = ShardedQueueManager(name, shards, maxsize, namespace=namespace)
            click.echo(f"READY queue={name} shards={queue.num_shards} namespace={namespace}")
            try:
                _fill(queue, producer, events, rate, asked)
            finally:
                if truth is not None:
                    producer.truth.save(truth)
            if no_end:
                return
            queue.end()
            if ours and not queue.ended and not asked:
                click.echo(
                    "The queue lives in a Ray cluster that ends with this command: waiting until "
                    "it is consumed; Ctrl-C drops what is left.",
                    err=True,
                )
                while not queue.ended and not asked:
                    time.sleep(0.2)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _simulator(
    *,
    batch: int,
    distinct: int,
    geometry: Path | None,
    model: str,
    pad: int,
    energy: float,
    exposure: float,
    hit_probability: float,
    panels: int,
    pixels: int,
    seed: int,
    run_uid: str | None,
    hostile: tuple[str, ...],
    hostile_every: int,
) -> Q2Simulator:
    from beamline.streaming.models import load_model
    from beamline.streaming.preprocessing import Preprocessor
    from beamline.streaming.simulate import HOSTILE, Q2Simulator, Truth
    from ioc.stills import SimulatedStills

    settings = {
        "hit_probability": hit_probability,
        "detector_panels": panels,
        "detector_nx": pixels,
        "detector_ny": pixels,
    }
    with SimulatedStills(
        seed=seed, energy=energy, exposure=exposure, settings=settings
    ) as simulated:
        if geometry is not None:
            simulated.write_geometry(geometry)
        stills = list(simulated.take(distinct))
        known = Truth(simulated.truth["crystal"], simulated.truth["detector"], stills)
    return Q2Simulator(
        stills,
        known,
        load_model(model),
        Preprocessor(pad_to_multiple=pad),
        batch_size=batch,
        run=run_uid or str(uuid.uuid4()),
        hostile=list(HOSTILE) if "all" in hostile else hostile,
        hostile_every=hostile_every,
    )


def _fill(
    queue: ShardedQueueManager,
    producer: Q2Simulator,
    events: int,
    rate: float | None,
    asked: list[int],
) -> None:
    queue.begin()
    began = told = time.monotonic()
    done = waited = 0
    for item in producer.items(events):
        due = began + (done / rate if rate else 0.0)
        while not asked and (pause := due - time.monotonic()) > 0:
            time.sleep(min(pause, 0.2))
        while not asked and not queue.put_wait(item, timeout=1.0):
            waited += 1
        if asked:
            break
        done = len(producer.truth.index)
        if time.monotonic() - told > _PROGRESS_SECONDS:
            told = time.monotonic()
            click.echo(f"{done} of {events} events", err=True)
    seconds = time.monotonic() - began
    click.echo(
        f"{done} events in {seconds:.1f} s ({done / max(seconds, 1e-9):.1f}/s), "
        f"{waited} s of them waiting for room",
        err=True,
    )
