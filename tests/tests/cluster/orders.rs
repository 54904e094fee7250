//! What an agent takes from whom: epochs, generations, repeats and tombstones over the wire.

use std::time::Duration;

use kapok_proto::{
    agent::v1::{
        ApplyInstanceRequest, DeleteInstanceRequest, ListInstancesRequest,
        node_service_client::NodeServiceClient,
    },
    common::v1::{InstanceStatus, Phase, Power},
    refusal::reason,
};
use kapok_tests::Cluster;
use kapok_types::{Env as _, IncarnationId};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Channel};

/// Somebody who speaks to an agent like a controller.
struct Speaker {
    client: NodeServiceClient<Channel>,
}

impl Speaker {
    fn to(cluster: &Cluster, node: usize) -> Self {
        let wire = cluster
            .network
            .dialer(kapok_tests::trust::controller(), CancellationToken::new());
        Self {
            client: NodeServiceClient::new(wire.channel(&cluster.nodes[node].address)),
        }
    }

    async fn apply(&mut self, intent: &ApplyInstanceRequest) -> Result<u64, Status> {
        let answer = self.client.apply_instance(intent.clone()).await?;
        Ok(answer.into_inner().generation)
    }

    async fn delete(&mut self, intent: &ApplyInstanceRequest) -> Result<(), Status> {
        let wanted = DeleteInstanceRequest {
            incarnation_id: intent.incarnation_id.clone(),
            instance_id: intent.instance_id.clone(),
            node_id: intent.node_id.clone(),
            generation: intent.generation,
            epoch: intent.epoch,
        };
        self.client.delete_instance(wanted).await.map(|_| ())
    }

    async fn phase(&mut self, id: &str) -> Option<Phase> {
        let all = self
            .client
            .list_instances(ListInstancesRequest {})
            .await
            .unwrap();
        let all = all.into_inner().instances;
        all.iter()
            .find(|one| one.incarnation_id == id)
            .map(InstanceStatus::phase)
    }
}

/// The intent that the controller sends for an instance, as of now.
async fn intent(cluster: &Cluster, name: &str) -> ApplyInstanceRequest {
    let fabric = cluster.fabric().await;
    let instance = fabric
        .instance(name, &kapok_controller::fabric::city())
        .unwrap();
    let mut intent = kapok_controller::fabric::Fabric::intent(instance, &instance.incarnations[0]);
    intent.epoch = cluster.nodes[0].epoch().unwrap();
    ApplyInstanceRequest::from(&intent)
}

/// FAULTS 31: a lower epoch is refused whatever it asks, also after the agent was killed.
#[tokio::test(start_paused = true)]
async fn an_older_leader_is_refused() {
    let mut cluster = Cluster::builder().nodes(1).build().await;
    let (web, _) = cluster.run("web").await;
    let old = intent(&cluster, "web").await;
    cluster.restart_controller().await;
    cluster.ready().await;
    cluster
        .eventually(
            Duration::from_secs(30),
            "the new epoch is stored",
            async || cluster.nodes[0].epoch().unwrap().get() > old.epoch,
        )
        .await;
    for killed in [false, true] {
        if killed {
            cluster.nodes[0].restart();
            cluster.ready().await;
        }
        let mut speaker = Speaker::to(&cluster, 0);
        let stop = ApplyInstanceRequest {
            power: Power::Stopped.into(),
            generation: old.generation + 1,
            ..old.clone()
        };
        for refused in [
            speaker.apply(&stop).await.map(|_| ()),
            speaker.delete(&old).await,
        ] {
            let refused = refused.unwrap_err();
            assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
            assert_eq!(reason(&refused).unwrap(), "STALE_EPOCH");
        }
    }
    cluster.pass(Duration::from_mins(2)).await;
    assert_eq!(
        (cluster.nodes[0].host.is_on(web), cluster.runs(web)),
        (Some(true), 1)
    );
    cluster.finish().await;
}

