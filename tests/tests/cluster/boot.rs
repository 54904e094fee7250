//! Hosts that boot: what starts by itself, and what waits for the controller's word.

use std::time::Duration;

use kapok_proto::common::v1::Phase;
use kapok_tests::Cluster;

#[tokio::test(start_paused = true)]
async fn on_a_local_pool_guests_start_by_themselves() {
    let mut cluster = Cluster::builder().nodes(1).build().await;
    let (web, _) = cluster.run("web").await;
    let (off, _) = cluster.run("off").await;
    cluster
        .people
        .succeeds(cluster.people.stop("off").await)
        .await;
    cluster.kill_controller().await;
    cluster.nodes[0].boot();
    cluster
        .eventually(
            Duration::from_secs(30),
            "it is on without a controller",
            async || cluster.runs(web) == 2,
        )
        .await;
    cluster.pass(Duration::from_mins(5)).await;
    assert_eq!(
        cluster.nodes[0].host.is_on(off),
        Some(false),
        "what was stopped stays off"
    );
    cluster.start_controller().await;
    cluster.ready().await;
    cluster.phase_is("web", Phase::Running).await;
    assert_eq!((cluster.runs(web), cluster.runs(off)), (2, 1));
    cluster.finish().await;
}

#[tokio::test(start_paused = true)]
async fn on_a_shared_pool_guests_wait_for_the_controllers_word() {
    let builder = Cluster::builder()
        .nodes(1)
        .shape(|shape| shape.pool_shared = true);
    let mut cluster = builder.build().await;
    let (web, _) = cluster.run("web").await;
    cluster.kill_controller().await;
    cluster.nodes[0].boot();
    cluster.pass(Duration::from_mins(30)).await;
    assert_eq!(
        (cluster.nodes[0].host.is_on(web), cluster.runs(web)),
        (Some(false), 1)
    );
    // An agent's restart is no boot and no word either.
    cluster.nodes[0].restart();
    cluster.pass(Duration::from_mins(5)).await;
    assert_eq!(cluster.runs(web), 1);
    cluster.start_controller().await;
    cluster.phase_is("web", Phase::Running).await;
    assert_eq!(cluster.runs(web), 2);
    cluster.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_site_that_lost_power_may_be_told_to_start() {
    let builder = Cluster::builder()
        .nodes(1)
        .shape(|shape| shape.pool_shared = true);
    let mut cluster = builder
        .settings(|settings| settings.site_power_loss_start = true)
        .build()
        .await;
    let (web, _) = cluster.run("web").await;
    cluster.kill_controller().await;
    cluster.nodes[0].boot();
    cluster
        .eventually(Duration::from_secs(30), "it is on", async || {
            cluster.runs(web) == 2
        })
        .await;
    cluster.start_controller().await;
    cluster.ready().await;
    cluster.finish().await;
}

/// An agent's own restart starts nothing anew, on either kind of pool.
#[tokio::test(start_paused = true)]
async fn an_agents_restart_touches_no_guest() {
    for shared in [false, true] {
        let builder = Cluster::builder()
            .nodes(1)
            .shape(|shape| shape.pool_shared = shared);
        let mut cluster = builder.build().await;
        let (web, _) = cluster.run("web").await;
        for _ in 0..5 {
            cluster.nodes[0].restart();
            cluster.pass(Duration::from_secs(20)).await;
        }
        assert_eq!(
            (cluster.nodes[0].host.is_on(web), cluster.runs(web)),
            (Some(true), 1)
        );
        cluster.finish().await;
    }
}
