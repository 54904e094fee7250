//! `cargo xtask setup`: what the machine needs, installed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use kapok_lab::run::{has_program, run as quietly, system};
use kapok_lab::{packages, places};

use crate::progress::Progress;
use crate::tool::{cargo, show};

/// The Python packages of the foreign gRPC client, and of the emulator of a Redfish service.
const PYTHON: &[&str] = &[
    "grpcio==1.85.1",
    "grpcio-tools==1.85.1",
    "grpcio-reflection==1.85.1",
    "sushy-tools==2.2.0",
];

/// The linter of .proto files.
const BUF: &str = "@bufbuild/buf@1.75.0";

/// The identity provider that logins are tested against.
const OIDC_PROVIDER: &str = "oidc-provider@9.13.3";

/// What makes Debian packages of crates.
const CARGO_DEB: (&str, &str) = ("cargo-deb", "3.8.0");

/// How much to install.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Also what only tests and packages need: emulated hardware, a Python gRPC client, buf, an
    /// identity provider, cargo-deb
    #[arg(long)]
    pub(crate) dev: bool,
}

pub(crate) fn run(options: &Options, progress: &Progress) -> Result<()> {
    let mut wanted = [packages::BUILD, packages::LAB, packages::GUEST].concat();
    if options.dev {
        wanted.extend(packages::DEV);
        wanted.extend(packages::PACKAGE);
    }
    install(&wanted, progress)?;
    if options.dev {
        python(progress);
        buf(progress);
        identity_provider(progress);
        cargo_deb(progress)?;
    }
    Ok(())
}

/// Where the tool that makes packages is. Cargo builds it once, below the build folder.
pub(crate) fn cargo_deb(progress: &Progress) -> Result<PathBuf> {
    let (name, version) = CARGO_DEB;
    let folder = places::target().join("tools");
    let program = folder.join("bin").join(name);
    let asked = quietly(system(&program.to_string_lossy()).arg("--version"));
    if asked.is_ok_and(|said| said.trim() == format!("{name} {version}")) {
        return Ok(program);
    }
    progress.say(&format!("building {name} {version}"));
    let mut install = cargo();
    install
        .args(["install", name, "--version", version, "--locked", "--force"])
        .arg("--root")
        .arg(&folder)
        // Its parts are not needed again, and a build folder of ours would keep them.
        .env_remove("CARGO_TARGET_DIR");
    show(&mut install, "the build of cargo-deb")?;
    Ok(program)
}

/// Installs what is missing of these packages, and says what.
pub(crate) fn install(wanted: &[&str], progress: &Progress) -> Result<()> {
    let missing = packages::missing(wanted)?;
    if missing.is_empty() {
        progress.say("all Debian packages are installed");
        return Ok(());
    }
    progress.say(&format!("installing {}", missing.join(" ")));
    packages::install(wanted)?;
    progress.say("installed");
    Ok(())
}

/// A Python environment of its own with a gRPC client and a Redfish service. Its absence is no
/// failure: the tests that need it say why they skip.
fn python(progress: &Progress) {
    let folder = places::target().join("venv");
    let stamp = folder.join("kapok-packages");
    let content = PYTHON.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|made| made == content) {
        progress.say("the Python environment is there");
        return;
    }
    progress.say("making a Python environment with a gRPC client and a Redfish service");
    if let Err(error) = make_python(&folder, &stamp, &content) {
        progress.say(&format!("SKIP Python environment: {error:#}"));
    }
}

fn make_python(folder: &Path, stamp: &Path, content: &str) -> Result<()> {
    // Debian's own: another Python in PATH may lack venv.
    quietly(
        system("/usr/bin/python3")
            .args(["-m", "venv", "--clear"])
            .arg(folder),
    )?;
    quietly(
        system(&folder.join("bin/pip").to_string_lossy())
            .args([
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--only-binary=:all:",
            ])
            .args(PYTHON),
    )?;
    fs::write(stamp, content).with_context(|| format!("can't write {}", stamp.display()))
}

/// buf, if npm can bring it. Only `buf lint` needs it, so its absence is no failure.
fn buf(progress: &Progress) {
    npm(progress, "buf", "node_modules/.bin/buf", BUF);
}

/// The identity provider, if npm can bring it. The tests that need it say why they skip.
fn identity_provider(progress: &Progress) {
    npm(
        progress,
        "oidc",
        "node_modules/oidc-provider",
        OIDC_PROVIDER,
    );
}

/// Installs `package` into the folder `name` below the build folder, unless `proof` is there.
fn npm(progress: &Progress, name: &str, proof: &str, package: &str) {
    let folder = places::target().join(name);
    if folder.join(proof).exists() {
        progress.say(&format!("{package} is there"));
        return;
    }
    if !has_program("npm") {
        progress.say(&format!("SKIP {package}: npm is missing"));
        return;
    }
    progress.say(&format!("installing {package}"));
    let installed = fs::create_dir_all(&folder)
        .map_err(anyhow::Error::from)
        .and_then(|()| {
            quietly(
                system("npm")
                    .args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"])
                    .arg(&folder)
                    .arg(package),
            )
        });
    if let Err(error) = installed {
        progress.say(&format!("SKIP {package}: {error:#}"));
    }
}
