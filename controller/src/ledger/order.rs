//! In which order commands are decided that wait together.
//!
//! Nothing says which of concurrent requests came first, so creates are decided largest first:
//! what is large finds room before what is small has broken it up. Only creates that stand beside
//! each other change places; nothing waits longer than its batch.

use std::cmp::Reverse;

use kapok_types::{MemoryMib, Vcpus};

use super::Waiting;
use crate::fabric::{Command, Fabric};

/// Puts creates that stand beside each other into the order of their size, the largest first.
pub(super) fn largest_first(fabric: &Fabric, waiting: &mut [Waiting]) {
    let is_create = |one: &Waiting| matches!(one.ask.command, Command::CreateInstance(_));
    for stretch in waiting.chunk_by_mut(|one, next| is_create(one) && is_create(next)) {
        if stretch.len() > 1 {
            stretch.sort_by_key(|one| Reverse(size(fabric, one)));
        }
    }
}

fn size(fabric: &Fabric, waiting: &Waiting) -> Option<(Vcpus, MemoryMib)> {
    let Command::CreateInstance(create) = &waiting.ask.command else {
        return None;
    };
    let flavor = create.flavor.as_ref();
    Some(match flavor.and_then(|name| fabric.flavors.get(name)) {
        Some(flavor) => (flavor.vcpus, flavor.memory),
        None => (create.vcpus, create.memory),
    })
}
