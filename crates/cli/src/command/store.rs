//! `posthouse store`: what is in the data directory of a stopped server, and whether all of it is whole.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;
use store::embedded::{Damage, Inspection, QueueContents, SegmentContents, inspect};

use crate::printer::Printer;

/// Look into the data directory of a stopped server. Changes nothing.
#[derive(Debug, Args)]
pub(super) struct Store {
    #[command(subcommand)]
    question: Question,
}

#[derive(Debug, Subcommand)]
enum Question {
    /// List segments, queues and damages.
    Inspect(Directory),
    /// Read every byte and say whether all is whole; exits with 1 if not.
    Verify(Directory),
}

#[derive(Debug, Args)]
struct Directory {
    /// The data directory (`data_dir`).
    #[arg(value_name = "DIR")]
    path: PathBuf,
}

impl Store {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<ExitCode> {
        match &self.question {
            Question::Inspect(directory) => {
                let inspection = read(&directory.path)?;
                print_contents(&mut Printer::new(), &inspection, json)?;
                Ok(ExitCode::SUCCESS)
            }
            Question::Verify(directory) => verify(&directory.path, json),
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Inspection> {
    inspect(path).with_context(|| format!("{} cannot be inspected", path.display()))
}

fn print_contents(
    printer: &mut Printer,
    inspection: &Inspection,
    json: bool,
) -> anyhow::Result<()> {
    for segment in &inspection.segments {
        printer.line(&show_segment(*segment, json))?;
    }
    for queue in &inspection.queues {
        printer.line(&show_queue(*queue, json))?;
    }
    for damage in &inspection.damages {
        printer.line(&show_damage(damage, json))?;
    }
    for tombstone in &inspection.quarantined {
        printer.line(&show_tombstone(tombstone, json))?;
    }
    printer.line(&match json {
        true => json!({ "definitions": inspection.definitions }).to_string(),
        false => format!("definitions {}", inspection.definitions),
    })
}

fn verify(path: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let inspection = read(path)?;
    let mut printer = Printer::new();
    for damage in &inspection.damages {
        printer.line(&show_damage(damage, json))?;
    }
    for tombstone in &inspection.quarantined {
        printer.line(&show_tombstone(tombstone, json))?;
    }
    let messages: u64 = inspection.queues.iter().map(|queue| queue.messages).sum();
    let bytes: u64 = inspection.segments.iter().map(|segment| segment.bytes).sum();
    let damages = inspection.damages.len();
    let quarantined = inspection.quarantined.len();
    let whole = damages + quarantined == 0;
    printer.line(&match json {
        true => json!({ "whole": whole, "damages": damages, "quarantined": quarantined, "messages": messages, "bytes": bytes }).to_string(),
        false if whole => format!("whole: {messages} messages in {bytes} bytes"),
        false if damages == 0 => format!(
            "{quarantined} losses in the past; what remains is whole: {messages} messages in {bytes} bytes. Remove the \
             file `quarantine` to forget them"
        ),
        false => format!("damaged in {damages} places; {messages} messages in {bytes} bytes remain"),
    })?;
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show_segment(segment: SegmentContents, json: bool) -> String {
    let SegmentContents { segment, bytes, records, live, damaged } = segment;
    match json {
        true => json!({ "segment": segment, "bytes": bytes, "records": records, "live": live, "damaged": damaged })
            .to_string(),
        false => format!("segment {segment}: {bytes} bytes, {records} records, {live} live messages, {damaged} damaged"),
    }
}

fn show_queue(queue: QueueContents, json: bool) -> String {
    let kind = if queue.kind.stream { "stream" } else { "queue" };
    let (id, messages, next) = (queue.queue.0, queue.messages, queue.next);
    match json {
        true => json!({ "queue": id, "kind": kind, "messages": messages, "next_sequence": next })
            .to_string(),
        false => format!("{kind} {id}: {messages} messages, next sequence {next}"),
    }
}

/// A damage that was found before.
fn show_tombstone(damage: &Damage, json: bool) -> String {
    let Damage { segment, offset, bytes, what } = damage;
    match json {
        true => {
            json!({ "quarantined_segment": segment, "offset": offset, "bytes": bytes, "what": what })
                .to_string()
        }
        false => format!("lost earlier in segment {segment} at {offset}, {bytes} bytes: {what}"),
    }
}

fn show_damage(damage: &Damage, json: bool) -> String {
    let Damage { segment, offset, bytes, what } = damage;
    match json {
        true => {
            json!({ "damaged_segment": segment, "offset": offset, "bytes": bytes, "what": what })
                .to_string()
        }
        false => format!("damage in segment {segment} at {offset}, {bytes} bytes: {what}"),
    }
}
