//! A management controller over IPMI: openipmi's `ipmi_sim`, whose sensors are files, asked
//! through ipmitool over LAN.

use std::{fmt::Write as _, path::Path, process::Command};

use kapok_health::{
    Condition, Host,
    source::ipmi::{Ipmi, Settings},
};
use kapok_lab::run::has_program;

use crate::{Running, Watch, free_udp_port, has, lacks, until, value, write};

/// A sensor of the emulated controller.
struct Sensor {
    number: u8,
    name: &'static str,
    entity: (u8, u8),
    kind: u8,
    /// What it has when all is well.
    raw: u8,
    says: Says,
}

enum Says {
    /// A value: its unit, raw times this, and six limits, from lower non-critical to upper
    /// non-recoverable; zero is none.
    Value {
        unit: u8,
        times: u8,
        limits: [u8; 6],
    },
    /// Events, by this table.
    Events { table: u8 },
}

const SENSORS: &[Sensor] = &[
    Sensor {
        number: 1,
        name: "Inlet Temp",
        entity: (0x37, 1),
        kind: 1,
        raw: 24,
        says: Says::Value {
            unit: 1,
            times: 1,
            limits: [0, 0, 0, 42, 47, 55],
        },
    },
    Sensor {
        number: 2,
        name: "FAN1",
        entity: (0x1d, 1),
        kind: 4,
        raw: 120,
        says: Says::Value {
            unit: 0x12,
            times: 60,
            limits: [20, 10, 0, 0, 0, 0],
        },
    },
    Sensor {
        number: 3,
        name: "PS2 Status",
        entity: (0x0a, 2),
        kind: 8,
        raw: 1,
        says: Says::Events { table: 0x6f },
    },
    Sensor {
        number: 4,
        name: "PS Redundancy",
        entity: (0x0a, 1),
        kind: 8,
        raw: 1,
        says: Says::Events { table: 0x0b },
    },
];

impl Sensor {
    /// Its record in the controller's repository. Source: IPMI 2.0, tables 43-1 and 43-2.
    fn record(&self) -> Vec<u8> {
        let Self {
            number,
            entity: (entity, instance),
            kind,
            ..
        } = *self;
        let owner = [0x20, 0, number, entity, instance];
        let name = self.name.as_bytes();
        let name_bytes = [&[0xc0 | u8::try_from(name.len()).unwrap()], name].concat();
        let (record, body) = match self.says {
            Says::Value {
                unit,
                times,
                limits,
            } => {
                let mask = self.mask();
                let settings = [0x7f, 0x68, kind, 1, 0, 0, 0, 0, mask, mask, 0, unit, 0];
                let conversion = [0, times, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0];
                let [lnc, lc, lnr, unc, uc, unr] = limits;
                let limits = [unr, uc, unc, lnr, lc, lnc, 2, 2, 0, 0, 0];
                (1, [&settings[..], &conversion, &limits].concat())
            }
            Says::Events { table } => {
                let settings = [0x67, 0x40, kind, table, 255, 0, 255, 0, 255, 0, 0xc0, 0, 0];
                (2, [&settings[..], &[1, 0, 0, 0, 0, 0, 0, 0]].concat())
            }
        };
        let body = [&owner[..], &body, &name_bytes].concat();
        let length = u8::try_from(body.len()).unwrap();
        [&[0, 0, 0x51, record, length][..], &body].concat()
    }

    /// Which limits there are, by bit.
    fn mask(&self) -> u8 {
        let Says::Value { limits, .. } = self.says else {
            return 0;
        };
        let bits = limits.iter().enumerate();
        bits.map(|(bit, limit)| u8::from(*limit != 0) << bit).sum()
    }

    /// What sets it up. No quoted word of the emulator may hold a blank.
    fn commands(&self, folder: &Path) -> String {
        let Self {
            number, kind, raw, ..
        } = *self;
        let (file, mut text) = (folder.join(number.to_string()), String::new());
        write(&file, format!("{raw}\n"));
        let bytes: Vec<String> = self
            .record()
            .iter()
            .map(|it| format!("{it:#04x}"))
            .collect();
        let table = match self.says {
            Says::Value { .. } => 1,
            Says::Events { table } => table,
        };
        writeln!(text, "main_sdr_add 0x20 {}", bytes.join(" ")).unwrap();
        let file = file.display();
        writeln!(
            text,
            "sensor_add 0x20 0 {number} {kind} {table} poll 50 file \"{file}\""
        )
        .unwrap();
        let events = match self.says {
            Says::Value {
                limits: [lnc, lc, lnr, unc, uc, unr],
                ..
            } => {
                let mask = self.mask();
                let limits = format!("{unr} {uc} {unc} {lnr} {lc} {lnc}");
                writeln!(
                    text,
                    "sensor_set_threshold 0x20 0 {number} settable {mask:06b} {limits}"
                )
                .unwrap();
                "000111111111111"
            }
            Says::Events { .. } => "000000011111111",
        };
        let events = [events; 4].join(" ");
        writeln!(
            text,
            "sensor_set_event_support 0x20 0 {number} enable scanning per-state {events}"
        )
        .unwrap();
        text
    }
}

