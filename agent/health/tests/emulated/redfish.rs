//! A management controller over Redfish: OpenStack's sushy-emulator with its fake driver, over
//! HTTPS with a certificate of its own.
//!
//! Its chassis has temperatures and fans (`Thermal`), and its manager and chassis have a health;
//! power supplies it has none of. What a sensor says is in a template, which the test changes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use kapok_health::{
    Condition, Failure, Host, Source as _,
    source::redfish::{Redfish, Settings},
};
use kapok_lab::places;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use sha2::{Digest as _, Sha256};

use crate::{Running, Watch, free_tcp_port, has, lacks, until, value, write};

/// Starts the emulator so that it looks at its templates anew in each answer.
const START: &str = "from sushy_tools.emulator import main as emulator
emulator.app.config['TEMPLATES_AUTO_RELOAD'] = True
emulator.main()";

/// Makes a copy of the emulator whose templates can be changed; none if it isn't installed.
fn emulator(folder: &Path) -> Option<(PathBuf, PathBuf)> {
    let venv = places::target().join("venv");
    let libraries = fs::read_dir(venv.join("lib")).ok()?;
    let package = libraries
        .filter_map(Result::ok)
        .map(|entry| entry.path().join("site-packages/sushy_tools"))
        .find(|package| package.is_dir())?;
    let copied = Command::new("cp")
        .arg("-r")
        .arg(&package)
        .arg(folder)
        .status();
    assert!(copied.unwrap().success());
    let thermal = folder.join("sushy_tools/emulator/templates/thermal.json");
    Some((venv.join("bin/python"), thermal))
}

#[tokio::test]
async fn a_controller_s_chassis_over_https() {
    let folder = tempfile::tempdir().unwrap();
    let Some((python, thermal)) = emulator(folder.path()) else {
        println!("SKIP Redfish: sushy-tools is missing; `cargo xtask setup --dev` installs it");
        return;
    };
    let in_folder = |name: &str| folder.path().join(name);
    let names = vec!["127.0.0.1".to_owned()];
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
    write(&in_folder("cert.pem"), cert.pem());
    write(&in_folder("key.pem"), signing_key.serialize_pem());
    // bcrypt of "a secret".
    let make = "import bcrypt; print(bcrypt.hashpw(b'a secret', bcrypt.gensalt(4)).decode())";
    let hash = Command::new(&python).args(["-c", make]).output().unwrap();
    write(
        &in_folder("users"),
        format!("watch:{}", String::from_utf8_lossy(&hash.stdout)),
    );
    let port = free_tcp_port();
    let config = format!(
        "SUSHY_EMULATOR_LISTEN_IP = '127.0.0.1'\nSUSHY_EMULATOR_LISTEN_PORT = {port}\n\
         SUSHY_EMULATOR_FAKE_DRIVER = True\n\
         SUSHY_EMULATOR_AUTH_FILE = {:?}\nSUSHY_EMULATOR_STATE_DIR = {:?}\n\
         SUSHY_EMULATOR_SSL_CERT = {:?}\nSUSHY_EMULATOR_SSL_KEY = {:?}\n",
        in_folder("users"),
        folder.path(),
        in_folder("cert.pem"),
        in_folder("key.pem"),
    );
    write(&in_folder("config.py"), config);
    let mut command = Command::new(python);
    command
        .args(["-c", START])
        .arg("--config")
        .arg(in_folder("config.py"))
        .env("PYTHONPATH", folder.path())
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let mut controller = Running::start(&mut command, &in_folder("log"));

    let digest: Vec<String> = Sha256::digest(cert.der())
        .iter()
        .map(|it| format!("{it:02x}"))
        .collect();
    let settings = |with: &dyn Fn(&mut Settings)| {
        let mut settings = Settings {
            address: format!("127.0.0.1:{port}"),
            user: Some("watch".to_owned()),
            password_file: Some(in_folder("password")),
            ca_file: None,
            fingerprint: None,
            insecure: false,
        };
        with(&mut settings);
        settings.check().unwrap();
        Redfish::new(Some(settings))
    };
    write(&in_folder("password"), "a secret\n");
    let pinned = settings(&|it| it.fingerprint = Some(digest.join(":")));
    let by_authority = settings(&|it| it.ca_file = Some(in_folder("cert.pem")));
    let by_nothing = settings(&|it| it.insecure = true);
    let other = settings(&|it| it.fingerprint = Some("ab".repeat(32)));
    let mut watch = Watch::new(Host::new("/"));
    let host = watch.host.clone();

    until(&host, &pinned, |it| {
        value(it, "sensor/Chassis Intake Temp", "temperature") == Some(25.0)
    })
    .await;
    for source in [&by_authority, &by_nothing] {
        let readings = source.read(&host).await.unwrap();
        assert_eq!(
            value(&readings, "fan/BaseBoard System Fan", "speed"),
            Some(2100.0)
        );
    }
    let refused = other.read(&host).await.unwrap_err();
    let reason = "its certificate isn't the one of the fingerprint";
    assert!(
        matches!(&refused, Failure::Unreadable(it) if it.contains(reason)),
        "{refused}"
    );

    let well = watch.round(&pinned, 0).await;
    assert_eq!(well.condition, Condition::Healthy, "{well}");
    let template = fs::read_to_string(&thermal).unwrap();
    let hot = template.replace("\"ReadingCelsius\": 25", "\"ReadingCelsius\": 46");
    let hot = hot.replace("\"Reading\": 2050", "\"Reading\": 0");
    assert_ne!(hot, template);
    write(&thermal, hot);
    let is_hot = |it: &[_]| value(it, "sensor/Chassis Intake Temp", "temperature") == Some(46.0);
    until(&host, &pinned, is_hot).await;
    let hot = watch.round(&pinned, 60).await;
    assert_eq!(hot.condition, Condition::Failing, "{hot}");
    has(&hot, "TEMPERATURE_CRITICAL sensor/Chassis Intake Temp");
    has(
        &watch.round(&pinned, 60).await,
        "FAN_STOPPED fan/BaseBoard System Fan Backup",
    );

    write(&thermal, template);
    until(&host, &pinned, |it| !is_hot(it)).await;
    watch.round(&pinned, 60).await;
    lacks(
        &watch.round(&pinned, 3600).await,
        "TEMPERATURE_CRITICAL sensor/Chassis Intake Temp",
    );

    write(&in_folder("password"), "another\n");
    let denied = pinned.read(&host).await.unwrap_err();
    assert!(
        matches!(&denied, Failure::Unreadable(it) if it.contains("401")),
        "{denied}"
    );
    controller.stop();
    for _ in 0..3 {
        let gone = watch.round(&pinned, 60).await;
        lacks(&gone, "SOURCE_UNREADABLE source/redfish");
    }
    let gone = watch.round(&pinned, 60).await;
    has(&gone, "SOURCE_UNREADABLE source/redfish");
}
