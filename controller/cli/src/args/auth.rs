//! `kapok auth …`

use clap::Subcommand;

use super::person;

/// What to ask about rights.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say whether somebody may do something, and which policies decide
    #[command(
        after_long_help = "Examples:\n  kapok auth why ada instance.delete instance/web\n  kapok auth \
        why me node.cordon node/rack1-a\n  kapok auth why machine/ci image.import"
    )]
    Why {
        /// user/NAME, machine/NAME, the NAME of a person, or me
        #[arg(value_parser = principal)]
        principal: String,
        /// The action, such as instance.delete; an unknown one is answered with the list
        action: String,
        /// instance/NAME, node/NAME, image/NAME, system/NAME, flavor/NAME, tenant/NAME or user/NAME
        /// [default: the fabric]
        #[arg(default_value = "", hide_default_value = true)]
        object: String,
    },
}

/// Reads who is meant; the caller is the empty text.
fn principal(text: &str) -> Result<String, String> {
    if text == "me" {
        Ok(String::new())
    } else {
        person(text)
    }
}
