"""Starts, kills and restarts the real program, the way an operator's machine would."""

import os
import pathlib
import queue
import signal
import subprocess
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]
START_SECONDS_MAX = 90
# Webhooks of the tests listen on this machine, on any port.
LOOPBACK = ("delivery.allow=127.0.0.0/8", "delivery.ports=1-65535")


def path() -> pathlib.Path:
    """The program to test: `POSTHOUSE_PROGRAM`, which `cargo xtask check` sets."""
    named = os.environ.get("POSTHOUSE_PROGRAM")
    if named:
        return pathlib.Path(named)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    for profile in ("fast", "release", "debug"):
        if (target / profile / "posthouse").exists():
            return target / profile / "posthouse"
    raise RuntimeError("build the program first: cargo build --profile fast -p posthouse")


class Program:
    """One running `posthouse serve`, which keeps its port and its data over restarts."""

    def __init__(self, directory: pathlib.Path, settings=()):
        self.directory = directory
        self.settings = settings
        self.port = 0
        self.tls_port = 0
        self.inbox_tls_port = 0
        self.queues = "127.0.0.1:0"
        self.process = None
        self.start()

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def start(self):
        """Starts it and waits for its line `ready`."""
        command = [str(path()), "serve", "--data-dir", str(self.directory / "data")]
        usual = (
            f"amqp.listen=127.0.0.1:{self.port}", "metrics.listen=127.0.0.1:0", "queues.listen=", "queues.websocket_listen=", *LOOPBACK
        )
        for setting in (*usual, *self.settings):
            command += ["--set", setting]
        log = open(self.directory / "log", "ab")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        lines = queue.Queue()
        threading.Thread(target=_forward, args=(self.process.stdout, lines), daemon=True).start()
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            line = lines.get(timeout=max(0.01, deadline - time.monotonic()))
            if line is None:
                raise RuntimeError(f"the program ended: {(self.directory / 'log').read_text()[-2000:]}")
            if line.startswith("listening amqp "):
                self.port = int(line.rsplit(":", 1)[1])
            if line.startswith("listening amqps "):
                self.tls_port = int(line.rsplit(":", 1)[1])
            if line.startswith("listening inbox+tls "):
                self.inbox_tls_port = int(line.rsplit(":", 1)[1])
            if line.startswith("listening queues "):
                self.queues = line.rsplit(" ", 1)[1]
            if line == "ready":
                return

    def kill(self):
        """Ends it as a power switch would: no chance to write anything."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def restart(self):
        """Kills it and starts it again on the same port and the same data."""
        self.kill()
        self.start()

    def stop(self):
        """Ends it in good order and expects exit code 0."""
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=30)
        assert code == 0, f"exit code {code} after SIGTERM"


def eventually(condition, seconds=15, what="the condition"):
    """Asks until `condition()` is truthy and returns its answer; fails after `seconds`."""
    pace = threading.Event()
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"{what} did not come true within {seconds} s"
        pace.wait(0.02)


def _forward(stream, lines):
    for line in stream:
        lines.put(line.strip())
    lines.put(None)
