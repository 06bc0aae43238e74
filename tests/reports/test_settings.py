"""A calendar that does not exist is refused when the plan is loaded, not in the middle of an incident."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tasks.plan import ReportPlan


@pytest.mark.parametrize("name", ["gb", "England", "XX", ""])
def test_a_country_without_known_holidays_is_refused_with_the_value_and_the_mend(name: str) -> None:
    with pytest.raises(ValidationError, match=f"'{name}' is no country.*ISO 3166 code in capitals"):
        ReportPlan.model_validate({"country": name})


@pytest.mark.parametrize("name", ["Europe/Londn", "", "../etc/passwd", "Europe"])
def test_an_unknown_time_zone_is_refused_with_the_value_and_the_mend(name: str) -> None:
    with pytest.raises(ValidationError, match=f"'{name}' is no time zone.*IANA name"):
        ReportPlan.model_validate({"timezone": name})


def test_a_known_calendar_is_taken_and_an_alias_becomes_its_code() -> None:
    taken = ReportPlan.model_validate({"timezone": "Europe/Berlin", "country": "UK"})
    assert (taken.timezone, taken.country) == ("Europe/Berlin", "GB")
    assert ReportPlan.model_validate({}).country is None
