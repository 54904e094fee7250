//! `kapok-controller db`: checks, backs up, restores, shows and rebuilds the record.

use std::{
    fs, io,
    io::{BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use kapok_controller::{
    backup::{
        Checked, local,
        place::SEGMENTS,
        rebuild::{self, Named},
        restore::{self, Restored},
        send::Sender,
        take::{self, Content},
    },
    config::Config,
};
use kapok_store::{Archive, Store as _, segments::Directory};
use kapok_trust::{Credentials, locked};
use kapok_types::{Env, Epoch, Name, env};
use serde_json::json;
use zeroize::Zeroizing;

/// Longest file that is read for a passphrase, in bytes.
const MAX_PASSPHRASE_BYTES: u64 = 64 * 1024;

/// What to do with the record.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Checks the record, or a backup of it: the chain, every entry, the fold.
    Check(Check),
    /// Makes a backup of the record and the fabric's keys, while the controller runs or not.
    Backup(Backup),
    /// Brings a backup back. No controller may run meanwhile.
    Restore(Restore),
    /// Prints what the record comes to, or what a backup does: an object a line, as JSON.
    Dump(Dump),
    /// Makes the record anew from what agents hold, where record and backup are both lost.
    Rebuild(Rebuild),
    /// Has all nodes adopted: after a fabric was made anew and its servers have joined again.
    Adopt(Adopt),
}

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    kapok-controller db check\n  \
    kapok-controller db check /backup/kapok --passphrase-file /root/kapok.passphrase")]
pub(crate) struct Check {
    /// A backup; without it, the record that is in use.
    file: Option<PathBuf>,
    /// Opens the keys in the backup as well.
    #[arg(long, value_name = "FILE", requires = "file")]
    passphrase_file: Option<PathBuf>,
    /// How to print the answer.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Images' blobs and the configuration aren't in it. Take one after every \
    kapok ca rotate: a backup from before can't speak to nodes that trust the new authority alone.\n\n\
    Examples:\n  \
    openssl rand -base64 32 > /root/kapok.passphrase\n  \
    kapok-controller db backup /backup/kapok --passphrase-file /root/kapok.passphrase"
)]
pub(crate) struct Backup {
    /// Where to; what is there stays until the new one is whole.
    file: PathBuf,
    /// A file whose first line, or whole content, locks the keys. Keep it apart from the backup.
    #[arg(long, value_name = "FILE")]
    passphrase_file: PathBuf,
    /// How to print the answer.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Nothing follows the restored record before its nodes are adopted: start the \
    controller, then kapok node differences and kapok node adopt.\n\nExamples:\n  \
    kapok-controller db restore /backup/kapok --passphrase-file /root/kapok.passphrase\n  \
    kapok-controller db restore /backup/kapok --passphrase-file /root/kapok.passphrase --replace"
)]
pub(crate) struct Restore {
    /// The backup.
    file: PathBuf,
    /// The file that its keys were locked with.
    #[arg(long, value_name = "FILE")]
    passphrase_file: PathBuf,
    /// Puts the record and the keys that are there aside. Nothing of them is removed.
    #[arg(long)]
    replace: bool,
    /// How to print the answer.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    kapok-controller db dump | jq 'select(.key | startswith(\"instance/\")).value.name'\n  \
    kapok-controller db dump /backup/kapok > objects.jsonl")]
pub(crate) struct Dump {
    /// A backup; without it, the record that is in use.
    file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "The fabric's keys must be in state_dir/trust. Where these are lost, too: \
    kapok-controller init with the same --fabric, let every server join again, then \
    kapok-controller db adopt.\n\nA node's id is in its agent's journal (kapok-agent) and in any old \
    kapok node ls -o json.\n\nExamples:\n  \
    kapok-controller db rebuild --node rack1-a=0196f3c4-7a51-7c55-9d7b-0f1e6b8f5a01@10.0.0.11:7700 \
    --credentials /root/credentials"
)]
pub(crate) struct Rebuild {
    /// A node to ask, as NAME=ID@HOST:PORT; once for each.
    #[arg(long = "node", value_name = "NAME=ID@HOST:PORT", required = true)]
    nodes: Vec<Named>,
    /// This controller's name.
    #[arg(long, value_name = "NAME", default_value = "a")]
    name: Name,
    /// Where the first credentials are written; without it, below `state_dir`.
    #[arg(long, value_name = "DIR")]
    credentials: Option<PathBuf>,
    /// Puts a record that is there aside. Nothing of it is removed.
    #[arg(long)]
    replace: bool,
    /// How to print the answer.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  kapok-controller db adopt")]
pub(crate) struct Adopt {}

/// Does it.
pub(crate) async fn run(config: &Config, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Check(check) => self::check(config, check).await,
        Command::Backup(backup) => self::backup(config, backup).await,
        Command::Restore(restore) => self::restore(config, restore).await,
        Command::Dump(dump) => self::dump(config, dump).await,
        Command::Rebuild(rebuild) => self::rebuild(config, rebuild).await,
        Command::Adopt(Adopt {}) => adopt(config).await,
    }
}

