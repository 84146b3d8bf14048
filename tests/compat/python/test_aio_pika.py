"""aio-pika: asyncio, with connections that heal themselves."""

import asyncio
import time

import aio_pika
import aiormq
import pytest
from aio_pika import DeliveryMode, ExchangeType, Message

SECONDS_MAX = 30


def run(scenario):
    """Runs one scenario to its end; none may take longer than `SECONDS_MAX`."""
    asyncio.run(asyncio.wait_for(scenario, SECONDS_MAX))


async def get(queue, no_ack=True):
    """The next message, waiting for it as a consumer does."""
    async with queue.iterator(no_ack=no_ack) as messages:
        async for message in messages:
            return message


def test_topology_is_declared_bound_and_deleted(broker, name):
    async def scenario():
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel()
            source = await channel.declare_exchange(f"{name}-in", ExchangeType.TOPIC, auto_delete=True)
            target = await channel.declare_exchange(name, ExchangeType.HEADERS, auto_delete=True)
            queue = await channel.declare_queue(name, exclusive=True)
            await target.bind(source, "a.#")
            await queue.bind(target, arguments={"x-match": "any", "colour": "red"})

            await source.publish(Message(b"no", headers={"colour": "blue"}), "a.b")
            await source.publish(Message(b"yes", headers={"colour": "red"}), "a.b")

            assert (await get(queue)).body == b"yes"
            await queue.unbind(target, arguments={"x-match": "any", "colour": "red"})
            with pytest.raises(aiormq.exceptions.ChannelNotFoundEntity):
                await channel.declare_exchange(name, passive=True)

    run(scenario())


def test_confirms_of_many_parallel_publishes(broker, name):
    async def scenario():
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel(publisher_confirms=True)
            queue = await channel.declare_queue(name, exclusive=True)

            await asyncio.gather(*(
                channel.default_exchange.publish(Message(b"x", delivery_mode=DeliveryMode.PERSISTENT), name)
                for _ in range(500)
            ))

            assert (await channel.declare_queue(name, passive=True)).declaration_result.message_count == 500
            await queue.delete(if_empty=False)

    run(scenario())


def test_an_unroutable_message_raises_at_the_publisher(broker, name):
    async def scenario():
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)

            with pytest.raises(aio_pika.exceptions.PublishError) as returned:
                await channel.default_exchange.publish(Message(b"back"), name, mandatory=True)

            assert returned.value.message.delivery.reply_code == 312

    run(scenario())


def test_a_nacked_publish_raises_at_the_publisher(broker, name):
    async def scenario():
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel()
            await channel.declare_queue(
                name, exclusive=True, arguments={"x-max-length": 0, "x-overflow": "reject-publish"}
            )

            with pytest.raises(aio_pika.exceptions.DeliveryError):
                await channel.default_exchange.publish(Message(b"x"), name)

    run(scenario())


def test_prefetch_holds_messages_back(broker, name):
    async def scenario():
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=3)
            queue = await channel.declare_queue(name, exclusive=True)
            for number in range(10):
                await channel.default_exchange.publish(Message(str(number).encode()), name)
            received = asyncio.Queue()
            await queue.consume(received.put)

            held = [await received.get() for _ in range(3)]
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(received.get(), 0.3)
            for message in held:
                await message.ack()

            rest = [await received.get() for _ in range(3)]
            assert [message.body for message in held + rest] == [b"0", b"1", b"2", b"3", b"4", b"5"]

    run(scenario())


def test_nack_with_requeue_and_reject_to_the_dead_letter_queue(broker, name):
    async def scenario():
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel()
            dead = await channel.declare_queue(f"{name}-dead", exclusive=True)
            queue = await channel.declare_queue(name, exclusive=True, arguments={
                "x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"{name}-dead",
            })
            await channel.default_exchange.publish(Message(b"x"), name)

            first = await queue.get(no_ack=False, timeout=5)
            await first.nack(requeue=True)
            second = await queue.get(no_ack=False, timeout=5)
            await second.reject(requeue=False)

            assert (first.redelivered, second.redelivered) == (False, True)
            (death,) = (await get(dead)).headers["x-death"]
            assert (death["queue"], death["reason"]) == (name, "rejected")

    run(scenario())


