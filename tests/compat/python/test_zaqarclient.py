"""python-zaqarclient, the published client of OpenStack: over HTTP, over WebSocket, by signed URL."""

import json
import uuid

import pytest
from zaqarclient import transport
from zaqarclient.queues import client as zaqarclient
from zaqarclient.transport import errors, request


def connect(queues, project, **options):
    options = {"backend": "noauth", "options": {"os_project_id": project}, **options}
    return zaqarclient.Client(queues.http, version=2, conf={"auth_opts": options})


@pytest.fixture
def client(queues):
    return connect(queues, uuid.uuid4().hex)


@pytest.fixture
def other(client, queues):
    """Another client of the same project."""
    return connect(queues, client.auth_opts["options"]["os_project_id"])


def test_a_queue_lives_and_dies(client):
    queue = client.queue("kitchen", force_create=True)

    listed, _ = client.queues()
    assert [one.name for one in listed] == ["kitchen"]
    assert queue.metadata()["_max_messages_post_size"] == 262144
    assert queue.stats["messages"]["total"] == 0
    queue.delete()
    assert list(client.queues()[0]) == []


def test_metadata_change(client):
    queue = client.queue("kitchen", force_create=True)

    queue.metadata({"colour": "red", "size": 3})
    changed = queue.metadata({"colour": "blue"})

    assert changed["colour"] == "blue" and "size" not in changed


def test_queues_are_listed_over_pages(client):
    for number in range(25):
        client.queue(f"q{number:02}", force_create=True)

    listed, count = client.queues(limit=10, with_count=True)

    assert [queue.name for queue in listed.stream()] == [f"q{number:02}" for number in range(25)]
    assert count


def test_messages_are_posted_listed_and_deleted(client, other):
    queue = client.queue("kitchen")
    posted = queue.post([{"body": {"n": n}, "ttl": 120} for n in range(25)])
    assert len(posted["resources"]) == 25

    messages = list(other.queue("kitchen").messages(limit=10).stream())

    assert [message.body["n"] for message in messages] == list(range(25))
    assert messages[0].ttl == 120 and messages[0].age < 60
    assert queue.message(messages[3].id).body == {"n": 3}
    messages[0].delete()
    queue.delete_messages(messages[1].id, messages[2].id)
    assert [message.body["n"] for message in queue.messages(echo=True, limit=20).stream()] == list(range(3, 25))
    with pytest.raises(errors.ResourceNotFound):
        queue.message(messages[0].id)


def test_a_pop_takes_messages(client):
    queue = client.queue("kitchen")
    queue.post([{"body": n, "ttl": 60} for n in range(3)])

    assert [message.body for message in queue.pop(2)] == [0, 1]
    assert queue.stats["messages"]["free"] == 1


def test_claimed_messages_are_worked_on_and_deleted(client, other):
    queue = client.queue("kitchen")
    queue.post([{"body": n, "ttl": 60} for n in range(4)])

    claim = other.queue("kitchen").claim(ttl=100, grace=60, limit=3)

    messages = list(claim)
    assert [message.body for message in messages] == [0, 1, 2]
    assert claim.age < 60
    claim.update(ttl=600, grace=60)
    assert other.queue("kitchen").claim(id=claim.id).ttl == 600
    messages[0].delete()
    claim.delete()
    assert [message.body for message in queue.claim(ttl=60, grace=60)] == [1, 2, 3]


def test_a_claim_of_nothing_is_empty(client):
    assert list(client.queue("kitchen").claim(ttl=60, grace=60)) == []


@pytest.mark.needs("subscriptions")
def test_subscriptions(client):
    subscription = client.subscription("kitchen", subscriber="http://127.0.0.1:1/", ttl=600)

    subscription.update({"ttl": 700, "subscriber": "http://127.0.0.1:1/b"})
    assert [(one.subscriber, one.ttl) for one in client.subscriptions("kitchen")] == [("http://127.0.0.1:1/b", 700)]
    shown = client.subscription("kitchen", id=subscription.id, auto_create=False)
    shown.ensure_exists()
    assert shown.ttl == 700
    subscription.delete()
    assert list(client.subscriptions("kitchen")) == []


