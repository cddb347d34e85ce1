"""Checkpoints: nothing changes by going through one, and nothing that is off gets as far as the pickle."""

import functools
import os
import pickle
import random
import struct
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import pytest
import zstandard
from river import (
    anomaly,
    base,
    compose,
    datasets,
    drift,
    ensemble,
    facto,
    feature_extraction,
    forest,
    imblearn,
    linear_model,
    metrics,
    model_selection,
    multiclass,
    naive_bayes,
    neighbors,
    optim,
    preprocessing,
    rules,
    tree,
)

from streamlearn.core.journal import Era
from streamlearn.core.model.learner import Learner
from streamlearn.core.shard.shard import Shard
from streamlearn.core.shard.snapshot import (
    MAGIC,
    Header,
    dump_model,
    dump_state,
    load_model,
    load_state,
    open_header,
    seal,
    trusted_by,
    unseal,
)
from streamlearn.core.shard.state import Memory, ShardSpec
from streamlearn.engine.model import fill_seeds
from streamlearn.errors import BadCheckpoint

UNDER = Era(
    "genesis", {"model_name": "m"}, "h", "v1", 1, {"river": "0"}, {"t": ("id", 1)}, [("t", 0, 0)], "fp"
)
HEADER = Header(7, "ab" * 32, 0, UNDER, [("t", 0, 42)], 5)
SECTIONS = {"model": b"model " * 50, "memory": b"{}"}


class Mine(base.Classifier):
    """A user's model, with a helper defined beside it."""

    def __init__(self) -> None:
        self.kept = [Helper()]

    def learn_one(self, x: dict[str, Any], y: Any) -> None: ...


class Helper:
    pass


def home_made() -> str:
    return "called"


def scaled(model: Any) -> Any:
    return preprocessing.StandardScaler() | model


FEW: list[Callable[[], Any]] = [
    lambda: scaled(linear_model.LogisticRegression(optim.Adam(0.01))),
    lambda: tree.HoeffdingTreeClassifier(grace_period=20),
    lambda: tree.HoeffdingAdaptiveTreeClassifier(grace_period=20, seed=1),
    lambda: forest.ARFClassifier(n_models=3, seed=1),
    naive_bayes.GaussianNB,
    lambda: neighbors.KNNClassifier(n_neighbors=3),
    lambda: scaled(tree.HoeffdingTreeRegressor(grace_period=20)),
    lambda: preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(n_trees=5, seed=1),
]
MANY: list[Callable[[], Any]] = [
    lambda: scaled(linear_model.PAClassifier()),
    lambda: scaled(linear_model.ALMAClassifier()),
    lambda: scaled(linear_model.Perceptron()),
    lambda: scaled(linear_model.SoftmaxRegression()),
    lambda: scaled(linear_model.LinearRegression(optim.AdaGrad())),
    lambda: scaled(linear_model.PARegressor()),
    lambda: scaled(linear_model.BayesianLinearRegression()),
    lambda: scaled(facto.FMRegressor(seed=1)),
    lambda: scaled(facto.HOFMClassifier(seed=1)),
    lambda: tree.ExtremelyFastDecisionTreeClassifier(grace_period=20),
    lambda: tree.HoeffdingAdaptiveTreeRegressor(grace_period=20, seed=1),
    lambda: tree.SGTClassifier(grace_period=20),
    lambda: tree.SGTRegressor(grace_period=20),
    lambda: forest.ARFRegressor(n_models=3, seed=1),
    lambda: forest.AMFClassifier(n_estimators=3, seed=1),
    lambda: forest.AMFRegressor(n_estimators=3, seed=1),
    lambda: forest.OXTRegressor(n_models=3, seed=1),
    lambda: ensemble.SRPClassifier(n_models=3, seed=1),
    lambda: ensemble.BaggingClassifier(tree.HoeffdingTreeClassifier(), n_models=3, seed=1),
    lambda: ensemble.ADWINBaggingClassifier(naive_bayes.GaussianNB(), n_models=3, seed=1),
    lambda: ensemble.LeveragingBaggingClassifier(naive_bayes.GaussianNB(), n_models=3, seed=1),
    lambda: ensemble.AdaBoostClassifier(tree.HoeffdingTreeClassifier(), n_models=3, seed=1),
    lambda: ensemble.EWARegressor([linear_model.LinearRegression(), tree.HoeffdingTreeRegressor()]),
    lambda: ensemble.VotingClassifier([naive_bayes.GaussianNB(), tree.HoeffdingTreeClassifier()]),
    naive_bayes.BernoulliNB,
    neighbors.KNNRegressor,
    lambda: multiclass.OneVsRestClassifier(linear_model.LogisticRegression()),
    lambda: multiclass.OutputCodeClassifier(linear_model.LogisticRegression(), code_size=6, seed=1),
    lambda: imblearn.RandomUnderSampler(naive_bayes.GaussianNB(), {False: 0.5, True: 0.5}, seed=1),
    lambda: drift.DriftRetrainingClassifier(naive_bayes.GaussianNB(), drift.binary.DDM()),
    lambda: rules.AMRules(n_min=20),
    lambda: model_selection.GreedyRegressor(
        [linear_model.LinearRegression(), tree.HoeffdingTreeRegressor()], metrics.MAE()
    ),
    lambda: preprocessing.MinMaxScaler() | anomaly.QuantileFilter(anomaly.HalfSpaceTrees(seed=1), q=0.9),
    lambda: anomaly.LocalOutlierFactor(n_neighbors=5),
    anomaly.OneClassSVM,
    lambda: (
        preprocessing.RobustScaler()
        | feature_extraction.RBFSampler(seed=1)
        | linear_model.LogisticRegression()
    ),
]


