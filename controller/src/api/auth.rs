//! Who the caller is, and who may do what, why.

use kapok_authz::{Decision, Principal, Role as Word};
use kapok_proto::{
    convert::timestamp,
    fabric::v1::{
        DecidingPolicy, ExplainAccessRequest, ExplainAccessResponse, WhoAmIRequest, WhoAmIResponse,
        auth_service_server::AuthService,
    },
};
use kapok_types::{Name, OperationId};
use tonic::{Request, Response, Status};

use super::{
    Api,
    caller::{Caller, absent, optional_key, parsed, subject},
    status, view,
};
use crate::{
    authz::{Action, Object, about},
    fabric::{Fabric, User, city},
};

#[tonic::async_trait]
impl AuthService for Api {
    /// Answers whoever has a certificate of this fabric, known to it or not: so that they learn
    /// which of the two it is.
    async fn who_am_i(
        &self,
        request: Request<WhoAmIRequest>,
    ) -> Result<Response<WhoAmIResponse>, Status> {
        let (who, peer) = self.person(&request)?;
        let subject = subject(&who);
        let snapshot = self.ledger.snapshot();
        let fabric = &snapshot.fabric;
        let user = fabric.users.get(&subject).filter(|user| !user.disabled);
        let certificate = peer.certificate();
        let active = fabric.active_authority().map(|active| active.fingerprint);
        let due = certificate.is_some_and(|one| {
            one.renew_at() <= self.env.now() || active.is_some_and(|active| active != one.authority)
        });
        Ok(Response::new(WhoAmIResponse {
            subject: subject.to_string(),
            serial: certificate
                .map(|one| one.serial.to_string())
                .unwrap_or_default(),
            expire_time: certificate.map(|one| timestamp(one.not_after)),
            grants: user
                .map(|user| user.grants.iter().map(view::grant).collect())
                .unwrap_or_default(),
            home_tenant: user.map_or_else(city, User::home).to_string(),
            fabric: self.trust.fabric().to_string(),
            renewal_due: due,
        }))
    }

    async fn explain_access(
        &self,
        request: Request<ExplainAccessRequest>,
    ) -> Result<Response<ExplainAccessResponse>, Status> {
        let caller = self.caller(&request)?;
        let ExplainAccessRequest {
            principal,
            action,
            object,
        } = request.into_inner();
        let principal = optional_key("principal", principal)?;
        let object = optional_key("object", object)?;
        let snapshot = self.ledger.snapshot();
        let fabric = &snapshot.fabric;
        let who = self.asked_about(&caller, fabric, &principal)?;
        let action: Action = action
            .parse()
            .map_err(|unknown| status::bad_field("action", format!("{unknown}")))?;
        let named = self.named(&caller, fabric, &object)?;
        let about = asked(fabric, action, &named);
        if !self.access.is_about(action, &about) {
            let reason = match action {
                Action::UserGrant => {
                    "user.grant is about user/NAME/ROLE or user/NAME/ROLE/TENANT".to_owned()
                }
                action => format!("{action} is not about {}", told(&object)),
            };
            return Err(status::bad_field("object", reason));
        }
        let decision = self.access.decide(fabric, &who, action, &about);
        let summary = decision.summary(&who, action, &named);
        Ok(Response::new(response(&decision, summary)))
    }
}

impl Api {
    /// Whose rights are asked about: one's own, or another's for whoever may see them.
    fn asked_about(
        &self,
        caller: &Caller,
        fabric: &Fabric,
        which: &str,
    ) -> Result<Principal, Status> {
        let who = match which {
            "" => caller.who.clone(),
            named => principal("principal", named)?,
        };
        if who == caller.who {
            self.authorize(caller, Action::AuthExplain, &Object::Fabric, "")?;
            return Ok(who);
        }
        if !fabric.users.contains_key(&subject(&who)) {
            return Err(absent("user", which));
        }
        self.authorize(
            caller,
            Action::UserExplain,
            &Object::User(who.clone()),
            which,
        )?;
        Ok(who)
    }

