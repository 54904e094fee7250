//! A fabric's record and keys, there and back, and every way in which a file can be wrong.

use std::{
    fs,
    io::BufReader,
    path::{Path, PathBuf},
    sync::Arc,
};

use kapok_store::{Archive, Redb, Store as _, archive::Policy, segments::Directory};
use kapok_types::{Env, Epoch, Seq, env::System};
use tempfile::TempDir;

use super::{
    format::{self, VERSION},
    local,
    place::{LOG, SEGMENTS, TRUST},
    restore::{self, EPOCHS_APART},
    send::Sender,
    take::{self, Content},
};
use crate::{
    config::Lives,
    fabric::{Command, Origin, decide::Rules},
    ledger::Ledger,
    log::{self, Record},
    trust::init::{Founding, Places, found},
};

const PASSPHRASE: &[u8] = b"correct horse battery";

/// A state directory with a fabric, and where its backup is.
struct Place {
    folder: TempDir,
    env: Arc<dyn Env>,
}

impl Place {
    async fn new() -> Self {
        let place = Self {
            folder: tempfile::tempdir().unwrap(),
            env: System::new(),
        };
        let founding = Founding {
            fabric: "city".parse().unwrap(),
            controller: "a".parse().unwrap(),
            lives: Lives::default(),
            controllers: vec!["127.0.0.1:1".into()],
            enroll: Vec::new(),
        };
        fs::create_dir(place.state()).unwrap();
        let places = Places {
            trust: place.state().join(TRUST),
            credentials: place.folder.path().join("credentials"),
        };
        let store = Arc::new(place.store().await);
        found(store, place.env.clone(), &founding, &places)
            .await
            .unwrap();
        place
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("backup")
    }

    async fn store(&self) -> Redb {
        Redb::open(self.state().join(LOG)).await.unwrap()
    }

    async fn archive(&self) -> Archive<Redb> {
        let segments = Directory::open(self.state().join(SEGMENTS)).unwrap();
        Archive::new(Arc::new(self.store().await), Arc::new(segments))
    }

    fn sender(&self) -> Sender {
        Sender {
            fabric: "city".parse().unwrap(),
            now: self.env.now(),
            epoch: Epoch::ZERO,
        }
    }

    async fn backup(&self) -> Result<super::Checked, take::Error> {
        let (trust, file) = (self.state().join(TRUST), self.file());
        let (archive, sender) = (self.archive().await, self.sender());
        let made = local::through(&archive, &sender, move |from| {
            take::take(BufReader::new(from), &trust, PASSPHRASE, &file)
        });
        made.await.unwrap()
    }

    async fn restore(&self) -> Result<restore::Restored, restore::Error> {
        restore::restore(&self.file(), PASSPHRASE, &self.state(), true, &self.env).await
    }

    /// Makes a tenant.
    async fn change(&self, name: &str) {
        let command = Command::CreateTenant {
            name: name.parse().unwrap(),
            display: String::new(),
            parent: None,
            contacts: Vec::new(),
        };
        self.submit([command]).await;
    }

    async fn submit(&self, commands: impl IntoIterator<Item = Command>) {
        let store = Arc::new(self.store().await);
        let rules = Rules::default();
        let started = Ledger::start(store, self.env.clone(), "test", Epoch::ZERO, rules);
        let (handle, ledger) = started.await.unwrap();
        let task = tokio::spawn(ledger.run());
        for command in commands {
            let done = handle.submit(Origin::controller(), None, command).await;
            done.unwrap();
        }
        drop(handle);
        task.await.unwrap().unwrap();
    }

    /// Moves the record's first entries into segments, as a controller does.
    async fn seal(&self) {
        let archive = self.archive().await;
        let policy = Policy {
            keep_entries: 2,
            keep_bytes: u64::MAX,
            segment_entries: 4,
            segment_bytes: u64::MAX,
        };
        let sealed = archive.seal_next(&policy).await.unwrap().unwrap();
        let newest = Record::decode(&sealed.newest).unwrap().at;
        let segment = sealed.segment.clone();
        drop(archive);
        self.submit([Command::RecordSegment { segment, newest }])
            .await;
        let archive = self.archive().await;
        let leads = archive.store().campaign("test").await.unwrap();
        archive.trim(&leads.token, &sealed.segment).await.unwrap();
    }

    fn read(&self, passphrase: &[u8]) -> Result<Content, take::Error> {
        take::read(&self.file(), Some(passphrase))
    }
}

fn tenants(content: &super::Checked) -> Vec<String> {
    let tenants = content.fabric.tenants.keys();
    tenants.map(ToString::to_string).collect()
}

fn keys(state: &Path) -> Vec<u8> {
    super::keys::pack(&state.join(TRUST)).unwrap().to_vec()
}

/// The restored record is the one of the backup, led above it, and its nodes are to be adopted. What was
/// there before is aside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_and_its_keys_come_back() {
    let place = Place::new().await;
    place.change("before").await;
    let made = place.backup().await.unwrap();
    let epoch = made.epoch;
    let had = keys(&place.state());
    place.change("after").await;
    fs::write(place.state().join(TRUST).join("controller/later"), "x").unwrap();

    let restored = place.restore().await.unwrap();
    assert_eq!(restored.checked.objects, made.objects);
    assert_eq!(keys(&place.state()), had);
    let aside = restored.replaced.unwrap();
    assert!(aside.join(LOG).exists() && aside.join(TRUST).join("controller/later").exists());

    let again = place.backup().await.unwrap();
    assert_eq!(tenants(&again), ["before", "city"]);
    assert!(again.epoch.get() > epoch.get() + EPOCHS_APART);
    let said: Vec<_> = again.objects.keys().collect();
    let before: Vec<_> = made.objects.keys().collect();
    assert_eq!(
        said, before,
        "no node joined yet: there is nothing to adopt"
    );
    // And from there it goes on as any other.
    place.change("later").await;
    assert_eq!(
        tenants(&place.backup().await.unwrap()),
        ["before", "city", "later"]
    );
}

