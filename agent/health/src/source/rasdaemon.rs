//! What rasdaemon has recorded since the boot: memory errors by module, machine checks by
//! processor, PCI errors by device.
//!
//! Its database is read by the `sqlite3` tool: a database engine in the agent would cost more
//! memory than all other sources together. What earlier boots left there is not counted.
//!
//! Source: rasdaemon's ras-record.c, for tables and columns; which of them there are depends on
//! its version.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use serde::Deserialize;

use crate::{Component, Failure, Host, Kind, Quantity, Reading, Source, quantity};

/// Where the database is.
const DATABASE: &str = "/var/lib/rasdaemon/ras-mc_event.db";
/// How long one question may take.
const QUESTION: Duration = Duration::from_secs(10);
/// Most parts that are told of; the totals count all.
const MAX_PARTS: usize = 512;

/// The tables and columns that there are.
const COLUMNS: &str = "SELECT m.name AS tab, p.name AS col FROM sqlite_master AS m \
                       JOIN pragma_table_info(m.name) AS p WHERE m.type = 'table'";

/// The source. It needs the right to read the database.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rasdaemon;

#[async_trait]
impl Source for Rasdaemon {
    fn name(&self) -> &'static str {
        "rasdaemon"
    }

    fn cadence(&self) -> Duration {
        Duration::from_mins(1)
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(25)
    }

    async fn read(&self, host: &Host) -> Result<Vec<Reading>, Failure> {
        if !host.exists(DATABASE) {
            return Err(Failure::Absent("rasdaemon has no database here".to_owned()));
        }
        let file = host.path(DATABASE).to_string_lossy().into_owned();
        let ask = async |question: &str| {
            // Its writer holds the database for a moment.
            let wait = ["-cmd", ".timeout 3000"];
            let arguments = [
                &["-batch", "-init", "/dev/null", "-readonly", "-json"][..],
                &wait,
            ];
            let arguments = [&arguments.concat()[..], &[&file, question]].concat();
            let output = host.run("sqlite3", &arguments, QUESTION).await?;
            if output.status == Some(0) {
                return Ok(output.text);
            }
            Err(Failure::Unreadable(format!("sqlite3 {}", output.end())))
        };
        let boot = host.text("/proc/stat")?.as_deref().and_then(boot);
        let boot = boot.ok_or_else(|| Failure::Unreadable("/proc/stat has no btime".to_owned()))?;
        let columns = columns(&ask(COLUMNS).await?).map_err(Failure::Unreadable)?;
        let rows = match question(&columns, boot) {
            Some(question) => ask(&question).await?,
            None => String::new(),
        };
        readings(&rows).map_err(Failure::Unreadable)
    }
}

/// When the host was booted, in seconds since 1970.
fn boot(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line?.trim().parse().ok()
}

#[derive(Debug, Deserialize)]
struct Column {
    tab: String,
    col: String,
}

type Columns = BTreeMap<String, Vec<String>>;

/// sqlite3 prints nothing at all where there is no row.
fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<Vec<T>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(text).map_err(|error| format!("sqlite3's answer: {error}"))
}

fn columns(text: &str) -> Result<Columns, String> {
    let mut columns = Columns::new();
    for Column { tab, col } in parse(text)? {
        columns.entry(tab).or_default().push(col);
    }
    Ok(columns)
}

/// The counts since the boot, of those tables that there are. Times are local, with their offset.
fn question(columns: &Columns, boot: u64) -> Option<String> {
    // What is counted, the table, the part, the type, how often one row counts.
    const TABLES: &[(&str, &str, &str, &str, &str)] = &[
        ("memory", "mc_event", "label", "err_type", "err_count"),
        (
            "memory",
            "extlog_event",
            "fru_text",
            "severity",
            "error_count",
        ),
        ("pci", "aer_event", "dev_name", "err_type", "1"),
        ("cpu", "mce_record", "cpu", "''", "1"),
    ];
    let selects: Vec<String> = TABLES
        .iter()
        .filter_map(|(what, table, part, kind, count)| {
            let there = columns.get(*table)?;
            // Older versions lack some columns.
            let or = |name: &str, other: &str| {
                if there.iter().any(|it| it == name) {
                    name.to_owned()
                } else {
                    other.to_owned()
                }
            };
            let (part, kind, count) = (or(part, "''"), or(kind, "''"), or(count, "1"));
            Some(format!(
                "SELECT '{what}' AS what, CAST({part} AS TEXT) AS part, \
                 CAST({kind} AS TEXT) AS kind, CAST(SUM({count}) AS REAL) AS times FROM {table} \
                 WHERE CAST(strftime('%s', substr(timestamp, 1, 19) || substr(timestamp, 21, 3) \
                 || ':' || substr(timestamp, 24, 2)) AS INTEGER) >= {boot} GROUP BY 2, 3"
            ))
        })
        .collect();
    (!selects.is_empty()).then(|| selects.join(" UNION ALL "))
}

#[derive(Debug, Deserialize)]
struct Row {
    what: String,
    part: Option<String>,
    kind: Option<String>,
    times: Option<f64>,
}

/// Totals always, lest the first error be nothing but a start; parts as they have errors.
fn readings(rows: &str) -> Result<Vec<Reading>, String> {
    let mut counts: BTreeMap<(Component, Quantity), f64> = BTreeMap::new();
    counts.insert(
        (Component::only(Kind::Memory), quantity::CORRECTABLE_ERRORS),
        0.0,
    );
    counts.insert((Component::only(Kind::Cpu), quantity::MACHINE_CHECKS), 0.0);
    for Row {
        what,
        part,
        kind,
        times,
    } in parse(rows)?
    {
        let corrected = is_corrected(kind.as_deref().unwrap_or_default());
        let (of, quantity) = match (&*what, corrected) {
            ("memory", Some(true)) => (Kind::Memory, quantity::CORRECTABLE_ERRORS),
            ("memory", Some(false)) => (Kind::Memory, quantity::UNCORRECTABLE_ERRORS),
            ("pci", Some(true)) => (Kind::Pci, quantity::CORRECTABLE_ERRORS),
            ("pci", Some(false)) => (Kind::Pci, quantity::UNCORRECTABLE_ERRORS),
            ("cpu", _) => (Kind::Cpu, quantity::MACHINE_CHECKS),
            _ => continue,
        };
        let times = times.unwrap_or_default();
        let part = part.unwrap_or_default();
        let part = if of == Kind::Cpu {
            format!("cpu{part}")
        } else {
            part
        };
        let total = (Component::only(of), quantity.clone());
        if let Some(total) = counts.get_mut(&total) {
            *total += times;
        }
        let part = (Component::new(of, part), quantity);
        if !part.0.name().is_empty() && counts.len() < MAX_PARTS {
            *counts.entry(part).or_default() += times;
        }
    }
    let reading = |((of, quantity), count)| Reading::new(&of, quantity, count);
    Ok(counts.into_iter().map(reading).collect())
}

/// Whether an error was corrected; none for what is no error. Of the extended log, severities are
/// numbers. Source: UEFI, appendix N, "Error Severity".
fn is_corrected(kind: &str) -> Option<bool> {
    match kind {
        "Corrected" | "2" => Some(true),
        "0" | "1" => Some(false),
        "Info" | "Deferred" | "3" => None,
        other => other.starts_with(['U', 'F']).then_some(false),
    }
}

#[cfg(test)]
mod tests;
