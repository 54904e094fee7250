//! Looking at domains. Every call made here is one that doesn't ask a QEMU, so a stuck one is
//! seen like any other.

use kapok_libvirt::{
    Connection, Domain, Kind,
    domain::{Copy, PausedReason, ShutoffReason, State},
    xml::{domain_view::DomainView, metadata::Metadata},
};
use kapok_types::{MemoryMib, Vcpus, phase::Size, quantity::MIB};
use uuid::Uuid;

use super::{
    Inner, document, drift, error, lock, placement,
    record::{self, Ours},
};
use crate::driver::{Error, Foreign, Off, Run, Seen};

/// Longest name of a foreign domain that is reported, in characters.
const NAME: usize = 256;

/// What a domain turned out to be.
pub(super) enum Look {
    /// One of ours.
    Ours {
        /// What is reported.
        seen: Box<Seen>,
        /// Somebody turned autostart on.
        autostart: bool,
        /// The running guest's record isn't the definition's.
        live_lags: bool,
    },
    /// Anybody else's.
    Foreign(Foreign),
    /// There is none.
    Nothing,
}

impl Inner {
    /// Looks at one domain.
    pub(super) fn look(&self, connection: &Connection, domain: Uuid) -> Result<Look, Error> {
        let look = match connection.domain(domain) {
            Ok(found) => self.look_at(&found),
            Err(failure) => Err(failure),
        };
        match look {
            Ok(look) => {
                let ours = matches!(look, Look::Ours { .. });
                self.link.note(domain, ours);
                Ok(look)
            }
            // It went away between two of the calls.
            Err(failure) if failure.is(Kind::NotFound) => {
                self.link.note(domain, false);
                Ok(Look::Nothing)
            }
            Err(failure) => Err(error::from(failure)),
        }
    }

    fn look_at(&self, domain: &Domain) -> Result<Look, kapok_libvirt::Error> {
        let state = domain.state()?;
        let config = match domain.view(Copy::Config) {
            Ok(config) => config,
            // A document that this version can't read is nobody's that it knows.
            Err(failure) if failure.is(Kind::Invalid) => {
                tracing::debug!(domain = %domain.uuid(), %failure, "a domain can't be read");
                return Ok(Look::Foreign(unread(domain, state)?));
            }
            Err(failure) => return Err(failure),
        };
        let ours = match self.record_of(config.metadata.as_ref(), domain.uuid()) {
            Ok(ours) => ours,
            Err(reason) => {
                tracing::trace!(domain = %domain.uuid(), reason, "foreign");
                return Ok(Look::Foreign(foreign(&config, state)));
            }
        };
        let persistent = domain.is_persistent()?;
        let autostart = persistent && domain.autostart()?;
        let live = if state.is_off() {
            None
        } else {
            Some(domain.view(Copy::Live)?)
        };
        let pool_path = self.known_pool_path();
        let root_path = pool_path.map(|path| document::root_path(&path, &ours.record));
        let live_lags = persistent
            && live
                .as_ref()
                .is_some_and(|live| drift::live_lags(live, &config));
        let host = lock(&self.cells).clone();
        let host = host.as_deref().unwrap_or_default();
        let (options, intent) = (&self.options, &ours.record.intent);
        let dedicated = &options.offering.dedicated;
        // Without the host's cells nobody knows where it should be.
        let told = !host.is_empty() || !placement::needs_cells(dedicated, intent);
        let placement = told.then(|| placement::of(dedicated, host, intent));
        let shown = drift::Shown {
            placement: placement.as_ref(),
            network: document::network(options, intent),
            config: &config,
            live: live.as_ref(),
            persistent,
            autostart,
            root_path: root_path.as_deref(),
        };
        let (run, off, note) = run_of(state);
        let assignment = ours.assignment(run != Run::Off);
        let in_effect = live.as_ref().unwrap_or(&config);
        Ok(Look::Ours {
            seen: Box::new(Seen {
                drift: drift::find(&ours, &shown),
                record: ours.record,
                run,
                off,
                size: size_of(in_effect),
                assignment,
                most_vcpus: Vcpus(in_effect.most_vcpus),
                persistent,
                note: note.to_owned(),
            }),
            autostart,
            live_lags,
        })
    }

    pub(super) fn record_of(
        &self,
        metadata: Option<&Metadata>,
        domain: Uuid,
    ) -> Result<Ours, String> {
        record::read(metadata, domain, &self.options.fabric, self.options.node)
    }

