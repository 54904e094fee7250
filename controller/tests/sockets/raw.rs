//! TLS and HTTP/1.1 by hand: what a foreign client would do, right or wrong.

use std::{io, sync::Arc};

use kapok_trust::dns;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::world::fabric;

/// Connects, believing `roots_pem`, with or without a certificate and key.
pub(crate) async fn connect(
    address: &str,
    roots_pem: &str,
    own: Option<(&str, &str)>,
    protocol: &str,
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots_pem.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = CertificateDer::pem_slice_iter(chain.as_bytes());
            let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(dns::controller(&fabric())).unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

/// Whether a connection is let in: the server says no only after the client has finished, so
/// something is said and waited for.
pub(crate) async fn is_let_in(address: &str, roots_pem: &str, own: Option<(&str, &str)>) -> bool {
    let Ok(mut stream) = connect(address, roots_pem, own, "h2").await else {
        return false;
    };
    let settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    if stream.write_all(settings).await.is_err() {
        return false;
    }
    let mut frame = [0; 9];
    stream.read_exact(&mut frame).await.is_ok()
}

/// One page over HTTP/1.1: its status and its text.
pub(crate) async fn get(
    address: &str,
    roots_pem: &str,
    own: Option<(&str, &str)>,
    path: &str,
    header: &str,
) -> io::Result<(u16, String)> {
    let mut stream = connect(address, roots_pem, own, "http/1.1").await?;
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: controller\r\nconnection: close\r\n{header}\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // A server that closes without a last word has still said everything.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or(io::ErrorKind::InvalidData)?;
    Ok((status, answer))
}
