//! Flavors: made, changed and removed by whoever reaches the whole fabric.

use std::collections::BTreeSet;

use kapok_types::{
    Bytes, MemoryMib, Name, Needs, Vcpus, Violation,
    instance::{check_disk, check_size},
};

use super::{Context, Decision, printable};
use crate::fabric::{
    Denied, Event, Fabric, Flavor, FlavorChange, city,
    command::{CreateFlavor, CreateInstance},
};

/// Tenants that one flavor names at most; a tenant above them all names as many as it likes.
const MAX_TENANTS: usize = 256;

pub(super) fn create(context: Context<'_>, create: &CreateFlavor) -> Result<Decision, Denied> {
    context.whole_fabric()?;
    if context.fabric.flavors.contains_key(&create.name) {
        return Err(Denied::Exists {
            kind: "flavor",
            name: create.name.to_string(),
            but: "",
        });
    }
    let flavor = Flavor {
        name: create.name.clone(),
        vcpus: create.vcpus,
        memory: create.memory,
        root_disk: create.root_disk,
        description: create.description.clone(),
        visible_to: everybody_unless_named(create.visible_to.clone()),
        created_at: context.now,
        created_by: context.by().clone(),
        needs: create.needs.clone(),
    };
    sound(context.fabric, &flavor, &BTreeSet::new())?;
    Ok(Decision::done(vec![Event::FlavorCreated { flavor }]))
}

pub(super) fn update(
    context: Context<'_>,
    name: &Name,
    changes: &[FlavorChange],
    etag: &str,
) -> Result<Decision, Denied> {
    context.whole_fabric()?;
    let before = present(context, name)?;
    fresh(before, etag)?;
    let mut flavor = changes.iter().fold(before.clone(), Flavor::with);
    flavor.visible_to = everybody_unless_named(flavor.visible_to);
    if flavor == *before {
        return Ok(Decision::done(Vec::new()));
    }
    sound(context.fabric, &flavor, &before.visible_to)?;
    Ok(Decision::done(vec![Event::FlavorChanged { flavor }]))
}

pub(super) fn delete(context: Context<'_>, name: &Name, etag: &str) -> Result<Decision, Denied> {
    context.whole_fabric()?;
    let flavor = present(context, name)?;
    fresh(flavor, etag)?;
    Ok(Decision::done(vec![Event::FlavorRemoved {
        flavor: name.clone(),
        visible_to: flavor.visible_to.clone(),
    }]))
}

/// What a new instance is to have and to find.
pub(super) struct Numbers {
    pub(super) vcpus: Vcpus,
    pub(super) memory: MemoryMib,
    pub(super) root_disk: Option<Bytes>,
    pub(super) needs: Needs,
}

/// What a new instance of a tenant asks for: its own numbers and needs, or those of a flavor that the
/// tenant may use. No number and no kind of need is stated twice.
pub(super) fn numbers(
    fabric: &Fabric,
    tenant: &Name,
    create: &CreateInstance,
) -> Result<Numbers, Denied> {
    let Some(name) = &create.flavor else {
        return Ok(Numbers {
            vcpus: create.vcpus,
            memory: create.memory,
            root_disk: create.root_disk,
            needs: create.needs.clone(),
        });
    };
    let flavor = fabric.flavor(name, tenant).ok_or_else(|| absent(name))?;
    let twice = [
        ("vcpus", create.vcpus != Vcpus::ZERO),
        ("memory_mib", create.memory != MemoryMib::ZERO),
        (
            "root_disk_bytes",
            flavor.root_disk.is_some() && create.root_disk.is_some(),
        ),
    ];
    let needs = needs_stated(&flavor.needs)
        .into_iter()
        .zip(needs_stated(&create.needs))
        .map(|((field, theirs), (_, own))| (field, theirs && own));
    let twice = twice.into_iter().chain(needs);
    let twice = twice.filter(|(_, stated)| *stated);
    let violations: Vec<_> = twice
        .map(|(field, _)| {
            let reason =
                format!("is the flavor's to say; leave it out, or leave flavor {name} out");
            Violation::new(field, reason)
        })
        .collect();
    if violations.is_empty() {
        Ok(Numbers {
            vcpus: flavor.vcpus,
            memory: flavor.memory,
            root_disk: flavor.root_disk.or(create.root_disk),
            needs: together(&flavor.needs, &create.needs),
        })
    } else {
        Err(Denied::Invalid(violations))
    }
}

