"""The validators of `beamline.validation`, and silx."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from beamline.validation.nexus_validators import COMMUNITY, OFFICIAL, Validators, Verdict

__all__ = [
    "COMMUNITY",
    "OFFICIAL",
    "BothValidators",
    "Validators",
    "Verdict",
    "complaints",
    "default_plot",
]


class BothValidators:
    """The validators under both sets of definitions, asked at the same time."""

    def __init__(self) -> None:
        self._each = {name: Validators(name) for name in (OFFICIAL, COMMUNITY)}

    def __enter__(self) -> BothValidators:
        for validators in self._each.values():
            validators.__enter__()
        self._pool = ThreadPoolExecutor(len(self._each))
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        for validators in self._each.values():
            validators.__exit__()

    def __getitem__(self, definitions: str) -> Validators:
        return self._each[definitions]

    def application(self, path: Path, definition: str) -> dict[str, Verdict]:
        """Validate ``/entry`` against an application definition, under both."""
        return self._ask(lambda each: each.application(path, definition))

    def base_classes(self, path: Path) -> dict[str, Verdict]:
        """Validate every group of a file against its base class, under both."""
        return self._ask(lambda each: each.base_classes(path))

    def _ask(self, question: Callable[[Validators], Verdict]) -> dict[str, Verdict]:
        return dict(zip(self._each, self._pool.map(question, self._each.values()), strict=True))


def complaints(verdicts: Mapping[str, Verdict]) -> list[str]:
    """Return all errors and warnings of all verdicts."""
    return [
        f"{definitions}: {problem}"
        for definitions, verdict in verdicts.items()
        for problem in [*verdict.errors, *verdict.warnings]
    ]


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
