//! Which events somebody sees: those about what they may get.

use std::collections::BTreeMap;

use kapok_trust::TokenId;
use kapok_types::{InstanceId, Name, OperationId};

use super::{Api, caller::Caller};
use crate::{
    authz::{Action, Object, about},
    fabric::{Event, Fabric, TokenSubject, city},
};

/// Where things belonged that the fabric has forgotten since: an old event names its instance or
/// operation by id alone, and only an event before it says whose that was.
///
/// Holds what was made and hasn't ended at one place of the log: never more than the fabric held
/// then.
#[derive(Debug, Default)]
pub(super) struct Past {
    instances: BTreeMap<InstanceId, (Name, Name)>,
    operations: BTreeMap<OperationId, Name>,
}

impl Past {
    /// Takes in the next event of the log.
    fn learn(&mut self, event: &Event) {
        match event {
            Event::InstanceCreated { instance } => {
                let called = (instance.tenant.clone(), instance.name.clone());
                self.instances.insert(instance.id, called);
            }
            Event::OperationStarted { operation } => {
                self.operations
                    .insert(operation.id, operation.tenant.clone());
            }
            _ => {}
        }
    }

    fn forget(&mut self, event: &Event) {
        match event {
            Event::InstanceRemoved { instance, .. } => {
                self.instances.remove(instance);
            }
            Event::OperationEnded { operation, .. } => {
                self.operations.remove(operation);
            }
            _ => {}
        }
    }

    fn instance(&self, fabric: &Fabric, id: InstanceId) -> Object {
        let known = fabric.instances.get(&id);
        let called = known.map(|one| (one.tenant.clone(), one.name.clone()));
        match called.or_else(|| self.instances.get(&id).cloned()) {
            Some((tenant, name)) => Object::Instance { id, name, tenant },
            // Nobody knows whose it was: it is for whoever sees the whole city.
            None => about::some_instance(&city()),
        }
    }

    fn operation(&self, fabric: &Fabric, id: OperationId) -> Object {
        let known = fabric.operations.get(&id).map(|one| one.tenant.clone());
        let tenant = known.or_else(|| self.operations.get(&id).cloned());
        Object::Operation {
            id,
            tenant: tenant.unwrap_or_else(city),
        }
    }

