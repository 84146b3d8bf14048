//! What is said to and by the identity service, API version 3.

use hyper::header::HeaderName;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::auth::Caller;
use crate::config::KeystoneAccess;
use crate::iso_time;

/// Who asks.
pub(super) const TOKEN: HeaderName = HeaderName::from_static("x-auth-token");
/// What is asked about, and where a new token stands.
pub(super) const SUBJECT_TOKEN: HeaderName = HeaderName::from_static("x-subject-token");

/// Most roles of one token.
const ROLES_MAX: usize = 1000;

#[derive(Deserialize)]
struct Body {
    token: Token,
}

#[derive(Deserialize)]
struct Token {
    expires_at: String,
    user: Named,
    #[serde(default)]
    project: Option<Named>,
    #[serde(default)]
    roles: Vec<Role>,
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

#[derive(Deserialize)]
struct Role {
    name: String,
}

/// Who a token stands for; without a project the project is empty.
pub(super) fn caller(body: &[u8]) -> Result<Caller, &'static str> {
    let Body { token } = serde_json::from_slice(body).map_err(|_| "not the JSON of a token")?;
    let expires = iso_time::parse(&token.expires_at).ok_or("expires_at is no time")?;
    if token.user.id.is_empty() {
        return Err("the user is empty");
    }
    if token.roles.len() > ROLES_MAX {
        return Err("too many roles");
    }
    let project = token.project.map(|project| project.id).unwrap_or_default();
    // It becomes the name of a tenant.
    if project.len() > 64 || project.chars().any(char::is_control) {
        return Err("the project's id is no id");
    }
    Ok(Caller {
        project: project.into(),
        user: Some(token.user.id.into()),
        roles: token.roles.into_iter().map(|role| role.name.into()).collect(),
        expires: Some(expires),
    })
}

/// The body of a login; `scope` is a project or a trust.
pub(super) fn login(access: &KeystoneAccess, scope: &Value) -> Vec<u8> {
    json!({"auth": {
        "identity": {
            "methods": ["password"],
            "password": {"user": {
                "name": access.user,
                "domain": {"name": access.user_domain},
                "password": access.password.reveal(),
            }},
        },
        "scope": scope,
    }})
    .to_string()
    .into_bytes()
}

/// The scope of our own project.
pub(super) fn own_project(access: &KeystoneAccess) -> Value {
    json!({"project": {"name": access.project, "domain": {"name": access.project_domain}}})
}
