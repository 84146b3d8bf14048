"""Kombu: connections that retry, pools, consumers and the shapes that Celery is made of."""

import socket
import threading
import time

import kombu
import kombu.pools
import pytest
from kombu import Connection, Exchange, Queue
from kombu.mixins import ConsumerProducerMixin

from program import eventually


@pytest.fixture
def connection(broker):
    with Connection(broker.url) as connection:
        yield connection


def queue(name, exchange=None, **options):
    options.setdefault("exclusive", True)
    options.setdefault("durable", False)
    return Queue(name, exchange or "", routing_key=name, **options)


def get(bound, seconds=10):
    message = eventually(lambda: bound.get(no_ack=False), seconds, f"a message in {bound.name}")
    message.ack()
    return message


def test_entities_declare_themselves_and_route(connection, name):
    exchange = Exchange(name, "topic", durable=True)
    bound = queue(name, exchange, bindings=None)(connection)
    bound.routing_key = "order.#"
    bound.declare()

    producer = connection.Producer(serializer="json")
    producer.publish({"id": 7}, exchange=exchange, routing_key="order.paid", declare=[exchange])

    assert get(bound).payload == {"id": 7}
    bound.delete()
    exchange(connection).delete()


def test_a_producer_retries_and_confirms(broker, name):
    with Connection(broker.url, transport_options={"confirm_publish": True}) as connection:
        bound = queue(name)(connection.default_channel)
        bound.declare()
        producer = connection.Producer()

        for number in range(10):
            producer.publish(number, routing_key=name, retry=True, delivery_mode="persistent")

        assert bound.queue_declare(passive=True).message_count == 10


def test_returned_messages_reach_the_return_handler(broker, name):
    returned = []
    with Connection(broker.url, transport_options={"confirm_publish": True}) as connection:
        producer = connection.Producer(on_return=lambda *args: returned.append(args))

        producer.publish("nobody", routing_key=name, mandatory=True)

        assert returned[0][0].reply_code == 312


def test_a_consumer_respects_its_prefetch(connection, name):
    received = []
    consumer = connection.Consumer([queue(name)], callbacks=[lambda body, message: received.append(message)])
    consumer.qos(prefetch_count=2)
    for number in range(5):
        connection.Producer().publish(number, routing_key=name)
    consumer.consume()

    while len(received) < 2:
        connection.drain_events(timeout=10)
    with pytest.raises(socket.timeout):
        connection.drain_events(timeout=0.3)
    for message in list(received):
        message.ack()
    while len(received) < 4:
        connection.drain_events(timeout=10)

    assert [message.payload for message in received] == [0, 1, 2, 3]


def test_a_prefetch_raised_while_consuming_takes_effect(connection, name):
    received = []
    bound = queue(name)
    channel = connection.channel()
    bound(channel).declare()
    for number in range(5):
        connection.Producer(channel).publish(number, routing_key=name)
    consumer = kombu.Consumer(channel, [bound], callbacks=[lambda body, message: received.append(body)])
    consumer.qos(prefetch_count=1, apply_global=True)
    consumer.consume()
    while len(received) < 1:
        connection.drain_events(timeout=10)

    consumer.qos(prefetch_count=4, apply_global=True)
    while len(received) < 4:
        connection.drain_events(timeout=10)

    with pytest.raises(socket.timeout):
        connection.drain_events(timeout=0.3)
    channel.close()


def test_requeue_and_reject(connection, name):
    dead = queue(f"{name}-dead")(connection)
    dead.declare()
    bound = queue(name, queue_arguments={
        "x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"{name}-dead",
    })(connection)
    bound.declare()
    connection.Producer().publish("x", routing_key=name)

    eventually(lambda: bound.get(no_ack=False)).requeue()
    again = eventually(lambda: bound.get(no_ack=False))
    assert again.delivery_info["redelivered"]
    again.reject()

    assert get(dead).headers["x-death"][0]["reason"] == "rejected"


