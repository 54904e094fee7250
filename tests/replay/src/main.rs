//! `kapok-replay`: see `kapok-replay --help`.
#![allow(clippy::print_stdout, reason = "what it prints is what it is for")]

use std::{
    fs,
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use kapok_replay::{
    figures::Disk,
    replay::{self, Options},
    trace,
    world::Shape,
};

/// Replays recorded demand through the real ledger and scheduler
#[derive(Debug, Parser)]
#[command(
    name = "kapok-replay",
    version,
    after_help = "Examples:\n  \
        kapok-replay trace.csv.gz --node 16/112 --nodes 3500\n  \
        kapok-replay trace.csv --node 24/84 --nodes 2400 --tenants 200 --series nodes.csv\n  \
        kapok-replay trace.csv.gz --tenants 200 --report pooling\n\n\
        The trace's columns: arrival_s,batch,vcpus,memory_mib,lifetime_s (empty: never ended).\n\
        Memory is all that a guest takes of its node, QEMU's own part included."
)]
struct Arguments {
    /// The trace: CSV, or CSV in gzip
    trace: PathBuf,
    /// What a node has, vCPUs/GiB
    #[arg(long, value_name = "VCPUS/GIB", default_value = "16/112")]
    node: Shape,
    /// How many nodes there are
    #[arg(long, default_value_t = 4000)]
    nodes: u32,
    /// Tenants that the batches are spread over
    #[arg(long, default_value_t = 1)]
    tenants: u32,
    /// Also report on the fabric as it is at the end, as `kapok report` does
    #[arg(long, value_enum)]
    report: Option<About>,
    /// Write the nodes in use over time to this CSV file
    #[arg(long, value_name = "FILE")]
    series: Option<PathBuf>,
    /// Where the log is written meanwhile; must be on a disk
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    folder: PathBuf,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum About {
    /// Nodes of each tenant alone against those of all together
    Pooling,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Json,
}

// One thread: what is handed in together is then decided together, the same every time.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let trace = trace::open(&arguments.trace)
        .with_context(|| format!("can't use {}", arguments.trace.display()))?;
    let folder = tempfile::Builder::new()
        .prefix("kapok-replay-")
        .tempdir_in(&arguments.folder)
        .with_context(|| format!("can't write to {}", arguments.folder.display()))?;
    let disk = Disk::measure(folder.path())?;
    let options = Options {
        shape: arguments.node,
        nodes: arguments.nodes,
        tenants: arguments.tenants,
        pooling: arguments.report == Some(About::Pooling),
    };
    let shows = std::io::stderr().is_terminal();
    let told = |done: usize| {
        if shows {
            let _ = write!(std::io::stderr(), "\r{done} of {} requests", trace.len());
        }
    };
    let report = replay::replay(folder.path(), &trace, &options, told).await?;
    if shows {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
    if let Some(file) = &arguments.series {
        let mut text = String::from("at_s,nodes,bound\n");
        for sample in &report.series {
            use std::fmt::Write as _;
            writeln!(text, "{},{},{}", sample.at_s, sample.nodes, sample.bound)?;
        }
        fs::write(file, text).with_context(|| format!("can't write {}", file.display()))?;
    }
    match arguments.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Text => {
            println!(
                "{} nodes of {}, {} batches of {} tenants; {disk}",
                options.nodes,
                options.shape,
                replay::batches(&trace),
                options.tenants
            );
            println!("{report}");
        }
    }
    Ok(())
}
