//! `cargo xtask tidy`: the rules of the house that neither rustc nor clippy know.
//!
//! Each rule is a function from the files to complaints. A complaint names the file, the line if there is one, and what
//! to do.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// Longest a source file may be without its tests, in lines.
///
/// 500 is what STYLE.md asks for; the rest is room for the sentence that would otherwise be cut.
const FILE_LINES_MAX: usize = 600;

/// Names that say nothing about what is in the file.
const FORBIDDEN_NAMES: [&str; 9] =
    ["util", "utils", "common", "helper", "helpers", "misc", "types", "manager", "managers"];

/// Which of our crates a crate may use, besides itself; dev-dependencies may also use what tests stand on.
///
/// The order is the one of ARCHITECTURE.md: what stands on the left knows nothing of what stands on the right.
const ALLOWED_EDGES: [(&str, &[&str]); 15] = [
    ("posthouse-amqp", &[]),
    ("posthouse-message-box", &[]),
    ("posthouse-outbox", &["posthouse-amqp", "posthouse-message-box"]),
    ("posthouse-client", &["posthouse-amqp", "posthouse-outbox"]),
    ("posthouse-testing", &["model", "store", "broker", "server", "posthouse-client"]),
    ("model", &["posthouse-amqp"]),
    ("store", &["model"]),
    ("testkit", &["model", "store"]),
    ("broker", &["model", "store", "posthouse-amqp"]),
    ("delivery", &["model", "store", "broker", "posthouse-amqp"]),
    (
        "server",
        &["model", "store", "broker", "delivery", "posthouse-amqp", "posthouse-message-box"],
    ),
    ("posthouse", &["server", "posthouse-amqp", "posthouse-outbox", "store", "model"]),
    ("rig", &["posthouse-client", "posthouse-outbox", "it"]),
    ("xtask", &["posthouse-amqp"]),
    ("it", &["posthouse-amqp"]),
];

/// Headings that Keep a Changelog knows.
const CHANGELOG_GROUPS: [&str; 6] =
    ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];

/// What can be asked of `cargo xtask tidy`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Checks every rule and prints what is wrong.
///
/// # Errors
///
/// If there is a complaint, or a file cannot be read.
pub(crate) fn run(_args: &Args) -> anyhow::Result<()> {
    let root = crate::install::root();
    let files = sources(&root)?;
    let mut complaints = Vec::new();
    for file in &files {
        complaints.extend(complaints_about(file));
    }
    complaints
        .extend(changelog(&std::fs::read_to_string(root.join("CHANGELOG.md")).unwrap_or_default()));
    complaints.extend(manifests(&files));
    complaints.extend(edges(&root)?);
    complaints.sort();
    if complaints.is_empty() {
        println!("tidy: {} files, nothing to complain about", files.len());
        return Ok(());
    }
    let mut list = String::new();
    for complaint in &complaints {
        writeln!(list, "  {complaint}")?;
    }
    bail!("{} complaints\n{list}", complaints.len());
}

/// A file of the repository, its path relative to the root.
struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    fn is(&self, extension: &str) -> bool {
        self.path.extension().is_some_and(|found| found == extension)
    }

    fn complain(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.path.display())
    }

    /// Its lines up to the unit tests at its end.
    fn lines_without_tests(&self) -> usize {
        self.text.lines().take_while(|line| line.trim() != "#[cfg(test)]").count()
    }

    /// Where its tests begin: at once in a folder `tests`, else at the unit tests.
    fn first_test_line(&self) -> usize {
        if self.path.components().any(|part| part.as_os_str() == "tests") {
            0
        } else {
            self.lines_without_tests()
        }
    }
}

