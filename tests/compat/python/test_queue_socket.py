"""The queue service over WebSocket: JSON and MessagePack, every action, push."""

import contextlib
import json
import uuid

import msgpack
import pytest
import websocket

from program import eventually
from queue_service import Caller


pytestmark = pytest.mark.needs("sockets")


class Socket:
    """A connection that answers one request after the other."""

    def __init__(self, url, project=None):
        self.project = project or uuid.uuid4().hex
        self.client_id = str(uuid.uuid4())
        self.connection = websocket.create_connection(url, timeout=20)
        self.pushed = []

    def send(self, action, body=None, headers=None, packed=False, **more):
        """Sends a request and returns its answer; frames that nobody asked for go to `pushed`."""
        request = {"action": action, "headers": {"Client-ID": self.client_id, "X-Project-ID": self.project, **(headers or {})}}
        request.update(more)
        if body is not None:
            request["body"] = body
        if packed:
            self.connection.send_binary(msgpack.packb(request))
        else:
            self.connection.send(json.dumps(request))
        while True:
            answer = self.receive()
            if "request" in answer:
                return answer
            self.pushed.append(answer)

    def receive(self):
        """The next frame."""
        kind, data = self.connection.recv_data()
        assert kind in (websocket.ABNF.OPCODE_TEXT, websocket.ABNF.OPCODE_BINARY), (kind, data)
        return json.loads(data) if kind == websocket.ABNF.OPCODE_TEXT else msgpack.unpackb(data)

    def done(self, status, action, **body):
        """Sends a request, asserts the status and returns the body of the answer."""
        answer = self.send(action, body)
        assert answer["headers"]["status"] == status, answer
        return answer["body"]


@pytest.fixture
def connect(queues):
    """Opens connections and closes them at the end."""
    if not queues.sockets:
        pytest.skip("no address of WebSocket was given")
    with contextlib.ExitStack() as stack:

        def one(project=None):
            socket = Socket(queues.sockets, project)
            stack.callback(socket.connection.close)
            return socket

        yield one


@pytest.fixture
def socket(connect):
    return connect()


def test_an_answer_repeats_its_request(socket, queues):
    answer = socket.send("queue_create", {"queue_name": "kitchen"})

    headers = {"Client-ID": socket.client_id, "X-Project-ID": socket.project}
    wanted = {"action": "queue_create", "body": {"queue_name": "kitchen"}, "headers": headers, "api": "v2"}
    assert answer == {"request": wanted, "body": "Queue kitchen created.", "headers": {"status": 201}}


def test_binary_frames_are_answered_in_kind(socket):
    answer = socket.send("message_post", {"queue_name": "q", "messages": [{"body": {"a": 1}, "ttl": 60}]}, packed=True)

    assert answer["headers"]["status"] == 201 and len(answer["body"]["message_ids"]) == 1
    listed = socket.send("message_list", {"queue_name": "q", "echo": True}, packed=True)
    assert listed["body"]["messages"][0]["body"] == {"a": 1}


def test_queues(socket):
    assert socket.done(201, "queue_create", queue_name="a", metadata={"colour": "red"}) == "Queue a created."
    assert socket.done(204, "queue_create", queue_name="a") == "Queue a created."
    assert socket.done(200, "queue_get", queue_name="a") == {"colour": "red"}
    assert socket.done(200, "queue_list") == {"queues": [{"name": "a"}]}
    assert socket.done(200, "queue_list", detailed=True) == {"queues": [{"name": "a", "metadata": {"colour": "red"}}]}
    assert socket.done(204, "queue_delete", queue_name="a") == "Queue a removed."
    assert socket.done(200, "queue_list") == {"queues": []}


def test_statistics(socket):
    empty = {"messages": {"claimed": 0, "free": 0, "total": 0}}
    assert socket.done(404, "queue_get_stats", queue_name="none") == empty
    socket.done(201, "message_post", queue_name="a", messages=[{"body": 1, "ttl": 60}])

    messages = socket.done(200, "queue_get_stats", queue_name="a")["messages"]

    assert (messages["claimed"], messages["free"], messages["total"]) == (0, 1, 1)


