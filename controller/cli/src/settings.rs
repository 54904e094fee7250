//! Settings from flags and environment: a flag wins, an empty variable counts as unset.

use std::{
    ffi::OsString, fmt, net::Ipv6Addr, os::unix::ffi::OsStrExt as _, path::PathBuf, str::FromStr,
    time::Duration,
};

use kapok_telemetry::{Export, TraceContext};
use kapok_types::Name;

use crate::{args::Global, error::Error, output::Format};

/// The trace that this command is a part of, as other programs hand it over.
const PARENT: &str = "TRACEPARENT";
/// Where spans are exported, as other programs read it too.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// What holds for the whole run.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Where controllers listen, if the person said so; tried in this order.
    pub(crate) servers: Option<Addresses>,
    /// The file of the credential, if the person named one.
    pub(crate) credential: Option<PathBuf>,
    /// The context, if the person named one.
    pub(crate) context: Option<Name>,
    /// The folder of the contexts, if there can be one.
    pub(crate) folder: Option<PathBuf>,
    /// How answers are printed.
    pub(crate) format: Format,
    /// Whether progress and remarks are left out.
    pub(crate) quiet: bool,
    /// How long to wait, if the person said so.
    pub(crate) timeout: Option<Duration>,
    /// Whether the trace's id is printed.
    pub(crate) show_trace: bool,
    /// The trace of this command: until it runs, what it is a part of.
    pub(crate) trace: Option<TraceContext>,
    /// Where spans are exported. What can't be read is meant for others.
    pub(crate) export: Option<Export>,
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
        let path = |name| env(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        // A context that was named on this command line beats a file that the environment names.
        let named_credential = match &global.context {
            Some(_) => None,
            None => path("KAPOK_CREDENTIAL"),
        };
        let home = || Some(path("HOME")?.join(".config"));
        let config = path("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
        Ok(Self {
            servers: match &global.server {
                Some(servers) => Some(servers.clone()),
                None => variable("KAPOK_SERVER", &env, str::parse)?,
            },
            credential: global.credential.clone().or(named_credential),
            context: match &global.context {
                Some(context) => Some(context.clone()),
                None => variable("KAPOK_CONTEXT", &env, |text| {
                    text.parse()
                        .map_err(|wrong: kapok_types::Violation| wrong.reason)
                })?,
            },
            folder: config.or_else(home).map(|folder| folder.join("kapok")),
            format: match global.output {
                Some(format) => format,
                None => variable("KAPOK_OUTPUT", &env, Format::parse)?.unwrap_or(Format::Table),
            },
            quiet: global.quiet,
            timeout: global.timeout,
            show_trace: global.trace,
            trace: env(PARENT).and_then(|text| TraceContext::read(text.as_bytes())),
            export: env(ENDPOINT)
                .and_then(|text| text.into_string().ok())
                .and_then(Export::to),
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

/// Where the controllers of one fabric listen: `HOST:PORT`, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Addresses(Vec<String>);

impl Addresses {
    /// In the order in which they are tried.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

impl FromStr for Addresses {
    /// In words.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let one = |text: &str| address(text.trim());
        text.split(',').map(one).collect::<Result<_, _>>().map(Self)
    }
}

fn address(text: &str) -> Result<String, String> {
    let form = || "must have the form HOST:PORT".to_owned();
    if text.starts_with("http://") {
        return Err(format!(
            "{}; http:// can't be, because controllers speak TLS only",
            form()
        ));
    }
    let bare = text.strip_prefix("https://").unwrap_or(text);
    let bare = bare.strip_suffix('/').unwrap_or(bare);
    let (host, port) = bare.rsplit_once(':').ok_or_else(form)?;
    let good_host = if let Some(rest) = host.strip_prefix('[') {
        rest.strip_suffix(']')
            .is_some_and(|host| host.parse::<Ipv6Addr>().is_ok())
    } else {
        let known = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
        !host.is_empty() && host.chars().all(known)
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let good_port = digits && port.parse::<u16>().is_ok_and(|port| port > 0);
    if good_host && good_port {
        Ok(bare.to_owned())
    } else {
        Err(form())
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
    use std::path::Path;

    use super::*;
    use crate::exit;

    fn resolve(global: &Global, vars: &[(&str, &str)]) -> Result<Settings, Error> {
        Settings::resolve(global, |name| {
            let found = vars.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    fn at(text: &str) -> Addresses {
        text.parse().unwrap()
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_an_empty_variable_is_unset() {
        let settings = resolve(&Global::default(), &[("KAPOK_SERVER", "")]).unwrap();
        assert_eq!(settings.servers, None);
        assert_eq!(settings.format, Format::Table);
        let vars = [
            ("KAPOK_SERVER", "a:1"),
            ("KAPOK_OUTPUT", "json"),
            ("KAPOK_CREDENTIAL", "/c.pem"),
        ];
        let settings = resolve(&Global::default(), &vars).unwrap();
        assert_eq!(settings.servers, Some(at("a:1")));
        assert_eq!(settings.format, Format::Json);
        assert_eq!(settings.credential.as_deref(), Some(Path::new("/c.pem")));
        let flags = Global {
            server: Some(at("b:2,c:3")),
            output: Some(Format::Yaml),
            context: Some("city".parse().unwrap()),
            ..Global::default()
        };
        let bad = [
            ("KAPOK_SERVER", "nonsense"),
            ("KAPOK_OUTPUT", "xml"),
            ("KAPOK_CREDENTIAL", "/c.pem"),
        ];
        let settings = resolve(&flags, &bad).unwrap();
        assert_eq!(settings.servers, Some(at("b:2,c:3")));
        assert_eq!(settings.format, Format::Yaml);
        assert_eq!(settings.credential, None);
    }

    #[test]
    fn a_trace_goes_on_and_what_is_no_trace_is_none() {
        let given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let vars = [(PARENT, given), (ENDPOINT, "http://127.0.0.1:4317")];
        let settings = resolve(&Global::default(), &vars).unwrap();
        assert_eq!(settings.trace.unwrap().to_string(), given);
        assert_eq!(settings.export.unwrap().endpoint, "http://127.0.0.1:4317");
        let long = "0".repeat(10_240);
        for bad in ["", "garbage", &long] {
            let vars = [(PARENT, bad), (ENDPOINT, bad)];
            let settings = resolve(&Global::default(), &vars).unwrap();
            assert_eq!((settings.trace, settings.export), (None, None));
        }
    }

    #[test]
    fn contexts_live_in_the_configuration_folder() {
        for (vars, folder) in [
            (
                &[("XDG_CONFIG_HOME", "/x"), ("HOME", "/h")][..],
                Some("/x/kapok"),
            ),
            (
                &[("XDG_CONFIG_HOME", "x"), ("HOME", "/h")],
                Some("/h/.config/kapok"),
            ),
            (&[("HOME", "/h")], Some("/h/.config/kapok")),
            (&[], None),
        ] {
            let settings = resolve(&Global::default(), vars).unwrap();
            assert_eq!(settings.folder.as_deref(), folder.map(Path::new));
        }
    }

    #[test]
    fn a_bad_variable_is_named_with_its_own_exit_code() {
        for (name, value) in [
            ("KAPOK_SERVER", "nonsense"),
            ("KAPOK_OUTPUT", "xml"),
            ("KAPOK_CONTEXT", "../x"),
        ] {
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
    fn addresses_are_hosts_with_ports() {
        for (text, seen) in [
            ("127.0.0.1:7700", "127.0.0.1:7700"),
            ("[::1]:7700", "[::1]:7700"),
            ("https://controller:7700/", "controller:7700"),
            ("a.example:1, b:2", "a.example:1,b:2"),
        ] {
            assert_eq!(text.parse::<Addresses>().unwrap().to_string(), seen);
        }
        for bad in [
            "",
            "a",
            "a:",
            ":1",
            "a:0",
            "a:65536",
            "a:+1",
            "ftp://a:1",
            "https://",
            "a/x:1",
            "u@a:1",
            "::1:7700",
            "[a]:1",
            "a:1,",
            "a b:1",
        ] {
            let refused = bad.parse::<Addresses>().unwrap_err();
            assert!(refused.contains("HOST:PORT"), "{bad}: {refused}");
        }
        let plain = "http://a:1".parse::<Addresses>().unwrap_err();
        assert!(plain.contains("TLS only"), "{plain}");
    }

    #[test]
    fn a_timeout_is_positive() {
        assert_eq!(timeout("5m"), Ok(Duration::from_mins(5)));
        for bad in ["0s", "", "5", "-1s", "soon"] {
            assert!(timeout(bad).is_err(), "{bad}");
        }
    }
}
