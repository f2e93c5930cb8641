"""Items of Q2 with known truth, at a chosen rate, some of them as bad as they come in real life.

Stills are passed in; a few distinct ones serve any number of events, because a stream is tested by
its rate and its faults, not by its crystals.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from beamline.core.errors import ConfigurationError
from beamline.core.units import energy_to_wavelength
from beamline.streaming.items import PipelineOutput
from beamline.streaming.models import Model
from beamline.streaming.preprocessing import Preprocessor

__all__ = ["HOSTILE", "KnownStill", "Q2Simulator", "Truth", "timestamp"]

#: 2200-01-01T00:00:00Z, s since 1970.
_YEAR_2200 = 7_258_118_400


class KnownStill(Protocol):
    """A still and its truth, as `ioc.stills.Still` has them."""

    @property
    def image(self) -> npt.NDArray[np.uint16]:
        """Shape (ss, fs) or (panels, ss, fs)."""
        ...

    @property
    def energy_eV(self) -> float:  # noqa: N802  (the unit belongs to the name)
        """Photon energy, eV."""
        ...

    @property
    def spots(self) -> npt.NDArray[np.float64]:
        """Spots that must be found (n, 3): fs, ss, photons."""
        ...

    @property
    def all_spots(self) -> npt.NDArray[np.float64]:
        """All spots, (n, 3)."""
        ...

    @property
    def rotation(self) -> npt.NDArray[np.float64] | None:
        """Crystal to laboratory axes, (3, 3); None without a crystal."""
        ...


def timestamp(time_ns: int) -> int:
    """Return a time (Unix, ns) as Q2 has it: seconds << 32 | nanoseconds."""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    return seconds << 32 | nanoseconds


def _nan_logits(item: PipelineOutput) -> list[PipelineOutput]:
    return [replace(item, predictions=np.full_like(item.predictions, np.nan))]


def _nan_images(item: PipelineOutput) -> list[PipelineOutput]:
    images = item.original_image_ref.astype(np.float32)
    images[...] = np.nan
    return [replace(item, original_image_ref=images)]


def _wrong_shape(item: PipelineOutput) -> list[PipelineOutput]:
    return [replace(item, predictions=item.predictions[..., :-3])]


def _no_image(item: PipelineOutput) -> list[PipelineOutput]:
    return [replace(item, original_image_ref=None)]


def _wrong_wavelength(item: PipelineOutput) -> list[PipelineOutput]:
    return [replace(item, metadata={**item.metadata, "photon_wavelength": 0.0})]


def _duplicate(item: PipelineOutput) -> list[PipelineOutput]:
    return [item, item]


def _year_2200(item: PipelineOutput) -> list[PipelineOutput]:
    count = len(np.atleast_1d(item.metadata["timestamp"]))
    late = [_YEAR_2200 << 32] * count  # seconds that 32 bits do not hold: no array of uint64
    return [replace(item, metadata={**item.metadata, "timestamp": late})]


#: Name of each fault, and what is put instead of a good item. All but the duplicate are to be
#: refused by a consumer; of the duplicate it must keep one.
HOSTILE: Mapping[str, Callable[[PipelineOutput], list[PipelineOutput]]] = {
    "nan": _nan_logits,
    "nan-image": _nan_images,
    "wrong-shape": _wrong_shape,
    "no-image": _no_image,
    "wrong-wavelength": _wrong_wavelength,
    "duplicate": _duplicate,
    "year-2200": _year_2200,
}


@dataclass
class Truth:
    """What is true of the events of a stream.

    Attributes
    ----------
    crystal, detector
        As ``TRUTH`` of the device server has them: unit cell (Å, degrees), geometry.
    stills
        The distinct stills.
    batch_id, index, still, fault, time_ns
        One entry per event: its batch, number in it, place in `stills`, name of the fault (empty:
        good), Unix time in ns.
    """

    crystal: Mapping[str, Any]
    detector: Mapping[str, Any]
    stills: Sequence[KnownStill]
    batch_id: list[str] = field(default_factory=list)
    index: list[int] = field(default_factory=list)
    still: list[int] = field(default_factory=list)
    fault: list[str] = field(default_factory=list)
    time_ns: list[int] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write an NPZ file (replaced as a whole).

        Per event ``batch_id``, ``index``, ``still``, ``fault``, ``time_ns``; per still
        ``energy_eV``, ``rotation`` (n, 3, 3; NaN without a crystal; crystal axes, a along x, b in
        the xy plane, to laboratory axes), and of still i the rows ``first[i]`` to ``first[i + 1]``
        of ``spots`` (fs, ss in px, photons: those that must be found) and of ``all_spots`` (with
        ``all_first``); ``crystal`` and ``detector`` as JSON.
        """
        none = np.full((3, 3), np.nan)
        rotations = [none if s.rotation is None else s.rotation for s in self.stills]
        arrays: dict[str, Any] = {
            "batch_id": np.array(self.batch_id, dtype=np.str_),
            "index": np.array(self.index, np.int64),
            "still": np.array(self.still, np.int64),
            "fault": np.array(self.fault, dtype=np.str_),
            "time_ns": np.array(self.time_ns, np.int64),
            "energy_eV": np.array([s.energy_eV for s in self.stills]),
            "rotation": np.array(rotations).reshape(-1, 3, 3),
            "crystal": np.array(json.dumps(self.crystal)),
            "detector": np.array(json.dumps(self.detector)),
        }
        for name, first in (("spots", "first"), ("all_spots", "all_first")):
            tables = [getattr(s, name) for s in self.stills]
            arrays[name] = np.concatenate([np.empty((0, 3)), *tables])
            arrays[first] = np.concatenate([[0], np.cumsum([len(t) for t in tables])]).astype(int)
        part = path.with_name(path.name + ".part")
        with part.open("wb") as file:
            np.savez_compressed(file, **arrays)
        part.replace(path)


