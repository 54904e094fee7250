//! `kapok certificate …`

use kapok_proto::fabric::v1::{
    ListCertificatesRequest, RevokeCertificateRequest,
    certificate_service_client::CertificateServiceClient as Certificates,
};

use super::{changed, confirm};
use crate::{
    args::certificate::Command,
    client::{Client, PAGE, pages},
    error::{Doing, Error},
    output::Out,
    view::certificate::Certificate,
};

const LOOK: &str = "kapok certificate ls";

/// Does it.
pub(super) async fn run(client: &Client, out: &mut Out, command: Command) -> Result<(), Error> {
    match command {
        Command::Ls { subject } => list(client, out, subject).await,
        Command::Revoke {
            serial,
            reason,
            yes,
            request,
        } => {
            confirm(
                yes,
                &format!("End certificate {serial} now, also on open connections?"),
            )?;
            let doing = Doing::new(format!("revoke certificate {serial}"), LOOK);
            let request_id = client.request_id(request.request_id);
            let request = RevokeCertificateRequest {
                serial,
                reason,
                request_id: request_id.clone(),
            };
            let revoked = client
                .change(&doing, &request_id, async |channel| {
                    Certificates::new(channel)
                        .revoke_certificate(request.clone())
                        .await
                })
                .await?;
            let revoked = Certificate::from(revoked);
            let what = format!(
                "revoked; it was {}'s",
                crate::human::plain(&revoked.subject)
            );
            let serial = revoked.serial.clone();
            changed(client, out, &revoked, &serial, &what)
        }
    }
}

async fn list(client: &Client, out: &mut Out, prefix: String) -> Result<(), Error> {
    let doing = Doing::new("list certificates", LOOK);
    let certificates = pages(&doing, async |page_token| {
        let request = ListCertificatesRequest {
            subject_prefix: prefix.clone(),
            page_size: PAGE,
            page_token,
        };
        let page = client
            .read(&doing, async |channel| {
                Certificates::new(channel)
                    .list_certificates(request.clone())
                    .await
            })
            .await?;
        Ok((page.certificates, page.next_page_token))
    })
    .await?;
    let certificates: Vec<_> = certificates.into_iter().map(Certificate::from).collect();
    out.list(&certificates, client.now())
}
