//! `kapok auth …` and `kapok whoami`

use kapok_proto::fabric::v1::{
    ExplainAccessRequest, WhoAmIRequest, auth_service_client::AuthServiceClient as Auth,
};

use crate::{
    args::auth::Command,
    client::Client,
    error::{Doing, Error},
    output::{Format, Out},
    view::access::{Access, WhoAmI},
};

/// Does it.
pub(super) async fn run(client: &Client, out: &mut Out, command: Command) -> Result<(), Error> {
    let Command::Why {
        principal,
        action,
        object,
    } = command;
    let doing = Doing::new("ask about rights", "kapok user ls");
    let request = ExplainAccessRequest {
        principal,
        action,
        object,
    };
    let answer = client
        .read(&doing, async |channel| {
            Auth::new(channel).explain_access(request.clone()).await
        })
        .await?;
    let answer = Access::from(answer);
    if out.format().is_for_people() {
        out.raw(answer.text(out.format() == Format::Wide).as_bytes())
    } else {
        out.data(&answer)
    }
}

/// Says who the caller is.
pub(super) async fn who_am_i(client: &Client, out: &mut Out) -> Result<(), Error> {
    let doing = Doing::new("ask who you are", "kapok context ls");
    let answer = client
        .read(&doing, async |channel| {
            Auth::new(channel).who_am_i(WhoAmIRequest {}).await
        })
        .await?;
    let answer = WhoAmI::new(answer, client.source().path());
    if answer.renewal_due() {
        out.remark("a new certificate is waiting: kapok login --renew");
    }
    out.one(&answer, client.now())
}
