//! Whether the clock is kept right: certificates hold from a time until a time.

use kapok_health::{Failure, Host, Read, Reading, Source as _, quantity, source::clock::Clock};

use super::Finding;

const CHECK: &str = "clock";
/// Further off than this, certificates that were just made don't hold yet.
const MOST_OFF_SECONDS: f64 = 30.0;
const KEEP: &str = "install chrony, and give it a server that controllers and nodes share";

/// By the word of whatever keeps the clock.
pub(super) async fn check(host: &Host) -> Finding {
    judge(&Clock.read(host).await)
}

fn judge(read: &Result<Vec<Reading>, Failure>) -> Finding {
    let readings = match read {
        Ok(readings) => readings,
        Err(Failure::Absent(reason)) => return Finding::degraded(CHECK, reason, KEEP),
        Err(failure) => {
            return Finding::unknown(CHECK, failure.to_string(), "chronyc tracking; timedatectl");
        }
    };
    let value = |of: quantity::Quantity| {
        let reading = readings.iter().find(|it| it.quantity == of);
        reading.and_then(|it| match it.read {
            Read::Value(value) => Some(value),
            Read::Absent | Read::Unreadable(_) => None,
        })
    };
    let off = value(quantity::CLOCK_OFFSET);
    match (value(quantity::CLOCK_SYNCHRONIZED), off) {
        (_, Some(off)) if off > MOST_OFF_SECONDS => {
            let found = format!("it is off by {off:.0} s");
            Finding::failing(CHECK, found, "chronyc makestep")
        }
        (Some(synchronized), _) if synchronized < 0.5 => {
            Finding::degraded(CHECK, "nothing keeps it right", KEEP)
        }
        (Some(_), Some(off)) => {
            let found = format!("it is kept right, and off by {:.3} ms", off * 1000.0);
            Finding::healthy(CHECK, found)
        }
        (Some(_), None) => Finding::healthy(CHECK, "it is kept right"),
        (None, _) => Finding::unknown(CHECK, "nobody says", "chronyc tracking; timedatectl"),
    }
}

#[cfg(test)]
mod tests {
    use kapok_health::{Component, Condition, Kind};

    use super::*;

    #[test]
    fn a_clock_that_nothing_keeps_right_is_degraded() {
        let clock = Component::only(Kind::Clock);
        let read = |synchronized, off| {
            Ok(vec![
                Reading::flag(&clock, quantity::CLOCK_SYNCHRONIZED, synchronized),
                Reading::new(&clock, quantity::CLOCK_OFFSET, off),
            ])
        };
        let absent = Failure::Absent("nothing here keeps the clock".into());
        for (read, condition) in [
            (read(true, 0.001), Condition::Healthy),
            (read(false, 0.0), Condition::Degraded),
            (read(true, 3600.0), Condition::Failing),
            (Ok(Vec::new()), Condition::Unknown),
            (Err(absent), Condition::Degraded),
            (Err(Failure::Unreadable("late".into())), Condition::Unknown),
        ] {
            let found = judge(&read);
            assert_eq!(found.condition, condition, "{found:?}");
            assert_eq!(found.advice.is_empty(), condition == Condition::Healthy);
        }
    }
}
