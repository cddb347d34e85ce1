"""Every check of the project in one go: `scripts/test [--all] [arguments for pytest]`.

Style, types, then the tests with a real Kafka broker that is started here and stopped here, and a real
browser. All of them run, also after a failure; the exit code is 0 only if all passed. With `--all` the tests
marked `slow` run too, those marked `kafka` once more on each of `OTHER_BROKERS`, and the quick part of all on
the other versions of Python that are found on PATH (`scripts/pythons.py`).

Invariants:
- The broker has a temporary folder of its own, and it ends with this process, even one killed by SIGKILL.
- `STREAMLEARN_TEST_KAFKA=host:port` names a broker to use instead of all others; then none is started.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pythons

ROOT = Path(__file__).resolve().parent.parent
BROKER_VARIABLE = "STREAMLEARN_TEST_KAFKA"
OTHER_BROKERS = ("3.6.2", "4.3.1")
"""The oldest and the newest version of Kafka that streamlearn promises to run on, see README.md."""

PATIENCE_S = 20.0
WORKERS = "5"
"""Processes of pytest. Most tests wait for processes and brokers most of the time."""

CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy", "--strict"),
    ("mypy", "--strict", "scripts/kafka"),
    ("mypy", "--strict", "scripts/checks.py", "scripts/measures.py", "scripts/api.py", "tests/conftest.py"),
)


def run(*command: str) -> int:
    """Run a command in the repository to its end; an interrupted one is ended before this returns."""
    print(f"== {' '.join(command)}", flush=True)
    child = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT)
    try:
        return child.wait()
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit):  # Ctrl-C reaches the child by itself, a signal to us does not.
            child.send_signal(signal.SIGINT)
        try:
            child.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        raise


QUICK_BROKERS = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""The tests' brokers live minutes at most, and half of their CPU is the compiler's."""


@contextmanager
def broker(*version: str) -> Iterator[None]:
    """A Kafka for the tests, named in the environment; nothing when none can be had: they say so."""
    if os.environ.get(BROKER_VARIABLE):
        yield
        return
    script = [sys.executable, str(ROOT / "scripts" / "kafka")]
    data = f"--data={tempfile.mkdtemp(prefix='streamlearn-kafka-')}"
    try:
        start = [*script, "start", data, f"--owner={os.getpid()}", *version]
        started = subprocess.run(start, stdout=subprocess.PIPE, text=True, check=False)
        if started.returncode == 0:
            os.environ[BROKER_VARIABLE] = started.stdout.strip()
        yield
    finally:
        os.environ.pop(BROKER_VARIABLE, None)
        subprocess.run([*script, "stop", "--wipe", data], stderr=subprocess.DEVNULL, check=False)


def main(words: list[str]) -> int:
    """The exit code of everything: pytest's when the tests failed, else 1 when another check failed."""
    os.environ.setdefault("KAFKA_JVM_PERFORMANCE_OPTS", QUICK_BROKERS)
    failed = [" ".join(check) for check in CHECKS if run(*check)]
    selection = [] if "--all" in words else ["-m", "not slow"]
    # Where no browser can be had, it says so, and the tests too.
    subprocess.run([ROOT / "scripts" / "browser"], stdout=subprocess.DEVNULL, check=False)
    rest = [word for word in words if word != "--all"]
    pytest = ["pytest", "-n", WORKERS, "--dist", "worksteal"]
    others = OTHER_BROKERS if "--all" in words and not os.environ.get(BROKER_VARIABLE) else ()
    with broker():
        tests = run(*pytest, *selection, *rest)
    for version in others:
        with broker(f"--version={version}"):
            if run(*pytest, "-m", "kafka", *rest):
                failed.append(f"the Kafka tests on Kafka {version}")
    if "--all" in words:
        failed += pythons.failures(*rest)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return tests or int(bool(failed))


def leave(number: int, frame: FrameType | None) -> None:
    """Turn a signal into an orderly end."""
    sys.exit(128 + number)


if __name__ == "__main__":
    # Set also for SIGINT: a shell that starts us in the background leaves it ignored, also for our children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
