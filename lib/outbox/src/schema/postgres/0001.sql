-- The outbox: one row per message, in the transaction that sends it.
create table posthouse_outbox (
    -- Its name from end to end; what inboxes recognise duplicates by.
    id           uuid primary key default gen_random_uuid(),
    -- Order within a key. Not the order of commits, and nothing reads it as one.
    seq          bigint generated always as identity,
    source       text not null default '',
    topic        text not null check (topic <> ''),
    -- Messages of one key are sent one after the other.
    key          text,
    -- At most one row per source, topic and dedupe id.
    dedupe_id    text,
    -- Waiting messages can be withdrawn by it.
    cancel_key   text,
    content_type text not null default 'application/json',
    headers      jsonb not null default '{}' check (jsonb_typeof(headers) = 'object'),
    payload      bytea not null,
    created_at   timestamptz not null default clock_timestamp(),
    not_before   timestamptz not null default clock_timestamp(),
    expires_at   timestamptz,
    -- 0 waiting, 1 delivered, 2 dead, 3 expired, 4 cancelled.
    state        smallint not null default 0 check (state between 0 and 4),
    -- The relay's own columns.
    next_attempt timestamptz not null default clock_timestamp(),
    attempts     integer not null default 0,
    lease        bigint not null default 0,
    lease_until  timestamptz,
    finished_at  timestamptz,
    last_error   text,
    constraint posthouse_outbox_lengths check (
        octet_length(source) <= 255 and octet_length(topic) <= 255 and octet_length(key) <= 255
        and octet_length(dedupe_id) <= 255 and octet_length(cancel_key) <= 255
        and octet_length(content_type) <= 255)
) with (
    -- Half of a page is left for the versions of its rows that a lease writes: these then touch no index.
    fillfactor = 50,
    -- Rows come and go; the table is small when it is vacuumed often.
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 0
);

-- Waiting rows only: how many are finished costs nothing.
create index posthouse_outbox_due on posthouse_outbox (next_attempt, seq) where state = 0;
-- Not `state = 0`, so that the planner does not take the index above for it; see the relay's statements.
create index posthouse_outbox_key on posthouse_outbox (key, seq) where state < 1 and key is not null;
create index posthouse_outbox_cancel on posthouse_outbox (cancel_key) where state = 0 and cancel_key is not null;
create unique index posthouse_outbox_dedupe on posthouse_outbox (source, topic, dedupe_id) where dedupe_id is not null;
create index posthouse_outbox_finished on posthouse_outbox (finished_at) where state in (1, 3, 4);
create index posthouse_outbox_dead on posthouse_outbox (finished_at, seq) where state = 2;

-- The inbox: one row per message that a consumer has handled, in the transaction of its effects.
create table posthouse_inbox (
    consumer    text not null,
    id          text not null,
    received_at timestamptz not null default clock_timestamp(),
    primary key (consumer, id)
);

create index posthouse_inbox_received on posthouse_inbox (received_at);

-- Sends a message. To be called in the transaction that it belongs to. Returns the message's id, or null if a message with
-- this source, topic and dedupe id is there.
create function posthouse_send_bytes(
    topic        text,
    payload      bytea,
    content_type text,
    source       text default '',
    key          text default null,
    dedupe_id    text default null,
    delay        interval default null,
    expires      interval default null,
    headers      jsonb default '{}',
    cancel_key   text default null
) returns uuid language sql volatile as $$
    insert into posthouse_outbox
        (source, topic, key, dedupe_id, cancel_key, content_type, headers, payload, not_before, next_attempt, expires_at)
    select $4, $1, $5, $6, $10, $3, coalesce($9, '{}'), $2,
           now.now + coalesce($7, interval '0'), now.now + coalesce($7, interval '0'), now.now + $8
    from (select clock_timestamp() as now) now
    on conflict (source, topic, dedupe_id) where dedupe_id is not null do nothing
    returning id
$$;

-- The same with a JSON payload: select posthouse_send('orders.placed', '{"id":7}', key => 'customer-1');
create function posthouse_send(
    topic      text,
    payload    jsonb,
    source     text default '',
    key        text default null,
    dedupe_id  text default null,
    delay      interval default null,
    expires    interval default null,
    headers    jsonb default '{}',
    cancel_key text default null
) returns uuid language sql volatile as $$
    select posthouse_send_bytes(
        $1, convert_to($2::text, 'UTF8'), 'application/json', $3, $4, $5, $6, $7, $8, $9)
$$;

-- Claims a message for a consumer. To be called in the transaction of its effects. True the first time.
create function posthouse_claim_once(consumer text, id text) returns boolean language sql volatile as $$
    with claimed as (
        insert into posthouse_inbox (consumer, id) values ($1, $2) on conflict do nothing returning 1
    )
    select exists (select 1 from claimed)
$$;
