//! The lab's own promises: hosts are separate, guests boot, nothing stays.
//!
//! One test after another: each raises a lab of its own, and they look for leftovers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "helpers of tests, which say why they skip"
)]

use std::io::{BufRead, BufReader, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use kapok_lab::{Host, Lab, Options, User, guest, leftovers, libvirt, wait};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Says to a copy of this test program that it is the raiser to be killed.
const RAISER: &str = "KAPOK_LAB_TEST_RAISER";

fn turn(test: &str) -> Option<MutexGuard<'static, ()>> {
    if let Some(obstacle) = Lab::obstacle() {
        println!("SKIP {test}: {obstacle}");
        return None;
    }
    Some(
        ONE_AT_A_TIME
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner),
    )
}

/// Puts a guest's disk into the pool and starts it; gives the path of its console's log inside.
fn boot_guest(host: &Host, name: &str) -> String {
    let image = guest::build().unwrap();
    let disk = format!("{}/{name}.qcow2", libvirt::POOL_FOLDER);
    std::fs::copy(image.disk, host.path(&disk)).unwrap();
    let console = format!("/var/log/libvirt/{name}-console.log");
    let xml = format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>
         <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
         <on_poweroff>destroy</on_poweroff>
         <devices>
           <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
             <source file='{disk}'/><target dev='vda' bus='virtio'/></disk>
           <interface type='network'><source network='{}'/><model type='virtio'/></interface>
           <serial type='file'><source path='{console}'/></serial>
           <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
           <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
         </devices></domain>",
        libvirt::NETWORK
    );
    host.machine().write("/run/guest.xml", &xml).unwrap();
    host.virsh(&["create", "/run/guest.xml"]).unwrap();
    console
}

fn wait_for_console(host: &Host, console: &str, text: &str) {
    let path = host.path(console);
    wait::until(
        &format!("{text} on the console"),
        Duration::from_secs(90),
        || {
            let said = std::fs::read(&path).unwrap_or_default();
            Ok(String::from_utf8_lossy(&said).contains(text).then_some(()))
        },
    )
    .unwrap();
}

