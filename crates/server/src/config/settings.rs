//! Layers of settings: default file < configuration file < environment < `--set`.
//!
//! Everything is brought to one flat map from dotted path to value, each with its origin. The embedded default file is
//! the only list of what options exist, so an option cannot be read that is not documented there.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Origin, Problem};
use crate::auth::secret_file::{self, SecretFileError};

/// Every option with its default, commented.
pub const DEFAULT_FILE: &str = include_str!("../config.default.toml");

/// Start of the names of environment variables.
const ENVIRONMENT_PREFIX: &str = "POSTHOUSE__";

/// Options whose values are never shown.
const SECRETS: [&str; 5] = [
    "auth.default_pass",
    "queues.keystone.password",
    "queues.signed_url.secret",
    "queues.signed_url.previous_secret",
    "queues.encryption.keys",
];

/// Largest file with a secret.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Names that users of RabbitMQ's container image have set already.
const BORROWED_NAMES: [(&str, &str); 3] = [
    ("RABBITMQ_DEFAULT_USER", "auth.default_user"),
    ("RABBITMQ_DEFAULT_PASS", "auth.default_pass"),
    ("RABBITMQ_DEFAULT_VHOST", "auth.default_vhost"),
];

/// Where settings may come from, beside the defaults.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The configuration file, if one was named.
    pub file: Option<PathBuf>,
    /// The process's environment, all of it.
    pub environment: Vec<(String, String)>,
    /// `key=value` pairs; later ones win.
    pub set: Vec<String>,
}

/// A value before it is known what the option wants.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// A string; from environment and `--set` everything is one.
    Text(String),
    /// A whole number.
    Number(i64),
    /// A number with a fraction.
    Fraction(f64),
    /// True or false.
    Switch(bool),
    /// Several values.
    List(Vec<Self>),
}

/// A value and where it comes from.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Setting {
    /// What was said.
    pub(super) value: Value,
    /// Where it was said.
    pub(super) origin: Origin,
}

/// All options with the values that won.
#[derive(Debug, Clone)]
pub struct Settings {
    entries: BTreeMap<String, Setting>,
    problems: Vec<Problem>,
}

impl Settings {
    /// Brings all layers together.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Read`] and [`ConfigError::Syntax`] for the file. Unknown options are kept as problems and reported
    /// together with values that are not allowed, by [`super::Config::from_settings`].
    pub fn collect(sources: &Sources) -> Result<Self, ConfigError> {
        let mut settings = Self { entries: BTreeMap::new(), problems: Vec::new() };
        for (key, value, _, _) in parse_toml(Path::new("config.default.toml"), DEFAULT_FILE)? {
            settings.entries.insert(key, Setting { value, origin: Origin::Default });
        }
        settings.take_state_directory(&sources.environment);
        if let Some(path) = &sources.file {
            let text = fs::read_to_string(path)
                .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
            for (key, value, line, column) in parse_toml(path, &text)? {
                settings.put(key, value, Origin::File { path: path.clone(), line, column });
            }
        }
        settings.take_environment(&sources.environment);
        for pair in &sources.set {
            settings.take_argument(pair);
        }
        Ok(settings)
    }

    /// Every option with its value as text and its origin, in the order of paths; secrets are masked.
    pub fn effective(&self) -> impl Iterator<Item = (&str, String, &Origin)> {
        self.entries.iter().map(|(key, setting)| {
            let secret =
                SECRETS.contains(&key.as_str()) && setting.value != Value::Text(String::new());
            let shown = if secret { "\"***\"".to_owned() } else { show(&setting.value) };
            (key.as_str(), shown, &setting.origin)
        })
    }

    /// What was said for an option that the default file has.
    pub(super) fn get(&self, key: &str) -> Option<&Setting> {
        self.entries.get(key)
    }

    /// Takes what was wrong so far.
    pub(super) fn take_problems(&mut self) -> Vec<Problem> {
        std::mem::take(&mut self.problems)
    }

    fn take_state_directory(&mut self, environment: &[(String, String)]) {
        let folder = environment.iter().find(|(name, _)| name == "STATE_DIRECTORY");
        // systemd joins several folders with colons; the first is ours.
        if let Some(first) =
            folder.and_then(|(_, value)| value.split(':').next()).filter(|f| !f.is_empty())
        {
            let origin = Origin::Environment("STATE_DIRECTORY".to_owned());
            self.put("data_dir".to_owned(), Value::Text(first.to_owned()), origin);
        }
    }

