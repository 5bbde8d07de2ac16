"""The native core under ASan and UBSan: `make sanitize`.

Builds the core with both sanitizers into a folder of its own, and runs the tests that call its kernels against that
build, on each instruction set that this processor has and on emulated tiles. As a plugin of pytest it lets the tests
find that build, whose key differs from the served one's by its flags.
"""

import os
import subprocess
import sys
from pathlib import Path

from encoder.native import build, library

FLAGS = ("-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
LIBRARIES = ("libasan.so", "libubsan.so")  # GCC's; they must come before all others
TESTS = ("test_native_attention.py", "test_native_operations.py", "test_native_extremes.py", "test_same_bits.py")
HERE = Path(__file__).parent

setattr(library, "BASE_FLAGS", (*library.BASE_FLAGS, *FLAGS))  # noqa: B010 - the type is a tuple of eight


def main() -> int:
    """Build, test, and return pytest's status."""
    print(build.ensure(), flush=True)
    compiler = build.find_compiler()
    if compiler is None:
        return 1
    preload = " ".join(_library(compiler, name) for name in LIBRARIES)
    environment = os.environ | {
        "LD_PRELOAD": preload,
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own allocations are none of this
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "--capture=sys", "-p", "tests.encoder.sanitized", *sys.argv[1:]]
    return subprocess.run([*command, *(HERE / name for name in TESTS)], env=environment, check=False).returncode


def _library(compiler: str, name: str) -> str:
    told = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return told.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
