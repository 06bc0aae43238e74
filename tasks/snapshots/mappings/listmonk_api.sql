-- listmonk's API (tasks/providers/listmonk_export.py) onto the canonical model: subscriptions and the lists of a
-- campaign stand as JSON in their rows.
-- A catch-up campaign (attribs.catch_up_of) stands for the campaign that it catches up.

-- canonical: subscribers from subscribers
SELECT id AS subscriber_id, email, status, canonical.moment(created_at) AS created_at
FROM {source}.subscribers;

-- canonical: lists from lists
SELECT id AS list_id, name
FROM {source}.lists;

-- canonical: memberships from subscribers
SELECT subscriber_id, list_id, status, updated_at
FROM (
    SELECT
        s.id AS subscriber_id,
        s.status AS subscriber_status,
        CAST(l ->> '$.id' AS BIGINT) AS list_id,
        l ->> '$.subscription_status' AS status,
        canonical.moment(l ->> '$.subscription_updated_at') AS updated_at
    FROM {source}.subscribers s, unnest(CAST(s.lists AS JSON[])) AS u(l)
);

-- canonical: suppressions from subscribers, bounces
SELECT subscriber_id, reason, min(since) AS since
FROM (
    SELECT id AS subscriber_id, 'manual' AS reason, canonical.moment(updated_at) AS since
    FROM {source}.subscribers WHERE status = 'blocklisted'
    UNION ALL
    SELECT subscriber_id, 'unsubscribed', updated_at
    FROM (
        SELECT
            s.id AS subscriber_id,
            s.status AS subscriber_status,
            CAST(l ->> '$.id' AS BIGINT) AS list_id,
            l ->> '$.subscription_status' AS status,
            canonical.moment(l ->> '$.subscription_updated_at') AS updated_at
        FROM {source}.subscribers s, unnest(CAST(s.lists AS JSON[])) AS u(l)
    )
    WHERE status = 'unsubscribed'
    UNION ALL
    SELECT
        subscriber_id,
        CASE type WHEN 'hard' THEN 'hard_bounce' ELSE 'complaint' END,
        canonical.moment(created_at)
    FROM {source}.bounces WHERE type IN ('hard', 'complaint')
)
GROUP BY subscriber_id, reason;

-- canonical: campaigns from campaigns, subscribers
SELECT
    c.id AS campaign_id,
    c.name,
    coalesce(c.attribs ->> '$.kind', 'other') AS kind,
    c.status,
    canonical.moment(c.send_at) AS send_at,
    canonical.moment(c.attribs ->> '$.latest_useful_at') AS latest_useful_at,
    CASE WHEN c.to_send > 0 THEN c.to_send ELSE coalesce(a.people, 0) END AS audience,
    canonical.moment(c.started_at) AS started_at
FROM {source}.campaigns c
LEFT JOIN (
    SELECT l.campaign_id, count(DISTINCT m.subscriber_id) AS people
    FROM (
        SELECT b.id AS campaign_id, CAST(l ->> '$.id' AS BIGINT) AS list_id
        FROM {source}.campaigns b, unnest(CAST(b.lists AS JSON[])) AS u(l)
    ) l
    JOIN (
        SELECT
            s.id AS subscriber_id,
            s.status AS subscriber_status,
            CAST(l ->> '$.id' AS BIGINT) AS list_id,
            l ->> '$.subscription_status' AS status,
            canonical.moment(l ->> '$.subscription_updated_at') AS updated_at
        FROM {source}.subscribers s, unnest(CAST(s.lists AS JSON[])) AS u(l)
    ) m ON m.list_id = l.list_id AND m.status <> 'unsubscribed' AND m.subscriber_status = 'enabled'
    GROUP BY l.campaign_id
) a ON a.campaign_id = c.id
WHERE (c.attribs ->> '$.catch_up_of') IS NULL;

-- canonical: templates from templates
SELECT id AS template_id, name, canonical.moment(updated_at) AS updated_at
FROM {source}.templates;

-- The sender writes `sending` before it speaks to the mail server and `accepted` after the server's 250: a row that
-- stayed `sending` may or may not have gone out. A failure with 5xx is a bounce; any other reached nobody.
-- canonical: messages from messages, campaigns
SELECT campaign_id, subscriber_id, outcome, attempted_at, updated_at
FROM (
    SELECT
        coalesce(CAST(c.attribs ->> '$.catch_up_of' AS BIGINT), m.campaign_id) AS campaign_id,
        m.subscriber_id,
        CASE
            WHEN m.status = 'accepted' THEN 'accepted'
            WHEN m.status = 'sending' THEN 'unknown'
            WHEN m.smtp_code >= 500 THEN 'bounced'
            ELSE 'not_attempted'
        END AS outcome,
        canonical.moment(m.queued_at) AS attempted_at,
        canonical.moment(m.updated_at) AS updated_at
    FROM {source}.messages m
    LEFT JOIN {source}.campaigns c ON c.id = m.campaign_id
)
QUALIFY row_number() OVER (
    PARTITION BY campaign_id, subscriber_id
    ORDER BY
        CASE outcome WHEN 'accepted' THEN 1 WHEN 'unknown' THEN 2 WHEN 'bounced' THEN 3 ELSE 4 END,
        updated_at
) = 1;

-- canonical: events from events, campaigns
SELECT
    e.id AS event_id,
    e.type,
    coalesce(CAST(c.attribs ->> '$.catch_up_of' AS BIGINT), e.campaign_id) AS campaign_id,
    e.subscriber_id,
    canonical.moment(e.occurred_at) AS occurred_at
FROM {source}.events e
LEFT JOIN {source}.campaigns c ON c.id = e.campaign_id;

-- canonical: events from bounces
SELECT
    'bounce-' || id AS event_id,
    CASE type WHEN 'complaint' THEN 'complaint' ELSE 'bounce' END AS type,
    CAST(campaign ->> '$.id' AS BIGINT) AS campaign_id,
    subscriber_id,
    canonical.moment(created_at) AS occurred_at
FROM {source}.bounces;
