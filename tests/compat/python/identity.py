"""Keystone as the tests have it: one running service whose catalog names the queue service."""

import pathlib
import queue
import subprocess
import threading

import requests

START_SECONDS_MAX = 80
PEER = pathlib.Path(__file__).with_name("keystone_peer.py")


class Identity:
    """A running Keystone, with what a client needs to log in as `admin`."""

    def __init__(self, python: str, folder: pathlib.Path):
        self.process = subprocess.Popen(
            [python, str(PEER), str(folder)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        lines = queue.Queue()
        threading.Thread(target=lambda: [lines.put(line.strip()) for line in self.process.stdout], daemon=True).start()
        kind, address = lines.get(timeout=START_SECONDS_MAX).rsplit(" ", 1)
        assert kind == "listening identity", kind
        self.url = f"http://{address}/v3"
        self.token = self._log_in({"name": "admin", "domain": {"id": "default"}})

    def _log_in(self, project):
        user = {"name": "admin", "password": "secret", "domain": {"id": "default"}}
        scope = {"project": project}
        login = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
        answer = requests.post(f"{self.url}/auth/tokens", json=login, timeout=60)
        answer.raise_for_status()
        return answer.headers["X-Subject-Token"]

    def headers(self, project: str) -> dict:
        """The header of a request by `admin` in the project, with a token of its own."""
        return {"X-Auth-Token": self._log_in({"id": project})}

    def revoke(self, token: str):
        """Makes a token worthless."""
        headers = {"X-Auth-Token": self.token, "X-Subject-Token": token}
        requests.delete(f"{self.url}/auth/tokens", headers=headers, timeout=60).raise_for_status()

    def add_to_catalog(self, kind: str, url: str):
        """Makes a service of that kind with that public address, the only one; the folder may have one of an older run."""
        headers = {"X-Auth-Token": self.token}
        known = requests.get(f"{self.url}/services?type={kind}", headers=headers, timeout=60).json()["services"]
        for service in known:
            requests.delete(f"{self.url}/services/{service['id']}", headers=headers, timeout=60).raise_for_status()
        service = self._create("services", "service", type=kind, name=kind)
        self._create("endpoints", "endpoint", service_id=service["id"], interface="public", url=url)

    def create_project(self, name: str) -> str:
        """Makes a project in which `admin` may work; its id."""
        project = self._create("projects", "project", name=name, domain_id="default")["id"]
        headers = {"X-Auth-Token": self.token}
        user = requests.get(f"{self.url}/users?name=admin", headers=headers, timeout=60).json()["users"][0]["id"]
        role = requests.get(f"{self.url}/roles?name=admin", headers=headers, timeout=60).json()["roles"][0]["id"]
        path = f"{self.url}/projects/{project}/users/{user}/roles/{role}"
        requests.put(path, headers=headers, timeout=60).raise_for_status()
        return project

    def options(self, project: str) -> dict:
        """What clients are told to log in with, by the names that OpenStack has for it."""
        return {
            "auth_url": self.url, "username": "admin", "password": "secret", "project_id": project,
            "user_domain_id": "default",
        }

    def _create(self, collection, kind, /, **members):
        headers = {"X-Auth-Token": self.token}
        answer = requests.post(f"{self.url}/{collection}", json={kind: members}, headers=headers, timeout=60)
        answer.raise_for_status()
        return answer.json()[kind]

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=30)
