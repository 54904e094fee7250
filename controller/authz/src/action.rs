//! What somebody can want to do.

use std::{fmt, str::FromStr};

macro_rules! actions {
    ($($(#[$doc:meta])* $variant:ident = $word:literal,)+) => {
        /// What somebody wants to do. Its word is stable: policies, refusals and people use it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Action { $($(#[$doc])* $variant,)+ }

        impl Action {
            /// All of them, by kind.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Its word, such as "instance.delete".
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }
    };
}

actions! {
    /// Asks who one is.
    AuthWhoami = "auth.whoami",
    /// Asks what oneself may do.
    AuthExplain = "auth.explain",
    /// Renews one's own certificate.
    CertificateRenew = "certificate.renew",
    /// Follows events; each is shown to those who may get its object.
    EventWatch = "event.watch",
    /// Sees a node.
    NodeGet = "node.get",
    /// Lists nodes.
    NodeList = "node.list",
    /// Keeps new instances from a node.
    NodeCordon = "node.cordon",
    /// Lets instances to a node again.
    NodeUncordon = "node.uncordon",
    /// Changes a node's overcommit, address, place, labels or isolation class.
    NodeUpdate = "node.update",
    /// Takes a node's present hardware for its own.
    NodeRebind = "node.rebind",
    /// Puts a word before a node's verdicts, and takes it back.
    NodeRelease = "node.release",
    /// Settles what a node holds otherwise than a record that was restored or rebuilt.
    NodeAdopt = "node.adopt",
    /// Ends all trust in a node's key.
    NodeRevoke = "node.revoke",
    /// Forgets a node.
    NodeDelete = "node.delete",
    /// Makes a token with which a node joins.
    NodeTokenCreate = "node.token.create",
    /// Lists nodes' tokens.
    NodeTokenList = "node.token.list",
    /// Takes a node's token back.
    NodeTokenDelete = "node.token.delete",
    /// Lists the controllers, and sees how the store is.
    ControllerList = "controller.list",
    /// Lets another controller lead.
    ControllerStepDown = "controller.stepdown",
    /// Asks what still fits on all nodes.
    CapacityGet = "capacity.get",
    /// Asks which instances would move where.
    PlanCompute = "plan.compute",
    /// Creates an instance in a tenant.
    InstanceCreate = "instance.create",
    /// Lists a tenant's instances.
    InstanceList = "instance.list",
    /// Sees an instance.
    InstanceGet = "instance.get",
    /// Asks why an instance is where it is.
    InstanceExplain = "instance.explain",
    /// Turns an instance on.
    InstanceStart = "instance.start",
    /// Turns an instance off.
    InstanceStop = "instance.stop",
    /// Restarts an instance.
    InstanceRestart = "instance.restart",
    /// Changes to which system an instance belongs.
    InstanceUpdate = "instance.update",
    /// Makes an instance larger or smaller.
    InstanceResize = "instance.resize",
    /// Deletes an instance.
    InstanceDelete = "instance.delete",
    /// Opens an instance's console.
    InstanceConsole = "instance.console",
    /// Imports an image into a tenant.
    ImageImport = "image.import",
    /// Lists a tenant's images.
    ImageList = "image.list",
    /// Sees an image, and makes instances from it.
    ImageGet = "image.get",
    /// Deletes an image.
    ImageDelete = "image.delete",
    /// Makes a system in a tenant.
    SystemCreate = "system.create",
    /// Lists a tenant's systems.
    SystemList = "system.list",
    /// Sees a system.
    SystemGet = "system.get",
    /// Changes what is recorded of a system.
    SystemUpdate = "system.update",
    /// Removes a system.
    SystemDelete = "system.delete",
    /// Makes a group in a tenant.
    GroupCreate = "group.create",
    /// Lists a tenant's groups.
    GroupList = "group.list",
    /// Sees a group and its members.
    GroupGet = "group.get",
    /// Removes a group.
    GroupDelete = "group.delete",
    /// Makes a flavor.
    FlavorCreate = "flavor.create",
    /// Lists the flavors that one may get.
    FlavorList = "flavor.list",
    /// Sees a flavor, and makes instances of its size.
    FlavorGet = "flavor.get",
    /// Changes a flavor.
    FlavorUpdate = "flavor.update",
    /// Removes a flavor.
    FlavorDelete = "flavor.delete",
    /// Sees an operation.
    OperationGet = "operation.get",
    /// Lists a tenant's operations.
    OperationList = "operation.list",
    /// Cancels an operation.
    OperationCancel = "operation.cancel",
    /// Makes a tenant below another.
    TenantCreate = "tenant.create",
    /// Sees a tenant.
    TenantGet = "tenant.get",
    /// Lists the tenants that one may get.
    TenantList = "tenant.list",
    /// Changes a tenant's display name and contacts.
    TenantUpdate = "tenant.update",
    /// Suspends, resumes and closes the tenants right below another.
    TenantSuspend = "tenant.suspend",
    /// Says the isolation class of the tenants right below another.
    TenantIsolate = "tenant.isolate",
    /// Removes the tenants right below another.
    TenantDelete = "tenant.delete",
    /// Sees how much a tenant may have and has.
    QuotaGet = "quota.get",
    /// Says how much the tenants right below another may have, and what is kept for them.
    QuotaSet = "quota.set",
    /// Sees what a tenant's systems held and used.
    UsageList = "usage.list",
    /// Sees what pooling saved; asked of the root.
    ReportPooling = "report.pooling",
    /// Makes a user without any role.
    UserCreate = "user.create",
    /// Lists the users that one may get.
    UserList = "user.list",
    /// Sees a user and their roles.
    UserGet = "user.get",
    /// Asks what somebody else may do.
    UserExplain = "user.explain",
    /// Disables and enables a user.
    UserUpdate = "user.update",
    /// Removes a user.
    UserDelete = "user.delete",
    /// Gives a role, or takes it away.
    UserGrant = "user.grant",
    /// Makes a token for a person or a machine.
    TokenCreate = "token.create",
    /// Lists tokens of people and machines.
    TokenList = "token.list",
    /// Takes a token of a person or a machine back.
    TokenDelete = "token.delete",
    /// Lists certificates.
    CertificateList = "certificate.list",
    /// Revokes a certificate.
    CertificateRevoke = "certificate.revoke",
    /// Lists authorities.
    AuthorityList = "authority.list",
    /// Makes a new authority.
    AuthorityRotate = "authority.rotate",
    /// Reads the record.
    AuditRead = "audit.read",
    /// Reads the record as it is in the log.
    AuditExport = "audit.export",
    /// Checks the record.
    AuditVerify = "audit.verify",
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that is no action's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no action is called {0:?}; there are {known}", known = known(.0))]
pub struct Unknown(pub String);

/// The actions on such an object, or on which objects there are some: a list that can be read.
fn known(text: &str) -> String {
    let kind = |word: &str| word.split('.').next().unwrap_or_default().to_owned();
    let words = Action::ALL.iter().map(|action| action.as_str());
    let mut alike: Vec<String> = words
        .clone()
        .filter(|word| kind(word) == kind(text))
        .map(str::to_owned)
        .collect();
    if alike.is_empty() {
        alike = words.map(|word| format!("{}.…", kind(word))).collect();
        alike.dedup();
    }
    alike.join(", ")
}

impl FromStr for Action {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        let known = Self::ALL.iter().find(|action| action.as_str() == text);
        known.copied().ok_or_else(|| Unknown(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_back_and_an_unknown_one_lists_those_like_it() {
        for action in Action::ALL {
            assert_eq!(action.as_str().parse(), Ok(*action));
        }
        let refused = "instance.format".parse::<Action>().unwrap_err();
        let told = refused.to_string();
        assert!(
            told.contains("instance.delete") && !told.contains("node."),
            "{told}"
        );
        let refused = "disk.format".parse::<Action>().unwrap_err();
        assert!(
            refused.to_string().contains("instance.…, image.…"),
            "{refused}"
        );
    }
}
