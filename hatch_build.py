"""Build hook: compile the device server ``beamline-sim`` into the ``ioc`` package."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompileDeviceServer(BuildHookInterface):  # type: ignore[type-arg]
    """Compile ``ioc/device_server/src/*.c`` and ship the program as ``ioc/_bin/beamline-sim``."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Compile and register the binary; called by hatchling for the wheel target."""
        root = Path(self.root)
        compiler = shlex.split(os.environ.get("CC", "cc"))
        if shutil.which(compiler[0]) is None:
            raise SystemExit(
                f"beamline-dataflow needs a C compiler, and {compiler[0]!r} is not on PATH: "
                "install one (Debian, Ubuntu: apt install gcc libc6-dev) or set CC."
            )
        binary = root / "ioc" / "_bin" / "beamline-sim"
        binary.parent.mkdir(exist_ok=True)
        fresh = binary.with_suffix(".new")
        sources = sorted((root / "ioc" / "device_server" / "src").glob("*.c"))
        flags = ["-std=c17", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-D_GNU_SOURCE"]
        subprocess.run(
            [*compiler, *flags, *map(str, sources), "-o", str(fresh), "-lm", "-pthread"], check=True
        )
        fresh.replace(binary)  # a running server keeps its own inode
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(
            ".", "_"
        )
        build_data["artifacts"].append("ioc/_bin/beamline-sim")
