//! Where a question to a policy program comes from: the family of the client's address, and a hash of it that changes.

use std::fmt;
use std::net::IpAddr;

use crate::admission::AddressKey;

/// The origin of one connection, as far as programs are told.
#[derive(Clone)]
pub struct Source {
    is_v6: bool,
    key: AddressKey,
    /// Kept only where the configuration has a program that is to know it.
    address: Option<IpAddr>,
}

/// An address, or its hash, stays out of logs.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

impl Source {
    /// The origin of a connection. The address itself is kept only if `keep_address`.
    pub fn new(address: IpAddr, key: AddressKey, keep_address: bool) -> Self {
        let address = address.to_canonical();
        Self {
            is_v6: address.is_ipv6(),
            key,
            address: keep_address.then_some(address),
        }
    }

    /// `IP4` or `IP6`, in strfry's words.
    pub(super) fn kind(&self) -> &'static str {
        if self.is_v6 { "IP6" } else { "IP4" }
    }

    /// The address for a program that may know it; for others 16 hex digits, the same for one address for an hour at most.
    pub(super) fn info(&self, give_address: bool) -> String {
        match self.address {
            Some(address) if give_address => address.to_string(),
            _ => self.key.to_hex(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_told_only_where_it_was_kept_and_may_be_known() {
        let address: IpAddr = "::ffff:192.0.2.7".parse().expect("an address");
        let key = AddressKey::for_tests(0x2a);
        let kept = Source::new(address, key, true);
        assert_eq!(kept.kind(), "IP4");
        assert_eq!(kept.info(true), "192.0.2.7");
        assert_eq!(kept.info(false), "000000000000002a");
        let hashed = Source::new(address, key, false);
        assert_eq!(hashed.info(true), "000000000000002a");
        let v6 = Source::new("2001:db8::1".parse().expect("an address"), key, true);
        assert_eq!(
            (v6.kind(), v6.info(true)),
            ("IP6", "2001:db8::1".to_owned())
        );
        assert!(!format!("{kept:?}").contains("192"), "{kept:?}");
    }
}