def test_a_purge_empties(client):
    queue = client.queue("kitchen")
    queue.post([{"body": 1, "ttl": 60}])

    queue.purge(resource_types=["messages"])

    assert queue.stats["messages"]["total"] == 0


def test_refusals_are_the_clients_errors(client):
    queue = client.queue("kitchen")

    with pytest.raises(errors.MalformedRequest, match="The TTL for a message may not exceed"):
        queue.post({"body": 1, "ttl": 1})
    with pytest.raises(errors.ResourceNotFound):
        queue.message("0" * 24)


def test_the_home_document_and_ping(client):
    assert "rel/queues" in client.homedoc()["resources"]
    assert client.ping() is True


def test_a_signed_url_is_used_by_the_client(client, queues):
    queue = client.queue("kitchen")
    queue.post([{"body": "shared", "ttl": 60}])
    signed = queue.signed_url(paths=["messages"], ttl_seconds=600, methods=["GET", "POST"])

    options = {
        "signature": signed["signature"], "expires": signed["expires"], "methods": signed["methods"],
        "paths": signed["paths"], "os_project_id": signed["project"],
    }
    stranger = connect(queues, signed["project"], backend="signed-url", options=options)

    shared = stranger.queue("kitchen", auto_create=False)
    assert [message.body for message in shared.messages()] == ["shared"]
    shared.post({"body": "answer", "ttl": 60})
    with pytest.raises(errors.ResourceNotFound):
        shared.stats


@pytest.mark.needs("sockets")
class TestOverWebSocket:
    """The client's other transport. It says `authenticate` first, at which real Zaqar without Keystone hangs up."""

    @pytest.fixture
    def send(self, queues, ours_only):
        options = {"os_auth_token": "none", "os_project_id": uuid.uuid4().hex}
        conf = {"auth_opts": {"backend": "keystone", "options": options}}
        with transport.get_transport_for(queues.sockets, options=conf) as socket:

            def one(action, **body):
                answer = socket.send(request.Request(queues.sockets, action, content=json.dumps(body) if body else None))
                return json.loads(answer.content)

            one.socket = socket
            yield one

    def test_messages_are_posted_claimed_and_deleted(self, send):
        assert send("queue_create", queue_name="kitchen") == "Queue kitchen created."
        posted = send("message_post", queue_name="kitchen", messages=[{"body": n, "ttl": 60} for n in range(3)])

        claim = send("claim_create", queue_name="kitchen", ttl=100, grace=60, limit=2)

        assert [message["id"] for message in claim["messages"]] == posted["message_ids"][:2]
        for message in claim["messages"]:
            send("message_delete", queue_name="kitchen", message_id=message["id"], claim_id=claim["claim_id"])
        left = send("message_list", queue_name="kitchen", echo=True)["messages"]
        assert [message["body"] for message in left] == [2]

    def test_refusals_are_the_clients_errors(self, send):
        with pytest.raises(errors.ResourceNotFound):
            send("message_get", queue_name="kitchen", message_id="0" * 24)
        with pytest.raises(errors.MalformedRequest):
            send("message_post", queue_name="kitchen")

    @pytest.mark.needs("subscriptions")
    def test_a_subscription_pushes(self, send):
        send("subscription_create", queue_name="kitchen", ttl=600)
        send("queue_list")

        # The answer of the post and the notification may come in either order; the client takes the next frame.
        frame = {"action": "message_post", "body": {"queue_name": "kitchen", "messages": [{"body": 1, "ttl": 60}]}}
        frame["headers"] = {"Client-ID": send.socket._websocket_client_id, "X-Project-ID": send.socket._project_id}
        send.socket._ws.send(json.dumps(frame))
        frames = [send.socket.recv(), send.socket.recv()]

        pushed = [frame for frame in frames if "request" not in frame]
        assert pushed == [{"ttl": 60, "body": 1, "Message_Type": "Notification", "queue_name": "kitchen"}]
