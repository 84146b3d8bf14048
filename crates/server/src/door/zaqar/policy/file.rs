//! Policy files: JSON objects, or lines of `"name": "expression"` as oslo.policy's YAML samples have them.

use std::collections::BTreeMap;

use super::check::Check;
use super::{ADMIN, NAMES_MAX, Policy, STEPS_MAX, default_check};
use crate::door::zaqar::policy::Rule;

/// Names that Zaqar defines besides its rules, and what they are unless a file says otherwise.
const BUILT_IN: [(&str, &str); 2] = [
    ("context_is_admin", "role:admin"),
    ("admin_or_owner", "is_admin:True or project_id:%(project_id)s"),
];

/// A line (0: the whole file), and what is wrong there.
type Mistake = (usize, String);

/// A name, its expression, and its line.
type Entry = (String, String, usize);

pub(super) fn parse(text: &str) -> Result<Policy, Mistake> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let entries = if text.trim_start().starts_with('{') { json(text)? } else { lines(text)? };
    if entries.len() > NAMES_MAX {
        return Err((0, format!("a policy must have at most {NAMES_MAX} names")));
    }
    let mut named = Names::default();
    for (name, expression) in BUILT_IN {
        named.put(name, expression, 0)?;
    }
    for (name, expression, line) in &entries {
        if name.contains(':') && Rule::named(name).is_none() {
            return Err((*line, unknown(name)));
        }
        let first = entries.iter().find(|(other, ..)| other == name);
        if let Some((.., first)) = first.filter(|(.., first)| first != line) {
            return Err((*line, format!("`{name}` was said before, in line {first}")));
        }
        named.put(name, expression, *line)?;
    }
    named.into_policy()
}

fn unknown(name: &str) -> String {
    let nearest = Rule::ALL
        .iter()
        .map(|rule| (strsim::jaro_winkler(rule.name(), name), rule.name()))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness > 0.8);
    match nearest {
        Some((_, known)) => format!("there is no rule `{name}`; did you mean `{known}`?"),
        None => format!("there is no rule `{name}`"),
    }
}

fn json(text: &str) -> Result<Vec<Entry>, Mistake> {
    // A list of pairs and not a map, so that a name said twice is seen.
    struct Pairs(Vec<(String, String)>);
    impl<'de> serde::Deserialize<'de> for Pairs {
        fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            struct Visitor;
            impl<'de> serde::de::Visitor<'de> for Visitor {
                type Value = Pairs;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("an object of names and expressions, both strings")
                }
                fn visit_map<A: serde::de::MapAccess<'de>>(
                    self,
                    mut map: A,
                ) -> Result<Pairs, A::Error> {
                    let mut pairs = Vec::new();
                    while let Some(pair) = map.next_entry()? {
                        pairs.push(pair);
                    }
                    Ok(Pairs(pairs))
                }
            }
            from.deserialize_map(Visitor)
        }
    }
    let Pairs(pairs) =
        serde_json::from_str(text).map_err(|error| (error.line(), error.to_string()))?;
    let place = |name: &str| {
        let quoted = serde_json::Value::from(name).to_string();
        text.lines().position(|line| line.contains(&quoted)).map_or(1, |at| at + 1)
    };
    let mut entries: Vec<Entry> = Vec::with_capacity(pairs.len());
    for (name, expression) in pairs {
        let line = place(&name);
        if entries.iter().any(|(other, ..)| *other == name) {
            return Err((line, format!("`{name}` is said twice")));
        }
        entries.push((name, expression, line));
    }
    Ok(entries)
}

fn lines(text: &str) -> Result<Vec<Entry>, Mistake> {
    let mut entries = Vec::new();
    for (number, raw) in (1..).zip(text.lines()) {
        let line = raw.trim();
        if line.is_empty() || line.starts_with('#') || line == "---" || line == "{}" {
            continue;
        }
        if raw.starts_with([' ', '\t']) {
            let what = "a name and its expression must stand on one line that is not indented";
            return Err((number, what.to_owned()));
        }
        let (name, rest) = scalar(line, true).map_err(|what| (number, what))?;
        let rest = rest.trim_start().strip_prefix(':');
        let rest = rest.ok_or_else(|| (number, format!("expected a colon behind `{name}`")))?;
        let (expression, rest) = scalar(rest.trim_start(), false).map_err(|what| (number, what))?;
        if !rest.trim().is_empty() && !rest.trim_start().starts_with('#') {
            return Err((number, format!("did not expect `{}`", rest.trim())));
        }
        entries.push((name, expression, number));
    }
    Ok(entries)
}

