//! A simulated server's readings, from a file that whoever simulates it writes.
//!
//! The file is a JSON list of readings; without a file there are none. Something spoken of before
//! and left out now is no more: it is told as absent.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use kapok_health::{Component, Failure, Host, Quantity, Reading, Source};

/// How often the file is read, and how long that may take.
const EVERY: Duration = Duration::from_secs(1);

/// A file of readings.
#[derive(Debug)]
pub struct FileSource {
    file: PathBuf,
    told: Mutex<BTreeSet<(Component, Quantity)>>,
}

impl FileSource {
    /// Readings of this file, which may come and go.
    pub fn new(file: PathBuf) -> Self {
        let told = Mutex::default();
        Self { file, told }
    }
}

#[async_trait]
impl Source for FileSource {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn cadence(&self) -> Duration {
        EVERY
    }

    fn deadline(&self) -> Duration {
        EVERY
    }

    async fn read(&self, host: &Host) -> Result<Vec<Reading>, Failure> {
        let wrong = |reason: String| Failure::Unreadable(reason);
        let text = host.text(&self.file)?.unwrap_or_default();
        let mut readings: Vec<Reading> = match text.as_str() {
            "" => Vec::new(),
            text => serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?,
        };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now: BTreeSet<_> = readings
            .iter()
            .map(|it| (it.component.clone(), it.quantity.clone()))
            .collect();
        for (component, quantity) in told.difference(&now) {
            readings.push(Reading::absent(component, quantity.clone()));
        }
        told.extend(now);
        Ok(readings)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn what_is_left_out_is_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("0.json");
        let source = FileSource::new(file.clone());
        let host = Host::new("/");
        assert_eq!(source.read(&host).await, Ok(Vec::new()));
        let text = r#"[{"component":"disk/sda","quantity":{"name":"smart_failing","unit":"count",
            "shape":"flag"},"read":{"value":1.0}}]"#;
        fs::write(&file, text).unwrap();
        let said = source.read(&host).await.unwrap();
        assert_eq!((said.len(), said[0].value()), (1, Some(1.0)));
        fs::remove_file(&file).unwrap();
        let said = source.read(&host).await.unwrap();
        assert_eq!(
            (said.len(), &said[0].read),
            (1, &kapok_health::Read::Absent)
        );
        fs::write(&file, "[{]").unwrap();
        assert!(matches!(
            source.read(&host).await,
            Err(Failure::Unreadable(_))
        ));
    }
}
