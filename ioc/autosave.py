"""Settings that survive a restart of the IOC: written while it runs, put back when it starts.

What is saved is what a person sets up: names, coordinates, speeds, limits, presets, file paths.
What the hardware knows better is not: positions, and whatever lets beam through (shutter,
attenuator, the sample in the beam). Putting a value back is a put like a client's: what is out of
range is refused, with a sentence in the log, and the default stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from caproto import ChannelType

from beamline.core.disk import sync
from beamline.core.errors import FileFormatError, StorageError
from beamline.core.pvs import SCALER_CHANNELS
from ioc.channel import Completion, Field, PutRefusedError
from ioc.fields import CharArray, Double, Enum, Long, Short, String
from ioc.record import Record

__all__ = ["Autosave", "locked", "saved_fields"]

_log = logging.getLogger("ioc.autosave")

_FORMAT = "beamline IOC settings"
_VERSION = 1
_PERIOD = 1.0
#: How long putting settings back may wait for the device server (s).
_RESTORE_TIMEOUT = 5.0

_MOTOR = "DIR OFF FOFF DLLM DHLM VELO ACCL BDST JVEL JAR TWV SPMG HLSV CNEN"
_SCALER = " ".join(
    ["TP", "TP1", "DLY", "DLY1", "RATE", "RAT1"]
    + [f"NM{number}" for number in range(1, len(SCALER_CHANNELS) + 1)]
)
#: Fields to save of the records of one type.
_BY_TYPE: Mapping[str, str] = {"motor": _MOTOR, "scaler": _SCALER}
#: Records of which the value is saved, by the part of their name behind the prefix.
_BY_NAME: Mapping[str, str] = {
    "DET:": "EXPOSURE",
    "IOC:": "ACCESS",
    "FLY1:": "Motor Start Stop NumPoints DwellTime",
    "AD1:cam1:": "AcquireTime AcquirePeriod NumImages ImageMode TriggerMode ArrayCallbacks "
    "SimMode Sparse Preload",
    "AD1:HDF1:": "FilePath FileName FileTemplate FileNumber AutoIncrement CreateDirectory "
    "NumCapture Compression LazyOpen EnableCallbacks AutoSave",
    "AD1:image1:": "EnableCallbacks MinCallbackTime",
}


def saved_fields(prefix: str, records: Iterable[Record]) -> dict[str, Field]:
    """Choose the fields that are saved.

    Parameters
    ----------
    prefix
        Prefix of all PVs.
    records
        All records.

    Returns
    -------
    dict
        Fields by their name behind the prefix.
    """
    by_name = {start + name for start, names in _BY_NAME.items() for name in names.split()}
    chosen: dict[str, Field] = {}
    for record in records:
        suffixes = ["DESC", *_BY_TYPE.get(record.kind, "").split()]
        if record.name.removeprefix(prefix) in by_name:
            suffixes.append("VAL")
        for suffix in suffixes:
            field = record.fields.get(suffix)
            if field is not None and not field.read_only:
                chosen[field.name.removeprefix(prefix)] = field
    return chosen


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep an autosave file for this process; its folder is made.

    The lock is on ``PATH.lock`` beside it, which stays, and ends with the process at the latest.

    Raises
    ------
    StorageError
        If files can't be written there, if `path` is a folder, or if another IOC has the file.
    """
    _ensure_writable(path)
    beside = path.with_name(path.name + ".lock")
    try:
        stream = beside.open("a+", encoding="ascii", errors="replace")
    except OSError as failure:
        raise _unusable(path, failure.strerror or str(failure)) from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            stream.seek(0)
            pid = stream.read(20).strip()
            other = f" (process {pid})" * pid.isdigit()
            raise _unusable(path, f"another IOC{other} keeps its own there") from None
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        yield


def _unusable(path: Path, problem: str) -> StorageError:
    return StorageError(
        f"the IOC can't keep its settings in {path}: {problem}; give another file to "
        "--autosave, or start it without."
    )


