//! Certificates come and go while the node works: FAULTS 24, and what must not go wrong with it.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, where a failed unwrap is a failed test"
)]

mod common;

use std::{sync::Arc, time::Duration};

use common::{
    Client,
    fabric::{Fabric, controller},
    reason,
    server::{Server, WAIT, beats, keep, node_id},
};
use kapok_proto::{
    agent::v1::{
        HeartbeatRequest, HeartbeatResponse, InstallTrustRequest, ListInstancesRequest,
        RequestCertificateRequest,
    },
    refusal,
};
use kapok_trust::{Credentials, Material, Serial, Subject, connector, files};
use kapok_types::{NodeId, Timestamp};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};
use uuid::Uuid;

const HOUR: Duration = Duration::from_hours(1);

/// A node whose trust lies in a folder, and a controller of its fabric.
struct Bench {
    fabric: Fabric,
    folder: tempfile::TempDir,
    server: Server,
    controller: Credentials,
    client: Client,
}

impl Bench {
    async fn new() -> Self {
        let fabric = Fabric::new("kapok");
        let folder = tempfile::tempdir().unwrap();
        let now = fabric.env.now();
        keep(
            folder.path(),
            &fabric.material(Subject::Node(node_id()), now, HOUR),
        );
        let server = Server::load(&fabric, folder.path()).await;
        let controller = fabric.controller();
        let client = server.client(&controller).await;
        Self {
            fabric,
            folder,
            server,
            controller,
            client,
        }
    }

    async fn request(&mut self) -> String {
        let answer = self
            .client
            .request_certificate(RequestCertificateRequest {});
        timeout(WAIT, answer)
            .await
            .unwrap()
            .unwrap()
            .into_inner()
            .csr_pem
    }

    async fn install(&mut self, change: InstallTrustRequest) -> Result<String, Status> {
        let answer = timeout(WAIT, self.client.install_trust(change))
            .await
            .unwrap();
        answer.map(|answer| answer.into_inner().trust_digest)
    }

    /// A new certificate by this authority, as a controller's renewal does it.
    fn certified(&self, by: &Fabric, csr: &str) -> (InstallTrustRequest, Serial) {
        let now = self.fabric.env.now();
        let (chain_pem, serial) = by.certify(csr, Subject::Node(node_id()), now, HOUR);
        let change = InstallTrustRequest {
            epoch: 1,
            chain_pem,
            bundle_pem: self.fabric.bundle(),
            crl_pem: String::new(),
        };
        (change, serial)
    }

    /// The certificate that the node shows to a new connection.
    async fn shown(&self) -> Serial {
        let (address, dns) = (self.server.grpc.to_string(), self.server.dns());
        let connection = connector::stream(&self.controller, &address, &dns).await;
        let connection = connection.unwrap();
        connection.peer().serial().unwrap()
    }

    fn kept(&self) -> Material {
        files::load(self.folder.path()).unwrap()
    }
}

/// A stream of life signs that must not break.
struct Beats {
    stream: Streaming<HeartbeatResponse>,
    last: u64,
}

impl Beats {
    async fn begin(client: &mut Client) -> Self {
        let stream = client.heartbeat(HeartbeatRequest { interval_ms: 100 });
        let stream = stream.await.unwrap().into_inner();
        Self { stream, last: 0 }
    }

    async fn go_on(&mut self) {
        for _ in 0..2 {
            let beat = timeout(WAIT, self.stream.message()).await.unwrap();
            let sequence = beat.unwrap().unwrap().sequence;
            assert_eq!(sequence, self.last + 1);
            self.last = sequence;
        }
    }
}

/// Calls without a pause until told to stop, and gives how many there were; none may fail.
struct Load {
    stop: tokio_util::sync::CancellationToken,
    calls: tokio::task::JoinHandle<usize>,
}

impl Load {
    fn begin(client: &Client) -> Self {
        let stop = tokio_util::sync::CancellationToken::new();
        let (stopped, mut client) = (stop.clone(), client.clone());
        let calls = tokio::spawn(async move {
            let mut count = 0;
            while !stopped.is_cancelled() {
                match client.list_instances(ListInstancesRequest {}).await {
                    Ok(_) => count += 1,
                    Err(early) => assert_eq!(reason(&early), "HYPERVISOR_UNSEEN"),
                }
                tokio::task::yield_now().await;
            }
            count
        });
        Self { stop, calls }
    }

