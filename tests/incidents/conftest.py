"""Journals for the tests: on SQLite always, on PostgreSQL where a test asks for both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.core import DrivenClock
from tasks.incidents import Incident, Journal


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'journal.db'}"


@pytest.fixture
def journal(url: str, clock: DrivenClock) -> Iterator[Journal]:
    with Journal.open(url, clock) as opened:
        yield opened


@pytest.fixture
def declared(journal: Journal) -> Incident:
    return declare(journal)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def any_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A journal's URL on each database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'journal.db'}"
    new_database: Callable[[], str] = request.getfixturevalue("new_database")
    return new_database()


def declare(journal: Journal, provider: str = "esp") -> Incident:
    return journal.declare(
        provider,
        cause_class="technical_failure",
        summary="the API refuses connections",
        detected_at=journal.clock.now(),
        declared_by="on call",
        state="investigating",
    )