    /// What somebody must be allowed so that they see an event; none for what nobody is shown.
    fn asks(&self, fabric: &Fabric, event: &Event) -> Option<(Action, Object)> {
        let node = |node: &Name| (Action::NodeGet, Object::Node(node.clone()));
        let instance = |id: InstanceId| (Action::InstanceGet, self.instance(fabric, id));
        let operation = |id: OperationId| (Action::OperationGet, self.operation(fabric, id));
        let fabrics = |action: Action| (action, Object::Fabric);
        let token = |id: TokenId| {
            let subject = fabric.tokens.get(&id).map(|token| &token.subject);
            fabrics(token_list(subject))
        };
        Some(match event {
            Event::LeaderElected { .. } | Event::AdoptionBegan { .. } => fabrics(Action::NodeList),
            Event::NodeJoined { node: joined } => node(&joined.name),
            Event::NodeRejoined { node: name, .. }
            | Event::NodeUpdated { node: name, .. }
            | Event::NodeSited { node: name, .. }
            | Event::NodeFingerprintChanged { node: name, .. }
            | Event::NodeRebound { node: name, .. }
            | Event::NodeRevoked { node: name, .. }
            | Event::NodeRemoved { node: name, .. }
            | Event::NodeChanged { node: name, .. }
            | Event::NodeEquipped { node: name, .. }
            | Event::NodeReached { node: name }
            | Event::NodeLost { node: name, .. }
            | Event::NodeResyncing { node: name, .. }
            | Event::NodeCordoned { node: name, .. }
            | Event::NodeJudged { node: name, .. }
            | Event::NodeQuarantined { node: name, .. }
            | Event::NodeRecovering { node: name, .. }
            | Event::NodeQuarantineEnded { node: name }
            | Event::NodeReleased { node: name, .. }
            | Event::NodeReleaseEnded { node: name }
            | Event::NodeDrainRequested { node: name, .. }
            | Event::NodePartsLearned { node: name, .. }
            | Event::NodePartsChanged { node: name, .. }
            | Event::NodePartsAccepted { node: name, .. }
            | Event::NodeAdopted { node: name }
            | Event::UsageMeasured { node: name, .. }
            | Event::AvailabilityChanged { node: name, .. }
            | Event::NodeUncordoned { node: name } => node(name),
            Event::ImageRegistered { image } => (Action::ImageGet, about::image(image)),
            Event::ImageRemoved {
                image,
                tenant,
                name,
            } => {
                let (id, name, tenant) = (*image, name.clone(), tenant.clone());
                (Action::ImageGet, Object::Image { id, name, tenant })
            }
            Event::FlavorCreated { flavor } | Event::FlavorChanged { flavor } => {
                (Action::FlavorGet, about::flavor(flavor))
            }
            Event::FlavorRemoved { flavor, visible_to } => {
                let (name, visible_to) = (flavor.clone(), visible_to.clone());
                (Action::FlavorGet, Object::Flavor { name, visible_to })
            }
            Event::SystemCreated { system } | Event::SystemChanged { system } => {
                (Action::SystemGet, about::system(system))
            }
            Event::SystemLive { tenant, name, .. }
            | Event::SystemEnding { tenant, name, .. }
            | Event::SystemRemoved { tenant, name } => {
                let (tenant, name) = (tenant.clone(), name.clone());
                (Action::SystemGet, Object::System { tenant, name })
            }
            Event::GroupCreated { group } => (Action::GroupGet, about::group(group)),
            Event::GroupRemoved { tenant, name } => {
                let (tenant, name) = (tenant.clone(), name.clone());
                (Action::GroupGet, Object::Group { tenant, name })
            }
            Event::InstanceCreated { instance } => (Action::InstanceGet, about::instance(instance)),
            Event::InstanceRemoved {
                instance,
                tenant,
                name,
            } => {
                let (id, name, tenant) = (*instance, name.clone(), tenant.clone());
                (Action::InstanceGet, Object::Instance { id, name, tenant })
            }
            Event::IncarnationPlaced { instance: id, .. }
            | Event::IntentChanged { instance: id, .. }
            | Event::InstanceSystemChanged { instance: id, .. }
            | Event::InstanceResized { instance: id, .. }
            | Event::ClaimChanged { instance: id, .. }
            | Event::InstanceDeleting { instance: id, .. }
            | Event::IncarnationEnded { instance: id, .. }
            | Event::ConsoleGranted { instance: id, .. } => instance(*id),
            Event::OperationStarted { operation } => {
                (Action::OperationGet, about::operation(operation))
            }
            Event::OperationEnded { operation: id, .. } => operation(*id),
            Event::TenantCreated { tenant } => (Action::TenantGet, about::tenant(&tenant.name)),
            Event::TenantUpdated { tenant, .. }
            | Event::TenantStateChanged { tenant, .. }
            | Event::TenantIsolationSet { tenant, .. } => {
                (Action::TenantGet, about::tenant(tenant))
            }
            Event::TenantQuotaSet { tenant, .. } => (Action::QuotaGet, about::tenant(tenant)),
            // Its place in the tree is gone with it: for whoever sees what is in the one above.
            Event::TenantDeleted { parent, .. } => (Action::InstanceList, about::tenant(parent)),
            Event::UserCreated { user } | Event::UserChanged { user } => {
                (Action::UserGet, about::user(&user.subject))
            }
            Event::UserDeleted { user } => (Action::UserGet, about::user(user)),
            Event::TokenCreated { token } => fabrics(token_list(Some(&token.subject))),
            Event::TokenUsed { token: id, .. } | Event::TokenDeleted { token: id } => token(*id),
            Event::TokensExpired { .. } => fabrics(Action::TokenList),
            Event::CertificateIssued { .. }
            | Event::CertificateRevoked { .. }
            | Event::CertificatesExpired { .. } => fabrics(Action::CertificateList),
            Event::AuthorityAdded { .. }
            | Event::AuthorityActivated { .. }
            | Event::AuthorityRetired { .. } => fabrics(Action::AuthorityList),
            Event::Refused { .. } | Event::SegmentSealed { .. } | Event::SegmentDeleted { .. } => {
                fabrics(Action::AuditRead)
            }
            Event::RequestAnswered { .. }
            | Event::RequestsExpired { .. }
            | Event::OperationsExpired { .. } => return None,
        })
    }
}

const fn token_list(subject: Option<&TokenSubject>) -> Action {
    match subject {
        Some(TokenSubject::Node(_)) => Action::NodeTokenList,
        _ => Action::TokenList,
    }
}

impl Api {
    /// Whether a caller sees an event, which is the next one of the log.
    pub(super) fn may_see_event(
        &self,
        caller: &Caller,
        fabric: &Fabric,
        past: &mut Past,
        event: &Event,
    ) -> bool {
        past.learn(event);
        let asks = past.asks(fabric, event);
        past.forget(event);
        asks.is_some_and(|(action, object)| self.may(caller, action, &object))
    }
}