    async fn end(self) {
        self.stop.cancel();
        assert!(self.calls.await.unwrap() > 10, "there was no load");
    }
}

/// FAULTS 24, renewal: open connections go on, calls don't fail, new connections are shown the new
/// certificate, and it is durable with its key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_under_load_drops_nothing() {
    let mut bench = Bench::new().await;
    let mut beats = Beats::begin(&mut bench.client).await;
    let load = Load::begin(&bench.client);
    let mut key = bench.kept().key_pem.clone();
    for _ in 0..5 {
        let csr = bench.request().await;
        let (change, serial) = bench.certified(&bench.fabric, &csr);
        let digest = bench.install(change.clone()).await.unwrap();
        assert_eq!(digest, bench.server.trust.digest().hex());
        beats.go_on().await;
        assert_eq!(bench.shown().await, serial);
        let kept = bench.kept();
        assert_eq!(kept.chain_pem, change.chain_pem);
        assert_ne!(kept.key_pem, key, "a new key each time");
        bench.fabric.credentials(kept.clone());
        key.clone_from(&kept.key_pem);
        // The same again, as a controller does that didn't hear the answer.
        assert_eq!(bench.install(change).await.unwrap(), digest);
    }
    load.end().await;
    bench.server.stop().await;
}

/// FAULTS 24, rollover: the controller has changed over to an authority that the node doesn't know
/// yet, and comes over the bridge; the node follows; then the old authority goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_rolls_over_under_load() {
    let mut bench = Bench::new().await;
    let (old, new) = (bench.fabric.bundle(), bench.fabric.successor());
    let now = bench.fabric.env.now();
    let serial = Serial::new(bench.fabric.env.as_ref());
    let bridge = bench
        .fabric
        .authority
        .cross_sign(&new.bundle(), serial, now)
        .unwrap();
    let both = format!("{old}{}", new.bundle());
    let mut beats_before = Beats::begin(&mut bench.client).await;

    let mut material = new.material(controller(), now, HOUR);
    material.chain_pem += &bridge;
    material.bundle_pem.clone_from(&both);
    bench.controller.replace(material).unwrap();
    bench.client = bench.server.client(&bench.controller).await;
    let mut beats = Beats::begin(&mut bench.client).await;
    let load = Load::begin(&bench.client);
    beats_before.go_on().await;

    let change = InstallTrustRequest {
        epoch: 1,
        bundle_pem: both.clone(),
        ..Default::default()
    };
    bench.install(change).await.unwrap();
    beats.go_on().await;
    beats_before.go_on().await;

    let csr = bench.request().await;
    let (mut change, serial) = bench.certified(&new, &csr);
    change.chain_pem += &bridge;
    change.bundle_pem = both;
    bench.install(change).await.unwrap();
    beats.go_on().await;
    assert_eq!(bench.shown().await, serial);

    let change = InstallTrustRequest {
        epoch: 1,
        bundle_pem: new.bundle(),
        ..Default::default()
    };
    bench.install(change).await.unwrap();
    beats.go_on().await;
    assert_eq!(bench.shown().await, serial);
    load.end().await;
    // What came in by the old authority is over.
    let ends = async { while let Ok(Some(_)) = beats_before.stream.message().await {} };
    timeout(WAIT, ends).await.unwrap();
    assert!(bench.server.dial(&bench.fabric.controller()).await.is_err());
    bench.server.stop().await;
}

