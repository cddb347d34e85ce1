"""`streamlearn.run`: the service in memory gives what a plain river loop gives, and undoes what raises."""

from typing import Any

import pytest
from river import linear_model, preprocessing, tree

import streamlearn
from streamlearn.errors import ConfigError
from tests.test_service import answers, events, logistic, plain_loop


class Touchy(linear_model.LogisticRegression):
    """Raises in the middle of learning, after it has changed."""

    def learn_one(self, x: dict[str, Any], y: Any) -> None:
        super().learn_one(x, y)
        if "poison" in x:
            raise RuntimeError("poisoned")


@pytest.mark.parametrize("build", [logistic, lambda: tree.HoeffdingTreeClassifier(grace_period=50)])
def test_it_answers_as_a_plain_river_loop(build: Any) -> None:
    stream = events(2500)
    assert answers(list(streamlearn.run(build(), stream))) == plain_loop(build(), stream)


def test_an_event_that_makes_the_model_raise_is_a_dead_letter_and_leaves_no_trace() -> None:
    stream = events(2300)
    for i in (500, 501, 1700):
        stream[i]["features"]["poison"] = 1
    found = list(streamlearn.run(preprocessing.StandardScaler() | Touchy(), stream))
    letters = [answer for answer in found if "dead_letter" in answer]
    assert [letter["source"]["offset"] for letter in letters] == [500, 501, 1700]
    assert letters[0]["dead_letter"] == {"stage": "learn", "reason": "raised"}
    good = [event for i, event in enumerate(stream) if i not in (500, 501, 1700)]
    assert answers([answer for answer in found if "id" in answer]) == plain_loop(logistic(), good)


def test_a_model_that_cannot_be_served_is_refused() -> None:
    with pytest.raises(ConfigError, match="StandardScaler"):
        list(streamlearn.run(preprocessing.StandardScaler(), []))
