//! `kapok user …`

use std::{str::FromStr, time::Duration};

use clap::{Args, Subcommand};
use kapok_proto::fabric::v1::{self as wire, Role};
use kapok_types::Name;

use super::{Request, life, person};

/// What to do with users.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a user, without a credential yet
    ///
    /// They log in with a token (kapok user token) or, given --issuer and --external-subject,
    /// through the identity provider.
    #[command(
        after_long_help = "Roles: system-administrator, security-administrator, auditor, \
        tenant-administrator:TENANT,\ntenant-member:TENANT.\n\nExamples:\n  kapok user create ada \
        --display-name '陈' --grant tenant-administrator:water\n  kapok user create machine/ci \
        --grant tenant-member:water\n  kapok user create eve --grant auditor --issuer \
        https://id.example --external-subject 8f2c"
    )]
    Create(Create),
    /// List users
    #[command(
        visible_alias = "list",
        after_long_help = "Examples:\n  kapok user ls\n  kapok user ls -o json"
    )]
    Ls,
    /// Show one user
    #[command(after_long_help = "Examples:\n  kapok user show ada\n  kapok user show machine/ci")]
    Show {
        /// user/NAME, machine/NAME, or the NAME of a person
        #[arg(value_parser = person)]
        user: String,
    },
    /// Give a user roles
    #[command(
        after_long_help = "Roles: system-administrator, security-administrator, auditor, \
        tenant-administrator:TENANT,\ntenant-member:TENANT.\n\nExample:\n  kapok user grant ada \
        auditor"
    )]
    Grant(Grants),
    /// Take roles from a user
    #[command(after_long_help = "Example:\n  kapok user revoke ada tenant-member:water")]
    Revoke(Grants),
    /// Let a user do nothing, from now on and on open connections; their certificates end
    #[command(after_long_help = "Example:\n  kapok user disable ada --yes")]
    Disable(Confirmed),
    /// Let a disabled user log in again
    #[command(after_long_help = "Example:\n  kapok user enable ada")]
    Enable {
        /// user/NAME, machine/NAME, or the NAME of a person
        #[arg(value_parser = person)]
        user: String,
        /// How the change is named.
        #[command(flatten)]
        request: Request,
    },
    /// Remove a user; their certificates and tokens end
    #[command(after_long_help = "Example:\n  kapok user rm ada --yes")]
    Rm(Confirmed),
    /// Make a token with which a user logs in; prints it once
    #[command(after_long_help = "Example:\n  kapok user token ada --life 30m > ada.token")]
    Token {
        /// user/NAME, machine/NAME, or the NAME of a person
        #[arg(value_parser = person)]
        user: String,
        /// How long it can be used, such as 30m [default: 1h for people, 30d for machines]
        #[arg(long, value_name = "TIME", value_parser = life)]
        life: Option<Duration>,
        /// How the change is named.
        #[command(flatten)]
        request: Request,
    },
}

/// Who a user is to be.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// user/NAME, machine/NAME, or the NAME of a person
    #[arg(value_parser = person)]
    pub(crate) user: String,
    /// Their name for people [default: the name]
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) display_name: String,
    /// A role that they have (can be repeated)
    #[arg(long = "grant", value_name = "ROLE[:TENANT]")]
    pub(crate) grants: Vec<Grant>,
    /// The identity provider that knows them: its issuer URL
    #[arg(long, value_name = "URL", requires = "external_subject")]
    pub(crate) issuer: Option<String>,
    /// Who they are there: its "sub" for them
    #[arg(long, value_name = "SUB", requires = "issuer")]
    pub(crate) external_subject: Option<String>,
    /// How the change is named.
    #[command(flatten)]
    pub(crate) request: Request,
}

/// Whose roles change, and which.
#[derive(Debug, Args)]
pub(crate) struct Grants {
    /// user/NAME, machine/NAME, or the NAME of a person
    #[arg(value_parser = person)]
    pub(crate) user: String,
    /// The roles
    #[arg(required = true, value_name = "ROLE[:TENANT]")]
    pub(crate) roles: Vec<Grant>,
    /// How the change is named.
    #[command(flatten)]
    pub(crate) request: Request,
}

/// Something to be asked about first.
#[derive(Debug, Args)]
pub(crate) struct Confirmed {
    /// user/NAME, machine/NAME, or the NAME of a person
    #[arg(value_parser = person)]
    pub(crate) user: String,
    /// Don't ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// How the change is named.
    #[command(flatten)]
    pub(crate) request: Request,
}

/// A role, and where it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant(pub(crate) wire::Grant);

impl FromStr for Grant {
    /// In words.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (role, tenant) = match text.split_once(':') {
            Some((role, tenant)) => (role, Some(tenant)),
            None => (text, None),
        };
        let known = match role {
            "system-administrator" => Role::SystemAdministrator,
            "security-administrator" => Role::SecurityAdministrator,
            "auditor" => Role::Auditor,
            "tenant-administrator" => Role::TenantAdministrator,
            "tenant-member" => Role::TenantMember,
            _ => {
                return Err(
                    "must be system-administrator, security-administrator, auditor, \
                            tenant-administrator:TENANT or tenant-member:TENANT"
                        .to_owned(),
                );
            }
        };
        let in_tenant = matches!(known, Role::TenantAdministrator | Role::TenantMember);
        let tenant = match (in_tenant, tenant) {
            (true, Some(tenant)) => {
                let name: Result<Name, _> = tenant.parse();
                name.map_err(|wrong| format!("names a bad tenant: it {}", wrong.reason))?
                    .to_string()
            }
            (true, None) => return Err(format!("must have the form {role}:TENANT")),
            (false, None) => String::new(),
            (false, Some(_)) => return Err(format!("{role} is the fabric's and has no tenant")),
        };
        Ok(Self(wire::Grant {
            role: known.into(),
            tenant,
        }))
    }
}
