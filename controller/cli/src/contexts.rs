//! The contexts: one credential file for each fabric or role that a person uses, and which of them
//! is meant unless told otherwise.
//!
//! ```text
//! ~/.config/kapok/            ($XDG_CONFIG_HOME)
//!   contexts/NAME.pem         a credential, see [`crate::credential`]
//!   current                   the NAME that is used
//! ```

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use kapok_types::Name;

use crate::{
    credential::{Credential, probe_private, write_private},
    error::Error,
    settings::Settings,
};

/// The contexts of the person who runs this.
#[derive(Debug)]
pub(crate) struct Contexts {
    folder: PathBuf,
    /// The one that was asked for on the command line or in the environment.
    asked: Option<Name>,
}

/// Where a credential came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file that the person named.
    File(PathBuf),
    /// A context, and its file.
    Context(Name, PathBuf),
}

impl Source {
    /// Its file.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Context(_, path) => path,
        }
    }

    /// Makes sure that a credential of this fabric can be stored here, before one is asked for:
    /// what pays for it may work only once.
    ///
    /// # Errors
    ///
    /// Something else is there, or the file system's.
    pub(crate) fn prepare(&self, fabric: &Name) -> Result<(), Error> {
        self.make_folder()
            .and_then(|()| probe_private(self.path()))
            .map_err(|error| Error::io("can't store a credential", &error))?;
        match self.present()? {
            Some(there) if there.fabric != *fabric => {
                Err(self.taken(&there, &format!("{fabric}'s is asked for")))
            }
            _ => Ok(()),
        }
    }

    /// Stores a credential here. Only an earlier one of the same subject is replaced.
    ///
    /// # Errors
    ///
    /// Something else is there, or the file system's.
    pub(crate) fn store(&self, credential: &Credential) -> Result<(), Error> {
        let ours = &credential.certificate.identity;
        if let Some(there) = self.present()?
            && there.certificate.identity != *ours
        {
            let here = format!("this credential is {}'s of {}", ours.subject, ours.fabric);
            return Err(self.taken(&there, &here));
        }
        self.make_folder()
            .and_then(|()| credential.write(self.path()))
            .map_err(|error| Error::io("can't store the credential", &error))
    }

    /// The credential that is there by now.
    ///
    /// # Errors
    ///
    /// What is there is none, or can't be read.
    pub(crate) fn present(&self) -> Result<Option<Credential>, Error> {
        let path = self.path();
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            _ => Credential::read(path).map(Some),
        }
    }

    fn make_folder(&self) -> io::Result<()> {
        // A file's folder is the person's to make.
        let Self::Context(_, path) = self else {
            return Ok(());
        };
        let folder = path.parent().unwrap_or(path);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
    }

    fn taken(&self, there: &Credential, ours: &str) -> Error {
        let theirs = &there.certificate.identity;
        let (what, hint) = match self {
            Self::File(path) => (path.display().to_string(), "name another file"),
            Self::Context(name, _) => (
                format!("the context {name}"),
                "choose another name with --context, or kapok logout first",
            ),
        };
        Error::Usage {
            message: format!(
                "{what} belongs to {} of {}, and {ours}",
                theirs.subject, theirs.fabric
            ),
            hint: hint.to_owned(),
        }
    }
}

/// Where a credential of this fabric goes: into the file or the context that the settings name, or
/// into the context that is called like the fabric.
///
/// # Errors
///
/// There is no folder for contexts.
pub(crate) fn place(settings: &Settings, fabric: &Name) -> Result<Source, Error> {
    match &settings.credential {
        Some(path) => Ok(Source::File(path.clone())),
        None => Ok(Contexts::new(settings)?.place(fabric)),
    }
}

impl Contexts {
    /// Those of these settings.
    ///
    /// # Errors
    ///
    /// There is no folder for them.
    pub(crate) fn new(settings: &Settings) -> Result<Self, Error> {
        let folder = settings.folder.clone().ok_or_else(|| Error::NotLoggedIn {
            reason: "there is no folder for credentials: HOME isn't set".to_owned(),
            enroll: None,
        })?;
        Ok(Self {
            folder,
            asked: settings.context.clone(),
        })
    }

