-- The shop's tables onto the canonical model. `{source}` is the schema that holds the raw tables.
-- A block begins with its canonical table and the raw tables it needs.

-- canonical: orders from orders
SELECT order_id, customer_id AS subscriber_id, ordered_at, total_minor, currency, channel, campaign_id
FROM {source}.orders
WHERE kind = 'sale';

-- canonical: order_lines from order_lines, orders
SELECT l.order_id, l.line_no, l.stock_code, l.quantity, l.line_total_minor
FROM {source}.order_lines l
JOIN {source}.orders o ON o.order_id = l.order_id
WHERE o.kind = 'sale';

-- canonical: refunds from returns
SELECT return_id AS refund_id, customer_id AS subscriber_id, returned_at AS refunded_at, total_minor, currency
FROM {source}.returns;
