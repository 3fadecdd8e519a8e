//! Whether somebody is known here.

use super::{BatchLimits, Index, IndexError};
use crate::event::{PublicKey, kind};
use crate::filter::Filter;
use crate::visibility::Readers;

impl Index {
    /// Whether a profile (kind 0) or a list of relays for messages (kind 10050, NIP-17) of this key is stored. It asks as a stranger's REQ
    /// would, so it tells nobody more than that.
    pub fn knows(&self, key: &PublicKey, now_s: u64) -> Result<bool, IndexError> {
        let filter = Filter {
            authors: Some(vec![*key]),
            kinds: Some(vec![kind::PROFILE, kind::MESSAGE_RELAYS]),
            limit: Some(1),
            ..Filter::default()
        };
        let mut query = self.query(&[filter], &Readers::anonymous(), now_s)?;
        loop {
            let batch = query.next_batch(&BatchLimits::default())?;
            if !batch.events.is_empty() || batch.done {
                return Ok(!batch.events.is_empty());
            }
        }
    }
}
