//! What each call goes through: the log, injected faults, latency.

use kapok_types::IncarnationId;

use super::{Host, Inner};
use crate::driver::Error;

/// A call of the seams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// `Compute::facts`.
    Facts,
    /// `Compute::list`.
    List,
    /// `Compute::observe`.
    Observe,
    /// `Compute::define`.
    Define,
    /// `Compute::start`.
    Start,
    /// `Compute::shutdown`.
    Shutdown,
    /// `Compute::set_vcpus`.
    SetVcpus,
    /// `Compute::reset`.
    Reset,
    /// `Compute::destroy`.
    Destroy,
    /// `Compute::undefine`.
    Undefine,
    /// `Compute::guest_agent`.
    GuestAgent,
    /// `Storage::create_root`.
    CreateRoot,
    /// `Storage::remove_root`.
    RemoveRoot,
    /// `Storage::images` and `Storage::disks`.
    Found,
    /// `Storage::store_image`.
    StoreImage,
    /// `Storage::hash_image`.
    HashImage,
    /// `Storage::remove_image`.
    RemoveImage,
    /// `Console::open`.
    OpenConsole,
}

impl Call {
    /// Whether it goes through the domain's process or its lock, and so can be blocked by it.
    pub(super) fn is_on_domain(self) -> bool {
        matches!(
            self,
            Self::Observe
                | Self::Define
                | Self::Start
                | Self::Shutdown
                | Self::SetVcpus
                | Self::Reset
                | Self::Undefine
                | Self::GuestAgent
                | Self::OpenConsole
        )
    }

    /// Whether it changes something.
    pub fn changes(self) -> bool {
        !matches!(
            self,
            Self::Facts
                | Self::List
                | Self::Observe
                | Self::GuestAgent
                | Self::Found
                | Self::HashImage
                | Self::OpenConsole
        )
    }
}

/// Where a call gets stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Before it took effect.
    Before,
    /// After it took effect, before the answer.
    After,
}

/// An injected fault. Calls that match it meet it, in the order of injection.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The next so many calls of this kind fail.
    Fail {
        /// Which call.
        call: Call,
        /// About which incarnation; none means any.
        incarnation: Option<IncarnationId>,
        /// How many times.
        times: u32,
        /// With what.
        error: Error,
    },
    /// One call of this kind gets stuck until [`Host::release`] or the host's reboot.
    Stick {
        /// Which call.
        call: Call,
        /// About which incarnation; none means any.
        incarnation: Option<IncarnationId>,
        /// Where.
        stage: Stage,
    },
    /// The next change, after so many that pass, gets stuck.
    StickAtChange {
        /// Changes that pass first.
        passing: u32,
        /// Where.
        stage: Stage,
    },
    /// The domain's process is stopped: every call about it but destroy gets stuck, until it is
    /// destroyed or [`Host::release`].
    Freeze {
        /// Whose.
        incarnation: IncarnationId,
    },
}

/// A call that is stuck.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stuck {
    id: u64,
    pub(super) call: Call,
    pub(super) incarnation: Option<IncarnationId>,
}

enum Entry {
    Pass,
    Fail(Error),
    Stick(Stage),
}

/// A call under way.
pub(super) struct Passage<'a> {
    host: &'a Host,
    call: Call,
    incarnation: Option<IncarnationId>,
    sticks_after: bool,
}

impl Host {
    /// Injects a fault; gives its number.
    pub fn inject(&self, fault: Fault) -> u64 {
        let mut inner = self.lock();
        let id = inner.next_fault;
        inner.next_fault += 1;
        inner.faults.push((id, fault));
        id
    }

    /// Takes all faults back and lets stuck calls go on.
    pub fn release(&self) {
        let mut inner = self.lock();
        inner.faults.clear();
        inner.stuck.clear();
        drop(inner);
        self.released.notify_waiters();
        self.hint(crate::driver::Hint::Everything);
    }

    /// Waits until a call is stuck; says which.
    pub async fn until_stuck(&self) -> (Call, Option<IncarnationId>) {
        loop {
            let notified = self.stuck.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if let Some(stuck) = self.lock().stuck.first() {
                return (stuck.call, stuck.incarnation);
            }
            notified.await;
        }
    }

    /// How many calls are stuck.
    pub fn stuck_calls(&self) -> usize {
        self.lock().stuck.len()
    }

    /// Starts to keep a log of calls, or drops it.
    pub fn keep_log(&self, keep: bool) {
        let mut inner = self.lock();
        inner.logs = keep;
        inner.log.clear();
    }

    /// The calls since [`Host::keep_log`], in order.
    pub fn log(&self) -> Vec<(Call, Option<IncarnationId>)> {
        self.lock().log.clone()
    }