def _ensure_writable(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            problem = "it is a folder" if path.is_dir() else ""
    except OSError as failure:
        problem = failure.strerror or str(failure)
    if problem:
        raise _unusable(path, problem)


class Autosave:
    """The autosave file.

    Parameters
    ----------
    path
        The file. It is replaced as a whole, never changed in place; ``PATH.bak`` is a copy of
        what was there at the last start.
    prefix
        Prefix of all PVs; a file with another one is refused.
    fields
        What to save, by name without the prefix.
    connected
        Tells whether the device server is there to take settings.
    settled
        Tells whether it has those that clients had made. A server that started anew shows its
        defaults before, which are not saved.
    on_state
        Is told ``Saved`` or ``Failed``, and when the file was written.

    Attributes
    ----------
    starts : int
        How often the IOC has been started with this file.
    """

    def __init__(
        self,
        path: Path,
        prefix: str,
        fields: Mapping[str, Field],
        *,
        connected: Callable[[], bool] = lambda: True,
        settled: Callable[[], bool] = lambda: True,
        on_state: Callable[[str, float], None] | None = None,
    ) -> None:
        self.path = path
        self.starts = 1
        self._prefix = prefix
        self._fields = fields
        self._connected = connected
        self._settled = settled
        self._on_state = on_state
        self._pending: dict[str, Any] = {}
        self._saved: dict[str, Any] | None = None
        self._failing = False
        # A write that is under way when the IOC stops goes on in its thread.
        self._writing = threading.Lock()

    # ---- starting

    def load(self) -> None:
        """Read the file; one that can't be used is kept aside, and its predecessor read."""
        found: dict[str, Any] | None
        try:
            text = self.path.read_text(encoding="utf-8")
            found = self._parse(text)
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError, FileFormatError) as error:
            found = self._refuse(error)
        else:
            with contextlib.suppress(OSError):
                _replace(self._beside(".bak"), text)
        if found is None:
            return
        self.starts = found["starts"] + 1
        saved = found["values"]
        # In our order: a put to DIR may change OFF.
        self._pending = {name: saved[name] for name in self._fields if name in saved}
        unknown = sorted(found["values"].keys() - self._fields.keys())
        if unknown:
            _log.warning(
                "%s: %d of its values belong to no PV that is saved and were left out: %s",
                self.path, len(unknown), ", ".join(unknown[:5]) + " …" * (len(unknown) > 5),
            )  # fmt: skip

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(self.path.name + ending)

    def _refuse(self, error: Exception) -> dict[str, Any] | None:
        aside = self._beside(time.strftime(".refused-%Y%m%d-%H%M%S"))
        reason = (getattr(error, "strerror", None) or str(error)).rstrip(".")
        found, instead = None, "the IOC starts with its defaults"
        try:
            found = self._parse(self._beside(".bak").read_text(encoding="utf-8"))
            instead = f"the settings of the start before are used ({self.path.name}.bak)"
        except (OSError, UnicodeDecodeError, FileFormatError):
            pass
        try:
            self.path.rename(aside)
            kept = f"it is kept as {aside.name}"
        except OSError as failure:
            kept = f"it could not be kept as {aside.name} ({failure.strerror})"
        _log.warning(
            "the autosave file %s was refused: %s; %s and %s.", self.path, reason, kept, instead
        )
        return found

    def _parse(self, text: str) -> dict[str, Any]:
        try:
            found = json.loads(text)
        except ValueError:
            raise FileFormatError("expected JSON, found something else or a part of it.") from None
        if not isinstance(found, dict) or found.get("format") != _FORMAT:
            raise FileFormatError(f'expected "format": "{_FORMAT}".')
        if found.get("version") != _VERSION:
            raise FileFormatError(
                f"expected version {_VERSION}, found version {found.get('version')!r}."
            )
        if found.get("prefix") != self._prefix:
            raise FileFormatError(
                f"expected settings of {self._prefix}*, found those of {found.get('prefix')}*."
            )
        starts, values = found.get("starts"), found.get("values")
        if not isinstance(starts, int) or not isinstance(values, dict):
            raise FileFormatError("expected the number of starts and the values.")
        return found

    async def restore(self) -> None:
        """Put the settings back; those that need the device server wait until it is there."""
        completions: dict[asyncio.Future[None], str] = {}
        for name, value in tuple(self._pending.items()):
            field = self._fields[name]
            completion: Completion = None
            try:
                if _value(field) != value:
                    completion = _put(field, value)
                elif field.claim is not None:
                    field.claim()
            except PutRefusedError as error:
                if not self._connected():
                    continue
                _log.warning("a saved setting was not restored: %s", error)
            else:
                if completion is not None:
                    completions[completion] = name
                    continue
            del self._pending[name]
        if completions:
            done, late = await asyncio.wait(completions, timeout=_RESTORE_TIMEOUT)
            for ended in done:
                refusal = None if ended.cancelled() else ended.exception()
                if refusal is not None and not self._connected():
                    continue
                del self._pending[completions[ended]]
                if refusal is not None:
                    _log.warning("a saved setting was not restored: %s", refusal)
            if late:
                _log.warning(
                    "%d saved settings were not confirmed within %g s", len(late), _RESTORE_TIMEOUT
                )

    # ---- running

    async def run(self) -> None:
        """Write the file when something has changed, at most once a second, until cancelled."""
        while True:
            if self._pending and self._connected():
                await self.restore()
            values = self._values()
            if values != self._saved:
                await asyncio.to_thread(self._write, values)
                self._report()
            await asyncio.sleep(_PERIOD)

    def save(self) -> None:
        """Write the file now, if something has changed."""
        values = self._values()
        if values != self._saved:
            self._write(values)
            self._report()

    def _values(self) -> dict[str, Any]:
        present = {name: _value(field) for name, field in self._fields.items()}
        if not self._settled() and self._saved is not None:
            kept = {name for name, field in self._fields.items() if field.claim is not None}
            present |= {name: v for name, v in self._saved.items() if name in kept}
        # What could not be put back yet must not be lost.
        return {name: v for name, v in (present | self._pending).items() if v is not None}

    def _write(self, values: dict[str, Any]) -> None:
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "prefix": self._prefix,
            "starts": self.starts,
            "values": values,
        }
        try:
            with self._writing:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                _replace(self.path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        except OSError as failure:
            if not self._failing:
                problem = StorageError(
                    f"the settings of {self._prefix}* can't be written to {self.path}: "
                    f"{failure.strerror}; a restart of the IOC would lose them."
                )
                _log.error("%s", problem)
            self._failing = True
        else:
            self._failing = False
            self._saved = values

    def _report(self) -> None:
        if self._on_state is not None:
            state = "Failed" if self._failing else "Saved"
            self._on_state(state, 0.0 if self._failing else time.time())


def _replace(path: Path, text: str) -> None:
    """Give a file new content so that a reader, or a crash, meets the old or the new one."""
    new = path.with_name(path.name + ".new")
    with new.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(path)
    sync(path.parent)


def _value(field: Field) -> Any:
    """Value as it stands in the file; None for one that can't be saved."""
    if isinstance(field, Enum):
        return field.state
    if isinstance(field, CharArray):
        return field.text
    if isinstance(field, Double):
        return field.current if math.isfinite(field.current) else None
    return field.current


def _put(field: Field, value: Any) -> Completion:
    """Put a value from the file as a client would."""
    if isinstance(field, CharArray) and isinstance(value, str):
        return field.client_put(value.encode() + b"\0", ChannelType.CHAR)
    if isinstance(field, (Enum, String)) and isinstance(value, str):
        return field.client_put([value.encode("latin-1", "replace")], ChannelType.STRING)
    if not isinstance(value, bool):
        if isinstance(field, Double) and isinstance(value, (int, float)):
            return field.client_put([value], ChannelType.DOUBLE)
        if isinstance(field, (Long, Short)) and isinstance(value, int):
            return field.client_put([value], ChannelType.LONG)
    raise PutRefusedError(
        f"{field.name} can't take {value!r}: expected a value for {field.data_type.name}."
    )
