//! Who asks, and what every change carries.

use kapok_types::{Name, Violation};
use tonic::{Request, Status};

use crate::{api::status, fabric::Actor};

/// Metadata that says who asks, until certificates do.
pub(super) const USER: &str = "kapok-user";

/// Longest request id, and longest name, id, digest or etag that is looked up; in bytes.
const MAX_REQUEST_ID_BYTES: usize = 128;
const MAX_KEY_BYTES: usize = 256;

/// Who asks, and from where.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) by: Actor,
    pub(super) from: String,
}

impl Caller {
    /// By the word of the caller: there is no TLS yet that would prove it.
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        let user = request
            .metadata()
            .get(USER)
            .and_then(|value| value.to_str().ok());
        let name = user.and_then(|user| user.parse::<Name>().ok());
        // Without the port, which is another one in each run.
        let from = request
            .remote_addr()
            .map(|peer| peer.ip().to_string())
            .unwrap_or_default();
        Self {
            by: Actor::user(name.as_ref().map_or("anonymous", Name::as_str)),
            from,
        }
    }
}

/// The request id that came. Without one, nobody can ask again: there is nothing to remember.
pub(super) fn request_id(given: &str) -> Result<Option<String>, Status> {
    if given.is_empty() {
        return Ok(None);
    }
    if given.len() > MAX_REQUEST_ID_BYTES || given.chars().any(char::is_control) {
        return Err(status::bad_field(
            "request_id",
            format!(
                "has {} bytes; must have 1 to {MAX_REQUEST_ID_BYTES}, all printable",
                given.len()
            ),
        ));
    }
    Ok(Some(given.to_owned()))
}

/// A name, id or digest that something is looked up by.
pub(super) fn key(field: &str, given: String) -> Result<String, Status> {
    if given.is_empty() {
        return Err(status::bad_field(field, "must be stated"));
    }
    optional_key(field, given)
}

/// The same where it may be left out.
pub(super) fn optional_key(field: &str, given: String) -> Result<String, Status> {
    if given.len() > MAX_KEY_BYTES {
        let reason = format!(
            "has {} bytes; at most {MAX_KEY_BYTES} are allowed",
            given.len()
        );
        return Err(status::bad_field(field, reason));
    }
    Ok(given)
}

/// A checked value, its violation named after the field that it stood in.
pub(super) fn parsed<T>(field: &str, text: &str) -> Result<T, Status>
where
    T: std::str::FromStr<Err = Violation>,
{
    text.parse()
        .map_err(|violation: Violation| status::bad_field(field, violation.reason))
}
