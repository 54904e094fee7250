//! Whether packages hold what they should, and whether that is sound: lintian's word, the files
//! that people look for, and every shipped configuration read by what it is for.
//!
//! **Invariant:** a file that configures something has a reader here, or packing fails: nothing is
//! shipped that nobody has tried to read.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use kapok_lab::run::{capture, run as quietly, system};
use serde_json::Value;

/// What each package holds besides its program; `{}` stands for the package's name.
const EVERYWHERE: &[&str] = &[
    "usr/bin/{}",
    "usr/share/bash-completion/completions/{}",
    "usr/share/doc/{}/changelog.Debian.gz",
    "usr/share/doc/{}/copyright",
    "usr/share/doc/{}/sbom.cdx.json",
    "usr/share/fish/vendor_completions.d/{}.fish",
    "usr/share/zsh/vendor-completions/_{}",
];

/// What a package holds beyond that.
const ALSO: &[(&str, &[&str])] = &[
    (
        "kapok",
        &[
            "usr/share/man/man1/kapok.1.gz",
            "usr/share/man/man1/kapok-instance-create.1.gz",
        ],
    ),
    (
        "kapok-agent",
        &[
            "etc/kapok/agent.toml",
            "usr/lib/systemd/system/kapok-agent.service",
            "usr/lib/sysusers.d/kapok-agent.conf",
            "usr/lib/tmpfiles.d/kapok-agent.conf",
            "usr/share/man/man8/kapok-agent.8.gz",
            "usr/share/man/man8/kapok-agent-join.8.gz",
        ],
    ),
    (
        "kapok-controller",
        &[
            "etc/kapok/controller.toml",
            "usr/lib/systemd/system/kapok-controller.service",
            "usr/lib/sysusers.d/kapok-controller.conf",
            "usr/lib/tmpfiles.d/kapok-controller.conf",
            "usr/share/kapok-controller/grafana/kapok.json",
            "usr/share/kapok-controller/prometheus/kapok.rules.yml",
            "usr/share/kapok-controller/prometheus/prometheus.yml",
            "usr/share/man/man8/kapok-controller.8.gz",
            "usr/share/man/man8/kapok-controller-init.8.gz",
        ],
    ),
    (
        "kapok-helper",
        &[
            "usr/lib/systemd/system/kapok-helper.service",
            "usr/lib/systemd/system/kapok-helper.socket",
            "usr/lib/sysusers.d/kapok-helper.conf",
            "usr/lib/tmpfiles.d/kapok-helper.conf",
            "usr/share/man/man8/kapok-helper.8.gz",
        ],
    ),
];

/// What files that configure something are called at their end.
const CONFIGURES: [&str; 7] = ["conf", "json", "rules", "service", "socket", "toml", "yml"];

/// Looks through packages that were made together, and says what was found.
pub(super) fn all(packages: &[PathBuf]) -> Result<Vec<String>> {
    let mut said = vec![lintian(packages)?];
    for package in packages {
        let unpacked = tempfile::tempdir()?;
        quietly(
            system("dpkg-deb")
                .arg("-x")
                .arg(package)
                .arg(unpacked.path()),
        )?;
        let name = quietly(system("dpkg-deb").arg("-f").arg(package).arg("Package"))?;
        let name = name.trim();
        let files = files(unpacked.path())?;
        let missing = missing(name, &files);
        ensure!(missing.is_empty(), "{name} lacks {}", missing.join(", "));
        // For what users are made in.
        fs::create_dir_all(unpacked.path().join("etc"))?;
        let mut read = 0;
        for file in &files {
            read += usize::from(read_config(unpacked.path(), name, file)?);
        }
        said.push(format!(
            "{name}: {} files, {read} configurations are sound",
            files.len()
        ));
    }
    Ok(said)
}

/// Errors are none; how much it says below that is told.
fn lintian(packages: &[PathBuf]) -> Result<String> {
    let output = capture(
        system("lintian")
            .args(["--no-cfg", "--fail-on", "error", "--tag-display-limit", "0"])
            .args(packages),
    )?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("lintian: {}\n{text}{errors}", output.status);
    }
    let warnings = text.lines().filter(|line| line.starts_with("W: ")).count();
    Ok(format!("lintian: no errors, {warnings} warnings"))
}

/// All files below a folder, relative to it, in order.
fn files(root: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut ahead = vec![root.to_owned()];
    while let Some(folder) = ahead.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                ahead.push(entry.path());
            } else {
                let path = entry.path();
                let relative = path.strip_prefix(root)?.to_str();
                found.insert(relative.context("a strange name")?.to_owned());
            }
        }
    }
    Ok(found)
}

/// What a package should hold and doesn't.
fn missing(name: &str, files: &BTreeSet<String>) -> Vec<String> {
    let also = ALSO.iter().filter(|(package, _)| *package == name);
    let also = also.flat_map(|(_, files)| files.iter());
    EVERYWHERE
        .iter()
        .chain(also)
        .map(|file| file.replace("{}", name))
        .filter(|file| !files.contains(file))
        .collect()
}

