"""Makes `vowels.jsonl` from the data set JapaneseVowels in the package aeon 1.6.0: one event a frame.

    python prepare.py [FOLDER]      downloads into FOLDER (default: wheels), writes vowels.jsonl here

The package is fetched by pip, checked against its hash, and only read as the archive it is: nothing of it is
installed or run. It holds 640 utterances of two vowels by nine speakers, each of 7 to 29 frames of twelve LPC
cepstrum coefficients (M. Kudo, J. Toyama and M. Shimbo, "Multidimensional curve classification using
passing-through regions", Pattern Recognition Letters 20, 1999; UCI repository, doi 10.24432/C5NS47). Licence
of the data: CC BY 4.0; of the package: BSD 3-Clause, the aeon developers. A frame is 25.6 ms long and begins
6.4 ms after the one before.

What is made up: the day and hour, the second between utterances, and their order. In the files one speaker
comes after another, and whoever always names the last speaker is right; here they take turns, shuffled once.
"""

import hashlib
import json
import random
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = "aeon==1.6.0"
WHEEL = "aeon-1.6.0-py3-none-any.whl"
SHA256 = "d05227086706f80111ac5fee8de4d5d3115bb3bcfd1c786c8629393055816409"
FILES = "aeon/datasets/data/JapaneseVowels/JapaneseVowels_{}.ts"
FRAME_S = 0.0064
PAUSE_S = 1
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


def utterances(wheel: Path) -> list[tuple[str, list[tuple[float, ...]]]]:
    """Speaker and frames of each; the files give a line an utterance, a colon between coefficients."""
    found = []
    with zipfile.ZipFile(wheel) as archive:
        for part in ("TRAIN", "TEST"):
            _, _, data = archive.read(FILES.format(part)).decode().partition("@data\n")
            for line in data.splitlines():
                *coefficients, speaker = line.split(":")
                series = [[float(value) for value in text.split(",")] for text in coefficients]
                found.append((f"speaker-{speaker}", list(zip(*series, strict=True))))
    random.Random(1).shuffle(found)
    return found


def events(wheel: Path) -> Iterator[dict[str, Any]]:
    """Frame by frame; `group` names an utterance, `label` its speaker."""
    ts = float(BEGIN_S)
    for number, (speaker, frames) in enumerate(utterances(wheel), 1):
        for at, frame in enumerate(frames):
            yield {
                "id": f"{number}-{at}",
                "ts": round(ts + at * FRAME_S, 4),
                "group": f"utterance-{number}",
                "features": {f"c{order}": value for order, value in enumerate(frame, 1)},
                "label": speaker,
            }
        ts += PAUSE_S


def main() -> None:
    """Fetch, read and write, in the folder where it is called."""
    lines = [json.dumps(event) + "\n" for event in events(fetched(Path(*sys.argv[1:] or ["wheels"])))]
    Path("vowels.jsonl").write_text("".join(lines), encoding="utf-8")
    print(f"vowels.jsonl: {len(lines)} events")


if __name__ == "__main__":
    main()
