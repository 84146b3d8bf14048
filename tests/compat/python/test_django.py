"""The Django example: it sends by the SQL contract, `posthouse relay` carries, and its inbox receives."""

import contextlib
import datetime
import json
import pathlib
import signal
import sqlite3
import subprocess
import sys
import tempfile
import uuid

import pytest
import requests
from conftest import FOREIGN, FOREIGN_QUEUES

import django_site
import message_box_peer
import program
from django_site import Site, manage
from postgres_server import PostgresServer
from program import eventually

SECONDS_MAX = 60

if FOREIGN or FOREIGN_QUEUES:
    pytest.skip("no broker takes part", allow_module_level=True)

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def postgres():
    """A PostgreSQL that the tests of this file share."""
    # Not below pytest's own folder, which only its owner may enter.
    with tempfile.TemporaryDirectory(prefix="posthouse-postgres-", ignore_cleanup_errors=True) as folder:
        server = PostgresServer(pathlib.Path(folder))
        yield server
        server.stop()


@pytest.fixture(params=["postgres", "sqlite"])
def shop(request, tmp_path):
    """The address of the shop's database, with all tables."""
    if request.param == "sqlite":
        return prepared(f"sqlite:{tmp_path}/shop.db")
    return prepared(request.getfixturevalue("postgres").database())


@pytest.fixture
def shipping(tmp_path):
    """The address of the database of shipping, with all tables."""
    return prepared(f"sqlite:{tmp_path}/shipping.db")


def prepared(database):
    manage(database, "migrate")
    posthouse("outbox", "migrate", "--database", database)
    return database


def posthouse(*arguments):
    done = subprocess.run([program.path(), *arguments], capture_output=True, text=True, timeout=SECONDS_MAX)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextlib.contextmanager
def site(database, token=None):
    running = Site(database, token)
    try:
        yield running
    finally:
        running.stop()


@contextlib.contextmanager
def relay(database, to):
    """A relay that tries again soon and does not give up."""
    command = [program.path(), "relay", "--database", database, "--to", to, "--factor", "1", "--attempts", "1000000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS_MAX) == 0
    finally:
        process.kill()
        process.wait()


def parcels(shipping):
    return requests.get(f"{shipping.url}/parcels/", timeout=SECONDS_MAX).json()["parcels"]


def rows(database, query):
    """What a query finds in a SQLite database."""
    with contextlib.closing(sqlite3.connect(database.removeprefix("sqlite:"), timeout=SECONDS_MAX)) as connection:
        return connection.execute(query).fetchall()


def test_orders_become_parcels_in_their_order_and_what_is_rolled_back_is_never_sent(shop, shipping):
    add = "from shop.models import Item; Item.objects.create(name='lamp', stock=3)"
    manage(shop, "shell", "-c", add)

    with site(shop) as seller, site(shipping, "sesame") as receiver:
        wish = {"customer": "ada", "item": "lamp"}
        answers = [requests.post(f"{seller.url}/orders/", json=wish, timeout=SECONDS_MAX) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [201, 201, 201, 409]
        with relay(shop, f"http://sesame@{receiver.place}/inbox/"):
            eventually(lambda: len(parcels(receiver)) >= 3, SECONDS_MAX, "three parcels")
            status = lambda: json.loads(posthouse("--json", "outbox", "status", "--database", shop))
            eventually(lambda: status()["waiting"] == 0, SECONDS_MAX, "an empty outbox")

        sold = [{"order": answer.json()["id"], "customer": "ada"} for answer in answers[:3]]
        assert parcels(receiver) == sold


def test_a_handler_that_fails_keeps_nothing_and_is_asked_again(shop, tmp_path):
    manage(shop, "shell", "-c", "from shop.models import Item; Item.objects.create(name='lamp', stock=1)")
    # A deployment in the wrong order: the inbox is there, the table of parcels is not.
    shipping = f"sqlite:{tmp_path}/late.db"
    sqlite3.connect(shipping.removeprefix("sqlite:")).close()
    posthouse("outbox", "migrate", "--database", f"{shipping}?mode=rwc")

    with site(shop) as seller, site(shipping) as receiver:
        requests.post(f"{seller.url}/orders/", json={"customer": "ada", "item": "lamp"}, timeout=SECONDS_MAX).raise_for_status()
        with relay(shop, f"{receiver.url}/inbox/"):
            _, refused = message_box_peer.send(f"{receiver.url}/inbox/", {"id": 9, "customer": "bob"})
            assert refused.status_code == 500
            assert rows(shipping, "select * from posthouse_inbox") == []
            manage(shipping, "migrate")
            eventually(lambda: parcels(receiver), SECONDS_MAX, "the parcel")

        assert [parcel["customer"] for parcel in parcels(receiver)] == ["ada"]


def test_what_a_django_message_box_sends_is_taken_once(shipping):
    with site(shipping, "sesame") as receiver:
        inbox, login = f"{receiver.url}/inbox/", {"Authorization": "Bearer sesame"}
        name = uuid.uuid4()
        for _ in range(2):
            document, answer = message_box_peer.send(inbox, {"id": 7, "customer": "ada"}, name, login)
            assert (answer.status_code, answer.json()) == (201, document)

        assert parcels(receiver) == [{"order": 7, "customer": "ada"}]
        refused = requests.post(inbox, json={"uuid": str(name)}, headers=login, timeout=SECONDS_MAX)
        assert refused.status_code == 400
        assert refused.json()["payload"] == ["This field is required."]
        assert message_box_peer.send(inbox, {})[1].status_code == 401


def test_a_django_message_box_takes_what_a_relay_sends(shop):
    manage(shop, "shell", "-c", "from shop.models import Item; Item.objects.create(name='lamp', stock=1)")
    box = message_box_peer.Inbox()

    with site(shop) as seller, relay(shop, box.url):
        wish = {"customer": "ada 😀", "item": "lamp"}
        placed = requests.post(f"{seller.url}/orders/", json=wish, timeout=SECONDS_MAX).json()
        eventually(lambda: box.received, SECONDS_MAX, "the message")
    box.stop()

    [message] = box.received
    assert (message["message_source"], message["message_type"]) == ("shop", "orders.placed")
    assert message["payload"] == placed
    age = datetime.datetime.now(datetime.timezone.utc) - message["origin_create_time"]
    assert abs(age) < datetime.timedelta(hours=1)


def conformance(database, command):
    arguments = [program.path(), "--json", "outbox", "conformance", "--database", database, "--send", command]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=SECONDS_MAX, cwd=django_site.EXAMPLE)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    failed = {line["check"]: line["found"] for line in lines if line.get("passed") is False}
    return done.returncode, failed, lines[-1]


def test_the_send_of_the_project_keeps_the_contract(shop, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", shop)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")

    code, failed, counts = conformance(shop, f"'{sys.executable}' manage.py conformance")

    assert (code, failed) == (0, {})
    assert counts["failed"] == 0 and counts["passed"] >= 15


def test_a_send_outside_of_the_transaction_breaks_the_contract(shipping):
    careless = f"{django_site.EXAMPLE.parents[1]}/tests/compat/python/careless_sender.py"

    code, failed, _ = conformance(shipping, f"'{sys.executable}' '{careless}' '{shipping.removeprefix('sqlite:')}'")

    assert code == 1
    assert "a transaction that is rolled back leaves nothing" in failed
    assert "a repeated dedupe id adds nothing, answers null and spoils nothing" in failed
    assert "what is said of a message is in its row" in failed