/// FAULTS 33 and 34 on the agents' side: the same again is one effect, before and after the
/// agent's restart; other content under the same generation is refused.
#[tokio::test(start_paused = true)]
async fn the_same_intent_again_has_one_effect() {
    let mut cluster = Cluster::builder().nodes(1).build().await;
    let (web, _) = cluster.run("web").await;
    let same = intent(&cluster, "web").await;
    for killed in [false, true] {
        if killed {
            cluster.nodes[0].restart();
            cluster.ready().await;
        }
        let mut speaker = Speaker::to(&cluster, 0);
        assert_eq!(speaker.apply(&same).await.unwrap(), 1);
        let mut other = same.clone();
        other.spec.as_mut().unwrap().vcpus = 2;
        let refused = speaker.apply(&other).await.unwrap_err();
        assert_eq!(refused.code(), Code::Aborted, "{refused:?}");
        assert_eq!(reason(&refused).unwrap(), "CONTENT_MISMATCH");
        let old = ApplyInstanceRequest {
            generation: 0,
            ..same.clone()
        };
        assert!(speaker.apply(&old).await.is_err());
    }
    cluster.pass(Duration::from_mins(1)).await;
    assert_eq!(cluster.runs(web), 1);
    cluster.finish().await;
}

/// FAULTS 35: a delete that overtakes its create wins, also over a kill of the agent between
/// them; nothing is made and nothing is left.
#[tokio::test(start_paused = true)]
async fn a_late_create_finds_the_tombstone() {
    let mut cluster = Cluster::builder().nodes(1).build().await;
    cluster.run("web").await;
    let mut late = intent(&cluster, "web").await;
    let id = IncarnationId(cluster.env.uuid());
    late.incarnation_id = id.to_string();
    late.instance_id = cluster.env.instance_id().to_string();
    // A controller would take the unknown end for recorded and acknowledge it.
    cluster.kill_controller().await;
    let mut speaker = Speaker::to(&cluster, 0);
    speaker.delete(&late).await.unwrap();
    for killed in [false, true] {
        if killed {
            cluster.nodes[0].restart();
            cluster.pass(Duration::from_secs(5)).await;
        }
        let mut speaker = Speaker::to(&cluster, 0);
        let refused = speaker.apply(&late).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        assert_eq!(reason(&refused).unwrap(), "RELEASED");
        speaker.delete(&late).await.unwrap();
    }
    cluster.start_controller().await;
    cluster.ready().await;
    cluster.pass(Duration::from_mins(1)).await;
    assert_eq!(cluster.runs(id), 0);
    assert!(!cluster.nodes[0].host.domains().contains(&id));
    cluster.finish().await;
}

/// The same through the whole fabric: the delete is decided while the create is on its way.
#[tokio::test(start_paused = true)]
async fn a_delete_overtakes_a_create_on_its_way() {
    let cluster = Cluster::builder().nodes(1).build().await;
    let node = &cluster.nodes[0];
    cluster
        .network
        .delay(&node.address, Duration::from_millis(400));
    for round in 0..4 {
        let name = format!("web-{round}");
        cluster.people.create(&name).await.unwrap();
        cluster.pass(Duration::from_millis(250 * round)).await;
        let delete = cluster.people.delete(&name).await;
        cluster.people.succeeds(delete).await;
    }
    cluster.network.heal(&node.address);
    cluster.pass(Duration::from_secs(30)).await;
    assert_eq!((node.host.domains(), node.host.disks()), (vec![], vec![]));
    cluster.finish().await;
}

/// An intent for another node is refused, whoever sends it.
#[tokio::test(start_paused = true)]
async fn an_intent_for_another_node_is_refused() {
    let cluster = Cluster::builder().nodes(2).build().await;
    cluster.run_on("web", 0).await;
    let intent = intent(&cluster, "web").await;
    let mut speaker = Speaker::to(&cluster, 1);
    let refused = speaker.apply(&intent).await.unwrap_err();
    assert_eq!(reason(&refused).unwrap(), "WRONG_NODE");
    assert_eq!(speaker.phase(&intent.incarnation_id).await, None);
    cluster.finish().await;
}
