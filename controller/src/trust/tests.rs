//! The fabric's trust over a real log, with real keys; where connections matter, on real sockets.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::Path};

use futures::StreamExt as _;
use kapok_store::{Redb, Store as _, redb::MemoryDisk, segments::MemorySegments};
use kapok_trust::{Acceptor, Authority, ClientAuth, Limits, connector, dns};
use kapok_types::{Epoch, NodeId, Seq, env::Seeded};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use super::{
    init::{Error as InitError, Founding, Places, found, found_in_memory},
    *,
};
use crate::{
    config::Config,
    controller::{self, Controller, Options},
    controllers::Candidate,
    fabric::{AuthorityState, decide::Rules, people::Role},
    images::Memory,
    ledger::Ledger,
    link::Tls,
};

const DAY: Duration = Duration::from_hours(24);

fn founding() -> Founding {
    Founding {
        fabric: "city".parse().unwrap(),
        controller: "a".parse().unwrap(),
        lives: Lives::default(),
        controllers: vec!["10.0.0.1:7700".into()],
        enroll: vec!["10.0.0.1:7780".into()],
    }
}

/// A fabric in memory, and the controller's trust over it.
struct World {
    env: Arc<Seeded>,
    opened: Opened,
    store: Arc<Redb>,
    people: Vec<(Subject, Material)>,
}

struct Running {
    trust: Trust,
    controllers: Controllers,
    ledger: ledger::Handle,
    task: tokio::task::JoinHandle<Result<(), ledger::Fatal>>,
}

impl World {
    async fn new() -> Self {
        let env = Seeded::new(1);
        let store = Arc::new(Redb::on_disk(&MemoryDisk::new()).unwrap());
        let vault = Vault::memory();
        let made = found_in_memory(store.clone(), env.clone(), &founding(), vault.clone())
            .await
            .unwrap();
        let credentials = Credentials::new(made.controller, env.clone()).unwrap();
        Self {
            env,
            opened: Opened::memory(credentials, vault),
            store,
            people: made.people,
        }
    }

    async fn start(&self) -> Running {
        let (handle, ledger) = Ledger::start(
            self.store.clone(),
            self.env.clone(),
            "a",
            Epoch(0),
            Rules::default(),
        )
        .await
        .unwrap();
        let task = tokio::spawn(ledger.run());
        let trust = leading(&self.opened, self.env.clone(), &handle)
            .await
            .unwrap();
        let own = Candidate {
            name: "a".parse().unwrap(),
            address: "127.0.0.1:1".into(),
        };
        let dialer = Arc::new(Tls(self.opened.credentials().clone()));
        let controllers = Controllers::new(own, dialer, self.env.clone(), CancellationToken::new());
        controllers.set_leads(true);
        Running {
            trust,
            controllers,
            ledger: handle,
            task,
        }
    }

    fn person(&self, name: &str) -> Credentials {
        let wanted = Subject::User(name.parse().unwrap());
        let (_, material) = self.people.iter().find(|(who, _)| *who == wanted).unwrap();
        Credentials::new(material.clone(), self.env.clone()).unwrap()
    }
}

/// The trust of a controller that leads.
async fn leading(
    opened: &Opened,
    env: Arc<dyn Env>,
    ledger: &ledger::Handle,
) -> Result<Trust, Error> {
    let trust = Trust::new(opened.clone(), Lives::default(), env)?;
    trust.lead(ledger).await?;
    Ok(trust)
}

impl Running {
    fn fabric(&self) -> Fabric {
        self.ledger.snapshot().fabric.clone()
    }

    async fn stop(self) {
        drop(self.ledger);
        self.task.await.unwrap().unwrap();
    }
}

/// Everything below a directory: names, modes and contents.
fn tree(dir: &Path) -> BTreeSet<(String, u32, Vec<u8>)> {
    let mut all = BTreeSet::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_file() {
            fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        if meta.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|one| one.unwrap().path()));
        }
        let mode = meta.permissions().mode() & 0o777;
        all.insert((path.display().to_string(), mode, content));
    }
    all
}

fn places(dir: &Path) -> Places {
    Places {
        trust: dir.join("trust"),
        credentials: dir.join("credentials"),
    }
}

