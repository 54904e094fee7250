//! A virtual machine whose hardware can be made to fail: QEMU without acceleration, an NVMe disk, a
//! serial console to type at, and the monitor.
//!
//! The guest is the lab's. What it runs comes on a disk of its own; it is reached over a port of
//! loopback alone, and reaches nothing itself.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use kapok_lab::guest;
use serde_json::{Value, json};

/// How long the guest may take for one thing: it is slow, and the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A running machine; ends with its value.
pub(crate) struct Vm {
    console: ChildStdin,
    lines: Receiver<String>,
    monitor: PathBuf,
    qemu: Child,
}

impl Vm {
    /// Starts one with this file as its first disk (`/dev/vda`) and an empty NVMe disk. Its port
    /// `port` is reached through [`Vm::forwarded`].
    pub(crate) fn start(folder: &Path, disk: &Path, port: u16) -> Self {
        let image = guest::build().unwrap();
        let (medium, monitor) = (folder.join("medium"), folder.join("monitor"));
        File::create(&medium).unwrap().set_len(64 << 20).unwrap();
        let drive =
            |id: &str, path: &Path| format!("file={},if=none,format=raw,id={id}", path.display());
        let net = format!("user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:{port}");
        let mut qemu = Command::new("qemu-system-x86_64")
            .args(["-machine", "pc,accel=tcg", "-m", "768"])
            .args(["-display", "none", "-nodefaults", "-no-user-config"])
            .args(["-no-reboot", "-serial", "stdio"])
            .arg("-kernel")
            .arg(&image.kernel)
            .arg("-initrd")
            .arg(&image.initrd)
            .args(["-append", "console=ttyS0 quiet loglevel=1"])
            .args(["-drive", &drive("root", disk)])
            .args(["-device", "virtio-blk-pci,drive=root"])
            .args(["-drive", &drive("medium", &medium)])
            .args(["-device", "nvme,id=disk,serial=KAPOK0001,drive=medium"])
            .args(["-netdev", &net])
            .args(["-device", "virtio-net-pci,netdev=net,romfile="])
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", monitor.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let console = qemu.stdin.take().unwrap();
        let lines = listen(&mut qemu);
        Self {
            console,
            lines,
            monitor,
            qemu,
        }
    }

    /// Types a line at its console.
    pub(crate) fn say(&mut self, command: &str) {
        writeln!(self.console, "{command}").unwrap();
    }

    /// The rest of the next line that has this text.
    pub(crate) fn hear(&self, text: &str) -> String {
        let mut heard = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            if let Some((_, rest)) = line.split_once(text) {
                return rest.trim().to_owned();
            }
            heard.push(line);
        }
        panic!("the guest never said {text:?}, but: {heard:#?}");
    }

    /// All lines up to the one that has this text, as far as there are.
    pub(crate) fn before(&self, text: &str) -> String {
        let mut heard = String::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            if line.contains(text) {
                break;
            }
            heard.push_str(&line);
        }
        heard
    }

    /// Does something in its shell, and waits until it is done.
    pub(crate) fn run(&mut self, command: &str) {
        // In two pieces, lest the echo of the command be taken for its answer.
        self.say(&format!("{command} && echo kapok-''done"));
        self.hear("kapok-done");
    }

    /// The monitor, for as long as it is kept; there is one at a time.
    pub(crate) fn monitor(&self) -> Monitor {
        let monitor = UnixStream::connect(&self.monitor).unwrap();
        monitor.set_read_timeout(Some(PATIENCE)).unwrap();
        let answers = BufReader::new(monitor.try_clone().unwrap());
        let mut monitor = Monitor { monitor, answers };
        monitor.next();
        monitor.order("qmp_capabilities", &json!({}));
        monitor
    }

    /// The port of loopback that leads to the guest's.
    pub(crate) fn forwarded(&self) -> u16 {
        let asked = json!({"command-line": "info usernet"});
        let table = self.monitor().order("human-monitor-command", &asked);
        let table = table.as_str().unwrap();
        // "TCP[HOST_FORWARD]  9  127.0.0.1 36245  10.0.2.15  7701 …"
        let line = table.lines().find(|it| it.contains("HOST_FORWARD"));
        let port = line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
        port.unwrap_or_else(|| panic!("no port is forwarded: {table}"))
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// QEMU's monitor.
pub(crate) struct Monitor {
    monitor: UnixStream,
    answers: BufReader<UnixStream>,
}

impl Monitor {
    /// What an order gives. Events before its answer are gone.
    pub(crate) fn order(&mut self, order: &str, arguments: &Value) -> Value {
        let order = json!({"execute": order, "arguments": arguments});
        writeln!(self.monitor, "{order}").unwrap();
        loop {
            let mut answer = self.next();
            assert!(answer.get("error").is_none(), "{order}: {answer}");
            if let Some(given) = answer.get_mut("return") {
                return given.take();
            }
        }
    }

    /// Waits for an event.
    pub(crate) fn hear(&mut self, event: &str) {
        while self.next()["event"] != event {}
    }

    /// Sets the bits of the NVMe disk's critical warning.
    pub(crate) fn warn(&mut self, bits: u8) {
        let set = json!({
            "path": "/machine/peripheral/disk",
            "property": "smart_critical_warning",
            "value": bits,
        });
        self.order("qom-set", &set);
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        let length = self.answers.read_line(&mut line).unwrap();
        assert_ne!(length, 0, "QEMU closed its monitor");
        serde_json::from_str(&line).unwrap()
    }
}

/// The console's lines, as they come.
fn listen(qemu: &mut Child) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    let mut output = BufReader::new(qemu.stdout.take().unwrap());
    thread::spawn(move || {
        let mut bytes = Vec::new();
        while output
            .by_ref()
            .read_until(b'\n', &mut bytes)
            .is_ok_and(|read| read > 0)
        {
            let line = String::from_utf8_lossy(&bytes).into_owned();
            if sender.send(line).is_err() {
                return;
            }
            bytes.clear();
        }
    });
    lines
}

/// Copies programs into a folder, with all that they are linked with; the loader is "ld".
pub(crate) fn copy_programs(programs: &[(&Path, &str)], folder: &Path) {
    for (program, name) in programs {
        fs::copy(program, folder.join(name)).unwrap();
        let said = Command::new("ldd").arg(program).output().unwrap();
        for line in String::from_utf8_lossy(&said.stdout).lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (name, path) = match words[..] {
                [name, "=>", path, ..] => (name, path),
                [path, _] if path.starts_with('/') => ("ld", path),
                _ => continue,
            };
            fs::copy(path, folder.join(name)).unwrap();
        }
    }
}

/// A disk image that holds what a folder does, with room to write.
pub(crate) fn make_disk(folder: &Path, disk: &Path) {
    let made = Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-d"])
        .arg(folder)
        .arg(disk)
        .arg("1G")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}