def label_for(learner: Learner, row: dict[str, Any], y: Any) -> Any:
    return sum(row.values()) if learner.task == "regression" else bool(y)


def answers(make: Callable[[], Any], every: int) -> list[Any]:
    """The answers over some events; the model goes through its pickle at every so many of them."""
    model = make()
    fill_seeds(model, "app")
    learner = Learner(model)
    trusted = trusted_by(dump_model(model))
    found = []
    for n, (x, y) in enumerate(islice(datasets.Phishing(), 600)):
        if n % every == every - 1:
            learner = Learner(load_model(dump_model(learner.model), trusted))
        label = label_for(learner, x, y)
        answer = learner.predict(x, label)
        found.append((answer.prediction, answer.detail))
        learner.learn(x, label)
    return found


@pytest.mark.parametrize(
    "make",
    [pytest.param(make, id=str(make())[:50]) for make in FEW]
    + [pytest.param(make, id=str(make())[:50], marks=pytest.mark.slow) for make in MANY],
)
def test_a_model_goes_on_through_its_pickle_as_if_nothing_had_happened(make: Callable[[], Any]) -> None:
    assert answers(make, every=50) == answers(make, every=10**9)


def test_the_pickle_leaves_out_the_generators_that_nothing_draws_from() -> None:
    model = tree.HoeffdingTreeClassifier()
    for x, y in datasets.Phishing():
        model.learn_one(x, y)
    assert len(dump_model(model)) * 10 < len(pickle.dumps(model))


SPEC = ShardSpec("m", "v", 1)


def test_a_state_comes_back_whole() -> None:
    memory = Memory(records=9, time_unit="ms", label_type="int", raised_at=[3], outcomes={"prediction": 9})
    sections = dump_state(Shard(SPEC, Learner(naive_bayes.GaussianNB()), memory))
    header, opened = unseal(seal(HEADER, sections, b"key"), b"key")
    restored = load_state(SPEC, opened, frozenset())
    assert (type(restored.learner.model), restored.memory) == (naive_bayes.GaussianNB, memory)
    assert (header.seq, header.digest, header.under) == (7, HEADER.digest, UNDER)
    assert header.next_offsets() == {("t", 0): 42}
    assert open_header(seal(HEADER, sections)).seq == 7


# --- refusal before unpickling --------------------------------------------------------------------------


@pytest.mark.parametrize("key", [b"", b"secret"])
def test_a_checkpoint_with_any_byte_changed_is_refused(key: bytes) -> None:
    whole = seal(HEADER, SECTIONS, key)
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1 + at % 255
        with pytest.raises(BadCheckpoint, match=r"begin|cut short|seal"):
            unseal(bytes(changed), key)


