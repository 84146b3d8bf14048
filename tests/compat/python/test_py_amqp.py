"""py-amqp: what Celery and Kombu speak through."""

import socket
import time

import amqp
import pytest

from program import eventually


def connect(broker, **options):
    connection = amqp.Connection(f"127.0.0.1:{broker.port}", **{"userid": "guest", "password": "guest", **options})
    connection.connect()
    return connection


@pytest.fixture
def connection(broker):
    with connect(broker) as connection:
        yield connection


@pytest.fixture
def channel(connection):
    return connection.channel()


@pytest.fixture
def confirmed(broker):
    with connect(broker, confirm_publish=True) as connection:
        yield connection.channel()


def get(channel, queue, no_ack=True):
    return eventually(lambda: channel.basic_get(queue, no_ack=no_ack), what=f"a message in {queue}")


def test_topology_of_every_kind_routes(channel, name):
    queue = channel.queue_declare("", exclusive=True).queue
    for kind in ("direct", "fanout", "topic", "headers"):
        channel.exchange_declare(f"{name}-{kind}", kind)
        channel.queue_bind(queue, f"{name}-{kind}", "a.b", arguments={"k": "v"} if kind == "headers" else None)

        message = amqp.Message(kind, application_headers={"k": "v"})
        channel.basic_publish(message, f"{name}-{kind}", "a.b")

        assert get(channel, queue).body == kind
        channel.queue_unbind(queue, f"{name}-{kind}", "a.b", arguments={"k": "v"} if kind == "headers" else None)
        channel.exchange_delete(f"{name}-{kind}")


def test_exchanges_bind_to_exchanges(channel, name):
    for end in ("from", "to"):
        channel.exchange_declare(f"{name}-{end}", "fanout")
    channel.queue_declare(name, exclusive=True)
    channel.queue_bind(name, f"{name}-to")
    channel.exchange_bind(f"{name}-to", f"{name}-from")

    channel.basic_publish(amqp.Message("through"), f"{name}-from")

    assert get(channel, name).body == "through"
    channel.exchange_unbind(f"{name}-to", f"{name}-from")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda c, n: c.queue_declare(n, passive=True), amqp.NotFound),
        (lambda c, n: c.exchange_declare(n, "direct", passive=True), amqp.NotFound),
        (lambda c, n: c.queue_bind(n, "amq.direct"), amqp.NotFound),
        (lambda c, n: c.queue_declare("amq.mine"), amqp.AccessRefused),
        (lambda c, n: c.exchange_declare("amq.mine", "direct"), amqp.AccessRefused),
        (lambda c, n: c.exchange_declare("amq.direct", "fanout", durable=True), amqp.PreconditionFailed),
        (lambda c, n: c.queue_declare(n, arguments={"x-message-ttl": -1}), amqp.PreconditionFailed),
        (lambda c, n: c.tx_commit(), amqp.PreconditionFailed),
    ],
)
def test_a_refused_method_closes_its_channel_and_not_the_connection(connection, name, call, error):
    channel = connection.channel()

    with pytest.raises(error):
        call(channel, name)

    assert connection.channel().queue_declare("", exclusive=True).queue


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda c: c.basic_qos(10, 0, False), amqp.AMQPNotImplementedError),
        (lambda c: c.basic_recover(requeue=False), amqp.AMQPNotImplementedError),
        (lambda c: c.basic_publish(amqp.Message("x"), "", "x", immediate=True), amqp.AMQPNotImplementedError),
    ],
)
def test_what_the_broker_does_not_do_closes_the_connection(broker, call, error):
    connection = connect(broker)
    channel = connection.channel()

    with pytest.raises(error):
        call(channel)
        connection.drain_events(timeout=5)


def test_messages_keep_their_properties_and_headers(channel, name):
    channel.queue_declare(name, exclusive=True)
    headers = {"text": "x", "number": -(1 << 62), "float": 1.5, "none": None, "list": [1, [2]], "table": {"a": {"b": 1}}}
    message = amqp.Message(
        "body", application_headers=headers, content_type="text/plain", content_encoding="utf-8", delivery_mode=2,
        priority=9, correlation_id="c", reply_to="r", message_id="m", type="t", app_id="a",
    )

    channel.basic_publish(message, "", name)

    received = get(channel, name)
    assert received.properties == message.properties
    assert received.body == "body"


def test_confirms_arrive_for_each_publish(confirmed, name):
    confirmed.queue_declare(name, exclusive=True)

    for _ in range(20):
        confirmed.basic_publish(amqp.Message("x", delivery_mode=2), "", name)

    assert confirmed.queue_declare(name, passive=True).message_count == 20


def test_a_rejected_publish_is_nacked(confirmed, name):
    confirmed.queue_declare(name, exclusive=True, arguments={"x-max-length": 0, "x-overflow": "reject-publish"})

    with pytest.raises(amqp.exceptions.MessageNacked):
        confirmed.basic_publish(amqp.Message("x"), "", name)


def test_an_unroutable_mandatory_message_is_returned(confirmed, name):
    returned = []
    confirmed.events["basic_return"].add(lambda *args: returned.append(args))

    confirmed.basic_publish(amqp.Message("back"), "", name, mandatory=True)

    error, exchange, key, message = returned[0]
    assert (error.reply_code, exchange, key, message.body) == (312, "", name, "back")


