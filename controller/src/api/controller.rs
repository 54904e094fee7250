//! The controllers, for people.

use std::time::Duration;

use kapok_proto::fabric::v1::{
    Controller, ControllerRole, ListControllersRequest, ListControllersResponse, StepDownRequest,
    StepDownResponse, StoreMember, controller_service_server::ControllerService,
};
use kapok_store::health::{Alarm, Health, Member};
use kapok_trust::Fingerprint;
use tonic::{Code, Request, Response, Status};

use super::{Api, status};
use crate::{
    authz::{Action, Object},
    controllers::Known,
};

#[tonic::async_trait]
impl ControllerService for Api {
    async fn list_controllers(
        &self,
        request: Request<ListControllersRequest>,
    ) -> Result<Response<ListControllersResponse>, Status> {
        let caller = self.caller(&request)?;
        self.authorize(&caller, Action::ControllerList, &Object::Fabric, "")?;
        let members = self.store.health().await.map(members);
        let snapshot = self.ledger.snapshot();
        let authorities = self.trust.held();
        let own = self.controllers.own();
        let role = if self.controllers.leads() {
            ControllerRole::Leads
        } else {
            ControllerRole::Follows
        };
        let mut controllers = vec![Controller {
            name: own.name.to_string(),
            address: own.address.clone(),
            role: role.into(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            seq: snapshot.head.seq.get(),
            behind: 0,
            age: Some(duration(Duration::ZERO)),
            missing_keys: 0,
        }];
        let known = self.controllers.known();
        controllers.extend(known.into_iter().map(|known| follower(known, &authorities)));
        controllers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Response::new(ListControllersResponse {
            controllers,
            epoch: snapshot.epoch.get(),
            seq: snapshot.head.seq.get(),
            members: members.unwrap_or_default(),
        }))
    }

    async fn step_down(
        &self,
        request: Request<StepDownRequest>,
    ) -> Result<Response<StepDownResponse>, Status> {
        let caller = self.caller(&request)?;
        self.authorize(&caller, Action::ControllerStepDown, &Object::Fabric, "")?;
        let authorities = self.trust.held();
        let known = self.controllers.known();
        let ready = known.iter().filter(|known| known.is_ready(&authorities));
        let successors: Vec<String> = ready
            .map(|known| known.report.follower.name.to_string())
            .collect();
        if successors.is_empty() {
            return Err(status::status(
                Code::FailedPrecondition,
                "NO_SUCCESSOR",
                "no other controller follows closely enough to take over; see: kapok controller ls",
                &[],
            ));
        }
        tracing::info!(by = %caller.by, "asked to let another controller lead");
        self.controllers.resign().cancel();
        Ok(Response::new(StepDownResponse { successors }))
    }
}

fn follower(known: Known, authorities: &[Fingerprint]) -> Controller {
    let Known {
        report,
        behind,
        age,
    } = known;
    let missing = authorities
        .iter()
        .filter(|authority| !report.authorities.contains(authority));
    Controller {
        name: report.follower.name.to_string(),
        address: report.follower.address,
        role: ControllerRole::Follows.into(),
        version: report.version,
        seq: report.seq.get(),
        behind,
        age: Some(duration(age)),
        missing_keys: u32::try_from(missing.count()).unwrap_or(u32::MAX),
    }
}

fn members(health: Health) -> Vec<StoreMember> {
    health.members.into_iter().map(member).collect()
}

fn member(member: Member) -> StoreMember {
    let Member {
        name,
        endpoint,
        status,
        alarms,
    } = member;
    let alarm = |alarm: Alarm| match alarm {
        Alarm::NoSpace => "no_space",
        Alarm::Corrupt => "corrupt",
    };
    let told = StoreMember {
        name,
        endpoint,
        alarms: alarms.into_iter().map(alarm).map(str::to_owned).collect(),
        ..StoreMember::default()
    };
    match status {
        Err(failure) => StoreMember { failure, ..told },
        Ok(status) => StoreMember {
            version: status.version,
            leads: status.leads,
            database_bytes: status.database_bytes,
            used_bytes: status.used_bytes,
            quota_bytes: status.quota_bytes.unwrap_or_default(),
            latency: Some(duration(status.latency)),
            ..told
        },
    }
}

fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}
