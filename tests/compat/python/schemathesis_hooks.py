"""What schemathesis has to be told: how the body of a queue's PATCH is written, and that no pool is a folder of ours."""

import json

import schemathesis


@schemathesis.serializer("application/openstack-messaging-v2.0-json-patch")
def json_patch(ctx, value):
    """As JSON."""
    return json.dumps(value).encode()


@schemathesis.hook
def before_call(context, case, kwargs):
    """A pool at any path would be made there."""
    if isinstance(case.body, dict) and str(case.body.get("uri", "")).startswith(("/", "file:")):
        case.body["uri"] = "memory:"
