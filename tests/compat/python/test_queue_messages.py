"""Messages of the queue service: post, list, get, delete, pop."""

import pytest

from program import eventually
from queue_service import message_id, refused


def test_a_post_answers_with_addresses_in_order(caller, queue):
    answer = caller.post(f"{queue}/messages", {"messages": [{"ttl": 300, "body": n} for n in range(3)]})

    assert answer.status_code == 201
    resources = answer.json()["resources"]
    ids = [resource.rsplit("/", 1)[1] for resource in resources]
    assert answer.json() == {"resources": [f"{queue}/messages/{one}" for one in ids]}
    assert answer.headers["location"] == f"{queue}/messages?ids={','.join(ids)}"
    assert [caller.get(resource).json()["body"] for resource in resources] == [0, 1, 2]


@pytest.mark.parametrize(
    "body", [None, True, 0, -1.5, 1e300, 2**63 - 1, "", "ü\u0000\u2028😀", [], [[[]]], {}, {"a": {"b": [None]}}, "x" * 100_000]
)
def test_any_json_is_a_body_and_comes_back_as_it_was(caller, queue, body):
    (one,) = caller.post_bodies(queue, body)

    got = caller.get(f"{queue}/messages/{one}").json()["body"]

    assert got == body and type(got) is type(body)
    assert caller.bodies(queue) == [body]
    _, messages = caller.claim(queue)
    assert messages[0]["body"] == body


def test_a_message_shows_these_members(caller, queue):
    (one,) = caller.post_bodies(queue, {"a": 1}, ttl=120)

    message = caller.get(f"{queue}/messages/{one}").json()

    assert message.pop("age") < 60
    assert message.pop("id", one) == one
    message.pop("claim_count", None)
    assert message == {"href": f"{queue}/messages/{one}", "ttl": 120, "body": {"a": 1}}


def test_posting_creates_the_queue(caller, queue):
    caller.post_bodies(queue, 1)

    assert [entry["href"] for entry in caller.get("/v2/queues").json()["queues"]] == [queue]


def test_the_life_of_a_message_without_one_is_the_queues(caller, queue):
    caller.post(f"{queue}/messages", {"messages": [{"body": 1}]})
    caller.put(queue + "b", {"_default_message_ttl": 77})
    caller.post(f"{queue}b/messages", {"messages": [{"body": 1}, {"body": 2, "ttl": 88}]})

    assert [message["ttl"] for message in caller.get(f"{queue}/messages?echo=true").json()["messages"]] == [3600]
    assert [message["ttl"] for message in caller.get(f"{queue}b/messages?echo=true").json()["messages"]] == [77, 88]


@pytest.mark.parametrize(
    "document, title, text",
    [
        ({}, "Invalid API request", "No messages were found in the request body."),
        ([{"body": 1}], "Invalid API request", "No messages were found in the request body."),
        ({"messages": []}, "Invalid API request", "No messages to enqueu."),
        ({"messages": {}}, "Invalid request body", "Document type not supported."),
        ({"messages": "text"}, "Invalid request body", "Document type not supported."),
        ({"messages": [{"ttl": 60}]}, "Invalid request body", 'Missing "body" field.'),
        ({"messages": [{"ttl": "60", "body": 1}]}, "Invalid request body", 'The value of the "ttl" field must be a int.'),
        ({"messages": [{"ttl": 60.5, "body": 1}]}, "Invalid request body", 'The value of the "ttl" field must be a int.'),
        ({"messages": [{"ttl": None, "body": 1}]}, "Invalid request body", 'The value of the "ttl" field must be a int.'),
        (
            {"messages": [{"ttl": 59, "body": 1}]}, "Invalid API request",
            "The TTL for a message may not exceed 1209600 seconds, and must be at least 60 seconds long.",
        ),
        ({"messages": [{"ttl": 1209601, "body": 1}]}, "Invalid API request", "The TTL for a message may not exceed"),
        ({"messages": [{"ttl": True, "body": 1}]}, "Invalid API request", "The TTL for a message may not exceed"),
        ({"messages": [{"ttl": 60, "body": 1}, {"ttl": 1, "body": 2}]}, "Invalid API request", "The TTL for a message"),
    ],
)
def test_a_post_is_all_or_nothing(caller, queue, document, title, text):
    refused(caller.post(f"{queue}/messages", document), 400, title, text)

    assert caller.bodies(queue) == []