def test_a_checkpoint_cut_anywhere_or_made_longer_is_refused() -> None:
    whole = seal(HEADER, SECTIONS)
    for size in range(len(whole)):
        with pytest.raises(BadCheckpoint, match=r"begin|cut short|seal"):
            unseal(whole[:size])
    with pytest.raises(BadCheckpoint, match="seal"):
        unseal(whole + b"\0")


@pytest.mark.parametrize(("made", "opened"), [(b"a", b"b"), (b"a", b""), (b"", b"b")])
def test_a_checkpoint_under_another_key_is_refused(made: bytes, opened: bytes) -> None:
    with pytest.raises(BadCheckpoint, match="key"):
        open_header(seal(HEADER, SECTIONS, made), opened)


def forged(header: Header, payload: bytes) -> bytes:
    """A checkpoint by somebody who knows the format: without a key, the seal holds."""
    from streamlearn.core.shard import snapshot

    head = snapshot.msgspec.json.encode(header)
    prefix = MAGIC + len(head).to_bytes(4, "big") + head
    return prefix + snapshot._seal([prefix, payload], b"") + payload


def test_a_section_that_is_not_its_hash_is_refused() -> None:
    header = open_header(seal(HEADER, SECTIONS))
    size = sum(map(len, SECTIONS.values()))
    payload = zstandard.compress(b"".join(SECTIONS.values()).replace(b"model", b"mOdel", 1))
    with pytest.raises(BadCheckpoint, match=r"'model'.*hash"):
        unseal(forged(header, payload))
    for wrong in (b"not zstd", zstandard.compress(b"x" * (size - 1)), zstandard.compress(b"x" * (1 << 26))):
        with pytest.raises(BadCheckpoint, match="payload"):
            unseal(forged(header, wrong))


def test_a_state_with_a_section_missing_or_mistyped_is_refused() -> None:
    good = dump_state(Shard(SPEC, Learner(naive_bayes.GaussianNB()), Memory()))
    with pytest.raises(BadCheckpoint, match="model"):
        load_state(SPEC, {"memory": good["memory"]}, frozenset())
    with pytest.raises(BadCheckpoint, match="memory"):
        load_state(SPEC, {**good, "memory": b'{"records":"many"}'}, frozenset())


# --- the unpickler --------------------------------------------------------------------------------------


