//! `kapok token …`, and the tokens of nodes.
//!
//! **Invariant:** a token's text goes to standard output once, and nowhere else.

use std::time::Duration;

use kapok_proto::fabric::v1::{
    CreateTokenRequest, DeleteTokenRequest, ListTokensRequest,
    token_service_client::TokenServiceClient as Tokens,
};

use super::{confirm, gone};
use crate::{
    args::{
        Request,
        token::{Command, Rm},
    },
    client::{Client, PAGE, pages},
    error::{Doing, Error},
    human::plain,
    output::Out,
    view::{
        View as _,
        token::{NewToken, Token},
    },
};

const LOOK: &str = "kapok token ls";

/// Does it.
pub(super) async fn run(client: &Client, out: &mut Out, command: Command) -> Result<(), Error> {
    match command {
        Command::Create {
            subject,
            life,
            request,
        } => create(client, out, subject, life, request).await,
        Command::Ls { subject } => list(client, out, subject).await,
        Command::Rm(rm) => remove(client, out, rm).await,
    }
}

/// Makes a token for `subject` and prints it.
pub(super) async fn create(
    client: &Client,
    out: &mut Out,
    subject: String,
    life: Option<Duration>,
    request: Request,
) -> Result<(), Error> {
    // What can be missing here is the user.
    let doing = Doing::new(format!("make a token for {subject}"), "kapok user ls").shown_by(LOOK);
    let request_id = client.request_id(request.request_id);
    let request = CreateTokenRequest {
        subject: subject.clone(),
        life_seconds: life.unwrap_or_default().as_secs(),
        request_id: request_id.clone(),
    };
    let answer = client
        .change(&doing, &request_id, async |channel| {
            Tokens::new(channel).create_token(request.clone()).await
        })
        .await?;
    let token = Token::from(answer.token.unwrap_or_default());
    if answer.text.is_empty() {
        // It was made, and the answer that held the secret got lost.
        return Err(Error::Content {
            message: format!(
                "a token for {subject} was made, but its secret is given only once and didn't arrive"
            ),
            hint: format!("kapok token rm {}, then make another one", token.id),
        });
    }
    if !out.format().is_for_people() {
        return out.data(&NewToken {
            token,
            text: answer.text,
        });
    }
    // The text alone, so that it can be put into a file.
    out.line(&plain(&answer.text))?;
    let uses = if token.one_use { "once" } else { "many times" };
    let ends = token.row(client.now(), false).pop().unwrap_or_default();
    out.remark(&format!(
        "token {} for {}: works {uses}, ends in {ends}; it isn't shown again",
        plain(&token.id),
        plain(&token.subject)
    ));
    let enroll = client.credential().enroll.as_ref();
    let at = enroll.map_or_else(|| "HOST:7780".to_owned(), ToString::to_string);
    let (place, command) = match subject.split_once('/') {
        Some(("node", _)) => ("on the server", "kapok-agent join"),
        Some(("controller", _)) => ("on the server", "kapok-controller join"),
        _ => ("there", "kapok login"),
    };
    out.remark(&format!(
        "{place}: {command} --controller {at} --token-file FILE"
    ));
    Ok(())
}

/// Lists tokens whose subjects begin so.
pub(super) async fn list(client: &Client, out: &mut Out, prefix: String) -> Result<(), Error> {
    let doing = Doing::new("list tokens", LOOK);
    let tokens = pages(&doing, async |page_token| {
        let request = ListTokensRequest {
            subject_prefix: prefix.clone(),
            page_size: PAGE,
            page_token,
        };
        let page = client
            .read(&doing, async |channel| {
                Tokens::new(channel).list_tokens(request.clone()).await
            })
            .await?;
        Ok((page.tokens, page.next_page_token))
    })
    .await?;
    let tokens: Vec<_> = tokens.into_iter().map(Token::from).collect();
    out.list(&tokens, client.now())
}

/// Takes a token back.
pub(super) async fn remove(client: &Client, out: &mut Out, rm: Rm) -> Result<(), Error> {
    confirm(
        rm.yes,
        &format!(
            "Take token {} back, and end what was fetched with it?",
            rm.id
        ),
    )?;
    let doing = Doing::new(format!("take token {} back", rm.id), LOOK);
    let request_id = client.request_id(rm.request.request_id);
    let request = DeleteTokenRequest {
        token: rm.id.clone(),
        request_id: request_id.clone(),
    };
    client
        .change(&doing, &request_id, async |channel| {
            Tokens::new(channel).delete_token(request.clone()).await
        })
        .await?;
    gone(out, &rm.id, "taken back")
}
