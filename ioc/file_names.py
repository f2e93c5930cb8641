"""Names of frame files, as ADCore's printf template makes them."""

from __future__ import annotations

from pathlib import Path

__all__ = ["file_path"]


def file_path(template: str, directory: str, name: str, number: int) -> Path:
    """Fill directory, name and number into a template such as ``%s%s_%6.6d.h5``.

    As with printf, a template may leave out the last of the three.

    Raises
    ------
    ValueError
        If it takes something else.
    """
    taken = template.replace("%%", "").count("%")
    try:
        return Path(template % (directory, name, number)[:taken])
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"FileTemplate {template!r} must take path, name and number: {error}"
        ) from None