/// The kinds of needs by their fields, and whether each is stated.
fn needs_stated(needs: &Needs) -> [(&'static str, bool); 8] {
    [
        ("needs.dedicated_cpus", needs.dedicated_cpus),
        ("needs.huge_pages", needs.huge_pages.is_some()),
        ("needs.cells", needs.cells != 0),
        ("needs.cpu_features", !needs.cpu_features.is_empty()),
        ("needs.devices", !needs.devices.is_empty()),
        ("needs.pool", needs.pool.is_some()),
        ("needs.network", needs.network.is_some()),
        ("needs.labels", !needs.labels.is_empty()),
    ]
}

/// Needs of which no kind is stated twice.
fn together(one: &Needs, other: &Needs) -> Needs {
    Needs {
        dedicated_cpus: one.dedicated_cpus || other.dedicated_cpus,
        huge_pages: one.huge_pages.or(other.huge_pages),
        cells: one.cells.max(other.cells),
        cpu_features: &one.cpu_features | &other.cpu_features,
        devices: [one, other]
            .into_iter()
            .flat_map(|needs| needs.devices.clone())
            .collect(),
        pool: one.pool.clone().or_else(|| other.pool.clone()),
        network: one.network.clone().or_else(|| other.network.clone()),
        labels: [one, other]
            .into_iter()
            .flat_map(|needs| needs.labels.clone())
            .collect(),
    }
}

pub(super) fn absent(name: &Name) -> Denied {
    Denied::Absent {
        kind: "flavor",
        which: name.to_string(),
    }
}

fn present<'f>(context: Context<'f>, name: &Name) -> Result<&'f Flavor, Denied> {
    let flavor = context.fabric.flavors.get(name);
    flavor.ok_or_else(|| absent(name))
}

fn fresh(flavor: &Flavor, etag: &str) -> Result<(), Denied> {
    super::fresh("flavor", &flavor.etag(), etag)
}

fn everybody_unless_named(tenants: BTreeSet<Name>) -> BTreeSet<Name> {
    if tenants.is_empty() {
        BTreeSet::from([city()])
    } else {
        tenants
    }
}

/// Limits hold, and every tenant that is newly named is there. One that was named before and is no
/// more stands in nobody's way.
fn sound(fabric: &Fabric, flavor: &Flavor, before: &BTreeSet<Name>) -> Result<(), Denied> {
    printable("description", &flavor.description)?;
    let mut violations = check_size(flavor.vcpus, flavor.memory);
    let needs = flavor.needs.check(flavor.vcpus, flavor.memory).into_iter();
    violations.extend(needs.map(|violation| violation.under("needs")));
    let disk = flavor.root_disk;
    violations.extend(disk.and_then(|size| check_disk("root_disk_bytes", size)));
    if flavor.visible_to.len() > MAX_TENANTS {
        violations.push(Violation::new(
            "visible_to",
            format!(
                "names {} tenants; at most {MAX_TENANTS} are allowed: name one above them",
                flavor.visible_to.len()
            ),
        ));
    }
    if !violations.is_empty() {
        return Err(Denied::Invalid(violations));
    }
    let mut named = flavor.visible_to.difference(before);
    match named.find(|tenant| !fabric.tenants.contains_key(*tenant)) {
        None => Ok(()),
        Some(unknown) => Err(Denied::Absent {
            kind: "tenant",
            which: unknown.to_string(),
        }),
    }
}
