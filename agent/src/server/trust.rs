//! The node's certificate: requests for a new one, and what a controller installs.

use kapok_proto::agent::v1 as wire;
use kapok_trust::Peer;
use tonic::{Request, Status};

use super::{Services, node::epoch, status};
use crate::trust::Change;

impl Services {
    pub(super) async fn certificate_request(
        &self,
    ) -> Result<wire::RequestCertificateResponse, Status> {
        let csr_pem = self.trust.request().await;
        Ok(wire::RequestCertificateResponse {
            csr_pem: csr_pem.map_err(|error| status::trust(&error))?,
        })
    }

    pub(super) async fn take_trust(
        &self,
        request: Request<wire::InstallTrustRequest>,
    ) -> Result<wire::InstallTrustResponse, Status> {
        let caller = request.extensions().get::<Peer>().cloned();
        let request = request.into_inner();
        let epoch = epoch(request.epoch)?;
        let change = Change {
            chain_pem: request.chain_pem,
            bundle_pem: request.bundle_pem,
            crl_pem: request.crl_pem,
        };
        let caller = caller.as_ref().and_then(Peer::certificate);
        let install = self.trust.install(change, caller.map(AsRef::as_ref));
        let installed = self.changes.admitted(epoch, install).await;
        let digest = installed
            .map_err(status::refused)?
            .map_err(|error| status::trust(&error))?;
        Ok(wire::InstallTrustResponse {
            trust_digest: digest.hex(),
        })
    }
}
