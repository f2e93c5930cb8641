"""What a start and a stop document say about a run, as fields of the entry."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from beamline.nexus.names import clean_text, nexus_name, unused_name
from beamline.nexus.roles import Options
from beamline.nexus.rows import as_text
from beamline.nexus.tree import Attribute, Field, Group, Tree

__all__ = [
    "COLLECTION",
    "ENTRY",
    "INSTRUMENT",
    "SAMPLE",
    "add_mapping",
    "constant",
    "document",
    "iso_time",
    "start_tree",
    "stop_tree",
]

ENTRY = "/entry"
INSTRUMENT = "/entry/instrument"
SAMPLE = "/entry/sample"
#: Everything of a run that has no place in NeXus: documents, metadata, streams.
COLLECTION = "/entry/bluesky"

#: Release of the NeXus definitions that the files follow.
NEXUS_RELEASE = "v2026.01"
_DEEPEST = 24


def iso_time(seconds: float) -> str:
    """Time of a document (seconds since 1970) as ISO 8601 in UTC."""
    return dt.datetime.fromtimestamp(seconds, tz=dt.UTC).isoformat()


def start_tree(start: Mapping[str, Any], options: Options, file_name: str) -> Tree:
    """Nodes that are known when a run starts."""
    moment = iso_time(start["time"])
    tree: Tree = {
        "/": Group(
            "NXroot",
            {
                "default": "entry",
                "file_name": file_name,
                "file_time": moment,
                "creator": "beamline-dataflow",
                "NeXus_release": NEXUS_RELEASE,
            },
        ),
        ENTRY: Group("NXentry"),
        f"{ENTRY}/title": Field(_title(start)),
        f"{ENTRY}/start_time": Field(moment),
        f"{ENTRY}/entry_identifier_uuid": Field(str(start["uid"])),
        f"{ENTRY}/program_name": Field("bluesky", _version_of(start, "bluesky")),
        f"{ENTRY}/plan_name": Field(clean_text(str(start.get("plan_name", "")))),
    }
    if "scan_id" in start:
        tree[f"{ENTRY}/entry_identifier"] = Field(as_text(start["scan_id"]))
        _set_constant(tree, f"{ENTRY}/scan_id", start["scan_id"])
    if "plan_args" in start:
        tree[f"{ENTRY}/plan_args"] = document(start["plan_args"])
    proposal = start.get("proposal_id", start.get("proposal"))
    if isinstance(proposal, str | int):
        tree[f"{ENTRY}/experiment_identifier"] = Field(as_text(proposal))
    _add_users(tree, start)
    _add_sample(tree, start)
    _add_instrument(tree, start, options)
    tree[COLLECTION] = Group("NXcollection")
    tree[f"{COLLECTION}/documents"] = Group("NXcollection")
    tree[f"{COLLECTION}/documents/start"] = document(start)
    add_mapping(tree, f"{COLLECTION}/metadata", start)
    tree[f"{COLLECTION}/streams"] = Group("NXcollection")
    return tree


def stop_tree(stop: Mapping[str, Any]) -> Tree:
    """Nodes that are known when a run has ended."""
    return {
        f"{ENTRY}/end_time": Field(iso_time(stop["time"])),
        f"{ENTRY}/exit_status": Field(as_text(stop.get("exit_status", "unknown"))),
        f"{ENTRY}/reason": Field(as_text(stop.get("reason", ""))),
        f"{COLLECTION}/documents/stop": document(stop),
    }


def document(content: Any) -> Field:
    """Make a field that holds a document as JSON."""
    try:
        text = json.dumps(content, default=_plain, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        # Keys that JSON has no place for, or a structure that contains itself.
        text = json.dumps(repr(content), ensure_ascii=False)
    return Field(clean_text(text), {"media_type": "application/json"})


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if isinstance(value, complex):
        return [value.real, value.imag]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value)


def add_mapping(
    tree: Tree,
    path: str,
    content: Mapping[str, Any],
    attributes: Mapping[str, Attribute] | None = None,
) -> None:
    """Add a mapping as an NXcollection of fields, nested mappings as nested collections.

    None has no field (the document in JSON has it). A name that had to be changed is kept in the
    attribute ``original_name``.
    """
    tree[path] = Group("NXcollection", attributes or {})
    used: set[str] = set()
    for key, value in content.items():
        name = unused_name(nexus_name(str(key)), used)
        used.add(name)
        original: dict[str, Attribute] = {}
        if name != key:
            original["original_name"] = clean_text(str(key))
        if isinstance(value, Mapping) and path.count("/") < _DEEPEST:
            add_mapping(tree, f"{path}/{name}", value, original)
        else:
            _set_constant(tree, f"{path}/{name}", value, original)


def constant(value: Any, attributes: Mapping[str, Attribute] | None = None) -> Field | None:
    """Make a field of any value of a document; None for None.

    Numbers, texts and arrays of them stay what they are; anything else becomes JSON.
    """
    attributes = attributes or {}
    if value is None:
        return None
    if isinstance(value, str):
        return Field(clean_text(value), attributes)
    if isinstance(value, list | tuple) and value and all(isinstance(v, str) for v in value):
        return Field([clean_text(v) for v in value], attributes)
    if isinstance(value, bool | int | float | list | tuple | np.ndarray | np.generic):
        try:
            array = np.asarray(value)
        except (TypeError, ValueError, OverflowError):
            array = np.empty(0, dtype=object)
        if array.dtype.kind in "biuf" and array.size:
            return Field(array[()], attributes)
    return Field(document(value).value, attributes)


def _set_constant(
    tree: Tree, path: str, value: Any, attributes: Mapping[str, Attribute] | None = None
) -> None:
    made = constant(value, attributes)
    if made is not None:
        tree[path] = made


def _title(start: Mapping[str, Any]) -> str:
    if start.get("title"):
        return as_text(start["title"])
    what = str(start.get("plan_name") or "run")
    number = f" {start['scan_id']}" if "scan_id" in start else ""
    name = _sample_name(start)
    return clean_text(f"{what}{number}" + (f" of {name}" if name else ""))


def _sample_name(start: Mapping[str, Any]) -> str:
    sample = start.get("sample")
    if isinstance(sample, Mapping):
        return str(sample.get("name") or "")
    return str(sample or start.get("sample_name") or "")


def _add_sample(tree: Tree, start: Mapping[str, Any]) -> None:
    tree[SAMPLE] = Group("NXsample")
    tree[f"{SAMPLE}/name"] = Field(clean_text(_sample_name(start) or "unspecified"))
    sample = start.get("sample")
    if isinstance(sample, Mapping):
        formula = sample.get("chemical_formula") or sample.get("formula")
        for name, value in (("chemical_formula", formula), *_texts(sample, "description")):
            if value:
                tree[f"{SAMPLE}/{name}"] = Field(as_text(value))


def _add_users(tree: Tree, start: Mapping[str, Any]) -> None:
    given = next((start[k] for k in ("users", "user", "operator") if start.get(k)), None)
    people = given if isinstance(given, list | tuple) else [given]
    number = 0
    for person in people:
        if isinstance(person, str):
            person = {"name": person}
        if not isinstance(person, Mapping):
            continue
        number += 1
        path = f"{ENTRY}/user" if number == 1 else f"{ENTRY}/user_{number}"
        tree[path] = Group("NXuser")
        for name, value in _texts(
            person, "name", "role", "affiliation", "address", "email", "facility_user_id", "ORCID"
        ):
            tree[f"{path}/{name}"] = Field(as_text(value))


def _add_instrument(tree: Tree, start: Mapping[str, Any], options: Options) -> None:
    given = start.get("instrument")
    instrument: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    name = instrument.get("name") or (given if isinstance(given, str) else None)
    tree[INSTRUMENT] = Group("NXinstrument")
    tree[f"{INSTRUMENT}/name"] = Field(as_text(name or start.get("beamline_id") or "unspecified"))
    source = instrument.get("source")
    if isinstance(source, Mapping) or options.definition:
        source = source if isinstance(source, Mapping) else {}
        tree[f"{INSTRUMENT}/source"] = Group("NXsource")
        for key, default in (
            ("name", "unspecified"), ("type", "Synchrotron X-ray Source"), ("probe", "x-ray"),
        ):  # fmt: skip
            tree[f"{INSTRUMENT}/source/{key}"] = Field(as_text(source.get(key) or default))
    monochromator = instrument.get("monochromator")
    if isinstance(monochromator, Mapping):
        tree[f"{INSTRUMENT}/monochromator"] = Group("NXmonochromator")
        _add_crystal(tree, f"{INSTRUMENT}/monochromator/crystal", monochromator)


def _add_crystal(tree: Tree, path: str, given: Mapping[str, Any]) -> None:
    fields: Tree = {}
    if given.get("type"):
        fields[f"{path}/type"] = Field(as_text(given["type"]))
    reflection = constant(given.get("reflection"), {"units": ""})
    if reflection is not None and np.shape(reflection.value) == (3,):
        fields[f"{path}/reflection"] = reflection
    spacing = given.get("d_spacing")
    if isinstance(spacing, int | float):
        # The start document gives it in Å.
        fields[f"{path}/d_spacing"] = Field(float(spacing), {"units": "angstrom"})
    if fields:
        tree[path] = Group("NXcrystal")
        tree.update(fields)


def _texts(content: Mapping[str, Any], *names: str) -> Iterator[tuple[str, Any]]:
    for name in names:
        if isinstance(content.get(name), str) and content[name]:
            yield name, content[name]


def _version_of(start: Mapping[str, Any], package: str) -> dict[str, Attribute]:
    versions = start.get("versions")
    version = versions.get(package) if isinstance(versions, Mapping) else None
    return {"version": as_text(version)} if version else {}
