"""Reading the shop of a company on PostgreSQL, by the URL that everybody writes."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from tasks.catchup.shopfeed import read_consent_feed, read_receipts
from tasks.core import DrivenClock
from tasks.outages import ShopWitness

pytestmark = pytest.mark.integration


def test_a_url_that_names_no_driver_is_read(new_database: Callable[[], str], clock: DrivenClock) -> None:
    url = new_database()
    engine = sa.create_engine(url)
    at = clock.now().astimezone(UTC).replace(tzinfo=None)
    with engine.begin() as connection:
        for statement in (
            "CREATE TABLE consent_requests (request_id int, customer_id int, kind text, requested_at timestamp,"
            " forwarded_at timestamp)",
            "CREATE TABLE webhook_receipts (receipt_id int, event_type text, campaign_id int, subscriber_id int,"
            " occurred_at timestamp, received_at timestamp)",
        ):
            connection.execute(sa.text(statement))
        connection.execute(
            sa.text("INSERT INTO consent_requests VALUES (1, 7, 'unsubscribe', :at, NULL)"), {"at": at}
        )
        connection.execute(
            sa.text("INSERT INTO webhook_receipts VALUES (1, 'delivered', 3, 7, :at, :at)"), {"at": at}
        )
    engine.dispose()
    plain = url.replace("postgresql+psycopg://", "postgresql://", 1)
    feed = read_consent_feed(plain, clock)
    assert (feed.error, [one.subscriber_id for one in feed.requests]) == ("", [7])
    assert read_receipts(plain, [3])["subscriber_id"].to_pylist() == [7]
    since, until = clock.now() - timedelta(hours=1), clock.now() + timedelta(hours=1)
    assert ShopWitness(plain).receipts(since, until) == 1
    assert isinstance(feed.as_of, datetime)
