"""The command line: help without heavy imports, errors as one sentence."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("bluesky", "ophyd", "epics", "caproto", "tiled", "databroker", "h5py", "matplotlib",
         "numpy", "ray", "torch", "jax")  # fmt: skip


def run(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "beamline", *arguments],
        capture_output=True, text=True, check=False, timeout=100, **options,
    )  # fmt: skip


def run_code(code: str) -> str:
    """Run Python code; return its output."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100
    ).stdout


COMMANDS = (
    "demo", "ipython", "server", "ioc", "fault", "runs", "show", "recover", "validate", "replay",
    "xpcs", "callbacks", "catalog", "pipeline", "simulate-q2", "mask", "qmap", "doctor",
)  # fmt: skip


def test_help_names_every_command():
    done = run("--help")
    assert done.returncode == 0
    named = re.findall(r"^  ([a-z][a-z0-9-]+) ", done.stdout.split("Commands:")[1], re.MULTILINE)
    assert tuple(named) == COMMANDS


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom beamline.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit: pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    assert run_code(code).splitlines()[-1] == "[]"


def test_every_command_has_help():
    code = (
        "from beamline.cli import main\n"
        f"for command in {COMMANDS}:\n"
        "    print('ended with', main([command, '--help']))\n"
    )
    shown = run_code(code)
    assert shown.count("Usage: ") == shown.count("ended with 0") == len(COMMANDS)


def test_an_unknown_command_is_an_error():
    assert run("dance").returncode == 2


def test_an_unknown_setting_is_one_sentence(tmp_path: Path):
    (tmp_path / "settings.yaml").write_text("sampel: Cu\n")
    done = run("server", "--config", str(tmp_path / "settings.yaml"))
    assert done.returncode == 1
    assert done.stderr.startswith("beamline: unknown setting 'sampel' in ")
    assert len(done.stderr.splitlines()) == 1


def test_a_foreign_folder_is_not_emptied(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")
    done = run("demo", "--output-dir", str(tmp_path))
    assert done.returncode == 1
    assert "was not made by 'beamline demo'" in done.stderr
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_taken_port_is_told_alike_by_server_and_ioc():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for command in (("server",), ("ioc", "--no-autosave")):
            done = run(*command, "--port", port)
            assert done.returncode == 1
            assert done.stdout == ""
            (line,) = done.stderr.splitlines()
            assert line.startswith("beamline: ")
            for words in ("cannot listen on 127.0.0.1", port, "Address already in use; stop the"):
                assert words in line


def test_doctor_explains_the_settings():
    done = run("doctor")
    assert "time_scale" in done.stdout
    assert "✓ Python" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("-2", "--to", "nexus", "--verbose"),
        ("-2", "--verbose", "--to", "nexus", "out"),
        ("--verbose", "-2", "--to", "nexus", "out"),
        ("--to", "nexus", "-2", "-3"),
    ],
)
def test_a_misspelt_option_of_replay_is_no_directory(tmp_path: Path, arguments: tuple[str, ...]):
    done = run("replay", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "No such option '-" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_negative_index_is_a_run(tmp_path: Path):
    done = run("replay", "--to", "nexus", "-2", "out", cwd=tmp_path)
    assert done.returncode == 1
    assert "no run -2 in " in done.stderr


def test_runs_are_not_looked_for_where_no_data_directory_is(tmp_path: Path):
    (tmp_path / "file").touch()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "journal").touch()
    for name, words in (
        ("typo", "does not exist"),
        ("file", "is no directory"),
        ("odd", "is no directory"),
    ):
        done = run("runs", "--data-dir", str(tmp_path / name))
        assert done.returncode == 1
        assert words in done.stderr
        assert str(tmp_path / name) in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_wrong_sample_leaves_everything_as_it_was(tmp_path: Path):
    (tmp_path / ".beamline-demo").touch()
    (tmp_path / "summary.json").write_text("{}")
    done = run("demo", "--output-dir", str(tmp_path), "--sample", "typo.xdi")
    assert done.returncode == 1
    assert done.stderr.startswith("beamline: ")
    assert "typo.xdi" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [".beamline-demo", "summary.json"]


def test_an_empty_sample_is_refused():
    done = run("server", "--sample", "")
    assert done.returncode == 1
    assert "'sample'" in done.stderr


def test_output_that_cannot_be_written_is_one_sentence():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "beamline", "doctor"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=100,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "beamline: cannot write: No space left on device.\n"


def test_two_sessions_do_not_share_a_data_directory(tmp_path: Path):
    code = (
        "import sys\nfrom beamline.store import DataStore\n"
        "store = DataStore(sys.argv[1], writers=[])\n"
        "try:\n    DataStore(sys.argv[1], writers=[])\n"
        "except Exception as error:\n    print(error)\n"
        "store.close()\nDataStore(sys.argv[1], writers=[]).close()\nprint('again')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True, text=True, check=True, timeout=100,
    )  # fmt: skip
    refusal, again = done.stdout.splitlines()
    assert "is in use by another session (process " in refusal
    assert again == "again"


def test_an_autosave_file_that_cannot_be_written_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    file = tmp_path / "file" / "settings.json"
    done = run("ioc", "--autosave", str(file), "--port", "0")
    assert done.returncode == 1
    assert "READY" not in done.stdout
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert str(file) in done.stderr


def test_fault_inject_explains_the_kinds():
    text = run("fault", "inject", "--help").stdout
    for line in ("STUCK    a motor does not follow", "DUMP     the ring", "--server TEXT"):
        assert line in text, text


def test_a_wrong_server_of_fault_is_one_sentence():
    done = run("fault", "list", "--server", "nowhere")
    assert done.returncode == 1
    assert "--server must be HOST:PORT, found 'nowhere'" in done.stderr