def test_an_element_that_is_no_object_is_refused(caller, ours_only, queue):
    answer = caller.post(f"{queue}/messages", {"messages": [1]})

    assert answer.status_code == 400, answer.text


def test_a_post_has_a_greatest_size(caller, queue):
    text = "Message collection size is too large. Max size 262144"
    answer = caller.post(f"{queue}/messages", {"messages": [{"ttl": 60, "body": "x" * 262144}]})
    refused(answer, 400, "Invalid API request", text)

    caller.put(queue + "small", {"_max_messages_post_size": 100})
    answer = caller.post(f"{queue}small/messages", {"messages": [{"ttl": 60, "body": "x" * 100}]})
    text = (
        "Message collection size is too large. The max size for current queue is 100. It is calculated by max size = "
        "min(max_messages_post_size_config: 262144, max_messages_post_size_queue: 100)."
    )
    refused(answer, 400, "Invalid API request", text)
    assert caller.post(f"{queue}small/messages", {"messages": [{"ttl": 60, "body": "x"}]}).status_code == 201


def test_many_messages_fit_one_post(caller, queue):
    ids = caller.post_bodies(queue, *range(200))

    assert len(set(ids)) == 200
    assert caller.get(f"{queue}/stats").json()["messages"]["free"] == 200


class TestLists:
    """GET of messages."""

    def test_own_messages_are_shown_only_with_echo(self, caller, queue):
        caller.post_bodies(queue, "mine")
        caller.somebody_else().post_bodies(queue, "theirs")

        assert caller.bodies(queue, echo="false") == ["theirs"]
        assert caller.bodies(queue, echo="true") == ["mine", "theirs"]

    def test_claimed_messages_are_shown_only_if_asked_for(self, caller, queue):
        caller.post_bodies(queue, 1, 2, 3)
        caller.claim(queue, limit=2)

        assert caller.bodies(queue) == [3]
        if not caller.service.is_zaqar:  # Its Redis store cannot list claimed messages.
            assert caller.bodies(queue, include_claimed="true") == [1, 2, 3]

    def test_pages_follow_the_order_of_posting(self, caller, queue):
        caller.post_bodies(queue, *range(25))

        path, seen, sizes = f"{queue}/messages?echo=true&limit=10", [], []
        while True:
            page = caller.get(path).json()
            if not page["messages"]:
                assert page["links"] == []
                break
            seen += [message["body"] for message in page["messages"]]
            sizes.append(len(page["messages"]))
            assert [link["rel"] for link in page["links"]] == ["next"]
            path = page["links"][0]["href"]
            assert path.startswith(f"{queue}/messages?")

        assert (seen, sizes) == (list(range(25)), [10, 10, 5])

    def test_a_page_is_stable_under_writes(self, caller, queue):
        ids = caller.post_bodies(queue, *range(10))
        page = caller.get(f"{queue}/messages?echo=true&limit=5").json()
        for one in ids[:5]:
            caller.delete(f"{queue}/messages/{one}")
        caller.post_bodies(queue, *range(10, 15))

        rest = caller.get(page["links"][0]["href"].replace("limit=5", "limit=20")).json()["messages"]

        # The Redis store keeps its place by the message that the marker names, which is gone.
        if not caller.service.is_zaqar:
            assert [message["body"] for message in rest] == list(range(5, 15))

    def test_the_link_repeats_what_was_understood(self, caller, queue):
        caller.post_bodies(queue, 1, 2)

        link = caller.get(f"{queue}/messages?echo=True&limit=1&include_claimed=0&colour=red").json()["links"][0]["href"]

        query = dict(part.split("=") for part in link.split("?")[1].split("&"))
        assert query.pop("marker")
        # Zaqar says so of every queue that does not delay; ours does not, because a message of another door may be delayed.
        assert query.pop("include_delayed") == caller.service.expects("false", "true")
        assert query == {"echo": "true", "limit": "1", "include_claimed": "false"}

    def test_a_page_has_ten_messages_without_a_limit(self, caller, queue):
        caller.post_bodies(queue, *range(11))

        assert len(caller.bodies(queue)) == 10
        assert len(caller.bodies(queue, limit="")) == 10

    @pytest.mark.parametrize("limit", [0, -1, 21])
    def test_a_page_has_a_limit(self, caller, queue, limit):
        text = "Limit must be at least 1 and may not be greater than 20."
        refused(caller.get(f"{queue}/messages?limit={limit}"), 400, "Invalid API request", text)

    @pytest.mark.parametrize("marker", ["nonsense", "-1", "99999999999999999999999999", "%00", "18446744073709551615"])
    def test_a_marker_that_is_none_gives_an_empty_page(self, caller, ours_only, queue, marker):
        caller.post_bodies(queue, 1)

        answer = caller.get(f"{queue}/messages?echo=true&marker={marker}")

        assert answer.status_code == 200
        assert answer.json() == {"messages": [], "links": []}

    def test_a_queue_that_does_not_exist_is_empty(self, caller, queue):
        answer = caller.get(f"{queue}/messages")

        assert (answer.status_code, answer.json()) == (200, {"messages": [], "links": []})

    def test_messages_are_got_by_their_ids(self, caller, queue):
        ids = caller.post_bodies(queue, 1, 2, 3)
        caller.claim(queue, limit=1)

        answer = caller.get(f"{queue}/messages?ids={ids[2]},{ids[0]},{'0' * 24}")

        assert answer.status_code == 200
        assert "links" not in answer.json()
        assert sorted(message["body"] for message in answer.json()["messages"]) == [1, 3]
        repeated = caller.get(f"{queue}/messages?ids={ids[0]}&ids={ids[1]}")
        assert sorted(message["body"] for message in repeated.json()["messages"]) == [1, 2]

    def test_ids_that_nobody_has_are_not_found(self, caller, queue):
        caller.post_bodies(queue, 1)

        assert caller.get(f"{queue}/messages?ids=none,neither").status_code == 404
        many = ",".join(["x"] * 21)
        refused(caller.get(f"{queue}/messages?ids={many}"), 400, "Invalid API request")

    @pytest.mark.parametrize("one", ["none", "0" * 24, "f" * 24, "1", "ffffffffffffffffffffffffffffffffffff"])
    def test_an_unknown_id_is_not_found(self, caller, queue, one):
        caller.post_bodies(queue, 1)

        answer = caller.get(f"{queue}/messages/{one}")

        refused(answer, 404, "Not found", f"does not exist in queue {queue.rsplit('/', 1)[1]} for project {caller.project}")

    def test_an_id_counts_in_its_own_queue_only(self, caller, ours_only, queue):
        (one,) = caller.post_bodies(queue, 1)
        caller.post_bodies(queue + "b", 2)

        assert caller.get(f"{queue}b/messages/{one}").status_code == 404
        assert caller.delete(f"{queue}b/messages/{one}").status_code == 204
        assert caller.delete(f"{queue}b/messages?ids={one}").status_code == 204
        assert caller.bodies(queue) == [1]
        assert caller.bodies(queue + "b") == [2]