fn sources(root: &Path) -> anyhow::Result<Vec<Source>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)
            .with_context(|| format!("cannot list {}", folder.display()))?
        {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                if !name.starts_with('.')
                    && !matches!(&*name, "target" | "node_modules" | "corpus" | "posthouse-data")
                {
                    folders.push(path);
                }
            } else if matches!(
                path.extension().and_then(|found| found.to_str()),
                Some("rs" | "py" | "toml")
            ) {
                let text = std::fs::read_to_string(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                files.push(Source {
                    path: path.strip_prefix(root).unwrap_or(&path).to_path_buf(),
                    text,
                });
            }
        }
    }
    Ok(files)
}

fn complaints_about(file: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    complaints.extend(forbidden_name(file));
    complaints.extend(sleeps(file));
    if file.is("rs") {
        complaints.extend(module_docs(file));
        complaints.extend(length(file));
    }
    complaints
}

fn forbidden_name(file: &Source) -> Option<String> {
    let bad = file.path.with_extension("").components().any(|part| {
        let part = part.as_os_str().to_string_lossy();
        FORBIDDEN_NAMES.contains(&&*part)
    });
    bad.then(|| file.complain(1, "this name says nothing about what is inside"))
}

fn module_docs(file: &Source) -> Option<String> {
    let first = file.text.lines().next().unwrap_or_default();
    let begins = first.starts_with("//! ") && first.len() > "//! ".len();
    (!begins)
        .then(|| file.complain(1, "begin with `//!` and a sentence that says what this module is"))
}

fn length(file: &Source) -> Option<String> {
    let excused =
        file.text.lines().take(20).any(|line| line.starts_with("// tidy: long, because "));
    let lines = file.lines_without_tests();
    let what = format!(
        "{lines} lines, of at most {FILE_LINES_MAX}; split it, or say at its top `// tidy: long, because …`"
    );
    (lines > FILE_LINES_MAX && !excused).then(|| file.complain(FILE_LINES_MAX, &what))
}

/// A test that sleeps is slow when it passes and wrong when the machine is busy.
///
/// With a paused clock nobody sleeps, so `start_paused` excuses a file.
fn sleeps(file: &Source) -> Vec<String> {
    if file.is("toml") || file.text.contains("start_paused") || file.path.starts_with("xtask") {
        return Vec::new();
    }
    let calls = ["thread::sleep(", "time::sleep(", "time.sleep(", "asyncio.sleep("];
    let lines = file.text.lines().enumerate().skip(file.first_test_line());
    let sleeping = lines.filter(|(_, line)| calls.iter().any(|call| line.contains(call)));
    sleeping
        .map(|(number, _)| {
            file.complain(number + 1, "a test waits for something; it does not sleep")
        })
        .collect()
}

fn changelog(text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut complain =
        |line: usize, what: &str| complaints.push(format!("CHANGELOG.md:{line}: {what}"));
    if text.lines().next() != Some("# Changelog") {
        complain(1, "begin with `# Changelog`");
    }
    let releases: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    if releases.first().map(|release| release.trim_matches(['[', ']'])) != Some("Unreleased") {
        complain(1, "the first release is `## Unreleased`");
    }
    for (number, line) in text.lines().enumerate() {
        if let Some(group) = line.strip_prefix("### ")
            && !CHANGELOG_GROUPS.contains(&group)
        {
            complain(number + 1, &format!("`{group}` is not a group of Keep a Changelog"));
        }
    }
    complaints
}

/// Members take versions and lints from the root.
fn manifests(files: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    let members = files
        .iter()
        .filter(|file| file.path.ends_with("Cargo.toml") && file.path != Path::new("Cargo.toml"));
    for file in members.filter(|file| !file.path.starts_with("fuzz")) {
        if !file.text.contains("[lints]\nworkspace = true") {
            complaints.push(file.complain(1, "say `[lints]` and `workspace = true`"));
        }
        let mut in_dependencies = false;
        for (number, line) in file.text.lines().enumerate() {
            if line.starts_with('[') {
                in_dependencies = line.trim_end_matches(']').ends_with("dependencies");
            } else if in_dependencies && line.contains('=') && !line.contains("workspace = true") {
                complaints.push(
                    file.complain(
                        number + 1,
                        "the version stands in the root: `x.workspace = true`",
                    ),
                );
            }
        }
    }
    complaints
}

