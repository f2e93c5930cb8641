"""The C units of the device server, compiled with the sanitizers where the compiler has them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

DEVICE_SERVER = Path(__file__).parents[2] / "ioc" / "device_server"
SOURCES = sorted((DEVICE_SERVER / "src").glob("*.c"))
TESTS = sorted((DEVICE_SERVER / "tests").glob("test_*.c"))
FUZZ = DEVICE_SERVER / "fuzz"
HARNESS = DEVICE_SERVER / "harness"
FLAGS = ["-std=c17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-pthread"]
SANITIZERS = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
# Statistics over many frames: minutes under a sanitizer would buy little, meson runs them so.
PLAIN = {"test_saxs", "test_speckle", "test_stills"}
FUZZ_TARGETS = {"protocol": ["-Wl,--wrap=clock_real,--wrap=clock_unix"], "files": []}

linux = pytest.mark.skipif(sys.platform != "linux", reason="replaces calls as Linux's linker can")

CC = shlex.split(os.environ.get("CC", "cc"))


def compile_(arguments: list[str]) -> None:
    done = subprocess.run([*CC, *FLAGS, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def objects(directory: Path, flags: list[str]) -> list[str]:
    directory.mkdir()
    sources = [source for source in SOURCES if source.name != "main.c"]
    targets = [str(directory / source.with_suffix(".o").name) for source in sources]
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(compile_, [*flags, "-c", str(source), "-o", target])
            for source, target in zip(sources, targets, strict=True)
        ]
        for job in jobs:
            job.result()
    return targets


class Builder:
    """The sources compiled with the sanitizers, where the compiler has them, and plain."""

    def __init__(self, root: Path) -> None:
        self.root = root
        probe = root / "probe.c"
        probe.write_text("int main(void) { return 0; }\n")
        works = subprocess.run(
            [*CC, *SANITIZERS, str(probe), "-o", str(root / "probe")], capture_output=True
        )
        self.checked = SANITIZERS if works.returncode == 0 else ["-O1"]
        self.plain = ["-O2"]
        self._objects: dict[str, list[str]] = {}

    def link(
        self, name: str, flags: list[str], sources: list[Path], *options: str, program: bool = False
    ) -> Path:
        """Link test sources with the server's, its ``main`` as ``beamline_main`` on demand."""
        kind = "plain" if flags is self.plain else "checked"
        if kind not in self._objects:
            self._objects[kind] = objects(self.root / kind, flags)
        linked = [*map(str, sources), *self._objects[kind]]
        if program:
            main = self.root / f"{kind}_main.o"
            source = str(DEVICE_SERVER / "src" / "main.c")
            compile_([*flags, "-Dmain=beamline_main", "-c", source, "-o", str(main)])
            linked.append(str(main))
        compile_([*flags, *options, *linked, "-o", str(self.root / name), "-lm"])
        return self.root / name


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    if shutil.which(CC[0]) is None:
        pytest.skip(f"no C compiler {CC[0]!r} on PATH")
    return Builder(tmp_path_factory.mktemp("c"))


def run(program: Path, *arguments: str) -> str:
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("name", [test.stem for test in TESTS])
def test_c_unit(builder: Builder, name: str) -> None:
    flags = builder.plain if name in PLAIN else builder.checked
    run(builder.link(name, flags, [DEVICE_SERVER / "tests" / f"{name}.c"]))


@linux
def test_failing_libc_calls_end_in_one_sentence_or_are_survived(builder: Builder) -> None:
    """Every eighth call here; ``make quality`` fails all of them."""
    sources = [HARNESS / "libc_failures.c", HARNESS / "session.c"]
    wrap = f"@{HARNESS / 'libc_calls.opt'}"
    program = builder.link("libc_failures", builder.checked, sources, wrap, program=True)
    failures = re.findall(r"(\d+) failures injected", run(program, "8"))
    assert [int(number) > 5 for number in failures] == [True, True]


@linux
def test_serving_allocates_nothing(builder: Builder) -> None:
    sources = [HARNESS / "allocations.c", HARNESS / "session.c"]
    program = builder.link("allocations", builder.plain, sources, program=True)
    assert ", 0 in 20 sessions" in run(program)


def test_every_libc_call_of_the_harness_is_wrapped() -> None:
    source = (HARNESS / "libc_failures.c").read_text()
    table = re.findall(r"^    X\([^,]+, (\w+),", source, re.MULTILINE)
    assert len(table) > 25
    options = (HARNESS / "libc_calls.opt").read_text().split()
    assert options == [f"-Wl,--wrap={name}" for name in table]


@linux
@pytest.mark.parametrize("name", FUZZ_TARGETS)
def test_corpus_and_its_mutations(builder: Builder, name: str) -> None:
    sources = [FUZZ / f"fuzz_{name}.c", FUZZ / "driver.c"]
    program = builder.link(f"fuzz_{name}", builder.checked, sources, *FUZZ_TARGETS[name])
    corpus = sorted(map(str, (FUZZ / "corpus" / name).iterdir()))
    assert int(run(program, "3", *corpus).split()[0]) > len(corpus)


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
