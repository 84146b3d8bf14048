"""Receiving: `POST /inbox/` takes what a relay or a django-message-box sends, and handles each message once."""

import json
import secrets
import uuid

from django.conf import settings
from django.db import connection, transaction
from django.http import JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

FIELDS = ("uuid", "message_source", "message_type", "origin_create_time", "payload")
HANDLERS = {}


def handles(source, topic):
    """Registers a function for the payloads of a source and topic."""

    def register(function):
        HANDLERS[source, topic] = function
        return function

    return register


def claim_once(consumer, message):
    """Whether a message is to be handled now, in the transaction around this call."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("select posthouse_claim_once(%s, %s)", [consumer, message])
            return cursor.fetchone()[0]
        # With the columns named: without, SQLite takes any broken rule for a conflict.
        insert = "insert into posthouse_inbox (consumer, id) values (%s, %s) on conflict (consumer, id) do nothing"
        return cursor.execute(insert, [consumer, message]).rowcount == 1


@csrf_exempt
@require_POST
def inbox(request):
    """201 for a new message and for a duplicate, 400 for none; 500 if its handler fails, and then nothing is kept."""
    if settings.INBOX_TOKEN is not None:
        said, wanted = request.headers.get("Authorization", ""), f"Bearer {settings.INBOX_TOKEN}"
        if not secrets.compare_digest(said.encode(), wanted.encode()):
            return JsonResponse({"detail": "Authentication credentials were not provided."}, status=401)
    try:
        message = json.loads(request.body)
        if missing := [field for field in FIELDS if field not in message]:
            return JsonResponse({field: ["This field is required."] for field in missing}, status=400)
        name = str(uuid.UUID(message["uuid"]))
    except (ValueError, TypeError, AttributeError) as error:
        return JsonResponse({"detail": str(error)}, status=400)
    with transaction.atomic():
        if claim_once("shipping", name):
            HANDLERS[message["message_source"], message["message_type"]](message["payload"])
    return JsonResponse(message, status=201)
