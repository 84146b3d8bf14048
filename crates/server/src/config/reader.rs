//! From settings to typed options: what the option wants, what its limits are, and every problem at once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::error::{Origin, Problem};
use super::settings::{Settings, Value, show};
use super::units::{parse_bytes, parse_duration, show_bytes, show_duration};

/// Reads options one after the other and keeps what was wrong, so that all of it can be said together.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    settings: &'a Settings,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(settings: &'a Settings, problems: Vec<Problem>) -> Self {
        Self { settings, problems }
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    pub(super) fn text(&mut self, key: &str) -> String {
        self.read(key, String::new(), |value| match value {
            Value::Text(text) => Ok(text.clone()),
            other => Err(format!("must be a string, not {}", show(other))),
        })
    }

    /// A path, or nothing for the empty string.
    pub(super) fn path(&mut self, key: &str) -> Option<PathBuf> {
        Some(self.text(key)).filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    pub(super) fn switch(&mut self, key: &str) -> bool {
        self.read(key, false, |value| match value {
            Value::Switch(switch) => Ok(*switch),
            Value::Text(text) => match text.as_str() {
                "true" | "yes" | "on" | "1" => Ok(true),
                "false" | "no" | "off" | "0" => Ok(false),
                other => Err(format!("must be true or false, not `{other}`")),
            },
            other => Err(format!("must be true or false, not {}", show(other))),
        })
    }

    pub(super) fn number<N>(&mut self, key: &str, allowed: RangeInclusive<u64>) -> N
    where
        N: TryFrom<u64> + Default,
    {
        self.read(key, N::default(), |value| {
            let number = whole_number(value).filter(|number| allowed.contains(number));
            let refuse = || {
                format!(
                    "must be a whole number from {} to {}, not {}",
                    allowed.start(),
                    allowed.end(),
                    show(value)
                )
            };
            N::try_from(number.ok_or_else(refuse)?).map_err(|_| refuse())
        })
    }

    /// A bound where 0 means none: [`usize::MAX`], so that comparing needs no special case.
    pub(super) fn bound(&mut self, key: &str) -> usize {
        match self.number::<usize>(key, 0..=u64::MAX) {
            0 => usize::MAX,
            bound => bound,
        }
    }

    pub(super) fn bytes(&mut self, key: &str, allowed: RangeInclusive<u64>) -> u64 {
        self.read(key, 0, |value| {
            let bytes = size(value)?;
            if allowed.contains(&bytes) {
                return Ok(bytes);
            }
            let (low, high) = (show_bytes(*allowed.start()), show_bytes(*allowed.end()));
            Err(format!("must be {low} to {high}, not {}", show_bytes(bytes)))
        })
    }

    pub(super) fn duration(&mut self, key: &str, allowed: RangeInclusive<Duration>) -> Duration {
        self.read(key, Duration::ZERO, |value| {
            let duration = match value {
                Value::Text(text) => parse_duration(text)?,
                Value::Number(0) => Duration::ZERO,
                other => {
                    return Err(format!("must be a duration such as \"10s\", not {}", show(other)));
                }
            };
            if allowed.contains(&duration) {
                return Ok(duration);
            }
            let (low, high) = (show_duration(*allowed.start()), show_duration(*allowed.end()));
            Err(format!("must be {low} to {high}, not {}", show_duration(duration)))
        })
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)], otherwise: T) -> T {
        self.read(key, otherwise, |value| {
            let chosen =
                choices.iter().find(|(name, _)| matches!(value, Value::Text(text) if text == name));
            chosen.map(|(_, choice)| *choice).ok_or_else(|| {
                let names: Vec<_> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
                format!("must be one of {}, not {}", names.join(", "), show(value))
            })
        })
    }

    /// No, one or several addresses.
    pub(super) fn addresses(&mut self, key: &str) -> Vec<SocketAddr> {
        self.read(key, Vec::new(), |value| {
            let items: Vec<String> = match value {
                Value::Text(text) => text
                    .trim_matches(['[', ' '])
                    .is_empty()
                    .then(Vec::new)
                    .unwrap_or_else(|| split_list(text)),
                Value::List(items) => items
                    .iter()
                    .map(|item| match item {
                        Value::Text(text) => Ok(text.clone()),
                        other => Err(format!("an address must be a string, not {}", show(other))),
                    })
                    .collect::<Result<_, _>>()?,
                other => {
                    return Err(format!(
                        "must be an address or a list of them, not {}",
                        show(other)
                    ));
                }
            };
            items.iter().map(|item| parse_address(item)).collect()
        })
    }

    /// Whole seconds: a number, or a duration with a unit.
    pub(super) fn seconds(&mut self, key: &str, allowed: RangeInclusive<u32>) -> u32 {
        self.read(key, 0, |value| {
            let refuse = || {
                format!(
                    "must be {} to {} seconds, not {}",
                    allowed.start(),
                    allowed.end(),
                    show(value)
                )
            };
            let seconds = match (whole_number(value), value) {
                (Some(seconds), _) => seconds,
                (None, Value::Text(text)) => parse_duration(text)?.as_secs(),
                (None, _) => return Err(refuse()),
            };
            let seconds = u32::try_from(seconds).ok().filter(|seconds| allowed.contains(seconds));
            seconds.ok_or_else(refuse)
        })
    }

    /// No, one or several words.
    pub(super) fn texts(&mut self, key: &str) -> Vec<String> {
        self.read(key, Vec::new(), |value| match value {
            Value::Text(text) => Ok(split_list(text)),
            Value::List(items) => items
                .iter()
                .map(|item| match item {
                    Value::Text(text) => Ok(text.clone()),
                    other => Err(format!("must be strings, not {}", show(other))),
                })
                .collect(),
            other => Err(format!("must be a string or a list of them, not {}", show(other))),
        })
    }

    /// Anything else that the reader of an option decides for itself.
    pub(super) fn read<T>(
        &mut self,
        key: &str,
        otherwise: T,
        parse: impl FnOnce(&Value) -> Result<T, String>,
    ) -> T {
        let Some(setting) = self.settings.get(key) else {
            let what = "has no default; add it to config.default.toml".to_owned();
            self.problems.push(Problem { key: key.to_owned(), origin: Origin::Default, what });
            return otherwise;
        };
        match parse(&setting.value) {
            Ok(parsed) => parsed,
            Err(what) => {
                self.problems.push(Problem {
                    key: key.to_owned(),
                    origin: setting.origin.clone(),
                    what,
                });
                otherwise
            }
        }
    }

    /// Adds a problem that concerns several options, placed at `key`.
    pub(super) fn refuse(&mut self, key: &str, what: &str) {
        self.read::<()>(key, (), |_| Err(what.to_owned()));
    }
}