async fn check(config: &Config, arguments: Check) -> anyhow::Result<()> {
    let Check {
        file,
        passphrase_file,
        output,
    } = arguments;
    let checked = match file {
        Some(file) => {
            let passphrase = passphrase_file.as_deref().map(passphrase).transpose()?;
            let passphrase = passphrase.as_ref().map(|it| &***it);
            take::read(&file, passphrase)
                .with_context(|| format!("checking {}", file.display()))?
                .checked
        }
        None => {
            in_use(config, read)
                .await?
                .context("checking the record")?
                .checked
        }
    };
    said(output, &checked, "sound", None)
}

async fn backup(config: &Config, arguments: Backup) -> anyhow::Result<()> {
    let Backup {
        file,
        passphrase_file,
        output,
    } = arguments;
    let passphrase = passphrase(&passphrase_file)?;
    let (trust, to) = (config.trust_dir(), file.clone());
    let taken = in_use(config, move |from| {
        take::take(BufReader::new(from), &trust, &passphrase, &to)
    });
    let checked = taken.await?.context("making the backup")?;
    said(output, &checked, "made", Some(&file))
}

async fn restore(config: &Config, arguments: Restore) -> anyhow::Result<()> {
    let Restore {
        file,
        passphrase_file,
        replace,
        output,
    } = arguments;
    let passphrase = passphrase(&passphrase_file)?;
    let state = &config.state_dir;
    let _state = super::own(state)?;
    let env: Arc<dyn Env> = env::System::new();
    let restoring = restore::restore(&file, &passphrase, state, replace, &env);
    let Restored { checked, replaced } = restoring.await.context("restoring")?;
    said(output, &checked, "restored", Some(state))?;
    if output == Output::Text {
        let mut out = io::stdout().lock();
        if let Some(replaced) = replaced {
            writeln!(out, "What was there before is in {}.", replaced.display())?;
        }
        moved_back(config, &mut out)?;
        writeln!(
            out,
            "Start the controller. Nothing is created, changed or deleted on a node before it is \
             adopted:\n  kapok node differences\n  kapok node adopt NODE"
        )?;
    }
    Ok(())
}

/// The record is in a file now, wherever it was before.
fn moved_back(config: &Config, out: &mut impl io::Write) -> anyhow::Result<()> {
    use kapok_controller::config::store::Backend;
    if config.store.backend != Backend::Redb {
        writeln!(
            out,
            "The record is in a file in {}. Before the start, bring it to where store.backend says, \
             which must be blank:\n  kapok-controller store migrate --from redb --to {}",
            config.state_dir.display(),
            config.store.backend
        )?;
    }
    Ok(())
}

async fn dump(config: &Config, arguments: Dump) -> anyhow::Result<()> {
    let content = match arguments.file {
        Some(file) => {
            take::read(&file, None).with_context(|| format!("reading {}", file.display()))?
        }
        None => in_use(config, read).await?.context("reading the record")?,
    };
    let mut out = io::stdout().lock();
    for (key, value) in &content.checked.objects {
        let value: serde_json::Value = serde_json::from_slice(value)?;
        writeln!(out, "{}", json!({ "key": key, "value": value }))?;
    }
    Ok(())
}

async fn rebuild(config: &Config, arguments: Rebuild) -> anyhow::Result<()> {
    let Rebuild {
        nodes,
        name,
        credentials,
        replace,
        output,
    } = arguments;
    let state = &config.state_dir;
    let _state = super::own(state)?;
    let wish = rebuild::Wish {
        state,
        controller: name,
        credentials: credentials.unwrap_or_else(|| state.join("credentials-rebuilt")),
        lives: config.trust,
        controllers: vec![config.advertise.clone()],
        enroll: vec![config.https.advertise.clone()],
        vcpu_overcommit_permille: config.default_vcpu_overcommit_permille,
        replace,
        nodes: &nodes,
    };
    let env: Arc<dyn Env> = env::System::new();
    let rebuilt = rebuild::rebuild(&wish, &env).await.context("rebuilding")?;
    let mut out = io::stdout().lock();
    if output == Output::Json {
        writeln!(out, "{}", serde_json::to_string_pretty(&rebuilt)?)?;
        return Ok(());
    }
    writeln!(
        out,
        "Rebuilt: {} nodes, {} instances.",
        rebuilt.nodes.len(),
        rebuilt.instances.len()
    )?;
    for (node, why) in &rebuilt.unasked {
        writeln!(out, "  {node} could not be asked: {why}")?;
    }
    writeln!(out, "Nobody knows any more, because agents don't hold it:")?;
    for lost in &rebuilt.unknown {
        writeln!(out, "  {lost}")?;
    }
    writeln!(out, "First credentials, each for another person:")?;
    for (subject, path) in &rebuilt.credentials {
        writeln!(out, "  {subject}: {}", path.display())?;
    }
    if let Some(replaced) = &rebuilt.replaced {
        writeln!(out, "What was there before is in {}.", replaced.display())?;
    }
    moved_back(config, &mut out)?;
    writeln!(
        out,
        "Start the controller. Nothing is created, changed or deleted on a node before it is \
         adopted:\n  kapok node differences\n  kapok node adopt NODE"
    )?;
    Ok(())
}

