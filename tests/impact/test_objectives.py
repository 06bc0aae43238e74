"""Recovery objectives against an incident: met, missed, pending, not applicable."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tasks.impact import check_objectives
from tasks.plan import MarketingObject

START = datetime(2011, 11, 16, 8, 0, tzinfo=UTC)
SOURCES = {"suppressions": "esp", "orders": "shop"}


def check(*, snapshot_minutes=60, restored_minutes=300, start=START, rpo=60, rto=300, table="suppressions"):
    thing = MarketingObject(tables=[table], rpo_minutes=rpo, rto_minutes=rto, mtpd_minutes=400)
    point = None if snapshot_minutes is None else START - timedelta(minutes=snapshot_minutes)
    [one] = check_objectives(
        {"thing": thing},
        source_of=SOURCES,
        consistency_at={"esp": point, "shop": point},
        hit={"esp"},
        impact_started_at=start,
        restored_at=None if restored_minutes is None else START + timedelta(minutes=restored_minutes),
    )
    return one


@pytest.mark.parametrize(("age", "standing"), [(60, "met"), (61, "missed"), (None, "missed")])
def test_a_recovery_point_is_met_up_to_its_last_minute(age, standing):
    assert check(snapshot_minutes=age).rpo == standing


@pytest.mark.parametrize(
    ("took", "rto", "mtpd"), [(300, "met", "met"), (301, "missed", "met"), (401, "missed", "missed")]
)
def test_a_recovery_time_is_held_against_rto_and_mtpd(took, rto, mtpd):
    one = check(restored_minutes=took)
    assert (one.rto, one.mtpd, one.rta_minutes) == (rto, mtpd, took)


def test_what_the_outage_did_not_hit_has_no_recovery_time():
    one = check(table="orders")
    assert (one.rto, one.mtpd, one.rta_minutes, one.rpo) == ("not_applicable", "not_applicable", None, "met")


def test_without_a_known_start_nothing_is_turned_into_zero():
    one = check(start=None)
    assert (one.rpo, one.rto, one.rpa_minutes, one.rta_minutes) == ("pending", "pending", None, None)
