//! Exit codes: the one place that says what each means.

/// It worked.
pub(crate) const OK: u8 = 0;
/// The change failed.
pub(crate) const FAILED: u8 = 1;
/// The command or one of its values is wrong.
pub(crate) const USAGE: u8 = 2;
/// What was named doesn't exist.
pub(crate) const NOT_FOUND: u8 = 3;
/// Refused as things stand.
pub(crate) const REFUSED: u8 = 4;
/// No capacity or quota left.
pub(crate) const NO_CAPACITY: u8 = 5;
/// The controller can't be reached or can't answer now.
pub(crate) const UNAVAILABLE: u8 = 6;
/// The outcome isn't known.
pub(crate) const UNKNOWN: u8 = 7;
/// Cancelled or superseded.
pub(crate) const CANCELLED: u8 = 8;
/// Not logged in, or not allowed.
pub(crate) const NOT_ALLOWED: u8 = 9;
/// A setting outside the command line is wrong.
pub(crate) const CONFIG: u8 = 64;

/// Every code with its meaning, as the help shows it.
const TABLE: [(u8, &str); 11] = [
    (
        OK,
        "it worked (also when the reader of the output went away)",
    ),
    (FAILED, "the change failed"),
    (USAGE, "the command or a value in it is wrong"),
    (NOT_FOUND, "what was named doesn't exist"),
    (
        REFUSED,
        "refused as things stand: a precondition or a conflict",
    ),
    (NO_CAPACITY, "no capacity or quota left"),
    (
        UNAVAILABLE,
        "the controller can't be reached or can't answer now",
    ),
    (
        UNKNOWN,
        "timed out, detached or cut off: the outcome isn't known, nothing was cancelled",
    ),
    (CANCELLED, "cancelled, or superseded by a later change"),
    (
        NOT_ALLOWED,
        "not logged in (or not any more), or not allowed to do it",
    ),
    (
        CONFIG,
        "an environment variable or a credential file is wrong",
    ),
];

/// The section of the help that lists the codes.
pub(crate) fn help() -> String {
    TABLE
        .iter()
        .fold(String::from("Exit codes:"), |text, (code, meaning)| {
            format!("{text}\n  {code:>2}  {meaning}")
        })
}
