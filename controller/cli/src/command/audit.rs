//! `kapok audit …`

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
    time::Duration,
};

use kapok_proto::{
    convert,
    fabric::v1::{
        ExportAuditRequest, ListAuditRequest, RawEntry, VerifyAuditRequest,
        audit_service_client::AuditServiceClient as Audit,
    },
};
use kapok_store::{lines, verify};
use kapok_types::Seq;
use tokio::time::timeout;

use crate::{
    args::audit::{Command, Ls},
    client::{Client, PAGE, call_failed},
    error::{Doing, Error, is_transient},
    output::Out,
    view::audit::{Entry, Verdict},
};

const LOOK: &str = "kapok audit ls";

/// Does it.
pub(super) async fn run(client: &Client, out: &mut Out, command: Command) -> Result<(), Error> {
    match command {
        Command::Ls(which) => list(client, out, which).await,
        Command::Verify { file: Some(file) } => verify_file(out, &file),
        Command::Verify { file: None } => {
            let doing = Doing::new("verify the audit", LOOK);
            let answer = client
                .read(&doing, async |channel| {
                    Audit::new(channel)
                        .verify_audit(VerifyAuditRequest {})
                        .await
                })
                .await?;
            judged(out, &answer.into())
        }
        Command::Export { after, until } => {
            let doing = Doing::new("export the audit", LOOK);
            let export = export(client, out, &doing, after, until);
            match client.timeout() {
                None => export.await,
                Some(after) => timeout(after, export).await.unwrap_or_else(|_| {
                    Err(Error::TimedOut {
                        doing: doing.clone(),
                        after,
                        change: None,
                    })
                }),
            }
        }
    }
}

/// Checks an exported file, without any controller.
pub(super) fn verify_file(out: &mut Out, path: &Path) -> Result<(), Error> {
    let unreadable = |error: io::Error| Error::io(format!("can't read {}", path.display()), &error);
    let reader: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(BufReader::new(io::stdin()))
    } else {
        Box::new(BufReader::new(File::open(path).map_err(unreadable)?))
    };
    let report = verify::lines(reader, Vec::new()).map_err(unreadable)?;
    if report.entries == 0 && report.is_sound() {
        return Err(Error::Content {
            message: format!("{} holds no entry", path.display()),
            hint: "kapok audit export makes such files".to_owned(),
        });
    }
    judged(out, &report.into())
}

fn judged(out: &mut Out, verdict: &Verdict) -> Result<(), Error> {
    if out.format().is_for_people() {
        out.raw(verdict.text().as_bytes())?;
    } else {
        out.data(verdict)?;
    }
    if verdict.is_sound() {
        return Ok(());
    }
    Err(Error::Content {
        message: format!("the audit isn't sound: {}", verdict.first_fault()),
        hint: "keep the file and the store as they are, and tell the auditor".to_owned(),
    })
}

async fn list(client: &Client, out: &mut Out, which: Ls) -> Result<(), Error> {
    let doing = Doing::new("list the audit", LOOK);
    let mut request = ListAuditRequest {
        actor: which.actor,
        object: which.object,
        refused_only: which.refused,
        start_time: which.since.map(convert::timestamp),
        end_time: which.until.map(convert::timestamp),
        newest_first: !which.oldest_first,
        ..ListAuditRequest::default()
    };
    let mut entries = Vec::new();
    // Page by page, because a log is long and people want its end.
    loop {
        let missing = which.limit.saturating_sub(entries.len());
        request.page_size = u32::try_from(missing).unwrap_or(PAGE).min(PAGE);
        if request.page_size == 0 {
            break;
        }
        let page = client
            .read(&doing, async |channel| {
                Audit::new(channel).list_audit(request.clone()).await
            })
            .await?;
        entries.extend(page.entries.into_iter().map(Entry::from));
        if page.next_page_token.is_empty() || page.next_page_token == request.page_token {
            break;
        }
        request.page_token = page.next_page_token;
    }
    entries.truncate(which.limit);
    out.list(&entries, client.now())
}

/// Prints the log from `after` on. A broken connection is taken up again behind the last entry
/// that was printed.
async fn export(
    client: &Client,
    out: &mut Out,
    doing: &Doing,
    mut after: u64,
    until: u64,
) -> Result<(), Error> {
    let patience = || Client::backoff(Duration::from_millis(250), Duration::from_secs(5));
    let (mut backoff, mut attempts_left) = (patience(), 5);
    loop {
        let before = after;
        match export_once(client, out, doing, &mut after, until).await {
            Err(Error::Call { status, .. }) if is_transient(&status) && attempts_left > 0 => {
                if after > before {
                    (backoff, attempts_left) = (patience(), 5);
                }
                attempts_left -= 1;
                client.pause_and_turn(&mut backoff).await;
            }
            other => return other,
        }
    }
}

async fn export_once(
    client: &Client,
    out: &mut Out,
    doing: &Doing,
    after: &mut u64,
    until: u64,
) -> Result<(), Error> {
    let failed = |status| call_failed(doing, status, None);
    let request = ExportAuditRequest {
        after_sequence: *after,
        until_sequence: until,
    };
    let answer = Audit::new(client.channel()).export_audit(request).await;
    let mut pieces = answer.map_err(failed)?.into_inner();
    while let Some(piece) = pieces.message().await.map_err(failed)? {
        let mut text = String::new();
        for raw in piece.entries {
            let sequence = raw.sequence;
            text += &line(raw).map_err(|reason| Error::Content {
                message: format!("entry {sequence} can't be exported: {reason}"),
                hint: "check the log: kapok audit verify".to_owned(),
            })?;
            *after = sequence;
        }
        out.raw(text.as_bytes())?;
        if out.is_closed() {
            break;
        }
    }
    Ok(())
}

fn line(raw: RawEntry) -> Result<String, String> {
    let hash = |text: &str| text.parse().map_err(|_| "it has a bad hash".to_owned());
    let entry = kapok_store::Entry {
        seq: Seq(raw.sequence),
        prev: hash(&raw.previous_hash)?,
        hash: hash(&raw.hash)?,
        payload: raw.payload,
    };
    lines::write(&entry).map_err(|error| error.to_string())
}
