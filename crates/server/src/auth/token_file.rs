//! Posthouse's own tokens: random texts, of which a file keeps the SHA-256 and what they are good for.
//!
//! ```json
//! {"tokens": [{"name": "billing", "sha256": "9f86…", "projects": ["billing"], "user": "billing",
//!              "roles": ["member"], "expires": "2027-01-01T00:00:00"}]}
//! ```
//!
//! The tokens have 256 random bits, so a fast hash keeps them as well as a slow one would. Instead of `sha256` an entry may
//! have a `secret`, as it is: whoever has it signs requests and never shows it. Only the inbox takes these.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use delivery::sign::Secret;
use model::Timestamp;
use serde::{Deserialize, Serialize};

use super::grant::Grant;
use super::secret_file::{self, SecretFileError};
use crate::iso_time;

/// What every token begins with, so that scanners find one that was left somewhere.
pub const PREFIX: &str = "pht_";
/// Largest file: some ten thousand tokens.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// How often the file is looked at for changes.
const LOOK: Duration = Duration::from_secs(1);
/// Longest of a token's texts, in bytes.
const TEXT_BYTES_MAX: usize = 256;
/// Most secrets: each is tried on a signed request, which is a hash of its body.
const SIGNERS_MAX: usize = 16;
/// Most projects or roles of a token.
const LIST_MAX: usize = 1000;

/// What the file says of one token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What people call it; unique.
    pub name: String,
    /// Of the token, 64 hexadecimal digits; empty where there is a secret.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sha256: String,
    /// What requests are signed with, `whsec_…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretText>,
    /// Where it is good; `*` is everywhere.
    pub projects: Vec<String>,
    /// Who it stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// For policies.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Until when, UTC; none is for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

/// A secret in a file: never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(pub String);

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// A secret and who signs with it.
#[derive(Debug)]
pub struct Signer {
    /// What the requests are signed with.
    pub secret: Secret,
    /// Who that is, and where.
    pub grant: Grant,
}

/// Who has shown what: tokens by their hashes, and those who sign.
#[derive(Debug, Default)]
struct Grants {
    tokens: HashMap<[u8; 32], Arc<Grant>>,
    signers: Vec<Arc<Signer>>,
}

/// A file of tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entries {
    /// In the order in which they were made.
    pub tokens: Vec<Entry>,
}

/// Why a file of tokens cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenFileError {
    /// It cannot be read, or others can.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// It is not understood.
    #[error("token file {} is not understood", .path.display())]
    Json {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and where.
        #[source]
        source: serde_json::Error,
    },
    /// An entry says what it must not.
    #[error("token file {}: token `{name}`: {what}", .path.display())]
    Entry {
        /// Which file.
        path: PathBuf,
        /// Which token.
        name: String,
        /// What is wrong and what would be right.
        what: &'static str,
    },
    /// It cannot be written.
    #[error("token file {} cannot be written", .path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The system has no randomness.
    #[error("the system has no randomness")]
    Random,
}

impl Entries {
    /// Reads and checks a file.
    ///
    /// # Errors
    ///
    /// Every [`TokenFileError`] about reading.
    pub fn read(path: &Path) -> Result<Self, TokenFileError> {
        let text = secret_file::read(path, FILE_BYTES_MAX)?;
        let entries: Self = serde_json::from_str(&text)
            .map_err(|source| TokenFileError::Json { path: path.to_owned(), source })?;
        entries.grants(path)?;
        Ok(entries)
    }

