"""Both ends of django-message-box's wire, as its documents describe it: it is not on any package index.

The receiving end is what it is there: Django REST framework, which checks every field itself.
"""

import datetime
import threading
import uuid
from wsgiref.simple_server import WSGIRequestHandler, make_server

import django
import requests
from django.conf import settings

SECONDS_MAX = 60


def send(url, payload, message=None, headers=()):
    """Posts one message as a django-message-box does, and returns the document and the answer."""
    document = {
        "uuid": str(message or uuid.uuid4()),
        "message_source": "shop",
        "message_type": "orders.placed",
        "origin_create_time": datetime.datetime.now(datetime.timezone.utc).isoformat(),
        "payload": payload,
    }
    headers = {"Content-type": "application/json", **dict(headers)}
    return document, requests.post(url, json=document, headers=headers, timeout=SECONDS_MAX)


class Inbox:
    """An inbox that keeps what its serializer finds good, and answers as `CreateAPIView` does."""

    def __init__(self):
        received = self.received = []
        if not settings.configured:
            settings.configure(
                ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=__name__, INSTALLED_APPS=["rest_framework"], USE_TZ=True,
                REST_FRAMEWORK={"UNAUTHENTICATED_USER": None, "DEFAULT_AUTHENTICATION_CLASSES": []},
            )
            django.setup()
        from django.core.wsgi import get_wsgi_application
        from django.urls import path
        from rest_framework import generics, serializers

        class Message(serializers.Serializer):
            uuid = serializers.UUIDField()
            message_source = serializers.CharField(max_length=50)
            message_type = serializers.CharField(max_length=50)
            origin_create_time = serializers.DateTimeField()
            payload = serializers.JSONField()

            def create(self, validated):
                received.append(validated)
                return validated

        class Receive(generics.CreateAPIView):
            serializer_class = Message

        urlpatterns[:] = [path("inbox/", Receive.as_view())]

        class Quiet(WSGIRequestHandler):
            def log_message(self, *_):
                pass

        self.server = make_server("127.0.0.1", 0, get_wsgi_application(), handler_class=Quiet)
        self.url = f"http://127.0.0.1:{self.server.server_port}/inbox/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        """Stops listening."""
        self.server.shutdown()


# The URLs of the inbox; Django finds them by this module's name.
urlpatterns = []
