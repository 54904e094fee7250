//! Prints what a directory and a decision cost: 200 tenants, 1,000 users, three site policies.

use std::{collections::BTreeSet, time::Instant};

use kapok_authz::{Action, Authz, Directory, Object, Principal, Role, Tenant, User};
use kapok_types::{InstanceId, Name};

const SITE: &str = r#"
forbid (principal is Machine, action == Action::"instance.console", resource);
forbid (principal, action == Action::"instance.delete", resource) when { resource.name like "prod-*" };
permit (principal in Tenant::"bureau-7", action == Action::"node.list", resource);
"#;

/// Decisions that are timed.
const ROUNDS: u32 = 20_000;

#[expect(clippy::print_stdout, reason = "what an example is for")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = |text: String| text.parse::<Name>();
    let mut tenants = vec![Tenant {
        name: name("city".into())?,
        parent: None,
    }];
    let mut users = Vec::new();
    for bureau in 0..200 {
        let tenant = name(format!("bureau-{bureau}"))?;
        tenants.push(Tenant {
            name: tenant.clone(),
            parent: Some(name("city".into())?),
        });
        for clerk in 0..5 {
            users.push(User {
                principal: Principal::User(name(format!("clerk-{bureau}-{clerk}"))?),
                roles: BTreeSet::from([(Role::TenantMember, Some(tenant.clone()))]),
                disabled: false,
            });
        }
    }
    let authz = Authz::load([("site.cedar", SITE)])?;
    let begun = Instant::now();
    let directory = Directory::build(tenants, users);
    println!("directory built in {:?}", begun.elapsed());

    let who = Principal::User(name("clerk-7-1".into())?);
    let web = Object::Instance {
        id: InstanceId(uuid::Uuid::nil()),
        name: name("web".into())?,
        tenant: name("bureau-7".into())?,
    };
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        assert!(authz.permits(&directory, &who, Action::InstanceDelete, &web));
    }
    println!("a decision takes {:?}", begun.elapsed() / ROUNDS);
    Ok(())
}
