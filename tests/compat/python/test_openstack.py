"""openstacksdk and the command line `openstack messaging`, logged in to a real Keystone."""

import json
import os
import pathlib
import subprocess
import sys
import uuid

import openstack
import openstack.exceptions
import pytest
from openstackclient import shell
from zaqarclient import transport
from zaqarclient.transport import errors, request

from conftest import FOREIGN_QUEUES
from identity import Identity
from program import Program
from queue_service import SECRET_KEY, Caller, QueueService, message_id

pytestmark = pytest.mark.needs("keystone")

KEYSTONE = os.environ.get("POSTHOUSE_TEST_KEYSTONE")


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    """A real Keystone."""
    if not KEYSTONE:
        pytest.skip("POSTHOUSE_TEST_KEYSTONE does not name a Python that has Keystone; cargo xtask check does")
    folder = pathlib.Path(os.environ.get("POSTHOUSE_TEST_KEYSTONE_FOLDER") or tmp_path_factory.mktemp("keystone"))
    service = Identity(KEYSTONE, folder)
    yield service
    service.stop()


@pytest.fixture(scope="module")
def guarded(identity, tmp_path_factory, request):
    """A queue service that the Keystone has in its catalog: ours asks it about every token, the foreign one nobody."""
    if FOREIGN_QUEUES:
        service = request.getfixturevalue("queues")
        identity.add_to_catalog("messaging", service.http)
        yield service
        return
    settings = (
        "queues.listen=127.0.0.1:0", "queues.auth=keystone", f"queues.keystone.url={identity.url.removesuffix('/v3')}",
        "queues.keystone.user=admin", "queues.keystone.password=secret", "queues.keystone.project=admin",
        "queues.keystone.cache=0", "queues.keystone.negative_cache=0", f"queues.signed_url.secret={SECRET_KEY}",
    )
    program = Program(tmp_path_factory.mktemp("posthouse-keystone"), settings)
    identity.add_to_catalog("messaging", f"http://{program.queues}")
    yield QueueService(f"http://{program.queues}", f"ws://{program.queues}/", is_zaqar=False)
    program.stop()


@pytest.fixture
def project(identity):
    """The id of a project of the test's own."""
    return identity.create_project(uuid.uuid4().hex)


class TestSdk:
    """openstacksdk's message proxy."""

    @pytest.fixture
    def proxy(self, identity, project, guarded):
        connection = openstack.connect(
            auth=identity.options(project), load_yaml_config=False, load_envvars=False,
            message_endpoint_override=f"{guarded.http}/v2",
        )
        yield connection.message
        connection.close()

    def test_queues(self, proxy):
        proxy.create_queue(name="kitchen", description="pots")

        assert proxy.get_queue("kitchen").default_message_ttl == 3600
        assert [queue.name for queue in proxy.queues()] == ["kitchen"]
        proxy.delete_queue("kitchen")
        assert list(proxy.queues()) == []

    def test_queues_are_listed_over_pages(self, proxy):
        for number in range(12):
            proxy.create_queue(name=f"q{number:02}")

        assert [queue.name for queue in proxy.queues(limit=5)] == [f"q{number:02}" for number in range(12)]

    def test_messages(self, proxy):
        posted = proxy.post_message("kitchen", [{"ttl": 60, "body": {"n": n}} for n in range(3)])
        ids = [resource.rsplit("/", 1)[1] for resource in posted]

        listed = list(proxy.messages("kitchen", echo=True, limit=10))

        assert [message.body["n"] for message in listed] == [0, 1, 2]
        assert proxy.get_message("kitchen", ids[1]).body == {"n": 1}
        proxy.delete_message("kitchen", ids[1])
        with pytest.raises(openstack.exceptions.NotFoundException):
            proxy.get_message("kitchen", ids[1])

    def test_claims(self, proxy, identity, project, guarded):
        proxy.post_message("kitchen", [{"ttl": 60, "body": n} for n in range(3)])
        # The create_claim of this version mistakes the place of the cloud for the address of the claim, whoever answers.
        caller = Caller(guarded, project, **identity.headers(project))
        claim_id, messages = caller.claim("/v2/queues/kitchen", limit=2)

        claim = proxy.get_claim("kitchen", claim_id)

        assert [message["body"] for message in claim.messages] == [0, 1]
        proxy.update_claim("kitchen", claim, ttl=500, grace=60)
        assert proxy.get_claim("kitchen", claim_id).ttl == 500
        one = message_id(messages[0])
        proxy.delete_message("kitchen", one, claim=claim)
        with pytest.raises(openstack.exceptions.NotFoundException):
            proxy.get_message("kitchen", one)
        proxy.delete_claim("kitchen", claim)
        with pytest.raises(openstack.exceptions.NotFoundException):
            proxy.get_claim("kitchen", claim_id)

    @pytest.mark.needs("subscriptions")
    def test_subscriptions(self, proxy):
        created = proxy.create_subscription("kitchen", subscriber="http://127.0.0.1:1/", ttl=600)

        shown = proxy.get_subscription("kitchen", created.subscription_id)
        assert (shown.subscriber, shown.ttl) == ("http://127.0.0.1:1/", 600)
        assert len(list(proxy.subscriptions("kitchen"))) == 1
        proxy.delete_subscription("kitchen", created.subscription_id)
        assert list(proxy.subscriptions("kitchen")) == []


