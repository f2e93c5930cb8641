"""Plans: line, mesh and fly scans, XAFS, stills, XPCS; all with baseline, metadata and a safe end.

The points that they visit come from `beamline.plans.points`.
"""

from beamline.plans._run import safe_state
from beamline.plans.fly import fly_scan, fly_xafs
from beamline.plans.scans import linear_scan, mesh_scan
from beamline.plans.stills import stills
from beamline.plans.xafs import xafs_scan
from beamline.plans.xpcs import xpcs_series

__all__ = [
    "fly_scan",
    "fly_xafs",
    "linear_scan",
    "mesh_scan",
    "safe_state",
    "stills",
    "xafs_scan",
    "xpcs_series",
]
