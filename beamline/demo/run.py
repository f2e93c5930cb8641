"""The demonstration's scans: align, map, XAFS, stills; then replay, compare and report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from beamline.analysis.xafs import XAFSProcessor
from beamline.core.config import Settings
from beamline.core.errors import TruthError
from beamline.daq import DeviceClient
from beamline.demo import figures, findings
from beamline.interrupts import AbortOnInterrupt
from beamline.session import Session, simulated_beamline

if TYPE_CHECKING:
    from beamline.documents.journal import Journal

__all__ = ["Finding", "Report", "run_demo"]

#: Simulated seconds per second: a beamline's minutes become seconds.
TIME_SCALE = 50.0
STILLS = 20
STILLS_ENERGY = 9500.0
CRYSTAL = {"name": "lysozyme", "description": "simulated crystals, random orientation"}


@dataclass(frozen=True)
class Finding:
    """One quantity: what is true, what the file says, and how far they may differ."""

    name: str
    unit: str
    true: float
    found: float
    tolerance: float
    file: str

    @property
    def passed(self) -> bool:
        """Whether found and true agree."""
        return bool(abs(self.found - self.true) <= self.tolerance)


@dataclass
class Report:
    """What the demonstration did and found."""

    findings: list[Finding] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    replay: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether everything agrees with the truth."""
        return all(finding.passed for finding in self.findings) and bool(self.replay.get("equal"))

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        content = {
            "passed": self.passed,
            "findings": [{**asdict(item), "passed": item.passed} for item in self.findings],
            "replay": self.replay,
            "runs": self.runs,
            "files": self.files,
            "seconds": round(self.seconds, 1),
        }
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def run_demo(
    settings: Settings,
    output: Path,
    say: Callable[[str], None],
    safe_point: Callable[[], None],
) -> Report:
    """Scan a freshly simulated beamline and compare what the files say with the truth.

    Parameters
    ----------
    settings
        Sample, seed and prefix are used; data go to `output`.
    output
        Directory for files, figures and ``summary.json``.
    say
        Takes one line of progress at a time.
    safe_point
        Called wherever the demonstration can end cleanly; may raise KeyboardInterrupt.

    Raises
    ------
    BeamlineError
        If a part doesn't start or a scan fails.
    bluesky.utils.RunEngineInterrupted
        On Ctrl-C during a scan, after the run has been aborted and its files closed.
    """
    began = time.monotonic()
    scale = settings.time_scale if settings.time_scale != 1.0 else TIME_SCALE
    settings = settings.model_copy(update={"data_dir": output, "time_scale": scale})
    say(f"Starting device server and IOC, {settings.time_scale:g} × real time …")
    with simulated_beamline(settings, live_table=False, progress=False) as session:
        safe_point()
        demo = _Demo(session, output, say, safe_point)
        for step in (
            *(demo.align, demo.mesh, demo.xafs, demo.stills),
            *(demo.replay, demo.list_runs),
        ):
            step()
            safe_point()
    demo.report.seconds = time.monotonic() - began
    demo.report.write(output / "summary.json")
    return demo.report


