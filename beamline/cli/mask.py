"""``beamline mask``: make a mask of a detector without a GUI."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_OUT = click.Path(dir_okay=False, path_type=Path)


@click.command(name="mask")
@click.argument("output", type=_OUT)
@click.option("--image", type=_FILE, help="TIFF, PNG, .npy or HDF5 with an image or frames.")
@click.option("--dataset", help="Dataset of the HDF5 file; by default the largest with images.")
@click.option("--frames", default=200, show_default=True, help="Frames averaged at most.")
@click.option(
    "--shape",
    nargs=2,
    type=click.IntRange(1),
    metavar="ROWS COLUMNS",
    help="Shape of the detector, without an image.",
)
@click.option(
    "--mask",
    "masks",
    multiple=True,
    type=_FILE,
    help="Begin with the mask in this file (several times: all of them).",
)
@click.option(
    "--beam-stop",
    "discs",
    multiple=True,
    nargs=3,
    type=float,
    metavar="X Y RADIUS",
    help="Mask a disc, in pixels: column, row, radius.",
)
@click.option(
    "--rectangle",
    "rectangles",
    multiple=True,
    nargs=4,
    type=float,
    metavar="X0 Y0 X1 Y1",
    help="Mask a rectangle, in pixels.",
)
@click.option(
    "--polygons",
    "polygon_files",
    multiple=True,
    type=_FILE,
    help="Mask the polygons in this file (JSON, or text with x y per line).",
)
@click.option("--low", type=float, help="Mask pixels below this, in counts of the mean frame.")
@click.option("--high", type=float, help="Mask pixels above this, in counts of the mean frame.")
@click.option(
    "--hot",
    type=float,
    is_flag=False,
    flag_value=8.0,
    metavar="SIGMA",
    help="Mask pixels that exceed their neighbourhood by SIGMA times the noise (8).",
)
@click.option("--grow", default=0, metavar="PIXELS", help="Mask so many pixels around, too.")
@click.option("--description", default="", help="Text to keep with the mask.")
@click.option("--png", type=_OUT, help="Also draw image and mask into this file.")
@click.option("--force", is_flag=True, help="Replace OUTPUT if it exists.")  # fmt: skip
def command(
    output: Path,
    image: Path | None,
    dataset: str | None,
    frames: int,
    shape: tuple[int, int] | None,
    masks: tuple[Path, ...],
    discs: tuple[tuple[float, float, float], ...],
    rectangles: tuple[tuple[float, float, float, float], ...],
    polygon_files: tuple[Path, ...],
    low: float | None,
    high: float | None,
    hot: float | None,
    grow: int,
    description: str,
    png: Path | None,
    force: bool,
) -> None:
    """Make a mask and write it to OUTPUT (HDF5, /simplemask/mask).

    A pixel is masked if any option masks it. Columns (X) and rows (Y) count from 0 at the centre
    of the first pixel, as in images.

    \b
    beamline mask mask.h5 --shape 512 512 --beam-stop 256.5 250 12
    beamline mask mask.h5 --image frames.h5 --hot --beam-stop 256 250 12 --png mask.png
    beamline mask better.h5 --mask mask.h5 --polygons shadow.json --grow 1
    """  # noqa: D301
    from beamline.xpcs import masks as make
    from beamline.xpcs.hdf5_facade import HDF5Facade
    from beamline.xpcs.images import read_image
    from beamline.xpcs.schemas import MaskSchema

    refuse_existing(output, force=force)
    needs_image = [
        f"--{name}" for name, value in (("low", low), ("high", high), ("hot", hot))
        if value is not None
    ]  # fmt: skip
    if needs_image and image is None:
        raise click.UsageError(f"{needs_image[0]} needs an --image.")
    facade = HDF5Facade()
    steps: list[tuple[str, npt.NDArray[np.int32]]] = []
    values = None
    if image is not None:
        mean = read_image(image, dataset, most=frames, facade=facade)
        values = mean.values
        click.echo(f"{mean.source}: mean of {mean.frames[0]} of {mean.frames[1]} frame(s)")
        steps.append(("not finite", make.finite(values)))
    steps += [(f"mask {path}", facade.read_mask(path).mask) for path in masks]
    if not steps and shape is None:
        raise click.UsageError("Give the --shape of the detector, an --image or a --mask.")
    size = shape or (steps[0][1].shape[0], steps[0][1].shape[1])
    steps += [(f"beam stop {one}", make.disc(size, *one)) for one in discs]
    steps += [(f"rectangle {one}", make.rectangle(size, *one)) for one in rectangles]
    for path in polygon_files:
        steps.append((f"polygons {path}", make.polygons(size, make.read_polygons(path))))
    if values is not None and (low is not None or high is not None):
        steps.append(("threshold", make.threshold(values, low, high)))
    if values is not None and hot is not None:
        steps.append(("hot", make.hot_pixels(values, hot)))
    mask = make.combine(make.everything(size), *(one for _, one in steps))
    if grow:
        mask = make.grow(mask, grow)
    for name, one in steps:
        click.echo(f"  {one.size - int(one.sum()):9d} pixels: {name}")
    if not mask.any():
        raise make.MaskError(f"All {mask.size} pixels would be masked; nothing was written.")
    with whole_file(output) as part:
        facade.write_mask(part, MaskSchema(mask, description=description))
    masked = mask.size - int(mask.sum())
    click.echo(
        f"{output}: {masked} of {mask.size} pixels masked ({100 * masked / mask.size:.2f} %)"
    )
    if png is not None:
        from beamline.xpcs.preview import draw_mask

        draw_mask(png, mask, values)
        click.echo(f"{png}: drawn")


@contextlib.contextmanager
def whole_file(output: Path) -> Iterator[Path]:
    """Offer a name to write to, which becomes `output` if nothing goes wrong."""
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)


def refuse_existing(output: Path, *, force: bool) -> None:
    """Raise if a file is there that must not be replaced."""
    if output.exists() and not force:
        raise click.UsageError(f"{output} exists; take another name, or --force to replace it.")
