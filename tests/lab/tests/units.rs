//! What is shipped for systemd is what systemd takes: units, users, folders.
//!
//! systemd's own tools judge, on copies and in folders of their own; nothing of this machine is
//! asked or changed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "helpers of tests, which say why they skip"
)]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use kapok_lab::places;
use nix::unistd::Uid;

const UNITS: [&str; 2] = ["kapok-agent", "kapok-controller"];
const HELPER: &str = "kapok-helper";

fn shipped() -> PathBuf {
    places::workspace().join("systemd")
}

fn unit(name: &str) -> String {
    fs::read_to_string(shipped().join(format!("{name}.service"))).unwrap()
}

/// The values of a setting, in their order.
fn settings<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    let parse = |line: &'a str| line.strip_prefix(key)?.strip_prefix('=');
    unit.lines().filter_map(parse).collect()
}

/// What a tool of systemd complains about; none where it isn't installed.
fn complaints(tool: &str, arguments: &[&str]) -> Option<String> {
    let output = match Command::new(tool).args(arguments).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("SKIP {tool}: it isn't installed (Debian's package systemd)");
            return None;
        }
        output => output.unwrap(),
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let shown = String::from_utf8_lossy(&output.stdout);
    let failed = (!output.status.success()).then(|| format!("{}: {shown}", output.status));
    Some(said + &failed.unwrap_or_default())
}

/// A copy whose programs are there: the folder is to be judged, not what is installed here.
fn with_programs(folder: &Path, name: &str) -> String {
    let program = folder.join("program");
    fs::copy("/bin/true", &program).unwrap();
    let text = unit(name).replace(&format!("/usr/bin/{name}"), program.to_str().unwrap());
    let copy = folder.join(format!("{name}.service"));
    fs::write(&copy, text).unwrap();
    copy.to_str().unwrap().to_owned()
}

#[test]
fn units_are_clean() {
    let folder = tempfile::tempdir().unwrap();
    // The units that others name are there as well.
    let copies = UNITS.map(|name| (name, with_programs(folder.path(), name)));
    let helper = with_programs(folder.path(), HELPER);
    let socket = folder.path().join(format!("{HELPER}.socket"));
    fs::copy(shipped().join(format!("{HELPER}.socket")), &socket).unwrap();
    let socket = socket.to_str().unwrap().to_owned();
    for (name, copy) in [(HELPER, helper), (HELPER, socket)]
        .into_iter()
        .chain(copies)
    {
        // Other units of this machine are its own affair.
        let arguments = ["verify", "--man=no", "--recursive-errors=no", &copy];
        if let Some(complaints) = complaints("systemd-analyze", &arguments) {
            assert_eq!(complaints, "", "{name}");
        }
    }
}

/// The tool counts tenths.
#[test]
fn units_leave_little_exposed() {
    for (name, bound) in [("kapok-agent", 30), ("kapok-controller", 20), (HELPER, 50)] {
        let file = shipped().join(format!("{name}.service"));
        let arguments = [
            "security",
            "--offline=true",
            "--no-pager",
            &format!("--threshold={bound}"),
            file.to_str().unwrap(),
        ];
        if let Some(complaints) = complaints("systemd-analyze", &arguments) {
            assert_eq!(complaints, "", "{name}");
        }
    }
}

#[test]
fn programs_are_guarded_and_never_given_up() {
    for name in UNITS {
        let unit = unit(name);
        for (key, value) in [
            ("Type", "notify"),
            ("Restart", "always"),
            ("StartLimitIntervalSec", "0"),
            ("KillMode", "mixed"),
            ("LimitCORE", "0"),
        ] {
            assert_eq!(settings(&unit, key), [value], "{key} of {name}");
        }
        assert_eq!(settings(&unit, "WatchdogSec").len(), 1, "{name}");
        // A configuration with a mistake fails the reload before the program hears of it.
        let check = format!("/usr/bin/{name} --check-config");
        let reload = settings(&unit, "ExecReload");
        assert_eq!(reload, [&*check, "/bin/kill -HUP $MAINPID"], "{name}");
    }
}

/// The agent serves without libvirt, whichever it is; and its sandbox shows it the server as it is.
#[test]
fn the_agent_needs_nobody_and_sees_everything() {
    let unit = unit("kapok-agent");
    for key in ["Requires", "Requisite", "BindsTo", "PartOf", "Upholds"] {
        assert!(settings(&unit, key).is_empty(), "{key}");
    }
    let after = settings(&unit, "After").join(" ");
    for libvirt in ["libvirtd.service", "virtqemud.socket"] {
        assert!(after.split(' ').any(|other| other == libvirt), "{libvirt}");
    }
    // Every file system would be reported as one that can't be written.
    assert_eq!(settings(&unit, "ProtectSystem"), ["full"]);
    for hides in [
        "ProtectHome",
        "PrivateDevices",
        "PrivateNetwork",
        "ProcSubset",
    ] {
        assert!(settings(&unit, hides).is_empty(), "{hides}");
    }
}

