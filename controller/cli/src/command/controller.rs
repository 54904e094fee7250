//! `kapok controller …`

use std::time::Duration;

use kapok_proto::fabric::v1::{
    ListControllersRequest, StepDownRequest,
    controller_service_client::ControllerServiceClient as Service,
};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::Status;

use super::confirm;
use crate::{
    args::controller::Command,
    client::{ANSWER, Client, call_failed},
    error::{Doing, Error, is_broken, is_transient},
    human::plain,
    output::{Format, Out},
    view::controller::{Leadership, SteppedDown},
};

const LOOK: &str = "kapok controller ls";
/// How long another leader is waited for unless `--timeout` says otherwise.
const WAIT: Duration = Duration::from_mins(1);

/// Does it.
pub(super) async fn run(client: &Client, out: &mut Out, command: Command) -> Result<(), Error> {
    match command {
        Command::Ls => {
            let controllers = list(client).await?;
            if out.format().is_for_people() {
                let wide = out.format() == Format::Wide;
                out.raw(controllers.text(wide).as_bytes())
            } else {
                out.data(&controllers)
            }
        }
        Command::StepDown { yes, no_wait } => step_down(client, out, yes, !no_wait).await,
    }
}

async fn list(client: &Client) -> Result<Leadership, Error> {
    let doing = Doing::new("list the controllers", LOOK);
    let answer = client
        .read(&doing, async |channel| {
            let request = ListControllersRequest {};
            Service::new(channel).list_controllers(request).await
        })
        .await?;
    Ok(Leadership::from(answer))
}

/// Has the leadership given up and, if wanted, waits for the next one.
async fn step_down(client: &Client, out: &mut Out, yes: bool, wait: bool) -> Result<(), Error> {
    let before = list(client).await?;
    let leader = before.leader().map(|leader| plain(&leader.name));
    let leader = leader.unwrap_or_else(|| "the controller that leads".to_owned());
    let followers = before.controllers.iter().map(|one| plain(&one.name));
    let followers: Vec<_> = followers.filter(|name| *name != leader).collect();
    confirm(
        yes,
        &format!(
            "Let {leader} give the leadership up? Changes wait until another one leads ({})",
            match followers.as_slice() {
                [] => "nobody follows".to_owned(),
                some => some.join(", "),
            }
        ),
    )?;
    let doing = Doing::new("let another controller lead", LOOK);
    let successors = match ask(client, &doing).await? {
        Ok(successors) => successors,
        // It may have gone with the answer; whether it did shows while we wait.
        Err(status) if is_broken(&status) && wait => Vec::new(),
        Err(status) => return Err(call_failed(&doing, status, None)),
    };
    let people = out.format().is_for_people();
    if people && !successors.is_empty() {
        let may = plain(&successors.join(" or "));
        out.line(&format!("{leader}: gave the leadership up to {may}"))?;
    }
    let mut done = SteppedDown {
        successors,
        leader: None,
        epoch: None,
    };
    if wait {
        let after = next_leadership(client, before.epoch).await?;
        let next = after.leader().map(|next| next.name.clone());
        if next.as_deref() == before.leader().map(|leader| leader.name.as_str()) {
            return Err(Error::Content {
                message: format!("{leader} leads again: no other one took over"),
                hint: format!("{LOOK} -o wide shows how far the others follow; then try again"),
            });
        }
        done.epoch = Some(after.epoch);
        done.leader = next;
    }
    match &done.leader {
        Some(next) if people => out.line(&format!("{}: leads from now on", plain(next))),
        None if people => {
            out.remark(&format!("{LOOK} shows who leads"));
            Ok(())
        }
        _ => out.data(&done),
    }
}

/// Asked once: asked again, it would be the next one that gives the leadership up.
async fn ask(client: &Client, doing: &Doing) -> Result<Result<Vec<String>, Status>, Error> {
    let after = client.timeout().unwrap_or(ANSWER);
    let mut service = Service::new(client.channel());
    let asked = timeout(after, service.step_down(StepDownRequest {})).await;
    let answer = asked.map_err(|_| Error::TimedOut {
        doing: doing.clone(),
        after,
        change: None,
    })?;
    Ok(answer.map(|answer| answer.into_inner().successors))
}

/// Waits until the log is written under a later leadership than `epoch`.
async fn next_leadership(client: &Client, epoch: u64) -> Result<Leadership, Error> {
    let after = client.timeout().unwrap_or(WAIT);
    let wait = async {
        let mut backoff = Client::backoff(Duration::from_millis(250), Duration::from_secs(2));
        loop {
            match list(client).await {
                Ok(found) if found.epoch > epoch && found.leader().is_some() => return Ok(found),
                Err(Error::Call { status, .. }) if !is_transient(&status) => {
                    return Err(call_failed(
                        &Doing::new("see who leads", LOOK),
                        *status,
                        None,
                    ));
                }
                // Not yet, or nobody answers yet.
                Ok(_) | Err(_) => client.pause_and_turn(&mut backoff).await,
            }
        }
    };
    let waited = timeout_at(Instant::now() + after, wait).await;
    waited.unwrap_or_else(|_| {
        Err(Error::TimedOut {
            doing: Doing::new("see another controller lead", LOOK),
            after,
            change: None,
        })
    })
}
