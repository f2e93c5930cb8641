"""Pictures of g2 while a run goes on: drawn in a thread, replaced as a whole."""

from __future__ import annotations

import hashlib
import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["G2Picture", "PlotThread", "digest", "draw"]

_log = logging.getLogger(__name__)
_CURVES = 8


@dataclass(frozen=True, eq=False)
class G2Picture:
    """What is drawn.

    Attributes
    ----------
    delays, g2, errors
        (n_delay,) s; (n_delay, n_bins).
    q
        (n_bins,) in `q_unit`.
    q_unit
        For people.
    title
        Above the picture.
    rates
        What was fitted: q², Γ, its error, each (n,), in Å⁻² and 1/s; and D with its error.
    """

    delays: npt.NDArray[np.float64]
    g2: npt.NDArray[np.float64]
    errors: npt.NDArray[np.float64]
    q: npt.NDArray[np.float64]
    title: str
    q_unit: str = "nm⁻¹"
    rates: dict[str, Any] = field(default_factory=dict)


def digest(g2: npt.NDArray[np.float64]) -> str:
    """Return what a picture says about the g2 that it shows (SHA-256)."""
    return hashlib.sha256(np.ascontiguousarray(g2, dtype=np.float64).tobytes()).hexdigest()


def draw(picture: G2Picture, path: Path) -> None:
    """Draw g2 over delay into a PNG, which appears as a whole.

    The PNG's text ``Description`` holds `digest` of the g2 that it shows.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0 if picture.rates else 7.0, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if picture.rates else 1, squeeze=False)[0]
    shown = [k for k in range(picture.g2.shape[1]) if np.isfinite(picture.g2[:, k]).any()]
    if len(shown) > _CURVES:
        places = np.linspace(0, len(shown) - 1, _CURVES).round().astype(int)
        shown = [shown[place] for place in places]
    colours = colormaps["viridis"](np.linspace(0, 0.9, max(len(shown), 1)))
    for colour, k in zip(colours, shown, strict=False):
        axes[0].errorbar(
            picture.delays, picture.g2[:, k], picture.errors[:, k], fmt="o-", ms=3, lw=1,
            elinewidth=0.8, color=colour, label=f"{picture.q[k]:.3g}",
        )  # fmt: skip
    axes[0].set_xscale("log")
    axes[0].set_xlabel("delay τ (s)")
    axes[0].set_ylabel("g₂")
    if shown:
        axes[0].legend(title=f"q ({picture.q_unit})", fontsize=8, ncols=2)
    axes[0].grid(alpha=0.3)
    if picture.rates:
        _draw_rates(axes[1], picture.rates)
    figure.suptitle(picture.title, fontsize=10)
    part = path.with_name(f".{path.name}.part")
    figure.savefig(part, format="png", dpi=110, metadata={"Description": digest(picture.g2)})
    part.replace(path)


def _draw_rates(axes: Any, rates: dict[str, Any]) -> None:
    squares, gammas, errors = rates["q2"], rates["gamma"], rates["gamma_err"]
    axes.errorbar(squares, gammas, errors, fmt="o", ms=4, color="tab:blue", label="Γ of each q")
    line = np.array([0.0, float(np.max(squares, initial=0.0))])
    axes.plot(
        line, rates["D"] * line, color="tab:red",
        label=f"D = {rates['D']:.4g} ± {rates['D_err']:.2g} Å²/s",
    )  # fmt: skip
    # Points that say little have large errors, and must not flatten the line.
    axes.set_ylim(0.0, 1.6 * max(rates["D"] * line[1], 1e-12))
    axes.set_xlabel("q² (Å⁻²)")
    axes.set_ylabel("Γ (1/s)")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


class PlotThread:
    """Draw the newest picture of a run whenever the last one is done.

    Parameters
    ----------
    path
        The PNG.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        #: Set whenever a picture has been drawn.
        self.drawn = threading.Event()
        self._newest: G2Picture | None = None
        self._ending = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="g2 picture", daemon=True)
        self._thread.start()

    def show(self, picture: G2Picture) -> None:
        """Draw this one next; one that still waits is left out."""
        with self._changed:
            self._newest = picture
            self._changed.notify()

    def finish(self, picture: G2Picture | None) -> None:
        """Draw the last picture, if any, and end; whoever calls waits for it."""
        with self._changed:
            self._newest = None
            self._ending = True
            self._changed.notify()
        self._thread.join()
        if picture is not None:
            self._draw(picture)

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._newest is None and not self._ending:
                    self._changed.wait()
                picture, self._newest = self._newest, None
            if picture is None:
                return
            self._draw(picture)

    def _draw(self, picture: G2Picture) -> None:
        # A picture is no reason to lose a result.
        try:
            draw(picture, self.path)
        except Exception:  # noqa: BLE001
            _log.exception("the picture %s can't be drawn", self.path)
        self.drawn.set()
