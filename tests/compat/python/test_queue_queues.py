"""Queues of the queue service: creation, metadata, lists, statistics, sharing, purge."""

import uuid

import pytest

from queue_service import refused

DEFAULTS = {
    "_max_messages_post_size": 262144,
    "_default_message_ttl": 3600,
    "_default_message_delay": 0,
    "_dead_letter_queue": None,
    "_dead_letter_queue_messages_ttl": None,
    "_max_claim_count": None,
    "_enable_encrypt_messages": False,
}


def test_a_queue_is_created_once_and_keeps_its_first_metadata(caller, queue):
    created = caller.put(queue, {"colour": "red"})
    again = caller.put(queue, {"colour": "blue"})

    assert (created.status_code, again.status_code) == (201, 204)
    assert created.headers["location"] == again.headers["location"] == queue
    assert created.content == again.content == b""
    assert caller.get(queue).json() == {"colour": "red", **DEFAULTS}


def test_a_queue_that_does_not_exist_shows_the_defaults(caller, queue):
    answer = caller.get(queue)

    assert answer.status_code == 200
    assert answer.json() == DEFAULTS
    assert caller.get("/v2/queues").json() == {"queues": [], "links": []}


def test_metadata_come_back_as_they_were_sent(caller, queue):
    metadata = {"_free": [1, 2.5, None, {"a": "ü\u2028"}], "key": "value", "number": -(2**63), "truth": True}
    caller.put(queue, metadata)

    assert caller.get(queue).json() == {**DEFAULTS, **metadata}


@pytest.mark.parametrize(
    "metadata, text",
    [
        ({"_max_messages_post_size": "1"}, "_max_messages_post_size must be integer."),
        ({"_max_messages_post_size": 0}, None),
        (
            {"_max_messages_post_size": 262145},
            "_max_messages_post_size can not exceed 262144,  and must be at least greater than 0.",
        ),
        ({"_default_message_ttl": "60"}, "_default_message_ttl must be integer."),
        (
            {"_default_message_ttl": 59},
            "_default_message_ttl can not exceed 1209600 seconds, and must be at least 60 seconds long.",
        ),
        ({"_default_message_ttl": 1209601}, "_default_message_ttl can not exceed 1209600 seconds"),
        ({"_default_message_delay": 901}, "The TTL can not exceed 900 seconds, and must be at least 0 seconds long."),
        ({"_default_message_delay": -1}, "The TTL can not exceed 900 seconds, and must be at least 0 seconds long."),
        ({"_dead_letter_queue_messages_ttl": 59}, "1209600 seconds, and must be at least 60 seconds long."),
        ({"_max_claim_count": "3"}, "_max_claim_count must be integer."),
        ({"_enable_encrypt_messages": 1}, "_enable_encrypt_messages must be boolean."),
        ({"_retry_policy": 1}, "retry_policy must be a dict."),
    ],
)
def test_reserved_metadata_have_rules(caller, queue, metadata, text):
    refused(caller.put(queue, metadata), 400, "Invalid API request", text)
    assert caller.get("/v2/queues").json()["queues"] == []


def test_an_array_is_no_metadata(caller, queue):
    refused(caller.put(queue, [1]), 400, "Invalid request body", "Document type not supported.")


def test_metadata_are_limited_by_their_length(caller, queue):
    refused(
        caller.put(queue, {"a": "x" * 65536}), 400, "Invalid API request",
        "Queue metadata is too large. Max size: 65536",
    )
    assert caller.put(queue, {"a": "x" * 65000}).status_code == 201


def test_deleting_a_queue_takes_its_messages_and_metadata(caller, queue):
    caller.put(queue, {"a": 1})
    caller.post_bodies(queue, 1, 2)

    assert caller.delete(queue).status_code == 204
    assert caller.delete(queue).status_code == 204

    caller.put(queue)
    assert caller.get(queue).json() == DEFAULTS
    assert caller.bodies(queue) == []


def test_queues_are_listed_by_name_page_by_page(caller):
    names = sorted(uuid.uuid4().hex for _ in range(25))
    for name in reversed(names):
        caller.put(f"/v2/queues/{name}", {"n": name})

    pages, path = [], "/v2/queues?limit=10"
    while True:
        page = caller.get(path).json()
        if not page["queues"]:
            assert page["links"] == []
            break
        pages.append(page["queues"])
        assert page["links"][0]["rel"] == "next"
        path = page["links"][0]["href"]

    assert [len(page) for page in pages] == [10, 10, 5]
    assert pages[0][0] == {"name": names[0], "href": f"/v2/queues/{names[0]}"}
    assert [entry["name"] for page in pages for entry in page] == names


