"""``beamline show``: what is recorded of one run."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from beamline.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from beamline.documents.details import RunDetails
    from beamline.documents.journal import RunSummary

#: Of the start document, what the table shows by itself or in words of its own.
_SHOWN = ("uid", "time", "scan_id", "plan_name", "sample", "versions", "hints", "plan_args")


# A run may be named "-1", which is an index and not an option.
@click.command(name="show", context_settings={"ignore_unknown_options": True})
@click.argument("run", callback=options.no_misspelt_options)
@click.option("--json", "as_json", is_flag=True, help="Print all of it as one JSON object.")
@options.config
@options.data_dir
def command(run: str, as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """Show plan, sample, status, streams, data keys, files and configuration of RUN.

    RUN is a scan_id, the beginning of a uid, or -1 for the latest run. It is read from the journal:
    no IOC, no server and no catalogue is needed.
    """
    from beamline.core.config import load_settings
    from beamline.documents.details import describe_run
    from beamline.documents.journal import Journal

    data = load_settings(config_path, data_dir=data_dir).data_dir
    journal = Journal(data / "journal")
    summary = journal.find(run)
    details = describe_run(journal.documents(summary))
    files = _files(data, details)
    if as_json:
        click.echo(_json(summary, details, files))
        return
    from beamline.cli import tables

    _show(tables.console(), summary, details, files)


def _files(data: Path, details: RunDetails) -> dict[str, list[str]]:
    """Return the files that belong to a run and are there, by kind."""
    from callbacks.nexus import file_name

    name = file_name(details.start)
    found: dict[str, list[str]] = {"nexus": [], "cxi": [], "frames": []}
    found["nexus"] = [str(path) for path in sorted((data / "nexus").glob(f"{name}*"))]
    if details.files and (data / "cxi").is_dir():
        from beamline.recovery import cxi_files

        found["cxi"] = [str(path) for path in cxi_files(data / "cxi", details.start)]
    found["frames"] = [file for files in details.files.values() for file in files]
    return {kind: files for kind, files in found.items() if files}


def _json(summary: RunSummary, details: RunDetails, files: dict[str, list[str]]) -> str:
    import json

    content = {
        "uid": summary.uid,
        "scan_id": summary.scan_id,
        "plan_name": summary.plan_name,
        "sample": summary.sample,
        "exit_status": summary.exit_status,
        "reason": summary.reason,
        "time": summary.time,
        "duration": summary.duration,
        "damage": summary.damage,
        "journal": str(summary.path),
        "files": files,
        "documents": dict(details.documents),
        "streams": {
            name: {
                "rows": stream.rows,
                "first": stream.first,
                "last": stream.last,
                "data_keys": stream.data_keys,
                "configuration": {
                    device: {
                        key: {"value": value, "units": units}
                        for key, (value, units) in configured.items()
                    }
                    for device, configured in stream.configuration.items()
                },
            }
            for name, stream in details.streams.items()
        },
        "start": details.start,
        "stop": details.stop,
    }
    return json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """Turn anything that a document may hold into what JSON has; NaN becomes null."""
    import math
    from collections.abc import Mapping

    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return str(value)


def _show(
    console: Console, summary: RunSummary, details: RunDetails, files: dict[str, list[str]]
) -> None:
    from rich.table import Table
    from rich.text import Text

    from beamline.cli import tables

    facts = Table(box=None, pad_edge=False, show_header=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for label, text in _facts(summary, details, files):
        facts.add_row(label, Text(text))
    console.print(facts)
    for name, stream in details.streams.items():
        console.print()
        console.print(Text(f"{name}: {stream.rows} rows{_rate(stream)}", style="bold"))
        keys = tables.table("data key", "type", "shape", "units", "source")
        for key, described in stream.data_keys.items():
            kind = str(described.get("dtype_numpy") or described.get("dtype", ""))
            cells = (
                key,
                kind + (" external" if described.get("external") else ""),
                " x ".join(map(str, described.get("shape") or ())),
                str(described.get("units") or ""),
                str(described.get("source") or ""),
            )
            # Text, not str: names with brackets are no markup.
            keys.add_row(*(Text(cell) for cell in cells))
        console.print(keys)
        for device, configured in stream.configuration.items():
            if configured:
                said = ", ".join(
                    f"{key} = {_short(value)}{f' {units}' if units else ''}"
                    for key, (value, units) in configured.items()
                )
                console.print(Text(f"configuration of {device}: {said}"))


def _facts(
    summary: RunSummary, details: RunDetails, files: dict[str, list[str]]
) -> list[tuple[str, str]]:
    start = details.start
    facts = [
        ("run", summary.uid),
        ("scan_id", "" if summary.scan_id is None else str(summary.scan_id)),
        ("plan", summary.plan_name or ""),
        ("arguments", _short(start.get("plan_args"), 400) if "plan_args" in start else ""),
        ("sample", _short(start.get("sample"), 400) if "sample" in start else ""),
        ("status", summary.exit_status),
        ("reason", " ".join(summary.reason.split())),
        ("started", _time(summary.time)),
        ("ended", _time(summary.time + summary.duration) if summary.duration is not None else ""),
        ("duration", f"{summary.duration:.3f} s" if summary.duration is not None else ""),
        ("journal", f"{summary.path} ({summary.path.stat().st_size / 1e6:.2f} MB)"),
        ("damage", summary.damage or ""),
    ]
    for kind, paths in files.items():
        facts += [(kind, path) for path in paths]
    facts += [(str(key), _short(value, 200)) for key, value in start.items() if key not in _SHOWN]
    return [(label, text) for label, text in facts if text]


def _rate(stream: Any) -> str:
    if stream.first is None or stream.rows < 2 or not stream.last > stream.first:
        return ""
    seconds = stream.last - stream.first
    return f" in {seconds:.1f} s ({(stream.rows - 1) / seconds:.3g}/s)"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "milliseconds")


def _short(value: Any, most: int = 80) -> str:
    if isinstance(value, dict):
        text = ", ".join(f"{key}: {_short(item, most)}" for key, item in value.items())
    else:
        text = str(value)
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"
