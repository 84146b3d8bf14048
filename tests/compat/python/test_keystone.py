"""The queue service with tokens of a real Keystone (PyPI): who gets in, who does not, and when that ends."""

import base64
import http.client
import json
import os
import pathlib
import subprocess
import uuid

import pytest
import websocket
from conftest import FOREIGN
from keystoneauth1 import session
from keystoneauth1.identity import v3
from keystoneclient.v3 import client

from program import Program, eventually
from receiver import Receiver

PEER = pathlib.Path(__file__).with_name("keystone_peer.py")
PYTHON = os.environ.get("POSTHOUSE_TEST_KEYSTONE")
CLIENT = str(uuid.uuid4())

#: user -> roles by project
ROLES = {
    "posthouse": {"service": ["service"]},
    "alice": {"blue": ["member"]},
    "bob": {"red": ["member"]},
    "rita": {"blue": ["reader"]},
    "boss": {"blue": ["admin"]},
}

pytestmark = pytest.mark.timeout(400)


class Keystone:
    """A Keystone that can be stopped and started again on its port, with users of a domain of ours."""

    def __init__(self, folder):
        self.folder = folder
        self.port = 0
        self.process = None
        self.start()
        self.projects = self.set_up()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v3"

    def start(self):
        command = [PYTHON, str(PEER), str(self.folder), "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if line.startswith("listening identity "):
                self.port = int(line.rsplit(":", 1)[1])
            if line.strip() == "ready":
                return
        raise RuntimeError(f"Keystone ended; its logs are in {self.folder}")

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=30)

    def password(self, user, project, domain="tests", password=None):
        place = {"project_name": project, "project_domain_name": domain} if project else {"unscoped": True}
        password = password or f"{user}-secret"
        return v3.Password(self.url, username=user, password=password, user_domain_name=domain, **place)

    def admin(self):
        auth = self.password("admin", "admin", domain="Default", password="secret")
        return client.Client(session=session.Session(auth=auth), endpoint_override=self.url)

    def set_up(self):
        """A domain with projects, users and their roles; the ids of the projects by name."""
        admin = self.admin()
        domain = admin.domains.create("tests")
        roles = {role.name: role for role in admin.roles.list()}
        projects = {}
        for user, places in ROLES.items():
            made = admin.users.create(user, domain=domain, password=f"{user}-secret")
            for project, names in places.items():
                if project not in projects:
                    projects[project] = admin.projects.create(project, domain=domain)
                for name in names:
                    if name not in roles:
                        roles[name] = admin.roles.create(name)
                    admin.roles.grant(roles[name], user=made, project=projects[project])
        return {name: project.id for name, project in projects.items()}

    def token(self, user, project):
        return self.password(user, project).get_token(session.Session())

    def trust(self, user, project, role):
        """A trust by which the user lets the queue service act for them."""
        auth = self.password(user, project)
        own = client.Client(session=session.Session(auth=auth), endpoint_override=self.url)
        (trustee,) = [each for each in self.admin().users.list() if each.name == "posthouse"]
        made = own.trusts.create(
            trustee_user=trustee.id, trustor_user=auth.get_user_id(own.session), project=self.projects[project],
            role_names=[role], impersonation=True,
        )
        return made.id

    def trusts(self, user, project):
        """Ids of the trusts that the user has made."""
        auth = self.password(user, project)
        own = client.Client(session=session.Session(auth=auth), endpoint_override=self.url)
        return [each.id for each in own.trusts.list(trustor_user=auth.get_user_id(own.session))]

    def revoke(self, token):
        self.admin().tokens.revoke_token(token)

    def disable(self, user):
        admin = self.admin()
        (found,) = [each for each in admin.users.list() if each.name == user]
        admin.users.update(found, enabled=False)


