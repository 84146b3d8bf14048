//! `posthouse check`: whether a configuration and the files it names are good.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::json;
use server::auth::token_file::TokenFile;
use server::config::{Config, DEFAULT_FILE, PlainWithoutTls, Settings};
use server::definitions::{Definitions, Report};
use server::door::zaqar::gate::Gate;

use super::serve::Configuration;
use crate::printer::Printer;

/// Check a configuration and the certificates and definitions it names, without starting anything.
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    configuration: Configuration,
    /// Print every option with the value that won and where it was said.
    #[arg(long)]
    effective: bool,
    /// Print the commented file of all defaults, and check nothing.
    #[arg(long, conflicts_with = "effective")]
    defaults: bool,
}

impl Check {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<ExitCode> {
        let mut printer = Printer::new();
        if self.defaults {
            printer.bytes(DEFAULT_FILE.as_bytes())?;
            return Ok(ExitCode::SUCCESS);
        }
        let settings = Settings::collect(&self.configuration.sources())?;
        let config = Config::from_settings(settings.clone())?;
        if self.effective {
            print_effective(&mut printer, &settings, json)?;
        }
        let mut remarks = remarks_on(&config);
        if !config.amqp.tls.listen.is_empty() {
            server::tls::Acceptor::load(&config.amqp.tls).context("amqp.tls")?;
        }
        Gate::open(&config.queue_access).context("queues")?;
        if let Some(tokens) = &config.inbox.tokens {
            TokenFile::open(tokens).context("inbox.tokens")?;
        }
        if let Some(file) = &config.definitions_file {
            let report = read_definitions(file, &config.auth.default_vhost)?;
            remarks.extend(report.notes().iter().map(|note| format!("definitions.file: {note}")));
        }
        for remark in &remarks {
            let line = if json {
                json!({ "remark": remark }).to_string()
            } else {
                format!("remark: {remark}")
            };
            printer.line(&line)?;
        }
        let line = if json {
            json!({ "good": true }).to_string()
        } else {
            "configuration is good".to_owned()
        };
        printer.line(&line)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn print_effective(printer: &mut Printer, settings: &Settings, json: bool) -> anyhow::Result<()> {
    for (key, value, origin) in settings.effective() {
        let line = match json {
            true => {
                json!({ "option": key, "value": value, "origin": origin.to_string() }).to_string()
            }
            false => format!("{key} = {value}  # {origin}"),
        };
        printer.line(&line)?;
    }
    Ok(())
}

/// What works and may still not be meant.
fn remarks_on(config: &Config) -> Vec<String> {
    let mut remarks = config.exposed_files();
    let open = config.amqp.listen.iter().find(|address| !address.ip().is_loopback());
    if let (Some(address), PlainWithoutTls::Always) = (open, config.auth.plain_without_tls) {
        remarks.push(format!(
            "amqp.listen: passwords cross the network in clear text to {address}; set auth.plain_without_tls to \
             \"loopback\" and use amqp.tls.listen if that network is not yours alone"
        ));
    }
    let open = config.inbox.listen.iter().find(|address| !address.ip().is_loopback());
    if let Some(address) = open {
        remarks.push(format!(
            "inbox.listen: passwords and tokens cross the network in clear text to {address}; put a proxy with TLS \
             before it if that network is not yours alone"
        ));
    }
    if let Some(address) = config.metrics_listen.iter().find(|address| !address.ip().is_loopback())
    {
        remarks.push(format!(
            "metrics.listen: {address} shows names of queues to everybody who can reach it"
        ));
    }
    remarks
}

fn read_definitions(file: &Path, default_tenant: &str) -> anyhow::Result<Report> {
    let json = fs::read(file)
        .with_context(|| format!("definitions.file {} cannot be read", file.display()))?;
    let (_, report) = Definitions::parse(&json, default_tenant)
        .with_context(|| format!("definitions.file {}", file.display()))?;
    Ok(report)
}
