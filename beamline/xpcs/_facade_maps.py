"""Maps, masks, partitions and geometry in the layouts that the field uses.

Own: ``/xpcs/qmap`` with maps of values, ``/xpcs/metadata``, ``/simplemask/…``. APS results:
``/xpcs/qmap`` with maps of labels and lists of values; SimpleMask's partitions are the same in
``/qmap``, its masks ``/mask``. APS legacy: the same by other names in ``/xpcs``, with the geometry
in ``/measurement``. In maps of labels, q is that of the pixel's bin, in 1/nm whatever the file has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.units import HC
from beamline.xpcs._facade_source import HDF5ValidationError, Source, join
from beamline.xpcs.geometry import convert_q, phi_map
from beamline.xpcs.partitions import Binning, Kind, PartitionError, QPartition
from beamline.xpcs.schemas import (
    GeometryMetadata,
    MaskSchema,
    PartitionSchema,
    QMapSchema,
    SchemaValidationError,
)

__all__ = ["checked", "load_geometry", "load_mask", "load_partition", "load_q_partition",
           "load_qmap", "q_unit"]  # fmt: skip

_LEGACY = "/xpcs"
_MEASUREMENT = "/measurement/instrument"
_ENTRY = "/entry/instrument"
#: Where bins lie that are a list, without static ones.
_LISTED = ("/simplemask/partition", "/")
#: Names of the units of q and of angles in files.
_Q_NAMES = {
    "nm^-1": "nm^-1", "1/nm": "nm^-1", "nm-1": "nm^-1", "nm⁻¹": "nm^-1", "1/nanometer": "nm^-1",
    "A^-1": "A^-1", "1/A": "A^-1", "A-1": "A^-1", "1/angstrom": "A^-1", "Å⁻¹": "A^-1",
    "Å^-1": "A^-1", "1/Å": "A^-1", "angstrom^-1": "A^-1",
}  # fmt: skip
_ANGLE_NAMES = {
    "rad": "rad", "radian": "rad", "radians": "rad",
    "deg": "deg", "degree": "deg", "degrees": "deg", "°": "deg",
}  # fmt: skip


def checked(source: Source, path: str, make: Callable[[], Any]) -> Any:
    """Return what `make` returns; what a schema refuses is an error that names file and path."""
    try:
        return make()
    except HDF5ValidationError:
        raise
    except (SchemaValidationError, PartitionError) as error:
        raise source.fail(path, error) from error


def q_unit(source: Source, group: str) -> str:
    """Return the unit of q in a group of labels: what it says, or the layout's own."""
    given: Any
    if source.has(join(group, "map_units")):
        given = source.texts(join(group, "map_units"))[0]
    else:
        listed = join(group, "dynamic_v_list_dim0")
        listed = listed if source.has(listed) else join(group, "dqlist")
        given = source.attribute(listed, "units") or source.attribute(listed, "unit")
    if given is None:
        # Programs of the APS have Å⁻¹; a file without their version may be anybody's.
        return "A^-1" if source.has(join(group, "Version")) else "nm^-1"
    return _known(source, group, given, _Q_NAMES, "q")


def load_qmap(source: Source, group: str) -> QMapSchema:
    """Read maps of q and azimuth."""
    if source.has(join(group, "sqmap")) and not _is_legacy(source, group):
        return _values(source, group)
    if _label_names(source, group) is None:
        raise source.missing(
            join(group, "sqmap"), "/xpcs/qmap/dynamic_roi_map", "/qmap/dynamic_roi_map",
            "/xpcs/dqlist",
        )  # fmt: skip
    found = load_q_partition(source, group)
    if found.map_names[0] != "q":
        raise source.fail(group, f"expected bins of q, found bins of {found.map_names[0]}.")

    def of_bins(bins: Binning) -> npt.NDArray[np.float64]:
        return np.concatenate(([0.0], bins.values))[bins.roi_map]

    phi_unit = "rad"
    if found.metadata is not None:
        phis = phi_map(found.metadata)
    else:
        phis = np.concatenate(([0.0], found.static.second_values))[found.static.roi_map]
        phi_unit = found.map_units[1]
    schema: QMapSchema = checked(
        source,
        group,
        lambda: QMapSchema(
            of_bins(found.static),
            of_bins(found.dynamic),
            phis,
            phis_unit=phi_unit,
            mask=found.mask,
            partition_map=found.dynamic.roi_map,
        ),
    )
    return schema


