"""Texts that a vectorizer of the model takes apart: each may be another, and none is a category."""

from typing import Any

import orjson
import pytest
from river import (
    anomaly,
    compose,
    ensemble,
    feature_extraction,
    linear_model,
    naive_bayes,
    preprocessing,
    stats,
)

from streamlearn.core.model.learner import Learner, text_fields
from streamlearn.core.records import Record
from streamlearn.core.shard.facts import published
from streamlearn.core.shard.guard import GuardSpec
from streamlearn.core.shard.shard import Shard
from streamlearn.core.shard.state import Memory, ShardSpec

BAG, TFIDF = feature_extraction.BagOfWords, feature_extraction.TFIDF


def shard(model: Any) -> Shard:
    return Shard(
        ShardSpec("m", "v", 1, guard=GuardSpec(string_length=50, categories=5)), Learner(model), Memory()
    )


def record(n: int, **x: Any) -> Record:
    value = orjson.dumps({"id": f"e{n}", "features": x, "label": n % 2 == 0})
    return Record("events", 0, n, 1_900_000_000_000, None, value)


@pytest.mark.parametrize("first", ["12", "none", "A pump", "21.50"])
def test_any_text_of_any_length_is_learned_and_none_is_remembered(first: str) -> None:
    model = BAG(on="text") | naive_bayes.MultinomialNB()
    one, plain = shard(model), BAG(on="text") | naive_bayes.MultinomialNB()
    texts = [first, *(f"{n + 10}" if n % 3 else f"noise {n} " * 20 for n in range(200))]
    for n, text in enumerate(texts):
        x = {"text": text}
        (out,) = published(one.step(record(n, **x)))
        told = orjson.loads(out.value or b"")
        assert sorted(told["probabilities"].values()) == sorted(plain.predict_proba_one(x).values())
        plain.learn_one(x, n % 2 == 0)
    assert one.memory.learned == len(texts)
    assert one.memory.types["text"].texts == set()


def test_other_fields_keep_their_bounds_and_a_number_is_no_text() -> None:
    one = shard(BAG(on="text") | naive_bayes.MultinomialNB())
    for n in range(30):
        one.step(record(n, text=f"word{n}", kind=f"k{n % 5}"))
    one.step(record(30, text="word", kind="another"))
    one.step(record(31, text="word", kind="k" * 51))
    one.step(record(32, text=12, kind="k1"))
    one.step(record(33, text="12", kind="k1"))
    assert one.memory.outcomes == {
        "prediction": 31,
        "dlq.guard.too_many_categories": 1,
        "dlq.guard.text_too_long": 1,
        "dlq.guard.feature_type": 1,
    }


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (BAG(on="a") | naive_bayes.MultinomialNB(), {"a"}),
        ((BAG(on="a") + TFIDF(on="b")) | naive_bayes.ComplementNB(), {"a", "b"}),
        ((compose.Select("b") | TFIDF(on="b")) + BAG(on="a") | naive_bayes.ComplementNB(), {"a", "b"}),
        (ensemble.BaggingClassifier(TFIDF(on="a") | linear_model.LogisticRegression(), seed=1), {"a"}),
        (
            ensemble.VotingClassifier([BAG(on=name) | naive_bayes.MultinomialNB() for name in "ab"]),
            {"a", "b"},
        ),
        (anomaly.QuantileFilter(BAG(on="a") | anomaly.HalfSpaceTrees(seed=1), q=0.9), {"a"}),
        (feature_extraction.TargetAgg(by="k", how=stats.Mean()) | linear_model.LinearRegression(), set()),
        (compose.FuncTransformer(dict.copy) | BAG() | naive_bayes.MultinomialNB(), set()),
        (preprocessing.StandardScaler() | linear_model.LogisticRegression(), set()),
    ],
)
def test_the_model_says_which_fields_are_texts(model: Any, fields: set[str]) -> None:
    assert text_fields(model) == fields
