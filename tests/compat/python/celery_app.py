"""The Celery application that `test_celery.py` talks to; its worker is a process of its own."""

import os
import time

from celery import Celery
from kombu import Exchange, Queue

app = Celery(
    "compat",
    broker=os.environ["COMPAT_BROKER"],
    backend=os.environ.get("COMPAT_RESULTS", "rpc://"),
)
queue_type = os.environ.get("COMPAT_QUEUE_TYPE")
queue_name = f"celery-{queue_type}" if queue_type else "celery"
if queue_type:
    # Delays kept by the broker need a topic exchange, which leads the delayed messages back.
    exchange = Exchange(queue_name, "topic")
    app.conf.task_queues = [
        Queue(queue_name, exchange, routing_key=queue_name, queue_arguments={"x-queue-type": queue_type})
    ]
    app.conf.broker_native_delayed_delivery_queue_type = queue_type
    app.conf.task_default_queue_type = queue_type
else:
    app.conf.task_queues = [
        Queue(queue_name, Exchange(queue_name), routing_key=queue_name),
        Queue("urgent-first", Exchange("urgent-first"), routing_key="urgent-first", max_priority=10),
    ]
app.conf.update(
    task_default_queue=queue_name,
    task_default_exchange_type="topic" if queue_type else "direct",
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    result_expires=600,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"confirm_publish": True},
    broker_connection_retry=True,
    task_reject_on_worker_lost=True,
    result_chord_retry_interval=0.2,
)


@app.task(shared=False)
def add(left, right):
    return left + right


@app.task(shared=False)
def total(numbers):
    return sum(numbers)


@app.task(bind=True, max_retries=3, shared=False)
def fails_twice(self):
    """Succeeds at the third attempt and says how many retries it took."""
    if self.request.retries < 2:
        raise self.retry(countdown=0.1)
    return self.request.retries


@app.task(shared=False)
def now():
    return time.time()


@app.task(shared=False)
def note(path, word):
    """Appends a word to a file, so that a test sees in which order tasks ran."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(word + "\n")


@app.task(shared=False)
def always_fails():
    raise ValueError("as it should")