/// A quoted or plain text at the start, and what is behind it.
fn scalar(text: &str, is_name: bool) -> Result<(String, &str), String> {
    for quote in ['"', '\''] {
        let Some(inner) = text.strip_prefix(quote) else { continue };
        let (content, rest) =
            inner.split_once(quote).ok_or_else(|| format!("a closing {quote} is missing"))?;
        if content.contains('\\') {
            return Err("backslashes are not understood here".to_owned());
        }
        return Ok((content.to_owned(), rest));
    }
    if text.starts_with(['[', '{', '|', '>', '&', '*', '%', '@', '!']) {
        return Err(format!("an expression that begins so must be in quotes: {text}"));
    }
    // Rule names have a colon of their own: YAML's separator is a colon before a space.
    let end = if is_name { text.find(": ").or_else(|| text.rfind(':')) } else { text.find(" #") };
    let (content, rest) = text.split_at(end.unwrap_or(text.len()));
    Ok((content.trim_end().to_owned(), rest))
}

/// Everything that was said, before references are followed.
#[derive(Default)]
struct Names {
    said: BTreeMap<String, (Check, usize)>,
}

impl Names {
    fn put(&mut self, name: &str, expression: &str, line: usize) -> Result<(), Mistake> {
        let check =
            Check::parse(expression).map_err(|mistake| (line, format!("`{name}`: {mistake}")))?;
        self.said.insert(name.to_owned(), (check, line));
        Ok(())
    }

    fn into_policy(self) -> Result<Policy, Mistake> {
        // What is said and not used is checked as well.
        for name in self.said.keys() {
            self.resolved(name)?;
        }
        let checks = Rule::ALL
            .iter()
            .map(|rule| match self.said.contains_key(rule.name()) {
                true => self.resolved(rule.name()),
                false => Ok(default_check(*rule)),
            })
            .collect::<Result<_, _>>()?;
        let admin = self.resolved("context_is_admin")?;
        if mentions_admin(&admin) {
            let line = self.said.get("context_is_admin").map_or(0, |(_, line)| *line);
            return Err((line, "`context_is_admin` must not refer to is_admin".to_owned()));
        }
        Ok(Policy { checks, admin })
    }

    fn resolved(&self, name: &str) -> Result<Check, Mistake> {
        let Some((check, line)) = self.said.get(name) else {
            return Ok(Check::Role(ADMIN.to_owned()));
        };
        let mut steps = 0;
        let mut path = vec![name.to_owned()];
        self.follow(check, &mut path, &mut steps)
            .map_err(|what| (*line, format!("`{name}`: {what}")))
    }

    /// Replaces references by what they stand for. The path bounds the depth, the steps the size.
    fn follow(
        &self,
        check: &Check,
        path: &mut Vec<String>,
        steps: &mut usize,
    ) -> Result<Check, String> {
        *steps += 1;
        if *steps > STEPS_MAX {
            return Err(format!("needs more than {STEPS_MAX} steps to decide"));
        }
        let all = |parts: &[Check], path: &mut Vec<String>, steps: &mut usize| {
            parts.iter().map(|part| self.follow(part, path, steps)).collect::<Result<Vec<_>, _>>()
        };
        match check {
            Check::Rule(name) => {
                if path.contains(name) {
                    return Err(format!("goes in a circle: {} → {name}", path.join(" → ")));
                }
                let target = match (self.said.get(name), Rule::named(name)) {
                    (Some((check, _)), _) => check.clone(),
                    (None, Some(rule)) => default_check(rule),
                    (None, None) => return Err(format!("there is no rule `{name}`")),
                };
                path.push(name.clone());
                let resolved = self.follow(&target, path, steps)?;
                path.pop();
                Ok(resolved)
            }
            Check::Not(inner) => Ok(Check::Not(Box::new(self.follow(inner, path, steps)?))),
            Check::All(parts) => all(parts, path, steps).map(Check::All),
            Check::Any(parts) => all(parts, path, steps).map(Check::Any),
            leaf @ (Check::Always
            | Check::Never
            | Check::Role(_)
            | Check::Admin(_)
            | Check::Attribute(..)) => Ok(leaf.clone()),
        }
    }
}

