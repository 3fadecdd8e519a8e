//! Certificate authorities and the certificates they issue (X.509, ECDSA P-256). Pure: nothing here touches a file.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::PkiError;

const AUTHORITY_DAYS: u64 = 3650;
/// How long an issued certificate is valid. The folder renews well before.
const CERTIFICATE_DAYS: u64 = 730;
/// Clocks of two machines differ: a certificate is valid from a little before it was made.
const BACKDATE: Duration = Duration::from_secs(3600);

/// A certificate and its private key, both PEM.
pub struct Issued {
    /// The certificate, PEM.
    pub certificate: String,
    /// The private key, PKCS #8 PEM; wiped when dropped.
    pub key: Zeroizing<String>,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// A certificate authority: signs what it is asked to, and knows its own certificate.
pub struct Authority {
    name: String,
    key: KeyPair,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// A new authority with a fresh key.
    pub fn generate(name: &str) -> Result<Self, PkiError> {
        let key = KeyPair::generate().map_err(|source| failed(name, source))?;
        Ok(Self {
            name: name.to_owned(),
            key,
        })
    }

    /// The authority `name` from its stored private key (PKCS #8 PEM).
    pub fn from_key(name: &str, pem: &str) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(pem).map_err(|source| failed(name, source))?;
        Ok(Self {
            name: name.to_owned(),
            key,
        })
    }

    /// The private key, PKCS #8 PEM.
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.key.serialize_pem())
    }

    /// The certificate that peers trust, PEM. Same subject and key every time; the dates are of now.
    pub fn certificate_pem(&self, now: SystemTime) -> Result<String, PkiError> {
        let mut params = self.params();
        set_validity(
            &mut params,
            now,
            Duration::from_secs(AUTHORITY_DAYS * 86_400),
        );
        let certificate = params
            .self_signed(&self.key)
            .map_err(|source| failed(&self.name, source))?;
        Ok(certificate.pem())
    }

    /// A certificate for both ends of a link, since NATS servers dial and are dialled. `hosts` are DNS names and address literals.
    pub fn issue(
        &self,
        common_name: &str,
        hosts: &[String],
        now: SystemTime,
    ) -> Result<Issued, PkiError> {
        let lifetime = Duration::from_secs(CERTIFICATE_DAYS * 86_400);
        self.issue_for(common_name, hosts, now, lifetime)
    }

    /// Like [`Self::issue`], valid for `lifetime` from `now`.
    pub fn issue_for(
        &self,
        common_name: &str,
        hosts: &[String],
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Issued, PkiError> {
        let fail = |source| failed(common_name, source);
        let key = KeyPair::generate().map_err(fail)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished(common_name);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        for host in hosts {
            params.subject_alt_names.push(match host.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(host.as_str().try_into().map_err(fail)?),
            });
        }
        set_validity(&mut params, now, lifetime);
        let issuer = Issuer::new(self.params(), &self.key);
        let certificate = params.signed_by(&key, &issuer).map_err(fail)?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: Zeroizing::new(key.serialize_pem()),
        })
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished(&self.name);
        // It signs servers, never another authority.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }
}

fn distinguished(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "nightjar");
    name.push(DnType::CommonName, common_name);
    name
}

fn set_validity(params: &mut CertificateParams, now: SystemTime, lifetime: Duration) {
    params.not_before = OffsetDateTime::from(now - BACKDATE);
    params.not_after = OffsetDateTime::from(now + lifetime);
}

fn failed(name: &str, source: rcgen::Error) -> PkiError {
    PkiError::Certificate {
        name: name.to_owned(),
        source,
    }
}
