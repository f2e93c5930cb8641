"""``beamline callbacks``: document consumers in a process of their own."""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path
from typing import Literal

import click

from beamline.cli import options

_DEFAULT_ADDRESS = "tcp://127.0.0.1:5578"


def _since(ctx: click.Context, param: click.Parameter, value: str) -> float | Literal["session"]:
    if value == "session":
        return "session"
    if value == "all":
        return 0.0
    moment = options.moment(ctx, param, value)
    assert moment is not None  # noqa: S101  (it is for None only)
    return moment


@click.command(name="callbacks")
@options.config
@click.option(
    "--address",
    "callbacks_address",
    help=f"Where the session publishes (setting callbacks_address).  [default: {_DEFAULT_ADDRESS}]",
)
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("callback-data"),
    show_default=True,
    help="Where files, catalogue and ledger go; one server at a time.",
)
@click.option(
    "--consumer",
    "consumers",
    multiple=True,
    metavar="NAME[=POLICY]",
    help="nexus, cxi, xpcs, catalog or module:factory; may be repeated.  [default: the first four]",
)
@click.option(
    "--on-error",
    "policy",
    type=click.Choice(["stop", "pause", "warn"]),
    default="warn",
    show_default=True,
    help="What a consumer that raises does to the plan, unless it has its own policy.",
)
@click.option(
    "--since",
    default="session",
    show_default=True,
    callback=_since,
    metavar="session|all|TIME",
    help="Which runs a new output directory is to have.",
)
@click.option("--retry-failed", is_flag=True, help="Do runs again that a consumer refused.")
@click.option("--health-host", default="127.0.0.1", show_default=True, help="Of the endpoint.")
@click.option(
    "--health-port",
    type=click.IntRange(0, 65535),
    default=9578,
    show_default=True,
    help="Port of the health endpoint (Prometheus text at /metrics); 0 takes a free one.",
)
@click.option("--exit-with-parent", is_flag=True, help="End when standard input closes.")
def command(
    config_path: Path | None,
    callbacks_address: str | None,
    output_dir: Path,
    consumers: tuple[str, ...],
    policy: Literal["stop", "pause", "warn"],
    since: float | Literal["session"],
    health_host: str,
    health_port: int,
    *,
    retry_failed: bool,
    exit_with_parent: bool,
) -> None:
    """Run writers and catalogue apart from the session, fed over the network, until Ctrl-C.

    The session publishes with `beamline ipython --callbacks ADDRESS`. It may be started before or
    after this server, which may be killed and started again at any time: what it has missed it
    gets from the session's journal, and what is finished it does not write twice.

    A consumer that raises is named in the log, at the health endpoint and in the session; there
    the plan fails (stop), pauses at its next checkpoint (pause), or goes on (warn). One that fails
    when its run has ended makes the next plan fail at its start (stop). Other consumers go on in
    any case.

    Exit status 1 if a consumer whose policy is stop or pause has refused anything.

    \b
    For example:
      beamline callbacks --consumer nexus=stop --consumer catalog
      beamline callbacks --consumer mybeamline.live:make --on-error pause
    """  # noqa: D301  (click's mark)
    from beamline.core.config import load_settings

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    stopping = threading.Event()
    # The work of stopping is done in the main loop, between two documents.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    if exit_with_parent:
        threading.Thread(target=_follow_parent, args=(stopping,), daemon=True).start()
    settings = load_settings(config_path, callbacks_address=callbacks_address)

    from callbacks.server import BUILT_IN, CallbackServer

    names = consumers or BUILT_IN
    server = CallbackServer(
        settings.callbacks_address or _DEFAULT_ADDRESS,
        names,
        output_dir,
        policy=policy,
        since=since,
        again=retry_failed,
        health=(health_host, health_port),
        catalog_uri=settings.catalog_uri,
    )
    click.echo(f"READY address={server.address} health={server.health_url} pid={os.getpid()}")
    click.echo(
        f"Documents from {server.address} go to {', '.join(dict.fromkeys(names))} in {output_dir}; "
        f"health at {server.health_url}. Stop it with Ctrl-C.",
        err=True,
    )
    server.run(stopping.is_set)
    counts = server.counts
    click.echo(
        f"{counts.runs} runs and {counts.files} files finished, {counts.interrupted} runs "
        f"interrupted, {sum(counts.errors.values())} documents refused.",
        err=True,
    )
    if server.failed:
        click.echo(
            f"beamline: {', '.join(server.failed)} failed, last {counts.last_error}", err=True
        )
        raise SystemExit(1)


def _follow_parent(stopping: threading.Event) -> None:
    while os.read(0, 1024):
        pass
    stopping.set()
