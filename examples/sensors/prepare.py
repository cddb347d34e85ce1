"""Makes `watch.jsonl` from the exercises that the package seglearn 1.2.5 brings: one event a second.

    python prepare.py [FOLDER]      downloads into FOLDER (default: wheels), writes watch.jsonl here

The package is fetched by pip, checked against its hash, and only read as the archive it is: nothing of it is
installed or run. It holds 140 recordings of a smartwatch at 50 readings a second, by ten subjects doing seven
shoulder exercises with either arm (Burns and others, "Shoulder physiotherapy exercise recognition: machine
learning the inertial signals from a smartwatch", Physiological Measurement 39, 2018). Licence of the package
and of the data in it: BSD 3-Clause, David M. Burns.

What is kept: each second, mean and standard deviation of the last two seconds of the six signals. What is
made up: day and hour, the pause of ten seconds between recordings, and that one subject comes after another.
"""

import hashlib
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = "seglearn==1.2.5"
WHEEL = "seglearn-1.2.5-py3-none-any.whl"
SHA256 = "ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd"
RATE_HZ = 50
WINDOW_S = 2
PAUSE_S = 10
BEGIN_S = 1_767_225_600  # 2026-01-01T00:00:00Z


def fetched(folder: Path) -> Path:
    """The wheel, downloaded if it is not there. Exits with a message when it is not the one it should be."""
    wheel = folder / WHEEL
    if not wheel.exists():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", PACKAGE, "-d", str(folder)]
        if subprocess.run(pip, check=False).returncode:
            sys.exit(f"pip could not download {PACKAGE}: see above; or put {WHEEL} into {folder}/ yourself.")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != SHA256:
        sys.exit(f"{wheel} is not the {PACKAGE} that this reads (SHA-256 {found}, not {SHA256}): delete it.")
    return wheel


class Recording(NamedTuple):
    """One exercise by one subject. `readings`: rows of the six `signals`, 50 a second."""

    name: str
    subject: int
    exercise: str
    signals: list[str]
    readings: Any


def recordings(wheel: Path) -> Iterator[Recording]:
    """All of them, one subject after another."""
    import numpy as np

    with zipfile.ZipFile(wheel) as archive:
        packed = archive.read("seglearn/data/watch_dataset.npy")
    # An array of Python objects is a pickle; the hash above says that it is the known one.
    data = np.load(io.BytesIO(packed), allow_pickle=True).item()
    for number in np.argsort(data["subject"], kind="stable"):
        exercise = data["y_labels"][data["y"][number]]
        yield Recording(
            f"recording-{number}", int(data["subject"][number]), exercise, data["X_labels"], data["X"][number]
        )


def events(wheel: Path) -> Iterator[dict[str, Any]]:
    """The recordings as events; `group` names a recording, `label` its exercise."""
    ts = BEGIN_S
    for name, subject, exercise, signals, readings in recordings(wheel):
        for second in range(WINDOW_S, len(readings) // RATE_HZ + 1):
            window = readings[(second - WINDOW_S) * RATE_HZ : second * RATE_HZ]
            parts = (("mean", window.mean(axis=0)), ("sd", window.std(axis=0)))
            yield {
                "id": f"{name}-{second}",
                "ts": ts + second,
                "group": name,
                "subject": subject,
                "features": {
                    f"{signal}_{part}": round(float(value), 6)
                    for part, values in parts
                    for signal, value in zip(signals, values, strict=True)
                },
                "label": exercise,
            }
        ts += len(readings) // RATE_HZ + PAUSE_S


def main() -> None:
    """Fetch, read and write, in the folder where it is called."""
    lines = [json.dumps(event) + "\n" for event in events(fetched(Path(*sys.argv[1:] or ["wheels"])))]
    Path("watch.jsonl").write_text("".join(lines), encoding="utf-8")
    print(f"watch.jsonl: {len(lines)} events")


if __name__ == "__main__":
    main()
