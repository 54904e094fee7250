//! Which tests there are: the one place that says so. README names the same four rungs.

use std::time::Duration;

/// A suite: one rung of the tests, or a part of it.
#[derive(Debug)]
pub(crate) struct Suite {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// What it proves, in a few words.
    pub(crate) about: &'static str,
    /// How long it may take, built. At twice that it is stopped.
    pub(crate) budget: Duration,
    /// The arguments of cargo that build what its tests start, as the tests themselves would: so
    /// that no test is timed with a build in it.
    pub(crate) programs: &'static [&'static [&'static str]],
    /// The arguments of cargo; those behind `--` are the tests'.
    pub(crate) runs: &'static [&'static [&'static str]],
}

const fn minutes(minutes: u64) -> Duration {
    Duration::from_mins(minutes)
}

/// The programs of a fabric on loopback. The simulator on its own: built together, another crate's
/// wish for libvirt would count for all.
const LOOPBACK: &[&[&str]] = &[
    &[
        "build",
        "-p",
        "kapok-agent",
        "--no-default-features",
        "--features",
        "otlp",
        "--bin",
        "kapok-sim",
    ],
    &["build", "-p", "kapok-controller", "-p", "kapok", "--bins"],
];

/// All suites, quickest first. The sum of the budgets is half an hour.
pub(crate) const ALL: &[Suite] = &[
    Suite {
        name: "pure",
        about: "rules without IO: state, scheduler, decisions, authorization, XML, parsers",
        budget: minutes(4),
        programs: &[],
        runs: &[
            &[
                "test",
                "-p",
                "kapok-types",
                "-p",
                "kapok-manual",
                "-p",
                "kapok-metrics",
                "-p",
                "kapok-proto",
                "-p",
                "kapok-authz",
                "-p",
                "kapok-scheduler",
                "-p",
                "kapok-store",
            ],
            &["test", "-p", "xtask", "--bins"],
            &["test", "-p", "kapok-health", "-p", "kapok-helper", "--lib"],
            &["test", "-p", "kapok-controller", "--lib", "--bins"],
            &["test", "-p", "kapok-replay"],
        ],
    },
    Suite {
        name: "trust",
        about: "certificates, people and machines on real sockets, with an identity provider",
        budget: minutes(5),
        programs: LOOPBACK,
        runs: &[
            &[
                "test",
                "-p",
                "kapok-trust",
                "-p",
                "kapok-telemetry",
                "-p",
                "kapok",
            ],
            &["test", "-p", "kapok-controller", "--test", "*"],
            &["test", "-p", "kapok-tests", "--test", "trust"],
        ],
    },
    Suite {
        name: "driver",
        about: "the agent and its drivers, on libvirt's test driver, simulated nodes and one lab host; \
                hardware's stories, and hardware that is emulated; systemd's units",
        budget: minutes(6),
        programs: &[],
        runs: &[
            &[
                "test",
                "-p",
                "kapok-health",
                "-p",
                "kapok-helper",
                "--test",
                "*",
            ],
            &["test", "-p", "kapok-libvirt", "-p", "kapok-agent"],
            &["test", "-p", "kapok-lab", "--test", "units"],
        ],
    },
    Suite {
        name: "cluster",
        about: "a controller with many simulated nodes over gRPC, with faults; foreign clients; the \
                log in a real etcd cluster",
        budget: minutes(3),
        programs: LOOPBACK,
        runs: &[
            &[
                "test",
                "-p",
                "kapok-tests",
                "--lib",
                "--test",
                "cluster",
                "--test",
                "foreign",
            ],
            &[
                "test",
                "-p",
                "kapok-store",
                "--features",
                "etcd",
                "--test",
                "etcd",
            ],
        ],
    },
    Suite {
        name: "lab",
        about: "real libvirtd and QEMU on several hosts in network namespaces; Debian packages",
        budget: minutes(12),
        programs: &[&[
            "build",
            "-p",
            "kapok-agent",
            "-p",
            "kapok-controller",
            "-p",
            "kapok",
            "-p",
            "kapok-helper",
            "--bins",
        ]],
        runs: &[
            &["test", "-p", "kapok-lab"],
            &["test", "-p", "xtask", "--test", "package"],
            &[
                "test",
                "-p",
                "kapok-tests",
                "--test",
                "lab",
                "--",
                "--test-threads=1",
            ],
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_suites_fit_into_half_an_hour() {
        let sum: Duration = ALL.iter().map(|suite| suite.budget).sum();
        assert!(sum <= minutes(30), "{sum:?}");
    }
}