def test_expiration_and_priorities(connection, name):
    dead = queue(f"{name}-dead")(connection)
    dead.declare()
    bound = queue(name, max_priority=10, queue_arguments={
        "x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"{name}-dead",
    })(connection)
    bound.declare()
    producer = connection.Producer()
    for priority in (1, 8, 4):
        producer.publish(priority, routing_key=name, priority=priority)
    assert [get(bound).payload for _ in range(3)] == [8, 4, 1]

    producer.publish("old", routing_key=name, expiration=0.05)

    assert get(dead).headers["x-death"][0]["reason"] == "expired"


def test_queue_settings_of_kombu_become_arguments(connection, name):
    bound = queue(name, message_ttl=30, expires=60, max_length=10, max_length_bytes=1000, max_priority=3)(connection)

    bound.declare()
    bound.declare()

    assert bound.queue_declare(passive=True).queue == name


def test_a_delayed_exchange_is_declared_and_used(delays, connection, name):
    exchange = Exchange(name, "x-delayed-message", arguments={"x-delayed-type": "direct"})
    bound = queue(name, exchange)(connection)
    bound.declare()
    started = time.monotonic()

    connection.Producer().publish("x", exchange=exchange, routing_key=name, headers={"x-delay": 300})

    assert get(bound).payload == "x"
    assert time.monotonic() - started >= 0.299
    exchange(connection).delete()


def test_a_simple_queue_puts_and_gets(connection, name):
    simple = connection.SimpleQueue(name)
    simple.put({"a": 1})

    message = simple.get(timeout=10)

    assert message.payload == {"a": 1}
    message.ack()
    simple.close()
    simple.queue.delete()


def test_a_transaction_on_the_underlying_channel(connection, name):
    bound = queue(name)(connection)
    bound.declare()
    channel = connection.channel()
    channel.tx_select()

    kombu.Producer(channel).publish("undone", routing_key=name)
    channel.tx_rollback()
    kombu.Producer(channel).publish("done", routing_key=name)
    channel.tx_commit()

    assert get(bound).payload == "done"
    assert bound.get() is None


def test_pools_share_connections_between_producers(broker, name):
    connection = Connection(broker.url)
    with connection.SimpleBuffer(name) as buffer:
        for number in range(5):
            with kombu.pools.producers[connection].acquire(block=True) as producer:
                producer.publish(number, exchange=buffer.queue.exchange, routing_key=name)
        assert [buffer.get(timeout=10).payload for _ in range(5)] == [0, 1, 2, 3, 4]
    kombu.pools.reset()


class Worker(ConsumerProducerMixin):
    """Collects bodies until it has seen `after`; the mixin reconnects when the broker goes away."""

    connect_max_retries = 50

    def __init__(self, connection, queue):
        self.connection = connection
        self.queue = queue
        self.bodies = []

    def get_consumers(self, consumer, channel):
        return [consumer([self.queue], callbacks=[self.on_message], prefetch_count=1)]

    def on_message(self, body, message):
        self.bodies.append(body)
        message.ack()
        self.should_stop = body == "after"


def test_a_consumer_mixin_resumes_after_a_kill(program, name):
    durable = Queue(name, routing_key=name, durable=True)
    worker = Worker(Connection(program.url), durable)
    running = threading.Thread(target=worker.run, daemon=True)
    with Connection(program.url, transport_options={"confirm_publish": True}) as connection:
        durable(connection.channel()).declare()
        producer = connection.Producer()
        running.start()
        for number in range(5):
            producer.publish(number, routing_key=name)
        eventually(lambda: len(worker.bodies) == 5, what="the first five messages")

        program.restart()
        policy = {"interval_start": 0.1, "interval_step": 0.1, "max_retries": 50}
        producer.publish("after", routing_key=name, retry=True, retry_policy=policy)

    running.join(timeout=30)
    assert not running.is_alive()
    assert worker.bodies[:5] == [0, 1, 2, 3, 4]
    assert worker.bodies[-1] == "after"