    fn take_environment(&mut self, environment: &[(String, String)]) {
        for (name, value) in environment {
            let borrowed = BORROWED_NAMES.iter().find_map(|(borrowed, key)| {
                let rest = name.strip_prefix(borrowed)?;
                matches!(rest, "" | "_FILE").then(|| format!("{key}{}", rest.to_lowercase()))
            });
            let own = name
                .strip_prefix(ENVIRONMENT_PREFIX)
                .map(|path| path.to_lowercase().replace("__", "."));
            // Our own name for an option beats the borrowed one, whatever their order in the environment.
            let Some(key) = own.or(borrowed) else { continue };
            let target = key.strip_suffix("_file").unwrap_or(&key);
            let beaten = !name.starts_with(ENVIRONMENT_PREFIX)
                && matches!(self.get(target).map(|s| &s.origin), Some(Origin::Environment(_)));
            if !beaten {
                self.put(key, Value::Text(value.clone()), Origin::Environment(name.clone()));
            }
        }
    }

    fn take_argument(&mut self, pair: &str) {
        match pair.split_once('=') {
            Some((key, value)) => {
                self.put(key.trim().to_owned(), Value::Text(value.to_owned()), Origin::Argument);
            }
            None => self.problems.push(Problem {
                key: pair.to_owned(),
                origin: Origin::Argument,
                what: "must be written key=value".to_owned(),
            }),
        }
    }

    /// Sets a known option; a name with `_file` behind it means the content of the file that the value names.
    fn put(&mut self, key: String, value: Value, origin: Origin) {
        if let Some(known) = self.entries.get_mut(&key) {
            *known = Setting { value, origin };
            return;
        }
        let target = key.strip_suffix("_file").filter(|target| self.entries.contains_key(*target));
        let what = match (target, &value) {
            (Some(target), Value::Text(path)) => match read_value(target, Path::new(path)) {
                Ok(content) => {
                    let value = Value::Text(content.trim_end_matches(['\r', '\n']).to_owned());
                    self.entries.insert(target.to_owned(), Setting { value, origin });
                    return;
                }
                Err(what) => what,
            },
            _ => self.describe_unknown(&key),
        };
        self.problems.push(Problem { key, origin, what });
    }

    fn describe_unknown(&self, key: &str) -> String {
        let nearest = self
            .entries
            .keys()
            .map(|known| {
                (strsim::jaro_winkler(known, key).max(last_part_likeness(known, key)), known)
            })
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .filter(|(likeness, _)| *likeness > 0.8);
        match nearest {
            Some((_, known)) => format!("unknown option; did you mean `{known}`?"),
            None => "unknown option".to_owned(),
        }
    }
}

/// The content of a file that stands for an option's value; that of a secret is read only if nobody else can read it.
fn read_value(target: &str, path: &Path) -> Result<String, String> {
    if SECRETS.contains(&target) {
        return secret_file::read(path, SECRET_BYTES_MAX).map_err(|error| match error {
            SecretFileError::Read { source, .. } => not_read(path, &source),
            other => other.to_string(),
        });
    }
    fs::read_to_string(path).map_err(|error| not_read(path, &error))
}

fn not_read(path: &Path, error: &io::Error) -> String {
    format!("file `{}` could not be read: {error}", path.display())
}

/// How much the last parts of two paths are alike, for options put into the wrong section.
fn last_part_likeness(known: &str, key: &str) -> f64 {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    // Slightly less than the whole path being right, so that the right section wins between equals.
    strsim::jaro_winkler(&last(known), &last(key)) * 0.95
}

type Entry = (String, Value, usize, usize);

fn parse_toml(path: &Path, text: &str) -> Result<Vec<Entry>, ConfigError> {
    let table = DeTable::parse(text).map_err(|error| {
        let (line, column) = place(text, error.span().map_or(0, |span| span.start));
        let message = error.message().to_owned();
        ConfigError::Syntax { path: path.to_owned(), line, column, message }
    })?;
    let mut entries = Vec::new();
    flatten("", table.get_ref(), text, &mut entries);
    Ok(entries)
}

/// Writes the leaves of a table with their paths. The parser bounds the depth of tables.
fn flatten(prefix: &str, table: &DeTable<'_>, text: &str, entries: &mut Vec<Entry>) {
    for (name, value) in table {
        let key = match prefix {
            "" => name.get_ref().to_string(),
            prefix => format!("{prefix}.{}", name.get_ref()),
        };
        if let DeValue::Table(inner) = value.get_ref() {
            flatten(&key, inner, text, entries);
            continue;
        }
        let (line, column) = place(text, name.span().start);
        entries.push((key, to_value(value.get_ref()), line, column));
    }
}

fn to_value(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(Cow::clone(text).into_owned()),
        DeValue::Integer(number) => {
            let digits = number.as_str();
            i64::from_str_radix(digits, number.radix())
                .map_or_else(|_| Value::Text(digits.to_owned()), Value::Number)
        }
        DeValue::Float(number) => number
            .as_str()
            .parse()
            .map_or_else(|_| Value::Text(number.as_str().to_owned()), Value::Fraction),
        DeValue::Boolean(switch) => Value::Switch(*switch),
        DeValue::Datetime(time) => Value::Text(time.to_string()),
        DeValue::Array(items) => {
            Value::List(items.iter().map(|item| to_value(item.get_ref())).collect())
        }
        // Only inside arrays, where no option takes one: shown in the message that refuses it.
        DeValue::Table(_) => Value::Text("{…}".to_owned()),
    }
}

