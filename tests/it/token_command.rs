//! `posthouse token`: tokens of the queue service, without a server.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use it::program::command;

fn token(args: &[&str], file: &Path) -> Output {
    command().arg("token").args(args).arg("--file").arg(file).output().unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_token_is_made_listed_and_revoked_and_shown_only_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.json");

    let made = said(&token(
        &["create", "--name", "t", "--project", "p", "--role", "member", "--lifetime", "1d"],
        &file,
    ));
    let listed = said(&token(&["list", "--json"], &file));

    assert!(made.starts_with("pht_") && made.trim().len() == 47, "{made}");
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["projects"], serde_json::json!(["p"]));
    assert_eq!(listed["roles"], serde_json::json!(["member"]));
    let stored = std::fs::read_to_string(&file).unwrap();
    assert!(!stored.contains(made.trim()));
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    said(&token(&["revoke", "t"], &file));
    assert_eq!(said(&token(&["list"], &file)), "");
    assert!(!token(&["revoke", "t"], &file).status.success());
}

#[test]
fn a_name_is_used_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.json");
    let create = ["create", "--name", "t", "--project", "p"];
    said(&token(&create, &file));

    let again = token(&create, &file);

    assert!(String::from_utf8_lossy(&again.stderr).contains("the name is there twice"));
    assert_eq!(said(&token(&["list"], &file)).lines().count(), 1);
}

#[test]
fn a_configuration_is_checked_with_the_files_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.yaml");
    std::fs::write(&policy, "queues:get: role:a\nqueue:get: role:a\n").unwrap();

    let check = command()
        .args(["check", "--set"])
        .arg(format!("queues.policy={}", policy.display()))
        .output()
        .unwrap();

    let said = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(!check.status.success());
    assert!(said.contains("policy.yaml:2: there is no rule `queue:get`"), "{said}");
}
