//! The webhook's certificate: made anew at each start and kept in memory, so that there is no key to keep or to steal.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::PrivatePkcs8KeyDer;

use crate::error::Error;

/// What the webhook proves itself with.
pub struct Identity {
    /// Certificate of the authority that signed the webhook's, in PEM: what the API server trusts.
    pub authority: String,
    /// The server's half of TLS.
    pub tls: Arc<ServerConfig>,
}

/// Makes an authority, and a certificate of it for the DNS name `server`. The authority's key is gone after that.
pub fn identity(server: &str) -> Result<Identity, Error> {
    let failed = |error: rcgen::Error| Error::webhook("make the certificate of", error);
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "kubevmm-webhook");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = params.self_signed(&key).map_err(failed)?.pem();
    let issuer = Issuer::new(params, key);

    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::new([server.to_owned()]).map_err(failed)?;
    params.distinguished_name.push(DnType::CommonName, server);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &issuer).map_err(failed)?;

    let failed = |error: rustls::Error| Error::webhook("offer TLS as", error);
    let tls = ServerConfig::builder_with_provider(default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .map_err(failed)?;
    Ok(Identity { authority, tls: tls.into() })
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
    use rustls::{ClientConfig, RootCertStore};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    const NAME: &str = "kubevmm-webhook.kubevmm-system.svc";

    /// Whether one who trusts `authority` takes the server for `name`.
    async fn trusts(server: &Identity, authority: &str, name: &'static str) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
        let client = ClientConfig::builder_with_provider(default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (near, far) = tokio::io::duplex(1 << 16);
        let connector = TlsConnector::from(Arc::new(client));
        let connect = connector.connect(ServerName::try_from(name).unwrap(), near);
        let (connected, _) = tokio::join!(connect, TlsAcceptor::from(Arc::clone(&server.tls)).accept(far));
        connected.is_ok()
    }

    #[tokio::test]
    async fn the_server_is_trusted_by_its_authority_for_its_name_only() {
        let (server, other) = (identity(NAME).unwrap(), identity(NAME).unwrap());
        assert!(trusts(&server, &server.authority, NAME).await);
        assert!(!trusts(&server, &server.authority, "kubernetes.default.svc").await);
        assert!(!trusts(&server, &other.authority, NAME).await, "each start has its own");
    }
}
