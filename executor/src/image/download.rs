//! An image on its way from a web server into a volume.
//!
//! The bytes are hashed and looked at as they pass, and are never held: memory use is a few chunks. A failure leaves a
//! volume with part of the bytes, which the caller deletes.

use std::time::Duration;

use futures::StreamExt;
use kubevmm_api::image::ImageFormat;
use sha2::{Digest, Sha256};
use tokio_util::bytes::Bytes;

use super::format::{self, FormatError, HEADER_BYTES, Probe};
use crate::libvirt;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server that sends nothing for this long has failed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why an image could not be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum DownloadError {
    /// No connection, or it broke.
    #[error("{url}: {causes}")]
    Http {
        /// The address.
        url: String,
        /// What happened, with its causes.
        causes: Causes,
    },
    /// The server refused.
    #[error("{url}: the server answered {status}")]
    Status {
        /// The address.
        url: String,
        /// Its answer, for example `404 Not Found`.
        status: String,
    },
    /// It is not an image that can be used.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The volume could not be written.
    #[error(transparent)]
    Libvirt(#[from] libvirt::Error),
}

/// An error and its causes in one line: reqwest's own text leaves out the cause.
#[derive(Debug)]
pub(super) struct Causes(reqwest::Error);

impl std::fmt::Display for Causes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_timeout() && self.0.is_connect() {
            return write!(f, "no connection within {} s", CONNECT_TIMEOUT.as_secs());
        }
        if self.0.is_timeout() {
            return write!(f, "the server sent nothing for {} s", IDLE_TIMEOUT.as_secs());
        }
        let mut cause: Option<&dyn std::error::Error> = Some(&self.0);
        let mut last = None;
        while let Some(error) = cause {
            last = Some(error);
            cause = error.source();
        }
        last.map_or(Ok(()), |error| write!(f, "{error}"))
    }
}

impl DownloadError {
    /// The reason as it stands in conditions.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Http { .. } | Self::Status { .. } => "DownloadFailed",
            Self::Format(error) => error.reason(),
            Self::Libvirt(_) => "LibvirtError",
        }
    }
}

/// What was downloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Downloaded {
    /// `sha256:` and the digest in hexadecimal.
    pub(super) digest: String,
    /// The format.
    pub(super) format: ImageFormat,
    /// Size of the disk inside, in bytes.
    pub(super) virtual_size: u64,
}

/// Where the bytes go: a volume, or a buffer in tests.
pub(super) trait Sink {
    /// Takes the next bytes.
    fn write(&mut self, bytes: Bytes) -> impl Future<Output = Result<(), libvirt::Error>> + Send;
}

impl Sink for libvirt::Upload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), libvirt::Error> {
        self.send(bytes).await
    }
}

/// A running response: its length is known before its bytes.
pub(super) struct Source {
    url: String,
    response: reqwest::Response,
}

impl Source {
    /// Asks for `url`; follows at most ten redirects.
    pub(super) async fn open(client: &reqwest::Client, url: &str) -> Result<Self, DownloadError> {
        let failed = |error| DownloadError::Http { url: url.to_owned(), causes: Causes(error) };
        let response = client.get(url).send().await.map_err(failed)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(DownloadError::Status { url: url.to_owned(), status: response.status().to_string() });
        }
        let content_type = response.headers().get(reqwest::header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        if content_type.is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("text/html")) {
            return Err(FormatError::NotAnImage("it is a web page (text/html)").into());
        }
        Ok(Self { url: url.to_owned(), response })
    }

    /// Number of bytes to come, if the server says it.
    pub(super) fn length(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// Streams everything into `sink`. `progress` hears the number of bytes so far.
    pub(super) async fn copy(
        self,
        sink: &mut impl Sink,
        wanted: Option<ImageFormat>,
        mut progress: impl FnMut(u64),
    ) -> Result<Downloaded, DownloadError> {
        let mut hash = Sha256::new();
        let mut head = Vec::with_capacity(HEADER_BYTES);
        let mut probe: Option<Probe> = None;
        let mut total: u64 = 0;
        let mut stream = self.response.bytes_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| DownloadError::Http { url: self.url.clone(), causes: Causes(error) })?;
            hash.update(&chunk);
            total += chunk.len() as u64;
            if probe.is_none() {
                head.extend_from_slice(&chunk[..chunk.len().min(HEADER_BYTES - head.len())]);
                if head.len() == HEADER_BYTES {
                    probe = Some(format::probe(&head, wanted)?);
                }
            }
            sink.write(chunk).await?;
            progress(total);
        }
        let probe = match probe {
            Some(probe) => probe,
            None => format::probe(&head, wanted)?,
        };
        Ok(Downloaded {
            digest: format!("sha256:{}", hex::encode(hash.finalize())),
            format: probe.format,
            virtual_size: probe.virtual_size.unwrap_or(total),
        })
    }
}

/// The client for all downloads.
pub(super) fn client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(IDLE_TIMEOUT)
        .user_agent(concat!("kubevmm-executor/", env!("CARGO_PKG_VERSION")))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[derive(Default)]
    struct Buffer(Vec<u8>);

    impl Sink for Buffer {
        async fn write(&mut self, bytes: Bytes) -> Result<(), libvirt::Error> {
            self.0.extend_from_slice(&bytes);
            Ok(())
        }
    }

    /// A web server that gives one answer and hangs up.
    async fn server(answer: Vec<u8>) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            stream.write_all(&answer).await.unwrap();
        });
        format!("http://{address}/image.qcow2")
    }

    async fn fetch(answer: &[u8]) -> Result<(Downloaded, Vec<u8>), DownloadError> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = server(answer.to_vec()).await;
        let mut sink = Buffer::default();
        let source = Source::open(&client().unwrap(), &url).await?;
        let downloaded = source.copy(&mut sink, None, |_| {}).await?;
        Ok((downloaded, sink.0))
    }

    #[tokio::test]
    async fn the_bytes_arrive_and_are_hashed() {
        let (downloaded, bytes) = fetch(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await.unwrap();
        assert_eq!(bytes, b"hello");
        assert_eq!(downloaded.digest, "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
        assert_eq!((downloaded.format, downloaded.virtual_size), (ImageFormat::Raw, 5));
    }

    #[tokio::test]
    async fn what_goes_wrong_has_a_reason_and_names_the_address() {
        for (answer, reason) in [
            (&b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"[..], "DownloadFailed"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\ntoo short", "DownloadFailed"),
            (b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 2\r\n\r\nhi", "NotAnImage"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "NotAnImage"),
            (b"garbage\r\n\r\n", "DownloadFailed"),
        ] {
            let error = fetch(answer).await.unwrap_err();
            assert_eq!(error.reason(), reason, "{error}");
            assert!(reason != "DownloadFailed" || error.to_string().contains("http://127.0.0.1"), "{error}");
        }
    }
}
