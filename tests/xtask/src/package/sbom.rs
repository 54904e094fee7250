//! What a program is made of, as a `CycloneDX` document: every crate that is linked into it, with
//! its licence, its digest and what it needs itself.
//!
//! Cargo is asked, for all packages together as they are built. Absent on purpose: build scripts,
//! macros and tests, which no package holds, and the time of making: the same sources have the
//! same bill. (cargo-cyclonedx writes beside every manifest of the workspace, and takes the
//! features of the whole workspace for those of each program.)

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use kapok_lab::places;
use kapok_lab::run::run as quietly;
use serde_json::{Value, json};

use crate::tool::cargo;

/// A crate: name and version.
type Id = (String, String);

/// What cargo says of a crate.
#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    licence: String,
    repository: String,
    needs: BTreeSet<Id>,
}

/// What all programs are made of.
#[derive(Debug)]
pub(crate) struct Bill {
    crates: BTreeMap<Id, Known>,
    /// SHA-256 of what the registry gave. The workspace's own crates have none.
    digests: BTreeMap<Id, String>,
}

impl Bill {
    /// Asks cargo about these packages.
    pub(crate) fn read(names: &[&str]) -> Result<Self> {
        let mut tree = cargo();
        tree.args(["tree", "--locked", "--edges", "normal,no-proc-macro"])
            .args(["--prefix", "depth", "--format", "|{p}|{l}|{r}|"]);
        for name in names {
            tree.args(["-p", name]);
        }
        let lock = std::fs::read_to_string(places::workspace().join("Cargo.lock"))?;
        Ok(Self {
            crates: parse(&quietly(&mut tree)?)?,
            digests: digests(&lock)?,
        })
    }

    /// The bill of one program.
    pub(crate) fn of(&self, name: &str) -> Result<Value> {
        let is_it = |id: &&Id| id.0 == name;
        let root = self.crates.keys().find(is_it);
        let root = root.with_context(|| format!("cargo knows no {name}"))?;
        let mut within = BTreeSet::new();
        let mut ahead = vec![root];
        while let Some(id) = ahead.pop() {
            if within.insert(id) {
                ahead.extend(&self.crates[id].needs);
            }
        }
        let needs = |id: &Id| -> Vec<String> { self.crates[id].needs.iter().map(purl).collect() };
        let dependencies: Vec<Value> = within
            .iter()
            .map(|id| json!({"ref": purl(id), "dependsOn": needs(id)}))
            .collect();
        let others = within.iter().filter(|id| **id != root);
        Ok(json!({
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "version": 1,
            "metadata": {"component": self.component(root, "application")},
            "components": others.map(|id| self.component(id, "library")).collect::<Vec<_>>(),
            "dependencies": dependencies,
        }))
    }

    fn component(&self, id: &Id, kind: &str) -> Value {
        let known = &self.crates[id];
        let mut component = json!({
            "type": kind,
            "bom-ref": purl(id),
            "name": id.0,
            "version": id.1,
            "purl": purl(id),
            // Old manifests wrote a slash.
            "licenses": [{"expression": known.licence.replace('/', " OR ")}],
        });
        if let Some(digest) = self.digests.get(id) {
            component["hashes"] = json!([{"alg": "SHA-256", "content": digest}]);
        }
        if !known.repository.is_empty() {
            component["externalReferences"] = json!([{"type": "vcs", "url": known.repository}]);
        }
        component
    }
}

fn purl((name, version): &Id) -> String {
    // A build's word such as "+spec-1.1.0" is no part of an address as it is.
    format!("pkg:cargo/{name}@{}", version.replace('+', "%2B"))
}

/// Reads `cargo tree`'s lines: `DEPTH|NAME vVERSION (…)|LICENCE|REPOSITORY|`. What is below a crate
/// is shown only once.
fn parse(tree: &str) -> Result<BTreeMap<Id, Known>> {
    let mut crates: BTreeMap<Id, Known> = BTreeMap::new();
    let mut above: Vec<Id> = Vec::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let strange = || format!("cargo tree says {line:?}");
        let fields: Vec<&str> = line.split('|').collect();
        let [depth, package, licence, repository, _shown_before] = fields[..] else {
            anyhow::bail!(strange());
        };
        let depth: usize = depth.parse().with_context(strange)?;
        let mut words = package.split(' ');
        let name = words.next().with_context(strange)?.to_owned();
        let version = words.next().and_then(|word| word.strip_prefix('v'));
        let id = (name, version.with_context(strange)?.to_owned());
        above.truncate(depth);
        if let Some(user) = above.last() {
            crates
                .entry(user.clone())
                .or_default()
                .needs
                .insert(id.clone());
        }
        let known = crates.entry(id.clone()).or_default();
        licence.clone_into(&mut known.licence);
        repository.clone_into(&mut known.repository);
        above.push(id);
    }
    Ok(crates)
}

fn digests(lock: &str) -> Result<BTreeMap<Id, String>> {
    let lock: toml::Table = lock.parse()?;
    let packages = lock.get("package").and_then(toml::Value::as_array);
    let text = |package: &toml::Value, field: &str| Some(package.get(field)?.as_str()?.to_owned());
    Ok(packages
        .context("Cargo.lock without packages")?
        .iter()
        .filter_map(|package| {
            let id = (text(package, "name")?, text(package, "version")?);
            Some((id, text(package, "checksum")?))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "\
0|a v0.1.0 (/src/a)|Apache-2.0||
1|b v1.0.0+x|MIT/Apache-2.0|https://b.example|
2|c v2.0.0|MIT||
1|c v2.0.0|MIT||

0|other v0.1.0 (/src/other)|Apache-2.0||
1|b v1.0.0+x|MIT/Apache-2.0|https://b.example| (*)
";

    fn bill() -> Bill {
        let lock = "[[package]]\nname = \"b\"\nversion = \"1.0.0+x\"\nchecksum = \"ab\"\n\
                    [[package]]\nname = \"a\"\nversion = \"0.1.0\"\n";
        Bill {
            crates: parse(TREE).unwrap(),
            digests: digests(lock).unwrap(),
        }
    }

    #[test]
    fn a_bill_holds_what_its_program_links_and_nothing_else() {
        let bill = bill().of("a").unwrap();
        assert_eq!(bill["metadata"]["component"]["purl"], "pkg:cargo/a@0.1.0");
        let components = bill["components"].as_array().unwrap();
        let names: Vec<_> = components.iter().map(|it| it["name"].clone()).collect();
        assert_eq!(names, ["b", "c"]);
        assert_eq!(components[0]["hashes"][0]["content"], "ab");
        assert_eq!(
            components[0]["licenses"][0]["expression"],
            "MIT OR Apache-2.0"
        );
        assert_eq!(components[0]["purl"], "pkg:cargo/b@1.0.0%2Bx");
        let needs = |at: usize| bill["dependencies"][at]["dependsOn"].clone();
        assert_eq!(
            needs(0),
            json!(["pkg:cargo/b@1.0.0%2Bx", "pkg:cargo/c@2.0.0"])
        );
        assert_eq!(needs(1), json!(["pkg:cargo/c@2.0.0"]));
        assert_eq!(needs(2), json!([]));
    }

    /// Cargo shows what is below a crate once, wherever that was.
    #[test]
    fn what_was_shown_before_counts_as_well() {
        let bill = bill().of("other").unwrap();
        let components = bill["components"].as_array().unwrap();
        let names: Vec<_> = components.iter().map(|it| it["name"].clone()).collect();
        assert_eq!(names, ["b", "c"]);
        assert!(parse("0|a").is_err());
    }
}
