"""The broker under test: the real program, or the one that `POSTHOUSE_TEST_BROKER` names."""

import os
import urllib.parse
import uuid

import pytest

from program import Program

FOREIGN = os.environ.get("POSTHOUSE_TEST_BROKER")


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