/// A renewal that breaks off is repeated: the key waits for its certificate, and one that a restart
/// has lost is made again.
#[tokio::test]
async fn a_renewal_may_break_off() {
    let mut bench = Bench::new().await;
    let csr = bench.request().await;
    let key = |csr: &str| kapok_trust::Csr::parse(csr).unwrap().public_key();
    assert_eq!(key(&bench.request().await), key(&csr), "the same key waits");
    let (change, _) = bench.certified(&bench.fabric, &csr);

    let (host, memory) = bench.server.stop().await;
    let trust = kapok_agent::trust::Trust::load(
        bench.folder.path(),
        node_id(),
        Arc::clone(&bench.fabric.env),
    );
    let pages = common::server::pages();
    bench.server = Server::over(&bench.fabric, trust.unwrap(), pages, host, memory).await;
    bench.client = bench.server.client(&bench.controller).await;
    let refused = bench.install(change).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let csr = bench.request().await;
    let (change, serial) = bench.certified(&bench.fabric, &csr);
    bench.install(change).await.unwrap();
    assert_eq!(bench.shown().await, serial);

    // And again for the present key, as when only the authority changes.
    let present = kapok_trust::Key::from_pem(&bench.kept().key_pem).unwrap();
    let (change, serial) = bench.certified(&bench.fabric, &present.request().unwrap());
    bench.install(change).await.unwrap();
    assert_eq!(bench.shown().await, serial);
    bench.server.stop().await;
}

/// What can't be right is refused, names its field, and leaves everything as it was.
#[tokio::test]
async fn what_does_not_fit_changes_nothing() {
    let mut bench = Bench::new().await;
    let csr = bench.request().await;
    let (good, _) = bench.certified(&bench.fabric, &csr);
    let now = bench.fabric.env.now();
    let certify = |by: &Fabric, subject| by.certify(&csr, subject, now, HOUR).0;
    let other_node = Subject::Node(NodeId(Uuid::from_u128(0xB0)));
    let (foreign, elsewhere) = (Fabric::new("kapok"), Fabric::new("elsewhere"));
    let node = Subject::Node(node_id());
    let strangers_key = kapok_trust::Key::generate().unwrap().request().unwrap();
    let (strangers, _) = bench
        .fabric
        .certify(&strangers_key, node.clone(), now, HOUR);
    let with = |field: &str, text: String| {
        let mut change = good.clone();
        match field {
            "chain_pem" => change.chain_pem = text,
            "bundle_pem" => change.bundle_pem = text,
            _ => change.crl_pem = text,
        }
        change
    };
    let both = |a: String, b: String| InstallTrustRequest {
        chain_pem: a,
        bundle_pem: b,
        ..good.clone()
    };
    let cases = [
        (
            "another node's",
            "chain_pem",
            with("chain_pem", certify(&bench.fabric, other_node)),
        ),
        (
            "a controller's",
            "chain_pem",
            with("chain_pem", certify(&bench.fabric, controller())),
        ),
        (
            "by a foreign authority",
            "bundle_pem",
            with("chain_pem", certify(&foreign, node.clone())),
        ),
        ("for another key", "chain_pem", with("chain_pem", strangers)),
        ("no certificate", "chain_pem", with("chain_pem", "x".into())),
        (
            "no authorities",
            "bundle_pem",
            with("bundle_pem", String::new()),
        ),
        (
            "another fabric's",
            "bundle_pem",
            both(certify(&elsewhere, node.clone()), elsewhere.bundle()),
        ),
        (
            "shuts its sender out",
            "bundle_pem",
            both(certify(&foreign, node), foreign.bundle()),
        ),
        (
            "shuts the node out",
            "bundle_pem",
            both(String::new(), foreign.bundle()),
        ),
        (
            "no revocations",
            "crl_pem",
            with(
                "crl_pem",
                "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n".into(),
            ),
        ),
    ];
    let before = (
        bench.server.trust.digest(),
        bench.shown().await,
        bench.kept(),
    );
    for (what, field, change) in cases {
        let refused = bench.install(change).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}: {refused:?}");
        let fields: Vec<_> = refusal::violations(&refused);
        assert_eq!(fields[0].field, field, "{what}: {refused:?}");
        let after = (
            bench.server.trust.digest(),
            bench.shown().await,
            bench.kept(),
        );
        assert_eq!(after, before, "{what}");
    }
    // A stale leader's install is refused like any other change of its (FAULTS 31).
    let mut ahead = good.clone();
    ahead.epoch = 5;
    bench.install(ahead).await.unwrap();
    let refused = bench.install(good).await.unwrap_err();
    assert_eq!(reason(&refused), "STALE_EPOCH");
    bench.server.stop().await;
}

