"""The scripting interface: talk to the device server directly, without EPICS."""

from beamline.daq.client import DeviceClient

__all__ = ["DeviceClient"]
