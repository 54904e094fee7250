//! Which fields of a thing a caller wants to be otherwise.

use prost_types::FieldMask;
use tonic::Status;

use super::status;

/// The changes that a mask names, each made by `change` from its field's name. `change` has nothing
/// for what is none of `fields`, the names that it knows.
///
/// # Errors
///
/// No field is named, or one that can't be changed, or `change` refuses a value.
pub(super) fn changes<T>(
    mask: Option<FieldMask>,
    fields: &[&str],
    mut change: impl FnMut(&str) -> Result<Option<T>, Status>,
) -> Result<Vec<T>, Status> {
    let mut paths = mask.map(|mask| mask.paths).unwrap_or_default();
    paths.sort();
    paths.dedup();
    let can = || format!("can be: {}", fields.join(", "));
    if paths.is_empty() {
        let reason = format!("must be stated; {}", can());
        return Err(status::bad_field("update_mask", reason));
    }
    let mut changes = Vec::new();
    for path in &paths {
        let Some(made) = change(path)? else {
            let reason = format!("names {path:?}, which can't be changed; {}", can());
            return Err(status::bad_field("update_mask", reason));
        };
        changes.push(made);
    }
    Ok(changes)
}
