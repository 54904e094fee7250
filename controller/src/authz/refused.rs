//! What the record says of a command that was refused.

use crate::fabric::{Command, TenantChange};

/// A command's action and object, in the words of authorization.
pub fn asked(command: &Command) -> (&'static str, String) {
    let named = |kind: &str, which: &str| format!("{kind}/{which}");
    match command {
        Command::CreateInstance(create) => {
            ("instance.create", named("instance", create.name.as_str()))
        }
        Command::CreateInstances { instances, .. } => {
            let first = instances.first().map_or("", |one| one.name.as_str());
            ("instance.create", named("instance", first))
        }
        Command::StartInstance { instance } => ("instance.start", named("instance", instance)),
        Command::StopInstance { instance } => ("instance.stop", named("instance", instance)),
        Command::RestartInstance { instance } => ("instance.restart", named("instance", instance)),
        Command::ChangeInstanceSystem { instance, .. } => {
            ("instance.update", named("instance", instance))
        }
        Command::ResizeInstance(wish) => ("instance.resize", named("instance", &wish.instance)),
        Command::DeleteInstance { instance, .. } => {
            ("instance.delete", named("instance", instance))
        }
        Command::GrantConsole { instance } => ("instance.console", named("instance", instance)),
        Command::CancelOperation { operation } => (
            "operation.cancel",
            named("operation", &operation.to_string()),
        ),
        Command::RegisterImage { name, .. } => ("image.import", named("image", name.as_str())),
        Command::DeleteImage { image } => ("image.delete", named("image", image)),
        Command::CreateFlavor(create) => ("flavor.create", named("flavor", create.name.as_str())),
        Command::UpdateFlavor { flavor, .. } => ("flavor.update", named("flavor", flavor.as_str())),
        Command::DeleteFlavor { flavor, .. } => ("flavor.delete", named("flavor", flavor.as_str())),
        Command::CreateSystem(create) => ("system.create", named("system", create.name.as_str())),
        Command::UpdateSystem { system, .. } => ("system.update", named("system", system)),
        Command::DeleteSystem { system, .. } => ("system.delete", named("system", system)),
        Command::CreateGroup(create) => ("group.create", named("group", create.name.as_str())),
        Command::DeleteGroup { group } => ("group.delete", named("group", group)),
        Command::JoinNode(join) => ("node.join", named("node", &join.id.to_string())),
        Command::UpdateNode { node, .. } => ("node.update", named("node", node)),
        Command::CordonNode { node, .. } => ("node.cordon", named("node", node)),
        Command::UncordonNode { node } => ("node.uncordon", named("node", node)),
        Command::RebindNode { node, .. } => ("node.rebind", named("node", node)),
        Command::ReleaseNode { node, .. } | Command::EndNodeRelease { node, .. } => {
            ("node.release", named("node", node))
        }
        Command::RevokeNode { node, .. } => ("node.revoke", named("node", node)),
        Command::AdoptNode(wish) => ("node.adopt", named("node", &wish.node)),
        Command::DeleteNode { node } => ("node.delete", named("node", node)),
        Command::CreateTenant { name, .. } => ("tenant.create", named("tenant", name.as_str())),
        Command::UpdateTenant {
            tenant, changes, ..
        } => {
            let action = match changes.iter().find(|change| change.is_from_above()) {
                None => "tenant.update",
                Some(TenantChange::State(_)) => "tenant.suspend",
                Some(TenantChange::Isolation(_)) => "tenant.isolate",
                Some(_) => "quota.set",
            };
            (action, named("tenant", tenant.as_str()))
        }
        Command::DeleteTenant { tenant, .. } => ("tenant.delete", named("tenant", tenant.as_str())),
        Command::CreateUser { subject, .. } => ("user.create", subject.to_string()),
        Command::UpdateUser { user, .. } => ("user.update", user.to_string()),
        Command::DeleteUser { user } => ("user.delete", user.to_string()),
        Command::CreateToken { subject, .. } => ("token.create", subject.to_string()),
        Command::DeleteToken { token } => ("token.delete", named("token", &token.to_string())),
        Command::RecordCertificate { certificate, .. } => {
            ("certificate.renew", certificate.subject.to_string())
        }
        Command::RevokeCertificate { serial, .. } => (
            "certificate.revoke",
            named("certificate", &serial.to_string()),
        ),
        Command::RotateAuthority { .. } => ("authority.rotate", String::new()),
        Command::ReportNode { .. }
        | Command::JudgeNode { .. }
        | Command::ReviewQuarantines { .. }
        | Command::ReportParts { .. }
        | Command::PartsAccepted { .. }
        | Command::LoseNode { .. }
        | Command::BeginAdoption { .. }
        | Command::GuestStopped { .. }
        | Command::IncarnationGone { .. }
        | Command::SettleClaim { .. }
        | Command::EndOperation { .. }
        | Command::RecordUsage { .. }
        | Command::RecordAvailability { .. }
        | Command::RecordRefusals { .. }
        | Command::RecordSegment { .. }
        | Command::DeleteSegment { .. }
        | Command::ReviewSystems
        | Command::Expire => ("controller", String::new()),
    }
}