class TestDelays:
    """Queues with `_default_message_delay`."""

    def test_a_delayed_message_is_hidden_until_it_is_due(self, caller, queue):
        caller.put(queue, {"_default_message_delay": 1})
        caller.post_bodies(queue, "late")
        caller.post_bodies(queue, "now", delay=0)

        assert caller.bodies(queue) == ["now"]
        assert sorted(caller.bodies(queue, include_delayed="true")) == ["late", "now"]
        eventually(lambda: sorted(caller.bodies(queue)) == ["late", "now"], what="the end of the delay")

    def test_a_delayed_message_is_not_claimed(self, caller, queue):
        caller.put(queue, {"_default_message_delay": 1})
        caller.post_bodies(queue, "late", delay=900)

        assert caller.claim(queue) == (None, [])
        assert caller.delete(f"{queue}/messages?pop=1").json()["messages"] == []

    def test_a_delay_counts_only_in_a_queue_that_delays(self, caller, queue):
        caller.post_bodies(queue, "now", delay=900)

        assert caller.bodies(queue) == ["now"]

    def test_a_delay_has_a_range(self, caller, queue):
        caller.put(queue, {"_default_message_delay": 1})
        text = "The Delay TTL for a message may not exceed 900 seconds,and must be at least 0 seconds long."

        for delay in (-1, 901):
            answer = caller.post(f"{queue}/messages", {"messages": [{"ttl": 60, "delay": delay, "body": 1}]})
            refused(answer, 400, "Invalid API request", text)


