//! How often somebody who has not shown who they are may try: a token can't be guessed by asking.
//!
//! An attempt is taken beforehand, so that many at once don't slip through, and given back when it
//! succeeded. Counted by address, for IPv6 by the network that one site has.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use kapok_types::Env;

use crate::limits::Rates;

/// How soon the next attempt comes free.
const EVERY: Duration = Duration::from_secs(3);
/// Failed attempts at once: 20.
const BURST: Duration = Duration::from_mins(1);

/// Attempts by address. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Attempts(Rates<IpAddr>);

/// An attempt that is under way. It counts as failed unless it is said to have succeeded.
#[derive(Debug)]
#[must_use]
pub struct Attempt<'a> {
    attempts: &'a Attempts,
    who: IpAddr,
}

impl Attempts {
    /// None yet.
    pub fn new(env: Arc<dyn Env>) -> Self {
        Self(Rates::new(env, EVERY, BURST))
    }

    /// Begins one.
    ///
    /// # Errors
    ///
    /// How long to wait: too many have failed.
    pub fn begin(&self, from: Option<IpAddr>) -> Result<Attempt<'_>, Duration> {
        let who = from.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), site);
        self.0.take(who)?;
        Ok(Attempt {
            attempts: self,
            who,
        })
    }
}

impl Attempt<'_> {
    /// It was no guess.
    pub fn succeeded(self) {
        self.attempts.0.give_back(&self.who);
    }
}

/// The part of an address that one site doesn't choose freely.
fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use kapok_types::env::Seeded;

    use super::*;

    #[test]
    fn failures_count_and_successes_do_not() {
        let env = Seeded::new(1);
        let attempts = Attempts::new(env.clone());
        let from = |text: &str| Some(text.parse().unwrap());
        for _ in 0..1000 {
            attempts.begin(from("192.0.2.1")).unwrap().succeeded();
        }
        let failed = |text: &str| attempts.begin(from(text)).map(drop);
        assert_eq!((0..100).filter(|_| failed("192.0.2.1").is_ok()).count(), 20);
        // Others are not held up; another address of the same site is.
        failed("192.0.2.2").unwrap();
        assert_eq!(
            (0..100)
                .filter(|n| failed(&format!("2001:db8::{n:x}")).is_ok())
                .count(),
            20
        );
        assert!(failed("::ffff:192.0.2.1").is_err());
        env.advance(EVERY);
        failed("192.0.2.1").unwrap();
        assert!(failed("192.0.2.1").is_err());
    }
}
