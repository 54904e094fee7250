//! `kapok-agent doctor`: what to look at, and how it is told.

use std::{
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use clap::{Args, ValueEnum};
use kapok_agent::doctor::{self, Report, Server, hypervisor};
use kapok_health::Host;
use kapok_telemetry::Logs;
use kapok_types::Env;

/// Looks at this server: whether it is fit to be a node, and what to do where it isn't.
///
/// It changes nothing and disturbs no agent; it boots a small guest of its own for a moment, if one
/// is configured (`probe_kernel`). Run it as root: what can't be looked at is unknown. It ends
/// with 0 if nothing stands in the way, and with 1 if something is failing or unknown.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kapok-agent doctor\n  kapok-agent doctor -o json | jq \
                        '.findings[] | select(.condition != \"healthy\")'"
)]
pub(super) struct Arguments {
    /// How the findings are told.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
    /// Don't boot the guest that proves KVM.
    #[arg(long)]
    skip_guest: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Looks, and tells.
pub(super) fn run(arguments: &Arguments, file: &Path, env: &Arc<dyn Env>) -> ExitCode {
    // The findings are the answer: what else the parts have to say is left out, unless asked for.
    let logs = Logs {
        variable: "RUST_LOG",
        usual: "off",
    };
    let _telemetry = kapok_telemetry::init("kapok-agent", Some(logs), None, env);
    match tell(arguments, file, env) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // There is nobody left to tell it to.
            let _ = writeln!(io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Gives whether nothing stands in the way.
fn tell(arguments: &Arguments, file: &Path, env: &Arc<dyn Env>) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let report = runtime.block_on(async {
        let (config, finding) = doctor::configuration(file);
        let mut findings = vec![finding];
        findings.extend(hypervisor::check(&config, !arguments.skip_guest, env).await);
        let host = Host::new("/");
        let server = Server {
            host: &host,
            config: &config,
            file,
            now: env.now(),
        };
        findings.extend(doctor::examine(&server).await);
        Report::of(findings)
    });
    // A call to libvirt may hang for ever: nobody waits for it here.
    runtime.shutdown_background();
    let text = match arguments.output {
        Format::Text => report.text(),
        Format::Json => serde_json::to_string_pretty(&report)? + "\n",
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(report.is_fit())
}