def test_expiration_and_priority(broker, name):
    async def scenario():
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel()
            dead = await channel.declare_queue(f"{name}-dead", exclusive=True)
            queue = await channel.declare_queue(name, exclusive=True, arguments={
                "x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"{name}-dead", "x-max-priority": 9,
            })
            for priority in (1, 9, 5):
                await channel.default_exchange.publish(Message(b"%d" % priority, priority=priority), name)
            assert [(await queue.get(no_ack=True)).body for _ in range(3)] == [b"9", b"5", b"1"]

            await channel.default_exchange.publish(Message(b"old", expiration=0.05), name)

            assert (await get(dead)).headers["x-death"][0]["reason"] == "expired"

    run(scenario())


def test_a_delayed_message_is_held_back(broker, delays, name):
    async def scenario():
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel()
            exchange = await channel.declare_exchange(
                name, ExchangeType.X_DELAYED_MESSAGE, auto_delete=True, arguments={"x-delayed-type": "direct"}
            )
            queue = await channel.declare_queue(name, exclusive=True)
            await queue.bind(exchange, "k")
            started = time.monotonic()

            await exchange.publish(Message(b"later", headers={"x-delay": 400}), "k")
            await exchange.publish(Message(b"sooner", headers={"x-delay": 100}), "k")

            assert (await get(queue)).body == b"sooner"
            assert time.monotonic() - started >= 0.099
            assert (await get(queue)).body == b"later"
            assert time.monotonic() - started >= 0.399

    run(scenario())


def test_a_transaction_is_all_or_nothing(broker, name):
    async def scenario():
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel(publisher_confirms=False)
            queue = await channel.declare_queue(name, exclusive=True)

            with pytest.raises(ZeroDivisionError):
                async with channel.transaction():
                    await channel.default_exchange.publish(Message(b"undone"), name)
                    1 / 0
            async with channel.transaction():
                await channel.default_exchange.publish(Message(b"done"), name)

            assert (await queue.get(no_ack=True, timeout=5)).body == b"done"
            assert await queue.get(no_ack=True, fail=False) is None

    run(scenario())


def test_rpc_over_an_exclusive_reply_queue(broker, name):
    async def scenario():
        from aio_pika.patterns import RPC

        async def multiply(*, left, right):
            return left * right

        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel()
            rpc = await RPC.create(channel)
            await rpc.register(name, multiply, auto_delete=True)

            assert await rpc.call(name, kwargs={"left": 6, "right": 7}) == 42

    run(scenario())


def test_a_refused_login_raises(broker):
    async def scenario():
        with pytest.raises(aiormq.exceptions.ProbableAuthenticationError):
            await aio_pika.connect(broker.url.replace("guest@", "wrong@"))

    run(scenario())


def test_a_robust_connection_heals_after_a_kill(program, name):
    async def scenario():
        connection = await aio_pika.connect_robust(program.url, reconnect_interval=0.1, fail_fast=False)
        async with connection:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=1)
            exchange = await channel.declare_exchange(name, ExchangeType.DIRECT, durable=True)
            queue = await channel.declare_queue(name, durable=True)
            await queue.bind(exchange, "k")
            for number in range(20):
                await exchange.publish(Message(b"%d" % number, delivery_mode=DeliveryMode.PERSISTENT), "k")

            await asyncio.to_thread(program.restart)

            received = asyncio.Queue()
            await _until_connected(lambda: queue.consume(received.put))
            bodies = []
            while len(bodies) < 20:
                message = await received.get()
                await message.ack()
                bodies.append(int(message.body))
            assert bodies == list(range(20))
            await _until_connected(lambda: exchange.publish(Message(b"after"), "k"))
            assert (await received.get()).body == b"after"

    run(scenario())


def test_a_robust_consumer_goes_on_by_itself_after_a_kill(program, name):
    async def scenario():
        async with await aio_pika.connect_robust(program.url, reconnect_interval=0.1) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(name, durable=True)
            received = asyncio.Queue()
            await queue.consume(received.put, no_ack=True)

            await asyncio.to_thread(program.restart)

            async with await aio_pika.connect(program.url) as other:
                publisher = await other.channel()
                await publisher.default_exchange.publish(Message(b"after"), name)
                assert (await received.get()).body == b"after"

    run(scenario())


async def _until_connected(operation):
    """Repeats an operation that may meet the moment in which the connection is down."""
    while True:
        try:
            return await asyncio.wait_for(operation(), 5)
        except (OSError, RuntimeError, asyncio.TimeoutError, aio_pika.exceptions.AMQPError):
            await asyncio.wait([asyncio.ensure_future(asyncio.Event().wait())], timeout=0.1)
