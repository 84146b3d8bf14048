"""What holds for every request of the queue service: versions, routes, headers, parameters, bodies."""

import http.client
import urllib.parse

import pytest
import requests

from queue_service import PATCH_TYPE, refused

# Addresses of every route; `N` is a queue's name, `I` an id.
ROUTES = {
    "/v2/": "GET",
    "/v2/ping": "GET, HEAD",
    "/v2/queues": "GET",
    "/v2/queues/N": "DELETE, GET, PATCH, PUT",
    "/v2/queues/N/stats": "GET",
    "/v2/queues/N/share": "POST",
    "/v2/queues/N/purge": "POST",
    "/v2/queues/N/messages": "DELETE, GET, POST",
    "/v2/queues/N/messages/I": "DELETE, GET",
    "/v2/queues/N/claims": "POST",
    "/v2/queues/N/claims/I": "DELETE, GET, PATCH",
    "/v2/queues/N/subscriptions": "GET, POST",
    "/v2/queues/N/subscriptions/I": "DELETE, GET, PATCH",
    "/v2/queues/N/subscriptions/I/confirm": "PUT",
}
ALL_ROUTES = [
    pytest.param(route, marks=pytest.mark.needs("subscriptions")) if "subscriptions" in route else route for route in ROUTES
]
SUBSCRIPTIONS = pytest.param("/subscriptions", marks=pytest.mark.needs("subscriptions"))


def test_the_root_lists_the_versions_to_callers_without_any_header(queues):
    answer = requests.get(queues.http + "/", timeout=30)

    assert answer.status_code == 300
    assert answer.headers["content-type"] == "application/json"
    version = answer.json()["versions"][-1]
    assert version["id"] == "2" and version["status"] == "CURRENT"
    assert version["updated"] == "2014-9-24T04:06:47Z"
    assert version["links"] == [{"href": "/v2/", "rel": "self"}]
    kind = "application/vnd.openstack.messaging-v2+json"
    assert version["media-types"] == [{"base": "application/json", "type": kind}]


def test_the_home_document_names_the_relations_and_their_methods(caller):
    answer = caller.get("/v2/")

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json-home"
    assert answer.headers["cache-control"] == "max-age=86400"
    resources = answer.json()["resources"]
    assert resources["rel/queues"]["href-template"] == "/v2/queues{?marker,limit,detailed}"
    assert resources["rel/queues"]["href-vars"] == {
        "marker": "param/marker", "limit": "param/queue_limit", "detailed": "param/detailed"
    }
    assert sorted(resources["rel/queue"]["hints"]["allow"]) == ["DELETE", "GET", "PATCH", "PUT"]
    assert resources["rel/queue"]["hints"]["formats"] == {"application/json": {}}
    assert resources["rel/post_messages"]["hints"]["accept-post"] == ["application/json"]
    assert resources["rel/claim"]["href-template"] == "/v2/queues/{queue_name}/claims/{claim_id}"
    wanted = {
        "rel/queue_stats", "rel/queue_share", "rel/queue_purge", "rel/messages", "rel/messages_delete", "rel/message_get",
        "rel/message_delete", "rel/post_claim", "rel/patch_claim", "rel/delete_claim", "rel/ping",
    }
    assert wanted <= set(resources)


@pytest.mark.needs("subscriptions")
def test_the_home_document_names_the_relations_of_subscriptions(caller):
    resources = caller.get("/v2/").json()["resources"]

    wanted = {"rel/subscriptions_get", "rel/subscriptions_post", "rel/subscription", "rel/subscription_patch"}
    assert wanted <= set(resources)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_ping_is_answered_without_a_body(caller, method):
    answer = caller.request(method, "/v2/ping")

    assert answer.status_code == 204
    assert answer.content == b""


def test_every_answer_has_a_request_id(caller, queue):
    first = caller.get("/v2/queues").headers["x-openstack-request-id"]
    second = caller.get(f"{queue}/messages/none").headers["x-openstack-request-id"]

    assert first.startswith("req-") and second.startswith("req-")
    assert first != second


