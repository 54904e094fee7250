//! `kapok-controller store migrate`.

use std::io::Write as _;

use anyhow::{Context as _, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use kapok_controller::config::{Config, store::Backend};
use kapok_store::migrate::{Moved, Progress, Step, migrate};

/// From where to where.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    kapok-controller store migrate --from redb --to etcd\n  \
    kapok-controller store migrate --from etcd --to redb --config /etc/kapok/controller.toml")]
pub(crate) struct Arguments {
    /// Where the log is.
    #[arg(long, value_enum)]
    from: Backend,
    /// Where it is to be: a store that is blank, or has what an earlier try brought there.
    #[arg(long, value_enum)]
    to: Backend,
}

/// Copies the log and says what to do then.
pub(crate) async fn run(config: &Config, arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { from, to } = arguments;
    ensure!(from != to, "--from and --to name the same store");
    let _state = super::own(&config.state_dir)?;
    let source = super::open(config, *from).await.context("--from")?;
    let target = super::open(config, *to).await.context("--to")?;
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{msg:<12} {wide_bar} {human_pos}/{human_len}")
    {
        bar.set_style(style);
    }
    let moved = migrate(&source, &target, |progress| show(&bar, progress)).await;
    bar.finish_and_clear();
    source.close().await;
    target.close().await;
    let Moved {
        extent,
        objects,
        found,
        epoch,
    } = moved?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{} entries up to {}, and {objects} objects as of {}, are in {to} and in {from} alike.",
        extent.entries(),
        extent.head.seq,
        extent.checkpoint,
    )?;
    if found > 0 {
        writeln!(
            out,
            "{found} of the entries were there from an earlier try."
        )?;
    }
    writeln!(
        out,
        "Set store.backend = \"{to}\" and start the controller; it leads above epoch {epoch}. One on {from} refuses \
         to start now; kapok-controller store migrate --from {to} --to {from} goes back."
    )?;
    Ok(())
}

fn show(bar: &ProgressBar, progress: Progress) {
    bar.set_message(match progress.step {
        Step::Compare => "comparing",
        Step::Copy => "copying",
        Step::Checkpoint => "checkpoint",
        Step::Verify => "verifying",
    });
    bar.set_length(progress.of);
    bar.set_position(progress.entries);
}
