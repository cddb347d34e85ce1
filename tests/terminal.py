"""Run the command line as a shell does: with descriptors, limits and variables that a line of bash sets."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

FUNCTION = f'streamlearn() {{ "{sys.executable}" -m streamlearn "$@"; }}\n'


class Done(NamedTuple):
    code: int
    out: bytes
    err: str


def bash(line: str, folder: Path, timeout_s: float = 120, **variables: str) -> Done:
    """The exit code and both streams of a line of bash that calls `streamlearn`."""
    clean = {name: value for name, value in os.environ.items() if name != "KAFKA_BOOTSTRAP_SERVERS"}
    done = subprocess.run(
        ["bash", "-c", FUNCTION + line],
        cwd=folder,
        env={**clean, **variables},
        capture_output=True,
        check=False,
        timeout=timeout_s,
    )
    return Done(done.returncode, done.stdout, done.stderr.decode(errors="replace"))
