"""River's models through `serve`, kill -9 and a restart: the answers of a plain river loop, bit for bit.

A few of them in every run, all with `scripts/test --all`; `pytest tests/test_zoo.py -rP` prints a row each.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest
import zoo
from service_process import START_S, App

from streamlearn.core.model.learner import model_task

NAME = "zoo"
AT_ONCE = 4
FEW = (
    *("scaler_logistic", "forest_ARFClassifier", "preset_regression", "scaler_halfspace_quantile"),
    *("anomaly_GaussianScorer", "cluster_KMeans", "time_series_HoltWinters", "squares_snarimax"),
    *("words_multinomial", "tfidf_complement"),
)


class Run:
    """What one model's app published, and what its checkpoints took."""

    def __init__(self, name: str, folder: Path) -> None:
        folder.mkdir()
        shutil.copy(zoo.__file__, folder / "zoo.py")
        horizon = zoo.HORIZONS.get(name, 1)
        extra = {"model.use": f"zoo:MODELS.{name}", "model.horizon": horizon, "checkpoint.interval_s": 0.5}
        self.app = App(folder, NAME, "", **extra, **{"transaction.max_records": 20})
        self.rows = [{"features": x, "label": y} for x, y in zoo.events(zoo.MAKERS[name]())]
        try:
            self._live()
        finally:
            self.app.close()

    def _checkpoints(self) -> list[Path]:
        return [path for path in self.app.folder.glob("log.db.checkpoints/**/*") if path.is_file()]

    def _live(self) -> None:
        """Serve a third; at the checkpoint after it, the second third, and a kill in the midst of that."""
        app, third = self.app, len(self.rows) // 3
        app.produce(self.rows[:third])
        process = app.serve()
        app.wait(process, third)
        deadline_s = time.monotonic() + START_S
        while len(self._checkpoints()) < 2:  # one is of the beginning
            assert time.monotonic() < deadline_s, app.log[-3000:]
            time.sleep(0.02)
        app.produce(self.rows[third : 2 * third])
        app.wait(process, third + third // 4)
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.served_before = app.outcomes()
        app.produce(self.rows[2 * third :])
        process = app.serve()
        app.wait(process, len(self.rows))
        app.stop(process)
        self.predictions = app.predictions()
        self.dead = app.dead_letters()
        self.bytes = max(path.stat().st_size for path in self._checkpoints())


def plain_loops(names: list[str], out: Path) -> None:
    """All plain loops, in one process of their own with the hash seed that `serve` gives itself."""
    env = {**os.environ, "PYTHONHASHSEED": "0"}
    subprocess.run([sys.executable, zoo.__file__, NAME, str(out), *names], env=env, check=True)


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The runs of the models that are tested now, two at a time, while the first ones are compared."""
    items = [item for item in request.session.items if getattr(item, "originalname", "") == COMPARED]
    names = [item.callspec.params["name"] for item in items]  # type: ignore[attr-defined]
    folder = tmp_path_factory.mktemp("zoo")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        plain = pool.submit(plain_loops, names, folder)
        found: dict[str, Future[Run]] = {name: pool.submit(Run, name, folder / name) for name in names}

        def run_of(name: str) -> tuple[Run, list[dict[str, Any]]]:
            plain.result()
            return found[name].result(), orjson.loads((folder / f"{name}.json").read_bytes())

        yield run_of
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(
    "name",
    [*FEW, *(pytest.param(name, marks=pytest.mark.slow) for name in zoo.MAKERS if name not in FEW)],
)
def test_a_model_killed_and_restored_answers_as_a_plain_river_loop(runs: Any, name: str) -> None:
    run, expected = runs(name)
    assert run.dead == []
    told = ("prediction", "probabilities", "score", "forecast")
    answers = [{member: body[member] for member in told if member in body} for body in run.predictions]
    assert answers == expected
    assert len({orjson.dumps(answer) for answer in answers}) > 1, (
        "a model that always says the same shows nothing"
    )
    assert run.served_before < len(answers)
    task = model_task(zoo.MAKERS[name]())
    print(f"| {name} | {task} | {len(answers)} | yes | {run.bytes:,} |")


COMPARED = test_a_model_killed_and_restored_answers_as_a_plain_river_loop.__name__


def test_the_page_of_models_names_every_one_of_river() -> None:
    page = (Path(__file__).parent.parent / "docs" / "models.md").read_text()
    served, refused = page.split("## Refused")
    for name, kind in zoo.kinds().items():
        shown = f"`{name.removesuffix(kind.__name__)[:-1]}.{kind.__name__}`"
        assert shown in (served if name in zoo.MAKERS else refused), shown
    assert served.count("| yes |") == len(zoo.MAKERS)
