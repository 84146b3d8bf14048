"""Subscriptions that deliver, with receivers of others: `standardwebhooks` verifies, `aiosmtpd` takes mail, pika consumes."""

import base64
import email
import email.policy
import hashlib
import hmac
import json
import queue as queues
import ssl
import uuid

import pika
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from conftest import FOREIGN, FOREIGN_QUEUES
from standardwebhooks import Webhook
from test_tls import Certificates

from program import Program, eventually
from queue_service import Caller, QueueService
from receiver import Receiver

SECONDS_MAX = 60
SERVER_SECRET = b"0123456789abcdef0123456789abcdef"
SETTINGS = (
    "queues.listen=127.0.0.1:0",
    "delivery.signing_secret=whsec_" + base64.b64encode(SERVER_SECRET).decode(),
)

if FOREIGN or FOREIGN_QUEUES:
    pytest.skip("delivery is ours", allow_module_level=True)

pytestmark = pytest.mark.timeout(240)


class Mailbox:
    """A relay's handler that keeps envelopes."""

    def __init__(self):
        self.mails = queues.Queue()

    async def handle_DATA(self, server, session, envelope):
        self.mails.put(envelope)
        return "250 taken"

    def next(self):
        envelope = self.mails.get(timeout=SECONDS_MAX)
        return envelope, email.message_from_bytes(envelope.content, policy=email.policy.default)


class Relay(Controller):
    """A relay on a port that the system chooses."""

    def _trigger_server(self):
        # The controller knocks at its own port, and knows only the one that it was asked for.
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


@pytest.fixture
def deliver(tmp_path):
    """Starts the program with these settings more, and gives it with a caller."""
    running = []

    def start(*settings):
        program = Program(tmp_path, (*SETTINGS, *settings))
        running.append(program)
        return program, Caller(QueueService(f"http://{program.queues}", "", is_zaqar=False))

    yield start
    for program in running:
        program.stop()


@pytest.fixture
def queue():
    return f"/v2/queues/{uuid.uuid4().hex}"


def subscribe(caller, queue, subscriber, **options):
    answer = caller.post(f"{queue}/subscriptions", {"subscriber": subscriber, "options": options})
    assert answer.status_code == 201, answer.text
    return answer.json()["subscription_id"]


def derived_secret(caller, queue, subscription):
    """As docs/webhooks.md says."""
    parts = [part.encode() for part in (caller.project, queue.rsplit("/", 1)[1], subscription)]
    text = b"posthouse webhook secret 1" + b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return "whsec_" + base64.b64encode(hmac.digest(SERVER_SECRET, text, hashlib.sha256)).decode()


def test_the_published_library_verifies_a_webhook(deliver, queue):
    _, caller = deliver()
    receiver = Receiver()
    subscription = subscribe(caller, queue, receiver.url)

    caller.post_bodies(queue, {"order": 7, "text": "grün"})

    headers, body = receiver.next()
    message = Webhook(derived_secret(caller, queue, subscription)).verify(body, headers)
    name = queue.rsplit("/", 1)[1]
    assert message == {
        "body": {"order": 7, "text": "grün"}, "ttl": 300, "queue_name": name, "Message_Type": "Notification",
    }
    with pytest.raises(Exception, match="(?i)signature"):
        Webhook(derived_secret(caller, queue, "somebody else")).verify(body, headers)


