//! The management controller's word over Redfish: chassis, power, cooling, systems, managers.
//!
//! HTTPS alone, and only GET, with a user that may just read. What the controller calls a warning
//! or critical is taken from it. Older controllers list sensors in `Thermal` and `Power`, newer
//! ones in `ThermalSubsystem`, `PowerSubsystem` and `Sensors`: the older lists are read where both
//! exist, because they take two questions instead of a hundred.
//!
//! **Absent on purpose:** sessions (one that is left behind takes one of the controller's few
//! places), redirects, and links that lead away from the controller.

mod client;
mod resource;
mod trust;

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;

use crate::{Component, Failure, Host, Kind, Reading, Source, quantity};
use client::{Client, Target};
use resource::Names;

/// Most questions of one round.
const MAX_QUESTIONS: usize = 256;
/// Most members of a collection that are looked at.
const MAX_MEMBERS: usize = 128;

/// How a management controller is asked over Redfish: `[health.redfish]`.
///
/// ```toml
/// [health.redfish]
/// address = "bmc7:443"
/// user = "watch"
/// password_file = "/etc/kapok/bmc.password"
/// ca_file = "/etc/kapok/bmc-ca.pem"      # or fingerprint = "SHA-256 in hex", or insecure = true
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Its name or address, with a port if that isn't 443.
    pub address: String,
    /// The user that reads.
    #[serde(default)]
    pub user: Option<String>,
    /// The file of that user's password: its first line.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// The file of the authorities that its certificate may be from, as PEM.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The SHA-256 of its certificate in hex, colons allowed: for those that signed themselves.
    #[serde(default)]
    pub fingerprint: Option<String>,
    /// Whether any certificate will do. Then whoever is between can read the password.
    #[serde(default)]
    pub insecure: bool,
}

impl Settings {
    /// Checks what the types can't say.
    ///
    /// # Errors
    ///
    /// What would be right.
    pub fn check(&self) -> Result<(), String> {
        let ways = [
            self.ca_file.is_some(),
            self.fingerprint.is_some(),
            self.insecure,
        ];
        if ways.into_iter().filter(|way| *way).count() != 1 {
            return Err("set one of ca_file, fingerprint and insecure = true".to_owned());
        }
        if self.user.is_some() != self.password_file.is_some() {
            return Err("user and password_file belong together".to_owned());
        }
        if let Some(fingerprint) = &self.fingerprint {
            trust::fingerprint(fingerprint)?;
        }
        Target::parse(&self.address).map(|_| ())
    }
}

/// The source. Without settings, the server has nothing of the kind.
#[derive(Debug, Clone, Default)]
pub struct Redfish {
    settings: Option<Arc<Settings>>,
}

impl Redfish {
    /// A source that asks in this way.
    pub fn new(settings: Option<Settings>) -> Self {
        let settings = settings.map(Arc::new);
        Self { settings }
    }
}

#[async_trait]
impl Source for Redfish {
    fn name(&self) -> &'static str {
        "redfish"
    }

    fn cadence(&self) -> Duration {
        Duration::from_mins(1)
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(50)
    }

    async fn read(&self, host: &Host) -> Result<Vec<Reading>, Failure> {
        let absent = || Failure::Absent("no Redfish service is configured".to_owned());
        let settings = self.settings.as_ref().ok_or_else(absent)?;
        let client = Client::new(settings, host).map_err(Failure::Unreadable)?;
        let mut walk = Walk {
            client,
            asked: 0,
            readings: Vec::new(),
        };
        walk.root().await.map_err(Failure::Unreadable)?;
        Ok(walk.readings)
    }
}

/// One round through the controller's resources.
struct Walk {
    client: Client,
    asked: usize,
    readings: Vec<Reading>,
}

impl Walk {
    async fn root(&mut self) -> Result<(), String> {
        let root = self.get("/redfish/v1/").await?;
        let root = root.ok_or("the controller has no Redfish service")?;
        let chassis = self.members(&root["Chassis"]).await?;
        for one in &chassis {
            let names = Names::of(one, chassis.len() > 1);
            self.readings.extend(resource::chassis(one));
            if let Err(reason) = self.inside(one, &names).await {
                let of = Component::new(Kind::Chassis, names.id());
                let unreadable = Reading::unreadable(&of, quantity::SENSOR_CRITICAL, reason);
                self.readings.retain(|it| it.component != of);
                self.readings.push(unreadable);
            }
        }
        for one in self.members(&root["Systems"]).await? {
            self.readings.extend(resource::system(&one));
        }
        for one in self.members(&root["Managers"]).await? {
            self.readings.extend(resource::manager(&one));
        }
        if self.readings.is_empty() {
            return Err("the controller tells nothing of its chassis and systems".to_owned());
        }
        Ok(())
    }

    /// Cooling, power and sensors of one chassis.
    async fn inside(&mut self, chassis: &Value, names: &Names) -> Result<(), String> {
        if let Some(thermal) = self.follow(&chassis["Thermal"]).await? {
            self.readings.extend(resource::thermal(&thermal, names));
        } else {
            if let Some(cooling) = self.follow(&chassis["ThermalSubsystem"]).await? {
                for fan in self.members(&cooling["Fans"]).await? {
                    self.readings.extend(resource::fan(&fan, names));
                }
            }
            for sensor in self.members(&chassis["Sensors"]).await? {
                self.readings.extend(resource::sensor(&sensor, names));
            }
        }
        if let Some(power) = self.follow(&chassis["Power"]).await? {
            self.readings.extend(resource::power(&power, names));
        } else if let Some(power) = self.follow(&chassis["PowerSubsystem"]).await? {
            let groups = resource::redundancy(&power, "PowerSupplyRedundancy", names);
            self.readings.extend(groups);
            for supply in self.members(&power["PowerSupplies"]).await? {
                self.readings.extend(resource::supply(&supply, names));
            }
        }
        Ok(())
    }

    /// What a collection links to, in its order.
    async fn members(&mut self, collection: &Value) -> Result<Vec<Value>, String> {
        let Some(collection) = self.follow(collection).await? else {
            return Ok(Vec::new());
        };
        let list = collection["Members"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        let mut members = Vec::new();
        for link in list.iter().take(MAX_MEMBERS) {
            members.extend(self.follow(link).await?);
        }
        Ok(members)
    }

    /// What a link leads to; none where there is no link, or nothing behind it.
    async fn follow(&mut self, link: &Value) -> Result<Option<Value>, String> {
        match link["@odata.id"].as_str() {
            Some(path) => self.get(path).await,
            None => Ok(None),
        }
    }

    async fn get(&mut self, path: &str) -> Result<Option<Value>, String> {
        if self.asked == MAX_QUESTIONS {
            return Err(format!("more than {MAX_QUESTIONS} resources"));
        }
        self.asked += 1;
        self.client.get(path).await
    }
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
