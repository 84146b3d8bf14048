"""A failing job is tried again later, and given up after three attempts: with a delayed exchange and a dead-letter queue.

Run it with `python main.py [amqp-url]`; it needs `pip install pika`.
"""

import sys

import pika

URL = sys.argv[1] if len(sys.argv) > 1 else "amqp://guest:guest@127.0.0.1:5672/"
ATTEMPTS_MAX = 3


def declare(channel: pika.adapters.blocking_connection.BlockingChannel) -> None:
    channel.exchange_declare("retries", "x-delayed-message", durable=True, arguments={"x-delayed-type": "direct"})
    channel.queue_declare("given-up", durable=True)
    to_given_up = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "given-up"}
    channel.queue_declare("jobs", durable=True, arguments=to_given_up)
    channel.queue_bind("jobs", "retries", "jobs")


def work(body: bytes) -> None:
    raise ValueError(f"{body.decode()} cannot be done today")


def handle(channel: pika.adapters.blocking_connection.BlockingChannel, method, properties, body) -> bool:
    """Whether the job is over, one way or the other."""
    attempt = (properties.headers or {}).get("attempt", 1)
    try:
        work(body)
    except ValueError:
        if attempt == ATTEMPTS_MAX:
            channel.basic_reject(method.delivery_tag, requeue=False)
            return True
        # The next attempt is safe on the disk before this one is acknowledged.
        headers = {"attempt": attempt + 1, "x-delay": 100 * 2**attempt}
        later = pika.BasicProperties(delivery_mode=2, headers=headers)
        channel.basic_publish("retries", "jobs", body, later)
    channel.basic_ack(method.delivery_tag)
    return False


def main() -> None:
    connection = pika.BlockingConnection(pika.URLParameters(URL))
    channel = connection.channel()
    channel.confirm_delivery()
    declare(channel)
    channel.basic_publish("", "jobs", b"an impossible job", pika.BasicProperties(delivery_mode=2), mandatory=True)
    for method, properties, body in channel.consume("jobs", inactivity_timeout=10):
        if method is None or handle(channel, method, properties, body):
            break
    channel.cancel()
    method, properties, body = channel.basic_get("given-up", auto_ack=True)
    connection.close()
    assert properties.headers["x-death"][0]["reason"] == "rejected", properties
    print(f"{body.decode()!r} was given up after {properties.headers['attempt']} attempts")


main()