/// Lets a configuration be read by what it is for. False for a file that is none.
fn read_config(root: &Path, package: &str, file: &str) -> Result<bool> {
    let path = root.join(file);
    let (folder, name) = file.rsplit_once('/').unwrap_or(("", file));
    let kind = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    let is_config = folder.starts_with("etc") || CONFIGURES.contains(&kind);
    if !is_config {
        return Ok(false);
    }
    let with = |mut program: std::process::Command| {
        quietly(&mut program).with_context(|| format!("{package}: {file}"))
    };
    match (folder, name) {
        ("etc/kapok", "agent.toml" | "controller.toml") => {
            let mut program = system(&root.join("usr/bin").join(package).to_string_lossy());
            program.arg("--check-config").arg("--config").arg(&path);
            with(program)?;
        }
        ("usr/share/kapok-controller/prometheus", _) => {
            let what = if name.ends_with(".rules.yml") {
                "rules"
            } else {
                "config"
            };
            let mut program = system("promtool");
            // The credential is the site's; it isn't there yet.
            program.args(["check", what]);
            program.args((what == "config").then_some("--syntax-only"));
            program.arg(&path);
            with(program)?;
        }
        ("usr/lib/sysusers.d" | "usr/lib/tmpfiles.d", _) => {
            // Below the package's own root. Users go first, whom folders are given to.
            let (tool, does) = match folder {
                "usr/lib/sysusers.d" => ("systemd-sysusers", None),
                _ => ("systemd-tmpfiles", Some("--clean")),
            };
            let mut program = system(tool);
            let below = format!("--root={}", root.display());
            program.args(does).arg(below).arg(&path);
            with(program)?;
        }
        ("usr/lib/systemd/system", _) => {
            // A copy that finds its program where the package was unpacked.
            let own = format!("={}/usr/bin/{package}", root.display());
            let text = fs::read_to_string(&path)?.replace(&format!("=/usr/bin/{package}"), &own);
            let copy = root.join(name);
            fs::write(&copy, text)?;
            let mut program = system("systemd-analyze");
            program.args(["verify", "--man=no", "--recursive-errors=no"]);
            program.arg(&copy);
            with(program)?;
        }
        _ if kind == "json" => {
            let value: Value = serde_json::from_slice(&fs::read(&path)?)
                .with_context(|| format!("{package}: {file}"))?;
            let sound = match name {
                "kapok.json" => value["panels"].as_array().is_some_and(|it| !it.is_empty()),
                "sbom.cdx.json" => is_closed(&value),
                _ => bail!("{package}: nobody reads {file}"),
            };
            ensure!(sound, "{package}: {file} lacks what it is for");
        }
        _ => bail!("{package}: nobody reads {file}"),
    }
    Ok(true)
}

/// Whether a bill of materials names components, and nothing that isn't among them.
fn is_closed(bill: &Value) -> bool {
    let listed = bill["components"].as_array().map(Vec::as_slice);
    let listed = listed.unwrap_or_default();
    let known: BTreeSet<&str> = std::iter::once(&bill["metadata"]["component"])
        .chain(listed)
        .filter_map(|component| component["bom-ref"].as_str())
        .collect();
    let named = bill["dependencies"].as_array().into_iter().flatten();
    let mut named = named.flat_map(|dependency| {
        let needs = dependency["dependsOn"].as_array().into_iter().flatten();
        std::iter::once(&dependency["ref"]).chain(needs)
    });
    !listed.is_empty() && named.all(|name| name.as_str().is_some_and(|name| known.contains(name)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_package_without_its_manual_is_found() {
        let also = ALSO.iter().find(|(name, _)| *name == "kapok").unwrap().1;
        let all: Vec<String> = EVERYWHERE
            .iter()
            .map(|file| file.replace("{}", "kapok"))
            .collect();
        let all = all
            .into_iter()
            .chain(also.iter().map(|&file| file.to_owned()));
        let mut files: BTreeSet<String> = all.collect();
        assert_eq!(missing("kapok", &files), [""; 0]);
        files.remove("usr/share/man/man1/kapok.1.gz");
        assert_eq!(missing("kapok", &files), ["usr/share/man/man1/kapok.1.gz"]);
    }

    #[test]
    fn a_configuration_without_a_reader_is_refused() {
        let root = tempfile::tempdir().unwrap();
        for file in ["etc/kapok/new.toml", "usr/share/kapok/extra.json"] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "{}").unwrap();
            let refused = read_config(root.path(), "kapok", file).unwrap_err();
            assert!(refused.to_string().contains("nobody reads"), "{refused}");
        }
        assert!(!read_config(root.path(), "kapok", "usr/bin/kapok").unwrap());
    }

    #[test]
    fn a_bill_that_names_strangers_is_refused() {
        let bill = |needs: &str| {
            json!({
                "metadata": {"component": {"bom-ref": "a"}},
                "components": [{"bom-ref": "b"}],
                "dependencies": [{"ref": "a", "dependsOn": [needs]}],
            })
        };
        assert!(is_closed(&bill("b")));
        assert!(!is_closed(&bill("c")));
        assert!(!is_closed(&json!({})));
    }
}
