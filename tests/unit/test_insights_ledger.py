"""Energy ledgers: formulas, no double counting, exact totals, and texts that hold no number of their own."""

from datetime import date
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.insights.energy import Body, age_on, resting_energy, walking_energy
from services.insights.facts import SENTENCES, FactValue, facts_hash, facts_of, is_news, unfounded, written
from services.insights.ledger import Balance, DayInput, EntryInput, balance

# The machine may be busy with other tests.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

DAY = date(2026, 3, 1)
ANNA = Body("female", date(1990, 3, 2), Decimal(170))


def test_resting_energy_is_mifflin_st_jeor_at_the_assumed_weight() -> None:
    # 22 x 1.7² = 63.58 kg; 635.8 + 1062.5 - 175 - 161
    estimate = resting_energy(ANNA, DAY)
    assert estimate is not None
    assert estimate.energy_kcal == Decimal("1362.3")
    assert "BMI 22" in estimate.note
    ben = resting_energy(Body("male", date(1990, 3, 1), Decimal(170)), DAY)
    assert ben is not None
    assert ben.energy_kcal - estimate.energy_kcal == 166 - 5


@pytest.mark.parametrize("body", [Body(), Body("male", None, Decimal(180)), Body("male", DAY, None)])
def test_without_a_profile_there_is_no_resting_line(body: Body) -> None:
    result = balance(DAY, body, None, {})
    assert result == Balance((), ("profile", "activity", "intake"))


def test_age_counts_birthdays() -> None:
    assert [age_on(DAY, date(1990, 3, day)) for day in (1, 2)] == [36, 35]
    assert age_on(DAY, date(2030, 1, 1)) == 0


def test_steps_stand_in_for_active_energy_and_never_beside_it() -> None:
    measured = DayInput(1, steps=Decimal(10_000), energy_active=Decimal("412.34"))
    (line,) = balance(DAY, Body(), measured, {}).lines
    assert (line.source, line.energy_kcal) == ("energy_active", Decimal("412.3"))
    (line,) = balance(DAY, Body(), DayInput(1, steps=Decimal(10_000)), {}).lines
    # 10,000 x 0.414 x 1.7 m x 63.58 kg x 0.0005
    assert (line.source, line.energy_kcal) == ("steps", Decimal("223.7"))
    assert "height unknown" in line.note
    assert "unknown" not in walking_energy(Decimal(1), ANNA).note


def test_active_energy_that_no_device_told_says_so_and_is_no_fact() -> None:
    told = DayInput(1, energy_active=Decimal(400), active_derived=True)
    (line,) = balance(DAY, Body(), told, {}).lines
    assert (line.source, line.note) == ("energy_active", "devices' total energy less basal energy")
    assert "energy_active" not in {fact.id for fact in facts_of(told, balance(DAY, Body(), told, {}))}
    measured = DayInput(1, energy_active=Decimal(400))
    assert "energy_active" in {fact.id for fact in facts_of(measured, balance(DAY, Body(), measured, {}))}


amounts = st.decimals(min_value=0, max_value=9999, places=3)
entries = st.dictionaries(
    st.sampled_from([f"e{place}" for place in range(8)]),
    st.builds(EntryInput, st.integers(1, 9), st.none() | amounts, st.booleans()),
)
days = st.none() | st.builds(
    DayInput, st.integers(1, 9), st.none() | amounts, st.none() | amounts, st.none() | amounts, st.none() | amounts
)
bodies = st.builds(
    Body,
    st.sampled_from([None, "female", "male"]),
    st.none() | st.dates(date(1930, 1, 1), date(2020, 1, 1)),
    st.none() | st.decimals(min_value=100, max_value=230, places=1),
)


@calm
@given(bodies, days, entries)
def test_nothing_is_counted_twice_and_totals_are_sums(
    body: Body, measured: DayInput | None, eaten: dict[str, EntryInput]
) -> None:
    result = balance(DAY, body, measured, eaten)
    sources = [line.source for line in result.lines]
    assert len(set(sources)) == len(sources)
    assert not {"steps", "energy_active"} <= set(sources)
    assert {one for one in sources if one.startswith("entry:")} == {
        f"entry:{id}" for id, entry in eaten.items() if not entry.gone and entry.energy_kcal is not None
    }
    assert all(line.direction == ("in" if line.source.startswith("entry:") else "out") for line in result.lines)
    assert all(line.energy_kcal == line.energy_kcal.quantize(Decimal("0.1")) >= 0 for line in result.lines)
    assert result.intake_kcal == sum(line.energy_kcal for line in result.lines if line.direction == "in")
    assert result.balance_kcal == result.intake_kcal - result.expenditure_kcal
    assert result == balance(DAY, body, measured, dict(reversed(eaten.items())))


@calm
@given(bodies, days, entries)
def test_every_numeral_of_a_text_is_a_fact(body: Body, measured: DayInput | None, eaten: dict[str, EntryInput]) -> None:
    facts = facts_of(measured, balance(DAY, body, measured, eaten))
    words = written(facts)
    if words is not None:
        assert unfounded(f"{words.title} {words.text}", facts) == []
        assert "{" not in words.text
    assert not any(character.isdigit() for sentence in SENTENCES for character in sentence)


def test_a_foreign_number_is_found() -> None:
    facts = (FactValue("steps", Decimal(11_143), "{steps}", "day", 2),)
    assert unfounded("You took 11,143 steps, 12% more than on 3 days.", facts) == ["12", "3"]


def test_a_text_speaks_of_what_is_known() -> None:
    measured = DayInput(1, Decimal("11142.857"), None, Decimal("61.5"), Decimal(48), {"steps": 2, "heart_rate": 90})
    facts = facts_of(measured, balance(DAY, ANNA, measured, {"e": EntryInput(1, Decimal(500))}))
    words = written(facts)
    assert words is not None
    assert words.text == (
        "You took 11,143 steps. Your heart averaged 62 beats per minute, and 48 beats per minute at its calmest. "
        "You logged 500 kcal of food against an estimated 1,612 kcal spent."
    )
    assert written(()) is None


def test_only_material_changes_are_news() -> None:
    def facts(*values: int) -> tuple[FactValue, ...]:
        return tuple(
            FactValue(id, Decimal(value), "kcal", "day", 1) for id, value in zip(("a", "b"), values, strict=False)
        )

    told = {"a": Decimal(1000)}
    assert is_news({}, facts(1000))
    assert not is_news(told, facts(1100))
    assert is_news(told, facts(1101))
    assert is_news(told, facts(1000, 5))
    assert not is_news(told, ())
    assert facts_hash(facts(1, 2)) == facts_hash(tuple(reversed(facts(1, 2)))) != facts_hash(facts(1, 3))