/// A record whose beginning lies in segments is whole with them, and a segment that is missing is missed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_are_a_part_of_it() {
    let place = Place::new().await;
    place.change("one").await;
    place.backup().await.unwrap();
    // Restoring folds what there is into a checkpoint, without which nothing is sealed.
    place.restore().await.unwrap();
    for _ in 0..2 {
        place.change(&format!("t-{}", place.env.random())).await;
        place.seal().await;
    }
    let made = place.backup().await.unwrap();
    assert_eq!(made.segments, 2);
    assert!(made.about.first > Seq(5), "{:?}", made.about);
    place.restore().await.unwrap();
    let again = place.backup().await.unwrap();
    assert_eq!(again.segments, 2);
    assert_eq!(tenants(&again), tenants(&made));

    let last = fs::read_dir(place.state().join(SEGMENTS)).unwrap();
    let mut last: Vec<_> = last.map(|entry| entry.unwrap().path()).collect();
    last.sort();
    fs::remove_file(last.pop().unwrap()).unwrap();
    let before = fs::read(place.file()).unwrap();
    let refused = place.backup().await.unwrap_err().to_string();
    assert!(refused.contains("between the segments"), "{refused}");
    assert_eq!(fs::read(place.file()).unwrap(), before, "the old one stays");
}

/// FAULTS 54: whatever was done to a file, it is refused and nothing is restored from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_backup_is_refused_wherever_it_is_damaged() {
    let place = Place::new().await;
    place.change("before").await;
    place.backup().await.unwrap();
    let sound = fs::read(place.file()).unwrap();
    let state = || fs::read(place.state().join(LOG)).unwrap();
    let before = state();
    for at in (0..sound.len()).step_by(sound.len() / 40 + 1) {
        let mut flipped = sound.clone();
        flipped[at] ^= 0x10;
        fs::write(place.file(), flipped).unwrap();
        place.restore().await.expect_err("a bit was flipped");
    }
    for length in [0, 5, 13, 14, 100, sound.len() / 2, sound.len() - 1] {
        fs::write(place.file(), &sound[..length]).unwrap();
        place.restore().await.expect_err("it was cut");
    }
    fs::write(place.file(), &sound).unwrap();
    let wrong = place.read(b"another passphrase").unwrap_err();
    assert!(matches!(wrong, take::Error::Locked(_)), "{wrong}");
    assert!(state() == before, "the record is as it was");
    place.restore().await.unwrap();
}

/// What a newer version wrote is refused and never mangled: the file's form, and the entries'.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_backup_is_refused() {
    let place = Place::new().await;
    place.backup().await.unwrap();
    let sound = fs::read(place.file()).unwrap();
    let mut newer = sound.clone();
    newer[12..14].copy_from_slice(&(VERSION + 1).to_be_bytes());
    fs::write(place.file(), &newer).unwrap();
    let refused = place.restore().await.unwrap_err().to_string();
    assert!(refused.contains("reads up to"), "{refused}");

    // The same length, so that nothing else of the file is different.
    let (ours, theirs) = (
        format!("\"entries\":{}", log::VERSION),
        format!("\"entries\":{}", log::VERSION + 1),
    );
    let at = sound
        .windows(ours.len())
        .position(|part| part == ours.as_bytes());
    let at = at.unwrap();
    let mut newer = sound;
    newer[at..at + theirs.len()].copy_from_slice(theirs.as_bytes());
    fs::write(place.file(), &newer).unwrap();
    let refused = place.restore().await.unwrap_err();
    let newer = matches!(
        refused,
        restore::Error::Backup(take::Error::Check(super::check::Error::Format(
            format::Error::Newer { .. }
        )))
    );
    assert!(newer, "{refused:?}");
    assert_eq!(fs::read(place.file()).unwrap()[..12], *b"kapok backup");
}

/// Whoever reads ends early, or the record doesn't: no file is there that wasn't.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unfinished_backup_leaves_the_one_before() {
    let place = Place::new().await;
    place.backup().await.unwrap();
    let before = fs::read(place.file()).unwrap();
    let (trust, file) = (place.state().join(TRUST), place.file());
    let (archive, sender) = (place.archive().await, place.sender());
    let cut = local::through(&archive, &sender, move |from| {
        let cut = std::io::Read::take(from, 700);
        take::take(cut, &trust, PASSPHRASE, &file)
    });
    cut.await.unwrap().expect_err("it was cut");
    assert!(fs::read(place.file()).unwrap() == before);
    assert!(!place.file().with_extension("new").exists());
    drop(archive);

    // Without the key that signs it would be of no use.
    fs::remove_dir_all(place.state().join(TRUST).join("authorities")).unwrap();
    let refused = place.backup().await.unwrap_err();
    assert!(matches!(refused, take::Error::NoKey { .. }), "{refused}");
    assert!(fs::read(place.file()).unwrap() == before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_is_replaced_only_if_asked() {
    let place = Place::new().await;
    place.backup().await.unwrap();
    let (file, state) = (place.file(), place.state());
    let restoring = restore::restore(&file, PASSPHRASE, &state, false, &place.env);
    let refused = restoring.await.unwrap_err();
    assert!(
        matches!(refused, restore::Error::Occupied { .. }),
        "{refused}"
    );
}