    /// Writes a file that only its owner can read, in place of the one that is there, all or nothing.
    ///
    /// # Errors
    ///
    /// [`TokenFileError::Entry`] for what [`Entries::read`] would refuse, and [`TokenFileError::Write`].
    pub fn write(&self, path: &Path) -> Result<(), TokenFileError> {
        self.grants(path)?;
        let failed = |source| TokenFileError::Write { path: path.to_owned(), source };
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|source| TokenFileError::Json { path: path.to_owned(), source })?;
        text.push('\n');
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let new = path.with_file_name(name);
        let write = || {
            let mut file =
                fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, path)
        };
        write().map_err(|source| {
            // What is left of it is of no use; that it stays is no second failure.
            drop(fs::remove_file(&new));
            failed(source)
        })
    }

    fn grants(&self, path: &Path) -> Result<Grants, TokenFileError> {
        let mut grants = Grants::default();
        let mut names = HashSet::with_capacity(self.tokens.len());
        for entry in &self.tokens {
            let wrong = |what| TokenFileError::Entry {
                path: path.to_owned(),
                name: entry.name.clone(),
                what,
            };
            if !names.insert(entry.name.as_str()) {
                return Err(wrong("the name is there twice"));
            }
            let grant = entry.grant().map_err(wrong)?;
            if let Some(secret) = &entry.secret {
                let secret = Secret::parse(&secret.0);
                let secret = secret.map_err(|_| {
                    wrong("the secret must be `whsec_` and 24 to 64 bytes in base64")
                })?;
                grants.signers.push(Arc::new(Signer { secret, grant }));
                if grants.signers.len() > SIGNERS_MAX {
                    return Err(wrong("there must be at most 16 secrets"));
                }
                continue;
            }
            let hash = unhexadecimal(&entry.sha256);
            let hash = hash.ok_or_else(|| wrong("sha256 must be 64 hexadecimal digits"))?;
            if grants.tokens.insert(hash, Arc::new(grant)).is_some() {
                return Err(wrong("another token has the same sha256"));
            }
        }
        Ok(grants)
    }
}

impl Entry {
    fn grant(&self) -> Result<Grant, &'static str> {
        let plain = |text: &str| {
            (1..=TEXT_BYTES_MAX).contains(&text.len()) && !text.contains(char::is_control)
        };
        if !plain(&self.name) {
            return Err("the name must be 1 to 256 bytes without control characters");
        }
        if self.projects.is_empty() || self.projects.len() > LIST_MAX {
            return Err("there must be 1 to 1000 projects; \"*\" is all");
        }
        if self.roles.len() > LIST_MAX {
            return Err("there must be at most 1000 roles");
        }
        let mut texts = self.projects.iter().chain(&self.roles).chain(&self.user);
        if !texts.all(|text| plain(text)) {
            return Err(
                "projects, roles and user must be 1 to 256 bytes without control characters",
            );
        }
        let expires = match &self.expires {
            Some(text) => Some(iso_time::parse(text).ok_or("expires must be YYYY-MM-DDTHH:MM:SS")?),
            None => None,
        };
        if self.secret.is_some() && !self.sha256.is_empty() {
            return Err("there must be sha256 or secret, not both");
        }
        Ok(Grant {
            projects: self.projects.iter().map(|text| text.as_str().into()).collect(),
            user: self.user.as_deref().map(Into::into),
            roles: self.roles.iter().map(|text| text.as_str().into()).collect(),
            expires,
        })
    }
}

/// Makes a token and its SHA-256 as hexadecimal digits. The token is not kept anywhere.
///
/// # Errors
///
/// [`TokenFileError::Random`].
pub fn make_token() -> Result<(String, String), TokenFileError> {
    let mut secret = [0; 32];
    rand::fill(&mut secret).map_err(|_| TokenFileError::Random)?;
    let token = format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(secret));
    let hash = hexadecimal(&sha256(&token));
    Ok((token, hash))
}

/// Makes a secret to sign with.
///
/// # Errors
///
/// [`TokenFileError::Random`].
pub fn make_secret() -> Result<SecretText, TokenFileError> {
    let secret = Secret::random().map_err(|_| TokenFileError::Random)?;
    Ok(SecretText(secret.reveal()))
}

/// The tokens of a file that may change while the server runs.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    grants: Grants,
    seen: Option<Stamp>,
    looked: Instant,
}

