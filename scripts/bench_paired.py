"""`scripts/bench paired --against DIR`: what an event costs here and in another checkout, in turns.

CPU time, because wall time is that of whatever else runs. Each measurement is a process of its own, the two
checkouts take turns (here first, then there first), and what is printed is the mean of the pairs' ratios with
its 95 % interval (Student's t over the logarithms): one that holds 0 % shows no difference.
"""

import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from scipy import stats

ROOT: Final = Path(__file__).resolve().parent.parent

# Each runs with a checkout's modules and its scripts/bench.py, and prints microseconds per event.
_CORE: Final = """
import gc, importlib.util, sys, time
import bench, orjson
from river import linear_model, preprocessing
from streamlearn.core.labels.record import LabelSpec
from streamlearn.core.model.learner import Learner
from streamlearn.core.records import Record
from streamlearn.core.scores.scores import ScoresSpec
from streamlearn.core.shard.shard import Shard
from streamlearn.core.shard.state import Memory, ShardSpec
n, late = int(sys.argv[1]), sys.argv[2] == "late"
before = importlib.util.find_spec("streamlearn.core.shard.facts") is None  # then a step gave outputs
spec = ShardSpec("m", "v", 1, labels=LabelSpec("labels") if late else None, scores=ScoresSpec())
shard = Shard(spec, Learner(preprocessing.StandardScaler() | linear_model.LogisticRegression()), Memory())
records = []
for k, value in enumerate(bench.events(n, 1)):
    if late:
        event = orjson.loads(value)
        label = orjson.dumps({"id": event["id"], "ts": event["ts"], "label": event.pop("label")})
        value = orjson.dumps(event)
        records.append(Record("labels", 0, k, 1_700_000_000_000 + k, None, label))
    records.append(Record("events", 0, k, 1_700_000_000_000 + k, None, value))
if late:  # the label of an event comes 200 events later
    events, labels = records[1::2], records[0::2]
    records = [one for k in range(n) for one in (events[k], *(labels[k - 200 : k - 199] if k >= 200 else ()))]
gc.freeze()
began = time.process_time()
for at in range(0, len(records), 1000):
    outputs = []
    for record in records[at : at + 1000]:
        if before:
            outputs += shard.begin(record, 1)
        else:
            for fact in shard.begin(record, 1):
                if fact.output is not None:
                    outputs.append(fact.output)
print((time.process_time() - began) / n * 1e6)
"""

_EMBEDDED: Final = """
import sys, tempfile
from pathlib import Path
import bench, psutil
n = int(sys.argv[1])
with tempfile.TemporaryDirectory() as name:
    app = bench.App(Path(name), "embedded", "paired", **{"checkpoint.interval_s": 3600})
    app.append(bench.events(n, 1))
    process = app.serve()
    app.wait(process, n // 5)
    service = psutil.Process(process.pid)
    began, first = service.cpu_times(), app.done()
    app.wait(process, n)
    ended = service.cpu_times()
    bench.stop(process)
    print((ended.user + ended.system - began.user - began.system) / (n - first) * 1e6)
"""

_MEASURES: Final = {
    "core": (_CORE, "at_once"),
    "core_late_labels": (_CORE, "late"),
    "embedded": (_EMBEDDED, ""),
}


def cpu_us(checkout: Path, code: str, events: int, how: str) -> float:
    """One measurement in a process of its own."""
    path = os.pathsep.join((str(checkout), str(checkout / "scripts")))
    with tempfile.TemporaryDirectory() as folder:
        out = subprocess.check_output(
            [sys.executable, "-c", code, str(events), how],
            env=os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "0"},
            cwd=folder,
        )
    return float(out)


def paired(against: Path, events: int, pairs: int) -> dict[str, object]:
    """Mean cost here over there, less 1, in percent, with its interval; and both medians."""
    found: dict[str, object] = {}
    for name, (code, how) in _MEASURES.items():
        here, there = [], []
        for pair in range(pairs):
            for checkout in (ROOT, against)[:: 1 if pair % 2 else -1]:
                us = cpu_us(checkout, code, events, how)
                (here if checkout == ROOT else there).append(us)
            print(f"{name} pair {pair}: here {here[-1]:.2f} us, there {there[-1]:.2f} us", flush=True)
        logs = [math.log(a / b) for a, b in zip(here, there, strict=True)]
        mean = statistics.fmean(logs)
        margin = stats.t.ppf(0.975, pairs - 1) * statistics.stdev(logs) / math.sqrt(pairs)
        found[name] = {
            "here_us": round(statistics.median(here), 2),
            "there_us": round(statistics.median(there), 2),
            "difference_percent": round(math.expm1(mean) * 100, 2),
            "interval_percent": [round(math.expm1(mean + side * margin) * 100, 2) for side in (-1, 1)],
        }
    return found
