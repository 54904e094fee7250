//! From a registry to the answer of a request.

use std::{fmt, io, io::Write as _};

use flate2::{Compression, write::GzEncoder};
use http::{
    HeaderMap, HeaderValue, Response,
    header::{CONTENT_ENCODING, CONTENT_TYPE, VARY},
};
use prometheus_client::{
    encoding::{prometheus_text, text},
    registry::Registry,
};

use crate::format::{Format, takes_gzip};

/// Why a page can't be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A collector failed.
    #[error("a metric can't be written")]
    Encode(#[from] fmt::Error),
    /// It can't be compressed.
    #[error("the metrics can't be compressed")]
    Compress(#[from] io::Error),
}

/// What a registry holds now, in the form and the compression that the request asks for.
///
/// # Errors
///
/// [`Error`].
pub fn respond(registry: &Registry, request: &HeaderMap) -> Result<Response<Vec<u8>>, Error> {
    let format = Format::wanted(request);
    let text = format.write(registry)?;
    let gzip = takes_gzip(request);
    let body = if gzip {
        compress(text.as_bytes())?
    } else {
        text.into_bytes()
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    let content_type = HeaderValue::from_static(format.content_type());
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    if gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

impl Format {
    /// What a registry holds now, in this form.
    ///
    /// # Errors
    ///
    /// A collector failed.
    pub fn write(self, registry: &Registry) -> Result<String, fmt::Error> {
        let mut page = String::new();
        match self {
            Self::OpenMetrics => text::encode(&mut page, registry)?,
            Self::Classic => prometheus_text::encode(&mut page, registry)?,
        }
        Ok(page)
    }
}

/// The least effort: names and labels repeat so much that more gains little and costs the scrape.
fn compress(text: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 8), Compression::fast());
    encoder.write_all(text)?;
    encoder.finish()
}