fn start(folder: &Path, port: u16) -> Running {
    let mut commands = "mc_setbmc 0x20\n\
        mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02\n\
        sel_enable 0x20 1000 0x0a\n"
        .to_owned();
    for sensor in SENSORS {
        commands.push_str(&sensor.commands(folder));
    }
    commands.push_str("mc_enable 0x20\n");
    write(&folder.join("commands"), commands);
    let lan = format!(
        "name \"kapok\"\nset_working_mc 0x20\n  startlan 1\n    addr 127.0.0.1 {port}\n    \
         priv_limit admin\n    allowed_auths_admin none md5\n    \
         guid a123456789abcdefa123456789abcdef\n  endlan\n  \
         user 1 true \"\" \"\" user 10 none md5\n  \
         user 2 true \"kapok\" \"secret\" admin 10 none md5\n"
    );
    write(&folder.join("lan"), lan);
    let state = folder.join("state");
    std::fs::create_dir(&state).unwrap();
    let mut command = Command::new("ipmi_sim");
    command.arg("-n").arg("-c").arg(folder.join("lan"));
    command
        .arg("-f")
        .arg(folder.join("commands"))
        .arg("-s")
        .arg(state);
    Running::start(&mut command, &folder.join("log"))
}

/// The verdict follows a sensor within one round: hot, stopped, without input; and what was there
/// and no longer answers is unknown.
#[tokio::test]
async fn a_controller_s_sensors_over_lan() {
    for tool in ["ipmi_sim", "ipmitool"] {
        if !has_program(tool) {
            println!("SKIP IPMI: {tool} is missing; `cargo xtask setup --dev` installs it");
            return;
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let port = free_udp_port();
    let mut controller = start(folder.path(), port);
    let password = folder.path().join("password");
    write(&password, "secret");
    let port = port.to_string();
    let password = password.to_string_lossy();
    let way = [
        "-I",
        "lanplus",
        "-C",
        "3",
        "-N",
        "1",
        "-R",
        "2",
        "-H",
        "127.0.0.1",
        "-p",
        &port,
    ];
    let who = ["-U", "kapok", "-f", &password];
    let arguments = [&way[..], &who]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect();
    let settings = Settings {
        arguments,
        ..Settings::default()
    };
    settings.check().unwrap();
    let source = Ipmi::new(settings);
    let mut watch = Watch::new(Host::new("/"));

    let host = watch.host.clone();
    let set = |name: &str, raw: u8| {
        let sensor = SENSORS.iter().find(|sensor| sensor.name == name).unwrap();
        write(
            &folder.path().join(sensor.number.to_string()),
            format!("{raw}\n"),
        );
    };
    until(&host, &source, |it| {
        value(it, "fan/FAN1", "speed") == Some(7200.0)
    })
    .await;
    let well = watch.round(&source, 0).await;
    assert_eq!(well.condition, Condition::Healthy, "{well}");

    set("Inlet Temp", 48);
    set("FAN1", 0);
    set("PS2 Status", 0b1001);
    set("PS Redundancy", 0b10);
    until(&host, &source, |it| {
        value(it, "sensor/Inlet Temp", "temperature") == Some(48.0)
            && value(it, "psu/PS2", "input_lost") == Some(1.0)
            && value(it, "psu/PS Redundancy", "redundancy_lost") == Some(1.0)
    })
    .await;
    let hot = watch.round(&source, 60).await;
    assert_eq!(hot.condition, Condition::Failing, "{hot}");
    has(&hot, "TEMPERATURE_CRITICAL sensor/Inlet Temp");
    has(&hot, "CHASSIS_LOG_CRITICAL bmc");
    let later = watch.round(&source, 60).await;
    has(&later, "FAN_STOPPED fan/FAN1");
    has(&later, "POWER_LOST psu/PS2");

    set("Inlet Temp", 25);
    set("FAN1", 120);
    until(&host, &source, |it| {
        value(it, "sensor/Inlet Temp", "temperature") == Some(25.0)
    })
    .await;
    watch.round(&source, 60).await;
    let cool = watch.round(&source, 3600).await;
    lacks(&cool, "TEMPERATURE_CRITICAL sensor/Inlet Temp");
    lacks(&cool, "FAN_STOPPED fan/FAN1");
    has(&cool, "POWER_LOST psu/PS2");

    controller.stop();
    for _ in 0..3 {
        let gone = watch.round(&source, 60).await;
        lacks(&gone, "SOURCE_UNREADABLE source/ipmi");
    }
    let gone = watch.round(&source, 60).await;
    has(&gone, "SOURCE_UNREADABLE source/ipmi");
}
