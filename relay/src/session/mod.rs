//! One client connection: its subscriptions, its identity, its queue.