def test_a_page_has_ten_queues_without_a_limit_and_metadata_if_asked(caller):
    for number in range(11):
        caller.put(f"/v2/queues/q{number:02}", {"number": number})

    plain = caller.get("/v2/queues").json()["queues"]
    detailed = caller.get("/v2/queues?detailed=true&limit=1").json()

    assert len(plain) == 10 and "metadata" not in plain[0]
    assert detailed["queues"][0]["metadata"] == {"number": 0, **DEFAULTS}
    link = detailed["links"][0]["href"]
    assert link.startswith("/v2/queues?") and {"marker=q00", "limit=1", "detailed=true"} <= set(link.split("?")[1].split("&"))


@pytest.mark.parametrize("limit", [0, -1, 21])
def test_a_page_of_queues_has_a_limit(caller, limit):
    text = "Limit must be at least 1 and no greater than 20."
    refused(caller.get(f"/v2/queues?limit={limit}"), 400, "Invalid API request", text)


def test_the_number_of_queues_is_told_if_asked(caller, queue):
    for number in range(3):
        caller.put(f"{queue[:-4]}{number}")

    assert "count" not in caller.get("/v2/queues").json()
    assert caller.get("/v2/queues?with_count=true&limit=1").json()["count"] == caller.service.expects(3, True)


def test_queues_are_found_by_a_part_of_their_name_and_by_metadata(caller, ours_only):
    caller.put("/v2/queues/apples", {"colour": "red"})
    caller.put("/v2/queues/pears", {"colour": "green"})

    by_name = caller.get("/v2/queues?name=ppl").json()["queues"]
    by_metadata = caller.get("/v2/queues?colour=green").json()["queues"]

    assert [entry["name"] for entry in by_name] == ["apples"]
    assert [entry["name"] for entry in by_metadata] == ["pears"]


def test_projects_do_not_see_each_other(queues, caller, queue):
    from queue_service import Caller

    caller.put(queue, {"secret": 1})
    ids = caller.post_bodies(queue, "mine")
    claim_id, _ = caller.claim(queue)
    stranger = Caller(queues)

    assert stranger.get("/v2/queues").json()["queues"] == []
    assert stranger.get(queue).json() == DEFAULTS
    assert stranger.get(f"{queue}/messages/{ids[0]}").status_code == 404
    assert stranger.get(f"{queue}/claims/{claim_id}").status_code == 404
    assert stranger.delete(queue).status_code == 204
    assert caller.get(f"{queue}/messages/{ids[0]}").status_code == 200


def test_statistics_count_and_show_the_ends(caller, queue):
    empty = caller.get(f"{queue}/stats")
    assert empty.status_code == 200
    assert empty.json() == {"messages": {"claimed": 0, "free": 0, "total": 0}}

    ids = caller.post_bodies(queue, 1, 2, 3)
    caller.claim(queue, limit=1)
    messages = caller.get(f"{queue}/stats").json()["messages"]

    assert (messages["claimed"], messages["free"], messages["total"]) == (1, 2, 3)
    assert messages["oldest"]["href"].startswith(f"{queue}/messages/{ids[0]}")
    assert messages["newest"]["href"] == f"{queue}/messages/{ids[2]}"
    assert messages["newest"]["age"] < 60 and messages["newest"]["created"].endswith("Z")
    if not caller.service.is_zaqar:
        assert set(messages["newest"]) == {"age", "created", "href"}


