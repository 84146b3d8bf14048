//! `posthouse completions`: what a shell needs to complete commands.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Program;
use crate::printer::Printer;

/// Print a completion script: `posthouse completions bash > /etc/bash_completion.d/posthouse`.
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// Which shell.
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Program::command(), "posthouse", &mut script);
        Printer::new().bytes(&script)?;
        Ok(ExitCode::SUCCESS)
    }
}
