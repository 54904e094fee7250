//! Settings from flags and environment: a flag wins, an empty variable counts as unset.

use std::{ffi::OsString, time::Duration};

use tonic::transport::Uri;

use crate::{args::Global, error::Error, output::Format};

/// Where a controller listens unless told otherwise.
pub(crate) const DEFAULT_SERVER: &str = "http://127.0.0.1:7700";

/// What holds for the whole run.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The controller's URL.
    pub(crate) server: Uri,
    /// How answers are printed.
    pub(crate) format: Format,
    /// Whether progress and remarks are left out.
    pub(crate) quiet: bool,
    /// How long to wait, if the person said so.
    pub(crate) timeout: Option<Duration>,
}

impl Settings {
    /// Puts flags and environment together; `env` looks a variable up.
    ///
    /// # Errors
    ///
    /// A variable with a bad value that no flag overrides.
    pub(crate) fn resolve(
        global: &Global,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, Error> {
        Ok(Self {
            server: match &global.server {
                Some(server) => server.clone(),
                None => match variable("KAPOK_SERVER", &env, server)? {
                    Some(server) => server,
                    None => Uri::from_static(DEFAULT_SERVER),
                },
            },
            format: match global.output {
                Some(format) => format,
                None => variable("KAPOK_OUTPUT", &env, Format::parse)?.unwrap_or(Format::Table),
            },
            quiet: global.quiet,
            timeout: global.timeout,
        })
    }
}

fn variable<T>(
    name: &'static str,
    env: impl Fn(&str) -> Option<OsString>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, Error> {
    let Some(value) = env(name).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let text = value.to_string_lossy();
    match parse(&text) {
        Ok(value) => Ok(Some(value)),
        Err(reason) => Err(Error::Config {
            name,
            value: text.into_owned(),
            reason,
        }),
    }
}

/// Reads the controller's URL.
///
/// # Errors
///
/// In words, when it isn't `http://HOST:PORT`.
pub(crate) fn server(text: &str) -> Result<Uri, String> {
    let form = "must have the form http://HOST:PORT";
    let uri: Uri = text.parse().map_err(|_| form.to_owned())?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(format!("{form}; TLS isn't supported yet")),
        _ => return Err(form.to_owned()),
    }
    let plain_path = matches!(uri.path(), "" | "/") && uri.query().is_none();
    let host = uri
        .authority()
        .is_some_and(|host| !host.as_str().contains('@'));
    if plain_path && host {
        Ok(uri)
    } else {
        Err(form.to_owned())
    }
}

/// Reads a span of time such as `30s` or `5m`.
///
/// # Errors
///
/// In words, when it isn't one, or is zero.
pub(crate) fn timeout(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than zero".to_owned()),
        Ok(span) => Ok(span),
        Err(error) => Err(format!("must be a span of time such as 30s or 5m: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit;

    fn resolve(global: &Global, vars: &[(&str, &str)]) -> Result<Settings, Error> {
        Settings::resolve(global, |name| {
            let found = vars.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_an_empty_variable_is_unset() {
        let settings = resolve(&Global::default(), &[("KAPOK_SERVER", "")]).unwrap();
        assert_eq!(settings.server, Uri::from_static(DEFAULT_SERVER));
        assert_eq!(settings.format, Format::Table);
        let vars = [("KAPOK_SERVER", "http://a:1"), ("KAPOK_OUTPUT", "json")];
        let settings = resolve(&Global::default(), &vars).unwrap();
        assert_eq!(settings.server, Uri::from_static("http://a:1"));
        assert_eq!(settings.format, Format::Json);
        let flags = Global {
            server: Some(server("http://b:2").unwrap()),
            output: Some(Format::Yaml),
            ..Global::default()
        };
        let bad = [("KAPOK_SERVER", "nonsense"), ("KAPOK_OUTPUT", "xml")];
        let settings = resolve(&flags, &bad).unwrap();
        assert_eq!(settings.server, Uri::from_static("http://b:2"));
        assert_eq!(settings.format, Format::Yaml);
    }

    #[test]
    fn a_bad_variable_is_named_with_its_own_exit_code() {
        for (name, value) in [("KAPOK_SERVER", "nonsense"), ("KAPOK_OUTPUT", "xml")] {
            let report = resolve(&Global::default(), &[(name, value)])
                .unwrap_err()
                .report();
            assert_eq!(report.exit, exit::CONFIG);
            assert!(
                report.message.contains(name) && report.message.contains(value),
                "{report:?}"
            );
        }
    }

    #[test]
    fn only_plain_http_urls_are_servers() {
        for good in [
            "http://127.0.0.1:7700",
            "http://[::1]:7700/",
            "http://controller:7700",
        ] {
            assert!(server(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "localhost:7700",
            "https://a:1",
            "ftp://a:1",
            "http://",
            "http://a/x",
            "http://u@a:1",
        ] {
            assert!(
                server(bad).unwrap_err().contains("http://HOST:PORT"),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_timeout_is_positive() {
        assert_eq!(timeout("5m"), Ok(Duration::from_mins(5)));
        for bad in ["0s", "", "5", "-1s", "soon"] {
            assert!(timeout(bad).is_err(), "{bad}");
        }
    }
}
