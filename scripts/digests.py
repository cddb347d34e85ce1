"""Prints the digests of what models answer to the example streams: predictions and scores, byte for byte.

    scripts/digests                     a line for each stream, model and topic
    scripts/digests --against DIR       the same of another checkout; what differs is shown, and the code is 1

A change that is to change no output is shown by equal digests before and after it: check the commit before it
out beside this one (`git worktree add DIR HEAD~1`). Digests of two machines may differ in their last bits.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NoReturn

ROOT: Final = Path(__file__).resolve().parent.parent
MODELS: Final = "digest_models"

STREAMS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("river:Phishing", ("logistic", "classifier_tree", "bayes", "preset:classification", "preset:sensors")),
    ("river:Phishing --delay 50", ("logistic", "classifier_tree", "bayes", "preset:classification")),
    ("river:Phishing --delay 50", ("half_space", "preset:anomaly")),
    ("river:TrumpApproval", ("linear", "regressor_tree", "preset:regression")),
    ("river:TrumpApproval --delay 3", ("linear", "preset:regression")),
    ("river:ImageSegments", ("bayes", "classifier_tree", "preset:classification")),
    ("river:ImageSegments --delay 100", ("bayes", "preset:sensors")),
)
"""What `streamlearn backtest` is asked: the source with its options, and the models, all of one task."""


def digests(checkout: Path) -> Iterator[str]:
    """The lines of one checkout, one backtest at a time."""
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    for source, models in STREAMS:
        named = [model if ":" in model else f"{MODELS}:{model}" for model in models]
        chosen = [part for model in named for part in ("-m", model)]
        command = [*source.split(), *chosen, "--app-dir", str(ROOT / "scripts"), "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "streamlearn", "backtest", *command],
            env=environment,
            cwd=checkout,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            fail(f"backtest {' '.join(command)} failed in {checkout}:\n{done.stderr.strip()}")
        for model in json.loads(done.stdout)["models"]:
            for topic, digest in model["digests"].items():
                yield f"{source:<32}{model['name']:<24}{topic:<12}{digest}"


def fail(why: str) -> NoReturn:
    print(why, file=sys.stderr)
    sys.exit(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--against", metavar="DIR", type=Path, help="compare with this checkout")
    against = parser.parse_args().against
    if against is None:
        for line in digests(ROOT):
            print(line, flush=True)
        return
    if not (against / "streamlearn" / "__init__.py").is_file():
        fail(f"{against} is no checkout: there is no streamlearn/__init__.py in it")
    differing = equal = 0
    for here, there in zip(digests(ROOT), digests(against.resolve()), strict=True):
        if here == there:
            equal += 1
            continue
        differing += 1
        print(f"here   {here}\nthere  {there}", flush=True)
    print(f"{equal} digests are equal, {differing} differ")
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
