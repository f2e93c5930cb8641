"""Questions to the catalogue, and the times in them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from beamline.core.errors import ConfigurationError

__all__ = ["moment", "search_runs"]


def search_runs(
    catalog: Any,
    *,
    scan_id: int | None = None,
    sample: str | None = None,
    plan: str | None = None,
    since: str | float | datetime | None = None,
    until: str | float | datetime | None = None,
    status: str | None = None,
) -> Any:
    """Return the runs for which everything holds that is given, as a catalogue.

    Parameters
    ----------
    catalog
        From `open_catalog`, or the result of another search.
    scan_id, plan
        Of the start document.
    sample
        The name of the sample: ``start["sample"]["name"]``, or ``start["sample"]`` itself where
        that is text.
    since, until
        Limits of the time at which runs began, the second exclusive: seconds since 1970, a
        datetime, or what `moment` reads.
    status
        ``exit_status`` of the stop document: success, abort or fail.

    Raises
    ------
    ConfigurationError
        If a time can't be read.
    """
    from tiled.queries import Comparison, Eq, In

    found = catalog
    for key, value in (("start.scan_id", scan_id), ("start.plan_name", plan)):
        if value is not None:
            found = found.search(Eq(key, value))
    if since is not None:
        found = found.search(Comparison("ge", "start.time", _seconds(since, end=False)))
    if until is not None:
        found = found.search(Comparison("lt", "start.time", _seconds(until, end=True)))
    if status is not None:
        found = found.search(Eq("stop.exit_status", status))
    if sample is not None:
        named = found.search(Eq("start.sample.name", sample))
        written = found.search(Eq("start.sample", sample))
        if len(named) == 0:
            found = written
        elif len(written) == 0:
            found = named
        else:  # tiled knows no "or"
            uids = [run.start["uid"] for part in (named, written) for run in part.values()]
            found = found.search(In("start.uid", uids))
    return found


def moment(text: str, *, end: bool = False) -> float:
    """Return the seconds since 1970 of a time as people write it, in the local time zone.

    Parameters
    ----------
    text
        ISO 8601: ``2026-03-01``, ``2026-03-01T14:30``, with a zone if need be; ``today`` or
        ``yesterday``.
    end
        Whether a day without a time of day stands for its end instead of its beginning.

    Raises
    ------
    ConfigurationError
        If it is none of these.
    """
    word = text.strip().lower()
    today = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    days = {"today": today, "yesterday": today - timedelta(days=1)}
    try:
        when = days[word] if word in days else datetime.fromisoformat(text.strip())
    except ValueError:
        raise ConfigurationError(
            f"{text!r} is no time: write it like 2026-03-01, 2026-03-01T14:30, today or yesterday."
        ) from None
    whole_day = word in days or len(text.strip()) <= len("2026-03-01")
    if end and whole_day:
        when = when.replace(tzinfo=None) + timedelta(days=1)
    return when.timestamp()


def _seconds(value: str | float | datetime, *, end: bool) -> float:
    if isinstance(value, str):
        return moment(value, end=end)
    return value.timestamp() if isinstance(value, datetime) else float(value)
