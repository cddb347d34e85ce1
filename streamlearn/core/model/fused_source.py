"""The source of a straight-line step for `StandardScaler | LogisticRegression` or `| LinearRegression`.

Invariants:
- The text depends on the number of features, the kind of regression and whether there is an l2 penalty:
  never on a name, a value or a parameter. Names enter as closure values.
- Each number is made by the operations of river 0.26.1, in river's order, on the same operands: sums go
  over the event's features in the event's order, a deviation is `v ** 0.5`, never `sqrt`, and nothing is
  factored out.
- All that can raise or refuse comes before the first write; from there on nothing does. There is no jump
  and only one call among the writes, so no signal handler runs between two of them but there.
- Nothing is remembered between two events: each reads river's own dicts, and writes them.

The letters, each followed by a feature's number: k name, x value, m mean, v variance, w weight, t scaled
value. Without one: c the new count, d and e the deviations from the old and the new mean, z the
score before learning, h the score after the scaler has learned, g the gradient of the loss, b the intercept.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Literal

Action = Literal["step", "predict", "learn"]

LIMIT = "1e150"
"""Scores and gradients beyond it (`MAX_NUMBER`), infinities and NaN are river's. (A weight that grows beyond
all bounds gets river's bits here too; the score of the next event is then not finite.)
"""

_UNFIT = "(ArithmeticError, TypeError, ValueError, LookupError, AttributeError)"
"""What odd values raise: text, a complex deviation, an integer beyond floats, a feature that was removed."""


def fused_source(action: Action, features: int, logistic: bool, l2: bool) -> str:
    """The source of `make(scaler, regression, weights, names, exp)`, which gives the function
    `step(values, y)`, `predict(values)` or `learn(values, y)` for events with the features `names`.

    Args:
        action: The function to make. `step` predicts, then learns.
        features: The number of features, at least 1.
        logistic: True for a `LogisticRegression`, False for a `LinearRegression`.
        l2: True if the regression has an l2 penalty.
    """
    lines = [
        "def make(scaler, regression, weights, names, exp):",
        " vector = regression._weights; penalty = regression.l2",
        " schedule = regression.optimizer.lr; intercept_schedule = regression.intercept_lr",
        # A Counter's item assignment goes through Python's slots: a merge of a plain dict costs half.
        " merge = dict.update; counted = dict.fromkeys(names, 0)",
        f" {_each('k#, ', features)}= names",
        f" def {action}({'values' if action == 'predict' else 'values, y'}):",
        "  try:",
        *(f"   {line}" for line in _body(action, features, logistic, l2)),
        f"  except {_UNFIT}: return None",
        f" return {action}",
    ]
    return "\n".join(lines) + "\n"


def _each(pattern: str, features: int, between: str = "") -> str:
    """`pattern` for each feature, with the feature's number for `#`."""
    return between.join(pattern.replace("#", str(number)) for number in range(features))


def _body(action: Action, features: int, logistic: bool, l2: bool) -> Iterator[str]:
    predict, learn = action != "learn", action != "predict"
    yield _stale(l2)
    yield f"{_each('x#, ', features)}= values"
    yield "means = scaler.means; variances = scaler.vars; w = weights; b = regression.intercept"
    if learn:
        yield "counts = scaler.counts"
        yield from _label(logistic)
    yield "z = h = 0.0"
    for number in range(features):
        for line in _feature(predict, learn):
            yield line.replace("#", str(number))
    yield from _scores(predict, learn)
    if learn:
        yield from _logistic_gradient() if logistic else _linear_gradient()
        yield from _new_weights(features, l2)
    if predict and logistic:
        yield "z = 0 if z < -30 else 1 if z > 30 else 1 / (1 + exp(-z))"
    if learn:
        yield from _writes(features)
    yield "return z" if predict else "return True"


def _stale(l2: bool) -> str:
    """Refuse if the regression has another vector of weights, penalty or schedule than the step knows."""
    penalty = "regression.l2 != penalty" if l2 else "regression.l2"
    return (
        f"if regression._weights is not vector or {penalty} or regression.optimizer.lr is not schedule "
        "or regression.intercept_lr is not intercept_schedule: return None"
    )


def _feature(predict: bool, learn: bool) -> Iterator[str]:
    yield "m# = means[k#]; v# = variances[k#]; w# = w[k#]; d = x# - m#"
    if predict:
        yield "z = z + w# * (d / v# ** 0.5 if v# else 0.0)"
    if learn:
        yield "counted[k#] = c = counts[k#] + 1"
        yield "m# = m# + d / c; e = x# - m#; v# = v# + (d * e - v#) / c"
        yield "t# = t = e / v# ** 0.5 if v# else 0.0"
        yield "h = h + w# * t"


def _scores(predict: bool, learn: bool) -> Iterator[str]:
    """Add the intercept, and refuse what is no finite float: a sum with NaN or an infinity is not finite."""
    for score, is_made in (("z", predict), ("h", learn)):
        if is_made:
            yield f"{score} = {score} + b"
    yield f"s = {'z + h' if predict and learn else 'z' if predict else 'h'}"
    yield f"if type(s) is not float or not -{LIMIT} < s < {LIMIT}: return None"


def _label(logistic: bool) -> Iterator[str]:
    """Refuse a label of which river might make something else."""
    if logistic:
        yield "if y is not True and y is not False and (type(y) is not int or y not in (0, 1)): return None"
    else:
        yield "if type(y) is not float and type(y) is not int: return None"


def _logistic_gradient() -> Iterator[str]:
    yield "if y: g = -exp(-h) if h > 18.0 else -1.0 if h < -18.0 else -1.0 / (exp(h) + 1.0)"
    yield "else: g = exp(h) if h < -18.0 else 1.0 if h > 18.0 else 1.0 / (exp(-h) + 1.0)"
    yield from _clipped()


def _linear_gradient() -> Iterator[str]:
    yield "g = 2 * (h - y)"
    yield f"if not -{LIMIT} < g < {LIMIT}: return None"
    yield from _clipped()


def _clipped() -> Iterator[str]:
    yield "clip = regression.clip_gradient"
    yield "if g > clip: g = float(clip)"
    yield "elif g < -clip: g = float(-clip)"


def _new_weights(features: int, l2: bool) -> Iterator[str]:
    yield "rate = schedule.learning_rate"
    gradient = "(t# * g + penalty * w#)" if l2 else "(t# * g)"
    yield _each(f"w# = w# - rate * {gradient}; ", features)
    yield "b = b - intercept_schedule.learning_rate * g"


def _writes(features: int) -> Iterator[str]:
    yield "optimizer = regression.optimizer; i = optimizer.n_iterations + 1"
    yield "merge(counts, counted)"
    yield _each("means[k#] = m#; variances[k#] = v#; w[k#] = w#; ", features)
    yield "regression.intercept = b; optimizer.n_iterations = i"


@lru_cache(maxsize=128)
def fused_maker(action: Action, features: int, logistic: bool, l2: bool) -> Callable[..., Callable[..., Any]]:
    """The function `make` of `fused_source`, compiled: some milliseconds for ten features."""
    namespace: dict[str, Callable[..., Callable[..., Any]]] = {}
    exec(compile(fused_source(action, features, logistic, l2), f"<fused {action}>", "exec"), namespace)
    return namespace["make"]
