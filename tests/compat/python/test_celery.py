"""Celery: a real worker process, with results, retries, schedules, chords and remote control."""

import importlib
import os
import pathlib
import signal
import subprocess
import sys
import time
import uuid

import celery.exceptions
import pytest

from program import eventually

HERE = pathlib.Path(__file__).parent


class Worker:
    """`celery worker` as a child process and the application that sends it tasks."""

    def __init__(self, url, directory, results, queue_type=None):
        self.log = directory / "worker.log"
        environment = {"COMPAT_BROKER": url, "COMPAT_RESULTS": results}
        if queue_type:
            environment["COMPAT_QUEUE_TYPE"] = queue_type
        for key in ("COMPAT_BROKER", "COMPAT_RESULTS", "COMPAT_QUEUE_TYPE"):
            os.environ.pop(key, None)
        os.environ.update(environment)
        sys.modules.pop("celery_app", None)
        self.tasks = importlib.import_module("celery_app")
        self.app = self.tasks.app
        command = [sys.executable, "-m", "celery", "-A", "celery_app", "worker", "--loglevel=INFO", "--concurrency=1"]
        command += ["-Q", self.tasks.queue_name, "-n", f"compat-{uuid.uuid4().hex[:8]}@localhost", "--without-mingle"]
        self.process = subprocess.Popen(
            command, cwd=HERE, stdout=subprocess.DEVNULL, stderr=open(self.log, "wb"), start_new_session=True,
        )
        eventually(self.is_ready, 60, "the worker")

    def is_ready(self):
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        return " ready." in self.log.read_text()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise
        finally:
            self.app.close()


@pytest.fixture(scope="module")
def worker(broker, tmp_path_factory):
    """A worker with results over AMQP (`rpc://`)."""
    running = Worker(broker.url, tmp_path_factory.mktemp("rpc"), "rpc://")
    yield running
    running.stop()


def test_a_task_runs_and_returns(worker):
    assert worker.tasks.add.delay(2, 3).get(timeout=30) == 5


def test_many_tasks_return_in_any_order(worker):
    results = [worker.tasks.add.delay(number, 1) for number in range(50)]

    assert [result.get(timeout=30) for result in results] == [number + 1 for number in range(50)]


def test_a_failing_task_raises_at_the_caller(worker):
    with pytest.raises(ValueError, match="as it should"):
        worker.tasks.always_fails.delay().get(timeout=30)


def test_a_task_is_retried_until_it_succeeds(worker):
    assert worker.tasks.fails_twice.delay().get(timeout=30) == 2


def test_a_countdown_delays_a_task(worker):
    started = time.time()

    ran = worker.tasks.now.apply_async(countdown=1).get(timeout=30)

    assert ran - started >= 1


def test_an_eta_task_does_not_hold_up_others(worker):
    late = worker.tasks.now.apply_async(countdown=3)

    early = worker.tasks.now.delay().get(timeout=30)

    assert late.get(timeout=30) - early > 0


def test_chains_and_groups(worker):
    from celery import chain, group

    add = worker.tasks.add
    assert chain(add.s(1, 2), add.s(10), add.s(100)).apply_async().get(timeout=30) == 113
    assert group(add.s(n, n) for n in range(5))().get(timeout=30) == [0, 2, 4, 6, 8]


def test_an_expired_task_is_not_run(worker):
    # The worker has it at once and looks at it again when the countdown is over.
    result = worker.tasks.now.apply_async(expires=0.5, countdown=1)

    with pytest.raises(celery.exceptions.TaskRevokedError):
        result.get(timeout=30)


def test_a_revoked_task_is_not_run(worker):
    task_id = f"revoked-{time.time()}"
    worker.app.control.revoke(task_id, reply=True, limit=1, timeout=10)

    result = worker.tasks.now.apply_async(task_id=task_id)

    with pytest.raises(celery.exceptions.TaskRevokedError):
        result.get(timeout=30)


def test_remote_control_answers(worker):
    inspect = worker.app.control.inspect(timeout=10, limit=1)

    (pong,) = inspect.ping().values()
    (queues,) = inspect.active_queues().values()
    (registered,) = inspect.registered().values()

    assert pong == {"ok": "pong"}
    assert [queue["name"] for queue in queues] == ["celery"]
    assert "celery_app.add" in registered


def test_priorities_decide_what_a_late_worker_does_first(worker, tmp_path):
    order = tmp_path / "order"
    with worker.app.connection_for_write() as connection:
        queue = worker.app.amqp.queues["urgent-first"](connection.default_channel)
        queue.declare()
        queue.purge()
    for priority in (1, 9, 5, 0, 7):
        worker.tasks.note.apply_async((str(order), str(priority)), queue="urgent-first", priority=priority)

    worker.app.control.add_consumer("urgent-first", reply=True, limit=1, timeout=10)
    eventually(lambda: order.exists() and len(order.read_text().split()) == 5, 30, "five tasks")
    worker.app.control.cancel_consumer("urgent-first", reply=True, limit=1, timeout=10)

    assert order.read_text().split() == ["9", "7", "5", "1", "0"]


def test_a_chord_joins_its_parts(broker, worker, tmp_path):
    """Chords want a result store that can be asked; the file system is the one without a server."""
    from celery import chord

    worker.stop()
    results = tmp_path / "results"
    results.mkdir()
    other = Worker(broker.url, tmp_path, f"file://{results}")
    try:
        add, total = other.tasks.add, other.tasks.total
        assert chord((add.s(n, n) for n in range(10)), total.s()).apply_async().get(timeout=60) == 90
    finally:
        other.stop()
        worker.__init__(broker.url, tmp_path, "rpc://")


@pytest.mark.parametrize("queue_type", ["quorum"])
def test_native_delayed_delivery_waits_in_the_broker(program_or_broker, queue_type, tmp_path):
    """28 topic exchanges and queues with TTL 2^n s that dead-letter into each other; no message waits in the worker."""
    running = Worker(program_or_broker.url, tmp_path, "rpc://", queue_type)
    try:
        started = time.time()

        ran = running.tasks.now.apply_async(countdown=3).get(timeout=30)

        assert 2.9 <= ran - started < 10
    finally:
        running.stop()


def test_a_worker_reconnects_after_a_kill_and_loses_nothing(program, tmp_path):
    running = Worker(program.url, tmp_path, f"file://{tmp_path}")
    order = tmp_path / "order"
    try:
        assert running.tasks.add.delay(1, 1).get(timeout=30) == 2
        running.tasks.note.apply_async((str(order), "late"), countdown=4)

        program.restart()
        policy = {"max_retries": 100, "interval_start": 0.1, "interval_step": 0.1, "interval_max": 0.5}
        for number in range(10):
            running.tasks.note.apply_async((str(order), str(number)), retry=True, retry_policy=policy)

        expected = {"late", *map(str, range(10))}
        eventually(lambda: order.exists() and expected <= set(order.read_text().split()), 60, "eleven tasks")
    finally:
        running.stop()
