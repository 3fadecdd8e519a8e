//! The log: publisher, follower, hints and keyring over NATS JetStream.
