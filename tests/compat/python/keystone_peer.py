"""Runs real Keystone until it is ended: the identity service that OpenStack's clients log in to.

It runs with the Python of an environment that has `keystone-requirements.txt`. The folder keeps what the bootstrap made,
so that only the first start is slow: user `admin`, password `secret`, project `admin`, domain `Default`. It says
`listening identity ADDRESS` and `ready`.

    python3 -m venv ENV && ENV/bin/pip install -r keystone-requirements.txt
    ENV/bin/python keystone_peer.py FOLDER [--port PORT]
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
use_stderr = False
log_dir = {folder}
[database]
connection = sqlite:///{folder}/keystone.sqlite
[fernet_tokens]
key_repository = {folder}/fernet
[credential]
key_repository = {folder}/credential
[identity]
password_hash_rounds = 4
"""


def main():
    """Bootstraps what is not there, starts the service, and ends it when told to."""
    arguments = argparse.ArgumentParser(description="real Keystone on SQLite")
    arguments.add_argument("folder", type=pathlib.Path)
    arguments.add_argument("--port", type=int, default=0, help="0 takes a free one")
    arguments = arguments.parse_args()
    folder = arguments.folder.resolve()
    (folder / ".keystone").mkdir(parents=True, exist_ok=True)
    configuration = folder / ".keystone" / "keystone.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder))
    environment = {**os.environ, "HOME": str(folder), "PYTHONWARNINGS": "ignore"}
    if not (folder / "bootstrapped").exists():
        bootstrap(folder, configuration, environment)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", arguments.port))
        port = listener.getsockname()[1]
    # Keystone reads the arguments of whatever loads it, so gunicorn must not have any.
    settings = f'bind = "127.0.0.1:{port}"\nwsgi_app = "keystone.wsgi.api:application"\n'
    (folder / "gunicorn.conf.py").write_text(settings)
    gunicorn = str(pathlib.Path(sys.executable).parent / "gunicorn")
    with open(folder / "gunicorn.log", "ab") as log:
        process = subprocess.Popen(
            [gunicorn], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=folder
        )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        eventually(lambda: answers(port), START_SECONDS_MAX, f"Keystone, whose logs are in {folder},")
        print(f"listening identity 127.0.0.1:{port}\nready", flush=True)
        process.wait()
    finally:
        process.terminate()
        process.wait()


def bootstrap(folder, configuration, environment):
    """Makes the database, the keys and the first user."""
    manage = [str(pathlib.Path(sys.executable).parent / "keystone-manage"), "--config-file", str(configuration)]
    user = ["--keystone-user", str(os.getuid()), "--keystone-group", str(os.getgid())]
    for name in ("fernet", "credential"):
        (folder / name).mkdir(mode=0o700, exist_ok=True)
    steps = [["db_sync"], ["fernet_setup", *user], ["bootstrap", "--bootstrap-password", "secret"]]
    with open(folder / "bootstrap.log", "ab") as log:
        for step in steps:
            subprocess.run([*manage, *step], check=True, stdout=log, stderr=log, env=environment, cwd=folder)
    (folder / "bootstrapped").touch()


def answers(port):
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/v3")
        return connection.getresponse().status == 200
    except OSError:
        return False


if __name__ == "__main__":
    main()