fn edges(root: &Path) -> anyhow::Result<Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root)
        .output()
        .context("cargo metadata")?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let packages = metadata
        .get("packages")
        .and_then(serde_json::Value::as_array)
        .context("packages in cargo metadata")?;
    let mut complaints = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let rule = ALLOWED_EDGES.iter().find(|(from, _)| *from == name);
        let Some((_, allowed)) = rule else {
            // An example uses the program as its readers do, through published crates.
            if package["manifest_path"].as_str().is_none_or(|path| !path.contains("/examples/")) {
                complaints.push(format!(
                    "{name}: not in the table of allowed edges of xtask/src/tidy.rs"
                ));
            }
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = dependency["name"].as_str().unwrap_or_default();
            let ours = dependency["path"].is_string();
            let for_tests =
                dependency["kind"] == "dev" && matches!(to, "testkit" | "it" | "posthouse-testing");
            if ours && to != name && !allowed.contains(&to) && !for_tests {
                complaints.push(format!("{name}: may not use {to}"));
            }
        }
    }
    Ok(complaints)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.to_owned() }
    }

    #[test]
    fn a_module_without_a_sentence_about_itself_is_named() {
        assert!(module_docs(&file("a.rs", "//! What it is.\n")).is_none());
        assert!(module_docs(&file("a.rs", "//!\n")).is_some());
        assert!(module_docs(&file("a.rs", "use x;\n")).is_some());
    }

    #[test]
    fn a_file_may_be_long_with_a_reason_or_because_of_its_tests() {
        let long = "x\n".repeat(FILE_LINES_MAX + 1);

        assert!(length(&file("a.rs", &long)).is_some());
        assert!(
            length(&file("a.rs", &format!("//! A.\n// tidy: long, because it is a table\n{long}")))
                .is_none()
        );
        assert!(length(&file("a.rs", &format!("x\n#[cfg(test)]\n{long}"))).is_none());
    }

    #[test]
    fn names_that_say_nothing_are_refused_for_folders_too() {
        assert!(forbidden_name(&file("crates/store/src/utils.rs", "")).is_some());
        assert!(forbidden_name(&file("crates/common/src/lib.rs", "")).is_some());
        assert!(forbidden_name(&file("crates/store/src/segment.rs", "")).is_none());
    }

    #[test]
    fn only_tests_may_not_sleep() {
        let call = "std::thread::sleep(x);\n";

        assert!(sleeps(&file("crates/a/src/b.rs", call)).is_empty());
        assert_eq!(sleeps(&file("crates/a/tests/b.rs", call)).len(), 1);
        assert_eq!(sleeps(&file("crates/a/src/b.rs", &format!("#[cfg(test)]\n{call}"))).len(), 1);
        assert!(
            sleeps(&file(
                "crates/a/tests/b.rs",
                &format!("#[tokio::test(start_paused = true)]\n{call}")
            ))
            .is_empty()
        );
    }

    #[test]
    fn a_changelog_has_an_unreleased_part_and_known_groups() {
        assert!(changelog("# Changelog\n\n## Unreleased\n\n### Added\n- x\n").is_empty());
        assert_eq!(changelog("# Changelog\n\n## Unreleased\n\n### News\n").len(), 1);
        assert_eq!(changelog("# Changes\n\n## 1.0\n").len(), 2);
    }

    #[test]
    fn members_take_versions_and_lints_from_the_root() {
        let good = "[dependencies]\nbytes.workspace = true\n[lints]\nworkspace = true\n";
        let bad = "[dependencies]\nbytes = \"1\"\n";

        assert!(manifests(&[file("crates/a/Cargo.toml", good)]).is_empty());
        assert_eq!(manifests(&[file("crates/a/Cargo.toml", bad)]).len(), 2);
    }
}