    /// The object that a caller names, if they may see it.
    fn named(&self, caller: &Caller, fabric: &Fabric, text: &str) -> Result<Object, Status> {
        let (kind, which) = text.split_once('/').unwrap_or((text, ""));
        let found = match kind {
            "" => return Ok(Object::Fabric),
            "node" => fabric.node(which).map(about::node),
            "instance" => fabric.instance(which, &caller.home).map(about::instance),
            "image" => fabric.image(which, &caller.home).map(about::image),
            "system" => fabric.system(which, &caller.home).map(about::system),
            "flavor" => {
                let name = parsed::<Name>("object", which)?;
                fabric.flavors.get(&name).map(about::flavor)
            }
            "operation" => {
                let id = parsed::<OperationId>("object", which)?;
                fabric.operations.get(&id).map(about::operation)
            }
            "tenant" => {
                let name = parsed::<Name>("object", which)?;
                let tenant = fabric.tenants.get(&name);
                tenant.map(|tenant| about::tenant(&tenant.name))
            }
            "user" | "machine" => return self.named_user(caller, fabric, text),
            _ => {
                let reason = "must be empty, or node/, instance/, system/, image/, flavor/, \
                              operation/, tenant/, user/ or machine/ and a name";
                return Err(status::bad_field("object", reason));
            }
        };
        let found = found.ok_or_else(|| absent(kind_word(kind), which))?;
        if let Some(seeing) = found.seen_by() {
            self.authorize(caller, seeing, &found, which)?;
        }
        Ok(found)
    }

    /// "user/NAME", "user/NAME/ROLE" or "user/NAME/ROLE/TENANT".
    fn named_user(&self, caller: &Caller, fabric: &Fabric, text: &str) -> Result<Object, Status> {
        let mut parts = text.splitn(4, '/');
        let (kind, name) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        let which = format!("{kind}/{name}");
        let user = principal("object", &which)?;
        if !fabric.users.contains_key(&subject(&user)) {
            return Err(absent("user", &which));
        }
        if user != caller.who {
            self.authorize(caller, Action::UserGet, &Object::User(user.clone()), &which)?;
        }
        let Some(role) = parts.next() else {
            return Ok(Object::User(user));
        };
        let role = Word::ALL.into_iter().find(|word| word.as_str() == role);
        let role = role.ok_or_else(|| status::bad_field("object", "names no role"))?;
        let tenant = parts
            .next()
            .map(|name| parsed("object", name))
            .transpose()?;
        Ok(Object::Grant { user, role, tenant })
    }
}

/// What is asked of policies where this is named: of the tenant above, if only that one can do it.
fn asked(fabric: &Fabric, action: Action, named: &Object) -> Object {
    match (action, named) {
        (Action::TenantSuspend | Action::TenantDelete | Action::QuotaSet, Object::Tenant(name)) => {
            fabric
                .tenants
                .get(name)
                .map_or(Object::Fabric, about::above)
        }
        _ => named.clone(),
    }
}

/// "user/NAME", "machine/NAME", or NAME for a person.
fn principal(field: &str, text: &str) -> Result<Principal, Status> {
    match text.split_once('/') {
        None => parsed(field, text).map(Principal::User),
        Some(("user", name)) => parsed(field, name).map(Principal::User),
        Some(("machine", name)) => parsed(field, name).map(Principal::Machine),
        Some(_) => Err(status::bad_field(
            field,
            "must be user/NAME or machine/NAME",
        )),
    }
}

fn kind_word(kind: &str) -> &'static str {
    match kind {
        "node" => "node",
        "instance" => "instance",
        "image" => "image",
        "system" => "system",
        "flavor" => "flavor",
        "operation" => "operation",
        _ => "tenant",
    }
}

fn told(object: &str) -> &str {
    if object.is_empty() {
        "the fabric; name an object"
    } else {
        object
    }
}

fn response(decision: &Decision, summary: String) -> ExplainAccessResponse {
    let policies = decision.policies.iter().map(|policy| DecidingPolicy {
        id: policy.id.clone(),
        forbids: policy.forbids,
        source: policy.source.to_string(),
        text: policy.text.clone(),
    });
    ExplainAccessResponse {
        allowed: decision.allowed,
        policies: policies.collect(),
        summary,
    }
}
