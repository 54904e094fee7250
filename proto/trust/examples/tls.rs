//! What mTLS costs on loopback: the same gRPC health service, in plain text and behind certificates
//! of a fabric, asked in alternating pairs in one run.
//!
//! Prints the medians and 99th percentiles of a unary call on a warm connection and of a whole new
//! connection with one call. Exits 1 when the unary call's median is over twice the plain one.

#![allow(clippy::print_stdout, reason = "its output is the result")]

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use kapok_trust::{
    Acceptor, Authority, ClientAuth, Credentials, Csr, Identity, Key, Limits, Material, Serial,
    Subject, authority, connector, identity::dns,
};
use kapok_types::{Env as _, Name, env::System};
use tokio::{net::TcpListener, task::JoinSet};
use tonic::transport::{Channel, Endpoint, Server, server::TcpIncoming};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

/// Unary calls on each warm connection, and new connections of each kind.
const CALLS: usize = 5000;
const CONNECTIONS: usize = 200;

/// How many times the plain call's median the one over mTLS may take.
const MOST: f64 = 2.0;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let env = System::new();
    let fabric: Name = "bench".parse()?;
    let authority = Authority::create(&fabric, &*env, authority::LIFE)?;
    let issue = |subject: Subject| -> Result<Credentials> {
        let key = Key::generate()?;
        let csr = Csr::parse(&key.request()?)?;
        let identity = Identity::new(fabric.clone(), subject);
        let life = Duration::from_hours(1);
        let material = Material {
            chain_pem: authority.issue(&csr, &identity, Serial::new(&*env), life, env.now())?,
            key_pem: key.to_pem().to_string(),
            bundle_pem: authority.certificate_pem().to_owned(),
            crl_pem: authority.crl(&[], env.now())?,
        };
        Ok(Credentials::new(material, env.clone())?)
    };
    let server = issue(Subject::Controller("a".parse()?))?;
    let client = issue(Subject::User("ada".parse()?))?;

    let mut serving = JoinSet::new();
    let plain = serve_plain(&mut serving).await?;
    let secured = serve_secured(&mut serving, server).await?;
    let name = dns::controller(&fabric);
    let tune = |endpoint: Endpoint| endpoint.tcp_nodelay(true);
    let dial_plain = || {
        tune(
            Endpoint::from_shared(format!("http://{plain}"))
                .unwrap_or_else(|_| Endpoint::from_static("http://127.0.0.1")),
        )
    };
    let secured = secured.to_string();

    let (mut plainly, mut safely) = (Vec::new(), Vec::new());
    let mut warm_plain = HealthClient::new(dial_plain().connect().await?);
    let mut warm_safe = HealthClient::new(connector::channel(&client, &secured, &name, tune)?);
    for _ in 0..CALLS / 10 {
        call(&mut warm_plain).await?;
        call(&mut warm_safe).await?;
    }
    for _ in 0..CALLS {
        plainly.push(call(&mut warm_plain).await?);
        safely.push(call(&mut warm_safe).await?);
    }
    println!("{:<34} {:>10} {:>10}", "", "p50", "p99");
    let before = print("unary call, plain text", &mut plainly);
    let after = print("unary call, mTLS", &mut safely);

    let (mut plainly, mut safely) = (Vec::new(), Vec::new());
    for _ in 0..CONNECTIONS {
        let begun = Instant::now();
        call(&mut HealthClient::new(dial_plain().connect().await?)).await?;
        plainly.push(begun.elapsed());
        let begun = Instant::now();
        let channel = connector::channel(&client, &secured, &name, tune)?;
        call(&mut HealthClient::new(channel)).await?;
        safely.push(begun.elapsed());
    }
    print("connection and call, plain text", &mut plainly);
    print("connection and call, mTLS", &mut safely);
    serving.shutdown().await;

    let ratio = after.as_secs_f64() / before.as_secs_f64();
    println!("the unary call over mTLS takes {ratio:.2} times the plain one (at most {MOST})");
    ensure!(ratio <= MOST, "mTLS costs too much");
    Ok(())
}

async fn call(client: &mut HealthClient<Channel>) -> Result<Duration> {
    let begun = Instant::now();
    client.check(HealthCheckRequest::default()).await?;
    Ok(begun.elapsed())
}

async fn serve_plain(serving: &mut JoinSet<()>) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (_health, service) = tonic_health::server::health_reporter();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    serving.spawn(async move {
        let _until_aborted = Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming)
            .await;
    });
    Ok(address)
}

async fn serve_secured(serving: &mut JoinSet<()>, own: Credentials) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (_health, service) = tonic_health::server::health_reporter();
    let limits = Limits {
        connections_per_peer: CONNECTIONS * 2,
        ..Limits::default()
    };
    let incoming = Acceptor::new(own, ClientAuth::Required, limits).incoming(listener);
    serving.spawn(async move {
        let _until_aborted = Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming)
            .await;
    });
    Ok(address)
}

/// Prints a line and gives the median.
fn print(what: &str, taken: &mut [Duration]) -> Duration {
    taken.sort();
    let at = |share: usize| {
        taken
            .get(taken.len() * share / 100)
            .copied()
            .unwrap_or_default()
    };
    let human = |time: Duration| format!("{:.3} ms", time.as_secs_f64() * 1000.0);
    println!("{what:<34} {:>10} {:>10}", human(at(50)), human(at(99)));
    at(50)
}
