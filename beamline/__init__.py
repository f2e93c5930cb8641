"""Streaming dataflow for X-ray beamlines on Bluesky and Ophyd."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("beamline-dataflow")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
