//! Tenants: a tree of bureaus, each with its state, its quota, and what is reserved for it.
//!
//! Absent on purpose: how much a tenant uses. That is a fold of the instances
//! ([`usage`](super::usage)) and changes with each of them, while tenants change rarely:
//! authorization is built anew whenever they do.

use std::sync::LazyLock;

use imbl::OrdMap;
use kapok_types::Name;
use serde::{Deserialize, Serialize};

use super::{Amounts, Dimension, Fabric, Quota, etag};

/// The root of the tenants.
static CITY: LazyLock<Name> = LazyLock::new(|| {
    // Known at compile time to be a name.
    #[expect(clippy::expect_used, reason = "a constant that is a name")]
    "city".parse().expect("\"city\" is a name")
});

/// Tenants from the root down to one, at most.
pub const MAX_DEPTH: usize = 16;

/// Tenants by name.
pub type Tenants = OrdMap<Name, Tenant>;

/// A bureau, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// Its name, unique in the fabric.
    pub name: Name,
    /// Its name for people.
    pub display: String,
    /// The tenant above it; none for the root.
    pub parent: Option<Name>,
    /// Whom to ask about it, in any form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contacts: Vec<String>,
    /// What it may do at present.
    #[serde(default, skip_serializing_if = "State::is_active")]
    pub state: State,
    /// How much it may have, with all below it.
    #[serde(default, skip_serializing_if = "Quota::is_unlimited")]
    pub quota: Quota,
    /// How much of what the tenant above it may have is kept for it.
    #[serde(default, skip_serializing_if = "Amounts::is_zero")]
    pub reserved: Amounts,
    /// The isolation class that it has of its own; none means that of the nearest tenant above that
    /// has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Name>,
}

/// What a tenant may do at present, with all below it. What runs, runs on in every state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Everything that its quota has room for.
    #[default]
    Active,
    /// Nothing new, and nothing is turned on.
    Suspended,
    /// Nothing new: it is on its way out.
    Closing,
}

/// One thing about a tenant that is to be otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TenantChange {
    /// Its name for people; empty means the name.
    Display(String),
    /// Whom to ask about it.
    Contacts(Vec<String>),
    /// What it may do. From above alone.
    State(State),
    /// How much it may have in one dimension; none means no limit. From above alone.
    Limit(Dimension, Option<u64>),
    /// How much is kept for it in one dimension. From above alone.
    Reserve(Dimension, u64),
    /// Its own isolation class; none inherits. From above alone.
    Isolation(Option<Name>),
}

impl TenantChange {
    /// Whether only whoever governs the tenant above may make it.
    pub const fn is_from_above(&self) -> bool {
        match self {
            Self::Display(_) | Self::Contacts(_) => false,
            Self::State(_) | Self::Limit(..) | Self::Reserve(..) | Self::Isolation(_) => true,
        }
    }
}

impl State {
    /// Whether nothing is kept from it.
    pub fn is_active(&self) -> bool {
        *self == Self::Active
    }

    /// As people say it: a tenant is …
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Closing => "closing",
        }
    }
}

impl Tenant {
    /// A new one, with nothing kept from it and nothing for it.
    pub fn new(name: Name, display: String, parent: Option<Name>) -> Self {
        Self {
            name,
            display,
            parent,
            contacts: Vec::new(),
            state: State::default(),
            quota: Quota::default(),
            reserved: Amounts::ZERO,
            isolation: None,
        }
    }

    /// The root of all tenants.
    pub fn city() -> Self {
        Self::new(CITY.clone(), CITY.to_string(), None)
    }

    /// The same with a change.
    #[must_use]
    pub fn with(mut self, change: &TenantChange) -> Self {
        match change.clone() {
            TenantChange::Display(text) if text.is_empty() => self.display = self.name.to_string(),
            TenantChange::Display(text) => self.display = text,
            TenantChange::Contacts(contacts) => self.contacts = contacts,
            TenantChange::State(state) => self.state = state,
            TenantChange::Limit(which, limit) => {
                let before = self.quota;
                self.quota = Quota::each(|one| if one == which { limit } else { before.get(one) });
            }
            TenantChange::Isolation(class) => self.isolation = class,
            TenantChange::Reserve(which, amount) => {
                let before = self.reserved;
                self.reserved = Amounts::each(|one| {
                    if one == which {
                        amount
                    } else {
                        before.get(one)
                    }
                });
            }
        }
        self
    }

    /// What it is, as one opaque text that changes whenever that does.
    pub fn etag(&self) -> String {
        etag(self)
    }
}

/// The name of the root of the tenants.
pub fn city() -> Name {
    CITY.clone()
}

/// The tenants that are always there.
pub(super) fn first() -> Tenants {
    OrdMap::unit(city(), Tenant::city())
}

/// A tenant and those above it, up to the root. Empty for one that isn't there.
pub fn upwards<'t>(
    tenants: &'t Tenants,
    tenant: &Name,
) -> impl Iterator<Item = &'t Tenant> + use<'t> {
    let first = tenants.get(tenant);
    std::iter::successors(first, |tenant| tenants.get(tenant.parent.as_ref()?)).take(MAX_DEPTH)
}

/// The isolation class in which a tenant's new instances are placed: its own, or that of the nearest
/// tenant above it that has one. Its nodes are those of exactly this class, and those of none for
/// none.
pub fn isolation<'t>(tenants: &'t Tenants, tenant: &Name) -> Option<&'t Name> {
    upwards(tenants, tenant).find_map(|one| one.isolation.as_ref())
}

impl Fabric {
    /// The names of a tenant and those above it, up to the root. None for one that isn't there.
    pub fn upwards<'f>(&'f self, tenant: &Name) -> impl Iterator<Item = &'f Name> + use<'f> {
        upwards(&self.tenants, tenant).map(|tenant| &tenant.name)
    }

    /// The tenants right below one.
    pub fn below<'f>(&'f self, tenant: &'f Name) -> impl Iterator<Item = &'f Tenant> + use<'f> {
        let all = self.tenants.values();
        all.filter(move |one| one.parent.as_ref() == Some(tenant))
    }
}
