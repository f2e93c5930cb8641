"""A figure for each scan of the demonstration, drawn from the written files only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_mesh", "draw_profile", "draw_spectrum", "draw_still"]

Array = npt.NDArray[np.float64]


def _figure(width: float = 6.4, height: float = 4.4) -> Figure:
    # Without pyplot: no global state, no window, whatever backend the user has chosen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_profile(
    path: Path, position: Array, absorption: Array, centre: float, true_centre: float, axis: str
) -> None:
    """Draw a line scan with the found and the true centre of the foil (µm)."""
    figure = _figure()
    axes = figure.subplots()
    axes.plot(position, absorption, ".-", color="C0", label="measured")
    axes.axvline(centre, color="C1", label=f"found centre {centre:.1f} µm")
    axes.axvline(true_centre, color="k", ls=":", label=f"true centre {true_centre:.1f} µm")
    axes.set(xlabel=f"{axis} (µm)", ylabel="µt = ln(i0/itrans)", title=f"Line scan of {axis}")
    axes.legend()
    figure.savefig(path, dpi=120)


def draw_mesh(
    path: Path, y: Array, x: Array, absorption: Array, outline: tuple[float, float, float, float]
) -> None:
    """Draw a mesh scan, µt (ny, nx), with the true outline (x, y, width, height) of the foil."""
    from matplotlib.patches import Rectangle

    figure = _figure()
    axes = figure.subplots()
    image = axes.pcolormesh(x, y, absorption, shading="nearest", cmap="viridis")
    cx, cy, width, height = outline
    axes.add_patch(
        Rectangle(
            (cx - width / 2, cy - height / 2), width, height,
            fill=False, edgecolor="w", ls="--", label="true outline",
        )
    )  # fmt: skip
    axes.set(
        xlabel="sample_x (µm)", ylabel="sample_y (µm)", title="Mesh scan of the foil",
        aspect="equal",
    )  # fmt: skip
    axes.legend(loc="upper right")
    figure.colorbar(image, ax=axes, label="µt = ln(i0/itrans)")
    figure.savefig(path, dpi=120)


def draw_spectrum(
    path: Path, energy: Array, absorption: Array, result: Any, true_e0: float, title: str
) -> None:
    """Draw an XAFS scan: the spectrum, and its derivative around the found edge (eV)."""
    figure = _figure(9.0, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    left.plot(energy, absorption, color="C0", lw=1)
    left.axvline(result.e0, color="C1", lw=1)
    left.set(xlabel="energy (eV)", ylabel="µt = ln(i0/itrans)", title=title)
    left.text(0.97, 0.05, f"edge step {result.edge_step:.3f}", transform=left.transAxes, ha="right")
    near = np.abs(energy - result.e0) < 30
    right.plot(energy[near], np.gradient(absorption, energy)[near], ".-", ms=3, lw=0.8, color="C0")
    right.axvline(result.e0, color="C1", label="found")
    right.axvline(true_e0, color="k", ls=":", label="true")
    right.set(
        xlabel="energy (eV)",
        ylabel="dµt/dE (1/eV)",
        title=f"E0: found {result.e0:.2f} eV, true {true_e0:.2f} eV",
    )
    right.legend(loc="upper left")
    figure.savefig(path, dpi=120)


def draw_still(path: Path, image: npt.NDArray[Any], peaks: Array, truth: Array) -> None:
    """Draw a still with found peaks (circles) and true spots (crosses), (n, 2) fs and ss in px."""
    figure = _figure(7.0, 6.2)
    axes = figure.subplots()
    top = max(float(np.percentile(image, 99.8)), 1.0)
    shown = axes.imshow(image, cmap="gray_r", vmin=0, vmax=top, origin="lower")
    circle: dict[str, Any] = {"s": 60, "facecolors": "none", "edgecolors": "C0"}
    axes.scatter(peaks[:, 0], peaks[:, 1], lw=1, label="found peaks", **circle)
    axes.scatter(truth[:, 0], truth[:, 1], s=14, marker="+", c="C3", lw=0.8, label="true spots")
    axes.set(xlabel="fs (px)", ylabel="ss (px)", title="Crystal still")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)
    figure.colorbar(shown, ax=axes, label="counts", shrink=0.85)
    figure.savefig(path, dpi=120)