/// It is root; what it may do and reach beside is what disks and management controllers take.
#[test]
fn the_helper_has_few_rights_and_answers_few() {
    let unit = unit(HELPER);
    for (key, values) in [
        ("Type", &["notify"][..]),
        ("KillMode", &["mixed"]),
        ("LimitCORE", &["0"]),
        ("Requires", &["kapok-helper.socket"]),
        (
            "CapabilityBoundingSet",
            &["CAP_SYS_RAWIO CAP_SYS_ADMIN CAP_MKNOD"],
        ),
        ("NoNewPrivileges", &["yes"]),
        ("DevicePolicy", &["closed"]),
        ("ProtectSystem", &["strict"]),
        ("PrivateNetwork", &["yes"]),
        ("RestrictAddressFamilies", &["AF_UNIX"]),
    ] {
        assert_eq!(settings(&unit, key), values, "{key}");
    }
    assert_eq!(settings(&unit, "WatchdogSec").len(), 1);
    // No disk is opened to be written.
    for device in settings(&unit, "DeviceAllow") {
        let disk = device.starts_with("block-") || device.starts_with("char-nvme");
        assert!(!disk || device.ends_with(" r"), "{device}");
    }
    let socket = fs::read_to_string(shipped().join(format!("{HELPER}.socket"))).unwrap();
    for (key, value) in [
        ("ListenStream", "/run/kapok/helper.sock"),
        ("SocketUser", "root"),
        ("SocketGroup", "kapok"),
        ("SocketMode", "0660"),
    ] {
        assert_eq!(settings(&socket, key), [value], "{key}");
    }
    // The agent brings it up, and runs without it.
    let agent = self::unit("kapok-agent");
    assert!(settings(&agent, "Wants").contains(&"kapok-helper.socket"));
}

#[test]
fn users_and_folders_are_made() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("etc")).unwrap();
    let tables = root.path().join("sys/firmware/dmi/tables");
    fs::create_dir_all(&tables).unwrap();
    fs::write(tables.join("DMI"), "tables").unwrap();
    fs::set_permissions(tables.join("DMI"), fs::Permissions::from_mode(0o400)).unwrap();
    let inside = format!("--root={}", root.path().display());
    let of = |folder: &str| {
        let file = |name: &&str| shipped().join(folder).join(format!("{name}.conf"));
        UNITS.iter().chain([&HELPER]).map(file).collect::<Vec<_>>()
    };
    let (users, folders) = (of("sysusers.d"), of("tmpfiles.d"));
    let texts = |files: &[PathBuf]| {
        let text = |file: &PathBuf| file.to_str().unwrap().to_owned();
        files.iter().map(text).collect::<Vec<_>>()
    };
    let run = |tool: &str, options: &[&str], files: &[PathBuf]| {
        let files = texts(files);
        let files = files.iter().map(String::as_str);
        let arguments: Vec<&str> = options.iter().copied().chain(files).collect();
        complaints(tool, &arguments)
    };
    let Some(said) = run("systemd-sysusers", &[&inside], &users) else {
        return;
    };
    assert!(
        said.lines().all(|line| line.starts_with("Creating ")),
        "{said}"
    );
    let groups = fs::read_to_string(root.path().join("etc/group")).unwrap();
    let members = |group: &str| {
        let line = groups.lines().find(|line| line.starts_with(group)).unwrap();
        line.rsplit(':').next().unwrap().to_owned()
    };
    // As good as root: the controller isn't in it.
    assert_eq!(members("libvirt:"), "kapok");
    for name in UNITS {
        let user = settings(&unit(name), "User").join(" ");
        let users = fs::read_to_string(root.path().join("etc/passwd")).unwrap();
        let known = users
            .lines()
            .any(|line| line.starts_with(&format!("{user}:")));
        assert!(known, "{name} runs as {user}");
    }
    if !Uid::effective().is_root() {
        println!("SKIP systemd-tmpfiles: only root gives folders away");
        return;
    }
    let Some(said) = run("systemd-tmpfiles", &["--create", &inside], &folders) else {
        return;
    };
    assert_eq!(said, "");
    for (folder, mode) in [
        ("etc/kapok/policies.d", 0o755),
        ("etc/kapok/health.d", 0o755),
        ("var/lib/kapok/agent", 0o700),
        ("var/lib/kapok/controller", 0o700),
        ("run/kapok", 0o755),
    ] {
        let is = fs::metadata(root.path().join(folder)).unwrap();
        assert_eq!(is.permissions().mode() & 0o7777, mode, "{folder}");
        assert_eq!(is.uid() == 0, mode == 0o755, "{folder}");
    }
    // The firmware's tables: for the agent, and nobody else but root.
    for (path, mode) in [("run/kapok/dmi", 0o750), ("run/kapok/dmi/DMI", 0o440)] {
        let is = fs::metadata(root.path().join(path)).unwrap();
        assert_eq!(is.permissions().mode() & 0o7777, mode, "{path}");
        assert!(is.uid() == 0 && is.gid() != 0, "{path}");
    }
}
