"""A caller of the queue service over plain HTTP: one project, one client id, no session state."""

import json
import urllib.parse
import uuid

import requests

PATCH_TYPE = "application/openstack-messaging-v2.0-json-patch"
SECRET_KEY = "the secret of the tests"


class QueueService:
    """Where a queue service listens, and whether it is real Zaqar on Redis."""

    def __init__(self, http: str, sockets: str, is_zaqar: bool):
        self.http = http.rstrip("/")
        self.sockets = sockets
        self.is_zaqar = is_zaqar

    def expects(self, ours, with_redis):
        """What is right here where Zaqar's stores differ: ours is what its MongoDB store does."""
        return with_redis if self.is_zaqar else ours


class Caller:
    """Sends requests with the headers that every request needs."""

    def __init__(self, service: QueueService, project=None, client_id=None, **headers):
        self.service = service
        self.project = project or uuid.uuid4().hex
        self.client_id = client_id or str(uuid.uuid4())
        self.headers = {"X-Project-Id": self.project, "Client-ID": self.client_id, **headers}
        self.session = requests.Session()
        self.session.trust_env = False

    def somebody_else(self, **headers) -> "Caller":
        """Another client of the same project."""
        return Caller(self.service, self.project, None, **headers)

    def request(self, method, path, body=None, headers=None, **more):
        """Sends one request; `body` goes as JSON, `data` as it is, a header of `None` not at all."""
        sent = {**self.headers, **(headers or {})}
        if body is not None:
            more["data"] = json.dumps(body)
            sent.setdefault("Content-Type", "application/json")
        return self.session.request(
            method, self.service.http + path, headers=sent, timeout=30, allow_redirects=False, **more
        )

    def get(self, path, **more):
        return self.request("GET", path, **more)

    def put(self, path, body=None, **more):
        return self.request("PUT", path, body, **more)

    def post(self, path, body=None, **more):
        return self.request("POST", path, body, **more)

    def delete(self, path, **more):
        return self.request("DELETE", path, **more)

    def patch(self, path, body=None, **more):
        return self.request("PATCH", path, body, **more)

    def change_metadata(self, queue, body=None, headers=None, **more):
        """PATCH of a queue with the type that it asks for."""
        return self.patch(queue, body, headers={"Content-Type": PATCH_TYPE, **(headers or {})}, **more)

    def post_bodies(self, queue, *bodies, ttl=300, **member):
        """Posts messages and returns their ids."""
        messages = [{"ttl": ttl, "body": body, **member} for body in bodies]
        answer = self.post(f"{queue}/messages", {"messages": messages})
        assert answer.status_code == 201, answer.text
        return [resource.rsplit("/", 1)[1] for resource in answer.json()["resources"]]

    def claim(self, queue, limit=10, ttl=300, grace=60):
        """Claims messages; the id of the claim and the messages, `None` and none if there were none."""
        answer = self.post(f"{queue}/claims?limit={limit}", {"ttl": ttl, "grace": grace})
        if answer.status_code == 204:
            return None, []
        assert answer.status_code == 201, answer.text
        return answer.headers["location"].rsplit("/", 1)[1], answer.json()["messages"]

    def bodies(self, queue, **parameters):
        """The bodies of a listing with `echo=true`."""
        query = urllib.parse.urlencode({"echo": "true", **parameters})
        answer = self.get(f"{queue}/messages?{query}")
        assert answer.status_code == 200, answer.text
        return [message["body"] for message in answer.json()["messages"]]


def refused(answer, status, title, description=None):
    """Asserts an error of that status with exactly that title, and a description that contains the text."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    assert answer.headers["content-type"].split(";")[0] == "application/json"
    assert answer.headers.get("vary") == "Accept"
    problem = answer.json()
    assert problem["title"] == title, problem
    if description is not None:
        assert description in problem.get("description", ""), problem


def message_id(message):
    """The id of a message object, whose href may name a claim."""
    return message["href"].rsplit("/", 1)[1].partition("?")[0]
