//! Tokens made here with fresh keys; hostile ones among them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use super::super::fetch::tests::{answer, peer};
use super::*;

/// A key pair, its public half as JWK, and a folder to keep sets in.
struct Issuer {
    key: EncodingKey,
    jwk: Value,
    folder: tempfile::TempDir,
}

fn seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

impl Issuer {
    fn new(kid: &str) -> Self {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref()).unwrap();
        let point = pair.public_key().as_ref();
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let jwk = json!({"kty": "EC", "crv": "P-256", "use": "sig", "kid": kid,
            "x": text(&point[1..33]), "y": text(&point[33..65])});
        let folder = tempfile::tempdir().unwrap();
        Self { key: EncodingKey::from_ec_der(pkcs8.as_ref()), jwk, folder }
    }

    fn access(&self, keys: &[Value], mode: u32) -> TokenAccess {
        let path = self.folder.path().join("jwks.json");
        fs::write(&path, json!({"keys": keys}).to_string()).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        access(path.to_str().unwrap())
    }

    fn jwt(&self) -> Jwt {
        Jwt::open(&self.access(std::slice::from_ref(&self.jwk), 0o644)).unwrap()
    }

    fn sign(&self, kid: Option<&str>, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = kid.map(ToOwned::to_owned);
        encode(&header, claims, &self.key).unwrap()
    }
}

fn access(jwks: &str) -> TokenAccess {
    TokenAccess {
        tokens: None,
        jwks: jwks.to_owned(),
        jwks_ca: None,
        jwks_refresh: Duration::from_secs(300),
        audience: "posthouse".to_owned(),
        issuer: "https://issuer.example".to_owned(),
        algorithms: ["ES256", "EdDSA", "HS256"].map(ToOwned::to_owned).to_vec(),
        project_claim: "posthouse.project".to_owned(),
        roles_claim: "roles".to_owned(),
    }
}

fn claims() -> Value {
    json!({"iss": "https://issuer.example", "aud": ["other", "posthouse"], "sub": "ann",
        "exp": seconds() + 600, "posthouse": {"project": "p"}, "roles": ["member", "reader"]})
}

fn now() -> Timestamp {
    Timestamp(seconds() * 1000)
}

async fn check(jwt: &Jwt, token: &str) -> Checked {
    jwt.check(token, now()).await
}

#[tokio::test]
async fn a_good_token_gives_project_user_roles_and_end() {
    let issuer = Issuer::new("k1");
    let jwt = issuer.jwt();

    for kid in [Some("k1"), None] {
        let token = issuer.sign(kid, &claims());
        let Checked::Good(grant) = check(&jwt, &token).await else { panic!("{kid:?}") };

        assert_eq!((&*grant.projects[0], grant.user.as_deref()), ("p", Some("ann")));
        assert_eq!(grant.roles, ["member".into(), "reader".into()]);
        let left = grant.expires.unwrap().since(now()).as_secs();
        assert!((650..=660).contains(&left), "{left}");
        assert_eq!(check(&jwt, &token).await, Checked::Good(grant));
    }
}

#[tokio::test]
async fn claims_that_are_missing_over_or_of_the_wrong_kind_are_refused() {
    let issuer = Issuer::new("k1");
    let jwt = issuer.jwt();
    let now = seconds();
    for (name, value) in [
        ("exp", json!(null)),
        ("exp", json!(now - 61)),
        ("exp", json!((now - 61) as f64 + 0.5)),
        ("exp", json!((now + 600).to_string())),
        ("exp", json!(-1)),
        ("exp", json!([now + 600])),
        ("nbf", json!(now + 120)),
        ("nbf", json!("later")),
        ("aud", json!(null)),
        ("aud", json!("other")),
        ("aud", json!([])),
        ("aud", json!("posthouse2")),
        ("iss", json!(null)),
        ("iss", json!("https://issuer.example.org")),
        ("posthouse", json!(null)),
        ("posthouse", json!({"project": "*"})),
        ("posthouse", json!({"project": ["p", "*"]})),
        ("posthouse", json!({"project": ""})),
        ("posthouse", json!({"project": []})),
        ("posthouse", json!({"project": 7})),
        ("roles", json!([7])),
        ("roles", json!({"admin": true})),
        ("sub", json!(7)),
    ] {
        let mut claims = claims();
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            ref value => claims[name] = value.clone(),
        }
        let token = issuer.sign(Some("k1"), &claims);
        assert_eq!(check(&jwt, &token).await, Checked::Bad, "{name}: {value}");
    }
}

#[tokio::test]
async fn an_end_with_a_fraction_is_an_end() {
    let issuer = Issuer::new("k1");
    let mut claims = claims();
    claims["exp"] = json!(seconds() as f64 + 600.5);

    let checked = check(&issuer.jwt(), &issuer.sign(Some("k1"), &claims)).await;

    assert!(matches!(checked, Checked::Good(_)));
}

#[tokio::test]
async fn a_good_token_is_bad_when_its_time_is_over_remembered_or_not() {
    let issuer = Issuer::new("k1");
    let jwt = issuer.jwt();
    let token = issuer.sign(Some("k1"), &claims());
    assert!(matches!(check(&jwt, &token).await, Checked::Good(_)));

    let late = now().after(Duration::from_secs(700));

    assert_eq!(jwt.check(&token, late).await, Checked::Bad);
}

