"""Benchmarks that print ratios. Each compares with a peer or a limit in the same run, in turns.

    scripts/bench race    [--models M,...] [--runners R,...|all] [--rounds N] [--events N] [--write docs]
    scripts/bench stages  [--models M,...] [--runners R,...] [--rounds N] [--events N] [--write docs]
    scripts/bench latency [--rate N] [--runners R,...] [--rounds N] [--write docs]

    scripts/bench throughput [--events N] [--pairs N] [--backend embedded|kafka]
    scripts/bench memory     [--events N]
    scripts/bench restart    [--backend embedded|kafka]
    scripts/bench replay     [--events N] [--pairs N] [--backend embedded|kafka]
    scripts/bench decode     [--events N] [--pairs N]
    scripts/bench scores     [--events N] [--pairs N]
    scripts/bench join       [--events N] [--pairs N]
    scripts/bench backtest   [--events N] [--pairs N]
    scripts/bench paired     --against DIR [--events N] [--pairs N]

`race`, `stages` and `latency` make the figures of docs/performance.md, which explains them; each has a
`--help` of its own: streamlearn beside bare river, a naive loop, Quix Streams and Bytewax; the CPU of each
stage; the time from event to prediction.
`throughput`: time per event of a service that works off a backlog, against a bare loop over the same
bytes: `orjson.loads`, `predict_proba_one`, `learn_one`, `orjson.dumps` of the same prediction (`ratio`),
and against that loop without the answer's encoding (`ratio_silent`). All in processes of their own; the
producer is done before they begin. `memory`: the service's RSS while it works through N events with
unique ids and 1 % dead letters. `restart`: from kill -9 to the first new prediction, against the import
of river alone. `replay`: CPU per event of reading a CSV of 11 columns, and time per event of sending it;
a file is to be read three times as fast as a service takes events, about 100 us each with the smallest model.
`decode`: what reading costs
over `orjson.loads` per event, in turns, for the plain envelope and for mapped flat JSON. `scores`: what
scores with baselines, and a report every 1,000 events, add to predicting and learning with a scaler and a
logistic regression. `backtest`: the share of the speed of river's `progressive_val_score` that a backtest of
the same model reaches, labels at once and 200 events late. It reads JSON lines and scores two baselines
too; river has its rows ready in memory, with accuracy alone (`plain`), with the same metrics (`model`), or
with those of the baselines as well (`all`).
`paired`: CPU time per event here and in another checkout, in turns: the core alone and a service on the
embedded log, with the interval of the difference.
`--backend kafka` wants a broker at $STREAMLEARN_TEST_KAFKA (scripts/kafka start).
"""

import argparse
import csv
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from functools import partial
from pathlib import Path

import orjson
import psutil
from bench_app import MODEL, App, events, stop

from streamlearn.env import RealEnv
from streamlearn.history.label_delay import schedule
from streamlearn.history.send import Pace, Sender, SendTopics
from streamlearn.history.sources import ReadOptions, open_source
from streamlearn.log.port import TopicSpec

ALL = ("throughput", "memory", "restart", "replay", "decode", "scores", "join", "backtest")
COMPARISONS = ("race", "stages", "latency")
READ_BAR_US = 33

BARE = """
import sys, time
import orjson
from bench_model import build

values = open(sys.argv[1], "rb").read().splitlines()
model = build()
began = time.perf_counter()
for offset, value in enumerate(values):
    event = orjson.loads(value)
    x = event["features"]
    proba = model.predict_proba_one(x)
    best = max(proba, key=proba.get)
    model.learn_one(x, event["label"])
    answer = orjson.dumps({
        "id": event["id"], "key": None, "ts": event["ts"], "prediction": best,
        "probabilities": {"false": proba[False], "true": proba[True]},
        "model": {"name": "bench_model:build", "version": "0123456789ab", "revision": 1, "learned": offset},
        "source": {"topic": "events", "partition": 0, "offset": offset},
    })
answering = time.perf_counter() - began
model = build()
began = time.perf_counter()
for value in values:
    event = orjson.loads(value)
    x = event["features"]
    model.predict_one(x)
    model.learn_one(x, event["label"])
silent = time.perf_counter() - began
print(answering / len(values) * 1e6, silent / len(values) * 1e6)
"""