class Service:
    """The queue service of a running program."""

    def __init__(self, program):
        host, port = program.queues.rsplit(":", 1)
        self.address = (host, int(port))

    def ask(self, method, path, token=None, body=None, headers=()):
        """Status, headers and JSON of an answer."""
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        headers = {"Client-ID": CLIENT, "Accept": "application/json", **dict(headers)}
        if token:
            headers["X-Auth-Token"] = token
        connection.request(method, path, body=json.dumps(body) if body is not None else None, headers=headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, answer.headers, json.loads(text) if text else None

    def status(self, *words, **named):
        return self.ask(*words, **named)[0]


@pytest.fixture(scope="module")
def keystone(tmp_path_factory):
    if FOREIGN:
        pytest.skip("another broker is under test and asks no Keystone of ours")
    if not PYTHON:
        pytest.skip("POSTHOUSE_TEST_KEYSTONE does not name a Python that has Keystone; cargo xtask check does")
    running = Keystone(tmp_path_factory.mktemp("keystone"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def service(keystone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("posthouse")
    secret = folder / "password"
    secret.write_text("posthouse-secret\n")
    secret.chmod(0o600)
    settings = {
        "queues.listen": "127.0.0.1:0",
        "queues.auth": "keystone",
        "queues.admin_mode": "true",
        "queues.keystone.url": keystone.url,
        "queues.keystone.public_url": "https://identity.example.org/v3",
        "queues.keystone.user": "posthouse",
        "queues.keystone.password_file": str(secret),
        "queues.keystone.user_domain": "tests",
        "queues.keystone.project": "service",
        "queues.keystone.project_domain": "tests",
        "queues.keystone.timeout": "20s",
        "queues.encryption.keys": "k1:" + base64.b64encode(bytes(32)).decode(),
        "delivery.trust_hosts": '["127.0.0.1"]',
    }
    program = Program(folder, [f"{key}={value}" for key, value in settings.items()])
    yield Service(program)
    program.stop()
    assert "posthouse-secret" not in (folder / "log").read_text()


def test_a_token_opens_its_own_project_and_no_other(keystone, service):
    alice, bob = keystone.token("alice", "blue"), keystone.token("bob", "red")
    posted = {"messages": [{"body": "hello", "ttl": 300}]}

    status, _, answer = service.ask("POST", "/v2/queues/own/messages", alice, posted)

    assert status == 201
    (message,) = answer["resources"]
    assert service.status("GET", message, alice) == 200
    assert service.status("GET", message, bob) == 404
    # A header of the client moves nobody into another project.
    for headers in (
        {"X-Project-Id": keystone.projects["blue"]},
        {"X-Project-Id": keystone.projects["blue"], "X-Roles": "admin", "X-Identity-Status": "Confirmed"},
    ):
        assert service.status("GET", message, bob, headers=headers) == 404
        assert service.ask("GET", "/v2/queues", bob, headers=headers)[2]["queues"] == []
    # And the other way round: a wrong project of the header does not hinder.
    assert service.status("GET", message, alice, headers={"X-Project-Id": "nonsense"}) == 200


def test_without_a_good_token_nobody_gets_in(keystone, service):
    for headers in (
        {},
        {"X-Auth-Token": "nonsense"},
        {"X-Auth-Token": "gAAAAABnonsense"},
        {"X-Project-Id": keystone.projects["blue"], "X-Roles": "admin", "X-User-Id": "boss"},
        {"X-Identity-Status": "Confirmed", "X-Project-Id": keystone.projects["blue"]},
        {"X-Is-Admin-Project": "True", "X-Project-Id": keystone.projects["blue"]},
    ):
        status, sent, answer = service.ask("GET", "/v2/queues", headers=headers)
        assert status == 401, headers
        assert sent["WWW-Authenticate"] == 'Keystone uri="https://identity.example.org/v3"'
        assert answer["error"]["code"] == 401
    assert service.status("GET", "/v2/queues", keystone.token("alice", None)) in (400, 401)
    # The document of versions is everybody's.
    assert service.status("GET", "/") == 300


def test_roles_come_from_the_token(keystone, service):
    boss, rita = keystone.token("boss", "blue"), keystone.token("rita", "blue")

    assert service.status("GET", "/v2/health", boss) == 200
    assert service.status("GET", "/v2/health", rita) == 403
    assert service.status("GET", "/v2/health", rita, headers={"X-Roles": "admin"}) == 403


def test_a_trust_subscriber_gets_plain_text_and_a_token_of_the_trust(keystone, service):
    alice, receiver = keystone.token("alice", "blue"), Receiver()
    assert service.status("PUT", "/v2/queues/sealed", alice, {"_enable_encrypt_messages": True}) == 201
    trust = keystone.trust("alice", "blue", "member")
    subscriber = {"subscriber": f"trust+{receiver.url}", "options": {"trust_id": trust}}
    assert service.status("POST", "/v2/queues/sealed/subscriptions", alice, subscriber) == 201

    posted = {"messages": [{"body": {"said": "canary"}, "ttl": 300}]}
    assert service.status("POST", "/v2/queues/sealed/messages", alice, posted) == 201

    headers, body = receiver.next()
    assert json.loads(body)["body"] == {"said": "canary"}
    token = keystone.admin().tokens.validate(headers["x-auth-token"])
    assert (token.username, token.project_id, token.trust_id) == ("alice", keystone.projects["blue"], trust)


def test_who_subscribes_by_trust_without_naming_one_has_one_made(keystone, service):
    alice, receiver = keystone.token("alice", "blue"), Receiver()
    subscriber = {"subscriber": f"trust+{receiver.url}", "ttl": 600}
    status, _, made = service.ask("POST", "/v2/queues/trusting/subscriptions", alice, subscriber)
    assert status == 201
    path = f"/v2/queues/trusting/subscriptions/{made['subscription_id']}"
    trust = service.ask("GET", path, alice)[2]["options"]["trust_id"]
    # Once more is the same subscription, and leaves no second trust.
    trusts = keystone.trusts("alice", "blue")
    assert trust in trusts
    assert service.ask("POST", "/v2/queues/trusting/subscriptions", alice, subscriber)[2] == made
    assert keystone.trusts("alice", "blue") == trusts

    assert service.status("POST", "/v2/queues/trusting/messages", alice, {"messages": [{"body": 1}]}) == 201

    headers, _ = receiver.next()
    token = keystone.admin().tokens.validate(headers["x-auth-token"])
    assert (token.username, token.project_id, token.trust_id) == ("alice", keystone.projects["blue"], trust)


def test_a_revoked_token_is_refused_within_15_seconds(keystone, service):
    token = keystone.token("alice", "blue")
    assert service.status("GET", "/v2/queues", token) == 200

    keystone.revoke(token)

    eventually(lambda: service.status("GET", "/v2/queues", token) == 401, seconds=15, what="the refusal")


def test_a_socket_is_of_its_tokens_project_and_ends_with_its_token(keystone, service):
    token, blue, red = keystone.token("alice", "blue"), keystone.projects["blue"], keystone.projects["red"]
    socket = websocket.create_connection("ws://{}:{}/".format(*service.address), timeout=30)

    def ask(action, project, **headers):
        headers = {"Client-ID": CLIENT, "X-Project-ID": project, **headers}
        socket.send(json.dumps({"action": action, "headers": headers, "body": {}}))
        return json.loads(socket.recv())["headers"]["status"]

    assert ask("queue_list", blue) == 403
    assert ask("authenticate", blue, **{"X-Auth-Token": "nonsense"}) == 401
    assert ask("authenticate", blue, **{"X-Auth-Token": token}) == 200
    assert ask("queue_list", blue) == 200
    assert ask("queue_list", red) == 403
    assert ask("check_node_health", blue) == 403
    keystone.revoke(token)
    # Nobody asks: the connection ends by itself.
    opcode, reason = socket.recv_data()
    assert opcode == websocket.ABNF.OPCODE_CLOSE
    assert int.from_bytes(reason[:2], "big") == 4003, reason


def test_a_disabled_user_is_refused_within_15_seconds(keystone, service):
    token = keystone.token("rita", "blue")
    assert service.status("GET", "/v2/queues", token) == 200

    keystone.disable("rita")

    eventually(lambda: service.status("GET", "/v2/queues", token) == 401, seconds=15, what="the refusal")


def test_a_stopped_keystone_lets_nobody_in(keystone, service):
    known, new = keystone.token("alice", "blue"), keystone.token("bob", "red")
    assert service.status("GET", "/v2/queues", known) == 200

    keystone.stop()
    try:
        # What is remembered is good to its end, and then it is as unknown as everything else.
        assert service.status("GET", "/v2/queues", known) in (200, 503)
        assert service.status("GET", "/v2/queues", new) == 503
        assert service.status("GET", "/v2/queues", "nonsense") == 503
        eventually(lambda: service.status("GET", "/v2/queues", known) == 503, seconds=15, what="503")
        assert service.status("GET", "/v2/queues") == 401
    finally:
        keystone.start()

    eventually(lambda: service.status("GET", "/v2/queues", new) == 200, seconds=30, what="the way in")
