//! FAULTS 24: certificates are renewed and authorities replaced under load, and nobody notices.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use kapok_proto::fabric::v1::{
    Authority, AuthorityState, ListAuthoritiesRequest, ListNodesRequest, RenewCertificateRequest,
    RotateAuthorityRequest,
};
use kapok_trust::{Credentials, Material};
use tokio::task::JoinSet;
use tonic::Status;

use crate::world::{World, request, until};

/// Somebody renews their certificate and goes on with the new one.
async fn renew(world: &World, who: &Credentials) -> Result<(), Status> {
    let (key, csr_pem) = request();
    let given = world
        .certificates(who)
        .renew_certificate(RenewCertificateRequest {
            csr_pem,
            life_seconds: 0,
        })
        .await?
        .into_inner();
    who.replace(Material {
        chain_pem: given.chain_pem,
        key_pem: key.to_pem().as_str().to_owned(),
        bundle_pem: given.bundle_pem,
        crl_pem: given.crl_pem,
    })
    .unwrap();
    Ok(())
}

#[tokio::test]
async fn authorities_are_replaced_under_load() {
    let world = World::new("[limits]\nrequests_per_second = 100000\n").await;
    let security = world.person("security-administrator");
    let system = world.person("system-administrator");
    // One who renews and one who doesn't, one connection that stays and new ones all the time.
    let idle = world.person("auditor");
    let stop = Arc::new(AtomicBool::new(false));
    let calls = Arc::new(AtomicU64::new(0));
    let mut load = JoinSet::new();
    let world = Arc::new(world);
    for (who, stays) in [
        (&system, true),
        (&system, false),
        (&idle, true),
        (&idle, false),
    ] {
        let (world, who) = (world.clone(), who.clone());
        let (stop, calls) = (stop.clone(), calls.clone());
        load.spawn(async move {
            let kept = world.nodes(&who);
            while !stop.load(Ordering::SeqCst) {
                let mut nodes = if stays {
                    kept.clone()
                } else {
                    world.nodes(&who)
                };
                nodes.list_nodes(ListNodesRequest::default()).await?;
                calls.fetch_add(1, Ordering::SeqCst);
            }
            Ok::<_, Status>(())
        });
    }
    let more = async |calls: &AtomicU64| {
        let before = calls.load(Ordering::SeqCst);
        until("the load goes on", async || {
            calls.load(Ordering::SeqCst) >= before + 40
        })
        .await;
    };
    let mut known = 1;
    for round in 0..2 {
        more(&calls).await;
        let rotated = world
            .certificates(&security)
            .rotate_authority(RotateAuthorityRequest {
                request_id: format!("rotate-{round}"),
            })
            .await
            .unwrap()
            .into_inner();
        assert_eq!(rotated.state(), AuthorityState::Active);
        known += 1;
        until("the controller has a certificate of it", async || {
            world.credentials.certificate().authority.to_string() == rotated.fingerprint
        })
        .await;
        more(&calls).await;
        renew(&world, &system).await.unwrap();
        renew(&world, &security).await.unwrap();
        assert_eq!(
            system.certificate().authority.to_string(),
            rotated.fingerprint
        );
        assert_eq!(system.bundle().roots().len(), known);
        more(&calls).await;
    }
    // Whoever never renewed still knows the first authority only, and is served all the same.
    assert_eq!(idle.bundle().roots().len(), 1);
    stop.store(true, Ordering::SeqCst);
    for failed in load.join_all().await {
        failed.unwrap();
    }
    let auditor = world.person("auditor");
    let listed = world
        .certificates(&security)
        .list_authorities(ListAuthoritiesRequest {})
        .await
        .unwrap()
        .into_inner();
    let states: Vec<_> = listed.authorities.iter().map(Authority::state).collect();
    assert_eq!(
        states,
        [
            AuthorityState::Active,
            AuthorityState::Retiring,
            AuthorityState::Retiring
        ]
    );
    world
        .nodes(&auditor)
        .list_nodes(ListNodesRequest::default())
        .await
        .unwrap();
    Arc::into_inner(world).unwrap().stop().await;
}
