//! Rejections in words.

use std::fmt;

use kapok_types::{MemoryMib, Name, Vcpus, equipment::Feature};

use super::{CellFree, Rejection};
use crate::{groups::Domain, headroom::Headroom, node::Distrust};

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = f.alternate();
        match self {
            Self::Unreachable => f.write_str("unreachable"),
            Self::NeedsResync => f.write_str("its agent needs a resync"),
            Self::Distrusted {
                why: Distrust::FingerprintChanged,
            } => f.write_str("its server has changed; rebind it"),
            Self::Distrusted {
                why: Distrust::Revoked,
            } => f.write_str("revoked"),
            Self::Cordoned => f.write_str("cordoned"),
            Self::Quarantined => f.write_str("quarantined"),
            Self::Architecture { asked, node } => {
                write!(
                    f,
                    "architecture {} where {} is asked",
                    node.as_str(),
                    asked.as_str()
                )
            }
            Self::Labels {
                label,
                asked,
                node: Some(node),
            } => write!(f, "label {label} is {node:?} where {asked:?} is asked"),
            Self::Labels {
                label,
                asked,
                node: None,
            } => write!(f, "no label {label} where {asked:?} is asked"),
            Self::Isolation { asked, node } => {
                let asked = asked.as_ref().map_or("none", Name::as_str);
                match node {
                    Some(node) => write!(f, "isolation class {node} where {asked} is asked"),
                    None => write!(f, "no isolation class where {asked} is asked"),
                }
            }
            Self::CpuFeatures { missing } => {
                let names: Vec<_> = missing.iter().map(Feature::as_str).collect();
                let verb = if missing.len() == 1 {
                    ("", "is")
                } else {
                    ("s", "are")
                };
                write!(
                    f,
                    "CPU feature{} {} {} missing",
                    verb.0,
                    names.join(", "),
                    verb.1
                )
            }
            Self::Pool { pool } => write!(f, "pool {pool} isn't reachable"),
            Self::Network { network } => write!(f, "network {network} isn't reachable"),
            Self::Vcpus {
                asked,
                free,
                physical,
                overcommit_permille,
                claimed,
                foreign,
            } => {
                write!(f, "vCPUs {free} free of {asked} asked")?;
                if all {
                    let (whole, rest) = (overcommit_permille / 1000, overcommit_permille % 1000);
                    let rest = format!("{rest:03}");
                    let rest = rest.trim_end_matches('0');
                    let point = if rest.is_empty() { "" } else { "." };
                    write!(
                        f,
                        " ({physical} physical × {whole}{point}{rest}, {claimed} claimed, \
                         {foreign} foreign)"
                    )?;
                }
                Ok(())
            }
            Self::Memory {
                asked,
                guest,
                overhead,
                free,
                capacity,
                claimed,
                foreign,
            } => {
                write!(f, "memory {free} free of {asked} asked")?;
                if all {
                    write!(
                        f,
                        " ({guest} guest + {overhead} overhead; {capacity} capacity, \
                         {claimed} claimed, {foreign} foreign)"
                    )?;
                }
                Ok(())
            }
            Self::DedicatedCpus {
                asked,
                cells,
                free,
                over,
            } => {
                let all = free.iter().map(|one| one.vcpus.get());
                let all = Vcpus(all.fold(0, u32::saturating_add));
                write!(f, "dedicated CPUs {all} free of {asked} asked ")?;
                in_cells(f, *cells)?;
                each(f, free, |one| one.vcpus.to_string())?;
                excess(f, over, *over != Vcpus(0))
            }
            Self::HugePages {
                size,
                asked,
                cells,
                free,
                over,
            } => {
                let all = free.iter().map(|one| one.memory);
                let all = all.fold(MemoryMib(0), MemoryMib::saturating_add);
                write!(f, "{} pages {all} free of {asked} asked ", size.as_str())?;
                in_cells(f, *cells)?;
                each(f, free, |one| one.memory.to_string())?;
                excess(f, over, *over != MemoryMib(0))
            }
            Self::Cells {
                vcpus,
                size,
                memory,
                cells,
                free,
            } => {
                let size = size.as_str();
                write!(
                    f,
                    "{vcpus} dedicated CPUs and {memory} of {size} pages aren't free "
                )?;
                in_cells(f, *cells)?;
                each(f, free, |one| format!("{} and {}", one.vcpus, one.memory))
            }
            Self::Devices {
                class,
                asked,
                free,
                there,
                over,
            } => {
                write!(f, "devices {class} {free} free of {asked} asked")?;
                if all {
                    write!(
                        f,
                        " ({there} there, {} in use)",
                        there.saturating_sub(*free)
                    )?;
                }
                excess(f, over, *over > 0)
            }
            Self::Avoided => f.write_str("to be avoided"),
            Self::Apart { domain, site } => {
                write!(
                    f,
                    "another of its group is {}",
                    place(*domain, site.as_ref())
                )
            }
            Self::Together { domain, site } => {
                write!(f, "none of its group is {}", place(*domain, site.as_ref()))
            }
            Self::Headroom {
                level,
                slot,
                needed,
                left,
            } => {
                let lost = match level {
                    Headroom::Rack => "rack",
                    Headroom::None | Headroom::Node => "node",
                };
                write!(
                    f,
                    "headroom for the loss of a {lost}: {left} slots of {slot} vCPUs would be left \
                     of {needed} needed"
                )
            }
        }
    }
}

/// Where something is: "on it", "in rack r7", "in an unnamed room".
fn place(domain: Domain, site: Option<&Name>) -> String {
    match (domain, site) {
        (Domain::Node, _) => "on it".into(),
        (_, Some(site)) => format!("in {} {site}", domain.as_str()),
        (_, None) => format!("in an unnamed {}", domain.as_str()),
    }
}

fn in_cells(f: &mut fmt::Formatter<'_>, most: u8) -> fmt::Result {
    if most > 1 {
        write!(f, "evenly in at most {most} cells")
    } else {
        f.write_str("in one cell")
    }
}

/// Each cell with what is free in it: "; cell 0 2, cell 1 1".
fn each(
    f: &mut fmt::Formatter<'_>,
    cells: &[CellFree],
    free: impl Fn(&CellFree) -> String,
) -> fmt::Result {
    if cells.is_empty() {
        return f.write_str("; none are set aside");
    }
    for (number, one) in cells.iter().enumerate() {
        let separator = if number == 0 { ";" } else { "," };
        write!(f, "{separator} cell {} {}", one.cell, free(one))?;
    }
    Ok(())
}

/// What is claimed and isn't there.
fn excess(f: &mut fmt::Formatter<'_>, over: impl fmt::Display, any: bool) -> fmt::Result {
    if any {
        write!(f, "; overcommitted by {over}")?;
    }
    Ok(())
}
