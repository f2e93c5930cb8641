"""Pictures of masks and bins, for a look before a measurement; matplotlib without a window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.errors import StorageError
from beamline.xpcs.adapters import MatplotlibAdapter
from beamline.xpcs.partitions import QPartition

__all__ = ["draw_mask", "draw_partition"]


def draw_mask(
    path: Path, mask: npt.NDArray[np.int32], image: npt.NDArray[np.float64] | None = None
) -> None:
    """Draw an image on a logarithmic scale, or nothing, with what is masked in red."""
    shown = mask.astype(np.float64) if image is None else _logarithm(image)
    figure, axes = _figure(mask.shape)
    adapter = MatplotlibAdapter()
    axes.imshow(adapter.to_matplotlib(shown), cmap="gray", interpolation="nearest")
    red = np.zeros((*mask.shape, 4))
    red[mask == 0] = (0.9, 0.1, 0.1, 0.6)
    axes.imshow(adapter.to_matplotlib(red), interpolation="nearest")
    axes.set_title(f"{np.count_nonzero(mask == 0)} of {mask.size} pixels masked")
    _save(figure, path)


def draw_partition(path: Path, partition: QPartition) -> None:
    """Draw static and dynamic bins, each in a colour of its own, what is masked in white."""
    from matplotlib import colormaps

    figure, (left, right) = _figure(partition.shape, 2)
    adapter = MatplotlibAdapter()
    for axes, kind, bins in (
        (left, "static", partition.static),
        (right, "dynamic", partition.dynamic),
    ):
        # Neighbouring labels differ most if their colours are far apart.
        order = np.random.default_rng(0).permutation(bins.n_labels)
        colours = colormaps["turbo"](np.linspace(0.05, 0.95, bins.n_labels))[order]
        picture = np.concatenate((np.ones((1, 4)), colours))[bins.roi_map]
        axes.imshow(adapter.to_matplotlib(picture), interpolation="nearest")
        axes.set_title(f"{bins.n_labels} {kind} bins")
        if partition.metadata is not None:
            axes.plot(partition.metadata.bcx, partition.metadata.bcy, "k+", scalex=False,
                      scaley=False)  # fmt: skip
    _save(figure, path)


def _logarithm(image: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    positive = image[np.isfinite(image) & (image > 0)]
    least = float(positive.min()) if positive.size else 1.0
    return np.log10(np.maximum(np.nan_to_num(image, posinf=least, neginf=least), least))


def _figure(shape: tuple[int, ...], columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = 6.0 * columns
    height = 0.8 + width / columns * min(2.0, max(0.3, shape[0] / shape[1]))
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns)


def _save(figure: Any, path: Path) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(part, format="png", dpi=110)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StorageError(f"{path}: the picture can't be written ({error.strerror}).") from error