fn mentions_admin(check: &Check) -> bool {
    match check {
        Check::Admin(_) => true,
        Check::Not(inner) => mentions_admin(inner),
        Check::All(parts) | Check::Any(parts) => parts.iter().any(mentions_admin),
        Check::Always | Check::Never | Check::Role(_) | Check::Rule(_) | Check::Attribute(..) => {
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::caller;
    use super::*;

    #[test]
    fn a_file_overrides_what_it_names_and_leaves_the_rest() {
        let policy = parse(
            r#"{"messages:create": "role:writer or is_admin", "queues:delete": "!",
                "health:get": "rule:messages:create"}"#,
        )
        .unwrap();

        assert!(policy.allows(Rule::MessagesCreate, &caller(&["writer"])));
        assert!(policy.allows(Rule::MessagesCreate, &caller(&["admin"])));
        assert!(!policy.allows(Rule::MessagesCreate, &caller(&["reader"])));
        assert!(!policy.allows(Rule::QueuesDelete, &caller(&["admin"])));
        assert!(policy.allows(Rule::HealthGet, &caller(&["writer"])));
        assert!(policy.allows(Rule::QueuesGet, &caller(&[])));
        assert!(!policy.allows(Rule::PoolsCreate, &caller(&["writer"])));
    }

    #[test]
    fn the_yaml_of_oslos_sample_generator_is_read() {
        let policy = parse(
            "# comment\n---\n#\"queues:get\": \"\"\n\"context_is_admin\": \"role:boss\"\n\
             queues:get: role:reader and project_id:p  # theirs\n'queues:create': '@'\n\
             \"queues:stats\": \"rule:admin_or_owner\"\n",
        )
        .unwrap();

        assert!(policy.allows(Rule::QueuesGet, &caller(&["reader"])));
        assert!(!policy.allows(Rule::QueuesGet, &caller(&["boss"])));
        assert!(policy.allows(Rule::QueuesStats, &caller(&[])));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let mistake = |text: &str| parse(text).unwrap_err();

        assert_eq!(mistake("{\n\"queues:get\": 3}").0, 2);
        let (line, what) = mistake("queues:create: ''\nqueue:get: ''\n");
        assert_eq!(
            (line, what.as_str()),
            (2, "there is no rule `queue:get`; did you mean `queues:get`?")
        );
        let (line, what) = mistake("{\n \"queues:get\": \"role:a nor role:b\"\n}");
        assert_eq!((line, what.contains("at column 8")), (2, true), "{what}");
        assert!(mistake("a: rule:b\nb: rule:a\n").1.contains("a → b → a"));
        assert!(mistake("queues:get: rule:nobody\n").1.contains("there is no rule `nobody`"));
        assert_eq!(mistake("queues:get:\n  - role:a\n").0, 2);
        assert_eq!(mistake("queues:get: ''\nqueues:get: '!'\n").0, 2);
        assert_eq!(mistake("{\"queues:get\": \"\", \"queues:get\": \"!\"}").0, 1);
        assert!(mistake("context_is_admin: is_admin\n").1.contains("must not refer"));
    }

    #[test]
    fn references_that_double_and_double_are_refused_quickly() {
        let mut text = "r0: role:x\n".to_owned();
        for number in 1..40 {
            let before = number - 1;
            text.push_str(&format!("r{number}: rule:r{before} or rule:r{before}\n"));
        }

        assert!(parse(&text).unwrap_err().1.contains("more than 1000 steps"));
    }
}
