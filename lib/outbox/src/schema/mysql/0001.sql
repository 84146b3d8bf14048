-- The outbox: one row per message, in the transaction that sends it. Times are microseconds since 1970, UTC.
create table posthouse_outbox (
    -- Order within a key. Not the order of commits, and nothing reads it as one.
    seq          bigint not null auto_increment primary key,
    -- Its name from end to end, a UUID in small letters; what inboxes recognise duplicates by.
    id           char(36) character set ascii collate ascii_bin not null,
    source       varchar(255) not null default '',
    topic        varchar(255) not null check (topic <> ''),
    -- Messages of one key are sent one after the other.
    `key`        varchar(255),
    -- At most one row per source, topic and dedupe id.
    dedupe_id    varchar(255),
    -- Waiting messages can be withdrawn by it.
    cancel_key   varchar(255),
    content_type varchar(255) not null default 'application/json',
    headers      longtext not null check (json_type(headers) = 'OBJECT'),
    payload      longblob not null,
    created_at   bigint not null default (timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))),
    not_before   bigint not null default (timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))),
    expires_at   bigint,
    -- 0 waiting, 1 delivered, 2 dead, 3 expired, 4 cancelled.
    state        bigint not null default 0 check (state between 0 and 4),
    -- The relay's own columns.
    next_attempt bigint not null default (timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))),
    attempts     bigint not null default 0,
    lease        bigint not null default 0,
    lease_until  bigint not null default 0,
    finished_at  bigint,
    last_error   text,
    constraint posthouse_outbox_uuid check (
        id = lower(id) and id like '________-____-____-____-____________' and unhex(replace(id, '-', '')) is not null),
    constraint posthouse_outbox_lengths check (
        octet_length(source) <= 255 and octet_length(topic) <= 255 and octet_length(`key`) <= 255
        and octet_length(dedupe_id) <= 255 and octet_length(cancel_key) <= 255 and octet_length(content_type) <= 255),
    unique key posthouse_outbox_id (id),
    -- The state comes first: how many rows are finished costs nothing.
    key posthouse_outbox_due (state, next_attempt, seq),
    key posthouse_outbox_key (state, `key`, seq),
    key posthouse_outbox_cancel (state, cancel_key),
    key posthouse_outbox_finished (state, finished_at),
    unique key posthouse_outbox_dedupe (source, topic, dedupe_id)
) engine = InnoDB default character set utf8mb4 collate utf8mb4_bin;

-- The inbox: one row per message that a consumer has handled, in the transaction of its effects.
create table posthouse_inbox (
    consumer    varchar(255) not null,
    id          varchar(255) not null,
    received_at bigint not null default (timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))),
    primary key (consumer, id),
    key posthouse_inbox_received (received_at)
) engine = InnoDB default character set utf8mb4 collate utf8mb4_bin;

-- Sends a message. To be called in the transaction that it belongs to. `options` is null or a JSON object of source, key,
-- dedupe_id, cancel_key, content_type, headers (an object), delay and expires (seconds). `id` is the message's id, or null
-- if a message with this source, topic and dedupe id is there.
-- A procedure and not a function, because servers with a binary log let few users create functions that write.
-- What names no character set would have the server's, and lose what that lacks.
-- body
create procedure posthouse_send(
    in topic varchar(255) character set utf8mb4, in payload longblob, in options longtext character set utf8mb4,
    out id char(36))
modifies sql data
begin
    declare now_us bigint default timestampdiff(microsecond, '1970-01-01', utc_timestamp(6));
    declare due_us bigint;
    declare exit handler for 1062 set id = null;
    set options = coalesce(options, '{}');
    set due_us = now_us + cast(coalesce(json_value(options, '$.delay'), 0) * 1000000 as signed);
    set id = uuid();
    insert into posthouse_outbox
        (id, source, topic, `key`, dedupe_id, cancel_key, content_type, headers, payload, created_at, not_before,
            next_attempt, expires_at)
    values
        (id, coalesce(json_value(options, '$.source'), ''), topic, json_value(options, '$.key'),
            json_value(options, '$.dedupe_id'), json_value(options, '$.cancel_key'),
            coalesce(json_value(options, '$.content_type'), 'application/json'),
            coalesce(json_extract(options, '$.headers'), '{}'), payload, now_us, due_us, due_us,
            now_us + cast(json_value(options, '$.expires') * 1000000 as signed));
end;
-- body
-- Claims a message for a consumer. To be called in the transaction of its effects. `first` is 1 the first time, else 0.
-- body
create procedure posthouse_claim_once(
    in consumer varchar(255) character set utf8mb4, in id varchar(255) character set utf8mb4, out first int)
modifies sql data
begin
    declare exit handler for 1062 set first = 0;
    insert into posthouse_inbox (consumer, id) values (consumer, id);
    set first = 1;
end;
-- body
