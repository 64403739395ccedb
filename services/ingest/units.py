"""Units as apps spell them, and what turns a value into a metric's own unit.

Factors are exact: the international pound, foot and their kin by the agreement of 1959 (NIST SP 811, appendix B), the
thermochemical calorie (4.184 J) of food and fitness, mm[Hg] by the conventional density of mercury (133.322387415 Pa),
glucose by the molar mass HealthKit uses (180.1558800000541 g/mol). Spellings are those of UCUM, of HealthKit's unit
strings and of everyday use; capitals count, since `Cal` is a thousand `cal`.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import lcm

import numpy as np

from services.ingest.buckets import Array
from services.ingest.metrics import METRICS, Dimension, Metric


@dataclass(frozen=True)
class Unit:
    """A unit within its dimension: `factor` times a value, plus `offset`, is the value in the dimension's first unit.

    `spellings`: the first is shown.
    """

    dimension: Dimension
    factor: Fraction
    spellings: tuple[str, ...]
    offset: Fraction = Fraction(0)
    source: str = ""


@dataclass(frozen=True)
class Conversion:
    """`(value * times + plus) / over`, three whole numbers where the units allow: a division of exact numbers.

    150 lb so gives 68.0388555 kg, to the last bit, where a rounded factor may miss it.
    """

    times: float
    plus: float
    over: float

    @property
    def is_identity(self) -> bool:
        """Whether values stay what they are."""
        return self.times == self.over and not self.plus

    def __call__(self, values: Array) -> Array:
        """The values in the metric's unit; beyond float64 they become infinite."""
        with np.errstate(over="ignore", invalid="ignore"):
            return (values * self.times + self.plus) / self.over


def _unit(dimension: Dimension, factor: str, *spellings: str, offset: str = "0", source: str = "") -> Unit:
    return Unit(dimension, Fraction(factor), spellings, Fraction(offset), source)


_DEFINED = "by definition"
_AGREED = "agreement of 1959"
_MOLAR = "molar mass 180.1558800000541 g/mol"

