//! Bulk statistics give back all that libvirt allocated. In a binary of its own, because the
//! process's memory is what is measured.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use kapok_libvirt::{domain::Start, stats::Groups, xml::domain::DomainDoc};

/// Resident memory in KiB. Source: proc(5), `VmRSS` of `/proc/self/status`.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn bulk_stats_and_lists_do_not_leak() {
    let connection = common::node();
    let mut domains = Vec::new();
    for seed in 0..20 {
        let doc = DomainDoc::new(&common::config(seed)).unwrap();
        let domain = connection.define(&doc).unwrap();
        domain.start(Start::default()).unwrap();
        domains.push(domain);
    }
    let round = || {
        assert_eq!(connection.all_stats(Groups::ALL, true).unwrap().len(), 20);
        assert_eq!(
            connection
                .stats_of(&domains, Groups::STATE, false)
                .unwrap()
                .len(),
            20
        );
        assert_eq!(connection.domains().unwrap().len(), 20);
    };
    for _ in 0..200 {
        round();
    }
    let before = resident_kib();
    for _ in 0..1500 {
        round();
    }
    let grown = resident_kib().saturating_sub(before);
    // A leaked round is at least 20 records of two parameters: over 5 KiB, so 7 MiB in all.
    assert!(grown < 2048, "grew by {grown} KiB");
}
