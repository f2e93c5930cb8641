"""Items of Q2 whose truth is known: frames with spots, and logits that mark them."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from beamline.streaming.items import PipelineOutput, PreprocessingMetadata

WAVELENGTH = 1.3
ENERGY = 12398.419843 / WAVELENGTH
SHAPE = (1, 96, 80)  # panels, ss, fs
_BACKGROUND, _WIDTH = 10.0, 1.2


@dataclass
class Truth:
    """What was put into a batch."""

    batch_id: str
    images: np.ndarray  # (B, C, H, W)
    spots: list[np.ndarray] = field(default_factory=list)  # per event (n, 3): panel, ss, fs


def geometry_file(path: Path, shape=SHAPE) -> Path:
    """A CrystFEL geometry of panels one below the other in the slab."""
    panels, height, width = shape
    lines = [
        "photon_energy = /LCLS/photon_energy_eV eV", "clen = 0.1", "adu_per_photon = 1",
        "res = 10000", "data = /entry_1/data_1/data", "dim0 = %", "dim1 = ss", "dim2 = fs",
    ]  # fmt: skip
    for p in range(panels):
        lines += [
            f"p{p}/min_fs = 0", f"p{p}/max_fs = {width - 1}",
            f"p{p}/min_ss = {p * height}", f"p{p}/max_ss = {(p + 1) * height - 1}",
            f"p{p}/corner_x = {-width / 2}", f"p{p}/corner_y = {p * (height + 4) - height / 2}",
            f"p{p}/fs = +1.0x +0.0y", f"p{p}/ss = +0.0x +1.0y",
        ]  # fmt: skip
    path.write_text("\n".join(lines) + "\n")
    return path


def make(
    number: int,
    *,
    events: int = 4,
    shape=SHAPE,
    spots: int = 15,
    padding: tuple[int, int] = (4, 4),
    put=lambda array: array,
    run: str | None = None,
    **metadata,
) -> tuple[PipelineOutput, Truth]:
    """One item and its truth; `spots` of every event, 0 for a miss."""
    rng = np.random.default_rng(number)
    panels, height, width = shape
    images = rng.poisson(_BACKGROUND, (events, *shape)).astype(np.float32)
    logits = np.zeros((events * panels, 2, height + padding[0], width + padding[1]), np.float32)
    logits[:, 0] = 1.0
    truth = Truth(f"batch{number:05d}", images)
    ss, fs = np.mgrid[:height, :width]
    for event in range(events):
        places = _apart(rng, spots, shape)
        for panel, y, x in places:
            p = int(panel)
            near = (np.abs(ss - y) < 5) & (np.abs(fs - x) < 5)
            shape_of = np.exp(-((ss - y) ** 2 + (fs - x) ** 2) / (2 * _WIDTH**2))
            images[event, p][near] += rng.poisson(500 * shape_of[near])
            marked = (ss - y) ** 2 + (fs - x) ** 2 < 9.0
            part = logits[event * panels + p, 1, :height, :width]
            part[marked] = 5.0
        truth.spots.append(places)
    padded = np.zeros((events * panels, 1, height + padding[0], width + padding[1]), np.float32)
    padded[:, 0, :height, :width] = images.reshape(-1, height, width)
    stamp = [((1_790_000_000 + number) << 32) | event for event in range(events)]
    known = {"photon_wavelength": WAVELENGTH, "timestamp": stamp, **metadata}
    if run is not None:
        known["run_uid"] = run
    item = PipelineOutput(
        predictions_ref=put(logits),
        metadata=known,
        batch_id=truth.batch_id,
        original_image_ref=put(padded),
        preprocessing_metadata=PreprocessingMetadata((events, *shape), padded.shape),
    )
    return item, truth


def _apart(rng, count, shape):
    """Places at least 14 px from each other and from the rim."""
    panels, height, width = shape
    grid = [
        (p, y, x)
        for p in range(panels)
        for y in range(8, height - 7, 15)
        for x in range(8, width - 7, 15)
    ]
    chosen = rng.choice(len(grid), min(count, len(grid)), replace=False)
    places = np.array([grid[i] for i in chosen], dtype=float).reshape(-1, 3)
    places[:, 1:] += rng.uniform(-0.5, 0.5, (len(places), 2))
    return places
