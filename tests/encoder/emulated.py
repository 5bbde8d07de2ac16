"""The native core of another architecture under an emulator: `make test-emulated`.

Compiles the core for aarch64 with Debian's g++-aarch64-linux-gnu, and runs golden cases (16 segments) in each of its
forms under qemu-user. Exits with 1 if a state is not the golden one, with 2 if a tool is missing.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from benchmarks.golden import WINDOWS, Case, case, digest, golden
from encoder.native import build, library
from encoder.native.core import ACTIVATIONS
from encoder.quantise import POSITIVE
from encoder.tensors import as_bytes, named

ARCHITECTURE = "aarch64"
COMPILER = "aarch64-linux-gnu-g++"
EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")
NAMES = ("odd", "two", "wide-heads")
SEGMENTS = 16
HERE = Path(__file__).parent


def write(given: Case, window: int, path: Path) -> None:
    """Write a case for golden.cpp."""
    shape = given.shape
    outliers = len(given.layers[0].qkv.columns)
    sizes = [shape.hidden, shape.heads, shape.wide, shape.layers, shape.vocabulary, len(given.embeddings.positions)]
    sizes += [len(given.lengths), window, ACTIVATIONS.index(shape.activation), outliers, POSITIVE]
    with path.open("wb") as file:
        for tensor in (torch.tensor(sizes), torch.tensor([0, *accumulate(given.lengths)], dtype=torch.int32)):
            _append(file, tensor)
        _append(file, given.ids.int())
        for _, tensor in named(given.embeddings):
            _append(file, tensor)
        for layer in given.layers:
            for _, tensor in named(layer):
                _append(file, tensor)


def _append(file: BinaryIO, tensor: Tensor) -> None:
    file.write(as_bytes(tensor))
    file.write(bytes(-file.tell() % 64))


def compiled(work: Path) -> Path:
    """The golden program with the core, for the emulated architecture, linked statically."""
    for command in build.commands(COMPILER, ARCHITECTURE, work):
        subprocess.run(command, check=True)
    program = work / "golden"
    objects = sorted(map(str, work.glob("*.o")))
    flags = (*library.BASE_FLAGS, f"-I{library.FOLDER}", "-static")
    subprocess.run((COMPILER, *flags, str(HERE / "golden.cpp"), *objects, "-o", str(program)), check=True)
    return program


def results(emulator: str, program: Path, work: Path) -> Iterator[tuple[str, str, str]]:
    """For each form and case its form, the case's name, and the digest."""
    forms = library.FORMS[ARCHITECTURE]
    for name in NAMES:
        given = case(name, SEGMENTS)
        for window in WINDOWS:
            write(given, window, work / "case")
            for form in forms:
                done = subprocess.run((emulator, program, form, work / "case"), capture_output=True, check=True)
                state = torch.frombuffer(bytearray(done.stdout), dtype=torch.uint8)
                yield form, f"{name}.{SEGMENTS}.{window}", digest(state)


def main() -> int:
    """Run the command."""
    emulator = next(filter(None, map(shutil.which, EMULATORS)), None)
    if emulator is None or shutil.which(COMPILER) is None:
        print(f"needs {COMPILER} and {EMULATORS[0]} (Debian: g++-aarch64-linux-gnu, qemu-user-static)", file=sys.stderr)
        return 2
    expected, wrong = golden(), 0
    with tempfile.TemporaryDirectory() as scratch:
        for form, name, found in results(emulator, compiled(Path(scratch)), Path(scratch)):
            same = found == expected[name]
            wrong += not same
            print(f"{ARCHITECTURE} {form} {name}: {'the golden state' if same else f'{found}, not {expected[name]}'}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
