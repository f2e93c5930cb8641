"""Names that NeXus and HDF5 accept, and text that HDF5 can store."""

from __future__ import annotations

import re
from collections.abc import Container

__all__ = ["clean_text", "nexus_name", "unused_name"]

_FORBIDDEN = re.compile(r"[^A-Za-z0-9_]")
#: Endings that NeXus gives a meaning ("x_errors" belongs to "x"); validators refuse them elsewhere.
_RESERVED_ENDINGS = (
    "_end", "_errors", "_increment_set", "_indices", "_mask", "_offset", "_scaling_factor",
    "_set", "_weights",
)  # fmt: skip
#: Beginnings that belong to others ("NX" to classes, the rest to producers of files).
_RESERVED_BEGINNINGS = (
    "BLUESKY_", "DECTRIS_", "IDF_", "NDAttr", "NX", "PDBX_", "SAS_", "SILX_",
)  # fmt: skip
#: NeXus item names are limited to 63 characters.
_LONGEST = 63


def nexus_name(name: str) -> str:
    """Map any name to a valid NeXus name that is no other meaning's.

    Names that are valid already come back unchanged.

    Examples
    --------
    >>> nexus_name("stage-x"), nexus_name("2theta"), nexus_name("motor_user_offset")
    ('stage_x', '_2theta', 'motor_user_offset_value')
    """
    mapped = _FORBIDDEN.sub("_", name) or "_"
    if mapped[0].isdigit():
        mapped = f"_{mapped}"
    if mapped.startswith(_RESERVED_BEGINNINGS):
        mapped = f"x_{mapped}"
    if mapped.endswith(_RESERVED_ENDINGS):
        mapped = f"{mapped[: _LONGEST - 6]}_value"
    return mapped[:_LONGEST]


def unused_name(name: str, used: Container[str]) -> str:
    """Return `name`, with a number behind it if it is in `used`."""
    if name not in used:
        return name
    number = 2
    while (numbered := f"{name[: _LONGEST - len(str(number)) - 1]}_{number}") in used:
        number += 1
    return numbered


def clean_text(text: str) -> str:
    r"""Return text that HDF5 can store: NUL as ``\0``, lone surrogates as ``\udcXX``."""
    if "\0" in text:
        text = text.replace("\0", "\\0")
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-8", "backslashreplace").decode()
    # Text of a subclass (a numpy string, an enumeration) as plain text.
    return str(text)