class TestCommandLine:
    """`openstack messaging`. Every command but one runs in this process, because each start costs seconds."""

    @pytest.fixture
    def messaging(self, identity, guarded, project, capfd, monkeypatch):
        for name, value in identity.options(project).items():
            monkeypatch.setenv(f"OS_{name.upper()}", value)
        monkeypatch.setenv("OS_IDENTITY_API_VERSION", "3")
        # The client keeps the first address that it finds.
        monkeypatch.setattr("zaqarclient.queues.cli._MESSAGING_ENDPOINT", None)

        def run(*words, form="json"):
            more = ["--format", form] if form else []
            code = shell.main(["messaging", *words, *more])
            out, err = capfd.readouterr()
            assert not code, f"{words}: {err}"
            return json.loads(out) if form and out.strip() else out

        return run

    def test_the_installed_command_reaches_the_service(self, identity, guarded, project):
        environment = {f"OS_{name.upper()}": value for name, value in identity.options(project).items()}
        command = [str(pathlib.Path(sys.executable).parent / "openstack"), "messaging", "ping", "--format", "json"]

        done = subprocess.run(
            command, capture_output=True, text=True, timeout=80, env={**os.environ, "OS_IDENTITY_API_VERSION": "3", **environment}
        )

        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"Pingable": True}

    def test_queues(self, messaging):
        messaging("queue", "create", "kitchen")
        messaging("queue", "set", "metadata", "kitchen", '{"colour": "red"}', form=None)

        assert [row["Name"] for row in messaging("queue", "list")] == ["kitchen"]
        assert "red" in json.dumps(messaging("queue", "get", "metadata", "kitchen"))
        assert "'total': 0" in str(messaging("queue", "stats", "kitchen"))
        signed = messaging("queue", "signed", "url", "kitchen", "--paths", "messages", "--methods", "GET")
        assert len(signed["Signature"]) == 64
        messaging("queue", "purge", "kitchen", form=None)
        messaging("queue", "delete", "kitchen", form=None)
        assert messaging("queue", "list") == []

    def test_messages_and_claims(self, messaging):
        messaging("queue", "create", "kitchen")
        messages = '[{"body": "soup", "ttl": 60}]'
        messaging("message", "post", "kitchen", messages, "--client-id", str(uuid.uuid4()), form=None)

        listed = messaging("message", "list", "kitchen", "--client-id", str(uuid.uuid4()))
        claimed = messaging("claim", "create", "kitchen", "--ttl", "100", "--grace", "60")

        assert [row["Body"] for row in listed] == ["soup"]
        assert len(claimed) == 1
        claim_id = claimed[0]["Claim_ID"]
        assert len(messaging("claim", "query", "kitchen", claim_id)) == 1
        messaging("claim", "renew", "kitchen", claim_id, "--ttl", "200")
        messaging("claim", "release", "kitchen", claim_id, form=None)

    @pytest.mark.needs("subscriptions")
    def test_subscriptions(self, messaging):
        created = messaging("subscription", "create", "kitchen", "http://127.0.0.1:1/", "600")

        assert len(messaging("subscription", "list", "kitchen")) == 1
        shown = messaging("subscription", "show", "kitchen", created["ID"])
        assert shown["Subscriber"] == "http://127.0.0.1:1/"
        messaging("subscription", "delete", "kitchen", created["ID"], form=None)
        assert messaging("subscription", "list", "kitchen") == []

    def test_the_home_document(self, messaging):
        assert "rel/queues" in messaging("homedoc", form=None)



