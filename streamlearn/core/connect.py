"""Decimals in Kafka Connect's JSON: base 64 of an integer's bytes, and the schema beside them says so.

Known are `org.apache.kafka.connect.data.Decimal`, whose scale is a parameter of the schema, and Debezium's
`VariableScaleDecimal`, which carries its own. Times and dates stay the integers they are.

Invariant: what the schema calls a decimal is a number afterwards, or nothing that a preset expects (`BAD`).
"""

import base64
import binascii
import re
from collections.abc import Collection
from decimal import Decimal
from typing import Any, Final

from streamlearn.core.convert import from_decimal
from streamlearn.core.paths import MISSING

BAD: Final[Any] = object()
"""In place of a payload that holds a decimal which is none."""

MAX_BYTES: Final = 128
"""A longer integer is no double, whatever its scale that a database knows."""

_DECIMAL: Final = "org.apache.kafka.connect.data.Decimal"
_VARIABLE: Final = "io.debezium.data.VariableScaleDecimal"
_MAX_SCALE: Final = 400
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]{2,22}={0,2}", re.ASCII)


def has_decimals(value: bytes) -> bool:
    """Whether the schema in a record's value may know decimals: cheap, for each record is asked."""
    return b"connect.data.Decimal" in value or b"VariableScaleDecimal" in value


def look_like_decimals(texts: Collection[str]) -> bool:
    """Whether texts are perhaps decimals whose schema did not come with them: base 64 of a few bytes each,
    some of them filled up with `=`, as no words are.

    >>> look_like_decimals(["BAg=", "AMgA", "Ew==", "A+g="]), look_like_decimals(["north", "east", "west"])
    (True, False)
    """
    filled = sum(text.endswith("=") for text in texts)
    return 5 * filled >= len(texts) > 2 and all(
        len(text) % 4 == 0 and _BASE64.fullmatch(text) for text in texts
    )


def numbers_in(part: Any, schema: Any) -> Any:
    """`part` with numbers where `schema` has decimals, changed in place where it can be; `BAD` where one is
    none.

    >>> kind = {"name": "org.apache.kafka.connect.data.Decimal", "parameters": {"scale": "4"}}
    >>> numbers_in({"price": "BAg="}, {"type": "struct", "fields": [{**kind, "field": "price"}]})
    {'price': 0.1032}
    """
    if type(schema) is not dict or part is None:
        return part
    name = schema.get("name")
    if name == _DECIMAL:
        parameters = schema.get("parameters")
        return _number(part, parameters.get("scale") if type(parameters) is dict else None)
    if name == _VARIABLE:
        return _number(part.get("value"), part.get("scale")) if type(part) is dict else BAD
    if type(part) is dict and type(schema.get("fields")) is list:
        return _members(part, schema["fields"])
    inner = schema.get("items") if type(part) is list else schema.get("values")
    if type(part) is list:
        return _all(part, range(len(part)), inner)
    if type(part) is dict and inner is not None:
        return _all(part, list(part), inner)
    return part


def _members(part: dict[str, Any], fields: list[Any]) -> Any:
    for field in fields:
        name = field.get("field") if type(field) is dict else None
        if type(name) is str and name in part:
            part[name] = numbers_in(part[name], field)
            if part[name] is BAD:
                return BAD
    return part


def _all(part: Any, places: Any, schema: Any) -> Any:
    for at in places:
        part[at] = numbers_in(part[at], schema)
        if part[at] is BAD:
            return BAD
    return part


def _number(value: Any, scale: Any) -> Any:
    """The number of an unscaled integer's bytes; what came as a number or as its digits is that already."""
    if type(value) in (int, float) or value is None:
        return value
    try:
        digits = int(scale)
        unscaled = base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        return BAD
    if not 0 < len(unscaled) <= MAX_BYTES or abs(digits) > _MAX_SCALE:
        return BAD
    whole = int.from_bytes(unscaled, "big", signed=True)
    found = from_decimal(Decimal(f"{whole}e{-digits}"))
    return BAD if found is MISSING else found
