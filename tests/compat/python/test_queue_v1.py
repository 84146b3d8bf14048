"""Version 1.1 of the queue service: what differs from version 2. Real Zaqar has it until version 21 only."""

import pytest

from queue_service import refused

pytestmark = pytest.mark.usefixtures("ours_only")


@pytest.fixture
def old(queue):
    """The path of the queue in version 1.1."""
    return queue.replace("/v2/", "/v1.1/")


def test_the_version_is_listed_as_deprecated(caller):
    versions = caller.get("/").json()["versions"]

    assert [(version["id"], version["status"]) for version in versions] == [("1.1", "DEPRECATED"), ("2", "CURRENT")]
    assert versions[0]["updated"] == "2016-7-29T02:22:47Z"
    assert versions[0]["links"] == [{"href": "/v1.1/", "rel": "self"}]


def test_both_versions_see_the_same_messages(caller, queue, old):
    answer = caller.post(f"{old}/messages", {"messages": [{"ttl": 60, "body": 1}]})
    assert answer.status_code == 201
    assert answer.json()["resources"][0].startswith(f"{old}/messages/")
    caller.post_bodies(queue, 2)

    assert caller.bodies(queue) == caller.bodies(old) == [1, 2]
    claim_id, messages = caller.claim(old)
    assert messages[0]["href"].startswith(f"{old}/messages/") and messages[0]["href"].endswith(f"?claim_id={claim_id}")
    assert caller.get(f"{old}/claims/{claim_id}").status_code == 200
    assert caller.delete(messages[0]["href"]).status_code == 204


def test_metadata_are_shown_as_stored(caller, queue, old):
    caller.put(old, {"colour": "red"})

    assert caller.get(old).json() == {"colour": "red"}
    listed = caller.get("/v1.1/queues?detailed=true").json()["queues"]
    assert listed == [{"name": old.rsplit("/", 1)[1], "href": old, "metadata": {"colour": "red"}}]
    assert "_default_message_ttl" in caller.get(queue).json()


def test_queues_cannot_be_changed(caller, old):
    caller.put(old)

    assert caller.change_metadata(old, []).status_code == 405


@pytest.mark.parametrize("rest", ["/subscriptions", "/share", "/purge"])
def test_what_came_with_version_2_is_not_there(caller, old, rest):
    assert caller.get(old + rest).status_code == 404
    assert caller.post(old + rest, {}).status_code == 404


def test_the_client_id_has_its_own_spelling(caller, old):
    refused(caller.get(old, headers={"Client-ID": None}), 400, "Missing header value", '"Client-ID"')


def test_the_home_document_has_what_the_version_has(caller):
    resources = caller.get("/v1.1/").json()["resources"]

    assert sorted(resources["rel/queue"]["hints"]["allow"]) == ["DELETE", "PUT"]
    assert not {"rel/queue_share", "rel/queue_purge", "rel/message_get", "rel/subscription"} & set(resources)


def test_a_link_says_nothing_about_delays(caller, old):
    caller.post(f"{old}/messages", {"messages": [{"ttl": 60, "body": 1}]})

    assert "include_delayed" not in caller.get(f"{old}/messages?echo=true").json()["links"][0]["href"]
