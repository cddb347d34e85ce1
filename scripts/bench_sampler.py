"""Run streamlearn's command line with a sampling profiler inside: bench_sampler.py OUT.json serve

A timer interrupts the main thread about every millisecond. Each thread's CPU clock tells how much it worked
since the sample before, and that time goes to the stage (`bench_stage_map`) in which the thread is now. So
the stages sum to the CPU of all threads, however rare the samples are; only the borders between stages have
the error of sampling. The sampler's own time is left out. Garbage collections are timed, not sampled.

SIGUSR1 begins a measurement, SIGUSR2 ends it and writes OUT.json. Linux only: it numbers threads' clocks so.
"""

import gc
import json
import random
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE.parent)
sys.path.append(str(HERE))

from bench_stage_map import BELOW, CALLER, THREADS, stage  # noqa: E402 # after the path

PACKAGE = str(HERE.parent / "streamlearn") + "/"
PERIOD_S = 0.001

_LIBRARY = "\0library"
_KAFKA = "\0kafka"


def module_name(filename: str) -> str:
    """The dotted name of a file of the package, without the package's own."""
    return filename.removeprefix(PACKAGE).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def clock_id(native_id: int) -> int:
    """The CPU clock of a thread of this process, as Linux numbers it."""
    return (~native_id << 3) | 6


class Sampler:
    """CPU by stage, since `begin`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stages: Counter[str] = Counter()
        self._functions: Counter[str] = Counter()
        self._last_ns: dict[int, int] = {}
        self._gc_ns: Counter[int] = Counter()
        self._gc_began_ns = 0
        self._own_ns = 0
        self._process_ns = 0
        self._samples = 0
        self._is_on = False
        self._codes: dict[CodeType, tuple[str, str]] = {}

    def begin(self, _number: int, _frame: FrameType | None) -> None:
        """Start to measure."""
        self._stages.clear()
        self._functions.clear()
        self._gc_ns.clear()
        self._own_ns = self._samples = 0
        self._last_ns = {}
        for ident in sys._current_frames():
            self._elapsed_ns(ident)
        self._process_ns = time.process_time_ns()
        self._is_on = True
        signal.setitimer(signal.ITIMER_REAL, PERIOD_S)

    def end(self, number: int, frame: FrameType | None) -> None:
        """Take the last sample and write the result."""
        self.sample(number, frame)
        self._is_on = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        total_ns = time.process_time_ns() - self._process_ns - self._own_ns
        sampled_ns = sum(self._stages.values())
        found = {
            "stages_us": {name: ns / 1e3 for name, ns in self._stages.items()},
            "functions_us": {name: ns / 1e3 for name, ns in self._functions.most_common(80)},
            "native_us": max(0, total_ns - sampled_ns) / 1e3,  # of threads that are not Python's
            "samples": self._samples,
        }
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps(found))
        partial.replace(self._file)

    def sample(self, _number: int, frame: FrameType | None) -> None:
        """Give each thread's time since the last sample to the stage in which it is."""
        if not self._is_on:
            return
        began_ns = time.thread_time_ns()
        self._samples += 1
        main = threading.main_thread().ident
        for ident, at in sys._current_frames().items():
            spent_ns = self._elapsed_ns(ident) - self._gc_ns.pop(ident, 0)
            if spent_ns <= 0:
                continue
            name, function = self._located(ident, frame if ident == main else at)
            self._stages[name] += spent_ns
            self._functions[f"{name}: {function}"] += spent_ns
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.5, 1.5) * PERIOD_S)
        self._own_ns += time.thread_time_ns() - began_ns
        if main is not None:
            self._elapsed_ns(main)

    def collected(self, phase: str, _info: dict[str, Any]) -> None:
        """Time a garbage collection: a callback of `gc`."""
        now_ns = time.thread_time_ns()
        if phase == "start":
            self._gc_began_ns = now_ns
        elif self._is_on:
            self._gc_ns[threading.get_ident()] += now_ns - self._gc_began_ns
            self._stages["GC"] += now_ns - self._gc_began_ns

    def _elapsed_ns(self, ident: int) -> int:
        """CPU of a thread since this was asked last."""
        thread = threading._active.get(ident)  # type: ignore[attr-defined] # enumerate() would take a lock
        if thread is None or thread.native_id is None:
            return 0
        try:
            now_ns = time.clock_gettime_ns(clock_id(thread.native_id))
        except OSError:  # it has ended
            return 0
        last_ns = self._last_ns.get(ident, 0 if self._is_on else now_ns)
        self._last_ns[ident] = now_ns
        return now_ns - last_ns

    def _located(self, ident: int, frame: FrameType | None) -> tuple[str, str]:
        """The stage and the function in which a thread is."""
        in_kafka, first = False, ""
        while frame is not None:
            kind, words = self._codes.get(frame.f_code) or self._classified(frame.f_code)
            first = first or words
            if kind == _KAFKA:
                in_kafka = True
            elif kind not in (_LIBRARY, CALLER):
                below = BELOW.get(words.partition(":")[0], kind) if in_kafka else kind
                return below, words
            frame = frame.f_back
        thread = threading._active.get(ident)  # type: ignore[attr-defined]
        name = "" if thread is None else thread.name.lower()
        for part, of_thread in THREADS:
            if part in name:
                return of_thread, f"thread {name}"
        return "other", f"{name} {first}"

    def _classified(self, code: CodeType) -> tuple[str, str]:
        if code.co_filename.startswith(PACKAGE):
            module = module_name(code.co_filename)
            kind = stage(module, code.co_qualname)
            found = (_LIBRARY if kind is None else kind, f"{module}:{code.co_name}")
        else:
            kind = _KAFKA if "/site-packages/kafka/" in code.co_filename else _LIBRARY
            found = (kind, f"{Path(code.co_filename).name}:{code.co_name}")
        self._codes[code] = found
        return found


def main() -> None:
    sampler = Sampler(Path(sys.argv[1]))
    gc.callbacks.append(sampler.collected)
    signal.signal(signal.SIGALRM, sampler.sample)
    signal.signal(signal.SIGUSR1, sampler.begin)
    signal.signal(signal.SIGUSR2, sampler.end)
    sys.argv = ["streamlearn", *sys.argv[2:]]
    from streamlearn.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
