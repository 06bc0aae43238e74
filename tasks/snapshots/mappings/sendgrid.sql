-- SendGrid's export (tasks/providers/sendgrid_export.py) onto the canonical model.
-- SendGrid's ids are text: campaigns, lists and templates carry a number made from them, people the shop's customer
-- number where they have one (external_id). Who got a Single Send is told by the Event Webhook alone.

-- canonical: subscribers from contacts, unsubscribes, spam_reports, bounces, invalid_emails, group_suppressions
SELECT
    canonical.person_number(c.external_id, c.contact_id) AS subscriber_id,
    c.email,
    CASE
        WHEN lower(c.email) IN (
            SELECT lower(email) FROM {source}.unsubscribes
            UNION ALL SELECT lower(email) FROM {source}.spam_reports
            UNION ALL SELECT lower(email) FROM {source}.bounces
            UNION ALL SELECT lower(email) FROM {source}.invalid_emails
            UNION ALL SELECT lower(email) FROM {source}.group_suppressions
        ) THEN 'blocklisted'
        ELSE 'enabled'
    END AS status,
    canonical.moment(c.created_at) AS created_at
FROM {source}.contacts c;

-- canonical: lists from lists
SELECT canonical.id_number(id) AS list_id, name
FROM {source}.lists;

-- canonical: memberships from list_contacts, contacts
SELECT
    canonical.person_number(c.external_id, c.contact_id) AS subscriber_id,
    canonical.id_number(l.list_id) AS list_id,
    'confirmed' AS status,
    canonical.moment(c.created_at) AS updated_at
FROM {source}.list_contacts l
JOIN {source}.contacts c ON c.contact_id = l.contact_id;

-- A group that somebody left counts for all mail: a list does not say which group is its own.
-- canonical: suppressions from contacts, unsubscribes, spam_reports, bounces, invalid_emails, group_suppressions
SELECT canonical.person_number(c.external_id, c.contact_id) AS subscriber_id, s.reason, min(s.since) AS since
FROM {source}.contacts c
JOIN (
    SELECT lower(email) AS email, 'unsubscribed' AS reason, to_timestamp(CAST(created AS BIGINT)) AS since
    FROM {source}.unsubscribes
    UNION ALL
    SELECT lower(email), 'complaint', to_timestamp(CAST(created AS BIGINT)) FROM {source}.spam_reports
    UNION ALL
    SELECT lower(email), 'hard_bounce', to_timestamp(CAST(created AS BIGINT)) FROM {source}.bounces
    UNION ALL
    SELECT lower(email), 'hard_bounce', to_timestamp(CAST(created AS BIGINT)) FROM {source}.invalid_emails
    UNION ALL
    SELECT lower(email), 'unsubscribed', to_timestamp(CAST(created_at AS BIGINT)) FROM {source}.group_suppressions
) s ON s.email = lower(c.email)
GROUP BY ALL;

-- canonical: campaigns from singlesends, singlesend_stats
SELECT
    canonical.id_number(s.id) AS campaign_id,
    s.name,
    coalesce(nullif(regexp_extract(s.categories, '"kind:([^"]*)"', 1), ''), 'other') AS kind,
    CASE s.status WHEN 'triggered' THEN 'finished' ELSE s.status END AS status,
    canonical.moment(s.send_at) AS send_at,
    canonical.moment(nullif(regexp_extract(s.categories, '"useful-until:([^"]*)"', 1), '')) AS latest_useful_at,
    coalesce(CAST(t.stats ->> '$.requests' AS BIGINT), 0) AS audience,
    CASE s.status WHEN 'triggered' THEN canonical.moment(s.send_at) END AS started_at
FROM {source}.singlesends s
LEFT JOIN {source}.singlesend_stats t ON t.id = s.id
WHERE regexp_extract(coalesce(s.categories, ''), '"catch-up-of:([^"]*)"', 1) = '';

-- canonical: templates from designs, templates
SELECT canonical.id_number(id) AS template_id, name, canonical.moment(updated_at) AS updated_at
FROM {source}.designs
UNION ALL
SELECT canonical.id_number(id), name, canonical.moment(updated_at)
FROM {source}.templates;

-- canonical: messages from singlesends
SELECT NULL AS campaign_id, NULL AS subscriber_id, NULL AS outcome, NULL AS attempted_at, NULL AS updated_at
WHERE false;

-- canonical: events from singlesends
SELECT NULL AS event_id, NULL AS type, NULL AS campaign_id, NULL AS subscriber_id, NULL AS occurred_at
WHERE false;
