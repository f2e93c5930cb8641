"""What start documents say about sample, instrument and software."""

from __future__ import annotations

import importlib.metadata
import logging
import re
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from bluesky.utils import Msg
from ophyd.utils import OpException

from beamline import __version__
from beamline.core.errors import BeamlineError

__all__ = [
    "beamline_of",
    "complete_metadata",
    "name_of",
    "plot_metadata",
    "run_engine_metadata",
    "running_engine",
    "start_metadata",
]

_log = logging.getLogger(__name__)

_PACKAGES = ("bluesky", "ophyd", "event-model")
_FOIL = re.compile(r"(?P<formula>\S+)( foil| powder| pellet)?")
_PART = re.compile(r"([A-Z][a-z]?)([0-9.]*)")
_SYMBOLS = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se "
    "Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy "
    "Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U"
)
_ELEMENTS = frozenset(_SYMBOLS.split())


class _Listener:
    """Takes the place of a suspender to be handed the RunEngine that runs the plan.

    A plan's own metadata override those of the RunEngine, so the defaults that a plan adds must
    know what the RunEngine has. It hands itself out with this message only.
    """

    run_engine: Any = None
    tripped = False

    def install(self, run_engine: Any, *, event_type: str | None = None) -> None:  # noqa: ARG002
        self.run_engine = run_engine

    def remove(self) -> None:
        """Nothing was installed."""

    def get_futures(self) -> tuple[list[Any], str]:
        return [], ""


def running_engine() -> Generator[Msg, Any, Any]:
    """Plan stub that returns the RunEngine that runs the plan; None where none does."""
    listener = _Listener()
    yield Msg("install_suspender", None, listener)
    yield Msg("remove_suspender", None, listener)
    return listener.run_engine


def run_engine_metadata() -> Generator[Msg, Any, Mapping[str, Any]]:
    """Plan stub that returns the ``md`` of the RunEngine; empty where none runs the plan."""
    run_engine = yield from running_engine()
    return {} if run_engine is None else dict(run_engine.md)


def beamline_of(*devices: Any) -> Any | None:
    """Return the `devices.Beamline` that any of these devices is part of, or None."""
    for device in devices:
        root = getattr(device, "root", device)
        if hasattr(root, "baseline") and hasattr(root, "shutter"):
            return root
    return None


def name_of(device: Any) -> str:
    """Name of a device, and its PV where it has one, for messages."""
    return str(getattr(device, "label", getattr(device, "name", device)))


def start_metadata(
    known: Mapping[str, Any],
    *,
    plan_name: str,
    plan_args: Mapping[str, Any],
    detectors: Sequence[Any],
    motors: Sequence[Any],
    beamline: Any | None,
    sample: str | Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Compose what every start document has; what the RunEngine knows already is left to it.

    Parameters
    ----------
    known
        The RunEngine's ``md``.
    plan_name, plan_args
        Name of the plan and its arguments (plain values).
    detectors, motors
        Devices that are read and moved.
    beamline
        The `devices.Beamline`, for instrument and sample; or None.
    sample
        Name of the sample or a mapping with ``name``, ``formula``, …; by default that of the
        RunEngine's ``md``, else the one that the sample changer has in the beam.
    """
    metadata: dict[str, Any] = {
        "plan_name": plan_name,
        "plan_args": dict(plan_args),
        "detectors": [str(device.name) for device in detectors],
        "motors": [str(device.name) for device in motors],
    }
    versions = dict(known.get("versions", {}))
    if "beamline-dataflow" not in versions:
        metadata["versions"] = {
            **versions,
            "beamline-dataflow": __version__,
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        }
    if sample is not None:
        metadata["sample"] = {"name": sample} if isinstance(sample, str) else dict(sample)
    elif "sample" not in known and beamline is not None:
        metadata["sample"] = _sample_in_beam(beamline)
    if beamline is not None:
        if "beamline_id" not in known:
            metadata["beamline_id"] = str(beamline.prefix).rstrip(":") or str(beamline.name)
        if "instrument" not in known:
            metadata["instrument"] = _instrument(beamline, known)
    instrument = metadata.get("instrument", known.get("instrument", {}))
    if _is_simulated(beamline, known) and isinstance(instrument, Mapping):
        metadata["instrument"] = {"simulated": True, **instrument}
    return metadata


def complete_metadata(beamline: Any, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Add to the metadata of a run what its plan leaves out: bluesky's own know no sample.

    For ``RunEngine.md_normalizer``. A sample that can't be read is left out, and the log says so.

    Parameters
    ----------
    beamline
        The `devices.Beamline`.
    metadata
        Of plan, call and RunEngine together.

    Returns
    -------
    dict
        With ``sample``, ``instrument``, ``beamline_id``, ``motors``, ``detectors``, ``plan_args``;
        what was there is unchanged.
    """
    known = dict(metadata)
    if "sample" not in known:
        try:
            known["sample"] = _sample_in_beam(beamline)
        except (OpException, BeamlineError, TimeoutError) as error:
            _log.warning("the metadata of the run have no sample, which can't be read: %s", error)
    made = start_metadata(
        {"sample": None, **known}, plan_name="", plan_args={}, detectors=(), motors=(),
        beamline=beamline, sample=None,
    )  # fmt: skip
    return {**made, **known}


def plot_metadata(
    known: Mapping[str, Any], md: Mapping[str, Any] | None, detectors: Sequence[Any]
) -> dict[str, Any]:
    """Say what the default plot of the files shall show, unless the user does.

    The first detector with a ``plot_signal``, the name of one of its data keys, decides.

    Parameters
    ----------
    known
        The RunEngine's ``md``.
    md
        What the user gave to the plan; its ``nexus`` is kept, and wins.
    detectors
        Devices that are read.

    Returns
    -------
    dict
        ``{"nexus": {"signal": …, …}}``, or empty where nothing is to be said.
    """
    signals = (getattr(device, "plot_signal", None) for device in detectors)
    signal = next((name for name in signals if name), None)
    given = [source["nexus"] for source in (known, md or {}) if "nexus" in source]
    if signal is None or not all(isinstance(options, Mapping) for options in given):
        return {}
    merged: dict[str, Any] = {"signal": str(signal)}
    for options in given:
        merged.update(options)
    return {"nexus": merged}


def _is_simulated(beamline: Any | None, known: Mapping[str, Any]) -> bool:
    """Whether the data are: as the RunEngine's ``md`` says, else as the beamline does."""
    if "simulated" in known:
        return bool(known["simulated"])
    return bool(getattr(beamline, "simulated", False))


def _sample_in_beam(beamline: Any) -> dict[str, Any]:
    name = str(beamline.sample.select.get())
    sample: dict[str, Any] = {"name": name}
    match = _FOIL.fullmatch(name)
    if match and _is_formula(match["formula"]):
        sample["formula"] = match["formula"]
    return sample


def _is_formula(text: str) -> bool:
    parts = _PART.findall(text)
    return "".join(map("".join, parts)) == text and {symbol for symbol, _ in parts} <= _ELEMENTS


def _instrument(beamline: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    mono = beamline.mono
    return {
        "name": str(known.get("beamline_id", str(beamline.prefix).rstrip(":"))),
        "source": {
            "name": str(known.get("facility", "Simulated Light Source")),
            "type": "Synchrotron X-ray Source",
            "probe": "x-ray",
        },
        "monochromator": {
            "type": str(mono.crystal_type),
            "reflection": [int(index) for index in mono.reflection],
            "d_spacing": float(mono.d_spacing),
        },
    }
