//! The certificate that kube-scheduler knows the extender by. Both are containers of one pod: an init container makes it
//! into a directory that they share, so no key leaves the pod, and there is nothing to renew.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::Error;

/// What the CA signs for: the pod's own loopback.
const NAMES: [&str; 2] = ["127.0.0.1", "localhost"];
/// The CA's certificate, by which a client knows the server.
pub const CA: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// Writes a new CA's certificate, and a certificate that it has signed with its key, into `dir`. The CA's own key is
/// forgotten: it signs nothing else.
///
/// # Errors
/// When a file cannot be written.
pub fn make(dir: &Path) -> Result<(), Error> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "kubevmm-scheduler-extender CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_certificate = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate()?;
    let mut server = CertificateParams::new(NAMES.map(str::to_owned).to_vec())?;
    server.distinguished_name.push(DnType::CommonName, "kubevmm-scheduler-extender");
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    let certificate = server.signed_by(&key, &issuer)?;
    write(dir.join(KEY), &key.serialize_pem(), 0o600)?;
    write(dir.join(CERTIFICATE), &certificate.pem(), 0o644)?;
    write(dir.join(CA), &ca_certificate.pem(), 0o644)
}

fn write(path: PathBuf, text: &str, mode: u32) -> Result<(), Error> {
    let mut new = path.clone().into_os_string();
    new.push(".new");
    let written = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(mode)
        .open(&new)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&new, &path));
    written.map_err(|source| Error::File { path, done: "written", source })
}

/// How to serve with the certificate of `dir`.
///
/// # Errors
/// When it is not there, or no certificate.
pub fn server(dir: &Path) -> Result<Arc<ServerConfig>, Error> {
    let (path, pem) = read(dir.join(CERTIFICATE))?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
    if chain.is_empty() {
        return Err(Error::Pem { path, what: "certificate" });
    }
    let (path, pem) = read(dir.join(KEY))?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| Error::Pem { path, what: "private key" })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn read(path: PathBuf) -> Result<(PathBuf, Vec<u8>), Error> {
    match fs::read(&path) {
        Ok(bytes) => Ok((path, bytes)),
        Err(source) => Err(Error::File { path, done: "read", source }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_certificate_is_made_and_served_and_its_key_is_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(server(dir.path()), Err(Error::File { done: "read", .. })));
        for _ in 0..2 {
            make(dir.path()).unwrap();
            server(dir.path()).unwrap();
            // Left behind by one that was ended: its mode is not the key's.
            fs::write(dir.path().join("tls.crt.new"), "").unwrap();
        }
        let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(KEY), mode(CA)), (0o600, 0o644));
        fs::remove_file(dir.path().join("tls.crt.new")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "the CA's key is nowhere");
        fs::write(dir.path().join(CERTIFICATE), "").unwrap();
        let error = server(dir.path()).unwrap_err();
        assert!(error.to_string().contains("holds no certificate"), "{error}");
        assert!(make(Path::new("/nowhere")).is_err());
    }
}
