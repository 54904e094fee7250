//! Certificates change under load: short lives, a new authority now and then, and people who go
//! on working over it. Real processes, real sockets, real certificates (FAULTS 24).

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use kapok_lab::{
    fabric::{Person, Settings},
    loopback::{Loopback, Nodes},
};
use kapok_proto::fabric::v1::{
    AuthorityState, DeleteInstanceRequest, ListAuthoritiesRequest, ListCertificatesRequest,
    Operation, OperationState, RenewCertificateRequest, RotateAuthorityRequest,
    certificate_service_client::CertificateServiceClient,
};
use kapok_trust::{Credentials, Key, Lasting, Material};
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep, sleep_until},
};
use tonic::Status;

use crate::{
    env::SimEnv,
    people::{People, reason, small},
    real,
};

/// People who create and delete at the same time.
const HANDS: u64 = 4;

/// When somebody who asked too often asks again.
const AGAIN: Duration = Duration::from_millis(200);

/// How often it is looked whether an operation has ended.
const LOOK: Duration = Duration::from_millis(100);

/// How long one operation may take on a busy machine.
const BOUND: Duration = Duration::from_mins(2);

/// What a run was like.
#[derive(Debug)]
pub struct Report {
    /// How long it went on.
    pub ran: Duration,
    /// Creates and deletes that succeeded. None failed.
    pub operations: u64,
    /// Certificates that were issued.
    pub certificates: usize,
    /// Authorities that were made.
    pub authorities: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} s: {} operations, none failed; {} certificates issued, {} authorities; no node was \
             lost",
            self.ran.as_secs(),
            self.operations,
            self.certificates,
            self.authorities
        )
    }
}

/// Runs a fabric for `time` with certificates of `life`, and rotates its authority twice.
///
/// # Errors
///
/// An operation failed, a node was taken for lost, or somebody was left behind.
pub async fn run(time: Duration, life: Duration) -> Result<Report> {
    let settings = Settings {
        certificate_life: life,
        ..Settings::default()
    };
    let nodes = Nodes {
        count: 3,
        ..Nodes::default()
    };
    let fabric = Loopback::start(nodes, &settings)?;
    let outcome = soak(&fabric, time).await;
    let outcome = outcome.with_context(|| fabric.last_words());
    // Elsewhere, so that what is left of the clients' connections can answer.
    spawn_blocking(move || fabric.end()).await??;
    outcome
}

async fn soak(fabric: &Loopback, time: Duration) -> Result<Report> {
    let begun = Instant::now();
    let operator = real::person(&fabric.kapok().credential())?;
    let security = real::person(
        &fabric
            .kapok()
            .by(Person::SecurityAdministrator)
            .credential(),
    )?;
    let server = fabric.kapok().server();
    renew(&operator, server)
        .await
        .context("the first renewal")?;
    let people = People::new(real::lasting(&operator, server)?, SimEnv::new(1, begun));
    people.import().await?;
    let end = begun + time;
    let done = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for hand in 0..HANDS {
        tasks.spawn(work(people.clone(), hand, end, Arc::clone(&done)));
    }
    tasks.spawn(keep_renewed(operator.clone(), server.to_owned(), end));
    tasks.spawn(rotate(real::lasting(&security, server)?, begun, time));
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let watcher = People::new(
        real::to_controller(&security, server)?,
        SimEnv::new(2, begun),
    );
    let events = watcher.events_after(0).await?;
    let of = |kind: &str| events.iter().filter(|event| event.kind == kind).count();
    ensure!(
        of("node.lost") == 0,
        "nodes were taken for lost: {events:?}"
    );
    let certificates = of("certificate.issued");
    let authorities = after(&security, server).await?;
    Ok(Report {
        ran: begun.elapsed(),
        operations: done.load(Ordering::SeqCst),
        certificates,
        authorities,
    })
}

