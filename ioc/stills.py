"""Crystal stills with everything that is true of them, from a device server of their own.

No IOC and no documents: for training, benchmarks and streams that need frames and their truth.
"""

from __future__ import annotations

import json
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from beamline.core.closing import Closing
from beamline.core.errors import DeviceServerError
from beamline.crystallography.geometry import Detector, Panel, write_geometry
from ioc.frames import parse_frame_header
from ioc.simulator import start_device_server

__all__ = ["SimulatedStills", "Still"]

_PREFIX = "BL02:"
_TIMEOUT = 60.0


@dataclass(frozen=True)
class Still:
    """One frame and its truth.

    Attributes
    ----------
    number
        Since the start of the device server, from 0.
    image
        uint16, (ss, fs) or (panels, ss, fs).
    energy_eV
        Photon energy, eV.
    time_ns
        Start of the exposure, Unix time, ns.
    spots
        float64 (n, 3): fs, ss (px; ss counts through a stack of panels) and expected photons of
        the spots that a good peak finder must find.
    all_spots
        As `spots`, with the weak and the crowded ones too.
    rotation
        (3, 3): crystal axes (a along x, b in the xy plane) to laboratory axes; None without a
        crystal.
    """

    number: int
    image: npt.NDArray[np.uint16]
    energy_eV: float  # noqa: N815  (the unit belongs to the name)
    time_ns: int
    spots: npt.NDArray[np.float64]
    all_spots: npt.NDArray[np.float64]
    rotation: npt.NDArray[np.float64] | None


class SimulatedStills(Closing):
    """A device server whose only purpose is its stills.

    Parameters
    ----------
    seed
        Of crystals and noise.
    energy
        Photon energy, eV, 4,000 to 20,000.
    exposure
        Exposure time, s; at 0.1 s a strong spot has some thousand photons.
    settings
        Settings of the simulated physics, see ``docs/protocol.md``: panels, unit cell,
        ``hit_probability`` and so on.

    Attributes
    ----------
    truth : dict
        What the simulation says about itself: ``crystal``, ``detector`` and so on.

    Raises
    ------
    ProcessError
        If the server doesn't start; the message is its own.
    """

    def __init__(
        self,
        *,
        seed: int = 1,
        energy: float = 9500.0,
        exposure: float = 0.1,
        settings: Mapping[str, float | str] | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="beamline-stills-")
        try:
            folder = Path(self._folder.name)
            config = folder / "settings"
            lines = [f"{key} = {value}\n" for key, value in (settings or {}).items()]
            config.write_text("".join(lines), encoding="ascii")
            self._server = start_device_server(
                log=folder / "log", seed=seed, lock_step=True, config=config
            )
        except BaseException:
            self._folder.cleanup()
            raise
        try:
            address = ("127.0.0.1", int(self._server.info["port"]))
            self._commands, self._frames = _Lines(address), _Lines(address)
            self._commands.ask("PUT:" + _PREFIX + "SHUTTER:CMD:1")
            self._commands.ask(f"MOVE:{_PREFIX}MONO:ENERGY:{energy!r}")
            self._commands.ask("ADVANCE:1")
            self.exposure = exposure
            self._frames.ask("FRAMES")
            self.truth: dict[str, Any] = json.loads(self._commands.ask("TRUTH"))
        except BaseException:
            self._server.stop()
            self._folder.cleanup()
            raise

    @property
    def exposure(self) -> float:
        """Exposure time, s."""
        return self._exposure

    @exposure.setter
    def exposure(self, seconds: float) -> None:
        self._commands.ask(f"PUT:{_PREFIX}AD1:EXPOSURE:{seconds!r}")
        self._exposure = seconds

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of a frame as a stack: panels, ss, fs."""
        panels, height, width = (1, *self.truth["detector"]["shape"])[-3:]
        return panels, height, width

    @property
    def detector(self) -> Detector:
        """Geometry; frames of several panels are stacks."""
        found = self.truth["detector"]
        panels, height, width = self.shape
        pixel, (beam_x, beam_y) = found["pixel_m"], found["beam_centre_px"]
        placed = [
            Panel(
                name=f"p{number}",
                origin=(number * height, 0),
                shape=(height, width),
                corner=(
                    place["corner_x_px"] - beam_x - 0.5,
                    place["corner_y_px"] - beam_y - 0.5,
                    0.0,
                ),
                fs=(1.0, 0.0, 0.0),
                ss=(0.0, 1.0, 0.0),
                pitch_m=pixel,
                unit=number,
            )
            for number, place in enumerate(found["panels"])
        ]
        return Detector(
            shape=(panels * height, width),
            distance_m=found["distance_m"],
            pixel_m=(pixel, pixel),
            beam_centre_px=(beam_x, beam_y) if panels == 1 else None,
            adu_per_photon=found["adu_per_photon"],
            panels=tuple(placed) if panels > 1 else (),
        )

    def write_geometry(self, path: Path) -> None:
        """Write the detector as a CrystFEL geometry, its camera length included."""
        write_geometry(path, self.detector, clen=True)

    def take(self, number: int) -> Iterator[Still]:
        """Take frames, one after the other."""
        for _ in range(number):
            self._commands.ask("ACQUIRE:1")
            header = parse_frame_header(self._frames.line())
            pixels = np.frombuffer(self._frames.read(header.nbytes), "<u2").reshape(header.shape)
            # The simulated clock stands still between commands.
            while float(self._commands.ask(f"GET:{_PREFIX}AD1:ACQUIRING")):
                time.sleep(0.0005)
            yield Still(
                number=header.number,
                image=pixels,
                energy_eV=header.energy,
                time_ns=round(header.time * 1e9),
                spots=self._spots(f"TRUTH:AD1:{header.number}"),
                all_spots=self._spots(f"TRUTH:AD1:{header.number}:ALL"),
                rotation=self._rotation(header.number),
            )

    def _spots(self, request: str) -> npt.NDArray[np.float64]:
        words = self._commands.ask(request).split(";")[1:]
        return np.array([word.split(",") for word in words], dtype=np.float64).reshape(-1, 3)

    def _rotation(self, number: int) -> npt.NDArray[np.float64] | None:
        hit, _, matrix = self._commands.ask(f"TRUTH:AD1:{number}:CRYSTAL").partition(";")
        return np.array(matrix.split(","), float).reshape(3, 3) if hit == "1" else None

    def close(self) -> None:
        """Stop the device server."""
        self._commands.close()
        self._frames.close()
        self._server.stop()
        self._folder.cleanup()


class _Lines:
    """A connection to the device server."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address, timeout=_TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self._socket.makefile("rb")

    def ask(self, line: str) -> str:
        self._socket.sendall(line.encode("ascii") + b"\n")
        reply = self.line()
        if not reply.startswith("OK:"):
            raise DeviceServerError(f"the device server refused {line!r} ({reply}).")
        return reply[3:]

    def line(self) -> str:
        return self._stream.readline().decode("ascii").rstrip("\n")

    def read(self, nbytes: int) -> bytes:
        return self._stream.read(nbytes)

    def close(self) -> None:
        self._stream.close()
        self._socket.close()