/// What changes when a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl TokenFile {
    /// Reads the file for the first time.
    ///
    /// # Errors
    ///
    /// Every [`TokenFileError`] about reading.
    pub fn open(path: &Path) -> Result<Self, TokenFileError> {
        let seen = stamp(path);
        let grants = Entries::read(path)?.grants(path)?;
        let state = State { grants, seen, looked: Instant::now() };
        Ok(Self { path: path.to_owned(), state: Mutex::new(state) })
    }

    /// What this token is good for, if it is in the file and not expired.
    ///
    /// Looks at most once a second whether the file has changed. A file that cannot be understood changes nothing, and is
    /// reported in the log.
    #[must_use]
    pub fn grant(&self, token: &str, now: Timestamp) -> Option<Arc<Grant>> {
        self.grant_at(token, now, Instant::now())
    }

    fn grant_at(&self, token: &str, now: Timestamp, moment: Instant) -> Option<Arc<Grant>> {
        let hash = sha256(token);
        let state = self.current(moment);
        // Found by its hash, which says nothing about how much of a guess is right.
        let grant = state.grants.tokens.get(&hash)?;
        grant.expires.is_none_or(|expires| now < expires).then(|| Arc::clone(grant))
    }

    /// Who may have signed a request to this project, at most [`SIGNERS_MAX`]. Looks for changes as [`TokenFile::grant`].
    #[must_use]
    pub fn signers(&self, project: &str, now: Timestamp) -> Vec<Arc<Signer>> {
        let state = self.current(Instant::now());
        let good = |signer: &&Arc<Signer>| {
            signer.grant.expires.is_none_or(|expires| now < expires)
                && signer.grant.caller(Some(project)).is_ok()
        };
        state.grants.signers.iter().filter(good).cloned().collect()
    }

    fn current(&self, moment: Instant) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if moment.saturating_duration_since(state.looked) >= LOOK {
            state.looked = moment;
            self.follow(&mut state);
        }
        state
    }

    fn follow(&self, state: &mut State) {
        let seen = stamp(&self.path);
        if seen == state.seen {
            return;
        }
        state.seen = seen;
        match Entries::read(&self.path).and_then(|entries| entries.grants(&self.path)) {
            Ok(grants) => {
                let (tokens, signers) = (grants.tokens.len(), grants.signers.len());
                tracing::info!(tokens, signers, "the token file was read again");
                state.grants = grants;
            }
            Err(error) => {
                let error = anyhow::Error::new(error);
                tracing::error!("tokens stay as they were: {error:#}");
            }
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    let changed = (metadata.ctime(), metadata.ctime_nsec());
    Some(Stamp { inode: metadata.ino(), bytes: metadata.len(), changed })
}

fn sha256(token: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    let digest = digest::digest(&digest::SHA256, token.as_bytes());
    hash.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    hash
}

fn hexadecimal(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn unhexadecimal(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_795_248_000_000); // 2026-11-21T08:00:00

    fn entry(name: &str, sha256: &str) -> Entry {
        Entry {
            name: name.to_owned(),
            sha256: sha256.to_owned(),
            secret: None,
            projects: vec!["p".to_owned()],
            user: Some("ann".to_owned()),
            roles: vec!["member".to_owned()],
            expires: Some("2026-11-21T08:00:01".to_owned()),
        }
    }

    #[test]
    fn a_token_that_was_made_is_found_until_it_expires_and_is_not_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.json");
        let (token, hash) = make_token().unwrap();
        Entries { tokens: vec![entry("t", &hash)] }.write(&path).unwrap();

        let file = TokenFile::open(&path).unwrap();

        let grant = file.grant(&token, NOW).unwrap();
        assert_eq!((&*grant.projects[0], grant.user.as_deref()), ("p", Some("ann")));
        assert!(file.grant(&token, NOW.after(LOOK)).is_none());
        assert!(file.grant(&format!("{token}x"), NOW).is_none());
        assert!(file.grant("", NOW).is_none());
        assert!(token.starts_with(PREFIX) && token.len() == 47);
        assert!(!fs::read_to_string(&path).unwrap().contains(&token));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_secret_is_found_by_its_project_until_it_expires_and_is_no_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.json");
        let text = Secret::random().unwrap().reveal();
        let secret = Some(SecretText(text.clone()));
        let signer = Entry { secret, sha256: String::new(), ..entry("s", "") };
        Entries { tokens: vec![signer] }.write(&path).unwrap();

        let file = TokenFile::open(&path).unwrap();

        let found = file.signers("p", NOW);
        assert_eq!((found.len(), found[0].secret.reveal()), (1, text.clone()));
        assert_eq!(found[0].grant.user.as_deref(), Some("ann"));
        assert!(file.signers("p", NOW.after(LOOK)).is_empty());
        assert!(file.signers("q", NOW).is_empty());
        assert!(file.grant(&text, NOW).is_none() && file.grant("", NOW).is_none());
        assert!(!format!("{:?}", Entries::read(&path).unwrap()).contains(&text));
    }

    #[test]
    fn a_token_taken_out_of_the_file_is_refused_within_seconds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.json");
        let (token, hash) = make_token().unwrap();
        Entries { tokens: vec![entry("t", &hash)] }.write(&path).unwrap();
        let file = TokenFile::open(&path).unwrap();

        Entries::default().write(&path).unwrap();

        let later = Instant::now() + LOOK;
        assert!(file.grant_at(&token, NOW, later).is_none());
        fs::write(&path, "nonsense").unwrap();
        assert!(file.grant_at(&token, NOW, later + LOOK).is_none());
    }

    #[test]
    fn a_file_that_is_not_understood_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.json");
        let (token, hash) = make_token().unwrap();
        Entries { tokens: vec![entry("t", &hash)] }.write(&path).unwrap();
        let file = TokenFile::open(&path).unwrap();

        fs::write(&path, "nonsense").unwrap();

        assert!(file.grant_at(&token, NOW, Instant::now() + LOOK).is_some());
    }

    #[test]
    fn entries_are_checked() {
        let hash = "ab".repeat(32);
        let refused = |change: fn(&mut Entry)| {
            let mut bad = entry("t", &hash);
            change(&mut bad);
            Entries { tokens: vec![bad] }.grants(Path::new("f")).unwrap_err().to_string()
        };

        assert!(refused(|e| e.sha256.push('0')).contains("sha256"));
        assert!(refused(|e| e.sha256.clear()).contains("sha256"));
        let secret = |text: &str| Some(SecretText(text.to_owned()));
        let good = Secret::from_bytes(vec![7; 24]).unwrap().reveal();
        let both = Entry { secret: secret(&good), ..entry("t", &hash) };
        let short = Entry { secret: secret("whsec_AAAA"), ..entry("t", "") };
        for (bad, what) in [(both, "not both"), (short, "24 to 64 bytes")] {
            let error = Entries { tokens: vec![bad] }.grants(Path::new("f")).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
        }
        let many =
            (0..=SIGNERS_MAX).map(|n| Entry { secret: secret(&good), ..entry(&n.to_string(), "") });
        let error = Entries { tokens: many.collect() }.grants(Path::new("f")).unwrap_err();
        assert!(error.to_string().contains("at most 16"), "{error}");
        assert!(refused(|e| e.projects.clear()).contains("projects"));
        assert!(refused(|e| e.roles.push("a\nb".to_owned())).contains("control"));
        assert!(refused(|e| e.expires = Some("soon".to_owned())).contains("expires"));
        let twice = Entries { tokens: vec![entry("t", &hash), entry("t", &hash)] };
        assert!(twice.grants(Path::new("f")).unwrap_err().to_string().contains("twice"));
        let same = Entries { tokens: vec![entry("t", &hash), entry("u", &hash)] };
        assert!(same.grants(Path::new("f")).unwrap_err().to_string().contains("same sha256"));
    }
}
