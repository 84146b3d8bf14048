"""Lets `posthouse outbox conformance --send 'python manage.py conformance'` check our `send`."""

import json
import sys
from datetime import timedelta

from django.core.management.base import BaseCommand
from django.db import DatabaseError, transaction

from shop.outbox import send


class Command(BaseCommand):
    """A transaction per line, answered with a line."""

    def handle(self, **options):
        for line in sys.stdin:
            wanted = json.loads(line)
            try:
                with transaction.atomic():
                    sent = [send(**with_times(message)) for message in wanted["messages"]]
                    transaction.set_rollback(not wanted["commit"])
                answer = {"ids": sent}
            except DatabaseError as error:
                answer = {"error": str(error)}
            print(json.dumps(answer), flush=True)


def with_times(message):
    """Seconds as Python has them."""
    times = {name: timedelta(seconds=message[name]) for name in ("delay", "expires") if name in message}
    return {**message, **times}
