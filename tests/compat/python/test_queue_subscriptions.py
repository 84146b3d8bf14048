"""Subscriptions and pre-signed URLs of the queue service, without delivery."""

import datetime
import hashlib
import hmac

import pytest

from queue_service import SECRET_KEY, Caller, refused

SUBSCRIBER = "http://127.0.0.1:1/hook"


def subscribe(caller, queue, subscriber=SUBSCRIBER, **members):
    """Creates a subscription and returns its address."""
    answer = caller.post(f"{queue}/subscriptions", {"subscriber": subscriber, **members})
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"{queue}/subscriptions"
    return f"{queue}/subscriptions/{answer.json()['subscription_id']}"


@pytest.mark.needs("subscriptions")
def test_a_subscription_shows_what_was_asked_for(caller, queue):
    path = subscribe(caller, queue, ttl=100, options={"a": {"b": [1]}})

    subscription = caller.get(path).json()

    assert subscription.pop("age") < 60
    assert subscription == {
        "id": path.rsplit("/", 1)[1], "source": queue.rsplit("/", 1)[1], "subscriber": SUBSCRIBER, "ttl": 100,
        "options": {"a": {"b": [1]}}, "confirmed": False,
    }
    assert [entry["href"] for entry in caller.get("/v2/queues").json()["queues"]] == [queue]


@pytest.mark.needs("subscriptions")
def test_a_subscription_without_a_life_has_an_hour(caller, queue):
    subscription = caller.get(subscribe(caller, queue)).json()

    assert (subscription["ttl"], subscription["options"]) == (3600, {})


@pytest.mark.needs("subscriptions")
def test_an_unconfirmed_subscriber_subscribes_again_and_a_confirmed_one_does_not(caller, queue):
    path = subscribe(caller, queue)
    if not caller.service.is_zaqar:  # Its Redis store gives a second subscription.
        assert subscribe(caller, queue) == path
    confirm = caller.put(f"{path}/confirm", {"confirmed": True})
    assert (confirm.status_code, confirm.headers["location"]) == (204, f"{path}/confirm")
    assert caller.get(path).json()["confirmed"] is True

    again = caller.post(f"{queue}/subscriptions", {"subscriber": SUBSCRIBER})

    text = "Such subscription already exists.Subscriptions are unique by project + queue + subscriber URI."
    refused(again, 409, "Resource conflict", text)
    assert again.headers["location"] == f"{queue}/subscriptions"


@pytest.mark.needs("subscriptions")
@pytest.mark.parametrize("subscriber", [
    "http://127.0.0.1/", "https://example.org/a?b=c", "mailto:aa@example.org?subject=hello"
])
def test_these_are_subscribers(caller, queue, subscriber):
    assert caller.get(subscribe(caller, queue, subscriber)).json()["subscriber"] == subscriber


@pytest.mark.needs("subscriptions")
@pytest.mark.parametrize(
    "body, text",
    [
        (None, "Missing parameter subscriber in body."),
        ({}, "Missing parameter subscriber in body."),
        ({"subscriber": "ftp://a/"}, "The subscriber type of subscription must be supported in the list ['http', 'https', 'mailto', 'trust+http', 'trust+https'"),
        ({"subscriber": SUBSCRIBER, "ttl": "60"}, "TTL must be an integer."),
        ({"subscriber": SUBSCRIBER, "ttl": 59}, "The TTL for a subscription must be at least 60 seconds long."),
        ({"subscriber": SUBSCRIBER, "ttl": 2**62}, "The TTL seconds for a subscription plus current time must be less than 9999-12-31 23:59:59.999999."),
        ({"subscriber": SUBSCRIBER, "options": 1}, "Options must be a dict."),
        ({"subscriber": SUBSCRIBER, "options": "a"}, "Options must be a dict."),
        ({"subscriber": SUBSCRIBER, "options": {"_retry_policy": 1}}, "retry_policy must be a dict."),
        ({"subscriber": SUBSCRIBER, "options": {"_retry_policy": {"minimum_delay": "a"}}}, "must be a integer."),
        ({"subscriber": SUBSCRIBER, "options": {"_retry_policy": {"retry_backoff_function": 1}}}, "retry_backoff_function must be a string."),
        ({"subscriber": SUBSCRIBER, "options": {"_retry_policy": {"retry_backoff_function": "a"}}}, "invalid retry_backoff_function."),
        ({"subscriber": SUBSCRIBER, "options": {"_retry_policy": {"ignore_subscription_override": 1}}}, "ignore_subscription_override must be a boolean."),
        ({"subscriber": SUBSCRIBER, "options": {"_retry_policy": {"minimum_delay": 40, "maximum_delay": 30}}}, "minimum_delay must less than maximum_delay."),
        ({"subscriber": SUBSCRIBER, "options": {"_retry_policy": {"minimum_delay": 25, "maximum_delay": 30}}}, "invalid minimum_delay and maximum_delay."),
    ],
)
def test_other_subscriptions_are_refused(caller, queue, body, text):
    answer = caller.post(f"{queue}/subscriptions", body)

    refused(answer, 400, "Invalid API request", text)
    assert caller.get(f"{queue}/subscriptions").json()["subscriptions"] == []


