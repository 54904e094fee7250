//! `kapok events`

use std::time::Duration;

use kapok_proto::fabric::v1::{
    WatchEventsRequest, event_service_client::EventServiceClient as Events,
};
use tokio::time::timeout;
use tonic::Status;

use crate::{
    args,
    client::{Client, call_failed},
    error::{Doing, Error, is_transient},
    output::{Format, Out},
    view::event::Event,
};

/// Does it.
pub(super) async fn run(
    client: &Client,
    out: &mut Out,
    args: args::events::Events,
) -> Result<(), Error> {
    let doing = Doing::new("show events", "kapok events");
    if out.format().is_for_people() && !out.is_quiet() {
        out.line(&Event::header(out.format() == Format::Wide))?;
    }
    let follow = follow(client, out, &args, &doing);
    match client.timeout() {
        None => follow.await,
        Some(after) => timeout(after, follow).await.unwrap_or_else(|_| {
            Err(Error::TimedOut {
                doing: doing.clone(),
                after,
                change: None,
            })
        }),
    }
}

/// Shows events until the present ones are shown or, when following, for ever. After a broken
/// connection it goes on behind the last event that was shown, so none is lost or repeated.
async fn follow(
    client: &Client,
    out: &mut Out,
    args: &args::events::Events,
    doing: &Doing,
) -> Result<(), Error> {
    let mut last = if args.new {
        None
    } else {
        Some(args.after.unwrap_or(0))
    };
    let patience = || Client::backoff(Duration::from_millis(250), Duration::from_secs(10));
    let mut backoff = patience();
    let mut attempts_left = 5;
    loop {
        let before = last;
        let ended = watch(client, out, &mut last, !args.follow).await?;
        if out.is_closed() {
            return Ok(());
        }
        match ended {
            None if !args.follow => return Ok(()),
            Some(status) if !is_transient(&status) => return Err(call_failed(doing, status, None)),
            Some(status) if !args.follow => {
                attempts_left -= 1;
                if attempts_left == 0 {
                    return Err(call_failed(doing, status, None));
                }
            }
            _ => {}
        }
        if last != before {
            backoff = patience();
        }
        client.pause_and_turn(&mut backoff).await;
    }
}

/// One subscription: its end, or what broke it.
async fn watch(
    client: &Client,
    out: &mut Out,
    last: &mut Option<u64>,
    until_now: bool,
) -> Result<Option<Status>, Error> {
    let request = WatchEventsRequest {
        after_sequence: *last,
        until_now,
    };
    let mut events = match Events::new(client.channel()).watch_events(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Ok(Some(status)),
    };
    loop {
        let answer = match events.message().await {
            Ok(Some(answer)) => answer,
            Ok(None) => return Ok(None),
            Err(status) => return Ok(Some(status)),
        };
        for event in answer.events.into_iter().map(Event::from) {
            if out.format().is_for_people() {
                out.line(&event.line(out.format() == Format::Wide))?;
            } else {
                out.record(&event)?;
            }
        }
        *last = Some(answer.sequence);
        if out.is_closed() {
            return Ok(None);
        }
    }
}
