//! Raises a lab and a fabric, plays scenarios in it, and makes sure that nothing stays.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::Command,
    sync::Once,
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow};
use kapok_lab::{
    Lab, Options,
    fabric::{self, Fabric, Settings},
    guest, leftovers, places,
};

use crate::{invariants, world::World};

/// One thing that is shown.
pub(crate) struct Scenario {
    /// What it shows.
    pub(crate) name: &'static str,
    /// Whether others need what it leaves.
    pub(crate) always: bool,
    /// Does it.
    pub(crate) run: fn(&World<'_>) -> Result<()>,
}

/// A scenario from a function of its name; `always` if others need what it leaves.
macro_rules! scenario {
    (always $place:ident::$name:ident) => {
        $crate::play::Scenario {
            always: true,
            ..$crate::play::scenario!($place::$name)
        }
    };
    ($place:ident::$name:ident) => {
        $crate::play::Scenario {
            name: concat!(stringify!($place), "::", stringify!($name)),
            always: false,
            run: $crate::$place::$name,
        }
    };
}
pub(crate) use scenario;

/// Plays the scenarios; panics if one fails or something stays behind.
pub(crate) fn play(test: &str, hosts: u8, settings: Settings, scenarios: &[Scenario]) {
    if let Some(obstacle) = Lab::obstacle() {
        println!("SKIP {test}: {obstacle}");
        return;
    }
    build();
    let begin = Instant::now();
    let image = guest::build().unwrap();
    let lab = Lab::raise(&Options { hosts }).unwrap();
    println!("{hosts} hosts after {:.1} s", begin.elapsed().as_secs_f32());
    let played = play_in(&lab, &image, settings, scenarios);
    if played.is_err() {
        println!("{}", fabric::last_words(&lab, 60));
    }
    let closed = lab.close();
    let left = leftovers();
    println!("{test}: {:.1} s", begin.elapsed().as_secs_f32());
    played.unwrap();
    closed.unwrap();
    assert_eq!(left, Vec::<String>::new());
}

fn play_in(
    lab: &Lab,
    image: &guest::Image,
    settings: Settings,
    scenarios: &[Scenario],
) -> Result<()> {
    let only = std::env::var("KAPOK_LAB_SCENARIO").unwrap_or_default();
    let world = World::new(Fabric::start(lab, settings)?, image)?;
    for scenario in scenarios {
        let chosen = only.split(',').any(|text| scenario.name.contains(text));
        if !scenario.always && !chosen {
            continue;
        }
        let begin = Instant::now();
        // A failed assertion must not keep the lab from being taken away in order.
        let outcome = catch_unwind(AssertUnwindSafe(|| (scenario.run)(&world)))
            .unwrap_or_else(|_| Err(anyhow!("it panicked, see above")))
            .and_then(|()| invariants::hold(&world).context("afterwards"));
        let word = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!(
            "{:6.1} s  {} … {word}",
            begin.elapsed().as_secs_f32(),
            scenario.name
        );
        if let Err(error) = outcome {
            println!("{}", world.picture());
            return Err(error.context(scenario.name));
        }
    }
    world.end()
}

/// Builds the programs, once a run, unless `KAPOK_LAB_AS_BUILT` says to take what is there.
fn build() {
    static BUILT: Once = Once::new();
    if std::env::var_os("KAPOK_LAB_AS_BUILT").is_some() {
        return;
    }
    BUILT.call_once(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let packages = ["-p", "kapok-agent", "-p", "kapok-controller", "-p", "kapok"];
        let status = Command::new(cargo)
            .current_dir(places::workspace())
            .args(["build", "--quiet"])
            .args(packages)
            .arg("--bins")
            .status()
            .unwrap();
        assert!(status.success(), "the programs don't build");
    });
}
