"""Environments of the peers, made on demand: one folder each, with pinned versions.

What a peer shares with streamlearn (river, orjson, ...) has the version of constraints.txt. An environment is
made again when a pin or the version of Python changes.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHARED = ("river", "orjson", "numpy", "scipy")

PINS: dict[str, tuple[str, ...]] = {
    "naive": ("kafka-python", "crc32c"),
    "quix": ("quixstreams==3.28.0", "confluent-kafka==2.12.2"),
    "bytewax": ("bytewax==0.21.1", "confluent-kafka==2.16.1"),
}
"""What each peer needs besides `SHARED`; without a version it has that of constraints.txt."""


class NotInstalledError(Exception):
    """A peer's environment cannot be made here; the message says why."""


def default_cache() -> Path:
    """A folder in the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "streamlearn-bench"


def requirements(peer: str) -> list[str]:
    """The pinned packages of a peer."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.partition("==")[0]: line for line in lines if "==" in line}
    return [pinned.get(name, name) for name in (*SHARED, *PINS[peer])]


def python(peer: str, cache: Path) -> Path:
    """The interpreter of a peer's environment, made when it is not there. Raises `NotInstalledError`."""
    wanted = requirements(peer)
    key = hashlib.sha256(repr((wanted, sys.version)).encode()).hexdigest()[:12]
    folder = cache / f"{peer}-{key}"
    interpreter = folder / "bin" / "python"
    if (folder / "installed").exists():
        return interpreter
    print(f"bench: installing {', '.join(wanted)} into {folder.name} (once) ...", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    pip = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in ([sys.executable, "-m", "venv", str(folder)], [*pip, *wanted]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotInstalledError(f"{peer}: {(done.stderr or done.stdout).strip()[-500:]}")
    (folder / "installed").write_text("\n".join(wanted) + "\n")
    return interpreter


def versions(peer: str) -> str:
    """The peer's own packages with their versions, in words."""
    own = [line for line in requirements(peer) if line.partition("==")[0] not in SHARED]
    return ", ".join(line.replace("==", " ") for line in own)