def test_messages(socket, queues):
    posted = socket.done(201, "message_post", queue_name="a", messages=[{"body": n, "ttl": 60} for n in range(3)])
    ids = posted["message_ids"]

    listed = socket.done(200, "message_list", queue_name="a", echo=True)["messages"]
    assert [message["body"] for message in listed] == [0, 1, 2]
    assert [message["id"] for message in listed] == ids
    assert socket.done(200, "message_list", queue_name="a")["messages"] == []
    assert socket.done(200, "message_get", queue_name="a", message_id=ids[1])["messages"]["body"] == 1
    many = socket.done(200, "message_get_many", queue_name="a", message_ids=[ids[0], ids[2]])["messages"]
    assert sorted(message["body"] for message in many) == [0, 2]
    assert socket.done(204, "message_delete", queue_name="a", message_id=ids[0]) == {}
    popped = socket.done(200, "message_delete_many", queue_name="a", pop=1)["messages"]
    assert [message["body"] for message in popped] == [1]
    assert socket.done(204, "message_delete_many", queue_name="a", message_ids=[ids[2]]) == {}
    socket.done(404, "message_get", queue_name="a", message_id=ids[0])


def test_claims(socket, queues):
    nothing = socket.done(204, "claim_create", queue_name="a")
    # The Redis store gives an id even so.
    assert queues.expects(nothing, {"claim_id": None}) == {"claim_id": None}
    socket.done(201, "message_post", queue_name="a", messages=[{"body": n, "ttl": 60} for n in range(3)])

    claim = socket.done(201, "claim_create", queue_name="a", ttl=100, grace=60, limit=2)

    assert [message["body"] for message in claim["messages"]] == [0, 1]
    name = {"queue_name": "a", "claim_id": claim["claim_id"]}
    shown = socket.done(200, "claim_get", **name)
    assert shown["ttl"] == 100 and len(shown["messages"]) == 2
    assert socket.done(204, "claim_update", **name, ttl=200, grace=60) == f"Claim {claim['claim_id']} updated."
    one = claim["messages"][0]["id"]
    socket.done(403, "message_delete", queue_name="a", message_id=one)
    socket.done(204, "message_delete", queue_name="a", message_id=one, claim_id=claim["claim_id"])
    assert socket.done(204, "claim_delete", **name) == f"Claim {claim['claim_id']} deleted."
    socket.done(404, "claim_get", **name)


@pytest.mark.needs("subscriptions")
def test_subscriptions(socket):
    subscriber = "http://127.0.0.1:1/"
    created = socket.done(201, "subscription_create", queue_name="a", subscriber=subscriber, ttl=100, options={"a": 1})
    assert created["message"] == "Subscription a created."
    name = {"queue_name": "a", "subscription_id": created["subscription_id"]}

    shown = socket.done(200, "subscription_get", **name)

    assert (shown["subscriber"], shown["ttl"], shown["options"], shown["source"]) == (subscriber, 100, {"a": 1}, "a")
    assert len(socket.done(200, "subscription_list", queue_name="a")["subscriptions"]) == 1
    removed = socket.done(204, "subscription_delete", **name)
    assert removed == f"Subscription {created['subscription_id']} removed."
    socket.done(404, "subscription_get", **name)


def test_purge(socket):
    socket.done(201, "message_post", queue_name="a", messages=[{"body": 1, "ttl": 60}])

    assert socket.done(204, "queue_purge", queue_name="a", resource_types=["messages"]) == {}

    assert socket.done(200, "queue_get_stats", queue_name="a")["messages"]["total"] == 0


@pytest.mark.parametrize(
    "frame, text",
    [
        ("{", "Can't decode text (JSON) request."),
        ("[]", "Unexpected body type. Expected dict or dict like."),
        ("1", "Unexpected body type. Expected dict or dict like."),
    ],
)
def test_a_frame_that_is_no_request_is_answered(socket, frame, text):
    socket.connection.send(frame)

    answer = socket.receive()

    assert answer["headers"]["status"] == 400 and text in answer["body"]["error"]
    assert socket.done(200, "queue_list") == {"queues": []}


@pytest.mark.parametrize("action", ["message_fly", None, ""])
def test_other_actions_are_refused(socket, action):
    answer = socket.send(action, {})

    assert answer["headers"]["status"] == 400
    assert answer["body"] == {"error": f"{action} is not a valid action"}


