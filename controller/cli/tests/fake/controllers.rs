//! Controllers `a` and `b`: `a` leads until it steps down, and then, after a while, `b` does.

use kapok_proto::{
    fabric::v1::{controller_service_server::ControllerService, *},
    refusal,
};
use tonic::{Code, Request, Response, Status};

use super::{Answer, Fake};

/// What every call may be told while nobody leads.
pub fn no_leader() -> Status {
    refusal::status(
        Code::Unavailable,
        "NO_LEADER",
        "no controller leads",
        [].into(),
    )
}

#[tonic::async_trait]
impl ControllerService for Fake {
    async fn list_controllers(
        &self,
        request: Request<ListControllersRequest>,
    ) -> Answer<ListControllersResponse> {
        let mut seen = self.seen();
        // The first one who asks after that comes too early.
        if seen.steps_down == 1 && seen.changes.is_empty() {
            seen.changes.push(format!("{:?}", request.get_ref()));
            return Err(no_leader());
        }
        let controller = |name: &str, leads: bool| Controller {
            name: name.into(),
            address: format!("{name}:7700"),
            role: if leads {
                ControllerRole::Leads.into()
            } else {
                ControllerRole::Follows.into()
            },
            version: "1.2.3".into(),
            seq: 12,
            ..Controller::default()
        };
        Ok(Response::new(ListControllersResponse {
            controllers: vec![
                controller("a", seen.steps_down == 0),
                controller("b", seen.steps_down > 0),
            ],
            epoch: 7 + seen.steps_down,
            seq: 12,
            members: Vec::new(),
        }))
    }

    async fn step_down(&self, _: Request<StepDownRequest>) -> Answer<StepDownResponse> {
        let mut seen = self.seen();
        if seen.leaderless {
            let message = "no controller follows closely enough";
            return Err(refusal::status(
                Code::FailedPrecondition,
                "NO_SUCCESSOR",
                message,
                [].into(),
            ));
        }
        seen.steps_down += 1;
        Ok(Response::new(StepDownResponse {
            successors: vec!["b".into()],
        }))
    }
}