/// Line and column, from 1, of a byte offset.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before.get(line_start..).unwrap_or_default().chars().count();
    (before.matches('\n').count() + 1, column + 1)
}

/// A value in TOML's form.
pub(super) fn show(value: &Value) -> String {
    match value {
        Value::Text(text) => toml::Value::String(text.clone()).to_string(),
        Value::Number(number) => number.to_string(),
        Value::Fraction(number) => number.to_string(),
        Value::Switch(switch) => switch.to_string(),
        Value::List(items) => {
            let items: Vec<_> = items.iter().map(show).collect();
            format!("[{}]", items.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn collect(file: &str, environment: &[(&str, &str)], set: &[&str]) -> Settings {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("posthouse.toml");
        fs::write(&path, file).unwrap();
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let sources = Sources {
            file: Some(path),
            environment: environment.iter().map(own).collect(),
            set: set.iter().map(|&pair| pair.to_owned()).collect(),
        };
        Settings::collect(&sources).unwrap()
    }

    fn text(settings: &Settings, key: &str) -> String {
        show(&settings.get(key).unwrap().value)
    }

    #[test]
    fn later_layers_win() {
        let file = "[amqp]\nchannel_max = 1\nproduct = \"file\"\nversion = \"1.1.1\"";
        let environment =
            [("POSTHOUSE__AMQP__PRODUCT", "env"), ("POSTHOUSE__AMQP__VERSION", "2.2.2")];

        let settings = collect(file, &environment, &["amqp.version=3.3.3"]);

        let read = ["amqp.channel_max", "amqp.product", "amqp.version", "amqp.frame_max"]
            .map(|k| text(&settings, k));
        assert_eq!(read, ["1", "\"env\"", "\"3.3.3\"", "\"128KiB\""]);
    }

    #[test]
    fn an_unknown_option_is_reported_with_its_place_and_a_suggestion() {
        let mut settings = collect(
            "[amqp]\n  lisen = \"x\"",
            &[("POSTHOUSE__LIMIT__QUEUES_PER_TENANT_MAX", "1")],
            &["colour"],
        );

        let problems: Vec<_> = settings.take_problems().iter().map(ToString::to_string).collect();

        assert!(problems[0].ends_with(
            "posthouse.toml:2:3: `amqp.lisen`: unknown option; did you mean `amqp.listen`?"
        ));
        assert!(
            problems[1].contains("did you mean `limits.queues_per_tenant_max`?"),
            "{problems:?}"
        );
        assert_eq!(problems[2], "--set: `colour`: must be written key=value");
    }

    #[test]
    fn a_secret_may_come_from_a_file_and_is_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, "s3cret\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();

        let settings = collect("", &[("RABBITMQ_DEFAULT_PASS_FILE", path.to_str().unwrap())], &[]);

        assert_eq!(text(&settings, "auth.default_pass"), "\"s3cret\"");
        let shown: Vec<_> =
            settings.effective().map(|(key, value, _)| format!("{key} = {value}")).collect();
        assert!(shown.contains(&"auth.default_pass = \"***\"".to_owned()));
        assert!(!shown.iter().any(|line| line.contains("s3cret")));
    }

    #[test]
    fn a_secret_in_a_file_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, "s3cret\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();

        let mut settings =
            collect("", &[("POSTHOUSE__AUTH__DEFAULT_PASS_FILE", path.to_str().unwrap())], &[]);

        let problems: Vec<_> = settings.take_problems().iter().map(ToString::to_string).collect();
        assert!(problems[0].contains("has mode 0644") && problems[0].contains("chmod 0600"));
        assert_eq!(text(&settings, "auth.default_pass"), "\"\"");
    }

    #[test]
    fn our_own_name_beats_the_borrowed_one() {
        for swap in [false, true] {
            let mut environment =
                [("RABBITMQ_DEFAULT_USER", "theirs"), ("POSTHOUSE__AUTH__DEFAULT_USER", "ours")];
            if swap {
                environment.reverse();
            }
            assert_eq!(text(&collect("", &environment, &[]), "auth.default_user"), "\"ours\"");
        }
    }

    #[test]
    fn the_state_directory_is_only_a_default() {
        let environment = [("STATE_DIRECTORY", "/var/lib/posthouse:/other")];

        assert_eq!(text(&collect("", &environment, &[]), "data_dir"), "\"/var/lib/posthouse\"");
        assert_eq!(text(&collect("data_dir = \"x\"", &environment, &[]), "data_dir"), "\"x\"");
    }

    #[test]
    fn broken_toml_is_reported_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broken.toml");
        fs::write(&path, "[amqp]\nlisten = = 3\n").unwrap();

        let error =
            Settings::collect(&Sources { file: Some(path), ..Sources::default() }).unwrap_err();

        assert!(error.to_string().contains("broken.toml:2:"), "{error}");
    }
}
