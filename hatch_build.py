"""Compiles the native core into the wheel: hatchling calls this."""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeCore(BuildHookInterface):
    """Adds a build of the native core where it is looked for first; without a C++ compiler the wheel is without it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile. An editable install is built in place, by `python -m encoder.native.build`."""
        if version == "editable":
            return
        sys.path.insert(0, self.root)
        from encoder.native import build, library  # noqa: PLC0415

        compiler = build.portable_compiler() or build.find_compiler()
        if compiler is None or not library.forms():
            self.app.display_warning(
                "no C++ compiler, or none of this architecture: the wheel is without the native core"
            )
            return
        self._folder = tempfile.mkdtemp(prefix="octavo-wheel-")
        made = build.build(compiler, Path(self._folder), shipped=True)
        build_data["pure_python"], build_data["tag"] = False, f"py3-none-{build.platform_tag()}"
        inside = library.build_of(library.folders()[0]).relative_to(self.root)
        build_data["force_include"][str(made)] = inside.as_posix()

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Delete the build once it is in the wheel."""
        if hasattr(self, "_folder"):
            shutil.rmtree(self._folder)