def _values(source: Source, group: str) -> QMapSchema:
    def unit(name: str, default: str, known: dict[str, str]) -> str:
        path = join(group, f"{name}_unit")
        given = source.text(path) if source.has(path) else None
        given = given or source.attribute(group, f"{name}_unit")
        given = given or source.attribute(join(group, name), "units")
        return default if given is None else _known(source, path, given, known, name)

    def optional(name: str) -> npt.NDArray[Any] | None:
        path = join(group, name)
        return source.array(path) if source.has(path) else None

    arrays = [source.array(join(group, name)) for name in ("sqmap", "dqmap", "phis")]
    schema: QMapSchema = checked(
        source, group,
        lambda: QMapSchema(
            arrays[0], arrays[1], arrays[2],
            unit("sqmap", "nm^-1", _Q_NAMES), unit("dqmap", "nm^-1", _Q_NAMES),
            unit("phis", "rad", _ANGLE_NAMES), optional("mask"), optional("partition_map"),
        ),
    )  # fmt: skip
    return schema


def load_q_partition(source: Source, group: str) -> QPartition:
    """Read static and dynamic bins; q is converted to 1/nm. Listed bins are both."""
    names = _label_names(source, group)
    if names is None:
        maps = {join(place, "partition_map"): place for place in (group, *_LISTED)}
        path = source.first(*maps)
        if path is None:
            raise source.missing(
                join(group, "dynamic_roi_map"), "/xpcs/qmap/dynamic_roi_map", "/xpcs/dqlist", *maps
            )
        place = maps[path]
        listed = load_partition(source, place, "dynamic")
        bins: QPartition = checked(source, place, lambda: QPartition.from_schema(listed))
        return bins
    group = names["group"]
    axes = _pair(source, group, "map_names", ("q", "phi"))
    units = _pair(source, group, "map_units", ("", "deg"))
    given = None
    if axes[0] == "q":
        given = q_unit(source, group)
        units = "nm^-1", _ANGLE_NAMES.get(units[1], units[1])
    dynamic = _bins(source, names, "dynamic", given)
    static = _bins(source, names, "static", given)
    path = join(group, "mask")
    mask = source.array(path) if source.has(path) else np.minimum(dynamic.roi_map, 1)
    metadata = _geometry_of_labels(source, group, dynamic.roi_map.shape)
    found: QPartition = checked(
        source, group, lambda: QPartition(dynamic, static, mask, metadata, axes, units)
    )
    return found


def load_partition(source: Source, group: str, kind: Kind) -> PartitionSchema:
    """Read bins as one list: our own layout, any other's dynamic or static bins."""
    found = source.first(join(group, "partition_map"), "/partition_map")
    if found is None:
        if _label_names(source, group) is None:
            raise source.missing(
                join(group, "partition_map"), "/partition_map", "/xpcs/qmap/dynamic_roi_map",
                "/qmap/dynamic_roi_map", "/xpcs/dqlist",
            )  # fmt: skip
        bins = load_q_partition(source, group)
        schema: PartitionSchema = checked(source, group, lambda: bins.schema(kind))
        return schema
    place = found.removesuffix("/partition_map") or "/"
    labels = source.array(found)

    def listed(name: str) -> Any:
        path = join(place, name)
        if source.has(path):
            return source.vector(path)
        value = source.attribute(place, name)
        if value is None and name == "num_list":
            counts = np.bincount(labels.ravel().clip(0), minlength=1)[1:]
            return np.pad(counts, (0, max(0, number - len(counts))))
        if value is None:
            raise source.missing(path)
        return value

    number = int(_scalar(source, place, "num_pts"))
    mask = join(place, "mask")
    found_schema: PartitionSchema = checked(
        source, found,
        lambda: PartitionSchema(
            partition_map=labels,
            num_pts=number,
            val_list=listed("val_list"),
            num_list=listed("num_list"),
            metadata=_metadata_within(source, place),
            version=_version(source, place),
            mask=source.array(mask) if source.is_dataset(mask) else None,
            method=_text(source, place, "method", "linear"),
        ),
    )  # fmt: skip
    return found_schema


