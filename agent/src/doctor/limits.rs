//! The kernel's limits that many guests run into together: asynchronous IO, files, processes,
//! inotify.

use kapok_health::{Failure, Host};

use super::Finding;

const CHECK: &str = "limits";
/// From this share of a limit on it is about to be reached, and as good as reached; in percent.
const MUCH_PERCENT: u64 = 75;
const MOST_PERCENT: u64 = 95;
/// Fewer of these don't do for libvirt, udev and the agent, whoever uses them.
const LEAST_INOTIFY: u64 = 128;
/// Distributions' defaults are higher by far; a guest has some dozens of threads.
const LEAST_PROCESSES: u64 = 32_768;

/// A limit: its key, what is in use of it if somebody counts that, and where to read both.
struct Limit {
    key: &'static str,
    most: u64,
    used: Option<u64>,
    least: u64,
}

/// All of them: those that are too low or nearly reached, or one healthy word.
pub(super) fn check(host: &Host) -> Vec<Finding> {
    let mut findings = Vec::new();
    let limits = match read(host) {
        Ok(limits) => limits,
        Err(failure) => return vec![Finding::unread(CHECK, &failure)],
    };
    for limit in &limits {
        findings.extend(judge(limit));
    }
    if findings.is_empty() {
        let keys: Vec<&str> = limits.iter().map(|it| it.key).collect();
        let found = format!("far from reached: {}", keys.join(", "));
        findings.push(Finding::healthy(CHECK, found));
    }
    findings
}

fn judge(limit: &Limit) -> Option<Finding> {
    let Limit {
        key,
        most,
        used,
        least,
    } = *limit;
    let advice = |value: u64| format!("sysctl -w {key}={value}, and keep it in /etc/sysctl.d");
    if let Some(used) = used {
        let percent = used.saturating_mul(100) / most.max(1);
        let found = format!("{used} of {most} of {key} are in use");
        if percent >= MOST_PERCENT {
            return Some(Finding::failing(
                CHECK,
                found,
                advice(most.saturating_mul(4)),
            ));
        }
        if percent >= MUCH_PERCENT {
            return Some(Finding::degraded(
                CHECK,
                found,
                advice(most.saturating_mul(4)),
            ));
        }
    }
    (most < least).then(|| {
        let found = format!("{key} is {most}, which many guests reach");
        Finding::degraded(CHECK, found, advice(least.saturating_mul(8)))
    })
}

fn read(host: &Host) -> Result<Vec<Limit>, Failure> {
    let field = |file: &str, index: usize| -> Result<Option<u64>, Failure> {
        let text = host.text(format!("/proc/sys/{file}"))?.unwrap_or_default();
        Ok(text
            .split_whitespace()
            .nth(index)
            .and_then(|it| it.parse().ok()))
    };
    let number = |file: &str| field(file, 0);
    // "0.00 0.01 0.05 1/234 5678": those that run, and all.
    let load = host.text("/proc/loadavg")?.unwrap_or_default();
    let threads = { load.split_whitespace().nth(3) }
        .and_then(|it| it.split_once('/'))
        .and_then(|(_, all)| all.parse::<u64>().ok());
    let all = [
        (
            "fs.aio-max-nr",
            number("fs/aio-max-nr")?,
            number("fs/aio-nr")?,
            0,
        ),
        (
            "fs.file-max",
            field("fs/file-nr", 2)?,
            number("fs/file-nr")?,
            0,
        ),
        (
            "kernel.pid_max",
            number("kernel/pid_max")?,
            threads,
            LEAST_PROCESSES,
        ),
        (
            "kernel.threads-max",
            number("kernel/threads-max")?,
            threads,
            0,
        ),
        (
            "fs.inotify.max_user_instances",
            number("fs/inotify/max_user_instances")?,
            None,
            LEAST_INOTIFY,
        ),
    ];
    let limit = |(key, most, used, least)| {
        Some(Limit {
            key,
            most: most?,
            used,
            least,
        })
    };
    let limits: Vec<Limit> = all.into_iter().filter_map(limit).collect();
    if limits.is_empty() {
        return Err(Failure::Unreadable("/proc/sys has none of them".to_owned()));
    }
    Ok(limits)
}