/// Creates and deletes instances until `end`. Every operation must succeed.
async fn work(people: People, hand: u64, end: Instant, done: Arc<AtomicU64>) -> Result<()> {
    let mut round = 0;
    while Instant::now() < end {
        let name = format!("hand-{hand}-{round}");
        let mut wanted = small(&name);
        wanted.request_id = people.request_id();
        let create = patiently(|| people.create_as(wanted.clone())).await;
        let wanted = DeleteInstanceRequest {
            instance: name.clone(),
            request_id: people.request_id(),
            ..DeleteInstanceRequest::default()
        };
        let delete = patiently(|| people.delete_as(wanted.clone())).await;
        for accepted in [create, delete] {
            let accepted = accepted.with_context(|| format!("{name} was refused"))?;
            let ended = ended(&people, &accepted.id).await;
            let ended = ended.with_context(|| format!("{name}'s operation can't be read"))?;
            // A delete that overtakes the create supersedes it.
            ensure!(
                matches!(
                    ended.state(),
                    OperationState::Succeeded | OperationState::Superseded
                ),
                "{ended:?}"
            );
            done.fetch_add(1, Ordering::SeqCst);
        }
        round += 1;
    }
    Ok(())
}

/// Asks as `kapok` does: the same request again when that was too often.
async fn patiently<T, F>(ask: impl Fn() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<T, Status>>,
{
    let late = Instant::now() + BOUND;
    loop {
        match ask().await {
            Err(status) if Instant::now() < late && reason(&status) == "TOO_FAST" => {
                sleep(AGAIN).await;
            }
            answer => return answer,
        }
    }
}

/// Waits until an operation has ended. Every look must be answered.
async fn ended(people: &People, id: &str) -> Result<Operation> {
    let late = Instant::now() + BOUND;
    loop {
        let operation = patiently(|| people.operation(id)).await?;
        if operation.state() != OperationState::Running {
            return Ok(operation);
        }
        ensure!(Instant::now() < late, "{operation:?} has not ended");
        sleep(LOOK).await;
    }
}

/// Rotates the authority at a quarter and at a half of the time.
async fn rotate(channel: Lasting, begun: Instant, time: Duration) -> Result<()> {
    for part in [4, 2] {
        sleep_until(begun + time / part).await;
        let mut client = CertificateServiceClient::new(channel.clone());
        let request_id = format!("rotation-{part}");
        client
            .rotate_authority(RotateAuthorityRequest { request_id })
            .await
            .context("the authority can't be rotated")?;
    }
    Ok(())
}

/// What `kapok` does on every command: a new certificate when it is about time.
async fn keep_renewed(credentials: Credentials, server: String, end: Instant) -> Result<()> {
    while Instant::now() < end {
        let certificate = credentials.certificate();
        if credentials.env().now() >= certificate.renew_at() {
            renew(&credentials, &server).await?;
        }
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

async fn renew(credentials: &Credentials, server: &str) -> Result<()> {
    let key = Key::generate()?;
    let wanted = RenewCertificateRequest {
        csr_pem: key.request()?,
        life_seconds: 0,
    };
    let mut client = CertificateServiceClient::new(real::to_controller(credentials, server)?);
    let given = client.renew_certificate(wanted).await?.into_inner();
    credentials.replace(Material {
        chain_pem: given.chain_pem,
        key_pem: key.to_pem().to_string(),
        bundle_pem: given.bundle_pem,
        crl_pem: given.crl_pem,
    })?;
    Ok(())
}

/// What is left: every node and the controller hold a certificate of the last authority.
async fn after(security: &Credentials, server: &str) -> Result<usize> {
    let mut client = CertificateServiceClient::new(real::to_controller(security, server)?);
    let authorities = client
        .list_authorities(ListAuthoritiesRequest {})
        .await?
        .into_inner()
        .authorities;
    let mut active = authorities
        .iter()
        .filter(|authority| authority.state() == AuthorityState::Active);
    let (Some(active), None) = (active.next(), active.next()) else {
        bail!("not one authority signs: {authorities:?}");
    };
    let (mut current, mut page_token) = (0, String::new());
    loop {
        let wanted = ListCertificatesRequest {
            page_size: 1000,
            page_token,
            ..ListCertificatesRequest::default()
        };
        let page = client.list_certificates(wanted).await?.into_inner();
        for certificate in &page.certificates {
            let ours = !certificate.subject.starts_with("user/");
            current += usize::from(ours && certificate.authority == active.fingerprint);
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    ensure!(
        current >= 4,
        "only {current} certificates of nodes and controllers are by the last authority"
    );
    Ok(authorities.len())
}
