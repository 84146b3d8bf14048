//! What a caller may do: Zaqar's rules, their defaults, and files that say otherwise.
//!
//! A policy is read once, resolved and bounded, so that a decision is a pure function of rule and caller that cannot fail.

mod check;
mod file;
mod rule;

use std::path::{Path, PathBuf};

use crate::auth::Caller;

use check::{Attribute, Check, Wanted};
pub use rule::{DefaultRight, Rule};

/// The role that Zaqar's defaults ask for.
const ADMIN: &str = "admin";
/// Largest policy file, in bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Most names in a policy file.
const NAMES_MAX: usize = 1000;
/// Most steps that one decision may take, all `rule:` references followed; a file that could take more is refused.
const STEPS_MAX: usize = 1000;

/// Who may do what.
#[derive(Debug, Clone)]
pub struct Policy {
    /// One per [`Rule`], by its index, all references resolved.
    checks: Vec<Check>,
    /// What `is_admin` means.
    admin: Check,
}

/// Why a policy cannot be used. The server does not start with it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The file cannot be read.
    #[error("policy file {} cannot be read", .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is larger than any policy.
    #[error("policy file {} must be at most {FILE_BYTES_MAX} bytes", .0.display())]
    TooLarge(PathBuf),
    /// Something in it is not understood.
    #[error("{}:{line}: {what}", .path.display())]
    Mistake {
        /// Which file.
        path: PathBuf,
        /// Counted from 1; 0 where the whole file is meant.
        line: usize,
        /// What is wrong and what would be right.
        what: String,
    },
}

impl Policy {
    /// Zaqar's own: everything for everybody who was let in, but pools, health and changes of flavors for `admin` only.
    #[must_use]
    pub fn zaqar() -> Self {
        let admin = Check::Role(ADMIN.to_owned());
        let checks = Rule::ALL.iter().map(|rule| default_check(*rule)).collect();
        Self { checks, admin }
    }

    /// Everything for everybody, administration included: for development.
    #[must_use]
    pub fn open() -> Self {
        Self { checks: vec![Check::Always; Rule::ALL.len()], admin: Check::Always }
    }

    /// Zaqar's defaults with what the file at `path` says instead.
    ///
    /// # Errors
    ///
    /// Every [`PolicyError`]: unknown names, expressions that are not understood, circles of `rule:`.
    pub fn from_file(path: &Path) -> Result<Self, PolicyError> {
        let read = |source| PolicyError::Read { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(read)?.len() > FILE_BYTES_MAX {
            return Err(PolicyError::TooLarge(path.to_owned()));
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        file::parse(&text).map_err(|(line, what)| PolicyError::Mistake {
            path: path.to_owned(),
            line,
            what,
        })
    }

    /// Whether `caller` may do what `rule` names, in the caller's own project.
    ///
    /// There is no other target than the caller's project: a caller never gets near another's resources.
    #[must_use]
    pub fn allows(&self, rule: Rule, caller: &Caller) -> bool {
        // A rule without a check cannot be; if it were, nobody may.
        self.checks.get(rule.index()).is_some_and(|check| self.holds(check, caller))
    }

    fn holds(&self, check: &Check, caller: &Caller) -> bool {
        match check {
            Check::Always => true,
            // References are gone since the policy was resolved.
            Check::Never | Check::Rule(_) => false,
            Check::Role(role) => caller.has_role(role),
            Check::Admin(wanted) => self.holds(&self.admin, caller) == *wanted,
            Check::Attribute(attribute, Wanted::Literal(value)) => {
                value_of(*attribute, caller) == Some(value)
            }
            Check::Attribute(attribute, Wanted::Target(target)) => {
                let value = value_of(*attribute, caller);
                value.is_some() && value == value_of(*target, caller)
            }
            Check::Not(inner) => !self.holds(inner, caller),
            Check::All(parts) => parts.iter().all(|part| self.holds(part, caller)),
            Check::Any(parts) => parts.iter().any(|part| self.holds(part, caller)),
        }
    }
}

fn default_check(rule: Rule) -> Check {
    match rule.default_right() {
        DefaultRight::Everybody => Check::Always,
        DefaultRight::Admin => Check::Role(ADMIN.to_owned()),
    }
}

fn value_of(attribute: Attribute, caller: &Caller) -> Option<&str> {
    match attribute {
        Attribute::Project => Some(&caller.project),
        Attribute::User => caller.user.as_deref(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn caller(roles: &[&str]) -> Caller {
        Caller {
            project: "p".into(),
            user: Some("u".into()),
            roles: roles.iter().map(|&role| role.into()).collect(),
            ..Caller::default()
        }
    }

    #[test]
    fn zaqars_defaults_give_administration_to_admin_and_the_rest_to_everybody() {
        let policy = Policy::zaqar();

        let refused: Vec<_> = Rule::ALL
            .iter()
            .filter(|rule| !policy.allows(**rule, &caller(&["reader"])))
            .map(|rule| rule.name())
            .collect();

        let expected = [
            "pools:get_all",
            "pools:create",
            "pools:get",
            "pools:update",
            "pools:delete",
            "flavors:create",
            "flavors:update",
            "flavors:delete",
            "health:get",
        ];
        assert_eq!(refused, expected);
        assert!(Rule::ALL.iter().all(|rule| policy.allows(*rule, &caller(&["ADMIN"]))));
    }

    #[test]
    fn open_lets_everybody_do_everything() {
        assert!(Rule::ALL.iter().all(|rule| Policy::open().allows(*rule, &caller(&[]))));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Policy::from_file(Path::new("/nowhere/policy.json")).unwrap_err();

        assert!(error.to_string().contains("/nowhere/policy.json"), "{error}");
    }
}