class TestDeletion:
    """DELETE of messages."""

    def test_a_message_is_deleted_and_deleting_is_repeatable(self, caller, queue):
        ids = caller.post_bodies(queue, 1, 2)

        assert caller.delete(f"{queue}/messages/{ids[0]}").status_code == 204
        assert caller.delete(f"{queue}/messages/{ids[0]}").status_code == 204
        assert caller.delete(f"{queue}/messages/nonsense").status_code == 204
        assert caller.delete(f"{queue}none/messages/{ids[1]}").status_code == 204

        assert caller.bodies(queue) == [2]

    def test_a_claimed_message_is_deleted_with_its_claim_only(self, caller, queue):
        (one,) = caller.post_bodies(queue, 1)
        claim_id, _ = caller.claim(queue)
        path = f"{queue}/messages/{one}"

        text = "This message is claimed; it cannot be deleted without a valid claim ID."
        refused(caller.delete(path), 403, "Unable to delete", text)
        caller.post_bodies(queue, 2)
        other, _ = caller.claim(queue)
        foreign = caller.delete(f"{path}?claim_id={other}")
        assert foreign.status_code == 403, foreign.text
        malformed = caller.delete(f"{path}?claim_id=nonsense")
        refused(malformed, 400, "Unable to delete", "The specified claim does not exist or has expired.")
        assert caller.get(path).status_code == 200

        assert caller.delete(f"{path}?claim_id={claim_id}").status_code == 204
        assert caller.get(path).status_code == 404

    def test_a_claim_that_was_released_deletes_nothing(self, caller, queue):
        (one,) = caller.post_bodies(queue, 1)
        claim_id, _ = caller.claim(queue)
        caller.delete(f"{queue}/claims/{claim_id}")

        answer = caller.delete(f"{queue}/messages/{one}?claim_id={claim_id}")

        text = "A claim was specified, but the message is not currently claimed."
        refused(answer, 400, "Unable to delete", text)

    def test_ids_are_deleted_claimed_or_not(self, caller, queue):
        ids = caller.post_bodies(queue, 1, 2, 3)
        caller.claim(queue, limit=1)

        assert caller.delete(f"{queue}/messages?ids={ids[0]},{ids[1]},nonsense").status_code == 204

        assert [caller.get(f"{queue}/messages/{one}").status_code for one in ids] == [404, 404, 200]

    def test_a_pop_takes_the_oldest_unclaimed(self, caller, queue):
        ids = caller.post_bodies(queue, 1, 2, 3, 4)
        caller.claim(queue, limit=1)

        answer = caller.delete(f"{queue}/messages?pop=2")

        assert answer.status_code == 200
        messages = answer.json()["messages"]
        assert [message["body"] for message in messages] == [2, 3]
        assert [message["id"] for message in messages] == ids[1:3]
        assert set(messages[0]) >= {"id", "age", "ttl", "claim_count", "body", "claim_id"}
        assert "href" not in messages[0]
        if not caller.service.is_zaqar:  # Its Redis store claims what it pops.
            assert messages[0]["claim_id"] is None
        assert [caller.get(f"{queue}/messages/{one}").status_code for one in ids] == [200, 404, 404, 200]

    def test_a_pop_of_nothing_is_empty(self, caller, queue):
        answer = caller.delete(f"{queue}/messages?pop=1")

        assert (answer.status_code, answer.json()) == (200, {"messages": []})

    @pytest.mark.parametrize(
        "query, text",
        [
            ("", 'The request should have either "ids" or "pop" parameter in the request, to be able to delete.'),
            ("?ids=a&pop=1", "pop and id params cannot be present together in the delete request."),
            ("?pop=0", None),
            ("?pop=21", "Pop value must be at least 1 and may not be greater than 20."),
            ("?ids=" + ",".join("x" * 21), "ids parameter should have at least 1 and not greater than 20 values."),
        ],
    )
    def test_other_deletions_are_refused(self, caller, queue, query, text):
        caller.post_bodies(queue, 1)

        refused(caller.delete(f"{queue}/messages{query}"), 400, "Invalid API request", text)