def throughput(folder: Path, backend: str, n: int, pairs: int) -> dict[str, object]:
    """Steady state: the clock runs between the 20 % mark and the end of the backlog."""
    values = list(events(n, seed=1))
    (folder / "values").write_bytes(b"\n".join(values))
    (folder / "bare.py").write_text(BARE)
    (folder / "bench_model.py").write_text(MODEL)
    ours_us, bare_us, silent_us = [], [], []
    for pair in range(pairs):
        app = App(folder, backend, f"bench-{os.getpid()}-{pair}", **{"checkpoint.interval_s": 30})
        app.append(iter(values))
        process = app.serve()
        app.wait(process, n // 5)
        first, began_s = app.done(), time.monotonic()
        app.wait(process, n)
        ours_us.append((time.monotonic() - began_s) / (n - first) * 1e6)
        stop(process)
        bare, silent = subprocess.check_output([sys.executable, "bare.py", "values"], cwd=folder).split()
        bare_us.append(float(bare))
        silent_us.append(float(silent))
        print(f"pair {pair}: ours {ours_us[-1]:.1f}, bare {bare_us[-1]:.1f}, silent {silent_us[-1]:.1f} us")
    return {
        "backend": backend,
        "ours_us": round(statistics.median(ours_us), 1),
        "bare_us": round(statistics.median(bare_us), 1),
        "ratio": round(statistics.median(a / b for a, b in zip(ours_us, bare_us, strict=True)), 2),
        "ratio_silent": round(statistics.median(a / b for a, b in zip(ours_us, silent_us, strict=True)), 2),
    }


def memory(folder: Path, n: int) -> dict[str, object]:
    """RSS of the service at each tenth of the stream, produced in pieces so that the file stays small."""
    app = App(folder, "embedded", f"bench-{os.getpid()}", **{"checkpoint.interval_s": 2})
    process = app.serve()
    rss_mb: dict[int, float] = {}
    piece = n // 10
    for k in range(10):
        app.append(events(piece, seed=k, dead_share=0.01))
        app.wait(process, (k + 1) * piece)
        rss_mb[(k + 1) * piece] = psutil.Process(process.pid).memory_info().rss / 1e6
        print(f"{(k + 1) * piece:>9,} events: {rss_mb[(k + 1) * piece]:.1f} MB")
    stop(process)
    growth = rss_mb[n] - rss_mb[2 * piece]
    return {
        "rss_mb_at_20_percent": rss_mb[2 * piece],
        "rss_mb_at_end": rss_mb[n],
        "growth_mb": round(growth, 2),
    }


def restart(folder: Path, backend: str, tries: int) -> dict[str, object]:
    """kill -9 in the middle of the stream; the first prediction that was not there before."""
    n = 400_000
    app = App(folder, backend, f"bench-{os.getpid()}", **{"checkpoint.interval_s": 5})
    app.append(events(n, seed=1))
    process = app.serve()
    app.wait(process, 40_000)
    imports_s, restarts_s = [], []
    for _ in range(tries):
        process.kill()
        process.wait()
        before = app.done()
        process = app.serve()
        restarts_s.append(app.wait(process, before + 1))
        began_s = time.monotonic()
        code = "import river.linear_model, river.preprocessing"
        subprocess.run([sys.executable, "-c", code], check=True)
        imports_s.append(time.monotonic() - began_s)
        print(f"first new prediction after {restarts_s[-1]:.2f} s; river's import {imports_s[-1]:.2f} s")
    stop(process)
    over = [a - b for a, b in zip(restarts_s, imports_s, strict=True)]
    return {
        "backend": backend,
        "over_import_s": round(statistics.median(over), 2),
        "worst_s": round(max(over), 2),
    }


def replay(folder: Path, backend: str, n: int, pairs: int) -> dict[str, object]:
    """Rows of a CSV file: read alone, then read and sent into a new topic of one partition."""
    path = folder / "events.csv"
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        for i, value in enumerate(events(n, seed=1)):
            event = orjson.loads(value)
            if i == 0:
                out.writerow(["id", "ts", *event["features"], "label"])
            out.writerow([event["id"], event["ts"], *event["features"].values(), int(event["label"])])
    read_us, sent_us = [], []
    for pair in range(pairs):
        began_s = time.process_time()
        deque(open_source(str(path)).items(), maxlen=0)
        read_us.append((time.process_time() - began_s) / n * 1e6)
        app = App(folder, backend, f"bench-{os.getpid()}-{pair}")
        app.admin.create([TopicSpec(app.input, 1)])
        sender = Sender(RealEnv(), app.admin, SendTopics(app.input), Pace(), RealEnv().flag(), lambda _: None)
        began_s = time.perf_counter()
        sender.run(partial(schedule, open_source(str(path)), ReadOptions(), None), None, loop=False)
        sent_us.append((time.perf_counter() - began_s) / n * 1e6)
        app.admin.close()
        print(f"pair {pair}: read in {read_us[-1]:.2f} us, read and sent in {sent_us[-1]:.2f} us")
    return {
        "backend": backend,
        "read_us": round(statistics.median(read_us), 2),
        "sent_us": round(statistics.median(sent_us), 2),
        "bar_us": READ_BAR_US,
    }


def comparison(words: list[str]) -> None:
    """The benchmarks of docs/performance.md: each has options of its own."""
    importlib.import_module(f"bench_{words[0]}").command(words[1:])


def main() -> None:
    if sys.argv[1:2] and sys.argv[1] in COMPARISONS:
        comparison(sys.argv[1:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "what",
        nargs="*",
        help="throughput, memory, restart, replay, decode, scores, join, backtest (default: these), paired",
    )
    parser.add_argument("--events", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--backend", default="embedded", choices=["embedded", "kafka"])
    parser.add_argument("--against", type=Path, help="paired: the other checkout")
    args = parser.parse_args()
    if args.what == ["paired"]:
        from bench_paired import paired

        if args.against is None:
            parser.error("paired compares with another checkout: --against DIR")
        result = paired(args.against.resolve(), args.events or 50_000, args.pairs)
        print(json.dumps({"paired": result}, indent=2))
        return
    for what in args.what or ALL:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if what == "throughput":
                result = throughput(folder, args.backend, args.events or 100_000, args.pairs)
            elif what == "memory":
                result = memory(folder, args.events or 1_000_000)
            elif what == "replay":
                result = replay(folder, args.backend, args.events or 100_000, args.pairs)
            elif what == "restart":
                result = restart(folder, args.backend, args.pairs)
            elif what in ("decode", "scores", "join"):
                import bench_core

                measure = {
                    "decode": bench_core.decoding,
                    "scores": bench_core.scoring,
                    "join": bench_core.joining,
                }
                result = measure[what](list(events(args.events or 50_000, seed=1)), args.pairs)
            elif what == "backtest":
                from bench_backtest import backtesting

                (folder / "bench_model.py").write_text(MODEL)
                result = backtesting(folder, list(events(args.events or 50_000, seed=1)), args.pairs)
            else:
                parser.error(f"there is no benchmark {what!r}")
            print(json.dumps({what: result}))


if __name__ == "__main__":
    main()
