"""A long wait inside the loop does not cost the membership."""

import time
from itertools import pairwise
from pathlib import Path
from threading import Timer

import pytest

from streamlearn.env import RealEnv
from streamlearn.log.backends import open_store
from streamlearn.log.embedded.log import EmbeddedLog
from streamlearn.service.process import Process
from tests.faulty_log import Harness

INTERVAL_S = 3.0


def test_heartbeats_go_on_while_a_transaction_waits_for_its_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats: list[float] = []
    owned = EmbeddedLog.owned

    def beaten(log: EmbeddedLog, timeout_s: float) -> frozenset[int]:
        beats.append(time.monotonic())
        return owned(log, timeout_s)

    monkeypatch.setattr(EmbeddedLog, "owned", beaten)
    harness = Harness(tmp_path, **{"transaction.min_interval_ms": int(INTERVAL_S * 1000)})
    config = harness.config
    harness.produce([{"id": f"e{n}", "features": {"x": n % 7}, "label": n % 2 == 0} for n in range(60)])
    log = EmbeddedLog(RealEnv(), config.names(), config.log.path, 3600)
    process = Process(RealEnv(), config, harness.fresh(), log, open_store(RealEnv(), config, 0), "", False)
    timer = Timer(INTERVAL_S + 2.0, process.stop)
    timer.start()
    process.run()
    log.close()
    assert len(harness.predictions()) == 60
    assert max(later - one for one, later in pairwise(beats)) < INTERVAL_S / 2