@pytest.mark.parametrize("path", ["/v2", "/v2/queues/a/", "/v3/queues", "/v2/nothing", "/nothing"])
def test_routes_are_exact(caller, path):
    answer = caller.get(path)

    assert answer.status_code == 404
    assert answer.json() == {"title": "404 Not Found"}


def test_an_empty_name_is_no_name(caller):
    refused(caller.get("/v2/queues/"), 400, "Invalid queue identification")


@pytest.mark.parametrize("route", ALL_ROUTES)
def test_an_unsupported_method_says_which_are_supported(caller, queue, route):
    path = route.replace("/v2/queues/N", queue).replace("/I", "/none")
    method = "DELETE" if "DELETE" not in ROUTES[route] else "POST" if "POST" not in ROUTES[route] else "PUT"

    answer = caller.request(method, path)

    assert answer.status_code == 405, answer.text
    assert answer.headers["allow"] == f"{ROUTES[route]}, OPTIONS"
    assert answer.json() == {"title": "405 Method Not Allowed"}


@pytest.mark.parametrize("route", [route for route in ALL_ROUTES if route != "/v2/ping"])
def test_head_is_not_derived_from_get(caller, queue, route):
    answer = caller.request("HEAD", route.replace("/v2/queues/N", queue).replace("/I", "/none"))

    assert answer.status_code == 405
    assert answer.content == b""


@pytest.mark.parametrize("route", ["/v2/queues/N", "/v2/queues/N/messages", "/v2/ping"])
def test_options_lists_the_methods(caller, queue, route):
    answer = caller.request("OPTIONS", route.replace("/v2/queues/N", queue))

    assert answer.status_code == 200
    assert answer.headers["allow"] == ROUTES[route]
    assert answer.content == b""


@pytest.mark.parametrize("path", ["/v2/", "/v2/ping", "/v2/queues", "/v2/queues/a/messages"])
def test_the_client_id_is_required(caller, path):
    refused(caller.get(path, headers={"Client-ID": None}), 400, "Missing header value", '"Client-Id"')


@pytest.mark.parametrize("client_id", ["", "nobody", "3381af92-2b9e-11e3-b191-7186130073", "g" * 32])
def test_a_client_id_is_a_uuid(caller, client_id):
    answer = caller.get("/v2/queues", headers={"Client-ID": client_id})

    if client_id:
        refused(answer, 400, "Wrong UUID value", "Malformed hexadecimal UUID.")
    else:
        assert answer.status_code == 400


@pytest.mark.parametrize(
    "client_id",
    [
        "3381af92-2b9e-11e3-b191-71861300734c",
        "3381af922b9e11e3b19171861300734c",
        "{3381AF92-2b9e-11e3-b191-71861300734c}",
        "urn:uuid:3381af92-2b9e-11e3-b191-71861300734c",
    ],
)
def test_a_client_id_has_any_form_of_a_uuid(caller, client_id):
    assert caller.get("/v2/queues", headers={"Client-ID": client_id}).status_code == 200


def test_the_project_is_required(caller, queue):
    refused(caller.get(queue, headers={"X-Project-Id": None}), 400, "Project-Id Missing")
    refused(caller.get(queue, headers={"X-Project-Id": ""}), 400, "Empty project header not allowed")


def test_a_project_of_more_than_256_characters_names_no_queue(caller, queue):
    # Ours is a virtual host too, whose name AMQP gives 255 bytes.
    longest = caller.service.expects(255, 256)
    assert caller.put(queue, headers={"X-Project-Id": "p" * longest}).status_code == 201

    refused(caller.get(queue, headers={"X-Project-Id": "p" * 257}), 400, "Invalid queue identification")


@pytest.mark.parametrize("accept", ["application/json", "*/*", "application/*", "text/plain, application/json;q=0.1"])
def test_accept_may_admit_json_in_any_way(caller, accept):
    assert caller.get("/v2/queues", headers={"Accept": accept}).status_code == 200


@pytest.mark.parametrize("accept", ["text/plain", "application/json;q=0", "application/xml"])
def test_who_does_not_accept_json_gets_nothing(caller, accept):
    assert caller.get("/v2/queues", headers={"Accept": accept}).status_code == 406


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "Application/X-WWW-Form-Urlencoded"])
def test_a_form_is_no_json(caller, queue, kind):
    answer = caller.post(f"{queue}/messages", {"messages": [{"body": 1}]}, headers={"Content-Type": kind})

    refused(answer, 400, "Invalid Content-Type")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/json; charset=utf-8"])