class TestClaims:
    """Claims of messages."""

    def test_a_claim_takes_the_oldest_messages_of_anybody(self, caller, queue):
        ids = caller.post_bodies(queue, *range(5))

        answer = caller.post(f"{queue}/claims?limit=3", {"ttl": 100, "grace": 60})

        assert answer.status_code == 201
        path = answer.headers["location"]
        claim_id = path.rsplit("/", 1)[1]
        assert path == f"{queue}/claims/{claim_id}"
        messages = answer.json()["messages"]
        assert [message["body"] for message in messages] == [0, 1, 2]
        assert [message["href"] for message in messages] == [f"{queue}/messages/{one}?claim_id={claim_id}" for one in ids[:3]]
        _, others = caller.claim(queue)
        assert [message["body"] for message in others] == [3, 4]
        nothing = caller.post(f"{queue}/claims")
        assert (nothing.status_code, nothing.content, "location" in nothing.headers) == (204, b"", False)

    def test_a_claim_shows_its_messages(self, caller, queue):
        caller.post_bodies(queue, 1, 2)
        claim_id, messages = caller.claim(queue, ttl=200)

        claim = caller.get(f"{queue}/claims/{claim_id}").json()

        assert claim["ttl"] == 200 and claim["age"] < 60
        assert claim["href"] == f"{queue}/claims/{claim_id}"
        assert [message["href"] for message in claim["messages"]] == [message["href"] for message in messages]

    def test_defaults_are_five_minutes_and_ten_messages(self, caller, queue):
        caller.post_bodies(queue, *range(11))

        answer = caller.post(f"{queue}/claims")

        assert len(answer.json()["messages"]) == 10
        assert caller.get(answer.headers["location"]).json()["ttl"] == 300

    def test_an_update_restarts_the_clock(self, caller, queue):
        caller.post_bodies(queue, 1)
        claim_id, _ = caller.claim(queue, ttl=100)
        path = f"{queue}/claims/{claim_id}"

        assert caller.patch(path, {"ttl": 500, "grace": 60}).status_code == 204
        assert caller.get(path).json()["ttl"] == 500
        assert caller.patch(path, {}).status_code == 204
        assert caller.get(path).json()["ttl"] == 300

    def test_a_released_claim_frees_its_messages_in_their_place(self, caller, queue):
        caller.post_bodies(queue, 1, 2, 3)
        claim_id, _ = caller.claim(queue, limit=2)
        path = f"{queue}/claims/{claim_id}"

        assert caller.delete(path).status_code == 204
        assert caller.delete(path).status_code == 204

        refused(caller.get(path), 404, "Not found", "does not exist in queue")
        assert caller.patch(path, {"ttl": 100}).status_code == 404
        _, messages = caller.claim(queue)
        assert [message["body"] for message in messages] == [1, 2, 3]

    def test_an_unknown_claim_is_not_found(self, caller, queue):
        caller.put(queue)

        for one in ("none", "0" * 24):
            assert caller.get(f"{queue}/claims/{one}").status_code == 404
            assert caller.patch(f"{queue}/claims/{one}", {"ttl": 100}).status_code == 404
            assert caller.delete(f"{queue}/claims/{one}").status_code == 204

    def test_a_claim_without_messages_is_gone(self, caller, ours_only, queue):
        caller.post_bodies(queue, 1)
        claim_id, messages = caller.claim(queue)

        assert caller.delete(messages[0]["href"]).status_code == 204

        assert caller.get(f"{queue}/claims/{claim_id}").status_code == 404

    def test_a_claim_lengthens_the_life_of_its_messages(self, caller, queue):
        caller.post_bodies(queue, 1, ttl=60)
        claim_id, messages = caller.claim(queue, ttl=1000, grace=100)

        assert caller.get(f"{queue}/messages/{message_id(messages[0])}").json()["ttl"] == 1100
        caller.delete(f"{queue}/claims/{claim_id}")
        assert caller.get(f"{queue}/messages/{message_id(messages[0])}").json()["ttl"] == 1100

    def test_a_claim_never_shortens_the_life_of_its_messages(self, caller, queue):
        caller.post_bodies(queue, 1, ttl=5000)
        _, messages = caller.claim(queue, ttl=60, grace=60)

        assert caller.get(messages[0]["href"]).json()["ttl"] == 5000

    @pytest.mark.parametrize(
        "query, document, title, text",
        [
            ("", {"ttl": 59, "grace": 60}, "Invalid API request", "The TTL for a claim may not exceed 43200 seconds, and must be at least 60 seconds long."),
            ("", {"ttl": 43201, "grace": 60}, "Invalid API request", "The TTL for a claim may not exceed 43200 seconds"),
            ("", {"ttl": 60, "grace": 59}, "Invalid API request", "The grace for a claim may not exceed 43200 seconds, and must be at least 60 seconds long."),
            ("", {"ttl": "60"}, "Invalid request body", 'The value of the "ttl" field must be a int.'),
            ("", {"grace": None}, "Invalid request body", 'The value of the "grace" field must be a int.'),
            ("", [], "Invalid request body", "Document type not supported."),
            ("?limit=0", {}, "Invalid API request", "Limit must be at least 1 and may not be greater than 20."),
            ("?limit=21", {}, "Invalid API request", "Limit must be at least 1 and may not be greater than 20."),
            ("?limit=x", {}, "Invalid parameter", 'The "limit" parameter is invalid.'),
        ],
    )
    def test_claims_have_limits(self, caller, queue, query, document, title, text):
        caller.post_bodies(queue, 1)

        refused(caller.post(f"{queue}/claims{query}", document), 400, title, text)

        assert caller.bodies(queue) == [1]

    def test_an_update_needs_a_body_within_the_limits(self, caller, queue):
        caller.post_bodies(queue, 1)
        claim_id, _ = caller.claim(queue)
        path = f"{queue}/claims/{claim_id}"

        assert caller.patch(path).status_code == 400
        refused(caller.patch(path, {"ttl": 1}), 400, "Invalid API request", "The TTL for a claim may not exceed")
        refused(caller.patch(path, {"ttl": "1"}), 400, "Invalid request body")

    def test_poison_moves_to_the_dead_letter_queue(self, caller, queue):
        dead = f"{queue}dead"
        caller.put(dead)
        metadata = {
            "_max_claim_count": 2, "_dead_letter_queue": dead.rsplit("/", 1)[1], "_dead_letter_queue_messages_ttl": 777
        }
        caller.put(queue, metadata)
        (one,) = caller.post_bodies(queue, "poison")

        # Every claim counts here, as the documentation says; Zaqar's MongoDB store forgets those that are released.
        for _ in range(2):
            claim_id, messages = caller.claim(queue)
            assert len(messages) == 1
            caller.delete(f"{queue}/claims/{claim_id}")

        assert caller.claim(queue) == (None, [])
        if caller.service.is_zaqar:
            pytest.skip("the dead-letter queue of its Redis store lists nothing")
        assert caller.get(f"{queue}/messages/{one}").status_code == 404
        moved = caller.get(f"{dead}/messages?echo=true").json()["messages"]
        assert [(message["body"], message["ttl"]) for message in moved] == [("poison", 777)]
