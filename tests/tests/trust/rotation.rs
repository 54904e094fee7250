//! FAULTS 24, in the short form of `cargo xtask soak rotation`.

use std::time::Duration;

use kapok_tests::{real, rotation};
use tokio::runtime::Builder;

/// Certificates of 20 s, an authority that is rotated twice in a minute: nothing fails, nobody is
/// lost.
#[test]
fn certificates_change_under_load() {
    real::build();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (time, life) = (Duration::from_mins(1), Duration::from_secs(20));
    let report = runtime.block_on(rotation::run(time, life)).unwrap();
    println!("{report}");
    assert_eq!(report.authorities, 3);
    assert!(report.operations > 100, "{report}");
    // Four servers, each renewed at two thirds of 20 s.
    assert!(report.certificates > 12, "{report}");
}
