//! `kapok group …`

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use kapok_proto::fabric::v1::{GroupDomain, GroupKind};
use kapok_types::Name;

use super::Request;

/// What to do with groups.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a group: instances that are to be apart from each other, or together
    ///
    /// kapok instance create --group puts instances into it.
    #[command(
        after_long_help = "Examples:\n  kapok group create web --tenant water --apart rack\n  kapok \
        group create cache --together node --soft\n  kapok instance create web --count 3 --group web \
        --image debian-12 --memory 2GiB"
    )]
    Create(Create),
    /// List groups
    #[command(
        visible_alias = "list",
        after_long_help = "Examples:\n  kapok group ls\n  kapok group ls --tenant water\n  kapok group \
        ls -o json | jq -r '.[] | select(.kept | not) | .name'"
    )]
    Ls {
        /// Only those of this tenant and below
        #[arg(long)]
        tenant: Option<Name>,
    },
    /// Show one group: its members, where they are, and whether it is kept
    #[command(after_long_help = "Example:\n  kapok group show web")]
    Show {
        /// Its name, or TENANT/NAME
        group: String,
    },
    /// Remove a group that has no members
    #[command(after_long_help = "Example:\n  kapok group rm web")]
    Rm {
        /// Its name, or TENANT/NAME
        group: String,
        /// How the change is named.
        #[command(flatten)]
        request: Request,
    },
}

/// What a group is to be.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("kind").required(true).args(["apart", "together"]))]
pub(crate) struct Create {
    /// Its name: a-z, 0-9 and hyphens, at most 63
    pub(crate) name: Name,
    /// The tenant that it is to belong to [default: your home tenant]
    #[arg(long)]
    pub(crate) tenant: Option<Name>,
    /// No two of its members share one of these
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) apart: Option<Domain>,
    /// All of its members share one of these
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) together: Option<Domain>,
    /// Only prefer nodes where it is so, and take others where there is none
    #[arg(long)]
    pub(crate) soft: bool,
    /// How the change is named.
    #[command(flatten)]
    pub(crate) request: Request,
}

/// What members share, or don't, as people type it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Domain {
    /// A node
    Node,
    /// A rack; nodes of a room whose rack isn't named count as one
    Rack,
    /// A room; nodes whose room isn't named count as one
    Room,
}

impl Create {
    /// What its members are to be to each other.
    pub(crate) fn kind(&self) -> (GroupKind, GroupDomain) {
        let domain = |domain: Option<Domain>| domain.map_or(GroupDomain::Unspecified, Into::into);
        match self.apart {
            Some(_) => (GroupKind::Apart, domain(self.apart)),
            None => (GroupKind::Together, domain(self.together)),
        }
    }
}

impl From<Domain> for GroupDomain {
    fn from(domain: Domain) -> Self {
        match domain {
            Domain::Node => Self::Node,
            Domain::Rack => Self::Rack,
            Domain::Room => Self::Room,
        }
    }
}