    /// Enters a call: may fail or get stuck, and takes the host's latency. The caller takes
    /// effect next and then calls [`Passage::leave`].
    pub(super) async fn enter(
        &self,
        call: Call,
        incarnation: Option<IncarnationId>,
    ) -> Result<Passage<'_>, Error> {
        let entry = {
            let mut inner = self.lock();
            if inner.logs {
                inner.log.push((call, incarnation));
            }
            if !inner.up {
                return Err(Error::Unavailable {
                    reason: "the simulated hypervisor is down".into(),
                });
            }
            if call.is_on_domain() && inner.is_stuck(incarnation) {
                return Err(Error::Quarantined);
            }
            inner.meet(call, incarnation)
        };
        let sticks_after = match entry {
            Entry::Pass => false,
            Entry::Fail(error) => return Err(error),
            Entry::Stick(Stage::Before) => {
                self.stick(call, incarnation).await;
                if call.is_on_domain() && incarnation.is_some_and(|id| self.is_frozen(id)) {
                    return Err(Error::Quarantined);
                }
                false
            }
            Entry::Stick(Stage::After) => true,
        };
        if !self.shape.latency.is_zero() {
            tokio::time::sleep(self.shape.latency).await;
        }
        Ok(Passage {
            host: self,
            call,
            incarnation,
            sticks_after,
        })
    }

    /// Stays here until somebody releases it.
    async fn stick(&self, call: Call, incarnation: Option<IncarnationId>) {
        let id = self.mark(call, incarnation);
        let _unmark = Unmark(self, id);
        self.wait_for(id).await;
    }

    fn mark(&self, call: Call, incarnation: Option<IncarnationId>) -> u64 {
        let mut inner = self.lock();
        let id = inner.next_stuck;
        inner.next_stuck += 1;
        inner.stuck.push(Stuck {
            id,
            call,
            incarnation,
        });
        id
    }

    async fn wait_for(&self, id: u64) {
        self.stuck.notify_waiters();
        loop {
            let released = self.released.notified();
            tokio::pin!(released);
            released.as_mut().enable();
            if !self.lock().stuck.iter().any(|stuck| stuck.id == id) {
                return;
            }
            released.await;
        }
    }

    fn is_frozen(&self, incarnation: IncarnationId) -> bool {
        self.lock().is_frozen(incarnation)
    }

    /// The domain's process ends: what was stuck on it goes on.
    pub(super) fn thaw(&self, incarnation: IncarnationId) {
        let mut inner = self.lock();
        inner.faults.retain(|(_, fault)| {
            !matches!(fault, Fault::Freeze { incarnation: frozen } if *frozen == incarnation)
        });
        inner
            .stuck
            .retain(|stuck| stuck.incarnation != Some(incarnation));
        drop(inner);
        self.released.notify_waiters();
    }
}

/// Takes a mark away when the call's future is dropped.
struct Unmark<'a>(&'a Host, u64);

impl Drop for Unmark<'_> {
    fn drop(&mut self) {
        self.0.lock().stuck.retain(|stuck| stuck.id != self.1);
    }
}

impl Passage<'_> {
    /// Leaves the call after its effect: may get stuck here.
    pub(super) async fn leave(self) {
        if self.sticks_after {
            self.host.stick(self.call, self.incarnation).await;
        }
    }
}

impl Inner {
    pub(super) fn is_frozen(&self, incarnation: IncarnationId) -> bool {
        self.faults.iter().any(|(_, fault)| {
            matches!(fault, Fault::Freeze { incarnation: frozen } if *frozen == incarnation)
        })
    }

    pub(super) fn is_stuck(&self, incarnation: Option<IncarnationId>) -> bool {
        self.stuck
            .iter()
            .any(|stuck| stuck.call.is_on_domain() && stuck.incarnation == incarnation)
    }

    fn meet(&mut self, call: Call, about: Option<IncarnationId>) -> Entry {
        let fits = |wanted: Call, whose: Option<IncarnationId>| {
            wanted == call && (whose.is_none() || whose == about)
        };
        for index in 0..self.faults.len() {
            match &mut self.faults[index].1 {
                Fault::Fail {
                    call,
                    incarnation,
                    times,
                    error,
                } if fits(*call, *incarnation) => {
                    let error = error.clone();
                    *times -= 1;
                    if *times == 0 {
                        self.faults.remove(index);
                    }
                    return Entry::Fail(error);
                }
                Fault::Stick {
                    call,
                    incarnation,
                    stage,
                } if fits(*call, *incarnation) => {
                    let stage = *stage;
                    self.faults.remove(index);
                    return Entry::Stick(stage);
                }
                Fault::StickAtChange { passing, stage } if call.changes() => {
                    if *passing == 0 {
                        let stage = *stage;
                        self.faults.remove(index);
                        return Entry::Stick(stage);
                    }
                    *passing -= 1;
                }
                Fault::Freeze { incarnation }
                    if about == Some(*incarnation) && call.is_on_domain() =>
                {
                    return Entry::Stick(Stage::Before);
                }
                _ => {}
            }
        }
        Entry::Pass
    }
}
