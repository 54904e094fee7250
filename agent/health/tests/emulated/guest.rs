//! A QEMU guest whose NVMe disk reports a critical warning: the real kernel's driver, the real
//! smartctl, the real source and the judge, all inside the guest.
//!
//! The guest is the lab's, without acceleration. What runs in it is this same test program, which
//! comes with smartctl and all libraries as an archive on a second disk; both ends speak over the
//! serial console.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use kapok_health::{Host, config::Config, source};
use kapok_lab::{guest, run::has_program};
use serde_json::{Value, json};

use crate::{Running, Watch, write};

/// How long the guest may take for one thing: it is slow, and the machine may be busy.
const GUEST_PATIENCE: Duration = Duration::from_secs(90);
/// What the line of an assessment begins with.
const MARK: &str = "kapok-assessment ";
/// NVMe's bit for a medium that can no longer be trusted. Source: NVM Express base specification,
/// "Critical Warning".
const RELIABILITY: u8 = 1 << 2;

/// A guest, and its console.
struct Guest {
    console: ChildStdin,
    lines: Receiver<String>,
    monitor: PathBuf,
    _running: Running,
}

impl Guest {
    fn start(folder: &Path, archive: &Path) -> Self {
        let image = guest::build().unwrap();
        let (disk, monitor) = (folder.join("disk"), folder.join("monitor"));
        fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();
        let file =
            |id: &str, path: &Path| format!("file={},if=none,format=raw,id={id}", path.display());
        let mut child = Command::new("qemu-system-x86_64")
            .args([
                "-machine",
                "pc,accel=tcg",
                "-m",
                "512",
                "-display",
                "none",
                "-nodefaults",
            ])
            .args([
                "-no-user-config",
                "-no-reboot",
                "-net",
                "none",
                "-serial",
                "stdio",
            ])
            .arg("-kernel")
            .arg(&image.kernel)
            .arg("-initrd")
            .arg(&image.initrd)
            .args(["-append", "console=ttyS0 quiet loglevel=1"])
            .args(["-drive", &file("archive", archive)])
            .args(["-device", "virtio-blk-pci,drive=archive"])
            .args(["-drive", &file("medium", &disk)])
            .args(["-device", "nvme,id=disk,serial=KAPOK0001,drive=medium"])
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", monitor.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let console = child.stdin.take().unwrap();
        let lines = listen(&mut child);
        Self {
            console,
            lines,
            monitor,
            _running: Running(child),
        }
    }

    fn say(&mut self, command: &str) {
        writeln!(self.console, "{command}").unwrap();
    }

    /// The rest of the next line that has this text.
    fn hear(&self, text: &str) -> String {
        let mut heard = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(GUEST_PATIENCE) {
            if let Some((_, rest)) = line.split_once(text) {
                return rest.trim().to_owned();
            }
            heard.push(line);
        }
        panic!("the guest never said {text:?}, but: {heard:#?}");
    }

    /// What the watch inside makes of the guest's hardware.
    fn assessment(&mut self) -> Value {
        self.say("/h/ld --library-path /h /h/watch --exact guest::inside --ignored --nocapture");
        let said = self.hear(MARK);
        // Whoever else writes to the console may end up on the same line, behind it.
        let mut values = serde_json::Deserializer::from_str(&said).into_iter();
        values.next().unwrap().unwrap()
    }

    /// Sets the bits of the disk's critical warning.
    fn warn(&self, bits: u8) {
        let monitor = UnixStream::connect(&self.monitor).unwrap();
        monitor.set_read_timeout(Some(GUEST_PATIENCE)).unwrap();
        let mut answers = BufReader::new(monitor.try_clone().unwrap());
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        for order in [
            json!({"execute": "qmp_capabilities"}),
            json!({"execute": "qom-set", "arguments": {
                "path": "/machine/peripheral/disk",
                "property": "smart_critical_warning",
                "value": bits,
            }}),
        ] {
            writeln!(&monitor, "{order}").unwrap();
            line.clear();
            while !line.contains("\"return\"") {
                assert!(!line.contains("\"error\""), "{line}");
                line.clear();
                assert_ne!(
                    answers.read_line(&mut line).unwrap(),
                    0,
                    "QEMU closed its monitor"
                );
            }
        }
    }
}

