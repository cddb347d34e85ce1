"""The quick part of the tests on other versions of Python: `python scripts/pythons.py [words for pytest]`.

`scripts/test --all` does the same after its own tests. Each version that is found on PATH gets a virtual
environment of its own, `.venv-3.12` and so on, from `constraints.txt`; a version that is not found is named.

Invariant: a virtual environment is made anew only when `pyproject.toml` or `constraints.txt` has changed.
"""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
VERSIONS: Final = ("3.11", "3.12", "3.13")
"""The versions that streamlearn promises to run on, see pyproject.toml; the running one is left out."""

QUICK: Final = "not slow and not kafka and not browser"
WORKERS: Final = "2"


def find(version: str) -> str | None:
    """The command of this version of Python, if it can make virtual environments.

    A command of this name may be there and not run: pyenv puts one on PATH for every version that it has.
    """
    number = tuple(map(int, version.split(".")))
    check = f"import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != {number})"
    try:
        tried = subprocess.run([f"python{version}", "-c", check], capture_output=True, check=False)
    except OSError:
        return None
    return None if tried.returncode else f"python{version}"


def environment(version: str, python: str) -> Path | None:
    """The interpreter of this version's virtual environment, made or renewed; None when pip failed."""
    folder = ROOT / f".venv-{version}"
    wanted = "".join((ROOT / name).read_text() for name in ("pyproject.toml", "constraints.txt")) + str(ROOT)
    key = hashlib.sha256(wanted.encode()).hexdigest()
    mark, interpreter = folder / "installed", folder / "bin" / "python"
    if mark.exists() and mark.read_text() == key:
        return interpreter
    print(f"== setting up {folder.name}", flush=True)
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", "constraints.txt"]
    steps = ([python, "-m", "venv", "--clear", folder], [interpreter, *install, "-e", ".[dev]"])
    if any(subprocess.run(step, cwd=ROOT, check=False).returncode for step in steps):
        return None
    mark.write_text(key)
    return interpreter


def failures(*words: str) -> list[str]:
    """Run the quick part on each other version; a line for each version whose tests or set-up failed."""
    failed = []
    for version in VERSIONS:
        if version == ".".join(map(str, sys.version_info[:2])):
            continue
        python = find(version)
        if python is None:
            print(f"== Python {version}: not on PATH, its tests are left out", flush=True)
            continue
        interpreter = environment(version, python)
        if interpreter is None:
            failed.append(f"the set-up of Python {version}")
            continue
        tests = [interpreter, "-m", "pytest", "-n", WORKERS, "--dist", "worksteal", "-m", QUICK, *words]
        print(f"== Python {version}: pytest -m '{QUICK}'", flush=True)
        if subprocess.run(tests, cwd=ROOT, check=False).returncode:
            failed.append(f"the tests on Python {version}")
    return failed


if __name__ == "__main__":
    sys.exit("; ".join(failures(*sys.argv[1:])) or None)