class Q2Simulator:
    """Items of Q2, made of stills and a model.

    Parameters
    ----------
    stills
        Distinct ones, at least one; they are used in turn.
    truth
        Takes what is true of every event; its `stills` are the same.
    model
        Makes the logits, once per still.
    preprocessor
        Pads the images.
    batch_size
        Events per item.
    run
        Uid of the run (metadata ``run_uid``).
    hostile
        Faults (keys of `HOSTILE`), used in turn.
    hostile_every
        Every so many items one has a fault.

    Raises
    ------
    ConfigurationError
        For an unknown fault, or numbers below 1.
    """

    def __init__(
        self,
        stills: Sequence[KnownStill],
        truth: Truth,
        model: Model,
        preprocessor: Preprocessor,
        *,
        batch_size: int = 1,
        run: str = "",
        hostile: Sequence[str] = (),
        hostile_every: int = 10,
    ) -> None:
        unknown = sorted(set(hostile) - set(HOSTILE))
        if unknown:
            raise ConfigurationError(
                f"there is no fault {unknown[0]!r}: expected {', '.join(HOSTILE)}."
            )
        if not stills or batch_size < 1 or hostile_every < 1:
            raise ConfigurationError(
                "stills, events per item and hostile_every must be at least 1, found "
                f"{len(stills)}, {batch_size} and {hostile_every}."
            )
        self.truth = truth
        self._batch_size, self._run = batch_size, run
        self._hostile, self._every = itertools.cycle(hostile or [""]), hostile_every
        self._energies = [still.energy_eV for still in stills]
        self._images, self._logits = [], []
        for still in stills:
            panels = still.image.reshape(-1, *still.image.shape[-2:])
            images, metadata = preprocessor.images(panels[None])
            self._images.append(images)
            self._logits.append(model(preprocessor.model_input(images, metadata)))
            self._one = metadata

    def items(self, events: int) -> Iterator[PipelineOutput]:
        """Make the items of so many events, one after the other."""
        number = 0
        for batch in itertools.count():
            count = min(self._batch_size, events - number)
            if count < 1:
                return
            fault = next(self._hostile) if (batch + 1) % self._every == 0 else ""
            item = self._item(f"{self._run or 'q2'}-{batch:07d}", number, count, fault)
            yield from HOSTILE[fault](item) if fault else [item]
            number += count

    def _item(self, batch_id: str, number: int, count: int, fault: str) -> PipelineOutput:
        which = [(number + i) % len(self._images) for i in range(count)]
        now = time.time_ns()
        times = [now + i for i in range(count)]
        _, panels, height, width = self._one.original_shape
        images = np.concatenate([self._images[i] for i in which])
        truth = self.truth
        truth.batch_id += [batch_id] * count
        truth.index += range(count)
        truth.still += which
        truth.fault += [fault] * count
        truth.time_ns += times
        return PipelineOutput(
            predictions=np.concatenate([self._logits[i] for i in which]),
            metadata={
                "run_uid": self._run,
                "photon_wavelength": np.array(
                    [energy_to_wavelength(self._energies[i]) for i in which]
                ),
                "timestamp": np.array([timestamp(t) for t in times], np.uint64),
                "event_number": np.arange(number, number + count),
            },
            batch_id=batch_id,
            original_image_ref=images,
            preprocessing_metadata=replace(
                self._one,
                original_shape=(count, panels, height, width),
                preprocessed_shape=images.shape,
            ),
        )