#[tokio::test]
async fn signatures_that_prove_nothing_are_refused() {
    let (issuer, other) = (Issuer::new("k1"), Issuer::new("k1"));
    let jwt = issuer.jwt();
    let good = issuer.sign(Some("k1"), &claims());
    let parts: Vec<_> = good.split('.').collect();
    let text = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let public = BASE64_URL_SAFE_NO_PAD.decode(issuer.jwk["x"].as_str().unwrap()).unwrap();
    let mut confused = Header::new(Algorithm::HS256);
    confused.kid = Some("k1".to_owned());
    let none = text(json!({"alg": "none"}));
    let crit = text(json!({"alg": "ES256", "kid": "k1", "crit": ["x"]}));
    for token in [
        other.sign(Some("k1"), &claims()),
        encode(&confused, &claims(), &EncodingKey::from_secret(&public)).unwrap(),
        format!("{none}.{}.", parts[1]),
        format!("{none}.{}.{}", parts[1], parts[2]),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{}", parts[0], parts[1]),
        format!("{}.{}.{}", parts[0], text(json!({"aud": "posthouse"})), parts[2]),
        format!("{crit}.{}.{}", parts[1], parts[2]),
        "..".to_owned(),
        "a.b.c".to_owned(),
        "x".repeat(TOKEN_BYTES_MAX + 1),
    ] {
        assert_eq!(check(&jwt, &token).await, Checked::Bad, "{token}");
    }
    for cut in 0..good.len() {
        assert_eq!(check(&jwt, good.get(..cut).unwrap()).await, Checked::Bad, "{cut}");
    }
    assert!(matches!(check(&jwt, &good).await, Checked::Good(_)));
}

#[tokio::test]
async fn symmetric_keys_come_from_secret_files_only_and_check_hmac_only() {
    let issuer = Issuer::new("k1");
    let secret = [7; 32];
    let oct = json!({"kty": "oct", "kid": "s", "k": BASE64_URL_SAFE_NO_PAD.encode(secret)});
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("s".to_owned());
    let token = encode(&header, &claims(), &EncodingKey::from_secret(&secret)).unwrap();
    let keys = [oct.clone(), issuer.jwk.clone()];

    let secret_file = Jwt::open(&issuer.access(&keys, 0o600)).unwrap();
    assert!(matches!(check(&secret_file, &token).await, Checked::Good(_)));
    let open_file = Jwt::open(&issuer.access(&keys, 0o644)).unwrap();
    assert_eq!(check(&open_file, &token).await, Checked::Bad);
    assert!(Jwt::open(&issuer.access(&[oct], 0o644)).is_err());
    assert!(Jwt::open(&issuer.access(&keys, 0o666)).is_err());
}

#[test]
fn keys_that_are_weak_or_for_something_else_are_left_out() {
    let issuer = Issuer::new("k1");
    let mut encryption = issuer.jwk.clone();
    encryption["use"] = json!("enc");
    let mut other = issuer.jwk.clone();
    other["alg"] = json!("RS256");
    let mut operations = issuer.jwk.clone();
    operations["use"] = Value::Null;
    operations["key_ops"] = json!(["sign"]);
    let short = json!({"kty": "RSA", "n": "A".repeat(200), "e": "AQAB"});
    for key in [encryption, other, operations, short, json!({"kty": "EC"}), json!(7)] {
        assert!(Jwt::open(&issuer.access(std::slice::from_ref(&key), 0o644)).is_err(), "{key}");
    }
    assert!(Jwt::open(&issuer.access(&vec![issuer.jwk.clone(); 101], 0o644)).is_err());
    let mut none = issuer.access(std::slice::from_ref(&issuer.jwk), 0o644);
    none.algorithms = vec!["none".to_owned()];
    assert!(matches!(Jwt::open(&none), Err(JwtError::Algorithm(_))));
    assert!(Jwt::open(&access("http://keys.example/jwks")).is_err());
}

#[tokio::test]
async fn keys_are_fetched_when_needed_and_a_bad_answer_changes_nothing() {
    let (issuer, next) = (Issuer::new("k1"), Issuer::new("k2"));
    let asked = Arc::new(AtomicUsize::new(0));
    let set = json!({"keys": [issuer.jwk]}).to_string();
    let forged = json!({"keys": [next.jwk]}).to_string();
    let counter = Arc::clone(&asked);
    let (url, _serving) = peer(move |request| {
        assert!(request.starts_with("GET /keys HTTP/1.1\r\n"), "{request}");
        match counter.fetch_add(1, Ordering::SeqCst) {
            0 => answer("200 OK", "", &set),
            _ => answer("500 Internal Server Error", "", &forged),
        }
    });
    let mut access = access(&format!("{url}/keys"));
    access.jwks_refresh = Duration::ZERO;
    let jwt = Jwt::open(&access).unwrap();

    let good = check(&jwt, &issuer.sign(Some("k1"), &claims())).await;
    let unknown = check(&jwt, &next.sign(Some("k2"), &claims())).await;
    let mut again = claims();
    again["sub"] = json!("bob");
    let still = check(&jwt, &issuer.sign(Some("k1"), &again)).await;

    assert!(matches!(good, Checked::Good(_)));
    assert_eq!(unknown, Checked::Bad);
    assert!(matches!(still, Checked::Good(_)));
    assert!(asked.load(Ordering::SeqCst) >= 2);
}

#[tokio::test]
async fn without_any_keys_nobody_is_let_in_and_the_address_is_not_asked_at_once_again() {
    let issuer = Issuer::new("k1");
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let (url, _serving) = peer(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        answer("503 Service Unavailable", "", "")
    });
    let jwt = Jwt::open(&access(&url)).unwrap();
    let token = issuer.sign(Some("k1"), &claims());

    for _ in 0..3 {
        assert_eq!(check(&jwt, &token).await, Checked::Unknown);
    }

    assert_eq!(asked.load(Ordering::SeqCst), 1);
}
