//! What the records say of the fabric as a whole.

use kapok_proto::{
    convert,
    fabric::v1::{
        BureauPooling, GetPoolingReportRequest, GetPoolingReportResponse, SystemRecord,
        report_service_server::ReportService,
    },
};
use kapok_types::{MemoryMib, Vcpus};
use tonic::{Request, Response, Status};

use super::{Api, status, usage::month};
use crate::{
    authz::{Action, about},
    fabric::city,
    report::{self, Error, METHOD, Pooling, Question},
};

#[tonic::async_trait]
impl ReportService for Api {
    async fn get_pooling_report(
        &self,
        request: Request<GetPoolingReportRequest>,
    ) -> Result<Response<GetPoolingReportResponse>, Status> {
        let caller = self.caller(&request)?;
        let root = city();
        self.authorize(
            &caller,
            Action::ReportPooling,
            &about::tenant(&root),
            root.as_str(),
        )?;
        let GetPoolingReportRequest {
            from_month,
            to_month,
            node_vcpus,
            node_memory_mib,
        } = request.into_inner();
        let question = Question {
            from: month("from_month", &from_month)?,
            to: month("to_month", &to_month)?,
            vcpus: (node_vcpus > 0).then_some(Vcpus(node_vcpus)),
            memory: (node_memory_mib > 0).then_some(MemoryMib(node_memory_mib)),
        };
        let (snapshot, now) = (self.ledger.snapshot(), self.env.now());
        // Packing takes a moment of a processor, and no other request waits for it.
        let made =
            tokio::task::spawn_blocking(move || report::pooling(&snapshot.fabric, now, question));
        let made = made.await.map_err(|_| Api::stopping())?;
        let made = made.map_err(|error| {
            let field = match error {
                Error::Months { .. } => "from_month",
                Error::NoNode => "node_vcpus",
            };
            status::bad_field(field, format!("is wrong: {error}"))
        })?;
        Ok(Response::new(answer(made)))
    }
}

fn answer(made: Pooling) -> GetPoolingReportResponse {
    GetPoolingReportResponse {
        from_month: made.from.to_string(),
        to_month: made.to.to_string(),
        known_since: Some(convert::timestamp(made.known_since)),
        create_time: Some(convert::timestamp(made.at)),
        node_vcpus: made.node.vcpus.get(),
        node_memory_mib: made.node.memory.get(),
        nodes_alone: made.nodes_alone,
        nodes_pooled: made.pool.nodes.into(),
        saved_permille: made.saved_permille,
        most_nodes_in_use: made.most_nodes_in_use,
        bureaus: made.bureaus.into_iter().map(bureau).collect(),
        pool: Some(bureau(made.pool)),
        systems: made.systems.iter().map(system).collect(),
        deployed: made.deployment.systems,
        deployment_median_seconds: made.deployment.median_s,
        deployment_p90_seconds: made.deployment.p90_s,
        method: METHOD.to_owned(),
    }
}

fn bureau(one: report::Bureau) -> BureauPooling {
    BureauPooling {
        bureau: one.name.map(|name| name.to_string()).unwrap_or_default(),
        peak_vcpus: one.vcpus,
        peak_vcpus_time: Some(convert::timestamp(one.vcpus_at)),
        peak_memory_mib: one.memory_mib,
        peak_memory_time: Some(convert::timestamp(one.memory_at)),
        peak_instances: one.instances,
        nodes_packed: one.packed,
        nodes: one.nodes,
        misfits: one.misfits,
    }
}

fn system(one: &report::SystemRecord) -> SystemRecord {
    SystemRecord {
        tenant: one.tenant.to_string(),
        system: one.system.to_string(),
        request_time: one.requested_at.map(convert::timestamp),
        live_time: one.live_at.map(convert::timestamp),
        up_seconds: one.up_s,
        down_seconds: one.down_s,
        unseen_seconds: one.unseen_s,
        availability_ppm: one.availability_ppm,
    }
}
