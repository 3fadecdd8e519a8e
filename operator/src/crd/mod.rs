//! The RelayCluster resource, nightjar.dev/v1alpha1.
