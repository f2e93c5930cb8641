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
FLAGS = ["-std=c17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-pthread"]
SANITIZERS = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
# Statistics over many frames: minutes under a sanitizer would buy little, meson runs them so.
PLAIN = {"test_saxs", "test_speckle", "test_stills"}
FUZZ_TARGETS = {"protocol": ["-Wl,--wrap=clock_real,--wrap=clock_unix"], "files": []}

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


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    if shutil.which(CC[0]) is None:
        pytest.skip(f"no C compiler {CC[0]!r} on PATH")
    root = tmp_path_factory.mktemp("c")
    probe = root / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    works = subprocess.run(
        [*CC, *SANITIZERS, str(probe), "-o", str(root / "probe")], capture_output=True
    )
    sanitizers = SANITIZERS if works.returncode == 0 else ["-O1"]
    kinds = {
        False: (sanitizers, objects(root / "checked", sanitizers)),
        True: (["-O2"], objects(root / "plain", ["-O2"])),
    }
    programs = {}
    for test in TESTS:
        flags, linked = kinds[test.stem in PLAIN]
        programs[test.stem] = root / test.stem
        compile_([*flags, str(test), *linked, "-o", str(programs[test.stem]), "-lm"])
    for name, wrap in FUZZ_TARGETS.items() if sys.platform == "linux" else ():
        sources = [str(FUZZ / f"fuzz_{name}.c"), str(FUZZ / "driver.c")]
        flags, linked = kinds[False]
        programs[f"fuzz_{name}"] = root / f"fuzz_{name}"
        compile_([*flags, *wrap, *sources, *linked, "-o", str(root / f"fuzz_{name}"), "-lm"])
    return programs


@pytest.mark.parametrize("name", [test.stem for test in TESTS])
def test_c_unit(built: dict[str, Path], name: str) -> None:
    done = subprocess.run([str(built[name])], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.skipif(sys.platform != "linux", reason="the fuzz targets use Linux's memory files")
@pytest.mark.parametrize("name", FUZZ_TARGETS)
def test_corpus_and_its_mutations(built: dict[str, Path], name: str) -> None:
    corpus = sorted(map(str, (FUZZ / "corpus" / name).iterdir()))
    done = subprocess.run(
        [str(built[f"fuzz_{name}"]), "3", *corpus], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout.split()[0]) > len(corpus)


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
