//! `kapok context …` and `kapok logout`

use kapok_types::{Env as _, env::System};

use crate::{
    args::context::Command,
    contexts::{self, Contexts, Source},
    error::Error,
    output::Out,
    settings::Settings,
    view::context::Context,
};

/// Does it.
pub(super) fn run(settings: &Settings, out: &mut Out, command: Command) -> Result<(), Error> {
    let now = System::new().now();
    let contexts = Contexts::new(settings)?;
    let current = contexts.current();
    match command {
        Command::Ls => {
            let (mut found, mut errors) = (Vec::new(), Vec::new());
            for name in contexts.names()? {
                match contexts.read(&name) {
                    Ok(Some(credential)) => {
                        let source = Source::Context(name.clone(), contexts.path(&name));
                        found.push(Context::new(&credential, &source, current.as_ref()));
                    }
                    Ok(None) => {}
                    Err(error) => errors.push(error),
                }
            }
            out.list(&found, now)?;
            Error::all(errors)
        }
        Command::Use { name } => {
            if contexts.read(&name)?.is_none() {
                return Err(unknown(&name));
            }
            contexts.select(&name)?;
            if out.format().is_for_people() {
                out.line(&format!("{name}: used from now on"))
            } else {
                Ok(())
            }
        }
        Command::Show { name: Some(name) } => {
            let credential = contexts.read(&name)?.ok_or_else(|| unknown(&name))?;
            let source = Source::Context(name.clone(), contexts.path(&name));
            out.one(&Context::new(&credential, &source, current.as_ref()), now)
        }
        Command::Show { name: None } => {
            let (credential, source) = contexts::credential(settings)?;
            out.one(&Context::new(&credential, &source, current.as_ref()), now)
        }
    }
}

fn unknown(name: &kapok_types::Name) -> Error {
    Error::NotLoggedIn {
        reason: format!("there is no context {name}; kapok context ls lists those there are"),
        enroll: None,
    }
}

/// Forgets the chosen context.
pub(super) fn logout(settings: &Settings, out: &mut Out) -> Result<(), Error> {
    if let Some(path) = &settings.credential {
        return Err(Error::Usage {
            message: format!("the credential is the file {}, no context", path.display()),
            hint: "remove the file, or name a context with --context".to_owned(),
        });
    }
    let contexts = Contexts::new(settings)?;
    let name = contexts.chosen().ok_or_else(|| Error::NotLoggedIn {
        reason: "there is nothing to forget".to_owned(),
        enroll: None,
    })?;
    if !contexts.remove(&name)? {
        return Err(unknown(&name));
    }
    if out.format().is_for_people() {
        out.remark("its certificate lives on until it ends; kapok certificate revoke ends it now");
        out.line(&format!("{name}: forgotten"))
    } else {
        Ok(())
    }
}
