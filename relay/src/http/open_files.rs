//! The limit of open files: raised as far as this process may, and compared with what the connections need.

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::metrics::Metrics;

/// Files that the relay needs besides its connections: its index, its log, its ports, what is read now and then.
const OTHER_FILES: u64 = 200;

/// Raises the soft limit to the hard one, and says in metrics, and in the log if it is too low, how it compares with what
/// `connections` TCP connections need.
pub(super) fn raise(connections: usize, metrics: &Metrics) {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "cannot raise the limit of open files");
        }
    }
    compare(getrlimit(Resource::Nofile).current, connections, metrics);
}

/// `allowed`: `None` without a limit.
fn compare(allowed: Option<u64>, connections: usize, metrics: &Metrics) -> bool {
    let wanted = u64::try_from(connections)
        .unwrap_or(u64::MAX)
        .saturating_add(OTHER_FILES);
    let as_gauge = |files: u64| i64::try_from(files).unwrap_or(i64::MAX);
    metrics
        .open_files_limit
        .set(as_gauge(allowed.unwrap_or(u64::MAX)));
    metrics.open_files_wanted.set(as_gauge(wanted));
    let is_enough = allowed.is_none_or(|allowed| allowed >= wanted);
    if !is_enough {
        tracing::warn!(
            allowed,
            wanted,
            "fewer open files are allowed than limits.max_connections needs: clients will be turned away. Raise the hard limit (ulimit -Hn, \
             LimitNOFILE= of systemd, the default of the container runtime), or lower limits.max_connections"
        );
    }
    is_enough
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_below_what_is_configured_is_seen_in_the_metrics() {
        let metrics = Metrics::new();
        for (allowed, connections, is_enough) in [
            (Some(1_024), 20_000, false),
            (Some(20_199), 20_000, false),
            (Some(20_200), 20_000, true),
            (None, 1_000_000, true),
            (Some(u64::MAX), usize::MAX, true),
        ] {
            assert_eq!(
                compare(allowed, connections, &metrics),
                is_enough,
                "{allowed:?} {connections}"
            );
            let (limit, wanted) = (
                metrics.open_files_limit.get(),
                metrics.open_files_wanted.get(),
            );
            assert_eq!(limit >= wanted, is_enough, "{limit} {wanted}");
        }
    }

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let metrics = Metrics::new();
        raise(1, &metrics);
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert!(metrics.open_files_limit.get() > 0);
        assert_eq!(metrics.open_files_wanted.get(), 201);
    }
}
