//! Whether a foreign program is on this machine.

use std::process::{Command, Stdio};

/// Whether `program` can be started; if not, says that the test is skipped.
///
/// `cargo xtask check` installs everything and sets `POSTHOUSE_TESTS_COMPLETE`, under which a missing program is a failure.
pub(crate) fn is_installed(program: &str) -> bool {
    let started =
        Command::new(program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let there = started.is_ok();
    assert!(
        there || std::env::var_os("POSTHOUSE_TESTS_COMPLETE").is_none(),
        "`{program}` is not installed"
    );
    if !there {
        eprintln!("skipped: `{program}` is not installed");
    }
    there
}
