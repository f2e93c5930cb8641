"""Is a NeXus file what it says it is? Validators, default plot, links into other files."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from beamline.validation.findings import Report
from beamline.validation.nexus_validators import (
    COMMUNITY,
    OFFICIAL,
    Validators,
    definitions_folder,
    installed,
)
from beamline.validation.plain_words import plainly

__all__ = ["BothValidators", "check_nexus", "plot_problems"]

_KINDS = ("applications", "contributed_definitions")
_SHOWN = 10


def check_nexus(path: Path, validators: BothValidators | None = None) -> Report:
    """Check a NeXus file.

    Checked are the application definitions that it claims, by pynxtools and by nexusformat, under
    every set of definitions that has them; its base classes; what is drawn by default; whether the
    files that it refers to are there; and whether its writer has completed it.
    """
    report = Report("NeXus")
    with h5py.File(path, "r", locking=False) as file:
        claims = list(_claims(file))
        report.add(_unfinished(path, file), "completed by its writer")
        empty = has_nothing_to_plot(file)
        report.add(
            () if empty else plot_problems(file),
            "has no default plot, as no numbers were recorded" if empty else "has a default plot",
        )
        report.add(_missing_files(path, file), "every file that it refers to is there")
    if not installed():
        report.lines.append(
            (
                False,
                "not validated: the NeXus validators are not installed, pip install "
                "'beamline-dataflow[validate]' brings them.",
            )
        )
        return report
    with contextlib.ExitStack() as stack:
        both = (validators or stack.enter_context(BothValidators())).started()
        base = _known_somewhere(both[OFFICIAL].base_classes(path).errors)
        report.add(_short(base), "base classes are valid (nexusformat)")
        for definitions, group, definition in _questions(claims):
            found = both[definitions].application(path, definition, group).errors
            which = f"{definition}, {definitions} definition"
            report.add(
                (f"{which}: {text}" for text in _short(found)),
                f"{group} is a valid {definition} by the {definitions} definition "
                "(pynxtools, nexusformat)",
            )
    for group, definition in claims:
        if not any(_knows(definitions, definition) for definitions in (OFFICIAL, COMMUNITY)):
            report.lines.append(
                (False, f"{group}/definition is {definition!r}, which nobody has defined.")
            )
    return report


class BothValidators:
    """The validators under both sets of definitions, started once they are needed."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._running: dict[str, Validators] = {}

    def started(self) -> dict[str, Validators]:
        """Return them by set of definitions."""
        if not self._running:
            for definitions in (OFFICIAL, COMMUNITY):
                made = self._stack.enter_context(Validators(definitions))
                self._running[definitions] = made
        return self._running

    def __enter__(self) -> BothValidators:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _questions(claims: list[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    for definitions in (OFFICIAL, COMMUNITY):
        for group, definition in claims:
            if _knows(definitions, definition):
                yield definitions, group, definition


def _known_somewhere(problems: list[str]) -> list[str]:
    """Leave out classes that only the other set of definitions has."""
    return [
        problem
        for problem in problems
        if not (
            (found := re.match(r"(NX\w+) is not a valid base class", problem.strip()))
            and _knows(COMMUNITY, found[1], ("base_classes", *_KINDS))
        )
    ]


def _short(problems: list[str]) -> Iterator[str]:
    for problem in problems[:_SHOWN]:
        yield plainly(" ".join(problem.split()))
    if len(problems) > _SHOWN:
        yield f"{len(problems) - _SHOWN} more of this kind"


def _knows(definitions: str, definition: str, kinds: tuple[str, ...] = _KINDS) -> bool:
    folder = definitions_folder(definitions)
    return any((folder / kind / f"{definition}.nxdl.xml").exists() for kind in kinds)


def _claims(file: Any) -> Iterator[tuple[str, str]]:
    """Yield each entry and subentry that claims an application definition."""
    for name in file:
        entry = _get(file, name)
        if not isinstance(entry, h5py.Group) or _nx_class(entry) != "NXentry":
            continue
        for group in (entry, *(_get(entry, inner) for inner in entry)):
            if isinstance(group, h5py.Group) and _nx_class(group) in ("NXentry", "NXsubentry"):
                definition = group.get("definition")
                if isinstance(definition, h5py.Dataset) and definition.shape == ():
                    yield group.name, str(definition.asstr()[()])


def _get(group: Any, name: str) -> Any:
    try:
        return group[name]
    except (KeyError, OSError):
        return None


def _nx_class(node: Any) -> str:
    found = node.attrs.get("NX_class", "")
    return found.decode() if isinstance(found, bytes) else str(found)


def _unfinished(path: Path, file: Any) -> Iterator[str]:
    if path.name.endswith(".part"):
        yield "the file is in progress, or its writer was killed: 'beamline recover' completes it."
    for name in file:
        entry = _get(file, name)
        if not isinstance(entry, h5py.Group) or _nx_class(entry) != "NXentry":
            continue
        if "start_time" in entry and "end_time" not in entry:
            yield f"{entry.name} has no end_time: its writer did not complete it."
    if not any(_nx_class(node) == "NXentry" for node in file.values() if node is not None):
        yield "the file has no NXentry: it is no NeXus file."


def has_nothing_to_plot(file: Any) -> bool:
    """Whether the entries of an open NeXus file have no NXdata group and no log of numbers."""
    entries = [node for node in file.values() if _nx_class(node) == "NXentry"]
    return bool(entries) and not any(
        _nx_class(group) == "NXdata"
        or (_nx_class(group) == "NXlog" and _is_numeric(_get(group, "value")))
        for entry in entries
        for group in _groups(entry)
    )


def _is_numeric(node: Any) -> bool:
    return isinstance(node, h5py.Dataset) and node.dtype.kind in "iufb"


def _groups(group: Any) -> Iterator[Any]:
    for name in group:
        if group.get(name, getclass=True, getlink=True) is h5py.HardLink:
            node = group[name]
            if isinstance(node, h5py.Group):
                yield node
                yield from _groups(node)


def plot_problems(file: Any) -> list[str]:
    """Return what keeps a viewer from drawing the default plot of an open NeXus file."""
    group = file
    for _ in range(10):
        name = group.attrs.get("default")
        if name is None:
            break
        found = _get(group, str(name))
        if not isinstance(found, h5py.Group):
            return [f"{group.name}@default leads to {name!r}, which is not there."]
        group = found
    if group is file:
        return ["the root has no @default: viewers don't know what to draw."]
    if _nx_class(group) != "NXdata":
        return [f"@default leads to {group.name}, which is no NXdata: nothing is drawn."]
    return list(_data_problems(group))


def _data_problems(group: Any) -> Iterator[str]:
    name = group.attrs.get("signal")
    signal = None if name is None else _get(group, str(name))
    if name is None:
        yield f"{group.name} has no @signal."
        return
    if not isinstance(signal, h5py.Dataset):
        yield f"the signal {group.name}/{name} can't be opened: its file or data set is missing."
        return
    if signal.dtype.kind not in "iufb":
        yield f"the signal {signal.name} is {signal.dtype}: only numbers can be drawn."
    axes = group.attrs.get("axes", [])
    axes = [axes] if isinstance(axes, str) else [str(axis) for axis in axes]
    if axes and len(axes) != signal.ndim:
        yield f"{group.name}@axes names {len(axes)} axes, the signal has {signal.ndim} dimensions."
        return
    for dimension, axis in enumerate(axes):
        if axis == ".":
            continue
        values = _get(group, axis)
        if not isinstance(values, h5py.Dataset):
            yield f"the axis {group.name}/{axis} is missing."
        elif values.ndim == 1 and values.size not in (
            signal.shape[dimension],
            signal.shape[dimension] + 1,
        ):
            yield (
                f"the axis {group.name}/{axis} has {values.size} values, the signal has "
                f"{signal.shape[dimension]}."
            )


def _missing_files(path: Path, file: Any) -> Iterator[str]:
    """Name the files and data sets that are referred to and can't be opened, each once."""
    seen: set[str] = set()

    def walk(group: Any) -> Iterator[str]:
        for name in group:
            link = group.get(name, getlink=True)
            here = f"{group.name.rstrip('/')}/{name}"
            if isinstance(link, h5py.ExternalLink):
                node = _get(group, name)
                target = Path(os.path.normpath(path.parent / link.filename))
                key = f"{target}:{link.path}"
                if node is None and key not in seen:
                    seen.add(key)
                    what = f"{link.path} in {target}" if target.exists() else str(target)
                    yield f"{here} leads to {what}, which is not there."
            elif isinstance(link, h5py.SoftLink):
                if _get(group, name) is None:
                    yield f"{here} leads to {link.path}, which is not there."
            else:
                node = group[name]
                if isinstance(node, h5py.Group):
                    yield from walk(node)
                elif node.is_virtual:
                    for source in node.virtual_sources():
                        target = Path(os.path.normpath(path.parent / source.file_name))
                        if not target.exists() and str(target) not in seen:
                            seen.add(str(target))
                            yield f"{here} shows values of {target}, which is not there."

    yield from walk(file)