class TestTokens:
    """What opens our program if `queues.auth = "keystone"`: tokens of the Keystone, and nothing else."""

    @pytest.fixture(autouse=True)
    def ours(self, guarded):
        if guarded.is_zaqar:
            pytest.skip("the foreign service asks nobody")

    @pytest.fixture
    def caller(self, guarded, identity, project):
        return Caller(guarded, project, **identity.headers(project))

    @pytest.mark.parametrize("token", [None, "", "nonsense", "gAAAAA" + "x" * 200])
    def test_without_a_good_token_nothing_is_answered(self, caller, identity, token):
        answer = caller.get("/v2/queues", headers={"X-Auth-Token": token})

        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith('Keystone uri="')
        assert caller.get("/", headers={"X-Auth-Token": None}).status_code == 300

    def test_the_project_is_the_tokens(self, caller, identity, guarded):
        caller.put("/v2/queues/mine")
        other = identity.create_project(uuid.uuid4().hex)

        listed = caller.get("/v2/queues", headers={"X-Project-Id": other}).json()["queues"]

        assert [queue["name"] for queue in listed] == ["mine"]
        stranger = Caller(guarded, caller.project, **identity.headers(other))
        assert stranger.get("/v2/queues").json()["queues"] == []

    def test_a_token_that_was_revoked_opens_nothing(self, caller, identity):
        assert caller.get("/v2/queues").status_code == 200

        identity.revoke(caller.headers["X-Auth-Token"])

        assert caller.get("/v2/queues").status_code == 401

    def test_a_signed_url_needs_no_token(self, caller):
        caller.post_bodies("/v2/queues/mine", "shared")
        shared = caller.post("/v2/queues/mine/share", {}).json()

        answer = caller.get(
            "/v2/queues/mine/messages?echo=true",
            headers={
                "X-Auth-Token": None, "URL-Signature": shared["signature"], "URL-Expires": shared["expires"],
                "URL-Methods": ",".join(shared["methods"]), "URL-Paths": ",".join(shared["paths"]),
            },
        )

        assert [message["body"] for message in answer.json()["messages"]] == ["shared"]

    @pytest.mark.needs("sockets")
    def test_zaqarclient_logs_in_over_websocket(self, guarded, identity, project):
        token = identity.headers(project)["X-Auth-Token"]
        options = {"os_auth_token": token, "os_project_id": project}
        conf = {"auth_opts": {"backend": "keystone", "options": options}}
        with transport.get_transport_for(guarded.sockets, options=conf) as socket:
            content = json.dumps({"queue_name": "kitchen"})
            assert socket.send(request.Request(guarded.sockets, "queue_create", content=content)).status_code == 201

    @pytest.mark.needs("sockets")
    def test_zaqarclient_without_a_good_token_is_refused_over_websocket(self, guarded, project):
        options = {"os_auth_token": "nonsense", "os_project_id": project}
        conf = {"auth_opts": {"backend": "keystone", "options": options}}
        with transport.get_transport_for(guarded.sockets, options=conf) as socket, pytest.raises(errors.UnauthorizedError):
            socket.send(request.Request(guarded.sockets, "queue_list"))
