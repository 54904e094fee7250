//! Joining, as a person does it and as it goes wrong; and coming back after a certificate ran out.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, where a failed unwrap is a failed test"
)]

mod common;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use common::{
    enroll::Door,
    fabric::{Fabric, controller},
    server::{Server, WAIT, beats, comes, keep, node_id, pages},
    until,
};
use kapok_agent::{
    local::Local,
    trust::{
        self, Trust,
        command::{self, Arguments},
    },
};
use kapok_proto::{
    agent::v1::{HeartbeatRequest, ResyncRequest},
    common::v1::Phase,
};
use kapok_trust::{Subject, TlsFailure, connector, files};
use kapok_types::{Env, Timestamp, env::System};
use tokio::time::timeout;
use tonic::Request;

const HOUR: Duration = Duration::from_hours(1);

/// A server that may join: its configuration and its state directory.
struct Machine {
    folder: tempfile::TempDir,
    env: Arc<dyn Env>,
}

impl Machine {
    fn new() -> Self {
        let machine = Self {
            folder: tempfile::tempdir().unwrap(),
            env: System::new(),
        };
        let state = machine.state();
        let config = format!("state_dir = \"{}\"\n", state.display());
        fs::write(machine.config(), config).unwrap();
        machine
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("agent.toml")
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn trust(&self) -> PathBuf {
        self.state().join(trust::FOLDER)
    }

    async fn join(&self, arguments: Arguments) -> Result<String, command::Error> {
        let prepared = command::prepare(arguments, &self.config(), &self.env)?;
        timeout(WAIT, prepared.join(&self.env)).await.unwrap()
    }
}

fn at(door: &Door) -> Arguments {
    Arguments {
        controller: door.address.to_string(),
        token: Some(door.token.reveal().to_string()),
        token_file: None,
        address: None,
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_server_joins() {
    let fabric = Arc::new(Fabric::new("kapok"));
    let door = Door::open(&fabric).await;
    let machine = Machine::new();
    let said = machine.join(at(&door)).await.unwrap();
    for word in ["node-1", "kapok", "systemctl"] {
        assert!(said.contains(word), "{said}");
    }
    let asked = door.asked().remove(0);
    assert_eq!(asked.address, ":7701", "from the configuration's port");
    let id = fs::read_to_string(machine.state().join("node-id")).unwrap();
    assert_eq!(asked.node_id, id.trim());
    let material = files::load(&machine.trust()).unwrap();
    assert!(!asked.csr_pem.contains("PRIVATE"));
    assert_eq!(mode(&machine.trust().join(files::KEY)), 0o600);
    assert_eq!(mode(&machine.trust()), 0o700);
    // What it left is what an agent starts with.
    let local = Local::open(&machine.state(), Arc::clone(&machine.env)).unwrap();
    assert_eq!(local.node_id().to_string(), asked.node_id);
    let env = Arc::clone(&machine.env);
    let trust = Trust::load(&machine.trust(), local.node_id(), env).unwrap();
    assert_eq!(trust.fabric(), &fabric.name);
    assert!(material.bundle_pem.contains("CERTIFICATE"));

    // Again, beside an agent that has the store open: the same node.
    machine.join(at(&door)).await.unwrap();
    assert_eq!(door.asked()[1].node_id, asked.node_id);
    assert_ne!(
        files::load(&machine.trust()).unwrap().key_pem,
        material.key_pem
    );
}

/// What was typed wrong is said before anything is asked or written.
#[tokio::test]
async fn what_was_typed_wrong_leaves_nothing() {
    let machine = Machine::new();
    fs::remove_file(machine.config()).unwrap();
    let fabric = Arc::new(Fabric::new("kapok"));
    let door = Door::open(&fabric).await;
    let mut arguments = at(&door);
    arguments.address = Some("nowhere".into());
    let refused = machine.join(arguments.clone()).await.unwrap_err();
    assert!(refused.is_misuse(), "{refused}");
    arguments.address = Some("node-1.example:9000".into());
    arguments.token = Some("not a token".into());
    let refused = machine.join(arguments).await.unwrap_err();
    assert!(refused.is_misuse(), "{refused}");
    assert!(refused.to_string().contains("copy all"), "{refused}");
    assert!(!machine.config().exists() && !machine.state().exists());
    assert!(door.asked().is_empty());
}

/// Each way to fail says what to do, and leaves nothing.
#[tokio::test]
async fn every_refusal_says_what_to_do() {
    let fabric = Arc::new(Fabric::new("kapok"));
    let door = Door::open(&fabric).await;
    let machine = Machine::new();
    for (reason, says) in [
        ("TOKEN_REFUSED", "node token create"),
        ("WRONG_NODE", "belongs to another node"),
        ("FINGERPRINT_CHANGED", "node rebind"),
        ("REVOKED", "node rm"),
    ] {
        door.refuse(reason);
        let refused = machine.join(at(&door)).await.unwrap_err().to_string();
        assert!(refused.contains(says), "{reason}: {refused}");
    }

    let mut nobody = at(&door);
    nobody.controller = "127.0.0.1:1".into();
    let refused = machine.join(nobody).await.unwrap_err().to_string();
    assert!(
        refused.contains("can't be reached") && refused.contains("7780"),
        "{refused}"
    );

    // A controller of a fabric of the same name, with another authority.
    let impostor = Arc::new(Fabric::new("kapok"));
    let impostor = Door::open(&impostor).await;
    let mut astray = at(&door);
    astray.controller = impostor.address.to_string();
    let refused = machine.join(astray).await.unwrap_err().to_string();
    assert!(
        refused.contains("isn't a controller of the fabric kapok"),
        "{refused}"
    );
    assert!(impostor.asked().is_empty(), "the token was given away");

    let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut astray = at(&door);
    astray.controller = plain.local_addr().unwrap().to_string();
    let answers = tokio::spawn(async move {
        while let Ok((mut stream, _)) = plain.accept().await {
            use tokio::io::AsyncWriteExt as _;
            let _gone = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let refused = machine.join(astray).await.unwrap_err().to_string();
    answers.abort();
    assert!(refused.contains("doesn't speak TLS"), "{refused}");

    for (from, says) in [(3, "isn't valid yet"), (-3, "ran out")] {
        let hours = fabric.env.now().get().checked_add_signed(from * 3_600_000);
        let material = fabric.material(controller(), Timestamp(hours.unwrap()), HOUR);
        let wrong = Door::as_who(&fabric, fabric.credentials(material)).await;
        let refused = machine.join(at(&wrong)).await.unwrap_err().to_string();
        assert!(
            refused.contains(says) && refused.contains("timedatectl"),
            "{refused}"
        );
    }
    assert!(matches!(
        Trust::load(&machine.trust(), node_id(), Arc::clone(&machine.env)),
        Err(trust::Error::NotJoined)
    ));
}

/// A node of one fabric isn't made another's by a token.
#[tokio::test]
async fn a_node_stays_in_its_fabric() {
    let machine = Machine::new();
    let (first, second) = (
        Arc::new(Fabric::new("first")),
        Arc::new(Fabric::new("second")),
    );
    let (first, second) = (Door::open(&first).await, Door::open(&second).await);
    machine.join(at(&first)).await.unwrap();
    let before = files::load(&machine.trust()).unwrap();
    let refused = machine.join(at(&second)).await.unwrap_err().to_string();
    assert!(
        refused.contains("first") && refused.contains("second"),
        "{refused}"
    );
    assert!(second.asked().is_empty());
    assert_eq!(files::load(&machine.trust()).unwrap(), before);
}

/// An agent that was started first waits, and serves once its server was joined.
#[tokio::test]
async fn an_agent_waits_until_it_is_joined() {
    let fabric = Arc::new(Fabric::new("kapok"));
    let door = Door::open(&fabric).await;
    let machine = Machine::new();
    let local = Local::open(&machine.state(), Arc::clone(&machine.env)).unwrap();
    let (folder, env) = (machine.trust(), Arc::clone(&machine.env));
    let (told, mut waits) = tokio::sync::watch::channel(false);
    let node = local.node_id();
    let waiting = tokio::spawn(async move {
        Trust::when_joined(&folder, node, env, || {
            told.send_replace(true);
        })
        .await
    });
    timeout(WAIT, waits.wait_for(|told| *told))
        .await
        .unwrap()
        .unwrap();
    assert!(!waiting.is_finished());
    machine.join(at(&door)).await.unwrap();
    let trust = timeout(WAIT, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(trust.identity().subject, Subject::Node(node));
}

/// FAULTS 24, when everything went wrong: the certificate of a node with a guest ran out. Nobody
/// reaches the node, and the guest runs on. A token carried by hand brings it back, beside the
/// running agent: the same node, with the same instance.
#[tokio::test]
async fn an_expired_node_keeps_its_guests_and_comes_back() {
    let fabric = Arc::new(Fabric::new("kapok"));
    let door = Door::open(&fabric).await;
    let machine = Machine::new();
    fs::create_dir(machine.state()).unwrap();
    fs::write(machine.state().join("node-id"), format!("{}\n", node_id())).unwrap();

    // In better times.
    let server = Server::start(&fabric).await;
    let mut client = server.client(&fabric.controller()).await;
    let intent = common::Node::new(kapok_agent::driver::sim::Shape::default()).apply(1);
    let message = ResyncRequest {
        epoch: 1,
        instances: vec![intent],
        complete: true,
    };
    let taken = async {
        while client
            .resync(Request::new(tokio_stream::once(message.clone())))
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(WAIT, taken).await.unwrap();
    until(&mut client, 1, Phase::Running).await;
    drop(client);
    let (host, memory) = server.stop().await;

    // Then the certificate runs out, and the agent is started again.
    let long_ago = Timestamp(fabric.env.now().get() - 3 * 3_600_000);
    let expired = fabric.material(Subject::Node(node_id()), long_ago, HOUR);
    keep(&machine.trust(), &expired);
    let env = Arc::clone(&fabric.env);
    let trust = Trust::load(&machine.trust(), node_id(), env).unwrap();
    assert!(trust.has_expired());
    let server = Server::over(&fabric, trust, pages(), host, memory).await;
    let refused = server.dial(&fabric.controller()).await.unwrap_err();
    assert_eq!(connector::failure(&refused), Some(TlsFailure::Expired));
    assert_eq!(
        server.host.runs(common::id(1)),
        1,
        "the guest wasn't touched"
    );

    machine.join(at(&door)).await.unwrap();
    assert_eq!(door.asked()[0].node_id, node_id().to_string());
    comes("the agent takes it", || !server.trust.has_expired()).await;
    let mut client = server.client(&fabric.controller()).await;
    assert!(beats(&mut client).await);
    until(&mut client, 1, Phase::Running).await;
    assert_eq!(
        server.host.runs(common::id(1)),
        1,
        "the guest wasn't touched"
    );
    let beats = client.heartbeat(HeartbeatRequest::default()).await.unwrap();
    let sign = beats.into_inner().message().await.unwrap().unwrap();
    assert_eq!((sign.node_id, sign.epoch), (node_id().to_string(), 1));
    server.stop().await;
}
