"""The models that `use = "preset:NAME"` names: composed from river, for streams that nobody has tuned for.

All take numbers of any scale, strings and booleans as features, features that are missing, late or gone for
good, and drift. One wild reading or label, of any size and at any place, does no lasting harm. Seeds are
written out, so that a plain river loop over a preset gives the same bits.

`classification`: a Hoeffding tree that replaces its branches on drift (Bifet and Gavalda, 2009). A tree
    splits strings by value, numbers at any scale, and sends an event that lacks a feature the way of most;
    so numbers stay as they are, except that one alone does not widen the range of its feature
    (`SteadyClip`), and a label is learned from its third example on (`ConfirmedLabels`).

`regression`: numbers to a common scale, strings one-hot, and the target to a common scale, before the tree
    of the same kind, whose leaves hold linear models. Those diverge on unscaled features and labels: on
    river's ChickWeights R2 is -24 without scaling. They learn by the absolute error, so that a few days of
    readings far off do not draw all others along: on WaterFlow, a day late, the mean absolute error is 3.1
    where the last known value has 5.2 and the same tree by squared error more. No bootstrap, and a detector
    that is slow to cry drift, because a leaf whose linear model goes on learning follows most of it.

`anomaly`: numbers between 0 and 1, before half-space trees (Tan, Ting and Liu, 2011), which expect them
    there. It learns without labels. One reading of 1e12, the very first included, leaves the area under the
    ROC curve on Shuttle as it was; with river's `MinMaxScaler` it is 0.92 without and 0.50 with that reading.
    The trees look at the numbers and booleans that at least a tenth of the events have (`SettledForest`);
    strings are left out, as a tree that halves a range has no use for a category.

`sensors`: a classifier for readings that follow one another, with gaps, and with labels that come in blocks
    (at the end of an exercise, of an utterance). The last known reading stands in for up to 100 events; the
    tree of `classification` learns, with each label, two older examples again (`Rehearsal`). Without, its
    drift detectors take each block for a new world (scripts/presets.py measures both). About three times
    the tree's cost per event, and up to 100 examples of each label in the state.
"""

from collections.abc import Callable
from typing import Any

from streamlearn.errors import ConfigError


def preset(name: str) -> Any:
    """A fresh model of the kind `name`, composed from river; docs/presets.md has measurements.

    Args:
        name: `classification`, `regression`, `anomaly` or `sensors`.

    Returns:
        A river pipeline. Its seeds are written out, so two of one kind give the same bits.

    Raises:
        ConfigError: There is no such preset; the message names those that exist.

    Example:
        >>> model = preset("anomaly")
        >>> model.learn_one({"temp": 21.5, "mode": "eco"})
        >>> model.score_one({"temp": 21.5})
        0.0
    """
    if name not in PRESETS:
        raise ConfigError(f"[model] use = 'preset:{name}': there are the presets {', '.join(PRESETS)}.")
    return PRESETS[name]()


def _classification() -> Any:
    from streamlearn.features.clip import SteadyClip
    from streamlearn.features.labels import ConfirmedLabels

    return ConfirmedLabels(SteadyClip() | _adaptive_tree())


def _adaptive_tree() -> Any:
    from river import tree

    from streamlearn.features.labels import SortedLabels

    model = tree.HoeffdingAdaptiveTreeClassifier(seed=1)
    model.classes = SortedLabels()
    return model


def _regression() -> Any:
    from numbers import Number

    from river import compose, drift, linear_model, optim, preprocessing, tree

    from streamlearn.features.scale import SteadyScaler
    from streamlearn.features.target import SteadyTarget

    numbers = compose.SelectType(Number) | SteadyScaler()
    strings = compose.SelectType(str) | preprocessing.OneHotEncoder(drop_zeros=True)
    leaves = linear_model.LinearRegression(loss=optim.losses.Absolute())
    grown = tree.HoeffdingAdaptiveTreeRegressor(
        leaf_prediction="model",
        leaf_model=leaves,
        drift_detector=drift.ADWIN(delta=1e-4),
        bootstrap_sampling=False,
        seed=1,
    )
    return (numbers + strings) | SteadyTarget(grown)


def _anomaly() -> Any:
    from numbers import Number

    from river import compose

    from streamlearn.features.forest import SettledForest
    from streamlearn.features.scale import SteadyScaler

    return compose.SelectType(Number) | SteadyScaler(unit=True) | SettledForest()


def _sensors() -> Any:
    from streamlearn.features.clip import SteadyClip
    from streamlearn.features.gaps import LastKnown
    from streamlearn.features.labels import ConfirmedLabels
    from streamlearn.features.rehearse import Rehearsal

    return ConfirmedLabels(SteadyClip() | LastKnown() | Rehearsal(_adaptive_tree()))


PRESETS: dict[str, Callable[[], Any]] = {
    "classification": _classification,
    "regression": _regression,
    "anomaly": _anomaly,
    "sensors": _sensors,
}
