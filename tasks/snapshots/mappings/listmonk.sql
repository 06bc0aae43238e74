-- listmonk's tables (and the simulated ESP's extensions messages, events) onto the canonical model.
-- `{source}` is the schema that holds the raw tables. Of two blocks for one table the first that can be built is used.
-- A catch-up campaign (attribs.catch_up_of) stands for the campaign that it catches up.

-- canonical: subscribers from subscribers
SELECT id AS subscriber_id, email, status, created_at
FROM {source}.subscribers;

-- canonical: lists from lists
SELECT id AS list_id, name
FROM {source}.lists;

-- canonical: memberships from subscriber_lists
SELECT subscriber_id, list_id, status, updated_at
FROM {source}.subscriber_lists;

-- canonical: suppressions from subscribers, subscriber_lists, bounces
SELECT subscriber_id, reason, min(since) AS since
FROM (
    SELECT id AS subscriber_id, 'manual' AS reason, updated_at AS since
    FROM {source}.subscribers WHERE status = 'blocklisted'
    UNION ALL
    SELECT subscriber_id, 'unsubscribed', updated_at
    FROM {source}.subscriber_lists WHERE status = 'unsubscribed'
    UNION ALL
    SELECT subscriber_id, CASE type WHEN 'hard' THEN 'hard_bounce' ELSE 'complaint' END, created_at
    FROM {source}.bounces WHERE type IN ('hard', 'complaint')
)
GROUP BY subscriber_id, reason;

-- canonical: campaigns from campaigns, campaign_lists, subscriber_lists, subscribers
SELECT
    c.id AS campaign_id,
    c.name,
    coalesce(c.attribs ->> '$.kind', 'other') AS kind,
    c.status,
    c.send_at,
    timezone('UTC', CAST(c.attribs ->> '$.latest_useful_at' AS TIMESTAMPTZ)) AS latest_useful_at,
    CASE WHEN c.to_send > 0 THEN c.to_send ELSE coalesce(a.people, 0) END AS audience,
    c.started_at
FROM {source}.campaigns c
LEFT JOIN (
    SELECT l.campaign_id, count(DISTINCT m.subscriber_id) AS people
    FROM {source}.campaign_lists l
    JOIN {source}.subscriber_lists m ON m.list_id = l.list_id AND m.status <> 'unsubscribed'
    JOIN {source}.subscribers s ON s.id = m.subscriber_id AND s.status = 'enabled'
    GROUP BY l.campaign_id
) a ON a.campaign_id = c.id
WHERE (c.attribs ->> '$.catch_up_of') IS NULL;

-- canonical: templates from templates
SELECT id AS template_id, name, updated_at
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
        m.queued_at AS attempted_at,
        m.updated_at
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
    e.occurred_at
FROM {source}.events e
LEFT JOIN {source}.campaigns c ON c.id = e.campaign_id;

-- canonical: events from campaign_views, link_clicks, bounces
SELECT 'view-' || id AS event_id, 'open' AS type, campaign_id, subscriber_id, created_at AS occurred_at
FROM {source}.campaign_views
UNION ALL
SELECT 'click-' || id, 'click', campaign_id, subscriber_id, created_at
FROM {source}.link_clicks
UNION ALL
SELECT 'bounce-' || id, CASE type WHEN 'complaint' THEN 'complaint' ELSE 'bounce' END, campaign_id, subscriber_id,
    created_at
FROM {source}.bounces;
