//! Reading policies: all of them or none.

use std::{collections::BTreeMap, sync::Arc};

use cedar_policy::{Effect, PolicyId, PolicySet, Schema, ValidationMode, Validator};

use crate::policy::{Policy, Source};

/// The schema's text: what policies can speak of.
pub const SCHEMA: &str = include_str!("../schema/kapok.cedarschema");

/// The built-in policies' texts.
const BUILT_IN: [&str; 2] = [
    include_str!("../policies/roles.cedar"),
    include_str!("../policies/separation.cedar"),
];

/// Largest file of policies that is read, in bytes.
pub const MAX_FILE_BYTES: usize = 256 * 1024;
/// Most policies of a site: each costs every decision.
pub const MAX_POLICIES: usize = 1000;

/// Why a set of policies is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A file isn't Cedar.
    #[error("{file}: not a set of policies: {reason}")]
    Syntax {
        /// The file.
        file: String,
        /// What the parser says.
        reason: String,
    },
    /// A policy speaks of what there isn't, or can't ever hold.
    #[error("{file}: policy {policy}: {reason}")]
    Invalid {
        /// The file.
        file: String,
        /// The policy's id.
        policy: String,
        /// What the validator says.
        reason: String,
    },
    /// A file is too long.
    #[error("{file}: has {bytes} bytes; at most {MAX_FILE_BYTES} are read")]
    TooLong {
        /// The file.
        file: String,
        /// Its size in bytes.
        bytes: usize,
    },
    /// There are too many policies.
    #[error("there are {count} policies; at most {MAX_POLICIES} are taken")]
    TooMany {
        /// How many.
        count: usize,
    },
}

/// Policies that are in force.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) schema: Schema,
    pub(crate) set: PolicySet,
    pub(crate) by_id: BTreeMap<PolicyId, Arc<Policy>>,
}

/// Reads the built-in policies and a site's, given as (file name, text).
pub(crate) fn load<F, T>(site: impl IntoIterator<Item = (F, T)>) -> Result<Loaded, Error>
where
    F: Into<String>,
    T: AsRef<str>,
{
    let schema = Schema::from_cedarschema_str(SCHEMA).map_err(|error| Error::Syntax {
        file: "the schema".into(),
        reason: error.to_string(),
    })?;
    let mut loaded = Loaded {
        schema: schema.0,
        set: PolicySet::new(),
        by_id: BTreeMap::new(),
    };
    for text in BUILT_IN {
        loaded.add(&Source::BuiltIn, text)?;
    }
    let built_in = loaded.by_id.len();
    for (file, text) in site {
        let (file, text) = (file.into(), text.as_ref());
        if text.len() > MAX_FILE_BYTES {
            let bytes = text.len();
            return Err(Error::TooLong { file, bytes });
        }
        loaded.add(&Source::Site(file), text)?;
        let count = loaded.by_id.len() - built_in;
        if count > MAX_POLICIES {
            return Err(Error::TooMany { count });
        }
    }
    loaded.validate()?;
    Ok(loaded)
}

impl Loaded {
    fn add(&mut self, source: &Source, text: &str) -> Result<(), Error> {
        let syntax = |reason: String| Error::Syntax {
            file: source.to_string(),
            reason,
        };
        let set: PolicySet = text
            .parse()
            .map_err(|error: cedar_policy::ParseErrors| syntax(in_full(&error)))?;
        if let Some(template) = set.templates().next() {
            let slots = format!("{template}");
            return Err(syntax(format!("templates are not taken: {slots}")));
        }
        let mut policies: Vec<_> = set.policies().collect();
        policies.sort_by_key(|policy| position(policy.id()));
        for (at, policy) in policies.into_iter().enumerate() {
            let stated = policy.annotation("id").filter(|id| !id.is_empty());
            let id = match (source, stated) {
                (Source::BuiltIn, Some(id)) => id.to_owned(),
                (Source::BuiltIn, None) => return Err(syntax("a policy has no @id".into())),
                (Source::Site(file), Some(id)) => format!("{file}:{id}"),
                (Source::Site(file), None) => format!("{file}#{}", at + 1),
            };
            let renamed = policy.new_id(PolicyId::new(&id));
            self.set.add(renamed).map_err(|_| Error::Invalid {
                file: source.to_string(),
                policy: id.clone(),
                reason: "there is another one with this id".into(),
            })?;
            let known = Policy {
                source: source.clone(),
                text: policy.to_string(),
                forbids: policy.effect() == Effect::Forbid,
                id: id.clone(),
            };
            self.by_id.insert(PolicyId::new(id), Arc::new(known));
        }
        Ok(())
    }

    /// Strict: a policy that can't ever hold is a mistake as well, such as a misspelt comparison.
    fn validate(&self) -> Result<(), Error> {
        let validator = Validator::new(self.schema.clone());
        let result = validator.validate(&self.set, ValidationMode::Strict);
        let errors = result
            .validation_errors()
            .map(|error| (error.policy_id(), in_full(error)));
        let warnings = result
            .validation_warnings()
            .map(|warning| (warning.policy_id(), warning.to_string()));
        let Some((id, reason)) = errors.chain(warnings).next() else {
            return Ok(());
        };
        let known = self.by_id.get(id);
        Err(Error::Invalid {
            file: known.map_or_else(String::new, |policy| policy.source.to_string()),
            policy: id.to_string(),
            reason,
        })
    }
}

/// Where a policy stands in its file: the parser calls them policy0, policy1 and so on.
fn position(id: &PolicyId) -> u64 {
    let text: &str = id.as_ref();
    text.trim_start_matches("policy")
        .parse()
        .unwrap_or(u64::MAX)
}

/// An error with what caused it, on one line.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(cause) = at {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        at = cause.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
