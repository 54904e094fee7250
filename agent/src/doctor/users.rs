//! The agent's user, as the server's own files know users: what another program may do is judged
//! without becoming it.

use std::{
    fs::Metadata,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
};

use kapok_health::{Failure, Host};
use kapok_helper::USER;

/// A user, and the groups that it is in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    /// Numbers of all its groups, and the names of those that have one.
    gids: Vec<u32>,
    names: Vec<String>,
}

/// What is to be done with a file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Act {
    Read,
    Write,
}

impl Account {
    /// The agent's; none if there is no such user.
    ///
    /// # Errors
    ///
    /// The files can't be read.
    pub(super) fn of_agent(host: &Host) -> Result<Option<Self>, Failure> {
        let users = host.text("/etc/passwd")?.unwrap_or_default();
        let found = users.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            match fields[..] {
                [name, _, uid, gid, ..] if name == USER => {
                    Some((uid.parse::<u32>().ok()?, gid.parse::<u32>().ok()?))
                }
                _ => None,
            }
        });
        let Some((uid, gid)) = found else {
            return Ok(None);
        };
        let groups = host.text("/etc/group")?.unwrap_or_default();
        let (mut gids, mut names) = (vec![gid], Vec::new());
        for line in groups.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, number, members, ..] = fields[..] else {
                continue;
            };
            let Ok(number) = number.parse() else {
                continue;
            };
            if number == gid || members.split(',').any(|member| member == USER) {
                gids.push(number);
                names.push(name.to_owned());
            }
        }
        Ok(Some(Self { uid, gids, names }))
    }

    /// Whether it is in a group.
    pub(super) fn is_in(&self, group: &str) -> bool {
        self.names.iter().any(|name| name == group)
    }

    /// Whether the mode of a file lets it do this.
    pub(super) fn may(&self, act: Act, file: &Metadata) -> bool {
        let bit = match act {
            Act::Read => 4,
            Act::Write => 2,
        };
        let shift = if file.uid() == self.uid {
            6
        } else if self.gids.contains(&file.gid()) {
            3
        } else {
            0
        };
        (file.permissions().mode() >> shift) & bit != 0
    }
}
