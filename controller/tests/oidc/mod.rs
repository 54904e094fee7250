//! A real, certified identity provider on loopback, and a browser that logs in there.
//!
//! The provider is npm's `oidc-provider`, which `cargo xtask setup --dev` installs below the build
//! folder. Where it or Node.js is missing, [`Site::start`] says so and the test skips.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::Arc,
};

use openidconnect::url::Url;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use reqwest::{Method, StatusCode, header, redirect};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// An authority that vouches for the providers of one test, and the folder that holds its files.
pub struct Site {
    folder: tempfile::TempDir,
    module: PathBuf,
}

/// A running provider; gone when dropped.
pub struct Provider {
    pub issuer: String,
    process: Child,
    // Its end ends the provider, even when this process is killed.
    stdin: Option<ChildStdin>,
}

/// What varies.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// 0: any.
    pub port: u16,
    pub token_life_s: u32,
    /// How its keys are named.
    pub keys: &'a str,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            port: 0,
            token_life_s: 3600,
            keys: "first",
        }
    }
}

impl Site {
    /// A site, if this machine can run one.
    pub fn new() -> Option<Self> {
        // The build folder, whatever it is called: tests run below it.
        let program = env::current_exe().unwrap();
        let beside = program
            .ancestors()
            .map(|folder| folder.join("oidc/node_modules/oidc-provider"));
        let usual = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .map(|folder| folder.join("target/oidc/node_modules/oidc-provider"));
        let Some(module) = beside.chain(usual).find(|module| module.is_dir()) else {
            eprintln!("SKIP: oidc-provider is missing; cargo xtask setup --dev installs it");
            return None;
        };
        let node = Command::new("node").arg("--version").output();
        if !node.is_ok_and(|output| output.status.success()) {
            eprintln!("SKIP: Node.js is missing");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let authority = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&authority).unwrap();
        let issuer = Issuer::new(params, authority);
        let key = KeyPair::generate().unwrap();
        let server = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let server = server.signed_by(&key, &issuer).unwrap();
        for (name, content) in [
            ("ca.pem", certificate.pem()),
            ("cert.pem", server.pem()),
            ("key.pem", key.serialize_pem()),
        ] {
            fs::write(folder.path().join(name), content).unwrap();
        }
        Some(Self { folder, module })
    }

    /// The file with the authority that vouches for the providers.
    pub fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Starts a provider and waits until it listens.
    pub fn start(&self, options: Options) -> Provider {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oidc/provider.mjs");
        let script = Path::new(script);
        let script = if script.exists() {
            script.to_owned()
        } else {
            // From the command's tests.
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/oidc/provider.mjs")
        };
        let mut process = Command::new("node")
            .arg(script)
            .env("OIDC_MODULE", &self.module)
            .env("OIDC_PORT", options.port.to_string())
            .env("OIDC_TTL", options.token_life_s.to_string())
            .env("OIDC_KEYS", options.keys)
            .env("OIDC_CERT", self.folder.path().join("cert.pem"))
            .env("OIDC_KEY", self.folder.path().join("key.pem"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdin = process.stdin.take();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        // Its end, if it can't start, ends this loop as well.
        let issuer = stdout
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("issuer ").map(str::to_owned));
        let provider = Provider {
            issuer: issuer.unwrap_or_default(),
            process,
            stdin,
        };
        assert!(!provider.issuer.is_empty(), "the provider didn't start");
        provider
    }
}

impl Provider {
    /// Where it listens.
    pub fn port(&self) -> u16 {
        Url::parse(&self.issuer).unwrap().port().unwrap()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An HTTP client that trusts the site's authority and follows nothing.
pub fn http(authority: &Path) -> reqwest::Client {
    let mut roots = RootCertStore::empty();
    for one in CertificateDer::pem_file_iter(authority).unwrap() {
        roots.add(one.unwrap()).unwrap();
    }
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let tls = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder()
        .use_preconfigured_tls(tls)
        .redirect(redirect::Policy::none())
        .build()
        .unwrap()
}

/// Logs `person` in at the page that `url` leads to, consents, and returns where the provider
/// sends the browser then: the client's redirect URL with the code.
pub async fn log_in(http: &reqwest::Client, url: Url, person: &str) -> Url {
    let origin = url.origin();
    let mut cookies: BTreeMap<String, String> = BTreeMap::new();
    let mut next = (Method::GET, url, String::new());
    // Auth, login page, login, auth, consent page, consent, auth: with some room.
    for _ in 0..12 {
        let (method, at, form) = next;
        let jar: Vec<_> = cookies.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let answer = http
            .request(method, at.clone())
            .header(header::COOKIE, jar.join("; "))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form)
            .send()
            .await
            .unwrap();
        for cookie in answer.headers().get_all(header::SET_COOKIE) {
            let pair = cookie.to_str().unwrap().split(';').next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            cookies.insert(name.to_owned(), value.to_owned());
        }
        next = if answer.status() == StatusCode::OK {
            let page = answer.text().await.unwrap();
            let action = page.split("action=\"").nth(1).expect(&page);
            let action = at.join(action.split('"').next().unwrap()).unwrap();
            let form = if page.contains("value=\"login\"") {
                format!("prompt=login&login={person}&password=any")
            } else {
                "prompt=consent".to_owned()
            };
            (Method::POST, action, form)
        } else {
            assert!(answer.status().is_redirection(), "{}", answer.status());
            let to = answer.headers()[header::LOCATION].to_str().unwrap();
            let to = at.join(to).unwrap();
            if to.origin() != origin {
                return to;
            }
            (Method::GET, to, String::new())
        };
    }
    panic!("the login leads nowhere");
}