class _Demo:
    def __init__(
        self,
        session: Session,
        output: Path,
        say: Callable[[str], None],
        safe_point: Callable[[], None],
    ) -> None:
        from callbacks.live import RunProgress

        self.session = session
        self.bl = session.beamline
        self.output = output
        self.say = say
        self.safe_point = safe_point
        self.report = Report()
        self.figures = output / "figures"
        self.figures.mkdir(parents=True, exist_ok=True)
        session.RE.context_managers = [AbortOnInterrupt]
        session.RE.subscribe(RunProgress())
        server = session.simulation
        assert server is not None  # noqa: S101  (simulated_beamline made it)
        self.address = (server.server.info["host"], int(server.server.info["port"]))
        with DeviceClient(*self.address) as client:
            self.truth = client.truth()
        self.sample = self.truth["samples"][0]
        self.uids: dict[str, str] = {}
        self.centre: dict[str, float] = {}
        self.width: dict[str, float] = {}

    def _run(self, name: str, plan: Any) -> Path:
        """Run a plan; return its NeXus file."""
        self.safe_point()
        before = set(self.session.store.nexus.files)
        (self.uids[name],) = self.session.RE(plan)
        (path,) = set(self.session.store.nexus.files) - before
        return Path(path)

    def _found(
        self, name: str, unit: str, true: float, found: float, tolerance: float, file: Path
    ) -> None:
        relative = str(file.relative_to(self.output.resolve()))
        self.report.findings.append(
            Finding(name, unit, float(true), float(found), tolerance, relative)
        )

    def _move(self, *motors_and_positions: Any) -> None:
        import bluesky.plan_stubs as bps

        self.safe_point()
        self.session.RE(bps.mv(*motors_and_positions))

    def align(self) -> None:
        """Find the foil with a line scan along each axis, and drive to its centre."""
        plans, bl = self.session.plans, self.bl
        self._move(bl.mono.energy, float(self.sample["e0_eV"]) + 200.0)
        for axis, key, reach in (("x", "x_um", 2500.0), ("y", "y_um", 2000.0)):
            motor = getattr(bl.sample, axis)
            file = self._run(
                f"align_{axis}", plans.linear_scan([bl.counters], motor, -reach, reach, 81)
            )
            position, absorption = findings.absorption_profile(file, f"sample_{axis}")
            centre, width = findings.extent(position, absorption)
            true = float(self.sample[key])
            self._found(f"foil centre {axis} (line)", "µm", true, centre, 15.0, file)
            figures.draw_profile(
                self.figures / f"align_{axis}.png", position, absorption, centre, true,
                f"sample_{axis}",
            )  # fmt: skip
            self.centre[axis], self.width[axis] = centre, width
            self._move(motor, centre)
            self.say(f"Line scan of sample_{axis}: the foil's centre is at {centre:.1f} µm.")

    def mesh(self) -> None:
        """Map the foil and what is around it."""
        plans, bl = self.session.plans, self.bl
        low = {axis: self.centre[axis] - 0.75 * self.width[axis] for axis in ("x", "y")}
        high = {axis: self.centre[axis] + 0.75 * self.width[axis] for axis in ("x", "y")}
        file = self._run(
            "mesh",
            plans.mesh_scan(
                [bl.counters],
                *(bl.sample.y, low["y"], high["y"], 15),
                *(bl.sample.x, low["x"], high["x"], 17),
            ),
        )
        y, x, absorption = findings.absorption_map(file, "sample_y", "sample_x")
        true = [float(self.sample[key]) for key in ("x_um", "y_um", "width_um", "height_um")]
        # Where the foil is, a row and a column through it show both of its edges.
        inside = absorption > np.nanmax(absorption) / 2
        row, column = int(np.argmax(inside.sum(axis=1))), int(np.argmax(inside.sum(axis=0)))
        cx, width = findings.extent(x, absorption[row])
        cy, height = findings.extent(y, absorption[:, column])
        step_x, step_y = float(np.diff(x).mean()), float(np.diff(y).mean())
        self._found("foil centre x (mesh)", "µm", true[0], cx, step_x / 2, file)
        self._found("foil centre y (mesh)", "µm", true[1], cy, step_y / 2, file)
        figures.draw_mesh(
            self.figures / "mesh.png", y, x, absorption, (true[0], true[1], true[2], true[3])
        )
        self.say(f"Mesh scan: a foil of {width:.0f} × {height:.0f} µm.")
        self._move(bl.sample.x, self.centre["x"], bl.sample.y, self.centre["y"])

    def xafs(self) -> None:
        """Measure the absorption edge of the foil."""
        file = self._run("xafs", self.session.plans.xafs_scan(self.bl, e0=self.sample["e0_eV"]))
        energy, absorption = findings.spectrum(file)
        result = XAFSProcessor().normalize(energy, absorption)
        element, edge = self.sample["element"], self.sample["edge"]
        e0, step = float(self.sample["e0_eV"]), float(self.sample["edge_step"])
        self._found(f"{element} {edge} edge energy", "eV", e0, result.e0, 0.5, file)
        self._found("edge step", "", step, result.edge_step, 0.02 * step, file)
        figures.draw_spectrum(
            self.figures / "xafs.png", energy, absorption, result, e0,
            f"{self.sample['name']}, {element} {edge} edge",
        )  # fmt: skip
        self.say(f"XAFS scan: the {element} {edge} edge is at {result.e0:.2f} eV.")

    def stills(self) -> None:
        """Take crystal stills and find their Bragg spots."""
        bl = self.bl
        self._move(bl.mono.energy, STILLS_ENERGY)
        with DeviceClient(*self.address) as client:
            first = int(client.get(f"{self.session.settings.prefix}AD1:TOTAL"))
        before = set(self.session.store.cxi.files)
        self._run("stills", self.session.plans.stills(bl.area_detector, STILLS, sample=CRYSTAL))
        files = sorted(Path(path) for path in set(self.session.store.cxi.files) - before)
        frames = findings.peaks_by_frame(files)
        pairs, truth = [], []
        with DeviceClient(*self.address) as client:
            for number, peaks in frames:
                spots: npt.NDArray[np.float64] = np.array(client.true_spots(first + number))
                spots = spots.reshape(-1, 3)[:, :2]
                truth.append(spots)
                pairs.append((peaks, spots))
        score = findings.score_spots(pairs)
        self._found("stills in the CXI files", "", STILLS, len(frames), 0.0, files[0])
        self._found("spots found", "%", 100.0, 100 * score.recall, 5.0, files[0])
        self._found("false spots", "%", 0.0, 100 * score.false_rate, 5.0, files[0])
        self._found("spot position rms", "px", 0.0, score.rms, 0.5, files[0])
        image, peaks = findings.frame_with_peaks(files[0])
        figures.draw_still(self.figures / "stills.png", image, peaks, truth[0])
        self.say(
            f"Stills: {score.found} peaks for {score.spots} simulated spots in {STILLS} frames."
        )

    def replay(self) -> None:
        """Write the XAFS run's file once more from the journal and compare it with the live one."""
        from beamline.documents.journal import Journal
        from beamline.documents.replay import replay
        from beamline.nexus.compare import compare_files
        from callbacks.nexus import NeXusWriter

        journal: Journal = Journal(self.session.store.directory / "journal")
        writer = NeXusWriter(self.output / "replayed")
        replay(journal.documents(self.uids["xafs"]), [writer])
        (again,) = writer.files
        live = self.session.store.directory / "nexus" / Path(again).name
        differences = compare_files(live, again)
        self.report.replay = {
            "run": self.uids["xafs"],
            "live": str(live.relative_to(self.output.resolve())),
            "replayed": str(Path(again).resolve().relative_to(self.output.resolve())),
            "equal": not differences,
            "differences": differences,
        }
        self.say("Replay of the XAFS run from the journal: " + (
            "equal to the live file." if not differences else f"differs: {differences[0]}"
        ))  # fmt: skip

    def list_runs(self) -> None:
        """Wait until the catalogue has everything, and list it."""
        store = self.session.store
        for uid in self.uids.values():
            store.wait_for_catalog(uid)
        for name, uid in self.uids.items():
            run = store.catalog[uid]
            start, stop = run.metadata["start"], run.metadata["stop"]
            self.report.runs.append(
                {
                    "name": name,
                    "uid": uid,
                    "scan_id": start["scan_id"],
                    "plan_name": start["plan_name"],
                    "exit_status": stop["exit_status"],
                    "num_events": stop["num_events"],
                }
            )
        root = self.output.resolve()
        wanted = ("*.nxs", "*.cxi", "*.png", "*.h5")
        self.report.files = sorted(
            str(path.relative_to(root)) for pattern in wanted for path in root.rglob(pattern)
        )


def check(report: Report) -> None:
    """Raise TruthError naming every quantity that is out of tolerance."""
    wrong = [
        f"{item.name} is {item.found:.6g} {item.unit} and should be {item.true:.6g} ± "
        f"{item.tolerance:.3g} ({item.file})"
        for item in report.findings
        if not item.passed
    ]
    if not report.replay.get("equal"):
        wrong.append(f"the replayed file differs from the live one: {report.replay}")
    if wrong:
        raise TruthError("the files disagree with the truth: " + "; ".join(wrong) + ".")
