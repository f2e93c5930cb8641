"""Both NeXus validators through their Python interfaces, under both sets of definitions.

The command lines of the validators end with status 0 on a bad file. ``pynxtools`` reads
``NEXUS_DEF_PATH`` once, when it is imported, so each set of definitions has a process of its own,
which takes requests as lines of JSON until its input ends.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beamline.core.errors import ProcessError

__all__ = ["COMMUNITY", "OFFICIAL", "Validators", "Verdict", "definitions_folder", "installed"]

OFFICIAL, COMMUNITY = "official", "community"
#: Where the definitions are; pynxtools' own are the community's.
_PACKAGES = {OFFICIAL: "nexusformat", COMMUNITY: "pynxtools"}


def installed() -> bool:
    """Return whether both validators are installed."""
    return all(importlib.util.find_spec(name) is not None for name in _PACKAGES.values())


def definitions_folder(definitions: str) -> Path:
    """Return the folder of a set of definitions, without importing the package that has it."""
    found = importlib.util.find_spec(_PACKAGES[definitions])
    assert found is not None  # noqa: S101  (`installed` is asked first)
    assert found.submodule_search_locations is not None  # noqa: S101  (they are packages)
    return Path(found.submodule_search_locations[0]) / "definitions"


@dataclass(frozen=True)
class Verdict:
    """What the validators have against an entry.

    Attributes
    ----------
    pynxtools, nexusformat
        Errors; empty for a valid entry.
    undocumented
        Further things that pynxtools finds in no definition (no error).
    warnings
        Warnings of nexusformat.
    """

    pynxtools: list[str]
    nexusformat: list[str]
    undocumented: list[str]
    warnings: list[str]

    @property
    def errors(self) -> list[str]:
        """Errors of both."""
        return [*self.pynxtools, *self.nexusformat]


class Validators:
    """The validators under one set of definitions; use as a context manager."""

    def __init__(self, definitions: str) -> None:
        self.definitions = definitions

    def __enter__(self) -> Validators:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, self.definitions],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            # Both sets may read a file at the same time, and nexusformat locks what it only reads.
            env={**os.environ, "HDF5_USE_FILE_LOCKING": "FALSE"},
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None  # noqa: S101  (for the type checker)
        assert self._process.stdout is not None  # noqa: S101
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(30)

    def application(
        self, path: Path, definition: str, group: str = "/entry", *, strict: bool = False
    ) -> Verdict:
        """Validate a group against an application definition; strict: list undocumented things."""
        return self._ask(
            path, kind="application", definition=definition, group=group, strict=strict
        )

    def base_classes(self, path: Path) -> Verdict:
        """Validate every group of a file against its base class (nexusformat only)."""
        return self._ask(path, kind="base")

    def _ask(self, path: Path, **request: Any) -> Verdict:
        assert self._process.stdin is not None  # noqa: S101  (for the type checker)
        assert self._process.stdout is not None  # noqa: S101
        # Absolute: the other process changes its working directory with every file.
        request["path"] = str(path.absolute())
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise ProcessError(
                f"the NeXus validators have died on {request['path']} ({self.definitions} "
                "definitions): the file was not checked to its end."
            )
        return Verdict(**json.loads(answer))


class _Messages(logging.Handler):
    """Errors and warnings, with the place that nexusformat tells in lines of their own above."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self._headings: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().rstrip()
        said = text.lstrip()
        indent = len(text) - len(said)
        if record.levelno == logging.CRITICAL:
            kind, colon, name = said.partition(": ")
            self._headings = [heading for heading in self._headings if heading[0] < indent]
            if colon and (kind in ("Group", "Field", "Link", "Attribute") or kind.startswith("NX")):
                self._headings.append((indent, name))
        elif record.levelno == logging.ERROR:
            self.errors.append(said + self._place(indent))
        elif record.levelno == logging.WARNING:
            self.warnings.append(said + self._place(indent))

    def _place(self, indent: int) -> str:
        names = [name for outer, name in self._headings if outer < indent]
        whole = [name for name in names if name.startswith("/")]
        place = whole[-1] if whole and whole[-1] == names[-1] else "/".join(names)
        return f" ({place})" if place else ""


def _serve(definitions: str) -> None:
    folder = definitions_folder(definitions)
    os.environ["NEXUS_DEF_PATH"] = str(folder)
    out = sys.stdout
    for line in sys.stdin:
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                answer = _answer(json.loads(line), folder)
            except Exception as error:  # noqa: BLE001  (the next file has nothing to do with it)
                sentence = f"a validator gave up: {type(error).__name__} {error}"
                answer = {
                    "pynxtools": [sentence], "nexusformat": [], "undocumented": [], "warnings": [],
                }  # fmt: skip
        out.write(json.dumps(answer) + "\n")
        out.flush()


def _answer(request: dict[str, Any], folder: Path) -> dict[str, list[str]]:
    from nexusformat.nexus import validate

    handler = _Messages()
    validate.logger.addHandler(handler)
    validate.logger.setLevel(logging.WARNING)
    required: list[str] = []
    undocumented: list[str] = []
    # pynxtools looks for the targets of relative external links from the working directory.
    os.chdir(Path(request["path"]).parent)
    try:
        if request["kind"] == "base":
            totals = validate.validate_file(request["path"], definitions=str(folder))
        else:
            totals = validate.validate_application(
                request["path"], path=request["group"], application=request["definition"],
                definitions=str(folder),
            )  # fmt: skip
            required, undocumented = _pynxtools(request)
    finally:
        validate.logger.removeHandler(handler)
    errors = handler.errors
    if totals is None or totals[1] != len(errors):
        errors = [*errors, f"nexusformat gave up, or counts otherwise: {totals}"]
    return {
        "pynxtools": required,
        "nexusformat": errors,
        "undocumented": undocumented,
        "warnings": handler.warnings,
    }


def _pynxtools(request: dict[str, Any]) -> tuple[list[str], list[str]]:
    import h5py
    from pynxtools.dataconverter.helpers import collector
    from pynxtools.dataconverter.validation import validate_hdf_group_against

    found: dict[bool, list[str]] = {False: []}
    for ignore in (True, False) if request["strict"] else (True,):
        with h5py.File(request["path"], "r") as file:
            valid = validate_hdf_group_against(
                request["definition"], file[request["group"]], request["path"], ignore
            )
        found[ignore] = sorted(collector.data["warning_and_error"])
        if not valid and not found[ignore]:
            found[ignore] = ["pynxtools says no and not why"]
    return found[True], [problem for problem in found[False] if problem not in found[True]]


if __name__ == "__main__":
    _serve(sys.argv[1])