/// The console's lines, as they come.
fn listen(child: &mut Child) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    thread::spawn(move || {
        let mut bytes = Vec::new();
        while output
            .by_ref()
            .read_until(b'\n', &mut bytes)
            .is_ok_and(|read| read > 0)
        {
            if sender
                .send(String::from_utf8_lossy(&bytes).into_owned())
                .is_err()
            {
                return;
            }
            bytes.clear();
        }
    });
    lines
}

/// This program, smartctl, and what both are linked with, as an archive.
fn archive(folder: &Path, smartctl: &Path) -> PathBuf {
    let (inside, archive) = (folder.join("h"), folder.join("archive.tar"));
    fs::create_dir(&inside).unwrap();
    let own = std::env::current_exe().unwrap();
    for (program, name) in [(own.as_path(), "watch"), (smartctl, "smartctl.real")] {
        fs::copy(program, inside.join(name)).unwrap();
        for (name, library) in libraries(program) {
            fs::copy(library, inside.join(name)).unwrap();
        }
    }
    let start = "#!/bin/sh\nexec /h/ld --library-path /h /h/smartctl.real \"$@\"\n";
    write(&inside.join("smartctl"), start);
    let packed = Command::new("tar")
        .arg("-C")
        .arg(folder)
        .args(["--mode=755", "-cf"])
        .arg(&archive)
        .arg("h")
        .status();
    assert!(packed.unwrap().success());
    archive
}

/// What a program is linked with, by name; the loader is "ld".
fn libraries(program: &Path) -> BTreeMap<String, PathBuf> {
    let said = Command::new("ldd").arg(program).output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let library = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [name, "=>", path, ..] => Some((name.to_owned(), PathBuf::from(path))),
            [path, _] if path.starts_with('/') => Some(("ld".to_owned(), PathBuf::from(path))),
            _ => None,
        }
    };
    said.lines().filter_map(library).collect()
}

fn verdicts(assessment: &Value) -> Vec<String> {
    let list = assessment["verdicts"].as_array().unwrap();
    let show = |it: &Value| {
        format!(
            "{} {}",
            it["code"].as_str().unwrap(),
            it["component"].as_str().unwrap()
        )
    };
    list.iter().map(show).collect()
}

#[test]
fn a_guest_s_disk_reports_a_critical_warning() {
    for program in ["qemu-system-x86_64", "smartctl", "ldd", "tar"] {
        if !has_program(program) {
            println!(
                "SKIP the guest's disk: {program} is missing; `cargo xtask setup --dev` installs it"
            );
            return;
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let smartctl = Host::new("/").tool("smartctl").unwrap();
    let archive = archive(folder.path(), &smartctl);
    let mut guest = Guest::start(folder.path(), &archive);
    guest.hear("kapok-userland");
    // In two pieces, lest the echo of the command be taken for its answer.
    guest.say("tar -xf /dev/vda -C / && echo un''packed");
    guest.hear("unpacked");

    let well = guest.assessment();
    let disk = "disk/nvme0n1";
    assert_eq!(well["components"][disk], "healthy", "{well:#}");
    guest.warn(RELIABILITY);
    let warned = guest.assessment();
    assert_eq!(warned["components"][disk], "failing", "{warned:#}");
    assert_eq!(warned["condition"], "failing", "{warned:#}");
    let found = verdicts(&warned);
    assert!(
        found.contains(&format!("NVME_UNRELIABLE {disk}")),
        "{found:#?}"
    );
    guest.warn(0);
    let again = guest.assessment();
    assert_eq!(again["components"][disk], "healthy", "{again:#}");
}

/// All sources once, inside the guest.
#[tokio::test]
#[ignore = "runs inside the guest of the test above"]
async fn inside() {
    let mut watch = Watch::new(Host::new("/").with_tool("smartctl", "/h/smartctl"));
    let mut assessment = None;
    for source in source::all(&Config::default()) {
        assessment = Some(watch.round(&*source, 0).await);
    }
    println!(
        "{MARK}{}",
        serde_json::to_string(&assessment.unwrap()).unwrap()
    );
}
