"""A real PostgreSQL in a folder of its own, without a port; Debian's."""

import os
import pathlib
import shutil
import signal
import subprocess
import uuid

import psycopg

from program import eventually

START_SECONDS_MAX = 60


class PostgresServer:
    """Runs until `stop()`. Its superuser is `postgres`, without a password."""

    def __init__(self, folder: pathlib.Path):
        versions = sorted(pathlib.Path("/usr/lib/postgresql").iterdir(), key=lambda path: int(path.name))
        self.folder, bin_folder = folder, versions[-1] / "bin"
        # The server refuses to run as root; and it is to end with us, however we end.
        runs = ["setpriv", "--pdeathsig", "KILL"]
        if os.geteuid() == 0:
            runs += ["--reuid=postgres", "--regid=postgres", "--init-groups"]
            shutil.chown(folder, "postgres")
        init = [bin_folder / "initdb", "--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "-D", folder / "data"]
        subprocess.run([*runs, *init], check=True, stdout=subprocess.DEVNULL)
        settings = ["-c", "listen_addresses=", "-c", "fsync=off"]
        with open(folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [*runs, bin_folder / "postgres", "-D", folder / "data", "-k", folder, *settings], stdout=log, stderr=log
            )
        eventually(self.answers, START_SECONDS_MAX, "PostgreSQL")

    def answers(self):
        """Whether it is up."""
        try:
            self.connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def connect(self, name):
        """A connection whose statements are transactions of their own."""
        return psycopg.connect(host=str(self.folder), user="postgres", dbname=name, autocommit=True)

    def database(self):
        """The address of a new, empty database."""
        name = f"t{uuid.uuid4().hex}"
        with self.connect("postgres") as connection:
            connection.execute(f"create database {name}")
        return f"postgres:///{name}?host={self.folder}&user=postgres"

    def stop(self):
        """Ends it at once; its data was for the tests."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait()
