//! Images: registered once their bytes are stored and checked, removed when nothing needs them.

use super::{Context, Decision, instance, tenant};
use crate::fabric::{Command, Denied, Event, Image, Outcome};

pub(super) fn register(context: Context<'_>) -> Result<Decision, Denied> {
    let Context {
        fabric, ask, now, ..
    } = context;
    let Command::RegisterImage {
        tenant,
        name,
        digest,
        format,
        size,
        virtual_size,
        arch,
    } = &ask.command
    else {
        return Ok(Decision::done(Vec::new()));
    };
    let tenant = instance::tenant(context, tenant.as_ref())?;
    if let Some(present) = fabric
        .image_names
        .get(&(tenant.clone(), name.clone()))
        .and_then(|id| fabric.images.get(id))
    {
        // The same import again is answered with the image that is there.
        if present.digest == *digest && present.format == *format && present.arch == *arch {
            return Ok(Decision {
                events: Vec::new(),
                outcome: Outcome::Image(present.id),
            });
        }
        let but = " with other content; choose another name";
        return Err(Denied::Exists {
            kind: "image",
            name: name.to_string(),
            but,
        });
    }
    tenant::takes_new(context, tenant)?;
    let image = Image {
        id: ask.fresh.image,
        tenant: tenant.clone(),
        name: name.clone(),
        digest: *digest,
        format: *format,
        size: *size,
        virtual_size: *virtual_size,
        arch: *arch,
        created_at: now,
        created_by: context.by().clone(),
    };
    let outcome = Outcome::Image(image.id);
    Ok(Decision {
        events: vec![Event::ImageRegistered { image }],
        outcome,
    })
}

pub(super) fn delete(context: Context<'_>, which: &str) -> Result<Decision, Denied> {
    let fabric = context.fabric;
    let image = fabric
        .image(which, context.home())
        .filter(|image| context.covers(&image.tenant))
        .ok_or_else(|| Denied::Absent {
            kind: "image",
            which: which.to_owned(),
        })?;
    let mut users = fabric
        .instances
        .values()
        .filter(|instance| instance.image == image.id);
    if let Some(first) = users.next() {
        return Err(Denied::ImageInUse {
            name: image.name.to_string(),
            instances: 1 + users.count(),
            such_as: first.name.to_string(),
        });
    }
    let removed = Event::ImageRemoved {
        image: image.id,
        tenant: image.tenant.clone(),
        name: image.name.clone(),
    };
    Ok(Decision::done(vec![removed]))
}
