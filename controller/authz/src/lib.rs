//! Authorization: who may do what, and which policies say so.
//!
//! ```text
//!   tenants, users ──▶ Directory (once per change, in a Cache)──┐
//!   built-in policies ─┐                                        ├─▶ decide ──▶ Decision
//!   site's policies ───┴▶ Authz::load (strict, or an Error)─────┘      ▲
//!                                             Principal, Action, Object┘
//! ```
//!
//! Roles are the built-in policies of `policies/roles.cedar`; what keeps the three administrators
//! apart are the *forbids* of `policies/separation.cedar`, and in Cedar a forbid wins over every
//! permit. So a site's policies can forbid more, and can permit more except what is separated.
//!
//! **Invariant:** everything here is a function of its arguments. There is no clock, no
//! randomness, no task and no IO: who loads policies from a directory reads the files.
//!
//! **Invariant:** a decision costs the same in a fabric of any size. It takes the entities of the
//! principal and of the object's tenants from the [`Directory`] as they are and adds one, the
//! object's.
//!
//! **Invariant:** what can't be decided is denied: an unknown principal, an object of a kind that
//! the action isn't about, a policy whose evaluation failed.

// What is asked.
pub mod action;
pub mod object;

// What is known of who asks.
pub mod cache;
pub mod directory;

// What decides.
pub mod load;
pub mod policy;

// The answer.
pub mod authz;
pub mod decision;

mod words;

pub use action::Action;
pub use authz::Authz;
pub use cache::Cache;
pub use decision::Decision;
pub use directory::{Directory, Role, Tenant, User};
pub use object::{Object, Principal};
pub use policy::{Policy, Source};
