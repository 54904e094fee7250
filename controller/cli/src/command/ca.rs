//! `kapok ca …`

use kapok_proto::fabric::v1::{
    ListAuthoritiesRequest, RotateAuthorityRequest,
    certificate_service_client::CertificateServiceClient as Certificates,
};

use super::{changed, confirm};
use crate::{
    args::ca::Command,
    client::Client,
    error::{Doing, Error},
    output::Out,
    view::certificate::Authority,
};

const LOOK: &str = "kapok ca ls";

/// Does it.
pub(super) async fn run(client: &Client, out: &mut Out, command: Command) -> Result<(), Error> {
    match command {
        Command::Ls => {
            let doing = Doing::new("list authorities", LOOK);
            let answer = client
                .read(&doing, async |channel| {
                    Certificates::new(channel)
                        .list_authorities(ListAuthoritiesRequest {})
                        .await
                })
                .await?;
            let authorities = answer.authorities.into_iter().map(Authority::from);
            out.list(&authorities.collect::<Vec<_>>(), client.now())
        }
        Command::Rotate { yes, request } => {
            confirm(yes, "Make a new authority that signs from now on?")?;
            let doing = Doing::new("rotate the authority", LOOK);
            let request_id = client.request_id(request.request_id);
            let request = RotateAuthorityRequest {
                request_id: request_id.clone(),
            };
            let new = client
                .change(&doing, &request_id, async |channel| {
                    Certificates::new(channel)
                        .rotate_authority(request.clone())
                        .await
                })
                .await?;
            let new = Authority::from(new);
            let name = new.fingerprint.clone();
            let what = "signs from now on; nodes are renewed at once, people when theirs is due";
            changed(client, out, &new, &name, what)
        }
    }
}
