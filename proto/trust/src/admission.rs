//! How many connections there may be, all together and of one address.
//!
//! **Invariant:** one address can't take the places of the others: its own bounds lie below the
//! common ones. An IPv6 peer counts as its /64, which is what one host is given.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::Limits;

#[derive(Debug, Clone)]
pub(crate) struct Admission(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limits: Limits,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    all: Count,
    by_address: BTreeMap<IpAddr, Count>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    connections: usize,
    /// Those among them that haven't finished their handshake.
    handshakes: usize,
}

impl Count {
    const fn begin(&mut self) {
        self.connections += 1;
        self.handshakes += 1;
    }
}

impl Admission {
    pub(crate) fn new(limits: Limits) -> Self {
        Self(Arc::new(Inner {
            limits,
            counts: Mutex::default(),
        }))
    }

    /// A place for a new connection, if there is one.
    pub(crate) fn admit(&self, address: IpAddr) -> Option<Slot> {
        let address = host(address);
        let limits = &self.0.limits;
        let mut counts = self.0.lock();
        let own = counts.by_address.get(&address).copied().unwrap_or_default();
        let all = counts.all;
        if own.connections >= limits.connections_per_peer
            || own.handshakes >= limits.handshakes_per_peer
            || all.connections >= limits.connections
            || all.handshakes >= limits.handshakes
        {
            return None;
        }
        counts.all.begin();
        counts.by_address.entry(address).or_default().begin();
        Some(Slot {
            admission: self.clone(),
            address,
            handshaking: true,
        })
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One host's address.
fn host(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

/// A connection's place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    admission: Admission,
    address: IpAddr,
    handshaking: bool,
}

impl Slot {
    /// The handshake is over.
    pub(crate) fn established(&mut self) {
        if std::mem::take(&mut self.handshaking) {
            let mut counts = self.admission.0.lock();
            counts.all.handshakes -= 1;
            if let Some(own) = counts.by_address.get_mut(&self.address) {
                own.handshakes -= 1;
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.established();
        let mut counts = self.admission.0.lock();
        counts.all.connections -= 1;
        if let Some(own) = counts.by_address.get_mut(&self.address) {
            own.connections -= 1;
            if own.connections == 0 {
                counts.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission() -> Admission {
        Admission::new(Limits {
            connections: 5,
            connections_per_peer: 3,
            handshakes: 4,
            handshakes_per_peer: 2,
            ..Limits::default()
        })
    }

    #[test]
    fn one_address_leaves_room_for_others() {
        let admission = admission();
        let [one, two] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().unwrap());
        let mut first = admission.admit(one).unwrap();
        let _second = admission.admit(one).unwrap();
        assert!(admission.admit(one).is_none(), "two handshakes of one");
        first.established();
        let mut third = admission.admit(one).unwrap();
        third.established();
        assert!(admission.admit(one).is_none(), "three connections of one");
        let _others = [admission.admit(two).unwrap(), admission.admit(two).unwrap()];
        assert!(
            admission.admit("10.0.0.3".parse().unwrap()).is_none(),
            "five in all"
        );
        drop(third);
        assert!(admission.admit(one).is_some());
    }

    #[test]
    fn what_is_given_back_leaves_nothing() {
        let admission = admission();
        let slots = ["10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1", "2001:db8::2"]
            .map(|ip| admission.admit(ip.parse().unwrap()).unwrap());
        assert_eq!(admission.0.lock().by_address.len(), 2);
        drop(slots);
        let counts = admission.0.lock();
        assert!(counts.by_address.is_empty());
        assert_eq!((counts.all.connections, counts.all.handshakes), (0, 0));
    }
}
