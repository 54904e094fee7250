//! Whether something keeps the clock right, and how far it is off.
//!
//! chrony says both. Where it doesn't run, systemd passes on the kernel's word (`adjtimex(2)`, which
//! has no safe binding), whoever keeps the clock: synchronized or not, and no offset. Where neither
//! runs nothing can be said: *absent*.

use std::time::Duration;

use async_trait::async_trait;

use super::decimal;
use crate::{Component, Failure, Host, Kind, Reading, Source, quantity};

/// How long each of the two may take.
const TOOL_DEADLINE: Duration = Duration::from_secs(4);
/// It is there where systemd runs the server. Source: `sd_booted(3)`.
const SYSTEMD: &str = "/run/systemd/system";

/// The source.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock;

/// What is known of the clock.
#[derive(Debug, Clone, Copy, PartialEq)]
struct State {
    synchronized: bool,
    /// Seconds, either way.
    offset: Option<f64>,
}

#[async_trait]
impl Source for Clock {
    fn name(&self) -> &'static str {
        "clock"
    }

    fn cadence(&self) -> Duration {
        Duration::from_mins(1)
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(10)
    }

    async fn read(&self, host: &Host) -> Result<Vec<Reading>, Failure> {
        let state = match (chrony(host).await, systemd(host).await) {
            (Ok(state), _) | (Err(_), Ok(state)) => state,
            // The one that is there says more than the one that isn't.
            (Err(Failure::Absent(_)), Err(failure)) | (Err(failure), Err(_)) => {
                return Err(failure);
            }
        };
        let component = Component::only(Kind::Clock);
        let flag = Reading::flag(&component, quantity::CLOCK_SYNCHRONIZED, state.synchronized);
        // None by systemd's word, and while nothing is followed.
        let offset = Ok::<_, Failure>(state.offset.map(f64::abs));
        let offset = Reading::tried_or_absent(&component, quantity::CLOCK_OFFSET, offset);
        Ok(vec![flag, offset])
    }
}

async fn chrony(host: &Host) -> Result<State, Failure> {
    let output = host
        .run("chronyc", &["-n", "-c", "tracking"], TOOL_DEADLINE)
        .await?;
    tracking(&output.text).ok_or_else(|| {
        let said: String = output.text.trim().chars().take(80).collect();
        Failure::Unreadable(format!("chronyc said {said:?}"))
    })
}

/// Source: chronyc(1), "tracking": the fifth field is the offset of the system's clock, the last
/// the leap status.
fn tracking(text: &str) -> Option<State> {
    let fields: Vec<&str> = text.trim().split(',').collect();
    let [_, _, _, _, offset, .., leap] = fields.as_slice() else {
        return None;
    };
    let synchronized = match *leap {
        "Normal" | "Insert second" | "Delete second" => true,
        "Not synchronised" => false,
        _ => return None,
    };
    let offset = decimal(offset)?;
    Some(State {
        synchronized,
        // One that follows nothing is off by nothing, in its own eyes.
        offset: synchronized.then_some(offset),
    })
}

async fn systemd(host: &Host) -> Result<State, Failure> {
    if !host.exists(SYSTEMD) {
        return Err(Failure::Absent("nothing here keeps the clock".to_owned()));
    }
    let arguments = ["show", "--property=NTPSynchronized"];
    let output = host.run("timedatectl", &arguments, TOOL_DEADLINE).await?;
    let synchronized = ntp_synchronized(&output.text).ok_or_else(|| {
        let said: String = output.complaint.chars().take(80).collect();
        Failure::Unreadable(format!("timedatectl said {said:?}"))
    })?;
    let offset = None;
    Ok(State {
        synchronized,
        offset,
    })
}

fn ntp_synchronized(text: &str) -> Option<bool> {
    let word = |line: &str| match line.trim().strip_prefix("NTPSynchronized=")? {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    };
    text.lines().find_map(word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::source::tests::{Tree, near, render};

    const TRACKING: &str = "C0000201,192.0.2.1,3,1764250000.123456789,-0.000150000,0.000010000,\
        0.000200000,-12.345,0.001,0.020,0.010000000,0.001000000,64.5,Normal\n";

    async fn read(tree: &Tree) -> Result<String, Failure> {
        Clock.read(tree.host()).await.map(|it| render(&it))
    }

    #[tokio::test]
    async fn chrony_s_word_goes_before_systemd_s() {
        let tree = Tree::new()
            .file("run/systemd/system/x", "")
            .tool("chronyc", TRACKING, 0)
            .tool("timedatectl", "NTPSynchronized=no\n", 0);
        let expected = "clock clock_synchronized 1\nclock clock_offset 0.00015\n";
        assert_eq!(read(&tree).await.unwrap(), expected);
    }

    #[tokio::test]
    async fn systemd_is_asked_where_chrony_is_not_running() {
        let tree = Tree::new()
            .file("run/systemd/system/x", "")
            .tool("chronyc", "506 Cannot talk to daemon\n", 1)
            .tool("timedatectl", "NTPSynchronized=no\n", 0);
        let expected = "clock clock_synchronized 0\nclock clock_offset absent\n";
        assert_eq!(read(&tree).await.unwrap(), expected);
    }

    #[tokio::test]
    async fn an_unsynchronised_chrony_has_no_offset() {
        let text = "00000000,,0,0.0,0.000000000,0.0,0.0,0.0,0.0,0.0,1.0,1.0,0.0,Not synchronised\n";
        let tree = Tree::new().tool("chronyc", text, 0);
        let expected = "clock clock_synchronized 0\nclock clock_offset absent\n";
        assert_eq!(read(&tree).await.unwrap(), expected);
    }

    #[tokio::test]
    async fn where_nothing_keeps_the_clock_nothing_is_said_and_where_something_should_it_is() {
        let absent = read(&Tree::new()).await;
        assert!(matches!(absent, Err(Failure::Absent(_))), "{absent:?}");
        let mute = Tree::new().tool("chronyc", "506 Cannot talk to daemon\n", 1);
        let expected = "chronyc said \"506 Cannot talk to daemon\"".to_owned();
        assert_eq!(read(&mute).await, Err(Failure::Unreadable(expected)));
    }

    proptest! {
        #[test]
        fn garbage_is_no_panic(text in near(TRACKING)) {
            let _ = (tracking(&text), ntp_synchronized(&text));
        }
    }
}
