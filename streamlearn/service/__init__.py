"""The loop around the pure function: ownership, recovery, transactions, checkpoints.

`serve` is the whole of it; the modules in reading order: loop, order, standing, recovery, eras,
checkpoints, models, selfcheck.
"""

import os
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamlearn.settings import Config


def serve(config: "Config", model: Any = None, model_change: str = "") -> None:
    """Serve until SIGTERM or Ctrl-C; a second Ctrl-C ends the process at once.

    `model`: a river model to use instead of `[model]`. `model_change`: what to do when the journal was
    written by another model: "" refuses, "fresh" begins anew. Raises `StreamlearnError`.
    """
    import structlog

    from streamlearn.log.connect import open_log, open_store
    from streamlearn.service.loop import SHARD, Loop
    from streamlearn.service.models import fresh_model

    section = config.model
    fresh = fresh_model(config.app.name, section.use, section.args, list(section.steps), model)
    service_log = open_log(config)
    store = open_store(config, SHARD)
    loop = Loop(config, fresh, service_log, store, model_change)
    log = structlog.get_logger()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if loop.stopping:
            os._exit(130)
        log.info("service.stopping", signal=signal.Signals(number).name)
        loop.stop()

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)
    log.info("service.started", app=config.app.name, model=fresh.name, model_version=fresh.version)
    try:
        loop.run()
    finally:
        store.close()
        service_log.close()
