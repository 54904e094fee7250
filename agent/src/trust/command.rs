//! `kapok-agent join`: what a person types once on a server.
//!
//! It may run beside the agent, which then takes the new certificate by itself. As root it reads
//! what only root may (serial numbers), writes the configuration if there is none, and then becomes
//! the state directory's owner, so that the agent can read what it leaves there.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, fchown},
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use kapok_trust::{Certificate, Token, files};
use kapok_types::{Env, Name, NodeId, Violation};
use nix::unistd::{Gid, Uid, User, geteuid, setgid, setgroups, setuid};

use super::{
    FOLDER,
    join::{self, Joined, join},
};
use crate::{
    config::{self, Config},
    fingerprint,
    local::{self, Local},
};

/// Whose the state directory is when root makes it, or finds it empty.
const USER: &str = "kapok";
/// A longer file is no token.
const MAX_TOKEN_BYTES: u64 = 4096;

/// Makes this server a node of a fabric, or brings a known node back.
///
/// The key is made here and never leaves. An agent that runs already takes the new certificate by
/// itself; its guests aren't touched, and the node keeps its id and its instances.
#[derive(Clone, Args)]
pub struct Arguments {
    /// Where the controller serves HTTPS.
    #[arg(long, value_name = "HOST:PORT")]
    pub controller: String,
    /// The token that `kapok node token create` has printed (others on this server can see it:
    /// rather use --token-file).
    #[arg(long, value_name = "TOKEN", required_unless_present = "token_file")]
    pub token: Option<String>,
    /// A file that holds it; - is the standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// Where controllers are to reach this agent, if not where this request comes from.
    #[arg(long, value_name = "HOST:PORT")]
    pub address: Option<String>,
}