/// Whether one host's packets get to another: a closed port is refused there.
fn reaches(from: &Host, to: &Host) -> bool {
    let closed = SocketAddr::from((to.address(), 9));
    let error = from.machine().connect(closed).unwrap_err();
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

#[test]
fn hosts_are_separate_and_a_guest_boots() {
    let Some(_turn) = turn("hosts_are_separate_and_a_guest_boots") else {
        return;
    };
    let start = Instant::now();
    let lab = Lab::raise(&Options { hosts: 2 }).unwrap();
    println!("2 hosts after {:.1} s", start.elapsed().as_secs_f32());
    let [one, two] = lab.hosts() else {
        panic!("two hosts")
    };

    // Each is itself, and each is in the group that may use libvirt without being root.
    for host in [one, two] {
        assert_eq!(host.run("hostname", |c| c).unwrap().trim(), host.name());
        assert_eq!(host.running_domains().unwrap(), Vec::<String>::new());
        let uuid = host
            .run("virsh", |c| {
                c.user(User::Kapok)
                    .args(["-q", "-c", "qemu:///system", "capabilities"])
            })
            .unwrap();
        assert!(uuid.contains(&host.uuid().to_string()), "{uuid}");
        assert_eq!(
            host.run("id", |c| c.user(User::Kapok).arg("-un"))
                .unwrap()
                .trim(),
            "kapok"
        );
        assert!(host.virsh(&["pool-list"]).unwrap().contains(libvirt::POOL));
        assert!(
            host.virsh(&["net-list"])
                .unwrap()
                .contains(libvirt::NETWORK)
        );
    }
    assert!(reaches(one, two));

    let console = boot_guest(one, "guest");
    wait_for_console(one, &console, guest::USERLAND);
    println!("userland after {:.1} s", start.elapsed().as_secs_f32());
    assert_eq!(one.running_domains().unwrap(), ["guest"]);
    assert_eq!(two.running_domains().unwrap(), Vec::<String>::new());

    // It gets an address, and its agent answers.
    wait_for_console(one, &console, "kapok-address 192.168.77.");
    wait::until("the guest agent", Duration::from_secs(30), || {
        let ping = ["qemu-agent-command", "guest", r#"{"execute":"guest-ping"}"#];
        Ok(one.virsh(&ping).ok())
    })
    .unwrap();
    println!("guest agent after {:.1} s", start.elapsed().as_secs_f32());

    // libvirtd's death is not the guest's, whose QEMU is found by its pid file.
    let pids = one.qemu_pids().unwrap();
    assert_eq!(pids.len(), 1);
    one.restart_libvirtd().unwrap();
    assert_eq!(one.qemu_pids().unwrap(), pids);
    assert_eq!(one.running_domains().unwrap(), ["guest"]);

    // The power button ends it in order, and its QEMU doesn't stay a zombie.
    one.virsh(&["shutdown", "guest", "--mode", "acpi"]).unwrap();
    wait_for_console(one, &console, "kapok-goodbye");
    wait::until("the guest's end", Duration::from_secs(30), || {
        Ok(one.running_domains()?.is_empty().then_some(()))
    })
    .unwrap();
    assert_eq!(one.qemu_pids().unwrap(), []);

    lab.close().unwrap();
    assert_eq!(leftovers(), Vec::<String>::new());
}

#[test]
fn a_power_cut_keeps_disks_and_changes_the_boot_id() {
    let Some(_turn) = turn("a_power_cut_keeps_disks_and_changes_the_boot_id") else {
        return;
    };
    let lab = Lab::raise(&Options { hosts: 2 }).unwrap();
    let (host, other) = (lab.host(0), lab.host(1));
    let boot_id = || {
        host.run("cat", |c| {
            c.user(User::Kapok).arg("/proc/sys/kernel/random/boot_id")
        })
        .unwrap()
    };
    let first = boot_id();
    host.machine().write("/var/lib/kapok/kept", "yes").unwrap();
    host.machine().write("/run/kapok/lost", "yes").unwrap();
    let mut inside = host.spawn("sleeper", "sleep", |c| c.arg("1000")).unwrap();

    host.cut_power().unwrap();
    inside.wait(Duration::from_secs(5)).unwrap();
    assert!(!reaches(other, host));

    host.power_on().unwrap();
    assert_ne!(boot_id(), first);
    assert!(reaches(other, host));
    assert!(host.path("/var/lib/kapok/kept").exists());
    assert!(!host.path("/run/kapok/lost").exists());
    assert!(
        host.virsh(&["net-list"])
            .unwrap()
            .contains(libvirt::NETWORK)
    );

    host.unplug().unwrap();
    assert!(!reaches(other, host));
    host.plug().unwrap();
    assert!(reaches(other, host));
    lab.close().unwrap();
    assert_eq!(leftovers(), Vec::<String>::new());
}

#[test]
fn frozen_processes_thaw_and_end() {
    let Some(_turn) = turn("frozen_processes_thaw_and_end") else {
        return;
    };
    let lab = Lab::raise(&Options { hosts: 0 }).unwrap();
    let script = "while :; do echo tick; sleep 0.1; done";
    let mut process = lab
        .hub()
        .command("sh")
        .user(User::Kapok)
        .args(["-c", script])
        .spawn("ticker")
        .unwrap();
    process
        .wait_for_log("tick", Duration::from_secs(5))
        .unwrap();
    process.freeze().unwrap();
    wait::pause(Duration::from_millis(300));
    let frozen = process.log();
    wait::pause(Duration::from_millis(500));
    assert_eq!(process.log(), frozen);
    process.thaw().unwrap();
    wait::until("more ticks", Duration::from_secs(5), || {
        Ok((process.log() != frozen).then_some(()))
    })
    .unwrap();
    process.terminate(Duration::from_secs(5)).unwrap();
    assert!(!process.is_alive());
    lab.close().unwrap();
    assert_eq!(leftovers(), Vec::<String>::new());
}

#[test]
fn a_killed_raiser_leaves_nothing() {
    if std::env::var_os(RAISER).is_some() {
        raise_and_wait();
        return;
    }
    let Some(_turn) = turn("a_killed_raiser_leaves_nothing") else {
        return;
    };
    guest::build().unwrap();
    let mut raiser = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_raiser_leaves_nothing", "--nocapture"])
        .env(RAISER, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(raiser.stdout.take().unwrap());
    let folder = output
        .lines()
        .map_while(Result::ok)
        .find_map(|line| Some(line.split_once("raised ")?.1.to_owned()))
        .expect("the raiser raises a lab");
    let inside = processes_of(&folder);
    assert!(
        inside >= 5,
        "init, libvirtd and QEMU of a host, and the hub's init: {inside}"
    );

    raiser.kill().unwrap();
    raiser.wait().unwrap();
    wait::until("the end of everything", Duration::from_secs(20), || {
        let gone = !Path::new(&folder).exists() && processes_of(&folder) == 0;
        Ok(gone.then_some(()))
    })
    .unwrap();
    assert_eq!(leftovers(), Vec::<String>::new());
}

fn raise_and_wait() {
    let lab = Lab::raise(&Options { hosts: 1 }).unwrap();
    boot_guest(lab.host(0), "guest");
    println!("raised {}", lab.folder().display());
    // Until the kill.
    let _end = std::io::stdin().lines().next();
    wait::pause(Duration::from_mins(1));
}

/// How many processes have a mount from the lab's folder, counted without the lab's own code.
fn processes_of(folder: &str) -> usize {
    let name = Path::new(folder)
        .file_name()
        .unwrap()
        .to_string_lossy()
        .into_owned();
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(Result::ok)
        .filter(|entry| {
            std::fs::read_to_string(entry.path().join("mountinfo"))
                .is_ok_and(|mounts| mounts.contains(&name))
        })
        .count()
}