/// A size, as number or as text.
pub(super) fn size(value: &Value) -> Result<u64, String> {
    match value {
        Value::Text(text) => parse_bytes(text),
        other => whole_number(other)
            .ok_or_else(|| format!("must be a size such as \"64MiB\", not {}", show(other))),
    }
}

fn whole_number(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => u64::try_from(*number).ok(),
        Value::Text(text) => u64::from_str(text.trim()).ok(),
        Value::Fraction(_) | Value::Switch(_) | Value::List(_) => None,
    }
}

/// Splits `a,b` and `["a", "b"]`, which environment and `--set` may both use.
fn split_list(text: &str) -> Vec<String> {
    let trimmed = text.trim();
    let inner = match trimmed.strip_prefix("[\"") {
        Some(_) => trimmed.trim_start_matches('[').trim_end_matches(']'),
        None => trimmed,
    };
    inner
        .split(',')
        .map(|item| item.trim().trim_matches('"').to_owned())
        .filter(|item| !item.is_empty())
        .collect()
}

/// An address with its port; `localhost` is 127.0.0.1, `*` every address.
fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let bad = || {
        format!(
            "`{text}` is not an address with a port, such as \"127.0.0.1:5672\" or \"[::1]:5672\""
        )
    };
    if let Ok(address) = SocketAddr::from_str(text) {
        return Ok(address);
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
    let ip: IpAddr = match host {
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        "*" | "" => Ipv6Addr::UNSPECIFIED.into(),
        _ => return Err(bad()),
    };
    Ok(SocketAddr::new(ip, port.parse().map_err(|_| bad())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_one_many_or_none() {
        assert_eq!(split_list("127.0.0.1:1, [::1]:2"), ["127.0.0.1:1", "[::1]:2"]);
        assert_eq!(split_list("[\"127.0.0.1:1\", \"[::1]:2\"]"), ["127.0.0.1:1", "[::1]:2"]);
        assert_eq!(split_list("[::1]:2"), ["[::1]:2"]);
        assert_eq!(parse_address("*:0"), Ok("[::]:0".parse().unwrap()));
        assert_eq!(parse_address("localhost:5672"), Ok("127.0.0.1:5672".parse().unwrap()));
        assert!(parse_address("example.org:5672").is_err());
        assert!(parse_address("127.0.0.1").is_err());
    }
}
