"""The fused way of one learner: first beside river's own, on a copy, then in its place.

Invariants:
- While it is on trial, river's own way makes each answer and each state that anybody sees. The fused way runs
  on a copy of the model, which learns the same events, and its bits are compared.
- It takes river's place after `TRIAL` equal events, and never after one that differs.
- Nothing that is published or saved depends on which way an event went.
"""

import copy
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from streamlearn.core.model.fused import FusedStep, battery, unfit

TRIAL: Final = 1_000
"""Events that the fused way learns on trial."""
TRIAL_MAX: Final = 10_000
"""Events after which a trial ends in any case: a stream of which so few events can be fused gains nothing."""
_STATE_EVERY: Final = 100
"""Events on trial between two comparisons of the whole state; each prediction shows most of it."""

Answer = TypeVar("Answer")


class Acceleration(Generic[Answer]):
    """Two calls in the place of a learner's, `predict` and `learn`, that go the fused way where they can.

    Args:
        model: The river model.
        predict: river's own way to an answer, from features and a label.
        learn: river's own way to learn.
        answer: The answer that is made from what a fused step predicts.
    """

    def __init__(
        self,
        model: Any,
        predict: Callable[..., Answer],
        learn: Callable[[dict[str, Any], Any], None],
        answer: Callable[[float], Answer],
    ) -> None:
        self.disabled = unfit(model) or battery()
        """The reason why events go river's way for ever, "" for none."""
        self.fused: FusedStep | None = None
        """The fused step of the model itself, once its trial is over. Each event may go through it, or
        through river's own methods, in any order.
        """
        self._model = model
        self._river_predict = predict
        self._river_learn = learn
        self._answer = answer
        self._copy: FusedStep | None = None
        """The fused step of the copy on trial; None before the first event, and after one that raised."""
        self._equal = 0
        self._tried = 0

    def predict(self, x: dict[str, Any], y: Any) -> Answer:
        """The model's answer."""
        if self.fused is not None:
            number = self.fused.predict(x)
            if number is not None:
                return self._answer(number)
        elif not self.disabled:
            return self._predict_on_trial(x, y)
        return self._river_predict(x, y)

    def learn(self, x: dict[str, Any], y: Any) -> None:
        """Learn one label."""
        if self.fused is None and not self.disabled:
            self._learn_on_trial(x, y)
        elif self.fused is None or not self.fused.learn(x, y):
            self._river_learn(x, y)
            if self.fused is not None:
                self.fused.reload()

    # --- on trial -------------------------------------------------------------------------------------

    def _predict_on_trial(self, x: dict[str, Any], y: Any) -> Answer:
        shadow = self._shadow()
        answer: Answer = self._river(self._river_predict, x, y)
        number = shadow.predict(x)
        if number is None:
            shadow.model.predict_one(x)  # which may note names
        elif repr(self._answer(number)) != repr(answer):
            self._end(f"the fused step of a copy predicted {number!r} where river's answer is {answer!r}")
        return answer

    def _learn_on_trial(self, x: dict[str, Any], y: Any) -> None:
        shadow = self._shadow()
        self._river(self._river_learn, x, y)
        self._tried += 1
        if shadow.learn(x, y):
            self._equal += 1
        else:
            shadow.model.learn_one(x, y)
            shadow.reload()
        is_over = self._equal == TRIAL or self._tried == TRIAL_MAX
        if (is_over or self._tried % _STATE_EVERY == 0) and shadow.state() != FusedStep.state_in(self._model):
            self._end(f"the fused step of a copy left another state within {self._tried} events")
        elif self._equal == TRIAL:
            self._end()
            self.fused = FusedStep(self._model)
        elif is_over:
            self._end(f"only {self._equal} of {self._tried} events could be fused")

    def _shadow(self) -> FusedStep:
        if self._copy is None:
            self._copy = FusedStep(copy.deepcopy(self._model))
        return self._copy

    def _river(self, call: Callable[[dict[str, Any], Any], Any], x: dict[str, Any], y: Any) -> Any:
        """Go river's way. One that raises may have left any state: the trial goes on from a copy of that."""
        shadow, self._copy = self._copy, None
        result = call(x, y)
        self._copy = shadow
        return result

    def _end(self, reason: str = "") -> None:
        self.disabled = self.disabled or reason
        self._copy = None
