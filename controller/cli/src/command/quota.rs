//! `kapok quota …`

use kapok_proto::fabric::v1::UpdateTenantRequest;

use super::{changed, mask, tenant};
use crate::{
    args::quota::{Command, Set},
    client::Client,
    error::{Doing, Error},
    output::Out,
    view::{quota::TenantQuota, tenant::Tenant},
};

/// Does it.
pub(super) async fn run(client: &Client, out: &mut Out, command: Command) -> Result<(), Error> {
    match command {
        Command::Show { tenant } => {
            let doing = Doing::new(format!("show the quota of {tenant}"), tenant::LOOK);
            let found = tenant::get(client, &doing, &tenant).await?;
            let quota = TenantQuota::of(found).ok_or_else(|| Error::Content {
                message: format!("how much tenant {tenant} may have isn't for you to see"),
                hint: "kapok tenant show names whom to ask".to_owned(),
            })?;
            if out.format().is_for_people() {
                out.raw(quota.table().as_bytes())
            } else {
                out.data(&quota)
            }
        }
        Command::Set(set) => {
            let Set {
                tenant,
                etag,
                request,
                ..
            } = &*set;
            let name = tenant.to_string();
            let doing = Doing::new(format!("set the quota of {name}"), tenant::LOOK);
            let change = UpdateTenantRequest {
                tenant: name.clone(),
                quota: Some(set.quota()),
                reserved: Some(set.reserved()),
                update_mask: Some(mask(&set.fields())),
                etag: etag.clone(),
                ..UpdateTenantRequest::default()
            };
            let id = request.request_id.clone();
            let tenant = tenant::update(client, &doing, id, change).await?;
            let tenant = Tenant::from(tenant);
            if let Some(beyond) = tenant.beyond()
                && out.format().is_for_people()
            {
                out.remark(&format!(
                    "it has more than that ({beyond}); nothing is stopped, and nothing more is taken"
                ));
            }
            changed(client, out, &tenant, &name, "quota set")
        }
    }
}