@pytest.mark.needs("subscriptions")
@pytest.mark.parametrize("body", [[], {"subscriber": 1}, {"subscriber": ""}])
def test_subscribers_of_the_wrong_kind_are_refused(caller, ours_only, queue, body):
    assert caller.post(f"{queue}/subscriptions", body).status_code == 400


@pytest.mark.needs("subscriptions")
def test_a_subscription_changes(caller, queue):
    path = subscribe(caller, queue, ttl=100)

    answer = caller.patch(path, {"subscriber": SUBSCRIBER + "/2", "ttl": 200, "options": {"a": 1}})

    assert (answer.status_code, answer.headers["location"]) == (204, path)
    subscription = caller.get(path).json()
    changed = (subscription["subscriber"], subscription["ttl"], subscription["options"])
    assert changed == (SUBSCRIBER + "/2", 200, {"a": 1})


@pytest.mark.needs("subscriptions")
@pytest.mark.parametrize(
    "body, status, title, text",
    [
        (None, 400, "Invalid API request", "No subscription to create."),
        ({}, 400, "Invalid API request", "No subscription to create."),
        ({"colour": 1}, 400, "Unable to update subscription", None),
        ({"ttl": 1}, 400, "Invalid API request", "The TTL for a subscription must be at least 60 seconds long."),
        ({"options": 1}, 400, "Invalid API request", "Options must be a dict."),
    ],
)
def test_a_change_has_rules(caller, queue, body, status, title, text):
    path = subscribe(caller, queue)

    refused(caller.patch(path, body), status, title, text)


@pytest.mark.needs("subscriptions")
def test_a_change_to_another_ones_subscriber_conflicts(caller, ours_only, queue):
    subscribe(caller, queue)
    path = subscribe(caller, queue, SUBSCRIBER + "/2")

    assert caller.patch(path, {"subscriber": SUBSCRIBER}).status_code == 409


@pytest.mark.needs("subscriptions")
def test_an_unknown_subscription_is_not_found(caller, queue):
    caller.put(queue)
    path = f"{queue}/subscriptions/{'0' * 24}"

    refused(caller.get(path), 404, "Not found")
    assert caller.patch(path, {"ttl": 100}).status_code == 404
    assert caller.delete(path).status_code == 204
    if not caller.service.is_zaqar:
        assert caller.put(f"{path}/confirm", {"confirmed": True}).status_code == 404


@pytest.mark.needs("subscriptions")
@pytest.mark.parametrize("body", [None, {}, {"confirmed": "true"}, {"confirmed": 1}])
def test_a_confirmation_is_a_boolean(caller, queue, body):
    path = subscribe(caller, queue)

    answer = caller.put(f"{path}/confirm", body)

    assert answer.status_code == 400
    assert "The 'confirmed' should be boolean." in answer.text


@pytest.mark.needs("subscriptions")
def test_a_deleted_subscription_is_gone(caller, queue):
    path = subscribe(caller, queue)

    assert [caller.delete(path).status_code for _ in range(2)] == [204, 204]

    assert caller.get(path).status_code == 404
    assert caller.get(f"{queue}/subscriptions").json() == {"subscriptions": [], "links": []}


