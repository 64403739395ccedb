"""Energy spent, told so that it adds up: total = active + basal, exactly as shown.

Devices report any two or all three, from different records. What is missing follows from the other two; a reported
total that is not the sum gives way, since its parts are what the devices measured along time.
"""

import msgspec

ACTIVE, BASAL, TOTAL = "energy_active", "energy_basal", "energy_total"
ENERGY: tuple[str, ...] = (ACTIVE, BASAL, TOTAL)


class Reconciled(msgspec.Struct, frozen=True):
    """Energies in thousandths of a kilocalorie by metric; `derived` names those that follow from the others."""

    thousandths: dict[str, int]
    derived: tuple[str, ...] = ()


def reconcile(reported: dict[str, int]) -> Reconciled:
    """Make what devices reported (thousandths of a kilocalorie, by metric) consistent; a lone number stays alone."""
    active, basal, total = (reported.get(name) for name in ENERGY)
    if active is not None and basal is not None:
        if total == active + basal:
            return Reconciled(reported)
        return Reconciled({**reported, TOTAL: active + basal}, (TOTAL,))
    if total is None or (active is None and basal is None):
        return Reconciled(reported)
    known, missing = (ACTIVE, BASAL) if active is not None else (BASAL, ACTIVE)
    rest = max(0, total - reported[known])
    made = {**reported, missing: rest}
    if reported[known] + rest == total:
        return Reconciled(made, (missing,))
    # The total is less than one of its parts: it covers less time, and cannot stand.
    return Reconciled({**made, TOTAL: reported[known] + rest}, (missing, TOTAL))