async fn adopt(config: &Config) -> anyhow::Result<()> {
    let _state = super::own(&config.state_dir)?;
    let store = Arc::new(super::open(config, config.store.backend).await?);
    ensure!(
        store.head().await?.seq.get() > 0,
        "there is no record; make a fabric with kapok-controller init"
    );
    let env: Arc<dyn Env> = env::System::new();
    rebuild::adopt(Arc::clone(&store), &env).await?;
    store.close().await;
    writeln!(
        io::stdout().lock(),
        "All nodes are to be adopted. Start the controller, then:\n  kapok node differences\n  \
         kapok node adopt NODE"
    )?;
    Ok(())
}

fn read(from: UnixStream) -> Result<Content, take::Error> {
    take::read_from(BufReader::new(from), None, |_| Ok(()))
}

/// Lets `reader` have the record that is in use: from the controller that runs, or else from the store.
async fn in_use<T: Send + 'static>(
    config: &Config,
    reader: impl FnOnce(UnixStream) -> T + Send + 'static,
) -> anyhow::Result<T> {
    let state = &config.state_dir;
    match local::connect(state) {
        Ok(stream) => return Ok(tokio::task::spawn_blocking(move || reader(stream)).await?),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            bail!(
                "only the controller's user and root may read the record in {}",
                state.display()
            );
        }
        // Nobody serves there.
        Err(_) => {}
    }
    let _state = super::own(state)?;
    let store = Arc::new(super::open(config, config.store.backend).await?);
    let segments = Directory::open(state.join(SEGMENTS)).context("opening the segments")?;
    let env = env::System::new();
    let own = Credentials::load(&config.trust_dir().join("controller"), env.clone());
    let own = own.context("reading the controller's certificate")?;
    let archive = Archive::new(Arc::clone(&store), Arc::new(segments));
    let sender = Sender {
        fabric: own.certificate().identity.fabric.clone(),
        now: env.now(),
        // The entries say it.
        epoch: Epoch::ZERO,
    };
    let read = local::through(&archive, &sender, reader).await;
    store.close().await;
    Ok(read?)
}

/// What locks the keys: the file's content without the end of its last line.
fn passphrase(file: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let reading = || format!("reading the passphrase in {}", file.display());
    let length = fs::metadata(file).with_context(reading)?.len();
    ensure!(
        length <= MAX_PASSPHRASE_BYTES,
        "{} is longer than {MAX_PASSPHRASE_BYTES} bytes",
        file.display()
    );
    let mut content = Zeroizing::new(fs::read(file).with_context(reading)?);
    while matches!(content.last(), Some(b'\n' | b'\r')) {
        content.pop();
    }
    ensure!(
        content.len() >= locked::MIN_PASSPHRASE_BYTES,
        "the passphrase in {} is shorter than {} bytes; openssl rand -base64 32 makes a good one",
        file.display(),
        locked::MIN_PASSPHRASE_BYTES
    );
    Ok(content)
}

/// What was done, in one line or as JSON.
fn said(output: Output, checked: &Checked, what: &str, place: Option<&Path>) -> anyhow::Result<()> {
    let Checked {
        about,
        fabric,
        objects,
        epoch,
        entries,
        segments,
        has_keys,
    } = checked;
    let mut out = io::stdout().lock();
    if output == Output::Json {
        let said = json!({
            "outcome": what,
            "fabric": about.fabric,
            "taken_at": about.taken_at.to_string(),
            "head": about.head,
            "hash": about.head_hash.to_string(),
            "epoch": epoch,
            "entries": entries,
            "segments": segments,
            "objects": objects.len(),
            "nodes": fabric.nodes.len(),
            "instances": fabric.instances.len(),
            "adopting": fabric.adoption.is_some(),
            "keys": has_keys,
        });
        writeln!(out, "{said:#}")?;
        return Ok(());
    }
    let place = place.map(|place| format!(" ({})", place.display()));
    writeln!(
        out,
        "{what}{}: fabric {} as of {}, up to entry {} ({})",
        place.unwrap_or_default(),
        about.fabric,
        about.taken_at,
        about.head,
        about.head_hash
    )?;
    writeln!(
        out,
        "{entries} entries, {segments} segments, {} objects, {} nodes, {} instances",
        objects.len(),
        fabric.nodes.len(),
        fabric.instances.len()
    )?;
    Ok(())
}
