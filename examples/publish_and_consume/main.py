"""Publish durably, consume carefully: nothing is lost if either side, or the broker, dies in between.

Run it with `python main.py [amqp-url]`; it needs `pip install pika`.
"""

import sys

import pika

URL = sys.argv[1] if len(sys.argv) > 1 else "amqp://guest:guest@127.0.0.1:5672/"


def publish(channel: pika.adapters.blocking_connection.BlockingChannel, orders: list[str]) -> None:
    """Returns when every order is on the broker's disk; raises if one met no queue or was refused."""
    channel.confirm_delivery()
    channel.queue_declare("orders", durable=True)
    for order in orders:
        properties = pika.BasicProperties(delivery_mode=2, message_id=order)
        channel.basic_publish("", "orders", order.encode(), properties, mandatory=True)


def consume(channel: pika.adapters.blocking_connection.BlockingChannel, count: int) -> list[str]:
    """Takes orders one by one: each is acknowledged after the work is done, never before."""
    done = []
    channel.basic_qos(prefetch_count=10)
    for method, properties, body in channel.consume("orders", inactivity_timeout=5):
        if method is None:
            break
        done.append(body.decode())
        channel.basic_ack(method.delivery_tag)
        if len(done) == count:
            break
    channel.cancel()
    return done


def main() -> None:
    connection = pika.BlockingConnection(pika.URLParameters(URL))
    orders = [f"order-{number}" for number in range(100)]
    publish(connection.channel(), orders)
    done = consume(connection.channel(), len(orders))
    connection.close()
    assert done == orders, done
    print(f"{len(done)} orders published, confirmed, consumed and acknowledged in order")


main()
