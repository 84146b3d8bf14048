"""A receiver of webhooks for tests, on a port of its own."""

import http.server
import queue as queues
import threading

SECONDS_MAX = 60


class Receiver:
    """An HTTP server that keeps what it is sent and answers with one status after the other."""

    def __init__(self, *statuses):
        received, statuses = queues.Queue(), list(statuses)
        self.received = received

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                received.put(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(statuses.pop(0) if statuses else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def next(self):
        """Headers and body of what comes next."""
        return self.received.get(timeout=SECONDS_MAX)
