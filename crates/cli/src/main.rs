//! The program `posthouse`: the server, and what an operator does with it.

mod client;
mod command;
mod http;
mod input;
mod message;
mod printer;
mod transport;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use command::Program;
use printer::ReaderGone;

// A broker allocates and frees message bodies on many threads, where the system's allocator fragments and contends.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let program = Program::parse();
    let json = program.json();
    match program.run() {
        Ok(code) => code,
        // `posthouse consume jobs | head` is no failure.
        Err(error) if error.is::<ReaderGone>() => ExitCode::SUCCESS,
        Err(error) => {
            let text = format!("{error:#}");
            let line = match json {
                true => serde_json::json!({ "error": text }).to_string(),
                false => format!("error: {text}"),
            };
            // Where standard error is gone too, only the exit code can tell.
            drop(writeln!(std::io::stderr(), "{line}"));
            ExitCode::FAILURE
        }
    }
}
