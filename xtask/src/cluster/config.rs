//! Fills the templates of `tests/cluster/templates`. Pure: hands back text, writes no file.

use anyhow::{Context, Result, bail};

/// The files of `tests/cluster/templates`, by what they configure.
pub(super) mod template {
    pub(in super::super) const AUDIT_POLICY: &str =
        include_str!("../../../tests/cluster/templates/audit-policy.yaml");
    pub(in super::super) const CNI: &str =
        include_str!("../../../tests/cluster/templates/cni.conflist");
    pub(in super::super) const CONTAINERD: &str =
        include_str!("../../../tests/cluster/templates/containerd.toml");
    pub(in super::super) const COREDNS: &str =
        include_str!("../../../tests/cluster/templates/coredns.yaml");
    pub(in super::super) const KUBECONFIG: &str =
        include_str!("../../../tests/cluster/templates/kubeconfig.yaml");
    pub(in super::super) const KUBELET: &str =
        include_str!("../../../tests/cluster/templates/kubelet.yaml");
    pub(in super::super) const OPENSSL: &str =
        include_str!("../../../tests/cluster/templates/openssl.cnf");
    pub(in super::super) const STORAGE: &str =
        include_str!("../../../tests/cluster/templates/storage.yaml");
}

/// `template` with each `{{name}}` replaced. A name without a value, or a value without a place, is an error.
pub(super) fn fill(template: &str, values: &[(&str, &str)]) -> Result<String> {
    for (name, _) in values {
        if !template.contains(&format!("{{{{{name}}}}}")) {
            bail!("the template has no place for `{name}`");
        }
    }
    let mut filled = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after
            .split_once("}}")
            .context("a place in the template does not end")?;
        let (_, value) = values
            .iter()
            .find(|(known, _)| *known == name)
            .with_context(|| format!("no value for `{name}`"))?;
        filled.push_str(before);
        filled.push_str(value);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// Base64 with padding, as kubeconfig files hold certificates.
pub(super) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut three = [0_u8; 3];
        three[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for place in 0..4 {
            if place <= chunk.len() {
                text.push(char::from(
                    ALPHABET[(bits >> (18 - 6 * place)) as usize & 63],
                ));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_filled_and_every_value_used() {
        assert_eq!(
            fill("{{a}}-{{b}}{{a}}", &[("a", "1"), ("b", "2")]).ok(),
            Some("1-21".to_owned())
        );
        assert!(fill("{{a}}", &[]).is_err());
        assert!(fill("a", &[("a", "1")]).is_err());
        assert!(fill("{{a", &[]).is_err());
        // A value is not read again, whatever it holds.
        assert_eq!(
            fill("{{a}}", &[("a", "{{b}}")]).ok(),
            Some("{{b}}".to_owned())
        );
    }

    #[test]
    fn base64_pads_as_rfc_4648_says() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
