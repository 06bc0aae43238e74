"""The canonical model: the tables and columns that analysis reads, whatever source they came from.

This is the one place that documents them; the mappings fill them and the data dictionary is generated from here.
"""

from __future__ import annotations

_ID, _TEXT, _TIME, _WHOLE = "BIGINT", "VARCHAR", "TIMESTAMP", "BIGINT"

CANONICAL: dict[str, list[tuple[str, str, str]]] = {
    "subscribers": [
        ("subscriber_id", _ID, "The provider's id of the person."),
        ("email", _TEXT, "The address; personal data."),
        ("status", _TEXT, "enabled, disabled or blocklisted."),
        ("created_at", _TIME, "When the person was added (UTC)."),
    ],
    "lists": [("list_id", _ID, "The provider's id of the list."), ("name", _TEXT, "Its name.")],
    "memberships": [
        ("subscriber_id", _ID, "Who."),
        ("list_id", _ID, "On which list."),
        ("status", _TEXT, "unconfirmed, confirmed or unsubscribed."),
        ("updated_at", _TIME, "When that status began (UTC)."),
    ],
    "suppressions": [
        ("subscriber_id", _ID, "Who must not be mailed."),
        ("reason", _TEXT, "unsubscribed, complaint, hard_bounce or manual."),
        ("since", _TIME, "Since when (UTC), as far as the provider keeps it."),
    ],
    "campaigns": [
        ("campaign_id", _ID, "The provider's id; a catch-up counts as the campaign that it catches up."),
        ("name", _TEXT, "Its name."),
        ("kind", _TEXT, "newsletter, launch, sale, winback, transactional or other."),
        ("status", _TEXT, "The provider's own word: draft, scheduled, running, paused, cancelled, finished."),
        ("send_at", _TIME, "When it is planned to go out (UTC)."),
        ("latest_useful_at", _TIME, "After it the message must not go out (UTC)."),
        ("audience", _WHOLE, "Recipients: as counted at the start, else whoever could be mailed now."),
        ("started_at", _TIME, "When sending began (UTC)."),
    ],
    "templates": [
        ("template_id", _ID, "The provider's id."),
        ("name", _TEXT, "Its name."),
        ("updated_at", _TIME, "When it last changed (UTC)."),
    ],
    "messages": [
        ("campaign_id", _ID, "The campaign (the original, where a catch-up sent it)."),
        ("subscriber_id", _ID, "The person."),
        ("outcome", _TEXT, "not_attempted, accepted, bounced or unknown, from the sender's own log."),
        ("attempted_at", _TIME, "When sending was first tried (UTC)."),
        ("updated_at", _TIME, "When the outcome was recorded (UTC)."),
    ],
    "events": [
        ("event_id", _TEXT, "The provider's id of the event."),
        ("type", _TEXT, "sent, delivered, open, click, bounce, complaint or unsubscribe."),
        ("campaign_id", _ID, "The campaign (the original, where a catch-up sent it)."),
        ("subscriber_id", _ID, "The person; NULL where the provider does not say."),
        ("occurred_at", _TIME, "When it happened (UTC)."),
    ],
    "orders": [
        ("order_id", _TEXT, "The shop's number of the order."),
        ("subscriber_id", _ID, "The person; NULL for orders without a customer."),
        ("ordered_at", _TIME, "When it was placed (UTC)."),
        ("total_minor", _WHOLE, "Its value in minor units of its currency."),
        ("currency", _TEXT, "ISO 4217."),
        ("channel", _TEXT, "web or email."),
        ("campaign_id", _ID, "The campaign that brought it, where the shop knows."),
    ],
    "order_lines": [
        ("order_id", _TEXT, "The order."),
        ("line_no", _WHOLE, "The line's number in it."),
        ("stock_code", _TEXT, "What was bought."),
        ("quantity", _WHOLE, "How many."),
        ("line_total_minor", _WHOLE, "Value of the line in minor units."),
    ],
    "refunds": [
        ("refund_id", _TEXT, "The shop's number of the return."),
        ("subscriber_id", _ID, "The person; NULL where unknown."),
        ("refunded_at", _TIME, "When (UTC)."),
        ("total_minor", _WHOLE, "Value in minor units, negative."),
        ("currency", _TEXT, "ISO 4217."),
    ],
}
"""Per canonical table its columns: name, DuckDB type, meaning."""
