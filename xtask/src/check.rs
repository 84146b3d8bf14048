//! `cargo xtask check`.

/// What can be asked of `cargo xtask check`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Runs the command to its end.
///
/// # Errors
///
/// Whatever made it fail.
pub(crate) fn run(_args: &Args) -> anyhow::Result<()> {
    anyhow::bail!("`cargo xtask check` is not in this build")
}