#[tokio::test]
async fn a_fabric_is_made_once_and_its_secrets_are_its_owners() {
    let dir = tempfile::tempdir().unwrap();
    let env = Seeded::new(1);
    let store = Arc::new(Redb::on_disk(&MemoryDisk::new()).unwrap());
    let (founding, places) = (founding(), places(dir.path()));
    let made = found(store.clone(), env.clone(), &founding, &places)
        .await
        .unwrap();
    let names: Vec<_> = made.people.iter().map(|(who, _)| who.to_string()).collect();
    assert_eq!(
        names,
        [
            "user/system-administrator",
            "user/security-administrator",
            "user/auditor"
        ]
    );
    for (path, mode, content) in tree(dir.path()) {
        if String::from_utf8_lossy(&content).contains("PRIVATE KEY") {
            assert_eq!(mode, 0o600, "{path}");
        }
    }
    let text = fs::read_to_string(&made.people[0].1).unwrap();
    for part in [
        "user/system-administrator",
        "# fabric: city\n",
        "# controllers: 10.0.0.1:7700\n",
        "# enroll: 10.0.0.1:7780\n",
        "-----BEGIN PRIVATE KEY-----",
    ] {
        assert!(text.contains(part), "no {part} in it");
    }
    let before = tree(dir.path());
    let again = found(store.clone(), env.clone(), &founding, &places).await;
    let words = again.unwrap_err().to_string();
    assert!(words.contains("there is a fabric already"), "{words}");
    assert!(words.contains("controller/a in fabric city"), "{words}");
    assert_eq!(tree(dir.path()), before);

    // What is on disk and what is in the log is one fabric, and a controller can start on it.
    let opened = Opened::load(&places.trust, env.clone()).await.unwrap();
    let (handle, ledger) = Ledger::start(store, env.clone(), "a", Epoch(0), Rules::default())
        .await
        .unwrap();
    let task = tokio::spawn(ledger.run());
    let trust = leading(&opened, env, &handle).await.unwrap();
    let snapshot = handle.snapshot();
    let fabric = &snapshot.fabric;
    assert_eq!(trust.active(fabric).unwrap(), made.authority);
    assert_eq!(fabric.certificates.len(), 4);
    let roles: Vec<Vec<Role>> = made
        .people
        .iter()
        .map(|(who, _)| {
            fabric.users[who]
                .grants
                .iter()
                .map(|one| one.role)
                .collect()
        })
        .collect();
    assert_eq!(
        roles,
        [
            [Role::SystemAdministrator],
            [Role::SecurityAdministrator],
            [Role::Auditor]
        ]
    );
    drop((trust, handle));
    task.await.unwrap().unwrap();
}

/// Wherever the making of a fabric stopped, it goes on from there.
#[tokio::test]
async fn an_unfinished_making_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let env = Seeded::new(1);
    let store = Arc::new(Redb::on_disk(&MemoryDisk::new()).unwrap());
    let (founding, places) = (founding(), places(dir.path()));
    // The key is on disk, the log knows nothing yet; and a directory that was never finished.
    let vault = Vault::open(&places.trust).unwrap();
    let left = Authority::create(&founding.fabric, &*env, authority::LIFE).unwrap();
    let left = vault.put(left).await.unwrap();
    fs::create_dir(places.trust.join("authorities/.new-x")).unwrap();
    let mut other = founding.clone();
    other.fabric = "town".parse().unwrap();
    let refused = found(store.clone(), env.clone(), &other, &places).await;
    assert!(matches!(refused, Err(InitError::OtherName { .. })));
    let first = found(store.clone(), env.clone(), &founding, &places)
        .await
        .unwrap();
    assert_eq!(first.authority, left.fingerprint());
    // Of a fabric that was made only the controller's own certificate is made anew.
    fs::remove_dir_all(places.trust.join("controller")).unwrap();
    fs::remove_file(&first.people[2].1).unwrap();
    let kept = fs::read(&first.people[0].1).unwrap();
    let lost = Opened::load(&places.trust, env.clone()).await;
    assert!(matches!(lost, Err(Error::NoOwn { .. })), "{lost:?}");
    let second = found(store.clone(), env.clone(), &founding, &places)
        .await
        .unwrap();
    assert_eq!(second.authority, first.authority);
    assert_eq!(second.people, []);
    assert_eq!(fs::read(&first.people[0].1).unwrap(), kept);
    assert!(!first.people[2].1.exists());
    Opened::load(&places.trust, env.clone()).await.unwrap();
    // Without the key there is no going on.
    fs::remove_dir_all(&places.trust).unwrap();
    let refused = found(store, env, &founding, &places).await;
    assert!(matches!(refused, Err(InitError::KeyLost { .. })));
}

