//! GET over HTTPS, one question at a time, everything bounded.
//!
//! A connection serves as many questions as the controller allows: some close after each.

use std::{net::IpAddr, sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http1::{self, SendRequest},
    header::{self, HeaderValue},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use serde_json::Value;
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use tokio_rustls::TlsConnector;

use super::{Settings, trust};
use crate::Host;

/// How long one question may take, connecting included.
const QUESTION: Duration = Duration::from_secs(10);
/// Largest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// Longest path, in bytes.
const MAX_PATH_BYTES: usize = 512;

/// Where the controller is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    name: ServerName<'static>,
    host: String,
    port: u16,
}

/// A client of one controller.
#[derive(Debug)]
pub(super) struct Client {
    target: Target,
    tls: Arc<ClientConfig>,
    authorization: Option<HeaderValue>,
    connection: Option<SendRequest<Empty<Bytes>>>,
    /// What drives the connections; they end with the client.
    drivers: JoinSet<()>,
}

impl Target {
    /// A name or address, with a port if that isn't 443.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no address: write NAME, NAME:PORT or [IPV6]:PORT");
        let bare = text.trim_matches(['[', ']']).parse::<IpAddr>();
        let (host, port) = match (bare, text.rsplit_once(':')) {
            (Ok(_), _) | (_, None) => (text, 443),
            (Err(_), Some((host, port))) => (host, port.parse().map_err(|_| wrong())?),
        };
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| wrong())?;
        Ok(Self { name, host, port })
    }
}

impl Client {
    /// A client with the password as its file has it now: whoever changes it needs no restart.
    pub(super) fn new(settings: &Settings, host: &Host) -> Result<Self, String> {
        let authorization = match (&settings.user, &settings.password_file) {
            (Some(user), Some(file)) => {
                let password = host.text(file).map_err(|failure| failure.to_string())?;
                let missing = || format!("{} is missing", file.display());
                let password = password.ok_or_else(missing)?;
                let password = password.lines().next().unwrap_or_default();
                let word = BASE64_STANDARD.encode(format!("{user}:{password}"));
                let value = HeaderValue::try_from(format!("Basic {word}"));
                let mut value = value.map_err(|error| error.to_string())?;
                value.set_sensitive(true);
                Some(value)
            }
            _ => None,
        };
        Ok(Self {
            target: Target::parse(&settings.address)?,
            tls: trust::tls(settings)?,
            authorization,
            connection: None,
            drivers: JoinSet::new(),
        })
    }

    /// A resource; none if the controller hasn't it.
    ///
    /// # Errors
    ///
    /// It couldn't be reached, isn't trusted, refuses, answers something else, or takes too long.
    pub(super) async fn get(&mut self, path: &str) -> Result<Option<Value>, String> {
        let sound = |c: char| c.is_ascii_graphic();
        if path.len() > MAX_PATH_BYTES || !path.starts_with("/redfish/") || !path.chars().all(sound)
        {
            return Err("a link leads away from the Redfish service".to_owned());
        }
        let answer = timeout(QUESTION, self.ask(path)).await;
        if !matches!(answer, Ok(Ok(_))) {
            self.connection = None;
        }
        let late = |_| format!("{path}: no answer within {QUESTION:?}");
        let (status, body) = answer
            .map_err(late)?
            .map_err(|reason| format!("{path}: {reason}"))?;
        match status {
            StatusCode::OK => serde_json::from_slice(&body)
                .map(Some)
                .map_err(|error| format!("{path}: not JSON: {error}")),
            StatusCode::NOT_FOUND => Ok(None),
            other => Err(format!("{path}: {other}")),
        }
    }

    async fn ask(&mut self, path: &str) -> Result<(StatusCode, Bytes), String> {
        let mut kept = self.connection.take();
        // It may have been closed since the last question.
        if let Some(connection) = &mut kept
            && connection.ready().await.is_err()
        {
            kept = None;
        }
        let mut connection = match kept {
            Some(kept) => kept,
            None => self.connect().await?,
        };
        let mut request = Request::get(path)
            .header(header::HOST, &self.target.host)
            .header(header::ACCEPT, "application/json")
            .header("OData-Version", "4.0");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        let answer = connection
            .send_request(request)
            .await
            .map_err(|it| whole(&it))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES);
        let body = body
            .collect()
            .await
            .map_err(|error| error.to_string())?
            .to_bytes();
        self.connection = Some(connection);
        Ok((status, body))
    }

    async fn connect(&mut self) -> Result<SendRequest<Empty<Bytes>>, String> {
        let Target { name, host, port } = self.target.clone();
        let tcp = TcpStream::connect((host, port))
            .await
            .map_err(|it| whole(&it))?;
        let tls = TlsConnector::from(self.tls.clone());
        let tls = tls.connect(name, tcp).await.map_err(|it| whole(&it))?;
        let (sender, driver) = http1::handshake(TokioIo::new(tls))
            .await
            .map_err(|it| whole(&it))?;
        while self.drivers.try_join_next().is_some() {}
        self.drivers.spawn(async move {
            // What goes wrong with it, the question hears.
            drop(driver.await);
        });
        Ok(sender)
    }
}

/// An error with its causes: a reading's reason is all that is ever seen of it.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
