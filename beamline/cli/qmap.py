"""``beamline qmap``: make maps of q and azimuth and bins without a GUI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from beamline.cli.mask import refuse_existing, whole_file

if TYPE_CHECKING:
    from beamline.xpcs.hdf5_facade import HDF5Facade
    from beamline.xpcs.schemas import GeometryMetadata

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_OUT = click.Path(dir_okay=False, path_type=Path)
_POSITIVE = click.FloatRange(0, min_open=True)
_COUNT = click.IntRange(1)


@click.command(name="qmap")
@click.argument("output", type=_OUT)
@click.option(
    "--geometry",
    type=_FILE,
    help="Take the geometry from this file; the options below replace parts of it.",
)
@click.option("--mask", type=_FILE, help="Mask: of `beamline mask`, SimpleMask or a result.")
@click.option(
    "--shape",
    nargs=2,
    type=_COUNT,
    metavar="ROWS COLUMNS",
    help="Shape of the detector; by default the mask's.",
)
@click.option("--beam", nargs=2, type=float, metavar="X Y", help="Beam centre, px: column, row.")
@click.option("--distance", type=_POSITIVE, help="Sample to detector, mm.")
@click.option("--pixel", type=_POSITIVE, help="Edge of a pixel, mm.")
@click.option("--energy", type=_POSITIVE, help="Photon energy, keV.")
@click.option("--wavelength", type=_POSITIVE, help="Wavelength, Å, instead of --energy.")
@click.option(
    "--static",
    "n_static",
    default=100,
    show_default=True,
    type=_COUNT,
    help="Static bins of q; a multiple of the dynamic ones.",
)
@click.option(
    "--dynamic", "n_dynamic", default=10, show_default=True, type=_COUNT, help="Dynamic bins of q."
)
@click.option(
    "--static-phi",
    "n_static_phi",
    default=1,
    show_default=True,
    type=_COUNT,
    help="Static bins of azimuth.",
)
@click.option(
    "--dynamic-phi",
    "n_dynamic_phi",
    default=1,
    show_default=True,
    type=_COUNT,
    help="Dynamic bins of azimuth.",
)
@click.option("--log", "logarithmic", is_flag=True, help="Bins of q at equal ratios.")
@click.option("--q-range", nargs=2, type=float, metavar="MIN MAX", help="Use only this q, 1/nm.")
@click.option("--phi-offset", default=0.0, help="Added to azimuths before binning, deg.")
@click.option("--symmetry", default=1, type=_COUNT, help="Number of equivalent sectors.")
@click.option("--exact", is_flag=True, help="q = 2k₀·sin(α/2) instead of k₀·sin α.")
@click.option("--png", type=_OUT, help="Also draw the bins into this file.")
@click.option("--force", is_flag=True, help="Replace OUTPUT if it exists.")  # fmt: skip
def command(
    output: Path,
    geometry: Path | None,
    mask: Path | None,
    png: Path | None,
    force: bool,
    logarithmic: bool,
    exact: bool,
    **options: Any,
) -> None:
    """Make maps of q and azimuth, static and dynamic bins, and write them to OUTPUT (HDF5).

    OUTPUT has the bins as SimpleMask and APS programs read them (/qmap), as a list
    (/simplemask/partition), the maps (/xpcs/qmap), the geometry and the mask.

    \b
    beamline qmap qmap.h5 --mask mask.h5 --beam 256.5 250 --distance 5000 --pixel 0.075 --energy 8
    beamline qmap other.h5 --geometry qmap.h5 --mask mask.h5 --static 180 --dynamic 18 --log
    """  # noqa: D301
    from beamline.xpcs.geometry import q_map
    from beamline.xpcs.hdf5_facade import HDF5Facade
    from beamline.xpcs.partitions import make_partition
    from beamline.xpcs.schemas import MaskSchema

    refuse_existing(output, force=force)
    facade = HDF5Facade()
    pixels = None if mask is None else facade.read_mask(mask).mask
    here = _geometry(facade, geometry, None if pixels is None else pixels.shape, options)
    partition = make_partition(
        here,
        pixels,
        n_static=options["n_static"],
        n_dynamic=options["n_dynamic"],
        n_static_phi=options["n_static_phi"],
        n_dynamic_phi=options["n_dynamic_phi"],
        method="log" if logarithmic else "linear",
        q_range=options["q_range"],
        phi_offset=options["phi_offset"],
        symmetry=options["symmetry"],
        exact=exact,
    )
    with whole_file(output) as part:
        facade.write_q_partition(part, partition)
        facade.write_partition(part, partition.schema("dynamic"))
        facade.write_mask(part, MaskSchema(partition.mask, here))
        facade.write_qmap(part, q_map(here, exact=exact, mask=partition.mask))
        facade.write_geometry_metadata(part, here)
    counts = partition.dynamic.num_list
    click.echo(
        f"{output}: {partition.static.n_labels} static bins in {partition.dynamic.n_labels} dynamic"
        f" bins of {counts.min()} to {counts.max()} pixels, q {partition.dynamic_q.min():.4g} to"
        f" {partition.dynamic_q.max():.4g} 1/nm, {int(partition.mask.sum())} of"
        f" {partition.mask.size} pixels used"
    )
    if png is not None:
        from beamline.xpcs.preview import draw_partition

        draw_partition(png, partition)
        click.echo(f"{png}: drawn")


def _geometry(
    facade: HDF5Facade,
    file: Path | None,
    shape: tuple[int, ...] | None,
    options: dict[str, Any],
) -> GeometryMetadata:
    """Return the geometry of a file with what the options say, or of the options alone."""
    from beamline.xpcs.geometry import wavelength
    from beamline.xpcs.schemas import GeometryMetadata

    if options["energy"] is not None and options["wavelength"] is not None:
        raise click.UsageError("Give --energy or --wavelength, not both.")
    found = {} if file is None else facade.read_geometry_metadata(file).to_dict()
    beam = options["beam"] or (None, None)
    given = {
        "bcx": beam[0],
        "bcy": beam[1],
        "det_dist": options["distance"],
        "pix_dim": options["pixel"],
        "lambda_": options["wavelength"]
        or (wavelength(options["energy"]) if options["energy"] else None),
        "shape": options["shape"] or shape,
    }
    found |= {name: value for name, value in given.items() if value is not None}
    names = {"bcx": "--beam", "det_dist": "--distance", "pix_dim": "--pixel",
             "lambda_": "--energy", "shape": "--shape (or --mask)"}  # fmt: skip
    missing = [option for name, option in names.items() if name not in found]
    if missing:
        raise click.UsageError(f"Give {', '.join(missing)}, or a --geometry file.")
    return GeometryMetadata.from_dict(found)
