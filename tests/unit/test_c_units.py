"""The C units of the device server, compiled with the sanitizers where the compiler has them."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

DEVICE_SERVER = Path(__file__).parents[2] / "ioc" / "device_server"
SOURCES = sorted((DEVICE_SERVER / "src").glob("*.c"))
TESTS = sorted((DEVICE_SERVER / "tests").glob("test_*.c"))
FUZZ = DEVICE_SERVER / "fuzz"
HARNESS = DEVICE_SERVER / "harness"
BUILD = DEVICE_SERVER.parents[1] / "build-device-server"
# Statistics over many frames: minutes under a sanitizer would buy little, meson runs them so.
PLAIN = {"test_speckle", "test_stills"}
FUZZ_SECONDS = 1

CC = shlex.split(os.environ.get("CC", "cc"))
linux = pytest.mark.skipif(sys.platform != "linux", reason="replaces calls as Linux's linker can")
pytestmark = pytest.mark.timeout(600)  # the first test waits for the compiler


def arguments(program: str) -> list[str]:
    name = program.removeprefix("fuzz_")
    if name != program:
        return [str(FUZZ_SECONDS), *sorted(map(str, (FUZZ / "corpus" / name).iterdir()))]
    return ["8"] if program == "libc_failures" else []


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


class Programs:
    """Test programs made by the Makefile, two of them running at a time.

    Parameters
    ----------
    names : list of str
        The programs that the selected tests want.
    scratch : Path
        Directory for the probe of the compiler.
    """

    def __init__(self, names: list[str], scratch: Path) -> None:
        probe = scratch / "probe.c"
        probe.write_text("int main(void) { return 0; }\n")
        command = [*CC, "-fsanitize=address,undefined", str(probe), "-o", str(scratch / "probe")]
        checked = subprocess.run(command, capture_output=True).returncode == 0
        paths = {
            name: Path(
                "address" if checked and name not in {*PLAIN, "allocations"} else "debug", name
            )
            for name in names
        }
        BUILD.mkdir(exist_ok=True)
        with (BUILD / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another test run may compile the same
            done = subprocess.run(
                ["make", "-s", "-j2", f"CC={shlex.join(CC)}", f"BUILD={BUILD}"]
                + [str(BUILD / path) for path in paths.values()],
                cwd=DEVICE_SERVER, capture_output=True, text=True,
            )  # fmt: skip
        assert done.returncode == 0, done.stderr
        self.pool = ThreadPoolExecutor(2)
        self.runs = {
            name: self.pool.submit(run, [str(BUILD / path), *arguments(name)])
            for name, path in paths.items()
        }

    def output(self, name: str) -> str:
        """Return what a program printed; assert that it ended well."""
        done = self.runs[name].result()
        assert done.returncode == 0, done.stdout + done.stderr[-4000:]
        return done.stdout


@pytest.fixture(scope="module")
def programs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Programs]:
    for tool in (CC[0], "make"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool!r} on PATH")
    selected = [item for item in request.session.items if item.path == request.path]
    names = [item.callspec.params["name"] for item in selected if hasattr(item, "callspec")]
    made = Programs(names, tmp_path_factory.mktemp("c"))
    yield made
    made.pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(test.stem, marks=[pytest.mark.slow] if test.stem in PLAIN else [])
        for test in TESTS
    ],
)
def test_c_unit(programs: Programs, name: str) -> None:
    programs.output(name)


@linux
@pytest.mark.parametrize("name", ["libc_failures"])
def test_failing_libc_calls_end_in_one_sentence_or_are_survived(
    programs: Programs, name: str
) -> None:
    """Every eighth call here; ``make quality`` fails all of them."""
    failures = re.findall(r"(\d+) failures injected", programs.output(name))
    assert [int(number) > 5 for number in failures] == [True, True]


@linux
@pytest.mark.parametrize("name", ["allocations"])
def test_serving_allocates_nothing(programs: Programs, name: str) -> None:
    assert ", 0 in 20 sessions" in programs.output(name)


@linux
@pytest.mark.parametrize("name", ["fuzz_protocol", "fuzz_files"])
def test_corpus_and_its_mutations(programs: Programs, name: str) -> None:
    assert int(programs.output(name).split()[0]) > len(arguments(name))


def test_every_libc_call_of_the_harness_is_wrapped() -> None:
    source = (HARNESS / "libc_failures.c").read_text()
    table = re.findall(r"^    X\([^,]+, (\w+),", source, re.MULTILINE)
    assert len(table) > 25
    options = (HARNESS / "libc_calls.opt").read_text().split()
    assert options == [f"-Wl,--wrap={name}" for name in table]


def test_meson_knows_every_source_and_test() -> None:
    text = (DEVICE_SERVER / "meson.build").read_text()
    known = set(re.findall(r"'src/(\w+\.c)'", text))
    assert known == {source.name for source in SOURCES}
    names = re.search(r"foreach name : \[(.*?)\]", text, re.DOTALL)
    assert names is not None
    assert set(re.findall(r"'(\w+)'", names[1])) == {
        test.stem.removeprefix("test_") for test in TESTS
    }


def test_protocol_document_names_everything() -> None:
    document = (DEVICE_SERVER.parents[1] / "docs" / "protocol.md").read_text(encoding="utf-8")
    source = DEVICE_SERVER / "src"
    config = (source / "config.c").read_text(encoding="utf-8")
    keys = re.findall(r'^    (?:NUMBER\(|[A-Z]+(?:_INT)?\("|\{")(\w+)', config, re.MULTILINE)
    assert len(keys) > 40
    protocol = "".join(
        file.read_text(encoding="utf-8")
        for file in (source / "protocol.c", *sorted(source.glob("commands_*.c")))
    )
    commands = re.findall(r'\{"([A-Z]+)", do_', protocol)
    errors = re.findall(r'"(ERR:[A-Z_]+)"', protocol)
    names = re.findall(r'\{"([A-Z0-9:]+)", [A-Z_]+, \w+\}', (source / "pv.c").read_text())
    fields = re.findall(r'\{"(\.[A-Z]+)", MOTOR_', (source / "pv.c").read_text())
    assert (len(commands), len(errors), len(names), len(fields)) > (20, 6, 20, 12)
    missing = [
        word
        for word in [*keys, *errors, *names, *fields, *(f"`{command}" for command in commands)]
        if word not in document
    ]
    assert missing == []
