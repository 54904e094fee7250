//! TLS between the store and etcd, both sides with certificates.

use std::{fs, path::Path, time::Duration};

use etcd_client::Permission;
use futures::StreamExt as _;
use kapok_store::{
    Error, Etcd, EtcdOptions, EtcdTls, EtcdUser, Follow, Store,
    conformance::bounded,
    testing::{ClusterOptions, EtcdCluster, ServerTls},
};
use kapok_types::Seq;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};

use super::{append, bare, checkpoint};

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca() -> Ca {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate of `ca` for loopback, and its key.
fn certificate(ca: &Ca) -> (String, String) {
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    // etcd dials itself, too.
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, ca).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn kept(folder: &Path, name: &str, content: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_show_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, other) = (ca(), ca());
    let (server, server_key) = certificate(&ours);
    let cluster = EtcdCluster::start_with(
        1,
        &ClusterOptions {
            tls: Some(ServerTls {
                ca: kept(folder.path(), "ca.pem", &ours.pem()),
                certificate: kept(folder.path(), "server.pem", &server),
                key: kept(folder.path(), "server.key", &server_key),
            }),
            ..ClusterOptions::default()
        },
    );
    let with = |authority: &Ca, (certificate, key): (String, String)| EtcdOptions {
        tls: Some(EtcdTls {
            ca: authority.pem().into_bytes(),
            certificate: certificate.into_bytes(),
            key: key.into_bytes(),
        }),
        call_deadline: Duration::from_secs(20),
        ..EtcdOptions::new(cluster.endpoints(), "/kapok/trust/")
    };

    let store = Etcd::open(with(&ours, certificate(&ours))).await.unwrap();
    let token = store.campaign("a").await.unwrap().token;
    append(&store, &token, &["x"]).await;
    let health = store.health().await.unwrap();
    assert!(health.members[0].status.is_ok(), "{health:?}");

    // Their authority is another one than configured; then ours is not theirs.
    for options in [
        with(&other, certificate(&ours)),
        with(&ours, certificate(&other)),
    ] {
        let refused = Etcd::open(options).await.unwrap_err();
        assert!(matches!(refused, Error::Untrusted { .. }), "{refused:?}");
        assert!(refused.to_string().contains("check the CA"), "{refused}");
    }
    let nonsense = with(
        &ours,
        ("not a certificate".to_owned(), "nor a key".to_owned()),
    );
    let refused = Etcd::open(nonsense).await.unwrap_err();
    assert!(matches!(refused, Error::Options { .. }), "{refused:?}");
    let mut clear = with(&ours, certificate(&ours));
    clear.tls = None;
    clear.call_deadline = Duration::from_secs(1);
    clear.endpoints = vec![cluster.endpoints()[0].replace("https://", "http://")];
    let refused = Etcd::open(clear).await.unwrap_err();
    assert!(matches!(refused, Error::Unavailable { .. }), "{refused:?}");
}

/// Where etcd knows users, one with rights on the prefix is enough; who isn't one is told so at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_need_rights_on_the_prefix() {
    let cluster = EtcdCluster::start(1);
    let open = EtcdOptions::new(cluster.endpoints(), "/kapok/users/");
    let mut etcd = bare(&open).await;
    for (name, role) in [("root", "root"), ("kapok", "kapok")] {
        etcd.role_add(role).await.unwrap();
        etcd.user_add(name, "secret", None).await.unwrap();
        etcd.user_grant_role(name, role).await.unwrap();
    }
    let rights = Permission::read_write(open.prefix.clone()).with_prefix();
    etcd.role_grant_permission("kapok", rights).await.unwrap();
    etcd.auth_enable().await.unwrap();

    let user = |name: &str, password: &str| EtcdOptions {
        user: Some(EtcdUser {
            name: name.to_owned(),
            password: password.to_owned(),
        }),
        ..open.clone()
    };
    let store = Etcd::open(user("kapok", "secret")).await.unwrap();
    let mut stream = store.follow(Seq(1));
    let leadership = store.campaign("a").await.unwrap();
    let token = leadership.token;
    for _ in 0..3 {
        let at = append(&store, &token, &["x", "y"]).await;
        store
            .checkpoint(&token, checkpoint(at, vec![("k".to_owned(), "v".into())]))
            .await
            .unwrap();
        for _ in 0..2 {
            let next = bounded(stream.next()).await.unwrap().unwrap();
            assert!(matches!(next, Follow::Batch(_)), "{next:?}");
        }
        store.trim(&token, at.seq).await.unwrap();
    }
    assert!(!*leadership.lost.borrow());
    println!("{:?}", store.health().await);
    for stranger in [open.clone(), user("kapok", "wrong")] {
        let refused = Etcd::open(stranger).await.unwrap_err();
        assert!(matches!(refused, Error::Refused { .. }), "{refused:?}");
    }
}
