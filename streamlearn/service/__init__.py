"""The loop around the pure function: ownership, recovery, transactions, checkpoints.

`serve` is the whole of it; the modules in reading order: process, ownership,
task, stepping, batch, merge, recovery.
"""

import contextlib
import gc
import os
import signal
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamlearn.config.schema import Config
    from streamlearn.service.process import Process


class _Signals:
    """SIGTERM and the first Ctrl-C finish the transaction in hand; the second Ctrl-C ends the process.

    Before there is a process to serve there is nothing to finish, and the process just ends, with success.
    """

    def __init__(self) -> None:
        self.process: Process | None = None
        with contextlib.suppress(ValueError):  # handlers are for the main thread: another one does without
            signal.signal(signal.SIGTERM, self._on_signal)
            signal.signal(signal.SIGINT, self._on_signal)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.process is None:
            os._exit(0)
        if self.process.stopping and number == signal.SIGINT:
            os._exit(130)
        self.process.stop()


def serve(config: "Config", model: Any = None, model_change: str = "", begin: bool = False) -> None:
    """Serve a model on a log until SIGTERM or Ctrl-C; a second Ctrl-C ends the process at once.

    Call it in the main thread; it sets handlers for both signals.

    Args:
        config: The configuration, from `streamlearn.config.load.load`.
        model: A river model to use instead of `[model]`.
        model_change: The answer to a journal that was written by another model: "" refuses, "fresh" begins
            anew.
        begin: True to begin a journal although there are predictions already.

    Raises:
        ConfigError: The configuration or the model must be changed.
        Unreachable: The log or the store could not be reached in time.
        Stop: A guarantee can no longer be kept.
    """
    signals = _Signals()

    import structlog

    from streamlearn.core.records import SHARD
    from streamlearn.engine.model import configured_model
    from streamlearn.env import RealEnv
    from streamlearn.log.backends import open_log, open_store
    from streamlearn.service.process import Process

    log = structlog.get_logger()
    template = configured_model(config, model)
    env = RealEnv()
    service_log = open_log(env, config)
    store = open_store(env, config, SHARD)
    # What was imported lives as long as the process: the collector need not look at it again.
    gc.freeze()
    log.info("service.started", app=config.app.name, model=template.name, model_version=template.version)
    signals.process = process = Process(env, config, template, service_log, store, model_change, begin)
    try:
        process.run()
    finally:
        store.close()
        service_log.close()
