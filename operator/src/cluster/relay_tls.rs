//! The Secret with the certificate that relays serve to clients. It is the user's: it is only looked at here, and relays read it
//! themselves.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::error::ClusterError;
use super::names::{TLS_CERTIFICATE, TLS_KEY};
use super::rollout::Wait;
use crate::validate::ValidFleet;

/// What the fleet waits for if its relays could not start with their certificate; nothing without TLS.
pub(super) async fn wait(
    secrets: &Api<Secret>,
    fleet: &ValidFleet,
) -> Result<Option<Wait>, ClusterError> {
    let Some(name) = &fleet.relay_tls_secret else {
        return Ok(None);
    };
    let secret = secrets
        .get_opt(name)
        .await
        .map_err(|source| ClusterError::api("read", "secret", name, source))?;
    Ok(wait_for(name, secret.as_ref()))
}

fn wait_for(name: &str, secret: Option<&Secret>) -> Option<Wait> {
    let (what, unblocked_by) = match secret {
        None => (
            "TlsSecretMissing",
            "the Secret (type kubernetes.io/tls) that spec.relay.tls.secretName names, in the namespace of the fleet; made by hand or by \
             cert-manager. Until then no relay is restarted, and one that starts waits for it"
                .to_owned(),
        ),
        Some(secret) => (
            "TlsSecretUnusable",
            format!(
                "the Secret being mended: {}. Until then no relay is restarted, those that run keep the certificate before it, and one that \
                 starts fails",
                problem(secret)?
            ),
        ),
    };
    Some(Wait {
        what,
        where_: format!("secret/{name}"),
        unblocked_by,
    })
}

/// What is wrong with it; never a word of what it holds.
fn problem(secret: &Secret) -> Option<String> {
    let held = |key: &str| {
        let data = secret.data.as_ref()?;
        let ByteString(bytes) = data.get(key)?;
        (!bytes.is_empty()).then_some(bytes.as_slice())
    };
    let Some(certificates) = held(TLS_CERTIFICATE) else {
        return Some(format!("it has no key {TLS_CERTIFICATE}"));
    };
    let Some(key) = held(TLS_KEY) else {
        return Some(format!("it has no key {TLS_KEY}"));
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificates)
        .collect::<Result<_, _>>()
        .unwrap_or_default();
    if chain.is_empty() {
        return Some(format!("{TLS_CERTIFICATE} holds no certificate in PEM"));
    }
    let Ok(key) = PrivateKeyDer::from_pem_slice(key) else {
        return Some(format!("{TLS_KEY} holds no private key in PEM"));
    };
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
        .err()
        .map(|_| format!("{TLS_KEY} is not the key of {TLS_CERTIFICATE}"))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn pair() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["relay.test".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn secret(entries: &[(&str, &str)]) -> Secret {
        let data = entries
            .iter()
            .map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())));
        Secret {
            data: Some(data.collect()),
            ..Secret::default()
        }
    }

    #[test]
    fn what_is_missing_in_the_secret_is_told_without_showing_it() {
        let (certificate, key) = pair();
        let (_, other) = pair();
        let line = key.lines().nth(1).unwrap();
        for (entries, expected) in [
            (vec![], "it has no key tls.crt"),
            (
                vec![("tls.crt", certificate.as_str())],
                "it has no key tls.key",
            ),
            (
                vec![("tls.crt", ""), ("tls.key", &key)],
                "it has no key tls.crt",
            ),
            (
                vec![("tls.crt", &key), ("tls.key", &key)],
                "tls.crt holds no certificate",
            ),
            (
                vec![("tls.crt", &certificate), ("tls.key", line)],
                "tls.key holds no private key",
            ),
            (
                vec![("tls.crt", &certificate), ("tls.key", &other)],
                "tls.key is not the key of tls.crt",
            ),
        ] {
            let wait = wait_for("a-tls", Some(&secret(&entries))).unwrap();
            assert_eq!(
                (wait.what, wait.where_.as_str()),
                ("TlsSecretUnusable", "secret/a-tls")
            );
            assert!(wait.unblocked_by.contains(expected), "{wait:?}");
            assert!(!format!("{wait:?}").contains(line), "{wait:?}");
        }
        assert_eq!(wait_for("a-tls", None).unwrap().what, "TlsSecretMissing");
        let good = secret(&[("tls.crt", &certificate), ("tls.key", &key), ("ca.crt", "")]);
        assert_eq!(wait_for("a-tls", Some(&good)), None);
    }
}