    /// The names of all, sorted.
    ///
    /// # Errors
    ///
    /// The folder can't be read.
    pub(crate) fn names(&self) -> Result<Vec<Name>, Error> {
        let folder = self.folder.join("contexts");
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.and_then(Iterator::collect::<io::Result<Vec<_>>>),
        };
        let entries = entries
            .map_err(|error| Error::io(format!("can't read {}", folder.display()), &error))?;
        let name = |entry: &fs::DirEntry| {
            let file = entry.file_name();
            file.to_str()?.strip_suffix(".pem")?.parse().ok()
        };
        let mut names: Vec<Name> = entries.iter().filter_map(name).collect();
        names.sort();
        Ok(names)
    }

    /// The one that is meant: asked for, or current.
    pub(crate) fn chosen(&self) -> Option<Name> {
        self.asked.clone().or_else(|| self.current())
    }

    /// The one that is used unless told otherwise.
    pub(crate) fn current(&self) -> Option<Name> {
        let text = fs::read_to_string(self.folder.join("current")).ok()?;
        text.trim().parse().ok()
    }

    /// Where a context's file is.
    pub(crate) fn path(&self, name: &Name) -> PathBuf {
        self.folder.join("contexts").join(format!("{name}.pem"))
    }

    /// Reads a context, if there is one of that name.
    ///
    /// # Errors
    ///
    /// As [`Credential::read`].
    pub(crate) fn read(&self, name: &Name) -> Result<Option<Credential>, Error> {
        Source::Context(name.clone(), self.path(name)).present()
    }

    /// The context that was asked for, or the one called like the fabric.
    fn place(&self, fabric: &Name) -> Source {
        let name = self.asked.clone().unwrap_or(fabric.clone());
        let path = self.path(&name);
        Source::Context(name, path)
    }

    /// Stores a credential and makes it the current one. Its name is the one that was asked for,
    /// or the fabric's.
    ///
    /// # Errors
    ///
    /// The name is taken by somebody else; the file system's.
    pub(crate) fn store(&self, credential: &Credential) -> Result<Source, Error> {
        let place = self.place(&credential.fabric);
        place.store(credential)?;
        if let Source::Context(name, _) = &place {
            self.select(name)?;
        }
        Ok(place)
    }

    /// Makes a context the current one.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(crate) fn select(&self, name: &Name) -> Result<(), Error> {
        write_private(&self.folder.join("current"), format!("{name}\n").as_bytes())
            .map_err(|error| Error::io("can't choose the context", &error))
    }

    /// Removes a context, if it is there.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(crate) fn remove(&self, name: &Name) -> Result<bool, Error> {
        if self.current().as_ref() == Some(name) {
            let _ = fs::remove_file(self.folder.join("current"));
        }
        match fs::remove_file(self.path(name)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("can't remove the credential", &error)),
        }
    }
}

/// The credential that the settings mean, and where it came from.
///
/// # Errors
///
/// There is none, or it can't be read.
pub(crate) fn credential(settings: &Settings) -> Result<(Credential, Source), Error> {
    if let Some(path) = &settings.credential {
        return Ok((Credential::read(path)?, Source::File(path.clone())));
    }
    let contexts = Contexts::new(settings)?;
    let none = |reason: String| Error::NotLoggedIn {
        reason,
        enroll: None,
    };
    let name = contexts
        .chosen()
        .ok_or_else(|| none("there is no credential".to_owned()))?;
    let credential = contexts
        .read(&name)?
        .ok_or_else(|| none(format!("there is no context {name}")))?;
    let path = contexts.path(&name);
    Ok((credential, Source::Context(name, path)))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, time::Duration};

    use super::*;
    use crate::{args::Global, credential::tests::sample, exit};

    fn settings(folder: &Path, context: Option<&str>) -> Settings {
        let global = Global {
            context: context.map(|name| name.parse().unwrap()),
            ..Global::default()
        };
        let folder = folder.as_os_str().to_owned();
        Settings::resolve(&global, |name| {
            (name == "XDG_CONFIG_HOME").then(|| folder.clone())
        })
        .unwrap()
    }

    #[test]
    fn contexts_are_stored_chosen_and_removed() {
        let home = tempfile::tempdir().unwrap();
        let meant = |context| settings(home.path(), context);
        let missing = credential(&meant(None)).unwrap_err().report();
        assert_eq!(missing.exit, exit::NOT_ALLOWED);
        assert!(missing.hint.unwrap().contains("kapok login"));

        let hours = Duration::from_hours(1);
        let (ada, root) = (sample("user/ada", hours), sample("user/root", hours));
        let contexts = Contexts::new(&meant(None)).unwrap();
        let city = contexts.store(&ada).unwrap();
        assert!(matches!(&city, Source::Context(name, _) if name.as_str() == "city"));
        let folder = home.path().join("kapok/contexts");
        let mode = fs::metadata(folder).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        // The same person again is a renewal; somebody else needs a name of their own.
        contexts.store(&sample("user/ada", hours)).unwrap();
        let taken = contexts.store(&root).unwrap_err().report();
        assert!(taken.message.contains("user/ada"), "{taken:?}");
        let contexts = Contexts::new(&meant(Some("root"))).unwrap();
        contexts.store(&root).unwrap();
        assert_eq!(contexts.names().unwrap().len(), 2);
        // Nor is what can't be read replaced, nor what is no credential.
        let file = Source::File(home.path().join("notes.txt"));
        fs::write(file.path(), "notes").unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o600)).unwrap();
        assert!(file.prepare(&ada.fabric).is_err() && file.store(&ada).is_err());
        fs::set_permissions(city.path(), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(city.prepare(&ada.fabric).is_err() && city.store(&ada).is_err());
        fs::set_permissions(city.path(), fs::Permissions::from_mode(0o600)).unwrap();
        city.prepare(&ada.fabric).unwrap();
        assert!(city.prepare(&"town".parse().unwrap()).is_err());
        let nowhere = Source::File(home.path().join("no/such/folder"));
        assert!(nowhere.prepare(&ada.fabric).is_err());

        let subject = |context| {
            let (credential, source) = credential(&meant(context)).unwrap();
            assert!(source.path().exists());
            credential.certificate.identity.subject.to_string()
        };
        assert_eq!(subject(None), "user/root");
        assert_eq!(subject(Some("city")), "user/ada");
        let root: Name = "root".parse().unwrap();
        assert!(contexts.remove(&root).unwrap() && !contexts.remove(&root).unwrap());
        assert_eq!(contexts.current(), None);
        let gone = credential(&meant(Some("root"))).unwrap_err().report();
        assert!(gone.message.contains("no context root"), "{gone:?}");
    }
}
