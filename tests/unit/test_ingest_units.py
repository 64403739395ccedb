"""Units: exact conversions, the spellings of both platforms, and no unit of another dimension."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.ingest.metrics import METRICS
from services.ingest.units import UNITS, Unit, conversion_to

METRIC_OF = {metric.dimension: metric for metric in METRICS.values()}


def converted(name: str, unit: str, value: float) -> float:
    conversion = conversion_to(METRICS[name], unit)
    assert conversion is not None
    return float(conversion(np.array([value]))[0])


@pytest.mark.parametrize(
    ("name", "unit", "value", "expected"),
    [
        ("body_mass", "lb", 150, 68.0388555),
        ("body_mass", "[lb_av]", 1, 0.45359237),
        ("body_mass", "g", 70_500, 70.5),
        ("body_mass", "st", 11, 69.85322498),
        ("distance", "mi", 26.2, 42_164.8128),
        ("distance", "km", 5.2, 5_200),
        ("elevation_gain", "ft", 100, 30.48),
        ("height", "cm", 178, 1.78),
        ("height", "in", 70, 1.778),
        ("energy_active", "kJ", 418.4, 100),
        ("energy_active", "J", 4_184, 1),
        ("energy_active", "Cal", 250, 250),
        ("energy_active", "cal", 250_000, 250),
        ("blood_glucose", "mmol/L", 4, 72.06235200002164),
        ("blood_glucose", "mmol<180.1558800000541>/L", 4, 72.06235200002164),
        ("body_temperature", "degF", 98.6, 37),
        ("body_temperature", "°F", 212, 100),
        ("body_temperature", "K", 310.15, 37),
        ("oxygen_saturation", "fraction", 0.98, 98),
        ("oxygen_saturation", "%", 98, 98),
        ("hrv_rmssd", "s", 0.045, 45),
        ("active_time_moderate", "h", 1.5, 90),
        ("active_time_moderate", "s", 90, 1.5),
        ("heart_rate", "count/min", 61, 61),
        ("heart_rate", "count/s", 1.5, 90),
        ("blood_pressure_systolic", "mmHg", 120, 120),
        ("blood_pressure_systolic", "kPa", 13.3322387415, 100),
        ("steps", "count", 940, 940),
    ],
)
def test_a_conversion_gives_the_number_one_expects(name: str, unit: str, value: float, expected: float) -> None:
    assert converted(name, unit, value) == expected


def test_a_difference_of_temperatures_is_not_shifted() -> None:
    assert converted("skin_temperature_deviation", "degF", 1.8) == 1
    assert converted("skin_temperature_deviation", "K", -0.4) == -0.4


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("body_mass", "m"),
        ("body_mass", "LB"),
        ("heart_rate", "ms"),
        ("steps", "kcal"),
        ("energy_active", "kcal/d"),
        ("energy_active", "kcal/day"),
        ("body_fat_percentage", "kg"),
        ("height", "x" * 1_000_000),
        ("height", "\x00"),
    ],
)
def test_a_unit_of_another_dimension_is_none(name: str, unit: str) -> None:
    assert conversion_to(METRICS[name], unit) is None


def test_without_a_unit_it_is_the_metrics_own() -> None:
    assert converted("body_mass", "", 70.1) == 70.1


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: f"{unit.dimension} {unit.spellings[0]}")
@given(value=st.floats(-1e12, 1e12))
def test_there_and_back_again_is_the_same_number(unit: Unit, value: float) -> None:
    metric = METRIC_OF[unit.dimension]
    for spelling in unit.spellings:
        conversion = conversion_to(metric, spelling)
        assert conversion is not None
        there = float(conversion(np.array([value]))[0])
        back = (there * conversion.over - conversion.plus) / conversion.times
        assert back == pytest.approx(value, rel=1e-14, abs=1e-9)


@given(
    value=st.floats(allow_nan=True, allow_infinity=True),
    unit=st.sampled_from([unit.spellings[0] for unit in UNITS if unit.dimension == "mass"]),
)
@example(value=-0.0, unit="kg")
@example(value=-5e-324, unit="g")
def test_a_number_too_large_becomes_infinite_without_a_word(value: float, unit: str) -> None:
    result = converted("body_mass", unit, value)
    assert np.isnan(result) == np.isnan(value)
    rounded_away = result == 0 and abs(value) < np.finfo(float).tiny
    assert np.isnan(result) or rounded_away or np.sign(result) == np.sign(value)


def test_spellings_are_those_of_one_unit_within_a_dimension() -> None:
    every = [(unit.dimension, spelling) for unit in UNITS for spelling in unit.spellings]
    assert len(set(every)) == len(every)
