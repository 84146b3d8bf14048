"""The Django example as two programs: `Site` runs it for the tests, and this file is what serves it, on a port of its own."""

import os
import pathlib
import socketserver
import subprocess
import sys
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

EXAMPLE = pathlib.Path(__file__).resolve().parents[3] / "examples/django"


class Site:
    """One running server of the example, on one database."""

    def __init__(self, database, token=None):
        self.environment = {**os.environ, "DATABASE_URL": database, "PYTHONDONTWRITEBYTECODE": "1"}
        if token is not None:
            self.environment["INBOX_TOKEN"] = token
        command = [sys.executable, __file__]
        self.process = subprocess.Popen(command, cwd=EXAMPLE, env=self.environment, stdout=subprocess.PIPE, text=True)
        self.place = f"127.0.0.1:{int(self.process.stdout.readline())}"
        self.url = f"http://{self.place}"

    def stop(self):
        """Ends it at once."""
        self.process.kill()
        self.process.wait()


def manage(database, *arguments):
    """`manage.py` of the example."""
    environment = {**os.environ, "DATABASE_URL": database, "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "manage.py", *arguments], cwd=EXAMPLE, env=environment, check=True, stdout=subprocess.DEVNULL)


class Server(socketserver.ThreadingMixIn, WSGIServer):
    """A thread per connection, as any server of a project would have."""

    daemon_threads = True


class Quiet(WSGIRequestHandler):
    """Does not log requests."""

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    sys.path.insert(0, str(EXAMPLE))
    os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
    from django.core.wsgi import get_wsgi_application

    server = make_server("127.0.0.1", 0, get_wsgi_application(), Server, Quiet)
    print(server.server_port, flush=True)
    server.serve_forever()