def test_any_other_content_type_is_taken_as_json(caller, queue, kind):
    answer = caller.post(f"{queue}/messages", data=b'{"messages": [{"body": 1}]}', headers={"Content-Type": kind})

    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize("name", ["a", "A-Za_z0-9.", "." * 64, "x" * 64, "-", "_"])
def test_these_are_names_of_queues(caller, name):
    # Clients would resolve the dots of a path.
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(caller.service.http).netloc, timeout=30)
    connection.request("PUT", f"/v2/queues/{name}", headers=caller.headers)

    assert connection.getresponse().status == 201


@pytest.mark.parametrize("name", ["x" * 65, "a%20b", "a%2Fb", "caf%C3%A9", "a%00", "a$", "a:b"])
@pytest.mark.parametrize("rest", ["", "/messages"])
def test_these_are_no_names_of_queues(caller, name, rest):
    if caller.service.is_zaqar and name == "a%2Fb":
        pytest.skip("gunicorn decodes the slash before the route is looked up")
    answer = caller.get(f"/v2/queues/{name}{rest}")

    description = "The format of the submitted queue name or project id is not valid."
    refused(answer, 400, "Invalid queue identification", description)


@pytest.mark.parametrize("text", ["true", "True", "t", "yes", "y", "1", "on", "false", "False", "f", "no", "n", "0", "off", ""])
def test_these_are_booleans(caller, text):
    assert caller.get(f"/v2/queues?detailed={text}").status_code == 200


@pytest.mark.parametrize("text", ["TRUE", "maybe", "2"])
def test_these_are_no_booleans(caller, text):
    description = 'The "detailed" parameter is invalid. The value of the parameter must be "true" or "false".'
    refused(caller.get(f"/v2/queues?detailed={text}"), 400, "Invalid parameter", description)


@pytest.mark.parametrize("text", ["ten", "1.5", "0x1"])
def test_a_limit_is_an_integer(caller, queue, text):
    description = 'The "limit" parameter is invalid. The value must be an integer.'
    refused(caller.get(f"/v2/queues?limit={text}"), 400, "Invalid parameter", description)
    refused(caller.get(f"{queue}/messages?limit={text}"), 400, "Invalid parameter", description)


@pytest.mark.parametrize(
    "data",
    [b"{", b'"text"', b"1", b"null", b"\xff\xfe", b'{"messages": [', b"{'messages': []}", b'{"messages": [{"body": 1}]} x'],
)
def test_what_is_no_json_document_is_refused(caller, queue, data):
    answer = caller.post(f"{queue}/messages", data=data)

    refused(answer, 400, "Invalid request body", "could not be parsed")


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_integers_have_64_bits(caller, queue, number):
    answer = caller.post(f"{queue}/messages", {"messages": [{"body": number}]})

    refused(answer, 400, "Invalid request body", "JSON contains integer that is too large.")


def test_a_request_without_its_body_says_so(caller, queue):
    empty = caller.post(f"{queue}/messages", data=b"")
    refused(empty, 400, "Invalid request body")

    missing = caller.change_metadata(queue)
    refused(missing, 400, "Invalid request body", "PATCH body could not be empty for update.")


@pytest.mark.parametrize("path", ["/claims", SUBSCRIPTIONS, "/share"])
@pytest.mark.parametrize("depth", [10_000, 60_000])
def test_deep_json_is_refused_and_not_followed(caller, ours_only, queue, path, depth):
    answer = caller.post(queue + path, data=b"[" * depth + b"]" * depth)

    # Beyond what such a request may be long it is refused unread.
    assert answer.status_code in (400, 413), answer.text


def test_a_patch_needs_its_own_type(caller, queue):
    caller.put(queue)

    answer = caller.patch(queue, [])

    refused(answer, 415, "415 Unsupported Media Type", f"{{'Accept-Patch': '{PATCH_TYPE}'}}")