def named(module: str, name: str) -> bytes:
    """The pickle instructions that fetch a global."""
    return b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, name)) + b"\x93"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def called(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


GETATTR = named("builtins", "getattr")


def attacks(proof: str) -> dict[str, bytes]:
    """Pickles that would leave the file `proof` behind, or get hold of what could."""
    return {
        "os.system": called(named("os", "system"), text(f"touch {proof}")),
        "posix.system": called(named("posix", "system"), text(f"touch {proof}")),
        "eval": called(named("builtins", "eval"), text(f"open('{proof}', 'w')")),
        "exec": called(named("builtins", "exec"), text(f"open('{proof}', 'w')")),
        "open": called(named("builtins", "open"), text(proof), text("w")),
        "import": called(named("builtins", "__import__"), text("os")),
        "subprocess": called(named("subprocess", "run"), text(f"touch {proof}")),
        "a module through river": named("river.base.base", "sys.modules"),
        "a function through river": named("river.base.base", "inspect.getsource"),
        "a dunder of river's own": named("river.compose", "Pipeline.__init__"),
        "a dunder through river": named("river.base.base", "Base.__subclasses__"),
        "getattr of a class": called(GETATTR, named("river.base.base", "Base"), text("__subclasses__")),
        "getattr of a builtin": called(GETATTR, named("builtins", "str"), text("format")),
        "getattr of getattr": called(GETATTR, GETATTR, text("__self__")),
        "getattr of a function": called(
            GETATTR, named("river.proba", "Gaussian.update"), text("__globals__")
        ),
        "partial of os.system": called(
            named("functools", "partial"), named("os", "system"), text(f"touch {proof}")
        ),
        "river's cache of pickles": called(named("river.stream", "Cache"), text("/")),
        "river's cache, roundabout": called(named("river", "stream.Cache"), text("/")),
        "river's readers": named("river.stream", "iter_csv"),
        "river's downloads": named("river.datasets", "MaliciousURL"),
        "river's downloads, roundabout": named("river.api", "datasets.MaliciousURL.download"),
        "numpy.load": called(named("numpy", "load"), text(proof)),
        "numpy's loads": called(named("numpy", "loads"), text("x")),
        "numpy's memmap": called(named("numpy", "memmap"), text(proof)),
        "fromfile": called(named("numpy._core.multiarray", "fromfile"), text(proof)),
        "f2py": called(named("numpy.f2py", "compile"), text("x")),
        "pickle itself": called(named("pickle", "loads"), b"C\x01."),
        "our own module": named("streamlearn.core.shard.snapshot", "load_model"),
        "a user's package that is not in use": named(__name__, "home_made"),
        "a code object": named("types", "CodeType"),
        "a persistent id": text("x") + b"Q",
        "an extension": b"\x82\x01",
    }


@pytest.mark.parametrize("attack", attacks(""))
def test_a_malicious_pickle_is_refused_and_nothing_is_executed(attack: str, tmp_path: Any) -> None:
    proof = tmp_path / "proof"
    with pytest.raises(BadCheckpoint):
        load_model(b"\x80\x05" + attacks(str(proof))[attack] + b".")
    assert not proof.exists()


class Calls:
    """A pickle that calls a function when it is loaded."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.how = function, arguments

    def __reduce__(self) -> Any:
        return self.how


def test_a_model_that_hides_a_call_deep_inside_is_refused(tmp_path: Any) -> None:
    model = naive_bayes.GaussianNB()
    model.hidden = {"a": [Calls(os.mkdir, str(tmp_path / "proof"))]}
    with pytest.raises(BadCheckpoint, match=r"mkdir"):
        load_model(dump_model(model))
    assert not (tmp_path / "proof").exists()


def test_a_users_package_is_trusted_for_what_is_defined_in_it() -> None:
    trusted = trusted_by(dump_model(Mine()))
    assert __name__.split(".")[0] in trusted
    restored = load_model(dump_model(Mine()), trusted)
    assert isinstance(restored.kept[0], Helper)
    for name in ("os.system", "load_model", "functools.partial", "pickle.loads", "Mine.__subclasses__"):
        with pytest.raises(BadCheckpoint, match="not defined in"):
            load_model(b"\x80\x05" + named(__name__, name) + b".", trusted)


def test_of_the_standard_library_only_what_the_fresh_model_holds_is_trusted() -> None:
    model = Mine()
    model.kept = [functools.reduce, random.Random(1), np.random.default_rng(1)]
    trusted = trusted_by(dump_model(model))
    assert "_functools:reduce" in trusted
    assert load_model(dump_model(model), trusted).kept[0] is functools.reduce
    with pytest.raises(BadCheckpoint, match="cmp_to_key"):
        load_model(pickle.dumps(functools.cmp_to_key), trusted)


@pytest.mark.parametrize("data", [b"", b".", b"\x80\x05", b"garbage", b"\x80\x05K\x01K\x02.", b"\x80\xff."])
def test_a_pickle_that_is_none_is_refused(data: bytes) -> None:
    try:
        assert load_model(data) == 2  # a number is harmless
    except BadCheckpoint as refused:
        assert str(refused)


def test_a_pipeline_of_functions_and_selectors_comes_back() -> None:
    model = compose.Select("a") | compose.FuncTransformer(functools.partial(dict)) | naive_bayes.GaussianNB()
    model.learn_one({"a": 1}, True)
    restored = load_model(dump_model(model))
    assert restored.predict_proba_one({"a": 1}) == model.predict_proba_one({"a": 1})


@pytest.mark.parametrize(
    ("formats", "why"),
    [
        ({"memory": 2}, r"'memory' of format 1, and of this version that it reads format 2"),
        ({"memory": None}, r"'memory' of format 1, and of this version that it knows no such part"),
    ],
)
def test_a_part_of_another_format_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, formats: dict[str, int | None], why: str
) -> None:
    from streamlearn.core.shard import snapshot

    data = seal(HEADER, SECTIONS)
    reads = {**snapshot._FORMATS, **formats}
    monkeypatch.setattr(snapshot, "_FORMATS", {name: one for name, one in reads.items() if one is not None})
    with pytest.raises(BadCheckpoint, match=why):
        unseal(data)
