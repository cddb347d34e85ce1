"""`streamlearn serve`: prepare the process (environment, path, logs), then hand over to the service."""

import os
import platform
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamlearn.cli import common, options
from streamlearn.cli.log import topics
from streamlearn.cli.options import ConfigOptions
from streamlearn.errors import ConfigError, Stop

if TYPE_CHECKING:
    from streamlearn.config.schema import Config

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_MARK = "STREAMLEARN_STARTED_AGAIN"
_NO_FMA = "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX512F"
# NumPy has kernels of its own for exp, log and the like, chosen by CPU; these are all the kinds that its
# versions from 1.26 on know. It disables those it has and passes over the rest.
_NUMPY_KERNELS = (
    "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR X86_V3 X86_V4"
)
_CORE_TYPES = {"x86_64": "Nehalem", "amd64": "Nehalem", "aarch64": "ARMV8", "arm64": "ARMV8"}


def serve(
    *,
    inputs: options.Inputs = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="TOPIC", help="Where predictions go.")
    ] = None,
    model: options.Model = None,
    name: options.Name = None,
    replica: Annotated[
        str | None, typer.Option(metavar="NAME", help="This replica's own name, for a quick restart.")
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="CHECKPOINT", help="Begin trained: file:DIR@latest, file:DIR@SEQ or a file."
        ),
    ] = None,
    model_change: Annotated[
        str, typer.Option(metavar="HOW", help="What to do when the model was changed: fresh.")
    ] = "",
    begin: Annotated[
        bool, typer.Option("--begin", help="Begin a journal although there are predictions already.")
    ] = False,
    app_dir: options.AppDir = None,
    config: ConfigOptions,
) -> None:
    """Read events, predict, learn, publish predictions; until stopped."""
    flags: dict[str, object] = {"topics_input": inputs, "topics_predictions": output, "model_use": model}
    flags |= {"model_start_from": start_from, "app_name": name, "app_replica": replica}
    # Held back until the service, which knows how to stop, takes them: also across the execve.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        _check_model_change(model_change)
        if app_dir and not app_dir.is_dir():
            raise ConfigError(f"--app-dir {app_dir}: there is no such folder")
        settings = config.settings(need_input=True, **flags)
        start_again(settings.app.portable_math)
        _serve(settings, app_dir, model_change, begin)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _serve(settings: "Config", app_dir: Path | None, model_change: str, begin: bool) -> None:
    """In a process whose environment is right."""
    sys.path.insert(0, str((app_dir or Path()).resolve()))

    from streamlearn.observe import logs

    logs.setup(common.ENV)
    if settings.log.backend == "embedded":
        topics.make_in_file(settings)
    common.look_for_broker(settings)
    from streamlearn.service import serve as run

    run(settings, model_change=model_change, begin=begin)


def _check_model_change(change: str) -> None:
    if change in ("rival", "relearn"):
        raise ConfigError(f"--model-change {change} comes in a later version; this one knows: fresh")
    if change not in ("", "fresh"):
        raise ConfigError(f"--model-change {change}: must be fresh (drop the old model, begin a new one)")


def start_again(portable_math: bool) -> None:
    """Execute this very command again under the environment that makes its arithmetic repeatable.

    These variables work only from the start of a process, so this comes before numpy and river.
    """
    needed = repeatable_environment(portable_math, os.environ, platform.machine())
    again = os.environ.pop(_MARK, "")  # not for the processes that we start
    if all(os.environ.get(name) == value for name, value in needed.items()):
        return
    if again:
        raise Stop(f"something resets {', '.join(needed)} when python starts: set them as {needed} yourself")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **needed, _MARK: "1"})


def repeatable_environment(
    portable_math: bool, environment: "os._Environ[str] | dict[str, str]", machine: str
) -> dict[str, str]:
    """The variables under which the same records give the same bits: on this host by a fixed order of
    sets, with `portable_math` also on CPUs of other kinds, by code paths that all of them have.
    """
    needed = {"PYTHONHASHSEED": "0"}
    if not portable_math:
        return needed
    core_type = _CORE_TYPES.get(machine.lower())
    if core_type is None:
        machines = ", ".join(sorted(_CORE_TYPES))
        raise ConfigError(f"app.portable_math = true: known for {machines}, not for this machine, {machine}")
    needed |= {"OPENBLAS_CORETYPE": core_type, "OPENBLAS_NUM_THREADS": "1"}
    if core_type == "Nehalem":
        tunables = environment.get("GLIBC_TUNABLES", "").split(":")
        others = [word for word in tunables if word and not word.startswith("glibc.cpu.hwcaps=")]
        needed["GLIBC_TUNABLES"] = ":".join([*others, _NO_FMA])
        needed["NPY_DISABLE_CPU_FEATURES"] = _NUMPY_KERNELS
    return needed