impl fmt::Debug for Arguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arguments")
            .field("controller", &self.controller)
            .field("token_file", &self.token_file)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Why a server could not join.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The token can't be one.
    #[error("the token isn't one ({0}): copy all that `kapok node token create` has printed")]
    Token(Violation),
    /// `--address` can't be dialled.
    #[error("--address {0:?} isn't HOST:PORT")]
    Address(String),
    /// The configuration can't be used.
    #[error("the configuration can't be used")]
    Config(#[from] config::Error),
    /// A file or folder can't be used.
    #[error("{} can't be used ({reason}): run this as root, or as its owner", place.display())]
    Place {
        /// Which one.
        place: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// Root would leave what the agent can't read.
    #[error(
        "{} is root's and isn't empty, and the agent runs as {USER}: `chown -R {USER}:{USER}` it if \
         it is the agent's, or name another state_dir in the configuration",
        place.display()
    )]
    Roots {
        /// The state directory.
        place: PathBuf,
    },
    /// The node's id can't be read.
    #[error("the node's id can't be read")]
    Local(#[from] local::Error),
    /// The server is another fabric's.
    #[error(
        "this server is a node of the fabric {here}, and the token is of {there}: to move it, stop \
         its agent and move {} away first",
        folder.display()
    )]
    OtherFabric {
        /// Its fabric.
        here: Name,
        /// The token's fabric.
        there: Name,
        /// Where its trust lies.
        folder: PathBuf,
    },
    /// The fabric doesn't take it.
    #[error(transparent)]
    Join(#[from] join::Error),
    /// What was given can't be kept.
    #[error("what the controller gave can't be kept; the token is used up, so make another")]
    Files(#[from] files::Error),
}

impl Error {
    /// Whether what was typed is at fault.
    pub fn is_misuse(&self) -> bool {
        matches!(self, Self::Token(_) | Self::Address(_) | Self::Config(_))
    }
}

/// A server that is ready to join.
#[derive(Debug)]
pub struct Prepared {
    options: join::Options,
    folder: PathBuf,
    /// What else there is to say.
    remark: Option<String>,
}

/// Reads and checks what joining needs. Changes the process's user, so call it before there are
/// threads. Blocks.
///
/// # Errors
///
/// What is wrong, before anything was asked of the controller.
pub fn prepare(arguments: Arguments, config: &Path, env: &Arc<dyn Env>) -> Result<Prepared, Error> {
    let place = |place: &Path| {
        let place = place.to_owned();
        move |reason| Error::Place { place, reason }
    };
    let text = match (&arguments.token, &arguments.token_file) {
        (Some(text), _) => text.clone(),
        (None, Some(file)) => read_token(file).map_err(place(file))?,
        (None, None) => String::new(),
    };
    let token: Token = text.trim().parse().map_err(Error::Token)?;
    if let Some(address) = &arguments.address
        && port_of(address).is_none()
    {
        return Err(Error::Address(address.clone()));
    }
    if !config.exists() {
        let text = first_config(arguments.address.as_deref().and_then(port_of));
        write_config(config, &text).map_err(place(config))?;
    }
    let file = config;
    let config = Config::load(file)?;
    let remark = arguments.address.as_deref();
    let remark = remark.and_then(|address| other_port(address, &config, file));
    let fingerprint = fingerprint::read(Path::new("/"));
    let state = &config.state_dir;
    own(state)?;
    let folder = state.join(FOLDER);
    if let Some(here) = fabric_of(&folder)
        && here != *token.fabric()
    {
        return Err(Error::OtherFabric {
            here,
            there: token.fabric().clone(),
            folder,
        });
    }
    Ok(Prepared {
        options: join::Options {
            controller: arguments.controller,
            node: node_of(state, env)?,
            address: arguments.address.unwrap_or_else(|| address_of(&config)),
            token,
            fingerprint,
        },
        folder,
        remark,
    })
}

impl Prepared {
    /// Joins, and keeps what that gives. Gives what there is to say to a person.
    ///
    /// # Errors
    ///
    /// Why not, and what to do next.
    pub async fn join(self, env: &Arc<dyn Env>) -> Result<String, Error> {
        let Joined {
            material,
            name,
            fabric,
            until,
        } = join(self.options, env).await?;
        files::store(&self.folder, &material)?;
        let remark = self.remark.unwrap_or_default();
        Ok(format!(
            "{remark}This server is the node {name} of the fabric {fabric}. Its certificate holds until \
             {until}, and is renewed long before.\n\
             Next: `systemctl enable --now kapok-agent`. An agent that runs already serves within \
             a second.\n"
        ))
    }
}

/// The shipped configuration, which states the defaults, with another port if one is wished.
fn first_config(port: Option<u16>) -> String {
    match port {
        Some(port) if port != Config::default().listen.port() => {
            let default = format!("#listen = \"{}\"", Config::default().listen);
            let wished = format!("listen = \"0.0.0.0:{port}\"");
            config::SHIPPED.replacen(&default, &wished, 1)
        }
        _ => config::SHIPPED.to_owned(),
    }
}

fn write_config(file: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let fresh = file.with_extension("new");
    fs::write(&fresh, text)?;
    fs::rename(&fresh, file)
}

/// The text of a token's file; "-" is the standard input.
fn read_token(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    if file == Path::new("-") {
        io::stdin()
            .take(MAX_TOKEN_BYTES)
            .read_to_string(&mut text)?;
    } else {
        let file = File::open(file)?;
        file.take(MAX_TOKEN_BYTES).read_to_string(&mut text)?;
    }
    Ok(text)
}

/// What to say when controllers are to dial another port than the agent listens on: right behind
/// a translator of addresses, and a mistake elsewhere.
fn other_port(address: &str, config: &Config, file: &Path) -> Option<String> {
    let (dialled, listens) = (port_of(address)?, config.listen.port());
    (dialled != listens).then(|| {
        format!(
            "Controllers will dial {address}, but the agent listens on port {listens} by {}: \
             unless something between translates, correct `listen` there, or join again with \
             another --address.\n",
            file.display()
        )
    })
}

/// Makes the state directory if there is none, and becomes its owner. What root finds there must
/// be the agent's, or empty.
fn own(state: &Path) -> Result<(), Error> {
    let failed = |reason| Error::Place {
        place: state.to_owned(),
        reason,
    };
    fs::create_dir_all(state).map_err(failed)?;
    if !geteuid().is_root() {
        return Ok(());
    }
    // Opened once: what is looked at is what is given away.
    let folder = File::open(state).map_err(failed)?;
    let mut owner = folder.metadata().map_err(failed)?;
    if owner.uid() == 0
        && let Ok(Some(user)) = User::from_name(USER)
    {
        if fs::read_dir(state).map_err(failed)?.next().is_some() {
            return Err(Error::Roots {
                place: state.to_owned(),
            });
        }
        fchown(&folder, Some(user.uid.as_raw()), Some(user.gid.as_raw())).map_err(failed)?;
        owner = folder.metadata().map_err(failed)?;
    }
    if owner.uid() != 0 {
        become_owner(&owner).map_err(failed)?;
    }
    Ok(())
}

fn become_owner(owner: &fs::Metadata) -> io::Result<()> {
    let group = Gid::from_raw(owner.gid());
    setgroups(&[group])?;
    setgid(group)?;
    setuid(Uid::from_raw(owner.uid()))?;
    Ok(())
}

/// The node's id: also while an agent has the store open.
fn node_of(state: &Path, env: &Arc<dyn Env>) -> Result<NodeId, local::Error> {
    Local::identify(state, Arc::clone(env))
}

/// The fabric that the trust in this folder is of, as far as it can be read.
fn fabric_of(folder: &Path) -> Option<Name> {
    let material = files::load(folder).ok()?;
    let certificate = Certificate::parse_pem(&material.chain_pem).ok()?;
    Some(certificate.identity.fabric)
}

/// Where the agent listens, as far as its configuration tells.
fn address_of(config: &Config) -> String {
    if config.listen.ip().is_unspecified() {
        format!(":{}", config.listen.port())
    } else {
        config.listen.to_string()
    }
}

/// The port of "HOST:PORT".
fn port_of(address: &str) -> Option<u16> {
    let (host, port) = address.rsplit_once(':')?;
    let plain = !host.is_empty() && !host.contains(['/', '@', ' ']);
    port.parse().ok().filter(|port| plain && *port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_configuration_states_the_defaults_but_the_port() {
        let parse = |text: String| Config::parse(&text, Path::new("agent.toml")).unwrap();
        for port in [None, Some(7701)] {
            assert_eq!(parse(first_config(port)), Config::default());
        }
        let mut expected = Config::default();
        expected.listen.set_port(9000);
        let config = parse(first_config(Some(9000)));
        assert_eq!(config, expected);
        assert_eq!(address_of(&config), ":9000");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("etc/kapok/agent.toml");
        write_config(&file, &first_config(Some(9000))).unwrap();
        assert_eq!(Config::load(&file).unwrap(), expected);
    }

    #[test]
    fn a_token_is_read_bounded_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        fs::write(&file, "x".repeat(10_000)).unwrap();
        assert_eq!(read_token(&file).unwrap().len(), 4096);
        let arguments = Arguments {
            controller: "a:7780".into(),
            token: Some("kapok1.city.secret".into()),
            token_file: None,
            address: None,
        };
        assert!(!format!("{arguments:?}").contains("secret"));
    }

    #[test]
    fn another_port_than_the_agents_is_said() {
        let (config, file) = (Config::default(), Path::new("agent.toml"));
        assert_eq!(other_port("node-1:7701", &config, file), None);
        let said = other_port("node-1:9000", &config, file).unwrap();
        assert!(said.contains("9000") && said.contains("7701") && said.contains("agent.toml"));
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        assert_eq!(port_of("node-1.example:7701"), Some(7701));
        assert_eq!(port_of("[fd00::1]:7701"), Some(7701));
        for wrong in [
            "",
            "node-1",
            ":7701",
            "node-1:0",
            "node-1:x",
            "http://a:1",
            "a b:1",
        ] {
            assert_eq!(port_of(wrong), None, "{wrong}");
        }
    }
}
