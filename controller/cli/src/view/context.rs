//! Contexts: who one is where, as far as this machine knows.

use kapok_types::{Name, Timestamp};
use serde::Serialize;

use super::{Time, View, left, yes_no};
use crate::{
    contexts::Source,
    credential::Credential,
    human::{dash, plain},
    output::pairs,
};

/// A context, or a credential's file.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Context {
    /// Null for a file that is in no context.
    name: Option<String>,
    current: bool,
    fabric: String,
    subject: String,
    serial: String,
    expire_time: Time,
    controllers: Vec<String>,
    enroll: Vec<String>,
    /// The credential's file.
    credential: String,
    #[serde(skip)]
    authorities: String,
}

impl Context {
    /// What a credential says.
    pub(crate) fn new(credential: &Credential, source: &Source, current: Option<&Name>) -> Self {
        let list = |addresses: &Option<crate::settings::Addresses>| match addresses {
            Some(addresses) => addresses.iter().map(str::to_owned).collect(),
            None => Vec::new(),
        };
        let name = match source {
            Source::Context(name, _) => Some(name),
            Source::File(_) => None,
        };
        let bundle = kapok_trust::Bundle::parse_pem(&credential.material.bundle_pem);
        let authorities = bundle.iter().flat_map(kapok_trust::Bundle::roots);
        let authorities = authorities.map(|root| root.fingerprint.to_string());
        Self {
            name: name.map(ToString::to_string),
            current: name.is_some() && name == current,
            fabric: credential.fabric.to_string(),
            subject: credential.certificate.subject().to_string(),
            serial: credential.certificate.serial.to_string(),
            expire_time: Time(credential.certificate.not_after),
            controllers: list(&credential.controllers),
            enroll: list(&credential.enroll),
            credential: source.path().display().to_string(),
            authorities: authorities.collect::<Vec<_>>().join(", "),
        }
    }

    /// One line about a login.
    pub(crate) fn line(&self, now: Timestamp) -> String {
        let place = match &self.name {
            Some(name) => format!("context {name}"),
            None => plain(&self.credential),
        };
        format!(
            "logged in to {} as {} ({place}); the certificate ends in {}",
            self.fabric,
            self.subject,
            left(Some(self.expire_time), now)
        )
    }
}

impl View for Context {
    fn columns(wide: bool) -> Vec<&'static str> {
        let mut columns = vec!["NAME", "CURRENT", "FABRIC", "SUBJECT", "ENDS IN"];
        if wide {
            columns.extend(["CONTROLLERS", "CREDENTIAL"]);
        }
        columns
    }

    fn row(&self, now: Timestamp, wide: bool) -> Vec<String> {
        let mut row = vec![
            self.name.clone().unwrap_or_else(dash),
            yes_no(self.current),
            self.fabric.clone(),
            self.subject.clone(),
            left(Some(self.expire_time), now),
        ];
        if wide {
            row.extend([self.controllers.join(","), plain(&self.credential)]);
        }
        row
    }

    fn details(&self, now: Timestamp) -> String {
        let list = |list: &[String]| crate::human::or_dash(&list.join(", "));
        pairs(&[
            ("Name", self.name.clone().unwrap_or_else(dash)),
            ("Current", yes_no(self.current)),
            ("Fabric", self.fabric.clone()),
            ("Subject", self.subject.clone()),
            ("Certificate", self.serial.clone()),
            ("Ends in", left(Some(self.expire_time), now)),
            ("Controllers", list(&self.controllers)),
            ("Logs in at", list(&self.enroll)),
            ("Authorities", self.authorities.clone()),
            ("Credential", plain(&self.credential)),
        ])
    }
}
