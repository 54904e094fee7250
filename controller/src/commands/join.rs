//! `kapok-controller join`.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use clap::Args;
use kapok_controller::{
    config::{Config, store::Backend},
    join::{self, Joined},
};
use kapok_trust::Token;
use kapok_types::{Env, Violation, env};
use zeroize::Zeroizing;

/// A longer file is no token.
const MAX_TOKEN_BYTES: u64 = 4096;

/// With what a server becomes one more controller.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Where a controller of the fabric serves HTTPS; several are tried in this order.
    #[arg(
        long,
        value_name = "HOST:PORT,…",
        value_delimiter = ',',
        required = true
    )]
    controller: Vec<String>,
    /// The token that `kapok token create controller/NAME` has printed (others on this server can
    /// see it: rather use --token-file).
    #[arg(long, value_name = "TOKEN", required_unless_present = "token_file")]
    token: Option<String>,
    /// A file that holds it; - is the standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
}

impl fmt::Debug for Arguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arguments")
            .field("controller", &self.controller)
            .field("token_file", &self.token_file)
            .finish_non_exhaustive()
    }
}

/// Joins, and says what to do next.
pub(crate) async fn run(config: &Config, file: &Path, arguments: Arguments) -> anyhow::Result<()> {
    let token = token(arguments.token, arguments.token_file.as_deref())?;
    let _state = super::own(&config.state_dir)?;
    let on_redb = config.store.backend == Backend::Redb;
    let log = config.state_dir.join("log.redb");
    if on_redb && log.exists() {
        bail!(
            "{} is a log of this server's own, and {} says that it is used (store.backend): \
             several controllers have one log in etcd. Name that in [store.etcd], or move the file \
             away, then join",
            log.display(),
            file.display()
        );
    }
    let options = join::Options {
        controllers: arguments.controller,
        token,
        trust: config.trust_dir(),
    };
    let env: Arc<dyn Env> = env::System::new();
    let Joined {
        name,
        fabric,
        until,
        missing,
    } = join::join(options, &env).await?;
    let mut out = io::stdout().lock();
    writeln!(out, "This server is the controller {name} of {fabric}.")?;
    writeln!(
        out,
        "Its certificate ends at {until} and is renewed in time while it runs. {} holds the \
         authorities' keys: keep it from everybody else.",
        config.trust_dir().display()
    )?;
    for authority in missing {
        writeln!(
            out,
            "The controller that leads hasn't the key of the authority {authority} either."
        )?;
    }
    let next = if on_redb {
        format!(
            "set store.backend to \"etcd\" and name the fabric's members in [store.etcd] of {}, then start",
            file.display()
        )
    } else {
        "start".to_owned()
    };
    writeln!(
        out,
        "Next: {next} kapok-controller. kapok controller ls shows how far it follows."
    )?;
    Ok(())
}

/// The token, as it was typed or from its file.
fn token(typed: Option<String>, file: Option<&Path>) -> anyhow::Result<Token> {
    let mut text = Zeroizing::new(typed.unwrap_or_default());
    if let Some(path) = file {
        let read = if path == Path::new("-") {
            io::stdin().take(MAX_TOKEN_BYTES).read_to_string(&mut text)
        } else {
            File::open(path).and_then(|file| file.take(MAX_TOKEN_BYTES).read_to_string(&mut text))
        };
        read.with_context(|| format!("reading the token in {}", path.display()))?;
    }
    text.trim().parse().map_err(|wrong: Violation| {
        anyhow::anyhow!(
            "the token isn't one ({wrong}): copy all that `kapok token create controller/NAME` has \
             printed"
        )
    })
}
