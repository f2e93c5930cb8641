"""EPICS IOC of the simulated beamline: Channel Access records in front of the device server."""