def load_mask(source: Source, group: str) -> MaskSchema:
    """Read a mask."""
    path = source.first(
        join(group, "mask"), group, "/mask", "/qmap/mask", "/xpcs/qmap/mask", "/xpcs/mask"
    )
    if path is None or not source.is_dataset(path):
        raise source.missing(
            join(group, "mask"), "/mask", "/qmap/mask", "/xpcs/qmap/mask", "/xpcs/mask"
        )
    place = path.rsplit("/", 1)[0] or "/"
    mask = source.array(path)
    said = source.attribute(place, "shape")
    if said is not None and tuple(np.ravel(said).tolist()) != mask.shape:
        raise source.fail(
            path, f"expected shape {tuple(np.ravel(said).tolist())} as 'shape' says, found"
            f" {mask.shape}.",
        )  # fmt: skip
    schema: MaskSchema = checked(
        source, path,
        lambda: MaskSchema(
            mask, _metadata_within(source, place), _version(source, place),
            _text(source, place, "description", ""),
        ),
    )  # fmt: skip
    return schema


def load_geometry(source: Source, group: str) -> GeometryMetadata:
    """Read where the detector stood."""
    if source.has(group):
        return _metadata(source, group)
    for place in ("/simplemask/mask/metadata", "/simplemask/partition/metadata"):
        if source.has(place):
            return _metadata(source, place)
    for place in ("/xpcs/qmap", "/qmap", _LEGACY):
        labels = source.first(*(join(place, name) for name in ("dynamic_roi_map", "mask", "dqmap")))
        if labels is not None:
            found = _geometry_of_labels(source, place, source.shape(labels))
            if found is not None:
                return found
    raise source.missing(group, "/xpcs/qmap/beam_center_x", f"{_MEASUREMENT}/detector/distance")


def _label_names(source: Source, group: str) -> dict[str, str] | None:
    """Return how the layout at hand calls its maps and lists of labels; None if it has none."""
    for place in dict.fromkeys((group, "/xpcs/qmap", "/qmap")):
        if source.has(join(place, "dynamic_roi_map")):
            return {"group": place, "map": "{kind}_roi_map", "dim0": "{kind}_v_list_dim0",
                    "dim1": "{kind}_v_list_dim1"}  # fmt: skip
    for place in dict.fromkeys((group, _LEGACY)):
        if _is_legacy(source, place):
            return {"group": place, "map": "{k}qmap", "dim0": "{k}qlist", "dim1": "{k}philist"}
    return None


def _is_legacy(source: Source, group: str) -> bool:
    return source.has(join(group, "dqmap"), join(group, "dqlist"))


def _bins(source: Source, names: dict[str, str], kind: Kind, unit: str | None) -> Binning:
    """Read one set of bins; those of q (in `unit`, None for others) are converted to 1/nm."""

    def path(name: str) -> str:
        return join(names["group"], names[name].format(kind=kind, k=kind[0]))

    labels = source.array(path("map"))
    dim0 = source.vector(path("dim0"))
    if unit is not None:
        dim0 = convert_q(dim0, unit, "nm^-1")
    dim1 = source.vector(path("dim1")) if source.has(path("dim1")) else np.zeros(1)
    mapping = join(names["group"], f"{kind}_index_mapping")
    if source.has(mapping):
        index = source.vector(mapping).astype(np.int64)
    else:
        dim1, index = _legacy_bins(source, path("map"), labels, dim0, dim1)
    found: Binning = checked(source, path("map"), lambda: Binning(labels, dim0, dim1, index))
    return found


