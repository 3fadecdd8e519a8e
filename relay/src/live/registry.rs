//! The inverted index of open subscriptions: each filter stands under the values of its most selective field.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use crate::event::{Event, EventId, PublicKey};
use crate::filter::Filter;
use crate::live::Subscription;

/// Subscriptions that share a value; a subscription stands in it at most once per filter.
type Bucket = Vec<Arc<Subscription>>;

/// Where filters stand. An event looks up its own values and finds every subscription that could match.
#[derive(Debug, Default)]
pub(super) struct Registry {
    by_id: HashMap<EventId, Bucket>,
    by_author: HashMap<PublicKey, Bucket>,
    by_tag: HashMap<u8, HashMap<String, Bucket>>,
    by_kind: HashMap<u16, Bucket>,
    /// Filters that name nothing.
    any: Bucket,
}

/// The field that a filter stands under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Ids,
    Authors,
    Tag(u8),
    Kinds,
    Any,
}

/// The field with the fewest values; kinds only if there is nothing better, since every event has one of few kinds.
fn most_selective(filter: &Filter) -> Place {
    let ids = filter.ids.as_ref().map(|ids| (ids.len(), Place::Ids));
    let authors = filter
        .authors
        .as_ref()
        .map(|authors| (authors.len(), Place::Authors));
    let tags = filter
        .tags
        .iter()
        .map(|(letter, values)| (values.len(), Place::Tag(*letter)));
    ids.into_iter()
        .chain(authors)
        .chain(tags)
        .min_by_key(|(values, _)| *values)
        .map(|(_, place)| place)
        .or(filter.kinds.as_ref().map(|_| Place::Kinds))
        .unwrap_or(Place::Any)
}

impl Registry {
    pub(super) fn insert(&mut self, subscription: &Arc<Subscription>) {
        for filter in subscription.filters() {
            match most_selective(filter) {
                Place::Ids => add_all(&mut self.by_id, filter.ids.iter().flatten(), subscription),
                Place::Authors => {
                    add_all(
                        &mut self.by_author,
                        filter.authors.iter().flatten(),
                        subscription,
                    );
                }
                Place::Tag(letter) => add_all(
                    self.by_tag.entry(letter).or_default(),
                    filter.tags.get(&letter).into_iter().flatten(),
                    subscription,
                ),
                Place::Kinds => add_all(
                    &mut self.by_kind,
                    filter.kinds.iter().flatten(),
                    subscription,
                ),
                Place::Any => self.any.push(Arc::clone(subscription)),
            }
        }
    }

    pub(super) fn remove(&mut self, subscription: &Arc<Subscription>) {
        for filter in subscription.filters() {
            match most_selective(filter) {
                Place::Ids => {
                    remove_all(&mut self.by_id, filter.ids.iter().flatten(), subscription)
                }
                Place::Authors => {
                    remove_all(
                        &mut self.by_author,
                        filter.authors.iter().flatten(),
                        subscription,
                    );
                }
                Place::Tag(letter) => {
                    if let Some(values) = self.by_tag.get_mut(&letter) {
                        remove_all(
                            values,
                            filter.tags.get(&letter).into_iter().flatten(),
                            subscription,
                        );
                    }
                }
                Place::Kinds => {
                    remove_all(
                        &mut self.by_kind,
                        filter.kinds.iter().flatten(),
                        subscription,
                    );
                }
                Place::Any => remove_one(&mut self.any, subscription),
            }
        }
    }

    /// Calls `visit` for every subscription that could match; several times for the same one.
    pub(super) fn for_each_candidate(&self, event: &Event, mut visit: impl FnMut(&Subscription)) {
        let mut visit_bucket = |bucket: Option<&Bucket>| {
            bucket
                .into_iter()
                .flatten()
                .for_each(|subscription| visit(subscription));
        };
        visit_bucket(self.by_id.get(&event.id));
        visit_bucket(self.by_author.get(&event.pubkey));
        for tag in &event.tags {
            if let [name, value, ..] = tag.as_slice()
                && let [letter] = name.as_bytes()
                && let Some(values) = self.by_tag.get(letter)
            {
                visit_bucket(values.get(value));
            }
        }
        visit_bucket(self.by_kind.get(&event.kind));
        visit_bucket(Some(&self.any));
    }

    /// Entries of all buckets.
    pub(super) fn entries(&self) -> usize {
        let count = |buckets: usize, bucket: &Bucket| buckets + bucket.len();
        self.by_id.values().fold(0, count)
            + self.by_author.values().fold(0, count)
            + self
                .by_tag
                .values()
                .flat_map(HashMap::values)
                .fold(0, count)
            + self.by_kind.values().fold(0, count)
            + self.any.len()
    }
}

fn add_all<'a, K: Hash + Eq + Clone + 'a>(
    buckets: &mut HashMap<K, Bucket>,
    values: impl Iterator<Item = &'a K>,
    subscription: &Arc<Subscription>,
) {
    for value in values {
        match buckets.get_mut(value) {
            Some(bucket) => bucket.push(Arc::clone(subscription)),
            None => {
                buckets.insert(value.clone(), vec![Arc::clone(subscription)]);
            }
        }
    }
}

fn remove_all<'a, K: Hash + Eq + 'a>(
    buckets: &mut HashMap<K, Bucket>,
    values: impl Iterator<Item = &'a K>,
    subscription: &Arc<Subscription>,
) {
    for value in values {
        if let Some(bucket) = buckets.get_mut(value) {
            remove_one(bucket, subscription);
            if bucket.is_empty() {
                buckets.remove(value);
            }
        }
    }
}

/// Subscriptions that end are mostly young, so the search begins at the end.
fn remove_one(bucket: &mut Bucket, subscription: &Arc<Subscription>) {
    if let Some(place) = bucket
        .iter()
        .rposition(|entry| Arc::ptr_eq(entry, subscription))
    {
        bucket.swap_remove(place);
    }
    if bucket.capacity() > 64 && bucket.len() < bucket.capacity() / 4 {
        bucket.shrink_to(bucket.len() * 2);
    }
}
