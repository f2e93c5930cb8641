"""The errors of this project.

Every message is one sentence that says what failed, where (PV, key, path, run), what was expected,
what was found, and what to do. Each class also inherits a builtin, so callers can catch either.
"""

from __future__ import annotations

__all__ = [
    "BeamLostError",
    "BeamlineError",
    "ConfigurationError",
    "ConnectionLostError",
    "CorrelationError",
    "CorrelationOverflowError",
    "DetectorError",
    "DeviceServerError",
    "FileFormatError",
    "MissingError",
    "MotionError",
    "MotorLimitError",
    "PatternError",
    "ProcessError",
    "QueueError",
    "ShadowedPackageError",
    "SpectrumError",
    "StorageError",
    "TruthError",
]


class BeamlineError(Exception):
    """Base of all errors that this project raises on purpose."""


class ConfigurationError(BeamlineError, ValueError):
    """A setting, a file that describes settings, or a combination of them is wrong."""


class MissingError(BeamlineError, KeyError):
    """Something that was asked for by name (run, key, PV, sample) does not exist."""

    def __str__(self) -> str:
        # KeyError shows repr(message), which puts a sentence into quotes.
        return str(self.args[0]) if self.args else ""


class ConnectionLostError(BeamlineError, ConnectionError):
    """A peer (device server, IOC) is not there, or went away."""


class DeviceServerError(BeamlineError, RuntimeError):
    """The device server refused a command."""


class MotorLimitError(BeamlineError, ValueError):
    """A position lies outside a motor's limits; this move was not started."""


class MotionError(BeamlineError, RuntimeError):
    """A motor did not arrive where it was sent."""


class DetectorError(BeamlineError, RuntimeError):
    """A detector did not deliver what it was asked for."""


class BeamLostError(BeamlineError, RuntimeError):
    """There is no beam, so what was measured is worth nothing."""


class FileFormatError(BeamlineError, ValueError):
    """A file could be opened but does not hold what its format promises."""


class PatternError(BeamlineError, ValueError):
    """A diffraction pattern, or what was asked of it, can't be evaluated."""


class ProcessError(BeamlineError, RuntimeError):
    """A supervised process did not start, or ended when it should not have."""


class QueueError(BeamlineError, RuntimeError):
    """A queue can't take an item, can't give one, or does not have what was asked of it."""


class ShadowedPackageError(BeamlineError, ImportError):
    """A file of the user hides one of this distribution's packages."""


class TruthError(BeamlineError, AssertionError):
    """What was measured disagrees with the known truth of the simulation."""


class SpectrumError(BeamlineError, ValueError):
    """A spectrum cannot be analysed: it has no edge, or the arrays are not a spectrum."""


class CorrelationError(BeamlineError, ValueError):
    """Frames, bins or times that cannot be correlated, or a correlation that cannot be fitted."""


class CorrelationOverflowError(CorrelationError, OverflowError):
    """Counts so large that their products do not fit into 64 bits."""


class StorageError(BeamlineError, OSError):
    """A file could not be made or written: no space, no permission, or somebody else has it."""
