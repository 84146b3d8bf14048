"""Runs real Zaqar, the oracle of the queue suites and the peer of the benchmark, until it is ended.

The smallest thing that answers as Zaqar does: its WSGI application under gunicorn, its WebSocket server, messages in a
Redis of its own (Debian's redis-server, on a Unix socket, without files), queues and subscriptions in SQLite, no
authentication. It runs with the Python of an environment that has `zaqar-requirements.txt`, and says what the program
says: `listening queues ADDRESS`, `listening sockets ADDRESS`, `ready`.

    python3 -m venv ENV && ENV/bin/pip install -r zaqar-requirements.txt
    ENV/bin/python zaqar_peer.py FOLDER
"""

import argparse
import http.client
import os
import pathlib
import signal
import socket
import subprocess
import sys

from program import eventually

START_SECONDS_MAX = 180

CONFIGURATION = """
[DEFAULT]
unreliable = True
admin_mode = True
# gunicorn's application is the WSGI one whatever this says.
[drivers]
transport = websocket
message_store = redis
management_store = sqlalchemy
[drivers:message_store:redis]
uri = redis://{folder}/redis.sock?socket_timeout=5
[drivers:management_store:sqlalchemy]
uri = sqlite:///{folder}/zaqar.sqlite
[drivers:transport:websocket]
bind = 127.0.0.1
port = {socket_port}
notification-bind = 127.0.0.1
[storage]
message_pipeline = {pipeline}
[signed_url]
secret_key = {secret}
[profiler]
enabled = False
"""

# The migrations of Zaqar speak MySQL only; the tables are what they lead to.
TABLES = """
import sqlalchemy, sys
from zaqar.storage.sqlalchemy import tables
tables.metadata.create_all(sqlalchemy.create_engine("sqlite:///" + sys.argv[1]))
"""


def main():
    """Starts all of it, says where it listens, and ends all of it when told to."""
    arguments = argparse.ArgumentParser(description="real Zaqar on Redis and SQLite")
    arguments.add_argument("folder", type=pathlib.Path)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--worker-class", default="sync", help="gunicorn's: sync or gthread")
    arguments.add_argument("--notify", action="store_true", help="deliver to subscriptions")
    arguments.add_argument("--no-sockets", action="store_true", help="without the WebSocket server")
    asked = arguments.parse_args()
    # Redis refuses a path of a Unix socket of more than 107 bytes.
    folder = asked.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: sys.exit(0))
    running = []
    try:
        start(asked, folder, running)
        for process in running:
            process.wait()
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait()


def start(asked, folder, running):
    """Starts Redis, both servers, and prints the addresses once both answer."""
    port, socket_port = free_port(), free_port()
    (folder / ".zaqar").mkdir(exist_ok=True)
    configuration = folder / ".zaqar" / "zaqar.conf"
    pipeline = "zaqar.notification.notifier" if asked.notify else ""
    secret = os.environ.get("ZAQAR_PEER_SECRET", "the secret of the tests")
    configuration.write_text(
        CONFIGURATION.format(folder=folder, socket_port=socket_port, pipeline=pipeline, secret=secret)
    )
    redis = ["redis-server", "--port", "0", "--unixsocket", str(folder / "redis.sock"), "--save", "", "--dir", str(folder)]
    running.append(spawn(redis, folder))
    subprocess.run([sys.executable, "-c", TABLES, str(folder / "zaqar.sqlite")], check=True)
    eventually((folder / "redis.sock").exists, START_SECONDS_MAX, "Redis")
    bin_folder = pathlib.Path(sys.executable).parent
    gunicorn = [str(bin_folder / "gunicorn"), "--workers", str(asked.workers), "--worker-class", asked.worker_class]
    if asked.worker_class == "gthread":
        gunicorn += ["--threads", "4"]
    gunicorn += ["--bind", f"127.0.0.1:{port}", "zaqar.transport.wsgi.app:app"]
    running.append(spawn(gunicorn, folder))
    eventually(lambda: answers(port), START_SECONDS_MAX, "Zaqar's HTTP")
    print(f"listening queues 127.0.0.1:{port}", flush=True)
    if not asked.no_sockets:
        server = [str(bin_folder / "zaqar-server"), "--config-file", str(configuration)]
        running.append(spawn(server, folder))
        eventually(lambda: accepts(socket_port), START_SECONDS_MAX, "Zaqar's WebSocket")
        print(f"listening sockets 127.0.0.1:{socket_port}", flush=True)
    print("ready", flush=True)


def spawn(command, folder):
    """Starts a process whose words go to a file of the folder."""
    log = open(folder / f"{pathlib.Path(command[0]).name}.log", "ab")
    environment = {**os.environ, "HOME": str(folder)}
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env=environment)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def accepts(port):
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0


def answers(port):
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/")
        return connection.getresponse().status == 300
    except OSError:
        return False


if __name__ == "__main__":
    main()
