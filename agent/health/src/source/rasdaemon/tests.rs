use std::{fs, process::Command};

use proptest::prelude::*;

use super::*;

/// Made by rasdaemon 0.6.8's statements, with events before and after a boot at 09:00 UTC.
const DATABASE_SQL: &str = include_str!("../../../tests/tools/rasdaemon/events.sql");
const ROWS: &str = r#"[{"what":"memory","part":"DIMM_A1","kind":"Corrected","times":7.0},
{"what":"cpu","part":"3","kind":"","times":2.0}]"#;

fn shown(readings: &[Reading]) -> Vec<String> {
    let show = |it: &Reading| {
        format!(
            "{} {} {:?}",
            it.component,
            it.quantity.name,
            it.value().unwrap()
        )
    };
    readings.iter().map(show).collect()
}

/// The real tool on a real database; nothing of earlier boots counts, whatever the time zone.
#[tokio::test]
async fn the_real_tool_counts_what_came_since_the_boot() {
    if Host::new("/").tool("sqlite3").is_err() {
        println!("SKIP rasdaemon's database: sqlite3 isn't installed");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("var/lib/rasdaemon")).unwrap();
    fs::create_dir_all(root.path().join("proc")).unwrap();
    let host = Host::new(root.path()).with_tool("sqlite3", Host::new("/").tool("sqlite3").unwrap());
    assert!(matches!(
        Rasdaemon.read(&host).await,
        Err(Failure::Absent(_))
    ));

    let made = Command::new("sqlite3")
        .args(["-batch", "-init", "/dev/null"])
        .arg(host.path(DATABASE))
        .arg(DATABASE_SQL)
        .status();
    assert!(made.unwrap().success());
    // 2024-11-27 09:00:00 UTC.
    fs::write(
        root.path().join("proc/stat"),
        "cpu 1 2 3\nbtime 1732698000\n",
    )
    .unwrap();
    assert_eq!(
        shown(&Rasdaemon.read(&host).await.unwrap()),
        [
            "cpu machine_checks 1.0",
            "cpu/cpu12 machine_checks 1.0",
            "memory correctable_errors 5.0",
            "memory/CPU_SrcID#0_MC#0_Chan#1_DIMM#0 correctable_errors 5.0",
            "memory/CPU_SrcID#0_MC#0_Chan#1_DIMM#0 uncorrectable_errors 1.0",
            "pci/0000:3b:00.0 correctable_errors 2.0",
        ]
    );

    fs::write(
        host.path(DATABASE),
        "not a database, however long it may be",
    )
    .unwrap();
    let refused = Rasdaemon.read(&host).await.unwrap_err();
    assert!(matches!(refused, Failure::Unreadable(_)), "{refused}");
}

#[test]
fn without_errors_there_are_zeros() {
    let zeros = ["cpu machine_checks 0.0", "memory correctable_errors 0.0"];
    assert_eq!(shown(&readings("").unwrap()), zeros);
    assert_eq!(question(&Columns::new(), 0), None);
}

proptest! {
    /// FAULTS 63: an answer that was cut is unreadable, not a database without errors.
    #[test]
    fn garbage_and_cut_answers_are_unreadable(text in ".{0,200}", at in 1_usize..ROWS.len()) {
        let _ = (readings(&text), columns(&text), boot(&text));
        prop_assert!(readings(&ROWS[..at]).is_err());
    }
}
