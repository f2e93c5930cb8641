"""The scripting interface: scans over the device server's line protocol, without EPICS.

A configuration goes in, a `ScanData` comes out; between them are the plans of `beamline.plans` and
Bluesky's RunEngine, and the files are written by `callbacks.nexus`.
"""

from beamline.daq.client import DeviceClient
from beamline.daq.data import ScanData
from beamline.daq.nexus import NeXusWriter
from beamline.daq.scan import (
    LinearScanConfig,
    MeshScanConfig,
    ScanConfig,
    ScanEngine,
    XAFSScanConfig,
)

__all__ = [
    "DeviceClient",
    "LinearScanConfig",
    "MeshScanConfig",
    "NeXusWriter",
    "ScanConfig",
    "ScanData",
    "ScanEngine",
    "XAFSScanConfig",
]
