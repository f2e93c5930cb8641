"""What an analysis leaves: the result file with the fits, and what is drawn of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from beamline.core.errors import StorageError
from beamline.xpcs.analysis import XPCSAnalysis
from beamline.xpcs.correlation import Correlation
from beamline.xpcs.diffusion import Diffusion, measure_diffusion
from beamline.xpcs.hdf5_facade import HDF5Facade
from beamline.xpcs.result import result_tree
from callbacks._xpcs_documents import q_of_bins
from callbacks._xpcs_plot import G2Picture

__all__ = ["make_folder", "picture_of", "summary", "write_result"]


def write_result(
    path: Path,
    analysis: XPCSAnalysis,
    found: Correlation,
    start: Mapping[str, Any],
    stop: Mapping[str, Any] | None,
    *,
    sources: tuple[str, ...] = (),
    settings: Mapping[str, Any] | None = None,
    legacy: bool = False,
) -> Diffusion:
    """Fit the diffusion constant and write the result file.

    Raises
    ------
    StorageError
        If it can't be written.
    """
    diffusion = measure_diffusion(
        analysis.partition, found, analysis.frame_time, intensity=analysis.scattering()
    )
    result = analysis.result(
        start,
        stop,
        correlation=found,
        sources=sources,
        settings=settings,
        fits=diffusion.fields(),
    )
    tree = result_tree(result, file_name=path.name, legacy=legacy)
    make_folder(path.parent)
    HDF5Facade().write_result(path, tree)
    return diffusion


def make_folder(folder: Path) -> None:
    """Make a folder for results, if it is missing.

    Raises
    ------
    StorageError
        If it can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {folder}: {error.strerror}.") from None


def picture_of(
    analysis: XPCSAnalysis, found: Correlation, title: str, diffusion: Diffusion | None = None
) -> G2Picture:
    """Return what is drawn of g2, and of Γ over q² if that is known."""
    missing = f", {analysis.n_missing} missing" if analysis.n_missing else ""
    rates = {}
    if diffusion is not None and diffusion.n_bins and np.isfinite(diffusion.D):
        good = np.isfinite(diffusion.gamma)
        rates = {
            "q2": diffusion.q[good] ** 2,
            "gamma": diffusion.gamma[good],
            "gamma_err": diffusion.gamma_err[good],
            "D": diffusion.D,
            "D_err": diffusion.D_err,
        }
    return G2Picture(
        delays=found.delays,
        g2=found.g2,
        errors=found.g2_err_block,
        q=q_of_bins(analysis.partition),
        title=f"{title} · {found.n_frames} frames{missing}",
        rates=rates,
    )


def summary(diffusion: Diffusion) -> str:
    """Return D with its error in words."""
    if not np.isfinite(diffusion.D):
        return "no diffusion constant: g2 of no bin decays within the lags."
    chi = diffusion.chi_square / max(diffusion.n_bins - 1, 1)
    return (
        f"D = {diffusion.D:.5g} ± {diffusion.D_err:.2g} Å²/s "
        f"({1e-8 * diffusion.D:.4g} µm²/s), Γ = D q² in {diffusion.n_bins} bins "
        f"with χ²/ν = {chi:.2g}"
    )
