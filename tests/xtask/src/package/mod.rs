//! `cargo xtask package`: the Debian packages, made and looked through.
//!
//! Cargo builds the programs, in one go; each then writes its own man pages and completions; each
//! package gets a bill of materials of what is linked; cargo-deb packs what the crates' manifests
//! say (`[package.metadata.deb]`). Nothing is handed out that [`check`] has found fault with.
//!
//! | where, below the build folder | what |
//! | --- | --- |
//! | `PROFILE/package/NAME/` | what is made for a package beside its program |
//! | `debian/VERSION/` | the packages |

mod check;
mod sbom;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use kapok_lab::run::{run as quietly, system};
use kapok_lab::{packages, places};

use self::sbom::Bill;
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::setup;
use crate::tool::{cargo, show};

/// The packages. Crate, program and package have the same name.
pub(crate) const NAMES: [&str; 4] = ["kapok", "kapok-agent", "kapok-controller", "kapok-helper"];

/// Whom packages are for, as their Debian changelog says.
const DISTRIBUTION: &str = "stable";

/// What to make.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The build: "release", or "dev" to try the packages (it takes a tenth of the time)
    #[arg(long, default_value = "release")]
    profile: String,
    /// The version of the packages, as Debian writes it
    #[arg(long, default_value_t = version())]
    deb_version: String,
}

/// This checkout's version, in its first packaging.
pub(crate) fn version() -> String {
    concat!(env!("CARGO_PKG_VERSION"), "-1").to_owned()
}

pub(crate) fn run(options: &Options, progress: &Progress, interrupt: &Interrupt) -> Result<()> {
    let made = Programs::build(&options.profile, progress)?;
    interrupt.check()?;
    let packages = made.pack(&options.deb_version, progress)?;
    interrupt.check()?;
    for line in check::all(&packages)? {
        progress.say(&line);
    }
    for package in packages {
        let bytes = fs::metadata(&package)?.len();
        println!("{} ({} KiB)", package.display(), bytes.div_ceil(1024));
    }
    Ok(())
}

/// The programs, built, with what they say of themselves.
pub(crate) struct Programs {
    profile: String,
    folder: PathBuf,
    cargo_deb: PathBuf,
    /// When the last commit was made: as Debian writes it, and in seconds.
    date: [String; 2],
}

impl Programs {
    /// Builds them, and makes all that doesn't depend on the packages' version.
    pub(crate) fn build(profile: &str, progress: &Progress) -> Result<Self> {
        setup::install(&[packages::BUILD, packages::PACKAGE].concat(), progress)?;
        let cargo_deb = setup::cargo_deb(progress)?;
        progress.say(&format!("building the programs ({profile})"));
        let mut build = cargo();
        build.args(["build", "--profile", profile]);
        for name in NAMES {
            build.args(["-p", name, "--bin", name]);
        }
        show(&mut build, "the build")?;
        let folder = places::target().join(if profile == "dev" { "debug" } else { profile });
        let bill = Bill::read(&NAMES)?;
        for name in NAMES {
            let own = folder.join("package").join(name);
            if own.exists() {
                fs::remove_dir_all(&own)?;
            }
            fs::create_dir_all(&own)?;
            quietly(&mut manual(&folder, name, &own))
                .with_context(|| format!("the manual of {name}"))?;
            for page in fs::read_dir(own.join("man"))? {
                compress(&page?.path())?;
            }
            let bill = serde_json::to_string_pretty(&bill.of(name)?)?;
            fs::write(own.join("sbom.cdx.json"), bill + "\n")?;
        }
        let date = |format: &str| {
            let mut git = system("git");
            git.args(["log", "-1", &format!("--format={format}")]);
            let said = quietly(git.current_dir(places::workspace()));
            said.map(|date| date.trim().to_owned())
        };
        Ok(Self {
            profile: profile.to_owned(),
            folder,
            cargo_deb,
            date: [date("%cD")?, date("%ct")?],
        })
    }

    /// Packs them as this version.
    pub(crate) fn pack(&self, version: &str, progress: &Progress) -> Result<Vec<PathBuf>> {
        // A folder for each: cargo-deb clears away what it finds of other versions.
        let output = places::target().join("debian").join(version);
        fs::create_dir_all(&output)?;
        let mut packages = Vec::new();
        for name in NAMES {
            progress.say(&format!("packing {name} {version}"));
            self.write_changelog(name, version)?;
            let mut pack = system(&self.cargo_deb.to_string_lossy());
            pack.args(["--no-build", "--locked", "--strip", "--quiet", "-p", name])
                .args(["--profile", &self.profile, "--deb-version", version])
                .arg("--output")
                .arg(&output)
                .env("SOURCE_DATE_EPOCH", &self.date[1])
                .current_dir(places::workspace());
            if self.profile == "dev" {
                pack.arg("--fast");
            }
            let said = quietly(&mut pack)?;
            let path = said.lines().last().context("cargo-deb names no package")?;
            packages.push(PathBuf::from(path));
        }
        Ok(packages)
    }

    fn write_changelog(&self, name: &str, version: &str) -> Result<()> {
        let text = format!(
            "{name} ({version}) {DISTRIBUTION}; urgency=medium\n\n  * What changed is in \
             changelog.gz.\n\n -- {}  {}\n",
            maintainer()?,
            self.date[0]
        );
        let plain = self.folder.join("package").join(name);
        let plain = plain.join("changelog.Debian");
        fs::write(&plain, text)?;
        compress(&plain)
    }
}

/// Makes a file its own compressed form. Without name and time: the same text is the same file.
fn compress(file: &Path) -> Result<()> {
    let mut gzip = system("gzip");
    gzip.args(["-9", "--no-name", "--force"]).arg(file);
    quietly(&mut gzip).map(drop)
}

/// The program that writes its own manual into this folder.
fn manual(folder: &Path, name: &str, own: &Path) -> std::process::Command {
    let mut program = system(&folder.join(name).to_string_lossy());
    if name == "kapok-controller" {
        // It reads its configuration before anything else.
        let shipped = places::workspace().join("systemd/controller.toml");
        program.arg("--config").arg(shipped);
    }
    program.arg("manual").arg(own);
    program
}

/// Who maintains the packages, as the manifests say.
fn maintainer() -> Result<String> {
    let manifest = fs::read_to_string(places::workspace().join("agent/Cargo.toml"))?;
    let manifest: toml::Table = manifest.parse()?;
    let package = manifest.get("package").context("no package")?;
    ["metadata", "deb", "maintainer"]
        .iter()
        .try_fold(package, |table, key| table.get(key))
        .and_then(toml::Value::as_str)
        .map(str::to_owned)
        .context("agent/Cargo.toml names no maintainer")
}
