"""The guard between decoder and model: each feature keeps one kind, and nothing in an event grows for ever.

What it owns: per feature name the kind (`number`, `bool`, `str`; int and float are one kind), how many
events agreed on it, and the different texts seen. A kind that `[event] types` declares holds at once; a
learned one after `SETTLED` agreeing events, and before that a disagreeing value starts the learning anew. A
value of another kind than the one that holds is a dead letter. A *missing* feature is the model's business.

A bad first event cannot be known to be bad when it arrives, but river's models are fixed for ever by what
they see first: a tree that has seen one text under a name raises at the numbers that follow. So while a kind
is open no event is refused for it, and a text that may be a mistake is *withheld*: the model gets the event
without that feature. Under one name a model sees texts or other values, never both: a mixture is what trees
raise at. Each feature of an event is judged, and counts, by itself:

    value, open, not declared      the model has seen under that name   it is given    counts as evidence
    number, true, false            a text                               no             of its kind
                                   else                                 yes            of its kind
    text                           a number, or it raised at a text     no             of texts
                                   else                                 yes            of texts
    reads as a number ("21.5")     a number                             no             no
                                   a text                               yes            of texts
                                   else: a number stands beside it
                                     in the event (types are told)      from the 2nd   of texts
                                   else                                 when settled   of texts
    reads as no value ("n/a", "")  a text                               yes            of texts
                                   else                                 no             no

Values that a schema typed (Avro, JSON Schema) are believed: none of their texts may be a mistake. So are
declared texts, which always pass. If the model raised at an event without such a text, it needs it, and is
given it from then on.

Invariants:
- What becomes of an event follows from the events before it alone, never from how they were read.
- A refused event changes nothing. All that decides an outcome is in `types`, which is saved in checkpoints;
  the cache of shapes only makes the common event cheap.
- Bounded: features in an event, names, the length of a name or text, texts per name and over all names. What
  goes beyond a bound is a dead letter, and the names already known go on.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from streamlearn.core.events.event import Refusal
from streamlearn.core.events.evidence import SETTLED
from streamlearn.core.events.values import NO_VALUE, reads_as_number

MAX_TEXTS: Final = 100_000
"""Different texts that are remembered over all features."""

_SHAPES: Final = 256

_KINDS: Final[dict[type, str]] = {float: "number", int: "number", bool: "bool", str: "str"}
_DECLARED: Final = {"float": "number", "int": "number", "number": "number", "bool": "bool", "str": "str"}
_FAILED: Final = frozenset(
    ("", "bad", "err", "error", "fail", "failed", "failure", "fault", "invalid", "unavailable")
)
"""Words, in lower case, with which a source says that it could not measure."""


class GuardSpec(msgspec.Struct, frozen=True):
    """The bounds of what a model may see (`[guard]`); part of an era.

    Attributes:
        features: The largest number of features in one event.
        names: The largest number of different feature names in the stream.
        string_length: The largest number of characters in a text or a name.
        categories: The largest number of different texts in one feature; 0 for no limit.
        withholds: False in eras from before doubtful texts were withheld from the model: there they were
            refused, one feature of an event at a time.

    Example:
        >>> GuardSpec(categories=100).features
        2000
    """

    features: int = 2_000
    names: int = 10_000
    string_length: int = 1_000
    categories: int = 10_000
    withholds: bool = True


class LearnedFeature(msgspec.Struct, omit_defaults=True):
    """What is known of one feature. `numbers`, `given`: the model has seen it as a number, as a text;
    `barred`: the model raised at its first text; `needed`: the model raised without its text.
    """

    kind: str
    agreed: int = 0
    texts: set[str] = set()
    numbers: bool = False
    given: bool = False
    barred: bool = False
    needed: bool = False


Types = dict[str, LearnedFeature]
_Shape = tuple[list[type], list[str], list[tuple[str, set[str]]], list[str]]
"""Of names that stand together in events from which nothing more is learned: the types that their values
mostly have, their kinds, the texts that may stand under each name that has any, and the names to withhold.
"""


class Guard:
    """The rules over `types`, which belongs to the shard's memory and is changed in place. `typed`: a schema
    says which values are texts. `free`: names of texts that the model takes apart; they are declared texts,
    of any length, and none of them is remembered.
    """

    def __init__(
        self,
        spec: GuardSpec,
        declared: dict[str, str],
        types: Types,
        typed: bool = False,
        free: frozenset[str] = frozenset(),
    ) -> None:
        self._spec = spec
        self._typed = typed
        self._free = free
        declared = {**dict.fromkeys(free, "str"), **declared}
        self._declared = {
            name: _DECLARED[kind] for name, kind in sorted(declared.items()) if kind in _DECLARED
        }
        self._types = types
        self._texts = sum(len(known.texts) for known in types.values())
        self._shapes: dict[tuple[str, ...], _Shape] = {}

    def knows(self, x: dict[str, Any]) -> bool:
        """Whether there is nothing to judge and nothing to learn: the names have stood together before, each
        value is of its name's settled kind, and each text was seen. The common event ends here. What its
        model must not see is taken out of `x`.
        """
        shape = self._shapes.get(tuple(x))
        if shape is None:
            return False
        expected, kinds, texts, withheld = shape
        types = [*map(type, x.values())]
        if types != expected and kinds != [*map(_KINDS.get, types)]:
            return False
        if texts and not all(x[name] in seen for name, seen in texts):
            return False
        for name in withheld:
            del x[name]
        return True

    def refusal(self, x: dict[str, Any]) -> Refusal | None:
        """Why an event with the features `x` must not reach the model, or None."""
        spec, types = self._spec, self._types
        if len(x) > spec.features:
            return Refusal("guard", "too_many_features")
        unknown = [name for name in x if name not in types]
        if unknown:
            long = next((name for name in unknown if len(name) > spec.string_length), None)
            if long is not None:
                return Refusal("guard", "text_too_long", long)
            if len(types) + len(unknown) > spec.names:
                return Refusal("guard", "too_many_names", unknown[0])
        texts = 0
        suspect = ""  # only where doubtful texts are still refused
        for name, value in x.items():
            kind = _kind_of(value)
            holds = self._holds(name)
            if holds and kind != holds:
                return Refusal("guard", "feature_type", name)
            if kind != "str" or name in self._free:
                continue
            if len(value) > spec.string_length:
                return Refusal("guard", "text_too_long", name)
            known = types.get(name)
            if known is None or value not in known.texts:
                texts += 1
                full = known is not None and holds and len(known.texts) >= spec.categories
                if spec.categories and (full or self._texts + texts > MAX_TEXTS):
                    return Refusal("guard", "too_many_categories", name)
            if not (self._spec.withholds or suspect or holds) and _doubt(value):
                suspect = name
        if suspect:
            self._note(suspect, x[suspect])
            return Refusal("guard", "feature_type", suspect)
        return None

    def _holds(self, name: str) -> str:
        """The kind that `name` must have, "" while that is open."""
        declared = self._declared.get(name)
        if declared is not None:
            return declared
        known = self._types.get(name)
        return known.kind if known is not None and known.agreed >= SETTLED else ""

    def passed(self, x: dict[str, Any]) -> dict[str, Any]:
        """Learn from an event that was accepted: the features that its model may see."""
        is_fixed = True  # whether such an event leaves all as it is
        withheld = []
        for name, value in x.items():
            is_open = not self._holds(name)
            given, counts = self._judged(name, value, x) if is_open else (True, True)
            is_fixed = is_fixed and not (is_open and counts)
            known = self._note(name, value) if counts else self._types.setdefault(name, LearnedFeature("str"))
            given = given and (name in self._declared or self._is_alike(known, value))
            if not given:
                withheld.append(name)
            else:
                self._give(known, value)
        if is_fixed:
            self._remember(x, withheld)
        return {name: value for name, value in x.items() if name not in withheld} if withheld else x

    def _give(self, known: LearnedFeature, value: Any) -> None:
        """The model gets `value`: that is remembered, and of what was known before nothing is sure."""
        if type(value) is str:
            news, known.given = not known.given, True
        else:
            news, known.numbers = not known.numbers, True
        if news:
            self._shapes.clear()

    def _is_alike(self, known: LearnedFeature, value: Any) -> bool:
        """Whether the model may have `value` beside what it has seen under that name: texts or others."""
        if type(value) is str:
            return not (known.numbers or known.barred)
        return known.numbers or not known.given or not self._spec.withholds

    def _judged(self, name: str, value: Any, x: dict[str, Any]) -> tuple[bool, bool]:
        """By the table above, for a name whose kind is open: whether the model may get `value`, and whether
        it counts as evidence.
        """
        doubt = "" if type(value) is not str or self._typed or not self._spec.withholds else _doubt(value)
        if not doubt:
            return True, True
        known = self._types.get(name) or LearnedFeature("str")
        if known.numbers:
            return False, False
        if known.given or known.needed:
            return True, True
        if doubt == "no value":
            return False, False
        beside = any(type(other) is float or type(other) is int for other in x.values())
        return beside and known.agreed > 0, True

    def _remember(self, x: dict[str, Any], withheld: list[str]) -> None:
        """Events like `x` need no second look, until something more is known of one of their names."""
        if len(self._shapes) >= _SHAPES:
            self._shapes.clear()
        kinds = [_kind_of(value) for value in x.values()]
        texts = [
            (name, self._types[name].texts if self._holds(name) else {value})
            for name, value in x.items()
            if type(value) is str and name not in self._free
        ]
        self._shapes[tuple(x)] = ([*map(type, x.values())], kinds, texts, withheld)

    def _note(self, name: str, value: Any) -> LearnedFeature:
        """Count `value` as evidence."""
        kind = _kind_of(value)
        known = self._types.get(name)
        if known is None:
            known = self._types[name] = LearnedFeature(kind)
        elif known.kind != kind:
            self._texts -= len(known.texts)
            known.kind, known.agreed, known.texts = kind, 0, set()
        if known.agreed < SETTLED:
            known.agreed += 1
            if known.agreed == SETTLED:
                self._shapes.clear()
        room = name not in self._free and len(known.texts) < self._spec.categories
        if kind == "str" and room and value not in known.texts:
            known.texts.add(value)
            self._texts += 1
        return known

    def raised(self, x: dict[str, Any]) -> None:
        """The model raised at `x`. Its first texts are the likely cause: they are withheld from now on, so
        that a model which cannot take texts does without them instead of raising at every event. A text that
        was withheld from it may be what it needs: it is given from now on.
        """
        for name, value in x.items():
            if type(value) is str and name not in self._declared:
                given = bool(self._holds(name)) or self._judged(name, value, x)[0]
                known = self._types.setdefault(name, LearnedFeature("str"))
                first = not (known.given or known.numbers)
                known.barred = known.barred or (given and first)
                known.needed = known.needed or (not given and first)
        self._shapes.clear()

    def settle(self, kinds: dict[str, str]) -> None:
        """Take over what a service saw when it looked at its first records together, as older eras say."""
        for name, kind in kinds.items():
            if name not in self._types and len(self._types) < self._spec.names:
                self._types[name] = LearnedFeature(kind, SETTLED)

    def reset(self, name: str) -> None:
        """Forget what was learned of one feature."""
        known = self._types.pop(name, None)
        if known is not None:
            self._texts -= len(known.texts)
            self._shapes.clear()


def _kind_of(value: Any) -> str:
    return _KINDS.get(type(value), "moment")


def _doubt(text: str) -> str:
    """Whether a text reads as a "number" or as "no value"; "" for any other.

    >>> [_doubt(text) for text in ("21.5", "21,5", "N/A", " ", "A1")]
    ['number', 'number', 'no value', 'no value', '']
    """
    word = text.strip().lower()
    if word in NO_VALUE or word in _FAILED:
        return "no value"
    return "number" if reads_as_number(word) else ""


def withheld(types: Types, declared: Mapping[str, str]) -> list[str]:
    """The features that the model does without, for good: their types are settled, and are not what it has
    seen under these names, or can take.
    """
    rows = table(types, declared)
    return [row["feature"] for row in rows if row["withheld"] and row["from"] == "settled"]


def table(types: Types, declared: Mapping[str, str]) -> list[dict[str, Any]]:
    """What is learned, for a person or a machine: one row per feature, in the order of names."""
    rows = []
    for name in sorted({*types, *declared}):
        known = types.get(name, LearnedFeature(""))
        is_declared = declared.get(name) in _DECLARED
        settled = is_declared or known.agreed >= SETTLED
        withheld = known.given and not known.numbers
        if known.kind == "str":
            withheld = known.numbers or known.barred or not (known.given or settled)
        rows.append(
            {
                "feature": name,
                "kind": _DECLARED[declared[name]] if is_declared else known.kind,
                "from": "declared" if is_declared else "settled" if settled else "learning",
                "agreed": min(known.agreed, SETTLED),
                "texts": len(known.texts),
                "withheld": withheld and not is_declared,
            }
        )
    return rows
