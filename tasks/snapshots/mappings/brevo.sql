-- Brevo's export (tasks/providers/brevo_export.py) onto the canonical model.
-- People carry the shop's customer number where they have one (ext_id), else one made from Brevo's own id. Brevo does
-- not say who got a campaign; its events are those of transactional mail, which belong to no campaign.

-- What is not clearly allowed is not, whatever type it has.
-- canonical: subscribers from contacts, blocked_contacts
SELECT
    canonical.person_number(coalesce(nullif(c.ext_id, ''), c.attributes ->> '$.EXT_ID'), CAST(c.id AS VARCHAR))
        AS subscriber_id,
    c.email,
    CASE
        WHEN CAST(c."emailBlacklisted" AS VARCHAR) IS DISTINCT FROM 'false'
            OR lower(c.email) IN (SELECT lower(b.email) FROM {source}.blocked_contacts b) THEN 'blocklisted'
        ELSE 'enabled'
    END AS status,
    canonical.moment(c."createdAt") AS created_at
FROM {source}.contacts c;

-- canonical: lists from lists
SELECT id AS list_id, name
FROM {source}.lists;

-- What Brevo calls modified is the best it tells of when a subscription changed.
-- canonical: memberships from contacts
SELECT
    canonical.person_number(coalesce(nullif(ext_id, ''), attributes ->> '$.EXT_ID'), CAST(id AS VARCHAR))
        AS subscriber_id,
    list_id,
    max(status) AS status,
    canonical.moment(any_value(CASE WHEN status = 'unsubscribed' THEN "modifiedAt" ELSE "createdAt" END))
        AS updated_at
FROM (
    SELECT *, 'confirmed' AS status, unnest(CAST("listIds" AS BIGINT[])) AS list_id FROM {source}.contacts
    UNION ALL
    SELECT *, 'unsubscribed' AS status, unnest(CAST("listUnsubscribed" AS BIGINT[])) AS list_id
    FROM {source}.contacts
)
GROUP BY id, ext_id, attributes, list_id;

-- canonical: suppressions from contacts, blocked_contacts
SELECT
    canonical.person_number(coalesce(nullif(c.ext_id, ''), c.attributes ->> '$.EXT_ID'), CAST(c.id AS VARCHAR))
        AS subscriber_id,
    s.reason,
    min(s.since) AS since
FROM {source}.contacts c
JOIN (
    SELECT lower(email) AS email, 'unsubscribed' AS reason, canonical.moment("modifiedAt") AS since
    FROM {source}.contacts WHERE CAST("emailBlacklisted" AS VARCHAR) IS DISTINCT FROM 'false'
    UNION ALL
    SELECT lower(email), 'unsubscribed', canonical.moment("modifiedAt")
    FROM {source}.contacts WHERE len(CAST("listUnsubscribed" AS BIGINT[])) > 0
    UNION ALL
    SELECT
        lower(email),
        CASE reason ->> '$.code'
            WHEN 'hardBounce' THEN 'hard_bounce'
            WHEN 'contactFlaggedAsSpam' THEN 'complaint'
            WHEN 'unsubscribedViaMA' THEN 'unsubscribed'
            WHEN 'unsubscribedViaEmail' THEN 'unsubscribed'
            WHEN 'unsubscribedViaApi' THEN 'unsubscribed'
            ELSE 'manual'
        END,
        canonical.moment("blockedAt")
    FROM {source}.blocked_contacts
) s ON s.email = lower(c.email)
GROUP BY ALL;

-- canonical: campaigns from campaigns
SELECT
    id AS campaign_id,
    name,
    coalesce(nullif(regexp_extract(tag, '(?:^|;)\s*kind:([^;]*)', 1), ''), 'other') AS kind,
    CASE status
        WHEN 'suspended' THEN 'paused'
        WHEN 'queued' THEN 'scheduled'
        WHEN 'inReview' THEN 'scheduled'
        WHEN 'in_review' THEN 'scheduled'
        WHEN 'inProcess' THEN 'running'
        WHEN 'in_process' THEN 'running'
        WHEN 'sent' THEN 'finished'
        WHEN 'archive' THEN 'finished'
        ELSE status
    END AS status,
    canonical.moment("scheduledAt") AS send_at,
    canonical.moment(nullif(trim(regexp_extract(tag, '(?:^|;)\s*useful-until:([^;]*)', 1)), '')) AS latest_useful_at,
    coalesce(CAST(statistics ->> '$.globalStats.sent' AS BIGINT), 0)
        + coalesce(CAST(statistics ->> '$.remaining' AS BIGINT), 0) AS audience,
    canonical.moment("sentDate") AS started_at
FROM {source}.campaigns
WHERE regexp_extract(coalesce(tag, ''), '(?:^|;)\s*catch-up-of:([^;]*)', 1) = '';

-- canonical: templates from templates
SELECT id AS template_id, name, canonical.moment("modifiedAt") AS updated_at
FROM {source}.templates;

-- canonical: messages from campaigns
SELECT NULL AS campaign_id, NULL AS subscriber_id, NULL AS outcome, NULL AS attempted_at, NULL AS updated_at
WHERE false;

-- canonical: events from events, contacts
SELECT
    substr(sha256(concat_ws('|', e."messageId", e.event, CAST(e.date AS VARCHAR), e.email, e.link)), 1, 32) AS event_id,
    CASE e.event
        WHEN 'requests' THEN 'sent'
        WHEN 'opened' THEN 'open'
        WHEN 'loadedByProxy' THEN 'open'
        WHEN 'clicks' THEN 'click'
        WHEN 'hardBounces' THEN 'bounce'
        WHEN 'softBounces' THEN 'bounce'
        WHEN 'bounces' THEN 'bounce'
        WHEN 'invalid' THEN 'bounce'
        WHEN 'blocked' THEN 'bounce'
        WHEN 'spam' THEN 'complaint'
        WHEN 'unsubscribed' THEN 'unsubscribe'
        ELSE e.event
    END AS type,
    NULL AS campaign_id,
    canonical.person_number(coalesce(nullif(c.ext_id, ''), c.attributes ->> '$.EXT_ID'), CAST(c.id AS VARCHAR))
        AS subscriber_id,
    canonical.moment(e.date) AS occurred_at
FROM {source}.events e
LEFT JOIN {source}.contacts c ON lower(c.email) = lower(e.email);
