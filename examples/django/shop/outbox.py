"""Sending: one statement in the transaction that causes the message, by the SQL contract of docs/outbox.md."""

import json
import uuid
from datetime import timedelta

from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection
from django.db.transaction import TransactionManagementError

# Microseconds since 1970, by the database's clock.
NOW = "cast(round((julianday('now') - 2440587.5) * 86400000) as integer) * 1000"
SQLITE = f"""
insert into posthouse_outbox
    (id, topic, payload, source, "key", dedupe_id, cancel_key, headers, not_before, next_attempt, expires_at)
values (%s, %s, %s, %s, %s, %s, %s, %s, {NOW} + %s, {NOW} + %s, {NOW} + %s)
on conflict (source, topic, dedupe_id) where dedupe_id is not null do nothing"""
POSTGRES = """
select posthouse_send(%s, %s, source => %s, key => %s, dedupe_id => %s, cancel_key => %s, headers => %s,
    delay => %s, expires => %s)"""


def send(topic, payload, *, source="", key=None, dedupe_id=None, cancel_key=None, headers=None, delay=None, expires=None):
    """Sends a message if the transaction around this call commits, and never if it does not.

    `delay` and `expires` are timedeltas. Returns the message's id, or None if this dedupe id is there already.
    """
    if not connection.in_atomic_block:
        raise TransactionManagementError("send() belongs into transaction.atomic()")
    key, dedupe_id = (None if name is None else str(name) for name in (key, dedupe_id))
    body, headers = json.dumps(payload, cls=DjangoJSONEncoder), json.dumps(headers or {})
    delay = delay or timedelta()
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(POSTGRES, [topic, body, source, key, dedupe_id, cancel_key, headers, delay, expires])
            [sent] = cursor.fetchone()
            return sent and str(sent)
        message, microsecond = str(uuid.uuid4()), timedelta(microseconds=1)
        later = [delay // microsecond] * 2 + [None if expires is None else expires // microsecond]
        cursor.execute(SQLITE, [message, topic, body, source, key, dedupe_id, cancel_key, headers, *later])
        return message if cursor.rowcount else None