/// It stopped between the first people: somebody else's file is not overwritten, and those who have
/// their credential keep it.
#[tokio::test]
async fn a_making_that_stopped_between_people_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let env = Seeded::new(1);
    let store = Arc::new(Redb::on_disk(&MemoryDisk::new()).unwrap());
    let (founding, places) = (founding(), places(dir.path()));
    let nothing = Opened::load(&places.trust, env.clone()).await;
    assert!(matches!(nothing, Err(Error::NoFabric { .. })));
    fs::create_dir(&places.credentials).unwrap();
    let (kept, foreign) = (
        places.credentials.join("system-administrator.pem"),
        places.credentials.join("security-administrator.pem"),
    );
    fs::write(&foreign, "mine").unwrap();
    let refused = found(store.clone(), env.clone(), &founding, &places).await;
    assert!(matches!(refused, Err(InitError::InTheWay { .. })));
    let before = fs::read(&kept).unwrap();
    fs::remove_file(&foreign).unwrap();
    let made = found(store, env, &founding, &places).await.unwrap();
    assert_eq!(made.people.len(), 3);
    assert_eq!(fs::read(&kept).unwrap(), before);
}

/// Credentials that could not be kept are kept as soon as that is possible.
#[tokio::test]
async fn what_could_not_be_kept_is_kept_later() {
    let dir = tempfile::tempdir().unwrap();
    let env = Seeded::new(1);
    let store = Arc::new(Redb::on_disk(&MemoryDisk::new()).unwrap());
    let places = places(dir.path());
    found(store.clone(), env.clone(), &founding(), &places)
        .await
        .unwrap();
    let opened = Opened::load(&places.trust, env.clone()).await.unwrap();
    let (handle, ledger) = Ledger::start(store, env.clone(), "a", Epoch(0), Rules::default())
        .await
        .unwrap();
    let task = tokio::spawn(ledger.run());
    let trust = leading(&opened, env.clone(), &handle).await.unwrap();
    // A file lies where the directory was: nothing can be kept.
    let own = places.trust.join("controller");
    fs::remove_dir_all(&own).unwrap();
    fs::write(&own, "").unwrap();
    env.advance(DAY * 21);
    trust.follow(&handle, None, Renewal::Own).await.unwrap_err();
    let renewed = trust.credentials().certificate().serial;
    fs::remove_file(&own).unwrap();
    trust.follow(&handle, None, Renewal::Own).await.unwrap();
    assert_eq!(trust.credentials().certificate().serial, renewed);
    let kept = Opened::load(&places.trust, env).await.unwrap();
    assert_eq!(kept.credentials().certificate().serial, renewed);
    drop((trust, handle));
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn nothing_is_given_out_that_is_not_in_the_log() {
    let world = World::new().await;
    let running = world.start().await;
    let csr = Csr::parse(&Key::generate().unwrap().request().unwrap()).unwrap();
    let who = Subject::User("auditor".parse().unwrap());
    let fabric = running.fabric();
    let issued = running.trust.issue(&fabric, &csr, who, DAY).unwrap();
    let serial = issued.record().serial;
    let early = running.trust.release(issued, &running.ledger.snapshot());
    assert!(matches!(early, Err(Error::NotRecorded { serial: it }) if it == serial));
    running.stop().await;
}

/// FAULTS 24: whoever knows only the old authority goes on, whoever is new works at once, and the
/// old authority is trusted as long as somebody lives by it.
#[tokio::test]
async fn a_new_authority_locks_nobody_out() {
    let world = World::new().await;
    let running = world.start().await;
    let old = running.trust.active(&running.fabric()).unwrap();
    let request = Some("rotate-1".to_owned());
    let rotate = || {
        running.trust.rotate(
            &running.ledger,
            &running.controllers,
            Origin::controller(),
            request.clone(),
        )
    };
    let (new, snapshot) = rotate().await.unwrap();
    assert_ne!(new, old);
    assert_eq!(
        snapshot.fabric.authorities[&old].state,
        AuthorityState::Retiring
    );
    assert_eq!(
        snapshot.fabric.authorities[&new].state,
        AuthorityState::Active
    );
    // The same request makes no second one, and leaves no key behind.
    assert_eq!(rotate().await.unwrap().0, new);
    assert_eq!(world.opened.vault().all().len(), 2);
    running
        .trust
        .follow(&running.ledger, None, Renewal::Own)
        .await
        .unwrap();
    let own = running.trust.credentials().certificate();
    assert_eq!(own.authority, new);
    assert_eq!(running.trust.credentials().bundle().roots().len(), 2);

    let auditor = world.person("auditor");
    assert!(!auditor.bundle().contains(&new));
    let acceptor = Acceptor::new(
        running.trust.credentials().clone(),
        ClientAuth::Required,
        Limits::default(),
    );
    let mut server = Server::on(acceptor).await;
    let name = dns::controller(running.trust.fabric());
    let mut stream = connector::stream(&auditor, &server.address, &name)
        .await
        .unwrap();
    server.echo(&mut stream).await;
    running.stop().await;
}

/// A crash between the new key and its record: the next start finishes the rotation.
#[tokio::test]
async fn a_rotation_that_was_cut_short_is_finished() {
    let world = World::new().await;
    let left = Authority::create(&founding().fabric, &*world.env, authority::LIFE).unwrap();
    let left = world.opened.vault().put(left).await.unwrap();
    let running = world.start().await;
    let active = running.trust.active(&running.fabric()).unwrap();
    assert_eq!(active, left.fingerprint());
    assert_eq!(running.trust.credentials().certificate().authority, active);
    running.stop().await;
    // Without its key the controller says so instead of starting.
    world.opened.vault().remove(active).await.unwrap();
    let (handle, ledger) = Ledger::start(
        world.store.clone(),
        world.env.clone(),
        "a",
        Epoch(0),
        Rules::default(),
    )
    .await
    .unwrap();
    let task = tokio::spawn(ledger.run());
    let refused = leading(&world.opened, world.env.clone(), &handle).await;
    assert!(matches!(refused, Err(Error::NoKey { .. })));
    drop(handle);
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_own_certificate_is_renewed_at_two_thirds_of_its_life() {
    let world = World::new().await;
    let running = world.start().await;
    let first = running.trust.credentials().certificate().serial;
    world.env.advance(DAY * 19);
    running
        .trust
        .follow(&running.ledger, None, Renewal::Own)
        .await
        .unwrap();
    assert_eq!(running.trust.credentials().certificate().serial, first);
    world.env.advance(DAY * 2);
    running
        .trust
        .follow(&running.ledger, None, Renewal::Own)
        .await
        .unwrap();
    let second = running.trust.credentials().certificate();
    assert_ne!(second.serial, first);
    assert!(running.fabric().certificates.contains_key(&second.serial));
    running.stop().await;
    // One that has ended while nobody ran is renewed at the start.
    world.env.advance(DAY * 60);
    let running = world.start().await;
    let third = running.trust.credentials().certificate();
    assert!(third.is_valid_at(world.env.now()));
    running.stop().await;
}

/// A revoked certificate's open connection ends without anybody's doing.
#[tokio::test]
async fn a_revocation_ends_open_connections() {
    let world = World::new().await;
    let running = world.start().await;
    let stop = CancellationToken::new();
    let keeper = tokio::spawn(keeper::run(
        running.trust.clone(),
        running.ledger.clone(),
        running.controllers.clone(),
        stop.clone(),
    ));
    let acceptor = Acceptor::new(
        running.trust.credentials().clone(),
        ClientAuth::Required,
        Limits::default(),
    );
    let refusals = acceptor.refusals().clone();
    let mut server = Server::on(acceptor).await;
    let name = dns::controller(running.trust.fabric());
    let (auditor, other) = (
        world.person("auditor"),
        world.person("system-administrator"),
    );
    let mut cut = connector::stream(&auditor, &server.address, &name)
        .await
        .unwrap();
    server.echo(&mut cut).await;
    let mut kept = connector::stream(&other, &server.address, &name)
        .await
        .unwrap();
    server.echo(&mut kept).await;
    let command = Command::RevokeCertificate {
        serial: auditor.certificate().serial,
        reason: "stolen".into(),
    };
    running
        .ledger
        .submit(Origin::controller(), None, command)
        .await
        .unwrap();
    // Whoever serves it finds it ended, and lets it go.
    let mut byte = [0];
    let ended = server.open[0].read(&mut byte).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    drop(server.open.remove(0));
    let ended = cut.read(&mut byte).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    server.echo(&mut kept).await;
    let refused = connector::stream(&auditor, &server.address, &name)
        .await
        .unwrap_err();
    assert_eq!(
        connector::failure(&refused),
        Some(kapok_trust::TlsFailure::PeerRefusedUs(
            kapok_trust::Alert::Revoked
        ))
    );
    assert_eq!(refusals.get(kapok_trust::Reason::Revoked), 1);
    stop.cancel();
    keeper.await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn a_ticket_is_for_one_node_one_blob_and_a_while() {
    let world = World::new().await;
    let running = world.start().await;
    let trust = &running.trust;
    let node = |n: u128| NodeId(uuid::Uuid::from_u128(n));
    let digest = Digest::of(b"blob");
    let ticket = trust.ticket(node(1), digest, Epoch(3)).unwrap().bytes;
    assert_eq!(trust.check_ticket(&ticket, node(1), digest), Ok(()));
    assert_eq!(
        trust.check_ticket(&ticket, node(2), digest),
        Err(TicketRefused::Other)
    );
    assert_eq!(
        trust.check_ticket(&ticket, node(1), Digest::of(b"other")),
        Err(TicketRefused::Other)
    );
    let mut forged = ticket.clone();
    let middle = forged.len() / 3;
    forged[middle] ^= 1;
    for wrong in [&forged[..], &ticket[1..], b""] {
        assert_eq!(
            trust.check_ticket(wrong, node(1), digest),
            Err(TicketRefused::Seal)
        );
    }
    // A person's key is worth nothing as a controller's.
    let auditor = world.person("auditor");
    let payload = kapok_trust::Sealed::from_bytes(&ticket).unwrap().payload;
    let sealed = auditor.signer().seal("kapok peer ticket 1", &payload);
    if let Ok(sealed) = sealed {
        assert_eq!(
            trust.check_ticket(&sealed.to_bytes(), node(1), digest),
            Err(TicketRefused::Seal)
        );
    }
    world.env.advance(Duration::from_hours(1));
    assert_eq!(
        trust.check_ticket(&ticket, node(1), digest),
        Err(TicketRefused::Ended)
    );
    running.stop().await;
}

/// A server that gives back what it is sent.
struct Server {
    address: String,
    accepted: kapok_trust::acceptor::Incoming,
    open: Vec<kapok_trust::Connection>,
}

impl Server {
    async fn on(acceptor: Acceptor) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        Self {
            address,
            accepted: acceptor.incoming(listener),
            open: Vec::new(),
        }
    }

    /// A byte to the newest connection, or to the one that was opened before, and back.
    async fn echo(&mut self, client: &mut kapok_trust::Connection) {
        client.write_all(b"k").await.unwrap();
        client.flush().await.unwrap();
        let mut byte = [0];
        loop {
            let last = self.open.last_mut();
            let taken = tokio::select! {
                biased;
                read = async {
                    match last {
                        Some(last) => last.read(&mut byte).await,
                        None => std::future::pending().await,
                    }
                } => Some(read),
                accepted = self.accepted.next() => {
                    self.open.push(accepted.unwrap().unwrap());
                    None
                }
            };
            if taken.is_some_and(|read| read.unwrap() == 1) {
                break;
            }
        }
        let last = self.open.last_mut().unwrap();
        last.write_all(&byte).await.unwrap();
        last.flush().await.unwrap();
        client.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"k");
    }
}

/// A controller that is told of the wrong store writes nothing there: a log can still move to it.
#[tokio::test]
async fn a_store_without_a_fabric_stays_blank() {
    let world = World::new().await;
    let blank = Arc::new(Redb::in_memory().unwrap());
    let refused = Controller::start(Options {
        config: Config::parse("", Path::new("test")).unwrap(),
        store: blank.clone(),
        env: world.env.clone(),
        blobs: Arc::new(Memory::default()),
        segments: Arc::new(MemorySegments::new()),
        dialer: Arc::new(Tls(world.opened.credentials().clone())),
        trust: world.opened.clone(),
        epoch_floor: Epoch::ZERO,
    })
    .await;
    assert!(matches!(
        refused,
        Err(controller::Error::Trust(Error::EmptyLog { .. }))
    ));
    assert_eq!(blank.head().await.unwrap().seq, Seq(0));
}
