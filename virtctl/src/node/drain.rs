//! What the answer to the eviction of a placement pod means. Pure.

use kubevmm_api::{EVICTION_BLOCKED, EVICTION_POSSIBLE};

use crate::error::{Error, one_line};

/// The API server's own cause, when a PodDisruptionBudget keeps a pod.
const BUDGET: &str = "DisruptionBudget";

/// Where a VM has got to.
#[derive(Debug)]
pub(crate) enum Step {
    /// Its pod is gone, or is about to go: nothing of it runs here.
    Left,
    /// It is on its way, or the answer will be another one soon: what is said of it.
    Leaving(String),
    /// Of a dry run: what would be done.
    Would(String),
    /// It stays until somebody changes something: why, and what.
    Stays(String),
    /// It makes no sense to ask again.
    Failed(Error),
}

/// What `answer`, that of the API server, means. `failure` gives other errors their words.
pub(crate) fn step<T>(answer: kube::Result<T>, failure: impl Fn(kube::Error) -> Error) -> Step {
    match answer {
        Ok(_) => Step::Left,
        Err(kube::Error::Api(status)) if status.code == 404 => match cause(&status) {
            Some(EVICTION_POSSIBLE) => Step::Would(one_line(said(&status.message))),
            _ => Step::Left,
        },
        Err(kube::Error::Api(status)) if status.code == 429 => {
            let words = one_line(said(&status.message));
            match cause(&status) {
                Some(EVICTION_BLOCKED) => Step::Stays(words),
                // It is asked only when the webhook has not answered.
                Some(BUDGET) => without_controller(&status.message),
                _ => Step::Leaving(words),
            }
        }
        // As the API server says when a pod has two budgets.
        Err(kube::Error::Api(status)) if status.code >= 500 => without_controller(&status.message),
        Err(error) => match failure(error) {
            error @ Error::Unreachable { .. } => Step::Leaving(error.to_string()),
            error => Step::Failed(error),
        },
    }
}

/// The cause that is known here.
fn cause(status: &kube::core::Status) -> Option<&'static str> {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let known = |reason: &str| [EVICTION_BLOCKED, EVICTION_POSSIBLE, BUDGET].into_iter().find(|one| *one == reason);
    causes.filter_map(|cause| known(&cause.reason)).next()
}

fn without_controller(message: &str) -> Step {
    Step::Leaving(format!("waits for the controller of KubeVMM to answer: {}", one_line(message)))
}

/// What the webhook says, without how the API server introduces it and what concerns kubectl.
fn said(message: &str) -> &str {
    let words = message.split_once("denied the request: ").map_or(message, |(_, words)| words);
    words.strip_suffix("; kubectl drain tries again until it has left").unwrap_or(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: &str) -> Step {
        let status: kube::core::Status = serde_json::from_str(status).unwrap();
        let api = kube::Error::Api(Box::new(status));
        step::<()>(Err(api), |error| Error::of_request(error, "https://cluster"))
    }

    #[test]
    fn what_an_answer_means() {
        assert!(matches!(step(Ok(()), |_| unreachable!()), Step::Left));
        assert!(matches!(of(r#"{"code": 404, "message": "pods \"web\" not found"}"#), Step::Left));
        let denied = "admission webhook \\\"vm.eviction.kubevmm.io\\\" denied the request: VirtualMachine shop/web";
        let leaving = "is being shut down to leave node h1; kubectl drain tries again until it has left";
        let Step::Leaving(words) = of(&format!(r#"{{"code": 429, "message": "{denied} {leaving}"}}"#)) else {
            panic!()
        };
        assert_eq!(words, "VirtualMachine shop/web is being shut down to leave node h1");
        let causes = r#""details": {"causes": [{"reason": "EvictionBlocked"}]}"#;
        let Step::Stays(words) = of(&format!(r#"{{"code": 429, "message": "{denied} stays", {causes}}}"#)) else {
            panic!()
        };
        assert_eq!(words, "VirtualMachine shop/web stays");
        let causes = r#""details": {"causes": [{"reason": "EvictionPossible"}]}"#;
        let possible = of(&format!(r#"{{"code": 404, "message": "{denied} would be shut down", {causes}}}"#));
        assert!(matches!(&possible, Step::Would(words) if words.ends_with("would be shut down")), "{possible:?}");
    }

    #[test]
    fn a_webhook_that_is_away_is_waited_for() {
        let kept =
            r#"{"code": 429, "message": "Cannot evict", "details": {"causes": [{"reason": "DisruptionBudget"}]}}"#;
        for (answer, why) in [(kept, "Cannot evict"), (r#"{"code": 500, "message": "two budgets"}"#, "two budgets")] {
            let Step::Leaving(words) = of(answer) else { panic!() };
            assert_eq!(words, format!("waits for the controller of KubeVMM to answer: {why}"));
        }
        let forbidden = of(r#"{"code": 403, "message": "pods \"web\" is forbidden"}"#);
        assert!(matches!(forbidden, Step::Failed(Error::Forbidden(_))), "{forbidden:?}");
    }
}