def _legacy_bins(
    source: Source,
    path: str,
    labels: npt.NDArray[Any],
    dim0: npt.NDArray[np.float64],
    dim1: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return azimuths and bins of legacy labels, which count through bins or through q only."""
    greatest = int(labels.max()) if labels.size and labels.dtype.kind in "biuf" else 0
    if len(dim1) in (0, len(dim0)) or greatest <= len(dim0) < len(dim0) * len(dim1):
        # One azimuth per label, or one q per label: the lists are as long as the labels are many.
        dim1 = dim1[:1] if len(dim1) else np.zeros(1)
    index = np.arange(len(dim0) * len(dim1))
    if greatest > len(index):
        raise source.fail(
            path, f"expected labels of 0 to {len(index)}, as the lists have them, found {greatest}."
        )
    return dim1, index[: max(greatest, 0)]


def _geometry_of_labels(
    source: Source, group: str, shape: tuple[int, ...]
) -> GeometryMetadata | None:
    """Return the geometry of a layout of labels, in m and keV; None if any of it is not there."""
    if group == _LEGACY:
        unit, names = "mm", (
            f"{_MEASUREMENT}/acquisition/beam_center_x",
            f"{_MEASUREMENT}/acquisition/beam_center_y",
            f"{_MEASUREMENT}/detector/distance", f"{_MEASUREMENT}/detector/x_pixel_size",
            f"{_MEASUREMENT}/source_begin/energy",
        )  # fmt: skip
    else:
        energy = source.first(join(group, "energy"), f"{_ENTRY}/incident_beam/incident_energy")
        unit, names = "m", (
            join(group, "beam_center_x"), join(group, "beam_center_y"),
            join(group, "detector_distance"), join(group, "pixel_size"), energy or "/energy",
        )  # fmt: skip
    if len(shape) != 2 or not source.has(*names):
        return None
    metadata: GeometryMetadata = checked(
        source, names[2],
        lambda: GeometryMetadata(
            bcx=source.number(names[0]),
            bcy=source.number(names[1]),
            det_dist=source.quantity(names[2], "length", unit),
            lambda_=HC / 1e3 / (source.quantity(names[4], "energy", "keV") or math.nan),
            pix_dim=source.quantity(names[3], "length", unit),
            shape=(shape[0], shape[1]),
        ),
    )  # fmt: skip
    return metadata


def _metadata(source: Source, group: str) -> GeometryMetadata:
    """Read geometry by the names of its fields, each a dataset or an attribute."""
    found: dict[str, Any] = {}
    for name in ("bcx", "bcy", "det_dist", "lambda_", "pix_dim", "det_rotation", "incident_angle"):
        path = join(group, name)
        if source.has(path):
            lengths = name in ("det_dist", "pix_dim")
            found[name] = source.quantity(path, "length", "mm") if lengths else source.number(path)
        else:
            found[name] = source.attribute(group, name)
    path = join(group, "shape")
    if source.has(path):
        found["shape"] = source.vector(path)
    elif source.has(join(group, "height"), join(group, "width")):
        found["shape"] = [source.number(join(group, name)) for name in ("height", "width")]
    else:
        found["shape"] = source.attribute(group, "shape")
    for name in ("bcx", "bcy", "det_dist", "lambda_", "pix_dim", "shape"):
        if found[name] is None:
            raise source.missing(join(group, name))
    metadata: GeometryMetadata = checked(source, group, lambda: GeometryMetadata.from_dict(found))
    return metadata


def _metadata_within(source: Source, group: str) -> GeometryMetadata | None:
    path = join(group, "metadata")
    return _metadata(source, path) if source.has(path) else None


def _pair(source: Source, group: str, name: str, default: tuple[str, str]) -> tuple[str, str]:
    path = join(group, name)
    if not source.has(path):
        return default
    found = source.texts(path)
    if len(found) != 2:
        raise source.fail(path, f"expected two names, found {found}.")
    return found[0], found[1]


def _known(source: Source, path: str, given: Any, names: dict[str, str], what: str) -> str:
    if str(given) not in names:
        known = ", ".join(dict.fromkeys(names.values()))
        raise source.fail(path, f"expected units of {what}, one of {known}, found {given!r}.")
    return names[str(given)]


def _scalar(source: Source, group: str, name: str) -> float:
    path = join(group, name)
    if source.has(path):
        return source.number(path)
    value = source.attribute(group, name)
    if not isinstance(value, int | float):
        raise source.missing(path)
    return value


def _text(source: Source, group: str, name: str, default: str) -> str:
    path = join(group, name)
    if source.has(path):
        return source.text(path)
    value = source.attribute(group, name)
    return default if value is None else str(value)


def _version(source: Source, group: str) -> str:
    return _text(source, group, "version", "1.0.0")