@pytest.mark.needs("subscriptions")
def test_subscriptions_are_listed_page_by_page(caller, queue):
    subscribers = [f"http://127.0.0.1:1/{number:02}" for number in range(12)]
    for subscriber in subscribers:
        subscribe(caller, queue, subscriber)

    path, seen = f"{queue}/subscriptions?limit=5", []
    while True:
        page = caller.get(path).json()
        if not page["subscriptions"]:
            assert page["links"] == []
            break
        assert len(page["subscriptions"]) <= 5
        seen += [subscription["subscriber"] for subscription in page["subscriptions"]]
        path = page["links"][0]["href"]

    assert sorted(seen) == subscribers
    assert caller.get(f"{queue}/subscriptions?limit=21").status_code == 400


class TestSharing:
    """Pre-signed URLs."""

    def share(self, caller, queue, **body):
        answer = caller.post(f"{queue}/share", body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def headers(self, shared):
        return {
            "URL-Signature": shared["signature"], "URL-Expires": shared["expires"],
            "URL-Methods": ",".join(shared["methods"]), "URL-Paths": ",".join(shared["paths"]),
        }

    def test_the_signature_is_zaqars(self, caller, queue):
        expires = f"{datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1):%Y-%m-%dT%H:%M:%S}"
        shared = self.share(caller, queue, paths=["messages", "claims"], methods=["POST", "GET"], expires=expires)

        paths = f"{queue}/claims,{queue}/messages"
        text = f"{paths}\\nGET,POST\\n{caller.project}\\n{expires}"
        signature = hmac.new(SECRET_KEY.encode(), text.encode(), hashlib.sha256).hexdigest()
        assert shared == {
            "paths": paths.split(","), "methods": ["GET", "POST"], "project": caller.project,
            "expires": expires, "signature": signature,
        }

    def test_the_default_is_to_get_messages_for_a_day(self, caller, queue):
        shared = self.share(caller, queue)

        assert (shared["paths"], shared["methods"]) == ([f"{queue}/messages"], ["GET"])

    def test_a_signature_opens_what_it_names(self, caller, queue):
        (one,) = caller.post_bodies(queue, 1)
        signed = Caller(caller.service, caller.project, None, **self.headers(self.share(caller, queue)))

        assert signed.bodies(queue) == [1]
        assert signed.get(f"{queue}/messages/{one}").status_code == 200

    @pytest.mark.parametrize(
        "wrong",
        [
            {"URL-Signature": "0" * 64}, {"URL-Expires": "2098-01-01T00:00:00"}, {"URL-Expires": "soon"},
            {"URL-Methods": "GET,POST"}, {"URL-Paths": "/v2/queues"}, {"X-Project-Id": "another"},
        ],
    )
    def test_a_signature_that_does_not_match_finds_nothing(self, caller, queue, wrong):
        headers = self.headers(self.share(caller, queue))

        answer = caller.get(f"{queue}/messages", headers={**headers, **wrong})

        assert answer.status_code == 404
        assert answer.json() == {"title": "404 Not Found"}

    def test_other_methods_and_paths_find_nothing(self, caller, queue):
        headers = self.headers(self.share(caller, queue))

        assert caller.post(f"{queue}/messages", {"messages": [{"body": 1}]}, headers=headers).status_code == 404
        assert caller.get(f"{queue}/stats", headers=headers).status_code == 404
        assert caller.get(queue, headers=headers).status_code == 404

    def test_a_path_is_no_regular_expression(self, caller, ours_only, queue):
        headers = self.headers(self.share(caller, queue))

        assert caller.get(f"{queue}/messagesX", headers=headers).status_code == 404
        assert caller.get(f"/v2/queues/x{queue[11:]}/messages", headers=headers).status_code == 404

    @pytest.mark.parametrize(
        "body, text",
        [
            ({"colour": 1}, "Unknown keys: {'colour'}"),
            ({"paths": ["stats"]}, "Invalid paths: {'stats'}"),
            ({"methods": "GET"}, "`methods` should be a list"),
            ({"expires": 1}, "`expires` should be date format, for example 2016-01-01T00:00:00, not integer value: 1"),
            ({"expires": "soon"}, "Unable to parse date string 'soon'"),
            ({"expires": "2016-01-01T00:00:00"}, "`expires` is lower than the current time"),
        ],
    )
    def test_other_requests_are_refused(self, caller, queue, body, text):
        refused(caller.post(f"{queue}/share", body), 400, "Invalid API request", text)