def test_a_subscriber_may_change_its_secret_when_it_likes(deliver, queue):
    _, caller = deliver()
    receiver = Receiver()
    old, new = ("whsec_" + base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
    subscribe(caller, queue, receiver.url, signing_secret=[new, old])

    caller.post_bodies(queue, 1)

    headers, body = receiver.next()
    for secret in (old, new):
        assert Webhook(secret).verify(body, headers)["body"] == 1


def test_what_was_posted_before_the_program_was_killed_is_delivered(deliver, queue):
    program, caller = deliver()
    receiver = Receiver(500, 503)
    policy = {"retries_with_no_delay": 0, "minimum_delay": 1, "minimum_delay_retries": 30}
    subscribe(caller, queue, receiver.url, _retry_policy=policy)
    caller.post_bodies(queue, "a")
    first, _ = receiver.next()

    program.restart()

    second, _ = receiver.next()
    third, body = receiver.next()
    assert json.loads(body)["body"] == "a"
    assert first["webhook-id"] == second["webhook-id"] == third["webhook-id"]


def test_what_is_given_up_can_be_consumed_from_the_dead_letter_queue(deliver, queue):
    _, caller = deliver()
    receiver = Receiver(*[500] * 10)
    policy = {"retries_with_no_delay": 1, "minimum_delay_retries": 0, "minimum_delay": 0, "maximum_delay": 10}
    policy["maximum_delay_retries"] = 0
    subscribe(caller, queue, receiver.url, dead_letter_queue="lost", _retry_policy=policy)

    caller.post_bodies(queue, {"a": 1})

    assert eventually(lambda: caller.bodies("/v2/queues/lost"), SECONDS_MAX, "the dead letter") == [{"a": 1}]


def test_an_exchange_subscribes_and_pika_consumes(deliver, queue):
    program, caller = deliver()
    caller.project = "/"
    caller.headers["X-Project-Id"] = "/"
    connection = pika.BlockingConnection(pika.URLParameters(program.url))
    channel = connection.channel()
    channel.queue_declare("there", exclusive=True)
    channel.queue_bind("there", "amq.topic", "orders.#")
    subscribe(caller, queue, "amqp:amq.topic/orders.new")

    caller.post_bodies(queue, {"a": 1})

    for method, properties, body in channel.consume("there", auto_ack=True, inactivity_timeout=SECONDS_MAX):
        assert (method.routing_key, json.loads(body)) == ("orders.new", {"a": 1})
        assert properties.content_type == "application/json"
        break
    connection.close()


@pytest.fixture
def mail():
    """Starts relays that keep what they get; gives mailbox and port."""
    running = []

    def start(**options):
        mailbox = Mailbox()
        controller = Relay(mailbox, hostname="127.0.0.1", port=0, **options)
        running.append(controller)
        controller.start()
        return mailbox, controller.port

    yield start
    for controller in running:
        controller.stop()


def relay(port, *more):
    settings = ["host=127.0.0.1", f"port={port}", "from=queues@example.org", *more]
    return [f"delivery.smtp.{setting}" for setting in settings]


def test_a_message_becomes_a_mail(deliver, mail, queue):
    mailbox, port = mail()
    _, caller = deliver(*relay(port, "encryption=none"))
    subscribe(caller, queue, "mailto:ann@example.com?subject=Gr%C3%BC%C3%9Fe", **{"from": "me@example.org"})

    caller.post_bodies(queue, {"text": "x" * 300 + "grün"})

    envelope, message = mailbox.next()
    assert (envelope.mail_from, envelope.rcpt_tos) == ("me@example.org", ["ann@example.com"])
    assert (message["subject"], message["from"], message["to"]) == ("Grüße", "me@example.org", "ann@example.com")
    assert json.loads(message.get_content())["body"] == {"text": "x" * 300 + "grün"}
    assert max(len(line) for line in envelope.content.split(b"\r\n")) <= 78


def test_a_mail_of_an_encrypted_queue_is_in_the_clear(deliver, mail, queue):
    mailbox, port = mail()
    keys = "k1:" + base64.b64encode(bytes(32)).decode()
    _, caller = deliver(*relay(port, "encryption=none"), f"queues.encryption.keys={keys}")
    assert caller.put(queue, {"_enable_encrypt_messages": True}).status_code == 201
    subscribe(caller, queue, "mailto:ann@example.com")

    caller.post_bodies(queue, {"said": "canary"})

    _, message = mailbox.next()
    assert json.loads(message.get_content())["body"] == {"said": "canary"}


def test_nothing_in_a_message_becomes_a_header_a_command_or_a_mail(deliver, mail, queue):
    mailbox, port = mail()
    _, caller = deliver(*relay(port, "encryption=none"))
    subscribe(caller, queue, "mailto:ann@example.com")
    ends = ["\r\n.\r\n", "\n.\n", "\r.\r", "\n.\r\n", "\r\n.\n", "\r\n.\r", "\u2028.\u2028", "\x00\r\n.\r\n"]
    texts = [f"x{end}MAIL FROM:<evil@x.y>{end}RCPT TO:<victim@x.y>\r\nDATA\r\nBcc: victim@x.y" for end in ends]

    caller.post_bodies(queue, *texts)

    found = []
    for _ in texts:
        envelope, message = mailbox.next()
        assert (envelope.mail_from, envelope.rcpt_tos) == ("queues@example.org", ["ann@example.com"])
        assert message["bcc"] is None
        assert b"\n" not in envelope.content.replace(b"\r\n", b"") and b"\r" not in envelope.content.replace(b"\r\n", b"")
        found.append(json.loads(message.get_content())["body"])
    assert sorted(found) == sorted(texts)
    assert mailbox.mails.empty()


@pytest.mark.parametrize("subscriber", [
    "mailto:a@b.c%0d%0aRCPT%20TO:<x@y.z>", "mailto:a@b.c?subject=x%0D%0ABcc:%20x@y.z", "mailto:nobody",
    "http://169.254.169.254/latest/meta-data", "http://[::1]/", "http://10.0.0.1/", "http://0x0a.1/",
])
def test_subscribers_that_may_not_be_are_refused(deliver, queue, subscriber):
    _, caller = deliver(*relay(1))

    answer = caller.post(f"{queue}/subscriptions", {"subscriber": subscriber})

    assert answer.status_code == 400, answer.text


def test_a_relay_is_spoken_to_by_tls_and_with_a_password(deliver, mail, queue, tmp_path):
    certificates = Certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.path("server.pem"), certificates.path("server.key"))
    logins = []

    def authenticate(server, session, envelope, mechanism, data):
        assert isinstance(data, LoginPassword)
        logins.append((mechanism, data.login, data.password))
        return AuthResult(success=data.password == b"secret")

    mailbox, port = mail(tls_context=context, require_starttls=True, authenticator=authenticate, auth_required=True)
    settings = relay(port, "encryption=starttls", "user=me", "password=secret")
    _, caller = deliver(*settings, f"delivery.ca={certificates.path('ca.pem')}")
    subscribe(caller, queue, "mailto:ann@example.com")

    caller.post_bodies(queue, 1, 2)

    bodies = {json.loads(mailbox.next()[1].get_content())["body"] for _ in range(2)}
    assert bodies == {1, 2}
    assert set(logins) == {("PLAIN", b"me", b"secret")} or set(logins) == {("LOGIN", b"me", b"secret")}