@pytest.mark.parametrize(
    "action, body",
    [
        ("queue_create", {}), ("queue_create", {"queue_name": 1}), ("message_post", {"queue_name": "a"}),
        ("message_post", {"queue_name": "a", "messages": {}}), ("claim_create", {"queue_name": "a", "limit": "1"}),
        ("message_list", {"queue_name": "a", "echo": 1}), ("queue_create", None), ("message_get", {"queue_name": "a"}),
    ],
)
def test_bodies_that_break_the_schema_are_refused(socket, action, body):
    answer = socket.send(action, body)

    assert answer["headers"]["status"] == 400
    assert answer["body"]["error"].startswith("Schema validation failed.")


@pytest.mark.parametrize("header", ["Client-ID", "X-Project-ID"])
def test_the_headers_are_required(socket, header):
    request = {"action": "queue_list", "headers": {"Client-ID": socket.client_id, "X-Project-ID": socket.project}, "body": {}}
    del request["headers"][header]
    socket.connection.send(json.dumps(request))

    assert socket.receive()["headers"]["status"] == 400


@pytest.mark.parametrize(
    "action, body, text",
    [
        ("queue_create", {"queue_name": "a/b"}, None),
        ("message_post", {"queue_name": "a", "messages": [{"ttl": 1, "body": 1}]}, "The TTL for a message may not exceed"),
        ("message_post", {"queue_name": "a", "messages": [{"ttl": 60}]}, 'Missing "body" field.'),
        ("message_list", {"queue_name": "a", "limit": 21}, "Limit must be at least 1"),
        ("claim_create", {"queue_name": "a", "ttl": 1}, "The TTL for a claim may not exceed"),
        ("subscription_create", {"queue_name": "a", "subscriber": "http://a/", "ttl": 1}, "The TTL for a subscription"),
    ],
)
def test_values_beyond_the_limits_are_refused(socket, action, body, text):
    answer = socket.send(action, body)

    assert answer["headers"]["status"] == 400, answer
    if text:
        assert text in json.dumps(answer["body"]).replace('\\"', '"')


@pytest.mark.needs("subscriptions")
def test_a_socket_that_subscribes_gets_what_is_posted_by_any_door(socket, queues):
    socket.done(201, "subscription_create", queue_name="a", ttl=600)
    web = Caller(queues, socket.project)

    web.post_bodies("/v2/queues/a", {"n": 1}, ttl=120)
    first = socket.receive()
    socket.done(201, "message_post", queue_name="a", messages=[{"body": 2, "ttl": 130}])
    eventually(lambda: socket.pushed or socket.pushed.append(socket.receive()) or socket.pushed)

    assert first == {"ttl": 120, "body": {"n": 1}, "Message_Type": "Notification", "queue_name": "a"}
    assert socket.pushed[0] == {"ttl": 130, "body": 2, "Message_Type": "Notification", "queue_name": "a"}


@pytest.mark.needs("subscriptions")
def test_the_subscription_of_a_socket_ends_with_it(connect, queues):
    gone = connect()
    gone.done(201, "subscription_create", queue_name="a", ttl=600)
    web = Caller(queues, gone.project)
    assert len(web.get("/v2/queues/a/subscriptions").json()["subscriptions"]) == 1

    gone.connection.close()

    eventually(lambda: web.get("/v2/queues/a/subscriptions").json()["subscriptions"] == [], what="the end of it")


def test_projects_do_not_see_each_other(connect):
    mine, theirs = connect(), connect()
    (one,) = mine.done(201, "message_post", queue_name="a", messages=[{"body": 1, "ttl": 60}])["message_ids"]

    assert theirs.done(200, "queue_list") == {"queues": []}
    theirs.done(404, "message_get", queue_name="a", message_id=one)


def test_authentication_that_is_off_is_answered(socket, ours_only):
    answer = socket.send("authenticate", headers={"X-Auth-Token": "any"})

    assert (answer["headers"]["status"], answer["body"]) == (200, {"message": "Authentified."})


@pytest.mark.parametrize("action", ["get_home_doc", "check_node_health", "ping_node", "pool_list", "flavor_list"])
def test_actions_that_zaqar_declares_and_never_answers_are_answered(socket, ours_only, action):
    answer = socket.send(action, {})

    assert answer["headers"]["status"] in (200, 204, 403, 404), answer


def test_a_request_id_comes_back(socket, ours_only):
    answer = socket.send("queue_list", {}, request_id="seven")

    assert answer["request_id"] == "seven"
