//! The server over TLS, as kube-scheduler meets it.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kubevmm_api::fit::Policy;
use kubevmm_scheduler_extender::cache::{Cache, Watched};
use kubevmm_scheduler_extender::server::{self, Extender};
use kubevmm_scheduler_extender::tls;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

async fn start(dir: &Path) -> SocketAddr {
    tls::make(dir).unwrap();
    let listener = server::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let extender = Extender { cache: Arc::new(Cache::default()), policy: Policy::Spread };
    tokio::spawn(server::serve(listener, tls::server(dir).unwrap(), Arc::new(extender)));
    address
}

/// A client that trusts this CA only.
fn client(ca: &Path) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

#[tokio::test]
async fn it_is_known_by_the_ca_of_its_directory_and_by_no_other() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let address = start(dir.path()).await;
    tls::make(other.path()).unwrap();
    let name = || ServerName::try_from("127.0.0.1").unwrap();
    let tcp = || TcpStream::connect(address);
    let stranger = client(&other.path().join(tls::CA)).connect(name(), tcp().await.unwrap()).await;
    assert!(stranger.unwrap_err().to_string().contains("certificate"));
    let stream = client(&dir.path().join(tls::CA)).connect(name(), tcp().await.unwrap()).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..2 {
        let body = r#"{"Pod": {"metadata": {}}, "NodeNames": ["n"]}"#;
        let request = Request::post("/filter").body(Full::new(Bytes::from(body))).unwrap();
        sender.ready().await.unwrap();
        let answer = sender.send_request(request).await.unwrap();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&bytes).contains(r#""NodeNames":["n"]"#), "{bytes:?}");
    }
}

#[tokio::test]
async fn a_client_that_speaks_no_tls_hinders_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let address = start(dir.path()).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(5), plain.read_to_end(&mut answer)).await.unwrap().ok();
    assert!(!answer.starts_with(b"HTTP"));
    it_answers(address, &dir.path().join(tls::CA)).await;
}

async fn it_answers(address: SocketAddr, ca: &Path) {
    let tcp = TcpStream::connect(address).await.unwrap();
    let stream = client(ca).connect(ServerName::try_from("127.0.0.1").unwrap(), tcp).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("/nowhere").body(Full::<Bytes>::default()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 404);
}

#[tokio::test]
async fn the_kubelet_is_told_when_the_caches_are_filled() {
    let cache = Arc::new(Cache::default());
    let listener = server::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(server::serve_health(listener, Arc::clone(&cache)));
    let get = async |path: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        (answer[9..12].to_owned(), answer.rsplit("\r\n").next().unwrap_or_default().to_owned())
    };
    assert_eq!(get("/livez").await.0, "200");
    let (status, why) = get("/readyz").await;
    assert_eq!(status, "503");
    assert!(why.contains("has yet to list the Hypervisors"), "{why}");
    Watched::ALL.into_iter().for_each(|kind| cache.listed(kind));
    assert_eq!(get("/readyz").await, ("200".to_owned(), "ok\n".to_owned()));
    assert_eq!(get("/metrics").await.0, "404");
}
