"""The guard between decoder and model: each feature keeps one type, and nothing in an event grows for ever.

What it owns: per feature name the type (`number`, `bool`, `str`; int and float are one type), how many
events agreed on it, and the different texts seen. A type that `[event] types` declares holds at once; a
learned one after `SETTLED` agreeing events, and before that a disagreeing value starts the learning anew. A
value of another type than the one that holds is a dead letter. A *missing* feature is the model's business.

A bad first event cannot be known to be bad when it arrives, but river's models are fixed for ever by what
they see first: a tree that has seen one text under a name raises at the numbers that follow. So while a type
is open no event is refused for it, and a text that may be a mistake is *withheld*: the model gets the event
without that feature. Under one name a model sees texts or other values, never both: a mixture is what trees
raise at. Each feature of an event is judged, and counts, by itself:

    value, open, not declared      the model has seen under that name   it is given    counts as evidence
    number, true, false            a text                               no             of its type
                                   else                                 yes            of its type
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
"""The most texts that are remembered over all features."""

_SHAPES: Final = 256

_FEATURE_TYPES: Final[dict[type, str]] = {float: "number", int: "number", bool: "bool", str: "str"}
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
    """The state of one feature. `as_number`, `as_text`: the model has seen it as a number, as a text;
    `barred`: the model raised at its first text; `needed`: the model raised without its text.
    """

    type: str
    agreed: int = 0
    texts: set[str] = set()
    as_number: bool = False
    as_text: bool = False
    barred: bool = False
    needed: bool = False


Types = dict[str, LearnedFeature]
_Shape = tuple[list[type], list[str], list[tuple[str, set[str]]], list[str]]
"""A feature set whose events teach nothing more: the Python types that their values mostly have, their
feature types, the texts that may stand under each name that has any, and the names to withhold.
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
            name: _DECLARED[feature_type]
            for name, feature_type in sorted(declared.items())
            if feature_type in _DECLARED
        }
        self._types = types
        self._texts = sum(len(feature.texts) for feature in types.values())
        self._shapes: dict[tuple[str, ...], _Shape] = {}

    def knows(self, x: dict[str, Any]) -> bool:
        """Fast path: this feature set was seen before, with its learned types and known texts. Takes out of
        `x` the features that its model must not see.
        """
        shape = self._shapes.get(tuple(x))
        if shape is None:
            return False
        expected, feature_types, texts, withheld = shape
        types = [*map(type, x.values())]
        if types != expected and feature_types != [*map(_FEATURE_TYPES.get, types)]:
            return False
        if texts and not all(x[name] in seen for name, seen in texts):
            return False
        for name in withheld:
            del x[name]
        return True

    def refusal(self, x: dict[str, Any]) -> Refusal | None:
        """The reason to keep an event with the features `x` from the model, or None."""
        types = self._types
        if refusal := self._unbounded(x):
            return refusal
        texts = 0
        suspect = ""  # only where doubtful texts are still refused
        for name, value in x.items():
            feature_type, settled_type = _feature_type(value), self._settled_type(name)
            if settled_type and feature_type != settled_type:
                return Refusal("guard", "feature_type", name)
            if feature_type != "str" or name in self._free:
                continue
            if len(value) > self._spec.string_length:
                return Refusal("guard", "text_too_long", name)
            feature = types.get(name)
            if feature is None or value not in feature.texts:
                texts += 1
                if self._has_no_room(feature, settled_type, texts):
                    return Refusal("guard", "too_many_categories", name)
            if not (self._spec.withholds or suspect or settled_type) and _doubt(value):
                suspect = name
        if suspect:
            self._note(suspect, x[suspect])
            return Refusal("guard", "feature_type", suspect)
        return None

    def _unbounded(self, x: dict[str, Any]) -> Refusal | None:
        """Refuse features beyond the bounds of their number and of the number and length of names."""
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
        return None

    def _has_no_room(self, feature: LearnedFeature | None, settled_type: str, texts: int) -> bool:
        """True if a new text, the event's `texts`-th, would be one too many for its name or for all names."""
        categories = self._spec.categories
        full = feature is not None and settled_type != "" and len(feature.texts) >= categories
        return categories > 0 and (full or self._texts + texts > MAX_TEXTS)

    def _settled_type(self, name: str) -> str:
        """The type that `name` must have, "" while that is open."""
        declared = self._declared.get(name)
        if declared is not None:
            return declared
        feature = self._types.get(name)
        return feature.type if feature is not None and feature.agreed >= SETTLED else ""

    def passed(self, x: dict[str, Any]) -> dict[str, Any]:
        """Learn from an event that was accepted: the features that its model may see."""
        is_fixed = True  # while such an event leaves all as it is
        withheld = []
        for name, value in x.items():
            is_open = not self._settled_type(name)
            is_given, counts = self._judged(name, value, x) if is_open else (True, True)
            is_fixed = is_fixed and not (is_open and counts)
            feature = (
                self._note(name, value) if counts else self._types.setdefault(name, LearnedFeature("str"))
            )
            is_given = is_given and (name in self._declared or self._is_alike(feature, value))
            if not is_given:
                withheld.append(name)
            else:
                self._give(feature, value)
        if is_fixed:
            self._remember(x, withheld)
        return {name: value for name, value in x.items() if name not in withheld} if withheld else x

    def _give(self, feature: LearnedFeature, value: Any) -> None:
        """Remember that the model gets `value`, and look at all shapes again when that is new."""
        if type(value) is str:
            is_new, feature.as_text = not feature.as_text, True
        else:
            is_new, feature.as_number = not feature.as_number, True
        if is_new:
            self._shapes.clear()

    def _is_alike(self, feature: LearnedFeature, value: Any) -> bool:
        """True if the model may have `value` beside the values that it has seen under that name: texts or
        others.
        """
        if type(value) is str:
            return not (feature.as_number or feature.barred)
        return feature.as_number or not feature.as_text or not self._spec.withholds

    def _judged(self, name: str, value: Any, x: dict[str, Any]) -> tuple[bool, bool]:
        """Judge a name whose type is open by the table above: True if the model may get `value`, and True if
        it counts as evidence.
        """
        doubt = "" if type(value) is not str or self._typed or not self._spec.withholds else _doubt(value)
        if not doubt:
            return True, True
        feature = self._types.get(name) or LearnedFeature("str")
        if feature.as_number:
            return False, False
        if feature.as_text or feature.needed:
            return True, True
        if doubt == "no value":
            return False, False
        beside = any(type(number) is float or type(number) is int for number in x.values())
        return beside and feature.agreed > 0, True

    def _remember(self, x: dict[str, Any], withheld: list[str]) -> None:
        """Events like `x` need no second look, until more is learned of one of their names."""
        if len(self._shapes) >= _SHAPES:
            self._shapes.clear()
        feature_types = [_feature_type(value) for value in x.values()]
        texts = [
            (name, self._types[name].texts if self._settled_type(name) else {value})
            for name, value in x.items()
            if type(value) is str and name not in self._free
        ]
        self._shapes[tuple(x)] = ([*map(type, x.values())], feature_types, texts, withheld)

    def _note(self, name: str, value: Any) -> LearnedFeature:
        """Count `value` as evidence."""
        feature_type = _feature_type(value)
        feature = self._types.get(name)
        if feature is None:
            feature = self._types[name] = LearnedFeature(feature_type)
        elif feature.type != feature_type:
            self._texts -= len(feature.texts)
            feature.type, feature.agreed, feature.texts = feature_type, 0, set()
        if feature.agreed < SETTLED:
            feature.agreed += 1
            if feature.agreed == SETTLED:
                self._shapes.clear()
        room = name not in self._free and len(feature.texts) < self._spec.categories
        if feature_type == "str" and room and value not in feature.texts:
            feature.texts.add(value)
            self._texts += 1
        return feature

    def raised(self, x: dict[str, Any]) -> None:
        """The model raised at `x`. Its first texts are the likely cause: they are withheld from now on, so
        that a model which cannot take texts does without them instead of raising at every event. A text that
        was withheld from it may be what it needs: it is given from now on.
        """
        for name, value in x.items():
            if type(value) is str and name not in self._declared:
                is_given = bool(self._settled_type(name)) or self._judged(name, value, x)[0]
                feature = self._types.setdefault(name, LearnedFeature("str"))
                first = not (feature.as_text or feature.as_number)
                feature.barred = feature.barred or (is_given and first)
                feature.needed = feature.needed or (not is_given and first)
        self._shapes.clear()

    def settle(self, feature_types: dict[str, str]) -> None:
        """Take over the types that were inferred from the first records together, as older eras say."""
        for name, feature_type in feature_types.items():
            if name not in self._types and len(self._types) < self._spec.names:
                self._types[name] = LearnedFeature(feature_type, SETTLED)

    def reset(self, name: str) -> None:
        """Forget what was learned of one feature."""
        feature = self._types.pop(name, None)
        if feature is not None:
            self._texts -= len(feature.texts)
            self._shapes.clear()


def _feature_type(value: Any) -> str:
    return _FEATURE_TYPES.get(type(value), "moment")


def _doubt(text: str) -> str:
    """The doubt about a text that reads as a "number" or as "no value"; "" for any other.

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
    """The learned features, for a person or a machine: one row per feature, in the order of names."""
    return [
        _row(name, types.get(name, LearnedFeature("")), _DECLARED.get(declared.get(name, ""), ""))
        for name in sorted({*types, *declared})
    ]


def _row(name: str, feature: LearnedFeature, declared: str) -> dict[str, Any]:
    is_settled = feature.agreed >= SETTLED
    is_withheld = feature.as_text and not feature.as_number
    if feature.type == "str":
        is_withheld = feature.as_number or feature.barred or not (feature.as_text or is_settled)
    return {
        "feature": name,
        "kind": declared or feature.type,
        "from": "declared" if declared else "settled" if is_settled else "learning",
        "agreed": min(feature.agreed, SETTLED),
        "texts": len(feature.texts),
        "withheld": is_withheld and not declared,
    }
