"""The validators of `beamline.validation`, and silx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from beamline.validation.nexus_validators import COMMUNITY, OFFICIAL, Validators, Verdict

__all__ = ["COMMUNITY", "OFFICIAL", "Validators", "Verdict", "default_plot"]


def default_plot(path: Path) -> Any:
    """Return silx' reading of the default plot; fails if it has issues."""
    import h5py
    from silx.io import nxdata

    with h5py.File(path, "r") as file:
        plot = nxdata.get_default(file)
        assert plot is not None, f"silx finds no default plot in {path}"
        assert plot.is_valid, plot.issues
        assert not plot.issues, plot.issues
        return {
            "signal": plot.signal[()],
            "signal_name": plot.signal_name,
            "axes": [None if axis is None else axis[()] for axis in plot.axes],
            "axes_names": plot.axes_dataset_names,
            "auxiliary": list(plot.auxiliary_signals_dataset_names),
            "is_curve": plot.is_curve,
            "is_image": plot.is_image,
            "is_stack": plot.is_stack,
        }
