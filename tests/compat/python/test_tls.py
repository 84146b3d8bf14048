"""TLS: pika over `amqps`, requests to the inbox over `https`, and clients that are known by their certificates."""

import ssl
import subprocess
import uuid

import pika
import pytest
import requests
from conftest import FOREIGN
from pika.credentials import ExternalCredentials

from program import Program


class Certificates:
    """An authority and certificates that it signed, made by `openssl`."""

    def __init__(self, folder):
        self.folder = folder
        request = ["-x509", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test authority"]
        self.openssl("req", *request, *self.new_key())
        self.sign("server", "localhost", "subjectAltName=DNS:localhost,IP:127.0.0.1")
        self.sign("client", "guest", "extendedKeyUsage=clientAuth")

    def sign(self, name, subject, extension):
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(f"{extension}\n")
        csr = ["-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={subject}"]
        self.openssl("req", *csr, *self.new_key())
        authority = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", str(extensions)]
        self.openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *authority)

    def openssl(self, *words):
        subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True)

    def path(self, name):
        return str(self.folder / name)

    @staticmethod
    def new_key():
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def secure(tmp_path, certificates):
    """Starts the program with TLS and these other settings; stops it in the end."""
    if FOREIGN:
        pytest.skip("another broker is under test and has its own listeners")
    running = []

    def start(*settings):
        tls = ["listen=127.0.0.1:0", f"certificate={certificates.path('server.pem')}"]
        tls += [f"key={certificates.path('server.key')}", f"client_ca={certificates.path('ca.pem')}", *settings]
        running.append(Program(tmp_path, [f"amqp.tls.{setting}" for setting in tls] + ["auth.external_login=common_name"]))
        return running[0]

    yield start
    for program in running:
        program.stop()


def connect(program, certificates, client=None, **options):
    context = ssl.create_default_context(cafile=certificates.path("ca.pem"))
    if client:
        context.load_cert_chain(certificates.path(f"{client}.pem"), certificates.path(f"{client}.key"))
    parameters = pika.ConnectionParameters(
        "127.0.0.1", program.tls_port, ssl_options=pika.SSLOptions(context, "localhost"), **options
    )
    return pika.BlockingConnection(parameters)


def test_messages_travel_over_tls(secure, certificates, name):
    connection = connect(secure(), certificates)
    channel = connection.channel()
    channel.queue_declare(name, exclusive=True)
    channel.confirm_delivery()

    channel.basic_publish("", name, b"x" * 1_000_000)

    assert channel.basic_get(name, auto_ack=True)[2] == b"x" * 1_000_000
    connection.close()


def test_a_client_certificate_is_a_login(secure, certificates):
    program = secure("verify=optional")

    connection = connect(program, certificates, "client", credentials=ExternalCredentials())

    assert connection.channel().queue_declare("", exclusive=True).method.queue
    connection.close()


def test_without_a_certificate_external_is_refused(secure, certificates):
    program = secure("verify=optional")

    with pytest.raises(pika.exceptions.AMQPConnectionError):
        connect(program, certificates, credentials=ExternalCredentials())


def test_a_required_certificate_keeps_others_out(secure, certificates):
    program = secure("verify=required")

    with pytest.raises((pika.exceptions.AMQPConnectionError, ssl.SSLError)):
        connect(program, certificates)
    connect(program, certificates, "client").close()


def test_clear_text_on_the_tls_port_is_dropped(secure):
    program = secure()

    with pytest.raises(pika.exceptions.AMQPConnectionError):
        pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", program.tls_port, socket_timeout=5))


@pytest.fixture
def inbox(tmp_path, certificates):
    """Starts the program with an inbox over TLS, and a queue `q` behind it; stops it in the end."""
    if FOREIGN:
        pytest.skip("another broker is under test and has no inbox")
    tls = ["listen=127.0.0.1:0", f"certificate={certificates.path('server.pem')}", f"key={certificates.path('server.key')}"]
    tls += [f"client_ca={certificates.path('ca.pem')}", "verify=optional"]
    settings = [f"inbox.tls.{setting}" for setting in tls]
    settings += ["inbox.routes=*/* = queue q", "auth.external_login=common_name"]
    program = Program(tmp_path, settings)
    connection = pika.BlockingConnection(pika.URLParameters(program.url))
    channel = connection.channel()
    channel.queue_declare("q", durable=True)
    yield program, channel
    connection.close()
    program.stop()


def post(program, certificates, user="", **options):
    document = {
        "uuid": str(uuid.uuid4()), "message_source": "shop", "message_type": "orders.placed",
        "origin_create_time": "2026-11-21T12:00:00Z", "payload": {"total": 1},
    }
    url = f"https://{user}localhost:{program.inbox_tls_port}/inbox/"
    return requests.post(url, json=document, verify=certificates.path("ca.pem"), timeout=60, **options)


def test_a_password_reaches_the_inbox_over_tls(inbox, certificates):
    program, channel = inbox

    answer = post(program, certificates, user="guest:guest@")

    assert (answer.status_code, answer.json()["payload"]) == (201, {"total": 1})
    assert channel.basic_get("q", auto_ack=True)[2] == b'{"total": 1}'


def test_a_client_certificate_is_a_login_at_the_inbox(inbox, certificates):
    program, _ = inbox
    files = certificates.path("client.pem"), certificates.path("client.key")

    assert post(program, certificates, cert=files).status_code == 201
    assert post(program, certificates).status_code == 401
