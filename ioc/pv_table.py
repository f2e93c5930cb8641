"""All PVs as a table: what the IOC serves, for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ioc.autosave import saved_fields
from ioc.channel import Field
from ioc.fields import CharArray, Enum
from ioc.mirror import UNKNOWN_STATES
from ioc.record import Record

__all__ = ["FORMATS", "Row", "pv_rows", "render"]

FORMATS = ("names", "table", "md")
_HEADINGS = ("PV", "record", "unit", "range", "put", "description")
_GROUPS = (
    ("Machine", ("RING:", "VACUUM:", "HUTCH:")),
    ("Optics and shutter", ("MONO:", "SHUTTER:", "ATTEN:")),
    ("Sample", ("SAMPLE:",)),
    ("Counters", ("DET:", "SCALER1")),
    ("Fly scans", ("FLY",)),
    ("Area detector: camera", ("AD1:cam1:",)),
    ("Area detector: file writer", ("AD1:HDF1:",)),
    ("Area detector: live image", ("AD1:image1:",)),
    ("The IOC itself", ("IOC:",)),
)
_INTRODUCTION = """\
<!-- Written by `make docs-pvs`; change the records, not this page. -->
# Process variables

What `beamline ioc` serves, without the prefix (`{prefix}` by default). `w` marks what clients may
write; where a readback is named beside it, that shows the value in use. A put of anything outside
the range is refused: nothing changes, a put with completion ends with ECA_PUTFAIL, and the log of
the IOC names the PV, the value and what is allowed. A put without write access ends with
ECA_NOWTACCESS: the values of the machine are for reading only, hosts that are not on the list
(`--allow-host`) write nothing, and `OFFLINE` in `IOC:ACCESS` denies all puts but the one that ends
it. `IOC:CA_PUT_REFUSED` and `IOC:CA_PUT_DENIED` count both. `RECORD.STAT`, `.SEVR` and, for analog
records, `.HIHI` `.HIGH` `.LOW` `.LOLO` `.EGU` `.PREC` are served for every record.
"""
_SCALER = """\
### SCALER1

A put of 1 to `.CNT` counts for `.TP` seconds (or `.PR1` ticks of 10 MHz). It clears `.T` and all
channels; `.T` and `.S1` (the time base) follow the time at `.RATE` Hz, the others stay at 0 until
the counts come, all at once, at the end. Only time ends a count: presets (`.PR2` …) and gates
(`.G2` …) of the other channels take nothing but 0 and N, anything else is refused in words.
"""
_SAVED = """\
With `--autosave FILE` these are written, at most once a second and when the IOC stops, and put back
when it starts, like a client's puts: what is out of range is refused and the default stays.
Positions, the shutter, the attenuator and the sample in the beam are the hardware's, and are left
alone. A file that can't be used is kept beside the new one; `FILE.bak` is that of the start before.
A device server that starts anew is given the settings that it keeps, too. An IOC that finds another
one with the same file (`FILE.lock`) does not start.
DESC of every record is saved too.
"""


class Row(NamedTuple):
    """One record.

    Attributes
    ----------
    name
        Full name.
    record
        Record type.
    unit, range
        Unit of its value, and what it may be: numbers, or the names of states.
    put
        ``w`` if clients may write it.
    description
        What it is.
    """

    name: str
    record: str
    unit: str
    range: str
    put: str
    description: str


def pv_rows(records: Iterable[Record]) -> list[Row]:
    """Return the rows of records, by name."""
    rows = []
    for record in sorted(records, key=lambda record: record.name):
        value = record.fields["VAL"]
        # A scaler is started with CNT; its value is the time counted.
        writable = not record.fields.get("CNT", value).read_only
        unit = record.fields["EGU"].current if "EGU" in record.fields else ""
        rows.append(
            Row(
                record.name,
                record.kind,
                str(unit),
                _range(value, writable),
                "w" if writable else "",
                str(record.fields["DESC"].current),
            )
        )
    return rows


def _range(value: Field, writable: bool) -> str:
    if isinstance(value, Enum):
        if value.states == UNKNOWN_STATES:
            return "loaded samples"
        return ", ".join(value.states)
    if isinstance(value, CharArray):
        return "text"
    kind = "ctrl" if writable else "disp"
    metadata = value.metadata()
    low, high = metadata.get(f"lower_{kind}_limit", 0), metadata.get(f"upper_{kind}_limit", 0)
    return f"{low:g} to {high:g}" if low < high else ""


def render(records: Sequence[Record], prefix: str, style: str) -> str:
    """Return the table as text.

    Parameters
    ----------
    records
        All records.
    prefix
        Prefix of their names; in ``md`` it is left out.
    style
        One of `FORMATS`: ``names``, one to a line; ``table``, for a terminal; ``md``, the page
        docs/pvs.md.
    """
    rows = pv_rows(records)
    if style == "names":
        return "".join(f"{row.name}\n" for row in rows)
    if style == "table":
        widths = [max(map(len, column)) for column in zip(_HEADINGS, *rows, strict=True)]
        return "".join(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
            + "\n"
            for row in (_HEADINGS, *rows)
        )
    return "\n".join(_page(records, rows, prefix))


def _page(records: Sequence[Record], rows: Sequence[Row], prefix: str) -> Iterable[str]:
    yield _INTRODUCTION.format(prefix=prefix)
    left = [row._replace(name=row.name.removeprefix(prefix)) for row in rows]
    for title, starts in (*_GROUPS, ("Other", ("",))):
        group = {row.name: row for row in left if row.name.startswith(starts)}
        left = [row for row in left if row.name not in group]
        if group:
            yield f"## {title}\n"
            yield from _section(group)
            if "SCALER1" in group:
                yield _SCALER
    motor = next(record for record in records if record.kind == "motor")
    yield "## Fields of a motor record\n"
    for title, read_only in (("Written by clients", False), ("Only read", True)):
        names = [name for name, field in motor.fields.items() if field.read_only is read_only]
        yield f"{title}: " + " ".join(f"`{name}`" for name in sorted(names)) + ".\n"
    yield "## Settings that survive a restart\n"
    yield _SAVED
    saved = sorted(saved_fields(prefix, records))
    for title, chosen in (
        ("Of every motor", _fields_of(saved, motor.name.removeprefix(prefix))),
        ("Of `SCALER1`", _fields_of(saved, "SCALER1")),
        ("Values", [name for name in saved if "." not in name]),
    ):
        yield f"- {title}: " + ", ".join(f"`{name}`" for name in chosen)


def _fields_of(names: Iterable[str], record: str) -> list[str]:
    return [name.removeprefix(f"{record}.") for name in names if name.startswith(f"{record}.")]


def _section(group: dict[str, Row]) -> Iterable[str]:
    yield "| " + " | ".join(_HEADINGS) + " |"
    yield "|---" * len(_HEADINGS) + "|"
    for name, row in group.items():
        if name.endswith("_RBV") and name.removesuffix("_RBV") in group:
            continue
        names = f"`{name}`" + f", `{name}_RBV`" * (f"{name}_RBV" in group)
        yield "| " + " | ".join((names, *row[1:])) + " |"
    yield ""
