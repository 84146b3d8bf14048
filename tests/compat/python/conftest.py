"""The broker under test: the real program, or the one that `POSTHOUSE_TEST_BROKER` names."""

import os
import urllib.parse
import uuid

import pytest

from program import Program
from queue_service import SECRET_KEY, Caller, QueueService

FOREIGN = os.environ.get("POSTHOUSE_TEST_BROKER")
# Addresses of a running Zaqar, as `zaqar_peer.py` prints them: `HOST:PORT` of HTTP, and of WebSocket.
FOREIGN_QUEUES = os.environ.get("POSTHOUSE_TEST_QUEUES")
FOREIGN_SOCKETS = os.environ.get("POSTHOUSE_TEST_SOCKETS")

# What main does not have yet; whoever brings it takes its word out, and its tests run.
NOT_YET = set()

QUEUE_SETTINGS = (
    "queues.listen=127.0.0.1:0",
    f"queues.signed_url.secret={SECRET_KEY}",
    "queues.enable_deprecated_api_versions=1.1",
    'delivery.allow=["127.0.0.0/8"]',
    'delivery.ports=["1-65535"]',
)


def pytest_collection_modifyitems(items):
    """Skips the tests of what is not there yet, unless real Zaqar is under test."""
    for item in items:
        missing = NOT_YET & {feature for mark in item.iter_markers("needs") for feature in mark.args}
        if missing and not FOREIGN_QUEUES:
            item.add_marker(pytest.mark.skip(reason=f"not there yet: {', '.join(sorted(missing))}"))


class Broker:
    """Where a broker listens; enough for every client's way to say it."""

    def __init__(self, url: str):
        parts = urllib.parse.urlsplit(url)
        self.url = url
        self.host = parts.hostname
        self.port = parts.port or 5672
        self.user = parts.username or "guest"
        self.password = parts.password or "guest"


@pytest.fixture(scope="session")
def broker(tmp_path_factory):
    """A broker that every test of the session shares."""
    if FOREIGN:
        yield Broker(FOREIGN)
        return
    program = Program(tmp_path_factory.mktemp("posthouse"))
    yield Broker(program.url)
    program.stop()


@pytest.fixture
def program(tmp_path):
    """A broker of the test's own that may be killed."""
    if FOREIGN:
        pytest.skip("another broker is under test and is not ours to kill")
    running = Program(tmp_path)
    yield running
    running.stop()


@pytest.fixture
def delays():
    """Marks a test of the delayed exchange, which RabbitMQ has only with a plug-in."""
    if FOREIGN:
        pytest.skip("the broker under test has no delayed exchange")


@pytest.fixture
def name(request):
    """A name that no other test uses."""
    return f"{request.node.name}-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def program_or_broker(request):
    """A broker without what earlier tests declared, as far as the broker under test can be had afresh."""
    return request.getfixturevalue("broker" if FOREIGN else "program")


@pytest.fixture(scope="session")
def queues(tmp_path_factory):
    """A queue service that every test of the session shares: ours, or the Zaqar that `POSTHOUSE_TEST_QUEUES` names."""
    if FOREIGN_QUEUES:
        sockets = FOREIGN_SOCKETS and f"ws://{FOREIGN_SOCKETS}/"
        yield QueueService(f"http://{FOREIGN_QUEUES}", sockets, is_zaqar=True)
        return
    program = Program(tmp_path_factory.mktemp("posthouse-queues"), QUEUE_SETTINGS)
    yield QueueService(f"http://{program.queues}", f"ws://{program.queues}/", is_zaqar=False)
    program.stop()


@pytest.fixture
def caller(queues):
    """A caller with a project of its own."""
    return Caller(queues)


@pytest.fixture
def queue():
    """The path of a queue that no request has named yet; its project is the test's own."""
    return f"/v2/queues/{uuid.uuid4().hex}"


@pytest.fixture
def ours_only(queues):
    """Marks a test of what only our queue service has."""
    if queues.is_zaqar:
        pytest.skip("real Zaqar does not have this")
