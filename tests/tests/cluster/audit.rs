//! The audit over agents: they keep the log's heads, and so notice what the controller's own disk
//! can't tell.

use std::time::Duration;

use kapok_proto::fabric::v1::{
    VerifyAuditRequest, VerifyAuditResponse, audit_service_client::AuditServiceClient,
};
use kapok_store::redb::MemoryDisk;
use kapok_tests::{Cluster, cluster::CONTROLLER};
use kapok_types::Epoch;
use tokio_util::sync::CancellationToken;

/// What an auditor is told.
async fn verify(cluster: &Cluster) -> VerifyAuditResponse {
    let auditor = "user/auditor".parse().unwrap();
    let wire = cluster.network.dialer(auditor, CancellationToken::new());
    let mut audit = AuditServiceClient::new(wire.channel(CONTROLLER));
    let verified = audit.verify_audit(VerifyAuditRequest {}).await;
    verified.unwrap().into_inner()
}

#[tokio::test(start_paused = true)]
async fn agents_keep_the_heads_and_the_log_agrees() {
    let cluster = Cluster::builder().nodes(3).build().await;
    for round in 0..3 {
        cluster.run(&format!("web-{round}")).await;
        cluster.pass(Duration::from_mins(2)).await;
    }
    let verified = verify(&cluster).await;
    assert_eq!(verified.faults, []);
    assert!(verified.sound && verified.unasked_nodes.is_empty());
    // One for each time that the log had moved, the same on every node.
    assert!(
        (3..=5).contains(&verified.heads),
        "{} heads",
        verified.heads
    );
    // A node that can't be asked is named.
    cluster.network.refuse(&cluster.nodes[1].address);
    cluster.network.cut(&cluster.nodes[1].address);
    cluster.pass(Duration::from_mins(1)).await;
    let verified = verify(&cluster).await;
    assert!(verified.sound);
    assert_eq!(verified.unasked_nodes, ["node-2"]);
    cluster.network.heal(&cluster.nodes[1].address);
    cluster.finish().await;
}

/// An older copy of the controller's disk in its place is whole in itself. The agents' heads say
/// from where on the log is another one.
#[tokio::test(start_paused = true)]
async fn a_log_that_was_rolled_back_is_found() {
    let mut cluster = Cluster::builder().nodes(2).build().await;
    cluster.run("web-1").await;
    cluster.pass(Duration::from_mins(2)).await;
    let (backup, kept) = (cluster.disk.image(), cluster.fold().await.head());
    cluster.run("web-2").await;
    cluster.pass(Duration::from_mins(2)).await;
    assert!(verify(&cluster).await.sound);
    cluster.kill_controller().await;
    cluster.disk = MemoryDisk::with_image(backup);
    cluster.forget_log().await;
    cluster.epoch_floor = Epoch(100);
    cluster.start_controller().await;
    cluster.pass(Duration::from_mins(2)).await;
    let verified = verify(&cluster).await;
    assert!(!verified.sound);
    let fault = &verified.faults[0];
    assert!(
        ["cut", "recomputed"].contains(&fault.kind.as_str()),
        "{fault:?}"
    );
    // At the first head that nodes keep from behind the backup's end.
    assert!(fault.sequence > kept.get(), "{fault:?} behind {kept}");
    cluster.kill_controller().await;
}
