//! ZFS pools through `zpool`: their state, their fill, and their devices' errors.

use std::time::Duration;

use async_trait::async_trait;

use crate::{Component, Failure, Host, Kind, Reading, Source, quantity};

/// How long one question may take.
const QUESTION: Duration = Duration::from_secs(20);

/// The source.
#[derive(Debug, Clone, Copy, Default)]
pub struct Zfs;

#[async_trait]
impl Source for Zfs {
    fn name(&self) -> &'static str {
        "zfs"
    }

    fn cadence(&self) -> Duration {
        Duration::from_mins(1)
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(45)
    }

    async fn read(&self, host: &Host) -> Result<Vec<Reading>, Failure> {
        if !host.exists("/sys/module/zfs") {
            return Err(Failure::Absent("the kernel has no ZFS".to_owned()));
        }
        let ask = async |question: &[&str]| {
            let output = host.run("zpool", question, QUESTION).await?;
            if output.status == Some(0) {
                return Ok(output.text);
            }
            Err(Failure::Unreadable(format!("zpool {}", output.end())))
        };
        let list = ask(&["list", "-H", "-p", "-o", "name,size,free,health"]).await?;
        let pools = pools(&list).map_err(Failure::Unreadable)?;
        if pools.is_empty() {
            return Err(Failure::Absent("there is no ZFS pool".to_owned()));
        }
        let status = ask(&["status", "-p"]).await?;
        Ok(pools.into_iter().chain(devices(&status)).collect())
    }
}

/// The lines of `zpool list`: name, size, free, health, with tabs between.
fn pools(list: &str) -> Result<Vec<Reading>, String> {
    let mut readings = Vec::new();
    for line in list.lines() {
        let [name, size, free, health] = line.split('\t').collect::<Vec<_>>()[..] else {
            return Err(format!(
                "zpool list says {:?}",
                line.get(..64).unwrap_or(line)
            ));
        };
        let pool = Component::new(Kind::Array, name);
        let number = |text: &str| text.parse::<f64>().ok();
        readings.extend([
            Reading::flag(&pool, quantity::ARRAY_DEGRADED, health != "ONLINE"),
            Reading::flag(
                &pool,
                quantity::ARRAY_FAILED,
                !["ONLINE", "DEGRADED"].contains(&health),
            ),
        ]);
        // A pool that is gone has no size: "-".
        for (quantity, text) in [(quantity::SIZE, size), (quantity::AVAILABLE, free)] {
            let number = Ok::<_, Failure>(number(text));
            readings.push(Reading::tried_or_absent(&pool, quantity, number));
        }
    }
    Ok(readings)
}

/// A row of `zpool status`' table: how far it is indented, name, state, errors.
struct Row<'a> {
    indent: usize,
    name: &'a str,
    state: &'a str,
    errors: Option<f64>,
}

/// The devices of all pools in `zpool status`: how many there are and work, and each one's errors.
/// Devices are the table's rows that have none below them.
fn devices(status: &str) -> Vec<Reading> {
    let (mut readings, mut pool, mut rows) = (Vec::new(), None, Vec::new());
    let mut in_table = false;
    for line in status.lines().chain([" pool: "]) {
        if let Some(next) = line.trim_start().strip_prefix("pool: ") {
            if let Some(pool) = pool.replace(next.trim()) {
                readings.extend(members(pool, &rows));
            }
            rows.clear();
            in_table = false;
        } else if line.trim_start().starts_with("NAME ") {
            in_table = true;
        } else if line.trim().is_empty() || line.starts_with("errors:") {
            in_table &= !line.starts_with("errors:");
        } else if in_table {
            rows.extend(row(line));
        }
    }
    readings
}

fn row(line: &str) -> Option<Row<'_>> {
    let indent = line.find(|c: char| !c.is_whitespace())?;
    let mut words = line.split_whitespace();
    let (name, state) = (words.next()?, words.next().unwrap_or_default());
    let counts: Vec<f64> = words.take(3).filter_map(|word| word.parse().ok()).collect();
    let errors = (counts.len() == 3).then(|| counts.iter().sum());
    Some(Row {
        indent,
        name,
        state,
        errors,
    })
}

fn members(pool: &str, rows: &[Row<'_>]) -> Vec<Reading> {
    let mut readings = Vec::new();
    let (mut all, mut active) = (0_u32, 0_u32);
    for (place, row) in rows.iter().enumerate() {
        let is_parent = rows
            .get(place + 1)
            .is_some_and(|next| next.indent > row.indent);
        // Spares and headings are no members: the former are AVAIL or INUSE, the latter have no state.
        if place == 0 || is_parent || ["", "AVAIL", "INUSE"].contains(&row.state) {
            continue;
        }
        all += 1;
        active += u32::from(row.state == "ONLINE");
        let of = Component::new(Kind::Array, format!("{pool}/{}", row.name));
        readings.extend(
            row.errors
                .map(|errors| Reading::new(&of, quantity::MEDIA_ERRORS, errors)),
        );
    }
    let of = Component::new(Kind::Array, pool);
    if all > 0 {
        readings.push(Reading::new(&of, quantity::MEMBERS, f64::from(all)));
        readings.push(Reading::new(
            &of,
            quantity::MEMBERS_ACTIVE,
            f64::from(active),
        ));
    }
    readings
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const STATUS: &str = include_str!("../../tests/tools/zfs/status.txt");
    const LIST: &str = include_str!("../../tests/tools/zfs/list.txt");

    fn values(readings: Vec<Reading>) -> BTreeMap<String, f64> {
        readings
            .into_iter()
            .filter_map(|it| {
                Some((
                    format!("{} {}", it.component, it.quantity.name),
                    it.value()?,
                ))
            })
            .collect()
    }

    #[test]
    fn pools_and_their_devices() {
        let found = values(
            pools(LIST)
                .unwrap()
                .into_iter()
                .chain(devices(STATUS))
                .collect(),
        );
        for (name, value) in [
            ("array/tank array_degraded", 1.0),
            ("array/tank array_failed", 0.0),
            ("array/tank available", 2_748_779_069_440.0),
            ("array/tank members", 4.0),
            ("array/tank members_active", 3.0),
            ("array/tank/sdc media_errors", 19.0),
            ("array/tank/sda media_errors", 0.0),
            ("array/fast array_degraded", 0.0),
            ("array/fast members", 1.0),
            ("array/lost array_failed", 1.0),
        ] {
            assert_eq!(found.get(name), Some(&value), "{name} in {found:#?}");
        }
        assert!(!found.contains_key("array/lost size"));
        assert!(
            !found.contains_key("array/tank/sde media_errors"),
            "a spare is no member"
        );
    }

    proptest! {
        /// FAULTS 63: whatever is printed, there is an answer.
        #[test]
        fn garbage_is_read_without_harm(text in "([ -~]|[\t\n:]|é){0,300}", at in 0_usize..900) {
            for text in [text.as_str(), STATUS.get(..at).unwrap_or(STATUS)] {
                let _ = pools(text);
                let read = devices(text);
                prop_assert!(read.iter().all(|it| it.value().is_none_or(f64::is_finite)));
            }
        }
    }
}
