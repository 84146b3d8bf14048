-- The outbox: one row per message, in the transaction that sends it. Times are microseconds since 1970, UTC; the defaults
-- have whole milliseconds, because an application's SQLite may be older than 3.42, which knows `unixepoch('subsec')`.
create table posthouse_outbox (
    -- Order within a key. Not the order of commits, and nothing reads it as one.
    seq          integer primary key autoincrement,
    -- Its name from end to end, a UUID in small letters; what inboxes recognise duplicates by.
    id           text not null unique,
    source       text not null default '',
    topic        text not null check (topic <> ''),
    -- Messages of one key are sent one after the other.
    "key"        text,
    -- At most one row per source, topic and dedupe id.
    dedupe_id    text,
    -- Waiting messages can be withdrawn by it.
    cancel_key   text,
    content_type text not null default 'application/json',
    headers      text not null default '{}' check (json_type(headers) = 'object'),
    payload      blob not null,
    created_at   integer not null default (cast(round((julianday('now') - 2440587.5) * 86400000) as integer) * 1000),
    not_before   integer not null default (cast(round((julianday('now') - 2440587.5) * 86400000) as integer) * 1000),
    expires_at   integer,
    -- 0 waiting, 1 delivered, 2 dead, 3 expired, 4 cancelled.
    state        integer not null default 0 check (state between 0 and 4),
    -- The relay's own columns.
    next_attempt integer not null default (cast(round((julianday('now') - 2440587.5) * 86400000) as integer) * 1000),
    attempts     integer not null default 0,
    lease        integer not null default 0,
    lease_until  integer not null default 0,
    finished_at  integer,
    last_error   text,
    constraint posthouse_outbox_uuid check (
        id like '________-____-____-____-____________' and length(replace(id, '-', '')) = 32
        and id not glob '*[^0-9a-f-]*'),
    constraint posthouse_outbox_lengths check (
        length(cast(source as blob)) <= 255 and length(cast(topic as blob)) <= 255
        and length(cast("key" as blob)) <= 255 and length(cast(dedupe_id as blob)) <= 255
        and length(cast(cancel_key as blob)) <= 255 and length(cast(content_type as blob)) <= 255),
    -- A column of text takes any bytes here, and what reads it does not.
    constraint posthouse_outbox_texts check (
        'blob' not in (typeof(id), typeof(source), typeof(topic), typeof("key"), typeof(dedupe_id), typeof(cancel_key),
            typeof(content_type), typeof(headers)))
);

-- Waiting rows only: how many are finished costs nothing.
create index posthouse_outbox_due on posthouse_outbox (next_attempt, seq) where state = 0;
create index posthouse_outbox_key on posthouse_outbox ("key", seq) where state = 0 and "key" is not null;
create index posthouse_outbox_cancel on posthouse_outbox (cancel_key) where state = 0 and cancel_key is not null;
create unique index posthouse_outbox_dedupe on posthouse_outbox (source, topic, dedupe_id) where dedupe_id is not null;
create index posthouse_outbox_finished on posthouse_outbox (state, finished_at) where finished_at is not null;

-- The inbox: one row per message that a consumer has handled, in the transaction of its effects.
create table posthouse_inbox (
    consumer    text not null,
    id          text not null,
    received_at integer not null default (cast(round((julianday('now') - 2440587.5) * 86400000) as integer) * 1000),
    primary key (consumer, id)
) without rowid;

create index posthouse_inbox_received on posthouse_inbox (received_at);
