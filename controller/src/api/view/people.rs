//! Users and tokens as people see them.

use kapok_proto::{convert::timestamp, fabric::v1 as wire};

use crate::fabric::{EnrollToken, Grant, User, people::Role};

/// A user as people see them.
pub(in crate::api) fn user(user: &User) -> wire::User {
    wire::User {
        subject: user.subject.to_string(),
        display_name: user.display.clone(),
        grants: user.grants.iter().map(grant).collect(),
        external: user
            .external
            .as_ref()
            .map(|external| wire::ExternalIdentity {
                issuer: external.issuer.clone(),
                subject: external.subject.clone(),
            }),
        disabled: user.disabled,
        create_time: Some(timestamp(user.created_at)),
        created_by: user.created_by.to_string(),
    }
}

/// A grant as people see it.
pub(in crate::api) fn grant(grant: &Grant) -> wire::Grant {
    let role = match grant.role {
        Role::SystemAdministrator => wire::Role::SystemAdministrator,
        Role::SecurityAdministrator => wire::Role::SecurityAdministrator,
        Role::Auditor => wire::Role::Auditor,
        Role::TenantAdministrator => wire::Role::TenantAdministrator,
        Role::TenantMember => wire::Role::TenantMember,
    };
    wire::Grant {
        role: role.into(),
        tenant: grant
            .tenant
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
    }
}

/// A token as people see it: without its secret, and without the secret's hash.
pub(in crate::api) fn token(token: &EnrollToken) -> wire::Token {
    wire::Token {
        id: token.id.to_string(),
        subject: token.subject.to_string(),
        one_use: token.one_use,
        use_time: token.used_at.map(timestamp),
        expire_time: Some(timestamp(token.expires_at)),
        create_time: Some(timestamp(token.created_at)),
        created_by: token.created_by.to_string(),
    }
}
