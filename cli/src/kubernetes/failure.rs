//! What the API server, or the way to it, said when it did not do as asked; turned into the error that a user reads.

use std::error::Error as _;
use std::time::Duration;

use kube::core::Status;

use super::Cluster;
use crate::code::Code;
use crate::error::CliError;
use crate::when;

/// Why a call failed.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// What it comes to.
    pub(crate) code: Code,
    /// One sentence.
    pub(crate) message: String,
    /// What was said below.
    pub(crate) causes: Vec<String>,
    next: String,
}

impl Failure {
    /// Whether this account may not do it.
    pub(crate) fn is_forbidden(&self) -> bool {
        self.code == Code::ApiForbidden
    }

    pub(super) fn of(
        cluster: &Cluster,
        verb: &'static str,
        resource: &str,
        error: &kube::Error,
    ) -> Self {
        let place = Place {
            server: &cluster.server,
            namespace: &cluster.namespace,
            flags: &cluster.flags,
        };
        place.failure(verb, resource, error)
    }

    pub(super) fn too_late(
        cluster: &Cluster,
        verb: &'static str,
        resource: &str,
        deadline: Duration,
    ) -> Self {
        Self {
            code: Code::ApiTooLate,
            message: format!(
                "the API server {} did not answer `{verb} {resource}` within {}",
                cluster.server,
                when::span(deadline)
            ),
            causes: Vec::new(),
            next: "the same command with --request-timeout 30s".to_owned(),
        }
    }
}

impl From<Failure> for CliError {
    fn from(failure: Failure) -> Self {
        let error = CliError::new(failure.code, failure.message, failure.next);
        failure.causes.iter().fold(error, CliError::because)
    }
}

/// What messages name.
struct Place<'a> {
    server: &'a str,
    namespace: &'a str,
    flags: &'a str,
}

impl Place<'_> {
    fn failure(&self, verb: &'static str, resource: &str, error: &kube::Error) -> Failure {
        match error {
            kube::Error::Api(status) => self.answer(verb, resource, status),
            kube::Error::SerdeError(error) => Failure {
                code: Code::ApiFailed,
                message: format!(
                    "the answer to `{verb} {resource}` cannot be read: the cluster may hold newer objects than this nightjar {} knows",
                    env!("CARGO_PKG_VERSION")
                ),
                causes: vec![error.to_string()],
                next: "nightjar check, and the nightjar that belongs to the operator's version"
                    .to_owned(),
            },
            kube::Error::Auth(_) => Failure {
                code: Code::ApiUnauthorized,
                message: format!("the kubeconfig gives no way to log in at {}", self.server),
                causes: causes(error),
                next: "kubectl get --raw /version, which logs in the same way".to_owned(),
            },
            _ => Failure {
                code: Code::ApiUnreachable,
                message: format!("the API server {} cannot be reached", self.server),
                causes: causes(error),
                next: "kubectl cluster-info".to_owned(),
            },
        }
    }

    fn answer(&self, verb: &'static str, resource: &str, status: &Status) -> Failure {
        let (namespace, flags) = (self.namespace, self.flags);
        let named = status
            .details
            .as_ref()
            .is_some_and(|details| !details.name.is_empty());
        let (code, message, next) = match status.code {
            401 => (
                Code::ApiUnauthorized,
                format!("the API server {} does not know who you are", self.server),
                "kubectl auth whoami".to_owned(),
            ),
            403 if !status.message.contains("forbidden: exceeded quota") => (
                Code::ApiForbidden,
                format!("you may not `{verb} {resource}` in namespace {namespace}"),
                format!("kubectl auth can-i {verb} {resource} -n {namespace}"),
            ),
            404 if resource == "relayclusters" && !named => (
                Code::NoCrd,
                "this cluster does not know RelayClusters: the operator's definitions are not installed".to_owned(),
                "helm install nightjar CHART, then nightjar check".to_owned(),
            ),
            404 => (
                Code::NoSuchFleet,
                format!("there is no such object in namespace {namespace}: `{verb} {resource}`"),
                format!("nightjar check{flags}"),
            ),
            504 => (
                Code::ApiTooLate,
                format!("the API server {} gave up on `{verb} {resource}`", self.server),
                "the same command again".to_owned(),
            ),
            400 | 409 | 422 => (
                Code::ChangeRefused,
                format!("the API server refuses `{verb} {resource}`"),
                "nightjar plan -f FILE".to_owned(),
            ),
            code => (
                Code::ApiFailed,
                format!("the API server {} answered `{verb} {resource}` with an error ({code})", self.server),
                "the same command again".to_owned(),
            ),
        };
        Failure {
            code,
            message,
            causes: said(status),
            next,
        }
    }
}

/// The server's own words: one for each field, where it names fields.
fn said(status: &Status) -> Vec<String> {
    let fields = status.details.iter().flat_map(|details| &details.causes);
    let fields: Vec<String> = fields
        .map(|cause| match cause.field.is_empty() {
            true => cause.message.clone(),
            false => format!("{}: {}", cause.field, cause.message),
        })
        .collect();
    match (fields.is_empty(), status.message.is_empty()) {
        (false, _) => fields,
        (true, false) => vec![status.message.trim().to_owned()],
        (true, true) => Vec::new(),
    }
}

/// The deepest reasons of an error of the connection, without what they repeat.
fn causes(error: &kube::Error) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    let mut below = error.source();
    while let Some(cause) = below {
        let text = cause.to_string();
        texts.retain(|known| !known.contains(&text) && !text.contains(known.as_str()));
        texts.push(text);
        below = cause.source();
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: u16, message: &str, details: Option<&str>) -> Failure {
        let place = Place {
            server: "https://198.18.0.1:6443",
            namespace: "messages",
            flags: " -n messages",
        };
        let status: Status = serde_json::from_value(serde_json::json!({
            "status": "Failure",
            "code": code,
            "message": message,
            "details": details.map(|name| serde_json::json!({"name": name, "kind": "relayclusters"})),
        }))
        .unwrap();
        place.failure("get", "relayclusters", &kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn answers_have_the_promised_exit_codes() {
        for (code, name, exit) in [
            (401, None, 4),
            (403, None, 4),
            (404, None, 8),
            (404, Some("eu"), 8),
            (409, Some("eu"), 2),
            (422, Some("eu"), 2),
            (429, None, 1),
            (500, None, 1),
            (504, None, 3),
        ] {
            assert_eq!(failure(code, "said", name).code.exit(), exit, "{code}");
        }
        assert_eq!(failure(404, "404 page not found", None).code, Code::NoCrd);
        assert_eq!(
            failure(404, "not found", Some("eu")).code,
            Code::NoSuchFleet
        );
    }

    #[test]
    fn a_refusal_names_what_may_not_be_done_and_how_to_ask() {
        let error: CliError = failure(403, "relayclusters is forbidden", None).into();
        let text = error.to_string();
        assert!(
            text.contains("you may not `get relayclusters` in namespace messages"),
            "{text}"
        );
        assert!(
            text.contains("kubectl auth can-i get relayclusters -n messages"),
            "{text}"
        );
    }
}