UNITS: tuple[Unit, ...] = (
    _unit("count", "1", "count", "{steps}", "{floors}", "{count}", "1", "steps", "floors"),
    _unit("length", "1", "m", "meter", "metre", "meters", "metres"),
    _unit("length", "1000", "km", source=_DEFINED),
    _unit("length", "1/100", "cm", source=_DEFINED),
    _unit("length", "1/1000", "mm", source=_DEFINED),
    _unit("length", "1609.344", "mi", "[mi_i]", "mile", "miles", source=_AGREED),
    _unit("length", "0.9144", "yd", "[yd_i]", source=_AGREED),
    _unit("length", "0.3048", "ft", "[ft_i]", source=_AGREED),
    _unit("length", "0.0254", "in", "[in_i]", source=_AGREED),
    _unit("energy", "1", "kcal", "Cal", "[Cal]", "kilocalorie", "kilocalories"),
    _unit("energy", "1/1000", "cal", source=_DEFINED),
    _unit("energy", "1000/4184", "kJ", "kilojoule", "kilojoules", source="1 kcal = 4.184 kJ"),
    _unit("energy", "1/4184", "J", "joule", "joules", source="1 kcal = 4.184 kJ"),
    _unit("time", "1", "s", "sec", "second", "seconds"),
    _unit("time", "1/1000", "ms", source=_DEFINED),
    _unit("time", "60", "min", "minute", "minutes", source=_DEFINED),
    _unit("time", "3600", "h", "hr", "hour", "hours", source=_DEFINED),
    _unit("time", "86400", "d", source=_DEFINED),
    _unit(
        "rate",
        "1",
        "/min",
        "count/min",
        "1/min",
        "{beats}/min",
        "{breaths}/min",
        "beats/min",
        "breaths/min",
        "bpm",
        "brpm",
    ),
    _unit("rate", "60", "/s", "count/s", "1/s", "Hz", source=_DEFINED),
    _unit("percentage", "1", "%", "percent"),
    _unit("percentage", "100", "fraction", "1", "{fraction}", source=_DEFINED),
    _unit("temperature", "1", "Cel", "degC", "°C", "C"),
    _unit("temperature", "5/9", "[degF]", "degF", "°F", "F", offset="-160/9", source="(°F - 32) · 5/9"),
    _unit("temperature", "1", "K", offset="-273.15", source="K - 273.15"),
    _unit("temperature difference", "1", "Cel", "degC", "°C", "C", "K"),
    _unit("temperature difference", "5/9", "[degF]", "degF", "°F", "F", source="a difference: no shift"),
    _unit("mass", "1", "kg", "kilogram", "kilograms"),
    _unit("mass", "1/1000", "g", "gram", "grams", source=_DEFINED),
    _unit("mass", "0.45359237", "lb", "[lb_av]", "lbs", "pound", "pounds", source=_AGREED),
    _unit("mass", "0.028349523125", "oz", "[oz_av]", source=_AGREED),
    _unit("mass", "6.35029318", "st", "[stone_av]", "stone", source=_AGREED),
    _unit("body mass index", "1", "kg/m2", "kg/m^2", "kg/m²"),
    _unit("pressure", "1", "mm[Hg]", "mmHg"),
    _unit("pressure", "10", "cm[Hg]", "cmHg", source=_DEFINED),
    _unit("pressure", "1000000000000/133322387415", "kPa", source="1 mm[Hg] = 133.322387415 Pa"),
    _unit("pressure", "1000000000/133322387415", "Pa", source="1 mm[Hg] = 133.322387415 Pa"),
    _unit("glucose", "1", "mg/dL", "mg/dl"),
    _unit("glucose", "100", "g/L", "g/l", source=_DEFINED),
    _unit(
        "glucose",
        "18.01558800000541",
        "mmol/L",
        "mmol/l",
        "mmol<180.1558800000541>/L",
        "mmol<180.1558800000541>/l",
        source=_MOLAR,
    ),
    _unit(
        "oxygen uptake",
        "1",
        "mL/(kg.min)",
        "ml/(kg.min)",
        "mL/kg/min",
        "ml/kg/min",
        "mL/min/kg",
        "ml/min/kg",
        "mL/kg*min",
        "ml/kg*min",
        "mL/(kg*min)",
        "ml/(kg*min)",
        "mL/min·kg",
        "mL/kg·min",
    ),
)

_BY_SPELLING: dict[tuple[Dimension, str], Unit] = {
    (unit.dimension, spelling): unit for unit in UNITS for spelling in unit.spellings
}


@cache
def _conversion(dimension: Dimension, given: str, wanted: str) -> Conversion | None:
    unit, own = _BY_SPELLING.get((dimension, given)), _BY_SPELLING[(dimension, wanted)]
    if unit is None:
        return None
    factor, offset = unit.factor / own.factor, (unit.offset - own.offset) / own.factor
    over = lcm(factor.denominator, offset.denominator)
    parts = (factor * over, offset * over, Fraction(over))
    if all(abs(part) < 2**53 for part in parts):
        return Conversion(*(float(part) for part in parts))
    # A factor of more digits than whole numbers of float64 hold (glucose): rounded once, here.
    return Conversion(float(factor), float(offset), 1.0)


def conversion_to(metric: Metric, unit: str) -> Conversion | None:
    """What turns values in `unit` into the metric's own; "" is its own. None for a unit that is none of its."""
    if unit in ("", metric.unit):
        return SAME
    # Never cached by what a stranger sends: only units that are known reach the cache.
    if (metric.dimension, unit) not in _BY_SPELLING:
        return None
    return _conversion(metric.dimension, unit, metric.unit)


SAME = Conversion(1.0, 0.0, 1.0)

for _metric in METRICS.values():
    if (_metric.dimension, _metric.unit) not in _BY_SPELLING:
        raise AssertionError(f"the unit of {_metric.name} is not in the table")
