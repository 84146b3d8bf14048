//! Against a peer that answers as Keystone does; the real one is asked in `tests/compat`.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::super::fetch::tests::{answer, peer};
use super::*;
use crate::config::Secret;

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// 2026-11-21T08:00:00Z.
const NOW_SECS: u64 = 1_795_248_000;

fn clock() -> Timestamp {
    Timestamp(NOW_SECS * 1000)
}

fn access(url: &str) -> KeystoneAccess {
    KeystoneAccess {
        url: url.to_owned(),
        public_url: String::new(),
        user: "posthouse".to_owned(),
        password: Secret::new("pass".to_owned()),
        user_domain: "Default".to_owned(),
        project: "service".to_owned(),
        project_domain: "Default".to_owned(),
        ca: None,
        timeout: Duration::from_secs(20),
        cache: Duration::from_secs(10),
        negative_cache: Duration::from_secs(5),
        cache_entries_max: 100,
    }
}

fn token_body(project: &str, expires: &str, roles: &str) -> String {
    let project = match project {
        "" => String::new(),
        id => format!(r#""project":{{"id":"{id}","domain":{{"id":"default"}}}},"#),
    };
    format!(
        r#"{{"token":{{"methods":["password"],"user":{{"id":"u1","name":"ann"}},{project}"roles":[{roles}],"expires_at":"{expires}"}}}}"#
    )
}

/// What Keystone would say; counts logins and questions.
#[derive(Default)]
struct Script {
    logins: AtomicUsize,
    questions: AtomicUsize,
    refuse_own: AtomicU64,
}

impl Script {
    fn answer(&self, request: &str) -> String {
        let future = "2026-11-21T09:00:00.000000Z";
        let member = r#"{"id":"1","name":"member"}"#;
        if request.starts_with("POST /v3/auth/tokens") {
            let count = self.logins.fetch_add(1, Ordering::SeqCst);
            if request.contains(r#""password":"wrong""#) {
                return answer("401 Unauthorized", "", "{}");
            }
            let body = token_body("service", future, r#"{"id":"2","name":"service"}"#);
            return answer("201 Created", &format!("x-subject-token: own{count}\r\n"), &body);
        }
        self.questions.fetch_add(1, Ordering::SeqCst);
        if request.contains("x-auth-token: own0\r\n") && self.refuse_own.load(Ordering::SeqCst) > 0
        {
            return answer("401 Unauthorized", "", "{}");
        }
        let subject = request
            .lines()
            .find_map(|line| line.strip_prefix("x-subject-token: "))
            .unwrap_or_default();
        let allow_expired = request.contains("allow_expired=1");
        match subject {
            "good" => answer("200 OK", "", &token_body("p1", future, member)),
            "unscoped" => answer("200 OK", "", &token_body("", future, "")),
            "service" => answer("200 OK", "", &token_body("s", future, r#"{"name":"Service"}"#)),
            "old" if !allow_expired => answer("404 Not Found", "", "{}"),
            "old" | "late" => {
                answer("200 OK", "", &token_body("p1", "2026-11-21T07:59:59Z", member))
            }
            "odd" => answer("200 OK", "", r#"{"token":{}}"#),
            "forbidden" => answer("403 Forbidden", "", "{}"),
            "broken" => answer("500 Internal Server Error", "", "{}"),
            _ => answer("404 Not Found", "", "{}"),
        }
    }
}

fn keystone(script: &Arc<Script>) -> (Arc<Keystone>, tokio::task::JoinHandle<()>) {
    let script = Arc::clone(script);
    let (url, serving) = peer(move |request| script.answer(request));
    (Keystone::new(&access(&url), clock).unwrap(), serving)
}

#[tokio::test]
async fn a_token_is_asked_about_with_our_own_and_remembered() {
    let script = Arc::new(Script::default());
    let (keystone, _serving) = keystone(&script);

    let Verdict::Caller(caller) = keystone.verdict("good", None, PEER).await else { panic!() };
    let again = keystone.verdict("good", None, PEER).await;

    assert_eq!((&*caller.project, caller.user.as_deref()), ("p1", Some("u1")));
    assert!(caller.has_role("member"));
    assert_eq!(again, Verdict::Caller(caller));
    assert_eq!(script.logins.load(Ordering::SeqCst), 1);
    assert_eq!(script.questions.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn many_who_show_one_token_ask_once() {
    let script = Arc::new(Script::default());
    let (keystone, _serving) = keystone(&script);

    let asked: Vec<_> = (0..50)
        .map(|_| {
            let keystone = Arc::clone(&keystone);
            tokio::spawn(async move { keystone.verdict("good", None, PEER).await })
        })
        .collect();
    for verdict in asked {
        assert!(matches!(verdict.await.unwrap(), Verdict::Caller(_)));
    }

    assert_eq!(script.questions.load(Ordering::SeqCst), 1);
    assert!(keystone.flights.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_is_not_a_good_token_of_a_project_is_told_apart() {
    let script = Arc::new(Script::default());
    let (keystone, _serving) = keystone(&script);
    for (token, verdict) in [
        ("unscoped", Verdict::Unscoped),
        ("unscoped", Verdict::Unscoped),
        ("nobody", Verdict::Bad),
        ("late", Verdict::Bad),
        ("odd", Verdict::Unknown),
        ("forbidden", Verdict::Unknown),
        ("broken", Verdict::Unknown),
        ("", Verdict::Bad),
        ("a b", Verdict::Bad),
        ("a\r\nx: y", Verdict::Bad),
    ] {
        assert_eq!(keystone.verdict(token, None, PEER).await, verdict, "{token:?}");
    }
    let questions = script.questions.load(Ordering::SeqCst);
    assert_eq!(keystone.verdict("nobody", None, PEER).await, Verdict::Bad);
    assert_eq!(script.questions.load(Ordering::SeqCst), questions);
}

#[tokio::test]
async fn an_own_token_that_is_refused_is_replaced_once() {
    let script = Arc::new(Script::default());
    script.refuse_own.store(1, Ordering::SeqCst);
    let (keystone, _serving) = keystone(&script);

    assert!(matches!(keystone.verdict("good", None, PEER).await, Verdict::Caller(_)));

    assert_eq!(script.logins.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_login_that_fails_is_not_tried_at_once_again() {
    let script = Arc::new(Script::default());
    let answering = Arc::clone(&script);
    let (url, _serving) = peer(move |request| answering.answer(request));
    let mut access = access(&url);
    access.password = Secret::new("wrong".to_owned());
    let keystone = Keystone::new(&access, clock).unwrap();

    for token in ["a", "b", "c"] {
        assert_eq!(keystone.verdict(token, None, PEER).await, Verdict::Unknown);
    }

    assert_eq!(script.logins.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn nobody_is_let_in_because_nobody_answers_but_what_is_remembered_stays() {
    let script = Arc::new(Script::default());
    let (keystone, serving) = keystone(&script);
    assert!(matches!(keystone.verdict("good", None, PEER).await, Verdict::Caller(_)));

    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());

    assert!(matches!(keystone.verdict("good", None, PEER).await, Verdict::Caller(_)));
    assert_eq!(keystone.verdict("other", None, PEER).await, Verdict::Unknown);
    keystone.cache.forget_all();
    assert_eq!(keystone.verdict("good", None, PEER).await, Verdict::Unknown);
}

#[tokio::test]
async fn a_service_may_vouch_for_a_token_that_has_expired_and_a_user_may_not() {
    let script = Arc::new(Script::default());
    let (keystone, _serving) = keystone(&script);

    assert_eq!(keystone.verdict("old", None, PEER).await, Verdict::Bad);
    assert_eq!(keystone.verdict("old", Some("good"), PEER).await, Verdict::Bad);
    assert_eq!(keystone.verdict("good", Some("nobody"), PEER).await, Verdict::Bad);
    let vouched = keystone.verdict("old", Some("service"), PEER).await;

    assert!(matches!(vouched, Verdict::Caller(_)));
    assert_eq!(keystone.verdict("old", None, PEER).await, Verdict::Bad);
}

#[tokio::test]
async fn a_peer_that_tries_many_tokens_is_not_asked_about_for_a_while() {
    let script = Arc::new(Script::default());
    let (keystone, _serving) = keystone(&script);
    for number in 0..super::super::token_cache::BAD_PER_PEER_MAX {
        let id = TokenId::of("user", &number.to_string());
        keystone.cache.put_bad(id, PEER, Instant::now());
    }

    assert_eq!(keystone.verdict("good", None, PEER).await, Verdict::Unknown);
    let other = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    assert!(matches!(keystone.verdict("good", None, other).await, Verdict::Caller(_)));
    assert!(matches!(keystone.verdict("good", None, PEER).await, Verdict::Caller(_)));
}

#[tokio::test]
async fn a_trust_is_made_with_the_users_token_and_used_with_our_login() {
    let logins = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&logins);
    let (url, _serving) = peer(move |request| {
        let future = "2026-11-21T09:00:00.000000Z";
        if request.starts_with("POST /v3/auth/tokens") {
            counter.fetch_add(1, Ordering::SeqCst);
            let scoped = request.contains(r#""scope":{"OS-TRUST:trust":{"id":"t1"}}"#);
            let token = if scoped { "trusted" } else { "own0" };
            let headers = format!("x-subject-token: {token}\r\n");
            return answer("201 Created", &headers, &token_body("p1", future, ""));
        }
        if request.starts_with("DELETE /v3/OS-TRUST/trusts/t1 ") {
            assert!(request.contains("x-auth-token: trusted\r\n"), "{request}");
            return answer("204 No Content", "", "");
        }
        assert!(request.starts_with("POST /v3/OS-TRUST/trusts "), "{request}");
        if request.contains("x-auth-token: guest\r\n") {
            return answer("403 Forbidden", "", "{}");
        }
        assert!(request.contains("x-auth-token: users\r\n"), "{request}");
        assert!(request.contains(r#""expires_at":"2026-11-21T08:00:00."#), "{request}");
        assert!(request.contains(r#""trustee_user_id":"u1","trustor_user_id":"ann""#), "{request}");
        answer("201 Created", "", r#"{"trust":{"id":"t1"}}"#)
    });
    let keystone = Keystone::new(&access(&url), clock).unwrap();
    let caller = Caller {
        project: "p1".into(),
        user: Some("ann".into()),
        roles: vec!["member".into()],
        expires: None,
    };

    let trust = keystone.create_trust(&caller, "users", clock()).await.unwrap();
    let token = keystone.trust_token(&trust).await.unwrap();
    let again = keystone.trust_token(&trust).await.unwrap();

    assert_eq!((trust.as_str(), &*token, &*again), ("t1", "trusted", "trusted"));
    assert_eq!(logins.load(Ordering::SeqCst), 2);
    let refused = keystone.create_trust(&caller, "guest", clock()).await;
    assert_eq!(refused, Err(TrustError::Refused));
    keystone.delete_trust(&trust).await.unwrap();
    assert_eq!(TrustId::new("../x"), None);
}

/// As Keystone does: one user's trusts that end at the same microsecond are one.
#[tokio::test]
async fn trusts_made_at_once_are_told_apart_and_a_refused_one_is_asked_for_again() {
    let ends = Mutex::new(HashSet::new());
    let conflicts = AtomicUsize::new(1);
    let (url, _serving) = peer(move |request| {
        if request.starts_with("POST /v3/auth/tokens") {
            let body = token_body("p1", "2026-11-21T09:00:00.000000Z", "");
            return answer("201 Created", "x-subject-token: own\r\n", &body);
        }
        let (_, end) = request.split_once(r#""expires_at":""#).unwrap();
        let new = ends.lock().unwrap().insert(end.split('"').next().unwrap().to_owned());
        let wanted =
            conflicts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if !new || wanted.is_ok() {
            return answer("409 Conflict", "", "{}");
        }
        answer("201 Created", "", r#"{"trust":{"id":"t1"}}"#)
    });
    let keystone = Keystone::new(&access(&url), clock).unwrap();
    let caller = Caller { project: "p1".into(), user: Some("ann".into()), ..Caller::default() };

    for _ in 0..10 {
        keystone.create_trust(&caller, "users", clock()).await.unwrap();
    }
}
