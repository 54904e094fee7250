//! `kapok-controller init`.

use std::{io::Write as _, path::PathBuf, sync::Arc};

use clap::Args;
use kapok_controller::{
    config::Config,
    trust::init::{Founding, Places, found},
};
use kapok_types::{Name, env};

/// What a fabric is made with.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The fabric's name: 1 to 63 of a-z, 0-9 and hyphen. It is part of every certificate and
    /// never changes.
    #[arg(long, value_name = "NAME", default_value = "kapok")]
    fabric: Name,
    /// This controller's name.
    #[arg(long, value_name = "NAME", default_value = "a")]
    name: Name,
    /// Where the first credentials are written; without it, below `state_dir`.
    #[arg(long, value_name = "DIR")]
    credentials: Option<PathBuf>,
    /// Where people and nodes reach controllers; without it, what the configuration advertises.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    controllers: Vec<String>,
}

/// Makes the fabric and says what to do with it.
pub(crate) async fn run(config: &Config, arguments: Arguments) -> anyhow::Result<()> {
    let Arguments {
        fabric,
        name,
        credentials,
        mut controllers,
    } = arguments;
    if controllers.is_empty() {
        controllers.push(config.advertise.clone());
    }
    let founding = Founding {
        fabric,
        controller: name,
        lives: config.trust,
        controllers,
        enroll: vec![config.https.advertise.clone()],
    };
    let places = Places {
        trust: config.trust_dir(),
        credentials: credentials.unwrap_or_else(|| config.state_dir.join("credentials")),
    };
    let _state = super::own(&config.state_dir)?;
    let store = Arc::new(super::open(config, config.store.backend).await?);
    let founded = found(Arc::clone(&store), env::System::new(), &founding, &places).await?;
    store.close().await;
    let mut out = std::io::stdout().lock();
    writeln!(out, "Fabric {} is there.", founding.fabric)?;
    writeln!(out, "Authority: {}", founded.authority)?;
    if founded.people.is_empty() {
        writeln!(
            out,
            "It was there before: this controller's certificate was made anew, and nothing else."
        )?;
        return Ok(());
    }
    writeln!(out, "First credentials, each for another person:")?;
    for (subject, path) in &founded.people {
        writeln!(out, "  {subject}: {}", path.display())?;
    }
    writeln!(
        out,
        "They end in {} days. Start kapok-controller, make users of your own with the security \
         administrator's (kapok user create), and keep {} in a backup: without its key nobody \
         can sign.",
        kapok_controller::trust::init::FIRST_LIFE.as_secs() / 86400,
        places.trust.display()
    )?;
    Ok(())
}
