//! Certificate authorities of a test, and the server certificates they sign.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// One authority with a key of its own.
pub(crate) struct Authority {
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = KeyPair::generate().expect("a key");
        Self { params, key }
    }

    /// The authority's certificate, as its peers trust it. Replaces the file at once.
    pub(crate) fn write(&self, path: &Path) {
        let certificate = self.params.self_signed(&self.key).expect("a certificate");
        crate::keys::write(path, &certificate.pem());
    }

    /// A certificate for the servers of a test, all on 127.0.0.1.
    pub(crate) fn issue(&self, certificate_file: &Path, key_file: &Path) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
        let issuer = Issuer::new(self.params.clone(), &self.key);
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        crate::keys::write(certificate_file, &certificate.pem());
        crate::keys::write(key_file, &key.serialize_pem());
    }
}
