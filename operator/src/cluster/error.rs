//! Why a pass over a fleet ended early, by what was being done and to what.

use crate::pki::PkiError;
use crate::plan::PlanError;
use crate::validate::FieldError;

/// Why a pass over a fleet ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClusterError {
    /// The API server refused, or did not answer.
    #[error("cannot {verb} {kind}/{name}: {source}")]
    Api {
        /// `read`, `list`, `apply`, `write` or `delete`.
        verb: &'static str,
        /// Kind of the object, lower case.
        kind: String,
        /// Its name; empty for a list.
        name: String,
        /// What the client said.
        source: Box<kube::Error>,
    },
    /// The spec will not do.
    #[error("{}", lines(.0))]
    Invalid(Vec<FieldError>),
    /// An object that the operator keeps its memory or keys in cannot be read.
    #[error("{object} cannot be used: {reason}")]
    Damaged {
        /// `kind/name`.
        object: String,
        /// What is wrong; never a secret.
        reason: String,
    },
    /// An object of this name belongs to something else.
    #[error(
        "{object} exists and does not belong to this fleet; rename the fleet, or remove the object"
    )]
    Foreign {
        /// `kind/name`.
        object: String,
    },
    /// An object of this name is on its way out; it is made anew when it is gone.
    #[error("{object} is being removed")]
    BeingRemoved {
        /// `kind/name`.
        object: String,
    },
    /// The object changed while it was looked at; the next pass sees it as it is.
    #[error("the RelayCluster changed in the meantime")]
    Outdated,
    /// Keys or certificates could not be made.
    #[error("{0}")]
    Pki(#[from] PkiError),
    /// The plan could not be made.
    #[error("{0}")]
    Plan(#[from] PlanError),
}

impl ClusterError {
    /// An answer of the API server, with what was asked.
    pub(super) fn api(verb: &'static str, kind: &str, name: &str, source: kube::Error) -> Self {
        Self::Api {
            verb,
            kind: kind.to_owned(),
            name: name.to_owned(),
            source: Box::new(source),
        }
    }

    /// A stable word for conditions, events and metrics.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) if status.is_forbidden() && is_quota(&status.message) => {
                    "QuotaExceeded"
                }
                kube::Error::Api(status) if status.is_forbidden() => "Forbidden",
                kube::Error::Api(status) if status.is_conflict() => "Conflict",
                kube::Error::Api(status) if status.is_invalid() => "Refused",
                kube::Error::Api(status) if status.code == 429 => "Throttled",
                _ => "ApiServerError",
            },
            Self::Invalid(_) => "InvalidSpec",
            Self::Damaged { .. } => "DamagedObject",
            Self::Foreign { .. } => "NameTaken",
            Self::BeingRemoved { .. } => "BeingRemoved",
            Self::Outdated => "Conflict",
            Self::Pki(_) => "CertificateError",
            Self::Plan(_) => "PlanError",
        }
    }

    /// What a person can do about it.
    pub(super) fn remedy(&self) -> String {
        match self.reason() {
            "QuotaExceeded" => "raise the namespace's ResourceQuota, or ask for less".to_owned(),
            "Forbidden" => {
                "give the operator the right it lacks (docs/reference/rbac.md); it tries again by itself"
                    .to_owned()
            }
            "InvalidSpec" => "correct the named field".to_owned(),
            "DamagedObject" => "put the right content back from a backup".to_owned(),
            "NameTaken" => "rename the fleet, or remove the object".to_owned(),
            "BeingRemoved" => {
                "wait until it is gone; the operator then makes it anew, unless something else holds it (see its metadata.finalizers)".to_owned()
            }
            "Refused" => "correct what the API server names".to_owned(),
            "Throttled" => {
                "the API server having less to do; the operator asks less and tries again by itself"
                    .to_owned()
            }
            _ => "the operator tries again by itself".to_owned(),
        }
    }
}

fn is_quota(message: &str) -> bool {
    message.contains("exceeded quota")
}

fn lines(errors: &[FieldError]) -> String {
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}