/// A disk that can't keep the new trust: it isn't used either, and the next attempt works.
#[tokio::test]
async fn what_cannot_be_kept_is_not_used() {
    let mut bench = Bench::new().await;
    let csr = bench.request().await;
    let (change, serial) = bench.certified(&bench.fabric, &csr);
    let before = bench.shown().await;
    // Something lies where the next version would.
    let blocked = (1..9).map(|n| bench.folder.path().join(format!("version-{n}")));
    let next = blocked.clone().find(|path| !path.exists()).unwrap();
    std::fs::write(&next, b"").unwrap();
    let mut newest = bench.folder.path().join("current.next");
    std::fs::create_dir(&newest).unwrap();
    let refused = bench.install(change.clone()).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused)),
        (Code::Unavailable, "STORE".into())
    );
    assert_eq!(bench.shown().await, before);
    newest = bench.folder.path().join("current.next");
    std::fs::remove_dir(newest).unwrap();
    std::fs::remove_file(next).unwrap();
    bench.install(change).await.unwrap();
    assert_eq!(bench.shown().await, serial);
    bench.server.stop().await;
}

/// Somebody else's trust in the folder is never taken, neither at the start nor beside the agent.
#[tokio::test]
async fn a_copied_folder_is_noticed() {
    let mut bench = Bench::new().await;
    let other = Subject::Node(NodeId(Uuid::from_u128(0xB0)));
    let now = bench.fabric.env.now();
    let before = bench.shown().await;
    keep(
        bench.folder.path(),
        &bench.fabric.material(other, now, HOUR),
    );
    let env = Arc::clone(&bench.fabric.env);
    let refused = kapok_agent::trust::Trust::load(bench.folder.path(), node_id(), env).unwrap_err();
    assert!(refused.to_string().contains("copied"), "{refused}");
    let refused = bench.server.trust.look().await.unwrap_err();
    assert!(refused.to_string().contains("copied"), "{refused}");
    assert_eq!(bench.shown().await, before);
    assert!(beats(&mut bench.client).await);
    bench.server.stop().await;
}

/// A push doesn't undo a join: what was joined beside the agent is taken first, and the rest of the
/// push goes on top of it.
#[tokio::test]
async fn an_install_keeps_what_was_joined_just_before() {
    let mut bench = Bench::new().await;
    let csr = bench.request().await;
    for round in 0..3 {
        let now = bench.fabric.env.now();
        let joined = bench.fabric.material(Subject::Node(node_id()), now, HOUR);
        keep(bench.folder.path(), &joined);
        let change = if round == 0 {
            // For a key that the join has made idle.
            let (change, _) = bench.certified(&bench.fabric, &csr);
            let refused = bench.install(change).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument);
            continue;
        } else {
            InstallTrustRequest {
                epoch: 1,
                bundle_pem: bench.fabric.bundle(),
                ..Default::default()
            }
        };
        bench.install(change).await.unwrap();
        let kept = bench.kept();
        assert_eq!(kept.chain_pem, joined.chain_pem);
        assert_eq!(kept.key_pem, joined.key_pem);
        let serial = bench.fabric.credentials(joined).certificate().serial;
        assert_eq!(bench.shown().await, serial);
    }
    bench.server.stop().await;
}

/// A certificate that isn't valid yet, by a wrong clock, is no reason to stop.
#[tokio::test]
async fn a_wrong_clock_is_no_reason_to_stop() {
    let fabric = Fabric::new("kapok");
    let ahead = Timestamp(fabric.env.now().get() + 3 * 3_600_000);
    let node = fabric.material(Subject::Node(node_id()), ahead, HOUR);
    let trust = kapok_agent::trust::Trust::in_memory(fabric.credentials(node));
    let server = Server::with(&fabric, trust, common::server::pages()).await;
    let refused = server.dial(&fabric.controller()).await.unwrap_err();
    assert_eq!(
        connector::failure(&refused),
        Some(kapok_trust::TlsFailure::NotYetValid)
    );
    server.stop().await;
}
