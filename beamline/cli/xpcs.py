"""``beamline xpcs``: g2 and the diffusion constant of frames that were recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from beamline.cli import options

if TYPE_CHECKING:
    from beamline.xpcs.partitions import QPartition
    from beamline.xpcs.schemas import GeometryMetadata

_FILES = (".h5", ".hdf5", ".hdf", ".nxs", ".npy")


# A run may be named "-1", which is an index and not an option.
@click.command(name="xpcs", context_settings={"ignore_unknown_options": True})
@click.argument("source", metavar="FILE|RUN", callback=options.no_misspelt_options)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path(),
    help="Folder for the results.  [default: here]",
)  # fmt: skip
@click.option("--bins", default=20, show_default=True, help="Dynamic bins of q.")
@click.option(
    "--static-bins", default=None, type=int,
    help="Static bins of q, a multiple of --bins.  [default: 5 times as many]",
)  # fmt: skip
@click.option("--log", "log_bins", is_flag=True, help="Space the bins by equal ratios of q.")
@click.option("--q-min", type=float, help="Least q, 1/nm.")
@click.option("--q-max", type=float, help="Greatest q, 1/nm.")
@click.option(
    "--mask", "mask_path", type=click.Path(path_type=Path),
    help="Valid pixels (1): a mask file (HDF5) or an array (.npy). Goes with --partition, too.",
)  # fmt: skip
@click.option(
    "--partition", "partition_path", type=click.Path(path_type=Path),
    help="File with bins (`beamline qmap`, SimpleMask, an earlier result), instead of --bins ….",
)  # fmt: skip
@click.option("--levels", default=8, show_default=True, help="Levels of the multi-tau correlator.")
@click.option(
    "--two-time", default=0, metavar="FRAMES",
    help="Add the two-time correlation, of at most so many frames (sums of neighbours beyond).",
)  # fmt: skip
@click.option("--frame-time", type=float, help="From one frame to the next, s.")
@click.option("--exposure", type=float, help="Exposure time of a frame, s.")
@click.option("--dataset", help="Of FILE: where the frames are.")
@click.option("--distance", type=float, help="Of FILE: sample to detector, mm.")
@click.option("--pixel", type=float, help="Of FILE: size of a pixel, mm.")
@click.option(
    "--beam", nargs=2, type=float, metavar="X Y",
    help="Of FILE: beam centre, column and row from 0, px.",
)  # fmt: skip
@click.option("--energy", type=float, help="Of FILE: photon energy, keV.")
@click.option(
    "--geometry", "geometry_path", type=click.Path(path_type=Path),
    help="Of FILE: take the geometry from this one; the options above replace parts of it.",
)  # fmt: skip
@click.option(
    "--legacy", is_flag=True,
    help="Add the two-time correlation in the older layout (/exchange/C2T_all), too.",
)  # fmt: skip
@click.option("--no-picture", is_flag=True, help="Draw no PNG.")
@options.config
@options.data_dir
def command(source: str, **given: Any) -> None:
    """Correlate recorded frames: g2 with errors, and D of Γ = D q².

    FILE holds frames: HDF5 of an area detector (pixels, or photons as NXevent_data), any HDF5 with
    a stack (--dataset), or an array (n, rows, columns) in .npy. A FILE doesn't say where the
    detector stood: give --distance, --pixel and --beam, --energy and --frame-time where it lacks
    them, or a --partition that has the geometry.

    RUN is a scan_id, the beginning of a uid, -1 for the latest run, or a FILE.journal: the
    documents say all of that.

    Written are NAME_results.hdf, a NeXus file (NXxpcs) that the viewers of the APS open too, and
    NAME_results.png; their names are printed, and D with its error.

    \b
    Examples:
      beamline xpcs -1 --q-min 0.5 --q-max 3
      beamline xpcs frames.h5 --distance 5000 --pixel 0.075 --beam 512 498 --frame-time 1e-3
    """  # noqa: D301  (click's mark against wrapping)
    path = Path(source)
    if path.suffix in _FILES and path.exists():
        _of_file(path, given)
    elif path.suffix in _FILES:
        from beamline.core.errors import MissingError

        raise MissingError(f"there is no file {path}.")
    else:
        _of_run(source, given)


def _of_run(name: str, given: Mapping[str, Any]) -> None:
    from beamline.core.config import load_settings
    from beamline.core.errors import BeamlineError
    from beamline.documents.consumers import ConsumerError
    from beamline.documents.journal import Journal, read_journal
    from beamline.documents.replay import completed
    from callbacks._xpcs_output import summary
    from callbacks.xpcs import XPCSWriter

    data = load_settings(given["config_path"], data_dir=given["data_dir"]).data_dir
    if name.endswith(".journal"):
        documents = read_journal(Path(name))
    else:
        journal = Journal(data / "journal")
        documents = journal.documents(journal.find(name))
    writer = XPCSWriter(
        given["output"],
        partition=_partition(given),
        mask=_mask(given),
        levels=given["levels"],
        two_time=given["two_time"],
        frame_time=given["frame_time"],
        every_run=True,
        interval=float("inf"),
        legacy=given["legacy"],
        plot_interval=0.0 if given["no_picture"] else 1.0,
        sinks=[],
        **_bin_options(given),
    )
    with _progress("correlating", None) as advance:
        done, total = 0, None
        try:
            for kind, doc in completed(documents):
                total = doc.get("num_points") if kind == "start" else total
                writer(kind, doc)
                advance(writer.statistics["frames"] - done, total)
                done = writer.statistics["frames"]
        except ConsumerError as error:
            raise error.errors[0][1] from None
    for problem in writer.errors:
        click.echo(f"beamline: {problem}", err=True)
    for diffusion in writer.diffusions:
        click.echo(summary(diffusion))
    for path in (*writer.files, *writer.pictures):
        click.echo(path)
    if not writer.files:
        raise BeamlineError(f"run {name} has no frames that could be correlated: nothing written.")


def _of_file(path: Path, given: Mapping[str, Any]) -> None:
    import time

    from beamline.core.errors import ConfigurationError
    from beamline.xpcs.analysis import XPCSAnalysis
    from beamline.xpcs.partitions import make_partition
    from callbacks._xpcs_offline import analyse, facts_of, open_source
    from callbacks._xpcs_output import picture_of, summary, write_result
    from callbacks._xpcs_plot import draw

    source, shape = open_source(path, given["dataset"])
    facts = facts_of(path)
    frame_time = given["frame_time"]
    if frame_time is None:
        raise ConfigurationError(
            f"the frame time of {path} is not known: give it in s with --frame-time."
        )
    partition = _partition(given)
    if partition is None:
        geometry = _geometry(path, shape, facts, given)
        partition = make_partition(geometry, _mask(given), **_bin_options(given))
    else:
        partition = _fitting(partition, path, shape, facts, given)
    exposure = given["exposure"] or facts.get("exposure") or frame_time
    analysis = XPCSAnalysis(
        partition, frame_time, exposure, levels=given["levels"], two_time=given["two_time"]
    )
    began = time.time()
    with _progress("correlating", source.rows()) as advance:
        for problem in analyse(source, analysis, advance):
            click.echo(f"beamline: {path}: {problem}", err=True)
    found = analysis.correlation()
    target = given["output"] / f"{path.stem}_results.hdf"
    start = {"uid": "", "time": began, "plan_name": "xpcs", "title": f"g2 of {path.name}"}
    stop = {"time": time.time(), "exit_status": "success", "reason": ""}
    diffusion = write_result(
        target, analysis, found, start, stop, sources=(str(path.absolute()),),
        legacy=given["legacy"],
    )  # fmt: skip
    click.echo(summary(diffusion))
    click.echo(target)
    if not given["no_picture"]:
        picture = target.with_suffix(".png")
        draw(picture_of(analysis, found, path.name, diffusion), picture)
        click.echo(picture)


def _fitting(
    partition: QPartition,
    path: Path,
    shape: tuple[int, int],
    facts: Mapping[str, float],
    given: Mapping[str, Any],
) -> QPartition:
    """Return given bins with a geometry, without the pixels that a mask leaves out."""
    import dataclasses

    from beamline.core.errors import ConfigurationError

    if partition.shape != shape:
        raise ConfigurationError(
            f"the bins of {given['partition_path']} are of the shape {partition.shape}, the frames "
            f"of {path} of {shape}: give bins of this detector."
        )
    if partition.metadata is None:
        partition = dataclasses.replace(partition, metadata=_geometry(path, shape, facts, given))
    mask = _mask(given)
    return partition if mask is None else partition.masked(mask)


def _geometry(
    path: Path, shape: tuple[int, int], facts: Mapping[str, float], given: Mapping[str, Any]
) -> GeometryMetadata:
    import dataclasses

    from beamline.core.errors import ConfigurationError
    from beamline.core.units import HC
    from beamline.xpcs.schemas import GeometryMetadata

    keV = given["energy"]  # noqa: N806  (the unit's name)
    wanted = {
        "--distance": ("det_dist", given["distance"]),
        "--pixel": ("pix_dim", given["pixel"]),
        "--beam": ("bcx", given["beam"] and given["beam"][0]),
        "--energy": ("lambda_", HC / (1e3 * keV) if keV else None),
    }
    known = {field: value for field, value in wanted.values() if value is not None}
    if given["beam"]:
        known["bcy"] = given["beam"][1]
    if given["geometry_path"] is not None:
        from beamline.xpcs.hdf5_facade import HDF5Facade

        base = HDF5Facade().read_geometry_metadata(given["geometry_path"])
        return dataclasses.replace(base, **known)
    if "lambda_" not in known and "energy" in facts:
        known["lambda_"] = HC / facts["energy"]
    missing = [option for option, (field, _) in wanted.items() if field not in known]
    if missing:
        raise ConfigurationError(
            f"where the detector of {path} stood is not known: give {', '.join(missing)}, "
            "--geometry FILE, or a --partition that has the geometry."
        )
    return GeometryMetadata(shape=shape, **known)


def _bin_options(given: Mapping[str, Any]) -> dict[str, Any]:
    low, high = given["q_min"], given["q_max"]
    limited = low is not None or high is not None
    return {
        "n_dynamic": given["bins"],
        "n_static": given["static_bins"] or 5 * given["bins"],
        "method": "log" if given["log_bins"] else "linear",
        "q_range": (low or 0.0, float("inf") if high is None else high) if limited else None,
    }


def _partition(given: Mapping[str, Any]) -> QPartition | None:
    path = given["partition_path"]
    if path is None:
        return None
    from beamline.xpcs.hdf5_facade import HDF5Facade

    return HDF5Facade().read_q_partition(path)


def _mask(given: Mapping[str, Any]) -> Any:
    path = given["mask_path"]
    if path is None:
        return None
    if path.suffix == ".npy":
        import numpy as np

        from beamline.core.errors import FileFormatError

        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise FileFormatError(f"{path}: it can't be read as a mask ({error}).") from None
    from beamline.xpcs.hdf5_facade import HDF5Facade

    return HDF5Facade().read_mask(path).mask


@contextmanager
def _progress(what: str, total: int | None) -> Iterator[Callable[..., None]]:
    """Show a bar of frames in a terminal; yield what advances it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda *_: None
        return
    with Progress(
        "{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console, transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task(what, total=total)

        def advance(frames: int, new_total: int | None = None) -> None:
            bar.update(task, advance=frames, total=new_total or total)

        yield advance
