"""What a checkpoint's model may hold, and that nothing in it is run: hostile pickles, written by hand."""

import inspect
import math
import operator
import pickle
import random
import struct
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from river import naive_bayes, stats, utils
from service_process import Apps, apps

import streamlearn
from streamlearn.core.model.pickle_names import CLASSES, HARMLESS, NAMED
from streamlearn.core.model.pickle_parts import _bits
from streamlearn.core.model.pickles import dump_model, load_model, trusted_by
from streamlearn.core.shard.snapshot import seal, unseal
from streamlearn.errors import BadCheckpoint, ConfigError
from tests.faulty_log import name_anew

__all__ = ["apps"]

TOOLS = "streamlearn.core.model.pickles"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def named(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def called(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def tool(name: str, *arguments: bytes) -> bytes:
    return called(named(TOOLS, name), *arguments)


def kind(module: str, name: str) -> bytes:
    return tool("kind", text(module), text(name), b"\x89")


def instance(module: str, name: str) -> bytes:
    return tool("make", kind(module, name))


def mapping(**values: bytes) -> bytes:
    return b"}(" + b"".join(text(name) + value for name, value in values.items()) + b"u"


GETATTR = named("builtins", "getattr")
ROLLING = named("river.utils.rolling", "Rolling")
NB = ("river.naive_bayes.gaussian", "GaussianNB")


def through_rolling(owner: bytes, name: str) -> bytes:
    """`getattr(Rolling(owner), name)`: `BaseRolling.__getattr__` asks the owner."""
    return called(GETATTR, ROLLING + b")\x81" + mapping(obj=owner) + b"b", text(name))


def by_frames(proof: str) -> bytes:
    """A generator's frame, its builtins, `eval`: nothing but river is named."""
    generator = called(named("river.tree.base", "Branch.iter_leaves"), b"N")
    frame = through_rolling(generator, "gi_frame")
    get = through_rolling(through_rolling(frame, "f_builtins"), "get")
    return called(called(get, text("eval")), text(f"__import__('os').system('touch {proof}')"))


def attacks(proof: str) -> dict[str, bytes]:
    shell = text(f"touch {proof}")
    system = named("os", "system")
    forwarder = tool("make", kind("river.utils.rolling", "Rolling"))
    call = partial(called, instance("river.optim.losses", "Squared"))
    return {
        "a generator's frame": by_frames(proof),
        "set state of a class": named("river.base.base", "Base") + mapping(x=b"N") + b"b",
        "set state of an instance": instance(*NB) + mapping(__class__=system) + b"b",
        "new by its opcode": named(*NB) + b")\x81",
        "new with names": named(*NB) + b")}\x92",
        "a class as a function": called(named(*NB)),
        "an instance as a function": call(b"K\x01", b"K\x02"),
        "a forwarder": forwarder,
        "a partial of a command": tool("partial", system, shell + b"\x85", b"}", b"\x88"),
        "a partial of a partial": tool(
            "partial", tool("partial", named("builtins", "eval"), b")", b"}", b"\x88"), b")", b"}", b"\x88"
        ),
        "a partial of a tool": tool("partial", named(TOOLS, "own"), b")", b"}", b"\x88"),
        "a factory that is a command": tool("part", text("collections:defaultdict"), system),
        "a factory that is a tool": tool("part", text("collections:defaultdict"), named(TOOLS, "own")),
        "a constructor of its own": tool("own", system, shell),
        "a constructor of river": tool("own", named(*NB)),
        "a table that is asked for more": tool("part", text("os:system"), shell),
        "a class among the functions": kind("copy", "deepcopy"),
        "deepcopy": called(named("copy", "deepcopy"), b"]"),
        "a dunder in a state": tool("fill", instance(*NB), mapping(__deepcopy__=named("copy", "deepcopy")))
        + tool("made", kind(*NB), mapping(__reduce_ex__=b"N")),
        "a property in a state": tool("made", kind("river.base.estimator", "Estimator"), mapping(_tags=b"N")),
        "a dunder among attributes": tool("made", kind(*NB), mapping(__deepcopy__=b"N")),
        "a class among attributes": tool("made", kind(*NB), mapping(__class__=named(*NB))),
        "a state of a function": tool("fill", named("copy", "deepcopy"), mapping(x=b"N")),
        "a state of a tool": tool("fill", named(TOOLS, "fill"), mapping(f=b"N")),
        "a state of a class": tool("fill", named(*NB), mapping(learn_one=b"N")),
        "a method of texts": tool("value", text("builtins"), text("str.lower")),
        "a method that formats": tool("value", text("builtins"), text("str.format")),
        "a method of an interpreter's dunder": tool("value", text("builtins"), text("str.lower.__call__")),
        "a getter": tool("part", text("operator:attrgetter"), text("gi_frame.f_builtins")),
        "a caller": tool("part", text("operator:methodcaller"), text("__getattribute__"), text("__class__")),
        "a private method": tool("bind", instance(*NB), text("__init__")),
        "a method that is none": tool("bind", instance(*NB), text("_tags")),
        "a method of a builtin": tool("bind", text("{0.__class__}"), text("format")),
        "a method of a generator": tool("bind", tool("part", text("random:Random"), b"N"), text("seed")),
        "a method out of an instance": tool(
            "bind", tool("made", kind(*NB), mapping(ask=named("copy", "deepcopy"))), text("ask")
        ),
        "appending to an instance": instance(*NB) + b"(" + shell + b"e",
        "setting items of an instance": instance(*NB) + b"(" + shell + b"Nu",
        "a persistent id": shell + b"Q",
        "an extension": b"\x82\x01",
        "an old instance": b"(ios\nsystem\n",
        "an old object": b"(" + system + shell + b"o",
        "an old global": b"cos\nsystem\n" + b"(" + shell + b"tR",
        "a dotted name": named("river.base.base", "inspect.builtins.eval"),
        "a module": named("river", "base"),
        "a memo of gigabytes": b"Nr\xff\xff\xff\x7f",
        "bytes that are asked for": called(named("builtins", "bytearray"), b"J\xff\xff\xff\x7f"),
        "numbers of gigabytes": tool(
            "make", kind("river._river_rust.drift", "AdaptiveWindowing"), b"G" + struct.pack(">d", 0.1),
            *[b"J" + struct.pack("<i", 2**31 - 1)] * 4,
        ),
        "an array of objects": tool(
            "part", text("numpy.array"), text("|O8"), b"K\x01\x85", text("C"), b"\x96" + bytes(8) + b""
        ),
        "numpy's buffers": called(named("numpy._core.numeric", "_frombuffer"), b"N"),
        "containers without end": b"\x8f" * (4 << 20),
    }  # fmt: skip


def hostile(body: bytes) -> bytes:
    """It stands inside a model that is good for the rest."""
    return b"\x80\x05" + tool("made", kind(*NB), mapping(part=body)) + b"."


@pytest.mark.parametrize("name", attacks(""))
@pytest.mark.parametrize("wrap", [hostile, lambda body: b"\x80\x05" + body + b"."], ids=["inside", "alone"])
def test_a_hostile_pickle_is_refused_and_nothing_runs(
    name: str, wrap: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    proof = tmp_path / "proof"
    body = attacks(str(proof))[name]
    try:
        found = load_model(wrap(body))
    except BadCheckpoint:
        found = None
    assert not proof.exists()
    assert found is None, f"{name}: {found!r}"


def test_the_attack_works_on_pythons_own_unpickler(tmp_path: Path) -> None:
    """So the bytes of the first attack are right; here it may run."""
    proof = tmp_path / "proof"
    pickle.loads(b"\x80\x05" + by_frames(str(proof)) + b".")
    assert proof.exists()


def test_what_a_fresh_model_holds_may_be_in_its_checkpoint_and_no_more() -> None:
    model = naive_bayes.GaussianNB()
    model.window = utils.Rolling(stats.Mean, window_size=3)
    model.fold = defaultdict(partial(utils.Rolling, stats.Var, window_size=2, ddof=0))
    trusted = trusted_by(dump_model(model))
    restored = load_model(dump_model(model), trusted)
    assert restored.window.window_size == 3
    restored.fold["a"].update(4.0)
    assert restored.fold["a"].get() == 0.0
    with pytest.raises(BadCheckpoint, match="Rolling"):
        load_model(dump_model(model))
    with pytest.raises(BadCheckpoint, match="not allowed"):
        load_model(b"\x80\x05" + by_frames("x") + b".", trusted)


def held(part: Any) -> tuple[bytes, frozenset[str]]:
    """A fresh model that holds it, and what that makes a checkpoint may ask for."""
    model = naive_bayes.GaussianNB()
    model.part = part
    pickled = dump_model(model)
    return pickled, trusted_by(pickled)


@pytest.mark.parametrize(
    "part",
    [
        str.lower, str.strip, str.split, str.casefold, str.join, int.bit_length, float.is_integer, dict.copy,
        abs, round, sorted, len, math.log1p, math.exp, operator.neg, operator.add,
        [str.upper, {"a": str.upper}], partial(str.split, sep=","), partial(round, ndigits=2),
        operator.itemgetter("a"), operator.attrgetter("hour"), operator.methodcaller("lower"),
    ],
    ids=str,
)  # fmt: skip
def test_a_harmless_function_or_method_comes_back_when_the_fresh_model_holds_it(part: Any) -> None:
    pickled, trusted = held(part)
    restored = load_model(pickled, trusted).part
    if isinstance(part, partial):
        assert (restored.func, restored.args, restored.keywords) == (part.func, part.args, part.keywords)
    elif hasattr(part, "__reduce__") and type(part).__module__ == "operator":
        assert repr(restored) == repr(part)
    else:
        assert restored == part
    if part not in (str.lower, math.exp):
        with pytest.raises(BadCheckpoint):
            load_model(pickled, held(str.lower)[1])


@pytest.mark.parametrize(
    "part",
    [
        str.format,
        str.format_map,
        str.encode,
        getattr,
        eval,
        map,
        vars,
        iter,
    ],
    ids=str,
)
def test_what_can_do_more_than_make_values_is_refused_even_when_the_fresh_model_holds_it(part: Any) -> None:
    pickled, trusted = held(part)
    with pytest.raises(BadCheckpoint, match=f"it asks for builtins.*{part.__name__}"):
        load_model(pickled, trusted)


@pytest.mark.parametrize("part", [" ".join, {"a": 1}.get, dict.fromkeys, float.__neg__], ids=range(4))
def test_a_method_without_a_name_is_not_saved(part: Any) -> None:
    with pytest.raises(pickle.PicklingError, match="hold a function of a module or a class"):
        held(part)


class Text(str):
    """A text that answers otherwise."""

    lower = eval
    __slots__ = ()


def test_a_method_is_the_very_one_that_the_fresh_model_holds() -> None:
    assert load_model(*held(Text.strip)).part is str.strip
    lower, call = held(str.lower)[1], held(operator.methodcaller("lower"))[1]
    for body in (
        tool("value", text("builtins"), text("str.format")),
        tool("value", text("builtins"), text("str.upper")),
        tool("value", text("builtins"), text("bytes.lower")),
        tool("value", text("test_pickles"), text("Text.lower")),
        tool("own", tool("value", text("builtins"), text("str.lower")), text("A")),
        tool("bind", text("A"), text("lower")),
        tool(
            "partial",
            tool("value", text("builtins"), text("str.format")),
            text("{0}") + b"\x85",
            b"}",
            b"\x89",
        ),
        called(tool("value", text("builtins"), text("str.lower")), text("A")),
    ):
        with pytest.raises(BadCheckpoint):
            load_model(hostile(body), lower)
    for arguments in (
        (text("upper"),),
        (text("__getattribute__"),),
        (text("lower"), text("x")),
        (instance(*NB),),
        (text("lower") + b"\x85",),
    ):
        with pytest.raises(BadCheckpoint):
            load_model(hostile(tool("part", text("operator:methodcaller"), *arguments)), call)
    with pytest.raises(BadCheckpoint):
        load_model(hostile(tool("value", text("operator"), text("methodcaller"))), call)


def test_generators_and_arrays_come_back_to_the_last_bit() -> None:
    model = naive_bayes.GaussianNB()
    model.parts = [
        random.Random(3), np.random.default_rng(3), np.random.RandomState(3), np.random.PCG64(3),
        np.arange(6.0).reshape(2, 3).T, np.float32(0.1), np.dtype("<i4"), np.array(["a", "bc"]),
        range(3), slice(1, 2), 1j, iter([1, 2, 3]), 2**200, frozenset({(1, "a")}), object,
    ]  # fmt: skip
    next(model.parts[11])
    one = load_model(dump_model(model)).parts
    for own, its in ((part, part) for part in one[4:8]):
        assert np.array_equal(own, its)
    assert one[0].random() == model.parts[0].random()
    assert one[1].integers(10**9) == model.parts[1].integers(10**9)
    assert one[1].spawn(1)[0].random() == model.parts[1].spawn(1)[0].random()
    assert one[2].rand() == model.parts[2].rand()
    assert one[4].flags.f_contiguous
    assert one[4].tolist() == model.parts[4].tolist()
    assert one[2]._bit_generator.seed_seq is None, "a model would be another one than before"
    assert one[8:11] == model.parts[8:11]
    assert list(one[11]) == [2, 3]
    assert one[12:] == model.parts[12:]


def test_the_closed_list_names_only_what_river_defines_and_nothing_that_forwards() -> None:
    for key in sorted(NAMED | HARMLESS):
        module, _, name = key.partition(":")
        owner: Any = sys.modules.get(module) or __import__(module, fromlist=["_"])
        for room in name.split("."):
            owner = inspect.getattr_static(owner, room)
        if key in CLASSES:
            assert isinstance(owner, type), key
            assert not any("__getattr__" in vars(base) for base in owner.__mro__), key


# --- through every door -----------------------------------------------------------------------------------

SERVE = """
[app]
name = "app"
[log]
backend = "embedded"
path = "log.db"
[topics]
input = "events"
[model]
use = "river.naive_bayes:GaussianNB"
"""


def run(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "streamlearn", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder with a configuration, events, and a trained checkpoint whose model is the attack."""
    (tmp_path / "streamlearn.toml").write_text(SERVE)
    rows = "".join(f'{{"features":{{"a":{n}.5}},"label":{n % 2}}}\n' for n in range(40))
    (tmp_path / "events.jsonl").write_text(rows)
    done = run(tmp_path, "train", "events.jsonl", "-o", "file:out")
    assert done.returncode == 0, done.stderr
    return tmp_path


def spoiled(file: Path, folder: Path) -> Path:
    header, sections = unseal(file.read_bytes())
    sections["model"] = hostile(by_frames(str(folder / "proof")))
    file.write_bytes(seal(header, sections))
    return folder / "proof"


def test_every_door_refuses_the_attack(trained: Path) -> None:
    proof = spoiled(trained / "out" / "000000000000.ckpt", trained)
    with pytest.raises(ConfigError, match="not allowed"):
        streamlearn.load(f"file:{trained}/out@latest")
    for words in (
        ("score", "events.jsonl", "--checkpoint", "file:out@latest"),
        ("serve", "--from", "file:out@latest"),
    ):
        done = run(trained, *words)
        assert (done.returncode, "not allowed" in done.stderr) == (2, True), (words, done.stderr)
    stored = trained / "log.db.checkpoints" / "app" / "0"
    stored.mkdir(parents=True)
    (trained / "out" / "000000000000.ckpt").rename(stored / "000000000000.ckpt")
    done = run(trained, "checkpoints", "verify")
    assert (done.returncode, "BAD" in done.stdout) == (3, True), done.stderr
    assert not proof.exists()


def events(n: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"features": {"f0": float(i % 7)}, "label": i % 7 > 3} for i in range(start, start + n)]


def test_serve_takes_the_one_before_and_verify_names_the_bad_one(apps: Apps) -> None:
    app = apps("", **{"checkpoint.keep": 3})
    app.produce(events(100))
    process = app.serve()
    app.wait(process, 100)
    app.stop(process)
    file = sorted(Path(f"{app.config.log.path}.checkpoints").rglob("*.ckpt"))[-1]
    proof = spoiled(file, app.folder)
    name_anew(app.config.log.path, app.config.topics.journal, file)
    app.produce(events(20, start=100))
    process = app.serve()
    app.wait(process, 120)
    app.stop(process)
    assert not proof.exists()
    assert "not allowed" in app.log
    assert len(app.predictions()) == 120


@pytest.mark.parametrize(
    "seeds",
    [
        (1, (), 10**6, 0),
        ([1] * 10**5, (), 4, 0),
        ("1", (), 4, 0),
        (1, (2.0,), 4, 0),
        (1, (), 4, "0"),
        (1, (), 4),
    ],
)
def test_seeds_that_take_hours_or_are_none_are_refused(seeds: tuple[Any, ...]) -> None:
    state = np.random.PCG64(1).state
    with pytest.raises(BadCheckpoint):
        _bits("PCG64", state, seeds)
    assert _bits("PCG64", state, (1, (2, 3), 4, 0)).state == state
