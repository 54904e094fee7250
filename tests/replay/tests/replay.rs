//! Small traces through the real ledger, with figures that can be worked out by hand.
#![allow(clippy::unwrap_used, clippy::float_cmp, reason = "a test")]

use kapok_replay::{
    replay::{Options, Report, replay},
    trace,
};

async fn run(nodes: u32, tenants: u32, lines: &[&str]) -> Report {
    let text = format!(
        "arrival_s,batch,vcpus,memory_mib,lifetime_s\n{}\n",
        lines.join("\n")
    );
    let trace = trace::read(text.as_bytes()).unwrap();
    let options = Options {
        shape: "16/112".parse().unwrap(),
        nodes,
        tenants,
        pooling: true,
    };
    let folder = tempfile::tempdir().unwrap();
    replay(folder.path(), &trace, &options, |_| {})
        .await
        .unwrap()
}

#[tokio::test]
async fn a_node_is_in_use_while_it_carries_an_instance() {
    let report = run(
        3,
        2,
        &[
            "0,0,16,28672,100",
            "0,1,8,14336,300",
            // The first node is free again, the second one has room for half.
            "100,1,8,14336,",
            "400,2,16,28672,",
        ],
    )
    .await;
    assert_eq!((report.requests, report.refused), (4, 0));
    assert_eq!((report.peak_nodes, report.peak_bound), (2, 2));
    let nodes: Vec<_> = report
        .series
        .iter()
        .map(|one| (one.at_s, one.nodes))
        .collect();
    assert_eq!(nodes, [(0, 2), (100, 1), (100, 1), (300, 1), (400, 2)]);
    assert_eq!(report.mean_nodes, (2.0 * 100.0 + 300.0) / 400.0);
}

/// In the order in which they came, both sixes share a node and a ten is refused.
#[tokio::test]
async fn what_comes_together_is_decided_largest_first() {
    let together = [
        "0,0,6,10752,",
        "0,1,6,10752,",
        "0,2,10,17920,",
        "0,3,10,17920,",
    ];
    let report = run(2, 1, &together).await;
    assert_eq!((report.refused, report.peak_nodes), (0, 2));
    let apart = [
        "0,0,6,10752,",
        "1,1,6,10752,",
        "2,2,10,17920,",
        "3,3,10,17920,",
    ];
    assert_eq!(run(2, 1, &apart).await.refused, 1);
}

/// Each tenant alone needs a node for its own peak and one more; their peaks aren't at the same time,
/// so one node and one more do for both.
#[tokio::test]
async fn the_report_is_that_of_the_fold_that_the_ledger_kept() {
    let report = run(
        3,
        2,
        &[
            "0,0,10,17920,100",
            "0,2,6,10752,100",
            "200,1,16,28672,100",
            "400,0,1,1792,",
        ],
    )
    .await;
    let pooling = report.pooling.unwrap();
    let bureaus: Vec<_> = pooling
        .bureaus
        .iter()
        .map(|one| (one.vcpus, one.instances, one.nodes))
        .collect();
    assert_eq!(bureaus, [(16, 2, 2), (16, 1, 2)]);
    assert_eq!((pooling.nodes_alone, pooling.pool.nodes), (4, 2));
    assert_eq!(
        (pooling.saved_permille, pooling.most_nodes_in_use),
        (500, 1)
    );
    assert_eq!(pooling.deployment.systems, 2);
    assert!(
        pooling
            .to_string()
            .contains("All figures are folds of the log")
    );
}