class TestChangesOfMetadata:
    """PATCH of a queue."""

    def test_a_change_answers_with_all_metadata(self, caller, queue):
        caller.put(queue, {"a": 1, "b": 2})

        answer = caller.change_metadata(
            queue,
            [
                {"op": "add", "path": "/metadata/c", "value": [3]},
                {"op": "replace", "path": "/metadata/a", "value": None},
                {"op": "remove", "path": "/metadata/b"},
                {"op": "replace", "path": "/metadata/_default_message_ttl", "value": 100},
                {"op": "add", "path": "/metadata/x~1y~0z", "value": "~/"},
            ],
        )

        wanted = {**DEFAULTS, "a": None, "c": [3], "_default_message_ttl": 100, "x/y~z": "~/"}
        assert answer.status_code == 200, answer.text
        assert answer.json() == wanted
        assert caller.get(queue).json() == wanted

    def test_no_change_changes_nothing(self, caller, queue):
        caller.put(queue, {"a": 1})

        answer = caller.change_metadata(queue, [])

        assert (answer.status_code, answer.json()) == (200, {"a": 1, **DEFAULTS})

    @pytest.mark.parametrize(
        "changes, text",
        [
            ([1], "Operations must be JSON objects."),
            ([{"path": "/metadata/a"}], "Unable to find `op` in JSON Schema change. It must be one of the following: add, remove, replace."),
            ([{"op": "move", "path": "/metadata/a"}], "Invalid operation: `move`. It must be one of the following: add, remove, replace."),
            ([{"op": "add", "value": 1}], "Unable to find 'path' in JSON Schema change"),
            ([{"op": "add", "path": "metadata/a", "value": 1}], None),
            ([{"op": "add", "path": "/metadata//a", "value": 1}], None),
            ([{"op": "add", "path": "/metadata/a/", "value": 1}], None),
            ([{"op": "add", "path": "/metadata/~2", "value": 1}], None),
            ([{"op": "add", "path": "/metadata/a/b", "value": 1}], "Invalid JSON pointer for this resource: '/metadata/a/b, e.g /metadata/key'"),
            ([{"op": "add", "path": "/data/a", "value": 1}], "The root of path must be metadata, e.g /metadata/key."),
            ([{"op": "add", "path": "/metadata/a"}], 'Operation "add" requires a member named "value".'),
            ([{"op": "replace", "path": "/metadata/a"}], 'Operation "replace" requires a member named "value".'),
        ],
    )
    def test_malformed_changes_are_refused(self, caller, queue, changes, text):
        caller.put(queue, {"a": 1})

        refused(caller.change_metadata(queue, changes), 400, "Invalid request body", text)

        assert caller.get(queue).json()["a"] == 1

    def test_a_change_that_is_no_json_is_refused(self, caller, queue):
        caller.put(queue)

        answer = caller.change_metadata(queue, data=b"{")

        refused(answer, 400, "Invalid request body", "Request body could not be parsed.")

    def test_an_object_is_no_list_of_changes(self, caller, queue):
        caller.put(queue)

        answer = caller.change_metadata(queue, {"op": "add"})

        assert answer.status_code == caller.service.expects(400, 503)

    @pytest.mark.parametrize("op, word", [("replace", "replace"), ("remove", "remove")])
    def test_only_what_is_there_can_be_replaced_or_removed(self, caller, queue, op, word):
        caller.put(queue, {"a": 1})

        answer = caller.change_metadata(
            queue,
            [{"op": "add", "path": "/metadata/new", "value": 1}, {"op": op, "path": "/metadata/none", "value": 1}],
        )

        refused(answer, 409, "Resource conflict", f"Can't {word} non-existent object none.")
        assert caller.get(queue).json() == {"a": 1, **DEFAULTS}

    def test_reserved_metadata_can_be_removed_though_never_set(self, caller, queue):
        caller.put(queue)

        answer = caller.change_metadata(queue, [{"op": "remove", "path": "/metadata/_max_claim_count"}])

        assert answer.status_code == 200

    def test_the_result_must_keep_the_rules(self, caller, queue):
        caller.put(queue)

        answer = caller.change_metadata(
            queue, [{"op": "add", "path": "/metadata/_default_message_ttl", "value": 10}]
        )

        assert answer.status_code == 400
        assert caller.get(queue).json() == DEFAULTS

    def test_a_queue_that_does_not_exist_cannot_be_changed(self, caller, queue):
        change = [{"op": "add", "path": "/metadata/a", "value": 1}]

        refused(caller.change_metadata(queue, change), 404, "Not found", "does not exist for project")
        assert caller.change_metadata(queue, [{"path": "/metadata/a"}]).status_code == 400


class TestPurge:
    """POST purge."""

    def test_claimed_messages_stay(self, caller, queue):
        caller.post_bodies(queue, 1, 2, 3)
        _, claimed = caller.claim(queue, limit=1)

        assert caller.post(f"{queue}/purge", {"resource_types": ["messages"]}).status_code == 204

        assert caller.get(claimed[0]["href"]).json()["body"] == 1
        if not caller.service.is_zaqar:  # Its Redis store cannot list a queue after this.
            assert caller.bodies(queue, include_claimed="true") == [1]

    @pytest.mark.needs("subscriptions")
    def test_without_a_body_subscriptions_go_too(self, caller, queue):
        caller.post_bodies(queue, 1)
        caller.post(f"{queue}/subscriptions", {"subscriber": "http://127.0.0.1:1/"})

        assert caller.post(f"{queue}/purge").status_code == 204

        assert caller.bodies(queue) == []
        assert caller.get(f"{queue}/subscriptions").json()["subscriptions"] == []

    def test_a_queue_that_does_not_exist_is_empty_already(self, caller, queue):
        assert caller.post(f"{queue}/purge").status_code == 204
        assert caller.post(f"{queue}/purge", {"resource_types": []}).status_code == 204

    @pytest.mark.parametrize(
        "body, text",
        [
            ({"types": []}, 'Post body must contain key "resource_types".'),
            ({"resource_types": ["queues"]}, "Resource types must be a sub set of"),
            ({"resource_types": "messages"}, "Resource types must be a sub set of"),
        ],
    )
    def test_other_bodies_are_refused(self, caller, queue, body, text):
        refused(caller.post(f"{queue}/purge", body), 400, "Invalid API request", text)