def test_prefetch_holds_deliveries_back(connection, channel, name):
    channel.queue_declare(name, exclusive=True)
    for number in range(3):
        channel.basic_publish(amqp.Message(str(number)), "", name)
    channel.basic_qos(0, 1, False)
    received = []
    channel.basic_consume(name, callback=received.append)

    while not received:
        connection.drain_events(timeout=10)
    with pytest.raises(socket.timeout):
        connection.drain_events(timeout=0.3)
    received[0].channel.basic_ack(received[0].delivery_tag)
    while len(received) < 2:
        connection.drain_events(timeout=10)

    assert [message.body for message in received] == ["0", "1"]


def test_reject_with_requeue_gives_the_message_back(channel, name):
    channel.queue_declare(name, exclusive=True)
    channel.basic_publish(amqp.Message("x"), "", name)

    channel.basic_reject(get(channel, name, no_ack=False).delivery_tag, requeue=True)

    assert get(channel, name).delivery_info["redelivered"]


def test_recover_gives_everything_back(channel, name):
    channel.queue_declare(name, exclusive=True)
    channel.basic_publish(amqp.Message("x"), "", name)
    get(channel, name, no_ack=False)

    channel.basic_recover(requeue=True)

    assert get(channel, name).delivery_info["redelivered"]


def test_dead_letters_tell_where_they_died(channel, name):
    channel.queue_declare(f"{name}-dead", exclusive=True)
    channel.queue_declare(name, exclusive=True, arguments={
        "x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"{name}-dead",
    })
    channel.basic_publish(amqp.Message("x"), "", name)

    channel.basic_reject(get(channel, name, no_ack=False).delivery_tag, requeue=False)

    (death,) = get(channel, f"{name}-dead").headers["x-death"]
    assert (death["queue"], death["reason"], death["count"], death["routing-keys"]) == (name, "rejected", 1, [name])


def test_a_ttl_moves_messages_to_the_dead_letter_queue(channel, name):
    channel.queue_declare(f"{name}-dead", exclusive=True)
    channel.queue_declare(name, exclusive=True, arguments={
        "x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"{name}-dead", "x-message-ttl": 5000,
    })
    started = time.monotonic()

    channel.basic_publish(amqp.Message("x", expiration="80"), "", name)

    (death,) = get(channel, f"{name}-dead").headers["x-death"]
    assert 0.079 <= time.monotonic() - started < 5
    assert death["original-expiration"] == "80"


def test_priorities_reorder_the_queue(channel, name):
    channel.queue_declare(name, exclusive=True, arguments={"x-max-priority": 10})
    for priority in (0, 9, 3):
        channel.basic_publish(amqp.Message(str(priority), priority=priority), "", name)

    assert [get(channel, name).body for _ in range(3)] == ["9", "3", "0"]


def test_a_delayed_exchange_holds_messages_back(delays, channel, name):
    channel.exchange_declare(name, "x-delayed-message", durable=True, arguments={"x-delayed-type": "topic"})
    channel.queue_declare(name, exclusive=True)
    channel.queue_bind(name, name, "a.*")
    started = time.monotonic()

    channel.basic_publish(amqp.Message("x", application_headers={"x-delay": 300}), name, "a.b")

    message = get(channel, name)
    assert time.monotonic() - started >= 0.299
    assert "x-delay" not in message.headers or message.headers["x-delay"] <= 0
    channel.exchange_delete(name)


def test_transactions_commit_and_roll_back(connection, channel, name):
    channel.queue_declare(name, exclusive=True)
    channel.tx_select()

    channel.basic_publish(amqp.Message("undone"), "", name)
    channel.tx_rollback()
    channel.basic_publish(amqp.Message("done"), "", name)
    channel.tx_commit()

    watcher = connection.channel()
    assert get(watcher, name).body == "done"
    assert watcher.basic_get(name) is None


def test_the_server_says_when_a_consumed_queue_is_deleted(connection, channel, name):
    channel.queue_declare(name)
    cancelled = []
    tag = channel.basic_consume(name, callback=lambda _: None, on_cancel=cancelled.append)

    connection.channel().queue_delete(name)
    while not cancelled:
        connection.drain_events(timeout=10)

    assert cancelled == [tag]


def test_heartbeats_are_answered(broker):
    attempts = (beat_for_six_seconds(broker) for _ in range(5))

    connection = next(filter(None, attempts))

    assert connection.channel().queue_declare("", exclusive=True).queue
    connection.close()


def beat_for_six_seconds(broker):
    """A connection with heartbeats of two seconds; None where the machine stood still and it was cut off with right."""
    started = last = time.monotonic()
    connection = connect(broker, heartbeat=2)
    longest = 0
    try:
        while last - started < 6:
            connection.heartbeat_tick()
            try:
                connection.drain_events(timeout=0.5)
            except socket.timeout:
                pass
            now = time.monotonic()
            longest, last = max(longest, now - last), now
    except (*connection.connection_errors, *connection.recoverable_connection_errors):
        longest = max(longest, time.monotonic() - last)
        if longest < 1.5:
            raise
        return None
    return connection


def test_the_client_reconnects_after_a_kill(program, name):
    connection = connect(program, confirm_publish=True)
    channel = connection.channel()
    channel.queue_declare(name, durable=True, auto_delete=False)
    for number in range(20):
        channel.basic_publish(amqp.Message(str(number), delivery_mode=2), "", name)

    program.restart()
    with pytest.raises((*connection.connection_errors, *connection.recoverable_connection_errors)):
        channel.queue_declare(name, passive=True)

    channel = connect(program).channel()
    assert [get(channel, name).body for _ in range(20)] == [str(number) for number in range(20)]
    channel.connection.close()