    /// The domain if it exists, and its record if it is ours. For calls that change something.
    pub(super) fn claim(
        &self,
        connection: &Connection,
        uuid: Uuid,
    ) -> Result<Option<(Domain, Option<Ours>)>, Error> {
        let found = connection.domain(uuid).and_then(|domain| {
            let metadata = match domain.metadata(Copy::Config) {
                // Somebody removed the definition while it runs.
                Err(failure) if failure.is(Kind::InvalidState) => domain.metadata(Copy::Live),
                outcome => outcome,
            };
            match metadata {
                Err(failure) if failure.is(Kind::Invalid) => Ok((domain, None)),
                outcome => outcome.map(|metadata| (domain, metadata)),
            }
        });
        match found {
            Ok((domain, metadata)) => {
                let ours = self.record_of(metadata.as_ref(), uuid).ok();
                Ok(Some((domain, ours)))
            }
            Err(failure) if failure.is(Kind::NotFound) => Ok(None),
            Err(failure) => Err(error::from(failure)),
        }
    }
}

fn size_of(view: &DomainView) -> Size {
    Size {
        vcpus: Vcpus(view.vcpus),
        memory: MemoryMib(view.memory_bytes.div_ceil(MIB)),
    }
}

fn foreign(view: &DomainView, state: State) -> Foreign {
    Foreign {
        uuid: view.uuid,
        name: view.name.chars().take(NAME).collect(),
        active: !state.is_off(),
        vcpus: Vcpus(view.most_vcpus),
        memory: MemoryMib(view.memory_bytes.div_ceil(MIB)),
    }
}

/// A domain whose document can't be read; what it holds is known all the same.
pub(super) fn unread(domain: &Domain, state: State) -> Result<Foreign, kapok_libvirt::Error> {
    let size = domain.size()?;
    Ok(Foreign {
        uuid: domain.uuid(),
        name: domain.name().chars().take(NAME).collect(),
        active: !state.is_off(),
        vcpus: Vcpus(size.vcpus),
        memory: MemoryMib(size.memory_bytes.div_ceil(MIB)),
    })
}

/// libvirt's state in the agent's words.
fn run_of(state: State) -> (Run, Off, &'static str) {
    let on = |run, note| (run, Off::Unknown, note);
    match state {
        State::Running => on(Run::On, ""),
        State::ShuttingDown => on(Run::GoingDown, ""),
        State::Crashed => on(Run::Paused, "paused: the guest crashed"),
        State::Suspended => on(Run::Paused, "the guest put itself to sleep"),
        State::Paused(reason) => match reason {
            PausedReason::ShuttingDown => on(Run::GoingDown, ""),
            PausedReason::StartingUp => on(Run::Paused, "paused: it is being started"),
            PausedReason::User => on(Run::Paused, "paused by somebody"),
            PausedReason::Job => on(Run::Paused, "paused by a job on it"),
            PausedReason::IoError => on(Run::Paused, "paused: a disk failed or is full"),
            PausedReason::Watchdog => on(Run::Paused, "paused: its watchdog fired"),
            PausedReason::FromSnapshot => on(Run::Paused, "paused: restored from a snapshot"),
            PausedReason::Crashed => on(Run::Paused, "paused: the guest crashed"),
            PausedReason::PostCopy => on(Run::Paused, "paused by a migration"),
            PausedReason::Unknown => on(Run::Paused, "paused"),
        },
        State::Shutoff(reason) => {
            let (off, note) = match reason {
                ShutoffReason::Shutdown => (Off::Shutdown, ""),
                ShutoffReason::Destroyed => (Off::Destroyed, ""),
                ShutoffReason::Crashed => (Off::Crashed, ""),
                ShutoffReason::Failed => (Off::Failed, ""),
                ShutoffReason::Migrated => (Off::Moved, "it moved to another host"),
                ShutoffReason::Saved => (Off::Unknown, "its memory was saved by somebody"),
                ShutoffReason::FromSnapshot => (Off::Unknown, "a snapshot was restored"),
                ShutoffReason::Daemon | ShutoffReason::Unknown => (Off::Unknown, ""),
            };
            (Run::Off, off, note)
        }
        State::Other { .. } => on(Run::Paused, "in a state that this agent doesn't know"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paused_guest_is_never_off() {
        let all = [
            State::Running,
            State::ShuttingDown,
            State::Crashed,
            State::Suspended,
            State::Paused(PausedReason::IoError),
            State::Other {
                state: 77,
                reason: 0,
            },
        ];
        for state in all {
            assert_ne!(run_of(state).0, Run::Off, "{state:?}");
        }
        let off = run_of(State::Shutoff(ShutoffReason::Shutdown));
        assert_eq!(off, (Run::Off, Off::Shutdown, ""));
        let lost = run_of(State::Shutoff(ShutoffReason::Daemon));
        assert_eq!(lost.1, Off::Unknown);
        // It runs elsewhere: nobody may take that for a crash.
        let moved = run_of(State::Shutoff(ShutoffReason::Migrated));
        assert_eq!((moved.0, moved.1), (Run::Off, Off::Moved));
        assert!(!run_of(State::Paused(PausedReason::IoError)).2.is_empty());
    }
}
