"""What schemathesis has to be told: how the body of a queue's PATCH is written."""

import json

import schemathesis


@schemathesis.serializer("application/openstack-messaging-v2.0-json-patch")
def json_patch(ctx, value):
    """As JSON."""
    return json.dumps(value).encode()
