"""Serial crystallography: peaks on frames, detector geometry, CXI files."""

from beamline.crystallography.cxi import (
    CXIEvent,
    CXIFile,
    DiskFullError,
    EventRefusedError,
    FileTakenError,
)
from beamline.crystallography.cxi_check import check_cxi
from beamline.crystallography.event_peaks import EventPeaks, LogitsError, find_event_peaks
from beamline.crystallography.geometry import (
    Detector,
    GeometryError,
    read_geometry,
    write_geometry,
    write_list,
)
from beamline.crystallography.peaks import PeakFinder, Peaks, measure_peaks
from beamline.crystallography.segmentation import LocalThreshold, Segmenter, log_odds_from_logits

__all__ = [
    "CXIEvent",
    "CXIFile",
    "Detector",
    "DiskFullError",
    "EventPeaks",
    "EventRefusedError",
    "FileTakenError",
    "GeometryError",
    "LocalThreshold",
    "LogitsError",
    "PeakFinder",
    "Peaks",
    "Segmenter",
    "check_cxi",
    "find_event_peaks",
    "log_odds_from_logits",
    "measure_peaks",
    "read_geometry",
    "write_geometry",
    "write_list",
]
