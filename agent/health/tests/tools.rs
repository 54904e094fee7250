//! Tools and probes as programs: what hangs is ended with all that it started, and what a site's
//! probes may be.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kapok_health::{
    Failure, Host, Read, Reading, Source as _,
    source::{
        probe::{Probes, Settings},
        smartctl::Smartctl,
    },
};

/// A program that is still open for writing in some child of this process can't be started: one
/// test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn program(path: &Path, script: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(work)
}

/// The ids that a script has left in a file, once there are as many.
async fn ids(file: &Path, wanted: usize) -> Vec<u32> {
    for _ in 0..1000 {
        let text = fs::read_to_string(file).unwrap_or_default();
        let ids: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
        if ids.len() == wanted && text.ends_with('\n') {
            return ids;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} never held {wanted} ids", file.display());
}

/// Whether a process runs: one that has ended and isn't waited for does not.
fn runs(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
    !state.is_empty() && !state.starts_with(['Z', 'X'])
}

async fn ended(id: u32) -> bool {
    for _ in 0..1000 {
        if !runs(id) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

/// FAULTS 63: a tool that hangs is given up at its deadline, and is gone afterwards, with what it
/// has started and what holds its output open.
#[test]
fn a_tool_that_hangs_is_ended_with_all_that_it_started() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let (tool, file) = (folder.path().join("tool"), folder.path().join("ids"));
    let file_shown = file.display();
    program(
        &tool,
        &format!("sleep 1000 &\necho $! >>{file_shown}; echo $$ >>{file_shown}; wait"),
    );
    let host = Host::new("/").with_tool("tool", &tool);
    run(async {
        let asked = host.run("tool", &[], Duration::from_secs(2));
        let Failure::Unreadable(reason) = asked.await.unwrap_err() else {
            panic!("a tool that hangs isn't absent");
        };
        assert_eq!(reason, "tool didn't answer within 2s");
        for id in ids(&file, 2).await {
            assert!(ended(id).await, "{id} still runs");
        }
    });
}

/// The same when nobody waits for the answer any more: the source itself was given up.
#[test]
fn a_source_that_is_given_up_leaves_no_tool_behind() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let (tool, file) = (folder.path().join("smartctl"), folder.path().join("ids"));
    program(
        &tool,
        &format!("echo $$ >>{}; exec sleep 1000", file.display()),
    );
    let host = Host::new(folder.path()).with_tool("smartctl", &tool);
    run(async {
        let id = {
            let asked = Smartctl.read(&host);
            tokio::select! {
                answer = asked => panic!("{answer:?}"),
                ids = ids(&file, 1) => ids[0],
            }
        };
        assert!(ended(id).await, "{id} still runs");
    });
}

/// One disk that hangs leaves the other readable.
#[test]
fn a_disk_that_fails_leaves_the_others_readable() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let tool = folder.path().join("smartctl");
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/smartctl");
    let recorded = recorded.display();
    program(
        &tool,
        &format!(
            "case \"$*\" in\n*--scan*) exec cat {recorded}/scan.json;;\n\
             */dev/nvme0) exec cat {recorded}/nvme.json;;\n\
             *megaraid,8*) exec cat {recorded}/sas.json;;\n\
             *) echo garbage; exit 64;;\nesac"
        ),
    );
    fs::create_dir_all(folder.path().join("sys/block/nvme0n1")).unwrap();
    let host = Host::new(folder.path()).with_tool("smartctl", &tool);
    let readings = run(Smartctl.read(&host)).unwrap();
    let of = |name: &str| -> Vec<&Reading> {
        let is = |it: &&Reading| it.component.to_string() == name;
        readings.iter().filter(is).collect()
    };
    assert!(of("disk/nvme0n1").len() > 10);
    assert!(of("disk/bus/0/megaraid,8").len() > 5);
    let [broken] = of("disk/sda")[..] else {
        panic!("{readings:#?}");
    };
    assert!(matches!(&broken.read, Read::Unreadable(reason) if reason.contains("not JSON")));
}

#[test]
fn probes_answer_and_only_those_that_are_safe_are_started() {
    let _alone = alone();
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("etc/kapok/health.d");
    let host = Host::new(root.path());
    let probes = Probes::new(Settings::default());
    assert!(matches!(run(probes.read(&host)), Err(Failure::Absent(_))));

    let says = |text: &str| format!("printf '%s' '{text}'");
    let verdict =
        r#"{"verdicts":[{"code":"UPS_ON_BATTERY","component":"ups1","condition":"degraded"}]}"#;
    program(&folder.join("ups"), &says(verdict));
    program(&folder.join("quiet"), &says("{}"));
    // Its words are bounded, and so is what it inherits.
    program(&folder.join("chatty"), "yes '{}' | head -c 70000");
    program(
        &folder.join("nosy"),
        "[ -z \"$HOME$SHELL_WORDS$CARGO_MANIFEST_DIR\" ] && [ $# = 0 ] && printf '{}'",
    );
    program(&folder.join("failing"), "echo no battery >&2; exit 3");
    program(&folder.join("Upper"), &says("{}"));
    program(&folder.join("loose"), &says("{}"));
    fs::set_permissions(folder.join("loose"), fs::Permissions::from_mode(0o777)).unwrap();
    symlink(folder.join("loose"), folder.join("link")).unwrap();
    let readings = run(probes.read(&host)).unwrap();
    let shown: Vec<String> = readings
        .iter()
        .map(|it| match &it.read {
            Read::Value(value) => format!("{} {} {value}", it.component, it.quantity.name),
            other => format!("{} {other:?}", it.component),
        })
        .collect();
    let reason = |name: &str| {
        shown
            .iter()
            .find(|it| it.starts_with(name))
            .unwrap()
            .as_str()
    };
    assert!(shown.contains(&"site/ups/UPS_ON_BATTERY/ups1 site_condition 1".to_owned()));
    for well in ["site/ups", "site/quiet", "site/nosy"] {
        assert!(shown.contains(&format!("{well} responds 1")), "{shown:#?}");
    }
    assert!(
        reason("site/chatty").contains("more than 65536 bytes"),
        "{shown:#?}"
    );
    assert!(
        reason("site/failing").contains("it ended with 3: no battery"),
        "{shown:#?}"
    );
    assert!(
        reason("site/Upper").contains("a probe's name"),
        "{shown:#?}"
    );
    for unsafe_one in ["site/loose", "site/link"] {
        assert!(
            reason(unsafe_one).contains("can be written by others"),
            "{shown:#?}"
        );
    }

    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(
        run(probes.read(&host)),
        Err(Failure::Unreadable(_))
    ));
}
