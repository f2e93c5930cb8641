"""The catalogue on a tiled server with PostgreSQL, configured as the manual says."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import event_model
import numpy as np
import pytest
from catalog_runs import frames_run, record
from nexus_documents import line_run

from beamline.catalog import (
    CatalogError,
    CatalogFeed,
    UnreachableError,
    open_catalog,
    search_runs,
    sync_catalog,
)
from beamline.catalog._client import opened
from beamline.cli import main
from beamline.core.processes import free_port
from beamline.documents.replay import replay
from beamline.nexus.compare import compare_files
from callbacks.nexus import NeXusWriter
from callbacks.server import make_task

KEY = "secret"
MANUAL = Path(__file__).parents[2] / "docs" / "catalogue.md"


def program(name):
    """Find one of PostgreSQL's programs; Debian keeps most of them out of the PATH."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(installed[-1]) if installed else None)


pytestmark = [
    pytest.mark.slow,
    pytest.mark.system,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        program("initdb") is None, reason="PostgreSQL is not installed (no initdb found)"
    ),
]


@pytest.fixture(scope="module")
def database():
    """A PostgreSQL server of our own: user, address and port."""
    # It refuses to run as root, and the sockets' path must be short.
    user = {}
    with tempfile.TemporaryDirectory() as folder:
        if os.getuid() == 0:
            account = next((a for a in pwd.getpwall() if a.pw_name in ("postgres", "nobody")), None)
            if account is None:
                pytest.skip("PostgreSQL does not run as root, and there is no other account")
            user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(folder, account.pw_uid, account.pw_gid)
        data, port = f"{folder}/data", free_port()

        def call(*argv):
            with Path(folder, "log.txt").open("ab") as log:
                subprocess.run(argv, check=True, stdout=log, stderr=log, cwd="/", **user)

        call(program("initdb"), "-D", data, "-A", "trust", "-U", "tiled", "-N", "-E", "UTF8")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
        control = [program("pg_ctl"), "-D", data, "-w"]
        call(*control, "-o", f"{options} -F", "-l", f"{data}/log", "start")
        try:
            address = f"tiled@127.0.0.1:{port}"
            for name in ("catalog", "tables"):
                call(program("createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "tiled", name)
            yield address
        finally:
            call(*control, "-m", "immediate", "stop")


class Server:
    """`tiled serve config` with the configuration of the manual; it can be stopped and started."""

    def __init__(self, database, folder):
        self.port, self.folder, self.database = free_port(), folder, database
        self.uri = f"http://127.0.0.1:{self.port}"
        (block,) = re.findall(r"```yaml\n(.*?)```", MANUAL.read_text(encoding="utf-8"), re.DOTALL)
        (folder / "tiled.yml").write_text(block)
        self.process = None

    def start(self):
        environment = {
            **os.environ,
            "CATALOG_DATABASE": self.database,
            "CATALOG_ARRAYS": str(self.folder / "arrays"),
            "CATALOG_FRAMES": str(self.folder),
            "TILED_SINGLE_USER_API_KEY": KEY,
        }
        (self.folder / "arrays").mkdir(exist_ok=True)
        with (self.folder / "tiled.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "tiled", "serve", "config",
                    str(self.folder / "tiled.yml"), "--port", str(self.port),
                ],
                env=environment, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + 300
        while True:
            assert self.process.poll() is None, (self.folder / "tiled.log").read_text()
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/api/v1/"):
                return
            assert time.monotonic() < deadline, "the tiled server did not start"
            time.sleep(0.1)

    def stop(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(database, tmp_path_factory):
    server = Server(database, tmp_path_factory.mktemp("tiled"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TILED_API_KEY", KEY)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def test_the_same_code_works_on_a_server_with_postgresql(server, tmp_path):
    frames = np.arange(5 * 4 * 3, dtype="<u2").reshape(5, 4, 3)
    begun = time.time()
    uids = [
        record(
            tmp_path, scan_id=1, plan_name="scan", sample={"name": "Cu"}, begun=begun - 3 * 86400
        ),
        record(tmp_path, rows=2500, scan_id=2, plan_name="fly", sample="Cu", pages=True),
        frames_run(tmp_path, server.folder / "frames.h5", frames, scan_id=3, plan_name="scan"),
    ]
    result = sync_catalog(tmp_path, uri=server.uri)
    assert (result.added, result.failed) == (3, {})
    assert not (tmp_path / "catalog").exists()
    catalog = open_catalog(tmp_path, uri=server.uri)
    try:
        assert len(catalog) == 3
        assert catalog[-1].start["uid"] == uids[2]
        assert catalog[1].start["uid"] == uids[0]
        assert catalog[uids[1][:8]].primary.read()["x"].values.tolist() == list(range(2500))
        for conditions, numbers in (
            ({"scan_id": 2}, [2]),
            ({"sample": "Cu"}, [1, 2]),
            ({"plan": "scan"}, [1, 3]),
            ({"since": begun - 86400}, [2, 3]),
            ({"until": begun - 86400}, [1]),
            ({"status": "success", "plan": "fly"}, [2]),
        ):
            found = search_runs(catalog, **conditions)
            assert [run.start["scan_id"] for run in found.values()] == numbers, conditions
        documents = list(catalog[3].documents(fill=True))
        filled = [doc["data"]["im"] for name, doc in documents if name == "event"]
        assert np.array_equal(filled, frames)
        for name, doc in documents:
            event_model.schema_validators[event_model.DocumentNames[name]].validate(doc)
        before = [doc for _, doc in catalog[2].documents()]
        again = sync_catalog(tmp_path, uri=server.uri)
        assert (again.added, again.present) == (0, 3)
        rebuilt = sync_catalog(tmp_path, uri=server.uri, rebuild=True)
        assert (rebuilt.added, rebuilt.failed) == (3, {})
        assert len(catalog) == 3
        assert [doc for _, doc in catalog[2].documents()] == before
    finally:
        catalog.context.close()


def test_runs_wait_for_a_server_that_is_down(server, tmp_path, monkeypatch):
    server.stop()
    uid = record(tmp_path, scan_id=1000)
    with pytest.raises(UnreachableError, match=f"{server.uri}, does not answer") as error:
        sync_catalog(tmp_path, uri=server.uri)
    assert "\n" not in str(error.value)
    with CatalogFeed(tmp_path, server.uri) as feed:
        deadline = time.monotonic() + 90
        while "does not answer" not in feed.log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        server.start()
        feed.wait(uid, 90)
    catalog = open_catalog(tmp_path, uri=server.uri)
    assert catalog[1000].start["uid"] == uid
    catalog.context.close()


def test_callback_server_and_replay_use_the_server(server, tmp_path, monkeypatch):
    (_, start), *rest = line_run(scan_id=2000)
    task = make_task("catalog", "warn", tmp_path, server.uri)
    try:
        (writer,) = task.begin(start)
        replay([("start", start), *rest], [writer])
        live = NeXusWriter(tmp_path / "nexus")
        replay([("start", start), *rest], [live])
        deadline = time.monotonic() + 90
        while not search(tmp_path, server, 2000):
            assert time.monotonic() < deadline, "the run did not reach the server"
            time.sleep(0.2)
    finally:
        task.close()
    monkeypatch.setenv("BEAMLINE_CATALOG_URI", server.uri)
    arguments = ["--from", "catalog", "--to", "nexus", "--data-dir", str(tmp_path / "elsewhere")]
    assert not main(["replay", *arguments, start["uid"], str(tmp_path / "again")])
    (again,) = (tmp_path / "again").iterdir()
    # PostgreSQL keeps no order of keys in the text of documents.
    different = compare_files(live.files[0], again)
    assert [said for said in different if not said.startswith("/entry/bluesky/documents/")] == []


def search(data_dir, server, scan_id):
    with opened(data_dir, server.uri) as catalog:
        return len(search_runs(catalog, scan_id=scan_id, status="success"))


def test_a_wrong_key_is_one_sentence(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TILED_API_KEY", "wrong")
    with pytest.raises(CatalogError, match="key in TILED_API_KEY") as error:
        open_catalog(tmp_path, uri=server.uri)
    assert "\n" not in str(error.value)
